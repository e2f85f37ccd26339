//! The scheduling policy of the calling thread (sched(7)).

use nix::errno::Errno;
use nix::libc::{self, c_int, c_long, pid_t};

/// The calling thread.
const THIS: pid_t = 0;

/// The policy, with `SCHED_RESET_ON_FORK` if that is set. By its number, as below: musl's function only fails,
/// because what the kernel answers is about a thread and what POSIX says about a process.
pub(crate) fn scheduling_policy() -> nix::Result<c_int> {
    // SAFETY: passes no memory.
    let policy: c_long = Errno::result(unsafe { libc::syscall(libc::SYS_sched_getscheduler, THIS) })?;
    c_int::try_from(policy).map_err(|_| Errno::EINVAL)
}

/// Gives the thread a policy that is not a real-time one, which are those that have a priority.
pub(crate) fn set_scheduling_policy(policy: c_int) -> nix::Result<()> {
    // All of `struct sched_param` that the kernel knows.
    let priority: c_int = 0;
    // SAFETY: the priority outlives the call, which only reads it. A policy says when a thread runs, never what it
    // does.
    let outcome = unsafe { libc::syscall(libc::SYS_sched_setscheduler, THIS, policy, &raw const priority) };
    Errno::result(outcome).map(drop)
}

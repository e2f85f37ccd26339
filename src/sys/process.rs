//! Processes: forking, reaping, ending.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::{ForkResult, Pid};

/// The two sides of a fork.
pub(crate) enum Fork {
    /// In the new process, where signals are blocked, except SIGCHLD: those that come at once would find the parent's
    /// handlers. With the parent's mask, for [`let_signals_come`](super::let_signals_come) once it has its own. It must
    /// leave by [`exit_now`].
    Child(SigSet),
    /// In the process that called, with the new process's id.
    Parent(Pid),
}

/// How many workers lie between the program's first process and this one, itself included.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Tells a worker, and what is forked from it, from its master. What the program forks by itself is of the same
/// generation: it may become a daemon. So is a child of `Forking`, which would have one more page copied to be told
/// from its parent.
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// This process has become a worker.
pub(crate) fn next_generation() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// fork(2).
///
/// The child may do all that a single-threaded process may. Whether the parent was single-threaded is
/// looked at when serving starts (a warning names the risk): CPython treats `os.fork` the same way.
pub(crate) fn fork() -> io::Result<Fork> {
    let mut held = SigSet::all();
    // The end of a child is for the thread that forks. Held back from it, that would interrupt another.
    held.remove(Signal::SIGCHLD);
    let mask = held.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    // SAFETY: the child goes on only in `Forking::process_request` or `PreFork::start_worker`, which run
    // handlers and leave by `_exit`; it never returns into code that holds the parent's locks. With other
    // threads alive a handler could meet a lock held at the moment of the fork: the allocator's are reset by libc
    // (pthread_atfork), the others are what the warning is about. Memory stays sound: a deadlock at worst.
    let forked = unsafe { nix::unistd::fork() };
    if !matches!(forked, Ok(ForkResult::Child)) {
        // It fails for no mask that there is.
        let _ = mask.thread_set_mask();
    }
    match forked? {
        ForkResult::Child => Ok(Fork::Child(mask)),
        ForkResult::Parent { child } => Ok(Fork::Parent(child)),
    }
}

/// waitpid(2), without waiting: how a child of this process has ended, which is gone then; `None` while it runs. nix
/// has no name for the end by a real-time signal, and would lose it.
pub(crate) fn reap(child: Pid) -> nix::Result<Option<ExitStatus>> {
    let mut status = 0;
    // SAFETY: the pointer is to a value that lives through the call.
    let ended = unsafe { libc::waitpid(child.as_raw(), &raw mut status, libc::WNOHANG) };
    Ok((Errno::result(ended)? != 0).then(|| ExitStatus::from_raw(status)))
}

/// `pidfd_open(2)`: a descriptor that becomes readable when the process has ended.
///
/// # Errors
///
/// `ENOSYS` before Linux 5.3; `ESRCH` where it has ended, and is reaped.
pub(crate) fn watch_process(process: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: the call takes two integers.
    let descriptor = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) })?;
    let descriptor = RawFd::try_from(descriptor).map_err(|_| Errno::EBADF)?;
    // SAFETY: it is new, so nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// _exit(2): ends the process without running destructors or exit handlers, which are the parent's.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no precondition.
    unsafe { libc::_exit(code) }
}

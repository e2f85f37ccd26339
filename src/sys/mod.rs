//! The only unsafe code of the crate: system calls without a safe wrapper, most of them because what makes
//! them sound is a promise of the caller, and the lock that a signal handler may try. Each says which.

#![allow(
    unsafe_code,
    reason = "fork, signal handlers, timers, shared memory and descriptor replacement have no safe form; they live here \
              only"
)]

mod filter;
mod policy;
mod receive;
mod rename;
mod send;
mod shared_memory;
mod tcp;
mod timer;
mod try_lock;

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};
use nix::unistd::{ForkResult, Pid};
use signal_hook::SigId;

use crate::error::invalid_input;
use crate::lifecycle::{Master, Wakeup};

pub(crate) use filter::{refuse_connections, refuse_datagrams};
pub(crate) use policy::{scheduling_policy, set_scheduling_policy};
pub(crate) use receive::{Received, Receiver};
pub(crate) use rename::rename_new;
pub(crate) use send::{MOST_SENT, Outgoing, send};
pub(crate) use shared_memory::SharedWords;
pub(crate) use tcp::{set_defer_accept, set_fast_open};
pub(crate) use timer::Timer;
pub(crate) use try_lock::TryLock;

/// The two sides of a fork.
pub(crate) enum Fork {
    /// In the new process, where signals are blocked, except SIGCHLD: those that come at once would find the parent's
    /// handlers. With the parent's mask, for [`let_signals_come`] once it has its own. It must leave by [`exit_now`].
    Child(SigSet),
    /// In the process that called, with the new process's id.
    Parent(Pid),
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

/// In a forked process that has its own handlers by now: lets signals come, as the parent's `mask` says, and SIGTERM
/// whatever it says: with that a parent ends it.
pub(crate) fn let_signals_come(mut mask: SigSet) {
    mask.remove(Signal::SIGTERM);
    // It fails for no mask that there is.
    let _ = mask.thread_set_mask();
}

/// waitpid(2), without waiting: how a child of this process has ended, which is gone then; `None` while it runs. nix has
/// no name for the end by a real-time signal, and would lose it.
pub(crate) fn reap(child: Pid) -> nix::Result<Option<ExitStatus>> {
    let mut status = 0;
    // SAFETY: the pointer is to a value that lives through the call.
    let ended = unsafe { libc::waitpid(child.as_raw(), &raw mut status, libc::WNOHANG) };
    Ok((Errno::result(ended)? != 0).then(|| ExitStatus::from_raw(status)))
}

/// _exit(2): ends the process without running destructors or exit handlers, which are the parent's.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no precondition.
    unsafe { libc::_exit(code) }
}

/// Puts the default action of the signal with this number back, which may be a real-time one. For a child after fork,
/// which has no use for the parent's handlers.
pub(crate) fn default_action(number: i32) {
    // SAFETY: the default action runs no code of ours, so nothing can be unsafe in a handler; a number that is none is
    // refused.
    let before = unsafe { libc::signal(number, libc::SIG_DFL) };
    if let Some(replaced) = replaced(number)
        && ![libc::SIG_DFL, libc::SIG_IGN, libc::SIG_ERR].contains(&before)
    {
        replaced.store(before, Ordering::Relaxed);
    }
}

/// The handlers in whose places [`default_action`] has put the default, by the number of the signal; 0: it has not.
static REPLACED: [AtomicUsize; 65] = [const { AtomicUsize::new(0) }; 65];

fn replaced(number: i32) -> Option<&'static AtomicUsize> {
    REPLACED.get(usize::try_from(number).ok()?)
}

/// Undoes [`default_action`], for a server in a child that listens to the signal: signal-hook makes a signal come once,
/// and does not know that it does not any more.
fn undo_default_action(number: i32) {
    let handler = replaced(number).map_or(0, |replaced| replaced.swap(0, Ordering::Relaxed));
    // SAFETY: all fields are integers or pointers, for which zero is a value: the default action.
    let mut now: libc::sigaction = unsafe { zeroed() };
    // SAFETY: the pointer is to a value that lives through the call, which changes nothing else.
    unsafe { libc::sigaction(number, ptr::null(), &raw mut now) };
    if handler == 0 || now.sa_sigaction != libc::SIG_DFL {
        return;
    }
    now.sa_sigaction = handler;
    now.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: this handler has been the signal's before; one that takes less than `SA_SIGINFO` gives leaves it.
    unsafe { libc::sigaction(number, &raw const now, ptr::null_mut()) };
}

/// The signal that makes a thread look what it has to do, which is stuck in a handler's read: the timer of
/// the drain deadline sends it, and a forking server to its children. Its default is to be ignored, so it
/// harms no program that a child has become; Go's runtime interrupts its threads with it for that reason.
pub(crate) const NUDGE: i32 = signal_hook::consts::SIGURG;

/// Lets this thread be sent the signal with this number, which may be a real-time one.
pub(crate) fn unblock(number: i32) {
    let mut set = *SigSet::empty().as_ref();
    // SAFETY: the pointer is to an initialised set; a number that is none is refused.
    unsafe { libc::sigaddset(&raw mut set, number) };
    // SAFETY: the pointer is to an initialised set, and the mask before is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) };
}

/// tgkill(2). The thread may have ended; then nothing happens, or a thread that has its number since is sent
/// the signal.
pub(crate) fn signal_thread(process: Pid, thread: Pid, signal: i32) {
    // SAFETY: three numbers; the kernel says no if there is no such thread.
    unsafe { libc::syscall(libc::SYS_tgkill, process.as_raw(), thread.as_raw(), signal) };
}

/// Sets whether calls on this socket wait, for all who have it (`FIONBIO`, ioctl(2)). Unlike fcntl(2) in one
/// system call, which leaves the other flags alone.
pub(crate) fn set_nonblocking(socket: BorrowedFd<'_>, nonblocking: bool) {
    let value = libc::c_int::from(nonblocking);
    // SAFETY: the descriptor is open (it is borrowed), and the kernel reads one int.
    unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONBIO, &raw const value) };
}

/// listen(2). nix refuses a queue that is longer than the C library says (`SOMAXCONN`: 4096, of musl 128), not the kernel.
pub(crate) fn listen(socket: BorrowedFd<'_>, connections: libc::c_int) -> nix::Result<()> {
    // SAFETY: two numbers; the descriptor is open (it is borrowed).
    Errno::result(unsafe { libc::listen(socket.as_raw_fd(), connections) }).map(drop)
}

/// Whether a socket was shut down for reading (`POLLRDHUP`, poll(2), which nix has no name for).
pub(crate) fn is_shut_down(socket: BorrowedFd<'_>) -> bool {
    let mut looked_at = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: the descriptor is open (it is borrowed), and the pointer is to one pollfd that lives through the call.
    unsafe { libc::poll(&raw mut looked_at, 1, 0) };
    looked_at.revents & libc::POLLRDHUP != 0
}

/// A registered signal action; dropped, it is taken back.
#[derive(Debug)]
pub(crate) struct SignalGuard {
    id: SigId,
    /// Which signal it listens to.
    pub(crate) signal: i32,
    /// What it does then.
    pub(crate) reaction: Reaction,
}

impl Drop for SignalGuard {
    fn drop(&mut self) {
        signal_hook::low_level::unregister(self.id);
    }
}

/// What is done in a signal handler: atomics and calls that signal-safety(7) lists.
#[derive(Clone, Debug)]
pub(crate) enum Reaction {
    /// [`Wakeup::shutdown_signal`], and whether at once.
    Shutdown(bool),
    /// [`Wakeup::note_signal`]: the rest is for the accept loop.
    Note,
    /// [`Wakeup::child_signal`].
    ChildExited,
    /// [`Wakeup::nudge`].
    Nudge,
    /// Adds one, and [`Wakeup::wake`].
    Count(Arc<AtomicU32>),
}

impl Reaction {
    /// Whether both are the same one of those that a program may ask for.
    pub(crate) fn is_same_action(&self, other: &Reaction) -> bool {
        match (self, other) {
            (Reaction::Shutdown(one), Reaction::Shutdown(other)) => one == other,
            (Reaction::Note, Reaction::Note) => true,
            _ => false,
        }
    }
}

/// Runs `reaction` at each `signal`, beside whatever else in this program listens to it, and lets this thread be sent
/// it.
pub(crate) fn on_signal(signal: i32, wakeup: Arc<Wakeup>, reaction: Reaction) -> io::Result<SignalGuard> {
    if signal_hook::consts::FORBIDDEN.contains(&signal) {
        return Err(invalid_input(format!(
            "signal {signal} cannot be caught: SIGKILL, SIGSTOP, SIGILL, SIGFPE and SIGSEGV are the kernel's"
        )));
    }
    let in_handler = reaction.clone();
    let handler = move || {
        let errno = Errno::last_raw();
        match &in_handler {
            Reaction::Shutdown(at_once) => wakeup.shutdown_signal(signal, *at_once),
            Reaction::Note => wakeup.note_signal(signal),
            Reaction::ChildExited => wakeup.child_signal(),
            Reaction::Nudge => wakeup.nudge(),
            Reaction::Count(count) => {
                count.fetch_add(1, Ordering::SeqCst);
                wakeup.wake();
            }
        }
        Errno::set_raw(errno);
    };
    // SAFETY: the handler is async-signal-safe (signal-safety(7)): the methods are atomics, write(2), poll(2),
    // shutdown(2), ioctl(2), tgkill(2), clock_gettime(2), timer_settime(2) and _exit(2), without a lock that is waited
    // for, an allocation or a panic, and errno is as the interrupted code left it.
    let id = unsafe { signal_hook::low_level::register(signal, handler) }
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen to signal {signal}: {error}")))?;
    undo_default_action(signal);
    // Whoever started the program may have had it blocked (sigprocmask(2)), and it would never come.
    unblock(signal);
    Ok(SignalGuard { id, signal, reaction })
}

/// What SIGTERM says to this process if it is a worker: set once and never freed.
static TOLD: AtomicPtr<(Arc<Wakeup>, Arc<Master>)> = AtomicPtr::new(ptr::null_mut());

/// In a worker: from now on SIGTERM is [`Master::told`], and nothing else that the program had to do then.
///
/// Not through signal-hook: what other threads of the master were at in there when this process was forked
/// would be waited for, for ever.
pub(crate) fn on_sigterm_in_worker(wakeup: Arc<Wakeup>, master: Arc<Master>) -> io::Result<()> {
    extern "C" fn handler(_: libc::c_int) {
        // SAFETY: the pointer comes from `Box::into_raw` below, and nothing ever frees or changes it.
        let Some((wakeup, master)) = (unsafe { TOLD.load(Ordering::SeqCst).as_ref() }) else {
            return;
        };
        let errno = Errno::last_raw();
        master.told(wakeup);
        Errno::set_raw(errno);
    }
    TOLD.store(Box::into_raw(Box::new((wakeup, master))), Ordering::SeqCst);
    let action = SigAction::new(SigHandler::Handler(handler), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler is async-signal-safe: all it does is atomics, getppid(2), _exit(2) and the methods of
    // `Wakeup` that `on_signal` calls, and errno is as the interrupted code left it.
    unsafe { sigaction(Signal::SIGTERM, &action) }?;
    Ok(())
}

/// Makes the number of `fd` refer to what `with` refers to (dup3(2)), which closes what it referred to.
///
/// That closes a listener without giving its number away: a thread that is just entering accept(2)
/// finds the other object, never a descriptor that somebody else has opened since. And it gives a forked
/// process an event descriptor or an epoll set of its own in the place of its parent's.
pub(crate) fn replace(fd: BorrowedFd<'_>, with: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open (they are borrowed), and the number of `fd` stays open and
    // owned by whoever owns it. Its owner is a socket type of this crate's transports, for which a
    // call on the other object is an error (ENOTSOCK), not undefined behaviour; or it owns an object of
    // the same type as the other.
    let outcome = unsafe { libc::dup3(with.as_raw_fd(), fd.as_raw_fd(), libc::O_CLOEXEC) };
    Errno::result(outcome)?;
    Ok(())
}

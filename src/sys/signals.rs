//! Signals: what is done in their handlers, and who is sent them.

use std::io;
use std::mem::{transmute, zeroed};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use nix::unistd::Pid;
use signal_hook::SigId;

use crate::error::invalid_input;
use crate::lifecycle::{Master, Wakeup};

/// The signal that makes a thread look what it has to do, which is stuck in a handler's read: the timer of
/// the drain deadline sends it, and a forking server to its children. Its default is to be ignored, so it
/// harms no program that a child has become; Go's runtime interrupts its threads with it for that reason.
pub(crate) const NUDGE: Signal = Signal::SIGURG;

/// In a forked process that has its own handlers by now: lets signals come, as the parent's `mask` says, and SIGTERM
/// whatever it says: with that a parent ends it.
pub(crate) fn let_signals_come(mut mask: SigSet) {
    mask.remove(Signal::SIGTERM);
    // It fails for no mask that there is.
    let _ = mask.thread_set_mask();
}

/// Puts the default action of the signal with this number back, which may be a real-time one. For a child after fork,
/// which has no use for the parent's handlers.
pub(crate) fn default_action(number: i32) {
    // SAFETY: the default action runs no code of ours, so nothing can be unsafe in a handler; a number that is none is
    // refused.
    unsafe { libc::signal(number, libc::SIG_DFL) };
}

/// Does what a signal handler does, which must leave errno as the interrupted code had it.
pub(crate) fn keep_errno(work: impl FnOnce()) {
    let errno = Errno::last_raw();
    work();
    Errno::set_raw(errno);
}

/// Lets this thread be sent the signal with this number, which may be a real-time one.
pub(crate) fn unblock(number: i32) {
    change_mask(libc::SIG_UNBLOCK, number);
}

fn change_mask(how: i32, number: i32) {
    let mut set = *SigSet::empty().as_ref();
    // SAFETY: the pointer is to an initialised set; a number that is none is refused.
    unsafe { libc::sigaddset(&raw mut set, number) };
    // SAFETY: the pointer is to an initialised set, and the mask before is not asked for.
    unsafe { libc::pthread_sigmask(how, &raw const set, ptr::null_mut()) };
}

/// tgkill(2). The thread may have ended; then nothing happens, or a thread that has its number since is sent
/// the signal.
pub(crate) fn signal_thread(process: Pid, thread: Pid, signal: Signal) {
    // SAFETY: three numbers; the kernel says no if there is no such thread.
    unsafe { libc::syscall(libc::SYS_tgkill, process.as_raw(), thread.as_raw(), signal as i32) };
}

/// signal-hook's own handler, the same one for all signals. A child has it from its parent: it writes to no page for
/// it.
static DISPATCHER: AtomicUsize = AtomicUsize::new(0);

/// What is done at this signal; the default for a number that is none.
fn action_of(number: i32) -> libc::sigaction {
    // SAFETY: all fields are integers or pointers, for which zero is a value: the default action.
    let mut now: libc::sigaction = unsafe { zeroed() };
    // SAFETY: the pointer is to a value that lives through the call, which changes nothing else.
    unsafe { libc::sigaction(number, ptr::null(), &raw mut now) };
    now
}

/// Sees to it that signal-hook, which was just asked to listen to a signal, hears of it; until then `before` was done
/// at that signal. signal-hook sets its handler once for a signal, and does not know whether that is still there. It is
/// put back where the default is there instead, or the signal is ignored: a forked child has done that
/// ([`default_action`]), or the program. In a worker the handler of SIGTERM stays ([`on_sigterm_in_worker`]), and from
/// now on calls that of signal-hook.
fn keep_handler(number: i32, before: &libc::sigaction) {
    let mut now = action_of(number);
    let dispatcher = DISPATCHER.load(Ordering::Relaxed);
    if now.sa_sigaction != before.sa_sigaction {
        DISPATCHER.store(now.sa_sigaction, Ordering::Relaxed);
    } else if [libc::SIG_DFL, libc::SIG_IGN].contains(&now.sa_sigaction) && dispatcher != libc::SIG_DFL {
        now.sa_sigaction = dispatcher;
        now.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        // SAFETY: signal-hook has had it as a handler before, with these flags, for this signal, too.
        unsafe { libc::sigaction(number, &raw const now, ptr::null_mut()) };
    } else if now.sa_sigaction == tell_worker as *const () as usize {
        SERVER_LISTENS_TOO.store(true, Ordering::SeqCst);
    }
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

/// What is done in a signal handler: atomics, calls that signal-safety(7) lists, and ioctl(2) and tgkill(2), which are
/// nothing but system calls.
#[derive(Clone, Debug)]
pub(crate) enum Reaction {
    /// [`Wakeup::shutdown_signal`].
    Shutdown { at_once: bool },
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
    /// In the handler of `signal`.
    fn run(&self, signal: i32, wakeup: &Wakeup) {
        match self {
            Reaction::Shutdown { at_once } => wakeup.shutdown_signal(signal, *at_once),
            Reaction::Note => wakeup.note_signal(signal),
            Reaction::ChildExited => wakeup.child_signal(),
            Reaction::Nudge => wakeup.nudge(),
            Reaction::Count(count) => {
                count.fetch_add(1, Ordering::SeqCst);
                wakeup.wake();
            }
        }
    }

    /// Whether both are the same one of those that a program may ask for.
    pub(crate) fn is_same_action(&self, other: &Reaction) -> bool {
        match (self, other) {
            (Reaction::Shutdown { at_once: one }, Reaction::Shutdown { at_once: other }) => one == other,
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
    if signal == NUDGE as i32 && !matches!(reaction, Reaction::Nudge) {
        return Err(invalid_input(format!(
            "signal {signal} (SIGURG) is what servers send their own threads to have them look around, which would look as \
             if it were meant for you: choose another"
        )));
    }
    let in_handler = reaction.clone();
    let handler = move || keep_errno(|| in_handler.run(signal, &wakeup));
    // This thread is not sent one before signal-hook knows what to do then: it would be lost.
    change_mask(libc::SIG_BLOCK, signal);
    let before = action_of(signal);
    // SAFETY: the handler is async-signal-safe (signal-safety(7)): the methods are atomics, write(2), poll(2),
    // select(2), getpid(2), shutdown(2), ioctl(2), tgkill(2), clock_gettime(2), timer_settime(2) and _exit(2), without
    // a lock that is waited for, an allocation or a panic, and errno is as the interrupted code left it.
    let registered = unsafe { signal_hook::low_level::register(signal, handler) };
    if registered.is_ok() {
        keep_handler(signal, &before);
    }
    // Whoever started the program may have had it blocked (sigprocmask(2)), too, and it would never come.
    unblock(signal);
    let id = registered
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen to signal {signal}: {error}")))?;
    Ok(SignalGuard { id, signal, reaction })
}

/// To whom SIGTERM goes if this process is a worker: set once and never freed.
static WORKER: AtomicPtr<(Arc<Wakeup>, Arc<Master>)> = AtomicPtr::new(ptr::null_mut());

/// A server that a handler has started in this worker listens to SIGTERM, too.
static SERVER_LISTENS_TOO: AtomicBool = AtomicBool::new(false);

/// In a worker: from now on SIGTERM is [`Master::obey`], and nothing else that the program had to do then, until a
/// server that a handler starts listens to it.
///
/// Not through signal-hook: what other threads of the master were at in there when this process was forked
/// would be waited for, for ever.
pub(crate) fn on_sigterm_in_worker(wakeup: Arc<Wakeup>, master: Arc<Master>) -> io::Result<()> {
    WORKER.store(Box::into_raw(Box::new((wakeup, master))), Ordering::SeqCst);
    // If this worker's master is one in a worker itself.
    SERVER_LISTENS_TOO.store(false, Ordering::SeqCst);
    let action = SigAction::new(SigHandler::SigAction(tell_worker), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler is async-signal-safe: all it does is atomics, getpid(2), getppid(2), _exit(2), signal(2),
    // raise(3), the methods of `Wakeup` that `on_signal` calls, and signal-hook's handler, which is one; and errno is
    // as the interrupted code left it.
    unsafe { sigaction(Signal::SIGTERM, &action) }?;
    Ok(())
}

/// The handler of SIGTERM in a worker.
extern "C" fn tell_worker(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the pointer comes from `Box::into_raw` in `on_sigterm_in_worker`, and nothing ever frees or changes it.
    let Some((wakeup, master)) = (unsafe { WORKER.load(Ordering::SeqCst).as_ref() }) else {
        return;
    };
    keep_errno(|| {
        if master.is_worker() {
            master.obey(wakeup);
            // Not while it runs already: in a worker of a worker, what it calls first may be this handler, which was
            // there before.
            if SERVER_LISTENS_TOO.swap(false, Ordering::SeqCst) {
                dispatch(signal, info, context);
                SERVER_LISTENS_TOO.store(true, Ordering::SeqCst);
            }
        } else {
            // What a handler has forked is none of the master's business, and ends as a program without a handler does.
            default_action(libc::SIGTERM);
            let _ = raise(Signal::SIGTERM);
        }
    });
}

/// As if signal-hook had been sent a signal, with what the kernel has told its handler of it.
fn dispatch(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
    let dispatcher = DISPATCHER.load(Ordering::Relaxed);
    if dispatcher != libc::SIG_DFL {
        // SAFETY: a function pointer has the size of its address, and this one has been the handler of a signal with
        // SA_SIGINFO: it has these arguments.
        let dispatcher = unsafe { transmute::<*const (), Handler>(dispatcher as *const ()) };
        dispatcher(signal, info, context);
    }
}

//! Signals that do nothing but interrupt: to one thread, and without `SA_RESTART`, so that a blocked call
//! comes back with EINTR.

#![allow(unsafe_code, reason = "signal handlers and signals to one thread have no safe form")]

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::Pid;
use signal_hook::SigId;

use super::wait_until;

static CAUGHT: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_signal: libc::c_int) {
    CAUGHT.fetch_add(1, Ordering::SeqCst);
}

/// While it lives, SIGUSR1 interrupts and is counted.
pub struct Interrupts {
    before: SigAction,
}

impl Interrupts {
    pub fn new() -> Self {
        let action = SigAction::new(SigHandler::Handler(count), SaFlags::empty(), SigSet::empty());
        CAUGHT.store(0, Ordering::SeqCst);
        // SAFETY: the handler adds to an atomic, which is async-signal-safe.
        let before = unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
        Interrupts { before }
    }

    /// How many signals were caught.
    pub fn caught() -> usize {
        CAUGHT.load(Ordering::SeqCst)
    }

    /// Interrupts a thread of this process once, and waits until its handler has run.
    #[expect(clippy::unused_self, reason = "without the handler the signal ends the process")]
    #[track_caller]
    pub fn interrupt(&self, thread: Pid) {
        let before = Self::caught();
        // SAFETY: tgkill(2) has no precondition; a thread that is gone is an error.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, Pid::this().as_raw(), thread.as_raw(), libc::SIGUSR1) };
        Errno::result(sent).unwrap();
        wait_until("the signal is caught", || Self::caught() > before);
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        // SAFETY: it puts back the action that was there before.
        let _ = unsafe { sigaction(Signal::SIGUSR1, &self.before) };
    }
}

/// Waits until a thread of this process sleeps in a system call.
#[track_caller]
pub fn wait_until_asleep(thread: Pid) {
    wait_until("the thread sleeps", || is_asleep(thread));
}

/// Whether a thread of this process sleeps in a system call.
pub fn is_asleep(thread: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    after_name.trim_start().starts_with('S')
}

/// An action that runs in a raw signal handler, until it is dropped.
pub struct OnSignal(SigId);

impl OnSignal {
    /// `action` must be async-signal-safe (signal-safety(7)): the tests pass `ShutdownHandle::shutdown`.
    pub fn new(signal: Signal, action: impl Fn() + Send + Sync + 'static) -> Self {
        // SAFETY: the promise above, made by the caller.
        let id = unsafe { signal_hook::low_level::register(signal as i32, action) };
        OnSignal(id.unwrap())
    }
}

impl Drop for OnSignal {
    fn drop(&mut self) {
        signal_hook::low_level::unregister(self.0);
    }
}

/// From now on SIGTERM does nothing to this process; for handlers in forked children.
pub fn ignore_sigterm() {
    ignore(Signal::SIGTERM);
}

/// From now on the signal does nothing to this process.
pub fn ignore(signal: Signal) {
    // SAFETY: no code of ours runs in a handler.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }.unwrap();
}

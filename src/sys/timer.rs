//! Timers that send a signal (`timer_create(2)`).

use std::io;
use std::mem::zeroed;
use std::ptr::null_mut;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;

/// Sends a signal to this process after a time. Not inherited by a forked child.
#[derive(Debug)]
pub(crate) struct Timer(libc::timer_t);

// SAFETY: the identifier is a number that the kernel gave, whatever its type, and the functions that take
// it may be called from any thread.
unsafe impl Send for Timer {}
// SAFETY: as above.
unsafe impl Sync for Timer {}

impl Timer {
    /// A timer that is not set yet.
    pub(crate) fn new(signal: Signal) -> io::Result<Self> {
        // SAFETY: all fields are integers or pointers, for which zero is a value.
        let mut event: libc::sigevent = unsafe { zeroed() };
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = signal as i32;
        let mut id = null_mut();
        // SAFETY: both pointers are to values that live through the call.
        let outcome = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut id) };
        Errno::result(outcome)?;
        Ok(Timer(id))
    }

    /// Sends the signal once, after `delay`, instead of when it was set to before. May be called from a
    /// signal handler: `timer_settime` is in the list of signal-safety(7).
    pub(crate) fn set(&self, delay: Duration) {
        // Zero would unset it.
        self.arm(delay.max(Duration::from_nanos(1)));
    }

    /// Sends no signal any more.
    pub(crate) fn unset(&self) {
        self.arm(Duration::ZERO);
    }

    fn arm(&self, delay: Duration) {
        let time = |time: Duration| libc::timespec {
            // 68 years, if there are more seconds than the system has numbers for.
            tv_sec: time.as_secs().try_into().unwrap_or(i32::MAX.into()),
            tv_nsec: time.subsec_nanos().cast_signed().into(),
        };
        let setting = libc::itimerspec {
            it_interval: time(Duration::ZERO),
            it_value: time(delay),
        };
        // SAFETY: the timer exists until it is dropped, and the pointer is to a value that lives through
        // the call. It cannot fail for a valid time.
        unsafe { libc::timer_settime(self.0, 0, &raw const setting, null_mut()) };
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the timer exists, and nobody has its identifier any more.
        unsafe { libc::timer_delete(self.0) };
    }
}

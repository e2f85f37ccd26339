//! Signals, and the ends of children, of which a signal tells.

use std::sync::atomic::{Ordering, fence};

use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::Wakeup;
use crate::sys;

impl Wakeup {
    /// A shutdown signal arrived: the first drains, a second, or `at_once` any, stops at once.
    pub(crate) fn shutdown_signal(&self, signal: i32, at_once: bool) {
        if self.is_deaf() {
            return;
        }
        if [SIGHUP, SIGINT, SIGQUIT, SIGTERM].contains(&signal) {
            self.asked_to_exit.store(true, Ordering::SeqCst);
        }
        if self.shutdown_signals.fetch_add(1, Ordering::SeqCst) > 0 || at_once {
            self.force();
        }
        self.shutdown();
    }

    /// A signal arrived that the accept loop has to do something about, or the drain.
    pub(crate) fn note_signal(&self, signal: i32) {
        if !self.is_deaf() {
            self.signals.fetch_or(Self::signal_bit(signal), Ordering::SeqCst);
            self.tell_of_signals();
        }
    }

    /// Has the accept loop, or the drain, look for signals.
    pub(crate) fn tell_of_signals(&self) {
        self.wake();
        self.wake_drain();
    }

    /// This process serves: not earlier, because a program may become a daemon after it has bound.
    pub(crate) fn serves_here(&self) {
        self.generation.store(sys::generation(), Ordering::Relaxed);
        self.process.store(Pid::this().as_raw(), Ordering::Relaxed);
        // See `shutdown_from_anywhere`.
        fence(Ordering::SeqCst);
    }

    /// Whether signals are another process's matter: what the server, a handler or another server of the program has
    /// forked has these handlers, too, and shares the descriptors.
    pub(super) fn is_deaf(&self) -> bool {
        let process = self.process.load(Ordering::Relaxed);
        // Where none serves yet, any process may become the one that does, as a daemon may, but no worker: that shows
        // by its generation.
        self.generation.load(Ordering::Relaxed) != sys::generation()
            || (process != 0 && process != Pid::this().as_raw())
    }

    /// Signals are numbered from 1 to 64 (signal(7)).
    pub(crate) fn signal_bit(signal: i32) -> u64 {
        1_u64.rotate_left(signal.unsigned_abs())
    }

    pub(crate) fn has_signals(&self) -> bool {
        self.signals.load(Ordering::Relaxed) != 0
    }

    /// The bits of the signals noted since the last call.
    pub(crate) fn take_signals(&self) -> u64 {
        self.signals.swap(0, Ordering::SeqCst)
    }

    /// SIGCHLD arrived.
    pub(crate) fn child_signal(&self) {
        self.child_exited.store(true, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            if self.draining.load(Ordering::SeqCst) {
                self.wake_drain();
            } else {
                self.wake();
            }
        }
    }

    /// Whether a child has ended since the last call.
    pub(crate) fn take_child_exited(&self) -> bool {
        self.child_exited.swap(false, Ordering::SeqCst)
    }

    /// Until the guard is dropped, a child's end makes whoever waits look again.
    pub(crate) fn about_to_wait(&self) -> AboutToWait<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        AboutToWait(self)
    }
}

/// See [`Wakeup::about_to_wait`].
#[must_use]
pub(crate) struct AboutToWait<'a>(&'a Wakeup);

impl Drop for AboutToWait<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use signal_hook::consts::SIGUSR1;

    use super::*;
    use crate::poll::readable;

    #[test]
    fn the_loop_and_the_drain_hear_of_a_signal() {
        let wakeup = Wakeup::new().unwrap();
        wakeup.note_signal(SIGUSR1);
        let heard = [&wakeup.wake, &wakeup.ended].map(|event| readable(event.as_fd()));
        assert_eq!(heard, [true; 2]);
        assert_eq!(wakeup.take_signals(), Wakeup::signal_bit(SIGUSR1));
    }
}

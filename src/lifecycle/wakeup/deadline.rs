//! The deadline of a drain, and what then cannot wait for the loop.

use std::io;
use std::os::fd::AsFd;
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use super::Wakeup;
use crate::lifecycle::drain::GRACE;
use crate::poll::writable;
use crate::sys::{self, Timer};

/// How a loop that is busy in a handler keeps the deadline: a timer sends [`sys::NUDGE`].
#[derive(Debug)]
pub(super) struct Deadline {
    timer: Timer,
    timeout: Option<Duration>,
    /// The process whose timer it is.
    process: u32,
}

impl Wakeup {
    /// Keeps the deadline, `timeout` after the server was told to stop, even if its loop is busy then.
    pub(crate) fn keep_deadline(&self, timeout: Option<Duration>) -> io::Result<()> {
        let deadline = Deadline {
            timer: Timer::new(sys::NUDGE)?,
            timeout,
            process: process::id(),
        };
        // The first place is a parent's where that has had one.
        if let Err(deadline) = self.deadlines[0].set(deadline) {
            let _ = self.deadlines[1].set(deadline);
        }
        // Whoever tells the server to stop meanwhile sees the timer, or is seen here.
        fence(Ordering::SeqCst);
        if self.is_told_to_stop() {
            self.start_timer();
        }
        Ok(())
    }

    /// That of this process: the parent's timer is not the child's (`timer_create(2)`).
    fn deadline(&self) -> Option<&Deadline> {
        let this = process::id();
        let mut made = self.deadlines.iter().filter_map(OnceLock::get);
        made.find(|deadline| deadline.process == this)
    }

    pub(super) fn start_timer(&self) {
        // After the server was told: see `keep_deadline`.
        fence(Ordering::SeqCst);
        if let Some(deadline) = self.deadline()
            && let Some(timeout) = deadline.timeout
        {
            deadline.timer.set(timeout.saturating_sub(self.stopped_at().elapsed()));
        }
    }

    /// Whether the time to drain is over.
    fn is_deadline_over(&self) -> bool {
        let timeout = self.deadline().and_then(|deadline| deadline.timeout);
        timeout.is_some_and(|timeout| self.stopped.is_past(timeout))
    }

    /// The server is closed: no timer has anything to say any more.
    pub(crate) fn closed(&self) {
        if let Some(deadline) = self.deadline() {
            deadline.timer.unset();
        }
        self.close_sleepers();
    }

    /// From now on the process may be ended as the last resort; see [`nudge`](Self::nudge).
    pub(crate) fn may_exit(&self) {
        self.may_exit.store(true, Ordering::SeqCst);
    }

    /// [`sys::NUDGE`] arrived, from the timer, from a forked process or, in a forked child, from the parent:
    /// perhaps the server was told to stop, perhaps a deadline is over. Anybody may send it: it only says "look".
    pub(crate) fn nudge(&self) {
        self.hear_of_stop();
        if !self.is_stopping() {
            return;
        }
        if self.in_child.load(Ordering::Relaxed) {
            self.attend_inline();
        } else if self.forced.is_past(GRACE) {
            self.exit_if_stuck();
        } else if self.is_deadline_over() {
            // Once only: it nudges those that sleep, and they would nudge one another without end.
            if self.is_forced() {
                self.attend_inline();
            } else {
                self.force();
            }
        }
    }

    /// Ends the patience of a drain. A loop that is busy in a handler cannot hear of it: its socket is
    /// shut down from here, so that the handler's reads and writes end.
    pub(crate) fn force(&self) {
        if let (true, Some(deadline)) = (self.forced.set(), self.deadline()) {
            deadline.timer.set(GRACE);
        }
        self.attend_inline();
        self.wake();
        self.wake_drain();
    }

    /// A handler that does not even end with its socket keeps `serve_forever` from ever returning. If a
    /// signal has asked for the end of the process, nothing else is left.
    fn exit_if_stuck(&self) {
        if !self.may_exit.load(Ordering::SeqCst) || !self.asked_to_exit.load(Ordering::SeqCst) {
            return;
        }
        let busy = self.inline.is_busy();
        if let (None, Some(deadline)) = (busy, self.deadline()) {
            // Somebody is just looking, or the request is just ending.
            deadline.timer.set(Duration::from_millis(10));
        }
        if busy == Some(true) {
            let text = "socketserver: a request did not end although its socket was shut down; exiting\n";
            // Nobody may read what is written there, and then this would never end.
            if writable(io::stderr().as_fd()) {
                let _ = nix::unistd::write(io::stderr(), text.as_bytes());
            }
            sys::exit_now(1);
        }
    }

    pub(crate) fn is_forced(&self) -> bool {
        self.forced.is_set()
    }
}

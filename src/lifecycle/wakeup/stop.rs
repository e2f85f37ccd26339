//! Being told to stop, from a thread, a signal handler or another process.

use std::os::fd::AsFd;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::Wakeup;
use crate::poll::readable;
use crate::sys;

impl Wakeup {
    /// Asks the server to stop. Again is the same as once.
    pub(crate) fn shutdown(&self) {
        self.say_stop();
        self.tell_threads();
    }

    /// As [`shutdown`](Self::shutdown), in whatever process. In one that another server has forked nothing is known of
    /// the threads that serve, which may sleep in accept(2) or be busy in a handler: a signal has them look at `stop`.
    pub(crate) fn shutdown_from_anywhere(&self) {
        self.say_stop();
        // This process may begin to serve meanwhile (daemon(3)): it sees that, or is seen here.
        fence(Ordering::SeqCst);
        let serves = match self.process.load(Ordering::Relaxed) {
            0 => self.maker,
            process => Pid::from_raw(process),
        };
        let is_here = serves == Pid::this();
        // The request of a child is served here, too.
        if is_here || self.in_child() {
            self.tell_threads();
        }
        if !is_here {
            let _ = kill(serves, sys::NUDGE);
        }
    }

    /// Says so to all who look, in whatever process.
    fn say_stop(&self) {
        self.stop_seen();
        // It fails only when it is already readable (EAGAIN).
        let _ = self.stop.write(1);
    }

    /// Has the threads see that sleep in accept(2), or serve a request themselves.
    fn tell_threads(&self) {
        self.wake_sleepers();
        self.attend_inline();
    }

    /// In the handler of [`sys::NUDGE`]: another process may have [told](Self::shutdown_from_anywhere) the server to
    /// stop.
    pub(super) fn hear_of_stop(&self) {
        if !self.is_told_to_stop() && !self.in_child() && !self.is_deaf() && readable(self.stop.as_fd()) {
            self.shutdown();
        }
    }

    /// The server was told to stop; a loop that saw `stop` readable was perhaps told by a child, whose
    /// flags are not ours. The first time, the deadline begins.
    pub(crate) fn stop_seen(&self) {
        if self.stopped.set() {
            self.start_timer();
        }
    }

    /// When the server was told to stop; now, if it was not.
    pub(crate) fn stopped_at(&self) -> Instant {
        self.stopped.get().unwrap_or_else(Instant::now)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        if self.is_told_to_stop() {
            return true;
        }
        // A child has the flags as they were at its fork, but shares the descriptor.
        let stopping = self.in_child.load(Ordering::Relaxed) && readable(self.stop.as_fd());
        if stopping {
            self.stop_seen();
        }
        stopping
    }

    /// As [`is_stopping`](Self::is_stopping), without a system call: a forked child may not know yet.
    pub(crate) fn is_told_to_stop(&self) -> bool {
        self.stopped.is_set()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use nix::fcntl::{FcntlArg::F_GETFL, OFlag, fcntl};

    use super::*;

    // As in a daemon, where the server was made in another process.
    #[test]
    fn a_process_that_begins_to_serve_sees_that_it_was_told_to_stop_or_is_told() {
        // Greater than any process's (proc(5), pid_max).
        let nobody = Pid::from_raw(i32::MAX);
        for _ in 0..2000 {
            let wakeup = Wakeup {
                maker: nobody,
                ..Wakeup::new().unwrap()
            };
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            wakeup.let_sleep(listener.as_fd(), 1).unwrap();
            let together = AtomicUsize::new(0);
            let begin = || {
                together.fetch_add(1, Ordering::SeqCst);
                while together.load(Ordering::SeqCst) < 2 {
                    thread::yield_now();
                }
            };
            let sees_it = thread::scope(|scope| {
                scope.spawn(|| {
                    begin();
                    wakeup.shutdown_from_anywhere();
                });
                begin();
                wakeup.serves_here();
                wakeup.is_told_to_stop()
            });
            // One that sleeps in accept(2) comes out.
            let is_told = || fcntl(&listener, F_GETFL).unwrap() & OFlag::O_NONBLOCK.bits() != 0;
            assert!(sees_it || is_told());
        }
    }
}

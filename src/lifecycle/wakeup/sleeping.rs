//! The threads that wait in the system call which takes a request, and look at no descriptor of these.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{Ordering, fence};

use super::Wakeup;
use crate::lifecycle::sleepers::Sleepers;

impl Wakeup {
    /// From now on at most so many threads may wait for requests in the system call that takes them; `None` if
    /// that was said before.
    pub(crate) fn let_sleep(&self, socket: BorrowedFd<'_>, threads: usize) -> io::Result<Option<&Sleepers>> {
        let new = self.sleepers.set(Sleepers::new(socket, threads)?).is_ok();
        // Whoever has news meanwhile sees the sleepers, or the caller, who looks then, the news.
        fence(Ordering::SeqCst);
        Ok(self.sleepers().filter(|_| new))
    }

    pub(crate) fn sleepers(&self) -> Option<&Sleepers> {
        self.sleepers.get()
    }

    /// To be called once everybody can see that nobody is to accept. From then on calls that accept do not wait, and
    /// when it returns, the threads that were in one are out. (Whoever has said that nobody is to accept may not have
    /// got to this itself yet.) It gives up when that is not so any more: a thread that came out may sleep again then.
    pub(crate) fn bring_sleepers_out(&self, nobody_is_to: impl Fn() -> bool) {
        if let Some(sleepers) = self.sleepers() {
            sleepers.wake_up();
            sleepers.wait_until_out(nobody_is_to);
        }
    }

    /// The listening socket is closed, and nobody has anything to say to it any more.
    pub(crate) fn close_sleepers(&self) {
        if let Some(sleepers) = self.sleepers() {
            sleepers.close(self.stop.as_fd());
        }
    }

    pub(super) fn wake_sleepers(&self) {
        // Between the news and the look: see `let_sleep`.
        fence(Ordering::SeqCst);
        if let Some(sleepers) = self.sleepers() {
            sleepers.wake_up();
            if self.is_forced() && self.is_told_to_stop() {
                sleepers.force();
            }
        }
    }
}

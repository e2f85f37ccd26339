//! Not accepting for a while, and who is just about to.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Shared;
use super::board::Board;
use crate::observer::Event;

/// How long whoever suspends waits for those that are just accepting.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

thread_local! {
    /// How many accepting calls this thread is in.
    static ACCEPTING: Cell<u64> = const { Cell::new(0) };
}

impl Shared {
    /// Whether accepting is suspended, in a worker by its master.
    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::SeqCst) || self.master().is_some_and(|master| master.is_suspended())
    }

    /// The accept loop shall not accept. Returns when nobody does any more.
    pub(super) fn suspend(&self) {
        if self.in_child() {
            return;
        }
        self.suspended.store(true, Ordering::SeqCst);
        self.tell_suspension();
        // Whoever suspends what another is just suspending waits as that one does.
        if let Ok(wakeup) = self.wakeup() {
            wakeup.bring_sleepers_out(|| self.suspended.load(Ordering::SeqCst));
            self.wait_until_nobody_accepts();
        }
        self.observe_suspension();
    }

    /// The accept loop shall accept again.
    pub(super) fn resume(&self) {
        if !self.in_child() && self.suspended.swap(false, Ordering::SeqCst) {
            self.tell_suspension();
            self.observe_suspension();
        }
    }

    /// Tells the observers what is so, if it is not what they were told last: another may have resumed what this thread
    /// has been suspending. One thread tells at a time, and then what has changed meanwhile, so the last that they hear
    /// is true.
    fn observe_suspension(&self) {
        // Not locked while they are told: they may ask for the stats.
        let begin = || self.registry.lock().begin_telling(&self.suspended);
        while let Some(suspended) = begin() {
            self.observe(|| if suspended { Event::Suspended } else { Event::Resumed });
            self.registry.lock().telling_suspension = false;
        }
    }

    /// Has all who accept look whether they are to.
    fn tell_suspension(&self) {
        // Workers keep to it from now on, although the master has to wake them to see to their waiting.
        self.tell_board();
        self.wake();
    }

    /// Has the board of the workers, if there is one, say whether they are to accept. Returns it.
    pub(crate) fn tell_board(&self) -> Option<&Board> {
        let board = self.registry.board().filter(|_| self.master().is_none())?;
        // Of two at once, the one that comes last says what is so at last.
        let _lock = self.registry.lock();
        board.suspend(self.suspended.load(Ordering::SeqCst));
        Some(board)
    }

    /// The calling thread is about to look whether it may accept, and accepts then, which does not wait: until the
    /// guard is dropped, whoever suspends waits for it. The system may put it off between looking and accepting.
    pub(crate) fn begin_accepting(&self) -> Accepting<'_> {
        let count = self.master().map_or(&self.accepting, |master| master.accepting());
        count.fetch_add(1, Ordering::SeqCst);
        ACCEPTING.set(ACCEPTING.get() + 1);
        Accepting { count }
    }

    /// Not for ever: a hook may wait, and a worker may have been killed as it accepted, and not been reaped yet.
    fn wait_until_nobody_accepts(&self) {
        let end = Instant::now() + PATIENCE;
        // A hook that accepts may be what suspends.
        let own = ACCEPTING.get();
        let accepts = || self.accepting.load(Ordering::SeqCst) > own || self.registry.any_worker_accepts();
        while accepts() && Instant::now() < end {
            std::thread::yield_now();
        }
    }
}

/// See [`Shared::begin_accepting`].
pub(crate) struct Accepting<'a> {
    count: &'a AtomicU64,
}

impl Drop for Accepting<'_> {
    fn drop(&mut self) {
        ACCEPTING.set(ACCEPTING.get() - 1);
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    #[test]
    fn once_suspended_workers_stay_so_whatever_the_master_is_just_passing_on() {
        let shared = Shared::new();
        let board = shared.registry.make_board().unwrap();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    shared.tell_board();
                }
            });
            let stays = (0..300_000).all(|_| {
                shared.suspend();
                let stays = (0..100).all(|_| board.is_suspended());
                shared.resume();
                stays
            });
            over.store(true, Ordering::SeqCst);
            assert!(stays);
        });
    }
}

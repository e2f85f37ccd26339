//! What all workers of a prefork server and their master share.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::sys::{ThisProcess, Words};

/// The words of the board, by their place in it.
#[derive(Clone, Copy)]
enum Word {
    /// The number of the last request.
    LastNumber,
    /// The master looks at the workers when one of them gets on, and not before.
    MasterRests,
    /// How many requests are to be taken from the kernel's queue at the end.
    Backlog,
    /// No worker is to accept.
    Suspended,
    /// The workers have not been told yet that this has changed.
    SuspensionChanged,
    /// A worker has seen the kernel's queue empty.
    QueueDone,
    /// A worker could not accept what it was woken for.
    RequestLeft,
}

const WORDS: usize = Word::RequestLeft as usize + 1;

/// What all workers and the master share.
#[derive(Debug)]
pub(crate) struct Board {
    words: Words<WORDS>,
    /// Not shared: what a worker says there no other sees. Made once for all, as starting one would take longer.
    pub(crate) worker: ThisProcess,
}

impl Board {
    /// # Errors
    ///
    /// There is no memory.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Board {
            words: Words::shared()?,
            worker: ThisProcess::new(),
        })
    }

    fn word(&self, word: Word) -> &AtomicU64 {
        &self.words[word as usize]
    }

    fn is_set(&self, word: Word) -> bool {
        self.word(word).load(Ordering::SeqCst) != 0
    }

    /// Sets it or not; whether it was.
    fn set(&self, word: Word, set: bool) -> bool {
        self.word(word).swap(set.into(), Ordering::SeqCst) != 0
    }

    /// Requests are numbered from the one after `last` on.
    pub(crate) fn number_after(&self, last: u64) {
        self.word(Word::LastNumber).store(last, Ordering::Relaxed);
    }

    /// A number for a request: counted from 1, whichever worker serves it.
    pub(crate) fn next_number(&self) -> u64 {
        self.word(Word::LastNumber).fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The master will look at the workers when one of them gets on, and not before.
    ///
    /// It says so, then looks whether one has; a worker [gets on](super::Slot::progress), then looks whether the master
    /// rests. The fences see to it that one of them sees the other.
    pub(crate) fn rest(&self, rests: bool) {
        self.set(Word::MasterRests, rests);
        fence(Ordering::SeqCst);
    }

    /// A worker gets on. True if the master rests: the one who is told wakes it.
    pub(crate) fn take_rest(&self) -> bool {
        fence(Ordering::SeqCst);
        self.is_set(Word::MasterRests) && self.set(Word::MasterRests, false)
    }

    /// Whether the workers shall accept.
    pub(crate) fn suspend(&self, suspended: bool) {
        if self.set(Word::Suspended, suspended) != suspended {
            self.set(Word::SuspensionChanged, true);
        }
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.is_set(Word::Suspended)
    }

    /// Whether that has changed since the last call.
    pub(crate) fn take_suspension_change(&self) -> bool {
        self.set(Word::SuspensionChanged, false)
    }

    pub(crate) fn set_backlog(&self, requests: u32) {
        self.word(Word::Backlog).store(requests.into(), Ordering::SeqCst);
    }

    pub(crate) fn backlog(&self) -> u32 {
        let requests = self.word(Word::Backlog).load(Ordering::SeqCst);
        requests.try_into().unwrap_or(u32::MAX)
    }

    /// While new requests are refused, a worker has seen the kernel's queue empty.
    pub(crate) fn queue_done(&self) {
        self.set(Word::QueueDone, true);
    }

    pub(crate) fn is_queue_done(&self) -> bool {
        self.is_set(Word::QueueDone)
    }

    /// A worker could not accept what it was woken for.
    pub(crate) fn leave_request(&self) {
        self.set(Word::RequestLeft, true);
    }

    /// Whether any could not since the last call.
    pub(crate) fn take_left_request(&self) -> bool {
        self.set(Word::RequestLeft, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Told at each look, the workers would wake up for nothing.
    #[test]
    fn workers_are_told_of_a_suspension_only_if_it_has_changed() {
        let board = Board::new().unwrap();
        for (suspended, changed) in [
            (false, false),
            (true, true),
            (true, false),
            (false, true),
            (false, false),
        ] {
            board.suspend(suspended);
            assert_eq!(board.is_suspended(), suspended);
            assert_eq!(board.take_suspension_change(), changed);
        }
    }

    // A queue that comes to an end by itself has one of `u32::MAX`.
    #[test]
    fn a_worker_is_told_of_the_whole_backlog() {
        let board = Board::new().unwrap();
        for requests in [0, 5, u32::MAX] {
            board.set_backlog(requests);
            assert_eq!(board.backlog(), requests);
        }
    }

    #[test]
    fn a_master_that_rests_is_woken_once() {
        let board = Board::new().unwrap();
        assert!(!board.take_rest());
        board.rest(true);
        assert_eq!([(); 2].map(|()| board.take_rest()), [true, false]);
        board.rest(true);
        board.rest(false);
        assert!(!board.take_rest());
    }
}

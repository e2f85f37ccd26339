//! A lock that a signal handler may try.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};

/// A value that one thread or signal handler at a time works on, for moments; the work must not panic. A
/// handler only ever tries: waiting for the thread that it has interrupted would never end.
#[derive(Debug, Default)]
pub(crate) struct TryLock<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `taken` gives the value to one at a time.
unsafe impl<T: Send> Sync for TryLock<T> {}

impl<T> TryLock<T> {
    /// Works on the value unless somebody else does.
    pub(crate) fn try_with<R>(&self, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        (!self.taken.swap(true, Ordering::SeqCst)).then(|| self.work_and_give_back(work))
    }

    /// Works on the value as soon as nobody else does. Never from a signal handler.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        while self.taken.swap(true, Ordering::SeqCst) {
            std::thread::yield_now();
        }
        self.work_and_give_back(work)
    }

    /// The caller has found it not taken and has taken it.
    fn work_and_give_back<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: the caller has taken it, so nobody else has a reference to the value, and this one ends
        // before it is given back.
        let result = work(unsafe { &mut *self.value.get() });
        self.taken.store(false, Ordering::SeqCst);
        result
    }

    /// In a forked child: whoever had it taken in the parent is not there to give it back. Only for values
    /// that nobody but the thread that forked ever changes, so that they are whole.
    pub(crate) fn give_back_in_child(&self) {
        self.taken.store(false, Ordering::SeqCst);
    }
}

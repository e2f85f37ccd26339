//! A queue that is mostly empty, and seen to be without a lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::mutex::Mutex;

/// Values in the order in which they came. Each turn of the accept loop asks whether there are any.
pub(super) struct Queue<V> {
    values: Mutex<VecDeque<V>>,
    is_empty: AtomicBool,
}

impl<V> Queue<V> {
    pub(super) fn new() -> Self {
        Queue {
            values: Mutex::default(),
            is_empty: AtomicBool::new(true),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.is_empty.load(Ordering::Relaxed)
    }

    /// Looks at the values or changes them, while nobody else does.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut VecDeque<V>) -> R) -> R {
        let mut values = self.values.lock();
        let result = work(&mut values);
        self.is_empty.store(values.is_empty(), Ordering::Relaxed);
        result
    }

    /// Everything, leaving nothing.
    pub(super) fn take(&self) -> VecDeque<V> {
        self.with(std::mem::take)
    }

    /// As [`take`](Self::take), but nothing if it is locked: in a forked child that may be by another thread of its
    /// parent, for ever.
    pub(super) fn try_take(&self) -> VecDeque<V> {
        let Some(mut values) = self.values.try_lock() else {
            return VecDeque::new();
        };
        self.is_empty.store(true, Ordering::Relaxed);
        std::mem::take(&mut values)
    }
}

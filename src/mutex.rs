//! A lock that panics do not break.

use std::fmt;
use std::sync::{MutexGuard, PoisonError, TryLockError};

/// A mutex without poison. A panic of a handler or a hook costs its request and nothing else, so whoever locks next
/// goes on: what is kept in one is whole at every point where a thread could panic.
#[derive(Default)]
pub(crate) struct Mutex<V>(std::sync::Mutex<V>);

impl<V> Mutex<V> {
    pub(crate) fn new(value: V) -> Self {
        Mutex(std::sync::Mutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, V> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Without waiting; `None` if somebody has it locked.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, V>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poison)) => Some(poison.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl<V: fmt::Debug> fmt::Debug for Mutex<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

//! A gate between threads.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::CEILING;

/// Closed until it is opened; then open for good. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        let (open, opened) = &*self.0;
        *open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        opened.notify_all();
    }

    /// Waits until it is open; panics if it is not within [`CEILING`].
    #[track_caller]
    pub fn wait(&self) {
        let (open, opened) = &*self.0;
        let open = open.lock().unwrap_or_else(PoisonError::into_inner);
        let (open, _) = opened
            .wait_timeout_while(open, CEILING, |open| !*open)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(*open, "waited {CEILING:?} in vain at a gate");
    }
}

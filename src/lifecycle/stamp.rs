//! A moment that is noted once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When something happened for the first time, on the monotonic clock; may be set and read in a signal
/// handler, which a `OnceLock` may not (it waits for whoever is setting it).
#[derive(Debug)]
pub(crate) struct Stamp {
    made: Instant,
    /// Nanoseconds from `made` and 1; 0: it has not happened.
    at: AtomicU64,
}

impl Stamp {
    pub(crate) fn new() -> Self {
        Stamp {
            made: Instant::now(),
            at: AtomicU64::new(0),
        }
    }

    /// It happens now. True the first time.
    pub(crate) fn set(&self) -> bool {
        let now = u64::try_from(self.made.elapsed().as_nanos()).map_or(u64::MAX, |now| now.saturating_add(1));
        let set = self.at.compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst);
        set.is_ok()
    }

    pub(crate) fn is_set(&self) -> bool {
        self.at.load(Ordering::SeqCst) != 0
    }

    /// It has not happened.
    pub(crate) fn clear(&self) {
        self.at.store(0, Ordering::SeqCst);
    }

    pub(crate) fn get(&self) -> Option<Instant> {
        let nanoseconds = self.at.load(Ordering::SeqCst).checked_sub(1)?;
        Some(self.made + Duration::from_nanos(nanoseconds))
    }

    /// Whether it happened at least `time` ago.
    pub(crate) fn is_past(&self, time: Duration) -> bool {
        self.get().is_some_and(|at| at.elapsed() >= time)
    }
}

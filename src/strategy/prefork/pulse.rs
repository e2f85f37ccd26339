//! Since when a worker has not got on.

use std::time::{Duration, Instant};

/// What a worker last was seen to be at, by its master.
pub(super) struct Pulse {
    progress: u64,
    waits: bool,
    /// It has not got on since.
    since: Instant,
}

impl Pulse {
    pub(super) fn new(now: Instant) -> Self {
        Pulse {
            progress: 0,
            waits: false,
            since: now,
        }
    }

    /// It could not get on for so long.
    pub(super) fn put_off(&mut self, now: Instant, late: Duration) {
        self.since = self.since.checked_add(late).map_or(now, |since| since.min(now));
    }

    /// Notes what it says: how far it has counted its `progress`, and whether it `waits` for a request. Returns since
    /// when it has not got on; `None` while it waits.
    pub(super) fn busy_since(&mut self, now: Instant, progress: u64, waits: bool) -> Option<Instant> {
        // One that has waited, perhaps for hours, gets on by ending that, but says so a moment later.
        if self.waits || progress != self.progress {
            self.since = now;
        }
        (self.progress, self.waits) = (progress, waits);
        (!waits).then_some(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_could_not_use_of_its_time_does_not_count() {
        let begin = Instant::now();
        let mut pulse = Pulse::new(begin);
        let at = |hours| begin + Duration::from_hours(hours);
        for (late, since) in [(2, 2), (1, 3), (9, 5)] {
            // It has gone on until now at most.
            pulse.put_off(at(5), Duration::from_hours(late));
            assert_eq!(pulse.busy_since(at(5), 0, false), Some(at(since)));
        }
    }

    #[test]
    fn a_worker_that_is_just_ending_a_long_wait_does_not_hang() {
        let begin = Instant::now();
        let mut pulse = Pulse::new(begin);
        let at = |hours| begin + Duration::from_hours(hours);
        assert_eq!(pulse.busy_since(begin, 1, true), None);
        // It may be put off in the middle of `Slot::end_waiting`: it does not wait any more, and has not said that it
        // gets on.
        assert_eq!(pulse.busy_since(at(1), 1, false), Some(at(1)));
        assert_eq!(pulse.busy_since(at(2), 1, false), Some(at(1)));
        assert_eq!(pulse.busy_since(at(3), 2, false), Some(at(3)));
    }
}

//! How many workers there shall be.

use std::io;
use std::time::{Duration, Instant};

use crate::error::invalid_input;
use crate::strategy::MOST_TASKS;

/// The bounds, as they were set and as SIGTTIN and SIGTTOU have moved them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) min: usize,
    pub(super) max: usize,
    pub(super) min_spare: usize,
    pub(super) max_spare: usize,
}

/// Those of `Net::Server::PreFork`.
impl Default for Numbers {
    fn default() -> Self {
        Numbers {
            min: 5,
            max: 50,
            min_spare: 2,
            max_spare: 10,
        }
    }
}

impl Numbers {
    /// # Errors
    ///
    /// They contradict one another.
    pub(super) fn check(&self) -> io::Result<()> {
        let Numbers {
            min,
            max,
            min_spare,
            max_spare,
        } = self;
        // Started however few requests there are.
        let least = min.max(min_spare.min(max));
        let text = if *min == 0 || *max == 0 {
            "a prefork server of 0 workers would never serve anybody: set workers, min_workers and max_workers to 1 \
             or more"
                .to_owned()
        } else if *least > MOST_TASKS {
            format!(
                "{least} workers are more processes than there can be ({MOST_TASKS}): set min_workers and \
                 min_spare_workers to what the machine has room for"
            )
        } else if min > max {
            format!("at least {min} workers and at most {max}: set max_workers to min_workers or more")
        } else if min_spare > max_spare {
            format!(
                "at least {min_spare} spare workers and at most {max_spare}: set max_spare_workers to \
                 min_spare_workers or more"
            )
        } else {
            return Ok(());
        };
        Err(invalid_input(text))
    }

    /// Whether the number follows the load.
    pub(super) fn vary(&self) -> bool {
        self.min < self.max
    }

    pub(super) fn one_more(&mut self) {
        self.min = self.min.saturating_add(1);
        self.max = self.max.saturating_add(1);
    }

    /// False if there is only one.
    pub(super) fn one_fewer(&mut self) -> bool {
        if self.max == 1 {
            return false;
        }
        self.min = (self.min - 1).max(1);
        self.max -= 1;
        true
    }
}

/// What the number of workers is to follow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Workers that serve or are starting.
    pub(super) workers: usize,
    /// Those of them that wait for a request.
    pub(super) waiting: usize,
    /// Those that are starting.
    pub(super) starting: usize,
}

/// How the number has followed the load so far.
#[derive(Debug)]
pub(super) struct Trend {
    /// How many to start if there are too few again.
    batch: usize,
    /// When one may end, if there are too many until then.
    shrink_at: Option<Instant>,
}

/// Most workers that are started at a time: as Apache's prefork.
const LARGEST_BATCH: usize = 32;
/// How often one ends while there are too many: as Apache's prefork.
const SHRINK_INTERVAL: Duration = Duration::from_secs(1);

impl Default for Trend {
    fn default() -> Self {
        Trend {
            batch: 1,
            shrink_at: None,
        }
    }
}

impl Trend {
    /// How many workers to start: each time that it is not enough, twice as many.
    pub(super) fn missing(&mut self, numbers: &Numbers, load: Load) -> usize {
        if load.workers < numbers.min {
            return numbers.min - load.workers;
        }
        let short = numbers.min_spare.saturating_sub(load.waiting + load.starting);
        let room = numbers.max.saturating_sub(load.workers);
        if short == 0 || room == 0 {
            self.batch = 1;
            return 0;
        }
        let batch = self.batch.max(short).min(room);
        self.batch = batch.saturating_mul(2).min(LARGEST_BATCH);
        batch
    }

    /// Whether one worker is to end now.
    pub(super) fn one_too_many(&mut self, numbers: &Numbers, load: Load, now: Instant) -> bool {
        if load.workers > numbers.max {
            return true;
        }
        if load.waiting <= numbers.max_spare || load.workers <= numbers.min {
            self.shrink_at = None;
            return false;
        }
        let due = self.shrink_at.is_some_and(|at| now >= at);
        if due || self.shrink_at.is_none() {
            self.shrink_at = Some(now + SHRINK_INTERVAL);
        }
        due
    }

    pub(super) fn next_look(&self) -> Option<Instant> {
        self.shrink_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(workers: usize, waiting: usize) -> Load {
        Load {
            workers,
            waiting,
            starting: 0,
        }
    }

    #[test]
    fn the_minimum_is_kept() {
        assert_eq!(Trend::default().missing(&Numbers::default(), load(2, 2)), 3);
    }

    #[test]
    fn while_too_few_wait_more_are_started_each_time_up_to_the_maximum() {
        let (mut trend, numbers) = (Trend::default(), Numbers::default());
        let mut workers = 5;
        let mut started = Vec::new();
        while workers < 50 {
            started.push(trend.missing(&numbers, load(workers, 0)));
            workers += started.last().unwrap();
        }
        assert_eq!(started, [2, 4, 8, 16, 15]);
        assert_eq!(trend.missing(&numbers, load(50, 0)), 0);
        assert_eq!(trend.missing(&numbers, load(40, 1)), 1, "from the beginning");
    }

    #[test]
    fn no_more_than_a_batch_is_started_at_a_time() {
        let mut trend = Trend::default();
        let numbers = Numbers {
            max: 1000,
            ..Numbers::default()
        };
        let started: Vec<_> = (0..7).map(|_| trend.missing(&numbers, load(5, 0))).collect();
        assert_eq!(started, [2, 4, 8, 16, 32, 32, 32]);
    }

    #[test]
    fn those_that_start_are_counted_as_spare() {
        let starting = Load {
            workers: 7,
            waiting: 0,
            starting: 2,
        };
        assert_eq!(Trend::default().missing(&Numbers::default(), starting), 0);
    }

    #[test]
    fn while_too_many_wait_one_ends_each_second() {
        let (mut trend, numbers, begin) = (Trend::default(), Numbers::default(), Instant::now());
        let mut ended = Vec::new();
        for tenth in 0..=30 {
            if trend.one_too_many(&numbers, load(20, 15), begin + SHRINK_INTERVAL * tenth / 10) {
                ended.push(tenth);
            }
        }
        assert_eq!(ended, [10, 20, 30]);
        assert!(!trend.one_too_many(&numbers, load(20, 10), begin + SHRINK_INTERVAL * 4));
        assert!(!trend.one_too_many(&numbers, load(5, 5), begin + SHRINK_INTERVAL * 5));
    }

    #[test]
    fn too_many_that_wait_are_looked_at_again_when_one_may_end() {
        let (mut trend, numbers, begin) = (Trend::default(), Numbers::default(), Instant::now());
        assert_eq!(trend.next_look(), None);
        assert!(!trend.one_too_many(&numbers, load(20, 15), begin));
        assert_eq!(trend.next_look(), Some(begin + SHRINK_INTERVAL));
    }

    #[test]
    fn too_many_for_a_moment_only_do_not_end() {
        let (mut trend, numbers, begin) = (Trend::default(), Numbers::default(), Instant::now());
        for (seconds, waiting) in [(0, 15), (1, 10), (2, 15)] {
            assert!(!trend.one_too_many(&numbers, load(20, waiting), begin + SHRINK_INTERVAL * seconds));
        }
    }

    #[test]
    fn the_minimum_stays_although_too_many_wait() {
        let numbers = Numbers {
            min: 20,
            ..Numbers::default()
        };
        let (mut trend, begin) = (Trend::default(), Instant::now());
        assert!((0..3).all(|seconds| !trend.one_too_many(&numbers, load(20, 15), begin + SHRINK_INTERVAL * seconds)));
        assert_eq!(trend.next_look(), None);
    }

    #[test]
    fn between_equal_bounds_the_number_does_not_follow_the_load() {
        let numbers = |max| Numbers {
            min: 5,
            max,
            ..Numbers::default()
        };
        assert_eq!([5, 6].map(|max| numbers(max).vary()), [false, true]);
    }

    #[test]
    fn more_than_the_maximum_end_at_once_although_none_waits() {
        let (mut trend, numbers, now) = (Trend::default(), Numbers::default(), Instant::now());
        assert!((0..3).all(|_| trend.one_too_many(&numbers, load(51, 0), now)));
        assert!(!trend.one_too_many(&numbers, load(50, 0), now));
    }

    #[test]
    fn numbers_that_contradict_one_another_are_told() {
        let check = |min, max, min_spare, max_spare| {
            let numbers = Numbers {
                min,
                max,
                min_spare,
                max_spare,
            };
            numbers.check().map_err(|error| error.to_string())
        };
        assert_eq!(check(1, 1, 0, 0), Ok(()));
        assert_eq!(check(1, 1, usize::MAX, usize::MAX), Ok(()), "never so many");
        assert!(check(0, 1, 0, 0).unwrap_err().contains("0 workers"));
        assert!(check(5, 0, 0, 0).unwrap_err().contains("0 workers"));
        assert!(
            check(5, 3, 0, 0)
                .unwrap_err()
                .contains("at least 5 workers and at most 3")
        );
        assert!(check(5, 50, 20, 10).unwrap_err().contains("at least 20 spare workers"));
    }

    #[test]
    fn one_more_and_one_fewer_move_both_bounds_down_to_one() {
        let mut numbers = Numbers {
            min: 1,
            max: 2,
            ..Numbers::default()
        };
        numbers.one_more();
        assert_eq!((numbers.min, numbers.max), (2, 3));
        assert!(numbers.one_fewer() && numbers.one_fewer());
        assert_eq!((numbers.min, numbers.max), (1, 1));
        assert!(!numbers.one_fewer());
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let mut numbers = Numbers {
            max: usize::MAX,
            min_spare: usize::MAX,
            max_spare: usize::MAX,
            ..Numbers::default()
        };
        numbers.one_more();
        assert_eq!((numbers.min, numbers.max), (6, usize::MAX));
        assert_eq!(Trend::default().missing(&numbers, load(6, 6)), usize::MAX - 6);
    }
}

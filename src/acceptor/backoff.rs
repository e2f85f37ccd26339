//! How long to wait before the next attempt, and when trouble is over.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use log::Level;

use crate::lifecycle::Shared;
use crate::mutex::Mutex;
use crate::observer::Event;

/// Waits between attempts when resources have run out: 5 ms, doubled up to 1 s, as Go's `net/http`.
/// Shared by all that accept for a server: an episode is one for all of them.
#[derive(Debug)]
pub(crate) struct Backoff {
    what: &'static str,
    /// Whose observers hear of it.
    server: Arc<Shared>,
    /// Odd while there is trouble, even while there is none, and another one for each trouble: so it shows whether the
    /// trouble in which an attempt began still lasts.
    number: AtomicU64,
    /// Locked to change the number.
    trouble: Mutex<Trouble>,
}

/// What is ended by an attempt that succeeds.
#[derive(Debug, Default)]
struct Trouble {
    /// The last delay in milliseconds; 0 if there was none in this episode.
    delay: u64,
    /// When the episode began.
    since: Option<Instant>,
    /// The observers have been told that it began: only then are they told that it ended.
    told: bool,
    /// It ended while they were being told that it began: whoever tells them that tells them the end, too.
    over: bool,
    /// The episode was worth a warning.
    warned: bool,
    /// When one last was.
    last_warning: Option<Instant>,
    /// Attempts in a row that failed and were repeated at once.
    retries: u32,
}

impl Trouble {
    /// Where descriptors are just short, each client that leaves ends an episode and each that comes begins one,
    /// hundreds in a second: there is one warning in this time.
    const QUIET: Duration = Duration::from_secs(10);

    /// Whether to warn of this episode now: once, and not soon after another.
    fn warns(&mut self, now: Instant) -> bool {
        let warns = !self.warned && self.last_warning.is_none_or(|last| now >= last + Self::QUIET);
        if warns {
            (self.warned, self.last_warning) = (true, Some(now));
        }
        warns
    }
}

/// An attempt that has begun: the number of the trouble there was by then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt(u64);

impl Backoff {
    const FIRST: u64 = 5;
    const LONGEST: u64 = 1000;
    const MOST_RETRIES: u32 = 100;

    pub(crate) fn new(what: &'static str, server: &Arc<Shared>) -> Self {
        Backoff {
            what,
            server: Arc::clone(server),
            number: AtomicU64::new(0),
            trouble: Mutex::default(),
        }
    }

    /// To be called before what may fail.
    pub(crate) fn attempt(&self) -> Attempt {
        Attempt(self.number.load(Ordering::Relaxed))
    }

    /// There is new trouble: what began before says nothing about its end.
    fn renumber(&self, _lock: &MutexGuard<'_, Trouble>) {
        let next_odd = |number: u64| (number + 1) | 1;
        self.number.update(Ordering::Relaxed, Ordering::Relaxed, next_odd);
    }

    /// Whether to try again at once, which counts as one of the attempts that are. What should pass does not always: a
    /// security module that forbids accepting says EPERM each time and leaves the connection in the queue.
    pub(super) fn take_retry(&self) -> bool {
        let mut trouble = self.trouble.lock();
        if trouble.retries == 0 && trouble.since.is_none() {
            self.renumber(&trouble);
        }
        let more = trouble.retries < Self::MOST_RETRIES;
        trouble.retries += u32::from(more);
        more
    }

    /// The next delay; an episode is told once.
    pub(crate) fn next(&self, reason: &dyn fmt::Display) -> Duration {
        let mut trouble = self.trouble.lock();
        trouble.delay = (trouble.delay * 2).clamp(Self::FIRST, Self::LONGEST);
        let delay = Duration::from_millis(trouble.delay);
        self.begin(trouble, reason);
        delay
    }

    /// As [`next`](Self::next), of trouble after which nothing is waited for: the delay stays as it is.
    pub(super) fn note(&self, reason: &dyn fmt::Display) {
        self.begin(self.trouble.lock(), reason);
    }

    /// Begins an episode, unless this trouble is one of the same.
    fn begin(&self, mut trouble: MutexGuard<'_, Trouble>, reason: &dyn fmt::Display) {
        let now = Instant::now();
        trouble.over = false;
        let warns = trouble.warns(now);
        let begins = trouble.since.is_none();
        if begins {
            trouble.since = Some(now);
            self.renumber(&trouble);
        }
        drop(trouble);
        let what = self.what;
        if begins || warns {
            let level = if warns { Level::Warn } else { Level::Debug };
            log::log!(level, "{what}: {reason}; trying again until it works");
        }
        if begins {
            self.server.observe(|| Event::BackOffBegun {
                what,
                reason: reason.to_string(),
            });
            let mut trouble = self.trouble.lock();
            trouble.told = true;
            if trouble.over {
                self.end(trouble);
            }
        }
    }

    /// An attempt succeeded. That ends the trouble if it began in it: one that began before, and whose thread
    /// only now gets on, had what has run out since.
    pub(crate) fn succeeded(&self, attempt: Attempt) {
        if !attempt.0.is_multiple_of(2) {
            self.end_trouble(attempt);
        }
    }

    #[cold]
    fn end_trouble(&self, attempt: Attempt) {
        let mut trouble = self.trouble.lock();
        if self.number.load(Ordering::Relaxed) != attempt.0 {
            return;
        }
        if trouble.since.is_some() && !trouble.told {
            trouble.over = true;
        } else {
            self.end(trouble);
        }
    }

    fn end(&self, mut trouble: MutexGuard<'_, Trouble>) {
        self.number.fetch_add(1, Ordering::Relaxed);
        let last_warning = trouble.last_warning;
        let ended = std::mem::replace(
            &mut *trouble,
            Trouble {
                last_warning,
                ..Trouble::default()
            },
        );
        drop(trouble);
        if let Some(since) = ended.since {
            let (what, duration) = (self.what, since.elapsed());
            let level = if ended.warned { Level::Info } else { Level::Debug };
            log::log!(level, "{what}: over");
            self.server.observe(|| Event::BackOffEnded { what, duration });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::config::Config;

    fn unobserved() -> Backoff {
        Backoff::new("test", &Arc::new(Shared::new()))
    }

    #[test]
    fn a_back_off_doubles_to_a_second_and_starts_again() {
        let backoff = unobserved();
        let delays: Vec<_> = (0..10).map(|_| backoff.next(&"").as_millis()).collect();
        assert_eq!(delays, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        backoff.succeeded(backoff.attempt());
        assert_eq!(backoff.next(&"").as_millis(), 5);
    }

    #[test]
    fn an_attempt_that_began_before_an_episode_does_not_end_it() {
        let backoff = unobserved();
        let before = backoff.attempt();
        assert_eq!(backoff.next(&"").as_millis(), 5);
        backoff.succeeded(before);
        assert_eq!(backoff.next(&"").as_millis(), 10);
        let in_the_first = backoff.attempt();
        backoff.succeeded(backoff.attempt());
        assert_eq!(backoff.next(&"").as_millis(), 5);
        backoff.succeeded(in_the_first);
        assert_eq!(backoff.next(&"").as_millis(), 10);
    }

    #[test]
    fn an_attempt_that_began_while_others_were_repeated_does_not_end_the_episode_they_led_to() {
        let backoff = unobserved();
        assert!(backoff.take_retry());
        let before = backoff.attempt();
        assert_eq!(backoff.next(&"").as_millis(), 5);
        backoff.succeeded(before);
        assert_eq!(backoff.next(&"").as_millis(), 10);
    }

    #[test]
    fn an_attempt_that_began_in_an_episode_ends_it_although_others_have_failed_since() {
        let backoff = unobserved();
        assert_eq!(backoff.next(&"").as_millis(), 5);
        let attempt = backoff.attempt();
        assert!(backoff.take_retry());
        assert_eq!(backoff.next(&"").as_millis(), 10);
        backoff.succeeded(attempt);
        assert_eq!(backoff.next(&"").as_millis(), 5);
    }

    #[test]
    fn an_attempt_that_began_while_others_were_repeated_ends_that() {
        let backoff = unobserved();
        (0..60).for_each(|_| assert!(backoff.take_retry()));
        let attempt = backoff.attempt();
        assert!(backoff.take_retry());
        backoff.succeeded(attempt);
        assert_eq!((0..1_000).filter(|_| backoff.take_retry()).count(), 100);
    }

    #[test]
    fn trouble_that_nothing_is_waited_for_makes_no_later_delay_longer() {
        let backoff = unobserved();
        (0..10).for_each(|_| backoff.note(&""));
        assert_eq!(backoff.next(&"").as_millis(), 5);
        backoff.note(&"");
        assert_eq!(backoff.next(&"").as_millis(), 10);
        backoff.succeeded(backoff.attempt());
        backoff.note(&"");
        backoff.succeeded(backoff.attempt());
        assert_eq!(backoff.next(&"").as_millis(), 5);
    }

    #[test]
    fn the_end_of_an_episode_is_told_after_its_begin() {
        let (backoff, told) = (Arc::new(OnceLock::<Backoff>::new()), Arc::new(Mutex::new(Vec::new())));
        let (its, notes) = (Arc::downgrade(&backoff), Arc::clone(&told));
        let succeeds = move |_: &Event<'_>| {
            // As another thread may, while this one tells the begin.
            let backoff = its.upgrade().unwrap();
            let backoff = backoff.get().unwrap();
            backoff.succeeded(backoff.attempt());
        };
        let notes = move |event: &Event<'_>| notes.lock().push(matches!(event, Event::BackOffBegun { .. }));
        let server = Arc::new(Shared::new());
        let config = Config {
            observers: vec![Arc::new(succeeds), Arc::new(notes)],
            ..Config::default()
        };
        server.configure(&config);
        let backoff = backoff.get_or_init(|| Backoff::new("test", &server));
        backoff.next(&"");
        assert_eq!(*told.lock(), [true, false]);
        assert_eq!(backoff.next(&"").as_millis(), 5);
    }

    #[test]
    fn an_episode_is_told_once_and_goes_on_if_there_is_trouble_again_before_that() {
        let (backoff, told) = (Arc::new(OnceLock::<Backoff>::new()), Arc::new(Mutex::new(Vec::new())));
        let (its, notes) = (Arc::downgrade(&backoff), Arc::clone(&told));
        let succeeds_once = move |event: &Event<'_>| {
            let backoff = its.upgrade().unwrap();
            let (begins, backoff) = (matches!(event, Event::BackOffBegun { .. }), backoff.get().unwrap());
            notes.lock().push(begins);
            if begins {
                // As another thread may, while this one tells the begin.
                backoff.succeeded(backoff.attempt());
                assert_eq!(backoff.next(&"").as_millis(), 10);
            }
        };
        let server = Arc::new(Shared::new());
        let config = Config {
            observers: vec![Arc::new(succeeds_once)],
            ..Config::default()
        };
        server.configure(&config);
        let backoff = backoff.get_or_init(|| Backoff::new("test", &server));
        backoff.next(&"");
        assert_eq!(backoff.next(&"").as_millis(), 20);
        assert_eq!(*told.lock(), [true]);
        backoff.succeeded(backoff.attempt());
        assert_eq!(*told.lock(), [true, false]);
    }

    #[test]
    fn of_episodes_that_follow_each_other_one_in_ten_seconds_is_warned_of() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut first = Trouble::default();
        assert_eq!([0, 1, 20].map(|now| first.warns(at(now))), [true, false, false]);
        let mut next = Trouble {
            last_warning: first.last_warning,
            ..Trouble::default()
        };
        // It does not pass by itself.
        assert_eq!(
            [1, 9, 10, 11].map(|now| next.warns(at(now))),
            [false, false, true, false]
        );
    }

    #[test]
    fn what_should_pass_and_does_not_is_not_retried_for_ever() {
        let backoff = unobserved();
        assert_eq!((0..1_000).filter(|_| backoff.take_retry()).count(), 100);
        backoff.succeeded(backoff.attempt());
        assert!(backoff.take_retry());
    }
}

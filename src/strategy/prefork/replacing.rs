//! Pauses between workers that end at once, or cannot be started.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::acceptor::Backoff;
use crate::lifecycle::Shared;
use crate::mutex::Mutex;

/// What does not work while starting workers pauses.
const REPLACING: &str = "workers end at once or cannot be started";
/// Past this time since the last pause it works again.
const CALM: Duration = Duration::from_secs(10);

/// When a worker may be started. Apart from the workers: observers hear of pauses, and may ask for those.
pub(super) struct Replacing {
    backoff: Backoff,
    /// No worker is started before. Until it has been calm since, of the last pause.
    pause: Mutex<Option<Instant>>,
}

impl Replacing {
    /// The observers of this server hear of pauses.
    pub(super) fn of(server: &Arc<Shared>) -> Self {
        Replacing {
            backoff: Backoff::new(REPLACING, server),
            pause: Mutex::default(),
        }
    }

    /// When a worker may be started again, if not now.
    pub(super) fn paused_until(&self) -> Option<Instant> {
        self.pause.lock().filter(|until| *until > Instant::now())
    }

    /// No worker is started for a while. Returns when that is over.
    pub(super) fn pause(&self, why: &str) -> Instant {
        let now = Instant::now();
        self.until_calm(now);
        let until = now + self.backoff.next(&why);
        *self.pause.lock().insert(until)
    }

    /// When it will work again, if nothing happens before; what does already is told.
    pub(super) fn until_calm(&self, now: Instant) -> Option<Instant> {
        let mut pause = self.pause.lock();
        let calm = (*pause)? + CALM;
        if now < calm {
            return Some(calm);
        }
        *pause = None;
        drop(pause);
        self.backoff.succeeded(self.backoff.attempt());
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::observer::Event;

    /// As if the last pause had been over for so long.
    fn make_calm(replacing: &Replacing) {
        *replacing.pause.lock() = Instant::now().checked_sub(CALM);
    }

    #[test]
    fn pauses_begin_anew_after_a_calm_time() {
        let replacing = Replacing::of(&Arc::new(Shared::new()));
        let longest = || Instant::now() + Duration::from_secs(1);
        let before = longest();
        let until = (0..20).map(|_| replacing.pause("as told")).last().unwrap();
        assert!(until >= before);
        make_calm(&replacing);
        let before = longest();
        assert!(replacing.pause("as told") < before);
    }

    #[test]
    fn observers_hear_that_workers_start_again_although_nothing_happens() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&told);
        let server = Arc::new(Shared::new());
        let config = Config {
            observers: vec![Arc::new(move |event: &Event<'_>| {
                notes.lock().push(matches!(event, Event::BackOffEnded { .. }));
            })],
            ..Config::default()
        };
        server.configure(&config);
        let replacing = Replacing::of(&server);
        let pause = replacing.pause("as told");
        assert_eq!(replacing.until_calm(Instant::now()), Some(pause + CALM));
        assert_eq!(*told.lock(), [false]);
        make_calm(&replacing);
        assert_eq!(replacing.until_calm(Instant::now()), None);
        assert_eq!(*told.lock(), [false, true]);
        assert_eq!(replacing.until_calm(Instant::now()), None);
        assert_eq!(told.lock().len(), 2);
    }
}

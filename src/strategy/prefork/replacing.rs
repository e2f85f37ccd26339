//! Pauses between workers that end at once, or cannot be started.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::acceptor::Backoff;
use crate::lifecycle::Shared;
use crate::mutex::Mutex;

/// What does not work while starting workers pauses.
const REPLACING: &str = "workers end at once or cannot be started";
/// Past this time since the last worker that ended at once, the pauses begin anew.
const CALM: Duration = Duration::from_secs(10);

/// When a worker may be started. Apart from the workers: observers hear of pauses, and may ask for those.
pub(super) struct Replacing {
    backoff: Backoff,
    /// No worker is started before.
    pause: Mutex<Option<Instant>>,
}

impl Replacing {
    /// The observers of this server hear of pauses.
    pub(super) fn of(server: &Arc<Shared>) -> Self {
        Replacing {
            backoff: Backoff::new(REPLACING).of(server),
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
        let was_calm = self.pause.lock().is_some_and(|pause| now > pause + CALM);
        if was_calm {
            self.backoff.succeeded(self.backoff.attempt());
        }
        let until = now + self.backoff.next(&why);
        *self.pause.lock().insert(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_begin_anew_after_a_calm_time() {
        let replacing = Replacing::of(&Arc::new(Shared::new()));
        let longest = || Instant::now() + Duration::from_secs(1);
        let before = longest();
        let until = (0..20).map(|_| replacing.pause("as told")).last().unwrap();
        assert!(until >= before);
        // As if that had been over for so long.
        *replacing.pause.lock() = Instant::now().checked_sub(CALM + Duration::from_secs(1));
        let before = longest();
        assert!(replacing.pause("as told") < before);
    }
}

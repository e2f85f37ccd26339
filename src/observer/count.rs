//! An observer that counts.

use super::{Event, Observer, Outcome};
use crate::mutex::Mutex;

/// Counts events, of one server or of several that it is attached to.
///
/// What one server does, [`stats`](crate::BaseServer::stats) tells without it; this tells more kinds of
/// failures apart and sums over servers. Not over processes: each worker of a [`PreFork`](crate::PreFork) server has a
/// copy that counts for itself, and the master's counts only children and back-offs. What fails, panics or times out in
/// a child of [`Forking`](crate::Forking) has failed.
///
/// ```
/// use std::sync::Arc;
/// use socketserver::prelude::*;
/// use socketserver::CountingObserver;
///
/// let observer = Arc::new(CountingObserver::default());
/// let public = ThreadingTcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {}).observer(observer.clone());
/// let admin = UnixStreamServer::new("/run/admin.sock", |_: &mut UnixStreamRequest| {}).observer(observer.clone());
/// assert_eq!(observer.counts().accepted, 0);
/// ```
#[derive(Debug, Default)]
pub struct CountingObserver {
    counts: Mutex<EventCounts>,
}

/// What a [`CountingObserver`] has counted: exact, all of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventCounts {
    /// Requests accepted.
    pub accepted: u64,
    /// Requests that `verify_request` refused.
    pub refused: u64,
    /// Requests that a limit rejected.
    pub rejected: u64,
    /// Requests that had to wait for their address's turn.
    pub waited: u64,
    /// Requests started.
    pub started: u64,
    /// Requests started that are not over.
    pub running: u64,
    /// Requests that ended without an error.
    pub served: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that panicked.
    pub panicked: u64,
    /// Requests whose process was killed or left by itself.
    pub exited: u64,
    /// Requests dropped before they ran.
    pub dropped: u64,
    /// Requests that failed because a clock ran out, of [`Timeouts`](crate::Timeouts) or of a message.
    pub timed_out: u64,
    /// Children that have ended.
    pub children_exited: u64,
    /// How often accepting, or starting requests or workers, had to be backed off.
    pub back_offs: u64,
}

impl CountingObserver {
    /// What it has counted so far.
    pub fn counts(&self) -> EventCounts {
        *self.counts.lock()
    }
}

impl EventCounts {
    fn counter(&mut self, event: &Event<'_>) -> Option<&mut u64> {
        Some(match event {
            Event::Accepted { .. } => &mut self.accepted,
            Event::Refused { .. } => &mut self.refused,
            Event::Rejected { .. } => &mut self.rejected,
            Event::Waiting { .. } => &mut self.waited,
            Event::Started { .. } => {
                self.running += 1;
                &mut self.started
            }
            Event::TimedOut { .. } => &mut self.timed_out,
            Event::Finished { outcome, .. } => {
                self.running -= 1;
                match outcome {
                    Outcome::Served => &mut self.served,
                    Outcome::Failed => &mut self.failed,
                    Outcome::Panicked => &mut self.panicked,
                    Outcome::Exited(_) => &mut self.exited,
                    Outcome::Dropped => &mut self.dropped,
                }
            }
            Event::ChildExited { .. } => &mut self.children_exited,
            Event::BackOffBegun { .. } => &mut self.back_offs,
            _ => return None,
        })
    }
}

impl Observer for CountingObserver {
    fn observe(&self, event: &Event<'_>) {
        let mut counts = self.counts.lock();
        if let Some(counter) = counts.counter(event) {
            *counter += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;
    use std::time::Duration;

    use super::*;
    use crate::address::Address;
    use crate::limits::LimitKind;
    use crate::timeouts::{TimeoutError, TimeoutKind};

    #[test]
    fn each_event_has_its_counter() {
        let (number, client_address, limit) = (1, &Address::Unnamed, LimitKind::PerAddress);
        let (duration, status) = (Duration::ZERO, ExitStatus::from_raw(0));
        let counting = CountingObserver::default();
        let started = || counting.observe(&Event::Started { number, client_address });
        let finished = |outcome| {
            let waited = duration;
            counting.observe(&Event::Finished {
                number,
                client_address,
                waited,
                duration,
                outcome,
            });
        };
        // Each another number of times.
        let times = |times: usize, event: Event<'_>| (0..times).for_each(|_| counting.observe(&event));
        times(1, Event::Accepted { number, client_address });
        times(2, Event::Refused { number, client_address });
        times(
            3,
            Event::Rejected {
                number,
                client_address,
                limit,
            },
        );
        times(
            4,
            Event::Waiting {
                number,
                client_address,
                limit,
            },
        );
        times(
            5,
            Event::TimedOut {
                number,
                client_address,
                timeout: TimeoutError::new(TimeoutKind::Read, duration),
            },
        );
        times(
            6,
            Event::ChildExited {
                number: None,
                process: 1,
                status,
            },
        );
        let (what, reason) = ("test", String::new());
        times(7, Event::BackOffBegun { what, reason });
        times(8, Event::BackOffEnded { what, duration });
        (0..20).for_each(|_| started());
        let outcomes = [
            (1, Outcome::Served),
            (2, Outcome::Failed),
            (3, Outcome::Panicked),
            (4, Outcome::Exited(status)),
            (5, Outcome::Dropped),
        ];
        for (times, outcome) in outcomes {
            (0..times).for_each(|_| finished(outcome));
        }
        let expected = EventCounts {
            accepted: 1,
            refused: 2,
            rejected: 3,
            waited: 4,
            started: 20,
            running: 5,
            served: 1,
            failed: 2,
            panicked: 3,
            exited: 4,
            dropped: 5,
            timed_out: 5,
            children_exited: 6,
            back_offs: 7,
        };
        assert_eq!(counting.counts(), expected);
    }
}

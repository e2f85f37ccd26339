//! What a server did, told when it has ended.

use std::fmt;
use std::process::{ExitCode, Termination};
use std::time::Duration;

/// What [`serve_forever`](crate::BaseServer::serve_forever) returns: exact counts of requests.
///
/// A request is a connection or a datagram. Each one that was accepted is in `served`, in `failed` or, if it still
/// runs, in `leaked`, unless `verify_request` refused it or a limit rejected it: [`Stats`](crate::Stats) count those.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Requests whose handler ended without an error.
    pub served: u64,
    /// Requests whose handler failed or panicked, whose process was killed, or that were dropped.
    pub failed: u64,
    /// Requests that ended by themselves after the server was told to stop: those in progress then, and
    /// those that the kernel had queued.
    pub drained: u64,
    /// Requests still in progress at the deadline (or at a second signal), whose sockets were shut down or
    /// processes told to end.
    pub forced: u64,
    /// Requests that did not even end then: their threads still run.
    pub leaked: u64,
    /// From the request to stop until the end.
    pub elapsed: Duration,
}

/// So that `main` can return what `serve_forever` does: success, unless a request had to be left behind.
impl Termination for Report {
    fn report(self) -> ExitCode {
        if self.leaked == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            served,
            failed,
            drained,
            forced,
            leaked,
            ..
        } = self;
        write!(
            f,
            "served={served} failed={failed} drained={drained} forced={forced} leaked={leaked}"
        )
    }
}

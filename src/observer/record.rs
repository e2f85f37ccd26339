//! An observer that logs.

use super::{Event, Observer};

/// Logs each event under the target `socketserver::event`, with its fields as the record's key-values (`kv` of
/// the log crate) for those who collect them.
///
/// What is somebody's loss (refused, rejected, timed out) is logged at `warn`, the end of a request at `info`,
/// the rest at `debug`: back-offs and draining the server reports itself, in words, at higher levels.
///
/// The keys: `number`, `client`, `limit`, `clock`, `outcome`, `waited_us` and `duration_us` (microseconds), `reason`,
/// `process`, `status`, `running`. A worker of a [`PreFork`](crate::PreFork) server that ended has no `number`: the key
/// has no value.
///
/// ```
/// use socketserver::prelude::*;
/// use socketserver::LoggingObserver;
///
/// let server = ThreadingTcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {}).observer(LoggingObserver);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct LoggingObserver;

const TARGET: &str = "socketserver::event";

impl Observer for LoggingObserver {
    fn observe(&self, event: &Event<'_>) {
        match event {
            Event::Accepted { number, client_address } => {
                log::debug!(target: TARGET, number, client:% = client_address; "accepted {client_address}");
            }
            Event::Refused { number, client_address } => {
                log::warn!(target: TARGET, number, client:% = client_address; "refused {client_address}");
            }
            Event::Rejected {
                number,
                client_address,
                limit,
            } => {
                log::warn!(target: TARGET, number, client:% = client_address, limit:%;
                    "rejected {client_address}: {limit} is reached");
            }
            Event::Waiting {
                number,
                client_address,
                limit,
            } => {
                log::debug!(target: TARGET, number, client:% = client_address, limit:%;
                    "{client_address} waits: {limit} is reached");
            }
            Event::Started { number, client_address } => {
                log::debug!(target: TARGET, number, client:% = client_address; "started {client_address}");
            }
            Event::TimedOut {
                number,
                client_address,
                timeout,
            } => {
                log::warn!(target: TARGET, number, client:% = client_address, clock:% = timeout.kind();
                    "timed out {client_address}: {timeout}");
            }
            Event::Finished {
                number,
                client_address,
                waited,
                duration,
                outcome,
            } => {
                let (waited_us, duration_us) = (waited.as_micros(), duration.as_micros());
                log::info!(target: TARGET, number, client:% = client_address, outcome:%, waited_us, duration_us;
                    "{outcome} {client_address} in {duration:.1?}");
            }
            Event::BackOffBegun { what, reason } => {
                log::debug!(target: TARGET, reason:%; "{what}: {reason}");
            }
            Event::BackOffEnded { what, duration } => {
                log::debug!(target: TARGET, duration_us = duration.as_micros(); "{what}: over after {duration:.1?}");
            }
            Event::ChildExited {
                number,
                process,
                status,
            } => {
                log::debug!(target: TARGET, number, process, status:%; "process {process} ended: {status}");
            }
            Event::Suspended => log::debug!(target: TARGET, "accepting is suspended"),
            Event::Resumed => log::debug!(target: TARGET, "accepting is resumed"),
            Event::Draining { running, left } => {
                log::debug!(target: TARGET, running; "draining: {running} requests, {left:?} left");
            }
        }
    }
}

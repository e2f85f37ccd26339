//! What a server has done and does now.

use std::fmt;
use std::time::Duration;

use crate::address::Address;
use crate::lifecycle::State;
use crate::limits::LimitKind;
use crate::observer::Outcome;

/// What a server has done and does now: exact, all of one moment.
///
/// A request is a connection or a datagram. At every moment, also when handlers panic, children are killed
/// or the server has ended:
///
/// * `accepted = refused + rejected + waiting + started`
/// * `started = served + failed + running`
///
/// Its text is one line of `name=value`.
///
/// ```
/// use socketserver::prelude::*;
///
/// let server = ThreadingTcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {}).bind()?;
/// let handle = server.handle();
/// let running = server.spawn()?;
/// assert_eq!(handle.stats().running, 0);
/// assert_eq!(running.stop()?.served, handle.stats().served);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Where the server is in its life.
    pub state: State,
    /// Requests that were accepted.
    pub accepted: u64,
    /// Requests that [`verify_request`](crate::BaseServer::verify_request) refused.
    pub refused: u64,
    /// Requests that a limit rejected; for which limit says [`rejected_by`](Self::rejected_by).
    pub rejected: u64,
    /// Requests that wait for their address's turn now; in the workers of a [`PreFork`](crate::PreFork) server also
    /// those that were accepted this moment.
    pub waiting: usize,
    /// Requests given to [`process_request`](crate::BaseServer::process_request).
    pub started: u64,
    /// Requests in progress now, those queued for a worker included.
    pub running: usize,
    /// Requests whose handler ended without an error.
    pub served: u64,
    /// Requests whose handler failed or panicked, whose process was killed, or that were dropped.
    pub failed: u64,
    /// The requests that run or wait now, in the order in which they came. The master of a
    /// [`PreFork`](crate::PreFork) server counts those of its workers and does not list them.
    pub connections: Vec<Connection>,
    rejected_by: [u64; LimitKind::ALL.len()],
}

/// A request in progress, as [`Stats`] lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connection {
    /// Its number, counted from 1: that of [`ServerContext::number`](crate::ServerContext::number), and
    /// what [`ServerHandle::close_connection`](crate::ServerHandle::close_connection) takes.
    pub number: u64,
    /// Whose it is.
    pub client_address: Address,
    /// How long ago it was accepted.
    pub age: Duration,
    /// Whether it waits for its address's turn and does not run yet.
    pub waiting: bool,
    /// Bytes that the request has read from its stream, those read ahead included, or the length of the
    /// datagram, as much of it as was kept. What is read from the raw stream
    /// ([`get_ref`](crate::StreamRequest::get_ref)) is not counted. `None` if a forked child serves it: what it does,
    /// its parent cannot see.
    pub received: Option<u64>,
    /// Bytes that it has written, counted likewise.
    pub sent: Option<u64>,
}

impl Stats {
    pub(crate) fn new(
        state: State,
        counts: &Counts,
        running: usize,
        waiting: usize,
        connections: Vec<Connection>,
    ) -> Self {
        let rejected = counts.rejected.iter().sum();
        Stats {
            state,
            accepted: counts.refused + rejected + waiting as u64 + counts.started,
            refused: counts.refused,
            rejected,
            waiting,
            started: counts.started,
            running,
            served: counts.served,
            failed: counts.failed,
            connections,
            rejected_by: counts.rejected,
        }
    }

    /// Requests that this limit rejected.
    pub fn rejected_by(&self, limit: LimitKind) -> u64 {
        self.rejected_by[limit as usize]
    }

    /// Writes it to the log, at `info`: a line of counts, then one for each connection.
    pub(crate) fn log(&self) {
        log::info!("{self}");
        for connection in &self.connections {
            log::info!("{connection}");
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stats {
            state,
            accepted,
            refused,
            rejected,
            waiting,
            started,
            running,
            served,
            failed,
            ..
        } = self;
        write!(
            f,
            "state={state} accepted={accepted} refused={refused} rejected={rejected} waiting={waiting} \
             started={started} running={running} served={served} failed={failed}"
        )
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connection {
            number,
            client_address,
            age,
            waiting,
            received,
            sent,
        } = self;
        let age = age.as_secs_f64();
        write!(f, "connection={number} client={client_address} age={age:.3}s")?;
        if *waiting {
            f.write_str(" waiting")?;
        }
        if let (Some(received), Some(sent)) = (received, sent) {
            write!(f, " received={received} sent={sent}")?;
        }
        Ok(())
    }
}

/// The counts that only ever grow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) refused: u64,
    pub(crate) rejected: [u64; LimitKind::ALL.len()],
    pub(crate) started: u64,
    pub(crate) served: u64,
    pub(crate) failed: u64,
    pub(crate) drained: u64,
    pub(crate) forced: u64,
}

impl Counts {
    /// So many requests have come to this end, in this way.
    pub(crate) fn add(&mut self, end: End, way: Way, requests: u64) {
        match end {
            End::Served => self.served += requests,
            End::Failed => self.failed += requests,
            End::Refused => self.refused += requests,
            End::Rejected(limit) => self.rejected[limit as usize] += requests,
        }
        match (end, way) {
            (End::Served | End::Failed, Way::Drained) => self.drained += requests,
            (End::Served | End::Failed, Way::Forced) => self.forced += requests,
            _ => {}
        }
    }
}

/// What a request counts as in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Served,
    Failed,
    Refused,
    Rejected(LimitKind),
}

impl From<Outcome> for End {
    fn from(outcome: Outcome) -> Self {
        if outcome == Outcome::Served {
            End::Served
        } else {
            End::Failed
        }
    }
}

/// How it came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Usual,
    /// By itself, although the server was told to stop.
    Drained,
    /// Its socket was shut down, or its process told to end.
    Forced,
}

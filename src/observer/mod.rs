//! Seeing what a server does: events, and whoever wants to hear of them.

mod count;
mod record;

use std::fmt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::limits::LimitKind;
use crate::timeouts::TimeoutError;

pub use count::{CountingObserver, EventCounts};
pub use record::LoggingObserver;

/// What happens in a server, told to its [`Observer`]s.
///
/// Of each request that was accepted they hear, in this order: `Accepted`; then `Refused`, or `Rejected`,
/// or (perhaps after `Waiting`) `Started`; after `Started`, perhaps `TimedOut`, and at last `Finished`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A request was accepted.
    #[non_exhaustive]
    Accepted {
        /// Its number, counted from 1.
        number: u64,
        /// Whose it is.
        client_address: &'a Address,
    },
    /// [`verify_request`](crate::BaseServer::verify_request) refused it.
    #[non_exhaustive]
    Refused {
        /// The request's number.
        number: u64,
        /// Whose it was.
        client_address: &'a Address,
    },
    /// A limit rejected it.
    #[non_exhaustive]
    Rejected {
        /// The request's number.
        number: u64,
        /// Whose it was.
        client_address: &'a Address,
        /// Which limit.
        limit: LimitKind,
    },
    /// It waits until a limit on its address has room.
    #[non_exhaustive]
    Waiting {
        /// The request's number.
        number: u64,
        /// Whose it is.
        client_address: &'a Address,
        /// Which limit.
        limit: LimitKind,
    },
    /// It is given to [`process_request`](crate::BaseServer::process_request).
    #[non_exhaustive]
    Started {
        /// The request's number.
        number: u64,
        /// Whose it is.
        client_address: &'a Address,
    },
    /// It failed because a clock ran out: of [`Timeouts`](crate::Timeouts), or of a message. In a forked child, which
    /// has no observers, nobody hears of it.
    #[non_exhaustive]
    TimedOut {
        /// The request's number.
        number: u64,
        /// Whose it was.
        client_address: &'a Address,
        /// Which clock, and what it was set to.
        timeout: TimeoutError,
    },
    /// It is over, and its connection closed.
    #[non_exhaustive]
    Finished {
        /// The request's number.
        number: u64,
        /// Whose it was.
        client_address: &'a Address,
        /// From being accepted until its handler began.
        waited: Duration,
        /// From there to the end.
        duration: Duration,
        /// How it ended.
        outcome: Outcome,
    },
    /// Accepting, or starting what was accepted, or a worker, does not work for want of resources, and is
    /// tried again ever more slowly.
    #[non_exhaustive]
    BackOffBegun {
        /// What does not work, such as `cannot accept`.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// It works again; of workers that end at once or cannot be started: has for ten seconds.
    #[non_exhaustive]
    BackOffEnded {
        /// What did not work.
        what: &'static str,
        /// For how long.
        duration: Duration,
    },
    /// A child of a [`Forking`](crate::Forking) server has ended, or a worker of a
    /// [`PreFork`](crate::PreFork) server.
    #[non_exhaustive]
    ChildExited {
        /// The number of the request that the child served; `None` for a worker.
        number: Option<u64>,
        /// Its process id.
        process: i32,
        /// How it ended.
        status: ExitStatus,
    },
    /// Accepting was suspended ([`ServerHandle::suspend`](crate::ServerHandle::suspend)).
    Suspended,
    /// Accepting was resumed.
    Resumed,
    /// The server was told to stop: new clients are refused, those that the kernel has queued still accepted, and the
    /// requests in progress waited for. Told when that begins, and then once a second.
    ///
    /// A handler that waits for something else than its client, as long-polling ones do, is told of the drain by
    /// nothing else: an observer that notifies the condition which it waits on
    /// ([`Condvar::notify_all`](std::sync::Condvar::notify_all)) lets it look whether the server
    /// [is draining](crate::ServerContext::is_draining). But a server that serves one at a time begins when its handler
    /// has ended, a worker of a [`PreFork`](crate::PreFork) server, too. (Whether its client has left, a handler
    /// [asks](crate::StreamRequest::is_disconnected).)
    #[non_exhaustive]
    Draining {
        /// How many there are.
        running: usize,
        /// How long it waits at most; `None`: for ever.
        left: Option<Duration>,
    },
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Its handler ended without an error.
    Served,
    /// Its handler failed, or it could not be started.
    Failed,
    /// Its handler, or one of the hooks `verify_request` and `finish_request`, panicked. (In a forked child it has
    /// [`Failed`](Self::Failed): the status of the child says no more.)
    Panicked,
    /// Its process was killed or left by itself: with neither 0 nor 1, which say how a handler ended.
    Exited(ExitStatus),
    /// It was dropped before it ran: by a strategy, by a `process_request` that panicked, or at the end of a drain.
    Dropped,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Served => f.write_str("served"),
            Outcome::Failed => f.write_str("failed"),
            Outcome::Panicked => f.write_str("panicked"),
            Outcome::Exited(status) => status.fmt(f),
            Outcome::Dropped => f.write_str("dropped"),
        }
    }
}

/// Hears of what happens in a server; attached with [`observer`](crate::Configure::observer), as many as
/// wanted. A closure is one if it writes the type of its argument, `&Event<'_>`.
///
/// A server keeps its observers as long as it lives, so they may have a [`ServerHandle`](crate::ServerHandle) of it.
///
/// It is called where the thing happens: on the accept loop, or on the thread that serves the request. Never
/// wait in it. The children of a [`Forking`](crate::Forking) server tell nothing: what becomes of their requests,
/// the parent tells. The workers of a [`PreFork`](crate::PreFork) server each tell what they do, to their own copy of
/// the observer.
///
/// ```
/// use std::sync::mpsc;
/// use socketserver::prelude::*;
/// use socketserver::Event;
///
/// let (slow, slow_requests) = mpsc::channel();
/// let server = ThreadingTcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {})
///     .observer(move |event: &Event<'_>| {
///         if let Event::Finished { client_address, duration, .. } = event
///             && duration.as_secs() > 10
///         {
///             let _ = slow.send(Address::clone(client_address));
///         }
///     });
/// ```
pub trait Observer: Send + Sync + 'static {
    /// Hears of one event.
    fn observe(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Send + Sync + 'static> Observer for F {
    fn observe(&self, event: &Event<'_>) {
        self(event);
    }
}

/// So that the program can keep an observer that it attaches.
impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn observe(&self, event: &Event<'_>) {
        (**self).observe(event);
    }
}

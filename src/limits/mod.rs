//! Limits: how many requests at once, how many of one client, how fast, and what happens beyond.

mod addresses;
mod admit;
mod linger;
mod queue;
mod waiting;

use std::fmt;
use std::io;
use std::time::Duration;

use crate::config::Config;
use crate::error::invalid_input;

pub(crate) use addresses::{AddressRules, Addresses, Client, Verdict};
pub(crate) use linger::{Linger, send_farewell};
pub(crate) use waiting::WaitingRoom;

/// What happens to a request that a limit leaves no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnLimit {
    /// It waits for room. Where the limit is on the server as a whole, the server stops accepting and the
    /// kernel's queue holds it; where it is on one client, it is accepted and held without a thread or
    /// process while other clients are served.
    Wait,
    /// It is accepted, told the [`farewell`](crate::Config::farewell), closed and counted; see
    /// [`reject_request`](crate::BaseServer::reject_request).
    Reject,
}

/// A number of requests, and what happens to those beyond. A plain number waits.
///
/// ```
/// use socketserver::prelude::*;
///
/// let server = ThreadingTcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {})
///     .max_connections(1000)
///     .max_per_address(Limit::reject(10))
///     .farewell("too many connections\r\n");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    max: usize,
    on_limit: OnLimit,
}

impl Limit {
    /// At most `max` requests at once.
    pub const fn new(max: usize, on_limit: OnLimit) -> Self {
        Limit { max, on_limit }
    }

    /// At most `max` requests at once; more wait.
    pub const fn wait(max: usize) -> Self {
        Limit::new(max, OnLimit::Wait)
    }

    /// At most `max` requests at once; more are rejected.
    pub const fn reject(max: usize) -> Self {
        Limit::new(max, OnLimit::Reject)
    }

    /// How many requests there may be at once.
    pub const fn max(self) -> usize {
        self.max
    }

    /// What happens to those beyond.
    pub const fn on_limit(self) -> OnLimit {
        self.on_limit
    }
}

impl From<usize> for Limit {
    fn from(max: usize) -> Self {
        Limit::wait(max)
    }
}

/// A number of requests in a time, and what happens to those that come faster: a token bucket. A plain
/// number is so many a second, and those beyond wait.
///
/// The bucket holds [`burst`](Self::burst) tokens and is full at first; each request takes one, and one
/// comes back every `per / requests`.
///
/// ```
/// use std::time::Duration;
/// use socketserver::prelude::*;
///
/// // 20 datagrams a minute from each address, 5 of them at once.
/// let limit = RateLimit::reject(20).per(Duration::from_secs(60)).burst(5);
/// let server = UdpServer::new("127.0.0.1:0", |_: &mut DatagramRequest| {}).max_rate_per_address(limit);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateLimit {
    requests: u32,
    per: Duration,
    burst: u32,
    on_limit: OnLimit,
}

impl RateLimit {
    /// `requests` a second, and as many at once after a quiet second.
    pub const fn new(requests: u32, on_limit: OnLimit) -> Self {
        RateLimit {
            requests,
            per: Duration::from_secs(1),
            burst: requests,
            on_limit,
        }
    }

    /// `requests` a second; those that come faster wait for their turn.
    pub const fn wait(requests: u32) -> Self {
        RateLimit::new(requests, OnLimit::Wait)
    }

    /// `requests` a second; those that come faster are rejected.
    pub const fn reject(requests: u32) -> Self {
        RateLimit::new(requests, OnLimit::Reject)
    }

    /// Counts the requests for `period` instead of for a second.
    #[must_use]
    pub const fn per(self, period: Duration) -> Self {
        RateLimit { per: period, ..self }
    }

    /// Lets `requests` come at once after a quiet time; as many as in a period unless set, at least 1.
    #[must_use]
    pub const fn burst(self, requests: u32) -> Self {
        RateLimit {
            burst: requests,
            ..self
        }
    }

    /// What happens to those that come faster.
    pub const fn on_limit(self) -> OnLimit {
        self.on_limit
    }

    /// The time in which one token comes back; `None` if it is too short to tell.
    fn interval(self) -> Option<Duration> {
        self.per
            .checked_div(self.requests)
            .filter(|interval| !interval.is_zero())
    }
}

impl From<u32> for RateLimit {
    fn from(requests: u32) -> Self {
        RateLimit::wait(requests)
    }
}

/// Which limit left a request no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LimitKind {
    /// [`max_connections`](crate::Config::max_connections).
    Connections,
    /// [`max_per_address`](crate::Config::max_per_address).
    PerAddress,
    /// [`max_rate_per_address`](crate::Config::max_rate_per_address).
    RatePerAddress,
    /// [`Threading::max_threads`](crate::Threading::max_threads).
    Threads,
    /// [`Forking::max_children`](crate::Forking::max_children).
    Children,
    /// [`ThreadPool::queue_size`](crate::ThreadPool::queue_size).
    Queue,
}

impl LimitKind {
    pub(crate) const ALL: [LimitKind; 6] = [
        LimitKind::Connections,
        LimitKind::PerAddress,
        LimitKind::RatePerAddress,
        LimitKind::Threads,
        LimitKind::Children,
        LimitKind::Queue,
    ];
}

/// As the attribute that sets it: `max_per_address`.
impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LimitKind::Connections => "max_connections",
            LimitKind::PerAddress => "max_per_address",
            LimitKind::RatePerAddress => "max_rate_per_address",
            LimitKind::Threads => "max_threads",
            LimitKind::Children => "max_children",
            LimitKind::Queue => "queue_size",
        })
    }
}

/// How many requests a server has room for: what [`capacity`](crate::BaseServer::capacity) returns, put
/// together from the limits of all layers.
///
/// ```
/// use socketserver::prelude::*;
/// use socketserver::{Capacity, LimitKind};
///
/// /// Lets two requests run at once.
/// struct Two<S>(S);
///
/// impl<S: BaseServer> BaseServer for Two<S> {
///     type Transport = S::Transport;
///     type Inner = S;
///     fn inner(&self) -> &S {
///         &self.0
///     }
///
///     fn capacity(&self) -> Capacity {
///         self.inner().capacity().and(Limit::wait(2), LimitKind::Connections)
///     }
/// }
///
/// let server = Two(ThreadingTcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {}));
/// assert_eq!(server.capacity().max(), 2);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// At this number the server stops accepting.
    wait: usize,
    /// At this number it rejects, and for which limit.
    reject: usize,
    rejecting: LimitKind,
}

impl Capacity {
    /// No limit.
    pub const UNLIMITED: Capacity = Capacity {
        wait: usize::MAX,
        reject: usize::MAX,
        rejecting: LimitKind::Connections,
    };

    /// With another limit, which the user knows as `kind`. Of several the smallest decides; of one that
    /// waits and one that rejects at the same number, the one that waits.
    #[must_use]
    pub const fn and(mut self, limit: Limit, kind: LimitKind) -> Self {
        match limit.on_limit {
            OnLimit::Wait if limit.max < self.wait => self.wait = limit.max,
            OnLimit::Reject if limit.max < self.reject => {
                self.reject = limit.max;
                self.rejecting = kind;
            }
            _ => {}
        }
        self
    }

    /// How many requests can be in progress at once.
    pub const fn max(self) -> usize {
        if self.wait < self.reject {
            self.wait
        } else {
            self.reject
        }
    }

    /// Whether requests beyond wait in the kernel's queue.
    pub(crate) fn waits(self) -> bool {
        self.wait < usize::MAX
    }

    /// Whether another can be accepted while `taken` have been.
    pub(crate) fn has_place(self, taken: usize) -> bool {
        taken < self.wait
    }

    /// The limit for which another is rejected while `running` are in progress.
    pub(crate) fn rejects(self, running: usize) -> Option<LimitKind> {
        (running >= self.reject).then_some(self.rejecting)
    }
}

/// What the attributes say of the server as a whole.
pub(crate) fn capacity(config: &Config) -> Capacity {
    match config.max_connections {
        Some(limit) => Capacity::UNLIMITED.and(limit, LimitKind::Connections),
        None => Capacity::UNLIMITED,
    }
}

/// Refuses limits under which nobody could ever be served, and those that are none.
pub(crate) fn check(config: &Config) -> io::Result<()> {
    let at_zero = if config.max_connections.is_some_and(|limit| limit.max == 0) {
        LimitKind::Connections
    } else if config.max_per_address.is_some_and(|limit| limit.max == 0) {
        LimitKind::PerAddress
    } else if config.max_rate_per_address.is_some_and(|limit| limit.requests == 0) {
        LimitKind::RatePerAddress
    } else if config.max_rate_per_address.is_some_and(|limit| limit.per.is_zero()) {
        return Err(invalid_input(format!(
            "{} in a period of zero would limit nothing: set `per` to more",
            LimitKind::RatePerAddress
        )));
    } else {
        return Ok(());
    };
    Err(invalid_input(format!(
        "with {at_zero} at 0 the server would never serve anybody: set it to 1 or more"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_limit_of_each_policy_decides() {
        let capacity = Capacity::UNLIMITED
            .and(Limit::wait(9), LimitKind::Connections)
            .and(Limit::reject(7), LimitKind::Connections)
            .and(Limit::reject(5), LimitKind::Children)
            .and(Limit::reject(6), LimitKind::Threads)
            .and(Limit::wait(10), LimitKind::Queue);
        assert_eq!(capacity.max(), 5);
        assert!(capacity.has_place(8) && !capacity.has_place(9));
        assert_eq!(capacity.rejects(4), None);
        assert_eq!(capacity.rejects(5), Some(LimitKind::Children));
    }
}

//! Where a server is in its life.

use std::fmt;

#[cfg(doc)]
use super::ServerHandle;

/// Where a server is in its life. It only goes forward, except between [`Serving`](State::Serving) and
/// [`Suspended`](State::Suspended).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum State {
    /// Made, not bound: no socket exists yet.
    New,
    /// Bound and listening; nobody accepts yet, or only [`handle_request`](crate::BaseServer::handle_request) does.
    Bound,
    /// Accepting and serving.
    Serving,
    /// Serving what was accepted, and not accepting: [`ServerHandle::suspend`]. Not of a server that does not serve
    /// yet, or whose requests [`handle_request`](crate::BaseServer::handle_request) handles:
    /// [`ServerHandle::is_suspended`].
    Suspended,
    /// Told to stop: what had arrived is still served.
    Draining,
    /// Over: the socket is closed.
    Closed,
}

impl State {
    pub(super) const ALL: [State; 6] = [
        State::New,
        State::Bound,
        State::Serving,
        State::Suspended,
        State::Draining,
        State::Closed,
    ];
}

/// Its name in lower case.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::New => "new",
            State::Bound => "bound",
            State::Serving => "serving",
            State::Suspended => "suspended",
            State::Draining => "draining",
            State::Closed => "closed",
        })
    }
}

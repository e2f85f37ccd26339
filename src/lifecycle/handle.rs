//! Looking at a server and controlling it from elsewhere.

use std::fmt;
use std::sync::Arc;

use super::{Shared, ShutdownHandle, State};
use crate::stats::Stats;

/// Looks at a server and controls it, from any thread, also after
/// [`serve_forever`](crate::BaseServer::serve_forever) has taken the server away and after it has ended.
///
/// From [`BaseServer::handle`](crate::BaseServer::handle); clones are for the same server. In a forked child
/// it is a copy like all memory: what it does there, the server does not see. In a signal handler only
/// [`shutdown`](ShutdownHandle::shutdown) may be called; for all else there is
/// [`on_signal`](crate::Configure::on_signal).
///
/// ```
/// use std::net::TcpStream;
/// use socketserver::prelude::*;
/// use socketserver::State;
///
/// let server = ThreadingTcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {}).bind()?;
/// let handle = server.handle();
/// let running = server.spawn()?;
///
/// handle.suspend();
/// let _client = TcpStream::connect(running.server_address().as_inet().unwrap())?; // waits in the kernel's queue
/// handle.resume();
/// assert_eq!(running.stop()?.served, 1);
/// assert_eq!(handle.state(), State::Closed);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct ServerHandle {
    shared: Arc<Shared>,
}

impl ServerHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        ServerHandle { shared }
    }

    /// What the server has done and does now.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Where the server is in its life.
    pub fn state(&self) -> State {
        self.shared.state()
    }

    /// Stops accepting; the requests in progress go on. The socket stays bound and listening: clients that
    /// come are held by the kernel's queue, as many as it has room for
    /// ([`request_queue_size`](crate::Configure::request_queue_size); datagrams: its receive buffer), and
    /// served after [`resume`](Self::resume), or when the server drains.
    ///
    /// Who connects after this has returned is not accepted; a request that is being accepted meanwhile is
    /// served. It waits for that, a moment usually, two seconds at most. A server that is not serving yet will start
    /// suspended. Again is nothing.
    ///
    /// Where several servers accept from one [socket made elsewhere](crate::SocketServer::with_transport), a client
    /// that comes in the very moment in which one of them is suspended may wait until the next comes; and a worker of a
    /// [`PreFork`](crate::PreFork) server may still accept one that comes in the moment after. The datagrams that a
    /// bare server has received from such a socket with one call it serves all, because none of the others can.
    pub fn suspend(&self) {
        self.shared.suspend();
    }

    /// Accepts again. Again is nothing.
    pub fn resume(&self) {
        self.shared.resume();
    }

    /// Whether the server is told not to accept: [`suspend`](Self::suspend), and not [`resume`](Self::resume) since. In
    /// any [`state`](Self::state), of which only [`Serving`](State::Serving) becomes [`Suspended`](State::Suspended): a
    /// server that [`handle_request`](crate::BaseServer::handle_request) alone drives stays [`Bound`](State::Bound).
    pub fn is_suspended(&self) -> bool {
        self.shared.is_suspended()
    }

    /// Ends one connection, given by its [number](crate::Connection::number): its socket is shut down
    /// both ways, so that the handler's reads and writes end; its process, if it has one of its own, is told
    /// to end (SIGTERM). False if there is no such connection, or it has no socket of its own (datagrams).
    ///
    /// The handler decides when it returns: the connection stays in [`stats`](Self::stats) until then.
    pub fn close_connection(&self, number: u64) -> bool {
        self.shared.close_connection(number)
    }

    /// A handle that stops the server.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        ShutdownHandle::new(Arc::clone(&self.shared))
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

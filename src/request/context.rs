//! The server, as a request sees it.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::address::Address;
use crate::lifecycle::{Activity, ServerHandle, Shared, ShutdownHandle};

/// The server, as a request sees it: Python's `self.server`, reduced to what a handler may safely use.
///
/// A request that was made by hand (a unit test) has a context too; it belongs to no server, is never
/// draining, and has number 0.
#[derive(Clone)]
pub struct ServerContext {
    /// With the activity, or without: a request that was made by hand has neither.
    shared: Option<Arc<Shared>>,
    number: u64,
    activity: Option<Arc<Activity>>,
}

impl ServerContext {
    pub(crate) fn new(shared: Arc<Shared>, number: u64, activity: Arc<Activity>) -> Self {
        ServerContext {
            shared: Some(shared),
            number,
            activity: Some(activity),
        }
    }

    pub(crate) fn detached() -> Self {
        ServerContext {
            shared: None,
            number: 0,
            activity: None,
        }
    }

    /// The handler got so many bytes of its client.
    pub(crate) fn took(&self, count: usize) {
        self.heartbeat();
        if count > 0 {
            self.message_begun();
        }
    }

    /// The handler wrote to its client, perhaps still in its setup. True if the connection has become idle by that and
    /// is to end.
    pub(crate) fn answered(&self, in_setup: bool) -> bool {
        self.heartbeat();
        let answered = |activity: &Activity| activity.answered(in_setup);
        self.activity.as_deref().is_some_and(answered) && self.is_told_to_stop()
    }

    /// The handler is about to read. True if the connection is idle and is to end.
    pub(crate) fn begin_read(&self) -> bool {
        self.heartbeat();
        self.activity.as_ref().is_some_and(|activity| activity.begin_read()) && self.is_told_to_stop()
    }

    pub(crate) fn end_read(&self) {
        if let Some(activity) = &self.activity {
            activity.end_read();
        }
    }

    /// Ends the connection, whose socket this is, if it is idle.
    pub(crate) fn end_if_idle(&self, socket: RawFd) {
        if let Some(activity) = &self.activity {
            activity.end_if_idle(socket);
        }
    }

    /// The reads that follow are for the rest of a message, or are not any more.
    pub(crate) fn set_in_message(&self, in_message: bool) {
        if let Some(activity) = &self.activity {
            activity.set_in_message(in_message);
        }
    }

    /// Whose request it is, the handler knows better than the socket.
    pub(crate) fn set_client_address(&self, client_address: Address) {
        let (Some(shared), Some(activity)) = (&self.shared, &self.activity) else {
            return;
        };
        if let Some(master) = shared.master() {
            master.serves(&client_address);
        }
        activity.set_client_address(client_address, shared.in_child());
    }

    /// So many bytes came from the client.
    pub(crate) fn received(&self, bytes: usize) {
        if let Some(activity) = &self.activity {
            activity.add_received(bytes);
        }
    }

    /// The request is a datagram of so many bytes.
    pub(crate) fn received_at_once(&self, bytes: usize) {
        if let Some(activity) = &self.activity {
            activity.set_received(bytes);
        }
    }

    /// So many bytes went to the client.
    pub(crate) fn sent(&self, bytes: usize) {
        if let Some(activity) = &self.activity {
            activity.add_sent(bytes);
        }
    }

    /// The address that the server is bound to, unless that is all of the host's, or a group.
    pub(crate) fn server_ip(&self) -> Option<IpAddr> {
        let address = self.shared.as_ref()?.address()?;
        address.ip().filter(|ip| !ip.is_unspecified() && !ip.is_multicast())
    }

    fn is_told_to_stop(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.is_told_to_stop())
    }

    /// The number of this request, counted from 1 by its server.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether the server was told to stop. A handler with a long conversation ends it at the next
    /// good place; the server waits for it, until [`drain_timeout`](crate::Config::drain_timeout).
    ///
    /// Where the protocol can say that an answer is the last of its connection (HTTP: `Connection: close`), an answer
    /// that is made while this is true should: a client that knows makes its next request elsewhere, one that does not
    /// may send it on a connection that is about to be closed.
    /// [To answer that, too](crate::deployment#restarting-without-systemd), takes one call more.
    pub fn is_draining(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.is_stopping())
    }

    /// Whether this is a copy of the process whose server it is, made for the request or by its handler.
    pub(super) fn in_child(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.in_child())
    }

    /// Whether the server's patience with its requests is over.
    pub(crate) fn is_forced(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.is_forced())
    }

    /// Says that the handler gets on: for one that neither reads nor writes for longer than
    /// [`hang_timeout`](crate::PreFork::hang_timeout). Elsewhere it does nothing.
    pub fn heartbeat(&self) {
        if let Some(master) = self.shared.as_ref().and_then(|shared| shared.master()) {
            master.heartbeat();
        }
    }

    /// Says that a message has begun to come, although no read of the request has given any of it: until something has
    /// been written, or it [has ended](Self::message_ended), a drain does not take the connection for
    /// [idle](crate::StreamRequest). For a [stream](crate::Stream) that gives only what is complete (TLS), a handler
    /// that has the beginning of the next message in a buffer of its own when it answers one, and one whose answer only
    /// asks for the rest of the message (HTTP's `100 Continue`, SMTP's `354`), which says so behind that answer:
    ///
    /// ```
    /// use std::io::{self, Write};
    /// use socketserver::prelude::*;
    ///
    /// fn begin_data(request: &mut TcpRequest) -> io::Result<()> {
    ///     request.write_all(b"354 go ahead\r\n")?;
    ///     request.server().message_begun();
    ///     Ok(())
    /// }
    /// ```
    pub fn message_begun(&self) {
        if let Some(activity) = &self.activity {
            activity.asked();
        }
    }

    /// Says that the handler is done with what has come, although it has written nothing: when it reads again, a drain
    /// takes the connection for [idle](crate::StreamRequest). For messages that nobody answers (logs, a chat); without
    /// it a drain waits for their client until [`drain_timeout`](crate::Config::drain_timeout). Called by the thread
    /// that reads.
    ///
    /// Before the client has said anything it says that nothing is expected: a drain does not wait for the first
    /// message of one who only listens, such as a subscriber, or who has made a handshake in
    /// [`setup`](crate::BaseRequestHandler::setup) after which the server may speak first (WebSocket).
    ///
    /// ```
    /// use socketserver::framing::LinesCodec;
    /// use socketserver::prelude::*;
    ///
    /// fn collect(request: &mut TcpRequest) -> HandlerResult {
    ///     let server = request.server().clone();
    ///     // A client may have nothing to say.
    ///     server.message_ended();
    ///     let mut lines = request.framed(LinesCodec::new());
    ///     while let Some(line) = lines.next_ref()? {
    ///         println!("{}", String::from_utf8_lossy(line));
    ///         server.message_ended();
    ///     }
    ///     Ok(())
    /// }
    /// let server = ThreadingTcpServer::new("127.0.0.1:0", collect);
    /// ```
    pub fn message_ended(&self) {
        if let Some(activity) = &self.activity {
            activity.ended();
        }
    }

    /// Asks the server to stop; never blocks. In a forked child it stops the parent's loop.
    pub fn shutdown(&self) {
        if let Some(shared) = &self.shared {
            shared.shutdown();
        }
    }

    /// A handle that stops the server, to keep or to give away; `None` without a server.
    pub fn shutdown_handle(&self) -> Option<ShutdownHandle> {
        self.shared.clone().map(ShutdownHandle::new)
    }

    /// A handle to look at the server and to control it; `None` without a server. In a worker of a
    /// [`PreFork`](crate::PreFork) server it is for the worker.
    pub fn handle(&self) -> Option<ServerHandle> {
        self.shared.clone().map(ServerHandle::new)
    }

    /// The address that the server is bound to; `None` without a server.
    pub fn server_address(&self) -> Option<&Address> {
        self.shared.as_ref().and_then(|shared| shared.address())
    }
}

impl fmt::Debug for ServerContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerContext")
            .field("number", &self.number)
            .field("is_draining", &self.is_draining())
            .finish_non_exhaustive()
    }
}

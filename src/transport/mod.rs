//! What a server listens on.

mod asked;
mod datagrams;
mod inbox;
mod inet;
mod outbox;
mod replies;
mod socket;
mod tcp;
mod udp;
mod unix_access;
mod unix_datagram;
mod unix_path;
mod unix_stream;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::address::Address;
use crate::config::Config;
use crate::request::Request;

pub use replies::Replies;
pub use tcp::Tcp;
pub use udp::Udp;
pub use unix_datagram::UnixDatagrams;
pub use unix_stream::UnixStreams;

/// The type of a socket: Python's `socket_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SocketType {
    /// Connections: `SOCK_STREAM`.
    Stream,
    /// Datagrams: `SOCK_DGRAM`.
    Datagram,
}

/// What a server listens on: binding, accepting or receiving, and nothing else.
///
/// The crate has [`Tcp`], [`Udp`], [`UnixStreams`] and [`UnixDatagrams`]. Implement it for other sockets
/// (vsock, a socket inherited from another process, one that a test controls) and serve it with
/// [`SocketServer<YourTransport, H>`](crate::SocketServer) under every strategy.
///
/// What makes it ready runs on the thread that [binds](crate::BaseServer::bind) the server, all else on the thread (or
/// threads) of the accept loop; but anybody may ask for the [`socket`](Self::socket). Its value stays until the server
/// is dropped; [`stop_listening`](Self::stop_listening) comes before, unless the server has never served.
///
/// ```
/// use std::io;
/// use std::net::{SocketAddr, TcpListener};
/// use socketserver::prelude::*;
/// use socketserver::{Config, SocketServer, SocketType, Threading, Transport};
///
/// /// TCP on the first of ten ports that is free.
/// struct FirstFree(TcpListener);
///
/// impl Transport for FirstFree {
///     type Socket = TcpListener;
///     type Request = TcpRequest;
///     const SOCKET_TYPE: SocketType = SocketType::Stream;
///
///     fn bind(address: &Address, _: &Config) -> io::Result<Self> {
///         let first = address.as_inet().ok_or(io::ErrorKind::InvalidInput)?;
///         let ports = first.port()..=first.port().saturating_add(9);
///         let addresses: Vec<_> = ports.map(|port| SocketAddr::new(first.ip(), port)).collect();
///         let listener = TcpListener::bind(&addresses[..])?;
///         listener.set_nonblocking(true)?;
///         Ok(Self(listener))
///     }
///
///     fn socket(&self) -> &TcpListener {
///         &self.0
///     }
///
///     fn local_address(&self) -> io::Result<Address> {
///         Ok(self.0.local_addr()?.into())
///     }
///
///     fn accept(&self) -> io::Result<TcpRequest> {
///         let (stream, client_address) = self.0.accept()?;
///         Ok(StreamRequest::new(stream, client_address))
///     }
/// }
///
/// # fn main() -> io::Result<()> {
/// type Server<H> = Threading<SocketServer<FirstFree, H>>;
///
/// let other = TcpListener::bind("127.0.0.1:0")?;
/// let server = Server::new(other.local_addr()?, |_: &mut TcpRequest| {}).bind()?;
/// assert!(server.server_address().port() > Some(other.local_addr()?.port()));
/// # Ok(())
/// # }
/// ```
pub trait Transport: Sized + Send + Sync + 'static {
    /// The listening socket: a non-blocking one, until [`let_wait`](Self::let_wait) is called. A blocking one does,
    /// too, if [`accept`](Self::accept) asks the system each time not to wait (`MSG_DONTWAIT`, recv(2)).
    type Socket: AsFd + Send + Sync;

    /// What is accepted: [`StreamRequest<S>`](crate::StreamRequest) or
    /// [`DatagramRequest`](crate::DatagramRequest), usually.
    type Request: Request;

    /// Whether it accepts connections or receives datagrams.
    const SOCKET_TYPE: SocketType;

    /// Makes a socket, sets its options, binds it: Python's `server_bind`.
    ///
    /// # Errors
    ///
    /// Whatever prevents it; say which address and what to do about it.
    fn bind(address: &Address, config: &Config) -> io::Result<Self>;

    /// Starts listening: Python's `server_activate`. Datagram sockets need not.
    ///
    /// # Errors
    ///
    /// Those of listen(2).
    fn listen(&self, config: &Config) -> io::Result<()> {
        let _ = config;
        Ok(())
    }

    /// Takes from the server's attributes what concerns a transport that was made elsewhere
    /// ([`with_transport`](crate::SocketServer::with_transport)). Called once, in the place of
    /// [`bind`](Self::bind) and [`listen`](Self::listen); the socket stays as it is.
    ///
    /// By default nothing happens.
    fn adopt(&self, config: &Config) {
        let _ = config;
    }

    /// The listening socket.
    fn socket(&self) -> &Self::Socket;

    /// The address that it is bound to: what getsockname(2) says, not what was asked for.
    ///
    /// # Errors
    ///
    /// Those of getsockname(2).
    fn local_address(&self) -> io::Result<Address>;

    /// Accepts a connection or receives a datagram, without waiting (but see [`let_wait`](Self::let_wait)).
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if there is none. The loop tries again after what
    /// accept(2) lists as passing, backs off when descriptors or memory have run out, and ends only
    /// when the socket itself is broken (`EBADF`, `EINVAL`, `ENOTSOCK`). What a transport finds wrong with one
    /// connection (a header that it wants first) it says with the kind
    /// [`ConnectionAborted`](io::ErrorKind::ConnectionAborted): the next is accepted at once, unless very many fail in
    /// a row. For an error of another kind, without a number of the system's, the loop backs off.
    fn accept(&self) -> io::Result<Self::Request>;

    /// From now on [`accept`](Self::accept) (and [`accept_ahead`](Self::accept_ahead), where the server uses
    /// that) waits for a request if there is none, unless its [`socket`](Self::socket) is non-blocking
    /// (`O_NONBLOCK`), which the server makes it to end a wait. That saves waiting for the socket first.
    ///
    /// # Errors
    ///
    /// It cannot: [`Unsupported`](io::ErrorKind::Unsupported) unless overridden.
    fn let_wait(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// As [`accept`](Self::accept), for a server that serves one request at a time: several may be taken
    /// from the system at once, to be given out one by one.
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept).
    fn accept_ahead(&self) -> io::Result<Self::Request> {
        self.accept()
    }

    /// Whether [`accept_ahead`](Self::accept_ahead) has one to give out, whatever the socket says.
    fn has_ahead(&self) -> bool {
        false
    }

    /// Sends what requests from [`accept_ahead`](Self::accept_ahead) have left to be sent later, if the transport
    /// [holds back replies](crate::Config::replies). Called before the server waits, and when it accepts no more.
    ///
    /// What finds no room at its receiver's is waited for as long as `patient` says so, which is to be asked every
    /// now and then; afterwards it may be lost. What cannot be sent is for the transport to report.
    fn flush(&self, patient: &dyn Fn() -> bool) {
        let _ = patient;
    }

    /// Has the kernel refuse new requests, while those that it has queued can still be accepted. Called
    /// once, when the server was told to stop, before its queue is served; never on a transport that was
    /// made elsewhere ([`with_transport`](crate::SocketServer::with_transport)), which others may share.
    ///
    /// A transport that cannot do so serves at most
    /// [`request_queue_size`](crate::Config::request_queue_size) more, and a client that comes after that
    /// and before the socket is closed is lost.
    ///
    /// # Errors
    ///
    /// It cannot: [`Unsupported`](io::ErrorKind::Unsupported) unless overridden.
    fn refuse(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Gives the listening socket up; requests in progress must be able to go on. Called once in the
    /// server's process, when its queue has been served, and once in each forked child, where only
    /// this process's hold on the socket may be given up (`in_child`: leave paths alone).
    ///
    /// By default nothing happens until the transport is dropped.
    fn stop_listening(&self, placeholder: BorrowedFd<'_>, in_child: bool) {
        let _ = (placeholder, in_child);
    }

    /// Closes the socket, where requests in progress have needed it: Python's `server_close`. Called once
    /// in the server's process, when there are none left.
    ///
    /// By default nothing happens until the transport is dropped.
    fn close(&self, placeholder: BorrowedFd<'_>) {
        let _ = placeholder;
    }
}

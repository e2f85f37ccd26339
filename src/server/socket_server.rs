//! `SocketServer`, the bottom of every stack.

use std::fmt;
use std::io;

use super::core::Core;
use super::{BaseServer, Concurrency, Construct};
use crate::acceptor::Acceptor;
use crate::address::Address;
use crate::error::{HandlerResult, RequestError};
use crate::handler::{self, BaseRequestHandler};
use crate::job::{Active, Force, Job};
use crate::limits::{Capacity, LimitKind, send_farewell};
use crate::request::Request;
use crate::transport::Transport;

/// A bare server: sockets of the transport `T`, requests handled by `H`, one at a time.
///
/// Its aliases are [`TcpServer`](crate::TcpServer), [`UdpServer`](crate::UdpServer),
/// [`UnixStreamServer`](crate::UnixStreamServer) and [`UnixDatagramServer`](crate::UnixDatagramServer);
/// with a transport of your own, it serves that.
pub struct SocketServer<T: Transport, H> {
    core: Core<T>,
    handler: H,
}

impl<T: Transport, H: BaseRequestHandler<T::Request>> SocketServer<T, H> {
    /// A server for `address`. Never fails: what is wrong with the address, [`bind`](BaseServer::bind)
    /// and [`serve_forever`](BaseServer::serve_forever) say.
    pub fn new(address: impl Into<Address>, handler: H) -> Self {
        SocketServer {
            core: Core::new(address.into()),
            handler,
        }
    }

    /// A server for a transport that is bound, and listening, already: a socket that was inherited (from systemd,
    /// `sd_listen_fds(3)`, or kept over an exec(2) of the program itself) or made with options of its own.
    /// `server_bind` and `server_activate` leave it as it is.
    ///
    /// So does stopping: others may accept from the socket, so what it has queued is theirs, and it is only closed
    /// here. But a client for which the kernel has woken this server is served by it, because it wakes nobody else: one
    /// that comes in the moment in which a server is killed may wait until the next comes.
    ///
    /// From then on a listening socket is non-blocking and a datagram socket blocking, for all who have it, and has to
    /// stay so. (A Unix datagram socket gets a `SO_SNDTIMEO` of 100 ms, too.) So a copy of the socket that a server has
    /// made itself ([`socket`](BaseServer::socket)) is not for another server: the first lets its threads wait in
    /// accept(2), which the threads of the other would then do, too, and not hear that they are to stop.
    ///
    /// [`Tcp`](crate::Tcp), [`Udp`](crate::Udp), [`UnixStreams`](crate::UnixStreams) and
    /// [`UnixDatagrams`](crate::UnixDatagrams) are made from the standard library's sockets with `try_from`.
    ///
    /// To hand a socket over from one process to the next, or to serve it in several, serve it like this in each, where
    /// they are forked with a server that is made after the fork. A server that has made its
    /// socket itself has the kernel refuse new clients when it stops, and that is for all who have the socket. Where it
    /// was shut down for reading, serving ends with an error.
    ///
    /// ```
    /// use std::net::TcpListener;
    /// use socketserver::prelude::*;
    /// use socketserver::Tcp;
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let server = TcpServer::with_transport(Tcp::try_from(listener)?, |_: &mut TcpRequest| {});
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// The sockets of a systemd unit (`Accept=no`) are descriptors 3 and up, in the order of the unit. The crate
    /// `listenfd` takes them (see the `service` example, and [`deployment`](crate::deployment)); by hand:
    ///
    /// ```no_run
    /// use std::net::TcpListener;
    /// use std::os::fd::{FromRawFd, OwnedFd};
    /// use socketserver::prelude::*;
    /// use socketserver::Tcp;
    ///
    /// let handler = |_: &mut TcpRequest| {};
    /// let is_for_us = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    /// let server = if is_for_us {
    ///     // SAFETY: it is open, and nothing else in this program has it.
    ///     let inherited = unsafe { OwnedFd::from_raw_fd(3) };
    ///     // The copy stays out of programs that a handler starts; they would keep the port taken.
    ///     let listener = TcpListener::from(inherited).try_clone()?;
    ///     TcpServer::with_transport(Tcp::try_from(listener)?, handler)
    /// } else {
    ///     TcpServer::new("127.0.0.1:8080", handler)
    /// };
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn with_transport(transport: T, handler: H) -> Self {
        SocketServer {
            core: Core::with_transport(transport),
            handler,
        }
    }
}

impl<T: Transport, H: BaseRequestHandler<T::Request>> BaseServer for SocketServer<T, H> {
    type Transport = T;
    type Inner = Self;

    const CONCURRENCY: Concurrency = Concurrency::None;

    fn inner(&self) -> &Self {
        self
    }

    fn core(&self) -> &Core<T> {
        &self.core
    }

    fn server_bind(&self) -> io::Result<()> {
        self.core.server_bind()
    }

    fn server_activate(&self) -> io::Result<()> {
        self.core.server_activate()
    }

    fn server_close(&self) {
        self.core.ignore_signals();
        self.core.close();
    }

    fn get_request(&self) -> io::Result<T::Request> {
        let transport = self.core.bound_transport()?;
        if self.core.is_alone() {
            transport.accept_ahead()
        } else {
            transport.accept()
        }
    }

    fn verify_request(&self, _request: &T::Request, _client_address: &Address) -> bool {
        true
    }

    fn reject_request(&self, request: &mut T::Request, _limit: LimitKind) {
        if let Some(socket) = request.socket() {
            self.core.attribute(|config| send_farewell(socket, &config.farewell));
        }
    }

    fn process_request(&self, job: Job<T>) {
        job.run_inline();
    }

    fn finish_request(&self, active: &mut Active<T>) -> HandlerResult {
        handler::run(&self.handler, &mut active.request, &mut active.phase)
    }

    fn shutdown_request(&self, request: &mut T::Request) {
        request.shutdown();
    }

    fn close_request(&self, request: T::Request) {
        drop(request);
    }

    fn handle_error(&self, error: &RequestError) {
        if error.is_disconnect() {
            log::info!(phase:% = error.phase(), client:% = error.client_address(); "{error}");
        } else {
            log::error!(phase:% = error.phase(), client:% = error.client_address(); "{error}");
        }
    }

    fn handle_timeout(&self) {}

    fn service_actions(&self) {}

    fn serve(&self, mut acceptor: Acceptor<T>) -> io::Result<()> {
        acceptor.let_sleep(1);
        while let Some(job) = acceptor.next()? {
            acceptor.process(job)?;
        }
        Ok(())
    }

    fn capacity(&self) -> Capacity {
        self.core.capacity()
    }

    fn drain_requests(&self) {
        self.core.shared().registry.shutdown_idle();
    }

    fn terminate_requests(&self, _force: Force) {
        // Datagrams have no sockets of their own: those whose replies wait look at this.
        self.core.shared().force();
        self.core.shared().registry.shutdown_all();
    }
}

impl<T: Transport, H> fmt::Debug for SocketServer<T, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketServer")
            .field("core", &self.core)
            .finish_non_exhaustive()
    }
}

impl<T: Transport, H: BaseRequestHandler<T::Request>> Construct for SocketServer<T, H> {
    type Handler = H;

    fn construct(address: Address, handler: H) -> Self {
        Self::new(address, handler)
    }

    fn request_handler_class(&self) -> &H {
        &self.handler
    }
}

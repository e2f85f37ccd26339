//! TCP over IPv4 and IPv6.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{Shutdown, SockType, shutdown};

use super::inet::bound_socket;
use super::socket::Origin;
use super::{SocketType, Transport, socket};
use crate::address::Address;
use crate::config::Config;
use crate::error::bind_error;
use crate::request::StreamRequest;
use crate::sys;

/// Listens for TCP connections (tcp(7)), over IPv4 or IPv6 by the address given.
#[derive(Debug)]
pub struct Tcp {
    listener: TcpListener,
    origin: Origin,
}

impl Transport for Tcp {
    type Socket = TcpListener;
    type Request = StreamRequest<TcpStream>;

    const SOCKET_TYPE: SocketType = SocketType::Stream;

    fn bind(address: &Address, config: &Config) -> io::Result<Self> {
        let socket = bound_socket(address, config, SockType::Stream)?;
        Ok(Tcp {
            listener: socket.into(),
            origin: Origin::here(),
        })
    }

    fn listen(&self, config: &Config) -> io::Result<()> {
        socket::listen(&self.listener, config).or_else(|error| Err(bind_error(&self.local_address()?, error)))
    }

    fn socket(&self) -> &TcpListener {
        &self.listener
    }

    fn local_address(&self) -> io::Result<Address> {
        Ok(self.listener.local_addr()?.into())
    }

    fn accept(&self) -> io::Result<Self::Request> {
        let (stream, peer) = self.listener.accept()?;
        Ok(StreamRequest::new(stream, peer))
    }

    fn let_wait(&self) -> io::Result<()> {
        self.listener.set_nonblocking(false)
    }

    fn refuse(&self) -> io::Result<()> {
        sys::refuse_connections(self.listener.as_fd())
    }

    fn stop_listening(&self, placeholder: BorrowedFd<'_>, in_child: bool) {
        if self.origin.is_here() && !in_child {
            self.end_listening();
        }
        socket::close(self.listener.as_fd(), placeholder);
    }
}

impl Tcp {
    /// A process that another server of the program has forked has a copy, which would listen on, and keep the port
    /// taken.
    fn end_listening(&self) {
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Read);
    }
}

/// Of a server that has not served.
impl Drop for Tcp {
    fn drop(&mut self) {
        if self.origin.leaves_copies() {
            self.end_listening();
        }
    }
}

/// A listening socket made elsewhere (inherited, or with options of its own) can be served as it is:
/// see [`SocketServer::with_transport`](crate::SocketServer::with_transport).
impl TryFrom<TcpListener> for Tcp {
    type Error = io::Error;

    /// # Errors
    ///
    /// It does not listen, or is of another type or family ([`InvalidInput`](io::ErrorKind::InvalidInput)); it could
    /// not be made non-blocking.
    fn try_from(listener: TcpListener) -> io::Result<Self> {
        socket::check_family(&listener, socket::INET)?;
        socket::check_listens(&listener)?;
        listener.set_nonblocking(true)?;
        Ok(Tcp {
            listener,
            origin: Origin::elsewhere(),
        })
    }
}

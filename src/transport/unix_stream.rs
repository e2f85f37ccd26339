//! Unix stream sockets.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::sys::socket::{Shutdown, SockType, shutdown};

use super::socket::Origin;
use super::unix_path::{SocketFile, bound_socket};
use super::{SocketType, Transport, socket};
use crate::address::Address;
use crate::config::Config;
use crate::error::bind_error;
use crate::request::StreamRequest;

/// Listens for connections on a Unix socket (unix(7)): a path or an abstract name.
///
/// A path where a socket was left behind by a server that is gone is replaced; one where somebody answers, or where
/// there is anything else than a socket, is refused and left alone. The path is removed when the server ends, if it is
/// still the same socket. To find out, it is connected to: a live server has served one client more, who said nothing.
///
/// Who may connect, [`socket_mode`](crate::Configure::socket_mode) and
/// [`socket_owner`](crate::Configure::socket_owner) say; who has,
/// [`peer_credentials`](crate::StreamRequest::peer_credentials).
#[derive(Debug)]
pub struct UnixStreams {
    /// Dropped first: while the socket is open, no other file can have the number of this one.
    file: Option<SocketFile>,
    listener: UnixListener,
    origin: Origin,
}

impl Transport for UnixStreams {
    type Socket = UnixListener;
    type Request = StreamRequest<UnixStream>;

    const SOCKET_TYPE: SocketType = SocketType::Stream;

    fn bind(address: &Address, config: &Config) -> io::Result<Self> {
        let (socket, file) = bound_socket(address, config, SockType::Stream)?;
        Ok(UnixStreams {
            listener: socket.into(),
            file,
            origin: Origin::here(),
        })
    }

    fn listen(&self, config: &Config) -> io::Result<()> {
        socket::listen(&self.listener, config).or_else(|error| Err(bind_error(&self.local_address()?, error)))
    }

    fn socket(&self) -> &UnixListener {
        &self.listener
    }

    fn local_address(&self) -> io::Result<Address> {
        match &self.file {
            Some(file) => Ok(file.address()),
            None => Ok(self.listener.local_addr()?.into()),
        }
    }

    fn accept(&self) -> io::Result<Self::Request> {
        let (stream, peer) = self.listener.accept()?;
        Ok(StreamRequest::new(stream, peer))
    }

    fn let_wait(&self) -> io::Result<()> {
        self.listener.set_nonblocking(false)
    }

    /// From now on connecting fails (`ECONNREFUSED`); what is queued stays (unix(7), shutdown(2)).
    fn refuse(&self) -> io::Result<()> {
        Ok(shutdown(self.listener.as_raw_fd(), Shutdown::Read)?)
    }

    fn stop_listening(&self, placeholder: BorrowedFd<'_>, in_child: bool) {
        if !in_child {
            self.leave();
        }
        socket::close(self.listener.as_fd(), placeholder);
    }
}

impl UnixStreams {
    /// Removes the path. Whom the kernel has queued a process that another server of the program has forked would keep
    /// waiting, if it has a copy of the socket.
    fn leave(&self) {
        if let Some(file) = &self.file {
            file.remove();
        }
        // One that does not refuse may wait for the next one.
        if self.origin.has_copies() && self.refuse().is_ok() {
            while self.listener.accept().is_ok() {}
        }
    }
}

/// Of a server that has not served.
impl Drop for UnixStreams {
    fn drop(&mut self) {
        if self.origin.leaves_copies() {
            self.leave();
        }
    }
}

/// A listening socket made elsewhere can be served as it is; its path is not removed at the end.
impl TryFrom<UnixListener> for UnixStreams {
    type Error = io::Error;

    /// # Errors
    ///
    /// It does not listen, or is of another type or family ([`InvalidInput`](io::ErrorKind::InvalidInput)); it could
    /// not be made non-blocking.
    fn try_from(listener: UnixListener) -> io::Result<Self> {
        socket::check_family(&listener, socket::UNIX)?;
        socket::check_listens(&listener)?;
        listener.set_nonblocking(true)?;
        Ok(UnixStreams {
            listener,
            file: None,
            origin: Origin::elsewhere(),
        })
    }
}

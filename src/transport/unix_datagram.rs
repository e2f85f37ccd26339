//! Unix datagram sockets.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::socket::{Shutdown, SockType, UnixAddr, shutdown};

use super::inbox::{AHEAD, Inbox};
use super::tcp::close_listener;
use super::unix_path::{SocketFile, bound_socket};
use super::{SocketType, Transport};
use crate::address::Address;
use crate::config::Config;
use crate::request::DatagramRequest;

/// How long a reply waits at a time for a client that does not read (`SO_SNDTIMEO`, socket(7)).
const PATIENCE: Duration = Duration::from_millis(100);

/// Receives datagrams on a Unix socket (unix(7)): a path or an abstract name.
///
/// Paths are treated as for [`UnixStreams`](super::UnixStreams). A client that wants an answer must
/// bind an address of its own; one that did not is [`Unnamed`](Address::Unnamed).
#[derive(Debug)]
pub struct UnixDatagrams {
    /// Whether receiving ahead waits, as the socket does.
    waits: AtomicBool,
    socket: Arc<UnixDatagram>,
    inbox: Inbox<UnixAddr>,
    file: Option<SocketFile>,
}

impl Transport for UnixDatagrams {
    type Socket = UnixDatagram;
    type Request = DatagramRequest;

    const SOCKET_TYPE: SocketType = SocketType::Datagram;

    fn bind(address: &Address, config: &Config) -> io::Result<Self> {
        let (socket, file) = bound_socket(address, config, SockType::Datagram)?;
        let socket = UnixDatagram::from(socket);
        // As for UDP: replies may wait, receiving does not. In between they look whether to go on waiting.
        socket.set_nonblocking(false)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(UnixDatagrams {
            waits: AtomicBool::new(false),
            socket: Arc::new(socket),
            inbox: Inbox::new(config, unix_address),
            file,
        })
    }

    fn socket(&self) -> &UnixDatagram {
        &self.socket
    }

    fn local_address(&self) -> io::Result<Address> {
        match &self.file {
            Some(file) => Ok(file.address()),
            None => Ok(self.socket.local_addr()?.into()),
        }
    }

    fn accept(&self) -> io::Result<Self::Request> {
        self.inbox.receive(&self.socket, 1, false)
    }

    fn accept_ahead(&self) -> io::Result<Self::Request> {
        self.inbox
            .receive(&self.socket, AHEAD, self.waits.load(Ordering::Relaxed))
    }

    fn let_wait(&self) -> io::Result<()> {
        self.waits.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn has_ahead(&self) -> bool {
        self.inbox.has_ahead()
    }

    /// From now on sending fails (`EPIPE`); what is queued stays (unix(7), shutdown(2)).
    fn refuse(&self) -> io::Result<()> {
        Ok(shutdown(self.socket.as_raw_fd(), Shutdown::Read)?)
    }

    /// Removes the path, so that nobody sends any more; the socket stays for the replies.
    fn stop_listening(&self, _placeholder: BorrowedFd<'_>, in_child: bool) {
        if let (Some(file), false) = (&self.file, in_child) {
            file.remove();
        }
    }

    fn close(&self, placeholder: BorrowedFd<'_>) {
        close_listener(self.socket.as_fd(), placeholder);
    }
}

fn unix_address(from: &UnixAddr) -> Address {
    match (from.path(), from.as_abstract()) {
        (Some(path), _) => path.into(),
        (None, Some(name)) => Address::abstract_name(name),
        (None, None) => Address::Unnamed,
    }
}

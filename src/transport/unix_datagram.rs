//! Unix datagram sockets.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::sys::socket::{Shutdown, SockType, UnixAddr, shutdown};

use super::inbox::Inbox;
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
    socket: Arc<UnixDatagram>,
    /// Made when it is known how long a datagram may be.
    inbox: OnceLock<Inbox<UnixAddr>>,
    file: Option<SocketFile>,
}

impl UnixDatagrams {
    fn inbox(&self) -> &Inbox<UnixAddr> {
        self.inbox.get_or_init(|| Inbox::new(&Config::default(), unix_address))
    }
}

impl Transport for UnixDatagrams {
    type Socket = UnixDatagram;
    type Request = DatagramRequest;

    const SOCKET_TYPE: SocketType = SocketType::Datagram;

    fn bind(address: &Address, config: &Config) -> io::Result<Self> {
        let (socket, file) = bound_socket(address, config, SockType::Datagram)?;
        let mut datagrams = UnixDatagrams::try_from(UnixDatagram::from(socket))?;
        datagrams.file = file;
        datagrams.adopt(config);
        Ok(datagrams)
    }

    fn adopt(&self, config: &Config) {
        let _ = self.inbox.set(Inbox::new(config, unix_address));
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
        self.inbox().receive(&self.socket)
    }

    fn accept_ahead(&self) -> io::Result<Self::Request> {
        self.inbox().receive_ahead(&self.socket)
    }

    fn let_wait(&self) -> io::Result<()> {
        self.inbox().let_wait();
        Ok(())
    }

    fn has_ahead(&self) -> bool {
        self.inbox().has_ahead()
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

/// A bound socket made elsewhere can be served as it is; its path is not removed at the end.
impl TryFrom<UnixDatagram> for UnixDatagrams {
    type Error = io::Error;

    /// # Errors
    ///
    /// The socket could not be made blocking, or to wait for a short time only.
    fn try_from(socket: UnixDatagram) -> io::Result<Self> {
        // As for UDP: replies may wait, receiving does not. In between they look whether to go on waiting.
        socket.set_nonblocking(false)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(UnixDatagrams {
            socket: Arc::new(socket),
            inbox: OnceLock::new(),
            file: None,
        })
    }
}

fn unix_address(from: &UnixAddr) -> Address {
    match (from.path(), from.as_abstract()) {
        (Some(path), _) => path.into(),
        (None, Some(name)) => Address::abstract_name(name),
        (None, None) => Address::Unnamed,
    }
}

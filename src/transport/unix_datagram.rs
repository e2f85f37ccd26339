//! Unix datagram sockets.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::socket::{Shutdown, SockType, UnixAddr, shutdown};

use super::datagrams::{Datagrams, Peer};
use super::socket::Origin;
use super::unix_path::{SocketFile, bound_socket, to_nix};
use super::{SocketType, Transport, socket};
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
    /// Dropped first: while the socket is open, no other file can have the number of this one.
    file: Option<SocketFile>,
    datagrams: Datagrams<UnixDatagram, UnixAddr>,
    origin: Origin,
}

impl UnixDatagrams {
    fn new(socket: UnixDatagram, file: Option<SocketFile>, origin: Origin) -> io::Result<Self> {
        // As for UDP. Replies look now and then whether to go on waiting.
        socket.set_nonblocking(false)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(UnixDatagrams {
            file,
            datagrams: Datagrams::new(socket),
            origin,
        })
    }
}

impl Transport for UnixDatagrams {
    type Socket = UnixDatagram;
    type Request = DatagramRequest;

    const SOCKET_TYPE: SocketType = SocketType::Datagram;

    fn bind(address: &Address, config: &Config) -> io::Result<Self> {
        let (socket, file) = bound_socket(address, config, SockType::Datagram)?;
        let datagrams = UnixDatagrams::new(socket.into(), file, Origin::here())?;
        datagrams.adopt(config);
        Ok(datagrams)
    }

    fn adopt(&self, config: &Config) {
        self.datagrams.adopt(config, false);
    }

    fn socket(&self) -> &UnixDatagram {
        self.datagrams.socket()
    }

    fn local_address(&self) -> io::Result<Address> {
        match &self.file {
            Some(file) => Ok(file.address()),
            None => Ok(self.socket().local_addr()?.into()),
        }
    }

    fn accept(&self) -> io::Result<Self::Request> {
        self.datagrams.accept()
    }

    fn accept_ahead(&self) -> io::Result<Self::Request> {
        self.datagrams.accept_ahead()
    }

    fn let_wait(&self) -> io::Result<()> {
        self.datagrams.let_wait();
        Ok(())
    }

    fn has_ahead(&self) -> bool {
        self.datagrams.has_ahead()
    }

    fn flush(&self, patient: &dyn Fn() -> bool) {
        self.datagrams.flush(patient);
    }

    /// From now on sending fails (`EPIPE`); what is queued stays (unix(7), shutdown(2)).
    fn refuse(&self) -> io::Result<()> {
        Ok(shutdown(self.socket().as_raw_fd(), Shutdown::Read)?)
    }

    /// Removes the path, so that nobody sends any more; the socket stays for the replies.
    fn stop_listening(&self, _placeholder: BorrowedFd<'_>, in_child: bool) {
        if let (Some(file), false) = (&self.file, in_child) {
            file.remove();
        }
    }

    fn close(&self, placeholder: BorrowedFd<'_>) {
        socket::close(self.socket().as_fd(), placeholder);
    }
}

/// Of a server that has not served: who sends to it would wait for room, of which there is no more in the copy that a
/// process has which another server of the program has forked.
impl Drop for UnixDatagrams {
    fn drop(&mut self) {
        if self.origin.leaves_copies() {
            if let Some(file) = &self.file {
                file.remove();
            }
            let _ = self.refuse();
        }
    }
}

/// A bound socket made elsewhere can be served as it is; its path is not removed at the end.
impl TryFrom<UnixDatagram> for UnixDatagrams {
    type Error = io::Error;

    /// # Errors
    ///
    /// It is of another type or family ([`InvalidInput`](io::ErrorKind::InvalidInput)); it could not be made blocking,
    /// or to wait for a short time only.
    fn try_from(socket: UnixDatagram) -> io::Result<Self> {
        socket::check_family(&socket, socket::UNIX)?;
        socket::check_receives_datagrams(&socket)?;
        UnixDatagrams::new(socket, None, Origin::elsewhere())
    }
}

impl Peer for UnixAddr {
    type Raw = UnixAddr;

    fn address_of(raw: &UnixAddr) -> Address {
        match (raw.path(), raw.as_abstract()) {
            (Some(path), _) => path.into(),
            (None, Some(name)) => Address::abstract_name(name),
            (None, None) => Address::Unnamed,
        }
    }

    fn from_address(address: &Address) -> io::Result<Self> {
        Ok(to_nix(&address.to_unix()?)?)
    }

    fn to_raw(&self) -> UnixAddr {
        *self
    }
}

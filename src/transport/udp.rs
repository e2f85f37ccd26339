//! UDP over IPv4 and IPv6.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

use nix::sys::socket::{SockType, SockaddrStorage};

use super::inbox::Inbox;
use super::inet::bound_socket;
use super::tcp::close_listener;
use super::{SocketType, Transport};
use crate::address::Address;
use crate::config::Config;
use crate::request::DatagramRequest;
use crate::sys;

/// Receives UDP datagrams (udp(7)), over IPv4 or IPv6 by the address given.
#[derive(Debug)]
pub struct Udp {
    socket: Arc<UdpSocket>,
    /// Made when it is known how long a datagram may be.
    inbox: OnceLock<Inbox<SockaddrStorage>>,
}

impl Udp {
    fn inbox(&self) -> &Inbox<SockaddrStorage> {
        self.inbox.get_or_init(|| Inbox::new(&Config::default(), inet_address))
    }
}

impl Transport for Udp {
    type Socket = UdpSocket;
    type Request = DatagramRequest;

    const SOCKET_TYPE: SocketType = SocketType::Datagram;

    fn bind(address: &Address, config: &Config) -> io::Result<Self> {
        let udp = Udp::try_from(UdpSocket::from(bound_socket(address, config, SockType::Datagram)?))?;
        udp.adopt(config);
        Ok(udp)
    }

    fn adopt(&self, config: &Config) {
        let _ = self.inbox.set(Inbox::new(config, inet_address));
    }

    fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    fn local_address(&self) -> io::Result<Address> {
        Ok(self.socket.local_addr()?.into())
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

    fn refuse(&self) -> io::Result<()> {
        sys::refuse_datagrams(self.socket.as_fd())
    }

    fn close(&self, placeholder: BorrowedFd<'_>) {
        close_listener(self.socket.as_fd(), placeholder);
    }
}

/// A bound socket made elsewhere (inherited, or with options of its own) can be served as it is: see
/// [`SocketServer::with_transport`](crate::SocketServer::with_transport).
impl TryFrom<UdpSocket> for Udp {
    type Error = io::Error;

    /// # Errors
    ///
    /// The socket could not be made blocking.
    fn try_from(socket: UdpSocket) -> io::Result<Self> {
        // Replies may wait for room in the send buffer; receiving asks not to wait each time.
        socket.set_nonblocking(false)?;
        Ok(Udp {
            socket: Arc::new(socket),
            inbox: OnceLock::new(),
        })
    }
}

fn inet_address(from: &SockaddrStorage) -> Address {
    let v4 = from.as_sockaddr_in().map(|from| SocketAddr::V4((*from).into()));
    let v6 = || from.as_sockaddr_in6().map(|from| SocketAddr::V6((*from).into()));
    v4.or_else(v6).map_or(Address::Unnamed, Address::Inet)
}

//! UDP over IPv4 and IPv6.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::{SockType, SockaddrStorage};

use super::datagrams::{Datagrams, Peer};
use super::inet::bound_socket;
use super::{SocketType, Transport, socket};
use crate::address::Address;
use crate::config::Config;
use crate::request::DatagramRequest;
use crate::sys;

/// Receives UDP datagrams (udp(7)), over IPv4 or IPv6 by the address given.
///
/// # On a host with several addresses
///
/// A server that is bound to all of them (`0.0.0.0`, `::`) replies from the one that the system prefers on the way to the
/// client (ip(7)), which need not be the one that the client has asked: if it has connected its socket, or has a firewall,
/// the reply does not reach it. Bind to the address that clients ask, with a server for each if there are several.
///
/// # What the network reports
///
/// Whether a reply arrives nobody says. What comes back (ICMP: nobody has the port, no such host, too long for the path)
/// the system keeps from a socket that is not connected, unless it has `IP_RECVERR` or `IPV6_RECVERR` (ip(7), ipv6(7)),
/// which [`before_bind`](crate::Configure::before_bind) may set. Then it is an error of whatever is called next: receiving
/// goes on, and a reply that fails for that is sent again, so one client's report costs no other anything. The reports
/// themselves wait in the socket's error queue, which has to be read (`MSG_ERRQUEUE`, recvmsg(2)): until then a server
/// that waits in epoll(7), such as one with processes or a `poll_interval`, is woken for them all the time.
#[derive(Debug)]
pub struct Udp {
    datagrams: Datagrams<UdpSocket, SocketAddr>,
}

impl Udp {
    fn new(socket: UdpSocket) -> io::Result<Self> {
        // Replies may wait for room in the send buffer; receiving says each time whether it may wait.
        socket.set_nonblocking(false)?;
        Ok(Udp {
            datagrams: Datagrams::new(socket),
        })
    }
}

impl Transport for Udp {
    type Socket = UdpSocket;
    type Request = DatagramRequest;

    const SOCKET_TYPE: SocketType = SocketType::Datagram;

    fn bind(address: &Address, config: &Config) -> io::Result<Self> {
        let udp = Udp::new(bound_socket(address, config, SockType::Datagram)?.into())?;
        udp.adopt(config);
        Ok(udp)
    }

    fn adopt(&self, config: &Config) {
        self.datagrams.adopt(config);
    }

    fn socket(&self) -> &UdpSocket {
        self.datagrams.socket()
    }

    fn local_address(&self) -> io::Result<Address> {
        Ok(self.socket().local_addr()?.into())
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

    fn refuse(&self) -> io::Result<()> {
        sys::refuse_datagrams(self.socket().as_fd())
    }

    fn close(&self, placeholder: BorrowedFd<'_>) {
        socket::close(self.socket().as_fd(), placeholder);
    }
}

/// A bound socket made elsewhere (inherited, or with options of its own) can be served as it is: see
/// [`SocketServer::with_transport`](crate::SocketServer::with_transport).
impl TryFrom<UdpSocket> for Udp {
    type Error = io::Error;

    /// # Errors
    ///
    /// It is of another type or family ([`InvalidInput`](io::ErrorKind::InvalidInput)); it could not be made blocking.
    fn try_from(socket: UdpSocket) -> io::Result<Self> {
        socket::check_family(&socket, false)?;
        socket::check_receives_datagrams(&socket)?;
        Udp::new(socket)
    }
}

impl Peer for SocketAddr {
    type Raw = SockaddrStorage;

    fn address_of(raw: &SockaddrStorage) -> Address {
        let v4 = raw.as_sockaddr_in().map(|from| SocketAddr::V4((*from).into()));
        let v6 = || raw.as_sockaddr_in6().map(|from| SocketAddr::V6((*from).into()));
        v4.or_else(v6).map_or(Address::Unnamed, Address::Inet)
    }

    fn from_address(address: &Address) -> io::Result<Self> {
        address.to_inet()
    }

    fn to_raw(&self) -> SockaddrStorage {
        (*self).into()
    }
}

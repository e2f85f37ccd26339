//! UDP over IPv4 and IPv6.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::{SockType, SockaddrStorage, setsockopt, sockopt};

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
/// A server that is bound to all of them (`0.0.0.0`, `::`) answers each client from the address that this has asked
/// (`IP_PKTINFO`, ip(7); `IPV6_PKTINFO`, ipv6(7)): with [`reply`](DatagramRequest::reply), and with whatever else goes
/// to the client through the request or the socket that it [has](DatagramRequest::get_ref). From another, which the
/// system might prefer on the way there, a client that has connected its socket would not get it, nor would one behind
/// a firewall. [`local_ip`](DatagramRequest::local_ip) says which address that was. What was sent to a group or to all
/// is answered from an address of the host.
///
/// Over IPv6 a client is answered also from an address that the host has by a route alone (`ip -6 route add local`), or
/// has lost since the request came: once it is bound, the socket has `IP_FREEBIND` (ip(7)), which needs no privilege.
/// Over IPv4 routes are enough without it; but from an address that the host has no more nothing can be sent: the reply
/// fails (`ENETUNREACH`).
///
/// A server at `[::]` has IPv4 clients, too, unless the system or [`only_v6`](crate::Config::only_v6) says otherwise.
/// For a server at `0.0.0.0` and another at `[::]` with the same port, the latter needs `only_v6(true)`.
///
/// # What the network reports
///
/// Whether a reply arrives nobody says. What comes back (ICMP: nobody has the port, no such host, too long for the
/// path) the system keeps from a socket that is not connected, unless it has `IP_RECVERR` or `IPV6_RECVERR` (ip(7),
/// ipv6(7)), which [`before_bind`](crate::Configure::before_bind) may set. Then it is an error of whatever is called
/// next: receiving goes on, and a reply that fails for that is sent again, so one client's report costs no other
/// anything. The reports themselves wait in the socket's error queue, which has to be read (`MSG_ERRQUEUE`,
/// recvmsg(2)): until then a server that waits in epoll(7), such as one with processes or a `poll_interval`, is woken
/// for them all the time.
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

    /// Has the system say what address a datagram was sent to, where that can be any of the host's. False if it does
    /// not.
    fn tells_what_was_asked(&self) -> bool {
        let ask = |address: SocketAddr| {
            if address.is_ipv6() {
                setsockopt(self.socket(), sockopt::Ipv6RecvPacketInfo, &true)?;
                self.let_send_from_where_routes_lead();
            }
            // Of IPv4 clients a socket for IPv6 can have, too.
            Ok(setsockopt(self.socket(), sockopt::Ipv4PacketInfo, &true)?)
        };
        let asked = match self.socket().local_addr() {
            // All of IPv4's can be written as an address of IPv6.
            Ok(address) if !address.ip().to_canonical().is_unspecified() => return false,
            Ok(address) => ask(address),
            Err(error) => Err(error),
        };
        asked
            .inspect_err(|error| log::debug!("replies leave from the address that the system prefers: {error}"))
            .is_ok()
    }

    /// Where receiving asks the routes which addresses are the host's, sending over IPv6 asks the interfaces, unless it
    /// is let. So is binding by this, but that is over.
    fn let_send_from_where_routes_lead(&self) {
        if let Err(error) = setsockopt(self.socket(), sockopt::IpFreebind, &true) {
            log::debug!("replies leave from addresses of interfaces only: {error}");
        }
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
        self.datagrams.adopt(config, self.tells_what_was_asked());
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
        socket::check_family(&socket, socket::INET)?;
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

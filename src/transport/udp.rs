//! UDP over IPv4 and IPv6, and receiving datagrams of any family.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::socket::{MsgFlags, SockType, SockaddrLike, SockaddrStorage, recvmsg};

use super::inet::bound_socket;
use super::tcp::close_listener;
use super::{SocketType, Transport};
use crate::address::Address;
use crate::config::Config;
use crate::request::DatagramRequest;

/// Receives UDP datagrams (udp(7)), over IPv4 or IPv6 by the address given.
#[derive(Debug)]
pub struct Udp {
    socket: Arc<UdpSocket>,
    inbox: Inbox,
}

impl Transport for Udp {
    type Socket = UdpSocket;
    type Request = DatagramRequest;

    const SOCKET_TYPE: SocketType = SocketType::Datagram;

    fn bind(address: &Address, config: &Config) -> io::Result<Self> {
        let socket = UdpSocket::from(bound_socket(address, config, SockType::Datagram)?);
        // Replies may wait for room in the send buffer; receiving asks not to wait each time.
        socket.set_nonblocking(false)?;
        Ok(Udp {
            socket: Arc::new(socket),
            inbox: Inbox::new(config),
        })
    }

    fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    fn local_address(&self) -> io::Result<Address> {
        Ok(self.socket.local_addr()?.into())
    }

    fn accept(&self) -> io::Result<Self::Request> {
        let (packet, sent_length, from) = self.inbox.receive::<SockaddrStorage>(self.socket.as_raw_fd())?;
        Ok(DatagramRequest::new(
            packet,
            sent_length,
            inet_address(from.as_ref()),
            self.socket.clone(),
        ))
    }

    fn close(&self, placeholder: BorrowedFd<'_>) {
        close_listener(self.socket.as_fd(), placeholder);
    }
}

fn inet_address(from: Option<&SockaddrStorage>) -> Address {
    let v4 = from
        .and_then(|from| from.as_sockaddr_in())
        .map(|from| SocketAddr::V4((*from).into()));
    let v6 = || {
        from.and_then(|from| from.as_sockaddr_in6())
            .map(|from| SocketAddr::V6((*from).into()))
    };
    v4.or_else(v6).map_or(Address::Unnamed, Address::Inet)
}

/// Where datagrams are received before each is copied to a request of its exact size.
#[derive(Debug)]
pub(super) struct Inbox {
    buffer: Mutex<Vec<u8>>,
}

impl Inbox {
    pub(super) fn new(config: &Config) -> Self {
        Inbox {
            buffer: Mutex::new(vec![0; config.max_packet_size]),
        }
    }

    /// Receives one datagram without waiting: what fits of it, the length it was sent with, its sender.
    pub(super) fn receive<A: SockaddrLike + Copy>(&self, socket: RawFd) -> io::Result<(Vec<u8>, usize, Option<A>)> {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let (length, from) = {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            // MSG_TRUNC: the real length of a datagram that did not fit (recv(2)).
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
            let message = recvmsg::<A>(socket, &mut parts, None, flags)?;
            (message.bytes, message.address)
        };
        let kept = length.min(buffer.len());
        Ok((buffer[..kept].to_vec(), length, from))
    }
}

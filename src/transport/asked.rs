//! Answers from the address that was asked, on a host that has several.

use std::io;
use std::iter;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::datagrams::Peer;
use crate::address::Address;
use crate::request::DatagramSocket;
use crate::sys::{self, Outgoing, PacketInfo};

/// A socket whose datagrams can leave from a given address of this host.
pub(super) trait SendFrom<P>: DatagramSocket {
    fn send_from(&self, from: PacketInfo, packet: &[u8], to: &Address) -> io::Result<()>;
}

impl<S: DatagramSocket + AsFd, P: Peer> SendFrom<P> for S {
    fn send_from(&self, from: PacketInfo, packet: &[u8], to: &Address) -> io::Result<()> {
        let datagram = Outgoing {
            bytes: packet,
            to: Some(P::from_address(to)?.to_raw()),
            from: Some(from),
        };
        sys::send::<1, _>(self.as_fd(), iter::once(datagram), true).map(drop)
    }
}

/// The socket of a request: what goes to its client comes from the address that this has asked. Else the system chooses
/// one, and a client that has connected its socket, or is behind a firewall, does not get what comes from another.
pub(super) struct Asked<R, P> {
    replies: Arc<R>,
    client_address: Address,
    info: PacketInfo,
    peer: PhantomData<fn() -> P>,
}

impl<R: SendFrom<P>, P: Peer> Asked<R, P> {
    pub(super) fn new(replies: Arc<R>, client_address: Address, info: PacketInfo) -> Self {
        Asked {
            replies,
            client_address,
            info,
            peer: PhantomData,
        }
    }
}

impl<R: SendFrom<P>, P: Peer> DatagramSocket for Asked<R, P> {
    fn send_datagram(&self, packet: &[u8], to: &Address) -> io::Result<()> {
        if *to == self.client_address || is_same_over_ipv4(to, &self.client_address) {
            // Written in one way: replies that are held keep their order by address.
            self.replies.send_from(self.info, packet, &self.client_address)
        } else {
            self.replies.send_datagram(packet, to)
        }
    }
}

/// An IPv6 socket tells an IPv4 client's address as IPv6 (`::ffff:a.b.c.d`), and [`Address::ip`] as IPv4.
fn is_same_over_ipv4(one: &Address, other: &Address) -> bool {
    let ip = one.ip();
    ip.is_some_and(|ip| ip.is_ipv4()) && (ip, one.port()) == (other.ip(), other.port())
}

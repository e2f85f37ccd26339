//! Which of a host's addresses a datagram was sent to, and which one its answer leaves from: `IP_PKTINFO` (ip(7)),
//! `IPV6_PKTINFO` (ipv6(7), RFC 3542).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

use nix::libc;

/// What the system says of a datagram that has come, and is told of one that is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PacketInfo {
    V4(Ipv4Addr),
    /// With the number of the interface where the address says nothing without it.
    V6(Ipv6Addr, u32),
}

impl PacketInfo {
    pub(crate) fn ip(self) -> IpAddr {
        match self {
            PacketInfo::V4(ip) => ip.into(),
            PacketInfo::V6(ip, _) => ip.into(),
        }
    }

    /// `ipi_spec_dst` is an address of this host even if the datagram was sent to a group, or to all; of no address at
    /// all if it has none there.
    fn of_v4(info: libc::in_pktinfo) -> Option<Self> {
        let ip = Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr));
        (!ip.is_unspecified()).then_some(PacketInfo::V4(ip))
    }

    /// `None` of a datagram that was sent to a group: nothing can be sent from there. And of one over IPv4, of which
    /// the other message says more.
    fn of_v6(info: libc::in6_pktinfo) -> Option<Self> {
        let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
        let interface = if ip.is_unicast_link_local() {
            info.ipi6_ifindex
        } else {
            0
        };
        let is_ours = !ip.is_multicast() && ip.to_ipv4_mapped().is_none();
        is_ours.then_some(PacketInfo::V6(ip, interface))
    }

    pub(super) fn to_v4(ip: Ipv4Addr) -> libc::in_pktinfo {
        libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr {
                s_addr: u32::from(ip).to_be(),
            },
            ipi_addr: libc::in_addr { s_addr: 0 },
        }
    }

    pub(super) fn to_v6(ip: Ipv6Addr, interface: u32) -> libc::in6_pktinfo {
        libc::in6_pktinfo {
            ipi6_addr: libc::in6_addr { s6_addr: ip.octets() },
            ipi6_ifindex: interface,
        }
    }

    /// What the control messages (cmsg(3)) of a datagram that was received say.
    ///
    /// # Safety
    ///
    /// The header's control messages are as a system call has left them.
    pub(super) unsafe fn of(header: &libc::msghdr) -> Option<Self> {
        let mut found = None;
        // SAFETY: the caller's promise.
        let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
        // SAFETY: the macros of cmsg(3) lead to whole headers within the control messages, or nowhere.
        while let Some(message) = unsafe { next.as_ref() } {
            let said = match (message.cmsg_level, message.cmsg_type) {
                // SAFETY: a message of this type is one.
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => unsafe { value(message) }.and_then(Self::of_v4),
                // SAFETY: as above.
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => unsafe { value(message) }.and_then(Self::of_v6),
                _ => None,
            };
            found = found.or(said);
            // SAFETY: as for the first.
            next = unsafe { libc::CMSG_NXTHDR(header, next) };
        }
        found
    }
}

/// What a control message carries; `None` if it was cut, for want of room.
///
/// # Safety
///
/// The message is as a system call has left it, and any bytes that it carries are a `V`.
unsafe fn value<V: Copy>(message: &libc::cmsghdr) -> Option<V> {
    #[expect(clippy::cast_possible_truncation, reason = "20 bytes at the most")]
    // SAFETY: it only counts.
    let whole = unsafe { libc::CMSG_LEN(size_of::<V>() as _) } as usize;
    let length: usize = message.cmsg_len as _;
    if length < whole {
        return None;
    }
    // SAFETY: the message is whole, so the value is there.
    let data = unsafe { libc::CMSG_DATA(message) };
    // SAFETY: as above; and it may lie anywhere.
    Some(unsafe { ptr::read_unaligned(data.cast::<V>()) })
}

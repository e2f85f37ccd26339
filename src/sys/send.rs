//! Sending several datagrams with one system call.

use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::SockaddrLike;

use super::PacketInfo;
use crate::error::errno;

/// A datagram to send.
#[derive(Debug)]
pub(crate) struct Outgoing<'a, A> {
    pub(crate) bytes: &'a [u8],
    /// Without an address it is a further segment of the message that the one before belongs to (`UDP_SEGMENT`,
    /// udp(7)): not longer than that message's first, as long as which all but its last must be.
    pub(crate) to: Option<A>,
    /// Which of this host's addresses it comes from; of a further segment, that of the first counts.
    pub(crate) from: Option<PacketInfo>,
}

/// sendmmsg(2): sends the first `MOST` of `datagrams` in order, and says how many messages went: datagrams, or
/// all together that join one. An error is that of the first; one that comes later ends the call, and is the first
/// one's of the next.
///
/// nix has a `sendmmsg`, which sets the same control messages on all, allocates its headers, and cannot be kept
/// where it is shared.
pub(crate) fn send<'a, const MOST: usize, A: SockaddrLike>(
    socket: BorrowedFd<'_>,
    datagrams: impl Iterator<Item = Outgoing<'a, A>>,
    wait: bool,
) -> io::Result<usize> {
    let mut parts: [libc::iovec; MOST] = std::array::from_fn(|_| libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    });
    let mut names = [const { MaybeUninit::<A>::uninit() }; MOST];
    let mut messages: [libc::mmsghdr; MOST] = std::array::from_fn(|_| no_message());
    let mut controls = [Controls::NONE; MOST];
    let mut count = 0;
    for (part, datagram) in parts.iter_mut().zip(datagrams) {
        part.iov_base = datagram.bytes.as_ptr().cast_mut().cast();
        part.iov_len = datagram.bytes.len();
        if let Some(to) = datagram.to {
            messages[count].msg_hdr.msg_namelen = to.len();
            messages[count].msg_hdr.msg_name = ptr::from_mut(names[count].write(to)).cast();
            if let Some(from) = datagram.from {
                controls[count].push_source(from);
            }
            count += 1;
        }
        // The first one has an address.
        messages[count.saturating_sub(1)].msg_hdr.msg_iovlen += 1;
    }
    put_together(&mut messages[..count], &mut parts, &mut controls);
    let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
    #[expect(clippy::cast_possible_truncation, reason = "32 at the most")]
    let count = count as u32;
    let sent = send_past_reports(|| {
        // SAFETY: the first `count` headers each point to an address of the length told, to the parts told, disjoint
        // runs of `parts`, which are borrowed bytes that are only read, and to nothing or whole control messages. All
        // of it outlives the call.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, flags as _) };
        Ok(Errno::result(sent)?)
    })?;
    Ok(usize::try_from(sent).unwrap_or_default())
}

/// Has each message point to its parts, of which it knows the number, and to its control messages.
fn put_together(messages: &mut [libc::mmsghdr], parts: &mut [libc::iovec], controls: &mut [Controls]) {
    let mut first = 0;
    for (message, control) in messages.iter_mut().zip(controls) {
        let header = &mut message.msg_hdr;
        if header.msg_iovlen > 1 {
            // No UDP datagram is longer.
            let segment = u16::try_from(parts[first].iov_len).unwrap_or(u16::MAX);
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, segment);
        }
        if control.length > 0 {
            header.msg_control = ptr::from_mut(&mut control.bytes).cast();
            header.msg_controllen = control.length as _;
        }
        header.msg_iov = parts.as_mut_ptr().wrapping_add(first);
        let parts_of_it: usize = header.msg_iovlen as _;
        first += parts_of_it;
    }
}

/// Calls what sends, and again while that may have failed for what became of an earlier datagram.
pub(crate) fn send_past_reports<N>(mut send: impl FnMut() -> io::Result<N>) -> io::Result<N> {
    /// Each call takes one report. There is one at a time, but others who send through the socket may meanwhile have
    /// caused another; so many in a row are none.
    const MOST: u32 = 16;
    for _ in 0..MOST {
        match send() {
            Err(error) if may_be_of_an_earlier(&error) => {}
            outcome => return outcome,
        }
    }
    send()
}

/// Whether sending or receiving may have failed for what became of a datagram that was sent earlier, to whomever: an
/// ICMP message about it (udp(7), ip(7)), which a socket with `IP_RECVERR`, or a connected one, reports to whatever is
/// called next, and once. A datagram that was to be sent was not, and can be.
pub(crate) fn may_be_of_an_earlier(error: &io::Error) -> bool {
    matches!(
        errno(error),
        Some(
            Errno::ECONNREFUSED
                | Errno::EHOSTUNREACH
                | Errno::ENETUNREACH
                | Errno::EHOSTDOWN
                | Errno::ENONET
                | Errno::EMSGSIZE
                | Errno::EACCES
                | Errno::EPROTO
                | Errno::ENOPROTOOPT
                | Errno::EOPNOTSUPP
        )
    )
}

/// Nothing, without an address. What fields there are, and their types, the C libraries do not agree on.
pub(super) fn no_message() -> libc::mmsghdr {
    // SAFETY: all fields are integers or pointers, for which zero is a value.
    unsafe { zeroed() }
}

/// The control messages (cmsg(3)) of a message.
#[derive(Clone, Copy)]
struct Controls {
    /// Room for an address and the length of segments.
    bytes: [u64; 8],
    /// How many bytes are used.
    length: usize,
}

impl Controls {
    const NONE: Controls = Controls {
        bytes: [0; 8],
        length: 0,
    };

    /// Which of this host's addresses the datagram comes from.
    fn push_source(&mut self, from: PacketInfo) {
        match from {
            PacketInfo::V4(ip) => self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, PacketInfo::to_v4(ip)),
            PacketInfo::V6(ip, interface) => {
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, PacketInfo::to_v6(ip, interface));
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "20 bytes at the most")]
    fn push<V: Copy>(&mut self, level: libc::c_int, kind: libc::c_int, value: V) {
        // SAFETY: it only counts.
        let length = unsafe { libc::CMSG_LEN(size_of::<V>() as _) };
        // SAFETY: as above.
        let space = unsafe { libc::CMSG_SPACE(size_of::<V>() as _) } as usize;
        assert!(
            self.length + space <= size_of_val(&self.bytes),
            "a message has one of each"
        );
        // SAFETY: all fields are integers, for which zero is a value.
        let mut header: libc::cmsghdr = unsafe { zeroed() };
        header.cmsg_len = length as _;
        header.cmsg_level = level;
        header.cmsg_type = kind;
        let place: *mut libc::cmsghdr = ptr::from_mut(&mut self.bytes).wrapping_byte_add(self.length).cast();
        // SAFETY: there is room for the header and the value behind it, as was just seen; the bytes are aligned as
        // headers are, and the space of each control message keeps that.
        unsafe { place.write(header) };
        // SAFETY: it is the place behind that header.
        let data = unsafe { libc::CMSG_DATA(place) };
        // SAFETY: there is room for the value, wherever it comes to lie.
        unsafe { data.cast::<V>().write_unaligned(value) };
        self.length += space;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_about_several_earlier_datagrams_do_not_keep_one_from_being_sent() {
        // Others send meanwhile, to clients that are gone.
        let mut reports = [Errno::ECONNREFUSED, Errno::EHOSTUNREACH, Errno::ECONNREFUSED].into_iter();
        let sent = send_past_reports(|| reports.next().map_or(Ok(5), |report| Err(report.into())));
        assert_eq!(sent.unwrap(), 5);
    }

    #[test]
    fn what_keeps_a_datagram_from_being_sent_for_ever_is_an_error() {
        for errno in [Errno::EMSGSIZE, Errno::EAGAIN] {
            let sent: io::Result<()> = send_past_reports(|| Err(errno.into()));
            assert_eq!(sent.unwrap_err().raw_os_error(), Some(errno as i32));
        }
    }
}

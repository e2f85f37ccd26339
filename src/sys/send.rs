//! Sending several datagrams with one system call.

use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::SockaddrLike;

/// A datagram to send.
#[derive(Debug)]
pub(crate) struct Outgoing<'a, A> {
    pub(crate) bytes: &'a [u8],
    /// Without an address it is a further segment of the message that the one before belongs to (`UDP_SEGMENT`,
    /// udp(7)): not longer than that message's first, as long as which all but its last must be.
    pub(crate) to: Option<A>,
}

/// At most this many are sent at once.
pub(crate) const MOST_SENT: usize = 32;

/// The one control message of a message in segments (cmsg(3)).
#[repr(C)]
#[derive(Clone, Copy)]
struct Control {
    header: libc::cmsghdr,
    /// As long as each segment is.
    segment: u16,
    padding: [u16; 3],
}

/// sendmmsg(2): sends the first [`MOST_SENT`] of `datagrams` in order, and says how many messages went: datagrams, or
/// all together that join one. An error is that of the first; one that comes later ends the call, and is the first
/// one's of the next.
///
/// nix has a `sendmmsg`, which sets the same control messages on all, allocates its headers, and cannot be kept
/// where it is shared.
pub(crate) fn send<'a, A: SockaddrLike>(
    socket: BorrowedFd<'_>,
    datagrams: impl Iterator<Item = Outgoing<'a, A>>,
    wait: bool,
) -> io::Result<usize> {
    let mut parts: [libc::iovec; MOST_SENT] = std::array::from_fn(|_| libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    });
    let mut names = [const { MaybeUninit::<A>::uninit() }; MOST_SENT];
    let mut messages: [libc::mmsghdr; MOST_SENT] = std::array::from_fn(|_| no_message());
    let mut controls = [Control::segments_of(0); MOST_SENT];
    let mut count = 0;
    for (part, datagram) in parts.iter_mut().zip(datagrams) {
        part.iov_base = datagram.bytes.as_ptr().cast_mut().cast();
        part.iov_len = datagram.bytes.len();
        if let Some(to) = datagram.to {
            messages[count].msg_hdr.msg_namelen = to.len();
            messages[count].msg_hdr.msg_name = ptr::from_mut(names[count].write(to)).cast();
            count += 1;
        }
        // The first one has an address.
        messages[count.saturating_sub(1)].msg_hdr.msg_iovlen += 1;
    }
    let mut first = 0;
    for (message, control) in messages.iter_mut().zip(&mut controls).take(count) {
        let header = &mut message.msg_hdr;
        if header.msg_iovlen > 1 {
            *control = Control::segments_of(parts[first].iov_len);
            header.msg_control = ptr::from_mut(control).cast();
            header.msg_controllen = size_of::<Control>() as _;
        }
        header.msg_iov = parts.as_mut_ptr().wrapping_add(first);
        let parts_of_it: usize = header.msg_iovlen as _;
        first += parts_of_it;
    }
    let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
    #[expect(clippy::cast_possible_truncation, reason = "32 at the most")]
    let count = count as u32;
    let sent = send_past_reports(|| {
        // SAFETY: the first `count` headers each point to an address of the length told, to the parts told, disjoint
        // runs of `parts`, which are borrowed bytes that are only read, and to nothing or one control message. All of
        // it outlives the call.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, flags as _) };
        Ok(Errno::result(sent)?)
    })?;
    Ok(usize::try_from(sent).unwrap_or_default())
}

/// Calls what sends, and once more if that may have failed for what became of an earlier datagram.
pub(crate) fn send_past_reports<N>(mut send: impl FnMut() -> io::Result<N>) -> io::Result<N> {
    match send() {
        Err(error) if may_be_of_an_earlier(&error) => send(),
        first => first,
    }
}

/// Whether sending may have failed for what became of a datagram that was sent earlier, to whomever: an ICMP message about
/// it (udp(7), ip(7)), which a socket with `IP_RECVERR`, or a connected one, reports to whatever is called next, and once.
/// The datagram that was to be sent was not, and can be.
fn may_be_of_an_earlier(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
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

impl Control {
    fn segments_of(length: usize) -> Self {
        // SAFETY: all fields are integers, for which zero is a value.
        let mut header: libc::cmsghdr = unsafe { zeroed() };
        header.cmsg_len = (size_of::<libc::cmsghdr>() + size_of::<u16>()) as _;
        header.cmsg_level = libc::SOL_UDP;
        header.cmsg_type = libc::UDP_SEGMENT;
        Control {
            header,
            // No UDP datagram is longer.
            segment: u16::try_from(length).unwrap_or(u16::MAX),
            padding: [0; 3],
        }
    }
}

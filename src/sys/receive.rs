//! Receiving several datagrams with one system call.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::SockaddrLike;

/// What is told of a datagram beside its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<A> {
    /// The length it was sent with; more than fitted if it was cut.
    pub(crate) length: usize,
    /// Its sender's address, if that has one.
    pub(crate) from: Option<A>,
}

/// At most this many are received at once.
const MOST: usize = 32;

#[expect(clippy::cast_possible_truncation, reason = "128 bytes")]
const NAME_SIZE: libc::socklen_t = size_of::<libc::sockaddr_storage>() as libc::socklen_t;

/// recvmmsg(2), which waits for the first datagram only if it `waits` and the socket does: up to `MOST` datagrams, the first `size` bytes of each into a part of
/// `buffer` of its own, and `into` told of each in order.
///
/// nix has a `recvmmsg`, whose headers either are allocated at each call or keep the length of the last
/// sender's address as the room for the next one.
pub(crate) fn receive<A: SockaddrLike>(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    size: usize,
    waits: bool,
    mut into: impl FnMut(Received<A>),
) -> io::Result<()> {
    let mut names = [const { MaybeUninit::<libc::sockaddr_storage>::uninit() }; MOST];
    // One part has to be there even if no byte of a datagram is wanted.
    let mut parts: [libc::iovec; MOST] = std::array::from_fn(|_| libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    });
    let mut count = 0;
    for (part, bytes) in parts.iter_mut().zip(buffer.chunks_exact_mut(size.max(1))) {
        part.iov_base = bytes.as_mut_ptr().cast();
        part.iov_len = size;
        count += 1;
    }
    let mut messages: [libc::mmsghdr; MOST] = std::array::from_fn(|number| libc::mmsghdr {
        msg_hdr: libc::msghdr {
            msg_name: names[number].as_mut_ptr().cast(),
            msg_namelen: NAME_SIZE,
            msg_iov: &raw mut parts[number],
            msg_iovlen: 1,
            msg_control: ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        },
        msg_len: 0,
    });
    // MSG_TRUNC: the real length of a datagram that did not fit (recv(2)).
    let flags = libc::MSG_TRUNC
        | if waits {
            libc::MSG_WAITFORONE
        } else {
            libc::MSG_DONTWAIT
        };
    // SAFETY: `count` headers are given, each of which points to a name of the size told and to one part;
    // the first `count` parts are disjoint pieces of `buffer`, of the sizes told. All outlive the call.
    let received = unsafe { libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, flags, ptr::null_mut()) };
    let received = usize::try_from(Errno::result(received)?).unwrap_or_default();
    for (message, name) in messages.iter().zip(&names).take(received) {
        let length = message.msg_hdr.msg_namelen;
        // SAFETY: the kernel has written `length` bytes of an address, which is aligned as any may be; a
        // sender without an address (length 0) is not looked at.
        let from = (length > 0)
            .then(|| unsafe { A::from_raw(name.as_ptr().cast(), Some(length)) })
            .flatten();
        into(Received {
            length: message.msg_len as usize,
            from,
        });
    }
    Ok(())
}

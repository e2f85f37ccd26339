//! Receiving several datagrams with one system call.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::SockaddrLike;

use super::PacketInfo;
use super::send::no_message;

/// A datagram that was received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a, A> {
    /// What was kept of it.
    pub(crate) bytes: &'a [u8],
    /// The length it was sent with; more than was kept if it was cut.
    pub(crate) length: usize,
    /// Its sender's address, if that has one.
    pub(crate) from: Option<A>,
    /// Which address it was sent to, if that was asked for.
    pub(crate) info: Option<PacketInfo>,
}

/// Receives datagrams, several with one recvmmsg(2), into memory of its own, which the headers that the system call
/// works on point to: they are made once.
///
/// nix has a `recvmmsg`, whose headers either are allocated at each call or keep the length of the last
/// sender's address as the room for the next one.
#[derive(Debug)]
pub(crate) struct Receiver {
    /// How many bytes of a datagram are kept.
    size: usize,
    /// How many datagrams were received last.
    received: usize,
    messages: Vec<libc::mmsghdr>,
    // What these point to is in none of these fields' own types, so that nothing but the kernel and `get` is at it.
    names: NonNull<[MaybeUninit<libc::sockaddr_storage>]>,
    /// None if nobody wants to know what address the datagrams were sent to.
    controls: NonNull<[Controls]>,
    parts: NonNull<[libc::iovec]>,
    buffer: NonNull<[u8]>,
}

// SAFETY: what the pointers lead to belongs to the value alone.
unsafe impl Send for Receiver {}

/// Room for the control messages of a datagram: for that which is wanted (40 bytes), and those that a program may have
/// asked the system for and that come before (`SO_TIMESTAMP`, `IP_TTL`, `IP_TOS`).
type Controls = MaybeUninit<[u64; 16]>;

#[expect(clippy::cast_possible_truncation, reason = "128 bytes")]
const NAME_SIZE: libc::socklen_t = size_of::<libc::sockaddr_storage>() as libc::socklen_t;

impl Receiver {
    /// For up to `count` datagrams at once (1 or more), of each of which up to `size` bytes are kept. Pages that no
    /// datagram has touched are not in memory. With `infos`, the socket tells what address they were sent to.
    pub(crate) fn new(count: usize, size: usize, infos: bool) -> Self {
        // One part has to be there even if no byte of a datagram is wanted.
        let part = size.max(1);
        let names = leak((0..count).map(|_| MaybeUninit::uninit()).collect());
        let infos = if infos { count } else { 0 };
        let controls = leak((0..infos).map(|_| Controls::uninit()).collect());
        let buffer = leak(vec![0; count * part].into());
        let parts = (0..count).map(|number| libc::iovec {
            iov_base: buffer.cast::<u8>().as_ptr().wrapping_add(number * part).cast(),
            iov_len: size,
        });
        let parts = leak(parts.collect());
        let message = |number| {
            let mut message = no_message();
            let header = &mut message.msg_hdr;
            header.msg_name = names
                .cast::<libc::sockaddr_storage>()
                .as_ptr()
                .wrapping_add(number)
                .cast();
            header.msg_namelen = NAME_SIZE;
            header.msg_iov = parts.cast::<libc::iovec>().as_ptr().wrapping_add(number);
            header.msg_iovlen = 1;
            if number < infos {
                header.msg_control = controls.cast::<Controls>().as_ptr().wrapping_add(number).cast();
                header.msg_controllen = size_of::<Controls>() as _;
            }
            message
        };
        Receiver {
            size,
            received: 0,
            messages: (0..count).map(message).collect(),
            names,
            controls,
            parts,
            buffer,
        }
    }

    /// How many bytes of a datagram are kept.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Whether it is told what address datagrams were sent to.
    pub(crate) fn infos(&self) -> bool {
        !self.controls.is_empty()
    }

    /// Receives up to `most`, and waits for the first datagram only if it `waits` and the socket does. Returns how many
    /// were received; those of the last call are gone.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>, most: usize, waits: bool) -> io::Result<usize> {
        let infos = self.infos();
        for message in &mut self.messages[..self.received] {
            message.msg_hdr.msg_namelen = NAME_SIZE;
            if infos {
                message.msg_hdr.msg_controllen = size_of::<Controls>() as _;
            }
        }
        self.received = 0;
        self.received = if most == 1 && !infos {
            self.receive_one(socket, waits)?
        } else {
            self.receive_many(socket, most, waits)?
        };
        Ok(self.received)
    }

    /// recvfrom(2): for one datagram recvmmsg(2) takes the kernel a tenth of a microsecond more.
    fn receive_one(&mut self, socket: BorrowedFd<'_>, waits: bool) -> io::Result<usize> {
        let message = &mut self.messages[0];
        let header = &mut message.msg_hdr;
        let wait = if waits { 0 } else { libc::MSG_DONTWAIT };
        // MSG_TRUNC: the real length of a datagram that did not fit (recv(2)).
        let flags = libc::MSG_TRUNC | wait;
        // SAFETY: the name is of the size told, and the first piece of the buffer is, too; both live as long as `self`.
        let length = unsafe {
            libc::recvfrom(
                socket.as_raw_fd(),
                self.buffer.cast::<u8>().as_ptr().cast(),
                self.size,
                flags,
                header.msg_name.cast(),
                &raw mut header.msg_namelen,
            )
        };
        message.msg_len = u32::try_from(Errno::result(length)?).unwrap_or(u32::MAX);
        Ok(1)
    }

    /// recvmmsg(2).
    fn receive_many(&mut self, socket: BorrowedFd<'_>, most: usize, waits: bool) -> io::Result<usize> {
        let wait = if waits {
            libc::MSG_WAITFORONE
        } else {
            libc::MSG_DONTWAIT
        };
        let flags = libc::MSG_TRUNC | wait;
        #[expect(clippy::cast_possible_truncation, reason = "32 at the most")]
        let count = self.messages.len().min(most) as u32;
        // SAFETY: `count` headers are given, each of which points to a name of the size told, to no or so much room for
        // control messages, and to one part, and that to a piece of the buffer of the size told, different ones each;
        // all live as long as `self`.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                count,
                flags as _,
                ptr::null_mut(),
            )
        };
        Ok(usize::try_from(Errno::result(received)?).unwrap_or_default())
    }

    /// One of those that were received, counted from 0.
    pub(crate) fn get<A: SockaddrLike>(&self, number: usize) -> Option<Received<'_, A>> {
        let message = self.messages[..self.received].get(number)?;
        let (header, length) = (&message.msg_hdr, message.msg_len as usize);
        // The kernel counts a NUL behind the longest path of a Unix socket (unix(7), "Bugs"), for which the type has no
        // room, and nix does not look.
        let name_length = header.msg_namelen.min(A::size());
        // SAFETY: the kernel has written that many bytes of an address, which is aligned as any may be, and no more
        // than the type has; a sender without an address (length 0) is not looked at.
        let from = (name_length > 0)
            .then(|| unsafe { A::from_raw(header.msg_name.cast(), Some(name_length)) })
            .flatten();
        let start = self
            .buffer
            .cast::<u8>()
            .as_ptr()
            .wrapping_add(number * self.size.max(1));
        // SAFETY: these bytes are within the piece of the buffer that this datagram was received into, and initialised
        // from the beginning. The kernel writes there only in `receive`, which needs `self` for itself.
        let bytes = unsafe { std::slice::from_raw_parts(start, length.min(self.size)) };
        // SAFETY: the header is as the system call has left it; without room for control messages it has none.
        let info = unsafe { PacketInfo::of(header) };
        Some(Received {
            bytes,
            length,
            from,
            info,
        })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // SAFETY: it comes from `leak`, and nothing leads there any more.
        drop(unsafe { Box::from_raw(self.names.as_ptr()) });
        // SAFETY: as above.
        drop(unsafe { Box::from_raw(self.controls.as_ptr()) });
        // SAFETY: as above.
        drop(unsafe { Box::from_raw(self.parts.as_ptr()) });
        // SAFETY: as above.
        drop(unsafe { Box::from_raw(self.buffer.as_ptr()) });
    }
}

fn leak<V>(values: Box<[V]>) -> NonNull<[V]> {
    NonNull::from(Box::leak(values))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::UnixDatagram;
    use std::path::Path;

    use nix::sys::socket::{MsgFlags, UnixAddr, bind, sendto};

    use super::*;

    /// Of the longest path that bind(2) takes: it leaves no room for a NUL, and the standard library refuses it.
    fn longest_address(directory: &Path) -> (UnixAddr, Vec<u8>) {
        // SAFETY: all fields are integers, for which zero is a value.
        let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
        address.sun_family = libc::AF_UNIX.try_into().unwrap();
        let mut path = directory.join("").as_os_str().as_bytes().to_vec();
        path.resize(address.sun_path.len(), b'x');
        for (place, byte) in address.sun_path.iter_mut().zip(&path) {
            *place = byte.cast_signed() as _;
        }
        // SAFETY: the pointer is to an address of the length given.
        let made = unsafe { UnixAddr::from_raw((&raw const address).cast(), Some(UnixAddr::size())) };
        (made.unwrap(), path)
    }

    #[test]
    fn the_longest_path_of_a_sender_is_told_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("server");
        let server = UnixDatagram::bind(&at).unwrap();
        let (address, path) = longest_address(directory.path());
        let client = UnixDatagram::unbound().unwrap();
        bind(client.as_raw_fd(), &address).unwrap();
        let server_address = UnixAddr::new(&at).unwrap();

        let mut receiver = Receiver::new(2, 10, false);
        for most in [1, 2] {
            sendto(client.as_raw_fd(), b"hello", &server_address, MsgFlags::empty()).unwrap();
            assert_eq!(receiver.receive(server.as_fd(), most, false).unwrap(), 1);
            let Received { bytes, from, .. } = receiver.get::<UnixAddr>(0).unwrap();
            assert_eq!(bytes, b"hello");
            assert_eq!(from.unwrap().path().unwrap().as_os_str().as_bytes(), path);
        }
    }
}

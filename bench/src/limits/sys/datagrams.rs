//! Datagrams, one by one and in batches.

use std::mem::{self, MaybeUninit};
use std::ptr;

use super::Fd;

/// The longest datagram.
const DATAGRAM: usize = 65_535;

/// A datagram and its sender.
pub struct Datagram {
    bytes: [MaybeUninit<u8>; DATAGRAM],
    length: usize,
    from: libc::sockaddr_storage,
    from_length: libc::socklen_t,
}

impl Datagram {
    /// Room for one.
    pub fn room() -> Self {
        #[allow(clippy::large_stack_arrays, reason = "the thread that receives has a stack for it")]
        Datagram {
            bytes: [MaybeUninit::uninit(); DATAGRAM],
            length: 0,
            from: no_address(),
            from_length: 0,
        }
    }

    /// Receives one, waiting for it.
    pub fn receive(&mut self, socket: Fd) -> bool {
        self.from_length = ADDRESS_ROOM;
        // SAFETY: the buffer and the address are as long as they say.
        let count = unsafe {
            let from = (&raw mut self.from).cast();
            libc::recvfrom(
                socket,
                self.bytes.as_mut_ptr().cast(),
                DATAGRAM,
                0,
                from,
                &raw mut self.from_length,
            )
        };
        self.length = usize::try_from(count).unwrap_or(0);
        count >= 0
    }

    /// Sends it back.
    pub fn reply(&self, socket: Fd) {
        // SAFETY: so many bytes of the buffer and of the address were received into. A client that is gone
        // is no matter of ours.
        unsafe {
            let to = (&raw const self.from).cast();
            libc::sendto(socket, self.bytes.as_ptr().cast(), self.length, 0, to, self.from_length);
        }
    }
}

fn no_address() -> libc::sockaddr_storage {
    // SAFETY: integers, for which zero is valid.
    unsafe { mem::zeroed() }
}

#[allow(clippy::cast_possible_truncation, reason = "it is 128")]
const ADDRESS_ROOM: libc::socklen_t = size_of::<libc::sockaddr_storage>() as libc::socklen_t;

/// Datagrams that are received by one call.
pub const BATCH: usize = 32;

/// Room for a batch. The headers point into the other fields, which never move: it is made on the heap
/// and stays there.
pub struct Batch {
    headers: [libc::mmsghdr; BATCH],
    parts: [libc::iovec; BATCH],
    from: [libc::sockaddr_storage; BATCH],
    bytes: Vec<u8>,
}

impl Batch {
    pub fn leaked() -> &'static mut Self {
        let batch = Box::leak(Box::new(Batch {
            // SAFETY: integers and pointers, for which zero is valid.
            headers: unsafe { mem::zeroed() },
            // SAFETY: as before.
            parts: unsafe { mem::zeroed() },
            from: [no_address(); BATCH],
            bytes: vec![0; BATCH * DATAGRAM],
        }));
        for number in 0..BATCH {
            batch.parts[number].iov_base = batch.bytes[number * DATAGRAM..].as_mut_ptr().cast();
            let header = &mut batch.headers[number].msg_hdr;
            header.msg_name = (&raw mut batch.from[number]).cast();
            header.msg_iov = &raw mut batch.parts[number];
            header.msg_iovlen = 1;
        }
        batch.make_room(BATCH);
        batch
    }

    fn make_room(&mut self, count: usize) {
        for number in 0..count {
            self.parts[number].iov_len = DATAGRAM;
            self.headers[number].msg_hdr.msg_namelen = ADDRESS_ROOM;
        }
    }

    /// Receives what is there, at least one; how many.
    pub fn receive(&mut self, socket: Fd) -> usize {
        self.make_room(BATCH);
        #[allow(clippy::cast_possible_truncation, reason = "it is 32")]
        let most = BATCH as u32;
        // SAFETY: each header points to a buffer and an address of the lengths it says.
        let count = unsafe {
            libc::recvmmsg(
                socket,
                self.headers.as_mut_ptr(),
                most,
                libc::MSG_WAITFORONE,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).unwrap_or(0);
        for number in 0..count {
            self.parts[number].iov_len = self.headers[number].msg_len as usize;
        }
        count
    }

    /// Sends each of the first `count` back by a call of its own.
    pub fn reply_singly(&self, socket: Fd, count: usize) {
        for number in 0..count {
            let (part, header) = (&self.parts[number], &self.headers[number].msg_hdr);
            // SAFETY: as long as it was received.
            unsafe {
                libc::sendto(
                    socket,
                    part.iov_base,
                    part.iov_len,
                    0,
                    header.msg_name.cast(),
                    header.msg_namelen,
                );
            }
        }
    }

    /// Sends the first `count` back by one call.
    pub fn reply_together(&mut self, socket: Fd, count: usize) {
        let mut sent = 0;
        while sent < count {
            #[allow(clippy::cast_possible_truncation, reason = "at most 32")]
            let rest = (count - sent) as u32;
            // SAFETY: each header points to bytes and an address of the lengths they were received with.
            let more = unsafe { libc::sendmmsg(socket, self.headers[sent..].as_mut_ptr(), rest, 0) };
            // On an error, the first is the one that cannot be sent: its client is gone.
            sent += usize::try_from(more).unwrap_or(1);
        }
    }

    /// Sends the first `count` back by one call for each client: as one datagram that the kernel, or the
    /// network card, cuts into segments (`UDP_SEGMENT`, udp(7)).
    pub fn reply_in_segments(&self, socket: Fd, count: usize) {
        let mut done = [false; BATCH];
        for first in 0..count {
            if done[first] {
                continue;
            }
            // SAFETY: pointers and integers, for which zero is valid.
            let mut parts: [libc::iovec; BATCH] = unsafe { mem::zeroed() };
            let mut segments = 0;
            for (number, done) in done.iter_mut().enumerate().take(count).skip(first) {
                let fits = (segments + 1) * self.parts[first].iov_len <= 65_000;
                if !*done && fits && self.goes_with(first, number) {
                    parts[segments] = self.parts[number];
                    segments += 1;
                    *done = true;
                }
            }
            self.send_segments(socket, first, &mut parts[..segments]);
        }
    }

    /// Whether two have the same sender and length.
    fn goes_with(&self, one: usize, other: usize) -> bool {
        // SAFETY: addresses are integers, all of which were zero or received.
        let bytes = |number: usize| unsafe {
            let address = (&raw const self.from[number]).cast::<u8>();
            std::slice::from_raw_parts(address, self.headers[number].msg_hdr.msg_namelen as usize)
        };
        self.parts[one].iov_len == self.parts[other].iov_len && bytes(one) == bytes(other)
    }

    fn send_segments(&self, socket: Fd, first: usize, parts: &mut [libc::iovec]) {
        /// cmsg(3) by hand, since it is but one.
        #[repr(C)]
        struct Control {
            header: libc::cmsghdr,
            segment: u16,
            padding: [u16; 3],
        }
        let mut control = Control {
            header: libc::cmsghdr {
                cmsg_len: size_of::<libc::cmsghdr>() + size_of::<u16>(),
                cmsg_level: libc::SOL_UDP,
                cmsg_type: libc::UDP_SEGMENT,
            },
            segment: u16::try_from(parts[0].iov_len).unwrap_or(u16::MAX),
            padding: [0; 3],
        };
        let mut header = self.headers[first].msg_hdr;
        header.msg_iov = parts.as_mut_ptr();
        header.msg_iovlen = parts.len();
        if parts.len() > 1 {
            header.msg_control = (&raw mut control).cast();
            header.msg_controllen = size_of::<Control>();
        }
        // SAFETY: the header points to the parts, the control message and an address that live until then.
        unsafe { libc::sendmsg(socket, &raw const header, 0) };
    }
}

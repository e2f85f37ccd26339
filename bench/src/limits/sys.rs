//! The system calls, and all `unsafe` of this package.
//!
//! Descriptors are integers, as in C: a wrong one is an error (EBADF), never undefined behaviour.
#![allow(
    unsafe_code,
    reason = "what is compared with is C: system calls, pthreads and futexes as they are"
)]

use std::ffi::c_void;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::AtomicU32;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, bind, listen, setsockopt,
    socket, sockopt,
};

use crate::servers::{BUFFER, BULK_BUFFER, Setup, Transport, announce, local_address};

pub type Fd = i32;

/// What fits into a stack of a thread besides the larger buffer. Small, so that many stacks share a page
/// of the page tables.
const STACK: usize = 256 * 1024;

// ----- Sockets ---------------------------------------------------------------------------------------

/// Makes the listening or datagram socket and tells where it is.
pub fn open(setup: &Setup, flags: SockFlag) -> io::Result<Fd> {
    let kind = match setup.transport {
        Transport::Tcp | Transport::Unix => SockType::Stream,
        Transport::Udp | Transport::Unixgram => SockType::Datagram,
    };
    let socket = if setup.transport.is_unix() {
        bound(
            AddressFamily::Unix,
            kind,
            flags,
            &UnixAddr::new(setup.address.as_str())?,
        )?
    } else {
        let address: std::net::SocketAddr = setup.address.parse().map_err(io::Error::other)?;
        bound(AddressFamily::Inet, kind, flags, &SockaddrStorage::from(address))?
    };
    if kind == SockType::Stream {
        listen(&socket, Backlog::new(4096)?)?;
    }
    announce(local_address(socket.as_fd())?)?;
    Ok(socket.into_raw_fd())
}

fn bound(family: AddressFamily, kind: SockType, flags: SockFlag, address: &dyn SockaddrLike) -> io::Result<OwnedFd> {
    let socket = socket(family, kind, flags | SockFlag::SOCK_CLOEXEC, None)?;
    if kind == SockType::Stream {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    bind(socket.as_raw_fd(), address)?;
    Ok(socket)
}

/// The next connection.
pub fn accept(listener: Fd) -> nix::Result<Fd> {
    // SAFETY: no address is asked for, so no memory is passed.
    Errno::result(unsafe { libc::accept4(listener, ptr::null_mut(), ptr::null_mut(), libc::SOCK_CLOEXEC) })
}

pub fn close(fd: Fd) {
    // SAFETY: passes no memory.
    unsafe { libc::close(fd) };
}

/// Echoes a connection to its end and closes it.
pub fn serve(connection: Fd, bulk: bool) {
    if bulk {
        echo::<BULK_BUFFER>(connection);
    } else {
        echo::<BUFFER>(connection);
    }
    close(connection);
}

/// Not inlined: else each thread's stack has room for the larger buffer.
#[inline(never)]
fn echo<const SIZE: usize>(connection: Fd) {
    let mut buffer = [MaybeUninit::<u8>::uninit(); SIZE];
    loop {
        // SAFETY: the buffer is SIZE bytes long.
        let count = unsafe { libc::recv(connection, buffer.as_mut_ptr().cast(), SIZE, 0) };
        let Ok(count @ 1..) = usize::try_from(count) else {
            return;
        };
        let mut sent = 0;
        while sent < count {
            let rest = &buffer[sent..count];
            // SAFETY: the first `count` bytes of the buffer were received into.
            let more = unsafe { libc::send(connection, rest.as_ptr().cast(), rest.len(), libc::MSG_NOSIGNAL) };
            let Ok(more) = usize::try_from(more) else {
                return;
            };
            sent += more;
        }
    }
}

/// Echoes what has come on a connection; `false` at its end.
pub fn echo_once(connection: Fd, buffer: &mut [u8]) -> bool {
    // SAFETY: the buffer is as long as it says.
    let count = unsafe { libc::recv(connection, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
    let Ok(count @ 1..) = usize::try_from(count) else {
        return Errno::last() == Errno::EAGAIN && count < 0;
    };
    // SAFETY: the first `count` bytes of the buffer were received into.
    let sent = unsafe { libc::send(connection, buffer.as_ptr().cast(), count, libc::MSG_NOSIGNAL) };
    sent >= 0
}

// ----- Processes -------------------------------------------------------------------------------------

/// Forks; 0 in the child. Only for processes with one thread.
pub fn fork() -> nix::Result<i32> {
    // SAFETY: the process has one thread, so the child holds no lock of another.
    Errno::result(unsafe { libc::fork() })
}

/// Whether a child has ended; if so, it is reaped.
pub fn has_ended(child: i32) -> bool {
    // SAFETY: no status is asked for, so no memory is passed.
    unsafe { libc::waitpid(child, ptr::null_mut(), libc::WNOHANG) != 0 }
}

pub fn exit_now() -> ! {
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(0) }
}

// ----- Threads ---------------------------------------------------------------------------------------

/// Starts a detached thread.
pub fn start_thread<A: Send + 'static>(main: fn(A), argument: A) -> nix::Result<()> {
    extern "C" fn start<A>(start: *mut c_void) -> *mut c_void {
        // SAFETY: `start_thread` made it from such a box, and gives it to one thread only.
        let (main, argument) = *unsafe { Box::from_raw(start.cast::<(fn(A), A)>()) };
        main(argument);
        ptr::null_mut()
    }
    let boxed = Box::into_raw(Box::new((main, argument)));
    let mut attributes = MaybeUninit::uninit();
    let mut thread = MaybeUninit::uninit();
    // SAFETY: the attributes are initialised by the first call, used by the next two, destroyed by the last.
    let error = unsafe {
        libc::pthread_attr_init(attributes.as_mut_ptr());
        libc::pthread_attr_setdetachstate(attributes.as_mut_ptr(), libc::PTHREAD_CREATE_DETACHED);
        libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), STACK);
        let error = libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), start::<A>, boxed.cast());
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        error
    };
    if error == 0 {
        return Ok(());
    }
    // SAFETY: no thread was started, so the box is still ours.
    drop(unsafe { Box::from_raw(boxed) });
    Err(Errno::from_raw(error))
}

/// Waits while `word` is `value`, or a moment less.
pub fn futex_wait(word: &AtomicU32, value: u32) {
    // SAFETY: the word lives as long as the call; without a timeout no other memory is passed.
    unsafe {
        let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            operation,
            value,
            ptr::null::<libc::timespec>(),
        );
    }
}

/// Wakes one thread that waits for `word` to change.
pub fn futex_wake(word: &AtomicU32) {
    // SAFETY: the kernel uses the address as a key only.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            1,
        );
    }
}

// ----- Waiting ---------------------------------------------------------------------------------------

/// An epoll set of descriptors to read, each of which it tells by its number.
pub fn epoll(descriptors: &[Fd]) -> nix::Result<Fd> {
    // SAFETY: passes no memory.
    let set = Errno::result(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    for &fd in descriptors {
        epoll_add(set, fd)?;
    }
    Ok(set)
}

pub fn epoll_add(set: Fd, fd: Fd) -> nix::Result<()> {
    let mut event = libc::epoll_event {
        events: libc::EPOLLIN.cast_unsigned(),
        u64: u64::from(fd.cast_unsigned()),
    };
    // SAFETY: the event lives as long as the call.
    Errno::result(unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, &raw mut event) }).map(drop)
}

/// Waits until descriptors are ready; how many of `ready` are.
pub fn epoll_wait(set: Fd, ready: &mut [libc::epoll_event]) -> nix::Result<usize> {
    let room = i32::try_from(ready.len()).unwrap_or(i32::MAX);
    // SAFETY: there is room for as many events as are asked for.
    let count = Errno::result(unsafe { libc::epoll_wait(set, ready.as_mut_ptr(), room, -1) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// A descriptor that never becomes ready here: what a server that can be stopped waits on as well.
pub fn eventfd() -> nix::Result<Fd> {
    // SAFETY: passes no memory.
    Errno::result(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

// ----- Datagrams -------------------------------------------------------------------------------------

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
            for number in first..count {
                let fits = (segments + 1) * self.parts[first].iov_len <= 65_000;
                if !done[number] && fits && self.goes_with(first, number) {
                    parts[segments] = self.parts[number];
                    segments += 1;
                    done[number] = true;
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

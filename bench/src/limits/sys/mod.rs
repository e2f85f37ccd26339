//! The system calls, and all `unsafe` of this package.
//!
//! Descriptors are integers, as in C: a wrong one is an error (EBADF), never undefined behaviour.
#![allow(
    unsafe_code,
    reason = "what is compared with is C: system calls, pthreads and futexes as they are"
)]

mod datagrams;

use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::AtomicU32;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, bind, listen, setsockopt,
    socket, sockopt,
};

use crate::servers::{BUFFER, BULK_BUFFER, DEFER_SECONDS, QUEUE, Setup, Transport, announce, local_address};

pub use datagrams::{Batch, Datagram};

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
    if setup.defer_accept {
        set_tcp_option(socket.as_raw_fd(), libc::TCP_DEFER_ACCEPT, DEFER_SECONDS.into())?;
    }
    if kind == SockType::Stream {
        listen(&socket, Backlog::new(QUEUE)?)?;
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

fn set_tcp_option(socket: Fd, option: i32, value: i32) -> nix::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
    // SAFETY: the value is as long as it says.
    Errno::result(unsafe { libc::setsockopt(socket, libc::IPPROTO_TCP, option, (&raw const value).cast(), length) })
        .map(drop)
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
        // A Unix socket has no such option and no need of it.
        let _ = set_tcp_option(connection, libc::TCP_NODELAY, 1);
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

/// This thread, and what it starts, runs under `SCHED_BATCH`.
pub fn schedule_in_batches() -> nix::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters are only read.
    Errno::result(unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) }).map(drop)
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

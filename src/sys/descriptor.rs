//! Descriptors: what they refer to, and whether their calls wait.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;

/// Sets whether calls on this socket wait, for all who have it (`FIONBIO`, ioctl(2)). Unlike fcntl(2) in one
/// system call, which leaves the other flags alone.
pub(crate) fn set_nonblocking(socket: BorrowedFd<'_>, nonblocking: bool) {
    let value = libc::c_int::from(nonblocking);
    // SAFETY: the descriptor is open (it is borrowed), and the kernel reads one int.
    unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONBIO, &raw const value) };
}

/// listen(2). nix refuses a queue that is longer than the C library says (`SOMAXCONN`: 4096, of musl 128), not the
/// kernel.
pub(crate) fn listen(socket: BorrowedFd<'_>, connections: libc::c_int) -> nix::Result<()> {
    // SAFETY: two numbers; the descriptor is open (it is borrowed).
    Errno::result(unsafe { libc::listen(socket.as_raw_fd(), connections) }).map(drop)
}

/// Whether a socket was shut down for reading (`POLLRDHUP`, poll(2), which nix has no name for).
pub(crate) fn is_shut_down(socket: BorrowedFd<'_>) -> bool {
    let mut looked_at = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: the descriptor is open (it is borrowed), and the pointer is to one pollfd that lives through the call.
    unsafe { libc::poll(&raw mut looked_at, 1, 0) };
    looked_at.revents & libc::POLLRDHUP != 0
}

/// Makes the number of `fd` refer to what `with` refers to (dup3(2)), which closes what it referred to.
///
/// That closes a listener without giving its number away: a thread that is just entering accept(2)
/// finds the other object, never a descriptor that somebody else has opened since. And it gives a forked
/// process an event descriptor or an epoll set of its own in the place of its parent's.
pub(crate) fn replace(fd: BorrowedFd<'_>, with: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open (they are borrowed), and the number of `fd` stays open and
    // owned by whoever owns it. Its owner is a socket type of this crate's transports, for which a
    // call on the other object is an error (ENOTSOCK), not undefined behaviour; or it owns an object of
    // the same type as the other.
    let outcome = unsafe { libc::dup3(with.as_raw_fd(), fd.as_raw_fd(), libc::O_CLOEXEC) };
    Errno::result(outcome)?;
    Ok(())
}

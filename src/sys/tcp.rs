//! The options of TCP (tcp(7)) that nix has no names for, and resetting a connection.

use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc::{self, c_int, socklen_t};

#[expect(clippy::cast_possible_truncation, reason = "4 bytes")]
const SIZE: socklen_t = size_of::<c_int>() as socklen_t;

/// `TCP_DEFER_ACCEPT`: a connection is accepted only when its client has sent something, or so many seconds later.
pub(crate) fn set_defer_accept(socket: BorrowedFd<'_>, seconds: c_int) -> nix::Result<()> {
    set(socket, libc::TCP_DEFER_ACCEPT, seconds)
}

/// `TCP_FASTOPEN`: so many connections at most that have sent something with their SYN may be on their way.
pub(crate) fn set_fast_open(socket: BorrowedFd<'_>, connections: c_int) -> nix::Result<()> {
    set(socket, libc::TCP_FASTOPEN, connections)
}

/// Resets a TCP connection, whoever has it (`AF_UNSPEC`, connect(2)). On other sockets that have been shut down it says
/// nothing.
pub(crate) fn reset(socket: BorrowedFd<'_>) {
    // SAFETY: all fields are integers, for which zero is a value: an address of the family `AF_UNSPEC`.
    let nowhere: libc::sockaddr = unsafe { zeroed() };
    #[expect(clippy::cast_possible_truncation, reason = "16 bytes")]
    let size = size_of::<libc::sockaddr>() as socklen_t;
    // SAFETY: the socket is open; the address is of the length given, and outlives the call, which only reads it.
    unsafe { libc::connect(socket.as_raw_fd(), &raw const nowhere, size) };
}

fn set(socket: BorrowedFd<'_>, option: c_int, value: c_int) -> nix::Result<()> {
    // SAFETY: the socket is open; the value is an int of the length given, and outlives the call, which only reads it.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const value).cast(),
            SIZE,
        )
    };
    Errno::result(outcome).map(drop)
}

//! The options of TCP (tcp(7)) that nix has no names for.

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

//! Whether other processes may have the connections of this one.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};

use crate::sys;

/// This process has forked for a request, or workers.
static FORKED: AtomicBool = AtomicBool::new(false);

/// A child or a worker is about to be forked: it gets another handle to every connection that is open in this program,
/// those of other servers and of requests beside its own included (fork(2)).
pub(crate) fn about_to_fork() {
    // Written once: after each fork a write to memory that the child has, too, copies a page.
    if !FORKED.load(Ordering::Relaxed) {
        FORKED.store(true, Ordering::Relaxed);
    }
}

/// In a worker, right after its fork: the connections that it will have are its own.
pub(crate) fn has_not_forked() {
    FORKED.store(false, Ordering::Relaxed);
}

/// A child or a worker may have another handle to any connection, and to any socket that is listened on.
pub(crate) fn others_may_have_it() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// Before a connection is closed: where another handle to it may be open, has it end as by closing. A peer that goes on
/// sending would hear nothing, and wait for room that nobody makes.
pub(crate) fn end_for_others(socket: BorrowedFd<'_>) {
    if !others_may_have_it() {
        return;
    }
    // From now on what comes is answered with a reset. The peer may be gone already (ENOTCONN).
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
    // But if there is no room, nothing comes.
    let is_unread = recv(
        socket.as_raw_fd(),
        &mut [0],
        MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT,
    );
    if is_unread.is_ok_and(|unread| unread > 0) {
        sys::reset(socket);
    }
}

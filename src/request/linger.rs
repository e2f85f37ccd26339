//! A "lingering close": what a client sends that nobody will read is read away, because closing with something unread
//! resets the connection (RFC 2525, 2.17), and a reset can overtake what the client has not read yet.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{MsgFlags, recv};

use crate::poll::poll_timeout;

/// How long a client may be silent: Go's `net/http` gives as much (`rstAvoidanceDelay`).
pub(crate) const SILENCE: Duration = Duration::from_millis(500);

/// How long a client may send: nginx's `lingering_time`.
const AT_MOST: Duration = Duration::from_secs(30);

/// What there was to read away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    Nothing,
    /// The client has not closed, and may send more.
    Something,
    /// The client has closed, or the connection is broken.
    End,
}

/// Reads away what has arrived, without waiting.
pub(crate) fn read_away(socket: BorrowedFd<'_>) -> Unread {
    // Small: this is the stack of a thread that may live for long.
    let mut buffer = [0; 2048];
    let mut found = Unread::Nothing;
    // Bounded, because a client may send as fast as this reads.
    for _ in 0..128 {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(1..) => found = Unread::Something,
            Err(Errno::EAGAIN) => return found,
            Ok(0) | Err(_) => return Unread::End,
        }
    }
    found
}

/// Reads away what arrives until the client has closed, is silent, or `deadline` has come. If there is nothing now,
/// that was all: most clients send no more than they are asked for, and none of these is waited for.
pub(super) fn linger(socket: BorrowedFd<'_>, deadline: Option<Instant>) {
    if read_away(socket) != Unread::Something {
        return;
    }
    let at_most = Instant::now() + AT_MOST;
    let end = deadline.map_or(at_most, |deadline| deadline.min(at_most));
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(socket, PollFlags::POLLIN)];
        match poll(&mut fds, poll_timeout(left.min(SILENCE))) {
            _ if left.is_zero() => return,
            Err(Errno::EINTR) => {}
            Ok(1..) if read_away(socket) == Unread::Something => {}
            _ => return,
        }
    }
}

//! poll(2), and the timeouts that it and epoll(7) take.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::select::{FD_SETSIZE, FdSet, select};
use nix::sys::time::{TimeVal, TimeValLike};

/// How long poll(2) is not tried again when it has refused.
const MOMENT: Duration = Duration::from_millis(10);

/// poll(2). It refuses to look at more descriptors than the process may open by now (`RLIMIT_NOFILE`, getrlimit(2)),
/// however long these have been open: then as if none had come, after a moment.
pub(crate) fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> nix::Result<i32> {
    match nix::poll::poll(fds, timeout.map_or(PollTimeout::NONE, poll_timeout)) {
        Err(Errno::EINVAL) => {
            thread::sleep(timeout.map_or(MOMENT, |timeout| timeout.min(MOMENT)));
            Ok(0)
        }
        polled => polled,
    }
}

/// Waits until one of them is written to, at most `timeout`, and takes that. True if there was something to take.
pub(crate) fn wait_for<const N: usize>(events: &[&EventFd; N], timeout: Duration) -> io::Result<bool> {
    let mut fds = events.map(|event| PollFd::new(event.as_fd(), PollFlags::POLLIN));
    match poll(&mut fds, Some(timeout)) {
        Ok(0) | Err(Errno::EINTR) => Ok(false),
        Ok(_) => {
            for event in events {
                let _ = event.read();
            }
            Ok(true)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Whether there is something to read or accept now. Not at a listener that was shut down, which has let go of its
/// queue (`POLLHUP`, poll(2)), nor where there is only what the network reports (`POLLERR`).
pub(crate) fn readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    match nix::poll::poll(&mut fds, PollTimeout::ZERO) {
        Ok(1..) => fds[0]
            .revents()
            .is_none_or(|events| events.contains(PollFlags::POLLIN) && !events.contains(PollFlags::POLLHUP)),
        Err(Errno::EINVAL) => selectable(fd),
        _ => false,
    }
}

/// As [`readable`], where [`poll`] refuses to look: select(2) does not, at what has a number that it knows.
fn selectable(fd: BorrowedFd<'_>) -> bool {
    if usize::try_from(fd.as_raw_fd()).is_ok_and(|number| number >= FD_SETSIZE) {
        return false;
    }
    let mut fds = FdSet::new();
    fds.insert(fd);
    select(None, &mut fds, None, None, &mut TimeVal::seconds(0)).is_ok_and(|ready| ready > 0)
}

/// Whether a few bytes can be written now without waiting. Async-signal-safe: poll(2).
pub(crate) fn writable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    matches!(nix::poll::poll(&mut fds, PollTimeout::ZERO), Ok(1..))
}

/// In milliseconds, rounded up so that a wait is never short of its deadline by rounding.
pub(crate) fn poll_timeout(timeout: Duration) -> PollTimeout {
    let millis = timeout.as_nanos().div_ceil(1_000_000);
    i32::try_from(millis)
        .ok()
        .and_then(|millis| millis.try_into().ok())
        .unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_rounded_up_however_short_it_is_and_cut_to_the_longest_there_is() {
        let millis = |timeout| poll_timeout(timeout).as_millis();
        assert_eq!(millis(Duration::ZERO), Some(0));
        for (nanos, expected) in [(1, 1), (999, 1), (1_000_000, 1), (1_000_001, 2)] {
            assert_eq!(millis(Duration::from_nanos(nanos)), Some(expected), "{nanos} ns");
        }
        assert_eq!(
            millis(Duration::MAX),
            millis(Duration::from_millis(i32::MAX.cast_unsigned().into()))
        );
    }
}

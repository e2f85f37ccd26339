//! Permissions of a file that is open as such (`O_PATH`, open(2)).

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;

/// fchmod(2) for a descriptor that was opened with `O_PATH`, which that does not take.
///
/// # Errors
///
/// `ENOSYS` before Linux 6.6; those of chmod(2).
pub(crate) fn chmod_opened(file: BorrowedFd<'_>, mode: u32) -> nix::Result<()> {
    /// fchmodat2(2), for which no libc had a function yet. Where it has another number, nothing has this one.
    const FCHMODAT2: libc::c_long = 452;
    // SAFETY: the path is empty and ends with a NUL, and the call only reads it; the descriptor is open.
    let outcome = unsafe { libc::syscall(FCHMODAT2, file.as_raw_fd(), c"".as_ptr(), mode, libc::AT_EMPTY_PATH) };
    Errno::result(outcome).map(drop)
}

//! Renaming that replaces nothing.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

/// rename(2) that fails with EEXIST instead of replacing what is there: `RENAME_NOREPLACE`. By its number,
/// because musl has no function for it, and nix one for glibc only.
pub(crate) fn rename_new(from: &Path, to: &Path) -> nix::Result<()> {
    let path = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL);
    let (from, to) = (path(from)?, path(to)?);
    let here = libc::AT_FDCWD;
    // SAFETY: both paths end with a NUL and outlive the call, which only reads them.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            here,
            from.as_ptr(),
            here,
            to.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    Errno::result(outcome).map(drop)
}

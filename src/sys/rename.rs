//! Renaming that replaces nothing.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc;
use nix::unistd::{linkat, unlink};

/// rename(2) that fails with EEXIST instead of replacing what is there.
pub(crate) fn rename_new(from: &Path, to: &Path) -> nix::Result<()> {
    or_link(rename_flagged(from, to), from, to)
}

fn or_link(renamed: nix::Result<()>, from: &Path, to: &Path) -> nix::Result<()> {
    match renamed {
        // A file system that does not know the flag, such as NFS; a sandbox that does not know the system call.
        Err(Errno::EINVAL | Errno::ENOSYS) => link_new(from, to),
        renamed => renamed,
    }
}

/// As [`rename_new`], with both names there for a moment: link(2) replaces nothing on any file system.
fn link_new(from: &Path, to: &Path) -> nix::Result<()> {
    linkat(AT_FDCWD, from, AT_FDCWD, to, AtFlags::empty())?;
    unlink(from)
}

/// `RENAME_NOREPLACE`, by its number, because musl has no function for it, and nix one for glibc only.
fn rename_flagged(from: &Path, to: &Path) -> nix::Result<()> {
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[track_caller]
    fn assert_replaces_nothing(rename: impl Fn(&Path, &Path) -> nix::Result<()>) {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        let _listener = UnixListener::bind(path("new")).unwrap();
        fs::write(path("old"), "precious").unwrap();
        assert_eq!(rename(&path("new"), &path("old")), Err(Errno::EEXIST));
        rename(&path("new"), &path("free")).unwrap();
        let mut names: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["free", "old"]);
        assert_eq!(fs::read(path("old")).unwrap(), b"precious");
    }

    #[test]
    fn a_socket_gets_its_name_and_never_that_of_another() {
        assert_replaces_nothing(rename_new);
        for errno in [Errno::EINVAL, Errno::ENOSYS] {
            assert_replaces_nothing(|from, to| or_link(Err(errno), from, to));
        }
    }
}

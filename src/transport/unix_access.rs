//! Who may connect to a socket in the file system: its mode and its owner, set before anybody can.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::socket::{UnixAddr, bind};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, fchownat};

use crate::address::Address;
use crate::config::Config;
use crate::error::invalid_input;
use crate::sys;

/// The mode and the owner that a socket's file shall have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    mode: u32,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Access {
    /// What is configured; `None`: the umask decides.
    ///
    /// # Errors
    ///
    /// The mode, the user or the group is none.
    pub(super) fn of(config: &Config) -> io::Result<Option<Self>> {
        let (uid, gid) = (config.socket_uid, config.socket_gid);
        if let Some(mode) = config.socket_mode.filter(|mode| *mode > 0o777) {
            return Err(invalid_input(format!(
                "socket_mode({mode:#o}) is no mode: permissions go from 0 to 0o777; write it in octal, such as 0o660"
            )));
        }
        for (number, what) in [(uid, "user"), (gid, "group")] {
            // chown(2) would take it for "as it is".
            if number == Some(u32::MAX) {
                return Err(invalid_input(format!("socket_owner: {} is no {what}", u32::MAX)));
            }
        }
        let any = config.socket_mode.is_some() || uid.is_some() || gid.is_some();
        Ok(any.then_some(Access {
            mode: config.socket_mode.unwrap_or(0o660),
            uid,
            gid,
        }))
    }

    /// Why it cannot be set for an abstract name.
    pub(super) fn without_file(address: &Address) -> io::Error {
        invalid_input(format!(
            "`{address}` is an abstract name, which has no mode and no owner: whoever shares the network namespace \
             can connect; use a path, or ask for peer_credentials in verify_request"
        ))
    }

    /// Sets both for the socket at `path`, which the user knows as `shown`.
    pub(super) fn set(&self, path: &Path, shown: &Path) -> io::Result<()> {
        self.try_set(path).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied => "; only root may choose the user, others only a group of theirs",
                _ => "",
            };
            let text = format!("cannot give the socket {} {self}: {error}{hint}", shown.display());
            io::Error::new(error.kind(), text)
        })
    }

    fn try_set(&self, path: &Path) -> io::Result<()> {
        let file = open_socket(path)?;
        // Of the file that is open, whatever is at its path by now.
        if self.uid.is_some() || self.gid.is_some() {
            let (uid, gid) = (self.uid.map(Uid::from_raw), self.gid.map(Gid::from_raw));
            fchownat(&file, "", uid, gid, AtFlags::AT_EMPTY_PATH)?;
        }
        // After the owner: it may be for the owner only.
        let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
        match fs::set_permissions(opened, Permissions::from_mode(self.mode)) {
            // No proc(5), as after chroot(2). Only then: the call is so new that sandboxes may kill for it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match sys::chmod_opened(file.as_fd(), self.mode) {
                Err(Errno::ENOSYS) => Err(io::Error::new(error.kind(), "before Linux 6.6 this takes /proc")),
                set => Ok(set?),
            },
            set => set,
        }
    }
}

/// `mode 0o660, group 33`.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mode {:#o}", self.mode)?;
        if let Some(uid) = self.uid {
            write!(f, ", user {uid}")?;
        }
        if let Some(gid) = self.gid {
            write!(f, ", group {gid}")?;
        }
        Ok(())
    }
}

/// A handle to the file itself. A link, or anything else that somebody has put there meanwhile, is not
/// touched.
fn open_socket(path: &Path) -> io::Result<File> {
    // Not by `OpenOptions`, which drops O_PATH with musl: it counts it to the ways of access there.
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty())?);
    if file.metadata()?.file_type().is_socket() {
        Ok(file)
    } else {
        Err(io::Error::other("another file has taken its place"))
    }
}

/// Binds a socket under a free name in the directory of `path`; returns that.
pub(super) fn bind_beside(socket: &OwnedFd, path: &Path) -> Result<PathBuf, Errno> {
    // A name is taken if a server was killed between this and the renaming, or by chance.
    for _ in 0..100 {
        let beside = name_beside(path).ok_or(Errno::EISDIR)?;
        match bind(socket.as_raw_fd(), &UnixAddr::new(&beside)?) {
            Err(Errno::EADDRINUSE) => {}
            bound => return bound.map(|()| beside),
        }
    }
    Err(Errno::EADDRINUSE)
}

/// `path` with a random end to its name, cut where it would be too long for a socket address.
fn name_beside(path: &Path) -> Option<PathBuf> {
    /// The longest path of a socket in bytes (`sun_path`, unix(7)).
    const LONGEST: usize = 107;
    let name = path.file_name()?.as_bytes();
    let room = (LONGEST + name.len()).saturating_sub(path.as_os_str().len());
    let random = RandomState::new().build_hasher().finish();
    let random = format!("{random:016x}");
    // A dot of its own would be the directory.
    let end = if room > 8 { format!(".{}", &random[..7]) } else { random };
    let end = &end.as_bytes()[..end.len().min(room)];
    let start = &name[..name.len().min(room - end.len())];
    Some(path.with_file_name(OsString::from_vec([start, end].concat())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    const CLOSED: Access = Access {
        mode: 0,
        uid: None,
        gid: None,
    };

    #[test]
    fn what_has_taken_the_place_of_a_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (file, socket, link) = (
            directory.path().join("f"),
            directory.path().join("s"),
            directory.path().join("l"),
        );
        fs::write(&file, "precious").unwrap();
        let _listener = UnixListener::bind(&socket).unwrap();
        symlink(&socket, &link).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        let before = (mode(&file), mode(&socket));
        for path in [&file, &link] {
            let error = CLOSED.set(path, Path::new("/run/s")).unwrap_err();
            let text = "cannot give the socket /run/s mode 0o0: another file has taken its place";
            assert_eq!(error.to_string(), text);
        }
        assert_eq!((mode(&file), mode(&socket)), before);
        CLOSED.set(&socket, &socket).unwrap();
        assert_eq!(mode(&socket), 0);
    }

    #[test]
    fn a_name_beside_is_in_the_same_directory_and_never_too_long() {
        let directory = format!("/{}", "d".repeat(90));
        for name in ["s", "eight-by", "nine-byte", "web.sock.which.h"] {
            for path in [
                name.to_owned(),
                format!("/run/{name}"),
                format!("{directory}/{name}"),
                format!("d//{name}"),
            ] {
                let path = Path::new(&path);
                let beside = name_beside(path).unwrap();
                assert_eq!(beside.parent(), path.parent());
                assert_ne!(beside, path);
                assert!(UnixAddr::new(&beside).is_ok(), "{}", beside.display());
            }
        }
        assert_eq!(name_beside(Path::new("/")), None);
    }
}

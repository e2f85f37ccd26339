//! Sockets in the file system: replacing a stale one, refusing a live one, removing only our own.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, socket};
use nix::sys::stat::{Mode, fchmod};

use super::socket::listen;
use super::unix_access::{Access, bind_beside};
use crate::address::Address;
use crate::config::Config;
use crate::error::{before_bind_error, bind_error};
use crate::sys;

/// A socket that is bound, and the file that it has made. A stream socket with a file listens.
pub(super) fn bound_socket(
    address: &Address,
    config: &Config,
    kind: SockType,
) -> io::Result<(OwnedFd, Option<SocketFile>)> {
    let unix_address = address.to_unix()?;
    let access = Access::of(config)?;
    let failed = |error: io::Error| bind_error(address, error);
    let name = to_nix(&unix_address).map_err(|errno| failed(errno.into()))?;
    let socket = new_socket(kind).map_err(failed)?;
    if let Some(before_bind) = &config.before_bind {
        before_bind(socket.as_fd()).map_err(before_bind_error).map_err(failed)?;
    }
    let Some(path) = unix_address.as_pathname() else {
        if access.is_some() {
            return Err(Access::without_file(address));
        }
        bind(socket.as_raw_fd(), &name).map_err(|errno| failed(errno.into()))?;
        return Ok((socket, None));
    };
    let target = Target { path, name, kind };
    let _lock = DirectoryLock::of(path);
    let file = match access {
        None => target.bind(&socket)?,
        Some(access) => target.bind_with(&socket, &access)?,
    };
    if kind == SockType::Stream {
        // Before the lock is let go: a socket that does not listen yet looks like a stale one.
        listen(&socket, config).map_err(failed)?;
    }
    Ok((socket, Some(target.show(file)?)))
}

/// Where a socket shall be.
struct Target<'a> {
    path: &'a Path,
    name: UnixAddr,
    kind: SockType,
}

impl Target<'_> {
    fn failed(&self, error: impl Into<io::Error>) -> io::Error {
        bind_error(&self.path.into(), error)
    }

    /// Binds the socket at the path.
    fn bind(&self, socket: &OwnedFd) -> io::Result<SocketFile> {
        let bind = || bind(socket.as_raw_fd(), &self.name);
        let bound = match bind() {
            Err(Errno::EADDRINUSE) => {
                self.remove_if_stale()?;
                bind()
            }
            bound => bound,
        };
        bound.map_err(|errno| self.failed(errno))?;
        SocketFile::of(self.path).map_err(|error| self.failed(error))
    }

    /// Binds the socket so that nobody can connect to it before it has the mode and the owner it shall have.
    ///
    /// A stream socket is bound beside the path and put there when it listens ([`Target::show`]): whoever
    /// sees it can connect. The name in getsockname(2) and in `ss` stays the one it was bound under. The
    /// name of a datagram socket is the sender of its replies, which clients compare (socat does), so it is
    /// bound at the path itself, closed to all until owner and mode are set.
    fn bind_with(&self, socket: &OwnedFd, access: &Access) -> io::Result<SocketFile> {
        // The file is made with the mode that the descriptor has, less the umask (unix(7), "Pathname
        // socket ownership and permissions").
        fchmod(socket, Mode::empty()).map_err(|errno| self.failed(errno))?;
        let file = if self.kind == SockType::Stream {
            let beside = bind_beside(socket, self.path).map_err(|errno| self.failed(errno))?;
            SocketFile::of(&beside).map_err(|error| self.failed(error))?
        } else {
            self.bind(socket)?
        };
        access.set(&file.address, self.path)?;
        Ok(file)
    }

    /// Puts a file that was made beside the path there. Never over anything that is there.
    fn show(&self, file: SocketFile) -> io::Result<SocketFile> {
        if file.address == self.path {
            return Ok(file);
        }
        let rename = || sys::rename_new(&file.address, self.path);
        let shown = match rename() {
            Err(Errno::EEXIST) => {
                self.remove_if_stale()?;
                rename()
            }
            shown => shown,
        };
        match shown {
            Ok(()) => Ok(file.renamed(self.path)),
            Err(Errno::EEXIST) => Err(self.failed(Errno::EADDRINUSE)),
            Err(errno) => Err(self.failed(errno)),
        }
    }

    /// Removes a socket that nobody answers on any more; an error if there is anything else at the path.
    fn remove_if_stale(&self) -> io::Result<()> {
        let path = self.path;
        let refuse = |why: &str| {
            Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("Address already in use ({}): {why}", path.display()),
            ))
        };
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.failed(error)),
        };
        if !found.file_type().is_socket() {
            return refuse("there is a file that is no socket; it was left alone, choose another path or remove it");
        }
        let asking = new_socket(self.kind).map_err(|error| self.failed(error))?;
        match connect(asking.as_raw_fd(), &self.name) {
            Err(Errno::ECONNREFUSED) => {
                log::info!("replacing {}: a socket that nobody answers on", path.display());
                fs::remove_file(path).map_err(|error| self.failed(error))
            }
            Err(Errno::ENOENT) => Ok(()),
            Err(Errno::EACCES) => refuse("a socket is there and this user may not ask who answers on it"),
            // Connected, a full queue (EAGAIN), a socket of another type (EPROTOTYPE): somebody is alive.
            _ => refuse("another server answers there; stop it or choose another path"),
        }
    }
}

fn new_socket(kind: SockType) -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Unix,
        kind,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?)
}

pub(super) fn to_nix(address: &unix::SocketAddr) -> nix::Result<UnixAddr> {
    match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) => UnixAddr::new(path),
        (None, Some(name)) => UnixAddr::new_abstract(name),
        (None, None) => Err(Errno::EINVAL),
    }
}

/// A lock on the directory of a socket, so that of two servers that start at once, or of one that ends and one that
/// starts, one does not remove what the other has just bound. It needs no lock file: a directory can be locked itself
/// (flock(2)).
struct DirectoryLock {
    _lock: Option<Flock<File>>,
}

impl DirectoryLock {
    /// Anybody who may read a directory may lock it and never let go: the wait is short, and after it
    /// we go on without.
    const PATIENCE: Duration = Duration::from_secs(1);

    fn of(path: &Path) -> Self {
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        // Nothing but a directory: opening a pipe or a device may wait for ever, or set something off.
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(directory);
        let Ok(mut directory) = opened else {
            return DirectoryLock { _lock: None };
        };
        let end = Instant::now() + Self::PATIENCE;
        loop {
            match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return DirectoryLock { _lock: Some(lock) },
                Err((file, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < end => directory = file,
                Err(_) => return DirectoryLock { _lock: None },
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The file of a bound socket, to be removed with it if it is still the same file.
#[derive(Debug)]
pub(super) struct SocketFile {
    /// As it was asked for.
    address: PathBuf,
    path: PathBuf,
    device: u64,
    inode: u64,
    owner: u32,
    /// The path has been seen to, while the socket was open. Once it is closed, another file can have its number.
    given_up: AtomicBool,
}

impl SocketFile {
    fn of(address: &Path) -> io::Result<Self> {
        let file = fs::symlink_metadata(address)?;
        Ok(SocketFile {
            address: address.to_owned(),
            // The working directory may change before the server ends. One that is not below the root (chroot(2), a
            // file system that was unmounted) has no path from there, and until it changes the one asked for is right.
            path: std::path::absolute(address).unwrap_or_else(|_| address.to_owned()),
            device: file.dev(),
            inode: file.ino(),
            owner: std::process::id(),
            given_up: AtomicBool::new(false),
        })
    }

    /// The same file under another name in the same directory.
    fn renamed(mut self, address: &Path) -> Self {
        self.path.set_file_name(address.file_name().unwrap_or_default());
        address.clone_into(&mut self.address);
        self
    }

    /// The address of the socket. What getsockname(2) says is the name that it was bound under.
    pub(super) fn address(&self) -> Address {
        self.address.as_path().into()
    }

    /// Removes the path of a socket that refuses, so that a server that starts may be replacing it right now. Not to be
    /// called in a forked child, but in the process that serves, which need not be the one that has bound it
    /// (daemon(3)).
    pub(super) fn remove(&self) {
        let _lock = self.found().ok().flatten().map(DirectoryLock::of);
        self.remove_if_ours();
    }

    /// Where the file is found: by its whole path, or, if this process may not go there from the root, by the one that
    /// was asked for. `None` if it is not there any more, or somebody else has put another file there.
    ///
    /// # Errors
    ///
    /// Nobody knows: this process may not look, by either.
    fn found(&self) -> io::Result<Option<&Path>> {
        let is_at = |path: &Path| -> io::Result<bool> {
            let found = fs::symlink_metadata(path)?;
            Ok((found.dev(), found.ino()) == (self.device, self.inode))
        };
        match is_at(&self.path) {
            Ok(true) => Ok(Some(&self.path)),
            _ if matches!(is_at(&self.address), Ok(true)) => Ok(Some(&self.address)),
            Ok(false) => Ok(None),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the path, the first time, if it is still there.
    fn remove_if_ours(&self) {
        if self.given_up.swap(true, Ordering::Relaxed) {
            return;
        }
        let removed = self.found().and_then(|found| found.map_or(Ok(()), fs::remove_file));
        if let Err(error) = removed {
            log::warn!("{} was not removed: {error}", self.path.display());
        }
    }
}

impl Drop for SocketFile {
    /// A forked child leaves the path alone. Without the lock, which binding has when it fails: where it has not been
    /// removed before, the socket answers, and is not replaced.
    fn drop(&mut self) {
        if self.owner == std::process::id() {
            self.remove_if_ours();
        }
    }
}

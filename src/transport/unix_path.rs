//! Sockets in the file system: replacing a stale one, refusing a live one, removing only our own.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, socket};

use super::tcp::listen;
use crate::address::Address;
use crate::config::Config;
use crate::error::bind_error;

/// A socket that is bound, and the file that it has made.
pub(super) fn bound_socket(
    address: &Address,
    config: &Config,
    kind: SockType,
) -> io::Result<(OwnedFd, Option<SocketFile>)> {
    let unix_address = address.to_unix()?;
    let name = to_nix(&unix_address).map_err(|errno| bind_error(address, errno))?;
    let socket = new_socket(kind).map_err(|error| bind_error(address, error))?;
    if let Some(before_bind) = &config.before_bind {
        before_bind(socket.as_fd()).map_err(|error| bind_error(address, error))?;
    }
    let Some(path) = unix_address.as_pathname() else {
        bind(socket.as_raw_fd(), &name).map_err(|errno| bind_error(address, errno))?;
        return Ok((socket, None));
    };
    let _lock = DirectoryLock::of(path);
    match bind(socket.as_raw_fd(), &name) {
        Ok(()) => {}
        Err(Errno::EADDRINUSE) => {
            remove_if_stale(path, &name, kind)?;
            bind(socket.as_raw_fd(), &name).map_err(|errno| bind_error(address, errno))?;
        }
        Err(errno) => return Err(bind_error(address, errno)),
    }
    if kind == SockType::Stream {
        // Before the lock is let go: a socket that does not listen yet looks like a stale one.
        listen(&socket, config).map_err(|error| bind_error(address, error))?;
    }
    Ok((socket, SocketFile::of(path)))
}

fn new_socket(kind: SockType) -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Unix,
        kind,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?)
}

fn to_nix(address: &unix::SocketAddr) -> nix::Result<UnixAddr> {
    use std::os::linux::net::SocketAddrExt;
    match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) => UnixAddr::new(path),
        (None, Some(name)) => UnixAddr::new_abstract(name),
        (None, None) => Err(Errno::EINVAL),
    }
}

/// Removes a socket that nobody answers on any more; an error if there is anything else at the path.
fn remove_if_stale(path: &Path, name: &UnixAddr, kind: SockType) -> io::Result<()> {
    let refuse = |why: &str| {
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("Address already in use ({}): {why}", path.display()),
        ))
    };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(bind_error(&path.into(), error)),
    };
    if !found.file_type().is_socket() {
        return refuse("there is a file that is no socket; it was left alone, choose another path or remove it");
    }
    match connect(new_socket(kind)?.as_raw_fd(), name) {
        Err(Errno::ECONNREFUSED) => {
            log::info!("replacing {}: a socket that nobody answers on", path.display());
            fs::remove_file(path).map_err(|error| bind_error(&path.into(), error))
        }
        Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EACCES) => refuse("a socket is there and this user may not ask who answers on it"),
        // Connected, a full queue (EAGAIN), a socket of another type (EPROTOTYPE): somebody is alive.
        _ => refuse("another server answers there; stop it or choose another path"),
    }
}

/// A lock on the directory of a socket, so that of two servers that start at once one does not remove
/// what the other has just bound. It needs no lock file: a directory can be locked itself (flock(2)).
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
        let Ok(mut directory) = File::open(directory) else {
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
    path: PathBuf,
    device: u64,
    inode: u64,
    owner: u32,
}

impl SocketFile {
    fn of(path: &Path) -> Option<Self> {
        let file = fs::symlink_metadata(path).ok()?;
        // The working directory may change before the server ends.
        let path = std::path::absolute(path).ok()?;
        Some(SocketFile {
            path,
            device: file.dev(),
            inode: file.ino(),
            owner: std::process::id(),
        })
    }

    /// Removes the path unless somebody else has put another file there, or this is a forked child.
    pub(super) fn remove(&self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if !ours || self.owner != std::process::id() {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!("{} was not removed: {error}", self.path.display());
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

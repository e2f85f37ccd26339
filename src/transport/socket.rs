//! What is done with the socket of a server, whatever transport it is of.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt};

use crate::config::Config;
use crate::error::invalid_input;
use crate::request::others_may_have_it;
use crate::sys;

/// Where a socket comes from.
#[derive(Debug)]
pub(super) struct Origin {
    /// The process that has made it here; `None` if it was made elsewhere, and may be others', too.
    maker: Option<u32>,
}

impl Origin {
    pub(super) fn here() -> Self {
        Origin {
            maker: Some(process::id()),
        }
    }

    pub(super) fn elsewhere() -> Self {
        Origin { maker: None }
    }

    /// It was made here, and is nobody else's.
    pub(super) fn is_here(&self) -> bool {
        self.maker.is_some()
    }

    /// It is this server's, but a process that another server of the program has forked may have a copy: closing it
    /// says nothing to clients then.
    pub(super) fn has_copies(&self) -> bool {
        self.is_here() && others_may_have_it()
    }

    /// As [`has_copies`](Self::has_copies), when a transport is dropped. The copies that forked processes have of the
    /// value are not what the socket ends with.
    pub(super) fn leaves_copies(&self) -> bool {
        self.has_copies() && self.maker == Some(process::id())
    }
}

/// listen(2) with the configured backlog.
pub(super) fn listen(socket: &impl AsFd, config: &Config) -> io::Result<()> {
    let connections = i32::try_from(config.request_queue_size).unwrap_or(i32::MAX);
    Ok(sys::listen(socket.as_fd(), connections)?)
}

/// Whether a socket made elsewhere can be accepted from: the standard library takes any descriptor for a listener, and
/// a server would wait on a wrong one for ever.
pub(super) fn check_listens(socket: &impl AsFd) -> io::Result<()> {
    if !getsockopt(socket, sockopt::AcceptConn)? {
        return Err(invalid_input(
            "no connections can be accepted from this socket: nobody has called listen(2) on it, or it is of another type",
        ));
    }
    // What a listener for packets gives out keeps messages apart, and loses what a read has no room for.
    check_type(socket, SockType::Stream, "streams can be accepted")
}

/// As [`check_listens`], for those that receive datagrams.
pub(super) fn check_receives_datagrams(socket: &impl AsFd) -> io::Result<()> {
    check_type(socket, SockType::Datagram, "datagrams can be received")
}

fn check_type(socket: &impl AsFd, right: SockType, what_can_be: &str) -> io::Result<()> {
    let found = getsockopt(socket, sockopt::SockType)?;
    if found == right {
        return Ok(());
    }
    Err(invalid_input(format!(
        "no {what_can_be} from this socket: its type is {found:?}"
    )))
}

/// The families of Internet sockets.
pub(super) const INET: &[AddressFamily] = &[AddressFamily::Inet, AddressFamily::Inet6];
/// The family of Unix sockets.
pub(super) const UNIX: &[AddressFamily] = &[AddressFamily::Unix];

/// Whether a socket made elsewhere is of one of these families.
pub(super) fn check_family(socket: &impl AsFd, right: &[AddressFamily]) -> io::Result<()> {
    let name: SockaddrStorage = getsockname(socket.as_fd().as_raw_fd())?;
    let family = name.family();
    if family.is_some_and(|family| right.contains(&family)) {
        return Ok(());
    }
    let servers = match family {
        Some(AddressFamily::Unix) => "UnixStreamServer and UnixDatagramServer are",
        Some(AddressFamily::Inet | AddressFamily::Inet6) => "TcpServer and UdpServer are",
        _ => "a Transport of your own is",
    };
    let family = family.map_or_else(|| "unknown".into(), |family| format!("{family:?}"));
    Err(invalid_input(format!(
        "a socket of another family ({family}): {servers} for those"
    )))
}

/// Closes the socket that a server listens on, and keeps its number owned; see [`sys::replace`].
pub(super) fn close(socket: BorrowedFd<'_>, placeholder: BorrowedFd<'_>) {
    if let Err(error) = sys::replace(socket, placeholder) {
        log::warn!("the listening socket stays open until the server is dropped: {error}");
    }
}

/// As [`close`], when a transport is dropped whose socket somebody has kept, unless that was done.
pub(super) fn close_kept(socket: BorrowedFd<'_>) {
    if getsockopt(&socket, sockopt::SockType).is_err() {
        return;
    }
    let placeholder = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(io::Error::from);
    if let Err(error) = placeholder.and_then(|placeholder| sys::replace(socket, placeholder.as_fd())) {
        log::warn!("the server's socket stays open as long as a handler keeps it: {error}");
    }
}

//! Making Internet sockets: what TCP and UDP share.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt};

use crate::address::Address;
use crate::config::Config;
use crate::error::bind_error;
use crate::sys;

/// A bound socket at the first of the addresses that takes one; the error of the last if none does.
pub(super) fn bound_socket(address: &Address, config: &Config, kind: SockType) -> io::Result<OwnedFd> {
    let mut failure = None;
    for candidate in address.resolve()? {
        match try_bind(candidate, config, kind) {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = Some(bind_error(&candidate.into(), error)),
        }
    }
    Err(failure.unwrap_or_else(|| bind_error(address, io::ErrorKind::AddrNotAvailable)))
}

fn try_bind(address: SocketAddr, config: &Config, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    if kind == SockType::Stream {
        setsockopt(&socket, sockopt::ReuseAddr, &config.allow_reuse_address)?;
        set_tcp_options(socket.as_fd(), config)?;
    }
    if config.allow_reuse_port {
        setsockopt(&socket, sockopt::ReusePort, &true)?;
    }
    if let (Some(only_v6), true) = (config.only_v6, address.is_ipv6()) {
        setsockopt(&socket, sockopt::Ipv6V6Only, &only_v6)?;
    }
    if let Some(before_bind) = &config.before_bind {
        before_bind(socket.as_fd())?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

fn set_tcp_options(socket: BorrowedFd<'_>, config: &Config) -> io::Result<()> {
    if let Some(at_most) = config.defer_accept {
        // A part of a second is a whole one; 0 would be off.
        let seconds = at_most.as_secs().saturating_add((at_most.subsec_nanos() > 0).into());
        sys::set_defer_accept(socket, i32::try_from(seconds.max(1)).unwrap_or(i32::MAX))?;
    }
    if let Some(connections) = config.tcp_fast_open {
        sys::set_fast_open(socket, i32::try_from(connections).unwrap_or(i32::MAX))?;
    }
    Ok(())
}

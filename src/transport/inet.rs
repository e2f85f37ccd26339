//! Making Internet sockets: what TCP and UDP share.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt};

use crate::address::Address;
use crate::config::Config;
use crate::error::{before_bind_error, bind_error, errno};
use crate::sys;

/// A bound socket at the first of the addresses that takes one.
pub(super) fn bound_socket(address: &Address, config: &Config, kind: SockType) -> io::Result<OwnedFd> {
    bound_to_one_of(address.resolve()?, config, kind)
}

/// The error, if none takes one, is the most telling.
fn bound_to_one_of(candidates: Vec<SocketAddr>, config: &Config, kind: SockType) -> io::Result<OwnedFd> {
    let mut failure = None;
    for candidate in candidates {
        match try_bind(candidate, config, kind) {
            Ok(socket) => return Ok(socket),
            // That `localhost` is also `::1`, which a machine without IPv6 has not, is no news if its 127.0.0.1 is
            // taken.
            Err(error) if failure.is_some() && is_of_another_machine(&error) => {}
            Err(error) => failure = Some(bind_error(&candidate.into(), error)),
        }
    }
    Err(failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

/// This machine has no such address, or none of its family.
fn is_of_another_machine(error: &io::Error) -> bool {
    matches!(errno(error), Some(Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT))
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
        before_bind(socket.as_fd()).map_err(before_bind_error)?;
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn of_several_addresses_the_error_is_of_one_that_this_machine_has() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = taken.local_addr().unwrap();
        // TEST-NET-1 (RFC 5737) is nobody's.
        let foreign = SocketAddr::from(([192, 0, 2, 1], taken.port()));
        for candidates in [[taken, foreign], [foreign, taken]] {
            let error = bound_to_one_of(candidates.into(), &Config::default(), SockType::Stream).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
            assert!(error.to_string().contains(&taken.to_string()), "{error}");
        }
    }
}

//! What goes wrong with binding.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use nix::errno::Errno;

use super::errno;
use crate::address::Address;

/// Binding or listening failed: what the system said, at which address, and what to do.
struct BindError {
    address: Address,
    source: io::Error,
}

impl BindError {
    /// The system's words, without Rust's `(os error N)`.
    fn description(&self) -> String {
        match errno(&self.source) {
            Some(errno) => errno.desc().to_owned(),
            None => self.source.to_string(),
        }
    }

    fn advice(&self) -> &'static str {
        match errno(&self.source) {
            Some(Errno::EADDRINUSE) if self.address.ip().is_some_and(|ip| ip.is_unspecified()) => {
                "another socket is bound there (one at [::] has IPv4 clients, too, unless it has only_v6(true)); stop that \
                 program, choose another address, or port 0 for any free port"
            }
            Some(Errno::EADDRINUSE) if self.address.ip().is_some() => {
                "another socket is bound there; stop that program, choose another address, or port 0 for any free port"
            }
            Some(Errno::EADDRINUSE) => "another socket is bound there; stop that program, or choose another name",
            Some(Errno::EADDRNOTAVAIL) => "no interface of this machine has that address",
            Some(Errno::EINVAL) if self.lacks_interface() => {
                "an address of a link needs its interface, which `ip address` tells: [fe80::1%eth0]:8080"
            }
            Some(Errno::EINVAL) if self.address.ip().is_some_and(|ip| ip.is_multicast()) => {
                "a group has no connections; listen to it with a UdpServer"
            }
            Some(Errno::ENODEV) => "no interface has the number behind its `%`; `ip link` tells those there are",
            Some(Errno::EACCES | Errno::EPERM) if self.address.ip().is_some() => {
                "no permission; ports below 1024 need root or CAP_NET_BIND_SERVICE"
            }
            Some(Errno::EACCES) => "no permission; a path needs write permission on its directory",
            Some(Errno::EPERM) => {
                "no permission; in a directory for everybody (sticky, such as /tmp) only its owner replaces what is there"
            }
            Some(Errno::ENOENT | Errno::ENOTDIR) if self.ends_in_slash() => {
                "a path that ends in `/` is a directory's; write it without"
            }
            Some(Errno::ENOENT) => "its directory does not exist; create it first",
            Some(Errno::ENOTDIR) => "a part of the path before its last is not a directory",
            Some(Errno::EROFS) => "the file system is read-only",
            Some(Errno::EAFNOSUPPORT) => "this machine has no support for that address family",
            Some(Errno::EMFILE) => "this process has no free file descriptor; raise its limit (ulimit -n)",
            Some(Errno::ENFILE) => "the system has no free file descriptor",
            _ => "the server cannot listen there",
        }
    }

    /// It means something on one link, or one interface, only (RFC 4291, 2.5.6 and 2.7), and does not say on which.
    fn lacks_interface(&self) -> bool {
        match self.address.as_inet() {
            Some(SocketAddr::V6(address)) if address.scope_id() == 0 => {
                let first = address.ip().segments()[0];
                // Behind the flags of a group is how far it reaches.
                address.ip().is_unicast_link_local() || matches!(first & 0xff0f, 0xff01 | 0xff02)
            }
            _ => false,
        }
    }

    fn ends_in_slash(&self) -> bool {
        let path = self.address.path();
        path.is_some_and(|path| path.as_os_str().as_encoded_bytes().ends_with(b"/"))
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.description(), self.address, self.advice())
    }
}

/// The same text: what `main` returns is shown so, and the advice is for whoever reads that.
impl fmt::Debug for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), f)
    }
}

impl Error for BindError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// Adds the address and some advice to an error of binding, listening, or what a server needs for that; its kind stays.
pub(crate) fn bind_error(address: &Address, source: impl Into<io::Error>) -> io::Error {
    let source = source.into();
    io::Error::new(
        source.kind(),
        BindError {
            address: address.clone(),
            source,
        },
    )
}

/// An error of `before_bind`, which may do anything: what the system's errors mean when binding, they do not mean
/// there.
pub(crate) fn before_bind_error(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(_) => io::Error::new(error.kind(), error),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So `main` shows it, if that returns it.
    #[test]
    fn a_bind_error_has_its_advice_in_its_debug_form_too() {
        let error = bind_error(&"127.0.0.1:80".into(), Errno::EADDRINUSE);
        let text = format!("{error:?}");
        assert!(
            text.contains("Address already in use (127.0.0.1:80): another socket"),
            "{text}"
        );
    }

    #[test]
    fn a_read_only_file_system_is_told() {
        let text = bind_error(&"127.0.0.1:80".into(), Errno::EROFS).to_string();
        assert!(text.ends_with(": the file system is read-only"), "{text}");
    }
}

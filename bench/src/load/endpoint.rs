//! Where the server is, and how to get there without waiting.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, UnixAddr, bind, connect, setsockopt, socket, sockopt,
};

use crate::servers::Transport;

/// The address of a server.
#[derive(Clone, Copy, Debug)]
pub enum Endpoint {
    Tcp(SockaddrIn),
    Udp(SockaddrIn),
    Unix(UnixAddr),
    Unixgram(UnixAddr),
}

/// From where the connections of one thread come.
///
/// The side that closes first, here the client, keeps a connection's ports for a while (TIME-WAIT). One
/// source address has 14,000 even ports, which connect(2) prefers, and when they are used up searching
/// for another takes longer than everything else; 127.0.0.0/8 has more addresses.
#[derive(Debug)]
pub struct Source {
    thread: u8,
    connections: usize,
}

impl Source {
    pub fn new(thread: usize) -> Self {
        Source {
            thread: (thread % 250).to_le_bytes()[0],
            connections: 0,
        }
    }

    /// Where the next connection comes from.
    fn next(&mut self) -> SockaddrIn {
        let number = self.connections / 8192;
        self.connections += 1;
        let part = |number: usize| (number % 250).to_le_bytes()[0] + 1;
        SockaddrIn::new(127, self.thread + 1, part(number / 250), part(number), 0)
    }
}

impl Endpoint {
    /// # Errors
    ///
    /// The text is no address of that transport.
    pub fn parse(transport: Transport, address: &str) -> io::Result<Self> {
        let inet = || match address.parse() {
            Ok(SocketAddr::V4(v4)) => Ok(SockaddrIn::from(v4)),
            _ => Err(invalid(format!("`{address}` is not an IPv4 address with a port"))),
        };
        let unix = || UnixAddr::new(Path::new(address)).map_err(io::Error::from);
        let endpoint = match transport {
            Transport::Tcp => Endpoint::Tcp(inet()?),
            Transport::Udp => Endpoint::Udp(inet()?),
            Transport::Unix => Endpoint::Unix(unix()?),
            Transport::Unixgram => Endpoint::Unixgram(unix()?),
        };
        match endpoint {
            Endpoint::Tcp(address) | Endpoint::Udp(address) if !address.ip().is_loopback() => Err(invalid(format!(
                "{address} is not an address of this machine alone ({}): load goes nowhere else",
                Ipv4Addr::LOCALHOST
            ))),
            _ => Ok(endpoint),
        }
    }

    /// Begins a connection; it may still be under way, or refused later.
    pub fn connect(&self, source: &mut Source) -> nix::Result<OwnedFd> {
        let Endpoint::Tcp(address) = self else {
            let Endpoint::Unix(address) = self else {
                unreachable!("datagrams are not for connections");
            };
            let client = nonblocking(AddressFamily::Unix, SockType::Stream)?;
            connect(client.as_raw_fd(), address)?;
            return Ok(client);
        };
        let client = nonblocking(AddressFamily::Inet, SockType::Stream)?;
        // The port is chosen when the whole pair of addresses is known: one that other pairs use will do.
        setsockopt(&client, sockopt::IpBindAddressNoPort, &true)?;
        bind(client.as_raw_fd(), &source.next())?;
        match connect(client.as_raw_fd(), address) {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(client),
            Err(error) => Err(error),
        }
    }

    /// A socket whose datagrams go to the server. Over a Unix socket it is bound to `path`, for answers.
    pub fn datagrams(&self, path: &Path) -> nix::Result<OwnedFd> {
        let client;
        match self {
            Endpoint::Udp(address) => {
                client = nonblocking(AddressFamily::Inet, SockType::Datagram)?;
                connect(client.as_raw_fd(), address)?;
            }
            Endpoint::Unixgram(address) => {
                client = nonblocking(AddressFamily::Unix, SockType::Datagram)?;
                bind(client.as_raw_fd(), &UnixAddr::new(path)?)?;
                connect(client.as_raw_fd(), address)?;
            }
            _ => unreachable!("connections are not for datagrams"),
        }
        Ok(client)
    }
}

fn nonblocking(family: AddressFamily, kind: SockType) -> nix::Result<OwnedFd> {
    socket(family, kind, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

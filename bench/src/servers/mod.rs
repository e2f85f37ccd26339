//! The servers that are compared. All echo: a stream until its end, a datagram once.

mod forward;
mod ours;
mod programs;
mod std_net;
mod tokio;

use std::fmt;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use clap::ValueEnum;
use nix::sys::socket::{Backlog, SockaddrStorage, getsockname, listen};
use serde::Serialize;

pub use programs::prepare;

use crate::limits;

/// What a server listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    Tcp,
    Unix,
    Udp,
    Unixgram,
}

impl Transport {
    /// Whether addresses are paths.
    pub fn is_unix(self) -> bool {
        matches!(self, Transport::Unix | Transport::Unixgram)
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "tcp",
            Transport::Unix => "unix",
            Transport::Udp => "udp",
            Transport::Unixgram => "unixgram",
        })
    }
}

pub const STREAMS: &[Transport] = &[Transport::Tcp, Transport::Unix];
pub const DATAGRAMS: &[Transport] = &[Transport::Udp, Transport::Unixgram];
pub const TCP: &[Transport] = &[Transport::Tcp];
const ALL: &[Transport] = &[Transport::Tcp, Transport::Unix, Transport::Udp, Transport::Unixgram];

/// Whose work a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Of this crate.
    Ours,
    /// System calls by hand: what the strategy can reach at best.
    Limit,
    /// What people use instead.
    Peer,
}

/// The buffer that an echo reads into, in bytes: a page, the same for every server, because it is part
/// of what an idle connection costs.
pub const BUFFER: usize = 4096;

/// That of the workloads with [`Setup::bulk`].
pub const BULK_BUFFER: usize = 64 * 1024;

/// How to run a server.
#[derive(Clone, Debug)]
pub struct Setup {
    pub transport: Transport,
    /// HOST:PORT, or a path.
    pub address: String,
    /// Read into [`BULK_BUFFER`] bytes instead of [`BUFFER`], and set `TCP_NODELAY`, as Go does anyway:
    /// otherwise the rest of each message that does not fill a segment waits for an acknowledgement.
    pub bulk: bool,
    /// Memory that the process has written to before it serves: a fork copies its page tables.
    pub touched_mb: usize,
    /// A limit's listener gives out connections that have brought something (`TCP_DEFER_ACCEPT`).
    pub defer_accept: bool,
}

impl Setup {
    pub fn buffer(&self) -> usize {
        if self.bulk { BULK_BUFFER } else { BUFFER }
    }

    /// For a server that is a program of its own, which this one becomes.
    pub fn arguments(&self) -> [String; 4] {
        [
            self.transport.to_string(),
            self.address.clone(),
            self.buffer().to_string(),
            self.touched_mb.to_string(),
        ]
    }

    /// The other way round; `None` if they are not such.
    pub fn from_arguments(arguments: &[String]) -> Option<Self> {
        let [transport, address, buffer, touched_mb] = arguments else {
            return None;
        };
        Some(Setup {
            transport: *ALL.iter().find(|one| one.to_string() == *transport)?,
            address: address.clone(),
            bulk: *buffer == BULK_BUFFER.to_string(),
            touched_mb: touched_mb.parse().ok()?,
            defer_accept: false,
        })
    }
}

/// A server by name.
pub struct Server {
    pub name: &'static str,
    pub kind: Kind,
    pub about: &'static str,
    pub transports: &'static [Transport],
    /// Calls [`announce`] when clients can come, then serves until SIGTERM.
    pub run: fn(&Setup) -> io::Result<()>,
}

/// All servers.
pub fn all() -> impl Iterator<Item = &'static Server> {
    let kinds: [&[Server]; 7] = [
        ours::SERVERS,
        ours::FORKING,
        limits::SERVERS,
        limits::FORKING,
        std_net::SERVERS,
        tokio::SERVERS,
        programs::SERVERS,
    ];
    kinds.into_iter().flatten()
}

/// Those that fork, which run in the program `bench-forks`.
pub fn forking() -> impl Iterator<Item = &'static Server> {
    ours::FORKING.iter().chain(limits::FORKING)
}

fn is_forking(server: &Server) -> bool {
    forking().any(|one| one.name == server.name)
}

/// The server of that name.
pub fn find(name: &str) -> Option<&'static Server> {
    all().find(|server| server.name == name)
}

/// Runs a server in this process, to its end; if it forks, or is written in another language, in a program that this
/// process becomes.
pub fn serve(server: &Server, setup: &Setup) -> io::Result<()> {
    if is_forking(server) {
        return Err(programs::become_forks(server.name, setup));
    }
    serve_here(server, setup)
}

/// Runs a server in this program.
pub fn serve_here(server: &Server, setup: &Setup) -> io::Result<()> {
    if !server.transports.contains(&setup.transport) {
        let text = format!("{} does not serve {}", server.name, setup.transport);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let _touched = touch(setup.touched_mb);
    (server.run)(setup)
}

/// Memory with something in each of its pages.
fn touch(megabytes: usize) -> Vec<u8> {
    vec![1; megabytes << 20]
}

/// How long accepting is deferred at most, where it is, in seconds.
pub const DEFER_SECONDS: u8 = 30;

/// How many connections may wait to be accepted, of all servers, whatever is their default: 128 of `std::net` and tokio
/// turn half of 256 clients away, who try again after a second, and what is measured are the others.
pub const QUEUE: i32 = 4096;

/// As [`announce`], a socket that listens, with [`QUEUE`] from then on.
pub fn announce_listener(listener: &impl AsFd) -> io::Result<()> {
    listen(listener, Backlog::new(QUEUE)?)?;
    announce(local_address(listener.as_fd())?)
}

/// Tells whoever started this process where the server is.
pub fn announce(address: impl fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "listening on {address}")?;
    out.flush()
}

/// The descriptor's own address.
pub fn local_address(socket: BorrowedFd<'_>) -> io::Result<String> {
    let address: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    Ok(match address.as_unix_addr().and_then(|unix| unix.path()) {
        Some(path) => path.display().to_string(),
        None => address.to_string(),
    })
}

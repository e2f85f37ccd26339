//! What the examples share: whom they serve and call, which is this machine unless told otherwise, the
//! tutorial's way to receive, and how a program begins and ends.

mod printing;
mod serving;

use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use socketserver::Address;

pub(crate) use printing::{failure, print};
pub(crate) use serving::serve;

/// A time as text, for an option.
pub(crate) fn seconds(text: &str) -> Result<Duration, &'static str> {
    // So long a time can be added to any clock.
    const LONGEST: Duration = Duration::from_hours(365 * 24);
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|time| !time.is_zero() && *time <= LONGEST)
        .ok_or("not a number of seconds above 0, such as 60 or 0.5, and up to a year")
}

/// Refuses to serve where others than this machine's users can connect. Asked of the address that a server is bound to:
/// what text means only that knows. `risk` is what anybody who reaches it could do.
pub(crate) fn refuse_remote(bound: &Address, risk: &str) -> io::Result<()> {
    match bound.ip() {
        Some(ip) if !ip.is_loopback() => Err(io::Error::new(
            ErrorKind::PermissionDenied,
            format!(
                "{ip} is not a loopback address: anybody who reaches it could {risk}; use 127.0.0.1 or [::1], \
                 or allow it with --allow-remote"
            ),
        )),
        _ => Ok(()),
    }
}

/// A connection to a server, which may take so long to answer at each address that `address` stands for. What is
/// written is sent at once: a client waits for the answer.
pub(crate) fn connect(address: &str, wait: Duration) -> io::Result<TcpStream> {
    let connected = address.to_socket_addrs().and_then(|found| connect_to_any(found, wait));
    let stream = connected.map_err(|error| cannot_connect(address, &error))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// To the first that answers. Without a time limit the system would wait two minutes for a host that is silent.
fn connect_to_any(addresses: impl Iterator<Item = SocketAddr>, wait: Duration) -> io::Result<TcpStream> {
    let mut connected = Err(ErrorKind::NotFound.into());
    for address in addresses {
        connected = TcpStream::connect_timeout(&address, wait);
        if connected.is_ok() {
            break;
        }
    }
    connected
}

pub(crate) fn cannot_connect(address: &str, error: &io::Error) -> io::Error {
    let hint = match error.kind() {
        ErrorKind::InvalidInput => "; write HOST:PORT, such as 127.0.0.1:8080",
        _ => "",
    };
    io::Error::new(error.kind(), format!("cannot connect to {address}: {error}{hint}"))
}

/// How much one receive takes, in bytes, in the tutorial's programs.
pub(crate) const RECEIVE: usize = 1024;

/// One receive, which the tutorial's programs take for a message, whatever it is that has come; `None` at
/// the end of the stream.
pub(crate) fn receive_once(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut received = vec![0; RECEIVE];
    let count = stream.read(&mut received)?;
    received.truncate(count);
    Ok((count > 0).then_some(received))
}

//! Addresses: what a server is given, what it is bound to, who its clients are.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6, ToSocketAddrs};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::invalid_input;

/// The address of a server or of a client, of any family.
///
/// One type for all families, because a client's address can be of another family than its
/// connection: a proxy on a Unix socket speaks for clients on the Internet.
///
/// A server takes anything that converts into it. What the text of an address means is the
/// transport's matter, so text stays text ([`Address::Name`]) until the server is bound:
///
/// | Given | TCP, UDP | Unix sockets |
/// |---|---|---|
/// | `"127.0.0.1:80"`, `"[::1]:80"`, a [`SocketAddr`] | that address | an error |
/// | `("", 80)` | `0.0.0.0:80`, as in Python | an error |
/// | `":80"` | `0.0.0.0:80` | the path `:80` |
/// | `"localhost:80"`, `("localhost", 80)` | resolved when bound; each address is tried in turn, IPv4 first, as in Python | the path `localhost:80` |
/// | `"[fe80::1%eth0]:80"`, `("fe80::1%eth0", 80)` | that address on that interface | the path `[fe80::1%eth0]:80` |
/// | `"/run/x.sock"`, a [`Path`] | an error | that path |
/// | `"\0name"` | an error | the abstract name `name` (unix(7)), as in Python |
///
/// ```
/// use socketserver::Address;
///
/// let address = Address::from(("::1", 80));
/// assert_eq!(address.to_string(), "[::1]:80");
/// assert_eq!(address.port(), Some(80));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// An IPv4 or IPv6 address and port.
    Inet(SocketAddr),
    /// A Unix socket in the file system.
    Path(Arc<Path>),
    /// A Unix socket in Linux's abstract namespace, without its leading NUL (unix(7)).
    Abstract(Arc<[u8]>),
    /// A Unix socket without a name: most clients of Unix sockets are.
    Unnamed,
    /// Text: an address that is not resolved yet, or one of a user's own transport.
    Name(Arc<str>),
}

/// The family of an address: Python's `address_family`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AddressFamily {
    /// IPv4: `AF_INET`.
    Inet,
    /// IPv6: `AF_INET6`.
    Inet6,
    /// Unix sockets: `AF_UNIX`.
    Unix,
}

impl Address {
    /// An abstract Unix socket name (unix(7)), given without its leading NUL byte.
    pub fn abstract_name(name: impl AsRef<[u8]>) -> Self {
        Address::Abstract(name.as_ref().into())
    }

    /// The family, as soon as it is known: text has none before it is resolved.
    pub fn family(&self) -> Option<AddressFamily> {
        match self {
            Address::Inet(SocketAddr::V4(_)) => Some(AddressFamily::Inet),
            Address::Inet(SocketAddr::V6(_)) => Some(AddressFamily::Inet6),
            Address::Path(_) | Address::Abstract(_) | Address::Unnamed => Some(AddressFamily::Unix),
            Address::Name(_) => None,
        }
    }

    /// The Internet address and port, if it is one.
    pub fn as_inet(&self) -> Option<SocketAddr> {
        match self {
            Address::Inet(address) => Some(*address),
            _ => None,
        }
    }

    /// The IP address, if it has one. An IPv4 client of an IPv6 server is told as IPv4, not as
    /// `::ffff:a.b.c.d`.
    pub fn ip(&self) -> Option<IpAddr> {
        self.as_inet().map(|address| address.ip().to_canonical())
    }

    /// The port, if it has one.
    pub fn port(&self) -> Option<u16> {
        self.as_inet().map(|address| address.port())
    }

    /// The path in the file system, if it has one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Address::Path(path) => Some(path),
            _ => None,
        }
    }

    /// Internet addresses to try in turn.
    pub(crate) fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Address::Inet(address) => Ok(vec![*address]),
            Address::Name(name) if !name.starts_with('\0') => resolve_name(name),
            _ => Err(invalid_input(format!(
                "`{self}` is a Unix socket address; TCP and UDP take HOST:PORT"
            ))),
        }
    }

    /// The Internet address that a datagram can be sent to.
    pub(crate) fn to_inet(&self) -> io::Result<SocketAddr> {
        self.as_inet()
            .ok_or_else(|| invalid_input(format!("`{self}` is not an Internet address")))
    }

    /// The Unix socket address that this means.
    pub(crate) fn to_unix(&self) -> io::Result<unix::SocketAddr> {
        let made = match self {
            Address::Path(path) => unix::SocketAddr::from_pathname(path),
            Address::Abstract(name) => unix::SocketAddr::from_abstract_name(name),
            Address::Name(name) => match name.strip_prefix('\0') {
                Some(name) => unix::SocketAddr::from_abstract_name(name),
                None => unix::SocketAddr::from_pathname(&**name),
            },
            Address::Unnamed => {
                return Err(invalid_input(
                    "the peer has no address: a Unix datagram client must bind a path to get a reply",
                ));
            }
            Address::Inet(address) => {
                return Err(invalid_input(format!(
                    "`{address}` is an Internet address; a Unix socket takes a path"
                )));
            }
        };
        // An empty path makes an address without a name, which bind(2) would choose one for.
        made.ok()
            .filter(|address| !address.is_unnamed())
            .ok_or_else(|| self.unix_name_error())
    }

    /// Why the system does not take this as a Unix address. std says less than a user needs.
    fn unix_name_error(&self) -> io::Error {
        let length = match self {
            Address::Path(path) => path.as_os_str().as_bytes().len(),
            Address::Abstract(name) => name.len(),
            _ => self.to_string().len(),
        };
        invalid_input(format!(
            "`{self}` cannot be a socket address: it has {length} bytes, and a Unix socket takes 1 to 107 \
             without a NUL byte (sun_path, unix(7)); use a path that fits"
        ))
    }
}

fn resolve_name(name: &str) -> io::Result<Vec<SocketAddr>> {
    let (host, port) = host_and_port(name)?;
    let asked = if host.is_empty() { "0.0.0.0" } else { host };
    let found = (asked, port)
        .to_socket_addrs()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot resolve `{host}`: {error}")))?;
    let found = ipv4_first(found);
    if found.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("`{host}` has no address"),
        ));
    }
    Ok(found)
}

/// Both parts of `HOST:PORT`. An IPv6 address comes without its brackets, as getaddrinfo(3) takes it with the name of
/// its interface.
fn host_and_port(name: &str) -> io::Result<(&str, u16)> {
    if name.contains("://") {
        return Err(invalid_input(format!(
            "`{name}` is a URL: write HOST:PORT alone, such as 127.0.0.1:8080"
        )));
    }
    // In brackets a colon is the address's own.
    let Some((host, port)) = name.rsplit_once(':').filter(|_| !name.ends_with(']')) else {
        return Err(invalid_input(format!(
            "`{name}` has no port: write HOST:PORT, such as 127.0.0.1:8080, with port 0 for any free one"
        )));
    };
    // Digits alone: a number of Rust's may have a sign.
    let number = port.parse().ok().filter(|_| !port.starts_with('+'));
    let Some(port) = number else {
        return Err(invalid_input(format!(
            "`{name}` has no valid port: `{port}` is not a number from 0 to 65535"
        )));
    };
    if host.contains(':') && !host.starts_with('[') {
        return Err(invalid_input(format!(
            "`{name}` is ambiguous: write an IPv6 address in brackets, such as [::1]:80"
        )));
    }
    let Some(bracketed) = host.strip_prefix('[') else {
        return Ok((host, port));
    };
    match bracketed.strip_suffix(']') {
        Some(host) if host.contains(':') => Ok((host, port)),
        _ => Err(invalid_input(format!(
            "`{name}` has brackets, which are for an IPv6 address, such as [::1]:80"
        ))),
    }
}

/// Python's servers are IPv4 unless told otherwise, and so are many of their clients: `localhost` is 127.0.0.1 to them,
/// and a datagram to it is lost without a word if the server has `::1`, which getaddrinfo(3) puts first.
fn ipv4_first(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut found: Vec<_> = found.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    found
}

/// As it would be written: `127.0.0.1:80`, `/run/x.sock`; and for people, as in `ss`, `@name` for an abstract name
/// (`"\0name"` where it is given), `(unnamed)`. Control characters of a path are escaped.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(address) => address.fmt(f),
            Address::Path(path) => path_in_a_line(path).fmt(f),
            Address::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
            Address::Unnamed => f.write_str("(unnamed)"),
            Address::Name(name) => match name.strip_prefix('\0') {
                Some(name) => write!(f, "@{name}"),
                None => name.fmt(f),
            },
        }
    }
}

/// Who sends a datagram chooses its own path, which must not look as another line of a log.
fn path_in_a_line(path: &Path) -> String {
    let mut line = String::new();
    for character in path.to_string_lossy().chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

impl From<&str> for Address {
    fn from(text: &str) -> Self {
        match text.parse() {
            Ok(address) => Address::Inet(address),
            Err(_) => Address::Name(text.into()),
        }
    }
}

impl From<String> for Address {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<&String> for Address {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Address::Inet(address)
    }
}

impl From<SocketAddrV4> for Address {
    fn from(address: SocketAddrV4) -> Self {
        Address::Inet(address.into())
    }
}

impl From<SocketAddrV6> for Address {
    fn from(address: SocketAddrV6) -> Self {
        Address::Inet(address.into())
    }
}

/// A host and a port, as Python writes it: `("localhost", 8080)`; an empty host is `0.0.0.0`.
impl From<(&str, u16)> for Address {
    fn from((host, port): (&str, u16)) -> Self {
        if host.is_empty() {
            return (Ipv4Addr::UNSPECIFIED, port).into();
        }
        match host.parse::<IpAddr>() {
            Ok(ip) => (ip, port).into(),
            // An IPv6 address with the name of its interface.
            Err(_) if host.contains(':') && !host.starts_with('[') => format!("[{host}]:{port}").into(),
            Err(_) => format!("{host}:{port}").into(),
        }
    }
}

impl From<(String, u16)> for Address {
    fn from((host, port): (String, u16)) -> Self {
        (host.as_str(), port).into()
    }
}

impl<I: Into<IpAddr>> From<(I, u16)> for Address
where
    I: sealed::Ip,
{
    fn from((ip, port): (I, u16)) -> Self {
        Address::Inet(SocketAddr::new(ip.into(), port))
    }
}

mod sealed {
    /// Keeps the conversion from an IP address apart from the one from a host name.
    pub trait Ip {}
    impl Ip for std::net::IpAddr {}
    impl Ip for std::net::Ipv4Addr {}
    impl Ip for std::net::Ipv6Addr {}
}

impl From<&Path> for Address {
    fn from(path: &Path) -> Self {
        Address::Path(path.into())
    }
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Self {
        Address::Path(path.into())
    }
}

impl From<&PathBuf> for Address {
    fn from(path: &PathBuf) -> Self {
        path.as_path().into()
    }
}

impl From<unix::SocketAddr> for Address {
    fn from(address: unix::SocketAddr) -> Self {
        if let Some(path) = address.as_pathname() {
            path.into()
        } else if let Some(name) = address.as_abstract_name() {
            Address::abstract_name(name)
        } else {
            Address::Unnamed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_host_is_every_ipv4_address() {
        assert_eq!(Address::from(("", 80)).to_string(), "0.0.0.0:80");
        let found = Address::from(":80").resolve().unwrap();
        assert_eq!(found, ["0.0.0.0:80".parse().unwrap()]);
    }

    #[test]
    fn of_a_names_addresses_ipv4_is_tried_first() {
        let [v6, first, second] = ["[::1]:80", "127.0.0.1:80", "127.0.0.2:80"].map(|text| text.parse().unwrap());
        assert_eq!(ipv4_first([v6, first, second].into_iter()), [first, second, v6]);
    }

    #[test]
    fn a_host_in_brackets_is_the_same_as_without() {
        assert_eq!(Address::from(("[::1]", 80)), Address::from(("::1", 80)));
    }

    #[test]
    fn a_path_is_one_line() {
        let path = Path::new("/tmp/é x\n[ERROR] \u{1b}[0m");
        assert_eq!(Address::from(path).to_string(), "/tmp/é x\\n[ERROR] \\u{1b}[0m");
    }

    #[test]
    fn brackets_are_for_ipv6_addresses() {
        for text in ["[]:80", "[127.0.0.1]:80", "[localhost]:80", "[::1:80"] {
            let error = Address::from(text).resolve().unwrap_err();
            let told = format!("`{text}` has brackets, which are for an IPv6 address");
            assert!(error.to_string().starts_with(&told), "{error}");
        }
    }

    #[test]
    fn a_port_has_no_sign() {
        for text in ["127.0.0.1:+1", "[::1]:+1", "localhost:+1"] {
            let error = Address::from(text).resolve().unwrap_err();
            let told = format!("`{text}` has no valid port: `+1` is not a number from 0 to 65535");
            assert_eq!(error.to_string(), told);
        }
    }

    #[test]
    fn a_port_may_have_leading_zeros() {
        for text in ["127.0.0.1:00080", "[::1]:00080", ":00080"] {
            assert_eq!(Address::from(text).resolve().unwrap()[0].port(), 80);
        }
    }

    #[test]
    fn to_a_unix_socket_text_is_a_path_unless_it_is_an_internet_address() {
        for address in [Address::from("localhost:80"), Address::from(("localhost", 80))] {
            let bound = Address::from(address.to_unix().unwrap());
            assert_eq!(bound.path(), Some(Path::new("localhost:80")));
        }
        for address in [Address::from("127.0.0.1:80"), Address::from(("", 80))] {
            assert_eq!(address.to_unix().unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_leading_nul_is_an_abstract_name() {
        let address = Address::from("\0a-name").to_unix().unwrap();
        assert_eq!(Address::from(address), Address::abstract_name("a-name"));
        assert_eq!(Address::abstract_name("a-name").to_string(), "@a-name");
    }

    #[test]
    fn a_mapped_address_is_told_as_ipv4() {
        let address = Address::from("[::ffff:10.0.0.1]:80");
        assert_eq!(address.ip(), Some("10.0.0.1".parse().unwrap()));
    }
}

//! Who is at the other end of a Unix socket.

use std::io;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{getsockopt, sockopt};

use super::StreamRequest;

/// The process at the other end of a Unix connection, as the kernel knows it: `SO_PEERCRED` (unix(7)).
///
/// It tells who connected, at the moment of connect(2): a descriptor may have been passed on since. The
/// user and the group cannot be forged. The process id is for logs: it may be another process's by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// The process; `None` if it is in a PID namespace that this one cannot see (`pid_namespaces(7)`).
    pub pid: Option<u32>,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group. Its other groups are not told.
    pub gid: u32,
}

impl StreamRequest<UnixStream> {
    /// Who has connected. Datagrams do not tell: only connections have two ends.
    ///
    /// A mix-in that lets in root and the server's own user only, whatever the permissions of the path are:
    ///
    /// ```
    /// use socketserver::prelude::*;
    /// use socketserver::UnixStreams;
    ///
    /// struct OwnUserOnly<S>(S);
    ///
    /// impl<S: BaseServer<Transport = UnixStreams>> BaseServer for OwnUserOnly<S> {
    ///     type Transport = UnixStreams;
    ///     type Inner = S;
    ///     fn inner(&self) -> &S {
    ///         &self.0
    ///     }
    ///
    ///     fn verify_request(&self, request: &UnixStreamRequest, client_address: &Address) -> bool {
    ///         let own = nix::unistd::geteuid().as_raw();
    ///         request.peer_credentials().is_ok_and(|peer| [0, own].contains(&peer.uid))
    ///             && self.inner().verify_request(request, client_address)
    ///     }
    /// }
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("socket");
    /// use std::io::{Read, Write};
    ///
    /// let server = ThreadingUnixStreamServer::new(&path, |request: &mut UnixStreamRequest| {
    ///     let peer = request.peer_credentials()?;
    ///     write!(request, "hello user {}", peer.uid)
    /// });
    /// let running = OwnUserOnly(server).spawn()?;
    ///
    /// let mut text = String::new();
    /// std::os::unix::net::UnixStream::connect(&path)?.read_to_string(&mut text)?;
    /// assert_eq!(text, format!("hello user {}", nix::unistd::geteuid()));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn peer_credentials(&self) -> io::Result<PeerCredentials> {
        let peer = getsockopt(&self.stream, sockopt::PeerCredentials)?;
        Ok(PeerCredentials {
            pid: u32::try_from(peer.pid()).ok().filter(|pid| *pid != 0),
            uid: peer.uid(),
            gid: peer.gid(),
        })
    }
}

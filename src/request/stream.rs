//! What a connection reads and writes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

#[cfg(doc)]
use super::StreamRequest;

/// A byte stream that can be served: a socket, or anything that reads and writes.
///
/// The defaults suit a stream that is no socket. A wrapper (TLS, compression) forwards them to what it
/// wraps, else it has no clocks, and a drain may wait for it until the deadline.
///
/// What a stream gathers in its `write` it sends in its `flush`. The request calls that behind each of its writes (but
/// not behind a vectored one, which may be short) or, if it gathers itself
/// ([`set_wbufsize`](StreamRequest::set_wbufsize)), when it is flushed. What fails with
/// [`Interrupted`](io::ErrorKind::Interrupted), or with [`WouldBlock`](io::ErrorKind::WouldBlock) when its timeout is
/// over, is called again while the clocks allow; a `write` that fails so must have taken nothing.
///
/// # A stream around another
///
/// What has to be said first (a TLS handshake, a PROXY header) may have to be waited for, so it belongs into a
/// handler, never into [`accept`](crate::Transport::accept): one that goes around the handler of the wrapped stream
/// and makes a request of it with [`wrap`](StreamRequest::wrap), which has the client, the server and the clocks of the
/// whole. The bytes in [`Connection`](crate::Connection) are those that went through either request.
///
/// ```
/// use std::io::{self, BufRead, Read, Write};
/// use std::net::{Shutdown, TcpStream};
/// use std::os::fd::BorrowedFd;
/// use std::time::Duration;
/// use socketserver::prelude::*;
/// use socketserver::run_handler;
///
/// /// In the place of a TLS library's stream.
/// struct Secret(TcpStream);
///
/// impl Read for Secret {
///     fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
///         let count = self.0.read(out)?;
///         out[..count].iter_mut().for_each(|byte| *byte = !*byte);
///         Ok(count)
///     }
/// }
///
/// impl Write for Secret {
///     fn write(&mut self, data: &[u8]) -> io::Result<usize> {
///         self.0.write(&data.iter().map(|byte| !byte).collect::<Vec<u8>>())
///     }
///
///     fn flush(&mut self) -> io::Result<()> {
///         self.0.flush()
///     }
/// }
///
/// impl Stream for Secret {
///     fn shutdown_stream(&self, how: Shutdown) -> io::Result<()> {
///         self.0.shutdown_stream(how)
///     }
///
///     fn set_stream_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
///         self.0.set_stream_read_timeout(timeout)
///     }
///
///     fn set_stream_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
///         self.0.set_stream_write_timeout(timeout)
///     }
///
///     fn set_stream_nodelay(&self, nodelay: bool) -> io::Result<()> {
///         self.0.set_stream_nodelay(nodelay)
///     }
///
///     fn fileno(&self) -> Option<BorrowedFd<'_>> {
///         self.0.fileno()
///     }
/// }
///
/// /// Serves connections that are secret with a handler that need not know.
/// #[derive(Clone)]
/// struct Secretly<H>(H);
///
/// impl<H: BaseRequestHandler<StreamRequest<Secret>>> BaseRequestHandler<TcpRequest> for Secretly<H> {
///     fn handle(&mut self, request: &mut TcpRequest) -> HandlerResult {
///         let stream = Secret(request.get_ref().try_clone()?);
///         run_handler(&self.0, &mut request.wrap(stream)?)
///     }
/// }
///
/// fn greet<S: Stream>(request: &mut StreamRequest<S>) -> io::Result<()> {
///     writeln!(request, "you are number {}", request.server().number())
/// }
///
/// # fn main() -> io::Result<()> {
/// let running = ThreadingTcpServer::new("127.0.0.1:0", Secretly(greet)).spawn()?;
/// let client = TcpStream::connect(running.server_address().as_inet().unwrap())?;
/// let mut text = String::new();
/// Secret(client).read_to_string(&mut text)?;
/// assert_eq!(text, "you are number 1\n");
/// # running.stop()?;
/// # Ok(())
/// # }
/// ```
///
/// Before that, read no further than the wrapped stream begins: what [`BufRead`](io::BufRead) has read ahead of it
/// stays with the outer request, unless [`set_rbufsize(1)`](StreamRequest::set_rbufsize) has it read byte by byte.
///
/// The other handle to the socket (`try_clone`) is a second descriptor for each connection.
///
/// # Descriptors that come with bytes
///
/// A client of a Unix socket can send descriptors (`SCM_RIGHTS`, unix(7)). read(2) drops them, and so does each read of
/// the request. A stream around the socket as above, whose `read` is recvmsg(2) with `MSG_CMSG_CLOEXEC` and which keeps
/// what has come in a field, has them, and [`get_mut`](StreamRequest::get_mut) gives them out. All clocks and the drain
/// hold then. recvmsg(2) on the raw socket in the handler has them, too, but fails with `EAGAIN` past a clock, and is
/// never idle to a drain, which waits for it.
///
/// # TLS
///
/// The example `tls_echo` has a handler `Tls<H>` around any other, with rustls and to be copied:
/// `examples/tls_echo/tls.rs`. What matters there, with any library:
///
/// * The handshake is made in [`setup`](crate::BaseRequestHandler::setup), on the request itself, which any library can
///   read and write: with rustls `connection.complete_io(request)`. There it keeps to all clocks, that of the handshake
///   included, and what it writes is no answer to a message: a drain waits for a client that is in the middle of it, or
///   has said nothing since, and answers it once. In `handle` a drain would take it for idle.
/// * The wrapper's `read` reads the socket once; if that completes nothing, it fails with
///   [`Interrupted`](io::ErrorKind::Interrupted): the request looks at its clocks and calls again. Libraries read as
///   often as it takes until a record is complete, and a client that sends a byte now and then could stay for ever.
///   With rustls: what `connection.reader()` has, else `read_tls`, `process_new_packets`, `Interrupted`.
/// * The wrapper's `write` sends what an earlier one has left, then only takes what there is room for; its `flush`
///   sends.
/// * A drain ends the reading of the socket without the client's last word (`close_notify`), which libraries report as
///   an error (`UnexpectedEof`): if the server [is draining](crate::ServerContext::is_draining), that is the end of the
///   stream.
/// * The last word is said after [`run_handler`](crate::run_handler), and only if that succeeded: without it, the
///   client knows that it has not heard all.
/// * A part of a record gives no bytes yet: the wrapper says that a
///   [message has begun](crate::ServerContext::message_begun), else a drain takes the connection for idle and cuts it.
///
/// The first byte for which the [handshake's clock](crate::Timeouts#structfield.handshake) waits is one within TLS.
///
/// In the middle of a conversation (STARTTLS) the same handler does it, called by hand once the
/// [`Framed`](crate::framing::Framed) of the conversation so far is gone: `tls.setup(request)?; tls.handle(request)`.
/// What that `Framed` has read ahead is the handshake's, so a command that somebody has slipped in behind STARTTLS is
/// no TLS, and ends it. The handshake's clock, which runs from the beginning of the connection, may have run out by
/// then, so it is taken away before:
///
/// ```
/// use socketserver::prelude::*;
///
/// fn before_starttls(request: &mut TcpRequest) -> std::io::Result<()> {
///     let mut timeouts = request.timeouts();
///     timeouts.handshake = None;
///     request.set_timeouts(timeouts)
/// }
/// ```
///
/// A drain that comes in the middle of such a handshake takes the connection for idle and ends it.
///
/// A handler that can do without a request of the wrapped stream writes no wrapper: it puts the library's stream around
/// its request, as in `rustls::Stream::new(&mut connection, request)`, and all clocks hold.
pub trait Stream: Read + Write + Send + 'static {
    /// Ends one direction or both (shutdown(2)).
    ///
    /// # Errors
    ///
    /// Those of the system call.
    fn shutdown_stream(&self, how: Shutdown) -> io::Result<()> {
        let _ = how;
        Ok(())
    }

    /// Limits how long one read may wait (`SO_RCVTIMEO`, socket(7)); `None`: for ever. A read that has
    /// waited in vain fails with [`WouldBlock`](io::ErrorKind::WouldBlock).
    ///
    /// # Errors
    ///
    /// Those of the system call.
    fn set_stream_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        let _ = timeout;
        Ok(())
    }

    /// Limits how long one write may wait (`SO_SNDTIMEO`), as for reading.
    ///
    /// # Errors
    ///
    /// Those of the system call.
    fn set_stream_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        let _ = timeout;
        Ok(())
    }

    /// Sends small writes at once (`TCP_NODELAY`, tcp(7)). Only TCP ever waits.
    ///
    /// # Errors
    ///
    /// Those of the system call.
    fn set_stream_nodelay(&self, nodelay: bool) -> io::Result<()> {
        let _ = nodelay;
        Ok(())
    }

    /// The descriptor of the socket, if there is one.
    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Stream for TcpStream {
    fn shutdown_stream(&self, how: Shutdown) -> io::Result<()> {
        self.shutdown(how)
    }

    fn set_stream_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(timeout)
    }

    fn set_stream_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_write_timeout(timeout)
    }

    fn set_stream_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.set_nodelay(nodelay)
    }

    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

impl Stream for UnixStream {
    fn shutdown_stream(&self, how: Shutdown) -> io::Result<()> {
        self.shutdown(how)
    }

    fn set_stream_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(timeout)
    }

    fn set_stream_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_write_timeout(timeout)
    }

    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

//! A request that is a connection.

use std::fmt;
use std::io::{self, BufRead, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::socket::shutdown;

use super::buffer::{ReadBuffer, WriteBuffer};
use super::{Request, ServerContext};
use crate::address::Address;
use crate::framing::Framed;

/// A byte stream that can be served: a socket, or anything that reads and writes.
///
/// The defaults suit a stream that is no socket. A wrapper (TLS, compression) forwards them to what it
/// wraps.
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

    /// Limits how long one read and one write may wait (`SO_RCVTIMEO`, `SO_SNDTIMEO`, socket(7));
    /// `None`: for ever.
    ///
    /// # Errors
    ///
    /// Those of the system call; a timeout of zero is invalid.
    fn set_stream_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
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

    fn set_stream_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(timeout)?;
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

    fn set_stream_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(timeout)?;
        self.set_write_timeout(timeout)
    }

    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

/// A connection to serve: Python's `request`, `rfile` and `wfile` in one.
///
/// It reads ([`Read`], [`BufRead`]) and writes ([`Write`]) the stream `S`. Reading is buffered only if
/// [`BufRead`]'s methods are used: the buffer is made then, and a handler that reads into memory of its
/// own pays for none. Writing sends at once unless [`set_wbufsize`](Self::set_wbufsize) says otherwise,
/// and always writes all: [`Write::write`] has no short writes, as Python's `wfile` has none. Messages are
/// read and written with [`framed`](Self::framed).
///
/// What a signal interrupts is taken up again; a timeout is an error of the kind
/// [`TimedOut`](io::ErrorKind::TimedOut).
///
/// When the server is told to stop, a read that waits for the next message gets the end of the stream, as
/// if the client had closed: one that begins after something was written in answer to what was read. What
/// has arrived by then is still read. A client that has not said anything yet, or is in the middle of a
/// message, is waited for; a handler that never answers asks
/// [`is_draining`](ServerContext::is_draining).
///
/// | Python | Here |
/// |---|---|
/// | `self.request` | the value itself; the raw socket is [`get_ref`](Self::get_ref) |
/// | `self.client_address` | [`client_address`](Self::client_address) |
/// | `self.server` | [`server`](Self::server) |
/// | `self.rfile`, `self.wfile` | the value itself, or [`split`](Self::split) to have both at a time |
/// | `timeout`, `disable_nagle_algorithm`, `rbufsize`, `wbufsize` | [`set_timeout`](Self::set_timeout), [`disable_nagle_algorithm`](Self::disable_nagle_algorithm), [`set_rbufsize`](Self::set_rbufsize), [`set_wbufsize`](Self::set_wbufsize), called in `setup` |
pub struct StreamRequest<S> {
    stream: S,
    client_address: Address,
    context: ServerContext,
    rbuf: ReadBuffer,
    wbuf: WriteBuffer,
    /// The handler had the raw stream and may have another handle to it by now.
    lent: AtomicBool,
}

impl<S: Stream> StreamRequest<S> {
    /// A request for `stream`: for transports, and for unit tests of handlers.
    pub fn new(stream: S, client_address: impl Into<Address>) -> Self {
        StreamRequest {
            stream,
            client_address: client_address.into(),
            context: ServerContext::detached(),
            rbuf: ReadBuffer::new(),
            wbuf: WriteBuffer::default(),
            lent: AtomicBool::new(false),
        }
    }

    /// Whose connection it is.
    pub fn client_address(&self) -> &Address {
        &self.client_address
    }

    /// The server, as far as a handler may use it.
    pub fn server(&self) -> &ServerContext {
        &self.context
    }

    /// The raw stream. What it has in common with the request is the socket, not the buffers: bytes
    /// that were read ahead ([`BufRead`]) are not in it any more.
    pub fn get_ref(&self) -> &S {
        self.lent.store(true, Ordering::Relaxed);
        &self.stream
    }

    /// The raw stream, to change.
    pub fn get_mut(&mut self) -> &mut S {
        self.lent.store(true, Ordering::Relaxed);
        &mut self.stream
    }

    /// Limits how long each read and each write may wait; `None`, the default: for ever.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2); a timeout of zero is invalid.
    pub fn set_timeout(&mut self, timeout: impl Into<Option<Duration>>) -> io::Result<()> {
        self.stream.set_stream_timeout(timeout.into())
    }

    /// Sends small writes at once instead of waiting for the previous one's acknowledgement
    /// (`TCP_NODELAY`, tcp(7)). Other streams never wait.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn disable_nagle_algorithm(&mut self) -> io::Result<()> {
        self.stream.set_stream_nodelay(true)
    }

    /// Sets how many bytes a buffered read asks for: 8,192 by default, at least 1.
    pub fn set_rbufsize(&mut self, bytes: usize) {
        self.rbuf.set_size(bytes);
    }

    /// Gathers writes until there are `bytes` bytes, `flush` is called, or the handler ends; 0, the
    /// default: each write is sent at once.
    pub fn set_wbufsize(&mut self, bytes: usize) {
        self.wbuf.set_size(bytes);
    }

    /// Messages instead of bytes: the codec says where each ends (see [`framing`](crate::framing)).
    ///
    /// What the request has read ahead is used first. When the `Framed` is dropped, what it has read ahead
    /// goes back to the request, and messages that it was [fed](Framed::feed) are sent with the request's
    /// next flush, at the latest when the handler ends.
    ///
    /// ```
    /// use socketserver::prelude::*;
    ///
    /// fn echo(request: &mut TcpRequest) -> std::io::Result<()> {
    ///     let mut framed = request.framed(LengthDelimitedCodec::u32_be());
    ///     while let Some(message) = framed.next() {
    ///         framed.send(message?)?;
    ///     }
    ///     Ok(())
    /// }
    /// let server = ThreadingTcpServer::new("127.0.0.1:0", echo);
    /// ```
    pub fn framed<C>(&mut self, codec: C) -> Framed<&mut Self, C> {
        Framed::lent(self, codec, |request, unread, unsent| {
            request.rbuf.put_back(unread);
            request.wbuf.gather(unsent);
        })
    }

    /// The two directions apart, so that one can be read while the other is written, by one thread or
    /// by two ([`std::thread::scope`]). For streams that read and write through a shared reference, as
    /// sockets do.
    ///
    /// ```
    /// use std::io::{BufRead, Write};
    /// use socketserver::prelude::*;
    ///
    /// fn shout(request: &mut TcpRequest) -> std::io::Result<()> {
    ///     let (rfile, mut wfile) = request.split();
    ///     for line in rfile.lines() {
    ///         writeln!(wfile, "{}!", line?)?;
    ///     }
    ///     Ok(())
    /// }
    /// let server = ThreadingTcpServer::new("127.0.0.1:0", shout);
    /// ```
    pub fn split(&mut self) -> (RFile<'_, S>, WFile<'_, S>)
    where
        for<'a> &'a S: Read + Write,
    {
        let StreamRequest {
            stream,
            context,
            rbuf,
            wbuf,
            lent,
            ..
        } = self;
        (
            RFile {
                stream,
                context,
                buffer: rbuf,
            },
            WFile {
                stream,
                context,
                buffer: wbuf,
                lent,
            },
        )
    }

    /// The buffer, and what fills it.
    fn receiver(&mut self) -> (&mut ReadBuffer, Receiver<'_, &mut S>) {
        let receiver = Receiver {
            stream: &mut self.stream,
            context: &self.context,
            end: |stream| end_reading(*stream),
        };
        (&mut self.rbuf, receiver)
    }
}

/// The stream as the read buffer reads it: it is known when a connection is idle, waiting for the next
/// message, and once the server drains no read of an idle connection waits any more.
struct Receiver<'a, R> {
    stream: R,
    context: &'a ServerContext,
    end: fn(&R),
}

impl<R: Read> Read for Receiver<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.context.begin_read() {
            (self.end)(&self.stream);
        }
        let read = self.stream.read(out);
        self.context.end_read();
        read
    }
}

/// From now on a read gets what has arrived, then the end of the stream, and never waits (shutdown(2)). At
/// the socket, as the drain does it, if there is one.
fn end_reading(stream: &impl Stream) {
    // The peer may be gone already (ENOTCONN).
    match stream.fileno() {
        Some(socket) => drop(shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Read)),
        None => drop(stream.shutdown_stream(Shutdown::Read)),
    }
}

impl<S: Stream> Read for StreamRequest<S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let (buffer, mut receiver) = self.receiver();
        let count = buffer.read(&mut receiver, out)?;
        self.context.took(count);
        Ok(count)
    }
}

impl<S: Stream> BufRead for StreamRequest<S> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let (buffer, mut receiver) = self.receiver();
        buffer.fill(&mut receiver)
    }

    fn consume(&mut self, count: usize) {
        self.rbuf.consume(count);
        self.context.took(count);
    }
}

impl<S: Stream> Write for StreamRequest<S> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.wbuf.write(&mut self.stream, data)?;
        self.context.answered();
        Ok(count)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.wbuf.write_vectored(&mut self.stream, slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.wbuf.flush(&mut self.stream)
    }
}

impl<S: Stream> Request for StreamRequest<S> {
    fn client_address(&self) -> &Address {
        &self.client_address
    }

    fn attach(&mut self, context: ServerContext) {
        self.context = context;
    }

    fn flush(&mut self) -> io::Result<()> {
        Write::flush(self)
    }

    /// Closing ends the stream for the peer unless another handle to it is open: then this does.
    fn shutdown(&mut self) {
        if *self.lent.get_mut() {
            // The peer may be gone already (ENOTCONN).
            let _ = self.stream.shutdown_stream(Shutdown::Write);
        }
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.stream.fileno()
    }
}

impl<S> fmt::Debug for StreamRequest<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamRequest")
            .field("client_address", &self.client_address)
            .field("context", &self.context)
            .field("read_ahead", &self.rbuf.unread().len())
            .finish_non_exhaustive()
    }
}

/// The reading half of a [`StreamRequest`]: Python's `rfile`.
#[derive(Debug)]
pub struct RFile<'a, S> {
    stream: &'a S,
    context: &'a ServerContext,
    buffer: &'a mut ReadBuffer,
}

impl<'a, S: Stream> RFile<'a, S> {
    fn receiver(&mut self) -> (&mut ReadBuffer, Receiver<'a, &'a S>) {
        let receiver = Receiver {
            stream: self.stream,
            context: self.context,
            end: |stream: &&S| end_reading(*stream),
        };
        (self.buffer, receiver)
    }
}

impl<'a, S: Stream> Read for RFile<'a, S>
where
    &'a S: Read,
{
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let (buffer, mut receiver) = self.receiver();
        let count = buffer.read(&mut receiver, out)?;
        self.context.took(count);
        Ok(count)
    }
}

impl<'a, S: Stream> BufRead for RFile<'a, S>
where
    &'a S: Read,
{
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let (buffer, mut receiver) = self.receiver();
        buffer.fill(&mut receiver)
    }

    fn consume(&mut self, count: usize) {
        self.buffer.consume(count);
        self.context.took(count);
    }
}

/// The writing half of a [`StreamRequest`]: Python's `wfile`. Its writes are complete.
#[derive(Debug)]
pub struct WFile<'a, S> {
    stream: &'a S,
    context: &'a ServerContext,
    buffer: &'a mut WriteBuffer,
    lent: &'a AtomicBool,
}

impl<S: Stream> WFile<'_, S> {
    /// The descriptor of the socket, if the stream is one.
    pub fn fileno(&self) -> Option<BorrowedFd<'_>> {
        self.lent.store(true, Ordering::Relaxed);
        self.stream.fileno()
    }
}

impl<'a, S: Stream> Write for WFile<'a, S>
where
    &'a S: Write,
{
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.buffer.write(&mut self.stream, data)?;
        if self.context.answered() {
            // The other half waits in a read already.
            end_reading(self.stream);
        }
        Ok(count)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.buffer.write_vectored(&mut self.stream, slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.buffer.flush(&mut self.stream)
    }
}

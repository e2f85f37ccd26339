//! A request that is a connection.

use std::fmt;
use std::io::{self, BufRead, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::buffer::{ReadBuffer, WriteBuffer};
use super::clock::{Clock, Reading, TimedReader, TimedWriter, Writing};
use super::watched::{Counted, Watched, end_reading};
use super::{RFile, Request, ServerContext, WFile};
use crate::address::Address;
use crate::framing::{Framed, Lender};
use crate::timeouts::Timeouts;

/// A byte stream that can be served: a socket, or anything that reads and writes.
///
/// The defaults suit a stream that is no socket. A wrapper (TLS, compression) forwards them to what it
/// wraps, else it has no clocks, and a drain may wait for it until the deadline.
///
/// # A stream around another
///
/// What has to be said first (a TLS handshake, a PROXY header) may have to be waited for, so it belongs into a
/// handler, never into [`accept`](crate::Transport::accept): one that goes around the handler of the wrapped stream
/// and makes a request of it. [`attach`](Request::attach) and [`begin`](Request::begin) give that the server and the
/// clocks; without them it would neither hear that the server drains, nor be counted in
/// [`Connection`](crate::Connection), nor time out.
///
/// ```
/// use std::io::{self, BufRead, Read, Write};
/// use std::net::{Shutdown, TcpStream};
/// use std::os::fd::BorrowedFd;
/// use std::time::Duration;
/// use socketserver::prelude::*;
/// use socketserver::{Request, run_handler};
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
///         let mut inner = StreamRequest::new(stream, request.client_address().clone());
///         inner.attach(request.server().clone());
///         inner.begin(request.timeouts())?;
///         run_handler(&self.0, &mut inner)
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
/// Before that, read no further than the wrapped stream begins: what [`BufRead`] has read ahead of it stays with the
/// outer request, unless [`set_rbufsize(1)`](StreamRequest::set_rbufsize) has it read byte by byte.
///
/// # TLS
///
/// A TLS library reads the socket as often as it takes until a handshake or a record is complete. Clocks are looked at
/// between two reads of the request, so a client that sends it a byte now and then could stay for ever, except thus:
///
/// * The handshake is made in [`setup`](crate::BaseRequestHandler::setup), on the request itself, which any library can
///   read and write. With rustls: `connection.complete_io(request)`.
/// * The wrapper's `read` reads the socket once; if that completes nothing, it fails with
///   [`Interrupted`](io::ErrorKind::Interrupted): the request looks at its clocks and calls again. With rustls: what
///   `connection.reader()` has, else `read_tls`, `process_new_packets`, `Interrupted`.
///
/// A handler that can do without a request of the wrapped stream writes no wrapper at all: it puts the library's stream
/// around its request, as in `rustls::Stream::new(&mut connection, request)`, and all clocks hold.
///
/// The last word of TLS (`close_notify`) is said after [`run_handler`](crate::run_handler). A drain ends the reading of
/// the socket without one, which libraries report as an error (`UnexpectedEof`): if the server
/// [is draining](ServerContext::is_draining), that is the end of the stream.
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

/// Whether this program has forked for a request.
static FORKED: AtomicBool = AtomicBool::new(false);

/// A child is about to be forked: it gets another handle to every connection that is open in this program,
/// those of other servers and of requests beside its own included (fork(2)).
pub(crate) fn about_to_fork() {
    // Written once: after each fork a write to memory that the child has, too, copies a page.
    if !FORKED.load(Ordering::Relaxed) {
        FORKED.store(true, Ordering::Relaxed);
    }
}

/// A connection to serve: Python's `request`, `rfile` and `wfile` in one.
///
/// It reads ([`Read`], [`BufRead`]) and writes ([`Write`]) the stream `S`. Reading is buffered only if
/// [`BufRead`]'s methods are used: the buffer is made then, and a handler that reads into memory of its
/// own pays for none. Writing sends at once unless [`set_wbufsize`](Self::set_wbufsize) says otherwise,
/// and always writes all: [`Write::write`] has no short writes, as Python's `wfile` has none. What [`write!`] formats is
/// one write. An answer of several writes is sooner there with `set_wbufsize`: over TCP, each of them may wait for the
/// acknowledgement of the one before. Messages are read and written with [`framed`](Self::framed).
///
/// What a signal interrupts is taken up again. How long the peer may take, [`Timeouts`] says; past it,
/// reads and writes fail with an error of the kind [`TimedOut`](io::ErrorKind::TimedOut).
///
/// When the server is told to stop, a read that waits for the next message gets the end of the stream, as
/// if the client had closed: one that begins after something was written in answer to what was read. What
/// has arrived by then is still read. A client that has not said anything yet, or is in the middle of a
/// message, is waited for, as far as the request can tell: bytes that a handler has taken to a buffer of its
/// own before it answered are part of no message any more. A handler that never answers asks
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
    pub(super) stream: S,
    client_address: Address,
    context: ServerContext,
    pub(super) clock: Clock,
    pub(super) reading: Reading,
    rbuf: ReadBuffer,
    pub(super) writing: Writing,
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
            clock: Clock::default(),
            reading: Reading::default(),
            rbuf: ReadBuffer::new(),
            writing: Writing::default(),
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
    ///
    /// The clocks ([`Timeouts`]) are the request's too. A raw read or write has of them what the socket's
    /// options can do (`SO_RCVTIMEO`, `SO_SNDTIMEO`, socket(7)): it waits at most for what was left when the
    /// request last set them, and fails with `EAGAIN`. Change them with
    /// [`set_timeouts`](Self::set_timeouts) only: the request relies on the options to be as it set them.
    pub fn get_ref(&self) -> &S {
        self.lent.store(true, Ordering::Relaxed);
        &self.stream
    }

    /// The raw stream, to change.
    pub fn get_mut(&mut self) -> &mut S {
        self.lent.store(true, Ordering::Relaxed);
        &mut self.stream
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
    /// next flush, at the latest when the handler ends. What a write that failed has left goes before whatever
    /// is written next; if nothing is, it is not tried again.
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
        let lender = Lender {
            in_message: |request: &&mut Self| request.context.in_message(),
            give_back: |request, unread, unsent, failed| {
                request.rbuf.put_back(unread);
                request.wbuf.gather(unsent, failed);
            },
        };
        Framed::lent(self, codec, lender)
    }

    /// The two directions apart, so that one can be read while the other is written, by one thread or
    /// by two ([`std::thread::scope`]). For streams that read and write through a shared reference, as
    /// sockets do. The request is lent to both: what else is wanted of it, such as
    /// [`client_address`](Self::client_address), is cloned before.
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
            clock,
            reading,
            rbuf,
            writing,
            wbuf,
            lent,
            ..
        } = self;
        let rfile = RFile {
            stream,
            context,
            clock,
            reading,
            buffer: rbuf,
        };
        let wfile = WFile {
            stream,
            context,
            clock,
            writing,
            buffer: wbuf,
            lent,
        };
        (rfile, wfile)
    }

    /// The reading direction: its buffer, and what that is filled from.
    fn reader(&mut self) -> (&mut ReadBuffer, impl Read) {
        let source = TimedReader {
            stream: &mut self.stream,
            clock: &self.clock,
            reading: &mut self.reading,
            set_option: S::set_stream_read_timeout,
        };
        let source = Watched {
            source,
            context: &self.context,
            end: |source: &TimedReader<'_, S, _>| end_reading(source.stream),
        };
        (&mut self.rbuf, source)
    }

    /// The writing direction: its buffer, and where that is sent to.
    fn writer(&mut self) -> (&mut WriteBuffer, impl Write) {
        let set_option = S::set_stream_write_timeout;
        let sink = TimedWriter::new(&mut self.stream, &self.clock, &mut self.writing, set_option);
        let context = &self.context;
        (&mut self.wbuf, Counted { sink, context })
    }
}

impl<S: Stream> Read for StreamRequest<S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = {
            let (buffer, mut source) = self.reader();
            buffer.read(&mut source, out)?
        };
        self.context.took(count);
        Ok(count)
    }
}

impl<S: Stream> BufRead for StreamRequest<S> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let (buffer, mut source) = self.reader();
        buffer.fill(&mut source)
    }

    fn consume(&mut self, count: usize) {
        self.rbuf.consume(count);
        self.context.took(count);
    }
}

/// Writes `text` with one write. By itself each of its parts would be a write, and be sent: the second would wait for
/// the acknowledgement of the first, which the peer delays (Nagle's algorithm).
pub(super) fn write_formatted(writer: &mut impl Write, text: fmt::Arguments<'_>) -> io::Result<()> {
    if let Some(text) = text.as_str() {
        return writer.write_all(text.as_bytes());
    }
    let mut whole = Vec::new();
    whole.write_fmt(text)?;
    writer.write_all(&whole)
}

impl<S: Stream> Write for StreamRequest<S> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = {
            let (buffer, mut sink) = self.writer();
            buffer.write(&mut sink, data)?
        };
        self.context.answered();
        Ok(count)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let count = {
            let (buffer, mut sink) = self.writer();
            buffer.write_vectored(&mut sink, slices)?
        };
        self.context.answered();
        Ok(count)
    }

    fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        write_formatted(self, text)
    }

    fn flush(&mut self) -> io::Result<()> {
        let (buffer, mut sink) = self.writer();
        buffer.flush(&mut sink)
    }
}

impl<S: Stream> Request for StreamRequest<S> {
    fn client_address(&self) -> &Address {
        &self.client_address
    }

    fn attach(&mut self, context: ServerContext) {
        self.context = context;
    }

    fn begin(&mut self, timeouts: Timeouts) -> io::Result<()> {
        self.clock.begin();
        if timeouts == Timeouts::new() {
            return Ok(());
        }
        self.set_timeouts(timeouts)
    }

    fn setup_done(&mut self) {
        self.clock.setup_done();
    }

    /// What has just failed is not tried again: the request's end would wait for it.
    fn flush(&mut self) -> io::Result<()> {
        if self.wbuf.has_failed() {
            return Ok(());
        }
        Write::flush(self)
    }

    /// Closing ends the stream for the peer unless another handle to it is open: then this does.
    fn shutdown(&mut self) {
        if *self.lent.get_mut() || FORKED.load(Ordering::Relaxed) {
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

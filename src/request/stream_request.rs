//! A request that is a connection.

use std::fmt;
use std::io::{self, BufRead, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::buffer::{ReadBuffer, WriteBuffer};
use super::clock::{Clock, Reading, TimedReader, TimedWriter, Writing};
use super::forks::{end_for_others, others_may_have_it};
use super::linger::linger;
use super::watched::{Counted, Watched, end_reading};
use super::{RFile, Request, ServerContext, Stream, WFile};
use crate::address::Address;
use crate::framing::{Framed, Lender};
use crate::timeouts::Timeouts;

/// A connection to serve: Python's `request`, `rfile` and `wfile` in one.
///
/// It reads ([`Read`], [`BufRead`]) and writes ([`Write`]) the stream `S`. Reading is buffered only if
/// [`BufRead`]'s methods are used: the buffer is made then, and a handler that reads into memory of its
/// own pays for none. Writing sends at once unless [`set_wbufsize`](Self::set_wbufsize) says otherwise,
/// and always writes all: [`Write::write`] has no short writes, as Python's `wfile` has none (but
/// [`write_vectored`](Write::write_vectored) may have). What [`write!`] formats is
/// one write. An answer of several writes is sooner there with `set_wbufsize`: over TCP, each of them may wait for the
/// acknowledgement of the one before. Messages are read and written with [`framed`](Self::framed).
///
/// [`BufRead::read_line`] and [`Read::read_to_end`] take whatever a client sends, until memory has run out. A limit is
/// put before them, as in `(&mut *request).take(8192).read_line(&mut line)`; those of [`framed`](Self::framed) have
/// one.
///
/// What the client has sent and its handler has not read is read away at the end: closed with something unread, a TCP
/// connection would be reset (RFC 2525, 2.17), and what is left of a long answer lost; over a Unix socket the client
/// would read `ECONNRESET` behind it. The sending side ends first, so the client has all of its answer. If it sends
/// more than was read, the request lasts until it has closed or is silent for half a second, at most 30 seconds
/// (nginx's `lingering_time`) and the [`request`](Timeouts#structfield.request) time; a server that serves one at a
/// time serves nobody meanwhile. Not so if the handler had the [raw stream](Self::get_ref), but to [wrap](Self::wrap)
/// it: somebody else may have another handle to it and be reading.
///
/// For what has not arrived by then nobody waits. So a handler reads the request before it ends, also where the answer
/// is always the same: a client that sends only now finds the connection closed, over a Unix socket at once (`EPIPE`),
/// and while the answer is there to be read, some do not look any more: haproxy tells its client 502, and its log
/// `SH--`.
///
/// What a signal interrupts is taken up again. How long the peer may take, [`Timeouts`] says; past it,
/// reads and writes fail with an error of the kind [`TimedOut`](io::ErrorKind::TimedOut).
///
/// When the server is told to stop, a connection that is idle gets the end of the stream, as if its client had closed.
/// It is idle if its handler has written something since it last got bytes, and waits in a read for more, of which
/// nothing has arrived. A client that has not said anything yet, or is in the middle of a message, is waited for, also
/// if the handler, busy till now, begins to read that message only then. The request knows of reads and writes only:
/// the beginning of a message that a handler keeps in a buffer of its own, while it answers another, counts as answered
/// unless it [says so](ServerContext::message_begun), and so does a message whose rest the client sends only when asked
/// (HTTP's `100 Continue`, SMTP's `354`). What is written in [`setup`](crate::BaseRequestHandler::setup), as in a
/// handshake, answers nothing. A handler that does not answer, or
/// whose client need never say anything, says where a message [has ended](ServerContext::message_ended). One that
/// passes on what it reads and writes as it comes [does so through the raw streams](#a-proxy): nothing is idle then,
/// and a drain waits for it.
///
/// # A proxy
///
/// passes the end of each direction on and goes on with the other, and ends when nothing has come either way for a
/// while. First it takes back the clocks that raw streams cannot keep to: a direction that is silent while the other is
/// busy would fail with `EAGAIN`. That silence is also what bounds a drain that has run out of patience: it ends the
/// client's stream, which the other side is told but need not answer.
///
/// ```
/// use std::io::{self, ErrorKind, Read, Write};
/// use std::net::{Shutdown, TcpStream};
/// use std::sync::Mutex;
/// use std::thread;
/// use std::time::{Duration, Instant};
/// use socketserver::Timeouts;
/// use socketserver::prelude::*;
///
/// const SILENCE: Duration = Duration::from_secs(60);
///
/// fn pass_on(mut from: &TcpStream, mut to: &TcpStream, last: &Mutex<Instant>) -> io::Result<()> {
///     let mut buffer = [0; 16 * 1024];
///     loop {
///         match from.read(&mut buffer) {
///             Ok(0) => return to.shutdown(Shutdown::Write),
///             Ok(count) => {
///                 *last.lock().unwrap() = Instant::now();
///                 to.write_all(&buffer[..count])?;
///             }
///             Err(error) if error.kind() == ErrorKind::Interrupted => {}
///             // The other direction may have been busy.
///             Err(error) if error.kind() == ErrorKind::WouldBlock && last.lock().unwrap().elapsed() < SILENCE => {}
///             Err(error) => return Err(error),
///         }
///     }
/// }
///
/// fn relay(request: &mut TcpRequest, to: &Address) -> io::Result<()> {
///     request.set_timeouts(Timeouts::new())?;
///     let (client, server) = (request.get_ref(), TcpStream::connect(to.as_inet().expect("an Internet address"))?);
///     for stream in [client, &server] {
///         stream.set_nodelay(true)?;
///         stream.set_read_timeout(Some(SILENCE))?;
///         stream.set_write_timeout(Some(SILENCE))?;
///     }
///     let last = Mutex::new(Instant::now());
///     let one_way = |from, to| {
///         // What goes wrong in one direction ends both.
///         pass_on(from, to, &last).inspect_err(|_| {
///             let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
///         })
///     };
///     thread::scope(|scope| {
///         let there = scope.spawn(|| one_way(client, &server));
///         let back = one_way(&server, client);
///         there.join().expect("it does not panic").and(back)
///     })
/// }
///
/// # fn main() -> io::Result<()> {
/// // Answers when its client has said all.
/// let counting = |request: &mut TcpRequest| {
///     let count = io::copy(request, &mut io::sink())?;
///     write!(request, "{count} bytes")
/// };
/// let behind = ThreadingTcpServer::new("127.0.0.1:0", counting).spawn()?;
/// let to = behind.server_address().clone();
/// let running = ThreadingTcpServer::new("127.0.0.1:0", move |request: &mut TcpRequest| relay(request, &to)).spawn()?;
///
/// let mut client = TcpStream::connect(running.server_address().as_inet().unwrap())?;
/// client.write_all(&[0; 100_000])?;
/// client.shutdown(Shutdown::Write)?;
/// let mut text = String::new();
/// client.read_to_string(&mut text)?;
/// assert_eq!(text, "100000 bytes");
/// # assert_eq!(running.stop()?.failed, 0);
/// # Ok(())
/// # }
/// ```
///
/// # Python's names
///
/// | Python | Here |
/// |---|---|
/// | `self.request` | the value itself; the raw socket is [`get_ref`](Self::get_ref) |
/// | `self.client_address` | [`client_address`](Self::client_address), and to assign it [`set_client_address`](Self::set_client_address) |
/// | `self.server` | [`server`](Self::server) |
/// | `self.request.shutdown(SHUT_WR)` | [`WFile::shutdown`] of a half, or that of the raw socket, [`get_ref`](Self::get_ref) |
/// | `socket.recv_fds(self.request, …)` | [a stream around the socket](Stream#descriptors-that-come-with-bytes) |
/// | `self.rfile`, `self.wfile` | the value itself, or [`split`](Self::split) to have both at a time |
/// | `timeout`, `disable_nagle_algorithm`, `rbufsize`, `wbufsize` | [`set_timeout`](Self::set_timeout), [`disable_nagle_algorithm`](Self::disable_nagle_algorithm), [`set_rbufsize`](Self::set_rbufsize), [`set_wbufsize`](Self::set_wbufsize), called in `setup` |
// In the order of use: of a thousand connections none finds its memory in the cache when a message comes.
#[repr(C)]
pub struct StreamRequest<S> {
    pub(super) stream: S,
    /// The handler had the raw stream and may have another handle to it by now.
    lent: AtomicBool,
    /// Nobody will read what the peer sends from now on.
    is_over: bool,
    context: ServerContext,
    rbuf: ReadBuffer,
    wbuf: WriteBuffer,
    pub(super) reading: Reading,
    pub(super) writing: Writing,
    pub(super) clock: Clock,
    client_address: Address,
    /// Shared with the requests of streams around this one's, as long as there are any.
    around: OnceLock<Arc<()>>,
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
            is_over: false,
            around: OnceLock::new(),
        }
    }

    /// A request of a stream around this one's (TLS), for a handler within, to be run with
    /// [`run_handler`](crate::run_handler): it has the same client, server and clocks. Those of the request and of the
    /// handshake run from where they began. [`Stream`] has an example.
    ///
    /// The raw stream counts as taken for it. When the wrapped request is dropped before the handler of this one ends,
    /// and the raw stream was not taken again since, nobody has it any more: what the client has sent and nobody read
    /// is [read away](StreamRequest) as ever.
    ///
    /// # Errors
    ///
    /// Those of setting the clocks of `stream`.
    pub fn wrap<T: Stream>(&self, stream: T) -> io::Result<StreamRequest<T>> {
        let mut wrapped = StreamRequest::new(stream, self.client_address.clone());
        wrapped.context = self.context.clone();
        wrapped.clock = self.clock.for_wrapped();
        wrapped.set_timeouts(self.timeouts())?;
        // Around that stream may be another in its turn, which may be what is left.
        wrapped.around = Arc::clone(self.around.get_or_init(Arc::default)).into();
        // Who has the socket now is known.
        self.lent.store(false, Ordering::Relaxed);
        Ok(wrapped)
    }

    /// Whose connection it is. To write it to that connection, clone it before.
    pub fn client_address(&self) -> &Address {
        &self.client_address
    }

    /// Says whose connection it is, where that is not who has connected but whom a proxy speaks for. From now on it is
    /// the address in errors, in the list of connections, and in what observers hear. The limits by address have been
    /// asked before, about who has connected. (The parent of a forked child that does this does not hear of it.)
    ///
    /// A handler around any other, behind a proxy that sends the PROXY protocol's header (haproxy's `send-proxy`):
    ///
    /// ```
    /// use std::io::{self, BufRead, Read};
    /// use std::net::IpAddr;
    /// use socketserver::prelude::*;
    ///
    /// #[derive(Clone)]
    /// struct Proxied<H>(H);
    ///
    /// impl<H: BaseRequestHandler<TcpRequest>> BaseRequestHandler<TcpRequest> for Proxied<H> {
    ///     fn setup(&mut self, request: &mut TcpRequest) -> HandlerResult {
    ///         let mut header = String::new();
    ///         // No longer one is valid.
    ///         Read::by_ref(request).take(107).read_line(&mut header)?;
    ///         match header.trim_end().split(' ').collect::<Vec<_>>()[..] {
    ///             ["PROXY", "TCP4" | "TCP6", client, _, port, _] => {
    ///                 request.set_client_address((client.parse::<IpAddr>()?, port.parse()?));
    ///             }
    ///             // The proxy's own, to see whether the server is well.
    ///             ["PROXY", "UNKNOWN", ..] => {}
    ///             _ => return Err(format!("no header of a proxy: {header:?}").into()),
    ///         }
    ///         self.0.setup(request)
    ///     }
    ///
    ///     fn handle(&mut self, request: &mut TcpRequest) -> HandlerResult {
    ///         self.0.handle(request)
    ///     }
    ///
    ///     fn finish(&mut self, request: &mut TcpRequest) -> HandlerResult {
    ///         self.0.finish(request)
    ///     }
    /// }
    ///
    /// # use std::io::Write;
    /// # fn main() -> io::Result<()> {
    /// let hello = |request: &mut TcpRequest| {
    ///     let client_address = request.client_address().clone();
    ///     write!(request, "hello {client_address}")
    /// };
    /// let running = ThreadingTcpServer::new("127.0.0.1:0", Proxied(hello)).spawn()?;
    /// # let mut proxy = std::net::TcpStream::connect(running.server_address().as_inet().unwrap())?;
    /// # proxy.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n")?;
    /// # let mut text = String::new();
    /// # proxy.read_to_string(&mut text)?;
    /// # assert_eq!(text, "hello 192.0.2.7:56324");
    /// # running.stop()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_client_address(&mut self, client_address: impl Into<Address>) {
        self.client_address = client_address.into();
        self.context.set_client_address(self.client_address.clone());
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
    ///
    /// A command that has the connection as its input and output, as under inetd(8), knows nothing of clocks and takes
    /// `EAGAIN` for an error, so they are taken back before. A drain waits for the handler, which waits for the
    /// command; at its deadline the socket is shut down, and the command reads the end of the stream.
    /// ([`Forking`](crate::Forking) ends the handler's process instead, and leaves the command.)
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::net::{Shutdown, TcpStream};
    /// use std::os::fd::OwnedFd;
    /// use std::process::Command;
    /// use socketserver::Timeouts;
    /// use socketserver::prelude::*;
    ///
    /// fn sort(request: &mut TcpRequest) -> HandlerResult {
    ///     request.set_timeouts(Timeouts::new())?;
    ///     let [input, output] = [request.get_ref().try_clone()?, request.get_ref().try_clone()?].map(OwnedFd::from);
    ///     let status = Command::new("sort").stdin(input).stdout(output).status()?;
    ///     if status.success() { Ok(()) } else { Err(format!("sort: {status}").into()) }
    /// }
    ///
    /// let running = ThreadingTcpServer::new("127.0.0.1:0", sort).spawn()?;
    /// let mut client = TcpStream::connect(running.server_address().as_inet().unwrap())?;
    /// client.write_all(b"two\none\n")?;
    /// client.shutdown(Shutdown::Write)?;
    /// let mut text = String::new();
    /// client.read_to_string(&mut text)?;
    /// assert_eq!(text, "one\ntwo\n");
    /// # running.stop()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn get_ref(&self) -> &S {
        self.lent.store(true, Ordering::Relaxed);
        &self.stream
    }

    /// The raw stream, to change. Not to be replaced by one with another descriptor, nor the whole request: the server
    /// knows its connections by their descriptors, and where this one was closed it would, to end the connection (at
    /// the drain deadline, in [`close_connection`](crate::ServerHandle::close_connection)), shut down whatever has its
    /// number by then. To read and write through something else, make
    /// [a request of it](Stream#a-stream-around-another).
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

    /// Sets how many bytes a buffered read asks for: 8,192 by default, at least 1. If memory has no room for so many,
    /// the read fails with an error of the kind [`OutOfMemory`](io::ErrorKind::OutOfMemory). Of more than 64 KiB memory
    /// is used, and asked for, only as far as so much comes: up to twice what the last read has brought.
    pub fn set_rbufsize(&mut self, bytes: usize) {
        self.rbuf.set_size(bytes);
    }

    /// Gathers writes until they would be more than `bytes` bytes together, `flush` is called, or the handler ends; one
    /// of so many by itself is sent at once, behind them. 0, the default: each write is sent at once.
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
            set_in_message: |request: &&mut Self, in_message| request.context.set_in_message(in_message),
            limit_message: |request, limit| {
                let set_option = |timeout| request.stream.set_stream_read_timeout(timeout);
                request.reading.limit_message(limit, &request.clock, set_option);
            },
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
    /// [`client_address`](Self::client_address), is cloned before. (In a function over any stream two threads want
    /// `S: Sync`. Of a request that is owned, as in a unit test, [`BufRead::split`] is found first, where that trait is
    /// imported: `(&mut request).split()`.)
    ///
    /// What one thread writes while the other waits in a read counts as the answer to what has come, whatever it is: a
    /// drain takes the connection for idle then. Only [`RFile::framed`] knows that its message has come in part and
    /// waits for the rest.
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
        let rfile = RFile {
            stream: &self.stream,
            context: &self.context,
            clock: &self.clock,
            reading: &mut self.reading,
            buffer: &mut self.rbuf,
        };
        let wfile = WFile {
            stream: &self.stream,
            context: &self.context,
            clock: &self.clock,
            writing: &mut self.writing,
            buffer: &mut self.wbuf,
            lent: &self.lent,
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
            end: |source: &TimedReader<'_, S, _>, context| end_reading(source.stream, context),
        };
        (&mut self.rbuf, source)
    }

    /// Something was written. Nobody reads meanwhile: what comes of it, the next read sees.
    fn answered(&self) {
        self.context.answered(self.clock.is_in_setup());
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
        self.answered();
        Ok(count)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let count = {
            let (buffer, mut sink) = self.writer();
            buffer.write_vectored(&mut sink, slices)?
        };
        self.answered();
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

    /// What is set by now holds: a hook of the program's has done so for this one.
    fn begin(&mut self, timeouts: Timeouts) -> io::Result<()> {
        self.clock.begin();
        if timeouts == Timeouts::new() {
            return Ok(());
        }
        self.set_timeouts(self.timeouts().or(timeouts))
    }

    fn begin_by_hand(&mut self) {
        self.clock.begin_by_hand();
    }

    fn setup_done(&mut self) {
        self.clock.setup_done();
        self.reading
            .end_handshake(&self.clock, |timeout| self.stream.set_stream_read_timeout(timeout));
        self.writing
            .end_handshake(&self.clock, |timeout| self.stream.set_stream_write_timeout(timeout));
    }

    /// What has just failed is not tried again: the request's end would wait for it.
    fn flush_wfile(&mut self) -> io::Result<()> {
        if self.wbuf.has_failed() {
            return Ok(());
        }
        self.flush()
    }

    /// Closing ends the stream for the peer, too, unless something that it has sent is unread, with which closing is a
    /// reset, or another handle to it is open. Then this does.
    fn shutdown(&mut self) {
        let is_around = |around: &Arc<()>| Arc::strong_count(around) > 1;
        let lent = *self.lent.get_mut() || self.around.get().is_some_and(is_around);
        // What a drain has ended is no end of the client's.
        let has_ended = self.reading.has_ended() && !self.context.is_draining();
        self.is_over = !lent && !has_ended;
        if !has_ended || lent || others_may_have_it() {
            // The peer may be gone already (ENOTCONN).
            let _ = self.stream.shutdown_stream(Shutdown::Write);
        }
    }

    fn linger(&mut self) {
        if let (true, Some(socket)) = (self.is_over, self.stream.fileno()) {
            linger(socket, self.clock.deadline());
            // A child of the server's has it to itself: its parent has closed it.
            if !self.context.in_child() {
                end_for_others(socket);
            }
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

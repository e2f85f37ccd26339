//! How long a peer may take: the clocks of a connection, as a server's option and as a handler's wrapper.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use crate::error::{HandlerResult, invalid_input};
use crate::handler::BaseRequestHandler;
use crate::request::{Stream, StreamRequest};

/// The clocks of a connection. Each is off unless it is set.
///
/// | Clock | Runs | Ends |
/// |---|---|---|
/// | [`idle`](Self::idle) | while reads wait, over as many of them as it takes; a byte from the peer starts it again | peers that have gone without a word |
/// | [`read`](Self::read) | while one read waits | one read; the next has its full time again |
/// | [`write`](Self::write) | from the beginning of one write until the peer's side has taken all of it | peers that stop reading, or read a byte at a time |
/// | [`request`](Self::request) | from the start of `setup`, whatever happens | peers that send a byte now and then for ever (slow-loris) |
/// | [`handshake`](Self::handshake) | from the start of `setup` until that has returned and the first byte has come | peers that connect and say nothing, or never end a TLS handshake or a PROXY header |
///
/// When one has run out, the read or write that was waiting fails with an error of the kind
/// [`TimedOut`](io::ErrorKind::TimedOut) that says which ([`TimeoutError`]); the handler usually passes
/// it on, and the connection is closed. Time that the handler spends by itself counts for `request` and
/// `handshake` only. All of them are monotonic: setting the system's clock changes nothing.
///
/// A client that vanishes without a word (no power, no link, a firewall that has forgotten it) looks like a silent one:
/// `idle` or `read` ends its connection. So does `write`, but what the socket's buffer has room for counts as taken.
/// Without a clock the connection stays, unless the kernel is told to ask whether the client is there (`SO_KEEPALIVE`)
/// or to give up what is not acknowledged (`TCP_USER_TIMEOUT`, tcp(7)). Connections have these options from their
/// listener: [`before_bind`](crate::Configure::before_bind) sets them for all. Reads and writes fail with `ETIMEDOUT`
/// then, which is of the kind [`TimedOut`](io::ErrorKind::TimedOut), too, but no [`TimeoutError`].
///
/// They are set for all connections of a server ([`Configure::idle_timeout`](crate::Configure::idle_timeout)
/// and the others), for a handler ([`Timeout`]), or by a handler itself
/// ([`StreamRequest::set_timeouts`]). Servers on the open Internet do well with a `handshake` of 5 s, an
/// `idle` of 60 s and a `write` of 30 s.
///
/// ```
/// use std::time::Duration;
/// use socketserver::Timeouts;
///
/// let timeouts = Timeouts::new().idle(Duration::from_secs(60)).write(Duration::from_secs(30));
/// assert_eq!(timeouts.request, None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// How long the peer may send nothing while it is waited for.
    pub idle: Option<Duration>,
    /// How long one read may wait.
    pub read: Option<Duration>,
    /// How long one write may take in all. A write is a call of [`write`](io::Write::write),
    /// [`write_all`](io::Write::write_all) or [`flush`](io::Write::flush): each sends all that it has to.
    ///
    /// It is the one clock of datagrams, too: how long a [reply](crate::DatagramRequest::reply) waits for a Unix client
    /// that does not read, to within a few tenths of a second. Those that are [held back](crate::Replies) wait
    /// together, and what does not find room then is logged as lost.
    pub write: Option<Duration>,
    /// How long the whole request may take, reads and writes included.
    pub request: Option<Duration>,
    /// How long the peer may take to say something first, and the handler to set the connection up.
    pub handshake: Option<Duration>,
}

impl Timeouts {
    /// No limits.
    pub const fn new() -> Self {
        Timeouts {
            idle: None,
            read: None,
            write: None,
            request: None,
            handshake: None,
        }
    }

    /// Sets [`idle`](Self#structfield.idle).
    #[must_use]
    pub const fn idle(mut self, timeout: Duration) -> Self {
        self.idle = Some(timeout);
        self
    }

    /// Sets [`read`](Self#structfield.read).
    #[must_use]
    pub const fn read(mut self, timeout: Duration) -> Self {
        self.read = Some(timeout);
        self
    }

    /// Sets [`write`](Self#structfield.write).
    #[must_use]
    pub const fn write(mut self, timeout: Duration) -> Self {
        self.write = Some(timeout);
        self
    }

    /// Sets [`request`](Self#structfield.request).
    #[must_use]
    pub const fn request(mut self, timeout: Duration) -> Self {
        self.request = Some(timeout);
        self
    }

    /// Sets [`handshake`](Self#structfield.handshake).
    #[must_use]
    pub const fn handshake(mut self, timeout: Duration) -> Self {
        self.handshake = Some(timeout);
        self
    }

    /// These, and where one is not set, that of `others`. [`Duration::MAX`] is for ever: it takes a limit
    /// of the others away.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Timeouts {
            idle: self.idle.or(others.idle),
            read: self.read.or(others.read),
            write: self.write.or(others.write),
            request: self.request.or(others.request),
            handshake: self.handshake.or(others.handshake),
        }
    }

    /// # Errors
    ///
    /// One of them is zero, which no peer could keep.
    pub(crate) fn check(&self) -> io::Result<()> {
        use TimeoutKind::{Handshake, Idle, Read, Request, Write};
        let named = [
            (Idle, self.idle),
            (Read, self.read),
            (Write, self.write),
            (Request, self.request),
            (Handshake, self.handshake),
        ];
        match named.into_iter().find(|(_, timeout)| *timeout == Some(Duration::ZERO)) {
            None => Ok(()),
            Some((kind, _)) => Err(invalid_input(format!(
                "the {kind} timeout is zero, which would end every request at once; set none for no limit"
            ))),
        }
    }
}

/// Which of the clocks, most of them those of [`Timeouts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TimeoutKind {
    /// The peer sent nothing.
    Idle,
    /// One read waited too long.
    Read,
    /// One write took too long.
    Write,
    /// The whole request took too long.
    Request,
    /// The first byte or the set-up took too long.
    Handshake,
    /// No clock of these: a message took too long
    /// ([`Framed::set_message_timeout`](crate::framing::Framed::set_message_timeout)).
    Message,
}

impl fmt::Display for TimeoutKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TimeoutKind::Idle => "idle",
            TimeoutKind::Read => "read",
            TimeoutKind::Write => "write",
            TimeoutKind::Request => "request",
            TimeoutKind::Handshake => "handshake",
            TimeoutKind::Message => "message",
        })
    }
}

/// A clock that has run out, as it is found in an [`io::Error`] of the kind
/// [`TimedOut`](io::ErrorKind::TimedOut) ([`get_ref`](io::Error::get_ref)) and by
/// [`RequestError::timeout`](crate::RequestError::timeout).
///
/// ```
/// use std::io::Read;
/// use std::os::unix::net::UnixStream;
/// use std::time::Duration;
/// use socketserver::{StreamRequest, TimeoutError, TimeoutKind, Timeouts};
///
/// let (silent, stream) = UnixStream::pair()?;
/// let mut request = StreamRequest::new(stream, "a client");
/// request.set_timeouts(Timeouts::new().idle(Duration::from_millis(10)))?;
/// let error = request.read(&mut [0]).unwrap_err();
/// assert_eq!(error.to_string(), "idle: the peer sent nothing for 0.01 s");
/// let timeout: &TimeoutError = error.get_ref().unwrap().downcast_ref().unwrap();
/// assert_eq!(timeout.kind(), TimeoutKind::Idle);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutError {
    kind: TimeoutKind,
    length: Duration,
}

impl TimeoutError {
    pub(crate) fn new(kind: TimeoutKind, length: Duration) -> Self {
        TimeoutError { kind, length }
    }

    /// What there is to say of what lasts since then, if that is too long.
    pub(crate) fn since(begun: Instant, kind: TimeoutKind, length: Duration) -> Option<Self> {
        (begun.elapsed() >= length).then(|| TimeoutError::new(kind, length))
    }

    /// Which clock ran out.
    pub fn kind(&self) -> TimeoutKind {
        self.kind
    }

    /// How long it was set to.
    pub fn length(&self) -> Duration {
        self.length
    }
}

impl fmt::Display for TimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            TimeoutKind::Idle | TimeoutKind::Read => "the peer sent nothing for",
            TimeoutKind::Write => "the peer did not take all of it within",
            TimeoutKind::Request | TimeoutKind::Handshake => "not done within",
            TimeoutKind::Message => "not complete within",
        };
        write!(f, "{}: {what} {} s", self.kind, self.length.as_secs_f64())
    }
}

impl Error for TimeoutError {}

impl From<TimeoutError> for io::Error {
    fn from(error: TimeoutError) -> Self {
        io::Error::new(io::ErrorKind::TimedOut, error)
    }
}

/// A handler with clocks of its own: those that are set here hold instead of the server's, the server's
/// others stay.
///
/// ```
/// use std::io::Write;
/// use std::time::Duration;
/// use socketserver::prelude::*;
/// use socketserver::{Timeout, Timeouts};
///
/// let greet = |request: &mut TcpRequest| request.write_all(b"hello\n");
/// let impatient = Timeout::over(greet, Timeouts::new().request(Duration::from_secs(10)));
/// let server = ThreadingTcpServer::new("127.0.0.1:0", impatient).idle_timeout(Duration::from_secs(60));
/// ```
#[derive(Clone, Debug)]
pub struct Timeout<H> {
    handler: H,
    timeouts: Timeouts,
}

impl<H> Timeout<H> {
    /// Gives `handler` these clocks.
    pub fn over(handler: H, timeouts: Timeouts) -> Self {
        Timeout { handler, timeouts }
    }
}

impl<S: Stream, H: BaseRequestHandler<StreamRequest<S>>> BaseRequestHandler<StreamRequest<S>> for Timeout<H> {
    fn setup(&mut self, request: &mut StreamRequest<S>) -> HandlerResult {
        request.set_timeouts(self.timeouts.or(request.timeouts()))?;
        self.handler.setup(request)
    }

    fn handle(&mut self, request: &mut StreamRequest<S>) -> HandlerResult {
        self.handler.handle(request)
    }

    fn finish(&mut self, request: &mut StreamRequest<S>) -> HandlerResult {
        self.handler.finish(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_clock_and_its_length() {
        let text = |kind, millis| TimeoutError::new(kind, Duration::from_millis(millis)).to_string();
        assert_eq!(text(TimeoutKind::Idle, 60_000), "idle: the peer sent nothing for 60 s");
        assert_eq!(
            text(TimeoutKind::Write, 1500),
            "write: the peer did not take all of it within 1.5 s"
        );
        assert_eq!(text(TimeoutKind::Request, 20), "request: not done within 0.02 s");
    }

    #[test]
    fn zero_is_refused_by_name() {
        let error = Timeouts::new().write(Duration::ZERO).check().unwrap_err();
        assert!(error.to_string().starts_with("the write timeout is zero"), "{error}");
        Timeouts::new().read(Duration::MAX).check().unwrap();
    }
}

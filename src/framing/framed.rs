//! A stream and a codec: messages in, messages out.

use std::fmt;
use std::hint::cold_path;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::mem;
use std::time::{Duration, Instant};

use super::buffer::Buffer;
use super::{DecodeError, Decoded, Decoder, EncodeError, Encoder, Frame};
use crate::timeouts::{TimeoutError, TimeoutKind};

/// Up to this many bytes are put together for one write. Copying so few costs less than a system call, and
/// a stream that cannot gather (writev(2)) then gets header and message in one piece, too: in two, Nagle's
/// algorithm would hold the second back until the first is acknowledged.
const WRITE_BUFFER: usize = 8 * 1024;

/// Messages over a stream: what the codec `C` makes of the bytes of `S`.
///
/// Reading needs `S: Read` and a [`Decoder`], writing `S: Write` and an [`Encoder`]. In a handler
/// [`request.framed(codec)`](crate::StreamRequest::framed) makes one; on a client, or over anything else,
/// [`Framed::new`] does. A reference to a stream is a stream: with two `Framed` over the same `&TcpStream`,
/// or [of the halves](crate::RFile::framed) of a request, one thread can read while another writes.
///
/// It is an iterator over owned messages; [`next_ref`](Self::next_ref) lends them instead.
///
/// # When something goes wrong
///
/// * **Nothing is lost to a timeout.** When a read fails (a timeout, `WouldBlock`), what has arrived of a
///   message is kept and the next call goes on from there. When a write fails half-way, the rest is kept and
///   [`flush`](Self::flush) goes on with it. What a signal interrupts is taken up again at once.
/// * **After a [`DecodeError`]**, or an end of the stream inside a message, nothing is known about where the
///   next message begins. The iterator ends; `next_ref` repeats that it is so. Close the connection.
/// * **A message that cannot be sent** is refused before anything of it is written; go on as you like.
///
/// ```
/// use socketserver::MemoryStream;
/// use socketserver::framing::{Framed, LinesCodec};
///
/// let mut framed = Framed::new(MemoryStream::new("hello\nworld\n\negon\n"), LinesCodec::new());
/// assert_eq!(framed.next_ref()?, Some(&b"hello"[..]));
/// let rest: Vec<Vec<u8>> = framed.by_ref().collect::<Result<_, _>>()?;
/// assert_eq!(rest, [&b"world"[..], b"", b"egon"]);
/// framed.send("bye")?;
/// assert_eq!(framed.get_ref().written(), b"bye\n");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Framed<S, C> {
    codec: C,
    io: Io<S>,
    out_of_step: bool,
    message_timeout: Option<Duration>,
    /// When the first byte of the message in progress was seen, if there is a timeout. The lender knows it, too.
    begun: Option<Instant>,
}

/// The stream with what was read ahead and what was not yet sent.
struct Io<S> {
    /// `None` once it was taken apart.
    stream: Option<S>,
    unread: Buffer,
    unsent: Vec<u8>,
    write_failed: bool,
    lender: Option<Lender<S>>,
}

/// Why the stream is there.
const IN_ONE_PIECE: &str = "only into_parts takes the stream, and the Framed with it";

/// What a request that lends its stream wants to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lender<S> {
    /// Whether what is read from now on is the rest of a message that has begun.
    pub(crate) set_in_message: fn(&S, bool),
    /// When that message has begun, and within what time of that it has to be complete; `None`: it is over.
    pub(crate) limit_message: fn(&mut S, Option<(Instant, Duration)>),
    /// Takes over what a dropped `Framed` has read ahead (first) and not yet sent (second); and whether sending
    /// that has failed.
    pub(crate) give_back: fn(&mut S, &[u8], Vec<u8>, bool),
}

/// What a [`Framed`] is made of, from [`Framed::into_parts`].
#[derive(Debug)]
#[non_exhaustive]
pub struct FramedParts<S, C> {
    /// The stream.
    pub io: S,
    /// The codec.
    pub codec: C,
    /// Bytes that have arrived and belong to no message that was returned: to be used before anything
    /// else is read from the stream.
    pub read_buf: Vec<u8>,
    /// Bytes of messages that were not yet sent.
    pub write_buf: Vec<u8>,
}

impl<S, C> Framed<S, C> {
    /// Messages over `stream`. Nothing is allocated before the first read or write.
    ///
    /// Reading takes from the stream whatever is there, so bytes behind a message may be in the `Framed`
    /// and not in the stream any more; [`into_parts`](Self::into_parts) returns them.
    pub fn new(stream: S, codec: C) -> Self {
        Self::assemble(stream, codec, None)
    }

    /// As [`new`](Self::new), over a stream that can take back what was read ahead or not sent when the
    /// `Framed` is dropped.
    pub(crate) fn lent(stream: S, codec: C, lender: Lender<S>) -> Self {
        Self::assemble(stream, codec, Some(lender))
    }

    fn assemble(stream: S, codec: C, lender: Option<Lender<S>>) -> Self {
        Framed {
            codec,
            io: Io {
                stream: Some(stream),
                unread: Buffer::default(),
                unsent: Vec::new(),
                write_failed: false,
                lender,
            },
            out_of_step: false,
            message_timeout: None,
            begun: None,
        }
    }

    /// The stream.
    pub fn get_ref(&self) -> &S {
        self.io.stream()
    }

    /// The stream, to change. Bytes read from it here are missing from the messages.
    pub fn get_mut(&mut self) -> &mut S {
        self.io.stream_mut()
    }

    /// The codec.
    pub fn codec(&self) -> &C {
        &self.codec
    }

    /// The codec, to change.
    pub fn codec_mut(&mut self) -> &mut C {
        self.end_message();
        &mut self.codec
    }

    /// The same stream with another codec, from the next message on: for protocols that begin in lines and
    /// go on with lengths. What was read ahead is kept.
    pub fn map_codec<D>(mut self, map: impl FnOnce(C) -> D) -> Framed<S, D> {
        self.end_message();
        Framed {
            codec: map(self.codec),
            io: self.io,
            out_of_step: self.out_of_step,
            message_timeout: self.message_timeout,
            begun: None,
        }
    }

    /// Takes it apart. What was read ahead or not yet sent is in the parts.
    pub fn into_parts(mut self) -> FramedParts<S, C> {
        self.end_message();
        FramedParts {
            io: self.io.take_stream(),
            codec: self.codec,
            read_buf: self.io.unread.take_all(),
            write_buf: mem::take(&mut self.io.unsent),
        }
    }

    /// Limits how long one message may take from its first byte to its last; `None`, the default: for ever. How long
    /// nothing comes between two messages does not matter.
    ///
    /// It ends a peer that stops in the middle of a message, and one that sends a byte now and then to keep the timeout of
    /// each read from running out. Past it, reading fails with a [`TimeoutError`] of the kind
    /// [`Message`](TimeoutKind::Message).
    ///
    /// For a request's messages ([`StreamRequest::framed`](crate::StreamRequest::framed),
    /// [`RFile::framed`](crate::RFile::framed)) it ends a read that waits. Over other streams it is looked at between reads,
    /// so a peer that falls silent is noticed only if the stream has a timeout, too, such as
    /// [`TcpStream::set_read_timeout`](std::net::TcpStream::set_read_timeout).
    ///
    /// ```
    /// use std::time::Duration;
    /// use socketserver::framing::LengthDelimitedCodec;
    /// use socketserver::prelude::*;
    ///
    /// fn echo(request: &mut TcpRequest) -> HandlerResult {
    ///     let mut messages = request.framed(LengthDelimitedCodec::u32_be());
    ///     messages.set_message_timeout(Duration::from_secs(10));
    ///     while let Some(message) = messages.next().transpose()? {
    ///         messages.send(message)?;
    ///     }
    ///     Ok(())
    /// }
    /// let server = ThreadingTcpServer::new("127.0.0.1:0", echo);
    /// ```
    pub fn set_message_timeout(&mut self, timeout: impl Into<Option<Duration>>) {
        self.end_message();
        self.message_timeout = timeout.into();
    }

    /// The message in progress is complete, or has all its time again: to another codec it is another.
    fn end_message(&mut self) {
        if self.begun.take().is_some() {
            self.io.limit_message(None);
        }
    }
}

impl<S: Read, C: Decoder> Framed<S, C> {
    /// The next message, lent out of the buffer it arrived in; `None` at the end of the stream. Nothing is
    /// allocated or copied but to make room for a message that is longer than any before. As long as it is lent,
    /// nothing can be sent: what is sent back as it is comes from [`next`](Iterator::next).
    ///
    /// # Errors
    ///
    /// Those of the read, after which it may be called again; a [`DecodeError`], or the codec's own error,
    /// after which it fails always; [`set_message_timeout`](Self::set_message_timeout)'s.
    ///
    /// # Panics
    ///
    /// If the codec returns a frame outside the bytes that it was given.
    #[inline]
    pub fn next_ref(&mut self) -> io::Result<Option<&[u8]>> {
        if self.out_of_step {
            return Err(DecodeError::OutOfStep.into());
        }
        self.advance(Buffer::take)
    }

    /// The next message, lent as by [`next_ref`](Self::next_ref), if all of it has arrived with what was read before; `None`
    /// if not. Reads nothing, so it never waits, and does not tell the end of the stream.
    ///
    /// A peer that sends the next request before it has the answer to the last (pipelining) gets the answers to what has
    /// come together with one write:
    ///
    /// ```
    /// use socketserver::framing::LinesCodec;
    /// use socketserver::prelude::*;
    ///
    /// fn shout(request: &mut TcpRequest) -> HandlerResult {
    ///     let mut lines = request.framed(LinesCodec::new());
    ///     while let Some(line) = lines.next_ref()? {
    ///         let mut answer = line.to_ascii_uppercase();
    ///         lines.feed(&answer)?;
    ///         while let Some(line) = lines.next_buffered()? {
    ///             answer = line.to_ascii_uppercase();
    ///             lines.feed(&answer)?;
    ///         }
    ///         lines.flush()?;
    ///     }
    ///     Ok(())
    /// }
    /// # let server = ThreadingTcpServer::new("127.0.0.1:0", shout);
    /// ```
    ///
    /// # Errors
    ///
    /// As [`next_ref`](Self::next_ref), but none of reading.
    ///
    /// # Panics
    ///
    /// As [`next_ref`](Self::next_ref).
    pub fn next_buffered(&mut self) -> io::Result<Option<&[u8]>> {
        if self.out_of_step {
            return Err(DecodeError::OutOfStep.into());
        }
        Ok(match self.decode()? {
            Decoded::Frame(frame) => Some(self.io.unread.take(&frame)),
            Decoded::Incomplete(_) => None,
        })
    }

    /// Takes the next message.
    #[inline]
    fn advance<'a, T>(&'a mut self, take: impl FnOnce(&'a mut Buffer, &Frame) -> T) -> io::Result<Option<T>> {
        match self.codec.decode(self.io.unread.arrived()) {
            // Most messages have arrived already: a way of its own, which meets no other before the message is taken.
            Ok(Decoded::Frame(frame)) => Ok(Some(take(&mut self.io.unread, &frame))),
            Ok(Decoded::Incomplete(missing)) => {
                cold_path();
                self.complete(missing, take)
            }
            Err(error) => Err(self.lose_step(error)),
        }
    }

    /// Reads until a whole message has arrived; `None` at the end of the stream.
    #[inline(never)]
    fn complete<'a, T>(
        &'a mut self,
        mut missing: usize,
        take: impl FnOnce(&'a mut Buffer, &Frame) -> T,
    ) -> io::Result<Option<T>> {
        loop {
            if self.receive(missing)? == 0 {
                self.end_message();
                let last = self.end()?;
                return Ok(last.map(|frame| take(&mut self.io.unread, &frame)));
            }
            match self.decode()? {
                Decoded::Frame(frame) => return Ok(Some(take(&mut self.io.unread, &frame))),
                Decoded::Incomplete(still) => missing = still,
            }
        }
    }

    /// What the codec makes of what has arrived.
    fn decode(&mut self) -> io::Result<Decoded> {
        let decoded = self.codec.decode(self.io.unread.arrived());
        let decoded = decoded.map_err(|error| self.lose_step(error))?;
        if let Decoded::Frame(_) = decoded {
            self.end_message();
        }
        Ok(decoded)
    }

    /// One read, unless the message in progress has taken too long.
    fn receive(&mut self, missing: usize) -> io::Result<usize> {
        match self.message_timeout {
            Some(timeout) if !self.io.unread.arrived().is_empty() => self.limit_message(timeout)?,
            _ => self.end_message(),
        }
        self.io.read(missing)
    }

    #[cold]
    fn limit_message(&mut self, timeout: Duration) -> io::Result<()> {
        let begun = *self.begun.get_or_insert_with(|| {
            let now = Instant::now();
            self.io.limit_message(Some((now, timeout)));
            now
        });
        TimeoutError::since(begun, TimeoutKind::Message, timeout).map_or(Ok(()), |over| Err(over.into()))
    }

    /// The stream has ended.
    #[cold]
    fn end(&mut self) -> io::Result<Option<Frame>> {
        let last = self.codec.decode_eof(self.io.unread.arrived());
        last.map_err(|error| self.lose_step(error))
    }

    #[cold]
    fn lose_step(&mut self, error: io::Error) -> io::Error {
        self.out_of_step = true;
        error
    }
}

/// The messages, each in memory of its own; ends with the stream. An error of the read (a timeout, a reset) does not
/// end it: the next call reads again. Whoever goes on after any of them goes on for ever when the stream keeps failing,
/// as past [`set_message_timeout`](Framed::set_message_timeout). After any other error the next is `None`.
impl<S: Read, C: Decoder> Iterator for Framed<S, C> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.out_of_step {
            return None;
        }
        // In two steps: a vector that comes out of `advance` goes through memory twice, which costs more than the
        // copy of a small message.
        let frame = self.advance(|_, frame| frame.clone()).transpose()?;
        Some(frame.map(|frame| self.io.unread.keep(&frame)))
    }
}

impl<S: Write, C: Encoder> Framed<S, C> {
    /// Sends a message, after those that were [fed](Self::feed): one write for all of them, header and all,
    /// if the stream takes as much at a time.
    ///
    /// # Errors
    ///
    /// An [`EncodeError`](super::EncodeError), or the codec's own error: nothing of the message was written.
    /// Those of the write: what was not written is kept, and [`flush`](Self::flush) goes on with it. Until
    /// that has succeeded, further messages are refused.
    pub fn send(&mut self, message: impl AsRef<[u8]>) -> io::Result<()> {
        self.feed(message)?;
        self.flush()
    }

    /// Sends a message with the next [`flush`](Self::flush), or when 8 KiB are gathered: many small messages
    /// go out in one write. [`next_buffered`](Self::next_buffered) says when it is time for one.
    ///
    /// What is fed and not flushed when the `Framed` is dropped is not sent. Only one that
    /// [`request.framed`](crate::StreamRequest::framed), or [that of a half](crate::WFile::framed), made gives it to the
    /// request, which sends it later.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn feed(&mut self, message: impl AsRef<[u8]>) -> io::Result<()> {
        if self.io.write_failed {
            return Err(EncodeError::Unflushed.into());
        }
        let message = message.as_ref();
        match self.append(message)? {
            None => Ok(()),
            Some(header_end) => self.io.write_around(header_end, message),
        }
    }

    /// Appends header, message and trailer to what is gathered. A big message is left out: then this returns
    /// where it belongs.
    fn append(&mut self, message: &[u8]) -> io::Result<Option<usize>> {
        let mut whole = WholeOnly {
            kept: self.io.unsent.len(),
            gathered: &mut self.io.unsent,
        };
        self.codec.encode_header(message, whole.gathered)?;
        let header_end = whole.gathered.len();
        let is_big = header_end + message.len() > WRITE_BUFFER;
        if !is_big {
            whole.gathered.extend_from_slice(message);
        }
        self.codec.encode_trailer(message, whole.gathered)?;
        whole.kept = whole.gathered.len();
        Ok(is_big.then_some(header_end))
    }
}

/// Cuts off what was begun of a message that a codec refuses, or panics at: the request would send it at its end.
struct WholeOnly<'a> {
    gathered: &'a mut Vec<u8>,
    /// So many bytes are of whole messages.
    kept: usize,
}

impl Drop for WholeOnly<'_> {
    fn drop(&mut self) {
        self.gathered.truncate(self.kept);
    }
}

impl<S: Write, C> Framed<S, C> {
    /// Sends what was [fed](Self::feed), and what an earlier write that failed has left; flushes the stream.
    ///
    /// # Errors
    ///
    /// Those of the write: what was not written is kept.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.io.unsent.is_empty() {
            self.io.write_around(self.io.unsent.len(), &[])?;
        }
        self.get_mut().flush()
    }
}

impl<S> Io<S> {
    fn stream(&self) -> &S {
        self.stream.as_ref().expect(IN_ONE_PIECE)
    }

    fn stream_mut(&mut self) -> &mut S {
        self.stream.as_mut().expect(IN_ONE_PIECE)
    }

    fn take_stream(&mut self) -> S {
        self.stream.take().expect(IN_ONE_PIECE)
    }

    fn limit_message(&mut self, limit: Option<(Instant, Duration)>) {
        if let (Some(stream), Some(lender)) = (&mut self.stream, &self.lender) {
            (lender.limit_message)(stream, limit);
        }
    }
}

impl<S: Read> Io<S> {
    fn read(&mut self, missing: usize) -> io::Result<usize> {
        let stream = self.stream.as_mut().expect(IN_ONE_PIECE);
        let in_message = !self.unread.arrived().is_empty();
        let Some(lender) = self.lender.as_ref().filter(|_| in_message) else {
            return self.unread.read_from(stream, missing);
        };
        (lender.set_in_message)(stream, true);
        let read = self.unread.read_from(stream, missing);
        (lender.set_in_message)(stream, false);
        read
    }
}

impl<S: Write> Io<S> {
    /// Writes what is gathered, with `message` between what is before `at` and what is behind it; keeps what
    /// an error leaves.
    fn write_around(&mut self, at: usize, message: &[u8]) -> io::Result<()> {
        let stream = self.stream.as_mut().expect(IN_ONE_PIECE);
        let (before, behind) = self.unsent.split_at(at);
        let written = write_all(stream, &mut [before, message, behind].map(IoSlice::new));
        self.write_failed = written.is_err();
        written.map_err(|(error, rest)| {
            self.unsent = rest;
            error
        })?;
        self.unsent.clear();
        self.unsent.shrink_to(WRITE_BUFFER);
        Ok(())
    }
}

/// Writes all of the slices; an error comes with what was not written.
fn write_all(stream: &mut impl Write, mut slices: &mut [IoSlice<'_>]) -> Result<(), (io::Error, Vec<u8>)> {
    // Empty ones at the front would look like a stream that takes nothing.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let error = match stream.write_vectored(slices) {
            Ok(0) => ErrorKind::WriteZero.into(),
            Ok(written) => {
                IoSlice::advance_slices(&mut slices, written);
                continue;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => error,
        };
        let mut rest = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
        for slice in slices.iter() {
            rest.extend_from_slice(slice);
        }
        return Err((error, rest));
    }
    Ok(())
}

impl<S> Drop for Io<S> {
    fn drop(&mut self) {
        self.limit_message(None);
        if let (Some(stream), Some(lender)) = (&mut self.stream, &self.lender) {
            let unsent = mem::take(&mut self.unsent);
            (lender.give_back)(stream, self.unread.arrived(), unsent, self.write_failed);
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Io<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Io")
            .field("stream", &self.stream)
            .field("unread", &self.unread)
            .field("unsent", &self.unsent.len())
            .finish_non_exhaustive()
    }
}

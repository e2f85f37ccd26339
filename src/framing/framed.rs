//! A stream and a codec: messages in, messages out.

use std::hint::cold_path;
use std::io::{self, Read, Write};
use std::mem;
use std::time::{Duration, Instant};

use super::buffer::Buffer;
use super::buffered::{Buffered, Lender, WRITE_BUFFER};
use super::{DecodeError, Decoded, Decoder, EncodeError, Encoder, Frame};
use crate::timeouts::{TimeoutError, TimeoutKind};

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
    io: Buffered<S>,
    out_of_step: bool,
    message_timeout: Option<Duration>,
    /// When the first byte of the message in progress was seen, if there is a timeout. The lender knows it, too.
    begun: Option<Instant>,
}

/// What a [`Framed`] is made of, from [`Framed::into_parts`].
#[derive(Debug)]
#[non_exhaustive]
pub struct FramedParts<S, C> {
    /// The stream.
    pub io: S,
    /// The codec. It may be in the middle of the message that `read_buf` begins with: another stream wants a new one.
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
        Self::over(Buffered::new(stream, None), codec)
    }

    /// As [`new`](Self::new), over a stream that can take back what was read ahead or not sent when the
    /// `Framed` is dropped.
    pub(crate) fn lent(stream: S, codec: C, lender: Lender<S>) -> Self {
        Self::over(Buffered::new(stream, Some(lender)), codec)
    }

    fn over(io: Buffered<S>, codec: C) -> Self {
        Framed {
            codec,
            io,
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
    /// It ends a peer that stops in the middle of a message, and one that sends a byte now and then to keep the timeout
    /// of each read from running out. Past it, reading fails with a [`TimeoutError`] of the kind
    /// [`Message`](TimeoutKind::Message).
    ///
    /// For a request's messages ([`StreamRequest::framed`](crate::StreamRequest::framed),
    /// [`RFile::framed`](crate::RFile::framed)) it ends a read that waits. Over other streams it is looked at between
    /// reads, so a peer that falls silent is noticed only if the stream has a timeout, too, such as
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

    /// The next message, lent as by [`next_ref`](Self::next_ref), if all of it has arrived with what was read before;
    /// `None` if not. Reads nothing, so it never waits, and does not tell the end of the stream.
    ///
    /// A peer that sends the next request before it has the answer to the last (pipelining) gets the answers to what
    /// has come together with one write:
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
        if self.io.is_lent() {
            // A request looks itself, before it waits, and allows for a time in which the process was stopped.
            return Ok(());
        }
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
    /// [`request.framed`](crate::StreamRequest::framed), or [that of a half](crate::WFile::framed), made gives it to
    /// the request, which sends it later.
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

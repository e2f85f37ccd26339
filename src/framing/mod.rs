//! Messages over streams: codecs, and [`Framed`], which reads and writes them.
//!
//! A stream has no message boundaries: what was sent in three calls can arrive in one, and what was sent in
//! one can arrive in three. A codec says where each message ends. [The guide](guide) shows the problem, which
//! codec to choose, and how to mend code that reads messages with one `recv`.
//!
//! ```
//! use socketserver::framing::LengthDelimitedCodec;
//! use socketserver::prelude::*;
//!
//! fn shout(request: &mut TcpRequest) -> std::io::Result<()> {
//!     let mut framed = request.framed(LengthDelimitedCodec::u32_be());
//!     while let Some(message) = framed.next() {
//!         framed.send(message?.to_ascii_uppercase())?;
//!     }
//!     Ok(())
//! }
//! let server = ThreadingTcpServer::new("127.0.0.1:0", shout);
//! ```
//!
//! The other side of a connection, or any stream:
//!
//! ```no_run
//! use std::net::TcpStream;
//! use socketserver::framing::{Framed, LengthDelimitedCodec};
//!
//! # fn main() -> std::io::Result<()> {
//! let stream = TcpStream::connect("127.0.0.1:8080")?;
//! let mut framed = Framed::new(stream, LengthDelimitedCodec::u32_be());
//! framed.send("hello")?;
//! let answer = framed.next_ref()?;
//! # Ok(())
//! # }
//! ```
//!
//! | Codec | A message ends |
//! |---|---|
//! | [`LengthDelimitedCodec`] | after as many bytes as a number before it says |
//! | [`LinesCodec`] | at the end of a line |
//! | [`DelimiterCodec`] | at bytes of your choice |
//! | [`FixedLengthCodec`] | after always the same number of bytes |
//! | [`NetstringCodec`] | after as many bytes as decimal digits before it say: `5:hello,` |
//! | [`WholeStreamCodec`] | with the stream |
//!
//! # Limits
//!
//! Every codec has a longest message, its `max_frame_length`: 8 MiB, and 8 KiB where a delimiter ends the message,
//! unless you set another. (That of [`FixedLengthCodec`] is its length.) A longer message is an error before memory is
//! taken for it.
//!
//! A peer can make a [`Framed`] hold that limit and 150 KiB at most, whatever it sends and however slowly, and 72 KiB
//! between two messages. (With a limit above 16 MiB, it is up to twice the limit while the buffer grows.) More than 72
//! KiB is taken only when half as much of a message has really arrived, and kept for the next only if that has begun to
//! arrive and is as big.
//!
//! # Codecs of your own
//!
//! [`Decoder`] and [`Encoder`] say where the bytes of a message lie and what goes around it; there is an
//! example at each. What the bytes mean is a function from `&[u8]`:
//! `framed.map(|message| Command::parse(&message?))`.

mod buffer;
mod buffered;
mod delimiter;
mod error;
mod fixed_length;
mod framed;
mod length_delimited;
mod lines;
mod netstring;
mod search;
mod whole_stream;

#[doc = include_str!("guide.md")]
pub mod guide {}

use std::io;
use std::ops::Range;

pub(crate) use buffered::Lender;
pub use delimiter::DelimiterCodec;
pub use error::{DecodeError, EncodeError};
pub use fixed_length::FixedLengthCodec;
pub use framed::{Framed, FramedParts};
pub use length_delimited::{Builder, LengthDelimitedCodec};
pub use lines::LinesCodec;
pub use netstring::NetstringCodec;
pub use whole_stream::WholeStreamCodec;

/// The longest message of most codecs unless set: as tokio-util's.
const MAX_FRAME_LENGTH: usize = 8 * 1024 * 1024;

/// The longest message that a delimiter ends unless set.
const MAX_LINE_LENGTH: usize = 8 * 1024;

/// A message among the bytes that have arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where the message lies.
    pub message: Range<usize>,
    /// How many bytes it takes from the stream, with what is before and behind it.
    pub consumed: usize,
}

/// What a [`Decoder`] sees in the bytes that have arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A whole message.
    Frame(Frame),
    /// The beginning of one, or nothing: room is wanted for so many bytes more, at least 1.
    ///
    /// What is missing of a message whose length is known; else what is left up to the limit. With a number
    /// that is too small it costs more memory (half as much again) and more reads to receive a message of
    /// more than 72 KiB.
    Incomplete(usize),
}

/// Finds messages in bytes.
///
/// It says where a message lies and touches nothing, so that a message can be lent out of the buffer that
/// it arrived in ([`Framed::next_ref`]). A codec of another protocol, with the headers of the Language
/// Server Protocol (`Content-Length: 5\r\n\r\nhello`):
///
/// ```
/// use std::io::{self, ErrorKind};
/// use socketserver::MemoryStream;
/// use socketserver::framing::{DecodeError, Decoded, Decoder, EncodeError, Encoder, Frame, Framed};
///
/// const LONGEST: usize = 1 << 20;
/// const LONGEST_HEADER: usize = 1 << 10;
///
/// fn invalid(what: &str) -> io::Error {
///     io::Error::new(ErrorKind::InvalidData, what)
/// }
///
/// struct ContentLength;
///
/// impl Decoder for ContentLength {
///     fn decode(&mut self, bytes: &[u8]) -> io::Result<Decoded> {
///         let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
///             return if bytes.len() < LONGEST_HEADER {
///                 Ok(Decoded::Incomplete(1))
///             } else {
///                 Err(DecodeError::NoDelimiter { searched: bytes.len(), limit: LONGEST_HEADER }.into())
///             };
///         };
///         let header = str::from_utf8(&bytes[..end]).map_err(|_| invalid("the header is not text"))?;
///         let length: usize = header
///             .split("\r\n")
///             .find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok())
///             .ok_or_else(|| invalid("no Content-Length in the header"))?;
///         if length > LONGEST {
///             return Err(DecodeError::TooLong { length: length as u64, limit: LONGEST }.into());
///         }
///         let message = end + 4..end + 4 + length;
///         Ok(match message.end.checked_sub(bytes.len()) {
///             None | Some(0) => Decoded::Frame(Frame { consumed: message.end, message }),
///             Some(missing) => Decoded::Incomplete(missing),
///         })
///     }
/// }
///
/// impl Encoder for ContentLength {
///     fn encode_header(&mut self, message: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
///         if message.len() > LONGEST {
///             return Err(EncodeError::TooLong { length: message.len(), limit: LONGEST }.into());
///         }
///         out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", message.len()).as_bytes());
///         Ok(())
///     }
/// }
///
/// let stream = MemoryStream::new("Content-Length: 5\r\n\r\nhelloContent-Length: 0\r\n\r\n");
/// let mut framed = Framed::new(stream, ContentLength);
/// assert_eq!(framed.next_ref()?, Some(&b"hello"[..]));
/// assert_eq!(framed.next_ref()?, Some(&b""[..]));
/// assert_eq!(framed.next_ref()?, None);
/// framed.send("world")?;
/// assert_eq!(framed.get_ref().written(), b"Content-Length: 5\r\n\r\nworld");
/// # Ok::<(), io::Error>(())
/// ```
pub trait Decoder {
    /// Looks for a message at the beginning of `bytes`: all that has arrived since the last message.
    ///
    /// After [`Decoded::Incomplete`] it is called again with the same bytes and more behind them, so a
    /// search may go on where it stopped. A limit belongs here: whatever is not refused is waited for.
    ///
    /// # Errors
    ///
    /// The bytes are no message: a [`DecodeError`], or any other. No more is read from the stream after it.
    fn decode(&mut self, bytes: &[u8]) -> io::Result<Decoded>;

    /// Looks for a message at the beginning of `bytes` when the stream has ended behind them; `None`: that
    /// was a clean end. Called until it says so.
    ///
    /// Unless overridden, the end is clean if nothing has arrived since the last message.
    ///
    /// # Errors
    ///
    /// The stream ended inside a message, [`DecodeError::Truncated`]; those of [`decode`](Self::decode).
    fn decode_eof(&mut self, bytes: &[u8]) -> io::Result<Option<Frame>> {
        match self.decode(bytes)? {
            Decoded::Frame(frame) => Ok(Some(frame)),
            Decoded::Incomplete(_) if bytes.is_empty() => Ok(None),
            Decoded::Incomplete(missing) => Err(DecodeError::Truncated {
                arrived: bytes.len(),
                expected: bytes.len().saturating_add(missing),
            }
            .into()),
        }
    }
}

/// Says what goes around a message on the wire; the message itself is not copied for it.
///
/// There is an example at [`Decoder`].
pub trait Encoder {
    /// Appends to `out` what goes before the message. A message that the other side could not decode is to
    /// be refused here.
    ///
    /// # Errors
    ///
    /// The message cannot be sent: an [`EncodeError`], or any other. Nothing is written then.
    fn encode_header(&mut self, message: &[u8], out: &mut Vec<u8>) -> io::Result<()>;

    /// Appends to `out` what goes behind the message; nothing unless overridden.
    ///
    /// # Errors
    ///
    /// As [`encode_header`](Self::encode_header).
    fn encode_trailer(&mut self, message: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let _ = (message, out);
        Ok(())
    }
}

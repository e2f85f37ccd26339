//! Messages that are lines.

use std::io;

use super::search::Search;
use super::{Decoded, Decoder, Encoder, Frame};

/// Messages that are lines: as tokio-util's codec of this name and netty's `LineBasedFrameDecoder`.
///
/// A line ends with LF or CRLF when it is read, which is not part of the message, and with the one that the
/// constructor chose when it is sent. A message that has an LF in it, or a CR at its end, cannot be sent. The
/// bytes need not be UTF-8; [`str::from_utf8`] tells.
///
/// A line that the end of the stream cuts off is an error unless
/// [`allow_unterminated`](Self::allow_unterminated) says otherwise: half a command is not to be run.
///
/// ```
/// use socketserver::MemoryStream;
/// use socketserver::framing::{Framed, LinesCodec};
///
/// let mut framed = Framed::new(MemoryStream::new("hello\r\nworld\n"), LinesCodec::crlf());
/// assert_eq!(framed.next_ref()?, Some(&b"hello"[..]));
/// assert_eq!(framed.next_ref()?, Some(&b"world"[..]));
/// framed.send("egon")?;
/// assert_eq!(framed.get_ref().written(), b"egon\r\n");
/// assert!(framed.send("two\nlines").is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinesCodec {
    end: &'static [u8],
    search: Search,
}

impl LinesCodec {
    /// Lines that are sent with LF at their end.
    pub fn new() -> Self {
        LinesCodec {
            end: b"\n",
            search: Search::default(),
        }
    }

    /// Lines that are sent with CRLF at their end, as most protocols of the Internet want it.
    ///
    /// A line that comes may end with LF all the same. Where others that see the message look for CRLF only, what one
    /// of them takes for text would be a command here ("SMTP smuggling"; RFC 5321, 2.3.8, forbids it): there, read with
    /// [`DelimiterCodec::new("\r\n")`](super::DelimiterCodec::new).
    pub fn crlf() -> Self {
        LinesCodec {
            end: b"\r\n",
            ..Self::new()
        }
    }

    /// Sets the longest line in bytes, without its end; 8 KiB unless set. A longer one is refused as soon as
    /// so many bytes have arrived.
    #[must_use]
    pub fn max_frame_length(mut self, bytes: usize) -> Self {
        self.search.limit = bytes;
        self
    }

    /// Takes what comes after the last line end for a line, too, when the stream ends, unless it is empty: as
    /// [`BufRead::lines`](io::BufRead::lines) does.
    #[must_use]
    pub fn allow_unterminated(mut self) -> Self {
        self.search.allow_unterminated = true;
        self
    }
}

impl Default for LinesCodec {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder for LinesCodec {
    #[inline]
    fn decode(&mut self, bytes: &[u8]) -> io::Result<Decoded> {
        self.search.decode(bytes, b"\r", b"\n")
    }

    fn decode_eof(&mut self, bytes: &[u8]) -> io::Result<Option<Frame>> {
        self.search.decode_eof(bytes, b"\r", b"\n")
    }
}

impl Encoder for LinesCodec {
    fn encode_header(&mut self, message: &[u8], _: &mut Vec<u8>) -> io::Result<()> {
        self.search.check(message, b"\n")?;
        if message.ends_with(b"\r") {
            let at = message.len() - 1;
            return Err(super::EncodeError::ContainsDelimiter { at }.into());
        }
        Ok(())
    }

    fn encode_trailer(&mut self, _: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        out.extend_from_slice(self.end);
        Ok(())
    }
}

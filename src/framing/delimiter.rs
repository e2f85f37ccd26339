//! Messages that end at a delimiter.

use std::io;

use super::search::Search;
use super::{Decoded, Decoder, Encoder, Frame};

/// Messages that end at bytes of your choice: as netty's `DelimiterBasedFrameDecoder`.
///
/// The delimiter is not part of the message. A message that contains it cannot be sent.
///
/// ```
/// use socketserver::MemoryStream;
/// use socketserver::framing::{DelimiterCodec, Framed};
///
/// let mut framed = Framed::new(MemoryStream::new("one\r\n\r\ntwo\nlines\r\n\r\n"), DelimiterCodec::new("\r\n\r\n"));
/// assert_eq!(framed.next_ref()?, Some(&b"one"[..]));
/// assert_eq!(framed.next_ref()?, Some(&b"two\nlines"[..]));
/// framed.send("three")?;
/// assert_eq!(framed.get_ref().written(), b"three\r\n\r\n");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelimiterCodec {
    delimiter: Vec<u8>,
    search: Search,
}

impl DelimiterCodec {
    /// Messages that end at `delimiter`: one byte or more.
    ///
    /// # Panics
    ///
    /// If `delimiter` is empty.
    #[track_caller]
    pub fn new(delimiter: impl Into<Vec<u8>>) -> Self {
        let delimiter = delimiter.into();
        assert!(!delimiter.is_empty(), "the delimiter of messages is empty");
        DelimiterCodec {
            delimiter,
            search: Search::default(),
        }
    }

    /// Sets the longest message in bytes, without its delimiter; 8 KiB unless set. A longer one is refused as
    /// soon as so many bytes have arrived.
    #[must_use]
    pub fn max_frame_length(mut self, bytes: usize) -> Self {
        self.search.limit = bytes;
        self
    }

    /// Takes what comes after the last delimiter for a message, too, when the stream ends, unless it is
    /// empty. Otherwise it is an error: the end may have been cut off.
    #[must_use]
    pub fn allow_unterminated(mut self) -> Self {
        self.search.allow_unterminated = true;
        self
    }
}

impl Decoder for DelimiterCodec {
    #[inline]
    fn decode(&mut self, bytes: &[u8]) -> io::Result<Decoded> {
        self.search.decode(bytes, b"", &self.delimiter)
    }

    fn decode_eof(&mut self, bytes: &[u8]) -> io::Result<Option<Frame>> {
        self.search.decode_eof(bytes, b"", &self.delimiter)
    }
}

impl Encoder for DelimiterCodec {
    fn encode_header(&mut self, message: &[u8], _: &mut Vec<u8>) -> io::Result<()> {
        self.search.check(message, &self.delimiter)?;
        Ok(())
    }

    fn encode_trailer(&mut self, _: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        out.extend_from_slice(&self.delimiter);
        Ok(())
    }
}

//! One message a stream.

use std::io;

use super::{DecodeError, Decoded, Decoder, EncodeError, Encoder, Frame, MAX_FRAME_LENGTH};

/// The whole stream is one message, which ends where the stream does: as HTTP/1.0 and finger do it.
///
/// A stream without a byte is one empty message. The sender ends its message by ending its direction of the
/// stream: [`shutdown(Shutdown::Write)`](std::net::TcpStream::shutdown), or closing.
///
/// ```
/// use socketserver::MemoryStream;
/// use socketserver::framing::{Framed, WholeStreamCodec};
///
/// let mut framed = Framed::new(MemoryStream::new("all of it\n"), WholeStreamCodec::new());
/// assert_eq!(framed.next_ref()?, Some(&b"all of it\n"[..]));
/// assert_eq!(framed.next_ref()?, None);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeStreamCodec {
    max_frame_length: usize,
    received: bool,
    sent: bool,
}

impl WholeStreamCodec {
    /// A stream of up to 8 MiB.
    pub fn new() -> Self {
        WholeStreamCodec {
            max_frame_length: MAX_FRAME_LENGTH,
            received: false,
            sent: false,
        }
    }

    /// Sets how many bytes the stream may have; 8 MiB unless set. A longer one is refused when the first byte
    /// over it has arrived.
    #[must_use]
    pub fn max_frame_length(mut self, bytes: usize) -> Self {
        self.max_frame_length = bytes;
        self
    }
}

impl Default for WholeStreamCodec {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder for WholeStreamCodec {
    fn decode(&mut self, bytes: &[u8]) -> io::Result<Decoded> {
        let (arrived, limit) = (bytes.len(), self.max_frame_length);
        match limit.checked_sub(arrived) {
            // The end of the stream needs no room, but a byte too many does.
            Some(left) => Ok(Decoded::Incomplete(left.saturating_add(1))),
            None => Err(DecodeError::TooLong {
                length: arrived as u64,
                limit,
            }
            .into()),
        }
    }

    fn decode_eof(&mut self, bytes: &[u8]) -> io::Result<Option<Frame>> {
        if self.received {
            return Ok(None);
        }
        self.received = true;
        Ok(Some(Frame {
            message: 0..bytes.len(),
            consumed: bytes.len(),
        }))
    }
}

impl Encoder for WholeStreamCodec {
    fn encode_header(&mut self, message: &[u8], _: &mut Vec<u8>) -> io::Result<()> {
        if self.sent {
            return Err(EncodeError::SecondMessage.into());
        }
        EncodeError::unless_within(self.max_frame_length, message)?;
        self.sent = true;
        Ok(())
    }
}

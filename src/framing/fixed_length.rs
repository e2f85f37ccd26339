//! Messages of one length.

use std::io;

use super::{Decoded, Decoder, EncodeError, Encoder, Frame};

/// Messages that all have the same length: as netty's `FixedLengthFrameDecoder`.
///
/// ```
/// use socketserver::MemoryStream;
/// use socketserver::framing::{FixedLengthCodec, Framed};
///
/// let mut framed = Framed::new(MemoryStream::new("onetwo"), FixedLengthCodec::new(3));
/// assert_eq!(framed.next_ref()?, Some(&b"one"[..]));
/// assert_eq!(framed.next_ref()?, Some(&b"two"[..]));
/// assert!(framed.send("three").is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedLengthCodec {
    length: usize,
}

impl FixedLengthCodec {
    /// Messages of `bytes` bytes each: that is the limit, too.
    ///
    /// # Panics
    ///
    /// If `bytes` is 0.
    #[track_caller]
    pub fn new(bytes: usize) -> Self {
        assert!(bytes > 0, "a message of a fixed length has at least one byte");
        FixedLengthCodec { length: bytes }
    }
}

/// The end of the stream inside a message is what [`Decoder::decode_eof`] says of itself.
impl Decoder for FixedLengthCodec {
    #[inline]
    fn decode(&mut self, bytes: &[u8]) -> io::Result<Decoded> {
        let length = self.length;
        Ok(if bytes.len() < length {
            Decoded::Incomplete(length - bytes.len())
        } else {
            Decoded::Frame(Frame {
                message: 0..length,
                consumed: length,
            })
        })
    }
}

impl Encoder for FixedLengthCodec {
    fn encode_header(&mut self, message: &[u8], _: &mut Vec<u8>) -> io::Result<()> {
        if message.len() == self.length {
            return Ok(());
        }
        Err(EncodeError::WrongLength {
            length: message.len(),
            expected: self.length,
        }
        .into())
    }
}

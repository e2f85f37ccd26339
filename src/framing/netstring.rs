//! Messages as netstrings.

use std::io::{self, Write};

use super::{DecodeError, Decoded, Decoder, EncodeError, Encoder, Frame, MAX_FRAME_LENGTH};

/// As many digits as the largest 64-bit number has.
const MOST_DIGITS: usize = 20;

/// Messages as [netstrings](https://cr.yp.to/proto/netstrings.txt): `12:hello world!,`.
///
/// The length is decimal and has no leading zeros; a colon follows it, and a comma follows the message.
///
/// ```
/// use socketserver::MemoryStream;
/// use socketserver::framing::{Framed, NetstringCodec};
///
/// let mut framed = Framed::new(MemoryStream::new("12:hello world!,0:,"), NetstringCodec::new());
/// assert_eq!(framed.next_ref()?, Some(&b"hello world!"[..]));
/// assert_eq!(framed.next_ref()?, Some(&b""[..]));
/// framed.send("egon")?;
/// assert_eq!(framed.get_ref().written(), b"4:egon,");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetstringCodec {
    max_frame_length: usize,
}

impl NetstringCodec {
    /// Netstrings of up to 8 MiB.
    pub fn new() -> Self {
        NetstringCodec {
            max_frame_length: MAX_FRAME_LENGTH,
        }
    }

    /// Sets the longest message in bytes; 8 MiB unless set. A longer one is refused, before memory is taken
    /// for it.
    #[must_use]
    pub fn max_frame_length(mut self, bytes: usize) -> Self {
        self.max_frame_length = bytes;
        self
    }

    /// The message's length and where it begins; `None`: the colon is not there yet.
    #[inline]
    fn header(&self, bytes: &[u8]) -> Result<Option<(usize, usize)>, DecodeError> {
        let mut length: u64 = 0;
        for (index, &byte) in bytes.iter().enumerate() {
            match byte {
                b':' if index > 0 => {
                    let limit = self.max_frame_length;
                    return match usize::try_from(length) {
                        Ok(length) if length <= limit => Ok(Some((length, index + 1))),
                        _ => Err(DecodeError::TooLong { length, limit }),
                    };
                }
                b'0'..=b'9' if length == 0 && index > 0 => return Err(DecodeError::LeadingZero),
                b'0'..=b'9' if index == MOST_DIGITS => return Err(DecodeError::NoColon),
                b'0'..=b'9' => length = length.saturating_mul(10).saturating_add(u64::from(byte - b'0')),
                _ => return Err(DecodeError::InvalidDigit { byte }),
            }
        }
        Ok(None)
    }
}

impl Default for NetstringCodec {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder for NetstringCodec {
    #[inline]
    fn decode(&mut self, bytes: &[u8]) -> io::Result<Decoded> {
        let Some((length, start)) = self.header(bytes)? else {
            return Ok(Decoded::Incomplete(1));
        };
        let end = start.saturating_add(length);
        match bytes.get(end) {
            None => Ok(Decoded::Incomplete(end.saturating_add(1) - bytes.len())),
            Some(b',') => Ok(Decoded::Frame(Frame {
                message: start..end,
                consumed: end + 1,
            })),
            Some(&byte) => Err(DecodeError::NoComma { byte }.into()),
        }
    }

    fn decode_eof(&mut self, bytes: &[u8]) -> io::Result<Option<Frame>> {
        let arrived = bytes.len();
        match self.decode(bytes)? {
            Decoded::Frame(frame) => Ok(Some(frame)),
            Decoded::Incomplete(_) if bytes.is_empty() => Ok(None),
            Decoded::Incomplete(_) => Err(match self.header(bytes)? {
                None => DecodeError::TruncatedHeader {
                    arrived,
                    expected: arrived + 1,
                },
                // The comma counts.
                Some((length, start)) => DecodeError::Truncated {
                    arrived: arrived - start,
                    expected: length.saturating_add(1),
                },
            }
            .into()),
        }
    }
}

impl Encoder for NetstringCodec {
    fn encode_header(&mut self, message: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        EncodeError::unless_within(self.max_frame_length, message)?;
        write!(out, "{}:", message.len())
    }

    fn encode_trailer(&mut self, _: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        out.push(b',');
        Ok(())
    }
}

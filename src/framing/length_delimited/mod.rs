//! Messages after their length.

mod builder;
mod field;

use std::hint::cold_path;
use std::io;

pub use builder::Builder;
use field::{Endian, LengthField};

use super::{DecodeError, Decoded, Decoder, EncodeError, Encoder, Frame};

/// Messages after their length: as tokio-util's codec of this name, netty's `LengthFieldBasedFrameDecoder`
/// and Erlang's `{packet, N}`.
///
/// A fixed or variable length field, by default an unsigned 32-bit big-endian number, says how many bytes
/// follow it. Take a preset where there is one, else the [`builder`](Self::builder).
///
/// | On the wire | Codec |
/// |---|---|
/// | C, Python `struct.pack('i', n)` on the same machine | [`struct_i()`](Self::struct_i) |
/// | Python `struct.pack('!I', n)`, Java `writeInt`, Go `binary.BigEndian.PutUint32` | [`u32_be()`](Self::u32_be), the default |
/// | Erlang `{packet, 1}`, `{packet, 2}`, `{packet, 4}` | [`erlang_packet(n)`](Self::erlang_packet) |
/// | protobuf `writeDelimitedTo`, Go `protodelim` | [`varint()`](Self::varint) |
/// | DNS over TCP, Java `writeUTF` | [`u16_be()`](Self::u16_be) |
/// | Kafka, Python `multiprocessing.connection` up to 2 GiB | `builder().signed().new_codec()` |
/// | Chrome's native messaging | `builder().native_endian().new_codec()` |
/// | Postgres: a type byte, then a length that counts itself | `builder().length_field_offset(1).length_adjustment(-4).num_skip(0).new_codec()` |
/// | MySQL: 3 bytes little-endian, then a sequence number | `builder().length_field_length(3).little_endian().length_adjustment(1).new_codec()` |
/// | MongoDB: a signed little-endian length of the whole message | `builder().little_endian().signed().length_includes_header().new_codec()` |
///
/// ```
/// use socketserver::MemoryStream;
/// use socketserver::framing::{Framed, LengthDelimitedCodec};
///
/// let stream = MemoryStream::new(*b"\0\x05hello\0\0\0\x05world");
/// let mut framed = Framed::new(stream, LengthDelimitedCodec::u16_be());
/// let messages: Vec<_> = framed.by_ref().collect::<Result<_, _>>()?;
/// assert_eq!(messages, [&b"hello"[..], b"", b"world"]);
/// framed.send("hello")?;
/// assert_eq!(framed.get_ref().written(), b"\0\x05hello");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LengthDelimitedCodec {
    offset: usize,
    field: LengthField,
    adjustment: i64,
    skip: Skip,
    max_frame_length: usize,
    /// The byte order, if all else is as usual: an unsigned field of four bytes, nothing before it, neither
    /// counted nor kept.
    usual: Option<Endian>,
}

/// No allocation is longer than `isize::MAX`: half of it leaves room for any header.
const LONGEST: usize = isize::MAX.unsigned_abs() / 2;

/// How much of the beginning of a frame is not part of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skip {
    /// The length field and all before it.
    Header,
    /// So many bytes.
    Bytes(usize),
}

impl LengthDelimitedCodec {
    /// [`u32_be`](Self::u32_be).
    pub fn new() -> Self {
        Self::u32_be()
    }

    /// Any other layout of the header.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// One byte.
    pub fn u8() -> Self {
        Self::builder().length_field_length(1).new_codec()
    }

    /// Two bytes, most significant first (network order).
    pub fn u16_be() -> Self {
        Self::builder().length_field_length(2).new_codec()
    }

    /// Two bytes, least significant first.
    pub fn u16_le() -> Self {
        Self::builder().length_field_length(2).little_endian().new_codec()
    }

    /// Four bytes, most significant first (network order): the default.
    pub fn u32_be() -> Self {
        Self::builder().new_codec()
    }

    /// Four bytes, least significant first.
    pub fn u32_le() -> Self {
        Self::builder().little_endian().new_codec()
    }

    /// Eight bytes, most significant first (network order).
    pub fn u64_be() -> Self {
        Self::builder().length_field_length(8).new_codec()
    }

    /// Eight bytes, least significant first.
    pub fn u64_le() -> Self {
        Self::builder().length_field_length(8).little_endian().new_codec()
    }

    /// A varint of at most 64 bits, as protobuf's delimited messages have. One with more bytes than its
    /// value needs is refused.
    pub fn varint() -> Self {
        Self::builder().varint().new_codec()
    }

    /// Erlang's `{packet, N}`: `bytes` bytes, most significant first.
    ///
    /// # Panics
    ///
    /// Unless `bytes` is 1, 2 or 4.
    #[track_caller]
    pub fn erlang_packet(bytes: usize) -> Self {
        assert!(
            matches!(bytes, 1 | 2 | 4),
            "Erlang has {{packet, 1}}, {{packet, 2}} and {{packet, 4}}"
        );
        Self::builder().length_field_length(bytes).new_codec()
    }

    /// Python's `struct.pack('i', n)`: a C `int`, four bytes with a sign in the byte order of this machine.
    pub fn struct_i() -> Self {
        Self::builder().native_endian().signed().new_codec()
    }

    /// Sets the longest message in bytes, counted behind the length field; 8 MiB unless set. A longer one is
    /// refused, before memory is taken for it.
    #[must_use]
    pub fn max_frame_length(mut self, bytes: usize) -> Self {
        self.max_frame_length = bytes.min(LONGEST);
        self
    }

    /// As [`decode`](Self::decode), for a usual header. What else may be said of a header costs a small
    /// message as much again as all the rest; what this does not take, [`ends`](Self::ends) does.
    #[inline]
    fn decode_usual(&self, bytes: &[u8]) -> Option<Decoded> {
        let (header, rest) = bytes.split_first_chunk()?;
        let body = match self.usual? {
            Endian::Big => u32::from_be_bytes(*header),
            Endian::Little => u32::from_le_bytes(*header),
        } as usize;
        if body > self.max_frame_length {
            return None;
        }
        let end = header.len() + body;
        Some(if body <= rest.len() {
            Decoded::Frame(Frame {
                message: header.len()..end,
                consumed: end,
            })
        } else {
            Decoded::Incomplete(body - rest.len())
        })
    }

    /// Where the header and the frame end that begin with `bytes`; `None`: the header is not complete.
    #[inline]
    fn ends(&self, bytes: &[u8]) -> Result<Option<(usize, usize)>, DecodeError> {
        let field = bytes.get(self.offset..).unwrap_or_default();
        let Some((number, width)) = self.field.read(field)? else {
            return Ok(None);
        };
        let body = match number.checked_add_signed(self.adjustment).map(usize::try_from) {
            Some(Ok(body)) if body <= self.max_frame_length => body,
            _ => return Err(self.no_body(number)),
        };
        let header = self.offset + width;
        let end = header + body;
        match self.skip {
            Skip::Bytes(skipped) if skipped > end => {
                Err(too_short(number, number.saturating_add((skipped - end) as u64)))
            }
            _ => Ok(Some((header, end))),
        }
    }

    /// Why a number announces no message.
    #[cold]
    fn no_body(&self, number: u64) -> DecodeError {
        match number.checked_add_signed(self.adjustment) {
            None if self.adjustment < 0 => too_short(number, self.adjustment.unsigned_abs()),
            length => DecodeError::TooLong {
                length: length.unwrap_or(number),
                limit: self.max_frame_length,
            },
        }
    }

    /// How many bytes the header of `bytes`, which is not complete, has at least.
    fn least_header(&self, bytes: &[u8]) -> usize {
        self.offset + self.field.least_width(bytes.len().saturating_sub(self.offset))
    }

    /// The number that announces a message.
    fn number(&self, message: &[u8]) -> Result<u64, EncodeError> {
        EncodeError::unless_within(self.max_frame_length, message)?;
        let length = message.len();
        let largest = self.field.largest();
        match (length as u64).checked_sub_signed(self.adjustment) {
            Some(number) if number <= largest => Ok(number),
            // Below zero: a message within any limit is too short to come out above all numbers.
            None => Err(EncodeError::TooShort {
                length,
                least: self.adjustment.unsigned_abs(),
            }),
            _ => Err(EncodeError::DoesNotFit { length, largest }),
        }
    }

    /// Whether a message that brings its header is what the other side would decode.
    fn check_header(&self, message: &[u8]) -> Result<(), EncodeError> {
        let length = message.len();
        match self.ends(message) {
            Ok(Some((_, end))) if end == length => Ok(()),
            Err(DecodeError::TooLong { limit, .. }) if length > limit => Err(EncodeError::TooLong { length, limit }),
            _ => Err(EncodeError::HeaderMismatch { length }),
        }
    }
}

fn too_short(length: u64, least: u64) -> DecodeError {
    DecodeError::TooShort { length, least }
}

impl Default for LengthDelimitedCodec {
    fn default() -> Self {
        Self::u32_be()
    }
}

impl Decoder for LengthDelimitedCodec {
    #[inline]
    fn decode(&mut self, bytes: &[u8]) -> io::Result<Decoded> {
        if let Some(decoded) = self.decode_usual(bytes) {
            return Ok(decoded);
        }
        // Not rare, but laid out aside, so that the usual way is a straight one.
        cold_path();
        let Some((header, end)) = self.ends(bytes)? else {
            return Ok(Decoded::Incomplete(self.least_header(bytes) - bytes.len()));
        };
        if end > bytes.len() {
            return Ok(Decoded::Incomplete(end - bytes.len()));
        }
        let start = match self.skip {
            Skip::Header => header,
            Skip::Bytes(skipped) => skipped,
        };
        Ok(Decoded::Frame(Frame {
            message: start..end,
            consumed: end,
        }))
    }

    fn decode_eof(&mut self, bytes: &[u8]) -> io::Result<Option<Frame>> {
        let arrived = bytes.len();
        match self.decode(bytes)? {
            Decoded::Frame(frame) => Ok(Some(frame)),
            Decoded::Incomplete(_) if bytes.is_empty() => Ok(None),
            Decoded::Incomplete(_) => Err(match self.ends(bytes)? {
                None => DecodeError::TruncatedHeader {
                    arrived,
                    expected: self.least_header(bytes),
                },
                Some((header, end)) => DecodeError::Truncated {
                    arrived: arrived - header,
                    expected: end - header,
                },
            }
            .into()),
        }
    }
}

impl Encoder for LengthDelimitedCodec {
    fn encode_header(&mut self, message: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self.skip {
            Skip::Header if self.offset == 0 => self.field.write(self.number(message)?, out),
            Skip::Bytes(0) => self.check_header(message)?,
            _ => return Err(EncodeError::UnknownHeader.into()),
        }
        Ok(())
    }
}

//! The layout of a header, field by field.

use super::field::{Endian, LengthField};
use super::{LengthDelimitedCodec, Skip};
use crate::framing::MAX_FRAME_LENGTH;

/// A header must fit in what a peer may keep between two messages.
const LONGEST_OFFSET: usize = 64 * 1024;

/// Makes a [`LengthDelimitedCodec`] for any layout of the header.
///
/// The names are tokio-util's; what the length counts follows the length field, as in netty, whatever `num_skip` is.
/// (In tokio-util it follows the skipped bytes: a `length_adjustment` that makes up for its `num_skip` has no place
/// here.) A frame is
///
/// ```text
/// | bytes before | length field         | what the length counts, and length_adjustment more |
/// | (offset)     | (length_field_length)|                                                    |
/// |<----------- num_skip -------------->|<------------------- message ---------------------->|
/// ```
///
/// | Option | netty | Default |
/// |---|---|---|
/// | [`length_field_offset`](Self::length_field_offset) | `lengthFieldOffset` | 0 |
/// | [`length_field_length`](Self::length_field_length), [`varint`](Self::varint) | `lengthFieldLength` | 4 |
/// | [`big_endian`](Self::big_endian), [`little_endian`](Self::little_endian), [`native_endian`](Self::native_endian) | `byteOrder` | big |
/// | [`signed`](Self::signed) | | unsigned |
/// | [`length_adjustment`](Self::length_adjustment) | `lengthAdjustment` | 0 |
/// | [`length_includes_header`](Self::length_includes_header) | `lengthIncludesLengthFieldLength` | excludes it |
/// | [`num_skip`](Self::num_skip) | `initialBytesToStrip` | up to the end of the length field |
/// | [`max_frame_length`](Self::max_frame_length) | `maxFrameLength` | 8 MiB |
///
/// ```
/// use socketserver::framing::{Decoded, Decoder, Frame, LengthDelimitedCodec};
///
/// // A type byte and a 16-bit length that counts the whole frame; the message keeps both.
/// let mut codec = LengthDelimitedCodec::builder()
///     .length_field_offset(1)
///     .length_field_length(2)
///     .length_includes_header()
///     .num_skip(0)
///     .new_codec();
/// let frame = Frame { message: 0..8, consumed: 8 };
/// assert_eq!(codec.decode(b"T\0\x08hello, and more")?, Decoded::Frame(frame));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    offset: usize,
    width: usize,
    is_varint: bool,
    endian: Endian,
    signed: bool,
    adjustment: i64,
    includes_header: bool,
    num_skip: Option<usize>,
    max_frame_length: usize,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            offset: 0,
            width: 4,
            is_varint: false,
            endian: Endian::Big,
            signed: false,
            adjustment: 0,
            includes_header: false,
            num_skip: None,
            max_frame_length: MAX_FRAME_LENGTH,
        }
    }
}

impl Builder {
    /// How many bytes are before the length field; 0 unless set.
    pub fn length_field_offset(mut self, bytes: usize) -> Self {
        self.offset = bytes;
        self
    }

    /// How many bytes the length field has, 1 to 8; 4 unless set.
    pub fn length_field_length(mut self, bytes: usize) -> Self {
        self.width = bytes;
        self.is_varint = false;
        self
    }

    /// The length field is a varint: seven bits in each byte, the least significant first, the high bit set
    /// in all but the last.
    pub fn varint(mut self) -> Self {
        self.is_varint = true;
        self
    }

    /// Most significant byte first: the default.
    pub fn big_endian(mut self) -> Self {
        self.endian = Endian::Big;
        self
    }

    /// Least significant byte first.
    pub fn little_endian(mut self) -> Self {
        self.endian = Endian::Little;
        self
    }

    /// The byte order of the machine that the program runs on.
    pub fn native_endian(mut self) -> Self {
        self.endian = Endian::NATIVE;
        self
    }

    /// The length has a sign, as C's `int`: a negative one is refused instead of being taken for a large one.
    pub fn signed(mut self) -> Self {
        self.signed = true;
        self
    }

    /// How many bytes more (or, negative, fewer) than the length says follow the length field; 0 unless set.
    pub fn length_adjustment(mut self, bytes: i64) -> Self {
        self.adjustment = bytes;
        self.includes_header = false;
        self
    }

    /// The length counts the length field, and what is before it, too.
    pub fn length_includes_header(mut self) -> Self {
        self.includes_header = true;
        self
    }

    /// How many bytes of the beginning of a frame are not part of the message; unless set, all up to the end
    /// of the length field.
    ///
    /// With 0 a message has its header, also when it is sent: it is then checked that the length is right.
    /// A codec that skips bytes other than the length field can decode only.
    pub fn num_skip(mut self, bytes: usize) -> Self {
        self.num_skip = Some(bytes);
        self
    }

    /// The longest message in bytes, counted behind the length field; 8 MiB unless set.
    pub fn max_frame_length(mut self, bytes: usize) -> Self {
        self.max_frame_length = bytes;
        self
    }

    /// The codec.
    ///
    /// # Panics
    ///
    /// If `length_field_length` is not between 1 and 8, or `length_field_offset` is over 64 KiB; if a varint is to
    /// count itself, or to be skipped in part, which its changing width does not allow.
    #[track_caller]
    pub fn new_codec(self) -> LengthDelimitedCodec {
        assert!(
            (1..=8).contains(&self.width),
            "length_field_length is 1 to 8 bytes, not {}",
            self.width
        );
        assert!(
            self.offset <= LONGEST_OFFSET,
            "length_field_offset is at most {LONGEST_OFFSET} bytes, not {}",
            self.offset
        );
        let header = self.offset + self.width;
        let skip = match self.num_skip {
            Some(bytes) if self.is_varint || bytes != header => Skip::Bytes(bytes),
            _ => Skip::Header,
        };
        assert!(
            !self.is_varint || !self.includes_header && matches!(skip, Skip::Header | Skip::Bytes(0)),
            "a varint has no fixed width: length_includes_header, and num_skip other than 0, do not go with it"
        );
        let adjustment = if self.includes_header {
            -i64::try_from(header).expect("some KiB at most")
        } else {
            self.adjustment
        };
        let field = if self.is_varint {
            LengthField::Varint
        } else {
            LengthField::fixed(self.width, self.endian, self.signed)
        };
        let is_usual = field == LengthField::fixed(4, self.endian, false)
            && (self.offset, adjustment, skip) == (0, 0, Skip::Header);
        LengthDelimitedCodec {
            offset: self.offset,
            field,
            adjustment,
            skip,
            max_frame_length: 0,
            usual: is_usual.then_some(self.endian),
        }
        .max_frame_length(self.max_frame_length)
    }
}

//! What is wrong with bytes that arrived, and with messages that cannot be sent.

use std::error::Error;
use std::fmt;
use std::io;

/// Why the bytes of a peer are no messages, or not any more.
///
/// It turns into an [`io::Error`] of the kind [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if the
/// stream ended too early and [`InvalidData`](io::ErrorKind::InvalidData) otherwise, so a handler's `?`
/// takes it to [`handle_error`](crate::BaseServer::handle_error); there it is found again with
/// [`io::Error::get_ref`] and `downcast_ref`. All lengths are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// A message is longer than the codec's limit. No memory was taken for it.
    TooLong {
        /// As announced; as far as it has arrived, where it is not.
        length: u64,
        /// The codec's `max_frame_length`.
        limit: usize,
    },
    /// No delimiter came within the codec's limit.
    NoDelimiter {
        /// How many bytes were searched.
        searched: usize,
        /// The codec's `max_frame_length`.
        limit: usize,
    },
    /// A signed length below zero.
    NegativeLength {
        /// As announced.
        length: i64,
    },
    /// A length that is meant to count bytes beside the message is less than those alone.
    TooShort {
        /// As announced.
        length: u64,
        /// The least that it can be.
        least: u64,
    },
    /// A varint with more bytes than its value needs, or more than 64 bits.
    OverlongVarint,
    /// A netstring's length is not digits and then a colon.
    InvalidDigit {
        /// What stands there.
        byte: u8,
    },
    /// A netstring's length begins with a zero that is not all of it.
    LeadingZero,
    /// A netstring's length has no colon after 20 digits, which hold any 64-bit number.
    NoColon,
    /// A netstring does not end with a comma.
    NoComma {
        /// What stands there.
        byte: u8,
    },
    /// The stream ended inside the header of a message.
    TruncatedHeader {
        /// How many of its bytes had arrived.
        arrived: usize,
        /// How many it has, at least.
        expected: usize,
    },
    /// The stream ended inside a message.
    Truncated {
        /// How many of its bytes had arrived.
        arrived: usize,
        /// How many it has.
        expected: usize,
    },
    /// The stream ended before the delimiter of a message.
    Unterminated {
        /// How many bytes had arrived since the last delimiter.
        arrived: usize,
    },
    /// An earlier error left it unknown where the next message begins.
    OutOfStep,
}

impl DecodeError {
    /// Whether the stream ended too early; otherwise its bytes are wrong.
    fn is_end(&self) -> bool {
        matches!(
            self,
            DecodeError::TruncatedHeader { .. } | DecodeError::Truncated { .. } | DecodeError::Unterminated { .. }
        )
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::TooLong { length, limit } => write!(
                f,
                "a message of {length} bytes is over the limit of {limit}: the peer speaks another protocol or byte \
                 order, or max_frame_length is to be raised"
            ),
            DecodeError::NoDelimiter { searched, limit } => write!(
                f,
                "no delimiter in the first {searched} bytes of a message and the limit is {limit}: the peer sends \
                 another delimiter, or max_frame_length is to be raised"
            ),
            DecodeError::NegativeLength { length } => write!(
                f,
                "a message of {length} bytes is announced: the peer speaks another protocol or byte order"
            ),
            DecodeError::TooShort { length, least } => write!(
                f,
                "the length of a message is {length}, and with what it counts beside the message it is at least \
                 {least}: the peer counts something else"
            ),
            DecodeError::OverlongVarint => {
                f.write_str("the length of a message is a varint with more bytes than it needs or over 64 bits")
            }
            DecodeError::InvalidDigit { byte } => write!(
                f,
                "byte {byte:#04x} in the length of a netstring, which is digits and then a colon: is the peer sending \
                 netstrings?"
            ),
            DecodeError::LeadingZero => f.write_str("the length of a netstring begins with a zero"),
            DecodeError::NoColon => f.write_str("the length of a netstring has more than 20 digits"),
            DecodeError::NoComma { byte } => {
                write!(
                    f,
                    "byte {byte:#04x} where a netstring ends with a comma: its length is wrong"
                )
            }
            DecodeError::TruncatedHeader { arrived, expected } => write!(
                f,
                "the stream ended in the header of a message: {arrived} of at least {expected} bytes had arrived"
            ),
            DecodeError::Truncated { arrived, expected } => {
                write!(
                    f,
                    "the stream ended in a message: {arrived} of {expected} bytes had arrived"
                )
            }
            DecodeError::Unterminated { arrived } => write!(
                f,
                "the stream ended in a message: {arrived} bytes had arrived and no delimiter"
            ),
            DecodeError::OutOfStep => {
                f.write_str("an earlier error left it unknown where the next message begins: close the connection")
            }
        }
    }
}

impl Error for DecodeError {}

impl From<DecodeError> for io::Error {
    fn from(error: DecodeError) -> Self {
        let kind = if error.is_end() {
            io::ErrorKind::UnexpectedEof
        } else {
            io::ErrorKind::InvalidData
        };
        io::Error::new(kind, error)
    }
}

/// Why a message cannot be sent with a codec. Nothing of it was written.
///
/// It turns into an [`io::Error`] of the kind [`InvalidInput`](io::ErrorKind::InvalidInput). All lengths
/// are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// It is longer than the codec's limit.
    TooLong {
        /// The message's length.
        length: usize,
        /// The codec's `max_frame_length`.
        limit: usize,
    },
    /// Its length is no number that the length field can hold.
    DoesNotFit {
        /// The message's length.
        length: usize,
        /// The largest number of the field.
        largest: u64,
    },
    /// It is shorter than what the codec puts behind the length field beside what the length counts.
    TooShort {
        /// The message's length.
        length: usize,
        /// The least that it can be.
        least: u64,
    },
    /// It has the delimiter in it, or ends so that its end would be taken for a part of the delimiter.
    ContainsDelimiter {
        /// Where the peer would see the message end.
        at: usize,
    },
    /// All messages of the codec have one length, and it has another.
    WrongLength {
        /// The message's length.
        length: usize,
        /// The codec's.
        expected: usize,
    },
    /// It is to begin with its header, and does not, or not with its own length.
    HeaderMismatch {
        /// The message's length.
        length: usize,
    },
    /// The codec drops bytes of the header when it decodes, and does not know what to write there.
    UnknownHeader,
    /// The whole stream is one message, and that was sent.
    SecondMessage,
    /// An earlier write failed half-way and has not been taken up again by a flush.
    Unflushed,
}

impl EncodeError {
    pub(super) fn unless_within(limit: usize, message: &[u8]) -> Result<(), Self> {
        let length = message.len();
        if length > limit {
            Err(EncodeError::TooLong { length, limit })
        } else {
            Ok(())
        }
    }
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodeError::TooLong { length, limit } => write!(
                f,
                "a message of {length} bytes cannot be sent, the limit is {limit}: raise max_frame_length on both sides"
            ),
            EncodeError::DoesNotFit { length, largest } => write!(
                f,
                "a message of {length} bytes cannot be sent, its length field holds at most {largest}: take a wider one"
            ),
            EncodeError::TooShort { length, least } => write!(
                f,
                "a message of {length} bytes cannot be sent, the codec's length_adjustment takes {least} of it"
            ),
            EncodeError::ContainsDelimiter { at } => write!(
                f,
                "a message with the delimiter in it, at byte {at}, would end there: leave it out at the end, where the codec \
                 sends it (CRLF: LinesCodec::crlf), and escape it inside, or send the length"
            ),
            EncodeError::WrongLength { length, expected } => {
                write!(f, "a message of {length} bytes cannot be sent, all have {expected}")
            }
            EncodeError::HeaderMismatch { length } => write!(
                f,
                "a message of {length} bytes does not begin with a header that says so, which this codec leaves to the \
                 sender (num_skip)"
            ),
            EncodeError::UnknownHeader => f.write_str(
                "this codec skips header bytes that it cannot make up: to send, keep the header in the message \
                 (num_skip 0)",
            ),
            EncodeError::SecondMessage => {
                f.write_str("the whole stream is one message, and that was sent: open another connection for the next")
            }
            EncodeError::Unflushed => {
                f.write_str("an earlier write failed half-way: flush() goes on with it, or close the connection")
            }
        }
    }
}

impl Error for EncodeError {}

impl From<EncodeError> for io::Error {
    fn from(error: EncodeError) -> Self {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

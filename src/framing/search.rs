//! The search for a delimiter, which takes up where it stopped.

use std::io;

use memchr::memchr;

use super::{DecodeError, Decoded, EncodeError, Frame, MAX_LINE_LENGTH};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Search {
    /// The longest message.
    pub(super) limit: usize,
    /// Whether the end of the stream ends a message, too.
    pub(super) allow_unterminated: bool,
    /// So many bytes of the message in progress need no second look.
    searched: usize,
}

impl Default for Search {
    fn default() -> Self {
        Search {
            limit: MAX_LINE_LENGTH,
            allow_unterminated: false,
            searched: 0,
        }
    }
}

impl Search {
    /// The message that ends at `delimiter`, or at `optional` and `delimiter`.
    #[inline]
    pub(super) fn decode(&mut self, bytes: &[u8], optional: &[u8], delimiter: &[u8]) -> io::Result<Decoded> {
        let Some(end) = find(bytes, delimiter, self.searched) else {
            let longest = self.limit.saturating_add(optional.len() + delimiter.len());
            if bytes.len() >= longest {
                return Err(self.no_delimiter(bytes.len()));
            }
            self.searched = bytes.len();
            return Ok(Decoded::Incomplete(longest - bytes.len()));
        };
        self.searched = 0;
        let length = bytes[..end].strip_suffix(optional).map_or(end, <[u8]>::len);
        if length > self.limit {
            return Err(self.no_delimiter(length));
        }
        Ok(Decoded::Frame(Frame {
            message: 0..length,
            consumed: end + delimiter.len(),
        }))
    }

    #[cold]
    fn no_delimiter(&self, searched: usize) -> io::Error {
        let limit = self.limit;
        DecodeError::NoDelimiter { searched, limit }.into()
    }

    /// As [`decode`](Self::decode), when the stream has ended.
    pub(super) fn decode_eof(&mut self, bytes: &[u8], optional: &[u8], delimiter: &[u8]) -> io::Result<Option<Frame>> {
        let arrived = bytes.len();
        match self.decode(bytes, optional, delimiter)? {
            Decoded::Frame(frame) => Ok(Some(frame)),
            Decoded::Incomplete(_) if arrived == 0 => Ok(None),
            Decoded::Incomplete(_) if !self.allow_unterminated => Err(DecodeError::Unterminated { arrived }.into()),
            Decoded::Incomplete(_) if arrived > self.limit => Err(self.no_delimiter(arrived)),
            Decoded::Incomplete(_) => {
                self.searched = 0;
                Ok(Some(Frame {
                    message: 0..arrived,
                    consumed: arrived,
                }))
            }
        }
    }

    /// Whether a message, with the delimiter behind it, arrives as it is.
    pub(super) fn check(&self, message: &[u8], delimiter: &[u8]) -> Result<(), EncodeError> {
        EncodeError::unless_within(self.limit, message)?;
        let overlap = || overlap(message, delimiter).map(|count| message.len() - count);
        match find(message, delimiter, 0).or_else(overlap) {
            Some(at) => Err(EncodeError::ContainsDelimiter { at }),
            None => Ok(()),
        }
    }
}

/// Where the first delimiter begins whose last byte is at `from` or behind it.
#[inline]
fn find(bytes: &[u8], delimiter: &[u8], mut from: usize) -> Option<usize> {
    let (&last, before) = delimiter.split_last()?;
    while let Some(at) = memchr(last, bytes.get(from..)?) {
        from += at + 1;
        if before.is_empty() || bytes[..from].ends_with(delimiter) {
            return Some(from - delimiter.len());
        }
    }
    None
}

/// How many bytes of the end of `message` are the beginning of an earlier delimiter: `a-` before `-->-->`.
fn overlap(message: &[u8], delimiter: &[u8]) -> Option<usize> {
    (1..delimiter.len())
        .rev()
        .find(|&count| message.ends_with(&delimiter[..count]) && delimiter.starts_with(&delimiter[count..]))
}

//! The search for a delimiter, which takes up where it stopped.

use std::io::BufRead;

use super::{DecodeError, EncodeError, Frame, MAX_LINE_LENGTH};

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
    /// Where the first delimiter begins, if it ends within the first `window` bytes.
    #[inline]
    pub(super) fn find(&mut self, bytes: &[u8], delimiter: &[u8], window: usize) -> Result<Option<usize>, DecodeError> {
        let visible = &bytes[..bytes.len().min(window)];
        if let Some(start) = find(visible, delimiter, self.searched) {
            self.searched = 0;
            return Ok(Some(start));
        }
        self.searched = visible.len();
        if visible.len() == window {
            return Err(self.no_delimiter(window));
        }
        Ok(None)
    }

    #[cold]
    pub(super) fn no_delimiter(&self, searched: usize) -> DecodeError {
        DecodeError::NoDelimiter {
            searched,
            limit: self.limit,
        }
    }

    /// What is left when the stream ends.
    pub(super) fn last(&mut self, bytes: &[u8]) -> Result<Option<Frame>, DecodeError> {
        self.searched = 0;
        let arrived = bytes.len();
        match arrived {
            0 => Ok(None),
            _ if self.allow_unterminated => Ok(Some(Frame {
                message: 0..arrived,
                consumed: arrived,
            })),
            _ => Err(DecodeError::Unterminated { arrived }),
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
    let (&last, _) = delimiter.split_last()?;
    while let Some(at) = find_byte(last, bytes.get(from..)?) {
        from += at + 1;
        if bytes[..from].ends_with(delimiter) {
            return Some(from - delimiter.len());
        }
    }
    None
}

/// The C library's memchr(3), which is what the standard library searches readers with: several times as
/// fast as an iterator's `position`.
#[inline]
fn find_byte(byte: u8, bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    let skipped = rest.skip_until(byte).ok()?;
    (skipped > 0 && bytes[skipped - 1] == byte).then(|| skipped - 1)
}

/// How many bytes of the end of `message` are the beginning of an earlier delimiter: `a-` before `-->-->`.
fn overlap(message: &[u8], delimiter: &[u8]) -> Option<usize> {
    (1..delimiter.len())
        .rev()
        .find(|&count| message.ends_with(&delimiter[..count]) && delimiter.starts_with(&delimiter[count..]))
}

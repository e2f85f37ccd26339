//! What has arrived and was not taken yet.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::mem;
use std::ops::Range;

use super::Frame;

/// The first size: most messages, and many small ones at a time, in one read.
const INITIAL: usize = 8 * 1024;

/// What a peer may keep between two messages: one of 64 KiB, with any header, in one read.
const RETAINED: usize = 72 * 1024;

/// Of what a message needs, so much is taken at once: the longest message of all codecs unless set otherwise.
const AT_ONCE: usize = 16 * 1024 * 1024;

/// Behind a big message there is room for so much of the next: that one is coming shows that its buffer will be of use
/// again. Not more, because it is moved.
const LOOK_AHEAD: usize = 1024;

/// Bytes between `start` and `end` have arrived; those behind are initialised (zero or stale) so that they
/// can be read into, and are not cleared again.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    #[inline]
    pub(super) fn arrived(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Takes a frame that the decoder has found in [`arrived`](Self::arrived); its message stays where it is until
    /// the next read. It is checked against the bytes that the decoder saw, which the compiler has at hand where
    /// both are inlined.
    #[inline]
    pub(super) fn take(&mut self, frame: &Frame) -> &[u8] {
        let arrived = &self.bytes[self.start..self.end];
        assert!(
            frame.consumed <= arrived.len(),
            "a decoder took more bytes than have arrived"
        );
        self.start += frame.consumed;
        &arrived[frame.message.start..frame.message.end]
    }

    /// As [`take`](Self::take), to keep. A message that is most of a big buffer is the buffer itself, so that there is
    /// no second copy of it in memory.
    #[inline]
    pub(super) fn keep(&mut self, frame: &Frame) -> Vec<u8> {
        let (begin, size) = (self.start, self.bytes.len());
        let message = self.take(frame);
        if message.len() <= RETAINED.max(size / 2) {
            return message.to_vec();
        }
        self.give_away(begin + frame.message.start..begin + frame.message.end)
    }

    /// The buffer itself, cut to `message`; what has arrived behind that moves to another.
    #[cold]
    fn give_away(&mut self, message: Range<usize>) -> Vec<u8> {
        let size = match self.arrived().len() {
            0 => 0,
            rest => rest.max(RETAINED),
        };
        let mut kept = self.replace(size);
        kept.truncate(message.end);
        kept.drain(..message.start);
        kept
    }

    /// Moves what has arrived to a buffer of `size` bytes; returns the old one. The new memory is not written
    /// to before bytes arrive in it, so the system gives no page of a big one earlier (calloc(3)).
    fn replace(&mut self, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        let arrived = self.arrived();
        bytes[..arrived.len()].copy_from_slice(arrived);
        self.end -= self.start;
        self.start = 0;
        mem::replace(&mut self.bytes, bytes)
    }

    /// Everything that has arrived, leaving none.
    pub(super) fn take_all(&mut self) -> Vec<u8> {
        let arrived = self.arrived().to_vec();
        *self = Buffer::default();
        arrived
    }

    /// One read, tried again when a signal interrupts it; 0 at the end of the stream. `missing` is what the
    /// decoder wants room for.
    pub(super) fn read_from(&mut self, source: &mut impl Read, missing: usize) -> io::Result<usize> {
        self.make_room(missing);
        loop {
            match source.read(&mut self.bytes[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn make_room(&mut self, missing: usize) {
        let arrived = self.arrived().len();
        let needed = arrived.saturating_add(missing);
        if self.start > 0 && self.bytes.len() > RETAINED && !self.is_of_further_use(arrived, needed) {
            self.replace(if arrived == 0 { 0 } else { arrived.max(RETAINED) });
        }
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end = arrived;
            self.start = 0;
        }
        let size = self.bytes.len();
        if self.end == size || (self.end > size / 2 && needed > size) {
            self.grow(needed);
        }
    }

    /// Whether a big buffer, whose message was taken, stays: another big message is coming in, and fits. If nothing
    /// has arrived, the peer may say nothing more for hours: the memory goes back before that.
    fn is_of_further_use(&self, arrived: usize, needed: usize) -> bool {
        arrived > 0 && needed > RETAINED && needed <= self.bytes.len()
    }

    /// To what the message needs, by way of what may be retained: more is taken when so much has arrived.
    fn grow(&mut self, needed: usize) {
        let size = match self.bytes.len() {
            0 => INITIAL,
            size @ ..RETAINED => needed.max(size + size / 2).min(RETAINED),
            size => needed
                .saturating_add(LOOK_AHEAD)
                .min(AT_ONCE.max(2 * size))
                .max(size + size / 2),
        };
        self.replace(size);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("arrived", &self.arrived().len())
            .field("size", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

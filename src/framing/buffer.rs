//! What has arrived and was not taken yet.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::mem;
use std::ops::Range;

use super::Frame;

/// The first size: most messages, and many small ones at a time, in one read.
const INITIAL: usize = 8 * 1024;

/// How much is added at least when that does not do.
const STEP: usize = 64 * 1024;

/// What a peer may keep between two messages: a message of 64 KiB with any header in one read.
const RETAINED: usize = INITIAL + STEP;

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

    /// Takes a frame that the decoder has found in [`arrived`](Self::arrived); returns where its message
    /// is until the next read.
    #[inline]
    pub(super) fn take(&mut self, frame: &Frame) -> Range<usize> {
        let message = self.start + frame.message.start..self.start + frame.message.end;
        self.start += frame.consumed;
        assert!(self.start <= self.end, "a decoder took more bytes than have arrived");
        message
    }

    #[inline]
    pub(super) fn get(&self, message: Range<usize>) -> &[u8] {
        &self.bytes[message]
    }

    /// A message that was just taken, to keep. A big one is the buffer itself, so that there is no second
    /// copy of it in memory.
    pub(super) fn keep(&mut self, message: Range<usize>) -> Vec<u8> {
        if message.len() <= RETAINED || self.end - self.start > STEP {
            return self.get(message).to_vec();
        }
        let rest = self.arrived().to_vec();
        self.start = 0;
        self.end = rest.len();
        let mut owned = mem::replace(&mut self.bytes, rest);
        owned.truncate(message.end);
        owned.drain(..message.start);
        owned
    }

    /// Everything that has arrived, leaving none.
    pub(super) fn take_all(&mut self) -> Vec<u8> {
        let arrived = self.arrived().to_vec();
        *self = Buffer::default();
        arrived
    }

    /// One read, tried again when a signal interrupts it; 0 at the end of the stream. `missing` is how many
    /// bytes the message needs at least.
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

    /// Memory follows what has arrived, not what is announced: at most four times as much, and never more
    /// than a step above what the message needs.
    fn make_room(&mut self, missing: usize) {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let needed = self.end.saturating_add(missing.max(1));
        if self.end == 0 && needed <= RETAINED && self.bytes.len() > RETAINED {
            // The peer may say nothing more for hours: a big message's memory goes back first.
            self.bytes = Vec::new();
        }
        let size = self.bytes.len();
        if size == 0 && needed <= INITIAL {
            self.bytes.resize(INITIAL, 0);
        } else if needed > size {
            self.bytes.resize(needed.min(4 * size).max(size + STEP), 0);
        }
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

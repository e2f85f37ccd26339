//! The buffers behind a stream request, made on first use.

use std::io::{self, ErrorKind, IoSlice, Read, Write};

/// Bytes a buffered read asks for unless told otherwise: as Python's `io.DEFAULT_BUFFER_SIZE`.
const DEFAULT_SIZE: usize = 8192;

/// Of a larger buffer a read uses so much at first, and more as far as that is filled.
const CLEARED_AT_ONCE: usize = 64 * 1024;

/// What was read and not yet taken.
#[derive(Debug)]
pub(crate) struct ReadBuffer {
    bytes: Vec<u8>,
    start: usize,
    size: usize,
}

impl ReadBuffer {
    pub(crate) fn new() -> Self {
        ReadBuffer {
            bytes: Vec::new(),
            start: 0,
            size: DEFAULT_SIZE,
        }
    }

    /// From the next fill on, reads ask for `size` bytes.
    pub(crate) fn set_size(&mut self, size: usize) {
        self.size = size.max(1);
    }

    pub(crate) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Puts back what was read and turned out not to be needed, before all that is there.
    pub(crate) fn put_back(&mut self, bytes: &[u8]) {
        if let Some(start) = self.start.checked_sub(bytes.len()) {
            // Most of the time they were taken from here: what is behind them stays where it is.
            self.bytes[start..self.start].copy_from_slice(bytes);
            self.start = start;
        } else {
            self.bytes.splice(..self.start, bytes.iter().copied());
            self.start = 0;
        }
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.bytes.len());
        if self.unread().is_empty() && self.bytes.capacity() > self.size.max(DEFAULT_SIZE) {
            // What was put back of a big message is not kept room for.
            self.bytes = Vec::new();
            self.start = 0;
        }
    }

    /// Reads more if everything was taken; returns what is there, empty at the end of the stream.
    pub(crate) fn fill(&mut self, source: &mut impl Read) -> io::Result<&[u8]> {
        if self.start == self.bytes.len() {
            self.start = 0;
            self.bytes
                .try_reserve_exact(self.size.saturating_sub(self.bytes.len()))?;
            // What the last read brought is here still. Twice that: what is cleared is touched, and gigabytes are rare.
            let room = self.bytes.len().saturating_mul(2).max(CLEARED_AT_ONCE);
            self.bytes.resize(room.min(self.size), 0);
            let read = source.read(&mut self.bytes);
            self.bytes.truncate(*read.as_ref().unwrap_or(&0));
            read?;
        }
        Ok(self.unread())
    }

    /// Takes from the buffer; past it, a large read goes straight to the caller's memory.
    pub(crate) fn read(&mut self, source: &mut impl Read, out: &mut [u8]) -> io::Result<usize> {
        if self.unread().is_empty() && (out.len() >= self.size || self.bytes.capacity() == 0) {
            return source.read(out);
        }
        let available = self.fill(source)?;
        let count = available.len().min(out.len());
        out[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// What was written and not yet sent.
#[derive(Debug, Default)]
pub(crate) struct WriteBuffer {
    bytes: Vec<u8>,
    size: usize,
    /// The last attempt to send what is here or in the sink has failed, and nothing was written since.
    failed: bool,
}

impl WriteBuffer {
    /// Writes are gathered up to `size` bytes; 0, the default, sends each at once.
    pub(crate) fn set_size(&mut self, size: usize) {
        self.size = size;
    }

    /// Writes all of `data` or fails: like Python's `wfile`, there are no short writes.
    pub(crate) fn write(&mut self, sink: &mut impl Write, data: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + data.len() > self.size {
            self.send(sink)?;
        }
        if data.len() < self.size {
            self.bytes.extend_from_slice(data);
            self.failed = false;
            return Ok(data.len());
        }
        self.note(sink.write_all(data))?;
        if self.size == 0 {
            self.note(sink.flush())?;
        }
        Ok(data.len())
    }

    /// As [`write`](Self::write), header and body in one call of writev(2); what is not gathered may be
    /// written short, as a vectored write may. It does not flush the sink: an error would have to say how much was
    /// taken.
    pub(crate) fn write_vectored(&mut self, sink: &mut impl Write, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        if self.bytes.len() + length > self.size {
            self.send(sink)?;
        }
        if length >= self.size {
            return self.note(sink.write_vectored(slices));
        }
        for slice in slices {
            self.bytes.extend_from_slice(slice);
        }
        self.failed = false;
        Ok(length)
    }

    /// Takes over what is to be sent with the next flush; `failed`: sending it has been tried.
    pub(crate) fn gather(&mut self, mut data: Vec<u8>, failed: bool) {
        if data.is_empty() {
            return;
        }
        if self.bytes.is_empty() {
            self.bytes = data;
        } else {
            self.bytes.append(&mut data);
        }
        self.failed = failed;
    }

    /// Whether the last attempt to send has failed, and nothing was written since.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Sends what is gathered, here and in the sink.
    pub(crate) fn flush(&mut self, sink: &mut impl Write) -> io::Result<()> {
        self.send(sink)?;
        self.note(sink.flush())
    }

    /// Sends what is gathered here. What an error leaves stays, so that whatever is written next goes behind it: the
    /// peer would take it for a part of what was cut off.
    fn send(&mut self, sink: &mut impl Write) -> io::Result<()> {
        let mut sent = 0;
        let outcome = loop {
            if sent == self.bytes.len() {
                break Ok(());
            }
            match sink.write(&self.bytes[sent..]) {
                Ok(0) => break Err(ErrorKind::WriteZero.into()),
                Ok(count) => sent += count,
                Err(error) => break Err(error),
            }
        };
        self.bytes.drain(..sent);
        // The rest of a big message is not kept room for.
        self.bytes.shrink_to(self.size.max(DEFAULT_SIZE));
        self.note(outcome)
    }

    /// Takes note of how an attempt to send has ended.
    fn note<T>(&mut self, outcome: io::Result<T>) -> io::Result<T> {
        self.failed = outcome.is_err();
        outcome
    }
}

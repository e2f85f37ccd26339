//! The stream of a [`Framed`](super::Framed), with what lies between it and the codec.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::mem;
use std::time::{Duration, Instant};

use super::buffer::Buffer;

/// Up to this many bytes are put together for one write. Copying so few costs less than a system call, and
/// a stream that cannot gather (writev(2)) then gets header and message in one piece, too: in two, Nagle's
/// algorithm would hold the second back until the first is acknowledged.
pub(super) const WRITE_BUFFER: usize = 8 * 1024;

/// The stream with what was read ahead and what was not yet sent.
pub(super) struct Buffered<S> {
    /// `None` once it was taken apart.
    stream: Option<S>,
    pub(super) unread: Buffer,
    pub(super) unsent: Vec<u8>,
    pub(super) write_failed: bool,
    lender: Option<Lender<S>>,
}

/// Why the stream is there.
const IN_ONE_PIECE: &str = "only into_parts takes the stream, and the Framed with it";

/// What a request that lends its stream wants to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lender<S> {
    /// Whether what is read from now on is the rest of a message that has begun.
    pub(crate) set_in_message: fn(&S, bool),
    /// When that message has begun, and within what time of that it has to be complete; `None`: it is over.
    pub(crate) limit_message: fn(&mut S, Option<(Instant, Duration)>),
    /// Takes over what a dropped `Framed` has read ahead (first) and not yet sent (second); and whether sending
    /// that has failed.
    pub(crate) give_back: fn(&mut S, &[u8], Vec<u8>, bool),
}

impl<S> Buffered<S> {
    pub(super) fn new(stream: S, lender: Option<Lender<S>>) -> Self {
        Buffered {
            stream: Some(stream),
            unread: Buffer::default(),
            unsent: Vec::new(),
            write_failed: false,
            lender,
        }
    }

    pub(super) fn stream(&self) -> &S {
        self.stream.as_ref().expect(IN_ONE_PIECE)
    }

    pub(super) fn stream_mut(&mut self) -> &mut S {
        self.stream.as_mut().expect(IN_ONE_PIECE)
    }

    pub(super) fn take_stream(&mut self) -> S {
        self.stream.take().expect(IN_ONE_PIECE)
    }

    pub(super) fn is_lent(&self) -> bool {
        self.lender.is_some()
    }

    pub(super) fn limit_message(&mut self, limit: Option<(Instant, Duration)>) {
        if let (Some(stream), Some(lender)) = (&mut self.stream, &self.lender) {
            (lender.limit_message)(stream, limit);
        }
    }
}

impl<S: Read> Buffered<S> {
    pub(super) fn read(&mut self, missing: usize) -> io::Result<usize> {
        let stream = self.stream.as_mut().expect(IN_ONE_PIECE);
        let in_message = !self.unread.arrived().is_empty();
        let Some(lender) = self.lender.as_ref().filter(|_| in_message) else {
            return self.unread.read_from(stream, missing);
        };
        (lender.set_in_message)(stream, true);
        let read = self.unread.read_from(stream, missing);
        (lender.set_in_message)(stream, false);
        read
    }
}

impl<S: Write> Buffered<S> {
    /// Writes what is gathered, with `message` between what is before `at` and what is behind it; keeps what
    /// an error leaves.
    pub(super) fn write_around(&mut self, at: usize, message: &[u8]) -> io::Result<()> {
        let stream = self.stream.as_mut().expect(IN_ONE_PIECE);
        let (before, behind) = self.unsent.split_at(at);
        let written = write_all(stream, &mut [before, message, behind].map(IoSlice::new));
        self.write_failed = written.is_err();
        written.map_err(|(error, rest)| {
            self.unsent = rest;
            error
        })?;
        self.unsent.clear();
        self.unsent.shrink_to(WRITE_BUFFER);
        Ok(())
    }
}

/// Writes all of the slices; an error comes with what was not written.
fn write_all(stream: &mut impl Write, mut slices: &mut [IoSlice<'_>]) -> Result<(), (io::Error, Vec<u8>)> {
    // Empty ones at the front would look like a stream that takes nothing.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let error = match stream.write_vectored(slices) {
            Ok(0) => ErrorKind::WriteZero.into(),
            Ok(written) => {
                IoSlice::advance_slices(&mut slices, written);
                continue;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => error,
        };
        let mut rest = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
        for slice in slices.iter() {
            rest.extend_from_slice(slice);
        }
        return Err((error, rest));
    }
    Ok(())
}

impl<S> Drop for Buffered<S> {
    fn drop(&mut self) {
        self.limit_message(None);
        if let (Some(stream), Some(lender)) = (&mut self.stream, &self.lender) {
            let unsent = mem::take(&mut self.unsent);
            (lender.give_back)(stream, self.unread.arrived(), unsent, self.write_failed);
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Buffered<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffered")
            .field("stream", &self.stream)
            .field("unread", &self.unread)
            .field("unsent", &self.unsent.len())
            .finish_non_exhaustive()
    }
}

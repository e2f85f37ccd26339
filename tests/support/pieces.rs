//! A stream whose reads and writes come in pieces that the test chooses.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};

use socketserver::prelude::*;

/// Each read returns the next piece, or as much of it as fits; then the stream has ended.
#[derive(Debug, Default)]
pub struct Pieces {
    input: VecDeque<Result<Vec<u8>, ErrorKind>>,
    /// How many bytes the next writes take, or how they fail; then each takes all.
    pub writes: VecDeque<Result<usize, ErrorKind>>,
    pub written: Vec<u8>,
    /// How often it was read and written.
    pub calls: (usize, usize),
}

impl Pieces {
    pub fn new<P: Into<Vec<u8>>>(pieces: impl IntoIterator<Item = P>) -> Self {
        Pieces::with_errors(pieces.into_iter().map(|piece| Ok(piece.into())))
    }

    pub fn with_errors(pieces: impl IntoIterator<Item = Result<Vec<u8>, ErrorKind>>) -> Self {
        Pieces {
            input: pieces.into_iter().collect(),
            ..Pieces::default()
        }
    }

    /// One byte a read.
    pub fn bytewise(bytes: &[u8]) -> Self {
        Pieces::new(bytes.iter().map(|&byte| [byte]))
    }
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.calls.0 += 1;
        let Some(piece) = self.input.pop_front() else {
            return Ok(0);
        };
        let mut piece = piece?;
        let count = piece.len().min(out.len());
        out[..count].copy_from_slice(&piece[..count]);
        if count < piece.len() {
            self.input.push_front(Ok(piece.split_off(count)));
        }
        Ok(count)
    }
}

impl Write for Pieces {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(data)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.calls.1 += 1;
        let all = slices.iter().map(|slice| slice.len()).sum();
        let count = self.writes.pop_front().unwrap_or(Ok(all))?;
        let data = slices.iter().flat_map(|slice| slice.iter().copied());
        self.written.extend(data.take(count));
        Ok(count.min(all))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Pieces {}

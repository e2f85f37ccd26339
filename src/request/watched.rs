//! What the server learns from the reads and writes of a request.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;

use super::{ServerContext, Stream};

/// A source whose reads the server knows of: it counts the bytes, and knows when a connection is idle,
/// waiting for the next message, and once the server drains no read of an idle connection waits any more.
pub(super) struct Watched<'a, R> {
    pub(super) source: R,
    pub(super) context: &'a ServerContext,
    pub(super) end: fn(&R, &ServerContext),
}

impl<R: Read> Read for Watched<'_, R> {
    #[inline]
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.context.begin_read() {
            (self.end)(&self.source, self.context);
        }
        let read = self.source.read(out);
        self.context.end_read();
        read.inspect(|count| self.context.received(*count))
    }
}

/// A sink whose bytes the server counts.
pub(super) struct Counted<'a, W> {
    pub(super) sink: W,
    pub(super) context: &'a ServerContext,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.sink.write(data).inspect(|count| self.context.sent(*count))
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = self.sink.write_vectored(slices);
        written.inspect(|count| self.context.sent(*count))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// The connection is idle and to end: from now on a read gets the end of the stream, and never waits (shutdown(2)). At
/// the socket, as the drain does it, if there is one: not if the next message has begun to arrive.
pub(super) fn end_reading(stream: &impl Stream, context: &ServerContext) {
    match stream.fileno() {
        Some(socket) => context.end_if_idle(socket.as_raw_fd()),
        // The peer may be gone already (ENOTCONN).
        None => drop(stream.shutdown_stream(Shutdown::Read)),
    }
}

//! The two directions of a connection apart.

use std::fmt;
use std::io::{self, BufRead, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use super::buffer::{ReadBuffer, WriteBuffer};
use super::clock::{Clock, Reading, TimedReader, TimedWriter, Writing};
use super::stream_request::write_formatted;
use super::watched::{Counted, Watched, end_reading};
use super::{ServerContext, Stream};
use crate::framing::{Framed, Lender};

/// The reading half of a [`StreamRequest`](super::StreamRequest): Python's `rfile`.
#[derive(Debug)]
pub struct RFile<'a, S> {
    pub(super) stream: &'a S,
    pub(super) context: &'a ServerContext,
    pub(super) clock: &'a Clock,
    pub(super) reading: &'a mut Reading,
    pub(super) buffer: &'a mut ReadBuffer,
}

impl<'a, S: Stream> RFile<'a, S>
where
    &'a S: Read,
{
    fn reader(&mut self) -> (&mut ReadBuffer, impl Read) {
        let source = TimedReader {
            stream: &mut self.stream,
            clock: self.clock,
            reading: self.reading,
            set_option: |stream: &&S, timeout| stream.set_stream_read_timeout(timeout),
        };
        let source = Watched {
            source,
            context: self.context,
            end: |source: &TimedReader<'_, &S, _>, context| end_reading(*source.stream, context),
        };
        (self.buffer, source)
    }
}

impl<S: Stream> RFile<'_, S> {
    /// Messages instead of bytes, as [`StreamRequest::framed`](super::StreamRequest::framed) reads them: what the
    /// request has read ahead is used first, what the `Framed` has read ahead goes back to the request when it is
    /// dropped, and a drain knows of a message that has begun to come, whatever another thread writes meanwhile.
    ///
    /// ```
    /// use socketserver::prelude::*;
    ///
    /// fn echo(request: &mut TcpRequest) -> std::io::Result<()> {
    ///     let (rfile, wfile) = request.split();
    ///     let (mut incoming, mut outgoing) = (rfile.framed(LinesCodec::new()), wfile.framed(LinesCodec::new()));
    ///     while let Some(line) = incoming.next_ref()? {
    ///         outgoing.send(line)?;
    ///     }
    ///     Ok(())
    /// }
    /// let server = ThreadingTcpServer::new("127.0.0.1:0", echo);
    /// ```
    pub fn framed<C>(self, codec: C) -> Framed<Self, C> {
        let lender = Lender {
            set_in_message: |half: &Self, in_message| half.context.set_in_message(in_message),
            limit_message: |half, limit| {
                let set_option = |timeout| half.stream.set_stream_read_timeout(timeout);
                half.reading.limit_message(limit, half.clock, set_option);
            },
            give_back: |half, unread, _, _| half.buffer.put_back(unread),
        };
        Framed::lent(self, codec, lender)
    }
}

impl<'a, S: Stream> Read for RFile<'a, S>
where
    &'a S: Read,
{
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = {
            let (buffer, mut source) = self.reader();
            buffer.read(&mut source, out)?
        };
        self.context.took(count);
        Ok(count)
    }
}

impl<'a, S: Stream> BufRead for RFile<'a, S>
where
    &'a S: Read,
{
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let (buffer, mut source) = self.reader();
        buffer.fill(&mut source)
    }

    fn consume(&mut self, count: usize) {
        self.buffer.consume(count);
        self.context.took(count);
    }
}

/// The writing half of a [`StreamRequest`](super::StreamRequest): Python's `wfile`. [`write`](Write::write) writes all.
#[derive(Debug)]
pub struct WFile<'a, S> {
    pub(super) stream: &'a S,
    pub(super) context: &'a ServerContext,
    pub(super) clock: &'a Clock,
    pub(super) writing: &'a mut Writing,
    pub(super) buffer: &'a mut WriteBuffer,
    pub(super) lent: &'a AtomicBool,
}

impl<S> WFile<'_, S> {
    /// Messages instead of bytes, as [`StreamRequest::framed`](super::StreamRequest::framed) writes them: what was not
    /// sent when the `Framed` is dropped goes to the request. [`RFile::framed`] has an example.
    pub fn framed<C>(self, codec: C) -> Framed<Self, C> {
        let lender = Lender {
            set_in_message: |_: &Self, _| {},
            limit_message: |_, _| {},
            give_back: |half, _, unsent, failed| half.buffer.gather(unsent, failed),
        };
        Framed::lent(self, codec, lender)
    }
}

impl<S: Stream> WFile<'_, S> {
    /// The descriptor of the socket, if the stream is one.
    pub fn fileno(&self) -> Option<BorrowedFd<'_>> {
        self.lent.store(true, Ordering::Relaxed);
        self.stream.fileno()
    }
}

impl<'a, S: Stream> WFile<'a, S>
where
    &'a S: Write,
{
    fn writer(&mut self) -> (&mut WriteBuffer, impl Write) {
        let set_option = |stream: &&S, timeout| stream.set_stream_write_timeout(timeout);
        let sink = TimedWriter::new(&mut self.stream, self.clock, self.writing, set_option);
        let context = self.context;
        (self.buffer, Counted { sink, context })
    }

    /// Sends what is gathered, and tells the peer that nothing more comes (shutdown(2), `SHUT_WR`): it reads the end of
    /// the stream, while the other half goes on reading. What a proxy does with the end that the other side has sent.
    ///
    /// # Errors
    ///
    /// Those of the write and of shutdown(2).
    pub fn shutdown(mut self) -> io::Result<()> {
        self.flush()?;
        self.stream.shutdown_stream(Shutdown::Write)
    }

    fn answered(&self) {
        if self.context.answered(self.clock.is_in_setup()) {
            // The other half waits in a read already.
            end_reading(self.stream, self.context);
        }
    }
}

impl<'a, S: Stream> Write for WFile<'a, S>
where
    &'a S: Write,
{
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = {
            let (buffer, mut sink) = self.writer();
            buffer.write(&mut sink, data)?
        };
        self.answered();
        Ok(count)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let count = {
            let (buffer, mut sink) = self.writer();
            buffer.write_vectored(&mut sink, slices)?
        };
        self.answered();
        Ok(count)
    }

    fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        write_formatted(self, text)
    }

    fn flush(&mut self) -> io::Result<()> {
        let (buffer, mut sink) = self.writer();
        buffer.flush(&mut sink)
    }
}

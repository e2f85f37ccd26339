//! The clocks of writes.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::mem;
use std::time::{Duration, Instant};

use super::patience::Patience;
use super::{Clock, Limit, TICK};
use crate::timeouts::TimeoutKind;

/// The most that one system call is given to write, in bytes, while a clock runs. On Unix sockets
/// `SO_SNDTIMEO` is for each buffer of the kernel's (`unix_stream_sendmsg`), not for the call: 4 MiB to a
/// slow reader were seen to take 10 s with an option of 0.5 s. This fits into one buffer.
const PIECE: usize = 32 * 1024;

/// How far behind its end a call comes back only if the process did not run meanwhile.
const LATE: Duration = TICK.saturating_mul(5);

/// The state of the writing direction.
#[derive(Debug, Default)]
pub(crate) struct Writing {
    patience: Patience,
    /// Of which a vectored write has left a rest: the next goes on with it, or gathers it, and then that is all.
    unfinished: Option<Operation>,
}

/// What all the system calls that it takes have one time for.
#[derive(Clone, Copy, Debug)]
struct Operation {
    /// When it first sent something; later by what does not count.
    began: Instant,
    /// When the last of the calls began.
    called: Instant,
    /// Something does not, which happens once.
    put_off: bool,
}

impl Operation {
    fn new(now: Instant) -> Self {
        Operation {
            began: now,
            called: now,
            put_off: false,
        }
    }

    /// What comes behind has the time, too, by which a limit that had this `end` was put off.
    fn extend(&mut self, end: Instant, limit: Limit) {
        if limit.put_off && !self.put_off {
            self.began += limit.end.saturating_duration_since(end);
            self.put_off = true;
        }
    }
}

impl Writing {
    /// The clocks have been set.
    pub(crate) fn prepare(
        &mut self,
        clock: &Clock,
        set_option: impl FnOnce(Option<Duration>) -> io::Result<()>,
    ) -> io::Result<()> {
        let now = Instant::now();
        let limit = Self::limit(clock, Operation::new(now));
        if limit.is_none() {
            // What writes the rest without a clock does not look for it; a clock that is set afterwards is not its.
            self.unfinished = None;
        }
        self.patience.prepare(limit, now, set_option)
    }

    /// The set-up is done, which is all the handshake of a write. Then the option is set to what the other clocks say,
    /// for whoever uses the raw socket.
    pub(crate) fn end_handshake(&mut self, clock: &Clock, set_option: impl FnOnce(Option<Duration>) -> io::Result<()>) {
        if clock.timeouts().handshake.is_some() {
            // Should it fail, the request's next write tries again and says so.
            let _ = self.prepare(clock, set_option);
        }
    }

    fn limit(clock: &Clock, operation: Operation) -> Option<Limit> {
        let Operation { began, put_off, .. } = operation;
        let write = Limit::new(TimeoutKind::Write, clock.timeouts().write, began);
        let write = write.map(|limit| Limit { put_off, ..limit });
        let handshake = if clock.in_setup { clock.handshake() } else { None };
        Limit::soonest([write, clock.request(), handshake])
    }
}

/// Writes a stream under its clocks: one operation. `set_option` sets `SO_SNDTIMEO`.
pub(crate) struct TimedWriter<'a, S, F> {
    stream: &'a mut S,
    clock: &'a Clock,
    writing: &'a mut Writing,
    set_option: F,
    /// Once it has begun, or the one that it goes on with: its time is for all that it sends.
    operation: Option<Operation>,
}

impl<'a, S, F> TimedWriter<'a, S, F> {
    pub(crate) fn new(stream: &'a mut S, clock: &'a Clock, writing: &'a mut Writing, set_option: F) -> Self {
        TimedWriter {
            operation: writing.unfinished.take(),
            stream,
            clock,
            writing,
            set_option,
        }
    }
}

impl<S, F> TimedWriter<'_, S, F>
where
    S: Write,
    F: Fn(&S, Option<Duration>) -> io::Result<()>,
{
    fn attempt_without_limit(&mut self, operation: impl FnMut(&mut S) -> io::Result<usize>) -> io::Result<usize> {
        let patience = &mut self.writing.patience;
        patience.attempt_without_limit(self.stream, &self.set_option, operation)
    }

    fn attempt(
        &mut self,
        now: Instant,
        mut limit: Limit,
        operation: impl FnMut(&mut S) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let end = limit.end;
        let patience = &mut self.writing.patience;
        let outcome = patience.attempt(&mut limit, now, self.stream, &self.set_option, operation);
        if let Some(operation) = &mut self.operation {
            operation.extend(end, limit);
        }
        outcome
    }

    /// When an operation that goes on `now` must be over.
    fn limit(&mut self, now: Instant) -> Option<Limit> {
        let operation = self.operation.get_or_insert(Operation::new(now));
        let before = mem::replace(&mut operation.called, now);
        let mut limit = Writing::limit(self.clock, *operation)?;
        let end = limit.end;
        if now > end + LATE {
            // The last call was stopped in its middle, and has said what was taken until then.
            limit.allow_for_a_stop(before, now);
            operation.extend(end, limit);
        }
        Some(limit)
    }

    /// Not inlined, nor is what follows: a connection without a clock needs none of this on its stack.
    #[inline(never)]
    fn write_within(&mut self, now: Instant, data: &[u8]) -> io::Result<usize> {
        match self.limit(now) {
            None => self.attempt_without_limit(|stream| stream.write(data)),
            Some(limit) => {
                let piece = &data[..data.len().min(PIECE)];
                self.attempt(now, limit, |stream| stream.write(piece))
            }
        }
    }

    #[inline(never)]
    fn write_vectored_within(&mut self, now: Instant, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(limit) = self.limit(now) else {
            return self.attempt_without_limit(|stream| stream.write_vectored(slices));
        };
        let piece = first_piece(slices);
        let written = self.attempt(now, limit, |stream| stream.write_vectored(&piece))?;
        let length = slices.iter().map(|slice| slice.len()).sum();
        self.writing.unfinished = self.operation.filter(|_| written < length);
        Ok(written)
    }

    #[cold]
    fn flush_within(&mut self) -> io::Result<()> {
        let flush = |stream: &mut S| stream.flush().map(|()| 0);
        let now = self.clock.now();
        let limited = now.and_then(|now| Some((now, self.limit(now)?)));
        let flushed = match limited {
            None => self.attempt_without_limit(flush),
            Some((now, limit)) => self.attempt(now, limit, flush),
        };
        flushed.map(drop)
    }
}

impl<S, F> Write for TimedWriter<'_, S, F>
where
    S: Write,
    F: Fn(&S, Option<Duration>) -> io::Result<()>,
{
    /// One write, tried again when a signal interrupts it.
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self.clock.now() {
            None => self.attempt_without_limit(|stream| stream.write(data)),
            Some(now) => self.write_within(now, data),
        }
    }

    /// As [`write`](Self::write). Whoever goes on with what is left has the rest of the time.
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.clock.now() {
            None => self.attempt_without_limit(|stream| stream.write_vectored(slices)),
            Some(now) => self.write_vectored_within(now, slices),
        }
    }

    /// Tried first, and looked at the time only if that was in vain: a socket has nothing to flush.
    fn flush(&mut self) -> io::Result<()> {
        match self.stream.flush() {
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => self.flush_within(),
            done => done,
        }
    }
}

/// As much of the slices as one system call is given to write. Empty ones would say that nothing can be written.
fn first_piece<'a>(slices: &'a [IoSlice<'_>]) -> [IoSlice<'a>; 4] {
    let mut room = PIECE;
    let mut piece = [IoSlice::new(&[]); 4];
    for (part, slice) in piece.iter_mut().zip(slices.iter().filter(|slice| !slice.is_empty())) {
        *part = IoSlice::new(&slice[..slice.len().min(room)]);
        room -= part.len();
    }
    piece
}

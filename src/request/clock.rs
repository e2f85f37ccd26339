//! Reading and writing under the clocks of [`Timeouts`].
//!
//! What waits is the read or the write itself, limited by `SO_RCVTIMEO` or `SO_SNDTIMEO` (socket(7)): one
//! system call, where poll(2) would take two or three. The option is set anew only if it would let the call
//! wait for longer than the clocks allow. Under a plain timeout that is never. Under a deadline it is
//! set to half of the time left, which holds until half of that is gone: a dozen times in all, however
//! many reads there are. A call that comes back before the time is over goes on waiting.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::time::{Duration, Instant};

use crate::timeouts::{TimeoutError, TimeoutKind, Timeouts};

/// How much sooner than asked for the kernel may end a wait: one tick of its slowest clock (`CONFIG_HZ`
/// of 100), because the one that has begun counts as a whole one.
const TICK: Duration = Duration::from_millis(10);

/// By how much an option may be too long: the kernel's ticks are no finer.
const SLACK: Duration = Duration::from_millis(1);

/// The most that one system call is given to write, in bytes, while a clock runs. On Unix sockets
/// `SO_SNDTIMEO` is for each buffer of the kernel's (`unix_stream_sendmsg`), not for the call: 4 MiB to a
/// slow reader were seen to take 10 s with an option of 0.5 s. This fits into one buffer.
const PIECE: usize = 32 * 1024;

/// The clocks of a request; the same for both directions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {
    /// `None` if none of them is set, which is looked at with each read and write. Boxed: they are longer than all else
    /// that a read or a write looks at.
    timeouts: Option<Box<Timeouts>>,
    /// When the request began: from then on run the clocks of the request and of the handshake.
    began: Option<Instant>,
    /// Since when that of the request runs, if it has been given its full time again.
    restarted: Option<Instant>,
    in_setup: bool,
}

impl Clock {
    /// A server begins to serve the request.
    pub(crate) fn begin(&mut self) {
        self.began = Some(Instant::now());
        self.restarted = None;
        self.in_setup = true;
    }

    /// For a stream around another: its time has begun already, its handler has not.
    pub(crate) fn for_wrapped(&self) -> Self {
        Clock {
            in_setup: true,
            ..self.clone()
        }
    }

    pub(crate) fn is_in_setup(&self) -> bool {
        self.in_setup
    }

    pub(crate) fn setup_done(&mut self) {
        self.in_setup = false;
    }

    /// The request has its full time again, the handshake has not.
    pub(crate) fn restart(&mut self) {
        self.restarted = Some(Instant::now());
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        self.timeouts.as_deref().copied().unwrap_or_default()
    }

    pub(crate) fn set(&mut self, timeouts: Timeouts) {
        self.timeouts = (timeouts != Timeouts::new()).then(|| Box::new(timeouts));
        // A request that was made by hand begins with its first clock.
        self.began.get_or_insert_with(Instant::now);
    }

    /// When the whole request must be over.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.request().map(|limit| limit.end)
    }

    /// # Errors
    ///
    /// The request's time is over.
    pub(crate) fn check(&self) -> io::Result<()> {
        match self.request() {
            Some(limit) if limit.end <= Instant::now() => Err(limit.reason.into()),
            _ => Ok(()),
        }
    }

    fn request(&self) -> Option<Limit> {
        let began = self.restarted.or(self.began)?;
        Limit::new(TimeoutKind::Request, self.timeouts.as_ref()?.request, began)
    }

    fn handshake(&self) -> Option<Limit> {
        Limit::new(TimeoutKind::Handshake, self.timeouts.as_ref()?.handshake, self.began?)
    }

    /// Whether one of them is set.
    fn runs(&self) -> bool {
        self.timeouts.is_some()
    }

    /// The time, if it matters: without clocks nobody looks at one.
    fn now(&self) -> Option<Instant> {
        self.runs().then(Instant::now)
    }
}

#[cold]
fn would_not_wait() -> io::Error {
    let text = "the raw socket is non-blocking, or the timeout that was set on it is over";
    io::Error::new(ErrorKind::TimedOut, text)
}

/// When an operation must be over, and by which clock.
#[derive(Clone, Copy, Debug)]
struct Limit {
    end: Instant,
    reason: TimeoutError,
    /// It has been put off already; see [`allow_for_a_stop`](Self::allow_for_a_stop).
    put_off: bool,
}

impl Limit {
    /// None if there is no such clock, or if it would run out after the end of time.
    fn new(kind: TimeoutKind, length: Option<Duration>, began: Instant) -> Option<Self> {
        let length = length?;
        Some(Limit {
            end: began.checked_add(length)?,
            reason: TimeoutError::new(kind, length),
            put_off: false,
        })
    }

    /// A wait was interrupted. The process may have been stopped (SIGSTOP, a frozen container) for longer than the peer has
    /// time, who may have kept to it: once, a tick is left to find what has come meanwhile. Not for what has to be over.
    fn allow_for_a_stop(&mut self, now: Instant) {
        let is_for_the_peer = matches!(
            self.reason.kind(),
            TimeoutKind::Idle | TimeoutKind::Read | TimeoutKind::Write | TimeoutKind::Message
        );
        if is_for_the_peer && !self.put_off && self.end <= now {
            (self.end, self.put_off) = (now + TICK, true);
        }
    }

    fn soonest(limits: impl IntoIterator<Item = Option<Self>>) -> Option<Self> {
        limits.into_iter().flatten().min_by_key(|limit| limit.end)
    }

    fn left(&self, now: Instant) -> Duration {
        self.end.saturating_duration_since(now)
    }
}

/// What one direction's option on the socket is set to.
#[derive(Debug, Default)]
struct Patience {
    set: Option<Duration>,
}

impl Patience {
    /// Sets the option to what `limit` leaves `now`, so that a user of the raw socket has it too.
    fn prepare(
        &mut self,
        limit: Option<Limit>,
        now: Instant,
        set_option: impl FnOnce(Option<Duration>) -> io::Result<()>,
    ) -> io::Result<()> {
        match limit {
            Some(limit) => self.change(limit.left(now), |to| set_option(Some(to))),
            None if self.set.is_some() => self.lift(set_option),
            None => Ok(()),
        }
    }

    /// Takes the option back: no clock runs, or, behind a handshake, none any more.
    #[cold]
    fn lift(&mut self, set_option: impl FnOnce(Option<Duration>) -> io::Result<()>) -> io::Result<()> {
        set_option(None)?;
        self.set = None;
        Ok(())
    }

    /// Calls `operation`, which no clock limits, until no signal interrupts it. A handler can have set the options of the
    /// raw socket itself; when they run out, the system says EAGAIN, which reads as "would block" although it did block.
    fn attempt_without_limit<S>(
        &mut self,
        stream: &mut S,
        set_option: &impl Fn(&S, Option<Duration>) -> io::Result<()>,
        mut operation: impl FnMut(&mut S) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if self.set.is_some() {
            self.lift(|to| set_option(stream, to))?;
        }
        loop {
            match operation(stream) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(would_not_wait()),
                done => return done,
            }
        }
    }

    /// Calls `operation` until it has done something or `limit` is over.
    fn attempt<S>(
        &mut self,
        mut limit: Limit,
        mut now: Instant,
        stream: &mut S,
        set_option: &impl Fn(&S, Option<Duration>) -> io::Result<()>,
        mut operation: impl FnMut(&mut S) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            let left = limit.left(now);
            if left.is_zero() {
                return Err(limit.reason.into());
            }
            self.shorten(left, |to| set_option(stream, Some(to)))?;
            let outcome = operation(stream);
            let Err(error) = outcome else { return outcome };
            let began = std::mem::replace(&mut now, Instant::now());
            match error.kind() {
                ErrorKind::Interrupted => limit.allow_for_a_stop(now),
                ErrorKind::WouldBlock if limit.left(now) <= TICK => return Err(limit.reason.into()),
                ErrorKind::WouldBlock if self.is_over(now - began) => {
                    self.change(limit.left(now), |to| set_option(stream, Some(to)))?;
                }
                // WouldBlock: the handler has made the socket non-blocking.
                _ => return Err(error),
            }
        }
    }

    /// Sees to it that a call waits no longer than `left`.
    fn shorten(&mut self, left: Duration, set_option: impl FnOnce(Duration) -> io::Result<()>) -> io::Result<()> {
        match self.set {
            Some(set) if set <= left + SLACK => Ok(()),
            Some(_) if left > TICK * 2 => self.change(left / 2, set_option),
            _ => self.change(left, set_option),
        }
    }

    fn change(&mut self, to: Duration, set_option: impl FnOnce(Duration) -> io::Result<()>) -> io::Result<()> {
        // Zero would be for ever.
        let to = to.max(SLACK);
        set_option(to)?;
        self.set = Some(to);
        Ok(())
    }

    /// Whether a call that took so long has waited for as long as the option says.
    fn is_over(&self, took: Duration) -> bool {
        self.set.is_none_or(|set| set <= took + TICK)
    }
}

/// The state of the reading direction.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    patience: Patience,
    /// How long reads have waited since the last byte came.
    silence: Duration,
    /// The peer has sent something.
    heard: bool,
    /// The end of the stream has been read: nothing more comes.
    ended: bool,
    /// For the message whose rest is read, if that has a time of its own. Boxed as the clocks are.
    message: Option<Box<Limit>>,
}

impl Reading {
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// The clocks have been set.
    pub(crate) fn prepare(
        &mut self,
        clock: &Clock,
        set_option: impl FnOnce(Option<Duration>) -> io::Result<()>,
    ) -> io::Result<()> {
        let now = Instant::now();
        self.patience.prepare(self.limit(clock, now), now, set_option)
    }

    /// What is read from now on is the rest of a message that has begun then, and has to be complete within that time; or
    /// not any more: then, as behind a handshake, the option is set to what the other clocks say.
    pub(crate) fn limit_message(
        &mut self,
        limit: Option<(Instant, Duration)>,
        clock: &Clock,
        set_option: impl FnOnce(Option<Duration>) -> io::Result<()>,
    ) {
        let limit = limit.and_then(|(began, timeout)| Limit::new(TimeoutKind::Message, Some(timeout), began));
        let before = std::mem::replace(&mut self.message, limit.map(Box::new));
        if before.is_some() && self.message.is_none() {
            // As there.
            let _ = self.prepare(clock, set_option);
        }
    }

    /// If the handshake is over, the option is set to what the other clocks say: a user of the raw socket may be the
    /// next to read, and the request never again.
    pub(crate) fn end_handshake(&mut self, clock: &Clock, set_option: impl FnOnce(Option<Duration>) -> io::Result<()>) {
        if clock.timeouts().handshake.is_some() && self.has_shaken_hands(clock) {
            // Should it fail, the request's next read tries again and says so.
            let _ = self.prepare(clock, set_option);
        }
    }

    fn has_shaken_hands(&self, clock: &Clock) -> bool {
        self.heard && !clock.in_setup
    }

    fn limit(&self, clock: &Clock, now: Instant) -> Option<Limit> {
        // At least a tick: what has come meanwhile is there to be read, however long it was silent before.
        let idle = Limit::new(TimeoutKind::Idle, clock.timeouts().idle, now).map(|limit| Limit {
            end: limit.end.checked_sub(self.silence).unwrap_or(now).max(now + TICK),
            ..limit
        });
        let read = Limit::new(TimeoutKind::Read, clock.timeouts().read, now);
        let over = self.has_shaken_hands(clock);
        let handshake = if over { None } else { clock.handshake() };
        let message = self.message.as_deref().copied();
        Limit::soonest([idle, read, clock.request(), handshake, message])
    }

    fn note(&mut self, outcome: &io::Result<usize>, limit: Limit, took: Duration) {
        match outcome {
            Ok(0) => {}
            Ok(_) => {
                self.heard = true;
                self.silence = Duration::ZERO;
            }
            // Reported, so it starts again: a handler that goes on nevertheless waits, and does not spin.
            Err(_) if limit.reason.kind() == TimeoutKind::Idle => self.silence = Duration::ZERO,
            Err(_) => self.silence += took,
        }
    }
}

/// Reads a stream under its clocks. `set_option` sets `SO_RCVTIMEO`.
pub(crate) struct TimedReader<'a, S, F> {
    pub(crate) stream: &'a mut S,
    pub(crate) clock: &'a Clock,
    pub(crate) reading: &'a mut Reading,
    pub(crate) set_option: F,
}

impl<S, F> Read for TimedReader<'_, S, F>
where
    S: Read,
    F: Fn(&S, Option<Duration>) -> io::Result<()>,
{
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let outcome = self.read_once(out);
        self.reading.ended |= matches!(outcome, Ok(0)) && !out.is_empty();
        outcome
    }
}

impl<S, F> TimedReader<'_, S, F>
where
    S: Read,
    F: Fn(&S, Option<Duration>) -> io::Result<()>,
{
    /// One read, tried again when a signal interrupts it.
    fn read_once(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if !self.clock.runs() && self.reading.message.is_none() {
            return self.read_without_limit(out);
        }
        self.read_within(Instant::now(), out)
    }

    fn read_without_limit(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let patience = &mut self.reading.patience;
        let outcome = patience.attempt_without_limit(self.stream, &self.set_option, |stream| stream.read(out));
        self.reading.heard |= outcome.as_ref().is_ok_and(|count| *count > 0);
        outcome
    }

    /// Not inlined: a connection that waits without a clock needs none of this on its stack.
    #[inline(never)]
    fn read_within(&mut self, began: Instant, out: &mut [u8]) -> io::Result<usize> {
        let Some(limit) = self.reading.limit(self.clock, began) else {
            return self.read_without_limit(out);
        };
        let patience = &mut self.reading.patience;
        let outcome = patience.attempt(limit, began, self.stream, &self.set_option, |stream| stream.read(out));
        let heard = self.reading.heard;
        self.reading.note(&outcome, limit, began.elapsed());
        if self.reading.heard && !heard {
            let stream = &*self.stream;
            self.reading
                .end_handshake(self.clock, |to| (self.set_option)(stream, to));
        }
        outcome
    }
}

/// The state of the writing direction.
#[derive(Debug, Default)]
pub(crate) struct Writing {
    patience: Patience,
    /// When the operation began of which a vectored write has left a rest: the next goes on with it, or gathers it, and
    /// then that is all.
    unfinished: Option<Instant>,
}

impl Writing {
    /// The clocks have been set.
    pub(crate) fn prepare(
        &mut self,
        clock: &Clock,
        set_option: impl FnOnce(Option<Duration>) -> io::Result<()>,
    ) -> io::Result<()> {
        let now = Instant::now();
        let limit = Self::limit(clock, now);
        if limit.is_none() {
            // What writes the rest without a clock does not look for it; a clock that is set afterwards is not its.
            self.unfinished = None;
        }
        self.patience.prepare(limit, now, set_option)
    }

    /// As [`Reading::end_handshake`], once the set-up is done: that is all the handshake of a write.
    pub(crate) fn end_handshake(&mut self, clock: &Clock, set_option: impl FnOnce(Option<Duration>) -> io::Result<()>) {
        if clock.timeouts().handshake.is_some() {
            // As there.
            let _ = self.prepare(clock, set_option);
        }
    }

    fn limit(clock: &Clock, now: Instant) -> Option<Limit> {
        let write = Limit::new(TimeoutKind::Write, clock.timeouts().write, now);
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
    /// When the operation first sent something, or the one that it goes on with: its time is for all that it sends.
    began: Option<Instant>,
}

impl<'a, S, F> TimedWriter<'a, S, F> {
    pub(crate) fn new(stream: &'a mut S, clock: &'a Clock, writing: &'a mut Writing, set_option: F) -> Self {
        TimedWriter {
            began: writing.unfinished.take(),
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
        limit: Limit,
        operation: impl FnMut(&mut S) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let patience = &mut self.writing.patience;
        patience.attempt(limit, now, self.stream, &self.set_option, operation)
    }

    /// When an operation that goes on `now` must be over.
    fn limit(&mut self, now: Instant) -> Option<Limit> {
        let began = *self.began.get_or_insert(now);
        Writing::limit(self.clock, began)
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
        self.writing.unfinished = self.began.filter(|_| written < length);
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

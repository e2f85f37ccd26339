//! The clocks of reads.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::patience::Patience;
use super::{Clock, Limit, TICK};
use crate::timeouts::TimeoutKind;

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

    /// What is read from now on is the rest of a message that has begun then, and has to be complete within that time;
    /// `None`: not any more.
    pub(crate) fn limit_message(
        &mut self,
        limit: Option<(Instant, Duration)>,
        clock: &Clock,
        set_option: impl FnOnce(Option<Duration>) -> io::Result<()>,
    ) {
        let limit = limit.and_then(|(began, timeout)| Limit::new(TimeoutKind::Message, Some(timeout), began));
        let before = std::mem::replace(&mut self.message, limit.map(Box::new));
        if before.is_some() && self.message.is_none() {
            self.prepare_for_others(clock, set_option);
        }
    }

    /// To be called where the handshake may be over.
    pub(crate) fn end_handshake(&mut self, clock: &Clock, set_option: impl FnOnce(Option<Duration>) -> io::Result<()>) {
        if clock.timeouts().handshake.is_some() && self.has_shaken_hands(clock) {
            self.prepare_for_others(clock, set_option);
        }
    }

    /// A clock does not run any more, so the option is set to what the others say: whoever uses the raw socket may be
    /// the next to read, and the request never again.
    fn prepare_for_others(&mut self, clock: &Clock, set_option: impl FnOnce(Option<Duration>) -> io::Result<()>) {
        // Should it fail, the request's next read tries again and says so.
        let _ = self.prepare(clock, set_option);
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
        let Some(mut limit) = self.reading.limit(self.clock, began) else {
            return self.read_without_limit(out);
        };
        let patience = &mut self.reading.patience;
        let outcome = patience.attempt(&mut limit, began, self.stream, &self.set_option, |stream| {
            stream.read(out)
        });
        if let Some(message) = self.reading.message.as_deref_mut().filter(|_| limit.put_off) {
            // Whichever clock was the first to be over.
            message.allow_for_a_stop(began, Instant::now());
        }
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

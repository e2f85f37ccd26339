//! Waiting no longer than the clocks allow, by the option on the socket.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use super::{Limit, TICK};

/// By how much an option may be too long: the kernel's ticks are no finer.
const SLACK: Duration = Duration::from_millis(1);

/// What one direction's option on the socket is set to.
#[derive(Debug, Default)]
pub(super) struct Patience {
    set: Option<Duration>,
}

impl Patience {
    /// Sets the option to what `limit` leaves `now`, so that a user of the raw socket has it too.
    pub(super) fn prepare(
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

    /// Calls `operation`, which no clock limits, until no signal interrupts it. A handler can have set the options of
    /// the raw socket itself; when they run out, the system says EAGAIN, which reads as "would block" although it did
    /// block.
    pub(super) fn attempt_without_limit<S>(
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
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(would_not_wait(ErrorKind::TimedOut));
                }
                done => return done,
            }
        }
    }

    /// Calls `operation` until it has done something or `limit` is over, which it may put off.
    pub(super) fn attempt<S>(
        &mut self,
        limit: &mut Limit,
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
                ErrorKind::Interrupted => limit.allow_for_a_stop(began, now),
                ErrorKind::WouldBlock if limit.left(now) <= TICK => return Err(limit.reason.into()),
                ErrorKind::WouldBlock if self.is_over(now - began) => {
                    self.change(limit.left(now), |to| set_option(stream, Some(to)))?;
                }
                // The handler has made the socket non-blocking, or has set its timeout itself.
                ErrorKind::WouldBlock => return Err(would_not_wait(ErrorKind::WouldBlock)),
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

#[cold]
fn would_not_wait(kind: ErrorKind) -> io::Error {
    let text = "the raw socket is non-blocking, or the timeout that was set on it is over";
    io::Error::new(kind, text)
}

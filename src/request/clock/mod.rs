//! Reading and writing under the clocks of [`Timeouts`].
//!
//! What waits is the read or the write itself, limited by `SO_RCVTIMEO` or `SO_SNDTIMEO` (socket(7)): one
//! system call, where poll(2) would take two or three. The option is set anew only if it would let the call
//! wait for longer than the clocks allow. Under a plain timeout that is never. Under a deadline it is
//! set to half of the time left, which holds until half of that is gone: a dozen times in all, however
//! many reads there are. A call that comes back before the time is over goes on waiting.
//!
//! [`Clock`] has the clocks of a request, [`Limit`] is what is left of them for one operation, [`patience`] keeps an
//! operation to that; [`reading`] and [`writing`] say which clocks run when.

mod patience;
mod reading;
mod writing;

use std::io;
use std::time::{Duration, Instant};

use crate::timeouts::{TimeoutError, TimeoutKind, Timeouts};

pub(crate) use reading::{Reading, TimedReader};
pub(crate) use writing::{TimedWriter, Writing};

/// How much sooner than asked for the kernel may end a wait: one tick of its slowest clock (`CONFIG_HZ`
/// of 100), because the one that has begun counts as a whole one.
const TICK: Duration = Duration::from_millis(10);

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
    /// A server or a handler has begun it. Before, a request that was made by hand may have clocks already.
    begun: bool,
    in_setup: bool,
}

impl Clock {
    /// A server begins to serve the request.
    pub(crate) fn begin(&mut self) {
        self.began = Some(Instant::now());
        self.restarted = None;
        self.begun = true;
        self.in_setup = true;
    }

    /// A handler begins to, without a server that has.
    pub(crate) fn begin_by_hand(&mut self) {
        if !self.begun {
            self.begin();
        }
    }

    /// For a stream around another: its time has begun already, its handler has not.
    pub(crate) fn for_wrapped(&self) -> Self {
        Clock {
            begun: true,
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
        // A request that was made by hand, and has no handler yet, begins with its first clock.
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

    /// A wait that has begun `then` was interrupted. The process may have been stopped (SIGSTOP, a frozen container)
    /// for longer than the peer has time, who may have kept to it: once, a tick is left to find what has come
    /// meanwhile, and of what takes several calls all the time that was left then. Not for what has to be over.
    fn allow_for_a_stop(&mut self, then: Instant, now: Instant) {
        let allowed = match self.reason.kind() {
            TimeoutKind::Idle | TimeoutKind::Read => TICK,
            TimeoutKind::Write | TimeoutKind::Message => self.left(then).max(TICK),
            TimeoutKind::Request | TimeoutKind::Handshake => return,
        };
        if !self.put_off && self.end <= now {
            (self.end, self.put_off) = (now + allowed, true);
        }
    }

    fn soonest(limits: impl IntoIterator<Item = Option<Self>>) -> Option<Self> {
        limits.into_iter().flatten().min_by_key(|limit| limit.end)
    }

    fn left(&self, now: Instant) -> Duration {
        self.end.saturating_duration_since(now)
    }
}

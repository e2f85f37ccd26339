//! One worker process, as its master sees it.

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::process::TEMPORARY_FAILURE;
use super::pulse::Pulse;
use crate::hooks::Outermost;
use crate::lifecycle::{Order, Slot, Stage};
use crate::transport::Transport;

/// One worker.
pub(super) struct Worker<T: Transport> {
    pub(super) pid: Pid,
    pub(super) slot: Arc<Slot>,
    /// Its wake-up.
    wake: EventFd,
    pub(super) server: Outermost<T>,
    started: Instant,
    /// As it was last seen.
    pub(super) stage: Stage,
    /// It is to be replaced.
    pub(super) outdated: bool,
    /// It accepts no more, or was told not to.
    pub(super) leaving: bool,
    pulse: Pulse,
    killed: bool,
}

impl<T: Transport> Worker<T> {
    pub(super) fn new(pid: Pid, slot: Arc<Slot>, wake: EventFd, server: Outermost<T>) -> Self {
        let now = Instant::now();
        Worker {
            pid,
            slot,
            wake,
            server,
            started: now,
            stage: Stage::Starting,
            outdated: false,
            leaving: false,
            pulse: Pulse::new(now),
            killed: false,
        }
    }

    pub(super) fn is_serving(&self) -> bool {
        !self.leaving
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.is_serving() && self.slot.is_waiting()
    }

    pub(super) fn is_starting(&self) -> bool {
        self.is_serving() && self.stage == Stage::Starting
    }

    /// Has it end; it keeps to the drain deadline by itself.
    pub(super) fn tell(&mut self, order: Order) {
        self.leaving = true;
        self.slot.set_order(order);
        self.signal(Signal::SIGTERM);
        // A handler may have left that signal blocked or ignored.
        self.wake();
    }

    fn signal(&self, signal: Signal) {
        // A process that has ended keeps its number until it is reaped, and then it is not in the list.
        let _ = kill(self.pid, signal);
    }

    pub(super) fn kill(&mut self) {
        self.killed = true;
        self.signal(Signal::SIGKILL);
    }

    /// Has it look at the listener: at once, or when it is done with what it is at.
    pub(super) fn wake(&self) {
        let _ = self.wake.write(1);
    }

    /// The time at which it counts as hanging unless it gets on before; `None` if it waits, leaves or has been killed.
    /// The time before `now` in which it could not get on, `late`, does not count.
    pub(super) fn hangs_at(&mut self, now: Instant, late: Duration, timeout: Duration) -> Option<Instant> {
        self.pulse.put_off(now, late);
        let (progress, waits) = (self.slot.last_progress(), self.slot.is_waiting());
        let busy_since = self.pulse.busy_since(now, progress, waits);
        let watched = self.is_serving() && !self.killed;
        busy_since.filter(|_| watched)?.checked_add(timeout)
    }
}

/// A worker that has lived so long did not end at once.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A worker that has ended, and how.
pub(super) struct Ended<T: Transport> {
    pub(super) worker: Worker<T>,
    pub(super) status: ExitStatus,
}

impl<T: Transport> Ended<T> {
    /// Whether it ended as it should.
    pub(super) fn is_regular(&self) -> bool {
        self.status.success() && (self.worker.slot.stage() == Stage::Left || self.was_told())
    }

    fn was_told(&self) -> bool {
        self.worker.slot.order() != Order::None
    }

    /// A new one could end the same way at once.
    pub(super) fn was_at_once(&self) -> bool {
        !self.worker.slot.has_served() && self.worker.started.elapsed() < AT_ONCE
    }

    /// It ended, untold, before it had ever waited for a request.
    pub(super) fn failed_to_start(&self) -> bool {
        self.worker.slot.stage() == Stage::Starting && !self.was_told()
    }

    /// The next may find what this one has missed, as where it is the fork that fails.
    pub(super) fn wanted_resources(&self) -> bool {
        self.status.code() == Some(TEMPORARY_FAILURE)
    }

    pub(super) fn why(&self) -> String {
        self.worker.slot.reason().unwrap_or_else(|| self.status.to_string())
    }

    /// Whether it found the listening socket broken, which ends the server, with that error.
    pub(super) fn is_broken(&self) -> bool {
        !self.is_regular() && self.worker.slot.stage() == Stage::Broken
    }

    /// Says so in the log.
    pub(super) fn tell(&self) {
        let (pid, why) = (self.worker.pid, self.why());
        if self.is_regular() {
            log::debug!("worker {pid} has ended");
        } else if self.failed_to_start() {
            log::error!("worker {pid} did not start: {why}");
        } else if !self.is_broken() {
            log::error!("worker {pid} ended: {why}");
        }
    }
}

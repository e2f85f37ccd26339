//! The end of a server: accepting what the kernel has queued, waiting for the requests in progress, up to
//! a deadline and a little beyond.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::{Report, State, Wakeup};
use crate::hooks::Outermost;
use crate::job::Force;
use crate::observer::Event;
use crate::poll::readable;
use crate::server::Core;
use crate::sys;
use crate::transport::{SocketType, Transport};

/// How long requests may take to end after their sockets were shut down or their processes told to.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// Ends a server whose loops have ended: closes the listener, waits for the requests in progress, makes
/// those end that are not done at the deadline, closes the server.
pub(crate) fn drain<T: Transport>(server: &Outermost<T>) -> io::Result<Report> {
    let shared = server.core().shared();
    let wakeup = shared.wakeup()?;
    end_requests(server, wakeup, false)?;
    // A thread cannot be killed: only processes get a second push.
    if server.forks() && !shared.registry.is_idle() {
        server.terminate_requests(Force::Kill);
        wait_until_idle(server, wakeup, Some(Instant::now() + GRACE), false)?;
    }
    let leaked = shared.registry.running();
    if leaked > 0 {
        let (run, sockets, them) = if leaked == 1 {
            ("request still runs", "its socket is", "it")
        } else {
            ("requests still run", "their sockets are", "them")
        };
        log::error!("{leaked} {run} although {sockets} shut down; leaving {them} behind");
    }
    server.server_close();
    shared.advance(State::Closed);
    shared.report()
}

/// Ends a worker whose loops have ended. What still runs then ends with the process.
pub(crate) fn drain_worker<T: Transport>(server: &Outermost<T>) -> io::Result<()> {
    end_requests(server, server.core().shared().wakeup()?, true)
}

/// Closes the listener, waits for the requests in progress until the deadline, makes them end, and gives
/// them a moment for that.
fn end_requests<T: Transport>(server: &Outermost<T>, wakeup: &Wakeup, in_child: bool) -> io::Result<()> {
    let core = server.core();
    // Whatever ended the loops, handlers shall see it, and the last request shall wake us.
    wakeup.shutdown();
    wakeup.begin_draining();
    core.begin_drain(server);
    core.stop_listening(in_child);

    wait_until_idle(server, wakeup, core.drain_deadline(), true)?;
    core.end_patience(server);
    wait_until_idle(server, wakeup, Some(Instant::now() + GRACE), false)?;
    core.linger().finish(&**server, !wakeup.is_forced());
    Ok(())
}

/// Waits until no request is in progress and no worker left. `deadline` of `None` is none; `patient` waits end early
/// when the server is told to stop at once.
fn wait_until_idle<T: Transport>(
    server: &Outermost<T>,
    wakeup: &Wakeup,
    deadline: Option<Instant>,
    patient: bool,
) -> io::Result<()> {
    let core = server.core();
    // service_actions runs as often as at other times.
    let interval = core.attribute(|config| config.poll_interval);
    loop {
        // Before the look, so that a child that ends after it writes the wake-up.
        let _told = wakeup.about_to_wait();
        server.service_actions();
        let now = Instant::now();
        let over = deadline.is_some_and(|deadline| now >= deadline) || (patient && wakeup.is_forced());
        if over || core.shared().registry.is_idle() {
            return Ok(());
        }
        core.waiting_room().run_ready(server);
        let due = deadline.into_iter().chain(core.waiting_room().next_turn()).min();
        let left = due.map_or(Duration::MAX, |due| due.saturating_duration_since(Instant::now()));
        let left = interval.map_or(left, |interval| left.min(interval));
        let left = if patient { left.min(core.tell_progress()) } else { left };
        wakeup.wait_ended(left)?;
    }
}

/// How many more requests are taken from the kernel's queue, once the server was told to stop.
#[derive(Debug)]
pub(crate) struct Backlog {
    left: AtomicU32,
}

impl Backlog {
    fn at_most(left: u32) -> Self {
        Backlog { left: left.into() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    /// One has been accepted.
    pub(crate) fn took_one(&self) {
        self.left
            .update(Ordering::SeqCst, Ordering::SeqCst, |left| left.saturating_sub(1));
    }

    /// Nothing more is accepted, by whichever acceptor. True the first time.
    pub(crate) fn end(&self) -> bool {
        self.left.swap(0, Ordering::SeqCst) != 0
    }
}

impl<T: Transport> Core<T> {
    /// The server was told to stop: refuses new requests, tells those in progress, and the observers. Whoever notices
    /// first does it, once; the others wait for that, but not for the observers. Returns what is left to accept.
    pub(crate) fn begin_drain(&self, server: &Outermost<T>) -> &Backlog {
        let mut is_first = false;
        let backlog = self.backlog.get_or_init(|| {
            is_first = true;
            self.shared().advance(State::Draining);
            if let Ok(wakeup) = self.shared().wakeup() {
                // Refusing may look like a request to those who wait for one.
                wakeup.bring_sleepers_out(|| true);
            }
            let left = self.take_over_queue();
            server.drain_requests();
            Backlog::at_most(left)
        });
        if is_first {
            self.observe_drain();
        }
        backlog
    }

    /// How many of the requests that the kernel has queued this process is to accept. A worker is told that by
    /// its master, who has the kernel refuse new ones for all of them.
    fn take_over_queue(&self) -> u32 {
        let shared = self.shared();
        if let Some(backlog) = shared.master().and_then(|master| master.backlog()) {
            return backlog;
        }
        let left = self.refuse();
        if let Some(board) = shared.registry.board() {
            board.set_backlog(left);
        }
        left
    }

    /// Has the kernel refuse new requests, so that its queue comes to an end. Returns how many of the
    /// queued ones are to be accepted.
    fn refuse(&self) -> u32 {
        // From one that was made elsewhere others may accept: neither is it ours to deafen, nor are the queued ours.
        let Some(transport) = self.transport().filter(|_| !self.is_ready_made()) else {
            return 0;
        };
        let Err(error) = transport.refuse() else {
            return u32::MAX;
        };
        log::debug!("new requests cannot be refused before the queued are accepted: {error}");
        // As many as fit into the queue (Linux has room for one more than listen(2) was told): a flood of new ones
        // must not put the end off.
        self.attribute(|config| config.request_queue_size).saturating_add(1)
    }

    /// Whether one was received ahead, which is in nobody's queue any more.
    pub(crate) fn has_ahead(&self) -> bool {
        self.transport().is_some_and(Transport::has_ahead)
    }

    /// Whether the kernel may have a request for us. Always said of a Unix socket that refuses (poll(2): its
    /// reading side is shut down).
    pub(crate) fn has_queued(&self) -> bool {
        self.transport()
            .is_some_and(|transport| readable(transport.socket().as_fd()))
    }

    /// Whether the listening socket was shut down for reading, by whoever has it.
    pub(crate) fn is_shut_down(&self) -> bool {
        self.transport()
            .is_some_and(|transport| sys::is_shut_down(transport.socket().as_fd()))
    }

    /// The time to accept what the kernel has queued is over.
    pub(crate) fn give_up_queue(&self, server: &Outermost<T>) {
        if self.begin_drain(server).end() && self.tells_of_drain() && self.loses_any() {
            log::warn!("the time to drain is over: what was not accepted by now is lost");
        }
    }

    /// How far the drain of a whole prefork server is, and what its end costs, the master tells, once for all workers.
    fn tells_of_drain(&self) -> bool {
        self.shared().master().is_none_or(|master| !master.drains())
    }

    /// Whether there is a request that nobody will serve.
    fn loses_any(&self) -> bool {
        let Some(transport) = self.transport() else {
            return false;
        };
        // A socket that was shut down for reading is readable with nothing in its queue, too: what is there shows by
        // being taken.
        let is_there = || !self.is_shut_down() || transport.accept().is_ok();
        self.has_ahead() || (self.has_queued() && is_there())
    }

    /// The deadline is over, or the server was told to stop at once: the requests in progress are made to
    /// end. Whoever notices first does it, once.
    pub(crate) fn end_patience(&self, server: &Outermost<T>) {
        let registry = &self.shared().registry;
        let Some(late) = registry.begin_forcing() else {
            return;
        };
        if late > 0 && self.tells_of_drain() {
            let (requests, sockets) = if late == 1 {
                ("request", "its socket")
            } else {
                ("requests", "their sockets")
            };
            log::warn!("{late} {requests} did not end in time: shutting {sockets} down");
        } else if registry.has_workers() && self.drain_time_left().is_zero() {
            // Told to stop at once they have had no time.
            log::warn!("worker processes without a request did not end in time: making them");
        }
        if !registry.is_idle() {
            self.waiting_room().drop_all(server);
            server.terminate_requests(Force::Terminate);
        }
    }

    /// When the patience with requests in progress ends; `None`: never.
    fn drain_deadline(&self) -> Option<Instant> {
        let timeout = self.attribute(|config| config.drain_timeout)?;
        let stopped_at = self.shared().wakeup().ok()?.stopped_at();
        stopped_at.checked_add(timeout)
    }

    pub(crate) fn drain_time_left(&self) -> Duration {
        match self.drain_deadline() {
            None => Duration::MAX,
            Some(deadline) => deadline.saturating_duration_since(Instant::now()),
        }
    }

    fn observe_drain(&self) {
        self.shared().observe(|| Event::Draining {
            running: self.shared().registry.running(),
            left: self.drain_deadline().map(|_| self.drain_time_left()),
        });
    }

    /// Whether the patience is not over yet.
    pub(crate) fn has_time(&self) -> bool {
        !self.shared().is_forced() && !self.drain_time_left().is_zero()
    }

    /// Says once in each second how far the drain is, and looks who is idle by now. Returns the time to the next of
    /// these.
    pub(crate) fn tell_progress(&self) -> Duration {
        let Ok(wakeup) = self.shared().wakeup() else {
            return Duration::MAX;
        };
        let elapsed = wakeup.stopped_at().elapsed();
        if self.told_second.fetch_max(elapsed.as_secs(), Ordering::Relaxed) < elapsed.as_secs() {
            self.shared().registry.shutdown_idle();
            if self.tells_of_drain() {
                self.log_progress();
            }
            self.observe_drain();
        }
        Duration::from_nanos((1_000_000_000 - elapsed.subsec_nanos()).into())
    }

    fn log_progress(&self) {
        let kind = match T::SOCKET_TYPE {
            SocketType::Stream => "connection",
            SocketType::Datagram => "request",
        };
        let running = self.shared().registry.running();
        let plural = if running == 1 { "" } else { "s" };
        let left = self.drain_deadline().map(|_| self.drain_time_left().as_secs_f64());
        let left = left.map_or_else(String::new, |left| format!(", {left:.0} s left"));
        let queued = self.backlog.get().is_some_and(|backlog| !backlog.is_empty());
        let queued = if queued { " and those not accepted yet" } else { "" };
        log::info!("draining: {running} {kind}{plural}{queued}{left}");
    }
}

//! A worker of a prefork server and its master, as the worker sees it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::unistd::{Pid, getppid, write};

use super::Wakeup;
use super::board::Board;
use super::slot::{Order, Slot, Stage};
use crate::address::Address;
use crate::stats::{End, Way};
use crate::sys;

/// What a master gives a worker.
#[derive(Debug)]
pub(crate) struct Duty {
    /// The master's process.
    pub(crate) master: Pid,
    pub(crate) slot: Arc<Slot>,
    pub(crate) board: Arc<Board>,
    /// The number of requests after which the worker leaves.
    pub(crate) max_requests: Option<u64>,
    /// Whether it serves one at a time.
    pub(crate) one_at_a_time: bool,
}

/// The master of this process, which is a worker.
#[derive(Debug)]
pub(crate) struct Master {
    duty: Duty,
    /// The master's own descriptors: see [`Wakeup`].
    stop: OwnedFd,
    wake: OwnedFd,
    /// The kernel's queue is to be served before the worker ends.
    serves_queue: AtomicBool,
}

impl Master {
    pub(crate) fn new(duty: Duty, (stop, wake): (OwnedFd, OwnedFd)) -> Self {
        // One that is started when the server drains already is started for that.
        let serves_queue = duty.slot.order() == Order::Drain;
        duty.board.worker.claim();
        Master {
            duty,
            stop,
            wake,
            serves_queue: serves_queue.into(),
        }
    }

    pub(crate) fn started(&self) {
        self.duty.slot.started();
    }

    pub(crate) fn ended(&self, end: End, way: Way) {
        // A worker that leaves while the others go on does not drain the server.
        let goes_on = way == Way::Drained && self.goes_on();
        self.duty.slot.ended(end, if goes_on { Way::Usual } else { way });
    }

    /// See [`Shared::begin_accepting`](super::Shared::begin_accepting).
    pub(super) fn accepting(&self) -> &AtomicU64 {
        self.duty.slot.accepting()
    }

    /// Whether no worker is to accept.
    pub(crate) fn is_suspended(&self) -> bool {
        self.duty.board.is_suspended()
    }

    pub(crate) fn heartbeat(&self) {
        self.duty.slot.progress();
    }

    /// Stops the whole server.
    pub(crate) fn shutdown(&self) {
        let _ = write(&self.stop, &1_u64.to_ne_bytes());
    }

    /// Makes the master look at its workers.
    fn wake(&self) {
        let _ = write(&self.wake, &1_u64.to_ne_bytes());
    }

    pub(crate) fn is_gone(&self) -> bool {
        getppid() != self.duty.master
    }

    /// SIGTERM arrived: from the master, from somebody else, or from the kernel because the master is gone
    /// (`PR_SET_PDEATHSIG`).
    ///
    /// Async-signal-safe: getppid(2), `_exit` and what `Wakeup` does.
    pub(crate) fn obey(&self, wakeup: &Wakeup) {
        let order = self.duty.slot.order();
        if self.duty.slot.stage() == Stage::Starting && order != Order::Drain {
            // However long its initialisation takes: it has accepted nothing that it would have to serve.
            sys::exit_now(0);
        }
        if order == Order::Force {
            wakeup.force();
        }
        wakeup.shutdown();
    }

    /// Whether the worker is to end.
    pub(crate) fn has_order(&self) -> bool {
        self.duty.slot.order() != Order::None
    }

    /// Whether the server goes on without this worker.
    fn goes_on(&self) -> bool {
        match self.duty.slot.order() {
            Order::Leave => true,
            Order::None => !self.is_gone(),
            Order::Drain | Order::Force => false,
        }
    }

    /// Whether the master drains the whole server, and tells what that costs.
    pub(crate) fn drains(&self) -> bool {
        matches!(self.duty.slot.order(), Order::Drain | Order::Force) && !self.is_gone()
    }

    /// How many requests this worker, told to stop, is to take from the kernel's queue; `None` if there is no
    /// master any more to have the kernel refuse new ones.
    pub(crate) fn backlog(&self) -> Option<u32> {
        if self.goes_on() {
            return Some(0);
        }
        self.serves_queue.store(true, Ordering::SeqCst);
        (!self.is_gone()).then(|| self.duty.board.backlog())
    }

    /// A request has been accepted: gives it its number.
    pub(crate) fn accepted(&self, wakeup: &Wakeup) -> u64 {
        let here = self.duty.slot.accepted();
        if self.is_last(here) && !self.duty.one_at_a_time {
            wakeup.shutdown();
        }
        if self.duty.board.take_rest() {
            self.wake();
        }
        self.duty.board.next_number()
    }

    /// Whether the request with this number, counted in this worker, is the last that it accepts.
    fn is_last(&self, here: u64) -> bool {
        self.duty.max_requests.is_some_and(|max| here >= max)
    }

    /// Whether this process is the worker, and not one that a handler has forked in it.
    pub(crate) fn is_worker(&self) -> bool {
        self.duty.board.worker.is_here()
    }

    /// Before another request: a worker that serves one at a time leaves when its last has ended. Told sooner, it
    /// would not let the client go on after the first answer.
    pub(crate) fn leave_in_time(&self, wakeup: &Wakeup) {
        if self.duty.one_at_a_time && self.is_last(self.duty.slot.has_accepted()) {
            // So it is not woken any more, for what others would have to be woken for.
            self.duty.slot.nothing_is_lost();
            wakeup.shutdown();
        }
    }

    /// Before another request: SIGTERM says that there is an order, or no master any more, but a handler may have left
    /// it blocked or ignored, or the kernel may have forgotten to send it.
    pub(crate) fn hear_order(&self, wakeup: &Wakeup) {
        if !wakeup.is_told_to_stop() && (self.has_order() || self.is_gone()) {
            self.obey(wakeup);
        }
    }

    /// The worker, which serves one request at a time, begins to serve this client, or its handler knows better whom it
    /// serves.
    pub(crate) fn serves(&self, client: &Address) {
        if let Some(client) = client.as_inet() {
            self.duty.slot.set_client(client);
        }
    }

    /// The worker does not only start any more: it may have accepted something, which it has to end.
    pub(crate) fn ready(&self) {
        if self.duty.slot.ready() {
            self.wake();
        }
    }

    /// Until the guard is dropped, an acceptor waits for a request.
    pub(crate) fn waiting(&self) -> Waiting<'_> {
        // In this order: one that is ready and does not wait is taken to be busy.
        self.duty.slot.begin_waiting();
        self.ready();
        if self.duty.board.take_rest() {
            self.wake();
        }
        Waiting(&self.duty.slot)
    }

    /// Accepting does not work here, and nobody else was woken for the request that may be there: the master wakes
    /// those of the others for whom it may. Until the guard is dropped, this worker is none of them.
    pub(crate) fn leave_request(&self) -> Pausing<'_> {
        self.duty.slot.begin_pausing();
        self.duty.board.leave_request();
        self.wake();
        Pausing(&self.duty.slot)
    }

    /// The worker accepts no more; `in_time` if nothing but an empty queue has made it end that.
    pub(crate) fn left(&self, in_time: bool) {
        if in_time && self.serves_queue.load(Ordering::SeqCst) {
            self.duty.board.queue_done();
        }
        self.duty.slot.enter(Stage::Left);
        self.wake();
    }

    /// The listening socket is broken.
    pub(crate) fn broken(&self, error: &io::Error) {
        self.duty.slot.set_reason(&error.to_string());
        self.duty.slot.enter(Stage::Broken);
    }
}

/// See [`Master::waiting`].
pub(crate) struct Waiting<'a>(&'a Slot);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.end_waiting();
    }
}

/// See [`Master::leave_request`].
pub(crate) struct Pausing<'a>(&'a Slot);

impl Drop for Pausing<'_> {
    fn drop(&mut self) {
        self.0.end_pausing();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::eventfd::EfdFlags;

    use super::*;
    use crate::lifecycle::event;

    #[test]
    fn a_worker_that_leaves_after_its_last_request_has_lost_none_unless_other_threads_wait() {
        for one_at_a_time in [true, false] {
            let wakeup = Wakeup::new().unwrap();
            let slot = Arc::new(Slot::new().unwrap());
            let duty = Duty {
                master: getppid(),
                slot: Arc::clone(&slot),
                board: Arc::new(Board::new().unwrap()),
                max_requests: Some(2),
                one_at_a_time,
            };
            let descriptor = || event(EfdFlags::empty()).unwrap().as_fd().try_clone_to_owned().unwrap();
            let master = Master::new(duty, (descriptor(), descriptor()));
            for (request, lost_none) in [(1, false), (2, one_at_a_time)] {
                assert_eq!(master.accepted(&wakeup), request);
                master.leave_in_time(&wakeup);
                assert_eq!(slot.may_have_lost(), !lost_none);
            }
            assert!(wakeup.is_told_to_stop());
        }
    }
}

//! One turn of the accept loop: a wait, and at most one request.

use std::io;
use std::mem;
use std::time::Duration;

use super::{Acceptor, WaitEnd};
use crate::address::Address;
use crate::job::Job;
use crate::lifecycle::{Backlog, Pause, Shared, Ticket, Wakeup};
use crate::request::Request;
use crate::server::Core;
use crate::transport::{SocketType, Transport};

/// What came of one turn of the loop.
pub(crate) enum Turn<T: Transport> {
    Job(Job<T>),
    /// `verify_request` said no.
    Refused,
    /// A limit said no.
    Rejected,
    /// Nothing yet, or a request that waits for its address's turn, or came too late: another turn.
    Again,
    /// None: the time given was over, or there was nothing to accept after all.
    Nothing,
    /// Told to stop, and what had arrived before is accepted.
    Stopped,
}

/// The place of the next request, as far as an acceptor has it.
#[derive(Debug, Default)]
pub(super) enum Place {
    #[default]
    None,
    /// Kept while it waits for a request.
    Taken(Ticket),
    /// There was none: kept while it waits for one, so that it is told.
    Awaited(#[expect(dead_code, reason = "it tells by being there")] Pause),
}

impl<T: Transport> Acceptor<T> {
    /// One turn: service actions, a wait of at most `timeout`, at most one request.
    pub(super) fn turn(&self, place: &mut Place, timeout: Option<Duration>) -> io::Result<Turn<T>> {
        let core = self.server.core();
        let wakeup = core.shared().wakeup()?;
        // Hooks run here: waiting for the server from one of them could never end.
        let _busy = core.shared().enter();

        // Before the service actions: a child that ends after them writes the wake-up.
        let _told = self.forks.then(|| wakeup.about_to_wait());
        self.server.service_actions();
        core.shared().exit_if_copy_of_worker();
        if let Some(master) = core.shared().master() {
            master.leave_in_time(wakeup);
            master.hear_order(wakeup);
        }
        let timeout = self.until_next_due(timeout);
        if wakeup.is_stopping() {
            self.turn_stopping(core, wakeup, place, timeout)
        } else if let Err(error) = core.keep_suspension() {
            self.back_off(&error, timeout).map(|()| Turn::Nothing)
        } else if !self.has_place(place) {
            self.flush();
            core.wait_quiet(timeout).map(Turn::without_request)
        } else if let Some(job) = self.waiting_job(place) {
            Ok(Turn::Job(job))
        } else {
            self.turn_serving(core, wakeup, place, timeout)
        }
    }

    fn turn_serving(
        &self,
        core: &Core<T>,
        wakeup: &Wakeup,
        place: &mut Place,
        timeout: Option<Duration>,
    ) -> io::Result<Turn<T>> {
        let transport = core.bound_transport()?;
        // Where others may have the socket, too, they would serve it, had this server not received it.
        if transport.has_ahead() && (!core.shared().is_suspended() || core.is_ready_made()) {
            return self.accept(wakeup, place, timeout, None);
        }
        self.flush();
        if let Some(sleepers) = wakeup.sleepers().filter(|sleepers| sleepers.is_on())
            && !core.shared().is_suspended()
        {
            if timeout.is_none() {
                return self.accept(wakeup, place, None, None);
            }
            // Something is to be done at its time.
            sleepers.turn_off();
        }
        let end = {
            let _waiting = core.shared().master().map(|master| master.waiting());
            core.waiter()?.wait(self.number, transport.socket(), wakeup, timeout)?
        };
        match end {
            WaitEnd::Request => self.accept(wakeup, place, timeout, None),
            other => Ok(Turn::without_request(other)),
        }
    }

    /// The server was told to stop: what the kernel has queued is still accepted.
    #[cold]
    fn turn_stopping(
        &self,
        core: &Core<T>,
        wakeup: &Wakeup,
        place: &mut Place,
        timeout: Option<Duration>,
    ) -> io::Result<Turn<T>> {
        let backlog = core.begin_drain(&self.server);
        let has_ahead = core.has_ahead();
        if backlog.is_empty() && !has_ahead {
            return Ok(self.stopped());
        }
        if !core.has_time() {
            core.give_up_queue(&self.server);
            // A strategy may wait for its requests before it lets us drain.
            core.end_patience(&self.server);
            return Ok(self.stopped());
        }
        let until_told = core.drain_time_left().min(core.tell_progress());
        let timeout = timeout.map_or(until_told, |timeout| timeout.min(until_told));
        if !self.has_place(place) {
            // Nothing is there to be accepted, and no request runs whose end would make room.
            if !has_ahead && !self.shared().registry.any_runs() && !core.has_queued() {
                return Ok(self.stopped());
            }
            let woken = wakeup.wait_place(timeout)?;
            return Ok(if woken { Turn::Again } else { Turn::Nothing });
        }
        // A worker that accepts without having waited does not only start any more: told to leave, it must
        // not end at once.
        if let Some(master) = core.shared().master() {
            master.ready();
        }
        // First those that wait for their turn: they hold descriptors, which accepting may lack.
        if let Some(job) = self.waiting_job(place) {
            return Ok(Turn::Job(job));
        }
        self.accept(wakeup, place, Some(timeout), Some(backlog))
    }

    /// Before it waits: what the transport has held back is sent. Who does not take it is waited for as long as a
    /// request would be.
    pub(super) fn flush(&self) {
        let core = self.server.core();
        let patient = || {
            let in_time = || !core.shared().is_stopping() || !core.drain_time_left().is_zero();
            !core.shared().is_forced() && in_time()
        };
        if let Some(transport) = core.transport() {
            transport.flush(&patient);
        }
    }

    /// This acceptor is done, and so are the others: the queue is empty, or is given up.
    pub(super) fn stopped(&self) -> Turn<T> {
        self.server.core().begin_drain(&self.server).end();
        // One that waits for a place wakes the next in its turn.
        self.shared().wake();
        Turn::Stopped
    }

    /// Whether the limit leaves a place for another request; if not, a wake-up comes when it does.
    fn has_place(&self, place: &mut Place) -> bool {
        if let Place::Taken(_) = place {
            return true;
        }
        *place = match Ticket::take(self.shared(), self.server.capacity()) {
            Ok(ticket) => Place::Taken(ticket),
            Err(pause) => Place::Awaited(pause),
        };
        matches!(place, Place::Taken(_))
    }

    /// A request that waited and may run now, before any that waits in the kernel's queue.
    fn waiting_job(&self, place: &mut Place) -> Option<Job<T>> {
        let Place::Taken(ticket) = place else { return None };
        let job = self.server.core().waiting_room().next(&self.server, ticket)?;
        *place = Place::None;
        Some(job)
    }

    /// Accepts a request onto the place, if there is one. With a `backlog` new requests are refused: an empty queue is
    /// the end of it then. If accepting fails, it pauses for at most `timeout`.
    fn accept(
        &self,
        wakeup: &Wakeup,
        place: &mut Place,
        timeout: Option<Duration>,
        backlog: Option<&Backlog>,
    ) -> io::Result<Turn<T>> {
        let shared = self.shared();
        let receiving = shared.begin_receiving();
        if receiving.is_some() && shared.is_told_to_stop() && !self.server.core().has_time() {
            // The drain may have seen that nobody receives, and would not wait for this request.
            return Ok(Turn::Again);
        }
        // What was received ahead is given out without a system call that could wait.
        let sleepers = wakeup.sleepers().filter(|_| !self.server.core().has_ahead());
        let entered = sleepers.map(|sleepers| sleepers.enter(self.number));
        let accepting = entered.is_none().then(|| shared.begin_accepting());
        if backlog.is_none() && !may_accept(shared) && !self.server.core().is_ready_made() {
            // The request may have come before the listener was out of the sets; the next turn takes it out. Where
            // others may have the socket, too, none of them was woken for the request: it is left to nobody.
            return Ok(Turn::Again);
        }
        let attempt = self.backoffs.accepting.attempt();
        let request = self.server.get_request();
        drop((entered, accepting));
        let request = match request {
            Ok(request) => request,
            Err(error) => {
                drop(receiving);
                return self.after_error(&error, attempt, wakeup, timeout, backlog.is_some());
            }
        };
        if is_end_of_wait::<T>(&request, wakeup) {
            return Ok(Turn::Again);
        }
        if let Some(sleepers) = sleepers {
            sleepers.worked();
        }
        self.backoffs.accepting.succeeded(attempt);
        if let Some(backlog) = backlog {
            backlog.took_one();
        }
        match mem::take(place) {
            Place::Taken(ticket) => Ok(self.decide(request, ticket)),
            Place::None | Place::Awaited(_) => Ok(Turn::Again),
        }
    }

    /// What has been accepted is verified, and the limits are asked.
    fn decide(&self, request: T::Request, ticket: Ticket) -> Turn<T> {
        match Job::accepted(&self.server, request, ticket).verify() {
            Some(job) => job.admit(),
            None => Turn::Refused,
        }
    }
}

/// Whether it is no datagram: as an empty one from nobody looks the end of a wait for one, where a server that is told
/// to stop at once has shut down the socket (`Sleepers::force`).
fn is_end_of_wait<T: Transport>(request: &T::Request, wakeup: &Wakeup) -> bool {
    T::SOCKET_TYPE == SocketType::Datagram && wakeup.is_forced() && *request.client_address() == Address::Unnamed
}

/// Whether there is nothing that all who accept have to know.
pub(super) fn may_accept(shared: &Shared) -> bool {
    !shared.is_told_to_stop() && !shared.is_suspended()
}

impl<T: Transport> Turn<T> {
    /// One whose wait has ended otherwise than by a request.
    fn without_request(end: WaitEnd) -> Self {
        if end == WaitEnd::TimedOut {
            Turn::Nothing
        } else {
            Turn::Again
        }
    }
}

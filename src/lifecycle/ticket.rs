//! A place among the requests in progress.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use super::activity::Activity;
use super::inline::Inline;
use super::registry::{Inner, Record};
use super::{Master, Shared};
use crate::address::Address;
use crate::limits::{Capacity, Verdict};
use crate::observer::{Event, Outcome};
use crate::request::{Request, ServerContext};
use crate::stats::End;

/// A place among the requests in progress: taken before accepting, given back when dropped.
///
/// Whatever happens to a request (it ends, panics, is dropped in a queue, its process is killed), the
/// ticket goes with it, so each is counted exactly once.
#[derive(Debug)]
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    number: u64,
    stage: Stage,
    /// Of a request that has come.
    activity: Option<Arc<Activity>>,
    /// The record of the request has its socket.
    has_socket: bool,
    /// It runs on the thread that accepts.
    inline: bool,
    /// It ended when the patience was over.
    forced: bool,
}

/// How far a ticket has come.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// It holds no place: nothing limits the number, or the request was not let in.
    Free,
    /// It holds a place for a request that is to come.
    Reserved,
    /// Its request waits for its address's turn. Where its record is.
    Waiting(usize),
    /// Its request runs, or is about to. Where its record is.
    Running(usize),
}

impl Ticket {
    /// Takes a place, or arranges to be told when there is one.
    pub(crate) fn take(shared: &Arc<Shared>, capacity: Capacity) -> Result<Self, Pause> {
        let mut stage = Stage::Free;
        if capacity.waits() {
            let mut inner = shared.registry.lock();
            if !capacity.has_place(inner.reserved + inner.running) {
                return Err(Pause::counted(shared, &mut inner));
            }
            inner.reserved += 1;
            stage = Stage::Reserved;
        }
        Ok(Ticket {
            shared: Arc::clone(shared),
            number: 0,
            stage,
            activity: None,
            has_socket: false,
            inline: false,
            forced: false,
        })
    }

    /// A request has come for this place. Returns its context.
    pub(crate) fn assign(&mut self) -> ServerContext {
        let shared = &self.shared;
        self.number = match (shared.master(), shared.wakeup()) {
            (Some(master), Ok(wakeup)) => master.accepted(wakeup),
            _ => shared.registry.next_number(),
        };
        let activity = Arc::clone(self.activity.get_or_insert_default());
        ServerContext::new(Arc::clone(shared), self.number, activity)
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whose request it is, if its handler has set that, on whichever of the requests around one another.
    pub(crate) fn client_address(&self) -> Option<Address> {
        self.activity.as_ref()?.client_address(self.shared.in_child())
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Does with the request that has come for this place what the limits say, and counts it.
    pub(crate) fn admit<R: Request>(&mut self, request: &R, capacity: Capacity) -> Verdict {
        let rules = self.shared.registry.rules();
        let activity = self.activity.clone().unwrap_or_default();
        let record = Record::new(self.number, request, activity, rules);
        self.has_socket = record.socket.is_some();
        let mut inner = self.shared.registry.lock();
        let verdict = inner.verdict(rules, &record, capacity);
        match verdict {
            Verdict::Reject(limit) => self.count(&mut inner, End::Rejected(limit)),
            Verdict::Admit => {
                self.stage = self.stage.run(&mut inner, record);
                self.count_start(&mut inner);
            }
            Verdict::Hold(..) => {
                self.stage = self.stage.wait(&mut inner, record);
                self.shared.place_is_free(&inner);
            }
            // It has started and ended, in one: whoever ends the server meets it before or after, and need not wait.
            Verdict::TooLate => {
                self.count_start(&mut inner);
                self.count(&mut inner, Outcome::Dropped.into());
            }
        }
        verdict
    }

    /// Counts a request as running, whatever the limits say: for one that ends at once.
    pub(crate) fn start<R: Request>(&mut self, request: &R) {
        let activity = self.activity.clone().unwrap_or_default();
        let record = Record::new(self.number, request, activity, None);
        self.has_socket = record.socket.is_some();
        let mut inner = self.shared.registry.lock();
        self.stage = self.stage.run(&mut inner, record);
        self.count_start(&mut inner);
    }

    /// Who counts, too, if this is a worker: not a copy that a hook has forked there, whose requests the worker counts.
    fn master(&self) -> Option<&Arc<Master>> {
        self.shared.master().filter(|master| master.is_worker())
    }

    /// Counts the start of the request, here and in the master.
    fn count_start(&self, inner: &mut Inner) {
        inner.counts.started += 1;
        if let Some(master) = self.master() {
            master.started();
        }
    }

    /// Counts the end of the request, here and in the master.
    fn count(&self, inner: &mut Inner, end: End) {
        let way = inner.count(end, self.forced, self.shared.is_told_to_stop());
        if let Some(master) = self.master() {
            master.ended(end, way);
        }
    }

    /// Has a waiting request run, if its address has room, on the place that an acceptor has taken for a new one. False
    /// if it goes on waiting, be it only to be dropped, because the patience is over.
    pub(crate) fn resume(&mut self, inner: &mut Inner, place: &mut Ticket, capacity: Capacity) -> bool {
        let Stage::Waiting(index) = self.stage else {
            return false;
        };
        if inner.forcing || capacity.rejects(inner.running).is_some() {
            return false;
        }
        if let Some(record) = inner.records.get_mut(index) {
            if let (Some(rules), Some(client)) = (self.shared.registry.rules(), record.client)
                && !inner.addresses.resume(rules, client)
            {
                return false;
            }
            record.waiting = false;
        }
        place.stage = place.stage.leave(inner);
        inner.waiting -= 1;
        inner.running += 1;
        self.count_start(inner);
        self.stage = Stage::Running(index);
        true
    }

    /// The request begins to run.
    pub(crate) fn begin(&self) {
        if self.shared.is_observed() {
            self.record(|record| record.began = Some(Instant::now()));
        }
    }

    /// Does something to the record of the request, once it has one.
    fn record<R>(&self, change: impl FnOnce(&mut Record) -> R) -> Option<R> {
        match self.stage {
            Stage::Waiting(index) | Stage::Running(index) => {
                self.shared.registry.lock().records.get_mut(index).map(change)
            }
            Stage::Free | Stage::Reserved => None,
        }
    }

    /// The request is about to run on the thread that accepts, which cannot see to the drain meanwhile.
    pub(crate) fn begin_inline(&mut self, socket: Option<BorrowedFd<'_>>) {
        let Ok(wakeup) = self.shared.wakeup() else { return };
        self.inline = true;
        match (socket, &self.activity) {
            (Some(socket), Some(activity)) => wakeup.begin_inline(Inline {
                number: self.number,
                socket: socket.as_raw_fd(),
                activity: Arc::clone(activity),
            }),
            _ => wakeup.begin_inline_datagram(),
        }
    }

    pub(crate) fn is_inline(&self) -> bool {
        self.inline
    }

    /// The socket is about to be closed, or has become another process's matter.
    pub(crate) fn forget_socket(&mut self) {
        // A forked child has a copy of the records, and perhaps of a lock that another thread held.
        if self.has_socket && !self.shared.in_child() {
            self.record(|record| record.socket = None);
        }
        if let (true, Ok(wakeup)) = (std::mem::take(&mut self.inline), self.shared.wakeup()) {
            if self.has_socket {
                wakeup.end_inline(self.number);
            } else {
                wakeup.end_inline_datagram();
            }
        }
        // Its handler may have heard that the patience is over before the thread did that drains.
        self.forced = self.shared.is_forced();
    }

    /// A child serves the request: its socket and what goes through it are that process's matter.
    pub(crate) fn leave_to_child(&mut self) {
        if let Stage::Waiting(index) | Stage::Running(index) = self.stage {
            self.shared.registry.lock().leave_to_child(index);
        }
        self.forget_socket();
        self.begin();
    }

    /// In a forked process, of a request that its parent had accepted before, and serves: here nothing is counted or
    /// told.
    pub(crate) fn leave_to_parent(mut self) {
        self.stage = Stage::Free;
    }

    /// `verify_request` said no.
    pub(crate) fn refused(self) {
        self.count(&mut self.shared.registry.lock(), End::Refused);
    }

    /// The request has ended. Without this it was dropped.
    pub(crate) fn ended(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    fn end(&mut self, outcome: Outcome) {
        // As for a socket: what a forked child has is a copy.
        if !matches!(self.stage, Stage::Free) && !self.shared.in_child() {
            if self.shared.is_observed() {
                self.tell_the_end(outcome);
            }
            self.release(outcome);
        }
    }

    /// Gives back what it holds, and says so to those who wait for it.
    fn release(&mut self, outcome: Outcome) {
        let Ok(wakeup) = self.shared.wakeup() else { return };
        let mut inner = self.shared.registry.lock();
        if let Stage::Waiting(index) | Stage::Running(index) = self.stage
            && let Some(record) = inner.records.remove(index)
        {
            if record.waiting {
                // Without having run, it counts as started and ended.
                self.count_start(&mut inner);
            }
            self.count(&mut inner, outcome.into());
            if let Some(client) = record.client {
                inner.addresses.release(client, record.waiting);
            }
        }
        self.stage = self.stage.leave(&mut inner);
        let (others_wait, idle) = (inner.waiting > 0, inner.running + inner.waiting == 0);
        self.shared.place_is_free(&inner);
        drop(inner);
        if others_wait {
            wakeup.give_turn();
        }
        // Asked last: whoever began to drain meanwhile may have seen this one as still there. The drain also
        // runs those that wait for others.
        if (others_wait || idle) && wakeup.is_told_to_stop() {
            wakeup.wake_drain();
        }
    }

    /// Before the place is given back: the server does not end before its observers have heard all.
    #[cold]
    fn tell_the_end(&self, outcome: Outcome) {
        let times = |record: &mut Record| (record.client_address(), record.accepted, record.began);
        let Some((ref client_address, accepted, began)) = self.record(times) else {
            return;
        };
        let (number, now) = (self.number, Instant::now());
        if let Stage::Waiting(_) = self.stage {
            // It is counted as started, so that what has started is what has ended and what runs.
            self.shared.observe(|| Event::Started { number, client_address });
        }
        let began = began.unwrap_or(now);
        self.shared.observe(|| Event::Finished {
            number,
            client_address,
            waited: began - accepted,
            duration: now - began,
            outcome,
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.end(Outcome::Dropped);
    }
}

impl Stage {
    /// Its request runs.
    fn run(self, inner: &mut Inner, record: Record) -> Self {
        self.leave(inner);
        inner.running += 1;
        Stage::Running(inner.records.insert(record))
    }

    /// Its request waits.
    fn wait(self, inner: &mut Inner, mut record: Record) -> Self {
        self.leave(inner);
        inner.waiting += 1;
        record.waiting = true;
        Stage::Waiting(inner.records.insert(record))
    }

    /// It holds nothing any more.
    fn leave(self, inner: &mut Inner) -> Self {
        match self {
            Stage::Free => {}
            Stage::Reserved => inner.reserved -= 1,
            Stage::Running(_) => inner.running -= 1,
            Stage::Waiting(_) => inner.waiting -= 1,
        }
        Stage::Free
    }
}

impl Shared {
    /// Has all acceptors look that wait for a place.
    pub(crate) fn look_for_places(&self) {
        let inner = self.registry.lock();
        for _ in 0..inner.paused {
            self.place_is_free(&inner);
        }
    }

    fn place_is_free(&self, inner: &Inner) {
        if let (1.., Ok(wakeup)) = (inner.paused, self.wakeup()) {
            wakeup.give_place();
        }
    }
}

/// An acceptor waits for a place: as long as this lives, each place that becomes free is told.
#[derive(Debug)]
pub(crate) struct Pause {
    shared: Arc<Shared>,
}

impl Pause {
    pub(crate) fn begin(shared: &Arc<Shared>) -> Self {
        Self::counted(shared, &mut shared.registry.lock())
    }

    fn counted(shared: &Arc<Shared>, inner: &mut Inner) -> Self {
        inner.paused += 1;
        Pause {
            shared: Arc::clone(shared),
        }
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.shared.registry.lock().paused -= 1;
    }
}

//! The requests in progress: how many there are, whose they are, and how to reach their sockets.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};

use super::activity::Activity;
use super::board::Board;
use super::slab::Slab;
use super::slot::{Present, Slot};
use super::{Report, State};
use crate::address::Address;
use crate::limits::{AddressRules, Addresses, Capacity, Client, Verdict};
use crate::mutex::Mutex;
use crate::request::Request;
use crate::stats::{Connection, Counts, End, Stats, Way};

/// Counts requests, keeps to the limits, and knows the sockets.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
    last_number: AtomicU64,
    /// In a worker: acceptors that perhaps have a request that is not entered yet, or are turning one away.
    pub(super) receiving: AtomicUsize,
    rules: OnceLock<AddressRules>,
    /// What the workers of a prefork server share, once there are any.
    board: OnceLock<Arc<Board>>,
}

/// All counts change under one lock, so that they agree with one another whenever they are read.
#[derive(Debug, Default)]
pub(crate) struct Inner {
    /// The requests in progress and those that wait for their address's turn.
    pub(super) records: Slab<Record>,
    /// Places taken by acceptors for requests that have not come yet.
    pub(super) reserved: usize,
    /// Requests in progress.
    pub(super) running: usize,
    /// Requests that wait for their address's turn.
    pub(super) waiting: usize,
    pub(super) counts: Counts,
    /// The deadline is over: what ends now was not drained but forced.
    pub(super) forcing: bool,
    /// Requests that had been made to end before that, and are told of with those that are then: by the deadline's
    /// timer, because the thread that drains was serving them, or in workers that have ended since.
    forced_before: u64,
    /// Acceptors that found no place and wait for one.
    pub(super) paused: usize,
    /// Calls of `handle_request`: each may be about to start a request.
    pub(super) handling: usize,
    pub(super) addresses: Addresses,
    /// What the observers were told last of being suspended, and whether a thread is telling them.
    told_suspended: bool,
    pub(super) telling_suspension: bool,
    /// Requests whose processes are to be told to end.
    condemned: Vec<u64>,
    /// The workers of a prefork server that live, in their master.
    workers: Vec<Arc<Slot>>,
}

/// What is known of a request.
#[derive(Debug)]
pub(super) struct Record {
    number: u64,
    /// As it was accepted.
    client_address: Address,
    /// What the limits by address count it as.
    pub(super) client: Option<Client>,
    /// Until it is closed, or has become another process's matter.
    pub(super) socket: Option<RawFd>,
    pub(super) accepted: Instant,
    pub(super) waiting: bool,
    /// When it began to run; not looked at unless somebody observes.
    pub(super) began: Option<Instant>,
    pub(super) activity: Arc<Activity>,
    /// A child serves it.
    pub(super) remote: bool,
    /// Somebody wanted its end while it had a socket.
    closed: bool,
}

impl Inner {
    /// Counts the end of a request of this process. Returns its way.
    pub(super) fn count(&mut self, end: End, forced: bool, stopping: bool) -> Way {
        let way = self.way(forced, stopping);
        self.forced_before += u64::from(way == Way::Forced && !self.forcing);
        self.counts.add(end, way, 1);
        way
    }

    fn way(&self, forced: bool, stopping: bool) -> Way {
        if self.forcing || forced {
            Way::Forced
        } else if stopping {
            Way::Drained
        } else {
            Way::Usual
        }
    }

    pub(super) fn verdict(&mut self, rules: Option<&AddressRules>, record: &Record, capacity: Capacity) -> Verdict {
        if self.forcing {
            return Verdict::TooLate;
        }
        if let Some(limit) = capacity.rejects(self.running) {
            return Verdict::Reject(limit);
        }
        match (rules, record.client) {
            (Some(rules), Some(client)) => self.addresses.admit(rules, client, record.accepted, self.waiting),
            _ => Verdict::Admit,
        }
    }

    /// Requests in progress and waiting, here and in workers.
    fn present(&self) -> usize {
        let in_workers: u64 = self.workers.iter().map(|slot| slot.present()).sum();
        self.running + self.waiting + usize::try_from(in_workers).unwrap_or(usize::MAX)
    }

    /// A child serves the request from now on: it has no socket here. If it was to end before, the child is told.
    pub(super) fn leave_to_child(&mut self, index: usize) {
        let Some(record) = self.records.get_mut(index) else {
            return;
        };
        record.socket = None;
        record.remote = true;
        if record.closed {
            self.condemned.push(record.number);
        }
    }

    /// Whether the observers are to be told that the server is suspended, or is not; `None` if they know, or are being
    /// told.
    pub(super) fn begin_telling(&mut self, suspended: &AtomicBool) -> Option<bool> {
        let suspended = suspended.load(Ordering::SeqCst);
        if self.telling_suspension || suspended == self.told_suspended {
            return None;
        }
        (self.told_suspended, self.telling_suspension) = (suspended, true);
        Some(suspended)
    }

    pub(crate) fn add_worker(&mut self, slot: Arc<Slot>) {
        self.workers.push(slot);
    }

    /// In a forked worker: the others are none of its business. Their slots stay mapped: taking each out of the memory
    /// of a process that may serve one request only would take longer than the fork. Nor are the requests that its
    /// master serves itself, which would never end here, nor what has been counted by then.
    pub(crate) fn forget_masters(&mut self) {
        self.workers.drain(..).for_each(std::mem::forget);
        (self.counts, self.forced_before) = (Counts::default(), 0);
        // The board says so, and a thread that was telling has stayed there.
        (self.told_suspended, self.telling_suspension) = (false, false);
        if self.running + self.waiting + self.reserved + self.paused + self.handling > 0 {
            (self.running, self.waiting, self.reserved, self.paused, self.handling) = (0, 0, 0, 0, 0);
            self.records = Slab::default();
            self.condemned.clear();
            self.addresses.forget_present();
        }
    }
}

impl Registry {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// The number of another request, counted from 1.
    pub(super) fn next_number(&self) -> u64 {
        self.last_number.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Sets the limits by address; the first call decides.
    pub(crate) fn set_rules(&self, rules: AddressRules) {
        let _ = self.rules.set(rules);
    }

    pub(super) fn rules(&self) -> Option<&AddressRules> {
        self.rules.get()
    }

    pub(crate) fn board(&self) -> Option<&Arc<Board>> {
        self.board.get()
    }

    /// What the workers share, made with the first of them.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub(crate) fn make_board(&self) -> io::Result<&Arc<Board>> {
        if self.board.get().is_none() {
            let board = Board::new()?;
            // `handle_request` may have served some.
            board.number_after(self.last_number.load(Ordering::Relaxed));
            let _ = self.board.set(Arc::new(board));
        }
        self.board.get().ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// Requests in progress, those that wait for their address's turn and those of workers included.
    pub(crate) fn running(&self) -> usize {
        self.lock().present()
    }

    /// Whether the patience with requests is over.
    pub(crate) fn is_forcing(&self) -> bool {
        self.lock().forcing
    }

    /// Whether a request is in progress in this process; one that waits for its address's turn is not.
    pub(crate) fn any_runs(&self) -> bool {
        self.lock().running > 0
    }

    /// Whether no request is in progress, none may be about to start, and no worker is left.
    pub(crate) fn is_idle(&self) -> bool {
        // First: what is entered meanwhile is seen below.
        let receiving = self.receiving.load(Ordering::SeqCst);
        let inner = self.lock();
        receiving + inner.running + inner.waiting + inner.handling == 0 && inner.workers.is_empty()
    }

    pub(crate) fn has_workers(&self) -> bool {
        !self.lock().workers.is_empty()
    }

    /// Whether an acceptor in a worker is about to accept, or does.
    pub(super) fn any_worker_accepts(&self) -> bool {
        let accepts = |slot: &Arc<Slot>| slot.accepting().load(Ordering::SeqCst) > 0;
        self.lock().workers.iter().any(accepts)
    }

    /// A worker has ended: counts its requests. What it had in progress has failed; returns how many.
    pub(crate) fn settle(&self, worker: &Arc<Slot>, stopping: bool) -> u64 {
        let mut inner = self.lock();
        inner.workers.retain(|slot| !Arc::ptr_eq(slot, worker));
        let forced = inner.counts.forced;
        let Present { running, waiting } = worker.add_to(&mut inner.counts);
        if stopping && !inner.forcing {
            inner.forced_before += inner.counts.forced - forced;
        }
        let lost = running + waiting;
        inner.counts.started += waiting;
        let way = inner.way(false, stopping);
        inner.counts.add(End::Failed, way, lost);
        lost
    }

    /// All counts, at one moment. What runs once nothing is waited for any more is leaked.
    pub(crate) fn report(&self, elapsed: Duration) -> Report {
        let inner = self.lock();
        let (counts, leaked) = (inner.counts, inner.present() as u64);
        Report {
            served: counts.served,
            failed: counts.failed,
            drained: counts.drained,
            forced: counts.forced + leaked,
            leaked,
            elapsed,
        }
    }

    pub(crate) fn stats(&self, state: State) -> Stats {
        let inner = self.lock();
        let mut counts = inner.counts;
        let (mut running, mut waiting) = (inner.running, inner.waiting);
        for slot in &inner.workers {
            let present = slot.add_to(&mut counts);
            running += usize::try_from(present.running).unwrap_or(usize::MAX);
            waiting += usize::try_from(present.waiting).unwrap_or(usize::MAX);
        }
        let mut connections: Vec<_> = inner.records.iter().map(Record::show).collect();
        drop(inner);
        connections.sort_unstable_by_key(|connection| connection.number);
        Stats::new(state, &counts, running, waiting, connections)
    }

    /// The patience with the requests in progress is over. Returns how many did not end in time, the first time: those
    /// that there are, and those that were made to end before.
    pub(crate) fn begin_forcing(&self) -> Option<u64> {
        let mut inner = self.lock();
        let first = !std::mem::replace(&mut inner.forcing, true);
        first.then(|| {
            // Each slot is read once: what ends meanwhile is still in progress, and not counted twice.
            let mut ended = Counts::default();
            let slots = inner.workers.iter().map(|slot| slot.add_to(&mut ended));
            let in_workers: u64 = slots.map(|present| present.running + present.waiting).sum();
            let here = (inner.running + inner.waiting) as u64;
            here + in_workers + ended.forced + inner.forced_before
        })
    }

    /// Ends the reading of the connections that are idle: whoever reads there gets an end of stream. Again, of those
    /// that were about to read something, which has turned out to be no message.
    pub(crate) fn shutdown_idle(&self) {
        self.for_each_socket(|socket, activity| activity.end_if_idle(socket));
    }

    /// Shuts down, both ways, the sockets of all requests in progress, so that whoever reads or writes
    /// there gets an end or an error.
    pub(crate) fn shutdown_all(&self) {
        self.for_each_socket(|socket, _| {
            // It fails where the peer has gone already, which is as good.
            let _ = shutdown(socket, Shutdown::Both);
        });
    }

    /// A socket is closed only after it has left its record, and that takes the lock held here: none of these
    /// numbers can be another descriptor by now.
    fn for_each_socket(&self, end: impl Fn(RawFd, &Activity)) {
        for record in self.lock().records.iter() {
            if let Some(socket) = record.socket {
                end(socket, &record.activity);
            }
        }
    }

    /// Makes one request end: shuts its socket down, or condemns its process. False if there is no such
    /// request, or it has neither.
    pub(crate) fn close_connection(&self, number: u64) -> bool {
        let mut inner = self.lock();
        let Some(record) = inner.records.iter_mut().find(|record| record.number == number) else {
            return false;
        };
        if let Some(socket) = record.socket {
            let _ = shutdown(socket, Shutdown::Both);
            record.closed = true;
            return true;
        }
        let in_a_child = record.remote;
        if in_a_child {
            inner.condemned.push(number);
        }
        in_a_child
    }

    /// The requests whose processes are to be told to end. Only the strategy that owns a process can do that
    /// without hitting another that has its number by now.
    pub(crate) fn take_condemned(&self) -> Vec<u64> {
        std::mem::take(&mut self.lock().condemned)
    }
}

impl Record {
    pub(super) fn new<R: Request>(
        number: u64,
        request: &R,
        activity: Arc<Activity>,
        rules: Option<&AddressRules>,
    ) -> Self {
        let client_address = request.client_address().clone();
        Record {
            number,
            client: rules.and_then(|rules| rules.client(&client_address)),
            client_address,
            socket: request.socket().map(|socket| socket.as_raw_fd()),
            accepted: Instant::now(),
            waiting: false,
            began: None,
            activity,
            remote: false,
            closed: false,
        }
    }

    pub(super) fn client_address(&self) -> Address {
        self.activity
            .client_address(false)
            .unwrap_or_else(|| self.client_address.clone())
    }

    fn show(&self) -> Connection {
        let bytes = |count: u64| (!self.remote).then_some(count);
        Connection {
            number: self.number,
            client_address: self.client_address(),
            age: self.accepted.elapsed(),
            waiting: self.waiting,
            received: bytes(self.activity.received()),
            sent: bytes(self.activity.sent()),
        }
    }
}

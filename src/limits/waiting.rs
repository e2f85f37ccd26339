//! Requests that were accepted and wait until the limits on their address let them run.

use std::collections::VecDeque;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::hooks::Outermost;
use crate::job::{Active, Job, process};
use crate::lifecycle::Ticket;
use crate::mutex::Mutex;
use crate::transport::Transport;

/// Where they wait, each with its connection and without a thread or process.
///
/// The kernel's queue cannot hold them: it gives connections out in their order, so the first of a client
/// over its limit would stop all others.
pub(crate) struct WaitingRoom<T: Transport> {
    queue: Mutex<VecDeque<Waiting<T>>>,
    /// Its length, to be looked at without the lock.
    length: AtomicUsize,
}

struct Waiting<T: Transport> {
    /// It does not run before.
    turn: Instant,
    active: Active<T>,
    ticket: Ticket,
}

impl<T: Transport> WaitingRoom<T> {
    pub(crate) fn new() -> Self {
        WaitingRoom {
            queue: Mutex::default(),
            length: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting<T>>> {
        self.queue.lock()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn push(&self, active: Active<T>, ticket: Ticket, turn: Instant) {
        let mut queue = self.lock();
        queue.push_back(Waiting { turn, active, ticket });
        self.length.store(queue.len(), Ordering::Relaxed);
    }

    /// The first one that may run now, on the place taken.
    pub(crate) fn next(&self, server: &Outermost<T>, place: &mut Ticket) -> Option<Job<T>> {
        if self.is_empty() {
            return None;
        }
        let (now, capacity) = (Instant::now(), server.capacity());
        let mut queue = self.lock();
        let index = queue
            .iter_mut()
            .position(|waiting| waiting.turn <= now && waiting.ticket.resume(place, capacity))?;
        let Waiting { active, ticket, .. } = queue.remove(index)?;
        self.length.store(queue.len(), Ordering::Relaxed);
        drop(queue);
        if !self.is_empty() {
            // Whoever asked may run this one itself: another acceptor shall look for more.
            if let Ok(wakeup) = server.core().shared().wakeup() {
                wakeup.give_turn();
            }
        }
        Some(Job::new(server, active, ticket).started())
    }

    /// When the next one's turn comes; `None` if none waits for a time.
    pub(crate) fn next_turn(&self) -> Option<Instant> {
        if self.is_empty() {
            return None;
        }
        let now = Instant::now();
        let queue = self.lock();
        queue
            .iter()
            .map(|waiting| waiting.turn)
            .filter(|turn| *turn > now)
            .min()
    }

    /// Runs those that may run. For the drain: nobody accepts any more.
    pub(crate) fn run_ready(&self, server: &Outermost<T>) {
        let shared = server.core().shared();
        while !self.is_empty() {
            let Ok(mut place) = Ticket::take(shared, server.capacity()) else {
                return;
            };
            match self.next(server, &mut place) {
                Some(job) => process(server, job),
                None => return,
            }
        }
    }

    /// Their time is over: closes and counts them.
    pub(crate) fn drop_all(&self, server: &Outermost<T>) {
        for Waiting { active, ticket, .. } in self.take(self.lock()) {
            drop(Job::new(server, active, ticket));
        }
    }

    fn take(&self, mut queue: MutexGuard<'_, VecDeque<Waiting<T>>>) -> VecDeque<Waiting<T>> {
        self.length.store(0, Ordering::Relaxed);
        std::mem::take(&mut queue)
    }

    /// Closes them without a server: in a forked child, which must not keep them open.
    pub(crate) fn abandon(&self) {
        // The thread that forked holds no lock; another thread's would be held for ever in a child.
        let Some(queue) = self.queue.try_lock() else { return };
        for Waiting { active, mut ticket, .. } in self.take(queue) {
            ticket.forget_socket();
            drop((active, ticket));
        }
    }
}

/// A server that was dropped before it drained.
impl<T: Transport> Drop for WaitingRoom<T> {
    fn drop(&mut self) {
        self.abandon();
    }
}

//! Requests that were accepted and wait until the limits on their address let them run.

use std::time::Instant;

use super::queue::Queue;
use crate::hooks::Outermost;
use crate::job::{Active, Job, process};
use crate::lifecycle::Ticket;
use crate::transport::Transport;

/// Where they wait, each with its connection and without a thread or process.
///
/// The kernel's queue cannot hold them: it gives connections out in their order, so the first of a client
/// over its limit would stop all others.
pub(crate) struct WaitingRoom<T: Transport> {
    queue: Queue<Waiting<T>>,
}

struct Waiting<T: Transport> {
    /// It does not run before.
    turn: Instant,
    active: Active<T>,
    ticket: Ticket,
}

impl<T: Transport> WaitingRoom<T> {
    pub(crate) fn new() -> Self {
        WaitingRoom { queue: Queue::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn push(&self, active: Active<T>, ticket: Ticket, turn: Instant) {
        let number = ticket.number();
        let waiting = Waiting { turn, active, ticket };
        self.queue.with(|queue| {
            // In the order in which they came: between coming and here, another thread may have been quicker.
            let before = queue.iter().rposition(|other| other.ticket.number() < number);
            queue.insert(before.map_or(0, |index| index + 1), waiting);
        });
    }

    /// The first one that may run now, on the place taken.
    pub(crate) fn next(&self, server: &Outermost<T>, place: &mut Ticket) -> Option<Job<T>> {
        if self.is_empty() {
            return None;
        }
        let (now, capacity) = (Instant::now(), server.capacity());
        let Waiting { active, ticket, .. } = self.queue.with(|queue| {
            // Locked for the whole search: a request that ends during it would make room for the next that is looked
            // at, however many of its address came before.
            let mut inner = server.core().shared().registry.lock();
            let index = queue
                .iter_mut()
                .position(|waiting| waiting.turn <= now && waiting.ticket.resume(&mut inner, place, capacity))?;
            queue.remove(index)
        })?;
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
        self.queue.with(|queue| {
            let turns = queue.iter().map(|waiting| waiting.turn);
            turns.filter(|turn| *turn > now).min()
        })
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
        for Waiting { active, ticket, .. } in self.queue.take() {
            drop(Job::new(server, active, ticket));
        }
    }

    /// In a forked process, which must not keep them open: what waits here is its parent's.
    pub(crate) fn leave_to_parent(&self) {
        for Waiting { active, ticket, .. } in self.queue.try_take() {
            ticket.leave_to_parent();
            drop(active);
        }
    }
}

/// A server that was dropped before it drained.
impl<T: Transport> Drop for WaitingRoom<T> {
    fn drop(&mut self) {
        for Waiting { active, mut ticket, .. } in self.queue.try_take() {
            ticket.forget_socket();
            drop((active, ticket));
        }
    }
}

//! The requests in progress: how many there are, and how to reach their sockets.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};

use super::activity::Activity;
use super::inline::Inline;
use super::scoreboard::{Board, Slot};
use super::{Report, Shared};
use crate::request::ServerContext;

/// Counts requests and knows their sockets.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
    /// What the workers of a prefork server share, once there are any.
    board: OnceLock<Arc<Board>>,
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    /// The connection of each request in progress, by the request's number.
    connections: HashMap<u64, Connection>,
    /// Places taken, those of requests that are not accepted yet included.
    taken: usize,
    /// Requests in progress.
    running: usize,
    /// Requests accepted so far: the last one's number.
    accepted: u64,
    served: u64,
    failed: u64,
    drained: u64,
    forced: u64,
    /// The deadline is over: what ends now was not drained but forced.
    forcing: bool,
    /// Acceptors that found no place and wait for one.
    paused: usize,
    /// The workers of a prefork server that live, in their master.
    workers: Vec<Arc<Slot>>,
}

/// The socket of a request that is a connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) socket: RawFd,
    pub(crate) activity: Arc<Activity>,
}

impl Inner {
    /// A request has ended, `forced` on the thread that accepts.
    fn end(&mut self, end: End, forced: bool, stopping: bool) -> Way {
        let way = self.way(forced, stopping);
        self.running -= 1;
        self.count(end, way, 1);
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

    fn count(&mut self, end: End, way: Way, requests: u64) {
        match end {
            End::Served => self.served += requests,
            End::Failed => self.failed += requests,
            End::Refused => return,
        }
        match way {
            Way::Usual => {}
            Way::Drained => self.drained += requests,
            Way::Forced => self.forced += requests,
        }
    }

    /// Requests in progress, here and in workers.
    fn running(&self) -> usize {
        let in_workers: u64 = self.workers.iter().map(|slot| slot.running()).sum();
        self.running + usize::try_from(in_workers).unwrap_or(usize::MAX)
    }

    pub(crate) fn add_worker(&mut self, slot: Arc<Slot>) {
        self.workers.push(slot);
    }

    /// In a forked worker: the others are none of its business.
    pub(crate) fn forget_workers(&mut self) {
        self.workers.clear();
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The map is consistent at every point where a thread could panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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
            let _ = self.board.set(Arc::new(Board::new()?));
        }
        self.board.get().ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// Locked over a fork: in the child, what another thread had locked would stay so.
    pub(crate) fn hold(&self) -> MutexGuard<'_, Inner> {
        self.lock()
    }

    /// Requests in progress, those of workers included.
    pub(crate) fn running(&self) -> usize {
        self.lock().running()
    }

    /// Whether no request is in progress and no worker left.
    pub(crate) fn is_idle(&self) -> bool {
        let inner = self.lock();
        inner.running == 0 && inner.workers.is_empty()
    }

    /// A worker has ended: counts its requests. What it had in progress has failed; returns how many.
    pub(crate) fn settle(&self, worker: &Arc<Slot>, stopping: bool) -> u64 {
        let mut inner = self.lock();
        inner.workers.retain(|slot| !Arc::ptr_eq(slot, worker));
        for (end, way, requests) in worker.ends() {
            inner.count(end, way, requests);
        }
        let lost = worker.running();
        let way = inner.way(false, stopping);
        inner.count(End::Failed, way, lost);
        lost
    }

    /// All counts, at one moment. What runs once nothing is waited for any more is leaked.
    pub(crate) fn report(&self, elapsed: Duration) -> Report {
        let inner = self.lock();
        let leaked = inner.running() as u64;
        Report {
            served: inner.served,
            failed: inner.failed,
            drained: inner.drained,
            forced: inner.forced + leaked,
            leaked,
            elapsed,
        }
    }

    /// The patience with the requests in progress is over. Returns how many there are, the first time.
    pub(crate) fn begin_forcing(&self) -> Option<usize> {
        let mut inner = self.lock();
        let first = !std::mem::replace(&mut inner.forcing, true);
        first.then(|| inner.running())
    }

    /// Ends the reading of the connections that are idle: whoever reads there gets an end of stream.
    pub(crate) fn shutdown_idle(&self) {
        self.shutdown(Shutdown::Read, Activity::is_idle);
    }

    /// Shuts down, both ways, the sockets of all requests in progress, so that whoever reads or writes
    /// there gets an end or an error.
    pub(crate) fn shutdown_all(&self) {
        self.shutdown(Shutdown::Both, |_| true);
    }

    /// A socket is closed only after it has left the map, and that takes the lock held here: none of these
    /// numbers can be another descriptor by now.
    fn shutdown(&self, how: Shutdown, which: impl Fn(&Activity) -> bool) {
        for connection in self.lock().connections.values() {
            if which(&connection.activity) {
                // It fails where the peer has gone already, which is as good.
                let _ = shutdown(connection.socket, how);
            }
        }
    }
}

/// What a request counts as when its ticket is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Served,
    Failed,
    Refused,
}

/// How it came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Usual,
    /// By itself, although the server was told to stop.
    Drained,
    /// Its socket was shut down, or its process told to end.
    Forced,
}

/// A place among the requests in progress: taken before accepting, given back when dropped.
///
/// Whatever happens to a request (it ends, panics, is dropped in a queue, its process is killed), the
/// ticket goes with it, so each is counted exactly once.
#[derive(Debug)]
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    number: Option<u64>,
    connection: Option<Connection>,
    end: End,
    /// It runs on the thread that accepts.
    inline: bool,
    /// It was made to end while it ran there.
    forced: bool,
}

impl Ticket {
    /// Takes a place, or arranges to be told when there is one.
    pub(crate) fn take(shared: &Arc<Shared>, capacity: usize) -> Result<Self, Pause> {
        let mut inner = shared.registry.lock();
        if inner.taken >= capacity {
            return Err(Pause::counted(shared, &mut inner));
        }
        inner.taken += 1;
        Ok(Ticket {
            shared: Arc::clone(shared),
            number: None,
            connection: None,
            end: End::Failed,
            inline: false,
            forced: false,
        })
    }

    /// A request has been accepted for this place. Returns its context.
    pub(crate) fn assign(&mut self, socket: Option<BorrowedFd<'_>>) -> ServerContext {
        self.connection = socket.map(|socket| Connection {
            socket: socket.as_raw_fd(),
            activity: Arc::default(),
        });
        let mut inner = self.shared.registry.lock();
        inner.running += 1;
        inner.accepted += 1;
        let number = match (self.shared.master(), self.shared.wakeup()) {
            (Some(master), Ok(wakeup)) => master.accepted(wakeup),
            _ => inner.accepted,
        };
        if let Some(connection) = &self.connection {
            inner.connections.insert(number, connection.clone());
        }
        drop(inner);
        self.number = Some(number);
        let activity = self
            .connection
            .as_ref()
            .map(|connection| Arc::clone(&connection.activity));
        ServerContext::new(Arc::clone(&self.shared), number, activity)
    }

    fn number(&self) -> u64 {
        self.number.unwrap_or_default()
    }

    /// The request is about to run on the thread that accepts, which cannot see to the drain meanwhile.
    pub(crate) fn begin_inline(&mut self) {
        let Ok(wakeup) = self.shared.wakeup() else { return };
        self.inline = true;
        wakeup.begin_inline(Inline {
            number: self.number(),
            connection: self.connection.clone(),
            forced: false,
        });
    }

    /// The socket is about to be closed, or has become another process's matter.
    pub(crate) fn forget_socket(&mut self) {
        if self.connection.take().is_some() {
            self.shared.registry.lock().connections.remove(&self.number());
        }
        if let (true, Ok(wakeup)) = (self.inline, self.shared.wakeup()) {
            self.forced = wakeup.end_inline(self.number());
        }
    }

    /// The request was refused before it began: it is in no count.
    pub(crate) fn refused(mut self) {
        self.end = End::Refused;
    }

    /// The request ended well. Without this it counts as failed.
    pub(crate) fn served(mut self) {
        self.end = End::Served;
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Ok(wakeup) = self.shared.wakeup() else { return };
        let accepted = self.number.is_some();
        let mut inner = self.shared.registry.lock();
        inner.taken -= 1;
        if accepted {
            let way = inner.end(self.end, self.forced, wakeup.is_told_to_stop());
            if let Some(master) = self.shared.master() {
                master.ended(self.end, way);
            }
        }
        let last = accepted && inner.running == 0;
        let paused = inner.paused > 0;
        drop(inner);
        if paused {
            wakeup.give_place();
        }
        // Asked last: whoever began to drain meanwhile may have seen this one as still there.
        if last && wakeup.is_told_to_stop() {
            wakeup.request_ended();
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

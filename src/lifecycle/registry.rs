//! The requests in progress: how many there are, and how to reach their sockets.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};

use super::activity::Activity;
use super::inline::Inline;
use super::{Report, Shared};
use crate::request::ServerContext;

/// Counts requests and knows their sockets.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
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
}

/// The socket of a request that is a connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) socket: RawFd,
    pub(crate) activity: Arc<Activity>,
}

impl Inner {
    /// A request has ended; `forced` on the thread that accepts, while the server was `stopping`.
    fn end(&mut self, end: End, forced: bool, stopping: bool) {
        self.running -= 1;
        match end {
            End::Served => self.served += 1,
            End::Failed => self.failed += 1,
            End::Refused => return,
        }
        if self.forcing || forced {
            self.forced += 1;
        } else if stopping {
            self.drained += 1;
        }
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The map is consistent at every point where a thread could panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests in progress.
    pub(crate) fn running(&self) -> usize {
        self.lock().running
    }

    /// All counts, at one moment. What runs once nothing is waited for any more is leaked.
    pub(crate) fn report(&self, elapsed: Duration) -> Report {
        let inner = self.lock();
        let leaked = inner.running as u64;
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
    pub(crate) fn begin_forcing(&self) -> usize {
        let mut inner = self.lock();
        if std::mem::replace(&mut inner.forcing, true) {
            return 0;
        }
        inner.running
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

/// What a request counts as when its ticket is dropped.
#[derive(Clone, Copy, Debug)]
enum End {
    Served,
    Failed,
    Refused,
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
        let number = inner.accepted;
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
            inner.end(self.end, self.forced, wakeup.is_told_to_stop());
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

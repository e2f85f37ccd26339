//! The requests in progress: how many there are, and how to reach their sockets.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::socket::{Shutdown, shutdown};

use super::Shared;

/// Counts requests and knows their sockets.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The socket of each request in progress, by the request's number.
    sockets: HashMap<u64, RawFd>,
    /// Places taken, those of requests that are not accepted yet included.
    taken: usize,
    /// Requests in progress.
    running: usize,
    /// Requests accepted so far: the last one's number.
    accepted: u64,
    served: u64,
    failed: u64,
    /// Acceptors that found no place and wait for one.
    paused: usize,
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

    /// Requests that ended without an error.
    pub(crate) fn served(&self) -> u64 {
        self.lock().served
    }

    /// Requests that ended otherwise.
    pub(crate) fn failed(&self) -> u64 {
        self.lock().failed
    }

    /// Shuts down, both ways, the sockets of all requests in progress, so that whoever reads or writes
    /// there gets an end or an error. Returns how many. A socket is closed only after it has left the
    /// map, and that takes the lock held here: none of these numbers can be another descriptor by now.
    pub(crate) fn shutdown_sockets(&self) -> usize {
        let inner = self.lock();
        for socket in inner.sockets.values() {
            // It fails where the peer has gone already, which is as good.
            let _ = shutdown(*socket, Shutdown::Both);
        }
        inner.sockets.len()
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
    end: End,
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
            inner.paused += 1;
            return Err(Pause {
                shared: Arc::clone(shared),
            });
        }
        inner.taken += 1;
        Ok(Ticket {
            shared: Arc::clone(shared),
            number: None,
            end: End::Failed,
        })
    }

    /// A request has been accepted for this place. Returns its number, counted from 1.
    pub(crate) fn assign(&mut self, socket: Option<BorrowedFd<'_>>) -> u64 {
        let mut inner = self.shared.registry.lock();
        inner.running += 1;
        inner.accepted += 1;
        let number = inner.accepted;
        self.number = Some(number);
        if let Some(socket) = socket {
            inner.sockets.insert(number, socket.as_raw_fd());
        }
        number
    }

    pub(crate) fn number(&self) -> u64 {
        self.number.unwrap_or_default()
    }

    /// The socket is about to be closed, or has become another process's matter.
    pub(crate) fn forget_socket(&self) {
        let socket = self.shared.registry.lock().sockets.remove(&self.number());
        if let (Some(socket), Ok(wakeup)) = (socket, self.shared.wakeup()) {
            wakeup.forget_inline(socket);
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
        let accepted = self.number.is_some();
        let mut inner = self.shared.registry.lock();
        inner.taken -= 1;
        if accepted {
            inner.running -= 1;
            match self.end {
                End::Served => inner.served += 1,
                End::Failed => inner.failed += 1,
                End::Refused => {}
            }
        }
        let last = accepted && inner.running == 0;
        let paused = inner.paused > 0;
        drop(inner);
        if paused {
            self.shared.give_place();
        }
        if last && self.shared.is_stopping() {
            self.shared.wake();
        }
    }
}

/// An acceptor waits for a place: as long as this lives, each place that becomes free is told.
#[derive(Debug)]
pub(crate) struct Pause {
    shared: Arc<Shared>,
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.shared.registry.lock().paused -= 1;
    }
}

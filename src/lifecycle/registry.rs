//! The requests in progress: how many there are, and how to reach their sockets.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::socket::{Shutdown, shutdown};

use super::Shared;

/// Counts requests and knows their sockets.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
    next_number: AtomicU64,
    served: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    /// The socket of each request in progress, by the request's number.
    sockets: HashMap<u64, RawFd>,
    /// Places taken, those of requests that are not accepted yet included.
    taken: usize,
    /// An acceptor found no place and waits for a wake-up.
    paused: bool,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The map is consistent at every point where a thread could panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests in progress.
    pub(crate) fn running(&self) -> usize {
        self.lock().taken
    }

    /// Requests that ended without an error.
    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::SeqCst)
    }

    /// Requests that ended otherwise.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::SeqCst)
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
    served: bool,
}

impl Ticket {
    /// Takes a place, or arranges a wake-up for when there is one.
    pub(crate) fn take(shared: &Arc<Shared>, capacity: usize) -> Option<Self> {
        let mut inner = shared.registry.lock();
        if inner.taken >= capacity {
            inner.paused = true;
            return None;
        }
        inner.taken += 1;
        Some(Ticket {
            shared: Arc::clone(shared),
            number: None,
            served: false,
        })
    }

    /// A request has been accepted for this place. Returns its number, counted from 1.
    pub(crate) fn assign(&mut self, socket: Option<BorrowedFd<'_>>) -> u64 {
        let number = self.shared.registry.next_number.fetch_add(1, Ordering::Relaxed) + 1;
        self.number = Some(number);
        if let Some(socket) = socket {
            self.shared.registry.lock().sockets.insert(number, socket.as_raw_fd());
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
        self.number = None;
    }

    /// The request ended well. Without this it counts as failed.
    pub(crate) fn served(mut self) {
        self.served = true;
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let registry = &self.shared.registry;
        if self.number.is_some() {
            let counter = if self.served {
                &registry.served
            } else {
                &registry.failed
            };
            counter.fetch_add(1, Ordering::SeqCst);
        }
        let mut inner = registry.lock();
        inner.taken -= 1;
        let last = inner.taken == 0;
        let paused = std::mem::take(&mut inner.paused);
        drop(inner);
        if paused || (last && self.shared.is_stopping()) {
            self.shared.wake();
        }
    }
}

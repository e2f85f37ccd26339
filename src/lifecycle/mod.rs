//! The life of a server: new → bound → serving → draining → closed, and who may ask for what when.

mod activity;
mod drain;
mod inline;
mod master;
mod registry;
mod report;
mod running;
mod scoreboard;
mod shutdown;
mod stamp;
mod wakeup;

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use nix::errno::Errno;

use crate::address::Address;

pub(crate) use activity::Activity;
pub(crate) use drain::{Backlog, drain, drain_worker};
pub(crate) use master::{Duty, Master};
pub(crate) use registry::{Pause, Registry, Ticket};
pub(crate) use scoreboard::{Order, Slot, Stage};
pub(crate) use wakeup::{Wakeup, event};

pub use report::Report;
pub use running::Running;
pub use shutdown::{ShutdownHandle, WaitError};

/// Where a server is in its life. It only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum State {
    /// Made, not bound: no socket exists yet.
    New,
    /// Bound and listening; nobody accepts yet.
    Bound,
    /// Accepting and serving.
    Serving,
    /// Told to stop: what had arrived is still served.
    Draining,
    /// Over: the socket is closed.
    Closed,
}

impl State {
    const ALL: [State; 5] = [State::New, State::Bound, State::Serving, State::Draining, State::Closed];
}

/// What the parts of one server share, whatever its types: its loop, its requests, its handles.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Absent if the process had no descriptors left when the server was made: `bind` reports it.
    wakeup: Result<Arc<Wakeup>, Errno>,
    pub(crate) registry: Registry,
    /// Set in a worker of a prefork server.
    master: OnceLock<Arc<Master>>,
    state: AtomicU8,
    /// A strategy could not start a request for want of threads or processes: accept more slowly.
    congested: AtomicBool,
    /// Notified when the state has become `Closed`.
    closed: Condvar,
    closed_lock: Mutex<()>,
    address: OnceLock<Address>,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Shared {
            wakeup: Wakeup::new().map(Arc::new),
            registry: Registry::default(),
            master: OnceLock::new(),
            state: AtomicU8::new(State::New as u8),
            congested: AtomicBool::new(false),
            closed: Condvar::new(),
            closed_lock: Mutex::new(()),
            address: OnceLock::new(),
        }
    }

    /// # Errors
    ///
    /// The process had no free descriptor when the server was made.
    pub(crate) fn wakeup(&self) -> io::Result<&Arc<Wakeup>> {
        self.wakeup.as_ref().map_err(|errno| io::Error::from(*errno))
    }

    /// Asks the server to stop. A worker asks its master to.
    pub(crate) fn shutdown(&self) {
        match (self.master(), &self.wakeup) {
            (Some(master), _) => master.shutdown(),
            (None, Ok(wakeup)) => wakeup.shutdown(),
            (None, Err(_)) => {}
        }
    }

    /// The master of this process, if it is a worker of a prefork server.
    pub(crate) fn master(&self) -> Option<&Arc<Master>> {
        self.master.get()
    }

    pub(crate) fn set_master(&self, master: Arc<Master>) {
        // A worker is forked by a master, which has none.
        let _ = self.master.set(master);
    }

    /// Ends the patience with requests in progress.
    pub(crate) fn force(&self) {
        if let Ok(wakeup) = &self.wakeup {
            wakeup.force();
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.wakeup.as_ref().is_ok_and(|wakeup| wakeup.is_stopping())
    }

    pub(crate) fn is_forced(&self) -> bool {
        self.wakeup.as_ref().is_ok_and(|wakeup| wakeup.is_forced())
    }

    pub(crate) fn wake(&self) {
        if let Ok(wakeup) = &self.wakeup {
            wakeup.wake();
        }
    }

    /// As [`is_stopping`](Self::is_stopping), without a system call: a forked child may not know yet.
    pub(crate) fn is_told_to_stop(&self) -> bool {
        self.wakeup.as_ref().is_ok_and(|wakeup| wakeup.is_told_to_stop())
    }

    pub(crate) fn congested(&self) {
        self.congested.store(true, Ordering::Relaxed);
    }

    pub(crate) fn take_congested(&self) -> bool {
        self.congested.load(Ordering::Relaxed) && self.congested.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn state(&self) -> State {
        State::ALL[usize::from(self.state.load(Ordering::SeqCst))]
    }

    /// Goes forward to `state`; never back.
    pub(crate) fn advance(&self, state: State) {
        self.state.fetch_max(state as u8, Ordering::SeqCst);
        if state == State::Closed {
            if let Ok(wakeup) = &self.wakeup {
                wakeup.closed();
            }
            let _lock = self.closed_lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.closed.notify_all();
        }
    }

    /// Waits until the server is closed or `deadline` has passed; true if it is closed.
    pub(crate) fn wait_closed(&self, deadline: Option<Instant>) -> bool {
        let mut lock = self.closed_lock.lock().unwrap_or_else(PoisonError::into_inner);
        while self.state() != State::Closed {
            lock = match deadline {
                None => self.closed.wait(lock).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    self.closed
                        .wait_timeout(lock, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
        true
    }

    /// The guard's drop says that the server is over, whichever way its thread left.
    pub(crate) fn closing(self: &Arc<Self>) -> Closing {
        Closing {
            shared: Arc::clone(self),
        }
    }

    /// The address bound, once it is.
    pub(crate) fn address(&self) -> Option<&Address> {
        self.address.get()
    }

    pub(crate) fn set_address(&self, address: Address) {
        // Set twice only if `bind` is called twice, to the same.
        let _ = self.address.set(address);
    }

    /// Marks this thread as one that the server waits for, until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> Busy {
        Busy {
            outer: BUSY_FOR.replace(Arc::as_ptr(self)),
        }
    }

    /// Whether this thread runs the server's loop or one of its requests.
    pub(crate) fn is_entered(self: &Arc<Self>) -> bool {
        BUSY_FOR.get() == Arc::as_ptr(self)
    }
}

thread_local! {
    /// The server whose loop or request this thread runs; compared, never followed.
    static BUSY_FOR: Cell<*const Shared> = const { Cell::new(std::ptr::null()) };
}

/// This thread works for a server; see [`Shared::enter`].
pub(crate) struct Busy {
    outer: *const Shared,
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY_FOR.set(self.outer);
    }
}

/// See [`Shared::closing`].
pub(crate) struct Closing {
    shared: Arc<Shared>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.shared.advance(State::Closed);
    }
}

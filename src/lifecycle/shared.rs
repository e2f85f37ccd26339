//! What the parts of one server share.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, OnceLock, Weak};
use std::time::Instant;

use nix::errno::Errno;

use super::{Master, Registry, Report, State, Wakeup};
use crate::address::Address;
use crate::config::Config;
use crate::limits::AddressRules;
use crate::mutex::Mutex;
use crate::observer::{Event, Observer};
use crate::panics::guarded;
use crate::stats::Stats;
use crate::sys;

/// What the parts of one server share, whatever its types: its loop, its requests, its handles.
pub(crate) struct Shared {
    /// Absent if the process had no descriptors left when the server was made: `bind` reports it.
    wakeup: Result<Arc<Wakeup>, Errno>,
    pub(crate) registry: Registry,
    /// Set in a worker of a prefork server.
    master: OnceLock<Arc<Master>>,
    /// Set when the server is bound. The server has them as long as there is one: an observer that has a handle of it
    /// would keep itself here.
    observers: OnceLock<Vec<Weak<dyn Observer>>>,
    /// Never [`State::Suspended`]: that is `Serving` while `suspended` is set.
    state: AtomicU8,
    pub(super) suspended: AtomicBool,
    /// Threads of this process that are about to accept, or do; see [`Shared::begin_accepting`].
    pub(super) accepting: AtomicU64,
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
            observers: OnceLock::new(),
            state: AtomicU8::new(State::New as u8),
            suspended: AtomicBool::new(false),
            accepting: AtomicU64::new(0),
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
            (None, Ok(wakeup)) => wakeup.shutdown_from_anywhere(),
            (None, Err(_)) => {}
        }
    }

    /// The master of this process, if it is a worker of a prefork server.
    pub(crate) fn master(&self) -> Option<&Arc<Master>> {
        self.master.get()
    }

    /// Before another request, or the wait for one: ends a process that a handler has forked in a worker, and that has
    /// come back from there, as a daemon does. Nobody would ever tell it to.
    pub(crate) fn exit_if_copy_of_worker(&self) {
        if self.is_copy_of_worker() {
            sys::exit_now(0);
        }
    }

    /// Whether this is a process that a handler has forked in a worker.
    fn is_copy_of_worker(&self) -> bool {
        self.master().is_some_and(|master| !master.is_worker())
    }

    pub(crate) fn set_master(&self, master: Arc<Master>) {
        // A worker is forked by a master, which has none.
        let _ = self.master.set(master);
        // From now on the master's board says so.
        self.suspended.store(false, Ordering::SeqCst);
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

    /// Has the thread that drains, or is about to, look again.
    pub(crate) fn wake_drain(&self) {
        if let Ok(wakeup) = &self.wakeup {
            wakeup.wake_drain();
        }
    }

    /// As [`is_stopping`](Self::is_stopping), without a system call: a forked child may not know yet.
    pub(crate) fn is_told_to_stop(&self) -> bool {
        self.wakeup.as_ref().is_ok_and(|wakeup| wakeup.is_told_to_stop())
    }

    /// What is set before the server is bound and needed where only this is known.
    pub(crate) fn configure(&self, config: &Config) {
        self.registry.set_rules(AddressRules::new(config));
        // Set twice only by a mix-in that calls its inner `server_bind` twice, to the same.
        let _ = self
            .observers
            .set(config.observers.iter().map(Arc::downgrade).collect());
    }

    /// Whether this is a copy of the memory of the process that counts the requests, and tells of them: in a forked
    /// child, which serves one, or in what a handler has forked in a worker, whose count it shares.
    pub(crate) fn in_child(&self) -> bool {
        self.wakeup.as_ref().is_ok_and(|wakeup| wakeup.in_child()) || self.is_copy_of_worker()
    }

    fn observers(&self) -> &[Weak<dyn Observer>] {
        match self.observers.get() {
            // What becomes of a child's request, the parent tells, or the worker.
            Some(observers) if !observers.is_empty() && !self.in_child() => observers,
            _ => &[],
        }
    }

    pub(crate) fn is_observed(&self) -> bool {
        !self.observers().is_empty()
    }

    /// Tells an event, which is made only if somebody observes.
    pub(crate) fn observe<'a>(&self, event: impl FnOnce() -> Event<'a>) {
        if self.is_observed() {
            self.tell(&event());
        }
    }

    #[cold]
    fn tell(&self, event: &Event<'_>) {
        for observer in self.observers().iter().filter_map(Weak::upgrade) {
            guarded("an observer", || observer.observe(event));
        }
    }

    /// The calling thread handles one request: until the guard is dropped, a drain waits for it, as for a request.
    pub(crate) fn begin_handling(&self) -> Handling<'_> {
        self.registry.lock().handling += 1;
        Handling { shared: self }
    }

    /// The calling thread of a worker is about to receive a request: until the guard is dropped, when that is entered
    /// or turned away, a drain waits for it, as for a request. Who drains another server joins its threads at the end;
    /// a worker ends with its process. `None` in any other.
    pub(crate) fn begin_receiving(&self) -> Option<Receiving<'_>> {
        self.master()?;
        self.registry.receiving.fetch_add(1, Ordering::SeqCst);
        Some(Receiving { shared: self })
    }

    pub(super) fn close_connection(&self, number: u64) -> bool {
        let found = self.registry.close_connection(number);
        if found && let Ok(wakeup) = self.wakeup() {
            // For the processes among them, which the loop sees to, or the drain.
            wakeup.wake();
            wakeup.wake_drain();
        }
        found
    }

    pub(crate) fn stats(&self) -> Stats {
        self.registry.stats(self.state())
    }

    /// Whether some child of the program has ended since the last call.
    pub(crate) fn take_child_exited(&self) -> bool {
        self.wakeup.as_ref().is_ok_and(|wakeup| wakeup.take_child_exited())
    }

    pub(crate) fn congested(&self) {
        self.congested.store(true, Ordering::Relaxed);
    }

    pub(crate) fn take_congested(&self) -> bool {
        self.congested.load(Ordering::Relaxed) && self.congested.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn state(&self) -> State {
        match State::ALL[usize::from(self.state.load(Ordering::SeqCst))] {
            State::Serving if self.is_suspended() => State::Suspended,
            state => state,
        }
    }

    /// Goes forward to `state`; never back.
    pub(crate) fn advance(&self, state: State) {
        self.state.fetch_max(state as u8, Ordering::SeqCst);
        if state == State::Closed {
            if let Ok(wakeup) = &self.wakeup {
                wakeup.closed();
            }
            let _lock = self.closed_lock.lock();
            self.closed.notify_all();
        }
    }

    /// Waits until the server is closed or `deadline` has passed; true if it is closed.
    pub(crate) fn wait_closed(&self, deadline: Option<Instant>) -> bool {
        let lock = self.closed_lock.lock();
        let is_open = || self.state() != State::Closed;
        match deadline {
            None => drop(self.closed.wait_while(lock, |()| is_open())),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                drop(self.closed.wait_timeout_while(lock, left, |()| is_open()));
            }
        }
        !is_open()
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
        // Set twice only by a mix-in that calls its inner `server_bind` twice, to the same.
        let _ = self.address.set(address);
    }

    /// What has been served, and how long the end has taken by now.
    pub(crate) fn report(&self) -> io::Result<Report> {
        Ok(self.registry.report(self.wakeup()?.stopped_at().elapsed()))
    }
}

/// See [`Shared::begin_handling`].
pub(crate) struct Handling<'a> {
    shared: &'a Shared,
}

impl Drop for Handling<'_> {
    fn drop(&mut self) {
        self.shared.registry.lock().handling -= 1;
        if self.shared.is_told_to_stop() {
            self.shared.wake_drain();
        }
    }
}

/// See [`Shared::begin_receiving`].
pub(crate) struct Receiving<'a> {
    shared: &'a Shared,
}

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        let others = self.shared.registry.receiving.fetch_sub(1, Ordering::SeqCst) - 1;
        if others == 0 && self.shared.is_told_to_stop() {
            self.shared.wake_drain();
        }
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

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("address", &self.address())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

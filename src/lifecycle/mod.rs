//! The life of a server: new → bound → serving → draining → closed, and who may ask for what when.

mod activity;
mod board;
mod drain;
mod handle;
mod inline;
mod master;
mod poll;
mod registry;
mod report;
mod running;
mod shutdown;
mod signals;
mod slab;
mod sleepers;
mod slot;
mod stamp;
mod ticket;
mod wakeup;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::address::Address;
use crate::config::Config;
use crate::hooks::guarded;
use crate::limits::AddressRules;
use crate::mutex::Mutex;
use crate::observer::{Event, Observer};
use crate::stats::Stats;

pub(crate) use activity::Activity;
pub(crate) use drain::{Backlog, drain, drain_worker};
pub(crate) use master::{Duty, Master};
pub(crate) use poll::poll_timeout;
pub(crate) use registry::Registry;
pub(crate) use signals::run_actions;
pub(crate) use slot::{Order, Slot, Stage};
pub(crate) use ticket::{Admission, Pause, Ticket};
pub(crate) use wakeup::{Wakeup, event};

pub use handle::ServerHandle;
pub use report::Report;
pub use running::Running;
pub use shutdown::{ShutdownHandle, WaitError};
pub use signals::SignalAction;

/// Where a server is in its life. It only goes forward, except between [`Serving`](State::Serving) and
/// [`Suspended`](State::Suspended).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum State {
    /// Made, not bound: no socket exists yet.
    New,
    /// Bound and listening; nobody accepts yet.
    Bound,
    /// Accepting and serving.
    Serving,
    /// Serving what was accepted, and not accepting: [`ServerHandle::suspend`].
    Suspended,
    /// Told to stop: what had arrived is still served.
    Draining,
    /// Over: the socket is closed.
    Closed,
}

impl State {
    const ALL: [State; 6] = [
        State::New,
        State::Bound,
        State::Serving,
        State::Suspended,
        State::Draining,
        State::Closed,
    ];
}

/// Its name in lower case.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::New => "new",
            State::Bound => "bound",
            State::Serving => "serving",
            State::Suspended => "suspended",
            State::Draining => "draining",
            State::Closed => "closed",
        })
    }
}

/// How long whoever suspends waits for those that are just accepting.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the parts of one server share, whatever its types: its loop, its requests, its handles.
pub(crate) struct Shared {
    /// Absent if the process had no descriptors left when the server was made: `bind` reports it.
    wakeup: Result<Arc<Wakeup>, Errno>,
    pub(crate) registry: Registry,
    /// Set in a worker of a prefork server.
    master: OnceLock<Arc<Master>>,
    /// Set when the server is bound.
    observers: OnceLock<Vec<Arc<dyn Observer>>>,
    /// Never [`State::Suspended`]: that is `Serving` while `suspended` is set.
    state: AtomicU8,
    suspended: AtomicBool,
    /// Threads of this process that are about to accept, or do; see [`Shared::begin_accepting`].
    accepting: AtomicU64,
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
    pub(crate) fn tell_drain(&self) {
        if let Ok(wakeup) = &self.wakeup {
            wakeup.request_ended();
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
        let _ = self.observers.set(config.observers.clone());
    }

    /// Whether this is the memory of a forked child, which serves one request.
    pub(crate) fn in_child(&self) -> bool {
        self.wakeup.as_ref().is_ok_and(|wakeup| wakeup.in_child())
    }

    fn observers(&self) -> &[Arc<dyn Observer>] {
        match self.observers.get() {
            // What becomes of a child's request, the parent tells.
            Some(observers) if !observers.is_empty() && !self.in_child() => observers,
            _ => &[],
        }
    }

    pub(crate) fn is_observed(&self) -> bool {
        !self.observers().is_empty()
    }

    /// Tells an event, which is made only if somebody observes.
    pub(crate) fn observe<'a>(&self, event: impl FnOnce() -> Event<'a>) {
        let observers = self.observers();
        if observers.is_empty() {
            return;
        }
        let event = event();
        for observer in observers {
            guarded("an observer", || observer.observe(&event));
        }
    }

    /// Whether accepting is suspended, in a worker by its master.
    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::SeqCst) || self.master().is_some_and(|master| master.is_suspended())
    }

    /// Whether the accept loop shall accept. It looks when it is woken up.
    fn set_suspended(&self, suspended: bool) {
        if self.in_child() || self.suspended.swap(suspended, Ordering::SeqCst) == suspended {
            return;
        }
        // Workers keep to it from now on, although the master has to wake them to see to their waiting.
        if let (None, Some(board)) = (self.master(), self.registry.board()) {
            board.suspend(suspended);
        }
        self.wake();
        if suspended && let Ok(wakeup) = self.wakeup() {
            wakeup.bring_sleepers_out(|| self.suspended.load(Ordering::SeqCst));
            self.wait_until_nobody_accepts();
        }
        self.observe(|| if suspended { Event::Suspended } else { Event::Resumed });
    }

    /// The calling thread is about to look whether it may accept, and accepts then, which does not wait: until the guard
    /// is dropped, whoever suspends waits for it. The system may put it off between looking and accepting.
    pub(crate) fn begin_accepting(&self) -> Accepting<'_> {
        let count = self.master().map_or(&self.accepting, |master| master.accepting());
        count.fetch_add(1, Ordering::SeqCst);
        ACCEPTING.set(ACCEPTING.get() + 1);
        Accepting { count }
    }

    /// The calling thread handles one request: until the guard is dropped, a drain waits for it, as for a request.
    pub(crate) fn begin_handling(&self) -> Handling<'_> {
        self.registry.lock().handling += 1;
        Handling { shared: self }
    }

    /// Not for ever: a hook may wait, and a worker may have been killed as it accepted, and not been reaped yet.
    fn wait_until_nobody_accepts(&self) {
        let end = Instant::now() + PATIENCE;
        // A hook that accepts may be what suspends.
        let own = ACCEPTING.get();
        let accepts = || self.accepting.load(Ordering::SeqCst) > own || self.registry.any_worker_accepts();
        while accepts() && Instant::now() < end {
            std::thread::yield_now();
        }
    }

    fn close_connection(&self, number: u64) -> bool {
        let found = self.registry.close_connection(number);
        if found && let Ok(wakeup) = self.wakeup() {
            // For the processes among them, which the loop sees to, or the drain.
            wakeup.wake();
            wakeup.request_ended();
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
        let mut lock = self.closed_lock.lock();
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
        // Set twice only by a mix-in that calls its inner `server_bind` twice, to the same.
        let _ = self.address.set(address);
    }

    /// What has been served, and how long the end has taken by now.
    pub(crate) fn report(&self) -> io::Result<Report> {
        Ok(self.registry.report(self.wakeup()?.stopped_at().elapsed()))
    }

    /// Marks this thread as one that the server waits for, until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> Busy {
        let this = Arc::as_ptr(self);
        let outer = BUSY_FOR.replace(this);
        let hides = !outer.is_null() && outer != this;
        if hides {
            BUSY_OUTSIDE.with_borrow_mut(|servers| servers.push(outer));
        }
        Busy { outer, hides }
    }

    /// Before waiting for the end of the server.
    ///
    /// # Errors
    ///
    /// This thread runs the server's loop or one of its requests.
    pub(crate) fn check_no_deadlock(self: &Arc<Self>) -> Result<(), WaitError> {
        let this = Arc::as_ptr(self);
        if BUSY_FOR.get() == this || BUSY_OUTSIDE.with_borrow(|servers| servers.contains(&this)) {
            return Err(WaitError::Deadlock);
        }
        Ok(())
    }
}

thread_local! {
    /// The server whose loop or request this thread runs; compared, never followed.
    static BUSY_FOR: Cell<*const Shared> = const { Cell::new(std::ptr::null()) };
    /// Those in whose requests that one is served.
    static BUSY_OUTSIDE: RefCell<Vec<*const Shared>> = const { RefCell::new(Vec::new()) };
    /// How many accepting calls this thread is in.
    static ACCEPTING: Cell<u64> = const { Cell::new(0) };
}

/// See [`Shared::begin_accepting`].
pub(crate) struct Accepting<'a> {
    count: &'a AtomicU64,
}

impl Drop for Accepting<'_> {
    fn drop(&mut self) {
        ACCEPTING.set(ACCEPTING.get() - 1);
        self.count.fetch_sub(1, Ordering::SeqCst);
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
            self.shared.tell_drain();
        }
    }
}

/// This thread works for a server; see [`Shared::enter`].
pub(crate) struct Busy {
    outer: *const Shared,
    /// The outer one is another server.
    hides: bool,
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY_FOR.set(self.outer);
        if self.hides {
            BUSY_OUTSIDE.with_borrow_mut(Vec::pop);
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

//! What the bottom of a stack keeps for all its layers.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::sys::eventfd::EventFd;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};

use crate::acceptor::{WaitEnd, Waiter};
use crate::address::Address;
use crate::config::Config;
use crate::error::bind_error;
use crate::lifecycle::{Backlog, Closing, Duty, Master, Shared, State, Wakeup, run_actions};
use crate::limits::{self, Capacity, Linger, WaitingRoom};
use crate::mutex::Mutex;
use crate::sys::{self, Reaction, SignalGuard};
use crate::timeouts::Timeouts;
use crate::transport::Transport;

/// What the bottom of a stack keeps for all its layers.
#[doc(hidden)]
pub struct Core<T: Transport> {
    shared: Arc<Shared>,
    address: Address,
    timeouts: OnceLock<Timeouts>,
    transport: OnceLock<T>,
    /// The transport was made elsewhere: binding and listening are done.
    ready_made: bool,
    waiter: OnceLock<Waiter>,
    /// A thread sees to the end of a server whose requests were handled one by one.
    pub(super) closing: AtomicBool,
    /// One thread accepts, and serves what it has accepted.
    pub(super) alone: AtomicBool,
    /// What is left to accept; set when the server was told to stop.
    pub(crate) backlog: OnceLock<Backlog>,
    /// How many seconds the drain had lasted when its progress was last told.
    pub(crate) told_second: AtomicU64,
    /// What is listened to: what the program has asked for, and what says "look" to a thread that is busy in a handler.
    signals: Mutex<Vec<SignalGuard>>,
    /// One thread at a time does what signals ask for.
    running_actions: Mutex<()>,
    /// Those that do the default in a forked child, a bit each. Apart, because it may not wait for a lock.
    not_for_children: AtomicU64,
    /// The process that has made the timer of the drain deadline: each makes its own, once; 0: none has.
    timer: AtomicU32,
    /// As it is when the server is bound: asked for at each request, without a lock.
    capacity: OnceLock<Capacity>,
    waiting_room: WaitingRoom<T>,
    linger: Linger<T>,
    /// It keeps the observers. Fields are dropped in their order, and observers hear of what is dropped above.
    config: Mutex<Config>,
    /// Whoever waits for a server that was dropped without having served must not wait for ever. The last
    /// field: dropped when the socket is closed.
    _closing: Closing,
}

impl<T: Transport> Core<T> {
    pub(super) fn new(address: Address) -> Self {
        let shared = Arc::new(Shared::new());
        Core {
            _closing: shared.closing(),
            shared,
            address,
            timeouts: OnceLock::new(),
            transport: OnceLock::new(),
            ready_made: false,
            waiter: OnceLock::new(),
            closing: AtomicBool::new(false),
            alone: AtomicBool::new(false),
            backlog: OnceLock::new(),
            told_second: AtomicU64::new(0),
            signals: Mutex::default(),
            running_actions: Mutex::default(),
            not_for_children: AtomicU64::new(0),
            timer: AtomicU32::new(0),
            capacity: OnceLock::new(),
            waiting_room: WaitingRoom::new(),
            linger: Linger::new(),
            config: Mutex::default(),
        }
    }

    /// Of a server whose transport was made elsewhere.
    pub(super) fn with_transport(transport: T) -> Self {
        let address = transport.local_address().unwrap_or(Address::Unnamed);
        Core {
            transport: transport.into(),
            ready_made: true,
            ..Core::new(address)
        }
    }

    pub(crate) fn waiting_room(&self) -> &WaitingRoom<T> {
        &self.waiting_room
    }

    pub(crate) fn linger(&self) -> &Linger<T> {
        &self.linger
    }

    /// What the attributes say, whatever layers there are.
    pub(crate) fn capacity(&self) -> Capacity {
        let frozen = self.capacity.get().copied();
        frozen.unwrap_or_else(|| self.attribute(limits::capacity))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn state(&self) -> State {
        self.shared.state()
    }

    /// # Errors
    ///
    /// It is closed, for good.
    pub(super) fn check_not_closed(&self) -> io::Result<()> {
        if self.state() == State::Closed {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the server is closed"));
        }
        Ok(())
    }

    pub(crate) fn config(&self) -> Config {
        self.attribute(Config::clone)
    }

    /// One attribute, without copying them all.
    pub(crate) fn attribute<A>(&self, get: impl FnOnce(&Config) -> A) -> A {
        get(&self.config.lock())
    }

    pub(crate) fn configure(&self, set: impl FnOnce(&mut Config)) {
        set(&mut self.config.lock());
    }

    /// As they were set when the first request ran: no lock is taken for each.
    pub(crate) fn timeouts(&self) -> Timeouts {
        *self.timeouts.get_or_init(|| self.attribute(|config| config.timeouts))
    }

    pub(crate) fn transport(&self) -> Option<&T> {
        self.transport.get()
    }

    /// # Errors
    ///
    /// The server is not bound.
    pub(crate) fn bound_transport(&self) -> io::Result<&T> {
        self.transport().ok_or_else(not_bound)
    }

    pub(crate) fn server_address(&self) -> Address {
        self.shared.address().unwrap_or(&self.address).clone()
    }

    /// Whether the listening socket was made elsewhere, so that others may have it, too.
    pub(crate) fn is_ready_made(&self) -> bool {
        self.ready_made
    }

    /// Whether one thread accepts, and serves what it has accepted.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Relaxed)
    }

    pub(crate) fn waiter(&self) -> io::Result<&Waiter> {
        self.waiter.get().ok_or_else(not_bound)
    }

    /// Listens to the signals that are set by now, as far as it does not yet.
    pub(super) fn listen_to_signals(&self) -> io::Result<()> {
        // The first that takes descriptors.
        let wakeup = self.shared.wakeup().map_err(|error| bind_error(&self.address, error))?;
        let mut guards = self.signals.lock();
        for (signal, action) in &self.config().signals {
            let reaction = Reaction::from(action);
            let before = guards.iter().position(|guard| guard.signal == *signal);
            if before.is_some_and(|before| guards[before].reaction.is_same_action(&reaction)) {
                continue;
            }
            // Before the other is dropped, or a signal in between would do nothing.
            guards.push(sys::on_signal(*signal, Arc::clone(wakeup), reaction)?);
            if let Some(before) = before {
                guards.swap_remove(before);
            }
        }
        // SIGTERM whoever listens to it: a drain must be able to end the child. Not SIGINT, which comes from the
        // terminal to the whole group: the parent decides what becomes of it.
        let listened = guards.iter().map(|guard| guard.signal).chain([SIGCHLD, SIGTERM]);
        let signals = listened.filter(|signal| ![SIGINT, sys::NUDGE as i32].contains(signal));
        let bits = signals.fold(0, |bits, signal| bits | Wakeup::signal_bit(signal));
        self.not_for_children.store(bits, Ordering::Relaxed);
        Ok(())
    }

    /// Listens to what says "look" to a thread that is busy in a handler.
    pub(super) fn listen_to_nudges(&self) -> io::Result<()> {
        let wakeup = self.shared.wakeup()?;
        let nudge = sys::on_signal(sys::NUDGE as i32, Arc::clone(wakeup), Reaction::Nudge)?;
        self.signals.lock().push(nudge);
        Ok(())
    }

    /// Sees to it that the drain deadline is kept while the loop is busy in a handler. Not before it serves: a program
    /// may become a daemon after it has bound, and the timer would be left behind with its first process.
    pub(crate) fn keep_deadline(&self) {
        let this = std::process::id();
        if self.timer.swap(this, Ordering::SeqCst) == this {
            return;
        }
        let timeout = self.attribute(|config| config.drain_timeout);
        let kept = self.shared.wakeup().and_then(|wakeup| wakeup.keep_deadline(timeout));
        if let Err(error) = kept {
            log::warn!("no timer ({error}): a loop that is busy in a handler will not keep the drain deadline");
        }
    }

    pub(super) fn ignore_signals(&self) {
        self.signals.lock().clear();
    }

    pub(super) fn server_bind(&self) -> io::Result<()> {
        self.attribute(Config::check)?;
        if let (true, Some(transport)) = (self.ready_made, self.transport()) {
            transport.adopt(&self.config());
        } else {
            let transport = T::bind(&self.address, &self.config())?;
            // Bound twice only by a mix-in that calls its inner server_bind twice: the first stays.
            let _ = self.transport.set(transport);
        }
        // At once: a server_bind hook that has called its inner one sees the real port.
        let transport = self.bound_transport()?;
        self.shared.set_address(transport.local_address()?);
        Ok(())
    }

    pub(super) fn server_activate(&self) -> io::Result<()> {
        if self.ready_made {
            Ok(())
        } else {
            self.bound_transport()?.listen(&self.config())
        }
    }

    /// After `server_activate`: ready to wait for requests.
    pub(super) fn activated(&self) -> io::Result<()> {
        let transport = self.bound_transport()?;
        let config = self.config();
        self.shared.configure(&config);
        let _ = self.capacity.set(limits::capacity(&config));
        let waiter = Waiter::new(transport.socket(), self.shared.wakeup()?);
        let waiter = waiter.map_err(|error| bind_error(&self.address, error))?;
        let _ = self.waiter.set(waiter);
        self.shared.advance(State::Bound);
        Ok(())
    }

    /// Stops accepting, or begins again, if that was asked for.
    pub(crate) fn keep_suspension(&self) -> io::Result<()> {
        let transport = self.bound_transport()?;
        self.waiter()?
            .keep_suspension(transport.socket(), || self.shared.is_suspended())
    }

    /// Waits for a wake-up, a place or the end of `timeout`, whatever requests there are.
    pub(crate) fn wait_quiet(&self, timeout: Option<Duration>) -> io::Result<WaitEnd> {
        let transport = self.bound_transport()?;
        self.waiter()?
            .wait_quiet(transport.socket(), self.shared.wakeup()?, timeout)
    }

    /// A thread that does not accept has taken a wake-up, which may have been for those that do.
    pub(crate) fn look_again(&self) -> io::Result<()> {
        let transport = self.bound_transport()?;
        self.waiter()?.look_again(transport.socket());
        Ok(())
    }

    /// Does what the signals that came ask for, and that a signal handler may not do: one after the other, whichever
    /// threads accept. Nobody waits for another: who is at it has the threads look again if there is more then.
    pub(crate) fn run_signal_actions(&self) {
        let Ok(wakeup) = self.shared.wakeup() else { return };
        if !wakeup.has_signals() {
            return;
        }
        // Whoever has seen a signal and finds another thread at it is seen by that one's next look: a fence on either
        // side.
        fence(Ordering::SeqCst);
        let Some(running) = self.running_actions.try_lock() else {
            return;
        };
        run_actions(&self.shared, wakeup.take_signals(), &self.config().signals);
        drop(running);
        fence(Ordering::SeqCst);
        if wakeup.has_signals() {
            // After a request, perhaps: signals that never end must not keep one from being accepted.
            wakeup.tell_of_signals();
        }
    }

    pub(crate) fn stop_listening(&self, in_child: bool) {
        if let (Some(transport), Ok(wakeup)) = (self.transport(), self.shared.wakeup()) {
            wakeup.close_sleepers();
            transport.stop_listening(wakeup.stop_fd(), in_child);
        }
    }

    /// Whoever waits for the end, or keeps the value of a closed server, can have the address. A request
    /// that was left behind keeps its socket.
    pub(super) fn close(&self) {
        if self.shared.registry.running() > 0 {
            return;
        }
        if let (Some(transport), Ok(wakeup)) = (self.transport(), self.shared.wakeup()) {
            transport.close(wakeup.stop_fd());
        }
    }

    /// In a forked child: gives up what is the parent's. Signals come from then on, as [`sys::let_signals_come`] says.
    pub(crate) fn enter_child(&self, mask: SigSet) {
        if let Ok(wakeup) = self.shared.wakeup() {
            wakeup.enter_child();
        }
        let signals = self.not_for_children.load(Ordering::Relaxed);
        for signal in (1..=64).filter(|signal| signals & Wakeup::signal_bit(*signal) != 0) {
            sys::default_action(signal);
        }
        self.leave_connections_to_parent();
        self.stop_listening(true);
        sys::let_signals_come(mask);
    }

    /// In a forked process: connections that its parent keeps would not end for their clients before this process does.
    /// Where there are none, nothing is written: that would cost a page.
    fn leave_connections_to_parent(&self) {
        if !self.waiting_room.is_empty() {
            self.waiting_room.leave_to_parent();
        }
        if !self.linger.is_empty() {
            self.linger.leave_to_parent();
        }
    }

    /// In a worker of a prefork server, right after the fork: makes anew all that a process that serves by
    /// itself may not share. `wake` is the worker's wake-up, which its master has, too.
    ///
    /// # Errors
    ///
    /// The process has no free descriptor, or its master is gone already.
    pub(crate) fn after_fork(&self, wake: &EventFd, duty: Duty) -> io::Result<()> {
        sys::next_generation();
        // What `handle_request` has left before.
        self.leave_connections_to_parent();
        let wakeup = self.shared.wakeup()?;
        let parents = wakeup.renew(wake, self.backlog.get().is_some())?;
        wakeup.watch_master(duty.master);
        let master = Arc::new(Master::new(duty, parents));
        let transport = self.bound_transport()?;
        self.waiter()?.renew(transport.socket(), wakeup)?;
        self.keep_deadline();
        sys::on_sigterm_in_worker(Arc::clone(wakeup), Arc::clone(&master))?;
        self.shared.set_master(master);
        self.hear_of_the_masters_end()
    }

    /// In a worker: from now on it is told when its master has ended. To be called again if it may have changed its
    /// user or group, with which Linux forgets that (`PR_SET_PDEATHSIG`, prctl(2)).
    ///
    /// [`Wakeup::watch_master`] tells a worker that waits; this tells one that is busy in a handler as well.
    ///
    /// # Errors
    ///
    /// The master has ended already.
    pub(crate) fn hear_of_the_masters_end(&self) -> io::Result<()> {
        set_pdeathsig(Signal::SIGTERM).map_err(|errno| {
            let error = io::Error::from(errno);
            io::Error::new(
                error.kind(),
                format!("a worker must hear of its master's end (prctl): {error}"),
            )
        })?;
        if self.shared.master().is_some_and(|master| master.is_gone()) {
            return Err(io::Error::other("the master has ended"));
        }
        Ok(())
    }
}

fn not_bound() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotConnected,
        "the server is not bound: a server_bind hook must call inner().server_bind()",
    )
}

impl<T: Transport> fmt::Debug for Core<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("address", &self.server_address())
            .field("state", &self.state())
            .field("running", &self.shared.registry.running())
            .finish_non_exhaustive()
    }
}

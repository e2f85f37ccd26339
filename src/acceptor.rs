//! The accept loop: waiting, accepting, and going on when accepting fails.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::hooks::Outermost;
use crate::job::{Job, process};
use crate::lifecycle::{Backlog, Pause, Shared, Ticket, Wakeup};
use crate::limits::Admitted;
use crate::observer::Event as Observed;
use crate::server::{Core, not_bound};
use crate::sys;
use crate::transport::Transport;

/// Waits for the listener and for wake-ups, in sets (epoll(7)) that a process never changes once it has made
/// them, unless accepting is suspended or resumed, or it shares the listener with others.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// The listener (while accepting is not suspended), stop, wake, and the turn of a request that waits.
    /// Threads that accept beside each other use different sets, because a connection wakes everybody who
    /// waits in one set, but only one of the sets (`EPOLLEXCLUSIVE`). Made when they are needed, the first
    /// one at once.
    all: [OnceLock<Epoll>; SETS],
    /// Stop, wake, and a place among the requests in progress.
    quiet: Epoll,
    /// Whether the listener is in the sets.
    listening: AtomicBool,
    /// Held while sets are made or changed.
    changing: Mutex<()>,
    /// Other processes wait for the listener, too.
    shared: AtomicBool,
    /// A request may have woken one of them that did not accept it.
    look_again: AtomicBool,
}

/// As many threads wait without waking each other up for nothing.
const SETS: usize = 4;

/// The tokens of what is waited for.
const LISTENER: u64 = 0;
const STOP: u64 = 1;
const WAKE: u64 = 2;
const PLACE: u64 = 3;
const TURN: u64 = 4;

/// What a wait came back with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Request,
    /// Something else than a request: look at everything again.
    Other,
    TimedOut,
}

impl Waiter {
    pub(crate) fn new(listener: &impl AsFd, wakeup: &Wakeup) -> io::Result<Self> {
        let quiet = wakeup_set(wakeup)?;
        quiet.add(wakeup.place_fd(), EpollEvent::new(EpollFlags::EPOLLIN, PLACE))?;
        let mut all = [const { OnceLock::new() }; SETS];
        all[0] = listener_set(Some(listener), wakeup)?.into();
        Ok(Waiter {
            all,
            quiet,
            listening: AtomicBool::new(true),
            changing: Mutex::new(()),
            shared: AtomicBool::new(false),
            look_again: AtomicBool::new(false),
        })
    }

    /// In a forked process that accepts by itself: makes the sets anew. Those of the parent stay as they are.
    pub(crate) fn renew(&self, listener: &impl AsFd, wakeup: &Wakeup) -> io::Result<()> {
        let new = Self::new(listener, wakeup)?;
        sys::replace(self.quiet.0.as_fd(), new.quiet.0.as_fd())?;
        for set in self.all.iter().filter_map(OnceLock::get) {
            sys::replace(set.0.as_fd(), listener_set(Some(listener), wakeup)?.0.as_fd())?;
        }
        self.listening.store(true, Ordering::SeqCst);
        self.shared.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Takes the listener out of the sets, or puts it back, as `suspended` says at last. That takes it away
    /// from all who wait, at once and without waking them.
    pub(crate) fn suspend(&self, listener: &impl AsFd, suspended: impl Fn() -> bool) -> io::Result<()> {
        if self.listening.load(Ordering::SeqCst) != suspended() {
            return Ok(());
        }
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let listen = !suspended();
        for set in self.all.iter().filter_map(OnceLock::get) {
            let changed = if listen {
                watch(set, listener)
            } else {
                set.delete(listener)
            };
            match changed {
                // Done before an attempt that failed.
                Ok(()) | Err(Errno::EEXIST | Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.listening.store(listen, Ordering::SeqCst);
        Ok(())
    }

    /// Looks at the listener as if for the first time.
    ///
    /// A request wakes one of the processes that wait. If that one ends instead of accepting, no other has been
    /// told: the master wakes them, and they look again.
    fn look_again(&self, set: &Epoll, listener: &impl AsFd) -> io::Result<()> {
        if self.look_again.load(Ordering::Relaxed) && self.look_again.swap(false, Ordering::Relaxed) {
            let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
            if self.listening.load(Ordering::SeqCst) {
                set.delete(listener)?;
                watch(set, listener)?;
            }
        }
        Ok(())
    }

    /// Waits in the set with this number for a request, a wake-up, or the end of `timeout`.
    fn wait(
        &self,
        number: usize,
        listener: &impl AsFd,
        wakeup: &Wakeup,
        timeout: Option<Duration>,
    ) -> io::Result<Event> {
        let own = &self.all[number % SETS];
        if own.get().is_none() {
            let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
            let listener = self.listening.load(Ordering::SeqCst).then_some(listener);
            // Without a descriptor for it, the first set does.
            if let Ok(set) = listener_set(listener, wakeup) {
                let _ = own.set(set);
            }
        }
        match own.get().or(self.all[0].get()) {
            Some(set) => {
                self.look_again(set, listener)?;
                self.wait_in(set, wakeup, timeout)
            }
            None => Ok(Event::Other),
        }
    }

    /// Waits for a wake-up, a place or the end of `timeout`, whatever requests there are.
    pub(crate) fn wait_quiet(&self, wakeup: &Wakeup, timeout: Option<Duration>) -> io::Result<Event> {
        self.wait_in(&self.quiet, wakeup, timeout)
    }

    fn wait_in(&self, set: &Epoll, wakeup: &Wakeup, timeout: Option<Duration>) -> io::Result<Event> {
        match wait_one(set, timeout)? {
            None => return Ok(Event::TimedOut),
            Some(LISTENER) => return Ok(Event::Request),
            Some(STOP) => wakeup.stop_seen(),
            Some(PLACE) => wakeup.take_place(),
            Some(TURN) => wakeup.take_turn(),
            Some(_) => {
                wakeup.clear();
                if self.shared.load(Ordering::Relaxed) {
                    self.look_again.store(true, Ordering::Relaxed);
                }
            }
        }
        Ok(Event::Other)
    }
}

fn wakeup_set(wakeup: &Wakeup) -> io::Result<Epoll> {
    let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    set.add(wakeup.stop_fd(), EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
    set.add(wakeup.wake_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
    Ok(set)
}

fn listener_set(listener: Option<&impl AsFd>, wakeup: &Wakeup) -> io::Result<Epoll> {
    let set = wakeup_set(wakeup)?;
    set.add(wakeup.turn_fd(), EpollEvent::new(EXCLUSIVE, TURN))?;
    if let Some(listener) = listener {
        watch(&set, listener)?;
    }
    Ok(set)
}

fn watch(set: &Epoll, listener: &impl AsFd) -> nix::Result<()> {
    set.add(listener, EpollEvent::new(EXCLUSIVE, LISTENER))
}

const EXCLUSIVE: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLEXCLUSIVE);

/// The token of one event, or `None` when the time was over or a signal came.
fn wait_one(set: &Epoll, timeout: Option<Duration>) -> io::Result<Option<u64>> {
    let mut events = [EpollEvent::empty()];
    match set.wait(&mut events, epoll_timeout(timeout)) {
        Ok(0) | Err(Errno::EINTR) => Ok(None),
        Ok(_) => Ok(Some(events[0].data())),
        Err(errno) => Err(errno.into()),
    }
}

/// In milliseconds, rounded up so that a wait is never short of its deadline by rounding.
fn epoll_timeout(timeout: Option<Duration>) -> EpollTimeout {
    let Some(timeout) = timeout else {
        return EpollTimeout::NONE;
    };
    let millis = timeout.as_micros().div_ceil(1000);
    i32::try_from(millis)
        .ok()
        .and_then(|millis| millis.try_into().ok())
        .unwrap_or(EpollTimeout::MAX)
}

/// What to do about an error of accept(2) or recvmsg(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    /// There was nothing after all.
    Wait,
    /// It was one connection's trouble; the next may be fine.
    Retry,
    /// Descriptors or memory have run out, or an error unknown to us: try again later.
    BackOff,
    /// The socket itself is broken.
    GiveUp,
}

/// The table of accept(2)'s errors, and of those of recvmsg(2) on a datagram socket.
fn remedy(error: &io::Error) -> Remedy {
    let Some(errno) = error.raw_os_error().map(Errno::from_raw) else {
        return if error.kind() == io::ErrorKind::WouldBlock {
            Remedy::Wait
        } else {
            Remedy::BackOff
        };
    };
    match errno {
        Errno::EAGAIN => Remedy::Wait,

        // Linux hands a connection's pending network errors to accept as its own ("Error handling" in
        // accept(2) lists these eight for TCP); they say nothing about the listener.
        Errno::ENETDOWN
        | Errno::EPROTO
        | Errno::ENOPROTOOPT
        | Errno::EHOSTDOWN
        | Errno::ENONET
        | Errno::EHOSTUNREACH
        | Errno::EOPNOTSUPP
        | Errno::ENETUNREACH
        // The connection is gone, has timed out, or is forbidden by a firewall; a signal came.
        | Errno::ECONNABORTED
        | Errno::ECONNRESET
        | Errno::ETIMEDOUT
        | Errno::EPERM
        | Errno::EINTR
        // An ICMP message about a datagram that was sent from the socket (udp(7)).
        | Errno::ECONNREFUSED => Remedy::Retry,

        Errno::EBADF | Errno::EINVAL | Errno::ENOTSOCK => Remedy::GiveUp,

        // EMFILE, ENFILE, ENOBUFS, ENOMEM. "Various Linux kernels can return other errors such as ENOSR,
        // ESOCKTNOSUPPORT, EPROTONOSUPPORT"; whatever else there may be, the listener is still there.
        _ => Remedy::BackOff,
    }
}

/// Waits between attempts when resources have run out: 5 ms, doubled up to 1 s, as Go's `net/http`.
/// Shared by all that accept for a server: an episode is one for all of them.
#[derive(Debug)]
pub(crate) struct Backoff {
    what: &'static str,
    /// Whose observers hear of it.
    server: Option<Arc<Shared>>,
    /// The last delay in milliseconds; 0 while all is well.
    delay: AtomicU64,
    /// When the episode began.
    since: Mutex<Option<Instant>>,
    /// Attempts in a row that failed and were repeated at once.
    retries: AtomicU32,
}

impl Backoff {
    const FIRST: u64 = 5;
    const LONGEST: u64 = 1000;
    const MOST_RETRIES: u32 = 100;

    pub(crate) fn new(what: &'static str) -> Self {
        Backoff {
            what,
            server: None,
            delay: AtomicU64::new(0),
            since: Mutex::default(),
            retries: AtomicU32::new(0),
        }
    }

    /// Tells the observers of this server, too.
    pub(crate) fn of(mut self, server: &Arc<Shared>) -> Self {
        self.server = Some(Arc::clone(server));
        self
    }

    fn observe<'a>(&self, event: impl FnOnce() -> Observed<'a>) {
        if let Some(server) = &self.server {
            server.observe(event);
        }
    }

    /// Whether to try again at once. What should pass does not always: a security module that forbids
    /// accepting says EPERM each time and leaves the connection in the queue.
    fn may_retry(&self) -> bool {
        let more = |retries: u32| (retries < Self::MOST_RETRIES).then_some(retries + 1);
        self.retries
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    /// The next delay; only the first of an episode is logged.
    pub(crate) fn next(&self, reason: &dyn fmt::Display) -> Duration {
        let what = self.what;
        let longer = |delay: u64| (delay * 2).clamp(Self::FIRST, Self::LONGEST);
        let before = self.delay.update(Ordering::Relaxed, Ordering::Relaxed, longer);
        if before == 0 {
            *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            log::warn!("{what}: {reason}; trying again until it works");
            self.observe(|| Observed::BackOffBegun {
                what,
                reason: reason.to_string(),
            });
        }
        Duration::from_millis(longer(before))
    }

    pub(crate) fn over(&self) {
        if self.retries.load(Ordering::Relaxed) != 0 {
            self.retries.store(0, Ordering::Relaxed);
        }
        if self.delay.load(Ordering::Relaxed) != 0 && self.delay.swap(0, Ordering::Relaxed) != 0 {
            let what = self.what;
            let since = self.since.lock().unwrap_or_else(PoisonError::into_inner).take();
            let duration = since.map(|since| since.elapsed()).unwrap_or_default();
            log::info!("{what}: over");
            self.observe(|| Observed::BackOffEnded { what, duration });
        }
    }
}

/// The episodes of one server's accepting.
#[derive(Debug)]
struct Backoffs {
    accepting: Backoff,
    processing: Backoff,
}

/// What came of one turn of the loop.
enum Turn<T: Transport> {
    Job(Job<T>),
    /// `verify_request` said no.
    Refused,
    /// A limit said no.
    Rejected,
    /// Nothing yet: another turn.
    Again,
    /// The time given was over.
    TimedOut,
    /// Told to stop, and what had arrived before is accepted.
    Stopped,
}

/// What became of one [`handle_request`](crate::BaseServer::handle_request).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Handled {
    /// A request was given to `process_request`.
    Processed,
    /// A request came and `verify_request` refused it.
    Refused,
    /// A request came and a limit rejected it.
    Rejected,
    /// None came within [`timeout`](crate::Config::timeout); `handle_timeout` ran.
    TimedOut,
    /// The server was told to stop.
    Stopped,
}

/// Accepts requests for a server: waits, accepts, verifies, keeps to the limit, and ends when the
/// server was told to stop and what the kernel had queued by then is accepted.
///
/// What a strategy's [`serve`](crate::BaseServer::serve) works with. It can be cloned and sent to
/// another thread, so several may accept.
pub struct Acceptor<T: Transport> {
    server: Outermost<T>,
    /// At least so often `service_actions` runs.
    interval: Option<Duration>,
    /// The end of a child may have to interrupt a wait.
    forks: bool,
    /// The place of the next request, kept while waiting for one.
    ticket: Option<Ticket>,
    /// There was no place for one.
    pause: Option<Pause>,
    backoffs: Arc<Backoffs>,
    /// Where it waits; see [`Waiter`].
    set: usize,
}

impl<T: Transport> Clone for Acceptor<T> {
    fn clone(&self) -> Self {
        Self::with(Arc::clone(&self.server), Arc::clone(&self.backoffs))
    }
}

impl<T: Transport> fmt::Debug for Acceptor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor")
            .field("state", &self.shared().state())
            .finish_non_exhaustive()
    }
}

impl<T: Transport> Acceptor<T> {
    pub(crate) fn new(server: Outermost<T>) -> Self {
        let backoff = |what| Backoff::new(what).of(server.core().shared());
        let backoffs = Backoffs {
            accepting: backoff("cannot accept"),
            processing: backoff("cannot start a request"),
        };
        Self::with(server, Arc::new(backoffs))
    }

    fn with(server: Outermost<T>, backoffs: Arc<Backoffs>) -> Self {
        Acceptor {
            interval: server.core().attribute(|config| config.poll_interval),
            forks: server.forks(),
            server,
            ticket: None,
            pause: None,
            backoffs,
            set: 0,
        }
    }

    pub(crate) fn server(&self) -> &Outermost<T> {
        &self.server
    }

    /// The next request, as long as the server accepts; `None` when it has stopped.
    ///
    /// # Errors
    ///
    /// The listening socket is broken. No other error of accepting ends the loop.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would hide that an error ends it"
    )]
    pub fn next(&mut self) -> io::Result<Option<Job<T>>> {
        let next = loop {
            match self.turn(self.interval) {
                Ok(Turn::Job(job)) => return Ok(Some(job)),
                Ok(Turn::Refused | Turn::Rejected | Turn::Again | Turn::TimedOut) => {}
                Ok(Turn::Stopped) => break Ok(None),
                Err(error) => break Err(error),
            }
        };
        // It accepts no more, and its place is not to be waited for, however long it is kept.
        (self.ticket, self.pause) = (None, None);
        next
    }

    /// Gives a job to the outermost [`process_request`](crate::BaseServer::process_request), and pauses
    /// if that could not start it for want of resources.
    ///
    /// # Errors
    ///
    /// Waiting itself failed.
    pub fn process(&mut self, job: Job<T>) -> io::Result<()> {
        process(&self.server, job);
        if self.shared().take_congested() {
            // A request that ends makes room.
            let _told = Pause::begin(self.shared());
            let delay = self
                .backoffs
                .processing
                .next(&"the system has no room for another thread or process");
            self.pause_for_place(delay)
        } else {
            self.backoffs.processing.over();
            Ok(())
        }
    }

    /// One request at most, within `timeout`: what `handle_request` does.
    pub(crate) fn one(&mut self, timeout: Option<Duration>) -> io::Result<Handled> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            match self.turn(left)? {
                Turn::Job(job) => {
                    self.process(job)?;
                    return Ok(Handled::Processed);
                }
                Turn::Refused => return Ok(Handled::Refused),
                Turn::Rejected => return Ok(Handled::Rejected),
                Turn::Stopped => return Ok(Handled::Stopped),
                Turn::TimedOut if left.is_some_and(|left| left.is_zero()) => return Ok(Handled::TimedOut),
                Turn::TimedOut | Turn::Again => {}
            }
        }
    }

    /// Waits without accepting until the server is told to stop, or something woke it up: for a thread
    /// that lets others accept, and sees to what they may all be too busy for. True if it is to stop.
    pub(crate) fn stand_by(&self) -> io::Result<bool> {
        let core = self.server.core();
        let wakeup = core.shared().wakeup()?;
        wakeup.wait_stop(None)?;
        core.run_signal_actions();
        if let Err(error) = core.keep_suspension() {
            self.back_off(&error)?;
            wakeup.wake();
        }
        let stopping = wakeup.is_stopping();
        if stopping {
            // The threads that accept may be busy, and not have seen it yet.
            core.begin_drain(&self.server);
        }
        Ok(stopping)
    }

    /// The server was told to stop, but some of the threads that accept have not ended that: waits a
    /// moment. False when the time for it is over.
    pub(crate) fn stand_by_stopping(&self) -> io::Result<bool> {
        /// A thread's last words may wake another than this one; then it looks again by itself.
        const SLICE: Duration = Duration::from_millis(10);
        let core = self.server.core();
        let wakeup = core.shared().wakeup()?;
        core.run_signal_actions();
        let patience = core.drain_time_left();
        if wakeup.is_forced() || patience.is_zero() {
            core.give_up_queue(&self.server);
            return Ok(false);
        }
        core.tell_progress();
        wakeup.wait(patience.min(SLICE))?;
        Ok(true)
    }

    /// A clone for the thread with this number among those that accept.
    pub(crate) fn for_thread(&self, number: usize) -> Self {
        Acceptor {
            set: number,
            ..self.clone()
        }
    }

    /// What the server's parts share.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        self.server.core().shared()
    }

    /// One turn: service actions, a wait of at most `timeout`, at most one request.
    fn turn(&mut self, timeout: Option<Duration>) -> io::Result<Turn<T>> {
        let server = Arc::clone(&self.server);
        let core = server.core();
        let wakeup = core.shared().wakeup()?;
        // Hooks run here: waiting for the server from one of them could never end.
        let _busy = core.shared().enter();

        if self.forks {
            // Before the service actions: a child that ends after them writes the wake-up.
            wakeup.about_to_wait();
        }
        server.service_actions();
        let timeout = self.until_next_due(timeout);
        let turn = if wakeup.is_stopping() {
            self.turn_stopping(core, wakeup)
        } else if let Err(error) = core.keep_suspension() {
            self.back_off(&error).map(|()| Turn::Again)
        } else if !self.has_place() {
            core.waiter()?.wait_quiet(wakeup, timeout).map(Turn::nothing)
        } else if let Some(job) = self.waiting_job() {
            Ok(Turn::Job(job))
        } else {
            self.turn_serving(core, wakeup, timeout)
        };
        if self.forks {
            wakeup.awake();
        }
        turn
    }

    fn turn_serving(&mut self, core: &Core<T>, wakeup: &Wakeup, timeout: Option<Duration>) -> io::Result<Turn<T>> {
        let transport = core.transport().ok_or_else(not_bound)?;
        if transport.has_ahead() && !core.shared().is_suspended() {
            return self.accept(wakeup, None);
        }
        let event = {
            let _waiting = core.shared().master().map(|master| master.waiting());
            core.waiter()?.wait(self.set, transport.socket(), wakeup, timeout)?
        };
        match event {
            Event::Request => self.accept(wakeup, None),
            event => Ok(Turn::nothing(event)),
        }
    }

    /// The server was told to stop: what the kernel has queued is still accepted.
    fn turn_stopping(&mut self, core: &Core<T>, wakeup: &Wakeup) -> io::Result<Turn<T>> {
        let backlog = core.begin_drain(&self.server);
        // What was received ahead is in nobody's queue any more.
        let has_ahead = core.transport().is_some_and(Transport::has_ahead);
        if backlog.is_empty() && !has_ahead {
            return Ok(self.stopped());
        }
        let patience = core.drain_time_left();
        if wakeup.is_forced() || patience.is_zero() {
            core.give_up_queue(&self.server);
            // A strategy may wait for its requests before it lets us drain.
            core.end_patience(&self.server);
            return Ok(self.stopped());
        }
        if !self.has_place() {
            wakeup.wait_place(patience.min(core.tell_progress()))?;
            return Ok(Turn::Again);
        }
        // A worker that accepts without having waited does not only start any more: told to leave, it must
        // not end at once.
        if let Some(master) = core.shared().master() {
            master.ready();
        }
        self.accept(wakeup, Some(backlog))
    }

    /// This acceptor is done, and so are the others: the queue is empty, or is given up.
    fn stopped(&self) -> Turn<T> {
        self.server.core().begin_drain(&self.server).end();
        // One that waits for a place wakes the next in its turn.
        self.shared().wake();
        Turn::Stopped
    }

    /// Whether the limit leaves a place for another request; if not, a wake-up comes when it does.
    fn has_place(&mut self) -> bool {
        if self.ticket.is_none() {
            match Ticket::take(self.server.core().shared(), self.server.capacity()) {
                Ok(ticket) => (self.ticket, self.pause) = (Some(ticket), None),
                Err(pause) => self.pause = Some(pause),
            }
        }
        self.ticket.is_some()
    }

    /// A request that waited and may run now, before any that waits in the kernel's queue.
    fn waiting_job(&mut self) -> Option<Job<T>> {
        let place = self.ticket.as_mut()?;
        let job = self.server.core().waiting_room().next(&self.server, place)?;
        self.ticket = None;
        Some(job)
    }

    /// At most `timeout`, and not beyond the time at which something else is to be done.
    fn until_next_due(&self, timeout: Option<Duration>) -> Option<Duration> {
        let core = self.server.core();
        let due = [core.linger().close_due(&*self.server), core.waiting_room().next_turn()];
        let Some(due) = due.into_iter().flatten().min() else {
            return timeout;
        };
        let left = due.saturating_duration_since(Instant::now());
        Some(timeout.map_or(left, |timeout| timeout.min(left)))
    }

    /// With a `backlog` nothing new comes any more, so nothing is left when there is nothing.
    fn accept(&mut self, wakeup: &Wakeup, backlog: Option<&Backlog>) -> io::Result<Turn<T>> {
        let request = match self.server.get_request() {
            Ok(request) => request,
            Err(error) => return self.after_error(&error, wakeup, backlog.is_some()),
        };
        self.backoffs.accepting.over();
        if let Some(backlog) = backlog {
            backlog.took_one();
        }
        let Some(ticket) = self.ticket.take() else {
            return Ok(Turn::Again);
        };
        let Some(job) = Job::accepted(&self.server, request, ticket).verify() else {
            return Ok(Turn::Refused);
        };
        Ok(match job.admit() {
            Admitted::Job(job) => Turn::Job(job),
            Admitted::Waits => Turn::Again,
            Admitted::Rejected => Turn::Rejected,
        })
    }

    fn after_error(&self, error: &io::Error, wakeup: &Wakeup, refusing: bool) -> io::Result<Turn<T>> {
        match remedy(error) {
            Remedy::Wait => {
                // It takes a descriptor to look.
                self.backoffs.accepting.over();
                Ok(if refusing { self.stopped() } else { Turn::Again })
            }
            Remedy::Retry if self.backoffs.accepting.may_retry() => {
                log::debug!("accept: {error}");
                Ok(Turn::Again)
            }
            // Without a descriptor it cannot be accepted, but seen that there is nothing.
            Remedy::BackOff if refusing && !self.server.core().has_queued() => Ok(self.stopped()),
            Remedy::Retry | Remedy::BackOff => {
                // They have what may be wanting.
                self.server.core().linger().close_all(&*self.server);
                self.back_off(error)?;
                Ok(Turn::Again)
            }
            // Another acceptor has found the queue empty, and it is closed.
            Remedy::GiveUp if wakeup.is_stopping() => Ok(self.stopped()),
            Remedy::GiveUp => Err(io::Error::new(
                error.kind(),
                format!("the listening socket is broken: {error}"),
            )),
        }
    }

    /// Waits before accepting again: a wake-up, or being told to stop, ends it early. Not a place: that is
    /// for an acceptor that has none.
    fn back_off(&self, error: &io::Error) -> io::Result<()> {
        let delay = self.backoffs.accepting.next(error);
        let wakeup = self.shared().wakeup()?;
        if wakeup.is_stopping() {
            return wakeup.wait(delay);
        }
        wakeup.wait_stop(Some(delay))
    }

    /// Waits, at most `delay`: a wake-up, a place, or being told to stop, ends it early.
    fn pause_for_place(&self, delay: Duration) -> io::Result<()> {
        let core = self.server.core();
        let wakeup = core.shared().wakeup()?;
        if wakeup.is_stopping() {
            return wakeup.wait_place(delay);
        }
        core.waiter()?.wait_quiet(wakeup, Some(delay)).map(drop)
    }
}

impl<T: Transport> Turn<T> {
    fn nothing(event: Event) -> Self {
        if event == Event::TimedOut {
            Turn::TimedOut
        } else {
            Turn::Again
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_accept_has_its_remedy() {
        let table: [(Remedy, &[Errno]); 4] = [
            (Remedy::Wait, &[Errno::EAGAIN, Errno::EWOULDBLOCK]),
            (
                Remedy::Retry,
                &[
                    Errno::ECONNABORTED,
                    Errno::ECONNREFUSED,
                    Errno::ECONNRESET,
                    Errno::EHOSTDOWN,
                    Errno::EHOSTUNREACH,
                    Errno::EINTR,
                    Errno::ENETDOWN,
                    Errno::ENETUNREACH,
                    Errno::ENONET,
                    Errno::ENOPROTOOPT,
                    Errno::EOPNOTSUPP,
                    Errno::EPERM,
                    Errno::EPROTO,
                    Errno::ETIMEDOUT,
                ],
            ),
            (
                Remedy::BackOff,
                &[
                    Errno::EMFILE,
                    Errno::ENFILE,
                    Errno::ENOBUFS,
                    Errno::ENOMEM,
                    Errno::ENOSR,
                    Errno::EPROTONOSUPPORT,
                    Errno::ESOCKTNOSUPPORT,
                    Errno::EFAULT,
                ],
            ),
            (Remedy::GiveUp, &[Errno::EBADF, Errno::EINVAL, Errno::ENOTSOCK]),
        ];
        for (expected, errors) in table {
            for errno in errors {
                assert_eq!(remedy(&(*errno).into()), expected, "{errno}");
            }
        }
        assert_eq!(remedy(&io::Error::other("a transport's own")), Remedy::BackOff);
    }

    #[test]
    fn a_back_off_doubles_to_a_second_and_starts_again() {
        let backoff = Backoff::new("test");
        let delays: Vec<_> = (0..10).map(|_| backoff.next(&"").as_millis()).collect();
        assert_eq!(delays, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        backoff.over();
        assert_eq!(backoff.next(&"").as_millis(), 5);
    }

    #[test]
    fn what_should_pass_and_does_not_is_not_retried_for_ever() {
        let backoff = Backoff::new("test");
        assert_eq!((0..1_000).filter(|_| backoff.may_retry()).count(), 100);
        backoff.over();
        assert!(backoff.may_retry());
    }
}

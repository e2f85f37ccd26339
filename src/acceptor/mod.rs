//! The accept loop: waiting, accepting, and going on when accepting fails.

mod backoff;
mod trouble;
mod turn;
mod waiter;

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::LIMITS_OF_TASKS;
use crate::hooks::Outermost;
use crate::job::{Job, process};
use crate::lifecycle::{Backlog, Pause, Shared};
use crate::transport::Transport;

use turn::{Place, may_accept};

pub(crate) use backoff::Backoff;
pub(crate) use turn::Turn;
pub(crate) use waiter::{WaitEnd, Waiter};

/// The episodes of one server's accepting.
#[derive(Debug)]
struct Backoffs {
    accepting: Backoff,
    processing: Backoff,
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
    /// None came, or could be accepted, within [`timeout`](crate::Config::timeout); `handle_timeout` ran.
    TimedOut,
    /// The server was told to stop.
    Stopped,
}

/// Accepts requests for a server: waits, accepts, verifies, keeps to the limit, and ends when the
/// server was told to stop and what the kernel had queued by then is accepted.
///
/// What a strategy's [`serve`](crate::BaseServer::serve) works with. It can be cloned and sent to
/// another thread, so several may accept:
///
/// ```
/// use std::{io, thread};
/// use socketserver::Acceptor;
/// use socketserver::prelude::*;
///
/// /// Two threads, each of which serves what it has accepted.
/// struct Two<S>(S);
///
/// impl<S: BaseServer> BaseServer for Two<S> {
///     type Transport = S::Transport;
///     type Inner = S;
///     const CONCURRENCY: Concurrency = Concurrency::Threads;
///     fn inner(&self) -> &S {
///         &self.0
///     }
///
///     fn serve(&self, acceptor: Acceptor<S::Transport>) -> io::Result<()> {
///         let accept = |mut acceptor: Acceptor<S::Transport>| {
///             while let Some(job) = acceptor.next()? {
///                 acceptor.process(job)?;
///             }
///             Ok(())
///         };
///         thread::scope(|scope| {
///             let another = acceptor.clone();
///             let other = scope.spawn(|| accept(another));
///             accept(acceptor).and(other.join().expect("hooks do not panic: their panics are caught"))
///         })
///     }
/// }
///
/// # fn main() -> io::Result<()> {
/// let running = Two(TcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {})).spawn()?;
/// running.stop()?;
/// # Ok(())
/// # }
/// ```
pub struct Acceptor<T: Transport> {
    server: Outermost<T>,
    /// At least so often `service_actions` runs here.
    interval: Option<Duration>,
    /// The end of a child may have to interrupt a wait.
    forks: bool,
    backoffs: Arc<Backoffs>,
    /// Its number among the threads that accept: each has a set of the [`Waiter`] and a place among the sleepers.
    number: usize,
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
        let backoff = |what| Backoff::new(what, server.core().shared());
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
            backoffs,
            number: 0,
        }
    }

    pub(crate) fn server(&self) -> &Outermost<T> {
        &self.server
    }

    /// From now on at most so many threads accept: if all that concerns them reaches them there, they may wait
    /// in the very system call that accepts (`lifecycle::sleepers`).
    pub(crate) fn let_sleep(&self, threads: usize) {
        let core = self.server.core();
        let shared = core.shared();
        let (Some(transport), Ok(wakeup)) = (core.transport(), shared.wakeup()) else {
            return;
        };
        // Processes share the socket, and the wake-ups of workers come from their master.
        let has_it_alone = !self.forks && shared.master().is_none() && !core.is_ready_made();
        if !has_it_alone || self.interval.is_some() {
            return;
        }
        // Nobody sleeps before the socket waits. But what others have told meanwhile has made it non-blocking again,
        // which `let_wait` has undone.
        if let Ok(Some(sleepers)) = wakeup.let_sleep(transport.socket().as_fd(), threads) {
            if transport.let_wait().is_err() {
                sleepers.turn_off();
            } else if !sleepers.is_on() || !may_accept(shared) {
                sleepers.wake_up();
            }
        }
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
        // Not kept: who accepts no more must not have a place that others wait for.
        let mut place = Place::default();
        let next = loop {
            match self.turn(&mut place, self.interval) {
                Ok(Turn::Job(job)) => {
                    self.leave_due_to_others();
                    return Ok(Some(job));
                }
                Ok(Turn::Refused | Turn::Rejected | Turn::Again | Turn::Nothing) => {}
                Ok(Turn::Stopped) => break Ok(None),
                Err(error) => break Err(error),
            }
        };
        drop(place);
        self.flush();
        next
    }

    /// Gives a job to the outermost [`process_request`](crate::BaseServer::process_request), and pauses
    /// if that could not start it for want of resources, unless it was served here and none runs whose end would make
    /// room.
    ///
    /// # Errors
    ///
    /// Waiting itself failed.
    pub fn process(&mut self, job: Job<T>) -> io::Result<()> {
        let attempt = self.backoffs.processing.attempt();
        process(&self.server, job);
        if !self.shared().take_congested() {
            self.backoffs.processing.succeeded(attempt);
            return Ok(());
        }
        // A request that ends makes room.
        let _told = Pause::begin(self.shared());
        let reason = format_args!("the system has no room for another thread or process ({LIMITS_OF_TASKS})");
        // It is a worker's master that forks, not the worker.
        let forks = self.forks && self.shared().master().is_none();
        if !forks && !self.shared().registry.any_runs() {
            // It was served here, and there is none to wait for.
            self.backoffs.processing.note(&reason);
            return Ok(());
        }
        self.pause_for_place(self.backoffs.processing.next(&reason))
    }

    /// Waits, at most `delay`: a wake-up, a place, or being told to stop, ends it early. The interval is kept
    /// meanwhile.
    fn pause_for_place(&self, delay: Duration) -> io::Result<()> {
        let core = self.server.core();
        let wakeup = core.shared().wakeup()?;
        // As in a turn: a hook runs here, perhaps on a thread of which nobody knows that it accepts.
        let _busy = core.shared().enter();
        let end = Instant::now() + delay;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let slice = self.interval.map_or(left, |interval| interval.min(left));
            let woken = if wakeup.is_stopping() {
                wakeup.wait_place(slice)?
            } else {
                core.wait_quiet(Some(slice))? != WaitEnd::TimedOut
            };
            if woken || slice == left {
                return Ok(());
            }
            self.server.service_actions();
        }
    }

    /// One request at most, within `timeout`: what `handle_request` does.
    pub(crate) fn handle_one(&mut self, timeout: Option<Duration>) -> io::Result<Handled> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut place = Place::default();
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            match self.turn(&mut place, left)? {
                Turn::Job(job) => {
                    self.process(job)?;
                    return Ok(Handled::Processed);
                }
                Turn::Refused => return Ok(Handled::Refused),
                Turn::Rejected => return Ok(Handled::Rejected),
                Turn::Stopped => return Ok(Handled::Stopped),
                Turn::Nothing if left.is_some_and(|left| left.is_zero()) => return Ok(Handled::TimedOut),
                Turn::Nothing | Turn::Again => {}
            }
        }
    }

    /// Waits without accepting until the server is told to stop, or something woke it up: for a thread
    /// that lets others accept, and sees to what they may all be too busy for. True if it is to stop.
    pub(crate) fn stand_by(&self) -> io::Result<bool> {
        let core = self.server.core();
        let wakeup = core.shared().wakeup()?;
        wakeup.wait_stop(self.interval)?;
        core.look_again()?;
        self.server.service_actions();
        // The wake-up may have been the master's order, for which nobody that accepts was woken.
        if let Some(master) = core.shared().master() {
            master.hear_order(wakeup);
        }
        if self.interval.is_some() {
            // The limit that they wait at may have risen by itself.
            core.shared().look_for_places();
        }
        if let Err(error) = core.keep_suspension() {
            self.back_off(&error, None)?;
            wakeup.wake();
        }
        let stopping = wakeup.is_stopping();
        if stopping {
            // The threads that accept may be busy, and not have seen it yet.
            core.begin_drain(&self.server);
            // The wake-up that was taken may be that which a thread gives when it has stopped, to the next that waits
            // for a place.
            wakeup.wake();
        }
        Ok(stopping)
    }

    /// The server was told to stop, but some of the threads that accept have not ended that: waits a
    /// moment. False when the time for it is over.
    pub(crate) fn stand_by_stopping(&self) -> io::Result<bool> {
        /// It may have to step in for them, and is not told of everything that leads there.
        const SLICE: Duration = Duration::from_millis(10);
        let core = self.server.core();
        let wakeup = core.shared().wakeup()?;
        self.server.service_actions();
        if !core.has_time() {
            core.give_up_queue(&self.server);
            return Ok(false);
        }
        core.tell_progress();
        // Not for the wake-up of those that accept: that one of them hands to the next.
        wakeup.wait_ended(core.drain_time_left().min(SLICE))?;
        Ok(true)
    }

    /// The server was told to stop, and nothing is left for it in the kernel's queue.
    pub(crate) fn has_accepted_all(&self) -> bool {
        self.server.core().backlog.get().is_some_and(Backlog::is_empty)
    }

    /// A clone for the thread with this number among those that accept. They can all be busy, and many can wait: the
    /// interval is kept by the one that [stands by](Self::stand_by).
    pub(crate) fn for_thread(&self, number: usize) -> Self {
        Acceptor {
            number,
            interval: None,
            ..self.clone()
        }
    }

    /// What the server's parts share.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        self.server.core().shared()
    }

    /// At most `timeout`, and not beyond the time at which something else is to be done.
    pub(crate) fn until_next_due(&self, timeout: Option<Duration>) -> Option<Duration> {
        let core = self.server.core();
        let due = [core.linger().close_due(&*self.server), core.waiting_room().next_turn()];
        let Some(due) = due.into_iter().flatten().min() else {
            return timeout;
        };
        let left = due.saturating_duration_since(Instant::now());
        Some(timeout.map_or(left, |timeout| timeout.min(left)))
    }

    /// This acceptor is about to be busy. The others may have begun to wait before there was something to be done at
    /// its time, which may have come meanwhile: one of them shall look at that instead.
    fn leave_due_to_others(&self) {
        let core = self.server.core();
        if !(core.linger().is_empty() && core.waiting_room().is_empty())
            && let Ok(wakeup) = self.shared().wakeup()
        {
            wakeup.give_turn();
        }
    }
}

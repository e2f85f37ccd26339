//! The master: keeps the number of workers, and sees to those that end, hang or are to be replaced.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::PreFork;
use super::worker::Ended;
use super::workers::{Workers, earlier};
use crate::acceptor::Acceptor;
use crate::address::Address;
use crate::error::{Cause, Phase, RequestError};
use crate::lifecycle::Board;
use crate::observer::Event;
use crate::server::{BaseServer, Concurrency};

/// How often the master looks at the workers while they get on. While none does it rests: the first that
/// accepts a request, or is done with one, wakes it.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

impl<S: BaseServer> PreFork<S> {
    /// Keeps the workers until the server is told to stop.
    ///
    /// # Errors
    ///
    /// No worker can be started, or their listening socket is broken.
    pub(super) fn manage(&self, acceptor: &Acceptor<S::Transport>) -> io::Result<()> {
        let core = self.core();
        let wakeup = core.shared().wakeup()?;
        self.lock_workers().numbers = self.numbers;
        if !wakeup.is_stopping() {
            self.start_first(acceptor)?;
        }
        loop {
            // Before the look, so that a worker that ends after it writes the wake-up.
            let _told = wakeup.about_to_wait();
            acceptor.server().service_actions();
            if wakeup.is_stopping() {
                break;
            }
            let next = self.maintain(acceptor)?;
            // What `handle_request` has left before: it is this process's.
            core.waiting_room().run_ready(acceptor.server());
            let interval = core.attribute(|config| config.poll_interval);
            let left = next.map(|at| at.saturating_duration_since(Instant::now()));
            core.wait_quiet(acceptor.until_next_due(left.into_iter().chain(interval).min()))?;
        }
        core.begin_drain(acceptor.server());
        if self.lock_workers().len() > 0 || core.has_queued() {
            self.have_queue_served(acceptor)?;
        }
        Ok(())
    }

    /// The server was told to stop: waits until a worker has seen the kernel's queue empty, or the time for it
    /// is over. If the last that could has left or died before, another is started for it.
    fn have_queue_served(&self, acceptor: &Acceptor<S::Transport>) -> io::Result<()> {
        let core = self.core();
        let wakeup = core.shared().wakeup()?;
        let board = core.shared().registry.make_board()?;
        while !board.is_queue_done() {
            let _told = wakeup.about_to_wait();
            acceptor.server().service_actions();
            self.lock_workers().look();
            if !core.has_time() {
                core.give_up_queue(acceptor.server());
                break;
            }
            if self.lock_workers().hopeless().is_some() {
                break;
            }
            let left = core.drain_time_left();
            let mut pause = self.replacing.paused_until();
            // In this order: one that has seen the queue empty says so, and leaves then.
            if !self.lock_workers().any_accepts() && pause.is_none() && !board.is_queue_done() {
                pause = self.start(1, acceptor);
            }
            let pause = pause.map_or(left, |until| until.saturating_duration_since(Instant::now()));
            wakeup.wait(left.min(core.tell_progress()).min(pause))?;
        }
        Ok(())
    }

    /// Starts the first workers. One is enough to serve: the others may come later.
    fn start_first(&self, acceptor: &Acceptor<S::Transport>) -> io::Result<()> {
        self.start_worker(acceptor)
            .map_err(|error| io::Error::new(error.kind(), format!("the first worker cannot be started: {error}")))?;
        self.start(self.numbers.min - 1, acceptor);
        Ok(())
    }

    /// Starts so many workers. Returns when to try again, if there was no room for one.
    fn start(&self, count: usize, acceptor: &Acceptor<S::Transport>) -> Option<Instant> {
        for number in 0..count {
            // Of many: the last would be long in coming. One may be what a drain needs.
            if number > 0 && acceptor.shared().is_told_to_stop() {
                break;
            }
            if let Err(error) = self.start_worker(acceptor) {
                return Some(self.replacing.pause(&error.to_string()));
            }
        }
        None
    }

    /// Sees to everything once. Returns when to do it again, if nothing happens before.
    fn maintain(&self, acceptor: &Acceptor<S::Transport>) -> io::Result<Option<Instant>> {
        let now = Instant::now();
        self.lock_workers().look();
        if let Some(why) = self.lock_workers().hopeless() {
            return Err(io::Error::other(why));
        }
        let missing = self.adjust_number(now);
        self.log_news();
        let pause = self.replacing.paused_until().filter(|_| missing > 0);
        let pause = pause.or_else(|| self.start(missing, acceptor));
        if self.take_lost() && self.core().has_queued() {
            self.lock_workers().wake_able();
        }
        let hangs = self
            .hang_timeout
            .and_then(|timeout| self.lock_workers().kill_hanging(now, timeout));
        self.log_news();
        let calm = self.replacing.until_calm(now);
        Ok([pause, hangs, calm, self.next_look(now)?].into_iter().flatten().min())
    }

    fn log_news(&self) {
        let news = self.lock_workers().take_news();
        for (level, text) in news {
            log::log!(level, "{text}");
        }
    }

    /// Whether perhaps a request had woken a worker that does not accept it.
    fn take_lost(&self) -> bool {
        let board = self.core().shared().registry.board();
        let left = board.is_some_and(|board| board.take_left_request());
        std::mem::take(&mut self.lock_workers().lost) || left
    }

    /// Does what signals have asked for, and tells a worker to leave if there are too many. Returns how many to start.
    fn adjust_number(&self, now: Instant) -> usize {
        let workers = &mut *self.lock_workers();
        let asked_for = self.take_orders(workers);
        if let Some(size) = workers.reloading {
            return workers.go_on_reloading(size);
        }
        let load = workers.load();
        if workers.trend.one_too_many(&workers.numbers, load, now) {
            workers.dismiss_one();
        }
        workers.trend.missing(&workers.numbers, load).max(asked_for)
    }

    /// Does what signals have asked for. Returns how many workers to start for that.
    fn take_orders(&self, workers: &mut Workers<S::Transport>) -> usize {
        let take = |count: &AtomicU32| count.swap(0, Ordering::SeqCst);
        if take(&self.orders.reload) > 0 {
            workers.reload();
        }
        let mut more = 0;
        for _ in 0..take(&self.orders.more) {
            workers.one_more();
            more += 1;
        }
        for _ in 0..take(&self.orders.fewer) {
            workers.one_fewer();
        }
        more
    }

    /// When to look again: soon, while requests come or the number is on its way to what it should be.
    fn next_look(&self, now: Instant) -> io::Result<Option<Instant>> {
        let workers = &mut *self.lock_workers();
        if !workers.numbers.vary() && self.hang_timeout.is_none() {
            return Ok(None);
        }
        let next = workers.trend.next_look();
        let board = self.core().shared().registry.make_board()?;
        let quiet = !workers.take_progress();
        board.rest(quiet);
        // What a worker did before it could see that the master rests is seen now.
        if quiet && !workers.take_progress() {
            return Ok(next);
        }
        board.rest(false);
        Ok(earlier(next, Some(now + LOOK_INTERVAL)))
    }

    /// Has the workers see to it if they are to accept, or not to, and that has changed.
    pub(super) fn pass_suspension_on(&self) {
        // Whoever changed it may have done so before there was a board.
        let board = self.core().shared().tell_board();
        if board.is_some_and(Board::take_suspension_change) {
            self.lock_workers().wake_serving();
        }
    }

    // ----- Those that have ended -----------------------------------------------------------------

    /// Reaps the workers that have ended. Nothing is asked unless some child of the program has ended.
    pub(super) fn collect_workers(&self) {
        if self.core().shared().take_child_exited() {
            self.reap();
        }
    }

    pub(super) fn reap(&self) {
        let ended = self.lock_workers().take_ended();
        for ended in &ended {
            self.lock_workers().note(ended);
            // Loggers and observers may ask for the workers: they are not locked.
            ended.tell();
            if !ended.is_regular() && ended.was_at_once() {
                self.replacing.pause(&ended.why());
            }
            self.core().shared().observe(|| Event::ChildExited {
                number: None,
                process: ended.worker.pid.as_raw(),
                status: ended.status,
            });
            self.settle(ended);
        }
    }

    /// Counts the requests of a worker that has ended, and reports those that it had in progress.
    fn settle(&self, ended: &Ended<S::Transport>) {
        let Ended { worker, status } = ended;
        let shared = self.core().shared();
        // With threads it has noted one of many.
        let alone = S::CONCURRENCY == Concurrency::None;
        let mut client = worker.slot.client().filter(|_| alone);
        for _ in 0..shared.registry.settle(&worker.slot, shared.is_told_to_stop()) {
            // The others waited.
            let client = client.take().map_or(Address::Unnamed, Address::Inet);
            let error = RequestError::new(Phase::Handle, client, Cause::Exit(*status));
            worker.server.handle_error(&error);
        }
    }
}

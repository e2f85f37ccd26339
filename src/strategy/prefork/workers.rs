//! The worker processes, as their master sees them.

use std::time::{Duration, Instant};

use log::Level;

use super::numbers::{Load, Numbers, Trend};
use super::worker::{Ended, Worker};
use crate::lifecycle::{Order, Stage};
use crate::strategy::exit_status;
use crate::transport::Transport;

/// All workers, and how it goes with them.
pub(super) struct Workers<T: Transport> {
    list: Vec<Worker<T>>,
    pub(super) numbers: Numbers,
    pub(super) trend: Trend,
    /// Workers that ended before they were ready, and not for want of resources, since one last was.
    failures: u32,
    /// How the last one ended that did not end as it should.
    why: String,
    /// One has found the listening socket broken.
    broken: bool,
    /// The sum of the workers' counts of progress when it was last asked.
    progress: u64,
    /// When it was last looked whether any hangs.
    looked_for_hanging: Option<Instant>,
    /// While the outdated workers are replaced: how many serve besides the one that is added.
    pub(super) reloading: Option<usize>,
    /// A worker does not accept any more: perhaps a request had woken it.
    pub(super) lost: bool,
    /// To be logged when they are not locked any more: the program's logger may ask for them.
    news: Vec<(Level, String)>,
}

/// So many workers that fail to start, one after the other, are no accident.
const MAX_FAILURES: u32 = 5;

impl<T: Transport> Default for Workers<T> {
    fn default() -> Self {
        Workers {
            list: Vec::new(),
            numbers: Numbers::default(),
            trend: Trend::default(),
            failures: 0,
            why: String::new(),
            broken: false,
            progress: 0,
            looked_for_hanging: None,
            reloading: None,
            lost: false,
            news: Vec::new(),
        }
    }
}

impl<T: Transport> Workers<T> {
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn push(&mut self, worker: Worker<T>) {
        self.list.push(worker);
    }

    /// In a worker: the others are none of its business.
    pub(super) fn forget(&mut self) {
        self.list.clear();
    }

    pub(super) fn load(&self) -> Load {
        let count = |which: fn(&Worker<T>) -> bool| self.list.iter().filter(|worker| which(worker)).count();
        Load {
            workers: count(Worker::is_serving),
            waiting: count(Worker::is_waiting),
            starting: count(Worker::is_starting),
        }
    }

    // ----- Telling them --------------------------------------------------------------------------

    /// The server ends. A worker that is only starting is of use if no other can serve what the kernel has
    /// queued, and if starting does not fail.
    pub(super) fn drain(&mut self) {
        let failed = self.hopeless().is_some();
        let others_can = self.list.iter().any(|worker| worker.slot.stage() == Stage::Ready);
        for worker in &mut self.list {
            let of_no_use = worker.slot.stage() == Stage::Starting && (others_can || failed);
            worker.tell(if of_no_use { Order::Leave } else { Order::Drain });
        }
    }

    pub(super) fn force_all(&mut self) {
        self.list.iter_mut().for_each(|worker| worker.tell(Order::Force));
    }

    pub(super) fn kill_all(&mut self) {
        self.list.iter_mut().for_each(Worker::kill);
    }

    /// Tells one worker to leave: the last that waits, or else the last.
    pub(super) fn dismiss_one(&mut self) {
        let waiting = self.list.iter().rposition(Worker::is_waiting);
        if let Some(index) = waiting.or_else(|| self.list.iter().rposition(Worker::is_serving)) {
            self.list[index].tell(Order::Leave);
        }
    }

    /// Has those that serve look at the listener: at once, or when they are done with what they are at.
    pub(super) fn wake_serving(&self) {
        self.wake(Worker::is_serving);
    }

    /// As [`wake_serving`](Self::wake_serving), but for those that cannot accept: woken, they would try again at once,
    /// and tell.
    pub(super) fn wake_able(&self) {
        self.wake(|worker| worker.is_serving() && !worker.slot.is_pausing());
    }

    fn wake(&self, which: impl Fn(&Worker<T>) -> bool) {
        self.list.iter().filter(|worker| which(worker)).for_each(Worker::wake);
    }

    /// What there is to log by now.
    pub(super) fn take_news(&mut self) -> Vec<(Level, String)> {
        std::mem::take(&mut self.news)
    }

    // ----- Their number --------------------------------------------------------------------------

    pub(super) fn one_more(&mut self) {
        self.numbers.one_more();
        self.reloading = self.reloading.map(|size| size + 1);
    }

    pub(super) fn one_fewer(&mut self) {
        if !self.numbers.one_fewer() {
            self.news.push((Level::Warn, "the last worker stays".to_owned()));
        } else if let Some(size) = &mut self.reloading {
            *size = (*size - 1).max(1);
        } else if self.load().workers > self.numbers.min {
            self.dismiss_one();
        }
    }

    // ----- Looking at them -----------------------------------------------------------------------

    /// Takes those that have ended off the list. Never waits, never asks for a process that is not ours.
    pub(super) fn take_ended(&mut self) -> Vec<Ended<T>> {
        let mut ended = Vec::new();
        let mut next = 0;
        while next < self.list.len() {
            match exit_status(self.list[next].pid) {
                None => next += 1,
                Some(status) => ended.push(Ended {
                    worker: self.list.remove(next),
                    status,
                }),
            }
        }
        ended
    }

    /// Takes note of how a worker has ended.
    pub(super) fn note(&mut self, ended: &Ended<T>) {
        self.lost |= ended.worker.slot.may_have_lost();
        // Perhaps it was not looked at in between.
        if ended.worker.slot.stage() != Stage::Starting {
            self.failures = 0;
        }
        if ended.is_regular() {
            return;
        }
        if ended.is_broken() {
            self.broken = true;
        } else if ended.failed_to_start() {
            self.failures += u32::from(!ended.wanted_resources());
        }
        self.why = ended.why();
    }

    /// Whether any worker accepts, or will.
    pub(super) fn any_accepts(&self) -> bool {
        self.list
            .iter()
            .any(|worker| matches!(worker.stage, Stage::Starting | Stage::Ready))
    }

    /// Looks how far the workers have come.
    pub(super) fn look(&mut self) {
        for worker in &mut self.list {
            let stage = worker.slot.stage();
            if worker.stage != stage {
                worker.stage = stage;
                // Whatever has become of it since, it was ready.
                self.failures = 0;
                if stage == Stage::Left {
                    worker.leaving = true;
                    self.lost |= worker.slot.may_have_lost();
                }
            }
        }
    }

    /// Kills the workers that hang. Returns when to look again, if any may.
    pub(super) fn kill_hanging(&mut self, now: Instant, timeout: Duration) -> Option<Instant> {
        // A master that looks later than it meant to was stopped or frozen, perhaps, and the workers with it: that time
        // does not count. It looks often enough to notice, but no sooner than it can wait (poll_timeout), or it would
        // always be late.
        let step = (timeout / 4).max(Duration::from_millis(1));
        let looked = self.looked_for_hanging.replace(now).unwrap_or(now);
        let late = now.saturating_duration_since(looked).saturating_sub(step);
        let mut next = None;
        for worker in &mut self.list {
            match worker.hangs_at(now, late, timeout) {
                Some(at) if at <= now => {
                    let text = format!("worker {} has not got on for {timeout:?}: killing it", worker.pid);
                    self.news.push((Level::Error, text));
                    worker.kill();
                }
                at => next = earlier(next, at),
            }
        }
        next.map(|at| at.min(now + step))
    }

    /// Whether any worker has got on since it was last asked.
    pub(super) fn take_progress(&mut self) -> bool {
        let sum = self
            .list
            .iter()
            .fold(0_u64, |sum, worker| sum.wrapping_add(worker.slot.last_progress()));
        std::mem::replace(&mut self.progress, sum) != sum
    }

    /// Why there is no sense in going on, if there is none.
    pub(super) fn hopeless(&self) -> Option<String> {
        if self.broken {
            return Some(self.why.clone());
        }
        let none_ready = !self.list.iter().any(|worker| worker.stage != Stage::Starting);
        (self.too_many_failures() && none_ready)
            .then(|| format!("{MAX_FAILURES} workers in a row did not start; the last: {}", self.why))
    }

    fn too_many_failures(&self) -> bool {
        self.failures >= MAX_FAILURES
    }

    // ----- Replacing them ------------------------------------------------------------------------

    /// From now on those that serve are to be replaced.
    pub(super) fn reload(&mut self) {
        let serving = self.load().workers;
        self.news
            .push((Level::Info, format!("replacing {serving} workers, one by one")));
        self.failures = 0;
        self.reloading.get_or_insert(serving.max(1));
        for worker in self.list.iter_mut().filter(|worker| worker.is_serving()) {
            worker.outdated = true;
        }
    }

    /// Goes on replacing: a new worker is ready before an old one is told to leave. Returns how many to
    /// start.
    pub(super) fn go_on_reloading(&mut self, size: usize) -> usize {
        let oldest = |list: &[Worker<T>]| list.iter().position(|worker| worker.outdated && worker.is_serving());
        if self.too_many_failures() {
            let text = "the new workers do not start: the old ones go on".to_owned();
            self.news.push((Level::Error, text));
            self.list.iter_mut().for_each(|worker| worker.outdated = false);
        }
        let mut load = self.load();
        if load.starting == 0
            && load.workers > size
            && let Some(index) = oldest(&self.list)
        {
            self.list[index].tell(Order::Leave);
            load.workers -= 1;
        }
        let done = oldest(&self.list).is_none();
        if done {
            self.reloading = None;
        }
        (size + usize::from(!done)).saturating_sub(load.workers)
    }
}

/// The earlier of two times, of which either may be never.
pub(super) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};
    use std::sync::Arc;

    use nix::sys::eventfd::EfdFlags;
    use nix::sys::signal::Signal;
    use nix::unistd::Pid;

    use super::*;
    use crate::TcpRequest;
    use crate::aliases::TcpServer;
    use crate::lifecycle::{Slot, event};
    use crate::transport::Tcp;

    #[test]
    fn the_others_look_again_when_one_leaves_that_may_have_lost_a_request() {
        let server = Arc::new(TcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {}));
        for may_have_lost in [true, false] {
            let slot = Arc::new(Slot::new().unwrap());
            let wake = event(EfdFlags::empty()).unwrap();
            let mut workers = Workers::<Tcp>::default();
            workers.push(Worker::new(
                Pid::this(),
                Arc::clone(&slot),
                wake,
                Arc::clone(&server) as _,
            ));
            if !may_have_lost {
                slot.nothing_is_lost();
            }
            slot.enter(Stage::Left);
            workers.look();
            assert_eq!(std::mem::take(&mut workers.lost), may_have_lost);
            let worker = workers.list.remove(0);
            let status = ExitStatus::from_raw(0);
            workers.note(&Ended { worker, status });
            assert_eq!(workers.lost, may_have_lost);
        }
    }

    #[test]
    fn the_shortest_time_to_get_on_is_over_and_the_master_rests_between_two_looks() {
        let timeout = Duration::from_nanos(1);
        let mut workers = Workers::<Tcp>::default();
        // It looks before there is this worker.
        assert_eq!(workers.kill_hanging(Instant::now(), timeout), None);
        let mut process = Command::new("sleep").arg("60").spawn().unwrap();
        let (slot, wake) = (Arc::new(Slot::new().unwrap()), event(EfdFlags::empty()).unwrap());
        let server = Arc::new(TcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {}));
        let pid = Pid::from_raw(process.id().cast_signed());
        workers.push(Worker::new(pid, slot, wake, server));
        let mut now = Instant::now();
        while let Some(at) = workers.kill_hanging(now, timeout) {
            assert!(at > now, "it looks again at once");
            now = at;
        }
        assert_eq!(process.wait().unwrap().signal(), Some(Signal::SIGKILL as i32));
    }

    #[test]
    fn while_workers_are_replaced_their_number_can_be_changed_too() {
        let mut workers = Workers::<Tcp> {
            reloading: Some(2),
            ..Workers::default()
        };
        workers.one_more();
        assert_eq!(workers.reloading, Some(3));
        let mut fewer = || {
            workers.one_fewer();
            workers.reloading
        };
        assert_eq!([(); 4].map(|()| fewer()), [2, 1, 1, 1].map(Some));
    }
}

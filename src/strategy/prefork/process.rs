//! A worker process, from its fork to its end.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;
use signal_hook::consts::SIGCHLD;

use super::PreFork;
use super::worker::Worker;
use crate::acceptor::Acceptor;
use crate::error::{errno, no_room_for};
use crate::lifecycle::{Duty, Order, Slot, drain_worker, event};
use crate::panics::{caught, panic_as_error};
use crate::request::{about_to_fork, has_not_forked};
use crate::server::{BaseServer, Concurrency};
use crate::sys::{self, Fork};

impl<S: BaseServer> PreFork<S> {
    /// Forks a worker.
    ///
    /// # Errors
    ///
    /// The system has no room for it.
    pub(super) fn start_worker(&self, acceptor: &Acceptor<S::Transport>) -> io::Result<()> {
        let shared = self.core().shared();
        let slot = Arc::new(Slot::new()?);
        if self.core().backlog.get().is_some() {
            slot.set_order(Order::Drain);
        }
        let wake = event(EfdFlags::empty())?;
        let board = Arc::clone(shared.registry.make_board()?);
        // The first worker shall know it from its beginning.
        shared.tell_board();
        let duty = Duty {
            master: Pid::this(),
            slot: Arc::clone(&slot),
            board,
            max_requests: self.max_requests.map(|requests| self.with_jitter(requests)),
            one_at_a_time: S::CONCURRENCY == Concurrency::None,
        };
        about_to_fork();
        // Held over the fork: in the child, a lock that another thread held would stay locked.
        let (mut workers, mut registry) = (self.lock_workers(), shared.registry.lock());
        match sys::fork().map_err(|error| no_room_for("process", &error))? {
            Fork::Child(mask) => {
                has_not_forked();
                workers.forget();
                registry.forget_masters();
                drop((workers, registry));
                self.run_worker(wake, duty, mask, acceptor.clone())
            }
            Fork::Parent(pid) => {
                registry.add_worker(Arc::clone(&slot));
                workers.push(Worker::new(pid, slot, wake, Arc::clone(acceptor.server())));
                // The program's logger may want to know how many requests there are.
                drop((workers, registry));
                log::debug!("worker {pid} was started");
                Ok(())
            }
        }
    }

    fn with_jitter(&self, requests: u64) -> u64 {
        // The standard library has no other source of random numbers.
        let random = RandomState::new().hash_one(());
        let most = self.jitter.unwrap_or(requests / 10);
        let jitter = most.checked_add(1).map_or(random, |choices| random % choices);
        requests.max(1).saturating_add(jitter)
    }

    /// In the worker: serves, and ends the process.
    fn run_worker(&self, wake: EventFd, duty: Duty, mask: SigSet, acceptor: Acceptor<S::Transport>) -> ! {
        let slot = Arc::clone(&duty.slot);
        let error = match panic_as_error(PANICKED, || self.work(wake, duty, mask, acceptor)) {
            Ok(()) => sys::exit_now(0),
            Err(error) => error,
        };
        // What worker_init has failed with is the program's own, and can panic here.
        let _ = caught(|| slot.set_reason(&error.to_string()));
        sys::exit_now(if has_run_out(&error) { TEMPORARY_FAILURE } else { 1 })
    }

    fn work(&self, wake: EventFd, duty: Duty, mask: SigSet, acceptor: Acceptor<S::Transport>) -> io::Result<()> {
        self.core().after_fork(&wake, duty)?;
        drop(wake);
        sys::default_action(SIGCHLD);
        sys::let_signals_come(mask);
        if let Some(init) = &self.worker_init {
            init()?;
            // It may have dropped privileges.
            self.core().hear_of_the_masters_end()?;
        }
        let server = Arc::clone(acceptor.server());
        // Whatever ends its accepting, its threads may have requests to end.
        let outcome = panic_as_error(PANICKED, || self.inner.serve(acceptor));
        if let Some(master) = self.core().shared().master() {
            match &outcome {
                Ok(()) => master.left(self.core().has_time()),
                Err(error) if is_everybodys(error) => master.broken(error),
                // The worker fails, and is replaced: now, if it has requests to end first.
                Err(_) if !self.core().shared().registry.is_idle() => master.left(false),
                Err(_) => {}
            }
        }
        drain_worker(&server)?;
        outcome
    }
}

/// Behind the number of the worker in the log.
const PANICKED: &str = "panicked";

/// The status of a worker that has ended for want of something (sysexits(3), `EX_TEMPFAIL`).
pub(super) const TEMPORARY_FAILURE: i32 = 75;

/// Whether something was missing that may be there again: descriptors, memory, room for threads, watches of epoll. By
/// its kind where whoever told it has put it into words.
fn has_run_out(error: &io::Error) -> bool {
    use io::ErrorKind::{OutOfMemory, StorageFull, WouldBlock};
    matches!(error.kind(), OutOfMemory | StorageFull | WouldBlock)
        || matches!(errno(error), Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS))
}

/// Whether what has ended a worker's accepting would end that of the others, too: the listening socket itself takes no
/// calls any more (EINVAL). Descriptors are a process's own, and a handler may have closed them all.
fn is_everybodys(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput && error.raw_os_error().is_none()
}

//! Several threads that accept for themselves.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::acceptor::Acceptor;
use crate::job::Job;
use crate::mutex::Mutex;
use crate::panics::panic_as_error;
use crate::transport::Transport;

/// The threads of a strategy that accept for themselves: how many do now, and how that ends.
///
/// A thread that accepts serves what it has accepted right there, without handing it over, and in the
/// meantime leaves the accepting to others.
#[derive(Debug)]
pub(super) struct Accepting {
    /// Threads in [`Acceptor::next`].
    now: AtomicUsize,
    /// No more of them than this.
    limit: usize,
    /// The server has stopped, or its socket is broken: nobody begins to accept any more.
    ended: AtomicBool,
    failure: Mutex<Option<io::Error>>,
}

impl Accepting {
    pub(super) fn new(limit: usize) -> Self {
        Accepting {
            now: AtomicUsize::new(0),
            limit,
            ended: AtomicBool::new(false),
            failure: Mutex::default(),
        }
    }

    /// One more thread accepts from now on; false if there are enough.
    ///
    /// Only ever raised below the limit: a thread that raised it first and backed out would be counted
    /// by another that just leaves, and nobody would accept.
    pub(super) fn join(&self) -> bool {
        let below_limit = |now: usize| (now < self.limit).then_some(now + 1);
        let counted = self.now.try_update(Ordering::SeqCst, Ordering::SeqCst, below_limit);
        if counted.is_err() {
            return false;
        }
        // After counting itself: whoever waits for the end either sees the count or is seen here.
        let joined = !self.has_ended();
        if !joined {
            self.leave();
        }
        joined
    }

    /// One thread less; true if it was the last.
    pub(super) fn leave(&self) -> bool {
        self.now.fetch_sub(1, Ordering::SeqCst) == 1
    }

    /// Whether no thread accepts.
    pub(super) fn is_idle(&self) -> bool {
        self.now.load(Ordering::SeqCst) == 0
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Whether accepting has ended and no thread is in it any more.
    pub(super) fn is_over(&self) -> bool {
        self.has_ended() && self.is_idle()
    }

    /// The server was told to stop: waits until the threads have accepted what the kernel has queued, or
    /// the time for that is over. What made accepting end, if that was a fault.
    pub(super) fn wait_until_over<T: Transport>(&self, acceptor: &Acceptor<T>) -> io::Result<()> {
        // Where nothing is left to accept, those that are busy have nothing to look for when they are done.
        let is_done = || self.is_over() || (self.is_idle() && acceptor.has_accepted_all());
        while !is_done() && acceptor.stand_by_stopping()? {}
        self.finish()
    }

    /// Nobody begins to accept any more. What made accepting end, if that was a fault.
    pub(super) fn finish(&self) -> io::Result<()> {
        self.end();
        self.failure.lock().take().map_or(Ok(()), Err)
    }

    /// Nobody begins to accept any more.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    /// Accepts on this thread, which has [joined](Self::join), and serves what comes, until there are
    /// enough others when it has served a request, or accepting has ended. `leaving` is called before each
    /// request, with whether nobody else accepts.
    pub(super) fn run<T: Transport>(&self, acceptor: &mut Acceptor<T>, leaving: impl Fn(&Acceptor<T>, bool)) {
        // Hooks do not panic, their panics are caught, but a logger does where it is called. Counted as one that
        // accepts and gone, the thread would keep others from taking its place.
        const PANICKED: &str = "accepting panicked";
        let _here = Here::enter(self);
        loop {
            match panic_as_error(PANICKED, || acceptor.next()) {
                Ok(Some(job)) => {
                    let last = self.leave();
                    leaving(acceptor, last);
                    if let Err(error) = panic_as_error(PANICKED, || acceptor.process(job)) {
                        return self.fail(acceptor, error);
                    }
                    if !self.join() {
                        return acceptor.shared().exit_if_copy_of_worker();
                    }
                }
                Ok(None) => {
                    self.end();
                    self.leave();
                    return acceptor.shared().wake_drain();
                }
                Err(error) => {
                    self.leave();
                    return self.fail(acceptor, error);
                }
            }
        }
    }

    /// Accepting itself failed: that ends it, for all.
    fn fail<T: Transport>(&self, acceptor: &Acceptor<T>, error: io::Error) {
        self.failure.lock().get_or_insert(error);
        self.end();
        // Not the whole server, where this is a worker process: its master is told as it ends.
        if let Ok(wakeup) = acceptor.shared().wakeup() {
            wakeup.shutdown();
        }
    }

    /// Runs a job right here if this thread accepts for itself; gives it back if not.
    pub(super) fn run_here<T: Transport>(&self, job: Job<T>) -> Option<Job<T>> {
        if HERE.get() != std::ptr::from_ref(self) {
            return Some(job);
        }
        job.run();
        None
    }
}

thread_local! {
    /// What this thread accepts for; compared, never followed.
    static HERE: Cell<*const Accepting> = const { Cell::new(std::ptr::null()) };
}

struct Here;

impl Here {
    fn enter(accepting: &Accepting) -> Self {
        HERE.set(accepting);
        Here
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        HERE.set(std::ptr::null());
    }
}

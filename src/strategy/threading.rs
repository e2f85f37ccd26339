//! A thread for each request.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::one_strategy;
use crate::address::Address;
use crate::job::Job;
use crate::server::{BaseServer, Concurrency, Construct};

/// Runs each request in a thread of its own: Python's `ThreadingMixIn`.
///
/// There is no limit to the number of threads. When the system has no room for another, the accept loop
/// serves the request itself, then accepts more slowly until there is.
///
/// `daemon_threads` and `block_on_close` are one attribute here, for every strategy:
/// [`drain_timeout`](crate::Configure::drain_timeout).
///
/// ```no_run
/// use std::io::Write;
/// use socketserver::prelude::*;
///
/// # fn main() -> std::io::Result<()> {
/// ThreadingTcpServer::new("127.0.0.1:8080", |request: &mut TcpRequest| request.write_all(b"hello\n"))
///     .serve_forever()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Threading<S> {
    inner: S,
    threads: Arc<Threads>,
}

impl<S: BaseServer> Threading<S> {
    /// Gives `server` this strategy. It must not have one already, which the compiler checks.
    pub fn over(server: S) -> Self {
        const { one_strategy::<S>() };
        Threading {
            inner: server,
            threads: Arc::default(),
        }
    }
}

impl<S: Construct> Threading<S> {
    /// A server for `address`; never fails, see [`SocketServer::new`](crate::SocketServer::new).
    pub fn new(address: impl Into<Address>, handler: S::Handler) -> Self {
        Self::construct(address.into(), handler)
    }
}

impl<S: Construct> Construct for Threading<S> {
    type Handler = S::Handler;

    fn construct(address: Address, handler: S::Handler) -> Self {
        Self::over(S::construct(address, handler))
    }

    fn request_handler_class(&self) -> &S::Handler {
        self.inner.request_handler_class()
    }
}

impl<S: BaseServer> BaseServer for Threading<S> {
    type Transport = S::Transport;
    type Inner = S;

    const CONCURRENCY: Concurrency = Concurrency::Threads;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn process_request(&self, job: Job<S::Transport>) {
        if let Err((job, error)) = self.threads.start(job, |job| {
            job.run();
        }) {
            log::debug!(
                "no thread for {}: {error}; serving it on the accept loop",
                job.client_address()
            );
            self.core().shared().congested();
            self.inner.process_request(job);
        }
    }

    fn server_close(&self) {
        self.inner.server_close();
        if self.core().shared().registry.running() == 0 {
            self.threads.join_running();
        }
        self.threads.join_ended();
    }
}

/// The threads that run: each takes itself off the books when it ends, so that there are never more
/// records than threads, and one.
#[derive(Default)]
struct Threads {
    next: AtomicU64,
    running: Mutex<HashMap<u64, JoinHandle<()>>>,
    /// The last thread that ended. The next one joins it, and closing the server the last.
    ended: Mutex<Option<JoinHandle<()>>>,
}

impl Threads {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, JoinHandle<()>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on `item` in a new thread; gives it back if there can be none.
    fn start<I: Send + 'static>(self: &Arc<Self>, item: I, work: fn(I)) -> Result<(), (I, io::Error)> {
        // In a slot that both sides see, because a closure that could not be started is lost.
        let slot = Arc::new(Mutex::new(Some(item)));
        let take = |slot: &Mutex<Option<I>>| slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (threads, its_slot) = (Arc::clone(self), Arc::clone(&slot));
        // Held until the record is made, which the thread looks for when it ends.
        let mut running = self.lock();
        let started = thread::Builder::new().spawn(move || {
            if let Some(item) = take(&its_slot) {
                work(item);
            }
            threads.end(number);
        });
        match started {
            Ok(handle) => {
                running.insert(number, handle);
                Ok(())
            }
            Err(error) => match take(&slot) {
                Some(item) => Err((item, error)),
                None => Ok(()),
            },
        }
    }

    /// The calling thread is about to end.
    fn end(&self, number: u64) {
        let Some(this) = self.lock().remove(&number) else {
            return;
        };
        let before = self.ended.lock().unwrap_or_else(PoisonError::into_inner).replace(this);
        join(before);
    }

    /// Waits for the threads that are on the books. Called when no request is left: all they have still
    /// to do is to let go of the server, and its socket must not outlive it.
    fn join_running(&self) {
        let running: Vec<_> = self.lock().drain().collect();
        for (_, thread) in running {
            join(Some(thread));
        }
    }

    /// Waits for the threads that have nothing left to do but to end.
    fn join_ended(&self) {
        loop {
            let last = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
            if last.is_none() {
                return;
            }
            join(last);
        }
    }
}

fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread {
        // Its work catches panics; nothing is lost with the payload of one that got past it.
        let _ = thread.join();
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads")
            .field("running", &self.lock().len())
            .finish_non_exhaustive()
    }
}

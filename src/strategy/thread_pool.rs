//! A fixed number of threads and a queue.

use std::fmt;
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::one_strategy;
use crate::address::Address;
use crate::job::Job;
use crate::server::{BaseServer, Concurrency, Construct};
use crate::transport::Transport;

/// Runs requests in a fixed number of threads, the workers, with a bounded queue before them.
///
/// A full queue stops accepting, it drops nothing: at most `workers + queue` connections are accepted at
/// a time, and the kernel's queue ([`request_queue_size`](crate::Configure::request_queue_size)) holds
/// what comes beyond. A client that keeps a connection open keeps a worker: with conversations rather
/// than requests, use [`Threading`](crate::Threading), or timeouts.
///
/// Python has no such mix-in; its users bolt on `ThreadPoolExecutor`, from which the default number of
/// workers comes: the processors and four more, at most 32.
///
/// ```
/// use socketserver::prelude::*;
///
/// let server = ThreadPoolTcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {})
///     .workers(4)
///     .queue_size(100);
/// ```
pub struct ThreadPool<S: BaseServer> {
    inner: S,
    workers: usize,
    queue_size: usize,
    pool: OnceLock<Pool<S::Transport>>,
}

impl<S: BaseServer> ThreadPool<S> {
    /// Gives `server` this strategy. It must not have one already, which the compiler checks.
    pub fn over(server: S) -> Self {
        const { one_strategy::<S>() };
        let processors = thread::available_parallelism().map_or(1, Into::into);
        ThreadPool {
            inner: server,
            workers: (processors + 4).min(32),
            queue_size: 64,
            pool: OnceLock::new(),
        }
    }

    /// Sets the number of threads; with 0 the server does not bind.
    #[must_use]
    pub fn workers(mut self, threads: usize) -> Self {
        self.workers = threads;
        self
    }

    /// Sets how many accepted requests may wait for a worker: 64 unless set; 0 is fine.
    #[must_use]
    pub fn queue_size(mut self, requests: usize) -> Self {
        self.queue_size = requests;
        self
    }

    /// The workers, started with the first request.
    fn pool(&self) -> &Pool<S::Transport> {
        self.pool.get_or_init(|| Pool::start(self.workers))
    }

    /// Requests accepted and not ended: in a worker or in the queue.
    fn places(&self) -> usize {
        self.workers.saturating_add(self.queue_size)
    }
}

impl<S: Construct> ThreadPool<S> {
    /// A server for `address`; never fails, see [`SocketServer::new`](crate::SocketServer::new).
    pub fn new(address: impl Into<Address>, handler: S::Handler) -> Self {
        Self::construct(address.into(), handler)
    }
}

impl<S: Construct> Construct for ThreadPool<S> {
    type Handler = S::Handler;

    fn construct(address: Address, handler: S::Handler) -> Self {
        Self::over(S::construct(address, handler))
    }

    fn request_handler_class(&self) -> &S::Handler {
        self.inner.request_handler_class()
    }
}

impl<S: BaseServer> BaseServer for ThreadPool<S> {
    type Transport = S::Transport;
    type Inner = S;

    const CONCURRENCY: Concurrency = Concurrency::Threads;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn server_bind(&self) -> io::Result<()> {
        if self.workers == 0 {
            let text = "a thread pool of 0 workers would never serve anybody: set workers to 1 or more";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.inner.server_bind()
    }

    fn process_request(&self, job: Job<S::Transport>) {
        if let Err(job) = self.pool().send(job) {
            self.core().shared().congested();
            self.inner.process_request(job);
        }
    }

    fn capacity(&self) -> usize {
        self.places().min(self.inner.capacity())
    }

    fn server_close(&self) {
        self.inner.server_close();
        if let Some(pool) = self.pool.get() {
            let all_ended = self.core().shared().registry.running() == 0;
            pool.close(all_ended);
        }
    }
}

impl<S: BaseServer + fmt::Debug> fmt::Debug for ThreadPool<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPool")
            .field("inner", &self.inner)
            .field("workers", &self.workers)
            .field("queue_size", &self.queue_size)
            .finish_non_exhaustive()
    }
}

/// The workers and their queue.
struct Pool<T: Transport> {
    /// Taken away to end the workers.
    queue: Mutex<Option<Sender<Job<T>>>>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

impl<T: Transport> Pool<T> {
    /// Starts as many workers as there can be. The limit of the queue is kept where requests are accepted,
    /// so a send never waits; a bounded channel would take the memory for all its places at once.
    fn start(workers: usize) -> Self {
        let (sender, receiver) = unbounded();
        let mut started = Vec::new();
        for number in 1..=workers {
            match Self::start_worker(number, receiver.clone()) {
                Ok(worker) => started.push(worker),
                Err(error) => {
                    log::warn!("only {} of {workers} workers could be started: {error}", number - 1);
                    break;
                }
            }
        }
        let queue = (!started.is_empty()).then_some(sender);
        Pool {
            queue: Mutex::new(queue),
            workers: Mutex::new(started),
        }
    }

    fn start_worker(number: usize, queue: Receiver<Job<T>>) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            for job in queue {
                job.run();
            }
        })
    }

    /// Queues a job; gives it back if there is no worker.
    fn send(&self, job: Job<T>) -> Result<(), Job<T>> {
        match &*self.queue.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(queue) => queue.send(job).map_err(|refused| refused.0),
            None => Err(job),
        }
    }

    /// Ends the workers when the queue is empty, and waits for that if it can only take a moment.
    fn close(&self, all_ended: bool) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        for worker in self.workers.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if all_ended {
                // Jobs catch panics; a worker ends with its queue.
                let _ = worker.join();
            }
        }
    }
}

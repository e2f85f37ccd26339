//! A fixed number of threads and a queue.

use std::fmt;
use std::io;
use std::sync::{Arc, Once};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Sender, unbounded};

use super::accepting::Accepting;
use super::stack::StackSize;
use super::{MOST_TASKS, one_strategy};
use crate::acceptor::Acceptor;
use crate::error::{LIMITS_OF_TASKS, invalid_input};
use crate::job::Job;
use crate::limits::{Capacity, Limit, LimitKind};
use crate::mutex::Mutex;
use crate::server::{BaseServer, Concurrency};
use crate::transport::Transport;

/// Runs requests in a fixed number of threads, the workers.
///
/// The workers accept for themselves: what no worker is free for waits in the kernel's queue
/// ([`request_queue_size`](crate::Configure::request_queue_size)), and nothing is handed over. With a
/// [`queue_size`](Self::queue_size), the accept loop accepts ahead, up to that many requests, and hands
/// them over; a full queue stops accepting, it drops nothing. That costs a tenth of the speed, and is for
/// hooks that must see a client at once (`verify_request`), and for clients that cannot wait to be
/// accepted.
///
/// A client that keeps a connection open keeps a worker: with conversations rather than requests, use
/// [`Threading`](crate::Threading), or timeouts.
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
    queue_size: Limit,
    stack_size: StackSize,
    accepting: Arc<Accepting>,
    queue: Mutex<Queue<S::Transport>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// A server that got no worker at first tries again with its first job: that there are too few is told once.
    told_too_few: Once,
}

/// Where workers that do not accept get their jobs from.
enum Queue<T: Transport> {
    /// No job has come for it yet.
    New,
    Open(Sender<Job<T>>),
    /// There could be no worker, or the server is closed.
    Closed,
}

impl<S: BaseServer> ThreadPool<S> {
    /// Gives `server` this strategy. It must not have one already, which the compiler checks.
    pub fn over(server: S) -> Self {
        const { one_strategy::<S>() };
        let processors = thread::available_parallelism().map_or(1, Into::into);
        ThreadPool {
            inner: server,
            workers: (processors + 4).min(32),
            queue_size: Limit::wait(0),
            stack_size: StackSize::default(),
            accepting: Arc::new(Accepting::new(usize::MAX)),
            queue: Mutex::new(Queue::New),
            threads: Mutex::default(),
            told_too_few: Once::new(),
        }
    }

    /// Sets the number of threads; with 0, or more than there can be (4,194,304), the server does not bind.
    #[must_use]
    pub fn workers(mut self, threads: usize) -> Self {
        self.workers = threads;
        self
    }

    /// Sets how many accepted requests may wait for a worker: 0 unless set, and the workers accept for
    /// themselves. A plain number [waits](crate::OnLimit::Wait): more than that are left to the kernel's
    /// queue. To [reject](Limit::reject) them the accept loop has to accept, also with a queue of 0.
    #[must_use]
    pub fn queue_size(mut self, requests: impl Into<Limit>) -> Self {
        self.queue_size = requests.into();
        self
    }

    /// Sets how large the stacks of the workers are, in bytes, as
    /// [`Threading::stack_size`](crate::Threading::stack_size) does: with less than 64 KiB, or more than the system has
    /// room for, the server does not bind.
    #[must_use]
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = StackSize(Some(bytes));
        self
    }

    /// Starts as many workers as there can be; each does what `work` makes for it.
    fn start_workers<W: FnOnce() + Send + 'static>(&self, mut work: impl FnMut(usize) -> W) -> usize {
        let mut threads = self.threads.lock();
        for started in 0..self.workers {
            let named = self.stack_size.thread().name(format!("worker-{}", started + 1));
            match named.spawn(work(started)) {
                Ok(worker) => threads.push(worker),
                Err(error) => {
                    self.told_too_few.call_once(|| {
                        log::warn!(
                            "only {started} of {} workers could be started ({LIMITS_OF_TASKS}): {error}",
                            self.workers
                        );
                    });
                    return started;
                }
            }
        }
        self.workers
    }

    /// Queues a job; gives it back if there is no worker. Those that take from the queue are started with
    /// the first job for it.
    fn enqueue(&self, job: Job<S::Transport>) -> Result<(), Job<S::Transport>> {
        let mut queue = self.queue.lock();
        if let Queue::New = *queue {
            *queue = self.open_queue();
        }
        match &*queue {
            Queue::Open(sender) => sender.send(job).map_err(|refused| refused.0),
            Queue::New | Queue::Closed => Err(job),
        }
    }

    fn open_queue(&self) -> Queue<S::Transport> {
        // The limit is kept where requests are accepted, so a send never waits; a bounded channel would
        // take the memory for all its places at once.
        let (sender, receiver) = unbounded::<Job<S::Transport>>();
        let started = self.start_workers(|_| {
            let receiver = receiver.clone();
            move || {
                for job in receiver {
                    job.run_handed_over();
                }
            }
        });
        if started > 0 {
            Queue::Open(sender)
        } else {
            Queue::Closed
        }
    }

    /// In a worker process: the threads that `handle_request` has started before are its master's. Their queue is not
    /// closed, for which they may have held a lock at the fork.
    fn forget_masters_queue(&self) {
        if self.core().shared().master().is_some() {
            std::mem::forget(std::mem::replace(&mut *self.queue.lock(), Queue::New));
        }
    }

    /// Requests accepted and not ended: in a worker or in the queue.
    fn places(&self) -> usize {
        self.workers.saturating_add(self.queue_size.max())
    }
}

construct!(ThreadPool);

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
            return Err(invalid_input(text));
        }
        if self.workers > MOST_TASKS {
            return Err(invalid_input(format!(
                "{} workers are more threads than there can be ({MOST_TASKS}): set workers to what the machine has room \
                 for",
                self.workers
            )));
        }
        self.stack_size.check()?;
        self.inner.server_bind()
    }

    fn serve(&self, acceptor: Acceptor<S::Transport>) -> io::Result<()> {
        self.forget_masters_queue();
        let started = if self.queue_size == Limit::wait(0) {
            acceptor.let_sleep(self.workers);
            self.start_workers(|number| {
                let (accepting, mut acceptor) = (Arc::clone(&self.accepting), acceptor.for_thread(number));
                move || {
                    if accepting.join() {
                        accepting.run(&mut acceptor, |_, _| ());
                    }
                }
            })
        } else {
            0
        };
        if started == 0 {
            return self.inner.serve(acceptor);
        }
        while !acceptor.stand_by()? {}
        self.accepting.wait_until_over(&acceptor)
    }

    fn process_request(&self, job: Job<S::Transport>) {
        let Some(job) = self.accepting.run_here(job) else {
            return;
        };
        if let Err(job) = self.enqueue(job) {
            self.core().shared().congested();
            self.inner.process_request(job);
        }
    }

    fn capacity(&self) -> Capacity {
        let places = Limit::new(self.places(), self.queue_size.on_limit());
        self.inner.capacity().and(places, LimitKind::Queue)
    }

    fn server_close(&self) {
        // First: what the inner layers do may panic.
        *self.queue.lock() = Queue::Closed;
        let all_ended = self.core().shared().registry.running() == 0;
        for worker in self.threads.lock().drain(..) {
            if all_ended {
                // Jobs catch panics; a worker has nothing left to do but to end.
                let _ = worker.join();
            }
        }
        self.inner.server_close();
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

//! Worker processes that accept for themselves, and a master that keeps their number.

mod master;
mod numbers;
mod process;
mod pulse;
mod replacing;
mod worker;
mod workers;

use std::fmt;
use std::io;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGTTIN, SIGTTOU};

use crate::acceptor::Acceptor;
use crate::error::invalid_input;
use crate::job::Force;
use crate::mutex::Mutex;
use crate::server::{BaseServer, Concurrency};
use crate::sys::{self, Reaction, SignalGuard};

use numbers::Numbers;
use replacing::Replacing;
use workers::Workers;

/// Serves in worker processes that are forked beforehand and accept for themselves: Perl's
/// `Net::Server::PreFork`, whose figures are the defaults here.
///
/// The process that calls `serve_forever` becomes the master. It serves nobody; it keeps the number of
/// workers: those that die are replaced, at once or, if they die before they have served anybody, after a
/// pause of 5 ms that doubles up to 1 s. Each worker serves as the wrapped server does: one request at a
/// time, or in threads. That is the one stack of two strategies that there is:
///
/// ```no_run
/// use std::io::Write;
/// use socketserver::prelude::*;
///
/// # fn main() -> std::io::Result<()> {
/// let greet = |request: &mut TcpRequest| writeln!(request, "process {}", std::process::id());
/// PreForkTcpServer::new("127.0.0.1:8080", greet)
///     .max_workers(20)
///     .shutdown_on_signals([signal::SIGTERM, signal::SIGINT])
///     .serve_forever()?;
///
/// // Two processes with a thread for each connection.
/// PreFork::<ThreadingTcpServer<_>>::new("127.0.0.1:8080", greet).workers(2).serve_forever()?;
/// # Ok(())
/// # }
/// ```
///
/// `PreFork` goes around [`Threading`](crate::Threading) or [`ThreadPool`](crate::ThreadPool), never the
/// other way round, and never around or inside [`Forking`](crate::Forking); the compiler checks.
///
/// # How many
///
/// | | unless set |
/// |---|---|
/// | [`min_workers`](Self::min_workers): so many are started and always kept | 5 |
/// | [`max_workers`](Self::max_workers): there are never more | 50 |
/// | [`min_spare_workers`](Self::min_spare_workers): if fewer wait for a request, more are started | 2 |
/// | [`max_spare_workers`](Self::max_spare_workers): if more wait, one ends each second | 10 |
/// | [`max_requests`](Self::max_requests): after so many a worker is replaced by a fresh one | 1000, and up to a tenth more |
///
/// A worker with threads waits for a request as long as it can take another, whatever it serves meanwhile. Workers that
/// are on their way out, and serve their last requests, do not count.
///
/// A worker that is replaced, or is one too many, drains as a server that stops: connections that have answered a
/// message and wait for the next end, and the rest is cut at the [`drain_timeout`](crate::Config::drain_timeout): if
/// that is zero, the last request of a worker with threads at once. Only one that serves one at a time and has had its
/// [`max_requests`](Self::max_requests) is not hurried: it leaves when its last connection has ended.
///
/// # A process for each request
///
/// With `max_requests(1)` and no jitter each request has a process of its own, as under
/// [`Forking`](crate::Forking), that was forked before the client came: it need not wait for the fork. That is
/// for clients that come one by one. A worker costs half as much again as a child, or more: where many come at
/// once, and go on coming when no worker waits any more, `Forking` serves more of them.
///
/// ```no_run
/// use socketserver::prelude::*;
///
/// # fn main() -> std::io::Result<()> {
/// let server = PreForkTcpServer::new("127.0.0.1:8080", |_: &mut TcpRequest| {});
/// server.workers(32).max_requests(1).max_requests_jitter(0).serve_forever()?;
/// # Ok(())
/// # }
/// ```
///
/// # Signals
///
/// From binding on the master listens to these (signal(7)):
///
/// | | |
/// |---|---|
/// | SIGHUP | replaces all workers, one by one: each new one is ready before an old one stops accepting |
/// | SIGTTIN, SIGTTOU | one worker more, one fewer: moves [`min_workers`](Self::min_workers) and [`max_workers`](Self::max_workers) |
/// | those of [`shutdown_on_signals`](crate::Configure::shutdown_on_signals) | the first drains, the second stops at once; give SIGTERM, and SIGINT or, as other servers of this kind have it, `on_signal(signal::SIGINT, SignalAction::Stop)` |
/// | those of [`on_signal`](crate::Configure::on_signal) | what it says, in the master; for one of the first two rows, beside it |
///
/// A worker hears SIGTERM only: it accepts no more, drains, and is replaced. That a worker has ended the master hears
/// by SIGCHLD, as [`Forking`](crate::Forking) does of its children.
///
/// # The end
///
/// Told to stop, the master tells the workers. They serve what the kernel has queued and end their requests,
/// until [`drain_timeout`](crate::Configure::drain_timeout); then their sockets are shut down, and a second
/// later they are killed. The [`Report`](crate::Report) has the requests of all workers, also of those that
/// were killed: what these had in progress counts as failed, and goes to `handle_error` in the master as
/// [`Cause::Exit`](crate::Cause::Exit); whose it was is known of Internet clients, if a worker serves one request
/// at a time, and else [`Unnamed`](crate::Address::Unnamed). If the master itself is killed, the workers drain and
/// end; one that is busy, and whose handler has left SIGTERM ignored or blocked, learns of it when that request has
/// ended.
///
/// If workers end before they have ever waited for a request, 5 in a row, and none is there that serves,
/// `serve_forever` fails and says why the last one did. Those that descriptors, memory or room for threads were missing
/// for do not count: they are started again, ever more slowly, until there is enough.
///
/// # Limits, and seeing it
///
/// Each worker keeps to the [limits](crate#limit) by itself: of 5 workers with `max_connections(10)` each serves
/// 10. The master's [`stats`](BaseServer::stats) have the counts of all workers and no list of connections; who
/// [closes one](crate::ServerHandle::close_connection) does it in its worker, where a handler's
/// [`handle`](crate::ServerContext::handle) is the worker's own;
/// [`suspend`](crate::ServerHandle::suspend) stops them all.
///
/// # Metrics
///
/// A thread that serves the counts to others [must not be](#memory-and-threads) beside a master. But the master has a
/// loop, where it can handle the requests of a second server, one at each
/// [`poll_interval`](crate::Configure::poll_interval):
///
/// ```no_run
/// use std::io::{BufRead, Write};
/// use std::sync::Arc;
/// use std::time::Duration;
/// use socketserver::prelude::*;
///
/// struct Beside<S, M> {
///     public: S,
///     metrics: Arc<M>,
///     master: u32,
/// }
///
/// impl<S: BaseServer, M: BaseServer> BaseServer for Beside<S, M> {
///     type Transport = S::Transport;
///     type Inner = S;
///     fn inner(&self) -> &S {
///         &self.public
///     }
///
///     fn service_actions(&self) {
///         self.public.service_actions();
///         // The workers come here, too.
///         if std::process::id() == self.master {
///             if let Err(error) = self.metrics.handle_request() {
///                 eprintln!("no metrics: {error}");
///             }
///         }
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let public = PreForkTcpServer::new("127.0.0.1:8080", |_: &mut TcpRequest| {})
///     .poll_interval(Duration::from_millis(100));
/// let handle = public.handle();
/// let metrics = TcpServer::new("127.0.0.1:9100", move |request: &mut TcpRequest| {
///     let mut line = String::new();
///     while request.read_line(&mut line)? > 2 {
///         line.clear();
///     }
///     let stats = handle.stats();
///     write!(
///         request,
///         "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nserved_total {}\nfailed_total {}\nrunning {}\n",
///         stats.served, stats.failed, stats.running
///     )
/// })
/// // Nobody there: the master does not wait.
/// .timeout(Duration::ZERO)
/// // Nor for one who is silent.
/// .request_timeout(Duration::from_secs(1))
/// .bind()?;
/// Beside { public, metrics: Arc::new(metrics), master: std::process::id() }.serve_forever()?;
/// # Ok(())
/// # }
/// ```
///
/// The price: the master and each worker wake up at each of these intervals, and the master sees to its workers and to
/// a shutdown only between such requests. Where a file will do, [`on_signal`](crate::Configure::on_signal) can write
/// one.
///
/// # Memory and threads
///
/// A worker has a copy of the memory: what a handler changes there, the master and the other workers do not see. It is
/// forked without the master's other threads, and a lock that one of them held at that moment stays locked (fork(2)).
/// libc sees to the allocator's; those of a logger, of standard output or of a library stay, and the worker that wants
/// one waits for ever. So serve from the main thread of a program that has started no others; the server warns if there
/// are any. It looks once, when serving starts, but workers are forked as long as it serves: a thread that a hook
/// starts later is as much of a risk, and is not warned of. Threads that a worker starts, in
/// [`worker_init`](Self::worker_init), are no such risk.
///
/// A mix-in's `server_bind`, `server_activate` and `server_close` run in the master, `service_actions` in the master
/// and in each worker, the hooks of requests in the workers. [`handle_request`](BaseServer::handle_request) forks
/// nothing. Only workers are reaped: as process 1 of a container have an init before it, as for
/// [`Forking`](crate::Forking). Of the sockets of other servers in the program a worker has copies, as a
/// [child](crate::Forking#threads) there.
///
/// A worker that is stopped (SIGSTOP) or frozen while it waits for a request does not count as one that hangs. The
/// others serve on, but the client for whom the kernel had woken it in that moment waits until another comes.
pub struct PreFork<S: BaseServer> {
    inner: S,
    numbers: Numbers,
    max_requests: Option<u64>,
    jitter: Option<u64>,
    hang_timeout: Option<Duration>,
    worker_init: Option<Box<WorkerInit>>,
    workers: Mutex<Workers<S::Transport>>,
    replacing: Replacing,
    orders: Orders,
    /// Listened to until closing: from binding on, or, put around a server that was bound before, from serving on.
    signals: Mutex<Vec<SignalGuard>>,
}

type WorkerInit = dyn Fn() -> io::Result<()> + Send + Sync;

/// Signals that have come and that the master has not seen to yet.
#[derive(Debug, Default)]
struct Orders {
    reload: Arc<AtomicU32>,
    more: Arc<AtomicU32>,
    fewer: Arc<AtomicU32>,
}

impl<S: BaseServer> PreFork<S> {
    /// Puts `server` into worker processes. It may have threads and must not fork, which the compiler
    /// checks.
    pub fn over(server: S) -> Self {
        const { no_processes::<S>() };
        PreFork {
            replacing: Replacing::of(server.core().shared()),
            inner: server,
            numbers: Numbers::default(),
            max_requests: Some(1000),
            jitter: None,
            hang_timeout: None,
            worker_init: None,
            workers: Mutex::default(),
            orders: Orders::default(),
            signals: Mutex::default(),
        }
    }

    /// Sets the number of workers: neither fewer nor more. 0 does not bind.
    #[must_use]
    pub fn workers(self, processes: usize) -> Self {
        self.min_workers(processes).max_workers(processes)
    }

    /// Sets how many workers are started, and kept however little there is to do: 5 unless set, at least 1.
    #[must_use]
    pub fn min_workers(mut self, processes: usize) -> Self {
        self.numbers.min = processes;
        self
    }

    /// Sets how many workers there may be: 50 unless set, at least as many as
    /// [`min_workers`](Self::min_workers).
    #[must_use]
    pub fn max_workers(mut self, processes: usize) -> Self {
        self.numbers.max = processes;
        self
    }

    /// Sets how many workers shall wait for a request at any time: 2 unless set.
    #[must_use]
    pub fn min_spare_workers(mut self, processes: usize) -> Self {
        self.numbers.min_spare = processes;
        self
    }

    /// Sets how many workers may wait for a request for long: 10 unless set, at least as many as
    /// [`min_spare_workers`](Self::min_spare_workers).
    #[must_use]
    pub fn max_spare_workers(mut self, processes: usize) -> Self {
        self.numbers.max_spare = processes;
        self
    }

    /// Sets after how many requests a worker is replaced by a fresh one, so that what handlers leak is
    /// bounded: 1000 unless set; `None`: never; 0 is as 1. A worker with threads may accept a few more.
    #[must_use]
    pub fn max_requests(mut self, requests: impl Into<Option<u64>>) -> Self {
        self.max_requests = requests.into();
        self
    }

    /// Sets how many requests more, at random, a worker may serve, so that not all are replaced at once: a
    /// tenth of [`max_requests`](Self::max_requests) unless set.
    #[must_use]
    pub fn max_requests_jitter(mut self, requests: u64) -> Self {
        self.jitter = Some(requests);
        self
    }

    /// Kills a worker, and replaces it, that does not wait for a request and has not got on for this long: none
    /// of its requests has begun, ended, read, written or called
    /// [`heartbeat`](crate::ServerContext::heartbeat). `None`, the default: never. Zero does not bind.
    ///
    /// A worker that waits for a request does not hang, however long it waits. One that serves one request at
    /// a time and waits for a silent client does: for such, set a timeout on the request that is shorter. What
    /// [`worker_init`](Self::worker_init) takes counts, too. A worker that drains is not looked after any more: its
    /// [`drain_timeout`](crate::Config::drain_timeout) ends it. While the master is stopped or frozen, too (SIGSTOP, a
    /// container that is paused), that time does not count, but for up to a quarter of `timeout`.
    #[must_use]
    pub fn hang_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.hang_timeout = timeout.into();
        self
    }

    /// Runs `init` in each worker before it accepts: the place to connect to a database, or to drop
    /// privileges. If it fails or panics, the worker does not start. A handler that changes its user or group later has
    /// Linux forget to tell the worker if the master is killed (`PR_SET_PDEATHSIG`), which learns of it when it has
    /// ended its request then.
    ///
    /// ```
    /// use socketserver::prelude::*;
    ///
    /// let server = PreForkTcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {})
    ///     .worker_init(|| std::env::set_current_dir("/"));
    /// ```
    #[must_use]
    pub fn worker_init(mut self, init: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        self.worker_init = Some(Box::new(init));
        self
    }

    /// How many workers there are now, those that are on their way out included.
    pub fn active_workers(&self) -> usize {
        self.lock_workers().len()
    }

    fn lock_workers(&self) -> MutexGuard<'_, Workers<S::Transport>> {
        self.workers.lock()
    }

    /// Listens to the signals of a master, if it does not yet.
    fn listen_to_signals(&self) -> io::Result<()> {
        let mut signals = self.signals.lock();
        if !signals.is_empty() {
            return Ok(());
        }
        let wakeup = self.core().shared().wakeup()?;
        let count = |count: &Arc<AtomicU32>| Reaction::Count(Arc::clone(count));
        for (signal, action) in [
            (SIGCHLD, Reaction::ChildExited),
            (SIGHUP, count(&self.orders.reload)),
            (SIGTTIN, count(&self.orders.more)),
            (SIGTTOU, count(&self.orders.fewer)),
        ] {
            signals.push(sys::on_signal(signal, Arc::clone(wakeup), action)?);
        }
        Ok(())
    }
}

/// Fails the build of processes in processes. Used as `const { no_processes::<S>() }`.
const fn no_processes<S: BaseServer>() {
    assert!(
        !matches!(S::CONCURRENCY, Concurrency::Processes),
        "PreFork over a server that forks: wrap a bare server, or one in Threading or ThreadPool"
    );
}

construct!(PreFork);

impl<S: BaseServer> BaseServer for PreFork<S> {
    type Transport = S::Transport;
    type Inner = S;

    const CONCURRENCY: Concurrency = Concurrency::Processes;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn server_bind(&self) -> io::Result<()> {
        self.numbers.check()?;
        if self.hang_timeout == Some(Duration::ZERO) {
            return Err(invalid_input(
                "a hang_timeout of zero would kill each worker at once; set none for no limit",
            ));
        }
        self.inner.server_bind()
    }

    fn server_activate(&self) -> io::Result<()> {
        self.inner.server_activate()?;
        self.listen_to_signals()
    }

    fn serve(&self, acceptor: Acceptor<S::Transport>) -> io::Result<()> {
        self.listen_to_signals()?;
        self.manage(&acceptor)
    }

    fn service_actions(&self) {
        // First: what the inner layers do may panic.
        self.collect_workers();
        self.pass_suspension_on();
        self.inner.service_actions();
    }

    fn drain_requests(&self) {
        self.lock_workers().drain();
        self.inner.drain_requests();
    }

    fn terminate_requests(&self, force: Force) {
        match force {
            Force::Terminate => self.lock_workers().force_all(),
            Force::Kill => self.lock_workers().kill_all(),
        }
        self.inner.terminate_requests(force);
    }

    fn server_close(&self) {
        self.reap();
        self.signals.lock().clear();
        self.inner.server_close();
    }
}

impl<S: BaseServer + fmt::Debug> fmt::Debug for PreFork<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreFork")
            .field("inner", &self.inner)
            .field("numbers", &self.numbers)
            .field("active_workers", &self.active_workers())
            .finish_non_exhaustive()
    }
}

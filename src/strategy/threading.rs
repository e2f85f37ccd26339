//! A thread for each request.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::one_strategy;
use super::stack::StackSize;
use super::threads::Threads;
use crate::acceptor::Acceptor;
use crate::error::invalid_input;
use crate::job::Job;
use crate::limits::{Capacity, Limit, LimitKind};
use crate::server::{BaseServer, Concurrency};

/// Runs each request in a thread of its own: Python's `ThreadingMixIn`.
///
/// Under [`serve_forever`](BaseServer::serve_forever) threads are kept from one request to the next and
/// accept for themselves: what a thread has accepted it serves, without a hand-over, and it sees to it
/// that another accepts in the meantime. A thread that has had nothing to do for ten seconds ends.
///
/// There is no limit to the number of threads but [`max_threads`](Self::max_threads). When the system has
/// no room for another, the accept loop serves the request itself, and then, if others run whose end makes room,
/// accepts more slowly until there is.
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
pub struct Threading<S: BaseServer> {
    inner: S,
    max_threads: Option<Limit>,
    threads: Arc<Threads<S::Transport>>,
}

impl<S: BaseServer> Threading<S> {
    /// Gives `server` this strategy. It must not have one already, which the compiler checks.
    pub fn over(server: S) -> Self {
        const { one_strategy::<S>() };
        Threading {
            inner: server,
            max_threads: None,
            threads: Arc::new(Threads::new(StackSize::default())),
        }
    }

    /// Sets how many threads may serve requests at once: no limit unless set; with 0 the server does not
    /// bind. Those that accept come on top, at most four. A plain number [waits](crate::OnLimit::Wait).
    #[must_use]
    pub fn max_threads(mut self, threads: impl Into<Limit>) -> Self {
        self.max_threads = Some(threads.into());
        self
    }

    /// Sets how large the stacks of the threads are, in bytes: Python's `threading.stack_size`. Unless set they are as
    /// large as the standard library makes them: 2 MiB, or what the environment variable `RUST_MIN_STACK` says. With
    /// less than 64 KiB the server does not bind, nor with more than the system has room for in one piece.
    ///
    /// A stack takes addresses, and memory only as far as it was used: about 12 KiB with a handler that needs little.
    /// Of stacks of 64 to 256 KiB several share a page of the page tables, so that each thread takes 4 KB less, a
    /// tenth; it pays with thousands of connections that are idle. The handler must fit, in debug builds and while it
    /// panics, too: one that does not ends the whole program.
    ///
    /// ```
    /// use socketserver::prelude::*;
    ///
    /// let server = ThreadingTcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {}).stack_size(256 * 1024);
    /// ```
    #[must_use]
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.threads = Arc::new(Threads::new(StackSize(Some(bytes))));
        self
    }

    /// Not inlined: the stacks of the threads that there are need no room for it.
    #[inline(never)]
    fn run_without_thread(&self, job: Job<S::Transport>, error: &io::Error) {
        log::debug!(
            "no thread for {}: {error}; serving it on the accept loop",
            job.client_address()
        );
        self.core().shared().congested();
        self.inner.process_request(job);
    }
}

construct!(Threading);

impl<S: BaseServer> BaseServer for Threading<S> {
    type Transport = S::Transport;
    type Inner = S;

    const CONCURRENCY: Concurrency = Concurrency::Threads;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn server_bind(&self) -> io::Result<()> {
        if self.max_threads.is_some_and(|limit| limit.max() == 0) {
            let text = "a threading server of 0 threads would never serve anybody: set max_threads to 1 or more";
            return Err(invalid_input(text));
        }
        self.threads.stack_size().check()?;
        self.inner.server_bind()
    }

    fn capacity(&self) -> Capacity {
        let inner = self.inner.capacity();
        self.max_threads
            .map_or(inner, |limit| inner.and(limit, LimitKind::Threads))
    }

    fn serve(&self, acceptor: Acceptor<S::Transport>) -> io::Result<()> {
        self.threads.serve(acceptor)
    }

    fn process_request(&self, job: Job<S::Transport>) {
        if let Err((job, error)) = self.threads.run(job) {
            self.run_without_thread(job, &error);
        }
    }

    fn server_close(&self) {
        // First: what the inner layers do may panic.
        let all_ended = self.core().shared().registry.running() == 0;
        self.threads.close(all_ended);
        self.inner.server_close();
    }
}

impl<S: BaseServer + fmt::Debug> fmt::Debug for Threading<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threading")
            .field("inner", &self.inner)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

//! A process for each request.

use std::fmt;
use std::io;
use std::sync::{Arc, MutexGuard};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::SIGCHLD;

use super::{exit_status, one_strategy};
use crate::error::invalid_input;
use crate::job::{Force, Job, Remote};
use crate::limits::{Capacity, Limit, LimitKind};
use crate::mutex::Mutex;
use crate::panics::guarded;
use crate::request::about_to_fork;
use crate::server::{BaseServer, Concurrency};
use crate::sys::{self, Fork, Reaction, SignalGuard};
use crate::transport::Transport;

/// Runs each request in a process of its own: Python's `ForkingMixIn`.
///
/// * The child runs the handler and ends with status 0, or 1 if it failed (the error goes to
///   `handle_error` in the child). It never returns into your code: destructors and exit handlers of the
///   parent do not run. It has closed the listening socket (not that of a datagram server, through which it replies).
/// * The signals that the server listens to, and SIGTERM, do the default in the child, except SIGINT, which a terminal
///   sends to the whole group: the parent decides. A server that a handler starts there hears of its own signals again;
///   what else listens by `signal-hook` (`tokio::process` to SIGCHLD) does not, so it is better a program of its own.
/// * The parent reaps children as they end, and only its own: other children of the program are left to
///   whoever started them. (As process 1 of a container the program also gets the orphans of others, such as what a
///   handler has started and left behind, and they stay zombies: have an init there, as `docker run --init`.)
///   It hears of them by SIGCHLD, from binding on: who sets another action for that later takes it away (through
///   `signal-hook`, beside it, one may listen, too).
///   A child that was killed, or ended with another status, goes to
///   `handle_error` as [`Cause::Exit`](crate::Cause::Exit), in the parent.
/// * At [`max_children`](Self::max_children) the server stops accepting until one has ended, unless told to
///   reject. When the system has no room for another process, the request that it was for fails, and the server accepts
///   more slowly until there is; so have `max_children` below what the program may have (`ulimit -u`, `pids.max` of a
///   control group, systemd's `TasksMax`).
/// * What a child has started itself, such as a command that has the connection, is not ended with it.
/// * A child has a copy of the memory: what a handler changes there, the parent does not see.
///
/// Children that are forked ahead, so that no client waits for a fork, are workers that serve one request each:
/// [`PreFork`](crate::PreFork#a-process-for-each-request).
///
/// # Threads
///
/// A child has only the thread that forked, and a lock that another thread held at that moment stays
/// locked in it for ever (fork(2), `pthread_atfork(3)`). So does what listens to signals, if one was just coming to
/// another thread: a server that a handler makes in that child never ends binding, and keeps a processor busy. Serve
/// from the main thread of a program that has started no others; the server warns if there are any, and
/// [`PreFork`](crate::PreFork#memory-and-threads) says more.
/// A second server in the program, for metrics, say, needs [no thread](crate::PreFork#metrics) here either.
///
/// It has copies of the sockets of other servers in the program, too. Their clients do not notice; but the address of a
/// datagram server, of a Unix server with an abstract name, or of a TCP server without
/// [`allow_reuse_address`](crate::Configure::allow_reuse_address), that has ended stays taken until the child has
/// ended, too (and in a [group](crate::Configure::allow_reuse_port) of UDP sockets still gets its share of what is
/// sent). And who connects to a socket made elsewhere ([`with_transport`](crate::SocketServer::with_transport)) whose
/// server has ended waits in its queue so long, as for any other process that has it.
///
/// ```no_run
/// use std::io::Write;
/// use socketserver::prelude::*;
///
/// # fn main() -> std::io::Result<()> {
/// ForkingTcpServer::new("127.0.0.1:8080", |request: &mut TcpRequest| {
///     writeln!(request, "process {}", std::process::id())
/// })
/// .max_children(100)
/// .serve_forever()?;
/// # Ok(())
/// # }
/// ```
pub struct Forking<S: BaseServer> {
    /// Dropped first: who hears of the ends of requests goes with the inner server.
    children: Mutex<Vec<Child<S::Transport>>>,
    inner: S,
    max_children: Limit,
    /// Listens to SIGCHLD until closing: from binding on, or, put around a server that was bound before, from the first
    /// child on.
    signal: Mutex<Option<SignalGuard>>,
}

/// A process that serves a request.
struct Child<T: Transport> {
    pid: Pid,
    request: Remote<T>,
}

impl<S: BaseServer> Forking<S> {
    /// Gives `server` this strategy. It must not have one already, which the compiler checks.
    pub fn over(server: S) -> Self {
        const { one_strategy::<S>() };
        Forking {
            children: Mutex::default(),
            inner: server,
            max_children: Limit::wait(40),
            signal: Mutex::default(),
        }
    }

    /// Sets how many children there may be at once: 40 unless set, as in Python; with 0 the server does
    /// not bind. A plain number [waits](crate::OnLimit::Wait).
    #[must_use]
    pub fn max_children(mut self, processes: impl Into<Limit>) -> Self {
        self.max_children = processes.into();
        self
    }

    /// How many children there are now: Python's `active_children`, whose content is nobody else's matter.
    pub fn active_children(&self) -> usize {
        self.children().len()
    }

    fn children(&self) -> MutexGuard<'_, Vec<Child<S::Transport>>> {
        self.children.lock()
    }

    /// Listens to the ends of children, if it does not yet.
    fn listen(&self) -> io::Result<()> {
        let mut signal = self.signal.lock();
        if signal.is_none() {
            let wakeup = self.core().shared().wakeup()?;
            *signal = Some(sys::on_signal(SIGCHLD, Arc::clone(wakeup), Reaction::ChildExited)?);
            // One may have ended before.
            wakeup.child_signal();
        }
        Ok(())
    }

    /// Reaps the children that have ended: Python's `collect_children`. Never waits, never asks for a
    /// process that is not ours. Nothing is asked at all unless some child of the program has ended.
    fn collect_children(&self) {
        if self.core().shared().take_child_exited() {
            self.reap();
        }
    }

    fn reap(&self) {
        let mut ended = Vec::new();
        let mut children = self.children();
        let mut next = 0;
        while next < children.len() {
            match exit_status(children[next].pid) {
                None => next += 1,
                Some(status) => ended.push((children.swap_remove(next), status)),
            }
        }
        drop(children);
        for (child, status) in ended {
            child.request.ended(child.pid.as_raw(), status);
        }
    }

    /// Tells the children to end whose requests are to be closed.
    fn end_condemned(&self) {
        let condemned = self.core().shared().registry.take_condemned();
        if !condemned.is_empty() {
            self.signal_children(Signal::SIGTERM, |child| condemned.contains(&child.request.number()));
        }
    }

    /// Children are reaped under the same lock: none of these pids can be another process by now.
    fn signal_children(&self, signal: Signal, which: impl Fn(&Child<S::Transport>) -> bool) {
        for child in self.children().iter().filter(|child| which(child)) {
            let _ = kill(child.pid, signal);
        }
    }

    /// In the child: runs the request and ends the process.
    fn run_child(&self, job: Job<S::Transport>, mask: SigSet) -> ! {
        // Hooks and handlers do not panic, their panics are caught, but what else may would leave here a second server.
        let served = guarded("a request's process", || {
            self.core().enter_child(mask);
            job.run_inline()
        });
        sys::exit_now(i32::from(served != Some(true)))
    }
}

/// Of a server that was never closed, what has ended leaves no zombie. What still runs is not waited for.
impl<S: BaseServer> Drop for Forking<S> {
    fn drop(&mut self) {
        self.reap();
    }
}

construct!(Forking);

impl<S: BaseServer> BaseServer for Forking<S> {
    type Transport = S::Transport;
    type Inner = S;

    const CONCURRENCY: Concurrency = Concurrency::Processes;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn server_bind(&self) -> io::Result<()> {
        if self.max_children.max() == 0 {
            let text = "a forking server of 0 children would never serve anybody: set max_children to 1 or more";
            return Err(invalid_input(text));
        }
        self.inner.server_bind()
    }

    fn server_activate(&self) -> io::Result<()> {
        self.inner.server_activate()?;
        self.listen()
    }

    fn process_request(&self, mut job: Job<S::Transport>) {
        about_to_fork();
        job.begin_before_fork();
        // Held over the fork: another thread must not look which children have ended, or tell them something, before
        // this one is among them. In the child, a lock that another thread held would stay locked.
        let mut children = self.children();
        match sys::fork() {
            Ok(Fork::Child(mask)) => {
                drop(children);
                self.run_child(job, mask)
            }
            Ok(Fork::Parent(pid)) => {
                job.leave_to_child(move |request| children.push(Child { pid, request }));
                // After the fork, as the children: what is written before it is copied once more.
                if let Err(error) = self.listen() {
                    log::warn!("children are not reaped before the server ends: {error}");
                }
            }
            Err(error) => {
                drop(children);
                self.core().shared().congested();
                job.fail_with(error);
            }
        }
    }

    fn service_actions(&self) {
        // First: what the inner layers do may panic.
        self.end_condemned();
        self.collect_children();
        self.inner.service_actions();
    }

    fn capacity(&self) -> Capacity {
        self.inner.capacity().and(self.max_children, LimitKind::Children)
    }

    fn drain_requests(&self) {
        self.signal_children(sys::NUDGE, |_| true);
        self.inner.drain_requests();
    }

    fn terminate_requests(&self, force: Force) {
        let signal = match force {
            Force::Terminate => Signal::SIGTERM,
            Force::Kill => Signal::SIGKILL,
        };
        self.signal_children(signal, |_| true);
        self.inner.terminate_requests(force);
    }

    fn server_close(&self) {
        self.reap();
        *self.signal.lock() = None;
        self.inner.server_close();
    }
}

impl<S: BaseServer + fmt::Debug> fmt::Debug for Forking<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forking")
            .field("inner", &self.inner)
            .field("max_children", &self.max_children)
            .field("active_children", &self.active_children())
            .finish_non_exhaustive()
    }
}

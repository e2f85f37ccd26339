//! One request on its way through the hooks.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitStatus;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::address::Address;
use crate::error::{Cause, HandlerError, Phase, RequestError};
use crate::hooks::{Hooks, Outermost};
use crate::lifecycle::Ticket;
use crate::limits::Verdict;
use crate::observer::{Event, Outcome};
use crate::panics::{caught, discard};
use crate::request::Request;
#[cfg(doc)]
use crate::server::BaseServer;
use crate::timeouts::Timeouts;
use crate::transport::Transport;

/// How requests that do not end by themselves are made to;
/// see [`terminate_requests`](BaseServer::terminate_requests).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Force {
    /// Sockets are shut down both ways; children get SIGTERM.
    Terminate,
    /// Children get SIGKILL. A thread cannot be killed.
    Kill,
}

/// The active part of a request: what [`finish_request`](BaseServer::finish_request) works on.
///
/// ```
/// use std::time::Instant;
/// use socketserver::Active;
/// use socketserver::prelude::*;
///
/// /// Prints how long each handler took.
/// struct Timing<S>(S);
///
/// impl<S: BaseServer> BaseServer for Timing<S> {
///     type Transport = S::Transport;
///     type Inner = S;
///     fn inner(&self) -> &S {
///         &self.0
///     }
///
///     fn finish_request(&self, active: &mut Active<S::Transport>) -> HandlerResult {
///         let begun = Instant::now();
///         let result = self.inner().finish_request(active);
///         println!("{}: {:?}", active.client_address(), begun.elapsed());
///         result
///     }
/// }
///
/// let server = Timing(ThreadingTcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {}));
/// ```
pub struct Active<T: Transport> {
    pub(crate) request: T::Request,
    pub(crate) phase: Phase,
    /// Its time has begun.
    pub(crate) begun: bool,
}

impl<T: Transport> Active<T> {
    /// The request.
    pub fn request(&self) -> &T::Request {
        &self.request
    }

    /// The request, to read or write.
    pub fn request_mut(&mut self) -> &mut T::Request {
        &mut self.request
    }

    /// Whose request it is.
    pub fn client_address(&self) -> &Address {
        self.request.client_address()
    }

    /// Its time begins, if it has not yet.
    pub(crate) fn begin(&mut self, timeouts: Timeouts) -> io::Result<()> {
        if !self.begun {
            self.request.begin(timeouts)?;
            self.begun = true;
        }
        Ok(())
    }
}

impl<T: Transport> fmt::Debug for Active<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Active")
            .field("client_address", self.client_address())
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

/// One request that has been accepted and verified, to be run wherever and whenever a strategy decides.
///
/// A job owns its connection and its place in the count of requests. Whatever becomes of it (it runs,
/// panics, is dropped in a queue), the connection is closed and it is counted, exactly once.
///
/// A strategy of one's own is a [`process_request`](BaseServer::process_request) that calls
/// [`run`](Self::run) elsewhere:
///
/// ```
/// use socketserver::prelude::*;
///
/// struct Detached<S>(S);
///
/// impl<S: BaseServer> BaseServer for Detached<S> {
///     type Transport = S::Transport;
///     type Inner = S;
///     const CONCURRENCY: Concurrency = Concurrency::Threads;
///     fn inner(&self) -> &S {
///         &self.0
///     }
///     fn process_request(&self, job: Job<S::Transport>) {
///         std::thread::spawn(move || job.run());
///     }
/// }
/// let server = Detached(TcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {}));
/// ```
pub struct Job<T: Transport> {
    server: Outermost<T>,
    /// Present until the job has run or was left to another process.
    parts: Option<Parts<T>>,
}

/// On the heap: a job goes through the hands of many, and what each of them had room for would stay on the stack
/// below the handler, for as long as that runs.
type Parts<T> = Box<(Active<T>, Ticket)>;

/// Why the parts are there.
const WHOLE: &str = "a job has its request until it is consumed";

impl<T: Transport> Job<T> {
    /// A request has come: gives it its number and context.
    #[inline]
    pub(crate) fn accepted(server: &Outermost<T>, mut request: T::Request, mut ticket: Ticket) -> Self {
        request.attach(ticket.assign());
        let active = Active {
            request,
            phase: Phase::Verify,
            begun: false,
        };
        let job = Self::new(server, active, ticket);
        job.observe(|number, client_address| Event::Accepted { number, client_address });
        job
    }

    #[inline]
    pub(crate) fn new(server: &Outermost<T>, active: Active<T>, ticket: Ticket) -> Self {
        Job {
            server: Arc::clone(server),
            parts: Some(Box::new((active, ticket))),
        }
    }

    /// What the limits say to it.
    pub(crate) fn ask_limits(&mut self) -> Verdict {
        let (active, ticket) = self.parts.as_deref_mut().expect(WHOLE);
        ticket.admit(&active.request, self.server.capacity())
    }

    fn parts(&self) -> &(Active<T>, Ticket) {
        self.parts.as_deref().expect(WHOLE)
    }

    #[expect(clippy::unnecessary_box_returns, reason = "as they are kept: see `Parts`")]
    fn take_parts(&mut self) -> Parts<T> {
        self.parts.take().expect(WHOLE)
    }

    /// Apart: it is not to be a job, or not yet.
    pub(crate) fn into_parts(mut self) -> (Outermost<T>, Active<T>, Ticket) {
        let (active, ticket) = *self.take_parts();
        (Arc::clone(&self.server), active, ticket)
    }

    /// The limits have let it in: tells so.
    pub(crate) fn started(self) -> Self {
        self.observe(|number, client_address| Event::Started { number, client_address });
        self
    }

    /// Tells an event of this request, given its number and whose it is.
    pub(crate) fn observe<'a>(&'a self, event: impl FnOnce(u64, &'a Address) -> Event<'a>) {
        let (active, ticket) = self.parts();
        let of_this = || event(ticket.number(), active.client_address());
        ticket.shared().observe(of_this);
    }

    /// Whose request it is.
    pub fn client_address(&self) -> &Address {
        self.active().client_address()
    }

    /// The request.
    pub fn request(&self) -> &T::Request {
        &self.active().request
    }

    fn active(&self) -> &Active<T> {
        &self.parts().0
    }

    /// Runs the request to its end on this thread: `finish_request`, `handle_error` if that fails,
    /// `shutdown_request`, `close_request`, each through the outermost server. True if it succeeded.
    ///
    /// Once the patience of a drain is over the handler is not begun any more: the job is dropped.
    pub fn run(mut self) -> bool {
        if self.is_too_late() {
            return false;
        }
        let mut parts = self.take_parts();
        self.begin_on_loop(&mut parts);
        let (active, ticket) = &mut *parts;
        let _busy = ticket.shared().enter();
        ticket.begin();
        let outcome = self.finish(active, ticket);
        self.close_after_run(parts, outcome);
        outcome == Outcome::Served
    }

    /// It was queued, or kept, until its socket was shut down.
    fn is_too_late(&self) -> bool {
        self.server.core().shared().is_forced()
    }

    /// As [`run`](Self::run), on the thread that accepts: it cannot see to the drain meanwhile, so the
    /// request can be told and ended from outside.
    pub(crate) fn run_inline(mut self) -> bool {
        begin_inline(self.parts.as_deref_mut().expect(WHOLE));
        self.run()
    }

    /// As [`run`](Self::run), on a thread that waits until it is given another.
    pub(crate) fn run_handed_over(self) {
        let shared = Arc::clone(self.server.core().shared());
        self.run();
        shared.exit_if_copy_of_worker();
    }

    /// A mix-in runs it on the thread that accepts, perhaps in the parent of a forking server, whose loop is never busy
    /// otherwise.
    fn begin_on_loop(&self, parts: &mut (Active<T>, Ticket)) {
        let ticket = &parts.1;
        if ticket.shared().is_loop() && !ticket.is_inline() {
            if self.server.forks() {
                self.server.core().keep_deadline();
            }
            begin_inline(parts);
        }
    }

    fn finish(&self, active: &mut Active<T>, ticket: &Ticket) -> Outcome {
        // Here, because a finish_request of the program's own may run another handler than the server's.
        active.phase = Phase::Handle;
        let finish = AssertUnwindSafe(|| {
            active.begin(self.server.core().timeouts())?;
            self.server.finish_request(active)
        });
        match catch_unwind(finish) {
            Ok(Ok(())) => Outcome::Served,
            Ok(Err(error)) => self.report(active, ticket, Cause::Error(error)),
            Err(payload) => self.report(active, ticket, Cause::Panic(payload)),
        }
    }

    /// Not inlined, nor is what closes: else the stack below each handler has room for what they need.
    #[inline(never)]
    fn report(&self, active: &Active<T>, ticket: &Ticket, cause: Cause) -> Outcome {
        let client_address = ticket.client_address();
        let client_address = client_address.unwrap_or_else(|| active.client_address().clone());
        let error = RequestError::new(active.phase, client_address, cause);
        self.server.handle_error(&error);
        // The error is the program's own, and so is what says what is behind it.
        if let Ok(Some(timeout)) = caught(|| error.timeout().copied()) {
            let (number, client_address) = (ticket.number(), error.client_address());
            ticket.shared().observe(|| Event::TimedOut {
                number,
                client_address,
                timeout,
            });
        }
        let outcome = error.outcome();
        discard(error);
        outcome
    }

    /// On the request's own thread, which may wait for its client.
    #[inline(never)]
    fn close_after_run(&self, mut parts: Parts<T>, outcome: Outcome) {
        self.server.shutdown_request(&mut parts.0.request);
        parts.0.request.linger();
        self.release(parts, outcome);
    }

    #[inline(never)]
    fn close(&self, mut parts: Parts<T>, outcome: Outcome) {
        self.server.shutdown_request(&mut parts.0.request);
        self.release(parts, outcome);
    }

    #[expect(
        clippy::boxed_local,
        reason = "it is there, and whoever calls has no room for it on the stack"
    )]
    fn release(&self, mut parts: Parts<T>, outcome: Outcome) {
        parts.1.forget_socket();
        let (active, ticket) = *parts;
        self.server.close_request(active.request);
        ticket.ended(outcome);
    }

    /// Asks the outermost `verify_request`. Refused, the request is shut down and closed; `None`.
    pub(crate) fn verify(mut self) -> Option<Self> {
        let (active, ticket) = self.parts.as_deref_mut().expect(WHOLE);
        let verdict = catch_unwind(AssertUnwindSafe(|| {
            self.server
                .verify_request(&active.request, active.request.client_address())
        }));
        match verdict {
            Ok(true) => {
                active.phase = Phase::Process;
                return Some(self);
            }
            Ok(false) => self.refuse(),
            Err(payload) => {
                // Counted as one that has failed, and so has started.
                ticket.start(&active.request);
                self.started().fail(Cause::Panic(payload));
            }
        }
        None
    }

    fn refuse(mut self) {
        self.observe(|number, client_address| Event::Refused { number, client_address });
        let (mut active, ticket) = *self.take_parts();
        // Before the client knows.
        ticket.refused();
        self.server.shutdown_request(&mut active.request);
        self.server.close_request(active.request);
    }

    /// It was accepted in time, but is not begun any more: its handler would find a connection that has ended. It has
    /// been counted, so its end is told here, and not by its ticket.
    pub(crate) fn drop_late(self) {
        let (active, ticket) = self.parts();
        let (number, client_address) = (ticket.number(), active.client_address().clone());
        let shared = Arc::clone(ticket.shared());
        log::warn!("the time to drain is over: {client_address} was accepted too late and is lost");
        drop(self.started());
        shared.observe(|| Event::Finished {
            number,
            client_address: &client_address,
            waited: Duration::ZERO,
            duration: Duration::ZERO,
            outcome: Outcome::Dropped,
        });
    }

    /// Ends the request without running it: the error is reported, the connection closed.
    pub(crate) fn fail_with(self, error: impl Into<HandlerError>) {
        self.fail(Cause::Error(error.into()));
    }

    fn fail(mut self, cause: Cause) {
        let parts = self.take_parts();
        let _busy = parts.1.shared().enter();
        let outcome = self.report(&parts.0, &parts.1, cause);
        self.close(parts, outcome);
    }

    /// The time of the request begins before a child runs it: what a child runs or writes to for the first time costs
    /// it a page fault, and those are most of what a fork costs.
    pub(crate) fn begin_before_fork(&mut self) {
        let (active, _) = self.parts.as_deref_mut().expect(WHOLE);
        // What goes wrong is tried again in the child, and reported there.
        let _ = active.begin(self.server.core().timeouts());
    }

    /// This process has nothing more to do with the connection: a child serves it. Gives away what is needed to count
    /// it when the child has ended, and closes it here.
    pub(crate) fn leave_to_child(mut self, keep: impl FnOnce(Remote<T>)) {
        let (active, mut ticket) = *self.take_parts();
        ticket.leave_to_child();
        keep(Remote {
            server: Arc::downgrade(&self.server),
            client_address: active.client_address().clone(),
            ticket,
        });
        self.server.close_request(active.request);
    }
}

fn begin_inline<T: Transport>((active, ticket): &mut (Active<T>, Ticket)) {
    if let Some(master) = ticket.shared().master() {
        master.serves(active.client_address());
    }
    ticket.begin_inline(active.request.socket());
}

/// Dropped without having run, a job closes its connection and counts as failed.
impl<T: Transport> Drop for Job<T> {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take() {
            let _busy = parts.1.shared().enter();
            self.close(parts, Outcome::Dropped);
        }
    }
}

impl<T: Transport> fmt::Debug for Job<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("active", &self.parts.as_ref().map(|parts| &parts.0))
            .finish_non_exhaustive()
    }
}

/// A request that another process serves.
pub(crate) struct Remote<T: Transport> {
    /// Its strategy keeps this value, and is a part of that: it would keep itself.
    server: Weak<dyn Hooks<T>>,
    client_address: Address,
    ticket: Ticket,
}

impl<T: Transport> Remote<T> {
    /// The number of its request.
    pub(crate) fn number(&self) -> u64 {
        self.ticket.number()
    }

    /// Its process has ended. What the child's handler did wrong was reported in the child (status 1);
    /// any other end is reported here.
    pub(crate) fn ended(self, process: i32, status: ExitStatus) {
        let number = Some(self.number());
        self.ticket.shared().observe(|| Event::ChildExited {
            number,
            process,
            status,
        });
        let outcome = match status.code() {
            Some(0) => Outcome::Served,
            Some(1) => Outcome::Failed,
            _ => {
                let error = RequestError::new(Phase::Handle, self.client_address, Cause::Exit(status));
                if let Some(server) = self.server.upgrade() {
                    server.handle_error(&error);
                }
                error.outcome()
            }
        };
        self.ticket.ended(outcome);
    }
}

/// Runs the outermost `process_request`, which may panic without ending the loop: the job it owned is
/// closed by its own drop.
pub(crate) fn process<T: Transport>(server: &Outermost<T>, job: Job<T>) {
    let client_address = job.client_address().clone();
    let _busy = server.core().shared().enter();
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| server.process_request(job))) {
        let error = RequestError::new(Phase::Process, client_address, Cause::Panic(payload));
        server.handle_error(&error);
        discard(error);
    }
}

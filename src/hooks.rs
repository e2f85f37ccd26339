//! The hooks of a server whose type is erased.

use std::any::TypeId;
use std::io;
use std::sync::Arc;

use crate::address::Address;
use crate::error::{HandlerResult, RequestError};
use crate::job::{Active, Force, Job};
use crate::limits::{Capacity, LimitKind};
use crate::panics::{guarded, panic_as_error};
use crate::server::{BaseServer, Concurrency, Core};
use crate::transport::Transport;

/// The outermost layer of a stack.
pub(crate) type Outermost<T> = Arc<dyn Hooks<T>>;

/// The hooks of the outermost server, with its type erased: what a [`Job`] and an
/// [`Acceptor`](crate::Acceptor) call, so that a mix-in's override takes effect whichever side of the
/// strategy it stands on.
pub(crate) trait Hooks<T: Transport>: Send + Sync {
    fn core(&self) -> &Core<T>;
    /// Whether requests run in processes of their own.
    fn forks(&self) -> bool;
    fn capacity(&self) -> Capacity;
    fn service_actions(&self);
    fn get_request(&self) -> io::Result<T::Request>;
    fn verify_request(&self, request: &T::Request, client_address: &Address) -> bool;
    fn reject_request(&self, request: &mut T::Request, limit: LimitKind);
    fn process_request(&self, job: Job<T>);
    fn finish_request(&self, active: &mut Active<T>) -> HandlerResult;
    fn shutdown_request(&self, request: &mut T::Request);
    fn close_request(&self, request: T::Request);
    fn handle_error(&self, error: &RequestError);
    fn drain_requests(&self);
    fn terminate_requests(&self, force: Force);
    fn server_close(&self);
}

impl<S: BaseServer> Hooks<S::Transport> for S {
    fn core(&self) -> &Core<S::Transport> {
        BaseServer::core(self)
    }

    fn forks(&self) -> bool {
        S::CONCURRENCY == Concurrency::Processes
    }

    fn capacity(&self) -> Capacity {
        // The attributes' limit, in which no layer has a say.
        guarded("capacity", || BaseServer::capacity(self)).unwrap_or_else(|| BaseServer::core(self).capacity())
    }

    /// And what signals ask for: both are done at each turn of the accept loop, and while it drains. Children are
    /// reaped although a layer outside of their strategy panics.
    fn service_actions(&self) {
        BaseServer::core(self).run_signal_actions();
        guarded_through(
            self,
            "service_actions",
            BaseServer::service_actions,
            Hooks::service_actions,
        );
    }

    fn get_request(&self) -> io::Result<<S::Transport as Transport>::Request> {
        // As an error unknown to the accept loop: it goes on after a pause.
        panic_as_error("get_request panicked", || BaseServer::get_request(self))
    }

    fn verify_request(&self, request: &<S::Transport as Transport>::Request, client_address: &Address) -> bool {
        BaseServer::verify_request(self, request, client_address)
    }

    fn reject_request(&self, request: &mut <S::Transport as Transport>::Request, limit: LimitKind) {
        guarded("reject_request", || {
            BaseServer::reject_request(self, request, limit);
        });
    }

    fn process_request(&self, job: Job<S::Transport>) {
        BaseServer::process_request(self, job);
    }

    fn finish_request(&self, active: &mut Active<S::Transport>) -> HandlerResult {
        BaseServer::finish_request(self, active)
    }

    fn shutdown_request(&self, request: &mut <S::Transport as Transport>::Request) {
        guarded("shutdown_request", || BaseServer::shutdown_request(self, request));
    }

    fn close_request(&self, request: <S::Transport as Transport>::Request) {
        guarded("close_request", || BaseServer::close_request(self, request));
    }

    fn handle_error(&self, error: &RequestError) {
        guarded("handle_error", || BaseServer::handle_error(self, error));
    }

    fn drain_requests(&self) {
        guarded_through(
            self,
            "drain_requests",
            BaseServer::drain_requests,
            Hooks::drain_requests,
        );
    }

    fn terminate_requests(&self, force: Force) {
        let run = |server: &S| BaseServer::terminate_requests(server, force);
        let inside = |inner: &S::Inner| Hooks::terminate_requests(inner, force);
        guarded_through(self, "terminate_requests", run, inside);
    }

    fn server_close(&self) {
        guarded_through(self, "server_close", BaseServer::server_close, Hooks::server_close);
    }
}

/// Runs a hook that is the inner layers' matter, too, which have children and threads: if it panics, theirs is called,
/// perhaps once more.
fn guarded_through<S: BaseServer>(server: &S, hook: &str, run: impl FnOnce(&S), inside: impl FnOnce(&S::Inner)) {
    let is_bottom = TypeId::of::<S>() == TypeId::of::<S::Inner>();
    if guarded(hook, || run(server)).is_none() && !is_bottom {
        inside(server.inner());
    }
}

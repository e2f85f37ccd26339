//! Where and when requests run: Python's mix-ins.

/// How a strategy is made from an address and a handler: `new`, and what [`Construct`](crate::Construct) asks
/// for. In a macro, because it is the same for each and none can inherit it.
macro_rules! construct {
    ($strategy:ident) => {
        impl<S: crate::Construct> $strategy<S> {
            /// A server for `address`; never fails, see [`SocketServer::new`](crate::SocketServer::new).
            pub fn new(address: impl Into<crate::Address>, handler: S::Handler) -> Self {
                crate::Construct::construct(address.into(), handler)
            }
        }

        impl<S: crate::Construct> crate::Construct for $strategy<S> {
            type Handler = S::Handler;

            fn construct(address: crate::Address, handler: S::Handler) -> Self {
                Self::over(S::construct(address, handler))
            }

            fn request_handler_class(&self) -> &S::Handler {
                self.inner.request_handler_class()
            }
        }
    };
}

mod accepting;
mod forking;
mod prefork;
mod stack;
#[cfg(doctest)]
mod stacked;
mod thread_pool;
mod threading;
mod threads;

pub use forking::Forking;
pub use prefork::PreFork;
pub use thread_pool::ThreadPool;
pub use threading::Threading;

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::server::{BaseServer, Concurrency};
use crate::sys;

/// Strategies as adaptors, as iterators have them: `TcpServer::new(addr, h).threading()`.
///
/// Two strategies in one stack do not build:
///
/// ```compile_fail
/// use socketserver::prelude::*;
///
/// fn main() {
///     let server = TcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {}).threading().forking();
/// }
/// ```
pub trait Strategies: BaseServer {
    /// Each request in a thread of its own.
    fn threading(self) -> Threading<Self> {
        Threading::over(self)
    }

    /// Each request in a process of its own.
    fn forking(self) -> Forking<Self> {
        Forking::over(self)
    }

    /// Requests in a fixed number of threads.
    fn thread_pool(self) -> ThreadPool<Self> {
        ThreadPool::over(self)
    }

    /// Requests in processes that are there before them. The one strategy that goes around another:
    /// `.threading().prefork()`.
    fn prefork(self) -> PreFork<Self> {
        PreFork::over(self)
    }
}

impl<S: BaseServer> Strategies for S {}

/// Fails the build of a strategy over another. Used as `const { one_strategy::<S>() }`.
const fn one_strategy<S: BaseServer>() {
    assert!(
        matches!(S::CONCURRENCY, Concurrency::None),
        "two strategies in one stack: wrap a bare server, or mix-ins over one, in exactly one of Threading, \
         Forking, ThreadPool; only PreFork goes around another, Threading or ThreadPool"
    );
}

/// So many processes and threads there can be at most (`PID_MAX_LIMIT`, proc(5)).
const MOST_TASKS: usize = 1 << 22;

/// How a child of ours ended; `None` while it runs.
fn exit_status(pid: Pid) -> Option<ExitStatus> {
    match sys::reap(pid) {
        Ok(status) => status,
        Err(Errno::ECHILD) => {
            log::warn!("child {pid} was reaped by another part of this program; what it served counts as failed");
            Some(ExitStatus::from_raw(1 << 8))
        }
        Err(_) => None,
    }
}

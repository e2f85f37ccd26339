//! Where and when requests run: Python's mix-ins.

mod accepting;
mod forking;
#[cfg(doctest)]
mod stacked;
mod thread_pool;
mod threading;
mod threads;

pub use forking::Forking;
pub use thread_pool::ThreadPool;
pub use threading::Threading;

use crate::server::{BaseServer, Concurrency};

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
}

impl<S: BaseServer> Strategies for S {}

/// Fails the build of a strategy over another. Used as `const { one_strategy::<S>() }`.
const fn one_strategy<S: BaseServer>() {
    assert!(
        matches!(S::CONCURRENCY, Concurrency::None),
        "two strategies in one stack: wrap a bare server, or mix-ins over one, in exactly one of Threading, Forking, ThreadPool"
    );
}

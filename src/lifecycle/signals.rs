//! What a server does at a signal.

use std::fmt;
use std::sync::Arc;

use super::{ServerHandle, Shared, Wakeup};
use crate::panics::guarded;
use crate::sys::Reaction;

/// What a server does at a signal; see [`on_signal`](crate::Configure::on_signal).
///
/// The usual map, of which a program chooses what it needs:
///
/// | Signal | Action |
/// |---|---|
/// | SIGTERM, SIGINT | [`Drain`](Self::Drain); a second one stops at once |
/// | SIGQUIT | [`Stop`](Self::Stop) |
/// | SIGHUP | [`Run`](Self::Run): read the configuration again |
/// | SIGUSR1 | [`DumpStats`](Self::DumpStats) |
///
/// ```
/// use socketserver::prelude::*;
///
/// let server = ForkingTcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {})
///     .shutdown_on_signals([signal::SIGTERM, signal::SIGINT])
///     .on_signal(signal::SIGUSR1, SignalAction::DumpStats)
///     .on_signal(signal::SIGHUP, |server: &ServerHandle| println!("{}", server.stats()));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum SignalAction {
    /// Shuts the server down: the requests in progress end before `serve_forever` returns. Any second such
    /// signal stops it at once.
    Drain,
    /// Shuts the server down at once: the sockets of the requests in progress are shut down, children get
    /// SIGTERM and then SIGKILL.
    Stop,
    /// Writes the [`Stats`](crate::Stats) to the log, at `info`: a line of counts and one for each connection.
    DumpStats,
    /// Runs a function on the accept loop, not in the signal handler: it may do whatever it likes that does not
    /// take long. A bare server that is busy in a handler runs it afterwards. Signals that come before it has
    /// run are one. The functions of a server run one after the other, under every strategy; of signals that are there
    /// at the same time, in the order in which they were set.
    Run(Arc<dyn Fn(&ServerHandle) + Send + Sync>),
}

/// As [`SignalAction::Run`].
impl<F: Fn(&ServerHandle) + Send + Sync + 'static> From<F> for SignalAction {
    fn from(run: F) -> Self {
        SignalAction::Run(Arc::new(run))
    }
}

impl fmt::Debug for SignalAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SignalAction::Drain => "Drain",
            SignalAction::Stop => "Stop",
            SignalAction::DumpStats => "DumpStats",
            SignalAction::Run(_) => "Run",
        })
    }
}

impl From<&SignalAction> for Reaction {
    fn from(action: &SignalAction) -> Self {
        match action {
            SignalAction::Drain => Reaction::Shutdown { at_once: false },
            SignalAction::Stop => Reaction::Shutdown { at_once: true },
            SignalAction::DumpStats | SignalAction::Run(_) => Reaction::Note,
        }
    }
}

/// Does, on the accept loop, what `signals` ask for, a bit each.
pub(crate) fn run_actions(shared: &Arc<Shared>, signals: u64, actions: &[(i32, SignalAction)]) {
    let asked = |(signal, _): &&(i32, SignalAction)| signals & Wakeup::signal_bit(*signal) != 0;
    for (_, action) in actions.iter().filter(asked) {
        match action {
            SignalAction::Run(run) => {
                let handle = ServerHandle::new(Arc::clone(shared));
                guarded("a signal's action", || run(&handle));
            }
            SignalAction::DumpStats => shared.stats().log(),
            SignalAction::Drain | SignalAction::Stop => {}
        }
    }
}

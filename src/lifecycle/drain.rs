//! The end of a server: waiting for the requests in progress, up to a deadline and a little beyond.

use std::io;
use std::time::{Duration, Instant};

use super::{Report, State, Wakeup};
use crate::hooks::Hooks;
use crate::job::Force;
use crate::server::Core;
use crate::transport::Transport;

/// How long requests may take to end after their sockets were shut down or their processes told to.
const GRACE: Duration = Duration::from_secs(1);

/// Ends a server whose loop has ended: closes the listener, waits for the requests in progress, makes
/// those end that are not done at the deadline, closes the server.
pub(crate) fn drain<T: Transport>(server: &dyn Hooks<T>) -> io::Result<Report> {
    let core = server.core();
    let shared = core.shared();
    let wakeup = shared.wakeup()?;
    let started = shared.stopped_at();
    shared.advance(State::Draining);
    // Whatever ended the loop, handlers shall see it, and the last request shall wake us.
    wakeup.shutdown();
    core.stop_listening(false);

    let in_progress = shared.registry.running();
    let deadline = core.drain_deadline();
    wait_until_idle(server, wakeup, deadline, true)?;
    let mut forced = 0;
    // A thread cannot be killed: only processes get a second push.
    let pushes: &[Force] = if server.forks() {
        &[Force::Terminate, Force::Kill]
    } else {
        &[Force::Terminate]
    };
    for &force in pushes {
        let running = shared.registry.running();
        if running == 0 {
            break;
        }
        if force == Force::Terminate {
            forced = running;
            log::warn!("{running} requests did not end in time: shutting their sockets down");
        }
        server.terminate_requests(force);
        wait_until_idle(server, wakeup, Some(Instant::now() + GRACE), false)?;
    }
    let leaked = shared.registry.running();
    if leaked > 0 {
        log::error!("{leaked} requests still run although their sockets are shut down; leaving them behind");
    }
    server.server_close();
    shared.advance(State::Closed);
    Ok(Report {
        served: shared.registry.served(),
        failed: shared.registry.failed(),
        drained: (in_progress - forced.min(in_progress)) as u64,
        forced: forced as u64 + u64::from(wakeup.inline_forced()),
        leaked: leaked as u64,
        elapsed: started.elapsed(),
    })
}

/// Waits until no request is in progress. `deadline` of `None` is none; `patient` waits end early when
/// the server is told to stop at once.
fn wait_until_idle<T: Transport>(
    server: &dyn Hooks<T>,
    wakeup: &Wakeup,
    deadline: Option<Instant>,
    patient: bool,
) -> io::Result<()> {
    let registry = &server.core().shared().registry;
    // service_actions runs as often as at other times.
    let interval = server.core().attribute(|config| config.poll_interval);
    loop {
        // Before the look, so that a child that ends after it writes the wake-up.
        wakeup.about_to_wait();
        server.service_actions();
        let now = Instant::now();
        let over = deadline.is_some_and(|deadline| now >= deadline) || (patient && wakeup.is_forced());
        if over || registry.running() == 0 {
            wakeup.awake();
            return Ok(());
        }
        let left = deadline.map_or(Duration::MAX, |deadline| deadline - now);
        wakeup.wait(interval.map_or(left, |interval| left.min(interval)))?;
    }
}

impl<T: Transport> Core<T> {
    /// When the patience with requests in progress ends; `None`: never.
    pub(crate) fn drain_deadline(&self) -> Option<Instant> {
        let timeout = self.attribute(|config| config.drain_timeout)?;
        self.shared().stopped_at().checked_add(timeout)
    }

    pub(crate) fn drain_time_left(&self) -> Duration {
        match self.drain_deadline() {
            None => Duration::MAX,
            Some(deadline) => deadline.saturating_duration_since(Instant::now()),
        }
    }
}

//! Asking a server to stop, and waiting until it has.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Shared, State};
use crate::sys;

/// Stops a server from anywhere.
///
/// Python's `shutdown()` asks and waits in one, so a handler that calls it hangs for ever in a sync
/// server. Here asking ([`shutdown`](Self::shutdown)) never blocks, and waiting is separate and an
/// error where it could not end.
///
/// ```
/// use socketserver::prelude::*;
///
/// let server = TcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {});
/// let handle = server.shutdown_handle();
/// handle.shutdown(); // before serving: the loop ends as soon as it starts
/// let report = server.serve_forever()?;
/// assert_eq!(report.served, 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct ShutdownHandle {
    shared: Arc<Shared>,
}

impl ShutdownHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        ShutdownHandle { shared }
    }

    /// Asks the server to stop accepting, finish what it has, and end.
    ///
    /// It never blocks and may be called from any thread, from a request handler (in a forked child too: it stops the
    /// parent, or another server there), from a signal handler (it is async-signal-safe, signal-safety(7)), before
    /// serving starts, and again. A child that may not signal its parent any more (setuid(2)) stops another server
    /// there that serves one request at a time only with the next request.
    pub fn shutdown(&self) {
        sys::keep_errno(|| self.shared.shutdown());
    }

    /// Where the server is in its life.
    pub fn state(&self) -> State {
        self.shared.state()
    }

    /// Waits until the server is closed.
    ///
    /// # Errors
    ///
    /// [`WaitError::Deadlock`] if the calling thread is the one that the server would wait for: one
    /// that binds it, runs its loop or one of its requests.
    pub fn wait(&self) -> Result<(), WaitError> {
        self.wait_deadline(None)
    }

    /// Waits until the server is closed, at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait); and [`WaitError::TimedOut`] if it is not closed by then.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<(), WaitError> {
        self.wait_deadline(Instant::now().checked_add(timeout))
    }

    fn wait_deadline(&self, deadline: Option<Instant>) -> Result<(), WaitError> {
        self.shared.check_no_deadlock()?;
        if self.shared.wait_closed(deadline) {
            Ok(())
        } else {
            Err(WaitError::TimedOut)
        }
    }
}

impl fmt::Debug for ShutdownHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownHandle")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// Why waiting for a server to close was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitError {
    /// The server waits for the calling thread, which would wait for the server.
    Deadlock,
    /// The time is over and the server is not closed.
    TimedOut,
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WaitError::Deadlock => {
                "waiting here would never end: the server itself waits for this thread; ask with shutdown() and return"
            }
            WaitError::TimedOut => "the server is not closed yet",
        })
    }
}

impl std::error::Error for WaitError {}

impl From<WaitError> for io::Error {
    fn from(error: WaitError) -> Self {
        let kind = match error {
            WaitError::Deadlock => io::ErrorKind::Deadlock,
            WaitError::TimedOut => io::ErrorKind::TimedOut,
        };
        io::Error::new(kind, error)
    }
}

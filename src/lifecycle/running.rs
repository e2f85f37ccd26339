//! A server on a thread of its own.

use std::fmt;
use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Report, ServerHandle, Shared, ShutdownHandle};
use crate::address::Address;
use crate::panics::guarded;

/// A server that serves on a thread of its own, from [`spawn`](crate::BaseServer::spawn).
///
/// Dropped, it stops the server and waits until it has drained, with the bound that
/// [`stop`](Self::stop) has. In a request or a hook of the server itself, which that would wait for, it only asks: the
/// server ends later.
///
/// ```
/// use std::io::{Read, Write};
/// use std::net::TcpStream;
/// use socketserver::prelude::*;
///
/// let running = ThreadingTcpServer::new("127.0.0.1:0", |request: &mut TcpRequest| {
///     request.write_all(b"hello")
/// })
/// .spawn()?;
///
/// let mut text = String::new();
/// TcpStream::connect(running.server_address().as_inet().unwrap())?.read_to_string(&mut text)?;
/// assert_eq!(text, "hello");
/// assert_eq!(running.stop()?.served, 1);
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "dropping it stops the server"]
pub struct Running {
    shared: Arc<Shared>,
    address: Address,
    drain_timeout: Option<Duration>,
    thread: Option<JoinHandle<io::Result<Report>>>,
}

impl Running {
    /// How much longer than the drain deadline the server's own means to keep it get.
    const HEAD_START: Duration = Duration::from_millis(100);
    /// After the deadline, a drain takes two times one second at most; the rest covers a busy machine.
    const MARGIN: Duration = Duration::from_secs(5);

    pub(crate) fn new(
        shared: Arc<Shared>,
        address: Address,
        drain_timeout: Option<Duration>,
        thread: JoinHandle<io::Result<Report>>,
    ) -> Self {
        Running {
            shared,
            address,
            drain_timeout,
            thread: Some(thread),
        }
    }

    /// The address that the server is bound to.
    pub fn server_address(&self) -> &Address {
        &self.address
    }

    /// A handle to look at the server and to control it, to give away.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle::new(Arc::clone(&self.shared))
    }

    /// A handle that stops the server, to give away.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        ShutdownHandle::new(Arc::clone(&self.shared))
    }

    /// Stops the server and waits until it has drained.
    ///
    /// The wait has a bound, unless [`drain_timeout`](crate::Config::drain_timeout) is `None`: a request that has not
    /// ended by then gets its socket shut down. If even that does not end it within five seconds, the server's thread
    /// is left behind.
    ///
    /// # Errors
    ///
    /// What `serve_forever` returned; [`TimedOut`](io::ErrorKind::TimedOut) if the thread was left behind;
    /// [`Deadlock`](io::ErrorKind::Deadlock) in a request or a hook of the server itself, which has been asked to stop
    /// all the same.
    ///
    /// # Panics
    ///
    /// If the server's thread did.
    pub fn stop(mut self) -> io::Result<Report> {
        self.shared.shutdown();
        self.finish()
    }

    /// Waits for the end of a server that something else stops (a signal, a handler, a handle).
    ///
    /// # Errors
    ///
    /// What `serve_forever` returned; [`Deadlock`](io::ErrorKind::Deadlock) in a request or a hook of the server
    /// itself, which is stopped then, as by [`stop`](Self::stop).
    ///
    /// # Panics
    ///
    /// If the server's thread did.
    pub fn join(mut self) -> io::Result<Report> {
        self.shared.check_no_deadlock()?;
        self.thread.take().map_or_else(|| Ok(Report::default()), join)
    }

    fn finish(&mut self) -> io::Result<Report> {
        let Some(thread) = self.thread.take() else {
            return Ok(Report::default());
        };
        self.shared.check_no_deadlock()?;
        let patience = self
            .drain_timeout
            .map(|timeout| timeout.saturating_add(Self::HEAD_START));
        let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
        if !self.shared.wait_closed(deadline) {
            // The server does it itself, except one that is busy in a handler where signals are blocked.
            self.shared.force();
            if !self.shared.wait_closed(Some(Instant::now() + Self::MARGIN)) && !thread.is_finished() {
                let text =
                    "a request did not end although its socket was shut down; the server's thread is left behind";
                log::error!("{text}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
        }
        join(thread)
    }
}

fn join(thread: JoinHandle<io::Result<Report>>) -> io::Result<Report> {
    thread.join().unwrap_or_else(|payload| resume_unwind(payload))
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.shutdown();
        // A panic of the server's thread is logged: thrown from here, it could abort the program.
        if let Some(Err(error)) = guarded("the server's thread", || self.finish())
            && error.kind() != io::ErrorKind::Deadlock
        {
            log::error!("{error}");
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("server_address", &self.address)
            .field("state", &self.shared.state())
            .finish_non_exhaustive()
    }
}

//! The clocks of a connection, as a handler sets and sees them.

use std::io;
use std::time::{Duration, Instant};

use super::{Stream, StreamRequest};
use crate::timeouts::Timeouts;

impl<S: Stream> StreamRequest<S> {
    /// Limits how long each read and each write may take; `None`, the default: for ever. Python's
    /// `timeout`: the clocks [`read`](Timeouts#structfield.read) and
    /// [`write`](Timeouts#structfield.write), set together.
    ///
    /// # Errors
    ///
    /// As [`set_timeouts`](Self::set_timeouts).
    pub fn set_timeout(&mut self, timeout: impl Into<Option<Duration>>) -> io::Result<()> {
        let timeout = timeout.into();
        self.set_timeouts(Timeouts {
            read: timeout,
            write: timeout,
            ..self.timeouts()
        })
    }

    /// Sets the clocks of this connection, all five. Those of the request and of the handshake still run
    /// from where they began, at the start of `setup`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use socketserver::prelude::*;
    ///
    /// fn handle(request: &mut TcpRequest) -> std::io::Result<()> {
    ///     let timeouts = request.timeouts();
    ///     request.set_timeouts(timeouts.idle(Duration::from_secs(300)))
    /// }
    /// let server = ThreadingTcpServer::new("127.0.0.1:0", handle).write_timeout(Duration::from_secs(30));
    /// ```
    ///
    /// # Errors
    ///
    /// One of them is zero; those of setsockopt(2).
    pub fn set_timeouts(&mut self, timeouts: Timeouts) -> io::Result<()> {
        timeouts.check()?;
        self.clock.set(timeouts);
        self.reading
            .prepare(&self.clock, |timeout| self.stream.set_stream_read_timeout(timeout))?;
        self.writing
            .prepare(&self.clock, |timeout| self.stream.set_stream_write_timeout(timeout))
    }

    /// The clocks of this connection, as the server, a [`Timeout`](crate::Timeout) or the handler has set
    /// them.
    pub fn timeouts(&self) -> Timeouts {
        self.clock.timeouts()
    }

    /// When the request must be over; `None` without a [`request`](Timeouts#structfield.request) timeout.
    pub fn deadline(&self) -> Option<Instant> {
        self.clock.deadline()
    }

    /// How long the request may still take, zero when its deadline has passed; `None` without a
    /// [`request`](Timeouts#structfield.request) timeout.
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Fails when the request's deadline has passed. Reads and writes see to that themselves; a handler
    /// that computes for long asks now and then:
    ///
    /// ```
    /// use std::io::Write;
    /// use std::time::Duration;
    /// use socketserver::prelude::*;
    ///
    /// let primes = |request: &mut TcpRequest| {
    ///     for number in 2_u32.. {
    ///         request.check_deadline()?;
    ///         if request.server().is_draining() {
    ///             break;
    ///         }
    ///         if (2..number).all(|divisor| number % divisor != 0) {
    ///             writeln!(request, "{number}")?;
    ///         }
    ///     }
    ///     std::io::Result::Ok(())
    /// };
    /// let server = ThreadingTcpServer::new("127.0.0.1:0", primes).request_timeout(Duration::from_secs(10));
    /// ```
    ///
    /// # Errors
    ///
    /// [`TimedOut`](io::ErrorKind::TimedOut), as a read or a write would.
    pub fn check_deadline(&self) -> io::Result<()> {
        self.clock.check()
    }

    /// Gives the request its full time again, from now on: for a conversation that is many requests, each
    /// with a deadline of its own. (The handshake's clock runs on.) Past the deadline writes fail, too: who tells the
    /// client so (HTTP's status 408) calls this before.
    pub fn restart_deadline(&mut self) {
        self.clock.restart();
    }
}

//! Telling clients that they are rejected, and closing their connections so that they read it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};

use super::queue::Queue;
use crate::hooks::Hooks;
use crate::poll::poll;
use crate::request::{Request, SILENCE, Unread, end_for_others, read_away};
use crate::transport::Transport;

/// Sends what fits into the socket's buffer, which is empty: of a new connection, kilobytes. Never waits.
pub(crate) fn send_farewell(socket: BorrowedFd<'_>, farewell: &[u8]) {
    if farewell.is_empty() {
        return;
    }
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    match send(socket.as_raw_fd(), farewell, flags) {
        Ok(sent) if sent == farewell.len() => {}
        Ok(sent) => log::debug!("only {sent} of {} bytes of the farewell were sent", farewell.len()),
        Err(errno) => log::debug!("the farewell was not sent: {}", io::Error::from(errno)),
    }
}

/// Connections that were rejected and told so, and are open a moment longer.
///
/// To close a TCP socket to which its client has sent something, or still sends, is to reset the connection,
/// and a reset can overtake the farewell: the client sees an error instead. So the sending side ends at once,
/// which the client reads as the end of the stream, and the rest a little later (a "lingering close").
pub(crate) struct Linger<T: Transport> {
    /// Each with the time when it is to be closed: the first one first.
    queue: Queue<(Instant, T::Request)>,
    /// The server has ended: nobody comes to close any later. Changed while the queue is locked.
    ended: AtomicBool,
}

impl<T: Transport> Linger<T> {
    /// Descriptors spent at most; past it, the oldest goes early.
    const MOST: usize = 64;

    pub(crate) fn new() -> Self {
        Linger {
            queue: Queue::new(),
            ended: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Ends the sending side, and closes the connection in a moment, or at once if the server has ended meanwhile.
    pub(crate) fn push(&self, server: &dyn Hooks<T>, mut request: T::Request) {
        server.shutdown_request(&mut request);
        let Some(socket) = request.socket() else {
            server.close_request(request);
            return;
        };
        // The client may be gone already (ENOTCONN).
        let _ = shutdown(socket.as_raw_fd(), Shutdown::Write);
        let early = self.queue.with(|queue| {
            queue.push_back((Instant::now() + SILENCE, request));
            let one_too_many = queue.len() > Self::MOST || self.ended.load(Ordering::Relaxed);
            one_too_many.then(|| queue.pop_front()).flatten()
        });
        if let Some((_, request)) = early {
            close(server, request);
        }
    }

    /// Closes those whose time is over; returns when the next one's will be.
    pub(crate) fn close_due(&self, server: &dyn Hooks<T>) -> Option<Instant> {
        if self.is_empty() {
            return None;
        }
        let now = Instant::now();
        let (over, next) = self.queue.with(|queue| {
            let count = queue.iter().take_while(|(due, _)| *due <= now).count();
            let over: Vec<_> = queue.drain(..count).collect();
            (over, queue.front().map(|(due, _)| *due))
        });
        for (_, request) in over {
            close(server, request);
        }
        next
    }

    /// Closes all: their descriptors are needed.
    pub(crate) fn close_all(&self, server: &dyn Hooks<T>) {
        for (_, request) in self.queue.take() {
            close(server, request);
        }
    }

    /// The server ends: closes all, from now on, too. A `patient` one waits until the clients have closed, as long as
    /// the last one's time.
    pub(crate) fn finish(&self, server: &dyn Hooks<T>, patient: bool) {
        let mut left = Vec::from(self.queue.with(|queue| {
            self.ended.store(true, Ordering::Relaxed);
            std::mem::take(queue)
        }));
        while let Some(&(due, _)) = left.last() {
            let patience = due.saturating_duration_since(Instant::now());
            let mut fds: Vec<_> = left.iter().filter_map(|(_, request)| watched(request)).collect();
            // A signal ends only the wait.
            let over = !patient
                || patience.is_zero()
                || poll(&mut fds, Some(patience)).is_err_and(|errno| errno != Errno::EINTR);
            for (due, request) in std::mem::take(&mut left) {
                let closed = request.socket().is_none_or(|socket| read_away(socket) == Unread::End);
                if closed || over {
                    end(server, request);
                } else {
                    left.push((due, request));
                }
            }
        }
    }

    /// In a forked process, which must not keep them open: drops them.
    pub(crate) fn leave_to_parent(&self) {
        drop(self.queue.try_take());
    }
}

fn watched<R: Request>(request: &R) -> Option<PollFd<'_>> {
    request.socket().map(|socket| PollFd::new(socket, PollFlags::POLLIN))
}

fn close<T: Transport>(server: &dyn Hooks<T>, request: T::Request) {
    request.socket().map(read_away);
    end(server, request);
}

fn end<T: Transport>(server: &dyn Hooks<T>, request: T::Request) {
    if let Some(socket) = request.socket() {
        end_for_others(socket);
    }
    server.close_request(request);
}

//! Whether the client is still there.

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Stream, StreamRequest};

impl<S: Stream> StreamRequest<S> {
    /// Whether the client has closed the connection, or that is broken, or the server has ended it: by
    /// [`close_connection`](crate::ServerHandle::close_connection), at the drain deadline, or, an
    /// [idle](crate::StreamRequest) one, in a drain. For a handler that computes for long or waits for something else
    /// (long polling): one that reads or writes gets the end or an error anyway. It asks the system, waits for nothing,
    /// and reads nothing: what the client sent before is still there.
    ///
    /// A client that has only said that it sends nothing more (`SHUT_WR`, shutdown(2): `nc -N`, `curl -T`) and still
    /// waits for its answer looks the same: not for protocols in which clients do so. One that has vanished without a
    /// word looks as if it were there; see [`Timeouts`](crate::Timeouts). A stream without a
    /// [descriptor](Stream::fileno) is never disconnected.
    ///
    /// ```
    /// use std::sync::{Arc, Condvar, Mutex};
    /// use std::time::Duration;
    /// use socketserver::prelude::*;
    ///
    /// #[derive(Clone, Default)]
    /// struct News {
    ///     latest: Arc<(Mutex<Option<String>>, Condvar)>,
    /// }
    ///
    /// impl BaseRequestHandler<TcpRequest> for News {
    ///     fn handle(&mut self, request: &mut TcpRequest) -> HandlerResult {
    ///         let (latest, has_changed) = &*self.latest;
    ///         let mut news = latest.lock().unwrap();
    ///         while news.is_none() {
    ///             if request.is_disconnected() || request.server().is_draining() {
    ///                 return Ok(());
    ///             }
    ///             news = has_changed.wait_timeout(news, Duration::from_secs(1)).unwrap().0;
    ///         }
    ///         Ok(writeln!(request, "{}", news.as_deref().unwrap_or_default())?)
    ///     }
    /// }
    /// # use std::io::Write;
    /// # let server = ThreadingTcpServer::new("127.0.0.1:0", News::default());
    /// ```
    pub fn is_disconnected(&self) -> bool {
        // nix has no name for it.
        const HUNG_UP: PollFlags = PollFlags::from_bits_retain(libc::POLLRDHUP);
        self.stream.fileno().is_some_and(|socket| {
            // A broken connection is told unasked.
            poll(&mut [PollFd::new(socket, HUNG_UP)], PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        })
    }
}

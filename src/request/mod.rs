//! Requests: a connection, or a datagram, with what a handler needs to serve it.

mod buffer;
mod clock;
mod context;
mod credentials;
mod datagram;
mod deadline;
mod disconnect;
mod forks;
mod halves;
mod linger;
mod memory;
mod stream;
mod stream_request;
mod watched;

use std::io;
use std::os::fd::BorrowedFd;

use crate::address::Address;
use crate::timeouts::Timeouts;

pub use context::ServerContext;
pub use credentials::PeerCredentials;
pub use datagram::{DatagramRequest, DatagramSocket};
pub(crate) use forks::{about_to_fork, end_for_others, has_not_forked, others_may_have_it};
pub use halves::{RFile, WFile};
pub(crate) use linger::{SILENCE, Unread, read_away};
pub use memory::{MemoryDatagrams, MemoryStream};
pub use stream::Stream;
pub use stream_request::StreamRequest;

/// What the framework itself needs of a request. Handlers use the methods of the concrete type,
/// [`StreamRequest`] or [`DatagramRequest`]; only a transport with requests of its own implements this.
pub trait Request: Send + 'static {
    /// Whose request it is.
    fn client_address(&self) -> &Address;

    /// Takes the context in which it is served; called once, before any hook sees the request but
    /// [`get_request`](crate::BaseServer::get_request), which returns it.
    fn attach(&mut self, context: ServerContext);

    /// Its time begins; called where it runs, before [`finish_request`](crate::BaseServer::finish_request), with the
    /// server's clocks.
    ///
    /// # Errors
    ///
    /// The clocks cannot be set.
    fn begin(&mut self, timeouts: Timeouts) -> io::Result<()> {
        let _ = timeouts;
        Ok(())
    }

    /// A handler is about to run on it, perhaps without a server that has [begun](Self::begin) it.
    #[doc(hidden)]
    fn begin_by_hand(&mut self) {}

    /// The handler's `setup` has succeeded.
    fn setup_done(&mut self) {}

    /// Sends what is buffered; called after the handler's `finish`.
    ///
    /// # Errors
    ///
    /// Those of the write.
    fn flush_wfile(&mut self) -> io::Result<()>;

    /// Tells the peer that nothing more comes (shutdown(2), `SHUT_WR`); called before the request is
    /// dropped. Closing says the same, so it need only do something where the peer may have sent what was not read
    /// (closing a TCP socket is a reset then), or another handle to the same connection may be open.
    fn shutdown(&mut self) {}

    /// Reads away what the peer still sends, so that closing is no reset, and waits for that as long as it is willing
    /// to; called after [`shutdown`](Self::shutdown), where the request has run.
    fn linger(&mut self) {}

    /// The socket that belongs to this request alone, through which a drain can end it.
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

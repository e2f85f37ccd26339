//! A socket that datagrams are received and answered through, of any family.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};

use nix::sys::socket::sockopt::UdpGsoSegment;
use nix::sys::socket::{SockaddrLike, getsockopt};

use super::inbox::Inbox;
use super::outbox::Outbox;
use super::replies::Replies;
use super::socket;
use crate::address::Address;
use crate::config::Config;
use crate::request::{DatagramRequest, DatagramSocket};

/// Whom datagrams of a family come from and go to.
pub(super) trait Peer: PartialEq + Sized + Send + 'static {
    /// An address as the system has it.
    type Raw: SockaddrLike;

    fn address_of(raw: &Self::Raw) -> Address;

    /// # Errors
    ///
    /// No socket of this family can send to it.
    fn from_address(address: &Address) -> io::Result<Self>;

    fn to_raw(&self) -> Self::Raw;
}

/// A socket with what was received ahead, and what is held back.
#[derive(Debug)]
pub(super) struct Datagrams<S: AsFd, P> {
    socket: Arc<S>,
    /// Made when the server's attributes are known.
    boxes: OnceLock<Boxes<S, P>>,
}

#[derive(Debug)]
struct Boxes<S, P> {
    inbox: Inbox,
    outbox: Option<Arc<Outbox<S, P>>>,
}

impl<S: DatagramSocket + AsFd, P: Peer> Datagrams<S, P> {
    pub(super) fn new(socket: S) -> Self {
        Datagrams {
            socket: Arc::new(socket),
            boxes: OnceLock::new(),
        }
    }

    /// The server's attributes are known. With `infos`, the socket tells what address datagrams were sent to.
    pub(super) fn adopt(&self, config: &Config, infos: bool) {
        let _ = self.boxes.set(Boxes::new(&self.socket, config, infos));
    }

    pub(super) fn socket(&self) -> &S {
        &self.socket
    }

    pub(super) fn accept(&self) -> io::Result<DatagramRequest> {
        self.inbox().receive::<P, _>(&*self.socket, &self.socket)
    }

    pub(super) fn accept_ahead(&self) -> io::Result<DatagramRequest> {
        let Boxes { inbox, outbox } = self.boxes();
        let Some(outbox) = outbox else {
            return inbox.receive_ahead::<P, _>(&*self.socket, &self.socket, false);
        };
        if !inbox.has_ahead() {
            outbox.try_flush();
        }
        let request = inbox.receive_ahead::<P, _>(&*self.socket, outbox, true)?;
        outbox.hold();
        Ok(request)
    }

    pub(super) fn let_wait(&self) {
        self.inbox().let_wait();
    }

    pub(super) fn has_ahead(&self) -> bool {
        self.inbox().has_ahead()
    }

    pub(super) fn flush(&self, patient: &dyn Fn() -> bool) {
        if let Some(outbox) = &self.boxes().outbox {
            outbox.flush(patient);
        }
    }

    fn inbox(&self) -> &Inbox {
        &self.boxes().inbox
    }

    fn boxes(&self) -> &Boxes<S, P> {
        self.boxes
            .get_or_init(|| Boxes::new(&self.socket, &Config::default(), false))
    }
}

/// Of a server that was not closed: what a handler has kept does not outlive it either.
impl<S: AsFd, P> Drop for Datagrams<S, P> {
    fn drop(&mut self) {
        // They have the socket, too.
        self.boxes.take();
        if Arc::strong_count(&self.socket) > 1 {
            socket::close_kept(self.socket.as_fd());
        }
    }
}

impl<S: DatagramSocket + AsFd, P: Peer> Boxes<S, P> {
    fn new(socket: &Arc<S>, config: &Config, infos: bool) -> Self {
        let outbox = match config.replies {
            Replies::AtOnce => None,
            replies => {
                // A kernel that does not know it would send one long datagram.
                let segments = replies == Replies::Segmented && getsockopt(socket, UdpGsoSegment).is_ok();
                Some(Outbox::new(Arc::clone(socket), segments, config.timeouts.write).into())
            }
        };
        Boxes {
            inbox: Inbox::new(config, infos),
            outbox,
        }
    }
}

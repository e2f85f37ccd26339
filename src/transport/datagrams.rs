//! A socket that datagrams are received and answered through, of any family.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::sys::socket::sockopt::UdpGsoSegment;
use nix::sys::socket::{SockaddrLike, getsockopt};

use super::inbox::{AHEAD, Inbox};
use super::outbox::Outbox;
use crate::address::Address;
use crate::config::{Config, Replies};
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
pub(super) struct Datagrams<S, P> {
    socket: Arc<S>,
    inbox: Inbox,
    outbox: Option<Arc<Outbox<S, P>>>,
}

impl<S: DatagramSocket + AsFd, P: Peer> Datagrams<S, P> {
    pub(super) fn new(socket: S, config: &Config) -> Self {
        let socket = Arc::new(socket);
        let outbox = match config.replies {
            Replies::AtOnce => None,
            replies => {
                // A kernel that does not know it would send one long datagram.
                let segments = replies == Replies::Segmented && getsockopt(&socket, UdpGsoSegment).is_ok();
                Some(Outbox::new(Arc::clone(&socket), segments).into())
            }
        };
        Datagrams {
            socket,
            inbox: Inbox::new(config),
            outbox,
        }
    }

    pub(super) fn socket(&self) -> &S {
        &self.socket
    }

    pub(super) fn accept(&self) -> io::Result<DatagramRequest> {
        self.inbox.receive::<P, _>(&*self.socket, &self.socket, 1)
    }

    pub(super) fn accept_ahead(&self) -> io::Result<DatagramRequest> {
        let Some(outbox) = &self.outbox else {
            return self.inbox.receive::<P, _>(&*self.socket, &self.socket, AHEAD);
        };
        if !self.inbox.has_ahead() {
            outbox.try_flush();
        }
        let request = self.inbox.receive::<P, _>(&*self.socket, outbox, AHEAD)?;
        outbox.hold();
        Ok(request)
    }

    pub(super) fn has_ahead(&self) -> bool {
        self.inbox.has_ahead()
    }

    pub(super) fn flush(&self, patient: &dyn Fn() -> bool) {
        if let Some(outbox) = &self.outbox {
            outbox.flush(patient);
        }
    }
}

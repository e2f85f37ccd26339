//! The request that is served by the very thread that should see to the end of the server.

use std::os::fd::RawFd;
use std::sync::Arc;

use nix::sys::socket::{Shutdown, shutdown};

use super::activity::Activity;
use crate::sys::TryLock;

/// A request in progress on a thread that cannot see to the drain meanwhile: the loop of a bare server, or
/// a forked child, which has no other thread. Signal handlers and other threads tell it and end it here.
#[derive(Debug)]
pub(crate) struct Inline {
    pub(crate) number: u64,
    /// Absent for a datagram.
    pub(crate) connection: Option<Connection>,
    /// The socket was shut down: the patience was over.
    pub(crate) forced: bool,
}

/// The socket of a request that is a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: RawFd,
    pub(crate) activity: Arc<Activity>,
}

/// Where that request is known, from its begin to just before its socket is closed: a descriptor in here
/// is never somebody else's.
#[derive(Debug, Default)]
pub(crate) struct InlineSlot(TryLock<Option<Inline>>);

impl InlineSlot {
    /// The first has it where several threads serve like that: the others are not the one that drains.
    pub(crate) fn begin(&self, inline: Inline) {
        self.0.with(|slot| {
            slot.get_or_insert(inline);
        });
    }

    /// The request is over. True if its socket had been shut down.
    pub(crate) fn end(&self, number: u64) -> bool {
        let ended = self.0.with(|slot| slot.take_if(|inline| inline.number == number));
        ended.is_some_and(|inline| inline.forced)
    }

    /// The server drains: an idle connection gets an end of stream, and, `forced`, any does, both ways.
    /// False if the slot was in use: whoever uses it looks again afterwards. For signal handlers, too.
    pub(crate) fn try_attend(&self, forced: bool) -> bool {
        let attend = |slot: &mut Option<Inline>| {
            if let Some(inline) = slot
                && let Some(connection) = &inline.connection
            {
                if forced {
                    inline.forced = true;
                    let _ = shutdown(connection.socket, Shutdown::Both);
                } else if connection.activity.is_idle() {
                    let _ = shutdown(connection.socket, Shutdown::Read);
                }
            }
        };
        self.0.try_with(attend).is_some()
    }

    /// Whether a request is being served; `None` if that cannot be told at once.
    pub(crate) fn is_busy(&self) -> Option<bool> {
        self.0.try_with(|slot| slot.is_some())
    }

    pub(crate) fn give_back_in_child(&self) {
        self.0.give_back_in_child();
    }
}

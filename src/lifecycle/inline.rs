//! The requests that are served by the very threads that should see to the end of the server.

use std::mem;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::socket::{Shutdown, shutdown};

use super::activity::Activity;
use crate::sys::TryLock;

/// A connection in progress on a thread that cannot see to the drain meanwhile: the loop of a bare server, or
/// a forked child, which has no other thread. Signal handlers and other threads tell it and end it here.
#[derive(Debug)]
pub(crate) struct Inline {
    pub(crate) number: u64,
    pub(crate) socket: RawFd,
    pub(crate) activity: Arc<Activity>,
}

/// Where those connections are known, each from its begin to just before its socket is closed: a descriptor in here
/// is never somebody else's. And how many requests there are like that which have no socket of their own.
#[derive(Debug, Default)]
pub(crate) struct InlineRequests {
    connections: TryLock<Connections>,
    datagrams: AtomicUsize,
}

/// Mostly one. Where several threads serve like that, each may be the one that the others wait for before one drains.
#[derive(Debug, Default)]
struct Connections {
    first: Option<Inline>,
    others: Vec<Inline>,
}

impl Connections {
    fn insert(&mut self, inline: Inline) {
        if self.first.is_none() {
            self.first = Some(inline);
        } else {
            self.others.push(inline);
        }
    }

    fn remove(&mut self, number: u64) -> Option<Inline> {
        let first = self.first.take_if(|inline| inline.number == number);
        first.or_else(|| {
            let index = self.others.iter().position(|inline| inline.number == number)?;
            Some(self.others.swap_remove(index))
        })
    }

    fn iter(&self) -> impl Iterator<Item = &Inline> {
        self.first.iter().chain(&self.others)
    }
}

impl InlineRequests {
    pub(crate) fn begin(&self, inline: Inline) {
        self.connections.with(|connections| connections.insert(inline));
    }

    /// As [`begin`](Self::begin), for a datagram.
    pub(crate) fn begin_datagram(&self) {
        self.datagrams.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end_datagram(&self) {
        self.datagrams.fetch_sub(1, Ordering::Relaxed);
    }

    /// The request is over.
    pub(crate) fn end(&self, number: u64) {
        let ended = self.connections.with(|connections| connections.remove(number));
        drop(ended);
    }

    /// The server drains: idle connections get an end of stream, and, `forced`, all do, both ways.
    /// False if somebody else was at them, who looks again afterwards. For signal handlers, too.
    pub(crate) fn try_attend(&self, forced: bool) -> bool {
        let attend = |connections: &mut Connections| {
            for inline in connections.iter() {
                if forced {
                    let _ = shutdown(inline.socket, Shutdown::Both);
                } else {
                    inline.activity.end_if_idle(inline.socket);
                }
            }
        };
        self.connections.try_with(attend).is_some()
    }

    /// Whether a request is being served; `None` if that cannot be told at once.
    pub(crate) fn is_busy(&self) -> Option<bool> {
        if self.datagrams.load(Ordering::Relaxed) > 0 {
            return Some(true);
        }
        self.connections
            .try_with(|connections| connections.iter().next().is_some())
    }

    /// What is in here is the parent's, and where another of its threads was at it, not even whole.
    pub(crate) fn give_back_in_child(&self) {
        self.connections.give_back_in_child();
        self.connections.with(|connections| mem::forget(mem::take(connections)));
        self.datagrams.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    use super::*;

    #[test]
    fn a_child_takes_back_what_a_thread_had_that_stayed_in_the_parent() {
        let requests = InlineRequests::default();
        // As a thread of the parent's that was at it: it never gives it back.
        let at_it = || requests.connections.with(|_| resume_unwind(Box::new("gone")));
        assert!(catch_unwind(AssertUnwindSafe(at_it)).is_err());
        assert_eq!(requests.is_busy(), None);
        requests.give_back_in_child();
        assert_eq!(requests.is_busy(), Some(false));
    }
}

//! Receiving datagrams, of any family.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};

use nix::sys::socket::SockaddrLike;

use crate::config::Config;
use crate::sys::{self, Received};

/// How many datagrams at the most a server that serves one at a time receives at once.
pub(super) const AHEAD: usize = 32;

/// How much memory at the most they take together, in bytes, if more than one is received.
const MEMORY: usize = 2 << 20;

/// Where datagrams are received, before each is copied to a request of its exact size.
#[derive(Debug)]
pub(super) struct Inbox<A> {
    /// How many bytes of a datagram are kept.
    size: usize,
    inner: Mutex<Inner<A>>,
}

#[derive(Debug)]
struct Inner<A> {
    /// Parts of `size` bytes; pages that no datagram has touched are not in memory.
    buffer: Vec<u8>,
    /// Received and not given out, from the part with the number on.
    ahead: VecDeque<Received<A>>,
    next: usize,
}

/// One datagram.
pub(super) struct Packet<A> {
    pub(super) bytes: Vec<u8>,
    /// The length it was sent with.
    pub(super) sent_length: usize,
    pub(super) from: Option<A>,
}

impl<A: SockaddrLike> Inbox<A> {
    pub(super) fn new(config: &Config) -> Self {
        Inbox {
            size: config.max_packet_size,
            inner: Mutex::new(Inner {
                buffer: Vec::new(),
                ahead: VecDeque::new(),
                next: 0,
            }),
        }
    }

    /// Whether a datagram was received that is not given out yet.
    pub(super) fn has_ahead(&self) -> bool {
        !self
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ahead
            .is_empty()
    }

    /// The next datagram, without waiting. If there is none here, up to `count` are received.
    pub(super) fn receive(&self, socket: BorrowedFd<'_>, count: usize) -> io::Result<Packet<A>> {
        let part = self.size.max(1);
        let count = count.min(MEMORY / part).max(1);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { buffer, ahead, next } = &mut *inner;
        if ahead.is_empty() {
            *next = 0;
            if buffer.len() < count * part {
                *buffer = vec![0; count * part];
            }
            sys::receive(socket, &mut buffer[..count * part], self.size, |received| {
                ahead.push_back(received);
            })?;
        }
        let Some(received) = ahead.pop_front() else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let start = *next * part;
        *next += 1;
        let kept = received.length.min(self.size);
        Ok(Packet {
            bytes: buffer[start..start + kept].to_vec(),
            sent_length: received.length,
            from: received.from,
        })
    }
}

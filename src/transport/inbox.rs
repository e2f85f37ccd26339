//! Receiving datagrams, of any family.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::socket::SockaddrLike;

use crate::address::Address;
use crate::config::Config;
use crate::request::{DatagramRequest, DatagramSocket};
use crate::sys::{self, Received};

/// How many datagrams at the most a server that serves one at a time receives at once.
const AHEAD: usize = 32;

/// How much memory at the most they take together, in bytes, if more than one is received.
const MEMORY: usize = 2 << 20;

/// Where datagrams are received, before each is copied to a request of its exact size.
#[derive(Debug)]
pub(super) struct Inbox<A> {
    /// How many bytes of a datagram are kept.
    size: usize,
    /// What a sender's address is here.
    address: fn(&A) -> Address,
    /// Whether receiving ahead waits, as the socket does.
    waits: AtomicBool,
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

impl<A: SockaddrLike> Inbox<A> {
    pub(super) fn new(config: &Config, address: fn(&A) -> Address) -> Self {
        Inbox {
            size: config.max_packet_size,
            address,
            waits: AtomicBool::new(false),
            inner: Mutex::new(Inner {
                buffer: Vec::new(),
                ahead: VecDeque::new(),
                next: 0,
            }),
        }
    }

    /// From now on receiving ahead waits.
    pub(super) fn let_wait(&self) {
        self.waits.store(true, Ordering::Relaxed);
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

    /// The next datagram, without waiting.
    pub(super) fn receive<S: DatagramSocket + AsFd>(&self, socket: &Arc<S>) -> io::Result<DatagramRequest> {
        self.receive_up_to(socket, 1, false)
    }

    /// The next datagram. If there is none here, as many are received as are there, up to [`AHEAD`].
    pub(super) fn receive_ahead<S: DatagramSocket + AsFd>(&self, socket: &Arc<S>) -> io::Result<DatagramRequest> {
        self.receive_up_to(socket, AHEAD, self.waits.load(Ordering::Relaxed))
    }

    fn receive_up_to<S: DatagramSocket + AsFd>(
        &self,
        socket: &Arc<S>,
        count: usize,
        waits: bool,
    ) -> io::Result<DatagramRequest> {
        let part = self.size.max(1);
        let count = count.min(MEMORY / part).max(1);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { buffer, ahead, next } = &mut *inner;
        if ahead.is_empty() {
            *next = 0;
            if buffer.len() < count * part {
                *buffer = vec![0; count * part];
            }
            let buffer = &mut buffer[..count * part];
            sys::receive(socket.as_fd(), buffer, self.size, waits, |received| {
                ahead.push_back(received);
            })?;
        }
        let Some(received) = ahead.pop_front() else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let start = *next * part;
        *next += 1;
        let kept = received.length.min(self.size);
        let packet = buffer[start..start + kept].to_vec();
        let from = received.from.as_ref().map_or(Address::Unnamed, self.address);
        Ok(DatagramRequest::new(packet, received.length, from, socket.clone()))
    }
}

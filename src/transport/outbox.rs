//! Replies that are held back, to be sent with one system call.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::asked::SendFrom;
use super::datagrams::Peer;
use crate::address::Address;
use crate::error::errno;
use crate::mutex::Mutex;
use crate::request::DatagramSocket;
use crate::sys::{self, Outgoing, PacketInfo};
use crate::timeouts::{TimeoutError, TimeoutKind};

/// How many bytes are held at the most: as many as one message in segments may have over IPv4. A longer datagram is
/// never held.
const BYTES: usize = 65_507;

/// How many replies are held at the most.
const MOST: usize = 32;

/// The socket of requests whose replies are held back until [`flush`](Self::flush), or until there are so many that
/// they have to go.
#[derive(Debug)]
pub(super) struct Outbox<S, P> {
    socket: Arc<S>,
    /// Somebody is going to flush. Without that, nothing is held: whoever has kept a socket replies at once.
    holds: AtomicBool,
    held: Mutex<Held<P>>,
}

#[derive(Debug)]
struct Held<P> {
    /// Of all of them, one after the other.
    bytes: Vec<u8>,
    replies: Vec<Reply<P>>,
    /// The numbers of the replies as they are to be sent; its room is kept.
    order: Vec<usize>,
    /// Those to one address go as segments of one message, unless they are longer than this; 0: never.
    longest_segment: usize,
    /// How long receivers without room are waited for.
    write_timeout: Option<Duration>,
    /// Since when what is held is to leave, if that matters.
    began: Option<Instant>,
}

#[derive(Debug)]
struct Reply<P> {
    to: P,
    /// Which of this host's addresses it is to come from.
    from: Option<PacketInfo>,
    start: usize,
    length: usize,
    /// The number of the first reply of the message that it goes with.
    message: usize,
    /// Refused as a segment, so it goes alone. If that succeeds, no longer segments than this are tried again.
    alone: Option<usize>,
    sent: bool,
}

impl<S: DatagramSocket + AsFd, P: Peer> Outbox<S, P> {
    pub(super) fn new(socket: Arc<S>, segments: bool, write_timeout: Option<Duration>) -> Self {
        Outbox {
            socket,
            holds: AtomicBool::new(false),
            held: Mutex::new(Held {
                bytes: Vec::new(),
                replies: Vec::with_capacity(MOST),
                order: Vec::with_capacity(MOST),
                longest_segment: if segments { BYTES } else { 0 },
                write_timeout,
                began: None,
            }),
        }
    }

    /// From now on replies are held back, until the next [`flush`](Self::flush).
    pub(super) fn hold(&self) {
        self.holds.store(true, Ordering::Relaxed);
    }

    /// Sends what is held; what finds no room within the socket's own patience stays.
    pub(super) fn try_flush(&self) {
        // Whatever it is, the next flush sees it again.
        let _ = self.held.lock().send(&*self.socket, true, None);
    }

    /// Sends what is held, and holds nothing any more. Receivers without room are waited for while `patient` says so,
    /// and their time is not over; what they cannot take then is lost.
    pub(super) fn flush(&self, patient: &dyn Fn() -> bool) {
        let mut held = self.held.lock();
        self.holds.store(false, Ordering::Relaxed);
        loop {
            match held.send(&*self.socket, patient(), None) {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A blocking socket has waited already; see `DatagramRequest::send_to`.
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Holds a datagram back. False if none is held now, or not such a long one; those before it have gone then.
    fn try_hold(&self, packet: &[u8], to: P, from: Option<PacketInfo>) -> io::Result<bool> {
        let mut held = self.held.lock();
        let holds = self.holds.load(Ordering::Relaxed) && packet.len() <= BYTES;
        if !holds || held.is_full(packet.len()) {
            held.send(&*self.socket, true, Some(&to))?;
        }
        if holds {
            held.push(packet, to, from);
        }
        Ok(holds)
    }
}

impl<S: DatagramSocket + AsFd, P: Peer> DatagramSocket for Outbox<S, P> {
    fn send_datagram(&self, packet: &[u8], to: &Address) -> io::Result<()> {
        if self.try_hold(packet, P::from_address(to)?, None)? {
            return Ok(());
        }
        self.socket.send_datagram(packet, to)
    }
}

impl<S: DatagramSocket + AsFd, P: Peer> SendFrom<P> for Outbox<S, P> {
    fn send_from(&self, from: PacketInfo, packet: &[u8], to: &Address) -> io::Result<()> {
        if self.try_hold(packet, P::from_address(to)?, Some(from))? {
            return Ok(());
        }
        SendFrom::<P>::send_from(&*self.socket, from, packet, to)
    }
}

impl<P: Peer> Held<P> {
    fn is_full(&self, length: usize) -> bool {
        self.replies.len() == MOST || self.bytes.len() + length > BYTES
    }

    fn push(&mut self, packet: &[u8], to: P, from: Option<PacketInfo>) {
        self.replies.push(Reply {
            to,
            from,
            start: self.bytes.len(),
            length: packet.len(),
            message: self.replies.len(),
            alone: None,
            sent: false,
        });
        self.bytes.extend_from_slice(packet);
    }

    /// Sends all there is, and reports what cannot be sent. With `wait`, it gives up when a receiver has no room or a
    /// signal came: `WouldBlock` or `Interrupted`, to be called again. Without, or when the time of all receivers is
    /// over, such a receiver's are reported, too.
    ///
    /// Whoever sends to an address `again` learns what has become of that before: the error of the last that failed.
    fn send(&mut self, socket: &impl AsFd, wait: bool, again: Option<&P>) -> io::Result<()> {
        let (mut outcome, mut over) = (Ok(()), None);
        while !self.replies.is_empty() {
            self.arrange();
            let datagrams = self.order.iter().map(|&number| {
                let reply = &self.replies[number];
                Outgoing {
                    bytes: &self.bytes[reply.start..][..reply.length],
                    to: (reply.message == number).then(|| reply.to.to_raw()),
                    from: reply.from,
                }
            });
            let wait = wait && over.is_none();
            match sys::send::<MOST, _>(socket.as_fd(), datagrams, wait) {
                Ok(messages) => self.went(messages),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && wait => {
                    over = Some(self.time_over().ok_or(error)?);
                }
                Err(error) => {
                    let over = over.filter(|_| error.kind() == io::ErrorKind::WouldBlock);
                    let error = over.map_or(error, io::Error::from);
                    if self.failed(&error).is_some_and(|to| Some(to) == again) {
                        outcome = Err(error);
                    }
                }
            }
            self.forget_sent();
        }
        self.began = None;
        outcome
    }

    /// A receiver has no room: what there is to say if that has been so for too long.
    fn time_over(&mut self) -> Option<TimeoutError> {
        let timeout = self.write_timeout?;
        let began = *self.began.get_or_insert_with(Instant::now);
        TimeoutError::since(began, TimeoutKind::Write, timeout)
    }

    /// Decides which replies go together. Those to one address keep their order.
    fn arrange(&mut self) {
        self.order.clear();
        self.order.extend(0..self.replies.len());
        if self.longest_segment == 0 {
            return;
        }
        for number in 0..self.replies.len() {
            self.replies[number].message = self.message_for(number).unwrap_or(number);
        }
        let replies = &self.replies;
        self.order
            .sort_unstable_by_key(|&number| (replies[number].message, number));
    }

    /// The message that a reply can be a further segment of: that of the last one before it to the same address, if it
    /// comes from the same. A segment that is shorter than the first is the last of its message (udp(7)), and an empty
    /// one is none.
    ///
    /// So few replies and bytes are held that they are not too many for one message.
    fn message_for(&self, number: usize) -> Option<usize> {
        let reply = &self.replies[number];
        let last = self.replies[..number].iter().rfind(|last| last.to == reply.to)?;
        let segment = self.replies[last.message].length;
        let whole = last.length == segment && segment <= self.longest_segment && last.from == reply.from;
        let fits = (1..=segment).contains(&reply.length);
        (whole && fits && last.alone.is_none() && reply.alone.is_none()).then_some(last.message)
    }

    /// So many messages were sent.
    fn went(&mut self, messages: usize) {
        let mut left = messages;
        for &number in &self.order {
            let reply = &mut self.replies[number];
            if reply.message == number {
                if left == 0 {
                    return;
                }
                left -= 1;
            }
            reply.sent = true;
            if let Some(longest) = reply.alone {
                self.longest_segment = self.longest_segment.min(longest);
            }
        }
    }

    /// The first message could not be sent. If it is in segments, that may be the reason: they go alone then. If not,
    /// says whose it was.
    fn failed(&mut self, error: &io::Error) -> Option<&P> {
        let first = *self.order.first()?;
        let segment = self.replies[first].length;
        let in_segments = self.replies.iter().filter(|reply| reply.message == first).count() > 1;
        if in_segments {
            let longest = longest_after(error, segment);
            for reply in self.replies.iter_mut().filter(|reply| reply.message == first) {
                reply.alone = Some(longest);
            }
            return None;
        }
        let reply = &mut self.replies[first];
        reply.sent = true;
        let client = P::address_of(&reply.to.to_raw());
        log::warn!(client:% = client; "a reply of {segment} bytes to {client} could not be sent: {error}");
        Some(&reply.to)
    }

    fn forget_sent(&mut self) {
        if self.replies.iter().all(|reply| reply.sent) {
            self.replies.clear();
            self.bytes.clear();
        } else {
            self.replies.retain(|reply| !reply.sent);
            for (number, reply) in self.replies.iter_mut().enumerate() {
                reply.message = number;
            }
        }
    }
}

/// How long segments may be in future, if the datagrams of a message that failed with `error` can be sent one by one.
fn longest_after(error: &io::Error, segment: usize) -> usize {
    match errno(error) {
        // Longer than the path takes, or the socket has no checksums.
        Some(Errno::EINVAL | Errno::EMSGSIZE) => segment.saturating_sub(1),
        // The way there cannot (IPsec).
        Some(Errno::EIO | Errno::ENOPROTOOPT | Errno::EOPNOTSUPP) => 0,
        _ => BYTES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_that_were_refused_are_not_tried_again() {
        let after = |errno: Errno| longest_after(&errno.into(), 1400);
        assert_eq!([Errno::EINVAL, Errno::EMSGSIZE].map(after), [1399; 2]);
        assert_eq!([Errno::EIO, Errno::ENOPROTOOPT, Errno::EOPNOTSUPP].map(after), [0; 3]);
        // That says nothing about segments.
        assert_eq!([Errno::ENOBUFS, Errno::EPERM].map(after), [BYTES; 2]);
        assert_eq!(longest_after(&Errno::EINVAL.into(), 0), 0);
    }
}

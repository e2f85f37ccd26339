//! Receiving datagrams, of any family.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::asked::{Asked, SendFrom};
use super::datagrams::Peer;
use crate::address::Address;
use crate::config::Config;
use crate::mutex::Mutex;
use crate::request::DatagramRequest;
use crate::sys::{Received, Receiver};

/// How many datagrams at the most a server that serves one at a time receives at once.
const AHEAD: usize = 32;

/// How often it receives one only, once there was no more than one: whoever asks for more than there are has the
/// kernel look once more in vain.
const SINGLY: u32 = 16;

/// How much memory at the most they take together, in bytes, if more than one is received.
const MEMORY: usize = 2 << 20;

/// Longer than any datagram: what the kernel takes for one it has in a few pieces of memory, some MiB in all. There has
/// to be room for the longest that may come, whatever number says that none is to be cut.
const LONGEST: usize = 64 << 20;

/// Where datagrams are received, before each is copied to a request of its exact size.
#[derive(Debug)]
pub(super) struct Inbox {
    /// How many bytes of a datagram are kept.
    size: usize,
    /// The socket tells what address datagrams were sent to.
    infos: bool,
    /// How long the replies to each may wait.
    write_timeout: Option<Duration>,
    /// There is one in `ahead`: asked for at each turn of the accept loop, without the lock.
    has_ahead: AtomicBool,
    /// Whether receiving waits, as the socket does.
    waits: AtomicBool,
    ahead: Mutex<Ahead>,
}

/// What was received and is not given out yet: the datagrams with the numbers from `next` on.
#[derive(Debug, Default)]
struct Ahead {
    receiver: Option<Receiver>,
    next: usize,
    count: usize,
    /// So often only one is received.
    singly: u32,
}

thread_local! {
    /// Where a thread receives one datagram at a time, beside others that do.
    static OWN: RefCell<Option<Receiver>> = const { RefCell::new(None) };
}

impl Inbox {
    pub(super) fn new(config: &Config, infos: bool) -> Self {
        Inbox {
            size: config.max_packet_size.min(LONGEST),
            infos,
            write_timeout: config.timeouts.write,
            has_ahead: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            ahead: Mutex::default(),
        }
    }

    /// From now on receiving waits.
    pub(super) fn let_wait(&self) {
        self.waits.store(true, Ordering::Relaxed);
    }

    fn waits(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    /// Whether a datagram was received that is not given out yet.
    pub(super) fn has_ahead(&self) -> bool {
        self.has_ahead.load(Ordering::Relaxed)
    }

    /// The next datagram, to be answered through `replies`.
    pub(super) fn receive<P: Peer, R: SendFrom<P>>(
        &self,
        socket: &impl AsFd,
        replies: &Arc<R>,
    ) -> io::Result<DatagramRequest> {
        OWN.with_borrow_mut(|own| {
            let receiver = own
                .take_if(|own| (own.size(), own.infos()) == (self.size, self.infos))
                .unwrap_or_else(|| Receiver::new(1, self.size, self.infos));
            let receiver = own.insert(receiver);
            receiver.receive(socket.as_fd(), 1, self.waits())?;
            self.request::<P, R>(receiver.get(0), replies)
        })
    }

    /// The next datagram. If there is none here, as many are received as are there, up to [`AHEAD`];
    /// but see [`SINGLY`]. `replies` holds them back until those have been served, or does not.
    pub(super) fn receive_ahead<P: Peer, R: SendFrom<P>>(
        &self,
        socket: &impl AsFd,
        replies: &Arc<R>,
        holds: bool,
    ) -> io::Result<DatagramRequest> {
        let mut ahead = self.ahead.lock();
        let Ahead {
            receiver,
            next,
            count,
            singly,
        } = &mut *ahead;
        let receiver = receiver.get_or_insert_with(|| {
            let most = AHEAD.min(MEMORY / self.size.max(1)).max(1);
            Receiver::new(most, self.size, self.infos)
        });
        if next == count {
            (*next, *count) = (0, 0);
            let most = if *singly > 0 { 1 } else { AHEAD };
            *count = receiver.receive(socket.as_fd(), most, self.waits())?;
            *singly = match (most, *count) {
                (1, _) => *singly - 1,
                // Where replies are held, a batch is worth more than that look.
                (_, 1) if !holds => SINGLY,
                _ => 0,
            };
        }
        let datagram = receiver.get(*next);
        *next = (*next + 1).min(*count);
        self.has_ahead.store(next < count, Ordering::Relaxed);
        self.request::<P, R>(datagram, replies)
    }

    fn request<P: Peer, R: SendFrom<P>>(
        &self,
        received: Option<Received<'_, P::Raw>>,
        replies: &Arc<R>,
    ) -> io::Result<DatagramRequest> {
        // A wait can end with nothing.
        let Received {
            bytes,
            length,
            from,
            info,
        } = received.ok_or(io::ErrorKind::WouldBlock)?;
        let from = from.as_ref().map_or(Address::Unnamed, P::address_of);
        let request = if let Some(info) = info {
            let asked = Asked::<R, P>::new(replies.clone(), from.clone(), info);
            DatagramRequest::new(bytes.to_vec(), length, from, Arc::new(asked)).with_local_ip(info.ip())
        } else {
            DatagramRequest::new(bytes.to_vec(), length, from, replies.clone())
        };
        Ok(request.with_write_timeout(self.write_timeout))
    }
}

//! Leader/follower, also "lf": idle threads wait for work themselves, so nothing is handed over.
//!
//! At most so many wait; the rest is parked, last in, first out. Whoever takes work and was the last to
//! wait first passes its turn on, to a parked thread or a new one.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::SockFlag;

use super::sys::{self, Datagram, Fd};
use crate::servers::Setup;

/// Where work comes from.
pub trait Work: Send + Sync + 'static {
    /// One piece of it.
    type Item;

    /// Room for an item, on the thread's stack.
    fn room() -> Self::Item;

    /// Waits for an item.
    fn wait(&self, item: &mut Self::Item);

    fn serve(&self, item: &mut Self::Item);
}

/// Serves in as many threads as there is work at once, of which at most `most_waiting` wait for more.
pub fn run<W: Work>(work: W, most_waiting: u32) {
    // Never freed: the threads are detached and go on until the process ends.
    let crew: &'static Crew<W> = Box::leak(Box::new(Crew {
        work,
        most_waiting,
        waiting: AtomicU32::new(1),
        parked: Mutex::default(),
    }));
    crew.follow();
}

struct Crew<W> {
    work: W,
    most_waiting: u32,
    waiting: AtomicU32,
    parked: Mutex<Vec<&'static AtomicU32>>,
}

impl<W: Work> Crew<W> {
    /// The life of a thread, which begins among those that wait.
    fn follow(&'static self) {
        let wake: &'static AtomicU32 = Box::leak(Box::default());
        let mut item = W::room();
        loop {
            self.work.wait(&mut item);
            let left = self.leave();
            self.work.serve(&mut item);
            if left && !self.join() {
                self.park(wake);
            }
        }
    }

    /// Stops waiting, and sees to it that somebody does; `false` if nobody else can.
    fn leave(&'static self) -> bool {
        let fewer = |waiting| (waiting > 1).then(|| waiting - 1);
        if self
            .waiting
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer)
            .is_ok()
        {
            return true;
        }
        let parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match parked {
            Some(wake) => {
                wake.store(1, Ordering::Release);
                sys::futex_wake(wake);
                true
            }
            None => sys::start_thread(Self::follow, self).is_ok(),
        }
    }

    /// Waits again, if there is a place.
    fn join(&self) -> bool {
        let more = |waiting| (waiting < self.most_waiting).then(|| waiting + 1);
        self.waiting
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
            .is_ok()
    }

    /// Sleeps until somebody passes on its turn.
    fn park(&self, wake: &'static AtomicU32) {
        {
            let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
            // Again under the lock: the last that waited may have looked for somebody parked since.
            if self.join() {
                return;
            }
            parked.push(wake);
        }
        while wake.swap(0, Ordering::Acquire) == 0 {
            sys::futex_wait(wake, 0);
        }
    }
}

/// Blocking in accept4, up to 64 at a time.
pub fn blocking(setup: &Setup) -> io::Result<()> {
    let listener = sys::open(setup, SockFlag::empty())?;
    let accept = Accept {
        listener,
        epoll: None,
        bulk: setup.bulk,
    };
    run(accept, 64);
    Ok(())
}

/// On an epoll set that all share, at most 4 at a time: with more, each connection wakes too many.
pub fn epoll(setup: &Setup) -> io::Result<()> {
    let listener = sys::open(setup, SockFlag::SOCK_NONBLOCK)?;
    let epoll = sys::epoll(&[listener, sys::eventfd()?])?;
    let accept = Accept {
        listener,
        epoll: Some(epoll),
        bulk: setup.bulk,
    };
    run(accept, 4);
    Ok(())
}

struct Accept {
    listener: Fd,
    epoll: Option<Fd>,
    bulk: bool,
}

impl Work for Accept {
    type Item = Fd;

    fn room() -> Fd {
        -1
    }

    fn wait(&self, connection: &mut Fd) {
        loop {
            if let Some(epoll) = self.epoll {
                let _ = sys::epoll_wait(epoll, &mut [libc::epoll_event { events: 0, u64: 0 }]);
            }
            match sys::accept(self.listener) {
                Ok(accepted) => return *connection = accepted,
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => {}
                // Out of descriptors, most likely: some will be closed.
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn serve(&self, connection: &mut Fd) {
        sys::serve(*connection, self.bulk);
    }
}

/// Datagrams: idle threads in recvfrom, each with a datagram of its own.
pub fn datagrams(setup: &Setup) -> io::Result<()> {
    let socket = sys::open(setup, SockFlag::empty())?;
    run(Receive { socket }, 4);
    Ok(())
}

struct Receive {
    socket: Fd,
}

impl Work for Receive {
    type Item = Datagram;

    fn room() -> Datagram {
        Datagram::room()
    }

    fn wait(&self, datagram: &mut Datagram) {
        while !datagram.receive(self.socket) {}
    }

    fn serve(&self, datagram: &mut Datagram) {
        datagram.reply(self.socket);
    }
}

//! Threads that sleep in accept(2), recvfrom(2) or recvmmsg(2), and how they are woken up.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering, fence};
use std::time::Instant;

use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::{Pid, getpid, gettid};

use super::suspension::PATIENCE;
use crate::sys;

/// The threads that wait for a request in the very system call that takes it. That saves the `epoll_wait(2)`
/// before, and the kernel wakes one of them for one request.
///
/// Such a call ends for nothing else, so whoever has something to say to those threads makes the socket
/// non-blocking and sends a signal to each that has [entered](Self::enter): one that sleeps begins its call
/// again (`SA_RESTART`), one that has not begun it yet is about to, and both find a socket that does not
/// wait. Nothing is lost of what the kernel has queued, and all this a signal handler can do, too.
///
/// A thread that comes back with nothing looks at everything, and [lets the socket wait again](Self::rearm).
#[derive(Debug)]
pub(crate) struct Sleepers {
    /// A descriptor of our own: whoever wakes may come late, and must not find somebody else's.
    socket: OwnedFd,
    process: Pid,
    /// The threads that may be in the call; 0 where there is none.
    threads: Box<[AtomicI32]>,
    on: AtomicBool,
    /// How often in a row a thread came back with nothing although nobody had woken it.
    for_nothing: AtomicU32,
}

impl Sleepers {
    /// For at most so many threads at once, which may wait from now on.
    pub(crate) fn new(socket: BorrowedFd<'_>, threads: usize) -> io::Result<Self> {
        Ok(Sleepers {
            socket: socket.try_clone_to_owned()?,
            process: getpid(),
            threads: (0..threads).map(|_| AtomicI32::new(0)).collect(),
            on: AtomicBool::new(true),
            for_nothing: AtomicU32::new(0),
        })
    }

    /// Whether threads may wait like that.
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::SeqCst)
    }

    /// From now on nobody waits like that, and the socket never does. True if that is new.
    pub(crate) fn turn_off(&self) -> bool {
        let was_on = self.on.swap(false, Ordering::SeqCst);
        if was_on {
            self.wake_up();
        }
        was_on
    }

    /// The calling thread is about to accept or receive; it must look afterwards whether it still is to, and
    /// drops the guard when it has. `number` is one that other such threads do not have, as a rule.
    pub(crate) fn enter(&self, number: usize) -> Asleep<'_> {
        let this = self.this_thread();
        loop {
            for offset in 0..self.threads.len() {
                let place = &self.threads[(number + offset) % self.threads.len()];
                if place.load(Ordering::Relaxed) == 0
                    && place
                        .compare_exchange(0, this, Ordering::SeqCst, Ordering::Relaxed)
                        .is_ok()
                {
                    // Before the system call: see `wake_up`.
                    fence(Ordering::SeqCst);
                    return Asleep { place };
                }
            }
            // More threads accept than the strategy has said: those that sleep shall come out.
            self.turn_off();
            std::thread::yield_now();
        }
    }

    /// The number of the calling thread. A forked child has all that its parent's thread knew, but another number.
    fn this_thread(&self) -> i32 {
        thread_local! {
            static KNOWN: Cell<Option<(Pid, i32)>> = const { Cell::new(None) };
        }
        if let Some((process, thread)) = KNOWN.get()
            && process == self.process
        {
            return thread;
        }
        // A thread that was started with all signals blocked could not be woken up.
        sys::unblock(sys::NUDGE as i32);
        let thread = gettid().as_raw();
        KNOWN.set(Some((self.process, thread)));
        thread
    }

    /// Makes all who sleep come back, and all who are about to sleep. Async-signal-safe: ioctl(2), tgkill(2).
    pub(crate) fn wake_up(&self) {
        self.for_nothing.store(0, Ordering::Relaxed);
        sys::set_nonblocking(self.socket.as_fd(), true);
        // A thread that is not seen here has entered later, and finds a socket that does not wait.
        fence(Ordering::SeqCst);
        for place in &self.threads {
            let thread = place.load(Ordering::SeqCst);
            if thread != 0 {
                sys::signal_thread(self.process, Pid::from_raw(thread), sys::NUDGE);
            }
        }
    }

    /// A call has brought something.
    pub(crate) fn worked(&self) {
        if self.for_nothing.load(Ordering::Relaxed) != 0 {
            self.for_nothing.store(0, Ordering::Relaxed);
        }
    }

    /// After a call that did not wait: lets the next ones, as long as `all_may` says that no thread has to
    /// know anything. The calling thread looks at everything before it enters again.
    pub(crate) fn rearm(&self, all_may: impl Fn() -> bool) {
        /// A hook or a socket that has nothing and does not wait would keep the processor busy.
        const MOST: u32 = 100;
        if self.for_nothing.fetch_add(1, Ordering::Relaxed) > MOST {
            self.turn_off();
        }
        let may = || self.is_on() && all_may();
        if may() {
            sys::set_nonblocking(self.socket.as_fd(), false);
            // Told meanwhile, they have perhaps not come out before that.
            if !may() {
                self.wake_up();
            }
        }
    }

    /// Waits until those have come out who were in when [`wake_up`](Self::wake_up) was called: the kernel may have
    /// given them a request before they saw the signal. Not from a signal handler. Not for ever: a handler may have
    /// left its thread with the signal blocked. And only while it is still `wanted`: past that, a thread that has come
    /// out can be in again.
    pub(crate) fn wait_until_out(&self, wanted: impl Fn() -> bool) {
        let (this, end) = (gettid().as_raw(), Instant::now() + PATIENCE);
        for place in &self.threads {
            let thread = place.load(Ordering::SeqCst);
            let is_in = || ![0, this].contains(&thread) && place.load(Ordering::SeqCst) == thread;
            while is_in() && wanted() && Instant::now() < end {
                std::thread::yield_now();
            }
        }
    }

    /// The last resort, after [`wake_up`](Self::wake_up), at which the kernel's queue is lost: ends the calls of
    /// threads that have blocked the signal since. Not both ways: replies to datagrams may still leave. Where no thread
    /// is in the call the queue stays, to tell what is lost by it. Async-signal-safe.
    pub(crate) fn force(&self) {
        if self.threads.iter().any(|place| place.load(Ordering::SeqCst) != 0) {
            let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Read);
        }
    }

    /// The listening socket is closed.
    pub(crate) fn close(&self, placeholder: BorrowedFd<'_>) {
        self.on.store(false, Ordering::SeqCst);
        // It fails only for want of memory, and then the socket stays open as long as the handles do.
        let _ = sys::replace(self.socket.as_fd(), placeholder);
    }
}

/// A thread that may sleep; see [`Sleepers::enter`].
pub(crate) struct Asleep<'a> {
    place: &'a AtomicI32,
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.place.store(0, Ordering::SeqCst);
    }
}

//! What another thread, a signal handler or a forked child says to the accept loop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{Shutdown, shutdown};

/// Event descriptors (eventfd(2)) and the flags that go with them.
///
/// `stop` is written once and never read: it stays readable, so every thread and process that waits on
/// it sees it, and none can eat another's wake-up. `wake` only says "look again" and is read by whoever
/// it wakes. `place` counts the places that have become free, and only an acceptor that waits for one
/// reads it: each wakes one such acceptor, and none that waits for requests can eat it.
///
/// What [`Wakeup::shutdown_signal`] and [`Wakeup::child_signal`] do is async-signal-safe: atomics,
/// write(2) and shutdown(2).
#[derive(Debug)]
pub(crate) struct Wakeup {
    stop: EventFd,
    wake: EventFd,
    place: EventFd,
    stopping: AtomicBool,
    forced: AtomicBool,
    shutdown_signals: AtomicU32,
    child_exited: AtomicBool,
    /// The loop is about to wait: only then does a child's end need a write(2).
    waiting: AtomicBool,
    /// This is the memory of a forked child: signals of the terminal are the parent's matter.
    in_child: AtomicBool,
    /// The socket of the request that the accept loop itself is serving, [`NONE`] or [`IN_USE`].
    inline_socket: AtomicI32,
    /// Inline requests whose socket was shut down.
    inline_forced: AtomicU32,
}

/// No request is served by the accept loop.
const NONE: RawFd = -1;
/// A signal handler is about to shut the inline socket down: its number must not be closed.
const IN_USE: RawFd = -2;

impl Wakeup {
    pub(crate) fn new() -> Result<Self, Errno> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Wakeup {
            stop: EventFd::from_flags(flags)?,
            wake: EventFd::from_flags(flags)?,
            place: EventFd::from_flags(flags | EfdFlags::EFD_SEMAPHORE)?,
            stopping: AtomicBool::new(false),
            forced: AtomicBool::new(false),
            shutdown_signals: AtomicU32::new(0),
            child_exited: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            in_child: AtomicBool::new(false),
            inline_socket: AtomicI32::new(NONE),
            inline_forced: AtomicU32::new(0),
        })
    }

    /// Asks the server to stop. Again is the same as once.
    pub(crate) fn shutdown(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        // It fails only when it is already readable (EAGAIN).
        let _ = self.stop.write(1);
    }

    /// A shutdown signal arrived: the first drains, a second stops at once.
    pub(crate) fn shutdown_signal(&self) {
        if self.in_child.load(Ordering::Relaxed) {
            return;
        }
        if self.shutdown_signals.fetch_add(1, Ordering::SeqCst) > 0 {
            self.force();
        }
        self.shutdown();
    }

    /// Ends the patience of a drain. A loop that is busy in a handler cannot hear of it: its socket is
    /// shut down from here, so that the handler's reads and writes end.
    pub(crate) fn force(&self) {
        self.forced.store(true, Ordering::SeqCst);
        let socket = self.inline_socket.load(Ordering::SeqCst);
        if socket >= 0 && self.swap_inline(socket, IN_USE) {
            let _ = shutdown(socket, Shutdown::Both);
            self.inline_forced.fetch_add(1, Ordering::SeqCst);
            self.inline_socket.store(socket, Ordering::SeqCst);
        }
        self.wake();
    }

    fn swap_inline(&self, from: RawFd, to: RawFd) -> bool {
        self.inline_socket
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// The accept loop serves a request itself, on this socket.
    pub(crate) fn serve_inline(&self, socket: RawFd) {
        self.inline_socket.store(socket, Ordering::SeqCst);
        if self.is_forced() {
            // Whoever forced may have looked before the store.
            self.force();
        }
    }

    /// `socket` is about to be closed; waits out a signal handler that is just using its number.
    pub(crate) fn forget_inline(&self, socket: RawFd) {
        loop {
            match self.inline_socket.load(Ordering::SeqCst) {
                IN_USE => std::hint::spin_loop(),
                current if current == socket => {
                    if self.swap_inline(socket, NONE) {
                        return;
                    }
                }
                _ => return,
            }
        }
    }

    pub(crate) fn inline_forced(&self) -> u32 {
        self.inline_forced.load(Ordering::SeqCst)
    }

    /// SIGCHLD arrived.
    pub(crate) fn child_signal(&self) {
        self.child_exited.store(true, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Makes the loop look again.
    pub(crate) fn wake(&self) {
        let _ = self.wake.write(1);
    }

    /// A place has become free, and an acceptor waits for one.
    pub(crate) fn give_place(&self) {
        let _ = self.place.write(1);
    }

    /// Takes one [`Wakeup::give_place`].
    pub(crate) fn take_place(&self) {
        let _ = self.place.read();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        if self.stopping.load(Ordering::SeqCst) {
            return true;
        }
        // A child has the flags as they were at its fork, but shares the descriptor.
        let stopping = self.in_child.load(Ordering::Relaxed) && readable(self.stop.as_fd());
        if stopping {
            self.stopping.store(true, Ordering::SeqCst);
        }
        stopping
    }

    /// The loop saw `stop` readable: perhaps a child asked, whose flags are not ours.
    pub(crate) fn stop_seen(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_forced(&self) -> bool {
        self.forced.load(Ordering::SeqCst)
    }

    /// Whether a child has ended since the last call.
    pub(crate) fn take_child_exited(&self) -> bool {
        self.child_exited.swap(false, Ordering::SeqCst)
    }

    /// From now on until [`Wakeup::awake`], a child's end writes `wake`.
    pub(crate) fn about_to_wait(&self) {
        self.waiting.store(true, Ordering::SeqCst);
    }

    pub(crate) fn awake(&self) {
        self.waiting.store(false, Ordering::SeqCst);
    }

    /// This process is a forked child.
    pub(crate) fn enter_child(&self) {
        self.in_child.store(true, Ordering::Relaxed);
        self.awake();
    }

    /// Takes the wake-up, so that the next wait waits.
    pub(crate) fn clear(&self) {
        let _ = self.wake.read();
    }

    /// Waits for a wake-up or a place, stopping or not, at most `timeout`; takes it.
    pub(crate) fn wait(&self, timeout: Duration) -> io::Result<()> {
        let mut fds = [
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.place.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, poll_timeout(timeout)) {
            Ok(0) | Err(Errno::EINTR) => Ok(()),
            Ok(_) => {
                self.clear();
                self.take_place();
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for a wake-up or for being told to stop; takes the wake-up.
    pub(crate) fn wait_stop(&self) -> io::Result<()> {
        let mut fds = [
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {
                if fds[0].any().unwrap_or_default() {
                    self.stop_seen();
                }
                self.clear();
                Ok(())
            }
            Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(crate) fn stop_fd(&self) -> BorrowedFd<'_> {
        self.stop.as_fd()
    }

    pub(crate) fn place_fd(&self) -> BorrowedFd<'_> {
        self.place.as_fd()
    }

    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

fn readable(fd: BorrowedFd<'_>) -> bool {
    matches!(
        poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO),
        Ok(1..)
    )
}

/// In milliseconds, rounded up so that a wait is never short of its deadline by rounding.
fn poll_timeout(timeout: Duration) -> PollTimeout {
    let millis = timeout.as_micros().div_ceil(1000);
    i32::try_from(millis)
        .ok()
        .and_then(|millis| millis.try_into().ok())
        .unwrap_or(PollTimeout::MAX)
}

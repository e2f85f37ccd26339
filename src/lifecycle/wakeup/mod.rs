//! What another thread, a signal handler or a forked child says to the accept loop.

mod deadline;
mod inline;
mod signals;
mod sleeping;
mod stop;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::Pid;

use super::inline::InlineRequests;
use super::sleepers::Sleepers;
use super::stamp::Stamp;
use crate::poll::{poll, wait_for};
use crate::sys;

use deadline::Deadline;

/// Event descriptors (eventfd(2)) and the flags that go with them.
///
/// `stop` is written once and never read: it stays readable, so every thread and process that waits on
/// it sees it, and none can eat another's wake-up. `wake` only says "look again" and is read by whoever
/// it wakes; `ended` says so to the one thread that drains, which shares it with nobody. `place` counts
/// the places that have become free, and only an acceptor that waits for one reads it: each wakes one such
/// acceptor, and none that waits for requests can eat it. `turn` says that requests which wait for their
/// address's turn may run, or will at their time; only acceptors that wait for requests read it.
///
/// What [`shutdown_from_anywhere`](Self::shutdown_from_anywhere), [`nudge`](Self::nudge) and the methods named after
/// signals do is async-signal-safe (signal-safety(7)).
#[derive(Debug)]
pub(crate) struct Wakeup {
    stop: EventFd,
    wake: EventFd,
    place: EventFd,
    turn: EventFd,
    ended: EventFd,
    /// Of a worker of a prefork server: readable once its master's process has ended, whatever a handler has made of
    /// the signal that says so.
    masters_end: OnceLock<OwnedFd>,
    /// When the server was told to stop.
    stopped: Stamp,
    /// When the patience with its requests ended.
    forced: Stamp,
    /// The loops have ended, and one thread drains.
    draining: AtomicBool,
    shutdown_signals: AtomicU32,
    child_exited: AtomicBool,
    /// The signals that the accept loop has to do something about, a bit each.
    signals: AtomicU64,
    /// So many are about to wait: only then does a child's end need a write(2).
    waiting: AtomicUsize,
    /// This is the memory of a forked child, which shares `stop`.
    in_child: AtomicBool,
    /// The process that serves, and that signals are for: the terminal sends them to the whole group. 0: none has yet.
    process: AtomicI32,
    /// The process that has made the server, which serves unless another does.
    maker: Pid,
    /// That of the process that serves, or has made the server ([`sys::generation`]).
    generation: AtomicU32,
    inline: InlineRequests,
    /// Threads that wait for requests without looking at any of these.
    sleepers: OnceLock<Sleepers>,
    /// A worker of a prefork server has one beside that of its master, and so has a daemon.
    deadlines: [OnceLock<Deadline>; 2],
    /// This process may end itself as the last resort: nobody else would, if its loop never came back from a handler.
    may_exit: AtomicBool,
    /// A signal has asked for the end of the process.
    asked_to_exit: AtomicBool,
}

impl Wakeup {
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Wakeup {
            stop: event(EfdFlags::empty())?,
            wake: event(EfdFlags::empty())?,
            place: event(EfdFlags::EFD_SEMAPHORE)?,
            turn: event(EfdFlags::empty())?,
            ended: event(EfdFlags::empty())?,
            masters_end: OnceLock::new(),
            stopped: Stamp::new(),
            forced: Stamp::new(),
            draining: AtomicBool::new(false),
            shutdown_signals: AtomicU32::new(0),
            child_exited: AtomicBool::new(false),
            signals: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            in_child: AtomicBool::new(false),
            process: AtomicI32::new(0),
            maker: Pid::this(),
            generation: sys::generation().into(),
            inline: InlineRequests::default(),
            sleepers: OnceLock::new(),
            deadlines: [const { OnceLock::new() }; 2],
            may_exit: AtomicBool::new(false),
            asked_to_exit: AtomicBool::new(false),
        })
    }

    /// In a forked process that serves by itself: makes all this anew, with `wake`, which the parent has
    /// too; `stopping` from the beginning or not, whatever the parent was told. Shutdown signals are not for
    /// it, and it may be ended as the last resort. Returns the parent's `stop` and `wake`.
    pub(crate) fn renew(&self, wake: &EventFd, stopping: bool) -> io::Result<(OwnedFd, OwnedFd)> {
        let parents = (
            self.stop.as_fd().try_clone_to_owned()?,
            self.wake.as_fd().try_clone_to_owned()?,
        );
        sys::replace(self.stop.as_fd(), event(EfdFlags::empty())?.as_fd())?;
        sys::replace(self.wake.as_fd(), wake.as_fd())?;
        sys::replace(self.place.as_fd(), event(EfdFlags::EFD_SEMAPHORE)?.as_fd())?;
        sys::replace(self.turn.as_fd(), event(EfdFlags::empty())?.as_fd())?;
        sys::replace(self.ended.as_fd(), event(EfdFlags::empty())?.as_fd())?;
        self.signals.store(0, Ordering::SeqCst);
        self.waiting.store(0, Ordering::SeqCst);
        for flag in [&self.child_exited, &self.draining] {
            flag.store(false, Ordering::SeqCst);
        }
        for flag in [&self.may_exit, &self.asked_to_exit] {
            flag.store(true, Ordering::SeqCst);
        }
        self.inline.give_back_in_child();
        self.stopped.clear();
        if stopping {
            self.shutdown();
        }
        Ok(parents)
    }

    /// In a worker, before anything waits: waiting ends with the master, too. Without that (before Linux 5.3, or in a
    /// sandbox) the signal has to do.
    pub(crate) fn watch_master(&self, master: Pid) {
        if let Ok(end) = sys::watch_process(master) {
            let _ = self.masters_end.set(end);
        }
    }

    pub(crate) fn in_child(&self) -> bool {
        self.in_child.load(Ordering::Relaxed)
    }

    /// This process is a forked child.
    pub(crate) fn enter_child(&self) {
        self.in_child.store(true, Ordering::Relaxed);
        self.inline.give_back_in_child();
        self.waiting.store(0, Ordering::SeqCst);
    }

    /// Makes the loop look again.
    pub(crate) fn wake(&self) {
        let _ = self.wake.write(1);
        self.wake_sleepers();
    }

    /// A place has become free, and an acceptor waits for one.
    pub(crate) fn give_place(&self) {
        let _ = self.place.write(1);
    }

    /// Takes one [`Wakeup::give_place`].
    pub(crate) fn take_place(&self) {
        let _ = self.place.read();
    }

    /// A request that waits for its address's turn may run, or something else is to be done at its time: an acceptor
    /// that waits for requests shall look.
    pub(crate) fn give_turn(&self) {
        let _ = self.turn.write(1);
        self.wake_sleepers();
    }

    /// Takes all [`Wakeup::give_turn`]: whoever does looks for such requests, and gives another if it leaves some.
    pub(crate) fn take_turn(&self) {
        let _ = self.turn.read();
    }

    /// Makes the thread that drains look again.
    pub(crate) fn wake_drain(&self) {
        let _ = self.ended.write(1);
    }

    /// The loops have ended: the one thread that is left drains.
    pub(crate) fn begin_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Takes the wake-up, so that the next wait waits.
    pub(crate) fn take_wake(&self) {
        let _ = self.wake.read();
    }

    /// Waits for a wake-up or a place, stopping or not, at most `timeout`; takes it. True if there was one.
    pub(crate) fn wait_place(&self, timeout: Duration) -> io::Result<bool> {
        wait_for(&[&self.wake, &self.place], timeout)
    }

    /// Waits for a wake-up, stopping or not, at most `timeout`; takes it.
    pub(crate) fn wait(&self, timeout: Duration) -> io::Result<()> {
        wait_for(&[&self.wake], timeout).map(drop)
    }

    /// For the thread that drains: waits for [`wake_drain`](Self::wake_drain), at most `timeout`.
    pub(crate) fn wait_ended(&self, timeout: Duration) -> io::Result<()> {
        wait_for(&[&self.ended], timeout).map(drop)
    }

    /// Waits for a wake-up or for being told to stop, at most `timeout`; takes the wake-up.
    pub(crate) fn wait_stop(&self, timeout: Option<Duration>) -> io::Result<()> {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [
            readable(self.stop.as_fd()),
            readable(self.wake.as_fd()),
            // Where there is none, stop is looked at twice.
            readable(self.masters_end().unwrap_or(self.stop.as_fd())),
        ];
        match poll(&mut fds, timeout) {
            Ok(_) => {
                let [stop, _, masters_end] = fds.map(|fd| fd.any().unwrap_or_default());
                if stop {
                    self.stop_seen();
                } else if masters_end {
                    self.shutdown();
                }
                self.take_wake();
                Ok(())
            }
            Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(crate) fn stop_fd(&self) -> BorrowedFd<'_> {
        self.stop.as_fd()
    }

    pub(crate) fn masters_end(&self) -> Option<BorrowedFd<'_>> {
        self.masters_end.get().map(AsFd::as_fd)
    }

    pub(crate) fn place_fd(&self) -> BorrowedFd<'_> {
        self.place.as_fd()
    }

    pub(crate) fn turn_fd(&self) -> BorrowedFd<'_> {
        self.turn.as_fd()
    }

    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// An event descriptor.
pub(crate) fn event(flags: EfdFlags) -> Result<EventFd, Errno> {
    EventFd::from_flags(flags | EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll::readable;

    fn events(wakeup: &Wakeup) -> [&EventFd; 5] {
        [&wakeup.stop, &wakeup.wake, &wakeup.place, &wakeup.turn, &wakeup.ended]
    }

    // One of a worker's that its master or another worker shared would be taken there, and wake nobody here.
    #[test]
    fn a_process_that_serves_by_itself_shares_no_wake_up_with_its_parent() {
        let wakeup = Wakeup::new().unwrap();
        let parents = events(&wakeup).map(|event| event.as_fd().try_clone_to_owned().unwrap());
        wakeup.renew(&event(EfdFlags::empty()).unwrap(), false).unwrap();
        wakeup.shutdown();
        wakeup.wake();
        wakeup.give_place();
        wakeup.give_turn();
        wakeup.wake_drain();
        assert_eq!(events(&wakeup).map(|event| readable(event.as_fd())), [true; 5]);
        assert_eq!(parents.map(|event| readable(event.as_fd())), [false; 5]);
    }
}

//! What another thread, a signal handler or a forked child says to the accept loop.

mod deadline;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::inline::{Inline, InlineRequests};
use super::sleepers::Sleepers;
use super::stamp::Stamp;
use crate::poll::{poll, readable, wait_for};
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
    /// Of a worker of a prefork server: readable once its master's process has ended, whatever a handler has made of the
    /// signal that says so.
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

    // ----- Being told to stop --------------------------------------------------------------------

    /// Asks the server to stop. Again is the same as once.
    pub(crate) fn shutdown(&self) {
        self.say_stop();
        self.tell_threads();
    }

    /// As [`shutdown`](Self::shutdown), in whatever process. In one that another server has forked nothing is known of
    /// the threads that serve, which may sleep in accept(2) or be busy in a handler: a signal has them look at `stop`.
    pub(crate) fn shutdown_from_anywhere(&self) {
        self.say_stop();
        // This process may begin to serve meanwhile (daemon(3)): it sees that, or is seen here.
        fence(Ordering::SeqCst);
        let serves = match self.process.load(Ordering::Relaxed) {
            0 => self.maker,
            process => Pid::from_raw(process),
        };
        let is_here = serves == Pid::this();
        // The request of a child is served here, too.
        if is_here || self.in_child() {
            self.tell_threads();
        }
        if !is_here {
            let _ = kill(serves, sys::NUDGE);
        }
    }

    /// Says so to all who look, in whatever process.
    fn say_stop(&self) {
        self.stop_seen();
        // It fails only when it is already readable (EAGAIN).
        let _ = self.stop.write(1);
    }

    /// Has the threads see that sleep in accept(2), or serve a request themselves.
    fn tell_threads(&self) {
        self.wake_sleepers();
        self.attend_inline();
    }

    /// In the handler of [`sys::NUDGE`]: another process may have [told](Self::shutdown_from_anywhere) the server to
    /// stop.
    fn hear_of_stop(&self) {
        if !self.is_told_to_stop() && !self.in_child() && !self.is_deaf() && readable(self.stop.as_fd()) {
            self.shutdown();
        }
    }

    /// The server was told to stop; a loop that saw `stop` readable was perhaps told by a child, whose
    /// flags are not ours. The first time, the deadline begins.
    pub(crate) fn stop_seen(&self) {
        if self.stopped.set() {
            self.start_timer();
        }
    }

    /// When the server was told to stop; now, if it was not.
    pub(crate) fn stopped_at(&self) -> Instant {
        self.stopped.get().unwrap_or_else(Instant::now)
    }

    /// A shutdown signal arrived: the first drains, a second, or `at_once` any, stops at once.
    pub(crate) fn shutdown_signal(&self, signal: i32, at_once: bool) {
        if self.is_deaf() {
            return;
        }
        if [SIGHUP, SIGINT, SIGQUIT, SIGTERM].contains(&signal) {
            self.asked_to_exit.store(true, Ordering::SeqCst);
        }
        if self.shutdown_signals.fetch_add(1, Ordering::SeqCst) > 0 || at_once {
            self.force();
        }
        self.shutdown();
    }

    /// A signal arrived that the accept loop has to do something about, or the drain.
    pub(crate) fn note_signal(&self, signal: i32) {
        if !self.is_deaf() {
            self.signals.fetch_or(Self::signal_bit(signal), Ordering::SeqCst);
            self.tell_of_signals();
        }
    }

    /// Has the accept loop, or the drain, look for signals.
    pub(crate) fn tell_of_signals(&self) {
        self.wake();
        self.wake_drain();
    }

    /// This process serves: not earlier, because a program may become a daemon after it has bound.
    pub(crate) fn serves_here(&self) {
        self.generation.store(sys::generation(), Ordering::Relaxed);
        self.process.store(Pid::this().as_raw(), Ordering::Relaxed);
        // See `shutdown_from_anywhere`.
        fence(Ordering::SeqCst);
    }

    /// Whether signals are another process's matter: what the server, a handler or another server of the program has
    /// forked has these handlers, too, and shares the descriptors.
    fn is_deaf(&self) -> bool {
        let process = self.process.load(Ordering::Relaxed);
        // Where none serves yet, any process may become the one that does, as a daemon may, but no worker: that shows
        // by its generation.
        self.generation.load(Ordering::Relaxed) != sys::generation()
            || (process != 0 && process != Pid::this().as_raw())
    }

    /// Signals are numbered from 1 to 64 (signal(7)).
    pub(crate) fn signal_bit(signal: i32) -> u64 {
        1_u64.rotate_left(signal.unsigned_abs())
    }

    pub(crate) fn has_signals(&self) -> bool {
        self.signals.load(Ordering::Relaxed) != 0
    }

    /// The bits of the signals noted since the last call.
    pub(crate) fn take_signals(&self) -> u64 {
        self.signals.swap(0, Ordering::SeqCst)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        if self.is_told_to_stop() {
            return true;
        }
        // A child has the flags as they were at its fork, but shares the descriptor.
        let stopping = self.in_child.load(Ordering::Relaxed) && readable(self.stop.as_fd());
        if stopping {
            self.stop_seen();
        }
        stopping
    }

    /// As [`is_stopping`](Self::is_stopping), without a system call: a forked child may not know yet.
    pub(crate) fn is_told_to_stop(&self) -> bool {
        self.stopped.is_set()
    }

    // ----- The requests that the loop itself serves --------------------------------------------------

    /// A thread that would see to the drain serves a request itself.
    pub(crate) fn begin_inline(&self, inline: Inline) {
        self.inline.begin(inline);
        // Whoever told it may have looked before.
        if self.is_told_to_stop() {
            self.attend_inline();
        }
    }

    /// As [`begin_inline`](Self::begin_inline), for a datagram.
    pub(crate) fn begin_inline_datagram(&self) {
        self.inline.begin_datagram();
    }

    pub(crate) fn end_inline_datagram(&self) {
        self.inline.end_datagram();
    }

    /// Before its socket is closed.
    pub(crate) fn end_inline(&self, number: u64) {
        self.inline.end(number);
        // Whoever had something to tell the others may have found this thread at them.
        if self.is_told_to_stop() {
            self.attend_inline();
        }
    }

    fn attend_inline(&self) {
        loop {
            let forced = self.is_forced();
            // Whoever finds another at them leaves it to that one, who looks again.
            if !self.inline.try_attend(forced) || forced == self.is_forced() {
                return;
            }
        }
    }

    // ----- Children ------------------------------------------------------------------------------

    /// SIGCHLD arrived.
    pub(crate) fn child_signal(&self) {
        self.child_exited.store(true, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            if self.draining.load(Ordering::SeqCst) {
                self.wake_drain();
            } else {
                self.wake();
            }
        }
    }

    /// Whether a child has ended since the last call.
    pub(crate) fn take_child_exited(&self) -> bool {
        self.child_exited.swap(false, Ordering::SeqCst)
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

    // ----- Waiting -------------------------------------------------------------------------------

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

    /// From now on at most so many threads may wait for requests in the system call that takes them; `None` if
    /// that was said before.
    pub(crate) fn let_sleep(&self, socket: BorrowedFd<'_>, threads: usize) -> io::Result<Option<&Sleepers>> {
        let new = self.sleepers.set(Sleepers::new(socket, threads)?).is_ok();
        // Whoever has news meanwhile sees the sleepers, or the caller, who looks then, the news.
        fence(Ordering::SeqCst);
        Ok(self.sleepers().filter(|_| new))
    }

    pub(crate) fn sleepers(&self) -> Option<&Sleepers> {
        self.sleepers.get()
    }

    /// To be called once everybody can see that nobody is to accept. From then on calls that accept do not wait, and
    /// when it returns, the threads that were in one are out. (Whoever has said that nobody is to accept may not have
    /// got to this itself yet.) It gives up when that is not so any more: a thread that came out may sleep again then.
    pub(crate) fn bring_sleepers_out(&self, nobody_is_to: impl Fn() -> bool) {
        if let Some(sleepers) = self.sleepers() {
            sleepers.wake_up();
            sleepers.wait_until_out(nobody_is_to);
        }
    }

    /// The listening socket is closed, and nobody has anything to say to it any more.
    pub(crate) fn close_sleepers(&self) {
        if let Some(sleepers) = self.sleepers() {
            sleepers.close(self.stop.as_fd());
        }
    }

    fn wake_sleepers(&self) {
        // Between the news and the look: see `let_sleep`.
        fence(Ordering::SeqCst);
        if let Some(sleepers) = self.sleepers() {
            sleepers.wake_up();
            if self.is_forced() && self.is_told_to_stop() {
                sleepers.force();
            }
        }
    }

    /// Until the guard is dropped, a child's end makes whoever waits look again.
    pub(crate) fn about_to_wait(&self) -> AboutToWait<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        AboutToWait(self)
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

/// See [`Wakeup::about_to_wait`].
#[must_use]
pub(crate) struct AboutToWait<'a>(&'a Wakeup);

impl Drop for AboutToWait<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An event descriptor.
pub(crate) fn event(flags: EfdFlags) -> Result<EventFd, Errno> {
    EventFd::from_flags(flags | EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use nix::fcntl::{FcntlArg::F_GETFL, OFlag, fcntl};
    use signal_hook::consts::SIGUSR1;

    use super::*;

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

    // As in a daemon, where the server was made in another process.
    #[test]
    fn a_process_that_begins_to_serve_sees_that_it_was_told_to_stop_or_is_told() {
        // Greater than any process's (proc(5), pid_max).
        let nobody = Pid::from_raw(i32::MAX);
        for _ in 0..2000 {
            let wakeup = Wakeup {
                maker: nobody,
                ..Wakeup::new().unwrap()
            };
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            wakeup.let_sleep(listener.as_fd(), 1).unwrap();
            let together = AtomicUsize::new(0);
            let begin = || {
                together.fetch_add(1, Ordering::SeqCst);
                while together.load(Ordering::SeqCst) < 2 {
                    thread::yield_now();
                }
            };
            let sees_it = thread::scope(|scope| {
                scope.spawn(|| {
                    begin();
                    wakeup.shutdown_from_anywhere();
                });
                begin();
                wakeup.serves_here();
                wakeup.is_told_to_stop()
            });
            // One that sleeps in accept(2) comes out.
            let is_told = || fcntl(&listener, F_GETFL).unwrap() & OFlag::O_NONBLOCK.bits() != 0;
            assert!(sees_it || is_told());
        }
    }

    #[test]
    fn the_loop_and_the_drain_hear_of_a_signal() {
        let wakeup = Wakeup::new().unwrap();
        wakeup.note_signal(SIGUSR1);
        let heard = [&wakeup.wake, &wakeup.ended].map(|event| readable(event.as_fd()));
        assert_eq!(heard, [true; 2]);
        assert_eq!(wakeup.take_signals(), Wakeup::signal_bit(SIGUSR1));
    }

    #[test]
    fn what_a_parent_serves_itself_does_not_keep_its_child_busy() {
        let into_child: [fn(&Wakeup); 2] = [Wakeup::enter_child, |wakeup| {
            wakeup.renew(&event(EfdFlags::empty()).unwrap(), false).unwrap();
        }];
        for enter in into_child {
            let wakeup = Wakeup::new().unwrap();
            wakeup.begin_inline_datagram();
            enter(&wakeup);
            assert_eq!(wakeup.inline.is_busy(), Some(false));
        }
    }
}

//! Waiting for the listener and for wake-ups.

use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::lifecycle::Wakeup;
use crate::mutex::Mutex;
use crate::poll::poll_timeout;
use crate::sys;

/// Waits for the listener and for wake-ups, in sets (epoll(7)) that a process never changes once it has made
/// them, unless accepting is suspended or resumed, or it shares the listener with others.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// The listener (while accepting is not suspended), stop, wake, a worker's master, and the turn of a request that
    /// waits. Threads that accept beside each other use different sets, because a connection wakes everybody who waits
    /// in one set, but only one of the sets (`EPOLLEXCLUSIVE`). Made when they are needed, the first one at once.
    all: [OnceLock<Epoll>; SETS],
    /// Stop, wake, a worker's master, and a place among the requests in progress.
    quiet: Epoll,
    /// Whether the listener is in the sets.
    listening: AtomicBool,
    /// Held while sets are made or changed.
    changing: Mutex<()>,
    /// Other processes wait for the listener, too.
    shared: AtomicBool,
    /// No more sets are made.
    spares_descriptors: AtomicBool,
}

/// As many threads wait without waking each other up for nothing.
const SETS: usize = 4;

/// The tokens of what is waited for.
const LISTENER: u64 = 0;
const STOP: u64 = 1;
const WAKE: u64 = 2;
const PLACE: u64 = 3;
const TURN: u64 = 4;
const MASTERS_END: u64 = 5;

/// How a wait has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitEnd {
    Request,
    /// Something else than a request: look at everything again.
    Other,
    TimedOut,
}

impl Waiter {
    pub(crate) fn new(listener: &impl AsFd, wakeup: &Wakeup) -> io::Result<Self> {
        let quiet = quiet_set(wakeup)?;
        let mut all = [const { OnceLock::new() }; SETS];
        all[0] = listener_set(Some(listener), wakeup)?.into();
        Ok(Waiter {
            all,
            quiet,
            listening: AtomicBool::new(true),
            changing: Mutex::new(()),
            shared: AtomicBool::new(false),
            spares_descriptors: AtomicBool::new(false),
        })
    }

    /// Those sets with the listener that there are.
    fn sets(&self) -> impl Iterator<Item = &Epoll> {
        self.all.iter().filter_map(OnceLock::get)
    }

    /// In a forked process that accepts by itself: makes the sets anew. Those of the parent stay as they are.
    pub(crate) fn renew(&self, listener: &impl AsFd, wakeup: &Wakeup) -> io::Result<()> {
        sys::replace(self.quiet.0.as_fd(), quiet_set(wakeup)?.0.as_fd())?;
        for set in self.sets() {
            sys::replace(set.0.as_fd(), listener_set(Some(listener), wakeup)?.0.as_fd())?;
        }
        self.listening.store(true, Ordering::SeqCst);
        self.shared.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// From now on the sets that there are do: the process has no descriptors to spare.
    pub(crate) fn spare_descriptors(&self) {
        self.spares_descriptors.store(true, Ordering::Relaxed);
    }

    /// Takes the listener out of the sets, or puts it back, as `suspended` says at last. That takes it away
    /// from all who wait, at once and without waking them.
    pub(crate) fn keep_suspension(&self, listener: &impl AsFd, suspended: impl Fn() -> bool) -> io::Result<()> {
        if self.listening.load(Ordering::SeqCst) != suspended() {
            return Ok(());
        }
        let _changing = self.changing.lock();
        let listen = !suspended();
        for set in self.sets() {
            let changed = if listen {
                watch(set, listener)
            } else {
                set.delete(listener)
            };
            match changed {
                // Done before an attempt that failed.
                Ok(()) | Err(Errno::EEXIST | Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.listening.store(listen, Ordering::SeqCst);
        Ok(())
    }

    /// A wake-up has come. If other processes wait for the listener, too: has all threads that wait look at it as
    /// if for the first time.
    ///
    /// A request wakes one of the processes. If that one ends instead of accepting, no other has been told: the
    /// master wakes them, and they look again. Whichever thread takes the wake-up, it may not be one that accepts.
    pub(crate) fn look_again(&self, listener: &impl AsFd) {
        if !self.shared.load(Ordering::Relaxed) {
            return;
        }
        let _changing = self.changing.lock();
        if !self.listening.load(Ordering::SeqCst) {
            return;
        }
        let anew = |set: &Epoll| set.delete(listener).and_then(|()| watch(set, listener));
        if let Err(errno) = self.sets().try_for_each(anew) {
            log::debug!("no thread waits for requests until the next turn puts the listener back: {errno}");
            for set in self.sets() {
                let _ = set.delete(listener);
            }
            self.listening.store(false, Ordering::SeqCst);
        }
    }

    /// Waits in the set with this number for a request, a wake-up, or the end of `timeout`.
    pub(super) fn wait(
        &self,
        number: usize,
        listener: &impl AsFd,
        wakeup: &Wakeup,
        timeout: Option<Duration>,
    ) -> io::Result<WaitEnd> {
        let own = &self.all[number % SETS];
        if own.get().is_none() && !self.spares_descriptors.load(Ordering::Relaxed) {
            let _changing = self.changing.lock();
            let listener = self.listening.load(Ordering::SeqCst).then_some(listener);
            // Without a descriptor for it, the first set does.
            if let Ok(set) = listener_set(listener, wakeup) {
                let _ = own.set(set);
            }
        }
        match own.get().or(self.all[0].get()) {
            Some(set) => self.wait_in(set, listener, wakeup, timeout),
            None => Ok(WaitEnd::Other),
        }
    }

    /// Waits for a wake-up, a place or the end of `timeout`, whatever requests there are.
    pub(crate) fn wait_quiet(
        &self,
        listener: &impl AsFd,
        wakeup: &Wakeup,
        timeout: Option<Duration>,
    ) -> io::Result<WaitEnd> {
        self.wait_in(&self.quiet, listener, wakeup, timeout)
    }

    fn wait_in(
        &self,
        set: &Epoll,
        listener: &impl AsFd,
        wakeup: &Wakeup,
        timeout: Option<Duration>,
    ) -> io::Result<WaitEnd> {
        match wait_one(set, timeout)? {
            None => return Ok(WaitEnd::TimedOut),
            Some(LISTENER) => return Ok(WaitEnd::Request),
            Some(STOP) => wakeup.stop_seen(),
            Some(MASTERS_END) => wakeup.shutdown(),
            Some(PLACE) => wakeup.take_place(),
            Some(TURN) => wakeup.take_turn(),
            Some(_) => {
                wakeup.take_wake();
                self.look_again(listener);
            }
        }
        Ok(WaitEnd::Other)
    }
}

fn wakeup_set(wakeup: &Wakeup) -> io::Result<Epoll> {
    let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    set.add(wakeup.stop_fd(), EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
    set.add(wakeup.wake_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
    if let Some(end) = wakeup.masters_end() {
        set.add(end, EpollEvent::new(EpollFlags::EPOLLIN, MASTERS_END))?;
    }
    Ok(set)
}

fn quiet_set(wakeup: &Wakeup) -> io::Result<Epoll> {
    let set = wakeup_set(wakeup)?;
    set.add(wakeup.place_fd(), EpollEvent::new(EpollFlags::EPOLLIN, PLACE))?;
    Ok(set)
}

fn listener_set(listener: Option<&impl AsFd>, wakeup: &Wakeup) -> io::Result<Epoll> {
    let set = wakeup_set(wakeup)?;
    set.add(wakeup.turn_fd(), EpollEvent::new(EXCLUSIVE, TURN))?;
    if let Some(listener) = listener {
        watch(&set, listener)?;
    }
    Ok(set)
}

fn watch(set: &Epoll, listener: &impl AsFd) -> nix::Result<()> {
    set.add(listener, EpollEvent::new(EXCLUSIVE, LISTENER))
}

const EXCLUSIVE: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLEXCLUSIVE);

/// The token of one event, or `None` when the time was over or a signal came.
fn wait_one(set: &Epoll, timeout: Option<Duration>) -> io::Result<Option<u64>> {
    let mut events = [EpollEvent::empty()];
    match set.wait(&mut events, timeout.map_or(EpollTimeout::NONE, poll_timeout)) {
        Ok(0) | Err(Errno::EINTR) => Ok(None),
        Ok(_) => Ok(Some(events[0].data())),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;
    use std::thread;

    use nix::unistd::gettid;

    use super::*;

    const CEILING: Duration = Duration::from_secs(10);

    /// Waits until a thread of this process sleeps in a system call.
    fn wait_until_asleep(thread: impl std::fmt::Display) {
        let path = format!("/proc/self/task/{thread}/stat");
        while !fs::read_to_string(&path).unwrap().contains(") S ") {
            thread::yield_now();
        }
    }

    #[test]
    fn whoever_takes_a_wake_up_has_those_look_again_that_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wakeups = [(); 2].map(|()| Wakeup::new().unwrap());
        // As in two processes that share the listener.
        let waiters = [0, 1].map(|process: usize| {
            let waiter = Waiter::new(&listener, &wakeups[process]).unwrap();
            waiter.renew(&listener, &wakeups[process]).unwrap();
            waiter
        });
        let (threads, waiting) = mpsc::channel();
        let (requests, woken) = mpsc::channel();
        thread::scope(|scope| {
            for process in 0..2 {
                let (threads, requests) = (threads.clone(), requests.clone());
                let (waiter, wakeup, listener) = (&waiters[process], &wakeups[process], &listener);
                scope.spawn(move || {
                    threads.send(gettid()).unwrap();
                    let end = waiter.wait(0, listener, wakeup, Some(CEILING)).unwrap();
                    assert!(end == WaitEnd::Request);
                    requests.send(process).unwrap();
                });
            }
            for _ in 0..2 {
                wait_until_asleep(waiting.recv().unwrap());
            }
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let first = woken.recv_timeout(CEILING).unwrap();
            // It does not accept, and the other has not been told.
            assert!(woken.recv_timeout(Duration::from_millis(50)).is_err());
            waiters[1 - first].look_again(&listener);
            assert_eq!(woken.recv_timeout(CEILING), Ok(1 - first));
        });
    }
}

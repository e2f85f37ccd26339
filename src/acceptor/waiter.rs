//! Waiting for the listener and for wake-ups.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::lifecycle::{Wakeup, poll_timeout};
use crate::sys;

/// Waits for the listener and for wake-ups, in sets (epoll(7)) that a process never changes once it has made
/// them, unless accepting is suspended or resumed, or it shares the listener with others.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// The listener (while accepting is not suspended), stop, wake, and the turn of a request that waits.
    /// Threads that accept beside each other use different sets, because a connection wakes everybody who
    /// waits in one set, but only one of the sets (`EPOLLEXCLUSIVE`). Made when they are needed, the first
    /// one at once.
    all: [OnceLock<Epoll>; SETS],
    /// Stop, wake, and a place among the requests in progress.
    quiet: Epoll,
    /// Whether the listener is in the sets.
    listening: AtomicBool,
    /// Held while sets are made or changed.
    changing: Mutex<()>,
    /// Other processes wait for the listener, too.
    shared: AtomicBool,
    /// A request may have woken one of them that did not accept it.
    look_again: AtomicBool,
}

/// As many threads wait without waking each other up for nothing.
const SETS: usize = 4;

/// The tokens of what is waited for.
const LISTENER: u64 = 0;
const STOP: u64 = 1;
const WAKE: u64 = 2;
const PLACE: u64 = 3;
const TURN: u64 = 4;

/// What a wait came back with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Request,
    /// Something else than a request: look at everything again.
    Other,
    TimedOut,
}

impl Waiter {
    pub(crate) fn new(listener: &impl AsFd, wakeup: &Wakeup) -> io::Result<Self> {
        let quiet = wakeup_set(wakeup)?;
        quiet.add(wakeup.place_fd(), EpollEvent::new(EpollFlags::EPOLLIN, PLACE))?;
        let mut all = [const { OnceLock::new() }; SETS];
        all[0] = listener_set(Some(listener), wakeup)?.into();
        Ok(Waiter {
            all,
            quiet,
            listening: AtomicBool::new(true),
            changing: Mutex::new(()),
            shared: AtomicBool::new(false),
            look_again: AtomicBool::new(false),
        })
    }

    /// In a forked process that accepts by itself: makes the sets anew. Those of the parent stay as they are.
    pub(crate) fn renew(&self, listener: &impl AsFd, wakeup: &Wakeup) -> io::Result<()> {
        let new = Self::new(listener, wakeup)?;
        sys::replace(self.quiet.0.as_fd(), new.quiet.0.as_fd())?;
        for set in self.all.iter().filter_map(OnceLock::get) {
            sys::replace(set.0.as_fd(), listener_set(Some(listener), wakeup)?.0.as_fd())?;
        }
        self.listening.store(true, Ordering::SeqCst);
        self.shared.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Takes the listener out of the sets, or puts it back, as `suspended` says at last. That takes it away
    /// from all who wait, at once and without waking them.
    pub(crate) fn suspend(&self, listener: &impl AsFd, suspended: impl Fn() -> bool) -> io::Result<()> {
        if self.listening.load(Ordering::SeqCst) != suspended() {
            return Ok(());
        }
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let listen = !suspended();
        for set in self.all.iter().filter_map(OnceLock::get) {
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

    /// Looks at the listener as if for the first time.
    ///
    /// A request wakes one of the processes that wait. If that one ends instead of accepting, no other has been
    /// told: the master wakes them, and they look again.
    fn look_again(&self, set: &Epoll, listener: &impl AsFd) -> io::Result<()> {
        if self.look_again.load(Ordering::Relaxed) && self.look_again.swap(false, Ordering::Relaxed) {
            let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
            if self.listening.load(Ordering::SeqCst) {
                set.delete(listener)?;
                watch(set, listener)?;
            }
        }
        Ok(())
    }

    /// Waits in the set with this number for a request, a wake-up, or the end of `timeout`.
    pub(super) fn wait(
        &self,
        number: usize,
        listener: &impl AsFd,
        wakeup: &Wakeup,
        timeout: Option<Duration>,
    ) -> io::Result<Event> {
        let own = &self.all[number % SETS];
        if own.get().is_none() {
            let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
            let listener = self.listening.load(Ordering::SeqCst).then_some(listener);
            // Without a descriptor for it, the first set does.
            if let Ok(set) = listener_set(listener, wakeup) {
                let _ = own.set(set);
            }
        }
        match own.get().or(self.all[0].get()) {
            Some(set) => {
                self.look_again(set, listener)?;
                self.wait_in(set, wakeup, timeout)
            }
            None => Ok(Event::Other),
        }
    }

    /// Waits for a wake-up, a place or the end of `timeout`, whatever requests there are.
    pub(crate) fn wait_quiet(&self, wakeup: &Wakeup, timeout: Option<Duration>) -> io::Result<Event> {
        self.wait_in(&self.quiet, wakeup, timeout)
    }

    fn wait_in(&self, set: &Epoll, wakeup: &Wakeup, timeout: Option<Duration>) -> io::Result<Event> {
        match wait_one(set, timeout)? {
            None => return Ok(Event::TimedOut),
            Some(LISTENER) => return Ok(Event::Request),
            Some(STOP) => wakeup.stop_seen(),
            Some(PLACE) => wakeup.take_place(),
            Some(TURN) => wakeup.take_turn(),
            Some(_) => {
                wakeup.clear();
                if self.shared.load(Ordering::Relaxed) {
                    self.look_again.store(true, Ordering::Relaxed);
                }
            }
        }
        Ok(Event::Other)
    }
}

fn wakeup_set(wakeup: &Wakeup) -> io::Result<Epoll> {
    let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    set.add(wakeup.stop_fd(), EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
    set.add(wakeup.wake_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
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

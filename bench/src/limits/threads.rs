//! One connection at a time, and the simpler ways to share connections among threads.

use std::io;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::socket::SockFlag;

use super::sys::{self, Fd};
use crate::servers::Setup;

/// One connection at a time.
pub fn sync(setup: &Setup) -> io::Result<()> {
    let listener = sys::open(setup, SockFlag::empty())?;
    accept_and_serve((listener, setup.bulk));
    Ok(())
}

fn accept_and_serve((listener, bulk): (Fd, bool)) {
    loop {
        if let Ok(connection) = sys::accept(listener) {
            sys::serve(connection, bulk);
        }
    }
}

/// So many threads, each of which accepts for itself: no queue.
pub fn accepting<const THREADS: usize>(setup: &Setup) -> io::Result<()> {
    let listener = sys::open(setup, SockFlag::empty())?;
    for _ in 1..THREADS {
        sys::start_thread(accept_and_serve, (listener, setup.bulk))?;
    }
    accept_and_serve((listener, setup.bulk));
    Ok(())
}

/// A new thread for each connection.
pub fn thread_each(setup: &Setup) -> io::Result<()> {
    let listener = sys::open(setup, SockFlag::empty())?;
    loop {
        let Ok(connection) = sys::accept(listener) else {
            continue;
        };
        if sys::start_thread(
            |(connection, bulk)| sys::serve(connection, bulk),
            (connection, setup.bulk),
        )
        .is_err()
        {
            sys::close(connection);
        }
    }
}

/// One thread accepts and hands each connection to a parked thread, the last that was parked, or to a
/// new one.
pub fn parked(setup: &Setup) -> io::Result<()> {
    let listener = sys::open(setup, SockFlag::empty())?;
    let parked: Arc<Mutex<Vec<Arc<Worker>>>> = Arc::default();
    loop {
        let Ok(connection) = sys::accept(listener) else {
            continue;
        };
        let worker = parked.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(worker) = worker {
            worker.give(connection);
            continue;
        }
        let worker = Arc::new(Worker::default());
        worker.give(connection);
        let (parked, bulk) = (Arc::clone(&parked), setup.bulk);
        if sys::start_thread(work, (worker, parked, bulk)).is_err() {
            sys::close(connection);
        }
    }
}

/// A thread that can be parked, and its next connection.
#[derive(Default)]
struct Worker {
    ready: AtomicU32,
    connection: AtomicI32,
}

impl Worker {
    fn give(&self, connection: Fd) {
        self.connection.store(connection, Ordering::Relaxed);
        self.ready.store(1, Ordering::Release);
        sys::futex_wake(&self.ready);
    }

    fn take(&self) -> Fd {
        while self.ready.swap(0, Ordering::Acquire) == 0 {
            sys::futex_wait(&self.ready, 0);
        }
        self.connection.load(Ordering::Relaxed)
    }
}

type Parked = Arc<Mutex<Vec<Arc<Worker>>>>;

fn work((worker, parked, bulk): (Arc<Worker>, Parked, bool)) {
    loop {
        sys::serve(worker.take(), bulk);
        parked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&worker));
    }
}

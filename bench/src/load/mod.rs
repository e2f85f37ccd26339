//! The load generator: clients in a few threads, each with an epoll set.
//!
//! Every echoed byte is compared with what was sent. What goes wrong is counted by what it was.

mod datagram;
mod endpoint;
mod stream;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

pub use endpoint::Endpoint;

use crate::interrupt;

/// What clients do.
#[derive(Clone, Copy, Debug)]
pub enum Pattern {
    Stream {
        /// How many at once.
        connections: usize,
        /// Messages under way on each.
        window: usize,
        /// Bytes in a message.
        message: usize,
        /// Whether a connection is used for more than one message.
        keep: bool,
    },
    Datagram {
        sockets: usize,
        /// Datagrams under way from each.
        window: usize,
        message: usize,
    },
}

impl Pattern {
    /// Connections or sockets, of which each is served by one thread.
    fn clients(self) -> usize {
        match self {
            Pattern::Stream { connections, .. } => connections,
            Pattern::Datagram { sockets, .. } => sockets,
        }
    }

    fn with_clients(self, clients: usize) -> Self {
        let mut pattern = self;
        match &mut pattern {
            Pattern::Stream { connections, .. } => *connections = clients,
            Pattern::Datagram { sockets, .. } => *sockets = clients,
        }
        pattern
    }
}

/// A load on a server.
#[derive(Clone, Debug)]
pub struct Load {
    pub endpoint: Endpoint,
    pub pattern: Pattern,
    pub threads: usize,
    /// Not counted, before it.
    pub warm_up: Duration,
    pub time: Duration,
}

/// What is still under way at the end may take so long to be answered.
pub const GRACE: Duration = Duration::from_secs(2);

/// Where the threads of a load meet before it begins.
///
/// Connections that stay are made before: a queue of a few places turns away most of a thousand clients
/// at once, who try again after a second, and a load of those that came through is another one.
struct Start<'a> {
    load: &'a Load,
    all_ready: Barrier,
    clock: OnceLock<Clock>,
}

impl Start<'_> {
    /// Waits until all threads are here.
    fn clock(&self) -> Clock {
        self.all_ready.wait();
        *self.clock.get_or_init(|| {
            let from = Instant::now() + self.load.warm_up;
            Clock {
                from,
                until: from + self.load.time,
            }
        })
    }
}

/// The counted time.
#[derive(Clone, Copy, Debug)]
struct Clock {
    from: Instant,
    until: Instant,
}

impl Clock {
    fn is_over(self) -> bool {
        Instant::now() >= self.until
    }

    /// When to wait no longer for what is under way.
    fn give_up(self) -> Instant {
        self.until + GRACE
    }
}

/// What a load came to.
#[derive(Debug)]
pub struct Tally {
    /// Messages answered in the counted time.
    pub completed: u64,
    /// How long each took, in nanoseconds; with a new connection for each, from before it was made.
    pub latency: Histogram<u64>,
    /// What went wrong, in or beside the counted time, and how often.
    pub errors: BTreeMap<String, u64>,
}

impl Tally {
    fn new() -> Self {
        Tally {
            completed: 0,
            latency: Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are valid"),
            errors: BTreeMap::new(),
        }
    }

    fn answered(&mut self, clock: Clock, sent: Instant, now: Instant) {
        if clock.from <= now && now < clock.until {
            self.completed += 1;
            let nanoseconds = u64::try_from((now - sent).as_nanos()).unwrap_or(u64::MAX);
            self.latency.saturating_record(nanoseconds.max(1));
        }
    }

    fn error(&mut self, what: impl Into<String>) {
        *self.errors.entry(what.into()).or_default() += 1;
    }

    fn add(&mut self, other: Tally) {
        self.completed += other.completed;
        self.latency.add(other.latency).expect("all have the same bounds");
        for (what, count) in other.errors {
            *self.errors.entry(what).or_default() += count;
        }
    }

    /// A quantile of the latency, in microseconds.
    pub fn microseconds(&self, quantile: f64) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "2^52 ns are 52 days")]
        let nanoseconds = self.latency.value_at_quantile(quantile) as f64;
        nanoseconds / 1000.0
    }
}

/// Puts a load on a server. `sample` is called when the counted time begins and when it ends.
///
/// # Errors
///
/// The clients could not be made, or the program was interrupted.
pub fn run<T>(load: &Load, sample: impl Fn() -> T) -> io::Result<(Tally, T, T)> {
    let threads = load.threads.clamp(1, load.pattern.clients());
    let start = Start {
        load,
        all_ready: Barrier::new(threads + 1),
        clock: OnceLock::new(),
    };
    let share =
        |thread: usize| load.pattern.clients() / threads + usize::from(thread < load.pattern.clients() % threads);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..threads)
            .map(|thread| {
                let (pattern, start) = (load.pattern.with_clients(share(thread)), &start);
                scope.spawn(move || match pattern {
                    Pattern::Stream { .. } => stream::run(&load.endpoint, pattern, start, thread),
                    Pattern::Datagram { .. } => datagram::run(&load.endpoint, pattern, start),
                })
            })
            .collect();
        let clock = start.clock();
        interrupt::sleep_until(clock.from);
        let before = sample();
        interrupt::sleep_until(clock.until);
        let after = sample();
        let mut tally = Tally::new();
        for client in clients {
            tally.add(client.join().expect("a load thread does not panic")?);
        }
        interrupt::check()?;
        Ok((tally, before, after))
    })
}

/// What clients send: bytes by their place in an endless stream that repeats after [`PERIOD`], so that
/// each message differs from its neighbours.
struct Payload {
    bytes: Vec<u8>,
}

/// As long as the longest message.
const PERIOD: usize = 64 * 1024;

impl Payload {
    fn new() -> Self {
        // A multiplicative generator (Lehmer's); any bytes without a short period would do.
        let mut state = 1_u64;
        let period: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state = state * 48_271 % 0x7fff_ffff;
                (state >> 8).to_le_bytes()[0]
            })
            .collect();
        Payload {
            bytes: [period.clone(), period].concat(),
        }
    }

    /// `length` bytes from `place` on, at most [`PERIOD`].
    fn at(&self, place: usize, length: usize) -> &[u8] {
        &self.bytes[place % PERIOD..][..length]
    }

    /// Whether `bytes` are what stands at `place`.
    fn matches(&self, place: usize, bytes: &[u8]) -> bool {
        bytes
            .chunks(PERIOD)
            .enumerate()
            .all(|(number, chunk)| self.at(place + number * PERIOD, chunk.len()) == chunk)
    }
}

//! What a request costs apart from its sockets: layers, handing over, permits.
//!
//! The transport accepts connections in memory as fast as it is asked to, so that what is measured is the
//! way of a request through the server, in nanoseconds.

#[path = "../src/servers/forward.rs"]
mod forward;

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use forward::Forward;
use nix::sys::eventfd::{EfdFlags, EventFd};
use socketserver::prelude::*;
use socketserver::{Capacity, Config, Job, Limit, LimitKind, MemoryStream, SocketServer, SocketType, Transport};

/// Accepts so many connections, each of which has ended already.
struct Memory {
    /// Always readable.
    socket: EventFd,
    left: AtomicU64,
}

impl Transport for Memory {
    type Socket = EventFd;
    type Request = StreamRequest<MemoryStream>;

    const SOCKET_TYPE: SocketType = SocketType::Stream;

    fn bind(_: &Address, _: &Config) -> io::Result<Self> {
        Err(ErrorKind::Unsupported.into())
    }

    fn socket(&self) -> &EventFd {
        &self.socket
    }

    fn local_address(&self) -> io::Result<Address> {
        Ok(Address::Unnamed)
    }

    fn accept(&self) -> io::Result<Self::Request> {
        let one_less = |left: u64| left.checked_sub(1);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
            Ok(_) => Ok(StreamRequest::new(MemoryStream::default(), Address::Unnamed)),
            Err(_) => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

/// Does nothing, and stops the server after the last request.
#[derive(Clone)]
struct Count {
    left: Arc<AtomicU64>,
}

impl BaseRequestHandler<StreamRequest<MemoryStream>> for Count {
    fn handle(&mut self, request: &mut StreamRequest<MemoryStream>) -> HandlerResult {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            request.server().shutdown();
        }
        Ok(())
    }
}

type Bare = SocketServer<Memory, Count>;

/// Measures a stack over the bare server, with a fresh server for each sample.
fn measure<S: BaseServer>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, stack: impl Fn(Bare) -> S) {
    let mut serve = |requests: u64| {
        let transport = Memory {
            socket: EventFd::from_value_and_flags(1, EfdFlags::EFD_NONBLOCK).expect("a descriptor is free"),
            left: AtomicU64::new(requests),
        };
        let left = Arc::new(AtomicU64::new(requests));
        let server = stack(SocketServer::with_transport(transport, Count { left }));
        let begun = Instant::now();
        let report = server.serve_forever().expect("the server serves");
        assert_eq!(report.served, requests);
        begun.elapsed()
    };
    group.bench_function(name, |bencher| bencher.iter_custom(&mut serve));
}

fn layers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("layers");
    measure(&mut group, "bare", |server| server);
    measure(&mut group, "three mix-ins", |server| Forward(Forward(Forward(server))));
    group.finish();
}

fn hand_over(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hand-over");
    measure(&mut group, "threads that accept for themselves", Strategies::threading);
    measure(&mut group, "4 workers that accept for themselves", |server| {
        server.thread_pool().workers(4)
    });
    measure(&mut group, "4 workers behind a queue", |server| {
        server.thread_pool().workers(4).queue_size(64)
    });
    measure(&mut group, "a new thread each", NewThread);
    group.finish();
}

fn permits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("permits");
    measure(&mut group, "no limit", |server| server);
    measure(&mut group, "a limit that is not reached", Limited);
    group.finish();
}

/// The simplest strategy there is.
struct NewThread<S>(S);

impl<S: BaseServer> BaseServer for NewThread<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn process_request(&self, job: Job<S::Transport>) {
        thread::spawn(|| job.run());
    }
}

struct Limited<S>(S);

impl<S: BaseServer> BaseServer for Limited<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn capacity(&self) -> Capacity {
        Capacity::UNLIMITED.and(Limit::wait(1000), LimitKind::Connections)
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_secs(1));
    targets = layers, hand_over, permits
}
criterion_main!(benches);

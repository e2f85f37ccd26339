//! What the servers are compared under.

use crate::load::Pattern;
use crate::servers::Transport;

/// A load, or a state, and the servers that are compared in it.
#[derive(Clone, Debug)]
pub struct Workload {
    pub name: &'static str,
    pub about: &'static str,
    pub transport: Transport,
    pub task: Task,
    pub servers: Vec<&'static str>,
    /// With buffers of 64 KiB.
    pub bulk: bool,
    /// Memory that the server has written to before, in MB.
    pub touched_mb: usize,
    /// Whether it belongs to the short form.
    pub in_short: bool,
}

/// What is done with a server.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    Load(Pattern),
    /// So many connections are opened, used once and left open.
    Idle(usize),
    /// It gets SIGTERM.
    Stop,
    /// Nothing.
    Nothing,
}

/// The server that keeps nothing for an idle connection: what the sockets themselves take.
pub const IDLE_BASELINE: &str = "libc-epoll";

/// Bytes of a message where it does not matter.
const MESSAGE: usize = 64;

const BULK_MESSAGE: usize = 64 * 1024;

/// Who serves connections in threads, and how well that can be done.
const THREADS: &[&str] = &[
    "threading",
    "libc-lf",
    "libc-lf-epoll",
    "libc-park",
    "libc-thread",
    "std-thread",
    "tokio",
    "go",
    "python-threading",
];

/// Who serves connections in a fixed number of threads.
const POOLS: &[&str] = &[
    "pool-4",
    "pool-8",
    "libc-accept-4",
    "libc-accept-8",
    "threadpool-4",
    "threadpool-8",
];

/// With the options that are for many short connections.
const BATCHES: &[&str] = &[
    "threading-batch",
    "libc-lf-batch",
    "pool-4-batch",
    "libc-accept-4-batch",
];

/// The same over TCP only.
const DEFERRED: &[&str] = &[
    "threading-defer",
    "libc-lf-defer",
    "threading-defer-batch",
    "libc-lf-defer-batch",
    "pool-4-defer",
    "libc-accept-4-defer",
    "pool-4-defer-batch",
    "libc-accept-4-defer-batch",
];

const SYNC: &[&str] = &["sync", "libc-sync"];

const KEPT: &[&str] = &[
    "threading",
    "libc-thread",
    "libc-park",
    "std-thread",
    "tokio",
    "go",
    "python-threading",
];

const UDP: &[&str] = &[
    "sync",
    "sync-batched",
    "sync-segmented",
    "threading",
    "libc-recvfrom",
    "libc-recvmmsg",
    "libc-sendmmsg",
    "libc-segment",
    "libc-recvfrom-lf",
    "std-sync",
    "std-thread",
    "tokio",
    "go",
    "python-sync",
    "python-threading",
];

const UNIXGRAM: &[&str] = &[
    "sync",
    "sync-batched",
    "libc-recvfrom",
    "libc-recvmmsg",
    "libc-sendmmsg",
    "std-sync",
    "tokio",
    "go",
    "python-sync",
];

const FORKING: &[&str] = &["forking", "libc-fork", "python-forking"];

/// Processes that are there before their client.
const FORKED_AHEAD: &[&str] = &["forked-ahead-4", "forked-ahead-32"];

const IDLE: &[&str] = &[
    "threading",
    "threading-stack-256k",
    "libc-park",
    "libc-thread",
    IDLE_BASELINE,
    "std-thread",
    "tokio",
    "go",
    "python-threading",
];

const STILL: &[&str] = &[
    "sync",
    "threading",
    "pool-4",
    "forking",
    "libc-lf-epoll",
    "tokio",
    "go",
    "python-threading",
];

/// All workloads, in the order of the table.
pub fn all() -> Vec<Workload> {
    [connections(), messages(), packets(), processes(), still()].concat()
}

fn connections() -> Vec<Workload> {
    use Transport::{Tcp, Unix};
    let one = |name, about, transport, clients| load(name, about, transport, churn(clients));
    vec![
        one(
            "tcp-churn-1",
            "a new TCP connection for each request, 1 at once",
            Tcp,
            1,
        )
        .servers(&[SYNC, THREADS])
        .short(),
        one(
            "tcp-churn-16",
            "a new TCP connection for each request, 16 at once",
            Tcp,
            16,
        )
        .servers(&[SYNC, THREADS, &["threading-mixins"], POOLS, BATCHES, DEFERRED])
        .short(),
        one(
            "tcp-churn-256",
            "a new TCP connection for each request, 256 at once",
            Tcp,
            256,
        )
        .servers(&[SYNC, THREADS, POOLS, BATCHES, DEFERRED]),
        one(
            "unix-churn-1",
            "a new Unix connection for each request, 1 at once",
            Unix,
            1,
        )
        .servers(&[SYNC, THREADS]),
        one(
            "unix-churn-16",
            "a new Unix connection for each request, 16 at once",
            Unix,
            16,
        )
        .servers(&[SYNC, THREADS, POOLS, BATCHES])
        .short(),
        one(
            "unix-churn-256",
            "a new Unix connection for each request, 256 at once",
            Unix,
            256,
        )
        .servers(&[SYNC, THREADS, POOLS]),
    ]
}

fn messages() -> Vec<Workload> {
    let one = |name, about, pattern| load(name, about, Transport::Tcp, pattern).servers(&[KEPT]);
    vec![
        one(
            "tcp-pingpong-1",
            "messages to and fro on 1 TCP connection",
            ping_pong(1),
        ),
        one(
            "tcp-pingpong-16",
            "messages to and fro on 16 TCP connections",
            ping_pong(16),
        )
        .short(),
        one(
            "tcp-pingpong-256",
            "messages to and fro on 256 TCP connections",
            ping_pong(256),
        ),
        one(
            "tcp-pingpong-1000",
            "messages to and fro on 1,000 TCP connections",
            ping_pong(1000),
        ),
        one("bulk-4", "64 KiB messages on 4 TCP connections", bulk(4))
            .bulk()
            .short(),
    ]
}

fn packets() -> Vec<Workload> {
    let udp = |name, about, pattern| load(name, about, Transport::Udp, pattern).servers(&[UDP]).short();
    let unix = |name, about, pattern| load(name, about, Transport::Unixgram, pattern).servers(&[UNIXGRAM]);
    vec![
        udp(
            "udp-16x1",
            "UDP datagrams, 1 under way from each of 16 sockets",
            datagrams(16, 1),
        ),
        udp(
            "udp-4x32",
            "UDP datagrams, 32 under way from each of 4 sockets",
            datagrams(4, 32),
        ),
        unix(
            "unixgram-16x1",
            "Unix datagrams, 1 under way from each of 16 sockets",
            datagrams(16, 1),
        ),
        unix(
            "unixgram-4x32",
            "Unix datagrams, 32 under way from each of 4 sockets",
            datagrams(4, 32),
        ),
    ]
}

fn processes() -> Vec<Workload> {
    let one =
        |name, about, clients| load(name, about, Transport::Tcp, churn(clients)).servers(&[FORKING, FORKED_AHEAD]);
    let touched = "a process for each new TCP connection, 4 at once, of a server that has touched 100 MB";
    vec![
        one("fork-1", "a process for each new TCP connection, 1 at once", 1).short(),
        one("fork-16", "a process for each new TCP connection, 16 at once", 16),
        one("fork-4-touched", touched, 4).touched(100),
    ]
}

fn still() -> Vec<Workload> {
    vec![
        task("idle-1000", "1,000 idle TCP connections", Task::Idle(1000))
            .servers(&[IDLE])
            .short(),
        task("idle-10000", "10,000 idle TCP connections", Task::Idle(10_000)).servers(&[IDLE]),
        task("stop", "from SIGTERM to exit, of an idle TCP server", Task::Stop)
            .servers(&[STILL])
            .short(),
        task("wake-ups", "an idle TCP server", Task::Nothing)
            .servers(&[STILL])
            .short(),
    ]
}

fn load(name: &'static str, about: &'static str, transport: Transport, pattern: Pattern) -> Workload {
    Workload {
        transport,
        ..task(name, about, Task::Load(pattern))
    }
}

fn task(name: &'static str, about: &'static str, task: Task) -> Workload {
    Workload {
        name,
        about,
        transport: Transport::Tcp,
        task,
        servers: Vec::new(),
        bulk: false,
        touched_mb: 0,
        in_short: false,
    }
}

impl Workload {
    fn servers(mut self, lists: &[&[&'static str]]) -> Self {
        self.servers = lists.concat();
        self
    }

    fn short(mut self) -> Self {
        self.in_short = true;
        self
    }

    fn bulk(mut self) -> Self {
        self.bulk = true;
        self
    }

    fn touched(mut self, megabytes: usize) -> Self {
        self.touched_mb = megabytes;
        self
    }
}

/// A new connection for each request.
fn churn(connections: usize) -> Pattern {
    Pattern::Stream {
        connections,
        window: 1,
        message: MESSAGE,
        keep: false,
    }
}

/// One message after the other on connections that stay.
fn ping_pong(connections: usize) -> Pattern {
    Pattern::Stream {
        connections,
        window: 1,
        message: MESSAGE,
        keep: true,
    }
}

fn bulk(connections: usize) -> Pattern {
    Pattern::Stream {
        connections,
        window: 4,
        message: BULK_MESSAGE,
        keep: true,
    }
}

fn datagrams(sockets: usize, window: usize) -> Pattern {
    Pattern::Datagram {
        sockets,
        window,
        message: MESSAGE,
    }
}

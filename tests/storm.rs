//! Stops under a storm of new connections: every client that the kernel has accepted is answered.

mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use socketserver::prelude::*;
use support::accepting::Accepting;
use support::process::{Process, role, serve_as_role};
use support::{CEILING, Lines, can_refuse_clients, temp_path, wait_until};

tests![
    roles: serve_lines;
    no_tcp_client_is_cut_in_fifty_stops,
    no_unix_client_is_cut_in_fifty_stops,
];

/// The strategies, and those with a limit while it is reached.
const STRATEGIES: [&str; 13] = [
    "sync",
    "threading",
    "forking",
    "pool",
    "accepting",
    "prefork",
    "prefork of threads",
    "prefork, workers being replaced",
    "forking at its limit",
    "pool at its limit",
    "accepting at its limit",
    "an address at its limit",
    REJECTING,
];

/// Answers those that it rejects as it would have if it had served them.
const REJECTING: &str = "rejecting at its limit";

/// Of each strategy.
const STOPS: usize = 6;

const CLIENTS: usize = 8;

// ----- The server --------------------------------------------------------------------------------

const STRATEGY: &str = "STORM_STRATEGY";
const ADDRESS: &str = "STORM_ADDRESS";

fn serve_lines() {
    let address = std::env::var(ADDRESS).unwrap();
    if address.starts_with('/') {
        serve(UnixStreamServer::new(Path::new(&address), Lines));
    } else {
        serve(TcpServer::new(address, Lines));
    }
}

fn serve(server: impl BaseServer) {
    match std::env::var(STRATEGY).unwrap().as_str() {
        "sync" => serve_as_role(server),
        "threading" => serve_as_role(server.threading()),
        "forking" => serve_as_role(server.forking()),
        "pool" => serve_as_role(server.thread_pool()),
        "accepting" => serve_as_role(Accepting::over(server, 4)),
        "prefork" => serve_as_role(server.prefork()),
        "prefork of threads" => serve_as_role(server.threading().prefork().workers(2)),
        "prefork, workers being replaced" => {
            serve_as_role(server.prefork().workers(4).max_requests(3).max_requests_jitter(2));
        }
        "forking at its limit" => serve_as_role(server.forking().max_children(2)),
        "pool at its limit" => serve_as_role(server.thread_pool().workers(1).queue_size(1)),
        "accepting at its limit" => serve_as_role(Accepting::over(server, 4).places(2)),
        "an address at its limit" => serve_as_role(server.max_per_address(2).threading()),
        REJECTING => serve_as_role(server.max_connections(Limit::reject(2)).farewell("hello\n").threading()),
        other => panic!("no such strategy: {other}"),
    }
}

// ----- The clients -------------------------------------------------------------------------------

/// Connects, asks and is answered, again and again until the server refuses. Returns how those ended that
/// were accepted and not answered.
fn storm<C: Read + Write>(connect: impl Fn() -> io::Result<C>, answered: &AtomicUsize) -> Vec<io::Error> {
    let mut cut = Vec::new();
    loop {
        let mut client = match connect() {
            Ok(client) => client,
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => return cut,
            // Dropped while the server refuses: a SYN that is lost comes again after a second.
            Err(_) => continue,
        };
        let mut answer = [0; 6];
        let asked = client.write_all(b"hello\n");
        match client.read_exact(&mut answer) {
            Ok(()) => {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            // A rejected client that asks late finds nobody any more (EPIPE), but the farewell.
            Err(error) => cut.push(asked.err().unwrap_or(error)),
        }
    }
}

fn storm_tcp(address: &str, answered: &AtomicUsize) -> Vec<io::Error> {
    let address: SocketAddr = address.parse().unwrap();
    let connect = || {
        let client = TcpStream::connect_timeout(&address, Duration::from_millis(100))?;
        client.set_read_timeout(Some(CEILING))?;
        Ok(client)
    };
    storm(connect, answered)
}

fn storm_unix(path: &str, answered: &AtomicUsize) -> Vec<io::Error> {
    let connect = || {
        let client = UnixStream::connect(path)?;
        client.set_read_timeout(Some(CEILING))?;
        Ok(client)
    };
    storm(connect, answered)
}

// ----- The stops ---------------------------------------------------------------------------------

/// A server is told to stop at the height of the storm; the storm goes on until it refuses.
#[track_caller]
fn stop(strategy: &str, address: &str, storm: fn(&str, &AtomicUsize) -> Vec<io::Error>) {
    let process = Process::start(role("serve_lines").env(STRATEGY, strategy).env(ADDRESS, address));
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| storm(process.address(), &answered)))
            .collect();
        wait_until("the storm is at its height", || answered.load(Ordering::Relaxed) > 50);
        process.signal(Signal::SIGTERM);
        for client in clients {
            let cut = client.join().unwrap();
            assert!(cut.is_empty(), "{strategy}: accepted and not answered: {cut:?}");
        }
    });
    let ended = process.end();
    assert_eq!(ended.status.code(), Some(0), "{strategy}: {ended:?}");
    assert!(ended.output.ends_with(" forced=0 leaked=0\n"), "{strategy}: {ended:?}");
    let served = ended.output.strip_prefix("stopped: served=").unwrap();
    let served: usize = served.split_once(' ').unwrap().0.parse().unwrap();
    let all_served = served >= answered.into_inner();
    assert!(all_served || strategy == REJECTING, "{strategy}: {ended:?}");
}

/// When new clients were not refused first, 56 such stops cut 296 clients, and 255 over Unix sockets.
fn no_tcp_client_is_cut_in_fifty_stops() {
    if !can_refuse_clients() {
        return;
    }
    for strategy in STRATEGIES {
        for _ in 0..STOPS {
            stop(strategy, "127.0.0.1:0", storm_tcp);
        }
    }
}

fn no_unix_client_is_cut_in_fifty_stops() {
    let place = temp_path("socket");
    for strategy in STRATEGIES {
        for _ in 0..STOPS {
            stop(strategy, place.path.to_str().unwrap(), storm_unix);
        }
    }
}

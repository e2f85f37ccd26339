//! Clients of servers on Unix sockets, and what becomes of two servers at one path.

use std::fs;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use nix::sys::signal::Signal;
use socketserver::prelude::*;

use super::process::Process;
use super::{CEILING, TempPath, exchange_line, temp_path};

/// The path of a Unix server.
#[track_caller]
pub fn path_of(address: &Address) -> &Path {
    address.path().expect("the server has a path")
}

/// A connection to a Unix server that fails rather than waits for ever.
#[track_caller]
pub fn connect_unix(server: &Address) -> UnixStream {
    let stream = UnixStream::connect(path_of(server)).unwrap();
    stream.set_read_timeout(Some(CEILING)).unwrap();
    stream.set_write_timeout(Some(CEILING)).unwrap();
    stream
}

/// A Unix client of a datagram server with a path of its own; it fails rather than waits for ever.
#[track_caller]
pub fn unix_datagram_client(server: &Address) -> (UnixDatagram, TempPath) {
    let path = temp_path("client");
    let client = UnixDatagram::bind(&path.path).unwrap();
    client.set_read_timeout(Some(CEILING)).unwrap();
    client.connect(path_of(server)).unwrap();
    (client, path)
}

/// What is in the queue of an [`unconnected_client`] before.
pub const FILLING: &[u8] = b"filling";

/// A Unix client that has room for 10 datagrams or so; one that is connected has more. Where queues are longer than
/// the kernel makes them by default (`net.unix.max_dgram_qlen`), this one's is filled up to that.
#[track_caller]
pub fn unconnected_client() -> (UnixDatagram, TempPath) {
    let path = temp_path("client");
    let client = UnixDatagram::bind(&path.path).unwrap();
    client.set_read_timeout(Some(CEILING)).unwrap();
    let length = fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap();
    for _ in 10..length.trim().parse().unwrap() {
        UnixDatagram::unbound().unwrap().send_to(FILLING, &path.path).unwrap();
    }
    (client, path)
}

/// A Unix client of a datagram server that cannot be answered.
#[track_caller]
pub fn unnamed_datagram_client(server: &Address) -> UnixDatagram {
    let client = UnixDatagram::unbound().unwrap();
    client.connect(path_of(server)).unwrap();
    client
}

/// A stream server of [`EchoLine`](super::EchoLine) answers.
#[track_caller]
pub fn assert_answers(server: &Address) {
    assert_eq!(exchange_line(connect_unix(server), "hello\n"), "hello\n");
}

/// A process that has served nobody yet answers at a path, and ends at SIGTERM.
#[track_caller]
pub fn assert_answers_and_ends(process: Process, path: &Path) {
    assert_answers(&path.into());
    process.signal(Signal::SIGTERM);
    let ended = process.end();
    assert!(ended.output.starts_with("stopped: served=1 failed=0 "), "{ended:?}");
}

/// A datagram server of [`EchoLine`](super::EchoLine) answers, from its own path.
#[track_caller]
pub fn assert_datagrams_answered(server: &Address) {
    let (client, _place) = unix_datagram_client(server);
    client.send(b"hello\n").unwrap();
    let mut answer = [0; 9];
    let (count, from) = client.recv_from(&mut answer).unwrap();
    assert_eq!(&answer[..count], b"hello\n");
    assert_eq!(Address::from(from.as_pathname().expect("it has a path")), *server);
}

/// Why a server does not start where another serves.
pub const LIVE: &str = "another server answers there; stop it or choose another path";

/// The names in the directory of a path.
pub fn names(place: &TempPath) -> Vec<String> {
    fs::read_dir(place.path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Each time, one of two servers that start at once is bound, and its clients reach it; the other is told that somebody
/// answers there.
#[track_caller]
pub fn race<S: BaseServer>(make: impl Fn(&Path) -> S + Sync, check: impl Fn(&Address)) {
    for stale in [true, false].repeat(50) {
        let place = temp_path("socket");
        if stale {
            drop(UnixListener::bind(&place.path).unwrap());
        }
        let together = Barrier::new(2);
        let start = || {
            together.wait();
            make(&place.path).bind()
        };
        let [one, other] = thread::scope(|scope| {
            let threads = [scope.spawn(start), scope.spawn(start)];
            threads.map(|thread| thread.join().unwrap())
        });
        let (won, lost) = match (one, other) {
            (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
            (one, _) => panic!(
                "of two starts {}",
                if one.is_ok() { "both succeed" } else { "none succeeds" }
            ),
        };
        let text = format!("Address already in use ({}): {LIVE}", place.path.display());
        assert_eq!(lost.to_string(), text);
        let running = won.spawn().unwrap();
        check(running.server_address());
        running.stop().unwrap();
        assert_eq!(names(&place), [""; 0]);
    }
}

//! Stopping by signals, with the `echo` example as the process that gets them.

mod support;

use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixStream};

use nix::sys::signal::Signal;
use support::process::{Ended, Process, STRATEGIES, Server, assert_ended, echo, start, start_each};
use support::{
    CEILING, connect_to, exchange_line, is_listening, read_to_end, temp_path, wait_until, wait_until_accepted,
};

tests![
    sigterm_ends_every_idle_server,
    sigint_ends_every_idle_server,
    two_signals_end_every_idle_server_without_a_word,
    a_signal_that_comes_at_once_ends_the_server,
    what_was_served_is_counted_at_the_end,
    the_socket_path_is_removed_at_the_end,
    an_idle_server_never_wakes_up,
    a_server_that_has_served_never_wakes_up_again,
    a_request_in_progress_ends_before_the_server_does,
    a_draining_server_refuses_new_clients,
    the_deadline_of_one_signal_is_kept,
    a_second_signal_ends_a_threading_server_at_once,
    a_second_signal_ends_a_pool_at_once,
    a_second_signal_ends_a_forking_server_at_once,
    a_second_signal_ends_a_sync_server_at_once,
    a_signal_for_the_whole_group_spares_the_children_of_a_forking_server,
];

const NOTHING: &str = "served=0 failed=0 drained=0 forced=0 leaked=0";
const DRAINED: &str = "served=1 failed=0 drained=1 forced=0 leaked=0";

fn assert_ends_every_idle_server(signal: Signal) {
    let servers = start_each();
    for server in &servers {
        server.process.signal(signal);
    }
    for Server { process, name, .. } in servers {
        assert_ended(&name, &process.end(), NOTHING);
    }
}

fn sigterm_ends_every_idle_server() {
    assert_ends_every_idle_server(Signal::SIGTERM);
}

fn sigint_ends_every_idle_server() {
    assert_ends_every_idle_server(Signal::SIGINT);
}

/// Ctrl-C twice: nobody is there to lose anything.
fn two_signals_end_every_idle_server_without_a_word() {
    for _ in 0..5 {
        let servers = start_each();
        for server in &servers {
            // Two of the same that are pending at once would be one.
            server.process.signal(Signal::SIGTERM);
            server.process.signal(Signal::SIGINT);
        }
        for Server { process, name, .. } in servers {
            let ended = process.end();
            assert_ended(&name, &ended, NOTHING);
            assert_eq!(ended.errors, "", "{name}");
        }
    }
}

/// Signals are listened to from binding on, not only once the server is idle.
fn a_signal_that_comes_at_once_ends_the_server() {
    for strategy in STRATEGIES {
        for _ in 0..10 {
            let Server { process, name, .. } = start("tcp", strategy);
            process.signal(Signal::SIGTERM);
            assert_ended(&name, &process.end(), NOTHING);
        }
    }
}

/// One request, answered.
fn exchange(server: &Server) {
    match server.transport {
        "tcp" => {
            let stream = connect_to(server.process.address());
            assert_eq!(exchange_line(&stream, "hello\n"), "hello\n");
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_to_end(&stream), b"");
        }
        "unix" => {
            let stream = UnixStream::connect(&server.place.path).unwrap();
            stream.set_read_timeout(Some(CEILING)).unwrap();
            assert_eq!(exchange_line(&stream, "hello\n"), "hello\n");
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_to_end(&stream), b"");
        }
        "udp" => {
            let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            client.set_read_timeout(Some(CEILING)).unwrap();
            client.send_to(b"hello", server.process.address()).unwrap();
            assert_eq!(client.recv(&mut [0; 9]).unwrap(), 5);
        }
        _ => {
            let place = temp_path("client");
            let client = UnixDatagram::bind(&place.path).unwrap();
            client.set_read_timeout(Some(CEILING)).unwrap();
            client.send_to(b"hello", &server.place.path).unwrap();
            assert_eq!(client.recv(&mut [0; 9]).unwrap(), 5);
        }
    }
}

fn what_was_served_is_counted_at_the_end() {
    for server in start_each() {
        for _ in 0..3 {
            exchange(&server);
        }
        server.assert_served(3, Signal::SIGTERM);
    }
}

fn the_socket_path_is_removed_at_the_end() {
    for transport in ["unix", "unixgram"] {
        for strategy in STRATEGIES {
            for signal in [Signal::SIGTERM, Signal::SIGINT] {
                let server = start(transport, strategy);
                assert!(server.place.path.exists());
                exchange(&server);
                server.assert_served(1, signal);
            }
        }
    }
}

#[track_caller]
fn assert_never_wake_up(servers: &[Server]) {
    let named: Vec<_> = servers
        .iter()
        .map(|server| (server.name.as_str(), &server.process))
        .collect();
    support::process::assert_never_wake_up(&named);
}

fn an_idle_server_never_wakes_up() {
    assert_never_wake_up(&start_each());
}

fn a_server_that_has_served_never_wakes_up_again() {
    let servers = start_each();
    servers.iter().for_each(exchange);
    assert_never_wake_up(&servers);
}

/// A client whose request is in progress: it has been accepted and has not said anything yet.
fn in_progress(server: &Server) -> TcpStream {
    let stream = connect_to(server.process.address());
    wait_until_accepted(&stream);
    stream
}

fn a_request_in_progress_ends_before_the_server_does() {
    for strategy in STRATEGIES {
        let mut server = start("tcp", strategy);
        let client = in_progress(&server);
        server.process.signal(Signal::SIGTERM);
        let address = server.process.address().to_owned();
        // The loop of a sync server is busy, as a worker's of PreFork is: it goes on listening.
        let is_busy = matches!(strategy, "sync" | "prefork");
        wait_until("the server drains", || is_busy || !is_listening(&address));
        assert!(server.process.is_running());
        assert_eq!(exchange_line(&client, "still here\n"), "still here\n", "{strategy}");
        assert_eq!(read_to_end(client), b"", "{strategy}");
        assert_ended(strategy, &server.process.end(), DRAINED);
    }
}

fn a_draining_server_refuses_new_clients() {
    for strategy in ["threading", "forking", "pool"] {
        let server = start("tcp", strategy);
        let client = in_progress(&server);
        server.process.signal(Signal::SIGTERM);
        let address = server.process.address().to_owned();
        wait_until("the server drains", || !is_listening(&address));
        let refused = TcpStream::connect(&address).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{strategy}");
        drop(client);
        assert_eq!(server.process.end().status.code(), Some(0), "{strategy}");
    }
}

/// Under every strategy, with a client that says nothing: a sync server's loop is busy with it.
fn the_deadline_of_one_signal_is_kept() {
    let servers = STRATEGIES.map(|strategy| {
        let server = Server {
            process: Process::start(echo("tcp", strategy, "127.0.0.1:0").args(["--drain", "1"])),
            transport: "tcp",
            name: strategy.to_owned(),
            place: temp_path("socket"),
        };
        let client = in_progress(&server);
        server.process.signal(Signal::SIGTERM);
        (server, client)
    });
    for (server, client) in servers {
        assert_eq!(read_to_end(client), b"", "{}", server.name);
        let counts = match server.name.as_str() {
            "forking" => "served=0 failed=1 drained=0 forced=1 leaked=0",
            _ => "served=1 failed=0 drained=0 forced=1 leaked=0",
        };
        assert_ended(&server.name, &server.process.end(), counts);
    }
}

/// The first signal drains, and the client stays; the second ends its request. Returns how the client's
/// connection ended and the process did.
#[track_caller]
fn end_by_two_signals(strategy: &str) -> (std::io::Result<usize>, Ended) {
    let mut server = start("tcp", strategy);
    let mut client = in_progress(&server);
    server.process.signal(Signal::SIGTERM);
    if strategy == "sync" {
        // Its loop is busy: two signals that are pending at once would be one.
        wait_until("the first signal has been taken", || {
            !server.process.is_pending(Signal::SIGTERM)
        });
    } else {
        let address = server.process.address().to_owned();
        wait_until("the server drains", || !is_listening(&address));
    }
    assert!(server.process.is_running());
    server.process.signal(Signal::SIGTERM);
    let end = client.read(&mut [0]);
    (end, server.process.end())
}

fn a_second_signal_ends_a_threading_server_at_once() {
    let (end, ended) = end_by_two_signals("threading");
    assert_eq!(end.unwrap(), 0);
    assert_ended("threading", &ended, "served=1 failed=0 drained=0 forced=1 leaked=0");
}

fn a_second_signal_ends_a_pool_at_once() {
    let (end, ended) = end_by_two_signals("pool");
    assert_eq!(end.unwrap(), 0);
    assert_ended("pool", &ended, "served=1 failed=0 drained=0 forced=1 leaked=0");
}

fn a_second_signal_ends_a_forking_server_at_once() {
    let (end, ended) = end_by_two_signals("forking");
    assert_eq!(end.unwrap(), 0);
    assert_ended("forking", &ended, "served=0 failed=1 drained=0 forced=1 leaked=0");
    assert!(ended.errors.contains("ended: signal: 15 (SIGTERM)"), "{ended:?}");
}

fn a_second_signal_ends_a_sync_server_at_once() {
    let (end, ended) = end_by_two_signals("sync");
    assert_eq!(end.unwrap(), 0);
    assert_ended("sync", &ended, "served=1 failed=0 drained=0 forced=1 leaked=0");
}

/// Ctrl-C reaches the children, too; they are the server's matter.
fn a_signal_for_the_whole_group_spares_the_children_of_a_forking_server() {
    let place = temp_path("socket");
    let mut command = echo("tcp", "forking", "127.0.0.1:0");
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let server = Server {
        process: Process::start(&mut command),
        transport: "tcp",
        name: "tcp forking".to_owned(),
        place,
    };
    let client = in_progress(&server);
    nix::sys::signal::killpg(support::process::pid(server.process.id()), Signal::SIGINT).unwrap();
    let address = server.process.address().to_owned();
    wait_until("the server drains", || !is_listening(&address));
    assert_eq!(exchange_line(&client, "still here\n"), "still here\n");
    assert_eq!(read_to_end(client), b"");
    assert_ended("forking", &server.process.end(), DRAINED);
}

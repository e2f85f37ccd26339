//! Trouble under load, with exact figures: handlers that panic, silent clients in masses, clients that
//! never read, signals at any moment.

mod support;

use std::fs;
use std::io::{BufRead, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use socketserver::prelude::*;
use support::gate::Gate;
use support::process::{Process, STRATEGIES, echo, pid};
use support::surroundings::{allow_descriptors, try_threads};
use support::{CEILING, clients, connect, exchange_line, read_to_end, temp_path, wait_until};

tests![
    every_third_request_panics_under_threading,
    every_third_request_panics_in_a_pool,
    every_third_request_panics_under_forking,
    every_third_request_panics_in_a_sync_server,
    every_third_request_panics_in_worker_processes,
    a_thousand_silent_clients_keep_nobody_waiting,
    a_client_that_never_reads_costs_its_own_request_only,
    a_client_that_never_reads_is_ended_at_the_deadline,
    a_thousand_signals_at_any_moment_end_servers_well,
];

const ANY_PORT: &str = "127.0.0.1:0";

// ----- Panics ------------------------------------------------------------------------------------

/// Six clients at once; of the requests of each, every third panics in the handler.
#[track_caller]
fn assert_panics_are_counted<S: BaseServer>(make: impl FnOnce(fn(&mut TcpRequest) -> HandlerResult) -> S, each: u64) {
    fn panic_if_told(request: &mut TcpRequest) -> HandlerResult {
        let mut line = String::new();
        request.read_line(&mut line)?;
        if line == "panic\n" {
            // As panic!, without the lines of the default hook among the tests' output.
            resume_unwind(Box::new("told to"));
        }
        Ok(request.write_all(line.as_bytes())?)
    }
    const CLIENTS: u64 = 6;
    let running = make(panic_if_told).spawn().unwrap();
    let address = running.server_address();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for number in 1..=each {
                    let (line, answer) = match number % 3 {
                        0 => ("panic\n", ""),
                        _ => ("hello\n", "hello\n"),
                    };
                    assert_eq!(exchange_line(connect(address), line), answer);
                }
            });
        }
    });
    let report = running.stop().unwrap();
    let failed = CLIENTS * (each / 3);
    assert_eq!((report.served, report.failed), (CLIENTS * each - failed, failed));
    assert_eq!((report.forced, report.leaked), (0, 0));
}

fn every_third_request_panics_under_threading() {
    assert_panics_are_counted(|handler| ThreadingTcpServer::new(ANY_PORT, handler), 150);
}

fn every_third_request_panics_in_a_pool() {
    assert_panics_are_counted(|handler| ThreadPoolTcpServer::new(ANY_PORT, handler).workers(3), 150);
}

fn every_third_request_panics_under_forking() {
    assert_panics_are_counted(|handler| ForkingTcpServer::new(ANY_PORT, handler), 30);
}

fn every_third_request_panics_in_a_sync_server() {
    assert_panics_are_counted(|handler| TcpServer::new(ANY_PORT, handler), 150);
}

fn every_third_request_panics_in_worker_processes() {
    assert_panics_are_counted(|handler| PreForkTcpServer::new(ANY_PORT, handler).workers(3), 150);
    let with_threads = |handler| ThreadingTcpServer::new(ANY_PORT, handler).prefork().workers(2);
    assert_panics_are_counted(with_threads, 150);
}

// ----- Silence -----------------------------------------------------------------------------------

fn a_thousand_silent_clients_keep_nobody_waiting() {
    // The server inherits what limits this process. Each of the silent has a thread there.
    if let Err(trouble) = allow_descriptors(4096).and_then(|()| try_threads(1_000)) {
        return clients::lack(trouble);
    }
    let server = Process::start(&mut echo("tcp", "threading", ANY_PORT));
    let connect = || {
        let client = TcpStream::connect(server.address()).unwrap();
        client.set_read_timeout(Some(CEILING)).unwrap();
        client
    };
    let silent: Vec<_> = (0..1_000).map(|_| connect()).collect();
    thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                let client = connect();
                for _ in 0..20 {
                    assert_eq!(exchange_line(&client, "hello\n"), "hello\n");
                }
                client.shutdown(Shutdown::Write).unwrap();
                assert_eq!(read_to_end(client), b"");
            });
        }
    });
    drop(silent);
    server.signal(Signal::SIGTERM);
    let ended = server.end();
    assert!(ended.output.starts_with("stopped: served=1100 failed=0 "), "{ended:?}");
    assert!(ended.output.ends_with(" forced=0 leaked=0\n"), "{ended:?}");
}

// ----- Clients that never read -------------------------------------------------------------------

/// Writes until that fails. `begun` is opened once the client's side takes no more.
fn flood(request: &mut TcpRequest, begun: &Gate) -> HandlerResult {
    let mut line = String::new();
    request.read_line(&mut line)?;
    if line == "hello\n" {
        return Ok(request.write_all(line.as_bytes())?);
    }
    begun.open();
    let much = vec![0; 64 * 1024];
    loop {
        request.write_all(&much)?;
    }
}

fn a_client_that_never_reads_costs_its_own_request_only() {
    let begun = Gate::default();
    let gate = begun.clone();
    let handler = move |request: &mut TcpRequest| flood(request, &gate);
    let running = ThreadingTcpServer::new(ANY_PORT, handler).spawn().unwrap();
    let mut deaf = connect(running.server_address());
    deaf.write_all(b"flood\n").unwrap();
    begun.wait();
    for _ in 0..100 {
        assert_eq!(exchange_line(connect(running.server_address()), "hello\n"), "hello\n");
    }
    drop(deaf);
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed, report.forced), (100, 1, 0));
}

fn a_client_that_never_reads_is_ended_at_the_deadline() {
    #[track_caller]
    fn check<S: BaseServer>(make: impl FnOnce(fn(&mut TcpRequest) -> HandlerResult) -> S) {
        let running = make(|request| flood(request, &Gate::default()))
            .drain_timeout(Duration::from_millis(100))
            .spawn()
            .unwrap();
        let mut deaf = connect(running.server_address());
        deaf.write_all(b"flood\n").unwrap();
        // It has begun: something has come.
        deaf.peek(&mut [0]).unwrap();
        let report = running.stop().unwrap();
        assert_eq!((report.served, report.failed), (0, 1), "{report}");
        assert_eq!((report.forced, report.leaked), (1, 0), "{report}");
    }
    check(|handler| TcpServer::new(ANY_PORT, handler));
    check(|handler| ThreadingTcpServer::new(ANY_PORT, handler));
    check(|handler| ThreadPoolTcpServer::new(ANY_PORT, handler));
    check(|handler| ForkingTcpServer::new(ANY_PORT, handler));
}

// ----- Signals at any moment ---------------------------------------------------------------------

/// Numbers that look random and are the same in every run (Marsaglia's xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Exchanges lines with a server that may not be there yet, or any more, as long as that is kept.
fn load(path: &Path, server: &Weak<()>) {
    while server.strong_count() > 0 {
        let Ok(mut client) = UnixStream::connect(path) else {
            thread::yield_now();
            continue;
        };
        client.set_read_timeout(Some(CEILING)).unwrap();
        let mut answer = [0; 6];
        for _ in 0..3 {
            if client.write_all(b"hello\n").is_err() || client.read_exact(&mut answer).is_err() {
                break;
            }
        }
    }
}

/// Processes whose command line names this path.
fn processes_at(path: &Path) -> usize {
    let path = path.to_str().unwrap();
    let commands = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("cmdline")).ok());
    commands.filter(|command| command.contains(path)).count()
}

/// Starts a server, with clients that are there already, and sends it signals. Some come before it listens
/// to them, some while it serves, some while it drains, and all but the first hurry it.
fn signal_at_random(strategy: &str, signals: u64, random: &mut Random) {
    let place = temp_path("socket");
    // Gone if this fails, too: the clients end then, for which the scope waits.
    let goes_on = Arc::new(());
    let as_long = Arc::downgrade(&goes_on);
    thread::scope(|scope| {
        let goes_on = goes_on;
        for _ in 0..2 {
            scope.spawn(|| load(&place.path, &as_long));
        }
        let mut server = echo("unix", strategy, place.path.to_str().unwrap());
        let mut server = server.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        for _ in 0..signals {
            thread::sleep(Duration::from_micros(random.below(2_500)));
            // It may have ended; it is waited for below, so the process is still this one.
            let _ = kill(pid(server.id()), Signal::SIGTERM);
        }
        wait_until("the server ends", || server.try_wait().unwrap().is_some());
        drop(goes_on);
        let ended = server.wait_with_output().unwrap();
        let output = String::from_utf8(ended.stdout).unwrap();
        let lines: Vec<_> = output.lines().collect();
        match lines[..] {
            // It did not listen to signals yet.
            [] => assert_eq!(
                std::os::unix::process::ExitStatusExt::signal(&ended.status),
                Some(Signal::SIGTERM as i32)
            ),
            [listening, stopped] => {
                assert!(listening.starts_with("listening on "), "{output}");
                assert!(stopped.starts_with("stopped: served="), "{output}");
                assert!(stopped.ends_with(" leaked=0"), "{output}");
                assert_eq!(ended.status.code(), Some(0), "{output}");
            }
            _ => panic!("{strategy}: {output}"),
        }
    });
    assert!(!place.path.exists());
    wait_until("its children have ended", || processes_at(&place.path) == 0);
}

fn a_thousand_signals_at_any_moment_end_servers_well() {
    let mut random = Random(0x5EED);
    let mut sent = 0;
    for strategy in STRATEGIES.into_iter().cycle() {
        let signals = 1 + random.below(7).min(999 - sent);
        signal_at_random(strategy, signals, &mut random);
        sent += signals;
        if sent == 1_000 {
            return;
        }
    }
}

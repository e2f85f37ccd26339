//! Errors of accepting, injected where the transport accepts: what passes is tried again at once, what has
//! run out is waited for, and nothing else ends a server than a broken listener.

mod support;

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{Pid, gettid};
use socketserver::prelude::*;
use socketserver::{SocketServer, Tcp, Transport};
use support::accepting::Accepting;
use support::attempts::until_in_time;
use support::interrupt::wait_until_asleep;
use support::{CEILING, EchoLine, connect, exchange_line, logged, wait_until};

tests![
    what_passes_is_tried_again_at_once,
    what_passes_and_comes_back_for_ever_does_not_make_the_server_spin,
    an_episode_is_told_once_at_its_begin_and_once_at_its_end,
    each_episode_is_told_and_of_those_that_come_soon_after_it_the_first_is_a_warning,
    every_strategy_serves_on_after_an_episode,
    a_back_off_ends_with_a_shutdown,
    a_drain_waits_out_an_episode_and_serves_the_queue,
    a_drain_that_cannot_accept_runs_those_that_wait_for_their_turn,
    a_drain_without_a_queue_does_not_wait_for_the_end_of_an_episode,
    a_drain_that_cannot_accept_says_how_far_it_is,
    a_drain_that_cannot_accept_ends_at_the_deadline,
    a_broken_listener_ends_serving_with_an_error,
    a_broken_listener_ends_every_thread_that_accepts,
];

const ANY_PORT: &str = "127.0.0.1:0";

/// What [`Faulty`] fails with before it accepts, in order.
#[derive(Clone, Debug, Default)]
struct Faults {
    errors: Arc<Mutex<VecDeque<Errno>>>,
    /// The thread that met the last, and when.
    met_by: Arc<AtomicI32>,
    met_at: Arc<Mutex<Option<Instant>>>,
}

impl Faults {
    fn inject(&self, errors: impl IntoIterator<Item = Errno>) {
        self.errors.lock().unwrap().extend(errors);
    }

    fn left(&self) -> usize {
        self.errors.lock().unwrap().len()
    }

    fn next(&self) -> Option<Errno> {
        self.met_by.store(gettid().as_raw(), Ordering::SeqCst);
        let mut errors = self.errors.lock().unwrap();
        if !errors.is_empty() {
            *self.met_at.lock().unwrap() = Some(Instant::now());
        }
        errors.pop_front()
    }
}

/// TCP whose accept(2) fails as it is told.
struct Faulty {
    tcp: Tcp,
    faults: Faults,
}

thread_local! {
    /// For the transport that is bound next by this thread.
    static FAULTS: Faults = Faults::default();
}

impl Transport for Faulty {
    forward_to_tcp!(tcp, stop_listening);

    type Request = TcpRequest;

    fn bind(address: &Address, config: &socketserver::Config) -> io::Result<Self> {
        Ok(Faulty {
            tcp: Tcp::bind(address, config)?,
            faults: FAULTS.with(Faults::clone),
        })
    }

    fn accept(&self) -> io::Result<TcpRequest> {
        match self.faults.next() {
            Some(errno) => Err(errno.into()),
            None => self.tcp.accept(),
        }
    }

    fn refuse(&self) -> io::Result<()> {
        self.tcp.refuse()
    }
}

fn server() -> (SocketServer<Faulty, EchoLine>, Faults) {
    let faults = FAULTS.with(Faults::clone);
    faults.errors.lock().unwrap().clear();
    (SocketServer::new(ANY_PORT, EchoLine), faults)
}

fn lines(beginning: &str) -> Vec<String> {
    let mut lines = logged();
    lines.retain(|line| line.starts_with(beginning));
    lines
}

const OVER: &str = "INFO cannot accept: over";

fn what_passes_is_tried_again_at_once() {
    let (server, faults) = server();
    let running = server.spawn().unwrap();
    let passing = [
        Errno::EINTR,
        Errno::ECONNABORTED,
        Errno::EPROTO,
        Errno::EPERM,
        Errno::ENETDOWN,
        Errno::ENOPROTOOPT,
        Errno::EHOSTDOWN,
        Errno::ENONET,
        Errno::EHOSTUNREACH,
        Errno::EOPNOTSUPP,
        Errno::ENETUNREACH,
        Errno::ETIMEDOUT,
        Errno::ECONNRESET,
    ];
    // A burst is no episode.
    faults.inject(passing.into_iter().cycle().take(100));
    assert_eq!(exchange_line(connect(running.server_address()), "on\n"), "on\n");
    assert_eq!(faults.left(), 0);
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (1, 0));
    assert_eq!(lines("WARN"), [""; 0]);
}

/// EPERM of a security module leaves the connection in the queue.
fn what_passes_and_comes_back_for_ever_does_not_make_the_server_spin() {
    let (server, faults) = server();
    let running = server.spawn().unwrap();
    faults.inject(vec![Errno::EPERM; 100_000]);
    let client = connect(running.server_address());
    wait_until("it backs off", || {
        !lines("WARN cannot accept: Operation not permitted").is_empty()
    });
    // From the 101st on each costs a wait.
    assert!(faults.left() > 99_000, "{}", faults.left());
    faults.errors.lock().unwrap().clear();
    assert_eq!(exchange_line(client, "on\n"), "on\n");
    running.stop().unwrap();
}

/// What is told of it; each C library has words of its own.
fn no_descriptors() -> String {
    format!("cannot accept: {}", io::Error::from(Errno::EMFILE))
}

fn an_episode_is_told_once_at_its_begin_and_once_at_its_end() {
    let (server, faults) = server();
    let running = server.spawn().unwrap();
    faults.inject([
        Errno::EMFILE,
        Errno::ENFILE,
        Errno::ENOBUFS,
        Errno::ENOMEM,
        // What the table does not know.
        Errno::ENOSR,
    ]);
    assert_eq!(exchange_line(connect(running.server_address()), "on\n"), "on\n");
    let warning = format!("WARN {}; trying again until it works", no_descriptors());
    assert_eq!(lines("WARN"), [warning]);
    assert_eq!(lines(OVER), [OVER]);
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (1, 0));
}

fn each_episode_is_told_and_of_those_that_come_soon_after_it_the_first_is_a_warning() {
    let (server, faults) = server();
    let running = server.spawn().unwrap();
    for episode in 1..=3 {
        faults.inject([Errno::EMFILE, Errno::EMFILE]);
        assert_eq!(exchange_line(connect(running.server_address()), "on\n"), "on\n");
        assert_eq!((lines("WARN").len(), lines(OVER).len()), (1, 1));
        let soon = [
            format!("DEBUG {}", no_descriptors()),
            "DEBUG cannot accept: over".to_owned(),
        ];
        assert_eq!(soon.map(|line| lines(&line).len()), [episode - 1; 2]);
    }
    running.stop().unwrap();
}

fn every_strategy_serves_on_after_an_episode() {
    #[track_caller]
    fn check(server: impl BaseServer, faults: &Faults) {
        let running = server.spawn().unwrap();
        for _ in 0..3 {
            faults.inject([Errno::EMFILE, Errno::ECONNABORTED, Errno::ENOMEM]);
            assert_eq!(exchange_line(connect(running.server_address()), "on\n"), "on\n");
        }
        let report = running.stop().unwrap();
        assert_eq!((report.served, report.failed), (3, 0));
    }
    let (bare, faults) = server();
    check(bare, &faults);
    check(server().0.threading(), &faults);
    check(server().0.thread_pool().workers(2), &faults);
    check(server().0.forking(), &faults);
    check(Accepting::over(server().0, 3), &faults);
}

/// Injects so many errors that a back-off of a second is under way: after 5, 10, … 640 ms.
#[track_caller]
fn begin_long_back_off(faults: &Faults, server: &Address) -> TcpStream {
    faults.inject([Errno::EMFILE; 9]);
    let client = connect(server);
    wait_until("the last has been met", || faults.left() == 0);
    wait_until_asleep(Pid::from_raw(faults.met_by.load(Ordering::SeqCst)));
    client
}

fn a_back_off_ends_with_a_shutdown() {
    let ends_before_its_time = || {
        let (server, faults) = server();
        let running = server.spawn().unwrap();
        let client = begin_long_back_off(&faults, running.server_address());
        running.shutdown_handle().shutdown();
        assert_eq!(exchange_line(client, "on\n"), "on\n");
        let begun = faults.met_at.lock().unwrap().expect("it has met the last");
        let took = begun.elapsed();
        let report = running.join().unwrap();
        assert_eq!((report.served, report.failed), (1, 0));
        took < Duration::from_secs(1)
    };
    until_in_time(ends_before_its_time);
}

fn a_drain_waits_out_an_episode_and_serves_the_queue() {
    let (server, faults) = server();
    let server = server.threading().bind().unwrap();
    let clients: Vec<_> = (0..3).map(|_| connect(&server.server_address())).collect();
    faults.inject([Errno::EMFILE; 4]);
    server.shutdown();
    let serving = thread::spawn(move || server.serve_forever());
    for client in clients {
        assert_eq!(exchange_line(client, "on\n"), "on\n");
    }
    let report = serving.join().unwrap().unwrap();
    assert_eq!((report.served, report.drained, report.failed), (3, 3, 0));
}

/// They may have the very descriptors that are wanting.
fn a_drain_that_cannot_accept_runs_those_that_wait_for_their_turn() {
    let (server, faults) = server();
    let running = server.threading().max_per_address(1).spawn().unwrap();
    let [first, second] = [(); 2].map(|()| connect(running.server_address()));
    let handle = running.handle();
    wait_until("the second waits for the first", || {
        let stats = handle.stats();
        (stats.running, stats.waiting) == (1, 1)
    });
    faults.inject(vec![Errno::EMFILE; 100_000]);
    let third = connect(running.server_address());
    running.shutdown_handle().shutdown();
    for client in [first, second] {
        assert_eq!(exchange_line(client, "on\n"), "on\n");
    }
    faults.errors.lock().unwrap().clear();
    assert_eq!(exchange_line(third, "on\n"), "on\n");
    let report = running.join().unwrap();
    assert_eq!((report.served, report.forced), (3, 0));
}

/// Where accepting fails although there is nothing to accept, it does not go on until the deadline.
fn a_drain_without_a_queue_does_not_wait_for_the_end_of_an_episode() {
    let (server, faults) = server();
    let running = server.spawn().unwrap();
    faults.inject(vec![Errno::EMFILE; 100_000]);
    let report = running.stop().unwrap();
    assert!(report.elapsed < CEILING, "{report:?}");
}

fn a_drain_that_cannot_accept_says_how_far_it_is() {
    let (server, faults) = server();
    let running = server.drain_timeout(Duration::from_secs(15)).spawn().unwrap();
    faults.inject(vec![Errno::EMFILE; 100_000]);
    let client = connect(running.server_address());
    running.shutdown_handle().shutdown();
    let progress = "INFO draining: 0 connections and those not accepted yet, 1";
    wait_until("it says how far it is", || !lines(progress).is_empty());
    faults.errors.lock().unwrap().clear();
    assert_eq!(exchange_line(client, "on\n"), "on\n");
    assert_eq!(running.join().unwrap().served, 1);
}

/// Nothing else ends its wait: it has no timer for the deadline, and nobody stops it by its guard.
fn a_drain_that_cannot_accept_ends_at_the_deadline() {
    let ends_in_time = || {
        let (server, faults) = server();
        let running = server
            .forking()
            .drain_timeout(Duration::from_millis(100))
            .spawn()
            .unwrap();
        let lost = begin_long_back_off(&faults, running.server_address());
        faults.inject(vec![Errno::EMFILE; 100_000]);
        running.shutdown_handle().shutdown();
        let report = running.join().unwrap();
        assert!(io::Read::read(&mut &lost, &mut [0]).is_err());
        report.elapsed < Duration::from_secs(1)
    };
    until_in_time(ends_in_time);
}

const BROKEN: &str = "the listening socket is broken: ";

fn a_broken_listener_ends_serving_with_an_error() {
    for errno in [Errno::EBADF, Errno::EINVAL, Errno::ENOTSOCK] {
        let (server, faults) = server();
        let running = server.spawn().unwrap();
        faults.inject([errno]);
        let client = connect(running.server_address());
        let error = running.join().unwrap_err();
        assert!(error.to_string().starts_with(BROKEN), "{error}");
        // It was never accepted.
        assert!(io::Read::read(&mut &client, &mut [0]).is_err());
    }
}

fn a_broken_listener_ends_every_thread_that_accepts() {
    let (server, faults) = server();
    let running = Accepting::over(server, 3).spawn().unwrap();
    faults.inject([Errno::EBADF; 3]);
    let client = connect(running.server_address());
    let error = running.join().unwrap_err();
    assert!(error.to_string().starts_with(BROKEN), "{error}");
    drop(client);
}

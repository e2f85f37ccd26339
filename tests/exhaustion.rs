//! Servers whose system has run out: of descriptors, of threads, of processes. Each is the `echo`
//! example under a limit (prlimit(1)); it neither ends nor spins, and recovers.

mod support;

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use socketserver::prelude::*;
use socketserver::{Acceptor, WaitError};
use support::process::{
    Process, STRATEGIES, assert_rest_after, assert_stops, echo, echo_with_few_tasks, role, role_with_few_tasks,
    serve_as_role, stop,
};
use support::rlimit::without_room_for;
use support::talk::{ECHO_LINES, assert_echoes, finish};
use support::waited::Waited;
use support::{CEILING, connect_to, exchange_line, read_to_end, wait_until, wait_until_accepted};

tests![
    roles: rejects_with_few_descriptors, serves_in_a_worker_with_threads, serves_in_the_background,
        tells_of_actions_in_pauses;
    without_descriptors_a_threading_server_waits_and_recovers,
    without_descriptors_a_pool_waits_and_recovers,
    without_descriptors_a_server_rests_while_nobody_comes,
    without_descriptors_a_forking_server_serves_all,
    without_descriptors_those_of_rejected_clients_are_taken_back,
    a_limit_of_no_descriptors_at_all_is_waited_for,
    a_limit_of_no_descriptors_at_all_loses_nobody_at_a_drain,
    a_limit_of_no_descriptors_at_all_is_no_trouble_for_datagrams,
    without_threads_a_threading_server_serves_on_its_loop,
    without_threads_the_drain_deadline_is_kept_all_the_same,
    without_any_thread_a_threading_server_serves_one_after_the_other_without_a_pause,
    without_any_thread_a_worker_with_threads_does_so_too,
    without_threads_a_pool_works_with_those_it_has,
    without_any_thread_a_pool_serves_on_its_loop,
    without_any_thread_no_server_serves_in_the_background,
    without_threads_a_second_signal_ends_the_request_on_the_loop_of_a_threading_server,
    without_threads_a_second_signal_ends_the_request_on_the_loop_of_a_pool,
    without_timers_every_server_serves,
    without_processes_a_forking_server_loses_one_request_only,
    without_processes_a_forking_server_does_not_lose_all_that_come_at_once,
    without_processes_a_forking_server_keeps_its_poll_interval,
    waiting_in_a_hook_that_runs_in_a_pause_is_a_deadlock,
];

// ----- Descriptors -------------------------------------------------------------------------------

fn with_descriptors(number: u32, strategy: &str) -> Process {
    let echo = echo("tcp", strategy, "127.0.0.1:0");
    let mut command = Command::new("prlimit");
    let limit = format!("--nofile={number}");
    command.arg(limit).arg(echo.get_program()).args(echo.get_args());
    Process::start(&mut command)
}

/// Processor time that the threads of a process have used (proc(5), schedstat: nanoseconds first).
fn processor_time(process: &Process) -> Duration {
    let threads = fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
    let times = threads.filter_map(|thread| {
        let times = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        times.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(times.sum())
}

/// How many of the clients have been answered, without waiting.
fn answered(clients: &[TcpStream]) -> usize {
    let has_answer = |client: &&TcpStream| {
        client.set_nonblocking(true).unwrap();
        let seen = client.peek(&mut [0; 6]);
        client.set_nonblocking(false).unwrap();
        match seen {
            Ok(count) => {
                assert_ne!(count, 0, "the server has closed the connection");
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                false
            }
        }
    };
    clients.iter().filter(has_answer).count()
}

/// Two hundred clients come, and half of them leave without a word. All others are served.
#[track_caller]
fn assert_recovers(strategy: &str) {
    let server = with_descriptors(64, strategy);
    let mut clients: Vec<_> = (0..200).map(|_| connect_to(server.address())).collect();
    for mut client in &clients {
        client.write_all(b"hello\n").unwrap();
    }
    wait_until("some are served", || answered(&clients) >= 40);
    let (begin, used) = (Instant::now(), processor_time(&server));
    wait_until("it has been so for a second", || {
        begin.elapsed() >= Duration::from_secs(1)
    });
    let used = processor_time(&server).saturating_sub(used);
    assert!(used < begin.elapsed() / 10, "it spins: {used:?}");
    let lucky = answered(&clients);
    assert!(lucky < 64, "there are no descriptors for more");
    // Those that were served, and some that were not.
    for mut client in clients.drain(..100) {
        if answered(std::slice::from_ref(&client)) == 1 {
            client.read_exact(&mut [0; 6]).unwrap();
            finish(&client);
        }
    }
    // In the order in which they came: each that ends makes room for another.
    for mut client in clients {
        client.read_exact(&mut [0; 6]).unwrap();
        finish(&client);
    }
    assert_echoes(&connect_to(server.address()));
    server.signal(Signal::SIGTERM);
    let ended = server.end();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let count = |name: &str| -> usize {
        let (_, count) = ended.output.split_once(name).unwrap();
        count.split_whitespace().next().unwrap().parse().unwrap()
    };
    assert_eq!(count("served=") + count("failed="), 201, "{ended:?}");
    assert!(count("served=") > 100 + lucky, "{ended:?}");
    let log = ended.errors;
    assert!(log.contains("cannot accept: "), "{log}");
    assert!(log.contains("(os error 24); trying again until it works"), "{log}");
    assert!(log.contains("cannot accept: over"), "{log}");
}

fn without_descriptors_a_threading_server_waits_and_recovers() {
    assert_recovers("threading");
}

fn without_timers_every_server_serves() {
    for strategy in STRATEGIES {
        let echo = echo("tcp", strategy, "127.0.0.1:0");
        let mut command = Command::new("prlimit");
        command
            .arg("--sigpending=0")
            .arg(echo.get_program())
            .args(echo.get_args());
        let server = Process::start(&mut command);
        let client = connect_to(server.address());
        assert_eq!(exchange_line(&client, "hello\n"), "hello\n", "{strategy}");
        drop(client);
        let errors = stop(server, "served=1 failed=0");
        // A forking server ends its children by signals.
        let warned = errors.contains("no timer (Resource temporarily unavailable");
        assert_eq!(warned, strategy != "forking", "{strategy}: {errors}");
    }
}

fn without_descriptors_a_pool_waits_and_recovers() {
    let echo = echo("tcp", "pool", "127.0.0.1:0");
    let mut command = Command::new("prlimit");
    command
        .arg("--nofile=16")
        .arg(echo.get_program())
        .args(echo.get_args())
        .args(["--workers", "30"]);
    let server = Process::start(&mut command);
    let clients: Vec<_> = (0..20).map(|_| connect_to(server.address())).collect();
    let last = PathBuf::from(format!("/proc/{}/fd/15", server.id()));
    wait_until("it has no more descriptors", || fs::symlink_metadata(&last).is_ok());
    for client in &clients {
        assert_echoes(client);
        finish(client);
    }
    let log = stop(server, "served=20 failed=0");
    assert!(log.contains("cannot accept: "), "{log}");
}

fn without_descriptors_a_server_rests_while_nobody_comes() {
    let mut servers = Vec::new();
    for strategy in ["threading", "pool"] {
        let echo = echo("tcp", strategy, "127.0.0.1:0");
        let mut command = Command::new("prlimit");
        command.arg("--nofile=64").arg(echo.get_program()).args(echo.get_args());
        if strategy == "pool" {
            command.args(["--workers", "64"]);
        }
        let server = Process::start(&mut command);
        let mut clients = Vec::new();
        while fs::read_dir(format!("/proc/{}/fd", server.id())).unwrap().count() < 64 {
            clients.push(connect_to(server.address()));
            assert_echoes(&clients[clients.len() - 1]);
        }
        servers.push((strategy, server, clients));
    }
    let named: Vec<_> = servers
        .iter()
        .map(|(strategy, server, _)| (*strategy, server))
        .collect();
    // Each thread that found no descriptor left looks once more, after a second at the most.
    assert_rest_after(&named, Duration::from_millis(1200));
    for (_, server, clients) in servers {
        drop(clients);
        server.signal(Signal::SIGTERM);
        assert_eq!(server.end().status.code(), Some(0));
    }
}

/// Its connections are its children's.
fn without_descriptors_a_forking_server_serves_all() {
    let server = with_descriptors(24, "forking");
    let clients: Vec<_> = (0..40).map(|_| connect_to(server.address())).collect();
    clients.iter().for_each(assert_echoes);
    clients.iter().for_each(finish);
    assert_eq!(stop(server, "served=40 failed=0"), "");
}

fn rejects_with_few_descriptors() {
    setrlimit(Resource::RLIMIT_NOFILE, 32, 32).unwrap();
    let server = ThreadingTcpServer::new("127.0.0.1:0", ECHO_LINES);
    serve_as_role(server.max_connections(Limit::reject(1)).farewell("busy\n"));
}

fn without_descriptors_those_of_rejected_clients_are_taken_back() {
    let server = Process::start(&mut role("rejects_with_few_descriptors"));
    let client = connect_to(server.address());
    assert_echoes(&client);
    let begun = Instant::now();
    for _ in 0..600 {
        assert_eq!(read_to_end(connect_to(server.address())), b"busy\n");
    }
    // Were they kept for their half second, this would take that twenty times at least.
    assert!(begun.elapsed() < CEILING, "{:?}", begun.elapsed());
    finish(&client);
    stop(server, "served=1 failed=0");
}

// ----- Threads and processes ---------------------------------------------------------------------

const NO_ROOM: &str = "cannot start a request: the system has no room for another thread or process (what limits them: \
                       ulimit -u, pids.max of the cgroup, memory)";

/// Changes how many descriptors a process that runs may have.
#[track_caller]
fn limit_descriptors(process: &Process, number: u32) {
    let mut command = Command::new("prlimit");
    let limit = format!("--nofile={number}:");
    command.arg(limit).arg("--pid").arg(process.id().to_string());
    assert!(command.status().unwrap().success());
}

/// A server that has clients for whom it may not open a descriptor, nor look at any with poll(2).
#[track_caller]
fn with_clients_and_no_descriptors(strategy: &str) -> (Process, Vec<TcpStream>) {
    let mut server = Process::start(&mut echo("tcp", strategy, "127.0.0.1:0"));
    limit_descriptors(&server, 0);
    // More than there are threads that wait in accept(2), before which Linux takes a descriptor.
    let clients: Vec<_> = (0..20).map(|_| connect_to(server.address())).collect();
    for mut client in &clients {
        client.write_all(b"hello\n").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    }
    server.wait_for_errors_with("cannot accept: ");
    (server, clients)
}

fn a_limit_of_no_descriptors_at_all_is_waited_for() {
    for strategy in ["sync", "threading", "pool"] {
        let (server, clients) = with_clients_and_no_descriptors(strategy);
        limit_descriptors(&server, 64);
        for client in &clients {
            assert_eq!(read_to_end(client), b"hello\n", "{strategy}");
        }
        stop(server, "served=20 failed=0");
    }
}

fn a_limit_of_no_descriptors_at_all_loses_nobody_at_a_drain() {
    for strategy in ["sync", "threading", "pool"] {
        let (mut server, clients) = with_clients_and_no_descriptors(strategy);
        server.signal(Signal::SIGTERM);
        server.wait_for_errors_with("draining: ");
        limit_descriptors(&server, 64);
        for client in &clients {
            assert_eq!(read_to_end(client), b"hello\n", "{strategy}");
        }
        assert_stops(server, "served=20 failed=0");
    }
}

/// As a program is that shuts itself off when it has all that it needs.
fn a_limit_of_no_descriptors_at_all_is_no_trouble_for_datagrams() {
    for strategy in ["sync", "threading", "forking", "pool"] {
        let server = Process::start(&mut echo("udp", strategy, "127.0.0.1:0"));
        limit_descriptors(&server, 0);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(CEILING)).unwrap();
        client.send_to(b"hello", server.address()).unwrap();
        assert_eq!(client.recv(&mut [0; 6]).unwrap(), 5, "{strategy}");
        stop(server, "served=1 failed=0");
    }
}

fn without_threads_a_threading_server_serves_on_its_loop() {
    let Some((server, _place)) = echo_with_few_tasks(3, &["--strategy", "threading"]) else {
        return;
    };
    let in_threads = [connect_to(server.address()), connect_to(server.address())];
    in_threads.iter().for_each(assert_echoes);
    let on_the_loop = connect_to(server.address());
    assert_echoes(&on_the_loop);
    let waiting = connect_to(server.address());
    finish(&on_the_loop);
    assert_echoes(&waiting);
    in_threads.iter().for_each(finish);
    finish(&waiting);
    let again = [connect_to(server.address()), connect_to(server.address())];
    again.iter().for_each(assert_echoes);
    again.iter().for_each(finish);
    let log = stop(server, "served=6 failed=0");
    assert!(log.contains(NO_ROOM), "{log}");
}

/// Two silent clients have the threads, and the loop is busy with a third.
fn without_threads_the_drain_deadline_is_kept_all_the_same() {
    let Some((server, _place)) = echo_with_few_tasks(3, &["--strategy", "threading", "--drain", "1"]) else {
        return;
    };
    let clients = [
        connect_to(server.address()),
        connect_to(server.address()),
        connect_to(server.address()),
    ];
    clients.iter().for_each(wait_until_accepted);
    server.signal(Signal::SIGTERM);
    for client in clients {
        assert_eq!(read_to_end(client), b"");
    }
    let ended = server.end();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let counts = "stopped: served=3 failed=0 drained=0 forced=3 leaked=0\n";
    assert_eq!(ended.output, counts, "{ended:?}");
}

/// Nothing of its own could end during a pause, and make room.
#[track_caller]
fn assert_serves_without_a_pause(server: Process) {
    let begun = Instant::now();
    for _ in 0..30 {
        let client = connect_to(server.address());
        assert_echoes(&client);
        finish(&client);
    }
    // The pauses that there would be take more than twice as long.
    assert!(begun.elapsed() < CEILING, "{:?}", begun.elapsed());
    let log = stop(server, "served=30 failed=0");
    assert_eq!(log.matches(NO_ROOM).count(), 1, "{log}");
}

fn without_any_thread_a_threading_server_serves_one_after_the_other_without_a_pause() {
    if let Some((server, _place)) = echo_with_few_tasks(1, &["--strategy", "threading"]) {
        assert_serves_without_a_pause(server);
    }
}

fn serves_in_a_worker_with_threads() {
    env_logger::Builder::new().filter_level(log::LevelFilter::Warn).init();
    serve_as_role(PreFork::<ThreadingTcpServer<_>>::new("127.0.0.1:0", ECHO_LINES).workers(1));
}

/// Its master and itself are all that there is room for.
fn without_any_thread_a_worker_with_threads_does_so_too() {
    if let Some((server, _place)) = role_with_few_tasks(2, "serves_in_a_worker_with_threads") {
        assert_serves_without_a_pause(server);
    }
}

#[track_caller]
fn assert_tells_of_workers(log: &str, started: usize) {
    let warning = format!(
        "only {started} of 10 workers could be started (what limits them: ulimit -u, pids.max of the cgroup, memory): "
    );
    assert!(log.contains(&warning), "{log}");
}

fn without_threads_a_pool_works_with_those_it_has() {
    let Some((server, _place)) = echo_with_few_tasks(3, &["--strategy", "pool", "--workers", "10"]) else {
        return;
    };
    let clients = [connect_to(server.address()), connect_to(server.address())];
    clients.iter().for_each(assert_echoes);
    let waiting = connect_to(server.address());
    clients.iter().for_each(finish);
    assert_echoes(&waiting);
    finish(&waiting);
    let log = stop(server, "served=3 failed=0");
    assert_tells_of_workers(&log, 2);
}

fn without_any_thread_a_pool_serves_on_its_loop() {
    let Some((server, _place)) = echo_with_few_tasks(1, &["--strategy", "pool", "--workers", "10"]) else {
        return;
    };
    for _ in 0..3 {
        let client = connect_to(server.address());
        assert_echoes(&client);
        finish(&client);
    }
    let log = stop(server, "served=3 failed=0");
    assert_tells_of_workers(&log, 0);
    assert_eq!(log.matches("workers could be started").count(), 1, "{log}");
}

fn serves_in_the_background() {
    let server = TcpServer::new("127.0.0.1:0", ECHO_LINES).bind().unwrap();
    println!("listening on {}", server.server_address());
    if let Err(error) = server.spawn() {
        eprintln!("{error}");
    }
}

fn without_any_thread_no_server_serves_in_the_background() {
    let Some((server, _place)) = role_with_few_tasks(1, "serves_in_the_background") else {
        return;
    };
    let errors = server.end().errors;
    let text = "Resource temporarily unavailable (os error 11): the system has no room for another thread (what limits \
                them: ulimit -u, pids.max of the cgroup, memory)\n";
    assert_eq!(errors, text);
}

/// The loop is busy with a client that stays, so nothing but a signal handler can end its request.
#[track_caller]
fn assert_ended_by_two_signals(strategy: &str) {
    let Some((server, _place)) = echo_with_few_tasks(1, &["--strategy", strategy]) else {
        return;
    };
    let client = connect_to(server.address());
    wait_until_accepted(&client);
    for _ in 0..2 {
        server.signal(Signal::SIGTERM);
        // Two that are pending at once would be one.
        wait_until("the signal has been taken", || !server.is_pending(Signal::SIGTERM));
    }
    assert_eq!(read_to_end(&client), b"");
    let ended = server.end();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(
        ended
            .output
            .starts_with("stopped: served=1 failed=0 drained=0 forced=1 "),
        "{ended:?}"
    );
}

fn without_threads_a_second_signal_ends_the_request_on_the_loop_of_a_threading_server() {
    assert_ended_by_two_signals("threading");
}

fn without_threads_a_second_signal_ends_the_request_on_the_loop_of_a_pool() {
    assert_ended_by_two_signals("pool");
}

fn without_processes_a_forking_server_loses_one_request_only() {
    let Some((server, _place)) = echo_with_few_tasks(3, &["--strategy", "forking"]) else {
        return;
    };
    let lucky = [connect_to(server.address()), connect_to(server.address())];
    lucky.iter().for_each(assert_echoes);
    let lost = connect_to(server.address());
    assert_eq!(read_to_end(&lost), b"");
    lucky.iter().for_each(finish);
    let own_end = lost.local_addr().unwrap();
    wait_until("there is room again", || {
        let client = connect_to(server.address());
        let mut answer = String::new();
        (&client).write_all(b"hello\n").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        (&client).read_to_string(&mut answer).is_ok_and(|_| answer == "hello\n")
    });
    server.signal(Signal::SIGTERM);
    let ended = server.end();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.output.starts_with("stopped: served=3 "), "{ended:?}");
    let text = format!("process_request failed for {own_end}: Resource temporarily unavailable");
    assert!(ended.errors.contains(&text), "{ended:?}");
    assert!(ended.errors.contains(NO_ROOM), "{ended:?}");
}

/// Each that is lost makes the next wait longer in the kernel's queue: fifteen would take eight seconds.
fn without_processes_a_forking_server_does_not_lose_all_that_come_at_once() {
    let Some((server, _place)) = echo_with_few_tasks(1, &["--strategy", "forking"]) else {
        return;
    };
    let clients: Vec<_> = (0..20).map(|_| connect_to(server.address())).collect();
    let lost = || {
        let is_lost = |client: &&TcpStream| {
            client.set_nonblocking(true).unwrap();
            client.peek(&mut [0]).is_ok_and(|count| count == 0)
        };
        clients.iter().filter(is_lost).count()
    };
    wait_until("some are lost", || lost() >= 3);
    thread::sleep(Duration::from_millis(100));
    assert!(lost() < 15, "{} of 20 are lost", lost());
}

/// Tells how often `service_actions` has run between a request that was lost and the next, if that was often.
struct Counting<S> {
    inner: S,
    /// Negative: no request was lost since the last.
    actions: AtomicIsize,
}

impl<S: BaseServer> BaseServer for Counting<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn handle_error(&self, _: &RequestError) {
        self.actions.store(0, Ordering::SeqCst);
    }

    fn service_actions(&self) {
        self.inner.service_actions();
        self.actions.fetch_add(1, Ordering::SeqCst);
    }

    fn get_request(&self) -> io::Result<RequestOf<Self>> {
        if self.actions.swap(isize::MIN, Ordering::SeqCst) > 5 {
            eprintln!("many actions in a pause");
        }
        self.inner.get_request()
    }
}

fn tells_of_actions_in_pauses() {
    let server = ForkingTcpServer::new("127.0.0.1:0", ECHO_LINES).poll_interval(Duration::from_millis(10));
    serve_as_role(Counting {
        inner: server,
        actions: AtomicIsize::new(isize::MIN),
    });
}

fn without_processes_a_forking_server_keeps_its_poll_interval() {
    let Some((mut server, _place)) = role_with_few_tasks(1, "tells_of_actions_in_pauses") else {
        return;
    };
    // Each that is lost makes the next wait longer: the last half a second.
    let lost: Vec<_> = (0..9).map(|_| connect_to(server.address())).collect();
    server.wait_for_errors_with("many actions in a pause");
    drop(lost);
}

/// Two threads accept, and service actions wait for the server: collects what that comes to.
struct TwoWait<S> {
    inner: S,
    waited: Waited,
}

impl<S: BaseServer> BaseServer for TwoWait<S> {
    type Transport = S::Transport;
    type Inner = S;

    const CONCURRENCY: Concurrency = Concurrency::Threads;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn service_actions(&self) {
        self.waited.wait_for(self);
    }

    fn serve(&self, acceptor: Acceptor<S::Transport>) -> io::Result<()> {
        let accept = |mut acceptor: Acceptor<S::Transport>| {
            while let Some(job) = acceptor.next()? {
                acceptor.process(job)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let threads = [acceptor.clone(), acceptor].map(|acceptor| scope.spawn(move || accept(acceptor)));
            threads.map(|thread| thread.join().unwrap()).into_iter().collect()
        })
    }
}

fn waiting_in_a_hook_that_runs_in_a_pause_is_a_deadlock() {
    const STACK: usize = 512 << 20;
    let waited = Waited::default();
    let server = TwoWait {
        inner: ThreadingTcpServer::new("127.0.0.1:0", ECHO_LINES).stack_size(STACK),
        waited: waited.clone(),
    };
    let running = server.poll_interval(Duration::from_millis(1)).spawn().unwrap();
    let limited = without_room_for(STACK);
    let address = running.server_address().as_inet().unwrap();
    let stays = connect_to(address);
    assert_echoes(&stays);
    for _ in 0..4 {
        assert_echoes(&connect_to(address));
    }
    drop(stays);
    drop(limited);
    running.stop().unwrap();
    let waited = waited.take();
    assert_eq!(waited, vec![Err(WaitError::Deadlock); waited.len()]);
}

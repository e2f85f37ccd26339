//! Limits: how many at once, how many of one address, how fast; and what becomes of those beyond.

mod support;

use std::env;
use std::fs::File;
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, gettid};
use socketserver::prelude::*;
use socketserver::{Capacity, Event, Force, Handled, LimitKind, Observer, Running, State, WaitError};
use support::accepting::Accepting;
use support::attempts::{first_in_time, until_in_time};
use support::detached::Detached;
use support::gate::Gate;
use support::interrupt::Interrupts;
use support::process::{Process, pid, role, role_with_few_tasks, serve_as_role};
use support::talk::{
    ECHO_LINES, Handler, TELL_PROCESS, assert_echoes, assert_waits, finish, in_progress, told_process,
};
use support::unix::connect_unix;
use support::{
    CEILING, EchoLine, connect, connect_from, exchange_line, logged, read_to_end, sockets, sockets_of, temp_path,
    udp_client, wait_until, wait_until_draining,
};

tests![
    roles: serves_at_a_limit, serves_one_of_each_address;
    a_limit_of_one_that_waits_is_never_exceeded_under_any_strategy,
    a_limit_of_one_that_rejects_is_never_exceeded_under_any_strategy,
    a_limit_of_three_is_never_exceeded_either,
    a_limit_of_one_per_address_is_never_exceeded_under_any_strategy,
    over_max_connections_clients_wait_in_the_kernels_queue,
    over_max_connections_clients_are_rejected_if_that_is_the_policy,
    the_smaller_of_two_limits_decides,
    a_limit_that_rises_by_itself_is_seen_at_the_next_poll_interval_under_every_strategy,
    where_no_place_is_left_and_nobody_is_queued_a_server_ends_at_once_under_every_strategy,
    a_rejected_client_that_has_sent_a_lot_reads_the_farewell,
    a_rejected_client_that_goes_on_sending_reads_the_farewell,
    a_rejected_client_that_reads_late_reads_the_farewell,
    a_rejected_client_that_is_gone_sends_the_process_no_sigpipe,
    without_a_farewell_a_rejected_client_reads_the_end,
    a_rejected_client_reads_the_end_although_hooks_keep_its_connection_open,
    a_farewell_that_is_too_long_is_cut_and_keeps_nobody_waiting,
    a_mix_in_tells_rejected_clients_something_else,
    a_reject_request_hook_that_panics_costs_one_request,
    clients_rejected_just_before_the_end_read_the_farewell,
    a_server_ends_as_soon_as_the_last_rejected_client_has_gone,
    told_to_stop_at_once_a_server_waits_for_no_rejected_client,
    a_signal_does_not_cut_the_time_of_clients_rejected_just_before_the_end,
    many_rejected_clients_do_not_cost_a_descriptor_each,
    of_many_rejected_clients_the_first_is_closed_first,
    per_address_one_client_is_rejected_and_others_are_served,
    per_address_one_client_waits_and_others_are_served,
    those_that_wait_run_in_their_order,
    those_that_wait_run_in_the_order_in_which_they_came,
    one_that_waits_as_its_server_is_dropped_cannot_be_closed_any_more,
    one_that_waits_runs_when_another_has_ended_elsewhere,
    more_than_may_wait_are_rejected,
    clients_of_unix_sockets_have_no_address_to_be_limited_by,
    a_refused_client_takes_no_token,
    faster_than_the_rate_a_client_is_rejected,
    a_rate_of_one_for_ever_admits_one,
    faster_than_the_rate_a_client_waits_for_its_turn,
    one_that_waits_for_its_turn_runs_then_whoever_else_is_busy,
    one_whose_turn_comes_as_another_is_accepted_runs_whoever_is_busy,
    one_whose_turn_comes_at_a_limit_that_rejects_waits_on,
    rejected_clients_are_closed_where_waiting_for_the_server_is_a_deadlock,
    one_that_waits_for_its_turn_is_no_thread_that_ends,
    datagrams_that_come_too_fast_are_dropped,
    at_max_threads_a_client_waits,
    at_max_threads_a_client_is_rejected_if_that_is_the_policy,
    at_max_children_a_client_is_rejected_if_that_is_the_policy,
    over_queue_size_a_client_is_rejected_if_that_is_the_policy,
    with_a_queue_of_nobody_a_client_is_rejected_if_that_is_the_policy,
    a_place_comes_back_after_a_panic,
    a_place_comes_back_after_an_error,
    a_place_comes_back_after_a_panic_in_process_request,
    a_place_comes_back_after_its_process_was_killed,
    a_forked_child_holds_no_connection_of_others,
    a_forked_child_holds_no_connection_that_was_rejected,
    those_that_wait_are_served_before_the_end,
    those_that_wait_at_the_deadline_are_dropped_and_counted,
    one_that_is_about_to_wait_for_its_turn_at_the_deadline_is_dropped_and_counted,
    one_that_is_about_to_wait_for_another_at_the_deadline_is_dropped_and_counted,
    a_server_that_is_dropped_closes_those_that_wait,
    handle_request_tells_that_it_rejected,
    one_that_is_rejected_when_its_server_has_closed_is_closed_too,
    handle_request_serves_one_that_waited,
    a_limit_of_nothing_is_refused_when_bound,
    a_rate_in_no_time_is_refused_when_bound,
];

const ANY_PORT: &str = "127.0.0.1:0";

// ----- A limit, driven hard ----------------------------------------------------------------------

/// Answers `alone` if no more than so many are served at a time, in all processes; else `crowded`.
#[derive(Clone)]
struct Places {
    directory: PathBuf,
    number: usize,
    mine: Option<PathBuf>,
}

impl BaseRequestHandler<TcpRequest> for Places {
    fn setup(&mut self, _: &mut TcpRequest) -> HandlerResult {
        let mut places = (0..self.number).map(|place| self.directory.join(place.to_string()));
        self.mine = places.find(|place| File::create_new(place).is_ok());
        Ok(())
    }

    fn handle(&mut self, request: &mut TcpRequest) -> HandlerResult {
        request.read_line(&mut String::new())?;
        let answer: &[u8] = if self.mine.is_some() { b"alone" } else { b"crowded" };
        Ok(request.write_all(answer)?)
    }

    fn finish(&mut self, _: &mut TcpRequest) -> HandlerResult {
        self.mine
            .take()
            .map_or(Ok(()), |place| Ok(std::fs::remove_file(place)?))
    }
}

/// What a process of [`serves_at_a_limit`] is told.
const ORDERS: &str = "SOCKETSERVER_TEST_LIMIT";

/// Serves [`Places`] as told: a strategy, a kind of limit, its policy, its number, a directory.
fn serves_at_a_limit() {
    let orders = env::var(ORDERS).unwrap();
    let [strategy, kind, policy, number, directory] = orders.splitn(5, ' ').collect::<Vec<_>>().try_into().unwrap();
    let number = number.parse().unwrap();
    let handler = Places {
        directory: directory.into(),
        number,
        mine: None,
    };
    let on_limit = if policy == "wait" {
        OnLimit::Wait
    } else {
        OnLimit::Reject
    };
    let server = TcpServer::new(ANY_PORT, handler).farewell("busy").max_waiting(1000);
    let limit = Limit::new(number, on_limit);
    let server = match kind {
        "total" => server.max_connections(limit),
        _ => server.max_per_address(limit),
    };
    match strategy {
        "sync" => serve_as_role(server),
        "threading" => serve_as_role(server.threading()),
        "forking" => serve_as_role(server.forking()),
        "pool" => serve_as_role(server.thread_pool().workers(4)),
        _ => serve_as_role(Accepting::over(server, 4)),
    }
}

/// Asks once; how a client is answered must be one of these.
fn ask(address: &str) -> &'static str {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(CEILING)).unwrap();
    // A client that is rejected at once may find the connection closed already.
    let _ = client.write_all(b"\n");
    let answer = read_to_end(client);
    ["alone", "busy", "crowded"]
        .into_iter()
        .find(|known| known.as_bytes() == answer)
        .unwrap_or_else(|| panic!("answered {:?}", String::from_utf8_lossy(&answer)))
}

/// Clients that come all the time, against a limit; returns how many were served and how many rejected.
#[track_caller]
fn drive_hard(strategy: &str, kind: &str, policy: &str, number: usize) -> (usize, usize) {
    const CLIENTS: usize = 8;
    const EACH: usize = 30;
    let directory = tempfile::tempdir().unwrap();
    let orders = format!("{strategy} {kind} {policy} {number} {}", directory.path().display());
    let server = Process::start(role("serves_at_a_limit").env(ORDERS, &orders));
    let address = server.address();
    let answers: Vec<_> = thread::scope(|scope| {
        let client = || (0..EACH).map(|_| ask(address)).collect::<Vec<_>>();
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    server.signal(Signal::SIGTERM);
    let ended = server.end();
    let count = |which: &str| answers.iter().filter(|answer| **answer == which).count();
    assert_eq!(count("crowded"), 0, "{orders}");
    let (alone, busy) = (count("alone"), count("busy"));
    assert_eq!(alone + busy, CLIENTS * EACH, "{orders}");
    let counts = format!("stopped: served={alone} failed=0 ");
    assert!(ended.output.starts_with(&counts), "{orders}: {alone} {ended:?}");
    (alone, busy)
}

const ALL_STRATEGIES: [&str; 5] = ["sync", "threading", "forking", "pool", "acceptors"];

fn a_limit_of_one_that_waits_is_never_exceeded_under_any_strategy() {
    for strategy in ALL_STRATEGIES {
        assert_eq!(drive_hard(strategy, "total", "wait", 1).1, 0, "{strategy}");
    }
}

fn a_limit_of_one_that_rejects_is_never_exceeded_under_any_strategy() {
    for strategy in ALL_STRATEGIES {
        assert!(drive_hard(strategy, "total", "reject", 1).0 > 0, "{strategy}");
    }
}

fn a_limit_of_three_is_never_exceeded_either() {
    for strategy in ["threading", "acceptors"] {
        assert_eq!(drive_hard(strategy, "total", "wait", 3).1, 0, "{strategy}");
        assert!(drive_hard(strategy, "total", "reject", 3).0 > 0, "{strategy}");
    }
}

fn a_limit_of_one_per_address_is_never_exceeded_under_any_strategy() {
    for strategy in ALL_STRATEGIES {
        assert_eq!(drive_hard(strategy, "address", "wait", 1).1, 0, "{strategy}");
        assert!(drive_hard(strategy, "address", "reject", 1).0 > 0, "{strategy}");
    }
}

// ----- Total -------------------------------------------------------------------------------------

fn threading() -> ThreadingTcpServer<Handler> {
    ThreadingTcpServer::new(ANY_PORT, ECHO_LINES)
}

#[track_caller]
fn assert_rejected(client: TcpStream) {
    assert_eq!(String::from_utf8_lossy(&read_to_end(client)), "busy\n");
}

#[track_caller]
fn stop(running: Running, served: u64, failed: u64) {
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed, report.leaked), (served, failed, 0));
}

fn over_max_connections_clients_wait_in_the_kernels_queue() {
    let running = threading().max_connections(2).spawn().unwrap();
    let first = in_progress(running.server_address());
    let second = in_progress(running.server_address());
    let third = connect(running.server_address());
    (&third).write_all(b"hello\n").unwrap();
    assert_waits(&third);
    assert_eq!(running.handle().stats().accepted, 2);
    finish(&first);
    assert_eq!(exchange_line(&third, ""), "hello\n");
    finish(&second);
    finish(&third);
    stop(running, 3, 0);
}

fn over_max_connections_clients_are_rejected_if_that_is_the_policy() {
    let server = threading().max_connections(Limit::reject(2)).farewell("busy\n");
    let running = server.spawn().unwrap();
    let first = in_progress(running.server_address());
    let second = in_progress(running.server_address());
    assert_rejected(connect(running.server_address()));
    assert_rejected(connect(running.server_address()));
    let stats = running.handle().stats();
    assert_eq!((stats.accepted, stats.rejected, stats.running), (4, 2, 2));
    assert_eq!(stats.rejected_by(LimitKind::Connections), 2);
    assert_eq!(stats.rejected_by(LimitKind::PerAddress), 0);
    finish(&first);
    wait_until("there is a place", || running.handle().stats().running == 1);
    let third = in_progress(running.server_address());
    drop((first, second, third));
    stop(running, 3, 0);
}

fn the_smaller_of_two_limits_decides() {
    let server = threading().max_threads(Limit::reject(1)).max_connections(2);
    assert_eq!(server.capacity().max(), 1);
    let running = server.farewell("busy\n").spawn().unwrap();
    let first = in_progress(running.server_address());
    assert_rejected(connect(running.server_address()));
    assert_eq!(running.handle().stats().rejected_by(LimitKind::Threads), 1);
    drop(first);
    stop(running, 1, 0);
    assert_eq!(threading().max_threads(3).max_connections(2).capacity().max(), 2);
    assert_eq!(threading().capacity(), Capacity::UNLIMITED);
}

/// As many places as somebody has set by now.
struct Elastic<S> {
    inner: S,
    places: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

impl<S: BaseServer> BaseServer for Elastic<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn capacity(&self) -> Capacity {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let places = Limit::wait(self.places.load(Ordering::SeqCst));
        self.inner.capacity().and(places, LimitKind::Connections)
    }
}

#[track_caller]
fn assert_sees_a_limit_rise(inner: impl BaseServer) {
    let (places, asked) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let server = Elastic {
        inner,
        places: Arc::clone(&places),
        asked: Arc::clone(&asked),
    };
    let running = server.poll_interval(Duration::from_millis(1)).spawn().unwrap();
    let client = connect(running.server_address());
    wait_until("there is no place", || asked.load(Ordering::SeqCst) > 0);
    places.store(1, Ordering::SeqCst);
    assert_eq!(exchange_line(client, "at last\n"), "at last\n");
    stop(running, 1, 0);
}

fn a_limit_that_rises_by_itself_is_seen_at_the_next_poll_interval_under_every_strategy() {
    assert_sees_a_limit_rise(TcpServer::new(ANY_PORT, EchoLine));
    assert_sees_a_limit_rise(ForkingTcpServer::new(ANY_PORT, EchoLine));
    assert_sees_a_limit_rise(ThreadingTcpServer::new(ANY_PORT, EchoLine));
    assert_sees_a_limit_rise(ThreadPoolTcpServer::new(ANY_PORT, EchoLine));
}

/// No request is in progress whose end would make room.
#[track_caller]
fn assert_ends_without_a_place(inner: impl BaseServer) {
    let asked = Arc::<AtomicUsize>::default();
    let server = Elastic {
        inner,
        places: Arc::default(),
        asked: Arc::clone(&asked),
    };
    let running = server.drain_timeout(CEILING).spawn().unwrap();
    wait_until("there is no place", || asked.load(Ordering::SeqCst) > 0);
    let report = running.stop().unwrap();
    assert!(report.elapsed < CEILING, "{report:?}");
}

fn where_no_place_is_left_and_nobody_is_queued_a_server_ends_at_once_under_every_strategy() {
    let handler = |_: &mut TcpRequest| {};
    assert_ends_without_a_place(TcpServer::new(ANY_PORT, handler));
    assert_ends_without_a_place(ForkingTcpServer::new(ANY_PORT, handler));
    assert_ends_without_a_place(ThreadingTcpServer::new(ANY_PORT, handler));
    assert_ends_without_a_place(ThreadPoolTcpServer::new(ANY_PORT, handler));
    assert_ends_without_a_place(ThreadPoolTcpServer::new(ANY_PORT, handler).queue_size(1));
    assert_ends_without_a_place(UdpServer::new(ANY_PORT, |_: &mut DatagramRequest| {}));
}

// ----- What the rejected get ---------------------------------------------------------------------

/// A server whose only place is taken, until the client goes.
fn full(server: impl BaseServer) -> (Running, TcpStream) {
    let running = server.max_connections(Limit::reject(1)).spawn().unwrap();
    let client = in_progress(running.server_address());
    (running, client)
}

/// Closing a socket with unread bytes resets the connection (RFC 1122, 4.2.2.13).
fn a_rejected_client_that_has_sent_a_lot_reads_the_farewell() {
    let (running, client) = full(threading().farewell("busy\n"));
    // Suspended, so that it has sent before it is accepted.
    running.handle().suspend();
    let rejected: Vec<_> = (0..10).map(|_| connect(running.server_address())).collect();
    for client in &rejected {
        (&*client).write_all(&vec![b'x'; 50_000]).unwrap();
    }
    running.handle().resume();
    rejected.into_iter().for_each(assert_rejected);
    drop(client);
    stop(running, 1, 0);
}

fn a_rejected_client_that_goes_on_sending_reads_the_farewell() {
    let reads_the_end = || {
        let (running, client) = full(threading().farewell("busy\n"));
        let rejected = connect(running.server_address());
        let mut answer = [0; 5];
        (&rejected).read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"busy\n");
        // It did not notice yet.
        let sent = (0..5).try_for_each(|_| (&rejected).write_all(b"more\n"));
        let end = sent.and_then(|()| (&rejected).read(&mut [0]));
        drop(client);
        stop(running, 1, 0);
        end.is_ok_and(|count| count == 0)
    };
    // The half second that the server waits may be over before.
    until_in_time(reads_the_end);
}

/// What it has sent is read away before its connection is closed: else what it has not been sent yet would be lost.
fn a_rejected_client_that_reads_late_reads_the_farewell() {
    let server = Counting::over(threading().farewell("x".repeat(64 << 20)));
    let counts = server.counts();
    let (running, client) = full(server);
    let rejected = connect(running.server_address());
    (&rejected).write_all(&[b'x'; 10_000]).unwrap();
    wait_until("its time is over", || counts() == (1, 1));
    assert!(read_to_end(rejected).len() > 1);
    drop(client);
    stop(running, 1, 0);
}

/// A program may have that signal end it.
fn a_rejected_client_that_is_gone_sends_the_process_no_sigpipe() {
    let (place, sent) = (temp_path("server"), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&sent);
    let server = ThreadingUnixStreamServer::new(place.path.as_path(), EchoLine).on_signal(
        Signal::SIGPIPE as i32,
        move |_: &ServerHandle| {
            count.fetch_add(1, Ordering::SeqCst);
        },
    );
    let server = server.farewell("busy\n").max_connections(Limit::reject(1));
    let running = server.spawn().unwrap();
    let client = connect_unix(running.server_address());
    wait_until("it runs", || running.handle().stats().running == 1);
    // Suspended, so that it is gone before it is accepted.
    running.handle().suspend();
    drop(connect_unix(running.server_address()));
    running.handle().resume();
    wait_until("it is rejected", || running.handle().stats().rejected == 1);
    assert_eq!(exchange_line(&client, "hello\n"), "hello\n");
    stop(running, 1, 0);
    assert_eq!(sent.load(Ordering::SeqCst), 0);
}

fn without_a_farewell_a_rejected_client_reads_the_end() {
    let (running, client) = full(threading());
    let rejected = connect(running.server_address());
    (&rejected).write_all(b"hello\n").unwrap();
    assert_eq!(read_to_end(&rejected), b"");
    drop(client);
    stop(running, 1, 0);
}

/// It is cut to what there is room for: who sends it to a client that does not read must not wait.
fn a_farewell_that_is_too_long_is_cut_and_keeps_nobody_waiting() {
    const LENGTH: usize = 64 << 20;
    let (running, client) = full(threading().farewell("x".repeat(LENGTH)));
    let deaf = connect(running.server_address());
    let answer = read_to_end(connect(running.server_address()));
    assert!((1..LENGTH).contains(&answer.len()), "{}", answer.len());
    assert!(answer.iter().all(|byte| *byte == b'x'));
    finish(&client);
    wait_until("there is a place", || running.handle().stats().running == 0);
    assert_echoes(&connect(running.server_address()));
    assert_eq!(running.handle().stats().rejected, 2);
    assert!(
        logged()
            .iter()
            .any(|line| line.ends_with(&format!(" of {LENGTH} bytes of the farewell were sent")))
    );
    drop(deaf);
    stop(running, 2, 0);
}

/// Tells what HTTP clients understand, and keeps which limit it was.
struct Unavailable<S>(S, Arc<Mutex<Vec<LimitKind>>>);

impl<S: BaseServer<Transport = socketserver::Tcp>> BaseServer for Unavailable<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn reject_request(&self, request: &mut TcpRequest, limit: LimitKind) {
        self.1.lock().unwrap().push(limit);
        let _ = request.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n");
    }
}

fn a_mix_in_tells_rejected_clients_something_else() {
    for inside in [true, false] {
        let limits = Arc::new(Mutex::new(Vec::new()));
        let bare = TcpServer::new(ANY_PORT, ECHO_LINES);
        let (running, client) = if inside {
            full(Unavailable(bare, Arc::clone(&limits)).threading())
        } else {
            full(Unavailable(bare.threading(), Arc::clone(&limits)))
        };
        let answer = read_to_end(connect(running.server_address()));
        assert!(answer.starts_with(b"HTTP/1.1 503 "), "{answer:?}");
        assert_eq!(*limits.lock().unwrap(), [LimitKind::Connections]);
        drop(client);
        stop(running, 1, 0);
    }
}

struct PanicsAtRejecting<S>(S);

impl<S: BaseServer> BaseServer for PanicsAtRejecting<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn reject_request(&self, _: &mut RequestOf<Self>, _: LimitKind) {
        std::panic::resume_unwind(Box::new("as told"));
    }
}

fn a_reject_request_hook_that_panics_costs_one_request() {
    let (running, client) = full(PanicsAtRejecting(threading()));
    assert_eq!(read_to_end(connect(running.server_address())), b"");
    assert_echoes(&client);
    finish(&client);
    assert!(logged().contains(&"ERROR reject_request panicked: as told".to_owned()));
    stop(running, 1, 0);
}

/// poll(2) is not taken up again by itself, whatever the signal's handler wants.
fn a_signal_does_not_cut_the_time_of_clients_rejected_just_before_the_end() {
    let interrupts = Interrupts::new();
    let server = threading().max_connections(Limit::reject(1)).bind().unwrap();
    let (handle, address, leave) = (server.handle(), server.server_address(), Gate::default());
    let (threads, serving) = mpsc::channel();
    thread::scope(|scope| {
        let leave_then = leave.clone();
        scope.spawn(move || {
            threads.send(gettid()).unwrap();
            server.serve_forever().unwrap();
            leave_then.wait();
        });
        let client = in_progress(&address);
        let begun = Instant::now();
        let _rejected = connect(&address);
        wait_until("it is rejected", || handle.stats().rejected == 1);
        drop(client);
        handle.shutdown_handle().shutdown();
        let thread = serving.recv().unwrap();
        wait_until("the server is closed", || {
            interrupts.interrupt(thread);
            handle.state() == State::Closed
        });
        assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
        leave.open();
    });
}

fn clients_rejected_just_before_the_end_read_the_farewell() {
    let server = Counting::over(threading().farewell("busy\n"));
    let counts = server.counts();
    let (running, client) = full(server);
    let rejected: Vec<_> = (0..20).map(|_| connect(running.server_address())).collect();
    for client in &rejected {
        (&*client).write_all(b"hello\n").unwrap();
    }
    wait_until("all are rejected", || running.handle().stats().rejected == 20);
    drop(client);
    let stopping = thread::spawn(move || stop(running, 1, 0));
    rejected.into_iter().for_each(assert_rejected);
    stopping.join().unwrap();
    assert_eq!(counts(), (21, 21));
}

/// Counts the requests that are shut down, and those that are closed.
struct Counting<S> {
    inner: S,
    shut_down: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
}

impl<S> Counting<S> {
    fn over(inner: S) -> Self {
        Counting {
            inner,
            shut_down: Arc::default(),
            closed: Arc::default(),
        }
    }

    /// How many have been both, from then on.
    fn counts(&self) -> impl Fn() -> (usize, usize) + use<S> {
        let (shut_down, closed) = (Arc::clone(&self.shut_down), Arc::clone(&self.closed));
        move || (shut_down.load(Ordering::SeqCst), closed.load(Ordering::SeqCst))
    }
}

impl<S: BaseServer> BaseServer for Counting<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn shutdown_request(&self, request: &mut RequestOf<Self>) {
        self.shut_down.fetch_add(1, Ordering::SeqCst);
        self.inner.shutdown_request(request);
    }

    fn close_request(&self, request: RequestOf<Self>) {
        self.closed.fetch_add(1, Ordering::SeqCst);
        self.inner.close_request(request);
    }
}

struct KeepsAll<S: BaseServer>(S, Arc<Mutex<Vec<RequestOf<S>>>>);

impl<S: BaseServer> BaseServer for KeepsAll<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn shutdown_request(&self, _: &mut RequestOf<Self>) {}

    fn close_request(&self, request: RequestOf<Self>) {
        self.1.lock().unwrap().push(request);
    }
}

fn a_rejected_client_reads_the_end_although_hooks_keep_its_connection_open() {
    let kept = Arc::default();
    let (running, client) = full(KeepsAll(threading().farewell("busy\n"), Arc::clone(&kept)));
    assert_rejected(connect(running.server_address()));
    drop(client);
    stop(running, 1, 0);
    assert_eq!(kept.lock().unwrap().len(), 2);
}

fn a_server_ends_as_soon_as_the_last_rejected_client_has_gone() {
    let ends_early = || {
        let (running, client) = full(threading().farewell("busy\n"));
        let begun = Instant::now();
        assert_rejected(connect(running.server_address()));
        drop(client);
        stop(running, 1, 0);
        begun.elapsed() < Duration::from_millis(500)
    };
    // The half second that the client would have may be over before.
    until_in_time(ends_early);
}

fn told_to_stop_at_once_a_server_waits_for_no_rejected_client() {
    let ends_at_once = || {
        let server = Counting::over(threading().farewell("busy\n"));
        let counts = server.counts();
        let (running, client) = full(server.shutdown_on_signals([signal::SIGUSR1]));
        let begun = Instant::now();
        let rejected = connect(running.server_address());
        wait_until("it is rejected", || running.handle().stats().rejected == 1);
        // It has begun to speak, so it is waited for.
        (&client).write_all(b"hel").unwrap();
        for state in [State::Draining, State::Closed] {
            kill(Pid::this(), Signal::SIGUSR1).unwrap();
            wait_until("the signal is heeded", || running.handle().state() == state);
        }
        running.join().unwrap();
        assert_eq!(counts(), (2, 2));
        drop((client, rejected));
        begun.elapsed() < Duration::from_millis(500)
    };
    // The half second that the client would have may be over before.
    until_in_time(ends_at_once);
}

fn many_rejected_clients_do_not_cost_a_descriptor_each() {
    let server = Counting::over(threading().farewell("busy\n"));
    let counts = server.counts();
    let (running, client) = full(server);
    let before = sockets();
    for _ in 0..500 {
        assert_rejected(connect(running.server_address()));
        let sockets = sockets();
        assert!(sockets < before + 70, "{sockets}");
    }
    wait_until("all are closed, a moment later", || sockets() == before);
    // Some because there were too many, some because their time was over.
    wait_until("the hooks have been called", || counts() == (500, 500));
    drop(client);
    stop(running, 1, 0);
    assert_eq!(counts(), (501, 501));
}

/// Its time is over soonest, and the others shall have theirs.
fn of_many_rejected_clients_the_first_is_closed_first() {
    let closed = Arc::default();
    let (running, client) = full(KeepsAll(threading().farewell("busy\n"), Arc::clone(&closed)));
    let rejected = [(); 70].map(|()| {
        let client = connect(running.server_address());
        let address = client.local_addr().unwrap().to_string();
        assert_rejected(client);
        address
    });
    let closed = || {
        let closed = closed.lock().unwrap();
        closed
            .iter()
            .map(|request| request.client_address().to_string())
            .collect::<Vec<_>>()
    };
    wait_until("all are closed", || closed().len() == rejected.len());
    assert_eq!(closed(), rejected);
    drop(client);
    stop(running, 1, 0);
}

// ----- Per address -------------------------------------------------------------------------------

fn per_address_one_client_is_rejected_and_others_are_served() {
    let server = threading().max_per_address(Limit::reject(2)).farewell("busy\n");
    let running = server.spawn().unwrap();
    let address = running.server_address();
    let clients = [2, 2, 3, 3].map(|host| connect_from(host, address));
    clients.iter().for_each(assert_echoes);
    assert_rejected(connect_from(2, address));
    assert_rejected(connect_from(3, address));
    assert_echoes(&connect_from(4, address));
    assert_eq!(running.handle().stats().rejected_by(LimitKind::PerAddress), 2);
    finish(&clients[0]);
    wait_until("there is a place", || running.handle().stats().running == 3);
    assert_echoes(&connect_from(2, address));
    drop(clients);
    stop(running, 6, 0);
}

fn per_address_one_client_waits_and_others_are_served() {
    for strategy in ["threading", "pool", "acceptors"] {
        let server = TcpServer::new(ANY_PORT, ECHO_LINES);
        let server = server.max_per_address(1);
        let running = match strategy {
            "threading" => server.threading().spawn(),
            "pool" => server.thread_pool().workers(3).queue_size(0).spawn(),
            _ => Accepting::over(server, 4).spawn(),
        };
        let running = running.unwrap();
        let (handle, address) = (running.handle(), running.server_address());
        let first = connect_from(2, address);
        assert_echoes(&first);
        let second = connect_from(2, address);
        (&second).write_all(b"hello\n").unwrap();
        wait_until("it waits", || handle.stats().waiting == 1);
        // It takes neither a thread nor a place.
        let others = [3, 4].map(|host| connect_from(host, address));
        others.iter().for_each(assert_echoes);
        assert_waits(&second);
        let stats = handle.stats();
        assert_eq!(
            (stats.running, stats.waiting, stats.connections.len()),
            (3, 1, 4),
            "{strategy}"
        );
        finish(&first);
        assert_eq!(exchange_line(&second, ""), "hello\n", "{strategy}");
        finish(&second);
        drop(others);
        stop(running, 4, 0);
    }
}

fn those_that_wait_run_in_their_order() {
    /// So many that, while one looks for the next among them, the one that runs ends.
    const WAITING: usize = 200;
    let order = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&order);
    let server = ThreadingTcpServer::new(ANY_PORT, move |request: &mut TcpRequest| -> io::Result<()> {
        let mut line = String::new();
        request.read_line(&mut line)?;
        noted.lock().unwrap().push(line.trim().to_owned());
        Ok(())
    });
    let running = server.max_per_address(1).max_waiting(WAITING).spawn().unwrap();
    let first = connect(running.server_address());
    wait_until("it runs", || running.handle().stats().running == 1);
    let waiting: Vec<_> = (1..=WAITING)
        .map(|number| {
            let client = connect(running.server_address());
            writeln!(&client, "{number}").unwrap();
            wait_until("it waits", || running.handle().stats().waiting == number);
            client
        })
        .collect();
    (&first).write_all(b"0\n").unwrap();
    assert_eq!(read_to_end(&first), b"");
    for client in &waiting {
        assert_eq!(read_to_end(client), b"");
    }
    let expected: Vec<_> = (0..=WAITING).map(|number| number.to_string()).collect();
    assert_eq!(*order.lock().unwrap(), expected);
    stop(running, WAITING as u64 + 1, 0);
}

fn one_that_waits_runs_when_another_has_ended_elsewhere() {
    let server = Detached(TcpServer::new(ANY_PORT, ECHO_LINES));
    let running = server.max_per_address(1).spawn().unwrap();
    let first = in_progress(running.server_address());
    let waits = connect(running.server_address());
    wait_until("it waits", || running.handle().stats().waiting == 1);
    finish(&first);
    assert_echoes(&waits);
    finish(&waits);
    stop(running, 2, 0);
}

fn more_than_may_wait_are_rejected() {
    let server = threading().max_per_address(1).max_waiting(2).farewell("busy\n");
    let running = server.spawn().unwrap();
    let first = in_progress(running.server_address());
    let waiting = [(); 2].map(|()| connect(running.server_address()));
    wait_until("they wait", || running.handle().stats().waiting == 2);
    assert_rejected(connect(running.server_address()));
    assert_eq!(running.handle().stats().rejected_by(LimitKind::PerAddress), 1);
    drop(first);
    for client in &waiting {
        assert_echoes(client);
        finish(client);
    }
    stop(running, 3, 0);
}

fn clients_of_unix_sockets_have_no_address_to_be_limited_by() {
    let place = temp_path("server");
    let server = ThreadingUnixStreamServer::new(place.path.as_path(), EchoLine);
    let server = server
        .max_per_address(Limit::reject(1))
        .max_rate_per_address(RateLimit::reject(1));
    let running = server.spawn().unwrap();
    let clients = [(); 5].map(|()| connect_unix(running.server_address()));
    for client in &clients {
        assert_eq!(exchange_line(client, "hello\n"), "hello\n");
    }
    stop(running, 5, 0);
}

// ----- Rate --------------------------------------------------------------------------------------

/// Serves no client of 127.0.0.9.
struct NotNine<S>(S);

impl<S: BaseServer> BaseServer for NotNine<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn verify_request(&self, _: &RequestOf<Self>, client_address: &Address) -> bool {
        client_address.ip() != Some(Ipv4Addr::new(127, 0, 0, 9).into())
    }
}

const AN_HOUR: Duration = Duration::from_hours(1);

fn a_refused_client_takes_no_token() {
    let server = NotNine(threading()).max_rate_per_address(RateLimit::reject(1).per(AN_HOUR));
    let running = server.farewell("busy\n").spawn().unwrap();
    for _ in 0..3 {
        assert_eq!(read_to_end(connect_from(9, running.server_address())), b"");
    }
    let stats = running.handle().stats();
    assert_eq!((stats.accepted, stats.refused, stats.rejected), (3, 3, 0));
    stop(running, 0, 0);
}

/// Tells those whom the rate rejects.
fn rated(rate: RateLimit) -> Running {
    threading()
        .max_rate_per_address(rate)
        .farewell("busy\n")
        .spawn()
        .unwrap()
}

fn faster_than_the_rate_a_client_is_rejected() {
    let rate = RateLimit::reject(10).per(AN_HOUR).burst(3);
    let running = rated(rate);
    let address = running.server_address();
    for _ in 0..3 {
        let client = connect_from(2, address);
        assert_echoes(&client);
        finish(&client);
    }
    assert_rejected(connect_from(2, address));
    assert_echoes(&connect_from(3, address));
    assert_eq!(running.handle().stats().rejected_by(LimitKind::RatePerAddress), 1);
    stop(running, 4, 0);
}

fn a_rate_of_one_for_ever_admits_one() {
    let rate = RateLimit::reject(1).per(Duration::MAX);
    let running = rated(rate);
    let address = running.server_address();
    let client = connect_from(2, address);
    assert_echoes(&client);
    finish(&client);
    for _ in 0..2 {
        assert_rejected(connect_from(2, address));
    }
    assert_echoes(&connect_from(3, address));
    stop(running, 2, 0);
}

fn serves_one_of_each_address() {
    let rate = RateLimit::wait(1).per(AN_HOUR);
    serve_as_role(ThreadingTcpServer::new(ANY_PORT, ECHO_LINES).max_rate_per_address(rate));
}

/// Without room for any thread there is nothing to pause for: what waits for its turn makes no room.
fn one_that_waits_for_its_turn_is_no_thread_that_ends() {
    let Some((server, _place)) = role_with_few_tasks(1, "serves_one_of_each_address") else {
        return;
    };
    let address = Address::Inet(server.address().parse().unwrap());
    let serve = |host: u8| {
        let client = connect_from(host, &address);
        assert_echoes(&client);
        finish(&client);
    };
    serve(2);
    let _waits = connect_from(2, &address);
    let begun = Instant::now();
    (3..33).for_each(serve);
    // The pauses that there would be take more than twice as long.
    assert!(begun.elapsed() < CEILING, "{:?}", begun.elapsed());
}

fn faster_than_the_rate_a_client_waits_for_its_turn() {
    for strategy in ["sync", "threading", "acceptors"] {
        // One each 50 ms.
        let server = TcpServer::new(ANY_PORT, EchoLine).max_rate_per_address(RateLimit::wait(20).burst(1));
        let begun = Instant::now();
        let running = match strategy {
            "sync" => server.spawn(),
            "threading" => server.threading().spawn(),
            _ => Accepting::over(server, 4).spawn(),
        };
        let running = running.unwrap();
        let clients: Vec<_> = (0..5).map(|_| connect(running.server_address())).collect();
        // All of them before the first answer: which of them waits longest is not said, and who is silent holds a
        // thread.
        for mut client in &clients {
            client.write_all(b"hello\n").unwrap();
        }
        for client in &clients {
            assert_eq!(exchange_line(client, ""), "hello\n", "{strategy}");
        }
        assert!(begun.elapsed() >= Duration::from_millis(200), "{strategy}");
        stop(running, 5, 0);
    }
}

/// Holds up the second client until the third waits, and counts the turns of its loops.
struct HoldsUp<S> {
    inner: S,
    verified: Arc<AtomicUsize>,
    turns: Arc<AtomicUsize>,
}

impl<S: BaseServer> BaseServer for HoldsUp<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn verify_request(&self, _: &RequestOf<Self>, _: &Address) -> bool {
        if self.verified.fetch_add(1, Ordering::SeqCst) == 1 {
            wait_until("another waits", || self.stats().waiting == 1);
        }
        true
    }

    fn service_actions(&self) {
        self.turns.fetch_add(1, Ordering::SeqCst);
        self.inner.service_actions();
    }
}

/// Another thread may have been quicker with one that came later.
fn those_that_wait_run_in_the_order_in_which_they_came() {
    let (told, runs) = mpsc::channel();
    let handler = move |request: &mut TcpRequest| -> HandlerResult {
        told.send(request.client_address().clone())?;
        request.read_to_end(&mut Vec::new())?;
        Ok(())
    };
    let server = HoldsUp {
        inner: ThreadPoolTcpServer::new(ANY_PORT, handler).workers(3),
        verified: Arc::default(),
        turns: Arc::default(),
    };
    let (verified, turns) = (Arc::clone(&server.verified), Arc::clone(&server.turns));
    let running = server.max_per_address(1).spawn().unwrap();
    let handle = running.handle();
    let clients = [1, 2, 3].map(|come| {
        let client = connect(running.server_address());
        wait_until("it has come", || verified.load(Ordering::SeqCst) == come);
        client
    });
    wait_until("two wait", || handle.stats().waiting == 2);
    wait_until("nobody looks at them again and again", || {
        let before = turns.load(Ordering::SeqCst);
        thread::sleep(Duration::from_millis(50));
        turns.load(Ordering::SeqCst) == before
    });
    for client in clients {
        let address = client.local_addr().unwrap();
        assert_eq!(runs.recv_timeout(CEILING).unwrap(), Address::Inet(address));
    }
    stop(running, 3, 0);
}

/// Wants each connection closed that it hears of as it ends, when its descriptor may be somebody else's already.
struct ClosesWhatHasEnded {
    handle: ServerHandle,
    found: mpsc::Sender<bool>,
}

impl Observer for ClosesWhatHasEnded {
    fn observe(&self, event: &Event<'_>) {
        if let Event::Finished { number, .. } = event {
            self.found.send(self.handle.close_connection(*number)).unwrap();
        }
    }
}

fn one_that_waits_as_its_server_is_dropped_cannot_be_closed_any_more() {
    let server = TcpServer::new(ANY_PORT, EchoLine).max_rate_per_address(RateLimit::wait(1).per(AN_HOUR));
    let (found, told) = mpsc::channel();
    let handle = server.handle();
    let server = server.observer(ClosesWhatHasEnded { handle, found });
    let server = Arc::new(server.timeout(Duration::ZERO).bind().unwrap());
    let clients = [(); 2].map(|()| {
        let mut client = connect(&server.server_address());
        client.write_all(b"hello\n").unwrap();
        server.handle_request().unwrap();
        client
    });
    assert_eq!(server.stats().waiting, 1);
    drop(server);
    drop(clients);
    assert_eq!(told.iter().collect::<Vec<_>>(), [false; 2]);
}

/// Thinks about clients of 127.0.0.4 for longer than others wait. Counts those that are closed where waiting for the
/// server would never end.
struct Slow<S> {
    inner: S,
    thinks: Duration,
    endless: Arc<AtomicUsize>,
}

impl<S: BaseServer> BaseServer for Slow<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn verify_request(&self, _: &RequestOf<Self>, client_address: &Address) -> bool {
        if client_address.ip() == Some(Ipv4Addr::new(127, 0, 0, 4).into()) {
            thread::sleep(self.thinks);
        }
        true
    }

    fn close_request(&self, request: RequestOf<Self>) {
        if self.shutdown_handle().wait_timeout(Duration::ZERO) != Err(WaitError::Deadlock) {
            self.endless.fetch_add(1, Ordering::SeqCst);
        }
        self.inner.close_request(request);
    }
}

impl<S> Slow<S> {
    fn over(inner: S, thinks: Duration) -> Self {
        let endless = Arc::default();
        Slow { inner, thinks, endless }
    }
}

/// Who accepted it serves a client of 127.0.0.`other` by then, and the others that accept have begun to wait before it
/// came.
#[track_caller]
fn assert_runs_at_its_turn_beside(other: u8) {
    for strategy in ["threading", "pool", "acceptors"] {
        // One each 250 ms.
        let rate = RateLimit::wait(4).burst(1);
        let server = TcpServer::new(ANY_PORT, ECHO_LINES).max_rate_per_address(rate);
        let server = Slow::over(server, Duration::from_millis(350));
        let running = match strategy {
            "threading" => server.threading().spawn(),
            "pool" => server.thread_pool().workers(4).spawn(),
            _ => Accepting::over(server, 4).spawn(),
        };
        let running = running.unwrap();
        let (handle, address) = (running.handle(), running.server_address());
        let serve = |host: u8| {
            let client = connect_from(host, address);
            assert_echoes(&client);
            client
        };
        // By then several threads accept, none of them in accept(2), where they could not wait for a time.
        let clients: Vec<_> = [2, 2, 3].map(serve).into();
        clients.iter().for_each(finish);
        drop(clients);
        wait_until("all have ended", || handle.stats().running == 0);
        let mut late = 0;
        let come = || {
            let client = connect_from(2, address);
            wait_until("it waits, or runs", || {
                let stats = handle.stats();
                stats.waiting + stats.running == 1
            });
            if handle.stats().waiting == 1 {
                return Some(client);
            }
            assert_echoes(&client);
            finish(&client);
            wait_until("it has ended", || handle.stats().running == 0);
            late += 1;
            None
        };
        // It may come when its turn has.
        let waits = first_in_time(come);
        let stays = serve(other);
        assert_echoes(&waits);
        finish(&waits);
        finish(&stays);
        drop((waits, stays));
        stop(running, 5 + late, 0);
    }
}

fn one_that_waits_for_its_turn_runs_then_whoever_else_is_busy() {
    assert_runs_at_its_turn_beside(5);
}

fn one_whose_turn_comes_as_another_is_accepted_runs_whoever_is_busy() {
    assert_runs_at_its_turn_beside(4);
}

/// There was room when it came, and another has taken that.
fn one_whose_turn_comes_at_a_limit_that_rejects_waits_on() {
    let attempt = || {
        let server = threading().max_rate_per_address(RateLimit::wait(4).burst(1));
        let running = server.max_connections(Limit::reject(2)).spawn().unwrap();
        let handle = running.handle();
        let first = connect_from(2, running.server_address());
        assert_echoes(&first);
        let waiting = connect_from(2, running.server_address());
        (&waiting).write_all(b"hello\n").unwrap();
        wait_until("it has come", || handle.stats().accepted == 2);
        let other = connect_from(3, running.server_address());
        (&other).write_all(b"hello\n").unwrap();
        wait_until("it has come, too", || handle.stats().accepted == 3);
        let in_time = handle.stats().waiting == 1 && handle.stats().running == 2;
        if in_time {
            assert_eq!(exchange_line(&other, ""), "hello\n");
            for _ in 0..8 {
                assert_waits(&waiting);
            }
            finish(&first);
            assert_eq!(exchange_line(&waiting, ""), "hello\n");
        }
        drop((first, waiting, other));
        running.stop().unwrap();
        in_time
    };
    until_in_time(attempt);
}

/// Its time is over as another is accepted.
fn rejected_clients_are_closed_where_waiting_for_the_server_is_a_deadlock() {
    let server = threading().max_per_address(Limit::reject(1)).farewell("busy\n");
    // The server waits for half a second for the rejected client to close.
    let server = Slow::over(server, Duration::from_millis(700));
    let endless = Arc::clone(&server.endless);
    let running = server.spawn().unwrap();
    let clients = [2, 2, 4].map(|host| connect_from(host, running.server_address()));
    assert_echoes(&clients[0]);
    assert_rejected(clients[1].try_clone().unwrap());
    assert_echoes(&clients[2]);
    drop(clients);
    stop(running, 2, 0);
    assert_eq!(endless.load(Ordering::SeqCst), 0);
}

fn datagrams_that_come_too_fast_are_dropped() {
    let rate = RateLimit::reject(2).per(AN_HOUR);
    let server = Counting::over(ThreadingUdpServer::new(ANY_PORT, EchoLine).farewell("busy\n"));
    let counts = server.counts();
    let running = server.max_rate_per_address(rate).spawn().unwrap();
    let client = udp_client(running.server_address());
    // One by one: of datagrams that are there at once, several threads each take one, and ask in any order.
    for line in ["1\n", "2\n"] {
        client.send(line.as_bytes()).unwrap();
        let mut answer = [0; 10];
        let length = client.recv(&mut answer).unwrap();
        assert_eq!(String::from_utf8_lossy(&answer[..length]), line);
    }
    for line in ["3\n", "4\n"] {
        client.send(line.as_bytes()).unwrap();
    }
    wait_until("both are rejected", || {
        running.handle().stats().rejected_by(LimitKind::RatePerAddress) == 2
    });
    // The farewell is for connections.
    client.set_nonblocking(true).unwrap();
    assert_eq!(client.recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    stop(running, 2, 0);
    assert_eq!(counts(), (4, 4));
}

// ----- The limits of strategies ------------------------------------------------------------------

fn at_max_threads_a_client_waits() {
    let running = threading().max_threads(1).spawn().unwrap();
    let first = in_progress(running.server_address());
    let second = connect(running.server_address());
    (&second).write_all(b"hello\n").unwrap();
    assert_waits(&second);
    finish(&first);
    assert_eq!(exchange_line(&second, ""), "hello\n");
    drop(second);
    stop(running, 2, 0);
}

fn at_max_threads_a_client_is_rejected_if_that_is_the_policy() {
    let server = threading().max_threads(Limit::reject(1)).farewell("busy\n");
    let running = server.spawn().unwrap();
    let first = in_progress(running.server_address());
    assert_rejected(connect(running.server_address()));
    assert_eq!(running.handle().stats().rejected_by(LimitKind::Threads), 1);
    drop(first);
    stop(running, 1, 0);
}

/// Beside one client the next is rejected by that limit; when the first has ended, another is served.
#[track_caller]
fn assert_one_place(server: impl BaseServer, limit: LimitKind) {
    let running = server.farewell("busy\n").spawn().unwrap();
    let first = in_progress(running.server_address());
    assert_rejected(connect(running.server_address()));
    assert_eq!(running.handle().stats().rejected_by(limit), 1);
    finish(&first);
    wait_until("there is a place", || running.handle().stats().running == 0);
    finish(&in_progress(running.server_address()));
    stop(running, 2, 0);
}

fn at_max_children_a_client_is_rejected_if_that_is_the_policy() {
    let server = ForkingTcpServer::new(ANY_PORT, ECHO_LINES).max_children(Limit::reject(1));
    assert_one_place(server, LimitKind::Children);
}

fn over_queue_size_a_client_is_rejected_if_that_is_the_policy() {
    let server = ThreadPoolTcpServer::new(ANY_PORT, ECHO_LINES).workers(1);
    let running = server.queue_size(Limit::reject(1)).farewell("busy\n").spawn().unwrap();
    let first = in_progress(running.server_address());
    let queued = connect(running.server_address());
    wait_until("it is queued", || running.handle().stats().running == 2);
    assert_rejected(connect(running.server_address()));
    assert_eq!(running.handle().stats().rejected_by(LimitKind::Queue), 1);
    finish(&first);
    assert_echoes(&queued);
    finish(&queued);
    stop(running, 2, 0);
}

/// As its workers would accept nobody while they are busy, the accept loop has to.
fn with_a_queue_of_nobody_a_client_is_rejected_if_that_is_the_policy() {
    let server = ThreadPoolTcpServer::new(ANY_PORT, ECHO_LINES).workers(1);
    assert_one_place(server.queue_size(Limit::reject(0)), LimitKind::Queue);
}

// ----- Places come back --------------------------------------------------------------------------

#[track_caller]
fn assert_places_come_back(handler: Handler, failed: u64) {
    let server = ThreadingTcpServer::new(ANY_PORT, handler)
        .max_connections(1)
        .max_per_address(1);
    let running = server.spawn().unwrap();
    for _ in 0..failed {
        assert_eq!(read_to_end(connect(running.server_address())), b"");
    }
    stop(running, 0, failed);
}

fn a_place_comes_back_after_a_panic() {
    assert_places_come_back(|_| std::panic::resume_unwind(Box::new("as told")), 5);
}

fn a_place_comes_back_after_an_error() {
    assert_places_come_back(|_| Err(io::Error::other("as told")), 5);
}

struct PanicsAtProcessing<S>(S);

impl<S: BaseServer> BaseServer for PanicsAtProcessing<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn process_request(&self, _: Job<Self::Transport>) {
        std::panic::resume_unwind(Box::new("as told"));
    }
}

fn a_place_comes_back_after_a_panic_in_process_request() {
    let server = PanicsAtProcessing(threading()).max_connections(1).max_per_address(1);
    let running = server.spawn().unwrap();
    for _ in 0..5 {
        assert_eq!(read_to_end(connect(running.server_address())), b"");
    }
    stop(running, 0, 5);
}

fn a_place_comes_back_after_its_process_was_killed() {
    let server = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS)
        .max_children(1)
        .max_per_address(1);
    let running = server.spawn().unwrap();
    let killed = connect(running.server_address());
    let child = told_process(&killed);
    let waiting = connect(running.server_address());
    kill(pid(child), Signal::SIGKILL).unwrap();
    assert_ne!(told_process(&waiting), child);
    finish(&waiting);
    stop(running, 1, 1);
}

fn a_forked_child_holds_no_connection_of_others() {
    let server = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).max_per_address(1);
    let running = server.spawn().unwrap();
    let address = running.server_address();
    let first = connect_from(2, address);
    told_process(&first);
    let waiting = connect_from(2, address);
    wait_until("it waits", || running.handle().stats().waiting == 1);
    // A child that is made while the other waits, and stays.
    let stays = connect_from(3, address);
    told_process(&stays);
    finish(&first);
    told_process(&waiting);
    // Its end is seen although the child that stays was forked with it open.
    finish(&waiting);
    finish(&stays);
    stop(running, 3, 0);
}

fn a_forked_child_holds_no_connection_that_was_rejected() {
    let server = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).max_per_address(Limit::reject(1));
    let running = server.farewell("busy\n").spawn().unwrap();
    let address = running.server_address();
    let first = connect_from(2, address);
    let child = told_process(&first);
    assert_rejected(connect_from(2, address));
    // A child that is made while the server keeps that one open a moment longer.
    let second = connect_from(3, address);
    // Each child has what this process has: the clients' ends.
    assert_eq!(sockets_of(told_process(&second)), sockets_of(child) + 1);
    finish(&first);
    finish(&second);
    stop(running, 2, 0);
}

// ----- The end -----------------------------------------------------------------------------------

fn those_that_wait_are_served_before_the_end() {
    let rate = RateLimit::wait(20).burst(1);
    let server = ThreadingTcpServer::new(ANY_PORT, EchoLine).max_per_address(1);
    let running = server.max_rate_per_address(rate).spawn().unwrap();
    let handle = running.handle();
    let clients = [(); 5].map(|()| connect(running.server_address()));
    wait_until("all have come", || handle.stats().accepted == 5);
    let stopping = thread::spawn(move || stop(running, 5, 0));
    wait_until_draining(&handle.shutdown_handle());
    assert_eq!(handle.stats().waiting, 4);
    for client in &clients {
        assert_eq!(exchange_line(client, "hello\n"), "hello\n");
    }
    stopping.join().unwrap();
}

fn those_that_wait_at_the_deadline_are_dropped_and_counted() {
    let server = Counting::over(threading()).max_per_address(1);
    let counts = server.counts();
    let running = server.drain_timeout(Duration::from_millis(100)).spawn().unwrap();
    let handle = running.handle();
    // It has not said anything yet, so it is waited for.
    let first = connect(running.server_address());
    wait_until("it runs", || handle.stats().running == 1);
    let waiting = connect(running.server_address());
    wait_until("it waits", || handle.stats().waiting == 1);
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (1, 1));
    assert_eq!((report.forced, report.leaked), (2, 0));
    assert_eq!(read_to_end(waiting), b"");
    drop(first);
    let stats = handle.stats();
    assert_eq!((stats.started, stats.waiting, stats.running), (2, 0, 0));
    assert_eq!(counts(), (2, 2));
}

/// Says when its requests are made to end.
struct Terminating<S> {
    inner: S,
    terminates: Gate,
}

impl<S: BaseServer> BaseServer for Terminating<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn terminate_requests(&self, force: Force) {
        self.terminates.open();
        self.inner.terminate_requests(force);
    }
}

/// The second client is to wait, but an observer holds it up until those that wait have been dropped.
#[track_caller]
fn assert_dropped_although_held_up<S: BaseServer>(limit: impl FnOnce(Terminating<ThreadingTcpServer<Handler>>) -> S) {
    let (waits, terminates) = (Gate::default(), Gate::default());
    let server = limit(Terminating {
        inner: threading(),
        terminates: terminates.clone(),
    });
    let about_to_wait = waits.clone();
    let server = server.observer(move |event: &Event<'_>| {
        if let Event::Waiting { .. } = event {
            about_to_wait.open();
            terminates.wait();
        }
    });
    let running = server.drain_timeout(Duration::ZERO).spawn().unwrap();
    let handle = running.handle();
    let first = connect(running.server_address());
    assert_echoes(&first);
    let second = connect(running.server_address());
    waits.wait();
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (1, 1));
    assert_eq!(report.leaked, 0);
    assert_eq!(read_to_end(second), b"");
    let stats = handle.stats();
    assert_eq!((stats.started, stats.waiting, stats.running), (2, 0, 0));
}

fn one_that_is_about_to_wait_for_its_turn_at_the_deadline_is_dropped_and_counted() {
    assert_dropped_although_held_up(|server| server.max_rate_per_address(RateLimit::wait(1).per(AN_HOUR)));
}

fn one_that_is_about_to_wait_for_another_at_the_deadline_is_dropped_and_counted() {
    assert_dropped_although_held_up(|server| server.max_per_address(1));
}

fn a_server_that_is_dropped_closes_those_that_wait() {
    let begun = Gate::default();
    let handlers_begun = begun.clone();
    let handler = move |request: &mut TcpRequest| {
        handlers_begun.open();
        ECHO_LINES(request)
    };
    let server = ThreadingTcpServer::new(ANY_PORT, handler).max_per_address(1);
    let server = Arc::new(server.timeout(Duration::from_millis(50)).bind().unwrap());
    let clients = [(); 2].map(|()| connect(&server.server_address()));
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    begun.wait();
    assert_eq!(server.handle_request().unwrap(), Handled::TimedOut);
    assert_eq!(server.stats().waiting, 1);
    drop(server);
    finish(&clients[0]);
    assert_eq!(read_to_end(&clients[1]), b"");
}

fn handle_request_tells_that_it_rejected() {
    let server = threading().max_connections(Limit::reject(1)).farewell("busy\n");
    let server = Arc::new(server.bind().unwrap());
    let clients = [(); 2].map(|()| connect(&server.server_address()));
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    assert_eq!(server.handle_request().unwrap(), Handled::Rejected);
    let [first, second] = clients;
    assert_rejected(second);
    drop(first);
    assert_eq!(server.close().unwrap().served, 1);
}

/// Rejects nobody before it may.
struct HoldsUpRejecting<S> {
    inner: S,
    rejects: Gate,
    may: Gate,
}

impl<S: BaseServer> BaseServer for HoldsUpRejecting<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn reject_request(&self, request: &mut RequestOf<Self>, limit: LimitKind) {
        self.rejects.open();
        self.may.wait();
        self.inner.reject_request(request, limit);
    }
}

fn one_that_is_rejected_when_its_server_has_closed_is_closed_too() {
    let (rejects, closed) = (Gate::default(), Gate::default());
    let server = HoldsUpRejecting {
        inner: threading(),
        rejects: rejects.clone(),
        may: closed.clone(),
    };
    let server = server.max_rate_per_address(RateLimit::reject(1).per(AN_HOUR));
    let server = Arc::new(server.drain_timeout(Duration::ZERO).bind().unwrap());
    let first = connect(&server.server_address());
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    finish(&first);
    let second = connect(&server.server_address());
    let handling = Arc::clone(&server);
    let handling = thread::spawn(move || handling.handle_request().unwrap());
    rejects.wait();
    assert_eq!(server.close().unwrap().served, 1);
    closed.open();
    assert_eq!(handling.join().unwrap(), Handled::Rejected);
    assert_eq!(read_to_end(&second), b"");
    drop((first, second));
    assert_eq!(sockets(), 0);
}

fn handle_request_serves_one_that_waited() {
    let server = Arc::new(threading().max_per_address(1).timeout(CEILING).bind().unwrap());
    let clients = [(); 2].map(|()| connect(&server.server_address()));
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    let handling = Arc::clone(&server);
    let handling = thread::spawn(move || handling.handle_request().unwrap());
    wait_until("it waits", || server.stats().waiting == 1);
    finish(&clients[0]);
    assert_eq!(handling.join().unwrap(), Handled::Processed);
    assert_echoes(&clients[1]);
    drop(clients);
    assert_eq!(server.close().unwrap().served, 2);
}

fn a_limit_of_nothing_is_refused_when_bound() {
    let refused = |server: ThreadingTcpServer<Handler>, which: &str| {
        let error = server.bind().err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let text = error.to_string();
        assert!(text.contains("would never serve anybody: set"), "{text}");
        assert!(text.contains(which), "{text}");
    };
    refused(threading().max_connections(0), "max_connections");
    refused(threading().max_per_address(Limit::reject(0)), "max_per_address");
    refused(threading().max_rate_per_address(0), "max_rate_per_address");
    refused(threading().max_threads(0), "max_threads");
}

fn a_rate_in_no_time_is_refused_when_bound() {
    let error = threading()
        .max_rate_per_address(RateLimit::reject(10).per(Duration::ZERO))
        .bind()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("would limit nothing: set"), "{error}");
}

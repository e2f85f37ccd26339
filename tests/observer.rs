//! Seeing what a server does: events, counts, the list of connections.

mod support;

use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use socketserver::prelude::*;
use socketserver::{
    Config, CountingObserver, Event, EventCounts, Handled, LimitKind, LoggingObserver, Observer, Running, SocketServer,
    State, Stats, Tcp, Transport,
};
use support::gate::Gate;
use support::process::pid;
use support::rest::without_rest;
use support::talk::{ECHO_LINES, TELL_PROCESS, told_process};
use support::unix::connect_unix;
use support::{
    CEILING, EchoLine, children, connect, exchange_line, logged, logged_with_keys, read_to_end, temp_path, udp_client,
    wait_until,
};

tests![
    a_served_request_is_accepted_started_and_finished,
    an_address_that_the_handler_has_set_is_told_from_then_on,
    an_address_that_is_set_on_a_wrapped_request_is_told_in_its_error,
    the_events_are_the_same_under_every_strategy,
    a_request_that_fails_is_told_with_its_outcome,
    a_request_that_panics_is_told_with_its_outcome,
    a_request_that_times_out_is_told,
    a_refused_request_is_told,
    a_rejected_request_is_told_with_the_limit,
    a_request_that_waits_is_told_and_for_how_long_it_did,
    a_request_queued_for_a_worker_waited,
    a_job_dropped_by_a_mix_in_is_told,
    requests_that_wait_at_the_deadline_are_told_as_dropped,
    the_end_of_one_that_came_too_late_is_told_when_it_is_closed,
    the_events_of_forked_requests_are_told_in_the_parent,
    a_killed_child_is_told_with_its_signal,
    backing_off_is_told_when_it_begins_and_when_it_ends,
    draining_is_told,
    draining_is_told_at_once_although_every_worker_is_busy,
    draining_is_told_with_those_that_wait_for_their_turn,
    suspending_and_resuming_are_told_once_each,
    a_server_that_is_resumed_as_it_is_being_suspended_is_not_told_to_be_suspended,
    several_observers_hear_the_same,
    an_observer_that_panics_costs_nothing,
    an_observer_with_a_handle_of_its_server_goes_with_that,
    what_a_server_drops_as_it_is_dropped_is_told,
    observers_attached_inside_and_outside_hear,
    the_counting_observer_sums_over_servers,
    the_logging_observer_logs_keys_and_values,
    the_logging_observer_logs_the_number_of_a_child_s_request_as_a_number,
    errors_are_logged_with_keys_and_values,
    the_stats_of_a_new_server_are_nothing,
    the_stats_count_each_request_once,
    the_stats_are_one_line,
    the_counts_agree_at_every_moment_while_handlers_panic,
    the_counts_agree_when_a_pool_is_full_of_panics,
    live_connections_are_listed_with_address_and_age,
    a_connection_that_waits_says_so,
    bytes_are_counted_however_they_are_read_and_written,
    bytes_of_unix_streams_and_datagrams_are_counted,
    bytes_of_a_forked_child_are_not_known,
    one_connection_is_closed_by_its_number,
    a_connection_in_a_queue_is_closed_by_its_number,
    a_connection_of_a_child_is_closed_by_its_number,
    closing_what_does_not_exist_is_false,
    a_handler_finds_itself_in_the_stats,
    the_stats_outlive_the_server,
];

const ANY_PORT: &str = "127.0.0.1:0";

type Done = io::Result<()>;

/// Keeps the events as lines, without what differs from run to run.
#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Observer for Lines {
    fn observe(&self, event: &Event<'_>) {
        let line = match event {
            Event::Accepted { number, .. } => format!("{number} accepted"),
            Event::Refused { number, .. } => format!("{number} refused"),
            Event::Rejected { number, limit, .. } => format!("{number} rejected: {limit}"),
            Event::Waiting { number, limit, .. } => format!("{number} waits: {limit}"),
            Event::Started { number, .. } => format!("{number} started"),
            Event::TimedOut { number, timeout, .. } => format!("{number} timed out: {}", timeout.kind()),
            Event::Finished { number, outcome, .. } => format!("{number} {outcome}"),
            Event::ChildExited {
                number: Some(number),
                status,
                ..
            } => format!("{number} child: {status}"),
            Event::BackOffBegun { what, reason, .. } => format!("{what}: {reason}"),
            Event::BackOffEnded { what, .. } => format!("{what}: over"),
            Event::Draining { running, .. } => format!("draining {running}"),
            other => format!("{other:?}"),
        };
        self.0.lock().unwrap().push(line);
    }
}

impl Lines {
    fn get(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    #[track_caller]
    fn wait_for(&self, line: &str) {
        wait_until(line, || self.get().iter().any(|known| known == line));
    }
}

/// With an observer that keeps the events.
fn observed<S: BaseServer>(server: S) -> (S, Arc<Lines>) {
    let lines = Arc::new(Lines::default());
    (server.observer(Arc::clone(&lines)), lines)
}

/// Stops the server; the events but for the draining, all of which are told by then.
#[track_caller]
fn stop(running: Running, lines: &Lines) -> Vec<String> {
    running.stop().unwrap();
    let mut lines = lines.get();
    lines.retain(|line| !line.starts_with("draining "));
    lines
}

fn exchange(address: &Address) {
    let client = connect(address);
    assert_eq!(exchange_line(&client, "hello\n"), "hello\n");
    assert_eq!(read_to_end(client), b"");
}

// ----- Events ------------------------------------------------------------------------------------

fn a_served_request_is_accepted_started_and_finished() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&events);
    let running = ThreadingTcpServer::new(ANY_PORT, EchoLine)
        .observer(move |event: &Event<'_>| {
            let (what, client_address) = match event {
                Event::Accepted { client_address, .. } => ("accepted", client_address),
                Event::Started { client_address, .. } => ("started", client_address),
                Event::Finished { client_address, .. } => ("finished", client_address),
                _ => return,
            };
            kept.lock().unwrap().push((what, Address::clone(client_address)));
        })
        .spawn()
        .unwrap();
    let client = connect(running.server_address());
    let mine = Address::from(client.local_addr().unwrap());
    assert_eq!(exchange_line(&client, "hello\n"), "hello\n");
    running.stop().unwrap();
    let expected = ["accepted", "started", "finished"].map(|what| (what, mine.clone()));
    assert_eq!(*events.lock().unwrap(), expected);
}

/// What hears of an address.
struct Proxied<S>(S, Arc<Mutex<Vec<(&'static str, String)>>>);

impl<S: BaseServer<Transport = Tcp>> BaseServer for Proxied<S> {
    type Transport = Tcp;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn handle_error(&self, error: &RequestError) {
        self.1.lock().unwrap().push(("error", error.to_string()));
    }
}

/// What is told of a request of `handler`'s that fails with `error`, having said that it is of 192.0.2.7:80.
#[track_caller]
fn assert_told_as_the_proxied(handler: impl BaseRequestHandler<TcpRequest>, error: &str) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&told);
    let server = Proxied(ThreadingTcpServer::new(ANY_PORT, handler), Arc::clone(&told));
    let running = server
        .observer(move |event: &Event<'_>| {
            let address = match event {
                Event::Accepted { client_address, .. } => ("accepted", client_address.to_string()),
                Event::TimedOut { client_address, .. } => ("timed out", client_address.to_string()),
                Event::Finished { client_address, .. } => ("finished", client_address.to_string()),
                _ => return,
            };
            kept.lock().unwrap().push(address);
        })
        .spawn()
        .unwrap();
    let client = connect(running.server_address());
    let proxy = client.local_addr().unwrap().to_string();
    assert_eq!(read_to_end(client), b"");
    running.stop().unwrap();
    let mut expected = vec![
        ("accepted", proxy),
        ("error", format!("handle failed for 192.0.2.7:80: {error}")),
        ("finished", "192.0.2.7:80".to_owned()),
    ];
    if error.contains("nothing for") {
        expected.insert(2, ("timed out", "192.0.2.7:80".to_owned()));
    }
    assert_eq!(*told.lock().unwrap(), expected);
}

fn an_address_that_the_handler_has_set_is_told_from_then_on() {
    let handler = |request: &mut TcpRequest| {
        request.set_client_address((Ipv4Addr::new(192, 0, 2, 7), 80));
        let stats = request.server().handle().map(|server| server.stats());
        let connections = stats.map_or_else(Vec::new, |stats| stats.connections);
        Err::<(), _>(format!("listed as {}", connections[0].client_address))
    };
    assert_told_as_the_proxied(handler, "listed as 192.0.2.7:80");
}

// As one whose header of HTTP, within TLS, says so.
fn an_address_that_is_set_on_a_wrapped_request_is_told_in_its_error() {
    let handler = |request: &mut TcpRequest| -> HandlerResult {
        let mut inner = request.wrap(request.get_ref().try_clone()?)?;
        inner.set_client_address((Ipv4Addr::new(192, 0, 2, 7), 80));
        inner.set_timeout(Duration::from_millis(20))?;
        Ok(inner.read_exact(&mut [0])?)
    };
    assert_told_as_the_proxied(handler, "read: the peer sent nothing for 0.02 s");
}

/// The events of one request that is served.
#[track_caller]
fn course(server: impl BaseServer) -> Vec<String> {
    let (server, lines) = observed(server);
    let running = server.spawn().unwrap();
    exchange(running.server_address());
    stop(running, &lines)
}

fn the_events_are_the_same_under_every_strategy() {
    let expected = ["1 accepted", "1 started", "1 served"];
    let bare = || TcpServer::new(ANY_PORT, EchoLine);
    assert_eq!(course(bare()), expected);
    assert_eq!(course(bare().threading()), expected);
    assert_eq!(course(bare().thread_pool()), expected);
}

/// The events of one request of a handler.
#[track_caller]
fn course_of(handler: fn(&mut TcpRequest) -> Done) -> Vec<String> {
    let (server, lines) = observed(ThreadingTcpServer::new(ANY_PORT, handler));
    let running = server.spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"");
    stop(running, &lines)
}

fn a_request_that_fails_is_told_with_its_outcome() {
    let lines = course_of(|_| Err(io::Error::other("as told")));
    assert_eq!(lines, ["1 accepted", "1 started", "1 failed"]);
}

fn a_request_that_panics_is_told_with_its_outcome() {
    let lines = course_of(|_| std::panic::resume_unwind(Box::new("as told")));
    assert_eq!(lines, ["1 accepted", "1 started", "1 panicked"]);
}

fn a_request_that_times_out_is_told() {
    let lines = course_of(|request| {
        request.set_timeout(Duration::from_millis(1))?;
        request.read_exact(&mut [0])
    });
    assert_eq!(lines, ["1 accepted", "1 started", "1 timed out: read", "1 failed"]);
}

/// Refuses all, or panics instead.
struct Refuses<S>(S, bool);

impl<S: BaseServer> BaseServer for Refuses<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn verify_request(&self, _: &RequestOf<Self>, _: &Address) -> bool {
        if self.1 {
            std::panic::resume_unwind(Box::new("as told"));
        }
        false
    }
}

fn a_refused_request_is_told() {
    for (panics, expected) in [
        (false, &["1 accepted", "1 refused"][..]),
        // It fails, and what ends has begun.
        (true, &["1 accepted", "1 started", "1 panicked"]),
    ] {
        let (server, lines) = observed(Refuses(ThreadingTcpServer::new(ANY_PORT, EchoLine), panics));
        let running = server.spawn().unwrap();
        assert_eq!(read_to_end(connect(running.server_address())), b"");
        let handle = running.handle();
        assert_eq!(stop(running, &lines), expected);
        let stats = handle.stats();
        assert_eq!((stats.refused, stats.failed), (u64::from(!panics), u64::from(panics)));
        assert_eq!((stats.accepted, stats.started), (1, u64::from(panics)));
    }
}

fn a_rejected_request_is_told_with_the_limit() {
    let (server, lines) = observed(ThreadingTcpServer::new(ANY_PORT, EchoLine));
    let running = server.max_connections(Limit::reject(1)).spawn().unwrap();
    let client = connect(running.server_address());
    lines.wait_for("1 started");
    assert_eq!(read_to_end(connect(running.server_address())), b"");
    lines.wait_for("2 rejected: max_connections");
    drop(client);
    let expected = [
        "1 accepted",
        "1 started",
        "2 accepted",
        "2 rejected: max_connections",
        "1 served",
    ];
    assert_eq!(stop(running, &lines), expected);
}

/// Tells how long requests waited and took, by their numbers.
#[derive(Default)]
struct Times(Mutex<Vec<(u64, Duration, Duration)>>);

impl Observer for Times {
    fn observe(&self, event: &Event<'_>) {
        if let Event::Finished {
            number,
            waited,
            duration,
            ..
        } = event
        {
            self.0.lock().unwrap().push((*number, *waited, *duration));
        }
    }
}

const A_WHILE: Duration = Duration::from_millis(50);

fn a_request_that_waits_is_told_and_for_how_long_it_did() {
    let times = Arc::new(Times::default());
    let greet_and_echo = |request: &mut TcpRequest| {
        request.write_all(b"begun\n")?;
        EchoLine.handle(request)
    };
    let has_begun = |mut client: &TcpStream| {
        let mut greeting = [0; 6];
        client.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting, *b"begun\n");
    };
    let (server, lines) = observed(ThreadingTcpServer::new(ANY_PORT, greet_and_echo));
    let running = server.observer(Arc::clone(&times)).max_per_address(1).spawn().unwrap();
    let first = connect(running.server_address());
    // That it has started is told a moment before.
    has_begun(&first);
    let second = connect(running.server_address());
    lines.wait_for("2 waits: max_per_address");
    thread::sleep(A_WHILE);
    assert_eq!(exchange_line(&first, "hello\n"), "hello\n");
    has_begun(&second);
    assert_eq!(exchange_line(&second, "hello\n"), "hello\n");
    let expected = [
        "1 accepted",
        "1 started",
        "2 accepted",
        "2 waits: max_per_address",
        "1 served",
        "2 started",
        "2 served",
    ];
    assert_eq!(stop(running, &lines), expected);
    let times = times.0.lock().unwrap();
    let of = |number| *times.iter().find(|(known, ..)| *known == number).unwrap();
    assert!(of(1).2 >= A_WHILE, "{times:?}");
    assert!(of(2).1 >= A_WHILE, "{times:?}");
}

fn a_request_queued_for_a_worker_waited() {
    let times = Arc::new(Times::default());
    let (server, lines) = observed(ThreadPoolTcpServer::new(ANY_PORT, EchoLine).workers(1).queue_size(1));
    let running = server.observer(Arc::clone(&times)).spawn().unwrap();
    let first = connect(running.server_address());
    lines.wait_for("1 started");
    let second = connect(running.server_address());
    lines.wait_for("2 started");
    thread::sleep(A_WHILE);
    assert_eq!(exchange_line(&first, "hello\n"), "hello\n");
    assert_eq!(exchange_line(&second, "hello\n"), "hello\n");
    running.stop().unwrap();
    let times = times.0.lock().unwrap();
    assert!(times[1].1 >= A_WHILE, "{times:?}");
}

/// Loses every job.
struct Loses<S>(S);

impl<S: BaseServer> BaseServer for Loses<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn process_request(&self, job: Job<Self::Transport>) {
        drop(job);
    }
}

fn a_job_dropped_by_a_mix_in_is_told() {
    let (server, lines) = observed(Loses(TcpServer::new(ANY_PORT, EchoLine)));
    let running = server.spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"");
    assert_eq!(stop(running, &lines), ["1 accepted", "1 started", "1 dropped"]);
}

/// Holds a request up until its server ends, and tells when it is closed.
struct HeldUp<S> {
    inner: S,
    lines: Arc<Lines>,
    ends: Gate,
}

impl<S: BaseServer> BaseServer for HeldUp<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn verify_request(&self, _: &RequestOf<Self>, _: &Address) -> bool {
        self.shutdown();
        self.ends.wait();
        true
    }

    fn close_request(&self, request: RequestOf<Self>) {
        self.inner.close_request(request);
        self.lines.0.lock().unwrap().push("closed".to_owned());
    }

    fn server_close(&self) {
        self.ends.open();
        self.inner.server_close();
    }
}

fn the_end_of_one_that_came_too_late_is_told_when_it_is_closed() {
    let (inner, lines) = observed(ThreadingTcpServer::new(ANY_PORT, EchoLine));
    let server = HeldUp {
        inner,
        lines: Arc::clone(&lines),
        ends: Gate::default(),
    };
    let running = server.drain_timeout(Duration::ZERO).spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"");
    let told = stop(running, &lines);
    assert_eq!(told, ["1 accepted", "1 started", "closed", "1 dropped"]);
}

fn requests_that_wait_at_the_deadline_are_told_as_dropped() {
    let (counter, begun) = (Arc::new(CountingObserver::default()), Gate::default());
    let begins = begun.clone();
    let handler = move |request: &mut TcpRequest| {
        begins.open();
        ECHO_LINES(request)
    };
    let server = ThreadingTcpServer::new(ANY_PORT, handler).max_per_address(1);
    let server = server.observer(Arc::clone(&counter)).drain_timeout(Duration::ZERO);
    let running = server.spawn().unwrap();
    let clients = [(); 3].map(|()| connect(running.server_address()));
    begun.wait();
    wait_until("two wait", || running.handle().stats().waiting == 2);
    running.stop().unwrap();
    let counts = counter.counts();
    assert_eq!((counts.waited, counts.dropped), (2, 2));
    assert_eq!((counts.started, counts.running), (3, 0));
    drop(clients);
}

fn the_events_of_forked_requests_are_told_in_the_parent() {
    let handler = |request: &mut TcpRequest| {
        if request.server().number() == 2 {
            return Err(io::Error::other("as told"));
        }
        Ok(())
    };
    let (server, lines) = observed(ForkingTcpServer::new(ANY_PORT, handler));
    let running = server.spawn().unwrap();
    for _ in 0..2 {
        assert_eq!(read_to_end(connect(running.server_address())), b"");
        wait_until("it is reaped", || running.handle().stats().running == 0);
    }
    let expected = [
        "1 accepted",
        "1 started",
        "1 child: exit status: 0",
        "1 served",
        "2 accepted",
        "2 started",
        "2 child: exit status: 1",
        "2 failed",
    ];
    assert_eq!(stop(running, &lines), expected);
}

fn a_killed_child_is_told_with_its_signal() {
    let (server, lines) = observed(ForkingTcpServer::new(ANY_PORT, TELL_PROCESS));
    let running = server.spawn().unwrap();
    let client = connect(running.server_address());
    kill(pid(told_process(&client)), Signal::SIGKILL).unwrap();
    lines.wait_for("1 signal: 9 (SIGKILL)");
    let expected = [
        "1 accepted",
        "1 started",
        "1 child: signal: 9 (SIGKILL)",
        "1 signal: 9 (SIGKILL)",
    ];
    assert_eq!(stop(running, &lines), expected);
}

/// TCP whose accept fails as long as it is told to.
struct Failing(Tcp, &'static AtomicBool);

static FAILS: AtomicBool = AtomicBool::new(false);

impl Transport for Failing {
    forward_to_tcp!(0, stop_listening);

    type Request = TcpRequest;

    fn bind(address: &Address, config: &Config) -> io::Result<Self> {
        Ok(Failing(Tcp::bind(address, config)?, &FAILS))
    }

    fn accept(&self) -> io::Result<TcpRequest> {
        if self.1.load(Ordering::SeqCst) {
            return Err(Errno::EMFILE.into());
        }
        self.0.accept()
    }
}

fn backing_off_is_told_when_it_begins_and_when_it_ends() {
    FAILS.store(true, Ordering::SeqCst);
    let (server, lines) = observed(SocketServer::<Failing, _>::new(ANY_PORT, EchoLine));
    let running = server.spawn().unwrap();
    let client = connect(running.server_address());
    let begun = format!("cannot accept: {}", io::Error::from(Errno::EMFILE));
    lines.wait_for(&begun);
    FAILS.store(false, Ordering::SeqCst);
    assert_eq!(exchange_line(&client, "hello\n"), "hello\n");
    let expected = [&begun, "cannot accept: over", "1 accepted", "1 started", "1 served"];
    assert_eq!(stop(running, &lines), expected);
}

fn draining_is_told() {
    let (server, lines) = observed(ThreadingTcpServer::new(ANY_PORT, EchoLine));
    let running = server.spawn().unwrap();
    let clients = [(); 2].map(|()| connect(running.server_address()));
    lines.wait_for("2 started");
    let stopping = thread::spawn(move || running.stop());
    lines.wait_for("draining 2");
    drop(clients);
    assert_eq!(stopping.join().unwrap().unwrap().drained, 2);
}

// Their handlers wait for something else than a client, and hear of a drain from this event: it came a second later,
// because the pool had not looked yet whether the kernel had queued anybody.
fn draining_is_told_at_once_although_every_worker_is_busy() {
    let gate = Gate::default();
    let busy = gate.clone();
    let server = ThreadPoolTcpServer::new(ANY_PORT, move |_: &mut TcpRequest| busy.wait()).workers(1);
    // The lines hear first: what the gate lets go on comes behind.
    let (server, lines) = observed(server);
    let server = server.observer(move |event: &Event<'_>| {
        if let Event::Draining { .. } = event {
            gate.open();
        }
    });
    let running = server.spawn().unwrap();
    let _client = connect(running.server_address());
    lines.wait_for("1 started");
    let report = without_rest(|| running.stop().unwrap());
    assert_eq!((report.served, report.drained, report.forced), (1, 1, 0));
    assert_eq!(lines.get(), ["1 accepted", "1 started", "draining 1", "1 served"]);
}

fn draining_is_told_with_those_that_wait_for_their_turn() {
    let (server, lines) = observed(ThreadingTcpServer::new(ANY_PORT, EchoLine).max_per_address(1));
    let running = server.spawn().unwrap();
    // Neither has said anything yet, so both are waited for.
    let runs = connect(running.server_address());
    lines.wait_for("1 started");
    let waits = connect(running.server_address());
    lines.wait_for("2 waits: max_per_address");
    running.shutdown_handle().shutdown();
    lines.wait_for("draining 2");
    drop((runs, waits));
    running.join().unwrap();
}

fn suspending_and_resuming_are_told_once_each() {
    let (server, lines) = observed(ThreadingTcpServer::new(ANY_PORT, EchoLine));
    let running = server.spawn().unwrap();
    let handle = running.handle();
    handle.suspend();
    handle.suspend();
    handle.resume();
    handle.resume();
    assert_eq!(stop(running, &lines), ["Suspended", "Resumed"]);
}

/// Keeps whoever suspends waiting, as long as it may not go on with what it has accepted.
struct SlowToAccept<S> {
    inner: S,
    accepts: Gate,
    goes_on: Gate,
}

impl<S: BaseServer> BaseServer for SlowToAccept<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn get_request(&self) -> io::Result<RequestOf<Self>> {
        let request = self.inner.get_request()?;
        self.accepts.open();
        self.goes_on.wait();
        Ok(request)
    }
}

fn a_server_that_is_resumed_as_it_is_being_suspended_is_not_told_to_be_suspended() {
    let (accepts, goes_on) = (Gate::default(), Gate::default());
    let (server, lines) = observed(SlowToAccept {
        inner: ThreadingTcpServer::new(ANY_PORT, EchoLine),
        accepts: accepts.clone(),
        goes_on: goes_on.clone(),
    });
    let running = server.spawn().unwrap();
    let client = connect(running.server_address());
    accepts.wait();
    let handle = running.handle();
    let suspending = thread::spawn(move || handle.suspend());
    let handle = running.handle();
    wait_until("it is suspended", || handle.state() == State::Suspended);
    handle.resume();
    goes_on.open();
    suspending.join().unwrap();
    assert_eq!(exchange_line(client, "hello\n"), "hello\n");
    let mut told = stop(running, &lines);
    told.retain(|line| ["Suspended", "Resumed"].contains(&line.as_str()));
    assert_ne!(told.last().map(String::as_str), Some("Suspended"));
}

fn several_observers_hear_the_same() {
    let (server, first) = observed(ThreadingTcpServer::new(ANY_PORT, EchoLine));
    let (server, second) = observed(server);
    let running = server.spawn().unwrap();
    exchange(running.server_address());
    assert_eq!(stop(running, &first).len(), 3);
    assert_eq!(first.get(), second.get());
}

fn an_observer_that_panics_costs_nothing() {
    let server = ThreadingTcpServer::new(ANY_PORT, EchoLine)
        .observer(|_: &Event<'_>| std::panic::resume_unwind(Box::new("as told")));
    let (server, lines) = observed(server);
    let running = server.spawn().unwrap();
    exchange(running.server_address());
    assert_eq!(stop(running, &lines), ["1 accepted", "1 started", "1 served"]);
    assert!(logged().contains(&"ERROR an observer panicked: as told".to_owned()));
}

fn an_observer_with_a_handle_of_its_server_goes_with_that() {
    let server = ThreadingTcpServer::new(ANY_PORT, EchoLine);
    let (handle, told) = (server.handle(), Arc::new(AtomicUsize::new(0)));
    let notes = Arc::clone(&told);
    let observer = move |event: &Event<'_>| {
        if let Event::Finished { .. } = event {
            notes.fetch_add(1, Ordering::SeqCst);
            handle.shutdown_handle().shutdown();
        }
    };
    let running = server.observer(observer).spawn().unwrap();
    assert_eq!(exchange_line(connect(running.server_address()), "hello\n"), "hello\n");
    assert_eq!(running.join().unwrap().served, 1);
    assert_eq!(told.load(Ordering::SeqCst), 1);
    // Nobody has it, nor with it the descriptors of the handle.
    assert_eq!(Arc::strong_count(&told), 1);
}

fn what_a_server_drops_as_it_is_dropped_is_told() {
    let (server, lines) = observed(ForkingTcpServer::new(ANY_PORT, EchoLine));
    let server = Arc::new(server.max_per_address(1).timeout(Duration::ZERO).bind().unwrap());
    let _clients = [(); 2].map(|()| connect(&server.server_address()));
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    assert_eq!(server.handle_request().unwrap(), Handled::TimedOut);
    assert_eq!((server.stats().running, server.stats().waiting), (1, 1));
    let child = children()[0];
    drop(server);
    // The other had not run.
    let mut ends = lines.get().split_off(4);
    ends.sort();
    assert_eq!(ends, ["1 dropped", "2 dropped", "2 started"]);
    kill(pid(child), Signal::SIGKILL).unwrap();
    waitpid(pid(child), None).unwrap();
}

fn observers_attached_inside_and_outside_hear() {
    let (bare, inside) = observed(TcpServer::new(ANY_PORT, EchoLine));
    let (server, outside) = observed(Loses(bare.threading()));
    let running = server.spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"");
    assert_eq!(stop(running, &outside), ["1 accepted", "1 started", "1 dropped"]);
    assert_eq!(inside.get(), outside.get());
}

fn the_counting_observer_sums_over_servers() {
    let counter = Arc::new(CountingObserver::default());
    let start = |server: ThreadingTcpServer<EchoLine>| server.observer(Arc::clone(&counter)).spawn().unwrap();
    let one = start(ThreadingTcpServer::new(ANY_PORT, EchoLine));
    let other = start(ThreadingTcpServer::new(ANY_PORT, EchoLine));
    exchange(one.server_address());
    exchange(other.server_address());
    exchange(other.server_address());
    one.stop().unwrap();
    other.stop().unwrap();
    let counts = counter.counts();
    assert_eq!((counts.accepted, counts.started, counts.served), (3, 3, 3));
    assert_eq!((counts.running, counts.failed, counts.back_offs), (0, 0, 0));
}

fn the_logging_observer_logs_keys_and_values() {
    let server = ThreadingTcpServer::new(ANY_PORT, EchoLine).observer(LoggingObserver);
    let running = server.max_connections(Limit::reject(1)).spawn().unwrap();
    let client = connect(running.server_address());
    wait_until("it runs", || running.handle().stats().running == 1);
    let rejected = connect(running.server_address());
    assert_eq!(read_to_end(&rejected), b"");
    let (client_address, rejected_address) = (client.local_addr().unwrap(), rejected.local_addr().unwrap());
    assert_eq!(exchange_line(&client, "hello\n"), "hello\n");
    running.stop().unwrap();
    let records = logged_with_keys();
    let has = |record: String| assert!(records.contains(&record), "{record}: {records:#?}");
    has(format!(
        "DEBUG accepted {client_address} number=1 client={client_address}"
    ));
    has(format!(
        "DEBUG started {client_address} number=1 client={client_address}"
    ));
    has(format!(
        "WARN rejected {rejected_address}: max_connections is reached number=2 client={rejected_address} \
         limit=max_connections"
    ));
    let finished = records
        .iter()
        .find(|record| record.starts_with("INFO served "))
        .unwrap();
    let keys = format!(" number=1 client={client_address} outcome=served waited_us=");
    assert!(
        finished.contains(&keys) && finished.contains(" duration_us="),
        "{finished}"
    );
}

fn the_logging_observer_logs_the_number_of_a_child_s_request_as_a_number() {
    let server = ForkingTcpServer::new(ANY_PORT, EchoLine).observer(LoggingObserver);
    let running = server.spawn().unwrap();
    exchange(running.server_address());
    running.stop().unwrap();
    let records = logged_with_keys();
    let told = |record: &&String| record.starts_with("DEBUG process ") && record.contains(" number=1 process=");
    assert_eq!(records.iter().filter(told).count(), 1, "{records:#?}");
}

fn errors_are_logged_with_keys_and_values() {
    let handler = |_: &mut TcpRequest| Err(io::Error::other("as told"));
    let running = ThreadingTcpServer::new(ANY_PORT, handler).spawn().unwrap();
    let client = connect(running.server_address());
    assert_eq!(read_to_end(&client), b"");
    running.stop().unwrap();
    let client = client.local_addr().unwrap();
    let record = format!("ERROR handle failed for {client}: as told phase=handle client={client}");
    assert_eq!(logged_with_keys(), [record]);
}

// ----- Counts ------------------------------------------------------------------------------------

fn the_stats_of_a_new_server_are_nothing() {
    let stats = TcpServer::new(ANY_PORT, EchoLine).stats();
    assert_eq!(stats.state, State::New);
    assert_eq!((stats.accepted, stats.started, stats.running), (0, 0, 0));
    assert!(stats.connections.is_empty());
}

fn the_stats_count_each_request_once() {
    let handler = |request: &mut TcpRequest| -> Done {
        let mut line = String::new();
        request.read_line(&mut line)?;
        match line.trim() {
            "fail" => Err(io::Error::other("as told")),
            "panic" => std::panic::resume_unwind(Box::new("as told")),
            _ => Ok(()),
        }
    };
    let running = ThreadingTcpServer::new(ANY_PORT, handler).spawn().unwrap();
    for line in ["fail\n", "\n", "panic\n", "\n", "\n"] {
        let client = connect(running.server_address());
        (&client).write_all(line.as_bytes()).unwrap();
        assert_eq!(read_to_end(client), b"");
    }
    let last = connect(running.server_address());
    let there = |stats: &Stats| stats.accepted == 6 && stats.running == 1;
    wait_until("only the last one runs", || there(&running.handle().stats()));
    let stats = running.handle().stats();
    assert_eq!(
        (stats.accepted, stats.refused, stats.rejected, stats.waiting),
        (6, 0, 0, 0)
    );
    assert_eq!((stats.started, stats.served, stats.failed, stats.running), (6, 3, 2, 1));
    drop(last);
    running.stop().unwrap();
}

fn the_stats_are_one_line() {
    let running = ThreadingTcpServer::new(ANY_PORT, EchoLine).spawn().unwrap();
    exchange(running.server_address());
    let handle = running.handle();
    running.stop().unwrap();
    let line = "state=closed accepted=1 refused=0 rejected=0 waiting=0 started=1 running=0 served=1 failed=0";
    assert_eq!(handle.stats().to_string(), line);
}

/// What must hold at every moment.
#[track_caller]
fn assert_agree(stats: &Stats) {
    let present = stats.running + stats.waiting;
    assert_eq!(stats.connections.len(), present, "{stats}");
    let ended = stats.served + stats.failed;
    assert_eq!(stats.started, ended + stats.running as u64, "{stats}");
    let begun = stats.refused + stats.rejected + stats.waiting as u64 + stats.started;
    assert_eq!(stats.accepted, begun, "{stats}");
}

#[track_caller]
fn assert_counts_agree(counts: &EventCounts) {
    let ended = counts.served + counts.failed + counts.panicked + counts.exited + counts.dropped;
    assert_eq!(counts.started, ended + counts.running, "{counts:?}");
}

/// Every third panics.
fn panic_on_every_third(request: &mut TcpRequest) -> Done {
    if request.server().number().is_multiple_of(3) {
        std::panic::resume_unwind(Box::new("as told"));
    }
    request.write_all(b"hello")
}

/// Many clients at once, while somebody looks all the time; returns the counts at the end.
#[track_caller]
fn agree_under_load(server: impl BaseServer) -> (Stats, EventCounts) {
    const CLIENTS: usize = 4;
    const EACH: usize = 100;
    let counter = Arc::new(CountingObserver::default());
    let running = server.observer(Arc::clone(&counter)).spawn().unwrap();
    let (handle, address) = (running.handle(), running.server_address().clone());
    let left = AtomicUsize::new(CLIENTS);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    let answer = read_to_end(connect(&address));
                    assert!(answer.is_empty() || answer == b"hello", "{answer:?}");
                }
                left.fetch_sub(1, Ordering::SeqCst);
            });
        }
        while left.load(Ordering::SeqCst) > 0 {
            assert_agree(&handle.stats());
            assert_counts_agree(&counter.counts());
        }
    });
    let report = running.stop().unwrap();
    let (stats, counts) = (handle.stats(), counter.counts());
    assert_agree(&stats);
    assert_eq!((stats.accepted, counts.accepted), (400, 400));
    assert_eq!((report.served, report.failed), (stats.served, stats.failed));
    assert_eq!((stats.served, stats.rejected), (counts.served, counts.rejected));
    assert_eq!((stats.started, stats.waiting, counts.running), (counts.started, 0, 0));
    (stats, counts)
}

fn the_counts_agree_at_every_moment_while_handlers_panic() {
    let server = || TcpServer::new(ANY_PORT, panic_on_every_third);
    for (stats, counts) in [
        agree_under_load(server()),
        agree_under_load(server().threading()),
        agree_under_load(server().threading().max_per_address(1)),
    ] {
        assert_eq!((stats.served, stats.failed), (267, 133));
        assert_eq!(counts.panicked, 133);
    }
}

fn the_counts_agree_when_a_pool_is_full_of_panics() {
    let server = ThreadPoolTcpServer::new(ANY_PORT, panic_on_every_third).workers(2);
    let (stats, counts) = agree_under_load(server.queue_size(Limit::reject(1)));
    assert_eq!(stats.failed, counts.panicked);
    assert_eq!(stats.started + stats.rejected, 400);
}

// ----- Connections -------------------------------------------------------------------------------

/// Clients that are numbered in this order: each comes when the one before is there. Of two that come at once any of
/// two threads may be the first to number its own.
#[track_caller]
fn connect_in_order<const N: usize>(running: &Running) -> [TcpStream; N] {
    std::array::from_fn(|before| {
        let client = connect(running.server_address());
        wait_until("it is there", || {
            running.handle().stats().connections.len() == before + 1
        });
        client
    })
}

fn live_connections_are_listed_with_address_and_age() {
    let server = ThreadingTcpServer::new(ANY_PORT, ECHO_LINES).bind().unwrap();
    let handle = server.handle();
    let running = server.spawn().unwrap();
    let clients: [_; 3] = connect_in_order(&running);
    let before = handle.stats().connections;
    assert_eq!(before.iter().map(|one| one.number).collect::<Vec<_>>(), [1, 2, 3]);
    let addresses: Vec<_> = before.iter().map(|one| one.client_address.clone()).collect();
    assert_eq!(
        addresses,
        clients.each_ref().map(|client| client.local_addr().unwrap().into())
    );
    thread::sleep(A_WHILE);
    let after = handle.stats().connections;
    assert!(after[0].age >= before[0].age + A_WHILE, "{before:?} {after:?}");
    assert!(after[0].age >= after[2].age);
    clients[1].shutdown(Shutdown::Write).unwrap();
    wait_until("one is gone", || handle.stats().connections.len() == 2);
    let left = handle.stats().connections;
    assert_eq!(left.iter().map(|one| one.number).collect::<Vec<_>>(), [1, 3]);
    let line = left[0].to_string();
    let begin = format!("connection=1 client={} age=", clients[0].local_addr().unwrap());
    assert!(
        line.starts_with(&begin) && line.ends_with(" received=0 sent=0"),
        "{line}"
    );
    drop(clients);
    running.stop().unwrap();
}

fn a_connection_that_waits_says_so() {
    let running = ThreadingTcpServer::new(ANY_PORT, ECHO_LINES)
        .max_per_address(1)
        .spawn()
        .unwrap();
    let clients: [_; 2] = connect_in_order(&running);
    let lines: Vec<_> = running
        .handle()
        .stats()
        .connections
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(!lines[0].contains(" waiting"), "{lines:?}");
    assert!(lines[1].contains("s waiting received=0"), "{lines:?}");
    drop(clients);
    running.stop().unwrap();
}

#[track_caller]
fn wait_for_bytes(running: &Running, received: u64, sent: u64) {
    let bytes = |stats: &Stats| stats.connections.first().map(|one| (one.received, one.sent));
    wait_until("the bytes are counted", || {
        bytes(&running.handle().stats()) == Some((Some(received), Some(sent)))
    });
}

fn bytes_are_counted_however_they_are_read_and_written() {
    let running = ThreadingTcpServer::new(ANY_PORT, |request: &mut TcpRequest| -> Done {
        request.read_exact(&mut [0; 10])?;
        request.read_line(&mut String::new())?;
        request.write_all(&[0; 3])?;
        request.set_wbufsize(100);
        request.write_all(&[0; 4])?;
        request.flush()?;
        let (mut rfile, mut wfile) = request.split();
        rfile.read_line(&mut String::new())?;
        wfile.write_all(&[0; 5])?;
        wfile.flush()?;
        ECHO_LINES(request)
    })
    .spawn()
    .unwrap();
    let mut client = connect(running.server_address());
    client.write_all(&[b'x'; 10]).unwrap();
    client.write_all(b"one\n").unwrap();
    client.write_all(b"three\n").unwrap();
    client.read_exact(&mut [0; 12]).unwrap();
    wait_for_bytes(&running, 20, 12);
    drop(client);
    running.stop().unwrap();
}

fn bytes_of_unix_streams_and_datagrams_are_counted() {
    let place = temp_path("server");
    let hello = |request: &mut UnixStreamRequest| -> Done {
        request.write_all(b"hello\n")?;
        request.read_to_end(&mut Vec::new()).map(drop)
    };
    let running = ThreadingUnixStreamServer::new(place.path.as_path(), hello)
        .spawn()
        .unwrap();
    let client = connect_unix(running.server_address());
    assert_eq!(exchange_line(&client, "four"), "hello\n");
    wait_for_bytes(&running, 4, 6);
    drop(client);
    running.stop().unwrap();

    let gate = Gate::default();
    let leave = gate.clone();
    let server = ThreadingUdpServer::new(ANY_PORT, move |request: &mut DatagramRequest| {
        let sent = request.reply(b"hello");
        leave.wait();
        sent
    });
    let running = server.spawn().unwrap();
    let client = udp_client(running.server_address());
    client.send(b"four").unwrap();
    wait_for_bytes(&running, 4, 5);
    gate.open();
    running.stop().unwrap();
}

fn bytes_of_a_forked_child_are_not_known() {
    let running = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).spawn().unwrap();
    let client = connect(running.server_address());
    told_process(&client);
    let connection = || running.handle().stats().connections.remove(0);
    // The child can have answered before its parent gets on.
    wait_until("it is left to the child", || connection().received.is_none());
    let connection = connection();
    assert_eq!(connection.sent, None);
    let own = Address::from(client.local_addr().unwrap());
    assert_eq!((connection.number, connection.client_address), (1, own));
    client.shutdown(Shutdown::Write).unwrap();
    running.stop().unwrap();
}

fn one_connection_is_closed_by_its_number() {
    let running = ThreadingTcpServer::new(ANY_PORT, ECHO_LINES).spawn().unwrap();
    let handle = running.handle();
    let [first, second] = connect_in_order(&running);
    let number = handle.stats().connections[0].number;
    assert!(handle.close_connection(number));
    assert_eq!(read_to_end(first), b"");
    wait_until("it is gone", || handle.stats().running == 1);
    assert!(!handle.close_connection(number));
    assert_eq!(handle.stats().connections[0].number, 2);
    drop(second);
    running.stop().unwrap();
}

fn a_connection_in_a_queue_is_closed_by_its_number() {
    for waits in [false, true] {
        let pool = ThreadPoolTcpServer::new(ANY_PORT, ECHO_LINES).workers(1).queue_size(1);
        let running = if waits {
            pool.max_per_address(1).spawn()
        } else {
            pool.spawn()
        };
        let running = running.unwrap();
        let handle = running.handle();
        let clients = [(); 2].map(|()| connect(running.server_address()));
        wait_until("both are there", || handle.stats().connections.len() == 2);
        assert!(handle.close_connection(2));
        assert_eq!(read_to_end(&clients[1]), b"");
        drop(clients);
        assert_eq!(running.stop().unwrap().served, 2);
    }
}

fn a_connection_of_a_child_is_closed_by_its_number() {
    let running = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).spawn().unwrap();
    let handle = running.handle();
    let clients = [(); 2].map(|()| connect(running.server_address()));
    for client in &clients {
        told_process(client);
    }
    assert!(handle.close_connection(1));
    assert_eq!(read_to_end(&clients[0]), b"");
    wait_until("it is reaped", || handle.stats().running == 1);
    assert_eq!(handle.stats().connections[0].number, 2);
    clients[1].shutdown(Shutdown::Write).unwrap();
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (1, 1));
}

fn closing_what_does_not_exist_is_false() {
    let gate = Gate::default();
    let leave = gate.clone();
    let server = ThreadingUdpServer::new(ANY_PORT, move |_: &mut DatagramRequest| leave.wait());
    let running = server.spawn().unwrap();
    let handle = running.handle();
    assert!(!handle.close_connection(0));
    assert!(!handle.close_connection(1));
    udp_client(running.server_address()).send(b"x").unwrap();
    wait_until("it runs", || handle.stats().running == 1);
    // A datagram has no connection.
    assert!(!handle.close_connection(1));
    gate.open();
    running.stop().unwrap();
}

fn a_handler_finds_itself_in_the_stats() {
    let server = ThreadingTcpServer::new(ANY_PORT, |request: &mut TcpRequest| -> Done {
        let handle = request.server().handle().unwrap();
        let number = request.server().number();
        let found = handle.stats().connections.into_iter().any(|one| one.number == number);
        // The last words of a handler that ends itself.
        write!(request, "{found}")?;
        assert!(handle.close_connection(number));
        assert_eq!(request.read(&mut [0])?, 0);
        Ok(())
    });
    let running = server.spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"true");
    assert_eq!(running.stop().unwrap().served, 1);
}

fn the_stats_outlive_the_server() {
    let server = ThreadingTcpServer::new(ANY_PORT, EchoLine).bind().unwrap();
    let handle = server.handle();
    let address = server.server_address();
    let stop = server.shutdown_handle();
    let serving = thread::spawn(move || server.serve_forever());
    exchange(&address);
    stop.shutdown();
    let report = serving.join().unwrap().unwrap();
    let stats = handle.stats();
    assert_eq!((stats.state, stats.served, report.served), (State::Closed, 1, 1));
    assert_eq!(stats.rejected_by(LimitKind::Connections), 0);
    assert!(!handle.close_connection(1));
    assert_eq!(handle.shutdown_handle().wait_timeout(CEILING), Ok(()));
}

//! Until when a server that ends waits for its requests, and what becomes of those that go on beyond.

mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use nix::sys::socket::{setsockopt, sockopt};
use socketserver::prelude::*;
use socketserver::{CountingObserver, Event, Force, Running, Tcp};
use support::accepting::Accepting;
use support::detached::InPlace;
use support::gate::Gate;
use support::journal::{Pen, journal};
use support::process::{Process, role, serve_as_role};
use support::talk::{ECHO_LINES, greet};
use support::unix::connect_unix;
use support::{
    CEILING, Lines, address_of_ones_own, connect, counts, exchange_line, logged, process_state, read_to_end, temp_path,
    udp_client, wait_until, wait_until_draining,
};

tests![
    roles: serves_a_handler_that_never_returns, serves_a_handler_that_asks_for_the_end_and_returns_late,
        serves_a_late_handler_in_the_background, serves_a_late_handler_until_sigusr1,
        serves_a_handler_that_writes_to_standard_error_for_ever, goes_on_beside_a_request_that_was_left_behind;
    once_a_second_the_drain_says_how_far_it_is,
    without_a_deadline_the_drain_says_how_many_are_left,
    a_sync_server_keeps_the_deadline_of_one_shutdown,
    a_sync_server_told_to_stop_before_it_serves_keeps_the_deadline,
    closing_a_sync_server_keeps_the_deadline,
    threads_that_accept_keep_the_deadline,
    one_of_threads_that_accept_keeps_the_deadline_when_another_has_nothing_to_do,
    a_pool_serves_its_queue_before_the_deadline,
    a_forking_server_tells_what_it_loses_at_the_deadline,
    a_sync_server_tells_what_it_loses_at_the_deadline,
    a_pool_tells_what_it_loses_at_the_deadline,
    a_report_of_the_network_is_no_request_that_is_lost_at_the_deadline,
    a_sync_tcp_server_tells_that_the_deadline_forced_its_request,
    what_a_mix_in_runs_on_the_loop_is_forced_at_the_deadline,
    what_a_mix_in_runs_in_the_parent_of_a_forking_server_is_forced_at_the_deadline,
    what_a_mix_in_runs_on_the_loop_of_a_worker_is_forced_at_the_deadline,
    a_sync_unix_server_tells_that_the_deadline_forced_its_request,
    a_sync_udp_server_tells_that_its_request_was_forced,
    what_has_the_number_of_an_ended_connection_by_then_is_left_alone,
    what_a_hook_holds_up_past_the_deadline_does_not_hold_up_threads_that_accept,
    what_a_hook_holds_up_past_the_deadline_does_not_hold_up_a_pool,
    what_a_hook_of_a_worker_holds_up_past_the_deadline_is_told,
    what_is_queued_for_a_pool_at_the_deadline_is_not_begun,
    a_job_that_is_run_after_the_end_is_not_begun,
    a_handler_of_a_sync_server_that_never_returns_ends_the_process,
    a_second_signal_ends_a_process_whose_handler_never_returns,
    a_late_handler_ends_no_process_that_no_signal_has_asked_to_end,
    a_late_handler_in_the_background_ends_no_process,
    a_late_handler_ends_no_process_at_a_signal_that_only_stops_the_server,
    a_request_that_was_left_behind_ends_no_process_at_a_signal_that_comes_after_the_server_has_ended,
    a_process_whose_handler_never_returns_ends_although_nobody_reads_what_it_says,
];

const ANY_PORT: &str = "127.0.0.1:0";

/// The lines that tell how far the drain is.
fn progress() -> Vec<String> {
    let mut lines = logged();
    lines.retain(|line| line.starts_with("INFO draining: "));
    lines
}

/// A client that has been accepted and says nothing keeps the drain waiting.
#[track_caller]
fn wait_for_progress(server: impl BaseServer, clients: usize, lines: usize) -> Vec<String> {
    let running = server.spawn().unwrap();
    let clients: Vec<_> = (0..clients).map(|_| connect(running.server_address())).collect();
    running.shutdown_handle().shutdown();
    wait_until("it says how far it is", || progress().len() >= lines);
    for client in clients {
        client.shutdown(Shutdown::Write).unwrap();
    }
    let report = running.join().unwrap();
    // Only whole seconds are told of.
    assert!(report.elapsed >= Duration::from_secs(lines as u64), "{report:?}");
    progress()
}

fn once_a_second_the_drain_says_how_far_it_is() {
    let server = ThreadingTcpServer::new(ANY_PORT, Lines).drain_timeout(Duration::from_mins(5));
    let lines = wait_for_progress(server, 2, 2);
    let seconds_left = |line: &String| -> u64 {
        let rest = line.strip_prefix("INFO draining: 2 connections, ").unwrap();
        rest.strip_suffix(" s left").unwrap().parse().unwrap()
    };
    let left: Vec<_> = lines.iter().map(seconds_left).collect();
    // A busy machine may have it miss a second.
    assert!(
        left[0] <= 299 && left.is_sorted_by(|before, after| before > after),
        "{left:?}"
    );
}

fn without_a_deadline_the_drain_says_how_many_are_left() {
    let server = ForkingTcpServer::new(ANY_PORT, Lines).drain_timeout(None);
    let lines = wait_for_progress(server, 1, 1);
    assert!(
        lines.iter().all(|line| line == "INFO draining: 1 connection"),
        "{lines:?}"
    );
}

/// The loop is busy with a client that says nothing, and nobody waits for the server.
fn a_sync_server_keeps_the_deadline_of_one_shutdown() {
    let begun = Gate::default();
    let gate = begun.clone();
    let server = TcpServer::new(ANY_PORT, move |request: &mut TcpRequest| {
        gate.open();
        Lines.handle(request)
    })
    .drain_timeout(Duration::from_millis(50))
    .bind()
    .unwrap();
    let (handle, address) = (server.shutdown_handle(), server.server_address());
    let serving = thread::spawn(move || server.serve_forever());
    let client = connect(&address);
    begun.wait();
    handle.shutdown();
    assert_eq!(read_to_end(client), b"");
    let report = serving.join().unwrap().unwrap();
    assert_eq!(counts(report), [1, 0, 0, 1, 0]);
    assert!(report.elapsed >= Duration::from_millis(50), "{report:?}");
}

/// What the kernel has queued of a client that says nothing is served when the server has been told already.
#[track_caller]
fn assert_ends_with_a_silent_client_queued(end: impl FnOnce(TcpServer<Lines>) -> Report) {
    let server = TcpServer::new(ANY_PORT, Lines).drain_timeout(Duration::from_millis(50));
    let server = server.bind().unwrap();
    let client = connect(&server.server_address());
    let silent = client.try_clone().unwrap();
    // Not for ever, if nobody keeps the deadline: then the report has the request as drained.
    let watch = thread::spawn(move || {
        silent.set_read_timeout(Some(CEILING)).unwrap();
        let end = (&silent).read(&mut [0]);
        let _ = silent.shutdown(Shutdown::Both);
        end
    });
    assert_eq!(counts(end(server)), [1, 0, 0, 1, 0]);
    assert_eq!(watch.join().unwrap().unwrap(), 0);
}

fn a_sync_server_told_to_stop_before_it_serves_keeps_the_deadline() {
    assert_ends_with_a_silent_client_queued(|server| {
        server.shutdown_handle().shutdown();
        server.serve_forever().unwrap()
    });
}

fn closing_a_sync_server_keeps_the_deadline() {
    assert_ends_with_a_silent_client_queued(|server| Arc::new(server).close().unwrap());
}

/// A server whose `threads` serve what they accept; the channel tells of each beginning.
fn accepting(threads: usize) -> (Running, Receiver<()>) {
    let (begun, beginnings) = channel();
    let handler = move |request: &mut TcpRequest| {
        begun.send(()).unwrap();
        Lines.handle(request)
    };
    let server = Accepting::over(TcpServer::new(ANY_PORT, handler), threads).drain_timeout(Duration::from_millis(50));
    (server.spawn().unwrap(), beginnings)
}

/// All threads are busy with clients that say nothing, the one that serves included.
fn threads_that_accept_keep_the_deadline() {
    let (running, beginnings) = accepting(3);
    let clients: Vec<_> = (0..3).map(|_| connect(running.server_address())).collect();
    for _ in &clients {
        beginnings.recv().unwrap();
    }
    running.shutdown_handle().shutdown();
    let report = running.join().unwrap();
    assert_eq!(counts(report), [3, 0, 0, 3, 0]);
}

/// The thread that has nothing to do any more when the server is told to stop waits for the other, and does nothing
/// else.
fn one_of_threads_that_accept_keeps_the_deadline_when_another_has_nothing_to_do() {
    let (running, beginnings) = accepting(2);
    let [first, second] = [(); 2].map(|()| {
        let client = connect(running.server_address());
        beginnings.recv().unwrap();
        client
    });
    drop(first);
    let handle = running.handle();
    wait_until("the first request has ended", || handle.stats().running == 1);
    running.shutdown_handle().shutdown();
    assert_eq!(read_to_end(second), b"");
    assert_eq!(counts(running.join().unwrap()), [2, 0, 0, 1, 0]);
}

fn a_pool_serves_its_queue_before_the_deadline() {
    let (begun, gate) = (Gate::default(), Gate::default());
    let gates = (begun.clone(), gate.clone());
    let running = ThreadPoolTcpServer::new(ANY_PORT, move |request: &mut TcpRequest| {
        gates.0.open();
        gates.1.wait();
        Lines.handle(request)
    })
    .workers(1)
    .queue_size(10)
    .spawn()
    .unwrap();
    let clients: Vec<_> = (0..10).map(|_| connect(running.server_address())).collect();
    for mut client in &clients {
        client.write_all(b"hello\n").unwrap();
    }
    begun.wait();
    running.shutdown_handle().shutdown();
    wait_until_draining(&running.shutdown_handle());
    gate.open();
    for client in clients {
        assert_eq!(read_to_end(client), b"hello\n");
    }
    assert_eq!(counts(running.join().unwrap()), [10, 0, 10, 0, 0]);
}

/// One at a time: a silent client keeps the only place, and another is queued.
#[track_caller]
fn assert_tells_what_it_loses(server: impl BaseServer, expected: [u64; 5]) {
    let running = server.drain_timeout(Duration::from_millis(50)).spawn().unwrap();
    let silent = connect(running.server_address());
    assert_eq!(exchange_line(&silent, ""), "welcome\n");
    let mut queued = connect(running.server_address());
    let report = running.stop().unwrap();
    assert_eq!(counts(report), expected);
    assert_eq!(read_to_end(silent), b"");
    assert_eq!(queued.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(logged().iter().any(|line| line == LOST), "{:?}", logged());
}

const LOST: &str = "WARN the time to drain is over: what was not accepted by now is lost";

fn a_forking_server_tells_what_it_loses_at_the_deadline() {
    assert_tells_what_it_loses(ForkingTcpServer::new(ANY_PORT, greet).max_children(1), [0, 1, 0, 1, 0]);
}

fn a_sync_server_tells_what_it_loses_at_the_deadline() {
    assert_tells_what_it_loses(TcpServer::new(ANY_PORT, greet), [1, 0, 0, 1, 0]);
}

fn a_pool_tells_what_it_loses_at_the_deadline() {
    let server = ThreadPoolTcpServer::new(ANY_PORT, greet).workers(1).queue_size(0);
    assert_tells_what_it_loses(server, [1, 0, 0, 1, 0]);
}

// With IP_RECVERR what the network has said of a datagram waits at the socket, too (POLLERR, ip(7)).
fn a_report_of_the_network_is_no_request_that_is_lost_at_the_deadline() {
    let gone = UdpSocket::bind(address_of_ones_own()).unwrap().local_addr().unwrap();
    let (begun, leave) = (Gate::default(), Gate::default());
    let gates = (begun.clone(), leave.clone());
    let server = UdpServer::new(ANY_PORT, move |request: &mut DatagramRequest| {
        request.send_to("anybody there?", &gone.into())?;
        gates.0.open();
        gates.1.wait();
        HandlerResult::Ok(())
    });
    let running = server
        .before_bind(|socket: BorrowedFd<'_>| Ok(setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?))
        .drain_timeout(Duration::ZERO)
        .spawn()
        .unwrap();
    udp_client(running.server_address()).send(b"hello").unwrap();
    begun.wait();
    running.shutdown_handle().shutdown();
    leave.open();
    assert_eq!(running.join().unwrap().served, 1);
    assert!(!logged().iter().any(|line| line == LOST), "{:?}", logged());
}

#[track_caller]
fn assert_told_of_one_forced(report: Report) {
    assert_eq!(counts(report), [1, 0, 0, 1, 0]);
    let mut told = logged();
    told.retain(|line| line.contains("did not end in time"));
    assert_eq!(told, ["WARN 1 request did not end in time: shutting its socket down"]);
}

#[track_caller]
fn assert_forces_its_request(server: impl BaseServer) {
    let running = server.drain_timeout(Duration::from_millis(50)).spawn().unwrap();
    let client = connect(running.server_address());
    assert_eq!(exchange_line(&client, ""), "welcome\n");
    assert_told_of_one_forced(running.stop().unwrap());
}

fn a_sync_tcp_server_tells_that_the_deadline_forced_its_request() {
    assert_forces_its_request(TcpServer::new(ANY_PORT, greet));
}

// Nobody else can: the thread that would drain runs it.
fn what_a_mix_in_runs_on_the_loop_is_forced_at_the_deadline() {
    assert_forces_its_request(InPlace(TcpServer::new(ANY_PORT, greet)));
}

fn what_a_mix_in_runs_in_the_parent_of_a_forking_server_is_forced_at_the_deadline() {
    assert_forces_its_request(InPlace(ForkingTcpServer::new(ANY_PORT, greet)));
}

fn what_a_mix_in_runs_on_the_loop_of_a_worker_is_forced_at_the_deadline() {
    assert_forces_its_request(InPlace(TcpServer::new(ANY_PORT, greet)).prefork().workers(1));
}

fn a_sync_unix_server_tells_that_the_deadline_forced_its_request() {
    let place = temp_path("socket");
    let server = UnixStreamServer::new(&place.path, |request: &mut UnixStreamRequest| {
        request.write_all(b"welcome\n")?;
        io::copy(request, &mut io::sink()).map(drop)
    });
    let running = server.drain_timeout(Duration::from_millis(50)).spawn().unwrap();
    let client = connect_unix(running.server_address());
    assert_eq!(exchange_line(&client, ""), "welcome\n");
    assert_told_of_one_forced(running.stop().unwrap());
}

/// Nothing ends it: its handler goes on to the end.
fn a_sync_udp_server_tells_that_its_request_was_forced() {
    let (begun, leave) = (Gate::default(), Gate::default());
    let gates = (begun.clone(), leave.clone());
    let server = UdpServer::new(ANY_PORT, move |_: &mut DatagramRequest| {
        gates.0.open();
        gates.1.wait();
    });
    let running = server.shutdown_on_signals([signal::SIGUSR1]).spawn().unwrap();
    udp_client(running.server_address()).send(b"hello").unwrap();
    begun.wait();
    // Each has been taken when the call returns.
    for _ in 0..2 {
        raise(Signal::SIGUSR1).unwrap();
    }
    leave.open();
    assert_told_of_one_forced(running.join().unwrap());
}

fn serves_a_handler_that_never_returns() {
    let handler = |request: &mut TcpRequest| -> HandlerResult {
        request.write_all(b"begun\n")?;
        loop {
            thread::park();
        }
    };
    let timeout = std::env::var("DRAIN_MILLIS")
        .unwrap()
        .parse()
        .map(Duration::from_millis);
    serve_as_role(TcpServer::new(ANY_PORT, handler).drain_timeout(timeout.ok()));
}

/// Signals a server whose handler never returns, and has begun; it ends within moments of a second.
#[track_caller]
fn assert_exits(drain_millis: &str, signals: &[Signal]) {
    let mut command = role("serves_a_handler_that_never_returns");
    let process = Process::start(command.env("DRAIN_MILLIS", drain_millis));
    let client = TcpStream::connect(process.address()).unwrap();
    assert_eq!(exchange_line(&client, ""), "begun\n");
    for signal in signals {
        process.signal(*signal);
    }
    let ended = process.end();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(
        ended
            .errors
            .ends_with("a request did not end although its socket was shut down; exiting\n"),
        "{ended:?}"
    );
}

/// Served by the very thread that drains, so signal handlers and other threads know its socket by the number.
fn what_has_the_number_of_an_ended_connection_by_then_is_left_alone() {
    let (numbers, told) = channel();
    let handler = move |request: &mut TcpRequest| -> io::Result<()> {
        numbers.send(request.get_ref().as_raw_fd()).map_err(io::Error::other)?;
        ECHO_LINES(request)
    };
    let server = TcpServer::new(ANY_PORT, handler).drain_timeout(Duration::from_millis(50));
    // It does not wait in accept(2), which would have the next number already.
    let running = server.poll_interval(CEILING).spawn().unwrap();
    let ended = connect(running.server_address());
    let number = told.recv().unwrap();
    ended.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&ended), b"");
    wait_until("it has ended", || running.handle().stats().served == 1);
    // The lowest number that is free is the next.
    let others: Vec<_> = (0..100).map(|_| UnixStream::pair().unwrap()).collect();
    let both_ways = others.iter().flat_map(|(one, other)| [(one, other), (other, one)]);
    let has_the_number = |(one, _): &(&UnixStream, &UnixStream)| one.as_raw_fd() == number;
    let (mut with_the_number, mut peer) = both_ways.into_iter().find(has_the_number).unwrap();
    let stays = connect(running.server_address());
    told.recv().unwrap();
    (&stays).write_all(b"hel").unwrap();
    assert_eq!(counts(running.stop().unwrap())[3..], [1, 0]);
    let mut answer = [0; 3];
    peer.write_all(b"one").unwrap();
    with_the_number.read_exact(&mut answer).unwrap();
    with_the_number.write_all(b"two").unwrap();
    peer.read_exact(&mut answer).unwrap();
}

/// Waits for the end of its client, and says that it has begun.
fn wait_for_the_end(begun: &Sender<()>) -> impl BaseRequestHandler<TcpRequest> + use<> {
    let begun = begun.clone();
    move |request: &mut TcpRequest| -> HandlerResult {
        begun.send(())?;
        io::copy(request, &mut io::sink())?;
        Ok(())
    }
}

fn what_is_queued_for_a_pool_at_the_deadline_is_not_begun() {
    let (begun, begins) = channel();
    let server = ThreadPoolTcpServer::new(ANY_PORT, wait_for_the_end(&begun)).workers(1);
    let observer = Arc::new(CountingObserver::default());
    let server = server.queue_size(2).drain_timeout(Duration::ZERO);
    let running = server.observer(observer.clone()).spawn().unwrap();
    let handle = running.handle();
    let clients = [(); 3].map(|()| connect(running.server_address()));
    begins.recv_timeout(CEILING).unwrap();
    wait_until("two are queued", || handle.stats().running == 3);
    assert_eq!(counts(running.stop().unwrap()), [1, 2, 0, 3, 0]);
    assert_eq!(begins.try_iter().count(), 0);
    for client in clients {
        assert_eq!(read_to_end(client), b"");
    }
    let told = observer.counts();
    assert_eq!((told.started, told.served, told.dropped), (3, 1, 2), "{told:?}");
}

/// Keeps all jobs.
struct Keeping<S: BaseServer> {
    inner: S,
    kept: Sender<Job<S::Transport>>,
}

impl<S: BaseServer> BaseServer for Keeping<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn process_request(&self, job: Job<S::Transport>) {
        self.kept.send(job).unwrap();
    }
}

fn a_job_that_is_run_after_the_end_is_not_begun() {
    let ((begun, begins), (kept, jobs)) = (channel(), channel());
    let inner = ThreadingTcpServer::new(ANY_PORT, wait_for_the_end(&begun));
    let running = Keeping { inner, kept }.drain_timeout(Duration::ZERO).spawn().unwrap();
    let handle = running.handle();
    let client = connect(running.server_address());
    let job = jobs.recv_timeout(CEILING).unwrap();
    assert_eq!(counts(running.stop().unwrap()), [0, 0, 0, 1, 1]);
    assert!(!job.run());
    assert_eq!(begins.try_iter().count(), 0);
    assert_eq!(read_to_end(client), b"");
    let stats = handle.stats();
    assert_eq!((stats.started, stats.failed, stats.running), (1, 1, 0));
}

fn a_handler_of_a_sync_server_that_never_returns_ends_the_process() {
    assert_exits("100", &[Signal::SIGTERM]);
}

fn a_second_signal_ends_a_process_whose_handler_never_returns() {
    // Two of one kind that are pending at once would be one.
    assert_exits("for ever", &[Signal::SIGTERM, Signal::SIGINT]);
}

/// A server whose handler does this and ends later than a process that a signal had asked would be ended.
fn late(begin: fn(&mut TcpRequest) -> io::Result<()>) -> TcpServer<impl BaseRequestHandler<TcpRequest>> {
    let handler = move |request: &mut TcpRequest| -> HandlerResult {
        begin(request)?;
        request.read_to_end(&mut Vec::new())?;
        thread::sleep(Duration::from_millis(1500));
        Ok(())
    };
    TcpServer::new(ANY_PORT, handler).drain_timeout(Duration::ZERO)
}

fn serves_a_handler_that_asks_for_the_end_and_returns_late() {
    serve_as_role(late(|request| {
        request.server().shutdown();
        Ok(())
    }));
}

/// What the program does after serving is its own matter.
fn a_late_handler_ends_no_process_that_no_signal_has_asked_to_end() {
    let process = Process::start(&mut role("serves_a_handler_that_asks_for_the_end_and_returns_late"));
    let client = TcpStream::connect(process.address()).unwrap();
    let ended = process.end();
    drop(client);
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

fn tell_begun(request: &mut TcpRequest) -> io::Result<()> {
    request.write_all(b"begun\n")
}

fn serves_a_late_handler_in_the_background() {
    let running = late(tell_begun).shutdown_on_signals([signal::SIGTERM]).spawn().unwrap();
    println!("listening on {}", running.server_address());
    running.join().unwrap();
}

fn serves_a_late_handler_until_sigusr1() {
    serve_as_role(late(tell_begun).shutdown_on_signals([signal::SIGUSR1]));
}

#[track_caller]
fn assert_ends_by_itself(role_name: &str, signal: Signal) {
    let process = Process::start(&mut role(role_name));
    let client = TcpStream::connect(process.address()).unwrap();
    assert_eq!(exchange_line(&client, ""), "begun\n");
    process.signal(signal);
    let ended = process.end();
    drop(client);
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

/// The program has a main thread that goes on.
fn a_late_handler_in_the_background_ends_no_process() {
    assert_ends_by_itself("serves_a_late_handler_in_the_background", Signal::SIGTERM);
}

fn a_late_handler_ends_no_process_at_a_signal_that_only_stops_the_server() {
    assert_ends_by_itself("serves_a_late_handler_until_sigusr1", Signal::SIGUSR1);
}

/// A strategy of a user's: each request on a thread of its own, as the bare server serves it.
struct Aside<S>(Arc<S>);

impl<S: BaseServer> BaseServer for Aside<S> {
    type Transport = S::Transport;
    type Inner = S;
    const CONCURRENCY: Concurrency = Concurrency::Threads;

    fn inner(&self) -> &S {
        &self.0
    }

    fn process_request(&self, job: Job<S::Transport>) {
        let inner = Arc::clone(&self.0);
        thread::spawn(move || inner.process_request(job));
    }
}

fn goes_on_beside_a_request_that_was_left_behind() {
    let handler = |request: &mut TcpRequest| -> HandlerResult {
        request.server().shutdown();
        loop {
            thread::park();
        }
    };
    let server = TcpServer::new(ANY_PORT, handler).drain_timeout(Duration::ZERO);
    serve_as_role(Aside(Arc::new(server)));
    // To a server that still listened, the first would ask for the end of the process, and the second say that it is
    // due.
    for signal in [Signal::SIGTERM, Signal::SIGURG] {
        raise(signal).unwrap();
    }
    println!("goes on");
}

fn a_request_that_was_left_behind_ends_no_process_at_a_signal_that_comes_after_the_server_has_ended() {
    let process = Process::start(&mut role("goes_on_beside_a_request_that_was_left_behind"));
    let _client = TcpStream::connect(process.address()).unwrap();
    let ended = process.end();
    let output = "stopped: served=0 failed=0 drained=0 forced=1 leaked=1\ngoes on\n";
    assert_eq!(ended.output, output, "{ended:?}");
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

fn serves_a_handler_that_writes_to_standard_error_for_ever() {
    let handler = |request: &mut TcpRequest| -> HandlerResult {
        request.write_all(b"begun\n")?;
        loop {
            io::stderr().write_all(b"x")?;
        }
    };
    serve_as_role(TcpServer::new(ANY_PORT, handler).drain_timeout(Duration::ZERO));
}

fn a_process_whose_handler_never_returns_ends_although_nobody_reads_what_it_says() {
    let process = Process::start(&mut role("serves_a_handler_that_writes_to_standard_error_for_ever"));
    let client = TcpStream::connect(process.address()).unwrap();
    assert_eq!(exchange_line(&client, ""), "begun\n");
    wait_until("the pipe is full", || {
        process_state(process.id()).as_deref() == Some("S")
    });
    process.signal(Signal::SIGTERM);
    let ended = process.end();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.output);
}

/// Verifies nobody before the server closes.
struct Hesitant<S> {
    inner: S,
    verifies: Gate,
    closes: Gate,
}

impl<S: BaseServer> BaseServer for Hesitant<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn verify_request(&self, request: &RequestOf<Self>, client_address: &Address) -> bool {
        self.verifies.open();
        self.closes.wait();
        self.inner.verify_request(request, client_address)
    }

    fn server_close(&self) {
        self.closes.open();
        self.inner.server_close();
    }
}

#[track_caller]
fn assert_holds_nobody_up<S: BaseServer<Transport = Tcp>>(make: impl FnOnce(fn(&mut TcpRequest)) -> S) {
    let (verifies, closes) = (Gate::default(), Gate::default());
    let running = Hesitant {
        inner: make(|_| panic!("it is not begun any more")),
        verifies: verifies.clone(),
        closes,
    };
    let observer = Arc::new(CountingObserver::default());
    let running = running.drain_timeout(Duration::ZERO).observer(observer.clone());
    let running = running.spawn().unwrap();
    let silent = connect(running.server_address());
    verifies.wait();
    assert_eq!(counts(running.stop().unwrap()), [0, 1, 0, 1, 0]);
    assert_eq!(read_to_end(silent), b"");
    let told = observer.counts();
    assert_eq!((told.started, told.dropped, told.running), (1, 1, 0), "{told:?}");
    assert!(logged().iter().all(|line| !line.starts_with("ERROR")), "{:?}", logged());
}

fn what_a_hook_holds_up_past_the_deadline_does_not_hold_up_threads_that_accept() {
    assert_holds_nobody_up(|handler| ThreadingTcpServer::new(ANY_PORT, handler));
}

fn what_a_hook_holds_up_past_the_deadline_does_not_hold_up_a_pool() {
    assert_holds_nobody_up(|handler| ThreadPoolTcpServer::new(ANY_PORT, handler));
}

/// Verifies nobody before the patience is over.
struct Overdue<S> {
    inner: S,
    pen: Pen,
    patience_is_over: Gate,
}

impl<S: BaseServer> BaseServer for Overdue<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn verify_request(&self, request: &RequestOf<Self>, client_address: &Address) -> bool {
        self.pen.note("verifies");
        self.patience_is_over.wait();
        self.inner.verify_request(request, client_address)
    }

    fn terminate_requests(&self, force: Force) {
        self.patience_is_over.open();
        self.inner.terminate_requests(force);
    }
}

#[track_caller]
fn assert_tells_of_what_came_too_late<S: BaseServer<Transport = Tcp>>(make: impl FnOnce(fn(&mut TcpRequest)) -> S) {
    let (journal, pen) = journal();
    let observer = pen.clone();
    let inner = make(|_| panic!("it is not begun any more")).drain_timeout(Duration::ZERO);
    let inner = inner.observer(move |event: &Event<'_>| match event {
        Event::Accepted { .. } => observer.note("accepted"),
        Event::Started { .. } => observer.note("started"),
        Event::Finished { outcome, .. } => observer.note(outcome),
        _ => {}
    });
    let server = Overdue {
        inner,
        pen,
        patience_is_over: Gate::default(),
    };
    let running = server.prefork().workers(1).spawn().unwrap();
    let silent = connect(running.server_address());
    journal.wait_for("verifies");
    assert_eq!(counts(running.stop().unwrap()), [0, 1, 0, 1, 0]);
    assert_eq!(read_to_end(silent), b"");
    assert_eq!(journal.events(), ["accepted", "verifies", "started", "dropped"]);
}

/// Nobody joins the threads of a worker, which ends with its process.
fn what_a_hook_of_a_worker_holds_up_past_the_deadline_is_told() {
    assert_tells_of_what_came_too_late(|handler| ThreadingTcpServer::new(ANY_PORT, handler));
    assert_tells_of_what_came_too_late(|handler| ThreadPoolTcpServer::new(ANY_PORT, handler).workers(2));
}

//! From making a server to its end: CPython's life-cycle tests, and what its users asked for.

mod support;

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::{ExitCode, Termination};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::unistd::Pid;
use socketserver::prelude::*;
use socketserver::{Acceptor, Handled, Running, State, WaitError};
use support::gate::Gate;
use support::interrupt::OnSignal;
use support::rest::without_rest;
use support::waited::Waited;
use support::{
    CEILING, EchoLine, Holdings, address_of_ones_own, connect, exchange_line, inet, logged, read_to_end, sockets,
    threads, udp_client, unread, wait_until, wait_until_accepted, wait_until_draining,
};

tests![
    twenty_servers_shut_down_before_their_loops_may_have_begun_all_end,
    a_threading_server_that_never_served_can_be_closed,
    a_thread_pool_that_never_served_can_be_closed,
    a_server_that_was_never_bound_can_be_closed,
    a_thousand_failed_binds_leak_no_descriptor,
    leaving_the_scope_closes_the_socket,
    a_dropped_server_is_closed_for_those_who_wait,
    a_server_that_cannot_be_bound_is_closed_for_those_who_wait,
    the_states_follow_one_another,
    bound_twice_is_bound_once,
    the_attributes_have_their_documented_defaults,
    an_attribute_reaches_through_the_stack,
    several_servers_share_a_port_that_allows_reuse,
    shutdown_before_serving_ends_the_loop_as_it_starts,
    shutdown_twice_is_shutdown_once,
    shutdown_from_another_thread_ends_the_loop,
    shutdown_from_a_request_handler_ends_a_sync_server,
    shutdown_from_a_raw_signal_handler_ends_the_loop,
    shutdown_after_the_end_does_nothing,
    a_signal_that_is_asked_for_twice_is_listened_to_once,
    one_signal_ends_all_the_servers_of_a_program,
    a_signal_after_the_end_of_a_server_is_left_to_the_program,
    listening_to_signals_takes_no_thread,
    idle_servers_end_at_once,
    idle_servers_without_patience_end_without_a_spin,
    waiting_in_a_sync_handler_is_a_deadlock,
    waiting_in_a_threading_handler_is_a_deadlock,
    waiting_in_a_pool_handler_is_a_deadlock,
    waiting_in_a_hook_of_the_loop_is_a_deadlock,
    waiting_in_a_hook_of_binding_is_a_deadlock,
    waiting_in_process_request_is_a_deadlock_whoever_accepts,
    waiting_as_a_job_is_dropped_is_a_deadlock,
    waiting_in_a_handler_of_a_server_inside_is_a_deadlock,
    a_guard_stopped_in_a_handler_of_its_server_is_a_deadlock_and_stops_it,
    a_guard_joined_in_a_handler_of_its_server_is_a_deadlock_and_stops_it,
    a_guard_dropped_in_a_handler_of_its_server_stops_it_and_does_not_wait,
    waiting_with_a_timeout_says_when_it_is_over,
    waiting_from_another_thread_ends_with_the_server,
    waiting_on_the_serving_thread_after_the_end_returns,
    what_the_kernel_had_queued_is_served_before_the_end,
    what_a_small_queue_had_taken_is_served_before_the_end,
    after_shutdown_nobody_can_connect,
    a_closed_server_has_given_its_address_up,
    whoever_waited_for_the_end_can_have_the_address,
    a_tcp_address_can_be_served_again_right_after_the_end,
    a_udp_address_can_be_served_again_right_after_the_end,
    a_threading_udp_server_is_gone_when_serve_forever_returns,
    a_thread_pool_udp_server_is_gone_when_serve_forever_returns,
    requests_in_progress_end_before_a_threading_server_does,
    requests_in_progress_end_before_a_thread_pool_does,
    a_handler_sees_that_the_server_drains,
    the_report_counts_each_request_once,
    a_report_is_the_success_of_main_unless_a_request_was_left_behind,
    forcing_a_threading_server_spares_descriptors_that_are_somebody_elses_by_now,
    forcing_a_pool_spares_descriptors_that_are_somebody_elses_by_now,
    a_request_forced_to_end_is_counted_as_forced,
    a_request_of_a_sync_server_forced_to_end_is_counted_as_forced,
    a_drain_timeout_of_zero_forces_at_once,
    a_request_that_cannot_be_ended_is_left_behind_and_reported,
    a_pool_leaves_a_request_behind_that_cannot_be_ended,
    the_threads_of_a_server_end_before_it_has_stopped,
    without_a_drain_timeout_the_server_waits,
    a_sync_server_stuck_with_a_silent_client_can_be_dropped,
    a_sync_server_stuck_where_every_thread_blocks_its_signal_can_be_stopped,
    a_threading_server_stuck_with_a_silent_client_can_be_dropped,
    a_thread_pool_stuck_with_a_silent_client_can_be_dropped,
    a_guard_whose_thread_panicked_can_be_dropped,
    a_guard_that_is_waited_with_panics_as_its_thread_did,
    a_guard_leaves_a_sync_server_behind_whose_handler_never_returns,
    a_guard_can_wait_for_a_server_that_something_else_stops,
    threads_are_reaped_as_they_end,
];

type Done = io::Result<()>;

fn do_nothing(_: &mut TcpRequest) {}

/// Says that it has begun, then reads until its client closes.
#[derive(Clone, Default)]
struct ReadAll {
    begun: Gate,
}

impl BaseRequestHandler<TcpRequest> for ReadAll {
    fn handle(&mut self, request: &mut TcpRequest) -> HandlerResult {
        self.begun.open();
        io::copy(request, &mut io::sink())?;
        Ok(())
    }
}

/// Starts a server of [`ReadAll`], and lets a silent client connect to it.
fn with_a_silent_client<S: BaseServer>(make: impl FnOnce(ReadAll) -> S) -> (Running, TcpStream) {
    let handler = ReadAll::default();
    let begun = handler.begun.clone();
    let running = make(handler).spawn().unwrap();
    let client = connect(running.server_address());
    begun.wait();
    (running, client)
}

// test_shutdown, bpo-2302
fn twenty_servers_shut_down_before_their_loops_may_have_begun_all_end() {
    let running: Vec<_> = (0..20)
        .map(|_| {
            let server = TcpServer::new("127.0.0.1:0", EchoLine).bind().unwrap();
            let handle = server.shutdown_handle();
            let serving = thread::spawn(move || server.serve_forever());
            handle.shutdown();
            serving
        })
        .collect();
    for serving in running {
        assert_eq!(serving.join().unwrap().unwrap().served, 0);
    }
}

// test_close_immediately
fn a_threading_server_that_never_served_can_be_closed() {
    let server = Arc::new(ThreadingTcpServer::new("127.0.0.1:0", EchoLine).bind().unwrap());
    assert_eq!(server.close().unwrap().served, 0);
    assert_eq!(server.shutdown_handle().state(), State::Closed);
}

fn a_thread_pool_that_never_served_can_be_closed() {
    let server = Arc::new(ThreadPoolTcpServer::new("127.0.0.1:0", EchoLine).bind().unwrap());
    assert_eq!(server.close().unwrap().served, 0);
    assert_eq!(server.shutdown_handle().state(), State::Closed);
}

fn a_server_that_was_never_bound_can_be_closed() {
    fn check<S: BaseServer>(server: S) {
        let server = Arc::new(server);
        assert_eq!(server.close().unwrap().served, 0);
        assert_eq!(server.shutdown_handle().state(), State::Closed);
    }
    let new = || TcpServer::new("127.0.0.1:0", EchoLine);
    check(new());
    check(new().threading());
    check(new().thread_pool());
    check(new().forking());
    check(new().prefork());
}

// test_tcpserver_bind_leak, bpo-22435: a port is a u16 here, so an address in use takes the place of port -1.
fn a_thousand_failed_binds_leak_no_descriptor() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let before = Holdings::now();
    for _ in 0..1024 {
        let error = TcpServer::new(taken.local_addr().unwrap(), EchoLine)
            .bind()
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
    assert_eq!(Holdings::now(), before);
}

// test_context_manager
fn leaving_the_scope_closes_the_socket() {
    let before = Holdings::now();
    let address = {
        let server = TcpServer::new(address_of_ones_own(), EchoLine).bind().unwrap();
        assert_ne!(Holdings::now(), before);
        inet(&server.server_address())
    };
    assert_eq!(Holdings::now(), before);
    assert_eq!(
        TcpStream::connect(address).unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );
}

fn a_dropped_server_is_closed_for_those_who_wait() {
    let server = TcpServer::new("127.0.0.1:0", EchoLine).bind().unwrap();
    let handle = server.shutdown_handle();
    drop(server);
    assert_eq!(handle.wait_timeout(CEILING), Ok(()));
    assert_eq!(handle.state(), State::Closed);
}

fn a_server_that_cannot_be_bound_is_closed_for_those_who_wait() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = TcpServer::new(taken.local_addr().unwrap(), EchoLine);
    let handle = server.shutdown_handle();
    assert!(server.serve_forever().is_err());
    assert_eq!(handle.wait_timeout(CEILING), Ok(()));
}

fn the_states_follow_one_another() {
    let (begun, leave) = (Gate::default(), Gate::default());
    let gates = (begun.clone(), leave.clone());
    let server = ThreadingTcpServer::new("127.0.0.1:0", move |_: &mut TcpRequest| {
        gates.0.open();
        gates.1.wait();
    });
    let handle = server.shutdown_handle();
    assert_eq!(handle.state(), State::New);
    let server = server.bind().unwrap();
    assert_eq!(handle.state(), State::Bound);
    let running = server.spawn().unwrap();
    let _client = connect(running.server_address());
    begun.wait();
    assert_eq!(handle.state(), State::Serving);
    handle.shutdown();
    wait_until_draining(&handle);
    leave.open();
    running.join().unwrap();
    assert_eq!(handle.state(), State::Closed);
}

fn bound_twice_is_bound_once() {
    let server = TcpServer::new("127.0.0.1:0", EchoLine).bind().unwrap();
    let address = server.server_address();
    let before = Holdings::now();
    let server = server.bind().unwrap();
    assert_eq!((server.server_address(), Holdings::now()), (address, before));
}

fn the_attributes_have_their_documented_defaults() {
    let config = TcpServer::new("127.0.0.1:0", do_nothing).config();
    assert_eq!(config.timeout, None);
    assert_eq!(config.poll_interval, None);
    assert_eq!(config.request_queue_size, 4096);
    assert!(config.allow_reuse_address);
    assert!(!config.allow_reuse_port);
    assert_eq!(config.max_packet_size, 65_535);
    assert_eq!(config.drain_timeout, Some(Duration::from_secs(30)));
    // max_children, as Python's.
    assert_eq!(ForkingTcpServer::new("127.0.0.1:0", do_nothing).capacity().max(), 40);
}

fn an_attribute_reaches_through_the_stack() {
    let server = ThreadPoolTcpServer::new("127.0.0.1:0", do_nothing)
        .timeout(Duration::from_secs(1))
        .poll_interval(Duration::from_secs(2))
        .request_queue_size(3)
        .allow_reuse_address(false)
        .max_packet_size(4)
        .drain_timeout(Duration::from_secs(5));
    let config = server.inner().config();
    assert_eq!(config.timeout, Some(Duration::from_secs(1)));
    assert_eq!(config.poll_interval, Some(Duration::from_secs(2)));
    assert_eq!(config.request_queue_size, 3);
    assert!(!config.allow_reuse_address);
    assert_eq!(config.max_packet_size, 4);
    assert_eq!(config.drain_timeout, Some(Duration::from_secs(5)));
}

// bpo-16594
fn several_servers_share_a_port_that_allows_reuse() {
    let first = TcpServer::new("127.0.0.1:0", do_nothing)
        .allow_reuse_port(true)
        .bind()
        .unwrap();
    let second = TcpServer::new(first.server_address(), do_nothing);
    let error = second.bind().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    let second = TcpServer::new(first.server_address(), do_nothing)
        .allow_reuse_port(true)
        .bind()
        .unwrap();
    assert_eq!(second.server_address(), first.server_address());
}

// gh-79475: in CPython it blocks until a loop starts.
fn shutdown_before_serving_ends_the_loop_as_it_starts() {
    let server = TcpServer::new("127.0.0.1:0", EchoLine);
    server.shutdown();
    assert_eq!(server.serve_forever().unwrap().served, 0);
}

fn shutdown_twice_is_shutdown_once() {
    let running = TcpServer::new("127.0.0.1:0", EchoLine).spawn().unwrap();
    assert_eq!(exchange_line(connect(running.server_address()), "one\n"), "one\n");
    running.shutdown_handle().shutdown();
    running.shutdown_handle().shutdown();
    let report = running.join().unwrap();
    assert_eq!((report.served, report.forced), (1, 0));
}

fn shutdown_from_another_thread_ends_the_loop() {
    let server = TcpServer::new("127.0.0.1:0", EchoLine);
    let handle = server.shutdown_handle();
    let other = thread::spawn(move || {
        wait_until("it serves", || handle.state() == State::Serving);
        handle.shutdown();
    });
    assert_eq!(server.serve_forever().unwrap().served, 0);
    other.join().unwrap();
}

// gh-83978: in CPython it hangs for ever.
fn shutdown_from_a_request_handler_ends_a_sync_server() {
    let running = TcpServer::new("127.0.0.1:0", |request: &mut TcpRequest| {
        request.server().shutdown();
        request.write_all(b"bye\n")
    })
    .spawn()
    .unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"bye\n");
    assert_eq!(running.join().unwrap().served, 1);
}

fn shutdown_from_a_raw_signal_handler_ends_the_loop() {
    let server = ThreadingTcpServer::new("127.0.0.1:0", EchoLine);
    let (handle, in_handler) = (server.shutdown_handle(), server.shutdown_handle());
    let _action = OnSignal::new(Signal::SIGUSR2, move || in_handler.shutdown());
    let other = thread::spawn(move || {
        wait_until("it serves", || handle.state() == State::Serving);
        kill(Pid::this(), Signal::SIGUSR2).unwrap();
    });
    assert_eq!(server.serve_forever().unwrap().served, 0);
    other.join().unwrap();
}

fn shutdown_after_the_end_does_nothing() {
    let running = TcpServer::new("127.0.0.1:0", EchoLine).spawn().unwrap();
    let handle = running.shutdown_handle();
    running.stop().unwrap();
    handle.shutdown();
    assert_eq!((handle.state(), handle.wait()), (State::Closed, Ok(())));
}

/// Raises SIGUSR2, which does nothing to this process but what servers listen for.
fn raise_sigusr2() {
    nix::sys::signal::raise(Signal::SIGUSR2).unwrap();
}

// Taken for a second signal, it would end the request at once.
fn a_signal_that_is_asked_for_twice_is_listened_to_once() {
    let (running, client) = with_a_silent_client(|handler| {
        ThreadingTcpServer::new("127.0.0.1:0", handler)
            .shutdown_on_signals([signal::SIGUSR2, signal::SIGUSR2])
            .shutdown_on_signals([signal::SIGUSR2])
    });
    let handle = running.shutdown_handle();
    raise_sigusr2();
    wait_until_draining(&handle);
    assert_eq!(handle.wait_timeout(Duration::from_millis(20)), Err(WaitError::TimedOut));
    drop(client);
    let report = running.join().unwrap();
    assert_eq!((report.served, report.drained, report.forced), (1, 1, 0));
}

fn one_signal_ends_all_the_servers_of_a_program() {
    let spawn = || {
        let server = TcpServer::new("127.0.0.1:0", EchoLine).shutdown_on_signals([signal::SIGUSR2]);
        server.spawn().unwrap()
    };
    let running = [spawn(), spawn(), spawn()];
    raise_sigusr2();
    for server in running {
        assert_eq!(server.join().unwrap().served, 0);
    }
}

fn a_signal_after_the_end_of_a_server_is_left_to_the_program() {
    let seen = Arc::<AtomicUsize>::default();
    let in_handler = Arc::clone(&seen);
    let _action = OnSignal::new(Signal::SIGUSR2, move || {
        in_handler.fetch_add(1, Ordering::SeqCst);
    });
    let server = TcpServer::new("127.0.0.1:0", EchoLine).shutdown_on_signals([signal::SIGUSR2]);
    let running = server.spawn().unwrap();
    raise_sigusr2();
    running.join().unwrap();
    raise_sigusr2();
    assert_eq!(seen.load(Ordering::SeqCst), 2, "beside a server, and without one");
}

// A forking server would have to warn of it.
fn listening_to_signals_takes_no_thread() {
    let before = threads();
    let server = ForkingTcpServer::new("127.0.0.1:0", EchoLine);
    let server = server.shutdown_on_signals([signal::SIGINT, signal::SIGTERM]);
    let _server = server.bind().unwrap();
    assert_eq!(threads(), before);
}

// CPython takes 221 to 491 ms, with its interval of half a second [measured].
fn idle_servers_end_at_once() {
    for _ in 0..20 {
        let running = ThreadingTcpServer::new("127.0.0.1:0", EchoLine).spawn().unwrap();
        let handle = running.shutdown_handle();
        wait_until("it serves", || handle.state() == State::Serving);
        without_rest(|| running.stop().unwrap());
    }
}

// The threads that sleep in accept(2) hear of the end and of the deadline at the same time.
fn idle_servers_without_patience_end_without_a_spin() {
    end_without_a_spin(|| TcpServer::new("127.0.0.1:0", EchoLine).drain_timeout(Duration::ZERO));
    end_without_a_spin(|| ThreadingTcpServer::new("127.0.0.1:0", EchoLine).drain_timeout(Duration::ZERO));
    end_without_a_spin(|| ThreadPoolTcpServer::new("127.0.0.1:0", EchoLine).drain_timeout(Duration::ZERO));
}

#[track_caller]
fn end_without_a_spin<S: BaseServer>(make: impl Fn() -> S) {
    let running = make().spawn().unwrap();
    // More than one thread may accept from now on.
    for _ in 0..2 {
        assert_eq!(exchange_line(connect(running.server_address()), "hello\n"), "hello\n");
    }
    let before = processor_ticks();
    running.stop().unwrap();
    let spent = processor_ticks() - before;
    assert!(spent < 30, "{spent} ticks of 10 ms");
}

/// What this process has had of the processors (`utime` and `stime`, proc(5)), which no busy machine changes.
fn processor_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    [fields[11], fields[12]]
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .iter()
        .sum()
}

/// A handler that waits for its own server says so instead of hanging, and asking it to stop goes on.
#[track_caller]
fn waiting_is_a_deadlock<S: BaseServer>(make: impl FnOnce(fn(&mut TcpRequest) -> Done) -> S) {
    let running = make(|request| {
        let handle = request.server().shutdown_handle().expect("it has a server");
        handle.shutdown();
        let waited = (handle.wait(), handle.wait_timeout(CEILING));
        write!(request, "{waited:?}")
    })
    .spawn()
    .unwrap();
    let answer = read_to_end(connect(running.server_address()));
    assert_eq!(str::from_utf8(&answer), Ok("(Err(Deadlock), Err(Deadlock))"));
    assert_eq!(running.join().unwrap().served, 1);
}

fn waiting_in_a_sync_handler_is_a_deadlock() {
    waiting_is_a_deadlock(|handler| TcpServer::new("127.0.0.1:0", handler));
}

fn waiting_in_a_threading_handler_is_a_deadlock() {
    waiting_is_a_deadlock(|handler| ThreadingTcpServer::new("127.0.0.1:0", handler));
}

fn waiting_in_a_pool_handler_is_a_deadlock() {
    waiting_is_a_deadlock(|handler| ThreadPoolTcpServer::new("127.0.0.1:0", handler));
}

/// Where a handler finds the guard of its own server.
type Guard = Arc<Mutex<Option<Running>>>;

/// A handler that has `end` do something with the guard of its server, which would wait for it without end, is
/// answered at once, and the server ends.
#[track_caller]
fn a_guard_is_ended_in_a_handler(end: fn(Running) -> String, answer: &str) {
    #[track_caller]
    fn check<S: BaseServer>(guard: &Guard, server: S, answer: &str) {
        let running = server.drain_timeout(None).spawn().unwrap();
        let handle = running.shutdown_handle();
        let mut guard = guard.lock().unwrap();
        let client = connect(running.server_address());
        *guard = Some(running);
        drop(guard);
        assert_eq!(String::from_utf8_lossy(&read_to_end(client)), answer);
        handle.wait_timeout(CEILING).unwrap();
    }
    let guard = Guard::default();
    let in_handler = Arc::clone(&guard);
    let handler = move |request: &mut TcpRequest| {
        let running = in_handler.lock().unwrap().take();
        request.write_all(running.map(end).unwrap_or_default().as_bytes())
    };
    check(&guard, TcpServer::new("127.0.0.1:0", handler.clone()), answer);
    check(&guard, ThreadingTcpServer::new("127.0.0.1:0", handler.clone()), answer);
    check(&guard, ThreadPoolTcpServer::new("127.0.0.1:0", handler), answer);
    assert!(!logged().iter().any(|line| line.starts_with("ERROR")));
}

fn a_guard_stopped_in_a_handler_of_its_server_is_a_deadlock_and_stops_it() {
    a_guard_is_ended_in_a_handler(
        |running| format!("{:?}", running.stop().unwrap_err().kind()),
        "Deadlock",
    );
}

fn a_guard_joined_in_a_handler_of_its_server_is_a_deadlock_and_stops_it() {
    a_guard_is_ended_in_a_handler(
        |running| format!("{:?}", running.join().unwrap_err().kind()),
        "Deadlock",
    );
}

fn a_guard_dropped_in_a_handler_of_its_server_stops_it_and_does_not_wait() {
    let end = |running| {
        drop(running);
        "dropped".to_owned()
    };
    a_guard_is_ended_in_a_handler(end, "dropped");
}

/// A mix-in that waits for the server's end in its service actions, and stops it when it could not.
struct Waiting<S> {
    inner: S,
    deadlocks: Arc<AtomicUsize>,
}

impl<S: BaseServer> BaseServer for Waiting<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn service_actions(&self) {
        if self.shutdown_handle().wait() == Err(WaitError::Deadlock) {
            self.deadlocks.fetch_add(1, Ordering::SeqCst);
            self.shutdown();
        }
    }
}

fn waiting_in_a_hook_of_the_loop_is_a_deadlock() {
    let deadlocks = Arc::default();
    let server = Waiting {
        inner: ThreadingTcpServer::new("127.0.0.1:0", EchoLine),
        deadlocks: Arc::clone(&deadlocks),
    };
    server.serve_forever().unwrap();
    assert_ne!(deadlocks.load(Ordering::SeqCst), 0);
}

/// Collects what waiting for the server comes to in the hooks of its beginning, the last of which fails, and in that of
/// its end.
struct WaitsAsItBegins<S> {
    inner: S,
    waited: Waited,
}

impl<S: BaseServer> BaseServer for WaitsAsItBegins<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn server_bind(&self) -> io::Result<()> {
        self.waited.wait_for(self);
        self.inner.server_bind()
    }

    fn server_activate(&self) -> io::Result<()> {
        self.waited.wait_for(self);
        Err(io::ErrorKind::Other.into())
    }

    fn server_close(&self) {
        self.waited.wait_for(self);
        self.inner.server_close();
    }
}

fn waiting_in_a_hook_of_binding_is_a_deadlock() {
    let waited = Waited::default();
    let server = WaitsAsItBegins {
        inner: TcpServer::new("127.0.0.1:0", EchoLine),
        waited: waited.clone(),
    };
    assert!(server.bind().is_err());
    assert_eq!(waited.take(), [Err(WaitError::Deadlock); 3]);
}

/// Collects what waiting for the server comes to in the hooks around a job, which it hands over if it is to, or else
/// has a thread of its own drop.
struct WaitsForItsEnd<S> {
    inner: S,
    hands_over: bool,
    waited: Waited,
}

impl<S: BaseServer> BaseServer for WaitsForItsEnd<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn process_request(&self, job: Job<S::Transport>) {
        self.waited.wait_for(self);
        if self.hands_over {
            self.inner.process_request(job);
        } else {
            thread::spawn(move || drop(job));
        }
    }

    fn close_request(&self, request: RequestOf<Self>) {
        self.waited.wait_for(self);
        self.inner.close_request(request);
    }
}

#[track_caller]
fn assert_waits_nowhere(inner: impl BaseServer, hands_over: bool) {
    let waited = Waited::default();
    let server = WaitsForItsEnd {
        inner,
        hands_over,
        waited: waited.clone(),
    };
    let running = server.spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"");
    running.stop().unwrap();
    assert_eq!(waited.take(), [Err(WaitError::Deadlock); 2]);
}

fn waiting_in_process_request_is_a_deadlock_whoever_accepts() {
    let handler = |_: &mut TcpRequest| {};
    assert_waits_nowhere(TcpServer::new("127.0.0.1:0", handler), true);
    assert_waits_nowhere(ThreadingTcpServer::new("127.0.0.1:0", handler), true);
    assert_waits_nowhere(ThreadPoolTcpServer::new("127.0.0.1:0", handler), true);
    assert_waits_nowhere(ThreadPoolTcpServer::new("127.0.0.1:0", handler).queue_size(1), true);
}

fn waiting_as_a_job_is_dropped_is_a_deadlock() {
    assert_waits_nowhere(TcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {}), false);
}

/// The handler of one server serves with another, whose handler waits for the first.
fn waiting_in_a_handler_of_a_server_inside_is_a_deadlock() {
    let running = TcpServer::new("127.0.0.1:0", |request: &mut TcpRequest| -> Done {
        let outside = request.server().shutdown_handle().expect("it has a server");
        let inside = TcpServer::new("127.0.0.1:0", move |request: &mut TcpRequest| {
            write!(request, "{:?}", outside.wait_timeout(Duration::from_millis(100)))
        });
        let inside = Arc::new(inside.bind()?);
        let client = connect(&inside.server_address());
        inside.handle_request()?;
        inside.close()?;
        request.write_all(&read_to_end(client))?;
        let outside = request.server().shutdown_handle().expect("it has a server");
        write!(request, " {:?}", outside.wait_timeout(Duration::from_millis(100)))
    })
    .spawn()
    .unwrap();
    let answer = read_to_end(connect(running.server_address()));
    assert_eq!(str::from_utf8(&answer), Ok("Err(Deadlock) Err(Deadlock)"));
    assert_eq!(running.stop().unwrap().served, 1);
}

fn waiting_with_a_timeout_says_when_it_is_over() {
    let running = TcpServer::new("127.0.0.1:0", EchoLine).spawn().unwrap();
    let handle = running.shutdown_handle();
    assert_eq!(handle.wait_timeout(Duration::from_millis(1)), Err(WaitError::TimedOut));
    assert_eq!(handle.wait_timeout(Duration::ZERO), Err(WaitError::TimedOut));
    running.stop().unwrap();
    assert_eq!(handle.wait_timeout(Duration::ZERO), Ok(()));
}

fn waiting_from_another_thread_ends_with_the_server() {
    let running = TcpServer::new("127.0.0.1:0", EchoLine).spawn().unwrap();
    let handle = running.shutdown_handle();
    let waiting = thread::spawn(move || handle.wait());
    running.stop().unwrap();
    assert_eq!(waiting.join().unwrap(), Ok(()));
}

fn waiting_on_the_serving_thread_after_the_end_returns() {
    let server = TcpServer::new("127.0.0.1:0", EchoLine);
    let handle = server.shutdown_handle();
    handle.shutdown();
    server.serve_forever().unwrap();
    assert_eq!(handle.wait(), Ok(()));
}

// bpo-35017 asks what becomes of the queue: it is served.
fn what_the_kernel_had_queued_is_served_before_the_end() {
    let server = TcpServer::new("127.0.0.1:0", EchoLine).bind().unwrap();
    let clients: Vec<_> = (0..5)
        .map(|number| {
            let mut client = connect(&server.server_address());
            writeln!(client, "{number}").unwrap();
            client
        })
        .collect();
    server.shutdown();
    assert_eq!(server.serve_forever().unwrap().served, 5);
    for (number, client) in clients.into_iter().enumerate() {
        assert_eq!(read_to_end(client), format!("{number}\n").as_bytes());
    }
}

// Linux takes one connection more than listen(2) was told.
fn what_a_small_queue_had_taken_is_served_before_the_end() {
    for size in [0, 1, 3] {
        let server = TcpServer::new("127.0.0.1:0", |request: &mut TcpRequest| request.write_all(b"served"))
            .request_queue_size(size)
            .bind()
            .unwrap();
        let clients: Vec<_> = (0..=size).map(|_| connect(&server.server_address())).collect();
        server.shutdown();
        assert_eq!(server.serve_forever().unwrap().served, u64::from(size) + 1);
        for client in clients {
            assert_eq!(read_to_end(client), b"served");
        }
    }
}

fn after_shutdown_nobody_can_connect() {
    let (running, client) = with_a_silent_client(|handler| ThreadingTcpServer::new(address_of_ones_own(), handler));
    let address = inet(running.server_address());
    running.shutdown_handle().shutdown();
    wait_until("connecting is refused", || {
        TcpStream::connect(address).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    });
    assert_ne!(running.shutdown_handle().state(), State::Closed);
    drop(client);
    running.join().unwrap();
}

// M6, although the value of the server is still there.
fn a_closed_server_has_given_its_address_up() {
    #[track_caller]
    fn check<S: BaseServer>(address: Address, make: impl Fn(Address) -> S) {
        let closed = Arc::new(make(address).bind().unwrap());
        closed.close().unwrap();
        assert!(closed.socket().is_none() && closed.fileno().is_none());
        make(closed.server_address()).bind().unwrap();
    }
    let name = || Address::abstract_name(format!("socketserver-test-{}", std::process::id()));
    check(address_of_ones_own().into(), |address| {
        TcpServer::new(address, EchoLine)
    });
    check(address_of_ones_own().into(), |address| {
        UdpServer::new(address, EchoLine)
    });
    check(address_of_ones_own().into(), |address| {
        ForkingUdpServer::new(address, EchoLine)
    });
    check(name(), |address| ThreadingUnixStreamServer::new(address, EchoLine));
    check(name(), |address| ThreadPoolUnixDatagramServer::new(address, EchoLine));
}

fn whoever_waited_for_the_end_can_have_the_address() {
    for _ in 0..20 {
        let server = UdpServer::new(address_of_ones_own(), EchoLine).bind().unwrap();
        let (address, handle) = (server.server_address(), server.shutdown_handle());
        let serving = thread::spawn(move || server.serve_forever());
        handle.shutdown();
        assert_eq!(handle.wait_timeout(CEILING), Ok(()));
        UdpSocket::bind(inet(&address)).unwrap();
        serving.join().unwrap().unwrap();
    }
}

// The server closes first, so its port lingers in TIME-WAIT; allow_reuse_address is the default here.
fn a_tcp_address_can_be_served_again_right_after_the_end() {
    let mut address = Address::from(address_of_ones_own());
    for _ in 0..10 {
        let running = ThreadingTcpServer::new(address, EchoLine).spawn().unwrap();
        address = running.server_address().clone();
        assert_eq!(exchange_line(connect(&address), "again\n"), "again\n");
        assert_eq!(running.stop().unwrap().served, 1);
    }
}

fn a_udp_address_can_be_served_again_right_after_the_end() {
    let mut address = Address::from(address_of_ones_own());
    for _ in 0..10 {
        let running = UdpServer::new(address, EchoLine).spawn().unwrap();
        address = running.server_address().clone();
        let client = udp_client(&address);
        client.send(b"again\n").unwrap();
        assert_eq!(client.recv(&mut [0; 100]).unwrap(), 6);
        assert_eq!(running.stop().unwrap().served, 1);
    }
}

/// The last request stops the server, so its thread ends while the loop does: the loop must not be faster.
#[track_caller]
fn is_gone_when_serve_forever_returns<S: BaseServer>(make: impl Fn(fn(&mut DatagramRequest)) -> S) {
    for _ in 0..100 {
        let server = make(|request| request.server().shutdown()).bind().unwrap();
        let address = server.server_address();
        udp_client(&address).send(b"stop").unwrap();
        assert_eq!(server.serve_forever().unwrap().served, 1);
        UdpSocket::bind(inet(&address)).expect("the port is free");
        // Joined, a thread is listed a moment longer.
        wait_until("no thread is left", || threads() == 1);
    }
}

fn a_threading_udp_server_is_gone_when_serve_forever_returns() {
    is_gone_when_serve_forever_returns(|handler| ThreadingUdpServer::new(address_of_ones_own(), handler));
}

fn a_thread_pool_udp_server_is_gone_when_serve_forever_returns() {
    is_gone_when_serve_forever_returns(|handler| ThreadPoolUdpServer::new(address_of_ones_own(), handler).workers(2));
}

/// gh-75416, `block_on_close`: the end waits for the handler.
#[track_caller]
fn requests_in_progress_end_first<S: BaseServer>(make: impl FnOnce(Arc<AtomicUsize>, Gate, Gate) -> S) {
    let (ended, begun, leave) = (Arc::default(), Gate::default(), Gate::default());
    let running = make(Arc::clone(&ended), begun.clone(), leave.clone()).spawn().unwrap();
    let client = connect(running.server_address());
    begun.wait();
    let handle = running.shutdown_handle();
    let stopping = thread::spawn(move || running.stop());
    wait_until_draining(&handle);
    assert_eq!(handle.wait_timeout(Duration::from_millis(1)), Err(WaitError::TimedOut));
    leave.open();
    let report = stopping.join().unwrap().unwrap();
    assert_eq!(ended.load(Ordering::SeqCst), 1);
    assert_eq!((report.served, report.drained, report.forced), (1, 1, 0));
    assert_eq!(read_to_end(client), b"done\n");
}

/// A handler that begins, waits, answers and counts.
fn slow(ended: Arc<AtomicUsize>, begun: Gate, leave: Gate) -> impl BaseRequestHandler<TcpRequest> {
    move |request: &mut TcpRequest| -> Done {
        begun.open();
        leave.wait();
        request.write_all(b"done\n")?;
        ended.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

fn requests_in_progress_end_before_a_threading_server_does() {
    requests_in_progress_end_first(|ended, begun, leave| {
        ThreadingTcpServer::new("127.0.0.1:0", slow(ended, begun, leave))
    });
}

fn requests_in_progress_end_before_a_thread_pool_does() {
    requests_in_progress_end_first(|ended, begun, leave| {
        ThreadPoolTcpServer::new("127.0.0.1:0", slow(ended, begun, leave))
    });
}

// gh-84485: idle keep-alive handlers have a way to end.
fn a_handler_sees_that_the_server_drains() {
    let begun = Gate::default();
    let in_handler = begun.clone();
    let running = ThreadingTcpServer::new("127.0.0.1:0", move |request: &mut TcpRequest| {
        assert!(!request.server().is_draining());
        in_handler.open();
        wait_until("the server drains", || request.server().is_draining());
    })
    .spawn()
    .unwrap();
    let _client = connect(running.server_address());
    begun.wait();
    assert_eq!(running.stop().unwrap().served, 1);
}

/// Refuses clients that are told to be refused by the number of those before them.
struct RefuseTheFirst<S>(S, AtomicUsize);

impl<S: BaseServer> BaseServer for RefuseTheFirst<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn verify_request(&self, _: &RequestOf<Self>, _: &Address) -> bool {
        self.1.fetch_add(1, Ordering::SeqCst) > 0
    }
}

fn the_report_counts_each_request_once() {
    let handler = |request: &mut TcpRequest| -> HandlerResult {
        match request.bytes().next().transpose()? {
            Some(b's') => Ok(()),
            Some(b'f') => Err("told to fail".into()),
            Some(b'p') => std::panic::resume_unwind(Box::new("told to panic")),
            _ => Ok(io::copy(request, &mut io::sink()).map(drop)?),
        }
    };
    let server = RefuseTheFirst(ThreadingTcpServer::new("127.0.0.1:0", handler), AtomicUsize::new(0));
    let running = server.drain_timeout(Duration::ZERO).spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"", "it is refused");
    for order in "ssfsp".chars() {
        let mut client = connect(running.server_address());
        write!(client, "{order}").unwrap();
        assert_eq!(read_to_end(client), b"");
    }
    // A client reads the end a moment before its request is counted.
    wait_until("all have ended", || running.handle().stats().running == 0);
    // One is still there when the server stops.
    let mut client = connect(running.server_address());
    client.write_all(b"w").unwrap();
    wait_until_accepted(&client);
    wait_until("it is read", || unread(&client) == Some(0));
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (4, 2));
    assert_eq!((report.drained, report.forced, report.leaked), (0, 1, 0));
    assert_eq!(report.to_string(), "served=4 failed=2 drained=0 forced=1 leaked=0");
}

fn a_report_is_the_success_of_main_unless_a_request_was_left_behind() {
    // An ExitCode shows what it is in no other way.
    let code = |report: Report| format!("{:?}", report.report());
    let mut report = TcpServer::new("127.0.0.1:0", EchoLine).spawn().unwrap().stop().unwrap();
    report.failed = 1;
    assert_eq!(code(report), format!("{:?}", ExitCode::SUCCESS));
    report.leaked = 1;
    assert_eq!(code(report), format!("{:?}", ExitCode::FAILURE));
}

/// The numbers of ended requests' sockets are given to other sockets; a forced end must not touch those.
#[track_caller]
fn forcing_spares_other_descriptors<S: BaseServer>(make: impl FnOnce(fn(&mut TcpRequest) -> Done) -> S) {
    let server = make(|request| {
        request.write_all(b"hello")?;
        io::copy(request, &mut io::sink()).map(drop)
    });
    let running = server.drain_timeout(Duration::ZERO).spawn().unwrap();
    let begin = || {
        let mut client = connect(running.server_address());
        client.read_exact(&mut [0; 5]).unwrap();
        client
    };
    let ended: Vec<_> = (0..5).map(|_| begin()).collect();
    let forced = begin();
    let open = sockets();
    for client in ended {
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(client), b"");
    }
    wait_until("the sockets of both sides are closed", || sockets() == open - 10);
    let others: Vec<_> = (0..10).map(|_| UnixStream::pair().unwrap()).collect();
    // One whose sockets are closed may not have been counted yet.
    let forced_ones = running.stop().unwrap().forced;
    assert!((1..=6).contains(&forced_ones), "{forced_ones}");
    for (mut one, other) in others {
        one.write_all(b"still here\n").unwrap();
        assert_eq!(exchange_line(other, "\n"), "still here\n");
    }
    assert_eq!(read_to_end(forced), b"");
}

fn forcing_a_threading_server_spares_descriptors_that_are_somebody_elses_by_now() {
    forcing_spares_other_descriptors(|handler| ThreadingTcpServer::new("127.0.0.1:0", handler));
}

fn forcing_a_pool_spares_descriptors_that_are_somebody_elses_by_now() {
    forcing_spares_other_descriptors(|handler| ThreadPoolTcpServer::new("127.0.0.1:0", handler).workers(6));
}

fn a_request_forced_to_end_is_counted_as_forced() {
    let (running, _client) = with_a_silent_client(|handler| {
        ThreadingTcpServer::new("127.0.0.1:0", handler).drain_timeout(Duration::from_millis(20))
    });
    let report = running.stop().unwrap();
    assert_eq!((report.drained, report.forced, report.leaked), (0, 1, 0));
    assert!(report.elapsed >= Duration::from_millis(20), "{report:?}");
    assert!(
        logged()
            .iter()
            .any(|line| line.starts_with("WARN 1 request did not end in time"))
    );
}

// Its loop is busy in the handler, so the guard keeps the deadline.
fn a_request_of_a_sync_server_forced_to_end_is_counted_as_forced() {
    let (running, _client) =
        with_a_silent_client(|handler| TcpServer::new("127.0.0.1:0", handler).drain_timeout(Duration::from_millis(20)));
    let report = running.stop().unwrap();
    assert_eq!((report.drained, report.forced, report.leaked), (0, 1, 0));
}

fn a_drain_timeout_of_zero_forces_at_once() {
    let (running, _client) =
        with_a_silent_client(|handler| ThreadPoolTcpServer::new("127.0.0.1:0", handler).drain_timeout(Duration::ZERO));
    let report = running.stop().unwrap();
    assert_eq!((report.drained, report.forced, report.leaked), (0, 1, 0));
}

/// A server without patience whose handler has a client, and goes on when the gate is opened.
fn with_a_stuck_handler<S: BaseServer>(stack: impl FnOnce(TcpServer<StuckHandler>) -> S) -> (Running, TcpStream, Gate) {
    let handler = StuckHandler::default();
    let (begun, leave) = (handler.begun.clone(), handler.leave.clone());
    let server = stack(TcpServer::new("127.0.0.1:0", handler));
    let running = server.drain_timeout(Duration::ZERO).spawn().unwrap();
    let client = connect(running.server_address());
    begun.wait();
    (running, client, leave)
}

/// Neither reads nor writes, so no socket ends it.
#[derive(Clone, Default)]
struct StuckHandler {
    begun: Gate,
    leave: Gate,
}

impl BaseRequestHandler<TcpRequest> for StuckHandler {
    fn handle(&mut self, _: &mut TcpRequest) -> HandlerResult {
        self.begun.open();
        self.leave.wait();
        Ok(())
    }
}

// "A close with a stuck handler takes the deadline given", and a second of grace.
fn a_request_that_cannot_be_ended_is_left_behind_and_reported() {
    let (running, _client, leave) = with_a_stuck_handler(TcpServer::threading);
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (0, 0));
    assert_eq!((report.drained, report.forced, report.leaked), (0, 1, 1));
    let told = "ERROR 1 request still runs although its socket is shut down; leaving it behind";
    assert_eq!(logged().last().map(String::as_str), Some(told));
    leave.open();
}

fn a_pool_leaves_a_request_behind_that_cannot_be_ended() {
    let (running, _client, leave) = with_a_stuck_handler(|bare| bare.thread_pool().workers(2));
    assert_eq!(running.stop().unwrap().leaked, 1);
    leave.open();
}

/// Counts the threads that have ended, each of which takes a while for that.
struct Ending(Arc<AtomicUsize>);

impl Drop for Ending {
    fn drop(&mut self) {
        thread::sleep(Duration::from_millis(100));
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

thread_local! {
    static ENDING: RefCell<Option<Ending>> = const { RefCell::new(None) };
}

/// What they have of the server, its socket among it, would outlive it.
fn the_threads_of_a_server_end_before_it_has_stopped() {
    #[track_caller]
    fn assert_waited_for<S: BaseServer>(stack: impl FnOnce(ThreadEnd) -> S) {
        let ended = Arc::default();
        let running = stack(ThreadEnd(Arc::clone(&ended))).spawn().unwrap();
        assert_eq!(read_to_end(connect(running.server_address())), b"");
        running.stop().unwrap();
        assert_eq!(ended.load(Ordering::SeqCst), 1);
    }
    assert_waited_for(|handler| ThreadingTcpServer::new("127.0.0.1:0", handler));
    assert_waited_for(|handler| ThreadPoolTcpServer::new("127.0.0.1:0", handler).workers(1));
    assert_waited_for(|handler| {
        ThreadPoolTcpServer::new("127.0.0.1:0", handler)
            .workers(1)
            .queue_size(1)
    });
}

/// Has the thread that it runs on counted when that has ended.
#[derive(Clone)]
struct ThreadEnd(Arc<AtomicUsize>);

impl BaseRequestHandler<TcpRequest> for ThreadEnd {
    fn handle(&mut self, _: &mut TcpRequest) -> HandlerResult {
        ENDING.set(Some(Ending(Arc::clone(&self.0))));
        Ok(())
    }
}

fn without_a_drain_timeout_the_server_waits() {
    let (running, client) =
        with_a_silent_client(|handler| ThreadingTcpServer::new("127.0.0.1:0", handler).drain_timeout(None));
    let handle = running.shutdown_handle();
    let stopping = thread::spawn(move || running.stop());
    wait_until_draining(&handle);
    assert_eq!(handle.wait_timeout(Duration::from_millis(20)), Err(WaitError::TimedOut));
    drop(client);
    let report = stopping.join().unwrap().unwrap();
    assert_eq!((report.drained, report.forced), (1, 0));
}

fn a_sync_server_stuck_with_a_silent_client_can_be_dropped() {
    let (running, client) =
        with_a_silent_client(|handler| TcpServer::new("127.0.0.1:0", handler).drain_timeout(Duration::from_millis(20)));
    drop(running);
    assert_eq!(read_to_end(client), b"");
}

fn a_sync_server_stuck_where_every_thread_blocks_its_signal_can_be_stopped() {
    let handler = ReadAll::default();
    let begun = handler.begun.clone();
    let server = TcpServer::new("127.0.0.1:0", handler);
    // With an interval it does not wait in accept(2), for which its thread would unblock the signal.
    let server = server.poll_interval(CEILING).drain_timeout(Duration::from_millis(20));
    let server = server.bind().unwrap();
    let urgent = SigSet::from(Signal::SIGURG);
    let before = urgent.thread_swap_mask(SigmaskHow::SIG_BLOCK).unwrap();
    let running = server.spawn().unwrap();
    let _silent = connect(running.server_address());
    begun.wait();
    let report = running.stop();
    before.thread_set_mask().unwrap();
    assert_eq!(report.unwrap().forced, 1);
}

fn a_threading_server_stuck_with_a_silent_client_can_be_dropped() {
    let (running, client) = with_a_silent_client(|handler| {
        ThreadingTcpServer::new("127.0.0.1:0", handler).drain_timeout(Duration::from_millis(20))
    });
    drop(running);
    assert_eq!(read_to_end(client), b"");
}

fn a_thread_pool_stuck_with_a_silent_client_can_be_dropped() {
    let (running, client) = with_a_silent_client(|handler| {
        ThreadPoolTcpServer::new("127.0.0.1:0", handler).drain_timeout(Duration::from_millis(20))
    });
    drop(running);
    assert_eq!(read_to_end(client), b"");
}

/// A strategy whose loop panics.
struct PanickingLoop<S>(S);

impl<S: BaseServer> BaseServer for PanickingLoop<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn serve(&self, _: Acceptor<S::Transport>) -> io::Result<()> {
        std::panic::resume_unwind(Box::new("out of cheese"))
    }
}

// A panic out of a destructor would abort the program.
fn a_guard_whose_thread_panicked_can_be_dropped() {
    let running = PanickingLoop(TcpServer::new("127.0.0.1:0", EchoLine)).spawn().unwrap();
    let handle = running.shutdown_handle();
    drop(running);
    assert_eq!(handle.state(), State::Closed);
    let lines = logged();
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("ERROR") && line.contains("out of cheese")),
        "{lines:?}"
    );
}

fn a_guard_that_is_waited_with_panics_as_its_thread_did() {
    for wait in [Running::stop, Running::join] {
        let running = PanickingLoop(TcpServer::new("127.0.0.1:0", EchoLine)).spawn().unwrap();
        let waited = thread::spawn(move || wait(running).map(drop)).join();
        assert_eq!(waited.unwrap_err().downcast_ref(), Some(&"out of cheese"));
    }
}

// It would wait as long as the handler does: neither its socket nor a signal ends that.
fn a_guard_leaves_a_sync_server_behind_whose_handler_never_returns() {
    let (running, _client, leave) = with_a_stuck_handler(|bare| bare);
    let handle = running.shutdown_handle();
    assert_eq!(running.stop().unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(handle.state(), State::Serving);
    leave.open();
    assert_eq!(handle.wait_timeout(CEILING), Ok(()));
}

fn a_guard_can_wait_for_a_server_that_something_else_stops() {
    let running = TcpServer::new("127.0.0.1:0", EchoLine).spawn().unwrap();
    let handle = running.shutdown_handle();
    assert_eq!(exchange_line(connect(running.server_address()), "one\n"), "one\n");
    let other = thread::spawn(move || handle.shutdown());
    assert_eq!(running.join().unwrap().served, 1);
    other.join().unwrap();
}

// test_threads_reaped, bpo-37193: there are never more records than requests in progress, and one.
fn threads_are_reaped_as_they_end() {
    let server = Arc::new(ThreadingTcpServer::new("127.0.0.1:0", EchoLine).bind().unwrap());
    for number in 0..10 {
        let mut client = connect(&server.server_address());
        writeln!(client, "{number}").unwrap();
        assert_eq!(server.handle_request().unwrap(), Handled::Processed);
        assert_eq!(read_to_end(client), format!("{number}\n").as_bytes());
    }
    // The main thread, and one that ended and may not be joined yet.
    wait_until("the threads have ended", || threads() <= 2);
    let shown = format!("{server:?}");
    wait_until("no record is left", || format!("{server:?}").contains("running: 0"));
    assert!(shown.contains("Threads"), "{shown}");
    assert_eq!(server.close().unwrap().served, 10);
}

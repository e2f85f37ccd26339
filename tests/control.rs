//! Suspending and resuming, and what a server does at signals.

mod support;

use std::env;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, raise};
use nix::unistd::Pid;
use socketserver::prelude::*;
use socketserver::{Handled, Running, State, WaitError};
use support::attempts::until_in_time;
use support::gate::Gate;
use support::interrupt::ignore;
use support::process::{Ended, Process, assert_never_wake_up, assert_stops, pid, role, serve_as_role};
use support::talk::{self, ECHO_LINES, Handler, TELL_PROCESS, assert_echoes, assert_waits, finish, told_process};
use support::{
    CEILING, EchoLine, children_of, connect, connect_to, exchange_line, kill_by_number, logged, process_state,
    read_to_end, temp_path, udp_client, wait_until, wait_until_accepted,
};

tests![
    roles: serves_with_signals, serves_with_signals_blocked_at_first, serves_with_signals_set_after_binding;
    a_suspended_server_leaves_clients_in_the_queue_under_every_strategy,
    nobody_is_accepted_once_suspend_has_returned_under_every_strategy,
    suspending_waits_for_one_that_is_put_off_as_it_accepts_under_every_strategy,
    requests_in_progress_go_on_while_accepting_is_suspended,
    the_port_is_the_same_after_resuming,
    the_state_is_told,
    a_server_suspended_before_it_serves_starts_suspended,
    the_first_worker_of_a_server_suspended_before_it_serves_accepts_nobody,
    suspended_twice_is_suspended_once,
    a_suspended_server_keeps_datagrams,
    a_suspended_server_can_be_stopped,
    what_came_while_suspended_is_served_at_the_end,
    a_handler_suspends_its_server,
    a_forked_child_does_not_suspend_its_parent,
    handle_request_of_a_suspended_server_times_out,
    a_signal_suspends_and_resumes_a_server_that_handle_request_drives,
    suspended_and_resumed_all_the_time_a_server_loses_nobody,
    suspended_and_resumed_by_several_threads_at_once_none_waits_long,
    a_suspended_server_at_its_limit_resumes,
    a_suspended_server_never_wakes_up,
    a_function_runs_at_a_signal_under_every_strategy,
    a_function_runs_while_all_workers_are_busy,
    a_busy_bare_server_runs_a_function_afterwards,
    a_function_runs_while_the_server_drains,
    a_function_that_panics_costs_nothing,
    a_function_that_waits_for_the_server_is_told_that_it_would_for_ever,
    a_signal_that_comes_often_runs_its_function_at_least_once,
    a_function_that_calls_for_itself_keeps_nobody_from_being_served,
    functions_of_two_signals_run_one_after_the_other,
    the_stats_are_dumped_at_a_signal_under_every_strategy,
    a_second_sigint_stops_at_once_under_every_strategy,
    a_stop_signal_stops_at_once_under_every_strategy,
    the_action_set_last_holds,
    actions_set_after_binding_hold_from_serving_on_under_every_strategy,
    the_master_of_a_prefork_server_counts_the_requests_of_its_workers,
    the_master_of_a_prefork_server_counts_those_that_wait_in_its_workers,
    the_workers_of_a_prefork_server_are_suspended_by_their_master,
    a_prefork_server_that_is_suspended_from_the_start_resumes,
    sighup_of_a_prefork_server_reloads_and_runs_its_function,
    signals_do_the_default_in_a_child,
    signals_are_listened_to_from_binding_on,
    signals_are_heard_that_were_blocked_when_the_program_was_started_under_every_strategy,
    a_real_time_signal_is_heard_that_was_blocked_when_the_program_was_started,
    after_the_end_a_signal_runs_nothing,
    a_signal_that_is_ignored_since_another_server_has_listened_to_it_is_heard,
    a_signal_that_cannot_be_caught_is_refused,
    a_signal_that_cannot_be_caught_set_after_binding_is_refused_when_serving_begins,
];

const ANY_PORT: &str = "127.0.0.1:0";

fn bare() -> TcpServer<Handler> {
    TcpServer::new(ANY_PORT, ECHO_LINES)
}

/// A client that has sent a line to a suspended server, which has not accepted it.
#[track_caller]
fn queued(running: &Running) -> TcpStream {
    let client = connect(running.server_address());
    (&client).write_all(b"hello\n").unwrap();
    assert_waits(&client);
    client
}

#[track_caller]
fn suspend(running: &Running) {
    let handle = running.handle();
    handle.suspend();
    wait_until("it is suspended", || handle.state() == State::Suspended);
}

// ----- Suspending --------------------------------------------------------------------------------

#[track_caller]
fn assert_suspends(server: impl BaseServer) {
    let running = server.spawn().unwrap();
    let first = connect(running.server_address());
    assert_echoes(&first);
    finish(&first);
    suspend(&running);
    let waiting = [(); 3].map(|()| connect(running.server_address()));
    for mut client in &waiting {
        client.write_all(b"hello\n").unwrap();
    }
    waiting.iter().for_each(assert_waits);
    assert_eq!(running.handle().stats().accepted, 1);
    running.handle().resume();
    for client in &waiting {
        assert_eq!(exchange_line(client, ""), "hello\n");
        finish(client);
    }
    assert_eq!(running.stop().unwrap().served, 4);
}

fn a_suspended_server_leaves_clients_in_the_queue_under_every_strategy() {
    assert_suspends(bare());
    assert_suspends(bare().threading());
    assert_suspends(bare().forking());
    assert_suspends(bare().thread_pool().workers(3));
    assert_suspends(bare().thread_pool().workers(3).queue_size(3));
}

/// Nobody has to wait for the accept loop to have heard of it: who connects afterwards waits.
#[track_caller]
fn assert_nobody_is_accepted_once_suspended(server: impl BaseServer) {
    let running = server.spawn().unwrap();
    let handle = running.handle();
    // So that the threads that may accept all do.
    let crowd = [(); 4].map(|()| connect(running.server_address()));
    for client in &crowd {
        assert_echoes(client);
        finish(client);
    }
    for round in 0..100 {
        let before = handle.stats().accepted;
        let waited = suspend_and_wait(&handle);
        let clients = [(); 2].map(|()| connect(running.server_address()));
        thread::sleep(Duration::from_micros(300));
        assert!(handle.stats().accepted == before || !waited, "round {round}");
        handle.resume();
        for client in &clients {
            assert_echoes(client);
            finish(client);
        }
    }
    assert_eq!(running.stop().unwrap().served, 204);
}

/// Suspends; true if it has waited for all who were just accepting, and not given up after a second: on a busy machine
/// one of them may be put off for longer.
fn suspend_and_wait(handle: &ServerHandle) -> bool {
    let begun = Instant::now();
    handle.suspend();
    begun.elapsed() < Duration::from_secs(1)
}

fn nobody_is_accepted_once_suspend_has_returned_under_every_strategy() {
    assert_nobody_is_accepted_once_suspended(bare());
    assert_nobody_is_accepted_once_suspended(bare().threading());
    assert_nobody_is_accepted_once_suspended(bare().forking());
    assert_nobody_is_accepted_once_suspended(bare().thread_pool().workers(4));
    assert_nobody_is_accepted_once_suspended(bare().thread_pool().workers(4).queue_size(4));
    assert_nobody_is_accepted_once_suspended(bare().prefork().workers(4));
    assert_nobody_is_accepted_once_suspended(bare().threading().prefork().workers(2));
}

/// Takes the next client away once it is armed, and then accepts as late as it would on a busy machine.
struct PutOff<S> {
    inner: S,
    /// Files, for whatever process: armed, put off, let go.
    places: [PathBuf; 3],
}

impl<S: BaseServer> BaseServer for PutOff<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn get_request(&self) -> io::Result<RequestOf<Self>> {
        let request = self.inner.get_request()?;
        let [armed, put_off, go] = &self.places;
        if fs::remove_file(armed).is_err() {
            return Ok(request);
        }
        drop(request);
        fs::write(put_off, "").unwrap();
        wait_until("it is let go", || go.exists());
        self.inner.get_request()
    }
}

/// One that is put off between looking and accepting does not accept who has come afterwards.
fn assert_waits_for_one_that_is_put_off<S: BaseServer>(make: impl Fn() -> S) {
    let is_kept = || {
        let directory = tempfile::tempdir().unwrap();
        let places = ["armed", "put off", "go"].map(|name| directory.path().join(name));
        let [armed, put_off, go] = places.clone();
        let inner = make();
        let running = PutOff { inner, places }.spawn().unwrap();
        let handle = running.handle();
        finish(&talk::in_progress(running.server_address()));
        fs::write(armed, "").unwrap();
        assert_eq!(read_to_end(connect(running.server_address())), b"");
        wait_until("it is put off", || put_off.exists());
        // The second of them suspends what is suspended.
        let suspending = [(); 2].map(|()| {
            let handle = handle.clone();
            let suspending = thread::spawn(move || suspend_and_wait(&handle));
            wait_until("it is suspended", || running.handle().state() == State::Suspended);
            suspending
        });
        // None is to return yet: this only gives them the time to.
        thread::sleep(Duration::from_millis(50));
        let early = suspending.iter().any(thread::JoinHandle::is_finished);
        let early = early.then(|| connect(running.server_address()));
        fs::write(go, "").unwrap();
        let waited = suspending.map(|suspending| suspending.join().unwrap()) == [true; 2];
        let client = early.unwrap_or_else(|| connect(running.server_address()));
        if waited {
            (&client).write_all(b"hello\n").unwrap();
            assert_waits(&client);
        }
        handle.resume();
        drop(client);
        running.stop().unwrap();
        waited
    };
    // It may have given up after a second.
    until_in_time(is_kept);
}

fn suspending_waits_for_one_that_is_put_off_as_it_accepts_under_every_strategy() {
    assert_waits_for_one_that_is_put_off(bare);
    assert_waits_for_one_that_is_put_off(|| bare().poll_interval(CEILING));
    assert_waits_for_one_that_is_put_off(|| bare().threading());
    assert_waits_for_one_that_is_put_off(|| bare().forking());
    assert_waits_for_one_that_is_put_off(|| bare().thread_pool().workers(2).queue_size(2));
    assert_waits_for_one_that_is_put_off(|| bare().prefork().workers(1));
    assert_waits_for_one_that_is_put_off(|| bare().threading().prefork().workers(1));
}

fn requests_in_progress_go_on_while_accepting_is_suspended() {
    let running = bare().threading().spawn().unwrap();
    let client = connect(running.server_address());
    assert_echoes(&client);
    suspend(&running);
    assert_echoes(&client);
    finish(&client);
    assert_eq!(running.stop().unwrap().served, 1);
}

fn the_port_is_the_same_after_resuming() {
    let running = bare().threading().spawn().unwrap();
    suspend(&running);
    // Nobody else can have it meanwhile.
    let address = running.server_address().as_inet().unwrap();
    let taken = std::net::TcpListener::bind(address).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    running.handle().resume();
    let client = TcpStream::connect(address).unwrap();
    assert_echoes(&client);
    drop(client);
    running.stop().unwrap();
}

fn the_state_is_told() {
    let running = bare().threading().spawn().unwrap();
    let (handle, stopper) = (running.handle(), running.shutdown_handle());
    wait_until("it serves", || handle.state() == State::Serving);
    handle.suspend();
    assert_eq!((handle.state(), stopper.state()), (State::Suspended, State::Suspended));
    assert_eq!(handle.stats().state.to_string(), "suspended");
    handle.resume();
    assert_eq!(handle.state(), State::Serving);
    handle.suspend();
    running.stop().unwrap();
    assert_eq!(handle.state(), State::Closed);
    handle.resume();
    assert_eq!(handle.state(), State::Closed);
}

fn a_server_suspended_before_it_serves_starts_suspended() {
    let server = bare().threading().bind().unwrap();
    let handle = server.handle();
    handle.suspend();
    assert_eq!(handle.state(), State::Bound);
    let running = server.spawn().unwrap();
    wait_until("it serves", || handle.state() == State::Suspended);
    let client = queued(&running);
    assert_eq!(handle.stats().accepted, 0);
    handle.resume();
    assert_eq!(exchange_line(&client, ""), "hello\n");
    finish(&client);
    running.stop().unwrap();
}

/// It could while its master is still forking the others.
fn the_first_worker_of_a_server_suspended_before_it_serves_accepts_nobody() {
    let server = bare().prefork().workers(20).bind().unwrap();
    let handle = server.handle();
    handle.suspend();
    let client = connect(&server.server_address());
    (&client).write_all(b"hello\n").unwrap();
    let running = server.spawn().unwrap();
    wait_until("all workers are there", || children_of(std::process::id()).len() == 20);
    assert_waits(&client);
    assert_eq!(handle.stats().accepted, 0);
    handle.resume();
    assert_eq!(exchange_line(&client, ""), "hello\n");
    finish(&client);
    running.stop().unwrap();
}

fn suspended_twice_is_suspended_once() {
    let running = bare().threading().spawn().unwrap();
    suspend(&running);
    suspend(&running);
    running.handle().resume();
    let client = connect(running.server_address());
    assert_echoes(&client);
    drop(client);
    running.stop().unwrap();
}

fn a_suspended_server_keeps_datagrams() {
    let server = UdpServer::new(ANY_PORT, EchoLine).bind().unwrap();
    let handle = server.handle();
    handle.suspend();
    let running = server.spawn().unwrap();
    let client = udp_client(running.server_address());
    client.send(b"hello\n").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(client.recv(&mut [0; 9]).unwrap_err().kind(), ErrorKind::WouldBlock);
    client.set_read_timeout(Some(CEILING)).unwrap();
    handle.resume();
    assert_eq!(client.recv(&mut [0; 9]).unwrap(), 6);
    running.stop().unwrap();
}

fn a_suspended_server_can_be_stopped() {
    for _ in 0..10 {
        let running = bare().threading().spawn().unwrap();
        running.handle().suspend();
        assert_eq!(running.stop().unwrap().served, 0);
    }
}

fn what_came_while_suspended_is_served_at_the_end() {
    for pool in [false, true] {
        let server = bare().bind().unwrap();
        server.handle().suspend();
        let running = if pool {
            server.thread_pool().workers(2).spawn()
        } else {
            server.threading().spawn()
        };
        let running = running.unwrap();
        let clients = [(); 5].map(|()| connect(running.server_address()));
        for mut client in &clients {
            client.write_all(b"hello\n").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        }
        assert_waits(&clients[0]);
        assert_eq!(running.stop().unwrap().served, 5);
        for client in &clients {
            assert_eq!(read_to_end(client), b"hello\n");
        }
    }
}

fn a_handler_suspends_its_server() {
    let server = ThreadingTcpServer::new(ANY_PORT, |request: &mut TcpRequest| {
        request.server().handle().unwrap().suspend();
    });
    let running = server.spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"");
    assert_eq!(running.handle().state(), State::Suspended);
    assert_eq!(running.stop().unwrap().served, 1);
}

fn a_forked_child_does_not_suspend_its_parent() {
    let server = ForkingTcpServer::new(ANY_PORT, |request: &mut TcpRequest| {
        request.server().handle().unwrap().suspend();
    });
    let running = server.spawn().unwrap();
    for _ in 0..2 {
        assert_eq!(read_to_end(connect(running.server_address())), b"");
        assert_eq!(running.handle().state(), State::Serving);
    }
    assert_eq!(running.stop().unwrap().served, 2);
}

fn handle_request_of_a_suspended_server_times_out() {
    let server = Arc::new(bare().threading().timeout(Duration::from_millis(50)).bind().unwrap());
    server.handle().suspend();
    let client = connect(&server.server_address());
    assert_eq!(server.handle_request().unwrap(), Handled::TimedOut);
    server.handle().resume();
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    assert_echoes(&client);
    drop(client);
    server.close().unwrap();
}

fn a_signal_suspends_and_resumes_a_server_that_handle_request_drives() {
    let server = bare()
        .threading()
        .timeout(Duration::from_millis(50))
        .on_signal(signal::SIGUSR2, toggle);
    let server = Arc::new(server.bind().unwrap());
    let (handle, client) = (server.handle(), connect(&server.server_address()));
    for (suspended, handled) in [(true, Handled::TimedOut), (false, Handled::Processed)] {
        raise(Signal::SIGUSR2).unwrap();
        assert_eq!(server.handle_request().unwrap(), handled);
        assert_eq!((handle.is_suspended(), handle.state()), (suspended, State::Bound));
    }
    assert_echoes(&client);
    drop(client);
    server.close().unwrap();
}

fn suspended_and_resumed_all_the_time_a_server_loses_nobody() {
    const CLIENTS: usize = 3;
    const EACH: usize = 50;
    let start = |strategy: usize| match strategy {
        0 => TcpServer::new(ANY_PORT, EchoLine).spawn(),
        1 => ThreadingTcpServer::new(ANY_PORT, EchoLine).spawn(),
        2 => ThreadPoolTcpServer::new(ANY_PORT, EchoLine).workers(3).spawn(),
        _ => ThreadingTcpServer::new(ANY_PORT, EchoLine).max_connections(1).spawn(),
    };
    for strategy in 0..4 {
        let running = start(strategy).unwrap();
        let (handle, address) = (running.handle(), running.server_address().clone());
        let left = AtomicUsize::new(CLIENTS);
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    for _ in 0..EACH {
                        assert_echoes(&connect(&address));
                    }
                    left.fetch_sub(1, Ordering::SeqCst);
                });
            }
            while left.load(Ordering::SeqCst) > 0 {
                handle.suspend();
                thread::yield_now();
                handle.resume();
                thread::sleep(Duration::from_micros(100));
            }
        });
        assert_eq!(running.stop().unwrap().served, 150);
    }
}

fn suspended_and_resumed_by_several_threads_at_once_none_waits_long() {
    let running = ThreadingTcpServer::new(ANY_PORT, EchoLine).spawn().unwrap();
    assert_eq!(exchange_line(connect(running.server_address()), "hello\n"), "hello\n");
    let controllers = [(); 3].map(|()| {
        let handle = running.handle();
        thread::spawn(move || {
            let suspend = |_| {
                let begun = Instant::now();
                handle.suspend();
                let took = begun.elapsed();
                handle.resume();
                took
            };
            (0..2000).map(suspend).max()
        })
    });
    let longest = controllers
        .map(|controller| controller.join().unwrap())
        .into_iter()
        .max();
    // Nobody who sleeps is waited for any more once somebody else has resumed.
    assert!(longest < Some(Some(Duration::from_millis(900))), "{longest:?}");
    running.handle().resume();
    assert_eq!(exchange_line(connect(running.server_address()), "again\n"), "again\n");
    running.stop().unwrap();
}

fn a_suspended_server_at_its_limit_resumes() {
    let running = bare().threading().max_connections(1).spawn().unwrap();
    let first = connect(running.server_address());
    assert_echoes(&first);
    suspend(&running);
    let second = queued(&running);
    finish(&first);
    assert_waits(&second);
    running.handle().resume();
    assert_eq!(exchange_line(&second, ""), "hello\n");
    finish(&second);
    assert_eq!(running.stop().unwrap().served, 2);
}

// ----- A process to send signals to --------------------------------------------------------------

const STRATEGY: &str = "SOCKETSERVER_TEST_STRATEGY";
const STRATEGIES: [&str; 4] = ["sync", "threading", "forking", "pool"];

/// As the documentation of `on_signal` does.
fn toggle(server: &ServerHandle) {
    if server.is_suspended() {
        server.resume();
    } else {
        server.suspend();
    }
}

/// Serves under a strategy, with an action for every kind; its log goes to standard error.
fn serves_with_signals() {
    env_logger::Builder::new().filter_level(log::LevelFilter::Info).init();
    let server = bare()
        .shutdown_on_signals([signal::SIGINT])
        .on_signal(signal::SIGQUIT, SignalAction::Stop)
        .on_signal(signal::SIGUSR1, SignalAction::DumpStats)
        .on_signal(signal::SIGUSR2, toggle)
        .on_signal(signal::SIGHUP, |server: &ServerHandle| {
            println!("hangup in {} of {}", std::process::id(), server.stats().started);
        });
    match env::var(STRATEGY).unwrap().as_str() {
        "sync" => serve_as_role(server),
        "threading" => serve_as_role(server.threading()),
        "forking" => serve_as_role(server.forking()),
        "prefork" => serve_as_role(PreFork::over(server).workers(2)),
        "prefork suspended" => {
            server.handle().suspend();
            serve_as_role(PreFork::over(server).workers(2));
        }
        _ => serve_as_role(server.thread_pool().workers(1)),
    }
}

#[track_caller]
fn start(strategy: &str) -> Process {
    Process::start(role("serves_with_signals").env(STRATEGY, strategy))
}

/// A client whose request is in progress.
#[track_caller]
fn in_progress(server: &Process) -> TcpStream {
    let client = connect_to(server.address());
    assert_echoes(&client);
    client
}

#[track_caller]
fn stop(server: Process) -> Ended {
    server.signal(Signal::SIGTERM);
    let ended = server.end();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    ended
}

fn a_suspended_server_never_wakes_up() {
    let servers = STRATEGIES.map(start);
    let named: Vec<_> = STRATEGIES.into_iter().zip(&servers).collect();
    for server in &servers {
        server.signal(Signal::SIGUSR2);
    }
    assert_never_wake_up(&named);
    let waiting: Vec<_> = servers.iter().map(|server| connect_to(server.address())).collect();
    for mut client in &waiting {
        client.write_all(b"hello\n").unwrap();
    }
    // Clients that wait change nothing.
    assert_never_wake_up(&named);
    for server in &servers {
        server.signal(Signal::SIGUSR2);
    }
    for client in waiting {
        assert_eq!(exchange_line(&client, ""), "hello\n");
        finish(&client);
    }
    for server in servers {
        stop(server);
    }
}

fn a_function_runs_at_a_signal_under_every_strategy() {
    for strategy in STRATEGIES {
        let mut server = start(strategy);
        finish(&in_progress(&server));
        server.signal(Signal::SIGHUP);
        let line = format!("hangup in {} of 1\n", server.id());
        assert_eq!(server.line(), line, "{strategy}");
        stop(server);
    }
}

fn a_function_runs_while_all_workers_are_busy() {
    let mut server = start("pool");
    let client = in_progress(&server);
    server.signal(Signal::SIGUSR2);
    server.signal(Signal::SIGHUP);
    assert!(server.line().starts_with("hangup in "));
    assert_echoes(&client);
    finish(&client);
    // Suspended by then: it waits.
    let waiting = connect_to(server.address());
    (&waiting).write_all(b"hello\n").unwrap();
    assert_waits(&waiting);
    server.signal(Signal::SIGUSR2);
    assert_eq!(exchange_line(&waiting, ""), "hello\n");
    finish(&waiting);
    stop(server);
}

/// The signal's handler has run.
#[track_caller]
fn wait_until_taken(server: &Process, signal: Signal) {
    wait_until("the signal is taken", || !server.is_pending(signal));
}

fn a_busy_bare_server_runs_a_function_afterwards() {
    let mut server = start("sync");
    let client = in_progress(&server);
    server.signal(Signal::SIGHUP);
    wait_until_taken(&server, Signal::SIGHUP);
    assert_echoes(&client);
    finish(&client);
    assert!(server.line().starts_with("hangup in "));
    stop(server);
}

fn a_function_runs_while_the_server_drains() {
    for strategy in ["threading", "forking", "pool"] {
        let mut server = start(strategy);
        // It has not said anything yet, so it is waited for.
        let client = connect_to(server.address());
        wait_until_accepted(&client);
        server.signal(Signal::SIGTERM);
        wait_until_taken(&server, Signal::SIGTERM);
        server.signal(Signal::SIGHUP);
        assert!(server.line().starts_with("hangup in "), "{strategy}");
        finish(&client);
        assert_eq!(server.end().status.code(), Some(0), "{strategy}");
    }
}

// ----- Functions ---------------------------------------------------------------------------------

/// A server of this process that runs a function at SIGUSR1; the signal does nothing else to the process.
fn with_function(run: impl Fn(&ServerHandle) + Send + Sync + 'static) -> Running {
    bare().threading().on_signal(signal::SIGUSR1, run).spawn().unwrap()
}

fn send_usr1() {
    kill(Pid::this(), Signal::SIGUSR1).unwrap();
}

fn a_function_that_panics_costs_nothing() {
    let running = with_function(|_| std::panic::resume_unwind(Box::new("as told")));
    send_usr1();
    let line = "ERROR a signal's action panicked: as told".to_owned();
    wait_until("it has panicked", || logged().contains(&line));
    let client = connect(running.server_address());
    assert_echoes(&client);
    drop(client);
    assert_eq!(running.stop().unwrap().served, 1);
}

fn a_function_that_waits_for_the_server_is_told_that_it_would_for_ever() {
    let told = Arc::new(AtomicBool::new(false));
    let tells = Arc::clone(&told);
    let running = with_function(move |server| {
        let waited = server.shutdown_handle().wait();
        tells.store(waited == Err(WaitError::Deadlock), Ordering::SeqCst);
    });
    send_usr1();
    wait_until("it is told", || told.load(Ordering::SeqCst));
    running.stop().unwrap();
}

fn a_signal_that_comes_often_runs_its_function_at_least_once() {
    let [sent, runs, known] = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
    let in_function = [&sent, &runs, &known].map(Arc::clone);
    let running = with_function(move |_| {
        let [sent, runs, known] = &in_function;
        runs.fetch_add(1, Ordering::SeqCst);
        known.store(sent.load(Ordering::SeqCst), Ordering::SeqCst);
    });
    for often in [1, 2, 10].repeat(50) {
        for _ in 0..often {
            sent.fetch_add(1, Ordering::SeqCst);
            send_usr1();
        }
        // Once more after the last, however many it has run for.
        wait_until("it runs", || {
            known.load(Ordering::SeqCst) == sent.load(Ordering::SeqCst)
        });
    }
    running.stop().unwrap();
    assert!(
        runs.load(Ordering::SeqCst) <= sent.load(Ordering::SeqCst),
        "it runs for a signal"
    );
}

fn a_function_that_calls_for_itself_keeps_nobody_from_being_served() {
    let running = with_function(|_| send_usr1());
    send_usr1();
    let client = connect(running.server_address());
    assert_echoes(&client);
    finish(&client);
    assert_eq!(running.stop().unwrap().served, 1);
}

/// "Suspend" and "resume" in close order would else leave the server suspended, and one that asks the state and changes
/// it would be mistaken.
fn functions_of_two_signals_run_one_after_the_other() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let [first, second] = [(); 2].map(|()| {
        let told = Arc::clone(&told);
        move |what: &'static str| told.lock().unwrap().push(what)
    });
    let address = Arc::new(OnceLock::<Address>::new());
    let asked = Arc::clone(&address);
    let running = bare()
        .thread_pool()
        .workers(2)
        .on_signal(signal::SIGUSR1, move |_: &ServerHandle| {
            first("the first begins");
            kill(Pid::this(), Signal::SIGUSR2).unwrap();
            // The other thread has looked at everything before it accepts the second.
            for _ in 0..2 {
                let client = connect(asked.wait());
                assert_echoes(&client);
                finish(&client);
            }
            first("the first has ended");
        })
        .on_signal(signal::SIGUSR2, move |_: &ServerHandle| second("the second"))
        .spawn()
        .unwrap();
    address.set(running.server_address().clone()).unwrap();
    send_usr1();
    wait_until("both have run", || told.lock().unwrap().len() == 3);
    running.stop().unwrap();
    let told = told.lock().unwrap();
    assert_eq!(*told, ["the first begins", "the first has ended", "the second"]);
}

// ----- The other actions -------------------------------------------------------------------------

fn the_stats_are_dumped_at_a_signal_under_every_strategy() {
    for strategy in STRATEGIES {
        let mut server = start(strategy);
        let client = in_progress(&server);
        if strategy == "sync" {
            // Its loop is busy.
            finish(&client);
        }
        server.signal(Signal::SIGUSR1);
        server.wait_for_errors_with(if strategy == "sync" {
            " accepted=1 "
        } else {
            " connection=1 "
        });
        let own = client.local_addr().unwrap();
        drop(client);
        let ended = stop(server);
        assert!(ended.errors.contains(" accepted=1 "), "{strategy}: {ended:?}");
        let line = format!("connection=1 client={own} age=");
        assert_eq!(
            ended.errors.contains(&line),
            strategy != "sync",
            "{strategy}: {ended:?}"
        );
        let bytes = " received=6 sent=";
        let in_this_process = ["threading", "pool"].contains(&strategy);
        assert_eq!(ended.errors.contains(bytes), in_this_process, "{strategy}: {ended:?}");
    }
}

#[track_caller]
fn assert_forced(strategy: &str, ended: &Ended) {
    assert_eq!(ended.status.code(), Some(0), "{strategy}: {ended:?}");
    assert!(ended.output.ends_with(" forced=1 leaked=0\n"), "{strategy}: {ended:?}");
}

fn a_second_sigint_stops_at_once_under_every_strategy() {
    for strategy in STRATEGIES {
        let server = start(strategy);
        // It has not said anything yet, so it is waited for.
        let client = connect_to(server.address());
        wait_until_accepted(&client);
        server.signal(Signal::SIGINT);
        wait_until_taken(&server, Signal::SIGINT);
        assert_waits(&client);
        server.signal(Signal::SIGINT);
        assert_eq!((&client).read(&mut [0]).unwrap(), 0);
        assert_forced(strategy, &server.end());
    }
}

fn a_stop_signal_stops_at_once_under_every_strategy() {
    for strategy in STRATEGIES.into_iter().chain(["prefork"]) {
        let server = start(strategy);
        let client = connect_to(server.address());
        wait_until_accepted(&client);
        server.signal(Signal::SIGQUIT);
        assert_eq!((&client).read(&mut [0]).unwrap(), 0);
        let ended = server.end();
        assert_forced(strategy, &ended);
        // A worker ends its requests by itself, as threads do; a child is told to end.
        let failed = u32::from(strategy == "forking");
        let counts = format!("stopped: served={} failed={failed} ", 1 - failed);
        assert!(ended.output.starts_with(&counts), "{strategy}: {ended:?}");
    }
}

// ----- PreFork -----------------------------------------------------------------------------------

fn the_master_of_a_prefork_server_counts_the_requests_of_its_workers() {
    let mut server = start("prefork");
    for _ in 0..3 {
        finish(&in_progress(&server));
    }
    let client = in_progress(&server);
    server.signal(Signal::SIGUSR1);
    server.signal(Signal::SIGHUP);
    assert!(server.line().ends_with(" of 4\n"));
    finish(&client);
    let ended = stop(server);
    let counts = "state=serving accepted=4 refused=0 rejected=0 waiting=0 started=4 running=";
    assert!(ended.errors.contains(counts), "{ended:?}");
    assert!(ended.output.starts_with("stopped: served=4 failed=0 "), "{ended:?}");
}

fn the_master_of_a_prefork_server_counts_those_that_wait_in_its_workers() {
    let server = bare().max_per_address(1).threading().prefork().workers(1);
    let running = server.spawn().unwrap();
    let counts = || {
        let stats = running.handle().stats();
        (stats.started, stats.running, stats.waiting)
    };
    let first = connect(running.server_address());
    assert_echoes(&first);
    let second = connect(running.server_address());
    second.shutdown(Shutdown::Write).unwrap();
    wait_until("it waits", || running.handle().stats().accepted == 2);
    assert_eq!(counts(), (1, 1, 1));
    finish(&first);
    wait_until("both have ended", || running.handle().stats().served == 2);
    assert_eq!(counts(), (2, 0, 0));
    assert_eq!(running.stop().unwrap().served, 2);
}

/// Nobody is served until it is resumed.
#[track_caller]
fn assert_is_suspended(server: Process) {
    let clients = [(); 3].map(|()| connect_to(server.address()));
    for mut client in &clients {
        client.write_all(b"hello\n").unwrap();
    }
    clients.iter().for_each(assert_waits);
    server.signal(Signal::SIGUSR2);
    for client in &clients {
        assert_eq!(exchange_line(client, ""), "hello\n");
        finish(client);
    }
    stop(server);
}

fn the_workers_of_a_prefork_server_are_suspended_by_their_master() {
    let mut server = start("prefork");
    finish(&in_progress(&server));
    server.signal(Signal::SIGUSR2);
    // By then the master has seen to both, and the workers hear of it in a moment.
    server.signal(Signal::SIGHUP);
    assert!(server.line().starts_with("hangup in "));
    wait_until("the workers accept nobody", || {
        let client = connect_to(server.address());
        client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        (&client).write_all(b"hello\n").unwrap();
        (&client).read(&mut [0]).is_err()
    });
    assert_is_suspended(server);
}

fn a_prefork_server_that_is_suspended_from_the_start_resumes() {
    assert_is_suspended(start("prefork suspended"));
}

fn sighup_of_a_prefork_server_reloads_and_runs_its_function() {
    let mut server = start("prefork");
    wait_until("both workers are there", || children_of(server.id()).len() == 2);
    let before = children_of(server.id());
    server.signal(Signal::SIGHUP);
    assert!(server.line().starts_with("hangup in "));
    wait_until("both are replaced", || {
        let now = children_of(server.id());
        now.len() == 2 && before.iter().all(|worker| !now.contains(worker))
    });
    finish(&in_progress(&server));
    let ended = stop(server);
    assert!(ended.errors.contains("replacing 2 workers, one by one"), "{ended:?}");
}

fn the_action_set_last_holds() {
    let first = Gate::default();
    let opens = first.clone();
    let running = bare()
        .threading()
        .on_signal(signal::SIGUSR1, |server: &ServerHandle| {
            server.shutdown_handle().shutdown();
        })
        .on_signal(signal::SIGUSR1, move |_: &ServerHandle| opens.open())
        .spawn()
        .unwrap();
    send_usr1();
    first.wait();
    assert_eq!(running.handle().state(), State::Serving);
    running.stop().unwrap();
}

/// SIGUSR1 drains, until something else is set for it.
fn serves_with_signals_set_after_binding() {
    fn serve(server: impl BaseServer) {
        let server = server.bind().unwrap();
        println!("listening on {}", server.server_address());
        let report = server
            .shutdown_on_signals([signal::SIGTERM])
            .on_signal(signal::SIGUSR1, |_: &ServerHandle| println!("the function set last"))
            .serve_forever();
        println!("stopped: {}", report.unwrap());
    }
    let server = bare().on_signal(signal::SIGUSR1, SignalAction::Drain);
    match env::var(STRATEGY).unwrap().as_str() {
        "sync" => serve(server),
        "threading" => serve(server.threading()),
        "forking" => serve(server.forking()),
        _ => serve(server.thread_pool().workers(1)),
    }
}

fn actions_set_after_binding_hold_from_serving_on_under_every_strategy() {
    for strategy in STRATEGIES {
        let mut server = Process::start(role("serves_with_signals_set_after_binding").env(STRATEGY, strategy));
        let client = connect_to(server.address());
        assert_echoes(&client);
        finish(&client);
        server.signal(Signal::SIGUSR1);
        assert_eq!(server.line(), "the function set last\n", "{strategy}");
        server.signal(Signal::SIGTERM);
        assert_stops(server, "served=1 failed=0");
    }
}

fn signals_do_the_default_in_a_child() {
    let runs = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&runs);
    let run = move |_: &ServerHandle| {
        counts.fetch_add(1, Ordering::SeqCst);
    };
    let running = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS)
        .on_signal(signal::SIGUSR1, run.clone())
        .on_signal(signal::SIGHUP, run)
        .on_signal(signal::SIGQUIT, SignalAction::Stop)
        .spawn()
        .unwrap();
    for signal in [Signal::SIGUSR1, Signal::SIGHUP, Signal::SIGQUIT] {
        let client = connect(running.server_address());
        let child = told_process(&client);
        kill(pid(child), signal).unwrap();
        assert_eq!(read_to_end(&client), b"");
        wait_until("it is reaped", || process_state(child).is_none());
        let ended = std::process::ExitStatus::from_raw(signal as i32).to_string();
        wait_until("it is told", || logged().iter().any(|line| line.contains(&ended)));
    }
    assert_eq!(runs.load(Ordering::SeqCst), 0);
    assert_eq!(running.handle().state(), State::Serving);
    assert_eq!(running.stop().unwrap().failed, 3);
}

fn signals_are_listened_to_from_binding_on() {
    let gate = Gate::default();
    let opens = gate.clone();
    let server = bare().on_signal(signal::SIGUSR1, move |_: &ServerHandle| opens.open());
    let server = server.bind().unwrap();
    send_usr1();
    let running = server.spawn().unwrap();
    gate.wait();
    running.stop().unwrap();
}

/// As if whoever started the program had blocked them, and forgotten that (sigprocmask(2)).
fn serves_with_signals_blocked_at_first() {
    SigSet::all().thread_block().unwrap();
    serves_with_signals();
}

fn signals_are_heard_that_were_blocked_when_the_program_was_started_under_every_strategy() {
    for strategy in STRATEGIES.into_iter().chain(["prefork"]) {
        let mut command = role("serves_with_signals_blocked_at_first");
        let mut server = Process::start(command.env(STRATEGY, strategy));
        for _ in 0..3 {
            let client = in_progress(&server);
            finish(&client);
        }
        if strategy == "forking" {
            wait_until("the children are reaped", || children_of(server.id()).is_empty());
        }
        server.signal(Signal::SIGHUP);
        assert!(server.line().starts_with("hangup in "), "{strategy}");
        assert!(stop(server).output.starts_with("stopped: served=3 "), "{strategy}");
    }
}

fn a_real_time_signal_is_heard_that_was_blocked_when_the_program_was_started() {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&runs);
    let server = bare().on_signal(40, move |_: &ServerHandle| {
        counts.fetch_add(1, Ordering::SeqCst);
    });
    let running = server.spawn().unwrap();
    kill_by_number(40, std::process::id());
    wait_until("its function has run", || runs.load(Ordering::SeqCst) == 1);
    running.stop().unwrap();
    before.thread_set_mask().unwrap();
}

#[track_caller]
fn assert_a_new_server_hears() {
    let heard = Gate::default();
    let opens = heard.clone();
    let running = with_function(move |_| opens.open());
    send_usr1();
    heard.wait();
    running.stop().unwrap();
}

fn after_the_end_a_signal_runs_nothing() {
    let runs = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&runs);
    let running = with_function(move |_| {
        counts.fetch_add(1, Ordering::SeqCst);
    });
    let handle = running.handle();
    running.stop().unwrap();
    send_usr1();
    // Another server of this process hears of it, which shows that the signal has come.
    assert_a_new_server_hears();
    assert_eq!(runs.load(Ordering::SeqCst), 0);
    assert_eq!(handle.state(), State::Closed);
}

fn a_signal_that_is_ignored_since_another_server_has_listened_to_it_is_heard() {
    let before = with_function(|_| {});
    ignore(Signal::SIGUSR1);
    assert_a_new_server_hears();
    before.stop().unwrap();
}

fn a_signal_that_cannot_be_caught_is_refused() {
    let server = bare().on_signal(signal::SIGKILL, |_: &ServerHandle| {});
    let error = server.bind().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("signal 9 cannot be caught"), "{error}");
}

fn a_signal_that_cannot_be_caught_set_after_binding_is_refused_when_serving_begins() {
    let place = temp_path("server");
    let server = UnixStreamServer::new(&place.path, EchoLine).bind().unwrap();
    let error = server
        .on_signal(signal::SIGKILL, |_: &ServerHandle| {})
        .spawn()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("signal 9 cannot be caught"), "{error}");
    assert!(!place.path.exists());
}

//! Servers that fork: how many children there are, how they end, what they share with their parent.
//!
//! A child has a copy of every descriptor of this process, the clients' ends included: an end of
//! stream comes from `shutdown`, not from dropping a client.

mod support;

use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::unistd::gettid;
use socketserver::prelude::*;
use socketserver::{Active, Cause, Force, Handled, Phase, State, Tcp};
use support::interrupt::wait_until_asleep;
use support::journal::{Pen, journal};
use support::process::{Process, echo, pid, role, serve_as_role};
use support::talk::{ECHO_LINES, Handler, TELL_PROCESS, finish, told_process};
use support::unix::{connect_unix, unix_datagram_client};
use support::{
    CEILING, EchoLine, children, connect, connect_from, exchange_line, is_listening, kill_by_number, logged,
    process_state, read_to_end, temp_path, udp_client, uninterrupted, wait_until, wait_until_draining,
};

tests![
    roles: serves_from_the_main_thread, serves_beside_a_thread;
    each_request_has_a_process_of_its_own,
    at_max_children_a_client_waits_in_the_queue,
    at_max_children_a_shutdown_is_noticed_at_once,
    at_max_children_the_queue_is_served_before_the_end,
    max_children_are_forty_unless_set,
    never_more_than_max_children_at_once,
    active_children_are_told,
    a_child_is_reaped_at_once_although_the_server_is_idle,
    many_children_that_end_together_are_all_reaped,
    a_child_of_the_program_is_left_to_the_program,
    a_child_that_the_program_has_reaped_counts_as_failed,
    two_servers_of_one_program_reap_their_own_children,
    a_child_of_one_server_does_not_keep_the_connections_of_another_open,
    forcing_spares_descriptors_that_are_somebody_elses_by_now,
    a_child_that_was_killed_costs_its_own_request_only,
    a_child_that_a_real_time_signal_has_killed_is_reaped,
    a_child_that_exits_with_a_status_of_its_own_is_told,
    an_error_in_a_child_is_reported_in_the_child,
    a_panic_in_a_child_is_reported_in_the_child,
    what_a_handler_changes_stays_in_the_child,
    the_listening_socket_is_closed_in_the_child,
    signals_do_the_default_in_the_child,
    sigterm_ends_a_child_although_the_program_listens_to_it,
    sigterm_ends_a_child_although_it_was_blocked_when_the_program_was_started,
    a_child_of_a_connection_that_was_closed_before_the_fork_is_told_to_end,
    a_child_that_is_ended_as_it_begins_does_not_stop_the_server,
    a_server_in_a_child_hears_of_its_own_children,
    a_server_in_a_child_hears_of_its_own_signals,
    a_server_in_a_child_hears_of_a_signal_that_the_program_listens_to_by_itself,
    a_child_ends_without_running_the_programs_exit,
    other_threads_are_warned_of,
    a_program_without_other_threads_is_not_warned,
    a_handlers_shutdown_in_a_child_stops_the_parent,
    a_handlers_shutdown_in_a_child_stops_another_server_that_waits,
    a_handlers_shutdown_in_a_child_tells_an_idle_connection_of_another_server,
    a_child_sees_that_the_parent_drains,
    mix_ins_take_effect_inside_and_outside,
    process_request_outside_runs_in_the_parent_once,
    errors_of_children_take_effect_inside_and_outside,
    service_actions_that_panic_keep_no_child_from_being_reaped,
    hooks_of_the_end_that_panic_leave_no_child_behind,
    a_hook_that_panics_in_the_child_costs_one_request,
    three_mix_ins_call_each_other_in_the_child,
    handle_request_forks,
    handle_request_reaps_what_ended_before,
    a_server_that_is_dropped_leaves_no_zombie,
    a_thread_that_waits_for_a_place_hears_of_a_child_after_another_has_gone,
    closing_waits_for_the_children,
    children_that_do_not_end_are_terminated_at_the_deadline,
    children_that_block_sigterm_are_killed,
    a_udp_child_replies,
    a_unix_datagram_child_replies,
    a_unix_stream_child_replies,
];

const ANY_PORT: &str = "127.0.0.1:0";

/// A signal without a name.
const REAL_TIME: i32 = 40;

fn counts(report: Report) -> (u64, u64) {
    (report.served, report.failed)
}

/// A client of [`TELL_PROCESS`] and the process that serves it.
#[track_caller]
fn client_in_progress(address: &Address) -> (TcpStream, u32) {
    let client = connect(address);
    let process = told_process(&client);
    (client, process)
}

#[track_caller]
fn wait_until_reaped() {
    wait_until("there is no child, not even a zombie", || children().is_empty());
}

fn each_request_has_a_process_of_its_own() {
    let running = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).spawn().unwrap();
    let (one, first) = client_in_progress(running.server_address());
    let (two, second) = client_in_progress(running.server_address());
    assert_ne!(first, second);
    let mut expected = [first, second];
    expected.sort_unstable();
    assert_eq!(children(), expected);
    finish(&one);
    finish(&two);
    assert_eq!(counts(running.stop().unwrap()), (2, 0));
}

// ----- How many ----------------------------------------------------------------------------------

/// Notes what is accepted, in the parent.
struct Noting<S>(S, &'static str, Pen);

impl<S> Noting<S> {
    fn note(&self, hook: &str) {
        self.2.note(format_args!("{hook} {}", self.1));
    }
}

impl<S: BaseServer> BaseServer for Noting<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn verify_request(&self, request: &RequestOf<Self>, client_address: &Address) -> bool {
        self.note("verify_request");
        self.0.verify_request(request, client_address)
    }

    fn process_request(&self, job: Job<S::Transport>) {
        self.note("process_request");
        self.0.process_request(job);
    }

    fn finish_request(&self, active: &mut Active<S::Transport>) -> HandlerResult {
        self.note("finish_request");
        self.0.finish_request(active)
    }

    fn handle_error(&self, error: &RequestError) {
        self.2.note(format_args!("handle_error {}: {error}", self.1));
        self.0.handle_error(error);
    }

    fn shutdown_request(&self, request: &mut RequestOf<Self>) {
        self.note("shutdown_request");
        self.0.shutdown_request(request);
    }

    fn close_request(&self, request: RequestOf<Self>) {
        self.note("close_request");
        self.0.close_request(request);
    }
}

fn at_max_children_a_client_waits_in_the_queue() {
    let (journal, pen) = journal();
    let server = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).max_children(1);
    let running = Noting(server, "", pen).spawn().unwrap();
    let (stuck, process) = client_in_progress(running.server_address());
    let waiting = connect(running.server_address());
    // Nothing is to happen: this only gives it the time to.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(journal.count("verify_request"), 1, "the second client is not accepted");
    assert_eq!(children(), [process]);
    finish(&stuck);
    let next = told_process(&waiting);
    assert_ne!(next, process);
    finish(&waiting);
    assert_eq!(counts(running.stop().unwrap()), (2, 0));
}

fn at_max_children_a_shutdown_is_noticed_at_once() {
    let running = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS)
        .max_children(1)
        .spawn()
        .unwrap();
    let (stuck, process) = client_in_progress(running.server_address());
    running.shutdown_handle().shutdown();
    wait_until_draining(&running.shutdown_handle());
    assert_eq!(children(), [process], "the child goes on");
    finish(&stuck);
    assert_eq!(counts(running.join().unwrap()), (1, 0));
}

fn at_max_children_the_queue_is_served_before_the_end() {
    let running = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS)
        .max_children(1)
        .spawn()
        .unwrap();
    let (stuck, _) = client_in_progress(running.server_address());
    let waiting: Vec<_> = (0..3).map(|_| connect(running.server_address())).collect();
    running.shutdown_handle().shutdown();
    wait_until_draining(&running.shutdown_handle());
    finish(&stuck);
    for client in &waiting {
        assert_ne!(exchange_line(client, ""), "");
        finish(client);
    }
    assert_eq!(counts(running.join().unwrap()), (4, 0));
}

fn max_children_are_forty_unless_set() {
    let (journal, pen) = journal();
    let running = Noting(ForkingTcpServer::new(ANY_PORT, TELL_PROCESS), "", pen)
        .spawn()
        .unwrap();
    let clients: Vec<_> = (0..40)
        .map(|_| client_in_progress(running.server_address()).0)
        .collect();
    let beyond = connect(running.server_address());
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(journal.count("verify_request"), 40);
    assert_eq!(children().len(), 40);
    clients.iter().for_each(finish);
    assert_ne!(exchange_line(&beyond, ""), "");
    finish(&beyond);
    assert_eq!(counts(running.stop().unwrap()), (41, 0));
}

fn never_more_than_max_children_at_once() {
    let (journal, pen) = journal();
    let handler = move |request: &mut TcpRequest| {
        pen.note("begins");
        TELL_PROCESS(request)?;
        pen.note("ends");
        io::Result::Ok(())
    };
    let running = ForkingTcpServer::new(ANY_PORT, handler)
        .max_children(3)
        .spawn()
        .unwrap();
    let clients: Vec<_> = (0..60).map(|_| connect(running.server_address())).collect();
    // Each stays until it is told to go: were there no limit, all would be there at once.
    for client in &clients {
        told_process(client);
        finish(client);
    }
    assert_eq!(counts(running.stop().unwrap()), (60, 0));
    let (mut now, mut most) = (0, 0);
    for event in journal.events() {
        now += if event == "begins" { 1 } else { -1 };
        most = most.max(now);
    }
    assert!((1..=3).contains(&most), "{most} at once");
}

fn active_children_are_told() {
    let server = Arc::new(ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).bind().unwrap());
    assert_eq!(server.active_children(), 0);
    let client = connect(&server.server_address());
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    assert_eq!(server.active_children(), 1);
    assert_ne!(exchange_line(&client, ""), "");
    finish(&client);
    server.close().unwrap();
    assert_eq!(server.active_children(), 0);
}

// ----- How they end ------------------------------------------------------------------------------

fn a_child_is_reaped_at_once_although_the_server_is_idle() {
    let running = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).spawn().unwrap();
    for _ in 0..20 {
        let (client, process) = client_in_progress(running.server_address());
        assert_eq!(children(), [process]);
        finish(&client);
        // No other request comes that would make the loop look.
        wait_until_reaped();
        assert_eq!(process_state(process), None);
    }
    assert_eq!(counts(running.stop().unwrap()), (20, 0));
}

fn many_children_that_end_together_are_all_reaped() {
    let running = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).spawn().unwrap();
    let clients: Vec<_> = (0..30)
        .map(|_| client_in_progress(running.server_address()).0)
        .collect();
    for client in &clients {
        client.shutdown(Shutdown::Write).unwrap();
    }
    wait_until_reaped();
    assert_eq!(counts(running.stop().unwrap()), (30, 0));
}

fn a_child_of_the_program_is_left_to_the_program() {
    let mut before = Command::new("sh").args(["-c", "exit 72"]).spawn().unwrap();
    let mut meanwhile = Command::new("sh")
        .args(["-c", "read _; exit 73"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let running = ForkingTcpServer::new(ANY_PORT, EchoLine)
        .max_children(1)
        .spawn()
        .unwrap();
    let zombie = |process: u32| move || process_state(process).as_deref() == Some("Z");
    wait_until("one has ended", zombie(before.id()));
    for _ in 0..5 {
        assert_eq!(exchange_line(connect(running.server_address()), "hello\n"), "hello\n");
    }
    drop(meanwhile.stdin.take());
    wait_until("the other has ended, too", zombie(meanwhile.id()));
    for _ in 0..5 {
        assert_eq!(exchange_line(connect(running.server_address()), "hello\n"), "hello\n");
    }
    assert_eq!(counts(running.stop().unwrap()), (10, 0));
    assert_eq!(before.wait().unwrap().code(), Some(72));
    assert_eq!(meanwhile.wait().unwrap().code(), Some(73));
}

/// As a program does that waits for any child: nobody can know the status any more.
fn a_child_that_the_program_has_reaped_counts_as_failed() {
    let server = Arc::new(ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).bind().unwrap());
    let client = connect(&server.server_address());
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    let process = told_process(&client);
    finish(&client);
    nix::sys::wait::waitpid(pid(process), None).unwrap();
    assert_eq!(counts(server.close().unwrap()), (0, 1));
    assert_eq!(server.active_children(), 0);
    let text =
        format!("WARN child {process} was reaped by another part of this program; what it served counts as failed");
    assert_eq!(logged(), [text]);
}

fn two_servers_of_one_program_reap_their_own_children() {
    let spawn = || ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).spawn().unwrap();
    let servers = [spawn(), spawn()];
    let clients = servers
        .each_ref()
        .map(|running| client_in_progress(running.server_address()).0);
    assert_eq!(children().len(), 2);
    clients.iter().for_each(finish);
    wait_until_reaped();
    for running in servers {
        assert_eq!(counts(running.stop().unwrap()), (1, 0));
    }
}

/// The child has a copy of every descriptor: closing does not end a stream then.
fn a_child_of_one_server_does_not_keep_the_connections_of_another_open() {
    fn check(other: impl BaseServer<Transport = Tcp>) {
        let other = other.spawn().unwrap();
        let client = connect(other.server_address());
        assert_eq!(exchange_line(&client, ""), "begun\n");
        let forking = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).spawn().unwrap();
        let (stays, child) = client_in_progress(forking.server_address());
        finish(&client);
        assert!(children().contains(&child), "it has a copy of that connection");
        finish(&stays);
        assert_eq!(counts(forking.stop().unwrap()), (1, 0));
        assert_eq!(counts(other.stop().unwrap()), (1, 0));
    }
    let handler = |request: &mut TcpRequest| -> io::Result<()> {
        request.write_all(b"begun\n")?;
        request.read_to_end(&mut Vec::new()).map(drop)
    };
    check(TcpServer::new(ANY_PORT, handler));
    check(ThreadingTcpServer::new(ANY_PORT, handler));
    check(ThreadPoolTcpServer::new(ANY_PORT, handler));
}

/// The parent has closed its copy of the connection, and its number is given to another socket.
fn forcing_spares_descriptors_that_are_somebody_elses_by_now() {
    let server = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).drain_timeout(Duration::ZERO);
    let running = server.spawn().unwrap();
    let (client, _) = client_in_progress(running.server_address());
    let others: Vec<_> = (0..5).map(|_| UnixStream::pair().unwrap()).collect();
    assert_eq!(running.stop().unwrap().forced, 1);
    for (mut one, other) in others {
        one.write_all(b"still here\n").unwrap();
        assert_eq!(exchange_line(other, "\n"), "still here\n");
    }
    assert_eq!(read_to_end(client), b"");
}

/// Notes how children ended.
struct Ends<S>(S, Pen);

impl<S: BaseServer> BaseServer for Ends<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn handle_error(&self, error: &RequestError) {
        let Cause::Exit(status) = error.cause() else {
            panic!("{error:?}");
        };
        assert_eq!(error.phase(), Phase::Handle);
        let client = error.client_address();
        self.1
            .note(format_args!("{client}: {:?} {:?}", status.signal(), status.code()));
        self.0.handle_error(error);
    }
}

fn a_child_that_was_killed_costs_its_own_request_only() {
    let (journal, pen) = journal();
    let running = Ends(ForkingTcpServer::new(ANY_PORT, TELL_PROCESS), pen)
        .spawn()
        .unwrap();
    let (spared, _) = client_in_progress(running.server_address());
    let (client, process) = client_in_progress(running.server_address());
    let address = client.local_addr().unwrap();
    kill(pid(process), Signal::SIGKILL).unwrap();
    assert_eq!(read_to_end(client), b"");
    wait_until("it is reaped", || process_state(process).is_none());
    let (next, _) = client_in_progress(running.server_address());
    finish(&next);
    finish(&spared);
    assert_eq!(counts(running.stop().unwrap()), (2, 1));
    let told = journal.entries();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].event, format!("{address}: Some(9) None"));
    assert_eq!(told[0].process, std::process::id(), "the parent tells");
    assert!(
        logged().contains(&format!(
            "ERROR the process serving {address} ended: signal: 9 (SIGKILL)"
        )),
        "{:?}",
        logged()
    );
}

fn a_child_that_a_real_time_signal_has_killed_is_reaped() {
    let (journal, pen) = journal();
    let server = Ends(ForkingTcpServer::new(ANY_PORT, TELL_PROCESS), pen);
    let running = server.max_connections(1).spawn().unwrap();
    for _ in 0..2 {
        let (client, process) = client_in_progress(running.server_address());
        kill_by_number(REAL_TIME, process);
        assert_eq!(read_to_end(&client), b"");
    }
    assert_eq!(counts(running.stop().unwrap()), (0, 2));
    assert!(journal.events().iter().all(|end| end.ends_with(": Some(40) None")));
}

fn a_child_that_exits_with_a_status_of_its_own_is_told() {
    let exits = |request: &mut TcpRequest| -> io::Result<()> {
        let mut status = String::new();
        request.read_line(&mut status)?;
        std::process::exit(status.trim().parse().unwrap())
    };
    let (journal, pen) = journal();
    let running = Ends(ForkingTcpServer::new(ANY_PORT, exits), pen).spawn().unwrap();
    let client = connect(running.server_address());
    let address = client.local_addr().unwrap();
    assert_eq!(exchange_line(client, "72\n"), "");
    assert_eq!(exchange_line(connect(running.server_address()), "0\n"), "");
    assert_eq!(counts(running.stop().unwrap()), (1, 1));
    assert_eq!(journal.events(), [format!("{address}: None Some(72)")]);
}

#[track_caller]
fn assert_reported_in_the_child(handler: fn(&mut TcpRequest) -> HandlerResult, expected: &str) {
    let (journal, pen) = journal();
    let running = Noting(ForkingTcpServer::new(ANY_PORT, handler), "", pen)
        .spawn()
        .unwrap();
    let client = connect(running.server_address());
    let address = client.local_addr().unwrap().to_string();
    assert_eq!(read_to_end(client), b"");
    assert_eq!(counts(running.stop().unwrap()), (0, 1));
    let told = journal.of("handle_error");
    assert_eq!(told.len(), 1, "reported once: {told:?}");
    assert_eq!(
        told[0].event,
        format!("handle_error : {}", expected.replace("PEER", &address))
    );
    assert_ne!(told[0].process, std::process::id());
}

fn an_error_in_a_child_is_reported_in_the_child() {
    assert_reported_in_the_child(|_| Err("out of cheese".into()), "handle failed for PEER: out of cheese");
}

fn a_panic_in_a_child_is_reported_in_the_child() {
    assert_reported_in_the_child(|_| panic!("out of cheese"), "handle panicked for PEER: out of cheese");
}

// ----- What they share ---------------------------------------------------------------------------

fn what_a_handler_changes_stays_in_the_child() {
    let counter = Arc::new(AtomicU32::new(0));
    let in_handler = Arc::clone(&counter);
    let count = move |request: &mut TcpRequest| {
        let before = in_handler.fetch_add(1, Ordering::SeqCst);
        writeln!(request, "{before}")
    };
    let running = ForkingTcpServer::new(ANY_PORT, count).spawn().unwrap();
    for _ in 0..3 {
        assert_eq!(read_to_end(connect(running.server_address())), b"0\n");
    }
    running.stop().unwrap();
    assert_eq!(counter.load(Ordering::SeqCst), 0);
}

/// Else the port would stay taken, and clients in its queue unserved, until the last child has ended.
fn the_listening_socket_is_closed_in_the_child() {
    let running = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).spawn().unwrap();
    let address = running.server_address().clone();
    let (client, process) = client_in_progress(&address);
    running.shutdown_handle().shutdown();
    wait_until("nobody listens", || !is_listening(&address.to_string()));
    assert_eq!(children(), [process], "the child is alive");
    let next = TcpServer::new(address, EchoLine).bind().unwrap();
    drop(next);
    finish(&client);
    running.join().unwrap();
}

/// The signals that `/proc/self/status` lists in a mask.
fn signals(mask: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(mask)).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

fn signals_do_the_default_in_the_child() {
    let tell = |request: &mut TcpRequest| {
        let caught = signals("SigCgt:");
        let is_caught = |signal: i32| caught & (1 << (signal - 1)) != 0;
        let list = [signal::SIGTERM, signal::SIGHUP, signal::SIGCHLD, REAL_TIME].map(is_caught);
        writeln!(request, "{list:?} {}", is_caught(signal::SIGINT))
    };
    let server = ForkingTcpServer::new(ANY_PORT, tell);
    let server = server.shutdown_on_signals([signal::SIGTERM, signal::SIGHUP, signal::SIGINT, REAL_TIME]);
    let running = server.spawn().unwrap();
    // Of the terminal's SIGINT the parent decides: it is caught, and nothing comes of it.
    assert_eq!(
        read_to_end(connect(running.server_address())),
        b"[false, false, false, false] true\n"
    );
    running.stop().unwrap();
}

fn sigterm_ends_a_child_although_the_program_listens_to_it() {
    let told = Arc::default();
    let listening = signal_hook::flag::register(signal::SIGTERM, Arc::clone(&told)).unwrap();
    let (journal, pen) = journal();
    let running = Ends(ForkingTcpServer::new(ANY_PORT, TELL_PROCESS), pen)
        .spawn()
        .unwrap();
    let (client, process) = client_in_progress(running.server_address());
    kill(pid(process), Signal::SIGTERM).unwrap();
    assert_eq!(read_to_end(&client), b"");
    assert_eq!(counts(running.stop().unwrap()), (0, 1));
    assert_eq!(
        journal.events(),
        [format!("{}: Some(15) None", client.local_addr().unwrap())]
    );
    assert!(!told.load(Ordering::SeqCst), "it was not the program's");
    signal_hook::low_level::unregister(listening);
}

fn sigterm_ends_a_child_although_it_was_blocked_when_the_program_was_started() {
    // Whoever started it may have forgotten that, or it has a thread that waits for the signal (sigwait(3)).
    let sigterm = SigSet::from(Signal::SIGTERM);
    sigterm.thread_block().unwrap();
    let running = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).spawn().unwrap();
    sigterm.thread_unblock().unwrap();
    let (client, _) = client_in_progress(running.server_address());
    // Until its parent has left the request to it, the child would be told by its connection.
    wait_until("the request is the child's", || {
        running.handle().stats().connections[0].received.is_none()
    });
    assert!(running.handle().close_connection(1));
    assert_eq!(read_to_end(&client), b"");
    assert_eq!(counts(running.stop().unwrap()), (0, 1));
}

/// Closes each connection that is about to have a child.
struct Hasty<S>(S);

impl<S: BaseServer> BaseServer for Hasty<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn process_request(&self, job: Job<S::Transport>) {
        for connection in self.stats().connections {
            assert!(self.handle().close_connection(connection.number));
        }
        self.0.process_request(job);
    }
}

fn a_child_of_a_connection_that_was_closed_before_the_fork_is_told_to_end() {
    // It hears nothing of its connection.
    let handler = |_: &mut TcpRequest| std::thread::sleep(CEILING);
    let running = Hasty(ForkingTcpServer::new(ANY_PORT, handler)).spawn().unwrap();
    let client = connect(running.server_address());
    wait_until("it has ended", || running.handle().stats().failed == 1);
    assert_eq!(read_to_end(&client), b"");
    assert_eq!(counts(running.stop().unwrap()), (0, 1));
}

/// Ends all children at once.
struct Impatient<S>(S);

impl<S: BaseServer> BaseServer for Impatient<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn service_actions(&self) {
        for connection in self.stats().connections {
            self.handle().close_connection(connection.number);
        }
        self.0.service_actions();
    }
}

fn a_child_that_is_ended_as_it_begins_does_not_stop_the_server() {
    let server = Impatient(ForkingTcpServer::new(ANY_PORT, TELL_PROCESS));
    let running = server.shutdown_on_signals([signal::SIGTERM]).spawn().unwrap();
    for _ in 0..20 {
        // It has told its process before it is ended, or not.
        read_to_end(connect(running.server_address()));
    }
    assert_eq!(running.handle().state(), State::Serving);
    assert_eq!(counts(running.stop().unwrap()), (0, 20));
}

fn a_server_in_a_child_hears_of_its_own_children() {
    let serve = |request: &mut TcpRequest| -> io::Result<()> {
        let server = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).drain_timeout(Duration::from_secs(1));
        let server = Arc::new(server.bind()?);
        let client = connect(&server.server_address());
        server.handle_request()?;
        exchange_line(&client, "");
        finish(&client);
        let report = server.close()?;
        write!(request, "{:?}", (report.served, report.failed, report.forced))
    };
    let running = ForkingTcpServer::new(ANY_PORT, serve).spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"(1, 0, 0)");
    assert_eq!(counts(running.stop().unwrap()), (1, 0));
}

/// In a child, serves with a server that a signal stops, which has come.
fn serve_until(signal: Signal) -> impl Fn(&mut TcpRequest) -> io::Result<()> + Clone + Send + Sync {
    move |request: &mut TcpRequest| {
        let server = TcpServer::new(ANY_PORT, EchoLine).shutdown_on_signals([signal as i32]);
        let server = server.bind()?;
        raise(signal)?;
        server.serve_forever()?;
        request.write_all(b"stopped")
    }
}

fn a_server_in_a_child_hears_of_its_own_signals() {
    let server = ForkingTcpServer::new(ANY_PORT, serve_until(Signal::SIGHUP)).shutdown_on_signals([signal::SIGHUP]);
    let running = server.spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"stopped");
    assert_eq!(counts(running.stop().unwrap()), (1, 0));
}

fn a_server_in_a_child_hears_of_a_signal_that_the_program_listens_to_by_itself() {
    let come = Arc::new(AtomicBool::new(false));
    let listening = signal_hook::flag::register(signal::SIGTERM, Arc::clone(&come)).unwrap();
    let server = ForkingTcpServer::new(ANY_PORT, serve_until(Signal::SIGTERM));
    let running = server.spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"stopped");
    assert_eq!(counts(running.stop().unwrap()), (1, 0));
    assert!(!come.load(Ordering::SeqCst), "it was for the child");
    signal_hook::low_level::unregister(listening);
}

fn a_child_ends_without_running_the_programs_exit() {
    struct Loud(Pen);
    impl Drop for Loud {
        fn drop(&mut self) {
            self.0.note("dropped");
        }
    }
    let (journal, pen) = journal();
    let of_the_program = Arc::new(Loud(pen.clone()));
    let in_handler = Arc::clone(&of_the_program);
    let handler = move |request: &mut TcpRequest| {
        in_handler.0.note("handled");
        request.write_all(b"done\n")
    };
    let running = ForkingTcpServer::new(ANY_PORT, handler).spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"done\n");
    running.stop().unwrap();
    drop(of_the_program);
    let entries = journal.entries();
    assert_eq!(journal.events(), ["handled", "dropped"]);
    assert_ne!(entries[0].process, entries[1].process);
}

// ----- Threads -----------------------------------------------------------------------------------

const WARNING: &str = "WARN a forking server in a process with ";

fn other_threads_are_warned_of() {
    let running = ForkingTcpServer::new(ANY_PORT, EchoLine).spawn().unwrap();
    wait_until("it warns", || !logged().is_empty());
    running.stop().unwrap();
    let lines = logged();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let rest = lines[0].strip_prefix(WARNING).unwrap();
    assert_eq!(
        rest,
        "2 threads: a child can deadlock on a lock that another thread holds at the moment of the fork; serve from \
         the main thread and start no others"
    );
}

fn serves_from_the_main_thread() {
    serve_as_role(Warned(ForkingTcpServer::new(ANY_PORT, EchoLine)));
}

fn serves_beside_a_thread() {
    std::thread::spawn(std::thread::park);
    serve_as_role(Warned(ForkingTcpServer::new(ANY_PORT, EchoLine)));
}

/// Logs to standard error, as a program would.
struct Warned<S>(S);

impl<S: BaseServer> BaseServer for Warned<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn server_bind(&self) -> io::Result<()> {
        env_logger::Builder::new().filter_level(log::LevelFilter::Info).init();
        self.0.server_bind()
    }
}

fn a_program_without_other_threads_is_not_warned() {
    for (name, warns) in [("serves_from_the_main_thread", false), ("serves_beside_a_thread", true)] {
        let process = Process::start(&mut role(name));
        let client = TcpStream::connect(process.address()).unwrap();
        assert_eq!(exchange_line(client, "hello\n"), "hello\n");
        process.signal(Signal::SIGTERM);
        let ended = process.end();
        assert!(ended.output.starts_with("stopped: served=1 failed=0 "), "{ended:?}");
        assert_eq!(
            ended.errors.contains("a forking server in a process with 2 threads"),
            warns,
            "{ended:?}"
        );
    }
}

// ----- Stopping from a child ---------------------------------------------------------------------

fn a_handlers_shutdown_in_a_child_stops_the_parent() {
    let stop = |request: &mut TcpRequest| {
        request.server().shutdown();
        request.write_all(b"stopping\n")
    };
    let running = ForkingTcpServer::new(ANY_PORT, stop).spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"stopping\n");
    assert_eq!(counts(running.join().unwrap()), (1, 0));
}

/// Checks a server, and a client at whose word a process of another server stops it. That was forked before it served.
fn beside_one_that_stops_it(check: fn(TcpServer<Handler>, TcpStream)) {
    fn with<S: BaseServer>(check: fn(TcpServer<Handler>, TcpStream), make: impl FnOnce(ShutdownHandle) -> S) {
        let server = TcpServer::new(ANY_PORT, ECHO_LINES);
        let other = make(server.shutdown_handle()).spawn().unwrap();
        let client = connect(other.server_address());
        assert_eq!(exchange_line(&client, "\n"), "ready\n");
        check(server, client);
        assert_eq!(counts(other.stop().unwrap()), (1, 0));
    }
    fn stop(handle: &ShutdownHandle, request: &mut TcpRequest) -> io::Result<()> {
        for answer in ["ready\n", "stopped\n"] {
            request.read_line(&mut String::new())?;
            if answer == "stopped\n" {
                handle.shutdown();
            }
            request.write_all(answer.as_bytes())?;
        }
        Ok(())
    }
    with(check, |handle| {
        ForkingTcpServer::new(ANY_PORT, move |request: &mut TcpRequest| stop(&handle, request))
    });
    with(check, |handle| {
        PreForkTcpServer::new(ANY_PORT, move |request: &mut TcpRequest| stop(&handle, request)).workers(1)
    });
}

/// It waits in accept(2), of which the child, which has been forked before, knows nothing.
fn a_handlers_shutdown_in_a_child_stops_another_server_that_waits() {
    beside_one_that_stops_it(|server, stops| {
        let running = server.spawn().unwrap();
        let client = connect(running.server_address());
        assert_eq!(exchange_line(&client, "hello\n"), "hello\n");
        finish(&client);
        wait_until("it is over", || running.handle().stats().running == 0);
        assert_eq!(exchange_line(&stops, "stop\n"), "stopped\n");
        running.shutdown_handle().wait_timeout(CEILING).unwrap();
        assert_eq!(counts(running.stop().unwrap()), (1, 0));
    });
}

fn a_handlers_shutdown_in_a_child_tells_an_idle_connection_of_another_server() {
    beside_one_that_stops_it(|server, stops| {
        let running = server.spawn().unwrap();
        let client = connect(running.server_address());
        assert_eq!(exchange_line(&client, "hello\n"), "hello\n");
        assert_eq!(exchange_line(&stops, "stop\n"), "stopped\n");
        assert_eq!(read_to_end(&client), b"");
        assert_eq!(counts(running.join().unwrap()), (1, 0));
    });
}

fn a_child_sees_that_the_parent_drains() {
    let until_draining = |request: &mut TcpRequest| {
        writeln!(request, "{}", request.server().is_draining())?;
        wait_until("the parent drains", || request.server().is_draining());
        writeln!(request, "{}", request.server().is_draining())
    };
    let running = ForkingTcpServer::new(ANY_PORT, until_draining).spawn().unwrap();
    let client = connect(running.server_address());
    let mut line = [0; 6];
    (&client).read_exact(&mut line).unwrap();
    assert_eq!(&line, b"false\n");
    assert_eq!(counts(running.stop().unwrap()), (1, 0));
    assert_eq!(read_to_end(client), b"true\n");
}

// ----- Mix-ins -----------------------------------------------------------------------------------

/// Serves clients of 127.0.0.2, welcomes them, says goodbye.
struct Host<S>(S);

impl<S: BaseServer<Transport = Tcp>> BaseServer for Host<S> {
    type Transport = Tcp;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn verify_request(&self, _request: &TcpRequest, client_address: &Address) -> bool {
        client_address.ip() == Some(Ipv4Addr::new(127, 0, 0, 2).into())
    }

    fn finish_request(&self, active: &mut Active<Tcp>) -> HandlerResult {
        active.request_mut().write_all(b"welcome\n")?;
        self.0.finish_request(active)
    }

    fn shutdown_request(&self, request: &mut TcpRequest) {
        let _ = request.write_all(b"goodbye\n");
        self.0.shutdown_request(request);
    }
}

fn mix_ins_take_effect_inside_and_outside() {
    fn check(server: impl BaseServer<Transport = Tcp>) {
        let running = server.spawn().unwrap();
        for _ in 0..3 {
            let mut client = connect_from(2, running.server_address());
            client.write_all(b"hello\n").unwrap();
            assert_eq!(read_to_end(client), b"welcome\nhello\ngoodbye\n");
            let refused = connect_from(3, running.server_address());
            assert_eq!(read_to_end(refused), b"goodbye\n", "refused in the parent");
        }
        assert_eq!(counts(running.stop().unwrap()), (3, 0));
    }
    check(Host(TcpServer::new(ANY_PORT, EchoLine)).forking());
    check(Host(ForkingTcpServer::new(ANY_PORT, EchoLine)));
}

fn process_request_outside_runs_in_the_parent_once() {
    let (journal, pen) = journal();
    let running = Noting(ForkingTcpServer::new(ANY_PORT, EchoLine), "a", pen)
        .spawn()
        .unwrap();
    assert_eq!(exchange_line(connect(running.server_address()), "hello\n"), "hello\n");
    running.stop().unwrap();
    let here = std::process::id();
    let in_parent = |hook: &str| -> Vec<_> { journal.of(hook).iter().map(|entry| entry.process == here).collect() };
    assert_eq!(in_parent("verify_request"), [true]);
    assert_eq!(in_parent("process_request"), [true]);
    assert_eq!(in_parent("finish_request"), [false]);
    assert_eq!(
        in_parent("shutdown_request"),
        [false],
        "the connection is the child's to end"
    );
    let mut closed = in_parent("close_request");
    closed.sort_unstable();
    assert_eq!(closed, [false, true], "each process closes its own copy");
}

fn errors_of_children_take_effect_inside_and_outside() {
    fn check(server: impl BaseServer<Transport = Tcp>, journal: &support::journal::Journal) {
        let already = journal.count("handle_error");
        let running = server.spawn().unwrap();
        assert_eq!(read_to_end(connect(running.server_address())), b"");
        assert_eq!(counts(running.stop().unwrap()), (0, 1));
        assert_eq!(journal.count("handle_error"), already + 1);
    }
    let fails = |_: &mut TcpRequest| Err("no");
    let (journal, pen) = journal();
    check(
        Noting(TcpServer::new(ANY_PORT, fails), "", pen.clone()).forking(),
        &journal,
    );
    check(Noting(ForkingTcpServer::new(ANY_PORT, fails), "", pen), &journal);
}

/// Panics in one of its hooks.
struct Panicking<S>(S, &'static str);

impl<S> Panicking<S> {
    fn panic_in(&self, hook: &str) {
        assert_ne!(hook, self.1, "as told");
    }
}

impl<S: BaseServer> BaseServer for Panicking<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn service_actions(&self) {
        self.panic_in("service_actions");
        self.0.service_actions();
    }

    fn drain_requests(&self) {
        self.panic_in("drain_requests");
        self.0.drain_requests();
    }

    fn terminate_requests(&self, force: Force) {
        self.panic_in("terminate_requests");
        self.0.terminate_requests(force);
    }

    fn server_close(&self) {
        self.panic_in("server_close");
        self.0.server_close();
    }

    fn process_request(&self, job: Job<S::Transport>) {
        self.panic_in("process_request");
        self.0.process_request(job);
    }

    fn finish_request(&self, active: &mut Active<S::Transport>) -> HandlerResult {
        self.panic_in("finish_request");
        self.0.finish_request(active)
    }

    fn handle_error(&self, error: &RequestError) {
        self.panic_in("handle_error");
        self.0.handle_error(error);
    }

    fn shutdown_request(&self, request: &mut RequestOf<Self>) {
        self.panic_in("shutdown_request");
        self.0.shutdown_request(request);
    }

    fn close_request(&self, request: RequestOf<Self>) {
        self.panic_in("close_request");
        self.0.close_request(request);
    }
}

fn service_actions_that_panic_keep_no_child_from_being_reaped() {
    #[track_caller]
    fn check(server: impl BaseServer) {
        let running = server.spawn().unwrap();
        for _ in 0..3 {
            let (client, _) = client_in_progress(running.server_address());
            finish(&client);
        }
        wait_until_reaped();
        assert_eq!(counts(running.stop().unwrap()), (3, 0));
    }
    let inside = Panicking(TcpServer::new(ANY_PORT, TELL_PROCESS), "service_actions");
    check(inside.forking().max_children(1));
    let server = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).max_children(1);
    check(Panicking(server, "service_actions"));
}

fn hooks_of_the_end_that_panic_leave_no_child_behind() {
    for hook in ["drain_requests", "terminate_requests", "server_close"] {
        let server = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).drain_timeout(Duration::from_millis(50));
        let running = Panicking(Panicking(server, hook), "none").spawn().unwrap();
        let _client = client_in_progress(running.server_address());
        let report = running.stop().unwrap();
        assert_eq!((report.failed, report.forced, report.leaked), (1, 1, 0), "{hook}");
        assert!(children().is_empty(), "{hook}");
    }
}

fn a_hook_that_panics_in_the_child_costs_one_request() {
    let echo_or_fail = |request: &mut TcpRequest| -> HandlerResult {
        let mut line = String::new();
        request.read_line(&mut line)?;
        request.write_all(line.as_bytes())?;
        if line == "fail\n" {
            Err("as told".into())
        } else {
            Ok(())
        }
    };
    for (hook, line, answer, expected) in [
        ("process_request", "", "", (0, 2)),
        ("finish_request", "", "", (0, 2)),
        ("handle_error", "fail\n", "fail\n", (0, 2)),
        ("shutdown_request", "hello\n", "hello\n", (2, 0)),
        ("close_request", "hello\n", "hello\n", (2, 0)),
    ] {
        let running = Panicking(ForkingTcpServer::new(ANY_PORT, echo_or_fail), hook)
            .spawn()
            .unwrap();
        for _ in 0..2 {
            let mut client = connect(running.server_address());
            client.write_all(line.as_bytes()).unwrap();
            assert_eq!(read_to_end(client), answer.as_bytes(), "{hook}");
        }
        assert_eq!(counts(running.stop().unwrap()), expected, "{hook}");
    }
}

fn three_mix_ins_call_each_other_in_the_child() {
    let (journal, pen) = journal();
    let inside = Noting(TcpServer::new(ANY_PORT, EchoLine), "c", pen.clone());
    let outside = Noting(Noting(inside.forking(), "b", pen.clone()), "a", pen);
    let running = outside.spawn().unwrap();
    assert_eq!(exchange_line(connect(running.server_address()), "hello\n"), "hello\n");
    running.stop().unwrap();
    let events = |hook: &str| -> Vec<_> { journal.of(hook).into_iter().map(|entry| entry.event).collect() };
    assert_eq!(
        events("finish_request"),
        ["finish_request a", "finish_request b", "finish_request c"]
    );
    assert_eq!(events("process_request"), ["process_request a", "process_request b"]);
}

// ----- One by one --------------------------------------------------------------------------------

fn handle_request_forks() {
    let server = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).timeout(Duration::from_millis(1));
    let server = Arc::new(server.bind().unwrap());
    assert_eq!(server.handle_request().unwrap(), Handled::TimedOut);
    let client = connect(&server.server_address());
    wait_until("it came", || server.handle_request().unwrap() == Handled::Processed);
    let process = told_process(&client);
    assert_eq!(children(), [process]);
    finish(&client);
    assert_eq!(counts(server.close().unwrap()), (1, 0));
    assert!(children().is_empty());
}

/// In Python a zombie stays until the next one.
fn handle_request_reaps_what_ended_before() {
    let server = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).timeout(Duration::from_millis(1));
    let server = Arc::new(server.bind().unwrap());
    let client = connect(&server.server_address());
    wait_until("it came", || server.handle_request().unwrap() == Handled::Processed);
    let process = told_process(&client);
    finish(&client);
    wait_until("the child has ended", || process_state(process).as_deref() == Some("Z"));
    assert_eq!(server.handle_request().unwrap(), Handled::TimedOut);
    assert_eq!(process_state(process), None);
    assert_eq!(server.active_children(), 0);
    server.close().unwrap();
}

/// As far as its children have ended: nobody waits for one that has not.
fn a_server_that_is_dropped_leaves_no_zombie() {
    let server = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS);
    let server = Arc::new(server.bind().unwrap());
    let client = connect(&server.server_address());
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    let process = told_process(&client);
    finish(&client);
    wait_until("the child has ended", || process_state(process).as_deref() == Some("Z"));
    drop(server);
    assert_eq!(process_state(process), None);
}

/// Two threads handle requests, one of them waits for a place. The other one's leaving is no reason not to tell it.
fn a_thread_that_waits_for_a_place_hears_of_a_child_after_another_has_gone() {
    let server = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).max_children(2);
    let server = Arc::new(server.bind().unwrap());
    let first = connect(&server.server_address());
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    let (ids, id) = mpsc::channel();
    let handling = [(); 2].map(|()| {
        let (server, ids) = (Arc::clone(&server), ids.clone());
        std::thread::spawn(move || {
            ids.send(gettid()).unwrap();
            server.handle_request().unwrap()
        })
    });
    // One has the last place and waits for a request, the other for a place.
    id.iter().take(2).for_each(wait_until_asleep);
    let finished = || handling.iter().filter(|thread| thread.is_finished()).count();
    let second = connect(&server.server_address());
    wait_until("one has handled a request", || finished() == 1);
    let third = connect(&server.server_address());
    assert_ne!(exchange_line(&first, ""), "");
    finish(&first);
    wait_until("so has the other", || finished() == 2);
    for client in [second, third] {
        assert_ne!(exchange_line(&client, ""), "");
        finish(&client);
    }
    assert_eq!(counts(server.close().unwrap()), (3, 0));
}

fn closing_waits_for_the_children() {
    let server = Arc::new(ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).bind().unwrap());
    let client = connect(&server.server_address());
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    let closing = Arc::clone(&server);
    let closer = std::thread::spawn(move || closing.close().unwrap());
    wait_until_draining(&server.shutdown_handle());
    assert_ne!(exchange_line(&client, ""), "");
    finish(&client);
    let report = closer.join().unwrap();
    assert_eq!((report.served, report.drained, report.forced), (1, 1, 0));
    assert!(children().is_empty());
}

// ----- The deadline ------------------------------------------------------------------------------

fn children_that_do_not_end_are_terminated_at_the_deadline() {
    let server = ForkingTcpServer::new(ANY_PORT, TELL_PROCESS).drain_timeout(Duration::ZERO);
    let running = server.spawn().unwrap();
    let (client, _) = client_in_progress(running.server_address());
    let report = running.stop().unwrap();
    assert_eq!((report.failed, report.forced, report.leaked), (1, 1, 0));
    assert_eq!(read_to_end(client), b"");
    assert!(
        logged()
            .iter()
            .any(|line| line.ends_with("ended: signal: 15 (SIGTERM)")),
        "{:?}",
        logged()
    );
}

fn children_that_block_sigterm_are_killed() {
    let stubborn = |request: &mut TcpRequest| -> io::Result<()> {
        SigSet::from(Signal::SIGTERM).thread_block()?;
        TELL_PROCESS(request)
    };
    let server = ForkingTcpServer::new(ANY_PORT, stubborn).drain_timeout(Duration::ZERO);
    let running = server.spawn().unwrap();
    let (client, _) = client_in_progress(running.server_address());
    let report = running.stop().unwrap();
    assert_eq!((report.failed, report.forced, report.leaked), (1, 1, 0));
    assert_eq!(read_to_end(client), b"");
    assert!(
        logged().iter().any(|line| line.ends_with("ended: signal: 9 (SIGKILL)")),
        "{:?}",
        logged()
    );
}

// ----- The other transports ----------------------------------------------------------------------

/// Replies with the process's id.
fn reply_process(request: &mut DatagramRequest) -> io::Result<()> {
    request.reply(std::process::id().to_string().as_bytes())
}

#[track_caller]
fn assert_from_a_child(count: io::Result<usize>, buffer: &[u8]) {
    let process: u32 = std::str::from_utf8(&buffer[..count.unwrap()]).unwrap().parse().unwrap();
    assert_ne!(process, std::process::id());
}

fn a_udp_child_replies() {
    let running = ForkingUdpServer::new(ANY_PORT, reply_process).spawn().unwrap();
    let client = udp_client(running.server_address());
    for _ in 0..3 {
        client.send(b"who?").unwrap();
        let mut buffer = [0; 20];
        assert_from_a_child(uninterrupted(|| client.recv(&mut buffer)), &buffer);
    }
    wait_until_reaped();
    assert_eq!(counts(running.stop().unwrap()), (3, 0));
}

fn a_unix_datagram_child_replies() {
    let place = temp_path("socket");
    let running = ForkingUnixDatagramServer::new(&place.path, reply_process)
        .spawn()
        .unwrap();
    let (client, _place) = unix_datagram_client(running.server_address());
    for _ in 0..3 {
        client.send(b"who?").unwrap();
        let mut buffer = [0; 20];
        assert_from_a_child(uninterrupted(|| client.recv(&mut buffer)), &buffer);
    }
    wait_until_reaped();
    assert_eq!(counts(running.stop().unwrap()), (3, 0));
}

fn a_unix_stream_child_replies() {
    let place = temp_path("socket");
    let running = ForkingUnixStreamServer::new(&place.path, EchoLine).spawn().unwrap();
    for _ in 0..3 {
        assert_eq!(
            exchange_line(connect_unix(running.server_address()), "hello\n"),
            "hello\n"
        );
    }
    wait_until_reaped();
    assert_eq!(counts(running.stop().unwrap()), (3, 0));
    // The same over the example, where the parent has one thread.
    let process = Process::start(&mut echo("unix", "forking", place.path.to_str().unwrap()));
    let client = connect_unix(&Address::from(&place.path));
    assert_eq!(exchange_line(&client, "hello\n"), "hello\n");
    client.shutdown(Shutdown::Write).unwrap();
    process.signal(Signal::SIGTERM);
    assert_eq!(process.end().status.code(), Some(0));
}

//! Worker processes: how many there are, what they serve, and how they are counted.
//!
//! A worker has a copy of the descriptors that this process had when it was forked, clients' ends included.

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, kill, raise};
use socketserver::prelude::*;
use socketserver::{Acceptor, Active, Cause, Construct, Event, Running, State};
use support::commanded::{Client, Commanded, killed_by, request, serve, stop};
use support::failures;
use support::journal::journal;
use support::matrix::{EchoOrFail, Kind, cell};
use support::process::{Process, assert_ended, pid, role, serve_as_role};
use support::talk::{ECHO_LINES, assert_echoes, assert_waits, finish};
use support::unix::{connect_unix, unnamed_datagram_client};
use support::{
    CEILING, children, children_of, connect, exchange_line, inet, logged, process_state, read_to_end, sockets,
    sockets_of, temp_path, wait_until, wait_until_draining,
};

tests![
    roles: serves_lines_and_metrics;
    so_many_workers_serve_as_were_set,
    five_workers_are_started_unless_set,
    a_worker_serves_one_request_at_a_time,
    more_workers_are_started_while_too_few_wait,
    workers_that_are_too_many_end_one_after_the_other,
    workers_that_are_too_many_end_although_the_master_rested,
    workers_that_all_wait_are_left_alone,
    the_master_looks_at_its_workers_only_while_they_get_on,
    a_worker_is_replaced_after_so_many_requests,
    a_worker_that_has_had_its_requests_is_no_error,
    the_last_connection_of_a_worker_goes_on_until_it_ends,
    with_jitter_a_worker_serves_a_few_more,
    unless_set_a_worker_serves_up_to_a_tenth_more,
    unless_set_a_worker_is_replaced_after_a_thousand_requests,
    no_requests_are_as_one,
    without_max_requests_a_worker_stays,
    requests_are_numbered_across_workers,
    a_worker_counts_its_own_requests_only,
    a_worker_that_was_killed_is_replaced,
    what_has_killed_a_worker_is_logged,
    workers_that_die_before_they_have_served_anybody_are_replaced_after_a_pause,
    a_worker_that_dies_when_it_has_served_is_replaced_at_once,
    a_worker_that_was_told_to_end_drains_and_is_replaced,
    a_worker_that_exits_by_itself_is_replaced_and_its_request_fails,
    a_request_in_a_killed_worker_fails_and_is_reported,
    a_request_in_a_killed_worker_is_reported_with_the_address_that_its_handler_has_set,
    errors_and_panics_are_counted_and_cost_no_worker,
    steps_of_handlers_run_and_fail_as_under_every_strategy,
    a_child_of_the_program_is_left_to_the_program,
    a_worker_does_not_keep_the_connections_of_another_server_open,
    a_worker_keeps_nobody_sending_on_a_connection_that_another_server_has_closed,
    a_worker_keeps_nobody_sending_whom_another_server_has_rejected,
    a_worker_does_not_keep_the_port_of_another_server_taken,
    a_worker_does_not_keep_the_port_of_a_server_taken_that_was_dropped,
    a_worker_keeps_nobody_waiting_in_the_queue_of_a_server_that_was_dropped,
    a_worker_keeps_nobody_waiting_in_the_queue_that_another_server_has_given_up,
    a_worker_keeps_nobody_sending_to_a_datagram_server_that_was_dropped,
    a_signal_for_a_worker_is_not_for_a_server_that_serves_later,
    a_server_in_a_worker_hears_of_a_signal_for_both,
    a_server_in_a_worker_ends_with_the_outer_one,
    a_handlers_shutdown_stops_all,
    a_handler_sees_that_the_server_drains,
    connections_that_are_idle_end_when_the_server_drains,
    what_the_kernel_had_queued_is_served_before_the_end,
    what_the_kernel_has_queued_is_served_although_the_last_worker_has_died,
    what_the_kernel_has_queued_is_served_although_a_worker_has_left_before,
    no_worker_is_started_for_a_queue_that_another_has_seen_empty,
    told_to_stop_while_it_starts_its_workers_it_starts_no_more,
    a_request_that_does_not_end_is_forced_at_the_deadline,
    a_worker_that_does_not_end_is_killed_after_the_deadline,
    a_worker_that_hangs_ends_at_its_deadline_although_its_master_is_in_the_background,
    a_worker_that_is_stopped_is_killed_after_the_deadline,
    each_worker_is_initialised_before_it_accepts,
    mix_ins_take_effect_inside_and_outside,
    process_request_outside_runs_in_a_worker_once,
    service_actions_run_in_the_master_and_in_the_workers,
    a_signal_that_came_before_the_workers_is_the_masters_alone,
    closing_hooks_run_in_the_master_only,
    the_loop_of_the_master_serves_metrics_without_a_thread,
    handle_request_serves_in_this_process,
    what_handle_request_has_served_is_numbered_before_all_others,
    what_handle_request_serves_is_forced_at_the_deadline,
    a_worker_keeps_the_deadline_although_requests_were_handled_before,
    a_worker_does_not_wait_for_what_its_master_serves,
    a_worker_does_not_count_what_its_master_serves_of_an_address,
    what_handle_request_has_left_waiting_is_served_once,
    what_handle_request_has_left_waiting_is_not_open_in_the_workers,
    a_request_that_its_worker_was_late_with_is_told_although_the_worker_has_ended,
    workers_are_reaped_at_the_end_although_nobody_has_looked_at_them_before,
    a_worker_starts_threads_of_its_own_although_handle_request_has_started_some,
    threads_in_a_worker_end_although_handle_request_has_started_some,
    put_around_a_server_that_was_bound_before_it_hears_of_its_workers_ends,
    from_binding_on_signals_are_the_masters,
    a_worker_with_threads_serves_many_at_a_time,
    threads_in_a_worker_end_their_requests_before_it_ends,
    a_worker_that_sees_the_listener_closed_before_the_signal_ends_as_told,
    a_worker_with_a_pool_of_threads_takes_what_it_has_room_for,
    a_worker_whose_threads_are_all_busy_is_replaced_when_it_has_had_its_requests,
    a_worker_whose_threads_are_all_busy_is_replaced_when_somebody_tells_it_to_end,
    a_worker_that_cannot_accept_any_more_is_replaced_although_it_has_requests_to_end,
    a_worker_whose_accepting_panics_ends_its_requests_first,
    a_prefork_tcp_server_serves_from_bind_to_close,
    a_prefork_udp_server_serves_from_bind_to_close,
    a_prefork_unix_stream_server_serves_from_bind_to_close,
    a_prefork_unix_datagram_server_serves_from_bind_to_close,
    numbers_that_contradict_one_another_do_not_bind,
];

const ANY_PORT: &str = "127.0.0.1:0";

type Server = PreForkTcpServer<Commanded>;

fn server() -> Server {
    PreForkTcpServer::new(ANY_PORT, Commanded)
}

// ----- How many ----------------------------------------------------------------------------------

fn so_many_workers_serve_as_were_set() {
    let (running, address) = serve(server().workers(3), 3);
    let clients: Vec<_> = (0..3).map(|_| Client::start(&address, "hold")).collect();
    let mut processes: Vec<_> = clients.iter().map(|client| client.process).collect();
    processes.sort_unstable();
    assert_eq!(processes, children(), "the master serves nobody");
    clients.into_iter().for_each(Client::finish);
    stop(running, 3, 0);
}

fn five_workers_are_started_unless_set() {
    let (running, _) = serve(server(), 5);
    stop(running, 0, 0);
}

fn a_worker_serves_one_request_at_a_time() {
    let (running, address) = serve(server().workers(1), 1);
    let stuck = Client::start(&address, "hold");
    let waiting = connect(running.server_address());
    // Nothing is to happen: this only gives it the time to.
    std::thread::sleep(Duration::from_millis(100));
    waiting.set_nonblocking(true).unwrap();
    (&waiting).write_all(b"\n").unwrap();
    let error = (&waiting).read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    waiting.set_nonblocking(false).unwrap();
    stuck.finish();
    assert!(read_to_end(&waiting).ends_with(b"done\n"));
    stop(running, 2, 0);
}

fn more_workers_are_started_while_too_few_wait() {
    let server = server().min_workers(2).min_spare_workers(2).max_workers(7);
    let (running, address) = serve(server, 2);
    let mut clients = vec![Client::start(&address, "hold")];
    wait_until("two wait besides", || children().len() == 3);
    while clients.len() < 7 {
        clients.push(Client::start(&address, "hold"));
    }
    assert_eq!(children().len(), 7, "the most there may be");
    let waiting = connect(running.server_address());
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(children().len(), 7, "still");
    clients.into_iter().for_each(Client::finish);
    assert_ne!(exchange_line(waiting, "\n"), "");
    stop(running, 8, 0);
}

fn workers_that_are_too_many_end_one_after_the_other() {
    let server = server().min_workers(1).min_spare_workers(1).max_spare_workers(2);
    let (running, address) = serve(server, 1);
    let clients = [(); 3].map(|()| Client::start(&address, "hold"));
    wait_until("there are more", || children().len() >= 4);
    clients.into_iter().for_each(Client::finish);
    wait_until("two are left", || children().len() == 2);
    request(&address);
    stop(running, 4, 0);
}

fn workers_that_all_wait_are_left_alone() {
    let (running, _) = serve(server().workers(12), 12);
    let before = children();
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(children(), before);
    stop(running, 0, 0);
}

/// Counts how often its master looks around.
struct Turns<S> {
    inner: S,
    process: u32,
    count: Arc<AtomicU64>,
}

impl<S: BaseServer> BaseServer for Turns<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn service_actions(&self) {
        if self.process == std::process::id() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        self.inner.service_actions();
    }
}

impl<S> Turns<S> {
    fn over(inner: S) -> Self {
        Turns {
            inner,
            process: std::process::id(),
            count: Arc::default(),
        }
    }
}

#[track_caller]
fn wait_until_rests(turns: impl Fn() -> u64) {
    wait_until("the master rests", || {
        let before = turns();
        std::thread::sleep(Duration::from_millis(400));
        turns() == before
    });
}

fn the_master_looks_at_its_workers_only_while_they_get_on() {
    let server = Turns::over(server().min_workers(2));
    let turns = Arc::clone(&server.count);
    let (running, address) = serve(server, 2);
    let turns = || turns.load(Ordering::Relaxed);
    for _ in 0..2 {
        wait_until_rests(turns);
        let before = turns();
        request(&address);
        wait_until("it has looked", || turns() > before);
    }
    stop(running, 2, 0);
}

fn workers_that_are_too_many_end_although_the_master_rested() {
    let spare = server().min_workers(1).min_spare_workers(1).max_spare_workers(1);
    let server = Turns::over(spare);
    let turns = Arc::clone(&server.count);
    let (running, address) = serve(server, 1);
    let client = Client::start(&address, "hold");
    wait_until("one more waits", || children().len() == 2);
    wait_until_rests(|| turns.load(Ordering::Relaxed));
    // None comes after it, whose acceptance would wake it.
    client.finish();
    wait_until("one is left", || children().len() == 1);
    stop(running, 1, 0);
}

// ----- After so many requests --------------------------------------------------------------------

/// How many requests in a row each process has served.
fn runs(address: &str, requests: usize) -> Vec<usize> {
    let mut runs: Vec<(u32, usize)> = Vec::new();
    for _ in 0..requests {
        let process = request(address);
        match runs.last_mut() {
            Some((last, count)) if *last == process => *count += 1,
            _ => runs.push((process, 1)),
        }
    }
    runs.into_iter().map(|(_, count)| count).collect()
}

fn a_worker_is_replaced_after_so_many_requests() {
    let server = server().workers(1).max_requests(3).max_requests_jitter(0);
    let (running, address) = serve(server, 1);
    assert_eq!(runs(&address, 10), [3, 3, 3, 1]);
    stop(running, 10, 0);
}

fn a_worker_that_has_had_its_requests_is_no_error() {
    let server = server().workers(1).max_requests(1).max_requests_jitter(0);
    let (running, address) = serve(server, 1);
    let process = request(&address);
    wait_until_replaced(process, 1);
    stop(running, 1, 0);
    let (about, lines) = (format!(" worker {process} "), logged());
    let last = lines.iter().rfind(|line| line.contains(&about));
    assert_eq!(last, Some(&format!("DEBUG worker {process} has ended")));
}

fn the_last_connection_of_a_worker_goes_on_until_it_ends() {
    let server = PreForkTcpServer::new("127.0.0.1:0", ECHO_LINES).workers(1);
    let (running, _) = serve(server.max_requests(2).max_requests_jitter(0), 1);
    for _ in 0..4 {
        let client = connect(running.server_address());
        assert_echoes(&client);
        // The worker waits for the next message.
        assert_waits(&client);
        assert_echoes(&client);
        finish(&client);
    }
    stop(running, 4, 0);
}

fn with_jitter_a_worker_serves_a_few_more() {
    let server = server().workers(1).max_requests(2).max_requests_jitter(2);
    let (running, address) = serve(server, 1);
    let mut runs = runs(&address, 100);
    runs.pop();
    assert_eq!(BTreeSet::from_iter(runs), BTreeSet::from([2, 3, 4]));
    stop(running, 100, 0);
}

fn unless_set_a_worker_serves_up_to_a_tenth_more() {
    let (running, address) = serve(server().workers(1).max_requests(10), 1);
    let mut runs = runs(&address, 250);
    runs.pop();
    assert_eq!(BTreeSet::from_iter(runs), BTreeSet::from([10, 11]));
    stop(running, 250, 0);
}

fn unless_set_a_worker_is_replaced_after_a_thousand_requests() {
    let (running, address) = serve(server().workers(1).max_requests_jitter(0), 1);
    assert_eq!(runs(&address, 1001), [1000, 1]);
    stop(running, 1001, 0);
}

fn no_requests_are_as_one() {
    let server = server().workers(1).max_requests(0).max_requests_jitter(0);
    let (running, address) = serve(server, 1);
    assert_eq!(runs(&address, 3), [1, 1, 1]);
    stop(running, 3, 0);
}

fn without_max_requests_a_worker_stays() {
    let (running, address) = serve(server().workers(1).max_requests(None), 1);
    assert_eq!(runs(&address, 1200), [1200]);
    stop(running, 1200, 0);
}

fn requests_are_numbered_across_workers() {
    let (running, address) = serve(server().workers(3).max_requests(1).max_requests_jitter(0), 3);
    let mut clients: Vec<_> = (0..3).map(|_| Client::start(&address, "hold")).collect();
    let mut numbers: Vec<_> = clients.iter().map(|client| client.number).collect();
    clients.drain(..).for_each(Client::finish);
    numbers.push(Client::start(&address, "").number);
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4]);
    stop(running, 4, 0);
}

fn a_worker_counts_its_own_requests_only() {
    let count = |request: &mut TcpRequest| -> HandlerResult {
        let stats = request.server().handle().ok_or("it has a server")?.stats();
        Ok(write!(request, "{} {} {}", stats.started, stats.served, stats.running)?)
    };
    let server = PreForkTcpServer::new(ANY_PORT, count).workers(1);
    let running = server.max_requests(1).max_requests_jitter(0).spawn().unwrap();
    for _ in 0..4 {
        assert_eq!(read_to_end(connect(running.server_address())), b"1 0 1");
        wait_until("the worker is replaced, and counted", || {
            children().len() == 1 && running.handle().stats().running == 0
        });
    }
    stop(running, 4, 0);
}

// ----- Workers that end --------------------------------------------------------------------------

#[track_caller]
fn wait_until_replaced(process: u32, workers: usize) {
    wait_until("the worker is replaced", || {
        let children = children();
        children.len() == workers && !children.contains(&process)
    });
}

fn a_worker_that_was_killed_is_replaced() {
    let (running, address) = serve(server().workers(2), 2);
    let process = children()[0];
    kill(pid(process), Signal::SIGKILL).unwrap();
    wait_until_replaced(process, 2);
    request(&address);
    stop(running, 1, 0);
}

fn what_has_killed_a_worker_is_logged() {
    let (running, address) = serve(server().workers(1), 1);
    let process = request(&address);
    kill(pid(process), Signal::SIGKILL).unwrap();
    wait_until_replaced(process, 1);
    running.stop().unwrap();
    let told = format!("ERROR worker {process} ended: {}", killed_by(Signal::SIGKILL));
    assert!(logged().contains(&told), "{:?}", logged());
}

/// Whether the master has told that it pauses before it starts another worker.
fn has_paused() -> bool {
    logged()
        .iter()
        .any(|line| line.contains("workers end at once or cannot be started: "))
}

fn workers_that_die_before_they_have_served_anybody_are_replaced_after_a_pause() {
    let (running, address) = serve(server().workers(1), 1);
    let mut died = 0;
    // On a busy machine one may have lived long before its client comes, but not all.
    wait_until("the master pauses", || {
        Client::start(&address, "die").expect_loss();
        died += 1;
        has_paused()
    });
    stop(running, 0, died);
}

fn a_worker_that_dies_when_it_has_served_is_replaced_at_once() {
    let (running, address) = serve(server().workers(1), 1);
    let process = request(&address);
    let client = Client::start(&address, "die");
    assert_eq!(client.process, process);
    client.expect_loss();
    wait_until_replaced(process, 1);
    assert!(!has_paused(), "{:?}", logged());
    stop(running, 1, 1);
}

fn a_worker_that_was_told_to_end_drains_and_is_replaced() {
    let (running, address) = serve(server().workers(1), 1);
    let client = Client::start(&address, "until draining");
    let process = client.process;
    kill(pid(process), Signal::SIGTERM).unwrap();
    assert_eq!(client.rest(), "done\n");
    wait_until_replaced(process, 1);
    assert_ne!(request(&address), process);
    stop(running, 2, 0);
}

fn a_worker_that_exits_by_itself_is_replaced_and_its_request_fails() {
    let (running, address) = serve(server().workers(1), 1);
    let client = Client::start(&address, "exit");
    let process = client.process;
    client.expect_loss();
    wait_until_replaced(process, 1);
    request(&address);
    stop(running, 1, 1);
}

/// Notes what is reported where, and what it said.
struct Reporting<S>(S, support::journal::Pen);

impl<S: BaseServer> BaseServer for Reporting<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn handle_error(&self, error: &RequestError) {
        let exited = matches!(error.cause(), Cause::Exit(_));
        self.1.note(format_args!("exit {exited}: {error}"));
        self.0.handle_error(error);
    }
}

fn a_request_in_a_killed_worker_fails_and_is_reported() {
    let (journal, pen) = journal();
    let (running, address) = serve(Reporting(server().workers(2), pen), 2);
    let other = Client::start(&address, "hold");
    let client = Client::start(&address, "die");
    let killed = client.address();
    client.expect_loss();
    let report = journal.wait_for("exit");
    assert_eq!(report.process, std::process::id(), "in the master");
    let status = killed_by(Signal::SIGKILL);
    assert_eq!(
        report.event,
        format!("exit true: the process serving {killed} ended: {status}")
    );
    other.finish();
    stop(running, 1, 1);
    assert_eq!(journal.entries().len(), 1);
}

fn a_request_in_a_killed_worker_is_reported_with_the_address_that_its_handler_has_set() {
    let (journal, pen) = journal();
    let handler = |request: &mut TcpRequest| {
        request.set_client_address((Ipv4Addr::new(192, 0, 2, 7), 80));
        let _ = raise(Signal::SIGKILL);
    };
    let server = PreForkTcpServer::new("127.0.0.1:0", handler).workers(1);
    let running = Reporting(server, pen).spawn().unwrap();
    read_to_end(connect(running.server_address()));
    let report = journal.wait_for("exit");
    let status = killed_by(Signal::SIGKILL);
    assert_eq!(
        report.event,
        format!("exit true: the process serving 192.0.2.7:80 ended: {status}")
    );
    stop(running, 0, 1);
}

fn errors_and_panics_are_counted_and_cost_no_worker() {
    let (journal, pen) = journal();
    let (running, address) = serve(Reporting(server().workers(1), pen), 1);
    let worker = children();
    assert_eq!(Client::start(&address, "fail").rest(), "");
    assert_eq!(Client::start(&address, "panic").rest(), "");
    request(&address);
    assert_eq!(children(), worker);
    stop(running, 1, 2);
    let reports = journal.of("exit false: handle ");
    assert!(
        reports.len() == 2 && reports.iter().all(|report| report.process == worker[0]),
        "{reports:?}"
    );
}

fn steps_of_handlers_run_and_fail_as_under_every_strategy() {
    type Failing = PreForkTcpServer<failures::Steps>;
    failures::the_steps_run_in_order_and_then_the_request_is_closed::<Failing>();
    failures::an_error_in_handle_is_reported_once_and_the_server_goes_on::<Failing>();
    failures::a_panic_in_handle_is_reported_once_and_the_server_goes_on::<Failing>();
    failures::an_error_in_setup_ends_the_request::<Failing>();
    failures::a_panic_in_setup_ends_the_request::<Failing>();
    failures::an_error_in_finish_is_reported_once::<Failing>();
    failures::a_panic_in_finish_is_reported_once::<Failing>();
    failures::of_two_failures_that_of_handle_is_reported::<Failing>();
    failures::a_panic_in_handle_error_ends_nothing::<Failing>();
    failures::a_panic_in_shutdown_request_or_close_request_ends_nothing::<Failing>();
    failures::a_panic_in_service_actions_ends_nothing::<Failing>();
    failures::a_panic_in_get_request_ends_nothing::<Failing>();
    failures::a_panic_in_capacity_ends_nothing::<Failing>();
}

fn a_child_of_the_program_is_left_to_the_program() {
    let mut foreign = Command::new("sh").args(["-c", "exit 72"]).spawn().unwrap();
    let (running, address) = serve(server().workers(2).max_requests(1).max_requests_jitter(0), 3);
    wait_until("the foreign child has ended", || {
        process_state(foreign.id()).as_deref() == Some("Z")
    });
    request(&address);
    request(&address);
    running.stop().unwrap();
    assert_eq!(children(), [foreign.id()]);
    assert_eq!(foreign.wait().unwrap().code(), Some(72));
}

// ----- The end -----------------------------------------------------------------------------------

fn a_worker_does_not_keep_the_connections_of_another_server_open() {
    let other = ThreadingTcpServer::new(ANY_PORT, Commanded).spawn().unwrap();
    let client = Client::start(&other.server_address().to_string(), "idle");
    let (running, _) = serve(server().workers(1), 1);
    // The worker has a copy of that connection.
    client.finish();
    assert_eq!(other.stop().unwrap().served, 1);
    stop(running, 0, 0);
}

/// Sends until that fails, as it does on a connection that is closed, once there is no room for more.
fn assert_cannot_go_on_sending(mut client: TcpStream) {
    assert_eq!(read_to_end(&client), b"");
    client.set_write_timeout(Some(CEILING)).unwrap();
    let error = loop {
        if let Err(error) = client.write(&[b'x'; 8 << 10]) {
            break error;
        }
    };
    let closed = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
    assert!(closed.contains(&error.kind()), "{error}");
}

fn a_worker_keeps_nobody_sending_on_a_connection_that_another_server_has_closed() {
    let other = ThreadingTcpServer::new(ANY_PORT, |request: &mut TcpRequest| {
        request.read_line(&mut String::new()).map(drop)
    });
    let other = other.spawn().unwrap();
    let mut client = connect(other.server_address());
    wait_until("it is served", || other.handle().stats().running == 1);
    let (running, _) = serve(server().workers(1), 1);
    client.write_all(b"end\n").unwrap();
    // Until then what comes is read away.
    wait_until("it is closed", || other.handle().stats().running == 0);
    assert_cannot_go_on_sending(client);
    assert_eq!(other.stop().unwrap().served, 1);
    stop(running, 0, 0);
}

fn a_worker_keeps_nobody_sending_whom_another_server_has_rejected() {
    let other = ThreadingTcpServer::new(ANY_PORT, Commanded).max_connections(Limit::reject(1));
    let other = other.spawn().unwrap();
    let served = Client::start(&other.server_address().to_string(), "idle");
    let client = connect(other.server_address());
    // Closed in half a second.
    wait_until("it is rejected", || other.handle().stats().rejected == 1);
    let (running, _) = serve(server().workers(1), 1);
    assert_cannot_go_on_sending(client);
    served.finish();
    assert_eq!(other.stop().unwrap().served, 1);
    stop(running, 0, 0);
}

fn a_worker_does_not_keep_the_port_of_another_server_taken() {
    let other = ThreadingTcpServer::new(ANY_PORT, Commanded).spawn().unwrap();
    let address = other.server_address().clone();
    let (running, _) = serve(server().workers(1), 1);
    other.stop().unwrap();
    assert_is_free(address);
    stop(running, 0, 0);
}

fn assert_is_free(address: Address) {
    let error = TcpStream::connect_timeout(&inet(&address), CEILING).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    let again = ThreadingTcpServer::new(address, Commanded).spawn().unwrap();
    request(&again.server_address().to_string());
    assert_eq!(again.stop().unwrap().served, 1);
}

fn a_worker_does_not_keep_the_port_of_a_server_taken_that_was_dropped() {
    let other = ThreadingTcpServer::new(ANY_PORT, Commanded).bind().unwrap();
    let address = other.server_address();
    let (running, _) = serve(server().workers(1), 1);
    drop(other);
    assert_is_free(address);
    stop(running, 0, 0);
}

/// What is queued when a listener is closed, is reset.
fn assert_let_go(mut client: UnixStream) {
    match client.read(&mut [0]) {
        Ok(count) => assert_eq!(count, 0),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

fn a_worker_keeps_nobody_waiting_in_the_queue_of_a_server_that_was_dropped() {
    let path = temp_path("dropped");
    let other = UnixStreamServer::new(path.path.as_path(), |_: &mut StreamRequest<UnixStream>| {})
        .bind()
        .unwrap();
    let clients = [(); 2].map(|()| connect_unix(&other.server_address()));
    let (running, _) = serve(server().workers(1), 1);
    drop(other);
    assert!(!path.path.exists());
    clients.into_iter().for_each(assert_let_go);
    stop(running, 0, 0);
}

fn a_worker_keeps_nobody_waiting_in_the_queue_that_another_server_has_given_up() {
    let path = temp_path("given up");
    let other = UnixStreamServer::new(path.path.as_path(), |request: &mut StreamRequest<UnixStream>| {
        request.read_line(&mut String::new()).map(drop)
    });
    let other = other.drain_timeout(Duration::ZERO).spawn().unwrap();
    let served = connect_unix(other.server_address());
    wait_until("it is served", || other.handle().stats().running == 1);
    let clients = [(); 2].map(|()| connect_unix(other.server_address()));
    let (running, _) = serve(server().workers(1), 1);
    other.stop().unwrap();
    assert_let_go(served);
    clients.into_iter().for_each(assert_let_go);
    stop(running, 0, 0);
}

fn a_worker_keeps_nobody_sending_to_a_datagram_server_that_was_dropped() {
    let path = temp_path("dropped");
    let other = UnixDatagramServer::new(path.path.as_path(), |_: &mut DatagramRequest| {});
    let other = other.bind().unwrap();
    let client = unnamed_datagram_client(&other.server_address());
    let (running, _) = serve(server().workers(1), 1);
    drop(other);
    client.send(b"hello").unwrap_err();
    stop(running, 0, 0);
}

fn a_signal_for_a_worker_is_not_for_a_server_that_serves_later() {
    let other = ThreadingTcpServer::new(ANY_PORT, Commanded).shutdown_on_signals([signal::SIGUSR1]);
    // One that waits for requests in epoll: it looks whether it was told to stop, by whomever.
    let other = other.poll_interval(CEILING).bind().unwrap();
    let (running, address) = serve(server().workers(1), 1);
    let process = request(&address);
    kill(pid(process), Signal::SIGUSR1).unwrap();
    assert_eq!(request(&address), process, "it has taken the signal and goes on");
    let other = other.spawn().unwrap();
    request(&other.server_address().to_string());
    assert_eq!(other.stop().unwrap().served, 1);
    stop(running, 2, 0);
}

/// Serves in a worker with a server that listens to SIGTERM, as the outer one does: `told` is called before it serves.
fn serve_in_a_worker(told: fn(&mut TcpRequest) -> io::Result<()>) -> Running {
    let serve = move |request: &mut TcpRequest| -> io::Result<()> {
        let inner = TcpServer::new(ANY_PORT, Commanded).shutdown_on_signals([signal::SIGTERM]);
        let inner = inner.bind()?;
        told(request)?;
        write!(request, "{}", inner.serve_forever()?)
    };
    let outer = PreForkTcpServer::new(ANY_PORT, serve).workers(1);
    outer.shutdown_on_signals([signal::SIGTERM]).spawn().unwrap()
}

fn a_server_in_a_worker_hears_of_a_signal_for_both() {
    let running = serve_in_a_worker(|_| Ok(raise(Signal::SIGTERM)?));
    let workers = children();
    let report = read_to_end(connect(running.server_address()));
    assert_eq!(report, b"served=0 failed=0 drained=0 forced=0 leaked=0");
    wait_until("the worker has left, too", || {
        !children().iter().any(|worker| workers.contains(worker))
    });
    assert_eq!(running.handle().state(), State::Serving);
    stop(running, 1, 0);
}

fn a_server_in_a_worker_ends_with_the_outer_one() {
    let running = serve_in_a_worker(|request| {
        request.write_all(b"serving\n")?;
        request.flush()
    });
    let client = connect(running.server_address());
    assert_eq!(exchange_line(&client, ""), "serving\n");
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.forced), (1, 0));
    assert_eq!(read_to_end(client), b"served=0 failed=0 drained=0 forced=0 leaked=0");
}

fn a_handlers_shutdown_stops_all() {
    let (running, address) = serve(server().workers(3), 3);
    assert_eq!(Client::start(&address, "shutdown").rest(), "done\n");
    assert_eq!(running.join().unwrap().served, 1);
    assert_eq!(children(), []);
}

fn a_handler_sees_that_the_server_drains() {
    let (running, address) = serve(server().workers(2), 2);
    let client = Client::start(&address, "until draining");
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.drained, report.forced), (1, 1, 0));
    assert_eq!(client.rest(), "done\n");
}

fn connections_that_are_idle_end_when_the_server_drains() {
    let (running, address) = serve(server().workers(1), 1);
    let client = Client::start(&address, "idle");
    let report = running.stop().unwrap();
    assert_eq!(client.rest(), "done\n");
    assert_eq!((report.served, report.drained, report.forced), (1, 1, 0));
}

fn what_the_kernel_had_queued_is_served_before_the_end() {
    let (running, address) = serve(server().workers(1), 1);
    let stuck = Client::start(&address, "hold");
    let waiting: Vec<_> = (0..20).map(|_| connect(running.server_address())).collect();
    running.shutdown_handle().shutdown();
    stuck.finish();
    for mut client in waiting {
        client.write_all(b"\n").unwrap();
        assert!(read_to_end(client).ends_with(b"done\n"));
    }
    let report = running.join().unwrap();
    assert_eq!((report.served, report.failed), (21, 0));
}

/// Its master does nothing while there is such a file.
struct HeldMaster<S> {
    inner: S,
    process: u32,
    path: PathBuf,
}

impl<S: BaseServer> BaseServer for HeldMaster<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn service_actions(&self) {
        if self.process == std::process::id() {
            wait_until("it may go on", || !self.path.exists());
        }
        self.inner.service_actions();
    }
}

/// Has the only worker die, when there have been so many requests, before the server is told to stop.
#[track_caller]
fn assert_queue_is_served_without_a_worker(server: Server, requests: u64) {
    let held = temp_path("held");
    let server = HeldMaster {
        inner: server.workers(1),
        process: std::process::id(),
        path: held.path.clone(),
    };
    let (running, address) = serve(server, 1);
    for _ in 0..requests {
        wait_until_replaced(request(&address), 1);
    }
    let worker = children()[0];
    fs::write(&held.path, "").unwrap();
    kill(pid(worker), Signal::SIGKILL).unwrap();
    wait_until("it has ended", || process_state(worker).as_deref() == Some("Z"));
    let mut client = connect(running.server_address());
    running.shutdown_handle().shutdown();
    fs::remove_file(&held.path).unwrap();
    client.write_all(b"\n").unwrap();
    assert!(read_to_end(client).ends_with(b"done\n"));
    let report = running.join().unwrap();
    assert_eq!((report.served, report.failed), (requests + 1, 0));
}

fn what_the_kernel_has_queued_is_served_although_the_last_worker_has_died() {
    assert_queue_is_served_without_a_worker(server(), 0);
}

/// It has left because it had had its requests, and has seen nothing of the end.
fn what_the_kernel_has_queued_is_served_although_a_worker_has_left_before() {
    assert_queue_is_served_without_a_worker(server().max_requests(1).max_requests_jitter(0), 1);
}

/// Its master gets on with the end only when all workers have ended.
struct SlowMaster<S> {
    inner: S,
    process: u32,
}

impl<S: BaseServer> BaseServer for SlowMaster<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn service_actions(&self) {
        if self.process == std::process::id() && self.shutdown_handle().state() == State::Draining {
            let has_ended = |child: &u32| process_state(*child).is_none_or(|state| state == "Z");
            wait_until("the workers have ended", || children().iter().all(has_ended));
        }
        self.inner.service_actions();
    }
}

fn no_worker_is_started_for_a_queue_that_another_has_seen_empty() {
    let (journal, pen) = journal();
    let inner = server().workers(1).worker_init(move || {
        pen.note("init");
        Ok(())
    });
    let process = std::process::id();
    let (running, address) = serve(SlowMaster { inner, process }, 1);
    request(&address);
    stop(running, 1, 0);
    assert_eq!(journal.events(), ["init"]);
}

fn told_to_stop_while_it_starts_its_workers_it_starts_no_more() {
    const WORKERS: usize = 400;
    let (mut from_workers, to_test) = io::pipe().unwrap();
    let hello = move || (&to_test).write_all(b".");
    let running = server().workers(WORKERS).worker_init(hello).spawn().unwrap();
    from_workers.read_exact(&mut [0]).unwrap();
    running.stop().unwrap();
    // The server, and with it this process's end of the pipe, is gone.
    let mut others = Vec::new();
    from_workers.read_to_end(&mut others).unwrap();
    assert!(others.len() + 1 < WORKERS, "all were started");
}

fn a_request_that_does_not_end_is_forced_at_the_deadline() {
    let server = server().workers(2).drain_timeout(Duration::from_millis(100));
    let (running, address) = serve(server, 2);
    let client = Client::start(&address, "hold");
    let report = running.stop().unwrap();
    // Its socket was shut down: the handler had an end of stream, and could say nothing more.
    assert_eq!(client.rest(), "");
    assert_eq!((report.served, report.failed), (0, 1));
    assert_eq!((report.drained, report.forced, report.leaked), (0, 1, 0));
}

fn a_worker_that_does_not_end_is_killed_after_the_deadline() {
    let server = server().workers(2).drain_timeout(Duration::from_millis(100));
    let (running, address) = serve(server, 2);
    let client = Client::start(&address, "hang");
    let report = running.stop().unwrap();
    client.expect_loss();
    assert_eq!((report.served, report.failed), (0, 1));
    assert_eq!((report.drained, report.forced, report.leaked), (0, 1, 0));
    assert_eq!(children(), []);
}

/// What it is told, it does not hear.
/// Nobody looks after it any more, so it ends itself.
fn a_worker_that_hangs_ends_at_its_deadline_although_its_master_is_in_the_background() {
    let (running, address) = serve(server().workers(1).drain_timeout(Duration::from_millis(100)), 1);
    let client = Client::start(&address, "hang");
    let worker = client.process;
    kill(pid(worker), Signal::SIGTERM).unwrap();
    client.expect_loss();
    wait_until_replaced(worker, 1);
    running.stop().unwrap();
}

fn a_worker_that_is_stopped_is_killed_after_the_deadline() {
    let (running, _) = serve(server().workers(1).drain_timeout(Duration::from_millis(50)), 1);
    let worker = children()[0];
    kill(pid(worker), Signal::SIGSTOP).unwrap();
    wait_until("it is stopped", || process_state(worker).as_deref() == Some("T"));
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed, report.leaked), (0, 0, 0));
    assert_eq!(children(), []);
}

// ----- Hooks -------------------------------------------------------------------------------------

fn each_worker_is_initialised_before_it_accepts() {
    let (journal, pen) = journal();
    let server = server().workers(2).worker_init(move || {
        pen.note("init");
        Ok(())
    });
    let (running, address) = serve(server, 2);
    let process = request(&address);
    wait_until("both are", || journal.count("init") == 2);
    let mut processes: Vec<_> = journal.entries().iter().map(|entry| entry.process).collect();
    processes.sort_unstable();
    assert_eq!(processes, children());
    assert!(processes.contains(&process));
    stop(running, 1, 0);
}

/// Notes the hooks, and where they ran.
struct Noting<S>(S, &'static str, support::journal::Pen);

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

    fn server_bind(&self) -> io::Result<()> {
        self.note("server_bind");
        self.0.server_bind()
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

    fn close_request(&self, request: RequestOf<Self>) {
        self.note("close_request");
        self.0.close_request(request);
    }

    fn service_actions(&self) {
        self.note("service_actions");
        self.0.service_actions();
    }

    fn drain_requests(&self) {
        self.note("drain_requests");
        self.0.drain_requests();
    }

    fn server_close(&self) {
        self.note("server_close");
        self.0.server_close();
    }
}

fn mix_ins_take_effect_inside_and_outside() {
    let (journal, pen) = journal();
    let inside = Noting(TcpServer::new(ANY_PORT, Commanded), "inside", pen.clone());
    let (running, address) = serve(Noting(inside.prefork().workers(1), "outside", pen), 1);
    let worker = request(&address);
    stop(running, 1, 0);
    let hooks = ["verify_request", "process_request", "finish_request", "close_request"];
    for hook in hooks {
        let entries = journal.of(hook);
        assert!(entries.iter().all(|entry| entry.process == worker), "{entries:?}");
        let events: Vec<_> = entries.into_iter().map(|entry| entry.event).collect();
        assert_eq!(events, [format!("{hook} outside"), format!("{hook} inside")]);
    }
    for process in [worker, std::process::id()] {
        let mut entries = journal.entries();
        entries.retain(|entry| entry.process == process);
        let of = |hook: &str| -> Vec<_> {
            let events = entries.iter().map(|entry| entry.event.as_str());
            events.filter(|event| event.starts_with(hook)).collect()
        };
        assert_eq!(
            of("drain_requests"),
            ["drain_requests outside", "drain_requests inside"]
        );
        assert_eq!(
            of("service_actions")[..2],
            ["service_actions outside", "service_actions inside"]
        );
    }
}

fn process_request_outside_runs_in_a_worker_once() {
    let (journal, pen) = journal();
    let threads = ThreadingTcpServer::new(ANY_PORT, Commanded).prefork().workers(2);
    let (running, address) = serve(Noting(threads, "outside", pen), 2);
    let worker = request(&address);
    stop(running, 1, 0);
    let entries = journal.of("process_request");
    assert!(entries.len() == 1 && entries[0].process == worker, "{entries:?}");
}

fn service_actions_run_in_the_master_and_in_the_workers() {
    let (journal, pen) = journal();
    let (running, _) = serve(Noting(server().workers(1), "", pen), 1);
    let places = [std::process::id(), children()[0]];
    wait_until("they have run in both", || {
        let ran = |place: &u32| {
            journal
                .of("service_actions")
                .iter()
                .any(|entry| entry.process == *place)
        };
        places.iter().all(ran)
    });
    stop(running, 0, 0);
}

fn a_signal_that_came_before_the_workers_is_the_masters_alone() {
    let (journal, pen) = journal();
    let told = move |_: &ServerHandle| pen.note("signal");
    let server = server().workers(2).on_signal(signal::SIGUSR1, told).bind().unwrap();
    raise(Signal::SIGUSR1).unwrap();
    let (running, address) = serve(server, 2);
    request(&address);
    stop(running, 1, 0);
    let places: Vec<_> = journal.of("signal").iter().map(|entry| entry.process).collect();
    assert_eq!(places, [std::process::id()]);
}

fn closing_hooks_run_in_the_master_only() {
    let (journal, pen) = journal();
    let inside = Noting(TcpServer::new(ANY_PORT, Commanded), "inside", pen.clone());
    let server = inside.prefork().workers(1).max_requests(1).max_requests_jitter(0);
    let (running, address) = serve(Noting(server, "outside", pen), 1);
    request(&address);
    request(&address);
    stop(running, 2, 0);
    for hook in ["server_bind", "server_close"] {
        let entries = journal.of(hook);
        assert!(
            entries.iter().all(|entry| entry.process == std::process::id()),
            "{entries:?}"
        );
        let events: Vec<_> = entries.into_iter().map(|entry| entry.event).collect();
        assert_eq!(events, [format!("{hook} outside"), format!("{hook} inside")]);
    }
}

/// As the documentation of `PreFork` shows it: the master serves with another server, too, on its own loop.
struct Beside<S, M> {
    public: S,
    metrics: Arc<M>,
    master: u32,
}

impl<S: BaseServer, M: BaseServer> BaseServer for Beside<S, M> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.public
    }

    fn service_actions(&self) {
        self.public.service_actions();
        if std::process::id() == self.master {
            self.metrics.handle_request().unwrap();
        }
    }
}

/// Where the metrics are.
const METRICS: &str = "PREFORK_METRICS";

fn serves_lines_and_metrics() {
    env_logger::Builder::new().filter_level(log::LevelFilter::Warn).init();
    let public = PreForkTcpServer::new(ANY_PORT, ECHO_LINES)
        .workers(2)
        .poll_interval(Duration::from_millis(10));
    let handle = public.handle();
    let path = std::env::var_os(METRICS).unwrap();
    let metrics = UnixStreamServer::new(Path::new(&path), move |request: &mut UnixStreamRequest| {
        request.read_line(&mut String::new())?;
        writeln!(request, "{}", handle.stats())
    })
    .timeout(Duration::ZERO)
    .request_timeout(Duration::from_millis(100))
    .bind()
    .unwrap();
    serve_as_role(Beside {
        public,
        metrics: Arc::new(metrics),
        master: std::process::id(),
    });
}

fn the_loop_of_the_master_serves_metrics_without_a_thread() {
    let place = temp_path("metrics");
    let process = Process::start(role("serves_lines_and_metrics").env(METRICS, &place.path));
    let scrape = || {
        let mut client = UnixStream::connect(&place.path).unwrap();
        client.write_all(b"GET /metrics HTTP/1.0\r\n").unwrap();
        read_to_end(client)
    };
    let has_served = |requests: u64| {
        let counts = format!(" started={requests} running=0 served={requests} failed=0\n");
        String::from_utf8(scrape()).unwrap().ends_with(&counts)
    };
    let say_hello = || {
        let client = TcpStream::connect(process.address()).unwrap();
        assert_eq!(exchange_line(&client, "hello\n"), "hello\n");
        finish(&client);
    };
    say_hello();
    wait_until("the first is counted", || has_served(1));

    let _silent = UnixStream::connect(&place.path).unwrap();
    say_hello();
    wait_until("the second is counted", || has_served(2));

    let before = children_of(process.id());
    process.signal(Signal::SIGHUP);
    wait_until("the workers are replaced", || {
        let now = children_of(process.id());
        now.len() == 2 && now.iter().all(|worker| !before.contains(worker))
    });
    say_hello();
    wait_until("the third is counted", || has_served(3));

    process.signal(Signal::SIGTERM);
    let ended = process.end();
    assert_ended("with metrics", &ended, "served=3 failed=0 drained=0 forced=0 leaked=0");
    assert!(!ended.errors.contains("a forking server"), "{ended:?}");
    assert!(!place.path.exists());
}

fn put_around_a_server_that_was_bound_before_it_hears_of_its_workers_ends() {
    let server = TcpServer::new("127.0.0.1:0", Commanded).bind().unwrap();
    let (running, address) = serve(server.prefork().workers(1), 1);
    let killed = Client::start(&address, "die");
    let process = killed.process;
    killed.expect_loss();
    wait_until("it is replaced", || children().iter().any(|child| *child != process));
    request(&address);
    stop(running, 1, 1);
}

fn from_binding_on_signals_are_the_masters() {
    let server = server().workers(1).bind().unwrap();
    // Of which the first would end this process.
    for signal in [Signal::SIGHUP, Signal::SIGTTIN] {
        raise(signal).unwrap();
    }
    let (running, address) = serve(server, 2);
    request(&address);
    assert!(
        logged()
            .iter()
            .any(|line| line == "INFO replacing 1 workers, one by one")
    );
    stop(running, 1, 0);
}

fn handle_request_serves_in_this_process() {
    let server = Arc::new(server().bind().unwrap());
    let address = server.server_address().to_string();
    let client = std::thread::spawn(move || request(&address));
    server.handle_request().unwrap();
    assert_eq!(client.join().unwrap(), std::process::id());
    assert_eq!(server.active_workers(), 0);
    assert_eq!(server.close().unwrap().served, 1);
}

fn what_handle_request_has_served_is_numbered_before_all_others() {
    let server = Arc::new(server().workers(1).bind().unwrap());
    let address = server.server_address().to_string();
    let here = std::thread::spawn(move || Client::start(&address, "").number);
    server.handle_request().unwrap();
    assert_eq!(here.join().unwrap(), 1);
    let (running, address) = serve(Arc::into_inner(server).unwrap(), 1);
    let client = Client::start(&address, "hold");
    assert_eq!(client.number, 2);
    client.finish();
    stop(running, 2, 0);
}

fn what_handle_request_serves_is_forced_at_the_deadline() {
    let server = server().drain_timeout(Duration::from_millis(100)).bind().unwrap();
    let server = Arc::new(server);
    let address = server.server_address().to_string();
    let stopper = server.shutdown_handle();
    let client = std::thread::spawn(move || {
        let client = Client::start(&address, "hold");
        stopper.shutdown();
        client.expect_loss();
    });
    server.handle_request().unwrap();
    client.join().unwrap();
    assert_eq!(server.close().unwrap().forced, 1);
}

// The timer of its master is not its own.
fn a_worker_keeps_the_deadline_although_requests_were_handled_before() {
    let bare = TcpServer::new(ANY_PORT, Commanded).drain_timeout(Duration::from_millis(100));
    let bare = Arc::new(bare.timeout(Duration::ZERO).bind().unwrap());
    bare.handle_request().unwrap();
    let (running, address) = serve(Arc::into_inner(bare).unwrap().prefork().workers(1), 1);
    let client = Client::start(&address, "hold");
    let worker = client.process;
    kill(pid(worker), Signal::SIGTERM).unwrap();
    client.expect_loss();
    wait_until("it is replaced", || !children().contains(&worker));
    running.stop().unwrap();
}

// It has a copy of the records, and would wait for ever.
fn a_worker_does_not_wait_for_what_its_master_serves() {
    assert_serves_beside_its_master(ThreadingTcpServer::new(ANY_PORT, Commanded));
}

fn a_worker_does_not_count_what_its_master_serves_of_an_address() {
    let server = ThreadingTcpServer::new(ANY_PORT, Commanded);
    assert_serves_beside_its_master(server.max_per_address(Limit::reject(1)));
}

/// A worker serves a client and ends while its master has one of the same address in progress.
#[track_caller]
fn assert_serves_beside_its_master(server: ThreadingTcpServer<Commanded>) {
    let server = server.prefork().workers(1).drain_timeout(None);
    let server = Arc::new(server.bind().unwrap());
    let address = server.server_address().to_string();
    let here = std::thread::spawn({
        let address = address.clone();
        move || Client::start(&address, "hold")
    });
    server.handle_request().unwrap();
    let here = here.join().unwrap();
    let queued = connect(&server.server_address());
    let closing = std::thread::spawn(move || server.close().unwrap());
    let (mut answer, mut queued) = (String::new(), io::BufReader::new(queued));
    queued.get_mut().write_all(b"\n").unwrap();
    queued.read_line(&mut answer).unwrap();
    assert!(
        !answer.starts_with(&std::process::id().to_string()),
        "a worker serves it"
    );
    wait_until("the worker has ended", || children().is_empty());
    here.finish();
    assert_eq!(closing.join().unwrap().served, 2);
}

// The workers have copies of it.
fn what_handle_request_has_left_waiting_is_served_once() {
    let one_a_second = RateLimit::wait(1);
    let server = server().workers(2).max_rate_per_address(one_a_second);
    let server = Arc::new(server.timeout(Duration::ZERO).bind().unwrap());
    let clients = [(); 2].map(|()| {
        let mut client = connect(&server.server_address());
        client.write_all(b"\n").unwrap();
        server.handle_request().unwrap();
        client
    });
    assert_eq!(server.stats().waiting, 1);
    let running = Arc::into_inner(server).unwrap().spawn().unwrap();
    let answers = clients.map(|client| String::from_utf8(read_to_end(client)).unwrap());
    assert_eq!(
        answers,
        [1, 2].map(|number| format!("{} {number}\ndone\n", std::process::id()))
    );
    stop(running, 2, 0);
}

fn what_handle_request_has_left_waiting_is_not_open_in_the_workers() {
    let one_an_hour = RateLimit::wait(1).per(Duration::from_hours(1));
    let server = server().workers(1).max_rate_per_address(one_an_hour);
    let server = server.timeout(Duration::ZERO).drain_timeout(Duration::ZERO);
    let server = Arc::new(server.bind().unwrap());
    let clients = [(); 2].map(|()| {
        let mut client = connect(&server.server_address());
        client.write_all(b"\n").unwrap();
        server.handle_request().unwrap();
        client
    });
    assert_eq!(server.stats().waiting, 1);
    let here = sockets();
    let (running, _) = serve(Arc::into_inner(server).unwrap(), 1);
    let worker = children()[0];
    wait_until("it has all but that one", || sockets_of(worker) == here - 1);
    drop(clients);
    stop(running, 1, 1);
}

/// The master tells it when its own patience is over.
fn a_request_that_its_worker_was_late_with_is_told_although_the_worker_has_ended() {
    let done = temp_path("done");
    let path = done.path.clone();
    let handler = move |request: &mut TcpRequest| -> HandlerResult {
        writeln!(request, "{}", std::process::id())?;
        // Until the deadline.
        request.get_mut().read_to_end(&mut Vec::new())?;
        wait_until("it may end", || path.exists());
        Ok(())
    };
    let server = PreForkTcpServer::new("127.0.0.1:0", handler).workers(1);
    let (running, address) = serve(server.drain_timeout(Duration::from_millis(300)), 1);
    let client = connect(&address.as_str().into());
    let worker = exchange_line(&client, "").trim_end().parse().unwrap();
    kill(pid(worker), Signal::SIGTERM).unwrap();
    assert_eq!(read_to_end(client), b"");
    let handle = running.shutdown_handle();
    handle.shutdown();
    wait_until_draining(&handle);
    File::create(&done.path).unwrap();
    let report = running.join().unwrap();
    assert_eq!((report.served, report.failed, report.forced), (1, 0, 1));
    let told = "WARN 1 request did not end in time: shutting its socket down".to_owned();
    assert!(logged().contains(&told), "{:?}", logged());
}

/// Looks at nothing.
struct Blind<S>(S);

impl<S: BaseServer> BaseServer for Blind<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn service_actions(&self) {}
}

fn workers_are_reaped_at_the_end_although_nobody_has_looked_at_them_before() {
    let server = Blind(server().workers(2)).drain_timeout(Duration::ZERO);
    let (running, address) = serve(server, 2);
    request(&address);
    stop(running, 1, 0);
}

/// Serves, in this process, one request in a thread of its own, then others in a worker.
#[track_caller]
fn serve_after_a_thread(server: impl BaseServer) -> (Running, String) {
    let server = Arc::new(server.bind().unwrap());
    let address = server.server_address().to_string();
    let here = std::thread::spawn(move || request(&address));
    server.handle_request().unwrap();
    assert_eq!(here.join().unwrap(), std::process::id());
    wait_until("its thread has let go of the server", || {
        Arc::strong_count(&server) == 1
    });
    serve(Arc::into_inner(server).unwrap(), 1)
}

// A worker has their queue, but none of them.
fn a_worker_starts_threads_of_its_own_although_handle_request_has_started_some() {
    let pool = ThreadPoolTcpServer::new(ANY_PORT, Commanded).workers(1).queue_size(1);
    let (running, address) = serve_after_a_thread(pool.prefork().workers(1));
    assert_eq!(request(&address), children()[0]);
    stop(running, 2, 0);
}

// Where the worker's first thread is, the last of them had been.
fn threads_in_a_worker_end_although_handle_request_has_started_some() {
    let server = ThreadingTcpServer::new(ANY_PORT, Commanded).prefork().workers(1);
    let (running, address) = serve_after_a_thread(server);
    let first = Client::start(&address, "hold");
    let others = [(); 4].map(|()| Client::start(&address, "hold"));
    let worker = first.process;
    kill(pid(worker), Signal::SIGTERM).unwrap();
    others.into_iter().for_each(Client::finish);
    wait_until("the other threads have ended", || {
        fs::read_dir(format!("/proc/{worker}/task")).unwrap().count() == 2
    });
    first.finish();
    stop(running, 6, 0);
}

// ----- Threads inside ----------------------------------------------------------------------------

fn a_worker_with_threads_serves_many_at_a_time() {
    let server = PreFork::<ThreadingTcpServer<_>>::new(ANY_PORT, Commanded).workers(1);
    let (running, address) = serve(server, 1);
    let clients: Vec<_> = (0..10).map(|_| Client::start(&address, "hold")).collect();
    assert!(clients.iter().all(|client| client.process == children()[0]));
    clients.into_iter().for_each(Client::finish);
    stop(running, 10, 0);
}

fn threads_in_a_worker_end_their_requests_before_it_ends() {
    let server = ThreadingTcpServer::new(ANY_PORT, Commanded).prefork().workers(2);
    let (running, address) = serve(server.max_requests(1).max_requests_jitter(0), 2);
    let clients: Vec<_> = (0..4).map(|_| Client::start(&address, "hold")).collect();
    assert!(children().len() >= 4, "those that are on their way out do not count");
    clients.into_iter().for_each(Client::finish);
    wait_until("they have ended", || children().len() == 2);
    let last = Client::start(&address, "hold");
    running.shutdown_handle().shutdown();
    wait_until_draining(&running.shutdown_handle());
    last.finish();
    let report = running.join().unwrap();
    assert_eq!((report.served, report.failed, report.drained), (5, 0, 1));
}

/// The signal reaches one of its threads, and another may accept meanwhile. Here it reaches none.
fn a_worker_that_sees_the_listener_closed_before_the_signal_ends_as_told() {
    let directory = tempfile::tempdir().unwrap();
    let first = directory.path().join("first");
    let deafen_the_second = move || {
        if File::create_new(&first).is_err() {
            SigSet::from(Signal::SIGTERM).thread_block()?;
        }
        Ok(())
    };
    let (sender, statuses) = mpsc::channel();
    let server = ThreadingTcpServer::new(ANY_PORT, Commanded).max_threads(1).prefork();
    let server = server.workers(2).worker_init(deafen_the_second);
    let server = server.observer(move |event: &Event<'_>| {
        if let Event::ChildExited { status, .. } = event {
            sender.send(*status).unwrap();
        }
    });
    let (running, address) = serve(server, 2);
    let clients = [(); 2].map(|()| Client::start(&address, "hold"));
    assert_ne!(clients[0].process, clients[1].process, "both accept");
    clients.into_iter().for_each(Client::finish);
    stop(running, 2, 0);
    let statuses: Vec<_> = statuses.iter().collect();
    assert_eq!(statuses, [ExitStatus::default(); 2]);
}

fn a_worker_with_a_pool_of_threads_takes_what_it_has_room_for() {
    let pool = ThreadPoolTcpServer::new(ANY_PORT, Commanded).workers(2).queue_size(0);
    let server = pool.prefork().min_workers(1).min_spare_workers(1).max_workers(2);
    let (running, address) = serve(server, 1);
    let clients: Vec<_> = (0..4).map(|_| Client::start(&address, "hold")).collect();
    let processes: BTreeSet<_> = clients.iter().map(|client| client.process).collect();
    assert_eq!(
        Vec::from_iter(processes),
        children(),
        "a second was started when the first was full"
    );
    let waiting = connect(running.server_address());
    clients.into_iter().for_each(Client::finish);
    assert_ne!(exchange_line(waiting, "\n"), "");
    stop(running, 5, 0);
}

fn one_worker_with_a_pool_of_two() -> PreFork<ThreadPoolTcpServer<Commanded>> {
    ThreadPoolTcpServer::new(ANY_PORT, Commanded)
        .workers(2)
        .prefork()
        .workers(1)
}

fn a_worker_whose_threads_are_all_busy_is_replaced_when_it_has_had_its_requests() {
    let server = one_worker_with_a_pool_of_two().max_requests(2).max_requests_jitter(0);
    let (running, address) = serve(server, 1);
    let clients = [(); 3].map(|()| Client::start(&address, "hold"));
    assert_eq!(clients[0].process, clients[1].process);
    assert_ne!(clients[1].process, clients[2].process);
    clients.into_iter().for_each(Client::finish);
    stop(running, 3, 0);
}

fn a_worker_whose_threads_are_all_busy_is_replaced_when_somebody_tells_it_to_end() {
    let (running, address) = serve(one_worker_with_a_pool_of_two(), 1);
    let clients = [(); 2].map(|()| Client::start(&address, "hold"));
    kill(pid(clients[0].process), Signal::SIGTERM).unwrap();
    assert_ne!(request(&address), clients[0].process);
    clients.into_iter().for_each(Client::finish);
    stop(running, 3, 0);
}

/// Has lost its listening socket when it has accepted one request.
struct OneOnly<S> {
    inner: S,
    accepted: AtomicU64,
}

impl<S: BaseServer> BaseServer for OneOnly<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn get_request(&self) -> io::Result<RequestOf<Self>> {
        if self.accepted.load(Ordering::SeqCst) > 0 {
            return Err(nix::errno::Errno::EBADF.into());
        }
        let request = self.inner.get_request()?;
        self.accepted.fetch_add(1, Ordering::SeqCst);
        Ok(request)
    }
}

fn a_worker_that_cannot_accept_any_more_is_replaced_although_it_has_requests_to_end() {
    let inner = ThreadingTcpServer::new(ANY_PORT, Commanded);
    let accepted = AtomicU64::new(0);
    let (running, address) = serve(OneOnly { inner, accepted }.prefork().workers(1), 1);
    let first = Client::start(&address, "hold");
    let second = Client::start(&address, "hold");
    assert_ne!(first.process, second.process);
    [first, second].into_iter().for_each(Client::finish);
    stop(running, 2, 0);
}

/// Panics when it has accepted one request.
struct Startled<S>(S);

impl<S: BaseServer> BaseServer for Startled<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn serve(&self, mut acceptor: Acceptor<S::Transport>) -> io::Result<()> {
        if let Some(job) = acceptor.next()? {
            acceptor.process(job)?;
            resume_unwind(Box::new("as told"));
        }
        Ok(())
    }
}

fn a_worker_whose_accepting_panics_ends_its_requests_first() {
    let pool = ThreadPoolTcpServer::new(ANY_PORT, Commanded).queue_size(1);
    let (running, address) = serve(Startled(pool).prefork().workers(1), 1);
    let first = Client::start(&address, "hold");
    let second = Client::start(&address, "hold");
    assert_ne!(first.process, second.process);
    let processes = [first.process, second.process];
    [first, second].into_iter().for_each(Client::finish);
    stop(running, 2, 0);
    for process in processes {
        assert!(logged().contains(&format!("ERROR worker {process} ended: panicked: as told")));
    }
}

// ----- All transports ----------------------------------------------------------------------------

/// CPython's matrix, in which a server may have no children but those named: workers are looked for after it.
#[track_caller]
fn matrix_cell<S: Construct<Handler = EchoOrFail>>(kind: Kind) {
    cell::<S>(kind, &[]);
    assert_eq!(children(), []);
    assert!(
        !logged()
            .iter()
            .any(|line| line.contains("worker") && line.starts_with("ERROR"))
    );
}

fn a_prefork_tcp_server_serves_from_bind_to_close() {
    matrix_cell::<PreForkTcpServer<EchoOrFail>>(Kind::Tcp);
}

fn a_prefork_udp_server_serves_from_bind_to_close() {
    matrix_cell::<PreForkUdpServer<EchoOrFail>>(Kind::Udp);
}

fn a_prefork_unix_stream_server_serves_from_bind_to_close() {
    matrix_cell::<PreForkUnixStreamServer<EchoOrFail>>(Kind::UnixStream);
}

fn a_prefork_unix_datagram_server_serves_from_bind_to_close() {
    matrix_cell::<PreForkUnixDatagramServer<EchoOrFail>>(Kind::UnixDatagram);
}

// ----- Bad numbers -------------------------------------------------------------------------------

fn numbers_that_contradict_one_another_do_not_bind() {
    #[track_caller]
    fn check(server: Server, text: &str) {
        let error = server.bind().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains(text), "{error}");
    }
    check(
        server().workers(0),
        "a prefork server of 0 workers would never serve anybody",
    );
    check(
        server().max_workers(3),
        "at least 5 workers and at most 3: set max_workers to min_workers or more",
    );
    check(
        server().max_spare_workers(1),
        "at least 2 spare workers and at most 1: set max_spare_workers to min_spare_workers or more",
    );
    check(
        server().workers(usize::MAX),
        &format!(
            "{} workers are more processes than there can be (4194304): set min_workers and min_spare_workers to what \
             the machine has room for",
            usize::MAX
        ),
    );
    check(
        server()
            .max_workers(usize::MAX)
            .max_spare_workers(usize::MAX)
            .min_spare_workers(5_000_000),
        "5000000 workers are more processes than there can be (4194304)",
    );
    check(
        server().hang_timeout(Duration::ZERO),
        "a hang_timeout of zero would kill each worker at once; set none for no limit",
    );
}

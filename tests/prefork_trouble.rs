//! Worker processes in trouble: told by signals, killed (children for one request, too), hanging, not starting; and
//! their master killed.

mod support;

use std::error::Error;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill, killpg, raise};
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::{Pid, Uid, close, daemon, geteuid, setuid};
use socketserver::prelude::*;
use socketserver::{Event, Running, State, Tcp};
use support::attempts::until_in_time;
use support::clients;
use support::commanded::{Client, Commanded, killed_by, request, serve, stop};
use support::interrupt::ignore_sigterm;
use support::process::{Process, as_ordinary_user, assert_stops, echo_with_few_tasks, pid, role, serve_as_role};
use support::{
    CEILING, EchoLine, children, children_of, connect, connect_to, exchange_line, kill_by_number, logged,
    process_state, read_to_end, sockets_of, temp_path, wait_until, wait_until_accepted,
};

tests![
    roles: three_workers, one_worker_that_must_get_on, three_workers_with_threads, two_workers_with_a_thread_each_that_log, three_workers_that_soon_give_up, three_workers_of_another_user,
        a_worker_that_ignores_sigterm, a_worker_with_threads_that_ignores_sigterm, a_suspended_worker_that_ignores_sigterm,
        a_child_for_each_request, two_workers_of_a_program_whose_logger_looks_at_the_server,
        one_worker_of_a_program_whose_logger_asks_for_the_workers;
    sigttin_and_sigttou_change_the_number,
    the_last_worker_stays,
    sighup_replaces_all_workers,
    on_sighup_the_old_worker_serves_until_the_new_one_is_ready,
    on_sighup_an_old_worker_has_until_the_drain_deadline,
    on_sighup_the_old_workers_go_on_if_the_new_ones_do_not_start,
    sighup_under_load_fails_no_client,
    workers_are_told_although_sigterm_was_blocked_when_the_program_was_started,
    a_signal_for_the_whole_group_spares_the_workers,
    a_second_signal_stops_at_once,
    a_logger_may_look_at_the_server_whose_lines_it_writes,
    a_logger_may_ask_for_the_workers_whatever_it_is_told,
    sigterm_under_load_ends_all,
    workers_that_do_not_start_stop_the_server_with_the_reason,
    workers_that_are_killed_as_they_start_stop_the_server_with_the_reason,
    workers_that_panic_as_they_start_stop_the_server_with_the_reason,
    workers_that_exit_as_they_start_stop_the_server_although_their_status_is_0,
    observers_may_ask_for_the_workers_whose_end_makes_starting_them_pause,
    workers_that_serve_in_between_are_counted_although_their_master_has_not_seen_them_ready,
    a_worker_whose_error_panics_when_it_is_told_never_comes_back,
    a_first_worker_that_cannot_be_forked_is_an_error,
    the_master_alone_tells_how_far_a_drain_is_and_what_its_deadline_costs,
    with_room_for_fewer_workers_these_serve,
    once_there_is_room_for_them_the_missing_workers_start,
    without_descriptors_workers_wait_and_recover,
    workers_that_lack_descriptors_as_they_start_are_started_again,
    workers_that_lack_room_as_they_start_are_started_again,
    workers_that_lack_threads_as_they_start_are_started_again,
    a_worker_that_a_real_time_signal_has_killed_is_replaced,
    a_worker_that_hangs_is_killed_and_replaced,
    a_worker_that_hangs_as_it_starts_is_killed,
    a_worker_that_takes_long_to_start_does_not_put_the_end_off,
    what_a_worker_was_woken_for_that_is_killed_instead_another_serves,
    what_a_worker_was_woken_for_that_cannot_accept_it_another_serves,
    a_worker_whose_handler_has_left_sigterm_blocked_or_ignored_ends_when_it_is_told,
    a_worker_with_threads_whose_handler_has_left_sigterm_ignored_ends_when_it_is_told,
    a_worker_whose_descriptors_are_closed_is_replaced,
    a_daemon_that_a_handler_has_become_ends_with_its_request,
    a_listening_socket_that_is_shut_down_stops_the_server_with_the_reason,
    a_worker_that_is_killed_as_it_leaves_has_said_that_the_listening_socket_is_broken,
    a_worker_that_was_stopped_together_with_its_master_does_not_hang,
    a_worker_that_waits_does_not_hang,
    a_worker_that_drains_does_not_hang,
    a_handler_that_writes_does_not_hang,
    a_handler_that_says_that_it_gets_on_does_not_hang,
    a_random_worker_killed_again_and_again_costs_its_own_requests_only,
    random_workers_with_threads_killed_again_and_again_cost_their_own_requests_only,
    a_random_child_of_a_forking_server_killed_again_and_again_costs_its_own_request_only,
    without_a_master_idle_workers_end,
    without_a_master_workers_end_that_have_dropped_privileges,
    without_a_master_a_request_in_progress_ends_and_then_its_worker,
    without_a_master_what_the_kernel_has_queued_is_served_before_the_end,
    without_a_master_a_worker_that_hangs_ends_at_the_deadline,
    without_a_master_an_idle_worker_ends_although_a_handler_has_left_sigterm_ignored,
];

const ANY_PORT: &str = "127.0.0.1:0";

fn server() -> PreForkTcpServer<Commanded> {
    PreForkTcpServer::new(ANY_PORT, Commanded)
}

fn three_workers() {
    serve_as_role(server().workers(3));
}

fn three_workers_with_threads() {
    serve_as_role(ThreadingTcpServer::new(ANY_PORT, Commanded).prefork().workers(3));
}

fn two_workers_with_a_thread_each_that_log() {
    env_logger::Builder::new().filter_level(log::LevelFilter::Info).init();
    let server = ThreadingTcpServer::new(ANY_PORT, Commanded).max_threads(1);
    serve_as_role(server.prefork().workers(2).drain_timeout(Duration::from_secs(2)));
}

fn three_workers_that_soon_give_up() {
    serve_as_role(server().workers(3).drain_timeout(Duration::from_millis(100)));
}

const TIME_TO_GET_ON: Duration = Duration::from_secs(1);

fn one_worker_that_must_get_on() {
    serve_as_role(server().workers(1).hang_timeout(TIME_TO_GET_ON));
}

/// One that nobody else is, if this is root.
fn user_of_the_workers() -> u32 {
    if geteuid().is_root() {
        999_999
    } else {
        geteuid().as_raw()
    }
}

fn three_workers_of_another_user() {
    let user = Uid::from_raw(user_of_the_workers());
    serve_as_role(server().workers(3).worker_init(move || Ok(setuid(user)?)));
}

fn a_worker_that_ignores_sigterm() {
    serve_as_role(PreForkTcpServer::new(ANY_PORT, spoiling(ignore_sigterm)).workers(1));
}

fn a_worker_with_threads_that_ignores_sigterm() {
    let threading = ThreadingTcpServer::new(ANY_PORT, spoiling(ignore_sigterm));
    serve_as_role(threading.prefork().workers(1));
}

fn a_suspended_worker_that_ignores_sigterm() {
    let handler = |request: &mut TcpRequest| {
        ignore_sigterm();
        request.server().handle().unwrap().suspend();
        writeln!(request, "{}", std::process::id())
    };
    serve_as_role(PreForkTcpServer::new(ANY_PORT, handler).workers(1));
}

fn a_child_for_each_request() {
    serve_as_role(ForkingTcpServer::new(ANY_PORT, Commanded));
}

/// Waits until there are `count` workers that all have been there for a moment.
#[track_caller]
fn wait_for_workers(master: u32, count: usize) -> Vec<u32> {
    let mut before = Vec::new();
    wait_until(&format!("there are {count} workers"), || {
        let now = children_of(master);
        let rest = now.len() == count && now == before;
        before = now;
        thread::sleep(Duration::from_millis(20));
        rest
    });
    before
}

fn signal_master(signal: Signal) {
    kill(Pid::this(), signal).unwrap();
}

// ----- Signals -----------------------------------------------------------------------------------

fn sigttin_and_sigttou_change_the_number() {
    let (running, address) = serve(server().workers(2), 2);
    let me = std::process::id();
    for (signal, workers) in [
        (Signal::SIGTTIN, 3),
        (Signal::SIGTTIN, 4),
        (Signal::SIGTTOU, 3),
        (Signal::SIGTTOU, 2),
        (Signal::SIGTTOU, 1),
    ] {
        signal_master(signal);
        wait_for_workers(me, workers);
        request(&address);
    }
    stop(running, 5, 0);
}

fn the_last_worker_stays() {
    let (running, address) = serve(server().workers(1), 1);
    let worker = children();
    signal_master(Signal::SIGTTOU);
    wait_until("it is told", || {
        logged().iter().any(|line| line == "WARN the last worker stays")
    });
    assert_eq!(request(&address), worker[0]);
    stop(running, 1, 0);
}

fn sighup_replaces_all_workers() {
    let (running, address) = serve(server().workers(3), 3);
    let old = children();
    let client = Client::start(&address, "hold");
    signal_master(Signal::SIGHUP);
    wait_until("the others are replaced", || {
        let children = children();
        children.len() == 4
            && old
                .iter()
                .filter(|worker| children.contains(worker))
                .eq([&client.process])
    });
    request(&address);
    client.finish();
    wait_until("all are replaced", || {
        let children = children();
        children.len() == 3 && !children.iter().any(|worker| old.contains(worker))
    });
    stop(running, 2, 0);
}

fn on_sighup_the_old_worker_serves_until_the_new_one_is_ready() {
    let closed = temp_path("closed");
    let path = closed.path.clone();
    let server = server().workers(1).worker_init(move || {
        wait_until("the gate is open", || !path.exists());
        Ok(())
    });
    let (running, address) = serve(server, 1);
    let old = request(&address);
    fs::write(&closed.path, "").unwrap();
    signal_master(Signal::SIGHUP);
    wait_until("a new worker starts", || children().len() == 2);
    for _ in 0..10 {
        assert_eq!(request(&address), old);
    }
    fs::remove_file(&closed.path).unwrap();
    wait_until("the old one has ended", || !children().contains(&old));
    assert_eq!(request(&address), children()[0]);
    stop(running, 12, 0);
}

fn on_sighup_an_old_worker_has_until_the_drain_deadline() {
    let (running, address) = serve(server().workers(1).drain_timeout(SOON), 1);
    let client = Client::start(&address, "hold");
    let process = client.process;
    signal_master(Signal::SIGHUP);
    client.expect_loss();
    assert_ne!(request(&address), process);
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed, report.forced), (1, 1, 1), "{report}");
}

fn on_sighup_the_old_workers_go_on_if_the_new_ones_do_not_start() {
    let (broken, started) = (temp_path("broken"), tempfile::tempfile().unwrap());
    let inits = started.try_clone().unwrap();
    let path = broken.path.clone();
    let server = server().workers(2).worker_init(move || {
        if path.exists() {
            return Err(io::Error::other("no database"));
        }
        (&inits).write_all(b".")
    });
    let (running, address) = serve(server, 2);
    request(&address);
    // Else the second of the old ones may be among those that do not start.
    wait_until("both have started", || started.metadata().unwrap().len() == 2);
    let old = children();
    fs::write(&broken.path, "").unwrap();
    signal_master(Signal::SIGHUP);
    wait_until("it is given up", || {
        logged()
            .iter()
            .any(|line| line == "ERROR the new workers do not start: the old ones go on")
    });
    wait_until("the last of the new ones is reaped", || children() == old);
    assert!(
        logged()
            .iter()
            .any(|line| line.ends_with(" did not start: no database"))
    );
    request(&address);
    stop(running, 2, 0);
}

// ----- Load --------------------------------------------------------------------------------------

/// Clients that send one request after the other until they are told to stop.
struct Load {
    stop: AtomicBool,
    answered: AtomicU64,
    lost: AtomicU64,
}

impl Load {
    /// Runs `with` under the load of `clients`; a client that waits for longer than the ceiling panics.
    fn run(address: &str, clients: usize, with: impl FnOnce(&Load)) -> Load {
        let load = Load {
            stop: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        };
        thread::scope(|scope| {
            for _ in 0..clients {
                scope.spawn(|| {
                    while !load.stop.load(Ordering::SeqCst) {
                        match Client::try_start(address, "").map(Client::try_rest) {
                            Ok(Ok(answer)) if answer == "done\n" => &load.answered,
                            Err(error) | Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                                panic!("a client was not answered")
                            }
                            _ => &load.lost,
                        }
                        .fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            with(&load);
            load.stop.store(true, Ordering::SeqCst);
        });
        load
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    fn lost(&self) -> u64 {
        self.lost.load(Ordering::SeqCst)
    }

    #[track_caller]
    fn wait_for_more(&self, requests: u64) {
        let before = self.answered();
        wait_until("more are answered", || self.answered() >= before + requests);
    }
}

/// The counts of requests that a server printed at its end.
#[track_caller]
fn counts(output: &str) -> (u64, u64) {
    let count = |name: &str| -> u64 {
        let rest = output.split_once(name).unwrap_or_else(|| panic!("{output}")).1;
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    (count("served="), count("failed="))
}

fn start(role_name: &str) -> Process {
    Process::start(&mut role(role_name))
}

fn sighup_under_load_fails_no_client() {
    for role_name in ["three_workers", "three_workers_with_threads"] {
        let server = start(role_name);
        let load = Load::run(server.address(), 4, |load| {
            for _ in 0..5 {
                let old = wait_for_workers(server.id(), 3);
                load.wait_for_more(20);
                server.signal(Signal::SIGHUP);
                wait_until("all are replaced", || {
                    !children_of(server.id()).iter().any(|worker| old.contains(worker))
                });
            }
            load.wait_for_more(20);
        });
        server.signal(Signal::SIGTERM);
        let ended = server.end();
        assert_eq!(load.lost(), 0, "{ended:?}");
        assert_eq!(counts(&ended.output), (load.answered(), 0), "{ended:?}");
    }
}

fn workers_are_told_although_sigterm_was_blocked_when_the_program_was_started() {
    let sigterm = SigSet::from(Signal::SIGTERM);
    sigterm.thread_block().unwrap();
    let (running, address) = serve(server().workers(2), 2);
    sigterm.thread_unblock().unwrap();
    let old = children();
    signal_master(Signal::SIGHUP);
    wait_until("all are replaced", || {
        let children = children();
        children.len() == 2 && !children.iter().any(|worker| old.contains(worker))
    });
    request(&address);
    stop(running, 1, 0);
}

/// So many processes killed, one after the other: none can be gone before its request has been counted, and none is
/// counted twice. A kill may cost so many requests, and leave so many uncounted.
#[track_caller]
fn kill_again_and_again(role_name: &str, kills: usize, requests: u64, uncounted: u64) {
    let server = start(role_name);
    let load = Load::run(server.address(), 8, |load| {
        let mut killed = 0;
        while killed < kills {
            let workers = children_of(server.id());
            let victim = workers.get(killed % workers.len().max(1)).copied();
            if victim.is_some_and(|worker| kill(pid(worker), Signal::SIGKILL).is_ok()) {
                killed += 1;
                wait_until("it has been reaped", || {
                    victim.is_none_or(|victim| !children_of(server.id()).contains(&victim))
                });
                // If all are killed as they start, the server gives up.
                load.wait_for_more(10);
            }
        }
    });
    let kills = kills as u64;
    server.signal(Signal::SIGTERM);
    let ended = server.end();
    let (good, bad) = counts(&ended.output);
    let story = format!(
        "{kills} kills, {} answered, {} lost: {ended:?}",
        load.answered(),
        load.lost()
    );
    assert!(load.lost() <= kills * requests, "{story}");
    assert!(bad <= kills * requests, "{story}");
    // One that was answered can still fail.
    let all = load.answered() + load.lost();
    assert!(good <= load.answered() && good + bad <= all, "{story}");
    assert!(all - (good + bad) <= kills * uncounted, "{story}");
}

fn a_random_worker_killed_again_and_again_costs_its_own_requests_only() {
    // Killed in the middle of accept(2) it has counted none.
    kill_again_and_again("three_workers", 25, 1, 1);
}

fn random_workers_with_threads_killed_again_and_again_cost_their_own_requests_only() {
    kill_again_and_again("three_workers_with_threads", 25, 8, 1);
}

fn a_random_child_of_a_forking_server_killed_again_and_again_costs_its_own_request_only() {
    // The parent has accepted, and counted, what a child serves.
    kill_again_and_again("a_child_for_each_request", 35, 1, 0);
}

fn sigterm_under_load_ends_all() {
    let server = start("three_workers");
    let (id, address) = (server.id(), server.address().to_owned());
    let mut ended = None;
    let load = Load::run(&address, 4, |load| {
        load.wait_for_more(50);
        server.signal(Signal::SIGTERM);
        ended = Some(server.end());
    });
    let ended = ended.unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(counts(&ended.output), (load.answered(), 0), "{ended:?}");
    assert_eq!(children_of(id), []);
}

// ----- The end by signals ------------------------------------------------------------------------

fn a_signal_for_the_whole_group_spares_the_workers() {
    let server = Process::start(role("three_workers").process_group(0));
    wait_for_workers(server.id(), 3);
    // It has not said anything yet, so its first message is waited for.
    let client = std::net::TcpStream::connect(server.address()).unwrap();
    wait_until_accepted(&client);
    killpg(pid(server.id()), Signal::SIGINT).unwrap();
    wait_until("the other workers have ended", || children_of(server.id()).len() == 1);
    (&client).write_all(b"\n").unwrap();
    assert!(read_to_end(&client).ends_with(b"done\n"));
    let ended = server.end();
    assert!(
        ended
            .output
            .ends_with("served=1 failed=0 drained=1 forced=0 leaked=0\n"),
        "{ended:?}"
    );
}

fn a_second_signal_stops_at_once() {
    let server = start("three_workers");
    wait_for_workers(server.id(), 3);
    let client = Client::start(server.address(), "hold");
    server.signal(Signal::SIGTERM);
    wait_until("the other workers have ended", || children_of(server.id()).len() == 1);
    server.signal(Signal::SIGTERM);
    assert_eq!(client.rest(), "");
    let ended = server.end();
    assert!(
        ended
            .output
            .ends_with("served=0 failed=1 drained=0 forced=1 leaked=0\n"),
        "{ended:?}"
    );
}

// ----- Workers that do not start -----------------------------------------------------------------

/// Serves, in vain, with an initialisation that never succeeds.
#[track_caller]
fn serve_in_vain(init: impl Fn() -> io::Result<()> + Send + Sync + 'static, reason: &str) {
    let error = server().worker_init(init).serve_forever().unwrap_err();
    let expected = format!("5 workers in a row did not start; the last: {reason}");
    assert_eq!(error.to_string(), expected);
    assert_eq!(children(), []);
}

fn workers_that_do_not_start_stop_the_server_with_the_reason() {
    serve_in_vain(|| Err(io::Error::other("no database")), "no database");
}

fn workers_that_are_killed_as_they_start_stop_the_server_with_the_reason() {
    serve_in_vain(|| Ok(raise(Signal::SIGKILL)?), &killed_by(Signal::SIGKILL));
}

fn workers_that_panic_as_they_start_stop_the_server_with_the_reason() {
    serve_in_vain(|| resume_unwind(Box::new("no database")), "panicked: no database");
}

fn workers_that_exit_as_they_start_stop_the_server_although_their_status_is_0() {
    serve_in_vain(|| std::process::exit(0), "exit status: 0");
}

/// A server that an observer knows, too.
struct Known(Arc<PreForkTcpServer<Commanded>>);

impl BaseServer for Known {
    type Transport = Tcp;
    type Inner = PreForkTcpServer<Commanded>;

    fn inner(&self) -> &Self::Inner {
        &self.0
    }
}

fn observers_may_ask_for_the_workers_whose_end_makes_starting_them_pause() {
    let known = Arc::new(OnceLock::<Weak<PreForkTcpServer<Commanded>>>::new());
    let has_asked = Arc::new(AtomicBool::new(false));
    let (asks, asked) = (Arc::clone(&known), Arc::clone(&has_asked));
    let server = server().workers(1).observer(move |event: &Event<'_>| {
        if let Event::BackOffBegun { .. } = event {
            let server = asks.get().and_then(Weak::upgrade).unwrap();
            assert_eq!(server.active_workers(), 0);
            asked.store(true, Ordering::SeqCst);
        }
    });
    let server = Arc::new(server);
    known.set(Arc::downgrade(&server)).unwrap();
    let (running, address) = serve(Known(server), 1);
    kill(pid(children()[0]), Signal::SIGKILL).unwrap();
    wait_until("it has asked", || has_asked.load(Ordering::SeqCst));
    request(&address);
    stop(running, 1, 0);
}

/// While there are clients, its master looks at workers that have ended only.
struct Late<S>(S, Arc<AtomicBool>);

impl<S: BaseServer> BaseServer for Late<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn service_actions(&self) {
        let has_ended = |worker: &u32| process_state(*worker).as_deref() == Some("Z");
        wait_until("the worker has ended", || {
            !self.1.load(Ordering::SeqCst) || children().iter().all(has_ended)
        });
        self.0.service_actions();
    }
}

fn workers_that_serve_in_between_are_counted_although_their_master_has_not_seen_them_ready() {
    let file = temp_path("every other");
    let path = file.path.clone();
    // The first fails, the second does not, and so on.
    let init = move || {
        fs::remove_file(&path).or_else(|_| {
            fs::write(&path, "")?;
            Err(io::Error::other("no luck"))
        })
    };
    let server = server()
        .workers(1)
        .max_requests(1)
        .max_requests_jitter(0)
        .worker_init(init);
    let late = Arc::new(AtomicBool::new(true));
    let server = Late(server, Arc::clone(&late)).bind().unwrap();
    let clients: Vec<_> = (0..7).map(|_| connect(&server.server_address())).collect();
    for mut client in &clients {
        client.write_all(b"\n").unwrap();
    }
    let running = server.spawn().unwrap();
    for client in clients {
        assert!(read_to_end(client).ends_with(b"done\n"));
    }
    late.store(false, Ordering::SeqCst);
    stop(running, 7, 0);
}

fn a_first_worker_that_cannot_be_forked_is_an_error() {
    let Some((server, _place)) = echo_with_few_tasks(1, &["--strategy", "prefork"]) else {
        return;
    };
    let ended = server.end();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let text = "echo: the first worker cannot be started: Resource temporarily unavailable";
    assert!(ended.errors.contains(text), "{ended:?}");
    let advice = "(what limits them: ulimit -u, pids.max of the cgroup, memory)";
    assert!(ended.errors.contains(advice), "{ended:?}");
}

fn the_master_alone_tells_how_far_a_drain_is_and_what_its_deadline_costs() {
    let server = Process::start(&mut role("two_workers_with_a_thread_each_that_log"));
    let busy = [(); 2].map(|()| Client::start(server.address(), "hold"));
    let queued = connect_to(server.address());
    server.signal(Signal::SIGTERM);
    let ended = server.end();
    drop((busy, queued));
    let text = |line: &str| line.split_once("] ").map(|(_, text)| text.to_owned());
    let told = ended.errors.lines().filter_map(text);
    // "hold" writes to a socket that was shut down.
    let of_the_server = told.filter(|line| !line.starts_with("handle failed for "));
    let (progress, rest): (Vec<_>, Vec<_>) = of_the_server.partition(|line| line.starts_with("draining: "));
    // A worker has one of them.
    let of_all = |line: &String| line.starts_with("draining: 2 connections and those not accepted yet, ");
    assert!(!progress.is_empty() && progress.iter().all(of_all), "{ended:?}");
    let expected = [
        "the time to drain is over: what was not accepted by now is lost",
        "2 requests did not end in time: shutting their sockets down",
    ];
    assert_eq!(rest, expected, "{ended:?}");
}

fn with_room_for_fewer_workers_these_serve() {
    let Some((mut server, _place)) = echo_with_few_tasks(3, &["--strategy", "prefork"]) else {
        return;
    };
    server.wait_for_errors_with("workers end at once or cannot be started: Resource temporarily unavailable");
    assert_eq!(children_of(server.id()).len(), 2);
    let client = std::net::TcpStream::connect(server.address()).unwrap();
    assert_eq!(exchange_line(&client, "hello\n"), "hello\n");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    drop(client);
    server.signal(Signal::SIGTERM);
    let ended = server.end();
    assert_eq!(counts(&ended.output), (1, 0), "{ended:?}");
}

fn once_there_is_room_for_them_the_missing_workers_start() {
    let mut other = as_ordinary_user(Path::new("sleep")).arg("60").spawn().unwrap();
    let server = echo_with_few_tasks(4, &["--strategy", "prefork", "--workers", "3"]);
    if let Some((server, _)) = &server {
        wait_until("two have started", || children_of(server.id()).len() == 2);
        // It has tried several times in vain by then: after 5, 10, 20 and 40 ms.
        thread::sleep(Duration::from_millis(100));
        assert_eq!(children_of(server.id()).len(), 2);
    }
    other.kill().unwrap();
    other.wait().unwrap();
    let Some((server, _place)) = server else {
        return;
    };
    wait_until("the third has started", || children_of(server.id()).len() == 3);
    server.signal(Signal::SIGTERM);
    let ended = server.end();
    assert_eq!(counts(&ended.output), (0, 0), "{ended:?}");
}

fn without_descriptors_workers_wait_and_recover() {
    let limit = || {
        let me = std::process::id().to_string();
        // Room for some connections beside what this process has.
        let most = format!("--nofile={}", fs::read_dir("/proc/self/fd")?.count() + 10);
        assert!(Command::new("prlimit").args([&most, "--pid", &me]).status()?.success());
        Ok(())
    };
    let server = ThreadingTcpServer::new(ANY_PORT, Commanded)
        .prefork()
        .workers(1)
        .worker_init(limit);
    let (running, address) = serve(server, 1);
    let clients: Vec<_> = (0..40)
        .map(|_| {
            let address = address.clone();
            thread::spawn(move || request(&address))
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    stop(running, 40, 0);
}

/// Has the only worker, as it starts, want for something again and again, then have it.
#[track_caller]
fn assert_started_again(want: impl Fn() -> io::Error + Send + Sync + 'static) {
    let lack = temp_path("lack");
    let path = lack.path.clone();
    let init = move || if path.exists() { Err(want()) } else { Ok(()) };
    let server = server().workers(1).max_requests(2).max_requests_jitter(0);
    let (running, address) = serve(server.worker_init(init), 1);
    // The only worker has started.
    request(&address);
    fs::write(&lack.path, "").unwrap();
    let failures = || logged().iter().filter(|line| line.contains(" did not start: ")).count();
    let before = failures();
    // It ends with this.
    request(&address);
    wait_until("as many have failed as stop a server", || {
        running.handle().state() == State::Closed || failures() > before + 5
    });
    fs::remove_file(&lack.path).unwrap();
    request(&address);
    stop(running, 3, 0);
}

fn workers_that_lack_descriptors_as_they_start_are_started_again() {
    assert_started_again(|| Errno::EMFILE.into());
}

/// Such as watches of epoll (`max_user_watches`, epoll(7)), or memory for a socket.
fn workers_that_lack_room_as_they_start_are_started_again() {
    for errno in [Errno::ENOSPC, Errno::ENOBUFS] {
        assert_started_again(move || errno.into());
    }
}

/// `spawn` says where to look, and so not the error's number.
fn workers_that_lack_threads_as_they_start_are_started_again() {
    assert_started_again(|| io::Error::new(io::ErrorKind::WouldBlock, "no room for another thread"));
}

// ----- Workers that hang -------------------------------------------------------------------------

const SOON: Duration = Duration::from_millis(200);

fn a_worker_that_a_real_time_signal_has_killed_is_replaced() {
    let (running, address) = serve(server().workers(1), 1);
    let client = Client::start(&address, "hang");
    let process = client.process;
    kill_by_number(40, process);
    client.expect_loss();
    assert_ne!(request(&address), process);
    stop(running, 1, 1);
}

/// Requests to workers of which a busy machine may put one off for [`SOON`], so that it is killed.
struct Patient<'a> {
    address: &'a str,
    tries: u64,
}

impl Patient<'_> {
    #[track_caller]
    fn retry<T>(&mut self, once: impl Fn(&str) -> io::Result<T>) -> T {
        loop {
            self.tries += 1;
            match once(self.address) {
                Ok(answer) => return answer,
                Err(error) => assert!(self.tries < 100, "{error}"),
            }
        }
    }

    #[track_caller]
    fn start(&mut self, order: &str) -> Client {
        self.retry(|address| Client::try_start(address, order))
    }

    /// One request from its beginning to its end. Returns the process that served it.
    #[track_caller]
    fn request(&mut self) -> u32 {
        self.retry(|address| {
            let client = Client::try_start(address, "")?;
            let process = client.process;
            match client.try_rest()?.as_str() {
                "done\n" => Ok(process),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        })
    }

    /// Stops the server, in which each has ended, the last well.
    #[track_caller]
    fn stop(self, running: Running) {
        let report = running.stop().unwrap();
        assert!(report.served > 0, "{report}");
        // One whose worker is killed as it accepts is not counted.
        assert!(report.served + report.failed <= self.tries, "{report}");
        assert_eq!((report.forced, report.leaked), (0, 0), "{report}");
        assert_eq!(children(), []);
    }
}

fn a_worker_that_hangs_is_killed_and_replaced() {
    let (running, address) = serve(server().workers(1).hang_timeout(SOON), 1);
    let mut patient = Patient {
        address: &address,
        tries: 0,
    };
    let client = patient.start("hang");
    let process = client.process;
    client.expect_loss();
    assert_ne!(patient.request(), process);
    patient.stop(running);
    assert!(logged().contains(&format!("ERROR worker {process} has not got on for 200ms: killing it")));
}

/// Tells its process once `spoil` has done something to SIGTERM.
fn spoiling(spoil: fn()) -> impl Fn(&mut TcpRequest) -> io::Result<()> + Clone + Send + Sync + 'static {
    move |request| {
        spoil();
        writeln!(request, "{}", std::process::id())
    }
}

#[track_caller]
fn process_of(answer: &[u8]) -> u32 {
    str::from_utf8(answer).unwrap().trim().parse().unwrap()
}

fn a_worker_whose_handler_has_left_sigterm_blocked_or_ignored_ends_when_it_is_told() {
    let block: fn() = || SigSet::from(Signal::SIGTERM).thread_block().unwrap();
    for spoil in [block, ignore_sigterm] {
        assert_ends_when_it_is_told(PreForkTcpServer::new(ANY_PORT, spoiling(spoil)).workers(1));
    }
}

// The wake-up that it is told by may wake the thread that does not accept, too.
fn a_worker_with_threads_whose_handler_has_left_sigterm_ignored_ends_when_it_is_told() {
    for _ in 0..10 {
        let threading = ThreadingTcpServer::new(ANY_PORT, spoiling(ignore_sigterm));
        assert_ends_when_it_is_told(threading.prefork().workers(1));
        let pool = ThreadPoolTcpServer::new(ANY_PORT, spoiling(ignore_sigterm)).workers(2);
        assert_ends_when_it_is_told(pool.prefork().workers(1));
    }
}

#[track_caller]
fn assert_ends_when_it_is_told(server: impl BaseServer) {
    let (running, address) = serve(server.drain_timeout(None), 1);
    let process = || process_of(&read_to_end(connect_to(&address)));
    let before = process();
    signal_master(Signal::SIGHUP);
    wait_until_gone(&[before]);
    assert_ne!(process(), before);
    stop(running, 2, 0);
}

fn a_worker_whose_descriptors_are_closed_is_replaced() {
    let close_others = |request: &mut TcpRequest| -> HandlerResult {
        writeln!(request, "{}", std::process::id())?;
        let own = request.get_ref().as_raw_fd();
        for descriptor in (3..100).filter(|descriptor| *descriptor != own) {
            let _ = close(descriptor);
        }
        Ok(())
    };
    let running = PreForkTcpServer::new(ANY_PORT, close_others)
        .workers(2)
        .spawn()
        .unwrap();
    let process = || read_to_end(connect(running.server_address()));
    let mut before = process();
    for _ in 0..4 {
        let next = process();
        assert_ne!(next, before);
        before = next;
    }
    stop(running, 5, 0);
    let ended = logged()
        .iter()
        .filter(|line| line.contains("Bad file descriptor"))
        .count();
    assert!(ended > 0, "{:?}", logged());
}

/// Which ends the worker, and goes on in a child of it.
fn become_a_daemon(request: &mut TcpRequest) -> HandlerResult {
    daemon(true, true)?;
    Ok(writeln!(request, "{}", std::process::id())?)
}

fn a_daemon_that_a_handler_has_become_ends_with_its_request() {
    assert_ends_with_its_request(PreForkTcpServer::new(ANY_PORT, become_a_daemon).workers(1));
    let threading = ThreadingTcpServer::new(ANY_PORT, become_a_daemon);
    assert_ends_with_its_request(threading.prefork().workers(1));
    let pool = ThreadPoolTcpServer::new(ANY_PORT, become_a_daemon).workers(1);
    assert_ends_with_its_request(pool.prefork().workers(1));
    let queue = ThreadPoolTcpServer::new(ANY_PORT, become_a_daemon).queue_size(1);
    assert_ends_with_its_request(queue.prefork().workers(1));
}

#[track_caller]
fn assert_ends_with_its_request(server: impl BaseServer) {
    let running = server.spawn().unwrap();
    for _ in 0..2 {
        let answer = read_to_end(connect(running.server_address()));
        let process = String::from_utf8(answer).unwrap().trim().parse().unwrap();
        wait_until_gone(&[process]);
    }
    let report = running.stop().unwrap();
    assert_eq!(report.served + report.failed, 2, "{report:?}");
}

/// Shuts it down once there are so many workers, and does something else then. Returns what the server ends with.
#[track_caller]
fn end_of_a_broken_socket(server: impl BaseServer, workers: usize, then: impl FnOnce(&dyn Fn(), &str)) -> String {
    let server = server.bind().unwrap();
    let socket = server.fileno().unwrap().try_clone_to_owned().unwrap();
    let (running, address) = serve(server, workers);
    then(&|| shutdown(socket.as_raw_fd(), Shutdown::Both).unwrap(), &address);
    running.join().unwrap_err().to_string()
}

const BROKEN: &str = "the listening socket is broken: ";

fn a_listening_socket_that_is_shut_down_stops_the_server_with_the_reason() {
    let error = end_of_a_broken_socket(server().workers(2), 2, |shut_down, _| shut_down());
    assert!(error.starts_with(BROKEN), "{error}");
    let error = end_of_a_broken_socket(threads_inside(), 1, |shut_down, _| shut_down());
    assert!(error.starts_with(BROKEN), "{error}");
}

fn threads_inside() -> impl BaseServer {
    ThreadingTcpServer::new(ANY_PORT, Commanded).prefork().workers(1)
}

fn a_worker_that_is_killed_as_it_leaves_has_said_that_the_listening_socket_is_broken() {
    let error = end_of_a_broken_socket(threads_inside(), 1, |shut_down, address| {
        let client = Client::start(address, "hold");
        let before = sockets_of(client.process);
        shut_down();
        wait_until("only its request keeps it", || sockets_of(client.process) < before);
        kill(pid(client.process), Signal::SIGKILL).unwrap();
        client.expect_loss();
    });
    assert!(error.starts_with(BROKEN), "{error}");
}

fn a_worker_that_hangs_as_it_starts_is_killed() {
    let init = || loop {
        thread::sleep(Duration::from_secs(10));
    };
    let error = server()
        .hang_timeout(SOON)
        .worker_init(init)
        .serve_forever()
        .unwrap_err();
    assert!(error.to_string().ends_with(&killed_by(Signal::SIGKILL)), "{error}");
}

fn a_worker_that_takes_long_to_start_does_not_put_the_end_off() {
    let slow = temp_path("slow");
    let path = slow.path.clone();
    let server = server().workers(1).worker_init(move || {
        wait_until("it may start", || !path.exists());
        Ok(())
    });
    let (running, address) = serve(server, 1);
    request(&address);
    fs::write(&slow.path, "").unwrap();
    signal_master(Signal::SIGTTIN);
    wait_until("another starts", || children().len() == 2);
    let begin = Instant::now();
    stop(running, 1, 0);
    assert!(begin.elapsed() < CEILING);
}

/// The worker that accepts next, while there is such a file, is killed instead.
struct Dying<S>(S, PathBuf);

impl<S: BaseServer> BaseServer for Dying<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn get_request(&self) -> io::Result<RequestOf<Self>> {
        if fs::remove_file(&self.1).is_ok() {
            raise(Signal::SIGKILL).unwrap();
        }
        self.0.get_request()
    }
}

/// The kernel has told nobody else.
fn what_a_worker_was_woken_for_that_is_killed_instead_another_serves() {
    let (slow, dies) = (temp_path("slow"), temp_path("dies"));
    let path = slow.path.clone();
    let server = Dying(TcpServer::new(ANY_PORT, Commanded), dies.path.clone());
    let server = server.prefork().workers(2).worker_init(move || {
        wait_until("it may start", || !path.exists());
        Ok(())
    });
    let (running, address) = serve(server, 2);
    let workers = children();
    wait_until("they wait", || {
        workers
            .iter()
            .all(|worker| process_state(*worker).as_deref() == Some("S"))
    });
    // The one that takes its place is not there yet.
    fs::write(&slow.path, "").unwrap();
    fs::write(&dies.path, "").unwrap();
    assert!(workers.contains(&request(&address)));
    assert!(!dies.path.exists());
    fs::remove_file(&slow.path).unwrap();
    stop(running, 1, 0);
}

/// The worker that accepts next, while there is such a file, has no descriptors from then on.
struct Wanting<S> {
    inner: S,
    file: PathBuf,
    wants: AtomicBool,
}

impl<S: BaseServer> BaseServer for Wanting<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn get_request(&self) -> io::Result<RequestOf<Self>> {
        if fs::remove_file(&self.file).is_ok() {
            self.wants.store(true, Ordering::SeqCst);
        }
        if self.wants.load(Ordering::SeqCst) {
            return Err(Errno::EMFILE.into());
        }
        self.inner.get_request()
    }
}

/// It goes on to be woken first.
fn what_a_worker_was_woken_for_that_cannot_accept_it_another_serves() {
    #[track_caller]
    fn check<S: BaseServer>(prefork: impl FnOnce(Wanting<TcpServer<Commanded>>) -> PreFork<S>) {
        let file = temp_path("wants");
        let wanting = Wanting {
            inner: TcpServer::new(ANY_PORT, Commanded),
            file: file.path.clone(),
            wants: AtomicBool::new(false),
        };
        let (running, address) = serve(prefork(wanting).workers(2), 2);
        let before = request(&address);
        fs::write(&file.path, "").unwrap();
        let after: Vec<_> = (0..3).map(|_| request(&address)).collect();
        assert!(!file.path.exists());
        assert!(after.iter().all(|process| *process == after[0]), "{before}, {after:?}");
        stop(running, 4, 0);
    }
    check(Strategies::prefork);
    check(|wanting| wanting.threading().prefork());
}

fn a_worker_that_was_stopped_together_with_its_master_does_not_hang() {
    let server = start("one_worker_that_must_get_on");
    let client = Client::start(server.address(), "hold");
    let both = |signal| [server.id(), client.process].map(|process| kill(pid(process), signal).unwrap());
    // Before and after it the master looks, and the worker has not got on.
    thread::sleep(TIME_TO_GET_ON / 4);
    both(Signal::SIGSTOP);
    thread::sleep(TIME_TO_GET_ON);
    both(Signal::SIGCONT);
    thread::sleep(TIME_TO_GET_ON / 4);
    client.finish();
    server.signal(Signal::SIGTERM);
    let ended = server.end();
    assert!(ended.output.starts_with("stopped: served=1 failed=0 "), "{ended:?}");
}

fn a_worker_that_waits_does_not_hang() {
    let (running, address) = serve(server().workers(2).hang_timeout(SOON), 2);
    let mut patient = Patient {
        address: &address,
        tries: 0,
    };
    patient.request();
    // A busy machine may put one off that does not wait yet.
    wait_until("they are left alone", || {
        let before = children();
        thread::sleep(SOON * 3);
        before.len() == 2 && children() == before
    });
    patient.stop(running);
}

/// Its drain deadline ends it.
fn a_worker_that_drains_does_not_hang() {
    let timeout = Duration::from_secs(1);
    let (running, address) = serve(server().workers(1).hang_timeout(timeout), 1);
    let client = Client::start(&address, "hold");
    signal_master(Signal::SIGHUP);
    // The new one accepts, and the old one is told to leave.
    request(&address);
    // Nothing is to happen: this only gives it the time to.
    thread::sleep(timeout * 3 / 2);
    client.finish();
    stop(running, 2, 0);
}

/// A request that takes longer than the timeout, and gets on, ends well.
#[track_caller]
fn does_not_hang(order: &str) {
    let timeout = Duration::from_millis(500);
    let (running, address) = serve(server().workers(1).hang_timeout(timeout), 1);
    // It may be put off for as long.
    let late = until_in_time(|| {
        let rest = Client::try_start(&address, order).and_then(Client::try_rest);
        rest.is_ok_and(|rest| rest.ends_with("done\n"))
    });
    stop(running, 1, late as u64);
}

fn a_handler_that_writes_does_not_hang() {
    does_not_hang("write");
}

fn a_handler_that_says_that_it_gets_on_does_not_hang() {
    does_not_hang("beat");
}

// ----- A master that is killed -------------------------------------------------------------------

#[track_caller]
fn wait_until_gone(workers: &[u32]) {
    // Whoever reaps orphans here may leave a zombie.
    let gone = |worker: &u32| process_state(*worker).is_none_or(|state| state == "Z");
    wait_until("the workers have ended", || workers.iter().all(gone));
}

fn without_a_master_idle_workers_end() {
    let server = start("three_workers");
    let workers = wait_for_workers(server.id(), 3);
    // Which kills it.
    drop(server);
    wait_until_gone(&workers);
}

/// With them goes the wish to be told of the master's end (`PR_SET_PDEATHSIG`, prctl(2)).
fn without_a_master_workers_end_that_have_dropped_privileges() {
    let server = start("three_workers_of_another_user");
    let workers = wait_for_workers(server.id(), 3);
    let user = format!("\nUid:\t{}\t", user_of_the_workers());
    wait_until("they have dropped them", || {
        let status = |worker: &u32| fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
        workers.iter().all(|worker| status(worker).contains(&user))
    });
    // Which kills it.
    drop(server);
    wait_until_gone(&workers);
}

fn without_a_master_a_request_in_progress_ends_and_then_its_worker() {
    let server = start("three_workers");
    let workers = wait_for_workers(server.id(), 3);
    let client = Client::start(server.address(), "hold");
    let (busy, idle): (Vec<_>, Vec<_>) = workers.into_iter().partition(|worker| *worker == client.process);
    // Which kills it.
    drop(server);
    wait_until_gone(&idle);
    client.finish();
    wait_until_gone(&busy);
}

fn without_a_master_what_the_kernel_has_queued_is_served_before_the_end() {
    let server = start("three_workers");
    let workers = wait_for_workers(server.id(), 3);
    let busy = [(); 3].map(|()| Client::start(server.address(), "hold"));
    let mut queued = connect_to(server.address());
    queued.write_all(b"\n").unwrap();
    // Which kills it.
    drop(server);
    busy.into_iter().for_each(Client::finish);
    assert!(read_to_end(queued).ends_with(b"done\n"));
    wait_until_gone(&workers);
}

fn without_a_master_a_worker_that_hangs_ends_at_the_deadline() {
    let server = start("three_workers_that_soon_give_up");
    let workers = wait_for_workers(server.id(), 3);
    let client = Client::start(server.address(), "hang");
    // Which kills it.
    drop(server);
    wait_until_gone(&workers);
    client.expect_loss();
}

/// Waits until all threads of a process have slept for a moment.
#[track_caller]
fn wait_until_at_rest(process: u32) {
    let asleep = || {
        let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
        threads
            .map(|thread| thread.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .all(|thread| process_state(thread).is_none_or(|state| state == "S"))
    };
    wait_until("it is at rest", || {
        [(); 5].iter().all(|()| {
            thread::sleep(Duration::from_millis(2));
            asleep()
        })
    });
}

// By that signal the kernel tells of the master's end.
fn without_a_master_an_idle_worker_ends_although_a_handler_has_left_sigterm_ignored() {
    if !clients::linux_available([5, 3], "pidfd_open(2)") {
        return;
    }
    for role_name in [
        "a_worker_that_ignores_sigterm",
        "a_worker_with_threads_that_ignores_sigterm",
        "a_suspended_worker_that_ignores_sigterm",
    ] {
        let server = start(role_name);
        let worker = process_of(&read_to_end(connect_to(server.address())));
        wait_until_at_rest(worker);
        // Which kills it.
        drop(server);
        wait_until_gone(&[worker]);
    }
}

/// What a worker cannot start for, and cannot tell.
#[derive(Debug)]
struct Untellable;

impl fmt::Display for Untellable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        resume_unwind(Box::new("out of words"))
    }
}

impl Error for Untellable {}

fn a_worker_whose_error_panics_when_it_is_told_never_comes_back() {
    let test = std::process::id();
    let server = PreForkTcpServer::new("127.0.0.1:0", EchoLine)
        .workers(1)
        .worker_init(|| Err(io::Error::other(Untellable)));
    let outcome = catch_unwind(AssertUnwindSafe(|| server.serve_forever()));
    if std::process::id() != test {
        kill(Pid::this(), Signal::SIGKILL).unwrap();
    }
    let error = outcome.unwrap().unwrap_err().to_string();
    assert!(error.ends_with("the last: exit status: 1"), "{error}");
}

/// A logger that counts, as one that tells the load with each line does.
struct Looking(OnceLock<ServerHandle>);

static LOOKING: Looking = Looking(OnceLock::new());

impl log::Log for Looking {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, _: &log::Record<'_>) {
        if let Some(server) = self.0.get() {
            server.stats();
        }
    }

    fn flush(&self) {}
}

fn two_workers_of_a_program_whose_logger_looks_at_the_server() {
    log::set_logger(&LOOKING).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let server = PreForkTcpServer::new("127.0.0.1:0", EchoLine)
        .workers(2)
        .bind()
        .unwrap();
    LOOKING.0.get_or_init(|| server.handle());
    serve_as_role(server);
}

fn a_logger_may_look_at_the_server_whose_lines_it_writes() {
    let process = Process::start(&mut role("two_workers_of_a_program_whose_logger_looks_at_the_server"));
    assert_eq!(exchange_line(connect(&process.address().into()), "hello\n"), "hello\n");
    process.signal(Signal::SIGTERM);
    assert_stops(process, "served=1 failed=0");
}

static ASKING: Asking = Asking(OnceLock::new());

/// A logger that asks the server for its workers before it writes a line to standard error.
struct Asking(OnceLock<Arc<PreForkTcpServer<Commanded>>>);

impl log::Log for Asking {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let workers = self.0.get().map(|server| server.active_workers());
        eprintln!("{} ({workers:?})", record.args());
    }

    fn flush(&self) {}
}

fn one_worker_of_a_program_whose_logger_asks_for_the_workers() {
    log::set_logger(&ASKING).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let server = ASKING
        .0
        .get_or_init(|| Arc::new(server().workers(1).hang_timeout(TIME_TO_GET_ON)));
    serve_as_role(Known(Arc::clone(server)));
}

fn a_logger_may_ask_for_the_workers_whatever_it_is_told() {
    let mut process = Process::start(&mut role("one_worker_of_a_program_whose_logger_asks_for_the_workers"));
    process.signal(Signal::SIGTTOU);
    process.wait_for_errors_with("the last worker stays (Some(1))");
    process.signal(Signal::SIGHUP);
    process.wait_for_errors_with("replacing 1 workers, one by one (Some(1))");
    process.wait_for_errors_with(" has ended (Some(1))");
    let client = Client::start(process.address(), "hang");
    process.wait_for_errors_with("has not got on for 1s: killing it (Some(1))");
    client.expect_loss();
    process.signal(Signal::SIGTERM);
    let ended = process.end();
    assert!(ended.output.starts_with("stopped: served=0 failed=1 "), "{ended:?}");
}

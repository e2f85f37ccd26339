//! The scheduling policy that requests run under, and that of the thread that has served. The tests may run under
//! `SCHED_BATCH` themselves (`chrt -b 0`); under another policy, which a server keeps, most have nothing to say.

mod support;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Arc;

use nix::libc::{SCHED_BATCH, SCHED_IDLE, SCHED_OTHER, SCHED_RR};
use nix::sys::signal::Signal;
use socketserver::prelude::*;
use socketserver::{Acceptor, Handled};
use support::process::{Process, ROLE, serve_as_role};
use support::{clients, connect, read_to_end};

tests![
    roles: serves_under_the_policy_it_has;
    a_bare_servers_requests_run_in_batches,
    the_threads_of_threading_run_in_batches,
    the_workers_of_a_pool_run_in_batches,
    the_workers_of_a_pool_with_a_queue_run_in_batches,
    forked_children_run_in_batches,
    worker_processes_run_in_batches,
    threads_in_worker_processes_run_in_batches,
    without_the_option_the_policy_stays,
    a_server_that_fails_puts_the_policy_back,
    a_server_that_panics_puts_the_policy_back,
    a_thread_that_runs_in_batches_already_goes_on_so,
    a_thread_of_another_policy_keeps_it_and_a_warning_says_so,
    handle_request_keeps_the_callers_policy,
];

const ANY_PORT: &str = "127.0.0.1:0";

/// The policy of the calling thread: field 41 of its statistics (proc(5)).
fn policy() -> i32 {
    let statistics = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // The name may have spaces; the third field comes after it.
    let after_name = statistics.rsplit_once(") ").unwrap().1;
    after_name.split(' ').nth(41 - 3).unwrap().parse().unwrap()
}

/// Whether the policy is one that a server changes or has no need to. If not, the test that asks is to return at once.
fn can_run_in_batches() -> bool {
    let can = [SCHED_OTHER, SCHED_BATCH].contains(&policy());
    if !can {
        clients::lack(format!("no batches under policy {} of sched(7)", policy()));
    }
    can
}

/// Says under which policy it runs.
fn tell(request: &mut TcpRequest) -> io::Result<()> {
    use io::Write;
    write!(request, "{}", policy())
}

/// Serves on this thread, with two clients one after the other; what policies their requests ran under.
#[track_caller]
fn policies_under(server: impl BaseServer) -> [i32; 2] {
    let before = policy();
    let server = server.bind().unwrap();
    let (address, handle) = (server.server_address(), server.shutdown_handle());
    let client = std::thread::spawn(move || {
        let policies = [(); 2].map(|()| {
            let told = read_to_end(connect(&address));
            String::from_utf8(told).unwrap().parse().unwrap()
        });
        handle.shutdown();
        policies
    });
    let report = server.serve_forever().unwrap();
    assert_eq!(report.served, 2);
    assert_eq!(policy(), before, "it is as before");
    client.join().unwrap()
}

#[track_caller]
fn assert_batches(server: impl BaseServer) {
    if can_run_in_batches() {
        assert_eq!(policies_under(server.sched_batch(true)), [SCHED_BATCH; 2]);
    }
}

fn a_bare_servers_requests_run_in_batches() {
    assert_batches(TcpServer::new(ANY_PORT, tell));
}

fn the_threads_of_threading_run_in_batches() {
    assert_batches(ThreadingTcpServer::new(ANY_PORT, tell));
}

fn the_workers_of_a_pool_run_in_batches() {
    assert_batches(ThreadPoolTcpServer::new(ANY_PORT, tell).workers(2));
}

fn the_workers_of_a_pool_with_a_queue_run_in_batches() {
    assert_batches(ThreadPoolTcpServer::new(ANY_PORT, tell).workers(2).queue_size(2));
}

fn forked_children_run_in_batches() {
    assert_batches(ForkingTcpServer::new(ANY_PORT, tell));
}

fn worker_processes_run_in_batches() {
    assert_batches(PreForkTcpServer::new(ANY_PORT, tell).workers(2));
}

fn threads_in_worker_processes_run_in_batches() {
    assert_batches(ThreadingTcpServer::new(ANY_PORT, tell).prefork().workers(1));
}

fn without_the_option_the_policy_stays() {
    assert_eq!(policies_under(ThreadingTcpServer::new(ANY_PORT, tell)), [policy(); 2]);
}

// ----- Putting it back ---------------------------------------------------------------------------

/// Notes the policy that it serves under, and ends as it is told.
struct Ends<S>(S, fn() -> io::Result<()>);

impl<S: BaseServer> BaseServer for Ends<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn serve(&self, _acceptor: Acceptor<S::Transport>) -> io::Result<()> {
        assert_eq!(policy(), SCHED_BATCH);
        (self.1)()
    }
}

fn serve_until(end: fn() -> io::Result<()>) -> io::Result<Report> {
    Ends(TcpServer::new(ANY_PORT, tell), end)
        .sched_batch(true)
        .serve_forever()
}

fn a_server_that_fails_puts_the_policy_back() {
    if !can_run_in_batches() {
        return;
    }
    let before = policy();
    let error = serve_until(|| Err(io::Error::other("as told"))).unwrap_err();
    assert_eq!(error.to_string(), "as told");
    assert_eq!(policy(), before);
}

fn a_server_that_panics_puts_the_policy_back() {
    if !can_run_in_batches() {
        return;
    }
    let before = policy();
    let panics = || serve_until(|| std::panic::resume_unwind(Box::new("as told")));
    let payload = catch_unwind(AssertUnwindSafe(panics)).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&"as told"));
    assert_eq!(policy(), before);
}

fn a_thread_that_runs_in_batches_already_goes_on_so() {
    if !can_run_in_batches() {
        return;
    }
    let before = policy();
    let outer = Ends(TcpServer::new(ANY_PORT, tell), || {
        serve_until(|| Ok(()))?;
        assert_eq!(policy(), SCHED_BATCH, "the outer server's");
        Ok(())
    });
    outer.sched_batch(true).serve_forever().unwrap();
    assert_eq!(policy(), before);
}

/// Under another policy, by chrt(1).
fn serves_under_the_policy_it_has() {
    env_logger::builder().filter_level(log::LevelFilter::Warn).init();
    serve_as_role(TcpServer::new(ANY_PORT, tell).sched_batch(true));
}

fn a_thread_of_another_policy_keeps_it_and_a_warning_says_so() {
    if !clients::available("chrt") {
        return;
    }
    // Which may take privileges. Of the other a busy machine may have nothing left for long.
    let real_time = Command::new("chrt").args(["--rr", "1", "true"]).output().unwrap();
    let (option, priority, policy) = if real_time.status.success() {
        ("--rr", "1", SCHED_RR)
    } else {
        ("--idle", "0", SCHED_IDLE)
    };
    let mut command = Command::new("chrt");
    command.args([option, priority]).arg(std::env::current_exe().unwrap());
    let process = Process::start(command.env(ROLE, "serves_under_the_policy_it_has"));
    assert_eq!(
        read_to_end(connect(&process.address().into())),
        policy.to_string().as_bytes()
    );
    process.signal(Signal::SIGTERM);
    let ended = process.end();
    assert!(ended.status.success(), "{ended:?}");
    let warning =
        format!("no SCHED_BATCH: the thread that serves has policy {policy} of sched(7) already, and keeps it");
    assert_eq!(ended.errors.matches(&warning).count(), 1, "{ended:?}");
}

fn handle_request_keeps_the_callers_policy() {
    let before = policy();
    let server = Arc::new(TcpServer::new(ANY_PORT, tell).sched_batch(true).bind().unwrap());
    let client = connect(&server.server_address());
    assert!(matches!(server.handle_request().unwrap(), Handled::Processed));
    assert_eq!(read_to_end(client), before.to_string().as_bytes());
    server.close().unwrap();
    assert_eq!(policy(), before);
}

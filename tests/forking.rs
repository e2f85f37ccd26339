//! Errors in handlers that run in forked children, and what the parent learns of a child's end. CPython's
//! `test_forking_{handled,not_handled}` and more.

mod support;

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic::resume_unwind;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use socketserver::prelude::*;
use socketserver::{Cause, Config, Handled, Phase, Running, SocketServer, State, Tcp, Transport};
use support::failures::{self, Steps};
use support::gate::Gate;
use support::journal::journal;
use support::process::pid;
use support::talk::{TELL_PROCESS, finish, told_process};
use support::{children, connect, is_listening, process_state, read_to_end, wait_until};

tests![
    also: failures::tests_of::<ForkingTcpServer<Steps>>("forking");
    the_child_of_a_handler_that_failed_ends_with_status_1,
    a_child_that_was_killed_is_reported_in_the_parent,
    a_child_that_ended_with_another_status_is_reported_in_the_parent,
    a_child_that_lost_its_request_costs_no_other,
    a_child_never_returns_into_the_code_of_its_parent,
    a_child_in_which_a_transport_panics_ends,
    what_a_handler_changes_the_parent_does_not_see,
    shutdown_from_a_handler_ends_the_parent,
    waiting_in_a_child_is_a_deadlock,
    a_child_that_does_not_end_in_time_is_ended_by_sigterm,
    a_child_that_ignores_sigterm_is_killed,
    a_server_stuck_with_a_silent_client_can_be_dropped,
    children_of_handle_request_are_reaped_in_its_next_turn,
    closing_after_handle_request_waits_for_its_children,
    dropped_without_being_closed_it_listens_no_more_although_a_child_was_not_reaped,
    a_child_that_ends_before_its_parent_has_closed_the_request_is_reaped_by_another_thread,
    put_around_a_server_that_was_bound_before_it_reaps_its_children,
    put_around_a_server_that_was_bound_before_it_reaps_those_of_handle_request,
];

/// An end of a child as the parent's `handle_error` was told.
#[derive(Clone, Debug, PartialEq)]
struct End {
    phase: Phase,
    client: Address,
    code: Option<i32>,
    signal: Option<i32>,
}

/// A mix-in that collects the ends of children.
struct Ends<S> {
    inner: S,
    seen: Arc<Mutex<Vec<End>>>,
}

impl<S: BaseServer> BaseServer for Ends<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn handle_error(&self, error: &RequestError) {
        if let Cause::Exit(status) = error.cause() {
            self.seen.lock().unwrap().push(End {
                phase: error.phase(),
                client: error.client_address().clone(),
                code: status.code(),
                signal: status.signal(),
            });
        }
        self.inner.handle_error(error);
    }
}

/// A server whose children do what the client's first byte says, and the ends that its parent was told.
fn start() -> (Running, Arc<Mutex<Vec<End>>>) {
    let seen = Arc::<Mutex<Vec<End>>>::default();
    let handler = |request: &mut TcpRequest| -> HandlerResult {
        let mut order = [0];
        io::Read::read_exact(request, &mut order)?;
        match &order {
            b"f" => return Err("told to fail".into()),
            b"p" => resume_unwind(Box::new("told to panic")),
            b"k" => kill(Pid::this(), Signal::SIGKILL)?,
            // Instead of exit(3), which would run what the parent has left for its own end.
            b"3" => return Err(Command::new("sh").args(["-c", "exit 3"]).exec().into()),
            _ => request.write_all(b"done\n")?,
        }
        Ok(())
    };
    let inner = ForkingTcpServer::new("127.0.0.1:0", handler);
    let server = Ends {
        inner,
        seen: Arc::clone(&seen),
    };
    (server.spawn().unwrap(), seen)
}

/// Sends an order; returns the client's address and the answer.
#[track_caller]
fn order(running: &Running, order: &str) -> (Address, String) {
    let mut client = connect(running.server_address());
    client.write_all(order.as_bytes()).unwrap();
    let address = client.local_addr().unwrap().into();
    (address, String::from_utf8(read_to_end(client)).unwrap())
}

// test_forking_handled: any other status than 0 and 1 would be reported here.
fn the_child_of_a_handler_that_failed_ends_with_status_1() {
    let (running, ends) = start();
    assert_eq!(order(&running, "f").1, "");
    assert_eq!(order(&running, "p").1, "");
    assert_eq!(order(&running, "-").1, "done\n");
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (1, 2));
    assert_eq!(*ends.lock().unwrap(), []);
}

/// A child that is ordered so ends in this way, and its parent is told.
#[track_caller]
fn assert_reported(text: &str, code: Option<i32>, signal: Option<Signal>) {
    let (running, ends) = start();
    let (client, answer) = order(&running, text);
    assert_eq!(answer, "");
    assert_eq!(running.stop().unwrap().failed, 1);
    let end = End {
        phase: Phase::Handle,
        client,
        code,
        signal: signal.map(|signal| signal as i32),
    };
    assert_eq!(*ends.lock().unwrap(), [end]);
}

fn a_child_that_was_killed_is_reported_in_the_parent() {
    assert_reported("k", None, Some(Signal::SIGKILL));
}

fn a_child_that_ended_with_another_status_is_reported_in_the_parent() {
    assert_reported("3", Some(3), None);
}

fn a_child_that_lost_its_request_costs_no_other() {
    let (running, ends) = start();
    // Connected before the other is killed, and served after it.
    let mut waiting = connect(running.server_address());
    order(&running, "k");
    wait_until("the parent knows", || ends.lock().unwrap().len() == 1);
    waiting.write_all(b"-").unwrap();
    assert_eq!(read_to_end(waiting), b"done\n");
    assert_eq!(order(&running, "-").1, "done\n");
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (2, 1));
}

// test_forking_not_handled: "the child exits, the parent never sees the exception".
fn a_child_never_returns_into_the_code_of_its_parent() {
    let (journal, pen) = journal();
    let noted = pen.clone();
    let server = ForkingTcpServer::new("127.0.0.1:0", move |request: &mut TcpRequest| -> HandlerResult {
        noted.note("in the handler");
        request.server().shutdown();
        resume_unwind(Box::new("told to panic"))
    })
    .bind()
    .unwrap();
    let _client = connect(&server.server_address());
    server.serve_forever().unwrap();
    pen.note("after serve_forever");
    assert_eq!(journal.count("in the handler"), 1);
    let after: Vec<_> = journal.of("after").iter().map(|entry| entry.process).collect();
    assert_eq!(after, [std::process::id()]);
}

/// TCP, whose children panic before they serve.
struct PanicsInChildren(Tcp);

impl Transport for PanicsInChildren {
    forward_to_tcp!(0);

    type Request = TcpRequest;

    fn bind(address: &Address, config: &Config) -> io::Result<Self> {
        Tcp::bind(address, config).map(Self)
    }

    fn accept(&self) -> io::Result<TcpRequest> {
        self.0.accept()
    }

    fn stop_listening(&self, placeholder: BorrowedFd<'_>, in_child: bool) {
        if in_child {
            resume_unwind(Box::new("out of cheese"));
        }
        self.0.stop_listening(placeholder, in_child);
    }
}

// It would go on as a second server, which nobody ever tells to stop.
fn a_child_in_which_a_transport_panics_ends() {
    let server = SocketServer::<PanicsInChildren, _>::new("127.0.0.1:0", |_: &mut TcpRequest| {}).forking();
    let running = server.drain_timeout(Duration::from_millis(20)).spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"");
    wait_until("the child has ended", || children().is_empty());
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed, report.forced), (0, 1, 0));
}

fn what_a_handler_changes_the_parent_does_not_see() {
    let counter = Arc::new(AtomicUsize::new(0));
    let in_child = Arc::clone(&counter);
    let running = ForkingTcpServer::new("127.0.0.1:0", move |request: &mut TcpRequest| {
        write!(request, "{}", in_child.fetch_add(1, Ordering::SeqCst))
    })
    .spawn()
    .unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"0");
    assert_eq!(read_to_end(connect(running.server_address())), b"0");
    assert_eq!(running.stop().unwrap().served, 2);
    assert_eq!(counter.load(Ordering::SeqCst), 0);
}

fn shutdown_from_a_handler_ends_the_parent() {
    let server = ForkingTcpServer::new("127.0.0.1:0", |request: &mut TcpRequest| {
        request.server().shutdown();
        assert!(request.server().is_draining());
    });
    let server = server.bind().unwrap();
    let client = connect(&server.server_address());
    assert_eq!(server.serve_forever().unwrap().served, 1);
    assert_eq!(read_to_end(client), b"");
}

fn waiting_in_a_child_is_a_deadlock() {
    let running = ForkingTcpServer::new("127.0.0.1:0", |request: &mut TcpRequest| {
        let handle = request.server().shutdown_handle().expect("it has a server");
        write!(request, "{:?}", handle.wait())
    })
    .spawn()
    .unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"Err(Deadlock)");
    assert_eq!(running.stop().unwrap().served, 1);
}

/// A server whose child waits for a silent client, which has connected.
fn stuck(setup: fn()) -> (Running, Arc<Mutex<Vec<End>>>, std::net::TcpStream) {
    let (journal, pen) = journal();
    let seen = Arc::<Mutex<Vec<End>>>::default();
    let handler = move |request: &mut TcpRequest| -> io::Result<()> {
        setup();
        pen.note("begun");
        loop {
            // Past the end of the stream: only a signal ends this child.
            io::copy(request, &mut io::sink())?;
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let server = Ends {
        inner: ForkingTcpServer::new("127.0.0.1:0", handler),
        seen: Arc::clone(&seen),
    };
    let running = server.drain_timeout(Duration::from_millis(20)).spawn().unwrap();
    let client = connect(running.server_address());
    journal.wait_for("begun");
    (running, seen, client)
}

/// The child of a handler that does this first is forced to end by that signal.
#[track_caller]
fn assert_forced_by(signal: Signal, first: fn()) {
    let (running, ends, _client) = stuck(first);
    let report = running.stop().unwrap();
    assert_eq!(
        (report.failed, report.drained, report.forced, report.leaked),
        (1, 0, 1, 0)
    );
    assert_eq!(ends.lock().unwrap()[0].signal, Some(signal as i32));
    assert_eq!(children(), []);
}

fn a_child_that_does_not_end_in_time_is_ended_by_sigterm() {
    assert_forced_by(Signal::SIGTERM, || {});
}

// After a second of grace.
fn a_child_that_ignores_sigterm_is_killed() {
    assert_forced_by(Signal::SIGKILL, support::interrupt::ignore_sigterm);
}

fn a_server_stuck_with_a_silent_client_can_be_dropped() {
    let (running, ends, _client) = stuck(|| {});
    drop(running);
    assert_eq!(ends.lock().unwrap().len(), 1);
    assert_eq!(children(), []);
}

// gh-90093: in CPython the zombie stays.
fn children_of_handle_request_are_reaped_in_its_next_turn() {
    let server = ForkingTcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {});
    let server = Arc::new(server.timeout(Duration::ZERO).bind().unwrap());
    let client = connect(&server.server_address());
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    assert_eq!(read_to_end(client), b"");
    let child = children()[0];
    wait_until("the child has ended", || process_state(child).as_deref() == Some("Z"));
    assert_eq!(server.handle_request().unwrap(), Handled::TimedOut);
    assert_eq!((children(), server.active_children()), (vec![], 0));
    assert_eq!(server.close().unwrap().served, 1);
}

/// Takes its time to close a request in the parent.
struct SlowToClose<S> {
    inner: S,
    parent: u32,
    closing: Gate,
    close: Gate,
}

impl<S: BaseServer> BaseServer for SlowToClose<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn close_request(&self, request: RequestOf<Self>) {
        self.inner.close_request(request);
        if std::process::id() == self.parent {
            self.closing.open();
            self.close.wait();
        }
    }
}

fn a_child_that_ends_before_its_parent_has_closed_the_request_is_reaped_by_another_thread() {
    let (closing, close) = (Gate::default(), Gate::default());
    let server = SlowToClose {
        inner: ForkingTcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {}),
        parent: std::process::id(),
        closing: closing.clone(),
        close: close.clone(),
    };
    let server = server.timeout(Duration::ZERO).drain_timeout(Duration::from_millis(20));
    let server = Arc::new(server.bind().unwrap());
    let client = connect(&server.server_address());
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(server.handle_request().unwrap(), Handled::Processed));
        closing.wait();
        assert_eq!(read_to_end(client), b"");
        let child = children()[0];
        wait_until("the child has ended", || process_state(child).as_deref() == Some("Z"));
        assert_eq!(server.handle_request().unwrap(), Handled::TimedOut);
        close.open();
    });
    let report = server.close().unwrap();
    assert_eq!((report.served, report.failed, report.forced), (1, 0, 0));
    assert_eq!(children(), []);
}

fn closing_after_handle_request_waits_for_its_children() {
    let server = ForkingTcpServer::new("127.0.0.1:0", |request: &mut TcpRequest| {
        io::copy(request, &mut io::sink()).map(drop)
    });
    let server = Arc::new(server.bind().unwrap());
    let client = connect(&server.server_address());
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    assert_eq!((children().len(), server.active_children()), (1, 1));
    // The child has a copy of this descriptor too: only a shutdown ends the stream.
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.close().unwrap().served, 1);
    assert_eq!((children(), server.active_children()), (vec![], 0));
}

fn dropped_without_being_closed_it_listens_no_more_although_a_child_was_not_reaped() {
    let server = Arc::new(ForkingTcpServer::new("127.0.0.1:0", TELL_PROCESS).bind().unwrap());
    let (address, handle) = (server.server_address().to_string(), server.handle());
    let client = connect(&server.server_address());
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    // The child has let go of the listening socket, and still runs when the server is dropped.
    let child = told_process(&client);
    assert!(is_listening(&address));
    drop(server);
    assert!(!is_listening(&address));
    let stats = handle.stats();
    assert_eq!((stats.state, stats.running, stats.failed), (State::Closed, 0, 1));
    finish(&client);
    // Nobody is left to do it.
    waitpid(pid(child), None).unwrap();
}

fn put_around_a_server_that_was_bound_before_it_reaps_its_children() {
    let server = TcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {}).bind().unwrap();
    let running = server.forking().max_children(1).spawn().unwrap();
    for _ in 0..3 {
        assert_eq!(read_to_end(connect(running.server_address())), b"");
    }
    assert_eq!(running.stop().unwrap().served, 3);
    assert_eq!(children(), []);
}

fn put_around_a_server_that_was_bound_before_it_reaps_those_of_handle_request() {
    let server = TcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {}).bind().unwrap();
    let server = Arc::new(server.forking().max_children(1));
    for _ in 0..3 {
        let client = connect(&server.server_address());
        assert_eq!(server.handle_request().unwrap(), Handled::Processed);
        assert_eq!(read_to_end(client), b"");
    }
    assert_eq!(server.close().unwrap().served, 3);
    assert_eq!(children(), []);
}

//! One request at a time, and the turns of the accept loop: what CPython documents of `handle_request`,
//! `service_actions`, `verify_request` and `get_request` and mostly does not test.

mod support;

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::gettid;
use socketserver::prelude::*;
use socketserver::{Handled, State};
use support::detached::Detached;
use support::gate::Gate;
use support::interrupt::{Interrupts, is_asleep};
use support::journal::{Journaled, journal};
use support::{
    CEILING, EchoLine, connect, exchange_line, inet, logged, read_to_end, udp_client, wait_until, wait_until_draining,
};

tests![
    it_handles_exactly_one_request,
    it_waits_for_a_request_that_comes_later,
    it_handles_a_datagram,
    a_threading_server_handles_it_elsewhere,
    without_a_request_it_ends_at_its_timeout_and_says_so,
    a_timeout_of_zero_only_looks,
    a_request_in_time_is_no_timeout,
    what_cannot_be_accepted_in_time_is_left_for_the_next_call,
    serving_for_ever_takes_no_notice_of_the_timeout,
    signals_neither_shorten_the_wait_nor_fail_it,
    signals_do_not_end_a_wait_without_a_timeout,
    signals_do_not_end_the_serve_loop,
    told_to_stop_it_serves_what_is_queued_and_then_says_so,
    told_to_stop_at_its_limit_it_waits_no_longer_than_its_timeout,
    a_loop_of_ones_own_can_wait_for_the_descriptor,
    an_unbound_server_says_what_to_call,
    a_closed_server_says_so,
    a_closed_server_is_not_bound_or_served_again,
    closing_waits_for_the_requests_and_counts_them,
    closing_waits_for_a_request_that_another_thread_is_just_accepting,
    closed_by_two_threads_at_once_it_is_closed_once,
    closing_in_a_handler_is_a_deadlock_and_stops_it,
    service_actions_run_once_a_turn,
    service_actions_run_at_each_poll_interval_without_a_request,
    service_actions_run_at_each_poll_interval_while_all_workers_are_busy,
    service_actions_of_an_idle_server_run_on_one_thread,
    service_actions_run_at_each_poll_interval_while_the_server_drains,
    service_actions_run_at_each_poll_interval_while_a_draining_server_is_at_its_limit,
    verify_comes_before_process,
    a_refused_request_is_shut_down_exactly_once,
    a_refused_request_is_not_counted,
    an_error_of_accepting_is_skipped,
    running_out_of_descriptors_only_slows_accepting_down,
    an_error_without_a_number_only_slows_accepting_down,
    nothing_to_accept_after_all_is_no_error,
    a_broken_listener_ends_the_loop_with_an_error,
    a_broken_listener_fails_handle_request,
];

/// Tells the hooks of the accept loop, and meddles with two.
struct Loop<S> {
    inner: S,
    turns: Arc<AtomicUsize>,
    /// `verify_request` refuses as long as it is set.
    refusing: AtomicBool,
    /// What `get_request` fails with instead of accepting, last first.
    errors: Mutex<Vec<io::Error>>,
}

impl<S: BaseServer> Loop<S> {
    fn over(inner: S) -> Self {
        Loop {
            inner,
            turns: Arc::default(),
            refusing: AtomicBool::new(false),
            errors: Mutex::default(),
        }
    }

    fn refusing(self) -> Self {
        self.refusing.store(true, Ordering::SeqCst);
        self
    }

    fn failing(self, errors: impl IntoIterator<Item = impl Into<io::Error>>) -> Self {
        self.errors.lock().unwrap().extend(errors.into_iter().map(Into::into));
        self
    }

    fn turns(&self) -> usize {
        self.turns.load(Ordering::SeqCst)
    }
}

impl<S: BaseServer> BaseServer for Loop<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn get_request(&self) -> io::Result<RequestOf<Self>> {
        match self.errors.lock().unwrap().pop() {
            Some(error) => Err(error),
            None => self.inner.get_request(),
        }
    }

    fn verify_request(&self, request: &RequestOf<Self>, client_address: &Address) -> bool {
        !self.refusing.load(Ordering::SeqCst) && self.inner.verify_request(request, client_address)
    }

    fn service_actions(&self) {
        self.turns.fetch_add(1, Ordering::SeqCst);
        self.inner.service_actions();
    }
}

/// A client that has sent a line.
#[track_caller]
fn client(server: &impl BaseServer, line: &str) -> TcpStream {
    let mut client = connect(&server.server_address());
    client.write_all(line.as_bytes()).unwrap();
    client
}

fn bound<S: BaseServer>(server: S) -> Arc<S> {
    Arc::new(server.bind().unwrap())
}

fn it_handles_exactly_one_request() {
    let server = bound(TcpServer::new("127.0.0.1:0", EchoLine));
    let (first, second) = (client(&*server, "first\n"), client(&*server, "second\n"));
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    assert_eq!(read_to_end(first), b"first\n");
    second.set_nonblocking(true).unwrap();
    assert_eq!(second.peek(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    second.set_nonblocking(false).unwrap();
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    assert_eq!(read_to_end(second), b"second\n");
}

fn it_waits_for_a_request_that_comes_later() {
    let server = bound(TcpServer::new("127.0.0.1:0", EchoLine));
    let (address, server_thread) = (server.server_address(), gettid());
    let client = thread::spawn(move || {
        wait_until("the server waits", || is_asleep(server_thread));
        exchange_line(connect(&address), "late\n")
    });
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    assert_eq!(client.join().unwrap(), "late\n");
}

fn it_handles_a_datagram() {
    let server = bound(UdpServer::new("127.0.0.1:0", EchoLine));
    let client = udp_client(&server.server_address());
    client.send(b"datagram\n").unwrap();
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    let mut answer = [0; 100];
    let length = client.recv(&mut answer).unwrap();
    assert_eq!(&answer[..length], b"datagram\n");
}

fn a_threading_server_handles_it_elsewhere() {
    let server = bound(ThreadingTcpServer::new("127.0.0.1:0", EchoLine));
    // Says its line only after handle_request has returned.
    let mut client = client(&*server, "");
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    client.write_all(b"elsewhere\n").unwrap();
    assert_eq!(read_to_end(client), b"elsewhere\n");
    assert_eq!(server.close().unwrap().served, 1);
}

fn without_a_request_it_ends_at_its_timeout_and_says_so() {
    let (journal, pen) = journal();
    let timeout = Duration::from_millis(30);
    let server = TcpServer::new("127.0.0.1:0", EchoLine).timeout(timeout);
    let server = bound(Journaled::over(server, &pen));
    let began = Instant::now();
    assert_eq!(server.handle_request().unwrap(), Handled::TimedOut);
    assert!(began.elapsed() >= timeout);
    assert_eq!(journal.events(), ["handle_timeout"]);
}

fn a_timeout_of_zero_only_looks() {
    let server = bound(TcpServer::new("127.0.0.1:0", EchoLine).timeout(Duration::ZERO));
    assert_eq!(server.handle_request().unwrap(), Handled::TimedOut);
    let client = client(&*server, "there\n");
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    assert_eq!(read_to_end(client), b"there\n");
}

fn a_request_in_time_is_no_timeout() {
    let (journal, pen) = journal();
    let server = TcpServer::new("127.0.0.1:0", EchoLine).timeout(CEILING);
    let server = bound(Journaled::over(server, &pen));
    let client = client(&*server, "in time\n");
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    assert_eq!(read_to_end(client), b"in time\n");
    assert_eq!(journal.count("handle_timeout"), 0);
}

fn serving_for_ever_takes_no_notice_of_the_timeout() {
    let (journal, pen) = journal();
    let server = Loop::over(Journaled::over(TcpServer::new("127.0.0.1:0", EchoLine), &pen));
    let turns = Arc::clone(&server.turns);
    let tick = Duration::from_millis(1);
    let running = server.timeout(tick).poll_interval(tick).spawn().unwrap();
    wait_until("many timeouts are over", || turns.load(Ordering::SeqCst) > 20);
    assert_eq!(exchange_line(connect(running.server_address()), "still\n"), "still\n");
    assert_eq!(running.stop().unwrap().served, 1);
    assert_eq!(journal.count("handle_timeout"), 0);
}

/// Interrupts the calling thread while `work` waits in it, `times` times at least; then does `at_last`.
fn interrupted<R>(times: usize, work: impl FnOnce() -> R, at_last: impl FnOnce() + Send) -> R {
    let (interrupts, this, done) = (Interrupts::new(), gettid(), AtomicBool::new(false));
    thread::scope(|scope| {
        let at_last_done = &done;
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) && Interrupts::caught() < times {
                if is_asleep(this) {
                    interrupts.interrupt(this);
                }
            }
            at_last();
        });
        let result = work();
        at_last_done.store(true, Ordering::SeqCst);
        result
    })
}

// "restarts on EINTR against a deadline"
fn signals_neither_shorten_the_wait_nor_fail_it() {
    let (journal, pen) = journal();
    let timeout = Duration::from_millis(100);
    let server = TcpServer::new("127.0.0.1:0", EchoLine).timeout(timeout);
    let server = bound(Journaled::over(server, &pen));
    let mut waits = 0;
    // On a busy machine whoever interrupts may come too late for one.
    wait_until("a signal has come during a wait", || {
        waits += 1;
        let began = Instant::now();
        let handled = interrupted(usize::MAX, || server.handle_request(), || {});
        assert_eq!(handled.unwrap(), Handled::TimedOut);
        assert!(began.elapsed() >= timeout, "{:?}", began.elapsed());
        Interrupts::caught() > 0
    });
    assert_eq!(journal.events(), vec!["handle_timeout"; waits]);
}

fn signals_do_not_end_a_wait_without_a_timeout() {
    let server = bound(TcpServer::new("127.0.0.1:0", EchoLine));
    let address = server.server_address();
    let ask = || assert_eq!(exchange_line(connect(&address), "at last\n"), "at last\n");
    let handled = interrupted(3, || server.handle_request(), ask);
    assert_eq!(handled.unwrap(), Handled::Processed);
    assert_eq!(Interrupts::caught(), 3);
}

fn signals_do_not_end_the_serve_loop() {
    let server = TcpServer::new("127.0.0.1:0", EchoLine).bind().unwrap();
    let (address, handle) = (server.server_address(), server.shutdown_handle());
    let ask = || {
        assert_eq!(exchange_line(connect(&address), "at last\n"), "at last\n");
        handle.shutdown();
    };
    let report = interrupted(3, || server.serve_forever(), ask);
    assert_eq!(report.unwrap().served, 1);
}

fn told_to_stop_it_serves_what_is_queued_and_then_says_so() {
    let server = bound(TcpServer::new("127.0.0.1:0", EchoLine));
    let client = client(&*server, "queued\n");
    server.shutdown();
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    assert_eq!(read_to_end(client), b"queued\n");
    assert_eq!(server.handle_request().unwrap(), Handled::Stopped);
    assert_eq!(server.handle_request().unwrap(), Handled::Stopped);
    assert_eq!(server.close().unwrap().served, 1);
}

fn told_to_stop_at_its_limit_it_waits_no_longer_than_its_timeout() {
    let leave = Gate::default();
    let in_handler = leave.clone();
    let server = ThreadingTcpServer::new("127.0.0.1:0", move |_: &mut TcpRequest| in_handler.wait());
    let server = bound(server.max_threads(1).timeout(Duration::ZERO));
    let clients = [client(&*server, ""), client(&*server, "")];
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    server.shutdown();
    assert_eq!(server.handle_request().unwrap(), Handled::TimedOut);
    leave.open();
    wait_until("there is a place", || server.stats().running == 0);
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    assert_eq!(server.close().unwrap().served, 2);
    drop(clients);
}

// fileno: CPython's users wait for it with selectors of their own.
fn a_loop_of_ones_own_can_wait_for_the_descriptor() {
    let server = bound(TcpServer::new("127.0.0.1:0", EchoLine).timeout(Duration::ZERO));
    let readable = |patience: PollTimeout| {
        let listener = server.fileno().expect("it is bound");
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, patience).unwrap() == 1
    };
    assert!(!readable(PollTimeout::ZERO));
    let client = client(&*server, "ready\n");
    assert!(readable(PollTimeout::try_from(CEILING).unwrap()));
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    assert_eq!(read_to_end(client), b"ready\n");
    assert!(!readable(PollTimeout::ZERO));
}

fn an_unbound_server_says_what_to_call() {
    let server = Arc::new(TcpServer::new("127.0.0.1:0", EchoLine));
    assert!(server.fileno().is_none());
    let error = server.handle_request().unwrap_err();
    assert_eq!(error.to_string(), "the server is not bound: call bind() first");
}

fn a_closed_server_is_not_bound_or_served_again() {
    fn assert_closed<T>(outcome: io::Result<T>) {
        let error = outcome.err().expect("it is closed");
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
        assert_eq!(error.to_string(), "the server is closed");
    }
    let closed = |bound: bool| {
        let server = ThreadingTcpServer::new("127.0.0.1:0", EchoLine);
        let server = Arc::new(if bound { server.bind().unwrap() } else { server });
        server.close().unwrap();
        Arc::into_inner(server).unwrap()
    };
    for bound in [true, false] {
        assert_closed(closed(bound).bind());
        assert_closed(closed(bound).serve_forever());
        assert_closed(closed(bound).spawn());
    }
}

fn a_closed_server_says_so() {
    let server = bound(TcpServer::new("127.0.0.1:0", EchoLine));
    server.close().unwrap();
    let error = server.handle_request().unwrap_err();
    assert_eq!(error.to_string(), "the server is closed");
}

fn closing_waits_for_the_requests_and_counts_them() {
    let leave = Gate::default();
    let in_handler = leave.clone();
    let server = bound(ThreadingTcpServer::new(
        "127.0.0.1:0",
        move |request: &mut TcpRequest| {
            in_handler.wait();
            request.write_all(b"done\n")
        },
    ));
    let clients = [client(&*server, ""), client(&*server, "")];
    for _ in &clients {
        assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    }
    let handle = server.shutdown_handle();
    let opening = thread::spawn(move || {
        wait_until_draining(&handle);
        leave.open();
    });
    let report = server.close().unwrap();
    assert_eq!((report.served, report.drained), (2, 2));
    for client in clients {
        assert_eq!(read_to_end(client), b"done\n");
    }
    opening.join().unwrap();
}

/// Lets a request pass when a gate is opened; tells that one waits for that.
struct Gated<S> {
    inner: S,
    gate: Gate,
    waits: Arc<AtomicBool>,
}

impl<S: BaseServer> BaseServer for Gated<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn verify_request(&self, request: &RequestOf<Self>, client_address: &Address) -> bool {
        self.waits.store(true, Ordering::SeqCst);
        self.gate.wait();
        self.inner.verify_request(request, client_address)
    }
}

fn closing_waits_for_a_request_that_another_thread_is_just_accepting() {
    let server = bound(Gated {
        inner: TcpServer::new("127.0.0.1:0", EchoLine),
        gate: Gate::default(),
        waits: Arc::default(),
    });
    let client = client(&*server, "served\n");
    let accepting = Arc::clone(&server);
    let handled = thread::spawn(move || accepting.handle_request().unwrap());
    wait_until("it is being accepted", || server.waits.load(Ordering::SeqCst));
    let (gate, handle, closing) = (server.gate.clone(), server.shutdown_handle(), gettid());
    let opening = thread::spawn(move || {
        wait_until("the drain waits, or does not", || match handle.state() {
            State::Draining => is_asleep(closing),
            state => state == State::Closed,
        });
        gate.open();
    });
    assert_eq!(server.close().unwrap().served, 1);
    assert_eq!(handled.join().unwrap(), Handled::Processed);
    assert_eq!(read_to_end(client), b"served\n");
    opening.join().unwrap();
}

/// Counts how often it is closed.
struct Closes<S> {
    inner: S,
    count: Arc<AtomicUsize>,
}

impl<S: BaseServer> BaseServer for Closes<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn server_close(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.inner.server_close();
    }
}

fn closed_by_two_threads_at_once_it_is_closed_once() {
    let count = Arc::new(AtomicUsize::new(0));
    let leave = Gate::default();
    let in_handler = leave.clone();
    let handler = move |_: &mut TcpRequest| in_handler.wait();
    let server = ThreadingTcpServer::new("127.0.0.1:0", handler).drain_timeout(None);
    let server = bound(Closes {
        inner: server,
        count: Arc::clone(&count),
    });
    let _client = client(&*server, "");
    server.handle_request().unwrap();
    let (threads, closing) = mpsc::channel();
    let close = || {
        let (server, threads) = (Arc::clone(&server), threads.clone());
        thread::spawn(move || {
            threads.send(gettid()).unwrap();
            server.close().unwrap().served
        })
    };
    let both = [close(), close()];
    for _ in &both {
        let thread = closing.recv().unwrap();
        wait_until("it waits", || is_asleep(thread));
    }
    leave.open();
    for thread in both {
        assert_eq!(thread.join().unwrap(), 1);
    }
    assert_eq!(server.close().unwrap().served, 1);
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

fn closing_in_a_handler_is_a_deadlock_and_stops_it() {
    let slot = Arc::new(OnceLock::<Arc<dyn Fn() -> io::Result<Report> + Send + Sync>>::new());
    let close = Arc::clone(&slot);
    let handler = move |request: &mut TcpRequest| {
        let error = close.get().unwrap()().unwrap_err();
        write!(request, "{:?}", error.kind())
    };
    let server = bound(TcpServer::new("127.0.0.1:0", handler).drain_timeout(None));
    let weak = Arc::downgrade(&server);
    let _ = slot.set(Arc::new(move || weak.upgrade().unwrap().close()));
    let client = client(&*server, "");
    server.handle_request().unwrap();
    assert_eq!(read_to_end(client), b"Deadlock");
    assert_eq!(server.handle_request().unwrap(), Handled::Stopped);
    assert_eq!(server.close().unwrap().served, 1);
}

fn service_actions_run_once_a_turn() {
    let server = Loop::over(TcpServer::new("127.0.0.1:0", EchoLine)).timeout(Duration::ZERO);
    let server = bound(server);
    let clients = [client(&*server, "\n"), client(&*server, "\n")];
    assert_eq!(server.turns(), 0);
    for turn in 1..=2 {
        assert_eq!(server.handle_request().unwrap(), Handled::Processed);
        assert_eq!(server.turns(), turn);
    }
    // Even with no request.
    assert_eq!(server.handle_request().unwrap(), Handled::TimedOut);
    assert_eq!(server.turns(), 3);
    drop(clients);
}

fn service_actions_run_at_each_poll_interval_without_a_request() {
    let server = Loop::over(TcpServer::new("127.0.0.1:0", EchoLine));
    let turns = Arc::clone(&server.turns);
    let running = server.poll_interval(Duration::from_millis(1)).spawn().unwrap();
    wait_until("service_actions has run ten times", || {
        turns.load(Ordering::SeqCst) >= 10
    });
    assert_eq!(running.stop().unwrap().served, 0);
}

/// Says that it has begun, and ends when it may.
fn begins_and_waits(leave: &Gate) -> impl Fn(&mut TcpRequest) -> io::Result<()> + Clone + Send + Sync + 'static {
    let leave = leave.clone();
    move |request| {
        request.write_all(b"begun\n")?;
        leave.wait();
        Ok(())
    }
}

/// Waits until `service_actions` has run so many times more.
#[track_caller]
fn wait_for_more(turns: &AtomicUsize, count: usize) {
    let before = turns.load(Ordering::SeqCst);
    wait_until("service_actions has run so many times more", || {
        turns.load(Ordering::SeqCst) >= before + count
    });
}

fn service_actions_run_at_each_poll_interval_while_all_workers_are_busy() {
    let leave = Gate::default();
    let server = ThreadPoolTcpServer::new("127.0.0.1:0", begins_and_waits(&leave));
    let server = Loop::over(server.workers(1)).poll_interval(Duration::from_millis(1));
    let turns = Arc::clone(&server.turns);
    let running = server.spawn().unwrap();
    assert_eq!(exchange_line(connect(running.server_address()), ""), "begun\n");
    wait_for_more(&turns, 10);
    running.shutdown_handle().shutdown();
    wait_for_more(&turns, 10);
    leave.open();
    assert_eq!(running.join().unwrap().drained, 1);
}

/// Where service actions have run, and how often.
struct Threads<S>(S, Arc<Mutex<HashMap<ThreadId, usize>>>);

impl<S: BaseServer> BaseServer for Threads<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn service_actions(&self) {
        *self.1.lock().unwrap().entry(thread::current().id()).or_default() += 1;
        self.inner().service_actions();
    }
}

// Each of the threads that wait for requests would multiply the interval.
fn service_actions_of_an_idle_server_run_on_one_thread() {
    fn assert_one_thread(server: impl BaseServer) {
        let threads = Arc::default();
        let server = Threads(server, Arc::clone(&threads)).poll_interval(Duration::from_millis(1));
        let running = server.spawn().unwrap();
        let most = || threads.lock().unwrap().values().copied().max().unwrap_or_default();
        wait_until("service_actions has run a hundred times on a thread", || most() >= 100);
        let regular = threads.lock().unwrap().values().filter(|turns| **turns > 10).count();
        assert_eq!(regular, 1, "{threads:?}");
        running.stop().unwrap();
    }
    assert_one_thread(TcpServer::new("127.0.0.1:0", EchoLine));
    assert_one_thread(ThreadingTcpServer::new("127.0.0.1:0", EchoLine));
    assert_one_thread(ThreadPoolTcpServer::new("127.0.0.1:0", EchoLine).workers(4));
}

fn service_actions_run_at_each_poll_interval_while_the_server_drains() {
    let leave = Gate::default();
    let server = ThreadingTcpServer::new("127.0.0.1:0", begins_and_waits(&leave));
    let server = Loop::over(server).poll_interval(Duration::from_millis(1));
    let turns = Arc::clone(&server.turns);
    let running = server.spawn().unwrap();
    assert_eq!(exchange_line(connect(running.server_address()), ""), "begun\n");
    let handle = running.shutdown_handle();
    handle.shutdown();
    wait_until_draining(&handle);
    wait_for_more(&turns, 10);
    leave.open();
    assert_eq!(running.join().unwrap().drained, 1);
}

fn service_actions_run_at_each_poll_interval_while_a_draining_server_is_at_its_limit() {
    let leave = Gate::default();
    let server = TcpServer::new("127.0.0.1:0", begins_and_waits(&leave));
    let server = Loop::over(Detached(server)).max_connections(1);
    let turns = Arc::clone(&server.turns);
    let running = server.poll_interval(Duration::from_millis(1)).spawn().unwrap();
    assert_eq!(exchange_line(connect(running.server_address()), ""), "begun\n");
    let queued = connect(running.server_address());
    let handle = running.shutdown_handle();
    handle.shutdown();
    wait_until_draining(&handle);
    wait_for_more(&turns, 100);
    leave.open();
    assert_eq!(running.join().unwrap().served, 2);
    drop(queued);
}

/// What becomes of one request to a server that refuses it or not, hook by hook.
fn hooks(refuse: bool) -> (Handled, Vec<String>) {
    let (journal, pen) = journal();
    let looping = Loop::over(TcpServer::new("127.0.0.1:0", EchoLine));
    let server = if refuse { looping.refusing() } else { looping };
    let server = bound(Journaled::over(server, &pen));
    // Nothing is sent: a reset would tell of bytes that nobody read.
    let client = client(&*server, "");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let handled = server.handle_request().unwrap();
    assert_eq!(read_to_end(client), b"");
    (handled, journal.events())
}

fn verify_comes_before_process() {
    let (handled, events) = hooks(false);
    assert_eq!(handled, Handled::Processed);
    let expected = [
        "verify_request",
        "process_request",
        "finish_request",
        "shutdown_request",
        "close_request",
    ];
    assert_eq!(events, expected);
}

// test_shutdown_request_called_if_verify_request_false, bpo-26309
fn a_refused_request_is_shut_down_exactly_once() {
    let (handled, events) = hooks(true);
    assert_eq!(handled, Handled::Refused);
    assert_eq!(events, ["verify_request", "shutdown_request", "close_request"]);
}

fn a_refused_request_is_not_counted() {
    let server = bound(Loop::over(ThreadingTcpServer::new("127.0.0.1:0", EchoLine)).refusing());
    let client = client(&*server, "");
    assert_eq!(server.handle_request().unwrap(), Handled::Refused);
    assert_eq!(read_to_end(client), b"");
    let report = server.close().unwrap();
    assert_eq!((report.served, report.failed), (0, 0));
}

/// A server that fails to accept before it accepts: the client is served all the same.
#[track_caller]
fn goes_on_after<E: Into<io::Error>>(errors: impl IntoIterator<Item = E>) {
    let server = Loop::over(ThreadingTcpServer::new("127.0.0.1:0", EchoLine)).failing(errors);
    let running = server.spawn().unwrap();
    assert_eq!(exchange_line(connect(running.server_address()), "on\n"), "on\n");
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (1, 0));
}

// A program with a loop of its own gets on, although the descriptor stays readable all the while.
fn what_cannot_be_accepted_in_time_is_left_for_the_next_call() {
    for error in [Errno::EAGAIN, Errno::EMFILE] {
        let server = Loop::over(ThreadingTcpServer::new("127.0.0.1:0", EchoLine)).failing([error; 3]);
        let server = bound(server.timeout(Duration::ZERO));
        let client = client(&*server, "later\n");
        for _ in 0..3 {
            assert_eq!(server.handle_request().unwrap(), Handled::TimedOut, "{error}");
        }
        assert_eq!(server.handle_request().unwrap(), Handled::Processed);
        assert_eq!(read_to_end(client), b"later\n");
        let report = server.close().unwrap();
        assert_eq!((report.served, report.failed), (1, 0));
    }
}

// "accept error: turn skipped silently"
fn an_error_of_accepting_is_skipped() {
    goes_on_after([Errno::ECONNABORTED, Errno::EPROTO, Errno::EINTR, Errno::EPERM]);
    let lines = logged();
    assert!(lines.iter().all(|line| !line.starts_with("WARN")), "{lines:?}");
}

// CPython spins: 239,797 accepts in a second.
fn running_out_of_descriptors_only_slows_accepting_down() {
    goes_on_after([Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM]);
    let lines = logged();
    let warnings = lines.iter().filter(|line| line.starts_with("WARN cannot accept: "));
    assert_eq!(warnings.count(), 1, "one warning an episode: {lines:?}");
}

fn an_error_without_a_number_only_slows_accepting_down() {
    goes_on_after([io::Error::other("a mix-in's own")]);
    assert!(logged().iter().any(|line| line.contains("a mix-in's own")));
}

fn nothing_to_accept_after_all_is_no_error() {
    goes_on_after([io::Error::from(io::ErrorKind::WouldBlock), Errno::EAGAIN.into()]);
    assert!(logged().iter().all(|line| !line.starts_with("WARN")));
}

fn a_broken_listener_ends_the_loop_with_an_error() {
    let server = Loop::over(TcpServer::new("127.0.0.1:0", EchoLine)).failing([Errno::EBADF]);
    let running = server.spawn().unwrap();
    // The loop may have ended without it: it asks before there is anything.
    let _client = TcpStream::connect(inet(running.server_address()));
    let error = running.join().unwrap_err();
    assert!(
        error.to_string().starts_with("the listening socket is broken: "),
        "{error}"
    );
}

fn a_broken_listener_fails_handle_request() {
    let server = bound(Loop::over(TcpServer::new("127.0.0.1:0", EchoLine)).failing([Errno::ENOTSOCK]));
    let _client = client(&*server, "");
    let error = server.handle_request().unwrap_err();
    assert!(
        error.to_string().starts_with("the listening socket is broken: "),
        "{error}"
    );
}

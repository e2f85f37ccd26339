//! Mix-ins and strategies as a user writes them outside of the crate: each hook overridden on either
//! side of each strategy that runs in threads (`children.rs` has those that fork).

mod support;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use socketserver::prelude::*;
use socketserver::{Active, Cause, Construct, Handled, Phase, Tcp, ThreadPool, Threading};
use support::accepting::Accepting;
use support::detached::Detached;
use support::journal::{Journaled, Pen, journal};
use support::{CEILING, EchoLine, LOGGER_PANICS, connect, exchange_line, logged, read_to_end, threads, wait_until};

tests![
    verify_request_takes_effect_on_either_side_of_a_strategy,
    process_request_takes_effect_outside_of_a_strategy,
    process_request_inside_of_a_strategy_is_replaced_by_it,
    finish_request_takes_effect_on_either_side_of_a_strategy,
    handle_error_takes_effect_on_either_side_of_a_strategy,
    handle_timeout_takes_effect_on_either_side_of_a_strategy,
    service_actions_takes_effect_on_either_side_of_a_strategy,
    get_request_takes_effect_on_either_side_of_a_strategy,
    shutdown_request_takes_effect_on_either_side_of_a_strategy,
    close_request_takes_effect_on_either_side_of_a_strategy,
    shutdown_request_and_close_request_may_keep_the_connection,
    server_bind_takes_effect_on_either_side_of_a_strategy,
    server_activate_takes_effect_on_either_side_of_a_strategy,
    server_close_takes_effect_on_either_side_of_a_strategy,
    an_error_of_server_bind_is_that_of_bind_and_closes_the_server,
    an_error_of_server_activate_is_that_of_bind_and_closes_the_server,
    a_server_bind_that_forgets_the_wrapped_one_is_told,
    the_hooks_of_a_request_run_in_pythons_order,
    three_mix_ins_call_each_other_from_the_outermost_on,
    three_mix_ins_around_a_strategy_keep_their_order,
    a_mix_in_has_the_concurrency_of_what_it_wraps,
    a_mix_in_can_be_made_by_new_through_a_strategy,
    a_mix_in_can_be_for_one_transport_only,
    setters_work_through_the_whole_stack,
    request_handler_class_is_the_prototype_at_the_bottom,
    a_strategy_of_ones_own_serves_clients_beside_each_other,
    a_strategy_of_ones_own_is_waited_for_at_the_end,
    a_strategy_of_ones_own_may_accept_in_several_threads,
    a_strategy_that_accepts_in_several_threads_stops_while_idle,
    a_job_that_is_dropped_closes_its_connection_and_counts_as_failed,
    a_closure_that_returns_nothing_is_a_handler,
    a_closure_that_returns_a_result_is_a_handler,
    a_function_is_a_handler,
    a_struct_keeps_its_fields_for_one_request,
    a_struct_shares_what_is_behind_an_arc,
    a_handler_for_any_stream_serves_tcp_and_unix,
    a_panic_in_verify_request_costs_one_request,
    a_panic_in_process_request_costs_one_request,
    a_panic_in_finish_request_costs_one_request,
    a_panic_in_handle_error_costs_nothing_more,
    a_panic_in_shutdown_request_still_closes,
    a_panic_in_close_request_still_closes,
    a_panic_in_service_actions_costs_nothing,
    a_panic_in_get_request_costs_nothing,
    a_panic_in_handle_timeout_costs_nothing,
    a_panic_in_server_close_costs_nothing,
    a_panic_in_server_close_leaves_no_thread_resting,
    a_panic_in_server_bind_or_server_activate_leaves_nothing_behind,
    what_panics_once_more_when_it_is_dropped_costs_one_request,
    a_logger_that_panics_costs_nothing,
    a_logger_that_panics_where_threads_accept_ends_the_server_with_an_error,
];

const ANY_PORT: &str = "127.0.0.1:0";

/// A mix-in: what it keeps beside the wrapped server, and the hooks that it overrides.
macro_rules! mix_in {
    ($(#[$doc:meta])* $name:ident($($field:ty),*) for $bound:path { $($hooks:tt)* }) => {
        $(#[$doc])*
        struct $name<S>(S $(, $field)*);

        impl<S: $bound> BaseServer for $name<S> {
            type Transport = S::Transport;
            type Inner = S;

            fn inner(&self) -> &S {
                &self.0
            }

            $($hooks)*
        }
    };
}

/// Runs a check of a server under each strategy, with the mix-in outside of it.
macro_rules! outside {
    ($inner:ident => $wrap:expr, $handler:expr, $server:ident => $check:expr) => {{
        {
            let $inner = ThreadingTcpServer::new(ANY_PORT, $handler);
            let $server = $wrap;
            $check
        }
        {
            let $inner = ThreadPoolTcpServer::new(ANY_PORT, $handler).workers(2);
            let $server = $wrap;
            $check
        }
        {
            let $inner = TcpServer::new(ANY_PORT, $handler);
            let $server = $wrap;
            $check
        }
    }};
}

/// Runs a check of a server under each strategy, with the mix-in inside of it.
macro_rules! inside {
    ($inner:ident => $wrap:expr, $handler:expr, $server:ident => $check:expr) => {{
        {
            let $inner = TcpServer::new(ANY_PORT, $handler);
            let $server = $wrap.threading();
            $check
        }
        {
            let $inner = TcpServer::new(ANY_PORT, $handler);
            let $server = $wrap.thread_pool().workers(2);
            $check
        }
    }};
}

macro_rules! on_either_side {
    ($($arguments:tt)*) => {{
        inside!($($arguments)*);
        outside!($($arguments)*);
    }};
}

/// Requests that ended well, and those that did not.
fn counts(report: Report) -> (u64, u64) {
    (report.served, report.failed)
}

/// Waits until the server has closed the connection, by an end or by a reset.
#[track_caller]
fn wait_closed(mut stream: &TcpStream) {
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return,
            Ok(_) => {}
            Err(error) => panic!("the connection is still open: {error}"),
        }
    }
}

#[track_caller]
fn assert_echoes(address: &Address) {
    assert_eq!(exchange_line(connect(address), "hello\n"), "hello\n");
}

// ----- Each hook ---------------------------------------------------------------------------------

mix_in! {
    /// Serves nobody.
    Refusing() for BaseServer {
        fn verify_request(&self, _request: &RequestOf<Self>, _client_address: &Address) -> bool {
            false
        }
    }
}

fn verify_request_takes_effect_on_either_side_of_a_strategy() {
    on_either_side!(server => Refusing(server), EchoLine, server => {
        let running = server.spawn().unwrap();
        assert_eq!(read_to_end(connect(running.server_address())), b"");
        assert_eq!(counts(running.stop().unwrap()), (0, 0));
    });
}

mix_in! {
    /// Counts what comes by.
    Counting(Arc<AtomicUsize>) for BaseServer {
        fn process_request(&self, job: Job<S::Transport>) {
            self.1.fetch_add(1, Ordering::SeqCst);
            self.inner().process_request(job);
        }
    }
}

fn process_request_takes_effect_outside_of_a_strategy() {
    outside!(server => Counting(server, Arc::default()), EchoLine, server => {
        let count = Arc::clone(&server.1);
        let running = server.spawn().unwrap();
        assert_echoes(running.server_address());
        assert_eq!(counts(running.stop().unwrap()), (1, 0));
        assert_eq!(count.load(Ordering::SeqCst), 1);
    });
}

/// As in Python, where a strategy's `process_request` does not call `super()`.
fn process_request_inside_of_a_strategy_is_replaced_by_it() {
    let count = Arc::default();
    inside!(server => Counting(server, Arc::clone(&count)), EchoLine, server => {
        let running = server.spawn().unwrap();
        assert_echoes(running.server_address());
        assert_eq!(counts(running.stop().unwrap()), (1, 0));
    });
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

mix_in! {
    /// Sends a line before the handler runs.
    Greeting() for Greetable {
        fn finish_request(&self, active: &mut Active<S::Transport>) -> HandlerResult {
            let greeting = format!("welcome {}\n", active.client_address());
            active.request_mut().write_all(greeting.as_bytes())?;
            self.inner().finish_request(active)
        }
    }
}

/// Servers of TCP: what the mix-ins that use a connection are for.
trait Greetable: BaseServer<Transport = Tcp> {}
impl<S: BaseServer<Transport = Tcp>> Greetable for S {}

fn finish_request_takes_effect_on_either_side_of_a_strategy() {
    on_either_side!(server => Greeting(server), EchoLine, server => {
        let running = server.spawn().unwrap();
        let mut client = connect(running.server_address());
        client.write_all(b"hello\n").unwrap();
        let expected = format!("welcome {}\nhello\n", client.local_addr().unwrap());
        assert_eq!(read_to_end(client), expected.as_bytes());
        assert_eq!(counts(running.stop().unwrap()), (1, 0));
    });
}

mix_in! {
    /// Sends the text of errors away.
    Reporting(Sender<(Phase, Address, String)>) for BaseServer {
        fn handle_error(&self, error: &RequestError) {
            assert!(matches!(error.cause(), Cause::Error(_)), "{error:?}");
            let told = (error.phase(), error.client_address().clone(), error.to_string());
            self.1.send(told).unwrap();
        }
    }
}

fn handle_error_takes_effect_on_either_side_of_a_strategy() {
    let (sender, errors) = channel();
    let fails = |_: &mut TcpRequest| -> Result<(), &str> { Err("out of cheese") };
    on_either_side!(server => Reporting(server, sender.clone()), fails, server => {
        let running = server.spawn().unwrap();
        let client = connect(running.server_address());
        let peer = Address::from(client.local_addr().unwrap());
        assert_eq!(read_to_end(client), b"");
        assert_eq!(counts(running.stop().unwrap()), (0, 1));
        let text = format!("handle failed for {peer}: out of cheese");
        assert_eq!(errors.try_recv().unwrap(), (Phase::Handle, peer, text));
        assert!(errors.try_recv().is_err(), "an error is reported once");
    });
    assert_eq!(logged(), [""; 0], "the default, which logs, did not run");
}

mix_in! {
    /// Counts the requests that did not come.
    Waiting(AtomicUsize) for BaseServer {
        fn handle_timeout(&self) {
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn handle_timeout_takes_effect_on_either_side_of_a_strategy() {
    inside!(server => Waiting(server, AtomicUsize::new(0)), EchoLine, server => {
        let server = Arc::new(server.timeout(Duration::from_millis(1)).bind().unwrap());
        assert_eq!(server.handle_request().unwrap(), Handled::TimedOut);
        assert_eq!(server.inner().1.load(Ordering::SeqCst), 1);
        server.close().unwrap();
    });
    outside!(server => Waiting(server, AtomicUsize::new(0)), EchoLine, server => {
        let server = Arc::new(server.timeout(Duration::from_millis(1)).bind().unwrap());
        assert_eq!(server.handle_request().unwrap(), Handled::TimedOut);
        assert_eq!(server.1.load(Ordering::SeqCst), 1);
        server.close().unwrap();
    });
}

mix_in! {
    /// Counts the turns of the loop.
    Turning(Arc<AtomicUsize>) for BaseServer {
        fn service_actions(&self) {
            self.1.fetch_add(1, Ordering::SeqCst);
            self.inner().service_actions();
        }
    }
}

fn service_actions_takes_effect_on_either_side_of_a_strategy() {
    on_either_side!(server => Turning(server, Arc::default()), EchoLine, server => {
        let turns = Arc::new(AtomicUsize::new(0));
        let server = Turning(server, Arc::clone(&turns)).poll_interval(Duration::from_millis(1));
        let running = server.spawn().unwrap();
        wait_until("an idle server has turned ten times", || turns.load(Ordering::SeqCst) >= 10);
        running.stop().unwrap();
    });
}

mix_in! {
    /// Keeps connections alive that are silent for long.
    KeepAlive() for Greetable {
        fn get_request(&self) -> io::Result<RequestOf<Self>> {
            let request = self.inner().get_request()?;
            setsockopt(request.get_ref(), sockopt::KeepAlive, &true)?;
            Ok(request)
        }
    }
}

/// Tells the client whether its connection is kept alive.
fn tell_keepalive(request: &mut TcpRequest) -> io::Result<()> {
    let kept = getsockopt(request.get_ref(), sockopt::KeepAlive)?;
    writeln!(request, "{kept}")
}

fn get_request_takes_effect_on_either_side_of_a_strategy() {
    on_either_side!(server => KeepAlive(server), tell_keepalive, server => {
        let running = server.spawn().unwrap();
        assert_eq!(read_to_end(connect(running.server_address())), b"true\n");
        assert_eq!(counts(running.stop().unwrap()), (1, 0));
    });
    let running = TcpServer::new(ANY_PORT, tell_keepalive).spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"false\n");
}

mix_in! {
    /// Says goodbye.
    Parting() for Greetable {
        fn shutdown_request(&self, request: &mut RequestOf<Self>) {
            let _ = request.write_all(b"goodbye\n");
            self.inner().shutdown_request(request);
        }
    }
}

fn shutdown_request_takes_effect_on_either_side_of_a_strategy() {
    on_either_side!(server => Parting(server), EchoLine, server => {
        let running = server.spawn().unwrap();
        let mut client = connect(running.server_address());
        client.write_all(b"hello\n").unwrap();
        assert_eq!(read_to_end(client), b"hello\ngoodbye\n");
        assert_eq!(counts(running.stop().unwrap()), (1, 0));
    });
}

mix_in! {
    /// Gives connections away instead of closing them.
    Keeping(Sender<TcpRequest>) for Greetable {
        // As in Python: it would end the sending side.
        fn shutdown_request(&self, _request: &mut RequestOf<Self>) {}

        fn close_request(&self, request: RequestOf<Self>) {
            self.1.send(request).unwrap();
        }
    }
}

fn close_request_takes_effect_on_either_side_of_a_strategy() {
    on_either_side!(server => Keeping(server, channel().0), EchoLine, server => {
        let (sender, kept) = channel();
        let running = Keeping(server, sender).spawn().unwrap();
        assert_echoes(running.server_address());
        assert_eq!(kept.recv_timeout(CEILING).unwrap().server().number(), 1);
        assert_eq!(counts(running.stop().unwrap()), (1, 0));
        assert!(kept.try_recv().is_err(), "a request is closed once");
    });
}

fn shutdown_request_and_close_request_may_keep_the_connection() {
    let (sender, kept) = channel();
    let server = Keeping(ThreadingTcpServer::new(ANY_PORT, EchoLine), sender);
    let running = server.spawn().unwrap();
    let mut client = connect(running.server_address());
    client.write_all(b"hello\n").unwrap();
    let mut request = kept.recv_timeout(CEILING).unwrap();
    running.stop().unwrap();
    request.write_all(b"later\n").unwrap();
    drop(request);
    assert_eq!(read_to_end(client), b"hello\nlater\n");
}

mix_in! {
    /// Sets an option on the listening socket once it is bound.
    Binding() for Greetable {
        fn server_bind(&self) -> io::Result<()> {
            assert!(self.fileno().is_none(), "there is no socket yet");
            self.inner().server_bind()?;
            // As Python's HTTPServer, which takes its server_port here.
            assert_ne!(self.server_address().port(), Some(0), "it is bound");
            Ok(setsockopt(&self.fileno().unwrap(), sockopt::KeepAlive, &true)?)
        }
    }
}

fn server_bind_takes_effect_on_either_side_of_a_strategy() {
    on_either_side!(server => Binding(server), tell_keepalive, server => {
        let running = server.spawn().unwrap();
        assert_eq!(read_to_end(connect(running.server_address())), b"true\n");
        running.stop().unwrap();
    });
}

mix_in! {
    /// Announces the address as soon as clients can connect.
    Announcing(Sender<Address>) for BaseServer {
        fn server_activate(&self) -> io::Result<()> {
            self.inner().server_activate()?;
            self.1.send(self.server_address()).unwrap();
            Ok(())
        }
    }
}

fn server_activate_takes_effect_on_either_side_of_a_strategy() {
    let (sender, announced) = channel();
    on_either_side!(server => Announcing(server, sender.clone()), EchoLine, server => {
        let server = server.bind().unwrap();
        let address = announced.try_recv().unwrap();
        assert_eq!(address, server.server_address());
        assert_ne!(address.port(), Some(0));
        connect(&address);
        assert!(announced.try_recv().is_err(), "a server is activated once");
    });
}

mix_in! {
    /// Counts how often it is closed.
    Closing(Arc<AtomicUsize>) for BaseServer {
        fn server_close(&self) {
            assert!(TcpStream::connect(self.server_address().as_inet().unwrap()).is_err());
            self.1.fetch_add(1, Ordering::SeqCst);
            self.inner().server_close();
        }
    }
}

fn server_close_takes_effect_on_either_side_of_a_strategy() {
    let closed = Arc::new(AtomicUsize::new(0));
    on_either_side!(server => Closing(server, Arc::clone(&closed)), EchoLine, server => {
        closed.store(0, Ordering::SeqCst);
        let running = server.spawn().unwrap();
        assert_echoes(running.server_address());
        assert_eq!(closed.load(Ordering::SeqCst), 0);
        running.stop().unwrap();
        assert_eq!(closed.load(Ordering::SeqCst), 1);
    });
}

mix_in! {
    /// Fails to bind, or to listen; counts how often it is closed.
    Failing(&'static str, Arc<AtomicUsize>) for BaseServer {
        fn server_bind(&self) -> io::Result<()> {
            self.fail_in("bind")?;
            self.inner().server_bind()
        }

        fn server_activate(&self) -> io::Result<()> {
            self.fail_in("activate")?;
            self.inner().server_activate()
        }

        fn server_close(&self) {
            self.2.fetch_add(1, Ordering::SeqCst);
            self.inner().server_close();
        }
    }
}

impl<S> Failing<S> {
    fn fail_in(&self, step: &str) -> io::Result<()> {
        if self.1 == step {
            return Err(io::Error::other(format!("no {step} today")));
        }
        Ok(())
    }
}

fn an_error_of_server_bind_is_that_of_bind_and_closes_the_server() {
    let closed = Arc::new(AtomicUsize::new(0));
    on_either_side!(server => Failing(server, "bind", Arc::clone(&closed)), EchoLine, server => {
        closed.store(0, Ordering::SeqCst);
        assert_eq!(server.bind().err().unwrap().to_string(), "no bind today");
        assert_eq!(closed.load(Ordering::SeqCst), 1);
    });
}

fn an_error_of_server_activate_is_that_of_bind_and_closes_the_server() {
    let closed = Arc::new(AtomicUsize::new(0));
    on_either_side!(server => Failing(server, "activate", Arc::clone(&closed)), EchoLine, server => {
        closed.store(0, Ordering::SeqCst);
        assert_eq!(server.bind().err().unwrap().to_string(), "no activate today");
        assert_eq!(closed.load(Ordering::SeqCst), 1);
    });
}

mix_in! {
    /// Forgets what it wraps.
    Forgetful() for BaseServer {
        fn server_bind(&self) -> io::Result<()> {
            Ok(())
        }
    }
}

fn a_server_bind_that_forgets_the_wrapped_one_is_told() {
    let error = Forgetful(TcpServer::new(ANY_PORT, EchoLine)).bind().err().unwrap();
    assert_eq!(
        error.to_string(),
        "the server is not bound: a server_bind hook must call inner().server_bind()"
    );
}

// ----- Stacks ------------------------------------------------------------------------------------

mix_in! {
    /// Notes each hook under its name, then does what it wraps does.
    Noting(&'static str, Pen) for BaseServer {
        fn server_bind(&self) -> io::Result<()> {
            self.note("server_bind");
            self.inner().server_bind()
        }

        fn server_activate(&self) -> io::Result<()> {
            self.note("server_activate");
            self.inner().server_activate()
        }

        fn server_close(&self) {
            self.note("server_close");
            self.inner().server_close();
        }

        fn get_request(&self) -> io::Result<RequestOf<Self>> {
            // Those that came in vain are as many as the loop happened to turn.
            let request = self.inner().get_request()?;
            self.note("get_request");
            Ok(request)
        }

        fn verify_request(&self, request: &RequestOf<Self>, client_address: &Address) -> bool {
            self.note("verify_request");
            self.inner().verify_request(request, client_address)
        }

        fn process_request(&self, job: Job<S::Transport>) {
            self.note("process_request");
            self.inner().process_request(job);
        }

        fn finish_request(&self, active: &mut Active<S::Transport>) -> HandlerResult {
            self.note("finish_request");
            self.inner().finish_request(active)
        }

        fn handle_error(&self, error: &RequestError) {
            self.note("handle_error");
            self.inner().handle_error(error);
        }

        fn shutdown_request(&self, request: &mut RequestOf<Self>) {
            self.note("shutdown_request");
            self.inner().shutdown_request(request);
        }

        fn close_request(&self, request: RequestOf<Self>) {
            self.note("close_request");
            self.inner().close_request(request);
        }
    }
}

impl<S> Noting<S> {
    fn note(&self, hook: &str) {
        self.2.note(format_args!("{hook} {}", self.1));
    }
}

fn the_hooks_of_a_request_run_in_pythons_order() {
    let (journal, pen) = journal();
    outside!(server => Noting(server, "a", pen.clone()), |_: &mut TcpRequest| Err("no"), server => {
        let already = journal.events().len();
        let running = server.spawn().unwrap();
        assert_eq!(read_to_end(connect(running.server_address())), b"");
        running.stop().unwrap();
        assert_eq!(
            journal.events()[already..],
            [
                "server_bind a",
                "server_activate a",
                "get_request a",
                "verify_request a",
                "process_request a",
                "finish_request a",
                "handle_error a",
                "shutdown_request a",
                "close_request a",
                "server_close a",
            ]
        );
    });
}

fn three_mix_ins_call_each_other_from_the_outermost_on() {
    let (journal, pen) = journal();
    let noting = |name| (name, pen.clone());
    on_either_side!(
        server => {
            let ((a, pen_a), (b, pen_b), (c, pen_c)) = (noting("a"), noting("b"), noting("c"));
            Noting(Noting(Noting(server, c, pen_c), b, pen_b), a, pen_a)
        },
        |_: &mut TcpRequest| Err("no"),
        server => {
            let already = journal.events().len();
            let running = server.spawn().unwrap();
            assert_eq!(read_to_end(connect(running.server_address())), b"");
            running.stop().unwrap();
            // get_request notes on the way back.
            for (hook, order) in [
                ("server_bind", ["a", "b", "c"]),
                ("server_activate", ["a", "b", "c"]),
                ("get_request", ["c", "b", "a"]),
                ("verify_request", ["a", "b", "c"]),
                ("finish_request", ["a", "b", "c"]),
                ("handle_error", ["a", "b", "c"]),
                ("shutdown_request", ["a", "b", "c"]),
                ("close_request", ["a", "b", "c"]),
                ("server_close", ["a", "b", "c"]),
            ] {
                let events = journal.events().split_off(already);
                let names: Vec<_> = events
                    .iter()
                    .filter_map(|event| event.strip_prefix(hook)?.strip_prefix(' '))
                    .collect();
                assert_eq!(names, order, "{hook}");
            }
        }
    );
}

fn three_mix_ins_around_a_strategy_keep_their_order() {
    let (journal, pen) = journal();
    let bottom = Noting(TcpServer::new(ANY_PORT, EchoLine), "c", pen.clone());
    let middle = Noting(bottom.threading(), "b", pen.clone());
    let running = Noting(middle, "a", pen).spawn().unwrap();
    assert_echoes(running.server_address());
    running.stop().unwrap();
    let events = journal.events();
    let of = |hook: &str| -> Vec<_> { events.iter().filter(|event| event.starts_with(hook)).collect() };
    assert_eq!(
        of("finish_request"),
        ["finish_request a", "finish_request b", "finish_request c"]
    );
    assert_eq!(of("process_request"), ["process_request a", "process_request b"]);
}

fn a_mix_in_has_the_concurrency_of_what_it_wraps() {
    fn concurrency<S: BaseServer>(_: &S) -> Concurrency {
        S::CONCURRENCY
    }
    let server = || TcpServer::new(ANY_PORT, EchoLine);
    assert_eq!(concurrency(&Refusing(server())), Concurrency::None);
    assert_eq!(concurrency(&Refusing(server().threading())), Concurrency::Threads);
    assert_eq!(
        concurrency(&Refusing(Refusing(server()).thread_pool())),
        Concurrency::Threads
    );
    assert_eq!(concurrency(&Refusing(server().forking())), Concurrency::Processes);
}

impl<S: Construct + Greetable> Construct for Greeting<S> {
    type Handler = S::Handler;

    fn construct(address: Address, handler: S::Handler) -> Self {
        Greeting(S::construct(address, handler))
    }

    fn request_handler_class(&self) -> &S::Handler {
        self.inner().request_handler_class()
    }
}

fn a_mix_in_can_be_made_by_new_through_a_strategy() {
    fn check(server: impl BaseServer) {
        let running = server.spawn().unwrap();
        let mut client = connect(running.server_address());
        client.write_all(b"hello\n").unwrap();
        let expected = format!("welcome {}\nhello\n", client.local_addr().unwrap());
        assert_eq!(read_to_end(client), expected.as_bytes());
    }
    check(Threading::<Greeting<TcpServer<EchoLine>>>::new(ANY_PORT, EchoLine));
    check(ThreadPool::<Greeting<TcpServer<EchoLine>>>::new(ANY_PORT, EchoLine).workers(1));
}

fn a_mix_in_can_be_for_one_transport_only() {
    struct Quick<S>(S);
    impl<S: BaseServer<Transport = Tcp>> BaseServer for Quick<S> {
        type Transport = Tcp;
        type Inner = S;

        fn inner(&self) -> &S {
            &self.0
        }

        fn verify_request(&self, request: &TcpRequest, client_address: &Address) -> bool {
            request.get_ref().set_nodelay(true).is_ok() && self.inner().verify_request(request, client_address)
        }
    }
    let tell = |request: &mut TcpRequest| {
        let nodelay = request.get_ref().nodelay()?;
        writeln!(request, "{nodelay}")
    };
    let running = Quick(TcpServer::new(ANY_PORT, tell)).threading().spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"true\n");
}

fn setters_work_through_the_whole_stack() {
    let server = Refusing(Refusing(UdpServer::new(ANY_PORT, EchoLine)).thread_pool())
        .timeout(Duration::from_secs(1))
        .poll_interval(Duration::from_secs(2))
        .request_queue_size(3)
        .allow_reuse_address(false)
        .allow_reuse_port(true)
        .only_v6(true)
        .max_packet_size(4)
        .drain_timeout(Duration::from_secs(5))
        .shutdown_on_signals([signal::SIGUSR1])
        .before_bind(|_| Err(io::Error::other("set")));
    let config = server.config();
    assert_eq!(config.timeout, Some(Duration::from_secs(1)));
    assert_eq!(config.poll_interval, Some(Duration::from_secs(2)));
    assert_eq!(config.request_queue_size, 3);
    assert!(!config.allow_reuse_address);
    assert!(config.allow_reuse_port);
    assert_eq!(config.only_v6, Some(true));
    assert_eq!(config.max_packet_size, 4);
    assert_eq!(config.drain_timeout, Some(Duration::from_secs(5)));
    assert!(format!("{config:?}").contains(&format!("signals: [({}, Drain)]", signal::SIGUSR1)));
    let bottom = server.inner().inner().inner();
    assert_eq!(format!("{:?}", bottom.config()), format!("{config:?}"));
    assert!(server.bind().err().unwrap().to_string().contains("set"));
}

fn request_handler_class_is_the_prototype_at_the_bottom() {
    #[derive(Clone, Debug, PartialEq)]
    struct Named(&'static str);
    impl BaseRequestHandler<TcpRequest> for Named {
        fn handle(&mut self, request: &mut TcpRequest) -> HandlerResult {
            Ok(request.write_all(self.0.as_bytes())?)
        }
    }
    let name = Named("prototype");
    assert_eq!(TcpServer::new(ANY_PORT, name.clone()).request_handler_class(), &name);
    assert_eq!(
        ThreadingTcpServer::new(ANY_PORT, name.clone()).request_handler_class(),
        &name
    );
    assert_eq!(
        ThreadPoolTcpServer::new(ANY_PORT, name.clone()).request_handler_class(),
        &name
    );
    assert_eq!(
        ForkingTcpServer::new(ANY_PORT, name.clone()).request_handler_class(),
        &name
    );
    let stack = Threading::<Greeting<TcpServer<Named>>>::new(ANY_PORT, name.clone());
    assert_eq!(stack.request_handler_class(), &name);
}

// ----- Strategies of one's own -------------------------------------------------------------------

fn a_strategy_of_ones_own_serves_clients_beside_each_other() {
    let running = Detached(TcpServer::new(ANY_PORT, EchoLine)).spawn().unwrap();
    let silent = connect(running.server_address());
    assert_echoes(running.server_address());
    assert_eq!(exchange_line(silent, "at last\n"), "at last\n");
    assert_eq!(counts(running.stop().unwrap()), (2, 0));
}

fn a_strategy_of_ones_own_is_waited_for_at_the_end() {
    let entered = Arc::new(Barrier::new(2));
    let in_handler = Arc::clone(&entered);
    let handler = move |request: &mut TcpRequest| -> io::Result<()> {
        in_handler.wait();
        wait_until("the server drains", || request.server().is_draining());
        request.write_all(b"done\n")
    };
    let running = Detached(TcpServer::new(ANY_PORT, handler)).spawn().unwrap();
    let client = connect(running.server_address());
    entered.wait();
    assert_eq!(counts(running.stop().unwrap()), (1, 0));
    assert_eq!(read_to_end(client), b"done\n");
}

fn a_strategy_of_ones_own_may_accept_in_several_threads() {
    let together = Arc::new(Barrier::new(3));
    let handler = move |request: &mut TcpRequest| -> io::Result<()> {
        let mut byte = [0];
        request.read_exact(&mut byte)?;
        if byte == *b"!" {
            // Passed only by three at a time.
            together.wait();
        }
        writeln!(request, "{:?}", thread::current().id())
    };
    let running = Accepting::over(TcpServer::new(ANY_PORT, handler), 3).spawn().unwrap();
    for _ in 0..20 {
        let clients: Vec<_> = (0..3).map(|_| connect(running.server_address())).collect();
        for mut client in &clients {
            client.write_all(b"!").unwrap();
        }
        let mut threads: Vec<_> = clients.into_iter().map(read_to_end).collect();
        threads.sort();
        threads.dedup();
        assert_eq!(threads.len(), 3, "each was served by another thread");
    }
    assert_eq!(counts(running.stop().unwrap()), (60, 0));
}

fn a_strategy_that_accepts_in_several_threads_stops_while_idle() {
    for _ in 0..20 {
        let running = Accepting::over(TcpServer::new(ANY_PORT, EchoLine), 4).spawn().unwrap();
        assert_eq!(counts(running.stop().unwrap()), (0, 0));
    }
}

mix_in! {
    /// Loses what it should run.
    Losing() for BaseServer {
        fn process_request(&self, job: Job<S::Transport>) {
            drop(job);
        }
    }
}

fn a_job_that_is_dropped_closes_its_connection_and_counts_as_failed() {
    outside!(server => Losing(server), EchoLine, server => {
        let (journal, pen) = journal();
        let running = Journaled::over(server, &pen).spawn().unwrap();
        assert_eq!(read_to_end(connect(running.server_address())), b"");
        assert_eq!(counts(running.stop().unwrap()), (0, 1));
        let expected = ["verify_request", "process_request", "shutdown_request", "close_request"];
        assert_eq!(journal.events(), expected);
    });
}

// ----- Handlers ----------------------------------------------------------------------------------

fn a_closure_that_returns_nothing_is_a_handler() {
    let (sender, seen) = channel();
    let handler = move |request: &mut TcpRequest| sender.send(request.client_address().clone()).unwrap();
    let running = ThreadingTcpServer::new(ANY_PORT, handler).spawn().unwrap();
    let client = connect(running.server_address());
    assert_eq!(seen.recv_timeout(CEILING).unwrap(), client.local_addr().unwrap().into());
}

fn a_closure_that_returns_a_result_is_a_handler() {
    let io_errors = |request: &mut TcpRequest| request.write_all(b"hello\n");
    let running = ThreadingTcpServer::new(ANY_PORT, io_errors).spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"hello\n");
    let text_errors = |_: &mut TcpRequest| -> Result<(), String> { Err("text".to_owned()) };
    let failing = ThreadingTcpServer::new(ANY_PORT, text_errors).spawn().unwrap();
    assert_eq!(read_to_end(connect(failing.server_address())), b"");
    assert_eq!(counts(running.stop().unwrap()), (1, 0));
    assert_eq!(counts(failing.stop().unwrap()), (0, 1));
}

fn a_function_is_a_handler() {
    fn greet<S: Stream>(request: &mut StreamRequest<S>) -> io::Result<()> {
        request.write_all(b"hello\n")
    }
    let running = ThreadPoolTcpServer::new(ANY_PORT, greet).workers(1).spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"hello\n");
}

/// Counts in itself and behind an `Arc`.
#[derive(Clone, Default)]
struct Visits {
    mine: usize,
    all: Arc<AtomicUsize>,
}

impl BaseRequestHandler<TcpRequest> for Visits {
    fn setup(&mut self, _request: &mut TcpRequest) -> HandlerResult {
        self.mine += 1;
        Ok(())
    }

    fn handle(&mut self, request: &mut TcpRequest) -> HandlerResult {
        self.mine += 1;
        let all = self.all.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(writeln!(request, "{} {all}", self.mine)?)
    }
}

fn a_struct_keeps_its_fields_for_one_request() {
    outside!(server => server, Visits::default(), server => {
        let running = server.spawn().unwrap();
        for _ in 0..3 {
            let answer = read_to_end(connect(running.server_address()));
            assert!(answer.starts_with(b"2 "), "{}", answer.escape_ascii());
        }
    });
}

fn a_struct_shares_what_is_behind_an_arc() {
    outside!(server => server, Visits::default(), server => {
        let running = server.spawn().unwrap();
        for visit in 1..4 {
            let answer = read_to_end(connect(running.server_address()));
            assert_eq!(answer, format!("2 {visit}\n").as_bytes());
        }
    });
}

fn a_handler_for_any_stream_serves_tcp_and_unix() {
    let tcp = ThreadingTcpServer::new(ANY_PORT, EchoLine).spawn().unwrap();
    assert_echoes(tcp.server_address());
    let path = support::temp_path("s");
    let unix = ThreadingUnixStreamServer::new(&path.path, EchoLine).spawn().unwrap();
    let client = std::os::unix::net::UnixStream::connect(&path.path).unwrap();
    assert_eq!(exchange_line(client, "hello\n"), "hello\n");
    unix.stop().unwrap();
}

// ----- Hooks that panic --------------------------------------------------------------------------

mix_in! {
    /// Panics the first time that the hook of that name runs.
    Panicking(&'static str, AtomicBool) for BaseServer {
        fn server_bind(&self) -> io::Result<()> {
            self.panic_in("server_bind");
            self.inner().server_bind()
        }

        fn server_activate(&self) -> io::Result<()> {
            self.panic_in("server_activate");
            self.inner().server_activate()
        }

        fn server_close(&self) {
            self.panic_in("server_close");
            self.inner().server_close();
        }

        fn get_request(&self) -> io::Result<RequestOf<Self>> {
            self.panic_in("get_request");
            self.inner().get_request()
        }

        fn verify_request(&self, request: &RequestOf<Self>, client_address: &Address) -> bool {
            self.panic_in("verify_request");
            self.inner().verify_request(request, client_address)
        }

        fn process_request(&self, job: Job<S::Transport>) {
            self.panic_in("process_request");
            self.inner().process_request(job);
        }

        fn finish_request(&self, active: &mut Active<S::Transport>) -> HandlerResult {
            self.panic_in("finish_request");
            self.inner().finish_request(active)
        }

        fn handle_error(&self, error: &RequestError) {
            self.panic_in("handle_error");
            self.inner().handle_error(error);
        }

        fn shutdown_request(&self, request: &mut RequestOf<Self>) {
            self.panic_in("shutdown_request");
            self.inner().shutdown_request(request);
        }

        fn close_request(&self, request: RequestOf<Self>) {
            self.panic_in("close_request");
            self.inner().close_request(request);
        }

        fn handle_timeout(&self) {
            self.panic_in("handle_timeout");
            self.inner().handle_timeout();
        }

        fn service_actions(&self) {
            self.panic_in("service_actions");
            self.inner().service_actions();
        }
    }
}

impl<S> Panicking<S> {
    fn over(server: S, hook: &'static str) -> Self {
        Panicking(server, hook, AtomicBool::new(false))
    }

    fn panic_in(&self, hook: &str) {
        assert!(hook != self.1 || self.2.swap(true, Ordering::SeqCst), "{hook} as told");
    }
}

/// Echoes a line; `fail` is an error.
fn echo_or_fail(request: &mut TcpRequest) -> HandlerResult {
    let mut line = String::new();
    io::BufRead::read_line(request, &mut line)?;
    if line == "fail\n" {
        return Err("as told".into());
    }
    Ok(request.write_all(line.as_bytes())?)
}

/// The first client says `line` and meets the panic, the second is served, and all are counted.
#[track_caller]
fn assert_survives(server: impl BaseServer, line: &str, expected: (u64, u64)) {
    let running = server.spawn().unwrap();
    let mut first = connect(running.server_address());
    first.write_all(line.as_bytes()).unwrap();
    wait_closed(&first);
    assert_echoes(running.server_address());
    assert_eq!(counts(running.stop().unwrap()), expected);
}

/// The log has a line with that text for each stack.
#[track_caller]
fn assert_logged_for_each_stack(text: &str, stacks: usize) {
    let lines = logged();
    let found = lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(found, stacks, "`{text}` in {lines:#?}");
}

fn a_panic_in_verify_request_costs_one_request() {
    on_either_side!(server => Panicking::over(server, "verify_request"), echo_or_fail, server => {
        assert_survives(server, "hello\n", (1, 1));
    });
    assert_logged_for_each_stack("ERROR verify_request panicked for 127.0.0.1:", 5);
}

fn a_panic_in_process_request_costs_one_request() {
    outside!(server => Panicking::over(server, "process_request"), echo_or_fail, server => {
        assert_survives(server, "hello\n", (1, 1));
    });
    assert_logged_for_each_stack("ERROR process_request panicked for 127.0.0.1:", 3);
}

fn a_panic_in_finish_request_costs_one_request() {
    on_either_side!(server => Panicking::over(server, "finish_request"), echo_or_fail, server => {
        assert_survives(server, "hello\n", (1, 1));
    });
    assert_logged_for_each_stack(": finish_request as told", 5);
}

fn a_panic_in_handle_error_costs_nothing_more() {
    on_either_side!(server => Panicking::over(server, "handle_error"), echo_or_fail, server => {
        assert_survives(server, "fail\n", (1, 1));
    });
    assert_logged_for_each_stack("ERROR handle_error panicked: handle_error as told", 5);
}

fn a_panic_in_shutdown_request_still_closes() {
    on_either_side!(server => Panicking::over(server, "shutdown_request"), echo_or_fail, server => {
        assert_survives(server, "hello\n", (2, 0));
    });
    assert_logged_for_each_stack("ERROR shutdown_request panicked: shutdown_request as told", 5);
}

fn a_panic_in_close_request_still_closes() {
    on_either_side!(server => Panicking::over(server, "close_request"), echo_or_fail, server => {
        assert_survives(server, "hello\n", (2, 0));
    });
    assert_logged_for_each_stack("ERROR close_request panicked: close_request as told", 5);
}

fn a_panic_in_service_actions_costs_nothing() {
    on_either_side!(server => Panicking::over(server, "service_actions"), echo_or_fail, server => {
        assert_survives(server, "hello\n", (2, 0));
    });
    assert_logged_for_each_stack("ERROR service_actions panicked: service_actions as told", 5);
}

fn a_panic_in_get_request_costs_nothing() {
    on_either_side!(server => Panicking::over(server, "get_request"), echo_or_fail, server => {
        assert_survives(server, "hello\n", (2, 0));
    });
    assert_logged_for_each_stack("get_request panicked: get_request as told", 5);
}

fn a_panic_in_handle_timeout_costs_nothing() {
    on_either_side!(server => Panicking::over(server, "handle_timeout"), EchoLine, server => {
        let server = Arc::new(server.timeout(Duration::from_millis(1)).bind().unwrap());
        assert_eq!(server.handle_request().unwrap(), Handled::TimedOut);
        let client = connect(&server.server_address());
        (&client).write_all(b"hello\n").unwrap();
        wait_until("the request is handled", || server.handle_request().unwrap() == Handled::Processed);
        assert_eq!(read_to_end(client), b"hello\n");
        assert_eq!(counts(server.close().unwrap()), (1, 0));
    });
    assert_logged_for_each_stack("ERROR handle_timeout panicked: handle_timeout as told", 5);
}

fn a_panic_in_server_close_costs_nothing() {
    on_either_side!(server => Panicking::over(server, "server_close"), echo_or_fail, server => {
        assert_survives(server, "hello\n", (2, 0));
    });
    assert_logged_for_each_stack("ERROR server_close panicked: server_close as told", 5);
}

/// Serves so many clients at once that threads are left over, and returns how many threads there are when it has ended.
#[track_caller]
fn threads_left_by(server: impl BaseServer) -> usize {
    let running = server.spawn().unwrap();
    let handle = running.handle();
    let clients = [(); 8].map(|()| connect(running.server_address()));
    wait_until("all are served", || handle.stats().running == 8);
    for client in &clients {
        assert_eq!(exchange_line(client, "hello\n"), "hello\n");
        wait_closed(client);
    }
    assert_eq!(counts(running.stop().unwrap()), (8, 0));
    threads()
}

fn a_panic_in_server_close_leaves_no_thread_resting() {
    let before = threads();
    let inside = || Panicking::over(TcpServer::new(ANY_PORT, echo_or_fail), "server_close");
    assert_eq!(threads_left_by(inside().threading()), before);
    assert_eq!(threads_left_by(inside().thread_pool().workers(8).queue_size(2)), before);
    let outside = Panicking::over(ThreadingTcpServer::new(ANY_PORT, echo_or_fail), "server_close");
    assert_eq!(threads_left_by(outside), before);
}

fn a_panic_in_server_bind_or_server_activate_leaves_nothing_behind() {
    for hook in ["server_bind", "server_activate"] {
        on_either_side!(server => Panicking::over(server, hook), echo_or_fail, server => {
            let outcome = thread::spawn(move || server.shutdown_on_signals([signal::SIGUSR1]).bind().is_ok()).join();
            let payload = outcome.unwrap_err();
            assert_eq!(payload.downcast_ref::<String>().unwrap(), &format!("{hook} as told"));
        });
    }
}

/// Thrown, it is one panic more for whoever drops it.
struct PanicsAgain;

impl Drop for PanicsAgain {
    fn drop(&mut self) {
        resume_unwind(Box::new("dropped"));
    }
}

mix_in! {
    /// Throws something that panics when it is dropped, in each hook but those of the life cycle.
    Throwing() for BaseServer {
        fn handle_error(&self, _: &RequestError) {
            resume_unwind(Box::new(PanicsAgain));
        }

        fn close_request(&self, request: RequestOf<Self>) {
            self.inner().close_request(request);
            resume_unwind(Box::new(PanicsAgain));
        }

        fn service_actions(&self) {
            self.inner().service_actions();
            resume_unwind(Box::new(PanicsAgain));
        }
    }
}

fn echo_or_throw(request: &mut TcpRequest) -> HandlerResult {
    let outcome = echo_or_fail(request);
    if outcome.is_err() {
        resume_unwind(Box::new(PanicsAgain));
    }
    outcome
}

fn what_panics_once_more_when_it_is_dropped_costs_one_request() {
    on_either_side!(server => Throwing(server), echo_or_throw, server => {
        assert_survives(server, "fail\n", (1, 1));
    });
}

/// Echoes a line; after `fail` whoever logs the error meets a panic.
fn echo_or_fail_badly(request: &mut TcpRequest) -> HandlerResult {
    echo_or_fail(request).map_err(|_| LOGGER_PANICS.into())
}

fn a_logger_that_panics_costs_nothing() {
    on_either_side!(server => Panicking::over(server, "none"), echo_or_fail_badly, server => {
        assert_survives(server, "fail\n", (1, 1));
    });
}

mix_in! {
    /// Cannot accept for a reason that nobody can log.
    Unlucky() for BaseServer {
        fn get_request(&self) -> io::Result<RequestOf<Self>> {
            Err(io::Error::other(LOGGER_PANICS))
        }
    }
}

#[track_caller]
fn assert_ends_with_an_error(server: impl BaseServer) {
    let running = Unlucky(server).spawn().unwrap();
    let _client = TcpStream::connect(running.server_address().as_inet().unwrap());
    running.shutdown_handle().wait_timeout(CEILING).unwrap();
    let error = running.join().unwrap_err().to_string();
    assert!(error.starts_with("accepting panicked: "), "{error}");
}

fn a_logger_that_panics_where_threads_accept_ends_the_server_with_an_error() {
    assert_ends_with_an_error(ThreadPoolTcpServer::new(ANY_PORT, EchoLine).workers(1));
    assert_ends_with_an_error(ThreadingTcpServer::new(ANY_PORT, EchoLine));
}

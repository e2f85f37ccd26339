//! What becomes of requests whose handler fails, the same under every strategy: section "Errors in
//! handlers" of CPython's tests, and what its code says beyond them.

use std::error::Error;
use std::fmt;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::panic::resume_unwind;

use socketserver::prelude::*;
use socketserver::{Capacity, Construct};

use super::journal::{Journal, Journaled, Pen, journal};
use super::{connect, read_to_end, wait_until};

/// A handler whose steps note themselves and fail as the client's line says: `handle error, finish panic`.
#[derive(Clone, Debug)]
pub struct Steps {
    pen: Pen,
    orders: String,
}

impl Steps {
    pub fn new(pen: &Pen) -> Self {
        Steps {
            pen: pen.clone(),
            orders: String::new(),
        }
    }

    fn step(&self, name: &str) -> HandlerResult {
        self.pen.note(name);
        if self.orders.contains(&format!("{name} error")) {
            return Err(format!("an error in {name}").into());
        }
        if self.orders.contains(&format!("{name} bottomless error")) {
            return Err(Bottomless.into());
        }
        self.panic_if_told(name);
        Ok(())
    }

    fn panic_if_told(&self, name: &str) {
        if self.orders.contains(&format!("{name} panic")) {
            // As panic!, without the lines of the default hook among the tests' output.
            resume_unwind(Box::new(format!("a panic in {name}")));
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.panic_if_told("drop");
    }
}

/// An error that panics when it is asked for what is behind it.
#[derive(Debug)]
struct Bottomless;

impl fmt::Display for Bottomless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an error without a ground")
    }
}

impl Error for Bottomless {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        resume_unwind(Box::new("a panic in source"))
    }
}

impl<S: Stream> BaseRequestHandler<StreamRequest<S>> for Steps {
    fn setup(&mut self, request: &mut StreamRequest<S>) -> HandlerResult {
        request.read_line(&mut self.orders)?;
        self.step("setup")
    }

    fn handle(&mut self, request: &mut StreamRequest<S>) -> HandlerResult {
        self.step("handle")?;
        Ok(request.write_all(b"done\n")?)
    }

    fn finish(&mut self, _: &mut StreamRequest<S>) -> HandlerResult {
        self.step("finish")
    }
}

/// A TCP server of [`Steps`], with a journal.
pub struct Failing {
    running: socketserver::Running,
    pub journal: Journal,
}

impl Failing {
    pub fn start<S: Construct<Handler = Steps>>() -> Self {
        Self::start_with(|server: S| server)
    }

    /// With a mix-in between the strategy and the journal.
    pub fn start_with<S: Construct<Handler = Steps>, M: BaseServer>(mix_in: impl FnOnce(S) -> M) -> Self {
        let (journal, pen) = journal();
        let server = mix_in(S::construct("127.0.0.1:0".into(), Steps::new(&pen)));
        let running = Journaled::over(server, &pen).spawn().unwrap();
        Failing { running, journal }
    }

    /// Sends one request; returns the client's address and what came until the server closed.
    #[track_caller]
    pub fn request(&self, orders: &str) -> (SocketAddr, String) {
        let mut client = connect(self.running.server_address());
        writeln!(client, "{orders}").unwrap();
        let address = client.local_addr().unwrap();
        (address, String::from_utf8(read_to_end(client)).unwrap())
    }

    /// What happened where the first request ran, from `finish_request` to `close_request`.
    #[track_caller]
    pub fn course(&self) -> Vec<String> {
        let begin = self.journal.wait_for("finish_request");
        let there = || {
            let mut entries = self.journal.entries();
            entries.retain(|entry| (entry.process, entry.thread) == (begin.process, begin.thread));
            entries
                .into_iter()
                .map(|entry| entry.event)
                .skip_while(|event| event != "finish_request")
        };
        // The client may have seen the end of the connection before it was closed.
        wait_until("the request is closed", || {
            there().any(|event| event == "close_request")
        });
        let mut course: Vec<_> = there().take_while(|event| event != "close_request").collect();
        course.push("close_request".to_owned());
        course
    }

    /// A request that fails: reported once, as `report` says; then the server serves another. Returns its
    /// course.
    #[track_caller]
    fn fails_once(self, orders: &str, report: &str) -> Vec<String> {
        let (client, answer) = self.request(orders);
        // The connection was closed: the answer has an end.
        let handled = orders.contains("finish") && !orders.contains("handle");
        assert_eq!(answer, if handled { "done\n" } else { "" });
        let course = self.course();

        assert_eq!(self.request("").1, "done\n", "the server goes on");
        let reports = self.journal.of("handle_error");
        let reports: Vec<_> = reports.iter().map(|entry| entry.event.as_str()).collect();
        let (what, text) = report.split_once(": ").unwrap();
        assert_eq!(reports, [format!("handle_error: {what} for {client}: {text}")]);
        self.stop(1, 1);
        course
            .iter()
            .map(|event| event.split(':').next().unwrap().to_owned())
            .collect()
    }

    #[track_caller]
    pub fn stop(self, served: u64, failed: u64) {
        let report = self.running.stop().unwrap();
        assert_eq!((report.served, report.failed, report.leaked), (served, failed, 0));
    }
}

/// The tests of all behaviours below.
macro_rules! behaviours {
    ($($behaviour:ident),* $(,)?) => {
        /// What becomes of requests that fail, as tests of the servers `S`, whose strategy their names begin with.
        pub fn tests_of<S: Construct<Handler = Steps>>(strategy: &str) -> Vec<(String, fn())> {
            vec![$((format!("{strategy}::{}", stringify!($behaviour)), $behaviour::<S> as fn())),*]
        }
    };
}

behaviours![
    the_steps_run_in_order_and_then_the_request_is_closed,
    an_error_in_handle_is_reported_once_and_the_server_goes_on,
    a_panic_in_handle_is_reported_once_and_the_server_goes_on,
    an_error_in_setup_ends_the_request,
    a_panic_in_setup_ends_the_request,
    an_error_in_finish_is_reported_once,
    a_panic_in_finish_is_reported_once,
    of_two_failures_that_of_handle_is_reported,
    a_handler_that_panics_again_when_it_is_dropped_costs_its_request,
    a_panic_as_the_handler_is_dropped_is_reported_once,
    an_error_that_panics_when_it_is_looked_at_costs_its_request,
    the_error_is_reported_where_the_handler_ran,
    a_panic_in_handle_error_ends_nothing,
    a_panic_in_shutdown_request_or_close_request_ends_nothing,
    a_panic_in_service_actions_ends_nothing,
    a_panic_in_get_request_ends_nothing,
    a_panic_in_capacity_ends_nothing,
    a_panic_in_verify_request_costs_one_request,
    a_panic_in_process_request_costs_one_request,
];

/// `test_*_handled`: setup, handle and finish in this order, then the request is shut down and closed.
pub fn the_steps_run_in_order_and_then_the_request_is_closed<S: Construct<Handler = Steps>>() {
    let server = Failing::start::<S>();
    assert_eq!(server.request("").1, "done\n");
    let course = [
        "finish_request",
        "setup",
        "handle",
        "finish",
        "shutdown_request",
        "close_request",
    ];
    assert_eq!(server.course(), course);
    server.stop(1, 0);
}

/// `test_{sync,threading,forking}_handled`; finish runs all the same.
pub fn an_error_in_handle_is_reported_once_and_the_server_goes_on<S: Construct<Handler = Steps>>() {
    let course = Failing::start::<S>().fails_once("handle error", "handle failed: an error in handle");
    assert_eq!(course, FAILED_HANDLE);
}

/// The counterpart of `test_{sync,threading,forking}_not_handled`: a panic passes nothing by.
pub fn a_panic_in_handle_is_reported_once_and_the_server_goes_on<S: Construct<Handler = Steps>>() {
    let course = Failing::start::<S>().fails_once("handle panic", "handle panicked: a panic in handle");
    assert_eq!(course, FAILED_HANDLE);
}

const FAILED_HANDLE: [&str; 7] = [
    "finish_request",
    "setup",
    "handle",
    "finish",
    "handle_error",
    "shutdown_request",
    "close_request",
];

/// As in Python: neither handle nor finish runs.
pub fn an_error_in_setup_ends_the_request<S: Construct<Handler = Steps>>() {
    let course = Failing::start::<S>().fails_once("setup error", "setup failed: an error in setup");
    assert_eq!(course, FAILED_SETUP);
}

pub fn a_panic_in_setup_ends_the_request<S: Construct<Handler = Steps>>() {
    let course = Failing::start::<S>().fails_once("setup panic", "setup panicked: a panic in setup");
    assert_eq!(course, FAILED_SETUP);
}

const FAILED_SETUP: [&str; 5] = [
    "finish_request",
    "setup",
    "handle_error",
    "shutdown_request",
    "close_request",
];

pub fn an_error_in_finish_is_reported_once<S: Construct<Handler = Steps>>() {
    let course = Failing::start::<S>().fails_once("finish error", "finish failed: an error in finish");
    assert_eq!(course, FAILED_HANDLE);
}

pub fn a_panic_in_finish_is_reported_once<S: Construct<Handler = Steps>>() {
    let course = Failing::start::<S>().fails_once("finish panic", "finish panicked: a panic in finish");
    assert_eq!(course, FAILED_HANDLE);
}

/// Python would report finish's error here, and lose handle's.
pub fn of_two_failures_that_of_handle_is_reported<S: Construct<Handler = Steps>>() {
    for orders in ["handle error, finish error", "handle error, finish panic"] {
        Failing::start::<S>().fails_once(orders, "handle failed: an error in handle");
    }
    Failing::start::<S>().fails_once("handle panic, finish panic", "handle panicked: a panic in handle");
}

/// Thrown while another panic is on its way, it would abort the program.
pub fn a_handler_that_panics_again_when_it_is_dropped_costs_its_request<S: Construct<Handler = Steps>>() {
    for step in ["setup", "handle", "finish"] {
        let report = format!("{step} panicked: a panic in {step}");
        Failing::start::<S>().fails_once(&format!("{step} panic, drop panic"), &report);
    }
}

pub fn a_panic_as_the_handler_is_dropped_is_reported_once<S: Construct<Handler = Steps>>() {
    let server = Failing::start::<S>();
    let (client, answer) = server.request("drop panic");
    assert_eq!(answer, "done\n");
    let expected = format!("handle_error: finish panicked for {client}: a panic in drop");
    assert_eq!(server.journal.wait_for("handle_error").event, expected);
    server.stop(0, 1);
}

/// `source` of an error is the program's code.
pub fn an_error_that_panics_when_it_is_looked_at_costs_its_request<S: Construct<Handler = Steps>>() {
    let course =
        Failing::start::<S>().fails_once("handle bottomless error", "handle failed: an error without a ground");
    assert_eq!(course, FAILED_HANDLE);
}

/// `test_threading_handled`, `test_forking_handled`: on the handler's thread, in the handler's process.
pub fn the_error_is_reported_where_the_handler_ran<S: Construct<Handler = Steps>>() {
    let server = Failing::start::<S>();
    server.request("handle error");
    let place = |event: &str| {
        let entry = server.journal.of(event).remove(0);
        (entry.process, entry.thread)
    };
    assert_eq!(place("handle_error"), place("handle"));
    assert_eq!(place("shutdown_request"), place("handle"));
    let (looping, handling) = (place("process_request"), place("handle"));
    match S::CONCURRENCY {
        Concurrency::None => assert_eq!(handling, looping),
        // Whether the thread that accepted is the one that handles is the strategy's choice.
        Concurrency::Threads => assert_eq!(handling.0, looping.0),
        Concurrency::Processes => assert_ne!(handling.0, looping.0),
    }
    server.stop(0, 1);
}

/// A mix-in whose hooks panic.
#[derive(Debug)]
pub struct Panicking<S> {
    inner: S,
    hook: &'static str,
    left: std::sync::atomic::AtomicUsize,
}

impl<S: BaseServer> Panicking<S> {
    /// Panics in `hook`, the first time.
    fn over(inner: S, hook: &'static str) -> Self {
        let left = 1.into();
        Panicking { inner, hook, left }
    }

    fn hook(&self, hook: &'static str) {
        use std::sync::atomic::Ordering::SeqCst;
        if self.hook == hook && self.left.swap(0, SeqCst) == 1 {
            resume_unwind(Box::new(format!("a panic in {hook}")));
        }
    }
}

impl<S: BaseServer> BaseServer for Panicking<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn get_request(&self) -> std::io::Result<RequestOf<Self>> {
        self.hook("get_request");
        self.inner.get_request()
    }

    fn verify_request(&self, request: &RequestOf<Self>, client_address: &Address) -> bool {
        self.hook("verify_request");
        self.inner.verify_request(request, client_address)
    }

    fn process_request(&self, job: Job<Self::Transport>) {
        self.hook("process_request");
        self.inner.process_request(job);
    }

    fn handle_error(&self, error: &RequestError) {
        self.hook("handle_error");
        self.inner.handle_error(error);
    }

    fn shutdown_request(&self, request: &mut RequestOf<Self>) {
        self.hook("shutdown_request");
        self.inner.shutdown_request(request);
    }

    fn close_request(&self, request: RequestOf<Self>) {
        self.hook("close_request");
        self.inner.close_request(request);
    }

    fn service_actions(&self) {
        self.hook("service_actions");
        self.inner.service_actions();
    }

    fn capacity(&self) -> Capacity {
        self.hook("capacity");
        self.inner.capacity()
    }
}

/// Sends a request to a server one of whose hooks panics, and one after it.
#[track_caller]
fn with_a_panic_in<S: Construct<Handler = Steps>>(hook: &'static str, orders: &str, answer: &str) -> Failing {
    let server = Failing::start_with(|server: S| Panicking::over(server, hook));
    assert_eq!(server.request(orders).1, answer);
    assert_eq!(server.request("").1, "done\n", "the server goes on");
    server
}

pub fn a_panic_in_handle_error_ends_nothing<S: Construct<Handler = Steps>>() {
    with_a_panic_in::<S>("handle_error", "handle error", "").stop(1, 1);
}

pub fn a_panic_in_shutdown_request_or_close_request_ends_nothing<S: Construct<Handler = Steps>>() {
    with_a_panic_in::<S>("shutdown_request", "", "done\n").stop(2, 0);
    with_a_panic_in::<S>("close_request", "", "done\n").stop(2, 0);
}

pub fn a_panic_in_service_actions_ends_nothing<S: Construct<Handler = Steps>>() {
    with_a_panic_in::<S>("service_actions", "", "done\n").stop(2, 0);
}

/// gh-99777 and others: no hook that fails ends the loop.
pub fn a_panic_in_get_request_ends_nothing<S: Construct<Handler = Steps>>() {
    with_a_panic_in::<S>("get_request", "", "done\n").stop(2, 0);
}

pub fn a_panic_in_capacity_ends_nothing<S: Construct<Handler = Steps>>() {
    with_a_panic_in::<S>("capacity", "", "done\n").stop(2, 0);
}

/// A panic in `hook`, on the accept loop, before the handler had the request: the client sees an end or,
/// because what it sent was not read, a reset.
#[track_caller]
fn with_a_request_lost_in<S: Construct<Handler = Steps>>(hook: &'static str) {
    let server = Failing::start_with(|server: S| Panicking::over(server, hook));
    let mut client = connect(server.running.server_address());
    let address = client.local_addr().unwrap();
    assert_eq!(std::io::Read::read(&mut client, &mut [0]).unwrap(), 0);
    assert_eq!(server.request("").1, "done\n", "the server goes on");
    // Another thread may have served the second before this one has reported the first.
    wait_until("it is reported", || !server.journal.of("handle_error").is_empty());
    let reports = server.journal.of("handle_error");
    let expected = format!("handle_error: {hook} panicked for {address}: a panic in {hook}");
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].event, expected);
    server.stop(1, 1);
}

pub fn a_panic_in_verify_request_costs_one_request<S: Construct<Handler = Steps>>() {
    with_a_request_lost_in::<S>("verify_request");
}

pub fn a_panic_in_process_request_costs_one_request<S: Construct<Handler = Steps>>() {
    with_a_request_lost_in::<S>("process_request");
}

//! Errors and panics in handlers under the strategies that run in threads: CPython's
//! `test_{sync,threading}_{handled,not_handled}` and more; the same for forked children is in `forking.rs`.

mod support;

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use socketserver::prelude::*;
use socketserver::{Construct, Handled, MemoryDatagrams, Phase, run_handler};
use support::failures::{self, Steps};
use support::journal::{Journaled, journal};
use support::{connect, inet, logged, read_to_end, wait_until};

tests![
    also: [
        failures::tests_of::<TcpServer<Steps>>("sync"),
        failures::tests_of::<ThreadingTcpServer<Steps>>("threading"),
        failures::tests_of::<ThreadPoolTcpServer<Steps>>("pool"),
    ].concat();
    handle_request_returns_as_usual_when_the_handler_fails,
    handle_request_returns_as_usual_when_the_handler_panics,
    a_closure_that_never_returns_is_a_handler,
    what_was_written_is_sent_although_finish_fails,
    by_default_a_failure_is_logged_in_one_line,
    by_default_a_client_that_left_is_logged_below_a_fault,
];

// test_sync_handled: handle_request returns normally.
fn handle_request_returns_as_usual_when_the_handler_fails() {
    one_request_fails("handle error\n", "handle failed for");
}

// test_sync_not_handled: here a panic does not leave handle_request, and the request is closed as well.
fn handle_request_returns_as_usual_when_the_handler_panics() {
    one_request_fails("handle panic\n", "handle panicked for");
}

fn a_closure_that_never_returns_is_a_handler() {
    let running = TcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| todo!())
        .spawn()
        .unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"");
    assert_eq!(running.stop().unwrap().failed, 1);
}

/// Writes as `handle`, and fails or panics as `finish`.
#[derive(Clone)]
struct FinishFails {
    panics: bool,
}

impl FinishFails {
    fn finish(&self) -> HandlerResult {
        assert!(!self.panics, "cannot clean up");
        Err("cannot clean up".into())
    }
}

impl BaseRequestHandler<StreamRequest<MemoryStream>> for FinishFails {
    fn handle(&mut self, request: &mut StreamRequest<MemoryStream>) -> HandlerResult {
        request.set_wbufsize(1024);
        Ok(request.write_all(b"answer")?)
    }

    fn finish(&mut self, _: &mut StreamRequest<MemoryStream>) -> HandlerResult {
        FinishFails::finish(self)
    }
}

impl BaseRequestHandler<DatagramRequest> for FinishFails {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        Ok(request.wfile().write_all(b"answer")?)
    }

    fn finish(&mut self, _: &mut DatagramRequest) -> HandlerResult {
        FinishFails::finish(self)
    }
}

fn what_was_written_is_sent_although_finish_fails() {
    for panics in [false, true] {
        let handler = FinishFails { panics };
        let mut request = StreamRequest::new(MemoryStream::new(""), "a client");
        assert_cannot_clean_up(|| run_handler(&handler, &mut request));
        assert_eq!(request.get_ref().written(), b"answer");

        let socket = Arc::new(MemoryDatagrams::default());
        let mut request = DatagramRequest::new(Vec::new(), 0, "a client", socket.clone());
        assert_cannot_clean_up(|| run_handler(&handler, &mut request));
        assert_eq!(socket.sent(), [("a client".into(), b"answer".to_vec())]);
    }
}

#[track_caller]
fn assert_cannot_clean_up(run: impl FnOnce() -> HandlerResult) {
    let text = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.unwrap_err().to_string(),
        Err(payload) => (*payload.downcast_ref::<&str>().unwrap()).to_owned(),
    };
    assert_eq!(text, "cannot clean up");
}

#[track_caller]
fn one_request_fails(orders: &str, report: &str) {
    let (journal, pen) = journal();
    let server = Journaled::over(TcpServer::construct("127.0.0.1:0".into(), Steps::new(&pen)), &pen);
    let server = Arc::new(server.bind().unwrap());
    let mut client = connect(&server.server_address());
    client.write_all(orders.as_bytes()).unwrap();
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    assert_eq!(journal.of("handle").len(), 2, "handle, handle_error");
    assert_eq!(journal.count(&format!("handle_error: {report}")), 1);
    assert_eq!(
        (journal.count("shutdown_request"), journal.count("close_request")),
        (1, 1)
    );
    assert_eq!(read_to_end(client), b"");
    assert_eq!(server.close().unwrap().failed, 1);
}

// gh-99777: one line, in one write, with phase, peer and error.
fn by_default_a_failure_is_logged_in_one_line() {
    let running = TcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| Err::<(), _>("out of cheese"))
        .spawn()
        .unwrap();
    let client = connect(running.server_address());
    let address = client.local_addr().unwrap();
    assert_eq!(read_to_end(client), b"");
    assert_eq!(running.stop().unwrap().failed, 1);
    let lines: Vec<_> = logged().into_iter().filter(|line| line.contains("cheese")).collect();
    assert_eq!(lines, [format!("ERROR handle failed for {address}: out of cheese")]);
}

// gh-99777: disconnect-class errors at a lower level.
fn by_default_a_client_that_left_is_logged_below_a_fault() {
    let running = TcpServer::new("127.0.0.1:0", |request: &mut TcpRequest| -> HandlerResult {
        let left = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(
            request.client_address().ip(),
            request.server().server_address().and_then(Address::ip)
        );
        Err(left.into())
    })
    .spawn()
    .unwrap();
    let client = connect(running.server_address());
    assert!(inet(running.server_address()).port() != 0);
    assert_eq!(read_to_end(client), b"");
    assert_eq!(running.stop().unwrap().failed, 1);
    wait_until("the failure is logged", || !logged().is_empty());
    let lines: Vec<_> = logged()
        .into_iter()
        .filter(|line| line.contains(&Phase::Handle.to_string()))
        .collect();
    assert!(
        lines.len() == 1 && lines[0].starts_with("INFO handle failed for 127.0.0.1:"),
        "{lines:?}"
    );
}

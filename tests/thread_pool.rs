//! How many requests a pool runs, queues and leaves to the kernel.

mod support;

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use socketserver::Handled;
use socketserver::prelude::*;
use support::journal::{Journal, Journaled, Pen, journal};
use support::rest::without_rest;
use support::talk::{assert_echoes, finish};
use support::{EchoLine, connect, exchange_line, read_to_end, threads, wait_until, wait_until_draining};

tests![
    as_many_requests_run_at_once_as_there_are_workers,
    a_full_pool_leaves_clients_in_the_kernels_queue,
    without_a_queue_only_what_a_worker_has_is_accepted,
    what_waited_is_served_in_the_order_in_which_it_came,
    a_full_pool_notices_a_shutdown_at_once,
    a_pool_with_fewer_places_than_workers_ends_at_once,
    a_full_pool_serves_what_is_queued_before_the_end,
    a_full_pool_loses_nothing_of_its_queue_to_a_failing_handler,
    a_full_pool_keeps_handle_request_to_its_timeout,
    a_queue_of_any_size_can_be_asked_for,
    by_default_there_are_four_more_workers_than_processors,
    the_workers_are_gone_at_the_end,
];

const ANY_PORT: &str = "127.0.0.1:0";

/// Notes when it begins, and echoes until the client's end.
fn echo(pen: Pen) -> impl BaseRequestHandler<TcpRequest> {
    move |request: &mut TcpRequest| -> io::Result<()> {
        pen.note(format_args!("begun {}", request.client_address()));
        io::copy(&mut request.get_ref().try_clone()?, request).map(drop)
    }
}

/// A pool of [`echo`], with a journal.
fn pool(
    workers: usize,
    queue_size: usize,
) -> (
    Journaled<ThreadPoolTcpServer<impl BaseRequestHandler<TcpRequest>>>,
    Journal,
) {
    let (journal, pen) = journal();
    let server = ThreadPoolTcpServer::new(ANY_PORT, echo(pen.clone()))
        .workers(workers)
        .queue_size(queue_size);
    (Journaled::over(server, &pen), journal)
}

/// Nothing is to happen: this only gives it the time to.
fn leave_time() {
    thread::sleep(Duration::from_millis(100));
}

fn as_many_requests_run_at_once_as_there_are_workers() {
    let (server, journal) = pool(3, 10);
    let running = server.spawn().unwrap();
    let clients: Vec<_> = (0..5).map(|_| connect(running.server_address())).collect();
    clients[..3].iter().for_each(assert_echoes);
    leave_time();
    assert_eq!(journal.count("begun"), 3);
    for client in clients {
        assert_echoes(&client);
        finish(&client);
    }
    assert_eq!(running.stop().unwrap().served, 5);
}

/// Fills a pool of 1 worker and room for 1 more with four clients, of whom two are left to the kernel.
#[track_caller]
fn full_pool() -> (socketserver::Running, Journal, Vec<TcpStream>) {
    let (server, journal) = pool(1, 1);
    let running = server.spawn().unwrap();
    let clients: Vec<_> = (0..4).map(|_| connect(running.server_address())).collect();
    assert_echoes(&clients[0]);
    wait_until("one waits in the queue", || journal.count("process_request") == 2);
    (running, journal, clients)
}

fn a_full_pool_leaves_clients_in_the_kernels_queue() {
    let (running, journal, clients) = full_pool();
    leave_time();
    assert_eq!(journal.count("verify_request"), 2, "the others are not accepted");
    for client in &clients {
        assert_echoes(client);
        finish(client);
    }
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (4, 0), "none is dropped");
}

fn without_a_queue_only_what_a_worker_has_is_accepted() {
    let (server, journal) = pool(2, 0);
    let running = server.spawn().unwrap();
    let clients: Vec<_> = (0..4).map(|_| connect(running.server_address())).collect();
    clients[..2].iter().for_each(assert_echoes);
    leave_time();
    assert_eq!(journal.count("verify_request"), 2);
    for client in &clients {
        assert_echoes(client);
        finish(client);
    }
    assert_eq!(running.stop().unwrap().served, 4);
}

fn what_waited_is_served_in_the_order_in_which_it_came() {
    let (server, journal) = pool(1, 3);
    let running = server.spawn().unwrap();
    let clients: Vec<_> = (0..10).map(|_| connect(running.server_address())).collect();
    let came: Vec<_> = clients
        .iter()
        .map(|client| format!("begun {}", client.local_addr().unwrap()))
        .collect();
    for client in &clients {
        assert_echoes(client);
        finish(client);
    }
    running.stop().unwrap();
    let begun: Vec<_> = journal.of("begun").into_iter().map(|entry| entry.event).collect();
    assert_eq!(begun, came);
}

fn a_full_pool_notices_a_shutdown_at_once() {
    let (running, journal, clients) = full_pool();
    let handle = running.shutdown_handle();
    handle.shutdown();
    wait_until_draining(&handle);
    assert_eq!(journal.count("begun"), 1, "its worker is still busy");
    drop(clients);
    running.join().unwrap();
}

// All but one of its workers wait for a place, and one that ends tells the next. In one of twelve times that was
// heard by another, and they were told a second later.
fn a_pool_with_fewer_places_than_workers_ends_at_once() {
    for _ in 0..50 {
        let server = ThreadPoolTcpServer::new(ANY_PORT, EchoLine).workers(8);
        let running = server.max_connections(1).spawn().unwrap();
        let client = connect(running.server_address());
        assert_eq!(exchange_line(client, "hello\n"), "hello\n");
        without_rest(|| running.stop().unwrap());
    }
}

fn a_full_pool_serves_what_is_queued_before_the_end() {
    let (running, _journal, clients) = full_pool();
    let handle = running.shutdown_handle();
    handle.shutdown();
    wait_until_draining(&handle);
    for client in &clients {
        assert_echoes(client);
        finish(client);
    }
    let report = running.join().unwrap();
    assert_eq!((report.served, report.failed, report.forced), (4, 0, 0));
}

fn a_full_pool_loses_nothing_of_its_queue_to_a_failing_handler() {
    let handler = |request: &mut TcpRequest| -> HandlerResult {
        let mut order = [0];
        io::Read::read_exact(request, &mut order)?;
        match &order {
            b"p" => std::panic::resume_unwind(Box::new("told to panic")),
            b"f" => Err("told to fail".into()),
            _ => Ok(request.write_all(b"done")?),
        }
    };
    let server = ThreadPoolTcpServer::new(ANY_PORT, handler).workers(1).queue_size(1);
    let running = server.spawn().unwrap();
    let clients: Vec<_> = (0..9).map(|_| connect(running.server_address())).collect();
    for (number, mut client) in clients.into_iter().enumerate() {
        let (order, answer) = [("p", ""), ("f", ""), ("-", "done")][number % 3];
        client.write_all(order.as_bytes()).unwrap();
        assert_eq!(read_to_end(client), answer.as_bytes());
    }
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (3, 6));
}

fn a_full_pool_keeps_handle_request_to_its_timeout() {
    let (server, _journal) = pool(1, 0);
    let server = Arc::new(server.timeout(Duration::from_millis(1)).bind().unwrap());
    let clients = [connect(&server.server_address()), connect(&server.server_address())];
    wait_until("it is there", || server.handle_request().unwrap() == Handled::Processed);
    assert_echoes(&clients[0]);
    // The other is there, too, and there is no place for it.
    assert_eq!(server.handle_request().unwrap(), Handled::TimedOut);
    finish(&clients[0]);
    wait_until("there is a place", || {
        server.handle_request().unwrap() == Handled::Processed
    });
    finish(&clients[1]);
    assert_eq!(server.close().unwrap().served, 2);
}

fn a_queue_of_any_size_can_be_asked_for() {
    for size in [usize::MAX / 16, usize::MAX] {
        let (server, _journal) = pool(1, size);
        let running = server.spawn().unwrap();
        let client = connect(running.server_address());
        assert_echoes(&client);
        finish(&client);
        assert_eq!(running.stop().unwrap().served, 1);
    }
}

// As ThreadPoolExecutor (CPython), and a queue of 64.
fn by_default_there_are_four_more_workers_than_processors() {
    let processors: usize = thread::available_parallelism().unwrap().into();
    let server = ThreadPoolTcpServer::new(ANY_PORT, EchoLine);
    assert_eq!(server.capacity().max(), (processors + 4).min(32));
}

fn the_workers_are_gone_at_the_end() {
    let before = threads();
    let (server, _journal) = pool(5, 0);
    let running = server.spawn().unwrap();
    let client = connect(running.server_address());
    assert_echoes(&client);
    finish(&client);
    running.stop().unwrap();
    // Joined, a thread is listed a moment longer.
    wait_until("no thread is left", || threads() == before);
}

//! One connection to a server with a handler of the test's.

use std::net::TcpStream;

use socketserver::prelude::*;

use super::journal::{Journaled, journal};
use super::{connect, read_to_end};

/// Serves one connection with `handler`; returns what the client got and the failures.
#[track_caller]
pub fn serve_one(
    handler: impl BaseRequestHandler<TcpRequest>,
    client: impl FnOnce(&mut TcpStream),
) -> (Vec<u8>, Vec<String>) {
    let (journal, pen) = journal();
    let server = Journaled::over(TcpServer::new("127.0.0.1:0", handler), &pen);
    let running = server.spawn().unwrap();
    let mut stream = connect(running.server_address());
    client(&mut stream);
    let answer = read_to_end(stream);
    running.stop().unwrap();
    let failures = journal
        .of("handle_error")
        .into_iter()
        .map(|entry| entry.event)
        .collect();
    (answer, failures)
}

/// As [`serve_one`], where nothing may fail.
#[track_caller]
pub fn serve_well(handler: impl BaseRequestHandler<TcpRequest>, client: impl FnOnce(&mut TcpStream)) -> Vec<u8> {
    let (answer, failures) = serve_one(handler, client);
    assert_eq!(failures, [""; 0]);
    answer
}

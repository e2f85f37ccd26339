//! Conversations: handlers that go on until their client ends, and clients in the middle of one.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use socketserver::prelude::*;

use super::{CEILING, Lines, connect, exchange_line, read_to_end, uninterrupted};

/// A handler without state.
pub type Handler = fn(&mut TcpRequest) -> io::Result<()>;

/// Echoes lines until the client ends.
pub const ECHO_LINES: Handler = |request| {
    let mut line = String::new();
    while request.read_line(&mut line)? > 0 {
        request.write_all(line.as_bytes())?;
        line.clear();
    }
    Ok(())
};

/// Lets a client know that it has been accepted.
pub fn greet(request: &mut TcpRequest) -> HandlerResult {
    request.write_all(b"welcome\n")?;
    Lines.handle(request)
}

/// Tells the process that serves, then waits for the client's end.
pub const TELL_PROCESS: Handler = |request| {
    writeln!(request, "{}", std::process::id())?;
    request.read_to_end(&mut Vec::new()).map(drop)
};

/// A client whose request is in progress: it has been answered and goes on.
#[track_caller]
pub fn in_progress(server: &Address) -> TcpStream {
    let client = connect(server);
    assert_echoes(&client);
    client
}

#[track_caller]
pub fn assert_echoes(client: &TcpStream) {
    assert_eq!(exchange_line(client, "hello\n"), "hello\n");
}

/// What a client of [`TELL_PROCESS`] is told.
#[track_caller]
pub fn told_process(client: &TcpStream) -> u32 {
    exchange_line(client, "").trim().parse().unwrap()
}

/// Ends a client's request, and waits until the server has closed it.
#[track_caller]
pub fn finish(client: &TcpStream) {
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(client), b"");
}

/// Nothing comes from the server for a while.
#[track_caller]
pub fn assert_waits(client: &TcpStream) {
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let error = uninterrupted(|| (&*client).read(&mut [0])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    client.set_read_timeout(Some(CEILING)).unwrap();
}

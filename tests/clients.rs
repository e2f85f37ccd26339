//! Clients that do not behave, and what those that do get.

mod support;

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::thread;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use socketserver::prelude::*;
use socketserver::{Cause, Phase, Tcp};
use support::journal::{Pen, journal};
use support::process::{Process, echo};
use support::talk::assert_waits;
use support::unix::{connect_unix, unix_datagram_client, unnamed_datagram_client};
use support::{
    CEILING, EchoLine, connect, connect_to, exchange_line, logged, read_to_end, reset, temp_path, udp_client,
    wait_until,
};

tests![
    ten_thousand_clients_that_reset_at_once_do_not_end_a_sync_server,
    a_thousand_clients_that_reset_at_once_do_not_end_a_threading_server,
    a_thousand_clients_that_reset_at_once_do_not_end_a_pool,
    clients_that_reset_at_once_do_not_end_a_forking_server,
    a_thousand_resets_before_the_server_accepts_cost_nothing,
    a_silent_client_does_not_keep_a_hundred_others_waiting_under_threading,
    a_silent_client_does_not_keep_a_hundred_others_waiting_in_a_pool,
    a_silent_client_does_not_keep_a_hundred_others_waiting_under_forking,
    a_silent_client_of_a_sync_server_keeps_the_others_in_the_queue,
    a_client_that_leaves_in_the_middle_of_a_message_is_a_disconnect,
    a_client_that_resets_in_the_middle_is_a_disconnect,
    a_client_that_does_not_read_the_answer_is_a_disconnect,
    a_client_that_closes_its_sending_side_still_gets_the_answer,
    disconnects_are_logged_lower_than_faults,
    client_address_is_the_clients_own,
    client_address_of_a_datagram_is_the_senders_own,
    client_address_of_a_unix_client_is_its_path_if_it_has_one,
    an_unnamed_unix_datagram_client_cannot_be_answered_and_others_can,
    accepted_sockets_are_blocking,
    accepted_sockets_do_not_survive_exec,
    a_refused_connection_is_closed,
    a_refused_connection_is_shut_down_and_closed_once,
    a_refused_datagram_is_dropped,
    some_may_be_refused_and_others_served,
    a_handler_that_leaves_at_once_ends_the_connection_for_the_client,
    a_hundred_clients_at_once_are_all_served,
];

const ANY_PORT: &str = "127.0.0.1:0";

// ----- Resets ------------------------------------------------------------------------------------

/// Each client resets as soon as it is connected, each second one after some bytes; the server answers
/// the next one, and has counted each that it accepted once.
#[track_caller]
fn assert_survives_resets(server: impl BaseServer<Transport = Tcp>, clients: u64) {
    let running = server.spawn().unwrap();
    for number in 0..clients {
        let mut client = connect(running.server_address());
        if number % 2 == 1 {
            client.write_all(b"half a li").unwrap();
        }
        reset(client);
    }
    assert_eq!(exchange_line(connect(running.server_address()), "hello\n"), "hello\n");
    let report = running.stop().unwrap();
    assert!(report.served >= 1, "{report}");
    assert!(report.served + report.failed <= clients + 1, "{report}");
    assert_eq!((report.forced, report.leaked), (0, 0), "{report}");
    let faults: Vec<_> = logged().into_iter().filter(|line| line.starts_with("ERROR")).collect();
    assert_eq!(faults, [""; 0], "a reset is no fault");
}

fn ten_thousand_clients_that_reset_at_once_do_not_end_a_sync_server() {
    assert_survives_resets(TcpServer::new(ANY_PORT, EchoLine), 10_000);
}

fn a_thousand_clients_that_reset_at_once_do_not_end_a_threading_server() {
    assert_survives_resets(ThreadingTcpServer::new(ANY_PORT, EchoLine), 1_000);
}

fn a_thousand_clients_that_reset_at_once_do_not_end_a_pool() {
    assert_survives_resets(ThreadPoolTcpServer::new(ANY_PORT, EchoLine).workers(4), 1_000);
}

/// In a process of its own: children forked here would have the clients' sockets, and no reset would be sent.
fn clients_that_reset_at_once_do_not_end_a_forking_server() {
    let server = Process::start(&mut echo("tcp", "forking", ANY_PORT));
    for number in 0..200 {
        let mut client = connect_to(server.address());
        if number % 2 == 1 {
            client.write_all(b"half a li").unwrap();
        }
        reset(client);
    }
    let client = connect_to(server.address());
    assert_eq!(exchange_line(&client, "hello\n"), "hello\n");
    drop(client);
    server.signal(Signal::SIGTERM);
    let ended = server.end();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.output.ends_with(" forced=0 leaked=0\n"), "{ended:?}");
    assert!(!ended.errors.contains("ERROR"), "a reset is no fault: {ended:?}");
}

fn a_thousand_resets_before_the_server_accepts_cost_nothing() {
    let bound = ThreadingTcpServer::new(ANY_PORT, EchoLine).bind().unwrap();
    for _ in 0..1_000 {
        reset(connect(&bound.server_address()));
    }
    let running = bound.spawn().unwrap();
    assert_eq!(exchange_line(connect(running.server_address()), "hello\n"), "hello\n");
    let report = running.stop().unwrap();
    assert!(report.served + report.failed <= 1_001, "{report}");
}

// ----- Silence -----------------------------------------------------------------------------------

#[track_caller]
fn assert_silence_keeps_nobody_waiting(server: impl BaseServer<Transport = Tcp>) {
    let running = server.spawn().unwrap();
    let silent = connect(running.server_address());
    for number in 0..100 {
        let line = format!("client {number}\n");
        assert_eq!(exchange_line(connect(running.server_address()), &line), line);
    }
    assert_eq!(exchange_line(&silent, "at last\n"), "at last\n");
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (101, 0));
}

fn a_silent_client_does_not_keep_a_hundred_others_waiting_under_threading() {
    assert_silence_keeps_nobody_waiting(ThreadingTcpServer::new(ANY_PORT, EchoLine));
}

fn a_silent_client_does_not_keep_a_hundred_others_waiting_in_a_pool() {
    assert_silence_keeps_nobody_waiting(ThreadPoolTcpServer::new(ANY_PORT, EchoLine).workers(2));
}

fn a_silent_client_does_not_keep_a_hundred_others_waiting_under_forking() {
    assert_silence_keeps_nobody_waiting(ForkingTcpServer::new(ANY_PORT, EchoLine));
}

fn a_silent_client_of_a_sync_server_keeps_the_others_in_the_queue() {
    let running = TcpServer::new(ANY_PORT, EchoLine).spawn().unwrap();
    let silent = connect(running.server_address());
    let others: Vec<_> = (0..10).map(|_| connect(running.server_address())).collect();
    for mut other in &others {
        other.write_all(b"hello\n").unwrap();
    }
    wait_until("the silent one is accepted", || running.handle().stats().running == 1);
    others.iter().for_each(assert_waits);
    assert_eq!(running.handle().stats().accepted, 1);
    drop(silent);
    for other in &others {
        assert_eq!(exchange_line(other, ""), "hello\n");
    }
    assert_eq!(running.stop().unwrap().served, 11);
}

// ----- Disconnects -------------------------------------------------------------------------------

/// Notes what `handle_error` gets, and passes it on.
struct Noting<S>(S, Pen);

impl<S: BaseServer> BaseServer for Noting<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn handle_error(&self, error: &RequestError) {
        let kind = error.io_error().map(io::Error::kind);
        let disconnect = error.is_disconnect();
        assert!(matches!(error.cause(), Cause::Error(_)), "{error:?}");
        assert_eq!(error.phase(), Phase::Handle);
        self.1.note(format_args!("disconnect={disconnect} {kind:?}"));
        self.0.handle_error(error);
    }

    fn shutdown_request(&self, request: &mut RequestOf<Self>) {
        self.1.note("shutdown_request");
        self.0.shutdown_request(request);
    }

    fn close_request(&self, request: RequestOf<Self>) {
        self.1.note("close_request");
        self.0.close_request(request);
    }
}

/// Reads a message of 100 bytes, says so.
fn read_a_message(request: &mut TcpRequest) -> io::Result<()> {
    let mut message = [0; 100];
    request.read_exact(&mut message)?;
    request.write_all(b"thank you\n")
}

/// What `handle_error` got about a client that does as `client` says.
#[track_caller]
fn error_about<H, C>(handler: H, client: C) -> String
where
    H: BaseRequestHandler<TcpRequest>,
    C: FnOnce(TcpStream),
{
    let (journal, pen) = journal();
    let running = Noting(ThreadingTcpServer::new(ANY_PORT, handler), pen).spawn().unwrap();
    client(connect(running.server_address()));
    journal.wait_for("close_request");
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (0, 1));
    let errors = journal.of("disconnect=");
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors[0].event.clone()
}

fn a_client_that_leaves_in_the_middle_of_a_message_is_a_disconnect() {
    let error = error_about(read_a_message, |mut client| client.write_all(b"half").unwrap());
    assert_eq!(error, "disconnect=true Some(UnexpectedEof)");
}

fn a_client_that_resets_in_the_middle_is_a_disconnect() {
    let error = error_about(read_a_message, |mut client| {
        client.write_all(b"half").unwrap();
        reset(client);
    });
    assert_eq!(error, "disconnect=true Some(ConnectionReset)");
}

fn a_client_that_does_not_read_the_answer_is_a_disconnect() {
    let endless = |request: &mut TcpRequest| -> io::Result<()> {
        loop {
            request.write_all(&[0; 16 * 1024])?;
        }
    };
    let error = error_about(endless, |mut client| {
        client.read_exact(&mut [0; 100]).unwrap();
        drop(client);
    });
    assert!(
        [
            "disconnect=true Some(ConnectionReset)",
            "disconnect=true Some(BrokenPipe)"
        ]
        .contains(&&*error),
        "{error}"
    );
}

fn a_client_that_closes_its_sending_side_still_gets_the_answer() {
    let count = |request: &mut TcpRequest| -> io::Result<()> {
        let mut all = Vec::new();
        request.read_to_end(&mut all)?;
        writeln!(request, "{} bytes", all.len())
    };
    let running = ThreadingTcpServer::new(ANY_PORT, count).spawn().unwrap();
    let mut client = connect(running.server_address());
    client.write_all(&vec![b'x'; 100_000]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(client), b"100000 bytes\n");
}

fn disconnects_are_logged_lower_than_faults() {
    let handler = |request: &mut TcpRequest| -> HandlerResult {
        let mut byte = [0];
        request.read_exact(&mut byte)?;
        Err("a fault".into())
    };
    let running = ThreadingTcpServer::new(ANY_PORT, handler).spawn().unwrap();
    let gone = connect(running.server_address());
    let gone_from = gone.local_addr().unwrap();
    drop(gone);
    wait_until("the disconnect is logged", || logged().len() == 1);
    let mut client = connect(running.server_address());
    let client_from = client.local_addr().unwrap();
    client.write_all(b"x").unwrap();
    assert_eq!(read_to_end(client), b"");
    running.stop().unwrap();
    assert_eq!(
        logged(),
        [
            format!("INFO handle failed for {gone_from}: failed to fill whole buffer"),
            format!("ERROR handle failed for {client_from}: a fault"),
        ]
    );
}

// ----- Addresses ---------------------------------------------------------------------------------

/// Answers with the client's address, in the way of each kind of request.
#[derive(Clone)]
struct WhoAmI;

impl<S: Stream> BaseRequestHandler<StreamRequest<S>> for WhoAmI {
    fn handle(&mut self, request: &mut StreamRequest<S>) -> HandlerResult {
        let address = request.client_address().to_string();
        Ok(request.write_all(address.as_bytes())?)
    }
}

impl BaseRequestHandler<DatagramRequest> for WhoAmI {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        Ok(request.reply(request.client_address().to_string().as_bytes())?)
    }
}

fn client_address_is_the_clients_own() {
    let running = ThreadingTcpServer::new(ANY_PORT, WhoAmI).spawn().unwrap();
    let clients: Vec<_> = (0..10).map(|_| connect(running.server_address())).collect();
    for client in clients {
        let own = client.local_addr().unwrap().to_string();
        assert_eq!(read_to_end(client), own.as_bytes());
    }
}

#[track_caller]
fn assert_received(count: io::Result<usize>, buffer: &[u8], expected: impl fmt::Display) {
    assert_eq!(
        buffer[..count.unwrap()].escape_ascii().to_string(),
        expected.to_string()
    );
}

fn client_address_of_a_datagram_is_the_senders_own() {
    let running = ThreadingUdpServer::new(ANY_PORT, WhoAmI).spawn().unwrap();
    let clients: Vec<_> = (0..10).map(|_| udp_client(running.server_address())).collect();
    for client in &clients {
        client.send(b"").unwrap();
    }
    for client in &clients {
        let mut buffer = [0; 100];
        assert_received(client.recv(&mut buffer), &buffer, client.local_addr().unwrap());
    }
}

fn client_address_of_a_unix_client_is_its_path_if_it_has_one() {
    let place = temp_path("socket");
    let streams = ThreadingUnixStreamServer::new(&place.path, WhoAmI).spawn().unwrap();
    assert_eq!(read_to_end(connect_unix(streams.server_address())), b"(unnamed)");
    let own = temp_path("client");
    let client = connect_from(&own.path, &place.path);
    assert_eq!(read_to_end(client), own.path.as_os_str().as_encoded_bytes());
    streams.stop().unwrap();

    let datagrams = ThreadingUnixDatagramServer::new(&place.path, WhoAmI).spawn().unwrap();
    let (client, own) = unix_datagram_client(datagrams.server_address());
    client.send(b"").unwrap();
    let mut buffer = [0; 200];
    assert_received(client.recv(&mut buffer), &buffer, own.path.display());
}

/// A Unix client with a path of its own.
fn connect_from(own: &std::path::Path, server: &std::path::Path) -> UnixStream {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, socket};
    use std::os::fd::AsRawFd;
    let client = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(client.as_raw_fd(), &UnixAddr::new(own).unwrap()).unwrap();
    connect(client.as_raw_fd(), &UnixAddr::new(server).unwrap()).unwrap();
    let client = UnixStream::from(client);
    client.set_read_timeout(Some(CEILING)).unwrap();
    client
}

fn an_unnamed_unix_datagram_client_cannot_be_answered_and_others_can() {
    let place = temp_path("socket");
    let running = ThreadingUnixDatagramServer::new(&place.path, WhoAmI).spawn().unwrap();
    unnamed_datagram_client(running.server_address()).send(b"").unwrap();
    let (client, own) = unix_datagram_client(running.server_address());
    client.send(b"").unwrap();
    let mut buffer = [0; 200];
    assert_received(client.recv(&mut buffer), &buffer, own.path.display());
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (1, 1));
    let text = "ERROR handle failed for (unnamed): the peer has no address: a Unix datagram client must bind a path \
                to get a reply";
    assert_eq!(logged(), [text]);
}

// ----- Accepted sockets --------------------------------------------------------------------------

/// Tells the flags of the accepted socket.
#[derive(Clone)]
struct Flags(fn(std::os::fd::BorrowedFd<'_>) -> bool);

impl<S: Stream> BaseRequestHandler<StreamRequest<S>> for Flags {
    fn handle(&mut self, request: &mut StreamRequest<S>) -> HandlerResult {
        let answer = (self.0)(request.get_ref().fileno().unwrap());
        Ok(writeln!(request, "{answer}")?)
    }
}

#[track_caller]
fn assert_of_each_accepted_socket(flag: fn(std::os::fd::BorrowedFd<'_>) -> bool) {
    let handler = Flags(flag);
    for running in [
        TcpServer::new(ANY_PORT, handler.clone()).spawn().unwrap(),
        ThreadingTcpServer::new(ANY_PORT, handler.clone()).spawn().unwrap(),
        ThreadPoolTcpServer::new(ANY_PORT, handler.clone()).spawn().unwrap(),
        ForkingTcpServer::new(ANY_PORT, handler.clone()).spawn().unwrap(),
    ] {
        assert_eq!(read_to_end(connect(running.server_address())), b"true\n");
    }
    let place = temp_path("socket");
    let running = ThreadingUnixStreamServer::new(&place.path, handler).spawn().unwrap();
    assert_eq!(read_to_end(connect_unix(running.server_address())), b"true\n");
}

/// Although the listening socket is not.
fn accepted_sockets_are_blocking() {
    assert_of_each_accepted_socket(|socket| {
        let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL).unwrap());
        !flags.contains(OFlag::O_NONBLOCK)
    });
}

/// A program that a handler starts must not hold connections open.
fn accepted_sockets_do_not_survive_exec() {
    assert_of_each_accepted_socket(|socket| fcntl(socket, FcntlArg::F_GETFD).unwrap() & nix::libc::FD_CLOEXEC != 0);
}

// ----- Refusals ----------------------------------------------------------------------------------

/// Serves only those whose address passes.
struct Only<S>(S, fn(&Address) -> bool);

impl<S: BaseServer> BaseServer for Only<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn verify_request(&self, request: &RequestOf<Self>, client_address: &Address) -> bool {
        (self.1)(client_address) && self.0.verify_request(request, client_address)
    }
}

const NOBODY: fn(&Address) -> bool = |_| false;

fn a_refused_connection_is_closed() {
    fn check(server: impl BaseServer<Transport = Tcp>) {
        let running = Only(server, NOBODY).spawn().unwrap();
        for _ in 0..10 {
            assert_eq!(read_to_end(connect(running.server_address())), b"");
        }
        let report = running.stop().unwrap();
        assert_eq!((report.served, report.failed), (0, 0));
    }
    check(TcpServer::new(ANY_PORT, EchoLine));
    check(ThreadingTcpServer::new(ANY_PORT, EchoLine));
    check(ThreadPoolTcpServer::new(ANY_PORT, EchoLine));
    check(ForkingTcpServer::new(ANY_PORT, EchoLine));
}

fn a_refused_connection_is_shut_down_and_closed_once() {
    let (journal, pen) = journal();
    let server = Noting(Only(TcpServer::new(ANY_PORT, EchoLine), NOBODY).threading(), pen);
    let running = server.spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"");
    running.stop().unwrap();
    assert_eq!(journal.events(), ["shutdown_request", "close_request"]);
}

fn a_refused_datagram_is_dropped() {
    let (journal, pen) = journal();
    let running = Noting(Only(UdpServer::new(ANY_PORT, EchoLine), NOBODY), pen)
        .spawn()
        .unwrap();
    let client = udp_client(running.server_address());
    client.send(b"hello\n").unwrap();
    journal.wait_for("close_request");
    client.set_nonblocking(true).unwrap();
    assert_eq!(client.recv(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (0, 0));
}

fn some_may_be_refused_and_others_served() {
    let of_two = |address: &Address| address.ip() == Some(Ipv4Addr::new(127, 0, 0, 2).into());
    let running = Only(ThreadingTcpServer::new(ANY_PORT, WhoAmI), of_two).spawn().unwrap();
    for host in [2, 3].repeat(20) {
        let client = support::connect_from(host, running.server_address());
        let own = client.local_addr().unwrap().to_string();
        let expected = if host == 2 { &*own } else { "" };
        assert_eq!(read_to_end(client), expected.as_bytes());
    }
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (20, 0));
}

// ----- All at once -------------------------------------------------------------------------------

fn a_handler_that_leaves_at_once_ends_the_connection_for_the_client() {
    fn check(server: impl BaseServer<Transport = Tcp>) {
        let running = server.spawn().unwrap();
        assert_eq!(read_to_end(connect(running.server_address())), b"");
        assert_eq!(running.stop().unwrap().served, 1);
    }
    let leaves = |_: &mut TcpRequest| {};
    check(TcpServer::new(ANY_PORT, leaves));
    check(ThreadingTcpServer::new(ANY_PORT, leaves));
    check(ThreadPoolTcpServer::new(ANY_PORT, leaves));
    check(ForkingTcpServer::new(ANY_PORT, leaves));
}

fn a_hundred_clients_at_once_are_all_served() {
    #[track_caller]
    fn check(server: impl BaseServer<Transport = Tcp>) {
        let running = server.spawn().unwrap();
        let (sender, answers) = channel();
        thread::scope(|scope| {
            for number in 0..100 {
                let (sender, address) = (sender.clone(), running.server_address());
                scope.spawn(move || {
                    let line = format!("client {number}\n");
                    let mut client = connect(address);
                    client.write_all(line.as_bytes()).unwrap();
                    let mut answer = String::new();
                    BufReader::new(client).read_line(&mut answer).unwrap();
                    sender.send(answer == line).unwrap();
                });
            }
        });
        drop(sender);
        assert_eq!(answers.iter().filter(|right| *right).count(), 100);
        let report = running.stop().unwrap();
        assert_eq!((report.served, report.failed), (100, 0));
    }
    check(TcpServer::new(ANY_PORT, EchoLine));
    check(ThreadingTcpServer::new(ANY_PORT, EchoLine));
    check(ThreadPoolTcpServer::new(ANY_PORT, EchoLine).workers(3).queue_size(0));
    check(ForkingTcpServer::new(ANY_PORT, EchoLine).max_children(10));
}

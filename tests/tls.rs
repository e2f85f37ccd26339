//! TLS as the `tls_echo` example makes it, and as the documentation of `Stream` has it: the clocks, the drain and the
//! ends of a connection hold within it.

mod support;
#[path = "../examples/tls_echo/tls.rs"]
mod tls;

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::gettid;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    SupportedProtocolVersion,
};
use socketserver::prelude::*;
use socketserver::{State, Tcp};
use support::attempts::until_in_time;
use support::interrupt::{Interrupts, wait_until_asleep};
use support::journal::{Journaled, journal};
use support::process::{Process, assert_ends_well_unread, assert_stops, example_path};
use support::program::Program;
use support::{CEILING, Lines, connect, exchange_line, read_to_end, temp_path, unread, wait_until};
use tls::{Tls, TlsStream};

tests![
    messages_are_answered_in_either_version,
    messages_longer_than_a_record_are_answered,
    a_message_behind_the_end_of_the_handshake_is_answered,
    a_client_that_has_said_its_last_word_is_answered,
    a_client_that_says_nothing_is_gone_at_the_handshake_timeout,
    a_client_that_stops_within_the_first_message_is_gone_at_the_handshake_timeout,
    a_client_that_stops_within_the_handshake_is_gone_at_the_handshake_timeout,
    a_byte_of_the_handshake_now_and_then_does_not_extend_it,
    a_client_that_says_nothing_after_the_handshake_is_gone_at_its_timeout,
    a_client_that_falls_silent_is_gone_at_the_idle_timeout,
    a_byte_of_a_record_now_and_then_does_not_extend_the_deadline,
    a_client_that_stops_reading_is_gone_at_the_write_timeout,
    a_handler_with_the_librarys_stream_around_its_request_keeps_to_the_clocks,
    a_long_answer_is_complete_although_signals_interrupt_it,
    a_long_answer_is_complete_although_its_client_still_sends,
    idle_connections_are_told_at_once_and_in_tls,
    idle_connections_are_told_at_once_under_every_strategy,
    a_client_in_the_handshake_is_answered_once,
    a_client_that_has_said_nothing_is_answered_once,
    a_client_in_the_middle_of_a_record_is_answered,
    plain_text_is_an_error_of_the_set_up,
    what_is_no_record_is_an_error_of_the_handler,
    half_a_message_is_an_error,
    half_a_record_is_an_error,
    a_client_of_a_handler_that_fails_was_cut_off,
    the_example_serves_until_a_signal_stops_it,
    the_example_tells_what_is_wrong_with_a_certificate,
    the_example_ends_well_although_nobody_reads_its_output_any_more,
];

/// What a client is to overrun.
const PATIENCE: Duration = Duration::from_millis(400);

/// As that, where a client needs time for a handshake before.
const LONGER: Duration = Duration::from_secs(1);

type Client = StreamOwned<ClientConnection, TcpStream>;

/// Both sides of a certificate.
struct Identity {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Identity {
    fn new() -> Self {
        Self::speaking(&[&TLS12, &TLS13])
    }

    fn speaking(versions: &[&'static SupportedProtocolVersion]) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let server = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.into()], key.into());
        let client = ClientConfig::builder_with_protocol_versions(versions)
            .with_root_certificates(roots)
            .with_no_client_auth();
        Identity {
            server: Arc::new(server.unwrap()),
            client: Arc::new(client),
        }
    }

    /// A threading server of `handler` over TLS.
    fn serve(&self, handler: impl BaseRequestHandler<StreamRequest<TlsStream>>) -> impl BaseServer<Transport = Tcp> {
        ThreadingTcpServer::new("127.0.0.1:0", Tls::over(handler, Arc::clone(&self.server)))
    }

    /// A client before its handshake.
    fn client(&self) -> ClientConnection {
        let name = ServerName::try_from("localhost").unwrap();
        ClientConnection::new(Arc::clone(&self.client), name).unwrap()
    }

    /// A client, whose handshake comes with its first words.
    #[track_caller]
    fn connect(&self, address: &Address) -> Client {
        StreamOwned::new(self.client(), connect(address))
    }

    /// Has a client served. Returns how many were too late for the clocks before, on a busy machine.
    #[track_caller]
    fn serve_another(&self, address: &Address) -> u64 {
        let late = until_in_time(|| {
            let (mut client, mut answer) = (self.connect(address), String::new());
            let asked = client.write_all(b"hello\n").and_then(|()| {
                client.conn.send_close_notify();
                client.flush()
            });
            asked.and_then(|()| client.read_to_string(&mut answer)).is_ok() && answer == "hello\n"
        });
        late as u64
    }
}

/// What a client has to send next.
#[track_caller]
fn to_send(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Says the last word, and waits for the server's.
#[track_caller]
fn end(mut client: Client) {
    client.conn.send_close_notify();
    client.flush().unwrap();
    assert_eq!(read_to_end(client), b"");
}

/// The connection has ended without a last word.
#[track_caller]
fn assert_cut_off(mut client: Client) {
    let error = client.read_to_end(&mut Vec::new()).unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset),
        "{error}"
    );
}

/// One client misbehaves and is ended, with `text` told once; others are served meanwhile and afterwards. `misbehave`
/// can ask whether it was told.
#[track_caller]
fn assert_ends(
    identity: &Identity,
    server: impl BaseServer<Transport = Tcp>,
    text: &str,
    misbehave: impl FnOnce(TcpStream, &dyn Fn() -> bool),
) {
    let (journal, pen) = journal();
    let running = Journaled::over(server, &pen).spawn().unwrap();
    let address = running.server_address();
    let client = connect(address);
    let (failed, name) = (text.split_once(' ').unwrap(), client.local_addr().unwrap());
    let expected = format!("handle_error: {} failed for {name}: {}", failed.0, failed.1);
    let mut late = thread::scope(|scope| {
        let another = scope.spawn(|| identity.serve_another(address));
        misbehave(client, &|| journal.count(&expected) > 0);
        another.join().unwrap()
    });
    wait_until(&expected, || journal.count(&expected) > 0);
    late += identity.serve_another(address);
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (2, 1 + late));
    assert_eq!(journal.count("handle_error") as u64, 1 + late);
}

// ----- What is said ------------------------------------------------------------------------------

fn messages_are_answered_in_either_version() {
    for version in [&TLS12, &TLS13] {
        let identity = Identity::speaking(&[version]);
        let running = identity.serve(Lines).spawn().unwrap();
        let mut clients: Vec<_> = (0..5).map(|_| identity.connect(running.server_address())).collect();
        for number in 0..100 {
            for client in &mut clients {
                let line = format!("{number}\n");
                assert_eq!(exchange_line(client, &line), line);
            }
        }
        clients.into_iter().for_each(end);
        let report = running.stop().unwrap();
        assert_eq!((report.served, report.failed), (5, 0));
    }
}

fn messages_longer_than_a_record_are_answered() {
    let identity = Identity::new();
    let running = identity.serve(Lines).spawn().unwrap();
    let mut client = identity.connect(running.server_address());
    for length in [1, 16 * 1024 - 1, 16 * 1024, 100_000, 200_000] {
        let line = "x".repeat(length) + "\n";
        assert!(exchange_line(&mut client, &line) == line, "{length}");
    }
    end(client);
    running.stop().unwrap();
}

fn a_message_behind_the_end_of_the_handshake_is_answered() {
    let identity = Identity::speaking(&[&TLS13]);
    let running = identity.serve(Lines).spawn().unwrap();
    let (mut tls, mut socket) = (identity.client(), connect(running.server_address()));
    socket.write_all(&to_send(&mut tls)).unwrap();
    while tls.is_handshaking() {
        tls.read_tls(&mut socket).unwrap();
        tls.process_new_packets().unwrap();
    }
    // What ends the handshake is still to be sent.
    tls.writer().write_all(b"one\ntwo\n").unwrap();
    let segment = to_send(&mut tls);
    socket.write_all(&segment).unwrap();
    let mut client = StreamOwned::new(tls, socket);
    let mut answer = [0; 8];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"one\ntwo\n");
    end(client);
    running.stop().unwrap();
}

/// Answers when all has come.
fn count_all<S: Stream>(request: &mut StreamRequest<S>) -> io::Result<()> {
    let mut all = Vec::new();
    request.read_to_end(&mut all)?;
    write!(request, "{} bytes", all.len())
}

fn a_client_that_has_said_its_last_word_is_answered() {
    let identity = Identity::new();
    let running = identity.serve(count_all).spawn().unwrap();
    let mut client = identity.connect(running.server_address());
    client.write_all(&vec![b'x'; 50_000]).unwrap();
    client.conn.send_close_notify();
    client.flush().unwrap();
    client.sock.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(client), b"50000 bytes");
    running.stop().unwrap();
}

// ----- The clocks --------------------------------------------------------------------------------

#[track_caller]
fn assert_gone_in_the_handshake(begin: impl FnOnce(&Identity, &mut TcpStream, &dyn Fn() -> bool)) {
    let identity = Identity::new();
    let server = identity.serve(Lines).handshake_timeout(PATIENCE);
    let text = "setup handshake: not done within 0.4 s";
    assert_ends(&identity, server, text, |mut socket, is_told| {
        begin(&identity, &mut socket, is_told);
        // The server may have closed with something unread.
        if let Err(error) = socket.read_to_end(&mut Vec::new()) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        }
    });
}

fn a_client_that_says_nothing_is_gone_at_the_handshake_timeout() {
    assert_gone_in_the_handshake(|_, _, _| {});
}

fn a_client_that_stops_within_the_first_message_is_gone_at_the_handshake_timeout() {
    assert_gone_in_the_handshake(|identity, socket, _| {
        let hello = to_send(&mut identity.client());
        socket.write_all(&hello[..hello.len() / 2]).unwrap();
    });
}

fn a_client_that_stops_within_the_handshake_is_gone_at_the_handshake_timeout() {
    assert_gone_in_the_handshake(|identity, socket, _| {
        socket.write_all(&to_send(&mut identity.client())).unwrap();
        socket.read_exact(&mut [0; 100]).unwrap();
    });
}

fn a_byte_of_the_handshake_now_and_then_does_not_extend_it() {
    assert_gone_in_the_handshake(|identity, socket, is_told| {
        // A record of the handshake (22) of 16 KiB.
        socket.write_all(&[22, 3, 1, 0x40, 0]).unwrap();
        socket.write_all(&to_send(&mut identity.client())[5..]).unwrap();
        wait_until("the server has given it up", || {
            socket.write_all(&[0]).is_err() || is_told()
        });
    });
}

fn a_client_that_says_nothing_after_the_handshake_is_gone_at_its_timeout() {
    let identity = Identity::new();
    let server = identity.serve(Lines).handshake_timeout(LONGER);
    let text = "handle handshake: not done within 1 s";
    assert_ends(&identity, server, text, |mut socket, _| {
        let mut tls = identity.client();
        tls.complete_io(&mut socket).unwrap();
        assert_cut_off(StreamOwned::new(tls, socket));
    });
}

fn a_client_that_falls_silent_is_gone_at_the_idle_timeout() {
    let identity = Identity::new();
    let server = identity.serve(Lines).idle_timeout(PATIENCE);
    let text = "handle idle: the peer sent nothing for 0.4 s";
    assert_ends(&identity, server, text, |socket, _| {
        let mut client = StreamOwned::new(identity.client(), socket);
        assert_eq!(exchange_line(&mut client, "only this\n"), "only this\n");
        assert_cut_off(client);
    });
}

fn a_byte_of_a_record_now_and_then_does_not_extend_the_deadline() {
    let identity = Identity::new();
    let server = identity.serve(Lines).request_timeout(LONGER).idle_timeout(CEILING);
    let text = "handle request: not done within 1 s";
    assert_ends(&identity, server, text, |mut socket, is_told| {
        let mut tls = identity.client();
        tls.complete_io(&mut socket).unwrap();
        tls.writer().write_all(&[b'x'; 16 * 1024]).unwrap();
        let record = to_send(&mut tls);
        let mut bytes = record[..record.len() - 1].iter();
        wait_until("the server has given it up", || {
            let byte = bytes.next().expect("it is given up before the record is whole");
            socket.write_all(&[*byte]).is_err() || is_told()
        });
    });
}

/// Answers a line with more than all buffers hold.
fn flood<S: Stream>(request: &mut StreamRequest<S>) -> io::Result<()> {
    request.read_exact(&mut [0])?;
    request.write_all(&vec![b'x'; FLOOD])
}

const FLOOD: usize = 20_000_000;

fn a_client_that_stops_reading_is_gone_at_the_write_timeout() {
    let identity = Identity::new();
    let (journal, pen) = journal();
    let server = Journaled::over(identity.serve(flood).write_timeout(PATIENCE), &pen);
    let running = server.spawn().unwrap();
    let mut client = identity.connect(running.server_address());
    client.write_all(b"x").unwrap();
    let event = journal.wait_for("handle_error").event;
    let text = ": write: the peer did not take all of it within 0.4 s";
    assert!(event.ends_with(text), "{event}");
    assert_cut_off(client);
    running.stop().unwrap();
}

fn a_handler_with_the_librarys_stream_around_its_request_keeps_to_the_clocks() {
    let identity = Identity::new();
    let config = Arc::clone(&identity.server);
    let handler = move |request: &mut TcpRequest| -> io::Result<()> {
        let mut connection = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
        io::copy(&mut rustls::Stream::new(&mut connection, request), &mut io::sink()).map(drop)
    };
    let server = ThreadingTcpServer::new("127.0.0.1:0", handler).request_timeout(LONGER);
    let (journal, pen) = journal();
    let running = Journaled::over(server, &pen).spawn().unwrap();
    let mut client = identity.connect(running.server_address());
    client.flush().unwrap();
    // The beginning of a record (23) of 16 KiB.
    client.sock.write_all(&[23, 3, 3, 0x40, 0]).unwrap();
    wait_until("the server has given it up", || {
        client.sock.write_all(&[0]).is_err() || journal.count("handle_error") > 0
    });
    let event = journal.wait_for("handle_error").event;
    assert!(event.ends_with(": request: not done within 1 s"), "{event}");
    running.stop().unwrap();
}

fn a_long_answer_is_complete_although_signals_interrupt_it() {
    let interrupts = Interrupts::new();
    let (sender, writer) = mpsc::channel();
    let whole: Vec<u8> = (0..FLOOD).map(|index| (index % 251).to_le_bytes()[0]).collect();
    let answer = whole.clone();
    let handler = move |request: &mut StreamRequest<TlsStream>| {
        request.read_exact(&mut [0])?;
        sender.send(gettid()).unwrap();
        request.write_all(&answer)
    };
    let identity = Identity::new();
    let running = identity.serve(handler).write_timeout(CEILING).spawn().unwrap();
    let mut client = identity.connect(running.server_address());
    client.write_all(b"x").unwrap();
    let writer = writer.recv_timeout(CEILING).unwrap();
    // The first comes when a part is sent, the others when nothing more has been.
    for _ in 0..3 {
        wait_until_asleep(writer);
        interrupts.interrupt(writer);
    }
    assert!(read_to_end(client) == whole);
    running.stop().unwrap();
}

fn a_long_answer_is_complete_although_its_client_still_sends() {
    /// More than the buffers of both ends have room for at first.
    const LONG: usize = 8 << 20;
    let identity = Identity::new();
    let running = identity
        .serve(|request: &mut StreamRequest<TlsStream>| {
            request.read_exact(&mut [0])?;
            request.write_all(&vec![b'x'; LONG])
        })
        .spawn()
        .unwrap();
    let mut client = identity.connect(running.server_address());
    client.write_all(b"1").unwrap();
    client.conn.set_buffer_limit(None);
    client.conn.writer().write_all(&vec![b'y'; LONG]).unwrap();
    let more = to_send(&mut client.conn);
    let mut socket = client.sock.try_clone().unwrap();
    let sending = thread::spawn(move || socket.write_all(&more));
    let mut answer = Vec::new();
    // To the last word of TLS: without it this fails.
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer.len(), LONG);
    sending.join().unwrap().unwrap();
    drop(client);
    assert_eq!(running.stop().unwrap().served, 1);
}

// ----- The drain ---------------------------------------------------------------------------------

/// The server is told to stop while its only client is in the middle of something, and goes on then.
#[track_caller]
fn assert_drains(identity: &Identity, begin: impl FnOnce(&mut Client), go_on: impl FnOnce(&mut Client)) {
    assert_drains_from(identity, Lines, begin, go_on);
}

/// As that, with a handler that does what `Lines` does.
#[track_caller]
fn assert_drains_from(
    identity: &Identity,
    handler: impl BaseRequestHandler<StreamRequest<TlsStream>>,
    begin: impl FnOnce(&mut Client),
    go_on: impl FnOnce(&mut Client),
) {
    let running = identity.serve(handler).spawn().unwrap();
    let mut client = identity.connect(running.server_address());
    begin(&mut client);
    let handle = running.shutdown_handle();
    handle.shutdown();
    wait_until("the server drains", || handle.state() >= State::Draining);
    go_on(&mut client);
    // Its last word has come, long before the deadline of half a minute.
    assert_eq!(read_to_end(client), b"");
    let report = running.join().unwrap();
    let counts = (report.served, report.failed, report.drained, report.forced);
    assert_eq!(counts, (1, 0, 1, 0));
}

fn idle_connections_are_told_at_once_and_in_tls() {
    for version in [&TLS12, &TLS13] {
        let hello = |client: &mut Client| assert_eq!(exchange_line(client, "hello\n"), "hello\n");
        assert_drains(&Identity::speaking(&[version]), hello, |_| {});
    }
}

fn idle_connections_are_told_at_once_under_every_strategy() {
    let identity = Identity::new();
    let handler = || Tls::over(Lines, Arc::clone(&identity.server));
    let address = "127.0.0.1:0";
    for running in [
        TcpServer::new(address, handler()).spawn(),
        ThreadPoolTcpServer::new(address, handler()).workers(2).spawn(),
        ForkingTcpServer::new(address, handler()).spawn(),
        PreForkTcpServer::new(address, handler()).workers(1).spawn(),
    ] {
        let running = running.unwrap();
        let client = answered(&identity, connect(running.server_address()));
        running.shutdown_handle().shutdown();
        assert_eq!(read_to_end(client), b"");
        let report = running.join().unwrap();
        assert_eq!((report.served, report.failed, report.forced), (1, 0, 0));
    }
}

fn a_client_in_the_handshake_is_answered_once() {
    for version in [&TLS12, &TLS13] {
        let begin = |client: &mut Client| {
            client.conn.write_tls(&mut client.sock).unwrap();
            client.sock.peek(&mut [0]).unwrap();
        };
        assert_drains(&Identity::speaking(&[version]), begin, |client| {
            assert_eq!(exchange_line(client, "hello\n"), "hello\n");
        });
    }
}

fn a_client_that_has_said_nothing_is_answered_once() {
    for version in [&TLS12, &TLS13] {
        let begin = |client: &mut Client| {
            client.conn.complete_io(&mut client.sock).unwrap();
        };
        assert_drains(&Identity::speaking(&[version]), begin, |client| {
            assert_eq!(exchange_line(client, "hello\n"), "hello\n");
        });
    }
}

fn a_client_in_the_middle_of_a_record_is_answered() {
    let (sender, server) = mpsc::channel();
    let handler = move |request: &mut StreamRequest<TlsStream>| {
        sender.send(gettid()).unwrap();
        Lines.handle(request)
    };
    let identity = Identity::new();
    let rest = RefCell::default();
    let begin = |client: &mut Client| {
        assert_eq!(exchange_line(&mut *client, "hello\n"), "hello\n");
        client.conn.writer().write_all(b"world\n").unwrap();
        let mut record = to_send(&mut client.conn);
        rest.replace(record.split_off(record.len() / 2));
        client.sock.write_all(&record).unwrap();
        wait_until("it has read that", || unread(&client.sock) == Some(0));
        wait_until_asleep(server.recv_timeout(CEILING).unwrap());
    };
    assert_drains_from(&identity, handler, begin, |client| {
        client.sock.write_all(&rest.borrow()).unwrap();
        assert_eq!(exchange_line(client, ""), "world\n");
    });
}

// ----- What goes wrong ---------------------------------------------------------------------------

fn plain_text_is_an_error_of_the_set_up() {
    let identity = Identity::new();
    let text = "setup received corrupt message of type InvalidContentType";
    assert_ends(&identity, identity.serve(Lines), text, |mut socket, is_told| {
        socket.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        wait_until("it is told", is_told);
    });
}

/// A client that has been answered once.
#[track_caller]
fn answered(identity: &Identity, socket: TcpStream) -> Client {
    let mut client = StreamOwned::new(identity.client(), socket);
    assert_eq!(exchange_line(&mut client, "hello\n"), "hello\n");
    client
}

fn what_is_no_record_is_an_error_of_the_handler() {
    let identity = Identity::new();
    let text = "handle received corrupt message of type InvalidContentType";
    assert_ends(&identity, identity.serve(Lines), text, |socket, _| {
        let mut client = answered(&identity, socket);
        client.sock.write_all(b"plain text\n").unwrap();
        let error = client.read(&mut [0]).unwrap_err();
        // Told in TLS what is wrong.
        assert!(error.to_string().starts_with("received fatal alert"), "{error}");
    });
}

const WITHOUT_LAST_WORD: &str = "handle peer closed connection without sending TLS close_notify";

fn half_a_message_is_an_error() {
    let identity = Identity::new();
    assert_ends(&identity, identity.serve(Lines), WITHOUT_LAST_WORD, |socket, _| {
        let mut client = answered(&identity, socket);
        client.write_all(b"half a li").unwrap();
    });
}

fn half_a_record_is_an_error() {
    let identity = Identity::new();
    assert_ends(&identity, identity.serve(Lines), WITHOUT_LAST_WORD, |socket, _| {
        let mut client = answered(&identity, socket);
        client.conn.writer().write_all(b"a line\n").unwrap();
        let record = to_send(&mut client.conn);
        client.sock.write_all(&record[..record.len() / 2]).unwrap();
    });
}

fn a_client_of_a_handler_that_fails_was_cut_off() {
    let identity = Identity::new();
    let handler = |request: &mut StreamRequest<TlsStream>| -> HandlerResult {
        request.read_exact(&mut [0])?;
        request.write_all(b"half an ans")?;
        Err("told to fail".into())
    };
    let running = identity.serve(handler).spawn().unwrap();
    let mut client = identity.connect(running.server_address());
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0; 11]).unwrap();
    assert_cut_off(client);
    running.stop().unwrap();
}

// ----- The example -------------------------------------------------------------------------------

fn example(options: &[&str]) -> Command {
    let mut command = Command::new(example_path("tls_echo"));
    command.args(options);
    command
}

fn the_example_serves_until_a_signal_stops_it() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let process = Process::start(&mut example(&[]));
        // Nobody can know its certificate.
        let error = (Identity::new().connect(&process.address().into()).flush()).unwrap_err();
        assert!(error.to_string().starts_with("invalid peer certificate"), "{error}");
        process.signal(signal);
        let errors = assert_stops(process, "served=0 failed=1");
        assert!(errors.contains("setup failed for"), "{errors}");
    }
}

fn the_example_tells_what_is_wrong_with_a_certificate() {
    let place = temp_path("empty.pem");
    std::fs::write(&place.path, "").unwrap();
    let empty = place.path.to_str().unwrap();
    let missing = format!("{empty}.missing");
    for (options, told) in [
        (["--cert", &missing, "--key", empty], "No such file or directory"),
        (["--cert", empty, "--key", empty], "no items found"),
        (["--cert", empty, "--address", "127.0.0.1:0"], "--key <PEM>"),
    ] {
        let ended = Program::run(&mut example(&options), "");
        assert_eq!((ended.status.code(), &*ended.output), (Some(2), ""), "{ended:?}");
        assert!(ended.errors.contains(told), "{ended:?}");
    }
}

fn the_example_ends_well_although_nobody_reads_its_output_any_more() {
    assert_ends_well_unread(&mut example(&[]));
}

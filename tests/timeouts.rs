//! The clocks of a connection: what each ends, what it leaves alone, and what it costs.

mod support;

use std::io::{self, BufRead, BufReader, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::gettid;
use socketserver::framing::{FixedLengthCodec, Framed, LinesCodec};
use socketserver::prelude::*;
use socketserver::{Active, Tcp, Timeout, TimeoutError, TimeoutKind, Timeouts, run_handler};
use support::attempts::{first_in_time, until_in_time};
use support::gate::Gate;
use support::interrupt::{Interrupts, wait_until_asleep};
use support::journal::{Journal, Journaled, journal};
use support::process::Process;
use support::unix::connect_unix;
use support::{CEILING, EchoLine, connect, logged, process_state, read_to_end, temp_path, wait_until};

tests![
    a_byte_now_and_then_does_not_extend_the_deadline_of_a_sync_server,
    a_byte_now_and_then_does_not_extend_the_deadline_under_threading,
    a_byte_now_and_then_does_not_extend_the_deadline_in_a_pool,
    a_byte_now_and_then_does_not_extend_the_deadline_under_forking,
    a_client_that_stops_reading_is_gone_at_the_write_timeout_of_a_sync_server,
    a_client_that_stops_reading_is_gone_at_the_write_timeout_under_threading,
    a_client_that_stops_reading_is_gone_at_the_write_timeout_in_a_pool,
    a_client_that_stops_reading_is_gone_at_the_write_timeout_under_forking,
    a_client_that_falls_silent_is_gone_at_the_idle_timeout_of_a_sync_server,
    a_client_that_falls_silent_is_gone_at_the_idle_timeout_under_threading,
    a_client_that_falls_silent_is_gone_at_the_idle_timeout_in_a_pool,
    a_client_that_falls_silent_is_gone_at_the_idle_timeout_under_forking,
    a_client_that_says_nothing_is_gone_at_the_handshake_timeout,
    a_set_up_that_never_ends_is_gone_at_the_handshake_timeout,
    a_set_up_that_no_server_runs_keeps_to_the_handshake_timeout,
    the_time_of_a_request_that_no_server_runs_begins_with_its_set_up,
    the_handshake_is_over_with_the_first_byte,
    a_handshake_that_is_over_limits_nothing_any_more,
    a_handshake_clock_that_is_set_behind_the_first_byte_limits_nothing,
    a_handshake_that_is_over_limits_no_raw_read_or_write,
    a_wrapper_that_has_nothing_to_give_yet_is_gone_at_the_deadline,
    a_slow_reader_is_gone_at_the_write_timeout_over_tcp,
    a_slow_reader_is_gone_at_the_write_timeout_over_unix_sockets,
    a_slow_reader_of_a_message_is_gone_at_the_write_timeout,
    a_vectored_write_under_a_clock_takes_no_notice_of_empty_slices,
    a_vectored_write_whose_rest_was_sent_without_a_clock_is_over,
    a_vectored_write_whose_rest_was_gathered_is_over,
    a_vectored_write_that_is_complete_takes_no_time_of_the_next,
    a_deadline_ends_a_write_too,
    a_read_timeout_is_for_one_read_and_an_idle_timeout_for_all,
    what_has_come_is_read_however_long_it_was_silent_before,
    a_deadline_that_has_passed_ends_reads_although_there_are_bytes,
    signals_do_not_extend_a_timeout,
    a_signal_does_not_shorten_a_timeout,
    what_has_come_while_the_process_was_stopped_is_read,
    what_is_written_in_pieces_goes_on_after_the_process_was_stopped,
    a_message_is_read_in_pieces_after_the_process_was_stopped,
    both_halves_keep_to_the_clocks,
    a_message_that_stops_in_its_middle_is_gone_at_its_timeout,
    a_message_in_pieces_leaves_no_timeout_behind,
    a_message_that_is_given_up_leaves_no_timeout_behind,
    a_message_that_ends_with_the_stream_leaves_no_timeout_behind,
    a_handler_that_computes_sees_its_deadline,
    setting_timeouts_does_not_extend_the_deadline,
    a_wrapped_request_keeps_to_the_deadline_of_the_whole,
    a_deadline_can_be_restarted,
    a_handshake_is_not_restarted_with_the_deadline,
    what_the_wrapper_sets_holds_instead_of_the_servers,
    what_get_request_sets_holds_instead_of_the_servers,
    a_finish_request_with_a_handler_of_its_own_keeps_to_the_clocks,
    a_wrapper_is_a_handler_in_all_its_steps,
    a_handler_in_memory_does_not_notice,
    the_raw_socket_has_the_timeouts_too,
    timeouts_that_are_taken_back_are_gone_from_the_socket,
    a_non_blocking_socket_says_so,
    a_plain_timeout_costs_one_system_call_for_all_reads,
    a_deadline_costs_few_system_calls_for_all_reads_and_none_waits_past_it,
    a_timeout_of_zero_is_refused_by_name,
    a_timeout_is_a_disconnect_that_says_which,
    the_example_takes_timeouts,
];

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The kernel may end a wait a tick early.
const TICK: Duration = millis(10);

/// Echoes until it is told to end, or writes for ever if it is told that. The end of the stream is no
/// sign to a forked child here: it has the client's side, too, which was open when it was forked.
#[derive(Clone)]
struct EchoOrFlood;

const FLOOD: &str = "flood\n";
const END: &str = "end\n";

impl<S: Stream> BaseRequestHandler<StreamRequest<S>> for EchoOrFlood {
    fn handle(&mut self, request: &mut StreamRequest<S>) -> HandlerResult {
        let mut buffer = [0; 1024];
        loop {
            let count = request.read(&mut buffer)?;
            while buffer.starts_with(FLOOD.as_bytes()) {
                request.write_all(&[0; 1024])?;
            }
            request.write_all(&buffer[..count])?;
            if count == 0 || buffer[..count].ends_with(END.as_bytes()) {
                return Ok(());
            }
        }
    }
}

/// Waits until a request has failed; `text` is what of.
#[track_caller]
fn assert_failed(journal: &Journal, text: &str) {
    let event = journal.wait_for("handle_error").event;
    assert!(event.ends_with(&format!(": {text}")), "{event}");
}

/// The server has closed the connection.
#[track_caller]
fn assert_closed(mut client: impl Read) {
    if let Err(error) = client.read_to_end(&mut Vec::new()) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
}

/// One client misbehaves and is ended with `text`; all others are served, afterwards and, if the server
/// serves several at a time, meanwhile.
fn assert_ends(server: impl BaseServer<Transport = Tcp>, text: &str, misbehave: impl FnOnce(&mut TcpStream) + Send) {
    let meanwhile = concurrency(&server) != Concurrency::None;
    let (journal, pen) = journal();
    let running = Journaled::over(server, &pen).spawn().unwrap();
    let address = running.server_address();
    let mut client = connect(address);
    let failure = format!(" for {}: {text}", client.local_addr().unwrap());
    let mut late = 0;
    thread::scope(|scope| {
        scope.spawn(|| misbehave(&mut client));
        if meanwhile {
            late += serve_others(address);
        }
        wait_until(&format!("it has failed{failure}"), || {
            let failures = journal.of("handle_error").into_iter();
            failures.filter(|entry| entry.event.ends_with(&failure)).count() == 1
        });
    });
    assert_closed(client);
    late += serve_others(address);
    let report = running.stop().unwrap();
    let others = if meanwhile { 20 } else { 10 };
    assert_eq!((report.served, report.failed), (others, 1 + late));
    assert_eq!(journal.count("handle_error") as u64, 1 + late);
}

/// Has ten well-behaved clients served. Returns how many others were too late for their own clocks, on a busy machine.
#[track_caller]
fn serve_others(address: &Address) -> u64 {
    let (mut served, mut late) = (0, 0);
    while served < 10 {
        if is_served(address, END) {
            served += 1;
        } else {
            late += 1;
            assert!(late < 100, "nobody is served");
        }
    }
    late
}

/// Whether a client's only line is answered, to the end.
fn is_served(address: &Address, line: &str) -> bool {
    let (mut client, mut answer) = (connect(address), String::new());
    let answered = client
        .write_all(line.as_bytes())
        .and_then(|()| client.read_to_string(&mut answer));
    answered.is_ok() && answer == line
}

fn concurrency<S: BaseServer>(_: &S) -> Concurrency {
    S::CONCURRENCY
}

// ----- Each clock, under each strategy -----------------------------------------------------------

/// A byte every few milliseconds, until the server has closed the connection.
fn trickle(client: &mut TcpStream) {
    wait_until("the server has given it up", || {
        let echoed = client.write_all(b"x").and_then(|()| client.read(&mut [0; 1]));
        echoed.map_or(true, |count| count == 0)
    });
}

fn assert_deadline_holds(server: impl BaseServer<Transport = Tcp>) {
    let server = server.request_timeout(millis(200)).idle_timeout(CEILING);
    let before = Instant::now();
    assert_ends(server, "request: not done within 0.2 s", |client| {
        trickle(client);
        assert!(before.elapsed() + TICK >= millis(200), "it had its time");
    });
}

fn a_byte_now_and_then_does_not_extend_the_deadline_of_a_sync_server() {
    assert_deadline_holds(TcpServer::new("127.0.0.1:0", EchoOrFlood));
}

fn a_byte_now_and_then_does_not_extend_the_deadline_under_threading() {
    assert_deadline_holds(ThreadingTcpServer::new("127.0.0.1:0", EchoOrFlood));
}

fn a_byte_now_and_then_does_not_extend_the_deadline_in_a_pool() {
    assert_deadline_holds(ThreadPoolTcpServer::new("127.0.0.1:0", EchoOrFlood).workers(2));
}

fn a_byte_now_and_then_does_not_extend_the_deadline_under_forking() {
    assert_deadline_holds(ForkingTcpServer::new("127.0.0.1:0", EchoOrFlood));
}

fn assert_write_timeout_holds(server: impl BaseServer<Transport = Tcp>) {
    let text = "write: the peer did not take all of it within 0.2 s";
    assert_ends(server.write_timeout(millis(200)), text, |client| {
        client.write_all(FLOOD.as_bytes()).unwrap();
    });
}

fn a_client_that_stops_reading_is_gone_at_the_write_timeout_of_a_sync_server() {
    assert_write_timeout_holds(TcpServer::new("127.0.0.1:0", EchoOrFlood));
}

fn a_client_that_stops_reading_is_gone_at_the_write_timeout_under_threading() {
    assert_write_timeout_holds(ThreadingTcpServer::new("127.0.0.1:0", EchoOrFlood));
}

fn a_client_that_stops_reading_is_gone_at_the_write_timeout_in_a_pool() {
    assert_write_timeout_holds(ThreadPoolTcpServer::new("127.0.0.1:0", EchoOrFlood).workers(2));
}

fn a_client_that_stops_reading_is_gone_at_the_write_timeout_under_forking() {
    assert_write_timeout_holds(ForkingTcpServer::new("127.0.0.1:0", EchoOrFlood));
}

/// Is answered, and silent then. On a busy machine it may be too late already.
fn say_something(client: &mut TcpStream) {
    let _ = client
        .write_all(b"only this\n")
        .and_then(|()| client.read(&mut [0; 10]));
}

fn assert_idle_timeout_holds(server: impl BaseServer<Transport = Tcp>) {
    let text = "idle: the peer sent nothing for 0.2 s";
    assert_ends(server.idle_timeout(millis(200)), text, say_something);
}

fn a_client_that_falls_silent_is_gone_at_the_idle_timeout_of_a_sync_server() {
    assert_idle_timeout_holds(TcpServer::new("127.0.0.1:0", EchoOrFlood));
}

fn a_client_that_falls_silent_is_gone_at_the_idle_timeout_under_threading() {
    assert_idle_timeout_holds(ThreadingTcpServer::new("127.0.0.1:0", EchoOrFlood));
}

fn a_client_that_falls_silent_is_gone_at_the_idle_timeout_in_a_pool() {
    assert_idle_timeout_holds(ThreadPoolTcpServer::new("127.0.0.1:0", EchoOrFlood).workers(2));
}

fn a_client_that_falls_silent_is_gone_at_the_idle_timeout_under_forking() {
    assert_idle_timeout_holds(ForkingTcpServer::new("127.0.0.1:0", EchoOrFlood));
}

// ----- The handshake -----------------------------------------------------------------------------

fn a_client_that_says_nothing_is_gone_at_the_handshake_timeout() {
    let server = ThreadingTcpServer::new("127.0.0.1:0", EchoLine).handshake_timeout(millis(200));
    assert_ends(server, "handshake: not done within 0.2 s", |_| {});
}

/// Has a header of 1,000 bytes before the conversation, as TLS and PROXY have theirs.
#[derive(Clone)]
struct WithHeader;

impl<S: Stream> BaseRequestHandler<StreamRequest<S>> for WithHeader {
    fn setup(&mut self, request: &mut StreamRequest<S>) -> HandlerResult {
        Ok(request.read_exact(&mut [0; 1000])?)
    }

    fn handle(&mut self, _request: &mut StreamRequest<S>) -> HandlerResult {
        Ok(())
    }
}

fn a_set_up_that_never_ends_is_gone_at_the_handshake_timeout() {
    let (journal, pen) = journal();
    let server = ThreadingTcpServer::new("127.0.0.1:0", WithHeader).handshake_timeout(millis(100));
    let running = Journaled::over(server, &pen).spawn().unwrap();
    let mut client = connect(running.server_address());
    wait_until("the server has given it up", || {
        client.write_all(b"x").is_err() || journal.count("handle_error") > 0
    });
    assert_failed(&journal, "handshake: not done within 0.1 s");
    let event = journal.of("handle_error").remove(0).event;
    assert!(event.contains("setup failed for"), "{event}");
    running.stop().unwrap();
}

/// As under inetd.
fn a_set_up_that_no_server_runs_keeps_to_the_handshake_timeout() {
    let clocks = Timeouts::new().handshake(millis(50)).idle(millis(500));
    let error_of = |request: (UnixStream, UnixStreamRequest), timeouts| {
        let (mut peer, mut request) = request;
        peer.write_all(b"x").unwrap();
        let error = run_handler(&Timeout::over(WithHeader, timeouts), &mut request).unwrap_err();
        error.to_string()
    };
    let expected = "handshake: not done within 0.05 s";
    assert_eq!(error_of(pair(clocks), Timeouts::new()), expected);
    assert_eq!(error_of(pair(Timeouts::new()), clocks), expected);
}

fn the_time_of_a_request_that_no_server_runs_begins_with_its_set_up() {
    let clocks = Timeouts::new().request(CEILING);
    let (_peer, mut request) = pair(clocks);
    thread::sleep(millis(1));
    let before = Instant::now();
    let handler = move |request: &mut UnixStreamRequest| {
        let in_handle = Instant::now();
        thread::sleep(millis(1));
        request.set_timeouts(clocks).unwrap();
        let in_time = before + CEILING..=in_handle + CEILING;
        assert!(in_time.contains(&request.deadline().unwrap()));
    };
    run_handler(&handler, &mut request).unwrap();
    // It has begun: another handler of it is no beginning.
    let deadline = request.deadline();
    run_handler(&|_: &mut UnixStreamRequest| {}, &mut request).unwrap();
    assert_eq!(request.deadline(), deadline);
    let (_peer, mut request) = pair(Timeouts::new());
    run_handler(&handler, &mut request).unwrap();
}

fn the_handshake_is_over_with_the_first_byte() {
    const HANDSHAKE: Duration = millis(500);
    let (sender, past) = mpsc::channel();
    let handler = move |request: &mut TcpRequest| -> HandlerResult {
        let began = Instant::now();
        let first = request.read_exact(&mut [0; 1]);
        while first.is_ok() && began.elapsed() < HANDSHAKE {
            request.set_timeouts(request.timeouts().read(millis(50)))?;
            assert_timed_out(request.read(&mut [0]), TimeoutKind::Read);
        }
        sender.send(first.is_ok()).unwrap();
        first?;
        request.set_timeouts(request.timeouts().read(CEILING))?;
        request.read_exact(&mut [0; 1])?;
        Ok(request.write_all(b"both")?)
    };
    let running = ThreadingTcpServer::new("127.0.0.1:0", handler)
        .handshake_timeout(HANDSHAKE)
        .spawn()
        .unwrap();
    // The first byte may be too late.
    let mut client = first_in_time(|| {
        let mut client = connect(running.server_address());
        let _ = client.write_all(b"1");
        past.recv_timeout(CEILING).unwrap().then_some(client)
    });
    client.write_all(b"2").unwrap();
    assert_eq!(read_to_end(client), b"both");
    running.stop().unwrap();
}

fn a_handshake_that_is_over_limits_nothing_any_more() {
    let handler = |request: &mut TcpRequest| -> HandlerResult {
        for _ in 0..2 {
            request.read_exact(&mut [0; 1])?;
            request.write_all(b"x")?;
        }
        let socket = request.get_ref();
        let left = (socket.read_timeout()?, socket.write_timeout()?);
        Ok(write!(request, "{left:?}")?)
    };
    let running = ThreadingTcpServer::new("127.0.0.1:0", handler)
        .handshake_timeout(CEILING)
        .spawn()
        .unwrap();
    let mut client = connect(running.server_address());
    client.write_all(b"12").unwrap();
    assert_eq!(read_to_end(client), b"xx(None, None)");
    running.stop().unwrap();
}

fn a_handshake_clock_that_is_set_behind_the_first_byte_limits_nothing() {
    let (mut peer, mut request) = pair(Timeouts::new());
    peer.write_all(b"12").unwrap();
    request.read_exact(&mut [0; 1]).unwrap();
    request
        .set_timeouts(Timeouts::new().handshake(Duration::from_nanos(1)))
        .unwrap();
    request.read_exact(&mut [0; 1]).unwrap();
}

/// Reads a byte in `setup` or in `handle`, then says what the options of the raw socket are.
#[derive(Clone)]
struct ThenRaw {
    in_setup: bool,
}

impl BaseRequestHandler<TcpRequest> for ThenRaw {
    fn setup(&mut self, request: &mut TcpRequest) -> HandlerResult {
        if self.in_setup {
            request.read_exact(&mut [0; 1])?;
        }
        Ok(())
    }

    fn handle(&mut self, request: &mut TcpRequest) -> HandlerResult {
        if !self.in_setup {
            request.read_exact(&mut [0; 1])?;
        }
        let socket = request.get_ref();
        let left = (socket.read_timeout()?, socket.write_timeout()?);
        Ok(write!(request, "{left:?}")?)
    }
}

/// A proxy goes on with the raw socket, so no read or write of the request would lift it.
fn a_handshake_that_is_over_limits_no_raw_read_or_write() {
    for in_setup in [true, false] {
        let running = ThreadingTcpServer::new("127.0.0.1:0", ThenRaw { in_setup })
            .handshake_timeout(CEILING)
            .spawn()
            .unwrap();
        let mut client = connect(running.server_address());
        client.write_all(b"1").unwrap();
        assert_eq!(read_to_end(client), b"(None, None)", "read in setup: {in_setup}");
        running.stop().unwrap();
    }
}

/// Gives whole lines only, as TLS does records.
struct WholeLines {
    stream: TcpStream,
    line: Vec<u8>,
}

impl Read for WholeLines {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut byte = [0];
        if self.stream.read(&mut byte)? == 0 {
            return Ok(0);
        }
        self.line.extend(byte);
        if byte != *b"\n" {
            return Err(ErrorKind::Interrupted.into());
        }
        let line = std::mem::take(&mut self.line);
        out[..line.len()].copy_from_slice(&line);
        Ok(line.len())
    }
}

impl Write for WholeLines {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.stream.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for WholeLines {
    fn set_stream_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_stream_read_timeout(timeout)
    }
}

fn a_wrapper_that_has_nothing_to_give_yet_is_gone_at_the_deadline() {
    let (journal, pen) = journal();
    let server = ThreadingTcpServer::new("127.0.0.1:0", |request: &mut TcpRequest| {
        let stream = WholeLines {
            stream: request.get_ref().try_clone()?,
            line: Vec::new(),
        };
        let mut inner = request.wrap(stream)?;
        run_handler(&EchoLine, &mut inner)
    });
    let running = Journaled::over(server.request_timeout(millis(200)), &pen)
        .spawn()
        .unwrap();
    let mut client = connect(running.server_address());
    wait_until("another is served", || is_served(running.server_address(), "whole\n"));
    wait_until("the server has given it up", || {
        client.write_all(b"x").is_err() || journal.count("handle_error") > 0
    });
    assert_failed(&journal, "request: not done within 0.2 s");
    running.stop().unwrap();
}

// ----- Writing -----------------------------------------------------------------------------------

/// The server writes more to a client than all buffers take, and than it reads in time: it reads, but slowly.
fn assert_slow_reader_ends<S: Stream>(
    server: impl BaseServer<Transport: socketserver::Transport<Request = StreamRequest<S>>>,
    connect: impl FnOnce(&Address) -> Box<dyn Read + Send>,
) {
    let (journal, pen) = journal();
    let running = Journaled::over(server.write_timeout(millis(300)), &pen)
        .spawn()
        .unwrap();
    let mut client = connect(running.server_address());
    let mut received = 0;
    wait_until("the server has given it up", || {
        received += client.read(&mut [0; 4096]).unwrap_or(0);
        journal.count("handle_error") > 0
    });
    assert_failed(&journal, "write: the peer did not take all of it within 0.3 s");
    assert!(received > 0, "there was progress all the time");
    drop(client);
    assert_eq!(running.stop().unwrap().failed, 1);
}

fn write_64_mib<S: Stream>(request: &mut StreamRequest<S>) -> io::Result<()> {
    let began = Instant::now();
    let written = request.write_all(&vec![0; 64 << 20]);
    assert!(began.elapsed() + TICK >= millis(300), "it had not its time");
    written
}

fn a_slow_reader_is_gone_at_the_write_timeout_over_tcp() {
    let server = ThreadingTcpServer::new("127.0.0.1:0", write_64_mib::<TcpStream>);
    assert_slow_reader_ends(server, |address| Box::new(connect(address)));
}

// `SO_SNDTIMEO` alone is for each buffer there: see PIECE.
fn a_slow_reader_is_gone_at_the_write_timeout_over_unix_sockets() {
    let place = temp_path("socket");
    let server = ThreadingUnixStreamServer::new(&place.path, write_64_mib::<UnixStream>);
    assert_slow_reader_ends(server, |address| Box::new(connect_unix(address)));
}

fn a_slow_reader_of_a_message_is_gone_at_the_write_timeout() {
    let place = temp_path("socket");
    let send = |request: &mut UnixStreamRequest| {
        let began = Instant::now();
        let sent = request.framed(LengthDelimitedCodec::u32_be()).send(vec![0; 8 << 20]);
        assert!(began.elapsed() + TICK >= millis(300), "it had not its time");
        sent
    };
    assert_slow_reader_ends(ThreadingUnixStreamServer::new(&place.path, send), |address| {
        Box::new(connect_unix(address))
    });
}

fn a_vectored_write_under_a_clock_takes_no_notice_of_empty_slices() {
    let running = ThreadingTcpServer::new("127.0.0.1:0", |request: &mut TcpRequest| {
        let mut slices = [IoSlice::new(b""); 9];
        slices[8] = IoSlice::new(b"data");
        let written = request.write_vectored(&slices);
        assert_eq!(written.unwrap(), 4);
    })
    .write_timeout(CEILING)
    .spawn()
    .unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"data");
    assert_eq!(running.stop().unwrap().served, 1);
}

fn a_deadline_ends_a_write_too() {
    let (_silent, mut request) = pair(Timeouts::new().write(CEILING).request(millis(50)));
    assert_timed_out(request.write_all(&vec![0; 8 << 20]), TimeoutKind::Request);
    // What was gathered is not waited for either.
    request.set_wbufsize(1024);
    request.write_all(b"gathered").unwrap();
    assert_timed_out(request.flush(), TimeoutKind::Request);
}

// ----- A request by hand -------------------------------------------------------------------------

/// A connection without a server.
fn pair(timeouts: Timeouts) -> (UnixStream, UnixStreamRequest) {
    let (peer, stream) = UnixStream::pair().unwrap();
    let mut request = StreamRequest::new(stream, "a client");
    request.set_timeouts(timeouts).unwrap();
    (peer, request)
}

fn a_vectored_write_that_is_complete_takes_no_time_of_the_next() {
    let (_peer, mut request) = pair(Timeouts::new().write(millis(20)));
    let began = Instant::now();
    assert_eq!(request.write_vectored(&[IoSlice::new(b"one")]).unwrap(), 3);
    wait_until("its time is over", || began.elapsed() > millis(25));
    request.write_all(b"two").unwrap();
}

fn a_vectored_write_whose_rest_was_sent_without_a_clock_is_over() {
    let timeouts = Timeouts::new().write(millis(50));
    let (_peer, mut request) = pair(timeouts);
    let (began, data) = (Instant::now(), vec![0; 40 << 10]);
    let written = request.write_vectored(&[IoSlice::new(&data)]).unwrap();
    assert!(written < data.len(), "it was to leave a rest");
    request.set_timeouts(Timeouts::new()).unwrap();
    request.write_all(&data[written..]).unwrap();
    wait_until("its time would be over", || began.elapsed() > millis(60));
    request.set_timeouts(timeouts).unwrap();
    request.write_all(b"the next").unwrap();
}

fn a_vectored_write_whose_rest_was_gathered_is_over() {
    let (_peer, mut request) = pair(Timeouts::new().write(millis(50)));
    request.set_wbufsize(16 << 10);
    let (began, data) = (Instant::now(), vec![0; 40 << 10]);
    let written = request.write_vectored(&[IoSlice::new(&data)]).unwrap();
    assert!(written < data.len(), "it was to leave a rest");
    request.write_all(&data[written..]).unwrap();
    wait_until("its time would be over", || began.elapsed() > millis(60));
    request.flush().unwrap();
}

#[track_caller]
fn assert_timed_out<T: std::fmt::Debug>(outcome: io::Result<T>, kind: TimeoutKind) {
    let error = outcome.expect_err("it times out");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let reason: &TimeoutError = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref())
        .expect("a reason");
    assert_eq!(reason.kind(), kind);
}

fn a_read_timeout_is_for_one_read_and_an_idle_timeout_for_all() {
    let (mut peer, mut request) = pair(Timeouts::new().read(millis(30)).idle(millis(200)));
    let began = Instant::now();
    let mut reads = 0;
    let error = loop {
        let error = request.read(&mut [0]).unwrap_err();
        if error.to_string().starts_with("idle") {
            break error;
        }
        assert_timed_out::<()>(Err(error), TimeoutKind::Read);
        assert!(began.elapsed() < CEILING, "silence adds up");
        reads += 1;
    };
    assert_eq!(error.to_string(), "idle: the peer sent nothing for 0.2 s");
    assert!(reads >= 1 && began.elapsed() + TICK >= millis(200));
    // It begins anew: with the error that told, and with each byte.
    assert_timed_out(request.read(&mut [0]), TimeoutKind::Read);
    peer.write_all(b"x").unwrap();
    request.read_exact(&mut [0]).unwrap();
    assert_timed_out(request.read(&mut [0]), TimeoutKind::Read);
}

fn what_has_come_is_read_however_long_it_was_silent_before() {
    let soon_after = millis(30) + Duration::from_micros(1);
    let (mut peer, mut request) = pair(Timeouts::new().read(millis(30)).idle(soon_after));
    assert_timed_out(request.read(&mut [0]), TimeoutKind::Read);
    peer.write_all(b"x").unwrap();
    assert_eq!(request.read(&mut [0]).unwrap(), 1);
}

fn a_deadline_that_has_passed_ends_reads_although_there_are_bytes() {
    let (mut peer, mut request) = pair(Timeouts::new().request(millis(20)));
    peer.write_all(&[b'x'; 100]).unwrap();
    wait_until("the time is over", || request.time_left() == Some(Duration::ZERO));
    assert_timed_out(request.read(&mut [0]), TimeoutKind::Request);
    assert_timed_out(request.read_line(&mut String::new()), TimeoutKind::Request);
    assert_timed_out(request.write_all(b"x"), TimeoutKind::Request);
}

fn signals_do_not_extend_a_timeout() {
    let interrupts = Interrupts::new();
    let (_peer, mut request) = pair(Timeouts::new().idle(millis(200)));
    let ((sender, reader), (result_sender, result), over) = (mpsc::channel(), mpsc::channel(), Gate::default());
    let leave = over.clone();
    let reading = thread::spawn(move || {
        sender.send(gettid()).unwrap();
        result_sender
            .send(request.read(&mut [0]).unwrap_err().to_string())
            .unwrap();
        // A thread that is gone cannot be interrupted.
        leave.wait();
    });
    let reader = reader.recv_timeout(CEILING).unwrap();
    let mut text = None;
    wait_until("the read has ended", || {
        // The next comes sooner than the timeout would end.
        interrupts.interrupt(reader);
        text = result.try_recv().ok();
        text.is_some()
    });
    over.open();
    reading.join().unwrap();
    assert_eq!(text.as_deref(), Some("idle: the peer sent nothing for 0.2 s"));
}

fn a_signal_does_not_shorten_a_timeout() {
    let interrupts = Interrupts::new();
    let (_peer, mut request) = pair(Timeouts::new().read(millis(200)));
    let ((sender, reader), over) = (mpsc::channel(), Gate::default());
    let leave = over.clone();
    let reading = thread::spawn(move || {
        sender.send(gettid()).unwrap();
        let began = Instant::now();
        assert_timed_out(request.read(&mut [0]), TimeoutKind::Read);
        let took = began.elapsed();
        // A thread that is gone cannot be interrupted.
        leave.wait();
        took
    });
    let reader = reader.recv_timeout(CEILING).unwrap();
    wait_until_asleep(reader);
    interrupts.interrupt(reader);
    over.open();
    // The kernel's ticks may take off one.
    let took = reading.join().unwrap();
    assert!(took >= millis(190), "{took:?}");
}

fn what_has_come_while_the_process_was_stopped_is_read() {
    until_in_time(|| is_read_after_a_stop(millis(500)));
}

/// False if the server may have given its client up before it was stopped.
fn is_read_after_a_stop(idle_timeout: Duration) -> bool {
    let mut echo = support::process::echo("tcp", "sync", "127.0.0.1:0");
    let seconds = idle_timeout.as_secs_f64().to_string();
    let server = Process::start(echo.args(["--idle-timeout", &seconds]));
    let began = Instant::now();
    let client = connect(&server.address().into());
    let wait_for = |state: &str| {
        wait_until(state, || process_state(server.id()).as_deref() == Some(state));
    };
    let mut answer = String::new();
    let answered = (&client)
        .write_all(b"hello\n")
        .and_then(|()| BufReader::new(&client).read_line(&mut answer));
    // It waits for the next.
    wait_for("S");
    server.signal(Signal::SIGSTOP);
    wait_for("T");
    if began.elapsed() >= idle_timeout {
        return false;
    }
    answered.unwrap();
    assert_eq!(answer, "hello\n");
    (&client).write_all(b"in time\n").unwrap();
    // Longer than the timeout.
    thread::sleep(idle_timeout + millis(100));
    server.signal(Signal::SIGCONT);
    let mut answer = String::new();
    BufReader::new(&client).read_line(&mut answer).unwrap();
    assert_eq!(answer, "in time\n");
    drop(client);
    server.signal(Signal::SIGTERM);
    let ended = server.end();
    assert!(ended.output.starts_with("stopped: served=1 failed=0 "), "{ended:?}");
    true
}

/// Takes, or gives, a piece at a time; the process is stopped while it waits for the second, as often as told.
struct Stopped {
    pieces: Vec<usize>,
    stops: usize,
    /// When it is stopped it has taken half of a piece, which it says then, as TCP does.
    by_halves: bool,
}

impl Stopped {
    /// What can be taken, or given, within this time.
    const TIME: Duration = millis(500);

    fn with_stops(stops: usize, timeouts: Timeouts) -> StreamRequest<Self> {
        let stopped = Stopped {
            pieces: Vec::new(),
            stops,
            by_halves: false,
        };
        let mut request = StreamRequest::new(stopped, "a client");
        request.set_timeouts(timeouts).unwrap();
        request
    }

    fn next_piece(&mut self, length: usize) -> io::Result<usize> {
        if !self.pieces.is_empty() && self.stops > 0 {
            self.stops -= 1;
            thread::sleep(Self::TIME + millis(100));
            if !self.by_halves {
                return Err(ErrorKind::Interrupted.into());
            }
            self.pieces.push(length / 2);
            return Ok(length / 2);
        }
        self.pieces.push(length);
        Ok(length)
    }

    fn length(&self) -> usize {
        self.pieces.iter().sum()
    }
}

impl Read for Stopped {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.next_piece(out.len().min(1024))
    }
}

impl Write for Stopped {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.next_piece(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Stopped {
    fn set_stream_read_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn set_stream_write_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}

// What the client has made room for while the process was stopped is a piece, and it is there to take the others, too.
fn what_is_written_in_pieces_goes_on_after_the_process_was_stopped() {
    const LENGTH: usize = 100 << 10;
    let write = |stops, by_halves| {
        let mut request = Stopped::with_stops(stops, Timeouts::new().write(Stopped::TIME));
        request.get_mut().by_halves = by_halves;
        let written = request.write_all(&vec![0; LENGTH]);
        (written, request.get_ref().length())
    };
    for by_halves in [false, true] {
        until_in_time(|| matches!(write(1, by_halves), (Ok(()), LENGTH)));
        let (written, taken) = write(2, by_halves);
        assert_timed_out(written, TimeoutKind::Write);
        assert!(taken < LENGTH);
    }
}

fn a_message_is_read_in_pieces_after_the_process_was_stopped() {
    const LENGTH: usize = 10 << 10;
    let read = |stops, idle| {
        let mut request = Stopped::with_stops(stops, Timeouts::new().idle(idle));
        let mut messages = request.framed(FixedLengthCodec::new(LENGTH));
        messages.set_message_timeout(Stopped::TIME);
        messages.next().unwrap()
    };
    // The clock that is over first may be another.
    for (idle, first) in [(CEILING, TimeoutKind::Message), (Stopped::TIME / 2, TimeoutKind::Idle)] {
        until_in_time(|| read(1, idle).is_ok());
        assert_timed_out(read(2, idle), first);
    }
}

fn both_halves_keep_to_the_clocks() {
    let (_silent, mut request) = pair(Timeouts::new().idle(millis(50)).write(millis(50)));
    let (mut rfile, mut wfile) = StreamRequest::split(&mut request);
    thread::scope(|scope| {
        scope.spawn(move || assert_timed_out(rfile.read_line(&mut String::new()), TimeoutKind::Idle));
        scope.spawn(move || assert_timed_out(wfile.write_all(&vec![0; 8 << 20]), TimeoutKind::Write));
    });
}

// ----- Messages -------------------------------------------------------------------------------------------------

/// Reads a line of which only a part comes; then, with new time, the whole.
fn read_half_a_line<S: Read>(peer: &mut impl Write, mut lines: Framed<S, LinesCodec>) {
    lines.set_message_timeout(millis(50));
    peer.write_all(b"hel").unwrap();
    let error = lines.next_ref().unwrap_err();
    assert_eq!(error.to_string(), "message: not complete within 0.05 s");
    assert_timed_out::<()>(Err(error), TimeoutKind::Message);
    lines.set_message_timeout(CEILING);
    peer.write_all(b"lo\n").unwrap();
    assert_eq!(lines.next_ref().unwrap(), Some(&b"hello"[..]));
}

fn a_message_that_stops_in_its_middle_is_gone_at_its_timeout() {
    let (mut peer, mut request) = pair(Timeouts::new());
    read_half_a_line(&mut peer, request.framed(LinesCodec::new()));
    let (mut peer, mut request) = pair(Timeouts::new().idle(CEILING));
    let (rfile, _) = StreamRequest::split(&mut request);
    read_half_a_line(&mut peer, rfile.framed(LinesCodec::new()));
}

fn a_message_in_pieces_leaves_no_timeout_behind() {
    for read in [None, Some(CEILING)] {
        let timeouts = read.map_or(Timeouts::new(), |read| Timeouts::new().read(read));
        let (mut peer, mut request) = pair(timeouts);
        let socket = request.get_ref().try_clone().unwrap();
        let timeout = || socket.read_timeout().unwrap();
        let mut lines = request.framed(LinesCodec::new());
        lines.set_message_timeout(CEILING / 2);
        peer.write_all(b"o").unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                wait_until("the rest is waited for", || timeout().is_some_and(|set| set < CEILING));
                peer.write_all(b"ne\n").unwrap();
            });
            assert_eq!(lines.next_ref().unwrap(), Some(&b"one"[..]));
        });
        assert_eq!(timeout(), read);
    }
}

fn a_message_that_is_given_up_leaves_no_timeout_behind() {
    type Lines<'a> = Framed<&'a mut UnixStreamRequest, LinesCodec>;
    let half_a_line = |give_up: fn(Lines<'_>)| {
        let (mut peer, mut request) = pair(Timeouts::new());
        let socket = request.get_ref().try_clone().unwrap();
        peer.write_all(b"o").unwrap();
        let mut lines = request.framed(LinesCodec::new());
        lines.set_message_timeout(millis(20));
        lines.next_ref().unwrap_err();
        assert!(socket.read_timeout().unwrap().is_some());
        give_up(lines);
        assert_eq!(socket.read_timeout().unwrap(), None);
    };
    half_a_line(|lines| drop(lines));
    half_a_line(|lines| assert_eq!(lines.into_parts().read_buf, b"o"));
    half_a_line(|lines| {
        // To the other codec it is whole.
        let mut bytes = lines.map_codec(|_| FixedLengthCodec::new(1));
        assert_eq!(bytes.next_ref().unwrap(), Some(&b"o"[..]));
        assert_eq!(bytes.get_ref().get_ref().read_timeout().unwrap(), None);
    });
}

fn a_message_that_ends_with_the_stream_leaves_no_timeout_behind() {
    const TIMEOUT: Duration = millis(50);
    let (mut peer, mut request) = pair(Timeouts::new());
    let socket = request.get_ref().try_clone().unwrap();
    let mut lines = request.framed(LinesCodec::new().allow_unterminated());
    lines.set_message_timeout(TIMEOUT);
    let begun = Instant::now();
    peer.write_all(b"last").unwrap();
    drop(peer);
    assert_eq!(lines.next_ref().unwrap(), Some(&b"last"[..]));
    assert_eq!(socket.read_timeout().unwrap(), None);
    wait_until("its time is over", || begun.elapsed() > TIMEOUT);
    assert_eq!(lines.next_ref().unwrap(), None);
}

// ----- The deadline, as a handler sees it --------------------------------------------------------

fn a_handler_that_computes_sees_its_deadline() {
    let computes = |request: &mut TcpRequest| -> io::Result<()> {
        let (began, left) = (Instant::now(), request.time_left().expect("a deadline"));
        assert!(left <= millis(50));
        while began.elapsed() < CEILING {
            request.check_deadline()?;
        }
        Ok(())
    };
    let (journal, pen) = journal();
    let server = ThreadingTcpServer::new("127.0.0.1:0", computes).request_timeout(millis(50));
    let running = Journaled::over(server, &pen).spawn().unwrap();
    assert_closed(connect(running.server_address()));
    assert_failed(&journal, "request: not done within 0.05 s");
    running.stop().unwrap();
}

fn setting_timeouts_does_not_extend_the_deadline() {
    let handler = |request: &mut TcpRequest| -> io::Result<()> {
        let deadline = request.deadline();
        request.set_timeout(CEILING)?;
        request.set_timeouts(request.timeouts().idle(CEILING))?;
        let same = deadline.is_some() && request.deadline() == deadline;
        let none = Timeouts::new();
        request.set_timeouts(none)?;
        write!(request, "{same} {:?} {:?}", request.deadline(), request.time_left())
    };
    let server = ThreadingTcpServer::new("127.0.0.1:0", handler).request_timeout(CEILING);
    let running = server.spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"true None None");
    running.stop().unwrap();
}

fn a_wrapped_request_keeps_to_the_deadline_of_the_whole() {
    let (_peer, mut request) = pair(Timeouts::new().request(CEILING));
    let wrap = |request: &StreamRequest<UnixStream>| request.wrap(request.get_ref().try_clone().unwrap()).unwrap();
    let mut inner = wrap(&request);
    assert_eq!(inner.deadline(), request.deadline());
    assert_eq!(inner.timeouts(), request.timeouts());
    assert_eq!(inner.client_address(), request.client_address());

    // Its first byte is part of the handshake, too.
    request.set_timeouts(Timeouts::new().handshake(millis(50))).unwrap();
    let begun = Instant::now();
    wait_until("the time is over", || begun.elapsed() > millis(50));
    assert_timed_out(wrap(&request).read(&mut [0]), TimeoutKind::Handshake);
    // What it sets is its own.
    inner.set_timeouts(Timeouts::new()).unwrap();
    assert_eq!(request.timeouts(), Timeouts::new().handshake(millis(50)));
}

fn a_deadline_can_be_restarted() {
    let (mut peer, mut request) = pair(Timeouts::new().request(millis(50)));
    peer.write_all(b"12").unwrap();
    let first = request.deadline().unwrap();
    wait_until("the time is over", || request.check_deadline().is_err());
    request.restart_deadline();
    assert!(request.deadline().unwrap() >= first + millis(50));
    // More time, for a busy machine.
    request.set_timeouts(Timeouts::new().request(CEILING)).unwrap();
    request.check_deadline().unwrap();
    request.read_exact(&mut [0; 2]).unwrap();
    request.set_timeouts(Timeouts::new().request(millis(50))).unwrap();
    request.restart_deadline();
    assert_timed_out(request.read(&mut [0]), TimeoutKind::Request);
}

fn a_handshake_is_not_restarted_with_the_deadline() {
    const HANDSHAKE: Duration = millis(100);
    let (mut peer, mut request) = pair(Timeouts::new().handshake(HANDSHAKE));
    let begun = Instant::now();
    wait_until("the time is over", || begun.elapsed() > HANDSHAKE);
    peer.write_all(b"late").unwrap();
    request.restart_deadline();
    assert_timed_out(request.read(&mut [0]), TimeoutKind::Handshake);
}

// ----- The wrapper -------------------------------------------------------------------------------

fn what_the_wrapper_sets_holds_instead_of_the_servers() {
    let tell = |request: &mut TcpRequest| write!(request, "{:?}", request.timeouts());
    let (long, for_ever) = (CEILING * 2, Duration::MAX);
    let wrapped = Timeout::over(tell, Timeouts::new().idle(long).write(for_ever));
    let running = ThreadingTcpServer::new("127.0.0.1:0", wrapped)
        .idle_timeout(millis(1))
        .write_timeout(millis(1))
        .request_timeout(CEILING)
        .spawn()
        .unwrap();
    let expected = Timeouts::new().idle(long).write(for_ever).request(CEILING);
    let told = read_to_end(connect(running.server_address()));
    assert_eq!(str::from_utf8(&told).unwrap(), format!("{expected:?}"));
    running.stop().unwrap();

    let wrapped = Timeout::over(EchoOrFlood, Timeouts::new().idle(millis(200)));
    let server = ThreadingTcpServer::new("127.0.0.1:0", wrapped).idle_timeout(CEILING);
    assert_ends(server, "idle: the peer sent nothing for 0.2 s", say_something);
}

/// Notes its steps on the connection.
#[derive(Clone)]
struct Steps;

impl BaseRequestHandler<StreamRequest<MemoryStream>> for Steps {
    fn setup(&mut self, request: &mut StreamRequest<MemoryStream>) -> HandlerResult {
        Ok(write!(request, "setup {:?},", request.timeouts().idle)?)
    }

    fn handle(&mut self, request: &mut StreamRequest<MemoryStream>) -> HandlerResult {
        Ok(write!(request, "handle,")?)
    }

    fn finish(&mut self, request: &mut StreamRequest<MemoryStream>) -> HandlerResult {
        Ok(write!(request, "finish")?)
    }
}

/// As in Python: `connection.settimeout(…)` in `get_request`.
struct Hasty<S>(S, Duration);

impl<S: BaseServer<Transport = Tcp>> BaseServer for Hasty<S> {
    type Transport = Tcp;
    type Inner = S;
    fn inner(&self) -> &S {
        &self.0
    }

    fn get_request(&self) -> io::Result<TcpRequest> {
        let mut request = self.inner().get_request()?;
        request.set_timeout(self.1)?;
        Ok(request)
    }
}

fn what_get_request_sets_holds_instead_of_the_servers() {
    let server = Hasty(ThreadingTcpServer::new("127.0.0.1:0", EchoOrFlood), millis(100)).request_timeout(millis(200));
    assert_ends(server, "read: the peer sent nothing for 0.1 s", |_| {});
    let server = Hasty(ThreadingTcpServer::new("127.0.0.1:0", EchoOrFlood), millis(5_000)).request_timeout(millis(200));
    assert_ends(server, "request: not done within 0.2 s", trickle);
}

/// Runs another handler than the server's, as many a Python program does in `finish_request`.
struct Choosing<S>(S);

impl<S: BaseServer<Transport = Tcp>> BaseServer for Choosing<S> {
    type Transport = Tcp;
    type Inner = S;
    fn inner(&self) -> &S {
        &self.0
    }

    fn finish_request(&self, active: &mut Active<Tcp>) -> HandlerResult {
        run_handler(&EchoOrFlood, active.request_mut())
    }
}

fn a_finish_request_with_a_handler_of_its_own_keeps_to_the_clocks() {
    let other = |_: &mut TcpRequest| {};
    assert_deadline_holds(Choosing(ThreadingTcpServer::new("127.0.0.1:0", other)));
    assert_deadline_holds(Choosing(ForkingTcpServer::new("127.0.0.1:0", other)));
}

fn a_wrapper_is_a_handler_in_all_its_steps() {
    let mut request = StreamRequest::new(MemoryStream::default(), "a client");
    run_handler(
        &Timeout::over(Steps, Timeouts::new().idle(Duration::from_secs(9))),
        &mut request,
    )
    .unwrap();
    assert_eq!(request.get_ref().written(), b"setup Some(9s),handle,finish");
}

fn a_handler_in_memory_does_not_notice() {
    let all = Timeouts::new()
        .idle(CEILING)
        .read(CEILING)
        .write(CEILING)
        .request(CEILING)
        .handshake(CEILING);
    let mut request = StreamRequest::new(MemoryStream::new("line\nanother\n"), "a client");
    run_handler(&Timeout::over(EchoLine, all), &mut request).unwrap();
    assert_eq!(request.get_ref().written(), b"line\n");
}

// ----- The socket --------------------------------------------------------------------------------

fn the_raw_socket_has_the_timeouts_too() {
    let seconds = Duration::from_secs;
    let (_peer, mut request) = pair(Timeouts::new().idle(seconds(60)).read(seconds(20)).write(seconds(30)));
    let raw = request.get_ref();
    assert_eq!(raw.read_timeout().unwrap(), Some(seconds(20)));
    assert_eq!(raw.write_timeout().unwrap(), Some(seconds(30)));
    request.set_timeouts(Timeouts::new().read(millis(20))).unwrap();
    let error = request.get_mut().read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

fn timeouts_that_are_taken_back_are_gone_from_the_socket() {
    let (_peer, mut request) = pair(Timeouts::new().read(CEILING).write(CEILING));
    request.set_timeouts(Timeouts::new().request(Duration::MAX)).unwrap();
    let raw = request.get_ref();
    assert_eq!(raw.read_timeout().unwrap(), None);
    assert_eq!(raw.write_timeout().unwrap(), None);
}

fn a_non_blocking_socket_says_so() {
    let (_peer, mut request) = pair(Timeouts::new().idle(CEILING).request(CEILING));
    request.get_ref().set_nonblocking(true).unwrap();
    let error = request.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    // As it does without a clock: what the system says, nobody would take for that.
    assert!(
        error.to_string().starts_with("the raw socket is non-blocking"),
        "{error}"
    );
}

/// Has bytes without end, and keeps what its timeout is set to.
#[derive(Clone, Default)]
struct Endless(Arc<Mutex<Vec<Duration>>>);

impl Endless {
    fn settings(&self) -> Vec<Duration> {
        self.0.lock().unwrap().clone()
    }
}

impl Read for Endless {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        Ok(out.len())
    }
}

impl Write for Endless {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Endless {
    fn set_stream_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.lock().unwrap().push(timeout.expect("none is taken back"));
        Ok(())
    }
}

fn a_plain_timeout_costs_one_system_call_for_all_reads() {
    let settings = |timeouts| {
        let stream = Endless::default();
        let mut request = StreamRequest::new(stream.clone(), "a client");
        request.set_timeouts(timeouts).unwrap();
        for _ in 0..10_000 {
            request.read_exact(&mut [0]).unwrap();
        }
        stream.settings()
    };
    assert_eq!(settings(Timeouts::new().idle(CEILING)), [CEILING]);
    let both = Timeouts::new().idle(CEILING).read(CEILING / 2).write(millis(1));
    assert_eq!(settings(both), [CEILING / 2]);
    assert_eq!(settings(Timeouts::new().write(CEILING)), []);
}

fn a_deadline_costs_few_system_calls_for_all_reads_and_none_waits_past_it() {
    const TIME: Duration = millis(1000);
    // All the time may pass between two reads.
    let settings = first_in_time(|| -> Option<Vec<Duration>> {
        let stream = Endless::default();
        let mut request = StreamRequest::new(stream.clone(), "a client");
        request.set_timeouts(Timeouts::new().request(TIME)).unwrap();
        while request.time_left() > Some(TIME / 2) {
            request.read_exact(&mut [0]).ok()?;
        }
        request.read_exact(&mut [0]).ok()?;
        Some(stream.settings())
    });
    assert!(settings.len() <= 4, "{settings:?}");
    assert!(settings.last() < Some(&(TIME * 3 / 4)), "{settings:?}");
}

// ----- Errors ------------------------------------------------------------------------------------

fn a_timeout_of_zero_is_refused_by_name() {
    let error = ThreadingTcpServer::new("127.0.0.1:0", EchoLine)
        .request_timeout(Duration::ZERO)
        .bind()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let text = "the request timeout is zero, which would end every request at once; set none for no limit";
    assert_eq!(error.to_string(), text);
    let mut request = StreamRequest::new(MemoryStream::default(), "a client");
    let wrapped = Timeout::over(EchoLine, Timeouts::new().idle(Duration::ZERO));
    let error = run_handler(&wrapped, &mut request).unwrap_err();
    assert!(error.to_string().starts_with("the idle timeout is zero"), "{error}");
}

/// Keeps what `handle_error` gets.
struct Told<S>(S, mpsc::Sender<(bool, Option<TimeoutError>)>);

impl<S: BaseServer> BaseServer for Told<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn handle_error(&self, error: &RequestError) {
        self.1.send((error.is_disconnect(), error.timeout().copied())).unwrap();
        self.inner().handle_error(error);
    }
}

fn a_timeout_is_a_disconnect_that_says_which() {
    let (sender, told) = mpsc::channel();
    let server = ThreadingTcpServer::new("127.0.0.1:0", EchoLine).idle_timeout(millis(20));
    let running = Told(server, sender).spawn().unwrap();
    let client = connect(running.server_address());
    let (disconnect, timeout) = told.recv_timeout(CEILING).unwrap();
    assert!(disconnect);
    let timeout = timeout.expect("it was one");
    assert_eq!((timeout.kind(), timeout.length()), (TimeoutKind::Idle, millis(20)));
    let line = format!(
        "INFO handle failed for {}: idle: the peer sent nothing for 0.02 s",
        client.local_addr().unwrap()
    );
    running.stop().unwrap();
    assert!(logged().contains(&line), "{:?}", logged());
}

fn the_example_takes_timeouts() {
    let example = |clock: &str| {
        let mut command = support::process::echo("tcp", "threading", "127.0.0.1:0");
        Process::start(command.args([clock, "0.2"]))
    };
    let idle = example("--idle-timeout");
    let client = connect(&idle.address().into());
    assert_closed(&client);
    idle.signal(Signal::SIGTERM);
    let ended = idle.end();
    assert!(ended.output.starts_with("stopped: served=0 failed=1 "), "{ended:?}");
    assert!(
        ended.errors.contains("idle: the peer sent nothing for 0.2 s"),
        "{ended:?}"
    );

    let request = example("--request-timeout");
    trickle(&mut connect(&request.address().into()));
    request.signal(Signal::SIGTERM);
    let ended = request.end();
    assert!(ended.errors.contains("request: not done within 0.2 s"), "{ended:?}");
}

//! Clients that send more than their handler reads: closing at once would reset the connection (RFC 2525, 2.17), and
//! with it lose what is left of the answer.

mod support;

use std::io::{self, BufRead, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::gettid;
use socketserver::prelude::*;
use socketserver::run_handler;
use support::attempts::until_in_time;
use support::gate::Gate;
use support::interrupt::{Interrupts, wait_until_asleep};
use support::talk::ECHO_LINES;
use support::unix::connect_unix;
use support::wrapped::Wrapped;
use support::{CEILING, connect, exchange_line, read_to_end, temp_path, wait_until};

tests![
    // Before a server forks: from then on each connection is shut down before it is closed.
    a_client_that_sends_more_as_a_drain_ends_its_connection_reads_the_last_answer_and_the_end,
    a_unix_client_that_sent_more_than_was_read_reads_the_end_under_every_strategy,
    a_long_answer_arrives_under_every_strategy_although_its_client_still_sends,
    a_client_that_has_sent_all_and_stays_is_not_waited_for,
    a_client_that_sends_on_is_not_waited_for_beyond_the_time_of_its_request,
    a_client_that_sends_on_is_waited_for_until_the_drain_deadline,
    a_signal_does_not_end_the_wait_for_a_client_that_may_send_on,
    what_a_hook_that_keeps_the_connection_left_unread_stays,
    what_a_handler_that_gave_its_socket_away_left_unread_stays,
    a_long_answer_arrives_through_wrapped_streams_although_its_client_still_sends,
    what_a_wrapped_stream_that_outlives_its_handler_left_unread_stays,
];

type Handled = io::Result<()>;

const ANY_PORT: &str = "127.0.0.1:0";
/// More than the buffers of both ends have room for at first.
const LONG: usize = 8 << 20;

/// Answers the first line, and reads no byte more.
fn first_line<S: Stream>(request: &mut StreamRequest<S>) -> Handled {
    request.set_rbufsize(1);
    let mut line = String::new();
    request.read_line(&mut line)?;
    request.write_all(line.as_bytes())
}

fn long_answer<S: Stream>(request: &mut StreamRequest<S>) -> Handled {
    first_line(request)?;
    request.write_all(&vec![b'x'; LONG])
}

fn a_unix_client_that_sent_more_than_was_read_reads_the_end_under_every_strategy() {
    fn check(server: impl BaseServer) {
        let running = server.spawn().unwrap();
        let mut client = connect_unix(running.server_address());
        client.write_all(b"one\ntwo\n").unwrap();
        assert_eq!(read_to_end(client), b"one\n");
        assert_eq!(running.stop().unwrap().served, 1);
    }
    let place = temp_path("socket");
    check(UnixStreamServer::new(&place.path, first_line));
    check(ThreadingUnixStreamServer::new(&place.path, first_line));
    check(ThreadPoolUnixStreamServer::new(&place.path, first_line));
    check(ForkingUnixStreamServer::new(&place.path, first_line));
    check(PreForkUnixStreamServer::new(&place.path, first_line));
}

/// Serves one client with [`long_answer`].
#[track_caller]
fn a_long_answer_arrives(server: impl BaseServer) {
    let running = server.spawn().unwrap();
    let client = connect(running.server_address());
    // It has begun to send more before it is answered.
    (&client).write_all(b"one\ntwo\n").unwrap();
    let answer = thread::scope(|scope| {
        let sent = scope.spawn(|| (&client).write_all(&vec![b'y'; LONG]));
        let answer = read_to_end(&client);
        sent.join().unwrap().unwrap();
        answer
    });
    assert_eq!(answer.len(), 4 + LONG);
    drop(client);
    assert_eq!(running.stop().unwrap().served, 1);
}

fn a_long_answer_arrives_under_every_strategy_although_its_client_still_sends() {
    a_long_answer_arrives(TcpServer::new(ANY_PORT, long_answer));
    a_long_answer_arrives(ThreadingTcpServer::new(ANY_PORT, long_answer));
    a_long_answer_arrives(ThreadPoolTcpServer::new(ANY_PORT, long_answer));
    a_long_answer_arrives(ForkingTcpServer::new(ANY_PORT, long_answer));
    a_long_answer_arrives(PreForkTcpServer::new(ANY_PORT, long_answer));
}

fn a_client_that_has_sent_all_and_stays_is_not_waited_for() {
    let running = TcpServer::new(ANY_PORT, first_line).spawn().unwrap();
    let first = connect(running.server_address());
    (&first)
        .write_all(&[b"one\n".as_slice(), &vec![b'y'; 50_000]].concat())
        .unwrap();
    // Served one by one: the first has ended.
    let second = connect(running.server_address());
    (&second).write_all(b"two\n").unwrap();
    assert_eq!(read_to_end(second), b"two\n");
    assert_eq!(read_to_end(first), b"one\n");
    running.stop().unwrap();
}

/// A client that has sent more than is read, and sends until it cannot any more.
fn sends_on(stream: TcpStream) -> thread::JoinHandle<()> {
    (&stream).write_all(b"one\nmore\n").unwrap();
    thread::spawn(move || {
        while (&stream).write_all(b"more\n").is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    })
}

fn a_client_that_sends_on_is_not_waited_for_beyond_the_time_of_its_request() {
    let running = TcpServer::new(ANY_PORT, first_line)
        .request_timeout(Duration::from_millis(200))
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let client = sends_on(connect(running.server_address()));
    client.join().unwrap();
    // Not the 30 seconds that there are without such a time.
    assert!(begun.elapsed() < CEILING);
    assert_eq!(running.stop().unwrap().served, 1);
}

fn a_client_that_sends_on_is_waited_for_until_the_drain_deadline() {
    let running = ThreadingTcpServer::new(ANY_PORT, first_line)
        .drain_timeout(Duration::from_millis(50))
        .spawn()
        .unwrap();
    let stream = connect(running.server_address());
    let client = sends_on(stream.try_clone().unwrap());
    // It has its answer, and the handler has nothing more to do.
    assert_eq!(read_to_end(stream), b"one\n");
    assert_eq!(running.handle().stats().running, 1);
    let report = running.stop().unwrap();
    client.join().unwrap();
    assert_eq!((report.served, report.leaked), (1, 0));
}

fn a_signal_does_not_end_the_wait_for_a_client_that_may_send_on() {
    let interrupts = Interrupts::new();
    let is_waited_for = || {
        let (sender, threads) = mpsc::channel();
        let handler = move |request: &mut TcpRequest| -> Handled {
            sender.send(gettid()).map_err(io::Error::other)?;
            first_line(request)
        };
        let running = TcpServer::new(ANY_PORT, handler).spawn().unwrap();
        let mut client = connect(running.server_address());
        client.write_all(b"one\nmore\n").unwrap();
        assert_eq!(read_to_end(client.try_clone().unwrap()), b"one\n");
        let thread = threads.recv().unwrap();
        for _ in 0..10 {
            wait_until_asleep(thread);
            interrupts.interrupt(thread);
        }
        let still_there = running.handle().stats().running == 1;
        drop(client);
        running.stop().unwrap();
        still_there
    };
    // The half second that it may be silent may be over before.
    until_in_time(is_waited_for);
}

fn a_client_that_sends_more_as_a_drain_ends_its_connection_reads_the_last_answer_and_the_end() {
    let (ended, sent) = (Gate::default(), Gate::default());
    let (at_the_end, before_the_answer) = (ended.clone(), sent.clone());
    let handler = move |request: &mut TcpRequest| -> Handled {
        ECHO_LINES(request)?;
        at_the_end.open();
        before_the_answer.wait();
        request.write_all(b"bye\n")
    };
    let running = ThreadingTcpServer::new(ANY_PORT, handler).spawn().unwrap();
    let client = connect(running.server_address());
    assert_eq!(exchange_line(&client, "one\n"), "one\n");
    running.shutdown_handle().shutdown();
    ended.wait();
    (&client).write_all(b"two\n").unwrap();
    sent.open();
    assert_eq!(read_to_end(client), b"bye\n");
    assert_eq!(running.join().unwrap().served, 1);
}

fn what_a_hook_that_keeps_the_connection_left_unread_stays() {
    struct Keeping<S: BaseServer>(S, mpsc::Sender<RequestOf<S>>);
    impl<S: BaseServer> BaseServer for Keeping<S> {
        type Transport = S::Transport;
        type Inner = S;
        fn inner(&self) -> &S {
            &self.0
        }
        fn shutdown_request(&self, _: &mut RequestOf<S>) {}
        fn close_request(&self, request: RequestOf<S>) {
            self.1.send(request).unwrap();
        }
    }
    let (sender, kept) = mpsc::channel();
    let running = Keeping(ThreadingTcpServer::new(ANY_PORT, first_line), sender)
        .spawn()
        .unwrap();
    let client = connect(running.server_address());
    (&client).write_all(b"one\ntwo\n").unwrap();
    let mut kept = kept.recv().unwrap();
    first_line(&mut kept).unwrap();
    drop(kept);
    assert_eq!(read_to_end(client), b"one\ntwo\n");
    running.stop().unwrap();
}

/// A handler reads a line and gives the connection away.
#[track_caller]
fn assert_the_rest_stays_unread<G: Read + Send + Sync + 'static>(give_away: fn(&mut TcpRequest) -> io::Result<G>) {
    let (sender, given) = mpsc::channel();
    let handler =
        move |request: &mut TcpRequest| -> Handled { sender.send(give_away(request)?).map_err(io::Error::other) };
    let running = TcpServer::new(ANY_PORT, handler).spawn().unwrap();
    let mut client = connect(running.server_address());
    client.write_all(b"one\ntwo\n").unwrap();
    let given = given.recv().unwrap();
    wait_until("the request has ended", || running.handle().stats().served == 1);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(given), b"two\n");
    running.stop().unwrap();
}

fn what_a_handler_that_gave_its_socket_away_left_unread_stays() {
    assert_the_rest_stays_unread(|request| {
        first_line(request)?;
        request.get_ref().try_clone()
    });
    assert_the_rest_stays_unread::<TcpStream>(|request| {
        first_line(request)?;
        let (_, wfile) = request.split();
        let descriptor = wfile.fileno().expect("it is a socket");
        Ok(descriptor.try_clone_to_owned()?.into())
    });
}

fn a_long_answer_arrives_through_wrapped_streams_although_its_client_still_sends() {
    let once = |request: &mut TcpRequest| run_handler(&long_answer, &mut Wrapped::around(request)?);
    let twice = |request: &mut TcpRequest| {
        let inner = Wrapped::around(request)?;
        run_handler(&long_answer, &mut Wrapped::around(&inner)?)
    };
    a_long_answer_arrives(TcpServer::new(ANY_PORT, once));
    a_long_answer_arrives(ThreadingTcpServer::new(ANY_PORT, twice));
}

fn what_a_wrapped_stream_that_outlives_its_handler_left_unread_stays() {
    fn with_a_line_read(mut wrapped: StreamRequest<Wrapped>) -> io::Result<StreamRequest<Wrapped>> {
        first_line(&mut wrapped)?;
        Ok(wrapped)
    }
    assert_the_rest_stays_unread(|request| with_a_line_read(Wrapped::around(request)?));
    assert_the_rest_stays_unread(|request| with_a_line_read(Wrapped::around(&Wrapped::around(request)?)?));
}

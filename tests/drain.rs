//! How a server ends: who is refused, who is still answered, and who is told to leave. Until when: `drain_deadline.rs`.

#![allow(unsafe_code, reason = "fork(2) has no safe form")]

mod support;

use std::fs::File;
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::iter;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::socket::{MsgFlags, recv};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, gettid};
use socketserver::framing::LinesCodec;
use socketserver::prelude::*;
use socketserver::{Event, Replies, Running, State, Tcp, Udp, UnixStreams, run_handler};
use support::accepting::Accepting;
use support::batch::Stall;
use support::gate::Gate;
use support::interrupt::wait_until_asleep;
use support::process::{Process, pid, role};
use support::talk::greet;
use support::unix::{connect_unix, unnamed_datagram_client};
use support::wrapped::Wrapped;
use support::{
    CEILING, Lines, can_refuse_clients, children_of, connect, counts, exchange_line, inet, read_to_end, temp_path,
    udp_client, wait_until, wait_until_draining,
};

tests![
    roles: binds_and_serves_in_the_background, serves_and_serves_again_in_the_background;
    an_idle_connection_is_told_at_once_by_a_sync_server,
    idle_connections_are_told_at_once_by_a_threading_server,
    idle_connections_are_told_at_once_by_a_pool,
    idle_connections_are_told_at_once_by_a_forking_server,
    idle_connections_are_told_at_once_where_the_handlers_process_may_open_nothing_any_more,
    idle_connections_are_told_at_once_by_threads_that_accept,
    idle_connections_over_unix_sockets_are_told_at_once,
    an_idle_connection_whose_halves_are_split_is_told_at_once,
    an_idle_connection_whose_stream_a_handler_has_wrapped_is_told_at_once,
    an_answer_from_another_thread_makes_a_connection_idle,
    a_connection_whose_messages_nobody_answers_is_told_at_once,
    a_silent_connection_of_which_nothing_is_expected_is_told_at_once,
    the_next_message_that_nobody_answers_is_waited_for,
    a_client_whose_next_message_came_too_late_reads_the_end,
    a_client_of_whom_more_is_expected_is_answered_until_it_knows_that_it_is_the_last_under_every_strategy,
    a_client_that_was_greeted_and_has_said_nothing_is_answered_once,
    a_client_that_is_being_set_up_is_answered_once,
    a_client_that_was_set_up_and_has_said_nothing_is_answered_once,
    a_client_that_was_set_up_and_greeted_is_answered_once,
    a_client_in_the_middle_of_a_message_is_answered,
    a_client_in_the_middle_of_a_framed_message_is_answered,
    a_client_in_the_middle_of_a_framed_message_is_answered_although_another_thread_writes,
    a_message_that_has_arrived_is_answered,
    a_message_that_has_begun_to_arrive_is_answered_although_nobody_has_read_of_it,
    a_message_that_has_begun_to_arrive_is_answered_although_its_handler_was_busy,
    a_message_that_has_begun_to_arrive_is_answered_although_another_thread_answers_the_last,
    a_connection_is_told_within_a_second_if_what_has_arrived_is_no_message,
    no_idle_connection_is_forgotten_by_a_sync_server,
    no_idle_connection_is_forgotten_by_a_threading_server,
    no_idle_connection_is_forgotten_by_a_forking_server,
    idle_connections_make_room_for_the_queue_of_a_pool,
    idle_connections_make_room_for_the_queue_of_a_forking_server,
    while_the_queue_waits_new_tcp_clients_are_refused,
    while_the_queue_waits_new_unix_clients_are_refused,
    a_flood_of_datagrams_does_not_put_the_end_off,
    queued_udp_datagrams_are_served_and_new_ones_refused,
    queued_unix_datagrams_are_served_and_new_ones_refused,
    closing_serves_the_queue,
    a_tcp_listener_made_elsewhere_is_not_drained,
    a_unix_listener_made_elsewhere_is_not_drained,
    datagrams_received_ahead_from_a_socket_made_elsewhere_are_served,
    a_stray_nudge_changes_nothing,
    a_server_that_went_to_the_background_after_binding_ends_as_any_other,
    a_server_in_the_background_of_one_that_has_served_hears_of_its_end,
    a_signal_for_what_a_handler_has_forked_is_not_for_the_server,
    what_a_handler_has_forked_in_a_worker_ends_by_sigterm_and_the_worker_goes_on,
    a_request_that_a_handler_has_forked_in_a_worker_and_lets_end_twice_is_counted_and_told_once,
    a_request_that_a_hook_has_forked_in_a_worker_and_lets_start_twice_is_counted_once,
    a_request_that_an_observer_of_its_end_has_forked_in_a_worker_is_counted_once,
];

const ANY_PORT: &str = "127.0.0.1:0";

// ----- Who is idle -------------------------------------------------------------------------------

/// Each client has been answered; the server, which would wait half a minute, ends at once.
#[track_caller]
fn assert_told<C: Read + Write>(server: impl BaseServer, clients: usize, connect: impl Fn(&Address) -> C) {
    let running = server.spawn().unwrap();
    let mut clients: Vec<_> = (0..clients).map(|_| connect(running.server_address())).collect();
    for client in &mut clients {
        assert_eq!(exchange_line(&mut *client, "hello\n"), "hello\n");
    }
    running.shutdown_handle().shutdown();
    let number = clients.len() as u64;
    for client in clients {
        assert_eq!(read_to_end(client), b"");
    }
    assert_eq!(counts(running.join().unwrap()), [number, 0, number, 0, 0]);
}

fn an_idle_connection_is_told_at_once_by_a_sync_server() {
    assert_told(TcpServer::new(ANY_PORT, Lines), 1, connect);
}

fn idle_connections_are_told_at_once_by_a_threading_server() {
    assert_told(ThreadingTcpServer::new(ANY_PORT, Lines), 10, connect);
}

fn idle_connections_are_told_at_once_by_a_pool() {
    assert_told(ThreadPoolTcpServer::new(ANY_PORT, Lines).workers(10), 10, connect);
}

fn idle_connections_are_told_at_once_by_a_forking_server() {
    assert_told(ForkingTcpServer::new(ANY_PORT, Lines), 10, connect);
}

/// Shuts its process off from all that it has not opened yet.
#[derive(Clone)]
struct ShutOff;

impl BaseRequestHandler<TcpRequest> for ShutOff {
    fn setup(&mut self, _: &mut TcpRequest) -> HandlerResult {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        Ok(setrlimit(Resource::RLIMIT_NOFILE, 0, hard)?)
    }

    fn handle(&mut self, request: &mut TcpRequest) -> HandlerResult {
        Lines.handle(request)
    }
}

fn idle_connections_are_told_at_once_where_the_handlers_process_may_open_nothing_any_more() {
    assert_told(ForkingTcpServer::new(ANY_PORT, ShutOff), 3, connect);
}

fn idle_connections_are_told_at_once_by_threads_that_accept() {
    // One of them is left to notice.
    assert_told(Accepting::over(TcpServer::new(ANY_PORT, Lines), 4), 3, connect);
}

// The end that the handler reads is the server's: what the client has sent since is unread.
fn a_client_whose_next_message_came_too_late_reads_the_end() {
    let (told, sent) = (Gate::default(), Gate::default());
    let (in_handler, until) = (told.clone(), sent.clone());
    let handler = move |request: &mut TcpRequest| -> io::Result<()> {
        request.write_all(b"hello\n")?;
        request.read_exact(&mut [0; 6])?;
        request.write_all(b"hello\n")?;
        assert_eq!(request.read(&mut [0])?, 0);
        in_handler.open();
        until.wait();
        Ok(())
    };
    let running = TcpServer::new(ANY_PORT, handler).spawn().unwrap();
    let mut client = connect(running.server_address());
    client.write_all(b"hello\n").unwrap();
    client.read_exact(&mut [0; 12]).unwrap();
    running.shutdown_handle().shutdown();
    told.wait();
    client.write_all(b"too late\n").unwrap();
    sent.open();
    assert_eq!(running.join().unwrap().served, 1);
    assert_eq!(read_to_end(client), b"");
}

fn idle_connections_over_unix_sockets_are_told_at_once() {
    let place = temp_path("socket");
    assert_told(UnixStreamServer::new(&place.path, Lines), 1, connect_unix);
    assert_told(ThreadingUnixStreamServer::new(&place.path, Lines), 10, connect_unix);
    assert_told(ForkingUnixStreamServer::new(&place.path, Lines), 10, connect_unix);
}

fn an_idle_connection_whose_halves_are_split_is_told_at_once() {
    let handler = |request: &mut TcpRequest| -> io::Result<()> {
        let (rfile, mut wfile) = request.split();
        rfile.lines().try_for_each(|line| writeln!(wfile, "{}", line?))
    };
    assert_told(ThreadingTcpServer::new(ANY_PORT, handler), 3, connect);
}

fn an_idle_connection_whose_stream_a_handler_has_wrapped_is_told_at_once() {
    let handler = |request: &mut TcpRequest| run_handler(&Lines, &mut Wrapped::around(request)?);
    assert_told(TcpServer::new(ANY_PORT, handler), 1, connect);
    assert_told(ThreadingTcpServer::new(ANY_PORT, handler), 3, connect);
    assert_told(ForkingTcpServer::new(ANY_PORT, handler), 3, connect);
}

fn an_answer_from_another_thread_makes_a_connection_idle() {
    let (read, answer) = (Gate::default(), Gate::default());
    let gates = (read.clone(), answer.clone());
    let running = ThreadingTcpServer::new(ANY_PORT, move |request: &mut TcpRequest| {
        let (mut rfile, mut wfile) = request.split();
        let (read, answer) = gates.clone();
        thread::scope(|scope| {
            scope.spawn(move || {
                read.wait();
                answer.wait();
                wfile.write_all(b"answer\n").unwrap();
            });
            rfile.read_line(&mut String::new())?;
            gates.0.open();
            rfile.read_line(&mut String::new()).map(drop)
        })
    })
    .spawn()
    .unwrap();
    let mut client = connect(running.server_address());
    client.write_all(b"question\n").unwrap();
    read.wait();
    running.shutdown_handle().shutdown();
    wait_until_draining(&running.shutdown_handle());
    answer.open();
    assert_eq!(read_to_end(client), b"answer\n");
    assert_eq!(counts(running.join().unwrap()), [1, 0, 1, 0, 0]);
}

/// Sends on each line that a client says, and answers none.
fn collector() -> (impl BaseRequestHandler<TcpRequest>, Receiver<String>) {
    let (sender, lines) = channel();
    let collect = move |request: &mut TcpRequest| -> HandlerResult {
        let server = request.server().clone();
        let mut framed = request.framed(LinesCodec::new());
        while let Some(line) = framed.next_ref()? {
            let line = String::from_utf8(line.to_vec())?;
            server.message_ended();
            sender.send(line)?;
        }
        Ok(())
    };
    (collect, lines)
}

fn a_connection_whose_messages_nobody_answers_is_told_at_once() {
    let (collect, lines) = collector();
    for running in [
        TcpServer::new(ANY_PORT, collect.clone()).spawn(),
        ThreadingTcpServer::new(ANY_PORT, collect.clone()).spawn(),
        ThreadPoolTcpServer::new(ANY_PORT, collect).spawn(),
    ] {
        let running = running.unwrap();
        let mut client = connect(running.server_address());
        client.write_all(b"one\ntwo\n").unwrap();
        assert_eq!([lines.recv().unwrap(), lines.recv().unwrap()], ["one", "two"]);
        running.shutdown_handle().shutdown();
        assert_eq!(read_to_end(client), b"");
        assert_eq!(counts(running.join().unwrap()), [1, 0, 1, 0, 0]);
    }
}

/// A subscriber, who need not ever say anything, to what is said to all.
fn a_silent_connection_of_which_nothing_is_expected_is_told_at_once() {
    let (waits, waiting) = channel();
    let running = ThreadingTcpServer::new(ANY_PORT, move |request: &mut TcpRequest| -> io::Result<()> {
        request.write_all(b"news\n")?;
        request.server().message_ended();
        waits.send(()).expect("the test waits");
        request.read_line(&mut String::new()).map(drop)
    })
    .spawn()
    .unwrap();
    let client = connect(running.server_address());
    waiting.recv().unwrap();
    running.shutdown_handle().shutdown();
    assert_eq!(read_to_end(client), b"news\n");
    assert_eq!(counts(running.join().unwrap()), [1, 0, 1, 0, 0]);
}

fn the_next_message_that_nobody_answers_is_waited_for() {
    let (collect, lines) = collector();
    let running = ThreadingTcpServer::new(ANY_PORT, collect).spawn().unwrap();
    let mut client = connect(running.server_address());
    client.write_all(b"one\ntw").unwrap();
    assert_eq!(lines.recv().unwrap(), "one");
    let handle = running.handle();
    wait_until("all that was sent is read", || {
        handle.stats().connections[0].received == Some(6)
    });
    running.shutdown_handle().shutdown();
    wait_until_draining(&running.shutdown_handle());
    client.write_all(b"o\n").unwrap();
    assert_eq!(lines.recv().unwrap(), "two");
    assert_eq!(read_to_end(client), b"");
    assert_eq!(counts(running.join().unwrap()), [1, 0, 1, 0, 0]);
}

/// What `deployment` has HTTP's servers do, so that no request of a connection that stays is lost.
fn keep_alive(request: &mut TcpRequest) -> HandlerResult {
    while request.read_line(&mut String::new())? > 0 {
        let last = request.server().is_draining();
        request.write_all(if last { b"close\n" } else { b"keep\n" })?;
        request.server().message_begun();
        if last {
            break;
        }
    }
    Ok(())
}

fn a_client_of_whom_more_is_expected_is_answered_until_it_knows_that_it_is_the_last_under_every_strategy() {
    fn check(server: impl BaseServer<Transport = Tcp>) {
        let running = server.spawn().unwrap();
        let client = connect(running.server_address());
        assert_eq!(exchange_line(&client, "one\n"), "keep\n");
        running.shutdown_handle().shutdown();
        // A worker hears of it a moment later.
        let mut answers = iter::repeat_with(|| exchange_line(&client, "another\n"));
        assert_eq!(answers.find(|answer| answer != "keep\n").as_deref(), Some("close\n"));
        assert_eq!(read_to_end(client), b"");
        assert_eq!(counts(running.join().unwrap()), [1, 0, 1, 0, 0]);
    }
    check(TcpServer::new(ANY_PORT, keep_alive));
    check(ThreadingTcpServer::new(ANY_PORT, keep_alive));
    check(ThreadPoolTcpServer::new(ANY_PORT, keep_alive).workers(1));
    check(ForkingTcpServer::new(ANY_PORT, keep_alive));
    check(PreForkTcpServer::new(ANY_PORT, keep_alive).workers(1));
    check(ThreadingTcpServer::new(ANY_PORT, keep_alive).prefork().workers(1));
}

fn a_client_that_was_greeted_and_has_said_nothing_is_answered_once() {
    let running = ThreadingTcpServer::new(ANY_PORT, greet).spawn().unwrap();
    let client = connect(running.server_address());
    assert_eq!(exchange_line(&client, ""), "welcome\n");
    running.shutdown_handle().shutdown();
    wait_until_draining(&running.shutdown_handle());
    assert_eq!(exchange_line(&client, "hello\n"), "hello\n");
    assert_eq!(read_to_end(client), b"");
    assert_eq!(counts(running.join().unwrap()), [1, 0, 1, 0, 0]);
}

/// Has two steps of an exchange before the conversation, as a handshake of TLS has, then a greeting, if there is any.
#[derive(Clone)]
struct Introduced {
    greeting: &'static str,
}

impl BaseRequestHandler<TcpRequest> for Introduced {
    fn setup(&mut self, request: &mut TcpRequest) -> HandlerResult {
        for _ in 0..2 {
            let mut line = String::new();
            request.read_line(&mut line)?;
            request.write_all(line.as_bytes())?;
        }
        Ok(())
    }

    fn handle(&mut self, request: &mut TcpRequest) -> HandlerResult {
        request.write_all(self.greeting.as_bytes())?;
        Lines.handle(request)
    }
}

/// A client that has been through so many steps when the server is told to stop gets its first answer.
#[track_caller]
fn assert_answered_once(greeting: &'static str, steps: usize) {
    let handler = Introduced { greeting };
    for (running, drains_meanwhile) in [
        (TcpServer::new(ANY_PORT, handler.clone()).spawn(), false),
        (ThreadingTcpServer::new(ANY_PORT, handler.clone()).spawn(), true),
        (ForkingTcpServer::new(ANY_PORT, handler).spawn(), true),
    ] {
        let running = running.unwrap();
        let client = connect(running.server_address());
        let introduce = || assert_eq!(exchange_line(&client, "I am\n"), "I am\n");
        (0..steps).for_each(|_| introduce());
        if steps == 2 && !greeting.is_empty() {
            assert_eq!(exchange_line(&client, ""), greeting);
        }
        running.shutdown_handle().shutdown();
        if drains_meanwhile {
            wait_until_draining(&running.shutdown_handle());
        }
        (steps..2).for_each(|_| introduce());
        assert_eq!(exchange_line(&client, "hello\n"), "hello\n");
        assert_eq!(read_to_end(client), b"");
        assert_eq!(counts(running.join().unwrap()), [1, 0, 1, 0, 0]);
    }
}

fn a_client_that_is_being_set_up_is_answered_once() {
    assert_answered_once("", 1);
}

fn a_client_that_was_set_up_and_has_said_nothing_is_answered_once() {
    assert_answered_once("", 2);
}

fn a_client_that_was_set_up_and_greeted_is_answered_once() {
    assert_answered_once("welcome\n", 2);
}

fn a_client_in_the_middle_of_a_message_is_answered() {
    let begun = Gate::default();
    let gate = begun.clone();
    let running = ThreadingTcpServer::new(ANY_PORT, move |request: &mut TcpRequest| -> HandlerResult {
        let mut line = String::new();
        request.read_line(&mut line)?;
        request.write_all(line.as_bytes())?;
        let mut first = [0];
        request.read_exact(&mut first)?;
        gate.open();
        request.read_line(&mut line)?;
        request.write_all(line.as_bytes())?;
        Lines.handle(request)
    })
    .spawn()
    .unwrap();
    let mut client = connect(running.server_address());
    assert_eq!(exchange_line(&client, "one\n"), "one\n");
    client.write_all(b"-").unwrap();
    begun.wait();
    running.shutdown_handle().shutdown();
    wait_until_draining(&running.shutdown_handle());
    client.write_all(b"two\n").unwrap();
    assert_eq!(read_to_end(client), b"one\ntwo\n");
    assert_eq!(counts(running.join().unwrap()), [1, 0, 1, 0, 0]);
}

/// The beginning of its next message came with the one before.
fn a_client_in_the_middle_of_a_framed_message_is_answered() {
    fn whole(request: &mut TcpRequest) -> io::Result<()> {
        let mut framed = request.framed(LinesCodec::new());
        while let Some(line) = framed.next() {
            framed.send(line?)?;
        }
        Ok(())
    }
    fn in_halves(request: &mut TcpRequest) -> io::Result<()> {
        let (rfile, wfile) = request.split();
        let (mut incoming, mut outgoing) = (rfile.framed(LinesCodec::new()), wfile.framed(LinesCodec::new()));
        while let Some(line) = incoming.next_ref()? {
            outgoing.send(line)?;
        }
        Ok(())
    }
    for handler in [whole as fn(&mut TcpRequest) -> _, in_halves] {
        let running = ThreadingTcpServer::new(ANY_PORT, handler).spawn().unwrap();
        let mut client = connect(running.server_address());
        assert_eq!(exchange_line(&client, "one\nt"), "one\n");
        running.shutdown_handle().shutdown();
        wait_until_draining(&running.shutdown_handle());
        client.write_all(b"wo\n").unwrap();
        assert_eq!(read_to_end(client), b"two\n");
        assert_eq!(counts(running.join().unwrap()), [1, 0, 1, 0, 0]);
    }
}

/// What another thread writes meanwhile, as a chat room does, answers nothing of it.
fn a_client_in_the_middle_of_a_framed_message_is_answered_although_another_thread_writes() {
    let write = Gate::default();
    let gate = write.clone();
    let running = ThreadingTcpServer::new(ANY_PORT, move |request: &mut TcpRequest| -> io::Result<()> {
        let (rfile, wfile) = request.split();
        let mut incoming = rfile.framed(LinesCodec::new());
        let outgoing = Mutex::new(wfile.framed(LinesCodec::new()));
        thread::scope(|scope| {
            scope.spawn(|| {
                gate.wait();
                outgoing.lock().unwrap().send("news").unwrap();
            });
            while let Some(line) = incoming.next_ref()? {
                outgoing.lock().unwrap().send(line)?;
            }
            Ok(())
        })
    })
    .spawn()
    .unwrap();
    let handle = running.handle();
    let mut client = connect(running.server_address());
    client.write_all(b"o").unwrap();
    wait_until("the message has begun to come", || {
        handle.stats().connections.iter().any(|one| one.received == Some(1))
    });
    write.open();
    assert_eq!(exchange_line(&client, ""), "news\n");
    running.shutdown_handle().shutdown();
    wait_until_draining(&running.shutdown_handle());
    client.write_all(b"ne\n").unwrap();
    assert_eq!(read_to_end(client), b"one\n");
    assert_eq!(counts(running.join().unwrap()), [1, 0, 1, 0, 0]);
}

/// It arrived while the handler was busy with the one before.
fn a_message_that_has_arrived_is_answered() {
    let go_on = Gate::default();
    let gate = go_on.clone();
    let running = ThreadingTcpServer::new(ANY_PORT, move |request: &mut TcpRequest| -> HandlerResult {
        let mut line = [0; 4];
        request.read_exact(&mut line)?;
        request.write_all(&line)?;
        gate.wait();
        Lines.handle(request)
    })
    .spawn()
    .unwrap();
    let mut client = connect(running.server_address());
    assert_eq!(exchange_line(&client, "one\n"), "one\n");
    client.write_all(b"two\nthree\n").unwrap();
    running.shutdown_handle().shutdown();
    wait_until_draining(&running.shutdown_handle());
    go_on.open();
    assert_eq!(read_to_end(client), b"two\nthree\n");
    assert_eq!(counts(running.join().unwrap()), [1, 0, 1, 0, 0]);
}

/// A stream whose second read is held up between its call and the kernel, when something is there to be read: on a busy
/// machine that is where a thread waits for its processor.
struct HeldUp {
    /// A socket.
    stream: File,
    reads: AtomicUsize,
    hold: Hold,
}

impl HeldUp {
    fn over(socket: &impl AsFd, hold: &Hold) -> io::Result<Self> {
        Ok(HeldUp {
            stream: socket.as_fd().try_clone_to_owned()?.into(),
            reads: AtomicUsize::new(0),
            hold: hold.clone(),
        })
    }
}

/// How a stream is held up.
#[derive(Clone)]
struct Hold {
    arrived: Gate,
    go_on: Gate,
    /// What the second read gets is of no message (in TLS a change of keys): the request is to call again.
    is_message: bool,
}

impl Hold {
    fn new(is_message: bool) -> Self {
        Hold {
            arrived: Gate::default(),
            go_on: Gate::default(),
            is_message,
        }
    }
}

impl Read for &HeldUp {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut stream = &self.stream;
        if self.reads.fetch_add(1, Ordering::Relaxed) == 1 {
            recv(stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK)?;
            self.hold.arrived.open();
            self.hold.go_on.wait();
            if !self.hold.is_message {
                stream.read_exact(&mut [0])?;
                return Err(ErrorKind::Interrupted.into());
            }
        }
        stream.read(out)
    }
}

impl Read for HeldUp {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        (&*self).read(out)
    }
}

impl Write for &HeldUp {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        (&self.stream).write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&self.stream).flush()
    }
}

impl Write for HeldUp {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        (&*self).write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self).flush()
    }
}

impl Stream for HeldUp {
    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        Some(self.stream.as_fd())
    }
}

/// Opens a gate when new requests are refused, and those in progress have been told that the server drains.
struct Telling<S>(S, Gate);

impl<S: BaseServer> BaseServer for Telling<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn drain_requests(&self) {
        self.inner().drain_requests();
        self.1.open();
    }
}

#[derive(Clone)]
struct HeldUpLines(Hold);

impl BaseRequestHandler<TcpRequest> for HeldUpLines {
    fn handle(&mut self, request: &mut TcpRequest) -> HandlerResult {
        let held_up = HeldUp::over(request.get_ref(), &self.0)?;
        run_handler(&Lines, &mut request.wrap(held_up)?)
    }
}

/// A server that has been told to stop, and has told its requests, when the client, which has had an answer, had sent
/// one byte more that nobody had read. `at_once`: whoever tells the server to stop tells its request.
#[track_caller]
fn held_up_while_it_stops<S: BaseServer>(
    is_message: bool,
    at_once: bool,
    under: impl FnOnce(TcpServer<HeldUpLines>) -> S,
) -> (Running, TcpStream) {
    let (hold, told) = (Hold::new(is_message), Gate::default());
    let handler = HeldUpLines(hold.clone());
    let server = Telling(under(TcpServer::new(ANY_PORT, handler)), told.clone());
    let running = server.spawn().unwrap();
    let mut client = connect(running.server_address());
    assert_eq!(exchange_line(&client, "one\n"), "one\n");
    client.write_all(b"t").unwrap();
    hold.arrived.wait();
    running.shutdown_handle().shutdown();
    if !at_once {
        told.wait();
    }
    hold.go_on.open();
    (running, client)
}

// A request in two segments, as Python's http.client sends it: its head was there when the server was told to stop, and
// had not been read yet.
fn a_message_that_has_begun_to_arrive_is_answered_although_nobody_has_read_of_it() {
    fn check<S: BaseServer>(at_once: bool, under: impl FnOnce(TcpServer<HeldUpLines>) -> S) {
        let (running, mut client) = held_up_while_it_stops(true, at_once, under);
        let handle = running.handle();
        wait_until("that much has been read", || {
            let connections = handle.stats().connections;
            connections.iter().all(|one| one.received == Some(5))
        });
        client.write_all(b"wo\n").unwrap();
        assert_eq!(read_to_end(client), b"two\n");
        assert_eq!(counts(running.join().unwrap()), [1, 0, 1, 0, 0]);
    }
    check(true, |server| server);
    check(false, ThreadingTcpServer::over);
    check(false, ThreadPoolTcpServer::over);
}

// It had not begun to read again.
fn a_message_that_has_begun_to_arrive_is_answered_although_its_handler_was_busy() {
    fn check<S: BaseServer>(path: &Path, under: impl FnOnce(UnixStreamServer<BusyLines>) -> S) {
        let handler = BusyLines::default();
        let (go_on, begun) = (handler.go_on.clone(), handler.begun.clone());
        let running = under(UnixStreamServer::new(path, handler)).spawn().unwrap();
        let mut client = connect_unix(running.server_address());
        assert_eq!(exchange_line(&client, "one\n"), "one\n");
        client.write_all(b"t").unwrap();
        running.shutdown_handle().shutdown();
        go_on.open();
        begun.wait();
        // It would fail if the server had ended its reading.
        client.write_all(b"wo\n").unwrap();
        assert_eq!(read_to_end(client), b"two\n");
        assert_eq!(counts(running.join().unwrap()), [1, 0, 1, 0, 0]);
    }
    let place = temp_path("socket");
    check(&place.path, |server| server);
    check(&place.path, ThreadingUnixStreamServer::over);
    check(&place.path, ThreadPoolUnixStreamServer::over);
}

/// Does something else between its first answer and the next message.
#[derive(Clone, Default)]
struct BusyLines {
    go_on: Gate,
    /// The first byte of the next message was read.
    begun: Gate,
}

impl BaseRequestHandler<UnixStreamRequest> for BusyLines {
    fn handle(&mut self, request: &mut UnixStreamRequest) -> HandlerResult {
        let mut line = [0; 4];
        request.read_exact(&mut line)?;
        request.write_all(&line)?;
        self.go_on.wait();
        request.read_exact(&mut line[..1])?;
        self.begun.open();
        request.read_exact(&mut line[1..])?;
        assert!(!request.is_disconnected());
        request.write_all(&line)?;
        Lines.handle(request)
    }
}

fn a_message_that_has_begun_to_arrive_is_answered_although_another_thread_answers_the_last() {
    let place = temp_path("socket");
    let (hold, answer) = (Hold::new(true), Gate::default());
    let (holding, answering) = (hold.clone(), answer.clone());
    let handler = move |request: &mut UnixStreamRequest| -> HandlerResult {
        let held_up = HeldUp::over(request.get_ref(), &holding)?;
        let (answer, go_on) = (answering.clone(), holding.go_on.clone());
        let two_lines = move |request: &mut StreamRequest<HeldUp>| -> HandlerResult {
            let (mut rfile, mut wfile) = StreamRequest::split(request);
            let (mut first, mut second) = (String::new(), String::new());
            rfile.read_line(&mut first)?;
            thread::scope(|scope| {
                scope.spawn(|| {
                    answer.wait();
                    wfile.write_all(first.as_bytes()).unwrap();
                    go_on.open();
                });
                rfile.read_line(&mut second)
            })?;
            Ok(request.write_all(second.as_bytes())?)
        };
        run_handler(&two_lines, &mut request.wrap(held_up)?)
    };
    let running = ThreadingUnixStreamServer::new(&place.path, handler).spawn().unwrap();
    let handle = running.handle();
    let has_read = |bytes| {
        wait_until("so much is read", || {
            handle.stats().connections.iter().any(|one| one.received == Some(bytes))
        });
    };
    let mut client = connect_unix(running.server_address());
    client.write_all(b"one\n").unwrap();
    has_read(4);
    client.write_all(b"t").unwrap();
    hold.arrived.wait();
    running.shutdown_handle().shutdown();
    wait_until_draining(&running.shutdown_handle());
    answer.open();
    has_read(5);
    // It would fail if the server had ended its reading.
    client.write_all(b"wo\n").unwrap();
    assert_eq!(read_to_end(client), b"one\ntwo\n");
    assert_eq!(counts(running.join().unwrap()), [1, 0, 1, 0, 0]);
}

fn a_connection_is_told_within_a_second_if_what_has_arrived_is_no_message() {
    let (running, client) = held_up_while_it_stops(false, false, ThreadingTcpServer::over);
    assert_eq!(read_to_end(client), b"");
    assert_eq!(counts(running.join().unwrap()), [1, 0, 1, 0, 0]);
}

/// Clients that ask again as soon as they are answered, each stop at another moment: whether the handler
/// was about to read, in a read or about to write, it hears of the drain.
#[track_caller]
fn assert_none_is_forgotten<S: BaseServer>(make: impl Fn() -> S, clients: usize) {
    for stop in 0..20 {
        let running = make().spawn().unwrap();
        let exchanges = AtomicUsize::new(0);
        let clients: Vec<_> = (0..clients).map(|_| connect(running.server_address())).collect();
        thread::scope(|scope| {
            for mut client in &clients {
                let exchanges = &exchanges;
                scope.spawn(move || {
                    let mut answers = io::BufReader::new(client);
                    let mut answer = String::new();
                    while client.write_all(b"hello\n").is_ok() && answers.read_line(&mut answer).is_ok_and(|n| n > 0) {
                        assert_eq!(answer, "hello\n");
                        answer.clear();
                        exchanges.fetch_add(1, Ordering::Relaxed);
                    }
                    assert_eq!(answer, "", "half an answer");
                });
            }
            wait_until("they are under way", || exchanges.load(Ordering::Relaxed) > 20 + stop);
            running.shutdown_handle().shutdown();
        });
        let report = running.join().unwrap();
        assert_eq!((report.forced, report.leaked), (0, 0), "{report}");
        assert!(report.elapsed < CEILING, "{report:?}");
    }
}

fn no_idle_connection_is_forgotten_by_a_sync_server() {
    assert_none_is_forgotten(|| TcpServer::new(ANY_PORT, Lines), 1);
}

fn no_idle_connection_is_forgotten_by_a_threading_server() {
    assert_none_is_forgotten(|| ThreadingTcpServer::new(ANY_PORT, Lines), 6);
}

fn no_idle_connection_is_forgotten_by_a_forking_server() {
    assert_none_is_forgotten(|| ForkingTcpServer::new(ANY_PORT, Lines), 6);
}

// ----- The kernel's queue ------------------------------------------------------------------------

/// One client keeps the only place; another has asked in the queue.
#[track_caller]
fn assert_idle_makes_room(server: impl BaseServer) {
    let running = server.spawn().unwrap();
    let idle = connect(running.server_address());
    assert_eq!(exchange_line(&idle, "one\n"), "one\n");
    let queued = connect(running.server_address());
    (&queued).write_all(b"two\n").unwrap();
    running.shutdown_handle().shutdown();
    assert_eq!(read_to_end(idle), b"");
    assert_eq!(read_to_end(queued), b"two\n");
    assert_eq!(counts(running.join().unwrap()), [2, 0, 2, 0, 0]);
}

fn idle_connections_make_room_for_the_queue_of_a_pool() {
    assert_idle_makes_room(ThreadPoolTcpServer::new(ANY_PORT, Lines).workers(1).queue_size(0));
}

fn idle_connections_make_room_for_the_queue_of_a_forking_server() {
    assert_idle_makes_room(ForkingTcpServer::new(ANY_PORT, Lines).max_children(1));
}

fn while_the_queue_waits_new_tcp_clients_are_refused() {
    if !can_refuse_clients() {
        return;
    }
    let server = ThreadPoolTcpServer::new(ANY_PORT, Lines).workers(1).queue_size(0);
    assert_refuses_while_the_queue_waits(server.spawn().unwrap(), connect, |address| {
        // Its SYN is dropped as soon as the filter is there.
        let refused = TcpStream::connect_timeout(&inet(address), Duration::from_millis(20));
        refused.is_err_and(|error| error.kind() == ErrorKind::TimedOut)
    });
}

fn while_the_queue_waits_new_unix_clients_are_refused() {
    let place = temp_path("socket");
    let server = ThreadPoolUnixStreamServer::new(&place.path, Lines)
        .workers(1)
        .queue_size(0);
    assert_refuses_while_the_queue_waits(server.spawn().unwrap(), connect_unix, |_| {
        UnixStream::connect(&place.path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
}

#[track_caller]
fn assert_refuses_while_the_queue_waits<C: Read + Write>(
    running: Running,
    connect: fn(&Address) -> C,
    is_refused: impl Fn(&Address) -> bool,
) {
    // One is served and has not said anything, one waits.
    let mut clients = [connect(running.server_address()), connect(running.server_address())];
    let handle = running.shutdown_handle();
    handle.shutdown();
    wait_until_draining(&handle);
    wait_until("new clients are refused", || is_refused(running.server_address()));
    for client in &mut clients {
        assert_eq!(exchange_line(client, "hello\n"), "hello\n");
    }
    assert_eq!(running.join().unwrap().failed, 0);
}

fn a_flood_of_datagrams_does_not_put_the_end_off() {
    let running = UdpServer::new(ANY_PORT, |_: &mut DatagramRequest| {}).spawn().unwrap();
    let client = udp_client(running.server_address());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // Refused once the server is gone (ICMP).
                let _ = client.send(b"flood");
            }
        });
        let report = running.stop().unwrap();
        over.store(true, Ordering::Relaxed);
        assert!(report.elapsed < CEILING, "{report:?}");
        assert_eq!((report.failed, report.forced), (0, 0));
    });
}

/// Sends to the address it came from, after the gate.
fn reply_when(open: &Gate) -> impl BaseRequestHandler<DatagramRequest> {
    let gate = open.clone();
    move |request: &mut DatagramRequest| {
        gate.wait();
        request.reply(request.packet())
    }
}

fn queued_udp_datagrams_are_served_and_new_ones_refused() {
    #[track_caller]
    fn check(running: Running, gate: &Gate, once_told: impl FnOnce(&UdpSocket)) {
        let client = udp_client(running.server_address());
        for number in 0..10 {
            client.send(&[number]).unwrap();
        }
        running.shutdown_handle().shutdown();
        once_told(&client);
        gate.open();
        for number in 0..10 {
            let mut packet = [0];
            assert_eq!(client.recv(&mut packet).unwrap(), 1);
            assert_eq!(packet, [number]);
        }
        assert_eq!(counts(running.join().unwrap()), [10, 0, 10, 0, 0]);
    }
    let gate = Gate::default();
    let server = UdpServer::new(ANY_PORT, reply_when(&gate));
    check(server.spawn().unwrap(), &gate, |_| {});
    if !can_refuse_clients() {
        return;
    }
    let (gate, refuses) = (Gate::default(), Gate::default());
    let server = ThreadPoolUdpServer::new(ANY_PORT, reply_when(&gate))
        .workers(1)
        .queue_size(0);
    check(Telling(server, refuses.clone()).spawn().unwrap(), &gate, |client| {
        refuses.wait();
        client.send(b"late").unwrap();
    });
}

fn queued_unix_datagrams_are_served_and_new_ones_refused() {
    let (begun, gate) = (Gate::default(), Gate::default());
    let gates = (begun.clone(), gate.clone());
    let place = temp_path("socket");
    let running = ThreadPoolUnixDatagramServer::new(&place.path, move |_: &mut DatagramRequest| {
        gates.0.open();
        gates.1.wait();
    })
    .workers(1)
    .queue_size(0)
    .spawn()
    .unwrap();
    let client = unnamed_datagram_client(running.server_address());
    for number in 0..5 {
        client.send(&[number]).unwrap();
    }
    begun.wait();
    running.shutdown_handle().shutdown();
    // Until then the queue may be full.
    client.set_nonblocking(true).unwrap();
    wait_until("sending is refused", || {
        client
            .send(b"late")
            .is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
    });
    gate.open();
    let report = running.join().unwrap();
    assert!(report.served >= 5, "{report}");
    assert_eq!((report.failed, report.forced), (0, 0));
}

fn closing_serves_the_queue() {
    let server = Arc::new(ThreadingTcpServer::new(ANY_PORT, Lines).bind().unwrap());
    let clients: Vec<_> = (0..5).map(|_| connect(&server.server_address())).collect();
    for mut client in &clients {
        client.write_all(b"hello\n").unwrap();
    }
    assert_eq!(counts(server.close().unwrap()), [5, 0, 5, 0, 0]);
    for client in clients {
        assert_eq!(read_to_end(client), b"hello\n");
    }
}

// ----- Sockets that others share -----------------------------------------------------------------

fn a_tcp_listener_made_elsewhere_is_not_drained() {
    let listener = TcpListener::bind(ANY_PORT).unwrap();
    let ours = listener.try_clone().unwrap();
    let server = TcpServer::with_transport(Tcp::try_from(ours).unwrap(), Lines);
    let running = server.spawn().unwrap();
    let idle = connect(running.server_address());
    assert_eq!(exchange_line(&idle, "hello\n"), "hello\n");
    // It is the others' to accept.
    let queued = connect(running.server_address());
    assert_eq!(counts(running.stop().unwrap()), [1, 0, 1, 0, 0]);
    assert_eq!(read_to_end(idle), b"");
    listener.set_nonblocking(false).unwrap();
    let (mut accepted, peer) = listener.accept().unwrap();
    assert_eq!(peer, queued.local_addr().unwrap());
    accepted.write_all(b"from another\n").unwrap();
    assert_eq!(exchange_line(&queued, ""), "from another\n");
    let later = TcpStream::connect_timeout(&listener.local_addr().unwrap(), CEILING).unwrap();
    assert_eq!(listener.accept().unwrap().1, later.local_addr().unwrap());
}

fn a_unix_listener_made_elsewhere_is_not_drained() {
    let place = temp_path("socket");
    let listener = UnixListener::bind(&place.path).unwrap();
    let ours = listener.try_clone().unwrap();
    let server = UnixStreamServer::with_transport(UnixStreams::try_from(ours).unwrap(), Lines);
    let running = server.spawn().unwrap();
    let idle = connect_unix(running.server_address());
    assert_eq!(exchange_line(&idle, "hello\n"), "hello\n");
    let queued = connect_unix(running.server_address());
    assert_eq!(counts(running.stop().unwrap()), [1, 0, 1, 0, 0]);
    assert_eq!(read_to_end(idle), b"");
    listener.set_nonblocking(false).unwrap();
    listener.accept().unwrap().0.write_all(b"from another\n").unwrap();
    assert_eq!(exchange_line(&queued, ""), "from another\n");
    UnixStream::connect(&place.path).unwrap();
    listener.accept().unwrap();
}

/// Nobody else can have them any more.
fn datagrams_received_ahead_from_a_socket_made_elsewhere_are_served() {
    let stall = Stall::default();
    let handler = stall.then(|request: &mut DatagramRequest| {
        request.server().shutdown();
        request.reply(request.packet())
    });
    let socket = UdpSocket::bind(ANY_PORT).unwrap();
    let server = UdpServer::with_transport(Udp::try_from(socket).unwrap(), handler);
    // So that it receives several as soon as they are there.
    let running = server.replies(Replies::Batched).spawn().unwrap();
    let client = udp_client(running.server_address());
    stall.begin_udp(&running);
    for packet in [b"one", b"two"] {
        client.send(packet).unwrap();
    }
    stall.end();
    assert_eq!(running.join().unwrap().served, 3);
    for packet in [b"one", b"two"] {
        let mut answer = [0; 4];
        assert_eq!(client.recv(&mut answer).unwrap(), 3);
        assert_eq!(answer[..3], *packet);
    }
}

// ----- Other processes and threads of the program ------------------------------------------------

/// SIGURG may come from anywhere, and only says "look".
fn a_stray_nudge_changes_nothing() {
    let running = ThreadingTcpServer::new(ANY_PORT, Lines).spawn().unwrap();
    let client = connect(running.server_address());
    for _ in 0..100 {
        kill(Pid::this(), Signal::SIGURG).unwrap();
        assert_eq!(exchange_line(&client, "hello\n"), "hello\n");
    }
    assert_eq!(running.shutdown_handle().state(), State::Serving);
    drop(client);
    running.stop().unwrap();
}

/// As with daemon(3), but that who has started it waits for its end.
fn binds_and_serves_in_the_background() {
    let handler = |request: &mut UnixStreamRequest| {
        request.write_all(b"begun\n")?;
        io::copy(request, &mut io::sink()).map(drop)
    };
    let server = UnixStreamServer::new(std::env::var("SOCKET_PATH").unwrap().as_str(), handler)
        .drain_timeout(Duration::from_millis(100))
        .shutdown_on_signals([signal::SIGTERM])
        .bind()
        .unwrap();
    // SAFETY: there is one thread.
    if let ForkResult::Parent { child } = unsafe { fork() }.unwrap() {
        waitpid(child, None).unwrap();
        // SAFETY: nothing is to be done any more, least of all to the path.
        unsafe { nix::libc::_exit(0) };
    }
    set_pdeathsig(Signal::SIGKILL).unwrap();
    println!("listening on {}", server.server_address());
    println!("stopped: {}", server.serve_forever().unwrap());
}

// A timer is not inherited, and who has bound a path is not who removes it.
fn a_server_that_went_to_the_background_after_binding_ends_as_any_other() {
    let place = temp_path("socket");
    let mut command = role("binds_and_serves_in_the_background");
    let process = Process::start(command.env("SOCKET_PATH", &place.path));
    let client = connect_unix(&place.path.as_path().into());
    // It says nothing, and is waited for, up to the deadline.
    assert_eq!(exchange_line(&client, ""), "begun\n");
    kill(pid(children_of(process.id())[0]), Signal::SIGTERM).unwrap();
    let ended = process.end();
    assert_eq!(
        ended.output, "stopped: served=1 failed=0 drained=0 forced=1 leaked=0\n",
        "{ended:?}"
    );
    assert!(!place.path.exists());
}

fn serves_and_serves_again_in_the_background() {
    serve_until_another_thread_stops_it();
    // SAFETY: there is one thread.
    if let ForkResult::Parent { child } = unsafe { fork() }.unwrap() {
        waitpid(child, None).unwrap();
        return;
    }
    set_pdeathsig(Signal::SIGKILL).unwrap();
    serve_until_another_thread_stops_it();
}

fn serve_until_another_thread_stops_it() {
    let server = TcpServer::new(ANY_PORT, Lines).drain_timeout(None).bind().unwrap();
    println!("listening on {}", server.server_address());
    let (address, handle, this) = (server.server_address(), server.shutdown_handle(), gettid());
    let other = thread::spawn(move || {
        assert_eq!(exchange_line(connect(&address), "hello\n"), "hello\n");
        wait_until_asleep(this);
        handle.shutdown();
    });
    println!("stopped: {}", server.serve_forever().unwrap());
    other.join().unwrap();
}

// The forked process has what the thread knew of itself, but another thread.
fn a_server_in_the_background_of_one_that_has_served_hears_of_its_end() {
    let ended = Process::start(&mut role("serves_and_serves_again_in_the_background")).end();
    let stopped = "stopped: served=1 failed=0 drained=0 forced=0 leaked=0\n";
    assert_eq!(ended.output.matches(stopped).count(), 2, "{ended:?}");
}

/// Forks, has the process that comes of it take a signal, and ends it. Tells how it has ended.
fn fork_and_signal(signal: Signal) -> io::Result<WaitStatus> {
    let (mut reader, writer) = io::pipe()?;
    // SAFETY: what comes of it makes system calls only.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(writer);
            let _ = raise(signal);
            let _ = reader.read(&mut [0]);
            // SAFETY: nothing is to be done any more.
            unsafe { nix::libc::_exit(7) };
        }
        ForkResult::Parent { child } => {
            drop((reader, writer));
            Ok(waitpid(child, None)?)
        }
    }
}

// It has the server's signal handlers, and shares its descriptors.
fn a_signal_for_what_a_handler_has_forked_is_not_for_the_server() {
    for signal in [Signal::SIGUSR1, Signal::SIGTERM] {
        let handler = move |request: &mut TcpRequest| write!(request, "{:?}", fork_and_signal(signal)?);
        let server = TcpServer::new(ANY_PORT, handler).shutdown_on_signals([signal as i32]);
        let running = server.spawn().unwrap();
        for _ in 0..2 {
            let told = read_to_end(connect(running.server_address()));
            assert!(told.starts_with(b"Exited("), "{}", String::from_utf8_lossy(&told));
        }
        assert_eq!(running.stop().unwrap().served, 2);
    }
}

// The worker's own handler for SIGTERM is nothing that the program knows of.
fn what_a_handler_has_forked_in_a_worker_ends_by_sigterm_and_the_worker_goes_on() {
    let handler = |request: &mut TcpRequest| -> HandlerResult {
        let ended = fork_and_signal(Signal::SIGTERM)?;
        let by_signal = matches!(ended, WaitStatus::Signaled(_, Signal::SIGTERM, _));
        Ok(write!(request, "{} {by_signal}", std::process::id())?)
    };
    let server = PreForkTcpServer::new(ANY_PORT, handler).workers(1);
    let with_threads = ThreadingTcpServer::new(ANY_PORT, handler).prefork().workers(1);
    for running in [server.spawn().unwrap(), with_threads.spawn().unwrap()] {
        let told = [(); 2].map(|()| read_to_end(connect(running.server_address())));
        assert_eq!(told[0], told[1]);
        assert!(told[0].ends_with(b" true"), "{}", String::from_utf8_lossy(&told[0]));
        assert_eq!(running.stop().unwrap().served, 2);
    }
}

/// What comes of it comes back and answers; the worker has waited for that by then.
fn fork_and_come_back(request: &mut TcpRequest) -> HandlerResult {
    // SAFETY: what comes of it ends with the request; a lock that another thread held would have it wait, and the test
    // fail.
    match unsafe { fork() }? {
        ForkResult::Child => request.write_all(b"copy")?,
        ForkResult::Parent { child } => drop(waitpid(child, None)?),
    }
    Ok(())
}

// It shares the memory in which the worker counts.
fn a_request_that_a_handler_has_forked_in_a_worker_and_lets_end_twice_is_counted_and_told_once() {
    fn check(server: impl BaseServer) {
        let (mut told, tell) = io::pipe().unwrap();
        let running = server
            .observer(move |event: &Event<'_>| {
                if let Event::Finished { .. } = event {
                    (&tell).write_all(b".").unwrap();
                }
            })
            .spawn()
            .unwrap();
        for _ in 0..2 {
            assert_eq!(read_to_end(connect(running.server_address())), b"copy");
        }
        assert_eq!(running.stop().unwrap().served, 2);
        let mut ends = String::new();
        told.read_to_string(&mut ends).unwrap();
        assert_eq!(ends, "..");
    }
    check(PreForkTcpServer::new(ANY_PORT, fork_and_come_back).workers(1));
    check(
        ThreadingTcpServer::new(ANY_PORT, fork_and_come_back)
            .prefork()
            .workers(1),
    );
    let pool = ThreadPoolTcpServer::new(ANY_PORT, fork_and_come_back).workers(1);
    check(pool.prefork().workers(1));
    let queue = ThreadPoolTcpServer::new(ANY_PORT, fork_and_come_back).queue_size(1);
    check(queue.prefork().workers(1));
}

/// Lets both go on; the worker has waited for the other by then.
fn fork_and_go_on() {
    // SAFETY: as for `fork_and_come_back`.
    if let ForkResult::Parent { child } = unsafe { fork() }.unwrap() {
        waitpid(child, None).unwrap();
    }
}

/// Forks in `verify_request`, and lets both say yes.
struct ForksAsItVerifies<S>(S);

impl<S: BaseServer> BaseServer for ForksAsItVerifies<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn verify_request(&self, _: &RequestOf<Self>, _: &Address) -> bool {
        fork_and_go_on();
        true
    }
}

fn a_request_that_a_hook_has_forked_in_a_worker_and_lets_start_twice_is_counted_once() {
    let server = ForksAsItVerifies(TcpServer::new(ANY_PORT, |_: &mut TcpRequest| {}));
    let running = server.prefork().workers(1).spawn().unwrap();
    for _ in 0..2 {
        assert_eq!(read_to_end(connect(running.server_address())), b"");
    }
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (2, 0));
}

fn a_request_that_an_observer_of_its_end_has_forked_in_a_worker_is_counted_once() {
    let fork_at_the_end = |event: &Event<'_>| {
        if let Event::Finished { .. } = event {
            fork_and_go_on();
        }
    };
    let server = PreForkTcpServer::new(ANY_PORT, |_: &mut TcpRequest| {}).workers(1);
    let running = server.observer(fork_at_the_end).spawn().unwrap();
    for _ in 0..2 {
        assert_eq!(read_to_end(connect(running.server_address())), b"");
    }
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (2, 0));
}

//! Datagrams as handlers see them: what CPython's `DatagramRequestHandler` and `max_packet_size` do, and
//! where they are silent.

mod support;

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::Resource;
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::gettid;
use socketserver::prelude::*;
use socketserver::{
    DatagramSocket, Handled, LimitKind, MemoryDatagrams, Replies, Running, State, Transport, Udp, UnixDatagrams,
    run_handler,
};
use support::clients::ipv6_available;
use support::gate::Gate;
use support::interrupt::{Interrupts, wait_until_asleep};
use support::journal::{Journal, Journaled, journal};
use support::rlimit::limited;
use support::unix::{unconnected_client, unix_datagram_client, unnamed_datagram_client};
use support::{CEILING, EchoLine, TempPath, address_of_ones_own, inet, logged, temp_path, udp_client, wait_until};

tests![
    a_udp_datagram_over_the_limit_is_cut_and_says_so,
    a_unix_datagram_over_the_limit_is_cut_and_says_so,
    by_default_a_udp_datagram_of_20000_bytes_is_taken_whole,
    by_default_the_longest_udp_datagram_is_taken_whole,
    a_datagram_of_exactly_the_limit_is_whole,
    a_thread_that_serves_two_servers_keeps_to_the_limit_of_each,
    without_any_limit_datagrams_are_taken_whole,
    one_cut_datagram_leaves_the_next_alone,
    an_empty_udp_datagram_is_a_request,
    an_empty_unix_datagram_is_a_request,
    wfile_replies_even_with_zero_bytes,
    wfile_gathers_one_datagram,
    what_is_in_wfile_goes_back_although_the_handler_failed,
    without_wfile_nothing_is_replied,
    rfile_reads_the_packet_to_its_end,
    reading_leaves_the_packet_as_it_is,
    consuming_more_than_there_is_ends_the_packet,
    taking_the_packet_leaves_none,
    a_reply_goes_to_whoever_sent_the_datagram,
    replies_go_out_at_once_and_as_often_as_asked,
    a_datagram_can_go_to_somebody_else,
    what_the_network_says_of_one_datagram_costs_no_other_client_its_reply,
    what_the_network_says_of_many_datagrams_does_not_make_receiving_pause,
    what_sounds_like_the_network_for_ever_and_is_not_makes_receiving_pause,
    a_reply_can_go_when_the_handler_has_returned,
    a_socket_that_was_kept_sends_nothing_when_the_server_has_ended,
    a_socket_that_was_kept_does_not_outlive_a_server_that_was_dropped,
    a_socket_that_was_kept_is_not_said_to_be_open_when_it_was_closed,
    a_reply_that_is_too_long_is_an_error,
    a_unix_client_without_a_path_gets_no_reply_and_the_server_goes_on,
    replies_wait_for_a_unix_client_that_reads_later,
    a_unix_client_that_stops_reading_does_not_keep_a_sync_server_from_its_end,
    a_unix_client_that_stops_reading_does_not_keep_a_threading_server_from_its_end,
    a_unix_client_that_stops_reading_does_not_keep_a_pool_from_its_end,
    a_unix_client_that_stops_reading_is_left_at_the_write_timeout_under_every_strategy,
    a_unix_client_that_stops_reading_is_left_at_the_write_timeout_by_a_hook_that_replies,
    a_request_that_the_deadline_ended_is_forced_whoever_notices_the_deadline_first,
    a_second_signal_ends_a_sync_server_whose_reply_waits,
    a_failing_datagram_costs_no_other,
    a_server_over_ipv6_replies,
    a_handler_is_driven_in_memory,
];

/// A UDP server with a journal.
fn serve(handler: impl BaseRequestHandler<DatagramRequest>) -> (Running, Journal) {
    let (journal, pen) = journal();
    let server = UdpServer::new("127.0.0.1:0", handler);
    (Journaled::over(server, &pen).spawn().unwrap(), journal)
}

/// The next datagram that comes back.
#[track_caller]
fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut answer = vec![0; 65_535];
    let length = client.recv(&mut answer).unwrap();
    answer.truncate(length);
    answer
}

/// Sends a datagram and returns the one that comes back.
#[track_caller]
fn exchange(running: &Running, packet: &[u8]) -> Vec<u8> {
    let client = udp_client(running.server_address());
    client.send(packet).unwrap();
    receive(&client)
}

/// Replies with what there is to know of the packet.
fn describe(request: &mut DatagramRequest) -> io::Result<()> {
    assert!(request.packet().iter().all(|byte| *byte == b'x'));
    let (kept, sent) = (request.packet().len(), request.sent_length());
    let answer = format!("kept {kept} of {sent}, truncated: {}", request.is_truncated());
    request.reply(answer.as_bytes())
}

// 20,000 sent, 8,192 seen [measured with CPython, which says nothing of it]
fn a_udp_datagram_over_the_limit_is_cut_and_says_so() {
    let running = UdpServer::new("127.0.0.1:0", describe)
        .max_packet_size(8192)
        .spawn()
        .unwrap();
    assert_eq!(
        exchange(&running, &vec![b'x'; 20_000]),
        b"kept 8192 of 20000, truncated: true"
    );
    running.stop().unwrap();
}

fn a_unix_datagram_over_the_limit_is_cut_and_says_so() {
    let place = temp_path("server");
    let running = UnixDatagramServer::new(&place.path, describe)
        .max_packet_size(8192)
        .spawn()
        .unwrap();
    let (client, _path) = unix_datagram_client(running.server_address());
    client.send(&vec![b'x'; 20_000]).unwrap();
    let mut answer = [0; 100];
    let length = client.recv(&mut answer).unwrap();
    assert_eq!(&answer[..length], b"kept 8192 of 20000, truncated: true");
    running.stop().unwrap();
}

fn by_default_a_udp_datagram_of_20000_bytes_is_taken_whole() {
    let running = UdpServer::new("127.0.0.1:0", describe).spawn().unwrap();
    assert_eq!(
        exchange(&running, &vec![b'x'; 20_000]),
        b"kept 20000 of 20000, truncated: false"
    );
    running.stop().unwrap();
}

fn by_default_the_longest_udp_datagram_is_taken_whole() {
    let running = UdpServer::new("127.0.0.1:0", describe).spawn().unwrap();
    assert_eq!(
        exchange(&running, &vec![b'x'; 65_507]),
        b"kept 65507 of 65507, truncated: false"
    );
    running.stop().unwrap();
}

fn a_thread_that_serves_two_servers_keeps_to_the_limit_of_each() {
    for limit in [4, 8, 6] {
        let (sender, lengths) = mpsc::channel();
        let handler = move |request: &mut DatagramRequest| {
            sender.send((request.packet().len(), request.sent_length())).unwrap();
        };
        let server = UdpServer::new("127.0.0.1:0", handler).max_packet_size(limit);
        let server = Arc::new(server.bind().unwrap());
        udp_client(&server.server_address()).send(&[0; 10]).unwrap();
        server.handle_request().unwrap();
        assert_eq!(lengths.recv(), Ok((limit, 10)));
        server.close().unwrap();
    }
}

fn a_datagram_of_exactly_the_limit_is_whole() {
    for limit in [4, 1, 0] {
        let server = UdpServer::new("127.0.0.1:0", describe).max_packet_size(limit);
        let running = server.spawn().unwrap();
        let whole = format!("kept {limit} of {limit}, truncated: false");
        assert_eq!(exchange(&running, &vec![b'x'; limit]), whole.as_bytes());
        let longer = limit + 1;
        let cut = format!("kept {limit} of {longer}, truncated: true");
        assert_eq!(exchange(&running, &vec![b'x'; longer]), cut.as_bytes());
        running.stop().unwrap();
    }
}

fn without_any_limit_datagrams_are_taken_whole() {
    #[track_caller]
    fn check(running: Running) {
        let client = udp_client(running.server_address());
        let sent = vec![7; 65_507];
        client.send(&sent).unwrap();
        let mut answer = vec![0; 65_535];
        let count = client.recv(&mut answer).unwrap();
        assert_eq!(answer[..count], sent);
        running.stop().unwrap();
    }
    let server = || {
        let echo = |request: &mut DatagramRequest| request.reply(request.packet());
        UdpServer::new("127.0.0.1:0", echo).max_packet_size(usize::MAX)
    };
    check(server().spawn().unwrap());
    check(server().threading().spawn().unwrap());
}

fn one_cut_datagram_leaves_the_next_alone() {
    let running = UdpServer::new("127.0.0.1:0", describe)
        .max_packet_size(4)
        .spawn()
        .unwrap();
    let client = udp_client(running.server_address());
    for packet in [&b"xxxxxxxx"[..], b"xx", b""] {
        client.send(packet).unwrap();
    }
    assert_eq!(receive(&client), b"kept 4 of 8, truncated: true");
    assert_eq!(receive(&client), b"kept 2 of 2, truncated: false");
    assert_eq!(receive(&client), b"kept 0 of 0, truncated: false");
    assert_eq!(running.stop().unwrap().served, 3);
}

fn an_empty_udp_datagram_is_a_request() {
    let running = UdpServer::new("127.0.0.1:0", describe).spawn().unwrap();
    assert_eq!(exchange(&running, b""), b"kept 0 of 0, truncated: false");
    assert_eq!(running.stop().unwrap().served, 1);
}

fn an_empty_unix_datagram_is_a_request() {
    let place = temp_path("server");
    let running = ThreadPoolUnixDatagramServer::new(&place.path, describe)
        .spawn()
        .unwrap();
    let (client, _path) = unix_datagram_client(running.server_address());
    client.send(b"").unwrap();
    let mut answer = [0; 100];
    let length = client.recv(&mut answer).unwrap();
    assert_eq!(&answer[..length], b"kept 0 of 0, truncated: false");
    assert_eq!(running.stop().unwrap().served, 1);
}

// b'' arrives [measured]
fn wfile_replies_even_with_zero_bytes() {
    let (running, _journal) = serve(|request: &mut DatagramRequest| {
        request.wfile();
    });
    assert_eq!(exchange(&running, b"anything"), b"");
    assert_eq!(running.stop().unwrap().served, 1);
}

fn wfile_gathers_one_datagram() {
    let (running, _journal) = serve(|request: &mut DatagramRequest| {
        request.wfile().write_all(b"one ")?;
        request.wfile().flush()?;
        write!(request.wfile(), "datagram")
    });
    assert_eq!(exchange(&running, b"anything"), b"one datagram");
    running.stop().unwrap();
}

// DatagramRequestHandler.finish, which runs whatever handle did
fn what_is_in_wfile_goes_back_although_the_handler_failed() {
    let (running, journal) = serve(|request: &mut DatagramRequest| -> HandlerResult {
        request.wfile().write_all(b"as far as it went")?;
        Err("told to fail".into())
    });
    assert_eq!(exchange(&running, b"anything"), b"as far as it went");
    assert_eq!(running.stop().unwrap().failed, 1);
    assert_eq!(journal.count("handle_error"), 1);
}

// Here the reply is up to the handler; DatagramRequestHandler would send two empty ones first.
fn without_wfile_nothing_is_replied() {
    let (running, _journal) = serve(|request: &mut DatagramRequest| match request.packet() {
        b"answer" => request.reply(b"the only answer"),
        _ => Ok(()),
    });
    let client = udp_client(running.server_address());
    for packet in ["no", "no", "answer"] {
        client.send(packet.as_bytes()).unwrap();
    }
    assert_eq!(receive(&client), b"the only answer");
    assert_eq!(running.stop().unwrap().served, 3);
    client.set_nonblocking(true).unwrap();
    assert_eq!(client.recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

fn rfile_reads_the_packet_to_its_end() {
    let (running, _journal) = serve(|request: &mut DatagramRequest| {
        let (mut line, mut three, mut rest) = (String::new(), [0; 3], String::new());
        request.read_line(&mut line)?;
        request.read_exact(&mut three)?;
        request.read_to_string(&mut rest)?;
        let past = request.read(&mut [0; 10])?;
        write!(request.wfile(), "{line:?} {:?} {rest:?} {past}", str::from_utf8(&three))
    });
    let answer = exchange(&running, b"line\nabcrest");
    assert_eq!(str::from_utf8(&answer), Ok(r#""line\n" Ok("abc") "rest" 0"#));
    running.stop().unwrap();
}

fn reading_leaves_the_packet_as_it_is() {
    let (running, _journal) = serve(|request: &mut DatagramRequest| {
        request.read_line(&mut String::new())?;
        request.reply(request.packet())
    });
    assert_eq!(exchange(&running, b"two\nlines"), b"two\nlines");
    running.stop().unwrap();
}

fn consuming_more_than_there_is_ends_the_packet() {
    let mut request = DatagramRequest::new(b"packet".to_vec(), 6, "a client", Arc::new(MemoryDatagrams::default()));
    request.consume(1);
    request.consume(usize::MAX);
    assert_eq!(request.fill_buf().unwrap(), b"");
}

fn taking_the_packet_leaves_none() {
    let (running, _journal) = serve(|request: &mut DatagramRequest| {
        request.read_exact(&mut [0; 2])?;
        let packet = request.take_packet();
        assert!(!request.is_truncated(), "it was taken, not cut");
        let left = request.read_to_end(&mut Vec::new())?;
        assert!(request.packet().is_empty());
        request.reply(format!("{} {left}", String::from_utf8_lossy(&packet)).as_bytes())
    });
    assert_eq!(exchange(&running, b"packet"), b"packet 0");
    assert_eq!(running.stop().unwrap().failed, 0);
}

fn a_reply_goes_to_whoever_sent_the_datagram() {
    let (running, _journal) = serve(|request: &mut DatagramRequest| {
        let client = request.client_address().to_string();
        request.reply(client.as_bytes())
    });
    let clients = [(); 3].map(|()| udp_client(running.server_address()));
    for client in &clients {
        client.send(b"who am I").unwrap();
    }
    for client in &clients {
        assert_eq!(receive(client), client.local_addr().unwrap().to_string().as_bytes());
    }
    running.stop().unwrap();
}

fn replies_go_out_at_once_and_as_often_as_asked() {
    let received = Gate::default();
    let in_handler = received.clone();
    let (running, _journal) = serve(move |request: &mut DatagramRequest| {
        request.reply(b"one")?;
        in_handler.wait();
        request.reply(b"two")
    });
    let client = udp_client(running.server_address());
    client.send(b"").unwrap();
    assert_eq!(receive(&client), b"one");
    received.open();
    assert_eq!(receive(&client), b"two");
    running.stop().unwrap();
}

fn a_datagram_can_go_to_somebody_else() {
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    other.set_read_timeout(Some(CEILING)).unwrap();
    let to = Address::from(other.local_addr().unwrap());
    let (running, _journal) = serve(move |request: &mut DatagramRequest| request.send_to(request.packet(), &to));
    udp_client(running.server_address()).send(b"forward").unwrap();
    let mut packet = [0; 100];
    let (length, from) = other.recv_from(&mut packet).unwrap();
    assert_eq!(
        (&packet[..length], from),
        (&b"forward"[..], inet(running.server_address()))
    );
    running.stop().unwrap();
}

// A socket with IP_RECVERR is told that nobody has the port (ECONNREFUSED), by whatever is called next: the reply to
// somebody else, which then is not sent.
fn what_the_network_says_of_one_datagram_costs_no_other_client_its_reply() {
    for replies in [Replies::AtOnce, Replies::Batched] {
        let gone = UdpSocket::bind(address_of_ones_own()).unwrap().local_addr().unwrap();
        let socket = Arc::new(OnceLock::<UdpSocket>::new());
        let of_server = Arc::clone(&socket);
        let server = UdpServer::new("127.0.0.1:0", move |request: &mut DatagramRequest| {
            let socket = of_server.get().unwrap();
            socket.send_to(b"anybody there?", gone)?;
            wait_for_error(socket);
            request.reply(request.packet())
        })
        .replies(replies)
        .before_bind(|socket: BorrowedFd<'_>| Ok(setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?))
        .bind()
        .unwrap();
        socket.set(server.socket().unwrap().try_clone().unwrap()).unwrap();
        let running = server.spawn().unwrap();
        let client = udp_client(running.server_address());
        client.send(b"hello").unwrap();
        assert_eq!(receive(&client), b"hello");
        let report = running.stop().unwrap();
        assert_eq!((report.served, report.failed), (1, 0));
    }
}

/// Counts the reports that receiving has failed for.
struct CountingReports<S> {
    inner: S,
    reports: Arc<AtomicUsize>,
}

impl<S: BaseServer> BaseServer for CountingReports<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn get_request(&self) -> io::Result<<S::Transport as Transport>::Request> {
        self.inner.get_request().inspect_err(|error| {
            if error.kind() == ErrorKind::ConnectionRefused {
                self.reports.fetch_add(1, Ordering::SeqCst);
            }
        })
    }
}

// A hundred errors in a row that pass are enough where they need not pass at all; of reports each is told once.
fn what_the_network_says_of_many_datagrams_does_not_make_receiving_pause() {
    fn check(server: impl BaseServer<Transport = Udp>) {
        let reports = Arc::new(AtomicUsize::new(0));
        let server = CountingReports {
            inner: server,
            reports: Arc::clone(&reports),
        };
        let server = server
            .before_bind(|socket: BorrowedFd<'_>| Ok(setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?))
            .bind()
            .unwrap();
        let socket = server.socket().unwrap().try_clone().unwrap();
        let gone = UdpSocket::bind(address_of_ones_own()).unwrap().local_addr().unwrap();
        let running = server.spawn().unwrap();
        for number in 1..=150 {
            socket.send_to(b"anybody there?", gone).unwrap();
            wait_until("the report is taken", || reports.load(Ordering::SeqCst) == number);
        }
        let client = udp_client(running.server_address());
        client.send(b"hello").unwrap();
        assert_eq!(receive(&client), b"hello");
        running.stop().unwrap();
        let trouble: Vec<_> = logged()
            .into_iter()
            .filter(|line| line.contains("cannot accept"))
            .collect();
        assert_eq!(trouble, [""; 0]);
    }
    let echo = |request: &mut DatagramRequest| request.reply(request.packet());
    check(UdpServer::new("127.0.0.1:0", echo));
    check(ThreadingUdpServer::new("127.0.0.1:0", echo));
    check(UdpServer::new("127.0.0.1:0", echo).poll_interval(CEILING));
}

/// Says what the network says of a datagram (to a socket that asks for that, which this one does not), at each call.
struct Refusing<S>(S);

impl<S: BaseServer> BaseServer for Refusing<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn get_request(&self) -> io::Result<<S::Transport as Transport>::Request> {
        Err(Errno::ECONNREFUSED.into())
    }
}

fn what_sounds_like_the_network_for_ever_and_is_not_makes_receiving_pause() {
    let running = Refusing(UdpServer::new("127.0.0.1:0", |_: &mut DatagramRequest| {}))
        .spawn()
        .unwrap();
    wait_until("it pauses", || {
        logged()
            .iter()
            .any(|line| line.contains("cannot accept: Connection refused"))
    });
    // Nobody waits, so the drain does not either.
    assert!(running.stop().unwrap().elapsed < CEILING);
}

#[track_caller]
fn wait_for_error(socket: &UdpSocket) {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    assert_eq!(poll(&mut fds, PollTimeout::try_from(CEILING).unwrap()), Ok(1));
    assert_eq!(fds[0].revents(), Some(PollFlags::POLLERR));
}

fn a_reply_can_go_when_the_handler_has_returned() {
    fn check(server: impl BaseServer<Transport = Udp>, kept: &mpsc::Receiver<Kept>) {
        let running = server.spawn().unwrap();
        let client = udp_client(running.server_address());
        client.send(b"hello").unwrap();
        let (socket, packet, client_address) = kept.recv().unwrap();
        wait_until("the handler has returned", || running.handle().stats().served == 1);
        socket.send_datagram(&packet, &client_address).unwrap();
        assert_eq!(receive(&client), b"hello");
        running.stop().unwrap();
    }
    let (keep, kept) = keeping();
    check(UdpServer::new("127.0.0.1:0", keep.clone()), &kept);
    check(
        UdpServer::new("127.0.0.1:0", keep.clone()).replies(Replies::Batched),
        &kept,
    );
    check(ThreadingUdpServer::new("127.0.0.1:0", keep), &kept);
}

fn a_socket_that_was_kept_sends_nothing_when_the_server_has_ended() {
    let (keep, kept) = keeping();
    let running = UdpServer::new("127.0.0.1:0", keep).spawn().unwrap();
    let client = udp_client(running.server_address());
    client.send(b"hello").unwrap();
    let (socket, packet, client_address) = kept.recv().unwrap();
    running.stop().unwrap();
    let error = socket.send_datagram(&packet, &client_address).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::ENOTSOCK as i32), "{error}");
}

/// Of one that has handled requests and was not closed: its address is free all the same.
fn a_socket_that_was_kept_does_not_outlive_a_server_that_was_dropped() {
    fn handle_one(server: impl BaseServer, send: impl FnOnce(&Address)) {
        let server = Arc::new(server.timeout(CEILING).bind().unwrap());
        send(&server.server_address());
        assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    }
    fn assert_sends_nothing(kept: &mpsc::Receiver<Kept>) {
        let (socket, packet, client_address) = kept.recv().unwrap();
        let error = socket.send_datagram(&packet, &client_address).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ENOTSOCK as i32), "{error}");
    }
    let (keep, kept) = keeping();
    for replies in [Replies::AtOnce, Replies::Batched] {
        // Answered from one of several addresses, it is kept behind something.
        for ip in ["127.0.0.1", "0.0.0.0"] {
            let mut port = None;
            let server = UdpServer::new((ip, 0), keep.clone()).replies(replies);
            handle_one(server, |address| {
                port = address.port();
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                client.send_to(b"hello", ("127.0.0.1", port.unwrap())).unwrap();
            });
            UdpSocket::bind((ip, port.unwrap())).unwrap();
            assert_sends_nothing(&kept);
        }
    }
    let place = temp_path("server");
    let (client, _client_place) = unconnected_client();
    handle_one(UnixDatagramServer::new(&place.path, keep), |_| {
        client.send_to(b"hello", &place.path).unwrap();
    });
    assert!(!place.path.exists());
    assert_sends_nothing(&kept);
}

/// Of one that was closed there is nothing left to close, for which it would take a descriptor.
fn a_socket_that_was_kept_is_not_said_to_be_open_when_it_was_closed() {
    let (keep, kept) = keeping();
    let server = Arc::new(UdpServer::new("127.0.0.1:0", keep).timeout(CEILING).bind().unwrap());
    udp_client(&server.server_address()).send(b"hello").unwrap();
    assert_eq!(server.handle_request().unwrap(), Handled::Processed);
    server.close().unwrap();
    let limited = limited(Resource::RLIMIT_NOFILE, 0);
    drop(server);
    drop(limited);
    assert_eq!(logged().iter().find(|line| line.contains("stays open")), None);
    drop(kept);
}

/// What it takes to answer later.
type Kept = (Arc<dyn DatagramSocket>, Vec<u8>, Address);

/// A handler that answers nothing, and what it has kept.
fn keeping() -> (
    impl Fn(&mut DatagramRequest) -> Result<(), HandlerError> + Clone + Send + Sync,
    mpsc::Receiver<Kept>,
) {
    let (sender, kept) = mpsc::channel();
    let keep = move |request: &mut DatagramRequest| -> HandlerResult {
        let socket = Arc::clone(request.get_ref());
        sender.send((socket, request.take_packet(), request.client_address().clone()))?;
        Ok(())
    };
    (keep, kept)
}

fn a_reply_that_is_too_long_is_an_error() {
    let (running, _journal) = serve(|request: &mut DatagramRequest| {
        let error = request.reply(vec![0; 65_508]).expect_err("65,507 bytes are the limit");
        request.reply(format!("{:?}", error.raw_os_error()).as_bytes())
    });
    let expected = format!("{:?}", Some(Errno::EMSGSIZE as i32));
    assert_eq!(exchange(&running, b""), expected.as_bytes());
    running.stop().unwrap();
}

// M4
fn a_unix_client_without_a_path_gets_no_reply_and_the_server_goes_on() {
    let place = temp_path("server");
    let (sender, seen) = mpsc::channel();
    let handler = move |request: &mut DatagramRequest| {
        let replied = request.reply(b"answer");
        sender.send(request.client_address().clone()).unwrap();
        replied
    };
    let (journal, pen) = journal();
    let server = Journaled::over(UnixDatagramServer::new(&place.path, handler), &pen);
    let running = server.spawn().unwrap();
    unnamed_datagram_client(running.server_address()).send(b"").unwrap();
    assert_eq!(seen.recv_timeout(CEILING), Ok(Address::Unnamed));
    let event = journal.wait_for("handle_error").event;
    assert!(event.contains("handle failed for (unnamed)"), "{event}");
    assert!(event.contains("must bind a path to get a reply"), "{event}");

    let (client, path) = unix_datagram_client(running.server_address());
    client.send(b"").unwrap();
    let mut answer = [0; 100];
    assert_eq!(client.recv(&mut answer).unwrap(), 6);
    assert_eq!(seen.recv_timeout(CEILING), Ok(path.path.as_path().into()));
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (1, 1));
}

// A Unix datagram that finds its receiver's queue full waits (unix(7)), and a signal interrupts that.
fn replies_wait_for_a_unix_client_that_reads_later() {
    const REPLIES: u32 = 5_000;
    let interrupts = Interrupts::new();
    let (sender, thread) = mpsc::channel();
    let handler = move |request: &mut DatagramRequest| {
        sender.send(gettid()).unwrap();
        (0..REPLIES).try_for_each(|number| request.reply(number.to_ne_bytes()))
    };
    let place = temp_path("server");
    let running = UnixDatagramServer::new(&place.path, handler).spawn().unwrap();
    let (client, _path) = unix_datagram_client(running.server_address());
    client.send(b"").unwrap();
    let replying = thread.recv_timeout(CEILING).unwrap();
    for _ in 0..3 {
        wait_until_asleep(replying);
        interrupts.interrupt(replying);
    }
    for number in 0..REPLIES {
        let mut reply = [0; 4];
        assert_eq!(client.recv(&mut reply).unwrap(), 4);
        assert_eq!(u32::from_ne_bytes(reply), number);
    }
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (1, 0));
}

/// Replies for as long as it can.
fn reply_without_end(request: &mut DatagramRequest) -> io::Result<()> {
    loop {
        request.reply(b"again")?;
    }
}

/// A client that asks [`reply_without_end`] and reads one reply: the next that finds no room waits.
#[track_caller]
fn client_that_stops_reading(address: &Address) -> (UnixDatagram, TempPath) {
    let (client, path) = unix_datagram_client(address);
    client.send(b"").unwrap();
    assert_eq!(client.recv(&mut [0; 9]).unwrap(), 5);
    (client, path)
}

fn a_unix_client_that_stops_reading_does_not_keep_a_sync_server_from_its_end() {
    let place = temp_path("server");
    let server = UnixDatagramServer::new(&place.path, reply_without_end).drain_timeout(Duration::from_millis(20));
    let running = server.spawn().unwrap();
    let _client = client_that_stops_reading(running.server_address());
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed, report.leaked), (0, 1, 0));
}

/// Without a guard, whose own patience would end, too.
#[track_caller]
fn ends_although_a_client_stops_reading<S: BaseServer>(make: impl FnOnce(Address) -> S) {
    let place = temp_path("server");
    let server = make(place.path.as_path().into()).drain_timeout(Duration::from_millis(20));
    let server = server.bind().unwrap();
    let (address, handle) = (server.server_address(), server.shutdown_handle());
    let serving = thread::spawn(move || server.serve_forever());
    let _client = client_that_stops_reading(&address);
    handle.shutdown();
    let report = serving.join().unwrap().unwrap();
    assert_eq!((report.served, report.failed), (0, 1));
    assert_eq!((report.forced, report.leaked), (1, 0));
}

fn a_unix_client_that_stops_reading_does_not_keep_a_threading_server_from_its_end() {
    ends_although_a_client_stops_reading(|address| ThreadingUnixDatagramServer::new(address, reply_without_end));
}

fn a_unix_client_that_stops_reading_does_not_keep_a_pool_from_its_end() {
    ends_although_a_client_stops_reading(|address| ThreadPoolUnixDatagramServer::new(address, reply_without_end));
}

fn a_unix_client_that_stops_reading_is_left_at_the_write_timeout_under_every_strategy() {
    /// Without end to those who ask for nothing.
    fn reply(request: &mut DatagramRequest) -> io::Result<()> {
        if request.packet().is_empty() {
            reply_without_end(request)
        } else {
            request.reply(request.packet())
        }
    }
    fn check<S: BaseServer>(make: impl FnOnce(Address) -> S) {
        let place = temp_path("server");
        let server = make(place.path.as_path().into()).write_timeout(Duration::from_millis(50));
        let running = server.spawn().unwrap();
        let (silent, _its_path) = unconnected_client();
        silent.send_to(b"", &place.path).unwrap();
        let (other, _path) = unix_datagram_client(running.server_address());
        other.send(b"hello").unwrap();
        let mut answer = [0; 9];
        let length = other.recv(&mut answer).unwrap();
        assert_eq!(&answer[..length], b"hello");
        wait_until("nobody is waited for", || running.handle().stats().running == 0);
        let report = running.stop().unwrap();
        assert_eq!((report.served, report.failed, report.forced), (1, 1, 0));
    }
    check(|address| UnixDatagramServer::new(address, reply));
    check(|address| UnixDatagramServer::new(address, reply).replies(Replies::Batched));
    check(|address| ThreadingUnixDatagramServer::new(address, reply));
    check(|address| ThreadPoolUnixDatagramServer::new(address, reply).workers(1));
    check(|address| ForkingUnixDatagramServer::new(address, reply));
    check(|address| PreForkUnixDatagramServer::new(address, reply).workers(1));
    let is_told = |line: &&String| {
        line.starts_with("INFO handle failed for ")
            && line.ends_with(": write: the peer did not take all of it within 0.05 s")
    };
    // Those of processes are told in these.
    assert_eq!(logged().iter().filter(is_told).count(), 4, "{:?}", logged());
}

/// Tells those that it rejects.
struct SaysBusy<S>(S);

impl<S: BaseServer<Transport = UnixDatagrams>> BaseServer for SaysBusy<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn reject_request(&self, request: &mut DatagramRequest, _limit: LimitKind) {
        let _ = request.reply("busy");
    }
}

fn a_unix_client_that_stops_reading_is_left_at_the_write_timeout_by_a_hook_that_replies() {
    let (place, leave) = (temp_path("server"), Gate::default());
    let open = leave.clone();
    let server = UnixDatagramServer::new(&place.path, move |_: &mut DatagramRequest| open.wait());
    let server = SaysBusy(server.threading()).max_connections(Limit::reject(1));
    let running = server.write_timeout(Duration::from_millis(50)).spawn().unwrap();
    let (silent, _its_path) = unconnected_client();
    // The first is served, and the queue of its client holds no more than 11 replies to the others.
    for _ in 0..13 {
        silent.send_to(b"hello", &place.path).unwrap();
    }
    let (other, _path) = unix_datagram_client(running.server_address());
    other.send(b"hello").unwrap();
    let mut answer = [0; 9];
    let length = other.recv(&mut answer).unwrap();
    assert_eq!(&answer[..length], b"busy");
    leave.open();
    running.stop().unwrap();
}

/// The thread that drains gets on only when nothing is in progress any more.
struct SlowToDrain<S>(S);

impl<S: BaseServer> BaseServer for SlowToDrain<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn service_actions(&self) {
        if self.shutdown_handle().state() == State::Draining {
            wait_until("the request has ended", || self.stats().running == 0);
        }
        self.inner().service_actions();
    }
}

fn a_request_that_the_deadline_ended_is_forced_whoever_notices_the_deadline_first() {
    ends_although_a_client_stops_reading(|address| {
        SlowToDrain(ThreadingUnixDatagramServer::new(address, reply_without_end))
    });
}

fn a_second_signal_ends_a_sync_server_whose_reply_waits() {
    let place = temp_path("server");
    let server = UnixDatagramServer::new(&place.path, reply_without_end).shutdown_on_signals([signal::SIGUSR2]);
    let running = server.spawn().unwrap();
    let _client = client_that_stops_reading(running.server_address());
    for _ in 0..2 {
        nix::sys::signal::raise(Signal::SIGUSR2).unwrap();
    }
    let report = running.join().unwrap();
    assert_eq!(report.failed, 1);
    // Long before the deadline of half a minute.
    assert!(report.elapsed < CEILING, "{report:?}");
}

fn a_failing_datagram_costs_no_other() {
    let (running, journal) = serve(|request: &mut DatagramRequest| match request.packet() {
        b"panic" => std::panic::resume_unwind(Box::new("told to panic")),
        packet => request.reply(packet),
    });
    let client = udp_client(running.server_address());
    client.send(b"panic").unwrap();
    client.send(b"after").unwrap();
    assert_eq!(receive(&client), b"after");
    let peer = client.local_addr().unwrap();
    let expected = format!("handle_error: handle panicked for {peer}: told to panic");
    assert_eq!(journal.wait_for("handle_error").event, expected);
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (1, 1));
}

fn a_server_over_ipv6_replies() {
    if !ipv6_available() {
        return;
    }
    let running = UdpServer::new("[::1]:0", EchoLine).spawn().unwrap();
    let client = UdpSocket::bind("[::1]:0").unwrap();
    client.set_read_timeout(Some(CEILING)).unwrap();
    client.send_to(b"six\n", inet(running.server_address())).unwrap();
    assert_eq!(receive(&client), b"six\n");
    running.stop().unwrap();
}

fn a_handler_is_driven_in_memory() {
    let socket = Arc::new(MemoryDatagrams::default());
    let mut request = DatagramRequest::new(b"line\nmore".to_vec(), 9, "a client", socket.clone());
    run_handler(&EchoLine, &mut request).unwrap();
    assert_eq!(socket.sent(), [("a client".into(), b"line\n".to_vec())]);
    let mut cut = DatagramRequest::new(b"cut".to_vec(), 10, "a client", socket);
    assert!(cut.is_truncated() && cut.server().number() == 0);
    cut.take_packet();
    assert!(cut.is_truncated());
}

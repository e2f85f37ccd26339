//! Replies that a datagram server holds back and sends together: they arrive as those sent one by one do.

#![allow(unsafe_code, reason = "SO_NO_CHECK has no safe form")]

mod support;

use std::io::{self, ErrorKind};
use std::iter;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::gettid;
use socketserver::prelude::*;
use socketserver::{Handled, Replies, Running, Udp};
use support::batch::{Stall, next_message};
use support::clients::ipv6_available;
use support::gate::Gate;
use support::interrupt::{Interrupts, wait_until_asleep};
use support::unix::{FILLING, unconnected_client, unix_datagram_client};
use support::{CEILING, TempPath, inet, logged, temp_path, udp_client};

tests![
    udp_replies_to_several_clients_arrive_whole_and_in_order,
    udp_replies_over_ipv6_arrive_whole_and_in_order,
    unix_replies_to_several_clients_arrive_whole_and_in_order,
    the_longest_replies_arrive_among_short_ones,
    a_reply_that_is_too_long_is_an_error_at_once,
    replies_of_one_length_to_one_client_leave_as_segments,
    without_segments_each_reply_leaves_by_itself,
    a_socket_that_cannot_send_segments_sends_them_one_by_one,
    replies_wait_for_the_handlers_of_their_batch,
    replies_do_not_wait_for_a_place_under_a_limit,
    thirty_two_replies_are_held_and_no_more,
    held_replies_have_a_limit_in_bytes,
    what_goes_to_somebody_else_is_in_order_with_replies,
    a_client_that_is_gone_costs_no_other_its_reply,
    a_handler_that_sends_on_learns_that_its_client_is_gone,
    a_handler_that_sends_on_does_not_fail_for_another_client_that_is_gone,
    replies_wait_for_a_unix_client_that_reads_later,
    a_unix_client_that_stops_reading_does_not_keep_the_server_from_its_end,
    a_unix_client_that_stops_reading_does_not_keep_a_busy_server_from_its_end,
    a_unix_client_that_stops_reading_costs_no_other_its_reply_beyond_the_write_timeout,
    a_handler_that_sends_on_does_not_fail_for_a_unix_client_that_stops_reading,
    stopping_loses_no_reply,
    stopping_loses_no_reply_to_a_unix_client_that_reads_later,
    a_socket_that_was_kept_replies_at_once,
    threads_reply_at_once,
    handle_request_replies_at_once,
];

const HELD: [Replies; 2] = [Replies::Batched, Replies::Segmented];

fn echo(request: &mut DatagramRequest) -> io::Result<()> {
    request.reply(request.packet())
}

/// The next datagram that comes.
#[track_caller]
fn next(mut receive: impl FnMut(&mut [u8]) -> io::Result<usize>) -> Vec<u8> {
    let mut packet = vec![0; 65_535];
    let length = receive(&mut packet).unwrap();
    packet.truncate(length);
    packet
}

#[track_caller]
fn nothing_for(client: &UdpSocket) {
    client.set_nonblocking(true).unwrap();
    assert_eq!(client.recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    client.set_nonblocking(false).unwrap();
}

/// Lengths equal, shorter, longer and none: what makes segments, and what ends them.
const LENGTHS: [usize; 12] = [64, 64, 64, 10, 64, 0, 0, 10, 200, 200, 64, 1];

fn packet(client: usize, number: usize) -> Vec<u8> {
    let text = format!("{client} {number} ");
    text.bytes().cycle().take(LENGTHS[number % LENGTHS.len()]).collect()
}

/// More than two batches from three clients in turn.
#[track_caller]
fn arrive_whole_and_in_order(address: &str, client_address: &str) {
    const EACH: usize = 24;
    for replies in HELD {
        let stall = Stall::default();
        let server = UdpServer::new(address, stall.then(echo)).replies(replies);
        let running = server.spawn().unwrap();
        let clients = [(); 3].map(|()| {
            let client = UdpSocket::bind(client_address).unwrap();
            client.set_read_timeout(Some(CEILING)).unwrap();
            client.connect(inet(running.server_address())).unwrap();
            client
        });
        stall.begin(|packet| clients[0].send(packet));
        for number in 0..EACH {
            for (index, client) in clients.iter().enumerate() {
                client.send(&packet(index, number)).unwrap();
            }
        }
        stall.end();
        for (index, client) in clients.iter().enumerate() {
            for number in 0..EACH {
                assert_eq!(next(|bytes| client.recv(bytes)), packet(index, number), "{replies:?}");
            }
        }
        assert_eq!(running.stop().unwrap().served, 3 * EACH as u64 + 1);
        clients.iter().for_each(nothing_for);
    }
}

fn udp_replies_to_several_clients_arrive_whole_and_in_order() {
    arrive_whole_and_in_order("127.0.0.1:0", "127.0.0.1:0");
}

fn udp_replies_over_ipv6_arrive_whole_and_in_order() {
    if !ipv6_available() {
        return;
    }
    arrive_whole_and_in_order("[::1]:0", "[::1]:0");
}

// A queue holds 10 (net.unix.max_dgram_qlen): the server's those of three clients, each client's its own.
fn unix_replies_to_several_clients_arrive_whole_and_in_order() {
    for replies in HELD {
        let (place, stall) = (temp_path("server"), Stall::default());
        let server = UnixDatagramServer::new(&place.path, stall.then(echo)).replies(replies);
        let running = server.spawn().unwrap();
        let clients = [(); 3].map(|()| unix_datagram_client(running.server_address()));
        stall.begin(|packet| clients[0].0.send(packet));
        for number in 3..6 {
            for (index, (client, _)) in clients.iter().enumerate() {
                client.send(&packet(index, number)).unwrap();
            }
        }
        stall.end();
        for (index, (client, _)) in clients.iter().enumerate() {
            for number in 3..6 {
                assert_eq!(next(|bytes| client.recv(bytes)), packet(index, number));
            }
        }
        running.stop().unwrap();
    }
}

fn the_longest_replies_arrive_among_short_ones() {
    for replies in HELD {
        let stall = Stall::default();
        let answer = |request: &mut DatagramRequest| {
            let length = str::from_utf8(request.packet()).unwrap().parse().unwrap();
            request.reply(vec![b'x'; length])
        };
        let server = UdpServer::new("127.0.0.1:0", stall.then(answer)).replies(replies);
        let running = server.spawn().unwrap();
        let client = udp_client(running.server_address());
        // So many bytes do not fit into the buffers that sockets have by default.
        setsockopt(&client, sockopt::RcvBuf, &(1 << 20)).unwrap();
        stall.begin_udp(&running);
        let lengths = [7_usize, 65_507, 7, 7, 20_000, 20_000, 20_000, 20_000, 5, 65_507];
        for length in lengths {
            client.send(length.to_string().as_bytes()).unwrap();
        }
        stall.end();
        for length in lengths {
            assert_eq!(next(|bytes| client.recv(bytes)), vec![b'x'; length]);
        }
        running.stop().unwrap();
    }
}

fn a_reply_that_is_too_long_is_an_error_at_once() {
    let handler = |request: &mut DatagramRequest| {
        let error = request.reply(vec![0; 65_508]).expect_err("65,507 bytes are the limit");
        request.reply(format!("{:?}", error.raw_os_error()).as_bytes())
    };
    let running = UdpServer::new("127.0.0.1:0", handler)
        .replies(Replies::Segmented)
        .spawn()
        .unwrap();
    let client = udp_client(running.server_address());
    client.send(b"").unwrap();
    let expected = format!("{:?}", Some(Errno::EMSGSIZE as i32));
    assert_eq!(next(|bytes| client.recv(bytes)), expected.as_bytes());
    running.stop().unwrap();
}

/// Serves a batch of replies `aaaa`, `bbbb`, `cccc`, `d`, `eeee`, and one to somebody else among them, to a client
/// that takes segments together.
#[track_caller]
fn messages_of_a_batch(server: impl FnOnce(Stall) -> Running) -> Vec<(Vec<u8>, Option<i32>)> {
    let stall = Stall::default();
    let running = server(stall.clone());
    let client = udp_client(running.server_address());
    setsockopt(&client, sockopt::UdpGroSegment, &true).unwrap();
    stall.begin_udp(&running);
    for packet in ["aaaa", "bbbb"] {
        client.send(packet.as_bytes()).unwrap();
    }
    let other = udp_client(running.server_address());
    other.send(b"other").unwrap();
    for packet in ["cccc", "d", "eeee"] {
        client.send(packet.as_bytes()).unwrap();
    }
    stall.end();
    let mut messages = Vec::new();
    while messages
        .iter()
        .map(|(bytes, _): &(Vec<u8>, _)| bytes.len())
        .sum::<usize>()
        < 17
    {
        messages.push(next_message(&client));
    }
    assert_eq!(next(|bytes| other.recv(bytes)), b"other");
    running.stop().unwrap();
    messages
}

fn replies_of_one_length_to_one_client_leave_as_segments() {
    let messages = messages_of_a_batch(|stall| {
        let server = UdpServer::new("127.0.0.1:0", stall.then(echo));
        server.replies(Replies::Segmented).spawn().unwrap()
    });
    assert_eq!(
        messages,
        [(b"aaaabbbbccccd".to_vec(), Some(4)), (b"eeee".to_vec(), None)]
    );
}

fn one_by_one() -> Vec<(Vec<u8>, Option<i32>)> {
    ["aaaa", "bbbb", "cccc", "d", "eeee"]
        .map(|text| (text.into(), None))
        .into()
}

fn without_segments_each_reply_leaves_by_itself() {
    let messages = messages_of_a_batch(|stall| {
        let server = UdpServer::new("127.0.0.1:0", stall.then(echo));
        server.replies(Replies::Batched).spawn().unwrap()
    });
    assert_eq!(messages, one_by_one());
}

/// `SO_NO_CHECK` (udp(7) calls it obsolete): without checksums the kernel makes no segments.
fn without_checksums(socket: BorrowedFd<'_>) -> io::Result<()> {
    let (on, size) = (1, size_of::<libc::c_int>().try_into().unwrap());
    let option = (&raw const on).cast();
    // SAFETY: the option is a `c_int` that lives until the call returns.
    let outcome = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, option, size) };
    Ok(Errno::result(outcome).map(drop)?)
}

fn a_socket_that_cannot_send_segments_sends_them_one_by_one() {
    let messages = messages_of_a_batch(|stall| {
        let server = UdpServer::new("127.0.0.1:0", stall.then(echo)).before_bind(without_checksums);
        server.replies(Replies::Segmented).spawn().unwrap()
    });
    assert_eq!(messages, one_by_one());
    let warnings = logged().into_iter().filter(|line| line.starts_with("WARN")).count();
    assert_eq!(warnings, 0, "{:?}", logged());
}

fn replies_wait_for_the_handlers_of_their_batch() {
    let (stall, slow, go_on) = (Stall::default(), Gate::default(), Gate::default());
    let handler = {
        let (slow, go_on) = (slow.clone(), go_on.clone());
        stall.then(move |request: &mut DatagramRequest| {
            if request.packet() == b"slow" {
                slow.open();
                go_on.wait();
            }
            echo(request)
        })
    };
    let running = UdpServer::new("127.0.0.1:0", handler)
        .replies(Replies::Batched)
        .spawn()
        .unwrap();
    let client = udp_client(running.server_address());
    stall.begin_udp(&running);
    for packet in ["before", "slow", "after"] {
        client.send(packet.as_bytes()).unwrap();
    }
    stall.end();
    slow.wait();
    nothing_for(&client);
    go_on.open();
    for packet in ["before", "slow", "after"] {
        assert_eq!(next(|bytes| client.recv(bytes)), packet.as_bytes());
    }
    running.stop().unwrap();
}

/// Keeps the requests that say `keep`, and the places that they have.
struct Keeping<S>(S, mpsc::SyncSender<Job<Udp>>);

impl<S: BaseServer<Transport = Udp>> BaseServer for Keeping<S> {
    type Transport = Udp;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn process_request(&self, job: Job<Udp>) {
        if job.request().packet() == b"keep" {
            self.1.send(job).unwrap();
        } else {
            self.0.process_request(job);
        }
    }
}

fn replies_do_not_wait_for_a_place_under_a_limit() {
    for replies in HELD {
        let (stall, (keep, kept)) = (Stall::default(), mpsc::sync_channel(1));
        let server = Keeping(UdpServer::new("127.0.0.1:0", stall.then(echo)), keep);
        let running = server.replies(replies).max_connections(1).spawn().unwrap();
        let client = udp_client(running.server_address());
        stall.begin_udp(&running);
        for packet in ["one", "keep", "two"] {
            client.send(packet.as_bytes()).unwrap();
        }
        stall.end();
        assert_eq!(next(|bytes| client.recv(bytes)), b"one");
        kept.recv().unwrap().run();
        for packet in ["keep", "two"] {
            assert_eq!(next(|bytes| client.recv(bytes)), packet.as_bytes());
        }
        assert_eq!(running.stop().unwrap().served, 4);
    }
}

/// What has arrived before the handler ended that sends replies of these lengths.
#[track_caller]
fn sent_before_the_end(replies: Replies, lengths: &'static [usize]) -> usize {
    let (sent, go_on) = (Gate::default(), Gate::default());
    let handler = {
        let (sent, go_on) = (sent.clone(), go_on.clone());
        move |request: &mut DatagramRequest| {
            lengths.iter().try_for_each(|&length| request.reply(vec![0; length]))?;
            sent.open();
            go_on.wait();
            io::Result::Ok(())
        }
    };
    let running = UdpServer::new("127.0.0.1:0", handler).replies(replies).spawn().unwrap();
    let client = udp_client(running.server_address());
    client.send(b"").unwrap();
    sent.wait();
    client.set_nonblocking(true).unwrap();
    let mut room = vec![0; 65_535];
    let before = iter::from_fn(|| client.recv(&mut room).ok()).count();
    client.set_nonblocking(false).unwrap();
    go_on.open();
    for length in &lengths[before..] {
        assert_eq!(next(|bytes| client.recv(bytes)).len(), *length);
    }
    running.stop().unwrap();
    before
}

fn thirty_two_replies_are_held_and_no_more() {
    for replies in HELD {
        assert_eq!(sent_before_the_end(replies, &[3; 32]), 0);
        assert_eq!(sent_before_the_end(replies, &[3; 33]), 32);
    }
}

fn held_replies_have_a_limit_in_bytes() {
    for replies in HELD {
        assert_eq!(sent_before_the_end(replies, &[40_000, 25_507]), 0);
        assert_eq!(sent_before_the_end(replies, &[40_000, 25_508, 1]), 1);
    }
}

fn what_goes_to_somebody_else_is_in_order_with_replies() {
    for replies in HELD {
        let stall = Stall::default();
        let third = UdpSocket::bind("127.0.0.1:0").unwrap();
        third.set_read_timeout(Some(CEILING)).unwrap();
        let to = Address::from(third.local_addr().unwrap());
        let handler = stall.then(move |request: &mut DatagramRequest| {
            request.send_to(b"for you", &to)?;
            echo(request)
        });
        let running = UdpServer::new("127.0.0.1:0", handler).replies(replies).spawn().unwrap();
        let client = udp_client(running.server_address());
        stall.begin_udp(&running);
        client.send(b"one").unwrap();
        third.send_to(b"two", inet(running.server_address())).unwrap();
        client.send(b"three").unwrap();
        stall.end();
        for packet in ["for you", "for you", "two", "for you"] {
            assert_eq!(next(|bytes| third.recv(bytes)), packet.as_bytes());
        }
        for packet in ["one", "three"] {
            assert_eq!(next(|bytes| client.recv(bytes)), packet.as_bytes());
        }
        running.stop().unwrap();
    }
}

/// Its reply is refused (`ECONNREFUSED`): unlike UDP, Unix sockets say so.
fn a_client_that_is_gone_costs_no_other_its_reply() {
    let (place, stall) = (temp_path("server"), Stall::default());
    let server = UnixDatagramServer::new(&place.path, stall.then(echo)).replies(Replies::Batched);
    let running = server.spawn().unwrap();
    let (client, _path) = unix_datagram_client(running.server_address());
    let (gone, gone_path) = unix_datagram_client(running.server_address());
    stall.begin(|packet| client.send(packet));
    for (client, packet) in [
        (&client, "one"),
        (&gone, "lost"),
        (&client, "two"),
        (&gone, "too"),
        (&client, "three"),
    ] {
        client.send(packet.as_bytes()).unwrap();
    }
    drop(gone);
    stall.end();
    for packet in ["one", "two", "three"] {
        assert_eq!(next(|bytes| client.recv(bytes)), packet.as_bytes());
    }
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (6, 0));
    let mut warnings = logged();
    warnings.retain(|line| line.starts_with("WARN"));
    let (refused, path) = (io::Error::from(Errno::ECONNREFUSED), gone_path.path.display());
    let expected = [4, 3].map(|bytes| format!("WARN a reply of {bytes} bytes to {path} could not be sent: {refused}"));
    assert_eq!(warnings, expected);
}

fn a_handler_that_sends_on_learns_that_its_client_is_gone() {
    let (place, stall) = (temp_path("server"), Stall::default());
    let (sender, ended) = mpsc::channel();
    let handler = stall.then(move |request: &mut DatagramRequest| {
        let error = (0..).find_map(|_: u32| request.reply(b"more").err()).unwrap();
        sender.send(error.kind()).unwrap();
        Ok(())
    });
    let server = UnixDatagramServer::new(&place.path, handler).replies(Replies::Batched);
    let running = server.spawn().unwrap();
    let (client, _path) = unix_datagram_client(running.server_address());
    stall.begin(|packet| client.send(packet));
    client.send(b"").unwrap();
    drop(client);
    stall.end();
    assert_eq!(ended.recv_timeout(CEILING), Ok(ErrorKind::ConnectionRefused));
    running.stop().unwrap();
}

fn a_handler_that_sends_on_does_not_fail_for_another_client_that_is_gone() {
    let (place, stall) = (temp_path("server"), Stall::default());
    let (sender, ended) = mpsc::channel();
    let handler = stall.then(move |request: &mut DatagramRequest| {
        if request.packet() == b"gone" {
            return echo(request);
        }
        // One too many to be held.
        sender.send((0..32).try_for_each(|_| request.reply(b"more"))).unwrap();
        Ok(())
    });
    let server = UnixDatagramServer::new(&place.path, handler).replies(Replies::Batched);
    let running = server.spawn().unwrap();
    let (client, _path) = unix_datagram_client(running.server_address());
    let (gone, _gone_path) = unix_datagram_client(running.server_address());
    stall.begin(|packet| client.send(packet));
    gone.send(b"gone").unwrap();
    client.send(b"").unwrap();
    drop(gone);
    stall.end();
    for _ in 0..32 {
        assert_eq!(next(|bytes| client.recv(bytes)), b"more");
    }
    ended.recv_timeout(CEILING).unwrap().unwrap();
    running.stop().unwrap();
}

// As those that are sent at once; signals interrupt the wait of a flush, too.
fn replies_wait_for_a_unix_client_that_reads_later() {
    const REPLIES: u32 = 2_000;
    let interrupts = Interrupts::new();
    let (sender, thread) = mpsc::channel();
    let handler = move |request: &mut DatagramRequest| {
        sender.send(gettid()).unwrap();
        (0..REPLIES).try_for_each(|number| request.reply(number.to_ne_bytes()))
    };
    let place = temp_path("server");
    let server = UnixDatagramServer::new(&place.path, handler).replies(Replies::Batched);
    let running = server.spawn().unwrap();
    let (client, _path) = unconnected_client();
    client.send_to(b"", &place.path).unwrap();
    let replying = thread.recv_timeout(CEILING).unwrap();
    let interrupt = || {
        wait_until_asleep(replying);
        interrupts.interrupt(replying);
    };
    let read = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            let mut datagrams = iter::repeat_with(|| next(|bytes| client.recv(bytes)));
            let reply = datagrams.find(|bytes| bytes != FILLING);
            assert_eq!(reply.unwrap(), number.to_ne_bytes());
        }
    };
    interrupt();
    read(0..REPLIES - 20);
    // The handler has ended: 20 are too many for the client's queue, and few enough to be held.
    interrupt();
    read(REPLIES - 20..REPLIES);
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (1, 0));
}

/// A client that does not read has asked with the name of another: both.
#[track_caller]
fn ask_for_another(running: &Running) -> [(UnixDatagram, TempPath); 2] {
    let (client, other) = (unconnected_client(), unix_datagram_client(running.server_address()));
    let name = other.1.path.to_str().unwrap();
    let server = running.server_address().path().unwrap();
    client.0.send_to(name.as_bytes(), server).unwrap();
    [client, other]
}

/// A client whose queue is full of replies, at a server that waits to send one more and then one to another.
fn a_unix_client_that_stops_reading_does_not_keep_the_server_from_its_end() {
    let place = temp_path("server");
    let (sender, thread) = mpsc::channel();
    let handler = move |request: &mut DatagramRequest| -> io::Result<()> {
        let other = Address::from(str::from_utf8(request.packet()).unwrap());
        (0..20).try_for_each(|_| request.reply(b"not read"))?;
        request.send_to(b"read", &other)?;
        sender.send(gettid()).unwrap();
        Ok(())
    };
    let server = UnixDatagramServer::new(&place.path, handler).replies(Replies::Batched);
    let running = server.drain_timeout(Duration::from_millis(20)).spawn().unwrap();
    let [_client, (other, _path)] = ask_for_another(&running);
    wait_until_asleep(thread.recv_timeout(CEILING).unwrap());
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed, report.leaked), (1, 0, 0));
    // What one client could not take has not cost the other its own.
    assert_eq!(next(|bytes| other.recv(bytes)), b"read");
    let lost = logged()
        .iter()
        .filter(|line| line.contains("could not be sent"))
        .count();
    assert!(
        (1..20).contains(&lost),
        "{lost} lost replies are told of: {:?}",
        logged()
    );
}

fn a_unix_client_that_stops_reading_does_not_keep_a_busy_server_from_its_end() {
    let place = temp_path("server");
    let handler = |request: &mut DatagramRequest| -> io::Result<()> {
        loop {
            request.reply(b"again")?;
        }
    };
    let server = UnixDatagramServer::new(&place.path, handler).replies(Replies::Batched);
    let running = server.drain_timeout(Duration::from_millis(20)).spawn().unwrap();
    let (client, _path) = unix_datagram_client(running.server_address());
    client.send(b"").unwrap();
    assert_eq!(next(|bytes| client.recv(bytes)), b"again");
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed, report.leaked), (0, 1, 0));
}

/// Of two clients one does not read; its replies are held, and then so many for the other.
#[track_caller]
fn assert_one_is_left_at_the_write_timeout(others: usize) {
    let place = temp_path("server");
    let handler = move |request: &mut DatagramRequest| -> io::Result<()> {
        let other = Address::from(str::from_utf8(request.packet()).unwrap());
        (0..20).try_for_each(|_| request.reply(b"not read"))?;
        (0..others).try_for_each(|_| request.send_to(b"read", &other))
    };
    let server = UnixDatagramServer::new(&place.path, handler).replies(Replies::Batched);
    let running = server.write_timeout(Duration::from_millis(50)).spawn().unwrap();
    let [_client, (other, _path)] = ask_for_another(&running);
    for _ in 0..others {
        assert_eq!(next(|bytes| other.recv(bytes)), b"read");
    }
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (1, 0));
    let text = "could not be sent: write: the peer did not take all of it within 0.05 s";
    assert!(logged().iter().any(|line| line.contains(text)), "{:?}", logged());
}

fn a_unix_client_that_stops_reading_costs_no_other_its_reply_beyond_the_write_timeout() {
    assert_one_is_left_at_the_write_timeout(1);
}

fn a_handler_that_sends_on_does_not_fail_for_a_unix_client_that_stops_reading() {
    // More than are held.
    assert_one_is_left_at_the_write_timeout(40);
}

fn stopping_loses_no_reply() {
    const DATAGRAMS: u32 = 50;
    for replies in HELD {
        let stall = Stall::default();
        let server = UdpServer::new("127.0.0.1:0", stall.then(echo)).replies(replies);
        let running = server.spawn().unwrap();
        let client = udp_client(running.server_address());
        stall.begin_udp(&running);
        for number in 0..DATAGRAMS {
            client.send(&number.to_ne_bytes()).unwrap();
        }
        running.shutdown_handle().shutdown();
        stall.end();
        let report = running.stop().unwrap();
        assert_eq!((report.served, report.failed), (u64::from(DATAGRAMS) + 1, 0));
        for number in 0..DATAGRAMS {
            assert_eq!(next(|bytes| client.recv(bytes)), number.to_ne_bytes());
        }
    }
}

fn stopping_loses_no_reply_to_a_unix_client_that_reads_later() {
    // Too many for the client's queue, and few enough to be held.
    const REPLIES: u32 = 20;
    let (place, stall) = (temp_path("server"), Stall::default());
    let (sender, thread) = mpsc::channel();
    let handler = stall.then(move |request: &mut DatagramRequest| {
        sender.send(gettid()).unwrap();
        (0..REPLIES).try_for_each(|number| request.reply(number.to_ne_bytes()))
    });
    let server = UnixDatagramServer::new(&place.path, handler).replies(Replies::Batched);
    let running = server.spawn().unwrap();
    let (client, _path) = unconnected_client();
    stall.begin(|packet| client.send_to(packet, &place.path));
    client.send_to(b"", &place.path).unwrap();
    running.shutdown_handle().shutdown();
    stall.end();
    wait_until_asleep(thread.recv_timeout(CEILING).unwrap());
    let mut datagrams = iter::repeat_with(|| next(|bytes| client.recv(bytes))).filter(|bytes| bytes != FILLING);
    for number in 0..REPLIES {
        assert_eq!(datagrams.next().unwrap(), number.to_ne_bytes());
    }
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (2, 0));
}

/// Nobody is going to send what it holds: the server waits.
fn a_socket_that_was_kept_replies_at_once() {
    for replies in HELD {
        let (keep, kept) = mpsc::channel();
        let handler = move |request: &mut DatagramRequest| {
            keep.send((Arc::clone(request.get_ref()), request.client_address().clone()))
                .unwrap();
            echo(request)
        };
        let running = UdpServer::new("127.0.0.1:0", handler).replies(replies).spawn().unwrap();
        let client = udp_client(running.server_address());
        client.send(b"packet").unwrap();
        assert_eq!(next(|bytes| client.recv(bytes)), b"packet");
        let (socket, client_address) = kept.recv().unwrap();
        for packet in [b"one", b"two"] {
            socket.send_datagram(packet, &client_address).unwrap();
            assert_eq!(next(|bytes| client.recv(bytes)), packet);
        }
        running.stop().unwrap();
    }
}

/// A handler that waits after its reply, and what lets it go on.
fn reply_and_wait() -> (Gate, impl BaseRequestHandler<DatagramRequest>) {
    let gate = Gate::default();
    let in_handler = gate.clone();
    let handler = move |request: &mut DatagramRequest| {
        echo(request)?;
        in_handler.wait();
        io::Result::Ok(())
    };
    (gate, handler)
}

fn threads_reply_at_once() {
    let (gate, handler) = reply_and_wait();
    let server = ThreadingUdpServer::new("127.0.0.1:0", handler).replies(Replies::Batched);
    let running = server.spawn().unwrap();
    let client = udp_client(running.server_address());
    client.send(b"packet").unwrap();
    assert_eq!(next(|bytes| client.recv(bytes)), b"packet");
    gate.open();
    running.stop().unwrap();
}

fn handle_request_replies_at_once() {
    let (gate, handler) = reply_and_wait();
    let server = UdpServer::new("127.0.0.1:0", handler).replies(Replies::Batched);
    let server = Arc::new(server.bind().unwrap());
    let client = udp_client(&server.server_address());
    client.send(b"packet").unwrap();
    let handling = thread::spawn({
        let server = Arc::clone(&server);
        move || server.handle_request().unwrap()
    });
    assert_eq!(next(|bytes| client.recv(bytes)), b"packet");
    gate.open();
    assert_eq!(handling.join().unwrap(), Handled::Processed);
    server.close().unwrap();
}

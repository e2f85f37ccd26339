//! On a host with several addresses: a datagram is answered from the one that it was sent to, and its handler is told
//! which that was.

mod support;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::BorrowedFd;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};
use socketserver::prelude::*;
use socketserver::{DatagramSocket, Handled, MemoryDatagrams, Replies, Running, Udp};
use support::batch::{Stall, next_message};
use support::clients::{available, ipv6_available, lack};
use support::process::ROLE;
use support::unix::unix_datagram_client;
use support::{CEILING, inet, temp_path, wait_until};

tests![
    roles: answers_where_addresses_come_and_go;
    a_reply_comes_from_the_address_that_was_asked,
    over_ipv6_sockets_ipv4_clients_are_answered_from_the_address_that_they_asked,
    at_all_ipv4_addresses_written_as_ipv6_a_reply_comes_from_the_one_that_was_asked,
    an_ipv4_client_of_an_ipv6_socket_is_answered_from_the_address_that_it_asked_however_its_own_is_written,
    over_ipv6_a_reply_comes_from_the_address_that_was_asked,
    over_ipv6_a_link_local_address_answers_a_client_that_has_another,
    over_ipv6_a_datagram_to_a_group_is_answered,
    over_ipv6_an_address_that_the_host_has_by_a_route_alone_answers,
    over_ipv6_an_address_that_is_removed_before_the_reply_answers,
    a_datagram_to_all_hosts_is_answered,
    handle_request_answers_from_the_address_that_was_asked,
    a_thread_that_has_served_a_server_at_one_address_answers_from_the_address_that_was_asked,
    a_socket_made_elsewhere_answers_from_the_address_that_was_asked,
    what_the_program_asks_the_system_for_does_not_hide_the_address,
    held_replies_come_from_the_addresses_that_were_asked,
    segments_go_together_only_from_one_address,
    a_socket_that_was_kept_answers_from_the_address_that_was_asked,
    what_goes_to_somebody_else_comes_from_the_address_that_the_system_prefers,
    a_datagram_that_is_cut_is_answered_from_the_address_that_was_asked,
    a_reply_that_is_too_long_is_an_error,
    a_handler_is_told_the_address_that_was_asked,
    a_server_bound_to_one_address_tells_that,
    a_unix_datagram_has_no_local_ip,
    a_request_in_memory_has_the_local_ip_that_it_is_given,
];

const ANY: &str = "0.0.0.0:0";

fn echo(request: &mut DatagramRequest) -> io::Result<()> {
    request.reply(request.packet())
}

/// Replies with the address that was asked.
fn tell(request: &mut DatagramRequest) -> io::Result<()> {
    request.reply(format!("{:?}", request.local_ip()))
}

/// A client that is at no one's but its own address.
#[track_caller]
fn client() -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(CEILING)).unwrap();
    client
}

/// The server, at one of the addresses of this host: all of 127.0.0.0/8 are.
fn at(last: u8, server: &Address) -> SocketAddr {
    (IpAddr::from([127, 0, 0, last]), inet(server).port()).into()
}

/// The next datagram, and where it comes from.
#[track_caller]
fn next(client: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = vec![0; 65_535];
    let (length, from) = client.recv_from(&mut bytes).unwrap();
    bytes.truncate(length);
    (bytes, from)
}

/// Each of two addresses answers for itself.
#[track_caller]
fn check(server: &Address) {
    let client = client();
    for last in [2, 3] {
        client.send_to(b"hello", at(last, server)).unwrap();
        assert_eq!(next(&client), (b"hello".to_vec(), at(last, server)));
    }
}

#[track_caller]
fn check_server(server: impl BaseServer<Transport = Udp>) {
    let running = server.spawn().unwrap();
    check(running.server_address());
    running.stop().unwrap();
}

fn a_reply_comes_from_the_address_that_was_asked() {
    check_server(UdpServer::new(ANY, echo));
    check_server(ThreadingUdpServer::new(ANY, echo));
    check_server(ThreadPoolUdpServer::new(ANY, echo));
    check_server(ForkingUdpServer::new(ANY, echo));
    check_server(PreForkUdpServer::new(ANY, echo).workers(1));
}

fn over_ipv6_sockets_ipv4_clients_are_answered_from_the_address_that_they_asked() {
    if !ipv6_available() {
        return;
    }
    check_server(UdpServer::new("[::]:0", echo).only_v6(false));
    check_server(UdpServer::new("[::]:0", echo).only_v6(false).replies(Replies::Batched));
}

fn at_all_ipv4_addresses_written_as_ipv6_a_reply_comes_from_the_one_that_was_asked() {
    if ipv6_available() {
        check_server(UdpServer::new("[::ffff:0.0.0.0]:0", echo).only_v6(false));
    }
}

/// The system tells its address as IPv6, [`Address::ip`] as IPv4.
fn an_ipv4_client_of_an_ipv6_socket_is_answered_from_the_address_that_it_asked_however_its_own_is_written() {
    /// In turns, and through the socket, too.
    fn both(request: &mut DatagramRequest) -> io::Result<()> {
        let client = request.client_address();
        let written = (
            client.ip().expect("it has an IP"),
            client.port().expect("it has a port"),
        );
        request.reply("1")?;
        request.send_to("2", &written.into())?;
        request.reply("3")?;
        request.get_ref().send_datagram(b"4", &written.into())
    }
    if !ipv6_available() {
        return;
    }
    for replies in [Replies::AtOnce, Replies::Batched, Replies::Segmented] {
        let server = UdpServer::new("[::]:0", both).only_v6(false).replies(replies);
        let running = server.spawn().unwrap();
        let (client, asked) = (client(), at(2, running.server_address()));
        client.send_to(b"hello", asked).unwrap();
        for expected in ["1", "2", "3", "4"] {
            assert_eq!(next(&client), (expected.into(), asked), "{replies:?}");
        }
        running.stop().unwrap();
    }
}

fn over_ipv6_a_reply_comes_from_the_address_that_was_asked() {
    if !ipv6_available() {
        return;
    }
    let running = UdpServer::new("[::]:0", tell).spawn().unwrap();
    let client = UdpSocket::bind("[::1]:0").unwrap();
    client.set_read_timeout(Some(CEILING)).unwrap();
    let server = SocketAddr::new("::1".parse().unwrap(), inet(running.server_address()).port());
    client.send_to(b"hello", server).unwrap();
    assert_eq!(next(&client), (b"Some(::1)".to_vec(), server));
    running.stop().unwrap();
}

/// A network that this host has both a link-local address and another one in: the number of the interface, and these.
fn ipv6_network() -> Option<(u32, Ipv6Addr, Ipv6Addr)> {
    let interfaces: Vec<_> = getifaddrs().unwrap().collect();
    let address = |of: &InterfaceAddress| Some(of.address.as_ref()?.as_sockaddr_in6()?.ip());
    let found = interfaces.iter().find_map(|interface| {
        let link_local = address(interface).filter(Ipv6Addr::is_unicast_link_local)?;
        let on_it = |other: &&InterfaceAddress| other.interface_name == interface.interface_name;
        let mut others = interfaces.iter().filter(on_it).filter_map(address);
        let other = others.find(|other| !other.is_unicast_link_local())?;
        Some((if_nametoindex(&*interface.interface_name).ok()?, link_local, other))
    });
    if found.is_none() {
        lack("no network with a link-local IPv6 address and another".to_owned());
    }
    found
}

/// What comes back to a client at `from` that sends to `to`, at which a server is that is bound to all addresses.
#[track_caller]
fn answer_over_ipv6(from: Ipv6Addr, to: Ipv6Addr, interface: u32) -> (Vec<u8>, SocketAddr, u16) {
    let running = UdpServer::new("[::]:0", echo).spawn().unwrap();
    let client = UdpSocket::bind((from, 0)).unwrap();
    client.set_read_timeout(Some(CEILING)).unwrap();
    let port = inet(running.server_address()).port();
    client
        .send_to(b"hello", SocketAddrV6::new(to, port, 0, interface))
        .unwrap();
    let (packet, sender) = next(&client);
    running.stop().unwrap();
    (packet, sender, port)
}

/// The address alone does not say which network it is in, nor does the client's.
fn over_ipv6_a_link_local_address_answers_a_client_that_has_another() {
    let Some((interface, link_local, other)) = ipv6_network() else {
        return;
    };
    let (packet, sender, port) = answer_over_ipv6(other, link_local, interface);
    let expected = SocketAddrV6::new(link_local, port, 0, interface);
    assert_eq!((packet, sender), (b"hello".to_vec(), expected.into()));
}

/// By one of the host's addresses: nothing can come from a group.
fn over_ipv6_a_datagram_to_a_group_is_answered() {
    let Some((interface, _, other)) = ipv6_network() else {
        return;
    };
    // All that listen on the interface, on this host only (RFC 4291, 2.7.1).
    let group = "ff01::1".parse().unwrap();
    let (packet, sender, port) = answer_over_ipv6(other, group, interface);
    assert_eq!((packet, sender.port()), (b"hello".to_vec(), port));
}

const ASKED: &str = "SOCKETSERVER_TEST_ASKED";
const REMOVE: &str = "SOCKETSERVER_TEST_REMOVE";

/// In a network of its own, whose only interface is set up by these commands (ip(8)), who answers what is sent to an
/// address; the server removes it, if told so, before it replies. `None`: the test is to return at once.
#[track_caller]
fn answer_in_a_network(set_up: &str, asked: &str, remove: &str) -> Option<String> {
    if !available("ip") || !available("unshare") {
        return None;
    }
    let set_up = format!("ip link set lo up && {set_up} && exec \"$0\"");
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--net", "sh", "-c", &set_up])
        .arg(this);
    command.env(ROLE, "answers_where_addresses_come_and_go");
    let output = command.env(ASKED, asked).env(REMOVE, remove).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    if told.is_empty() {
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(!why.contains("panicked"), "{why}");
        lack(format!("no network namespace with IPv6: {}", why.trim()));
        return None;
    }
    Some(told)
}

/// The kernel gives an address its route a moment after the command has ended.
#[track_caller]
fn wait_until_answers(asked: Ipv6Addr) {
    let probe = UdpSocket::bind("[::]:0").unwrap();
    probe.set_nonblocking(true).unwrap();
    let port = probe.local_addr().unwrap().port();
    wait_until("the address is the host's", || {
        // Without a route it fails, or goes nowhere.
        let _ = probe.send_to(b"hello", (asked, port));
        probe.recv(&mut [0; 5]).is_ok()
    });
}

/// Tells who has answered a client, or why nobody has.
fn answers_where_addresses_come_and_go() {
    let (tell, told) = mpsc::channel();
    let handler = move |request: &mut DatagramRequest| {
        let remove = std::env::var(REMOVE).unwrap();
        assert!(Command::new("sh").args(["-c", &remove]).status().unwrap().success());
        tell.send(request.reply(request.packet())).unwrap();
    };
    let running = UdpServer::new("[::]:0", handler).spawn().unwrap();
    let client = UdpSocket::bind("[::1]:0").unwrap();
    client.set_read_timeout(Some(CEILING)).unwrap();
    let asked: Ipv6Addr = std::env::var(ASKED).unwrap().parse().unwrap();
    wait_until_answers(asked);
    let port = inet(running.server_address()).port();
    client.send_to(b"hello", (asked, port)).unwrap();
    match told.recv_timeout(CEILING).unwrap() {
        Ok(()) => print!("{}", next(&client).1.ip()),
        Err(error) => print!("{error}"),
    }
    running.stop().unwrap();
}

fn over_ipv6_an_address_that_the_host_has_by_a_route_alone_answers() {
    let set_up = "ip -6 route add local 2001:db8::/64 dev lo";
    if let Some(told) = answer_in_a_network(set_up, "2001:db8::7", "true") {
        assert_eq!(told, "2001:db8::7");
    }
}

fn over_ipv6_an_address_that_is_removed_before_the_reply_answers() {
    let set_up = "ip -6 address add 2001:db8::7/128 dev lo nodad";
    let remove = "ip -6 address del 2001:db8::7/128 dev lo";
    if let Some(told) = answer_in_a_network(set_up, "2001:db8::7", remove) {
        assert_eq!(told, "2001:db8::7");
    }
}

fn a_datagram_to_all_hosts_is_answered() {
    let mut servers = vec![UdpServer::new(ANY, tell)];
    if ipv6_available() {
        servers.push(UdpServer::new("[::]:0", tell).only_v6(false));
    }
    for server in servers {
        let running = server.spawn().unwrap();
        let client = client();
        client.set_broadcast(true).unwrap();
        let all = ([127, 255, 255, 255], inet(running.server_address()).port());
        client.send_to(b"hello", SocketAddr::from(all)).unwrap();
        let from = at(1, running.server_address());
        assert_eq!(next(&client), (b"Some(127.0.0.1)".to_vec(), from));
        running.stop().unwrap();
    }
}

fn handle_request_answers_from_the_address_that_was_asked() {
    let server = Arc::new(UdpServer::new(ANY, echo).bind().unwrap());
    let address = server.server_address();
    let handling = thread::spawn({
        let server = Arc::clone(&server);
        move || [(); 2].map(|()| server.handle_request().unwrap())
    });
    check(&address);
    assert_eq!(handling.join().unwrap(), [Handled::Processed; 2]);
    server.close().unwrap();
}

fn a_thread_that_has_served_a_server_at_one_address_answers_from_the_address_that_was_asked() {
    for (address, last) in [("127.0.0.2:0", 2), (ANY, 3)] {
        let server = Arc::new(UdpServer::new(address, echo).bind().unwrap());
        let client = client();
        let asked = at(last, &server.server_address());
        client.send_to(b"hello", asked).unwrap();
        assert_eq!(server.handle_request().unwrap(), Handled::Processed);
        assert_eq!(next(&client), (b"hello".to_vec(), asked));
        server.close().unwrap();
    }
}

fn a_socket_made_elsewhere_answers_from_the_address_that_was_asked() {
    let socket = UdpSocket::bind(ANY).unwrap();
    check_server(UdpServer::with_transport(Udp::try_from(socket).unwrap(), echo));
}

fn what_the_program_asks_the_system_for_does_not_hide_the_address() {
    let ask_for_more = |socket: BorrowedFd<'_>| {
        setsockopt(&socket, sockopt::ReceiveTimestamp, &true)?;
        setsockopt(&socket, sockopt::IpRecvTos, &true)?;
        Ok(())
    };
    check_server(UdpServer::new(ANY, echo).before_bind(ask_for_more));
}

/// A server that is busy until that is ended, and so receives together what it is sent meanwhile.
#[track_caller]
fn busy(replies: Replies) -> (Running, Stall) {
    let stall = Stall::default();
    let running = UdpServer::new(ANY, stall.then(echo)).replies(replies).spawn().unwrap();
    stall.begin_udp(&running);
    (running, stall)
}

fn held_replies_come_from_the_addresses_that_were_asked() {
    for replies in [Replies::Batched, Replies::Segmented] {
        let (running, stall) = busy(replies);
        let client = client();
        let sent = [(b"one", 2), (b"two", 3), (b"six", 2), (b"ten", 3)];
        for (packet, last) in sent {
            client.send_to(packet, at(last, running.server_address())).unwrap();
        }
        stall.end();
        let mut answers = [(); 4].map(|()| next(&client));
        answers.sort();
        let mut expected = sent.map(|(packet, last)| (packet.to_vec(), at(last, running.server_address())));
        expected.sort();
        assert_eq!(answers, expected);
        running.stop().unwrap();
    }
}

fn segments_go_together_only_from_one_address() {
    let (running, stall) = busy(Replies::Segmented);
    let client = client();
    setsockopt(&client, sockopt::UdpGroSegment, &true).unwrap();
    for (packet, last) in [(b"one", 2), (b"two", 2), (b"six", 3)] {
        client.send_to(packet, at(last, running.server_address())).unwrap();
    }
    stall.end();
    assert_eq!(next_message(&client), (b"onetwo".to_vec(), Some(3)));
    assert_eq!(next_message(&client), (b"six".to_vec(), None));
    running.stop().unwrap();
}

fn a_socket_that_was_kept_answers_from_the_address_that_was_asked() {
    let (keep, kept) = mpsc::channel::<(Arc<dyn DatagramSocket>, Address)>();
    let handler = move |request: &mut DatagramRequest| {
        keep.send((Arc::clone(request.get_ref()), request.client_address().clone()))
            .unwrap();
    };
    let running = UdpServer::new(ANY, handler).spawn().unwrap();
    let client = client();
    let server = at(2, running.server_address());
    client.send_to(b"hello", server).unwrap();
    let (socket, client_address) = kept.recv().unwrap();
    socket.send_datagram(b"later", &client_address).unwrap();
    assert_eq!(next(&client), (b"later".to_vec(), server));
    running.stop().unwrap();
}

fn what_goes_to_somebody_else_comes_from_the_address_that_the_system_prefers() {
    let somebody = client();
    let to = somebody.local_addr().unwrap().into();
    let handler = move |request: &mut DatagramRequest| request.send_to(request.packet(), &to);
    let running = UdpServer::new(ANY, handler).spawn().unwrap();
    client().send_to(b"hello", at(2, running.server_address())).unwrap();
    assert_eq!(next(&somebody), (b"hello".to_vec(), at(1, running.server_address())));
    running.stop().unwrap();
}

fn a_datagram_that_is_cut_is_answered_from_the_address_that_was_asked() {
    let handler = |request: &mut DatagramRequest| {
        request.reply(format!("{} of {}", request.packet().len(), request.sent_length()))
    };
    for server in [
        UdpServer::new(ANY, handler).max_packet_size(4),
        UdpServer::new(ANY, handler).max_packet_size(0),
    ] {
        let size = server.config().max_packet_size;
        let running = server.spawn().unwrap();
        let client = client();
        let server = at(2, running.server_address());
        client.send_to(b"too long", server).unwrap();
        assert_eq!(next(&client), (format!("{size} of 8").into_bytes(), server));
        running.stop().unwrap();
    }
}

fn a_reply_that_is_too_long_is_an_error() {
    for replies in [Replies::AtOnce, Replies::Batched] {
        let (tell, told) = mpsc::channel();
        let handler = move |request: &mut DatagramRequest| tell.send(request.reply(vec![0; 65_508])).unwrap();
        let running = UdpServer::new(ANY, handler).replies(replies).spawn().unwrap();
        client().send_to(b"hello", at(2, running.server_address())).unwrap();
        let error = told.recv().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::EMSGSIZE));
        running.stop().unwrap();
    }
}

/// What a server says that was asked at 127.0.0.`last`.
#[track_caller]
fn told(server: impl BaseServer<Transport = Udp>, last: u8) -> String {
    let running = server.spawn().unwrap();
    let client = client();
    client.send_to(b"hello", at(last, running.server_address())).unwrap();
    let (told, _) = next(&client);
    running.stop().unwrap();
    String::from_utf8(told).unwrap()
}

fn a_handler_is_told_the_address_that_was_asked() {
    assert_eq!(told(UdpServer::new(ANY, tell), 2), "Some(127.0.0.2)");
    assert_eq!(told(ThreadingUdpServer::new(ANY, tell), 3), "Some(127.0.0.3)");
    if ipv6_available() {
        assert_eq!(
            told(UdpServer::new("[::]:0", tell).only_v6(false), 2),
            "Some(127.0.0.2)"
        );
    }
}

fn a_server_bound_to_one_address_tells_that() {
    assert_eq!(told(UdpServer::new("127.0.0.2:0", tell), 2), "Some(127.0.0.2)");
}

fn a_unix_datagram_has_no_local_ip() {
    let place = temp_path("server");
    let running = UnixDatagramServer::new(place.path.clone(), tell).spawn().unwrap();
    let (client, _path) = unix_datagram_client(running.server_address());
    client.send(b"hello").unwrap();
    let mut bytes = [0; 100];
    let length = client.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"None");
    running.stop().unwrap();
}

fn a_request_in_memory_has_the_local_ip_that_it_is_given() {
    let socket = Arc::new(MemoryDatagrams::default());
    let request = DatagramRequest::new(Vec::new(), 0, "a client", socket);
    assert_eq!(request.local_ip(), None);
    let ip = IpAddr::from([127, 0, 0, 2]);
    assert_eq!(request.with_local_ip(ip).local_ip(), Some(ip));
}

//! What servers listen on: a transport of one's own, sockets made elsewhere, both families, Unix names,
//! and the attributes of sockets.

#![allow(unsafe_code, reason = "an inherited descriptor is adopted by its number")]

mod support;

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily as Family, Backlog, Shutdown, SockFlag, SockType, SockaddrStorage, UnixAddr as NixUnixAddr, bind,
    getsockname, getsockopt, listen, setsockopt, shutdown, socket, sockopt,
};
use socketserver::prelude::*;
use socketserver::{
    AddressFamily, Config, Replies, Running, SocketServer, SocketType, State, Tcp, Transport, Udp, UnixDatagrams,
    UnixStreams,
};
use support::clients::{self, ipv6_available};
use support::gate::Gate;
use support::process::{Process, role, serve_as_role};
use support::unix::{connect_unix, unix_datagram_client};
use support::{CEILING, EchoLine, connect, exchange_line, inet, read_to_end, temp_path, uninterrupted, wait_until};

tests![
    roles: serves_an_inherited_descriptor_in_threads, serves_an_inherited_descriptor_in_a_pool,
        serves_an_inherited_descriptor_in_processes, tells_how_long_its_queue_is;
    a_transport_of_ones_own_serves_an_inherited_descriptor_in_threads,
    a_transport_of_ones_own_serves_an_inherited_descriptor_in_a_pool,
    a_transport_of_ones_own_serves_an_inherited_descriptor_in_processes,
    an_inherited_listener_goes_on_after_its_server,
    a_transport_of_ones_own_tells_why_it_cannot_bind,
    a_transport_of_ones_own_may_have_a_stream_of_its_own,
    a_flood_does_not_put_the_end_off_where_a_transport_cannot_refuse,
    as_many_are_accepted_at_the_end_as_its_queue_holds_where_a_transport_cannot_refuse,
    a_tcp_listener_made_elsewhere_is_served,
    listeners_made_elsewhere_are_made_non_blocking,
    datagram_sockets_wait_however_they_were_made,
    a_unix_listener_made_elsewhere_is_served_and_its_path_stays,
    a_udp_socket_made_elsewhere_is_served_under_every_strategy,
    a_unix_datagram_socket_made_elsewhere_is_served_and_its_path_stays,
    the_longest_datagram_is_as_set_for_a_socket_made_elsewhere,
    a_datagram_socket_made_elsewhere_is_not_drained,
    a_socket_made_elsewhere_that_somebody_shuts_down_ends_serving_under_every_strategy,
    of_two_servers_on_one_socket_one_that_stops_leaves_no_client_behind_under_every_strategy,
    of_two_servers_on_one_socket_a_bare_one_that_is_suspended_leaves_no_client_behind,
    a_bare_server_that_is_suspended_keeps_no_datagram_from_others_that_have_the_socket,
    a_listener_made_elsewhere_is_neither_bound_nor_activated_again,
    a_socket_of_the_wrong_kind_is_refused,
    ipv6_follows_from_the_address,
    ipv6_follows_from_the_address_for_udp,
    localhost_is_resolved,
    an_empty_host_is_every_ipv4_address,
    a_dual_stack_server_tells_ipv4_clients_as_ipv4,
    a_dual_stack_udp_server_answers_ipv4_clients,
    only_v6_refuses_ipv4_clients,
    only_v6_lets_ipv4_have_the_same_port,
    a_unix_path_serves_streams,
    a_unix_path_serves_datagrams,
    an_abstract_name_serves_streams,
    an_abstract_name_serves_datagrams,
    an_abstract_name_with_a_leading_nul_is_the_same,
    an_abstract_name_of_any_bytes_is_served,
    an_abstract_name_is_free_again_after_the_server,
    before_bind_sees_a_socket_that_is_not_bound,
    before_bind_sets_options_for_every_transport,
    allow_reuse_address_lets_a_server_restart_at_once,
    allow_reuse_address_can_be_switched_off,
    allow_reuse_port_shares_a_port_between_two_servers,
    allow_reuse_port_is_off_by_default,
    deferred_accepting_waits_for_the_client_to_speak,
    deferred_accepting_lasts_at_least_as_long_as_was_set,
    deferred_accepting_is_off_by_default,
    a_client_that_has_not_spoken_when_a_deferring_server_stops_is_reset_when_it_does,
    fast_open_takes_what_comes_with_the_syn,
    fast_open_is_off_by_default,
    sockets_that_are_not_tcp_ignore_its_options,
    request_queue_size_is_what_the_kernel_queues,
    the_default_queue_holds_hundreds_of_clients_that_come_at_once,
    a_request_queue_size_beyond_the_kernels_is_cut,
    a_request_queue_size_that_the_kernel_has_been_given_room_for_is_kept,
    socket_is_the_listening_socket_by_its_type,
    fileno_is_the_descriptor_of_the_socket,
    no_socket_exists_before_binding,
    the_descriptor_does_not_survive_exec,
    the_type_of_the_socket_is_told,
    the_family_is_told_as_soon_as_it_is_known,
    the_address_is_the_one_asked_for_until_it_is_bound,
    the_address_bound_is_known_to_requests,
    binding_twice_is_the_same_as_once,
];

/// What is served by whom in this file.
fn address_of_client<S: Stream>(request: &mut StreamRequest<S>) -> io::Result<()> {
    let (address, ip) = (request.client_address().clone(), request.client_address().ip());
    writeln!(request, "{address} {ip:?}")
}

// ----- Transports of one's own -------------------------------------------------------------------

/// Serves a listening socket that this process has inherited, as systemd hands them over
/// (`sd_listen_fds(3)`): its number is in the environment variable that the address names.
struct Inherited(TcpListener);

impl Transport for Inherited {
    type Socket = TcpListener;
    type Request = TcpRequest;

    const SOCKET_TYPE: SocketType = SocketType::Stream;

    fn bind(address: &Address, _config: &Config) -> io::Result<Self> {
        let variable = address.to_string();
        let number = std::env::var(&variable).ok().and_then(|number| number.parse().ok());
        let Some(number) = number else {
            let text = format!("{variable} has no descriptor's number: start this program by what listens for it");
            return Err(io::Error::new(ErrorKind::NotFound, text));
        };
        let listener = TcpListener::from(adopt(number)?);
        listener.set_nonblocking(true)?;
        Ok(Inherited(listener))
    }

    fn socket(&self) -> &TcpListener {
        &self.0
    }

    fn local_address(&self) -> io::Result<Address> {
        Ok(self.0.local_addr()?.into())
    }

    fn accept(&self) -> io::Result<TcpRequest> {
        let (stream, peer) = self.0.accept()?;
        Ok(StreamRequest::new(stream, peer))
    }
}

/// Takes over a descriptor that this process was started with.
fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: borrowed for one call, which fails for a number that is no open descriptor.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    // A process may adopt a number once; that it was inherited shows in its missing FD_CLOEXEC.
    let flags = FdFlag::from_bits_retain(fcntl(borrowed, FcntlArg::F_GETFD)?);
    if flags.contains(FdFlag::FD_CLOEXEC) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "that descriptor is in use"));
    }
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: open, as the calls before have shown, and nobody else's: this process was started with it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

const LISTENER: &str = "SOCKETSERVER_TEST_LISTENER";

fn inherited() -> SocketServer<Inherited, EchoLine> {
    SocketServer::new(LISTENER, EchoLine)
}

fn serves_an_inherited_descriptor_in_threads() {
    serve_as_role(inherited().threading());
}

fn serves_an_inherited_descriptor_in_a_pool() {
    serve_as_role(inherited().thread_pool().workers(2));
}

fn serves_an_inherited_descriptor_in_processes() {
    serve_as_role(inherited().forking());
}

/// A process in that role, which inherits a listener of ours.
fn hand_over(listener: &TcpListener, name: &str) -> Process {
    // dup(2) leaves FD_CLOEXEC out.
    let inheritable = nix::unistd::dup(listener).unwrap();
    Process::start(role(name).env(LISTENER, inheritable.as_raw_fd().to_string()))
}

#[track_caller]
fn assert_serves_inherited(name: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::from(listener.local_addr().unwrap());
    let process = hand_over(&listener, name);
    drop(listener);
    assert_eq!(process.address(), address.to_string());
    let silent = connect(&address);
    assert_eq!(exchange_line(connect(&address), "one\n"), "one\n");
    assert_eq!(exchange_line(silent, "two\n"), "two\n");
    process.signal(Signal::SIGTERM);
    let ended = process.end();
    assert!(ended.output.starts_with("stopped: served=2 failed=0 "), "{ended:?}");
    assert!(TcpStream::connect(inet(&address)).is_err(), "it was the only holder");
}

fn a_transport_of_ones_own_serves_an_inherited_descriptor_in_threads() {
    assert_serves_inherited("serves_an_inherited_descriptor_in_threads");
}

fn a_transport_of_ones_own_serves_an_inherited_descriptor_in_a_pool() {
    assert_serves_inherited("serves_an_inherited_descriptor_in_a_pool");
}

fn a_transport_of_ones_own_serves_an_inherited_descriptor_in_processes() {
    assert_serves_inherited("serves_an_inherited_descriptor_in_processes");
}

/// What socket activation is for: a client that comes between two servers waits for the next one.
fn an_inherited_listener_goes_on_after_its_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::from(listener.local_addr().unwrap());
    let first = hand_over(&listener, "serves_an_inherited_descriptor_in_threads");
    assert_eq!(exchange_line(connect(&address), "one\n"), "one\n");
    first.signal(Signal::SIGTERM);
    assert_eq!(first.end().status.code(), Some(0));
    let early = connect(&address);
    let second = hand_over(&listener, "serves_an_inherited_descriptor_in_threads");
    assert_eq!(exchange_line(early, "two\n"), "two\n");
    second.signal(Signal::SIGTERM);
    assert_eq!(second.end().status.code(), Some(0));
}

fn a_transport_of_ones_own_tells_why_it_cannot_bind() {
    let error = inherited().threading().bind().err().unwrap();
    assert_eq!(
        error.to_string(),
        format!("{LISTENER} has no descriptor's number: start this program by what listens for it")
    );
}

/// A stream that says everything in capitals.
struct Loud(TcpStream);

impl Read for Loud {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl Write for Loud {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write(&data.to_ascii_uppercase())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Stream for Loud {
    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

/// A transport over another one.
struct Shouting(Tcp);

impl Transport for Shouting {
    forward_to_tcp!(0, stop_listening);

    type Request = StreamRequest<Loud>;

    fn bind(address: &Address, config: &Config) -> io::Result<Self> {
        Tcp::bind(address, config).map(Shouting)
    }

    fn accept(&self) -> io::Result<Self::Request> {
        let (stream, peer) = self.socket().accept()?;
        Ok(StreamRequest::new(Loud(stream), peer))
    }
}

fn a_flood_does_not_put_the_end_off_where_a_transport_cannot_refuse() {
    let server = SocketServer::<Shouting, _>::new("127.0.0.1:0", |_: &mut StreamRequest<Loud>| {});
    let server = server.request_queue_size(2).bind().unwrap();
    let address = inet(&server.server_address());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _ = TcpStream::connect_timeout(&address, Duration::from_millis(10));
                }
            });
        }
        server.shutdown();
        let report = server.serve_forever().unwrap();
        over.store(true, Ordering::Relaxed);
        assert!(report.served <= 3, "{report}: more than a queue of 2 holds");
    });
}

/// While each is served another comes, so that the kernel's queue is never empty.
fn as_many_are_accepted_at_the_end_as_its_queue_holds_where_a_transport_cannot_refuse() {
    let clients = Arc::new(Mutex::new(Vec::new()));
    let others = Arc::clone(&clients);
    let server = SocketServer::<Shouting, _>::new("127.0.0.1:0", move |request: &mut StreamRequest<Loud>| {
        let mut others = others.lock().unwrap();
        if others.len() < 10 {
            others.push(connect(request.server().server_address().unwrap()));
        }
    });
    let server = server.request_queue_size(2).bind().unwrap();
    let first = connect(&server.server_address());
    server.shutdown();
    let report = server.serve_forever().unwrap();
    // Linux has room for one more.
    assert_eq!(report.served, 3, "{report}");
    assert_eq!(clients.lock().unwrap().len(), 3);
    drop(first);
}

fn a_transport_of_ones_own_may_have_a_stream_of_its_own() {
    fn check<S: BaseServer<Transport = Shouting>>(server: S) {
        let running = server.spawn().unwrap();
        assert_eq!(exchange_line(connect(running.server_address()), "hello\n"), "HELLO\n");
        assert_eq!(running.stop().unwrap().served, 1);
    }
    let server = || SocketServer::<Shouting, _>::new("127.0.0.1:0", EchoLine);
    check(server());
    check(server().threading());
    check(server().thread_pool());
}

// ----- Made elsewhere ----------------------------------------------------------------------------

fn a_tcp_listener_made_elsewhere_is_served() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, number) = (listener.local_addr().unwrap(), listener.as_raw_fd());
    let server = TcpServer::with_transport(Tcp::try_from(listener).unwrap(), EchoLine).threading();
    assert_eq!(server.server_address(), address.into());
    assert_eq!(server.fileno().unwrap().as_raw_fd(), number);
    let running = server.spawn().unwrap();
    assert_eq!(exchange_line(connect(&address.into()), "hello\n"), "hello\n");
    running.stop().unwrap();
    assert!(TcpStream::connect(address).is_err());
}

fn does_not_wait(socket: impl AsFd) -> bool {
    let flags = fcntl(socket, FcntlArg::F_GETFL).unwrap();
    OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK)
}

/// Others may have them, too: what one has been woken for another may have accepted.
fn listeners_made_elsewhere_are_made_non_blocking() {
    let tcp = Tcp::try_from(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    assert!(does_not_wait(tcp.socket()));
    let place = temp_path("socket");
    let unix = UnixStreams::try_from(UnixListener::bind(&place.path).unwrap()).unwrap();
    assert!(does_not_wait(unix.socket()));
}

/// For a client that has no room for a reply.
fn datagram_sockets_wait_however_they_were_made() {
    let place = temp_path("socket");
    let (udp, unix) = (
        UdpServer::new("127.0.0.1:0", EchoLine),
        UnixDatagramServer::new(&place.path, EchoLine),
    );
    assert!(!does_not_wait(udp.bind().unwrap().fileno().unwrap()));
    assert!(!does_not_wait(unix.bind().unwrap().fileno().unwrap()));
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_nonblocking(true).unwrap();
    assert!(!does_not_wait(Udp::try_from(udp).unwrap().socket()));
    let unix = UnixDatagram::bind(&place.path).unwrap();
    unix.set_nonblocking(true).unwrap();
    assert!(!does_not_wait(UnixDatagrams::try_from(unix).unwrap().socket()));
}

fn a_unix_listener_made_elsewhere_is_served_and_its_path_stays() {
    let place = temp_path("socket");
    let listener = UnixListener::bind(&place.path).unwrap();
    let server = UnixStreamServer::with_transport(UnixStreams::try_from(listener).unwrap(), EchoLine);
    let running = server.thread_pool().spawn().unwrap();
    assert_eq!(running.server_address().path(), Some(&*place.path));
    assert_eq!(
        exchange_line(connect_unix(running.server_address()), "hello\n"),
        "hello\n"
    );
    running.stop().unwrap();
    assert!(place.path.exists(), "whoever made it removes it");
}

fn a_udp_socket_made_elsewhere_is_served_under_every_strategy() {
    #[track_caller]
    fn check<S: BaseServer>(strategy: impl FnOnce(UdpServer<EchoLine>) -> S) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        // As whoever waits with epoll has it.
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let server = strategy(UdpServer::with_transport(Udp::try_from(socket).unwrap(), EchoLine));
        let running = server.spawn().unwrap();
        assert_eq!(running.server_address(), &address.into());
        let client = support::udp_client(running.server_address());
        let mut answer = [0; 9];
        for _ in 0..3 {
            client.send(b"hello\n").unwrap();
            assert_eq!(uninterrupted(|| client.recv(&mut answer)).unwrap(), 6);
        }
        assert_eq!(running.stop().unwrap().served, 3);
        UdpSocket::bind(address).unwrap();
    }
    check(|server| server);
    check(Strategies::threading);
    check(Strategies::thread_pool);
    check(Strategies::forking);
}

fn a_unix_datagram_socket_made_elsewhere_is_served_and_its_path_stays() {
    let place = temp_path("socket");
    let socket = UnixDatagram::bind(&place.path).unwrap();
    let server = UnixDatagramServer::with_transport(UnixDatagrams::try_from(socket).unwrap(), EchoLine);
    let running = server.threading().spawn().unwrap();
    assert_eq!(running.server_address().path(), Some(&*place.path));
    let (client, _path) = unix_datagram_client(running.server_address());
    client.send(b"hello\n").unwrap();
    assert_eq!(client.recv(&mut [0; 9]).unwrap(), 6);
    assert_eq!(running.stop().unwrap().served, 1);
    assert!(place.path.exists(), "whoever made it removes it");
}

fn the_longest_datagram_is_as_set_for_a_socket_made_elsewhere() {
    let tell_length = |request: &mut DatagramRequest| {
        let text = format!("{} of {}", request.packet().len(), request.sent_length());
        request.reply(text.as_bytes())
    };
    for (longest, expected) in [(None, "20000 of 20000"), (Some(100), "100 of 20000")] {
        let udp = Udp::try_from(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        let place = temp_path("socket");
        let unix = UnixDatagrams::try_from(UnixDatagram::bind(&place.path).unwrap()).unwrap();
        let (mut udp, mut unix) = (
            UdpServer::with_transport(udp, tell_length),
            UnixDatagramServer::with_transport(unix, tell_length),
        );
        if let Some(longest) = longest {
            udp = udp.max_packet_size(longest);
            unix = unix.max_packet_size(longest);
        }
        let (udp, unix) = (udp.spawn().unwrap(), unix.spawn().unwrap());
        let udp_client = support::udp_client(udp.server_address());
        let (unix_client, _path) = unix_datagram_client(unix.server_address());
        let packet = vec![0; 20_000];
        udp_client.send(&packet).unwrap();
        unix_client.send(&packet).unwrap();
        let mut answer = [0; 99];
        let length = udp_client.recv(&mut answer).unwrap();
        assert_eq!(str::from_utf8(&answer[..length]), Ok(expected));
        let length = unix_client.recv(&mut answer).unwrap();
        assert_eq!(str::from_utf8(&answer[..length]), Ok(expected));
        udp.stop().unwrap();
        unix.stop().unwrap();
    }
}

fn a_datagram_socket_made_elsewhere_is_not_drained() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let ours = socket.try_clone().unwrap();
    let server = UdpServer::with_transport(Udp::try_from(ours).unwrap(), EchoLine)
        .bind()
        .unwrap();
    server.handle().suspend();
    let running = server.spawn().unwrap();
    let client = support::udp_client(running.server_address());
    client.send(b"for another").unwrap();
    assert_eq!(running.stop().unwrap().served, 0);
    client.send(b"for another, too").unwrap();
    socket.set_read_timeout(Some(CEILING)).unwrap();
    assert_eq!(socket.recv(&mut [0; 99]).unwrap(), 11);
    assert_eq!(socket.recv(&mut [0; 99]).unwrap(), 16);
}

/// Two servers on one listener, again and again: a client comes and the first, which the kernel wakes for it, is told
/// something. Whoever serves it, it is served.
#[track_caller]
fn assert_leaves_nobody<S: BaseServer>(make: impl Fn(Tcp) -> S, tell: impl Fn(&Running)) {
    const ROUNDS: usize = 100;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::from(listener.local_addr().unwrap());
    let tcp = || Tcp::try_from(listener.try_clone().unwrap()).unwrap();
    for round in 0..ROUNDS {
        // Woken up, it does not get the processor at once.
        let first = make(tcp()).sched_batch(true).spawn().unwrap();
        assert_eq!(exchange_line(connect(&address), "one\n"), "one\n");
        let other = TcpServer::with_transport(tcp(), EchoLine).spawn().unwrap();
        wait_until("both serve", || other.handle().state() == State::Serving);
        let client = connect(&address);
        tell(&first);
        assert_eq!(exchange_line(client, "two\n"), "two\n", "round {round}");
        first.stop().unwrap();
        other.stop().unwrap();
    }
}

fn of_two_servers_on_one_socket_one_that_stops_leaves_no_client_behind_under_every_strategy() {
    let stop = |server: &Running| server.shutdown_handle().shutdown();
    let bare = |tcp| TcpServer::with_transport(tcp, EchoLine);
    assert_leaves_nobody(bare, stop);
    assert_leaves_nobody(|tcp| bare(tcp).threading(), stop);
    assert_leaves_nobody(|tcp| bare(tcp).thread_pool().workers(2), stop);
    assert_leaves_nobody(|tcp| bare(tcp).forking(), stop);
    assert_leaves_nobody(|tcp| bare(tcp).prefork().workers(1), stop);
}

fn of_two_servers_on_one_socket_a_bare_one_that_is_suspended_leaves_no_client_behind() {
    assert_leaves_nobody(
        |tcp| TcpServer::with_transport(tcp, EchoLine),
        |server| server.handle().suspend(),
    );
}

// It receives several with one call, and nobody else can serve those.
fn a_bare_server_that_is_suspended_keeps_no_datagram_from_others_that_have_the_socket() {
    for replies in [Replies::AtOnce, Replies::Batched] {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = udp_client("127.0.0.1:0");
        client.connect(socket.local_addr().unwrap()).unwrap();
        let (begun, leave) = (Gate::default(), Gate::default());
        let gates = (begun.clone(), leave.clone());
        let handler = move |request: &mut DatagramRequest| {
            gates.0.open();
            gates.1.wait();
            request.reply(request.packet())
        };
        for number in 0..5 {
            client.send(&[number]).unwrap();
        }
        let server = UdpServer::with_transport(Udp::try_from(socket).unwrap(), handler);
        let running = server.replies(replies).spawn().unwrap();
        begun.wait();
        running.handle().suspend();
        leave.open();
        for number in 0..5 {
            assert_eq!(receive(&client), [number]);
        }
        assert_eq!(running.handle().state(), State::Suspended);
        running.stop().unwrap();
    }
}

/// Whoever waits for such a socket is woken up at once, for ever, and never gets anything.
fn a_socket_made_elsewhere_that_somebody_shuts_down_ends_serving_under_every_strategy() {
    #[track_caller]
    fn check<S: BaseServer>(server: S, other: &impl AsRawFd) {
        let running = server.spawn().unwrap();
        wait_until("it serves", || running.handle().state() == State::Serving);
        // A UDP socket says ENOTCONN, and is shut down all the same.
        let _ = shutdown(other.as_raw_fd(), Shutdown::Read);
        let error = running.join().expect_err("it is no listener any more");
        assert!(
            error.to_string().starts_with("the listening socket is broken: "),
            "{error}"
        );
    }
    fn under_every_strategy<T: Transport, K: AsRawFd>(make: impl Fn() -> (T, K))
    where
        EchoLine: BaseRequestHandler<T::Request>,
    {
        let server = || {
            let (transport, other) = make();
            (SocketServer::with_transport(transport, EchoLine), other)
        };
        let (bare, other) = server();
        check(bare, &other);
        let (bare, other) = server();
        check(bare.threading(), &other);
        let (bare, other) = server();
        check(bare.thread_pool(), &other);
    }
    let place = temp_path("socket");
    under_every_strategy(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = listener.try_clone().unwrap();
        (Tcp::try_from(listener).unwrap(), other)
    });
    under_every_strategy(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let other = socket.try_clone().unwrap();
        (Udp::try_from(socket).unwrap(), other)
    });
    under_every_strategy(|| {
        let _ = fs::remove_file(&place.path);
        let listener = UnixListener::bind(&place.path).unwrap();
        let other = listener.try_clone().unwrap();
        (UnixStreams::try_from(listener).unwrap(), other)
    });
    under_every_strategy(|| {
        let _ = fs::remove_file(&place.path);
        let socket = UnixDatagram::bind(&place.path).unwrap();
        let other = socket.try_clone().unwrap();
        (UnixDatagrams::try_from(socket).unwrap(), other)
    });
}

fn a_listener_made_elsewhere_is_neither_bound_nor_activated_again() {
    let place = temp_path("socket");
    let listener = UnixListener::bind(&place.path).unwrap();
    let server = UnixStreamServer::with_transport(UnixStreams::try_from(listener).unwrap(), EchoLine)
        .request_queue_size(0)
        .before_bind(|_| Err(io::Error::other("never called")))
        .bind()
        .unwrap();
    assert_eq!(
        accepted_by_the_kernel(&place.path, 20),
        20,
        "the queue is as it was made"
    );
    drop(server);
}

/// It accepts connections as any listener, but what one of them receives are messages.
fn seqpacket_listener(path: &std::path::Path) -> OwnedFd {
    let listener = socket(Family::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listener.as_raw_fd(), &NixUnixAddr::new(path).unwrap()).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    listener
}

/// The order of inherited descriptors is easily mistaken, and the standard library believes every number.
fn a_socket_of_the_wrong_kind_is_refused() {
    let place = temp_path("socket");
    let udp = || OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    let listener = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let datagram = || OwnedFd::from(UnixDatagram::unbound().unwrap());
    let stream = || OwnedFd::from(UnixStream::pair().unwrap().0);
    let unix_listener = OwnedFd::from(UnixListener::bind(&place.path).unwrap());
    let packets_place = temp_path("socket");
    let packets = seqpacket_listener(&packets_place.path);
    let made = [
        ("SeqPacket", UnixStreams::try_from(UnixListener::from(packets)).err()),
        ("no", Tcp::try_from(TcpListener::from(udp())).err()),
        ("no", UnixStreams::try_from(UnixListener::from(datagram())).err()),
        // Of the right type, but nobody can connect to it.
        ("no", UnixStreams::try_from(UnixListener::from(stream())).err()),
        ("datagrams", Udp::try_from(UdpSocket::from(listener())).err()),
        ("Inet", UnixStreams::try_from(UnixListener::from(listener())).err()),
        ("Inet", UnixDatagrams::try_from(UnixDatagram::from(udp())).err()),
        ("Unix", Udp::try_from(UdpSocket::from(datagram())).err()),
        (
            "Unix",
            Tcp::try_from(TcpListener::from(unix_listener.try_clone().unwrap())).err(),
        ),
        (
            "datagrams",
            UnixDatagrams::try_from(UnixDatagram::from(unix_listener)).err(),
        ),
    ];
    for (what, error) in made {
        let error = error.expect("it cannot be served");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
}

// ----- Internet ----------------------------------------------------------------------------------

fn ipv6_follows_from_the_address() {
    if !ipv6_available() {
        return;
    }
    let running = ThreadingTcpServer::new("[::1]:0", address_of_client).spawn().unwrap();
    assert_eq!(running.server_address().family(), Some(AddressFamily::Inet6));
    let client = connect(running.server_address());
    let expected = format!("{} Some(::1)\n", client.local_addr().unwrap());
    assert_eq!(read_to_end(client), expected.as_bytes());
}

fn ipv6_follows_from_the_address_for_udp() {
    if !ipv6_available() {
        return;
    }
    let running = ThreadingUdpServer::new(("::1", 0), EchoLine).spawn().unwrap();
    let client = udp_client("[::1]:0");
    client.send_to(b"hello\n", inet(running.server_address())).unwrap();
    assert_eq!(receive(&client), b"hello\n");
}

fn udp_client(address: &str) -> UdpSocket {
    let client = UdpSocket::bind(address).unwrap();
    client.set_read_timeout(Some(CEILING)).unwrap();
    client
}

fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 100];
    let count = client.recv(&mut buffer).unwrap();
    buffer[..count].to_vec()
}

fn localhost_is_resolved() {
    for address in [Address::from("localhost:0"), Address::from(("localhost", 0))] {
        let running = ThreadingTcpServer::new(address, EchoLine).spawn().unwrap();
        assert!(running.server_address().ip().unwrap().is_loopback());
        assert_ne!(running.server_address().port(), Some(0));
        assert_eq!(exchange_line(connect(running.server_address()), "hello\n"), "hello\n");
    }
}

fn an_empty_host_is_every_ipv4_address() {
    for address in [Address::from(("", 0)), Address::from(":0")] {
        let running = ThreadingTcpServer::new(address, EchoLine).spawn().unwrap();
        let bound = inet(running.server_address());
        assert_eq!(bound.ip(), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        // All of 127.0.0.0/8 is this machine.
        let client = TcpStream::connect((Ipv4Addr::new(127, 1, 2, 3), bound.port())).unwrap();
        assert_eq!(exchange_line(client, "hello\n"), "hello\n");
    }
}

fn a_dual_stack_server_tells_ipv4_clients_as_ipv4() {
    if !ipv6_available() {
        return;
    }
    let server = ThreadingTcpServer::new("[::]:0", address_of_client).only_v6(false);
    let running = server.spawn().unwrap();
    let port = running.server_address().port().unwrap();
    let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let told = format!("[::ffff:{}]:{}", "127.0.0.1", client.local_addr().unwrap().port());
    assert_eq!(read_to_end(client), format!("{told} Some(127.0.0.1)\n").as_bytes());
    let client = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
    let told = client.local_addr().unwrap().to_string();
    assert_eq!(read_to_end(client), format!("{told} Some(::1)\n").as_bytes());
}

fn a_dual_stack_udp_server_answers_ipv4_clients() {
    if !ipv6_available() {
        return;
    }
    let running = ThreadingUdpServer::new("[::]:0", EchoLine)
        .only_v6(false)
        .spawn()
        .unwrap();
    let port = running.server_address().port().unwrap();
    let client = udp_client("127.0.0.1:0");
    client.send_to(b"hello\n", (Ipv4Addr::LOCALHOST, port)).unwrap();
    assert_eq!(receive(&client), b"hello\n");
}

fn only_v6_refuses_ipv4_clients() {
    if !ipv6_available() {
        return;
    }
    let running = ThreadingTcpServer::new("[::]:0", EchoLine)
        .only_v6(true)
        .spawn()
        .unwrap();
    let port = running.server_address().port().unwrap();
    let error = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let client = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
    assert_eq!(exchange_line(client, "hello\n"), "hello\n");
}

fn only_v6_lets_ipv4_have_the_same_port() {
    if !ipv6_available() {
        return;
    }
    let six = ThreadingTcpServer::new("[::]:0", |r: &mut TcpRequest| r.write_all(b"six")).only_v6(true);
    let six = six.spawn().unwrap();
    let port = six.server_address().port().unwrap();
    let four = ThreadingTcpServer::new(("0.0.0.0", port), |r: &mut TcpRequest| r.write_all(b"four"));
    let _four = four.spawn().unwrap();
    assert_eq!(
        read_to_end(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap()),
        b"four"
    );
    assert_eq!(
        read_to_end(TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap()),
        b"six"
    );
}

// ----- Unix --------------------------------------------------------------------------------------

fn a_unix_path_serves_streams() {
    let place = temp_path("socket");
    for address in [Address::from(&place.path), Address::from(place.path.to_str().unwrap())] {
        let running = ThreadingUnixStreamServer::new(address, address_of_client)
            .spawn()
            .unwrap();
        assert_eq!(running.server_address(), &Address::from(&place.path));
        assert_eq!(read_to_end(connect_unix(running.server_address())), b"(unnamed) None\n");
        running.stop().unwrap();
    }
}

fn a_unix_path_serves_datagrams() {
    let place = temp_path("socket");
    let running = ThreadPoolUnixDatagramServer::new(&place.path, EchoLine)
        .spawn()
        .unwrap();
    assert_eq!(running.server_address(), &Address::from(&place.path));
    let (client, _place) = unix_datagram_client(running.server_address());
    client.send(b"hello\n").unwrap();
    let mut buffer = [0; 9];
    assert_eq!(client.recv(&mut buffer).unwrap(), 6);
    assert_eq!(&buffer[..6], b"hello\n");
}

/// An abstract name of this process and test alone.
fn name(of: &str) -> String {
    format!("socketserver-test-{}-{of}", std::process::id())
}

fn abstract_address(name: impl AsRef<[u8]>) -> UnixAddr {
    UnixAddr::from_abstract_name(name).unwrap()
}

fn an_abstract_name_serves_streams() {
    let name = name("stream");
    let server = ThreadingUnixStreamServer::new(Address::abstract_name(&name), EchoLine);
    let running = server.spawn().unwrap();
    assert_eq!(running.server_address(), &Address::abstract_name(&name));
    assert_eq!(running.server_address().to_string(), format!("@{name}"));
    let client = UnixStream::connect_addr(&abstract_address(&name)).unwrap();
    assert_eq!(exchange_line(client, "hello\n"), "hello\n");
}

fn an_abstract_name_serves_datagrams() {
    let (server_name, client_name) = (name("server"), name("client"));
    let handler = |request: &mut DatagramRequest| {
        let client = request.client_address().to_string();
        request.reply(client.as_bytes())
    };
    let server = ThreadingUnixDatagramServer::new(Address::abstract_name(&server_name), handler);
    let _running = server.spawn().unwrap();
    let client = UnixDatagram::bind_addr(&abstract_address(&client_name)).unwrap();
    client.set_read_timeout(Some(CEILING)).unwrap();
    client.send_to_addr(b"hello", &abstract_address(&server_name)).unwrap();
    let mut buffer = [0; 100];
    let count = client.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..count].escape_ascii().to_string(), format!("@{client_name}"));
}

fn an_abstract_name_with_a_leading_nul_is_the_same() {
    let name = name("nul");
    let running = ThreadingUnixStreamServer::new(format!("\0{name}"), EchoLine)
        .spawn()
        .unwrap();
    assert_eq!(running.server_address(), &Address::abstract_name(&name));
    let client = UnixStream::connect_addr(&abstract_address(&name)).unwrap();
    assert_eq!(exchange_line(client, "hello\n"), "hello\n");
}

fn an_abstract_name_of_any_bytes_is_served() {
    let mut bytes = name("bytes").into_bytes();
    bytes.extend([0, 0xff, b'/', b'\n', 0]);
    let server = ThreadingUnixStreamServer::new(Address::abstract_name(&bytes), EchoLine);
    let running = server.spawn().unwrap();
    assert_eq!(running.server_address(), &Address::abstract_name(&bytes));
    let client = UnixStream::connect_addr(&abstract_address(&bytes)).unwrap();
    assert_eq!(exchange_line(client, "hello\n"), "hello\n");
}

fn an_abstract_name_is_free_again_after_the_server() {
    let address = Address::abstract_name(name("again"));
    for _ in 0..3 {
        ThreadingUnixStreamServer::new(address.clone(), EchoLine)
            .spawn()
            .unwrap()
            .stop()
            .unwrap();
        ThreadingUnixDatagramServer::new(address.clone(), EchoLine)
            .spawn()
            .unwrap()
            .stop()
            .unwrap();
    }
}

// ----- Options of sockets ------------------------------------------------------------------------

fn before_bind_sees_a_socket_that_is_not_bound() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let server = TcpServer::new("127.0.0.1:0", EchoLine).before_bind(move |socket| {
        counted.fetch_add(1, Ordering::SeqCst);
        let address = getsockname::<SockaddrStorage>(socket.as_raw_fd())?;
        let port = address.as_sockaddr_in().unwrap().port();
        assert_eq!(port, 0, "a bound socket has a port");
        assert!(!getsockopt(&socket, sockopt::AcceptConn)?);
        Ok(())
    });
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    let server = server.bind().unwrap().bind().unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_ne!(server.server_address().port(), Some(0));
}

fn before_bind_sets_options_for_every_transport() {
    fn check(server: impl BaseServer) {
        let server = server
            .before_bind(|socket| Ok(setsockopt(&socket, sockopt::Priority, &5)?))
            .bind()
            .unwrap();
        assert_eq!(getsockopt(&server.fileno().unwrap(), sockopt::Priority).unwrap(), 5);
    }
    check(TcpServer::new("127.0.0.1:0", EchoLine));
    check(UdpServer::new("127.0.0.1:0", EchoLine));
    check(UnixStreamServer::new(&temp_path("socket").path, EchoLine));
    check(UnixDatagramServer::new(
        Address::abstract_name(name("option")),
        EchoLine,
    ));
}

/// The server closes first, so its side of the connection is the one that lingers in TIME-WAIT.
fn allow_reuse_address_lets_a_server_restart_at_once() {
    let mut address = Address::from("127.0.0.1:0");
    for _ in 0..3 {
        let server = ThreadingTcpServer::new(address, |r: &mut TcpRequest| r.write_all(b"bye"));
        let running = server.spawn().unwrap();
        address = running.server_address().clone();
        assert_eq!(read_to_end(connect(&address)), b"bye");
        running.stop().unwrap();
    }
}

/// A connection that somebody keeps has the server's port; the system forgets those in TIME-WAIT once there are too
/// many on the host.
fn allow_reuse_address_can_be_switched_off() {
    let (keep, kept) = mpsc::channel();
    let handler = move |request: &mut TcpRequest| keep.send(request.get_ref().try_clone().unwrap()).unwrap();
    let running = ThreadingTcpServer::new("127.0.0.1:0", handler).spawn().unwrap();
    let address = running.server_address().clone();
    let _client = connect(&address);
    let _connection = kept.recv().unwrap();
    running.stop().unwrap();
    let again = TcpServer::new(address, EchoLine).allow_reuse_address(false);
    assert_eq!(again.bind().err().unwrap().kind(), ErrorKind::AddrInUse);
}

fn allow_reuse_port_shares_a_port_between_two_servers() {
    let first = ThreadingTcpServer::new("127.0.0.1:0", |r: &mut TcpRequest| r.write_all(b"1")).allow_reuse_port(true);
    let first = first.spawn().unwrap();
    let address = first.server_address().clone();
    let second =
        ThreadingTcpServer::new(address.clone(), |r: &mut TcpRequest| r.write_all(b"2")).allow_reuse_port(true);
    let second = second.spawn().unwrap();
    // The kernel chooses by a hash of the client's address: that 100 go to one of two is next to impossible.
    let answers: Vec<_> = (0..100).map(|_| read_to_end(connect(&address))).collect();
    let of_first = answers.iter().filter(|answer| *answer == b"1").count() as u64;
    assert_eq!(first.stop().unwrap().served, of_first);
    assert_eq!(second.stop().unwrap().served, 100 - of_first);
    assert!((1..100).contains(&of_first), "{of_first}");
}

fn allow_reuse_port_is_off_by_default() {
    let first = UdpServer::new("127.0.0.1:0", EchoLine)
        .allow_reuse_port(true)
        .bind()
        .unwrap();
    let second = UdpServer::new(first.server_address(), EchoLine);
    assert_eq!(second.bind().err().unwrap().kind(), ErrorKind::AddrInUse);
    UdpServer::new(first.server_address(), EchoLine)
        .allow_reuse_port(true)
        .bind()
        .unwrap();
}

/// What an option of TCP is set to (tcp(7)).
fn tcp_option(server: &impl BaseServer, option: libc::c_int) -> nix::Result<libc::c_int> {
    let mut value = 0;
    let mut length = libc::socklen_t::try_from(size_of_val(&value)).unwrap();
    let fd = server.fileno().unwrap().as_raw_fd();
    // SAFETY: there is room for as many bytes as are told.
    let outcome = unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, option, (&raw mut value).cast(), &raw mut length) };
    Errno::result(outcome).map(|_| value)
}

fn deferred_accepting_waits_for_the_client_to_speak() {
    // One at a time: a client that is accepted keeps all others waiting.
    let running = TcpServer::new("127.0.0.1:0", |request: &mut TcpRequest| -> io::Result<()> {
        let number = request.server().number();
        request.read_exact(&mut [0])?;
        write!(request, "{number}")
    })
    .defer_accept(Duration::from_mins(1))
    .spawn()
    .unwrap();
    let silent = connect(running.server_address());
    for number in ["1", "2"] {
        let mut client = connect(running.server_address());
        client.write_all(b".").unwrap();
        assert_eq!(read_to_end(client), number.as_bytes());
    }
    (&silent).write_all(b".").unwrap();
    assert_eq!(read_to_end(silent), b"3");
    assert_eq!(running.stop().unwrap().served, 3);
}

fn deferred_accepting_lasts_at_least_as_long_as_was_set() {
    let told = |at_most: Duration| {
        let server = ThreadingTcpServer::new("127.0.0.1:0", EchoLine).defer_accept(at_most);
        tcp_option(&server.bind().unwrap(), libc::TCP_DEFER_ACCEPT).unwrap()
    };
    let seconds = Duration::from_secs;
    for (set, least) in [
        (Duration::ZERO, 1),
        (Duration::from_millis(1), 1),
        (Duration::from_millis(1001), 2),
        (seconds(7), 7),
        (seconds(60), 60),
    ] {
        assert!((least..=2 * least + 1).contains(&told(set)), "{set:?}: {}", told(set));
    }
    assert!(told(Duration::MAX) > 60);
}

fn a_client_that_has_not_spoken_when_a_deferring_server_stops_is_reset_when_it_does() {
    let server = ThreadingTcpServer::new("127.0.0.1:0", EchoLine).defer_accept(CEILING);
    let running = server.spawn().unwrap();
    let mut silent = connect(running.server_address());
    assert_eq!(running.stop().unwrap().served, 0);
    silent.write_all(b"hello\n").unwrap();
    let error = silent.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

fn deferred_accepting_is_off_by_default() {
    let server = TcpServer::new("127.0.0.1:0", EchoLine).bind().unwrap();
    assert_eq!(tcp_option(&server, libc::TCP_DEFER_ACCEPT), Ok(0));
    let server = TcpServer::new("127.0.0.1:0", EchoLine)
        .defer_accept(CEILING)
        .defer_accept(None);
    assert_eq!(tcp_option(&server.bind().unwrap(), libc::TCP_DEFER_ACCEPT), Ok(0));
}

fn fast_open_takes_what_comes_with_the_syn() {
    let server = TcpServer::new("127.0.0.1:0", EchoLine).tcp_fast_open(100);
    let server = server.bind().unwrap();
    assert_eq!(tcp_option(&server, libc::TCP_FASTOPEN), Ok(100));
    let running = server.spawn().unwrap();
    // Whether the kernel takes part is the administrator's choice; served is the client in any case.
    let client = socket(Family::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
    setsockopt(&client, sockopt::TcpFastOpenConnect, &true).unwrap();
    let address = SockaddrStorage::from(inet(running.server_address()));
    nix::sys::socket::connect(client.as_raw_fd(), &address).unwrap();
    assert_eq!(exchange_line(TcpStream::from(client), "hello\n"), "hello\n");
}

fn fast_open_is_off_by_default() {
    let server = TcpServer::new("127.0.0.1:0", EchoLine).bind().unwrap();
    assert_eq!(tcp_option(&server, libc::TCP_FASTOPEN), Ok(0));
}

fn sockets_that_are_not_tcp_ignore_its_options() {
    fn bind(server: impl BaseServer) {
        let server = server.defer_accept(CEILING).tcp_fast_open(100).bind().unwrap();
        assert!(tcp_option(&server, libc::TCP_DEFER_ACCEPT).is_err());
    }
    bind(UdpServer::new("127.0.0.1:0", EchoLine));
    bind(UnixStreamServer::new(&temp_path("socket").path, EchoLine));
    bind(UnixDatagramServer::new(&temp_path("socket").path, EchoLine));
}

/// How many of `attempts` connections the kernel takes for a listener that accepts none.
fn accepted_by_the_kernel(path: &std::path::Path, attempts: usize) -> usize {
    let address = NixUnixAddr::new(path).unwrap();
    let clients: Vec<_> = (0..attempts)
        .map_while(|_| {
            let client = socket(Family::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
            match nix::sys::socket::connect(client.as_raw_fd(), &address) {
                Ok(()) => Some(client),
                Err(errno) => {
                    assert_eq!(errno, Errno::EAGAIN);
                    None
                }
            }
        })
        .collect();
    clients.len()
}

fn request_queue_size_is_what_the_kernel_queues() {
    for size in [0, 1, 7] {
        let place = temp_path("socket");
        let _bound = UnixStreamServer::new(&place.path, EchoLine)
            .request_queue_size(size)
            .bind()
            .unwrap();
        // Linux takes one more than it is told.
        assert_eq!(accepted_by_the_kernel(&place.path, 20), size as usize + 1);
    }
}

fn the_default_queue_holds_hundreds_of_clients_that_come_at_once() {
    let bound = ThreadingTcpServer::new("127.0.0.1:0", EchoLine).bind().unwrap();
    let address = inet(&bound.server_address());
    // With Python's 5, the others' SYNs would be dropped, and these would wait in vain.
    let clients: Vec<_> = (0..300)
        .map(|_| TcpStream::connect_timeout(&address, CEILING).unwrap())
        .collect();
    let running = bound.spawn().unwrap();
    for client in clients {
        assert_eq!(exchange_line(client, "hello\n"), "hello\n");
    }
    assert_eq!(running.stop().unwrap().served, 300);
}

fn a_request_queue_size_beyond_the_kernels_is_cut() {
    let running = ThreadingTcpServer::new("127.0.0.1:0", EchoLine)
        .request_queue_size(u32::MAX)
        .spawn()
        .unwrap();
    assert_eq!(exchange_line(connect(running.server_address()), "hello\n"), "hello\n");
}

/// Where the kernel queues as many as it is told to, which is a matter of the network namespace; without the privilege
/// to make one it says nothing.
fn tells_how_long_its_queue_is() {
    // SAFETY: this process has no other thread.
    let alone = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
    if !alone || fs::write("/proc/sys/net/core/somaxconn", "20000").is_err() {
        return;
    }
    let server = TcpServer::new(":0", EchoLine)
        .request_queue_size(10_000)
        .bind()
        .unwrap();
    // The numbers of tcp(7)'s `TCP_INFO`; the eighth is that of listen(2), of a socket that listens.
    let mut info = [0_u32; 8];
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).unwrap();
    let socket = server.fileno().unwrap().as_raw_fd();
    // SAFETY: both pointers are to values that live through the call, of the length told.
    let told = unsafe {
        libc::getsockopt(
            socket,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert_eq!(told, 0);
    print!("{}", info[7]);
}

fn a_request_queue_size_that_the_kernel_has_been_given_room_for_is_kept() {
    let output = role("tells_how_long_its_queue_is").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    if told.is_empty() {
        clients::lack("no network namespace without privileges".to_owned());
        return;
    }
    assert_eq!(told, "10000");
}

// ----- What is told of the socket ----------------------------------------------------------------

fn socket_is_the_listening_socket_by_its_type() {
    let tcp = ThreadingTcpServer::new("127.0.0.1:0", EchoLine).bind().unwrap();
    let listener: &TcpListener = tcp.socket().unwrap();
    assert_eq!(Address::from(listener.local_addr().unwrap()), tcp.server_address());
    let udp = ForkingUdpServer::new("127.0.0.1:0", EchoLine).bind().unwrap();
    let socket: &UdpSocket = udp.socket().unwrap();
    assert_eq!(Address::from(socket.local_addr().unwrap()), udp.server_address());
    let place = temp_path("socket");
    let unix = ThreadPoolUnixStreamServer::new(&place.path, EchoLine).bind().unwrap();
    let listener: &UnixListener = unix.socket().unwrap();
    assert_eq!(Address::from(listener.local_addr().unwrap()), unix.server_address());
    drop(unix);
    let unixgram = UnixDatagramServer::new(&place.path, EchoLine).bind().unwrap();
    let socket: &UnixDatagram = unixgram.socket().unwrap();
    assert_eq!(Address::from(socket.local_addr().unwrap()), unixgram.server_address());
}

fn fileno_is_the_descriptor_of_the_socket() {
    let server = ThreadingTcpServer::new("127.0.0.1:0", EchoLine).bind().unwrap();
    let fileno = server.fileno().unwrap();
    assert_eq!(fileno.as_raw_fd(), server.socket().unwrap().as_raw_fd());
    assert!(getsockopt(&fileno, sockopt::AcceptConn).unwrap());
}

fn no_socket_exists_before_binding() {
    let server = ThreadingTcpServer::new("127.0.0.1:0", EchoLine);
    assert!(server.socket().is_none());
    assert!(server.fileno().is_none());
    assert_eq!(server.shutdown_handle().state(), State::New);
    let server = server.bind().unwrap();
    assert!(server.fileno().is_some());
    assert_eq!(server.shutdown_handle().state(), State::Bound);
}

/// A program that a handler starts must not hold the port.
fn the_descriptor_does_not_survive_exec() {
    fn check(server: impl BaseServer) {
        let server = server.bind().unwrap();
        let flags = fcntl(server.fileno().unwrap(), FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags & FdFlag::FD_CLOEXEC.bits(), FdFlag::FD_CLOEXEC.bits());
    }
    check(TcpServer::new("127.0.0.1:0", EchoLine));
    check(UdpServer::new("127.0.0.1:0", EchoLine));
    check(UnixStreamServer::new(Address::abstract_name(name("exec")), EchoLine));
    check(UnixDatagramServer::new(Address::abstract_name(name("exec")), EchoLine));
}

fn the_type_of_the_socket_is_told() {
    assert_eq!(
        ThreadingTcpServer::new("127.0.0.1:0", EchoLine).socket_type(),
        SocketType::Stream
    );
    assert_eq!(UnixStreamServer::new("x", EchoLine).socket_type(), SocketType::Stream);
    assert_eq!(
        ForkingUdpServer::new("127.0.0.1:0", EchoLine).socket_type(),
        SocketType::Datagram
    );
    assert_eq!(
        ThreadPoolUnixDatagramServer::new("x", EchoLine).socket_type(),
        SocketType::Datagram
    );
    assert_eq!(inherited().threading().socket_type(), SocketType::Stream);
}

fn the_family_is_told_as_soon_as_it_is_known() {
    let family = |address: &str| TcpServer::new(address, EchoLine).address_family();
    assert_eq!(family("127.0.0.1:0"), Some(AddressFamily::Inet));
    assert_eq!(family("[::1]:0"), Some(AddressFamily::Inet6));
    assert_eq!(family("localhost:0"), None);
    let bound = TcpServer::new("localhost:0", EchoLine).bind().unwrap();
    assert!(matches!(
        bound.address_family(),
        Some(AddressFamily::Inet | AddressFamily::Inet6)
    ));
    let unix = UnixStreamServer::new(Address::abstract_name(name("family")), EchoLine);
    assert_eq!(unix.address_family(), Some(AddressFamily::Unix));
}

fn the_address_is_the_one_asked_for_until_it_is_bound() {
    let server = ThreadingTcpServer::new("127.0.0.1:0", EchoLine);
    assert_eq!(server.server_address(), "127.0.0.1:0".into());
    let server = server.bind().unwrap();
    let told = inet(&server.server_address());
    assert_eq!(told, server.socket().unwrap().local_addr().unwrap());
    assert_ne!(told.port(), 0);
    let server = TcpServer::new("localhost:0", EchoLine);
    assert_eq!(server.server_address().to_string(), "localhost:0");
}

fn the_address_bound_is_known_to_requests() {
    let handler = |request: &mut TcpRequest| {
        let address = request.server().server_address().unwrap().to_string();
        request.write_all(address.as_bytes())
    };
    let running = ThreadingTcpServer::new("127.0.0.1:0", handler).spawn().unwrap();
    let address = running.server_address().clone();
    assert_eq!(read_to_end(connect(&address)), address.to_string().as_bytes());
}

fn binding_twice_is_the_same_as_once() {
    let once = ThreadingTcpServer::new("127.0.0.1:0", EchoLine).bind().unwrap();
    let (address, number) = (once.server_address(), once.fileno().unwrap().as_raw_fd());
    let twice = once.bind().unwrap();
    assert_eq!(twice.server_address(), address);
    assert_eq!(twice.fileno().unwrap().as_raw_fd(), number);
}

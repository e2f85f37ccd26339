//! One cell of CPython's matrix: a server of one kind under one strategy, from binding to closing.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::thread;

use nix::sys::socket::{SockaddrStorage, getsockname};
use socketserver::Construct;
use socketserver::prelude::*;

use super::journal::{Journal, Journaled, journal};
use super::unix::{connect_unix, path_of, unix_datagram_client, unnamed_datagram_client};
use super::{
    EchoLine, address_of_ones_own, children, connect, exchange_line, inet, temp_path, udp_client, uninterrupted,
    wait_until,
};

/// CPython's handler, which also fails when told to.
#[derive(Clone)]
pub struct EchoOrFail;

const FAIL: &str = "fail\n";

fn echo_or_fail<R>(request: &mut R, packet: &[u8], echo: impl FnOnce(&mut R) -> HandlerResult) -> HandlerResult {
    if packet == FAIL.as_bytes() {
        return Err("told to fail".into());
    }
    echo(request)
}

impl<S: Stream> BaseRequestHandler<StreamRequest<S>> for EchoOrFail {
    fn handle(&mut self, request: &mut StreamRequest<S>) -> HandlerResult {
        let read_ahead = std::io::BufRead::fill_buf(request)?.to_vec();
        echo_or_fail(request, &read_ahead, |request| EchoLine.handle(request))
    }
}

impl BaseRequestHandler<DatagramRequest> for EchoOrFail {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        let packet = request.packet().to_vec();
        echo_or_fail(request, &packet, |request| EchoLine.handle(request))
    }
}

/// The four kinds of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    Udp,
    UnixStream,
    UnixDatagram,
}

impl Kind {
    /// What a server is asked to bind: port 0, or a path that does not exist.
    fn address_to_ask_for(self, path: &Path) -> Address {
        match self {
            Kind::Tcp | Kind::Udp => address_of_ones_own().into(),
            Kind::UnixStream | Kind::UnixDatagram => path.into(),
        }
    }

    /// What the system says that a socket is bound to.
    fn address_of(self, server: &impl BaseServer) -> Address {
        let fd = server.fileno().expect("the server is bound").as_raw_fd();
        let name: SockaddrStorage = getsockname(fd).unwrap();
        match self {
            Kind::Tcp | Kind::Udp => {
                let name = name.as_sockaddr_in().expect("an IPv4 address");
                Address::Inet(std::net::SocketAddrV4::from(*name).into())
            }
            Kind::UnixStream | Kind::UnixDatagram => {
                let name = name.as_unix_addr().expect("a Unix address");
                name.path().expect("a path").into()
            }
        }
    }

    /// Sends a line as a client, and returns the line that comes back.
    fn exchange(self, server: &Address, line: &str) -> String {
        match self {
            Kind::Tcp => exchange_line(connect(server), line),
            Kind::UnixStream => exchange_line(connect_unix(server), line),
            Kind::Udp => {
                let client = udp_client(server);
                client.send(line.as_bytes()).unwrap();
                let mut answer = [0; 100];
                let length = uninterrupted(|| client.recv(&mut answer)).unwrap();
                String::from_utf8(answer[..length].to_vec()).unwrap()
            }
            Kind::UnixDatagram => {
                let (client, _path) = unix_datagram_client(server);
                client.send(line.as_bytes()).unwrap();
                let mut answer = [0; 100];
                let length = uninterrupted(|| client.recv(&mut answer)).unwrap();
                String::from_utf8(answer[..length].to_vec()).unwrap()
            }
        }
    }

    /// Makes the handler fail; returns once `handle_error` was told so, with this client's address.
    fn make_fail(self, server: &Address, journal: &Journal) {
        let reported = |client: Address| {
            let expected = format!("handle_error: handle failed for {client}: told to fail");
            wait_until("handle_error has run", || journal.count("handle_error") > 0);
            assert_eq!(journal.wait_for("handle_error").event, expected);
        };
        match self {
            Kind::Tcp => {
                let mut client = connect(server);
                client.write_all(FAIL.as_bytes()).unwrap();
                reported(client.local_addr().unwrap().into());
            }
            Kind::UnixStream => {
                let mut client = connect_unix(server);
                client.write_all(FAIL.as_bytes()).unwrap();
                reported(Address::Unnamed);
            }
            Kind::Udp => {
                let client = udp_client(server);
                client.send(FAIL.as_bytes()).unwrap();
                reported(client.local_addr().unwrap().into());
            }
            Kind::UnixDatagram => {
                let (client, path) = unix_datagram_client(server);
                client.send(FAIL.as_bytes()).unwrap();
                reported(path.path.as_path().into());
            }
        }
    }

    /// Whether another socket can take the address.
    fn is_free(self, address: &Address) -> bool {
        match self {
            Kind::Tcp => TcpListener::bind(inet(address)).is_ok(),
            Kind::Udp => UdpSocket::bind(inet(address)).is_ok(),
            Kind::UnixStream => UnixListener::bind(path_of(address)).is_ok(),
            Kind::UnixDatagram => UnixDatagram::bind(path_of(address)).is_ok(),
        }
    }
}

/// M1 to M7, M9 and M10 for one server; what is left behind is seen by the harness, too.
///
/// `foreign` are children that are not the server's.
pub fn cell<S: Construct<Handler = EchoOrFail>>(kind: Kind, foreign: &[u32]) {
    let (journal, pen) = journal();
    let place = temp_path("server");
    let asked = kind.address_to_ask_for(&place.path);
    let stack = Journaled::over(S::construct(asked.clone(), EchoOrFail), &pen).bind();
    let stack = stack.unwrap();

    // M1: the address is the one that the system tells.
    let address = stack.server_address();
    assert_eq!(address, kind.address_of(&stack));
    assert_ne!(address.port(), Some(0));
    assert_eq!(address.path(), asked.path());

    // M2: the loop runs in another thread.
    let handle = stack.shutdown_handle();
    let serving = thread::spawn(move || stack.serve_forever());

    // M3: three clients, one after the other.
    for line in ["one\n", "two\n", "three\n"] {
        assert_eq!(kind.exchange(&address, line), line);
    }

    // M10: handle_error is the overridden one, and the server goes on.
    kind.make_fail(&address, &journal);
    assert_eq!(kind.exchange(&address, "after a failure\n"), "after a failure\n");

    // M4: a client without a path costs an error, not the stack.
    let mut failures = 1;
    if kind == Kind::UnixDatagram {
        unnamed_datagram_client(&address).send(b"no path\n").unwrap();
        wait_until("the reply to nobody has failed", || journal.count("handle_error") == 2);
        let event = journal.of("handle_error").remove(1).event;
        assert!(
            event.contains("for (unnamed)") && event.contains("must bind a path"),
            "{event}"
        );
        assert_eq!(kind.exchange(&address, "after nobody\n"), "after nobody\n");
        failures += 1;
    }

    // M5: the loop ends, and its thread can be joined.
    handle.shutdown();
    let report = serving.join().unwrap().unwrap();
    let (served, failed) = (journal.count("process_request") - failures, failures);
    assert_eq!((report.served, report.failed), (served as u64, failed as u64));
    assert_eq!(journal.count("handle_error"), failures);

    // M6, M9: the address is free again, and no path is left.
    assert_eq!(fs::read_dir(place.path.parent().unwrap()).unwrap().count(), 0);
    assert!(kind.is_free(&address), "{address} is still taken");

    // M7, M8: no child of the server is left, and every other is.
    assert_eq!(children(), foreign);
}

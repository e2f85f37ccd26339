//! Clients that other people wrote, against the `echo` example over every transport and strategy. Each
//! server is stopped by a signal and tells how many it has served.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use support::process::{Process, STRATEGIES, Server, TRANSPORTS, echo, example_path, role, start, start_each};
use support::program::peer;
use support::{CEILING, clients, temp_path};

tests![
    roles: asks_for_a_client_that_nobody_has;
    nc_is_served_over_every_transport_and_strategy,
    socat_is_served_over_every_transport_and_strategy,
    socat_is_served_at_an_abstract_name,
    curl_is_served_over_every_stream_transport_and_strategy,
    openssl_is_served_over_tls,
    python_is_served_over_every_transport_and_strategy,
    cpythons_clients_are_served_by_sync_servers,
    cpythons_clients_are_served_by_threading_servers,
    cpythons_clients_are_served_by_forking_servers,
    cpythons_clients_are_served_by_pools,
    cpythons_clients_are_served_by_workers_forked_ahead,
    a_missing_client_skips_its_test_unless_it_is_required,
];

/// The host and the port of a server.
fn host_and_port(server: &Server) -> (&str, &str) {
    server.process.address().rsplit_once(':').unwrap()
}

// ----- Programs that copy their input to the server and the answer to their output ----------------

/// A client at work; killed when dropped.
struct Client {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    name: String,
}

impl Client {
    #[track_caller]
    fn start(program: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Client {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().unwrap()),
            name: format!("{program} {}", arguments.join(" ")),
            child,
        }
    }

    /// Has two lines echoed, one after the other.
    #[track_caller]
    fn assert_echoes(&mut self) {
        for line in ["hello\n", "again\n"] {
            self.input.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
            self.wait_for_output();
            let mut answer = String::new();
            self.output.read_line(&mut answer).unwrap();
            assert_eq!(answer, line, "{}", self.name);
        }
    }

    /// Waits until it has written something, or ended.
    #[track_caller]
    fn wait_for_output(&self) {
        let mut fds = [PollFd::new(self.output.get_ref().as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::try_from(CEILING).unwrap()).unwrap();
        assert_eq!(ready, 1, "{} writes nothing for {CEILING:?}", self.name);
    }

    /// Ends its input: the client tells the server, whose end of the stream it waits for.
    #[track_caller]
    fn assert_ends(mut self) {
        self.input.take();
        self.wait_for_output();
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "{}", self.name);
        assert!(self.child.wait().unwrap().success(), "{}", self.name);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Both do nothing to a client that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn nc_is_served_over_every_transport_and_strategy() {
    if !clients::available("nc") {
        return;
    }
    for server in start_each() {
        let own = temp_path("nc");
        let ((host, port), path) = match server.transport {
            "tcp" | "udp" => (host_and_port(&server), ""),
            _ => (("", ""), server.process.address()),
        };
        let requests = match server.transport {
            // -N: the end of the input is the end of the stream.
            "tcp" => serve_stream("nc", &["-N", host, port]),
            "unix" => serve_stream("nc", &["-N", "-U", path]),
            "udp" => serve_datagrams("nc", &["-u", host, port]),
            _ => serve_datagrams("nc", &["-u", "-U", "-s", own.path.to_str().unwrap(), path]),
        };
        server.assert_served(requests, Signal::SIGTERM);
    }
}

/// One connection; returns how many requests that is.
#[track_caller]
fn serve_stream(program: &str, arguments: &[&str]) -> u32 {
    let mut client = Client::start(program, arguments);
    client.assert_echoes();
    client.assert_ends();
    1
}

/// Two datagrams; returns how many requests that is. Nothing tells such a client that it has had all.
#[track_caller]
fn serve_datagrams(program: &str, arguments: &[&str]) -> u32 {
    Client::start(program, arguments).assert_echoes();
    2
}

fn socat_is_served_over_every_transport_and_strategy() {
    if !clients::available("socat") {
        return;
    }
    for server in start_each() {
        let (own, address) = (temp_path("socat"), server.process.address());
        let requests = match server.transport {
            "tcp" => serve_stream("socat", &["-", &format!("TCP:{address}")]),
            "unix" => serve_stream("socat", &["-", &format!("UNIX-CONNECT:{address}")]),
            "udp" => serve_datagrams("socat", &["-", &format!("UDP:{address}")]),
            _ => {
                let peer = format!("UNIX-SENDTO:{address},bind={}", own.path.display());
                serve_datagrams("socat", &["-", &peer])
            }
        };
        server.assert_served(requests, Signal::SIGINT);
    }
}

/// As the help of the example shows it.
fn socat_is_served_at_an_abstract_name() {
    if !clients::available("socat") {
        return;
    }
    let name = format!("socketserver-test-{}", std::process::id());
    for strategy in STRATEGIES {
        let process = Process::start(&mut echo("unix", strategy, &format!("@{name}")));
        assert_eq!(process.address(), format!("@{name}"));
        let peer = format!("ABSTRACT-CONNECT:{name}");
        let requests = serve_stream("socat", &["-", &peer]);
        let server = Server {
            process,
            transport: "unix",
            place: temp_path("none"),
            name: strategy.to_owned(),
        };
        server.assert_served(requests, Signal::SIGTERM);
    }
}

fn curl_is_served_over_every_stream_transport_and_strategy() {
    if !clients::available("curl") {
        return;
    }
    for strategy in STRATEGIES {
        for transport in ["tcp", "unix"] {
            let server = start(transport, strategy);
            let address = server.process.address().to_owned();
            let url = format!("telnet://{}", if transport == "tcp" { &address } else { "localhost" });
            let mut arguments = vec!["--silent", "--no-buffer", &url];
            if transport == "unix" {
                arguments.extend(["--unix-socket", &address]);
            }
            // It tells nobody when its input has ended, so it is the one that has to be ended.
            Client::start("curl", &arguments).assert_echoes();
            server.assert_served(1, Signal::SIGINT);
        }
    }
}

/// A certificate for `localhost` and its key, as `openssl` makes them.
#[track_caller]
fn make_certificate(cert: &str, key: &str) {
    let mut command = Command::new("openssl");
    command.args([
        "req",
        "-x509",
        "-nodes",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
    ]);
    command.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
    let output = command.args(["-keyout", key, "-out", cert]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn openssl_is_served_over_tls() {
    if !clients::available("openssl") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let file = |name| place.path().join(name).to_str().unwrap().to_owned();
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    make_certificate(&cert, &key);
    let mut command = Command::new(example_path("tls_echo"));
    let process = Process::start(command.args(["--cert", &cert, "--key", &key]));
    let start = |version, more: &[&str]| {
        let to = [
            "s_client",
            "-connect",
            process.address(),
            "-quiet",
            "-verify_quiet",
            version,
        ];
        let check = [
            "-CAfile",
            &cert,
            "-verify_return_error",
            "-verify_hostname",
            "localhost",
        ];
        let name = ["-servername", "localhost"];
        let mut client = Client::start("openssl", &[&to, &check[..], &name, more].concat());
        client.assert_echoes();
        client
    };
    for version in ["-tls1_2", "-tls1_3"] {
        start(version, &["-no_ign_eof"]).assert_ends();
    }
    // These wait for the server's last word.
    let waiting = ["-tls1_2", "-tls1_3"].map(|version| start(version, &[]));
    process.signal(Signal::SIGTERM);
    waiting.into_iter().for_each(Client::assert_ends);
    let ended = process.end();
    assert!(ended.output.starts_with("stopped: served=4 failed=0 "), "{ended:?}");
}

// ----- Python ------------------------------------------------------------------------------------

/// A plain client of each family and type: sends, closes its sending side, reads to the end.
const PYTHON_CLIENT: &str = "
import socket, sys
transport, address, own = sys.argv[1:]
if transport in ('tcp', 'udp'):
    family, (host, port) = socket.AF_INET, address.rsplit(':', 1)
    address = host, int(port)
else:
    family = socket.AF_UNIX
data = b'line\\n' * 1000
if transport in ('tcp', 'unix'):
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect(address)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        answer = b''.join(iter(lambda: client.recv(1000), b''))
else:
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        if family == socket.AF_UNIX:
            client.bind(own)
        client.sendto(data, address)
        answer, sender = client.recvfrom(10000)
        assert sender == address, sender
assert answer == data, answer
";

fn python_is_served_over_every_transport_and_strategy() {
    if !clients::available("python3") {
        return;
    }
    for server in start_each() {
        let own = temp_path("python");
        let mut client = Command::new(clients::python());
        client.args(["-c", PYTHON_CLIENT, server.transport, server.process.address()]);
        let output = client.arg(&own.path).output().unwrap();
        assert!(output.status.success(), "{}: {output:?}", server.name);
        server.assert_served(1, Signal::SIGTERM);
    }
}

/// One server of each transport, and the clients that CPython's `SocketServerTest` has for it.
#[track_caller]
fn assert_serves_cpythons_clients(strategy: &str) {
    if !clients::python_with("test.test_socketserver") {
        return;
    }
    let servers = TRANSPORTS.map(|transport| start(transport, strategy));
    let place = tempfile::tempdir().unwrap();
    let output = peer("cpython_clients.py")
        .args(
            servers
                .iter()
                .map(|server| format!("{}={}", server.transport, server.process.address())),
        )
        // Where its clients bind their paths, which it removes.
        .env("TMPDIR", place.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{strategy}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(place.path().read_dir().unwrap().count(), 0);
    for server in servers {
        server.assert_served(3, Signal::SIGINT);
    }
}

// test_{TCP,UDP,UnixStream,UnixDatagram}Server (CPython)
fn cpythons_clients_are_served_by_sync_servers() {
    assert_serves_cpythons_clients("sync");
}

// test_Threading{TCP,UDP,UnixStream,UnixDatagram}Server (CPython)
fn cpythons_clients_are_served_by_threading_servers() {
    assert_serves_cpythons_clients("threading");
}

// test_Forking{TCP,UDP,UnixStream,UnixDatagram}Server (CPython)
fn cpythons_clients_are_served_by_forking_servers() {
    assert_serves_cpythons_clients("forking");
}

// Not in CPython
fn cpythons_clients_are_served_by_pools() {
    assert_serves_cpythons_clients("pool");
}

// Not in CPython
fn cpythons_clients_are_served_by_workers_forked_ahead() {
    assert_serves_cpythons_clients("prefork");
}

// ----- Missing clients ---------------------------------------------------------------------------

fn asks_for_a_client_that_nobody_has() {
    assert!(!clients::available("a-client-that-nobody-has"));
    println!("{}", clients::take_missing().unwrap());
}

/// What CONTRIBUTING promises of `cargo test` and of `scripts/test.sh`.
fn a_missing_client_skips_its_test_unless_it_is_required() {
    let ask = |required: &str| {
        let mut command = role("asks_for_a_client_that_nobody_has");
        command.env("SOCKETSERVER_TEST_CLIENTS", required).output().unwrap()
    };
    let optional = ask("");
    assert_eq!(optional.stdout, b"no a-client-that-nobody-has\n", "{optional:?}");
    let required = ask("required");
    assert!(!required.status.success());
    let text = String::from_utf8(required.stderr).unwrap();
    assert!(
        text.contains("no a-client-that-nobody-has, and SOCKETSERVER_TEST_CLIENTS=required: "),
        "{text}"
    );
}

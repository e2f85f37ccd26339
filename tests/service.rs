//! The `service` example, with this test in the place of systemd.

mod support;

use std::io::Write;
use std::net::{Shutdown, TcpListener};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;

use nix::sys::signal::Signal;
use support::process::{Process, example_path};
use support::{CEILING, connect_to, exchange_line, temp_path, unread, wait_until};

tests![
    without_systemd_it_is_an_ordinary_server,
    it_tells_when_it_is_ready_that_it_is_alive_and_when_it_stops,
    it_tells_a_manager_with_an_abstract_name,
    a_watchdog_of_no_time_is_none,
    a_time_to_drain_that_is_none_is_a_wrong_argument,
    started_again_it_serves_who_has_come_to_its_socket_meanwhile,
    a_socket_that_it_cannot_serve_is_refused,
];

fn service() -> Command {
    let mut command = Command::new(example_path("service"));
    for variable in [
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_FDS",
        "LISTEN_PID",
    ] {
        command.env_remove(variable);
    }
    command
}

/// As systemd starts it, with `socket` as descriptor 3.
fn service_with(socket: OwnedFd) -> Command {
    let mut command = Command::new("sh");
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\"";
    command.args(["-c", script]).arg(example_path("service")).stdin(socket);
    command
}

#[track_caller]
fn assert_stops(server: Process, requests: u32) {
    server.signal(Signal::SIGTERM);
    let ended = server.end();
    let counts = format!("stopped: served={requests} failed=0 ");
    assert!(ended.output.starts_with(&counts) && ended.status.success(), "{ended:?}");
}

fn without_systemd_it_is_an_ordinary_server() {
    let server = Process::start(&mut service());
    assert_eq!(exchange_line(connect_to(server.address()), "hello\n"), "HELLO\n");
    assert_stops(server, 1);
}

fn it_tells_when_it_is_ready_that_it_is_alive_and_when_it_stops() {
    let place = temp_path("notify");
    let manager = UnixDatagram::bind(&place.path).unwrap();
    manager.set_read_timeout(Some(CEILING)).unwrap();
    let told = || {
        let mut buffer = [0; 1024];
        let count = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    let mut command = service();
    command.env("NOTIFY_SOCKET", &place.path).env("WATCHDOG_USEC", "150000");
    let server = Process::start(&mut command);
    assert_eq!([told(), told(), told()], ["READY=1\n", "WATCHDOG=1\n", "WATCHDOG=1\n"]);

    let client = connect_to(server.address());
    assert_eq!(exchange_line(&client, "one\n"), "ONE\n");
    // In the middle of a message, which is waited for.
    (&client).write_all(b"tw").unwrap();
    wait_until("that is read", || unread(&client) == Some(0));
    server.signal(Signal::SIGTERM);
    while told() != "STOPPING=1\nSTATUS=connections left: 1\n" {}
    assert_eq!(exchange_line(&client, "o\n"), "TWO\n");
    client.shutdown(Shutdown::Write).unwrap();
    let ended = server.end();
    assert!(
        ended.output.starts_with("stopped: served=1 failed=0 drained=1 "),
        "{ended:?}"
    );
}

fn it_tells_a_manager_with_an_abstract_name() {
    let name = format!("socketserver-test-{}", std::process::id());
    let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    manager.set_read_timeout(Some(CEILING)).unwrap();
    let server = Process::start(service().env("NOTIFY_SOCKET", format!("@{name}")));
    let mut told = [0; 100];
    let count = manager.recv(&mut told).unwrap();
    assert_eq!(&told[..count], b"READY=1");
    assert_stops(server, 0);
}

fn a_watchdog_of_no_time_is_none() {
    let server = Process::start(service().env("WATCHDOG_USEC", "0"));
    assert_eq!(exchange_line(connect_to(server.address()), "hello\n"), "HELLO\n");
    assert_stops(server, 1);
}

fn a_time_to_drain_that_is_none_is_a_wrong_argument() {
    for text in ["-1", "soon"] {
        let output = service().args(["--drain", text]).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let told = format!("error: invalid value '{text}' for '--drain <SECS>': write seconds, such as 60 or 0.5");
        assert!(errors.starts_with(&told), "{errors}");
        assert_eq!(output.status.code(), Some(2));
    }
}

fn started_again_it_serves_who_has_come_to_its_socket_meanwhile() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let start = || Process::start(&mut service_with(listener.try_clone().unwrap().into()));
    let server = start();
    assert_eq!(server.address(), address);
    assert_eq!(exchange_line(connect_to(&address), "before\n"), "BEFORE\n");
    assert_stops(server, 1);

    let waiting = connect_to(&address);
    let server = start();
    assert_eq!(exchange_line(waiting, "meanwhile\n"), "MEANWHILE\n");
    assert_stops(server, 1);
}

fn a_socket_that_it_cannot_serve_is_refused() {
    let (datagrams, _) = UnixDatagram::pair().unwrap();
    let output = service_with(datagrams.into()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        (output.status.code(), &*errors),
        (Some(2), "service: fd 3 is not a valid tcp socket\n")
    );
}

//! The `echo` example from its command line: what it promises to scripts. How signals end it is in
//! `signals.rs`, what other people's clients get of it in `real_clients.rs`.

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use socketserver::prelude::*;
use support::process::{Process, STRATEGIES, assert_ended, assert_ends_well_unread, echo, echo_path, start};
use support::program::{assert_tells_that_the_disk_is_full, full_disk, unread};
use support::talk::{assert_waits, finish, in_progress};
use support::unix::{connect_unix, unix_datagram_client};
use support::{connect, exchange_line, read_to_end, temp_path, udp_client};

tests![
    without_options_it_serves_tcp_in_threads_on_a_free_port_of_loopback,
    a_stream_is_echoed_to_its_end_under_every_strategy,
    the_longest_datagram_is_echoed_under_every_strategy,
    an_empty_datagram_is_echoed_under_every_strategy,
    workers_are_as_many_as_asked_for,
    sigterm_waits_for_the_clients_of_worker_processes_and_sigint_does_not,
    sigint_ends_idle_worker_processes_without_unfounded_warnings,
    standard_output_has_two_lines_and_the_log_is_elsewhere,
    it_ends_well_although_nobody_reads_its_output_any_more,
    help_names_every_transport_and_strategy,
    a_transport_that_does_not_exist_is_told,
    a_time_below_zero_is_told,
    counts_that_make_no_sense_are_told,
    an_address_without_a_port_is_told,
    a_unix_server_needs_a_path,
    a_server_that_cannot_tell_its_address_ends,
    a_full_disk_is_told,
    hints_and_errors_that_cannot_be_printed_do_not_matter,
    over_max_connections_clients_are_told_to_come_again_under_every_strategy,
    over_max_connections_clients_wait_under_every_strategy,
    over_the_limit_of_an_address_clients_wait,
    the_stats_are_logged_at_sigusr1,
    options_without_effect_are_told,
    an_address_that_is_taken_is_told,
];

/// The address of an Internet server.
fn inet(process: &Process) -> Address {
    process.address().into()
}

fn without_options_it_serves_tcp_in_threads_on_a_free_port_of_loopback() {
    let process = Process::start(&mut Command::new(echo_path()));
    let address = inet(&process);
    assert_eq!(address.ip(), Some("127.0.0.1".parse().unwrap()));
    assert_ne!(address.port(), Some(0));
    let silent = connect(&address);
    let client = connect(&address);
    assert_eq!(exchange_line(&client, "hello\n"), "hello\n", "beside the silent one");
    drop((silent, client));
    process.signal(Signal::SIGTERM);
    let ended = process.end();
    assert!(ended.output.starts_with("stopped: served=2 failed=0 "), "{ended:?}");
}

/// Sends more than all buffers hold, while it reads what comes back.
#[track_caller]
fn assert_echoes_all<S: Stream>(stream: S, mut clone: S) {
    let data: Vec<u8> = (0..5_000_000_u32).map(|number| (number % 251) as u8).collect();
    let sent = data.clone();
    thread::scope(|scope| {
        scope.spawn(move || {
            clone.write_all(&sent).unwrap();
            clone.shutdown_stream(Shutdown::Write).unwrap();
        });
        assert!(read_to_end(stream) == data, "what came back is not what was sent");
    });
}

fn a_stream_is_echoed_to_its_end_under_every_strategy() {
    for strategy in STRATEGIES {
        let server = start("tcp", strategy);
        let stream = connect(&inet(&server.process));
        let clone = stream.try_clone().unwrap();
        assert_echoes_all(stream, clone);
        server.assert_served(1, Signal::SIGTERM);

        let server = start("unix", strategy);
        let stream = connect_unix(&server.place.path.as_path().into());
        let clone = stream.try_clone().unwrap();
        assert_echoes_all(stream, clone);
        server.assert_served(1, Signal::SIGTERM);
    }
}

/// Sends each server a datagram of so many bytes, which comes back.
#[track_caller]
fn assert_echoes_datagram(udp_length: usize, unix_length: usize) {
    let mut answer = vec![0; 70_000];
    for strategy in STRATEGIES {
        let server = start("udp", strategy);
        let (client, packet) = (udp_client(&inet(&server.process)), vec![b'u'; udp_length]);
        client.send(&packet).unwrap();
        let length = client.recv(&mut answer).unwrap();
        assert!(answer[..length] == packet, "{strategy}: {length} bytes came back");
        server.assert_served(1, Signal::SIGTERM);

        let server = start("unixgram", strategy);
        let (client, _path) = unix_datagram_client(&server.place.path.as_path().into());
        let packet = vec![b'x'; unix_length];
        client.send(&packet).unwrap();
        let length = client.recv(&mut answer).unwrap();
        assert!(answer[..length] == packet, "{strategy}: {length} bytes came back");
        server.assert_served(1, Signal::SIGTERM);
    }
}

fn the_longest_datagram_is_echoed_under_every_strategy() {
    // UDP's own limit, and max_packet_size.
    assert_echoes_datagram(65_507, 65_535);
}

fn an_empty_datagram_is_echoed_under_every_strategy() {
    assert_echoes_datagram(0, 0);
}

fn workers_are_as_many_as_asked_for() {
    let process = Process::start(echo("tcp", "pool", "127.0.0.1:0").args(["--workers", "2"]));
    let address = inet(&process);
    let clients: Vec<_> = (0..3).map(|_| connect(&address)).collect();
    for client in &clients[..2] {
        assert_eq!(exchange_line(client, "hello\n"), "hello\n");
    }
    let mut third = &clients[2];
    third.write_all(b"hello\n").unwrap();
    third.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(
        third.read(&mut [0]).is_err(),
        "there are two workers, and they are busy"
    );
    third.set_read_timeout(Some(support::CEILING)).unwrap();
    clients[0].shutdown(Shutdown::Write).unwrap();
    assert_eq!(exchange_line(third, ""), "hello\n");
    drop(clients);
    process.signal(Signal::SIGINT);
    assert_eq!(process.end().status.code(), Some(0));
}

fn sigterm_waits_for_the_clients_of_worker_processes_and_sigint_does_not() {
    for (signal, forced) in [(Signal::SIGTERM, 0), (Signal::SIGINT, 1)] {
        let process = Process::start(echo("tcp", "prefork", "127.0.0.1:0").args(["--workers", "2"]));
        let client = connect(&inet(&process));
        support::wait_until_accepted(&client);
        process.signal(signal);
        if signal == Signal::SIGTERM {
            assert_eq!(exchange_line(&client, "hello\n"), "hello\n");
        }
        let ended = process.end();
        drop(client);
        assert!(
            ended.output.contains(&format!("forced={forced} ")),
            "{signal}: {ended:?}"
        );
    }
}

fn sigint_ends_idle_worker_processes_without_unfounded_warnings() {
    for _ in 0..5 {
        let process = Process::start(echo("tcp", "prefork", "127.0.0.1:0").args(["--workers", "3"]));
        assert_eq!(exchange_line(connect(&inet(&process)), "hello\n"), "hello\n");
        process.signal(Signal::SIGINT);
        let ended = process.end();
        // The request may still be about to end, and be told of.
        for unfounded in ["not accepted", "without a request did not end"] {
            assert!(!ended.errors.contains(unfounded), "{ended:?}");
        }
    }
}

fn standard_output_has_two_lines_and_the_log_is_elsewhere() {
    let place = temp_path("socket");
    // Its bind has something to log.
    drop(std::os::unix::net::UnixListener::bind(&place.path).unwrap());
    let process = Process::start(&mut echo("unix", "threading", place.path.to_str().unwrap()));
    process.signal(Signal::SIGTERM);
    let ended = process.end();
    assert_ended("unix", &ended, "served=0 failed=0 drained=0 forced=0 leaked=0");
    assert!(ended.errors.contains("replacing "), "{ended:?}");
}

fn it_ends_well_although_nobody_reads_its_output_any_more() {
    assert_ends_well_unread(&mut echo("tcp", "threading", "127.0.0.1:0"));
}

// ----- What it says instead of serving -----------------------------------------------------------

fn run(arguments: &[&str]) -> Output {
    Command::new(echo_path())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// It ends with that status and says nothing where scripts read the address; returns what it says.
#[track_caller]
fn refusal(arguments: &[&str], status: i32) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    assert_eq!(output.stdout, b"", "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn help_names_every_transport_and_strategy() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    let options = [
        "--transport",
        "--strategy",
        "--address",
        "--workers",
        "--max-connections",
        "--per-address",
        "--on-limit",
        "--stats",
    ];
    for word in options.iter().chain(&support::process::TRANSPORTS).chain(&STRATEGIES) {
        assert!(text.contains(word), "no {word} in: {text}");
    }
}

fn a_transport_that_does_not_exist_is_told() {
    let text = refusal(&["--transport", "sctp"], 2);
    assert!(text.contains("invalid value 'sctp'"), "{text}");
    assert!(text.contains("[possible values: tcp, udp, unix, unixgram]"), "{text}");
}

fn a_time_below_zero_is_told() {
    for option in ["--idle-timeout", "--request-timeout", "--drain"] {
        let text = refusal(&[option, "-1"], 2);
        assert!(
            text.contains(&format!("'-1' for '{option} <SECS>': write seconds, such as 60 or 0.5")),
            "{text}"
        );
    }
    for (option, which) in [("--idle-timeout", "idle"), ("--request-timeout", "request")] {
        let text = refusal(&[option, "0"], 2);
        assert!(
            text.starts_with(&format!("echo: the {which} timeout is zero")),
            "{text}"
        );
    }
}

fn counts_that_make_no_sense_are_told() {
    for option in ["--workers", "--max-connections", "--per-address"] {
        for count in ["0", "-1", "many"] {
            let text = refusal(&["--strategy", "pool", option, count], 2);
            let told = format!("'{count}' for '{option} <N>': write a whole number, 1 or more");
            assert!(text.contains(&told), "{text}");
        }
    }
}

fn an_address_without_a_port_is_told() {
    for address in ["127.0.0.1", "/tmp/echo.sock"] {
        let text = refusal(&["--address", address], 2);
        assert!(text.contains("HOST:PORT"), "{text}");
    }
}

fn a_unix_server_needs_a_path() {
    for transport in ["unix", "unixgram"] {
        let text = refusal(&["--transport", transport], 2);
        assert_eq!(
            text,
            "echo: --transport unix and unixgram need --address with a path, or @NAME\n"
        );
    }
}

fn a_server_that_cannot_tell_its_address_ends() {
    let output = unread(&mut Command::new(echo_path())).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(output.stderr, b"echo: Broken pipe (os error 32)\n", "{output:?}");
}

fn a_full_disk_is_told() {
    assert_tells_that_the_disk_is_full("echo", &[]);
    assert_tells_that_the_disk_is_full("tls_echo", &[]);
}

fn hints_and_errors_that_cannot_be_printed_do_not_matter() {
    let mut command = Command::new(echo_path());
    command.args(["--workers", "3"]).stdout(full_disk()).stderr(full_disk());
    assert_eq!(command.status().unwrap().code(), Some(1));
}

fn options_without_effect_are_told() {
    for (transport, options, told) in [
        (
            "tcp",
            &["--workers", "3"][..],
            "--workers has no effect without --strategy pool or prefork",
        ),
        (
            "tcp",
            &["--on-limit", "reject"],
            "--on-limit has no effect without --max-connections or --per-address",
        ),
        ("udp", &["--idle-timeout", "3"], "timeouts have no effect on datagrams"),
        (
            "unix",
            &["--per-address", "3"],
            "--per-address has no effect on Unix sockets",
        ),
    ] {
        let place = temp_path("socket");
        let address = if transport == "unix" {
            place.path.to_str().unwrap()
        } else {
            "127.0.0.1:0"
        };
        let process = Process::start(echo(transport, "threading", address).args(options));
        process.signal(Signal::SIGTERM);
        assert_eq!(process.end().errors, format!("echo: {told}\n"));
    }
}

fn an_address_that_is_taken_is_told() {
    let server = start("tcp", "threading");
    let address = server.process.address();
    let text = refusal(&["--address", address], 1);
    assert!(
        text.starts_with(&format!("echo: Address already in use ({address}): ")),
        "{text}"
    );
    server.assert_served(0, Signal::SIGTERM);
}

// ----- Limits and stats --------------------------------------------------------------------------

/// The example on a free port of loopback, with more options.
#[track_caller]
fn start_with(strategy: &str, options: &[&str]) -> Process {
    Process::start(echo("tcp", strategy, "127.0.0.1:0").args(options))
}

/// Stops the example; it has served so many requests.
#[track_caller]
fn assert_served(process: Process, requests: u64) {
    process.signal(Signal::SIGTERM);
    let ended = process.end();
    let counts = format!("stopped: served={requests} failed=0 ");
    assert!(ended.output.starts_with(&counts), "{ended:?}");
}

fn over_max_connections_clients_are_told_to_come_again_under_every_strategy() {
    for strategy in ["threading", "forking", "pool"] {
        let server = start_with(strategy, &["--max-connections", "1", "--on-limit", "reject"]);
        let first = in_progress(&inet(&server));
        let answer = read_to_end(connect(&inet(&server)));
        assert_eq!(answer, b"busy, come again later\n", "{strategy}");
        finish(&first);
        assert_served(server, 1);
    }
}

fn over_max_connections_clients_wait_under_every_strategy() {
    for strategy in ["sync", "threading", "forking", "pool"] {
        let server = start_with(strategy, &["--max-connections", "1"]);
        let first = in_progress(&inet(&server));
        let second = connect(&inet(&server));
        (&second).write_all(b"hello\n").unwrap();
        assert_waits(&second);
        finish(&first);
        assert_eq!(exchange_line(&second, ""), "hello\n", "{strategy}");
        finish(&second);
        assert_served(server, 2);
    }
}

fn over_the_limit_of_an_address_clients_wait() {
    let server = start_with("threading", &["--per-address", "1", "--on-limit", "wait"]);
    let first = in_progress(&inet(&server));
    let second = connect(&inet(&server));
    (&second).write_all(b"hello\n").unwrap();
    assert_waits(&second);
    finish(&first);
    assert_eq!(exchange_line(&second, ""), "hello\n");
    finish(&second);
    assert_served(server, 2);
}

fn the_stats_are_logged_at_sigusr1() {
    let server = start_with("threading", &["--stats"]);
    let client = in_progress(&inet(&server));
    server.signal(Signal::SIGUSR1);
    finish(&client);
    server.signal(Signal::SIGTERM);
    let ended = server.end();
    let counts = " accepted=1 refused=0 rejected=0 waiting=0 started=1 running=";
    assert!(ended.errors.contains(counts), "{ended:?}");
}

//! What a remote command may take, and when it is killed.

mod support;

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::OpenOptionsExt;

use nix::libc::O_NONBLOCK;
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use support::attempts::until_in_time;
use support::is_listening;
use support::process::{Process, STRATEGIES, assert_stops, stop};
use support::remote_command::{ask, ask_until, read_answer, serve, wait_until_gone};
use support::{connect_to, read_to_end, wait_until};

tests![
    a_command_that_takes_too_long_is_killed_with_its_children,
    a_command_whose_children_keep_its_output_open_is_killed_in_time,
    a_shell_that_leaves_its_process_group_is_killed_in_time,
    what_a_command_leaves_in_the_background_ends_with_it,
    a_command_that_prints_too_much_is_killed_and_told,
    output_of_exactly_the_limit_is_sent_whole,
    the_limit_counts_both_outputs_together,
    a_command_without_an_end_is_killed_when_its_client_resets,
    a_command_without_an_end_is_killed_when_its_client_closes,
    a_client_that_ends_its_sending_side_still_gets_the_answer,
    a_client_that_says_nothing_is_not_kept,
    a_client_that_takes_no_answer_is_not_kept,
    the_time_of_a_command_does_not_count_for_its_client,
    sigterm_waits_for_the_command_that_runs,
    sigterm_does_not_wait_for_a_client_that_has_its_answer,
    a_second_signal_kills_the_command_that_runs,
    a_server_that_is_killed_takes_the_command_with_it,
];

/// A command that tells the number of a process that it starts and waits for.
const ENDLESS: &str = "sleep 1000 & echo $!; wait";

fn tells_a_number(answer: &str) -> bool {
    answer.starts_with(|first: char| first.is_ascii_digit())
}

/// Starts an endless command, which writes the number of its child to a file; returns the number.
fn start_endless(client: &mut TcpStream) -> String {
    let place = support::temp_path("child");
    let path = place.quoted();
    // One write: what arrives apart would be taken for two commands.
    let command = format!("sleep 1000 & echo $! > {path}.new; mv {path}.new {path}; wait");
    client.write_all(command.as_bytes()).unwrap();
    wait_until("the command runs", || place.path.exists());
    std::fs::read_to_string(&place.path).unwrap()
}

// ----- Time --------------------------------------------------------------------------------------

fn a_command_that_takes_too_long_is_killed_with_its_children() {
    for strategy in STRATEGIES {
        let server = serve("struct", &["--timeout", "0.3", "--strategy", strategy]);
        let mut client = connect_to(server.address());
        let answer = ask_until(&mut client, ENDLESS.as_bytes(), tells_a_number);
        let (child, told) = answer.split_once('\n').unwrap();
        assert_eq!(
            told, "[remote_command: killed: it took longer than 0.3 s]\n",
            "{strategy}"
        );
        wait_until_gone(child);
        ask_until(&mut client, b"echo on", |answer| answer == "on\n");
    }
}

fn a_command_whose_children_keep_its_output_open_is_killed_in_time() {
    let server = serve("struct", &["--timeout", "0.3"]);
    let mut client = connect_to(server.address());
    let answer = ask_until(&mut client, b"sleep 1000 & echo $!", tells_a_number);
    wait_until_gone(answer.lines().next().unwrap());
}

fn a_shell_that_leaves_its_process_group_is_killed_in_time() {
    let server = serve("struct", &["--timeout", "0.3"]);
    let mut client = connect_to(server.address());
    let answer = ask_until(&mut client, b"echo $$; exec setsid sleep 1000", tells_a_number);
    wait_until_gone(answer.lines().next().unwrap());
    assert_eq!(ask(&mut client, b"echo on"), "on\n");
}

fn what_a_command_leaves_in_the_background_ends_with_it() {
    let server = serve("struct", &[]);
    let answer = ask(
        &mut connect_to(server.address()),
        b"sleep 1000 >/dev/null 2>&1 & echo $!",
    );
    wait_until_gone(&answer);
}

// ----- Output ------------------------------------------------------------------------------------

fn a_command_that_prints_too_much_is_killed_and_told() {
    let server = serve("struct", &["--max-output", "1000"]);
    let mut client = connect_to(server.address());
    let told = "[remote_command: killed: it printed more than 1000 bytes; the rest is cut]\n";
    assert_eq!(ask(&mut client, b"yes"), format!("{}{told}", "y\n".repeat(500)));
    assert_eq!(ask(&mut client, b"echo on"), "on\n");
}

fn output_of_exactly_the_limit_is_sent_whole() {
    let server = serve("struct", &["--max-output", "1000"]);
    let answer = ask(
        &mut connect_to(server.address()),
        b"head -c 1000 /dev/zero | tr '\\0' x",
    );
    assert_eq!(answer, "x".repeat(1000));
}

fn the_limit_counts_both_outputs_together() {
    let server = serve("struct", &["--max-output", "1000"]);
    let answer = ask(
        &mut connect_to(server.address()),
        b"head -c 600 /dev/zero | tr '\\0' x; head -c 600 /dev/zero | tr '\\0' x >&2",
    );
    assert!(answer.ends_with("\n[remote_command: killed: it printed more than 1000 bytes; the rest is cut]\n"));
}

// ----- The client leaves -------------------------------------------------------------------------

fn a_command_without_an_end_is_killed_when_its_client_resets() {
    let server = serve("struct", &[]);
    let mut client = connect_to(server.address());
    let child = start_endless(&mut client);
    support::reset(client);
    wait_until_gone(&child);
    assert_failed_once(server);
}

fn a_command_without_an_end_is_killed_when_its_client_closes() {
    let server = serve("struct", &[]);
    let mut client = connect_to(server.address());
    let child = start_endless(&mut client);
    drop(client);
    wait_until_gone(&child);
    assert_failed_once(server);
}

/// Stops the server, whose only request has failed because its client left.
#[track_caller]
fn assert_failed_once(server: Process) {
    server.signal(Signal::SIGTERM);
    let ended = server.end();
    assert!(ended.output.starts_with("stopped: served=0 failed=1 "), "{ended:?}");
    assert!(
        ended
            .errors
            .contains("the client left while its command ran; the command was killed"),
        "{ended:?}"
    );
}

fn a_client_that_ends_its_sending_side_still_gets_the_answer() {
    let server = serve("struct", &[]);
    let mut client = connect_to(server.address());
    client.write_all(b"sleep 0.2; echo here").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_answer(&mut client), "here\n");
    assert_eq!(read_to_end(client), b"");
}

fn a_client_that_says_nothing_is_not_kept() {
    for strategy in STRATEGIES {
        let server = serve("ready", &["--idle-timeout", "0.2", "--strategy", strategy]);
        // One without a command, one without its `ready`.
        let silent = connect_to(server.address());
        assert_eq!(read_to_end(silent), b"", "{strategy}");
        let late = until_in_time(|| {
            let mut client = connect_to(server.address());
            let mut told = String::new();
            let _ = client
                .write_all(b"echo hello")
                .and_then(|()| client.read_to_string(&mut told));
            told == "6"
        });
        let failed = 2 + late;
        let errors = stop(server, &format!("served=0 failed={failed}"));
        assert_eq!(
            errors.matches("idle: the peer sent nothing for 0.2 s").count(),
            failed,
            "{strategy}: {errors}"
        );
    }
}

fn a_client_that_takes_no_answer_is_not_kept() {
    let mut server = serve("struct", &["--idle-timeout", "0.2", "--max-output", "100000000"]);
    let length = 2 * longest_send_buffer() + (1 << 20);
    let late = until_in_time(|| {
        let mut client = connect_to(server.address());
        setsockopt(&client, sockopt::RcvBuf, &4096).unwrap();
        // More than the buffers of two sockets take.
        let _ = client.write_all(format!("head -c {length} /dev/zero").as_bytes());
        let told = server.wait_for_errors_with(" 0.2 s");
        told.contains("write: the peer did not take all of it within 0.2 s")
    });
    stop(server, &format!("served=0 failed={}", 1 + late));
}

/// In bytes (`tcp_wmem`, tcp(7)).
fn longest_send_buffer() -> usize {
    let limits = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").unwrap();
    limits.split_whitespace().next_back().unwrap().parse().unwrap()
}

fn the_time_of_a_command_does_not_count_for_its_client() {
    let server = serve("struct", &["--idle-timeout", "0.5"]);
    until_in_time(|| {
        let mut client = connect_to(server.address());
        let mut answer = [0; 9];
        let answered = client
            .write_all(b"sleep 0.8; echo here")
            .and_then(|()| client.read_exact(&mut answer));
        answered.is_ok() && answer[4..] == *b"here\n"
    });
}

// ----- Signals -----------------------------------------------------------------------------------

fn sigterm_waits_for_the_command_that_runs() {
    for strategy in STRATEGIES {
        let place = support::temp_path("fifo");
        let fifo = place.quoted();
        nix::unistd::mkfifo(&place.path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let server = serve("struct", &["--strategy", strategy]);
        let mut client = connect_to(server.address());
        client.write_all(format!("cat {fifo}").as_bytes()).unwrap();
        // It can be opened so when the command has opened its end: it runs.
        let mut end = None;
        wait_until("the command runs", || {
            let mut options = OpenOptions::new();
            end = options.write(true).custom_flags(O_NONBLOCK).open(&place.path).ok();
            end.is_some()
        });
        let mut end = end.unwrap();
        server.signal(Signal::SIGTERM);
        // The loop of a sync server is busy, as a worker's of PreFork is: it goes on listening.
        wait_until("the server drains", || match strategy {
            "sync" | "prefork" => !server.is_pending(Signal::SIGTERM),
            _ => !is_listening(server.address()),
        });
        end.write_all(b"to the end\n").unwrap();
        drop(end);
        assert_eq!(read_answer(&mut client), "to the end\n", "{strategy}");
        assert_eq!(read_to_end(client), b"", "{strategy}");
        assert_stops(server, "served=1 failed=0");
    }
}

fn sigterm_does_not_wait_for_a_client_that_has_its_answer() {
    for strategy in STRATEGIES {
        let server = serve("struct", &["--strategy", strategy, "--timeout", "1000"]);
        let mut client = connect_to(server.address());
        assert_eq!(ask(&mut client, b"echo here"), "here\n");
        server.signal(Signal::SIGTERM);
        let ended = server.end();
        assert!(
            ended.output.starts_with("stopped: served=1 failed=0 "),
            "{strategy}: {ended:?}"
        );
        assert_eq!(read_to_end(client), b"", "{strategy}");
    }
}

fn a_second_signal_kills_the_command_that_runs() {
    for strategy in STRATEGIES {
        let server = serve("struct", &["--strategy", strategy]);
        let mut client = connect_to(server.address());
        let child = start_endless(&mut client);
        server.signal(Signal::SIGTERM);
        // Two signals that are pending at once would be one.
        wait_until("the first signal has been taken", || {
            !server.is_pending(Signal::SIGTERM)
        });
        server.signal(Signal::SIGTERM);
        wait_until_gone(&child);
        let ended = server.end();
        assert_eq!(ended.status.code(), Some(0), "{strategy}: {ended:?}");
        assert!(ended.output.starts_with("stopped: "), "{strategy}: {ended:?}");
    }
}

fn a_server_that_is_killed_takes_the_command_with_it() {
    let server = serve("struct", &[]);
    let mut client = connect_to(server.address());
    let child = start_endless(&mut client);
    server.signal(Signal::SIGKILL);
    wait_until_gone(&child);
}

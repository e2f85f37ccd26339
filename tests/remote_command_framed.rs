//! What is special to the framed protocol of the remote command, and what becomes of peers that break it.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;

use socketserver::framing::{Framed, LengthDelimitedCodec};
use support::attempts::until_in_time;
use support::connect_to;
use support::process::{STRATEGIES, stop};
use support::program::Program;
use support::remote_command::{NO_ANSWER, call, client, output_of, serve, wait_until_gone};

tests![
    a_framed_call_has_output_errors_and_status_apart,
    the_prompt_of_framed_tells_a_status_that_is_not_0,
    a_framed_command_may_be_empty,
    a_framed_command_may_be_longer_than_an_argument_of_a_program,
    a_framed_command_with_a_nul_byte_is_not_run_however_long_it_is,
    a_framed_command_over_the_limit_is_refused_on_both_sides,
    what_is_no_message_is_an_error_for_its_client_only,
    many_framed_commands_in_flight_are_answered_in_order,
    pipelined_lines_are_answered_in_order_with_the_first_status_that_is_not_0,
    a_pipelined_line_that_is_not_utf_8_is_refused,
    pipelining_is_refused_where_commands_would_run_into_one_another,
    a_pipeline_ends_when_its_server_does_although_its_input_is_open,
    a_killed_command_tells_so_in_its_errors_over_framed,
    a_client_that_leaves_with_commands_in_flight_ends_the_one_that_runs,
];

type Messages = Framed<TcpStream, LengthDelimitedCodec>;

fn framed(address: &str) -> Messages {
    Framed::new(connect_to(address), LengthDelimitedCodec::u32_be())
}

/// The next answer: output, errors and status.
#[track_caller]
fn next_answer(messages: &mut Messages) -> [String; 3] {
    std::array::from_fn(|_| String::from_utf8(messages.next().expect("the server goes on").unwrap()).unwrap())
}

fn a_framed_call_has_output_errors_and_status_apart() {
    let server = serve("framed", &[]);
    let ended = call("framed", server.address(), "echo out; echo wrong >&2; exit 42");
    assert_eq!(
        (&*ended.output, &*ended.errors, ended.status.code()),
        ("out\n", "wrong\n", Some(42))
    );
    let ended = call("framed", server.address(), "kill -TERM $$");
    assert_eq!(
        (&*ended.output, &*ended.errors, ended.status.code()),
        ("", "", Some(128 + 15))
    );

    let server = serve("framed", &["--encoding", "gbk"]);
    let mut client = client("framed", server.address());
    let ended = Program::run(client.args(["--encoding", "gbk", "echo 好; echo 坏 >&2"]), "");
    assert_eq!(
        (&*ended.output, &*ended.errors, ended.status.code()),
        ("好\n", "坏\n", Some(0))
    );
}

fn the_prompt_of_framed_tells_a_status_that_is_not_0() {
    let server = serve("framed", &[]);
    let ended = Program::run(
        &mut client("framed", server.address()),
        "printf out; exit 3\ntrue\nprintf wrong >&2\n",
    );
    assert_eq!(ended.output, ">>: out\n>>: >>: >>: ");
    assert_eq!(ended.errors, "[exit status 3]\nwrong\n");
    assert_eq!(ended.status.code(), Some(0));
}

fn a_framed_command_may_be_empty() {
    let server = serve("framed", &[]);
    let ended = call("framed", server.address(), "");
    assert_eq!((ended.status.code(), &*ended.output, &*ended.errors), (Some(0), "", ""));
}

fn a_framed_command_may_be_longer_than_an_argument_of_a_program() {
    let server = serve("framed", &[]);
    let mut messages = framed(server.address());
    // The longest that fits, one more, and much more.
    for length in [131_071, 131_072, 1_000_000] {
        let command = format!("cat; echo ${{#}} $0; exit 7 # {}", "x".repeat(length));
        messages.send(&command[..length]).unwrap();
        assert_eq!(next_answer(&mut messages), ["0 sh\n", "", "7"], "{length}");
    }
}

fn a_framed_command_with_a_nul_byte_is_not_run_however_long_it_is() {
    let server = serve("framed", &[]);
    let mut messages = framed(server.address());
    for length in [10, 200_000] {
        messages.send(format!("echo \0 {}", " ".repeat(length))).unwrap();
        let [output, errors, status] = next_answer(&mut messages);
        assert_eq!((&*output, &*status), ("", "127"), "{errors}");
        assert!(errors.starts_with("[remote_command: not run: nul byte"), "{errors}");
    }
}

fn a_framed_command_over_the_limit_is_refused_on_both_sides() {
    let server = serve("framed", &[]);
    let command = format!("true {}", "x".repeat(8 << 20));
    let ended = Program::run(client("framed", server.address()).arg("--pipeline"), &command);
    let told = "remote_command: the command has 8388613 bytes; over this protocol more than 8388608 are refused\n";
    assert_eq!((ended.status.code(), &*ended.errors), (Some(2), told), "{ended:?}");

    let mut messages = framed(server.address());
    messages.get_mut().write_all(&8_388_609_u32.to_be_bytes()).unwrap();
    assert!(messages.next().is_none());
    assert_eq!(output_of("framed", server.address(), "echo on"), "on\n");
    let errors = stop(server, "served=2 failed=1");
    assert!(
        errors.contains("a message of 8388609 bytes is over the limit of 8388608"),
        "{errors}"
    );
}

fn what_is_no_message_is_an_error_for_its_client_only() {
    let server = serve("framed", &[]);
    let mut other = framed(server.address());
    let mut browser = connect_to(server.address());
    browser.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    // What it sent was not read to its end: that may be told as a reset.
    let _ = browser.read_to_end(&mut Vec::new());
    let mut cut = connect_to(server.address());
    cut.write_all(b"\0\0\0\x64echo").unwrap();
    drop(cut);
    other.send("echo on").unwrap();
    assert_eq!(next_answer(&mut other), ["on\n", "", "0"]);
    drop(other);
    let errors = stop(server, "served=1 failed=2");
    assert!(
        errors.contains("a message of 1195725856 bytes is over the limit"),
        "{errors}"
    );
    assert!(
        errors.contains("the stream ended in a message: 4 of 100 bytes had arrived"),
        "{errors}"
    );
}

fn many_framed_commands_in_flight_are_answered_in_order() {
    for strategy in STRATEGIES {
        let server = serve("framed", &["--strategy", strategy]);
        let mut messages = framed(server.address());
        for number in 0..50 {
            messages.feed(format!("echo {number}; exit {number}")).unwrap();
        }
        messages.flush().unwrap();
        for number in 0..50 {
            let answer = [format!("{number}\n"), String::new(), number.to_string()];
            assert_eq!(next_answer(&mut messages), answer, "{strategy}");
        }
    }
}

fn pipelined_lines_are_answered_in_order_with_the_first_status_that_is_not_0() {
    let server = serve("framed", &[]);
    let lines = "sleep 0.1; echo one\n\necho two; echo wrong >&2; exit 4\n  echo three; exit 5";
    let ended = Program::run(client("framed", server.address()).arg("--pipeline"), lines);
    assert_eq!((&*ended.output, &*ended.errors), ("one\ntwo\nthree\n", "wrong\n"));
    assert_eq!(ended.status.code(), Some(4));
}

fn a_pipelined_line_that_is_not_utf_8_is_refused() {
    let server = serve("framed", &[]);
    let input = support::temp_path("lines");
    std::fs::write(&input.path, b"echo one\n\xff\n").unwrap();
    let mut command = client("framed", server.address());
    command.arg("--pipeline").stdin(File::open(&input.path).unwrap());
    let ended = command.output().unwrap();
    assert_eq!(
        (ended.status.code(), &*ended.stdout),
        (Some(2), &b"one\n"[..]),
        "{ended:?}"
    );
    assert_eq!(
        ended.stderr, b"remote_command: a command has to be UTF-8\n",
        "{ended:?}"
    );
}

fn pipelining_is_refused_where_commands_would_run_into_one_another() {
    for protocol in ["ready", "struct", "udp"] {
        let ended = Program::run(client(protocol, "127.0.0.1:1").arg("--pipeline"), "");
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        assert!(
            ended.errors.contains("--pipeline is for --protocol framed"),
            "{ended:?}"
        );
    }
}

fn a_pipeline_ends_when_its_server_does_although_its_input_is_open() {
    let server = serve("framed", &[]);
    let mut client = Program::start(client("framed", server.address()).arg("--pipeline"));
    client.say("echo one\n");
    client.wait_for_output("one\n");
    client.say("kill -9 $PPID\n");
    client.wait_for_errors_with(NO_ANSWER);
    support::wait_until("it ends", || !client.is_running());
}

fn a_killed_command_tells_so_in_its_errors_over_framed() {
    let server = serve("framed", &["--timeout", "0.3", "--max-output", "1000"]);
    let mut messages = framed(server.address());
    let mut assert_answered = |command: &str, answer: [&str; 3]| {
        // It may be killed before it has printed anything.
        until_in_time(|| {
            messages.send(command).unwrap();
            next_answer(&mut messages) == answer
        });
    };
    let told = "wrong\n[remote_command: killed: it took longer than 0.3 s]\n";
    assert_answered("echo out; echo wrong >&2; sleep 1000", ["out\n", told, "137"]);
    let told = "[remote_command: killed: it printed more than 1000 bytes; the rest is cut]\n";
    assert_answered("yes", [&"y\n".repeat(500), told, "137"]);
}

fn a_client_that_leaves_with_commands_in_flight_ends_the_one_that_runs() {
    let server = serve("framed", &[]);
    let place = support::temp_path("child");
    let path = place.quoted();
    let mut messages = framed(server.address());
    messages
        .feed(format!("sleep 1000 & echo $! > {path}.new; mv {path}.new {path}; wait"))
        .unwrap();
    messages.feed(format!("touch {path}.second")).unwrap();
    messages.flush().unwrap();
    support::wait_until("the command runs", || place.path.exists());
    drop(messages);
    wait_until_gone(&std::fs::read_to_string(&place.path).unwrap());
    let errors = stop(server, "served=0 failed=1");
    assert!(errors.contains("the client left while its command ran"), "{errors}");
    assert!(!place.path.with_extension("second").exists());
}

//! The interactive chat server and its client, both ways: with Python programs that do what the tutorial's do.

mod support;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

use nix::sys::signal::Signal;
use support::process::example_path;
use support::program::{Program, assert_ends_with_its_reader, peer, peer_of, unread};
use support::{clients, connect_to, read_to_end, reset, unread as bytes_unread, wait_until};

tests![
    a_python_client_talks_to_our_operator,
    our_client_talks_to_a_python_operator,
    the_operator_sees_who_sends_what_and_a_prompt,
    each_answer_goes_to_the_client_that_was_shown,
    an_empty_answer_is_asked_for_again,
    lines_typed_ahead_answer_the_next_messages,
    a_message_over_1024_bytes_is_shown_as_two,
    what_would_control_the_terminal_is_shown_as_text,
    the_end_of_the_operators_input_ends_the_server,
    a_last_line_without_an_end_is_an_answer,
    a_signal_ends_the_server_while_nobody_is_connected,
    a_signal_ends_the_server_while_a_client_waits_for_an_answer,
    a_signal_ends_the_server_while_clients_are_silent,
    messages_that_wait_for_the_operator_when_the_server_stops_are_not_shown,
    a_client_that_resets_while_its_answer_is_typed_is_given_up,
    a_client_that_ends_its_sending_side_still_gets_the_answer,
    an_operator_who_sees_nothing_any_more_has_left,
    the_client_skips_empty_lines_and_ends_with_its_input,
    the_client_tells_that_nobody_listens,
    the_client_tells_that_the_server_left,
    what_is_typed_need_not_be_text,
    the_client_ends_with_its_reader,
    the_server_is_for_loopback_only_unless_told_otherwise,
    a_port_in_use_is_told_with_its_address,
    a_server_that_cannot_tell_its_address_ends,
    an_address_without_a_port_is_a_wrong_argument,
];

fn chat(arguments: &[&str]) -> Command {
    let mut command = Command::new(example_path("chat"));
    command.args(arguments);
    command
}

/// A server on a port of its own, and its address.
#[track_caller]
fn serve() -> (Program, String) {
    let mut server = Program::start(&mut chat(&["serve", "--address", "127.0.0.1:0"]));
    let address = server.address();
    (server, address)
}

/// The address of this end, as the server sees it.
fn address_of(client: &TcpStream) -> String {
    client.local_addr().unwrap().to_string()
}

/// One receive.
fn receive(client: &mut TcpStream) -> String {
    let mut answer = [0; 1024];
    let count = client.read(&mut answer).unwrap();
    String::from_utf8(answer[..count].to_vec()).unwrap()
}

/// The server ends by the signal, in a good state.
#[track_caller]
fn assert_ends(server: Program, signal: Signal) {
    server.signal(signal);
    let ended = server.end();
    assert_eq!((ended.status.code(), &*ended.errors), (Some(0), ""), "{ended:?}");
    assert!(ended.output.contains("stopped: served="), "{ended:?}");
}

// ----- With Python -------------------------------------------------------------------------------

fn a_python_client_talks_to_our_operator() {
    if !clients::available("python3") {
        return;
    }
    let (mut server, address) = serve();
    let mut client = Program::start(&mut peer_of("chat_client.py", &address));
    client.say("hello\n\n你好\n");
    server.wait_for_output_with(": hello\n>>>");
    server.say("good morning\n");
    server.wait_for_output_with(": 你好\n>>>");
    server.say("  早上好  \n");
    let ended = client.end();
    assert_eq!(
        ended.output, ">>>they say: good morning\n>>>>>>they say: 早上好\n>>>",
        "{ended:?}"
    );
}

fn our_client_talks_to_a_python_operator() {
    if !clients::available("python3") {
        return;
    }
    let mut server = Program::start(&mut peer("chat_server.py"));
    let address = server.address();
    let mut client = Program::start(&mut chat(&["connect", "--address", &address]));
    client.say("hello\n\n你好\n");
    server.wait_for_output_with("from 127.0.0.1: hello\n>>>");
    server.say("good morning\n");
    server.wait_for_output_with("from 127.0.0.1: 你好\n>>>");
    server.say("早上好\n");
    let ended = client.end();
    let answer = format!("answer from {address}: ");
    assert_eq!(
        ended.output,
        format!(">>>{answer}good morning\n>>>>>>{answer}早上好\n>>>"),
        "{ended:?}"
    );
    assert!(ended.status.success(), "{ended:?}");
}

// ----- The operator ------------------------------------------------------------------------------

fn the_operator_sees_who_sends_what_and_a_prompt() {
    let (mut server, address) = serve();
    let mut client = connect_to(&address);
    client.write_all(b"hello\n").unwrap();
    let shown = format!(
        "listening on {address}\nmessage from {}: hello\n>>>",
        address_of(&client)
    );
    server.wait_for_output(&shown);
    server.say("good morning\n");
    assert_eq!(receive(&mut client), "good morning");
    client.write_all(b"and then?").unwrap();
    server.wait_for_output(&format!("{shown}message from {}: and then?\n>>>", address_of(&client)));
}

fn each_answer_goes_to_the_client_that_was_shown() {
    let (mut server, address) = serve();
    let (mut first, mut second) = (connect_to(&address), connect_to(&address));
    first.write_all(b"one").unwrap();
    server.wait_for_output_with(&format!("message from {}: one\n>>>", address_of(&first)));
    second.write_all(b"two").unwrap();
    server.say("to the first\n");
    server.wait_for_output_with(&format!("message from {}: two\n>>>", address_of(&second)));
    server.say("to the second\n");
    assert_eq!(receive(&mut first), "to the first");
    assert_eq!(receive(&mut second), "to the second");
}

fn an_empty_answer_is_asked_for_again() {
    let (mut server, address) = serve();
    let mut client = connect_to(&address);
    client.write_all(b"hello").unwrap();
    server.wait_for_output_with(": hello\n>>>");
    server.say("\n  \n");
    server.wait_for_output_with(": hello\n>>>>>>>>>");
    server.say("at last\n");
    assert_eq!(receive(&mut client), "at last");
}

fn lines_typed_ahead_answer_the_next_messages() {
    let (mut server, address) = serve();
    server.say("one\ntwo\nthr");
    let mut client = connect_to(&address);
    for answer in ["one", "two"] {
        client.write_all(b"next").unwrap();
        assert_eq!(receive(&mut client), answer);
    }
    client.write_all(b"next").unwrap();
    server.say("ee\n");
    assert_eq!(receive(&mut client), "three");
}

/// The tutorial's flaw, which `room` mends.
fn a_message_over_1024_bytes_is_shown_as_two() {
    let (mut server, address) = serve();
    let mut client = connect_to(&address);
    client.write_all(&[b'x'; 1030]).unwrap();
    server.wait_for_output_with(&format!(": {}\n>>>", "x".repeat(1024)));
    server.say("one\n");
    server.wait_for_output_with(": xxxxxx\n>>>");
}

fn what_would_control_the_terminal_is_shown_as_text() {
    let (mut server, address) = serve();
    connect_to(&address)
        .write_all(b"\x1B[2Jgone\nmessage from nobody: \xFF\x07!")
        .unwrap();
    server.wait_for_output_with(": \\u{1b}[2Jgone\\nmessage from nobody: \u{FFFD}\\u{7}!\n>>>");
}

fn the_end_of_the_operators_input_ends_the_server() {
    let (mut server, address) = serve();
    let mut client = connect_to(&address);
    client.write_all(b"hello").unwrap();
    server.wait_for_output_with(": hello\n>>>");
    let ended = server.end();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.output.contains("\nstopped: served=1 failed=0 "), "{ended:?}");
    assert_eq!(read_to_end(client), b"");
}

fn a_last_line_without_an_end_is_an_answer() {
    let (mut server, address) = serve();
    let mut client = connect_to(&address);
    client.write_all(b"hello").unwrap();
    server.say("good bye");
    let ended = thread::scope(|scope| {
        let ending = scope.spawn(|| server.end());
        assert_eq!(receive(&mut client), "good bye");
        // The next message finds that nobody is there any more. One that nobody has read makes the end a reset.
        let _ = client.write_all(b"hello?");
        let end = client.read(&mut [0]);
        assert!(
            end.as_ref()
                .map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |count| *count == 0),
            "{end:?}"
        );
        ending.join().unwrap()
    });
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

fn a_signal_ends_the_server_while_nobody_is_connected() {
    assert_ends(serve().0, Signal::SIGINT);
}

fn a_signal_ends_the_server_while_a_client_waits_for_an_answer() {
    let (mut server, address) = serve();
    // One that has been accepted, and waits for the operator soon.
    let mut other = connect_to(&address);
    other.write_all(b"hello").unwrap();
    server.say("hi\n");
    assert_eq!(receive(&mut other), "hi");
    let mut client = connect_to(&address);
    client.write_all(b"my turn").unwrap();
    server.wait_for_output_with(": my turn\n>>>");
    other.write_all(b"and mine").unwrap();
    server.signal(Signal::SIGTERM);
    // While its input is open.
    server.wait_for_output_with("\nstopped: served=2 failed=0 ");
    assert_eq!(receive(&mut client), "");
}

fn a_signal_ends_the_server_while_clients_are_silent() {
    let (mut server, address) = serve();
    let mut client = connect_to(&address);
    client.write_all(b"hello").unwrap();
    server.say("hi\n");
    assert_eq!(receive(&mut client), "hi");
    assert_ends(server, Signal::SIGTERM);
    assert_eq!(read_to_end(client), b"");
}

fn messages_that_wait_for_the_operator_when_the_server_stops_are_not_shown() {
    let (mut server, address) = serve();
    let mut client = connect_to(&address);
    client.write_all(b"hello").unwrap();
    server.wait_for_output_with(": hello\n>>>");
    let mut waiting = connect_to(&address);
    waiting.write_all(b"and me").unwrap();
    wait_until("it is received", || bytes_unread(&waiting) == Some(0));
    server.signal(Signal::SIGTERM);
    let ended = server.end();
    assert!(!ended.output.contains("and me"), "{ended:?}");
}

fn a_client_that_resets_while_its_answer_is_typed_is_given_up() {
    let (mut server, address) = serve();
    let mut leaving = connect_to(&address);
    leaving.write_all(b"hello").unwrap();
    server.wait_for_output_with(": hello\n>>>");
    let mut client = connect_to(&address);
    client.write_all(b"it is my turn").unwrap();
    reset(leaving);
    server.wait_for_output_with(": it is my turn\n>>>");
    server.say("yes\n");
    assert_eq!(receive(&mut client), "yes");
}

fn a_client_that_ends_its_sending_side_still_gets_the_answer() {
    let (mut server, address) = serve();
    let mut client = connect_to(&address);
    client.write_all(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    server.wait_for_output_with(": hello\n>>>");
    server.say("good bye\n");
    assert_eq!(read_to_end(client), b"good bye");
}

fn an_operator_who_sees_nothing_any_more_has_left() {
    let mut command = chat(&["serve", "--address", "127.0.0.1:0"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut server = command.spawn().unwrap();
    // With its input open all the time.
    let input = server.stdin.take();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let mut client = connect_to(line.trim_end().strip_prefix("listening on ").unwrap());
    client.write_all(b"is anybody there?").unwrap();
    assert_eq!(receive(&mut client), "");
    wait_until("it ends while its input is open", || {
        server.try_wait().unwrap().is_some()
    });
    drop(input);
    let output = server.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), &*output.stderr),
        (Some(0), &b""[..]),
        "{output:?}"
    );
}

// ----- The client --------------------------------------------------------------------------------

fn the_client_skips_empty_lines_and_ends_with_its_input() {
    let (_server, address) = serve();
    let ended = Program::run(&mut chat(&["connect", "--address", &address]), "\n  \n\t\n");
    assert_eq!((&*ended.output, &*ended.errors), (">>>>>>>>>>>>", ""));
    assert!(ended.status.success());
}

fn the_client_tells_that_nobody_listens() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let ended = Program::run(&mut chat(&["connect", "--address", &address]), "hello\n");
    assert_eq!(ended.status.code(), Some(1));
    let told = format!("chat: cannot connect to {address}: Connection refused");
    assert!(ended.errors.starts_with(&told), "{ended:?}");
    let ended = Program::run(&mut chat(&["connect", "--address", "localhost"]), "");
    assert!(ended.errors.contains("write HOST:PORT"), "{ended:?}");
}

fn the_client_tells_that_the_server_left() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut client = Program::start(&mut chat(&["connect", "--address", &address]));
    let (mut connection, _) = listener.accept().unwrap();
    client.say("hello\n");
    assert_eq!(receive(&mut connection), "hello");
    drop(connection);
    let ended = client.end();
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        ended
            .errors
            .contains("the server closed the connection without an answer"),
        "{ended:?}"
    );
}

fn what_is_typed_need_not_be_text() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut command = chat(&["connect", "--address", &address]);
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut connection, _) = listener.accept().unwrap();
    client.stdin.take().unwrap().write_all(b"caf\xE9\n").unwrap();
    let mut message = [0; 1024];
    let count = connection.read(&mut message).unwrap();
    assert_eq!(&message[..count], b"caf\xE9");
    connection.write_all(b"\xE9").unwrap();
    let output = client.wait_with_output().unwrap();
    let shown = format!(">>>answer from {address}: \u{FFFD}\n>>>");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), shown);
    assert!(output.status.success());
}

fn the_client_ends_with_its_reader() {
    let (_server, address) = serve();
    assert_ends_with_its_reader(&mut chat(&["connect", "--address", &address]));
}

// ----- The server's address ----------------------------------------------------------------------

fn the_server_is_for_loopback_only_unless_told_otherwise() {
    for task in ["serve", "room"] {
        let ended = Program::run(&mut chat(&[task, "--address", "0.0.0.0:0"]), "");
        assert_eq!((ended.status.code(), &*ended.output), (Some(1), ""));
        let told = "chat: 0.0.0.0 is not a loopback address: anybody who reaches it could take part;";
        assert!(ended.errors.starts_with(told), "{ended:?}");
        let mut server = Program::start(&mut chat(&[task, "--address", "0.0.0.0:0", "--allow-remote"]));
        assert!(server.address().starts_with("0.0.0.0:"));
        assert_ends(server, Signal::SIGTERM);
    }
}

fn a_port_in_use_is_told_with_its_address() {
    let (_server, address) = serve();
    let ended = Program::run(&mut chat(&["room", "--address", &address]), "");
    assert_eq!(ended.status.code(), Some(1));
    let told = format!("chat: Address already in use ({address})");
    assert!(ended.errors.starts_with(&told), "{ended:?}");
}

fn a_server_that_cannot_tell_its_address_ends() {
    for task in ["serve", "room"] {
        let output = unread(&mut chat(&[task, "--address", "127.0.0.1:0"])).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(output.stderr, b"chat: Broken pipe (os error 32)\n", "{output:?}");
    }
}

fn an_address_without_a_port_is_a_wrong_argument() {
    for arguments in [&["serve"][..], &["room"], &["connect"], &["join", "--name", "ann"]] {
        let ended = Program::run(chat(arguments).args(["--address", "127.0.0.1"]), "");
        assert_eq!((ended.status.code(), &*ended.output), (Some(2), ""), "{ended:?}");
        assert!(ended.errors.contains("write HOST:PORT"), "{ended:?}");
    }
}

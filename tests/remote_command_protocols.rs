//! What is special to each protocol of the remote command, and what becomes of peers that break it.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;

use nix::sys::signal::Signal;
use socketserver::framing::{Framed, LengthDelimitedCodec};
use support::process::{Ended, Process, STRATEGIES};
use support::program::Program;
use support::remote_command::{call, client, connect, output_of, serve, server, wait_until_gone};
use support::{CEILING, read_to_end};

tests![
    a_ready_server_sends_nothing_before_it_has_heard_ready,
    ready_may_arrive_in_pieces,
    a_command_sent_with_its_ready_is_told_as_that,
    a_client_that_leaves_instead_of_saying_ready_costs_nobody_else,
    a_ready_client_tells_what_is_no_length,
    a_ready_client_tells_how_much_of_an_answer_came,
    a_struct_client_tells_what_is_no_length,
    a_struct_client_tells_how_much_of_an_answer_came,
    udp_serves_under_every_strategy_and_stops_by_a_signal,
    output_that_does_not_fit_a_datagram_is_cut_at_a_marker,
    a_cut_splits_no_character,
    an_empty_datagram_is_answered,
    a_command_that_does_not_fit_a_datagram_is_refused_by_the_client,
    a_lost_answer_is_not_waited_for_for_ever,
    a_udp_client_tells_that_nobody_listens,
    udp_is_for_loopback_only_too,
    a_framed_call_has_output_errors_and_status_apart,
    the_prompt_of_framed_tells_a_status_that_is_not_0,
    a_framed_command_may_be_empty,
    a_framed_command_may_be_longer_than_an_argument_of_a_program,
    a_framed_command_over_the_limit_is_refused_on_both_sides,
    what_is_no_message_is_an_error_for_its_client_only,
    many_framed_commands_in_flight_are_answered_in_order,
    pipelined_lines_are_answered_in_order_with_the_first_status_that_is_not_0,
    pipelining_is_refused_where_commands_would_run_into_one_another,
    a_pipeline_ends_when_its_server_does_although_its_input_is_open,
    a_killed_command_tells_so_in_its_errors_over_framed,
    a_client_that_leaves_with_commands_in_flight_ends_the_one_that_runs,
];

/// Calls a server that answers each receive in turn, and then leaves.
#[track_caller]
fn call_with_answers(protocol: &str, answers: &[&[u8]]) -> Ended {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            for answer in answers {
                assert_ne!(client.read(&mut [0; 1024]).unwrap(), 0);
                client.write_all(answer).unwrap();
            }
        });
        call(protocol, &address, "true")
    })
}

/// The call has failed and told `text`.
#[track_caller]
fn assert_failed(ended: &Ended, text: &str) {
    assert_eq!((ended.status.code(), &*ended.output), (Some(1), ""), "{ended:?}");
    assert!(ended.errors.starts_with("remote_command: "), "{ended:?}");
    assert!(ended.errors.contains(text), "{ended:?}");
}

const NO_ANSWER: &str = "the server closed the connection without an answer";

/// Stops a server; returns what it logged.
#[track_caller]
fn stop(server: Process, counts: &str) -> String {
    server.signal(Signal::SIGTERM);
    let ended = server.end();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.output.starts_with(&format!("stopped: {counts} ")), "{ended:?}");
    ended.errors
}

// ----- ready -------------------------------------------------------------------------------------

/// Sends a command and returns the length that is announced.
fn ask_ready(client: &mut TcpStream, command: &str) -> usize {
    client.write_all(command.as_bytes()).unwrap();
    let mut text = [0; 1024];
    let count = client.read(&mut text).unwrap();
    str::from_utf8(&text[..count]).unwrap().parse().unwrap()
}

fn a_ready_server_sends_nothing_before_it_has_heard_ready() {
    let server = serve("ready", &[]);
    let mut client = connect(server.address());
    assert_eq!(ask_ready(&mut client, "echo hello"), 6);
    client.write_all(b"no").unwrap();
    assert_eq!(read_to_end(client), b"");
    let errors = stop(server, "served=0 failed=1");
    assert!(errors.contains("the client said `no` instead of `ready`"), "{errors}");
}

fn ready_may_arrive_in_pieces() {
    let server = serve("ready", &[]);
    let mut client = connect(server.address());
    assert_eq!(ask_ready(&mut client, "echo hello"), 6);
    for piece in ["re", "a", "dy"] {
        client.write_all(piece.as_bytes()).unwrap();
        // The server has read it when it has acknowledged it and holds none of it.
        support::wait_until("the piece is read", || unread_by_peer(&client) == 0);
    }
    let mut output = [0; 6];
    client.read_exact(&mut output).unwrap();
    assert_eq!(&output, b"hello\n");
}

/// How many bytes the other end of a loopback connection has received and not read (`/proc/net/tcp`,
/// proc(5)).
fn unread_by_peer(client: &TcpStream) -> u64 {
    let (mine, peer) = (client.local_addr().unwrap().port(), client.peer_addr().unwrap().port());
    let ends = format!("0100007F:{peer:04X} 0100007F:{mine:04X} ");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let line = table.lines().find_map(|line| line.split_once(&ends)).unwrap().1;
    // The state, then the queues: `01 TX:RX`.
    let queues = line.split_whitespace().nth(1).unwrap();
    u64::from_str_radix(queues.split_once(':').unwrap().1, 16).unwrap()
}

fn a_command_sent_with_its_ready_is_told_as_that() {
    let server = serve("ready", &[]);
    let mut client = connect(server.address());
    ask_ready(&mut client, "echo hello");
    client.write_all(b"readyecho world").unwrap();
    assert_eq!(read_to_end(client), b"");
    let errors = stop(server, "served=0 failed=1");
    assert!(
        errors.contains("the client said `readyecho world` instead of `ready`"),
        "{errors}"
    );
}

fn a_client_that_leaves_instead_of_saying_ready_costs_nobody_else() {
    let server = serve("ready", &[]);
    ask_ready(&mut connect(server.address()), "echo hello");
    assert_eq!(output_of("ready", server.address(), "echo on"), "on\n");
    let errors = stop(server, "served=1 failed=1");
    assert!(errors.contains("the client left instead of saying `ready`"), "{errors}");
}

fn a_ready_client_tells_what_is_no_length() {
    let told = "the server announced `HTTP/1.1 400` instead of a length: it speaks another protocol";
    assert_failed(&call_with_answers("ready", &[b"HTTP/1.1 400"]), told);
    assert_failed(
        &call_with_answers("ready", &[b"-1"]),
        "the server announced `-1` instead of a length",
    );
    assert_failed(
        &call_with_answers("ready", &[b"\xFF\n"]),
        r"the server announced `\xff\n` instead of a length",
    );
}

fn a_ready_client_tells_how_much_of_an_answer_came() {
    assert_failed(&call_with_answers("ready", &[b""]), NO_ANSWER);
    assert_failed(
        &call_with_answers("ready", &[b"100", b"only this"]),
        "the answer ended after 9 of 100 bytes",
    );
}

// ----- struct ------------------------------------------------------------------------------------

fn a_struct_client_tells_what_is_no_length() {
    let told = "a message of -1 bytes is announced: the peer speaks another protocol";
    assert_failed(&call_with_answers("struct", &[b"\xFF\xFF\xFF\xFF"]), told);
}

fn a_struct_client_tells_how_much_of_an_answer_came() {
    assert_failed(&call_with_answers("struct", &[b""]), NO_ANSWER);
    assert_failed(
        &call_with_answers("struct", &[&[0, 0]]),
        "2 of at least 4 bytes had arrived",
    );
    let answer = [&100_i32.to_ne_bytes()[..], b"only this"].concat();
    assert_failed(&call_with_answers("struct", &[&answer]), "9 of 100 bytes had arrived");
}

// ----- udp ---------------------------------------------------------------------------------------

/// A socket that talks to the server.
fn udp_client(server: &str) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server).unwrap();
    client.set_read_timeout(Some(CEILING)).unwrap();
    client
}

fn ask_udp(client: &UdpSocket, command: &str) -> Vec<u8> {
    client.send(command.as_bytes()).unwrap();
    let mut answer = vec![0; 1 << 16];
    let length = client.recv(&mut answer).unwrap();
    answer.truncate(length);
    answer
}

fn udp_serves_under_every_strategy_and_stops_by_a_signal() {
    for strategy in STRATEGIES {
        let server = serve("udp", &["--strategy", strategy]);
        let (one, other) = (udp_client(server.address()), udp_client(server.address()));
        assert_eq!(ask_udp(&one, "echo one"), b"one\n", "{strategy}");
        assert_eq!(ask_udp(&other, "echo other"), b"other\n", "{strategy}");
        stop(server, "served=2 failed=0");
    }
}

fn output_that_does_not_fit_a_datagram_is_cut_at_a_marker() {
    let server = serve("udp", &[]);
    let client = udp_client(server.address());
    let answer = ask_udp(&client, "head -c 102400 /dev/zero | tr '\\0' x");
    let marker = "\n[remote_command: cut: the output has 102400 bytes, a datagram holds 65507]\n";
    let kept = 65_507 - marker.len();
    assert_eq!(String::from_utf8(answer).unwrap(), "x".repeat(kept) + marker);
    assert_eq!(ask_udp(&client, "head -c 65507 /dev/zero").len(), 65_507);
}

fn a_cut_splits_no_character() {
    // Of three bytes in UTF-8 and two in GBK; the byte before moves them by one.
    for (before, encoding) in [
        ("", "utf-8"),
        ("x", "utf-8"),
        ("xx", "utf-8"),
        ("", "gbk"),
        ("x", "gbk"),
    ] {
        let server = serve("udp", &["--encoding", encoding]);
        let command = format!("printf '{before}'; yes 好 | head -n 40000 | tr -d '\\n'");
        let mut client = client("udp", server.address());
        let ended = Program::run(client.args(["--encoding", encoding]).arg(&command), "");
        let (kept, told) = ended.output.split_once("\n[").unwrap();
        assert!(told.starts_with("remote_command: cut: "), "{told}");
        let kept = kept.strip_prefix(before).unwrap();
        assert!(kept.chars().all(|each| each == '好'), "{encoding}");
        // The lead of a character and what it takes is all that may be missing.
        let bytes = if encoding == "gbk" { 2 } else { 3 };
        assert!(kept.chars().count() > 65_400 / bytes, "{encoding}: {}", kept.len());
    }
}

fn an_empty_datagram_is_answered() {
    let server = serve("udp", &[]);
    assert_eq!(ask_udp(&udp_client(server.address()), ""), b"");
    let ended = call("udp", server.address(), "");
    assert_eq!((ended.status.code(), &*ended.output, &*ended.errors), (Some(0), "", ""));
    stop(server, "served=2 failed=0");
}

fn a_command_that_does_not_fit_a_datagram_is_refused_by_the_client() {
    let server = serve("udp", &[]);
    let mut client = Program::start(&mut client("udp", server.address()));
    client.say(&format!("echo {}\necho short\n", "x".repeat(65_503)));
    client.wait_for_output(">>: >>: short\n>>: ");
    client
        .wait_for_errors_with("the command has 65508 bytes; over this protocol more than 65507 do not fit a datagram");
}

fn a_lost_answer_is_not_waited_for_for_ever() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let ended = Program::run(client("udp", &address).args(["--wait", "0.1", "true"]), "");
    assert_failed(&ended, "no answer within 0.1 s: the command may have been lost");
}

fn a_udp_client_tells_that_nobody_listens() {
    let address = {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap().to_string()
    };
    let told = format!("cannot connect to {address}: Connection refused");
    assert_failed(&call("udp", &address, "true"), &told);
}

fn udp_is_for_loopback_only_too() {
    let ended = Program::run(&mut server("udp", "0.0.0.0:0"), "");
    assert_failed(&ended, "0.0.0.0:0 is not a loopback address");
}

// ----- framed ------------------------------------------------------------------------------------

type Messages = Framed<TcpStream, LengthDelimitedCodec>;

fn framed(address: &str) -> Messages {
    Framed::new(connect(address), LengthDelimitedCodec::u32_be())
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

fn a_framed_command_over_the_limit_is_refused_on_both_sides() {
    let server = serve("framed", &[]);
    let command = format!("true {}", "x".repeat(8 << 20));
    let ended = Program::run(client("framed", server.address()).arg("--pipeline"), &command);
    assert_failed(
        &ended,
        "the command has 8388613 bytes; over this protocol more than 8388608 are refused",
    );

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
    let mut browser = connect(server.address());
    browser.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    // What it sent was not read to its end: that may be told as a reset.
    let _ = browser.read_to_end(&mut Vec::new());
    let mut cut = connect(server.address());
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

fn pipelining_is_refused_where_commands_would_run_into_one_another() {
    for protocol in ["ready", "struct", "udp"] {
        let ended = Program::run(client(protocol, "127.0.0.1:1").arg("--pipeline"), "");
        assert_failed(&ended, "--pipeline is for --protocol framed");
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
    messages.send("echo out; echo wrong >&2; sleep 1000").unwrap();
    let told = "wrong\n[remote_command: killed: it took longer than 0.3 s]\n";
    assert_eq!(next_answer(&mut messages), ["out\n", told, "137"]);
    messages.send("yes").unwrap();
    let told = "[remote_command: killed: it printed more than 1000 bytes; the rest is cut]\n";
    assert_eq!(next_answer(&mut messages), ["y\n".repeat(500).as_str(), told, "137"]);
}

fn a_client_that_leaves_with_commands_in_flight_ends_the_one_that_runs() {
    let server = serve("framed", &[]);
    let place = support::temp_path("child");
    let path = place.path.display();
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

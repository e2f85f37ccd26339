//! What is special to each protocol of the remote command, and what becomes of peers that break it.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;

use support::process::{Ended, STRATEGIES, stop};
use support::program::Program;
use support::remote_command::{NO_ANSWER, assert_failed, call, client, output_of, serve, server};
use support::{connect_to, read_to_end, udp_client};

tests![
    a_ready_server_sends_nothing_before_it_has_heard_ready,
    ready_may_arrive_in_pieces,
    a_command_sent_with_its_ready_is_told_as_that,
    a_client_that_leaves_instead_of_saying_ready_costs_nobody_else,
    a_ready_client_tells_what_is_no_length,
    a_ready_client_tells_how_much_of_an_answer_came,
    a_struct_client_tells_what_is_no_length,
    a_struct_client_tells_how_much_of_an_answer_came,
    a_server_that_does_not_answer_is_not_waited_for_for_ever,
    a_server_of_another_protocol_is_not_waited_for_for_ever,
    udp_serves_under_every_strategy_and_stops_by_a_signal,
    output_that_does_not_fit_a_datagram_is_cut_at_a_marker,
    a_cut_splits_no_character,
    an_empty_datagram_is_answered,
    a_command_that_does_not_fit_a_datagram_is_refused_by_the_client,
    a_lost_answer_is_not_waited_for_for_ever,
    a_udp_client_tells_that_nobody_listens,
    udp_is_for_loopback_only_too,
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
    let mut client = connect_to(server.address());
    assert_eq!(ask_ready(&mut client, "echo hello"), 6);
    client.write_all(b"no").unwrap();
    assert_eq!(read_to_end(client), b"");
    let errors = stop(server, "served=0 failed=1");
    assert!(errors.contains("the client said `no` instead of `ready`"), "{errors}");
}

fn ready_may_arrive_in_pieces() {
    let server = serve("ready", &[]);
    let mut client = connect_to(server.address());
    assert_eq!(ask_ready(&mut client, "echo hello"), 6);
    for piece in ["re", "a", "dy"] {
        client.write_all(piece.as_bytes()).unwrap();
        support::wait_until("the piece is read", || support::unread(&client) == Some(0));
    }
    let mut output = [0; 6];
    client.read_exact(&mut output).unwrap();
    assert_eq!(&output, b"hello\n");
}

fn a_command_sent_with_its_ready_is_told_as_that() {
    let server = serve("ready", &[]);
    let mut client = connect_to(server.address());
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
    ask_ready(&mut connect_to(server.address()), "echo hello");
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

// ----- Another protocol --------------------------------------------------------------------------

fn a_server_that_does_not_answer_is_not_waited_for_for_ever() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let told = "no answer within 0.2 s: the command still runs, or the server speaks another protocol";
    for protocol in ["ready", "struct", "framed"] {
        let ended = Program::run(client(protocol, &address).args(["--wait", "0.2", "true"]), "");
        assert_failed(&ended, told);
        let ended = Program::run(client(protocol, &address).args(["--wait", "0.2"]), "true\n");
        assert_eq!((ended.status.code(), &*ended.output), (Some(1), ">>: "), "{ended:?}");
        assert_eq!(ended.errors, format!("remote_command: {told}\n"));
    }
    // More than the buffers of two sockets take.
    let command = format!("true {}\n", "x".repeat(8_000_000));
    for options in [&["--pipeline"][..], &[]] {
        let ended = Program::run(
            client("framed", &address).args(["--wait", "0.2"]).args(options),
            &command,
        );
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert_eq!(ended.errors, format!("remote_command: {told}\n"), "{options:?}");
    }
}

fn a_server_of_another_protocol_is_not_waited_for_for_ever() {
    for theirs in ["ready", "struct", "framed"] {
        let server = serve(theirs, &[]);
        for ours in ["ready", "struct", "framed"].into_iter().filter(|ours| *ours != theirs) {
            let ended = Program::run(client(ours, server.address()).args(["--wait", "0.2", "echo hello"]), "");
            assert_eq!(ended.status.code(), Some(1), "{ours} to {theirs}: {ended:?}");
            assert!(
                ended.errors.starts_with("remote_command: "),
                "{ours} to {theirs}: {ended:?}"
            );
        }
    }
}

// ----- udp ---------------------------------------------------------------------------------------

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
        let address = server.address().into();
        let (one, other) = (udp_client(&address), udp_client(&address));
        assert_eq!(ask_udp(&one, "echo one"), b"one\n", "{strategy}");
        assert_eq!(ask_udp(&other, "echo other"), b"other\n", "{strategy}");
        stop(server, "served=2 failed=0");
    }
}

fn output_that_does_not_fit_a_datagram_is_cut_at_a_marker() {
    let server = serve("udp", &[]);
    let client = udp_client(&server.address().into());
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
        // Where SIGPIPE was blocked, yes(1) tells that nobody reads any more.
        let command = format!("printf '{before}'; yes 好 2>/dev/null | head -n 40000 | tr -d '\\n'");
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
    assert_eq!(ask_udp(&udp_client(&server.address().into()), ""), b"");
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
    assert_failed(&ended, "0.0.0.0 is not a loopback address");
}

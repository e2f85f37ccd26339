//! The remote command on the wire, both ways: with Python programs that do what the tutorial's do.

mod support;

use std::process::Command;

use support::clients;
use support::process::{Process, STRATEGIES};
use support::program::{Program, peer, peer_of};
use support::remote_command::{call, client, output_of, serve};

tests![
    a_python_client_gets_every_kind_of_output_over_struct,
    a_python_client_gets_every_kind_of_output_over_struct_in_gbk,
    a_python_client_can_decode_whatever_is_sent_in_gbk,
    a_python_client_is_served_under_every_strategy,
    our_client_gets_every_kind_of_output_from_a_python_server_over_struct,
    our_client_decodes_what_a_python_server_sends_in_gbk,
    our_prompt_talks_to_a_python_server_over_struct,
    a_python_client_gets_every_kind_of_output_over_ready_in_gbk,
    a_python_client_gets_all_but_empty_output_over_ready_in_utf_8,
    our_client_gets_every_kind_of_output_from_a_python_server_over_ready,
    a_python_client_gets_every_kind_of_output_over_udp,
    our_client_gets_every_kind_of_output_from_a_python_server_over_udp,
    a_python_client_gets_the_answers_to_many_commands_at_once_over_framed,
    our_client_gets_output_errors_and_status_from_a_python_server_over_framed,
];

/// Commands, and the answers to them in the tutorial's protocols.
fn outputs() -> [(&'static str, String); 5] {
    [
        ("true", String::new()),
        ("echo hello", "hello\n".to_owned()),
        ("head -c 102400 /dev/zero | tr '\\0' x", "x".repeat(102_400)),
        ("echo out; echo wrong >&2", "wrong\n".to_owned()),
        ("echo 你好，世界", "你好，世界\n".to_owned()),
    ]
}

/// What is typed at a prompt for the commands of `outputs`, and what is printed then. Python's `print`
/// ends each answer with a newline.
fn conversation(outputs: &[(&str, String)]) -> (String, String) {
    let (mut typed, mut printed) = (String::new(), String::new());
    for (command, output) in outputs {
        typed += command;
        typed += "\n";
        printed += &[">>: ", output, "\n"].concat();
    }
    (typed + "quit\n", printed + ">>: ")
}

/// Runs a Python client at its prompt; it has to print all that it should.
#[track_caller]
fn assert_converses(client: &mut Command, outputs: &[(&str, String)]) {
    let (typed, printed) = conversation(outputs);
    let ended = Program::run(client, &typed);
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ended.output, printed);
}

// ----- struct ------------------------------------------------------------------------------------

fn a_python_client_gets_every_kind_of_output_over_struct() {
    if !clients::available("python3") {
        return;
    }
    let server = serve("struct", &[]);
    assert_converses(peer_of("struct_client.py", server.address()).arg("utf-8"), &outputs());
}

fn a_python_client_gets_every_kind_of_output_over_struct_in_gbk() {
    if !clients::available("python3") {
        return;
    }
    let server = serve("struct", &["--encoding", "gbk"]);
    assert_converses(peer_of("struct_client.py", server.address()).arg("gbk"), &outputs());
}

/// Python's codec has not all that `encoding_rs`'s writes: no euro sign, for one.
fn a_python_client_can_decode_whatever_is_sent_in_gbk() {
    if !clients::available("python3") {
        return;
    }
    let server = serve("struct", &["--encoding", "gbk"]);
    let all = |range: &str| format!("''.join(map(chr, range({range})))");
    let print = |text| format!("import sys; sys.stdout.buffer.write({text}.encode())");
    // One after the other: encoding takes its time where nothing is optimised.
    let ranges = [
        "0x20, 0x2000",
        "0x2000, 0x4e00",
        "0x4e00, 0x8000",
        "0x8000, 0xac00",
        "0xac00, 0xc000",
        "0xc000, 0xd800",
        "0xe000, 0x10100",
    ];
    let all_ranges = ranges.map(all).join("+");
    let possible = print(format!("({all_ranges}).encode('gbk', 'replace').decode('gbk')"));
    let possible = Program::run(Command::new(clients::python()).args(["-c", &possible]), "").output;
    let mut client = Program::start(peer_of("struct_client.py", server.address()).arg("gbk"));
    for (before, range) in ranges.into_iter().enumerate() {
        client.say(&format!("'{}' -c \"{}\"\n", clients::python(), print(all(range))));
        let prompts = before + 2;
        client.wait_for_output_that("it is answered", |text| text.matches(">>: ").count() == prompts);
    }
    client.say("quit\n");
    let ended = client.end();
    assert!(ended.status.success(), "{}", ended.errors);
    let answers = ended
        .output
        .split(">>: ")
        .filter_map(|answer| answer.strip_suffix('\n'));
    let mut printed = answers.flat_map(str::chars);
    for character in possible.chars() {
        assert_eq!(printed.next(), Some(character));
    }
    assert_eq!(printed.next(), None);
}

fn a_python_client_is_served_under_every_strategy() {
    if !clients::available("python3") {
        return;
    }
    for strategy in STRATEGIES {
        let server = serve("struct", &["--strategy", strategy]);
        assert_converses(peer_of("struct_client.py", server.address()).arg("utf-8"), &outputs());
    }
}

fn our_client_gets_every_kind_of_output_from_a_python_server_over_struct() {
    if !clients::available("python3") {
        return;
    }
    let server = Process::start(&mut peer("struct_server.py"));
    for (command, output) in outputs() {
        assert_eq!(output_of("struct", server.address(), command), output, "{command}");
    }
}

fn our_client_decodes_what_a_python_server_sends_in_gbk() {
    if !clients::available("python3") {
        return;
    }
    let server = Process::start(&mut peer("struct_server.py"));
    let mut client = client("struct", server.address());
    let ended = Program::run(
        client.args(["--encoding", "gbk", "printf", r"'\304\343\272\303\n'"]),
        "",
    );
    assert_eq!(ended.output, "你好\n", "{ended:?}");
}

fn our_prompt_talks_to_a_python_server_over_struct() {
    if !clients::available("python3") {
        return;
    }
    let server = Process::start(&mut peer("struct_server.py"));
    let (typed, _) = conversation(&outputs());
    let ended = Program::run(&mut client("struct", server.address()), &typed);
    // Where the output ends its line, ours does not add an empty one.
    let printed = format!(
        ">>: >>: hello\n>>: {}\n>>: wrong\n>>: 你好，世界\n>>: ",
        "x".repeat(102_400)
    );
    assert_eq!(ended.output, printed, "{ended:?}");
}

// ----- ready -------------------------------------------------------------------------------------

/// As `outputs`; a command that prints nothing is answered with a text.
fn outputs_of_ready() -> [(&'static str, String); 5] {
    let mut outputs = outputs();
    outputs[0].1 = String::from("执行成功");
    outputs
}

fn a_python_client_gets_every_kind_of_output_over_ready_in_gbk() {
    if !clients::available("python3") {
        return;
    }
    let server = serve("ready", &["--encoding", "gbk"]);
    assert_converses(
        peer_of("ready_client.py", server.address()).arg("gbk"),
        &outputs_of_ready(),
    );
}

fn a_python_client_gets_all_but_empty_output_over_ready_in_utf_8() {
    if !clients::available("python3") {
        return;
    }
    // The text for empty output is GBK always.
    let server = serve("ready", &[]);
    assert_converses(
        peer_of("ready_client.py", server.address()).arg("utf-8"),
        &outputs()[1..],
    );
}

fn our_client_gets_every_kind_of_output_from_a_python_server_over_ready() {
    if !clients::available("python3") {
        return;
    }
    let server = Process::start(&mut peer("ready_server.py"));
    for (command, output) in outputs_of_ready() {
        assert_eq!(output_of("ready", server.address(), command), output, "{command}");
    }
}

// ----- udp ---------------------------------------------------------------------------------------

/// As `outputs`, each within a datagram.
fn outputs_of_udp() -> [(&'static str, String); 5] {
    let mut outputs = outputs();
    outputs[2] = ("head -c 65507 /dev/zero | tr '\\0' x", "x".repeat(65_507));
    outputs
}

fn a_python_client_gets_every_kind_of_output_over_udp() {
    if !clients::available("python3") {
        return;
    }
    let server = serve("udp", &["--encoding", "gbk"]);
    let mut client = peer_of("udp_client.py", server.address());
    assert_converses(client.arg("gbk"), &outputs_of_udp());
}

fn our_client_gets_every_kind_of_output_from_a_python_server_over_udp() {
    if !clients::available("python3") {
        return;
    }
    let server = Process::start(&mut peer("udp_server.py"));
    for (command, output) in outputs_of_udp() {
        assert_eq!(output_of("udp", server.address(), command), output, "{command}");
    }
}

// ----- framed ------------------------------------------------------------------------------------

/// The Python client sends all commands at once, and prints each answer with its status.
fn a_python_client_gets_the_answers_to_many_commands_at_once_over_framed() {
    if !clients::available("python3") {
        return;
    }
    for strategy in STRATEGIES {
        let server = serve("framed", &["--strategy", strategy]);
        let commands = "echo out; echo wrong >&2; exit 3\n\necho 你好\nkill -9 $$\n";
        let ended = Program::run(&mut peer_of("framed_client.py", server.address()), commands);
        let answers = "out\n|wrong\n|3\n||0\n你好\n||0\n||137\n";
        assert_eq!(ended.output, answers, "{strategy}: {ended:?}");
    }
}

fn our_client_gets_output_errors_and_status_from_a_python_server_over_framed() {
    if !clients::available("python3") {
        return;
    }
    let server = Process::start(&mut peer("framed_server.py"));
    for (command, output) in outputs() {
        if !command.contains("wrong") {
            assert_eq!(output_of("framed", server.address(), command), output, "{command}");
        }
    }
    let ended = call("framed", server.address(), "echo out; echo wrong >&2; exit 3");
    assert_eq!(
        (&*ended.output, &*ended.errors, ended.status.code()),
        ("out\n", "wrong\n", Some(3))
    );
}

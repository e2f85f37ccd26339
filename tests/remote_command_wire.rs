//! The remote command on the wire, both ways: with Python programs that do what the tutorial's do.

mod support;

use std::process::Command;

use support::clients;
use support::process::{Process, STRATEGIES};
use support::program::Program;
use support::remote_command::{client, output_of, peer, peer_of, serve};

tests![
    a_python_client_gets_every_kind_of_output_over_struct,
    a_python_client_gets_every_kind_of_output_over_struct_in_gbk,
    a_python_client_is_served_under_every_strategy,
    our_client_gets_every_kind_of_output_from_a_python_server_over_struct,
    our_client_decodes_what_a_python_server_sends_in_gbk,
    our_prompt_talks_to_a_python_server_over_struct,
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
        typed += &format!("{command}\n");
        printed += &format!(">>: {output}\n");
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

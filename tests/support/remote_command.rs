//! The `remote_command` example, both sides of it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use super::process::{Ended, Process, example_path};
use super::program::Program;
use super::wait_until;

/// The example as a server; more options go behind it.
pub fn server(protocol: &str, address: &str) -> Command {
    let mut command = Command::new(example_path("remote_command"));
    command.args(["serve", "--protocol", protocol, "--address", address]);
    command
}

/// A server on a port of its own.
#[track_caller]
pub fn serve(protocol: &str, options: &[&str]) -> Process {
    Process::start(server(protocol, "127.0.0.1:0").args(options))
}

/// The example as a client; options and the command go behind it.
pub fn client(protocol: &str, address: &str) -> Command {
    let mut command = Command::new(example_path("remote_command"));
    command.args(["call", "--protocol", protocol, "--address", address]);
    command
}

/// Runs the client with one command.
#[track_caller]
pub fn call(protocol: &str, address: &str, command: &str) -> Ended {
    Program::run(client(protocol, address).arg(command), "")
}

/// What a successful call prints.
#[track_caller]
pub fn output_of(protocol: &str, address: &str, command: &str) -> String {
    let ended = call(protocol, address, command);
    assert!(ended.status.success(), "{command}: {ended:?}");
    ended.output
}

/// The call has failed and told `text`.
#[track_caller]
pub fn assert_failed(ended: &Ended, text: &str) {
    assert_eq!((ended.status.code(), &*ended.output), (Some(1), ""), "{ended:?}");
    assert!(ended.errors.starts_with("remote_command: "), "{ended:?}");
    assert!(ended.errors.contains(text), "{ended:?}");
}

/// What the client tells when no answer has come.
pub const NO_ANSWER: &str = "the server closed the connection without an answer";

/// Sends a command of the struct protocol and returns its answer.
#[track_caller]
pub fn ask(stream: &mut TcpStream, command: &[u8]) -> String {
    stream.write_all(command).unwrap();
    read_answer(stream)
}

/// As [`ask`], until the answer is such a one: on a busy machine a command may be killed before it has told anything.
#[track_caller]
pub fn ask_until(stream: &mut TcpStream, command: &[u8], is_it: impl Fn(&str) -> bool) -> String {
    let mut answers = (0..100).map(|_| ask(stream, command));
    answers.find(|answer| is_it(answer)).expect("the command is run")
}

/// The next answer of the struct protocol.
#[track_caller]
pub fn read_answer(stream: &mut TcpStream) -> String {
    let mut header = [0; 4];
    stream.read_exact(&mut header).unwrap();
    let mut output = vec![0; usize::try_from(i32::from_ne_bytes(header)).unwrap()];
    stream.read_exact(&mut output).unwrap();
    String::from_utf8(output).unwrap()
}

/// Waits until the process with the number in `text` is gone; a zombie that nobody reaps is, too.
#[track_caller]
pub fn wait_until_gone(text: &str) {
    let id = text
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("no process id: {text:?}"));
    wait_until("the process is gone", || {
        super::process_state(id).is_none_or(|state| state == "Z" || state == "X")
    });
}

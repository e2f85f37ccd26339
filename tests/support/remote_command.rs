//! The `remote_command` example, both sides of it, and its peers in Python.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use super::process::{Ended, Process, example_path};
use super::program::Program;
use super::{CEILING, wait_until};

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

/// A program of tests/peers.
pub fn peer(name: &str) -> Command {
    let mut command = Command::new("python3");
    // Its output is UTF-8 whatever the locale.
    command
        .args(["-X", "utf8"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name));
    // It shares a module with others, of which no compiled copy is to be left in the project.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// A peer that is told an address, as host and port.
pub fn peer_of(name: &str, address: &str) -> Command {
    let (host, port) = address.rsplit_once(':').unwrap();
    let mut command = peer(name);
    command.args([host, port]);
    command
}

/// A connection to a server, that fails rather than waits for ever.
#[track_caller]
pub fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(CEILING)).unwrap();
    stream.set_write_timeout(Some(CEILING)).unwrap();
    stream
}

/// Sends a command of the struct protocol and returns its answer.
#[track_caller]
pub fn ask(stream: &mut TcpStream, command: &[u8]) -> String {
    stream.write_all(command).unwrap();
    read_answer(stream)
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

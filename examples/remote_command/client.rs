//! Calls a server: one command, or a prompt.

use std::io::{self, BufRead, ErrorKind, IsTerminal, Read, Write};
use std::net::TcpStream;

use crate::CallOptions;
use crate::protocol::Protocol;

const PROMPT: &[u8] = b">>: ";

/// Calls a server over TCP.
pub(crate) fn call_tcp(protocol: impl Protocol, options: &CallOptions) -> io::Result<()> {
    let address = &options.common.address;
    let stream = TcpStream::connect(address)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot connect to {address}: {error}")))?;
    stream.set_nodelay(true)?;
    let mut caller = Caller { protocol, stream };
    if options.command.is_empty() {
        return prompt(&mut caller);
    }
    let output = caller.call(options.command.join(" ").trim())?;
    print(&output)
}

/// One side of a conversation.
struct Caller<P, S> {
    protocol: P,
    stream: S,
}

impl<P: Protocol, S: Read + Write> Caller<P, S> {
    fn call(&mut self, command: &str) -> io::Result<Vec<u8>> {
        check::<P>(command)?;
        self.protocol.call(&mut self.stream, command.as_bytes())
    }
}

/// Asks for commands until `quit` or the end of input. The prompt is there also when the input is no
/// terminal, as with Python's `input`: a program can wait for it.
fn prompt<P: Protocol, S: Read + Write>(caller: &mut Caller<P, S>) -> io::Result<()> {
    let mut lines = io::stdin().lock();
    loop {
        print(PROMPT)?;
        let mut line = Vec::new();
        if lines.read_until(b'\n', &mut line)? == 0 {
            if io::stdin().is_terminal() {
                print(b"\n")?;
            }
            return Ok(());
        }
        let line = String::from_utf8_lossy(&line);
        match line.trim() {
            "" => {}
            "quit" => return Ok(()),
            command => {
                if let Err(error) = check::<P>(command) {
                    eprintln!("remote_command: {error}");
                    continue;
                }
                let mut output = caller.call(command)?;
                if output.last().is_some_and(|last| *last != b'\n') {
                    output.push(b'\n');
                }
                print(&output)?;
            }
        }
    }
}

/// Refuses what would not arrive as one command.
fn check<P: Protocol>(command: &str) -> io::Result<()> {
    let refuse = |why: String| Err(io::Error::new(ErrorKind::InvalidInput, why));
    if command.is_empty() {
        return refuse("an empty command sends nothing, and no answer would come".to_owned());
    }
    match P::LONGEST_COMMAND {
        Some(longest) if command.len() > longest => refuse(format!(
            "the command has {} bytes; over this protocol more than {longest} would run as two commands",
            command.len()
        )),
        _ => Ok(()),
    }
}

fn print(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

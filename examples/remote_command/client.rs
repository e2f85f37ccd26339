//! Calls a server: one command, a prompt, or many commands at a time.

use std::io::{self, BufRead, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use crate::CallOptions;
use crate::framed::FramedClient;
use crate::protocol::{Answer, Client};

const PROMPT: &[u8] = b">>: ";

/// Calls a server with the command in the options; without one, asks for commands.
pub(crate) fn call<C: Client>(options: &CallOptions) -> io::Result<ExitCode> {
    let mut client = C::start(options)?;
    if options.command.is_empty() {
        prompt(&mut client)?;
        return Ok(ExitCode::SUCCESS);
    }
    let command = options.command.join(" ");
    check::<C>(command.trim())?;
    let answer = client.call(command.trim())?;
    print(&answer.output)?;
    io::stderr().write_all(&answer.errors)?;
    Ok(answer.status.into())
}

/// Sends each line of standard input at once. The status is that of the first command that failed.
pub(crate) fn pipeline(options: &CallOptions) -> io::Result<ExitCode> {
    let mut status = 0;
    FramedClient::start(options)?.pipeline(|answer| {
        if status == 0 {
            status = answer.status;
        }
        print(&answer.output)?;
        io::stderr().write_all(&answer.errors)
    })?;
    Ok(status.into())
}

pub(crate) fn no_answer() -> io::Error {
    let text = "the server closed the connection without an answer";
    io::Error::new(ErrorKind::UnexpectedEof, text)
}

/// Asks for commands until `quit` or the end of input. The prompt is there also when the input is no
/// terminal, as with Python's `input`: a program can wait for it.
fn prompt<C: Client>(client: &mut C) -> io::Result<()> {
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
            command => match check::<C>(command) {
                Ok(()) => show(client.call(command)?)?,
                Err(error) => eprintln!("remote_command: {error}"),
            },
        }
    }
}

/// Prints an answer so that the prompt comes on a line of its own.
fn show(mut answer: Answer) -> io::Result<()> {
    for text in [&mut answer.output, &mut answer.errors] {
        if text.last().is_some_and(|last| *last != b'\n') {
            text.push(b'\n');
        }
    }
    print(&answer.output)?;
    io::stderr().write_all(&answer.errors)?;
    if answer.status != 0 {
        eprintln!("[exit status {}]", answer.status);
    }
    Ok(())
}

/// Refuses what would not arrive as one command.
pub(crate) fn check<C: Client>(command: &str) -> io::Result<()> {
    let refuse = |why: String| Err(io::Error::new(ErrorKind::InvalidInput, why));
    if command.is_empty() && !C::CARRIES_EMPTY {
        return refuse("an empty command sends nothing, and no answer would come".to_owned());
    }
    if command.len() > C::LONGEST_COMMAND {
        return refuse(format!(
            "the command has {} bytes; over this protocol more than {} {}",
            command.len(),
            C::LONGEST_COMMAND,
            C::TOO_LONG
        ));
    }
    Ok(())
}

fn print(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

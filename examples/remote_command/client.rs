//! Calls a server: one command, a prompt, or many commands at a time.

use std::io::{self, BufRead, ErrorKind, IsTerminal, stderr, stdout};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use crate::CallOptions;
use crate::framed::FramedClient;
use crate::protocol::{Answer, Client};
use crate::support::{self, print};

const PROMPT: &str = ">>: ";

/// Calls a server with the command in the options; without one, asks for commands.
pub(crate) fn call<C: Client>(options: &CallOptions) -> io::Result<ExitCode> {
    let mut client = C::start(options)?;
    if options.command.is_empty() {
        prompt(&mut client, options.wait)?;
        return Ok(ExitCode::SUCCESS);
    }
    let command = options.command.join(" ");
    check::<C>(command.trim())?;
    let answer = ask(&mut client, command.trim(), options.wait)?;
    print(stdout(), &answer.output)?;
    print(stderr(), &answer.errors)?;
    Ok(answer.status.into())
}

/// Sends each line of standard input at once. The status is that of the first command that failed.
pub(crate) fn pipeline(options: &CallOptions) -> io::Result<ExitCode> {
    let mut status = 0;
    FramedClient::start(options)?.pipeline(options.wait, |answer| {
        if status == 0 {
            status = answer.status;
        }
        print(stdout(), &answer.output)?;
        print(stderr(), &answer.errors)
    })?;
    Ok(status.into())
}

/// A connection to the server, with --wait for making it and for each read and write: a server that speaks another
/// protocol may wait for more of the command, or may announce more than it sends.
pub(crate) fn connect(options: &CallOptions) -> io::Result<TcpStream> {
    let stream = support::connect(&options.common.address, options.wait)?;
    stream.set_read_timeout(Some(options.wait))?;
    stream.set_write_timeout(Some(options.wait))?;
    Ok(stream)
}

fn ask<C: Client>(client: &mut C, command: &str, wait: Duration) -> io::Result<Answer> {
    client.call(command).map_err(|error| in_time::<C>(error, wait))
}

/// Says of a read or write that took too long what may be the matter.
pub(crate) fn in_time<C: Client>(error: io::Error, wait: Duration) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => {
            let text = format!("no answer within {} s: {}", wait.as_secs_f64(), C::SILENT);
            io::Error::new(ErrorKind::TimedOut, text)
        }
        _ => error,
    }
}

pub(crate) fn no_answer() -> io::Error {
    let text = "the server closed the connection without an answer";
    io::Error::new(ErrorKind::UnexpectedEof, text)
}

/// Asks for commands until `quit` or the end of input. The prompt is there also when the input is no
/// terminal, as with Python's `input`: a program can wait for it.
fn prompt<C: Client>(client: &mut C, wait: Duration) -> io::Result<()> {
    let mut lines = io::stdin().lock();
    loop {
        print(stdout(), PROMPT)?;
        let mut line = Vec::new();
        if lines.read_until(b'\n', &mut line)? == 0 {
            if io::stdin().is_terminal() {
                print(stdout(), "\n")?;
            }
            return Ok(());
        }
        let checked = match text_of(&line).map(str::trim) {
            Ok("") => continue,
            Ok("quit") => return Ok(()),
            Ok(command) => check::<C>(command).map(|()| command),
            Err(error) => Err(error),
        };
        match checked {
            Ok(command) => show(ask(client, command, wait)?)?,
            Err(error) => print(stderr(), format!("remote_command: not sent: {error}\n"))?,
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
    print(stdout(), &answer.output)?;
    print(stderr(), &answer.errors)?;
    if answer.status != 0 {
        print(stderr(), format!("[exit status {}]\n", answer.status))?;
    }
    Ok(())
}

/// A line that was typed; refuses one that is no text.
pub(crate) fn text_of(line: &[u8]) -> io::Result<&str> {
    let why = "a command has to be UTF-8";
    str::from_utf8(line).map_err(|_| io::Error::new(ErrorKind::InvalidInput, why))
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

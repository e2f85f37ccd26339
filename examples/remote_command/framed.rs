//! Every message behind its length, an unsigned 32-bit big-endian number, both ways.
//!
//! A command is one message. Its answer is three: what it printed, what it printed as errors, and its exit
//! status in decimal; of one that a signal ended, 128 and the signal's number, as a shell has it.
//!
//! What it mends: a command may be empty or longer than a receive, and arrives as it was sent however the
//! network cuts it. So a client need not wait for an answer before it sends the next command: they are run one
//! after the other, and answered in that order. What is left: a client does not see anything of an output
//! before the command has ended.

use std::io::{self, BufRead, ErrorKind};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use socketserver::prelude::*;

use crate::CallOptions;
use crate::client::{check, connect, in_time, no_answer, text_of};
use crate::command::Outcome;
use crate::encoding::Encoding;
use crate::protocol::{Answer, Client, Protocol};

/// The longest command that a server takes, in bytes.
const LONGEST_COMMAND: usize = 8 << 20;

#[derive(Clone)]
pub(crate) struct Messages {
    pub(crate) encoding: Encoding,
}

fn commands() -> LengthDelimitedCodec {
    LengthDelimitedCodec::u32_be().max_frame_length(LONGEST_COMMAND)
}

/// The limit of an answer's length is the server's matter.
fn answers() -> LengthDelimitedCodec {
    LengthDelimitedCodec::u32_be().max_frame_length(u32::MAX as usize)
}

impl Protocol for Messages {
    /// Commands that have come behind this one go back to the request until the next call.
    fn read_command<S: Stream>(&self, request: &mut StreamRequest<S>) -> io::Result<Option<Vec<u8>>> {
        request.framed(commands()).next().transpose()
    }

    fn write_answer<S: Stream>(&self, request: &mut StreamRequest<S>, outcome: &Outcome) -> io::Result<()> {
        let mut framed = request.framed(answers());
        framed.feed(self.encoding.encode(&outcome.stdout))?;
        framed.feed(self.encoding.encode(&outcome.errors()))?;
        framed.send(status_code(outcome.status).to_string())
    }
}

/// As a shell has it in `$?`.
fn status_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

pub(crate) struct FramedClient {
    stream: TcpStream,
    encoding: Encoding,
}

/// Answers, as they come.
struct Answers<'a> {
    framed: Framed<&'a TcpStream, LengthDelimitedCodec>,
    encoding: Encoding,
}

impl Answers<'_> {
    fn receive(&mut self) -> io::Result<Answer> {
        let mut part = || self.framed.next().ok_or_else(no_answer)?;
        let (output, errors, status) = (part()?, part()?, part()?);
        Ok(Answer {
            output: self.encoding.decode(output),
            errors: self.encoding.decode(errors),
            status: parse_status(&status)?,
        })
    }
}

fn parse_status(text: &[u8]) -> io::Result<u8> {
    let status = str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    status.ok_or_else(|| {
        let text = format!(
            "the server told `{}` instead of an exit status: it speaks another protocol",
            text.escape_ascii()
        );
        io::Error::new(ErrorKind::InvalidData, text)
    })
}

impl FramedClient {
    fn answers(&self) -> Answers<'_> {
        Answers {
            framed: Framed::new(&self.stream, answers()),
            encoding: self.encoding,
        }
    }

    /// Sends each line of standard input as a command, without waiting for answers, and hands each answer
    /// to `take`.
    pub(crate) fn pipeline(&self, wait: Duration, mut take: impl FnMut(Answer) -> io::Result<()>) -> io::Result<()> {
        let stream = self.stream.try_clone()?;
        // The server takes no command while it runs one: many may have to wait before they can be sent.
        stream.set_write_timeout(None)?;
        let (announce, announced) = channel();
        // Nobody waits for it: when the answers have ended early it may be reading still.
        thread::spawn(move || {
            if let Err(error) = send_lines(&stream, || announce.send(Ok(())).unwrap_or_default()) {
                announce.send(Err(error)).unwrap_or_default();
            }
        });
        let mut answers = self.answers();
        for command in announced {
            command?;
            take(answers.receive().map_err(|error| in_time::<Self>(error, wait))?)?;
        }
        Ok(())
    }
}

/// Sends each line of standard input, after it has called `announce`: so the answer is waited for from then on, and a
/// server that takes no command is noticed.
fn send_lines(stream: &TcpStream, announce: impl Fn()) -> io::Result<()> {
    let mut framed = Framed::new(stream, commands());
    for line in io::stdin().lock().split(b'\n') {
        let line = line?;
        let command = text_of(&line)?.trim();
        if !command.is_empty() {
            check::<FramedClient>(command)?;
            announce();
            framed.send(command)?;
        }
    }
    Ok(())
}

impl Client for FramedClient {
    const LONGEST_COMMAND: usize = LONGEST_COMMAND;
    const TOO_LONG: &'static str = "are refused";
    const CARRIES_EMPTY: bool = true;

    fn start(options: &CallOptions) -> io::Result<Self> {
        Ok(FramedClient {
            stream: connect(options)?,
            encoding: options.common.encoding,
        })
    }

    fn call(&mut self, command: &str) -> io::Result<Answer> {
        Framed::new(&self.stream, commands()).send(command)?;
        // Nothing is behind the answer: the next command has not been sent.
        self.answers().receive()
    }
}

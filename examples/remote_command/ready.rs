//! The length of the output as decimal text; the client says `ready`; then the output.
//!
//! The client knows how much to read, so no answer runs into the next one. An empty output is answered
//! with a text that says that all went well, in GBK: a length of 0 would be answered by nothing.
//!
//! What it gets wrong: nothing says where the text of the length ends. A wait does: the server sends no
//! more before it has heard `ready`, which costs each answer a round trip, on a slow line more than the
//! answer. What the client sends with its `ready` in one go is taken for a part of it. And the length may
//! still arrive in two pieces, of which one receive returns the first. [`struct_header`](crate::struct_header)
//! has a length of fixed size, which needs no end and no wait.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

use encoding_rs::GBK;
use socketserver::prelude::*;

use crate::CallOptions;
use crate::client::{connect, no_answer};
use crate::command::Outcome;
use crate::encoding::Encoding;
use crate::protocol::{Answer, Client, Protocol};
use crate::support::{RECEIVE, receive_once};

/// What the client says when it has the length.
const READY: &[u8] = b"ready";

/// The answer to a command that printed nothing: that it was carried out.
const DONE: &str = "执行成功";

#[derive(Clone)]
pub(crate) struct Ready {
    pub(crate) encoding: Encoding,
}

impl Protocol for Ready {
    fn read_command<S: Stream>(&self, request: &mut StreamRequest<S>) -> io::Result<Option<Vec<u8>>> {
        receive_once(request)
    }

    fn write_answer<S: Stream>(&self, request: &mut StreamRequest<S>, outcome: &Outcome) -> io::Result<()> {
        let text = outcome.text();
        let output = if text.is_empty() {
            GBK.encode(DONE).0
        } else {
            self.encoding.encode(&text)
        };
        request.write_all(output.len().to_string().as_bytes())?;
        wait_for_ready(request)?;
        request.write_all(&output)
    }
}

/// Reads until the client has said `ready`, or anything else.
fn wait_for_ready(stream: &mut impl Read) -> io::Result<()> {
    let mut said = Vec::new();
    while said.len() < READY.len() && READY.starts_with(&said) {
        let Some(more) = receive_once(stream)? else {
            let text = "the client left instead of saying `ready`";
            return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
        };
        said.extend(more);
    }
    if said == READY {
        return Ok(());
    }
    let text = format!("the client said `{}` instead of `ready`", said.escape_ascii());
    Err(io::Error::new(ErrorKind::InvalidData, text))
}

pub(crate) struct ReadyClient {
    stream: TcpStream,
    encoding: Encoding,
}

impl Client for ReadyClient {
    const LONGEST_COMMAND: usize = RECEIVE;
    const TOO_LONG: &'static str = "would run as two commands";
    const CARRIES_EMPTY: bool = false;

    fn start(options: &CallOptions) -> io::Result<Self> {
        Ok(ReadyClient {
            stream: connect(options)?,
            encoding: options.common.encoding,
        })
    }

    fn call(&mut self, command: &str) -> io::Result<Answer> {
        self.stream.write_all(command.as_bytes())?;
        let text = receive_once(&mut self.stream)?.ok_or_else(no_answer)?;
        let length = parse_length(&text)?;
        self.stream.write_all(READY)?;
        let mut output = Vec::new();
        // Memory is taken as the bytes arrive, not as they are announced.
        (&self.stream).take(length).read_to_end(&mut output)?;
        if (output.len() as u64) < length {
            let text = format!("the answer ended after {} of {length} bytes", output.len());
            return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
        }
        Ok(Answer::of_text(if output == *GBK.encode(DONE).0 {
            DONE.into()
        } else {
            self.encoding.decode(output)
        }))
    }
}

fn parse_length(text: &[u8]) -> io::Result<u64> {
    let length = str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    length.ok_or_else(|| {
        let text = format!(
            "the server announced `{}` instead of a length: it speaks another protocol",
            text.escape_ascii()
        );
        io::Error::new(ErrorKind::InvalidData, text)
    })
}

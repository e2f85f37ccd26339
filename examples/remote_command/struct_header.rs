//! A length header before the output, as Python packs it: `struct.pack('i', len(output))`.
//!
//! The header has a fixed size, so the client knows where the length ends and where the output does: no
//! answer runs into the next one, and the round trip of [`ready`](crate::ready) is gone.
//!
//! What it gets wrong: only answers have a header. Whatever one receive returns is taken for a command, so a
//! command longer than [`RECEIVE`] bytes, or cut by the network, runs as two, and two sent in a hurry run as
//! one. The header is in the byte order of the machine that packed it. Output and errors come as one, and
//! how the command ended is not told. [`framed`](crate::framed) mends all of that.

use std::io::{self, Write};
use std::net::TcpStream;

use socketserver::prelude::*;

use crate::CallOptions;
use crate::client::{connect, no_answer};
use crate::command::Outcome;
use crate::encoding::Encoding;
use crate::protocol::{Answer, Client, Protocol};
use crate::support::{RECEIVE, receive_once};

#[derive(Clone)]
pub(crate) struct StructHeader {
    pub(crate) encoding: Encoding,
}

/// How answers are framed. The limit of their length is the server's matter.
fn answers() -> LengthDelimitedCodec {
    LengthDelimitedCodec::struct_i().max_frame_length(i32::MAX as usize)
}

impl Protocol for StructHeader {
    fn read_command<S: Stream>(&self, request: &mut StreamRequest<S>) -> io::Result<Option<Vec<u8>>> {
        receive_once(request)
    }

    fn write_answer<S: Stream>(&self, request: &mut StreamRequest<S>, outcome: &Outcome) -> io::Result<()> {
        request.framed(answers()).send(self.encoding.encode(&outcome.text()))
    }
}

pub(crate) struct StructClient {
    framed: Framed<TcpStream, LengthDelimitedCodec>,
    encoding: Encoding,
}

impl Client for StructClient {
    const LONGEST_COMMAND: usize = RECEIVE;
    const TOO_LONG: &'static str = "would run as two commands";
    const CARRIES_EMPTY: bool = false;

    fn start(options: &CallOptions) -> io::Result<Self> {
        Ok(StructClient {
            framed: Framed::new(connect(options)?, answers()),
            encoding: options.common.encoding,
        })
    }

    fn call(&mut self, command: &str) -> io::Result<Answer> {
        self.framed.get_mut().write_all(command.as_bytes())?;
        let output = self.framed.next().ok_or_else(no_answer)??;
        Ok(Answer::of_text(self.encoding.decode(output)))
    }
}

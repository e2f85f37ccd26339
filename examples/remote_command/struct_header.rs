//! A length header before the output, as the tutorial packs it: `struct.pack('i', len(output))`.
//!
//! The client knows from the header where the output ends, so no answer runs into the next one, and it
//! costs no round trip. What it gets wrong: only answers are framed. Whatever one receive returns is taken
//! for a command, so a command longer than [`RECEIVE`] bytes, or cut by the network, runs as two, and two
//! sent in a hurry run as one. And the header is in the byte order of the machine that packed it.

use std::io::{self, ErrorKind, Read, Write};

use crate::command::Outcome;
use crate::encoding::Encoding;
use crate::protocol::Protocol;

/// How much one receive takes, in bytes: a command.
const RECEIVE: usize = 1024;

/// The size of the header, a C `int`.
const HEADER: usize = size_of::<i32>();

#[derive(Clone)]
pub(crate) struct StructHeader {
    encoding: Encoding,
}

impl StructHeader {
    pub(crate) fn new(encoding: Encoding) -> Self {
        StructHeader { encoding }
    }
}

impl Protocol for StructHeader {
    const LONGEST_COMMAND: Option<usize> = Some(RECEIVE);

    fn read_command(&mut self, stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
        let mut command = vec![0; RECEIVE];
        let received = stream.read(&mut command)?;
        command.truncate(received);
        Ok((received > 0).then_some(command))
    }

    fn write_answer(&mut self, stream: &mut (impl Read + Write), outcome: &Outcome) -> io::Result<()> {
        let text = outcome.text();
        let output = self.encoding.encode(&text);
        let length = i32::try_from(output.len())
            .map_err(|_| io::Error::new(ErrorKind::InvalidData, "the output is too long for its header"))?;
        // One write, so that the header does not travel in a packet of its own.
        stream.write_all(&[&length.to_ne_bytes(), &*output].concat())
    }

    fn call(&mut self, stream: &mut (impl Read + Write), command: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(command)?;
        let mut header = Vec::with_capacity(HEADER);
        read_up_to(stream, HEADER, &mut header)?;
        let length = match <[u8; HEADER]>::try_from(&*header) {
            Ok(bytes) => i32::from_ne_bytes(bytes),
            Err(_) if header.is_empty() => return Err(cut("the server closed the connection without an answer")),
            Err(_) => {
                return Err(cut(&format!(
                    "the answer ended after {} of {HEADER} header bytes",
                    header.len()
                )));
            }
        };
        let length = usize::try_from(length).map_err(|_| {
            let text = format!("the server announced {length} bytes: it speaks another protocol or byte order");
            io::Error::new(ErrorKind::InvalidData, text)
        })?;
        let mut output = Vec::new();
        read_up_to(stream, length, &mut output)?;
        if output.len() < length {
            return Err(cut(&format!(
                "the answer ended after {} of {length} bytes",
                output.len()
            )));
        }
        Ok(self.encoding.decode(output))
    }
}

/// Reads `count` bytes however they are split, fewer only at the end of the stream. Memory is taken as
/// they arrive, not as they are announced.
fn read_up_to(stream: &mut impl Read, count: usize, into: &mut Vec<u8>) -> io::Result<()> {
    stream.take(count as u64).read_to_end(into).map(drop)
}

fn cut(what: &str) -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, what)
}

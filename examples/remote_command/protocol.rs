//! What a protocol is: how a command and its answer travel.
//!
//! A stream keeps no message boundaries, so a protocol has to say where a command ends and where its
//! answer does. The modules are in the order in which one learns that: [`ready`](crate::ready),
//! [`struct_header`](crate::struct_header), [`framed`](crate::framed); and, without a stream,
//! [`udp`](crate::udp).

use std::io;

use socketserver::prelude::*;

use crate::CallOptions;
use crate::command::Outcome;

/// A protocol over a connection: the server's side.
pub(crate) trait Protocol: Clone + Send + Sync + 'static {
    /// The next command; `None` when the client has ended the conversation.
    fn read_command<S: Stream>(&self, request: &mut StreamRequest<S>) -> io::Result<Option<Vec<u8>>>;

    /// Answers the command.
    fn write_answer<S: Stream>(&self, request: &mut StreamRequest<S>, outcome: &Outcome) -> io::Result<()>;
}

/// A protocol: the client's side.
pub(crate) trait Client: Sized {
    /// The longest command in bytes that arrives as one.
    const LONGEST_COMMAND: usize;

    /// What becomes of a longer one: it ...
    const TOO_LONG: &'static str;

    /// Whether an empty command arrives at all.
    const CARRIES_EMPTY: bool;

    /// What may be the matter when no answer comes.
    const SILENT: &'static str = "the command still runs, or the server speaks another protocol";

    /// A conversation with the server that the options name.
    fn start(options: &CallOptions) -> io::Result<Self>;

    /// Sends a command and returns the answer to it.
    fn call(&mut self, command: &str) -> io::Result<Answer>;
}

/// What a client is told about its command.
#[derive(Default)]
pub(crate) struct Answer {
    pub(crate) output: Vec<u8>,
    /// Empty where the protocol mixes it with the output.
    pub(crate) errors: Vec<u8>,
    /// 0 where the protocol does not tell.
    pub(crate) status: u8,
}

impl Answer {
    /// Of a protocol that has nothing but one text.
    pub(crate) fn of_text(output: Vec<u8>) -> Self {
        Answer {
            output,
            ..Answer::default()
        }
    }
}

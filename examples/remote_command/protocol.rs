//! What a protocol is: how a command and its answer travel over a connection.

use std::io::{self, Read, Write};

use crate::command::Outcome;

/// A protocol over a connection, both sides of it.
pub(crate) trait Protocol: Clone + Send + Sync + 'static {
    /// The longest command in bytes that arrives as one, if there is a limit.
    const LONGEST_COMMAND: Option<usize>;

    /// Server: the next command; `None` when the client has ended the conversation.
    fn read_command(&mut self, stream: &mut impl Read) -> io::Result<Option<Vec<u8>>>;

    /// Server: answers the command.
    fn write_answer(&mut self, stream: &mut (impl Read + Write), outcome: &Outcome) -> io::Result<()>;

    /// Client: sends a command and returns what is to be printed.
    fn call(&mut self, stream: &mut (impl Read + Write), command: &[u8]) -> io::Result<Vec<u8>>;
}

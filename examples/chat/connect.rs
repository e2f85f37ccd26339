//! The client of the tutorial's interactive server.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::PATIENCE;
use crate::support::{self, print, receive_once};
use crate::wire::printable;

/// Sends each line that is typed and waits for the answer, until the end of input.
pub(crate) fn run(address: &str) -> io::Result<()> {
    let mut stream = support::connect(address, PATIENCE)?;
    let mut line = Vec::new();
    loop {
        print(io::stdout(), ">>>")?;
        line.clear();
        if io::stdin().lock().read_until(b'\n', &mut line)? == 0 {
            if io::stdin().is_terminal() {
                print(io::stdout(), "\n")?;
            }
            return Ok(());
        }
        let message = line.trim_ascii();
        if message.is_empty() {
            continue;
        }
        stream.write_all(message)?;
        let Some(answer) = receive_once(&mut stream)? else {
            let text = "the server closed the connection without an answer";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        };
        print(io::stdout(), format!("answer from {address}: {}\n", printable(&answer)))?;
    }
}

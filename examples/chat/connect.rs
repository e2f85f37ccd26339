//! The client of the tutorial's interactive server.

use std::io::{self, IsTerminal, Write};

use crate::support::{self, receive_once};
use crate::wire::printable;

/// Sends each line that is typed and waits for the answer, until the end of input.
pub(crate) fn run(address: &str) -> io::Result<()> {
    let mut stream = support::connect(address)?;
    let mut line = String::new();
    loop {
        print!(">>>");
        io::stdout().flush()?;
        line.clear();
        if io::stdin().read_line(&mut line)? == 0 {
            if io::stdin().is_terminal() {
                println!();
            }
            return Ok(());
        }
        let message = line.trim();
        if message.is_empty() {
            continue;
        }
        stream.write_all(message.as_bytes())?;
        let Some(answer) = receive_once(&mut stream)? else {
            let text = "the server closed the connection without an answer";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        };
        println!("answer from {address}: {}", printable(&answer));
    }
}

//! A member of a room.

use std::io::{self, BufRead, ErrorKind};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use socketserver::prelude::*;

use crate::PATIENCE;
use crate::support::{self, print};
use crate::wire::{LONGEST_MESSAGE, WELCOME, from_members, printable, to_members};

/// Prints what is said, and says what is typed, until the end of input or of the connection.
pub(crate) fn run(address: &str, name: &str) -> io::Result<()> {
    let stream = Arc::new(support::connect(address, PATIENCE)?);
    let mut heard = Framed::new(&*stream, to_members());
    Framed::new(&*stream, from_members()).send(name)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    match heard.next_ref() {
        Ok(Some(answer)) if answer == WELCOME.as_bytes() => {}
        Ok(Some(refusal)) => return Err(io::Error::new(ErrorKind::PermissionDenied, printable(refusal))),
        Ok(None) => return Err(closed()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            let text = format!("no answer within {} s: {address} is no `chat room`", PATIENCE.as_secs());
            return Err(io::Error::new(ErrorKind::TimedOut, text));
        }
        Err(error) => return Err(error),
    }
    // From now on it is silent as long as the members are.
    stream.set_read_timeout(None)?;

    let left = Arc::new(AtomicBool::new(false));
    let typing = (Arc::clone(&stream), Arc::clone(&left));
    // Nobody waits for it: when the room ends, it may be reading still.
    thread::spawn(move || {
        let (stream, left) = typing;
        if let Err(error) = say_what_is_typed(&stream) {
            let _ = print(io::stderr(), format!("chat: {error}\n"));
        }
        left.store(true, Ordering::SeqCst);
        // The room sends what was said before, and then closes.
        let _ = stream.shutdown(Shutdown::Write);
    });
    while let Some(message) = heard.next_ref()? {
        print(io::stdout(), printable(message) + "\n")?;
    }
    if left.load(Ordering::SeqCst) {
        return Ok(());
    }
    Err(closed())
}

fn closed() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the room closed the connection")
}

fn say_what_is_typed(stream: &TcpStream) -> io::Result<()> {
    let mut said = Framed::new(stream, from_members());
    for line in io::stdin().lock().split(b'\n') {
        let line = line?;
        let message = line.trim_ascii();
        if message.len() > LONGEST_MESSAGE {
            let length = message.len();
            let text = format!("chat: not sent: it has {length} bytes, and a message at most {LONGEST_MESSAGE}\n");
            print(io::stderr(), text)?;
        } else if !message.is_empty() {
            said.send(message)?;
        }
    }
    Ok(())
}

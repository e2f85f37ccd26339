//! A member of a room.

use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use socketserver::prelude::*;

use crate::support;
use crate::wire::{LONGEST_MESSAGE, WELCOME, from_members, printable, to_members};

/// Prints what is said, and says what is typed, until the end of input or of the connection.
pub(crate) fn run(address: &str, name: &str) -> io::Result<()> {
    let stream = Arc::new(support::connect(address)?);
    let mut heard = Framed::new(&*stream, to_members());
    Framed::new(&*stream, from_members()).send(name)?;
    match heard.next_ref()? {
        Some(answer) if answer == WELCOME.as_bytes() => {}
        Some(refusal) => return Err(io::Error::new(ErrorKind::PermissionDenied, printable(refusal))),
        None => {
            return Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                "the room closed the connection",
            ));
        }
    }

    let left = Arc::new(AtomicBool::new(false));
    let typing = (Arc::clone(&stream), Arc::clone(&left));
    // Nobody waits for it: when the room ends, it may be reading still.
    thread::spawn(move || {
        let (stream, left) = typing;
        if let Err(error) = say_what_is_typed(&stream) {
            eprintln!("chat: {error}");
        }
        left.store(true, Ordering::SeqCst);
        // The room sends what was said before, and then closes.
        let _ = stream.shutdown(Shutdown::Write);
    });
    while let Some(message) = heard.next_ref()? {
        println!("{}", printable(message));
    }
    if left.load(Ordering::SeqCst) {
        return Ok(());
    }
    Err(io::Error::new(
        ErrorKind::UnexpectedEof,
        "the room closed the connection",
    ))
}

fn say_what_is_typed(stream: &TcpStream) -> io::Result<()> {
    let mut said = Framed::new(stream, from_members());
    for line in io::stdin().lines() {
        let line = line?;
        let message = line.trim();
        if message.len() > LONGEST_MESSAGE {
            eprintln!(
                "chat: not sent: it has {} bytes, and a message at most {LONGEST_MESSAGE}",
                message.len()
            );
        } else if !message.is_empty() {
            said.send(message)?;
        }
    }
    Ok(())
}

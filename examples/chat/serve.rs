//! The tutorial's interactive server: a person answers.

use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::read;
use socketserver::prelude::*;

use crate::support::receive_once;
use crate::wire::printable;

const PROMPT: &str = ">>>";

/// One client's conversation with the operator.
#[derive(Clone, Default)]
pub(crate) struct Conversation {
    /// Taken for one message and its answer: so it is plain whom the operator answers.
    operator: Arc<Mutex<Operator>>,
}

impl BaseRequestHandler<TcpRequest> for Conversation {
    fn handle(&mut self, request: &mut TcpRequest) -> HandlerResult {
        while let Some(message) = receive_once(request)? {
            let mut operator = self.operator.lock().unwrap_or_else(PoisonError::into_inner);
            // While this one waited for its turn.
            if request.server().is_draining() {
                break;
            }
            let text = format!("message from {}: {}", request.client_address(), printable(&message));
            let answer = match operator.ask(&text, request.get_ref().as_fd()) {
                // Nobody sees any more what is shown.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Reply::OperatorLeft,
                answer => answer?,
            };
            drop(operator);
            match answer {
                Reply::Text(text) => request.write_all(&text)?,
                Reply::ConnectionEnded => break,
                Reply::OperatorLeft => {
                    request.server().shutdown();
                    break;
                }
            }
        }
        Ok(())
    }
}

enum Reply {
    Text(Vec<u8>),
    /// The client has reset it, or the server is being stopped.
    ConnectionEnded,
    OperatorLeft,
}

/// Standard input, read without std's buffer, which poll(2) does not see.
#[derive(Default)]
struct Operator {
    /// Typed and not used yet.
    typed: Vec<u8>,
    left: bool,
}

impl Operator {
    /// Prints a message and waits for the line that answers it, as long as the connection lasts.
    fn ask(&mut self, message: &str, connection: BorrowedFd<'_>) -> io::Result<Reply> {
        show(&format!("{message}\n{PROMPT}"))?;
        loop {
            while let Some(line) = self.next_line() {
                if !line.is_empty() {
                    return Ok(Reply::Text(line));
                }
                // Nothing would be sent, and the client would wait for it.
                show(PROMPT)?;
            }
            if self.left {
                show("\n")?;
                return Ok(Reply::OperatorLeft);
            }
            if !self.wait(connection)? {
                show("\n")?;
                return Ok(Reply::ConnectionEnded);
            }
        }
    }

    /// The next line, without white space around it.
    fn next_line(&mut self) -> Option<Vec<u8>> {
        let length = match self.typed.iter().position(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if self.left && !self.typed.is_empty() => self.typed.len(),
            None => return None,
        };
        let line: Vec<u8> = self.typed.drain(..length).collect();
        Some(line.trim_ascii().to_vec())
    }

    /// Waits until more has been typed; false: the connection ended first.
    fn wait(&mut self, connection: BorrowedFd<'_>) -> io::Result<bool> {
        let stdin = io::stdin();
        // That a connection has ended in both directions is told without being asked for (poll(2)). A client
        // that has ended only its own may still wait for the answer.
        let mut fds = [
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
            PollFd::new(connection, PollFlags::empty()),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
        if fds[1].any() == Some(true) {
            return Ok(false);
        }
        let mut chunk = [0; 4096];
        match read(stdin.as_fd(), &mut chunk) {
            Ok(0) => self.left = true,
            Ok(count) => self.typed.extend_from_slice(&chunk[..count]),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(true)
    }
}

fn show(text: &str) -> io::Result<()> {
    let mut output = io::stdout();
    output.write_all(text.as_bytes())?;
    output.flush()
}

//! What goes wrong: with one request, with binding, for want of room, and by what was asked for.

mod bind;
mod request;
mod tasks;

use std::io;

use nix::errno::Errno;

pub(crate) use bind::{before_bind_error, bind_error};
pub use request::{Cause, HandlerError, HandlerResult, Phase, RequestError};
pub(crate) use tasks::{LIMITS_OF_TASKS, no_room_for};

/// The system's number of an error, if it is one of the system's.
pub(crate) fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}

/// What was asked for makes no sense: `text` says why, and what to do.
pub(crate) fn invalid_input(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text.into())
}

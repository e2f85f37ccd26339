//! What is done with the socket of a server, whatever transport it is of.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::config::Config;
use crate::sys;

/// listen(2) with the configured backlog.
pub(super) fn listen(socket: &impl AsFd, config: &Config) -> io::Result<()> {
    let connections = i32::try_from(config.request_queue_size).unwrap_or(i32::MAX);
    Ok(sys::listen(socket.as_fd(), connections)?)
}

/// Closes the socket that a server listens on, and keeps its number owned; see [`sys::replace`].
pub(super) fn close(socket: BorrowedFd<'_>, placeholder: BorrowedFd<'_>) {
    if let Err(error) = sys::replace(socket, placeholder) {
        log::warn!("the listening socket stays open until the server is dropped: {error}");
    }
}

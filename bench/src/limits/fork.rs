//! A process for each connection.

use std::io;

use nix::sys::socket::SockFlag;

use super::sys;
use crate::servers::Setup;

/// Forks for each connection, and looks after each whether two of the children, in turn, have ended: no
/// signal handler, and never more than a few that nobody has reaped.
pub fn fork_each(setup: &Setup) -> io::Result<()> {
    let listener = sys::open(setup, SockFlag::empty())?;
    let mut children = Vec::new();
    let mut next = 0;
    loop {
        let Ok(connection) = sys::accept(listener) else {
            continue;
        };
        match sys::fork() {
            Ok(0) => {
                sys::close(listener);
                sys::serve(connection, setup.bulk);
                sys::exit_now();
            }
            Ok(child) => children.push(child),
            // No room for another: the client learns it by the end of its connection.
            Err(_) => {}
        }
        sys::close(connection);
        for _ in 0..2.min(children.len()) {
            next = if next < children.len() { next } else { 0 };
            if sys::has_ended(children[next]) {
                children.swap_remove(next);
            } else {
                next += 1;
            }
        }
    }
}

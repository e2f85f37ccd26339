//! No room for another thread or process.

use std::io;

/// Where to look if a thread or a process cannot be started: the system's error (EAGAIN) does not tell which it was.
pub(crate) const LIMITS_OF_TASKS: &str = "what limits them: ulimit -u, pids.max of the cgroup, memory";

/// There is no room for another one of `what`: says where to look. The kind of the error stays.
pub(crate) fn no_room_for(what: &str, error: &io::Error) -> io::Error {
    let text = format!("{error}: the system has no room for another {what} ({LIMITS_OF_TASKS})");
    io::Error::new(error.kind(), text)
}

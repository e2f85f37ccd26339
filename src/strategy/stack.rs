//! How large the stacks of a strategy's threads are.

use std::io;
use std::thread::Builder;

use crate::error::invalid_input;
use crate::sys;

/// As set; `None`: as the standard library has it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StackSize(pub(super) Option<usize>);

impl StackSize {
    /// Enough to tell of a panic, with its backtrace and in a debug build, for which 32 KiB are too few.
    const LEAST: usize = 64 * 1024;

    /// # Errors
    ///
    /// It is too small, or larger than the system grants: then no request would ever find room for its thread.
    pub(super) fn check(self) -> io::Result<()> {
        let Some(bytes) = self.0 else { return Ok(()) };
        if bytes < Self::LEAST {
            return Err(invalid_input(format!(
                "threads with stacks of {bytes} bytes would overflow them: set stack_size to {} (64 KiB) or more",
                Self::LEAST
            )));
        }
        sys::check_room(bytes).map_err(|error| {
            invalid_input(format!(
                "the system has no room for a stack of {bytes} bytes: set stack_size to less ({error})"
            ))
        })
    }

    /// Of a thread with such a stack.
    pub(super) fn thread(self) -> Builder {
        match self.0 {
            Some(bytes) => Builder::new().stack_size(bytes),
            None => Builder::new(),
        }
    }
}

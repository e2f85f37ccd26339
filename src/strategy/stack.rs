//! How large the stacks of a strategy's threads are.

use std::io;
use std::thread::Builder;

use crate::error::invalid_input;

/// As set; `None`: as the standard library has it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StackSize(pub(super) Option<usize>);

impl StackSize {
    /// Enough to tell of a panic, with its backtrace and in a debug build, for which 32 KiB are too few.
    const LEAST: usize = 64 * 1024;

    /// # Errors
    ///
    /// It is too small.
    pub(super) fn check(self) -> io::Result<()> {
        match self.0 {
            Some(bytes) if bytes < Self::LEAST => Err(invalid_input(format!(
                "threads with stacks of {bytes} bytes would overflow them: set stack_size to {} (64 KiB) or more",
                Self::LEAST
            ))),
            _ => Ok(()),
        }
    }

    /// Of a thread with such a stack.
    pub(super) fn thread(self) -> Builder {
        match self.0 {
            Some(bytes) => Builder::new().stack_size(bytes),
            None => Builder::new(),
        }
    }
}

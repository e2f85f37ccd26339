//! `SCHED_BATCH` while a server serves.

use nix::libc::{SCHED_BATCH, SCHED_OTHER, SCHED_RESET_ON_FORK};

use crate::sys;

/// The calling thread is scheduled in batches (sched(7)), and what it starts inherits that; dropped, on the same
/// thread, the policy is as it was.
#[derive(Debug)]
pub(super) struct Batch {
    before: i32,
}

impl Batch {
    /// Switches to batches, unless another policy was chosen. It is a matter of speed: what fails is only logged.
    pub(super) fn enter() -> Option<Self> {
        let before = switch().unwrap_or_else(|error| {
            log::warn!("no SCHED_BATCH: {error}");
            None
        });
        before.map(|before| Batch { before })
    }
}

/// Switches; returns the policy before. What is no ordinary one was chosen by somebody, and stays.
fn switch() -> nix::Result<Option<i32>> {
    let before = sys::scheduling_policy()?;
    // Only root may clear the flag.
    let flag = before & SCHED_RESET_ON_FORK;
    match before - flag {
        SCHED_OTHER => {
            sys::set_scheduling_policy(SCHED_BATCH | flag)?;
            Ok(Some(before))
        }
        SCHED_BATCH => Ok(None),
        other => {
            log::warn!("no SCHED_BATCH: the thread that serves has policy {other} of sched(7) already, and keeps it");
            Ok(None)
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let Err(error) = sys::set_scheduling_policy(self.before) {
            log::warn!("the thread that served keeps SCHED_BATCH: {error}");
        }
    }
}

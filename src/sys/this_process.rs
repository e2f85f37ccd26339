//! Which process this is, of a process and its copies.

use std::sync::atomic::{AtomicI32, Ordering};

use nix::unistd::Pid;

use super::Words;

/// Tells a process from what is forked from it: without a system call, where the system can.
#[derive(Debug)]
pub(crate) struct ThisProcess {
    /// 0 before it is [claimed](Self::claim).
    pid: AtomicI32,
    /// Not 0 where it was claimed.
    mark: Option<Words<1>>,
}

impl ThisProcess {
    /// Of no process yet: the one that claims it may be forked from this one.
    pub(crate) fn new() -> Self {
        ThisProcess {
            pid: AtomicI32::new(0),
            mark: Words::own().ok(),
        }
    }

    /// From now on it is of the calling process.
    pub(crate) fn claim(&self) {
        match self.mark.as_deref() {
            Some([mark]) => mark.store(1, Ordering::Relaxed),
            None => self.pid.store(Pid::this().as_raw(), Ordering::Relaxed),
        }
    }

    /// Whether this is the process that has claimed it.
    ///
    /// Async-signal-safe: atomics, and perhaps getpid(2).
    pub(crate) fn is_here(&self) -> bool {
        match self.mark.as_deref() {
            Some([mark]) => mark.load(Ordering::Relaxed) != 0,
            None => Pid::this().as_raw() == self.pid.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    use super::*;
    use crate::sys::exit_now;

    /// Forks, and says what the child says.
    fn in_child(says: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child does nothing but look and end.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => exit_now(says().into()),
            ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
                WaitStatus::Exited(_, status) => status == 1,
                other => panic!("{other:?}"),
            },
        }
    }

    #[test]
    fn a_process_is_told_from_what_is_forked_from_it() {
        let by_pid = || ThisProcess {
            mark: None,
            ..ThisProcess::new()
        };
        for process in [ThisProcess::new(), by_pid()] {
            assert!(!process.is_here());
            let claims = || {
                process.claim();
                process.is_here() && !in_child(|| process.is_here())
            };
            assert!(in_child(claims));
            assert!(!process.is_here());
            assert!(claims());
        }
    }
}

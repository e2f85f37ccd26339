//! Whether other processes may have the connections of this one.

use std::sync::atomic::{AtomicBool, Ordering};

/// This process has forked for a request, or workers.
static FORKED: AtomicBool = AtomicBool::new(false);

/// A child or a worker is about to be forked: it gets another handle to every connection that is open in this program,
/// those of other servers and of requests beside its own included (fork(2)).
pub(crate) fn about_to_fork() {
    // Written once: after each fork a write to memory that the child has, too, copies a page.
    if !FORKED.load(Ordering::Relaxed) {
        FORKED.store(true, Ordering::Relaxed);
    }
}

/// In a worker, right after its fork: the connections that it will have are its own.
pub(crate) fn has_not_forked() {
    FORKED.store(false, Ordering::Relaxed);
}

/// A child or a worker may have another handle to any connection, and to any socket that is listened on.
pub(crate) fn others_may_have_it() -> bool {
    FORKED.load(Ordering::Relaxed)
}

//! Which servers a thread works for, so that none waits for its own end.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::{Shared, WaitError};

thread_local! {
    /// The server that this thread binds, or whose loop or request it runs; compared, never followed.
    static BUSY_FOR: Cell<*const Shared> = const { Cell::new(std::ptr::null()) };
    /// The server whose loop this thread runs; compared, never followed.
    static LOOP_OF: Cell<*const Shared> = const { Cell::new(std::ptr::null()) };
    /// The servers further out, where a request of one serves a request of another. Apart, because there is rarely one,
    /// and each request of any server is entered here.
    static BUSY_OUTSIDE: RefCell<Vec<*const Shared>> = const { RefCell::new(Vec::new()) };
}

impl Shared {
    /// Marks this thread as one that the server waits for, until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> Busy {
        let this = Arc::as_ptr(self);
        let outer = BUSY_FOR.replace(this);
        let hides = !outer.is_null() && outer != this;
        if hides {
            BUSY_OUTSIDE.with_borrow_mut(|servers| servers.push(outer));
        }
        Busy { outer, hides }
    }

    /// As [`enter`](Self::enter), where this thread runs the server's loop, or drains it.
    pub(crate) fn enter_loop(self: &Arc<Self>) -> Loop {
        Loop {
            outer: LOOP_OF.replace(Arc::as_ptr(self)),
            _busy: self.enter(),
        }
    }

    /// Whether this thread has entered the loop: while it serves a request, it cannot see to the drain.
    pub(crate) fn is_loop(self: &Arc<Self>) -> bool {
        LOOP_OF.get() == Arc::as_ptr(self)
    }

    /// Before waiting for the end of the server.
    ///
    /// # Errors
    ///
    /// This thread binds the server, or runs its loop or one of its requests.
    pub(crate) fn check_no_deadlock(self: &Arc<Self>) -> Result<(), WaitError> {
        let this = Arc::as_ptr(self);
        if BUSY_FOR.get() == this || BUSY_OUTSIDE.with_borrow(|servers| servers.contains(&this)) {
            return Err(WaitError::Deadlock);
        }
        Ok(())
    }
}

/// This thread works for a server; see [`Shared::enter`].
pub(crate) struct Busy {
    outer: *const Shared,
    /// The outer one is another server.
    hides: bool,
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY_FOR.set(self.outer);
        if self.hides {
            BUSY_OUTSIDE.with_borrow_mut(Vec::pop);
        }
    }
}

/// This thread runs the loop of a server; see [`Shared::enter_loop`].
pub(crate) struct Loop {
    outer: *const Shared,
    _busy: Busy,
}

impl Drop for Loop {
    fn drop(&mut self) {
        LOOP_OF.set(self.outer);
    }
}

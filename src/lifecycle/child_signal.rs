//! Keeping SIGCHLD back while there is enough else to do.

use std::cell::Cell;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

/// Whoever holds the signal waits without it no longer than this.
pub(crate) const SPELL: Duration = Duration::from_millis(1);

/// Nor does it fork more often than this without letting the signal through: the program may listen to it, too.
const MOST: u32 = 64;

thread_local! {
    /// How many times more this thread may fork before it lets SIGCHLD through, which is blocked on it until then.
    static HELD: Cell<u32> = const { Cell::new(0) };
    /// No other thread would be interrupted instead of this one.
    static MAY_BE_HELD: Cell<bool> = const { Cell::new(false) };
}

/// This thread is going to fork for requests, `alone` in its process or not: held back from it, SIGCHLD would
/// interrupt another.
pub(crate) fn may_be_held(alone: bool) {
    MAY_BE_HELD.set(alone);
}

/// Holds SIGCHLD back from this thread, which has forked, if it [may be](may_be_held). A busy server has the next
/// request before the child of this one ends, and would be interrupted by each: it looks after its children in
/// passing. Once nothing has come for a [`SPELL`], or before any other wait, the signal is [let through](release).
pub(crate) fn hold() {
    if !MAY_BE_HELD.get() {
        return;
    }
    match HELD.get() {
        0 => {
            let _ = SigSet::from(Signal::SIGCHLD).thread_block();
            HELD.set(MOST);
        }
        1 => release(),
        left => HELD.set(left - 1),
    }
}

/// Whether the signal is held back from this thread.
pub(crate) fn is_held() -> bool {
    HELD.get() > 0
}

/// Lets the signal through: what came meanwhile comes now.
pub(crate) fn release() {
    if HELD.replace(0) > 0 {
        let _ = SigSet::from(Signal::SIGCHLD).thread_unblock();
    }
}

/// In a forked child, which has nothing to hold it back for: lets it through in the mask that is to be set.
pub(crate) fn release_in(mask: &mut SigSet) {
    if HELD.replace(0) > 0 {
        mask.remove(Signal::SIGCHLD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_blocked() -> bool {
        SigSet::thread_get_mask().unwrap().contains(Signal::SIGCHLD)
    }

    #[test]
    fn it_is_blocked_as_long_as_it_is_held() {
        may_be_held(true);
        hold();
        assert!(is_held() && is_blocked());
        release();
        assert!(!is_held() && !is_blocked());
    }

    #[test]
    fn it_is_let_through_now_and_then() {
        may_be_held(true);
        for _ in 0..MOST {
            hold();
            assert!(is_blocked());
        }
        hold();
        assert!(!is_blocked());
    }

    #[test]
    fn it_is_not_held_back_where_others_would_be_interrupted() {
        may_be_held(false);
        hold();
        assert!(!is_held() && !is_blocked());
    }
}

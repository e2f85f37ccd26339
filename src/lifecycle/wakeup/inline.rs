//! The requests that are served by the threads which should see to the end of the server.

use super::Wakeup;
use crate::lifecycle::inline::Inline;

impl Wakeup {
    /// A thread that would see to the drain serves a request itself.
    pub(crate) fn begin_inline(&self, inline: Inline) {
        self.inline.begin(inline);
        // Whoever told it may have looked before.
        if self.is_told_to_stop() {
            self.attend_inline();
        }
    }

    /// As [`begin_inline`](Self::begin_inline), for a datagram.
    pub(crate) fn begin_inline_datagram(&self) {
        self.inline.begin_datagram();
    }

    pub(crate) fn end_inline_datagram(&self) {
        self.inline.end_datagram();
    }

    /// Before its socket is closed.
    pub(crate) fn end_inline(&self, number: u64) {
        self.inline.end(number);
        // Whoever had something to tell the others may have found this thread at them.
        if self.is_told_to_stop() {
            self.attend_inline();
        }
    }

    pub(super) fn attend_inline(&self) {
        loop {
            let forced = self.is_forced();
            // Whoever finds another at them leaves it to that one, who looks again.
            if !self.inline.try_attend(forced) || forced == self.is_forced() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::eventfd::EfdFlags;

    use super::super::event;
    use super::*;

    #[test]
    fn what_a_parent_serves_itself_does_not_keep_its_child_busy() {
        let into_child: [fn(&Wakeup); 2] = [Wakeup::enter_child, |wakeup| {
            wakeup.renew(&event(EfdFlags::empty()).unwrap(), false).unwrap();
        }];
        for enter in into_child {
            let wakeup = Wakeup::new().unwrap();
            wakeup.begin_inline_datagram();
            enter(&wakeup);
            assert_eq!(wakeup.inline.is_busy(), Some(false));
        }
    }
}

//! What goes on in a request, as far as others may want to know.

use std::os::fd::RawFd;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};

use crate::address::Address;
use crate::mutex::Mutex;

/// The handler got bytes and has written nothing since: it is in the middle of a message.
const ASKED: u8 = 1;
/// A message has been answered, or none is to be waited for.
const ANSWERED: u8 = 2;
/// The handler is in a read.
const READING: u8 = 4;
/// A [`Framed`](crate::framing::Framed) reads the rest of a message, whose beginning it has. What another thread writes
/// meanwhile answers nothing of it.
const IN_MESSAGE: u8 = 8;

/// Where a connection is in its conversation, as seen from what its handler reads and writes: new, active
/// or idle, as `ConnState` of Go's `net/http` has it.
///
/// It is idle while the handler waits in a read, something has been answered, and nothing has come since. Not so if
/// that read is known to be for the rest of a message.
/// A connection whose client has not said anything yet is not: it gets its first answer.
///
/// The thread that reads and the one that drains look at each other: the reader says that it reads, then
/// looks whether the server drains; the other says that the server drains, then looks who reads. All of it
/// is `SeqCst`, so at least one sees the other, and no connection is forgotten.
///
/// And the bytes that went through it, and whose it is if its handler knows better.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    bits: AtomicU8,
    received: AtomicU64,
    sent: AtomicU64,
    /// Boxed: few have one.
    client_address: Mutex<Option<Box<Address>>>,
}

impl Activity {
    /// The handler got bytes.
    pub(crate) fn asked(&self) {
        if self.bits.load(Ordering::Relaxed) & ASKED == 0 {
            self.bits.fetch_or(ASKED, Ordering::SeqCst);
        }
    }

    /// The handler wrote. True if that has made the connection idle: another thread is in a read. What it writes
    /// `in_setup` (a handshake) leaves the connection as new as it was.
    pub(crate) fn answered(&self, in_setup: bool) -> bool {
        // A greeting, or more of the same answer.
        if self.bits.load(Ordering::Relaxed) & ASKED == 0 {
            return false;
        }
        self.end_message(if in_setup { 0 } else { ANSWERED });
        !in_setup && self.is_idle()
    }

    /// The handler is done with what has come, if anything has: nothing is expected of the client.
    pub(crate) fn ended(&self) {
        self.end_message(ANSWERED);
    }

    fn end_message(&self, answered: u8) {
        let ended = |bits| (bits & !ASKED) | answered;
        self.bits.update(Ordering::SeqCst, Ordering::Relaxed, ended);
    }

    /// The handler is about to read. True if the connection is idle by that.
    pub(crate) fn begin_read(&self) -> bool {
        self.bits.fetch_or(READING, Ordering::SeqCst) == ANSWERED
    }

    pub(crate) fn end_read(&self) {
        self.bits.fetch_and(!READING, Ordering::SeqCst);
    }

    /// The reads that follow are for the rest of a message, or are not any more.
    pub(crate) fn set_in_message(&self, in_message: bool) {
        if in_message {
            self.bits.fetch_or(IN_MESSAGE, Ordering::SeqCst);
        } else {
            self.bits.fetch_and(!IN_MESSAGE, Ordering::SeqCst);
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.bits.load(Ordering::SeqCst) == ANSWERED | READING
    }

    /// The server drains: an idle connection, whose socket this is, gets an end of stream. Not one whose next message
    /// has begun to arrive: the read that it is in, or begins, gets that, and at the next one it looks whether the
    /// server drains. For signal handlers, too.
    pub(crate) fn end_if_idle(&self, socket: RawFd) {
        let has_arrived =
            || recv(socket, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT).is_ok_and(|count| count > 0);
        // Idle still: what had arrived may have been read just before it was looked for.
        if self.is_idle() && !has_arrived() && self.is_idle() {
            // It fails where the peer has gone already, which is as good.
            let _ = shutdown(socket, Shutdown::Read);
        }
    }

    pub(crate) fn set_client_address(&self, client_address: Address, in_child: bool) {
        if let Some(mut known) = self.lock_client_address(in_child) {
            *known = Some(Box::new(client_address));
        }
    }

    /// As its handler has set it.
    pub(super) fn client_address(&self, in_child: bool) -> Option<Address> {
        self.lock_client_address(in_child)?.as_deref().cloned()
    }

    /// A thread of the parent's that looked at the connections may have locked it when this forked child was made,
    /// which does not have that thread: it does without.
    fn lock_client_address(&self, in_child: bool) -> Option<MutexGuard<'_, Option<Box<Address>>>> {
        if in_child {
            self.client_address.try_lock()
        } else {
            Some(self.client_address.lock())
        }
    }

    pub(crate) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// All bytes there are came at once.
    pub(crate) fn set_received(&self, bytes: usize) {
        self.received.store(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_idle_between_an_answer_and_the_next_message() {
        let activity = Activity::default();
        let reads_idly = || {
            let idle = activity.begin_read();
            assert_eq!(activity.is_idle(), idle);
            activity.end_read();
            assert!(!activity.is_idle());
            idle
        };
        assert!(!reads_idly(), "new");
        assert!(!activity.answered(false), "a greeting");
        assert!(!reads_idly(), "greeted");
        activity.asked();
        assert!(!reads_idly(), "in the middle of a message");
        assert!(!activity.answered(false));
        assert!(reads_idly(), "answered");
        activity.asked();
        assert!(!reads_idly(), "in the middle of the next message");
    }

    #[test]
    fn a_connection_that_was_set_up_is_new() {
        let activity = Activity::default();
        activity.asked();
        assert!(!activity.answered(true));
        assert!(!activity.answered(false), "a greeting");
        assert!(!activity.begin_read(), "greeted");
    }

    #[test]
    fn a_connection_of_which_nothing_is_expected_is_idle_although_it_is_new() {
        let activity = Activity::default();
        activity.ended();
        assert!(activity.begin_read());
    }

    #[test]
    fn an_answer_from_another_thread_makes_a_reading_connection_idle() {
        let activity = Activity::default();
        activity.asked();
        activity.begin_read();
        assert!(activity.answered(false));
        assert!(activity.is_idle());
    }

    #[test]
    fn a_forked_child_does_not_wait_for_a_thread_of_its_parents() {
        let activity = Activity::default();
        let _locked = activity.client_address.lock();
        activity.set_client_address("a client".into(), true);
        assert_eq!(activity.client_address(true), None);
    }

    #[test]
    fn what_another_thread_writes_in_the_middle_of_a_message_makes_nothing_idle() {
        let activity = Activity::default();
        activity.asked();
        activity.set_in_message(true);
        activity.begin_read();
        assert!(!activity.answered(false));
        activity.end_read();
        activity.asked();
        activity.set_in_message(false);
        assert!(!activity.begin_read(), "the whole of it");
        assert!(activity.answered(false));
    }
}

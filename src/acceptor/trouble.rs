//! When accepting fails: what each error calls for, and doing that.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{SockaddrStorage, getpeername, getsockopt, sockopt};

use super::Acceptor;
use super::backoff::Attempt;
use super::turn::{Turn, may_accept};
use crate::error::errno;
use crate::lifecycle::Wakeup;
use crate::sys;
use crate::transport::{SocketType, Transport};

/// What to do about an error of accept(2) or recvmsg(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    /// There was nothing after all.
    Wait,
    /// It was one connection's trouble; the next may be fine.
    Retry,
    /// Descriptors or memory have run out, or an error unknown to us: try again later.
    BackOff,
    /// The socket itself is broken.
    GiveUp,
}

/// The table of accept(2)'s errors, and of those of recvmsg(2) on a datagram socket.
fn remedy(error: &io::Error) -> Remedy {
    let Some(errno) = errno(error) else {
        return remedy_without_number(error.kind());
    };
    match errno {
        Errno::EAGAIN => Remedy::Wait,

        // Linux hands a connection's pending network errors to accept as its own ("Error handling" in
        // accept(2) lists these eight for TCP); they say nothing about the listener.
        Errno::ENETDOWN
        | Errno::EPROTO
        | Errno::ENOPROTOOPT
        | Errno::EHOSTDOWN
        | Errno::ENONET
        | Errno::EHOSTUNREACH
        | Errno::EOPNOTSUPP
        | Errno::ENETUNREACH
        // The connection is gone, has timed out, or is forbidden by a firewall; a signal came.
        | Errno::ECONNABORTED
        | Errno::ECONNRESET
        | Errno::ETIMEDOUT
        | Errno::EPERM
        | Errno::EINTR
        // An ICMP message about a datagram that was sent from the socket, where that is connected or has IP_RECVERR
        // (udp(7)): nobody there, too long for the path, or, over IPv6, forbidden.
        | Errno::ECONNREFUSED
        | Errno::EMSGSIZE
        | Errno::EACCES => Remedy::Retry,

        Errno::EBADF | Errno::EINVAL | Errno::ENOTSOCK => Remedy::GiveUp,

        // EMFILE, ENFILE, ENOBUFS, ENOMEM. "Various Linux kernels can return other errors such as ENOSR,
        // ESOCKTNOSUPPORT, EPROTONOSUPPORT"; whatever else there may be, the listener is still there.
        _ => Remedy::BackOff,
    }
}

/// Of an error that was made by a transport or a `get_request` of the user's: about a connection, if its kind is that
/// of one.
fn remedy_without_number(kind: io::ErrorKind) -> Remedy {
    match kind {
        io::ErrorKind::WouldBlock => Remedy::Wait,
        io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::Interrupted
        | io::ErrorKind::TimedOut => Remedy::Retry,
        _ => Remedy::BackOff,
    }
}

/// Whether it says what became of a datagram that was sent: each such report is told once, and there may be as many of
/// them as were sent. But what forbids receiving (a security module) says so each time, with one of the same errors,
/// and so may a `get_request` of one's own, where the socket has no reports.
fn is_report<T: Transport>(error: &io::Error, socket: BorrowedFd<'_>) -> bool {
    T::SOCKET_TYPE == SocketType::Datagram
        && sys::may_be_of_an_earlier(error)
        && error.kind() != io::ErrorKind::PermissionDenied
        && has_reports(socket)
}

/// Whether the system tells it what became of its datagrams (udp(7)).
fn has_reports(socket: BorrowedFd<'_>) -> bool {
    let asks =
        getsockopt(&socket, sockopt::Ipv4RecvErr) == Ok(true) || getsockopt(&socket, sockopt::Ipv6RecvErr) == Ok(true);
    asks || getpeername::<SockaddrStorage>(socket.as_raw_fd()).is_ok()
}

/// Of this process, or of the whole system.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(errno(error), Some(Errno::EMFILE | Errno::ENFILE))
}

impl<T: Transport> Acceptor<T> {
    /// Does what the error of an attempt calls for, which may be a pause of at most `timeout`. `refusing`: new requests
    /// are refused, so an empty queue is the end of it.
    #[cold]
    pub(super) fn after_error(
        &self,
        error: &io::Error,
        attempt: Attempt,
        wakeup: &Wakeup,
        timeout: Option<Duration>,
        refusing: bool,
    ) -> io::Result<Turn<T>> {
        match remedy(error) {
            Remedy::Wait => {
                // It takes a descriptor to see that there is nothing: if they had run out, that is over.
                self.backoffs.accepting.succeeded(attempt);
                if refusing {
                    return Ok(self.stopped());
                }
                self.back_with_nothing(wakeup)?;
                Ok(Turn::Nothing)
            }
            Remedy::Retry if self.is_report(error) || self.backoffs.accepting.take_retry() => {
                log::debug!("accept: {error}");
                Ok(Turn::Again)
            }
            Remedy::BackOff if is_out_of_descriptors(error) && self.spare_descriptors(wakeup)? => Ok(Turn::Again),
            // That the queue is empty can be seen without the descriptor that accepting lacks.
            Remedy::Retry | Remedy::BackOff if refusing && !self.server.core().has_queued() => Ok(self.stopped()),
            Remedy::Retry | Remedy::BackOff => {
                // The descriptors of rejected clients may be what is missing.
                self.server.core().linger().close_all(&*self.server);
                self.back_off(error, timeout)?;
                Ok(Turn::Nothing)
            }
            // Another acceptor has found the queue empty, and it is closed.
            Remedy::GiveUp if wakeup.is_stopping() || self.takes_order(wakeup) => Ok(self.stopped()),
            Remedy::GiveUp => Err(broken(error.kind(), error)),
        }
    }

    fn is_report(&self, error: &io::Error) -> bool {
        let transport = self.server.core().transport();
        transport.is_some_and(|transport| is_report::<T>(error, transport.socket().as_fd()))
    }

    /// From now on nobody sleeps in accept(2), before whose wait Linux takes a descriptor: those who sleep may have all
    /// that were free, and others who wait for the same client, awake, would not get one. Nor are any spent on more
    /// sets. True if somebody may have slept till now.
    fn spare_descriptors(&self, wakeup: &Wakeup) -> io::Result<bool> {
        self.server.core().waiter()?.spare_descriptors();
        Ok(wakeup.sleepers().is_some_and(|sleepers| {
            let slept = sleepers.turn_off();
            if slept {
                sleepers.wait_until_out(|| true);
            }
            slept
        }))
    }

    /// There was nothing to accept. If this thread has slept in the call, it was perhaps woken for something else,
    /// which the next turn looks for.
    fn back_with_nothing(&self, wakeup: &Wakeup) -> io::Result<()> {
        let core = self.server.core();
        let Some(transport) = core.transport() else {
            return Ok(());
        };
        let Some(sleepers) = wakeup.sleepers().filter(|sleepers| sleepers.is_on()) else {
            return self.check_not_shut_down();
        };
        // Takes the wake-up, if there is one.
        core.waiter()?
            .wait(0, transport.socket(), wakeup, Some(Duration::ZERO))?;
        sleepers.rearm(|| may_accept(core.shared()));
        Ok(())
    }

    /// A socket that was shut down for reading, as others who have it may do, is always readable and has nothing:
    /// waiting for it would keep the processor busy. (A TCP listener needs no look: accepting from it fails.)
    ///
    /// # Errors
    ///
    /// It was shut down, and not by this server, which does that only when it stops. (In a worker it may have been the
    /// master, which stops and has not told it yet.)
    fn check_not_shut_down(&self) -> io::Result<()> {
        let (core, shared) = (self.server.core(), self.shared());
        let by_master = shared.master().is_some() && !core.is_ready_made();
        if by_master || !core.is_shut_down() || shared.is_stopping() {
            return Ok(());
        }
        Err(broken(io::ErrorKind::InvalidInput, &"it was shut down for reading"))
    }

    /// In a worker: whether its master has told it to end, which it then obeys. The order is there before the listener
    /// is shut down; the signal that comes with it may still be on its way, to another thread.
    fn takes_order(&self, wakeup: &Wakeup) -> bool {
        let master = self.shared().master().filter(|master| master.has_order());
        if let Some(master) = &master {
            master.obey(wakeup);
        }
        master.is_some()
    }

    /// Waits before accepting again, at most `timeout`: a wake-up, or being told to stop, ends it early. Not a place:
    /// that is for an acceptor that has none.
    pub(super) fn back_off(&self, error: &io::Error, timeout: Option<Duration>) -> io::Result<()> {
        let delay = self.backoffs.accepting.next(error);
        let delay = timeout.map_or(delay, |timeout| delay.min(timeout));
        let wakeup = self.shared().wakeup()?;
        let _left = self.shared().master().map(|master| master.leave_request());
        if wakeup.is_stopping() {
            return wakeup.wait(delay);
        }
        wakeup.wait_stop(Some(delay))
    }
}

fn broken(kind: io::ErrorKind, why: &dyn fmt::Display) -> io::Error {
    io::Error::new(kind, format!("the listening socket is broken: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_accept_has_its_remedy() {
        let table: [(Remedy, &[Errno]); 4] = [
            (Remedy::Wait, &[Errno::EAGAIN, Errno::EWOULDBLOCK]),
            (
                Remedy::Retry,
                &[
                    Errno::EACCES,
                    Errno::ECONNABORTED,
                    Errno::ECONNREFUSED,
                    Errno::ECONNRESET,
                    Errno::EHOSTDOWN,
                    Errno::EHOSTUNREACH,
                    Errno::EINTR,
                    Errno::EMSGSIZE,
                    Errno::ENETDOWN,
                    Errno::ENETUNREACH,
                    Errno::ENONET,
                    Errno::ENOPROTOOPT,
                    Errno::EOPNOTSUPP,
                    Errno::EPERM,
                    Errno::EPROTO,
                    Errno::ETIMEDOUT,
                ],
            ),
            (
                Remedy::BackOff,
                &[
                    Errno::EMFILE,
                    Errno::ENFILE,
                    Errno::ENOBUFS,
                    Errno::ENOMEM,
                    Errno::ENOSR,
                    Errno::EPROTONOSUPPORT,
                    Errno::ESOCKTNOSUPPORT,
                    Errno::EFAULT,
                ],
            ),
            (Remedy::GiveUp, &[Errno::EBADF, Errno::EINVAL, Errno::ENOTSOCK]),
        ];
        for (expected, errors) in table {
            for errno in errors {
                assert_eq!(remedy(&(*errno).into()), expected, "{errno}");
            }
        }
        assert_eq!(remedy(&io::Error::other("a transport's own")), Remedy::BackOff);
    }

    #[test]
    fn what_a_transport_of_ones_own_says_of_one_connection_is_no_trouble_of_the_listener() {
        for kind in [
            io::ErrorKind::ConnectionAborted,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::Interrupted,
            io::ErrorKind::TimedOut,
        ] {
            assert_eq!(remedy(&kind.into()), Remedy::Retry, "{kind}");
            assert_eq!(
                remedy(&io::Error::new(kind, "no PROXY header")),
                Remedy::Retry,
                "{kind}"
            );
        }
        assert_eq!(remedy(&io::ErrorKind::WouldBlock.into()), Remedy::Wait);
    }
}

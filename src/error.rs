//! What goes wrong: with one request, and with binding.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::process::ExitStatus;

use nix::errno::Errno;

use crate::address::Address;
use crate::observer::Outcome;
use crate::timeouts::TimeoutError;

/// What a handler may fail with: any error, boxed. `?` makes one of any error type, `.into()` of text.
pub type HandlerError = Box<dyn Error + Send + Sync>;

/// What each step of a handler returns.
pub type HandlerResult = Result<(), HandlerError>;

/// How far a request had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// [`verify_request`](crate::BaseServer::verify_request) was deciding.
    Verify,
    /// [`process_request`](crate::BaseServer::process_request) was handing it to a thread or process.
    Process,
    /// The handler's [`setup`](crate::BaseRequestHandler::setup).
    Setup,
    /// The handler's [`handle`](crate::BaseRequestHandler::handle), or what a
    /// [`finish_request`](crate::BaseServer::finish_request) does beside its handler.
    Handle,
    /// The handler's [`finish`](crate::BaseRequestHandler::finish), or the flush that follows it.
    Finish,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Verify => "verify_request",
            Phase::Process => "process_request",
            Phase::Setup => "setup",
            Phase::Handle => "handle",
            Phase::Finish => "finish",
        })
    }
}

/// Why a request failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Cause {
    /// A step returned an error.
    Error(HandlerError),
    /// A step panicked; the payload as [`std::panic::catch_unwind`] gives it.
    Panic(Box<dyn Any + Send>),
    /// The request's process ended by a signal or with a status of its own. An error or a panic in the
    /// child is reported there, in the child.
    Exit(ExitStatus),
}

/// A request that failed, as [`handle_error`](crate::BaseServer::handle_error) gets it.
///
/// Its text is one line, unless that of the error has several: `handle failed for 127.0.0.1:40312: Broken pipe (os error
/// 32)`. By default it goes to the `log` crate, so
/// whoever wants to see it installs a logger (`env_logger` or another), or overrides the hook:
///
/// ```
/// use socketserver::prelude::*;
///
/// /// Prints what went wrong, as Python does.
/// struct Printing<S>(S);
///
/// impl<S: BaseServer> BaseServer for Printing<S> {
///     type Transport = S::Transport;
///     type Inner = S;
///     fn inner(&self) -> &S {
///         &self.0
///     }
///
///     fn handle_error(&self, error: &RequestError) {
///         if !error.is_disconnect() {
///             eprintln!("{error}");
///         }
///     }
/// }
///
/// let handler = |_: &mut TcpRequest| Err::<(), _>("not today");
/// let server = Printing(TcpServer::new("127.0.0.1:0", handler)).threading();
/// ```
#[derive(Debug)]
pub struct RequestError {
    phase: Phase,
    client_address: Address,
    cause: Cause,
}

impl RequestError {
    pub(crate) fn new(phase: Phase, client_address: Address, cause: Cause) -> Self {
        RequestError {
            phase,
            client_address,
            cause,
        }
    }

    /// How far the request had come.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whose request it was.
    pub fn client_address(&self) -> &Address {
        &self.client_address
    }

    /// Why it failed.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// The I/O error behind it, if there is one anywhere in its chain of sources.
    pub fn io_error(&self) -> Option<&io::Error> {
        let Cause::Error(error) = &self.cause else { return None };
        let mut error: Option<&(dyn Error + 'static)> = Some(error.as_ref());
        while let Some(current) = error {
            if let Some(found) = current.downcast_ref() {
                return Some(found);
            }
            error = current.source();
        }
        None
    }

    /// The clock that ran out, of [`Timeouts`](crate::Timeouts) or of a message, if that is why it failed.
    pub fn timeout(&self) -> Option<&TimeoutError> {
        self.io_error()?.get_ref()?.downcast_ref()
    }

    /// Whether the client's leaving explains it: a reset, a broken pipe, an end in the middle of a
    /// message, a timeout. Such errors are the network's daily life and are logged lower than faults.
    pub fn is_disconnect(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, TimedOut, UnexpectedEof};
        self.io_error().is_some_and(|error| {
            matches!(
                error.kind(),
                BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | TimedOut | UnexpectedEof
            )
        })
    }

    /// How the request ended by it.
    pub(crate) fn outcome(&self) -> Outcome {
        match &self.cause {
            Cause::Error(_) => Outcome::Failed,
            Cause::Panic(_) => Outcome::Panicked,
            Cause::Exit(status) => Outcome::Exited(*status),
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RequestError {
            phase,
            client_address,
            cause,
        } = self;
        match cause {
            Cause::Error(error) => write!(f, "{phase} failed for {client_address}: {error}"),
            Cause::Panic(payload) => {
                write!(
                    f,
                    "{phase} panicked for {client_address}: {}",
                    panic_message(payload.as_ref())
                )
            }
            Cause::Exit(status) => write!(f, "the process serving {client_address} ended: {status}"),
        }
    }
}

impl Error for RequestError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.cause {
            Cause::Error(error) => Some(error.as_ref()),
            Cause::Panic(_) | Cause::Exit(_) => None,
        }
    }
}

/// The text of a panic, if it had one.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "(no message)"
    }
}

/// Where to look if a thread or a process cannot be started: the system's error (EAGAIN) does not tell which it was.
pub(crate) const LIMITS_OF_TASKS: &str = "what limits them: ulimit -u, pids.max of the cgroup, memory";

/// There is no room for another one of `what`: says where to look. The kind of the error stays.
pub(crate) fn no_room_for(what: &str, error: &io::Error) -> io::Error {
    let text = format!("{error}: the system has no room for another {what} ({LIMITS_OF_TASKS})");
    io::Error::new(error.kind(), text)
}

/// What was asked for makes no sense: `text` says why, and what to do.
pub(crate) fn invalid_input(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text.into())
}

/// Binding or listening failed: what the system said, at which address, and what to do.
struct BindError {
    address: Address,
    source: io::Error,
}

impl BindError {
    /// The system's words, without Rust's `(os error N)`.
    fn description(&self) -> String {
        match self.source.raw_os_error() {
            Some(errno) => Errno::from_raw(errno).desc().to_owned(),
            None => self.source.to_string(),
        }
    }

    fn advice(&self) -> &'static str {
        match self.source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EADDRINUSE) if self.address.ip().is_some_and(|ip| ip.is_unspecified()) => {
                "another socket is bound there (one at [::] has IPv4 clients, too, unless it has only_v6(true)); stop that \
                 program, choose another address, or port 0 for any free port"
            }
            Some(Errno::EADDRINUSE) if self.address.ip().is_some() => {
                "another socket is bound there; stop that program, choose another address, or port 0 for any free port"
            }
            Some(Errno::EADDRINUSE) => "another socket is bound there; stop that program, or choose another name",
            Some(Errno::EADDRNOTAVAIL) => "no interface of this machine has that address",
            Some(Errno::EINVAL) if self.is_link_local() => {
                "an address of a link needs its interface, which `ip address` tells: [fe80::1%eth0]:8080"
            }
            Some(Errno::ENODEV) => "no interface has the number behind its `%`; `ip link` tells those there are",
            Some(Errno::EACCES | Errno::EPERM) if self.address.ip().is_some() => {
                "no permission; ports below 1024 need root or CAP_NET_BIND_SERVICE"
            }
            Some(Errno::EACCES) => "no permission; a path needs write permission on its directory",
            Some(Errno::EPERM) => {
                "no permission; in a directory for everybody (sticky, such as /tmp) only its owner replaces what is there"
            }
            Some(Errno::ENOENT) if self.ends_in_slash() => "a path that ends in `/` is a directory's; write it without",
            Some(Errno::ENOENT) => "its directory does not exist; create it first",
            Some(Errno::ENOTDIR) => "a part of the path before its last is not a directory",
            Some(Errno::EROFS) => "the file system is read-only",
            Some(Errno::EAFNOSUPPORT) => "this machine has no support for that address family",
            Some(Errno::EMFILE) => "this process has no free file descriptor; raise its limit (ulimit -n)",
            Some(Errno::ENFILE) => "the system has no free file descriptor",
            _ => "the server cannot listen there",
        }
    }

    /// It means something on one link only (RFC 4291, 2.5.6 and 2.7).
    fn is_link_local(&self) -> bool {
        match self.address.ip() {
            Some(IpAddr::V6(ip)) => ip.is_unicast_link_local() || ip.segments()[0] == 0xff02,
            _ => false,
        }
    }

    fn ends_in_slash(&self) -> bool {
        let path = self.address.path();
        path.is_some_and(|path| path.as_os_str().as_encoded_bytes().ends_with(b"/"))
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.description(), self.address, self.advice())
    }
}

/// The same text: what `main` returns is shown so, and the advice is for whoever reads that.
impl fmt::Debug for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), f)
    }
}

impl Error for BindError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// Adds the address and some advice to an error of binding, listening, or what a server needs for that; its kind stays.
pub(crate) fn bind_error(address: &Address, source: impl Into<io::Error>) -> io::Error {
    let source = source.into();
    io::Error::new(
        source.kind(),
        BindError {
            address: address.clone(),
            source,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(cause: Cause) -> RequestError {
        RequestError::new(Phase::Handle, "127.0.0.1:1".into(), cause)
    }

    #[test]
    fn an_io_error_is_found_behind_other_errors() {
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        let wrapped = io::Error::new(io::ErrorKind::InvalidData, reset);
        assert!(!failed(Cause::Error("text".into())).is_disconnect());
        assert_eq!(
            failed(Cause::Error(wrapped.into())).io_error().unwrap().kind(),
            io::ErrorKind::InvalidData
        );
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        assert!(failed(Cause::Error(reset().into())).is_disconnect());
        // Of an error of another type it is the source.
        let other = bind_error(&"127.0.0.1:1".into(), reset()).into_inner();
        assert!(failed(Cause::Error(other.expect("a BindError"))).is_disconnect());
    }

    /// What the network does each day is logged lower than faults.
    #[test]
    fn a_clients_leaving_is_told_from_a_fault() {
        use io::ErrorKind::{
            AddrInUse, BrokenPipe, ConnectionAborted, ConnectionReset, InvalidData, NotConnected, PermissionDenied,
            TimedOut, UnexpectedEof,
        };
        let is_disconnect = |kind: &io::ErrorKind| failed(Cause::Error(io::Error::from(*kind).into())).is_disconnect();
        let leaving = [
            BrokenPipe,
            ConnectionAborted,
            ConnectionReset,
            NotConnected,
            TimedOut,
            UnexpectedEof,
        ];
        assert_eq!(leaving.map(|kind| is_disconnect(&kind)), [true; 6]);
        assert!(![AddrInUse, InvalidData, PermissionDenied].iter().any(is_disconnect));
        assert!(!failed(Cause::Panic(Box::new("BrokenPipe"))).is_disconnect());
    }

    #[test]
    fn a_bind_error_keeps_its_kind_and_names_the_address() {
        let error = bind_error(&"127.0.0.1:80".into(), Errno::EADDRINUSE);
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(
            error.to_string().starts_with("Address already in use (127.0.0.1:80): "),
            "{error}"
        );
    }

    /// So `main` shows it, if that returns it.
    #[test]
    fn a_bind_error_has_its_advice_in_its_debug_form_too() {
        let error = bind_error(&"127.0.0.1:80".into(), Errno::EADDRINUSE);
        let text = format!("{error:?}");
        assert!(
            text.contains("Address already in use (127.0.0.1:80): another socket"),
            "{text}"
        );
    }

    #[test]
    fn a_read_only_file_system_is_told() {
        let text = bind_error(&"127.0.0.1:80".into(), Errno::EROFS).to_string();
        assert!(text.ends_with(": the file system is read-only"), "{text}");
    }

    #[test]
    fn the_source_of_a_failure_is_the_error_of_its_handler() {
        let error = failed(Cause::Error("not today".into()));
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("not today"));
        assert!(failed(Cause::Panic(Box::new("not today"))).source().is_none());
    }

    #[test]
    fn a_failure_is_told_in_one_line() {
        let error = failed(Cause::Panic(Box::new("out of cheese")));
        assert_eq!(error.to_string(), "handle panicked for 127.0.0.1:1: out of cheese");
    }
}

//! What goes wrong with one request.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::io;
use std::process::ExitStatus;

use crate::address::Address;
use crate::observer::Outcome;
use crate::panics::panic_message;
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
/// Its text is one line, unless that of the error has several:
/// `handle failed for 127.0.0.1:40312: Broken pipe (os error 32)`. By default it goes to the `log` crate, so
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::bind_error;

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

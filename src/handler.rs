//! What a request does: setup, handle, finish.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::error::{HandlerError, HandlerResult, Phase};
use crate::panics::discard;
use crate::request::Request;

/// Handles requests of the type `R`: Python's `BaseRequestHandler`, `StreamRequestHandler` and
/// `DatagramRequestHandler` in one, because what those add is in the request here.
///
/// The value given to `new` is what the class is in Python (`RequestHandlerClass`): each request works
/// on its own clone of it. What [`setup`](Self::setup) stores in `self` is there in
/// [`handle`](Self::handle) and [`finish`](Self::finish) and gone with the request; what all requests
/// share is an `Arc` in a field.
///
/// 1. [`setup`](Self::setup), then, if it succeeded, [`handle`](Self::handle), then, whatever that did,
///    [`finish`](Self::finish). All three run on the thread or in the process that the strategy chose,
///    while the connection is open.
/// 2. What was written is flushed (a datagram reply is sent), also when `handle` or `finish` failed, but not when
///    `setup` did. Then the connection is closed.
/// 3. An error or a panic of a step reaches [`handle_error`](crate::BaseServer::handle_error), once.
///
/// ```
/// use std::io::{BufRead, Write};
/// use socketserver::prelude::*;
///
/// /// Answers each line with its length. Written for any stream, so it serves TCP and Unix sockets and
/// /// can be tested in memory.
/// #[derive(Clone)]
/// struct Lengths;
///
/// impl<S: Stream> BaseRequestHandler<StreamRequest<S>> for Lengths {
///     fn handle(&mut self, request: &mut StreamRequest<S>) -> HandlerResult {
///         let mut line = String::new();
///         while request.read_line(&mut line)? > 0 {
///             writeln!(request, "{}", line.trim_end().len())?;
///             line.clear();
///         }
///         Ok(())
///     }
/// }
///
/// let server = ThreadingTcpServer::new("127.0.0.1:0", Lengths);
///
/// let mut request = StreamRequest::new(MemoryStream::new("four\nseven77\n"), "a client");
/// socketserver::run_handler(&Lengths, &mut request)?;
/// assert_eq!(request.get_ref().written(), b"4\n7\n");
/// # Ok::<(), HandlerError>(())
/// ```
///
/// A closure is a handler too; its argument's type says for which requests:
///
/// ```
/// use std::io::Write;
/// use socketserver::prelude::*;
///
/// let server = TcpServer::new("127.0.0.1:0", |request: &mut TcpRequest| request.write_all(b"hello\n"));
/// ```
///
/// It is cloned for each request, too, with what it has captured by `move`: a counter that it changes is what it was at
/// first for the next one. The compiler says nothing about that; an `Arc<AtomicU64>` counts.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle `{R}`",
    label = "is no handler of `{R}`",
    note = "a handler implements `BaseRequestHandler<{R}>`, or is a closure or function of `&mut {R}` that returns \
            nothing or `Result<(), E>`",
    note = "it has to be `Clone`, `Send`, `Sync` and `'static`, and so has all that a closure captures: each request \
            works on a clone, perhaps on another thread; what requests share goes into an `Arc`"
)]
pub trait BaseRequestHandler<R>: Clone + Send + Sync + 'static {
    /// Prepares; does nothing unless overridden. After an error here neither `handle` nor `finish` runs, as in Python,
    /// and what is gathered ([`set_wbufsize`](crate::StreamRequest::set_wbufsize)) is not sent.
    ///
    /// # Errors
    ///
    /// Whatever makes serving this request pointless.
    fn setup(&mut self, request: &mut R) -> HandlerResult {
        let _ = request;
        Ok(())
    }

    /// Serves the request.
    ///
    /// # Errors
    ///
    /// Whatever goes wrong; the connection is closed and the server goes on.
    fn handle(&mut self, request: &mut R) -> HandlerResult;

    /// Cleans up; does nothing unless overridden. Runs when `handle` failed or panicked, too.
    ///
    /// # Errors
    ///
    /// Whatever goes wrong; after a failed `handle` that one's error is reported, not this one's.
    fn finish(&mut self, request: &mut R) -> HandlerResult {
        let _ = request;
        Ok(())
    }
}

// Whoever forgot to implement the trait, or did so for another request, reads of handlers instead of closures.
#[diagnostic::do_not_recommend]
impl<R, F, O> BaseRequestHandler<R> for F
where
    F: FnMut(&mut R) -> O + Clone + Send + Sync + 'static,
    O: IntoHandlerResult,
{
    fn handle(&mut self, request: &mut R) -> HandlerResult {
        self(request).into_handler_result()
    }
}

/// What a closure that is a handler may return: nothing, or a `Result` with any error type. It need not return at all.
pub trait IntoHandlerResult {
    /// As a handler's result.
    ///
    /// # Errors
    ///
    /// The error that `self` is, boxed.
    fn into_handler_result(self) -> HandlerResult;
}

impl IntoHandlerResult for () {
    fn into_handler_result(self) -> HandlerResult {
        Ok(())
    }
}

/// What a closure returns that never does: `todo!()`, a panic, an endless loop.
impl IntoHandlerResult for never::Never {
    fn into_handler_result(self) -> HandlerResult {
        self
    }
}

impl<E: Into<HandlerError>> IntoHandlerResult for Result<(), E> {
    fn into_handler_result(self) -> HandlerResult {
        self.map_err(Into::into)
    }
}

/// The type `!`, which stable Rust has no other name for.
mod never {
    pub(super) type Never = <fn() -> ! as Returns>::Type;

    pub trait Returns {
        type Type;
    }

    impl<T> Returns for fn() -> T {
        type Type = T;
    }
}

/// Runs a clone of `handler` on `request` as a server does: setup, handle, finish, flush. For unit tests of handlers,
/// with a request in memory; for another handler than the server's, in
/// [`finish_request`](crate::BaseServer::finish_request); for a stream
/// [around another](crate::Stream#a-stream-around-another); and for a connection that no server has accepted, one that
/// the program has made itself or was started with (inetd, `Accept=yes` of a systemd unit):
///
/// ```
/// # use std::io::Read;
/// use std::io::Write;
/// use std::net::{TcpListener, TcpStream};
/// use socketserver::prelude::*;
///
/// fn hello(request: &mut TcpRequest) -> std::io::Result<()> {
///     request.write_all(b"I am ready")
/// }
///
/// let other_side = TcpListener::bind("127.0.0.1:0")?;
/// let stream = TcpStream::connect(other_side.local_addr()?)?;
/// let address = stream.peer_addr()?;
/// socketserver::run_handler(&hello, &mut StreamRequest::new(stream, address))?;
/// # let mut text = String::new();
/// # other_side.accept()?.0.read_to_string(&mut text)?;
/// # assert_eq!(text, "I am ready");
/// # Ok::<(), HandlerError>(())
/// ```
///
/// Such a request has the clocks that it is [given](crate::StreamRequest::set_timeouts), which run as on a server, and
/// is told of no drain. It is closed when it is dropped: if something has come that was not read, with a reset.
///
/// # Errors
///
/// That of the step that failed first.
///
/// # Panics
///
/// If the handler does.
pub fn run_handler<R: Request, H: BaseRequestHandler<R>>(handler: &H, request: &mut R) -> HandlerResult {
    request.begin_by_hand();
    run(handler, request, &mut Phase::Setup)
}

/// As [`run_handler`]; `phase` is left at the step that failed or panicked.
pub(crate) fn run<R: Request, H: BaseRequestHandler<R>>(
    prototype: &H,
    request: &mut R,
    phase: &mut Phase,
) -> HandlerResult {
    let mut handler = prototype.clone();
    match catch_unwind(AssertUnwindSafe(|| steps(&mut handler, request, phase))) {
        Ok(result) => result,
        Err(panic) => {
            if *phase == Phase::Handle {
                finish_quietly(&mut handler, request);
            }
            // Not by the panic on its way: a drop that panics, too, would abort the program.
            discard(handler);
            resume_unwind(panic)
        }
    }
}

fn steps<R: Request, H: BaseRequestHandler<R>>(handler: &mut H, request: &mut R, phase: &mut Phase) -> HandlerResult {
    *phase = Phase::Setup;
    handler.setup(request)?;
    request.setup_done();
    *phase = Phase::Handle;
    if let Err(error) = handler.handle(request) {
        finish_quietly(handler, request);
        return Err(error);
    }
    *phase = Phase::Finish;
    finish(handler, request)
}

/// Cleans up, and sends what is left whatever became of that: it is the client's.
fn finish<R: Request, H: BaseRequestHandler<R>>(handler: &mut H, request: &mut R) -> HandlerResult {
    let finished = catch_unwind(AssertUnwindSafe(|| handler.finish(request)));
    let flushed = request.flush_wfile();
    finished.unwrap_or_else(|panic| resume_unwind(panic))?;
    Ok(flushed?)
}

/// Cleans up after a failed `handle`, whose error is the one to report.
fn finish_quietly<R: Request, H: BaseRequestHandler<R>>(handler: &mut H, request: &mut R) {
    let finished = catch_unwind(AssertUnwindSafe(|| finish(handler, request)));
    if let Ok(Err(error)) = &finished {
        log::debug!("finish after a failed handle: {error}");
    }
    discard(finished);
}

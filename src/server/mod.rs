//! `BaseServer`: every hook, and the life cycle that calls them.

mod batch;
mod core;
mod socket_server;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use crate::acceptor::{Acceptor, Handled};
use crate::address::{Address, AddressFamily};
use crate::config::Config;
use crate::error::{HandlerResult, RequestError, no_room_for};
use crate::handler::BaseRequestHandler;
use crate::hooks::Outermost;
use crate::job::{Active, Force, Job};
use crate::lifecycle::{Report, Running, ServerHandle, ShutdownHandle, State, drain};
use crate::limits::{Capacity, LimitKind};
use crate::panics::guarded;
use crate::stats::Stats;
use crate::transport::{SocketType, Transport};

use self::batch::Batch;
pub use self::core::Core;
pub use socket_server::SocketServer;

/// The request type of a server.
pub type RequestOf<S> = <<S as BaseServer>::Transport as Transport>::Request;

/// How a server runs its requests beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Concurrency {
    /// One at a time, on the accept loop: the bare servers.
    None,
    /// In threads.
    Threads,
    /// In forked processes.
    Processes,
}

/// A server, or a wrapper around one: Python's `BaseServer` with all its hooks.
///
/// A server is a stack: a bare server ([`TcpServer`](crate::TcpServer), …) wrapped in a strategy
/// ([`Threading`](crate::Threading), …) and in mix-ins of your own, in any order. Every hook forwards
/// to the wrapped server unless it is overridden, as `super()` does in Python, and the framework calls
/// hooks on the outermost layer, so an override takes effect on either side of the strategy. Only
/// [`process_request`](Self::process_request) has to be outside, as in Python: it is the strategy's own.
///
/// A mix-in is three lines and the hook that it changes:
///
/// ```
/// use socketserver::prelude::*;
///
/// /// Serves clients of this machine only.
/// struct LoopbackOnly<S>(S);
///
/// impl<S: BaseServer> BaseServer for LoopbackOnly<S> {
///     type Transport = S::Transport;
///     type Inner = S;
///     fn inner(&self) -> &S {
///         &self.0
///     }
///
///     fn verify_request(&self, request: &RequestOf<Self>, client_address: &Address) -> bool {
///         client_address.ip().is_none_or(|ip| ip.is_loopback())
///             && self.inner().verify_request(request, client_address)
///     }
/// }
///
/// let handler = |_: &mut TcpRequest| {};
/// let inside = LoopbackOnly(TcpServer::new("127.0.0.1:0", handler)).threading();
/// let outside = LoopbackOnly(ThreadingTcpServer::new("127.0.0.1:0", handler));
/// ```
///
/// # Which methods are for whom
///
/// * **To call:** [`serve_forever`](Self::serve_forever), [`spawn`](Self::spawn),
///   [`bind`](Self::bind), [`handle_request`](Self::handle_request), [`close`](Self::close),
///   [`shutdown_handle`](Self::shutdown_handle), [`shutdown`](Self::shutdown),
///   [`handle`](Self::handle), [`stats`](Self::stats),
///   [`server_address`](Self::server_address), [`fileno`](Self::fileno), [`socket`](Self::socket),
///   [`config`](Self::config), the setters of [`Configure`](crate::Configure).
/// * **To override:** [`verify_request`](Self::verify_request),
///   [`reject_request`](Self::reject_request),
///   [`process_request`](Self::process_request), [`finish_request`](Self::finish_request),
///   [`handle_error`](Self::handle_error), [`handle_timeout`](Self::handle_timeout),
///   [`service_actions`](Self::service_actions), [`get_request`](Self::get_request),
///   [`shutdown_request`](Self::shutdown_request), [`close_request`](Self::close_request),
///   [`server_bind`](Self::server_bind), [`server_activate`](Self::server_activate),
///   [`server_close`](Self::server_close).
/// * **For strategies, to override too:** [`serve`](Self::serve), [`capacity`](Self::capacity),
///   [`drain_requests`](Self::drain_requests), [`terminate_requests`](Self::terminate_requests),
///   [`CONCURRENCY`](Self::CONCURRENCY).
pub trait BaseServer: Send + Sync + Sized + 'static {
    /// What is listened on.
    type Transport: Transport;

    /// The wrapped server.
    type Inner: BaseServer<Transport = Self::Transport>;

    /// How requests run beside each other. Only strategies set it; two of them in one stack do not build.
    const CONCURRENCY: Concurrency = <Self::Inner as BaseServer>::CONCURRENCY;

    /// The wrapped server.
    fn inner(&self) -> &Self::Inner;

    /// What the bare server at the bottom of the stack keeps for all layers.
    #[doc(hidden)]
    fn core(&self) -> &Core<Self::Transport> {
        self.inner().core()
    }

    // ----- Life cycle: for the caller ------------------------------------------------------------

    /// Binds and listens: `server_bind`, `server_activate`. `serve_forever` and `spawn` do it
    /// themselves; call it to learn the address before serving. Again, it only listens to the signals that were
    /// set since, and what was put around a bound server since is not asked: its `server_bind` and `server_activate` do
    /// not run. A program that goes to the background (daemon(3)) does so between binding and serving, and has told
    /// its caller by then whether it can serve. So does one that gives up its privileges (setuid(2)).
    ///
    /// # After a fork
    ///
    /// A bound server is served in one process. A copy in another (fork(2)) has the same descriptors: each takes news
    /// that are for the other, and what stops one of them stops both, perhaps with an error.
    ///
    /// * To serve in several processes there is [`PreFork`](crate::PreFork). By hand, fork first, then make a server in
    ///   each process, over one socket ([`with_transport`](SocketServer::with_transport)) or with
    ///   [`allow_reuse_port`](crate::Configure::allow_reuse_port).
    /// * The process that does not go on serving (the first one of a daemon) ends with `_exit(2)`: dropped there, a
    ///   server takes its Unix path away and, in a program where another forks, ends listening for both, and a
    ///   [`Running`] stops its server.
    /// * So does one that a handler forks, before it returns from the handler: it would go on as such a copy, and
    ///   accept. Only in a child of [`Forking`](crate::Forking) or a worker of [`PreFork`](crate::PreFork) it ends with
    ///   the request.
    ///
    /// # Errors
    ///
    /// What prevents it, with the address and what to do: it does not resolve, is in use
    /// ([`AddrInUse`](io::ErrorKind::AddrInUse), also a path that is taken by something else), not of this machine
    /// ([`AddrNotAvailable`](io::ErrorKind::AddrNotAvailable)), not permitted
    /// ([`PermissionDenied`](io::ErrorKind::PermissionDenied)). [`InvalidInput`](io::ErrorKind::InvalidInput) says that
    /// the address or an attribute makes no sense: a path that is too long, a limit or one of the
    /// [`Timeouts`](crate::Timeouts) of zero, a signal that cannot be caught.
    /// [`NotConnected`](io::ErrorKind::NotConnected): the server was [closed](Self::close); it is over.
    fn bind(self) -> io::Result<Self> {
        self.core().check_not_closed()?;
        // Its hooks would wait for themselves.
        let _busy = self.core().shared().enter();
        if self.core().state() != State::New {
            self.core().listen_to_signals().inspect_err(|_| self.server_close())?;
            return Ok(self);
        }
        self.core().listen_to_signals()?;
        self.core().listen_to_nudges()?;
        let bound = self.server_bind().and_then(|()| self.server_activate());
        let active = bound.and_then(|()| self.core().activated());
        active.inspect_err(|_| self.server_close())?;
        Ok(self)
    }

    /// Serves requests until the server is told to stop, then drains: new clients are refused, those that
    /// the kernel had queued accepted, the listener closed, the requests in progress waited for until
    /// [`drain_timeout`](Config::drain_timeout). Binds first if that has not been done.
    ///
    /// # Errors
    ///
    /// Those of [`bind`](Self::bind), and a listening socket that is broken. What goes wrong with one
    /// request goes to [`handle_error`](Self::handle_error).
    fn serve_forever(self) -> io::Result<Report> {
        let server = Arc::new(self.bind()?);
        server.core().shared().wakeup()?.may_exit();
        serve_bound(&server)
    }

    /// Binds, then serves on a new thread; the returned guard stops the server.
    ///
    /// # Errors
    ///
    /// Those of [`bind`](Self::bind), and of starting a thread.
    fn spawn(self) -> io::Result<Running> {
        let server = self.bind()?;
        let shared = Arc::clone(server.core().shared());
        let address = server.server_address();
        let patience = server.core().attribute(|config| config.drain_timeout);
        let serve = move || serve_bound(&Arc::new(server));
        let thread = thread::Builder::new().name("socketserver".into()).spawn(serve);
        let thread = thread.map_err(|error| no_room_for("thread", &error))?;
        Ok(Running::new(shared, address, patience, thread))
    }

    /// Handles one request: waits for it at most [`timeout`](Config::timeout), then gives it to
    /// `process_request`. What cannot be accepted by then, because descriptors have run out or `get_request` has
    /// nothing all the same, is left to the next call. For programs with a loop of their own; bind first.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::time::Duration;
    /// use socketserver::Handled;
    /// use socketserver::prelude::*;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let server = TcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {}).timeout(Duration::from_millis(10)).bind()?;
    /// let server = Arc::new(server);
    /// while server.handle_request()? != Handled::TimedOut {}
    /// println!("nobody came: {}", server.close()?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The server is not bound, or is closed ([`NotConnected`](io::ErrorKind::NotConnected)); its listening socket is
    /// broken.
    fn handle_request(self: &Arc<Self>) -> io::Result<Handled> {
        self.core().check_not_closed()?;
        if self.core().state() == State::New {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the server is not bound: call bind() first",
            ));
        }
        let shared = self.core().shared();
        let _loop = shared.enter_loop();
        let _handling = shared.begin_handling();
        shared.wakeup()?.serves_here();
        // Of a prefork server, too, which serves here what it handles.
        self.core().keep_deadline();
        let hooks: Outermost<Self::Transport> = Arc::clone(self) as _;
        let handled = Acceptor::new(hooks).handle_one(self.core().attribute(|config| config.timeout))?;
        if handled == Handled::TimedOut {
            guarded("handle_timeout", || self.handle_timeout());
        }
        Ok(handled)
    }

    /// Drains and closes a server whose requests were handled one by one: what `serve_forever` does at
    /// its end, those that the kernel had queued included. What other threads handle meanwhile is waited for. Python:
    /// `server_close()` with `block_on_close`. Again, or while another thread does it, it waits for that end.
    ///
    /// # Errors
    ///
    /// Waiting itself failed; [`Deadlock`](io::ErrorKind::Deadlock) in a request or a hook of the server itself, which
    /// has been asked to stop all the same.
    fn close(self: &Arc<Self>) -> io::Result<Report> {
        self.shutdown();
        let shared = self.core().shared();
        shared.check_no_deadlock()?;
        if self.core().closing.swap(true, Ordering::SeqCst) {
            shared.wait_closed(None);
            return shared.report();
        }
        serve_bound(self)
    }

    /// A handle that stops the server from anywhere.
    fn shutdown_handle(&self) -> ShutdownHandle {
        ShutdownHandle::new(Arc::clone(self.core().shared()))
    }

    /// A handle to look at the server and to control it from elsewhere.
    fn handle(&self) -> ServerHandle {
        ServerHandle::new(Arc::clone(self.core().shared()))
    }

    /// What the server has done and does now. Once `serve_forever` has taken the server away:
    /// [`ServerHandle::stats`].
    fn stats(&self) -> Stats {
        self.core().shared().stats()
    }

    /// Asks the server to stop; never blocks. See [`ShutdownHandle::shutdown`].
    fn shutdown(&self) {
        self.core().shared().shutdown();
    }

    /// The address that the server is bound to, as the system tells it (the real port); before it is
    /// bound, the address asked for.
    fn server_address(&self) -> Address {
        self.core().server_address()
    }

    /// The family of the address, as soon as it is known.
    fn address_family(&self) -> Option<AddressFamily> {
        self.server_address().family()
    }

    /// Whether connections or datagrams are served.
    fn socket_type(&self) -> SocketType {
        Self::Transport::SOCKET_TYPE
    }

    /// The listening socket, from binding until the server is closed.
    fn socket(&self) -> Option<&<Self::Transport as Transport>::Socket> {
        let open = self.core().state() < State::Closed;
        self.core().transport().filter(|_| open).map(Transport::socket)
    }

    /// The descriptor of the listening socket, from binding until the server is closed: to wait for
    /// requests in a loop of one's own before `handle_request`.
    ///
    /// * Set a [`timeout`](Config::timeout) of zero. The descriptor can be readable although nothing is there
    ///   (select(2), "Bugs"), and stays so while the server is suspended or at a limit: `handle_request` would wait
    ///   then.
    /// * Call `handle_request` now and then although it is not readable, as every half second below. It sees to what
    ///   does not show there, too: that the server was told to stop, that a child has ended, that a request may run
    ///   that has waited for its address's turn.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::time::Duration;
    /// use nix::poll::{PollFd, PollFlags, poll};
    /// use socketserver::Handled;
    /// use socketserver::prelude::*;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let new = |handler| UdpServer::new("127.0.0.1:0", handler).timeout(Duration::ZERO).bind();
    /// let upper = |request: &mut DatagramRequest| request.reply(&request.packet().to_ascii_uppercase());
    /// let servers = [Arc::new(new(upper)?), Arc::new(new(upper)?)];
    /// # servers[1].shutdown();
    /// 'serving: loop {
    ///     let fds = servers.iter().filter_map(|server| server.fileno());
    ///     let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    ///     // A signal ends it early (EINTR), which is as good.
    ///     let _ = poll(&mut fds, 500_u16);
    ///     for server in &servers {
    ///         if server.handle_request()? == Handled::Stopped {
    ///             break 'serving;
    ///         }
    ///     }
    /// }
    /// for server in servers {
    ///     println!("{}", server.close()?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    fn fileno(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.socket().map(std::os::fd::AsFd::as_fd)
    }

    /// The server's attributes as they are set now.
    fn config(&self) -> Config {
        self.core().config()
    }

    // ----- Hooks: to override --------------------------------------------------------------------

    /// Makes the socket and binds it. Called once, by [`bind`](Self::bind). To set options on the
    /// socket before it is bound: [`before_bind`](crate::Configure::before_bind).
    ///
    /// # Errors
    ///
    /// The server cannot be bound; `bind` closes it and fails with it.
    fn server_bind(&self) -> io::Result<()> {
        self.inner().server_bind()
    }

    /// Starts listening. Called once, after [`server_bind`](Self::server_bind); the socket is bound.
    ///
    /// # Errors
    ///
    /// The server cannot listen; `bind` closes it and fails with it.
    fn server_activate(&self) -> io::Result<()> {
        self.inner().server_activate()
    }

    /// Cleans up and closes the socket. Called once the requests are done (or given up), or one of the hooks of `bind`
    /// has failed; not for a server that is dropped without having been closed, whose socket is closed by that. It is
    /// not to be called instead of [`close`](Self::close), which stops accepting first. If it panics, that of the
    /// wrapped server is called, perhaps once more; so it is with [`service_actions`](Self::service_actions),
    /// [`drain_requests`](Self::drain_requests) and [`terminate_requests`](Self::terminate_requests).
    fn server_close(&self) {
        self.inner().server_close();
    }

    /// Accepts one request. Called on the accept loop, which may let it wait for one here, if it has nothing else to
    /// do ([`Transport::let_wait`](crate::Transport::let_wait)): an override calls the inner one, or does not wait.
    /// Options and timeouts that it sets on the request hold, the timeouts instead of the server's.
    ///
    /// ```
    /// use std::io;
    /// use nix::sys::socket::{setsockopt, sockopt};
    /// use socketserver::Tcp;
    /// use socketserver::prelude::*;
    ///
    /// /// Has the kernel ask silent clients whether they are there. For TCP only: it uses what such requests have.
    /// struct KeepAlive<S>(S);
    ///
    /// impl<S: BaseServer<Transport = Tcp>> BaseServer for KeepAlive<S> {
    ///     type Transport = Tcp;
    ///     type Inner = S;
    ///     fn inner(&self) -> &S {
    ///         &self.0
    ///     }
    ///
    ///     fn get_request(&self) -> io::Result<TcpRequest> {
    ///         let request = self.inner().get_request()?;
    ///         setsockopt(request.get_ref(), sockopt::KeepAlive, &true)?;
    ///         Ok(request)
    ///     }
    /// }
    ///
    /// let server = KeepAlive(ThreadingTcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {}));
    /// ```
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if there is none; others as
    /// [`Transport::accept`](crate::Transport::accept) says.
    fn get_request(&self) -> io::Result<RequestOf<Self>> {
        self.inner().get_request()
    }

    /// Decides whether a request is served. Called on the accept loop, once a connection or datagram,
    /// before anything was read from it: never wait here. Refused, it is shut down and closed.
    fn verify_request(&self, request: &RequestOf<Self>, client_address: &Address) -> bool {
        self.inner().verify_request(request, client_address)
    }

    /// Tells a client that there is no room for it: `limit` is reached and its policy is to
    /// [`Reject`](crate::OnLimit::Reject). Called on the accept loop, after
    /// [`verify_request`](Self::verify_request): never wait here. By default a connection is sent the
    /// [`farewell`](Config::farewell).
    ///
    /// After it the sending side is shut down, so the client reads the end of the stream. The connection is closed half
    /// a second later, when that cannot cut off what was sent: sooner if more than 64 wait for it or descriptors have
    /// run out, later if every thread that accepts is busy in a handler (a bare server, a pool).
    fn reject_request(&self, request: &mut RequestOf<Self>, limit: LimitKind) {
        self.inner().reject_request(request, limit);
    }

    /// Decides where and when a request runs: the hook of strategies. Called on the accept loop, which
    /// waits until it returns. A strategy does not call that of the server that it wraps. That of a bare server, and
    /// mostly those of [`Threading`](crate::Threading) and [`ThreadPool`](crate::ThreadPool), whose threads accept for
    /// themselves, return when the request is over.
    fn process_request(&self, job: Job<Self::Transport>) {
        self.inner().process_request(job);
    }

    /// Runs the handler on the request. Called where the strategy decided, while the connection is open. What Python
    /// programs pass to their handlers here is a field of the handler; another handler than the server's is run with
    /// [`run_handler`](crate::run_handler) on [`request_mut`](Active::request_mut), and keeps to the server's clocks.
    ///
    /// A client is told here what went wrong with its request, which Python's `handle_error` has for that. The
    /// handler's last flush has been by then:
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::net::TcpStream;
    /// use socketserver::prelude::*;
    /// use socketserver::{Active, Tcp};
    ///
    /// struct Telling<S>(S);
    ///
    /// impl<S: BaseServer<Transport = Tcp>> BaseServer for Telling<S> {
    ///     type Transport = Tcp;
    ///     type Inner = S;
    ///     fn inner(&self) -> &S {
    ///         &self.0
    ///     }
    ///
    ///     fn finish_request(&self, active: &mut Active<Tcp>) -> HandlerResult {
    ///         self.inner().finish_request(active).inspect_err(|error| {
    ///             let request = active.request_mut();
    ///             // The client may be what went wrong.
    ///             let _ = writeln!(request, "sorry: {error}").and_then(|()| request.flush());
    ///         })
    ///     }
    /// }
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let handler = |_: &mut TcpRequest| Err::<(), _>("not today");
    /// let running = Telling(ThreadingTcpServer::new("127.0.0.1:0", handler)).spawn()?;
    /// let mut text = String::new();
    /// TcpStream::connect(running.server_address().as_inet().unwrap())?.read_to_string(&mut text)?;
    /// assert_eq!(text, "sorry: not today\n");
    /// # running.stop()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// That of the handler; it goes to [`handle_error`](Self::handle_error).
    fn finish_request(&self, active: &mut Active<Self::Transport>) -> HandlerResult {
        self.inner().finish_request(active)
    }

    /// Ends the sending side of a request that is done. Called where it ran; the connection is open.
    fn shutdown_request(&self, request: &mut RequestOf<Self>) {
        self.inner().shutdown_request(request);
    }

    /// Closes a request, by dropping it. Called after [`shutdown_request`](Self::shutdown_request): who keeps a
    /// connection to write to it later overrides that as well, as in Python. As there, too, the parent of a
    /// [`Forking`](crate::Forking) server calls it alone, to close its own copy of what a child serves.
    fn close_request(&self, request: RequestOf<Self>) {
        self.inner().close_request(request);
    }

    /// Reports a request that failed, once. Called where it ran (in a forked child too), while its
    /// connection is open; it is closed already if its process was killed or [`process_request`](Self::process_request)
    /// panicked. It does not get the request: what the client is told, [`finish_request`](Self::finish_request) tells
    /// it. By default the error is logged: what the client explains, who has left or
    /// used up its time ([`RequestError::timeout`]), at `info`, the rest at `error`.
    fn handle_error(&self, error: &RequestError) {
        self.inner().handle_error(error);
    }

    /// No request came within [`timeout`](Config::timeout). Called by `handle_request`.
    fn handle_timeout(&self) {
        self.inner().handle_timeout();
    }

    /// Does what is to be done at each turn of the accept loop, and while the server drains. A turn
    /// comes with each request and wake-up; for one at least every so often, set
    /// [`poll_interval`](crate::Configure::poll_interval). Where several threads accept, as under
    /// [`Threading`](crate::Threading), it can run on more than one of them at a time.
    fn service_actions(&self) {
        self.inner().service_actions();
    }

    // ----- For strategies ------------------------------------------------------------------------

    /// Accepts until the server has stopped. A strategy in which several threads or processes accept
    /// overrides it and still gives each job to [`Acceptor::process`].
    ///
    /// # Errors
    ///
    /// The listening socket is broken.
    fn serve(&self, acceptor: Acceptor<Self::Transport>) -> io::Result<()> {
        self.inner().serve(acceptor)
    }

    /// How many requests may be in progress at once, and what happens beyond: a layer with a limit of its own
    /// adds it with [`Capacity::and`] to what its inner server says. Asked before a request is accepted, and
    /// again when it has been. At a limit it is asked again when a request has ended, and at each
    /// [`poll_interval`](crate::Configure::poll_interval): one that rises by itself needs that. One that falls by
    /// itself, and [waits](crate::OnLimit::Wait), holds from the next request on for each thread that accepts: those
    /// that wait for one by then have a place for it already (up to four of [`Threading`](crate::Threading), all
    /// workers of a [`ThreadPool`](crate::ThreadPool) that are free). If it panics, only
    /// [`max_connections`](crate::Config::max_connections) is kept to.
    fn capacity(&self) -> Capacity {
        self.inner().capacity()
    }

    /// Tells the requests in progress that the server drains. Called once, when it was told to stop (under
    /// [`PreFork`](crate::PreFork) in the master and in each worker): connections that have answered a message and wait
    /// for the next get an end of stream.
    fn drain_requests(&self) {
        self.inner().drain_requests();
    }

    /// Makes the requests in progress end. Called when they have not by the drain deadline.
    fn terminate_requests(&self, force: Force) {
        self.inner().terminate_requests(force);
    }
}

/// Serves a bound server to its end.
fn serve_bound<S: BaseServer>(server: &Arc<S>) -> io::Result<Report> {
    let wants_batch = server.core().attribute(|config| config.sched_batch);
    let _batch = wants_batch.then(Batch::enter);
    let shared = server.core().shared();
    let _closing = shared.closing();
    let _loop = shared.enter_loop();
    shared.wakeup()?.serves_here();
    if S::CONCURRENCY == Concurrency::Processes {
        // Its loop is never busy in a handler.
        warn_of_threads();
    } else {
        server.core().keep_deadline();
    }
    let alone = S::CONCURRENCY == Concurrency::None;
    server.core().alone.store(alone, Ordering::Relaxed);
    // One that was never bound is closed.
    let is_bound = shared.state() >= State::Bound;
    shared.advance(State::Serving);
    let hooks: Outermost<S::Transport> = Arc::clone(server) as _;
    let ended = if is_bound {
        server.serve(Acceptor::new(Arc::clone(&hooks)))
    } else {
        Ok(())
    };
    let report = drain(&hooks)?;
    ended.map(|()| report)
}

/// A forked child has only the thread that forked; a lock that another thread held is held for ever.
fn warn_of_threads() {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        log::warn!(
            "a forking server in a process with {threads} threads: a child can deadlock on a lock that another \
             thread holds at the moment of the fork; serve from the main thread and start no others"
        );
    }
}

/// A server that is made from an address and a handler: what lets `Threading::new(addr, handler)` make
/// the server that it wraps, whatever that is. A mix-in that implements it can stand below a strategy in a type:
///
/// ```
/// use socketserver::prelude::*;
/// use socketserver::{Construct, Threading};
///
/// /// Refuses who comes from a privileged port.
/// struct Unprivileged<S>(S);
///
/// impl<S: BaseServer> BaseServer for Unprivileged<S> {
///     type Transport = S::Transport;
///     type Inner = S;
///     fn inner(&self) -> &S {
///         &self.0
///     }
///
///     fn verify_request(&self, request: &RequestOf<Self>, client_address: &Address) -> bool {
///         client_address.port().is_none_or(|port| port >= 1024) && self.inner().verify_request(request, client_address)
///     }
/// }
///
/// impl<S: Construct> Construct for Unprivileged<S> {
///     type Handler = S::Handler;
///     fn construct(address: Address, handler: S::Handler) -> Self {
///         Self(S::construct(address, handler))
///     }
///     fn request_handler_class(&self) -> &S::Handler {
///         self.0.request_handler_class()
///     }
/// }
///
/// type Server<H> = Threading<Unprivileged<TcpServer<H>>>;
/// let server = Server::new("127.0.0.1:0", |_: &mut TcpRequest| {});
/// ```
pub trait Construct: BaseServer {
    /// The handler's type.
    type Handler: BaseRequestHandler<RequestOf<Self>>;

    /// As the type's `new`.
    fn construct(address: Address, handler: Self::Handler) -> Self;

    /// The prototype that each request works on a clone of: Python's `RequestHandlerClass`.
    fn request_handler_class(&self) -> &Self::Handler;
}

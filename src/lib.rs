//! Network servers without an async runtime: Python's
//! [`socketserver`](https://docs.python.org/3/library/socketserver.html) for Rust.
//!
//! Write a handler, choose a server and a strategy by type, run it:
//!
//! ```no_run
//! use std::io::{BufRead, Write};
//! use socketserver::prelude::*;
//!
//! #[derive(Clone)]
//! struct H;
//!
//! impl<S: Stream> BaseRequestHandler<StreamRequest<S>> for H {
//!     fn handle(&mut self, request: &mut StreamRequest<S>) -> HandlerResult {
//!         let mut line = String::new();
//!         while request.read_line(&mut line)? > 0 {
//!             request.write_all(line.as_bytes())?;
//!             line.clear();
//!         }
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> std::io::Result<Report> {
//!     let addr = "127.0.0.1:8080";
//!     ThreadingTcpServer::new(addr, H).serve_forever()
//! }
//! ```
//!
//! # Choose a server
//!
//! | | TCP | UDP | Unix streams | Unix datagrams |
//! |---|---|---|---|---|
//! | one at a time | [`TcpServer`] | [`UdpServer`] | [`UnixStreamServer`] | [`UnixDatagramServer`] |
//! | a thread each | [`ThreadingTcpServer`] | [`ThreadingUdpServer`] | [`ThreadingUnixStreamServer`] | [`ThreadingUnixDatagramServer`] |
//! | a process each | [`ForkingTcpServer`] | [`ForkingUdpServer`] | [`ForkingUnixStreamServer`] | [`ForkingUnixDatagramServer`] |
//! | a pool of threads | [`ThreadPoolTcpServer`] | [`ThreadPoolUdpServer`] | [`ThreadPoolUnixStreamServer`] | [`ThreadPoolUnixDatagramServer`] |
//! | a pool of processes | [`PreForkTcpServer`] | [`PreForkUdpServer`] | [`PreForkUnixStreamServer`] | [`PreForkUnixDatagramServer`] |
//!
//! * **One at a time** suits datagrams and requests that are answered at once. A client that keeps its
//!   connection open keeps all others waiting.
//! * **[`Threading`]** suits conversations: a silent client costs a thread and nobody's time.
//! * **[`ThreadPool`]** suits many short requests, and bounds how many run at once.
//! * **[`Forking`]** suits requests that must not harm each other: what crashes is one request.
//! * **[`PreFork`]** suits the same at three times the rate: what crashes is one worker, which is replaced.
//!   It goes around [`Threading`] or [`ThreadPool`], too: the one stack of two strategies.
//!
//! Addresses are whatever converts into [`Address`]: `"127.0.0.1:80"`, `("localhost", 80)`, a path, an
//! abstract name. IPv4 or IPv6 follows from the address.
//!
//! # Choose a handler
//!
//! A type that implements [`BaseRequestHandler`], or a closure. Connections are served as
//! [`StreamRequest`], datagrams as [`DatagramRequest`]. Both can be made in memory, so a handler can be
//! tested without a socket: [`run_handler`].
//!
//! # Read messages
//!
//! A stream has no message boundaries: three sends can arrive as one. [`StreamRequest::framed`] reads and
//! writes messages with a codec (lengths, lines, netstrings, one of your own), within a limit, for both sides
//! of a connection: [`framing`], and [its guide](framing::guide).
//!
//! # Set time limits
//!
//! A connection lasts as long as its client likes, unless the server, or a handler for itself, says
//! otherwise: [`Timeouts`] has the five clocks and what each is good for. A client that has used up its
//! time costs its own connection and nobody else's.
//!
//! ```
//! use std::time::Duration;
//! use socketserver::prelude::*;
//!
//! let server = ThreadingTcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {})
//!     .handshake_timeout(Duration::from_secs(5))
//!     .idle_timeout(Duration::from_secs(60))
//!     .write_timeout(Duration::from_secs(30))
//!     .request_timeout(Duration::from_secs(600));
//! ```
//!
//! # Stop
//!
//! [`shutdown_on_signals`](Configure::shutdown_on_signals), or a [`ShutdownHandle`] from anywhere: another
//! thread, a signal handler, a request handler. The server then refuses new clients, accepts those that the
//! kernel had queued, closes the listener, waits for the requests in progress up to
//! [`drain_timeout`](Configure::drain_timeout), and returns a [`Report`]. A connection that has been answered
//! and waits for the next message gets the end of the stream at once. [`BaseServer::spawn`] serves on a
//! thread of its own and returns a guard that stops it.
//!
//! ```no_run
//! use socketserver::prelude::*;
//!
//! # fn main() -> std::io::Result<()> {
//! let server = ThreadingTcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {})
//!     .shutdown_on_signals([signal::SIGINT, signal::SIGTERM])
//!     .bind()?;
//! println!("listening on {}", server.server_address());
//! println!("stopped: {}", server.serve_forever()?);
//! # Ok(())
//! # }
//! ```
//!
//! # Limit
//!
//! Beyond each limit, clients wait ([`OnLimit::Wait`], the default: a plain number is enough) or are rejected
//! ([`Limit::reject`]): sent the [`farewell`](Configure::farewell) by the hook
//! [`reject_request`](BaseServer::reject_request), counted, closed.
//!
//! | Limit | Of | Those that wait are held |
//! |---|---|---|
//! | [`max_connections`](Configure::max_connections) | requests in progress | by the kernel's queue |
//! | [`Threading::max_threads`], [`Forking::max_children`], [`ThreadPool::queue_size`] | what the strategy has room for | by the kernel's queue |
//! | [`max_per_address`](Configure::max_per_address) | requests of one IPv4 address or IPv6 /64 in progress | accepted, without a thread or process, [`max_waiting`](Configure::max_waiting) of them |
//! | [`max_rate_per_address`](Configure::max_rate_per_address) | requests of such an address in a time | likewise |
//!
//! Of the first two rows the smallest decides. So `max_connections(Limit::reject(100))` rejects nobody where the
//! strategy has room for no more than 100 and lets the others wait: [`Forking`] unless set (40 children), a
//! [`ThreadPool`] of so few workers and places in its queue. There the strategy's own limit is what can reject.
//!
//! ```no_run
//! use socketserver::prelude::*;
//!
//! # fn main() -> std::io::Result<()> {
//! ThreadingTcpServer::new("127.0.0.1:8080", |_: &mut TcpRequest| {})
//!     .max_connections(1000)
//!     .max_per_address(Limit::reject(20))
//!     .max_rate_per_address(RateLimit::reject(50).burst(200))
//!     .farewell("too many requests, come again later\r\n")
//!     .serve_forever()?;
//! # Ok(())
//! # }
//! ```
//!
//! # See and control
//!
//! [`BaseServer::stats`] has exact counts and the live connections; a [`ServerHandle`] has them from elsewhere,
//! also while `serve_forever` runs and after it, suspends and resumes accepting, and closes one connection.
//! An [`Observer`] hears of each [`Event`]; [`LoggingObserver`] and [`CountingObserver`] are ready-made.
//! [`on_signal`](Configure::on_signal) says what a signal does. To serve the counts to others, spawn a second server
//! that has a handle of the first; beside one that forks, [without a thread](PreFork#metrics).
//!
//! Requests that fail, back-offs and drains that take their time are logged through the `log` crate: without a
//! logger (`env_logger` or another) nobody sees them. [`RequestError`] shows how to print instead.
//!
//! # Change a hook
//!
//! A server is a stack of wrappers, each of which may override hooks of [`BaseServer`]: its page shows a
//! mix-in in full. What a strategy is, [`Job`] shows.
//!
//! # Coming from Python
//!
//! | Python | Here | What differs |
//! |---|---|---|
//! | `BaseServer` | [`BaseServer`] | a trait; mix-ins wrap instead of inheriting |
//! | `TCPServer`, `UDPServer`, `UnixStreamServer`, `UnixDatagramServer` | [`TcpServer`], [`UdpServer`], [`UnixStreamServer`], [`UnixDatagramServer`] | Unix paths: a stale one is replaced, ours is removed at the end; [`socket_mode`](Configure::socket_mode), [`socket_owner`](Configure::socket_owner) |
//! | `ThreadingMixIn`, `ForkingMixIn` | [`Threading`], [`Forking`] | wrappers; [`ThreadPool`] and [`PreFork`] are new |
//! | `Server(address, Handler)` | [`new(address, handler)`](SocketServer::new) | does not bind and never fails; the handler is a value that is cloned |
//! | `bind_and_activate=True` | [`bind`](BaseServer::bind) | a step of its own, which `serve_forever` takes if need be |
//! | `bind_and_activate=False`, then `server.socket = …` | [`with_transport`](SocketServer::with_transport) | for a socket of systemd's, or made elsewhere |
//! | `serve_forever(poll_interval=0.5)` | [`serve_forever`](BaseServer::serve_forever), [`poll_interval`](Configure::poll_interval) | consumes the server and returns a [`Report`]; to serve again, make another. No interval unless set: idle costs nothing |
//! | `Thread(target=server.serve_forever).start()` | [`spawn`](BaseServer::spawn) | binds first, so its errors are returned; dropping the [`Running`] stops the server |
//! | `shutdown()` | [`shutdown`](BaseServer::shutdown), [`ShutdownHandle`] | asks and never blocks; waiting is [`ShutdownHandle::wait`] |
//! | `handle_request()` | [`handle_request`](BaseServer::handle_request) | on an `Arc`; says what became of it |
//! | `server_close()` | [`close`](BaseServer::close), after `handle_request`; else nothing | `serve_forever` ends closed; dropped without, a server closes |
//! | `fileno()` | [`fileno`](BaseServer::fileno) | `None` before binding and after the end |
//! | `socket`, `server_address`, `address_family`, `socket_type` | [`socket`](BaseServer::socket), [`server_address`](BaseServer::server_address), [`address_family`](BaseServer::address_family), [`socket_type`](BaseServer::socket_type) | the family follows from the address: `"::"` is IPv6, and IPv4 too with [`only_v6(false)`](Configure::only_v6); names are IPv4 first. To send from elsewhere, [`try_clone`](std::net::UdpSocket::try_clone) the socket of a bound server |
//! | `RequestHandlerClass` | [`request_handler_class`](Construct::request_handler_class) | the prototype that is cloned |
//! | `server_bind`, `server_activate`, `server_close`, overridden | [the same](BaseServer#which-methods-are-for-whom) | socket options before binding: [`before_bind`](Configure::before_bind) |
//! | `get_request`, `verify_request`, `process_request`, `finish_request`, `shutdown_request`, `close_request` | [the same](BaseServer#which-methods-are-for-whom) | `get_request` returns the request, which knows its client's address; a socket is wrapped (TLS) in a [handler](Stream#a-stream-around-another); `process_request` gets a [`Job`], `finish_request` its [`Active`] part; what it passes to the handler is a field of the handler. `shutdown_request` does not call `close_request`: both are called |
//! | `process_request_thread` | [`Job::run`] | what is put around it in Python goes around [`finish_request`](BaseServer::finish_request), which runs there; a semaphore is [`max_connections`](Configure::max_connections), a timer [`request_timeout`](Configure::request_timeout) |
//! | `handle_error(request, client_address)` | [`handle_error(error)`](BaseServer::handle_error) | gets a [`RequestError`], which shows how to print it; panics, too; the default logs: nothing is seen without a logger. The client is answered in [`finish_request`](BaseServer::finish_request) |
//! | `handle_timeout`, `service_actions` | [the same](BaseServer#which-methods-are-for-whom) | `service_actions`: with each request and wake-up, also in `handle_request`; every so often only with a [`poll_interval`](Configure::poll_interval) |
//! | `timeout` | [`timeout`](Configure::timeout) | none unless set, for forking servers (300 s) too |
//! | `request_queue_size = 5` | [`request_queue_size`](Configure::request_queue_size) | 4096: with 5, clients that come at once wait a second for a second SYN |
//! | `allow_reuse_address = False` | [`allow_reuse_address`](Configure::allow_reuse_address) | true, for TCP only: a server can be restarted at once. On UDP, to share a port with others that listen to a multicast group: [`before_bind`](Configure::before_bind) |
//! | `allow_reuse_port = False` | [`allow_reuse_port`](Configure::allow_reuse_port) | |
//! | `max_packet_size = 8192` | [`max_packet_size`](Configure::max_packet_size) | 65,535; what is cut says so |
//! | `daemon_threads`, `block_on_close` | [`drain_timeout`](Configure::drain_timeout) | one attribute for every strategy: 30 s unless set; `None` waits for ever. No request goes on when its server has ended: zero cuts them off |
//! | `threading.stack_size(bytes)` | [`Threading::stack_size`], [`ThreadPool::stack_size`] | of the server's threads, not of all; 64 KiB at least |
//! | `max_children = 40` | [`max_children`](Forking::max_children) | at the limit accepting pauses; the server still hears a shutdown |
//! | `active_children`, `collect_children` | [`active_children`](Forking::active_children) | the number; children are reaped as they end |
//! | `with server:` | the value's scope, [`Running`] | |
//! | `except KeyboardInterrupt:` around `serve_forever` | [`shutdown_on_signals([signal::SIGINT])`](Configure::shutdown_on_signals) | unless set, the signal ends the process as it is, requests and all |
//! | `Handler(request, client_address, server)`, called without a server | [`run_handler`] | |
//! | `BaseRequestHandler`: `setup`, `handle`, `finish` | [`BaseRequestHandler`] | errors are returned |
//! | `self.request.getsockopt(SOL_SOCKET, SO_PEERCRED, …)` | [`peer_credentials`](StreamRequest::peer_credentials) | of Unix connections |
//! | `self.request` (`self.connection`), `self.client_address`, `self.server` | the request, [`client_address`](StreamRequest::client_address), [`server`](StreamRequest::server) | `server` cannot be used to hang it; `client_address[0]` is [`ip`](Address::ip), `[1]` [`port`](Address::port); what requests share (`self.server.clients`) is no attribute of the server, but an `Arc` in the handler |
//! | `StreamRequestHandler`: `rfile`, `wfile`, `rbufsize`, `wbufsize`, `disable_nagle_algorithm` | [`StreamRequest`] | set in `setup`; a failed last flush is reported |
//! | `StreamRequestHandler.timeout` | [`set_timeout`](StreamRequest::set_timeout), [`Timeouts`] | five clocks: a server can limit the silence, the first byte and the whole request, too |
//! | `DatagramRequestHandler`: `packet`, `socket`, `rfile`, `wfile` | [`DatagramRequest`] | replies at the end only if `wfile` was used |
//! | `ThreadingTCPServer`, `ForkingUDPServer`, … | [`ThreadingTcpServer`], [`ForkingUdpServer`], … | all eight, and as many for [`ThreadPool`] and [`PreFork`] |
//!
//! # Run as a service
//!
//! Under systemd, in a container, and what the system limits: [`deployment`].
//!
//! # How fast
//!
//! As fast as the same strategy by hand in most respects, and faster than a thread for each connection:
//! [How fast, and when not to use it](performance).
//!
//! # Limitations
//!
//! Linux only: epoll(7), eventfd(2) and accept4(2) are used as they are.
//!
//! A panic in a handler costs its request only where panics unwind. In a program that is built with `panic = "abort"`
//! it ends the process: under [`Forking`] the request's, under [`PreFork`] a worker, with what it serves besides, which
//! is replaced; both are reported in the parent ([`Cause::Exit`], SIGABRT). Under the other strategies it ends the
//! program. The same goes, in every program, for an allocation that the system refuses (`ulimit -v`): Rust ends the
//! process, with a line on standard error. A thread or a process that it refuses is waited for.

// A library neither prints, nor exits, nor gives up; examples and tests may.
#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, clippy::exit)]

#[cfg(not(target_os = "linux"))]
compile_error!("socketserver uses epoll(7), eventfd(2) and abstract sockets: it builds for Linux only");

mod acceptor;
mod address;
mod aliases;
mod config;
#[doc = include_str!("deployment.md")]
pub mod deployment {}
mod error;
pub mod framing;
mod handler;
mod hooks;
mod job;
mod lifecycle;
mod limits;
mod mutex;
mod observer;
mod panics;
#[doc = include_str!("performance.md")]
pub mod performance {}
mod poll;
pub mod prelude;
mod request;
mod server;
mod stats;
mod strategy;
mod sys;
mod timeouts;
mod transport;

pub use acceptor::{Acceptor, Handled};
pub use address::{Address, AddressFamily};
pub use aliases::*;
pub use config::{Config, Configure};
pub use error::{Cause, HandlerError, HandlerResult, Phase, RequestError};
pub use handler::{BaseRequestHandler, IntoHandlerResult, run_handler};
pub use job::{Active, Force, Job};
pub use lifecycle::{Report, Running, ServerHandle, ShutdownHandle, SignalAction, State, WaitError};
pub use limits::{Capacity, Limit, LimitKind, OnLimit, RateLimit};
pub use observer::{CountingObserver, Event, EventCounts, LoggingObserver, Observer, Outcome};
pub use request::{
    DatagramRequest, DatagramSocket, MemoryDatagrams, MemoryStream, PeerCredentials, RFile, Request, ServerContext,
    Stream, StreamRequest, WFile,
};
pub use server::{BaseServer, Concurrency, Construct, Core, RequestOf, SocketServer};
pub use stats::{Connection, Stats};
pub use strategy::{Forking, PreFork, Strategies, ThreadPool, Threading};
pub use timeouts::{Timeout, TimeoutError, TimeoutKind, Timeouts};
pub use transport::{Replies, SocketType, Tcp, Transport, Udp, UnixDatagrams, UnixStreams};

/// The README's program is compiled with the doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

//! Network servers without an async runtime: Python's `socketserver` for Rust.

// A library neither prints, nor exits, nor gives up; examples and tests may.
#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, clippy::exit)]

mod acceptor;
mod address;
mod aliases;
mod config;
mod error;
mod handler;
mod hooks;
mod job;
mod lifecycle;
pub mod prelude;
mod request;
mod server;
mod strategy;
mod sys;
mod transport;

pub use acceptor::{Acceptor, Handled};
pub use address::{Address, AddressFamily};
pub use aliases::*;
pub use config::{Config, Configure};
pub use error::{Cause, HandlerError, HandlerResult, Phase, RequestError};
pub use handler::{BaseRequestHandler, IntoHandlerResult, run_handler};
pub use job::{Active, Force, Job};
pub use lifecycle::{Report, Running, ShutdownHandle, State, WaitError};
pub use request::{
    DatagramRequest, DatagramSocket, MemoryDatagrams, MemoryStream, RFile, Request, ServerContext, Stream,
    StreamRequest, WFile,
};
pub use server::{BaseServer, Concurrency, Construct, Core, RequestOf, SocketServer};
pub use strategy::{Forking, Strategies, ThreadPool, Threading};
pub use transport::{SocketType, Tcp, Transport, Udp, UnixDgram, UnixStreams};

//! What most programs use: `use socketserver::prelude::*;`.

pub use crate::framing::{Framed, LengthDelimitedCodec, LinesCodec};
pub use crate::{
    Address, BaseRequestHandler, BaseServer, Concurrency, Configure, DatagramRequest, HandlerError, HandlerResult, Job,
    Limit, MemoryStream, OnLimit, PreFork, RateLimit, Report, RequestError, RequestOf, ServerHandle, ShutdownHandle,
    SignalAction, Strategies, Stream, StreamRequest, TcpRequest, UnixStreamRequest, signal,
};

pub use crate::aliases::servers::*;

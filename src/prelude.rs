//! What most programs use: `use socketserver::prelude::*;`.

pub use crate::framing::{Framed, LengthDelimitedCodec, LinesCodec};
pub use crate::{
    Address, BaseRequestHandler, BaseServer, Concurrency, Configure, DatagramRequest, HandlerError, HandlerResult, Job,
    MemoryStream, PreFork, Report, RequestError, RequestOf, ShutdownHandle, Strategies, Stream, StreamRequest,
    TcpRequest, UnixStreamRequest, signal,
};

pub use crate::aliases::servers::*;

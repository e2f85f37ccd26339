//! TLS around a handler that need not know: the handshake, the stream, the last word.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection};
use socketserver::prelude::*;
use socketserver::{ServerContext, run_handler};

/// Serves TCP connections over TLS with a handler of what is said within.
pub(crate) struct Tls<H> {
    handler: H,
    config: Arc<ServerConfig>,
    /// From `setup` to `handle`.
    connection: Option<ServerConnection>,
}

impl<H> Tls<H> {
    pub(crate) fn over(handler: H, config: Arc<ServerConfig>) -> Self {
        Tls {
            handler,
            config,
            connection: None,
        }
    }
}

/// Each request works on a clone. There is nothing to clone of a connection: the server's own value never has one.
impl<H: Clone> Clone for Tls<H> {
    fn clone(&self) -> Self {
        Tls::over(self.handler.clone(), Arc::clone(&self.config))
    }
}

impl<H: BaseRequestHandler<StreamRequest<TlsStream>>> BaseRequestHandler<TcpRequest> for Tls<H> {
    /// The handshake, on the worker and through the request, so that its clocks run.
    fn setup(&mut self, request: &mut TcpRequest) -> HandlerResult {
        let mut connection = ServerConnection::new(Arc::clone(&self.config))?;
        connection.complete_io(request)?;
        self.connection = Some(connection);
        Ok(())
    }

    /// What is said within. Only who has heard all of it is told that it was all: to a client, a connection that ends
    /// without the last word of TLS was cut off.
    fn handle(&mut self, request: &mut TcpRequest) -> HandlerResult {
        let stream = TlsStream {
            connection: self.connection.take().expect("setup has made it"),
            socket: request.get_ref().try_clone()?,
            server: request.server().clone(),
        };
        let mut inner = request.wrap(stream)?;
        run_handler(&self.handler, &mut inner)?;
        inner.get_mut().connection.send_close_notify();
        // Who has gone already misses nothing: what the handler wrote has been sent.
        let _ = inner.flush();
        Ok(())
    }
}

/// What goes through a TLS connection.
pub(crate) struct TlsStream {
    connection: ServerConnection,
    socket: TcpStream,
    server: ServerContext,
}

impl Read for TlsStream {
    /// Gives what has come, or reads the socket once and says that it was interrupted: the request looks at its clocks
    /// and calls again.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.connection.reader().read(out) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // A drain ends the reading of an idle connection, without the last word of the client.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof && self.server.is_draining() => return Ok(0),
            done => return done,
        }
        if self.connection.read_tls(&mut self.socket)? > 0 {
            // Of a record, perhaps the beginning only.
            self.server.message_begun();
        }
        if let Err(error) = self.connection.process_new_packets() {
            // Tells the client what is wrong with it, if it still listens.
            let _ = self.flush();
            return Err(io::Error::new(ErrorKind::InvalidData, error));
        }
        Err(ErrorKind::Interrupted.into())
    }
}

impl Write for TlsStream {
    /// Takes what there is room for; the request flushes behind each of its writes. If the socket takes too long it has
    /// taken nothing, and the request, which knows how long it may, calls again.
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.flush()?;
        self.connection.writer().write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

/// All the socket's.
impl Stream for TlsStream {
    fn shutdown_stream(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown_stream(how)
    }

    fn set_stream_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_stream_read_timeout(timeout)
    }

    fn set_stream_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_stream_write_timeout(timeout)
    }

    fn set_stream_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.socket.set_stream_nodelay(nodelay)
    }

    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        self.socket.fileno()
    }
}

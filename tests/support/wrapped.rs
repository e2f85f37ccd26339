//! A stream around another, as TLS is.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::BorrowedFd;

use socketserver::{Stream, StreamRequest};

pub struct Wrapped(TcpStream);

impl Wrapped {
    /// A request around another's stream.
    pub fn around<S: Stream>(request: &StreamRequest<S>) -> io::Result<StreamRequest<Self>> {
        let socket = request.get_ref().fileno().expect("it is a socket");
        request.wrap(Wrapped(socket.try_clone_to_owned()?.into()))
    }
}

impl Read for Wrapped {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl Write for Wrapped {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Stream for Wrapped {
    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        self.0.fileno()
    }
}

//! A stream and a datagram socket in memory, for unit tests of handlers.

use std::io::{self, Cursor, Read, Write};

use super::{DatagramSocket, Stream};
use crate::address::Address;
use crate::mutex::Mutex;

/// A stream in memory: a handler reads what it was made with and what it writes is kept.
///
/// ```
/// use std::io::{Read, Write};
/// use socketserver::MemoryStream;
///
/// let mut stream = MemoryStream::new("ping");
/// let mut text = String::new();
/// stream.read_to_string(&mut text)?;
/// stream.write_all(b"pong")?;
/// assert_eq!((text.as_str(), stream.written().as_slice()), ("ping", &b"pong"[..]));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct MemoryStream {
    input: Mutex<Cursor<Vec<u8>>>,
    output: Mutex<Vec<u8>>,
}

impl MemoryStream {
    /// A stream whose peer has sent `input` and then closed its side.
    pub fn new(input: impl Into<Vec<u8>>) -> Self {
        MemoryStream {
            input: Mutex::new(Cursor::new(input.into())),
            output: Mutex::default(),
        }
    }

    /// What has been written so far.
    pub fn written(&self) -> Vec<u8> {
        self.output.lock().clone()
    }
}

impl Read for &MemoryStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.input.lock().read(out)
    }
}

impl Write for &MemoryStream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.output.lock().write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for MemoryStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        (&mut &*self).read(out)
    }
}

impl Write for MemoryStream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        (&mut &*self).write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for MemoryStream {}

/// A datagram socket in memory: what is sent through it is kept.
///
/// ```
/// use std::sync::Arc;
/// use socketserver::prelude::*;
/// use socketserver::MemoryDatagrams;
///
/// let echo = |request: &mut DatagramRequest| request.reply(request.packet());
/// let socket = Arc::new(MemoryDatagrams::default());
/// let mut request = DatagramRequest::new(b"ping".to_vec(), 4, "a client", socket.clone());
/// socketserver::run_handler(&echo, &mut request)?;
/// assert_eq!(socket.sent(), [("a client".into(), b"ping".to_vec())]);
/// # Ok::<(), HandlerError>(())
/// ```
#[derive(Debug, Default)]
pub struct MemoryDatagrams {
    sent: Mutex<Vec<(Address, Vec<u8>)>>,
}

impl MemoryDatagrams {
    /// What was sent so far, in order, and to whom.
    pub fn sent(&self) -> Vec<(Address, Vec<u8>)> {
        self.sent.lock().clone()
    }
}

impl DatagramSocket for MemoryDatagrams {
    fn send_datagram(&self, packet: &[u8], to: &Address) -> io::Result<()> {
        self.sent.lock().push((to.clone(), packet.to_vec()));
        Ok(())
    }
}

//! A request that is a datagram.

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Request, ServerContext};
use crate::address::Address;
use crate::sys;
use crate::timeouts::{TimeoutError, TimeoutKind, Timeouts};

/// A socket that datagrams are answered through.
pub trait DatagramSocket: Send + Sync + 'static {
    /// Sends one datagram.
    ///
    /// # Errors
    ///
    /// Those of sendto(2), [`WouldBlock`](io::ErrorKind::WouldBlock) to be called again; and an address to
    /// which nothing can be sent, such as that of a Unix client that has none.
    fn send_datagram(&self, packet: &[u8], to: &Address) -> io::Result<()>;
}

impl DatagramSocket for UdpSocket {
    fn send_datagram(&self, packet: &[u8], to: &Address) -> io::Result<()> {
        let to = to.to_inet()?;
        sys::send_past_reports(|| self.send_to(packet, to)).map(drop)
    }
}

impl DatagramSocket for UnixDatagram {
    fn send_datagram(&self, packet: &[u8], to: &Address) -> io::Result<()> {
        self.send_to_addr(packet, &to.to_unix()?).map(drop)
    }
}

/// A datagram to serve, with the means to answer it.
///
/// Most handlers look at [`packet`](Self::packet) and call [`reply`](Self::reply). Those that come from
/// Python's `DatagramRequestHandler` read the packet as a file ([`Read`], [`BufRead`]: its `rfile`) and
/// write the answer as one ([`wfile`](Self::wfile)): what was written by the end goes back as one
/// datagram, an empty one if nothing was.
///
/// | Python | Here |
/// |---|---|
/// | `self.request[0]`, `self.packet` | [`packet`](Self::packet) |
/// | `self.request[1]`, `self.socket` with `sendto` | [`reply`](Self::reply), [`send_to`](Self::send_to) |
/// | `self.request[1]`, kept to answer later | [`get_ref`](Self::get_ref) |
/// | `socket.recvmsg` for `IP_PKTINFO` | [`local_ip`](Self::local_ip) |
/// | `self.request[1]` with `recvfrom` | a socket of the handler's own, as TFTP wants it, bound to [`local_ip`](Self::local_ip): what comes to the server's is a request |
/// | `self.rfile` | the value itself |
/// | `self.wfile` | [`wfile`](Self::wfile); `DatagramRequestHandler` always replies, here only a handler that called it |
///
/// ```
/// use socketserver::prelude::*;
///
/// let server = UdpServer::new("127.0.0.1:0", |request: &mut DatagramRequest| {
///     let upper = request.packet().to_ascii_uppercase();
///     request.reply(&upper)
/// });
/// ```
pub struct DatagramRequest {
    packet: Vec<u8>,
    position: usize,
    sent_length: usize,
    /// As it was received: the packet may have been taken since.
    is_truncated: bool,
    client_address: Address,
    local_ip: Option<IpAddr>,
    socket: Arc<dyn DatagramSocket>,
    context: ServerContext,
    answer: Option<Vec<u8>>,
    /// How long a receiver may have no room.
    write_timeout: Option<Duration>,
}

impl DatagramRequest {
    /// A request for `packet`: for transports, and for unit tests of handlers (with
    /// [`MemoryDatagrams`](crate::MemoryDatagrams) as the socket).
    ///
    /// `sent_length` is the length in bytes that the datagram had when it was sent; more than
    /// `packet.len()` if it was cut.
    pub fn new(
        packet: Vec<u8>,
        sent_length: usize,
        client_address: impl Into<Address>,
        socket: Arc<dyn DatagramSocket>,
    ) -> Self {
        DatagramRequest {
            is_truncated: sent_length > packet.len(),
            packet,
            position: 0,
            sent_length,
            client_address: client_address.into(),
            local_ip: None,
            socket,
            context: ServerContext::detached(),
            answer: None,
            write_timeout: None,
        }
    }

    /// The datagram's bytes; it may be empty.
    pub fn packet(&self) -> &[u8] {
        &self.packet
    }

    /// Takes the datagram's bytes, leaving none.
    pub fn take_packet(&mut self) -> Vec<u8> {
        self.position = 0;
        std::mem::take(&mut self.packet)
    }

    /// Whether the datagram was longer than [`max_packet_size`](crate::Config::max_packet_size) and the
    /// rest of it is lost. Taking the packet changes nothing about that.
    pub fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    /// How many bytes the datagram had when it was sent.
    pub fn sent_length(&self) -> usize {
        self.sent_length
    }

    /// Whose datagram it is. A Unix client that has bound neither a path nor an abstract name is
    /// [`Unnamed`](Address::Unnamed) and cannot be answered; nor can one with a path of 108 bytes, which bind(2) takes
    /// and the standard library does not.
    pub fn client_address(&self) -> &Address {
        &self.client_address
    }

    /// Which of the host's addresses the client has sent the datagram to, for handlers that serve each in a way of its
    /// own; [`reply`](Self::reply) answers from it. Of a datagram to a group, or to all, it is the address that is
    /// answered from. `None` where the system does not say: of a group over IPv6, of a server bound to a group, of a
    /// Unix socket. A server that is bound to a single address, be it a broadcast address, tells that one.
    ///
    /// ```
    /// use socketserver::prelude::*;
    ///
    /// let server = UdpServer::new("0.0.0.0:0", |request: &mut DatagramRequest| match request.local_ip() {
    ///     Some(ip) if ip.is_loopback() => request.reply("from this host"),
    ///     _ => request.reply("from elsewhere"),
    /// });
    /// ```
    ///
    /// A handler's own socket, for a conversation as in TFTP, is bound to it and connected to the [`ip`](Address::ip)
    /// of the client, which is of the same family, also where IPv4 clients come to a server at `[::]`. (With link-local
    /// addresses both need the `scope_id` of the client's.)
    ///
    /// ```
    /// use std::io;
    /// use std::net::UdpSocket;
    /// use socketserver::prelude::*;
    ///
    /// // With a thread for each datagram, so that nobody waits for another's transfer.
    /// let server = ThreadingUdpServer::new("[::]:0", |request: &mut DatagramRequest| -> io::Result<()> {
    ///     let client = request.client_address();
    ///     if let (Some(asked), Some(ip), Some(port)) = (request.local_ip(), client.ip(), client.port()) {
    ///         let own = UdpSocket::bind((asked, 0))?;
    ///         own.connect((ip, port))?;
    ///         own.send(b"from here on we talk")?;
    ///     }
    ///     Ok(())
    /// });
    /// ```
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.local_ip.or_else(|| self.context.server_ip())
    }

    /// With the [`local_ip`](Self::local_ip): for transports, and for unit tests of handlers.
    #[must_use]
    pub fn with_local_ip(mut self, local_ip: IpAddr) -> Self {
        self.local_ip = Some(local_ip);
        self
    }

    /// With the server's time for receivers without room, for hooks that reply before its time
    /// [begins](Request::begin).
    #[must_use]
    pub(crate) fn with_write_timeout(mut self, write_timeout: Option<Duration>) -> Self {
        self.write_timeout = write_timeout;
        self
    }

    /// The server, as far as a handler may use it.
    pub fn server(&self) -> &ServerContext {
        &self.context
    }

    /// Sends one datagram back, from the address that the client has asked; at once, unless the server
    /// [holds replies back](crate::Config::replies).
    ///
    /// # Errors
    ///
    /// * Those of sendto(2). Over UDP more than 65,507 bytes are too many (`EMSGSIZE`), over IPv6 more than 65,527. An
    ///   IPv4 server cannot send to an IPv6 address (`EAFNOSUPPORT`).
    /// * [`InvalidInput`](io::ErrorKind::InvalidInput): the client is [`Unnamed`](Address::Unnamed); the address is not
    ///   one of the Internet where the server's is, or the other way round; it is the name of a host, which nobody
    ///   resolves here.
    /// * [`TimedOut`](io::ErrorKind::TimedOut): a Unix client does not read, and the server's
    ///   [`write`](crate::Timeouts#structfield.write) time is over, or it is to stop at once. Until then it is waited
    ///   for: without that time one such client keeps a bare server from all others, as in Python. A receiver's queue
    ///   holds as many datagrams as the sysctl `net.unix.max_dgram_qlen` says, and one more; that of one that has
    ///   connected itself to the server has no such end. What all of them leave unread takes the room of the server's
    ///   socket (`SO_SNDBUF`): when that is full, no reply can be sent to anybody until one of them reads or closes.
    ///
    /// What goes wrong with a reply that is held back is known when this has returned, and logged as a warning.
    pub fn reply(&self, packet: impl AsRef<[u8]>) -> io::Result<()> {
        self.send(packet.as_ref(), &self.client_address)
    }

    /// Sends one datagram to anybody, from the server's socket.
    ///
    /// # Errors
    ///
    /// As [`reply`](Self::reply).
    pub fn send_to(&self, packet: impl AsRef<[u8]>, to: &Address) -> io::Result<()> {
        self.send(packet.as_ref(), to)
    }

    fn send(&self, packet: &[u8], to: &Address) -> io::Result<()> {
        let mut waits_since = None;
        loop {
            // Asked before: a socket that holds replies back, whose time has begun sooner, is done by then with
            // others'.
            let over = self.write_over(waits_since);
            match self.socket.send_datagram(packet, to) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(over) = over {
                        return Err(over.into());
                    }
                    self.wait_for_room()?;
                    waits_since.get_or_insert_with(Instant::now);
                }
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        self.context.sent(packet.len());
        Ok(())
    }

    /// The server's socket, to send from when the handler has returned; what goes to the client comes from the address
    /// that this has asked. Once the server has ended, sending fails (`ENOTSOCK`): a server that stops waits for
    /// handlers, not for what they have left to others. Under [`Forking`](crate::Forking) a thread that is to answer
    /// ends with the process of its handler.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::thread;
    /// use std::time::Duration;
    /// use socketserver::DatagramSocket;
    /// use socketserver::prelude::*;
    ///
    /// let server = UdpServer::new("127.0.0.1:0", |request: &mut DatagramRequest| {
    ///     let (socket, client_address) = (Arc::clone(request.get_ref()), request.client_address().clone());
    ///     thread::spawn(move || {
    ///         thread::sleep(Duration::from_secs(1));
    ///         if let Err(error) = socket.send_datagram(b"a second has passed", &client_address) {
    ///             eprintln!("{client_address}: {error}");
    ///         }
    ///     });
    /// });
    /// ```
    pub fn get_ref(&self) -> &Arc<dyn DatagramSocket> {
        &self.socket
    }

    /// What there is to say to a receiver that has had no room since then, if that is too long.
    fn write_over(&self, waits_since: Option<Instant>) -> Option<TimeoutError> {
        TimeoutError::since(waits_since?, TimeoutKind::Write, self.write_timeout?)
    }

    /// Goes on waiting for a receiver that has no room for a datagram, unless the server's patience is over.
    fn wait_for_room(&self) -> io::Result<()> {
        if self.context.is_forced() {
            let text = "the receiver takes no datagrams, and the server has been told to stop";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        // The server's own sockets have waited already, and been woken up at once if there was room; this
        // keeps those that never wait from spinning.
        thread::sleep(Duration::from_millis(1));
        Ok(())
    }

    /// A writer whose content goes back as one datagram when the handler has ended, even if it is
    /// empty: Python's `wfile`.
    pub fn wfile(&mut self) -> &mut impl Write {
        self.answer.get_or_insert_default()
    }
}

/// Reads the packet, as Python's `rfile`.
impl Read for DatagramRequest {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = (&self.packet[self.position..]).read(out)?;
        self.position += count;
        Ok(count)
    }
}

impl BufRead for DatagramRequest {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(&self.packet[self.position..])
    }

    fn consume(&mut self, count: usize) {
        self.position = self.position.saturating_add(count).min(self.packet.len());
    }
}

impl Request for DatagramRequest {
    fn client_address(&self) -> &Address {
        &self.client_address
    }

    fn attach(&mut self, context: ServerContext) {
        context.received_at_once(self.packet.len());
        self.context = context;
    }

    fn begin(&mut self, timeouts: Timeouts) -> io::Result<()> {
        self.write_timeout = timeouts.write;
        Ok(())
    }

    /// Sends what was written to [`wfile`](DatagramRequest::wfile).
    fn flush_wfile(&mut self) -> io::Result<()> {
        match self.answer.take() {
            Some(answer) => self.reply(&answer),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for DatagramRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramRequest")
            .field("client_address", &self.client_address)
            .field("length", &self.packet.len())
            .field("sent_length", &self.sent_length)
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

//! Names for every combination of server and strategy, and for the usual requests.

use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use crate::request::StreamRequest;

pub use servers::*;

/// A connection of a TCP server.
pub type TcpRequest = StreamRequest<TcpStream>;

/// A connection of a Unix stream server.
pub type UnixStreamRequest = StreamRequest<UnixStream>;

/// The signals' numbers (signal(7)): those a server is usually stopped by, and the rest.
pub mod signal {
    pub use signal_hook::consts::signal::*;
}

pub(crate) mod servers {
    use crate::server::SocketServer;
    use crate::strategy::{Forking, PreFork, ThreadPool, Threading};
    use crate::transport::{Tcp, Udp, UnixDatagrams, UnixStreams};

    /// Serves TCP connections, one at a time: Python's `TCPServer`.
    ///
    /// A client that keeps its connection open keeps all others waiting.
    pub type TcpServer<H> = SocketServer<Tcp, H>;
    /// Serves UDP datagrams, one at a time: Python's `UDPServer`.
    pub type UdpServer<H> = SocketServer<Udp, H>;
    /// Serves connections to a Unix socket, one at a time: Python's `UnixStreamServer`.
    pub type UnixStreamServer<H> = SocketServer<UnixStreams, H>;
    /// Serves datagrams to a Unix socket, one at a time: Python's `UnixDatagramServer`.
    pub type UnixDatagramServer<H> = SocketServer<UnixDatagrams, H>;

    /// Serves each TCP connection in a thread: Python's `ThreadingTCPServer`.
    pub type ThreadingTcpServer<H> = Threading<TcpServer<H>>;
    /// Serves each UDP datagram in a thread: Python's `ThreadingUDPServer`.
    pub type ThreadingUdpServer<H> = Threading<UdpServer<H>>;
    /// Serves each Unix connection in a thread: Python's `ThreadingUnixStreamServer`.
    pub type ThreadingUnixStreamServer<H> = Threading<UnixStreamServer<H>>;
    /// Serves each Unix datagram in a thread: Python's `ThreadingUnixDatagramServer`.
    pub type ThreadingUnixDatagramServer<H> = Threading<UnixDatagramServer<H>>;

    /// Serves each TCP connection in a process: Python's `ForkingTCPServer`.
    pub type ForkingTcpServer<H> = Forking<TcpServer<H>>;
    /// Serves each UDP datagram in a process: Python's `ForkingUDPServer`.
    pub type ForkingUdpServer<H> = Forking<UdpServer<H>>;
    /// Serves each Unix connection in a process: Python's `ForkingUnixStreamServer`.
    pub type ForkingUnixStreamServer<H> = Forking<UnixStreamServer<H>>;
    /// Serves each Unix datagram in a process: Python's `ForkingUnixDatagramServer`.
    pub type ForkingUnixDatagramServer<H> = Forking<UnixDatagramServer<H>>;

    /// Serves TCP connections in a pool of threads.
    pub type ThreadPoolTcpServer<H> = ThreadPool<TcpServer<H>>;
    /// Serves UDP datagrams in a pool of threads.
    pub type ThreadPoolUdpServer<H> = ThreadPool<UdpServer<H>>;
    /// Serves Unix connections in a pool of threads.
    pub type ThreadPoolUnixStreamServer<H> = ThreadPool<UnixStreamServer<H>>;
    /// Serves Unix datagrams in a pool of threads.
    pub type ThreadPoolUnixDatagramServer<H> = ThreadPool<UnixDatagramServer<H>>;

    /// Serves TCP connections in a pool of processes.
    pub type PreForkTcpServer<H> = PreFork<TcpServer<H>>;
    /// Serves UDP datagrams in a pool of processes.
    pub type PreForkUdpServer<H> = PreFork<UdpServer<H>>;
    /// Serves Unix connections in a pool of processes.
    pub type PreForkUnixStreamServer<H> = PreFork<UnixStreamServer<H>>;
    /// Serves Unix datagrams in a pool of processes.
    pub type PreForkUnixDatagramServer<H> = PreFork<UnixDatagramServer<H>>;
}

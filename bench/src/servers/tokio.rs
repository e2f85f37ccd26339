//! tokio with its usual runtime: a thread for each processor, a task for each connection.

use std::io;
use std::os::fd::AsFd;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket, UnixDatagram, UnixListener};

use super::{ALL, BUFFER, BULK_BUFFER, Kind, Server, Setup, Transport, announce, announce_listener, local_address};

pub const SERVERS: &[Server] = &[Server {
    name: "tokio",
    kind: Kind::Peer,
    about: "tokio's multi-threaded runtime, a task for each connection; datagrams in one task",
    transports: ALL,
    run: |setup| {
        tokio::runtime::Builder::new_multi_thread()
            .enable_io()
            .build()?
            .block_on(run(setup))
    },
}];

async fn run(setup: &Setup) -> io::Result<()> {
    let (address, bulk) = (&setup.address, setup.bulk);
    match setup.transport {
        Transport::Tcp => {
            let listener = TcpListener::bind(address).await?;
            announce_listener(&listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                if bulk {
                    stream.set_nodelay(true)?;
                }
                start_echo(stream, bulk);
            }
        }
        Transport::Unix => {
            let listener = UnixListener::bind(address)?;
            announce_listener(&listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                start_echo(stream, bulk);
            }
        }
        Transport::Udp => {
            let socket = UdpSocket::bind(address).await?;
            announce(local_address(socket.as_fd())?)?;
            // In a task: what `block_on` runs is not on one of the runtime's threads.
            tokio::spawn(async move {
                let mut buffer = vec![0; BULK_BUFFER];
                loop {
                    let (count, from) = socket.recv_from(&mut buffer).await?;
                    socket.send_to(&buffer[..count], from).await?;
                }
            })
            .await?
        }
        Transport::Unixgram => {
            let socket = UnixDatagram::bind(address)?;
            announce(local_address(socket.as_fd())?)?;
            tokio::spawn(async move {
                let mut buffer = vec![0; BULK_BUFFER];
                loop {
                    let (count, from) = socket.recv_from(&mut buffer).await?;
                    let path = from.as_pathname().ok_or(io::ErrorKind::AddrNotAvailable)?;
                    socket.send_to(&buffer[..count], path).await?;
                }
            })
            .await?
        }
    }
}

fn start_echo(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, bulk: bool) {
    // What ends one is a client that is gone; the load generator counts what it did not get.
    if bulk {
        tokio::spawn(echo::<BULK_BUFFER>(stream));
    } else {
        tokio::spawn(echo::<BUFFER>(stream));
    }
}

async fn echo<const SIZE: usize>(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = [0; SIZE];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count]).await?;
    }
}

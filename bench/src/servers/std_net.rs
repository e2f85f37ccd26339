//! `std::net` as most programs use it, and the threadpool crate behind it.

use std::io::{self, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::Arc;
use std::thread;

use threadpool::ThreadPool;

use super::{
    ALL, BUFFER, BULK_BUFFER, DATAGRAMS, Kind, STREAMS, Server, Setup, Transport, announce, announce_listener,
    local_address,
};

pub const SERVERS: &[Server] = &[
    Server {
        name: "std-thread",
        kind: Kind::Peer,
        about: "std::net with thread::spawn for each request",
        transports: ALL,
        run: |setup| match setup.transport {
            Transport::Tcp | Transport::Unix => streams(setup, None),
            Transport::Udp | Transport::Unixgram => datagrams(setup, true),
        },
    },
    Server {
        name: "std-sync",
        kind: Kind::Peer,
        about: "std::net, one datagram at a time",
        transports: DATAGRAMS,
        run: |setup| datagrams(setup, false),
    },
    Server {
        name: "threadpool-4",
        kind: Kind::Peer,
        about: "std::net and the threadpool crate, 4 threads",
        transports: STREAMS,
        run: |setup| streams(setup, Some(&ThreadPool::new(4))),
    },
    Server {
        name: "threadpool-8",
        kind: Kind::Peer,
        about: "std::net and the threadpool crate, 8 threads",
        transports: STREAMS,
        run: |setup| streams(setup, Some(&ThreadPool::new(8))),
    },
];

fn streams(setup: &Setup, pool: Option<&ThreadPool>) -> io::Result<()> {
    if setup.transport == Transport::Tcp {
        let listener = TcpListener::bind(&setup.address)?;
        announce_listener(&listener)?;
        let incoming = listener.incoming().inspect(|stream| {
            if let (true, Ok(stream)) = (setup.bulk, stream) {
                // Fails if the client is gone, which its thread will see.
                let _ = stream.set_nodelay(true);
            }
        });
        serve(incoming, setup.bulk, pool)
    } else {
        let listener = UnixListener::bind(&setup.address)?;
        announce_listener(&listener)?;
        serve(listener.incoming(), setup.bulk, pool)
    }
}

fn serve<S: Read + Write + Send + 'static>(
    incoming: impl Iterator<Item = io::Result<S>>,
    bulk: bool,
    pool: Option<&ThreadPool>,
) -> io::Result<()> {
    for stream in incoming {
        let mut stream = stream?;
        let work = move || {
            // A client that is gone; the load generator counts what it did not get.
            let _ = if bulk {
                echo::<BULK_BUFFER>(&mut stream)
            } else {
                echo::<BUFFER>(&mut stream)
            };
        };
        match pool {
            Some(pool) => pool.execute(work),
            None => drop(thread::spawn(work)),
        }
    }
    Ok(())
}

/// Not inlined: else each connection's stack has room for the larger buffer.
#[inline(never)]
fn echo<const SIZE: usize>(stream: &mut (impl Read + Write)) -> io::Result<()> {
    let mut buffer = [0; SIZE];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count])?;
    }
}

fn datagrams(setup: &Setup, in_threads: bool) -> io::Result<()> {
    if setup.transport == Transport::Udp {
        let socket = UdpSocket::bind(&setup.address)?;
        announce(local_address(socket.as_fd())?)?;
        answer(socket, UdpSocket::recv_from, UdpSocket::send_to, in_threads)
    } else {
        let socket = UnixDatagram::bind(&setup.address)?;
        announce(local_address(socket.as_fd())?)?;
        answer(
            socket,
            UnixDatagram::recv_from,
            |socket, packet, to| socket.send_to_addr(packet, &to),
            in_threads,
        )
    }
}

type Receive<S, A> = fn(&S, &mut [u8]) -> io::Result<(usize, A)>;

fn answer<S: Send + Sync + 'static, A: Send + 'static>(
    socket: S,
    receive: Receive<S, A>,
    send: fn(&S, &[u8], A) -> io::Result<usize>,
    in_threads: bool,
) -> io::Result<()> {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; BULK_BUFFER];
    loop {
        let (count, from) = receive(&socket, &mut buffer)?;
        if in_threads {
            let (socket, packet) = (Arc::clone(&socket), buffer[..count].to_vec());
            thread::spawn(move || send(&socket, &packet, from));
        } else {
            // A client that is gone, as above.
            let _ = send(&socket, &buffer[..count], from);
        }
    }
}

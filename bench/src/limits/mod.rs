//! What the strategies reach at best: servers by hand on system calls, as one would write them in C.
//!
//! No `std::net`, no `std::thread`: descriptors are integers, threads are pthreads, waiting is futex(2).

mod leader_follower;
mod sys;
mod threads;

use std::io;

use crate::servers::{Kind, STREAMS, Server, Setup};

/// A limit for connections.
const fn streams(name: &'static str, about: &'static str, run: fn(&Setup) -> io::Result<()>) -> Server {
    Server {
        name,
        kind: Kind::Limit,
        about,
        transports: STREAMS,
        run,
    }
}

pub const SERVERS: &[Server] = &[
    streams("libc-sync", "one connection at a time", threads::sync),
    streams(
        "libc-lf",
        "leader/follower: idle threads block in accept4 themselves",
        leader_follower::blocking,
    ),
    streams(
        "libc-lf-epoll",
        "leader/follower on a shared epoll of listener and eventfd, at most 4 waiters",
        leader_follower::epoll,
    ),
    streams(
        "libc-park",
        "one thread accepts and hands over to parked threads",
        threads::parked,
    ),
    streams("libc-accept-4", "4 threads in accept4", threads::accepting::<4>),
    streams("libc-accept-8", "8 threads in accept4", threads::accepting::<8>),
    streams(
        "libc-thread",
        "pthread_create for each connection",
        threads::thread_each,
    ),
];

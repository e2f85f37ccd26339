//! What the strategies reach at best: servers by hand on system calls, as one would write them in C.
//!
//! No `std::net`, no `std::thread`: descriptors are integers, threads are pthreads, waiting is futex(2).

mod datagrams;
mod event_loop;
mod fork;
mod leader_follower;
mod sys;
mod threads;

use std::io;

use crate::servers::{DATAGRAMS, Kind, STREAMS, Server, Setup, TCP, Transport};

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

/// A limit for connections that are accepted when they have brought something.
const fn deferred(name: &'static str, about: &'static str, run: fn(&Setup) -> io::Result<()>) -> Server {
    Server {
        transports: TCP,
        ..streams(name, about, run)
    }
}

fn defer(setup: &Setup) -> Setup {
    Setup {
        defer_accept: true,
        ..setup.clone()
    }
}

/// A limit for datagrams.
const fn datagrams(
    name: &'static str,
    about: &'static str,
    transports: &'static [Transport],
    run: fn(&Setup) -> io::Result<()>,
) -> Server {
    Server {
        transports,
        ..streams(name, about, run)
    }
}

pub const SERVERS: &[Server] = &[
    streams("libc-sync", "one connection at a time", threads::sync),
    streams(
        "libc-lf",
        "leader/follower: idle threads block in accept4 themselves",
        leader_follower::blocking,
    ),
    streams("libc-lf-batch", "libc-lf under SCHED_BATCH", |setup| {
        sys::schedule_in_batches()?;
        leader_follower::blocking(setup)
    }),
    deferred("libc-lf-defer", "libc-lf with TCP_DEFER_ACCEPT", |setup| {
        leader_follower::blocking(&defer(setup))
    }),
    deferred(
        "libc-lf-defer-batch",
        "libc-lf with TCP_DEFER_ACCEPT under SCHED_BATCH",
        |setup| {
            sys::schedule_in_batches()?;
            leader_follower::blocking(&defer(setup))
        },
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
    streams(
        "libc-accept-4-batch",
        "4 threads in accept4 under SCHED_BATCH",
        |setup| {
            sys::schedule_in_batches()?;
            threads::accepting::<4>(setup)
        },
    ),
    deferred(
        "libc-accept-4-defer",
        "4 threads in accept4 with TCP_DEFER_ACCEPT",
        |setup| threads::accepting::<4>(&defer(setup)),
    ),
    deferred(
        "libc-accept-4-defer-batch",
        "4 threads in accept4 with TCP_DEFER_ACCEPT under SCHED_BATCH",
        |setup| {
            sys::schedule_in_batches()?;
            threads::accepting::<4>(&defer(setup))
        },
    ),
    streams("libc-accept-8", "8 threads in accept4", threads::accepting::<8>),
    streams(
        "libc-thread",
        "pthread_create for each connection",
        threads::thread_each,
    ),
    streams("libc-epoll", "one thread and an epoll loop", event_loop::run),
    datagrams("libc-recvfrom", "recvfrom and sendto", DATAGRAMS, datagrams::one_by_one),
    datagrams(
        "libc-recvmmsg",
        "recvmmsg, a sendto for each answer",
        DATAGRAMS,
        datagrams::received_together,
    ),
    datagrams(
        "libc-sendmmsg",
        "recvmmsg and sendmmsg",
        DATAGRAMS,
        datagrams::sent_together,
    ),
    datagrams(
        "libc-segment",
        "recvmmsg, and UDP_SEGMENT for the answers to one client",
        &[Transport::Udp],
        datagrams::sent_in_segments,
    ),
    datagrams(
        "libc-recvfrom-lf",
        "leader/follower: at most 4 idle threads in recvfrom",
        DATAGRAMS,
        leader_follower::datagrams,
    ),
];

pub const FORKING: &[Server] = &[streams("libc-fork", "fork for each connection", fork::fork_each)];

//! The servers of this crate. A variant is one entry of the list.

use std::io::{self, Read, Write};
use std::time::Duration;

use socketserver::Replies;
use socketserver::prelude::*;

use super::forward::Forward;
use super::{ALL, BUFFER, BULK_BUFFER, DATAGRAMS, DEFER_SECONDS, Kind, STREAMS, Server, TCP, Transport, announce};

/// Each entry is a name, the transports, what it is, and the stack over the bare server.
macro_rules! servers {
    ($list:ident: $($name:literal, $transports:expr, $about:literal, |$bare:ident| $stack:expr;)*) => {
        pub const $list: &[Server] = &[$(Server {
            name: $name,
            kind: Kind::Ours,
            about: $about,
            transports: $transports,
            run: |setup| {
                let handler = Echo { bulk: setup.bulk };
                let address = setup.address.as_str();
                match setup.transport {
                    Transport::Tcp => { let $bare = TcpServer::new(address, handler); run($stack) }
                    Transport::Unix => { let $bare = UnixStreamServer::new(address, handler); run($stack) }
                    Transport::Udp => { let $bare = UdpServer::new(address, handler); run($stack) }
                    Transport::Unixgram => { let $bare = UnixDatagramServer::new(address, handler); run($stack) }
                }
            },
        }),*];
    };
}

servers! {
    SERVERS:
    "sync", ALL, "one request at a time", |server| server;
    "sync-batched", DATAGRAMS, "one request at a time, replies sent together",
        |server| server.replies(Replies::Batched);
    "sync-segmented", &[Transport::Udp], "one request at a time, replies to one client sent as segments",
        |server| server.replies(Replies::Segmented);
    "threading", ALL, "Threading", |server| server.threading();
    "threading-mixins", STREAMS, "Threading under three stacked mix-ins",
        |server| Forward(Forward(Forward(server.threading())));
    "threading-batch", STREAMS, "Threading with sched_batch", |server| server.threading().sched_batch(true);
    "threading-defer", TCP, "Threading with defer_accept", |server| server.threading().defer_accept(DEFER);
    "threading-defer-batch", TCP, "Threading with defer_accept and sched_batch",
        |server| server.threading().defer_accept(DEFER).sched_batch(true);
    "threading-stack-256k", STREAMS, "Threading with a stack_size of 256 KiB, as the limits have",
        |server| server.threading().stack_size(256 * 1024);
    "pool-4", STREAMS, "ThreadPool of 4 workers", |server| server.thread_pool().workers(4);
    "pool-4-batch", STREAMS, "ThreadPool of 4 workers with sched_batch",
        |server| server.thread_pool().workers(4).sched_batch(true);
    "pool-4-defer", TCP, "ThreadPool of 4 workers with defer_accept",
        |server| server.thread_pool().workers(4).defer_accept(DEFER);
    "pool-4-defer-batch", TCP, "ThreadPool of 4 workers with defer_accept and sched_batch",
        |server| server.thread_pool().workers(4).defer_accept(DEFER).sched_batch(true);
    "pool-8", STREAMS, "ThreadPool of 8 workers", |server| server.thread_pool().workers(8);
}

servers! {
    FORKING:
    "forking", STREAMS, "Forking", |server| server.forking();
    "forked-ahead-4", STREAMS, "PreFork: a process for each connection, 4 forked ahead",
        |server| server.prefork().workers(4).max_requests(1).max_requests_jitter(0);
    "forked-ahead-32", STREAMS, "PreFork: a process for each connection, 32 forked ahead",
        |server| server.prefork().workers(32).max_requests(1).max_requests_jitter(0);
    "prefork-8", ALL, "PreFork of 8 workers that stay", |server| server.prefork().workers(8).max_requests(None);
    "prefork-8-recycled", ALL, "PreFork of 8 workers, replaced after 1000 requests each",
        |server| server.prefork().workers(8);
}

const DEFER: Duration = Duration::from_secs(DEFER_SECONDS as u64);

fn run(server: impl BaseServer) -> io::Result<()> {
    let server = server.shutdown_on_signals([signal::SIGTERM]).bind()?;
    announce(server.server_address())?;
    server.serve_forever().map(drop)
}

/// Sends everything back.
#[derive(Clone)]
struct Echo {
    bulk: bool,
}

impl<S: Stream> BaseRequestHandler<StreamRequest<S>> for Echo {
    fn handle(&mut self, request: &mut StreamRequest<S>) -> HandlerResult {
        if self.bulk {
            request.disable_nagle_algorithm()?;
            echo::<BULK_BUFFER>(request)
        } else {
            echo::<BUFFER>(request)
        }
    }
}

/// Not inlined: else each connection's stack has room for the larger buffer.
#[inline(never)]
fn echo<const SIZE: usize>(request: &mut (impl Read + Write)) -> HandlerResult {
    let mut buffer = [0; SIZE];
    loop {
        let count = request.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        request.write_all(&buffer[..count])?;
    }
}

impl BaseRequestHandler<DatagramRequest> for Echo {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        Ok(request.reply(request.packet())?)
    }
}

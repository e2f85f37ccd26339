//! What may be moved to, and shared with, other threads: auto traits are part of the interface, and nobody
//! writes them down. A type that loses one does not compile here.

#![expect(clippy::wildcard_imports, reason = "it names every public type")]

mod support;

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Debug;
use std::net::TcpStream;

use socketserver::framing::*;
use socketserver::prelude::*;
use socketserver::*;
use support::EchoLine;

tests![every_public_type_is_among_them];

/// Checks that each of the types has the traits, and names the types.
macro_rules! types {
    ($list:ident: $bounds:path; $($type:ty),+ $(,)?) => {
        const $list: &[&str] = {
            const fn check<T: $bounds>() {}
            $(check::<$type>();)+
            &[$(stringify!($type)),+]
        };
    };
}

trait Shared: Send + Sync + Debug + 'static {}
impl<T: Send + Sync + Debug + 'static> Shared for T {}

trait Moved: Send + Debug {}
impl<T: Send + Debug> Moved for T {}

trait AnError: Error + Send + 'static {}
impl<T: Error + Send + 'static> AnError for T {}

types! { SHARED: Shared;
    Address, AddressFamily, Concurrency, Config, Core<Tcp>, Force, Handled, PeerCredentials, Phase, Replies, Report, Running,
    ServerContext, ServerHandle, ShutdownHandle, SignalAction, SocketType, State, Timeout<()>, TimeoutKind, Timeouts,
    WaitError, Capacity, Limit, LimitKind, OnLimit, RateLimit, Connection, Stats, CountingObserver, Event<'static>,
    EventCounts, LoggingObserver, Outcome,
    SocketServer<Tcp, EchoLine>, Threading<TcpServer<EchoLine>>, Forking<UdpServer<EchoLine>>,
    ThreadPool<UnixStreamServer<EchoLine>>, PreFork<UnixDatagramServer<EchoLine>>,
    Tcp, Udp, UnixDatagrams, UnixStreams,
    StreamRequest<TcpStream>, DatagramRequest, MemoryStream, MemoryDatagrams,
    Builder, Decoded, DelimiterCodec, FixedLengthCodec, Frame, Framed<TcpStream, LinesCodec>,
    FramedParts<TcpStream, LinesCodec>, LengthDelimitedCodec, LinesCodec, NetstringCodec, WholeStreamCodec,
}

// What one thread at a time has. A panic's payload, in a `Cause`, is never `Sync`.
types! { MOVED: Moved;
    Acceptor<Udp>, Active<Tcp>, Cause, Job<UnixStreams>, RequestError, RFile<'static, TcpStream>,
    WFile<'static, TcpStream>,
}

types! { ERRORS: AnError; DecodeError, EncodeError, RequestError, TimeoutError, WaitError }

fn every_public_type_is_among_them() {
    let without_arguments = |name: &'static str| name.split('<').next().unwrap();
    let checked: Vec<_> = [SHARED, MOVED, ERRORS]
        .concat()
        .into_iter()
        .map(without_arguments)
        .collect();
    let names = include_str!("public_names.txt").lines();
    let types = names.filter_map(|line| line.strip_prefix("struct ").or(line.strip_prefix("enum ")));
    // The list has modules before types, and members after them.
    let missing: BTreeSet<_> = types
        .filter_map(|path| path.split("::").find(|part| part.starts_with(char::is_uppercase)))
        .filter(|name| !checked.contains(name))
        .collect();
    assert!(missing.is_empty(), "add to this file: {missing:?}");
}

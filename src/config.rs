//! The attributes of a server that can be set before it is bound.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::error::invalid_input;
use crate::lifecycle::SignalAction;
use crate::limits::{self, Limit, RateLimit};
use crate::observer::Observer;
use crate::server::BaseServer;
use crate::timeouts::Timeouts;
use crate::transport::Replies;

/// The attributes of a server: Python's class attributes and a few of our own.
///
/// Read with [`BaseServer::config`], set with the methods of [`Configure`].
#[derive(Clone)]
#[non_exhaustive]
pub struct Config {
    /// How long [`handle_request`](BaseServer::handle_request) waits for a request; `None` (the
    /// default): for ever. `serve_forever` has no use for it, as in Python.
    pub timeout: Option<Duration>,
    /// How often at least `service_actions` runs while nothing happens; `None` (the default): only
    /// when something happens, so an idle server sleeps. Zero does not bind. Python: 0.5 s.
    pub poll_interval: Option<Duration>,
    /// Connections that the kernel queues until they are accepted: listen(2)'s backlog. Default 4096,
    /// which the kernel cuts to `net.core.somaxconn`. Python: 5.
    pub request_queue_size: u32,
    /// `SO_REUSEADDR` (socket(7)): a TCP server can be bound again at once although connections of
    /// its predecessor linger in TIME-WAIT. Default true for TCP. UDP and Unix sockets ignore it: on
    /// UDP it would let two servers share a port unnoticed. (Those that listen to a multicast group want that:
    /// [`before_bind`](Configure::before_bind).) Python: false.
    pub allow_reuse_address: bool,
    /// `SO_REUSEPORT` (socket(7)): several sockets of one user on one port, each of which gets a share by a hash
    /// of the client's address. Default false. Unix sockets ignore it.
    ///
    /// Each server of such a group, in this process or in others, has a queue of its own: one program can start
    /// beside its predecessor, and on many processors no queue is fought for. It does not balance: a client waits in
    /// the queue that it fell to although another server has nothing to do, so up to a few processors one server of
    /// several threads or [`PreFork`](crate::PreFork) is better. What the queue of a server that is killed holds
    /// is reset, unless `net.ipv4.tcp_migrate_req` is set; one that is told to stop serves it first, and clients
    /// that fall to it in the meantime try again a second later. Over UDP nobody tries again for them: the system goes
    /// on giving it its share as long as it has the socket, which replies need, so these datagrams are lost until its
    /// last request in progress has ended. There, share [one socket](crate::SocketServer::with_transport), or give it
    /// little time for that ([`drain_timeout`](Configure::drain_timeout)).
    pub allow_reuse_port: bool,
    /// `TCP_DEFER_ACCEPT` (tcp(7)): a connection is accepted only when its client has sent something, or when
    /// about so long has passed: the kernel rounds up to its times of 1, 3, 7, 15, 31, 63 s and so on. Default
    /// `None`: at once. Sockets other than TCP ignore it.
    ///
    /// Only for protocols in which the client speaks first: a client that waits for a greeting gets it that much
    /// later. It pays with short connections: the thread that accepts finds something to read instead of sleeping
    /// once more, which makes it a tenth faster, and a client that never speaks costs no thread meanwhile. The
    /// limits and the clocks begin when a connection is accepted. If the server stops before that, its client is
    /// reset when it speaks.
    pub defer_accept: Option<Duration>,
    /// `TCP_FASTOPEN` (tcp(7), RFC 7413): clients that ask for it may send their first bytes with their SYN, and so
    /// have their answer a round trip sooner; so many such connections at most may be on their way at a time. Default
    /// `None`: off. Sockets other than TCP ignore it.
    ///
    /// Only for requests that may come twice: the network can repeat a SYN with what is in it. It pays where round
    /// trips are long and connections short. The kernel takes part if the second bit of `net.ipv4.tcp_fastopen` is
    /// set, which it is not by default, and says nothing if not.
    pub tcp_fast_open: Option<u32>,
    /// `IPV6_V6ONLY` (ipv6(7)): whether an IPv6 server refuses IPv4 clients. `None` (the default):
    /// as the system has it (`net.ipv6.bindv6only`), which mostly does not. A server at `[::]` beside one at `0.0.0.0`
    /// with the same port needs true.
    pub only_v6: Option<bool>,
    /// The longest datagram that is received whole, in bytes; a longer one is cut and says so
    /// ([`DatagramRequest::is_truncated`](crate::DatagramRequest::is_truncated)). Default 65,535, which
    /// no UDP datagram exceeds. Python: 8,192, cut silently.
    pub max_packet_size: usize,
    /// When a datagram server sends its replies; [at once](Replies::AtOnce) by default.
    pub replies: Replies,
    /// How long a server that was told to stop waits for the requests in progress before it shuts their
    /// sockets down. Default 30 s; zero: at once; `None`: for ever, as Python's `block_on_close`.
    ///
    /// A bare server that is busy in a handler keeps it, too: a timer interrupts it with SIGURG, which must
    /// not be blocked in every thread of the program, and the handler's reads and writes end. Nor may the program have
    /// it ignored while it serves: threads that wait in accept(2) would not hear that the server was told to stop.
    pub drain_timeout: Option<Duration>,
    /// How long the peers of connections may take. Default: for ever, as in Python. Of datagrams only replies have a
    /// clock, [`write`](Timeouts#structfield.write).
    pub timeouts: Timeouts,
    /// The permissions of a Unix socket's file: who has write permission may connect (unix(7)). They are
    /// exactly these, whatever the umask, before anybody can connect. `None` (the default): what the umask
    /// leaves of `0o777`, or `0o660` if an owner is set. Other sockets have no file.
    pub socket_mode: Option<u32>,
    /// The user that a Unix socket's file belongs to; `None` (the default): the one that binds it.
    pub socket_uid: Option<u32>,
    /// The group that a Unix socket's file belongs to; `None` (the default): as for any new file there.
    pub socket_gid: Option<u32>,
    /// How many requests (connections or datagrams) may be in progress at once; `None` (the default): as many
    /// as the strategy has room for. Where it has room for fewer, [its limit](crate#limit) decides.
    pub max_connections: Option<Limit>,
    /// How many requests of one client address may be in progress at once; `None` (the default): no limit.
    /// An address is an IPv4 address or an IPv6 /64 (link-local ones count whole, and on each link by themselves);
    /// clients of Unix sockets have none.
    pub max_per_address: Option<Limit>,
    /// How many requests of one client address may come in a time; `None` (the default): no limit.
    pub max_rate_per_address: Option<RateLimit>,
    /// How many requests may [wait](crate::OnLimit::Wait) because of the limits on their address, for all addresses
    /// together; one beyond is rejected. Each costs a descriptor (a datagram: its memory). Default 128.
    pub max_waiting: usize,
    /// What a rejected connection is sent before it is closed; nothing by default. A few kilobytes at most:
    /// what does not fit into the empty send buffer of the socket is cut off.
    pub farewell: Vec<u8>,
    /// `SCHED_BATCH` (sched(7)) for the thread that serves, under [`serve_forever`](BaseServer::serve_forever) and
    /// [`spawn`](BaseServer::spawn), and for all threads and processes that come from it, those that handlers start
    /// included. When it has served, it has the policy that it had. Default false.
    ///
    /// It pays with many short connections: a thread that was woken does not interrupt the one that runs, so they
    /// wake up in batches, and 16 clients at once are served a fifth to a half faster. The price is latency: one
    /// request in a hundred takes twice as long, and on a host that is busy with other work they all wait for that.
    ///
    /// It needs no privilege. A thread with another policy than the default one keeps it, and where the system
    /// refuses, serving goes on without: a warning in the log says so.
    pub sched_batch: bool,
    pub(crate) observers: Vec<Arc<dyn Observer>>,
    /// One action a signal.
    pub(crate) signals: Vec<(i32, SignalAction)>,
    pub(crate) before_bind: Option<SocketHook>,
}

/// Sets options on a socket that is not bound yet.
pub(crate) type SocketHook = Arc<dyn Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync>;

impl Config {
    /// # Errors
    ///
    /// With these attributes a server would serve nobody, or keep a processor busy.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.timeouts.check()?;
        if self.poll_interval == Some(Duration::ZERO) {
            return Err(invalid_input(
                "a poll_interval of zero would keep a processor busy; set none to do something only when something \
                 happens",
            ));
        }
        limits::check(self)
    }

    fn on_signal(&mut self, signal: i32, action: SignalAction) {
        self.signals.retain(|(other, _)| *other != signal);
        self.signals.push((signal, action));
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            timeout: None,
            poll_interval: None,
            request_queue_size: 4096,
            allow_reuse_address: true,
            allow_reuse_port: false,
            defer_accept: None,
            tcp_fast_open: None,
            only_v6: None,
            max_packet_size: 65_535,
            replies: Replies::AtOnce,
            drain_timeout: Some(Duration::from_secs(30)),
            timeouts: Timeouts::new(),
            socket_mode: None,
            socket_uid: None,
            socket_gid: None,
            max_connections: None,
            max_per_address: None,
            max_rate_per_address: None,
            max_waiting: 128,
            farewell: Vec::new(),
            sched_batch: false,
            observers: Vec::new(),
            signals: Vec::new(),
            before_bind: None,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("timeout", &self.timeout)
            .field("poll_interval", &self.poll_interval)
            .field("request_queue_size", &self.request_queue_size)
            .field("allow_reuse_address", &self.allow_reuse_address)
            .field("allow_reuse_port", &self.allow_reuse_port)
            .field("defer_accept", &self.defer_accept)
            .field("tcp_fast_open", &self.tcp_fast_open)
            .field("only_v6", &self.only_v6)
            .field("max_packet_size", &self.max_packet_size)
            .field("replies", &self.replies)
            .field("drain_timeout", &self.drain_timeout)
            .field("timeouts", &self.timeouts)
            .field("socket_mode", &self.socket_mode)
            .field("socket_uid", &self.socket_uid)
            .field("socket_gid", &self.socket_gid)
            .field("max_connections", &self.max_connections)
            .field("max_per_address", &self.max_per_address)
            .field("max_rate_per_address", &self.max_rate_per_address)
            .field("max_waiting", &self.max_waiting)
            .field("farewell", &self.farewell)
            .field("sched_batch", &self.sched_batch)
            .field("observers", &self.observers.len())
            .field("signals", &self.signals)
            .finish_non_exhaustive()
    }
}

/// Setters for the attributes of any server, whatever is stacked on it, by value and before it is bound.
///
/// Each is described at the field of [`Config`] that it sets.
///
/// ```
/// use std::time::Duration;
/// use socketserver::prelude::*;
///
/// let server = ThreadingTcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {})
///     .request_queue_size(128)
///     .drain_timeout(Duration::from_secs(5))
///     .shutdown_on_signals([signal::SIGINT, signal::SIGTERM])
///     .bind()?;
/// assert_eq!(server.config().request_queue_size, 128);
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Configure: BaseServer {
    /// Sets how long `handle_request` waits ([`Config::timeout`]).
    #[must_use]
    fn timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        self.core().configure(|config| config.timeout = timeout.into());
        self
    }

    /// Sets how often at least `service_actions` runs ([`Config::poll_interval`]).
    #[must_use]
    fn poll_interval(self, interval: impl Into<Option<Duration>>) -> Self {
        self.core().configure(|config| config.poll_interval = interval.into());
        self
    }

    /// Sets listen(2)'s backlog, in connections ([`Config::request_queue_size`]).
    #[must_use]
    fn request_queue_size(self, connections: u32) -> Self {
        self.core().configure(|config| config.request_queue_size = connections);
        self
    }

    /// Sets `SO_REUSEADDR` ([`Config::allow_reuse_address`]).
    #[must_use]
    fn allow_reuse_address(self, allow: bool) -> Self {
        self.core().configure(|config| config.allow_reuse_address = allow);
        self
    }

    /// Sets `SO_REUSEPORT` ([`Config::allow_reuse_port`]).
    #[must_use]
    fn allow_reuse_port(self, allow: bool) -> Self {
        self.core().configure(|config| config.allow_reuse_port = allow);
        self
    }

    /// Accepts a TCP connection only when its client has sent something, or when about so long has passed:
    /// `TCP_DEFER_ACCEPT`, for protocols in which the client speaks first ([`Config::defer_accept`]).
    ///
    /// ```
    /// use std::time::Duration;
    /// use socketserver::prelude::*;
    ///
    /// let server = ThreadingTcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {})
    ///     .defer_accept(Duration::from_secs(30))
    ///     .bind()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    fn defer_accept(self, at_most: impl Into<Option<Duration>>) -> Self {
        self.core().configure(|config| config.defer_accept = at_most.into());
        self
    }

    /// Takes the first bytes of TCP clients with their SYN, of so many connections at a time: `TCP_FASTOPEN`, for
    /// requests that may come twice ([`Config::tcp_fast_open`]).
    #[must_use]
    fn tcp_fast_open(self, connections: impl Into<Option<u32>>) -> Self {
        self.core()
            .configure(|config| config.tcp_fast_open = connections.into());
        self
    }

    /// Sets `IPV6_V6ONLY` ([`Config::only_v6`]).
    #[must_use]
    fn only_v6(self, only: bool) -> Self {
        self.core().configure(|config| config.only_v6 = Some(only));
        self
    }

    /// Sets the longest datagram that is received whole, in bytes ([`Config::max_packet_size`]).
    #[must_use]
    fn max_packet_size(self, bytes: usize) -> Self {
        self.core().configure(|config| config.max_packet_size = bytes);
        self
    }

    /// Sets when a datagram server sends its replies ([`Config::replies`]).
    #[must_use]
    fn replies(self, replies: Replies) -> Self {
        self.core().configure(|config| config.replies = replies);
        self
    }

    /// Sets how long a stopping server waits for requests in progress ([`Config::drain_timeout`]).
    #[must_use]
    fn drain_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        self.core().configure(|config| config.drain_timeout = timeout.into());
        self
    }

    /// Sets how long the peer of a connection may send nothing while it is waited for
    /// ([`Timeouts::idle`](Timeouts#structfield.idle)).
    #[must_use]
    fn idle_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        self.core().configure(|config| config.timeouts.idle = timeout.into());
        self
    }

    /// Sets how long one read of a connection may wait
    /// ([`Timeouts::read`](Timeouts#structfield.read)).
    #[must_use]
    fn read_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        self.core().configure(|config| config.timeouts.read = timeout.into());
        self
    }

    /// Sets how long one write to a connection may take in all, or a reply may wait for a Unix datagram client that
    /// does not read ([`Timeouts::write`](Timeouts#structfield.write)).
    #[must_use]
    fn write_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        self.core().configure(|config| config.timeouts.write = timeout.into());
        self
    }

    /// Sets how long one connection may take from its beginning to its end
    /// ([`Timeouts::request`](Timeouts#structfield.request)).
    #[must_use]
    fn request_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        self.core().configure(|config| config.timeouts.request = timeout.into());
        self
    }

    /// Sets how long a connection may take until it is set up and the peer has said something
    /// ([`Timeouts::handshake`](Timeouts#structfield.handshake)).
    #[must_use]
    fn handshake_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        self.core()
            .configure(|config| config.timeouts.handshake = timeout.into());
        self
    }

    /// Sets the permissions of a Unix socket's file ([`Config::socket_mode`]), such as `0o660`: with write
    /// permission comes the right to connect.
    ///
    /// The path of a stream socket appears with them, listening: it is bound beside it and renamed. (So
    /// getsockname(2) and `ss` show another name than [`server_address`](BaseServer::server_address).) That
    /// of a datagram socket appears without any, and gets them a moment later. Before Linux 6.6 this takes `/proc`.
    ///
    /// An abstract name has no permissions; binding one fails with this set.
    #[must_use]
    fn socket_mode(self, mode: impl Into<Option<u32>>) -> Self {
        self.core().configure(|config| config.socket_mode = mode.into());
        self
    }

    /// Sets the user and the group of a Unix socket's file by number, each if given
    /// ([`Config::socket_uid`], [`Config::socket_gid`]), before anybody can connect. Without a
    /// [`socket_mode`](Self::socket_mode) the mode is `0o660` then.
    ///
    /// Only root may give a socket to another user; the group may be any that this user is in.
    ///
    /// ```
    /// use socketserver::prelude::*;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let (path, web_group) = (directory.path().join("app.sock"), nix::unistd::getegid().as_raw());
    /// // For a web server in a group of its own.
    /// let server = ThreadingUnixStreamServer::new(path, |_: &mut UnixStreamRequest| {})
    ///     .socket_owner(None, web_group)
    ///     .socket_mode(0o660)
    ///     .bind()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    fn socket_owner(self, uid: impl Into<Option<u32>>, gid: impl Into<Option<u32>>) -> Self {
        self.core().configure(|config| {
            config.socket_uid = uid.into();
            config.socket_gid = gid.into();
        });
        self
    }

    /// Limits how many requests are in progress at once ([`Config::max_connections`]). A plain number
    /// [waits](crate::OnLimit::Wait).
    #[must_use]
    fn max_connections(self, limit: impl Into<Limit>) -> Self {
        self.core()
            .configure(|config| config.max_connections = Some(limit.into()));
        self
    }

    /// Limits how many requests of one client address are in progress at once
    /// ([`Config::max_per_address`]). A plain number [waits](crate::OnLimit::Wait).
    #[must_use]
    fn max_per_address(self, limit: impl Into<Limit>) -> Self {
        self.core()
            .configure(|config| config.max_per_address = Some(limit.into()));
        self
    }

    /// Limits how fast the requests of one client address may come ([`Config::max_rate_per_address`]). A plain
    /// number is so many a second, and [waits](crate::OnLimit::Wait).
    #[must_use]
    fn max_rate_per_address(self, limit: impl Into<RateLimit>) -> Self {
        self.core()
            .configure(|config| config.max_rate_per_address = Some(limit.into()));
        self
    }

    /// Sets how many requests may wait because of the limits on their address ([`Config::max_waiting`]).
    #[must_use]
    fn max_waiting(self, requests: usize) -> Self {
        self.core().configure(|config| config.max_waiting = requests);
        self
    }

    /// Sets what a rejected connection is sent ([`Config::farewell`]).
    #[must_use]
    fn farewell(self, message: impl Into<Vec<u8>>) -> Self {
        self.core().configure(|config| config.farewell = message.into());
        self
    }

    /// Serves under `SCHED_BATCH`: for many short connections, not on a busy host ([`Config::sched_batch`]).
    #[must_use]
    fn sched_batch(self, batch: bool) -> Self {
        self.core().configure(|config| config.sched_batch = batch);
        self
    }

    /// Tells `observer` what happens in the server, beside those that were attached before.
    #[must_use]
    fn observer(self, observer: impl Observer) -> Self {
        self.core()
            .configure(|config| config.observers.push(Arc::new(observer)));
        self
    }

    /// Stops the server at any of these signals, numbered as in signal(7): `[signal::SIGINT, signal::SIGTERM]`. With
    /// one that cannot be caught (SIGKILL, SIGSTOP), that a fault of the program raises (SIGSEGV, SIGILL, SIGFPE) or
    /// that servers send their own threads (SIGURG) it does not bind.
    ///
    /// The first signal drains: the requests in progress end before `serve_forever` returns. A second
    /// one stops at once. They are listened to from `bind` on, or if they are set later, from when serving
    /// starts, without a helper thread, beside whatever else in the program listens to them, until the server
    /// is gone. On the thread that binds the server they are unblocked (sigprocmask(2)).
    ///
    /// After that they do nothing, unless something else in the program listens to them: what is their default, such as
    /// to end the process, does not come back.
    ///
    /// A bare server runs its handler on the loop, so a handler that never returns would keep
    /// `serve_forever` from ever returning. If the signal was SIGTERM, SIGINT, SIGQUIT or SIGHUP, the process
    /// then ends with status 1 (_exit(2), after a line on standard error), a second after the handler's socket
    /// was shut down.
    #[must_use]
    fn shutdown_on_signals(self, signals: impl IntoIterator<Item = i32>) -> Self {
        self.core().configure(|config| {
            for signal in signals {
                config.on_signal(signal, SignalAction::Drain);
            }
        });
        self
    }

    /// Does `action` at a signal, numbered as in signal(7): a [`SignalAction`], or a function of the
    /// [`ServerHandle`](crate::ServerHandle). It replaces what was set for that signal before.
    ///
    /// Signals are listened to as [`shutdown_on_signals`](Self::shutdown_on_signals) says. Forked children do what is
    /// the default for the signal, except that they leave SIGINT to the server.
    ///
    /// A closure writes the type of its argument, as here: without it the compiler says that it is "not general
    /// enough".
    ///
    /// ```
    /// use socketserver::prelude::*;
    ///
    /// // SIGUSR2 (a terminal's or an operator's) suspends accepting, and resumes it.
    /// let server = ThreadingTcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {}).on_signal(
    ///     signal::SIGUSR2,
    ///     |server: &ServerHandle| if server.is_suspended() { server.resume() } else { server.suspend() },
    /// );
    /// ```
    #[must_use]
    fn on_signal(self, signal: i32, action: impl Into<SignalAction>) -> Self {
        self.core().configure(|config| config.on_signal(signal, action.into()));
        self
    }

    /// Runs `set` on the socket after it was made and before it is bound: the place for options that
    /// have no setter here. It replaces what Python users write into `server_bind` before `super()`.
    ///
    /// ```
    /// use std::os::fd::BorrowedFd;
    /// use nix::sys::socket::{setsockopt, sockopt};
    /// use socketserver::prelude::*;
    ///
    /// let server = UdpServer::new("127.0.0.1:0", |_: &mut DatagramRequest| {})
    ///     .before_bind(|socket: BorrowedFd<'_>| Ok(setsockopt(&socket, sockopt::RcvBuf, &(1 << 20))?))
    ///     .bind()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// A listener to a multicast group, which others on this machine may listen to, too:
    ///
    /// ```
    /// use std::net::Ipv4Addr;
    /// use std::os::fd::BorrowedFd;
    /// use nix::sys::socket::{setsockopt, sockopt};
    /// use socketserver::prelude::*;
    ///
    /// # let port = 0;
    /// let server = UdpServer::new(("", port), |_: &mut DatagramRequest| {})
    ///     .before_bind(|socket: BorrowedFd<'_>| Ok(setsockopt(&socket, sockopt::ReuseAddr, &true)?))
    ///     .bind()?;
    /// let socket = server.socket().expect("it is bound");
    /// socket.join_multicast_v4(&Ipv4Addr::new(239, 255, 255, 250), &Ipv4Addr::LOCALHOST)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    fn before_bind(self, set: impl Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync + 'static) -> Self {
        self.core().configure(|config| config.before_bind = Some(Arc::new(set)));
        self
    }
}

impl<S: BaseServer> Configure for S {}

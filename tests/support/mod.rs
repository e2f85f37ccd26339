//! What the integration tests share. Each file is a binary without libtest's threads, because children
//! are forked in some and threads, descriptors and children are counted around each test in all.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this")]

pub mod accepting;
pub mod attempts;
pub mod batch;
pub mod clients;
pub mod commanded;
pub mod detached;
pub mod failures;
pub mod gate;
pub mod interrupt;
pub mod journal;
pub mod matrix;
pub mod pieces;
pub mod process;
pub mod program;
pub mod remote_command;
pub mod rest;
pub mod rlimit;
pub mod serving;
pub mod surroundings;
pub mod talk;
pub mod unix;
pub mod waited;
pub mod wrapped;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Trial};
use nix::libc::linger;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect as connect_socket, setsockopt, socket, sockopt,
};
use socketserver::prelude::*;
use socketserver::{Report, ShutdownHandle, State};

/// No wait of a test is longer: past it, the test has failed.
pub const CEILING: Duration = Duration::from_secs(10);

/// Makes the `main` of a test binary from its tests. `roles` are functions that a process of the same
/// binary runs instead ([`process::role`]); `also` are tests that another module has put together.
#[macro_export]
macro_rules! tests {
    (roles: $($role:ident),+; $($name:ident),* $(,)?) => {
        fn main() {
            if $(!support::process::play(stringify!($role), $role))&&+ {
                support::run(vec![$((stringify!($name).to_owned(), $name as fn())),*]);
            }
        }
    };
    (also: $others:expr; $($name:ident),* $(,)?) => {
        fn main() {
            let mut tests: Vec<(String, fn())> = $others;
            tests.extend([$((stringify!($name).to_owned(), $name as fn())),*]);
            support::run(tests);
        }
    };
    ($($name:ident),* $(,)?) => {
        $crate::tests![also: Vec::new(); $($name),*];
    };
}

/// What a `Transport` around a `Tcp` only passes on; `$tcp` is the field.
#[macro_export]
macro_rules! forward_to_tcp {
    ($tcp:tt) => {
        type Socket = std::net::TcpListener;

        const SOCKET_TYPE: socketserver::SocketType = socketserver::SocketType::Stream;

        fn listen(&self, config: &socketserver::Config) -> std::io::Result<()> {
            self.$tcp.listen(config)
        }

        fn socket(&self) -> &std::net::TcpListener {
            self.$tcp.socket()
        }

        fn local_address(&self) -> std::io::Result<socketserver::Address> {
            self.$tcp.local_address()
        }
    };
    ($tcp:tt, stop_listening) => {
        $crate::forward_to_tcp!($tcp);

        fn stop_listening(&self, placeholder: std::os::fd::BorrowedFd<'_>, in_child: bool) {
            self.$tcp.stop_listening(placeholder, in_child);
        }
    };
}

/// Runs the tests one after the other on the main thread; each must leave behind what it found.
pub fn run(tests: Vec<(String, fn())>) {
    let _ = log::set_logger(&LOGGER).map(|()| log::set_max_level(log::LevelFilter::Trace));
    if let Err(trouble) = surroundings::make_usual() {
        eprintln!("the tests cannot run here: {trouble}");
        std::process::exit(1);
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = tests
        .into_iter()
        .map(|(name, test)| {
            Trial::ignorable_test(name, move || {
                let before = Holdings::now();
                LOGGER.lines.lock().unwrap_or_else(PoisonError::into_inner).clear();
                LOGGER.keys.lock().unwrap_or_else(PoisonError::into_inner).clear();
                test();
                before.wait_for_same();
                Ok(clients::take_missing().map_or(Completion::Completed, Completion::ignored_with))
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// Calls again what a signal has interrupted: in a process that serves with processes, the end of any of them.
pub fn uninterrupted<R>(mut call: impl FnMut() -> io::Result<R>) -> io::Result<R> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// Waits until `condition` holds; panics with `what` if it does not within [`CEILING`].
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + CEILING;
    while !condition() {
        assert!(Instant::now() < end, "waited {CEILING:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A server that has been told to stop drains; something keeps it from being closed yet.
#[track_caller]
pub fn wait_until_draining(handle: &ShutdownHandle) {
    wait_until("the server drains", || handle.state() == State::Draining);
}

/// What a report counts: served, failed, drained, forced, leaked.
pub fn counts(report: Report) -> [u64; 5] {
    [
        report.served,
        report.failed,
        report.drained,
        report.forced,
        report.leaked,
    ]
}

/// What a process holds: descriptors, threads, children.
#[derive(Debug, PartialEq)]
pub struct Holdings {
    descriptors: BTreeMap<String, String>,
    threads: usize,
    children: Vec<u32>,
}

impl Holdings {
    pub fn now() -> Self {
        Holdings {
            descriptors: descriptors("self"),
            threads: threads(),
            children: children(),
        }
    }

    #[track_caller]
    fn wait_for_same(&self) {
        let end = Instant::now() + CEILING;
        loop {
            let now = Self::now();
            if now == *self {
                return;
            }
            assert!(
                Instant::now() < end,
                "the test left something behind: {now:?}, it found {self:?}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What is behind each descriptor of a process: its number, or `self`.
fn descriptors(process: impl Display) -> BTreeMap<String, String> {
    fs::read_dir(format!("/proc/{process}/fd"))
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let target = fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned();
            // The directory that is being read.
            (!target.starts_with("/proc/")).then(|| (entry.file_name().to_string_lossy().into_owned(), target))
        })
        .collect()
}

/// How many of the descriptors of this process are sockets.
pub fn sockets() -> usize {
    sockets_of("self")
}

pub fn sockets_of(process: impl Display) -> usize {
    let targets = descriptors(process).into_values();
    targets.filter(|target| target.starts_with("socket:")).count()
}

/// How many threads this process has.
pub fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// The children of this process, zombies included.
pub fn children() -> Vec<u32> {
    children_of(std::process::id())
}

/// The children of a process, zombies included.
pub fn children_of(parent: u32) -> Vec<u32> {
    let mut found: Vec<u32> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| stat_field(*pid, 1).as_deref() == Some(parent.to_string().as_str()))
        .collect();
    found.sort_unstable();
    found
}

/// Sends a signal that has no name, a real-time one (signal(7)).
#[track_caller]
pub fn kill_by_number(signal: i32, process: u32) {
    let command = format!("kill -{signal} {process}");
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
}

/// The state letter of a process (`Z`: zombie), if it exists.
pub fn process_state(pid: u32) -> Option<String> {
    stat_field(pid, 0)
}

/// A field of /proc/PID/stat, counted from the state (proc(5)).
fn stat_field(pid: u32, index: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    Some(after_name.split_whitespace().nth(index)?.to_owned())
}

/// A directory that goes with the value, and a path in it.
pub struct TempPath {
    _directory: tempfile::TempDir,
    pub path: PathBuf,
}

impl TempPath {
    /// As a word of a shell's, whatever TMPDIR is.
    pub fn quoted(&self) -> String {
        format!("'{}'", self.path.to_str().unwrap().replace('\'', r"'\''"))
    }
}

pub fn temp_path(name: &str) -> TempPath {
    let directory = tempfile::tempdir().unwrap();
    TempPath {
        path: directory.path().join(name),
        _directory: directory,
    }
}

/// Answers lines until the client has closed.
#[derive(Clone)]
pub struct Lines;

impl<S: Stream> BaseRequestHandler<StreamRequest<S>> for Lines {
    fn handle(&mut self, request: &mut StreamRequest<S>) -> HandlerResult {
        let mut line = Vec::new();
        while request.read_until(b'\n', &mut line)? > 0 {
            request.write_all(&line)?;
            line.clear();
        }
        Ok(())
    }
}

/// Reads a line and writes it back, over streams and datagrams: CPython's test handler.
#[derive(Clone)]
pub struct EchoLine;

impl<S: Stream> BaseRequestHandler<StreamRequest<S>> for EchoLine {
    fn handle(&mut self, request: &mut StreamRequest<S>) -> HandlerResult {
        let mut line = Vec::new();
        request.read_until(b'\n', &mut line)?;
        Ok(request.write_all(&line)?)
    }
}

impl BaseRequestHandler<DatagramRequest> for EchoLine {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        let mut line = Vec::new();
        request.read_until(b'\n', &mut line)?;
        Ok(request.wfile().write_all(&line)?)
    }
}

/// Any port of an address that is this process's alone: no other takes a port there that has just become free.
pub fn address_of_ones_own() -> String {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    format!("127.{}.{middle}.{low}:0", 1 + high)
}

/// The Internet address of a server.
#[track_caller]
pub fn inet(address: &Address) -> SocketAddr {
    address.as_inet().expect("the server has an Internet address")
}

/// A connection that fails rather than waits for ever.
#[track_caller]
pub fn connect(address: &Address) -> TcpStream {
    connect_to(inet(address))
}

#[track_caller]
pub fn connect_to(address: impl ToSocketAddrs) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(CEILING)).unwrap();
    stream.set_write_timeout(Some(CEILING)).unwrap();
    stream
}

/// A client of 127.0.0.`host`.
#[track_caller]
pub fn connect_from(host: u8, server: &Address) -> TcpStream {
    let address = |address: SocketAddrV4| SockaddrIn::from(address);
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let mine = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, host), 0);
    bind(socket.as_raw_fd(), &address(mine)).unwrap();
    let SocketAddr::V4(server) = inet(server) else {
        panic!("an IPv6 server")
    };
    connect_socket(socket.as_raw_fd(), &address(server)).unwrap();
    let client = TcpStream::from(socket);
    client.set_read_timeout(Some(CEILING)).unwrap();
    client
}

/// A UDP client of a server; it fails rather than waits for ever.
#[track_caller]
pub fn udp_client(server: &Address) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(CEILING)).unwrap();
    client.connect(inet(server)).unwrap();
    client
}

/// Closes a connection with a reset instead of an end (`SO_LINGER`, socket(7)).
pub fn reset(client: TcpStream) {
    let at_once = linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&client, sockopt::Linger, &at_once).unwrap();
    drop(client);
}

/// Whether there is a listener at a loopback address (`/proc/net/tcp`, proc(5)). Asked without a connection, which
/// would be served.
pub fn is_listening(address: &str) -> bool {
    let port: u16 = address.rsplit_once(':').unwrap().1.parse().unwrap();
    let listener = format!(" 0100007F:{port:04X} 00000000:0000 0A ");
    // Listeners come first. A machine that has just been busy has tens of thousands of old connections behind them.
    let mut listeners = tcp_sockets().take_while(|row| row.contains(" 00000000:0000 0A "));
    listeners.any(|row| row.contains(&listener))
}

/// What the kernel tells of the server's end of a loopback connection, from its state on.
fn server_end(client: &TcpStream) -> Option<Vec<String>> {
    let (mine, peer) = (client.local_addr().unwrap().port(), client.peer_addr().unwrap().port());
    let ends = format!(" 0100007F:{peer:04X} 0100007F:{mine:04X} ");
    let row = tcp_sockets().find(|row| row.contains(&ends))?;
    let (_, end) = row.split_once(&ends)?;
    Some(end.split_whitespace().map(str::to_owned).collect())
}

/// The rows of `/proc/net/tcp` (proc(5)), of which the kernel makes no more than are looked at.
fn tcp_sockets() -> impl Iterator<Item = String> {
    let table = fs::File::open("/proc/net/tcp").unwrap();
    BufReader::new(table).lines().skip(1).map(Result::unwrap)
}

/// Waits until a server has accepted a loopback connection: from then on its end has an inode. An empty queue says
/// less, because the connection may not have come as far as that.
#[track_caller]
pub fn wait_until_accepted(client: &TcpStream) {
    wait_until("it is accepted", || server_end(client).is_some_and(|end| end[6] != "0"));
}

/// How many bytes the server's end of a loopback connection has received that nobody has read yet.
pub fn unread(client: &TcpStream) -> Option<usize> {
    let end = server_end(client)?;
    usize::from_str_radix(end[1].split_once(':')?.1, 16).ok()
}

/// Sends a line and returns the line that comes back.
#[track_caller]
pub fn exchange_line(mut stream: impl Read + Write, line: &str) -> String {
    stream.write_all(line.as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer
}

/// Everything until the peer closes.
#[track_caller]
pub fn read_to_end(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// A line with this text makes the logger panic, as one does that prints to a standard output that is closed.
pub const LOGGER_PANICS: &str = "the logger panics as told";

static LOGGER: Logged = Logged {
    lines: Mutex::new(Vec::new()),
    keys: Mutex::new(Vec::new()),
};

/// Keeps what is logged.
struct Logged {
    lines: Mutex<Vec<String>>,
    /// Of the records that have key-values.
    keys: Mutex<Vec<String>>,
}

impl log::Log for Logged {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}", record.level(), record.args());
        if line.contains(LOGGER_PANICS) {
            std::panic::resume_unwind(Box::new(line));
        }
        let mut keys = Keys(line.clone());
        let _ = record.key_values().visit(&mut keys);
        if record.key_values().count() > 0 {
            self.keys.lock().unwrap_or_else(PoisonError::into_inner).push(keys.0);
        }
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn flush(&self) {}
}

/// Text, to which the key-values of a record are added.
struct Keys(String);

impl<'kvs> log::kv::VisitSource<'kvs> for Keys {
    fn visit_pair(&mut self, key: log::kv::Key<'kvs>, value: log::kv::Value<'kvs>) -> Result<(), log::kv::Error> {
        use std::fmt::Write;
        let _ = write!(self.0, " {key}={value}");
        Ok(())
    }
}

/// What was logged with key-values since the test began, in lines of `LEVEL text key=value …`.
pub fn logged_with_keys() -> Vec<String> {
    LOGGER.keys.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// What was logged since the test began, in lines of `LEVEL text`, but [`CANNOT_REFUSE`].
pub fn logged() -> Vec<String> {
    let mut lines = LOGGER.lines.lock().unwrap_or_else(PoisonError::into_inner).clone();
    lines.retain(|line| !line.starts_with(CANNOT_REFUSE));
    lines
}

/// What each drain tells where the kernel lets nobody without privileges attach a socket filter.
const CANNOT_REFUSE: &str =
    "DEBUG new requests cannot be refused before the queued are accepted: Operation not permitted";

/// Whether a TCP server can refuse new clients before it accepts those that are queued. If not, the test that asks is
/// to return at once.
pub fn can_refuse_clients() -> bool {
    TcpServer::new("127.0.0.1:0", Lines).spawn().unwrap().stop().unwrap();
    let lines = LOGGER.lines.lock().unwrap_or_else(PoisonError::into_inner);
    let can = !lines.iter().any(|line| line.starts_with(CANNOT_REFUSE));
    if !can {
        clients::lack("no socket filters without privileges".to_owned());
    }
    can
}

//! Connections: a new one for each message, or messages on those that stay.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};

use super::endpoint::Source;
use super::{Clock, Endpoint, GRACE, Pattern, Payload, Start, Tally};
use crate::interrupt;

/// A connection that is made before the load is answered within this time, or there is no load.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the connections of one thread.
pub fn run(endpoint: &Endpoint, pattern: Pattern, start: &Start<'_>, thread: usize) -> io::Result<Tally> {
    let clients = Clients::ready(endpoint, pattern, thread);
    // Also after an error: the others wait for all.
    let clock = start.clock();
    clients?.run(clock)
}

struct Clients<'a> {
    endpoint: &'a Endpoint,
    /// None before the load: then no connection sends more than one message.
    clock: Option<Clock>,
    window: usize,
    message: usize,
    keep: bool,
    epoll: Epoll,
    connections: Vec<Connection>,
    /// Connections to be opened at the next turn: the first, and after a failure; and since when.
    later: Vec<(usize, Instant)>,
    source: Source,
    payload: Payload,
    inbox: Vec<u8>,
    tally: Tally,
}

struct Connection {
    socket: Option<OwnedFd>,
    /// Where in the payload its stream begins.
    place: usize,
    /// Bytes.
    sent: usize,
    received: usize,
    /// When the last messages were sent, by their number modulo the window.
    starts: Vec<Instant>,
    wants_to_send: bool,
}

impl Connection {
    fn new(number: usize, window: usize) -> Self {
        Connection {
            socket: None,
            place: number * 997,
            sent: 0,
            received: 0,
            starts: vec![Instant::now(); window],
            wants_to_send: false,
        }
    }

    fn is_busy(&self) -> bool {
        self.socket.is_some() && self.received < self.sent
    }
}

impl<'a> Clients<'a> {
    /// With connections that stay, each of them made and used once.
    fn ready(endpoint: &'a Endpoint, pattern: Pattern, thread: usize) -> io::Result<Self> {
        let Pattern::Stream {
            connections,
            window,
            message,
            keep,
        } = pattern
        else {
            unreachable!("datagrams are run elsewhere");
        };
        let mut clients = Clients {
            endpoint,
            clock: None,
            window,
            message,
            keep,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            connections: (0..connections).map(|number| Connection::new(number, window)).collect(),
            later: Vec::new(),
            source: Source::new(thread),
            payload: Payload::new(),
            inbox: vec![0; 256 * 1024],
            tally: Tally::new(),
        };
        for number in 0..connections {
            if keep {
                clients.connect(number)?;
            } else {
                clients.later.push((number, Instant::now()));
            }
        }
        Ok(clients)
    }

    /// Opens a connection, and waits for the first answer on it.
    fn connect(&mut self, number: usize) -> io::Result<()> {
        let since = Instant::now();
        self.open(number, since);
        while self.connections[number].received < self.message {
            interrupt::check()?;
            self.turn()?;
            if since.elapsed() > PATIENCE {
                self.tally.error(format!("not answered within {PATIENCE:?}"));
            }
            if let Some(error) = self.tally.errors.keys().next() {
                let made = format!("connection {} of {}", number + 1, self.connections.len());
                return Err(io::Error::other(format!("{made}: {error}")));
            }
        }
        Ok(())
    }

    fn run(mut self, clock: Clock) -> io::Result<Tally> {
        self.clock = Some(clock);
        for number in 0..self.connections.len() {
            self.send(number);
        }
        while !interrupt::is_interrupted() {
            if clock.is_over()
                && (Instant::now() >= clock.give_up() || !self.connections.iter().any(Connection::is_busy))
            {
                break;
            }
            self.turn()?;
        }
        for connection in &self.connections {
            if connection.is_busy() {
                self.tally.error(format!("not answered within {GRACE:?}"));
            }
        }
        Ok(self.tally)
    }

    /// Waits for what comes, and answers it.
    fn turn(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        if !self.clock.is_some_and(Clock::is_over) {
            for (number, since) in std::mem::take(&mut self.later) {
                self.open(number, since);
            }
        }
        let milliseconds: u8 = if self.later.is_empty() { 10 } else { 1 };
        let count = match self.epoll.wait(&mut events, milliseconds) {
            Err(Errno::EINTR) => 0,
            result => result?,
        };
        for event in &events[..count] {
            let number = usize::try_from(event.data()).unwrap_or(usize::MAX);
            if event.events().contains(EpollFlags::EPOLLOUT) {
                self.send(number);
            }
            if event.events().intersects(!EpollFlags::EPOLLOUT) {
                self.receive(number);
            }
        }
        Ok(())
    }

    fn open(&mut self, number: usize, since: Instant) {
        let socket = match self.endpoint.connect(&mut self.source) {
            Ok(socket) => socket,
            // A Unix socket's backlog is full.
            Err(Errno::EAGAIN) => return self.later.push((number, since)),
            Err(error) => return self.fail(number, &format!("connect: {}", error.desc())),
        };
        if self.keep && matches!(self.endpoint, Endpoint::Tcp(_)) {
            // Several messages may be under way: none must wait for the acknowledgement of another.
            let _ = setsockopt(&socket, sockopt::TcpNoDelay, &true);
        }
        let event = EpollEvent::new(EpollFlags::EPOLLIN, number as u64);
        if let Err(error) = self.epoll.add(&socket, event) {
            return self.fail(number, &format!("epoll_ctl: {}", error.desc()));
        }
        let connection = &mut self.connections[number];
        connection.socket = Some(socket);
        connection.sent = 0;
        connection.received = 0;
        connection.starts[0] = since;
        connection.wants_to_send = false;
        self.send(number);
    }

    /// Sends what the window allows.
    fn send(&mut self, number: usize) {
        loop {
            let connection = &mut self.connections[number];
            let Some(socket) = &connection.socket else {
                return;
            };
            let within = connection.sent % self.message;
            let begun = connection.sent / self.message;
            let under_way = begun - connection.received / self.message;
            let full = under_way >= if self.keep { self.window } else { 1 };
            if within == 0 && (full || (begun > 0 && self.clock.is_none_or(Clock::is_over))) {
                return self.want_to_send(number, false);
            }
            if within == 0 && begun > 0 {
                connection.starts[begun % self.window] = Instant::now();
            }
            let bytes = self
                .payload
                .at(connection.place + connection.sent, self.message - within);
            match send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => connection.sent += count,
                Err(Errno::EINTR) => {}
                // No room, or not connected yet.
                Err(Errno::EAGAIN) => return self.want_to_send(number, true),
                Err(error) => return self.fail(number, &format!("send: {}", error.desc())),
            }
        }
    }

    fn want_to_send(&mut self, number: usize, wants: bool) {
        let connection = &mut self.connections[number];
        let Some(socket) = connection.socket.as_ref().filter(|_| connection.wants_to_send != wants) else {
            return;
        };
        let mut flags = EpollFlags::EPOLLIN;
        flags.set(EpollFlags::EPOLLOUT, wants);
        match self.epoll.modify(socket, &mut EpollEvent::new(flags, number as u64)) {
            Ok(()) => connection.wants_to_send = wants,
            Err(error) => self.fail(number, &format!("epoll_ctl: {}", error.desc())),
        }
    }

    fn receive(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        let Some(socket) = &connection.socket else {
            return;
        };
        let count = match recv(socket.as_raw_fd(), &mut self.inbox, MsgFlags::empty()) {
            Ok(0) => return self.fail(number, "closed by the server before the answer"),
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            Err(error) => return self.fail(number, &format!("receive: {}", error.desc())),
        };
        let place = connection.place + connection.received;
        let before = connection.received / self.message;
        connection.received += count;
        if connection.received > connection.sent || !self.payload.matches(place, &self.inbox[..count]) {
            return self.fail(number, "the answer has other bytes");
        }
        let now = Instant::now();
        for message in before..connection.received / self.message {
            let start = connection.starts[message % self.window];
            if let Some(clock) = self.clock {
                self.tally.answered(clock, start, now);
            }
        }
        if self.keep {
            self.send(number);
        } else if connection.received == self.message {
            connection.place += self.message;
            connection.socket = None;
            if !self.clock.is_some_and(Clock::is_over) {
                self.open(number, now);
            }
        }
    }

    /// Counts an error, and connects again at the next turn.
    fn fail(&mut self, number: usize, what: &str) {
        self.tally.error(what);
        self.connections[number].socket = None;
        self.later.push((number, Instant::now()));
    }
}

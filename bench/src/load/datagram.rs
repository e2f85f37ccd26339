//! Datagrams: so many under way from each socket.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{MsgFlags, recv, send};
use tempfile::TempDir;

use super::{Clock, Endpoint, Pattern, Payload, Start, Tally};
use crate::interrupt;

/// After this long without an answer a datagram counts as lost, and another is sent in its place.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of a datagram that say which one it is; the rest is payload.
const HEADER: usize = 8;

/// Runs the sockets of one thread.
pub fn run(endpoint: &Endpoint, pattern: Pattern, start: &Start<'_>) -> io::Result<Tally> {
    let Pattern::Datagram {
        sockets,
        window,
        message,
    } = pattern
    else {
        unreachable!("streams are run elsewhere");
    };
    let clock = start.clock();
    // Unix clients need a path for the answers.
    let directory = TempDir::new()?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut clients = Vec::with_capacity(sockets);
    for number in 0..sockets {
        let socket = endpoint.datagrams(&directory.path().join(number.to_string()))?;
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
        clients.push(Client {
            socket,
            under_way: vec![None; window],
            next: (0..window as u64).collect(),
            idle: (0..window).rev().collect(),
            wants_to_send: false,
        });
    }
    let clients = Clients {
        clock,
        epoll,
        sockets: clients,
        payload: Payload::new(),
        packet: vec![0; message.max(HEADER)],
        tally: Tally::new(),
    };
    clients.run()
}

struct Clients {
    clock: Clock,
    epoll: Epoll,
    sockets: Vec<Client>,
    payload: Payload,
    packet: Vec<u8>,
    tally: Tally,
}

struct Client {
    socket: OwnedFd,
    /// For each place of the window, since when its datagram is under way.
    under_way: Vec<Option<Instant>>,
    /// The number of each place's datagram: the place, plus a multiple of the window.
    next: Vec<u64>,
    /// Places without a datagram under way.
    idle: Vec<usize>,
    wants_to_send: bool,
}

impl Client {
    fn is_busy(&self) -> bool {
        self.idle.len() < self.under_way.len()
    }

    /// A place has its answer, or never will.
    fn done(&mut self, place: usize) {
        self.under_way[place] = None;
        self.next[place] += self.under_way.len() as u64;
        self.idle.push(place);
    }
}

impl Clients {
    fn run(mut self) -> io::Result<Tally> {
        let mut events = [EpollEvent::empty(); 64];
        let mut looked = Instant::now();
        for number in 0..self.sockets.len() {
            self.send(number)?;
        }
        while !interrupt::is_interrupted() {
            let now = Instant::now();
            if now >= self.clock.until && (now >= self.clock.give_up() || !self.sockets.iter().any(Client::is_busy)) {
                break;
            }
            if now - looked > PATIENCE / 10 {
                looked = now;
                self.give_up_lost(now)?;
            }
            let count = match self.epoll.wait(&mut events, 10_u8) {
                Err(Errno::EINTR) => 0,
                result => result?,
            };
            for event in &events[..count] {
                let number = usize::try_from(event.data()).unwrap_or(usize::MAX);
                if event.events().intersects(!EpollFlags::EPOLLOUT) {
                    self.receive(number);
                }
                self.send(number)?;
            }
        }
        Ok(self.tally)
    }

    fn give_up_lost(&mut self, now: Instant) -> io::Result<()> {
        for number in 0..self.sockets.len() {
            let client = &mut self.sockets[number];
            for place in 0..client.under_way.len() {
                if client.under_way[place].is_some_and(|since| now - since > PATIENCE) {
                    client.done(place);
                    self.tally.error(format!("not answered within {PATIENCE:?}"));
                }
            }
            self.send(number)?;
        }
        Ok(())
    }

    /// Fills the window.
    fn send(&mut self, number: usize) -> io::Result<()> {
        let client = &mut self.sockets[number];
        let mut wants = false;
        while let Some(&place) = client.idle.last() {
            let now = Instant::now();
            if now >= self.clock.until {
                break;
            }
            let name = client.next[place];
            let rest = self.packet.len() - HEADER;
            self.packet[..HEADER].copy_from_slice(&name.to_le_bytes());
            self.packet[HEADER..].copy_from_slice(self.payload.at(content(number, name), rest));
            match send(client.socket.as_raw_fd(), &self.packet, MsgFlags::empty()) {
                Ok(_) => {
                    client.under_way[place] = Some(now);
                    client.idle.pop();
                }
                Err(Errno::EINTR) => {}
                // No room: in the socket, or in the server's if it is a Unix socket.
                Err(Errno::EAGAIN) => {
                    wants = true;
                    break;
                }
                Err(error) => {
                    self.tally.error(format!("send: {}", error.desc()));
                    break;
                }
            }
        }
        if client.wants_to_send != wants {
            client.wants_to_send = wants;
            let mut flags = EpollFlags::EPOLLIN;
            flags.set(EpollFlags::EPOLLOUT, wants);
            self.epoll
                .modify(&client.socket, &mut EpollEvent::new(flags, number as u64))?;
        }
        Ok(())
    }

    /// Takes the answers that have come.
    fn receive(&mut self, number: usize) {
        let client = &mut self.sockets[number];
        let mut inbox = [0; 2048];
        for _ in 0..client.under_way.len() {
            let answer = match recv(client.socket.as_raw_fd(), &mut inbox, MsgFlags::empty()) {
                Ok(count) => &inbox[..count],
                Err(Errno::EAGAIN | Errno::EINTR) => return,
                Err(error) => return self.tally.error(format!("receive: {}", error.desc())),
            };
            let Some((name, rest)) = answer.split_first_chunk().filter(|_| answer.len() == self.packet.len()) else {
                self.tally.error("the answer has another length");
                continue;
            };
            let name = u64::from_le_bytes(*name);
            let place = usize::try_from(name).unwrap_or(usize::MAX) % client.under_way.len();
            match client.under_way[place].filter(|_| client.next[place] == name) {
                Some(since) if self.payload.matches(content(number, name), rest) => {
                    self.tally.answered(self.clock, since, Instant::now());
                    client.done(place);
                }
                None if name < client.next[place] => self.tally.error("answered late or twice"),
                _ => self.tally.error("the answer has other bytes"),
            }
        }
    }
}

/// Where in the payload the content of a datagram stands.
fn content(client: usize, name: u64) -> usize {
    client * 997 + usize::try_from(name % (1 << 32)).unwrap_or(0) * 61
}

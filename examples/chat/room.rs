//! A room: what one member says, all others hear.
//!
//! Each member has two threads. Its handler reads what it says and puts that into the queues of the others,
//! which never waits; a second thread takes from its own queue and writes. So a member that does not read
//! fills its queue, or lets a write time out, and nobody else's: then it is dropped.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use socketserver::prelude::*;

use crate::wire::{WELCOME, from_members, member_name, to_members};

/// How many messages may wait for one member.
const QUEUE: usize = 1024;

/// How long a client may take to say its name: to begin, and then to end.
const GREETING: Duration = Duration::from_secs(10);

/// One client's time in the room.
#[derive(Clone)]
pub(crate) struct Membership {
    room: Arc<Room>,
    patience: Duration,
}

impl Membership {
    pub(crate) fn new(patience: Duration) -> Self {
        Membership {
            room: Arc::default(),
            patience,
        }
    }
}

impl BaseRequestHandler<TcpRequest> for Membership {
    fn handle(&mut self, request: &mut TcpRequest) -> HandlerResult {
        let number = request.server().number();
        let socket = request.get_ref().try_clone()?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(GREETING))?;
        socket.set_write_timeout(Some(self.patience))?;
        let (rfile, wfile) = request.split();
        let mut said = rfile.framed(from_members());
        let mut heard = wfile.framed(to_members());

        // The timeout of a read never runs out for one that sends a byte now and then.
        said.set_message_timeout(GREETING);
        let Some(name) = said.next_ref()?.map(member_name) else {
            return Ok(());
        };
        said.set_message_timeout(None);
        socket.set_read_timeout(None)?;
        let entered = name.and_then(|name| Ok((self.room.enter(number, &name, socket)?, name)));
        let (queue, name) = match entered {
            Ok(entered) => entered,
            Err(refusal) => return Ok(heard.send(refusal)?),
        };
        let room = &*self.room;
        thread::scope(|scope| {
            scope.spawn(move || match deliver(&queue, &mut heard) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => room.drop_members(&[number]),
                Err(_) => room.leave(number),
            });
            let ended = room.relay(number, &name, &mut said);
            // It also ends the queue, and with it the other thread.
            room.leave(number);
            ended
        })
    }
}

/// Writes what is in the queue until it ends: all that waits in one go.
fn deliver<S: Write>(queue: &Receiver<Arc<str>>, heard: &mut Framed<S, LengthDelimitedCodec>) -> io::Result<()> {
    for message in queue {
        heard.feed(&*message)?;
        for message in queue.try_iter() {
            heard.feed(&*message)?;
        }
        heard.flush()?;
    }
    Ok(())
}

/// The first notice that a member hears.
fn who_is_here(members: &BTreeMap<u64, Member>) -> String {
    const NAMED: usize = 20;
    let names: Vec<_> = members.values().take(NAMED).map(|member| &*member.name).collect();
    match members.len() {
        0 => "* nobody else is here".to_owned(),
        1..=NAMED => format!("* here: {}", names.join(", ")),
        count => format!("* here: {} and {} more", names.join(", "), count - NAMED),
    }
}

/// The members, each under the number of its connection.
#[derive(Default)]
struct Room {
    members: Mutex<BTreeMap<u64, Member>>,
}

struct Member {
    name: String,
    queue: SyncSender<Arc<str>>,
    /// To end the connection of one that does not read.
    socket: TcpStream,
}

impl Room {
    fn members(&self) -> MutexGuard<'_, BTreeMap<u64, Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the others what a member says, until it leaves.
    fn relay(&self, number: u64, name: &str, said: &mut Framed<impl Read, LengthDelimitedCodec>) -> HandlerResult {
        while let Some(message) = said.next_ref()? {
            self.tell_others(number, &format!("{name}: {}", String::from_utf8_lossy(message)));
        }
        Ok(())
    }

    /// Lets a member in; returns its queue, or why it may not come in: nobody is to be taken for somebody else.
    fn enter(&self, number: u64, name: &str, socket: TcpStream) -> Result<Receiver<Arc<str>>, String> {
        let mut members = self.members();
        if members.values().any(|member| member.name == name) {
            return Err(format!("the name `{name}` is taken"));
        }
        let (sender, queue) = sync_channel(QUEUE);
        for first in [WELCOME, &who_is_here(&members)] {
            sender.try_send(first.into()).expect("the queue is empty");
        }
        let member = Member {
            name: name.to_owned(),
            queue: sender,
            socket,
        };
        members.insert(number, member);
        drop(members);
        log::info!("{name} has joined");
        self.tell_others(number, &format!("* {name} has joined"));
        Ok(queue)
    }

    /// A member that was dropped has left already.
    fn leave(&self, number: u64) {
        let Some(member) = self.members().remove(&number) else {
            return;
        };
        log::info!("{} has left", member.name);
        self.tell_others(number, &format!("* {} has left", member.name));
    }

    /// Puts a message into every queue but the speaker's; never waits.
    fn tell_others(&self, speaker: u64, message: &str) {
        let message: Arc<str> = message.into();
        let members = self.members();
        let others = members.iter().filter(|(number, _)| **number != speaker);
        let full = others.filter(|(_, member)| member.queue.try_send(Arc::clone(&message)).is_err());
        let full: Vec<_> = full.map(|(number, _)| *number).collect();
        drop(members);
        self.drop_members(&full);
    }

    /// Ends the connections of members that do not read, and tells the others.
    fn drop_members(&self, numbers: &[u64]) {
        for &number in numbers {
            let Some(member) = self.members().remove(&number) else {
                continue;
            };
            // It may be gone already (ENOTCONN). Its threads end with it.
            let _ = member.socket.shutdown(Shutdown::Both);
            log::info!("{} is dropped", member.name);
            self.tell_others(number, &format!("* {} is dropped: it does not read", member.name));
        }
    }
}

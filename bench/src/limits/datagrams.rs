//! Datagrams in one thread, one by one or in batches.

use std::io;

use nix::sys::socket::SockFlag;

use super::sys::{self, Batch, Datagram, Fd};
use crate::servers::Setup;

pub fn one_by_one(setup: &Setup) -> io::Result<()> {
    let socket = sys::open(setup, SockFlag::empty())?;
    let mut datagram = Datagram::room();
    loop {
        if datagram.receive(socket) {
            datagram.reply(socket);
        }
    }
}

pub fn received_together(setup: &Setup) -> io::Result<()> {
    batches(setup, |batch, socket, count| batch.reply_singly(socket, count))
}

pub fn sent_together(setup: &Setup) -> io::Result<()> {
    batches(setup, Batch::reply_together)
}

pub fn sent_in_segments(setup: &Setup) -> io::Result<()> {
    batches(setup, |batch, socket, count| batch.reply_in_segments(socket, count))
}

fn batches(setup: &Setup, reply: impl Fn(&mut Batch, Fd, usize)) -> io::Result<()> {
    let socket = sys::open(setup, SockFlag::empty())?;
    let batch = Batch::leaked();
    loop {
        let count = batch.receive(socket);
        reply(batch, socket, count);
    }
}

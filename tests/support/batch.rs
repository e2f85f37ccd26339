//! Datagrams that a server receives together because it was busy, and replies that arrive together.

use std::io::{self, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use socketserver::Running;
use socketserver::prelude::*;

use super::gate::Gate;
use super::inet;

/// A handler that waits at the datagram `stall`, so that what comes meanwhile is received together.
#[derive(Clone, Default)]
pub struct Stall {
    stalled: Gate,
    go_on: Gate,
}

impl Stall {
    pub fn then(
        &self,
        mut handle: impl FnMut(&mut DatagramRequest) -> io::Result<()> + Clone + Send + Sync + 'static,
    ) -> impl BaseRequestHandler<DatagramRequest> {
        let stall = self.clone();
        move |request: &mut DatagramRequest| {
            if request.packet() != b"stall" {
                return handle(request);
            }
            stall.stalled.open();
            stall.go_on.wait();
            Ok(())
        }
    }

    /// From now on the server is busy.
    #[track_caller]
    pub fn begin(&self, send: impl FnOnce(&[u8]) -> io::Result<usize>) {
        send(b"stall").unwrap();
        self.stalled.wait();
    }

    #[track_caller]
    pub fn begin_udp(&self, running: &Running) {
        self.begin(|packet| UdpSocket::bind("127.0.0.1:0")?.send_to(packet, inet(running.server_address())));
    }

    pub fn end(&self) {
        self.go_on.open();
    }
}

/// What arrives as one message at a socket that takes segments together (`UDP_GRO`, udp(7)): all bytes, and the length
/// of a segment if there are several.
#[track_caller]
pub fn next_message(client: &UdpSocket) -> (Vec<u8>, Option<i32>) {
    let mut bytes = vec![0; 65_535];
    let mut control = nix::cmsg_space!(i32);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(client.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty()).unwrap();
    let segment = message.cmsgs().unwrap().find_map(|message| match message {
        ControlMessageOwned::UdpGroSegments(length) => Some(length),
        _ => None,
    });
    let length = message.bytes;
    bytes.truncate(length);
    (bytes, segment)
}

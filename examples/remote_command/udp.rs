//! One command a datagram, one answer a datagram.
//!
//! A datagram arrives whole or not at all and never runs into another, so nothing has to say where it ends; an
//! empty one is a message, too, and is answered.
//!
//! What it gets wrong: an answer cannot be longer than a datagram, so the end of a long output is cut off. A
//! command or its answer may be lost, and the client cannot know which; an answer that comes after the client
//! has given up looks like that to its next command. [`framed`](crate::framed), over a stream, mends that.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use socketserver::prelude::*;

use crate::CallOptions;
use crate::encoding::Encoding;
use crate::protocol::{Answer, Client};
use crate::server::Runner;
use crate::support::cannot_connect;

/// What a UDP datagram holds over IPv4: 65,535 bytes without the headers of IP and UDP (udp(7)).
const LONGEST: usize = 65_507;

/// No UDP datagram is longer, whatever it travels over.
const LONGEST_OF_ANY: usize = 65_535;

/// Runs the command that a datagram is.
#[derive(Clone)]
pub(crate) struct Datagrams {
    pub(crate) runner: Runner,
    pub(crate) encoding: Encoding,
}

impl BaseRequestHandler<DatagramRequest> for Datagrams {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        let outcome = self.runner.run(request, request.packet())?;
        Ok(request.reply(self.in_a_datagram(&outcome.text()))?)
    }
}

impl Datagrams {
    fn in_a_datagram(&self, text: &[u8]) -> Vec<u8> {
        let mut output = self.encoding.encode(text).into_owned();
        if output.len() > LONGEST {
            let marker = format!(
                "\n[remote_command: cut: the output has {} bytes, a datagram holds {LONGEST}]\n",
                output.len()
            );
            output.truncate(self.encoding.boundary(&output, LONGEST - marker.len()));
            output.extend_from_slice(marker.as_bytes());
        }
        output
    }
}

pub(crate) struct UdpClient {
    socket: UdpSocket,
    address: String,
    encoding: Encoding,
}

impl Client for UdpClient {
    const LONGEST_COMMAND: usize = LONGEST;
    const TOO_LONG: &'static str = "do not fit a datagram";
    const CARRIES_EMPTY: bool = true;
    const SILENT: &'static str = "the command may have been lost, its answer may have been, or it still runs";

    fn start(options: &CallOptions) -> io::Result<Self> {
        let address = &options.common.address;
        let server = address
            .to_socket_addrs()
            .and_then(|mut found| found.next().ok_or(ErrorKind::NotFound.into()));
        let socket = server
            .and_then(connect)
            .map_err(|error| cannot_connect(address, &error))?;
        socket.set_read_timeout(Some(options.wait))?;
        Ok(UdpClient {
            socket,
            address: address.clone(),
            encoding: options.common.encoding,
        })
    }

    fn call(&mut self, command: &str) -> io::Result<Answer> {
        self.socket.send(command.as_bytes())?;
        let mut output = vec![0; LONGEST_OF_ANY];
        let length = self.socket.recv(&mut output).map_err(|error| match error.kind() {
            // What a datagram met is told at the next call (udp(7)).
            ErrorKind::ConnectionRefused => cannot_connect(&self.address, &error),
            _ => error,
        })?;
        output.truncate(length);
        Ok(Answer::of_text(self.encoding.decode(output)))
    }
}

/// A socket that sends to the server, and receives from nobody else.
fn connect(server: SocketAddr) -> io::Result<UdpSocket> {
    let socket = match server {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }?;
    socket.connect(server)?;
    Ok(socket)
}

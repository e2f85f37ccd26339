//! What becomes of messages on a stream: the "sticky packets" of the tutorial, and two ways out of it.
//!
//! Each run is the same: everything has been sent and has arrived before the receiver asks for it.
//!
//! ```text
//! cargo run --example sticky -- coalesced
//! ```

use std::io::{self, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socketserver::prelude::*;

#[path = "support/printing.rs"]
mod printing;

use printing::{failure, print};

/// Shows on this machine what becomes of messages that are sent over TCP and UDP.
///
/// A program that sends `hello` and then `world` has sent two messages, it thinks. Whether they arrive as two
/// depends on what they travel over.
#[derive(Parser)]
#[command(after_help = "In this order they tell a story: coalesced, remainder, framed, udp.")]
struct Options {
    /// What to show.
    #[arg(value_enum)]
    case: Case,
}

#[derive(Clone, Copy, ValueEnum)]
enum Case {
    /// Three messages over TCP arrive as one.
    Coalesced,
    /// One message over TCP arrives as three.
    Remainder,
    /// The way out on TCP: each message says how long it is.
    Framed,
    /// The way out without TCP: each message is a datagram.
    Udp,
}

const MESSAGES: [&str; 3] = ["hello", "world", "egon"];

fn main() -> ExitCode {
    env_logger::init();
    match show(Options::parse().case) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure("sticky", &error),
    }
}

fn show(case: Case) -> io::Result<()> {
    match case {
        Case::Coalesced => coalesced(),
        Case::Remainder => remainder(),
        Case::Framed => framed(),
        Case::Udp => udp(),
    }
}

// ----- The four cases ----------------------------------------------------------------------------

fn coalesced() -> io::Result<()> {
    say("Three messages are sent over TCP. Then the receiver asks three times for up to 1024 bytes.\n")?;
    let receive_three_times = |request: &mut TcpRequest| -> io::Result<()> {
        wait_until_all_has_arrived(request)?;
        for _ in 0..3 {
            receive(request, 1024)?;
        }
        Ok(())
    };
    over_tcp(receive_three_times, |stream| {
        MESSAGES.iter().try_for_each(|message| send(stream, message))
    })?;
    say("
Why: TCP carries a stream of bytes and does not keep where one send ended and the next began; a receive returns
     what has arrived. An empty one is no message: the sender has closed, and nothing will ever come again.")
}

fn remainder() -> io::Result<()> {
    say("One message is sent over TCP. Then the receiver asks for 1 byte, for up to 5, and for 1.\n")?;
    let receive_in_pieces = |request: &mut TcpRequest| -> io::Result<()> {
        wait_until_all_has_arrived(request)?;
        for most in [1, 5, 1] {
            receive(request, most)?;
        }
        Ok(())
    };
    over_tcp(receive_in_pieces, |stream| send(stream, "helloworldegon"))?;
    say("
Why: what a receive has no room for stays in the stream, and the next one goes on there, though it was meant for
     the next message. \"rldegon\" was never asked for; it would be the beginning of whatever is received next.")
}

fn framed() -> io::Result<()> {
    say("Three messages are sent over TCP, each behind its length in 4 bytes. Then the receiver asks for messages.\n")?;
    let receive_messages = |request: &mut TcpRequest| -> io::Result<()> {
        wait_until_all_has_arrived(request)?;
        let mut arrived = [0; 1024];
        let count = request.get_ref().peek(&mut arrived)?;
        say(format!("arrived  {}", quoted(&arrived[..count])))?;
        let mut framed = request.framed(LengthDelimitedCodec::u32_be());
        while let Some(message) = framed.next_ref()? {
            say(format!("message  {}", quoted(message)))?;
        }
        say("no more: the sender has closed")
    };
    over_tcp(receive_messages, |stream| {
        let mut framed = Framed::new(stream, LengthDelimitedCodec::u32_be());
        MESSAGES.iter().try_for_each(|message| {
            say(format!("send     {}", quoted(message.as_bytes())))?;
            framed.send(message)
        })
    })?;
    say("
Why: the bytes arrive in one piece as before, but now each message says where it ends: the receiver takes 4 bytes,
     then as many as they say, however the network cuts or joins them. An empty message would be one, too.")
}

fn udp() -> io::Result<()> {
    say(
        "Three messages are sent over UDP, and an empty one. Then the receiver asks for up to 1024 bytes each time.\n",
    )?;
    let receive =
        |request: &mut DatagramRequest| say(format!("receive  up to 1024 bytes: {}", quoted(request.packet())));
    let server = UdpServer::new("127.0.0.1:0", receive).max_packet_size(1024).bind()?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server.server_address().as_inet().expect("UDP has Internet addresses"))?;
    for message in MESSAGES.into_iter().chain([""]) {
        say(format!("send     {}", quoted(message.as_bytes())))?;
        socket.send(message.as_bytes())?;
    }
    serve_what_has_come(server)?;
    say("
Why: each send is a datagram, which arrives whole or not at all and is never joined to another; an empty one is a
     message, too. The price: one may be lost, come twice or overtake another, and none is longer than 65,507 bytes.")
}

// ----- Sender and receiver -----------------------------------------------------------------------

/// Sends and closes; only then lets a server look at the connection.
fn over_tcp(
    receive: impl FnMut(&mut TcpRequest) -> io::Result<()> + Clone + Send + Sync + 'static,
    send: impl FnOnce(&mut TcpStream) -> io::Result<()>,
) -> io::Result<()> {
    let server = TcpServer::new("127.0.0.1:0", receive).bind()?;
    let mut stream = TcpStream::connect(server.server_address().as_inet().expect("TCP has Internet addresses"))?;
    // Each send is a packet of its own, at once: it is not Nagle's algorithm that joins them.
    stream.set_nodelay(true)?;
    send(&mut stream)?;
    drop(stream);
    serve_what_has_come(server)
}

/// A server that is told to stop serves what has come before.
fn serve_what_has_come(server: impl BaseServer) -> io::Result<()> {
    server.shutdown();
    match server.serve_forever()?.failed {
        0 => Ok(()),
        _ => Err(io::Error::other("the receiver failed; RUST_LOG=info tells why")),
    }
}

fn send(stream: &mut TcpStream, message: &str) -> io::Result<()> {
    say(format!("send     {}", quoted(message.as_bytes())))?;
    stream.write_all(message.as_bytes())
}

/// One receive.
fn receive(request: &mut TcpRequest, most: usize) -> io::Result<()> {
    let mut buffer = vec![0; most];
    let count = request.read(&mut buffer)?;
    let bytes = if most == 1 { "byte" } else { "bytes" };
    say(format!("receive  up to {most} {bytes}: {}", quoted(&buffer[..count])))
}

/// Waits for the end that closing sends (`POLLRDHUP`, poll(2)). It arrives behind all that was sent.
fn wait_until_all_has_arrived(request: &TcpRequest) -> io::Result<()> {
    let end = PollFlags::from_bits_retain(libc::POLLRDHUP);
    poll(&mut [PollFd::new(request.get_ref().as_fd(), end)], PollTimeout::NONE)?;
    Ok(())
}

fn say(line: impl AsRef<str>) -> io::Result<()> {
    print(io::stdout(), format!("{}\n", line.as_ref()))
}

fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

//! Runs commands for clients: the remote command of the tutorial, server and client.
//!
//! A client sends a command, the server runs it with `sh -c` and sends back what it printed. TCP keeps no
//! message boundaries, so a protocol has to say where an answer ends; each protocol is a module, and its
//! comment says what it gets wrong and which other mends that.
//!
//! ```text
//! cargo run --example remote_command -- serve --protocol framed --address 127.0.0.1:8080
//! cargo run --example remote_command -- call --protocol framed --address 127.0.0.1:8080 ls -l
//! ```

mod client;
mod command;
mod encoding;
mod framed;
mod protocol;
mod ready;
mod server;
mod struct_header;
#[path = "../support/mod.rs"]
mod support;
mod udp;

use std::io::{self, ErrorKind};
use std::ops::RangeInclusive;
use std::process::{ExitCode, Termination};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use socketserver::{Report, TcpServer, UdpServer};

use command::Limits;
use encoding::Encoding;
use framed::{FramedClient, Messages};
use protocol::Protocol;
use ready::{Ready, ReadyClient};
use server::{Connections, Runner};
use struct_header::{StructClient, StructHeader};
use support::seconds;
use udp::{Datagrams, UdpClient};

/// Runs commands for clients, and is such a client.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  remote_command serve --protocol framed --address 127.0.0.1:8080
  remote_command call --protocol framed --address 127.0.0.1:8080 ls -l
  remote_command call --protocol framed --address 127.0.0.1:8080

Both sides must name the same protocol, or each waits for what the other never sends, until --wait or the server's
--idle-timeout ends it. `framed` is the one to copy; `ready` and `struct` are the tutorial's, each with what it gets
wrong, and `udp` is for comparison.

Whoever can connect to the server runs commands as the user that started it. It serves this machine only
unless told otherwise, and on this machine every user can connect.

Exit status 2: the arguments make no sense; 1: it failed otherwise.")]
struct Options {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs the commands that clients send, until SIGTERM or SIGINT stops it.
    #[command(after_help = "\
When ready it prints `listening on ADDRESS`. SIGTERM or SIGINT: commands in progress are waited for, then it
prints `stopped: served=N failed=N …`; a second signal kills them. Logs go to standard error (RUST_LOG).

A command has nothing to read on its standard input. What it leaves running in the background is killed when its
shell has ended and its outputs are closed; but for that which has left its process group (setsid).

A command whose client leaves is killed, without an answer; so is one that goes on for more than a second after its
client has ended its sending side (`nc -N`).")]
    Serve(ServeOptions),

    /// Sends a command and prints its output; without one, asks for commands at a prompt.
    #[command(after_help = "\
At the prompt, an empty line is skipped; `quit` or the end of input ends.

The exit status is that of the command over `framed`; with --pipeline, of the first one that failed. The other
protocols do not tell it: it is 0 when an answer came. It is 1 when none came, and 2 when there is something wrong
with the command or the options.")]
    Call(CallOptions),
}

/// What both sides must agree on.
#[derive(Args)]
struct Common {
    /// How a command and its output travel.
    #[arg(long, value_enum)]
    protocol: ProtocolName,

    /// HOST:PORT of the server (port 0, when serving: any free one).
    #[arg(long, value_name = "ADDR")]
    address: String,

    /// How output is encoded on the wire; the tutorial's clients decode GBK.
    #[arg(long, value_enum, default_value_t = Encoding::Utf8)]
    encoding: Encoding,
}

#[derive(Args)]
struct ServeOptions {
    #[command(flatten)]
    common: Common,

    /// Where and when clients are served.
    #[arg(long, value_enum, default_value_t = StrategyName::Threading)]
    strategy: StrategyName,

    /// How many seconds a command may take; then it is killed with all that it has started.
    #[arg(long, value_name = "SECS", default_value = "30", value_parser = seconds, allow_negative_numbers = true)]
    timeout: Duration,

    /// How many bytes a command may print, both outputs together; then it is killed.
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 20, value_parser = output_limit,
          allow_negative_numbers = true)]
    max_output: usize,

    /// How many seconds a client may let pass without a command, or take to receive an answer; then its connection
    /// is closed.
    #[arg(long, value_name = "SECS", default_value = "600", value_parser = seconds, allow_negative_numbers = true)]
    idle_timeout: Duration,

    /// Serve an address that is not loopback: anybody who reaches it runs commands here.
    #[arg(long)]
    allow_remote: bool,
}

#[derive(Args)]
struct CallOptions {
    #[command(flatten)]
    common: Common,

    /// How many seconds the server may be silent when a connection or an answer is due; to be longer than it lets a
    /// command take (the server's --timeout).
    #[arg(long, value_name = "SECS", default_value = "35", value_parser = seconds, allow_negative_numbers = true)]
    wait: Duration,

    /// Send each line of standard input as a command without waiting for the answers; framed only.
    #[arg(long, conflicts_with = "command")]
    pipeline: bool,

    /// The command; its words are joined with spaces and run by the server's `sh -c`.
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ProtocolName {
    /// The length of the output as decimal text, a wait for the client's `ready`, then the output.
    Ready,
    /// A 4-byte native-endian signed length, then the output, as Python's struct.pack('i', n).
    Struct,
    /// A datagram for the command, one for the output; what does not fit is cut.
    Udp,
    /// A 4-byte big-endian length before every message; output, errors and exit status apart.
    Framed,
}

#[derive(Clone, Copy, ValueEnum)]
enum StrategyName {
    /// One client at a time.
    Sync,
    /// A thread for each client.
    Threading,
    /// A process for each client.
    Forking,
    /// A fixed number of threads.
    Pool,
    /// Processes that are there before the clients.
    Prefork,
}

/// Up to 1 GiB: an answer's length must fit its header.
fn output_limit(text: &str) -> Result<usize, String> {
    const BYTES: RangeInclusive<usize> = 1..=1 << 30;
    match text.parse() {
        Ok(bytes) if BYTES.contains(&bytes) => Ok(bytes),
        _ => Err(format!(
            "not a number of bytes from {} to {}",
            BYTES.start(),
            BYTES.end()
        )),
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let done = match Options::parse().task {
        Task::Serve(options) => serve(&options),
        Task::Call(options) => call(&options),
    };
    done.unwrap_or_else(|error| support::failure("remote_command", &error))
}

fn serve(options: &ServeOptions) -> io::Result<ExitCode> {
    let encoding = options.common.encoding;
    let report = match options.common.protocol {
        ProtocolName::Ready => serve_tcp(Ready { encoding }, options)?,
        ProtocolName::Struct => serve_tcp(StructHeader { encoding }, options)?,
        ProtocolName::Framed => serve_tcp(Messages { encoding }, options)?,
        ProtocolName::Udp => {
            let runner = options.runner();
            let server = UdpServer::new(&options.common.address, Datagrams { runner, encoding });
            server::serve(server, options)?
        }
    };
    // A failure if a request had to be left behind.
    Ok(report.report())
}

fn serve_tcp(protocol: impl Protocol, options: &ServeOptions) -> io::Result<Report> {
    let runner = options.runner();
    let server = TcpServer::new(&options.common.address, Connections { protocol, runner });
    server::serve(server, options)
}

impl ServeOptions {
    fn runner(&self) -> Runner {
        Runner {
            limits: Limits {
                timeout: self.timeout,
                max_output: self.max_output,
            },
        }
    }
}

fn call(options: &CallOptions) -> io::Result<ExitCode> {
    match options.common.protocol {
        ProtocolName::Framed if options.pipeline => client::pipeline(options),
        _ if options.pipeline => {
            let text = "--pipeline is for --protocol framed: over the others commands in a hurry run into one another";
            Err(io::Error::new(ErrorKind::InvalidInput, text))
        }
        ProtocolName::Ready => client::call::<ReadyClient>(options),
        ProtocolName::Struct => client::call::<StructClient>(options),
        ProtocolName::Udp => client::call::<UdpClient>(options),
        ProtocolName::Framed => client::call::<FramedClient>(options),
    }
}

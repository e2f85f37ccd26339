//! Two ways to chat: the tutorial's, in which the server is a person, and a room for many.
//!
//! ```text
//! cargo run --example chat -- serve                # in one terminal
//! cargo run --example chat -- connect              # in another
//!
//! cargo run --example chat -- room                 # in one terminal
//! cargo run --example chat -- join --name ann      # in as many others as you like
//! ```

mod connect;
mod join;
mod room;
mod serve;
#[path = "../support/mod.rs"]
mod support;
mod wire;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use socketserver::prelude::*;

use support::seconds;

/// The tutorial's port.
const ADDRESS: &str = "127.0.0.1:6060";

/// How long a server may take to accept a client, and a room then to answer to a name.
const PATIENCE: Duration = Duration::from_secs(5);

/// Two ways to chat: with the person at the server, and in a room.
#[derive(Parser)]
#[command(after_help = "\
`serve` and `connect` are the tutorial's programs: a message is whatever one receive returns. `room` and `join`
have a length before each message, so that nothing runs together.")]
struct Options {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Prints each message with its client's address and sends back what you type.
    #[command(after_help = "\
When ready it prints `listening on ADDRESS`. Each message is answered before the next one is shown; whoever wrote
that one waits. The end of input (Ctrl-D) at the prompt, SIGINT (Ctrl-C) or SIGTERM ends it: it prints
`stopped: served=N …`.")]
    Serve(ServeOptions),

    /// Sends what you type to a server of `chat serve` and prints each answer.
    #[command(after_help = "An empty line is skipped; the end of input (Ctrl-D) ends it.")]
    Connect(ConnectOptions),

    /// Lets everybody who joins hear all that the others say.
    #[command(after_help = "\
When ready it prints `listening on ADDRESS`; SIGINT (Ctrl-C) or SIGTERM ends it: it prints `stopped: served=N …`.
No member holds up the others: one for whom too much waits, or who takes nothing for --patience seconds, is
dropped, and the others are told.")]
    Room {
        #[command(flatten)]
        serve: ServeOptions,

        /// How many seconds a member may take nothing before it is dropped.
        #[arg(long, value_name = "SECS", default_value = "5", value_parser = seconds, allow_negative_numbers = true)]
        patience: Duration,
    },

    /// Joins a room: prints what the others say, and says each line that you type.
    #[command(after_help = "An empty line is skipped; the end of input (Ctrl-D) leaves the room.")]
    Join {
        #[command(flatten)]
        connect: ConnectOptions,

        /// What the others call you: 1 to 32 characters other than `*` and `:`.
        #[arg(long, value_parser = |text: &str| wire::member_name(text.as_bytes()))]
        name: String,
    },
}

#[derive(Args)]
struct ServeOptions {
    /// HOST:PORT to listen on; port 0: any free one.
    #[arg(long, value_name = "ADDR", default_value = ADDRESS)]
    address: String,

    /// Serve an address that is not loopback: anybody who reaches it may take part.
    #[arg(long)]
    allow_remote: bool,
}

#[derive(Args)]
struct ConnectOptions {
    /// HOST:PORT of the server.
    #[arg(long, value_name = "ADDR", default_value = ADDRESS)]
    address: String,
}

fn main() -> ExitCode {
    // That conversations are ended by force is how a stop is meant to be here.
    let filter = "warn,socketserver::lifecycle::drain=error";
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(filter)).init();
    let done = match Options::parse().task {
        Task::Serve(options) => options.serve(serve::Conversation::default()),
        Task::Connect(options) => connect::run(&options.address),
        Task::Room { serve, patience } => serve.serve(room::Membership::new(patience)),
        Task::Join { connect, name } => join::run(&connect.address, &name),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => support::failure("chat", &error),
    }
}

impl ServeOptions {
    /// Serves each client in a thread, until a signal comes. Conversations have no end worth waiting for: they
    /// are ended at once then.
    fn serve(&self, handler: impl BaseRequestHandler<TcpRequest>) -> io::Result<()> {
        let server = TcpServer::new(&self.address, handler)
            .threading()
            .shutdown_on_signals([signal::SIGTERM, signal::SIGINT])
            .drain_timeout(Duration::ZERO)
            .bind()?;
        if !self.allow_remote {
            support::refuse_remote(&server.server_address(), "take part")?;
        }
        support::serve(server).map(drop)
    }
}

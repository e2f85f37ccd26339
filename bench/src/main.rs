//! How fast socketserver is: against the same strategies by hand on system calls, and against other servers.

mod interrupt;
mod limits;
mod load;
mod servers;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use load::{Endpoint, Load, Pattern};
use servers::{Setup, Transport};

/// How fast socketserver is: against the same strategies by hand on system calls, and against others.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  bench list
  bench serve threading                          then: bench load ADDRESS --connections 16
  bench serve sync --transport udp               then: bench load ADDRESS --transport udp --window 32")]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Names the servers.
    List,
    /// Runs one server until SIGTERM; prints `listening on ADDRESS` when clients can come.
    Serve(ServeOptions),
    /// Puts a load on a server that echoes, and tells its rate.
    Load(LoadOptions),
}

#[derive(Args)]
struct ServeOptions {
    /// One of those that `bench list` names.
    name: String,
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    transport: Transport,
    /// HOST:PORT, or a path for unix and unixgram.
    #[arg(long, default_value = "127.0.0.1:0")]
    address: String,
    /// Read into 64 KiB instead of 4 KiB.
    #[arg(long)]
    bulk: bool,
    /// Write to so much memory before serving, in MB.
    #[arg(long, value_name = "MB", default_value_t = 0)]
    touched: usize,
}

#[derive(Args)]
struct LoadOptions {
    /// HOST:PORT of this machine, or a path.
    address: String,
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    transport: Transport,
    /// Connections or sockets at once.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Use a connection for all its messages, not for one.
    #[arg(long)]
    keep: bool,
    /// Messages under way on each connection that is kept, or from each datagram socket.
    #[arg(long, default_value_t = 1)]
    window: usize,
    /// Bytes in a message: at most 65536, and 1024 in a datagram.
    #[arg(long, default_value_t = 64)]
    message: usize,
    /// Threads of the load generator.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    #[arg(long, default_value_t = 0.2)]
    warm_up_seconds: f64,
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

fn main() -> ExitCode {
    let done = match Options::parse().command {
        Command::List => {
            list();
            Ok(())
        }
        Command::Serve(options) => serve(&options),
        Command::Load(options) => put_load(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn list() {
    for server in servers::all() {
        let transports: Vec<_> = server.transports.iter().map(ToString::to_string).collect();
        println!("{:18} {:24} {}", server.name, transports.join(" "), server.about);
    }
}

fn serve(options: &ServeOptions) -> io::Result<()> {
    let server = servers::find(&options.name).ok_or_else(|| {
        let text = format!("there is no server `{}`: see `bench list`", options.name);
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })?;
    let setup = Setup {
        transport: options.transport,
        address: options.address.clone(),
        bulk: options.bulk,
        touched_mb: options.touched,
    };
    servers::serve(server, &setup)
}

fn put_load(options: &LoadOptions) -> io::Result<()> {
    interrupt::listen()?;
    let endpoint = Endpoint::parse(options.transport, &options.address)?;
    let pattern = match options.transport {
        Transport::Tcp | Transport::Unix => Pattern::Stream {
            connections: options.connections,
            window: options.window,
            message: options.message,
            keep: options.keep,
        },
        Transport::Udp | Transport::Unixgram => Pattern::Datagram {
            sockets: options.connections,
            window: options.window,
            message: options.message,
        },
    };
    let load = Load {
        endpoint,
        pattern,
        threads: options.threads,
        warm_up: Duration::from_secs_f64(options.warm_up_seconds),
        time: Duration::from_secs_f64(options.seconds),
    };
    let (tally, (), ()) = load::run(&load, || ())?;
    #[allow(clippy::cast_precision_loss, reason = "a rate, not an account")]
    let rate = tally.completed as f64 / options.seconds;
    println!(
        "{rate:.0}/s, p50 {:.0} us, p99 {:.0} us",
        tally.microseconds(0.5),
        tally.microseconds(0.99)
    );
    for (what, count) in &tally.errors {
        println!("{count} x {what}");
    }
    Ok(())
}

//! How fast socketserver is: against the same strategies by hand on system calls, and against other servers.

use std::env;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bench::compare::{self, Comparison};
use bench::load::{self, Endpoint, Load, Pattern};
use bench::servers::{self, Setup, Transport};
use bench::{interrupt, workloads};
use clap::{Args, Parser, Subcommand};
use nix::sys::signal::Signal;

/// How fast socketserver is: against the same strategies by hand on system calls, and against others.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  bench compare                                  everything: about 20 minutes
  bench compare --short                          under two minutes
  bench compare --workload 'tcp-churn*' --server threading,libc-lf*,tokio --rounds 5
  bench list
  bench serve threading                          then: bench load ADDRESS --connections 16
  bench serve sync --transport udp               then: bench load ADDRESS --transport udp --window 32")]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures the servers, each in a fresh process, and prints the table.
    Compare(CompareOptions),
    /// Names the workloads and the servers.
    List,
    /// Runs one server until SIGTERM; prints `listening on ADDRESS` when clients can come.
    Serve(ServeOptions),
    /// Puts a load on a server that echoes, and tells its rate.
    Load(LoadOptions),
}

#[derive(Args)]
struct CompareOptions {
    /// The most telling workloads, fewer and shorter rounds, and only servers that a target is about.
    #[arg(long)]
    short: bool,
    /// Only these workloads: names, or beginnings of names and a `*`, with commas between.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    workload: Vec<String>,
    /// Only these servers, also those that the workload does not measure by itself.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    server: Vec<String>,
    /// How often each server is measured under each workload [default: 5, or 3 with --short].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// The measured time of a round [default: 0.5, or 0.25 with --short].
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// Threads of the load generator.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..))]
    threads: u8,
    /// Where the results go [default: bench/results/results.json].
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Where the plot goes [default: bench/results/plot.svg].
    #[arg(long, value_name = "PATH")]
    plot: Option<PathBuf>,
}

/// A time that a round can have.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number from 0.01 to 600".into()),
    }
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
    /// Read into 64 KiB instead of 4 KiB, and set `TCP_NODELAY`.
    #[arg(long)]
    bulk: bool,
    /// Write to so much memory before serving, in MB.
    #[arg(long, value_name = "MB", default_value_t = 0)]
    touched: usize,
    /// End when this process, which started it, ends.
    #[arg(long, value_name = "PID", hide = true)]
    parent: Option<u32>,
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
    /// Not counted, before the counted time.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.2, value_parser = seconds)]
    warm_up: f64,
    /// The counted time.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
}

fn main() -> ExitCode {
    let done = match Options::parse().command {
        Command::Compare(options) => compare(options),
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

fn compare(options: CompareOptions) -> io::Result<()> {
    interrupt::listen()?;
    // Where this package is, if cargo runs it.
    let directory = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let file = |path: Option<PathBuf>, name| path.unwrap_or_else(|| directory.join("results").join(name));
    compare::run(&Comparison {
        short: options.short,
        workloads: options.workload,
        servers: options.server,
        rounds: compare::rounds(options.short, options.rounds),
        effort: compare::effort(options.short, options.seconds, options.threads.into()),
        json: file(options.json, "results.json"),
        plot: file(options.plot, "plot.svg"),
    })
}

fn list() {
    println!("Workloads (* in the short form):");
    for workload in workloads::all() {
        let mark = if workload.in_short { "*" } else { "" };
        println!("  {:20} {}", format!("{}{mark}", workload.name), workload.about);
    }
    println!("\nServers:");
    for server in servers::all() {
        let transports: Vec<_> = server.transports.iter().map(ToString::to_string).collect();
        println!("  {:18} {:24} {}", server.name, transports.join(" "), server.about);
    }
}

fn serve(options: &ServeOptions) -> io::Result<()> {
    let server = servers::find(&options.name).ok_or_else(|| {
        let text = format!("there is no server `{}`: see `bench list`", options.name);
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })?;
    if let Some(parent) = options.parent {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // It may have ended before that.
        if nix::unistd::getppid().as_raw().cast_unsigned() != parent {
            return Err(io::Error::other("whoever started this server is gone"));
        }
    } else {
        servers::prepare(server).map_err(io::Error::other)?;
    }
    let setup = Setup {
        transport: options.transport,
        address: options.address.clone(),
        bulk: options.bulk,
        touched_mb: options.touched,
        defer_accept: false,
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
        warm_up: Duration::from_secs_f64(options.warm_up),
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

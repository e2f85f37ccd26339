//! Echoes what it gets, over any transport and under any strategy.
//!
//! A stream is echoed until its end, a datagram once. When ready it prints `listening on ADDRESS`; stopped
//! by SIGTERM or SIGINT it drains and prints `stopped: served=N failed=N …`.
//!
//! ```text
//! cargo run --example echo -- --transport tcp --strategy threading --address 127.0.0.1:7777
//! nc 127.0.0.1 7777
//! ```

use std::io::{self, ErrorKind, Read, Write};
use std::process::{ExitCode, Termination};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use socketserver::prelude::*;

#[path = "support/printing.rs"]
mod printing;
#[path = "support/serving.rs"]
mod serving;

/// Echoes bytes until the end of a stream, or each datagram, until SIGTERM or SIGINT stops it.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  echo --address 127.0.0.1:7777                       then: nc 127.0.0.1 7777
  echo --transport udp --address 127.0.0.1:7777       then: nc -u 127.0.0.1 7777
  echo --transport unix --address /tmp/echo.sock      then: nc -U /tmp/echo.sock
  echo --transport unix --address @echo               then: socat - ABSTRACT-CONNECT:echo
  echo --max-connections 1 --on-limit reject          then: two of them at a time

When ready it prints `listening on ADDRESS`. SIGTERM or SIGINT: requests in progress are waited for, then it prints
`stopped: served=N failed=N …`; the exit status is 0, or 1 if one had to be left behind. It is 1, too, when serving
fails, and 2 when the options make no sense.

Logs go to standard error; RUST_LOG=debug shows more of them.")]
struct Options {
    /// What to listen on.
    #[arg(long, value_enum, default_value_t = TransportName::Tcp)]
    transport: TransportName,

    /// Where and when requests run.
    #[arg(long, value_enum, default_value_t = StrategyName::Threading)]
    strategy: StrategyName,

    /// HOST:PORT for tcp and udp (port 0: any free one); a path, or @NAME for an abstract name, for unix
    /// and unixgram [default: 127.0.0.1:0 for tcp and udp].
    #[arg(long, value_name = "ADDR|PATH")]
    address: Option<String>,

    /// Threads of a pool [default: the processors and four more, at most 32], or processes of prefork
    /// [default: 5 to 50, as needed].
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    workers: Option<usize>,

    /// Closes a connection whose client sends nothing for so many seconds, such as 60 or 0.5 [default:
    /// never].
    #[arg(long, value_name = "SECS", value_parser = seconds, allow_negative_numbers = true)]
    idle_timeout: Option<Duration>,

    /// Closes a connection that is older than so many seconds, whatever its client does [default: never].
    #[arg(long, value_name = "SECS", value_parser = seconds, allow_negative_numbers = true)]
    request_timeout: Option<Duration>,

    /// How long requests in progress may take to end once the server was told to stop.
    #[arg(long, value_name = "SECS", default_value = "30", value_parser = seconds, allow_negative_numbers = true)]
    drain: Duration,

    /// Requests in progress at most.
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    max_connections: Option<usize>,

    /// Requests of one client address in progress at most.
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    per_address: Option<usize>,

    /// What happens to clients beyond these limits.
    #[arg(long, value_enum, default_value_t = Policy::Wait)]
    on_limit: Policy,

    /// Writes counts and connections to the log at SIGUSR1.
    #[arg(long)]
    stats: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Policy {
    /// They wait until there is room.
    Wait,
    /// They are told to come again later.
    Reject,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TransportName {
    Tcp,
    Udp,
    Unix,
    Unixgram,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StrategyName {
    /// One request at a time.
    Sync,
    /// A thread for each request.
    Threading,
    /// A process for each request.
    Forking,
    /// A fixed number of threads.
    Pool,
    /// Processes that are there before the requests.
    Prefork,
}

/// Sends everything back.
#[derive(Clone)]
struct Echo;

impl<S: Stream> BaseRequestHandler<StreamRequest<S>> for Echo {
    fn handle(&mut self, request: &mut StreamRequest<S>) -> HandlerResult {
        let mut buffer = [0; 16 * 1024];
        loop {
            let count = request.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            request.write_all(&buffer[..count])?;
        }
    }
}

impl BaseRequestHandler<DatagramRequest> for Echo {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        Ok(request.reply(request.packet())?)
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match run(&Options::parse()) {
        // A failure if a request had to be left behind.
        Ok(report) => report.report(),
        // The library says what is wrong with an option.
        Err(error) => printing::failure("echo", &error),
    }
}

fn run(options: &Options) -> io::Result<Report> {
    options.tell_what_has_no_effect();
    let address = options.address()?;
    match options.transport {
        TransportName::Tcp => with_strategy(TcpServer::new(address, Echo), options),
        TransportName::Udp => with_strategy(UdpServer::new(address, Echo), options),
        TransportName::Unix => with_strategy(UnixStreamServer::new(address, Echo), options),
        TransportName::Unixgram => with_strategy(UnixDatagramServer::new(address, Echo), options),
    }
}

fn with_limits<S: BaseServer>(mut server: S, options: &Options) -> S {
    let limit = |max| match options.on_limit {
        Policy::Wait => Limit::wait(max),
        Policy::Reject => Limit::reject(max),
    };
    if let Some(max) = options.max_connections {
        server = server.max_connections(limit(max));
    }
    if let Some(max) = options.per_address {
        server = server.max_per_address(limit(max));
    }
    if options.stats {
        server = server.on_signal(signal::SIGUSR1, SignalAction::DumpStats);
    }
    server.farewell("busy, come again later\n")
}

fn with_strategy(server: impl BaseServer, options: &Options) -> io::Result<Report> {
    let server = with_limits(server, options);
    match options.strategy {
        StrategyName::Sync => serve(server, options),
        StrategyName::Threading => serve(server.threading(), options),
        StrategyName::Forking => serve(server.forking(), options),
        StrategyName::Pool => {
            let pool = server.thread_pool();
            let pool = match options.workers {
                Some(workers) => pool.workers(workers),
                None => pool,
            };
            serve(pool, options)
        }
        StrategyName::Prefork => {
            let prefork = server.prefork();
            let prefork = match options.workers {
                Some(workers) => prefork.workers(workers),
                None => prefork,
            };
            serve(prefork, options)
        }
    }
}

fn serve(server: impl BaseServer, options: &Options) -> io::Result<Report> {
    // What servers with worker processes do at these: TERM lets the clients end, INT does not wait for them.
    let interrupt = match options.strategy {
        StrategyName::Prefork => SignalAction::Stop,
        _ => SignalAction::Drain,
    };
    let server = server
        .idle_timeout(options.idle_timeout)
        .request_timeout(options.request_timeout)
        .on_signal(signal::SIGTERM, SignalAction::Drain)
        .on_signal(signal::SIGINT, interrupt)
        .drain_timeout(options.drain)
        .bind()?;
    serving::serve(server)
}

/// A time as text: seconds, with a fraction if need be.
fn seconds(text: &str) -> Result<Duration, &'static str> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or("write seconds, such as 60 or 0.5")
}

fn at_least_one(text: &str) -> Result<usize, &'static str> {
    text.parse()
        .ok()
        .filter(|count| *count > 0)
        .ok_or("write a whole number, 1 or more")
}

impl Options {
    /// No errors: whoever tries all combinations need not know them.
    fn tell_what_has_no_effect(&self) {
        use TransportName::{Udp, Unix, Unixgram};
        let several_workers = matches!(self.strategy, StrategyName::Pool | StrategyName::Prefork);
        let limited = self.max_connections.is_some() || self.per_address.is_some();
        let timed = self.idle_timeout.is_some() || self.request_timeout.is_some();
        let without_effect = [
            (
                self.workers.is_some() && !several_workers,
                "--workers has no effect without --strategy pool or prefork",
            ),
            (
                self.on_limit == Policy::Reject && !limited,
                "--on-limit has no effect without --max-connections or --per-address",
            ),
            (
                self.per_address.is_some() && matches!(self.transport, Unix | Unixgram),
                "--per-address has no effect on Unix sockets",
            ),
            (
                timed && matches!(self.transport, Udp | Unixgram),
                "timeouts have no effect on datagrams",
            ),
        ];
        for (_, what) in without_effect.iter().filter(|(holds, _)| *holds) {
            let _ = writeln!(io::stderr(), "echo: {what}");
        }
    }

    fn address(&self) -> io::Result<Address> {
        let inet = matches!(self.transport, TransportName::Tcp | TransportName::Udp);
        match &self.address {
            Some(text) if inet => Ok(text.into()),
            None if inet => Ok("127.0.0.1:0".into()),
            // `@name` is how socat, systemd and ss write an abstract name.
            Some(text) => Ok(text
                .strip_prefix('@')
                .map_or_else(|| text.into(), Address::abstract_name)),
            None => Err(io::Error::new(
                ErrorKind::InvalidInput,
                "--transport unix and unixgram need --address with a path, or @NAME",
            )),
        }
    }
}

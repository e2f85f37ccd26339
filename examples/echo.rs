//! Echoes what it gets, over any transport and under any strategy.
//!
//! A stream is echoed until its end, a datagram once. When ready it prints `listening on ADDRESS`; stopped
//! by SIGTERM or SIGINT it drains and prints `stopped: served=N failed=N …`.
//!
//! ```text
//! cargo run --example echo -- --transport tcp --strategy threading --address 127.0.0.1:7777
//! nc 127.0.0.1 7777
//! ```

use std::io::{self, Read, Write};
use std::process::{ExitCode, Termination};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use socketserver::prelude::*;

/// Echoes bytes until the end of a stream, or each datagram, until SIGTERM or SIGINT stops it.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  echo --address 127.0.0.1:7777                       then: nc 127.0.0.1 7777
  echo --transport udp --address 127.0.0.1:7777       then: nc -u 127.0.0.1 7777
  echo --transport unix --address /tmp/echo.sock      then: nc -U /tmp/echo.sock
  echo --transport unix --address @echo               then: socat - ABSTRACT-CONNECT:echo
  echo --max-connections 1 --on-limit reject          then: two of them at a time

Logs go to standard error; RUST_LOG=debug shows more of them.")]
struct Options {
    /// What to listen on.
    #[arg(long, value_enum, default_value_t = TransportName::Tcp)]
    transport: TransportName,

    /// Where and when requests run.
    #[arg(long, value_enum, default_value_t = StrategyName::Threading)]
    strategy: StrategyName,

    /// HOST:PORT for tcp and udp (port 0: any free one); a path, or @NAME for an abstract name, for unix
    /// and unixgram.
    #[arg(long, value_name = "ADDR|PATH", default_value = "127.0.0.1:0")]
    address: String,

    /// Threads of a pool [default: the processors and four more, at most 32], or processes of prefork
    /// [default: 5 to 50, as needed].
    #[arg(long, value_name = "N")]
    workers: Option<usize>,

    /// Closes a connection whose client sends nothing for so many seconds, such as 60 or 0.5 [default:
    /// never].
    #[arg(long, value_name = "SECS", value_parser = seconds, allow_negative_numbers = true)]
    idle_timeout: Option<Duration>,

    /// Closes a connection that is older than so many seconds, whatever its client does [default: never].
    #[arg(long, value_name = "SECS", value_parser = seconds, allow_negative_numbers = true)]
    request_timeout: Option<Duration>,

    /// How long requests in progress may take to end once the server was told to stop.
    #[arg(long, value_name = "SECS", default_value_t = 30)]
    drain: u64,

    /// Requests in progress at most.
    #[arg(long, value_name = "N")]
    max_connections: Option<usize>,

    /// Requests of one client address in progress at most.
    #[arg(long, value_name = "N")]
    per_address: Option<usize>,

    /// What happens to clients beyond these limits.
    #[arg(long, value_enum, default_value_t = Policy::Wait)]
    on_limit: Policy,

    /// Writes counts and connections to the log at SIGUSR1.
    #[arg(long)]
    stats: bool,
}

#[derive(Clone, Copy, ValueEnum)]
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
    let options = Options::parse();
    match run(&options) {
        Ok(report) => {
            // Whoever started it may have stopped reading.
            let _ = writeln!(io::stdout(), "stopped: {report}");
            // A failure if a request had to be left behind.
            report.report()
        }
        Err(error) => {
            eprintln!("echo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<Report> {
    if options.workers.is_some() && !matches!(options.strategy, StrategyName::Pool | StrategyName::Prefork) {
        eprintln!("echo: --workers has no effect without --strategy pool or prefork");
    }
    let datagrams = matches!(options.transport, TransportName::Udp | TransportName::Unixgram);
    if datagrams && (options.idle_timeout.is_some() || options.request_timeout.is_some()) {
        eprintln!("echo: timeouts have no effect on datagrams");
    }
    let address = options.address();
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
        .drain_timeout(Duration::from_secs(options.drain))
        .bind()?;
    let mut output = io::stdout();
    writeln!(output, "listening on {}", server.server_address())?;
    output.flush()?;
    server.serve_forever()
}

/// A time as text: seconds, with a fraction if need be.
fn seconds(text: &str) -> Result<Duration, &'static str> {
    let seconds = text
        .parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds
        .filter(|timeout| !timeout.is_zero())
        .ok_or("write seconds, more than 0, such as 60 or 0.5; leave the option out for no limit")
}

impl Options {
    /// `@name` is how socat, systemd and ss write an abstract name.
    fn address(&self) -> Address {
        let unix = matches!(self.transport, TransportName::Unix | TransportName::Unixgram);
        match self.address.strip_prefix('@') {
            Some(name) if unix => Address::abstract_name(name),
            _ => Address::from(&self.address),
        }
    }
}

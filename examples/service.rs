//! A service as systemd runs one: it takes the socket that it is handed, says when it is ready, that it is alive and
//! that it stops, and lets its clients end.
//!
//! Each line comes back in capitals. Without systemd it is an ordinary server:
//!
//! ```text
//! cargo run --example service -- --address 127.0.0.1:7777
//! nc 127.0.0.1 7777
//! ```
//!
//! Its units are in the documentation, `socketserver::deployment`.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{ExitCode, Termination};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use listenfd::ListenFd;
use sd_notify::NotifyState;
use socketserver::framing::LinesCodec;
use socketserver::prelude::*;
use socketserver::{Event, Tcp};

#[path = "support/printing.rs"]
mod printing;
#[path = "support/serving.rs"]
mod serving;

/// Sends each line back in capitals, as a service of systemd's or by itself, until SIGTERM or SIGINT stops it.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  service --address 127.0.0.1:7777                        then: nc 127.0.0.1 7777
  systemd-socket-activate -l 127.0.0.1:7777 ./service     then the same

Logs go to standard error; RUST_LOG=debug shows more of them.")]
struct Options {
    /// HOST:PORT, where systemd has handed over no socket (port 0: any free one).
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    address: String,

    /// How many seconds requests in progress may take to end once the service was told to stop; less than the
    /// `TimeoutStopSec` of its unit.
    #[arg(long, value_name = "SECS", default_value = "30", value_parser = seconds, allow_negative_numbers = true)]
    drain: Duration,
}

fn main() -> ExitCode {
    let mut logger = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"));
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        // The journal has the time of each line.
        logger.format_timestamp(None);
    }
    logger.init();
    match run(&Options::parse()) {
        Ok(report) => report.report(),
        Err(error) => printing::failure("service", &error),
    }
}

fn run(options: &Options) -> io::Result<Report> {
    let server = match ListenFd::from_env().take_tcp_listener(0)? {
        Some(listener) => TcpServer::with_transport(Tcp::try_from(listener)?, shout),
        None => TcpServer::new(&*options.address, shout),
    };
    // 0 is none. The next look can be two intervals after the last word.
    let watchdog = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
    let watchdog = watchdog.map(|limit| limit / 3);
    let server = Alive::new(server.threading(), watchdog)
        .poll_interval(watchdog)
        .drain_timeout(options.drain)
        .shutdown_on_signals([signal::SIGTERM, signal::SIGINT])
        .observer(|event: &Event<'_>| {
            if let Event::Draining { running, .. } = event {
                let status = format!("connections left: {running}");
                tell(&[NotifyState::Stopping, NotifyState::Status(&status)]);
            }
        })
        .bind()?;
    tell(&[NotifyState::Ready]);
    serving::serve(server)
}

fn shout(request: &mut TcpRequest) -> HandlerResult {
    let mut lines = request.framed(LinesCodec::new());
    while let Some(line) = lines.next_ref()? {
        let capitals = line.to_ascii_uppercase();
        lines.send(capitals)?;
    }
    Ok(())
}

/// Tells systemd; nobody, if the program runs without it.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        log::warn!("systemd was not told: {error}");
    }
}

fn notify(states: &[NotifyState<'_>]) -> io::Result<()> {
    let manager = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    let Some(name) = manager.as_bytes().strip_prefix(b"@") else {
        return sd_notify::notify(states);
    };
    // An abstract name, which `sd_notify` would take for a path.
    let lines: Vec<_> = states.iter().map(ToString::to_string).collect();
    let message = lines.join("\n");
    let to = SocketAddr::from_abstract_name(name)?;
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &to).map(drop)
}

/// A time as text: seconds, with a fraction if need be.
fn seconds(text: &str) -> Result<Duration, &'static str> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or("write seconds, such as 60 or 0.5")
}

/// Says that the server is alive, as long as its loop comes round.
struct Alive<S> {
    inner: S,
    interval: Option<Duration>,
    last: Mutex<Instant>,
}

impl<S> Alive<S> {
    fn new(inner: S, interval: Option<Duration>) -> Self {
        Alive {
            inner,
            interval,
            last: Mutex::new(Instant::now()),
        }
    }
}

impl<S: BaseServer> BaseServer for Alive<S> {
    type Transport = S::Transport;
    type Inner = S;
    fn inner(&self) -> &S {
        &self.inner
    }

    fn service_actions(&self) {
        self.inner.service_actions();
        let Some(interval) = self.interval else { return };
        // The loop comes round with each request, too.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= interval {
            *last = Instant::now();
            tell(&[NotifyState::Watchdog]);
        }
    }
}

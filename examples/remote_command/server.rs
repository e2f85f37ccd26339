//! Serves a protocol: the handler of connections, and what runs the commands.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use socketserver::Request;
use socketserver::prelude::*;

use crate::command::{Killed, Limits, Outcome, run_command};
use crate::protocol::Protocol;
use crate::support;
use crate::{ServeOptions, StrategyName};

/// How much longer than a command may take a stopping server waits for it and for its answer to go out.
const MARGIN: Duration = Duration::from_secs(1);

/// Runs a command for a client.
#[derive(Clone)]
pub(crate) struct Runner {
    pub(crate) limits: Limits,
}

impl Runner {
    /// # Errors
    ///
    /// The client has left meanwhile; the command was killed.
    pub(crate) fn run(&self, request: &impl Request, command: &[u8]) -> io::Result<Outcome> {
        log::info!("{}: {}", request.client_address(), in_a_line(command));
        let outcome = run_command(command, self.limits, request.socket()).unwrap_or_else(|error| not_run(&error));
        if outcome.killed == Some(Killed::ClientLeft) {
            let text = "the client left while its command ran; the command was killed";
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, text));
        }
        log::debug!("{}: {}", request.client_address(), outcome.status);
        Ok(outcome)
    }
}

/// Runs the commands of one connection, one after the other.
#[derive(Clone)]
pub(crate) struct Connections<P> {
    pub(crate) protocol: P,
    pub(crate) runner: Runner,
}

impl<S: Stream, P: Protocol> BaseRequestHandler<StreamRequest<S>> for Connections<P> {
    fn handle(&mut self, request: &mut StreamRequest<S>) -> HandlerResult {
        while let Some(command) = self.protocol.read_command(request)? {
            let outcome = self.runner.run(request, &command)?;
            self.protocol.write_answer(request, &outcome)?;
            if request.server().is_draining() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The beginning of a command, for a log.
fn in_a_line(command: &[u8]) -> String {
    const LOGGED: usize = 200;
    let (begin, rest) = command.split_at(command.len().min(LOGGED));
    let end = if rest.is_empty() { "" } else { " …" };
    format!("{}{end}", String::from_utf8_lossy(begin).escape_debug())
}

/// The outcome of a command that could not be started; 127 is what a shell says of one.
fn not_run(error: &io::Error) -> Outcome {
    Outcome {
        stdout: Vec::new(),
        stderr: format!("[remote_command: not run: {error}]\n").into_bytes(),
        status: ExitStatus::from_raw(127 << 8),
        killed: None,
    }
}

/// Serves until a signal stops it.
pub(crate) fn serve(server: impl BaseServer, options: &ServeOptions) -> io::Result<Report> {
    match options.strategy {
        StrategyName::Sync => run(server, options),
        StrategyName::Threading => run(server.threading(), options),
        StrategyName::Forking => run(server.forking(), options),
        StrategyName::Pool => run(server.thread_pool(), options),
        StrategyName::Prefork => run(server.prefork(), options),
    }
}

fn run(server: impl BaseServer, options: &ServeOptions) -> io::Result<Report> {
    let server = server
        .shutdown_on_signals([signal::SIGTERM, signal::SIGINT])
        .drain_timeout(options.timeout.saturating_add(MARGIN))
        .idle_timeout(options.idle_timeout)
        .write_timeout(options.idle_timeout)
        .bind()?;
    if !options.allow_remote {
        support::refuse_remote(&server.server_address(), "run commands here")?;
    }
    support::serve(server)
}

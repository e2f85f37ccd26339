//! A server in a process of its own, which ends with its guard.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::interrupt;
use crate::load::Endpoint;
use crate::servers::{Server, Transport};

/// A server must be ready, and must end when told to, within this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a server is started with besides its name.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    pub transport: Transport,
    pub bulk: bool,
    pub touched_mb: usize,
}

/// A running server: a process group of its own, so that its children end with it.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    out: ChildStdout,
    endpoint: Endpoint,
    /// Its standard error, and its path if it has one.
    directory: TempDir,
}

impl ServerProcess {
    /// Starts a server and waits until clients can come.
    ///
    /// # Errors
    ///
    /// It ended or said nothing in time, with the last line it complained with.
    pub fn start(server: &Server, start: Start) -> io::Result<Self> {
        let directory = TempDir::new()?;
        let address = if start.transport.is_unix() {
            directory.path().join("socket").display().to_string()
        } else {
            "127.0.0.1:0".to_owned()
        };
        let mut command = Command::new(env::current_exe()?);
        command
            .args(["serve", server.name])
            .args(["--transport", &start.transport.to_string()])
            .args(["--address", &address])
            .args(["--touched", &start.touched_mb.to_string()])
            .args(["--parent", &std::process::id().to_string()])
            .args(start.bulk.then_some("--bulk"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(directory.path().join("stderr"))?)
            .process_group(0);
        let mut child = command.spawn()?;
        let out = child.stdout.take().expect("it was piped");
        let mut process = ServerProcess {
            child,
            out,
            // Until it has said where it is.
            endpoint: Endpoint::parse(Transport::Udp, "127.0.0.1:0")?,
            directory,
        };
        let line = process.first_line()?;
        let announced = line
            .strip_prefix("listening on ")
            .ok_or_else(|| process.complaint("did not start"))?;
        process.endpoint = Endpoint::parse(start.transport, announced)?;
        Ok(process)
    }

    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// The process group, which is the server's own pid.
    pub fn group(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn first_line(&mut self) -> io::Result<String> {
        let end = Instant::now() + PATIENCE;
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            if !self.wait_for_output(end)? {
                return Err(self.complaint("was not ready in time"));
            }
            let mut byte = [0];
            if self.out.read(&mut byte)? == 0 {
                return Err(self.complaint("ended before it was ready"));
            }
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Waits until standard output has something to read, or is closed because the process has ended.
    fn wait_for_output(&self, end: Instant) -> io::Result<bool> {
        loop {
            interrupt::check()?;
            let mut out = [PollFd::new(self.out.as_fd(), PollFlags::POLLIN)];
            let glance = u16::try_from(interrupt::GLANCE.as_millis()).unwrap_or(u16::MAX);
            match poll(&mut out, glance) {
                Ok(0) | Err(Errno::EINTR) if Instant::now() >= end => return Ok(false),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What went wrong, with the last line that the server wrote to standard error.
    pub fn complaint(&self, what: &str) -> io::Error {
        let stderr = fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default();
        match stderr.lines().rfind(|line| !line.trim().is_empty()) {
            Some(line) => io::Error::other(format!("{what}: {line}")),
            None => io::Error::other(what.to_owned()),
        }
    }

    /// Sends SIGTERM; how long the server took to end.
    pub fn stop(mut self) -> io::Result<Duration> {
        let told = Instant::now();
        kill(self.group(), Signal::SIGTERM)?;
        // Nobody else has its standard output: it is closed when the process ends.
        if !self.wait_for_output(told + PATIENCE)? {
            return Err(self.complaint("did not end in time after SIGTERM"));
        }
        self.child.wait()?;
        Ok(told.elapsed())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let group = self.group();
        // Errors: all of it is gone already.
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
        // Its children are somebody else's to reap; the next measurement wants them gone.
        let end = Instant::now() + Duration::from_secs(1);
        while killpg(group, None).is_ok() && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

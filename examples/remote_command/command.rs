//! Runs one command within limits.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, ErrorKind, PipeReader, Read, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// What a command may take.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) timeout: Duration,
    /// Bytes of both outputs together.
    pub(crate) max_output: usize,
}

/// How long a command goes on when its client has ended its sending side: enough for
/// `printf date | nc`, which does so at once and waits for the answer. A client that is gone looks the
/// same, and its command is not to be left behind.
const HALF_CLOSED_GRACE: Duration = Duration::from_secs(1);

/// The client has ended its sending side, or all of it: the next poll(2) tells which.
const HALF_CLOSED: PollFlags = PollFlags::from_bits_retain(libc::POLLRDHUP);

/// What became of a command.
pub(crate) struct Outcome {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// How the shell ended.
    pub(crate) status: ExitStatus,
    /// Why it was killed, if it was; the outputs are what there was by then.
    pub(crate) killed: Option<Killed>,
}

/// Why a command was killed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Killed {
    TimedOut(Duration),
    OutputLimit(usize),
    ClientLeft,
}

impl Outcome {
    /// The answer in one text, as the tutorial has it: standard error if there is any, else standard
    /// output.
    pub(crate) fn text(&self) -> Cow<'_, [u8]> {
        if self.stderr.is_empty() {
            self.with_end(&self.stdout)
        } else {
            self.errors()
        }
    }

    /// What it wrote to standard error.
    pub(crate) fn errors(&self) -> Cow<'_, [u8]> {
        self.with_end(&self.stderr)
    }

    /// A command that was killed says so in a last line.
    fn with_end<'a>(&self, output: &'a [u8]) -> Cow<'a, [u8]> {
        let mut text = Cow::Borrowed(output);
        if let Some(killed) = self.killed {
            if text.last().is_some_and(|last| *last != b'\n') {
                text.to_mut().push(b'\n');
            }
            let end = format!("[remote_command: {killed}]\n");
            text.to_mut().extend_from_slice(end.as_bytes());
        }
        text
    }
}

impl fmt::Display for Killed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Killed::TimedOut(timeout) => write!(f, "killed: it took longer than {} s", timeout.as_secs_f64()),
            Killed::OutputLimit(bytes) => write!(f, "killed: it printed more than {bytes} bytes; the rest is cut"),
            Killed::ClientLeft => f.write_str("killed: its client left"),
        }
    }
}

/// Runs `command` with `sh -c`, its bytes as they are, with nothing on standard input, until it has ended
/// and its outputs are closed, or a limit is reached, or `client` has left. Nothing of its process group is
/// left running: what a command leaves in the background ends with it.
///
/// # Errors
///
/// It could not be started: no process, no descriptor, a NUL byte in it.
pub(crate) fn run_command(command: &[u8], limits: Limits, client: Option<BorrowedFd<'_>>) -> io::Result<Outcome> {
    thread::scope(|scope| {
        // Dropped before the scope waits for its thread, which waits for the shell.
        let mut group = Group::start(command)?;
        let mut running = Running {
            stdout: Output::of(group.shell.stdout.take()),
            stderr: Output::of(group.shell.stderr.take()),
            exited: None,
            client,
            deadline: Instant::now() + limits.timeout,
            at_deadline: Killed::TimedOut(limits.timeout),
        };
        // The end of a process is nothing that poll(2) sees; the end of this pipe is.
        let (exited, writer) = pipe()?;
        let shell = pid(&group.shell);
        thread::Builder::new().spawn_scoped(scope, move || {
            while waitid(Id::Pid(shell), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
            drop(writer);
        })?;
        running.exited = Some(exited);

        let killed = running.until_end(limits.max_output)?;
        let status = group.end()?;
        Ok(Outcome {
            stdout: running.stdout.bytes,
            stderr: running.stderr.bytes,
            status,
            killed,
        })
    })
}

/// The shell and all that it starts: a process group of its own, led by a process that kills it when the
/// server is gone, however that ended: a forked child of the server ends by SIGTERM.
struct Group {
    leader: Child,
    shell: Child,
}

/// Waits for the end of its standard input, which the server holds the other end of.
const LEADER: &str = "read -r _; kill -s KILL 0";

impl Group {
    fn start(command: &[u8]) -> io::Result<Self> {
        let mut leader = Command::new("sh")
            .args(["-c", LEADER])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let shell = shell_for(command).and_then(|mut shell| {
            shell
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .process_group(pid(&leader).as_raw())
                .spawn()
        });
        match shell {
            Ok(shell) => Ok(Group { leader, shell }),
            Err(error) => {
                leader.kill()?;
                leader.wait()?;
                Err(error)
            }
        }
    }

    /// Kills what is left of it, and reaps the leader last: until then the number is the group's.
    fn end(&mut self) -> io::Result<ExitStatus> {
        let _ = killpg(pid(&self.leader), Signal::SIGKILL);
        // It may have left the group (`exec setsid`).
        let _ = self.shell.kill();
        let status = self.shell.wait();
        self.leader.wait()?;
        status
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Ok(None) = self.leader.try_wait() {
            let _ = self.end();
        }
    }
}

/// The shell that runs `command`, with nothing on its standard input.
fn shell_for(command: &[u8]) -> io::Result<Command> {
    // No argument has such a byte, and a shell that reads it leaves it out.
    if command.contains(&0) {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            "nul byte found in provided data",
        ));
    }
    let mut shell = Command::new("sh");
    if command.len() <= LONGEST_ARGUMENT {
        shell
            .args(["-c", "--"])
            .arg(OsStr::from_bytes(command))
            .stdin(Stdio::null());
    } else {
        let mut script = tempfile::tempfile()?;
        script.write_all(command)?;
        shell.args(["-c", FROM_STDIN]).stdin(script);
    }
    Ok(shell)
}

/// What fits one argument of a program: 32 pages with the NUL at the end (`MAX_ARG_STRLEN`, execve(2)).
const LONGEST_ARGUMENT: usize = 32 * 4096 - 1;

/// Runs the commands in the file that is standard input, from its beginning, which opening it anew brings.
const FROM_STDIN: &str = "exec 3<&0 </dev/null; . /dev/fd/3";

fn pid(child: &Child) -> Pid {
    // The kernel's limit of process ids is 2²².
    Pid::from_raw(child.id().cast_signed())
}

/// One output of a command.
struct Output<R> {
    /// Until its end.
    pipe: Option<R>,
    bytes: Vec<u8>,
}

impl<R: Read> Output<R> {
    fn of(pipe: Option<R>) -> Self {
        Output {
            pipe,
            bytes: Vec::new(),
        }
    }

    /// Takes what there is, at most `room` bytes of it; false if there was more. Does not wait after
    /// poll(2) has found it readable.
    fn take(&mut self, room: usize) -> io::Result<bool> {
        let Some(pipe) = &mut self.pipe else { return Ok(true) };
        let mut chunk = vec![0; 64 * 1024];
        match pipe.read(&mut chunk) {
            Ok(0) => self.pipe = None,
            Ok(count) => {
                self.bytes.extend_from_slice(&chunk[..count.min(room)]);
                return Ok(count <= room);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

/// What is waited for while a command runs.
struct Running<'a, O, E> {
    stdout: Output<O>,
    stderr: Output<E>,
    /// Ends when the shell does.
    exited: Option<PipeReader>,
    /// The connection that the command came by.
    client: Option<BorrowedFd<'a>>,
    deadline: Instant,
    /// What it is killed for then.
    at_deadline: Killed,
}

#[derive(Clone, Copy)]
enum Source {
    Stdout,
    Stderr,
    Exited,
    Client,
}

impl<O: Read + AsFd, E: Read + AsFd> Running<'_, O, E> {
    /// Collects the outputs until the command has ended or has to be killed; why, in that case.
    fn until_end(&mut self, max_output: usize) -> io::Result<Option<Killed>> {
        while self.stdout.pipe.is_some() || self.stderr.pipe.is_some() || self.exited.is_some() {
            let events = self.wait()?;
            if events.is_empty() && Instant::now() >= self.deadline {
                return Ok(Some(self.at_deadline));
            }
            for (source, event) in events {
                let room = max_output - self.stdout.bytes.len() - self.stderr.bytes.len();
                let within_limit = match source {
                    Source::Stdout => self.stdout.take(room)?,
                    Source::Stderr => self.stderr.take(room)?,
                    Source::Exited => {
                        self.exited = None;
                        true
                    }
                    Source::Client if event.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) => {
                        return Ok(Some(Killed::ClientLeft));
                    }
                    Source::Client => {
                        self.half_closed();
                        true
                    }
                };
                if !within_limit {
                    return Ok(Some(Killed::OutputLimit(max_output)));
                }
            }
        }
        Ok(None)
    }

    fn half_closed(&mut self) {
        let patience = Instant::now() + HALF_CLOSED_GRACE;
        if patience < self.deadline {
            self.deadline = patience;
            self.at_deadline = Killed::ClientLeft;
        }
    }

    /// Waits until there is something to look at, or the deadline has passed.
    fn wait(&self) -> io::Result<Vec<(Source, PollFlags)>> {
        // Hang-ups and errors are told without being asked for (poll(2)); once the client has
        // half-closed, only they are news.
        let hang_up = match self.at_deadline {
            Killed::ClientLeft => PollFlags::empty(),
            _ => HALF_CLOSED,
        };
        let watched = [
            (
                Source::Stdout,
                self.stdout.pipe.as_ref().map(AsFd::as_fd),
                PollFlags::POLLIN,
            ),
            (
                Source::Stderr,
                self.stderr.pipe.as_ref().map(AsFd::as_fd),
                PollFlags::POLLIN,
            ),
            (Source::Exited, self.exited.as_ref().map(AsFd::as_fd), PollFlags::POLLIN),
            (Source::Client, self.client, hang_up),
        ];
        let (sources, mut fds): (Vec<_>, Vec<_>) = watched
            .into_iter()
            .filter_map(|(source, fd, flags)| Some((source, PollFd::new(fd?, flags))))
            .unzip();
        let left = self.deadline.saturating_duration_since(Instant::now());
        let millis = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        match poll(&mut fds, PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        // What nix has no name for is the half-close.
        let events = fds.iter().map(|fd| fd.revents().unwrap_or(HALF_CLOSED));
        Ok(sources
            .into_iter()
            .zip(events)
            .filter(|(_, event)| !event.is_empty())
            .collect())
    }
}

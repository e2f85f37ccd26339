//! Servers in processes of their own: the `echo` example, and this test binary in another role.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socketserver::prelude::*;

use super::{CEILING, TempPath, children_of, clients, rest, temp_path, uninterrupted, wait_until};

/// The transports and strategies of the example, as its options name them.
pub const TRANSPORTS: [&str; 4] = ["tcp", "udp", "unix", "unixgram"];
pub const STRATEGIES: [&str; 5] = ["sync", "threading", "forking", "pool", "prefork"];

/// Names the role that a process of this binary plays instead of running its tests.
pub const ROLE: &str = "SOCKETSERVER_TEST_ROLE";

/// An example, which `cargo test` builds beside the test binaries.
pub fn example_path(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let target = this.parent().and_then(Path::parent).unwrap();
    let path = target.join("examples").join(name);
    assert!(path.exists(), "{} is missing: cargo build --examples", path.display());
    path
}

pub fn echo_path() -> PathBuf {
    example_path("echo")
}

pub fn echo(transport: &str, strategy: &str, address: &str) -> Command {
    let mut command = Command::new(echo_path());
    command.args(["--transport", transport, "--strategy", strategy, "--address", address]);
    command
}

/// A path in a directory with this mode, which all may enter.
#[track_caller]
pub fn public_path(name: &str, mode: u32) -> TempPath {
    let place = temp_path(name);
    let directory = place.path.parent().unwrap();
    fs::set_permissions(directory, Permissions::from_mode(mode)).unwrap();
    assert_others_may_execute(directory);
    place
}

/// A copy of a program that anybody may run, in a directory that only its owner may write to: the
/// directory that it was built in may be closed to others.
#[track_caller]
pub fn for_everybody(program: &Path) -> TempPath {
    let place = public_path("program", 0o755);
    fs::copy(program, &place.path).unwrap();
    assert_others_may_execute(&place.path);
    place
}

#[track_caller]
fn assert_others_may_execute(path: &Path) {
    let tried = as_ordinary_user(Path::new("test")).arg("-x").arg(path).status();
    assert!(
        tried.unwrap().success(),
        "others may not enter or run {}: set TMPDIR to a directory that all may enter, mounted without noexec",
        path.display()
    );
}

/// The example, for anybody to run.
#[track_caller]
pub fn echo_for_everybody() -> TempPath {
    for_everybody(&echo_path())
}

/// A program, without the privileges that this process may have.
pub fn as_ordinary_user(program: &Path) -> Command {
    let mut command = Command::new(program);
    if nix::unistd::geteuid().is_root() {
        command.uid(ordinary_user()).gid(ordinary_user());
    }
    command
}

/// The user of [`as_ordinary_user`]: for root one that nobody else is, so that what limits users does not
/// count the processes of another run of the tests.
pub fn ordinary_user() -> u32 {
    let mine = nix::unistd::geteuid();
    if mine.is_root() {
        1_000_000 + std::process::id()
    } else {
        mine.as_raw()
    }
}

/// The example, as [`with_few_tasks`] starts it.
#[track_caller]
pub fn echo_with_few_tasks(tasks: u32, options: &[&str]) -> Option<(Process, TempPath)> {
    let (mut command, place) = with_few_tasks(tasks, &echo_path())?;
    Some((Process::start(command.args(options)), place))
}

/// This binary, to play a role, as [`with_few_tasks`] starts it.
#[track_caller]
pub fn role_with_few_tasks(tasks: u32, role: &str) -> Option<(Process, TempPath)> {
    let (mut command, place) = with_few_tasks(tasks, &std::env::current_exe().unwrap())?;
    Some((Process::start(command.env(ROLE, role)), place))
}

/// A program as a user without privileges (root has no such limit) who may have `tasks` threads and processes. `None`
/// if that user is no other than this process's, whose other programs come and go: the test is to return at once.
#[track_caller]
fn with_few_tasks(tasks: u32, program: &Path) -> Option<(Command, TempPath)> {
    if !clients::root_available("be a user with no other program") {
        return None;
    }
    let place = for_everybody(program);
    let mut command = as_ordinary_user(Path::new("prlimit"));
    command.arg(format!("--nproc={tasks}")).arg(&place.path);
    Some((command, place))
}

/// This binary, to play a role.
pub fn role(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ROLE, name);
    command
}

/// Plays the role that this process was started for, if it is that one. True if it was.
pub fn play(name: &str, role: fn()) -> bool {
    let mine = std::env::var_os(ROLE).is_some_and(|asked| asked == name);
    if mine {
        role();
    }
    mine
}

/// Serves, telling the address and the counts as the example does.
pub fn serve_as_role(server: impl BaseServer) {
    let server = server
        .shutdown_on_signals([signal::SIGTERM, signal::SIGINT])
        .bind()
        .unwrap();
    println!("listening on {}", server.server_address());
    println!("stopped: {}", server.serve_forever().unwrap());
}

/// A server that is stopped when nobody reads its output any more ends as well as any.
#[track_caller]
pub fn assert_ends_well_unread(server: &mut Command) {
    let mut server = server.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Dropped with its buffer when the line has come.
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.starts_with("listening on 127.0.0.1:"), "{line}");
    kill(pid(server.id()), Signal::SIGTERM).unwrap();
    let output = server.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(output.stderr, b"", "{output:?}");
}

/// A server process; killed when dropped.
pub struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
    errors: BufReader<ChildStderr>,
    /// What has been read of its errors.
    told: String,
    address: String,
}

/// How a process ended, and what it wrote since it was listening.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub output: String,
    pub errors: String,
}

impl Process {
    /// Starts a server and waits until it is listening.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut process = Process {
            output: BufReader::new(child.stdout.take().unwrap()),
            errors: BufReader::new(child.stderr.take().unwrap()),
            told: String::new(),
            child,
            address: String::new(),
        };
        let mut line = String::new();
        process.output.read_line(&mut line).unwrap();
        let Some(address) = line.strip_prefix("listening on ") else {
            panic!("the server did not start: {:?}", process.end());
        };
        address.trim_end().clone_into(&mut process.address);
        process
    }

    /// The address that the process told.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(pid(self.id()), signal).unwrap();
    }

    /// Whether a signal waits to be taken (proc(5)).
    pub fn is_pending(&self, signal: Signal) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
        u64::from_str_radix(pending.trim(), 16).unwrap() & (1 << (signal as u64 - 1)) != 0
    }

    /// The next line that the process writes.
    #[track_caller]
    pub fn line(&mut self) -> String {
        next_line(&mut self.output)
    }

    /// Waits for a line with `text` on standard error, and returns it.
    #[track_caller]
    pub fn wait_for_errors_with(&mut self, text: &str) -> String {
        loop {
            let line = next_line(&mut self.errors);
            assert!(!line.is_empty(), "it ended without telling {text:?}: {:?}", self.told);
            self.told.push_str(&line);
            if line.contains(text) {
                return line;
            }
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until the process has ended.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        wait_until("the process ends", || !self.is_running());
        let (mut output, mut errors) = (String::new(), std::mem::take(&mut self.told));
        self.output.read_to_string(&mut output).unwrap();
        self.errors.read_to_string(&mut errors).unwrap();
        Ended {
            status: self.child.wait().unwrap(),
            output,
            errors,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both do nothing to a process that has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The next line from a pipe; empty at its end.
#[track_caller]
fn next_line<P: Read + AsFd>(pipe: &mut BufReader<P>) -> String {
    if pipe.buffer().is_empty() {
        let mut fds = [PollFd::new(pipe.get_ref().as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(CEILING).unwrap();
        // A child of the test may end meanwhile.
        let ready = uninterrupted(|| Ok(poll(&mut fds, timeout)?)).unwrap();
        assert_eq!(ready, 1, "waited {CEILING:?} in vain for a line");
    }
    let mut line = String::new();
    pipe.read_line(&mut line).unwrap();
    line
}

/// An echo server that listens on a port or path of its own.
pub struct Server {
    pub process: Process,
    pub transport: &'static str,
    /// Its path, if it is a Unix one.
    pub place: TempPath,
    /// What it is, for messages.
    pub name: String,
}

#[track_caller]
pub fn start(transport: &'static str, strategy: &str) -> Server {
    let place = temp_path("socket");
    let address = match transport {
        "tcp" | "udp" => "127.0.0.1:0",
        _ => place.path.to_str().unwrap(),
    };
    Server {
        process: Process::start(&mut echo(transport, strategy, address)),
        transport,
        name: format!("{transport} {strategy}"),
        place,
    }
}

#[track_caller]
pub fn start_each() -> Vec<Server> {
    let mut servers = Vec::new();
    for transport in TRANSPORTS {
        for strategy in STRATEGIES {
            servers.push(start(transport, strategy));
        }
    }
    servers
}

impl Server {
    /// Stops it by a signal. It has served exactly that many requests, and leaves no path behind.
    #[track_caller]
    pub fn assert_served(self, requests: u32, signal: Signal) {
        let Server {
            process, place, name, ..
        } = self;
        process.signal(signal);
        let ended = process.end();
        assert_eq!(ended.status.code(), Some(0), "{name}: {ended:?}");
        let counts = format!("stopped: served={requests} failed=0 drained=");
        assert!(ended.output.starts_with(&counts), "{name}: {ended:?}");
        // Stopped at once, a request can be answered and not over.
        let at_once = signal == Signal::SIGINT && name.ends_with("prefork");
        let end = if at_once { " leaked=0\n" } else { " forced=0 leaked=0\n" };
        assert!(ended.output.ends_with(end), "{name}: {ended:?}");
        assert!(!place.path.exists(), "{name} after {signal}");
    }
}

/// Stops a server, which tells exactly these counts of served and failed requests; returns what it logged.
#[track_caller]
pub fn stop(server: Process, counts: &str) -> String {
    server.signal(Signal::SIGTERM);
    assert_stops(server, counts)
}

/// As [`stop`], of a server that was told to stop.
#[track_caller]
pub fn assert_stops(server: Process, counts: &str) -> String {
    let ended = server.end();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.output.starts_with(&format!("stopped: {counts} ")), "{ended:?}");
    ended.errors
}

/// The process ended well and told exactly `counts`.
#[track_caller]
pub fn assert_ended(name: &str, ended: &Ended, counts: &str) {
    assert_eq!(ended.status.code(), Some(0), "{name}: {ended:?}");
    assert_eq!(ended.output, format!("stopped: {counts}\n"), "{name}: {ended:?}");
}

/// A process id as nix has it.
pub fn pid(id: u32) -> Pid {
    Pid::from_raw(id.try_into().unwrap())
}

/// Nothing happens for a while in any of the processes and their children, once they have come to rest.
#[track_caller]
pub fn assert_never_wake_up(processes: &[(&str, &Process)]) {
    // The master of a prefork server looks once more within 100 ms.
    assert_rest_after(processes, Duration::from_millis(150));
}

/// As that, where a process that does nothing for a shorter time than `quiet` may not have come to rest.
#[track_caller]
pub fn assert_rest_after(processes: &[(&str, &Process)], quiet: Duration) {
    let now = || -> Vec<Option<u64>> { processes.iter().map(|(_, process)| switches(process)).collect() };
    let mut before = now();
    wait_until("the servers rest", || {
        std::thread::sleep(quiet);
        let after = now();
        let rest = std::mem::replace(&mut before, after.clone()) == after;
        rest && after.iter().all(Option::is_some)
    });
    std::thread::sleep(Duration::from_millis(300));
    for ((name, process), before) in processes.iter().zip(before) {
        assert_eq!(switches(process), before, "{name} woke up");
    }
}

/// As [`rest::switches`], of a process and its children.
fn switches(process: &Process) -> Option<u64> {
    let processes = children_of(process.id()).into_iter().chain([process.id()]);
    processes
        .map(|process| rest::switches(&process.to_string(), None))
        .sum()
}

//! The system's clock (`CLOCK_REALTIME`) set by a day while a server serves: no deadline looks at it.
//!
//! The servers are processes that see a false clock, by libfaketime; their monotonic clock is the system's.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant, UNIX_EPOCH};

use nix::sys::signal::Signal;
use socketserver::prelude::*;
use support::attempts::until_in_time;
use support::clients::{available, lack};
use support::process::{Process, role};
use support::{CEILING, TempPath, connect_to, read_to_end, temp_path, wait_until, wait_until_accepted};

tests![
    roles: does_nothing, serves_with_a_timeout, serves_alone_with_a_deadline, serves_in_threads_with_a_deadline;
    timeouts_are_kept_when_the_clock_is_set_back,
    timeouts_are_kept_when_the_clock_is_set_forward,
    the_drain_deadline_is_kept_when_the_clock_is_set_back,
    the_drain_deadline_is_kept_when_the_clock_is_set_forward,
];

const TIME: Duration = Duration::from_millis(500);
const DAY: u64 = 24 * 60 * 60;

/// Tells what a client asks for: the time of day, or its connection's age, in seconds.
fn tell(request: &mut TcpRequest) -> HandlerResult {
    let mut order = String::new();
    while request.read_line(&mut order)? > 0 {
        let answer = match order.trim() {
            "time" => time_of_day(),
            "age" => request.server().handle().unwrap().stats().connections[0].age.as_secs(),
            order => return Err(format!("what is `{order}`?").into()),
        };
        writeln!(request, "{answer}")?;
        order.clear();
    }
    Ok(())
}

#[expect(clippy::disallowed_types, reason = "it is the clock that is set")]
fn time_of_day() -> u64 {
    std::time::SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn serve(server: impl BaseServer) {
    let server = server.shutdown_on_signals([signal::SIGTERM]).bind().unwrap();
    println!("listening on {}", server.server_address());
    let report = server.serve_forever().unwrap();
    println!("{report} after {} ms", report.elapsed.as_millis());
}

fn serves_with_a_timeout() {
    serve(ThreadingTcpServer::new("127.0.0.1:0", tell).idle_timeout(TIME));
}

fn serves_alone_with_a_deadline() {
    serve(TcpServer::new("127.0.0.1:0", tell).drain_timeout(TIME));
}

fn serves_in_threads_with_a_deadline() {
    serve(ThreadingTcpServer::new("127.0.0.1:0", tell).drain_timeout(TIME));
}

fn does_nothing() {}

/// Whether there is faketime, for programs of this one's kind: one of 32 bits takes no library of 64 bits, one that is
/// linked statically takes none. If not, the test that asks is to return at once.
fn faketime_available() -> bool {
    if cfg!(target_feature = "crt-static") {
        lack("no faketime in programs that are linked statically".to_owned());
        return false;
    }
    if !available("faketime") {
        return false;
    }
    let tried = Clock::new().command("does_nothing").output().unwrap();
    let told = String::from_utf8(tried.stderr).unwrap();
    let loads = !told.contains("cannot be preloaded");
    if !loads {
        lack(format!("no faketime of {} bits", usize::BITS));
    }
    loads
}

/// The clock that a server sees.
struct Clock {
    offset: TempPath,
}

impl Clock {
    fn new() -> Self {
        let clock = Clock {
            offset: temp_path("offset"),
        };
        clock.set("+0");
        clock
    }

    /// Sets it to so much before or after the system's.
    fn set(&self, offset: &str) {
        // In one step, for whoever reads it meanwhile.
        let new = self.offset.path.with_extension("new");
        fs::write(&new, offset).unwrap();
        fs::rename(new, &self.offset.path).unwrap();
    }

    /// A server that sees it.
    fn start(&self, role_name: &str) -> Process {
        Process::start(&mut self.command(role_name))
    }

    fn command(&self, role_name: &str) -> Command {
        let mut wrapped = Command::new("faketime");
        wrapped.args(["-m", "-f", "+0", "printenv", "LD_PRELOAD"]);
        let library = String::from_utf8(wrapped.output().unwrap().stdout).unwrap();
        let mut command = role(role_name);
        command
            .env("LD_PRELOAD", library.trim())
            .env("FAKETIME_TIMESTAMP_FILE", &self.offset.path)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    }
}

/// The answer, unless the client was too late and its connection is closed.
fn ask(mut client: &TcpStream, what: &str) -> Option<u64> {
    let mut answer = String::new();
    client.write_all(format!("{what}\n").as_bytes()).ok()?;
    BufReader::new(client).read_line(&mut answer).ok()?;
    answer.trim().parse().ok()
}

#[track_caller]
fn assert_in_time(elapsed: Duration) {
    assert!(elapsed >= TIME && elapsed < CEILING, "{elapsed:?}");
}

#[track_caller]
fn assert_timeouts_are_kept(offset: &str) {
    if !faketime_available() {
        return;
    }
    let clock = Clock::new();
    let server = clock.start("serves_with_a_timeout");
    let is_kept = || -> Option<()> {
        clock.set("+0");
        let client = connect_to(server.address());
        let before = ask(&client, "time")?;
        clock.set(offset);
        let begin = Instant::now();
        let after = ask(&client, "time")?;
        assert!(after.abs_diff(before) > DAY / 2, "{before} {after}");
        assert!(ask(&client, "age")? < CEILING.as_secs());
        assert_eq!(read_to_end(&client), b"");
        assert_in_time(begin.elapsed());
        Some(())
    };
    // The time may pass before a client has asked.
    let late = until_in_time(|| is_kept().is_some());
    server.signal(Signal::SIGTERM);
    let counts = format!("served=0 failed={} ", late + 1);
    let ended = server.end();
    assert!(ended.output.starts_with(&counts), "{ended:?}");
}

fn timeouts_are_kept_when_the_clock_is_set_back() {
    assert_timeouts_are_kept("-1d");
}

fn timeouts_are_kept_when_the_clock_is_set_forward() {
    assert_timeouts_are_kept("+1d");
}

#[track_caller]
fn assert_the_drain_deadline_is_kept(offset: &str) {
    if !faketime_available() {
        return;
    }
    for role_name in ["serves_alone_with_a_deadline", "serves_in_threads_with_a_deadline"] {
        let clock = Clock::new();
        let server = clock.start(role_name);
        // It has said nothing: its first message would be answered.
        let mut client = connect_to(server.address());
        wait_until_accepted(&client);
        let begin = Instant::now();
        server.signal(Signal::SIGTERM);
        wait_until("the signal is taken", || !server.is_pending(Signal::SIGTERM));
        clock.set(offset);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        assert_in_time(begin.elapsed());
        let ended = server.end();
        let output = ended.output.trim_end();
        let (counts, elapsed) = output.split_once(" after ").unwrap();
        assert_eq!(counts, "served=1 failed=0 drained=0 forced=1 leaked=0", "{ended:?}");
        let elapsed = elapsed.strip_suffix(" ms").unwrap().parse().unwrap();
        assert_in_time(Duration::from_millis(elapsed));
    }
}

fn the_drain_deadline_is_kept_when_the_clock_is_set_back() {
    assert_the_drain_deadline_is_kept("-1d");
}

fn the_drain_deadline_is_kept_when_the_clock_is_set_forward() {
    assert_the_drain_deadline_is_kept("+1d");
}

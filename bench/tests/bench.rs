//! The program as its users run it, on loads too small to say anything about speed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// No wait is longer: past it, the test has failed.
const CEILING: Duration = Duration::from_secs(20);

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a comparison of one short round; its output and what it wrote to JSON.
fn compare(directory: &Path, arguments: &[&str]) -> (Output, Value) {
    compare_for(0.05, directory, arguments)
}

fn compare_for(seconds: f64, directory: &Path, arguments: &[&str]) -> (Output, Value) {
    let (json, plot) = (directory.join("results.json"), directory.join("plot.svg"));
    let mut command = bench(&["compare", "--rounds", "1", "--seconds", &seconds.to_string()]);
    command
        .args(arguments)
        .arg("--json")
        .arg(&json)
        .arg("--plot")
        .arg(&plot);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(fs::read_to_string(&plot).unwrap().starts_with("<svg "));
    (output, serde_json::from_slice(&fs::read(&json).unwrap()).unwrap())
}

/// The processes of this program that serve from `directory`'s TMPDIR, by their environment.
fn servers_started_from(directory: &Path) -> usize {
    let mark = format!("TMPDIR={}", directory.display());
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| fs::read(process.path().join("environ")).ok())
        .filter(|environment| {
            environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == mark.as_bytes())
        })
        .count()
}

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + CEILING;
    while !condition() {
        assert!(Instant::now() < end, "waited {CEILING:?} in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn every_server_echoes_over_each_of_its_transports() {
    let listed = text(&bench(&["list"]).output().unwrap().stdout);
    let servers = listed.split_once("Servers:").unwrap().1;
    let mut served = 0;
    for line in servers.lines().filter(|line| !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap();
        let transports = words.take_while(|word| ["tcp", "unix", "udp", "unixgram"].contains(word));
        if (name == "go" && !runs("go", "version")) || (name.starts_with("python-") && !runs("python3", "--version")) {
            eprintln!("{name} is not installed here: not tested");
            continue;
        }
        for transport in transports {
            let errors = echo_through(name, transport);
            assert_eq!(errors, "", "{name} over {transport}");
            served += 1;
        }
    }
    assert!(served > 40, "only {served} were listed:\n{listed}");
}

fn runs(program: &str, argument: &str) -> bool {
    Command::new(program)
        .arg(argument)
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Starts a server by hand, puts a load on it by hand; the errors that the load met.
fn echo_through(name: &str, transport: &str) -> String {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("socket").display().to_string();
    let address = if transport.starts_with("unix") {
        path.as_str()
    } else {
        "127.0.0.1:0"
    };
    let serve = ["serve", name, "--transport", transport, "--address", address];
    let server = Ended(bench(&serve).stdout(Stdio::piped()).process_group(0).spawn().unwrap());
    let (server, line) = server.first_line();
    let announced = line.trim_end().strip_prefix("listening on ");
    let announced = announced.unwrap_or_else(|| panic!("{name} over {transport} said `{line}`"));
    let load = [
        "load",
        announced,
        "--transport",
        transport,
        "--connections",
        "3",
        "--window",
        "2",
    ];
    let end = Instant::now() + CEILING;
    loop {
        let output = bench(&load)
            .args(["--warm-up", "0.01", "--seconds", "0.02"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let report = text(&output.stdout);
        let (rate, errors) = report.split_once('\n').unwrap();
        // On a busy machine so short a load can end before the first answer.
        if !rate.starts_with("0/s") || !errors.is_empty() {
            drop(server);
            return errors.to_owned();
        }
        assert!(
            Instant::now() < end,
            "{name} over {transport} answered nothing: {report}"
        );
    }
}

/// A server that is killed with the value, its children too.
struct Ended(Child);

impl Ended {
    fn first_line(mut self) -> (Self, String) {
        let mut line = String::new();
        BufReader::new(self.0.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        (self, line)
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = nix::sys::signal::killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// The measured servers of all workloads.
fn cells(results: &Value) -> impl Iterator<Item = &Value> {
    let outcomes = results["outcomes"].as_array().unwrap().iter();
    outcomes.flat_map(|outcome| outcome["cells"].as_array().unwrap())
}

#[test]
fn a_comparison_prints_the_table_and_writes_what_it_found() {
    let directory = TempDir::new().unwrap();
    let workloads = "tcp-churn-1,unix-churn-16,tcp-pingpong-1,udp-4x32,unixgram-16x1,fork-1";
    let servers = "sync,threading,forking,libc-lf,libc-fork,libc-recvfrom,std-thread,tokio";
    // On a busy machine a short round can end before the first answer.
    let mut seconds = 0.05;
    let (output, results) = loop {
        let found = compare_for(
            seconds,
            directory.path(),
            &["--workload", workloads, "--server", servers],
        );
        let rates: Vec<_> = cells(&found.1)
            .map(|cell| cell["rounds"][0]["metrics"]["rate"].as_f64())
            .collect();
        if rates.iter().all(|rate| rate.is_some_and(|rate| rate > 0.0)) {
            break found;
        }
        seconds *= 4.0;
        assert!(seconds < 10.0, "some served nothing: {}", found.1);
    };
    let table = text(&output.stdout);
    assert!(
        table.contains("threading >= 0.95 x libc-lf ") && table.contains("noise: "),
        "{table}"
    );
    assert_eq!(results["outcomes"].as_array().unwrap().len(), 6);
    for cell in cells(&results) {
        let round = &cell["rounds"][0];
        assert_eq!(round["errors"], Value::Object(serde_json::Map::new()), "{cell}");
        assert!(round["metrics"]["p99_microseconds"].as_f64() >= round["metrics"]["p50_microseconds"].as_f64());
    }
    let judged: BTreeMap<_, _> = results["judgements"]
        .as_array()
        .unwrap()
        .iter()
        .map(|judged| (judged["target"].as_str().unwrap(), judged["verdict"].as_str().unwrap()))
        .collect();
    assert_ne!(judged["forking >= 0.9 x libc-fork"], "not_measured");
}

#[test]
fn idle_connections_are_weighed_and_stops_and_wake_ups_measured() {
    let directory = TempDir::new().unwrap();
    let arguments = [
        "--workload",
        "idle-1000,stop,wake-ups",
        "--server",
        "threading,libc-park",
    ];
    let (_, results) = compare(directory.path(), &arguments);
    let value = |workload: usize, metric: &str| {
        let cell = &results["outcomes"][workload]["cells"][0];
        assert_eq!(cell["server"], "threading");
        cell["rounds"][0]["metrics"][metric]
            .as_f64()
            .unwrap_or_else(|| panic!("{cell}"))
    };
    assert!(value(0, "pss_kilobytes") > 1.0 && value(0, "stack_kilobytes") > 15.0);
    assert!(value(0, "idle_kilobytes").is_finite());
    assert!(value(1, "stop_milliseconds") > 0.0);
    assert!(value(2, "wake_ups") >= 0.0);
}

#[test]
fn a_peer_that_cannot_run_here_is_named_and_skipped() {
    let directory = TempDir::new().unwrap();
    let (json, plot) = (directory.path().join("r.json"), directory.path().join("p.svg"));
    let mut command = bench(&[
        "compare",
        "--rounds",
        "1",
        "--seconds",
        "0.05",
        "--workload",
        "tcp-churn-1",
    ]);
    command
        .args(["--server", "libc-sync,python-threading,go"])
        .arg("--json")
        .arg(&json)
        .arg("--plot")
        .arg(&plot);
    let output = command.env("PATH", directory.path()).output().unwrap();
    let table = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        table.contains("python-threading: skipped, python3 is not installed"),
        "{table}"
    );
    assert!(
        table.contains("skipped: go (go is not installed), python-threading"),
        "{table}"
    );
}

#[test]
fn an_interrupted_comparison_leaves_no_server_behind() {
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let directory = TempDir::new().unwrap();
        let mut command = bench(&[
            "compare",
            "--workload",
            "tcp-churn-1",
            "--server",
            "threading",
            "--seconds",
            "60",
        ]);
        command
            .env("TMPDIR", directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut running = command.spawn().unwrap();
        wait_until("a server runs", || servers_started_from(directory.path()) == 2);
        kill(Pid::from_raw(running.id().cast_signed()), signal).unwrap();
        wait_until("the comparison has ended", || running.try_wait().unwrap().is_some());
        wait_until("its server has ended", || servers_started_from(directory.path()) == 0);
    }
}

#[test]
fn mistakes_are_explained() {
    let cases: &[(&[&str], &str)] = &[
        (
            &["compare", "--workload", "tcp-chrun-1"],
            "no workload is called `tcp-chrun-1`; there are: tcp-churn-1",
        ),
        (
            &["compare", "--server", "nginx"],
            "no server is called `nginx`; there are: sync",
        ),
        (&["compare", "--seconds", "0"], "a number from 0.01 to 600"),
        (&["serve", "nginx"], "there is no server `nginx`: see `bench list`"),
        (&["serve", "tokio", "--address", "127.0.0.1"], "invalid socket address"),
        (
            &["serve", "libc-fork", "--transport", "udp"],
            "libc-fork does not serve udp",
        ),
        (&["load", "192.0.2.1:80"], "load goes nowhere else"),
        (
            &["load", "localhost:80"],
            "`localhost:80` is not an IPv4 address with a port",
        ),
    ];
    for (arguments, expected) in cases {
        let output = bench(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        let said = text(&output.stderr);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn connections_that_stay_are_all_made_before_the_load() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let load = ["load", &address, "--keep", "--connections", "3", "--threads", "1"];
    let _load = Ended(bench(&load).args(["--message", "1"]).process_group(0).spawn().unwrap());
    let mut byte = [0];
    let mut connections = Vec::new();
    for _ in 0..3 {
        let (mut connection, _) = listener.accept().unwrap();
        connection.read_exact(&mut byte).unwrap();
        connection.write_all(&byte).unwrap();
        connection.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        connections.push(connection);
        if connections.len() < 3 {
            for mut earlier in &connections {
                let error = earlier.read(&mut byte).expect_err("it should wait for the others");
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            }
        }
    }
    for mut connection in &connections {
        connection.set_read_timeout(Some(CEILING)).unwrap();
        connection.read_exact(&mut byte).unwrap();
    }
}

#[test]
fn what_a_server_does_wrong_is_counted_and_shown() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // Ends with the process.
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut message = [0; 64];
            stream.read_exact(&mut message).unwrap();
            // Every other client gets other bytes, the rest is not answered.
            if number % 2 == 0 {
                message[63] ^= 1;
                let _ = stream.write_all(&message);
            }
        }
    });
    let load = ["load", &address, "--warm-up", "0.01", "--seconds", "0.05"];
    let report = text(&bench(&load).output().unwrap().stdout);
    assert!(report.starts_with("0/s"), "{report}");
    assert!(report.contains(" x the answer has other bytes"), "{report}");
    assert!(report.contains(" x closed by the server before the answer"), "{report}");
}

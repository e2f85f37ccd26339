//! Servers in other languages, where they are installed: Python's socketserver and Go's net package.

use std::env;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use super::{ALL, DATAGRAMS, Kind, STREAMS, Server, Setup};

pub const SERVERS: &[Server] = &[
    Server {
        name: "go",
        kind: Kind::Peer,
        about: "Go's net package, a goroutine for each connection; datagrams in one",
        transports: ALL,
        run: |setup| Err(Command::new(go_program()?).args(arguments(setup)).exec()),
    },
    Server {
        name: "python-sync",
        kind: Kind::Peer,
        about: "CPython's socketserver: UDPServer and the others without a mix-in",
        transports: DATAGRAMS,
        run: |setup| python("", setup),
    },
    Server {
        name: "python-threading",
        kind: Kind::Peer,
        about: "CPython's socketserver: ThreadingTCPServer and the others of ThreadingMixIn",
        transports: ALL,
        run: |setup| python("Threading", setup),
    },
    Server {
        name: "python-forking",
        kind: Kind::Peer,
        about: "CPython's socketserver: ForkingTCPServer and ForkingUnixStreamServer",
        transports: STREAMS,
        run: |setup| python("Forking", setup),
    },
];

const PYTHON_SOURCE: &str = include_str!("../../peers/echo.py");
const GO_SOURCE: &str = include_str!("../../peers/echo.go");

/// Makes a server ready that is a program of its own; the error says why it cannot run here.
pub fn prepare(server: &Server) -> Result<(), String> {
    match server.name {
        "go" => build_go(),
        name if name.starts_with("python-") => {
            check("python3", Command::new("python3").args(["-c", "import socketserver"]))
        }
        _ => Ok(()),
    }
}

/// Runs a command to its end.
fn check(program: &str, command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("{program} is not installed"),
        _ => format!("{program}: {error}"),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{program}: {}",
        text.lines().last().unwrap_or("failed without a word")
    ))
}

/// Becomes the Python server.
fn python(mixin: &str, setup: &Setup) -> io::Result<()> {
    let mut command = Command::new("python3");
    Err(command.args(["-c", PYTHON_SOURCE, mixin]).args(arguments(setup)).exec())
}

fn arguments(setup: &Setup) -> [String; 4] {
    [
        setup.transport.to_string(),
        setup.address.clone(),
        setup.buffer().to_string(),
        setup.touched_mb.to_string(),
    ]
}

/// Beside this program, where cargo puts what it builds.
fn go_program() -> io::Result<PathBuf> {
    Ok(env::current_exe()?.with_file_name("bench-peer-go"))
}

fn build_go() -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let directory = tempfile::tempdir().map_err(text)?;
    let source = directory.path().join("echo.go");
    fs::write(&source, GO_SOURCE).map_err(text)?;
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(go_program().map_err(text)?).arg(source);
    check("go", &mut go)
}

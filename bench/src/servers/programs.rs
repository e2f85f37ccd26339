//! Servers that are programs of their own: those that fork, and those in other languages, where they are installed:
//! Python's socketserver and Go's net package.

use std::env;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{ALL, DATAGRAMS, Kind, STREAMS, Server, Setup, is_forking};

pub const SERVERS: &[Server] = &[
    Server {
        name: "go",
        kind: Kind::Peer,
        about: "Go's net package, a goroutine for each connection; datagrams in one",
        transports: ALL,
        run: |setup| Err(Command::new(go_program()?).args(setup.arguments()).exec()),
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
        _ if is_forking(server) => build_forks(),
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
    Err(command
        .args(["-c", PYTHON_SOURCE, mixin])
        .args(setup.arguments())
        .exec())
}

/// Becomes the program of the servers that fork.
pub fn become_forks(name: &str, setup: &Setup) -> io::Error {
    match beside("bench-forks") {
        Ok(program) => Command::new(program).arg(name).args(setup.arguments()).exec(),
        Err(error) => error,
    }
}

/// Builds it, which `cargo run` does not for another program than the one it runs.
fn build_forks() -> Result<(), String> {
    let program = beside("bench-forks").map_err(|error| error.to_string())?;
    let (Some(cargo), Some(package)) = (env::var_os("CARGO"), env::var_os("CARGO_MANIFEST_DIR")) else {
        let text = "is not built: cargo build --release --package bench";
        return program
            .exists()
            .then_some(())
            .ok_or(format!("{} {text}", program.display()));
    };
    // Cargo calls its directory `debug` whose profile is `dev`.
    let directory = program.parent().and_then(Path::file_name).unwrap_or_default();
    let profile = if directory == "debug" {
        "dev".as_ref()
    } else {
        directory
    };
    let mut build = Command::new(cargo);
    build.args(["build", "--bin", "bench-forks", "--profile"]).arg(profile);
    build.arg("--manifest-path").arg(Path::new(&package).join("Cargo.toml"));
    check("cargo", &mut build)
}

fn go_program() -> io::Result<PathBuf> {
    beside("bench-peer-go")
}

/// A program beside this one, where cargo puts what it builds.
fn beside(name: &str) -> io::Result<PathBuf> {
    Ok(env::current_exe()?.with_file_name(name))
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

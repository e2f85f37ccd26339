//! The servers that fork, in a program of their own. A child has to map anew what it runs, 64 KiB of code at a time:
//! among all that `bench` has in it, what a server by hand or one of ours runs would lie scattered, and more of it
//! would be measured than what a program has that serves.
//!
//! `bench` runs it, with what it was given itself.

use std::env;
use std::io;
use std::process::ExitCode;

use bench::servers::{self, Setup};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-forks: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> io::Result<()> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "`bench serve` runs this program");
    let (name, rest) = arguments.split_first().ok_or_else(wrong)?;
    let server = servers::forking()
        .find(|server| server.name == name)
        .ok_or_else(wrong)?;
    servers::serve_here(server, &Setup::from_arguments(rest).ok_or_else(wrong)?)
}

//! Programs whose standard input and output are in a test's hands: examples, and peers in Python.

use std::fs::File;
use std::io::{ErrorKind, Read, Write, pipe};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use super::CEILING;
use super::clients::python;
use super::process::{Ended, example_path, pid};

/// A running program; killed when dropped.
pub struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: Transcript,
    errors: Transcript,
}

impl Program {
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Program {
            input: child.stdin.take(),
            output: Transcript::of(child.stdout.take().unwrap()),
            errors: Transcript::of(child.stderr.take().unwrap()),
            child,
        }
    }

    /// Runs a program to its end, with `input` as all of its standard input, which it need not read.
    #[track_caller]
    pub fn run(command: &mut Command, input: &str) -> Ended {
        let mut program = Self::start(command);
        let written = program.input.as_mut().map(|pipe| pipe.write_all(input.as_bytes()));
        if let Some(Err(error)) = written {
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        }
        program.end()
    }

    /// Writes to its standard input.
    #[track_caller]
    pub fn say(&mut self, text: &str) {
        let input = self.input.as_mut().expect("its input is open");
        input.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until all that it has printed is `text`.
    #[track_caller]
    pub fn wait_for_output(&mut self, text: &str) {
        self.wait(&format!("it has printed {text:?}"), |program| {
            program.output.text() == text
        });
    }

    /// Waits until `text` is in what it has printed.
    #[track_caller]
    pub fn wait_for_output_with(&mut self, text: &str) {
        self.wait(&format!("it prints {text:?}"), |program| {
            program.output.text().contains(text)
        });
    }

    /// Waits until what it has printed is such a text.
    #[track_caller]
    pub fn wait_for_output_that(&mut self, what: &str, is_it: impl Fn(&str) -> bool) {
        self.wait(what, |program| is_it(&program.output.text()));
    }

    /// Waits until `text` is in what it has written to standard error.
    #[track_caller]
    pub fn wait_for_errors_with(&mut self, text: &str) {
        self.wait(&format!("it tells {text:?}"), |program| {
            program.errors.text().contains(text)
        });
    }

    /// As [`wait_until`](super::wait_until), and tells what the program has written.
    #[track_caller]
    fn wait(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + CEILING;
        while !condition(self) {
            assert!(
                Instant::now() < end,
                "waited {CEILING:?} in vain until {what}; its output: {:?}, its errors: {:?}",
                self.output.text(),
                self.errors.text()
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The address that a server has told in its first line; waits for it.
    #[track_caller]
    pub fn address(&mut self) -> String {
        self.wait_for_output_with("\n");
        let output = self.output.text();
        let address = output
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("listening on "));
        address.unwrap_or_else(|| panic!("no address in {output:?}")).to_owned()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(pid(self.id()), signal).unwrap();
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        self.output.text()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends its standard input and waits until it has ended.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        self.input = None;
        self.wait("it ends", |program| !program.is_running());
        Ended {
            status: self.child.wait().unwrap(),
            output: self.output.end(),
            errors: self.errors.end(),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both do nothing to a process that has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that prints something ends as others do when nobody reads it (`| head`): by SIGPIPE, without a word.
#[track_caller]
pub fn assert_ends_with_its_reader(command: &mut Command) {
    let output = unread(command).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.signal(), Some(Signal::SIGPIPE as i32), "{output:?}");
    assert_eq!(output.stderr, b"", "{output:?}");
}

/// An example of which nothing can be printed says so and fails.
#[track_caller]
pub fn assert_tells_that_the_disk_is_full(example: &str, arguments: &[&str]) {
    let mut command = Command::new(example_path(example));
    let output = command.args(arguments).stdout(full_disk()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = format!("{example}: No space left on device (os error 28)\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), told, "{output:?}");
}

/// A file that cannot be written to.
pub fn full_disk() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// Nobody reads what the program prints.
pub fn unread(command: &mut Command) -> &mut Command {
    let (_, writer) = pipe().unwrap();
    command.stdout(writer)
}

/// A program of tests/peers.
pub fn peer(name: &str) -> Command {
    let mut command = Command::new(python());
    // Its output is UTF-8 whatever the locale.
    command
        .args(["-X", "utf8"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name));
    // It shares a module with others, of which no compiled copy is to be left in the project.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// A peer that is told an address, as host and port.
pub fn peer_of(name: &str, address: &str) -> Command {
    let (host, port) = address.rsplit_once(':').unwrap();
    let mut command = peer(name);
    command.args([host, port]);
    command
}

/// What a program writes, read as it comes, so that it never waits for the test.
struct Transcript {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Transcript {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut chunk) {
                written
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend_from_slice(&chunk[..count]);
            }
        });
        Transcript {
            bytes,
            reader: Some(reader),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Everything up to the end, which comes with that of the program.
    fn end(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.text()
    }
}

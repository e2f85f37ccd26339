//! What a process inherits from whoever starts it, made as the tests need it.

#![allow(
    unsafe_code,
    reason = "actions of signals, the environment and descriptors by number have no safe form"
)]

use std::net::{TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::{env, fs, io, thread};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};

/// Before any test; the process has one thread. What hardly any test can do without is told once, with what to do about
/// it, instead of by each of them in words of its own.
pub fn make_usual() -> Result<(), String> {
    // Ignored, no child could be waited for, and none could be ended before it listens to signals.
    for number in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // SAFETY: no code of ours runs in a handler.
        unsafe { signal(number, SigHandler::SigDfl) }.unwrap();
    }
    // Tests send these to themselves.
    let own = SigSet::from_iter([Signal::SIGUSR1, Signal::SIGUSR2]);
    own.thread_unblock().unwrap();
    // Tests look at all that examples tell.
    for variable in ["RUST_LOG", "RUST_LOG_STYLE"] {
        // SAFETY: no other thread looks at the environment.
        unsafe { env::remove_var(variable) };
    }
    keep_descriptors_from_children().map_err(|error| format!("/proc/self/fd cannot be read ({error}): mount /proc"))?;
    // Tests with many clients have both ends of their connections; as many are usual.
    allow_descriptors(1024)?;
    try_loopback().map_err(|error| format!("nobody can connect to 127.0.0.1 ({error}): ip link set lo up"))?;
    try_temporary_directory().map_err(|(why, wanted)| format!("{why}: set TMPDIR to a directory {wanted}"))
}

/// Servers are started that may have a few descriptors only.
fn keep_descriptors_from_children() -> io::Result<()> {
    let open = fs::read_dir("/proc/self/fd")?;
    let numbers: Vec<i32> = open
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // SAFETY: a descriptor that is closed by now, that of the directory, is an error of fcntl(2).
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    }
    Ok(())
}

/// Sees to it that this process, and what it starts, may have so many descriptors. The error is what is wrong, and what
/// to do.
pub fn allow_descriptors(number: rlim_t) -> Result<(), String> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|errno| errno.to_string())?;
    if soft >= number {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, number, hard)
        .map_err(|_| format!("{number} descriptors are wanted, {hard} allowed: ulimit -n {number}"))
}

/// Sees to it that so many threads fit into a process beside those that it has. The error is what is wrong, and what to
/// do.
pub fn try_threads(number: usize) -> Result<(), String> {
    let end = Mutex::new(());
    thread::scope(|scope| {
        let _all_are_there = end.lock().unwrap();
        for started in 0..number {
            let stay = || drop(end.lock());
            thread::Builder::new().spawn_scoped(scope, stay).map_err(|_| {
                format!("{number} threads are wanted, {started} fit: ulimit -u, ulimit -v, pids.max of the cgroup")
            })?;
        }
        Ok(())
    })
}

fn try_loopback() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    TcpStream::connect(listener.local_addr()?).map(drop)
}

/// The error is what is wrong with it, and what is wanted.
fn try_temporary_directory() -> Result<(), (String, String)> {
    /// In bytes; what tests add to it must fit the address of a socket (unix(7)).
    const LONGEST: usize = 50;
    let path = env::temp_dir();
    if path.as_os_str().len() > LONGEST {
        let why = format!("{} is too long for the paths of sockets", path.display());
        return Err((why, format!("of at most {LONGEST} bytes")));
    }
    tempfile::tempdir()
        .map(drop)
        .map_err(|error| (error.to_string(), "that can be written to".to_owned()))
}

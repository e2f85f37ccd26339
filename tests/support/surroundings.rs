//! What a process inherits from whoever starts it, made as the tests need it.

#![allow(
    unsafe_code,
    reason = "actions of signals, the environment and descriptors by number have no safe form"
)]

use std::os::fd::BorrowedFd;
use std::{env, fs};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};

/// Before any test; the process has one thread.
pub fn make_usual() {
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
    keep_descriptors_from_children();
}

/// Servers are started that may have a few descriptors only.
fn keep_descriptors_from_children() {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let numbers: Vec<i32> = open
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // SAFETY: a descriptor that is closed by now, that of the directory, is an error of fcntl(2).
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    }
}

//! Whether threads have anything to do, which no busy machine changes: one that waits for a processor does not sleep.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::unistd::gettid;

/// How often the threads of a process (`self`: this one) have been given a processor (proc(5)), but for one of them;
/// `None` while any has something to do: on a busy machine it may wait for a processor for longer than anybody watches.
pub fn switches(process: &str, except: Option<i32>) -> Option<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task")).ok()? {
        let thread = thread.ok()?;
        if thread.file_name().to_str()?.parse().ok() == except {
            continue;
        }
        // One that has just ended is none that sleeps, nor is one that the system has put off as it was about to: that
        // is in state S already, and not out of its system call's code.
        let read = |name| fs::read_to_string(thread.path().join(name)).ok();
        let is_put_off = read("syscall").is_some_and(|call| call.starts_with("running"));
        let status = read("status")?;
        if is_put_off || !status.contains("\nState:\tS ") {
            return None;
        }
        let counts = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        sum += counts
            .map(|(_, count)| count.trim().parse::<u64>().unwrap())
            .sum::<u64>();
    }
    Some(sum)
}

/// Does `work`, and panics if all threads of this process sleep for a while meanwhile, once or in all: then nobody has
/// been told something, and it is only a time that they wait for.
#[track_caller]
pub fn without_rest<R>(work: impl FnOnce() -> R) -> R {
    /// Pairs of looks, a millisecond apart at least, between which nobody has done anything.
    const A_WHILE: usize = 100;
    let over = AtomicBool::new(false);
    let (result, rests) = thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let own = gettid().as_raw();
            let (mut before, mut rests) = (None, 0);
            while !over.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
                let now = switches("self", Some(own));
                rests += usize::from(now.is_some() && now == before);
                before = now;
            }
            rests
        });
        let result = work();
        over.store(true, Ordering::SeqCst);
        (result, watching.join().unwrap())
    });
    assert!(rests < A_WHILE, "all threads slept until a time had come");
    result
}

//! What a process group uses, from /proc (proc(5)).

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// The processes of a group.
fn members(group: Pid) -> Vec<Stat> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Stat::read)
        .filter(|stat| stat.group == group.as_raw())
        .collect()
}

/// The fields of /proc/PID/stat that are used here.
struct Stat {
    pid: i32,
    group: i32,
    /// Of the children that it has reaped, in clock ticks: `cutime` and `cstime`.
    children_ticks: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(pid: i32, text: &str) -> Option<Self> {
        // The name, in parentheses, may hold anything.
        let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Stat {
            pid,
            group: fields.get(2)?.parse().ok()?,
            children_ticks: ticks(13)? + ticks(14)?,
        })
    }
}

/// The processor time that a group has used since its processes began, with that of children that were
/// reaped. That of live processes is exact, that of reaped ones counted in ticks of 10 ms.
pub fn cpu(group: Pid) -> Duration {
    let tick = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    members(group)
        .iter()
        .map(|stat| {
            let clock = clock_getcpuclockid(Pid::from_raw(stat.pid)).and_then(clock_gettime);
            #[allow(clippy::cast_precision_loss, reason = "2^52 ticks are a million years")]
            let children = Duration::from_secs_f64(stat.children_ticks as f64 / tick as f64);
            // A process that ended in this moment is counted by whoever reaps it.
            clock.map_or(Duration::ZERO, Duration::from) + children
        })
        .sum()
}

/// Memory in KB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Proportional set size: pages, shared ones divided among those who share.
    pub pss: f64,
    /// Kernel stacks of the threads.
    pub stacks: f64,
    pub page_tables: f64,
    /// What the kernel's allocators hold for the whole machine.
    pub slab: f64,
}

/// `THREAD_SIZE` of the kernel, in KB, on x86-64 and arm64.
const KERNEL_STACK: f64 = 16.0;

pub fn memory(group: Pid) -> Memory {
    let mut memory = Memory {
        slab: field(Path::new("/proc/meminfo"), "SUnreclaim:"),
        ..Memory::default()
    };
    for stat in members(group) {
        let process = Path::new("/proc").join(stat.pid.to_string());
        memory.pss += field(&process.join("smaps_rollup"), "Pss:");
        memory.page_tables += field(&process.join("status"), "VmPTE:");
        memory.stacks += field(&process.join("status"), "Threads:") * KERNEL_STACK;
    }
    memory
}

/// How often the threads of a group have stopped running, of themselves or not: an idle one that wakes
/// up does.
pub fn switches(group: Pid) -> f64 {
    members(group)
        .iter()
        .filter_map(|stat| fs::read_dir(format!("/proc/{}/task", stat.pid)).ok())
        .flatten()
        .flatten()
        .map(|task| task.path().join("status"))
        .map(|status| field(&status, "voluntary_ctxt_switches:") + field(&status, "nonvoluntary_ctxt_switches:"))
        .sum()
}

/// The number after a name at the beginning of a line; 0 if there is none.
fn field(file: &Path, name: &str) -> f64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    number_after(&text, name).unwrap_or(0.0)
}

fn number_after(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_may_hold_parentheses_and_blanks() {
        let fields = "S 1 42 42 0 -1 4194560 1 2 3 4 5 6 70 30 20 0 1 0 5 6 7";
        let stat = Stat::parse(7, &format!("7 (a b) c) {fields}")).unwrap();
        assert_eq!((stat.group, stat.children_ticks), (42, 100));
        assert!(Stat::parse(7, "7 (a) S 1").is_none());
    }

    #[test]
    fn numbers_are_found_by_the_whole_name() {
        let text = "nonvoluntary_ctxt_switches:\t9\nvoluntary_ctxt_switches:\t4\nPss:  120 kB\n";
        assert_eq!(number_after(text, "voluntary_ctxt_switches:"), Some(4.0));
        assert_eq!(number_after(text, "Pss:"), Some(120.0));
        assert_eq!(number_after(text, "Rss:"), None);
    }

    #[test]
    fn this_process_has_used_something() {
        let group = nix::unistd::getpgrp();
        let before = cpu(group);
        assert!(before > Duration::ZERO);
        assert!(cpu(group) > before);
        assert!(memory(group).pss > 0.0 && memory(group).stacks >= KERNEL_STACK);
        assert!(switches(group) > 0.0);
    }
}

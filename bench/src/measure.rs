//! One server under one workload, once.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};

use crate::interrupt;
use crate::load::{self, Endpoint, Load, Pattern, Tally};
use crate::process::{ServerProcess, Start};
use crate::procfs::{self, Memory};
use crate::results::{Metric, Sample};
use crate::servers::Server;
use crate::stats;
use crate::workloads::{Task, Workload};

/// How long, and with how many threads.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub warm_up: Duration,
    pub time: Duration,
    pub threads: usize,
}

/// Measures in a fresh process. What goes wrong is in the sample.
pub fn measure(workload: &Workload, server: &Server, effort: Effort) -> Sample {
    let start = Start {
        transport: workload.transport,
        bulk: workload.bulk,
        touched_mb: workload.touched_mb,
    };
    let sample = ServerProcess::start(server, start).and_then(|process| match workload.task {
        Task::Load(pattern) => under_load(&process, pattern, effort),
        Task::Idle(connections) => with_idle_connections(process, connections),
        Task::Stop => stopped(process),
        Task::Nothing => left_alone(&process, effort),
    });
    sample.unwrap_or_else(|error| Sample::failed(&error))
}

#[allow(clippy::cast_precision_loss, reason = "rates, not accounts")]
fn under_load(process: &ServerProcess, pattern: Pattern, effort: Effort) -> io::Result<Sample> {
    let load = Load {
        endpoint: process.endpoint(),
        pattern,
        threads: effort.threads,
        warm_up: effort.warm_up,
        time: effort.time,
    };
    let (tally, before, after) = load::run(&load, || procfs::cpu(process.group()))?;
    let mut sample = Sample::default();
    let seconds = effort.time.as_secs_f64();
    sample.metrics.insert(Metric::Rate, tally.completed as f64 / seconds);
    if tally.completed > 0 {
        let cpu = after.saturating_sub(before).as_secs_f64() * 1e6;
        sample
            .metrics
            .insert(Metric::CpuMicroseconds, cpu / tally.completed as f64);
        sample.metrics.insert(Metric::P50Microseconds, tally.microseconds(0.5));
        sample.metrics.insert(Metric::P99Microseconds, tally.microseconds(0.99));
    }
    if let Pattern::Stream { message, .. } = pattern
        && message >= 1024
    {
        let bytes = tally.completed as f64 * message as f64;
        sample.metrics.insert(Metric::Megabytes, bytes / seconds / 1e6);
    }
    sample.errors = complaints(process, tally);
    Ok(sample)
}

/// The errors, and the server's last words if there were any.
fn complaints(process: &ServerProcess, tally: Tally) -> std::collections::BTreeMap<String, u64> {
    tally
        .errors
        .into_iter()
        .map(|(what, count)| (process.complaint(&what).to_string(), count))
        .collect()
}

/// Connections that are measured when others are open.
const NEXT: usize = 300;

#[allow(clippy::cast_precision_loss, reason = "thousands")]
fn with_idle_connections(process: ServerProcess, connections: usize) -> io::Result<Sample> {
    let needed = connections as u64 + 100;
    let (allowed, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if allowed < needed {
        return Err(io::Error::other(format!(
            "{needed} descriptors are needed, {allowed} allowed (ulimit -Hn)"
        )));
    }
    // Whatever the first connection needs is not the price of each.
    drop(used_once(&process)?);
    let before = procfs::memory(process.group());
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        interrupt::check()?;
        open.push(used_once(&process)?);
    }
    let each = grown(before, procfs::memory(process.group()), connections as f64);
    let mut next = Vec::with_capacity(NEXT);
    for _ in 0..NEXT {
        let begun = Instant::now();
        drop(used_once(&process)?);
        next.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    // Before the connections: else each of their ends wakes a thread.
    drop(process);
    let mut sample = Sample::default();
    sample.metrics.extend([
        (Metric::PssKilobytes, each.pss),
        (Metric::StackKilobytes, each.stacks),
        (Metric::PageTableKilobytes, each.page_tables),
        (Metric::SlabKilobytes, each.slab),
    ]);
    sample
        .metrics
        .extend(stats::median(&next).map(|value| (Metric::P50Microseconds, value)));
    Ok(sample)
}

fn grown(before: Memory, after: Memory, connections: f64) -> Memory {
    Memory {
        pss: (after.pss - before.pss) / connections,
        stacks: (after.stacks - before.stacks) / connections,
        page_tables: (after.page_tables - before.page_tables) / connections,
        slab: (after.slab - before.slab) / connections,
    }
}

/// A connection on which a message has been echoed.
fn used_once(process: &ServerProcess) -> io::Result<std::net::TcpStream> {
    let Endpoint::Tcp(address) = process.endpoint() else {
        return Err(io::Error::other("connections that are held open are TCP here"));
    };
    let address = std::net::SocketAddrV4::new(address.ip(), address.port());
    let patience = Duration::from_secs(5);
    let mut stream = std::net::TcpStream::connect_timeout(&address.into(), patience)?;
    stream.set_read_timeout(Some(patience))?;
    let (message, mut answer) = ([b'x'; 64], [0; 64]);
    stream.write_all(&message)?;
    stream
        .read_exact(&mut answer)
        .map_err(|error| process.complaint(&format!("no answer: {error}")))?;
    if answer != message {
        return Err(io::Error::other("the answer has other bytes"));
    }
    Ok(stream)
}

fn stopped(process: ServerProcess) -> io::Result<Sample> {
    settle(&process)?;
    let mut sample = Sample::default();
    let milliseconds = process.stop()?.as_secs_f64() * 1e3;
    sample.metrics.insert(Metric::StopMilliseconds, milliseconds);
    Ok(sample)
}

/// Uses the server once, then lets it come to rest.
fn settle(process: &ServerProcess) -> io::Result<()> {
    drop(used_once(process)?);
    interrupt::sleep_until(Instant::now() + Duration::from_millis(200));
    interrupt::check()
}

fn left_alone(process: &ServerProcess, effort: Effort) -> io::Result<Sample> {
    settle(process)?;
    let time = effort.time.max(Duration::from_secs(1)) * 2;
    let before = procfs::switches(process.group());
    interrupt::sleep_until(Instant::now() + time);
    let after = procfs::switches(process.group());
    let mut sample = Sample::default();
    sample
        .metrics
        .insert(Metric::WakeUps, (after - before) / time.as_secs_f64());
    Ok(sample)
}

//! The comparison: workloads one after the other, in each all servers round by round.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;

use crate::interrupt;
use crate::measure::{Effort, measure};
use crate::plot;
use crate::report;
use crate::results::{Cell, Machine, Metric, Outcome, Sample, Skipped};
use crate::servers::{self, Server};
use crate::targets::{self, Judgement};
use crate::workloads::{self, IDLE_BASELINE, Task, Workload};

/// What is compared, and where it goes.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub short: bool,
    /// Names, or beginnings of names followed by `*`; none: all.
    pub workloads: Vec<String>,
    pub servers: Vec<String>,
    pub rounds: usize,
    pub effort: Effort,
    pub json: PathBuf,
    pub plot: PathBuf,
}

/// All that a run found out.
#[derive(Debug, Serialize)]
pub struct Results {
    pub machine: Machine,
    pub rounds: usize,
    pub seconds: f64,
    pub load_threads: usize,
    pub outcomes: Vec<Outcome>,
    pub judgements: Vec<Judgement>,
}

/// Measures, prints the table as it grows, and writes JSON and the plot.
///
/// # Errors
///
/// A name that is no workload or server, files that cannot be written, an interruption.
pub fn run(comparison: &Comparison) -> io::Result<()> {
    let plan = plan(comparison)?;
    raise_descriptor_limit()?;
    let mut results = Results {
        machine: Machine::this(),
        rounds: comparison.rounds,
        seconds: comparison.effort.time.as_secs_f64(),
        load_threads: comparison.effort.threads,
        outcomes: Vec::new(),
        judgements: Vec::new(),
    };
    let ready = prepare(&plan);
    report::head(&results);
    for (workload, servers) in plan {
        let outcome = compare(&workload, &servers, comparison, &ready)?;
        let chosen: Vec<_> = servers.iter().map(|server| server.name).collect();
        let judgements = targets::judge(&outcome, |name| !chosen.contains(&name));
        report::outcome(&outcome, &judgements);
        results.outcomes.push(outcome);
        results.judgements.extend(judgements);
    }
    report::summary(&results);
    write(&comparison.json, |file| {
        Ok(serde_json::to_writer_pretty(file, &results)?)
    })?;
    write(&comparison.plot, |file| file.write_all(plot::svg(&results).as_bytes()))
}

type Plan = Vec<(Workload, Vec<&'static Server>)>;

/// What the names stand for.
fn plan(comparison: &Comparison) -> io::Result<Plan> {
    let all: Vec<_> = workloads::all();
    let names: Vec<_> = all.iter().map(|workload| workload.name).collect();
    check_names("workload", &comparison.workloads, &names)?;
    let names: Vec<_> = servers::all().map(|server| server.name).collect();
    check_names("server", &comparison.servers, &names)?;
    let by_name = !comparison.workloads.is_empty();
    Ok(all
        .into_iter()
        .filter(|workload| {
            if by_name {
                chosen(&comparison.workloads, workload.name)
            } else {
                workload.in_short || !comparison.short
            }
        })
        .map(|workload| {
            let servers = servers_for(&workload, comparison);
            (workload, servers)
        })
        .filter(|(_, servers)| !servers.is_empty())
        .collect())
}

/// Which servers can run here, or why one cannot.
type Ready = HashMap<&'static str, Result<(), String>>;

/// Makes the servers ready that are programs of their own, before anything is measured.
fn prepare(plan: &Plan) -> Ready {
    let mut ready = HashMap::new();
    for server in plan.iter().flat_map(|(_, servers)| servers) {
        ready.entry(server.name).or_insert_with(|| {
            report::progress(format_args!("making {} ready", server.name));
            servers::prepare(server)
        });
    }
    ready
}

/// By default those that the workload names; in the short form only those that its targets are about.
/// Others can be asked for.
fn servers_for(workload: &Workload, comparison: &Comparison) -> Vec<&'static Server> {
    let idle = matches!(workload.task, Task::Idle(_));
    servers::all()
        .filter(|server| {
            if !comparison.servers.is_empty() {
                let needed = idle && server.name == IDLE_BASELINE;
                return server.transports.contains(&workload.transport)
                    && (needed || chosen(&comparison.servers, server.name));
            }
            let has_target = targets::TARGETS.iter().any(|target| {
                target.workload == workload.name
                    && (target.server == server.name || target.reference == Some(server.name))
            });
            workload.servers.contains(&server.name) && (!comparison.short || has_target || idle)
        })
        .collect()
}

/// Whether a name is among those chosen.
fn chosen(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    })
}

/// A name that stands for nothing is a mistake, not an empty table.
fn check_names(what: &str, patterns: &[String], names: &[&str]) -> io::Result<()> {
    let unknown = patterns
        .iter()
        .find(|pattern| !names.iter().any(|name| chosen(std::slice::from_ref(pattern), name)));
    match unknown {
        Some(pattern) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("no {what} is called `{pattern}`; there are: {}", names.join(", ")),
        )),
        None => Ok(()),
    }
}

/// As many descriptors as are allowed, here and in the servers, which inherit the limit.
fn raise_descriptor_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// One workload: round after round, in each one server after the other, so that what changes on the
/// machine meanwhile meets all of them.
fn compare(
    workload: &Workload,
    servers: &[&'static Server],
    comparison: &Comparison,
    ready: &Ready,
) -> io::Result<Outcome> {
    let mut outcome = Outcome {
        workload: workload.name.to_owned(),
        about: workload.about.to_owned(),
        in_plot: workload.in_short || !comparison.workloads.is_empty(),
        cells: Vec::new(),
        skipped: Vec::new(),
    };
    let mut measured = Vec::new();
    for &server in servers {
        match &ready[server.name] {
            Ok(()) => measured.push(server),
            Err(why) => outcome.skipped.push(Skipped {
                server: server.name.to_owned(),
                why: why.clone(),
            }),
        }
    }
    outcome.cells.extend(measured.iter().map(|server| Cell {
        server: server.name.to_owned(),
        kind: server.kind,
        rounds: Vec::new(),
    }));
    for round in 1..=comparison.rounds {
        for (server, cell) in measured.iter().zip(&mut outcome.cells) {
            report::progress(format_args!("{}, round {round}: {}", workload.name, server.name));
            cell.rounds.push(measure(workload, server, comparison.effort));
            interrupt::check()?;
        }
        if matches!(workload.task, Task::Idle(_)) {
            add_up_memory(&mut outcome.cells);
        }
    }
    Ok(outcome)
}

/// The memory for a connection in the last round: what it takes beyond its sockets, which only show in
/// the slabs, and in those of a server that keeps nothing for a connection, too.
fn add_up_memory(cells: &mut [Cell]) {
    let last = |cell: &Cell| cell.rounds.last().map(|round| round.metrics.clone());
    let baseline = cells.iter().find(|cell| cell.server == IDLE_BASELINE);
    let Some(sockets) = baseline
        .and_then(last)
        .and_then(|metrics| metrics.get(&Metric::SlabKilobytes).copied())
    else {
        return;
    };
    for Sample { metrics, .. } in cells.iter_mut().filter_map(|cell| cell.rounds.last_mut()) {
        if let Some(slab) = metrics.get_mut(&Metric::SlabKilobytes) {
            *slab -= sockets;
            let parts = [
                Metric::PssKilobytes,
                Metric::StackKilobytes,
                Metric::PageTableKilobytes,
                Metric::SlabKilobytes,
            ];
            let sum = parts.iter().filter_map(|part| metrics.get(part)).sum();
            metrics.insert(Metric::IdleKilobytes, sum);
        }
    }
}

fn write(path: &Path, content: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let write = || {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        content(&mut File::create(path)?)
    };
    write().map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    println!("wrote {}", path.display());
    Ok(())
}

/// How many rounds there are. Processes of the same server differ more than what one does from second to second: rather
/// more rounds than longer ones.
pub fn rounds(short: bool, rounds: Option<u16>) -> usize {
    rounds.unwrap_or(if short { 3 } else { 5 }).into()
}

/// How long a round is.
pub fn effort(short: bool, seconds: Option<f64>, threads: usize) -> Effort {
    let (warm_up, time) = if short { (0.1, 0.25) } else { (0.3, 0.5) };
    let time = seconds.unwrap_or(time);
    Effort {
        warm_up: Duration::from_secs_f64(time.min(warm_up)),
        time: Duration::from_secs_f64(time),
        threads,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_whole_or_end_in_a_star() {
        let patterns = ["tcp-churn*".to_owned(), "udp-4x32".to_owned()];
        assert!(chosen(&patterns, "tcp-churn-16") && chosen(&patterns, "udp-4x32"));
        assert!(!chosen(&patterns, "udp-16x1") && !chosen(&patterns, "unix-churn-1"));
    }

    #[test]
    fn a_name_that_stands_for_nothing_is_an_error_that_names_what_there_is() {
        let error = check_names("server", &["thread".to_owned()], &["threading", "tokio"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no server is called `thread`; there are: threading, tokio"
        );
    }

    #[test]
    fn sockets_are_no_part_of_the_memory_for_a_connection() {
        let cell = |server: &str, pss, slab| Cell {
            server: server.to_owned(),
            kind: servers::Kind::Limit,
            rounds: vec![Sample {
                metrics: [(Metric::PssKilobytes, pss), (Metric::SlabKilobytes, slab)].into(),
                ..Sample::default()
            }],
        };
        let mut cells = [cell("threading", 12.0, 13.0), cell(IDLE_BASELINE, 0.0, 8.0)];
        add_up_memory(&mut cells);
        assert_eq!(cells[0].median(Metric::IdleKilobytes), Some(17.0));
        assert_eq!(cells[1].median(Metric::IdleKilobytes), Some(0.0));
    }
}

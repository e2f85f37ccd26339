//! What was measured, as it is written to JSON.

use std::collections::BTreeMap;
use std::fs;
use std::thread;

use serde::Serialize;

use crate::servers::Kind;
use crate::stats;

/// What can be measured of a server, in the order of the table's columns. Servers are compared by the
/// first that a workload measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Requests a second.
    Rate,
    /// Echoed, a second.
    Megabytes,
    /// Memory for an idle connection, without its sockets: the sum of the four that follow, the last one
    /// less what it is under a server that keeps nothing for a connection.
    IdleKilobytes,
    PssKilobytes,
    StackKilobytes,
    PageTableKilobytes,
    SlabKilobytes,
    P50Microseconds,
    P99Microseconds,
    /// The server's processor time for a request, children included.
    CpuMicroseconds,
    /// From SIGTERM to exit.
    StopMilliseconds,
    /// Context switches a second.
    WakeUps,
}

impl Metric {
    /// The column's head.
    pub fn label(self) -> &'static str {
        match self {
            Metric::Rate => "rate/s",
            Metric::Megabytes => "MB/s",
            Metric::P50Microseconds => "p50 us",
            Metric::P99Microseconds => "p99 us",
            Metric::CpuMicroseconds => "CPU us",
            Metric::IdleKilobytes => "KB each",
            Metric::PssKilobytes => "PSS",
            Metric::StackKilobytes => "stack",
            Metric::PageTableKilobytes => "tables",
            Metric::SlabKilobytes => "slab",
            Metric::StopMilliseconds => "stop ms",
            Metric::WakeUps => "wake-ups/s",
        }
    }
}

/// A value in three or four digits.
pub fn digits(value: f64) -> String {
    match value {
        _ if value >= 10_000.0 => format!("{:.1}k", value / 1000.0),
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// One round of one server.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sample {
    pub metrics: BTreeMap<Metric, f64>,
    /// What went wrong, and how often.
    pub errors: BTreeMap<String, u64>,
}

impl Sample {
    /// A round that could not be measured.
    pub fn failed(why: &impl ToString) -> Self {
        Sample {
            metrics: BTreeMap::new(),
            errors: BTreeMap::from([(why.to_string(), 1)]),
        }
    }
}

/// All rounds of one server under one workload.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    pub server: String,
    pub kind: Kind,
    pub rounds: Vec<Sample>,
}

impl Cell {
    /// A metric by rounds.
    pub fn values(&self, metric: Metric) -> Vec<Option<f64>> {
        self.rounds
            .iter()
            .map(|round| round.metrics.get(&metric).copied())
            .collect()
    }

    /// A metric in the rounds that have it.
    fn measured(&self, metric: Metric) -> Vec<f64> {
        self.values(metric).into_iter().flatten().collect()
    }

    pub fn median(&self, metric: Metric) -> Option<f64> {
        stats::median(&self.measured(metric))
    }

    pub fn spread(&self, metric: Metric) -> Option<f64> {
        stats::spread(&self.measured(metric))
    }

    /// Errors of all rounds.
    pub fn errors(&self) -> BTreeMap<&str, u64> {
        let mut all = BTreeMap::new();
        for (what, count) in self.rounds.iter().flat_map(|round| &round.errors) {
            *all.entry(what.as_str()).or_default() += count;
        }
        all
    }
}

/// A server that was not measured.
#[derive(Clone, Debug, Serialize)]
pub struct Skipped {
    pub server: String,
    pub why: String,
}

/// All that was measured under one workload.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub workload: String,
    pub about: String,
    #[serde(skip)]
    pub in_plot: bool,
    pub cells: Vec<Cell>,
    pub skipped: Vec<Skipped>,
}

impl Outcome {
    pub fn cell(&self, server: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.server == server)
    }

    /// What the servers are compared by.
    pub fn metric(&self) -> Option<Metric> {
        let rounds = self.cells.iter().flat_map(|cell| &cell.rounds);
        rounds.filter_map(|round| round.metrics.keys().next().copied()).min()
    }
}

/// On what it was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub cores: usize,
    pub processor: String,
    pub kernel: String,
    /// Of the last minute, before anything was measured: others that use the machine.
    pub load_average: f64,
}

impl Machine {
    pub fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()));
        let load_average = read("/proc/loadavg")
            .split(' ')
            .next()
            .and_then(|text| text.parse().ok());
        Machine {
            cores: thread::available_parallelism().map_or(1, Into::into),
            processor: processor.unwrap_or_else(|| "unknown processor".into()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average: load_average.unwrap_or(0.0),
        }
    }
}

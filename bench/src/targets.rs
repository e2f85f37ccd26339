//! What is to be reached, and whether it was.

use std::fmt;

use serde::Serialize;

use crate::results::{Metric, Outcome};
use crate::stats;

/// What is within this of a target can be noise.
const NOISE: f64 = 0.05;

/// A bound on a metric of a server: on its ratio to another server's, or on the value itself.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub workload: &'static str,
    pub server: &'static str,
    pub metric: Metric,
    pub bound: Bound,
    pub reference: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A rate of at least so many times another's.
const fn rate(workload: &'static str, server: &'static str, times: f64, reference: &'static str) -> Target {
    Target {
        workload,
        server,
        metric: Metric::Rate,
        bound: Bound::AtLeast(times),
        reference: Some(reference),
    }
}

/// Something of which less is better: at most so many times another's.
const fn less(
    workload: &'static str,
    server: &'static str,
    metric: Metric,
    times: f64,
    reference: &'static str,
) -> Target {
    Target {
        workload,
        server,
        metric,
        bound: Bound::AtMost(times),
        reference: Some(reference),
    }
}

/// At most so much.
const fn at_most(workload: &'static str, server: &'static str, metric: Metric, value: f64) -> Target {
    Target {
        workload,
        server,
        metric,
        bound: Bound::AtMost(value),
        reference: None,
    }
}

pub const TARGETS: &[Target] = &[
    rate("tcp-churn-1", "threading", 0.95, "libc-lf"),
    rate("tcp-churn-1", "threading", 1.6, "std-thread"),
    rate("tcp-churn-1", "threading", 1.3, "tokio"),
    rate("tcp-churn-1", "threading", 1.4, "go"),
    rate("tcp-churn-16", "threading", 0.95, "libc-lf-epoll"),
    rate("tcp-churn-16", "threading", 0.88, "libc-lf"),
    rate("tcp-churn-16", "threading", 1.75, "std-thread"),
    rate("tcp-churn-16", "threading", 0.9, "tokio"),
    rate("tcp-churn-16", "threading-mixins", 0.98, "threading"),
    rate("tcp-churn-16", "threading-defer-batch", 0.88, "libc-lf-defer-batch"),
    rate("tcp-churn-16", "threading-defer-batch", 1.05, "tokio"),
    rate("tcp-churn-256", "threading", 0.95, "libc-lf"),
    rate("tcp-churn-256", "threading", 1.6, "std-thread"),
    rate("unix-churn-1", "threading", 0.95, "libc-lf"),
    rate("unix-churn-1", "threading", 2.2, "std-thread"),
    rate("unix-churn-1", "threading", 1.5, "tokio"),
    rate("unix-churn-16", "threading", 0.95, "libc-lf"),
    rate("unix-churn-16", "threading", 2.5, "std-thread"),
    rate("unix-churn-16", "threading", 0.9, "tokio"),
    rate("unix-churn-16", "threading-batch", 1.2, "tokio"),
    rate("tcp-churn-16", "pool-4", 0.95, "libc-accept-4"),
    rate("tcp-churn-16", "pool-4", 1.1, "threadpool-4"),
    rate("tcp-churn-16", "pool-4", 1.0, "tokio"),
    less("tcp-churn-16", "pool-4", Metric::P99Microseconds, 0.8, "tokio"),
    rate("tcp-churn-16", "pool-8", 0.95, "libc-accept-8"),
    rate("tcp-churn-16", "pool-8", 1.1, "threadpool-8"),
    rate("tcp-churn-16", "pool-8", 1.0, "tokio"),
    less("tcp-churn-16", "pool-8", Metric::P99Microseconds, 0.8, "tokio"),
    rate("tcp-churn-256", "pool-4", 0.95, "libc-accept-4"),
    rate("tcp-churn-256", "pool-4", 1.1, "threadpool-4"),
    rate("tcp-churn-256", "pool-4", 1.0, "tokio"),
    less("tcp-churn-256", "pool-4", Metric::P99Microseconds, 0.8, "tokio"),
    rate("tcp-churn-256", "pool-8", 0.95, "libc-accept-8"),
    rate("tcp-churn-256", "pool-8", 1.1, "threadpool-8"),
    rate("tcp-churn-256", "pool-8", 1.0, "tokio"),
    less("tcp-churn-256", "pool-8", Metric::P99Microseconds, 0.8, "tokio"),
    rate("tcp-pingpong-1", "threading", 0.97, "libc-thread"),
    rate("tcp-pingpong-1", "threading", 0.97, "std-thread"),
    rate("tcp-pingpong-16", "threading", 0.97, "libc-thread"),
    rate("tcp-pingpong-16", "threading", 0.97, "std-thread"),
    rate("tcp-pingpong-256", "threading", 0.97, "libc-thread"),
    rate("tcp-pingpong-256", "threading", 0.97, "std-thread"),
    rate("tcp-pingpong-1000", "threading", 0.97, "libc-thread"),
    rate("tcp-pingpong-1000", "threading", 0.97, "std-thread"),
    rate("udp-16x1", "sync", 0.97, "libc-recvfrom"),
    rate("udp-16x1", "sync", 0.97, "std-sync"),
    rate("udp-16x1", "sync", 1.5, "tokio"),
    rate("udp-4x32", "sync", 0.95, "libc-recvmmsg"),
    rate("udp-4x32", "sync", 1.0, "std-sync"),
    rate("udp-4x32", "sync", 1.6, "tokio"),
    rate("udp-4x32", "sync-batched", 0.95, "libc-sendmmsg"),
    rate("udp-4x32", "sync-batched", 1.12, "std-sync"),
    rate("udp-4x32", "sync-batched", 1.6, "tokio"),
    rate("udp-4x32", "sync-segmented", 0.95, "libc-segment"),
    rate("unixgram-4x32", "sync-batched", 0.95, "libc-sendmmsg"),
    rate("unixgram-4x32", "sync-batched", 1.1, "std-sync"),
    rate("udp-16x1", "threading", 0.9, "libc-recvfrom-lf"),
    rate("udp-16x1", "threading", 3.0, "std-thread"),
    rate("udp-16x1", "threading", 12.0, "python-threading"),
    rate("bulk-4", "threading", 0.97, "libc-thread"),
    rate("bulk-4", "threading", 1.0, "std-thread"),
    rate("bulk-4", "threading", 1.15, "go"),
    rate("fork-1", "forking", 0.9, "libc-fork"),
    rate("fork-1", "forking", 4.5, "python-forking"),
    rate("fork-1", "forked-ahead-4", 1.2, "libc-fork"),
    rate("fork-16", "forking", 0.85, "libc-fork"),
    rate("fork-16", "forking", 4.5, "python-forking"),
    less("idle-10000", "threading", Metric::IdleKilobytes, 1.15, "libc-park"),
    less("idle-10000", "threading", Metric::IdleKilobytes, 0.9, "std-thread"),
    less(
        "idle-10000",
        "threading-stack-256k",
        Metric::IdleKilobytes,
        1.15,
        "libc-park",
    ),
    less(
        "idle-10000",
        "threading-stack-256k",
        Metric::IdleKilobytes,
        0.9,
        "std-thread",
    ),
    at_most("stop", "sync", Metric::StopMilliseconds, 5.0),
    at_most("stop", "threading", Metric::StopMilliseconds, 5.0),
    at_most("stop", "pool-4", Metric::StopMilliseconds, 5.0),
    at_most("stop", "forking", Metric::StopMilliseconds, 5.0),
    at_most("wake-ups", "sync", Metric::WakeUps, 0.0),
    at_most("wake-ups", "threading", Metric::WakeUps, 0.0),
    at_most("wake-ups", "pool-4", Metric::WakeUps, 0.0),
    at_most("wake-ups", "forking", Metric::WakeUps, 0.0),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Met,
    /// Missed by so little that it can be noise.
    WithinNoise,
    Missed,
    /// One of the servers was not measured.
    NotMeasured,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Met => "met",
            Verdict::WithinNoise => "within noise",
            Verdict::Missed => "MISSED",
            Verdict::NotMeasured => "not measured",
        })
    }
}

/// A target, and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Judgement {
    pub workload: &'static str,
    pub target: String,
    pub measured: Option<f64>,
    pub verdict: Verdict,
}

/// What became of a workload's targets. Those of servers that were left out by choice are left out, too.
pub fn judge(outcome: &Outcome, left_out: impl Fn(&str) -> bool) -> Vec<Judgement> {
    TARGETS
        .iter()
        .filter(|target| target.workload == outcome.workload)
        .filter(|target| !left_out(target.server) && !target.reference.is_some_and(&left_out))
        .map(|target| target.judge(outcome))
        .collect()
}

impl Target {
    fn judge(&self, outcome: &Outcome) -> Judgement {
        let measured = self.measured(outcome);
        Judgement {
            workload: self.workload,
            target: self.to_string(),
            measured,
            verdict: measured.map_or(Verdict::NotMeasured, |value| self.bound.verdict(value)),
        }
    }

    fn measured(&self, outcome: &Outcome) -> Option<f64> {
        let cell = outcome.cell(self.server)?;
        let Some(reference) = self.reference else {
            return cell.median(self.metric);
        };
        stats::ratio(&cell.values(self.metric), &outcome.cell(reference)?.values(self.metric))
    }
}

impl Bound {
    fn verdict(self, value: f64) -> Verdict {
        let (met, nearly) = match self {
            Bound::AtLeast(least) => (value >= least, value >= least * (1.0 - NOISE)),
            Bound::AtMost(most) => (value <= most, value <= most * (1.0 + NOISE)),
        };
        match (met, nearly) {
            (true, _) => Verdict::Met,
            (_, true) => Verdict::WithinNoise,
            _ => Verdict::Missed,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, value) = match self.bound {
            Bound::AtLeast(value) => (">=", value),
            Bound::AtMost(value) => ("<=", value),
        };
        write!(f, "{} {sign} {value}", self.server)?;
        match self.reference {
            Some(reference) => write!(f, " x {reference}")?,
            None => write!(f, " {}", self.metric.label())?,
        }
        match self.metric {
            Metric::Rate | Metric::StopMilliseconds | Metric::WakeUps => Ok(()),
            metric => write!(f, " ({})", metric.label()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Cell, Sample};
    use crate::servers::{self, Kind};
    use crate::workloads;

    #[test]
    fn targets_name_servers_that_their_workload_measures() {
        let workloads = workloads::all();
        for target in TARGETS {
            let workload = workloads.iter().find(|workload| workload.name == target.workload);
            let servers = &workload
                .unwrap_or_else(|| panic!("no workload {}", target.workload))
                .servers;
            for server in [Some(target.server), target.reference].into_iter().flatten() {
                assert!(
                    servers.contains(&server),
                    "{} does not measure {server}",
                    target.workload
                );
            }
        }
    }

    #[test]
    fn workloads_name_servers_that_there_are() {
        for workload in workloads::all() {
            for name in workload.servers {
                let server = servers::find(name).unwrap_or_else(|| panic!("no server {name}"));
                assert!(
                    server.transports.contains(&workload.transport),
                    "{name} in {}",
                    workload.name
                );
            }
        }
    }

    fn outcome(rates: &[(&str, &[f64])]) -> Outcome {
        let cell = |(server, rates): &(&str, &[f64])| Cell {
            server: (*server).to_owned(),
            kind: Kind::Ours,
            rounds: rates
                .iter()
                .map(|rate| Sample {
                    metrics: [(Metric::Rate, *rate)].into(),
                    ..Sample::default()
                })
                .collect(),
        };
        Outcome {
            workload: "tcp-churn-1".into(),
            about: String::new(),
            in_plot: true,
            cells: rates.iter().map(cell).collect(),
            skipped: Vec::new(),
        }
    }

    #[test]
    fn targets_are_met_nearly_met_missed_or_not_measured() {
        let outcome = outcome(&[
            ("threading", &[90.0, 130.0]),
            ("libc-lf", &[100.0, 100.0]),
            ("std-thread", &[68.0, 77.0]),
            ("tokio", &[100.0, 100.0]),
        ]);
        let verdicts: Vec<_> = judge(&outcome, |_| false).iter().map(|judged| judged.verdict).collect();
        // 1.1 of at least 0.95, 1.51 of 1.6 is a little more than 5 % less, 1.1 of 1.3; no go.
        let expected = [Verdict::Met, Verdict::Missed, Verdict::Missed, Verdict::NotMeasured];
        assert_eq!(verdicts, expected);
        assert_eq!(Bound::AtLeast(1.6).verdict(1.53), Verdict::WithinNoise);
        assert_eq!(Bound::AtMost(5.0).verdict(5.2), Verdict::WithinNoise);
        assert_eq!(Bound::AtMost(0.0).verdict(0.1), Verdict::Missed);
    }

    #[test]
    fn what_was_left_out_by_choice_has_no_verdict() {
        let outcome = outcome(&[("threading", &[100.0]), ("libc-lf", &[100.0])]);
        let judged = judge(&outcome, |name| !["threading", "libc-lf"].contains(&name));
        let texts: Vec<_> = judged.iter().map(|judgement| judgement.target.as_str()).collect();
        assert_eq!(texts, ["threading >= 0.95 x libc-lf"]);
    }
}

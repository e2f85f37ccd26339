//! The table.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{IsTerminal, Write};

use crate::compare::Results;
use crate::results::{Metric, Outcome, digits};
use crate::servers::Kind;
use crate::stats;
use crate::targets::{Judgement, Verdict};
use crate::workloads::IDLE_BASELINE;

/// On what, and how, it is measured.
pub fn head(results: &Results) {
    let machine = &results.machine;
    println!(
        "{} cores ({}), Linux {}; load average before: {:.2}",
        machine.cores, machine.processor, machine.kernel, machine.load_average
    );
    println!(
        "medians of {} rounds of {} s, server and {} load threads on the same cores",
        results.rounds, results.seconds, results.load_threads
    );
    if machine.load_average > 0.5 {
        println!("OTHERS USE THIS MACHINE NOW: expect noise");
    }
}

/// What goes on, on a terminal.
pub fn progress(what: impl Display) {
    let mut err = std::io::stderr().lock();
    if err.is_terminal() {
        // What cannot be shown is no loss.
        let _ = write!(err, "\r\x1b[K{what}\r");
        let _ = err.flush();
    }
}

/// One workload's part of the table.
pub fn outcome(outcome: &Outcome, judgements: &[Judgement]) {
    println!("\n{}: {}", outcome.workload, outcome.about);
    if let Some(compared) = outcome.metric() {
        values(outcome, compared);
        ratios(outcome, compared);
    }
    for cell in &outcome.cells {
        for (what, count) in cell.errors() {
            println!("  {}: {count} x {what}", cell.server);
        }
    }
    for skipped in &outcome.skipped {
        println!("  {}: skipped, {}", skipped.server, skipped.why);
    }
    for judgement in judgements {
        self::judgement(judgement, 2);
    }
}

fn judgement(judgement: &Judgement, indent: usize) {
    let measured = judgement
        .measured
        .map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    println!(
        "{:indent$}{:50} {measured:>8}  {}",
        "", judgement.target, judgement.verdict
    );
}

/// Room for the name of a server or a workload.
const NAME: usize = 25;

/// A row for each server.
fn values(outcome: &Outcome, compared: Metric) {
    let rounds = outcome.cells.iter().flat_map(|cell| &cell.rounds);
    let metrics: BTreeSet<_> = rounds.flat_map(|round| round.metrics.keys().copied()).collect();
    print!("  {:NAME$}", "");
    for metric in &metrics {
        print!(" {:>10}", metric.label());
        if *metric == compared {
            print!(" {:>7}", "spread");
        }
    }
    println!(" {:>8}", "errors");
    for cell in &outcome.cells {
        print!("  {:NAME$}", cell.server);
        for metric in &metrics {
            let text = cell.median(*metric).map_or_else(|| "-".into(), digits);
            print!(" {text:>10}");
            if *metric == compared {
                let text = cell
                    .spread(*metric)
                    .map_or_else(|| "-".into(), |part| format!("{:.0} %", part * 100.0));
                print!(" {text:>7}");
            }
        }
        println!(" {:>8}", cell.errors().values().sum::<u64>());
    }
}

/// Each of ours against each of the others.
fn ratios(outcome: &Outcome, compared: Metric) {
    let (ours, others): (Vec<_>, Vec<_>) = outcome.cells.iter().partition(|cell| cell.kind == Kind::Ours);
    for one in ours {
        // Of what the baseline takes by definition there are no multiples.
        let is_baseline = |server: &str| compared == Metric::IdleKilobytes && server == IDLE_BASELINE;
        let parts: Vec<_> = others
            .iter()
            .filter(|other| !is_baseline(&other.server))
            .filter_map(|other| {
                let ratio = stats::ratio(&one.values(compared), &other.values(compared))?;
                Some(format!("{ratio:.2} x {}", other.server))
            })
            .collect();
        for (number, line) in parts.chunks(5).enumerate() {
            let head = if number == 0 { one.server.as_str() } else { "" };
            println!("  {head:NAME$} = {}", line.join(", "));
        }
    }
}

/// What is to be known about the whole.
pub fn summary(results: &Results) {
    println!();
    let count = |verdict| {
        results
            .judgements
            .iter()
            .filter(|judged| judged.verdict == verdict)
            .count()
    };
    println!(
        "targets: {} met, {} within noise (5 %), {} missed, {} not measured",
        count(Verdict::Met),
        count(Verdict::WithinNoise),
        count(Verdict::Missed),
        count(Verdict::NotMeasured),
    );
    for judgement in &results.judgements {
        if judgement.verdict == Verdict::Missed {
            print!("  {:NAME$}", judgement.workload);
            self::judgement(judgement, 0);
        }
    }
    let spreads = results.outcomes.iter().flat_map(|outcome| &outcome.cells);
    let spreads: Vec<_> = spreads.filter_map(|cell| cell.spread(Metric::Rate)).collect();
    if let Some(middle) = stats::median(&spreads) {
        let most = spreads.iter().copied().fold(0.0, f64::max);
        println!(
            "noise: between its rounds a rate differs by {:.0} % (median), {:.0} % at most",
            middle * 100.0,
            most * 100.0
        );
    }
    let skipped: BTreeSet<_> = results
        .outcomes
        .iter()
        .flat_map(|outcome| &outcome.skipped)
        .map(|skipped| format!("{} ({})", skipped.server, skipped.why))
        .collect();
    if !skipped.is_empty() {
        println!("skipped: {}", skipped.into_iter().collect::<Vec<_>>().join(", "));
    }
}

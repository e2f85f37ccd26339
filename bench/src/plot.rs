//! The plot: a panel for each of the most telling workloads, a bar for each server.

use std::fmt::Write;

use crate::compare::Results;
use crate::results::{Cell, Metric, Outcome, digits};
use crate::servers::Kind;

/// Panels beside each other.
const COLUMNS: usize = 2;
const PANEL_WIDTH: usize = 450;
const NAMES: usize = 130;
const BARS: usize = 210;
const ROW: usize = 17;
const TITLE: usize = 30;
const FOOT: usize = 40;

pub fn svg(results: &Results) -> String {
    let panels: Vec<_> = results
        .outcomes
        .iter()
        .filter(|outcome| outcome.in_plot)
        .filter_map(|outcome| Some((outcome, outcome.metric()?)))
        .filter(|(_, metric)| matches!(metric, Metric::Rate | Metric::IdleKilobytes))
        .collect();
    let mut body = String::new();
    let mut top = FOOT;
    for row in panels.chunks(COLUMNS) {
        for (column, (outcome, metric)) in row.iter().enumerate() {
            panel(&mut body, outcome, *metric, column * PANEL_WIDTH + 10, top);
        }
        let rows = row.iter().map(|(outcome, _)| outcome.cells.len()).max().unwrap_or(0);
        top += TITLE + rows * ROW + 10;
    }
    let machine = &results.machine;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{top}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"18\">{cores} cores shared with the load, Linux {kernel}, medians of {rounds} rounds. \
         {legend}</text>\n{body}</svg>\n",
        width = COLUMNS * PANEL_WIDTH + 10,
        cores = machine.cores,
        kernel = escape(&machine.kernel),
        rounds = results.rounds,
        legend = legend(),
    )
}

fn legend() -> String {
    let kinds = [
        (Kind::Ours, "socketserver"),
        (Kind::Limit, "by hand on libc"),
        (Kind::Peer, "peers"),
    ];
    let parts: Vec<_> = kinds
        .iter()
        .map(|(kind, name)| format!("<tspan fill=\"{}\">\u{25a0}</tspan> {name}", color(*kind)))
        .collect();
    parts.join(" ")
}

fn color(kind: Kind) -> &'static str {
    match kind {
        Kind::Ours => "#c2410c",
        Kind::Limit => "#64748b",
        Kind::Peer => "#93b4d4",
    }
}

fn panel(body: &mut String, outcome: &Outcome, metric: Metric, left: usize, top: usize) {
    let mut bars: Vec<(&Cell, f64)> = outcome
        .cells
        .iter()
        .filter_map(|cell| Some((cell, cell.median(metric)?)))
        .collect();
    bars.sort_by(|one, other| other.1.total_cmp(&one.1));
    let longest = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let unit = match metric {
        Metric::Rate => "requests/s",
        _ => "KB each: less is better",
    };
    let title = format!("{} [{unit}]", outcome.about);
    // Writing to a string cannot fail.
    let _ = writeln!(
        body,
        "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\" font-size=\"11\">{}</text>",
        top + 16,
        escape(&title)
    );
    for (row, (cell, value)) in bars.iter().enumerate() {
        let y = top + TITLE + row * ROW;
        #[allow(clippy::cast_precision_loss, reason = "pixels")]
        let length = value.max(0.0) / longest * BARS as f64;
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{}\" y=\"{}\" width=\"{length:.1}\" height=\"12\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{}\" font-size=\"11\">{}</text>",
            left + NAMES - 6,
            y + 10,
            escape(&cell.server),
            left + NAMES,
            y,
            color(cell.kind),
            length + 4.0 + f64::from(u32::try_from(left + NAMES).unwrap_or(0)),
            y + 10,
            digits(*value),
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Machine, Sample};

    #[test]
    fn each_workload_has_a_panel_and_each_measured_server_a_bar() {
        let cell = |server: &str, rate: Option<f64>| Cell {
            server: server.to_owned(),
            kind: Kind::Peer,
            rounds: vec![Sample {
                metrics: rate.map(|rate| (Metric::Rate, rate)).into_iter().collect(),
                ..Sample::default()
            }],
        };
        let results = Results {
            machine: Machine::this(),
            rounds: 1,
            seconds: 1.0,
            load_threads: 1,
            outcomes: vec![Outcome {
                workload: "w".into(),
                about: "one & all".into(),
                in_plot: true,
                cells: vec![cell("slow", Some(10.0)), cell("fast", Some(20.0)), cell("failed", None)],
                skipped: Vec::new(),
            }],
            judgements: Vec::new(),
        };
        let svg = svg(&results);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("one &amp; all [requests/s]"));
        // The fastest has the whole length, the other half of it; what failed has none.
        assert!(svg.contains("width=\"210.0\"") && svg.contains("width=\"105.0\"") && !svg.contains("failed"));
    }
}

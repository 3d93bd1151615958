//! Tables, for terminals and for the documentation.

use crate::figures::{Metric, Spread};
use crate::results::{CaseResults, Results};

/// Cells under a title. The first column is aligned to the left.
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// A line per strategy, with means over the seeds; of the metrics in `worst`, the worst seed in brackets.
    pub(crate) fn of_case(results: &Results, case: &CaseResults, columns: &[Metric], worst: &[Metric]) -> Self {
        let cell = |strategy: &str, metric: Metric| {
            let spread = case.whole(strategy, metric);
            spread.map_or("-".to_owned(), |spread| shown(metric, &spread, worst.contains(&metric)))
        };
        let row = |strategy: &str| {
            let cells = columns.iter().map(|metric| cell(strategy, *metric));
            [strategy.to_owned()].into_iter().chain(cells).collect()
        };
        let titles = columns.iter().map(|metric| match worst.contains(metric) {
            true => format!("{} (worst)", metric.title()),
            false => metric.title().to_owned(),
        });
        Self {
            title: format!("{}: {}, {}", results.scenario.title, case.case.name, seeds(results.seeds)),
            head: [String::new()].into_iter().chain(titles).collect(),
            rows: case.strategies.iter().map(|(strategy, _)| row(strategy)).collect(),
        }
    }

    /// A line per strategy, a column per span.
    pub(crate) fn by_span(results: &Results, case: &CaseResults, metric: Metric) -> Self {
        let spans = &case.case.spans;
        let row = |strategy: &str| {
            let cells = (0..spans.len()).map(|span| {
                let spread = case.span(span, strategy, metric);
                spread.map_or("-".to_owned(), |spread| shown(metric, &spread, false))
            });
            [strategy.to_owned()].into_iter().chain(cells).collect()
        };
        Self {
            title: format!("{}: {}, {}", results.scenario.title, metric.title(), seeds(results.seeds)),
            head: [String::new()].into_iter().chain(spans.iter().cloned()).collect(),
            rows: case.strategies.iter().map(|(strategy, _)| row(strategy)).collect(),
        }
    }

    /// For a terminal.
    pub(crate) fn text(&self) -> String {
        let lines = || [&self.head].into_iter().chain(&self.rows);
        let width = |column: usize| lines().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..self.head.len()).map(width).collect();
        let mut text = format!("{}\n", self.title);
        for cells in lines() {
            let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            text.push_str(&format!("  {}\n", padded.collect::<Vec<_>>().join("  ").trim_end()));
        }
        text
    }

    pub(crate) fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rules: Vec<_> =
            (0..self.head.len()).map(|column| if column == 0 { "---" } else { "---:" }.to_owned()).collect();
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("{}:\n\n{}{}{rows}", self.title, line(&self.head), line(&rules))
    }
}

fn seeds(count: u64) -> String {
    if count == 1 { "1 seed".to_owned() } else { format!("mean of {count} seeds") }
}

fn shown(metric: Metric, spread: &Spread, with_worst: bool) -> String {
    let mean = metric.show(spread.mean());
    match with_worst && spread.0.len() > 1 {
        true => format!("{mean} ({})", metric.show(spread.worst(metric))),
        false => mean,
    }
}

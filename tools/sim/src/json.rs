//! Lines of JSON: one per scenario, case, span and strategy, with mean and worst seed of each figure. A figure that is
//! never reached is `null`.

use serde_json::{Map, Value, json};

use crate::figures::{Metric, Spread};
use crate::results::{CaseResults, Results};

pub(crate) fn lines(results: &Results) -> Vec<String> {
    let of_case = |case: &CaseResults| {
        let strategies: Vec<_> = case.strategies.iter().map(|(strategy, _)| *strategy).collect();
        let line = |strategy: &str, span: Option<usize>| {
            let name = span.map_or("all", |span| case.case.spans[span].as_str());
            let mut object = Map::new();
            for (key, value) in [
                ("scenario", json!(results.scenario.name)),
                ("case", json!(case.case.name)),
                ("span", json!(name)),
                ("strategy", json!(strategy)),
                ("seeds", json!(results.seeds)),
            ] {
                object.insert(key.to_owned(), value);
            }
            for metric in Metric::ALL {
                let spread = match span {
                    None => case.whole(strategy, metric),
                    Some(span) => case.span(span, strategy, metric),
                };
                if let Some(spread) = spread {
                    object.insert(metric.key().to_owned(), both(metric, &spread));
                }
            }
            Value::Object(object).to_string()
        };
        let spans: Vec<_> = [None].into_iter().chain((0..case.case.spans.len()).map(Some)).collect();
        strategies.iter().flat_map(|strategy| spans.iter().map(|span| line(strategy, *span))).collect::<Vec<_>>()
    };
    results.cases.iter().flat_map(of_case).collect()
}

fn both(metric: Metric, spread: &Spread) -> Value {
    let rounded = |value: f64| (value * 1e6).round() / 1e6;
    json!({ "mean": rounded(spread.mean()), "worst": rounded(spread.worst(metric)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios;

    #[test]
    fn output_is_the_same_to_the_byte_whoever_is_faster() {
        let output = || {
            let results = Results::new(&scenarios::ALL[1], 2);
            let tables: Vec<_> = (results.scenario.tables)(&results).iter().map(|table| table.text()).collect();
            (lines(&results), tables, results.scenario.picture.map(|picture| picture(&results)))
        };
        assert_eq!(output(), output());
    }
}

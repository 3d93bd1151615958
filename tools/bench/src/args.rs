//! The command line: `bench [CASE…] [--json] [--quick] [--docs] [--check | --record]`.

use crate::cases::Case;

/// What to do with the record of instruction counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// Nothing.
    Show,
    /// Fail when a count has grown.
    Check,
    /// Write it anew.
    Write,
}

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Args {
    /// All of them when none is named.
    pub(crate) cases: Vec<Case>,
    /// One JSON object per line instead of tables.
    pub(crate) json: bool,
    /// Everything within two minutes, with coarser figures.
    pub(crate) quick: bool,
    /// Writes `docs/benchmarks.md` and its pictures.
    pub(crate) docs: bool,
    /// Of the cases whose figures are recorded.
    pub(crate) recorded: Recorded,
}

impl Args {
    /// The error names what would have been understood.
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Self { cases: Vec::new(), json: false, quick: false, docs: false, recorded: Recorded::Show };
        for word in words {
            match word.as_str() {
                "--json" => args.json = true,
                "--quick" => args.quick = true,
                "--docs" => args.docs = true,
                "--check" => args.recorded = Recorded::Check,
                "--record" => args.recorded = Recorded::Write,
                option if option.starts_with('-') => {
                    return Err(format!("no option {option:?}; there are --json, --quick, --docs, --check, --record"));
                }
                name => match Case::ALL.into_iter().find(|case| case.name() == name) {
                    Some(case) if args.cases.contains(&case) => {}
                    Some(case) => args.cases.push(case),
                    None => {
                        let names = Case::ALL.map(Case::name).join(", ");
                        return Err(format!("no case {name:?}; there are {names}"));
                    }
                },
            }
        }
        if args.recorded != Recorded::Show && !args.cases.iter().any(|case| case.is_recorded()) {
            let names: Vec<_> = Case::ALL.into_iter().filter(|case| case.is_recorded()).map(Case::name).collect();
            return Err(format!("--check and --record are for the cases {}: name one", names.join(" and ")));
        }
        if args.cases.is_empty() {
            args.cases = Case::ALL.to_vec();
        }
        Ok(args)
    }
}

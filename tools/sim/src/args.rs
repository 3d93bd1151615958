//! The command line: `sim [SCENARIO…] [--seeds N] [--json] [--check] [--docs]`.

use crate::scenarios::{self, Scenario};

/// What was asked for.
pub(crate) struct Args {
    /// All of them when none is named.
    pub(crate) scenarios: Vec<&'static Scenario>,
    pub(crate) seeds: u64,
    /// One JSON object per line instead of tables.
    pub(crate) json: bool,
    /// Says which goals are held, and fails when one is missed.
    pub(crate) check: bool,
    /// Writes the sections of the documentation and their pictures.
    pub(crate) docs: bool,
}

const SEEDS: u64 = 3;
/// The goals are over so many.
const SEEDS_OF_A_CHECK: u64 = 20;

impl Args {
    /// The error names what would have been understood.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Self { scenarios: Vec::new(), seeds: 0, json: false, check: false, docs: false };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--json" => args.json = true,
                "--check" => args.check = true,
                "--docs" => args.docs = true,
                "--seeds" => {
                    let seeds = words.next().and_then(|seeds| seeds.parse().ok()).filter(|seeds| *seeds > 0);
                    args.seeds = seeds.ok_or("--seeds is followed by how many")?;
                }
                option if option.starts_with('-') => {
                    return Err(format!("no option {option:?}; there are --seeds, --json, --check, --docs"));
                }
                name => match scenarios::ALL.iter().find(|scenario| scenario.name == name) {
                    Some(scenario) if args.scenarios.iter().any(|other| other.name == scenario.name) => {}
                    Some(scenario) => args.scenarios.push(scenario),
                    None => {
                        let names: Vec<_> = scenarios::ALL.iter().map(|scenario| scenario.name).collect();
                        return Err(format!("no scenario {name:?}; there are {}", names.join(", ")));
                    }
                },
            }
        }
        if args.scenarios.is_empty() {
            args.scenarios = scenarios::ALL.iter().collect();
        }
        if args.seeds == 0 {
            args.seeds = if args.check { SEEDS_OF_A_CHECK } else { SEEDS };
        }
        Ok(args)
    }
}

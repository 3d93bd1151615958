//! What was observed.

use std::fmt::Write;

/// What one pool did in a scenario.
pub(crate) struct Observed {
    /// Name and version.
    pub(crate) pool: String,
    pub(crate) did: String,
    /// `None` where nothing was run.
    pub(crate) has_bug: Option<bool>,
}

impl Observed {
    pub(crate) fn verdict(&self) -> &'static str {
        match self.has_bug {
            Some(true) => "yes",
            Some(false) => "no",
            None => "not run",
        }
    }
}

/// A scenario and what came of it. The last who was observed is towline.
pub(crate) struct Bug {
    /// Where it was reported.
    pub(crate) name: &'static str,
    pub(crate) url: &'static str,
    /// What users met.
    pub(crate) met: &'static str,
    /// What is done here.
    pub(crate) replayed: String,
    pub(crate) observed: Vec<Observed>,
}

impl Bug {
    pub(crate) fn is_not_ours(&self) -> bool {
        self.observed.last().is_some_and(|ours| ours.has_bug == Some(false))
    }

    /// For a terminal.
    pub(crate) fn text(&self) -> String {
        let Self { name, url, met, replayed, observed } = self;
        let mut text = format!("{name} ({url})\n  {met}\n  {replayed}\n");
        for Observed { pool, did, .. } in observed {
            writeln!(text, "    {pool}: {did}").expect("a string takes whatever is written");
        }
        text
    }
}

/// A line per bug and pool.
pub(crate) fn table(bugs: &[Bug]) -> String {
    let mut text = "| bug | pool | has it | what it does |\n| --- | --- | --- | --- |\n".to_owned();
    for bug in bugs {
        for observed in &bug.observed {
            let Observed { pool, did, .. } = observed;
            writeln!(text, "| [{}]({}) | {pool} | {} | {did} |", bug.name, bug.url, observed.verdict())
                .expect("a string takes whatever is written");
        }
    }
    text
}

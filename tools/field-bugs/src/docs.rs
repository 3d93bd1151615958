//! `docs/field-bugs.md`.

use std::path::Path;

use anyhow::{Context, Result};

use crate::report::{Bug, table};

const INTRO: &str = "\
# Field bugs, replayed

Written by `cargo xtask field-bugs --docs`; `cargo xtask field-bugs` runs the same and fails if towline shows one of them.

Bugs that users of other pools and balancers reported, each as a small program against the released version that is named, and
the same against `towline-pool` or `towline-balance` of this repository. Connections are made up and the clock is tokio's paused one, unless a scenario says
otherwise. *Yes* and *no* are about this scenario on this version: who has mended the bug since does not have it.

";

/// Writes what was found.
pub(crate) fn write(bugs: &[Bug]) -> Result<()> {
    let mut text = format!("{INTRO}{}", table(bugs));
    for Bug { name, url, met, replayed, .. } in bugs {
        text.push_str(&format!("\n## {name}\n\n<{url}>\n\n**Met:** {met}\n\n**Replayed:** {replayed}\n"));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/field-bugs.md");
    std::fs::write(path, text).context("writing docs/field-bugs.md")
}

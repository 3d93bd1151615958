//! What the figures were measured with: the machine, and the versions of the peers.

use std::fmt::Write;

use crate::cores;

/// Cores and model of the processor, and where the processes run.
pub(crate) fn processor() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let values = |key: &'static str| {
        cpuinfo.lines().filter_map(move |line| line.split_once(':').filter(|(name, _)| name.trim() == key))
    };
    let model = values("model name").next().map_or("unknown processor", |(_, model)| model.trim());
    format!("{} cores, {model}; {}", values("processor").count(), cores::CHOICE)
}

/// The dependencies that are pinned to one version, as `name version`.
pub(crate) fn pinned() -> String {
    let manifest = include_str!("../Cargo.toml");
    let mut pinned = String::new();
    for line in manifest.lines() {
        let Some((name, (_, rest))) = line.split_once(" = ").and_then(|(n, r)| Some((n, r.split_once("\"=")?))) else {
            continue;
        };
        let version = rest.split('"').next().unwrap_or_default();
        let comma = if pinned.is_empty() { "" } else { ", " };
        write!(pinned, "{comma}{name} {version}").expect("a string takes whatever is written");
    }
    pinned
}

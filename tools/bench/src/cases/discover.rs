//! A set of 100,000 endpoints, on its way from a file to the balancer: parsed, compared with the one before, taken over. None of it is on the way
//! of a call, and yet all of it is somebody's thread.

use std::fmt::Write;
use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::{FutureExt, StreamExt};
use serde::Deserialize;
use tokio::time::Instant;
use towline_balance::{BalanceBuilder, P2c};
use towline_core::{Blind, Endpoint, EndpointSet, Error, Lent, Observers, Target, Weight};
use towline_discover::{Format, Source, parse};

use super::Bench;
use crate::report::{Extra, Report, Row, Table, rounded};

const ENDPOINTS: usize = 100_000;
/// A set has to be parsed and compared within this.
const GOAL: Duration = Duration::from_millis(100);

/// A step, and what it is compared with: the same work by hand.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    FloorLines,
    Lines,
    FloorJson,
    Json,
    Yaml,
    /// The same set in another order: nothing changed.
    Dedup,
    /// One weight changed: what is that to tower's `Discover`?
    Changes,
    /// One weight changed: until the balancer has published it.
    Balance,
}

impl Step {
    const ALL: [Self; 8] = [
        Self::FloorLines,
        Self::Lines,
        Self::FloorJson,
        Self::Json,
        Self::Yaml,
        Self::Dedup,
        Self::Changes,
        Self::Balance,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::FloorLines => "floor-lines",
            Self::Lines => "parse-lines",
            Self::FloorJson => "floor-json",
            Self::Json => "parse-json",
            Self::Yaml => "parse-yaml",
            Self::Dedup => "dedup",
            Self::Changes => "changes",
            Self::Balance => "balancer",
        }
    }

    fn floor(self) -> Self {
        match self {
            Self::FloorLines | Self::Lines => Self::FloorLines,
            Self::FloorJson | Self::Json | Self::Yaml => Self::FloorJson,
            other => other,
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::FloorLines => "lines split, addresses and numbers parsed, by hand",
            Self::Lines => "one endpoint per line",
            Self::FloorJson => "`serde_json` into plain structs",
            Self::Json => "JSON",
            Self::Yaml => "YAML",
            Self::Dedup => "the same set in another order, dropped",
            Self::Changes => "one weight of it changed, for tower's `Discover`",
            Self::Balance => "one weight of it changed, until the balancer has published it",
        }
    }
}

/// What is parsed and compared.
struct Material {
    lines: String,
    json: String,
    yaml: String,
    set: Vec<Endpoint>,
}

impl Material {
    fn new() -> Result<Self> {
        let (mut lines, mut json, mut yaml) = (String::new(), String::from("["), String::new());
        for n in 0..ENDPOINTS {
            let (a, b, c) = (n >> 16, n >> 8 & 255, n & 255);
            let (weight, zone) = (n % 5 + 1, n % 3);
            writeln!(lines, "10.{a}.{b}.{c}:7000 weight={weight} zone=zone-{zone}")?;
            let comma = if n == 0 { "" } else { ",\n" };
            write!(
                json,
                "{comma}{{\"address\":\"10.{a}.{b}.{c}:7000\",\"weight\":{weight},\"zone\":\"zone-{zone}\"}}"
            )?;
            writeln!(yaml, "- {{address: \"10.{a}.{b}.{c}:7000\", weight: {weight}, zone: zone-{zone}}}")?;
        }
        json += "]";
        let set = parsed(Format::Lines, &lines)?.into_vec();
        Ok(Self { lines, json, yaml, set })
    }

    fn changed(&self, round: usize) -> Result<Vec<Endpoint>> {
        let mut set = self.set.clone();
        let last = set.pop().context("an endpoint")?;
        set.push(last.with_weight(Weight::new(round as f64 + 10.0)?));
        Ok(set)
    }
}

fn parsed(format: Format, text: &str) -> Result<EndpointSet> {
    let set = parse(format, text.as_bytes()).map_err(anyhow::Error::msg)?;
    ensure!(set.len() == ENDPOINTS, "not all endpoints were parsed");
    Ok(set)
}

/// As little as a set of endpoints can be.
#[derive(Deserialize)]
struct Plain {
    address: std::net::SocketAddr,
    weight: f64,
    zone: String,
}

fn plain(line: &str) -> Result<Plain> {
    let mut words = line.split(' ');
    let mut word = || words.next().context("a word");
    let address = word()?.parse()?;
    let weight = word()?.strip_prefix("weight=").context("a weight")?.parse()?;
    let zone = word()?.strip_prefix("zone=").context("a zone")?.to_owned();
    Ok(Plain { address, weight, zone })
}

pub(super) fn run(bench: &Bench) -> Result<Report> {
    let material = Material::new()?;
    let rounds = if bench.quick { 3 } else { 15 };
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); Step::ALL.len()];
    for round in 0..rounds {
        for (step, times) in Step::ALL.into_iter().zip(&mut times) {
            times.push(bench.runtime.block_on(time(step, &material, round))?);
        }
    }
    let median = |step: Step| {
        let index = Step::ALL.iter().position(|other| *other == step).unwrap_or_default();
        let mut times = times[index].clone();
        times.sort();
        times[times.len() / 2]
    };
    let rows = Step::ALL.map(|step| {
        let index = Step::ALL.iter().position(|other| *other == step).unwrap_or_default();
        let (least, most) = (times[index].iter().min(), times[index].iter().max());
        let per_s = |time: Option<&Duration>| time.map_or(0.0, |time| rounded(1.0 / time.as_secs_f64(), 1));
        let ratio = median(step.floor()).as_secs_f64() / median(step).as_secs_f64();
        Row {
            case: "discover",
            peer: step.name(),
            floor: step.floor().name(),
            ops_per_s: per_s(Some(&median(step))),
            ns_per_op: median(step).as_nanos() as f64,
            min: per_s(most),
            max: per_s(least),
            ratio: rounded(ratio, 3),
            extra: Extra { endpoints: Some(ENDPOINTS), ..Extra::default() },
            ..Row::default()
        }
    });
    let mut report = Report::default();
    report.add_lines(&rows)?;
    let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
    let cells = |step: Step, row: &Row| {
        let floor = if step.floor() == step { "-".to_owned() } else { format!("{:.2}", 1.0 / row.ratio) };
        vec![step.what().to_owned(), ms(median(step)), floor]
    };
    report.tables.push(Table {
        title: format!("A set of {ENDPOINTS} endpoints: milliseconds, median of {rounds}"),
        head: ["", "ms", "times the floor above"].map(str::to_owned).to_vec(),
        rows: Step::ALL.into_iter().zip(&rows).map(|(step, row)| cells(step, row)).collect(),
        prose: false,
        detail: false,
    });
    let goal = |step: Step| {
        let took = median(step) + median(Step::Dedup);
        let met = if took <= GOAL { "yes" } else { "no" };
        [step.what(), &format!("≤ {}", GOAL.as_millis()), &ms(took), met].map(str::to_owned).to_vec()
    };
    report.tables.push(Table {
        title: "Goals: parsed and compared, in milliseconds".to_owned(),
        head: ["", "goal", "measured", "met"].map(str::to_owned).to_vec(),
        rows: [Step::Lines, Step::Json, Step::Yaml].map(goal).to_vec(),
        prose: false,
        detail: false,
    });
    report.note = "\
Files are read and parsed on a thread that may block; comparing and taking over is the balancer's task. Calls go on meanwhile with the set \
before."
        .into();
    Ok(report)
}

/// How long one round of a step takes.
async fn time(step: Step, material: &Material, round: usize) -> Result<Duration> {
    Ok(match step {
        Step::FloorLines => {
            let began = Instant::now();
            let all = material.lines.lines().map(plain).collect::<Result<Vec<_>>>()?;
            let took = began.elapsed();
            used(&all)?;
            took
        }
        Step::FloorJson => {
            let began = Instant::now();
            let all: Vec<Plain> = serde_json::from_str(&material.json)?;
            let took = began.elapsed();
            used(&all)?;
            took
        }
        Step::Lines => timed_parse(Format::Lines, &material.lines)?,
        Step::Json => timed_parse(Format::Json, &material.json)?,
        Step::Yaml => timed_parse(Format::Yaml, &material.yaml)?,
        Step::Dedup => {
            let mut turned = material.set.clone();
            turned.rotate_left(ENDPOINTS / 3);
            let sets = [material.set.clone(), turned].map(Ok::<_, Error>);
            let mut source = Source::new(futures_util::stream::iter(sets)).dedup();
            source.next().await.context("a first set")??;
            let began = Instant::now();
            ensure!(source.next().await.is_none(), "a set that says the same");
            began.elapsed()
        }
        Step::Changes => {
            let sets = [material.set.clone(), material.changed(round)?].map(Ok::<_, Error>);
            let source = Source::new(futures_util::stream::iter(sets));
            let mut discover = source.into_discover(Observers::default(), |_| ());
            for _ in 0..ENDPOINTS {
                discover.next().await.context("an endpoint")??;
            }
            let began = Instant::now();
            discover.next().await.context("a change")??;
            ensure!(discover.next().now_or_never().is_none(), "one change");
            began.elapsed()
        }
        Step::Balance => balanced(material, round).await?,
    })
}

fn used(all: &[Plain]) -> Result<()> {
    ensure!(all.len() == ENDPOINTS, "not all endpoints were parsed");
    for plain in all {
        black_box((plain.address, plain.weight, &plain.zone));
    }
    Ok(())
}

fn timed_parse(format: Format, text: &str) -> Result<Duration> {
    let began = Instant::now();
    let set = parsed(format, text)?;
    let took = began.elapsed();
    drop(black_box(set));
    Ok(took)
}

/// From when the changed set is there until whoever looks sees it.
async fn balanced(material: &Material, round: usize) -> Result<Duration> {
    let (sets, receiver) = tokio::sync::mpsc::channel::<Result<Vec<Endpoint>, Error>>(1);
    let make = tower::service_fn(|_: Target| {
        std::future::ready(Ok::<_, Error>(Lent::new(tower::service_fn(|_: ()| std::future::ready(Ok::<_, Error>(()))))))
    });
    let (balance, driver) = BalanceBuilder::new(P2c::new()).with_access(Blind).pair(Source::mpsc(receiver), make);
    let driving = tokio::spawn(driver);
    sets.send(Ok(material.set.clone())).await?;
    let weight = material.changed(round)?;
    let expected = weight.last().context("an endpoint")?.weight();
    while balance.endpoints().len() < ENDPOINTS {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    sets.send(Ok(weight)).await?;
    // The driver's turn comes between two looks, on the one thread there is.
    loop {
        tokio::task::yield_now().await;
        let at = began.elapsed();
        if balance.endpoints().iter().any(|view| view.endpoint.weight() == expected) {
            drop((balance, sets));
            driving.await?;
            return Ok(at);
        }
    }
}

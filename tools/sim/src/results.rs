//! All runs of a scenario, and how they are come by.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::engine;
use crate::figures::{Metric, Run, Spread};
use crate::scenarios::{Case, Scenario, World};
use crate::stacks;
use crate::strategies::{self, ORACLE};
use crate::{lives, subsets, tables};

/// What the strategies of a case did.
pub(crate) struct CaseResults {
    pub(crate) case: Case,
    /// By strategy, a run per seed.
    pub(crate) strategies: Vec<(&'static str, Vec<Run>)>,
}

pub(crate) struct Results {
    pub(crate) scenario: &'static Scenario,
    pub(crate) seeds: u64,
    pub(crate) cases: Vec<CaseResults>,
}

impl Results {
    /// Runs everything with seeds 1, 2 and so on. Runs are independent of each other and are kept in their places, so
    /// that it does not matter on how many threads they are done.
    pub(crate) fn new(scenario: &'static Scenario, seeds: u64) -> Self {
        let cases = (scenario.cases)();
        let strategies = run_all(&cases, seeds);
        let mut cases: Vec<_> =
            cases.into_iter().zip(strategies).map(|(case, strategies)| CaseResults { case, strategies }).collect();
        cases.iter_mut().for_each(CaseResults::compare);
        Self { scenario, seeds, cases }
    }

    pub(crate) fn case(&self, name: &str) -> Option<&CaseResults> {
        self.cases.iter().find(|results| results.case.name == name)
    }
}

impl CaseResults {
    pub(crate) fn runs(&self, strategy: &str) -> Option<&[Run]> {
        self.strategies.iter().find(|(name, _)| *name == strategy).map(|(_, runs)| runs.as_slice())
    }

    /// A figure of all spans together, if the strategy was run and has it.
    pub(crate) fn whole(&self, strategy: &str, metric: Metric) -> Option<Spread> {
        self.runs(strategy)?.iter().map(|run| run.whole.get(metric)).collect::<Option<_>>().map(Spread)
    }

    pub(crate) fn span(&self, span: usize, strategy: &str, metric: Metric) -> Option<Spread> {
        self.runs(strategy)?.iter().map(|run| run.spans[span].get(metric)).collect::<Option<_>>().map(Spread)
    }

    /// The mean over the seeds of each point of the curve.
    pub(crate) fn curve(&self, strategy: &str) -> Vec<f64> {
        let runs = self.runs(strategy).unwrap_or_default();
        let points = runs.first().map_or(0, |run| run.curve.len());
        let mean = |at| runs.iter().map(|run| run.curve[at]).sum::<f64>() / runs.len() as f64;
        (0..points).map(mean).collect()
    }

    /// Everybody's tail beside the oracle's, seed by seed.
    fn compare(&mut self) {
        let Some(oracle) = self.runs(ORACLE).map(<[Run]>::to_vec) else { return };
        for (_, runs) in &mut self.strategies {
            for (run, oracle) in runs.iter_mut().zip(&oracle) {
                let pairs = run.spans.iter_mut().zip(&oracle.spans).chain([(&mut run.whole, &oracle.whole)]);
                for (figures, oracle) in pairs {
                    if let (Some(tail), Some(least)) = (figures.get(Metric::P999), oracle.get(Metric::P999)) {
                        figures.set(Metric::Regret, tail / least);
                    }
                }
            }
        }
    }
}

/// One of those that are compared in a case.
struct Contestant<'a> {
    name: &'static str,
    /// With a seed.
    run: Box<dyn Fn(u64) -> Run + Sync + 'a>,
}

fn contestants(case: &Case) -> Vec<Contestant<'_>> {
    match &case.world {
        World::Calls(config) => {
            let balancer = |strategy: &'static strategies::Named| Contestant {
                name: strategy.name,
                run: Box::new(|seed| Run::new(config, &engine::run(config, seed, strategy.make))),
            };
            strategies::named(&case.strategies).into_iter().map(balancer).collect()
        }
        World::Stacks(config) => {
            let stack = |stack: &'static stacks::Stack| Contestant {
                name: stack.name,
                run: Box::new(|seed| {
                    let record = engine::run_repeating(config, seed, stack.balancer().make, stack.repeats);
                    Run::new(config, &record)
                }),
            };
            stacks::named(&case.strategies).into_iter().map(stack).collect()
        }
        World::Subsets(config) => {
            let subsets = |who: &'static subsets::Named| Contestant {
                name: who.name,
                run: Box::new(|seed| subsets::run(config, who, seed)),
            };
            subsets::ALL.iter().filter(|who| case.strategies.contains(&who.name)).map(subsets).collect()
        }
        World::Lives(config) => {
            let lives = |who: &'static lives::Named| Contestant {
                name: who.name,
                run: Box::new(|seed| lives::run(config, who, seed)),
            };
            lives::ALL.iter().filter(|who| case.strategies.contains(&who.name)).map(lives).collect()
        }
        World::Tables(config) => {
            let table = |who: &'static tables::Named| Contestant {
                name: who.name,
                run: Box::new(|seed| tables::run(config, who, seed)),
            };
            tables::ALL.iter().filter(|who| case.strategies.contains(&who.name)).map(table).collect()
        }
    }
}

/// By case and by strategy, a run per seed. On as many threads as there are processors; the next goes to whoever is free.
fn run_all(cases: &[Case], seeds: u64) -> Vec<Vec<(&'static str, Vec<Run>)>> {
    let contestants: Vec<_> = cases.iter().map(contestants).collect();
    let jobs: Vec<_> =
        contestants.iter().flatten().flat_map(|who| (1..=seeds).map(move |seed| (&who.run, seed))).collect();
    let next = AtomicUsize::new(0);
    let done: Vec<Mutex<Option<Run>>> = jobs.iter().map(|_| Mutex::new(None)).collect();
    let work = || {
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some((run, seed)) = jobs.get(place) else { return };
            *done[place].lock().expect("nobody panics with it") = Some(run(*seed));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let run =
        |place: Mutex<Option<Run>>| place.into_inner().expect("nobody panics with it").expect("all jobs are done");
    let mut runs = done.into_iter().map(run);
    let mut of = |who: &Contestant<'_>| (who.name, runs.by_ref().take(seeds as usize).collect());
    contestants.iter().map(|case| case.iter().map(&mut of).collect()).collect()
}

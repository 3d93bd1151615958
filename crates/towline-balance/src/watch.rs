//! What the driver does by the clock: looks over the set while there are calls, and for endpoints that come up while
//! calls wait for one.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};
use towline_core::{EndpointId, Error, Event, Lend, Room};

use crate::discover::guarded;
use crate::load::{self, Nanos, Standing, Sweep};
use crate::outlier::{Detector, News, PanicMode};
use crate::set::{Node, assess, weigh};
use crate::shared::Shared;

/// How often endpoints that are down are looked at while calls wait for them.
const LOOK: Duration = Duration::from_millis(25);

pub(crate) struct Watch {
    sweep: Sweep,
    detector: Detector,
    panic_mode: PanicMode,
    /// Those on probation at the last sweep.
    on_probation: HashSet<EndpointId>,
    sweep_at: Option<Instant>,
    /// When to look for endpoints that have come up. Not at every poll: a call that is told, and fails again, wakes the
    /// driver by waiting again.
    look_at: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    pub(crate) fn new(detector: Detector, panic_mode: PanicMode) -> Self {
        Self {
            sweep: Sweep::default(),
            detector,
            panic_mode,
            on_probation: HashSet::new(),
            sweep_at: None,
            look_at: None,
            timer: None,
        }
    }

    /// The error says that there is no timer.
    pub(crate) fn poll<L: Lend, P>(
        &mut self,
        shared: &Shared<L, P>,
        nodes: &[Node<L>],
        cx: &mut Context<'_>,
    ) -> Result<(), Error> {
        loop {
            // Who waits for a first set is told when there is one.
            let waiting = !nodes.is_empty() && shared.waiting.load(Ordering::Relaxed) > 0;
            let touched = shared.levels.touched.load(Ordering::Relaxed);
            if !waiting {
                self.look_at = None;
            }
            if !(waiting || touched || self.sweep_at.is_some()) {
                self.timer = None;
                return Ok(());
            }
            let now = Instant::now();
            if waiting && *self.look_at.get_or_insert(now + LOOK) <= now {
                self.look_at = None;
                if nodes.iter().any(|node| node.lend.room() != Room::Down) {
                    shared.news.notify_waiters();
                }
                continue;
            }
            if self.sweep_at.is_none() && touched {
                self.sweep_at = Some(now + load::PERIOD);
            }
            if self.sweep_at.is_some_and(|at| at <= now) {
                self.sweep_at = None;
                // Before the sweep, so that a call that comes meanwhile brings the next.
                shared.levels.touched.store(false, Ordering::Relaxed);
                self.sweep(shared, nodes);
                continue;
            }
            let Some(next) = self.look_at.into_iter().chain(self.sweep_at).min() else { return Ok(()) };
            match &mut self.timer {
                // An earlier one that is there already will do.
                Some(timer) if timer.deadline() <= next => {}
                Some(timer) => timer.as_mut().reset(next),
                None => self.timer = Some(guarded("the timer", || Box::pin(sleep_until(next)))?),
            }
            let Some(timer) = &mut self.timer else { return Ok(()) };
            match timer.as_mut().poll(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(()) => self.timer = None,
            }
        }
    }

    fn sweep<L: Lend, P>(&mut self, shared: &Shared<L, P>, nodes: &[Node<L>]) {
        let now = shared.levels.clock.now();
        let stats = || nodes.iter().map(Node::stats);
        self.sweep.run(&shared.levels, stats(), now);
        for news in self.detector.run(&shared.levels, stats(), now) {
            shared.observers.emit(match &news {
                News::Ejected { stats, rule, length, ejections } => Event::EndpointEjected {
                    endpoint: stats.key(),
                    rule: *rule,
                    length: *length,
                    ejections: *ejections,
                },
                News::Returned(stats) => Event::EndpointReturned { endpoint: stats.key() },
            });
        }
        weigh(&shared.levels, nodes);
        self.panic(shared, nodes);
        self.probation(shared, nodes, now);
    }

    /// Whether so few are eligible that calls take all, or none.
    fn panic<L: Lend, P>(&self, shared: &Shared<L, P>, nodes: &[Node<L>]) {
        let (panics, eligible) = assess(self.panic_mode, nodes);
        if shared.levels.panics.swap(panics, Ordering::Relaxed) != panics {
            shared.observers.emit(if panics {
                Event::PanicBegan { eligible, endpoints: nodes.len() }
            } else {
                Event::PanicEnded
            });
        }
    }

    fn probation<L: Lend, P>(&mut self, shared: &Shared<L, P>, nodes: &[Node<L>], now: Nanos) {
        for stats in nodes.iter().map(Node::stats) {
            let standing = stats.standing(now);
            if standing == Standing::Ejected {
                // Probation has not ended well; there was an event of its own.
                self.on_probation.remove(&stats.id());
                continue;
            }
            let event = match (standing == Standing::OnProbation, self.on_probation.contains(&stats.id())) {
                (true, false) => {
                    self.on_probation.insert(stats.id());
                    let latency = Duration::from_nanos(stats.average(now).unwrap_or_default() as u64);
                    let median = Duration::from_nanos(stats.measure().median() as u64);
                    Event::ProbationBegan { endpoint: stats.key(), latency, median }
                }
                (false, true) => {
                    self.on_probation.remove(&stats.id());
                    Event::ProbationEnded { endpoint: stats.key() }
                }
                _ => continue,
            };
            shared.observers.emit(event);
        }
        if self.on_probation.len() > nodes.len() {
            // Some of them are gone.
            let alive: HashSet<_> = nodes.iter().map(Node::id).collect();
            self.on_probation.retain(|id| alive.contains(id));
        }
    }
}

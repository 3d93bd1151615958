//! The endpoints at one time, and the choice among them: the synchronous core of the balancer. It takes `now` and
//! randomness, does no I/O and knows no runtime, so that the simulator drives just this.

mod view;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use towline_core::{
    CallContext, Endpoint, EndpointId, HomeLoss, Lend, Loads, Member, Pick, Policy, Reported, Rng, Room, Terms, Tried,
    View,
};

use crate::load::{Admission, Allowance, Bound, Entry, Flight, Levels, Nanos, Standing, Stats};
use crate::outlier::PanicMode;

pub use self::view::{EjectionView, EndpointView};

/// An immutable set of endpoints and a picker built for it.
pub struct Snapshot<L, P> {
    levels: Arc<Levels>,
    members: Vec<Member>,
    /// In parallel to the members.
    nodes: Vec<Node<L>>,
    picker: P,
}

/// What the balancer has of an endpoint beside its attributes.
#[derive(Debug)]
pub struct Node<L> {
    pub(crate) stats: Arc<Stats>,
    pub(crate) lend: Arc<L>,
    /// What one call in flight counts: 1 over the weight; infinite when the endpoint is for want of any other.
    per_call: f64,
}

// By hand: `L` is shared.
impl<L> Clone for Node<L> {
    fn clone(&self) -> Self {
        Self { stats: self.stats.clone(), lend: self.lend.clone(), per_call: self.per_call }
    }
}

impl<L> Node<L> {
    /// A new life of `endpoint`, which lends by `lend`.
    pub fn new(endpoint: &Endpoint, lend: L, levels: &Arc<Levels>) -> Self {
        let stats = Stats::new(endpoint.key().clone(), levels.clone());
        Self { stats, lend: Arc::new(lend), per_call: 1.0 / endpoint.weight().get() }
    }

    /// Which life this is.
    pub fn id(&self) -> EndpointId {
        self.stats.id()
    }

    fn is_weightless(&self) -> bool {
        self.per_call == f64::INFINITY
    }

    pub(crate) fn weight(&self) -> f64 {
        1.0 / self.per_call
    }

    /// What calls have left behind.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }
}

/// Which endpoint a call goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The first that is eligible.
    pub index: usize,
    /// Another that may be asked at the same time, because the first has no room.
    pub other: Option<usize>,
    /// The probes that the pick has claimed, of the first and of the other.
    claims: [Claim; 2],
    /// How many candidates went before it.
    skipped: usize,
    /// How far the first may be filled, where loads are bounded.
    allowance: Allowance,
    /// Of the calls that are kept together with it.
    key: Option<u64>,
}

/// Whose probe a call is that goes there: nobody else's, until it ends or is left to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Claim {
    /// It is none.
    #[default]
    None,
    OnProbation,
    Ejected,
}

impl Choice {
    /// Whatever the bound says: it is for sharing calls, not for refusing them.
    pub(crate) fn unbounded(self) -> Self {
        Self { allowance: Allowance::Any, ..self }
    }

    #[inline]
    fn claim(&self, index: usize) -> Claim {
        self.claims[usize::from(index != self.index)]
    }
}

/// How well an endpoint is suited to a call, the best first. A call takes the first candidate of the best kind that
/// there is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fitness {
    /// Up, not tried by an earlier attempt, with a weight, and to be called now.
    Fit,
    /// As far above the mean as it may be.
    Bounded,
    /// In slow start, and this call is not in its share.
    Slow,
    /// On probation, or new and busy.
    Avoided,
    /// Of weight zero.
    Weightless,
    /// Tried by an earlier attempt.
    Tried,
    /// An outlier.
    Ejected,
    /// At a limit of its circuit.
    Full,
    /// Down: its own error says why nobody can be reached.
    Down,
}

/// Why a call goes to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nobody {
    /// The policy has nobody for it, or all have refused.
    NoCandidate,
    /// All that could take it are at a limit.
    Full,
    /// Too few are eligible, and calls are to fail then.
    Panic,
    /// Its home, if that is known, cannot take it, and nobody else may.
    Home(HomeLoss, Option<usize>),
}

/// What is to be said about an endpoint.
#[derive(Clone, Copy)]
struct Verdict {
    fitness: Fitness,
    allowance: Allowance,
    /// Claimed only of who is fit: the call then goes there.
    claim: Claim,
}

impl From<Fitness> for Verdict {
    #[inline]
    fn from(fitness: Fitness) -> Self {
        Self { fitness, allowance: Allowance::Any, claim: Claim::None }
    }
}

#[derive(Clone, Copy)]
struct Candidate {
    verdict: Verdict,
    /// How many went before it.
    skipped: usize,
    index: usize,
    room: Room,
}

impl Candidate {
    /// The choice of this one and nobody beside it.
    fn alone(self, key: Option<u64>) -> Choice {
        let Verdict { allowance, claim, .. } = self.verdict;
        Choice { index: self.index, other: None, claims: [claim, Claim::None], skipped: self.skipped, allowance, key }
    }
}

impl<L, P> fmt::Debug for Snapshot<L, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("members", &self.members).finish_non_exhaustive()
    }
}

impl<L, P> Snapshot<L, P> {
    /// The set of these endpoints, in parallel.
    pub fn new<Q>(
        levels: Arc<Levels>,
        members: Vec<Member>,
        mut nodes: Vec<Node<L>>,
        policy: &mut Q,
        last: Option<&P>,
    ) -> Self
    where
        Q: Policy<Picker = P>,
    {
        let weight = |member: &Member| member.endpoint.weight().get();
        let all_zero = members.iter().all(|member| weight(member) == 0.0);
        for (index, (node, member)) in nodes.iter_mut().zip(&members).enumerate() {
            node.per_call = if all_zero { 1.0 } else { 1.0 / weight(member) };
            node.stats.moved_to(index, policy.peers(&member.endpoint));
        }
        if let Some(bound) = &levels.bound {
            bound.set_of(nodes.iter().map(Node::weight));
        }
        let picker = policy.build(&members, last);
        Self { levels, members, nodes, picker }
    }

    /// Attributes and ids.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// In parallel to the members.
    pub fn nodes(&self) -> &[Node<L>] {
        &self.nodes
    }

    /// The picker.
    pub fn picker(&self) -> &P {
        &self.picker
    }

    /// Reads loads at `now`.
    pub(crate) fn at(&self, now: Nanos) -> At<'_, L> {
        At { levels: &self.levels, nodes: &self.nodes, now }
    }
}

impl<L: Lend, P> Snapshot<L, P> {
    /// The endpoint that a call goes to: the picker's first candidate that has not `refused`, by the first rule that
    /// finds one. An endpoint on probation, or ejected, that is picked has its probe begun.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn pick<Req>(
        &self,
        request: &Req,
        context: Option<&CallContext>,
        refused: Option<&Tried>,
        rng: &mut Rng,
        now: Nanos,
    ) -> Result<Choice, Nobody>
    where
        P: Pick<Req>,
    {
        if self.nodes.is_empty() {
            return Err(Nobody::NoCandidate);
        }
        let at = self.at(now);
        let view = View::new(&self.members, &at);
        let terms = self.picker.terms(request, context);
        let judge = Judge {
            now,
            context,
            tried: context.map(CallContext::tried).filter(|tried| !tried.is_empty()),
            terms,
            levels: &self.levels,
            is_plain: !self.levels.is_limited && !self.levels.panics(),
        };
        // On strict terms nobody comes after the first, not even when that has refused or is not there.
        let most = if terms.is_strict { 1 } else { usize::MAX };
        let order = self.picker.order(request, context, view, rng).enumerate().take(most);
        let mut order = order.filter_map(|(skipped, index)| {
            let node =
                self.nodes.get(index).filter(|node| refused.is_none_or(|refused| !refused.contains(node.id())))?;
            let room = node.lend.room();
            let verdict = judge.judge(node, room, skipped == 0, rng);
            Some(Candidate { verdict, skipped, index, room })
        });
        let Some(best) = order.next() else {
            return Err(match refused {
                _ if !terms.is_strict => Nobody::NoCandidate,
                // Only the first was looked at, and it has refused already.
                Some(refused) if !refused.is_empty() => Nobody::Home(HomeLoss::Overloaded, None),
                _ => Nobody::Home(HomeLoss::Gone, None),
            });
        };
        if terms.is_strict {
            return match best.verdict.fitness {
                Fitness::Bounded | Fitness::Full => Err(Nobody::Home(HomeLoss::Overloaded, Some(best.index))),
                Fitness::Ejected | Fitness::Down => Err(Nobody::Home(HomeLoss::Unready, Some(best.index))),
                _ => Ok(best.alone(terms.key)),
            };
        }
        if best.verdict.fitness == Fitness::Fit && best.room != Room::Full {
            return Ok(best.alone(terms.key));
        }
        self.look_on(best, &mut order, terms)
    }

    /// The best of all candidates after a first one that is not fit, or the first and another when it is full.
    // Apart from what most calls need.
    #[inline(never)]
    fn look_on(
        &self,
        first: Candidate,
        order: &mut impl Iterator<Item = Candidate>,
        terms: Terms,
    ) -> Result<Choice, Nobody> {
        let mut best = first;
        let mut any_full = best.verdict.fitness == Fitness::Full;
        while best.verdict.fitness != Fitness::Fit {
            let Some(next) = order.next() else { break };
            any_full |= next.verdict.fitness == Fitness::Full;
            if next.verdict.fitness < best.verdict.fitness {
                best = next;
            }
        }
        let Candidate { verdict: Verdict { fitness, .. }, room, index, .. } = best;
        if fitness >= Fitness::Ejected {
            // What is too much for those that do well is not for the others.
            if any_full {
                return Err(Nobody::Full);
            }
            if self.levels.fails_fast && fitness == Fitness::Ejected {
                return Err(Nobody::Panic);
            }
        }
        let mut choice = best.alone(terms.key);
        if fitness == Fitness::Fit && room == Room::Full && terms.may_race {
            if let Some(other) = order.find(|other| other.verdict.fitness == Fitness::Fit && other.index != index) {
                choice.other = Some(other.index);
                choice.claims[1] = other.verdict.claim;
            }
        }
        Ok(choice)
    }

    /// A call begins on the endpoint that was chosen; `None` when that is at a limit by now.
    #[inline]
    pub fn begin(&self, choice: Choice, now: Nanos) -> Option<Flight> {
        self.ask(choice, choice.index, now, true)
    }

    /// As [`begin`](Self::begin), on either of the two that were chosen, which may have to be waited for.
    // Always inline, as `plain`: what every call runs is compiled as one.
    #[inline(always)]
    pub(crate) fn ask(&self, choice: Choice, index: usize, now: Nanos, is_granted: bool) -> Option<Flight> {
        let node = &self.nodes[index];
        let entry = Entry { allowance: choice.allowance, key: choice.key, per_call: node.per_call };
        Flight::ask(node.stats.clone(), now, is_granted, choice.claim(index) == Claim::OnProbation, entry)
    }

    /// No call begins on those that were chosen, but on `begun`: the probes that it would have been are left to the next.
    #[cold]
    pub fn leave(&self, choice: Choice, begun: Option<usize>, now: Nanos) {
        let chosen = [Some(choice.index), choice.other].into_iter().flatten();
        for index in chosen.filter(|index| Some(*index) != begun) {
            let stats = &self.nodes[index].stats;
            match choice.claim(index) {
                Claim::None => {}
                Claim::OnProbation => stats.leave_trial(now),
                Claim::Ejected => stats.leave_probe(),
            }
        }
    }

    /// Tells the picker that the call goes to nobody, since its home cannot take it.
    pub(crate) fn refused<Req>(&self, request: &Req, context: Option<&CallContext>, why: HomeLoss)
    where
        P: Pick<Req>,
    {
        self.picker.refused(request, context, why);
    }

    /// Tells the picker that the call goes there.
    pub fn taken<Req>(&self, request: &Req, context: Option<&CallContext>, choice: Choice, now: Nanos)
    where
        P: Pick<Req>,
    {
        let at = self.at(now);
        self.picker.taken(request, context, View::new(&self.members, &at), choice.index, choice.skipped);
    }
}

/// Says how well endpoints are suited to one call.
struct Judge<'a> {
    now: Nanos,
    context: Option<&'a CallContext>,
    tried: Option<&'a Tried>,
    terms: Terms,
    levels: &'a Levels,
    /// There are no limits, and no panic.
    is_plain: bool,
}

impl Judge<'_> {
    #[inline(always)]
    fn judge<L>(&self, node: &Node<L>, room: Room, is_first: bool, rng: &mut Rng) -> Verdict {
        if room == Room::Down {
            Fitness::Down.into()
        } else if self.is_plain && node.stats.seen().is_nothing() {
            self.plain(node)
        } else {
            match &self.levels.bound {
                None => self.full(node, room, rng),
                Some(bound) => self.bounded(bound, node, room, is_first, rng),
            }
        }
    }

    #[inline(never)]
    fn bounded<L>(&self, bound: &Bound, node: &Node<L>, room: Room, is_first: bool, rng: &mut Rng) -> Verdict {
        let verdict = self.full(node, room, rng);
        // A probe of who is ejected is one call, and wanted.
        if verdict.fitness != Fitness::Fit || node.stats.seen().is_ejected() {
            return verdict;
        }
        match bound.allows(self.terms.key, &node.stats, node.weight(), is_first) {
            Some(allowance) => Verdict { allowance, ..verdict },
            None => {
                if verdict.claim == Claim::OnProbation {
                    node.stats.leave_trial(self.now);
                }
                Fitness::Bounded.into()
            }
        }
    }

    #[inline(always)]
    fn plain<L>(&self, node: &Node<L>) -> Verdict {
        if self.has_tried(node) {
            Fitness::Tried.into()
        } else if node.is_weightless() {
            Fitness::Weightless.into()
        } else if !self.terms.heeds_probation {
            Fitness::Fit.into()
        } else {
            match node.stats.admits(self.now) {
                Admission::Yes => Fitness::Fit.into(),
                Admission::Probe => Verdict { claim: Claim::OnProbation, ..Fitness::Fit.into() },
                Admission::No => Fitness::Avoided.into(),
            }
        }
    }

    /// Not inline: most calls find somebody of whom there is nothing to say.
    #[inline(never)]
    fn full<L>(&self, node: &Node<L>, room: Room, rng: &mut Rng) -> Verdict {
        let (stats, seen, panics) = (&node.stats, node.stats.seen(), self.levels.panics());
        let is_full = stats.is_full(room);
        if seen.is_ejected() {
            let is_idempotent = self.context.is_some_and(CallContext::is_idempotent);
            let may_probe = !is_full && !self.has_tried(node) && !node.is_weightless();
            // Also in a panic: calls that are none say nothing about whether it is over.
            if may_probe && stats.admits_probe(is_idempotent) {
                return Verdict { claim: Claim::Ejected, ..Fitness::Fit.into() };
            }
            if self.levels.fails_fast || !panics {
                return Fitness::Ejected.into();
            }
        }
        if is_full {
            return Fitness::Full.into();
        }
        let is_out = self.has_tried(node) || node.is_weightless();
        if panics && !is_out {
            // Nobody is spared, or nobody is called.
            return if self.levels.fails_fast { Fitness::Ejected } else { Fitness::Fit }.into();
        }
        // Before anybody asks for a probe: one that is begun is to be sent.
        if !is_out && self.is_slow(stats, rng) {
            let is_avoided = self.terms.heeds_probation && !stats.would_admit(self.now);
            return if is_avoided { Fitness::Avoided } else { Fitness::Slow }.into();
        }
        self.plain(node)
    }

    /// Whether it is in slow start, and this call not in its share.
    fn is_slow(&self, stats: &Stats, rng: &mut Rng) -> bool {
        self.terms.heeds_slow_start && stats.seen().in_slow_start() && rng.unit() >= f64::from(stats.share())
    }

    #[inline]
    fn has_tried<L>(&self, node: &Node<L>) -> bool {
        self.tried.is_some_and(|tried| tried.contains(node.id()))
    }
}

/// Says to the load bound, if there is one, who can take calls at present.
pub fn weigh<L: Lend>(levels: &Levels, nodes: &[Node<L>]) {
    if let Some(bound) = &levels.bound {
        let is_there = |node: &&Node<L>| node.lend.room() != Room::Down && !node.stats.seen().is_ejected();
        bound.set_of(nodes.iter().filter(is_there).map(Node::weight));
    }
}

/// Whether so few of these endpoints are eligible that the balancer panics; and how many are.
pub fn assess<L: Lend>(mode: PanicMode, nodes: &[Node<L>]) -> (bool, usize) {
    let is_eligible = |node: &&Node<L>| node.lend.room() != Room::Down && !node.stats.seen().is_ejected();
    let eligible = nodes.iter().filter(is_eligible).count();
    (mode.panics(eligible, nodes.len()), eligible)
}

impl<L: Lend + Clone, P> Snapshot<L, P> {
    pub(crate) fn views(&self, now: Nanos) -> Vec<EndpointView<L>> {
        let at = self.at(now);
        let view = |(index, (member, node)): (usize, (&Member, &Node<L>))| {
            let (ejected, ejections) = node.stats.ejected();
            EndpointView {
                endpoint: member.endpoint.clone(),
                room: node.lend.room(),
                on_probation: node.stats.standing(now) == Standing::OnProbation,
                ejection: ejected.map(|ejected| EjectionView::new(ejected, now)),
                ejections,
                slow_start: Some(node.stats.share()).filter(|share| *share < 1.0),
                limit: node.stats.limit(),
                in_flight: node.stats.in_flight() as usize,
                load: at.load(index),
                latency: at.latency(index),
                reported: at.reported(index),
                calls: node.stats.begun(),
                lend: (*node.lend).clone(),
            }
        };
        self.members.iter().zip(&self.nodes).enumerate().map(view).collect()
    }
}

/// The loads at one time.
pub(crate) struct At<'a, L> {
    levels: &'a Levels,
    nodes: &'a [Node<L>],
    now: Nanos,
}

impl<L: Lend> Loads for At<'_, L> {
    fn load(&self, index: usize) -> f64 {
        let node = &self.nodes[index];
        if node.is_weightless() { f64::INFINITY } else { node.stats.load(self.now, node.per_call) }
    }

    fn is_avoided(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        node.is_weightless() || !self.levels.panics() && node.stats.is_avoided(node.stats.standing(self.now), self.now)
    }

    fn availability(&self, index: usize) -> f64 {
        let node = &self.nodes[index];
        let is_away = node.is_weightless()
            || node.lend.room() == Room::Down
            || matches!(node.stats.standing(self.now), Standing::OnProbation | Standing::Ejected);
        if is_away {
            return 0.0;
        }
        // Who returns was there before, and the others have its calls meanwhile. Who is new takes nothing away.
        let (_, ejections) = node.stats.ejected();
        if ejections > 0 { f64::from(node.stats.share()) } else { 1.0 }
    }

    fn wants_probe(&self, index: usize) -> bool {
        let standing = self.nodes[index].stats.standing(self.now);
        matches!(standing, Standing::OnProbation | Standing::Ejected) && !self.is_avoided(index)
    }

    fn epoch(&self) -> u64 {
        self.levels.epoch()
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.nodes[index].stats.in_flight()
    }

    fn latency(&self, index: usize) -> Option<Duration> {
        self.nodes[index].stats.average(self.now).map(|nanos| Duration::from_nanos(nanos as u64))
    }

    fn reported(&self, index: usize) -> Option<Reported> {
        self.nodes[index].stats.reported(self.now)
    }

    fn hot(&self) -> u32 {
        self.levels.hot()
    }

    fn recent(&self, n: usize) -> Option<usize> {
        self.levels.recent(n)
    }
}

#[cfg(test)]
mod tests;

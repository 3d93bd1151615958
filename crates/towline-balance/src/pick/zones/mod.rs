//! The own zone first, and priorities: calls go to whole groups of endpoints by what these can take, and within a group
//! by any policy.
//!
//! There are two groups per priority: the endpoints of the client's own zone, and all others. The others are one group
//! and not one per zone, because a policy over all of them does what shares for each zone would do, and does it better: it
//! spreads calls by weight over those that are available, it sees their loads, and a session moves only when its own
//! endpoint goes.

mod order;
mod shares;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use towline_core::{
    CallContext, Endpoint, Error, HomeLoss, Kind, Member, Members, Phase, Pick, Policy, Rng, Terms, View,
};

pub use self::order::ZonesOrder;
use self::shares::{Level, Rule};

/// Calls to the client's own zone first and to low priorities first, as far as the endpoints there can take them, and the
/// rest to others. Within a zone they are picked by another policy, any.
///
/// - **Priorities.** Endpoints of the lowest [priority](towline_core::Endpoint::priority) number get all calls while at least
///   1/1.4 of them, by weight, are available. With less they get 1.4 times the part that is, and the next priority gets
///   what is left, as far as it goes; when all together cannot take everything, each gets calls in proportion to what it
///   can. This is Envoy's rule.
/// - **Zones.** Of a priority's calls the same part stays in the client's own [zone](towline_core::Endpoint::zone): all,
///   while at least 1/1.4 is available there, and 1.4 times the part that is when it is less; never so little that an
///   endpoint elsewhere would get more than one here. The rest goes to all other zones as one, and so by weight to whoever
///   is available. Endpoints without a zone count as elsewhere.
/// - **Available** is an endpoint with a weight that is up and not on probation. Who has been on probation and one call
///   tells that it is well is available again: a zone that comes back gets its calls as its endpoints do, one by one. Where
///   nobody is available, endpoints whose probe is due get a call of users, one every tenth of a second at most, so that
///   their return is seen. Calls that the policy keeps together do that only when there were no others for a sweep, strict
///   ones never.
/// - **Nobody is left out**: the candidates of a call go on to the other groups, in the end to all, for calls that must avoid
///   what they have tried. When nobody is available anywhere all are asked by weight.
///
/// Shares follow the balancer's sweep: ten times a second while there are calls, one of them adds up who is available.
/// Every other pick costs two random numbers more than that of the policy within. Calls that the policy keeps together,
/// as rendezvous hashing does with a session's, are kept in one group too, as long as the shares are the same; few move when
/// they change.
///
/// The priority levels and the factor are from Envoy ("Priority levels", "Overprovisioning factor"), and so is the share of
/// the clients ("Zone aware routing"). There is no least number of endpoints as there (`min_cluster_size`, 6): what one
/// endpoint gets more because others are missing is at most the factor, however few there are.
///
/// ```
/// use towline_balance::{BalanceBuilder, P2c, Zones};
///
/// // The clients of eu-1a are half of all.
/// let policy = Zones::new("eu-1a", P2c::new()).clients_here(0.5)?;
/// let balance = BalanceBuilder::new(policy);
/// # let _ = balance;
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Zones<P> {
    here: Option<Arc<str>>,
    rule: Rule,
    policy: P,
}

/// Those that are there can take so many times their own calls, as in Envoy.
const OVERPROVISIONING: f64 = 1.4;

impl<P: Policy> Zones<P> {
    /// For a client in the zone `here`, which picks by `policy` within a zone. When no endpoint is in that zone (its
    /// name is wrong, or empty because nobody has set it), this is [`by_priority`](Self::by_priority).
    pub fn new(here: impl Into<Arc<str>>, policy: P) -> Self {
        Self { here: Some(here.into()), ..Self::by_priority(policy) }
    }

    /// Goes by priorities alone: those of equal priority are one group, whatever their zones.
    ///
    /// ```
    /// use towline_balance::{P2c, Zones};
    ///
    /// let policy = Zones::by_priority(P2c::new());
    /// # let _ = policy;
    /// ```
    pub fn by_priority(policy: P) -> Self {
        Self { here: None, rule: Rule { overprovisioning: OVERPROVISIONING, clients_here: None }, policy }
    }

    /// Of all the clients of these endpoints, by their calls, `share` is in this one's zone: the own zone then gets at most
    /// its share of the available weight divided by this. Where half of the clients are in a zone with a third of the
    /// endpoints, each sends two thirds of its calls there, and all endpoints get the same. Unknown by default: calls stay in
    /// the zone, however many clients there are.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when `share` is not above 0 and at most 1.
    pub fn clients_here(mut self, share: f64) -> Result<Self, Error> {
        if !(share > 0.0 && share <= 1.0) {
            let message = format!("the share of the clients in a zone is above 0 and at most 1, not {share}");
            return Err(Error::new(Kind::Config, Phase::Build).with_message(message));
        }
        self.rule.clients_here = Some(share);
        Ok(self)
    }

    /// How many times its own calls an endpoint can take while others are missing; 1.4 by default, as in Envoy. With 1
    /// calls leave as soon as one endpoint does; with 2 half of a zone may be missing before one leaves.
    ///
    /// ```
    /// use towline_balance::{P2c, Zones};
    ///
    /// let policy = Zones::new("eu-1a", P2c::new()).overprovisioning(2.0)?;
    /// assert!(policy.overprovisioning(0.5).is_err());
    /// # Ok::<(), towline_core::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when `factor` is not a finite number of at least 1.
    pub fn overprovisioning(mut self, factor: f64) -> Result<Self, Error> {
        if !(factor >= 1.0 && factor.is_finite()) {
            let message = format!("the overprovisioning of zones is a finite number of at least 1, not {factor}");
            return Err(Error::new(Kind::Config, Phase::Build).with_message(message));
        }
        self.rule.overprovisioning = factor;
        Ok(self)
    }
}

/// Sorts by priority, and at each the own zone first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct GroupKey {
    priority: u8,
    is_elsewhere: bool,
}

impl<P> Zones<P> {
    fn key(&self, endpoint: &Endpoint) -> GroupKey {
        let is_elsewhere = self.here.is_none() || endpoint.zone() != self.here.as_deref();
        GroupKey { priority: endpoint.priority(), is_elsewhere }
    }
}

impl<P: Policy> Policy for Zones<P> {
    type Picker = ZonesPicker<P::Picker>;

    /// Groups are compared within themselves, those of priority 7 and above together: what is far is slower than what is
    /// near, and all that there is when nobody near is left.
    fn peers(&self, endpoint: &Endpoint) -> u8 {
        let GroupKey { priority, is_elsewhere } = self.key(endpoint);
        priority.min(7) << 1 | u8::from(is_elsewhere)
    }

    fn load_bound(&self) -> Option<f64> {
        self.policy.load_bound()
    }

    fn upkeep(&mut self) -> Option<Duration> {
        self.policy.upkeep()
    }

    fn build(&mut self, set: &Members, last: Option<&Self::Picker>) -> Self::Picker {
        let mut indices = BTreeMap::<GroupKey, Vec<usize>>::new();
        for (index, member) in set.iter().enumerate() {
            indices.entry(self.key(&member.endpoint)).or_default().push(index);
        }
        // As everywhere: when all weigh nothing, all weigh the same.
        let weightless = set.iter().all(|member| member.endpoint.weight().get() == 0.0);
        let mut homes = vec![Home::default(); set.len()];
        let mut groups = Vec::<Group<P::Picker>>::with_capacity(indices.len());
        let mut levels = 0;
        for (key, indices) in indices {
            if groups.last().is_none_or(|last| last.key.priority != key.priority) {
                levels += 1;
            }
            for (place, index) in indices.iter().enumerate() {
                homes[*index] = Home { group: groups.len(), place };
            }
            let members: Vec<_> = indices.iter().map(|index| set[*index].clone()).collect();
            let last = last.and_then(|last| last.groups.iter().find(|group| group.key == key));
            groups.push(Group {
                key,
                level: levels - 1,
                picker: self.policy.build(&members, last.map(|last| &last.picker)),
                members,
                indices,
                places: OnceLock::new(),
                weightless,
                // Terms are asked for before anybody looks.
                share: AtomicU64::new(last.map_or(0.0, Group::share).to_bits()),
            });
        }
        ZonesPicker {
            rule: self.rule,
            groups,
            levels,
            homes,
            seen: AtomicU64::new(NEVER),
            to_probe: AtomicUsize::new(NOBODY),
            is_left: AtomicBool::new(false),
        }
    }
}

/// What [`Zones`] builds for a set.
pub struct ZonesPicker<P> {
    rule: Rule,
    /// In order of their keys.
    groups: Vec<Group<P>>,
    /// How many priorities there are.
    levels: usize,
    /// In parallel to the set.
    homes: Vec<Home>,
    /// The epoch for which the shares are.
    seen: AtomicU64,
    /// The group that the next call begins with, to find out whether it is well again.
    to_probe: AtomicUsize,
    /// Nobody took the probe of the epoch before: there may be no calls but those that are kept.
    is_left: AtomicBool,
}

/// Before anybody has looked who is available.
const NEVER: u64 = u64::MAX;
const NOBODY: usize = usize::MAX;

/// Where an endpoint of the set is.
#[derive(Clone, Copy, Debug, Default)]
struct Home {
    group: usize,
    /// In the group.
    place: usize,
}

/// The endpoints of the own zone at a priority, or all others there.
struct Group<P> {
    key: GroupKey,
    /// Which priority this is, counted.
    level: usize,
    picker: P,
    members: Vec<Member>,
    /// Where they are in the set.
    indices: Vec<usize>,
    /// And where in the balancer's, if that is another: when this policy is within one that shows it a part. What it is
    /// shown never changes, so that this is found once.
    places: OnceLock<Vec<usize>>,
    /// No endpoint of the set has a weight.
    weightless: bool,
    /// Of all calls, as a float.
    share: AtomicU64,
}

impl<P> Group<P> {
    /// What its picker may look at.
    fn view<'a>(&'a self, view: View<'a>) -> View<'a> {
        let places = || self.indices.iter().map(|index| view.place(*index)).collect();
        view.part(&self.members, self.places.get_or_init(places))
    }

    fn share(&self) -> f64 {
        f64::from_bits(self.share.load(Ordering::Relaxed))
    }

    /// The weights of its members, and whether they count.
    fn weights(&self) -> impl Iterator<Item = f64> {
        self.members.iter().map(|member| if self.weightless { 1.0 } else { member.endpoint.weight().get() })
    }
}

impl<P> ZonesPicker<P> {
    /// Brings the shares up to date, if they are not and nobody else does it.
    fn refresh(&self, view: View<'_>) {
        let (epoch, seen) = (view.epoch(), self.seen.load(Ordering::Acquire));
        if epoch == seen {
            return;
        }
        if seen == NEVER {
            // There are no shares to go by in the meantime: all who come now look, and find the same.
            self.look(view, epoch);
            self.seen.store(epoch, Ordering::Release);
        } else if self.seen.compare_exchange(seen, epoch, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.is_left.store(self.to_probe.load(Ordering::Relaxed) != NOBODY, Ordering::Relaxed);
            self.look(view, epoch);
        }
    }

    /// Adds up who is available.
    fn look(&self, view: View<'_>, epoch: u64) {
        let mut levels = vec![Level::default(); self.levels];
        for group in &self.groups {
            let (part, view) = (part(&mut levels, group), group.view(view));
            for (place, weight) in group.weights().enumerate() {
                part.total += weight;
                part.available += weight * view.availability(place);
            }
        }
        self.rule.settle(&mut levels);
        for group in &self.groups {
            group.share.store(part(&mut levels, group).share.to_bits(), Ordering::Relaxed);
        }
        // Where anybody is available calls find out about the others. Of the groups where nobody is, another is looked at
        // first every time.
        let count = self.groups.len();
        let mut turn = (0..count).map(|n| (epoch as usize % count + n) % count);
        let to_probe = turn.find(|index| {
            let group = &self.groups[*index];
            let mut places = 0..group.members.len();
            part(&mut levels, group).available == 0.0 && places.any(|place| group.view(view).wants_probe(place))
        });
        self.to_probe.store(to_probe.unwrap_or(NOBODY), Ordering::Relaxed);
    }

    /// The group that a call goes to.
    fn draw(&self, mut point: f64) -> usize {
        let mut drawn = 0;
        for (index, group) in self.groups.iter().enumerate() {
            let share = group.share();
            if share == 0.0 {
                continue;
            }
            drawn = index;
            if point < share {
                break;
            }
            point -= share;
        }
        drawn
    }

    /// The group of a call that is kept with others, the same for all of them, and the terms of the call there.
    ///
    /// The key is the same in all groups: their pickers are of one policy. Whether the call is strict is not: a table knows
    /// the home of a session in one group, and has not seen it in another.
    fn kept<Req>(&self, request: &Req, context: Option<&CallContext>) -> (Option<usize>, Terms)
    where
        P: Pick<Req>,
    {
        let terms_in = |group: &Group<P>| group.picker.terms(request, context);
        let terms = self.groups.first().map_or(Terms::BALANCED, terms_in);
        match terms.key.map(|key| self.draw(Rng::with_seed(key).unit())) {
            Some(group) if group > 0 => (Some(group), terms_in(&self.groups[group])),
            kept => (kept, terms),
        }
    }

    /// The group that is to be probed: given to one of those who ask, and a call that is kept is the last to be asked. It
    /// leaves its endpoint for that, which strict calls never do.
    fn probe<Req>(&self, terms: Terms, request: &Req, context: Option<&CallContext>) -> Option<usize>
    where
        P: Pick<Req>,
    {
        let group = self.to_probe.load(Ordering::Relaxed);
        if group == NOBODY || terms.is_strict {
            return None;
        }
        let is_free = |group: &Group<P>| !group.picker.terms(request, context).is_strict;
        let is_ours = (terms.key.is_none() || self.is_left.load(Ordering::Relaxed) && is_free(&self.groups[group]))
            && self.to_probe.compare_exchange(group, NOBODY, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        is_ours.then_some(group)
    }
}

fn part<'a, P>(levels: &'a mut [Level], group: &Group<P>) -> &'a mut shares::Part {
    let level = &mut levels[group.level];
    if group.key.is_elsewhere { &mut level.elsewhere } else { &mut level.here }
}

impl<Req, P: Pick<Req>> Pick<Req> for ZonesPicker<P> {
    type Order<'a>
        = ZonesOrder<'a, P, Req>
    where
        Self: 'a,
        Req: 'a;

    fn order<'a>(
        &'a self,
        request: &'a Req,
        context: Option<&'a CallContext>,
        view: View<'a>,
        rng: &mut Rng,
    ) -> Self::Order<'a> {
        self.refresh(view);
        let (kept, terms) = self.kept(request, context);
        let mut rng = terms.key.map_or_else(|| rng.fork(), Rng::with_seed);
        // Also for calls that are kept, so that the policy within does not see the number that has chosen the group.
        let point = rng.unit();
        let drawn = kept.unwrap_or_else(|| self.draw(point));
        let first = self.probe(terms, request, context).unwrap_or(drawn);
        ZonesOrder::new(&self.groups, first, terms.is_strict, request, context, view, rng)
    }

    fn terms(&self, request: &Req, context: Option<&CallContext>) -> Terms {
        self.kept(request, context).1
    }

    fn refused(&self, request: &Req, context: Option<&CallContext>, why: HomeLoss) {
        let group = self.kept(request, context).0.unwrap_or(0);
        self.groups.get(group).iter().for_each(|group| group.picker.refused(request, context, why));
    }

    fn taken(&self, request: &Req, context: Option<&CallContext>, view: View<'_>, index: usize, skipped: usize) {
        let Some(home) = self.homes.get(index) else { return };
        let group = &self.groups[home.group];
        group.picker.taken(request, context, group.view(view), home.place, skipped);
    }
}

impl<P> fmt::Debug for ZonesPicker<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shares: Vec<_> = self.groups.iter().map(|group| (group.key, group.share())).collect();
        f.debug_struct("ZonesPicker").field("rule", &self.rule).field("shares", &shares).finish_non_exhaustive()
    }
}

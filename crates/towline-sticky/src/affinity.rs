//! Which kind, chosen at run time.

use std::time::Duration;

use towline_core::{CallContext, Error, HomeLoss, Members, Observers, Pick, Policy, Rng, Terms, View};

use crate::{
    Maglev, MaglevOrder, MaglevPicker, Rendezvous, RendezvousOrder, RendezvousPicker, SessionTable, SessionTableOrder,
    SessionTablePicker, StickyStats, WhenHomeFails,
};

/// Any of the policies of this crate, chosen at run time: for programs whose client has one type. A pick costs a branch more
/// than the policy itself.
///
/// ```
/// use towline_balance::BalanceBuilder;
/// use towline_sticky::{Affinity, Maglev, Rendezvous, SessionTable};
///
/// # let setting = "table";
/// let affinity = match setting {
///     "table" => Affinity::from(SessionTable::new()),
///     "large" => Affinity::from(Maglev::new()),
///     _ => Affinity::from(Rendezvous::new()),
/// };
/// let balance = BalanceBuilder::new(affinity);
/// # let _ = balance;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Affinity {
    /// Homes by hash, for sets of up to about a hundred.
    Rendezvous(Rendezvous),
    /// Homes by hash, for any set.
    Maglev(Maglev),
    /// Homes that are remembered.
    Table(SessionTable),
}

/// The same for each kind.
macro_rules! each {
    ($any:expr, $one:pat => $then:expr) => {
        match $any {
            Self::Rendezvous($one) => $then,
            Self::Maglev($one) => $then,
            Self::Table($one) => $then,
        }
    };
}

impl Affinity {
    /// Tells of calls that go elsewhere, of sessions that move, and of those that are refused.
    #[must_use]
    pub fn observers(self, observers: Observers) -> Self {
        each!(self, policy => policy.observers(observers).into())
    }

    /// Counts into `stats`.
    #[must_use]
    pub fn with_stats(self, stats: StickyStats) -> Self {
        each!(self, policy => policy.with_stats(stats).into())
    }

    /// What it counts into; of its own, unless it was given one.
    pub fn stats(&self) -> &StickyStats {
        each!(self, policy => policy.stats())
    }

    /// What becomes of a call whose home cannot take it.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`](towline_core::Kind::Config) for [`WhenHomeFails::Move`], unless it is a table.
    pub fn when_home_fails(self, when: WhenHomeFails) -> Result<Self, Error> {
        Ok(match self {
            Self::Rendezvous(policy) => policy.when_home_fails(when)?.into(),
            Self::Maglev(policy) => policy.when_home_fails(when)?.into(),
            Self::Table(policy) => policy.when_home_fails(when).into(),
        })
    }
}

impl Default for Affinity {
    fn default() -> Self {
        Rendezvous::new().into()
    }
}

impl From<Rendezvous> for Affinity {
    fn from(policy: Rendezvous) -> Self {
        Self::Rendezvous(policy)
    }
}

impl From<Maglev> for Affinity {
    fn from(policy: Maglev) -> Self {
        Self::Maglev(policy)
    }
}

impl From<SessionTable> for Affinity {
    fn from(policy: SessionTable) -> Self {
        Self::Table(policy)
    }
}

impl Policy for Affinity {
    type Picker = AffinityPicker;

    fn build(&mut self, set: &Members, last: Option<&AffinityPicker>) -> AffinityPicker {
        use AffinityPicker::{Maglev, Rendezvous, Table};
        match (self, last) {
            (Self::Rendezvous(policy), Some(Rendezvous(last))) => Rendezvous(policy.build(set, Some(last))),
            (Self::Rendezvous(policy), _) => Rendezvous(policy.build(set, None)),
            (Self::Maglev(policy), Some(Maglev(last))) => Maglev(policy.build(set, Some(last))),
            (Self::Maglev(policy), _) => Maglev(policy.build(set, None)),
            (Self::Table(policy), Some(Table(last))) => Table(policy.build(set, Some(last))),
            (Self::Table(policy), _) => Table(policy.build(set, None)),
        }
    }

    fn load_bound(&self) -> Option<f64> {
        each!(self, policy => policy.load_bound())
    }

    fn upkeep(&mut self) -> Option<Duration> {
        each!(self, policy => policy.upkeep())
    }
}

/// What [`Affinity`] builds for a set.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AffinityPicker {
    /// By rendezvous hashing.
    Rendezvous(RendezvousPicker),
    /// By a lookup table.
    Maglev(MaglevPicker),
    /// By memory.
    Table(SessionTablePicker),
}

impl<Req> Pick<Req> for AffinityPicker {
    type Order<'a>
        = AffinityOrder<'a>
    where
        Req: 'a;

    #[inline]
    fn order<'a>(
        &'a self,
        request: &'a Req,
        context: Option<&'a CallContext>,
        view: View<'a>,
        rng: &mut Rng,
    ) -> AffinityOrder<'a> {
        match self {
            Self::Rendezvous(picker) => AffinityOrder::Rendezvous(picker.order(request, context, view, rng)),
            Self::Maglev(picker) => AffinityOrder::Maglev(picker.order(request, context, view, rng)),
            Self::Table(picker) => AffinityOrder::Table(picker.order(request, context, view, rng)),
        }
    }

    #[inline]
    fn terms(&self, request: &Req, context: Option<&CallContext>) -> Terms {
        each!(self, picker => picker.terms(request, context))
    }

    #[inline]
    fn taken(&self, request: &Req, context: Option<&CallContext>, view: View<'_>, index: usize, skipped: usize) {
        each!(self, picker => picker.taken(request, context, view, index, skipped));
    }

    fn refused(&self, request: &Req, context: Option<&CallContext>, why: HomeLoss) {
        each!(self, picker => Pick::<Req>::refused(picker, request, context, why));
    }
}

/// The candidates of [`Affinity`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AffinityOrder<'a> {
    /// By rendezvous hashing.
    Rendezvous(RendezvousOrder<'a>),
    /// By a lookup table.
    Maglev(MaglevOrder<'a>),
    /// By memory.
    Table(SessionTableOrder<'a>),
}

impl Iterator for AffinityOrder<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        each!(self, order => order.next())
    }
}

#[cfg(test)]
mod tests {
    use towline_core::Call;

    use super::*;
    use crate::testing::{Unloaded, set};

    #[test]
    fn each_kind_is_what_it_is_alone() {
        let set = set(&[("a:1", 1.0), ("b:1", 1.0), ("c:1", 1.0), ("d:1", 2.0)]);
        let maglev = || Maglev::new().slots(251).unwrap();
        let homes = |affinity: Affinity| {
            let (mut affinity, view) = (affinity, View::new(&set, &Unloaded));
            let first = affinity.build(&set, None);
            let picker = affinity.build(&set, Some(&first));
            let home = |session: u32| {
                let call = Call::new(()).with_session(session.to_le_bytes());
                let home = first.order(&call, Some(call.context()), view, &mut Rng::with_seed(3)).next();
                assert_eq!(picker.order(&call, Some(call.context()), view, &mut Rng::new()).next(), home);
                home.unwrap()
            };
            (0..100).map(home).collect::<Vec<_>>()
        };
        let alone = |order: &dyn Fn(&Call<()>) -> usize| {
            (0..100u32).map(|session| order(&Call::new(()).with_session(session.to_le_bytes()))).collect::<Vec<_>>()
        };
        let view = View::new(&set, &Unloaded);
        let rendezvous = Rendezvous::new().build(&set, None);
        let by_rendezvous =
            alone(&|call| rendezvous.order(call, Some(call.context()), view, &mut Rng::new()).next().unwrap());
        assert_eq!(homes(Rendezvous::new().into()), by_rendezvous);
        let by_slots = maglev().build(&set, None);
        let by_maglev =
            alone(&|call| by_slots.order(call, Some(call.context()), view, &mut Rng::new()).next().unwrap());
        assert_eq!(homes(maglev().into()), by_maglev);
        let table = SessionTable::new().build(&set, None);
        let by_table =
            alone(&|call| table.order(call, Some(call.context()), view, &mut Rng::with_seed(3)).next().unwrap());
        assert_eq!(homes(SessionTable::new().into()), by_table);
    }

    #[test]
    fn settings_reach_the_kind_that_was_chosen() {
        let stats = StickyStats::new();
        for (affinity, bound, wakes, may_move) in [
            (Affinity::default(), Some(1.25), false, false),
            (Maglev::new().unbounded().into(), None, false, false),
            (SessionTable::new().bounded(2.0).unwrap().into(), Some(2.0), true, true),
        ] {
            let mut affinity = affinity.with_stats(stats.clone()).observers(Observers::default());
            assert_eq!((affinity.load_bound(), affinity.upkeep().is_some()), (bound, wakes));
            assert_eq!(affinity.clone().when_home_fails(WhenHomeFails::Move).is_ok(), may_move);
            let call = Call::new(()).with_session("alice");
            let picker = affinity.build(&set(&[("a:1", 1.0)]), None);
            picker.refused(&call, Some(call.context()), HomeLoss::Gone);
        }
        assert_eq!(stats.counts().refused.gone, 3);
    }
}

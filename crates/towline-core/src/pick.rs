//! Which endpoint next: one mechanism for load balancing, hashing, sticky failover and retry-elsewhere.
//!
//! A [`Policy`] builds a picker for a set of endpoints, off the call path. A call asks the picker for candidates in
//! order of preference, takes the first that is eligible (not tried before, has room), and tells the picker what
//! was taken.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{CallContext, Endpoint, EndpointId, Rng};

/// One endpoint of a set: which life of it, and its attributes.
#[derive(Clone, Debug)]
pub struct Member {
    /// This life of the endpoint.
    pub id: EndpointId,
    /// Its attributes.
    pub endpoint: Arc<Endpoint>,
}

/// The endpoints that a picker is built for. Indices are positions in this slice and hold for this set only.
pub type Members = [Member];

/// What a balancer knows about its endpoints at the time of a pick. All but the load are optional: who does not
/// measure them says so.
pub trait Loads {
    /// The load of the endpoint at `index`, by its weight; less is better.
    fn load(&self, index: usize) -> f64;

    /// Whether the endpoint is not to be called at present, while there is another: it is ejected, fails, is far slower than
    /// the rest, is new and busy, or has weight zero.
    fn is_avoided(&self, index: usize) -> bool {
        let _ = index;
        false
    }

    /// What part of its share of the calls the endpoint can take, from 0 to 1: 0 if it has no weight, is down, ejected, or
    /// kept to single calls; less than 1 when it has come back and starts slowly. Steadier than [`is_avoided`](Self::is_avoided): one that is new and
    /// busy for a moment is available, and one whose probe is due is not, until the probe has gone well.
    fn availability(&self, index: usize) -> f64 {
        if self.is_avoided(index) { 0.0 } else { 1.0 }
    }

    /// Whether the endpoint is kept to single calls and the next is due: without one nobody finds out that it does well
    /// again.
    fn wants_probe(&self, index: usize) -> bool {
        let _ = index;
        false
    }

    /// Changes whenever the answers of [`availability`](Self::availability) and [`wants_probe`](Self::wants_probe) may have
    /// changed: who has added them up looks again then, and not at every pick. Always 0 means never.
    fn epoch(&self) -> u64 {
        0
    }

    /// Calls of this client that the endpoint has not answered yet.
    fn in_flight(&self, index: usize) -> u32 {
        let _ = index;
        0
    }

    /// How long the endpoint takes to answer at present, `None` before anybody knows.
    fn latency(&self, index: usize) -> Option<Duration> {
        let _ = index;
        None
    }

    /// What the endpoint last said about itself, if that is fresh.
    fn reported(&self, index: usize) -> Option<Reported> {
        let _ = index;
        None
    }

    /// Of the requests in flight that endpoints report, those at or above this many are hot: the quantile that the
    /// balancer is set to look for.
    fn hot(&self) -> u32 {
        u32::MAX
    }

    /// The `n`th of the endpoints that have reported most recently, `None` when there are no more.
    fn recent(&self, n: usize) -> Option<usize> {
        let _ = n;
        None
    }
}

/// What a server says about itself, riding on its responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadReport {
    /// Requests that it is working on, from all its clients.
    pub in_flight: u32,
    /// How long it takes to answer with about this many, zero if it does not know.
    pub latency: Duration,
}

/// The last [`LoadReport`] of an endpoint, brought up to date.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reported {
    /// Requests in flight as reported, and those that this client has added or seen end since.
    pub in_flight: u32,
    /// Latency as reported.
    pub latency: Duration,
    /// How old the report is.
    pub age: Duration,
}

/// What a picker may look at during a pick: the endpoints that it was built for, and what is known about them.
///
/// A policy that wraps another, and builds its picker for a part of the set, shows it that [part](Self::part).
#[derive(Clone, Copy)]
pub struct View<'a> {
    members: &'a Members,
    loads: &'a dyn Loads,
    /// Where the members are in the set that the loads know, ascending. `None` when they are all of it.
    places: Option<&'a [usize]>,
}

impl<'a> View<'a> {
    /// A view of these endpoints, all that `loads` knows.
    #[inline]
    pub fn new(members: &'a Members, loads: &'a dyn Loads) -> Self {
        Self { members, loads, places: None }
    }

    /// A view of `members` alone, which are these places of the whole set, ascending; see [`place`](Self::place).
    ///
    /// ```
    /// use std::sync::Arc;
    /// use towline_core::{Endpoint, EndpointId, Loads, Member, View};
    ///
    /// /// The load is the index.
    /// struct Rising;
    ///
    /// impl Loads for Rising {
    ///     fn load(&self, index: usize) -> f64 {
    ///         index as f64
    ///     }
    /// }
    ///
    /// let member = |text: &str| text.parse().map(|e: Endpoint| Member { id: EndpointId::fresh(), endpoint: Arc::new(e) });
    /// let all = [member("a:1")?, member("b:1")?, member("c:1")?];
    /// let last_two = View::new(&all, &Rising).part(&all[1..], &[1, 2]);
    /// assert_eq!(last_two.len(), 2);
    /// assert_eq!(last_two.load(0), 1.0);
    /// assert_eq!(last_two.place(1), 2);
    /// # Ok::<(), towline_core::Error>(())
    /// ```
    #[inline]
    #[must_use]
    pub fn part(self, members: &'a Members, places: &'a [usize]) -> Self {
        Self { members, loads: self.loads, places: Some(places) }
    }

    /// Where the endpoint at `index` is in the whole set of the balancer: there too, unless this is a part.
    ///
    /// # Panics
    ///
    /// When this is a part and has no such endpoint; so do those below that take an index.
    #[inline]
    pub fn place(&self, index: usize) -> usize {
        match self.places {
            None => index,
            Some(places) => places[index],
        }
    }

    /// How many endpoints there are; at least one.
    #[inline]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none. Balancers do not ask pickers then.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The endpoints.
    #[inline]
    pub fn members(&self) -> &'a Members {
        self.members
    }

    /// The load of the endpoint at `index`; less is better.
    #[inline]
    pub fn load(&self, index: usize) -> f64 {
        self.loads.load(self.place(index))
    }

    /// See [`Loads::is_avoided`].
    pub fn is_avoided(&self, index: usize) -> bool {
        self.loads.is_avoided(self.place(index))
    }

    /// See [`Loads::availability`].
    pub fn availability(&self, index: usize) -> f64 {
        self.loads.availability(self.place(index))
    }

    /// See [`Loads::wants_probe`].
    pub fn wants_probe(&self, index: usize) -> bool {
        self.loads.wants_probe(self.place(index))
    }

    /// See [`Loads::epoch`].
    pub fn epoch(&self) -> u64 {
        self.loads.epoch()
    }

    /// See [`Loads::in_flight`].
    pub fn in_flight(&self, index: usize) -> u32 {
        self.loads.in_flight(self.place(index))
    }

    /// See [`Loads::latency`].
    pub fn latency(&self, index: usize) -> Option<Duration> {
        self.loads.latency(self.place(index))
    }

    /// See [`Loads::reported`].
    pub fn reported(&self, index: usize) -> Option<Reported> {
        self.loads.reported(self.place(index))
    }

    /// See [`Loads::hot`].
    pub fn hot(&self) -> u32 {
        self.loads.hot()
    }

    /// Those of these endpoints that have reported, the last to do so first. See [`Loads::recent`].
    pub fn recent(&self) -> impl Iterator<Item = usize> + use<'a> {
        let Self { members, loads, places } = *self;
        let here = move |place| match places {
            None => (place < members.len()).then_some(place),
            Some(places) => places.binary_search(&place).ok(),
        };
        (0..).map_while(|n| loads.recent(n)).filter_map(here)
    }
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("members", &self.members).finish_non_exhaustive()
    }
}

/// Builds pickers: once for every change of the set, on the balancer's driver.
pub trait Policy: Send + 'static {
    /// What calls ask.
    type Picker: Send + Sync + 'static;

    /// A picker for `set`. `last` is the picker that it replaces.
    fn build(&mut self, set: &Members, last: Option<&Self::Picker>) -> Self::Picker;

    /// Which others the latency of `endpoint` is compared with, for what is too slow to be called: those of the same number,
    /// up to 15; higher ones count as 15. All with all by default. Policies that prefer what is near say otherwise: where
    /// nobody near is left, those far away must not all count as slow.
    fn peers(&self, endpoint: &Endpoint) -> u8 {
        let _ = endpoint;
        0
    }

    /// No endpoint may have more calls in flight than so many times the mean by weight, the call that is let in included and
    /// rounded up; `None` when that is nobody's concern. A number above 1. Asked once, when the balancer is made.
    ///
    /// The first candidate of a call may be filled up to the bound, others half-way to it, and so may calls of a
    /// [key](Terms::key) that alone has half of what an endpoint may: what overflows leaves room for those at home.
    fn load_bound(&self) -> Option<f64> {
        None
    }

    /// Does what is due by the clock, and says how long until the next time, `None` for never. On the balancer's driver;
    /// asked for the first time when that begins.
    fn upkeep(&mut self) -> Option<Duration> {
        None
    }
}

/// Chooses endpoints for a request. Called by many tasks at once, on the path of every call: no lock, no
/// allocation.
///
/// ```
/// use towline_core::{CallContext, Member, Members, Pick, Policy, Rng, View};
///
/// /// Always the first that is eligible.
/// #[derive(Clone, Debug)]
/// struct First;
///
/// impl Policy for First {
///     type Picker = First;
///     fn build(&mut self, _set: &Members, _last: Option<&First>) -> First {
///         First
///     }
/// }
///
/// impl<Req> Pick<Req> for First {
///     type Order<'a> = std::ops::Range<usize> where Req: 'a;
///     fn order<'a>(
///         &'a self,
///         _request: &'a Req,
///         _context: Option<&'a CallContext>,
///         view: View<'a>,
///         _rng: &mut Rng,
///     ) -> Self::Order<'a> {
///         0..view.len()
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not pick endpoints for a request `{Req}`",
    note = "implement `Pick<{Req}>` for the picker that the policy builds"
)]
pub trait Pick<Req> {
    /// Candidates, best first. May repeat an index; those outside of the set are passed over. When it ends, so does
    /// the choice: the call fails with [`Kind::NoEndpoints`](crate::Kind::NoEndpoints) if it yielded none.
    type Order<'a>: Iterator<Item = usize>
    where
        Self: 'a,
        Req: 'a;

    /// The candidates for `request`.
    fn order<'a>(
        &'a self,
        request: &'a Req,
        context: Option<&'a CallContext>,
        view: View<'a>,
        rng: &mut Rng,
    ) -> Self::Order<'a>;

    /// On which terms the call takes its candidates; [`Terms::BALANCED`] by default.
    fn terms(&self, request: &Req, context: Option<&CallContext>) -> Terms {
        let _ = (request, context);
        Terms::BALANCED
    }

    /// The call takes the candidate at `index`, after passing over `skipped` that were not eligible.
    fn taken(&self, request: &Req, context: Option<&CallContext>, view: View<'_>, index: usize, skipped: usize) {
        let _ = (request, context, view, index, skipped);
    }

    /// The call fails, because its terms are [strict](Terms::is_strict) and its first candidate cannot take it.
    fn refused(&self, request: &Req, context: Option<&CallContext>, why: HomeLoss) {
        let _ = (request, context, why);
    }
}

/// On which terms a call takes the candidates of a picker.
///
/// ```
/// use towline_core::Terms;
///
/// assert!(Terms::BALANCED.may_race);
/// assert!(!Terms::kept(7).heeds_probation);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Terms {
    /// A call whose first choice has no room may go to whichever of its two best candidates has room first. Otherwise it
    /// waits for its first choice alone.
    pub may_race: bool,
    /// It goes past endpoints that fail or are far slower than the rest.
    pub heeds_probation: bool,
    /// It mostly goes past endpoints that have just joined, or come back.
    pub heeds_slow_start: bool,
    /// It fails with [`Kind::HomeUnavailable`](crate::Kind::HomeUnavailable) rather than go past its first candidate, be that one
    /// that is outside of the set.
    pub is_strict: bool,
    /// Calls with this number are kept together: they share an allowance of the [load bound](Policy::load_bound).
    pub key: Option<u64>,
}

impl Terms {
    /// Any endpoint will do, and the best one is wanted.
    pub const BALANCED: Self =
        Self { may_race: true, heeds_probation: true, heeds_slow_start: true, is_strict: false, key: None };

    /// Every endpoint is promised its share, however it does at present.
    pub const SHARED: Self = Self { heeds_probation: false, ..Self::BALANCED };

    /// Calls of this number are promised an endpoint, as long as that can take them.
    pub const fn kept(key: u64) -> Self {
        Self { may_race: false, heeds_probation: false, heeds_slow_start: false, is_strict: false, key: Some(key) }
    }

    /// Rather nobody than anybody else.
    #[must_use]
    pub const fn strict(self) -> Self {
        Self { is_strict: true, ..self }
    }
}

/// Why a session's home does not get its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HomeLoss {
    /// It is not in the set any more.
    Gone,
    /// It cannot be reached, or is ejected.
    Unready,
    /// It has as many calls as it may have.
    Overloaded,
    /// An earlier attempt of the call has failed there.
    Tried,
}

impl fmt::Display for HomeLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "gone",
            Self::Unready => "unready",
            Self::Overloaded => "overloaded",
            Self::Tried => "tried",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything about an endpoint is its index.
    struct Telling;

    impl Loads for Telling {
        fn load(&self, index: usize) -> f64 {
            index as f64
        }

        fn is_avoided(&self, index: usize) -> bool {
            index == 3
        }

        fn wants_probe(&self, index: usize) -> bool {
            index == 5
        }

        fn in_flight(&self, index: usize) -> u32 {
            index as u32
        }

        fn latency(&self, index: usize) -> Option<Duration> {
            Some(Duration::from_secs(index as u64))
        }

        fn reported(&self, index: usize) -> Option<Reported> {
            Some(Reported { in_flight: index as u32, latency: Duration::ZERO, age: Duration::ZERO })
        }

        fn recent(&self, n: usize) -> Option<usize> {
            [5, 0, 9, 3].get(n).copied()
        }
    }

    fn members(n: usize) -> Vec<Member> {
        let endpoint: Arc<Endpoint> = Arc::new("a:1".parse().unwrap());
        (0..n).map(|_| Member { id: EndpointId::fresh(), endpoint: endpoint.clone() }).collect()
    }

    #[test]
    fn a_part_is_told_about_its_own_members_only() {
        let (all, places) = (members(6), [1, 3, 5]);
        let part = View::new(&all, &Telling).part(&all[..3], &places);
        assert_eq!(part.len(), 3);
        for (index, place) in places.into_iter().enumerate() {
            assert_eq!(part.place(index), place);
            assert_eq!(part.load(index), place as f64);
            assert_eq!(part.in_flight(index), place as u32);
            assert_eq!(part.latency(index), Some(Duration::from_secs(place as u64)));
            assert_eq!(part.reported(index).unwrap().in_flight, place as u32);
            assert_eq!((part.is_avoided(index), part.availability(index) == 0.0), (place == 3, place == 3));
            assert_eq!(part.wants_probe(index), place == 5);
        }
        assert_eq!(part.recent().collect::<Vec<_>>(), [2, 1]);
        assert_eq!((part.hot(), part.epoch()), (u32::MAX, 0));
    }

    #[test]
    fn what_a_whole_view_is_told_is_what_the_balancer_knows() {
        let all = members(6);
        let view = View::new(&all, &Telling);
        assert_eq!((view.place(4), view.load(4), view.is_empty()), (4, 4.0, false));
        assert_eq!(view.recent().collect::<Vec<_>>(), [5, 0, 3], "9 is no member");
    }
}

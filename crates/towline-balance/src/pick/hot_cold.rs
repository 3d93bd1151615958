//! Hot and cold by what servers say about themselves.

use towline_core::{CallContext, Members, Pick, Policy, Rng, View};

use super::p2c::{P2cOrder, P2cPicker};

/// By the reports that ride on responses: of the endpoints that have reported lately, those with more requests in flight
/// than five in six of them are *hot*. Of the cold ones the one that should answer first, which is the one of the least
/// latency times requests in flight by weight, this one included; when all are hot, the one with the fewest requests.
///
/// This is the rule of Prequal (Wydrowski et al., "Load is not what you should balance", NSDI 2024) with two differences.
/// There are no probe requests: a report costs nothing because the server sends it along, in the [frame header] of
/// towline's own protocol or in an HTTP header, and what this client has sent to an endpoint since its report is added to
/// it. And the cold are not ranked by latency alone, which sends everybody to the one that was fastest a moment ago.
///
/// Sixteen candidates: those that have answered last, and two at random. One call in ten goes by [`P2c`](crate::P2c), so
/// that no endpoint is forgotten, and so does every call while fewer than two have a report younger than five seconds.
///
/// [frame header]: https://docs.rs/towline-transport
///
/// ```
/// use towline_balance::{BalanceBuilder, HotCold};
///
/// let balance = BalanceBuilder::new(HotCold::new());
/// # let _ = balance;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct HotCold;

impl HotCold {
    /// The policy. It has no settings.
    pub const fn new() -> Self {
        Self
    }
}

impl Policy for HotCold {
    type Picker = HotColdPicker;

    fn build(&mut self, set: &Members, _last: Option<&HotColdPicker>) -> HotColdPicker {
        let are_weightless = super::weights(set).all(|weight| weight == 0.0);
        HotColdPicker { fallback: P2cPicker::new(set), are_weightless }
    }
}

/// What [`HotCold`] builds for a set.
#[derive(Clone, Debug)]
pub struct HotColdPicker {
    fallback: P2cPicker,
    /// All are of weight zero: then they are equal.
    are_weightless: bool,
}

/// Recent reporters that are looked at.
const RECENT: usize = 14;
/// Others, at random.
const RANDOM: usize = 2;
/// Of all calls, those that go by two choices to learn about the others. Without any, clients stay with ever fewer
/// endpoints; more cost more than they learn (the simulator's scenario S4).
const EXPLORING: f64 = 0.1;

/// One candidate: less is better, cold before hot.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
struct Rank(bool, f64, f64);

impl HotColdPicker {
    fn best(&self, view: View<'_>, rng: &mut Rng) -> Option<usize> {
        if rng.unit() < EXPLORING {
            return None;
        }
        let hot = view.hot();
        let recent = view.recent().take(RECENT);
        let random = (0..RANDOM).map(|_| rng.below(view.len()));
        // One that has reported, until another has.
        let mut first = None;
        let mut are_two = false;
        let mut best: Option<(Rank, usize)> = None;
        for index in recent.chain(random) {
            if view.is_avoided(index) {
                continue;
            }
            let Some(report) = view.reported(index) else { continue };
            are_two |= first.is_some_and(|first| first != index);
            first = first.or(Some(index));
            let latency = if report.latency.is_zero() { view.latency(index) } else { Some(report.latency) };
            let latency = latency.map_or(0.0, |latency| latency.as_secs_f64());
            let weight = if self.are_weightless { 1.0 } else { view.members()[index].endpoint.weight().get() };
            let in_flight = f64::from(report.in_flight) / weight;
            let rank = if report.in_flight >= hot {
                Rank(true, in_flight, latency)
            } else {
                Rank(false, latency * (1.0 + in_flight), in_flight)
            };
            if best.is_none_or(|(least, _)| rank < least) {
                best = Some((rank, index));
            }
        }
        best.filter(|_| are_two).map(|(_, index)| index)
    }
}

impl<Req> Pick<Req> for HotColdPicker {
    type Order<'a>
        = HotColdOrder<'a>
    where
        Req: 'a;

    fn order<'a>(
        &'a self,
        _request: &'a Req,
        _context: Option<&'a CallContext>,
        view: View<'a>,
        rng: &mut Rng,
    ) -> HotColdOrder<'a> {
        HotColdOrder { first: self.best(view, rng), rest: self.fallback.draw(view, rng) }
    }
}

/// The candidates of [`HotCold`]: the best by the reports, then those of [`P2c`](crate::P2c).
#[derive(Clone, Debug)]
pub struct HotColdOrder<'a> {
    first: Option<usize>,
    rest: P2cOrder<'a>,
}

impl Iterator for HotColdOrder<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.first.take().or_else(|| self.rest.next())
    }
}

//! At random, by weight.

use towline_core::{CallContext, Members, Pick, Policy, Rng, Terms, View};

use super::turn::Turn;
use crate::weights::Weights;

/// Each call at random, in proportion to the weights and whatever the load and also on
/// probation: for services that must see a fixed share of the traffic, like a canary. Then all in turn from a random start.
///
/// ```
/// use towline_balance::{BalanceBuilder, WeightedRandom};
///
/// let balance = BalanceBuilder::new(WeightedRandom::new());
/// # let _ = balance;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct WeightedRandom;

impl WeightedRandom {
    /// The policy. It has no settings.
    pub const fn new() -> Self {
        Self
    }
}

impl Policy for WeightedRandom {
    type Picker = WeightedRandomPicker;

    fn build(&mut self, set: &Members, _last: Option<&WeightedRandomPicker>) -> WeightedRandomPicker {
        WeightedRandomPicker(Weights::new(super::weights(set)))
    }
}

/// What [`WeightedRandom`] builds for a set.
#[derive(Clone, Debug)]
pub struct WeightedRandomPicker(Weights);

impl<Req> Pick<Req> for WeightedRandomPicker {
    type Order<'a>
        = WeightedOrder
    where
        Req: 'a;

    fn terms(&self, _request: &Req, _context: Option<&CallContext>) -> Terms {
        Terms::SHARED
    }

    fn order<'a>(
        &'a self,
        _request: &'a Req,
        _context: Option<&'a CallContext>,
        view: View<'a>,
        rng: &mut Rng,
    ) -> WeightedOrder {
        WeightedOrder::new(self.0.at(rng.unit()), view.len(), rng.next_u64())
    }
}

/// The candidates of [`WeightedRandom`] and [`RoundRobin`](crate::RoundRobin): the one that was drawn, then all in turn.
#[derive(Clone, Debug)]
pub struct WeightedOrder {
    first: Option<usize>,
    rest: Turn,
}

impl WeightedOrder {
    pub(super) fn new(first: usize, len: usize, random: u64) -> Self {
        Self { first: Some(first), rest: Turn::new(len, random) }
    }
}

impl Iterator for WeightedOrder {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.first.take().or_else(|| self.rest.next())
    }
}

//! The least loaded of all.

use towline_core::{CallContext, Members, Pick, Policy, Rng, View};

use super::turn::Turn;
use crate::weights::Weights;

/// The endpoint with the least load of all; of those with equal load, one at random, by weight. After the eight least
/// loaded, all in turn.
///
/// Looks at every endpoint, so that a pick takes as long as the set is large: for small sets of few, expensive calls,
/// where two choices leave a difference. Many clients that do so send each other's bursts to the same endpoint; [`P2c`](
/// crate::P2c) does not.
///
/// ```
/// use towline_balance::{BalanceBuilder, LeastRequest};
///
/// let balance = BalanceBuilder::new(LeastRequest::new());
/// # let _ = balance;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct LeastRequest;

impl LeastRequest {
    /// The policy. It has no settings.
    pub const fn new() -> Self {
        Self
    }
}

impl Policy for LeastRequest {
    type Picker = LeastRequestPicker;

    fn build(&mut self, set: &Members, _last: Option<&LeastRequestPicker>) -> LeastRequestPicker {
        LeastRequestPicker(Weights::new(super::weights(set)))
    }
}

/// What [`LeastRequest`] builds for a set.
#[derive(Clone, Debug)]
pub struct LeastRequestPicker(Weights);

impl<Req> Pick<Req> for LeastRequestPicker {
    type Order<'a>
        = LeastRequestOrder<'a>
    where
        Req: 'a;

    fn order<'a>(
        &'a self,
        _request: &'a Req,
        _context: Option<&'a CallContext>,
        view: View<'a>,
        rng: &mut Rng,
    ) -> LeastRequestOrder<'a> {
        let turn = Turn::new(view.len(), rng.next_u64());
        LeastRequestOrder { view, drawn: self.0.at(rng.unit()), rest: turn.clone(), turn, last: None, sorted: 0 }
    }
}

/// The candidates of [`LeastRequest`].
#[derive(Clone, Debug)]
pub struct LeastRequestOrder<'a> {
    view: View<'a>,
    /// Goes before others of its load.
    drawn: usize,
    /// Begins at random, so that equal loads are shared.
    turn: Turn,
    /// Load and place in the turn of the last candidate.
    last: Option<(f64, usize)>,
    sorted: usize,
    rest: Turn,
}

/// Candidates in order of their loads: looking for each anew is cheaper than sorting, as long as they are few.
const SORTED: usize = 8;

impl Iterator for LeastRequestOrder<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.sorted == SORTED {
            return self.rest.next();
        }
        self.sorted += 1;
        let drawn = std::iter::once((self.view.load(self.drawn), 0, self.drawn));
        let others = self.turn.clone().filter(|index| *index != self.drawn).zip(1..);
        let all = drawn.chain(others.map(|(index, place)| (self.view.load(index), place, index)));
        let after = |(load, place, _): &(f64, usize, usize)| match self.last {
            None => true,
            Some((l, p)) => load.total_cmp(&l).then(place.cmp(&p)).is_gt(),
        };
        let (load, place, index) = all.filter(after).min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))?;
        self.last = Some((load, place));
        Some(index)
    }
}

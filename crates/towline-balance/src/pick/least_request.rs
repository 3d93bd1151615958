//! The least loaded of all.

use towline_core::{CallContext, Members, Pick, Policy, Rng, View};

use super::turn::Turn;

/// The endpoint with the least load of all; of those with equal load, one at random. Then all in turn.
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
    type Picker = Self;

    fn build(&mut self, _set: &Members, _last: Option<&Self>) -> Self {
        Self
    }
}

impl<Req> Pick<Req> for LeastRequest {
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
        LeastRequestOrder { view, turn, last: None }
    }
}

/// The candidates of [`LeastRequest`]: all, by load.
#[derive(Clone, Debug)]
pub struct LeastRequestOrder<'a> {
    view: View<'a>,
    /// Begins at random, so that equal loads are shared.
    turn: Turn,
    /// Load and place in the turn of the last candidate.
    last: Option<(f64, usize)>,
}

impl Iterator for LeastRequestOrder<'_> {
    type Item = usize;

    // The second is rarely wanted: looking again is cheaper than sorting every time.
    fn next(&mut self) -> Option<usize> {
        let all = self.turn.clone().enumerate().map(|(place, index)| (self.view.load(index), place, index));
        let after = |(load, place, _): &(f64, usize, usize)| match self.last {
            None => true,
            Some((l, p)) => load.total_cmp(&l).then(place.cmp(&p)).is_gt(),
        };
        let (load, place, index) = all.filter(after).min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))?;
        self.last = Some((load, place));
        Some(index)
    }
}

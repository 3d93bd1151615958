//! In turn, by weight.

use std::sync::atomic::{AtomicU64, Ordering};

use towline_core::{CallContext, Members, Pick, Policy, Rng, Terms, View};

use super::weighted_random::WeightedOrder;
use crate::weights::Weights;

/// In turn, in proportion to the weights, whatever the load and also on probation: smooth weighted round robin. Of two endpoints of weight 3
/// and 1 the heavier gets three of every four calls, and never all three in a row for long.
///
/// Equal weights are a plain rotation. Others follow the multiples of the golden ratio, the sequence that spreads over
/// every share most evenly (Weyl, 1916; the distances between two turns of an endpoint take three values at most, by the
/// three-gap theorem). Both cost one atomic addition per call, whatever the number of endpoints. Clones share the turn;
/// clients begin at a random one, so that many that start together do not march in step.
///
/// ```
/// use towline_balance::{BalanceBuilder, RoundRobin};
///
/// let balance = BalanceBuilder::new(RoundRobin::new());
/// # let _ = balance;
/// ```
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    rng: Rng,
}

impl RoundRobin {
    /// The policy.
    pub fn new() -> Self {
        Self::default()
    }

    /// Draws its beginning from this, for runs that repeat.
    #[must_use]
    pub fn rng(mut self, rng: Rng) -> Self {
        self.rng = rng;
        self
    }
}

impl Policy for RoundRobin {
    type Picker = RoundRobinPicker;

    fn build(&mut self, set: &Members, last: Option<&RoundRobinPicker>) -> RoundRobinPicker {
        let begin = || self.rng.next_u64();
        let turn = last.map_or_else(begin, |last| last.turn.load(Ordering::Relaxed));
        RoundRobinPicker { weights: Weights::new(super::weights(set)), turn: AtomicU64::new(turn) }
    }
}

/// What [`RoundRobin`] builds for a set.
#[derive(Debug)]
pub struct RoundRobinPicker {
    weights: Weights,
    turn: AtomicU64,
}

/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl RoundRobinPicker {
    fn next(&self) -> usize {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        if self.weights.are_equal() {
            return (turn % self.weights.len().max(1) as u64) as usize;
        }
        // The upper 53 bits, as a float.
        self.weights.at((turn.wrapping_mul(GOLDEN) >> 11) as f64 / (1u64 << 53) as f64)
    }
}

impl<Req> Pick<Req> for RoundRobinPicker {
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
        WeightedOrder::new(self.next(), view.len(), rng.next_u64())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use towline_core::{Endpoint, EndpointId, Member, Weight};

    use super::*;

    fn picks(weights: &[f64], n: usize) -> Vec<usize> {
        let member = |weight: &f64| {
            let endpoint: Endpoint = "10.0.0.1:1".parse().unwrap();
            Member { id: EndpointId::fresh(), endpoint: Arc::new(endpoint.with_weight(Weight::new(*weight).unwrap())) }
        };
        let set: Vec<_> = weights.iter().map(member).collect();
        let picker = RoundRobin::new().rng(Rng::with_seed(7)).build(&set, None);
        (0..n).map(|_| picker.next()).collect()
    }

    #[test]
    fn equal_weights_rotate() {
        let picks = picks(&[1.0; 5], 50);
        assert!(picks.windows(2).all(|pair| pair[1] == (pair[0] + 1) % 5), "{picks:?}");
    }

    #[test]
    fn every_stretch_of_calls_is_shared_by_weight_to_within_two() {
        let weights = [5.0, 1.0, 1.0, 0.0, 3.0];
        let picks = picks(&weights, 5_000);
        for length in [3, 10, 33, 100, 1_000] {
            for stretch in picks.windows(length) {
                for (index, weight) in weights.iter().enumerate() {
                    let share = weight / 10.0 * length as f64;
                    let count = stretch.iter().filter(|pick| **pick == index).count() as f64;
                    assert!((count - share).abs() <= 2.0, "{index} got {count} of {length}, not {share}");
                }
            }
        }
    }

    #[test]
    fn a_change_of_the_set_goes_on_where_the_turn_was() {
        let set = [Member { id: EndpointId::fresh(), endpoint: Arc::new("10.0.0.1:1".parse().unwrap()) }];
        let mut policy = RoundRobin::new();
        let first = policy.build(&set, None);
        first.next();
        let second = policy.build(&set, Some(&first));
        assert_eq!(second.turn.load(Ordering::Relaxed), first.turn.load(Ordering::Relaxed));
    }
}

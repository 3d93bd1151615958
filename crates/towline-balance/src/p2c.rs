//! The power of two choices.

use towline_core::{CallContext, Members, Pick, Policy, Rng, View};

/// Of two endpoints at random, the one with less load; then the other; then all in turn from a random start.
///
/// Two choices keep the most loaded endpoint within `ln ln n` of the mean where one choice leaves `ln n / ln ln n`
/// (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001), at the price of two random numbers.
/// The rest of the order serves calls that must avoid what they have tried. Load is the number of calls in flight;
/// weights are not considered.
///
/// ```
/// use towline_balance::P2c;
///
/// let policy = P2c::new();
/// # let _ = policy;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct P2c;

impl P2c {
    /// The policy. It has no settings.
    pub const fn new() -> Self {
        Self
    }
}

impl Policy for P2c {
    type Picker = P2c;

    fn build(&mut self, _set: &Members, _last: Option<&P2c>) -> P2c {
        P2c
    }
}

impl<Req> Pick<Req> for P2c {
    type Order<'a>
        = P2cOrder
    where
        Req: 'a;

    fn order<'a>(
        &'a self,
        _request: &'a Req,
        _context: Option<&'a CallContext>,
        view: View<'a>,
        rng: &mut Rng,
    ) -> P2cOrder {
        P2cOrder::new(view, rng)
    }
}

/// The candidates of [`P2c`].
#[derive(Clone, Debug)]
pub struct P2cOrder {
    pair: [usize; 2],
    start: usize,
    len: usize,
    next: usize,
}

impl P2cOrder {
    /// Draws the candidates for one call.
    pub fn new(view: View<'_>, rng: &mut Rng) -> Self {
        let len = view.len();
        let first = rng.below(len);
        // Of the others, so that both differ whenever there are two.
        let second = rng.below(len.saturating_sub(1));
        let second = if second >= first && len > 1 { second + 1 } else { second };
        let pair = if view.load(second) < view.load(first) { [second, first] } else { [first, second] };
        Self { pair, start: rng.below(len), len, next: 0 }
    }
}

impl Iterator for P2cOrder {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let n = self.next;
        self.next += 1;
        match n.checked_sub(2) {
            None => Some(self.pair[n]),
            Some(turn) => (turn < self.len).then(|| (self.start + turn) % self.len),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use towline_core::{EndpointId, Loads, Member};

    use super::*;

    struct Fixed(Vec<f64>);

    impl Loads for Fixed {
        fn load(&self, index: usize) -> f64 {
            self.0[index]
        }
    }

    fn members(n: usize) -> Vec<Member> {
        let member = |i: usize| Member {
            id: EndpointId::fresh(),
            endpoint: Arc::new(format!("10.0.0.1:{}", i + 1).parse().unwrap()),
        };
        (0..n).map(member).collect()
    }

    /// How often each endpoint is the first choice.
    fn shares(loads: &[f64], picks: usize) -> Vec<f64> {
        let (set, loads) = (members(loads.len()), Fixed(loads.to_vec()));
        let mut rng = Rng::with_seed(42);
        let mut counts = vec![0; set.len()];
        for _ in 0..picks {
            counts[P2cOrder::new(View::new(&set, &loads), &mut rng).next().unwrap()] += 1;
        }
        counts.into_iter().map(|count| f64::from(count) / picks as f64).collect()
    }

    #[test]
    fn equal_loads_get_equal_shares() {
        for share in shares(&[1.0; 5], 100_000) {
            assert!((share - 0.2).abs() < 0.01, "{share}");
        }
    }

    #[test]
    fn the_most_loaded_is_never_first_and_the_least_loaded_wins_every_pair_it_is_in() {
        let shares = shares(&[3.0, 0.0, 1.0, 2.0], 100_000);
        assert_eq!(shares[0], 0.0);
        // In a pair with probability 2/n.
        assert!((shares[1] - 0.5).abs() < 0.01, "{shares:?}");
    }

    #[test]
    fn every_endpoint_is_a_candidate_sooner_or_later() {
        for n in 1..6 {
            let (set, loads) = (members(n), Fixed(vec![0.0; n]));
            let mut order: Vec<_> = P2cOrder::new(View::new(&set, &loads), &mut Rng::new()).collect();
            assert!(n == 1 || order[0] != order[1]);
            order.sort_unstable();
            order.dedup();
            assert_eq!(order, (0..n).collect::<Vec<_>>());
        }
    }
}

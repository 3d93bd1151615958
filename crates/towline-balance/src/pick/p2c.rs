//! The power of two choices.

use std::sync::Arc;

use towline_core::{CallContext, Members, Pick, Policy, Rng, View};

use crate::weights::Weights;

/// Of two endpoints at random, the one with less load; then the better of the other and a third, and the worse; then three more pairs;
/// then all in turn from a random start. The default.
///
/// Two choices keep the most loaded endpoint within `ln ln n` of the mean where one choice leaves `ln n / ln ln n`
/// (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001), at the price of two random numbers.
/// The rest of the order serves calls that must avoid what they have tried, or what is ejected or down. The third keeps it two choices
/// where one of the pair is out: without it, of three endpoints one of which is down, a slow one would get a third of the calls. With a
/// third of the set out one call in ten has drawn two of these, and more pairs keep the others as even as the first pair would
/// (Finagle's "max effort").
///
/// Both are drawn by weight, and the load counts calls in flight by weight; an endpoint of weight 0 gets calls only when
/// no other can take them.
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
    type Picker = P2cPicker;

    fn build(&mut self, set: &Members, _last: Option<&P2cPicker>) -> P2cPicker {
        P2cPicker::new(set)
    }
}

/// What [`P2c`] builds for a set.
#[derive(Clone, Debug)]
pub struct P2cPicker {
    weights: Arc<Weights>,
}

impl P2cPicker {
    /// A picker for `set`, for policies that fall back on it.
    pub fn new(set: &Members) -> Self {
        Self { weights: Arc::new(Weights::new(super::weights(set))) }
    }

    /// Draws the candidates for one call.
    // Always inline, as `order`: moved out of a call, the order costs more than the draw.
    #[inline(always)]
    pub fn draw<'a>(&'a self, view: View<'a>, rng: &mut Rng) -> P2cOrder<'a> {
        let (first, second) = self.pair(rng);
        // The generator is the caller's, and the order outlives the loan.
        let seed = rng.next_u64();
        P2cOrder { picker: self, view, pair: better_first(view, first, second), next: 0, seed }
    }

    /// Any but these two.
    fn third(&self, [first, second]: [usize; 2], rng: &mut Rng) -> Option<usize> {
        let others = self.weights.len().checked_sub(2).filter(|others| *others > 0)?;
        if self.weights.are_equal() {
            let (low, high) = (first.min(second), first.max(second));
            let drawn = rng.below(others);
            let drawn = drawn + usize::from(drawn >= low);
            return Some(drawn + usize::from(drawn >= high));
        }
        let mut drawn = (0..4).map(|_| self.weights.at(rng.unit()));
        drawn.find(|drawn| ![first, second].contains(drawn))
    }

    /// Two, and not the same whenever there are two.
    #[inline]
    fn pair(&self, rng: &mut Rng) -> (usize, usize) {
        let len = self.weights.len();
        if self.weights.are_equal() {
            // Both from one number, 32 bits each: no two of a million endpoints differ by more than a thousandth.
            let random = rng.next_u64();
            let below = |part: u64, bound: usize| ((part * bound as u64) >> 32) as usize;
            let (first, second) = (below(random >> 32, len), below(random & 0xffff_ffff, len.saturating_sub(1)));
            return (first, if second >= first && len > 1 { second + 1 } else { second });
        }
        let first = self.weights.at(rng.unit());
        // One that outweighs all others is drawn twice more often than not; a few tries, then any other.
        for _ in 0..4 {
            let second = self.weights.at(rng.unit());
            if second != first {
                return (first, second);
            }
        }
        (first, (first + 1 + rng.below(len.saturating_sub(1))) % len.max(1))
    }
}

impl<Req> Pick<Req> for P2cPicker {
    type Order<'a>
        = P2cOrder<'a>
    where
        Req: 'a;

    #[inline(always)]
    fn order<'a>(
        &'a self,
        _request: &'a Req,
        _context: Option<&'a CallContext>,
        view: View<'a>,
        rng: &mut Rng,
    ) -> P2cOrder<'a> {
        self.draw(view, rng)
    }
}

// Equal loads leave the first, which is drawn by weight.
#[inline]
fn better_first(view: View<'_>, first: usize, second: usize) -> [usize; 2] {
    if view.load(second) < view.load(first) { [second, first] } else { [first, second] }
}

/// The candidates of [`P2c`].
#[derive(Clone, Debug)]
pub struct P2cOrder<'a> {
    picker: &'a P2cPicker,
    view: View<'a>,
    /// The last that was drawn.
    pair: [usize; 2],
    /// How many candidates there were.
    next: usize,
    /// What comes after the first is drawn from this: few calls need it.
    seed: u64,
}

/// Candidates in pairs, after the first: with half of the set out, one of all is fit for all but 2 calls in 1,000.
const IN_PAIRS: usize = 8;

impl P2cOrder<'_> {
    #[cold]
    fn more(&mut self) -> Option<usize> {
        let (len, next) = (self.view.len(), self.next);
        if next <= IN_PAIRS {
            if next % 2 == 1 {
                let mut rng = Rng::with_seed(self.seed.wrapping_add(next as u64));
                let (first, second) = match next {
                    1 => (self.pair[1], self.picker.third(self.pair, &mut rng).unwrap_or(self.pair[1])),
                    _ => self.picker.pair(&mut rng),
                };
                self.pair = better_first(self.view, first, second);
            }
            self.next += 1;
            return Some(self.pair[usize::from(next % 2 == 0)]);
        }
        let turned = next - IN_PAIRS - 1;
        if turned == len {
            return None;
        }
        self.next += 1;
        let index = Rng::with_seed(self.seed).below(len) + turned;
        Some(if index >= len { index - len } else { index })
    }
}

impl Iterator for P2cOrder<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        match self.next {
            0 => {
                self.next = 1;
                Some(self.pair[0])
            }
            _ => self.more(),
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
            counts[P2cPicker::new(&set).draw(View::new(&set, &loads), &mut rng).next().unwrap()] += 1;
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
    fn with_one_of_three_out_the_better_of_the_others_is_next() {
        for weights in [[1.0; 3], [1.0, 2.0, 1.5]] {
            let mut set = members(3);
            for (member, weight) in set.iter_mut().zip(weights) {
                let endpoint = (*member.endpoint).clone().with_weight(towline_core::Weight::new(weight).unwrap());
                member.endpoint = Arc::new(endpoint);
            }
            // The first is out and looks idle, the second is slow.
            let (loads, picker) = (Fixed(vec![0.0, 9.0, 1.0]), P2cPicker::new(&set));
            let mut rng = Rng::with_seed(42);
            let mut slow = 0;
            for _ in 0..1_000 {
                let mut order = picker.draw(View::new(&set, &loads), &mut rng);
                slow += usize::from(order.find(|index| *index != 0) == Some(1));
            }
            // By weight it may take more tries than there are to draw another one.
            assert!(slow <= if weights[0] == weights[1] { 0 } else { 100 }, "{weights:?}: {slow}");
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
            let mut order: Vec<_> = P2cPicker::new(&set).draw(View::new(&set, &loads), &mut Rng::new()).collect();
            assert!(n == 1 || order[0] != order[1]);
            order.sort_unstable();
            order.dedup();
            assert_eq!(order, (0..n).collect::<Vec<_>>());
        }
    }
}

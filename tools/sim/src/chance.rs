//! One seed, split by role, and the distributions that are drawn from.
//!
//! Each role has a generator of its own, so that a strategy which draws more often changes nobody else's luck: under one
//! seed all strategies meet the same arrivals with the same demands.

pub(crate) use fastrand::Rng;

/// Who draws.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    /// When the calls of a client arrive.
    Arrivals(u32),
    /// How much work each of its calls is.
    Demand(u32),
    /// What its strategy draws.
    Client(u32),
    Network,
    /// How long pools wait between dials.
    Dials,
    /// Who fails, and what the neighbours of a server do.
    Servers,
}

/// The generator of a role.
pub(crate) fn split(seed: u64, role: Role) -> Rng {
    let (kind, index) = match role {
        Role::Arrivals(client) => (1, client),
        Role::Demand(client) => (2, client),
        Role::Client(client) => (3, client),
        Role::Network => (4, 0),
        Role::Servers => (5, 0),
        Role::Dials => (6, 0),
    };
    Rng::with_seed(mix(mix(seed) ^ (kind << 32 | u64::from(index))))
}

/// SplitMix64's finalizer: neighbouring seeds become strangers.
pub(crate) fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// How long a call takes on a healthy server that does nothing else, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dist {
    /// Normal, cut off below zero by drawing again; `mean` and `sd` are from before the cut.
    Normal { mean: f64, sd: f64 },
    /// Log-normal, named by its mean and by the deviation of its logarithm.
    LogNormal { mean: f64, sigma: f64 },
}

impl Dist {
    pub(crate) fn sample(&self, rng: &mut Rng) -> f64 {
        match *self {
            Self::Normal { mean, sd } => loop {
                let value = mean + sd * normal(rng);
                if value > 0.0 {
                    return value;
                }
            },
            Self::LogNormal { mean, sigma } => mean * (sigma * normal(rng) - sigma * sigma / 2.0).exp(),
        }
    }
}

pub(crate) fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    -mean * (1.0 - rng.f64()).ln()
}

/// Box and Muller's; the second value is thrown away, so that every draw takes two numbers.
fn normal(rng: &mut Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.f64()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 200_000;

    /// Mean and deviation.
    fn moments(draw: impl FnMut() -> f64) -> (f64, f64) {
        let values: Vec<_> = std::iter::repeat_with(draw).take(DRAWS).collect();
        let mean = values.iter().sum::<f64>() / DRAWS as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / DRAWS as f64;
        (mean, variance.sqrt())
    }

    fn near(value: f64, expected: f64) -> bool {
        (value / expected - 1.0).abs() < 0.01
    }

    #[test]
    fn distributions_have_the_moments_that_they_are_named_by() {
        let mut rng = split(1, Role::Network);
        let (mean, sd) = moments(|| Dist::Normal { mean: 167.0, sd: 5.0 }.sample(&mut rng));
        assert!(near(mean, 167.0) && near(sd, 5.0), "{mean} {sd}");
        let sigma = 0.5f64;
        let (mean, sd) = moments(|| Dist::LogNormal { mean: 50.0, sigma }.sample(&mut rng));
        assert!(near(mean, 50.0) && near(sd, 50.0 * ((sigma * sigma).exp() - 1.0).sqrt()), "{mean} {sd}");
        let (mean, sd) = moments(|| exponential(&mut rng, 3.0));
        assert!(near(mean, 3.0) && near(sd, 3.0), "{mean} {sd}");
    }

    #[test]
    fn what_is_cut_off_raises_the_mean_of_a_normal() {
        let mut rng = split(1, Role::Network);
        let (mean, _) = moments(|| Dist::Normal { mean: 10.0, sd: 10.0 }.sample(&mut rng));
        // 1 + φ(1) / Φ(1) times what it was.
        assert!(near(mean, 12.876), "{mean}");
    }

    #[test]
    fn roles_and_seeds_draw_different_numbers_and_the_same_ones_again() {
        let first = |seed, role| split(seed, role).u64(..);
        assert_eq!(first(1, Role::Client(3)), first(1, Role::Client(3)));
        assert_ne!(first(1, Role::Client(3)), first(2, Role::Client(3)));
        assert_ne!(first(1, Role::Client(3)), first(1, Role::Client(4)));
        assert_ne!(first(1, Role::Client(3)), first(1, Role::Demand(3)));
    }
}

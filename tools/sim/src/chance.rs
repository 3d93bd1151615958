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
    /// When a server pauses.
    Pauses(u32),
    /// What the calls of a client are about.
    Keys(u32),
    /// How long its connections live.
    Lives(u32),
    /// What a client draws for attempts after the first.
    Repeats(u32),
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
        Role::Pauses(server) => (7, server),
        Role::Keys(client) => (8, client),
        Role::Repeats(client) => (9, client),
        Role::Lives(client) => (10, client),
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

/// Zipf's law over the keys 0, 1 and so on: the k-th is drawn by k to the power of `exponent` less often than the first.
pub(crate) struct Zipf(Vec<f64>);

impl Zipf {
    pub(crate) fn new(count: u32, exponent: f64) -> Self {
        let sums = (1..=count).scan(0.0, |sum, rank| {
            *sum += f64::from(rank).powf(-exponent);
            Some(*sum)
        });
        Self(sums.collect())
    }

    pub(crate) fn sample(&self, rng: &mut Rng) -> u32 {
        let place = rng.f64() * self.0.last().copied().unwrap_or(0.0);
        self.0.partition_point(|sum| *sum <= place) as u32
    }

    /// What part of all draws a key has.
    pub(crate) fn share(&self, key: u32) -> f64 {
        let (key, all) = (key as usize, self.0[self.0.len() - 1]);
        (self.0[key] - if key == 0 { 0.0 } else { self.0[key - 1] }) / all
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
    fn keys_are_drawn_by_their_rank() {
        let (zipf, mut rng) = (Zipf::new(1_000, 1.1), split(1, Role::Keys(0)));
        let mut drawn = [0u32; 1_000];
        (0..DRAWS).for_each(|_| drawn[zipf.sample(&mut rng) as usize] += 1);
        for key in [0, 1, 9] {
            let (seen, share) = (f64::from(drawn[key as usize]) / DRAWS as f64, zipf.share(key));
            assert!((seen / share - 1.0).abs() < 0.05, "{key}: {seen} {share}");
        }
        assert!(near(zipf.share(0) / zipf.share(9), 10f64.powf(1.1)));
        assert!(near((0..1_000).map(|key| zipf.share(key)).sum(), 1.0));
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

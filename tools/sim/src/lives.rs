//! Connections that come to their end by age, and are dialled anew at once: counting, without a call.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use towline_pool::Lives;

use crate::chance::{Rng, Role, split};
use crate::engine::config::SECONDS;
use crate::figures::{Figures, Metric, Run};
use crate::strategies::TOWLINE;

#[derive(Clone, Copy)]
pub(crate) struct Config {
    pub(crate) clients: u32,
    /// Of each client, all there at the beginning.
    pub(crate) connections: u32,
    pub(crate) max_age: u64,
    pub(crate) length: u64,
    /// Of each client, per second.
    pub(crate) calls: f64,
}

/// A rule for how long connections live, by name.
pub(crate) struct Named {
    pub(crate) name: &'static str,
    /// As a part of the age that they may have; whether it is one of those that are opened at the beginning. A client's [`Lives`]
    /// are told of those that have ended.
    draw: fn(bool, &mut Lives, &mut towline_core::Rng) -> f64,
}

/// In the order of the tables.
pub(crate) const ALL: &[Named] = &[
    Named { name: TOWLINE, draw: |_, lives, rng| lives.begin().draw(rng) },
    Named { name: "hikari-2.5", draw: |_, _, rng| 1.0 - 0.025 * rng.unit() },
    Named { name: "grpc-10", draw: |_, _, rng| 0.9 + 0.2 * rng.unit() },
    Named {
        name: "first-half",
        draw: |is_first, _, rng| if is_first { 0.5 + 0.5 * rng.unit() } else { 0.9 + 0.2 * rng.unit() },
    },
    Named { name: "no-jitter", draw: |_, _, _| 1.0 },
];

const WINDOW: u64 = 10 * SECONDS;
const MINUTE: u64 = 60 * SECONDS;

/// When dials begin.
fn dials(config: &Config, who: &Named, seed: u64) -> Vec<u64> {
    let of_client = |client| {
        let mut rng: Rng = split(seed, Role::Lives(client));
        let mut rng = towline_core::Rng::with_seed(rng.u64(..));
        let mut due: BinaryHeap<_> = (0..config.connections).map(|connection| Reverse((0, connection))).collect();
        let (mut lives, mut dials) = (Lives::default(), Vec::new());
        while let Some(Reverse((now, connection))) = due.pop() {
            if now > 0 {
                lives.worn_out();
            }
            if now < config.length {
                dials.push(now);
                let life = (config.max_age as f64 * (who.draw)(now == 0, &mut lives, &mut rng)) as u64;
                due.push(Reverse((now + life, connection)));
            }
        }
        dials
    };
    (0..config.clients).flat_map(of_client).collect()
}

/// So many in each window of this length.
fn windows(config: &Config, dials: &[u64], length: u64) -> Vec<f64> {
    let mut windows = vec![0.0; config.length.div_ceil(length) as usize];
    dials.iter().for_each(|at| windows[(at / length) as usize] += 1.0);
    windows
}

fn mean(windows: &[f64]) -> f64 {
    windows.iter().sum::<f64>() / windows.len() as f64
}

/// One run.
pub(crate) fn run(config: &Config, who: &Named, seed: u64) -> Run {
    let dials = dials(config, who, seed);
    let windows_of = |length| windows(config, &dials, length);
    let later = &windows_of(WINDOW)[1..];
    let calls = f64::from(config.clients) * config.calls * (config.length / SECONDS) as f64;
    let mut whole = Figures::default();
    whole.set(Metric::PeakDials, later.iter().copied().fold(0.0, f64::max) / mean(later));
    whole.set(Metric::Reuse, 100.0 * (1.0 - dials.len() as f64 / calls));
    let minutes = windows_of(MINUTE);
    let usual = mean(&minutes[1..]);
    // The first minute is everybody's, and would hide the rest.
    let curve = std::iter::once(0.0).chain(minutes[1..].iter().map(|dials| dials / usual)).collect();
    Run { whole, spans: Vec::new(), curve }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOURS: u64 = 3_600 * SECONDS;
    const CONFIG: Config =
        Config { clients: 200, connections: 10, max_age: 1_800 * SECONDS, length: 4 * HOURS, calls: 40.0 };

    fn peak(who: &str) -> f64 {
        let who = ALL.iter().find(|named| named.name == who).unwrap();
        assert_eq!(run(&CONFIG, who, 1), run(&CONFIG, who, 1));
        run(&CONFIG, who, 1).whole.get(Metric::PeakDials).unwrap()
    }

    #[test]
    fn without_jitter_all_come_back_in_one_window_and_hikari_s_spread_is_that_of_its_first_lives() {
        // Seven of 1,439 windows have them all.
        assert!((peak("no-jitter") - 1_439.0 / 7.0).abs() < 1e-9);
        // 2.5 % of 30 minutes are 45 s: a fortieth of the mean life, and so 40 times the mean, or a little more by chance.
        assert!((38.0..55.0).contains(&peak("hikari-2.5")), "{}", peak("hikari-2.5"));
    }

    #[test]
    fn who_draws_first_lives_from_half_on_has_twice_the_mean_and_what_chance_adds() {
        // In its second quarter of an hour everybody comes back once: 2,000 / 90 per window, of which the mean is half.
        let (half, ours) = (peak("first-half"), peak(TOWLINE));
        assert!((2.0..3.5).contains(&half) && ours < half, "{half} {ours}");
    }
}

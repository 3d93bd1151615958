//! The arithmetic of levels and zones: who is available, to the share of the calls that each group gets. Numbers in,
//! numbers out.

/// One group of endpoints: those of the client's own zone at a level, or all others there.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Part {
    /// The weight of all.
    pub(super) total: f64,
    /// The weight of those that are available.
    pub(super) available: f64,
    /// Of all calls, those that go there.
    pub(super) share: f64,
}

/// The endpoints of one priority.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Level {
    pub(super) here: Part,
    pub(super) elsewhere: Part,
}

/// What the shares go by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rule {
    /// At least 1.
    pub(super) overprovisioning: f64,
    /// Of all clients, those in this one's zone.
    pub(super) clients_here: Option<f64>,
}

impl Rule {
    /// Sets the shares of all parts; they add up to 1.
    pub(super) fn settle(&self, levels: &mut [Level]) {
        let capacity: f64 = levels.iter().map(|level| self.capacity(&level.both())).sum();
        if capacity == 0.0 {
            return by_weight(levels);
        }
        let mut left = 1.0;
        for level in levels {
            let calls = (self.capacity(&level.both()) / capacity.min(1.0)).min(left);
            left -= calls;
            let here = self.here(level);
            level.here.share = calls * here;
            level.elsewhere.share = calls * (1.0 - here);
        }
    }

    /// What it can take of the calls that it would get with nobody missing: those that are there take over from others until
    /// each has `overprovisioning` times its own.
    fn capacity(&self, part: &Part) -> f64 {
        if part.available == 0.0 { 0.0 } else { (self.overprovisioning * part.available / part.total).min(1.0) }
    }

    /// Of the calls to a level, those to the own zone.
    fn here(&self, level: &Level) -> f64 {
        let available = level.both().available;
        if available == 0.0 {
            return 0.0;
        }
        // What it would get if there were no zones. With less, each endpoint elsewhere would get more than each here.
        let fair = level.here.available / available;
        let most = self.clients_here.map_or(1.0, |clients| (fair / clients).min(1.0));
        self.capacity(&level.here).min(most).max(fair)
    }
}

impl Level {
    fn both(&self) -> Part {
        let Self { here, elsewhere } = self;
        Part { total: here.total + elsewhere.total, available: here.available + elsewhere.available, share: 0.0 }
    }
}

/// Nobody is available: better to ask everybody than nobody.
fn by_weight(levels: &mut [Level]) {
    let total: f64 = levels.iter().map(|level| level.both().total).sum();
    for part in levels.iter_mut().flat_map(|level| [&mut level.here, &mut level.elsewhere]) {
        part.share = part.total / total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENVOY: Rule = Rule { overprovisioning: 1.4, clients_here: None };

    fn clients_here(share: f64) -> Rule {
        Rule { clients_here: Some(share), ..ENVOY }
    }

    /// Of so many, so many available.
    fn part((available, total): (u32, u32)) -> Part {
        Part { total: f64::from(total), available: f64::from(available), share: 0.0 }
    }

    /// In percent, here and elsewhere of each level.
    fn shares(rule: Rule, levels: &[[(u32, u32); 2]]) -> Vec<[f64; 2]> {
        let level = |level: &[(u32, u32); 2]| Level { here: part(level[0]), elsewhere: part(level[1]) };
        let mut levels: Vec<_> = levels.iter().map(level).collect();
        rule.settle(&mut levels);
        let percent = |part: Part| (part.share * 1e4).round() / 1e2;
        levels.iter().map(|level| [percent(level.here), percent(level.elsewhere)]).collect()
    }

    #[test]
    fn a_zone_keeps_its_calls_until_it_is_short_of_capacity_and_then_one_and_four_tenths_of_what_is_there() {
        for (here, elsewhere, expected) in [
            ((10, 10), (20, 20), [100.0, 0.0]),
            ((8, 10), (20, 20), [100.0, 0.0]),
            ((7, 10), (20, 20), [98.0, 2.0]),
            ((5, 10), (20, 20), [70.0, 30.0]),
            ((1, 10), (20, 20), [14.0, 86.0]),
            // One replica in each of three zones: here or not.
            ((1, 1), (2, 2), [100.0, 0.0]),
            ((1, 2), (4, 4), [70.0, 30.0]),
            // It does not matter how many there are elsewhere, as long as they are there …
            ((5, 10), (200, 200), [70.0, 30.0]),
            ((5, 10), (20, 40), [70.0, 30.0]),
            // … but nobody there gets more than anybody here.
            ((5, 10), (1, 20), [83.33, 16.67]),
            ((5, 10), (0, 20), [100.0, 0.0]),
            ((5, 10), (0, 0), [100.0, 0.0]),
        ] {
            let shares = shares(ENVOY, &[[here, elsewhere]]);
            // The level is not asked for more than it has, but there is no other.
            assert_eq!(shares, [expected], "{here:?} {elsewhere:?}");
        }
    }

    #[test]
    fn a_zone_without_anybody_gets_nothing() {
        for here in [(0, 0), (0, 10)] {
            assert_eq!(shares(ENVOY, &[[here, (20, 20)]]), [[0.0, 100.0]]);
            assert_eq!(shares(clients_here(0.5), &[[here, (20, 20)]]), [[0.0, 100.0]]);
        }
    }

    #[test]
    fn known_clients_get_their_fair_share_of_the_own_zone_and_no_more() {
        for (clients, here, elsewhere, expected) in [
            // A third of the endpoints, and as many clients: all stay.
            (1.0 / 3.0, (10, 10), (20, 20), [100.0, 0.0]),
            // More clients than endpoints: the own zone gets what it can take.
            (0.5, (10, 10), (20, 20), [66.67, 33.33]),
            (1.0, (10, 10), (20, 20), [33.33, 66.67]),
            // Fewer: all stay, and calls from elsewhere fill it up.
            (0.1, (10, 10), (20, 20), [100.0, 0.0]),
            // What is missing here goes elsewhere at once: with known clients nothing needs to be guessed.
            (1.0 / 3.0, (5, 10), (20, 20), [60.0, 40.0]),
            // Somebody else's zone is gone: its clients come here, and ours stay.
            (1.0 / 3.0, (10, 10), (10, 20), [100.0, 0.0]),
            // And never less than without zones.
            (1.0, (5, 10), (1, 20), [83.33, 16.67]),
        ] {
            assert_eq!(
                shares(clients_here(clients), &[[here, elsewhere]]),
                [expected],
                "{clients} {here:?} {elsewhere:?}"
            );
        }
    }

    #[test]
    fn a_priority_gets_calls_when_those_before_it_cannot_take_them() {
        for (levels, expected) in [
            (vec![(10, 10), (10, 10)], vec![100.0, 0.0]),
            (vec![(8, 10), (10, 10)], vec![100.0, 0.0]),
            (vec![(5, 10), (10, 10)], vec![70.0, 30.0]),
            (vec![(0, 10), (10, 10)], vec![0.0, 100.0]),
            (vec![(5, 10), (1, 10), (10, 10)], vec![70.0, 14.0, 16.0]),
            (vec![(0, 10), (0, 10), (3, 10)], vec![0.0, 0.0, 100.0]),
            // Too little in all: each by what it can take.
            (vec![(2, 10), (1, 10)], vec![66.67, 33.33]),
            (vec![(1, 10), (0, 10)], vec![100.0, 0.0]),
            (vec![(1, 10), (1, 10), (2, 10)], vec![25.0, 25.0, 50.0]),
            // Nobody at all: by weight.
            (vec![(0, 10), (0, 30)], vec![25.0, 75.0]),
            (vec![(0, 4)], vec![100.0]),
        ] {
            let all: Vec<_> = levels.iter().map(|part| [(0, 0), *part]).collect();
            let elsewhere: Vec<_> = shares(ENVOY, &all).iter().map(|share| share[1]).collect();
            assert_eq!(elsewhere, expected, "{levels:?}");
        }
    }

    #[test]
    fn a_priority_shares_what_it_gets_among_zones() {
        let levels = [[(1, 10), (9, 10)], [(5, 10), (10, 10)]];
        // Half of the first is there, for 70 percent of the calls; of its own zone a tenth, and of the other's rest nine.
        assert_eq!(shares(ENVOY, &levels), [[9.8, 60.2], [21.0, 9.0]]);
        let nobody = [[(0, 10), (0, 10)], [(0, 20), (0, 0)]];
        assert_eq!(shares(ENVOY, &nobody), [[25.0, 25.0], [50.0, 0.0]]);
    }

    #[test]
    fn a_part_that_is_there_for_want_of_any_other_gets_nothing() {
        // Endpoints of weight zero are members that add nothing.
        assert_eq!(shares(ENVOY, &[[(0, 0), (0, 0)], [(1, 1), (0, 0)]]), [[0.0, 0.0], [100.0, 0.0]]);
    }

    #[test]
    fn whoever_is_there_shares_add_up_and_grow_with_what_is_available() {
        for rule in [ENVOY, clients_here(0.3), clients_here(1.0), Rule { overprovisioning: 1.0, ..ENVOY }] {
            for elsewhere in 0..=6 {
                for second in 0..=4 {
                    let mut last = 0.0;
                    for here in 0..=5 {
                        let shares = shares(rule, &[[(here, 5), (elsewhere, 6)], [(second, 4), (0, 3)]]);
                        let sum: f64 = shares.iter().flatten().sum();
                        assert!((sum - 100.0).abs() < 0.05, "{shares:?}");
                        let nobody = here + elsewhere + second == 0;
                        assert!(nobody || shares[0][0] + 0.02 >= last, "{rule:?} {here} {elsewhere} {second}");
                        assert!(nobody || (here == 0) == (shares[0][0] == 0.0), "{shares:?}");
                        last = if nobody { 0.0 } else { shares[0][0] };
                    }
                }
            }
        }
    }
}

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

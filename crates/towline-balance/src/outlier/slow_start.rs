//! How much an endpoint gets that has just come.

use crate::load::{Nanos, nanos};

use super::SlowStart;

/// What share of its calls an endpoint of this age gets, beside a set of that median age: as old as the rest is old enough,
/// so that nobody starts slowly where all are new.
pub(super) fn share(settings: &SlowStart, age: Nanos, median: Nanos) -> f32 {
    let full = nanos(settings.window).min(median);
    if age >= full {
        return 1.0;
    }
    (age as f32 / full as f32).max(settings.least)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    #[test]
    fn it_grows_with_age_up_to_the_window_or_the_age_of_the_set() {
        let settings = SlowStart::over(Duration::from_secs(10)).unwrap();
        let share = |age, median| share(&settings, age * SECOND, median * SECOND);
        assert_eq!([0, 1, 5, 10, 100].map(|age| share(age, 1_000)), [0.1, 0.1, 0.5, 1.0, 1.0]);
        assert_eq!([0, 1, 2, 4].map(|age| share(age, 4)), [0.1, 0.25, 0.5, 1.0]);
        assert_eq!([0, 1].map(|age| share(age, 0)), [1.0, 1.0], "all are new");
        let off = SlowStart::off();
        assert_eq!([0, 1].map(|age| super::share(&off, age * SECOND, 100 * SECOND)), [1.0, 1.0]);
    }
}

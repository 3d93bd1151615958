//! Whether chance explains failures.

/// The evidence that is asked for, as the logarithm of a probability: one call in a million is an unlucky one. At a
/// thousand calls per second that is a wrong ejection every quarter of an hour.
pub(super) const ENOUGH: f32 = 13.8;

/// How unlikely it is, as a negative logarithm, that of so many calls these fail or more, if each fails with
/// `probability` (Chernoff's bound, "A Measure of Asymptotic Efficiency …", 1952: the relative entropy per call). Holds for
/// any number of calls, two as well as a million, where a normal approximation would be far off.
pub(super) fn against_chance(calls: f32, failures: f32, probability: f32) -> f32 {
    let rate = if calls > 0.0 { (failures / calls).min(1.0) } else { 0.0 };
    if rate <= probability {
        return 0.0;
    }
    let part = |seen: f32, expected: f32| if seen > 0.0 { seen * (seen / expected).ln() } else { 0.0 };
    calls * (part(rate, probability) + part(1.0 - rate, 1.0 - probability))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The probability itself, summed up.
    fn exactly(calls: i32, failures: i32, probability: f64) -> f64 {
        let ln_choose = |k: i32| (1..=k).map(|i| (f64::from(calls - k + i)).ln() - f64::from(i).ln()).sum::<f64>();
        let of = |k: i32| {
            (ln_choose(k) + f64::from(k) * probability.ln() + f64::from(calls - k) * (1.0 - probability).ln()).exp()
        };
        (failures..=calls).map(of).sum()
    }

    #[test]
    fn a_row_of_failures_is_as_unlikely_as_their_product() {
        for (failures, probability) in [(2.0f32, 0.001f32), (3.0, 0.01), (5.0, 0.1)] {
            let evidence = against_chance(failures, failures, probability);
            assert!((evidence + failures * probability.ln()).abs() < 1e-3, "{evidence}");
        }
    }

    #[test]
    fn it_never_takes_for_less_likely_than_it_is() {
        for calls in [1, 2, 5, 20, 100, 1_000] {
            for probability in [0.001, 0.01, 0.1, 0.5, 0.9] {
                for failures in (0..=calls).step_by((calls as usize / 20).max(1)) {
                    let bound = (-f64::from(against_chance(calls as f32, failures as f32, probability as f32))).exp();
                    let exact = exactly(calls, failures, probability);
                    assert!(exact <= bound * 1.001, "{failures} of {calls} at {probability}: {exact} > {bound}");
                }
            }
        }
    }

    #[test]
    fn no_calls_and_expected_failures_are_no_evidence() {
        for (calls, failures, probability) in [(0.0, 0.0, 0.1), (100.0, 10.0, 0.1), (100.0, 5.0, 0.1), (5.0, 5.0, 1.0)]
        {
            assert_eq!(against_chance(calls, failures, probability), 0.0);
        }
    }
}

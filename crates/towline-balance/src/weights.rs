//! Drawing by weight in constant time.

/// A point in `[0, 1)` to an index, each index by its share of the weights: the cumulative sums, and a guide that says
/// where to begin looking for a point (Chen and Asau, 1974). Finds in two steps on average, whatever the weights.
///
/// Those of weight zero are never drawn, unless all are: then all are equal.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    /// `None` when all are equal: then no table is needed.
    table: Option<Table>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Table {
    /// The upper bound of each index's share of `[0, 1)`.
    upper: Vec<f64>,
    /// For each of `len` equal cells, the first index whose share reaches into it.
    guide: Vec<u32>,
    /// The last index that has a share.
    last: usize,
}

impl Weights {
    pub(crate) fn new(weights: impl ExactSizeIterator<Item = f64> + Clone) -> Self {
        let len = weights.len();
        let first = weights.clone().next().unwrap_or(1.0);
        if weights.clone().all(|weight| weight == first) {
            return Self { table: None, len };
        }
        let total: f64 = weights.clone().sum();
        let mut sum = 0.0;
        let mut last = 0;
        let upper: Vec<f64> = weights
            .enumerate()
            .map(|(index, weight)| {
                if weight > 0.0 {
                    last = index;
                }
                sum += weight;
                sum / total
            })
            .collect();
        let mut index = 0;
        let guide = (0..len)
            .map(|cell| {
                while index < last && upper[index] <= cell as f64 / len as f64 {
                    index += 1;
                }
                index as u32
            })
            .collect();
        Self { table: Some(Table { upper, guide, last }), len }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether all weigh the same.
    #[inline]
    pub(crate) fn are_equal(&self) -> bool {
        self.table.is_none()
    }

    /// The index whose share `point` of `[0, 1)` falls into; there is at least one.
    pub(crate) fn at(&self, point: f64) -> usize {
        let cell = ((point * self.len as f64) as usize).min(self.len.saturating_sub(1));
        let Some(table) = &self.table else { return cell };
        let mut index = table.guide[cell] as usize;
        while index < table.last && table.upper[index] <= point {
            index += 1;
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use towline_core::Rng;

    use super::*;

    fn shares(weights: &[f64]) -> Vec<f64> {
        const POINTS: usize = 100_000;
        let table = Weights::new(weights.iter().copied());
        let mut counts = vec![0u32; weights.len()];
        for point in 0..POINTS {
            counts[table.at(point as f64 / POINTS as f64)] += 1;
        }
        counts.into_iter().map(|count| f64::from(count) / POINTS as f64).collect()
    }

    #[test]
    fn each_gets_its_share() {
        for weights in
            [vec![1.0], vec![1.0; 7], vec![1.0, 2.0, 3.0], vec![1e6, 1e-3, 5.0], vec![0.0, 1.0, 0.0, 3.0, 0.0]]
        {
            let total: f64 = weights.iter().sum();
            for (share, weight) in shares(&weights).iter().zip(&weights) {
                assert!((share - weight / total).abs() < 1e-4, "{weights:?} {share}");
            }
        }
    }

    #[test]
    fn those_of_weight_zero_are_never_drawn_unless_all_are() {
        let weights = Weights::new([0.0, 1.0, 0.0].into_iter());
        let mut rng = Rng::with_seed(1);
        assert!((0..1_000).all(|_| weights.at(rng.unit()) == 1));
        assert_eq!(weights.at(1.0), 1, "even at the end");
        let zero = Weights::new([0.0, 0.0].into_iter());
        assert!(zero.are_equal());
        assert_eq!((zero.at(0.1), zero.at(0.9)), (0, 1));
    }

    #[test]
    fn one_heavy_among_ten_thousand_light_ones_is_found_in_few_steps() {
        let mut weights = vec![1e-3; 10_000];
        weights[7_000] = 1e6;
        let table = Weights::new(weights.into_iter());
        let mut rng = Rng::with_seed(1);
        assert!((0..1_000).all(|_| table.at(rng.unit()) == 7_000));
    }
}

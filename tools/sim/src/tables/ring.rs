//! A ring of points, as Ketama's, Envoy's and gRPC's: each server has as many points as make the ring large enough, by its weight,
//! and a hash belongs to the next.

use super::{Table, Weighted, hash_of};
use crate::chance::mix;
use crate::strategy::ServerId;

pub(crate) struct Ring {
    /// Ascending.
    points: Vec<(u64, ServerId)>,
}

impl Ring {
    pub(crate) fn new(least: usize, servers: &[Weighted], seed: u64) -> Self {
        let lightest = servers.iter().map(|(_, weight)| *weight).fold(f64::INFINITY, f64::min);
        let all: f64 = servers.iter().map(|(_, weight)| weight).sum();
        // A whole number for the lightest, and then at least so many in all.
        let each = (least as f64 * lightest / all).ceil() / lightest;
        let points_of = |(id, weight): &Weighted| {
            let (id, hash) = (*id, hash_of(*id, seed));
            (0..(each * weight).round() as u64).map(move |point| (mix(hash ^ mix(point)), id))
        };
        let mut points: Vec<_> = servers.iter().flat_map(points_of).collect();
        points.sort_unstable();
        Self { points }
    }

    /// From the home of a hash on, around the ring: a server comes once for each of its points.
    pub(crate) fn walk(&self, hash: u64) -> impl Iterator<Item = ServerId> {
        let start = self.points.partition_point(|(point, _)| *point < hash);
        let (before, after) = self.points.split_at(start);
        after.iter().chain(before).map(|(_, id)| *id)
    }
}

impl Table for Ring {
    fn home(&self, hash: u64) -> ServerId {
        self.walk(hash).next().expect("there are servers")
    }

    fn shares(&self, servers: &[Weighted]) -> Option<Vec<f64>> {
        let mut last = self.points.last()?.0;
        let mut arcs = std::collections::BTreeMap::<_, f64>::new();
        for (point, id) in &self.points {
            *arcs.entry(*id).or_default() += point.wrapping_sub(last) as f64 / 2f64.powi(64);
            last = *point;
        }
        Some(servers.iter().map(|(id, _)| arcs.get(id).copied().unwrap_or(0.0)).collect())
    }
}

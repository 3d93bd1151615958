//! Sets of endpoints for tests of pickers alone.

use std::sync::Arc;

use towline_core::{Endpoint, EndpointId, Loads, Member, Weight};

/// Everybody is there, and idle.
pub(crate) struct Unloaded;

impl Loads for Unloaded {
    fn load(&self, _index: usize) -> f64 {
        0.0
    }
}

pub(crate) fn named(target: &str) -> Member {
    let endpoint: Endpoint = target.parse().unwrap();
    Member { id: EndpointId::fresh(), endpoint: Arc::new(endpoint) }
}

/// Endpoints and their weights.
pub(crate) fn set(endpoints: &[(&str, f64)]) -> Vec<Member> {
    let weighted = |(target, weight): &(&str, f64)| {
        let member = named(target);
        let endpoint = (*member.endpoint).clone().with_weight(Weight::new(*weight).unwrap());
        Member { endpoint: Arc::new(endpoint), ..member }
    };
    endpoints.iter().map(weighted).collect()
}

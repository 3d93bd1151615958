//! The library's own tables.

use std::sync::Arc;

use towline_core::{
    CallContext, Endpoint, EndpointId, EndpointKey, Loads, Member, Pick, Policy, Rng, SessionKey, Target, View, Weight,
};
use towline_sticky::{Maglev, MaglevPicker, Rendezvous};

use super::{Table, Weighted, hash_of};
use crate::strategy::ServerId;

/// A picker and the set that it was built for.
struct Built<P> {
    picker: P,
    members: Vec<Member>,
    ids: Vec<ServerId>,
}

impl<P> Built<P> {
    fn new<Q: Policy<Picker = P>>(mut policy: Q, servers: &[Weighted], seed: u64) -> Self {
        let target: Target = "server:1".parse().expect("a host and a port");
        let member = |(id, weight): &Weighted| {
            let key = EndpointKey::new(format!("{:x}", hash_of(*id, seed)));
            let endpoint = Endpoint::new(key, target.clone()).with_weight(Weight::new(*weight).expect("a weight"));
            Member { id: EndpointId::fresh(), endpoint: Arc::new(endpoint) }
        };
        let members: Vec<_> = servers.iter().map(member).collect();
        Self { picker: policy.build(&members, None), members, ids: servers.iter().map(|(id, _)| *id).collect() }
    }
}

impl<P: Pick<()>> Built<P> {
    /// Of a session with this for its key.
    fn home(&self, hash: u64) -> ServerId {
        let mut context = CallContext::default();
        context.set_session(Some(SessionKey::new(hash.to_le_bytes())));
        let view = View::new(&self.members, &Unloaded);
        let home = self.picker.order(&(), Some(&context), view, &mut Rng::with_seed(0)).next();
        self.ids[home.expect("a session has a home")]
    }
}

/// Homes are where they are whatever the load.
pub(crate) struct Unloaded;

impl Loads for Unloaded {
    fn load(&self, _: usize) -> f64 {
        0.0
    }
}

/// [`Maglev`].
pub(super) struct Slots(Built<MaglevPicker>);

impl Slots {
    /// With so many, or as many as it has without settings.
    pub(super) fn new(slots: Option<u32>, servers: &[Weighted], seed: u64) -> Self {
        let policy = match slots {
            Some(slots) => Maglev::new().slots(slots).expect("a prime"),
            None => Maglev::new(),
        };
        Self(Built::new(policy, servers, seed))
    }
}

impl Table for Slots {
    fn home(&self, hash: u64) -> ServerId {
        self.0.home(hash)
    }

    fn shares(&self, servers: &[Weighted]) -> Option<Vec<f64>> {
        let mut counts = vec![0u32; servers.len()];
        let slots = self.0.picker.slots();
        let mut all = 0.0;
        slots.for_each(|index| {
            counts[index] += 1;
            all += 1.0;
        });
        Some(counts.into_iter().map(|count| f64::from(count) / all).collect())
    }
}

/// [`Rendezvous`], which has no table, and shares only by chance.
pub(super) struct Scores(Built<<Rendezvous as Policy>::Picker>);

impl Scores {
    pub(super) fn new(servers: &[Weighted], seed: u64) -> Self {
        Self(Built::new(Rendezvous::new(), servers, seed))
    }
}

impl Table for Scores {
    fn home(&self, hash: u64) -> ServerId {
        self.0.home(hash)
    }

    fn shares(&self, _: &[Weighted]) -> Option<Vec<f64>> {
        None
    }
}

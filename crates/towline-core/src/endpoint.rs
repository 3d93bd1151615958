//! What discovery yields.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Kind, Phase, Target};

/// The name under which an endpoint is known to discovery; it stays the same while its attributes change.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey(Arc<str>);

impl EndpointKey {
    /// A key of this text.
    pub fn new(key: impl Into<Arc<str>>) -> Self {
        Self(key.into())
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for EndpointKey {
    fn from(key: &str) -> Self {
        Self::new(key)
    }
}

impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// One life of an endpoint in this process.
///
/// An endpoint that is removed and added again under the same key gets a new id, so a late event of its old
/// life touches nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
// Never zero, so that a call carries the ids of where it has been in half the room.
pub struct EndpointId(NonZeroU64);

impl EndpointId {
    /// An id that no other endpoint of this process has or had.
    pub fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(NonZeroU64::new(next).unwrap_or(NonZeroU64::MAX))
    }
}

/// How much of the traffic an endpoint should get, relative to its siblings: a finite number from 0 to 1,000,000.
///
/// Zero means "only when nobody else can take the call". Every picker goes by it.
///
/// ```
/// use towline_core::Weight;
///
/// assert_eq!(Weight::new(2.5)?.get(), 2.5);
/// assert!(Weight::new(f64::NAN).is_err());
/// assert!(Weight::new(-1.0).is_err());
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Weight(f64);

impl Weight {
    /// The default.
    pub const ONE: Self = Self(1.0);

    /// Checks and wraps `weight`.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when `weight` is not a finite number from 0 to 1,000,000.
    pub fn new(weight: f64) -> Result<Self, Error> {
        if (0.0..=1e6).contains(&weight) {
            Ok(Self(weight))
        } else {
            Err(Error::new(Kind::Config, Phase::Build)
                .with_message(format!("the weight of an endpoint is a number from 0 to 1000000, not {weight}")))
        }
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

/// Free-form attributes of an endpoint; clones share them.
pub type Metadata = Arc<BTreeMap<String, String>>;

/// One endpoint as discovery sees it: a key, a target, and attributes that may change in place.
///
/// ```
/// use towline_core::{Endpoint, Weight};
///
/// let endpoint = "10.0.0.7:7000".parse::<Endpoint>()?.with_weight(Weight::new(3.0)?).with_zone("eu-1a");
/// assert_eq!(endpoint.key().as_str(), "10.0.0.7:7000");
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    key: EndpointKey,
    target: Target,
    weight: Weight,
    zone: Option<Arc<str>>,
    priority: u8,
    metadata: Metadata,
}

impl Endpoint {
    /// An endpoint with weight 1, no zone and priority 0.
    pub fn new(key: impl Into<EndpointKey>, target: Target) -> Self {
        Self { key: key.into(), target, weight: Weight::ONE, zone: None, priority: 0, metadata: Metadata::default() }
    }

    /// Sets the key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<EndpointKey>) -> Self {
        self.key = key.into();
        self
    }

    /// Sets the weight.
    #[must_use]
    pub fn with_weight(mut self, weight: Weight) -> Self {
        self.weight = weight;
        self
    }

    /// Sets the zone: a failure domain, or what is near, like a cloud's availability zone. `towline_balance::Zones` keeps
    /// calls in the client's own; the other built-in policies do not look at it.
    #[must_use]
    pub fn with_zone(mut self, zone: impl Into<Arc<str>>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// Sets the priority: higher numbers are called when lower ones cannot take the calls, by `towline_balance::Zones`; the
    /// other built-in policies do not look at it. 0 by default.
    #[must_use]
    pub fn with_priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the attributes.
    #[must_use]
    pub fn with_metadata(mut self, metadata: impl IntoIterator<Item = (String, String)>) -> Self {
        self.metadata = Arc::new(metadata.into_iter().collect());
        self
    }

    /// Verifies certificates against `name`, see [`Target::with_tls_name`].
    #[must_use]
    pub fn with_tls_name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.target = self.target.with_tls_name(name);
        self
    }

    /// The key.
    pub fn key(&self) -> &EndpointKey {
        &self.key
    }

    /// What is dialled.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The weight.
    pub fn weight(&self) -> Weight {
        self.weight
    }

    /// The zone.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// The priority; 0 by default.
    pub fn priority(&self) -> u8 {
        self.priority
    }

    /// The attributes.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl From<Target> for Endpoint {
    /// The key is the target's text.
    fn from(target: Target) -> Self {
        Self::new(EndpointKey::new(target.to_string()), target)
    }
}

impl From<std::net::SocketAddr> for Endpoint {
    fn from(addr: std::net::SocketAddr) -> Self {
        Target::from(addr).into()
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.parse::<Target>().map(Self::from)
    }
}

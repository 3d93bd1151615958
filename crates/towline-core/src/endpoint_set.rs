//! All endpoints at one time.

use std::collections::HashMap;

use crate::{Endpoint, EndpointKey, Error, Kind, Phase};

/// All endpoints at one time: what a source of endpoints answers.
///
/// Resolvers and registries in trouble answer with nothing, and whoever believes them calls nobody. So an empty answer and the
/// statement that there are none are told apart: the first changes nothing, and only [`none`](Self::none) empties a balancer.
///
/// ```
/// use towline_core::{Endpoint, EndpointSet};
///
/// let set: EndpointSet = vec!["10.0.0.7:7000".parse::<Endpoint>()?].into();
/// assert_eq!(set.len(), 1);
/// assert!(!EndpointSet::from(Vec::new()).is_none_on_purpose());
/// assert!(EndpointSet::none().is_none_on_purpose());
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointSet {
    endpoints: Vec<Endpoint>,
    is_meant: bool,
}

impl EndpointSet {
    /// There are no endpoints, on purpose.
    pub const fn none() -> Self {
        Self { endpoints: Vec::new(), is_meant: true }
    }

    /// Whether it says that there are no endpoints, and does not only happen to be empty.
    pub fn is_none_on_purpose(&self) -> bool {
        self.is_meant && self.endpoints.is_empty()
    }

    /// The endpoints themselves.
    pub fn into_vec(self) -> Vec<Endpoint> {
        self.endpoints
    }

    /// Each endpoint once, for lists that people write: of equal ones the first stays.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when two that differ have one key.
    pub fn distinct(endpoints: impl IntoIterator<Item = Endpoint>) -> Result<Self, Error> {
        let endpoints = endpoints.into_iter();
        let mut known = HashMap::<EndpointKey, usize>::with_capacity(endpoints.size_hint().0);
        let mut distinct = Vec::with_capacity(endpoints.size_hint().0);
        for endpoint in endpoints {
            match known.get(endpoint.key()) {
                Some(index) if distinct[*index] == endpoint => {}
                Some(_) => {
                    return Err(Error::new(Kind::Config, Phase::Build).with_message(format!(
                        "two different endpoints have the key {}: give each a key of its own, see Endpoint::with_key",
                        endpoint.key()
                    )));
                }
                None => {
                    known.insert(endpoint.key().clone(), distinct.len());
                    distinct.push(endpoint);
                }
            }
        }
        Ok(distinct.into())
    }
}

impl From<Vec<Endpoint>> for EndpointSet {
    fn from(endpoints: Vec<Endpoint>) -> Self {
        Self { endpoints, is_meant: false }
    }
}

impl FromIterator<Endpoint> for EndpointSet {
    fn from_iter<I: IntoIterator<Item = Endpoint>>(endpoints: I) -> Self {
        endpoints.into_iter().collect::<Vec<_>>().into()
    }
}

impl std::ops::Deref for EndpointSet {
    type Target = [Endpoint];

    fn deref(&self) -> &[Endpoint] {
        &self.endpoints
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Weight;

    #[test]
    fn equal_endpoints_are_one_and_different_ones_of_one_key_are_refused() {
        let endpoint: Endpoint = "a:1".parse().unwrap();
        let set = EndpointSet::distinct([endpoint.clone(), endpoint.clone()]).unwrap();
        assert_eq!((set.len(), set.first()), (1, Some(&endpoint)));
        let other = endpoint.clone().with_weight(Weight::new(2.0).unwrap());
        let error = EndpointSet::distinct([endpoint, other]).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.to_string().contains("the key a:1"), "{error}");
    }
}

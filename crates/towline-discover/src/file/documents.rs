//! Endpoints as JSON and YAML, and what the formats have in common.

use std::collections::BTreeMap;

use towline_core::{Endpoint, Weight};

use crate::adapt::Defaults;

/// An endpoint as it is written.
#[derive(Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize), serde(deny_unknown_fields))]
pub(super) struct Fields {
    pub(super) address: String,
    #[cfg_attr(feature = "serde", serde(default))]
    pub(super) key: Option<String>,
    #[cfg_attr(feature = "serde", serde(default))]
    pub(super) weight: Option<f64>,
    #[cfg_attr(feature = "serde", serde(default))]
    pub(super) zone: Option<String>,
    #[cfg_attr(feature = "serde", serde(default))]
    pub(super) priority: Option<u8>,
    #[cfg_attr(feature = "serde", serde(default))]
    pub(super) tls_name: Option<String>,
    #[cfg_attr(feature = "serde", serde(default))]
    pub(super) metadata: BTreeMap<String, String>,
}

impl Fields {
    pub(super) fn endpoint(self, defaults: &Defaults) -> Result<Endpoint, String> {
        let mut endpoint = defaults.parse(&self.address).map_err(|error| error.to_string())?;
        if let Some(key) = self.key {
            if key.is_empty() {
                return Err("the key is empty: leave it out, and it is the address".to_owned());
            }
            endpoint = endpoint.with_key(key.as_str());
        }
        if let Some(weight) = self.weight {
            endpoint = endpoint.with_weight(Weight::new(weight).map_err(|error| error.to_string())?);
        }
        if let Some(zone) = self.zone {
            endpoint = endpoint.with_zone(zone);
        }
        if let Some(priority) = self.priority {
            endpoint = endpoint.with_priority(priority);
        }
        if let Some(name) = self.tls_name {
            endpoint = endpoint.with_tls_name(name);
        }
        if !self.metadata.is_empty() {
            endpoint = endpoint.with_metadata(self.metadata);
        }
        Ok(endpoint)
    }
}

#[cfg(feature = "serde")]
pub(super) use self::serialized::*;

#[cfg(feature = "serde")]
mod serialized {
    use std::fmt;

    use serde::Deserialize;
    use serde::de::value::MapAccessDeserializer;
    use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
    use towline_core::{Endpoint, EndpointSet};

    use super::super::lines::NONE;
    use super::{Defaults, Fields};

    /// A list, or an object that has one as `endpoints`. The errors of what is in it have places, since they are made while it is read.
    struct Document<'a>(&'a Defaults);

    /// A list of endpoints.
    struct List<'a>(&'a Defaults);

    /// A text, or an object.
    struct Item<'a>(&'a Defaults);

    #[cfg(feature = "json")]
    pub(in super::super) fn json(text: &str, defaults: &Defaults) -> Result<EndpointSet, String> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let set = Document(defaults).deserialize(&mut reader).and_then(|set| reader.end().map(|()| set));
        checked(set.map_err(|error| error.to_string()))
    }

    #[cfg(feature = "yaml")]
    pub(in super::super) fn yaml(text: &str, defaults: &Defaults) -> Result<EndpointSet, String> {
        // Nothing can be more than the text is long; and aliases are of no use here, but to whoever wants a small file to be a
        // large one.
        let most = text.len().saturating_add(64);
        let budget = serde_saphyr::budget! {
            max_events: most.saturating_mul(4), max_nodes: most, max_depth: 16, max_documents: 1, max_aliases: 0, max_anchors: 0,
        };
        let options = serde_saphyr::options! { budget: budget, with_snippet: false };
        let set = serde_saphyr::with_deserializer_from_str_with_options(text, options, |reader| {
            Document(defaults).deserialize(reader)
        });
        checked(set.map_err(|error| error.to_string()))
    }

    /// As it is judged when it is there as a whole.
    fn checked(set: Result<EndpointSet, String>) -> Result<EndpointSet, String> {
        let set = set?;
        if set.is_none_on_purpose() {
            return Ok(set);
        }
        if set.is_empty() {
            return Err(format!("there is no endpoint in it; say \"{NONE}\" to mean that"));
        }
        EndpointSet::distinct(set.into_vec()).map_err(|error| error.to_string())
    }

    impl<'de> DeserializeSeed<'de> for Document<'_> {
        type Value = EndpointSet;

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<EndpointSet, D::Error> {
            deserializer.deserialize_any(self)
        }
    }

    impl<'de> Visitor<'de> for Document<'_> {
        type Value = EndpointSet;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of endpoints, an object that has one as `endpoints`, or {NONE:?}")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<EndpointSet, E> {
            match text {
                NONE => Ok(EndpointSet::none()),
                other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
            }
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<EndpointSet, A::Error> {
            List(self.0).visit_seq(list)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<EndpointSet, A::Error> {
            let mut set = None;
            while let Some(name) = map.next_key::<String>()? {
                match name.as_str() {
                    "endpoints" if set.is_some() => return Err(A::Error::duplicate_field("endpoints")),
                    "endpoints" => set = Some(map.next_value_seed(List(self.0))?),
                    other => {
                        map.next_value::<IgnoredAny>()?;
                        return Err(A::Error::unknown_field(other, &["endpoints"]));
                    }
                }
            }
            set.ok_or_else(|| A::Error::missing_field("endpoints"))
        }
    }

    impl<'de> DeserializeSeed<'de> for List<'_> {
        type Value = EndpointSet;

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<EndpointSet, D::Error> {
            deserializer.deserialize_any(self)
        }
    }

    impl<'de> Visitor<'de> for List<'_> {
        type Value = EndpointSet;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of endpoints, or {NONE:?}")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<EndpointSet, E> {
            Document(self.0).visit_str(text)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<EndpointSet, A::Error> {
            let mut endpoints = Vec::new();
            while let Some(endpoint) = list.next_element_seed(Item(self.0))? {
                endpoints.push(endpoint);
            }
            Ok(endpoints.into())
        }
    }

    impl<'de> DeserializeSeed<'de> for Item<'_> {
        type Value = Endpoint;

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Endpoint, D::Error> {
            deserializer.deserialize_any(self)
        }
    }

    impl<'de> Visitor<'de> for Item<'_> {
        type Value = Endpoint;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an endpoint: host:port, or an object with `address`")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Endpoint, E> {
            self.0.parse(text).map_err(E::custom)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
            Fields::deserialize(MapAccessDeserializer::new(map))?.endpoint(self.0).map_err(A::Error::custom)
        }
    }
}

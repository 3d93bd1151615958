//! Attributes for endpoints that have none of their own.

use std::sync::Arc;

use towline_core::{Address, Endpoint, EndpointSet, Error, Target, Weight};

/// What endpoints have that say nothing else: for sources whose answers are mere addresses.
///
/// ```
/// use towline_discover::Defaults;
///
/// let defaults = Defaults::new().port(7000).tls_name("db.example");
/// let endpoint = defaults.parse("10.0.0.7")?;
/// assert_eq!(endpoint.key().as_str(), "10.0.0.7:7000");
/// assert_eq!(endpoint.target().tls_name(), Some("db.example"));
/// assert_eq!(defaults.parse("10.0.0.7:7001")?.key().as_str(), "10.0.0.7:7001");
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    port: Option<u16>,
    tls_name: Option<Arc<str>>,
    weight: Option<Weight>,
    zone: Option<Arc<str>>,
}

impl Defaults {
    /// Nothing at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// The port of addresses that are written without one, or have port 0. Where they are written, that is: in a [`File`](crate::File), and by
    /// [`parse`](Self::parse). Over a source it is for addresses of your own with port 0, since what could not be parsed is not in it.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The name that certificates are verified against, of endpoints without a [TLS name](Target::tls_name): IP addresses and Unix
    /// sockets.
    #[must_use]
    pub fn tls_name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.tls_name = Some(name.into());
        self
    }

    /// The weight of endpoints whose weight is 1, as it is when nothing was said, and when that was.
    #[must_use]
    pub fn weight(mut self, weight: Weight) -> Self {
        self.weight = Some(weight);
        self
    }

    /// The zone of endpoints without one.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<Arc<str>>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// An endpoint as people write it: `host:port`, `1.2.3.4:port`, `[v6]:port` or `unix:/path`, and without the port if there is one
    /// among these.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`](towline_core::Kind::Config) with what is wrong with it.
    pub fn parse(&self, text: &str) -> Result<Endpoint, Error> {
        text.parse().or_else(|error| self.with_port(text).ok_or(error)).map(|endpoint| self.complete(endpoint))
    }

    fn with_port(&self, text: &str) -> Option<Endpoint> {
        let port = self.port?;
        let has_port = |text: &str| text.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        if text.parse::<std::net::Ipv6Addr>().is_ok() {
            return format!("[{text}]:{port}").parse().ok();
        }
        if has_port(text) {
            return None;
        }
        format!("{text}:{port}").parse().ok()
    }

    pub(crate) fn apply(&self, set: EndpointSet) -> EndpointSet {
        if set.is_empty() {
            return set;
        }
        set.into_vec().into_iter().map(|endpoint| self.complete(endpoint)).collect()
    }

    fn complete(&self, mut endpoint: Endpoint) -> Endpoint {
        if let (Some(port), Some(address)) = (self.port, without_port(endpoint.target().address())) {
            endpoint = moved(endpoint, address(port));
        }
        if let (Some(name), None) = (&self.tls_name, endpoint.target().tls_name()) {
            endpoint = endpoint.with_tls_name(name.clone());
        }
        if let (Some(weight), Weight::ONE) = (self.weight, endpoint.weight()) {
            endpoint = endpoint.with_weight(weight);
        }
        if let (Some(zone), None) = (&self.zone, endpoint.zone()) {
            endpoint = endpoint.with_zone(zone.clone());
        }
        endpoint
    }
}

/// The same address at another port, if it has none.
fn without_port(address: &Address) -> Option<impl FnOnce(u16) -> Address + use<>> {
    let address = match address {
        Address::Ip(address) if address.port() == 0 => Address::Ip(*address),
        Address::Name { host, port: 0 } => Address::Name { host: host.clone(), port: 0 },
        _ => return None,
    };
    Some(move |new: u16| match address {
        Address::Ip(mut address) => {
            address.set_port(new);
            Address::Ip(address)
        }
        Address::Name { host, .. } => Address::Name { host, port: new },
        other => other,
    })
}

/// Moved to another address, with a key that says so, if it did before.
fn moved(endpoint: Endpoint, address: Address) -> Endpoint {
    let old = endpoint.target();
    let mut target = Target::new(address);
    if let Some(name) = old.tls_name() {
        target = target.with_tls_name(name);
    }
    let key = if endpoint.key().as_str() == old.to_string() { target.to_string() } else { endpoint.key().to_string() };
    let mut moved = Endpoint::new(key.as_str(), target)
        .with_weight(endpoint.weight())
        .with_priority(endpoint.priority())
        .with_metadata(endpoint.metadata().iter().map(|(name, value)| (name.clone(), value.clone())));
    if let Some(zone) = endpoint.zone() {
        moved = moved.with_zone(zone);
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_added_where_there_is_none_and_nowhere_else() {
        let defaults = Defaults::new().port(7);
        for (text, key) in [
            ("db.example", "db.example:7"),
            ("1.2.3.4", "1.2.3.4:7"),
            ("::1", "[::1]:7"),
            ("[::1]", "[::1]:7"),
            ("[::1]:9", "[::1]:9"),
            ("db:9", "db:9"),
            ("unix:/run/db", "unix:/run/db"),
        ] {
            assert_eq!(defaults.parse(text).unwrap().key().as_str(), key, "{text}");
        }
        for text in ["", "db:http", "db:", "db:0", "d b", "[::1]:x"] {
            assert!(defaults.parse(text).is_err(), "{text}");
        }
        let error = Defaults::new().parse("db").unwrap_err();
        assert!(error.to_string().contains("no port"), "{error}");
    }

    #[test]
    fn attributes_are_added_where_there_are_none_and_all_others_stay() {
        let half = Weight::new(0.5).unwrap();
        let defaults = Defaults::new().port(7).tls_name("db").weight(half).zone("z1");
        let bare = Endpoint::from(std::net::SocketAddr::from(([1, 2, 3, 4], 0))).with_priority(3);
        let set = defaults.apply(vec![bare].into());
        assert_eq!(set[0].key().as_str(), "1.2.3.4:7");
        assert_eq!(set[0].target().to_string(), "1.2.3.4:7");
        assert_eq!((set[0].target().tls_name(), set[0].zone(), set[0].weight()), (Some("db"), Some("z1"), half));
        assert_eq!(set[0].priority(), 3);

        let own: Endpoint = "name:1".parse().unwrap();
        let own = own.with_key("k").with_tls_name("t").with_weight(Weight::new(2.0).unwrap()).with_zone("z2");
        assert_eq!(defaults.apply(vec![own.clone()].into())[0], own);
        assert!(defaults.apply(EndpointSet::none()).is_none_on_purpose());
    }
}

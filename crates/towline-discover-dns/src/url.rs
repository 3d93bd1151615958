//! DNS in URLs.

use std::net::{IpAddr, SocketAddr};

use towline_core::Error;
use towline_discover::{Scheme, Source, SourceUrl, names};

use crate::Dns;

/// `dns:`
pub(crate) struct Names(pub(crate) Dns);

impl Scheme for Names {
    fn name(&self) -> &str {
        "dns"
    }

    fn form(&self) -> &str {
        "dns:///name:port"
    }

    fn open(&self, url: &SourceUrl) -> Result<Source, Error> {
        let dns = by_server(&self.0, url)?;
        let resolver = dns.resolver().map_err(|error| url.refused(error))?;
        let sources = names(url, |host, port| dns.addresses_by(resolver.clone(), host, port))?;
        Ok(Source::merge_all(sources))
    }
}

/// `dns+srv:`
pub(crate) struct OfServices(pub(crate) Dns);

impl Scheme for OfServices {
    fn name(&self) -> &str {
        "dns+srv"
    }

    fn form(&self) -> &str {
        "dns+srv:///_service._tcp.name"
    }

    fn open(&self, url: &SourceUrl) -> Result<Source, Error> {
        let dns = by_server(&self.0, url)?;
        let resolver = dns.resolver().map_err(|error| url.refused(error))?;
        let services = url.name().split(',').map(|name| {
            let name = name.trim();
            if name.contains(':') {
                return Err(
                    url.refused("a service has no port of its own: SRV says those of its servers; leave it out")
                );
            }
            dns.service_by(resolver.clone(), name).map_err(|error| url.refused(error))
        });
        let services: Vec<_> = services.collect::<Result<_, _>>()?;
        Ok(Source::merge_all(services))
    }
}

/// Whom the URL says to ask.
fn by_server(dns: &Dns, url: &SourceUrl) -> Result<Dns, Error> {
    let Some(server) = url.server() else { return Ok(dns.clone()) };
    let literal = server.strip_prefix('[').and_then(|server| server.strip_suffix(']')).unwrap_or(server);
    let address = match (server.parse::<SocketAddr>(), literal.parse::<IpAddr>()) {
        (Ok(address), _) => address,
        (_, Ok(ip)) => SocketAddr::new(ip, 53),
        _ => {
            let why = format!(
                "{server:?} is no address of a server of DNS; write it as 10.0.0.53, 10.0.0.53:5353 or [::1]:53"
            );
            return Err(url.refused(why));
        }
    };
    Ok(Dns { servers: vec![address], ..dns.clone() })
}

#[cfg(test)]
mod tests {
    use towline_discover::Schemes;

    use super::*;

    #[test]
    fn what_is_no_url_of_dns_is_refused_with_what_to_write() {
        let schemes = crate::register(Schemes::default());
        for (url, why) in [
            ("dns:///name", "no port"),
            ("dns://resolver/name:1", "no address of a server"),
            ("dns://10.0.0.53:x/name:1", "no address of a server"),
            ("dns+srv:///_db._tcp.example:80", "leave it out"),
            ("dns+srv:///_db._tcp.example,,", "it is empty"),
            ("dns+srv:///..", "it is empty"),
        ] {
            let said = schemes.open(url).unwrap_err().to_string();
            assert!(said.contains(why) && said.contains(url), "{url}: {said}");
        }
    }

    #[test]
    fn a_server_is_an_address_with_and_without_a_port() {
        for (server, address) in [
            ("10.0.0.53", "10.0.0.53:53"),
            ("10.0.0.53:5353", "10.0.0.53:5353"),
            ("[::1]", "[::1]:53"),
            ("[::1]:5353", "[::1]:5353"),
        ] {
            let url = format!("dns://{server}/name:1").parse().unwrap();
            assert_eq!(by_server(&Dns::new(), &url).unwrap().servers, [address.parse().unwrap()], "{server}");
        }
    }
}

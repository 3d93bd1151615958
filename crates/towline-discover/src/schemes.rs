//! Which source a URL means.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use towline_core::{Endpoint, EndpointSet, Error};

use crate::adapt::Defaults;
use crate::url::is_endpoint;
use crate::{File, Resolving, Source, SourceUrl, System};

/// A kind of source that can be written as text.
pub trait Scheme: Send + Sync + 'static {
    /// What stands before the colon, in small letters.
    fn name(&self) -> &str;

    /// How it is written, for people.
    fn form(&self) -> &str;

    /// The source that `url` means.
    ///
    /// # Errors
    ///
    /// What is wrong with it, made by [`SourceUrl::refused`].
    fn open(&self, url: &SourceUrl) -> Result<Source, Error>;
}

/// The kinds of sources that are known.
///
/// | | |
/// |---|---|
/// | `static:a:1,b:2` | [these](Source::fixed) |
/// | `file:path` | a [`File`] |
/// | `dns:///name:port` | all addresses of a name, or of several with commas between, by the [system's resolver](System) every 30 s. `towline-discover-dns` takes its place and goes by the TTL. |
///
/// Other crates bring others. Clones are cheap.
///
/// ```
/// use towline_core::{Endpoint, Error};
/// use towline_discover::{Scheme, Schemes, Source, SourceUrl};
///
/// struct Inventory;
///
/// impl Scheme for Inventory {
///     fn name(&self) -> &str {
///         "inventory"
///     }
///     fn form(&self) -> &str {
///         "inventory:rack"
///     }
///     fn open(&self, url: &SourceUrl) -> Result<Source, Error> {
///         let endpoint = format!("{}.example:7000", url.name()).parse::<Endpoint>();
///         Ok(Source::fixed([endpoint.map_err(|error| url.refused(error))?]))
///     }
/// }
///
/// let schemes = Schemes::default().with(Inventory);
/// schemes.open("inventory:r7")?;
///
/// let error = schemes.open("consul:db").unwrap_err().to_string();
/// assert!(error.contains("\"consul\" is not known; known are dns:///name:port"), "{error}");
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone)]
pub struct Schemes {
    known: BTreeMap<String, Arc<dyn Scheme>>,
}

/// Those that come with a feature of `towline`, and which.
const OPTIONAL: [(&str, &str); 1] = [("dns+srv", "dns")];

impl Default for Schemes {
    fn default() -> Self {
        Self { known: BTreeMap::new() }.with(Static).with(Files).with(SystemDns)
    }
}

impl Schemes {
    /// Knows this one, too, or in place of one with the same name.
    #[must_use]
    pub fn with(mut self, scheme: impl Scheme) -> Self {
        self.known.insert(scheme.name().to_ascii_lowercase(), Arc::new(scheme));
        self
    }

    /// The source that `url` means.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`](towline_core::Kind::Config): it is no URL, its scheme is not known (what is known is listed, and which feature is
    /// missing), or what the scheme says of it.
    pub fn open(&self, url: &str) -> Result<Source, Error> {
        let url: SourceUrl = url.parse()?;
        match self.known.get(url.scheme()) {
            Some(scheme) => scheme.open(&url),
            None if url.to_string().parse::<Endpoint>().is_ok() => Err(url.refused(is_endpoint(&url.to_string()))),
            None => Err(url.refused(self.missing(url.scheme()))),
        }
    }

    fn missing(&self, scheme: &str) -> String {
        let known: Vec<_> = self.known.values().map(|scheme| scheme.form()).collect();
        let known = known.join(", ");
        match OPTIONAL.iter().find(|(name, _)| *name == scheme) {
            Some((_, feature)) => {
                format!(
                    "{scheme:?} needs the feature `{feature}` of towline, or its scheme registered by hand; known are {known}"
                )
            }
            None => {
                let others = OPTIONAL.iter().filter(|(name, _)| !self.known.contains_key(*name));
                let others: Vec<_> =
                    others.map(|(name, feature)| format!("; {name} by the feature `{feature}`")).collect();
                format!("the scheme {scheme:?} is not known; known are {known}{}", others.concat())
            }
        }
    }
}

impl fmt::Debug for Schemes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.known.keys()).finish()
    }
}

struct Static;

impl Scheme for Static {
    fn name(&self) -> &str {
        "static"
    }

    fn form(&self) -> &str {
        "static:host:port,…"
    }

    fn open(&self, url: &SourceUrl) -> Result<Source, Error> {
        let endpoints = parts(url, url.rest(), |part| Defaults::new().parse(part))?;
        let set = EndpointSet::distinct(endpoints).map_err(|error| url.refused(error))?;
        Ok(Source::fixed(set.into_vec()))
    }
}

struct Files;

impl Scheme for Files {
    fn name(&self) -> &str {
        "file"
    }

    fn form(&self) -> &str {
        "file:path"
    }

    fn open(&self, url: &SourceUrl) -> Result<Source, Error> {
        let path = match url.rest().strip_prefix("//") {
            None => url.rest(),
            // `file://host/path`: only the one where the file is.
            Some(rest) => match rest.find('/') {
                Some(0) => rest,
                Some(slash) if rest[..slash].eq_ignore_ascii_case("localhost") => &rest[slash..],
                _ => return Err(url.refused("files are read here, and no other host; write file:path or file:///path")),
            },
        };
        File::new(path).source()
    }
}

struct SystemDns;

impl Scheme for SystemDns {
    fn name(&self) -> &str {
        "dns"
    }

    fn form(&self) -> &str {
        "dns:///name:port"
    }

    fn open(&self, url: &SourceUrl) -> Result<Source, Error> {
        if url.server().is_some() {
            return Err(url.refused(
                "the system's resolver asks whom it is set to; leave the server out, or use the feature `dns` of towline",
            ));
        }
        let sources = names(url, |host, port| Resolving::new(System::new(host, port)).source())?;
        Ok(Source::merge_all(sources))
    }
}

/// What stands between the commas.
fn parts<T>(url: &SourceUrl, list: &str, parse: impl Fn(&str) -> Result<T, Error>) -> Result<Vec<T>, Error> {
    list.split(',').map(|part| parse(part.trim()).map_err(|error| url.refused(error))).collect()
}

/// A source for every `name:port` between the commas: of a name by `resolve`, of an address itself.
///
/// # Errors
///
/// For the first that is neither.
pub fn names(
    url: &SourceUrl,
    mut resolve: impl FnMut(&str, u16) -> Result<Source, Error>,
) -> Result<Vec<Source>, Error> {
    let endpoints = parts(url, url.name(), |part| {
        let endpoint: Endpoint = part.parse()?;
        Ok(endpoint)
    })?;
    let source = |endpoint: Endpoint| match endpoint.target().address() {
        towline_core::Address::Name { host, port } => resolve(host, *port).map_err(|error| url.refused(error)),
        towline_core::Address::Ip(_) => Ok(Source::fixed([endpoint])),
        other => Err(url.refused(format!("{other} is no name to resolve; use static:"))),
    };
    endpoints.into_iter().map(source).collect()
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use towline_core::Kind;

    use super::*;
    use crate::testing::keys;

    fn refusal(url: &str) -> String {
        let error = Schemes::default().open(url).unwrap_err();
        assert_eq!(error.kind(), Kind::Config, "{url}");
        error.to_string()
    }

    #[tokio::test]
    async fn a_list_is_what_it_says() {
        let mut source = Schemes::default().open("static:a:1, [::1]:2,unix:/run/x,a:1").unwrap();
        assert_eq!(keys(source.next().await), "a:1 [::1]:2 unix:/run/x");
    }

    #[tokio::test]
    async fn a_file_is_written_in_three_ways() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("endpoints");
        std::fs::write(&path, "a:1\n").unwrap();
        for url in [
            format!("file:{}", path.display()),
            format!("file://{}", path.display()),
            format!("file://localhost{}", path.display()),
        ] {
            let mut source = Schemes::default().open(&url).unwrap();
            assert_eq!(keys(source.next().await), "a:1", "{url}");
        }
    }

    #[tokio::test]
    async fn names_and_addresses_stand_side_by_side() {
        let mut source = Schemes::default().open("dns:///localhost:7,127.0.0.9:8,[::9]:9").unwrap();
        let set = source.next().await.unwrap().unwrap();
        let all: Vec<_> = set.iter().map(|endpoint| endpoint.key().as_str()).collect();
        assert!(all.contains(&"127.0.0.9:8") && all.contains(&"[::9]:9"), "{all:?}");
        assert!(all.iter().any(|key| key.ends_with(":7")), "{all:?}");
        assert!(source.refresh().is_heard());
    }

    #[test]
    fn what_cannot_be_opened_says_what_can() {
        for (url, why) in [
            (
                "zookeeper:/x",
                "\"zookeeper\" is not known; known are dns:///name:port, file:path, static:host:port,…; dns+srv by the feature `dns`",
            ),
            ("db.example:7000", "write static:db.example:7000"),
            ("dns+srv://_x._tcp.a", "needs the feature `dns` of towline"),
            ("dns:///name", "it has no port"),
            ("dns:///name:1,", "it has no port"),
            ("dns:///unix:/x", "no name to resolve"),
            ("dns://10.0.0.53/name:1", "leave the server out"),
            ("static:a:1,b", "it has no port"),
            ("file://elsewhere/x", "no other host"),
            ("static:a:1,a:1,c", "it has no port"),
        ] {
            let said = refusal(url);
            assert!(said.contains(why) && said.contains(url), "{url}: {said}");
        }
    }

    #[cfg(not(feature = "json"))]
    #[test]
    fn a_format_that_this_build_cannot_read_is_said_when_it_is_opened() {
        assert!(refusal("file:/etc/x.json").contains("the feature `json`"));
    }
}

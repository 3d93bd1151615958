//! What is trusted, and who we are.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use native_tls::{Certificate, Identity, Protocol};
use towline_core::{Error, Kind, Phase};

/// A finished TLS client configuration. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct TlsConfig {
    connector: tokio_native_tls::TlsConnector,
    alpn: Arc<[String]>,
}

impl TlsConfig {
    /// Starts with the system's roots, no client identity, no ALPN, TLS 1.2 or later.
    pub fn builder() -> TlsConfigBuilder {
        TlsConfigBuilder::default()
    }

    /// Whether this protocol is offered by ALPN.
    pub fn offers(&self, protocol: &str) -> bool {
        self.alpn.iter().any(|offered| offered == protocol)
    }

    pub(crate) fn connector(&self) -> &tokio_native_tls::TlsConnector {
        &self.connector
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connector: _, alpn } = self;
        f.debug_struct("TlsConfig").field("alpn", alpn).finish_non_exhaustive()
    }
}

/// Collects a [`TlsConfig`]; whatever is wrong is said by [`build`](Self::build).
#[derive(Default)]
#[must_use]
pub struct TlsConfigBuilder {
    roots: Vec<Certificate>,
    system_roots: Option<bool>,
    identity: Option<Identity>,
    alpn: Vec<String>,
    error: Option<Error>,
}

impl TlsConfigBuilder {
    /// Trusts the certificates in this PEM text, and no longer the system's, unless
    /// [`system_roots(true)`](Self::system_roots) asks for both.
    pub fn root_pem(self, pem: impl AsRef<[u8]>) -> Self {
        self.add_roots(pem.as_ref(), "the given root certificates")
    }

    /// Trusts the certificates in this PEM file, see [`root_pem`](Self::root_pem). Reads the file at once, blocking.
    pub fn root_pem_file(mut self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        match std::fs::read(path) {
            Ok(pem) => self.add_roots(&pem, &format!("the root certificate file {}", path.display())),
            Err(cause) => {
                let error = config_error(format!("cannot read the root certificate file {}", path.display()));
                self.error.get_or_insert(error.with_source(cause));
                self
            }
        }
    }

    fn add_roots(mut self, pem: &[u8], what: &str) -> Self {
        match Certificate::stack_from_pem(pem) {
            Ok(roots) if !roots.is_empty() => self.roots.extend(roots),
            parsed => {
                let mut error =
                    config_error(format!("{what}: no PEM certificate (\"-----BEGIN CERTIFICATE-----\") in it"));
                if let Err(cause) = parsed {
                    error = error.with_source(cause);
                }
                self.error.get_or_insert(error);
            }
        }
        self
    }

    /// Whether the system's roots are trusted: by default only when no others are given.
    pub fn system_roots(mut self, trust: bool) -> Self {
        self.system_roots = Some(trust);
        self
    }

    /// Presents this certificate to servers that ask for one: the chain in PEM, leaf first, and its PKCS#8 key in PEM.
    pub fn identity_pem(mut self, chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        match parse_identity(chain.as_ref(), key.as_ref()) {
            Ok(identity) => self.identity = Some(identity),
            Err(error) => drop(self.error.get_or_insert(error)),
        }
        self
    }

    /// Offers these protocols by ALPN, most wanted first.
    pub fn alpn<P: Into<String>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Builds the configuration. Costs tens of milliseconds of CPU: call it once.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] naming the first thing that was wrong: a file that cannot be read, text that is no PEM,
    /// no roots at all, a key that does not match.
    pub fn build(self) -> Result<TlsConfig, Error> {
        let Self { roots, system_roots, identity, alpn, error } = self;
        if let Some(error) = error {
            return Err(error);
        }
        let system_roots = system_roots.unwrap_or(roots.is_empty());
        if roots.is_empty() && !system_roots {
            return Err(config_error("nothing is trusted: add a root certificate, or trust the system's"));
        }
        let mut builder = native_tls::TlsConnector::builder();
        builder.min_protocol_version(Some(Protocol::Tlsv12)).disable_built_in_roots(!system_roots);
        for root in roots {
            builder.add_root_certificate(root);
        }
        if let Some(identity) = identity {
            builder.identity(identity);
        }
        let offered: Vec<_> = alpn.iter().map(String::as_str).collect();
        if !offered.is_empty() {
            builder.request_alpns(&offered);
        }
        let connector = builder.build().map_err(|cause| {
            config_error("the TLS library refuses this configuration (does the key match its certificate?)")
                .with_source(cause)
        })?;
        Ok(TlsConfig { connector: connector.into(), alpn: alpn.into() })
    }
}

impl fmt::Debug for TlsConfigBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { roots, system_roots, identity, alpn, error } = self;
        f.debug_struct("TlsConfigBuilder")
            .field("roots", &roots.len())
            .field("system_roots", system_roots)
            .field("identity", &identity.is_some())
            .field("alpn", alpn)
            .field("error", error)
            .finish()
    }
}

fn config_error(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Kind::Config, Phase::Build).with_message(message)
}

const PKCS8: &str = "-----BEGIN PRIVATE KEY-----";

/// native-tls wants the key to begin with its header to the byte; tools put blank lines and attributes before it.
fn parse_identity(chain: &[u8], key: &[u8]) -> Result<Identity, Error> {
    let text = std::str::from_utf8(key).map_err(|_| config_error("the client key is no PEM text"))?;
    let Some(start) = text.find(PKCS8) else {
        let found = text.lines().find(|line| line.starts_with("-----BEGIN")).unwrap_or("no PEM header");
        return Err(config_error(format!(
            "the client key is no PKCS#8 PEM ({found}); convert it: openssl pkcs8 -topk8 -nocrypt -in KEY -out KEY.pk8"
        )));
    };
    Identity::from_pkcs8(chain, &text.as_bytes()[start..])
        .map_err(|cause| config_error("the client certificate and key cannot be used").with_source(cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certified() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn refused(builder: TlsConfigBuilder) -> String {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        error.to_string()
    }

    #[test]
    fn a_root_that_is_no_pem_is_refused_when_building() {
        for bad in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(refused(TlsConfig::builder().root_pem(bad)).contains("no PEM certificate"), "{bad:?}");
        }
    }

    #[test]
    fn a_root_file_is_named_when_it_is_missing_or_no_pem() {
        let path = std::env::temp_dir().join(format!("towline-{}-no.pem", std::process::id()));
        let name = path.display().to_string();
        let missing = refused(TlsConfig::builder().root_pem_file(&path));
        assert!(missing.contains("cannot read") && missing.contains(&name), "{missing}");
        std::fs::write(&path, "not a certificate").unwrap();
        let garbage = refused(TlsConfig::builder().root_pem_file(&path));
        std::fs::remove_file(&path).unwrap();
        assert!(garbage.contains("no PEM certificate") && garbage.contains(&name), "{garbage}");
    }

    #[test]
    fn trusting_nobody_is_refused_when_building() {
        assert!(refused(TlsConfig::builder().system_roots(false)).contains("nothing is trusted"));
    }

    #[test]
    fn a_key_with_blank_lines_and_attributes_before_it_is_accepted() {
        let (cert, key) = certified();
        let key = format!("\nBag Attributes\n    friendlyName: x\n{key}");
        TlsConfig::builder().root_pem(&cert).identity_pem(&cert, key).build().unwrap();
    }

    #[test]
    fn a_key_in_another_format_names_the_command_that_converts_it() {
        let (cert, key) = certified();
        let sec1 = key.replace("PRIVATE KEY", "EC PRIVATE KEY");
        let said = refused(TlsConfig::builder().identity_pem(cert, sec1));
        assert!(said.contains("BEGIN EC PRIVATE KEY") && said.contains("openssl pkcs8"), "{said}");
    }

    #[test]
    fn a_key_that_does_not_match_is_refused_when_building() {
        let ((cert, _), (_, other)) = (certified(), certified());
        refused(TlsConfig::builder().root_pem(&cert).identity_pem(&cert, other));
    }
}

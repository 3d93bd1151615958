//! What is trusted, who we are, and how both change while connections are made.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::io::{AsyncRead, AsyncWrite};
use towline_core::sync::Lock;
use towline_core::{BoxError, Error, Event, Kind, Observers, Phase, TlsPeer, peer};

use crate::error::{TlsError, TlsErrorKind, refused};
use crate::material::{Contents, IdentitySource, Material, Source, Sources};
use crate::stream::{Stream, TlsStream};

/// Which library does TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsBackend {
    /// The system's (OpenSSL on Linux), by native-tls. The default.
    #[cfg(feature = "native-tls")]
    NativeTls,
    /// rustls, which resumes sessions. The default where the other is not built in.
    #[cfg(feature = "rustls")]
    Rustls,
}

#[cfg(feature = "native-tls")]
const BACKEND: TlsBackend = TlsBackend::NativeTls;
#[cfg(all(feature = "rustls", not(feature = "native-tls")))]
const BACKEND: TlsBackend = TlsBackend::Rustls;

/// The least version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2 or later. The default; what is older is broken (RFC 8996).
    #[default]
    V1_2,
    /// TLS 1.3. On macOS only with [`TlsBackend`] rustls.
    V1_3,
}

/// A TLS client configuration that can be replaced while it is in use. Cheap to clone; clones share it, and what it is
/// replaced by.
///
/// Each handshake takes what is current when it begins. Connections that are open stay as they are: how long, says the pool's
/// greatest lifetime, which spreads their ends in time.
///
/// ```
/// use std::time::Duration;
/// use towline_tls::TlsConfig;
///
/// # async fn demo() -> Result<(), towline_core::Error> {
/// let config = TlsConfig::builder()
///     .root_pem_file("/etc/db/ca.pem")
///     .identity_pem_files("/etc/db/client.pem", "/etc/db/client.key")
///     .build()?;
/// tokio::spawn(config.watch(Duration::from_secs(10)));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TlsConfig(Arc<Shared>);

struct Shared {
    current: ArcSwap<Current>,
    latest: Lock<Latest>,
}

/// What the next reload builds from.
struct Latest {
    builder: TlsConfigBuilder,
    generation: u64,
}

/// What a handshake needs.
struct Current {
    connector: Connector,
    alpn: Vec<String>,
    requires_alpn: bool,
    verify: Option<Arc<VerifyPeer>>,
    /// Of what it was built from.
    fingerprint: u64,
}

type VerifyPeer = dyn Fn(&TlsPeer) -> Result<(), BoxError> + Send + Sync;

enum Connector {
    #[cfg(feature = "native-tls")]
    NativeTls(crate::native::Connector),
    #[cfg(feature = "rustls")]
    Rustls(crate::rustls::Connector),
}

impl TlsConfig {
    /// Starts with the system's roots, no client identity, no ALPN, TLS 1.2 or later.
    pub fn builder() -> TlsConfigBuilder {
        TlsConfigBuilder::default()
    }

    /// Whether this protocol is offered by ALPN.
    pub fn offers(&self, protocol: &str) -> bool {
        self.0.current.load().alpn.iter().any(|offered| offered == protocol)
    }

    /// Reads all files again, and says whether anything in them was new. Handshakes from now on use it. Blocking, and tens of
    /// milliseconds of CPU where something is new: not for async threads, see [`watch`](Self::watch).
    ///
    /// # Errors
    ///
    /// As [`TlsConfigBuilder::build`]; the configuration is then what it was.
    pub fn reload(&self) -> Result<bool, Error> {
        let (builder, generation) = self.0.builder();
        self.0.reload(&builder, generation, builder.sources.read()?)
    }

    /// Handshakes from now on are by what `builder` says, and so is what [`reload`](Self::reload) reads, and where events go.
    /// Blocking, and tens of milliseconds of CPU: not for async threads. A reload that is under way comes to nothing.
    ///
    /// # Errors
    ///
    /// As [`TlsConfigBuilder::build`]; the configuration is then what it was.
    pub fn replace(&self, builder: TlsConfigBuilder) -> Result<(), Error> {
        let next = builder.build_current()?;
        let mut latest = self.0.latest.lock();
        *latest = Latest { builder, generation: latest.generation + 1 };
        self.0.current.store(Arc::new(next));
        Ok(())
    }

    /// Looks at the files every so often (a millisecond at the least) and takes what is new: to be spawned. Ends when the last
    /// clone of the configuration is gone.
    ///
    /// Files are read, and configurations built, by the runtime's blocking threads. What is bad changes nothing, and is tried
    /// again: the event [`TlsReloadFailed`](Event::TlsReloadFailed) says why, once for each version of the files, and
    /// [`TlsReloaded`](Event::TlsReloaded) tells of what was taken. A certificate that is there before its key is bad until
    /// that is there too. Contents are compared, so that links may be swapped.
    pub fn watch(&self, every: Duration) -> impl Future<Output = ()> + Send + 'static {
        let shared = Arc::downgrade(&self.0);
        async move {
            let mut told = None;
            loop {
                tokio::time::sleep(every.max(Duration::from_millis(1))).await;
                let Some(shared) = shared.upgrade() else { return };
                // A panic in there is a bug, which the thread that it happens in reports; the next look may go better.
                let looked = tokio::task::spawn_blocking(move || shared.look(told));
                told = looked.await.unwrap_or_default();
            }
        }
    }

    /// A handshake by what is current.
    pub(crate) async fn connect<S>(&self, name: String, io: S) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let current = self.0.current.load_full();
        let (stream, peer) = match &current.connector {
            #[cfg(feature = "native-tls")]
            Connector::NativeTls(connector) => {
                let (stream, peer) = connector.connect(&name, io).await?;
                (Stream::NativeTls { stream }, peer)
            }
            #[cfg(feature = "rustls")]
            Connector::Rustls(connector) => {
                let (stream, peer) = connector.connect(&name, io).await?;
                (Stream::Rustls { stream: Box::new(stream) }, peer)
            }
        };
        let is_offered = |alpn: &[u8]| current.alpn.iter().any(|offered| offered.as_bytes() == alpn);
        if current.requires_alpn && !peer.alpn().is_some_and(is_offered) {
            return Err(TlsError::new(TlsErrorKind::NoProtocol, name));
        }
        if let Some(verify) = &current.verify {
            verify(&peer).map_err(|cause| TlsError::new(TlsErrorKind::Unwanted, name.clone()).with_source(cause))?;
        }
        let peer = Arc::new(peer);
        peer::introduce(&peer);
        Ok(TlsStream::new(stream, peer, name))
    }
}

impl Shared {
    fn builder(&self) -> (TlsConfigBuilder, u64) {
        let latest = self.latest.lock();
        (latest.builder.clone(), latest.generation)
    }

    /// Whether something was new in what was read, and was taken.
    fn reload(&self, builder: &TlsConfigBuilder, generation: u64, contents: Contents) -> Result<bool, Error> {
        if contents.fingerprint() == self.current.load().fingerprint {
            return Ok(false);
        }
        let next = Arc::new(builder.build_from(&contents)?);
        // Building takes long enough for the builder to be replaced meanwhile, which counts.
        let latest = self.latest.lock();
        let is_latest = latest.generation == generation;
        if is_latest {
            self.current.store(next);
        }
        Ok(is_latest)
    }

    /// Takes what has changed; what is no good, and was already told of.
    fn look(&self, told: Option<Failed>) -> Option<Failed> {
        let (builder, generation) = self.builder();
        if !builder.sources.has_files() {
            return None;
        }
        let read = builder.sources.read();
        let version = match &read {
            Ok(contents) => Failed::Contents(contents.fingerprint()),
            Err(error) => Failed::ToRead(error.to_string()),
        };
        match read.and_then(|contents| self.reload(&builder, generation, contents)) {
            Ok(false) => None,
            Ok(true) => {
                builder.observers.emit(Event::TlsReloaded);
                None
            }
            Err(error) => {
                if told.as_ref() != Some(&version) {
                    builder.observers.emit(Event::TlsReloadFailed { error: &error });
                }
                Some(version)
            }
        }
    }
}

/// A version of the files that was no good.
#[derive(PartialEq)]
enum Failed {
    Contents(u64),
    ToRead(String),
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig").field("builder", &self.0.latest.lock().builder).finish_non_exhaustive()
    }
}

/// What libraries have in common.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) backend: TlsBackend,
    pub(crate) min_version: TlsVersion,
    pub(crate) system_roots: Option<bool>,
    pub(crate) alpn: Vec<String>,
    pub(crate) accepts_any_certificate: bool,
    pub(crate) accepts_any_name: bool,
}

impl Settings {
    pub(crate) fn trusts_system(&self, material: &Material) -> bool {
        self.system_roots.unwrap_or(material.roots.is_empty())
    }
}

/// Collects a [`TlsConfig`]; whatever is wrong is said by [`build`](Self::build).
#[derive(Clone)]
#[must_use]
pub struct TlsConfigBuilder {
    settings: Settings,
    sources: Sources,
    requires_alpn: bool,
    verify: Option<Arc<VerifyPeer>>,
    observers: Observers,
}

impl Default for TlsConfigBuilder {
    fn default() -> Self {
        Self {
            settings: Settings {
                backend: BACKEND,
                min_version: TlsVersion::default(),
                system_roots: None,
                alpn: Vec::new(),
                accepts_any_certificate: false,
                accepts_any_name: false,
            },
            sources: Sources::default(),
            requires_alpn: false,
            verify: None,
            observers: Observers::default(),
        }
    }
}

impl TlsConfigBuilder {
    /// Which library does TLS: native-tls by default, where both are built in.
    pub fn backend(mut self, backend: TlsBackend) -> Self {
        self.settings.backend = backend;
        self
    }

    /// The least version that is spoken: TLS 1.2 by default.
    pub fn min_version(mut self, version: TlsVersion) -> Self {
        self.settings.min_version = version;
        self
    }

    /// Trusts the certificates in this PEM text, and no longer the system's, unless
    /// [`system_roots(true)`](Self::system_roots) asks for both.
    pub fn root_pem(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.sources.roots.push(given(pem));
        self
    }

    /// Trusts the certificates in this PEM file, see [`root_pem`](Self::root_pem). It is read when the configuration is built,
    /// and when it is [reloaded](TlsConfig::watch).
    pub fn root_pem_file(mut self, path: impl AsRef<Path>) -> Self {
        self.sources.roots.push(file(path));
        self
    }

    /// Whether the system's roots are trusted: by default only when no others are given.
    pub fn system_roots(mut self, trust: bool) -> Self {
        self.settings.system_roots = Some(trust);
        self
    }

    /// Presents this certificate to servers that ask for one: the chain in PEM, its own certificate first, and its key in PEM
    /// (PKCS#8, PKCS#1 or SEC1; whatever stands before it is skipped).
    pub fn identity_pem(mut self, chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        self.sources.identity = Some(IdentitySource::Pem { chain: given(chain), key: given(key) });
        self
    }

    /// As [`identity_pem`](Self::identity_pem), from two files, or twice the same one. They are read when the configuration is
    /// built, and when it is [reloaded](TlsConfig::watch).
    pub fn identity_pem_files(mut self, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.sources.identity = Some(IdentitySource::Pem { chain: file(chain), key: file(key) });
        self
    }

    /// Presents the certificate in this PKCS#12 archive. Opened by native-tls, which has to be built in, also for rustls; on
    /// Linux it is looked into like PEM, elsewhere only native-tls itself takes it, as it is.
    pub fn identity_pkcs12(mut self, archive: impl AsRef<[u8]>, password: impl Into<Arc<str>>) -> Self {
        self.sources.identity = Some(IdentitySource::Pkcs12 { archive: given(archive), password: password.into() });
        self
    }

    /// As [`identity_pkcs12`](Self::identity_pkcs12), from a file, which is read when the configuration is built, and when it
    /// is [reloaded](TlsConfig::watch).
    pub fn identity_pkcs12_file(mut self, path: impl AsRef<Path>, password: impl Into<Arc<str>>) -> Self {
        self.sources.identity = Some(IdentitySource::Pkcs12 { archive: file(path), password: password.into() });
        self
    }

    /// Offers these protocols by ALPN, most wanted first.
    pub fn alpn<P: Into<String>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.settings.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Whether a peer that chooses none of the offered protocols is refused, with [`TlsErrorKind::NoProtocol`]. By default it
    /// is not, and whoever speaks the protocol above looks at [`TlsStream::negotiated_alpn`](crate::TlsStream).
    pub fn require_alpn(mut self, required: bool) -> Self {
        self.requires_alpn = required;
        self
    }

    /// Asks `verify` about every peer whose certificate is good, before the connection is used: to pin a certificate, or to
    /// authorise who is at the other end. What it fails with is the source of the [`TlsError`], whose kind is
    /// [`TlsErrorKind::Unwanted`]. Called at every handshake, by async threads.
    ///
    /// ```
    /// use towline_tls::TlsConfig;
    ///
    /// let pinned = std::collections::HashSet::from([vec![0x30, 0x82]]);
    /// let config = TlsConfig::builder()
    ///     .verify_peer(move |peer| match peer.certificate() {
    ///         Some(certificate) if pinned.contains(certificate) => Ok(()),
    ///         _ => Err("not one of ours".into()),
    ///     })
    ///     .build()?;
    /// # drop(config);
    /// # Ok::<(), towline_core::Error>(())
    /// ```
    pub fn verify_peer<F>(mut self, verify: F) -> Self
    where
        F: Fn(&TlsPeer) -> Result<(), BoxError> + Send + Sync + 'static,
    {
        self.verify = Some(Arc::new(verify));
        self
    }

    /// Takes any certificate of anybody, for any name: there is no protection from who stands in between. Every configuration
    /// that is built like this says so by [`TlsWeakened`](Event::TlsWeakened). For tests; trusting the test's own root is no
    /// more work.
    pub fn danger_accept_invalid_certs(mut self, accept: bool) -> Self {
        self.settings.accepts_any_certificate = accept;
        self
    }

    /// Takes a certificate for any name: whoever has one of any of the trusted authorities can stand in between. Every
    /// configuration that is built like this says so by [`TlsWeakened`](Event::TlsWeakened). See
    /// [`Target::with_tls_name`](towline_core::Target::with_tls_name), which verifies another name.
    pub fn danger_accept_invalid_names(mut self, accept: bool) -> Self {
        self.settings.accepts_any_name = accept;
        self
    }

    /// Where events go: reloads, and what is weakened.
    pub fn observers(mut self, observers: Observers) -> Self {
        self.observers = observers;
        self
    }

    /// Builds the configuration. Reads files, blocking, and costs tens of milliseconds of CPU: call it once, at start, or
    /// [`build_async`](Self::build_async).
    ///
    /// # Errors
    ///
    /// [`Kind::Config`](towline_core::Kind::Config) naming the first thing that was wrong: a file that cannot be read, text that
    /// is no PEM, no roots at all, a key in a format that nobody reads or that does not match, a client certificate that has
    /// expired, a required protocol where none is offered.
    pub fn build(self) -> Result<TlsConfig, Error> {
        let current = ArcSwap::from_pointee(self.build_current()?);
        let latest = Lock::new(Latest { builder: self, generation: 0 });
        Ok(TlsConfig(Arc::new(Shared { current, latest })))
    }

    /// As [`build`](Self::build), by one of the runtime's blocking threads, for who has begun to serve already. Once begun it is
    /// finished, even when nobody waits for it.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build), and [`Kind::Runtime`] when the runtime shuts down meanwhile.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn build_async(self) -> Result<TlsConfig, Error> {
        match tokio::task::spawn_blocking(|| self.build()).await {
            Ok(built) => built,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(cancelled) => Err(Error::new(Kind::Runtime, Phase::Build).with_source(cancelled)),
            },
        }
    }

    fn build_current(&self) -> Result<Current, Error> {
        self.build_from(&self.sources.read()?)
    }

    fn build_from(&self, contents: &Contents) -> Result<Current, Error> {
        let Self { settings, requires_alpn, verify, observers, .. } = self;
        let material = contents.parse(SystemTime::now())?;
        let trusts_nobody = material.roots.is_empty() && !settings.trusts_system(&material);
        if trusts_nobody && !settings.accepts_any_certificate {
            return Err(refused("nothing is trusted: add a root certificate, or trust the system's"));
        }
        if *requires_alpn && settings.alpn.is_empty() {
            return Err(refused("require_alpn() is set and alpn() offers nothing: say which protocols"));
        }
        if let Some(bad) = settings.alpn.iter().find(|protocol| !(1..=255).contains(&protocol.len())) {
            return Err(refused(format!("a protocol of ALPN has from 1 to 255 bytes, not {}: {bad:?}", bad.len())));
        }
        let connector = match settings.backend {
            #[cfg(feature = "native-tls")]
            TlsBackend::NativeTls => Connector::NativeTls(crate::native::build(settings, &material)?),
            #[cfg(feature = "rustls")]
            TlsBackend::Rustls => Connector::Rustls(crate::rustls::build(settings, &material)?),
        };
        for (weakened, what) in [
            (settings.accepts_any_certificate, "any certificate is accepted"),
            (settings.accepts_any_name, "a certificate for any name is accepted"),
        ] {
            if weakened {
                observers.emit(Event::TlsWeakened { what });
            }
        }
        let fingerprint = contents.fingerprint();
        let alpn = settings.alpn.clone();
        Ok(Current { connector, alpn, requires_alpn: *requires_alpn, verify: verify.clone(), fingerprint })
    }
}

fn given(bytes: impl AsRef<[u8]>) -> Source {
    Source::Given(bytes.as_ref().into())
}

fn file(path: impl AsRef<Path>) -> Source {
    Source::File(path.as_ref().to_owned())
}

// Without keys and passwords.
impl fmt::Debug for TlsConfigBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { settings, sources, requires_alpn, verify, observers: _ } = self;
        let Settings { backend, min_version, system_roots, alpn, accepts_any_certificate, accepts_any_name } = settings;
        f.debug_struct("TlsConfigBuilder")
            .field("backend", backend)
            .field("min_version", min_version)
            .field("roots", &sources.roots.len())
            .field("system_roots", system_roots)
            .field("identity", &sources.identity.is_some())
            .field("alpn", alpn)
            .field("requires_alpn", requires_alpn)
            .field("verifies_peer", &verify.is_some())
            .field("accepts_any_certificate", accepts_any_certificate)
            .field("accepts_any_name", accepts_any_name)
            .finish()
    }
}

#[cfg(test)]
mod tests;

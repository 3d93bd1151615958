//! Certificates and keys: where they come from, and what is wrong with them. Parsed alike for both libraries, so that
//! errors do not depend on which one is used.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use towline_core::{Error, stable_hash};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use crate::error::refused;

/// Where something is read from, each time a configuration is built.
#[derive(Clone)]
pub(crate) enum Source {
    Given(Arc<[u8]>),
    File(PathBuf),
}

impl Source {
    /// `what` is in it, with its place.
    fn name(&self, what: &str) -> String {
        match self {
            Self::Given(_) => format!("the given {what}"),
            Self::File(path) => format!("the {what} file {}", path.display()),
        }
    }

    fn read(&self, what: &str) -> Result<Read, Error> {
        let name = self.name(what);
        let bytes = match self {
            Self::Given(bytes) => bytes.clone(),
            Self::File(path) => match std::fs::read(path) {
                Ok(bytes) => bytes.into(),
                Err(cause) => return Err(refused(format!("cannot read {name}")).with_source(cause)),
            },
        };
        Ok(Read { name, bytes })
    }
}

/// What was read, and from where.
pub(crate) struct Read {
    name: String,
    bytes: Arc<[u8]>,
}

impl Read {
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let bad = || refused(format!("{}: no PEM certificate (\"-----BEGIN CERTIFICATE-----\") in it", self.name));
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&self.bytes)
            .collect::<Result<_, _>>()
            .map_err(|cause| bad().with_source(what_is_wrong(&cause)))?;
        if certificates.is_empty() {
            return Err(bad());
        }
        // More is for the library to say: bundles have certificates in them that it reads and we do not.
        const SEQUENCE: u8 = 0x30;
        if certificates.iter().any(|certificate| certificate.first() != Some(&SEQUENCE)) {
            return Err(refused(format!("{}: one of the certificates in it is none", self.name)));
        }
        Ok(certificates)
    }

    /// Whatever stands before it, and in whichever of the three usual formats.
    fn key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(|cause| {
            let text = String::from_utf8_lossy(&self.bytes);
            let found = KEYS.into_iter().find(|label| text.contains(&format!("-----BEGIN {label}-----")));
            let found = found.unwrap_or("none that is known");
            let command = if text.contains("ENCRYPTED") {
                "openssl pkey -in KEY -out KEY.plain"
            } else {
                "openssl pkey -in KEY -out KEY.pem"
            };
            let name = &self.name;
            refused(format!("{name}: no private key in PEM that can be read (found: {found}); convert it: {command}"))
                .with_source(what_is_wrong(&cause))
        })
    }
}

/// What may stand in the place of a key. Nothing else of a file is ever shown: in one whose line ends are lost, the key
/// itself is in the line of its header.
const KEYS: [&str; 7] = [
    "ENCRYPTED PRIVATE KEY",
    "PUBLIC KEY",
    "OPENSSH PRIVATE KEY",
    "DSA PRIVATE KEY",
    "RSA PRIVATE KEY",
    "EC PRIVATE KEY",
    "PRIVATE KEY",
];

/// Without the bytes that it was found at, which may be the key's.
fn what_is_wrong(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::NoItemsFound => "nothing of the kind is in it",
        pem::Error::MissingSectionEnd { .. } => "a section has no end line of its own",
        pem::Error::IllegalSectionStart { .. } => "a section begins in a line that has more in it, or is cut off",
        pem::Error::Base64Decode(_) => "a section is no base64",
        _ => "it is no PEM",
    }
}

/// Where our certificate and its key come from.
#[derive(Clone)]
pub(crate) enum IdentitySource {
    Pem { chain: Source, key: Source },
    Pkcs12 { archive: Source, password: Arc<str> },
}

/// What was read of it.
pub(crate) enum ReadIdentity {
    Pem { chain: Read, key: Read },
    Pkcs12 { archive: Read, password: Arc<str> },
}

/// Where everything comes from.
#[derive(Clone, Default)]
pub(crate) struct Sources {
    pub(crate) roots: Vec<Source>,
    pub(crate) identity: Option<IdentitySource>,
}

impl Sources {
    pub(crate) fn read(&self) -> Result<Contents, Error> {
        let roots = self.roots.iter().map(|source| source.read("root certificate")).collect::<Result<_, _>>()?;
        let identity = match &self.identity {
            None => None,
            Some(IdentitySource::Pem { chain, key }) => {
                let certificates = chain.read("client certificate")?;
                // One file is read once, so that certificate and key are of one version.
                let key = match (chain, key) {
                    (Source::File(chain), Source::File(same)) if chain == same => {
                        Read { name: certificates.name.clone(), bytes: certificates.bytes.clone() }
                    }
                    _ => key.read("client key")?,
                };
                Some(ReadIdentity::Pem { chain: certificates, key })
            }
            Some(IdentitySource::Pkcs12 { archive, password }) => {
                Some(ReadIdentity::Pkcs12 { archive: archive.read("PKCS#12")?, password: password.clone() })
            }
        };
        Ok(Contents { roots, identity })
    }

    /// Whether anything of it can change by itself.
    pub(crate) fn has_files(&self) -> bool {
        let is_file = |source: &Source| matches!(source, Source::File(_));
        self.roots.iter().any(is_file)
            || match &self.identity {
                Some(IdentitySource::Pem { chain, key }) => is_file(chain) || is_file(key),
                Some(IdentitySource::Pkcs12 { archive, .. }) => is_file(archive),
                None => false,
            }
    }
}

/// The contents of all sources at one time.
pub(crate) struct Contents {
    roots: Vec<Read>,
    identity: Option<ReadIdentity>,
}

impl Contents {
    /// Tells one version from the next.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut all: Vec<&Read> = self.roots.iter().collect();
        match &self.identity {
            Some(ReadIdentity::Pem { chain, key }) => all.extend([chain, key]),
            Some(ReadIdentity::Pkcs12 { archive, .. }) => all.push(archive),
            None => {}
        }
        let hashes: Vec<u8> = all.iter().flat_map(|read| stable_hash(&read.bytes).to_le_bytes()).collect();
        stable_hash(&hashes)
    }

    pub(crate) fn parse(&self, now: SystemTime) -> Result<Material, Error> {
        let mut roots = self.roots.iter().map(Read::certificates).collect::<Result<Vec<_>, _>>()?.concat();
        let given = roots.len();
        // rustls would trust a root for ever.
        roots.retain(|root| parse(root).map_or(true, |root| until(&root) > now));
        if roots.is_empty() && given > 0 {
            return Err(refused(format!("every given root certificate has expired, of {given}")));
        }
        let identity = match &self.identity {
            None => None,
            Some(ReadIdentity::Pem { chain, key }) => {
                Some(Identity::pem(&chain.name, chain.certificates()?, key.key()?, now)?)
            }
            Some(ReadIdentity::Pkcs12 { archive, password }) => Some(Identity::pkcs12(archive, password, now)?),
        };
        Ok(Material { roots, identity })
    }
}

/// An identity that is over is found out now, and not by every server in turn.
fn is_in_time(certificate: &CertificateDer<'_>, name: &str, now: SystemTime) -> Result<(), Error> {
    let parsed = parse(certificate).map_err(|cause| refused(format!("{name} cannot be read")).with_source(cause))?;
    let validity = parsed.tbs_certificate().validity();
    if now > until(&parsed) {
        return Err(refused(format!("{name} has expired: it was valid until {}", validity.not_after)));
    }
    if now < validity.not_before.to_system_time() {
        return Err(refused(format!("{name} is not valid yet: it will be from {} on", validity.not_before)));
    }
    Ok(())
}

fn until(certificate: &Certificate) -> SystemTime {
    certificate.tbs_certificate().validity().not_after.to_system_time()
}

pub(crate) fn parse(certificate: &[u8]) -> Result<Certificate, x509_cert::der::Error> {
    Certificate::from_der(certificate)
}

/// Our certificate and its key.
pub(crate) enum Identity {
    Pem {
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    },
    /// Where only the library itself can open it.
    #[cfg(not(all(feature = "native-tls", target_os = "linux")))]
    #[cfg_attr(not(feature = "native-tls"), expect(dead_code, reason = "rustls refuses it by its name"))]
    Pkcs12 {
        name: String,
        archive: Arc<[u8]>,
        password: Arc<str>,
    },
}

impl Identity {
    fn pem(
        name: &str,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        now: SystemTime,
    ) -> Result<Self, Error> {
        is_in_time(&chain[0], name, now)?;
        Ok(Self::Pem { chain, key })
    }

    #[cfg(all(feature = "native-tls", target_os = "linux"))]
    fn pkcs12(archive: &Read, password: &str, now: SystemTime) -> Result<Self, Error> {
        let Read { name, bytes } = archive;
        let (chain, key) = crate::pkcs12::open(name, bytes, password)?;
        Self::pem(name, chain, key, now)
    }

    #[cfg(not(all(feature = "native-tls", target_os = "linux")))]
    fn pkcs12(archive: &Read, password: &Arc<str>, _now: SystemTime) -> Result<Self, Error> {
        let Read { name, bytes } = archive;
        Ok(Self::Pkcs12 { name: name.clone(), archive: bytes.clone(), password: password.clone() })
    }
}

/// What a library builds its configuration from.
pub(crate) struct Material {
    pub(crate) roots: Vec<CertificateDer<'static>>,
    pub(crate) identity: Option<Identity>,
}

//! An authority that lives for one test, and what it signs.

use std::io;
use std::ops::Range;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use time::{Duration, OffsetDateTime};

/// A certificate authority made in memory.
#[derive(Debug)]
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, both in PEM.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The certificate.
    pub cert_pem: String,
    /// The key, PKCS#8.
    pub key_pem: String,
}

impl Authority {
    /// Makes an authority of this name. Names must differ: OpenSSL finds issuers by them.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("the system has randomness");
        let pem = params.self_signed(&key).expect("the parameters are complete").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// The authority's own certificate, to be trusted.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for these DNS names and IP addresses that is valid now.
    pub fn certify(&self, names: &[&str]) -> Certified {
        self.certify_for_days(names, -1..1)
    }

    /// A certificate that is valid for these days, counted from now.
    pub fn certify_for_days(&self, names: &[&str], days: Range<i64>) -> Certified {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names are ASCII");
        params.distinguished_name.push(DnType::CommonName, "towline testbed");
        let now = OffsetDateTime::now_utc();
        params.not_before = now + Duration::days(days.start);
        params.not_after = now + Duration::days(days.end);
        let key = KeyPair::generate().expect("the system has randomness");
        let cert = params.signed_by(&key, &self.issuer).expect("the parameters are complete");
        Certified { cert_pem: cert.pem(), key_pem: key.serialize_pem() }
    }
}

impl Certified {
    /// The server's side of TLS with this certificate, TLS 1.2 or later.
    ///
    /// # Errors
    ///
    /// When certificate and key do not fit.
    pub fn acceptor(&self) -> io::Result<tokio_native_tls::TlsAcceptor> {
        self.acceptor_with_alpn(&[])
    }

    /// As [`acceptor`](Self::acceptor), accepting these protocols by ALPN.
    ///
    /// # Errors
    ///
    /// When certificate and key do not fit.
    pub fn acceptor_with_alpn(&self, protocols: &[&str]) -> io::Result<tokio_native_tls::TlsAcceptor> {
        let identity = native_tls::Identity::from_pkcs8(self.cert_pem.as_bytes(), self.key_pem.as_bytes());
        let mut builder = native_tls::TlsAcceptor::builder(identity.map_err(io::Error::other)?);
        builder.min_protocol_version(Some(native_tls::Protocol::Tlsv12));
        builder.accept_alpn(protocols);
        Ok(builder.build().map_err(io::Error::other)?.into())
    }
}

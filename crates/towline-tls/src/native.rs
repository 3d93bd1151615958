//! TLS by the system's library.
//!
//! native-tls keeps the result of the verification to itself and hands out text, so the text is matched: in this file and
//! nowhere else, against the matrix of certificates in the tests, with the general kinds for what is not known.

use std::error::Error as StdError;
use std::io;
use std::net::IpAddr;

use native_tls::{Certificate, Protocol};
use pkcs8::der::asn1::{AnyRef, OctetStringRef};
use pkcs8::der::{Decode, Encode, pem};
use pkcs8::spki::AlgorithmIdentifier;
use pkcs8::{ObjectIdentifier, PrivateKeyInfoRef};
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncWrite};
use towline_core::{Error, TlsPeer};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::TlsVersion;
use crate::config::Settings;
use crate::error::{TlsError, TlsErrorKind, refused};
use crate::material::{Identity, Material, parse};

/// Offers what it was built with.
#[derive(Clone)]
pub(crate) struct Connector {
    connector: tokio_native_tls::TlsConnector,
    checks_name: bool,
}

pub(crate) type Stream<S> = tokio_native_tls::TlsStream<S>;

pub(crate) fn build(settings: &Settings, material: &Material) -> Result<Connector, Error> {
    #[cfg(target_os = "linux")]
    if settings.trusts_system(material) && !settings.accepts_any_certificate {
        has_system_roots()?;
    }
    let mut builder = native_tls::TlsConnector::builder();
    let least = match settings.min_version {
        TlsVersion::V1_2 => Protocol::Tlsv12,
        TlsVersion::V1_3 => Protocol::Tlsv13,
    };
    builder
        .min_protocol_version(Some(least))
        .disable_built_in_roots(!settings.trusts_system(material))
        .danger_accept_invalid_certs(settings.accepts_any_certificate)
        .danger_accept_invalid_hostnames(settings.accepts_any_name);
    for root in &material.roots {
        let root = Certificate::from_der(root);
        builder.add_root_certificate(
            root.map_err(|cause| refused("the TLS library refuses one of the root certificates").with_source(cause))?,
        );
    }
    if let Some(identity) = &material.identity {
        builder.identity(identity_of(identity)?);
    }
    let offered: Vec<_> = settings.alpn.iter().map(String::as_str).collect();
    if !offered.is_empty() {
        builder.request_alpns(&offered);
    }
    let connector = builder.build().map_err(|cause| {
        refused("the TLS library refuses this configuration (does the key match its certificate?)").with_source(cause)
    })?;
    let checks_name = !settings.accepts_any_certificate && !settings.accepts_any_name;
    Ok(Connector { connector: connector.into(), checks_name })
}

/// OpenSSL does not mind when there are none, and refuses everybody.
#[cfg(target_os = "linux")]
fn has_system_roots() -> Result<(), Error> {
    let found = openssl_probe::probe();
    if found.cert_file.is_none() && found.cert_dir.is_empty() {
        return Err(refused(
            "there are no root certificates of the system: install ca-certificates, name them by SSL_CERT_FILE, or say whom to \
             trust",
        ));
    }
    Ok(())
}

impl Connector {
    pub(crate) async fn connect<S>(&self, name: &str, io: S) -> Result<(Stream<S>, TlsPeer), TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = self.connector.connect(name, io).await.map_err(|cause| {
            let kind = classify(&cause);
            TlsError::new(kind, name).with_source(cause)
        })?;
        let session = stream.get_ref();
        let failed = |cause: native_tls::Error| TlsError::new(TlsErrorKind::Other, name).with_source(cause);
        let own = session.peer_certificate().map_err(failed)?;
        let own = own.map(|own| own.to_der()).transpose().map_err(failed)?;
        // An IP address is matched with entries of its own, and with nothing else.
        if self.checks_name && name.parse::<IpAddr>().is_err() {
            let unreadable = |cause| TlsError::new(TlsErrorKind::Other, name).with_source(cause);
            if !has_dns_name(own.as_deref().unwrap_or_default()).map_err(unreadable)? {
                return Err(TlsError::new(TlsErrorKind::WrongName, name).with_source(
                    "the certificate has its name only as common name, which nobody has to keep unique (RFC 9525)",
                ));
            }
        }
        let alpn = session.negotiated_alpn().map_err(failed)?;
        Ok((stream, TlsPeer::new(own.into_iter().collect(), alpn)))
    }
}

/// OpenSSL takes the common name for a name where no alternative name is one of the DNS; nobody else does.
fn has_dns_name(certificate: &[u8]) -> Result<bool, pkcs8::der::Error> {
    let certificate = parse(certificate)?;
    let names = certificate.tbs_certificate().get_extension::<SubjectAltName>()?;
    let is_dns = |name: &GeneralName| matches!(name, GeneralName::DnsName(_));
    Ok(names.is_some_and(|(_critical, names)| names.0.iter().any(is_dns)))
}

fn identity_of(identity: &Identity) -> Result<native_tls::Identity, Error> {
    match identity {
        Identity::Pem { chain, key } => {
            let key = to_pkcs8(key)?;
            is_of_one_kind(&chain[0], &key)?;
            let chain: String = chain.iter().map(|certificate| to_pem("CERTIFICATE", certificate)).collect();
            let key = to_pem("PRIVATE KEY", &key);
            native_tls::Identity::from_pkcs8(chain.as_bytes(), key.as_bytes())
                .map_err(|cause| refused("the client certificate and key cannot be used").with_source(cause))
        }
        #[cfg(not(target_os = "linux"))]
        Identity::Pkcs12 { name, archive, password } => {
            native_tls::Identity::from_pkcs12(archive, password).map_err(|cause| {
                let message = format!("{name} cannot be opened (is the password right? is it PKCS#12, in DER?)");
                refused(message).with_source(cause)
            })
        }
    }
}

/// OpenSSL keeps a certificate and a key of each kind, and compares only what is of one. When they are of two, servers are
/// shown nothing.
fn is_of_one_kind(certificate: &[u8], key: &[u8]) -> Result<(), Error> {
    let wrong = |cause: pkcs8::der::Error| refused("the client certificate cannot be read").with_source(cause);
    let certificate = parse(certificate).map_err(wrong)?;
    let expected = certificate.tbs_certificate().subject_public_key_info().algorithm.oid;
    let key = PrivateKeyInfoRef::from_der(key);
    let found = key.map_err(|cause| refused("the client key cannot be read").with_source(cause))?.algorithm.oid;
    if found == expected {
        return Ok(());
    }
    Err(refused(
        "the client's first certificate is for a key of another kind (does the key match its certificate? is that the first of \
         its chain?)",
    ))
}

fn to_pem(label: &str, der: &[u8]) -> String {
    pem::encode_string(label, pem::LineEnding::LF, der).expect("the labels are good ones")
}

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// The only format that native-tls takes. The others lack what is said here of the algorithm.
fn to_pkcs8(key: &PrivateKeyDer<'_>) -> Result<Vec<u8>, Error> {
    let curve;
    let (oid, parameters) = match key {
        PrivateKeyDer::Pkcs8(key) => return Ok(key.secret_pkcs8_der().to_vec()),
        PrivateKeyDer::Pkcs1(_) => (RSA, AnyRef::NULL),
        PrivateKeyDer::Sec1(key) => {
            let command = "convert it: openssl pkey -in KEY -out KEY.pem";
            let parsed = sec1::EcPrivateKey::try_from(key.secret_sec1_der());
            let parsed = parsed.map_err(|cause| {
                refused(format!("the client key is no SEC1 key that can be read; {command}")).with_source(cause)
            })?;
            curve = parsed.parameters.and_then(|parameters| parameters.named_curve());
            let Some(curve) = &curve else {
                return Err(refused(format!("the client key does not say on which curve it is; {command}")));
            };
            (EC, AnyRef::from(curve))
        }
        _ => return Err(refused("the client key is in a format that is not known")),
    };
    let algorithm = AlgorithmIdentifier { oid, parameters: Some(parameters) };
    let wrong = |cause| refused("the client key cannot be read").with_source(cause);
    let key = OctetStringRef::new(key.secret_der()).map_err(wrong)?;
    PrivateKeyInfoRef::new(algorithm, key).to_der().map_err(wrong)
}

fn classify(error: &native_tls::Error) -> TlsErrorKind {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    let mut text = String::new();
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|io| io.get_ref().is_none()) {
            return TlsErrorKind::Closed;
        }
        text.push_str(&error.to_string().to_lowercase());
        text.push('\n');
        cause = error.source();
    }
    of_text(&text)
}

/// What a read or write after the handshake failed with, if that is still about the handshake: with TLS 1.3 the peer has not
/// seen our certificate when ours is done.
pub(crate) fn of_late(error: &io::Error) -> Option<TlsErrorKind> {
    let inner = error.get_ref()?;
    Some(of_text(&inner.to_string().to_lowercase())).filter(|kind| *kind == TlsErrorKind::ClientCertificateRefused)
}

fn of_text(text: &str) -> TlsErrorKind {
    /// In order: what the peer said first, since OpenSSL adds what it would have said of the peer's certificate, also where
    /// nobody asked; then a certificate's own fault, which it reports beside more general text.
    const KNOWN: &[(&str, TlsErrorKind)] = &[
        ("alert bad certificate", TlsErrorKind::ClientCertificateRefused),
        ("alert unsupported certificate", TlsErrorKind::ClientCertificateRefused),
        ("alert certificate", TlsErrorKind::ClientCertificateRefused),
        ("alert unknown ca", TlsErrorKind::ClientCertificateRefused),
        ("alert access denied", TlsErrorKind::ClientCertificateRefused),
        ("alert protocol version", TlsErrorKind::ProtocolVersion),
        ("alert no application protocol", TlsErrorKind::NoProtocol),
        ("alert handshake failure", TlsErrorKind::Refused),
        ("certificate has expired", TlsErrorKind::Expired),
        ("not yet valid", TlsErrorKind::NotYetValid),
        ("hostname mismatch", TlsErrorKind::WrongName),
        ("ip address mismatch", TlsErrorKind::WrongName),
        ("unable to get local issuer", TlsErrorKind::UnknownIssuer),
        ("unable to get issuer", TlsErrorKind::UnknownIssuer),
        ("self-signed certificate", TlsErrorKind::UnknownIssuer),
        ("self signed certificate", TlsErrorKind::UnknownIssuer),
        ("unable to verify the first certificate", TlsErrorKind::UnknownIssuer),
        ("certificate signature failure", TlsErrorKind::UnknownIssuer),
        ("certificate verify failed", TlsErrorKind::Unfit),
        ("unsupported protocol", TlsErrorKind::ProtocolVersion),
        ("wrong version number", TlsErrorKind::NotTls),
        ("packet length too long", TlsErrorKind::NotTls),
        ("http request", TlsErrorKind::NotTls),
        ("unexpected eof", TlsErrorKind::Closed),
    ];
    let known = KNOWN.iter().find(|(words, _)| text.contains(words));
    known.map_or(TlsErrorKind::Other, |(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(key: &openssl::pkey::PKey<openssl::pkey::Private>, der: PrivateKeyDer<'_>) {
        let converted = to_pkcs8(&der).unwrap();
        assert_eq!(converted, key.private_key_to_pkcs8().unwrap(), "as OpenSSL converts it");
    }

    #[test]
    fn keys_in_other_formats_become_what_openssl_makes_of_them() {
        let rsa = openssl::rsa::Rsa::generate(2048).unwrap();
        let der = rsa.private_key_to_der().unwrap();
        reads(&openssl::pkey::PKey::from_rsa(rsa).unwrap(), PrivateKeyDer::Pkcs1(der.into()));
        for curve in [openssl::nid::Nid::X9_62_PRIME256V1, openssl::nid::Nid::SECP384R1] {
            let group = openssl::ec::EcGroup::from_curve_name(curve).unwrap();
            let key = openssl::ec::EcKey::generate(&group).unwrap();
            let der = key.private_key_to_der().unwrap();
            let key = openssl::pkey::PKey::from_ec_key(key).unwrap();
            let converted = to_pkcs8(&PrivateKeyDer::Sec1(der.into())).unwrap();
            // OpenSSL leaves out the curve where it stands twice.
            assert!(openssl::pkey::PKey::private_key_from_pkcs8(&converted).unwrap().public_eq(&key));
        }
    }

    #[test]
    fn a_certificate_that_cannot_be_read_is_no_wrong_name() {
        assert!(has_dns_name(&[1, 2, 3]).is_err());
    }
}

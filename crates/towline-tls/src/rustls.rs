//! TLS by rustls, with ring's cryptography. Sessions are resumed within one configuration: a new one begins with none.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error as Rustls, OtherError,
    PeerIncompatible, RootCertStore, SignatureScheme, version,
};
use tokio::io::{AsyncRead, AsyncWrite};
use towline_core::{Error, TlsPeer};
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};

use crate::TlsVersion;
use crate::config::Settings;
use crate::error::{TlsError, TlsErrorKind, refused};
use crate::material::{Identity, Material, parse};

/// Offers what it was built with.
#[derive(Clone)]
pub(crate) struct Connector(tokio_rustls::TlsConnector);

pub(crate) type Stream<S> = tokio_rustls::client::TlsStream<S>;

pub(crate) fn build(settings: &Settings, material: &Material) -> Result<Connector, Error> {
    let provider = Arc::new(ring::default_provider());
    let versions: &[_] = match settings.min_version {
        TlsVersion::V1_2 => &[&version::TLS13, &version::TLS12],
        TlsVersion::V1_3 => &[&version::TLS13],
    };
    let wrong = |cause: Rustls| refused("the TLS library refuses this configuration").with_source(cause);
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).map_err(wrong)?;
    let algorithms = provider.signature_verification_algorithms;
    let chain = match settings.accepts_any_certificate {
        true => None,
        false => {
            let roots = Arc::new(roots(settings, material)?);
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
            Some(
                verifier
                    .map_err(|cause| refused("the TLS library refuses the root certificates").with_source(cause))?,
            )
        }
    };
    let verifier = Verifier { chain, any_name: settings.accepts_any_name, algorithms };
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &material.identity {
        None => builder.with_no_client_auth(),
        Some(Identity::Pem { chain, key }) => {
            builder.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(|cause| {
                refused("the client certificate and key cannot be used (does the key match its certificate?)")
                    .with_source(cause)
            })?
        }
        #[cfg(not(all(feature = "native-tls", target_os = "linux")))]
        Some(Identity::Pkcs12 { name, .. }) => {
            return Err(refused(format!(
                "{name}: rustls reads no PKCS#12; convert it: openssl pkcs12 -in FILE -nodes -out FILE.pem, which is \
                 certificate and key in one"
            )));
        }
    };
    config.alpn_protocols = settings.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(Connector(Arc::new(config).into()))
}

fn roots(settings: &Settings, material: &Material) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for root in &material.roots {
        roots
            .add(root.clone())
            .map_err(|cause| refused("the TLS library refuses one of the root certificates").with_source(cause))?;
    }
    if settings.trusts_system(material) {
        let system = rustls_native_certs::load_native_certs();
        // Of the system's some may be of no use to rustls; without any nobody would be trusted.
        let (added, _ignored) = roots.add_parsable_certificates(system.certs);
        if added == 0 {
            let error = refused("no root certificate of the system can be used (is ca-certificates installed?)");
            return Err(match system.errors.into_iter().next() {
                Some(cause) => error.with_source(cause),
                None => error,
            });
        }
    }
    Ok(roots)
}

impl Connector {
    pub(crate) async fn connect<S>(&self, name: &str, io: S) -> Result<(Stream<S>, TlsPeer), TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let server = ServerName::try_from(name.to_owned());
        let server = server.map_err(|cause| TlsError::new(TlsErrorKind::NoName, name).with_source(cause))?;
        let stream = self.0.connect(server, io).await.map_err(|cause| {
            let kind = classify(&cause);
            TlsError::new(kind, name).with_source(cause)
        })?;
        let (_, session) = stream.get_ref();
        let certificates = session.peer_certificates().unwrap_or_default().iter().map(|der| der.to_vec()).collect();
        let alpn = session.alpn_protocol().map(<[u8]>::to_vec);
        Ok((stream, TlsPeer::new(certificates, alpn)))
    }
}

fn of_io(error: &io::Error) -> Option<&Rustls> {
    error.get_ref().and_then(|inner| (inner as &(dyn StdError + 'static)).downcast_ref())
}

fn classify(error: &io::Error) -> TlsErrorKind {
    of_io(error).map_or(TlsErrorKind::Closed, of_rustls)
}

/// See the other library's.
pub(crate) fn of_late(error: &io::Error) -> Option<TlsErrorKind> {
    of_io(error).map(of_rustls).filter(|kind| *kind == TlsErrorKind::ClientCertificateRefused)
}

fn of_rustls(error: &Rustls) -> TlsErrorKind {
    use CertificateError as Wrong;
    match error {
        Rustls::InvalidCertificate(wrong) => match wrong {
            Wrong::Expired | Wrong::ExpiredContext { .. } => TlsErrorKind::Expired,
            Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => TlsErrorKind::NotYetValid,
            Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => TlsErrorKind::WrongName,
            Wrong::UnknownIssuer => TlsErrorKind::UnknownIssuer,
            _ => TlsErrorKind::Unfit,
        },
        Rustls::AlertReceived(alert) => match alert {
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied => TlsErrorKind::ClientCertificateRefused,
            AlertDescription::ProtocolVersion => TlsErrorKind::ProtocolVersion,
            AlertDescription::NoApplicationProtocol => TlsErrorKind::NoProtocol,
            AlertDescription::HandshakeFailure => TlsErrorKind::Refused,
            _ => TlsErrorKind::Other,
        },
        Rustls::PeerIncompatible(
            PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig | PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ) => TlsErrorKind::ProtocolVersion,
        Rustls::InvalidMessage(_) => TlsErrorKind::NotTls,
        _ => TlsErrorKind::Other,
    }
}

/// Verifies what rustls does, and what keys are for, which it leaves out; less when told so, but always that whoever shows a
/// certificate has the key to it.
#[derive(Debug)]
struct Verifier {
    /// `None` takes any certificate.
    chain: Option<Arc<WebPkiServerVerifier>>,
    any_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Whether the keys are for what they do: one to sign handshakes with, and those of authorities certificates. Certificates that
/// are none of an authority may be in the chain for no reason, and are not looked at.
fn are_for_it(end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), Rustls> {
    let wrong = |why| Rustls::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Unfit(why)))));
    let unreadable = |_| Rustls::InvalidCertificate(CertificateError::BadEncoding);
    let usage = |certificate: &x509_cert::Certificate| {
        let usage = certificate.tbs_certificate().get_extension::<KeyUsage>();
        usage.map(|usage| usage.map(|(_critical, usage)| usage)).map_err(unreadable)
    };
    if usage(&parse(end_entity).map_err(unreadable)?)?.is_some_and(|usage| !usage.digital_signature()) {
        return Err(wrong("the certificate's key is not for signatures"));
    }
    for certificate in intermediates {
        let certificate = parse(certificate).map_err(unreadable)?;
        let constraints = certificate.tbs_certificate().get_extension::<BasicConstraints>().map_err(unreadable)?;
        let is_authority = constraints.is_some_and(|(_critical, constraints)| constraints.ca);
        if is_authority && usage(&certificate)?.is_some_and(|usage| !usage.key_cert_sign()) {
            return Err(wrong("the key of an authority in the chain is not for certificates"));
        }
    }
    Ok(())
}

#[derive(Debug)]
struct Unfit(&'static str);

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl StdError for Unfit {}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Rustls> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name comes last: all the rest was good when that is what is wrong.
            Err(error) if self.any_name && of_rustls(&error) == TlsErrorKind::WrongName => {}
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        are_for_it(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Rustls> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Rustls> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

//! TLS by rustls, with ring's cryptography. Sessions are resumed within one configuration: a new one begins with none.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error as Rustls, PeerIncompatible,
    RootCertStore, SignatureScheme, version,
};
use tokio::io::{AsyncRead, AsyncWrite};
use towline_core::{Error, TlsPeer};

use crate::TlsVersion;
use crate::config::Settings;
use crate::error::{TlsError, TlsErrorKind, refused};
use crate::material::{Identity, Material};

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
    let builder = if settings.accepts_any_certificate {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
    } else {
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(settings, material)?), provider);
        let verifier = verifier
            .build()
            .map_err(|cause| refused("the TLS library refuses the root certificates").with_source(cause))?;
        if settings.accepts_any_name {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName(verifier)))
        } else {
            builder.with_webpki_verifier(verifier)
        }
    };
    let mut config = match &material.identity {
        None => builder.with_no_client_auth(),
        Some(Identity::Pem { chain, key }) => {
            builder.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(|cause| {
                refused("the client certificate and key cannot be used (does the key match its certificate?)")
                    .with_source(cause)
            })?
        }
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

/// Takes any certificate, of which whoever shows it must have the key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Rustls> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Rustls> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Rustls> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Verifies all but the name.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Rustls> {
        // The name comes last: all the rest was good when that is what is wrong.
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(error) if of_rustls(&error) == TlsErrorKind::WrongName => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Rustls> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Rustls> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

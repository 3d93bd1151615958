//! PKCS#12 archives, opened by the OpenSSL that native-tls is built on: what is in them is then looked at as if it were PEM,
//! and serves either library.

use openssl::pkcs12::Pkcs12;
use openssl::x509::{X509, X509VerifyResult};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use towline_core::Error;

use crate::error::refused;

/// The chain, its own certificate first, and the key.
pub(crate) fn open(
    name: &str,
    archive: &[u8],
    password: &str,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let opened = Pkcs12::from_der(archive).and_then(|archive| archive.parse2(password)).map_err(|cause| {
        refused(format!(
            "{name} cannot be opened (is the password right? is it PKCS#12, in DER? does OpenSSL still know its encryption?)"
        ))
        .with_source(cause)
    })?;
    let (Some(own), Some(key)) = (opened.cert, opened.pkey) else {
        return Err(refused(format!("{name} has no certificate with its key in it")));
    };
    let unreadable = |cause| refused(format!("{name} has something in it that cannot be read")).with_source(cause);
    let others = opened.ca.into_iter().flatten().collect();
    let chain = in_order(own, others).into_iter().map(|certificate| certificate.to_der().map(CertificateDer::from));
    let chain = chain.collect::<Result<_, _>>().map_err(unreadable)?;
    let key = key.private_key_to_pkcs8().map_err(unreadable)?;
    Ok((chain, PrivatePkcs8KeyDer::from(key).into()))
}

/// Each before who has signed it: in which order they are handed out depends on OpenSSL's version.
fn in_order(own: X509, mut others: Vec<X509>) -> Vec<X509> {
    let mut chain = vec![own];
    while let Some(next) =
        chain.last().and_then(|last| others.iter().position(|above| above.issued(last) == X509VerifyResult::OK))
    {
        chain.push(others.swap_remove(next));
    }
    chain
}

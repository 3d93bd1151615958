use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::symm::Cipher;
use towline_core::Kind;

use super::*;

/// A certificate of its own, and the key to it.
fn certified() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// A certificate for this key, valid for these days from now.
fn certify(key: &PKey<openssl::pkey::Private>, days: std::ops::Range<i64>) -> Vec<u8> {
    let mut builder = openssl::x509::X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let at = |days: i64| openssl::asn1::Asn1Time::from_unix(now + days * 86_400).unwrap();
    builder.set_not_before(&at(days.start)).unwrap();
    builder.set_not_after(&at(days.end)).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.sign(key, openssl::hash::MessageDigest::sha256()).unwrap();
    builder.build().to_pem().unwrap()
}

fn rsa() -> (Rsa<openssl::pkey::Private>, PKey<openssl::pkey::Private>) {
    let rsa = Rsa::generate(2048).unwrap();
    (rsa.clone(), PKey::from_rsa(rsa).unwrap())
}

/// With either library.
fn builders() -> Vec<TlsConfigBuilder> {
    let builder = || TlsConfig::builder().root_pem(certified().0);
    vec![
        #[cfg(feature = "native-tls")]
        builder().backend(TlsBackend::NativeTls),
        #[cfg(feature = "rustls")]
        builder().backend(TlsBackend::Rustls),
    ]
}

fn refused(builder: TlsConfigBuilder) -> String {
    let error = builder.build().unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    error.to_string()
}

#[test]
fn a_root_that_is_no_pem_is_refused_when_building() {
    for bad in ["", "hello", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
        assert!(refused(TlsConfig::builder().root_pem(bad)).contains("no PEM certificate"), "{bad:?}");
    }
    for (bad, why) in [("AAAA", "is none"), ("MAA=", "one of the root certificates")] {
        let bad = format!("-----BEGIN CERTIFICATE-----\n{bad}\n-----END CERTIFICATE-----\n");
        for builder in builders() {
            let said = refused(builder.root_pem(&bad));
            assert!(said.contains(why), "{said}");
        }
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
fn a_required_protocol_where_none_is_offered_is_refused_when_building() {
    assert!(refused(TlsConfig::builder().require_alpn(true)).contains("alpn()"));
}

#[test]
fn a_key_with_blank_lines_and_attributes_before_it_is_accepted() {
    for builder in builders() {
        let (cert, key) = certified();
        let key = format!("\nBag Attributes\n    friendlyName: x\n{key}");
        builder.identity_pem(&cert, key).build().unwrap();
    }
}

#[test]
fn keys_in_pkcs8_pkcs1_and_sec1_are_accepted() {
    let (rsa, rsa_key) = rsa();
    let ec = EcKey::generate(&EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap()).unwrap();
    let ec_key = PKey::from_ec_key(ec.clone()).unwrap();
    for (name, key, pem) in [
        ("PKCS#8", &rsa_key, rsa_key.private_key_to_pem_pkcs8()),
        ("PKCS#1", &rsa_key, rsa.private_key_to_pem()),
        ("PKCS#8, elliptic", &ec_key, ec_key.private_key_to_pem_pkcs8()),
        ("SEC1", &ec_key, ec.private_key_to_pem()),
    ] {
        for builder in builders() {
            let built = builder.identity_pem(certify(key, -1..1), pem.as_ref().unwrap()).build();
            built.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
    }
}

#[test]
fn a_chain_and_its_key_may_be_in_one_file() {
    for builder in builders() {
        let (cert, key) = certified();
        let both = cert + &key;
        builder.identity_pem(&both, &both).build().unwrap();
    }
}

#[test]
fn a_key_that_cannot_be_read_names_the_command_that_converts_it() {
    let (rsa, key) = rsa();
    let cert = certify(&key, -1..1);
    let encrypted = key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_128_cbc(), b"x").unwrap();
    let old = rsa.private_key_to_pem_passphrase(Cipher::aes_128_cbc(), b"x").unwrap();
    for (key, found) in [
        (encrypted, "found: ENCRYPTED PRIVATE KEY"),
        (b"hello".to_vec(), "found: none"),
        (key.private_key_to_der().unwrap(), "found: none"),
        (key.public_key_to_pem().unwrap(), "found: PUBLIC KEY"),
    ] {
        for builder in builders() {
            let said = refused(builder.identity_pem(&cert, &key));
            assert!(said.contains(found) && said.contains("openssl pkey"), "{said}");
        }
    }
    for builder in builders() {
        let said = refused(builder.identity_pem(&cert, &old));
        assert!(said.contains("key"), "{said}");
    }
}

#[test]
fn a_key_that_does_not_match_is_refused_when_building() {
    for builder in builders() {
        let ((cert, _), (_, other)) = (certified(), certified());
        let said = refused(builder.identity_pem(&cert, other));
        assert!(said.contains("does the key match"), "{said}");
    }
}

#[test]
fn a_key_of_another_kind_than_its_certificate_s_is_refused_when_building() {
    let (_, rsa) = rsa();
    let (ec_cert, ec_key) = certified();
    for builder in builders() {
        let rsa_key = rsa.private_key_to_pem_pkcs8().unwrap();
        let said = refused(builder.clone().identity_pem(&ec_cert, rsa_key));
        assert!(said.contains("does the key match"), "{said}");
        // A chain that begins with somebody else's.
        let chain = [&certify(&rsa, -1..1), ec_cert.as_bytes()].concat();
        let said = refused(builder.identity_pem(chain, &ec_key));
        assert!(said.contains("does the key match"), "{said}");
    }
}

#[test]
fn nothing_of_a_key_is_in_an_error_however_it_is_mangled() {
    let (cert, key) = certified();
    let secret = key.lines().nth(1).unwrap();
    let one_line = key.replace('\n', " ");
    let escaped = key.replace('\n', "\\n");
    let no_end = key.replace("-----END PRIVATE KEY-----", "");
    let cut = key.replace("-----END PRIVATE KEY-----", &format!("-----END {secret}"));
    for bad in [one_line, escaped, no_end, cut] {
        for builder in builders() {
            let both = format!("{cert}{bad}");
            for builder in [builder.clone().identity_pem(&cert, &bad), builder.identity_pem(&both, &both)] {
                let error = builder.build().unwrap_err();
                let printed = format!("{error} {error:?}");
                assert!(!printed.contains(&secret[..16]), "{printed}");
                let bytes = format!("{:?}", secret.as_bytes());
                assert!(!printed.contains(&bytes[1..60]), "{printed}");
            }
        }
    }
}

#[test]
fn roots_that_have_expired_are_not_trusted_and_refused_when_there_are_no_others() {
    let (_, key) = rsa();
    let (old, good) = (certify(&key, -2..-1), certify(&key, -1..1));
    let said = refused(TlsConfig::builder().root_pem(&old));
    assert!(said.contains("has expired"), "{said}");
    TlsConfig::builder().root_pem([old, good].concat()).build().unwrap();
}

#[test]
fn a_protocol_that_alpn_has_no_room_for_is_refused_when_building() {
    for bad in [String::new(), "x".repeat(256)] {
        assert!(refused(TlsConfig::builder().alpn([bad])).contains("255 bytes"));
    }
}

#[test]
fn an_identity_that_has_expired_or_is_not_valid_yet_is_refused_when_building() {
    let (_, key) = rsa();
    let pem = key.private_key_to_pem_pkcs8().unwrap();
    for (days, why) in [(-2..-1, "has expired"), (1..2, "is not valid yet")] {
        for builder in builders() {
            let said = refused(builder.identity_pem(certify(&key, days.clone()), &pem));
            assert!(said.contains(why), "{said}");
        }
    }
}

#[cfg(all(feature = "native-tls", target_os = "linux"))]
#[test]
fn a_pkcs12_identity_is_opened_by_its_password_and_looked_at_like_pem() {
    let (_, key) = rsa();
    let archive = |days| {
        let cert = openssl::x509::X509::from_pem(&certify(&key, days)).unwrap();
        let archive = openssl::pkcs12::Pkcs12::builder().cert(&cert).pkey(&key).build2("secret").unwrap();
        archive.to_der().unwrap()
    };
    for builder in builders() {
        builder.clone().identity_pkcs12(archive(-1..1), "secret").build().unwrap();
        let said = refused(builder.clone().identity_pkcs12(archive(-1..1), "wrong"));
        assert!(said.contains("password"), "{said}");
        let said = refused(builder.clone().identity_pkcs12(archive(-2..-1), "secret"));
        assert!(said.contains("has expired"), "{said}");
        let said = refused(builder.identity_pkcs12("no archive", ""));
        assert!(said.contains("is it PKCS#12"), "{said}");
    }
}

#[test]
fn what_is_printed_has_no_secrets_in_it() {
    let (cert, key) = certified();
    let builder = TlsConfig::builder().root_pem(&cert).identity_pem(&cert, &key);
    let printed = format!("{builder:?} {:?}", builder.clone().build().unwrap());
    assert!(printed.contains("identity: true") && !printed.contains("PRIVATE"), "{printed}");
}

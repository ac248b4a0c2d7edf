//! A certificate authority made anew for each run, and a certificate of it for the loopback names.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

/// What a TLS listener needs.
#[derive(Debug)]
pub(crate) struct Tls {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) ca_pem: PathBuf,
}

/// Makes a CA (its PEM goes to `dir/ca.pem`) and a server certificate, valid from a day before `now` for 90 days, so
/// that a client whose clock is far off finds it invalid, as it would with the real ones. Where a network of guests
/// reaches us at `net`, it is one for that address and for AWS's own names too.
pub(crate) fn make(dir: &Path, now: OffsetDateTime, net: Option<IpAddr>) -> Tls {
    let dates = |p: &mut CertificateParams| {
        p.not_before = now - Duration::days(1);
        p.not_after = now + Duration::days(90);
    };
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    dates(&mut ca);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    ca.distinguished_name.push(DnType::CommonName, "fakeaws test authority");
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let ca_pem = dir.join("ca.pem");
    std::fs::write(&ca_pem, ca_cert.pem()).unwrap();
    let issuer = Issuer::new(ca, ca_key);

    let key = KeyPair::generate().unwrap();
    let mut names = vec!["localhost".to_string(), "127.0.0.1".to_string()];
    if let Some(address) = net {
        names.extend([address.to_string(), "*.amazonaws.com".into(), "*.eu-west-1.amazonaws.com".into()]);
    }
    let mut leaf = CertificateParams::new(names).unwrap();
    dates(&mut leaf);
    leaf.distinguished_name.push(DnType::CommonName, "localhost");
    let cert = leaf.signed_by(&key, &issuer).unwrap();

    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone(), ca_cert.der().clone()], key)
        .unwrap();
    Tls { config: Arc::new(config), ca_pem }
}

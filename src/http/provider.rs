//! The cryptography that rustls is given: ring's, less what never runs here.
//!
//! rustls' own provider brings ChaCha20 and the loading of private keys along: 100 KB of a binary that is to stay small.
//! AWS's endpoints, and any proxy of today, speak AES-GCM with forward secrecy; there are no client certificates. What
//! verifies certificates is rustls' list in full.

use std::sync::Arc;

use rustls::Error;
use rustls::SignatureScheme as S;
use rustls::crypto::ring::{cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, WebPkiSupportedAlgorithms};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::SigningKey;
use webpki::ring as w;

/// The provider.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        ],
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        signature_verification_algorithms: SIGNATURES,
        secure_random: &System,
        key_provider: &System,
    }
}

static SIGNATURES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        w::ECDSA_P256_SHA256,
        w::ECDSA_P256_SHA384,
        w::ECDSA_P384_SHA256,
        w::ECDSA_P384_SHA384,
        w::ED25519,
        w::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
        w::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
        w::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
        w::RSA_PKCS1_2048_8192_SHA256,
        w::RSA_PKCS1_2048_8192_SHA384,
        w::RSA_PKCS1_2048_8192_SHA512,
        w::RSA_PKCS1_2048_8192_SHA256_ABSENT_PARAMS,
        w::RSA_PKCS1_2048_8192_SHA384_ABSENT_PARAMS,
        w::RSA_PKCS1_2048_8192_SHA512_ABSENT_PARAMS,
    ],
    // With TLS 1.2 the scheme does not fix the curve.
    mapping: &[
        (S::ECDSA_NISTP384_SHA384, &[w::ECDSA_P384_SHA384, w::ECDSA_P256_SHA384]),
        (S::ECDSA_NISTP256_SHA256, &[w::ECDSA_P256_SHA256, w::ECDSA_P384_SHA256]),
        (S::ED25519, &[w::ED25519]),
        (S::RSA_PSS_SHA512, &[w::RSA_PSS_2048_8192_SHA512_LEGACY_KEY]),
        (S::RSA_PSS_SHA384, &[w::RSA_PSS_2048_8192_SHA384_LEGACY_KEY]),
        (S::RSA_PSS_SHA256, &[w::RSA_PSS_2048_8192_SHA256_LEGACY_KEY]),
        (S::RSA_PKCS1_SHA512, &[w::RSA_PKCS1_2048_8192_SHA512]),
        (S::RSA_PKCS1_SHA384, &[w::RSA_PKCS1_2048_8192_SHA384]),
        (S::RSA_PKCS1_SHA256, &[w::RSA_PKCS1_2048_8192_SHA256]),
    ],
};

#[derive(Debug)]
struct System;

impl SecureRandom for System {
    fn fill(&self, buf: &mut [u8]) -> Result<(), GetRandomFailed> {
        let mut rest = buf;
        while !rest.is_empty() {
            let n = rustix::io::retry_on_intr(|| {
                rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty())
            });
            match n {
                Ok(n) if n > 0 => rest = &mut rest[n..],
                _ => return Err(GetRandomFailed),
            }
        }
        Ok(())
    }
}

impl KeyProvider for System {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        Err(Error::General("there are no client certificates".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_verifies_what_rustls_own_verifies() {
        let (ours, theirs) = (provider(), rustls::crypto::ring::default_provider());
        let schemes = |p: &CryptoProvider| p.signature_verification_algorithms.supported_schemes();
        assert_eq!(schemes(&ours), schemes(&theirs));
        let all = |p: &CryptoProvider| {
            let all = p.signature_verification_algorithms.all.iter();
            all.map(|a| (a.public_key_alg_id(), a.signature_alg_id())).collect::<Vec<_>>()
        };
        assert_eq!(all(&ours), all(&theirs));
        for (scheme, algorithms) in theirs.signature_verification_algorithms.mapping {
            let mine = ours.signature_verification_algorithms.mapping.iter().find(|(s, _)| s == scheme).unwrap();
            assert_eq!(mine.1.len(), algorithms.len(), "{scheme:?}");
        }
        let groups = |p: &CryptoProvider| p.kx_groups.iter().map(|g| g.name()).collect::<Vec<_>>();
        assert_eq!(groups(&ours), groups(&theirs));
        assert!(ours.cipher_suites.iter().all(|s| theirs.cipher_suites.contains(s)));
    }

    #[test]
    fn random_bytes_are_filled_in() {
        let (mut a, mut b) = ([0; 600], [0; 600]);
        System.fill(&mut a).unwrap();
        System.fill(&mut b).unwrap();
        assert!(a != b && a[590..] != [0; 10]);
    }
}

//! Whom we trust: the CA certificates of the web, compiled in, or those of `AWS_CA_BUNDLE`.

use std::fmt;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// A bundle is read whole: no bundle of certificates is longer.
const MAX_BUNDLE: u64 = 4 << 20;

/// The roots of trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Roots {
    /// Mozilla's, compiled in.
    Web,
    /// Those of a PEM file instead.
    Pem(PathBuf),
}

/// Why there are no roots.
#[derive(Debug)]
pub(crate) enum CaError {
    /// The file cannot be read.
    Read(PathBuf, std::io::Error),
    /// The file holds no certificate.
    Empty(PathBuf),
    /// TLS cannot be set up.
    Tls(rustls::Error),
}

impl fmt::Display for CaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CaError::Read(path, e) => write!(f, "cannot read AWS_CA_BUNDLE {}: {e}", path.display()),
            CaError::Empty(path) => write!(f, "AWS_CA_BUNDLE {} holds no PEM certificate", path.display()),
            CaError::Tls(e) => write!(f, "cannot set up TLS: {e}"),
        }
    }
}

impl std::error::Error for CaError {}

impl Roots {
    pub(super) fn store(&self) -> Result<RootCertStore, CaError> {
        match self {
            Roots::Web => Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }),
            Roots::Pem(path) => from_file(path),
        }
    }
}

fn from_file(path: &Path) -> Result<RootCertStore, CaError> {
    use std::io::Read;
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|f| f.take(MAX_BUNDLE).read_to_end(&mut text))
        .map_err(|e| CaError::Read(path.to_owned(), e))?;
    let mut store = RootCertStore::empty();
    // Bundles of distributions hold the odd certificate that cannot be used: those are passed over.
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).flatten());
    if store.is_empty() { Err(CaError::Empty(path.to_owned())) } else { Ok(store) }
}

//! The directories where the daemons of one instance keep what concerns only this boot: locks and journals.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Root;

/// Where all of them meet, however they were started.
const SHARED: &str = "/run/ec2fleetd";

/// The directory of locks.
pub(super) fn shared(root: &Root) -> PathBuf {
    root.path(SHARED)
}

/// The directory of journals: the first path that the service manager gives us, else the shared one.
pub(super) fn own(root: &Root) -> PathBuf {
    let given = std::env::var_os("RUNTIME_DIRECTORY").unwrap_or_default();
    match std::env::split_paths(&given).next().filter(|p| p.is_absolute()) {
        Some(first) => root.path(first),
        None => shared(root),
    }
}

/// Makes the directory, for nobody but us, unless it is there.
pub(super) fn make(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// What to do where something cannot be written there; begins with a colon, or is empty.
pub(crate) fn advice(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": free some space or inodes there (df, df -i), or mount a larger tmpfs at /run"
        }
        io::ErrorKind::ReadOnlyFilesystem => ": /run must be writable, mostly a tmpfs",
        io::ErrorKind::PermissionDenied => ": run it as root, or give its user the directory",
        io::ErrorKind::NotADirectory => ": something else is in place of a directory",
        _ => "",
    }
}

/// The name of a domain's file. A domain's name may be any text; two domains never share a file.
pub(super) fn file_name(domain: &str, kind: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !domain.is_empty() && domain.len() <= 100 && domain.bytes().all(plain) {
        return format!("domain.{domain}.{kind}");
    }
    let hash: String = Sha256::digest(domain).iter().map(|b| format!("{b:02x}")).collect();
    format!("domain-hash.{hash}.{kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        let lock = |domain: &str| file_name(domain, "lock");
        assert_eq!(lock("my.app-1"), "domain.my.app-1.lock");
        let hashed = ["", "a/b", "../../etc", "a b", "\u{e9}", &"x".repeat(101), "a\0"].map(lock);
        assert!(hashed.iter().all(|n| n.starts_with("domain-hash.") && n.len() == 81 && !n.contains('/')));
        assert_eq!(hashed.iter().collect::<std::collections::BTreeSet<_>>().len(), hashed.len());
        assert_ne!(lock("a"), file_name("a", "journal"));
    }
}

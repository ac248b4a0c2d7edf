//! A mounted file system that is to be found again later, when something else may be mounted at its place: it is known by
//! its device.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::{Root, mounts};

/// A file system, and where it was mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MountedAt {
    /// As stat(2) says; `None`: a note of an older version does not.
    device: Option<u64>,
    pub(super) point: PathBuf,
}

fn is_at(device: u64, point: &Path) -> bool {
    rustix::fs::stat(point).is_ok_and(|s| s.st_dev == device)
}

impl MountedAt {
    /// What is mounted at `point` now.
    pub(super) fn new(point: PathBuf) -> MountedAt {
        MountedAt { device: rustix::fs::stat(&point).ok().map(|s| s.st_dev), point }
    }

    /// As one word, for an argument or a note: `2065:/data`.
    pub(super) fn word(&self) -> OsString {
        let mut word = self.device.map_or_else(String::new, |d| format!("{d}:")).into_bytes();
        word.extend(self.point.as_os_str().as_bytes());
        OsString::from_vec(word)
    }

    /// Reads such a word; a path alone is one too.
    pub(super) fn parse(word: &OsStr) -> MountedAt {
        let bytes = word.as_bytes();
        let device = bytes.iter().position(|b| *b == b':').and_then(|at| {
            let number = std::str::from_utf8(bytes.get(..at)?).ok()?.parse().ok()?;
            Some((number, OsStr::from_bytes(bytes.get(at + 1..)?)))
        });
        match device {
            Some((device, point)) => MountedAt { device: Some(device), point: point.into() },
            None => MountedAt { device: None, point: word.into() },
        }
    }

    /// Where it is mounted now. `None`: nowhere.
    pub(super) fn now(&self, root: &Root) -> Option<PathBuf> {
        let Some(device) = self.device.filter(|d| !is_at(*d, &self.point)) else { return Some(self.point.clone()) };
        let number = (rustix::fs::major(device), rustix::fs::minor(device));
        // The files of btrfs have other numbers than its mounts.
        let may_be = |m: &mounts::Mount| m.number == number || m.kind == "btrfs";
        mounts::own(root).into_iter().filter(may_be).map(|m| m.point).find(|p| is_at(device, p))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::TestDir;

    #[test]
    fn a_word_and_back() {
        for point in ["/data", "/a:b", "/12:/x y"] {
            for device in [None, Some(2065)] {
                let it = MountedAt { device, point: point.into() };
                assert_eq!(MountedAt::parse(&it.word()), it);
            }
        }
    }

    #[test]
    fn it_is_found_where_it_is_by_now() {
        let t = TestDir::new();
        let device = rustix::fs::stat(&t.0).unwrap().st_dev;
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let elsewhere = t.file("elsewhere/x", "").parent().unwrap().to_path_buf();
        let lines = format!(
            "1 0 0:1 / /proc rw - proc proc rw\n2 0 {major}:{minor} / {} rw - ext4 /dev/x rw\n",
            elsewhere.display()
        );
        t.file("proc/self/mountinfo", &lines);
        let at = |device, point: &str| MountedAt { device: Some(device), point: point.into() };
        assert_eq!(at(device, elsewhere.to_str().unwrap()).now(&t.root()), Some(elsewhere.clone()));
        // Something else is there, or nothing.
        for point in ["/proc", "/no/such/place"] {
            assert_eq!(at(device, point).now(&t.root()), Some(elsewhere.clone()));
            assert_eq!(at(device ^ 1, point).now(&t.root()), None);
        }
        let old = MountedAt::parse(OsStr::new("/proc"));
        assert_eq!(old.now(&t.root()), Some(PathBuf::from("/proc")), "a note without a device");
    }
}

//! Whether a directory shows a certain disk.

use std::path::Path;

use super::disk_tree::DiskTree;
use super::{Root, mounts};

/// Whether what one sees at `point` is mounted from the disk at `node`, a partition of it or something built on it; and
/// from the device `source`, if that is given. A path can lead over a disk that does not answer: it is to be
/// called [`super::beside`].
pub(crate) fn is_mounted_from(root: &Root, node: &Path, point: &Path, source: Option<&Path>) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let point = real(point);
    // What was mounted last is what one sees.
    let Some(seen) = mounts::own(root).into_iter().rev().find(|m| m.point == point) else { return false };
    let is_source = |source: &Path| {
        let device = rustix::fs::stat(source).map(|s| (rustix::fs::major(s.st_rdev), rustix::fs::minor(s.st_rdev)));
        device.is_ok_and(|number| number == seen.number) || real(source) == real(Path::new(&seen.source))
    };
    seen.is_on(root, &DiskTree::of(root, node)) && source.is_none_or(is_source)
}

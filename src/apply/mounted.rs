//! What commands mounted: the answer to a `mount` of a second run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{DomainRun, Shared, lock};
use crate::scope::Scope;
use crate::sys::beside;
use crate::sys::mounted_from::is_mounted_from;

/// How long the look may take.
const LOOK: Duration = Duration::from_secs(5);

impl DomainRun {
    /// Whether a volume that this domain uses is mounted at `point`, from `source` if that is given.
    pub(crate) fn has_mounted(&self, point: &Path, source: Option<&Path>) -> bool {
        let scope = Scope::new(&self.shared.clock, LOOK, None);
        let ids: Vec<String> = lock(&self.in_use).iter().map(|u| u.volume.volume_id.clone()).collect();
        let disks = ids.iter().filter_map(|id| self.disk_of(id, &scope).ok().flatten()).collect();
        self.shared.has_mounted(disks, point, source)
    }
}

impl Shared {
    /// Whether one of these disks is mounted at `point`, from `source` if that is given.
    pub(super) fn has_mounted(&self, disks: Vec<PathBuf>, point: &Path, source: Option<&Path>) -> bool {
        let scope = Scope::new(&self.clock, LOOK, None);
        let (root, point, source) = (self.root.clone(), point.to_path_buf(), source.map(Path::to_path_buf));
        let look = move || Ok(disks.iter().any(|disk| is_mounted_from(&root, disk, &point, source.as_deref())));
        beside(&scope, Box::new(look)).unwrap_or(false)
    }
}

//! From a disk to a directory that the application can use: find its file system ([`super::format`]), check it, mount
//! it, grow it. A mount that fails is an error, never a reason to format.

use std::fs::File;
use std::path::Path;

use super::volume::Acquired;
use super::{DomainRun, Failure};
use crate::config::{ExecLine, ExitCodes, Mount, VolumeDirective};
use crate::exec::ExecError;
use crate::macros::Template;
use crate::plan::format::agree;
use crate::scope::Scope;
use crate::sys::mounting;
use crate::sys::probe::{self, Found};

/// A file system that is smaller than its disk by less than this cannot grow to any use.
const GROWTH: u64 = 16 << 20;

/// A disk that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) path: String,
    pub(super) fstype: String,
}

impl DomainRun {
    /// Mounts the directive's disk as `m` says. A disk that is mounted there already is left as it is.
    pub(super) fn mount(
        &self,
        d: &VolumeDirective,
        m: &Mount,
        a: &Acquired,
        scope: &Scope,
    ) -> Result<Mounted, Failure> {
        let root = &self.shared.root;
        let point = root.path(&m.path);
        let failed = |why: String| Failure::new(format!("cannot mount {} at {}: {why}", a.volume_id, m.path));
        let mounted = |fstype: &str| Mounted { path: point.display().to_string(), fstype: fstype.to_owned() };
        if let Some(there) = mounting::at(root, &point) {
            if !mounting::is_of(root, &there, &a.disk) {
                return Err(failed(format!("{} ({}) is mounted there", there.source, there.kind)));
            }
            log::info!("{}: {} is mounted at {} already", m.key, a.volume_id, m.path);
            return Ok(mounted(&there.kind));
        }
        // It must not come over a disk whose mount stands on this one.
        if let Some(hidden) = self.would_hide(d, m) {
            return Err(failed(format!("it would hide {hidden}: unmount that first")));
        }
        let found = self.file_system(d, m, a, scope)?;
        if let Some(wanted) = m.fstype.as_deref().filter(|w| !agree(w, found.kind)) {
            return Err(failed(format!("it holds {}, and the config wants {wanted}", found.kind)));
        }
        let fstype = m.fstype.as_deref().unwrap_or(found.kind);
        let read_only = m.options.split(',').any(|o| o.trim() == "ro");
        if m.fsck && !read_only {
            self.check_file_system(d, m, a, found.kind, scope)?;
        }
        if let Some(odd) =
            mounting::make_point(&point).map_err(|e| failed(format!("cannot make the directory: {e}")))?
        {
            log::warn!("{}: {} {odd}", m.key, m.path);
        }
        mounting::mount(&a.disk, &point, fstype, &m.options, scope).map_err(|e| failed(format!("as {fstype}: {e}")))?;
        self.is_its_disk(a, &point, scope).map_err(failed)?;
        log::info!("{}: {} is mounted at {} ({fstype})", m.key, a.volume_id, m.path);
        if m.grow && !read_only {
            self.grow(d, m, a, &found, &point, scope);
        }
        let (owner, group) = (m.owner.as_deref(), m.group.as_deref());
        mounting::set_owner(root, &point, owner, group, m.mode)
            .map_err(|e| failed(format!("cannot set its owner or mode: {e}")))?;
        Ok(mounted(fstype))
    }

    /// Whether what was just mounted at `point` is the volume's disk: its name may have gone over to another one since it
    /// was looked at. What is not is unmounted again.
    fn is_its_disk(&self, a: &Acquired, point: &Path, scope: &Scope) -> Result<(), String> {
        let root = &self.shared.root;
        let disk = self.disk_of(&a.volume_id, scope).map_err(|f| f.text)?;
        let is_it = match (mounting::at(root, point), disk) {
            (None, _) => true,
            (_, None) => false,
            // The number of btrfs is of no device, and the name that it shows may be one of before.
            (Some(there), Some(disk)) if there.number.0 == 0 => disk == a.disk,
            (Some(there), Some(disk)) => mounting::is_of(root, &there, &disk),
        };
        if is_it {
            return Ok(());
        }
        mounting::unmount(point)
            .map_err(|e| format!("{} became another disk, which is mounted: {e}", a.disk.display()))?;
        Err(format!("{} became another disk meanwhile", a.disk.display()))
    }

    /// Runs the check of the file system, where it has one that is run before a mount.
    fn check_file_system(
        &self,
        d: &VolumeDirective,
        m: &Mount,
        a: &Acquired,
        kind: &str,
        scope: &Scope,
    ) -> Result<(), Failure> {
        let how = match kind {
            "ext2" | "ext3" | "ext4" => "-p",
            "vfat" | "f2fs" => "-a",
            // They repair what a crash left when they are mounted.
            _ => return Ok(()),
        };
        let name = format!("fsck.{kind}");
        let failed = |why: String| Failure::new(format!("cannot check {} ({kind}): {why}", a.volume_id));
        let Some(tool) = mounting::tool(&name) else {
            return Err(failed(format!("{name} is not on this system: install it, or set mount.fsck to skip")));
        };
        let argv = vec![tool.display().to_string(), how.to_owned(), a.disk.display().to_string()];
        // 1: repaired. 2: repaired, and a mounted one would have to be mounted anew.
        match self.tool(d, argv, 3, scope) {
            Ok(()) => Ok(()),
            Err(ExecError::ExitCode { code, tail, .. }) => {
                let why = match code {
                    c if c & 4 != 0 => "it has errors that a person must look at",
                    c if c & 8 != 0 => "the check could not be done",
                    c if c & 16 != 0 => "it was called wrongly",
                    c if c & 32 != 0 => "it was cancelled",
                    _ => "it failed",
                };
                Err(failed(format!(
                    "{name} ended with {code}: {why}; nothing was mounted at {}: {}",
                    m.path,
                    tail.join(" | ")
                )))
            }
            Err(e) => Err(Failure { halt: e.halt(), ..failed(e.to_string()) }),
        }
    }

    /// Makes the file system as large as its disk. It can be used as it is, so that this never fails a directive.
    fn grow(&self, d: &VolumeDirective, m: &Mount, a: &Acquired, found: &Found, point: &Path, scope: &Scope) {
        let size = File::open(&a.disk).and_then(|f| probe::Disk::size(&f)).unwrap_or(0);
        let Some(taken) = found.bytes.filter(|taken| taken.saturating_add(GROWTH) < size) else { return };
        let (disk, point) = (a.disk.display().to_string(), point.display().to_string());
        let argv = match found.kind {
            "ext2" | "ext3" | "ext4" => ["resize2fs", &disk],
            "xfs" => ["xfs_growfs", &point],
            _ => return,
        };
        log::info!("{}: the file system of {} has {taken} of {size} bytes: growing it", m.key, a.volume_id);
        let Some(tool) = mounting::tool(argv[0]) else {
            log::warn!("{}: cannot grow it: {} is not on this system", m.key, argv[0]);
            return;
        };
        let argv = vec![tool.display().to_string(), argv[1].to_owned()];
        if let Err(e) = self.tool(d, argv, 0, scope) {
            log::warn!("{}: cannot grow it (it is mounted as it was): {e}", m.key);
        }
    }

    /// Runs a tool whose exit codes up to `most` are good.
    pub(super) fn tool(
        &self,
        d: &VolumeDirective,
        argv: Vec<String>,
        most: u32,
        scope: &Scope,
    ) -> Result<(), ExecError> {
        let line = ExecLine { argv: Vec::<Template>::new(), ec: ExitCodes::Of(vec![0..=most]), timeout: None };
        self.shared.runner.run(&d.path, &line, argv, scope)
    }
}

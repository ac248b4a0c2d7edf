//! From a disk to a directory that the application can use: find its file system ([`super::format`]), check it, mount
//! it, grow it. A mount that fails is an error, never a reason to format.

use std::path::Path;
use std::process::Command;

use super::volume::Acquired;
use super::{DomainRun, Failure};
use crate::config::{Mount, VolumeDirective};
use crate::exec::ExecError;
use crate::plan::format::{agree, fsck_argument, is_too_old};
use crate::scope::Scope;
use crate::sys::mounting;
use crate::sys::probe::Found;

/// A file system that is smaller than its disk by less than this cannot grow to any use.
const GROWTH: u64 = 16 << 20;

/// How much of the time that is left growing may take, at the most: a file system can be used as it is.
const GROWING: u32 = 4;

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
        let real = mounting::real_path(&point, scope)
            .map_err(|e| Failure { halt: scope.check().err(), ..failed(e.to_string()) })?;
        if let Some(there) = real.as_deref().and_then(|real| mounting::at(root, real)) {
            if !mounting::is_of(root, &there, &a.disk) {
                return Err(failed(format!("{} ({}) is mounted there", there.source, there.kind)));
            }
            if let Some(wanted) =
                m.fstype.as_deref().filter(|w| !agree(w, &there.kind) && !there.kind.starts_with("fuse"))
            {
                return Err(failed(format!("it is mounted there as {}, and the config wants {wanted}", there.kind)));
            }
            if let Some(other) = mounting::other_options(root, &there, &m.options) {
                log::warn!(
                    "{}: {} is mounted at {} with other options than the config has ({other}): they count from its next \
                     mount on",
                    m.key,
                    a.volume_id,
                    m.path
                );
            }
            log::info!("{}: {} is mounted at {} already", m.key, a.volume_id, m.path);
            return Ok(mounted(&there.kind));
        }
        // It must not come over a disk whose mount stands on this one.
        if let Some(hidden) = real.and_then(|real| self.would_hide(d, m, &real)) {
            return Err(failed(format!("it would hide {hidden}: unmount that first")));
        }
        let found = self.file_system(d, m, a, scope)?;
        self.with_volume(&d.path, |h| h.unused = None);
        if let Some(wanted) = m.fstype.as_deref().filter(|w| !agree(w, found.kind)) {
            return Err(failed(format!("it holds {}, and the config wants {wanted}", found.kind)));
        }
        let fstype = m.fstype.as_deref().unwrap_or(found.kind);
        let read_only = m.is_read_only();
        if m.fsck && !read_only {
            self.check_file_system(d, m, a, found.kind, scope)?;
        }
        if let Some(odd) =
            mounting::make_point(&point, scope).map_err(|e| failed(format!("cannot make the directory: {e}")))?
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
        mounting::set_owner(root, &point, owner, group, m.mode, scope)
            .map_err(|e| failed(format!("cannot set its owner or mode: {e}")))?;
        Ok(mounted(fstype))
    }

    /// Whether what was just mounted at `point` is the volume's disk: its name may have gone over to another one since it
    /// was looked at. What is not is unmounted again.
    fn is_its_disk(&self, a: &Acquired, point: &Path, scope: &Scope) -> Result<(), String> {
        let root = &self.shared.root;
        let disk = self.disk_of(&a.volume_id, scope).map_err(|f| f.text)?;
        let real = mounting::real_path(point, scope).map_err(|e| e.to_string())?;
        let is_it = match (real.and_then(|real| mounting::at(root, &real)), disk) {
            (None, _) => true,
            (_, None) => false,
            // The number of btrfs is of no device, and the name that it shows may be one of before.
            (Some(there), Some(disk)) if there.number.0 == 0 => disk == a.disk,
            (Some(there), Some(disk)) => mounting::is_of(root, &there, &disk),
        };
        if is_it {
            return Ok(());
        }
        mounting::unmount(point, scope)
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
        let Some(how) = fsck_argument(kind) else { return Ok(()) };
        let name = format!("fsck.{kind}");
        let failed = |why: String| Failure::new(format!("cannot check {} ({kind}): {why}", a.volume_id));
        let Some(tool) = mounting::tool(&name, scope) else {
            return Err(failed(format!("{name} is not on this system: install it, or set mount.fsck to skip")));
        };
        let mut command = Command::new(&tool);
        // What it says is looked at.
        command.arg(how).arg(&a.disk).env("LC_ALL", "C");
        // 1: repaired. 2: repaired, and a mounted one would have to be mounted anew.
        match self.shared.runner.run_tool(&d.path, &tool.display().to_string(), command, 3, scope) {
            Ok(()) => Ok(()),
            Err(ExecError::ExitCode { code, tail, .. }) if is_too_old(code, &tail) => {
                log::warn!(
                    "{}: cannot check {} ({kind}): {name} is too old for it; mounting it unchecked, if the kernel knows \
                     all its features: {}",
                    m.key,
                    a.volume_id,
                    tail.join(" | ")
                );
                Ok(())
            }
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
        let size = mounting::size_of(&a.disk, scope).unwrap_or(0);
        let Some(taken) = found.bytes.filter(|taken| taken.saturating_add(GROWTH) < size) else { return };
        let (name, of) = match found.kind {
            "ext2" | "ext3" | "ext4" => ("resize2fs", a.disk.as_path()),
            "xfs" => ("xfs_growfs", point),
            _ => return,
        };
        log::info!("{}: the file system of {} has {taken} of {size} bytes: growing it", m.key, a.volume_id);
        let Some(tool) = mounting::tool(name, scope) else {
            log::warn!("{}: cannot grow it: {name} is not on this system", m.key);
            return;
        };
        let mut command = Command::new(&tool);
        command.arg(of);
        // The rest of the start must not wait for one that hangs.
        let part = scope.within(scope.remaining() / GROWING);
        let end = self.shared.runner.run_tool(&d.path, &tool.display().to_string(), command, 0, &part);
        if let Err(e) = end {
            log::warn!("{}: cannot grow it (it is mounted as it was): {e}", m.key);
        }
    }
}

//! From a disk to a file system that the application can use: look, format (only what is proven blank, and only with
//! consent), check, mount, grow.
//!
//! The order is the safety. The disk is opened so that nobody else can mount it, is still the one with the volume's
//! serial, and is looked at ([`probe`]); the consent of a volume that was there before is taken off before `mkfs`
//! begins; and a mount that fails is an error, never a reason to format.

use std::fs::File;
use std::path::Path;

use serde_json::json;

use super::hold::Origin;
use super::volume::Acquired;
use super::{DomainRun, Failure};
use crate::config::{DEFAULT_FSTYPE, ExecLine, ExitCodes, Mount, VolumeDirective};
use crate::exec::ExecError;
use crate::macros::Template;
use crate::plan::tags;
use crate::scope::Scope;
use crate::sys::probe::{self, Content, Found};
use crate::sys::{beside, block, mounting};

/// What `user:ec2fd.format` says where a volume may be formatted.
const CONSENT: &str = "if-blank";
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
        let disk = self.hold_disk(a, scope).map_err(failed)?;
        let mut content = look(&disk, scope).map_err(failed)?;
        // Half a file system of our own is as good as blank. Anything that is known to be something is not ours to judge:
        // mkfs may have ended before the kill, and somebody may have used the disk since.
        if matches!(&content, Content::Other(found) if found.is_empty()) && self.was_being_formatted(d) {
            log::warn!("{}: {} was being formatted when an earlier run was cut off", m.key, a.volume_id);
            content = Content::Blank;
        }
        let found = match content {
            Content::FileSystem(found) => {
                // Nothing is changed from here on that mount(2) would not refuse by itself.
                drop(disk);
                found
            }
            Content::Blank if m.format => self.format(d, m, a, disk, scope)?,
            Content::Blank => {
                let why = "it is blank, and mount.format is never: set it to if-blank if it may be formatted";
                return Err(failed(why.to_owned()));
            }
            Content::Other(_) => {
                return Err(failed(format!(
                    "it holds {content}, no file system that can be mounted: look at it by hand"
                )));
            }
        };
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
        log::info!("{}: {} is mounted at {} ({fstype})", m.key, a.volume_id, m.path);
        if m.grow && !read_only {
            self.grow(d, m, a, &found, &point, scope);
        }
        let (owner, group) = (m.owner.as_deref(), m.group.as_deref());
        mounting::set_owner(root, &point, owner, group, m.mode)
            .map_err(|e| failed(format!("cannot set its owner or mode: {e}")))?;
        Ok(mounted(fstype))
    }

    /// The disk, open for nobody else to mount, and still that of the volume.
    fn hold_disk(&self, a: &Acquired, scope: &Scope) -> Result<File, String> {
        let disk = mounting::hold(&a.disk, scope)?;
        let by_serial = block::find_by_serial(&self.shared.root, &a.volume_id);
        if by_serial.as_ref().is_some_and(|node| *node != a.disk) || !mounting::is_still(&disk, &a.disk) {
            return Err(format!("{} is another disk by now", a.disk.display()));
        }
        Ok(disk)
    }

    fn was_being_formatted(&self, d: &VolumeDirective) -> bool {
        let mut formatting = false;
        self.with_volume(&d.path, |h| formatting = h.formatting && h.inherited);
        formatting
    }

    /// Makes a file system on a disk that is proven blank. `disk` is let go when `mkfs` begins, which opens it itself.
    fn format(
        &self,
        d: &VolumeDirective,
        m: &Mount,
        a: &Acquired,
        disk: File,
        scope: &Scope,
    ) -> Result<Found, Failure> {
        let fstype = m.fstype.as_deref().unwrap_or(DEFAULT_FSTYPE);
        let failed = |why: String| Failure::new(format!("cannot format {} as {fstype}: {why}", a.volume_id));
        let name = format!("mkfs.{fstype}");
        let Some(tool) = mounting::tool(&name) else {
            return Err(failed(format!("{name} is not on this system: install it, or format the volume elsewhere")));
        };
        let (mut made, mut again) = (false, false);
        self.with_volume(&d.path, |h| {
            (made, again) = (h.origin != Origin::Claimed, h.formatting && h.inherited);
        });
        let copied = a.copied || d.create.as_ref().is_some_and(|c| c.contains_key("SnapshotId"));
        if !again && (!made || copied) {
            self.take_consent(a, scope).map_err(|f| Failure { halt: f.halt, ..failed(f.text) })?;
        }
        let mut argv = vec![tool.display().to_string()];
        argv.extend(mkfs_arguments(fstype, m.label.as_deref()));
        argv.push(a.disk.display().to_string());
        self.with_volume(&d.path, |h| h.formatting = true);
        log::info!("{}: {} is blank: making a file system ({fstype}) on it", m.key, a.volume_id);
        drop(disk);
        self.tool(d, argv, 0, scope).map_err(|e| Failure { halt: e.halt(), ..failed(e.to_string()) })?;
        let disk = self.hold_disk(a, scope).map_err(failed)?;
        match look(&disk, scope).map_err(failed)? {
            Content::FileSystem(found) if agree(fstype, found.kind) => {
                self.with_volume(&d.path, |h| h.formatting = false);
                Ok(found)
            }
            other => Err(failed(format!("{name} ended well, and the disk holds {other}"))),
        }
    }

    /// A volume that was there before is formatted only where its tag allows that, once: the tag is off, and known to
    /// be off, before the first byte is written.
    fn take_consent(&self, a: &Acquired, scope: &Scope) -> Result<(), Failure> {
        let volume = self.describe(scope, &a.volume_id)?;
        if volume.is_none_or(|v| v.tag(tags::FORMAT) != Some(CONSENT)) {
            return Err(Failure::new(format!(
                "this run did not make it: give it the tag {} = {CONSENT} if it may be formatted",
                tags::FORMAT
            )));
        }
        let tag = json!([{ "Key": tags::FORMAT, "Value": CONSENT }]);
        self.note_call("delete_tags", json!({ "Resources": [a.volume_id], "Tags": tag }));
        self.shared
            .aws
            .delete_tags(scope, &[&a.volume_id], &[(tags::FORMAT, Some(CONSENT))])
            .map_err(|e| Failure::api(&format!("remove {}", tags::FORMAT), &e))
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

    fn tool(&self, d: &VolumeDirective, argv: Vec<String>, most: u32, scope: &Scope) -> Result<(), ExecError> {
        let line = ExecLine { argv: Vec::<Template>::new(), ec: ExitCodes::Of(vec![0..=most]), timeout: None };
        self.shared.runner.run(&d.path, &line, argv, scope)
    }
}

/// A disk that does not answer ends with the scope.
fn look(disk: &File, scope: &Scope) -> Result<Content, String> {
    let disk = disk.try_clone().map_err(|e| e.to_string())?;
    beside(scope, Box::new(move || probe::probe(&disk))).map_err(|e| format!("what is on it cannot be told: {e}"))
}

/// Whether the config's name of a file system fits what was found. The kernel mounts all of ext as ext4.
fn agree(wanted: &str, found: &str) -> bool {
    let ext = |s: &str| matches!(s, "ext2" | "ext3" | "ext4");
    let ntfs = |s: &str| matches!(s, "ntfs" | "ntfs3" | "ntfs-3g");
    wanted == found || (ext(wanted) && ext(found)) || (ntfs(wanted) && ntfs(found))
}

fn mkfs_arguments(fstype: &str, label: Option<&str>) -> Vec<String> {
    let (quiet, name) = match fstype {
        "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" => (Some("-q"), "-L"),
        "f2fs" => (Some("-q"), "-l"),
        "vfat" => (None, "-n"),
        _ => (None, "-L"),
    };
    let label = label.map(|l| [name.to_owned(), l.to_owned()]);
    quiet.map(str::to_owned).into_iter().chain(label.into_iter().flatten()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_the_same() {
        assert!(agree("ext4", "ext2") && agree("xfs", "xfs") && agree("ntfs3", "ntfs"));
        assert!(!agree("xfs", "ext4") && !agree("ext4", "btrfs"));
    }

    #[test]
    fn each_mkfs_has_its_words() {
        let of = |fstype, label| mkfs_arguments(fstype, label).join(" ");
        assert_eq!(of("ext4", Some("world")), "-q -L world");
        assert_eq!(of("f2fs", Some("world")), "-q -l world");
        assert_eq!(of("xfs", None), "-q");
        assert_eq!(of("vfat", Some("w")), "-n w");
        assert_eq!(of("odd", None), "");
    }
}

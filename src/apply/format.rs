//! From a disk to the file system on it: the one that is there, or a new one on a disk that is proven blank.
//!
//! The order is the safety: looked at while nobody else can have it, judged ([`judge`]), the consent of a volume that was
//! there before taken off, the intent in the journal, and only then `mkfs`. What each step does to the world is behind
//! [`Ground`]. A test takes its place, and finds no order of faults, kills and tags in which `mkfs` meets data.

use std::fs::File;
use std::path::PathBuf;

use super::hold::Origin;
use super::volume::Acquired;
use super::{DomainRun, Failure};
use crate::aws::Still;
use crate::config::{DEFAULT_FSTYPE, Mount, VolumeDirective};
use crate::plan::format::{History, Verdict, agree, judge, mkfs_arguments};
use crate::plan::tags;
use crate::scope::Scope;
use crate::sys::probe::{self, Content, Found};
use crate::sys::{beside, block, mounting, start};

/// What `user:ec2fd.format` says where a volume may be formatted.
const CONSENT: &str = "if-blank";

/// A disk and its volume, as the way to a file system touches them.
trait Ground {
    /// What is on the disk, held open so that nobody else can mount it from now on. An error: it is not known.
    fn look(&mut self) -> Result<Content, String>;
    /// What is known of the volume.
    fn history(&self) -> History;
    /// Finds `mkfs.FSTYPE`. Nothing is changed.
    fn find_mkfs(&mut self, fstype: &str) -> Result<(), Failure>;
    /// Finds the consent on the volume and takes it off; an error where it is not there, or not known to be off.
    fn take_consent(&mut self) -> Result<(), Failure>;
    /// Writes into the journal that `mkfs` is begun, or has ended well.
    fn note(&mut self, formatting: bool);
    /// Lets the disk go, and runs the `mkfs` that was found, which opens it itself.
    fn mkfs(&mut self) -> Result<(), Failure>;
}

/// The file system of the disk, which is made where it may be. The disk is held by nobody then.
fn file_system(m: &Mount, id: &str, ground: &mut dyn Ground) -> Result<Found, Failure> {
    let cannot_mount = |why: String| Failure::new(format!("cannot mount {id} at {}: {why}", m.path));
    let content = ground.look().map_err(cannot_mount)?;
    let consent = match judge(&content, m.format, ground.history()) {
        Verdict::Mount(found) => return Ok(found),
        Verdict::Refuse(why) => return Err(cannot_mount(why)),
        Verdict::Format { consent } => consent,
    };
    if content != Content::Blank {
        log::warn!("{}: {id} was being formatted when an earlier run was cut off", m.key);
    }
    let fstype = m.fstype.as_deref().unwrap_or(DEFAULT_FSTYPE);
    let cannot = |f: Failure| Failure { text: format!("cannot format {id} as {fstype}: {}", f.text), ..f };
    ground.find_mkfs(fstype).map_err(cannot)?;
    if consent {
        ground.take_consent().map_err(cannot)?;
    }
    ground.note(true);
    log::info!("{}: {id} is blank: making a file system ({fstype}) on it", m.key);
    ground.mkfs().map_err(cannot)?;
    match ground.look().map_err(|why| cannot(Failure::new(why)))? {
        Content::FileSystem(found) if agree(fstype, found.kind) => {
            ground.note(false);
            Ok(found)
        }
        other => Err(cannot(Failure::new(format!("mkfs.{fstype} ended well, and the disk holds {other}")))),
    }
}

/// The real one.
struct Volume<'a> {
    run: &'a DomainRun,
    d: &'a VolumeDirective,
    m: &'a Mount,
    a: &'a Acquired,
    scope: &'a Scope,
    held: Option<File>,
    mkfs: Vec<String>,
}

impl DomainRun {
    /// The file system of the directive's disk, made on a blank one where the config and the volume allow it.
    pub(super) fn file_system(
        &self,
        d: &VolumeDirective,
        m: &Mount,
        a: &Acquired,
        scope: &Scope,
    ) -> Result<Found, Failure> {
        let mut volume = Volume { run: self, d, m, a, scope, held: None, mkfs: Vec::new() };
        let found = file_system(m, &a.volume_id, &mut volume);
        volume.let_go();
        found
    }
}

impl Volume<'_> {
    fn let_go(&mut self) {
        if let Some(disk) = self.held.take() {
            start::let_go(disk, self.scope);
        }
    }
}

impl Ground for Volume<'_> {
    fn look(&mut self) -> Result<Content, String> {
        let node = &self.a.disk;
        let disk = mounting::hold(node, self.scope)?;
        let by_serial = block::find_by_serial(&self.run.shared.root, &self.a.volume_id);
        if by_serial.is_some_and(|there| there != *node) || !mounting::is_still(&disk, node) {
            return Err(format!("{} is another disk by now", node.display()));
        }
        // A disk that does not answer ends with the scope.
        let read = disk.try_clone().map_err(|e| e.to_string())?;
        self.held = Some(disk);
        beside(self.scope, Box::new(move || probe::probe(&read)))
            .map_err(|e| format!("what is on it cannot be told: {e}"))
    }

    fn history(&self) -> History {
        let mut history = History {
            made: false,
            copied: self.a.copied || self.d.create.as_ref().is_some_and(|c| c.contains_key("SnapshotId")),
            half: false,
        };
        self.run.with_volume(&self.d.path, |h| {
            (history.made, history.half) = (h.origin != Origin::Claimed, h.formatting && h.inherited);
        });
        history
    }

    fn find_mkfs(&mut self, fstype: &str) -> Result<(), Failure> {
        let name = format!("mkfs.{fstype}");
        let missing = || format!("{name} is not on this system: install it, or format the volume elsewhere");
        let tool: PathBuf = mounting::tool(&name).ok_or_else(|| Failure::new(missing()))?;
        self.mkfs.push(tool.display().to_string());
        self.mkfs.extend(mkfs_arguments(fstype, self.m.label.as_deref()));
        self.mkfs.push(self.a.disk.display().to_string());
        Ok(())
    }

    fn take_consent(&mut self) -> Result<(), Failure> {
        let (run, id) = (self.run, self.a.volume_id.as_str());
        if run.describe(self.scope, id)?.is_none_or(|v| v.tag(tags::FORMAT) != Some(CONSENT)) {
            return Err(Failure::new(format!(
                "this run did not make it: give it the tag {} = {CONSENT} if it may be formatted",
                tags::FORMAT
            )));
        }
        run.untag(id, &[(tags::FORMAT, Some(CONSENT))], &Still::always(), self.scope)
            .map_err(|e| Failure::api(&format!("remove {}", tags::FORMAT), &e))
    }

    fn note(&mut self, formatting: bool) {
        self.run.with_volume(&self.d.path, |h| h.formatting = formatting);
    }

    fn mkfs(&mut self) -> Result<(), Failure> {
        self.let_go();
        let argv = std::mem::take(&mut self.mkfs);
        let end = self.run.tool(self.d, argv, 0, self.scope);
        end.map_err(|e| Failure { halt: e.halt(), ..Failure::new(e.to_string()) })
    }
}

#[cfg(test)]
mod properties;

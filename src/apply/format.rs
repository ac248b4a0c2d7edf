//! From a disk to the file system on it: the one that is there, or a new one on a disk that is proven blank.
//!
//! The order is the safety: looked at while nobody else can have it, judged ([`judge`]), all that is needed found, the
//! consent of a volume that was there before taken off, the intent in the journal, and only then `mkfs`. What each step
//! does to the world is behind [`Ground`]. A test takes its place, and finds no order of faults, kills and tags in which
//! `mkfs` meets data.
//!
//! The consent is in the journal from before it is taken off until the disk is formatted: where nothing came of it, this
//! instance need not be given it again.

use std::fs::File;
use std::path::PathBuf;

use super::hold::Origin;
use super::volume::Acquired;
use super::{DomainRun, Failure, lock};
use crate::aws::Still;
use crate::config::{Mount, VolumeDirective};
use crate::plan::format::{Half, History, Verdict, agree, fsck_argument, judge, mkfs_arguments};
use crate::plan::tags;
use crate::scope::Scope;
use crate::sys::disk_tree::DiskTree;
use crate::sys::probe::{self, Content, Found};
use crate::sys::written::written;
use crate::sys::{beside_told, block, file_systems, holders, mkfs, mounting};

/// What `user:ec2fd.format` says where a volume may be formatted.
const CONSENT: &str = "if-blank";

/// What the journal is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Note {
    /// `mkfs` begins.
    Begun,
    /// It failed, and the disk is as it was before.
    Nothing,
    /// There is a file system on the disk.
    Done,
}

/// A disk and its volume, as the way to a file system touches them.
trait Ground {
    /// What is on the disk, held open so that nobody else can mount it from now on. An error: it is not known.
    fn look(&mut self) -> Result<Content, String>;
    /// What is known of the volume, once it was looked at.
    fn history(&self) -> History;
    /// Finds `mkfs.FSTYPE` and whatever else a mount needs after it. Nothing is changed.
    fn prepare(&mut self, fstype: &str, content: &Content) -> Result<(), Failure>;
    /// Finds the consent on the volume and takes it off; an error where it is not there, or not known to be off. One that
    /// was taken off before, and is in the journal, is as good.
    fn take_consent(&mut self) -> Result<(), Failure>;
    /// Writes into the journal how far it is.
    fn note(&mut self, note: Note);
    /// Lets the disk go, and runs the `mkfs` that was found, which opens it itself.
    fn mkfs(&mut self) -> Result<(), Failure>;
}

/// The file system of the disk, which is made where it may be. The disk is held by nobody then.
fn file_system(m: &Mount, id: &str, ground: &mut dyn Ground) -> Result<Found, Failure> {
    let cannot_mount = |why: String| Failure::new(format!("cannot mount {id} at {}: {why}", m.path));
    let content = ground.look().map_err(cannot_mount)?;
    let consent = match judge(&content, m.format, &ground.history()) {
        Verdict::Mount(found) => {
            ground.note(Note::Done);
            return Ok(found);
        }
        Verdict::Refuse(why) => return Err(cannot_mount(why)),
        Verdict::Format { consent } => consent,
    };
    if matches!(content, Content::Other(_)) {
        log::warn!("{}: {id} was being formatted when an earlier run was cut off", m.key);
    }
    let fstype = m.new_fstype();
    let cannot = |f: Failure| Failure { text: format!("cannot format {id} as {fstype}: {}", f.text), ..f };
    ground.prepare(fstype, &content).map_err(cannot)?;
    if consent {
        ground.take_consent().map_err(cannot)?;
    }
    ground.note(Note::Begun);
    let blank = match content {
        Content::Noise => format!("nothing was ever written to {id}, which is encrypted"),
        _ => format!("{id} is blank"),
    };
    log::info!("{}: {blank}: making a file system ({fstype}) on it", m.key);
    if let Err(f) = ground.mkfs() {
        let unwritten = ground.look().is_ok_and(|now| now == content);
        if unwritten {
            ground.note(Note::Nothing);
        }
        let advice = if consent { advice(id, unwritten) } else { String::new() };
        return Err(cannot(Failure { text: f.text + &advice, ..f }));
    }
    match ground.look().map_err(|why| cannot(Failure::new(why)))? {
        Content::FileSystem(found) if agree(fstype, found.kind) => {
            ground.note(Note::Done);
            Ok(found)
        }
        other => Err(cannot(Failure::new(format!("mkfs.{fstype} ended well, and the disk holds {other}")))),
    }
}

/// What is to be done about a consent of which nothing came.
fn advice(id: &str, unwritten: bool) -> String {
    let state = match unwritten {
        true => "it has written nothing, and this instance can try again until it is booted anew",
        false => "the disk may be half formatted: look at it by hand",
    };
    format!(
        "; {state}. Before any other instance may format it: aws ec2 create-tags --resources {id} --tags Key={},Value={CONSENT}",
        tags::FORMAT
    )
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

    /// The volume's consent was taken off for a file system that is not made yet (`true`), or is needed no more.
    fn keep_consent(&self, id: &str, keep: bool) {
        self.ledger(|l| {
            l.consents.retain(|c| c != id);
            l.consents.extend(keep.then(|| id.to_owned()));
        });
    }
}

impl Volume<'_> {
    fn let_go(&mut self) {
        if let Some(disk) = self.held.take() {
            holders::let_go(disk, self.scope);
        }
    }

    /// What the commands and the mount need that come after `mkfs`, as far as it can be known now.
    fn prepare_rest(&self, fstype: &str) -> Result<(), String> {
        let (m, root) = (self.m, &self.run.shared.root);
        if let Some(why) = m.bad_label() {
            return Err(why);
        }
        if let Some(why) = file_systems::refusal(root, fstype, &m.options, self.scope) {
            return Err(why);
        }
        if m.fsck && !m.is_read_only() && fsck_argument(fstype).is_some() {
            let name = format!("fsck.{fstype}");
            mounting::tool(&name, self.scope)
                .ok_or_else(|| format!("{name} is not on this system: install it, or set mount.fsck to skip"))?;
        }
        mounting::ids(root, m.owner.as_deref(), m.group.as_deref())?;
        // What comes after the first command, that one may bring.
        let first = self.d.exec.iter().flat_map(|b| &b.lines).next().and_then(|line| line.argv.first()?.literal());
        let Some(program) = first.filter(|_| self.run.shared.exec_enabled) else { return Ok(()) };
        let below = program.strip_prefix(&m.path).is_some_and(|rest| rest.starts_with('/'));
        if below {
            return Err(format!("{program}, the first command, cannot be on a disk that is blank"));
        }
        self.run
            .shared
            .runner
            .find(program, self.scope)
            .map_err(|e| format!("{program}, the first command, cannot be run: {e}"))
    }
}

impl Ground for Volume<'_> {
    fn look(&mut self) -> Result<Content, String> {
        let node = &self.a.disk;
        let disk = mounting::hold(&self.run.shared.root, node, self.scope)?;
        let by_serial = block::find_by_serial(&self.run.shared.root, &self.a.volume_id);
        if by_serial.is_some_and(|there| there != *node) || !mounting::is_still(&disk, node) {
            return Err(format!("{} is another disk by now", node.display()));
        }
        // A disk that does not answer ends with the scope.
        let read = disk.try_clone().map_err(|e| e.to_string())?;
        self.held = Some(disk);
        let look = move || {
            // What others have written is counted, and read, only then.
            read.sync_all()?;
            probe::probe(&read)
        };
        let what = format!("{} to be read", node.display());
        let mut content =
            beside_told(self.scope, &what, Box::new(look)).map_err(|e| format!("what is on it cannot be told: {e}"))?;
        // Also of a table that we do not know.
        if !DiskTree::of(&self.run.shared.root, node).partitions.is_empty() {
            content.add_partitions();
        }
        Ok(content)
    }

    fn history(&self) -> History {
        let (root, id, disk) = (&self.run.shared.root, self.a.volume_id.as_str(), &self.a.disk);
        let mut history = History {
            made: false,
            copied: self.a.copied || self.d.create.as_ref().is_some_and(|c| c.contains_key("SnapshotId")),
            used: self.a.used.clone(),
            half: Half::No,
        };
        let mut unused = None;
        self.run.with_volume(&self.d.path, |h| {
            history.made = h.origin != Origin::Claimed;
            if h.formatting && h.inherited {
                history.half = Half::Unsure;
            }
            unused = h.unused.clone();
        });
        if history.half == Half::Unsure && mkfs::is_as_left(root, id, disk) {
            history.half = Half::Ours;
        }
        if let Some(then) = unused {
            let since = !then.is_empty() && history.half != Half::Ours && written(root, disk) != Some(then);
            history.used = since.then(|| "this machine has written to it since it was attached".to_owned());
        }
        history
    }

    fn prepare(&mut self, fstype: &str, content: &Content) -> Result<(), Failure> {
        let name = format!("mkfs.{fstype}");
        let missing = || format!("{name} is not on this system: install it, or format the volume elsewhere");
        let tool: PathBuf = mounting::tool(&name, self.scope).ok_or_else(|| Failure::new(missing()))?;
        self.mkfs.push(tool.display().to_string());
        self.mkfs.extend(mkfs_arguments(fstype, self.m.label.as_deref(), *content == Content::Noise));
        self.mkfs.push(self.a.disk.display().to_string());
        self.prepare_rest(fstype).map_err(Failure::new)
    }

    fn take_consent(&mut self) -> Result<(), Failure> {
        let (run, id) = (self.run, self.a.volume_id.as_str());
        let kept = lock(&run.ledger).consents.iter().any(|c| c == id);
        if run.describe(self.scope, id)?.is_none_or(|v| v.tag(tags::FORMAT) != Some(CONSENT)) {
            if kept {
                log::info!(
                    "{}: {id} may be formatted: its consent was taken off for a try of which nothing came",
                    self.m.key
                );
                return Ok(());
            }
            let whose = if self.a.copied { "it is a copy" } else { "this run did not make it" };
            return Err(Failure::new(format!(
                "{whose}: give it the tag {} = {CONSENT} if it may be formatted",
                tags::FORMAT
            )));
        }
        run.keep_consent(id, true);
        run.untag(id, &[(tags::FORMAT, Some(CONSENT))], &Still::always(), self.scope).map_err(|e| {
            if !e.may_have_worked() {
                run.keep_consent(id, false);
            }
            Failure::api(&format!("remove {}", tags::FORMAT), &e)
        })
    }

    fn note(&mut self, note: Note) {
        self.run.with_volume(&self.d.path, |h| h.formatting = note == Note::Begun);
        if note == Note::Done {
            self.run.keep_consent(&self.a.volume_id, false);
        }
    }

    fn mkfs(&mut self) -> Result<(), Failure> {
        self.let_go();
        let (run, argv) = (self.run, std::mem::take(&mut self.mkfs));
        let command = mkfs::guarded(&run.shared.root, &self.a.volume_id, &self.a.disk, &argv);
        let name = argv.first().map(String::as_str).unwrap_or_default();
        let end = run.shared.runner.run_tool(&self.d.path, name, command, 0, self.scope);
        end.map_err(|e| Failure { halt: e.halt(), ..Failure::new(e.to_string()) })
    }
}

#[cfg(test)]
mod properties;

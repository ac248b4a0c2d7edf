//! One `attach-volume` directive: the first look, then its sources in order, until a disk is usable.
//!
//! The next source is tried only when this one is *proven* absent. Whatever is denied, throttled, timed out or
//! ambiguous fails the directive: a blank volume in place of the data is the worst outcome of all.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::hold::{Committed, Done, Hold, Origin, VolumeHold};
use super::{DomainRun, Failure, lock};
use crate::aws::Still;
use crate::aws::ec2::{Filter, Volume};
use crate::clock::Tick;
use crate::config::{Source, VolumeDirective};
use crate::parallel;
use crate::plan::unfinished::Own;
use crate::plan::volumes::{self, Found, Standing};
use crate::plan::{create, format, tags};
use crate::scope::Scope;
use crate::sys::written::written;
use crate::waits::waiting;

/// A volume whose disk is usable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acquired {
    pub(crate) volume_id: String,
    pub(crate) source: Source,
    /// This run attached it (`{attach_op}`).
    pub(crate) op: bool,
    /// The node.
    pub(crate) disk: PathBuf,
    /// It was made from a snapshot or another volume: what is on it is not known by who made it.
    pub(crate) copied: bool,
    /// Why noise on it is not what EC2 shows of a volume that nobody wrote to; `None`: it is.
    pub(crate) used: Option<String>,
}

/// How a source ended without a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SourceEnd {
    /// Proven: what it names is not to be had here. The next source may be tried.
    Absent(String),
    /// One answer had nothing of it. Reads can be wrong for some seconds, so before anything is made in its place it is
    /// looked at again.
    Missing(String),
    /// The snapshot that was to become a volume does not exist any more. Nothing was made.
    NoBase(Failure),
    /// It has something to make a volume from. Nothing was made: a source before it may have a better one.
    Held,
    /// Anything else.
    Failed(Failure),
}

impl From<Failure> for SourceEnd {
    fn from(f: Failure) -> SourceEnd {
        SourceEnd::Failed(f)
    }
}

/// How long after an answer without what was looked for the next one counts as another one.
pub(super) const SECOND_LOOK: Duration = Duration::from_secs(3);
/// A reading that is older is read again before anything is decided by it: the process was held up, or waited.
const STALE: Duration = Duration::from_secs(60);

/// What was read of volumes, and when.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) at: Tick,
    pub(crate) volumes: Arc<Vec<Volume>>,
}

impl DomainRun {
    /// Reads what the volume directives need to know: the domain's volumes in this zone, and those named by id.
    pub(crate) fn read_volumes(&self, scope: &Scope) -> Result<Reading, Failure> {
        let pools = self.config.volumes.iter().any(|d| d.sources.iter().any(|s| *s != Source::Existing));
        let ids: Vec<String> = self
            .config
            .volumes
            .iter()
            .filter(|d| d.sources.contains(&Source::Existing))
            .filter_map(|d| d.volume_id.clone())
            .collect();
        // Beside each other, on two connections; the claims use them afterwards.
        let reads = usize::from(pools) + usize::from(!ids.is_empty());
        let reads = parallel::map(reads, |i| match (i, pools) {
            (0, true) => self.describe_domain(scope),
            _ => self.describe_ids(scope, &ids),
        });
        let mut all: Vec<Volume> = Vec::new();
        for read in reads {
            for v in read? {
                if !all.iter().any(|a| a.id == v.id) {
                    all.push(v);
                }
            }
        }
        Ok(self.reading(Arc::new(all)))
    }

    /// What was read just now.
    pub(super) fn reading(&self, volumes: Arc<Vec<Volume>>) -> Reading {
        Reading { at: self.shared.clock.now(), volumes }
    }

    /// Whether a reading is too old to decide anything by it.
    pub(super) fn is_stale(&self, reading: &Reading) -> bool {
        self.shared.clock.now().since(reading.at) > STALE
    }

    /// The volumes of this domain in this zone.
    pub(crate) fn describe_domain(&self, scope: &Scope) -> Result<Vec<Volume>, Failure> {
        let filters = [
            Filter::exact(format!("tag:{}", tags::DOMAIN), &[&self.config.name]),
            Filter::exact("availability-zone", &[&self.shared.facts().zone]),
        ];
        self.shared
            .aws
            .describe_volumes(scope, &filters)
            .map_err(|e| Failure::api(&format!("list the volumes of domain '{}'", self.config.name), &e))
    }

    /// Volumes by id, with all their tags; those that do not exist are left out.
    pub(crate) fn describe_ids(&self, scope: &Scope, ids: &[String]) -> Result<Vec<Volume>, Failure> {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        self.shared
            .aws
            .describe_volumes_with_tags(scope, &[Filter::exact("volume-id", &ids)])
            .map_err(|e| Failure::api(&format!("describe {}", ids.join(", ")), &e))
    }

    /// One volume by id.
    pub(crate) fn describe(&self, scope: &Scope, id: &str) -> Result<Option<Volume>, Failure> {
        Ok(self.describe_ids(scope, &[id.to_owned()])?.into_iter().find(|v| v.id == id))
    }

    /// Gets the directive its volume. `read` is what [`DomainRun::read_volumes`] found.
    pub(crate) fn acquire(&self, d: &VolumeDirective, read: &Reading, scope: &Scope) -> Result<Acquired, Failure> {
        let mut read = read.clone();
        let _wait = waiting(scope, format!("the volume of {}", d.path));
        // Of which two answers, some seconds apart, had nothing.
        let mut sure: Vec<Source> = Vec::new();
        loop {
            let doubted = match self.try_sources(d, &mut read, &sure, scope)? {
                Ok(acquired) => return Ok(acquired),
                Err(doubted) => doubted,
            };
            let names: Vec<&str> = doubted.iter().map(|s| s.letter()).collect();
            let what = format!("source {} had nothing in one answer", names.join(", "));
            let seconds = SECOND_LOOK.as_secs();
            log::info!("{}: {what}; looking again in {seconds} s, before a volume is made in its place", d.path);
            scope.sleep(SECOND_LOOK).map_err(|h| Failure::halted(format!("{what}, which proves nothing"), h))?;
            sure.extend(doubted);
            read = self.read_volumes(scope)?;
        }
    }

    /// One pass over the sources of a directive. The error names the sources that are to be looked at again before
    /// anything is made: one answer had nothing of them.
    fn try_sources(
        &self,
        d: &VolumeDirective,
        read: &mut Reading,
        sure: &[Source],
        scope: &Scope,
    ) -> Result<Result<Acquired, Vec<Source>>, Failure> {
        let me = self.shared.facts().instance_id.clone();
        let (mut tried, mut doubted, mut looked) = (Vec::new(), Vec::new(), false);
        for (i, source) in d.sources.iter().enumerate() {
            // A source before may have waited for long.
            if self.is_stale(read) {
                (*read, looked) = (self.read_volumes(scope)?, false);
            }
            if !std::mem::replace(&mut looked, true) {
                let found = volumes::first_look(d, &self.config.volumes, &self.config.name, &read.volumes, &me)
                    .map_err(|e| Failure::new(e.to_string()))?;
                if let Some(found) = found {
                    let volume = read.volumes.iter().find(|v| v.id == found.volume_id).cloned();
                    let Some(why) = self.is_outdated_copy(volume.as_ref(), scope)? else {
                        return self.use_found(d, &found, &read.volumes, scope).map(Ok);
                    };
                    log::warn!("{}: {} is not gone on with: {why}", d.path, found.volume_id);
                    self.give_found_up(volume, scope)?;
                    Arc::make_mut(&mut read.volumes).retain(|v| v.id != found.volume_id);
                }
            }
            if source.makes() && create::is_multi_attach(d) {
                let what = format!("create.MultiAttachEnabled is set for source {}", source.letter());
                self.may_be_mounted(d, &what, true)?;
            }
            let certain = doubted.is_empty();
            let end = match source {
                Source::Existing => self.source_existing(d, &read.volumes, sure.contains(source), scope),
                Source::Pool => self.source_pool(d, read, sure.contains(source), scope),
                Source::Create if !certain => Err(SourceEnd::Held),
                Source::Create => self.source_create(d, Source::Create, None, &read.volumes, scope),
                Source::Snapshot => self.source_snapshot(d, &read.volumes, certain, scope),
                Source::Move => self.source_move(d, &read.volumes, certain, scope),
            };
            let makes_later = || d.sources.iter().skip(i + 1).any(|s| s.makes());
            let why = match end {
                Ok(a) => return Ok(Ok(a)),
                Err(SourceEnd::Failed(f) | SourceEnd::NoBase(f)) => return Err(f),
                Err(SourceEnd::Held) => return Ok(Err(doubted)),
                Err(SourceEnd::Missing(why)) if makes_later() && !sure.contains(source) => {
                    doubted.push(*source);
                    why
                }
                Err(SourceEnd::Missing(why) | SourceEnd::Absent(why)) => why,
            };
            log::info!("{}: source {}: {why}", d.path, source.letter());
            tried.push(format!("{}: {why}", source.letter()));
        }
        Err(Failure::new(format!("no volume to be had ({})", tried.join("; "))))
    }

    /// A file system is for one instance at a time: what several may have is not mounted, and not even attached for it.
    pub(super) fn may_be_mounted(&self, d: &VolumeDirective, what: &str, multi_attach: bool) -> Result<(), Failure> {
        if d.mount.is_none() || !multi_attach {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{what}: with Multi-Attach several instances may have the volume at the same time, and mounting its file \
             system on more than one destroys it: leave mount out, or use a volume without Multi-Attach"
        )))
    }

    /// Whoever attached it may have made it end with the instance. That is not ours to change: ModifyInstanceAttribute
    /// cannot be allowed for this alone.
    fn warn_of_its_end(&self, d: &VolumeDirective, v: &Volume) {
        let facts = self.shared.facts();
        let ours = v.attachments.iter().find(|a| a.instance_id == facts.instance_id);
        if let Some(a) = ours.filter(|a| a.delete_on_termination) {
            log::error!(
                "{}: {} is attached with DeleteOnTermination: EC2 deletes it with all its data when this instance is \
                 terminated. To keep it, run: aws ec2 modify-instance-attribute --region {} --instance-id {} \
                 --block-device-mappings '[{{\"DeviceName\":\"{}\",\"Ebs\":{{\"DeleteOnTermination\":false}}}}]'",
                d.path,
                v.id,
                facts.region,
                facts.instance_id,
                a.device
            );
        }
    }

    /// A volume that is attached here already is used as it is.
    pub(crate) fn use_found(
        &self,
        d: &VolumeDirective,
        found: &Found,
        read: &[Volume],
        scope: &Scope,
    ) -> Result<Acquired, Failure> {
        let volume = read.iter().find(|v| v.id == found.volume_id);
        if let Some(v) = volume {
            self.may_be_mounted(d, &format!("cannot use {}", v.id), v.multi_attach)?;
            self.warn_of_its_end(d, v);
        }
        let owner = volume.and_then(|v| v.tag(tags::OWNER));
        let transit = volume.and_then(|v| v.tag(tags::IN_TRANSIT));
        let mine = owner == Some(self.shared.facts().instance_id.as_str());
        if self.enter(&found.volume_id, &d.path, scope)? {
            // Another domain's roll-back or release, or another daemon's, has taken it away meanwhile.
            return self.use_again(d, found, scope);
        }
        lock(&self.shared.taken).insert(found.volume_id.clone());
        let taken_up = volume.and_then(|v| self.take_up(d, v, &found.device));
        if let Some(v) = volume {
            self.take_up_move(d, v);
        }
        let unfinished = taken_up.is_some() || transit.is_some();
        if taken_up.is_some() {
            log::info!("{}: going on with {}, which an earlier run attached", d.path, found.volume_id);
            let left = volume.and_then(|v| v.tag(tags::TRANSC_ID)).map(str::to_owned);
            self.with_volume(&d.path, |h| h.transc_id = h.transc_id.take().or(left));
            if transit.is_some() {
                self.end_transit(d, &found.volume_id, scope)?;
            }
        } else if let Some(token) = transit {
            // An earlier run made it and was cut off before the first command ran on it: go on where it stopped.
            log::info!("{}: finishing {}, which an earlier run created", d.path, found.volume_id);
            self.push(Hold::Volume(VolumeHold {
                volume_id: Some(found.volume_id.clone()),
                token: Some(token.to_owned()),
                transc_id: volume.and_then(|v| v.tag(tags::TRANSC_ID)).map(str::to_owned),
                attached: Done::Yes,
                ..self.new_hold(d, Origin::Adopted, &found.device)
            }));
            self.end_transit(d, &found.volume_id, scope)?;
        } else if let Some(left) = volume.and_then(|v| v.tag(tags::TRANSC_ID)).filter(|_| mine) {
            // Its application may be running: it is not ours to take away, but its last tags are ours to write. A run
            // was killed between the claim and these.
            let committed = Committed {
                volume_id: found.volume_id.clone(),
                created: create::is_token(left) && volume.is_some_and(|v| v.tag(tags::TS_CREATED).is_none()),
                transc_id: left.to_owned(),
                marked: false,
                moved: None,
                member: self.member(d),
            };
            lock(&self.found).push(committed);
        }
        let used = self.use_of(d, volume);
        let disk = self.wait_for_disk(&found.volume_id, &found.device, None, scope)?;
        self.has_disk(d, &disk);
        log::info!("{}: {} is attached already, as {}", d.path, found.volume_id, disk.display());
        let copied = volume.is_some_and(|v| v.copy_of().is_some());
        let op = unfinished;
        Ok(Acquired { volume_id: found.volume_id.clone(), source: found.source, op, disk, copied, used })
    }

    /// What tells of a use of the volume; the hold remembers where nothing does, for a run after this one.
    fn use_of(&self, d: &VolumeDirective, v: Option<&Volume>) -> Option<String> {
        let used = match v {
            Some(v) => format::use_of(v, &self.shared.facts().instance_id),
            None => Some("EC2 has not described it".to_owned()),
        };
        // Without a mount, its commands may write what they like.
        let formats = d.mount.as_ref().is_some_and(|m| m.format);
        self.with_volume(&d.path, |h| {
            h.unused = h.unused.take().or(used.is_none().then(String::new)).filter(|_| formats);
        });
        used
    }

    /// The disk of a volume that this run has is there.
    fn has_disk(&self, d: &VolumeDirective, disk: &Path) {
        let mut looks = false;
        self.with_volume(&d.path, |h| looks = h.unused.as_ref().is_some_and(String::is_empty));
        let written = looks.then(|| written(&self.shared.root, disk)).flatten();
        self.with_volume(&d.path, |h| {
            h.disk = Some(disk.to_owned());
            if let (Some(unused), Some(written)) = (&mut h.unused, written) {
                *unused = written;
            }
        });
    }

    /// What was found here may have been taken away since. If it still is here, or is again, it is used.
    fn use_again(&self, d: &VolumeDirective, found: &Found, scope: &Scope) -> Result<Acquired, Failure> {
        let read: Vec<Volume> = self.describe(scope, &found.volume_id)?.into_iter().collect();
        let facts = self.shared.facts();
        match read.first().map(|v| volumes::standing(v, &facts.instance_id, &facts.zone)) {
            Some(Standing::Here(device)) => self.use_found(d, &Found { device, ..found.clone() }, &read, scope),
            _ => self.acquire(d, &self.read_volumes(scope)?, scope),
        }
    }

    pub(crate) fn new_hold(&self, d: &VolumeDirective, origin: Origin, device: &str) -> VolumeHold {
        VolumeHold {
            key: d.path.clone(),
            volume_id: None,
            token: None,
            snapshot: None,
            transc_id: None,
            deleting: None,
            origin,
            seen: false,
            attached: Done::No,
            sent: None,
            device: device.to_owned(),
            disk: None,
            tags_before: Vec::new(),
            transit_removed: false,
            marked: false,
            formatting: false,
            unused: None,
            inherited: false,
        }
    }

    /// After a claim that won: our tags beside the wait for the disk.
    pub(crate) fn finish_claim(
        &self,
        d: &VolumeDirective,
        v: &Volume,
        source: Source,
        device: &(String, crate::sys::block::NameSnapshot),
        scope: &Scope,
    ) -> Result<Acquired, Failure> {
        let used = self.use_of(d, Some(v));
        // A volume of the pool that was left in transit by this directive: finish what was begun.
        let transit = v.tag(tags::IN_TRANSIT).is_some();
        let left = v
            .tag(tags::TRANSC_ID)
            .filter(|t| create::is_token(t) && v.tag(tags::OWNER) == Some(self.shared.facts().instance_id.as_str()));
        if let Some(left) = left.filter(|_| !source.makes()) {
            // A run of this instance made it and was cut off: its tags say so already, and until it is finished.
            log::info!("{}: finishing {}, which an earlier run created", d.path, v.id);
            self.take_up_move(d, v);
            self.with_volume(&d.path, |h| {
                h.origin = Origin::Adopted;
                h.transc_id = Some(left.to_owned());
                h.token = v.tag(tags::IN_TRANSIT).map(str::to_owned);
            });
        } else if !source.makes() {
            let (run, id) = (self.shared.clone(), v.id.clone());
            let owner = self.shared.facts().instance_id.clone();
            let me = owner.clone();
            let known = run.clock.now();
            self.note_tags(&[&id], &[(tags::OWNER, &owner), (tags::TRANSC_ID, &run.transaction_id)]);
            // It must not hold up a roll-back for long.
            let scope = scope.within(Duration::from_secs(60));
            let work = move || {
                let ours = [(tags::OWNER, owner.as_str()), (tags::TRANSC_ID, run.transaction_id.as_str())];
                let ids = [id.as_str()];
                let watch = run.watch(&ids, Own::Attached, Some(known));
                if let Err(e) = run.aws.create_tags(&scope, &ids, &ours, &Still::while_(&|s| watch.ask(s))) {
                    log::warn!("cannot tag {id} as ours (it is ours all the same): {e}");
                }
            };
            let before = [(tags::OWNER, me), (tags::TRANSC_ID, self.shared.transaction_id.clone())]
                .map(|(key, ours)| (key.to_owned(), ours, v.tag(key).map(str::to_owned)));
            self.with_volume(&d.path, |h| {
                h.tags_before = before.to_vec();
                h.token = v.tag(tags::IN_TRANSIT).map(str::to_owned);
            });
            let job = parallel::background("tag", Box::new(work));
            lock(&self.tagging).extend(job.map(|job| (d.path.clone(), job)));
        }
        // Off before the first command, and known to be off; the disk comes meanwhile.
        let mut disk = PathBuf::new();
        for end in parallel::map(1 + usize::from(transit), |i| match i {
            0 => {
                let disk = self.wait_for_disk(&v.id, &device.0, Some(&device.1), scope);
                disk.inspect_err(|f| self.name_is_bad(d, &device.0, f, scope)).map(Some)
            }
            _ => self.end_transit(d, &v.id, scope).map(|()| None),
        }) {
            disk = end?.unwrap_or(disk);
        }
        self.has_disk(d, &disk);
        log::info!("{}: {} attached as {} ({})", d.path, v.id, device.0, disk.display());
        Ok(Acquired { volume_id: v.id.clone(), source, op: true, disk, copied: v.copy_of().is_some(), used })
    }

    /// Takes the in-transit tag off: from here on the volume may carry data, and no clean-up deletes it.
    fn end_transit(&self, d: &VolumeDirective, id: &str, scope: &Scope) -> Result<(), Failure> {
        self.with_volume(&d.path, |h| h.transit_removed = true);
        let ids = [id];
        let watch = self.shared.watch(&ids, Own::Attached, Some(self.shared.clock.now()));
        self.untag(id, &[(tags::IN_TRANSIT, None)], &Still::while_(&|s| watch.ask(s)), scope)
            .map_err(|e| Failure::api(&format!("remove {} from {id}", tags::IN_TRANSIT), &e))
    }
}

pub(super) fn same(a: &str, b: &str) -> bool {
    crate::plan::devices::same_device(a, b)
}

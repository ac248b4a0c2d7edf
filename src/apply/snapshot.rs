//! `snapshot`: snapshots of a volume that is in use, on events of the way out and at intervals; and how many of them stay.
//!
//! What a snapshot holds is fixed when CreateSnapshot answers: the file systems of the disk are written out before and
//! frozen for that call only ([`freeze`]), and the volume may be detached while the snapshot is `pending`. Nothing here
//! fails a run or takes from a release more than a share of its time.
//!
//! Only the instance that holds a volume makes and deletes snapshots of it, one at a time. CreateSnapshot knows no client
//! token: after a lost answer the snapshot is looked for by a tag that only this request has.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use serde_json::json;

use super::volume::Acquired;
use super::{DomainRun, Failure, lock};
use crate::aws::ec2::{Filter, Snapshot, SnapshotState};
use crate::aws::{ApiError, Class, Lapsed, Still};
use crate::config::{self, VolumeDirective};
use crate::model::Event;
use crate::parallel;
use crate::plan::volumes::standing;
use crate::plan::{snapshots, tags};
use crate::scope::{Halt, Scope};
use crate::sys::freeze;

/// What snapshots may take of the way out, even if there is more time.
const MOST: Duration = Duration::from_secs(30);
/// What one at an interval may take.
const UNHURRIED: Duration = Duration::from_secs(180);
/// How long a file system is frozen at the longest, and when its guard thaws it without us.
const FROZEN: Duration = Duration::from_secs(5);
const GUARDED: Duration = Duration::from_secs(8);
/// EC2 makes one snapshot of a volume in so long.
const GAP: Duration = Duration::from_secs(15);
/// After a lost answer: how often it is looked whether there is a snapshot, and when.
const LOOKS: [Duration; 3] = [Duration::ZERO, Duration::from_secs(2), Duration::from_secs(4)];
/// How often one is asked for.
const TRIES: u32 = 3;
/// After a failure at an interval, the next try.
const AGAIN: Duration = Duration::from_secs(300);

fn what(volume: &str) -> String {
    format!("make a snapshot of {volume}")
}

fn cannot(what: &str, e: &ApiError) -> Failure {
    let mut f = Failure::api(what, e);
    if e.class() == Class::Denied && e.action == "CreateSnapshot" {
        f.text.push_str("; its tags need ec2:CreateTags too");
    }
    f
}

/// What the snapshots of a domain share.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Held while one is made.
    busy: Mutex<()>,
    /// Volumes are released: none is made at its time any more.
    over: Arc<AtomicBool>,
    /// What was said once and need not be said again.
    said: Mutex<BTreeSet<String>>,
}

/// A snapshot at intervals.
struct Turn<'a> {
    d: &'a VolumeDirective,
    config: &'a config::Snapshot,
    volume: Acquired,
    /// When it is looked at next.
    due: Duration,
    /// It is known when the last one was made.
    looked: bool,
}

impl DomainRun {
    /// Whether any directive wants snapshots.
    pub(crate) fn wants_snapshots(&self) -> bool {
        self.config.volumes.iter().any(|d| d.snapshot.is_some())
    }

    /// Thaws what a run that was killed has left frozen.
    pub(crate) fn thaw_left(&self, scope: &Scope) {
        for d in self.config.volumes.iter().filter(|d| d.snapshot.is_some()) {
            freeze::thaw_left(&self.shared.root, &d.path, scope);
        }
    }

    /// No more snapshots at intervals.
    pub(crate) fn no_more_snapshots(&self) {
        self.snapshots.over.store(true, Ordering::Relaxed);
    }

    /// Makes the snapshots of `event`, after its commands and before the releases. What could not be made, in words.
    pub(crate) fn snapshot_on(&self, event: Event, scope: &Scope) -> Vec<String> {
        if !self.wants_snapshots() {
            return Vec::new();
        }
        // Its commands may have left it half way, and a snapshot is what others begin with.
        if lock(&self.committed_at).is_none() {
            log::info!("no snapshots at '{}': this domain has not come up", event.name());
            return Vec::new();
        }
        let share = scope.within(MOST);
        // One that was under way is finished or given up, and thawed, before anything is unmounted.
        if self.tasks(event).releases() {
            self.no_more_snapshots();
        }
        let _busy = self.alone(&share);
        let volumes = self.volumes_with(|s| s.on.contains(&event));
        let ends = parallel::map(volumes.len(), |i| {
            let (d, s, volume) = &volumes[i];
            let made = match self.still_holds(&volume.volume_id, &share) {
                Ok(()) => {
                    self.make(d, s, volume, Some(event), &share).map_err(|e| cannot(&what(&volume.volume_id), &e))
                }
                Err(f) => Err(Failure { text: format!("cannot {}: {f}", what(&volume.volume_id)), ..f }),
            };
            made.err().map(|f| {
                log::error!("{}: {f}", d.path);
                f.text
            })
        });
        ends.into_iter().flatten().collect()
    }

    /// Makes snapshots at intervals and deletes those that are too many, until `scope` ends.
    pub(crate) fn keep_snapshots(&self, scope: &Scope) {
        let scope = &scope.unless(&self.snapshots.over);
        let begun = scope.clock.now();
        let all = self.volumes_with(|s| s.every.is_some() || s.keep.is_some());
        let mut turns: Vec<Turn<'_>> = all
            .into_iter()
            .map(|(d, config, volume)| Turn { d, config, volume, due: Duration::ZERO, looked: false })
            .collect();
        while let Some(t) = turns.iter_mut().min_by_key(|t| t.due) {
            if scope.sleep(t.due.saturating_sub(scope.clock.now().since(begun))).is_err() {
                return;
            }
            let wait = self.turn(t, &scope.within(UNHURRIED));
            t.due = scope.clock.now().since(begun).saturating_add(wait);
            // Where only `keep` is wanted, one look is enough.
            turns.retain(|t| t.config.every.is_some() || !t.looked);
        }
    }

    /// One turn; how long it is until the next one.
    fn turn(&self, t: &mut Turn<'_>, scope: &Scope) -> Duration {
        let (path, id) = (&t.d.path, t.volume.volume_id.as_str());
        let every = t.config.every.unwrap_or(Duration::MAX);
        let all = match self.snapshots_of(id, scope) {
            Ok(all) => all,
            Err(e) => {
                if !matches!(e.class(), Class::Halted(Halt::Stopped(_))) {
                    self.say_error(path, &format!("list the snapshots of {id}"), &e);
                }
                match (e.class(), t.looked) {
                    (Class::Denied, true) => Vec::new(),
                    (Class::Denied, false) => {
                        // As if one had been made just now: nobody knows better.
                        t.looked = true;
                        return every;
                    }
                    _ => return AGAIN,
                }
            }
        };
        t.looked = true;
        let ours = snapshots::ours(&all, &self.config.name, t.d.pool_name.as_deref(), id);
        let old = t.config.keep.map_or_else(Vec::new, |keep| snapshots::too_many(&ours, keep));
        let newest = snapshots::newest(&ours);
        let wait = snapshots::due_in(newest, every, self.shared.clock.corrected());
        let due = t.config.every.is_some() && wait.is_zero();
        if (due || !old.is_empty())
            && let Err(f) = self.still_holds(id, scope)
        {
            // Whoever has it now makes and deletes its snapshots.
            if !matches!(f.halt, Some(Halt::Stopped(_))) {
                self.say_once(path, "not held", &format!("no snapshots of {id} are made or deleted here: {f}"));
            }
            return every.min(AGAIN);
        }
        self.delete_too_many(path, &old, scope);
        if !due {
            return wait;
        }
        if let Some(s) = newest.filter(|s| s.state == SnapshotState::Pending) {
            log::warn!("{path}: no new snapshot of {id}: {} is still pending ({} %)", s.id, s.progress);
            return every;
        }
        let Some(_busy) = self.alone(scope) else { return AGAIN };
        match self.make(t.d, t.config, &t.volume, None, scope) {
            Ok(_) => every,
            Err(e) => {
                if !matches!(e.class(), Class::Halted(Halt::Stopped(_))) {
                    self.say_error(path, &what(id), &e);
                }
                every.min(AGAIN)
            }
        }
    }

    /// Whether the volume still is this instance's: another one may have it by now, and then its snapshots are that one's.
    fn still_holds(&self, id: &str, scope: &Scope) -> Result<(), Failure> {
        let facts = self.shared.facts();
        let disk = self.has_serials().then(|| self.disk_of(id, scope).is_ok_and(|disk| disk.is_some()));
        let now = match self.describe(scope, id) {
            Ok(now) => now.map(|v| standing(&v, &facts.instance_id, &facts.zone)),
            // Its disk tells as well.
            Err(_) if disk == Some(true) => return Ok(()),
            Err(f) => return Err(f),
        };
        snapshots::not_held(now.as_ref(), disk).map_or(Ok(()), |why| Err(Failure::new(why)))
    }

    /// The directives whose snapshots are so, with the volumes that they use.
    fn volumes_with<'a>(
        &'a self,
        wanted: impl Fn(&config::Snapshot) -> bool,
    ) -> Vec<(&'a VolumeDirective, &'a config::Snapshot, Acquired)> {
        let in_use = lock(&self.in_use).clone();
        let of = |d: &VolumeDirective| in_use.iter().find(|u| u.index == d.index).map(|u| u.volume.clone());
        let with = |d: &'a VolumeDirective| Some((d, d.snapshot.as_ref().filter(|s| wanted(s))?, of(d)?));
        self.config.volumes.iter().filter_map(with).collect()
    }

    /// Waits until nobody else of this domain makes a snapshot.
    fn alone(&self, scope: &Scope) -> Option<MutexGuard<'_, ()>> {
        loop {
            match self.snapshots.busy.try_lock() {
                Ok(guard) => return Some(guard),
                Err(TryLockError::Poisoned(p)) => return Some(p.into_inner()),
                Err(TryLockError::WouldBlock) => scope.sleep(Duration::from_millis(20)).ok()?,
            }
        }
    }

    /// Warns, but only once of the same thing: what is missing at one turn is so at the next. `what` names it.
    fn say_once(&self, path: &str, what: &str, text: &str) {
        if lock(&self.snapshots.said).insert(format!("{path} {what}")) {
            log::warn!("{path}: {text}");
        }
    }

    /// Warns of an error of AWS's; of a missing permission only once.
    fn say_error(&self, path: &str, what: &str, e: &ApiError) {
        let text = cannot(what, e).text;
        match e.class() {
            Class::Denied => self.say_once(path, e.action, &text),
            _ => log::warn!("{path}: {text}"),
        }
    }

    fn snapshots_of(&self, volume: &str, scope: &Scope) -> Result<Vec<Snapshot>, ApiError> {
        let filters = [
            Filter::exact("volume-id", &[volume]),
            Filter::exact(format!("tag:{}", tags::DOMAIN), &[&self.config.name]),
        ];
        self.shared.aws.describe_snapshots(scope, &filters)
    }

    fn delete_too_many(&self, path: &str, old: &[&Snapshot], scope: &Scope) {
        for s in old {
            let id = s.id.as_str();
            // The one before it may have taken long.
            let ask =
                |scope: &Scope| match self.has_serials() && !matches!(self.disk_of(&s.volume_id, scope), Ok(Some(_))) {
                    true => Err(Lapsed::Changed(format!("{} is not attached to this instance any more", s.volume_id))),
                    false => Ok(()),
                };
            match self.delete_owned_snapshot(id, &Still::while_(&ask), scope) {
                Err(e) if e.class() == Class::Lapsed => return,
                Ok(()) => {
                    log::info!("{path}: deleted {id}, a snapshot of {}: enough newer ones are there", s.volume_id)
                }
                Err(e) if e.class() == Class::Gone => {}
                // An image is made of it.
                Err(e) if e.class() == Class::Conflict => self.say_once(path, id, &format!("{id} is kept: {e}")),
                Err(e) => {
                    if e.halt().is_none() {
                        self.say_error(path, &format!("delete snapshots such as {id}"), &e);
                    }
                    return;
                }
            }
        }
    }

    /// Makes one, on an event or at its time.
    fn make(
        &self,
        d: &VolumeDirective,
        s: &config::Snapshot,
        a: &Acquired,
        event: Option<Event>,
        scope: &Scope,
    ) -> Result<Snapshot, ApiError> {
        let id = a.volume_id.as_str();
        let me = self.shared.facts().instance_id.clone();
        let unique = format!("{me}-{:x}", self.shared.clock.corrected().unix_timestamp_nanos());
        let why = event.map_or("at its time", Event::name);
        let mut all = vec![(tags::DOMAIN, self.config.name.as_str())];
        all.extend(d.pool_name.as_deref().map(|p| (tags::POOL_NAME, p)));
        all.extend([(tags::OWNER, me.as_str()), (tags::SNAPSHOT, unique.as_str())]);
        all.extend(s.tags.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let description = format!("ec2fleetd on {me}, {why}");

        // Names of disks move: what is written out and frozen is what is the volume's disk now.
        let disk = self.disk_of(id, scope).inspect_err(|f| log::warn!("{}: not frozen: {f}", d.path)).ok().flatten();
        // So that the freeze itself is short. What cannot be written out in time would only be frozen for longer.
        let written = |disk: PathBuf| freeze::sync(&self.shared.root, &disk, &scope.within(scope.remaining() / 2));
        let synced = disk.map(written);
        if synced == Some(false) {
            log::warn!("{}: what is written to {id} takes too long to get onto the disk: not frozen", d.path);
        }
        let mut last = None;
        for _ in 0..TRIES {
            if last.is_some()
                && let Err(f) = self.still_holds(id, scope)
            {
                log::warn!("{}: no snapshot of {id} is asked for again: {f}", d.path);
                break;
            }
            // What happens at intervals is no part of the transaction, and there is no end to it.
            if event.is_some() {
                let noted: Vec<_> = all.iter().map(|(k, v)| json!({ "Key": k, "Value": v })).collect();
                let spec = json!([{ "ResourceType": "snapshot", "Tags": noted }]);
                let param = json!({ "VolumeId": id, "Description": description, "TagSpecifications": spec });
                self.note_call("create_snapshot", param);
            }
            match self.create_frozen(d, id, synced == Some(true), &description, &all, scope) {
                Ok(s) => return Ok(self.begun(d, s, why)),
                Err(e) if matches!(e.class(), Class::Halted(Halt::Stopped(_))) => return Err(e),
                Err(e) if e.may_have_worked() => {
                    if let Some(s) = self.look_for(id, &unique, scope) {
                        return Ok(self.begun(d, s, why));
                    }
                    last = Some(e);
                }
                Err(e) if e.class() == Class::TooEarly && scope.remaining() > GAP => {
                    log::info!("{}: {e}; once more in {} s", d.path, GAP.as_secs());
                    last = Some(e);
                    let _ = scope.sleep(GAP);
                }
                Err(e) => return Err(e),
            }
            if scope.check().is_err() {
                break;
            }
        }
        Err(last.unwrap_or_else(|| ApiError::halted("CreateSnapshot", Halt::Deadline, None)))
    }

    /// CreateSnapshot while the file systems stand still.
    fn create_frozen(
        &self,
        d: &VolumeDirective,
        id: &str,
        freezing: bool,
        description: &str,
        tags: &[(&str, &str)],
        scope: &Scope,
    ) -> Result<Snapshot, ApiError> {
        let disk = if freezing { self.disk_of(id, scope).ok().flatten() } else { None };
        let freeze = |disk: PathBuf| freeze::freeze(&self.shared.root, &disk, &d.path, GUARDED, &scope.within(FROZEN));
        let frozen = disk.map(freeze);
        let end = self.shared.aws.create_snapshot(&scope.within(FROZEN), id, description, tags);
        // Said only now: who knows what a log is written to.
        let not = frozen.map(freeze::Frozen::thaw).unwrap_or_default();
        // Who was stopped has not waited for it.
        if !matches!(scope.check(), Err(Halt::Stopped(_))) {
            for not in not {
                self.say_once(&d.path, &not, &format!("a file system is not frozen while a snapshot is made: {not}"));
            }
        }
        end
    }

    fn begun(&self, d: &VolumeDirective, s: Snapshot, why: &str) -> Snapshot {
        log::info!("{}: snapshot {} of {} is begun ({why})", d.path, s.id, s.volume_id);
        s
    }

    /// The snapshot that an unanswered request made, if it did.
    fn look_for(&self, volume: &str, unique: &str, scope: &Scope) -> Option<Snapshot> {
        for pause in LOOKS {
            scope.sleep(pause).ok()?;
            let found =
                self.snapshots_of(volume, scope).ok()?.into_iter().find(|s| s.tag(tags::SNAPSHOT) == Some(unique));
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

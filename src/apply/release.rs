//! `release`: a volume handed over while the instance still lives, so that its successor need not wait for the end of it.
//!
//! In this order, each step confirmed before the next: the time of use written (while the volume is ours: beside the
//! commands, else after the unmount), programs of our commands ended, file systems written out and unmounted,
//! DetachVolume, and the look that says it is free. A disk that somebody holds is tried until the share of the time for it
//! is over; if it is held still, it stays attached. Who holds it is named at once. Never a forced detachment.

use std::time::Duration;

use super::disk::Vacated;
use super::hold::{Done, Origin, VolumeHold};
use super::volume::Acquired;
use super::{DomainRun, lock};
use crate::aws::Still;
use crate::config::{Release, VolumeDirective};
use crate::model::Event;
use crate::plan::tags;
use crate::plan::unfinished::Own;
use crate::plan::way_out::{Tasks, share};
use crate::scope::Scope;
use crate::sys::mounts::{self, MountSet};

/// How long it may take to announce a release: commands are waited for beside it, and the release comes after both.
const ANNOUNCED: Duration = Duration::from_secs(2);
/// How long the last tags of the commit are waited for.
const TAGS: Duration = Duration::from_secs(5);

/// A volume that a directive uses.
#[derive(Debug, Clone)]
pub(crate) struct InUse {
    /// The directive's number.
    pub(super) index: usize,
    pub(super) volume: Acquired,
    /// The time of use was written when the way out began.
    announced: bool,
}

impl DomainRun {
    /// The directive has what it wants: from here on its volume can be released.
    pub(super) fn uses(&self, d: &VolumeDirective, volume: &Acquired) {
        let mut all = lock(&self.in_use);
        all.retain(|u| u.index != d.index);
        all.push(InUse { index: d.index, volume: volume.clone(), announced: false });
    }

    /// The directive has it no more.
    pub(super) fn uses_no_more(&self, key: Option<&str>) {
        let of = |u: &InUse| self.config.volumes.iter().any(|d| d.index == u.index && key.is_none_or(|k| d.path == k));
        lock(&self.in_use).retain(|u| !of(u));
    }

    /// What is to be done here at `event`, after its commands.
    pub(crate) fn tasks(&self, event: Event) -> Tasks {
        let volumes = &self.config.volumes;
        Tasks {
            snapshots: volumes.iter().any(|d| d.snapshot.as_ref().is_some_and(|s| s.on.contains(&event))),
            volumes: volumes.iter().any(|d| d.release.as_ref().is_some_and(|r| r.on.contains(&event))),
            records: self.config.records.iter().any(|d| d.release.contains(&event)) || self.releases_address(event),
        }
    }

    /// Writes the time of use on the volumes that `event` releases, while the commands run: who waits for one of them sees
    /// that, and looks more often. After the commands that is one call less on the way.
    pub(crate) fn announce_release(&self, event: Event, scope: &Scope) {
        let in_use = lock(&self.in_use).clone();
        let going = in_use.iter().filter(|u| self.released(u, event).is_some()).map(|u| u.volume.volume_id.clone());
        // One whose disk is not here any more may be another instance's.
        let volumes: Vec<String> = going.filter(|id| matches!(self.disk_of(id, scope), Ok(Some(_)))).collect();
        let ids: Vec<&str> = volumes.iter().map(String::as_str).collect();
        let (now, scope) = (self.shared.time_tag(), scope.within(ANNOUNCED.min(scope.remaining() / 8)));
        // Otherwise it is written later.
        if ids.is_empty() {
            return;
        }
        let used = [(tags::TS_USED, now.as_str())];
        let watch = self.shared.watch(&ids, Own::Attached, Some(self.shared.clock.now()));
        self.note_tags(&ids, &used);
        if self.shared.aws.create_tags(&scope, &ids, &used, &Still::while_(&|s| watch.ask(s))).is_ok() {
            let mut all = lock(&self.in_use);
            all.iter_mut().filter(|u| volumes.contains(&u.volume.volume_id)).for_each(|u| u.announced = true);
        }
    }

    /// The directive and the release of a volume that `event` releases.
    fn released(&self, u: &InUse, event: Event) -> Option<(&VolumeDirective, &Release)> {
        let d = self.config.volumes.iter().find(|d| d.index == u.index)?;
        Some((d, d.release.as_ref().filter(|r| r.on.contains(&event))?))
    }

    /// Releases the volumes that `event` releases, in the reverse order of their mounts: unmounts them within `unmount`
    /// and detaches them within `detach`. What could not be released, in words.
    pub(crate) fn release(&self, event: Event, unmount: &Scope, detach: &Scope) -> Vec<String> {
        if !self.tasks(event).volumes {
            return Vec::new();
        }
        let mut volumes = lock(&self.in_use).clone();
        // What was mounted last goes first.
        let place = |u: &InUse| self.config.volumes.iter().position(|d| d.index == u.index);
        volumes.sort_by_key(|u| std::cmp::Reverse(place(u)));
        // The last tags of the commit must not be written on what is another's by then.
        let patience = unmount.within(TAGS.min(unmount.remaining() / 4));
        while self.has_tags_to_write() && patience.sleep(Duration::from_millis(50)).is_ok() {}
        // What `started` commands left in the background works on the disks.
        self.end_programs(&self.config.name, unmount);
        let mut left = Vec::new();
        lock(&self.in_use).iter_mut().for_each(|u| u.announced = false);
        let going: Vec<_> = volumes.iter().filter_map(|u| Some((u, self.released(u, event)?))).collect();
        self.will_unmount(&going.iter().map(|(_, (d, _))| d.path.as_str()).collect::<Vec<_>>());
        for (i, (u, (d, release))) in going.iter().enumerate() {
            // One that takes all its time does not take that of those after it.
            self.until_nothing_stands_on(&d.path, unmount);
            let part = |scope: &Scope| scope.within(share(scope.remaining(), going.len() - i));
            let (unmount, detach) = (part(unmount), part(detach));
            let end = self.release_one(d, u, release.lazy, &unmount, &detach);
            self.unmount_was_tried(&d.path);
            match end {
                Ok(()) => self.uses_no_more(Some(&d.path)),
                Err(what) => {
                    // It is its own still.
                    let _ = self.enter(&u.volume.volume_id, &d.path, &detach);
                    self.stand();
                    log::error!("{}: not released: {what}", d.path);
                    left.push(what);
                }
            }
        }
        left
    }

    /// Ends what commands of `owner` left running; some of the time is for what comes after it.
    fn end_programs(&self, owner: &str, scope: &Scope) {
        self.shared.runner.end_group(owner, &scope.within(scope.remaining() / 3));
    }

    fn release_one(
        &self,
        d: &VolumeDirective,
        u: &InUse,
        lazy: bool,
        unmount: &Scope,
        detach: &Scope,
    ) -> Result<(), String> {
        let (a, id) = (&u.volume, u.volume.volume_id.as_str());
        // The last one that has it lets it go; until then another one's application works on it.
        let _taking = match self.take(id, &d.path, detach)? {
            Ok(taking) => taking,
            Err(other) => {
                log::info!("{}: {id} stays: {other}", d.path);
                return Ok(());
            }
        };
        log::info!("{}: releasing {id}", d.path);
        self.end_programs(&d.path, unmount);
        let root = &self.shared.root;
        // What had its name once may be another one's disk by now.
        let disk = self.disk_of(id, unmount);
        let vacated = match disk.map_err(|f| format!("{id} stays attached: which disk it is cannot be told: {f}"))? {
            // Whoever mounted it: the config says that the volume goes.
            Some(disk) => {
                // What is unmounted lazily is written out before, as far as the disk takes it.
                let tried = if lazy { unmount.within(unmount.remaining() * 3 / 4) } else { unmount.clone() };
                let what = format!("{}: {id}", d.path);
                match mounts::unmount_all(root, &disk, &MountSet::default(), &what, &tried) {
                    Ok(alone) => Vacated { disk: Some(disk), alone: Some(alone), ..Vacated::default() },
                    Err(held) if !lazy => return Err(format!("{id} stays attached: {held}")),
                    Err(held) => {
                        unmount.check().map_err(|h| format!("{id} stays attached: {held}: {h}"))?;
                        log::warn!("{}: {held}; unmounting lazily, as the config says", d.path);
                        mounts::unmount_lazily(root, &disk, unmount)
                            .map_err(|e| format!("{id} stays attached: {e}"))?;
                        Vacated { disk: Some(disk), ..Vacated::default() }
                    }
                }
            }
            None => {
                let here = self.attachment_here(id, detach);
                if here.map_err(|f| format!("{id} may be attached still: {f}"))?.is_none() {
                    log::warn!("{}: {id} is not attached here any more: it is left alone", d.path);
                    return Ok(());
                }
                log::warn!("{}: {id} is attached, but this machine shows no disk of it: nothing is unmounted", d.path);
                Vacated::default()
            }
        };
        self.mount_is_down(&d.path);
        let now = self.shared.time_tag();
        // A hint: the volume goes without it too.
        if !u.announced
            && let Err(e) = self.tag_attached(
                id,
                &[(tags::TS_USED, &now)],
                self.shared.clock.now(),
                &detach.within(detach.remaining() / 4),
            )
        {
            log::warn!("{}: cannot write the time of use of {id}: {e}", d.path);
        }
        let hold = VolumeHold {
            volume_id: Some(a.volume_id.clone()),
            attached: Done::Yes,
            ..self.new_hold(d, Origin::Claimed, d.device.as_deref().unwrap_or("its device"))
        };
        match self.detach(&hold, id, vacated, detach)? {
            Some(holder) => log::info!("{}: {id} is released; {holder}", d.path),
            None => log::info!("{}: {id} is released", d.path),
        }
        Ok(())
    }
}

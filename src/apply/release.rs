//! `release`: a volume handed over while the instance still lives, so that its successor need not wait for the end of it.
//!
//! In this order, each step confirmed before the next: programs of our commands ended, file systems written out and
//! unmounted, the time of use written (while the volume is ours), DetachVolume, and the look that says it is free. A disk
//! that somebody still holds stays attached, and who holds it is named. Never a forced detachment.

use std::time::Duration;

use super::hold::{Done, Origin, VolumeHold};
use super::volume::Acquired;
use super::{DomainRun, lock};
use crate::config::VolumeDirective;
use crate::model::Event;
use crate::plan::tags;
use crate::scope::Scope;
use crate::sys::mounts::{self, MountSet};

/// How long the last tags of the commit are waited for.
const TAGS: Duration = Duration::from_secs(5);

/// A volume that a directive uses.
#[derive(Debug, Clone)]
pub(crate) struct InUse {
    /// The directive's number.
    pub(super) index: usize,
    pub(super) volume: Acquired,
}

impl DomainRun {
    /// The directive has what it wants: from here on its volume can be released.
    pub(super) fn uses(&self, d: &VolumeDirective, volume: &Acquired) {
        let mut all = lock(&self.in_use);
        all.retain(|u| u.index != d.index);
        all.push(InUse { index: d.index, volume: volume.clone() });
    }

    /// The directive has it no more.
    pub(super) fn uses_no_more(&self, key: Option<&str>) {
        let of = |u: &InUse| self.config.volumes.iter().any(|d| d.index == u.index && key.is_none_or(|k| d.path == k));
        lock(&self.in_use).retain(|u| !of(u));
    }

    /// Whether `event` releases anything here.
    pub(crate) fn releases(&self, event: Event) -> bool {
        self.releases_volumes(event) || self.config.records.iter().any(|d| d.release.contains(&event))
    }

    fn releases_volumes(&self, event: Event) -> bool {
        self.config.volumes.iter().any(|d| d.release.as_ref().is_some_and(|r| r.on.contains(&event)))
    }

    /// Releases the volumes that `event` releases, in the reverse order of the directives. What could not be released, in
    /// words.
    pub(crate) fn release(&self, event: Event, scope: &Scope) -> Vec<String> {
        if !self.releases_volumes(event) {
            return Vec::new();
        }
        let mut volumes = lock(&self.in_use).clone();
        volumes.sort_by_key(|u| std::cmp::Reverse(u.index));
        // The last tags of the commit must not be written on what is another's by then.
        let patience = scope.within(TAGS);
        while self.has_tags_to_write() && patience.sleep(Duration::from_millis(50)).is_ok() {}
        // What `started` commands left in the background works on the disks.
        self.shared.runner.end_group(&self.config.name, scope);
        let mut left = Vec::new();
        for u in volumes {
            let Some(d) = self.config.volumes.iter().find(|d| d.index == u.index) else { continue };
            let Some(release) = d.release.as_ref().filter(|r| r.on.contains(&event)) else { continue };
            match self.release_one(d, &u.volume, release.lazy, scope) {
                Ok(()) => self.uses_no_more(Some(&d.path)),
                Err(what) => {
                    log::error!("{}: not released: {what}", d.path);
                    left.push(what);
                }
            }
        }
        left
    }

    fn release_one(&self, d: &VolumeDirective, a: &Acquired, lazy: bool, scope: &Scope) -> Result<(), String> {
        let id = a.volume_id.as_str();
        log::info!("{}: releasing {id}", d.path);
        self.shared.runner.end_group(&d.path, scope);
        let root = &self.shared.root;
        // A part of the time is kept for the detachment.
        let unmounting = scope.within(scope.remaining() * 3 / 4);
        // Whoever mounted it: the config says that the volume goes.
        if let Err(held) = mounts::unmount_all(root, &a.disk, &MountSet::default(), &unmounting) {
            if !lazy {
                return Err(format!("{id} stays attached: {held}"));
            }
            log::warn!("{}: {held}; unmounting lazily, as the config says", d.path);
            mounts::unmount_lazily(root, &a.disk).map_err(|e| format!("{id} stays attached: {e}"))?;
        }
        let now = self.shared.time_tag();
        // A hint: the volume goes without it too.
        if let Err(e) =
            self.shared.aws.create_tags(&scope.within(scope.remaining() / 4), &[id], &[(tags::TS_USED, &now)])
        {
            log::warn!("{}: cannot write the time of use of {id}: {e}", d.path);
        }
        let hold = VolumeHold {
            volume_id: Some(a.volume_id.clone()),
            attached: Done::Yes,
            ..self.new_hold(d, Origin::Claimed, d.device.as_deref().unwrap_or("its device"))
        };
        match self.detach(&hold, id, scope)? {
            Some(holder) => log::info!("{}: {id} is released; {holder}", d.path),
            None => log::info!("{}: {id} is released", d.path),
        }
        Ok(())
    }
}

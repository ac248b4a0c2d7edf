//! What becomes of a volume that was moved, and of a move that was given up.
//!
//! When the copy is committed, the old volume is superseded and the snapshot deleted, off the path to `started`. Until
//! then the mark keeps the old volume from being offered; so a run that is killed in between leaves no two live copies,
//! and the next one goes on from the journal or, where that is lost, from the marks themselves.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::hold::{Committed, Done, Hold, MoveHold};
use super::{DomainRun, Failure, lock};
use crate::aws::Class;
use crate::aws::ec2::{Filter, Snapshot, SnapshotState, Volume, VolumeState};
use crate::config::{Source, VolumeDirective};
use crate::plan::moves::{self, Mark};
use crate::plan::{create, tags};
use crate::scope::Scope;

/// How often it is looked whether a copy that was deleted is gone.
const LOOKS: u32 = 5;

/// The instance that made the copy has not committed it: it may be put back yet, and then what it is a copy of is the
/// data.
fn is_unfinished(copy: &Volume) -> bool {
    copy.tag(tags::TRANSC_ID).is_some_and(create::is_token)
}

impl DomainRun {
    /// Supersedes what the committed copies are copies of. What could not be finished is given back.
    pub(super) fn finish_moves(&self, scope: &Scope) -> Vec<Committed> {
        let moved: Vec<Committed> = {
            let l = lock(&self.ledger);
            l.committed.iter().chain(&l.to_tidy).filter(|c| c.moved.is_some()).cloned().collect()
        };
        let unfinished = |c: &Committed| {
            let m = c.moved.as_ref()?;
            let why = self.supersede(m, &c.volume_id, scope).err()?;
            log::error!("{} was moved to {}, and that could not be finished: {why}", m.volume_id, c.volume_id);
            Some(c.clone())
        };
        moved.iter().filter_map(unfinished).collect()
    }

    fn supersede(&self, m: &MoveHold, copy: &str, scope: &Scope) -> Result<(), Failure> {
        let old = m.volume_id.as_str();
        let now = self.describe(scope, old)?;
        if let Some(now) = &now {
            if let Some(a) = now.attachments.first() {
                return Err(Failure::new(format!(
                    "{} has attached {old}, and both are in use: stop one, and give the volume that does not count the \
                     tag {}",
                    a.instance_id,
                    tags::SUPERSEDED_BY
                )));
            }
            if now.tag(tags::SUPERSEDED_BY).is_none() && now.tag(tags::TS_USED) != m.used.as_deref() {
                return Err(Failure::new(format!(
                    "{old} was used meanwhile, and both have data of their own: give the volume that does not count \
                     the tag {}",
                    tags::SUPERSEDED_BY
                )));
            }
            let tag = json!([{ "Key": tags::SUPERSEDED_BY, "Value": copy }]);
            self.note_call("create_tags", json!({ "Resources": [old], "Tags": tag }));
            self.shared
                .aws
                .create_tags(scope, &[old], &[(tags::SUPERSEDED_BY, copy)])
                .map_err(|e| Failure::api(&format!("mark {old} as superseded"), &e))?;
            log::info!("{old} is superseded by {copy}, and kept: delete it when you do not need it any more");
            self.unmark(now, &m.token, scope)?;
        }
        self.delete_move_snapshots(m, now.as_ref(), scope)
    }

    /// Takes the mark off, if it is still the one of this move.
    fn unmark(&self, v: &Volume, token: &str, scope: &Scope) -> Result<(), Failure> {
        let Some(mark) = v.tag(tags::MOVING).filter(|t| Mark::parse(t).is_some_and(|m| m.token == token)) else {
            return Ok(());
        };
        let tag = json!([{ "Key": tags::MOVING, "Value": mark }]);
        self.note_call("delete_tags", json!({ "Resources": [v.id], "Tags": tag }));
        self.shared
            .aws
            .delete_tags(scope, &[&v.id], &[(tags::MOVING, Some(mark))])
            .map_err(|e| Failure::api(&format!("take the mark of the move off {}", v.id), &e))
    }

    fn delete_move_snapshots(&self, m: &MoveHold, old: Option<&Volume>, scope: &Scope) -> Result<(), Failure> {
        for s in self.find_move_snapshots(m, scope)? {
            self.is_spare(&s, old, scope)?;
            self.delete_move_snapshot(&s.id, scope)?;
        }
        Ok(())
    }

    /// Whether what a snapshot has is elsewhere, too: in the volume that it is of (`old`, as it is now), or in one that
    /// was made from it and is in use. Where somebody has deleted that volume, the snapshot is all that is left.
    fn is_spare(&self, s: &Snapshot, old: Option<&Volume>, scope: &Scope) -> Result<(), Failure> {
        let is_live = |v: &Volume| !v.state.is_ending() && v.state != VolumeState::Error;
        if s.state == SnapshotState::Error || old.is_some_and(is_live) {
            return Ok(());
        }
        let what = format!("look for volumes made from {}", s.id);
        let made = self.shared.aws.describe_volumes(scope, &[Filter::exact("snapshot-id", &[&s.id])]);
        let made = made.map_err(|e| Failure::api(&what, &e))?;
        if made.iter().any(|v| is_live(v) && v.tag(tags::IN_TRANSIT).is_none()) {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{} does not exist any more, and {}, which was made to move it, has the last copy of its data: it is kept \
             (make a volume of it, or delete it if the data is not needed)",
            s.volume_id, s.id
        )))
    }

    fn delete_move_snapshot(&self, id: &str, scope: &Scope) -> Result<(), Failure> {
        self.note_call("delete_snapshot", json!({ "SnapshotId": id }));
        match self.shared.aws.delete_snapshot(scope, id) {
            Ok(()) => log::info!("{id} deleted: it was made to move a volume"),
            Err(e) if e.class() == Class::Gone => {}
            Err(e) => return Err(Failure::api(&format!("delete {id}, which was made to move a volume"), &e)),
        }
        Ok(())
    }

    /// Puts a move back: the snapshot is deleted, and the mark taken off. `false`: a copy is still there, and the next
    /// run goes on with it.
    pub(super) fn undo_move(&self, m: &MoveHold, scope: &Scope) -> Result<bool, String> {
        let failed = |f: Failure| format!("the move of {}: {f}", m.volume_id);
        let me = self.shared.facts().instance_id.clone();
        let mut pause = Duration::from_millis(250);
        for look in 1.. {
            let all = self.copies_of(&m.lineage, scope).map_err(failed)?;
            let is_there = |v: &&Volume| {
                moves::generation(v) > m.generation
                    && v.tag(tags::SUPERSEDED_BY).is_none()
                    && !v.state.is_ending()
                    && (v.tag(tags::OWNER) == Some(&me) || v.tag(tags::IN_TRANSIT).is_none())
            };
            let Some(copy) = all.iter().find(is_there) else { break };
            if copy.tag(tags::OWNER) != Some(&me) && !is_unfinished(copy) {
                // Another instance found it in the pool, in use as it was when we were cut off.
                return self.supersede(m, &copy.id, scope).map(|()| true).map_err(failed);
            }
            if look == LOOKS || scope.sleep(pause).is_err() {
                log::info!("{} stays marked as being moved: its copy {} is there still", m.volume_id, copy.id);
                return Ok(false);
            }
            pause *= 2;
        }
        let old = self.describe(scope, &m.volume_id).map_err(failed)?;
        self.delete_move_snapshots(m, old.as_ref(), scope).map_err(failed)?;
        if let Some(v) = old {
            self.unmark(&v, &m.token, scope).map_err(failed)?;
        }
        log::info!("{} is not moved", m.volume_id);
        Ok(true)
    }

    /// The copy `v`, made by an earlier run, is the directive's: so is its move.
    pub(super) fn take_up_move(&self, d: &VolumeDirective, v: &Volume) {
        let Some(lineage) = v.tag(tags::LINEAGE) else { return };
        let of = |h: &mut Hold| matches!(h, Hold::Move(m) if m.lineage == lineage && m.generation + 1 == moves::generation(v));
        self.ledger(|l| {
            let taken: Vec<Hold> = l.inherited.extract_if(.., of).collect();
            for mut hold in taken {
                if let Hold::Move(m) = &mut hold {
                    m.key.clone_from(&d.path);
                }
                l.held.push(hold);
            }
        });
    }

    /// A copy that a run used and did not commit: what it is a copy of is the data. It is kept, and never offered.
    pub(super) fn give_copy_up(&self, copy: &Volume, scope: &Scope) -> Result<(), String> {
        let by = moves::lineage(copy);
        log::warn!(
            "{}, a copy that no run finished, is kept and not used: delete it if its data is not needed",
            copy.id
        );
        let tag = json!([{ "Key": tags::SUPERSEDED_BY, "Value": by }]);
        self.note_call("create_tags", json!({ "Resources": [copy.id], "Tags": tag }));
        let end = self.shared.aws.create_tags(scope, &[&copy.id], &[(tags::SUPERSEDED_BY, by)]);
        end.map_err(|e| Failure::api(&format!("mark {} as superseded (it stays in transit)", copy.id), &e).text)
    }

    /// What a mover that is gone left of the volume that is ours to move now: copies that nobody used, and snapshots.
    pub(super) fn clean_up_after_others(&self, v: &Volume, all: &[Volume], gone: &BTreeSet<String>, scope: &Scope) {
        let me = &self.shared.facts().instance_id;
        let now = self.shared.clock.corrected();
        let is_left = |o: &&Volume| {
            o.tag(tags::LINEAGE) == Some(moves::lineage(v))
                && moves::generation(o) > moves::generation(v)
                && o.tag(tags::OWNER) != Some(me)
                && o.attachments.is_empty()
                && super::settle::never_attached(o, o.tag(tags::IN_TRANSIT))
                && (o.create_time.is_some_and(|t| now - t >= moves::STALE)
                    || o.tag(tags::OWNER).is_some_and(|owner| gone.contains(owner)))
        };
        for copy in all.iter().filter(is_left) {
            log::info!("{}: a copy of {} that {:?} left", copy.id, v.id, copy.tag(tags::OWNER).unwrap_or_default());
            if let Err(what) = self.delete(&copy.id, false, scope) {
                log::warn!("{what}");
            }
        }
        let Some(mark) = Mark::of(v).filter(|m| m.owner != *me || !self.is_known(&m.token)) else { return };
        self.clean_up_snapshots(&mark.token, scope);
    }

    fn clean_up_snapshots(&self, token: &str, scope: &Scope) {
        let found = self.snapshots_by(&format!("tag:{}", tags::MOVING), token, scope);
        let end = found.and_then(|all| all.iter().try_for_each(|s| self.delete_move_snapshot(&s.id, scope)));
        if let Err(f) = end {
            log::warn!("{f}");
        }
    }

    /// Whether a hold is of the move with this token.
    fn is_known(&self, token: &str) -> bool {
        let l = lock(&self.ledger);
        let committed = l.committed.iter().chain(&l.to_tidy).filter_map(|c| c.moved.as_ref());
        let held = l.held.iter().chain(&l.inherited).chain(&l.left).filter_map(|h| match h {
            Hold::Move(m) => Some(m),
            _ => None,
        });
        held.chain(committed).any(|m| m.token == token)
    }

    /// Where the journal is lost: the marks and snapshots of this instance that no hold knows.
    pub(super) fn settle_marks(&self, scope: &Scope) {
        if !self.config.volumes.iter().any(|d| d.sources.contains(&Source::Move)) {
            return;
        }
        if let Err(f) = self.settle_marks_of_mine(scope) {
            log::warn!("cannot settle what earlier runs began to move: {f}");
        }
    }

    fn settle_marks_of_mine(&self, scope: &Scope) -> Result<(), Failure> {
        let me = self.shared.facts().instance_id.clone();
        let domain = Filter::exact(format!("tag:{}", tags::DOMAIN), &[&self.config.name]);
        let marked = Filter { name: format!("tag:{}", tags::MOVING), values: vec![format!("{me} *")] };
        let aws = &self.shared.aws;
        let failed = |e| Failure::api("look for volumes that this instance moves", &e);
        let olds = aws.describe_volumes(scope, &[domain.clone(), marked]).map_err(failed)?;
        for old in olds {
            let Some(mark) = Mark::of(&old).filter(|m| !self.is_known(&m.token)) else { continue };
            let m = MoveHold {
                key: String::new(),
                volume_id: old.id.clone(),
                lineage: moves::lineage(&old).to_owned(),
                generation: moves::generation(&old),
                token: mark.token,
                used: old.tag(tags::TS_USED).map(str::to_owned),
                snapshot: Done::Maybe,
            };
            let all = self.copies_of(&m.lineage, scope)?;
            match moves::successor(&old, &all) {
                // Another instance's: that one will say what becomes of it.
                Some(copy) if copy.tag(tags::OWNER) != Some(&me) && is_unfinished(copy) => {}
                Some(copy) => self.supersede(&m, &copy.id, scope)?,
                None => drop(self.undo_move(&m, scope).map_err(Failure::new)?),
            }
        }
        let owner = Filter::exact(format!("tag:{}", tags::OWNER), &[&me]);
        let made = Filter::exact("tag-key", &[tags::MOVING]);
        let failed = |e| Failure::api("look for snapshots that this instance made to move volumes", &e);
        for s in aws.describe_snapshots(scope, &[domain, owner, made]).map_err(failed)? {
            if s.tag(tags::MOVING).is_none_or(|token| self.is_known(token)) {
                continue;
            }
            let old = self.describe(scope, &s.volume_id)?;
            match self.is_spare(&s, old.as_ref(), scope) {
                Ok(()) => self.delete_move_snapshot(&s.id, scope)?,
                Err(f) => log::warn!("{f}"),
            }
        }
        Ok(())
    }

    /// Whether a free volume with an old mark has gone over into another one: its mover may have ended before it could
    /// say so.
    pub(super) fn was_moved(&self, v: &Volume, scope: &Scope) -> Result<bool, Failure> {
        if v.tag(tags::MOVING).is_none() {
            return Ok(false);
        }
        let all = self.copies_of(moves::lineage(v), scope)?;
        let Some(copy) = moves::successor(v, &all) else { return Ok(false) };
        log::info!("{} has become {} in {}", v.id, copy.id, copy.zone);
        if is_unfinished(copy) {
            return Ok(true);
        }
        let aws = &self.shared.aws;
        if let Err(e) = aws.create_tags(scope, &[&v.id], &[(tags::SUPERSEDED_BY, &copy.id)]) {
            log::warn!("cannot mark {} as superseded: {e}", v.id);
        }
        Ok(true)
    }
}

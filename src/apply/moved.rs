//! What becomes of a volume that was moved, and of a move that was given up.
//!
//! When the copy is committed, the old volume is superseded and the snapshot deleted, off the path to `started`. Until
//! then the mark keeps the old volume from being offered; so a run that is killed in between leaves no two live copies,
//! and the next one goes on from the journal or, where that is lost, from the marks themselves.

use std::time::Duration;

use super::hold::{Committed, Hold, MoveHold};
use super::{DomainRun, Failure, lock};
use crate::aws::ec2::{Filter, Snapshot, SnapshotState, Volume, VolumeState};
use crate::aws::{Class, Lapsed, Still};
use crate::config::VolumeDirective;
use crate::plan::moves::{self, Mark};
use crate::plan::tags;
use crate::plan::unfinished::Own;
use crate::scope::Scope;

/// How often it is looked whether a copy that was deleted is gone.
const LOOKS: u32 = 5;

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

    pub(super) fn supersede(&self, m: &MoveHold, copy: &str, scope: &Scope) -> Result<(), Failure> {
        let old = m.volume_id.as_str();
        let now = self.describe(scope, old)?;
        if let Some(now) = &now {
            moves::outdated(now, m.used.as_deref()).map_err(Failure::new)?;
            let ask = |scope: &Scope| {
                let now = self.shared.aws.describe_volumes(scope, &[Filter::exact("volume-id", &[old])]);
                let now = now.map_err(Lapsed::Unknown)?;
                let now = now.iter().find(|v| v.id == old);
                now.map_or(Ok(()), |now| moves::outdated(now, m.used.as_deref())).map_err(Lapsed::Changed)
            };
            self.tag(old, &[(tags::SUPERSEDED_BY, copy)], &Still::again(&ask), scope)
                .map_err(|e| Failure::api(&format!("mark {old} as superseded"), &e))?;
            if !self.has_committed(copy) && !self.counts(copy, scope)? {
                self.untag(old, &[(tags::SUPERSEDED_BY, Some(copy))], &Still::always(), scope)
                    .map_err(|e| Failure::api(&format!("take off {old} that it is superseded"), &e))?;
                return Err(Failure::new(format!("{copy} is not committed any more: its mover puts it back")));
            }
            log::info!("{old} is superseded by {copy}, and kept: delete it when you do not need it any more");
            self.unmark(now, &m.token, scope)?;
        }
        self.end_other_copies(m, copy, scope)?;
        self.delete_move_snapshots(m, now.as_ref(), scope)
    }

    fn has_committed(&self, copy: &str) -> bool {
        let l = lock(&self.ledger);
        l.committed.iter().chain(&l.to_tidy).any(|c| c.volume_id == copy)
    }

    /// Whether another instance's copy still counts. Its roll-back may have begun after it was seen to be committed, and
    /// looks for what it supersedes before it deletes it.
    fn counts(&self, copy: &str, scope: &Scope) -> Result<bool, Failure> {
        Ok(self.describe(scope, copy)?.is_some_and(|v| moves::stands(&v)))
    }

    /// Takes the mark off, if it is still the one of this move.
    pub(super) fn unmark(&self, v: &Volume, token: &str, scope: &Scope) -> Result<(), Failure> {
        let Some(mark) = v.tag(tags::MOVING).filter(|t| Mark::parse(t).is_some_and(|m| m.token == token)) else {
            return Ok(());
        };
        self.untag(&v.id, &[(tags::MOVING, Some(mark))], &Still::always(), scope)
            .map_err(|e| Failure::api(&format!("take the mark of the move off {}", v.id), &e))
    }

    pub(super) fn delete_move_snapshots(
        &self,
        m: &MoveHold,
        old: Option<&Volume>,
        scope: &Scope,
    ) -> Result<(), Failure> {
        for s in self.find_move_snapshots(m, scope)? {
            self.is_spare(&s, old, scope)?;
            self.delete_move_snapshot(&s, scope)?;
        }
        Ok(())
    }

    /// Whether what a snapshot has is elsewhere, too: in the volume that it is of (`old`, as it is now), or in one that
    /// was made from it and is in use. Where somebody has deleted that volume, the snapshot is all that is left.
    pub(super) fn is_spare(&self, s: &Snapshot, old: Option<&Volume>, scope: &Scope) -> Result<(), Failure> {
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

    /// Deletes a snapshot that is spare, as the caller has just seen.
    pub(super) fn delete_move_snapshot(&self, s: &Snapshot, scope: &Scope) -> Result<(), Failure> {
        let id = s.id.as_str();
        let what = format!("delete {id}, which was made to move a volume");
        let ask = |scope: &Scope| {
            let old = self.shared.aws.describe_volumes(scope, &[Filter::exact("volume-id", &[&s.volume_id])]);
            let old = old.map_err(Lapsed::Unknown)?;
            let old = old.iter().find(|v| v.id == s.volume_id);
            self.is_spare(s, old, scope).map_err(|f| Lapsed::Changed(f.text))
        };
        match self.delete_owned_snapshot(id, &Still::again(&ask), scope) {
            Ok(()) => log::info!("{id} deleted: it was made to move a volume"),
            Err(e) if e.class() == Class::Gone => {}
            Err(e) => return Err(Failure::api(&what, &e)),
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
            // What this run has rolled back may still be seen as it was.
            let ended = lock(&self.rolled_back).clone();
            let (gone, all): (Vec<_>, Vec<_>) = all.into_iter().partition(|v| ended.contains(&v.id));
            if let Some(copy) = moves::passed_into(&m.lineage, m.generation, &all) {
                // It was committed: by a run of ours that was cut off then, or by another mover.
                return self.supersede(m, &copy.id, scope).map(|()| true).map_err(failed);
            }
            let is_there = |v: &&Volume| {
                moves::generation(v) == m.generation + 1
                    && v.tag(tags::OWNER) == Some(&me)
                    && v.tag(tags::SUPERSEDED_BY).is_none()
                    && !v.state.is_ending()
            };
            let Some(copy) = all.iter().chain(&gone).find(is_there) else { break };
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

    /// The live volumes that `copy` is a copy of, or a copy of a copy.
    pub(super) fn originals(&self, copy: &Volume, scope: &Scope) -> Result<Vec<Volume>, Failure> {
        let first = self.describe(scope, moves::lineage(copy))?;
        let mut all = self.copies_of(moves::lineage(copy), scope)?;
        all.extend(first);
        let is_live = |v: &Volume| !v.state.is_ending() && v.state != VolumeState::Error;
        all.retain(|v| moves::generation(v) < moves::generation(copy) && is_live(v));
        Ok(all)
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

    /// A copy that no run has committed: `by` is the data. It is kept, and never offered.
    pub(super) fn give_copy_up(&self, copy: &Volume, by: &str, scope: &Scope) -> Result<(), String> {
        log::warn!(
            "{}, a copy that no run finished, is kept and not used: delete it if its data is not needed",
            copy.id
        );
        let owner = copy.tag(tags::OWNER).unwrap_or_default();
        let token = copy.tag(tags::IN_TRANSIT).or(copy.tag(tags::TRANSC_ID)).unwrap_or_default();
        let own = Own::Unfinished { owner, token, used: copy.tag(tags::TS_USED) };
        let ids = [copy.id.as_str()];
        let watch = self.shared.watch(&ids, own, Some(self.shared.clock.now()));
        let end = self.tag(&copy.id, &[(tags::SUPERSEDED_BY, by)], &Still::while_(&|s| watch.ask(s)), scope);
        end.map_err(|e| Failure::api(&format!("mark {} as superseded (it stays in transit)", copy.id), &e).text)
    }
}

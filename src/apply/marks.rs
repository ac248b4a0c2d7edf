//! What moves left behind whose mover is gone, or could not finish: marks, snapshots and copies.
//!
//! A mover that dies after its copy was committed leaves the old volume marked and its snapshot to be paid for. Whoever
//! meets such a volume finishes the move: the copy says that it is committed, so its end is known.

use std::collections::BTreeSet;
use std::time::Duration;

use super::hold::{Done, Hold, MoveHold, VolumeHold};
use super::settle::left_behind;
use super::volume::SECOND_LOOK;
use super::{DomainRun, Failure, lock};
use crate::aws::ec2::{Filter, Snapshot, Volume};
use crate::config::{Source, VolumeDirective};
use crate::plan::moves::{self, Mark};
use crate::plan::tags;
use crate::plan::unfinished::{Own, is_unfinished};
use crate::plan::volumes::{IN_TRANSIT_GRACE, Standing, in_pool, standing};
use crate::scope::Scope;

impl DomainRun {
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
            let (owner, token) =
                (copy.tag(tags::OWNER).unwrap_or_default(), copy.tag(tags::IN_TRANSIT).unwrap_or_default());
            let own = Own::Unfinished { owner, token, used: None };
            if let Err(what) = self.delete(&copy.id, false, own, false, scope) {
                log::warn!("{what}");
            }
        }
        let Some(mark) = Mark::of(v).filter(|m| m.owner != *me || !self.is_known(&m.token)) else { return };
        self.clean_up_snapshots(&mark.token, scope);
    }

    fn clean_up_snapshots(&self, token: &str, scope: &Scope) {
        let end = self.snapshots_by(&format!("tag:{}", tags::MOVING), token, scope).and_then(|all| {
            all.iter().try_for_each(|s| {
                let old = self.describe(scope, &s.volume_id)?;
                self.is_spare(s, old.as_ref(), scope)?;
                self.delete_move_snapshot(s, scope)
            })
        });
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

    /// The marks and snapshots of moves that no hold knows: this instance's, where the journal is lost, and those of movers
    /// that are gone.
    pub(super) fn settle_marks(&self, scope: &Scope) {
        let met = std::mem::take(&mut *lock(&self.moves_to_finish));
        for m in met {
            let end = self.copies_of(&m.lineage, scope).and_then(|all| {
                let old = self.describe(scope, &m.volume_id)?;
                let Some(old) = old else { return Ok(()) };
                match moves::successor(&old, &all) {
                    Some(copy) => self.supersede(&m, &copy.id, scope),
                    None => self.end_move_of_another(&m, &old, &all, scope),
                }
            });
            if let Err(f) = end {
                log::warn!("cannot finish the move of {}, which its mover did not: {f}", m.volume_id);
            }
        }
        if !self.config.volumes.iter().any(|d| d.sources.contains(&Source::Move)) {
            return;
        }
        if let Err(f) = self.settle_all_marks(scope) {
            log::warn!("cannot settle what earlier runs began to move: {f}");
        }
    }

    fn settle_all_marks(&self, scope: &Scope) -> Result<(), Failure> {
        let me = self.shared.facts().instance_id.clone();
        let domain = Filter::exact(format!("tag:{}", tags::DOMAIN), &[&self.config.name]);
        let marked = Filter::exact("tag-key", &[tags::MOVING]);
        let aws = &self.shared.aws;
        let failed = |e| Failure::api("look for volumes that are being moved", &e);
        let olds = aws.describe_volumes(scope, &[domain.clone(), marked.clone()]).map_err(failed)?;
        for old in &olds {
            let Some(mark) = Mark::of(old).filter(|m| !self.is_known(&m.token)) else { continue };
            let mine = mark.owner == me;
            let gone = mark.is_stale(self.shared.clock.corrected());
            let m = move_of(old, mark);
            let all = self.copies_of(&m.lineage, scope)?;
            match moves::successor(old, &all) {
                Some(copy) => self.supersede(&m, &copy.id, scope)?,
                None if mine => drop(self.undo_move(&m, scope).map_err(Failure::new)?),
                // Nobody has renewed it for an hour: the move will not be finished, and whoever moves it begins anew.
                None if gone && old.attachments.is_empty() => {
                    self.clean_up_after_others(old, &all, &BTreeSet::new(), scope);
                    self.unmark(old, &m.token, scope)?;
                }
                None => {}
            }
        }
        let failed = |e| Failure::api("look for snapshots that were made to move volumes", &e);
        for s in aws.describe_snapshots(scope, &[domain, marked]).map_err(failed)? {
            let Some(token) = s.tag(tags::MOVING).filter(|t| moves::is_token(t) && !self.is_known(t)) else { continue };
            let old = self.describe(scope, &s.volume_id)?;
            if s.tag(tags::OWNER) != Some(&me) && !self.is_of_no_move(&s, token, old.as_ref()) {
                continue;
            }
            match self.is_spare(&s, old.as_ref(), scope) {
                Ok(()) => self.delete_move_snapshot(&s, scope)?,
                Err(f) => log::warn!("{f}"),
            }
        }
        Ok(())
    }

    /// The volume is this instance's by now, and committed: the move of a mover that is gone is over. What it made is
    /// deleted, or told of where it may have data.
    fn end_move_of_another(&self, m: &MoveHold, old: &Volume, all: &[Volume], scope: &Scope) -> Result<(), Failure> {
        let me = &self.shared.facts().instance_id;
        if !old.attachments.iter().any(|a| a.instance_id == *me && !a.state.is_ending()) {
            return Ok(());
        }
        self.clean_up_after_others(old, all, &BTreeSet::new(), scope);
        for copy in self.copies_of(&m.lineage, scope)?.iter().filter(|c| is_given_up(c, m)) {
            self.give_copy_up(copy, moves::lineage(copy), scope).map_err(Failure::new)?;
        }
        self.unmark(old, &m.token, scope)
    }

    /// The volume has become the committed `copy`: what other movers made of it and did not commit is nothing any more. One
    /// that is at work finds that out before its commit.
    pub(super) fn end_other_copies(&self, m: &MoveHold, copy: &str, scope: &Scope) -> Result<(), Failure> {
        for other in self.copies_of(&m.lineage, scope)?.iter().filter(|c| c.id != copy && is_given_up(c, m)) {
            self.give_copy_up(other, copy, scope).map_err(Failure::new)?;
        }
        Ok(())
    }

    /// Whether another instance's snapshot is of a move that is over: its volume has no mark of it, and it is not so new
    /// that the mark may only not be seen yet.
    fn is_of_no_move(&self, s: &Snapshot, token: &str, old: Option<&Volume>) -> bool {
        let now = self.shared.clock.corrected();
        let marked = old.and_then(Mark::of).is_some_and(|m| m.token == token);
        !marked && s.start_time.is_some_and(|t| now - t >= moves::STALE)
    }

    /// Whether a free volume with a mark has gone over into another one: its mover may have ended before it could say so.
    /// Then that is done after `started`.
    pub(super) fn was_moved(&self, v: &Volume, scope: &Scope) -> Result<bool, Failure> {
        let Some(mark) = Mark::of(v) else { return Ok(false) };
        let all = self.copies_of(moves::lineage(v), scope)?;
        let Some(copy) = moves::successor(v, &all) else {
            // Its mover must be gone: after the commit nothing can come of the copy any more.
            if mark.owner != self.shared.facts().instance_id {
                self.meet(move_of(v, mark));
            }
            return Ok(false);
        };
        log::info!("{} has become {} in {}", v.id, copy.id, copy.zone);
        self.meet(move_of(v, mark));
        Ok(true)
    }

    /// Remembers a move of another instance that is over.
    fn meet(&self, m: MoveHold) {
        let mut met = lock(&self.moves_to_finish);
        if !met.iter().any(|o| o.volume_id == m.volume_id) && !self.is_known(&m.token) {
            met.push(m);
        }
    }

    /// Why the copy `v`, which an earlier run of this instance made and did not commit, is not to be gone on with. `None`
    /// also where it is none.
    pub(super) fn is_outdated_copy(&self, v: Option<&Volume>, scope: &Scope) -> Result<Option<String>, Failure> {
        let Some(copy) = v.filter(|v| v.tag(tags::LINEAGE).is_some() && is_unfinished(v)) else { return Ok(None) };
        let begun = lock(&self.ledger).inherited.iter().find_map(|h| match h {
            Hold::Move(m) if m.lineage == moves::lineage(copy) && m.generation + 1 == moves::generation(copy) => {
                Some(m.clone())
            }
            _ => None,
        });
        let begun = begun.as_ref().map(|m| (m.token.as_str(), m.used.as_deref()));
        let me = self.shared.facts().instance_id.clone();
        let mut why = None;
        // A read may be older than the mark.
        for pause in [Duration::ZERO, Duration::from_secs(2), Duration::from_secs(4)] {
            scope.sleep(pause).map_err(|h| Failure::halted(format!("cannot go on with {}", copy.id), h))?;
            why = moves::outdated_copy(copy, &self.originals(copy, scope)?, &me, begun);
            if why.is_none() {
                break;
            }
        }
        Ok(why)
    }

    /// Puts back what was found attached here and must not be gone on with.
    pub(super) fn give_found_up(&self, found: Option<Volume>, scope: &Scope) -> Result<(), Failure> {
        let Some(v) = found else { return Ok(()) };
        let is_it = |h: &Hold| matches!(h, Hold::Volume(o) if o.volume_id.as_ref() == Some(&v.id));
        let hold = lock(&self.ledger).inherited.iter().find(|h| is_it(h)).cloned();
        let hold = hold.unwrap_or_else(|| {
            Hold::Volume(VolumeHold { attached: Done::Yes, transit_removed: true, ..left_behind(&v) })
        });
        self.put_back(hold, scope).map_err(Failure::new)
    }

    /// Free copies of the pool that no run has committed and that are the directive's to finish or to use all the same:
    /// this instance made them, for a directive that moves, and the move still stands; or what they are a copy of is gone,
    /// and they are all that is left of its data.
    pub(super) fn orphans(&self, d: &VolumeDirective, all: &[Volume], scope: &Scope) -> Result<Vec<String>, Failure> {
        let facts = self.shared.facts();
        let (me, now) = (facts.instance_id.as_str(), self.shared.clock.corrected());
        let mine = |v: &Volume| d.sources.contains(&Source::Move) && v.tag(tags::OWNER) == Some(me);
        let may_be = |v: &&Volume| {
            in_pool(v, &self.config.name, d.pool_name.as_deref())
                && v.tag(tags::LINEAGE).is_some()
                && v.tag(tags::SUPERSEDED_BY).is_none()
                && is_unfinished(v)
                && standing(v, me, &facts.zone) == Standing::Free
                && (mine(v) || v.create_time.is_some_and(|t| now - t >= IN_TRANSIT_GRACE))
        };
        let mut orphans = Vec::new();
        for v in all.iter().filter(may_be) {
            let line = self.copies_of(moves::lineage(v), scope)?;
            let passed = |o: &Volume| moves::stands(o) && moves::generation(o) >= moves::generation(v);
            if line.iter().any(passed) {
                continue;
            }
            let gone = self.originals(v, scope)?.is_empty() && {
                // One answer proves nothing.
                scope
                    .sleep(SECOND_LOOK)
                    .map_err(|h| Failure::halted(format!("cannot tell what {} is a copy of", v.id), h))?;
                self.originals(v, scope)?.is_empty()
            };
            if gone {
                log::warn!("{}: a copy that no run finished, of a volume that does not exist any more: using it", v.id);
            }
            if gone || mine(v) && self.is_outdated_copy(Some(v), scope)?.is_none() {
                orphans.push(v.id.clone());
            }
        }
        Ok(orphans)
    }
}

/// Whether a copy of that move was used and not committed: nothing will come of it.
fn is_given_up(copy: &Volume, m: &MoveHold) -> bool {
    moves::generation(copy) == m.generation + 1
        && is_unfinished(copy)
        && copy.attachments.is_empty()
        && !copy.state.is_ending()
        && copy.tag(tags::SUPERSEDED_BY).is_none()
}

/// The move that a mark tells of.
fn move_of(old: &Volume, mark: Mark) -> MoveHold {
    MoveHold {
        key: String::new(),
        volume_id: old.id.clone(),
        lineage: moves::lineage(old).to_owned(),
        generation: moves::generation(old),
        token: mark.token,
        used: old.tag(tags::TS_USED).map(str::to_owned),
        snapshot: Done::Maybe,
    }
}

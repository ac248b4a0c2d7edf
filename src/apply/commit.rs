//! The commit: what a run made becomes data, and nothing takes a domain's volumes and records away any more.
//!
//! Whether a volume that was made is finished is told to all other instances by its tag `ts-created`
//! ([`crate::plan::unfinished`]). It is written before anything starts on the volume: an instance that is lost a moment
//! later leaves its world to its successor, and not one that nobody may touch.

use super::hold::{Committed, Hold, MoveHold, Origin, VolumeHold};
use super::{DomainRun, Failure, lock};
use crate::aws::{ApiError, Class, Lapsed, Still};
use crate::plan::tags;
use crate::plan::unfinished::Own;
use crate::scope::Scope;

impl DomainRun {
    /// Marks the volumes that this run made as data: the last step before the commit, in one call for all of them. The
    /// failures, by directive: what is not marked is not committed.
    pub(super) fn mark_committed(&self, scope: &Scope) -> Vec<(String, Failure)> {
        let is_made = |h: &Hold| match h {
            Hold::Volume(v) if v.origin != Origin::Claimed => Some((v.volume_id.clone()?, v.clone())),
            _ => None,
        };
        let made: Vec<(String, VolumeHold)> = lock(&self.ledger).held.iter().filter_map(is_made).collect();
        let (mut ready, mut failed) = (Vec::new(), Vec::new());
        for (id, v) in made {
            match self.may_be_marked(&id, &v, scope) {
                Ok(()) => ready.push((id, v)),
                Err(f) => failed.push((v.key, f)),
            }
        }
        if let Err(f) = self.mark_all(&ready, scope) {
            failed.extend(ready.into_iter().map(|(_, v)| (v.key, f.clone())));
        }
        failed
    }

    /// The commands may have taken long: only one of a copy and what it is a copy of may become what the line goes on with.
    fn may_be_marked(&self, id: &str, v: &VolumeHold, scope: &Scope) -> Result<(), Failure> {
        let Some(d) = self.config.volumes.iter().find(|d| d.path == v.key) else { return Ok(()) };
        let lost = match v.origin {
            Origin::Adopted if self.move_of(d).is_none() => self.original_in_use(id, scope)?,
            _ => self.is_move_lost_to_another(d, Some(id), scope)?,
        };
        let Some(why) = lost else { return Ok(()) };
        Err(Failure::new(format!("the copy {id} cannot take the place of what it is a copy of: {why}")))
    }

    fn mark_all(&self, made: &[(String, VolumeHold)], scope: &Scope) -> Result<(), Failure> {
        let ids: Vec<&str> = made.iter().map(|(id, _)| id.as_str()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let failed = |e: &ApiError| match e.class() {
            Class::Lapsed => Failure::new(format!("cannot commit {}: {e}", ids.join(", "))),
            _ => Failure::api(&format!("mark {} as data that other instances may use", ids.join(", ")), e),
        };
        let (now, me, known) =
            (self.shared.time_tag(), self.shared.facts().instance_id.clone(), self.shared.clock.now());
        let member = |v: &VolumeHold| self.config.volumes.iter().find(|d| d.path == v.key).and_then(|d| self.member(d));
        let mut of_all = vec![(tags::TS_USED, now.as_str()), (tags::OWNER, &me), (tags::TS_CREATED, &now)];
        let members: Vec<Option<String>> = made.iter().map(|(_, v)| member(v)).collect();
        if let [Some(only)] = members.as_slice() {
            of_all.push((tags::MEMBER, only));
        } else {
            for (id, member) in ids.iter().zip(&members) {
                let Some(member) = member else { continue };
                self.tag_attached(id, &[(tags::MEMBER, member)], known, scope).map_err(|e| failed(&e))?;
            }
        }
        made.iter().for_each(|(_, v)| self.with_volume(&v.key, |h| h.marked = true));
        let watch = self.shared.watch(&ids, Own::Attached, None);
        let ask = |s: &Scope| {
            watch.ask(s)?;
            made.iter().try_for_each(|(id, v)| self.may_be_marked(id, v, s)).map_err(|f| Lapsed::Changed(f.text))
        };
        self.tag_all(&ids, &of_all, &Still::again(&ask), scope).map_err(|e| {
            if !e.may_have_worked() {
                made.iter().for_each(|(_, v)| self.with_volume(&v.key, |h| h.marked = v.marked));
            }
            failed(&e)
        })
    }

    /// Who has what the copy `id` is a copy of, where no journal tells of the move.
    fn original_in_use(&self, id: &str, scope: &Scope) -> Result<Option<String>, Failure> {
        let Some(copy) = self.describe(scope, id)?.filter(|v| v.tag(tags::LINEAGE).is_some()) else { return Ok(None) };
        let before = self.originals(&copy, scope)?;
        let used = before.iter().find_map(|v| Some((v, v.attachments.first()?)));
        Ok(used.map(|(v, a)| format!("{} has {}", a.instance_id, v.id)))
    }

    /// The domain stands: from here on nothing takes its volumes and records away.
    pub(crate) fn commit(&self) {
        *lock(&self.committed_at) = Some(self.shared.clock.now());
        self.stand();
        let found = std::mem::take(&mut *lock(&self.found));
        self.ledger(|l| {
            l.to_tidy.retain(|old| found.iter().all(|c| c.volume_id != old.volume_id));
            l.committed.extend(found);
            let mut moves: Vec<Hold> = l.held.extract_if(.., |h| matches!(h, Hold::Move(_))).collect();
            for hold in std::mem::take(&mut l.held) {
                let Hold::Volume(v) = hold else { continue };
                let of = |h: &mut Hold| h.key() == v.key;
                let moved = moves.extract_if(.., of).find_map(|h| match h {
                    Hold::Move(m) => Some(m),
                    _ => None,
                });
                l.committed.extend(self.committed(v, moved));
            }
            // Without a copy nothing was moved.
            l.inherited.append(&mut moves);
        });
    }

    /// What is left to be done for a volume that stays.
    pub(super) fn committed(&self, v: VolumeHold, moved: Option<MoveHold>) -> Option<Committed> {
        // On what we made the transaction's tag is the token: the create request is the same in every run.
        let token = v.token.filter(|_| v.tags_before.is_empty());
        let transc_id = v.transc_id.or(token).unwrap_or_else(|| self.shared.transaction_id.clone());
        let member = self.config.volumes.iter().find(|d| d.path == v.key).and_then(|d| self.member(d));
        let created = v.origin != Origin::Claimed;
        Some(Committed { volume_id: v.volume_id?, created, marked: v.marked, transc_id, moved, member })
    }
}

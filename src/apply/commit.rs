//! The commit: what a run made becomes data, and nothing takes a domain's volumes and records away any more.
//!
//! Whether a volume that was made is finished is told to all other instances by its tag `ts-created`
//! ([`crate::plan::unfinished`]). It is written before anything starts on the volume: an instance that is lost a moment
//! later leaves its world to its successor, and not one that nobody may touch.

use super::hold::{Committed, Hold, MoveHold, Origin, VolumeHold};
use super::{DomainRun, Failure, lock};
use crate::aws::Class;
use crate::plan::tags;
use crate::scope::Scope;

impl DomainRun {
    /// Marks the volumes that this run made as data; beside the records, the last step before the commit. The failures,
    /// by directive: what is not marked is not committed.
    pub(super) fn mark_committed(&self, scope: &Scope) -> Vec<(String, Failure)> {
        let made: Vec<VolumeHold> = lock(&self.ledger)
            .held
            .iter()
            .filter_map(|h| match h {
                Hold::Volume(v) if v.origin != Origin::Claimed && v.volume_id.is_some() => Some(v.clone()),
                _ => None,
            })
            .collect();
        let mark = |v: &VolumeHold| Some((v.key.clone(), self.mark_one(v, scope).err()?));
        made.iter().filter_map(mark).collect()
    }

    /// Whether this run made a volume that is to be marked.
    pub(super) fn has_made(&self) -> bool {
        lock(&self.ledger).held.iter().any(|h| matches!(h, Hold::Volume(v) if v.origin != Origin::Claimed))
    }

    fn mark_one(&self, v: &VolumeHold, scope: &Scope) -> Result<(), Failure> {
        let (Some(id), Some(d)) = (&v.volume_id, self.config.volumes.iter().find(|d| d.path == v.key)) else {
            return Ok(());
        };
        // The commands may have taken long: only one of the two may become what the line goes on with.
        let lost = match v.origin {
            Origin::Adopted if self.move_of(d).is_none() => self.original_in_use(id, scope)?,
            _ => self.is_move_lost_to_another(d, Some(id), scope)?,
        };
        if let Some(why) = lost {
            return Err(Failure::new(format!("the copy {id} cannot take the place of what it is a copy of: {why}")));
        }
        self.with_volume(&v.key, |h| h.marked = true);
        let (now, me, member) = (self.shared.time_tag(), self.shared.facts().instance_id.clone(), self.member(d));
        let mut pairs = vec![(tags::TS_USED, now.as_str()), (tags::OWNER, &me), (tags::TS_CREATED, &now)];
        pairs.extend(member.as_deref().map(|m| (tags::MEMBER, m)));
        self.tag_attached(id, &pairs, self.shared.clock.now(), scope).map_err(|e| {
            if !e.may_have_worked() {
                self.with_volume(&v.key, |h| h.marked = v.marked);
            }
            match e.class() {
                Class::Lapsed => Failure::new(format!("cannot commit {id}: {e}")),
                _ => Failure::api(&format!("mark {id} as data that other instances may use"), &e),
            }
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

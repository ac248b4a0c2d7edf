//! Putting everything back, last in, first out.
//!
//! A roll-back is never interrupted and never stops at its first error. "Already gone" counts as done. What it cannot
//! put back it names: a person must look at it. It never forces a detachment and never unmounts lazily.

use std::time::Duration;

use serde_json::json;

use super::hold::{Done, Hold, Origin, RecordHold, VolumeHold};
use super::{DomainRun, Failure};
use crate::aws::ec2::AttachmentState;
use crate::aws::{Class, Still};
use crate::plan::create::is_token;
use crate::plan::records::{Now, can_be_again, compare, undo};
use crate::plan::tags;
use crate::plan::unfinished::Own;
use crate::plan::volumes::{Standing, standing};
use crate::scope::Scope;
use crate::sys::mounts::{self, MountSet};

/// How often an exact DELETE that was refused is tried again when a look says that the record is still ours.
const RECORD_TRIES: usize = 4;
/// How often EC2 is asked again to delete a volume that it did not find, but may have made a moment ago.
const UNSEEN_ROUNDS: u32 = 4;

impl DomainRun {
    /// Rolls back the holds of one directive, or all. What could not be put back, in words; empty if all was.
    pub(crate) fn roll_back(&self, key: Option<&str>, scope: &Scope) -> Vec<String> {
        self.uses_no_more(key);
        self.renounce(key);
        let mut left = Vec::new();
        let holds = self.to_roll_back(key);
        // Whatever happens to the records, half of the time is the volumes'.
        let volumes = holds.iter().any(|h| matches!(h, Hold::Volume(_)));
        // And whatever happens to these, the address has some.
        let address = holds.iter().any(|h| matches!(h, Hold::Address(_)));
        let for_volumes = &if address { scope.within(scope.remaining() * 7 / 8) } else { scope.clone() };
        let for_records = if volumes { scope.within(scope.remaining() / 2) } else { scope.clone() };
        for hold in holds {
            let outcome = match &hold {
                Hold::Record(r) => {
                    self.forget_written(r);
                    self.restore_record(r, &for_records)
                }
                Hold::Volume(v) => match self.release_volume(v, for_volumes) {
                    Ok(true) => Ok(()),
                    Ok(false) => {
                        self.ledger(|l| {
                            l.held.retain(|h| *h != hold);
                            l.inherited.push(hold);
                        });
                        continue;
                    }
                    Err(what) => Err(what),
                },
                Hold::Address(a) => {
                    self.forget_address();
                    self.disassociate(a, scope)
                }
                Hold::Move(m) => match self.undo_move(m, for_volumes) {
                    Ok(true) => Ok(()),
                    Ok(false) => {
                        self.ledger(|l| {
                            l.held.retain(|h| *h != hold);
                            l.inherited.push(hold);
                        });
                        continue;
                    }
                    Err(what) => Err(what),
                },
            };
            if let Err(what) = &outcome {
                log::error!("not rolled back: {what}");
            }
            self.ledger(|l| {
                l.held.retain(|h| *h != hold);
                l.left.extend(outcome.is_err().then_some(hold));
            });
            left.extend(outcome.err());
        }
        if key.is_none() {
            left.extend(self.settle_rest(scope));
        }
        left
    }

    pub(super) fn restore_record(&self, r: &RecordHold, scope: &Scope) -> Result<(), String> {
        let what = format!("{} in hosted zone {}", r.name, r.zone);
        let failed = |why: &dyn std::fmt::Display| {
            let was = if r.before.is_empty() { "removed".to_owned() } else { describe(&r.before) };
            format!("{what}: {why} (it should be {was} again)")
        };
        if let Some(other) = self.other_domain_with(&r.zone, &r.name) {
            log::info!("{what} stays: domain {other} has it too");
            return Ok(());
        }
        // An unconfirmed write is looked at first.
        let mut look = r.written != Done::Yes;
        let mut before = r.before.clone();
        let mut pause = Duration::from_millis(500);
        for _ in 0..RECORD_TRIES {
            if look {
                let now = self
                    .shared
                    .aws
                    .list_record_sets(scope, &r.zone, &r.name)
                    .map_err(|e| failed(&format!("cannot look at it: {e}")))?;
                match compare(&now, &r.ours, &r.before) {
                    Now::Ours => before = can_be_again(&now, &r.ours, &r.before),
                    Now::Before => {
                        log::info!("{what} is as it was");
                        return Ok(());
                    }
                    Now::Foreign => {
                        log::warn!("{what} is somebody else's by now and left alone");
                        return Ok(());
                    }
                }
            }
            let changes = undo(&r.ours, &before);
            self.note_call(
                "change_resource_record_sets",
                json!({
                    "HostedZoneId": r.zone,
                    "ChangeBatch": { "Changes": changes.iter().map(|c| c.to_json()).collect::<Vec<_>>() },
                }),
            );
            let outcome = self.shared.zones.submit(&self.shared.aws, &r.zone, vec![changes], scope).pop();
            match outcome {
                Some(Ok(())) => {
                    log::info!("{what} put back");
                    return Ok(());
                }
                Some(Err(e)) if matches!(e.class(), Class::Conflict | Class::Ambiguous) => {
                    log::info!("{what}: looking again: {e}");
                    look = true;
                }
                Some(Err(e)) => return Err(failed(&e)),
                None => return Err(failed(&"it was not sent")),
            }
            scope.sleep(pause).map_err(|h| failed(&h))?;
            pause *= 2;
        }
        Err(failed(&"it changes again and again"))
    }

    /// `false`: another domain is about to use it, and what becomes of it is seen when that has come to its end.
    fn release_volume(&self, v: &VolumeHold, scope: &Scope) -> Result<bool, String> {
        // What still writes tags must not do so after they are taken off.
        let tagging = {
            let mut all = super::lock(&self.tagging);
            all.iter().position(|(k, _)| *k == v.key).map(|i| all.remove(i).1)
        };
        if let Some(t) = tagging {
            let _ = t.join();
        }
        let Some((id, used)) = self.volume_of(v, scope)? else { return Ok(true) };
        if used {
            log::info!("{id}, which an earlier run created and used, is left as it is, for the next run to finish");
            return Ok(true);
        }
        let _taking = match self.take(&id, &v.key, scope)? {
            Ok(taking) => taking,
            Err(other) => {
                self.let_go_of_own(v, &id, scope);
                return self.is_left_to(v, &id, &other, scope);
            }
        };
        let attached = match v.attached {
            Done::No => false,
            Done::Yes => true,
            Done::Maybe => self.is_here(v, &id, scope)?,
        };
        if v.origin != Origin::Claimed {
            super::lock(&self.rolled_back).insert(id.clone());
        }
        let mut used = None;
        if attached {
            self.let_go(v, &id, scope)?;
            used = Some(self.restore_tags(v, &id, &scope.within(scope.remaining() / 4))?);
            if let Some(holder) = self.detach(v, &id, scope)? {
                log::warn!("{id} is another's by now and left alone: {holder}");
                return Ok(true);
            }
        }
        match v.origin {
            Origin::Created => {
                let (me, token) = (&self.shared.facts().instance_id, v.token.as_deref().unwrap_or_default());
                let own = Own::Unfinished { owner: me, token, used: used.as_deref() };
                self.delete(&id, !v.seen, own, scope).map(|()| true)
            }
            Origin::Claimed => Ok(true),
            Origin::Adopted => {
                let how = if v.transit_removed { "in transit" } else { "as it was found" };
                log::info!("{id} is left {how}, for the next run to finish");
                Ok(true)
            }
        }
    }

    /// The volume's id; looked for by its token where the answer of CreateVolume is missing. What is found so may be
    /// older than the call, and (`true`) have been attached once.
    pub(super) fn volume_of(&self, v: &VolumeHold, scope: &Scope) -> Result<Option<(String, bool)>, String> {
        if let Some(id) = &v.volume_id {
            return Ok(Some((id.clone(), false)));
        }
        let Some(token) = &v.token else { return Ok(None) };
        let mut pause = Duration::from_millis(500);
        // Reads lag behind writes: an empty answer is believed only after some of them.
        for _ in 0..4 {
            let found = self
                .find_by_token(token, scope)
                .map_err(|f| format!("a volume that may have been created with the client token {token}: {f}"))?;
            if let Some(found) = found {
                let used = found.tag(tags::TS_USED).is_some();
                return Ok(Some((found.id, used)));
            }
            if scope.sleep(pause).is_err() {
                break;
            }
            pause *= 2;
        }
        Ok(None)
    }

    /// Whether a claim with an unknown end worked.
    pub(super) fn is_here(&self, v: &VolumeHold, id: &str, scope: &Scope) -> Result<bool, String> {
        let facts = self.shared.facts();
        let mut pause = Duration::from_millis(500);
        for round in 0.. {
            let now = self.describe(scope, id).map_err(|f| format!("{id}, which may be attached: {f}"))?;
            match now.map(|v| standing(&v, &facts.instance_id, &facts.zone)) {
                Some(Standing::Here(at)) => return Ok(v.is_at(&at)),
                // It may be an old picture: look some times before believing it.
                Some(Standing::Free | Standing::Changing(_)) if round < 4 => {}
                _ => return Ok(false),
            }
            if scope.sleep(pause).is_err() {
                return Err(format!("{id}, which may be attached: no time left to look"));
            }
            pause *= 2;
        }
        Ok(false)
    }

    /// Ends what our commands started on the volume and unmounts what they mounted. Held by others, it stays attached.
    pub(super) fn let_go(&self, v: &VolumeHold, id: &str, scope: &Scope) -> Result<(), String> {
        self.shared.runner.end_group(&v.key, scope);
        let stays = |why: &dyn std::fmt::Display| format!("{id} stays attached as {}: {why}", v.device);
        let disk = self.disk_now(v, id, scope).map_err(|f| stays(&format!("which disk it is cannot be told: {f}")))?;
        let Some(disk) = disk else { return Ok(()) };
        // Commands run when the disk was seen: before that, nothing on it is theirs.
        let before = if v.inherited && v.disk.is_some() { &MountSet::default() } else { &self.shared.mounts_before };
        mounts::unmount_all(&self.shared.root, &disk, before, scope).map_err(|held| stays(&held))
    }

    /// Puts the tags back as they were, while the volume is still ours; afterwards they may be another's. What was made and
    /// marked as data is marked as unfinished again, or stays attached. The time of use that it wrote, if any.
    pub(super) fn restore_tags(&self, v: &VolumeHold, id: &str, scope: &Scope) -> Result<String, String> {
        let changed = v.tags_before.iter().filter(|(_, ours, before)| before.as_ref() != Some(ours));
        // By value: what is not ours any more stays. What was another's is written over.
        let (mut back, mut off) = (Vec::new(), Vec::new());
        for (key, ours, before) in changed {
            match before {
                // The transaction of a run that was cut off is over, unless it is of what that run made.
                Some(before) if key != tags::TRANSC_ID || is_token(before) => {
                    back.push((key.as_str(), before.as_str()))
                }
                _ => off.push((key.as_str(), Some(ours.as_str()))),
            }
        }
        let now = self.shared.time_tag();
        if let Some(token) = &v.token {
            // What is in transit and has no time of use was never attached, and may be deleted by whoever finds it.
            back.push((tags::TS_USED, now.as_str()));
            if v.transit_removed {
                back.push((tags::IN_TRANSIT, token));
            }
        }
        let known = self.shared.clock.now();
        let end =
            self.untag(id, &off, &Still::always(), scope).and_then(|()| self.tag_attached(id, &back, known, scope));
        match end {
            Err(e) if v.marked => {
                let what = Failure::api("mark it as unfinished", &e);
                return Err(format!("{id} stays attached as {}, so that nobody takes it for data: {what}", v.device));
            }
            Err(e) => log::warn!("cannot put the tags of {id} back (they block nothing): {e}"),
            Ok(()) => {}
        }
        Ok(now)
    }

    /// Detaches it. What is given says who has it by now, if that is another instance.
    pub(super) fn detach(&self, v: &VolumeHold, id: &str, scope: &Scope) -> Result<Option<String>, String> {
        let facts = self.shared.facts();
        let me = facts.instance_id.as_str();
        let stays = |why: &dyn std::fmt::Display| format!("{id} stays attached as {}: {why}", v.device);
        let mut pause = Duration::from_millis(250);
        let mut asked = false;
        loop {
            if !asked {
                match self.detach_from(id, me, &Still::always(), scope) {
                    Ok(()) => asked = true,
                    // It was detached already, by an earlier try or by somebody else.
                    Err(e) if matches!(e.class(), Class::Gone | Class::Conflict) => asked = true,
                    // Not yet, or nobody knows: the next turn asks again, if the volume is still here.
                    Err(e) if matches!(e.class(), Class::Ambiguous | Class::TooEarly) => {
                        log::debug!("{id}: {e}: looking");
                    }
                    Err(e) => return Err(stays(&Failure::api("detach it", &e))),
                }
            }
            match self.describe(scope, id).map_err(|f| stays(&f))? {
                None => return Ok(None),
                Some(now)
                    if now.attachments.iter().any(|a| a.instance_id == me && a.state == AttachmentState::Busy) =>
                {
                    return Err(stays(&"EC2 says busy: something on this machine still holds it"));
                }
                Some(now) => match standing(&now, me, &facts.zone) {
                    Standing::Here(_) | Standing::Changing(_) => {}
                    Standing::Absent(why) if !now.attachments.is_empty() => return Ok(Some(why)),
                    Standing::Free | Standing::Absent(_) | Standing::Broken(_) => {
                        log::info!("{id} detached");
                        return Ok(None);
                    }
                },
            }
            scope.sleep(pause).map_err(|h| stays(&h))?;
            pause = (pause * 2).min(Duration::from_secs(4));
        }
    }

    /// Deletes a volume that was never committed, as long as `own` holds of it. `unseen`: it is so new that EC2 may not
    /// find it yet.
    pub(crate) fn delete(&self, id: &str, unseen: bool, own: Own<'_>, scope: &Scope) -> Result<(), String> {
        let mut pause = Duration::from_millis(500);
        for round in 0.. {
            match self.delete_owned(id, own, scope) {
                Ok(()) => {
                    log::info!("{id} deleted: this run created it");
                    return Ok(());
                }
                Err(e) if e.class() == Class::Lapsed => {
                    log::warn!("not deleting {id}, which this run created: {e}");
                    return Ok(());
                }
                Err(e) if e.class() == Class::Gone && unseen && round < UNSEEN_ROUNDS && scope.sleep(pause).is_ok() => {
                    log::debug!("{id}: {e}: it may be too new");
                    pause *= 2;
                }
                Err(e) if e.class() == Class::Gone => return Ok(()),
                // Just detached, or still being created.
                Err(e) if matches!(e.class(), Class::Conflict | Class::Ambiguous | Class::TooEarly) => {
                    scope.sleep(pause).map_err(|h| format!("{id}, which this run created, exists still: {e}: {h}"))?;
                    pause = (pause * 2).min(Duration::from_secs(4));
                }
                Err(e) => {
                    return Err(format!(
                        "{id}, which this run created, exists still: {}",
                        Failure::api("delete it", &e)
                    ));
                }
            }
        }
        Ok(())
    }
}

fn describe(sets: &[crate::aws::route53::RecordSet]) -> String {
    sets.iter()
        .map(|s| format!("{} {} (ttl {})", s.kind, s.values.join(" "), s.ttl.unwrap_or_default()))
        .collect::<Vec<_>>()
        .join(", ")
}

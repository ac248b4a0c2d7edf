//! Putting everything back, last in, first out.
//!
//! A roll-back is never interrupted and never stops at its first error. "Already gone" counts as done. What it cannot
//! put back it names: a person must look at it. It never forces a detachment and never unmounts lazily.

use std::time::Duration;

use super::disk::Vacated;
use super::hold::{Done, Hold, Origin, RecordHold, VolumeHold};
use super::{DomainRun, Failure};
use crate::aws::ec2::AttachmentState;
use crate::aws::{Class, Still};
use crate::plan::tags;
use crate::plan::unfinished::Own;
use crate::plan::volumes::{Standing, standing};
use crate::plan::way_out::share;
use crate::scope::Scope;
use crate::sys::mounts::{self, MountSet};
use crate::waits::{self, News, waiting};

/// How long EC2 may not find a volume that it has made a moment ago.
const UNSEEN: Duration = Duration::from_secs(30);
/// After how many looks at a volume that stays attached it is asked again to detach it.
const ASK_AGAIN: u32 = 5;

impl DomainRun {
    /// Rolls back the holds of one directive, or all. What could not be put back, in words; empty if all was.
    pub(crate) fn roll_back(&self, key: Option<&str>, scope: &Scope) -> Vec<String> {
        self.uses_no_more(key);
        self.renounce(key);
        let mut left = Vec::new();
        let holds = self.to_roll_back(key);
        let leaving = key.is_none().then(|| self.leaves());
        if leaving.is_some() {
            self.will_unmount(&holds.iter().map(Hold::key).collect::<Vec<_>>());
        }
        // Whatever happens to the records, half of the time is the volumes'.
        let any = holds.iter().any(|h| matches!(h, Hold::Volume(_)));
        // And whatever happens to these, the address has some.
        let address = holds.iter().any(|h| matches!(h, Hold::Address(_)));
        let for_volumes = &if address { scope.within(scope.remaining() * 7 / 8) } else { scope.clone() };
        let for_records = if any { scope.within(scope.remaining() / 2) } else { scope.clone() };
        let mut volumes = holds.iter().filter(|h| matches!(h, Hold::Volume(_))).count();
        let (records, rest): (Vec<Hold>, Vec<Hold>) = holds.into_iter().partition(|h| matches!(h, Hold::Record(_)));
        left.extend(self.roll_records_back(records, &for_records));
        for mut hold in rest {
            // `false`: it is needed still, by another domain or by the next run.
            let outcome = match &mut hold {
                Hold::Record(_) => Ok(true),
                Hold::Volume(v) => {
                    self.until_nothing_stands_on(&v.key, for_volumes);
                    // One that is held does not take the time of those after it.
                    let part = for_volumes.within(share(for_volumes.remaining(), volumes));
                    volumes = volumes.saturating_sub(1);
                    let end = self.release_volume(v, &part);
                    self.unmount_was_tried(&v.key);
                    end
                }
                Hold::Address(a) => {
                    self.forget_address();
                    self.give_back_address(a, scope).map(|()| true)
                }
                Hold::Move(m) => self.undo_move(m, for_volumes),
            };
            if outcome == Ok(false) {
                self.ledger(|l| {
                    l.held.retain(|h| *h != hold);
                    l.inherited.push(hold);
                });
                continue;
            }
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
            self.leave_names();
            left.extend(self.settle_rest(scope));
        }
        left
    }

    /// Rolls records back, all together. What could not be put back, in words.
    fn roll_records_back(&self, holds: Vec<Hold>, scope: &Scope) -> Vec<String> {
        let of = |h: &Hold| if let Hold::Record(r) = h { Some(r.clone()) } else { None };
        let records: Vec<RecordHold> = holds.iter().filter_map(of).collect();
        records.iter().for_each(|r| self.forget_written(r));
        let ends = self.restore_records(&records, scope);
        ends.iter().filter_map(|end| end.as_ref().err()).for_each(|what| log::error!("not rolled back: {what}"));
        self.ledger(|l| {
            for (hold, end) in holds.into_iter().zip(&ends) {
                l.held.retain(|h| *h != hold);
                l.left.extend(end.is_err().then_some(hold));
            }
        });
        ends.into_iter().filter_map(Result::err).collect()
    }

    /// `false`: another domain is about to use it, and what becomes of it is seen when that has come to its end.
    fn release_volume(&self, v: &mut VolumeHold, scope: &Scope) -> Result<bool, String> {
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
            let vacated = self.let_go(v, &id, scope)?;
            self.mount_is_down(&v.key);
            used = Some(self.restore_tags(v, &id, &scope.within(scope.remaining() / 4))?);
            if let Some(holder) = self.detach(v, &id, vacated, scope)? {
                log::warn!("{id} is another's by now and left alone: {holder}");
                return Ok(true);
            }
        }
        match v.origin {
            Origin::Created => {
                let (me, token) = (&self.shared.facts().instance_id, v.token.clone().unwrap_or_default());
                let token = token.as_str();
                let own = Own::Unfinished { owner: me, token, used: used.as_deref() };
                self.will_delete(v, used.as_ref());
                self.delete(&id, !v.seen, own, v.marked, scope).map(|()| true)
            }
            Origin::Claimed => Ok(true),
            Origin::Adopted => {
                let how = if v.transit_removed { "in transit" } else { "as it was found" };
                log::info!("{id} is left {how}, for the next run to finish");
                Ok(true)
            }
        }
    }

    /// Notes that DeleteVolume is sent from here on.
    fn will_delete(&self, v: &mut VolumeHold, used: Option<&String>) {
        let before = Hold::Volume(v.clone());
        v.deleting = Some(used.cloned());
        let now = Hold::Volume(v.clone());
        self.ledger(|l| {
            for hold in l.held.iter_mut().chain(&mut l.inherited).filter(|h| **h == before) {
                hold.clone_from(&now);
            }
        });
    }

    /// The volume's id; looked for by its token where the answer of CreateVolume is missing. What is found so may be
    /// older than the call, and (`true`) have been attached once.
    pub(super) fn volume_of(&self, v: &VolumeHold, scope: &Scope) -> Result<Option<(String, bool)>, String> {
        if let Some(id) = &v.volume_id {
            return Ok(Some((id.clone(), false)));
        }
        let Some(token) = &v.token else { return Ok(None) };
        let mut pause = Duration::from_millis(500);
        let patience = scope.within(UNSEEN);
        let _wait = waiting(scope, format!("a volume with the client token {token} to be found"));
        // Reads lag behind writes: an empty answer is believed only after some of them.
        loop {
            let found = self
                .find_by_token(token, scope)
                .map_err(|f| format!("a volume that may have been created with the client token {token}: {f}"))?;
            if let Some(found) = found {
                let used = found.tag(tags::TS_USED).is_some();
                return Ok(Some((found.id, used)));
            }
            if patience.sleep(pause).is_err() {
                break;
            }
            pause = (pause * 2).min(Duration::from_secs(4));
        }
        Ok(None)
    }

    /// Whether a claim with an unknown end worked.
    pub(super) fn is_here(&self, v: &VolumeHold, id: &str, scope: &Scope) -> Result<bool, String> {
        let facts = self.shared.facts();
        let mut pause = Duration::from_millis(500);
        let _wait = waiting(scope, format!("what has become of the claim of {id}"));
        for round in 0.. {
            let now = self.describe(scope, id).map_err(|f| format!("{id}, which may be attached: {f}"))?;
            match now.map(|v| standing(&v, &facts.instance_id, &facts.zone)) {
                Some(Standing::Here(at)) => return Ok(v.is_at(&at)),
                // It may be an old picture: look some times before believing it.
                None | Some(Standing::Free | Standing::Changing(_)) if round < 4 => {}
                None | Some(Standing::Free | Standing::Changing(_)) => {
                    self.may_come_late(v, id);
                    return Ok(false);
                }
                _ => return Ok(false),
            }
            if scope.sleep(pause).is_err() {
                return Err(format!("{id}, which may be attached: no time left to look"));
            }
            pause *= 2;
        }
        Ok(false)
    }

    /// Ends what our commands started on the volume and unmounts what they mounted, in half of the time. Held by others
    /// until then, it stays attached.
    pub(super) fn let_go(&self, v: &VolumeHold, id: &str, scope: &Scope) -> Result<Vacated, String> {
        self.shared.runner.end_group(&v.key, scope);
        let stays = |why: &dyn std::fmt::Display| format!("{id} stays attached as {}: {why}", v.device);
        let disk = self.disk_now(v, id, scope).map_err(|f| stays(&format!("which disk it is cannot be told: {f}")))?;
        let Some(disk) = disk else { return Ok(Vacated::default()) };
        // Commands run when the disk was seen: before that, nothing on it is theirs.
        let before = if v.inherited && v.disk.is_some() { &MountSet::default() } else { &self.shared.mounts_before };
        let (root, half, what) = (&self.shared.root, scope.within(scope.remaining() / 2), format!("{}: {id}", v.key));
        let alone = mounts::unmount_all(root, &disk, before, &what, &half).map_err(|held| stays(&held))?;
        Ok(Vacated { disk: Some(disk), alone: Some(alone), ..Vacated::default() })
    }

    /// Puts the tags back as they were, while the volume is still ours; afterwards they may be another's. What was made and
    /// marked as data is marked as unfinished again, or stays attached. The time of use that it wrote, if any.
    pub(super) fn restore_tags(&self, v: &VolumeHold, id: &str, scope: &Scope) -> Result<String, String> {
        let changed = v.tags_before.iter().filter(|(_, ours, before)| before.as_ref() != Some(ours));
        // By value: what is not ours any more stays. What was another's is written over.
        let (mut back, mut off) = (Vec::new(), Vec::new());
        for (key, ours, before) in changed {
            match before {
                Some(before) => back.push((key.as_str(), before.as_str())),
                None => off.push((key.as_str(), Some(ours.as_str()))),
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
        let part = &scope.within(scope.remaining() / 2);
        let end = self.untag(id, &off, &Still::always(), part).and_then(|()| self.tag_attached(id, &back, known, part));
        match end {
            // Without `ts-created` it is unfinished as well.
            Err(e) if v.marked => {
                let ids = [id];
                let watch = self.shared.watch(&ids, Own::Attached, None);
                let ask = |s: &Scope| watch.ask(s);
                if self.untag(id, &[(tags::TS_CREATED, None)], &Still::while_(&ask), scope).is_err() {
                    let what = Failure::api("mark it as unfinished", &e);
                    return Err(format!(
                        "{id} stays attached as {}, so that nobody takes it for data: {what}",
                        v.device
                    ));
                }
            }
            Err(e) => log::warn!("cannot put the tags of {id} back (they block nothing): {e}"),
            Ok(()) => {}
        }
        Ok(now)
    }

    /// Detaches it; nobody can mount its disk meanwhile. What is given says who has it by now, if that is another
    /// instance.
    pub(super) fn detach(
        &self,
        v: &VolumeHold,
        id: &str,
        mut vacated: Vacated,
        scope: &Scope,
    ) -> Result<Option<String>, String> {
        let facts = self.shared.facts();
        let me = facts.instance_id.as_str();
        let stays = |why: &dyn std::fmt::Display| format!("{id} stays attached as {}: {why}", v.device);
        let mut pause = Duration::from_millis(250);
        let _wait = waiting(scope, format!("{id} to be detached"));
        // `asked`: EC2 has given a plain answer; before that no look is believed.
        let (mut asked, mut still_here) = (false, 0);
        let mut busy: Option<String> = None;
        let mut news = News::default();
        loop {
            if !asked {
                self.until_vacant(id, &mut vacated, scope).map_err(|held| stays(&held))?;
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
            let seen = self.describe(scope, id).map_err(|f| match &busy {
                Some(who) if f.halt.is_some() => stays(&format!("EC2 says busy: {who}")),
                _ => stays(&f),
            });
            match seen? {
                None if asked => return Ok(None),
                None => {}
                Some(now)
                    if now.attachments.iter().any(|a| a.instance_id == me && a.state == AttachmentState::Busy) =>
                {
                    // If it is what we hold, or what somebody has for a moment, it goes now.
                    let who = vacated.busy(&self.shared.root, scope);
                    if news.is_due(&who, self.shared.clock.now()) {
                        log::warn!("{id}: EC2 says busy: {who}; waiting until {}", waits::until(scope));
                    }
                    busy = Some(who);
                }
                Some(now) => match standing(&now, me, &facts.zone) {
                    at @ (Standing::Here(_) | Standing::Changing(_)) => {
                        // What EC2 said of it may have been of an older picture.
                        if matches!(at, Standing::Here(_)) {
                            still_here += 1;
                            asked &= still_here % ASK_AGAIN != 0;
                        }
                        busy = None;
                    }
                    Standing::Absent(why) if !now.attachments.is_empty() => return Ok(Some(why)),
                    Standing::Free | Standing::Absent(_) | Standing::Broken(_) if !asked => {}
                    Standing::Free | Standing::Absent(_) | Standing::Broken(_) => {
                        log::info!("{id} detached");
                        return Ok(None);
                    }
                },
            }
            if let Err(halt) = scope.sleep(pause) {
                return Err(stays(&busy.map_or_else(|| halt.to_string(), |who| format!("EC2 says busy: {who}"))));
            }
            pause = (pause * 2).min(Duration::from_secs(4));
        }
    }

    /// Deletes a volume that was never committed, as long as `own` holds of it. `unseen`: it is so new that EC2 may not
    /// find it yet; `marked`: its commit was begun.
    pub(crate) fn delete(
        &self,
        id: &str,
        unseen: bool,
        own: Own<'_>,
        marked: bool,
        scope: &Scope,
    ) -> Result<(), String> {
        let mut pause = Duration::from_millis(500);
        let patience = scope.within(UNSEEN);
        let _wait = waiting(scope, format!("{id} to be deleted"));
        loop {
            match self.delete_owned(id, own, marked, scope) {
                Ok(()) => {
                    log::info!("{id} deleted: this run created it");
                    return Ok(());
                }
                Err(e) if e.class() == Class::Lapsed => {
                    log::warn!("not deleting {id}, which this run created: {e}");
                    return Ok(());
                }
                Err(e) if e.class() == Class::Gone && unseen && patience.sleep(pause).is_ok() => {
                    log::debug!("{id}: {e}: it may be too new");
                    pause = (pause * 2).min(Duration::from_secs(4));
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
    }
}

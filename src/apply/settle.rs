//! What a run that was cut off left: taken up, or put back.
//!
//! The holds in the journal are *inherited*: this run goes on with the same transaction. Before anything else,
//! [`DomainRun::settle`] looks at each and puts back what this config does not want any more. What it does want is taken
//! up by its directive when that comes to it ([`DomainRun::take_up`]), and is from then on a hold like any other. What
//! nobody took up is put back at the end ([`DomainRun::settle_rest`]), at the commit as well as in a roll-back.
//!
//! Where the journal is lost, [`DomainRun::leftovers`] finds by their tags the volumes that this instance made and never
//! finished.
//!
//! Data is never the price: only a volume that is free, in transit with our name on it and was never attached is
//! deleted. Another one that we made is finished: it belongs to its pool from then on.

use std::time::Duration;

use super::hold::{AddressHold, Committed, Done, Hold, Origin, RecordHold, VolumeHold};
use super::{DomainRun, Failure, lock};
use crate::aws::Still;
use crate::aws::ec2::{Volume, VolumeState};
use crate::aws::route53::RecordSet;
use crate::config::{RecordDirective, Source, VolumeDirective};
use crate::plan::records::{Now, compare};
use crate::plan::unfinished::{Own, is_unfinished};
use crate::plan::volumes::{self, Standing, standing};
use crate::plan::{create, moves, tags};
use crate::scope::Scope;

/// How long it may take, at most, to put back what is not wanted: then the run goes its way.
const SETTLE: Duration = Duration::from_secs(120);

impl DomainRun {
    /// Looks at what was inherited and puts back what no directive wants. What cannot be put back stays in the journal,
    /// and the run goes on without it.
    pub(crate) fn settle(&self, scope: &Scope) {
        let inherited = lock(&self.ledger).inherited.clone();
        if inherited.is_empty() {
            return;
        }
        let scope = &scope.within(SETTLE).early();
        let names = self.record_names();
        let is_unwanted = |h: &Hold| matches!(h, Hold::Record(r) if !names.contains(&(r.zone.clone(), r.name.clone())));
        let (records, rest): (Vec<Hold>, Vec<Hold>) =
            self.last_in_first_out(inherited).into_iter().partition(is_unwanted);
        // The others have half of the time, whatever the records take.
        self.put_records_back(records, &scope.within(scope.remaining() / 2));
        for hold in rest {
            let wanted = match &hold {
                Hold::Record(_) => Ok(true),
                Hold::Volume(v) => self.is_wanted(v, scope),
                // Whether its volume is still to be moved is seen when the directive comes to it.
                Hold::Move(_) => Ok(self.config.volumes.iter().any(|d| d.sources.contains(&Source::Move))),
                Hold::Address(a) => Ok(self.wants_address(a)),
            };
            match wanted {
                Ok(true) => log::info!("{} goes on where it was", hold.what()),
                Ok(false) => drop(self.put_back(hold, scope)),
                Err(f) => log::warn!("{} is left for later: {f}", hold.what()),
            }
        }
    }

    /// Puts back whatever is inherited still. What could not be is returned.
    pub(crate) fn settle_rest(&self, scope: &Scope) -> Vec<String> {
        let inherited = lock(&self.ledger).inherited.clone();
        let (records, rest): (Vec<Hold>, Vec<Hold>) =
            self.last_in_first_out(inherited).into_iter().partition(|h| matches!(h, Hold::Record(_)));
        // The others have half of the time, whatever the records take.
        let for_records = if rest.is_empty() { scope.clone() } else { scope.within(scope.remaining() / 2) };
        let mut left = self.put_records_back(records, &for_records);
        left.extend(rest.into_iter().filter_map(|hold| self.put_back(hold, scope).err()));
        left
    }

    /// Whether a directive of this config will take the volume up, or claim it again.
    fn is_wanted(&self, v: &VolumeHold, scope: &Scope) -> Result<bool, Failure> {
        let directives = &self.config.volumes;
        if v.deleting.is_some() {
            return Ok(false);
        }
        if v.attached == Done::No && self.derives(v) {
            return Ok(true);
        }
        let Some(id) = &v.volume_id else { return Ok(false) };
        let now = self.until_at_rest(id, scope)?;
        let facts = self.shared.facts();
        Ok(match now.as_ref().map(|now| standing(now, &facts.instance_id, &facts.zone)) {
            Some(Standing::Here(_)) if self.is_outdated_copy(now.as_ref(), scope)?.is_some() => false,
            Some(Standing::Here(_)) => {
                let read: Vec<Volume> = now.into_iter().collect();
                let finds = |d: &VolumeDirective| {
                    let found = volumes::first_look(d, directives, &self.config.name, &read, &facts.instance_id);
                    found.is_ok_and(|f| f.is_some_and(|f| f.volume_id == *id))
                };
                v.attached != Done::No && directives.iter().any(finds)
            }
            Some(Standing::Free) => self.derives(v) || now.is_some_and(|now| self.may_claim(v, &now)),
            _ => false,
        })
    }

    /// Whether a directive may claim it (again): AttachVolume itself tells then whether the first call worked.
    fn may_claim(&self, v: &VolumeHold, now: &Volume) -> bool {
        let may = |d: &VolumeDirective| {
            let pool = d.pool_name.as_deref();
            d.volume_id.as_ref() == Some(&now.id) || pool.is_some() && volumes::in_pool(now, &self.config.name, pool)
        };
        v.origin == Origin::Claimed && self.config.volumes.iter().any(may)
    }

    /// Whether a directive derives the client token of this volume: then it finds the volume by itself.
    fn derives(&self, v: &VolumeHold) -> bool {
        let me = &self.shared.facts().instance_id;
        let derives = |d: &VolumeDirective| {
            let (snapshot, domain) = (v.snapshot.as_deref(), &self.config.name);
            let mut tokens =
                (0..super::create::MAX_GENERATIONS).map(|g| create::client_token(me, domain, d, snapshot, g));
            let makes = |s: &Source| s.makes() && (*s == Source::Create) == snapshot.is_none();
            d.sources.iter().any(makes) && tokens.any(|t| v.token.as_ref() == Some(&t))
        };
        v.origin != Origin::Claimed && self.config.volumes.iter().any(derives)
    }

    /// Puts one inherited hold back and forgets it; if it cannot be put back, it stays in the journal.
    pub(super) fn put_back(&self, hold: Hold, scope: &Scope) -> Result<(), String> {
        let end = match &hold {
            Hold::Record(_) => return self.put_records_back(vec![hold], scope).into_iter().try_for_each(Err),
            Hold::Volume(v) => match self.put_volume_back(v, scope) {
                Ok(true) => Ok(()),
                Ok(false) => return Ok(()),
                Err(what) => Err(what),
            },
            Hold::Move(m) => match self.undo_move(m, scope) {
                Ok(true) => Ok(()),
                Ok(false) => return Ok(()),
                Err(what) => Err(what),
            },
            Hold::Address(a) => self.disassociate(&AddressHold { associated: Done::Maybe, ..a.clone() }, scope),
        };
        self.was_put_back(hold, end, scope)
    }

    pub(super) fn was_put_back(&self, hold: Hold, end: Result<(), String>, scope: &Scope) -> Result<(), String> {
        // Where the time for it was over, a roll-back and the end of this run try again.
        if end.is_ok() || scope.check().is_ok() {
            self.ledger(|l| {
                l.inherited.retain(|h| *h != hold);
                l.left.extend(end.is_err().then_some(hold));
            });
        }
        if let Err(what) = &end {
            log::error!("what an earlier run left cannot be put back: {what}");
        }
        end
    }

    /// `false`: another domain is about to use it, and what becomes of it is seen when that has come to its end.
    fn put_volume_back(&self, v: &VolumeHold, scope: &Scope) -> Result<bool, String> {
        let Some((id, _)) = self.volume_of(v, scope)? else { return Ok(true) };
        let _taking = match self.take(&id, &v.key, scope)? {
            Ok(taking) => taking,
            Err(other) => return self.is_left_to(v, &id, &other, scope),
        };
        let failed = |f: Failure| format!("{id}, which an earlier run had: {f}");
        let me = self.shared.facts().instance_id.clone();
        let here = match v.attached {
            Done::No => false,
            Done::Maybe => self.is_here(v, &id, scope)?,
            Done::Yes => {
                let now = self.until_seen_attached(v, &id, scope).map_err(failed)?;
                if now.as_ref().is_some_and(|now| self.was_committed(v, now)) {
                    log::info!("{id} stays: it was committed");
                    // Of what it made its run had no time to write the last tags.
                    if v.token.is_some() {
                        let committed = self.committed(VolumeHold { volume_id: Some(id.clone()), ..v.clone() }, None);
                        self.ledger(|l| l.to_tidy.extend(committed));
                    }
                    return Ok(true);
                }
                // Also where it is being detached: that it comes to an end is waited for.
                let now = now.map(|now| now.attachments).unwrap_or_default();
                now.iter().any(|a| a.instance_id == me && v.is_at(&a.device))
            }
        };
        if here {
            log::info!("{id}, which an earlier run attached, is put back: this config has no use for it");
            // One that is held does not take the time of the others.
            let scope = &scope.within(scope.remaining() / 2);
            let vacated = self.let_go(v, &id, scope)?;
            self.restore_tags(v, &id, scope)?;
            if let Some(holder) = self.detach(v, &id, vacated, scope)? {
                log::warn!("{id} is another's by now and left alone: {holder}");
                return Ok(true);
            }
        }
        if v.origin == Origin::Claimed {
            return Ok(true);
        }
        let Some(now) = self.until_found(&id, v.seen || v.attached != Done::No, scope).map_err(failed)? else {
            return Ok(true);
        };
        if !now.attachments.is_empty() || now.tag(tags::OWNER) != Some(me.as_str()) {
            log::info!("{id}, which an earlier run created, is another's by now and left alone");
            return Ok(true);
        }
        if !here && v.attached == Done::No && never_attached(&now, v.token.as_deref()) {
            let token = v.token.as_deref().unwrap_or_default();
            let own = Own::Unfinished { owner: &me, token, used: None };
            return self.delete(&id, false, own, false, scope).map(|()| true);
        }
        if let Some(used) = v.deleting.as_ref().filter(|_| is_unfinished(&now)) {
            let token = v.token.as_deref().unwrap_or_default();
            let own = Own::Unfinished { owner: &me, token, used: used.as_deref() };
            return self.delete(&id, false, own, v.marked, scope).map(|()| true);
        }
        if now.tag(tags::LINEAGE).is_some()
            && is_unfinished(&now)
            && !self.originals(&now, scope).map_err(failed)?.is_empty()
        {
            self.give_copy_up(&now, moves::lineage(&now), scope)?;
        } else if is_unfinished(&now) && self.is_young(&now) {
            // What it has may be half made. It stays marked, and the next run of this instance may go on with it.
            log::info!(
                "{id}, which an earlier run made and did not finish, is left as it is: others leave it alone, too"
            );
            self.ledger(|l| l.left.push(Hold::Volume(v.clone())));
            return Ok(true);
        }
        self.finish_volume(&now, v.token.as_deref(), scope);
        Ok(true)
    }

    /// Takes off what says that a volume which we made is not finished: it may carry data, and is kept.
    fn finish_volume(&self, v: &Volume, token: Option<&str>, scope: &Scope) {
        let off: Vec<(&str, Option<&str>)> = [tags::IN_TRANSIT, tags::TRANSC_ID]
            .into_iter()
            .filter(|key| token.is_some() && v.tag(key) == token)
            .map(|key| (key, token))
            .collect();
        if off.is_empty() {
            return;
        }
        match v.tag(tags::POOL_NAME) {
            Some(pool) => log::info!("{}, which an earlier run created and used, belongs to pool '{pool}' now", v.id),
            None => log::warn!(
                "{}, which an earlier run created and used, is kept, and no directive uses it: delete it if its data \
                 is not needed",
                v.id
            ),
        }
        if let Err(e) = self.untag(&v.id, &off, &Still::always(), scope) {
            log::warn!("cannot take the tags of its creation off {} (they block nothing): {e}", v.id);
        }
    }

    /// Takes up, for directive `d`, the inherited hold of a volume that is attached here as `device`. What its run did
    /// not attach is forgotten instead: that was somebody else.
    pub(super) fn take_up(&self, d: &VolumeDirective, now: &Volume, device: &str) -> Option<VolumeHold> {
        let me = self.shared.facts().instance_id.clone();
        self.ledger(|l| {
            let is_it = |h: &Hold| matches!(h, Hold::Volume(v) if v.volume_id.as_ref() == Some(&now.id));
            let Hold::Volume(mut v) = l.inherited.remove(l.inherited.iter().position(is_it)?) else { return None };
            if v.attached == Done::No || !v.is_at(device) || self.was_committed(&v, now) {
                return None;
            }
            v.key.clone_from(&d.path);
            device.clone_into(&mut v.device);
            v.attached = Done::Yes;
            // No command of that run has seen the disk: what is mounted is somebody else's.
            v.inherited = v.disk.is_some();
            let made = now.tag(tags::TRANSC_ID).filter(|t| create::is_token(t) && now.tag(tags::OWNER) == Some(&me));
            if v.origin == Origin::Created || made.is_some() {
                // Commands may have run on it: it is never deleted.
                v.origin = Origin::Adopted;
                v.transc_id = made.map(str::to_owned);
                v.token = v.token.or(now.tag(tags::IN_TRANSIT).map(str::to_owned));
            }
            l.held.push(Hold::Volume(v.clone()));
            Some(v)
        })
    }

    /// Takes up the inherited holds of a volume made with `token` that was never attached, in place of which the caller
    /// has pushed its own. They are the caller's to [give back](DomainRun::give_back).
    pub(super) fn take_up_made(&self, token: &str) -> Vec<Hold> {
        self.take_inherited(|v| {
            v.token.as_deref() == Some(token) && v.attached == Done::No && v.origin == Origin::Created
        })
    }

    fn take_inherited(&self, is_it: impl Fn(&VolumeHold) -> bool) -> Vec<Hold> {
        let is_it = |h: &mut Hold| matches!(h, Hold::Volume(v) if is_it(v));
        self.ledger(|l| l.inherited.extract_if(.., is_it).collect())
    }

    /// The directive `d` got nothing, and its hold holds nothing: what it had taken up is as it was.
    pub(super) fn give_back(&self, d: &VolumeDirective, taken: Vec<Hold>) {
        self.ledger(|l| {
            l.held.retain(|h| h.key() != d.path || matches!(h, Hold::Move(_)));
            l.inherited.extend(taken);
        });
    }

    /// The inherited hold of a record, if it still is as that run wrote it (`now` is what stands there): what was there
    /// before that run is what a roll-back restores.
    pub(super) fn inherited_record(&self, zone: &str, name: &str, now: &[RecordSet]) -> Option<RecordHold> {
        lock(&self.ledger).inherited.iter().find_map(|h| match h {
            Hold::Record(r)
                if !r.follows && is_record(h, zone, name) && compare(now, &r.ours, &r.all_before()) == Now::Ours =>
            {
                Some(r.clone())
            }
            _ => None,
        })
    }

    /// A directive has found its record as it should be: it has that of an earlier run (`hold`), or there is nothing to
    /// undo.
    pub(super) fn take_up_record(&self, d: &RecordDirective, name: &str, hold: Option<RecordHold>) {
        self.ledger(|l| {
            l.inherited.retain(|h| !is_record(h, &d.hosted_zone, name));
            l.held.retain(|h| h.key() != d.path);
            l.held.extend(hold.map(Hold::Record));
        });
    }

    /// What is inherited of a record counts no more: it is written over.
    pub(super) fn forget_inherited_record(&self, zone: &str, name: &str) {
        self.ledger(|l| l.inherited.retain(|h| !is_record(h, zone, name)));
    }

    /// The volume is claimed anew: what is inherited of it counts no more, unless it is given back.
    pub(super) fn forget_inherited(&self, id: &str) -> Vec<Hold> {
        self.take_inherited(|v| v.volume_id.as_deref() == Some(id))
    }

    /// Volumes of this domain that this instance made and never finished, and that no directive holds: after a commit
    /// they are nobody's. They are inherited from here on.
    pub(super) fn leftovers(&self, read: &[Volume]) {
        let me = self.shared.facts().instance_id.clone();
        let taken = lock(&self.shared.taken).clone();
        let left = |v: &&Volume| {
            v.tag(tags::DOMAIN) == Some(self.config.name.as_str())
                && v.tag(tags::OWNER) == Some(me.as_str())
                && v.tag(tags::TRANSC_ID).is_some_and(create::is_token)
                && v.attachments.is_empty()
                && !v.state.is_ending()
                && !taken.contains(&v.id)
        };
        let holds: Vec<Hold> = read.iter().filter(left).map(|v| Hold::Volume(left_behind(v))).collect();
        if !holds.is_empty() {
            self.ledger(|l| {
                let known = |l: &[Hold], id: &Option<String>| {
                    l.iter().any(|h| matches!(h, Hold::Volume(o) if o.volume_id == *id))
                };
                for hold in holds {
                    if let Hold::Volume(v) = &hold
                        && !known(&l.inherited, &v.volume_id)
                        // What could not be put back tells more of it than its tags do.
                        && !known(&l.left, &v.volume_id)
                    {
                        l.inherited.push(hold);
                    }
                }
            });
        }
    }

    /// What is committed, with what a run that was cut off had committed and that is still here. [`DomainRun::tidied`] forgets it.
    pub(super) fn to_be_tidied(&self, scope: &Scope) -> Vec<Committed> {
        let (mut all, of_another_run) = {
            let l = lock(&self.ledger);
            (l.committed.clone(), l.to_tidy.clone())
        };
        let facts = self.shared.facts();
        for c in of_another_run {
            let now = self.describe(scope, &c.volume_id).ok().flatten();
            let here = now.is_some_and(|v| matches!(standing(&v, &facts.instance_id, &facts.zone), Standing::Here(_)));
            all.extend(here.then_some(c));
        }
        all
    }

    /// Whether tags of what was committed are still to be written.
    pub(super) fn has_tags_to_write(&self) -> bool {
        let l = lock(&self.ledger);
        !(l.committed.is_empty() && l.to_tidy.is_empty())
    }

    /// The tags of what was committed are as up to date as they will be, but for what is `unfinished`.
    pub(super) fn tidied(&self, unfinished: Vec<Committed>) {
        self.ledger(|l| {
            l.committed.clear();
            l.to_tidy = unfinished;
        });
    }
}

impl Hold {
    pub(super) fn what(&self) -> String {
        match self {
            Hold::Record(r) => format!("{} in hosted zone {}", r.name, r.zone),
            Hold::Move(m) => format!("the move of {}", m.volume_id),
            Hold::Address(a) => format!("{} ({})", a.public_ip, a.allocation_id),
            Hold::Volume(v) => match (&v.volume_id, &v.token) {
                (Some(id), _) => id.clone(),
                (None, token) => format!("the volume with the client token {}", token.as_deref().unwrap_or_default()),
            },
        }
    }
}

fn is_record(h: &Hold, zone: &str, name: &str) -> bool {
    matches!(h, Hold::Record(r) if r.zone == zone && r.name == name)
}

/// A volume in transit that never had a time of use was made and never attached: the roll-back of a run that attached
/// one writes the time before it detaches it.
pub(super) fn never_attached(v: &Volume, token: Option<&str>) -> bool {
    token.is_some()
        && v.tag(tags::IN_TRANSIT) == token
        && v.tag(tags::TS_USED).is_none()
        && matches!(v.state, VolumeState::Available | VolumeState::Error)
}

/// The hold of a volume of which only its tags tell.
pub(super) fn left_behind(v: &Volume) -> VolumeHold {
    let token = v.tag(tags::TRANSC_ID).map(str::to_owned);
    VolumeHold {
        key: String::new(),
        volume_id: Some(v.id.clone()),
        attached: if v.tag(tags::IN_TRANSIT) == token.as_deref() { Done::No } else { Done::Yes },
        token,
        sent: None,
        snapshot: v.snapshot_id.clone(),
        transc_id: None,
        deleting: None,
        origin: Origin::Created,
        seen: true,
        device: String::new(),
        disk: None,
        tags_before: Vec::new(),
        transit_removed: false,
        marked: false,
        formatting: false,
        unused: None,
        inherited: true,
    }
}

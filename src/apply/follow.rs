//! `follow`: records whose values change with the addresses of the instance, while the daemon watches.
//!
//! An elastic address may be associated after the start, or moved. A record is changed only while it still is what this
//! instance wrote, by an exact DELETE and a CREATE in one batch; else it is left alone for good. It never comes to nothing,
//! is changed once a minute at most, and not in a shutdown.

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use super::hold::{Done, Hold, RecordHold};
use super::record::was_not_written;
use super::restore::DECIDED;
use super::{DomainRun, Failure, lock};
use crate::aws::Class;
use crate::aws::route53::{Change, RecordSet, address, normalise};
use crate::clock::Tick;
use crate::config::RecordDirective;
use crate::model::Facts;
use crate::plan::addresses::Place;
use crate::plan::follow::{all_there, exact, has_moved};
use crate::plan::records::Plan;
use crate::scope::Scope;

/// A record is not changed more often.
const AT_MOST: Duration = Duration::from_secs(60);
/// How long one call may take: a shutdown waits for it.
const CHANGE: Duration = Duration::from_secs(10);

/// What is known of the records that follow.
#[derive(Debug, Default)]
pub(super) struct Follow {
    /// When addresses were followed last.
    last: Option<Tick>,
    /// Directives whose record was not written for want of an address.
    without: BTreeSet<String>,
    /// Directives whose record is somebody else's by now.
    left_alone: BTreeSet<String>,
    /// The trouble of the last time: it is said once.
    trouble: Option<String>,
}

impl DomainRun {
    /// There was no address for the record of a directive.
    pub(super) fn has_no_address(&self, d: &RecordDirective) {
        lock(&self.follow).without.insert(d.path.clone());
    }

    /// What a directive that follows has at its name: zone, name and sets. `None`: there is nothing to follow.
    fn followed(&self, d: &RecordDirective) -> Option<(String, String, Vec<RecordSet>)> {
        let state = lock(&self.follow);
        if !d.follow || state.left_alone.contains(&d.path) {
            return None;
        }
        let has = self.has_written_for(&d.path);
        if has.is_none() && state.without.contains(&d.path) {
            let name = normalise(&d.name.expand(&self.values_for_names()));
            return Some((d.hosted_zone.clone(), name, Vec::new()));
        }
        // Another domain may have changed it already.
        has.map(|(zone, name, sets)| {
            let sets = self.shared.names.now(&zone, &name, &sets);
            (zone, name, sets)
        })
    }

    /// Whether a record is to be changed for these addresses, and it is time for that.
    pub(crate) fn is_to_follow(&self, now: &Facts) -> bool {
        let now = &self.shared.believed(now);
        let last = lock(&self.follow).last;
        if last.is_some_and(|at| self.shared.clock.now().since(at) < AT_MOST) {
            return false;
        }
        let moved = |d: &RecordDirective| {
            self.followed(d).is_some_and(|(.., sets)| {
                has_moved(&sets, &now.primary_ipv4, &now.primary_ipv6) || !self.given_up(&sets, now).is_empty()
            })
        };
        self.config.records.iter().any(moved)
    }

    /// Whether the elastic address that this domain has is here still, though the metadata service does not tell of it
    /// (yet), or nobody knows.
    pub(crate) fn keeps_address(&self, now: &Facts, scope: &Scope) -> bool {
        let Some(a) = lock(&self.address).clone() else { return false };
        let elsewhere = |place| matches!(place, Ok(Place::Held(_) | Place::Free));
        !now.primary_ipv4.contains(&a.public_ip)
            && !elsewhere(self.place_of(&a.allocation_id, &a.interface, &a.private_ip, scope))
    }

    /// The instance has these addresses now: changes its records.
    pub(crate) fn follow(&self, now: &Facts, scope: &Scope) {
        let now = &self.shared.believed(now);
        let _busy = lock(&self.following);
        lock(&self.follow).last = Some(self.shared.clock.now());
        let mut trouble = Vec::new();
        for d in &self.config.records {
            let Some((zone, name, old)) = self.followed(d) else { continue };
            let given_up = self.given_up(&old, now);
            if !given_up.is_empty()
                && scope.check().is_ok()
                && let Err(f) = self.delete_given_up(d, &zone, &name, &given_up, scope)
                && scope.check().is_ok()
            {
                trouble.push(format!("{}: {name} leads to an address that was given up still: {f}", d.path));
            }
            if old.is_empty() && self.no_name(d).is_some() {
                continue;
            }
            if given_up.is_empty()
                && has_moved(&old, &now.primary_ipv4, &now.primary_ipv6)
                && scope.check().is_ok()
                && let Err(f) = self.follow_one(d, &zone, &name, &old, now, scope)
                && scope.check().is_ok()
            {
                trouble.push(format!("{}: {name} does not follow the addresses of this instance yet: {f}", d.path));
            }
        }
        let text = (!trouble.is_empty()).then(|| trouble.join("; "));
        let was = std::mem::replace(&mut lock(&self.follow).trouble, text.clone());
        text.filter(|text| was.as_ref() != Some(text)).iter().for_each(|text| log::warn!("{text}; trying on"));
    }

    /// Waits until no record is being changed, or the scope ends.
    pub(super) fn follows_no_more(&self, scope: &Scope) -> Option<MutexGuard<'_, ()>> {
        loop {
            match self.following.try_lock() {
                Ok(guard) => return Some(guard),
                Err(TryLockError::Poisoned(e)) => return Some(PoisonError::into_inner(e)),
                Err(TryLockError::WouldBlock) => scope.sleep(Duration::from_millis(20)).ok()?,
            }
        }
    }

    /// Which of these sets lead to an elastic address that another domain of the process has given back, in place of which
    /// the instance has none.
    fn given_up(&self, sets: &[RecordSet], now: &Facts) -> Vec<RecordSet> {
        let given_up = lock(&self.shared.given_back);
        let is_over = |s: &&RecordSet| {
            s.kind == "A" && !s.values.is_empty() && s.values.iter().all(|v| given_up.contains(&address(v)))
        };
        sets.iter().filter(|_| now.primary_ipv4.is_empty()).filter(is_over).cloned().collect()
    }

    /// Deletes what leads to an address that was given up. It is written again when there is an address.
    fn delete_given_up(
        &self,
        d: &RecordDirective,
        zone: &str,
        name: &str,
        sets: &[RecordSet],
        scope: &Scope,
    ) -> Result<(), Failure> {
        // Whoever has the address now may have written the very same.
        if let Some((_, why)) = self.shared.anothers(&sets.iter().collect::<Vec<_>>(), scope).first() {
            log::warn!("{}: {name}: {why}", d.path);
            self.leaves_alone(d, name);
            return Ok(());
        }
        let changes: Vec<Change> = sets.iter().cloned().map(Change::delete).collect();
        self.note_changes(zone, &changes);
        match self.shared.zones.submit(&self.shared.aws, zone, vec![changes], &scope.within(DECIDED)).pop() {
            Some(Err(e)) if e.class() == Class::Conflict && !e.unsure => {
                self.leaves_alone(d, name);
                return Ok(());
            }
            // If it was carried out, the next try is refused.
            Some(Err(e)) => return Err(Failure::api(&format!("delete {name} in hosted zone {zone}"), &e)),
            _ => {}
        }
        self.shared.names.gone(zone, name, sets);
        self.has_no_more(&d.path, sets);
        lock(&self.follow).without.insert(d.path.clone());
        log::warn!(
            "{}: {name} is deleted: the address that it led to was given up, and this instance has no other; it is written \
             when there is one",
            d.path
        );
        Ok(())
    }

    fn follow_one(
        &self,
        d: &RecordDirective,
        zone: &str,
        name: &str,
        old: &[RecordSet],
        facts: &Facts,
        scope: &Scope,
    ) -> Result<(), Failure> {
        let look = || {
            let now = self.shared.aws.records_at(&scope.within(CHANGE), zone, name);
            now.map_err(|e| Failure::api(&format!("list the records at {name} in hosted zone {zone}"), &e))
        };
        let there = look()?;
        if !all_there(old, &there) && !self.shared.names.may_be(zone, name, &there) {
            self.leaves_alone(d, name);
            return Ok(());
        }
        // The other domains that have it, have it with this TTL too.
        let ttl = old.first().and_then(|s| s.ttl).unwrap_or(d.ttl);
        let mut plan = self.plan_sets(d, &there, name, ttl, facts).map_err(|e| Failure::new(e.to_string()))?;
        plan.changes = exact(plan.changes, &there);
        // A kind without an address stays as it is.
        let stays = old.iter().filter(|s| !plan.wanted.iter().any(|w| w.kind == s.kind));
        plan.wanted.extend(stays.cloned().collect::<Vec<_>>());
        if plan.changes.is_empty() {
            self.has_followed(d, &plan, !all_there(old, &there));
            return Ok(());
        }
        self.note_changes(zone, &plan.changes);
        self.shared.names.maybe(zone, name, &plan.wanted);
        let hold = Hold::Record(RecordHold {
            key: d.path.clone(),
            zone: zone.to_owned(),
            name: name.to_owned(),
            ours: plan.ours.clone(),
            before: plan.before.clone(),
            earlier: Vec::new(),
            follows: true,
            written: Done::Maybe,
            at: None,
        });
        self.ledger(|l| {
            l.held.retain(|h| h.key() != d.path);
            l.held.push(hold);
        });
        let (zones, pieces) = (&self.shared.zones, vec![plan.changes.clone()]);
        let Some(Err(e)) = zones.submit(&self.shared.aws, zone, pieces, &scope.within(CHANGE)).pop() else {
            self.has_followed(d, &plan, true);
            return Ok(());
        };
        let failure = Failure::api(&format!("write {name} in hosted zone {zone}"), &e);
        if matches!(e.class(), Class::Conflict | Class::Ambiguous) {
            let there = look()?;
            if all_there(&plan.wanted, &there) {
                self.has_followed(d, &plan, true);
                return Ok(());
            }
            if !all_there(old, &there) {
                self.leaves_alone(d, name);
                return Ok(());
            }
        }
        // It may be carried out late: a release looks for it, and so does the next run.
        if was_not_written(&plan, &e) {
            self.drop_hold(&d.path);
        }
        Err(failure)
    }

    /// What the plan wants stands; `new`: it has become so.
    fn has_followed(&self, d: &RecordDirective, plan: &Plan, new: bool) {
        self.drop_hold(&d.path);
        lock(&self.follow).without.remove(&d.path);
        self.stands(d, plan);
        if new {
            let shown = Plan { ours: plan.wanted.clone(), ..plan.clone() }.summary();
            log::info!("{}: the addresses of this instance have changed: {shown}", d.path);
        }
    }

    fn leaves_alone(&self, d: &RecordDirective, name: &str) {
        self.drop_hold(&d.path);
        lock(&self.follow).left_alone.insert(d.path.clone());
        log::warn!(
            "{}: {name} is not what this instance wrote any more: it is left alone from now on, and does not follow the \
             addresses of this instance",
            d.path
        );
    }

    /// What an earlier run was changing a record from, when it was cut off: an address that the instance has no more.
    pub(super) fn was_following(&self, zone: &str, name: &str) -> Vec<RecordSet> {
        let l = lock(&self.ledger);
        let of = |h: &Hold| match h {
            Hold::Record(r) if r.follows && r.zone == zone && r.name == name => r.all_before(),
            _ => Vec::new(),
        };
        l.inherited.iter().flat_map(of).collect()
    }
}

impl super::Shared {
    /// What the metadata service says `now`, without what this process has given up: of that it tells late.
    fn believed(&self, now: &Facts) -> Facts {
        let mut given_up = lock(&self.given_up);
        given_up.retain(|g| now.all_ipv4.iter().any(|a| address(a) == *g));
        let mut believed = now.clone();
        believed.primary_ipv4.retain(|a| !given_up.contains(&address(a)));
        believed
    }

    /// The instance has these public addresses now.
    pub(crate) fn has_addresses(&self, now: &Facts) {
        let mut facts = self.facts.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = (**facts).clone();
        changed.primary_ipv4.clone_from(&now.primary_ipv4);
        changed.primary_ipv6.clone_from(&now.primary_ipv6);
        changed.all_ipv4.clone_from(&now.all_ipv4);
        changed.all_ipv6.clone_from(&now.all_ipv6);
        if changed != **facts {
            // Only an elastic one comes while the instance runs.
            let new: Vec<String> = now.all_ipv4.iter().filter(|a| !facts.all_ipv4.contains(a)).cloned().collect();
            self.may_move(&new);
            *facts = Arc::new(changed);
            // What stands was made with the old ones.
            self.aws.forget_connections();
        }
    }
}

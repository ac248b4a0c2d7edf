//! `release` of records: deleted while the instance still lives, so that nobody is sent to a server that is gone.
//!
//! Only by exact DELETEs of what the directive wrote: what somebody else has written there meanwhile (a successor, a
//! person) is refused by Route 53 itself, and left alone.

use std::time::Duration;

use super::hold::{Done, Hold, RecordHold};
use super::restore::DECIDED;
use super::{DomainRun, Failure, lock};
use crate::aws::Class;
use crate::aws::route53::{Change, RecordSet};
use crate::clock::Tick;
use crate::config::RecordDirective;
use crate::model::Event;
use crate::parallel;
use crate::plan::records::Plan;
use crate::scope::Scope;

/// How often a DELETE with an unclear end is tried again when a look says that the record is still ours.
const TRIES: usize = 4;

/// What a directive has at its name.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    /// The directive.
    key: String,
    critical: bool,
    zone: String,
    /// Normalised.
    name: String,
    sets: Vec<RecordSet>,
}

impl Written {
    fn is_at(&self, other: &Written) -> bool {
        self.zone == other.zone && self.name == other.name
    }
}

impl DomainRun {
    /// What the plan wants stands at the name: from here on it can be released, and no other directive takes it away.
    pub(super) fn stands(&self, d: &RecordDirective, plan: &Plan) {
        if plan.wanted.is_empty() {
            return;
        }
        self.shared.names.have(&self.config.name, &d.path, &d.hosted_zone, &plan.name, &plan.wanted);
        let mut all = lock(&self.written);
        all.retain(|w| w.key != d.path);
        all.push(Written {
            key: d.path.clone(),
            critical: d.critical,
            zone: d.hosted_zone.clone(),
            name: plan.name.clone(),
            sets: plan.wanted.clone(),
        });
    }

    /// What a roll-back has put back is not there to be released.
    pub(super) fn forget_written(&self, r: &RecordHold) {
        let mut written = lock(&self.written);
        for w in written.iter_mut().filter(|w| w.zone == r.zone && w.name == r.name) {
            w.sets.retain(|set| !r.ours.iter().any(|ours| ours.same_content(set)));
        }
        written.retain(|w| !w.sets.is_empty());
    }

    /// These sets of a directive are deleted.
    pub(super) fn has_no_more(&self, key: &str, gone: &[RecordSet]) {
        let mut written = lock(&self.written);
        for w in written.iter_mut().filter(|w| w.key == key) {
            w.sets.retain(|set| !gone.iter().any(|g| g.same_content(set)));
        }
        written.retain(|w| !w.sets.is_empty());
    }

    /// What a directive has: zone, name and sets.
    pub(super) fn has_written_for(&self, key: &str) -> Option<(String, String, Vec<RecordSet>)> {
        let all = lock(&self.written);
        all.iter().find(|w| w.key == key).map(|w| (w.zone.clone(), w.name.clone(), w.sets.clone()))
    }

    /// The domain has failed: what it has it may still release, but nobody else keeps anything for it.
    pub(super) fn leave_names(&self) {
        for w in lock(&self.written).iter() {
            self.shared.names.leave(&w.zone, &w.name, &[&w.key]);
        }
    }

    /// Deletes the records that `event` releases: of each zone the critical ones in one request, then the others in one, so
    /// that nothing of the others keeps those up. What could not be deleted, in words.
    pub(crate) fn release_records(&self, event: Event, scope: &Scope) -> Vec<String> {
        // What is being changed is released as it is then.
        let _busy = self.follows_no_more(scope);
        let goes = |w: &Written| self.config.records.iter().any(|d| d.path == w.key && d.release.contains(&event));
        let (mut going, staying): (Vec<Written>, Vec<Written>) =
            std::mem::take(&mut *lock(&self.written)).into_iter().partition(goes);
        lock(&self.written).clone_from(&staying);
        let mut sets: Vec<(Written, RecordSet)> = Vec::new();
        // A record of two directives counts as critical if one of them is.
        going.sort_by_key(|w| !w.critical);
        for (i, w) in going.iter().enumerate() {
            // What two of them share is nobody's when both go.
            if going[..i].iter().any(|o| o.is_at(w)) {
                continue;
            }
            let keys: Vec<&str> = going.iter().filter(|o| o.is_at(w)).map(|o| o.key.as_str()).collect();
            if let Some((domain, path)) = self.shared.names.leave(&w.zone, &w.name, &keys) {
                let other = if domain == self.config.name { path } else { format!("domain {domain}") };
                log::info!("{}: {} stays: {other} has it too", keys.join(", "), w.name);
                continue;
            }
            let all = going.iter().filter(|o| o.is_at(w)).flat_map(|o| o.sets.clone()).collect::<Vec<_>>();
            // Another one that had it may have written it last.
            for set in self.shared.names.now(&w.zone, &w.name, &all) {
                if !sets.iter().any(|(o, s)| o.is_at(w) && s.same_content(&set)) {
                    sets.push((w.clone(), set));
                }
            }
        }
        // One look for all of them; it counts for what is sent in the next seconds.
        let sets = self.without_anothers_of(sets, scope);
        let looked = self.shared.clock.now();
        let mut zones: Vec<String> = sets.iter().map(|(w, _)| w.zone.clone()).collect();
        zones.sort_unstable();
        zones.dedup();
        let ends = parallel::map(zones.len(), |z| {
            let of =
                |critical| sets.iter().filter(|(w, _)| w.zone == zones[z] && w.critical == critical).cloned().collect();
            [true, false].map(|critical| self.delete_records(&zones[z], of(critical), looked, scope)).concat()
        });
        let mut left: Vec<String> = ends.into_iter().flatten().collect();
        let goes = |r: &RecordHold| self.config.records.iter().any(|d| d.path == r.key && d.release.contains(&event));
        // What replaces a set that is gone by now is refused.
        let replaces = |r: &RecordHold| r.before.iter().any(|b| sets.iter().any(|(_, s)| s.same_content(b)));
        let unsure: Vec<RecordHold> = self.unsure_follows().into_iter().filter(|r| goes(r) && !replaces(r)).collect();
        let has_none = |r: &&RecordHold| self.shared.names.leave(&r.zone, &r.name, &[&r.key]).is_none();
        left.extend(self.delete_late(unsure.iter().filter(has_none).cloned().collect(), scope));
        // Nor is anything left of a change that was cut off.
        going.iter().map(|w| &w.key).chain(unsure.iter().map(|r| &r.key)).for_each(|key| self.drop_hold(key));
        left.iter().for_each(|what| log::error!("not released: {what}"));
        left
    }

    /// Changes of records that follow which had no answer.
    fn unsure_follows(&self) -> Vec<RecordHold> {
        let of = |h: &Hold| match h {
            Hold::Record(r) if r.follows && r.written == Done::Maybe => Some(r.clone()),
            _ => None,
        };
        lock(&self.ledger).held.iter().filter_map(of).collect()
    }

    /// `looked`: when it was looked last whose they are.
    fn delete_records(
        &self,
        zone: &str,
        mut open: Vec<(Written, RecordSet)>,
        looked: Tick,
        scope: &Scope,
    ) -> Vec<String> {
        let mut left = Vec::new();
        let mut pause = Duration::from_millis(500);
        let mut late = 0;
        for round in 1.. {
            if round > 1 || self.shared.clock.now().since(looked) >= DECIDED {
                open = self.without_anothers_of(open, scope);
            }
            if open.is_empty() {
                break;
            }
            let pieces: Vec<_> = open.iter().map(|(_, set)| vec![Change::delete(set.clone())]).collect();
            self.note_changes(zone, &pieces.concat());
            // Not longer than what was looked at can count.
            let sent = &scope.within(DECIDED);
            let ends = self.shared.zones.submit(&self.shared.aws, zone, pieces, sent);
            let mut again = Vec::new();
            for ((w, set), end) in open.into_iter().zip(ends) {
                match end {
                    Ok(()) => log::info!("{}: {} is deleted", w.key, shown(&set)),
                    // It was not refused: it is looked again whose it is.
                    Err(e) if e.halt().is_some() && scope.check().is_ok() => {
                        late += 1;
                        again.push((w, set));
                    }
                    // Somebody else's by now, or nobody knows: look.
                    Err(e) if matches!(e.class(), Class::Conflict | Class::Ambiguous) => {
                        match self.whose_is(&w, &set, scope) {
                            Ok(Whose::Ours(now)) if round >= TRIES + late => {
                                left.push(stays(&w, &now, &Failure::api("delete it", &e)))
                            }
                            Ok(Whose::Ours(now)) => again.push((w, now)),
                            Ok(Whose::Not(text)) => log::info!("{}: {} {text}", w.key, shown(&set)),
                            Err(f) => left.push(stays(&w, &set, &f)),
                        }
                    }
                    Err(e) => left.push(stays(&w, &set, &Failure::api("delete it", &e))),
                }
            }
            open = again;
            // Where the time is over, the next call says so.
            let _ = open.is_empty() || scope.sleep(pause).is_ok();
            pause *= 2;
        }
        left
    }

    /// Leaves out what another instance has written alike.
    fn without_anothers_of(&self, open: Vec<(Written, RecordSet)>, scope: &Scope) -> Vec<(Written, RecordSet)> {
        let sets: Vec<RecordSet> = open.iter().map(|(_, set)| set.clone()).collect();
        let (ours, why) = self.shared.without_anothers(sets.clone(), &sets, scope);
        why.iter().for_each(|why| log::warn!("a record is left alone: {why}"));
        open.into_iter().filter(|(_, set)| ours.contains(set)).collect()
    }

    /// What is there in place of the record.
    fn whose_is(&self, w: &Written, set: &RecordSet, scope: &Scope) -> Result<Whose, Failure> {
        let now = self.shared.aws.records_at(scope, &w.zone, &w.name);
        let now = now.map_err(|e| Failure::api("look at it", &e))?;
        let is_ours = |s: &RecordSet| s.same_content(set) || self.shared.names.may_have_become(&w.zone, &w.name, s);
        Ok(match now.into_iter().find(|s| s.slot() == set.slot()) {
            Some(there) if is_ours(&there) => Whose::Ours(there),
            Some(_) => Whose::Not("is somebody else's by now and left alone"),
            None => Whose::Not("is gone already"),
        })
    }
}

/// Whose a record is.
enum Whose {
    /// Still ours, as it is now.
    Ours(RecordSet),
    /// It is not: why.
    Not(&'static str),
}

/// `a.example.com. A 203.0.113.1`.
fn shown(set: &RecordSet) -> String {
    format!("{} {} {}", set.name, set.kind, set.values.join(" "))
}

fn stays(w: &Written, set: &RecordSet, why: &Failure) -> String {
    format!("{} in hosted zone {} stays: {why}", shown(set), w.zone)
}

//! `release` of records: deleted while the instance still lives, so that nobody is sent to a server that is gone.
//!
//! Only by exact DELETEs of what the directive wrote: what somebody else has written there meanwhile (a successor, a
//! person) is refused by Route 53 itself, and left alone.

use std::time::Duration;

use serde_json::json;

use super::hold::RecordHold;
use super::{DomainRun, Failure, lock};
use crate::aws::Class;
use crate::aws::route53::{Change, RecordSet};
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
    /// What the plan wants stands at the name: from here on it can be released.
    pub(super) fn stands(&self, d: &RecordDirective, plan: &Plan) {
        if plan.wanted.is_empty() {
            return;
        }
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

    /// The domain stands, and with it its records.
    pub(crate) fn keep_records(&self) {
        let names = self.record_names();
        let mut kept = lock(&self.shared.kept_records);
        kept.extend(names.into_iter().map(|(zone, name)| (zone, name, self.config.name.clone())));
    }

    /// Another domain that stands and has this record too.
    pub(super) fn other_domain_with(&self, zone: &str, name: &str) -> Option<String> {
        let kept = lock(&self.shared.kept_records);
        kept.iter().find(|(z, n, d)| z == zone && n == name && *d != self.config.name).map(|(.., d)| d.clone())
    }

    /// Deletes the records that `event` releases: of each zone the critical ones in one request, then the others in one, so
    /// that nothing of the others keeps those up. What could not be deleted, in words.
    pub(crate) fn release_records(&self, event: Event, scope: &Scope) -> Vec<String> {
        let goes = |w: &Written| self.config.records.iter().any(|d| d.path == w.key && d.release.contains(&event));
        let (mut going, staying): (Vec<Written>, Vec<Written>) =
            std::mem::take(&mut *lock(&self.written)).into_iter().partition(goes);
        lock(&self.written).clone_from(&staying);
        let mut sets: Vec<(Written, RecordSet)> = Vec::new();
        // A record of two directives counts as critical if one of them is.
        going.sort_by_key(|w| !w.critical);
        for w in going {
            if let Some(other) = staying.iter().find(|s| s.is_at(&w)) {
                log::info!("{}: {} stays: {} has it too", w.key, w.name, other.key);
                continue;
            }
            // From here on this domain needs it no more; the last one that has it deletes it.
            lock(&self.shared.kept_records).remove(&(w.zone.clone(), w.name.clone(), self.config.name.clone()));
            if let Some(other) = self.other_domain_with(&w.zone, &w.name) {
                log::info!("{}: {} stays: domain {other} has it too", w.key, w.name);
                continue;
            }
            for set in &w.sets {
                if !sets.iter().any(|(o, s)| o.is_at(&w) && s.same_content(set)) {
                    sets.push((w.clone(), set.clone()));
                }
            }
        }
        let mut zones: Vec<String> = sets.iter().map(|(w, _)| w.zone.clone()).collect();
        zones.sort_unstable();
        zones.dedup();
        let ends = parallel::map(zones.len(), |z| {
            let of = |critical| sets.iter().filter(|(w, _)| w.zone == zones[z] && w.critical == critical).collect();
            [true, false].map(|critical| self.delete_records(&zones[z], of(critical), scope)).concat()
        });
        let left: Vec<String> = ends.into_iter().flatten().collect();
        left.iter().for_each(|what| log::error!("not released: {what}"));
        left
    }

    fn delete_records(&self, zone: &str, mut open: Vec<&(Written, RecordSet)>, scope: &Scope) -> Vec<String> {
        let mut left = Vec::new();
        let mut pause = Duration::from_millis(500);
        for round in 1..=TRIES {
            if open.is_empty() {
                break;
            }
            let pieces: Vec<_> = open.iter().map(|(_, set)| vec![Change::delete(set.clone())]).collect();
            let changes: Vec<_> = pieces.iter().flatten().map(Change::to_json).collect();
            self.note_call(
                "change_resource_record_sets",
                json!({ "HostedZoneId": zone, "ChangeBatch": { "Changes": changes } }),
            );
            let ends = self.shared.zones.submit(&self.shared.aws, zone, pieces, scope);
            let mut again = Vec::new();
            for (one @ (w, set), end) in open.into_iter().zip(ends) {
                match end {
                    Ok(()) => log::info!("{}: {} is deleted", w.key, shown(set)),
                    // Somebody else's by now, or nobody knows: look.
                    Err(e) if matches!(e.class(), Class::Conflict | Class::Ambiguous) => {
                        match self.whose_is(w, set, scope) {
                            Ok(None) if round == TRIES => left.push(stays(w, set, &Failure::api("delete it", &e))),
                            Ok(None) => again.push(one),
                            Ok(Some(whose)) => log::info!("{}: {} {whose}", w.key, shown(set)),
                            Err(f) => left.push(stays(w, set, &f)),
                        }
                    }
                    Err(e) => left.push(stays(w, set, &Failure::api("delete it", &e))),
                }
            }
            open = again;
            // Where the time is over, the next call says so.
            let _ = open.is_empty() || scope.sleep(pause).is_ok();
            pause *= 2;
        }
        left
    }

    /// What is there in place of the record; `None`: it is still ours.
    fn whose_is(&self, w: &Written, set: &RecordSet, scope: &Scope) -> Result<Option<&'static str>, Failure> {
        let now = self.shared.aws.list_record_sets(scope, &w.zone, &w.name);
        let now = now.map_err(|e| Failure::api("look at it", &e))?;
        Ok(match now.iter().find(|s| s.slot() == set.slot()) {
            Some(there) if there.same_content(set) => None,
            Some(_) => Some("is somebody else's by now and left alone"),
            None => Some("is gone already"),
        })
    }
}

/// `a.example.com. A 203.0.113.1`.
fn shown(set: &RecordSet) -> String {
    format!("{} {} {}", set.name, set.kind, set.values.join(" "))
}

fn stays(w: &Written, set: &RecordSet, why: &Failure) -> String {
    format!("{} in hosted zone {} stays: {why}", shown(set), w.zone)
}

//! The names that directives of this process have: who has which, what was written there last, and what undoes it.
//!
//! Several directives, also of different domains, may have one name, with the same record or with another TTL. What they
//! share goes with the last one that really has it: one that failed keeps nothing.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::hold::{Done, RecordHold};
use super::lock;
use crate::aws::route53::RecordSet;
use crate::clock::Tick;
use crate::plan::follow::all_there;
use crate::plan::records::{Now, compare};

/// All of them, by zone and name.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<BTreeMap<(String, String), Name>>);

#[derive(Debug, Default)]
struct Name {
    /// The directives that have it, with their domains.
    users: BTreeMap<String, String>,
    /// What is written by this process or found as it should be, each set as it was last.
    now: Vec<RecordSet>,
    /// What directives have written here, or are about to, and what undoes it.
    writes: Vec<Write>,
    /// What was deleted for other domains that had it.
    gone: Vec<RecordSet>,
    /// What a change of `now` that was not answered may have made of it.
    maybe: Vec<RecordSet>,
}

#[derive(Debug)]
struct Write {
    domain: String,
    hold: RecordHold,
    /// Its directive has given it up, and left it to the others.
    left: bool,
}

impl Names {
    fn at<T>(&self, zone: &str, name: &str, f: impl FnOnce(&mut Name) -> T) -> T {
        f(lock(&self.0).entry((zone.to_owned(), name.to_owned())).or_default())
    }

    /// A directive is about to write.
    pub(super) fn intend(&self, domain: &str, hold: &RecordHold) {
        self.at(&hold.zone, &hold.name, |n| {
            n.writes.retain(|w| w.hold.key != hold.key);
            n.writes.push(Write { domain: domain.to_owned(), hold: hold.clone(), left: false });
        });
    }

    /// A directive has what it wants: `sets`.
    pub(super) fn have(&self, domain: &str, path: &str, zone: &str, name: &str, sets: &[RecordSet]) {
        self.at(zone, name, |n| {
            n.users.insert(path.to_owned(), domain.to_owned());
            n.now.retain(|old| !sets.iter().any(|new| new.slot() == old.slot()));
            n.now.extend(sets.iter().cloned());
            n.maybe.retain(|old| !sets.iter().any(|new| new.slot() == old.slot()));
        });
    }

    /// The name is about to have `sets`.
    pub(super) fn maybe(&self, zone: &str, name: &str, sets: &[RecordSet]) {
        self.at(zone, name, |n| n.maybe = sets.to_vec());
    }

    /// Whether a change that was not answered has made what is `there`.
    pub(super) fn may_be(&self, zone: &str, name: &str, there: &[RecordSet]) -> bool {
        self.at(zone, name, |n| !n.maybe.is_empty() && all_there(&n.maybe, there))
    }

    /// Whether what is there in the place of a set may be what a change that was not answered made of it.
    pub(super) fn may_have_become(&self, zone: &str, name: &str, there: &RecordSet) -> bool {
        self.at(zone, name, |n| n.maybe.iter().any(|m| m.same_content(there)))
    }

    /// These sets are not there any more.
    pub(super) fn gone(&self, zone: &str, name: &str, sets: &[RecordSet]) {
        self.at(zone, name, |n| {
            n.now.retain(|now| !sets.iter().any(|s| s.same_content(now)));
            n.gone.extend(sets.iter().cloned());
        });
    }

    /// The records that lead to an address for other domains than this one, each with its zone and such a domain.
    pub(super) fn leading_to(&self, ip: &str, domain: &str) -> Vec<(String, RecordSet, String)> {
        let all = lock(&self.0);
        let of = |((zone, _), n): (&(String, String), &Name)| {
            let other = n.users.values().find(|user| *user != domain)?;
            let set = n.now.iter().find(|s| s.kind == "A" && s.values.iter().any(|v| v == ip))?;
            Some((zone.clone(), set.clone(), other.clone()))
        };
        all.iter().filter_map(of).collect()
    }

    /// What of `sets` this process has put in their places since.
    pub(super) fn now(&self, zone: &str, name: &str, sets: &[RecordSet]) -> Vec<RecordSet> {
        self.at(zone, name, |n| {
            let newest = |s: &RecordSet| match n.now.iter().find(|now| now.slot() == s.slot()) {
                Some(now) => Some(now.clone()),
                None => Some(s.clone()).filter(|s| !n.gone.iter().any(|g| g.same_content(s))),
            };
            sets.iter().filter_map(newest).collect()
        })
    }

    /// The write of this process, if there is one, that made what is there at the name: `there`.
    pub(super) fn written(&self, zone: &str, name: &str, there: &[RecordSet]) -> Option<RecordHold> {
        let is_it = |h: &&RecordHold| compare(there, &h.ours, &h.all_before()) == Now::Ours;
        self.at(zone, name, |n| n.writes.iter().rev().map(|w| &w.hold).find(is_it).cloned())
    }

    /// These directives have the name no more. One that has it still or is about to have it, if any: its domain and path.
    pub(super) fn leave(&self, zone: &str, name: &str, paths: &[&str]) -> Option<(String, String)> {
        self.at(zone, name, |n| {
            n.users.retain(|path, _| !paths.contains(&path.as_str()));
            n.writes.iter_mut().filter(|w| paths.contains(&w.hold.key.as_str())).for_each(|w| w.left = true);
            let others = n.users.iter().map(|(path, domain)| (domain, path));
            let to_come = n.writes.iter().filter(|w| !w.left).map(|w| (&w.domain, &w.hold.key));
            others.chain(to_come).next().map(|(domain, path)| (domain.clone(), path.clone()))
        })
    }

    /// What a directive was to write was refused.
    pub(super) fn forget(&self, zone: &str, name: &str, path: &str) {
        self.at(zone, name, |n| n.writes.retain(|w| w.hold.key != path));
    }

    /// All that was written at the name of `hold`, in one: what the last one that had it undoes.
    pub(super) fn all_writes(&self, hold: &RecordHold, now: Tick) -> RecordHold {
        let mut all = hold.seen_at(now);
        let writes = self.at(&hold.zone, &hold.name, |n| std::mem::take(&mut n.writes));
        for other in writes.iter().filter(|w| w.hold.key != hold.key).map(|w| w.hold.seen_at(now)) {
            for set in &other.ours {
                if !all.ours.iter().any(|o| o.same_content(set)) {
                    all.ours.push(set.clone());
                    // Which of them stands is to be looked at.
                    all.written = Done::Maybe;
                }
            }
            let news = |known: &[RecordSet], of: &[RecordSet]| {
                let new = |s: &&RecordSet| !known.iter().any(|k| k.slot() == s.slot());
                of.iter().filter(new).cloned().collect::<Vec<_>>()
            };
            let known = all.all_before();
            all.before.extend(news(&known, &other.before));
            all.earlier.extend(news(&known, &other.earlier));
        }
        all
    }
}

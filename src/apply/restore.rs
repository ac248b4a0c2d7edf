//! Records in a roll-back: put back as they were, as far as they still are what was written here.
//!
//! What was there before this run wrote over it comes back. What was there before an *earlier* run wrote over it comes back
//! only if it can still be right: whoever had the name then may be gone by now, and a name that leads to a dead address
//! may lead to a stranger.

use std::time::Duration;

use super::hold::{Done, RecordHold};
use super::{DomainRun, Failure};
use crate::aws::Class;
use crate::aws::route53::RecordSet;
use crate::plan::records::{Now, compare, still_right, undo_of};
use crate::scope::Scope;

/// How often an exact DELETE that was refused is tried again when a look says that the record is still ours.
const TRIES: u32 = 4;
/// How long a call is tried before it is looked again whether the record is still ours.
pub(super) const DECIDED: Duration = Duration::from_secs(5);
/// How often it is looked whether a write that was given up is carried out late.
const LATE_LOOKS: u32 = 5;

impl DomainRun {
    /// Undoes what was written at a name, unless another directive has it too.
    pub(super) fn restore_record(&self, r: &RecordHold, scope: &Scope) -> Result<(), String> {
        if r.follows {
            // It was committed: whichever of its addresses stands, stays.
            return Ok(());
        }
        let what = format!("{} in hosted zone {}", r.name, r.zone);
        if let Some((domain, path)) = self.shared.names.leave(&r.zone, &r.name, &[&r.key]) {
            let other = if domain == self.config.name { path } else { format!("domain {domain}") };
            log::info!("{what} stays: {other} has it too");
            return Ok(());
        }
        let r = &self.shared.names.all_writes(r);
        let own = if r.earlier.is_empty() { Vec::new() } else { self.shared.own_addresses(scope) };
        let (mut before, lost) = still_right(&r.earlier, &own);
        before.extend(r.before.iter().cloned());
        let failed = |why: &dyn std::fmt::Display| {
            let was = if before.is_empty() { "removed".to_owned() } else { describe(&before) };
            format!("{what}: {why} (it should be {was} again)")
        };
        // An unconfirmed write is looked at first, and for a while: it may be carried out after it was given up.
        let mut late = if r.written == Done::Maybe { LATE_LOOKS } else { 0 };
        let mut look = r.written != Done::Yes;
        let mut pause = Duration::from_millis(500);
        let mut tries = 0;
        while tries < TRIES {
            let now = match look {
                false => r.ours.clone(),
                true => {
                    let now = self.shared.aws.records_at(scope, &r.zone, &r.name);
                    now.map_err(|e| failed(&format!("cannot look at it: {e}")))?
                }
            };
            let (now, anothers) = self.shared.without_anothers(now, &r.ours, scope);
            let changes = undo_of(&now, &r.ours, &before);
            if changes.is_empty() {
                if late > 0 && scope.sleep(pause).is_ok() {
                    late -= 1;
                    pause *= 2;
                    continue;
                }
                match compare(&now, &r.ours, &before) {
                    _ if !anothers.is_empty() => log::warn!("{what} is left alone: {}", anothers.join(", ")),
                    Now::Before => log::info!("{what} is as it was"),
                    Now::Ours | Now::Foreign => log::warn!("{what} is somebody else's by now and left alone"),
                }
                return Ok(());
            }
            late = 0;
            tries += 1;
            self.note_changes(&r.zone, &changes);
            // Not longer than what was looked at can count.
            let sent = &scope.within(DECIDED);
            match self.shared.zones.submit(&self.shared.aws, &r.zone, vec![changes], sent).pop() {
                Some(Ok(())) => {
                    let foreign = anothers_kinds(&now, r, &before);
                    if !foreign.is_empty() {
                        log::warn!("{what} is somebody else's by now and left alone: {}", foreign.join(", "));
                    }
                    match lost.is_empty() {
                        true => log::info!("{what} put back"),
                        false => log::warn!(
                            "{what} removed; what was there before an earlier run wrote it is not put back, for it may \
                             be dead by now: {}",
                            describe(&lost)
                        ),
                    }
                    return Ok(());
                }
                Some(Err(e)) if matches!(e.class(), Class::Conflict | Class::Ambiguous) => {
                    log::info!("{what}: looking again: {e}");
                    look = true;
                }
                Some(Err(e)) if e.halt().is_some() && scope.check().is_ok() => {
                    // It was not refused.
                    tries -= 1;
                    look = true;
                    continue;
                }
                Some(Err(e)) => return Err(failed(&Failure::api("put it back", &e))),
                None => return Err(failed(&"it was not sent")),
            }
            scope.sleep(pause).map_err(|h| failed(&h))?;
            pause *= 2;
        }
        Err(failed(&"it changes again and again"))
    }
}

/// The kinds in whose places something else stands by now.
fn anothers_kinds(now: &[RecordSet], r: &RecordHold, before: &[RecordSet]) -> Vec<String> {
    let known = |n: &RecordSet| r.ours.iter().chain(before).any(|k| k.same_content(n));
    let in_place = |n: &&RecordSet| r.ours.iter().any(|o| o.slot() == n.slot());
    now.iter().filter(in_place).filter(|n| !known(n)).map(|n| n.kind.clone()).collect()
}

fn describe(sets: &[RecordSet]) -> String {
    let alias = |s: &RecordSet| format!("{} (an alias)", s.kind);
    let plain = |s: &RecordSet, ttl: i64| format!("{} {} (ttl {ttl})", s.kind, s.values.join(" "));
    sets.iter().map(|s| s.ttl.map_or_else(|| alias(s), |ttl| plain(s, ttl))).collect::<Vec<_>>().join(", ")
}

//! Records in a roll-back: put back as they were, as far as they still are what was written here.
//!
//! What was there when this run wrote over it comes back. What was there long ago (before an *earlier* run wrote over it, or
//! some seconds before now) comes back only if it can still be right: whoever had the name then may be gone by now, and a
//! name that leads to a dead address may lead to a stranger.
//!
//! All records of a hosted zone go together, and the zones beside each other. What certainly is ours is undone first. What
//! has to be looked at is looked at together, with one listing for all that it tells of; so is a write without an answer,
//! which may be carried out some seconds after it was given up.

use std::time::Duration;

use super::hold::{Done, Hold, RecordHold};
use super::{DomainRun, Failure};
use crate::aws::Class;
use crate::aws::route53::{RecordSet, listing_order};
use crate::parallel;
use crate::plan::records::{Now, compare, still_right, undo_of};
use crate::scope::Scope;

/// How often an exact DELETE that was refused is tried again when a look says that the record is still ours.
const TRIES: u32 = 4;
/// How long a call is tried before it is looked again whether the record is still ours.
pub(super) const DECIDED: Duration = Duration::from_secs(5);
/// How often it is looked whether a write that was given up is carried out late.
const LATE_LOOKS: u32 = 5;
/// How long to wait between two looks: first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));

/// A record that is being undone.
#[derive(Debug, Clone)]
struct Undo {
    /// All that was written at the name.
    r: RecordHold,
    /// What comes back in its place, and what does not.
    before: Vec<RecordSet>,
    lost: Vec<RecordSet>,
    /// An earlier run wrote over what is lost.
    earlier_run: bool,
    /// It is given up on purpose: nothing comes back.
    released: bool,
    /// It is to be looked at first.
    look: bool,
    /// So often more it is looked for where it is not there.
    late: u32,
    tries: u32,
    /// What was there at the last look, and why somebody else's is left out.
    now: Vec<RecordSet>,
    anothers: Vec<String>,
    end: Option<Result<(), String>>,
}

impl Undo {
    fn what(&self) -> String {
        format!("{} in hosted zone {}", self.r.name, self.r.zone)
    }

    fn fails(&mut self, why: &dyn std::fmt::Display) {
        let was = if self.before.is_empty() { "removed".to_owned() } else { describe(&self.before) };
        self.end = Some(Err(format!("{}: {why} (it should be {was} again)", self.what())));
    }

    /// There is nothing to be undone (any more).
    fn is_over(&mut self) {
        let what = self.what();
        match compare(&self.now, &self.r.ours, &self.before) {
            _ if !self.anothers.is_empty() => log::warn!("{what} is left alone: {}", self.anothers.join(", ")),
            Now::Before => log::info!("{what} is as it was"),
            Now::Ours | Now::Foreign => log::warn!("{what} is somebody else's by now and left alone"),
        }
        self.end = Some(Ok(()));
    }

    fn is_undone(&mut self) {
        let what = self.what();
        let foreign = anothers_kinds(&self.now, &self.r, &self.before);
        if !foreign.is_empty() {
            log::warn!("{what} is somebody else's by now and left alone: {}", foreign.join(", "));
        }
        let when = if self.earlier_run { "an earlier run" } else { "this run" };
        match self.lost.is_empty() {
            true if self.released => log::info!("{what} is deleted"),
            true => log::info!("{what} put back"),
            false => log::warn!(
                "{what} removed; what was there before {when} wrote it is not put back, for it may be dead by now: {}",
                describe(&self.lost)
            ),
        }
        self.end = Some(Ok(()));
    }
}

impl DomainRun {
    /// Undoes what was written at these names, unless another directive has them too. What became of each, in order.
    pub(super) fn restore_records(&self, holds: &[RecordHold], scope: &Scope) -> Vec<Result<(), String>> {
        let mut own: Option<Vec<String>> = None;
        let mut undo = |r: &RecordHold| {
            let what = format!("{} in hosted zone {}", r.name, r.zone);
            let mut done = r.follows.then_some(Ok(()));
            if done.is_none()
                && let Some((domain, path)) = self.shared.names.leave(&r.zone, &r.name, &[&r.key])
            {
                let other = if domain == self.config.name { path } else { format!("domain {domain}") };
                log::info!("{what} stays: {other} has it too");
                done = Some(Ok(()));
            }
            let earlier_run = !r.earlier.is_empty();
            let r = match done {
                // What follows was committed: whichever of its addresses stands, stays.
                Some(_) => r.clone(),
                None => self.shared.names.all_writes(r, self.shared.clock.now()),
            };
            if done.is_none() && !r.earlier.is_empty() && own.is_none() {
                own = Some(self.shared.own_addresses(scope).unwrap_or_default());
            }
            let (mut before, lost) = still_right(&r.earlier, own.as_deref().unwrap_or_default());
            before.extend(r.before.iter().cloned());
            Undo { earlier_run, end: done, ..undo_hold(r, before, lost) }
        };
        let undos = holds.iter().map(&mut undo).collect();
        self.undo_all(undos, scope)
    }

    /// Puts inherited records back, all together: what has to be waited for is waited for once. What could not be, in
    /// words.
    pub(super) fn put_records_back(&self, holds: Vec<Hold>, scope: &Scope) -> Vec<String> {
        // Whatever became of it since: it is looked at. One that was not answered may still be carried out.
        let look = |r: &RecordHold| RecordHold {
            written: if r.written == Done::Maybe { Done::Maybe } else { Done::No },
            ..r.clone()
        };
        let of = |h: &Hold| if let Hold::Record(r) = h { Some(look(r)) } else { None };
        let records: Vec<RecordHold> = holds.iter().filter_map(of).collect();
        let ends = self.restore_records(&records, scope);
        holds.into_iter().zip(ends).filter_map(|(hold, end)| self.was_put_back(hold, end, scope).err()).collect()
    }

    /// Looks for writes that had no answer, for some seconds, and deletes what they have made. What could not be, in words.
    pub(super) fn delete_late(&self, holds: Vec<RecordHold>, scope: &Scope) -> Vec<String> {
        let undo = |r: RecordHold| Undo { released: true, ..undo_hold(r, Vec::new(), Vec::new()) };
        let ends = self.undo_all(holds.into_iter().map(undo).collect(), scope);
        ends.into_iter().filter_map(Result::err).collect()
    }

    fn undo_all(&self, mut all: Vec<Undo>, scope: &Scope) -> Vec<Result<(), String>> {
        let open = all.iter().filter(|u| u.end.is_none());
        let mut zones: Vec<String> = open.map(|u| u.r.zone.clone()).collect();
        zones.sort_unstable();
        zones.dedup();
        // A zone that does not answer takes no time from the others.
        let ends = parallel::map(zones.len(), |z| {
            let open = all.iter().enumerate().filter(|(_, u)| u.end.is_none() && u.r.zone == zones[z]);
            let (places, mut part): (Vec<usize>, Vec<Undo>) = open.map(|(i, u)| (i, u.clone())).unzip();
            self.undo_zone(&zones[z], &mut part, scope);
            places.into_iter().zip(part).collect::<Vec<_>>()
        });
        for (i, undo) in ends.into_iter().flatten() {
            all[i] = undo;
        }
        all.into_iter().map(|u| u.end.unwrap_or(Ok(()))).collect()
    }

    fn undo_zone(&self, zone: &str, all: &mut [Undo], scope: &Scope) {
        let mut pause = PAUSE.0;
        loop {
            let (looks, certain): (Vec<usize>, Vec<usize>) =
                (0..all.len()).filter(|i| all[*i].end.is_none()).partition(|i| all[*i].look);
            if looks.is_empty() && certain.is_empty() {
                return;
            }
            for part in [certain, looks] {
                let mut of: Vec<&mut Undo> =
                    all.iter_mut().enumerate().filter(|(i, _)| part.contains(i)).map(|(_, u)| u).collect();
                if of.first().is_some_and(|u| u.look) {
                    self.look_at(zone, &mut of, scope);
                } else {
                    of.iter_mut().for_each(|u| u.now.clone_from(&u.r.ours));
                }
                of.retain(|u| u.end.is_none());
                self.undo_part(zone, of, scope);
            }
            let mut open = all.iter_mut().filter(|u| u.end.is_none()).peekable();
            if open.peek().is_some()
                && let Err(halt) = scope.sleep(pause)
            {
                // What is looked for still was not there at the last look.
                let is_there = |u: &Undo| !undo_of(&u.now, &u.r.ours, &u.before).is_empty();
                open.for_each(|u| if is_there(u) { u.fails(&halt) } else { u.is_over() });
                return;
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Reads what is at the names of these.
    fn look_at(&self, zone: &str, of: &mut [&mut Undo], scope: &Scope) {
        let mut names: Vec<&str> = of.iter().map(|u| u.r.name.as_str()).collect();
        names.sort_by_cached_key(|name| listing_order(name));
        names.dedup();
        let names: Vec<(&str, &str)> = names.into_iter().map(|name| (zone, name)).collect();
        let mut read: std::collections::BTreeMap<String, _> =
            self.read_part(&names, scope).into_iter().map(|(_, name, read)| (name, read)).collect();
        for u in of {
            match read.get_mut(&u.r.name) {
                Some(Ok(read)) => u.now.clone_from(&read.sets),
                Some(Err(f)) => u.fails(&format!("cannot look at it: {f}")),
                None => u.fails(&"it was not read"),
            }
        }
    }

    /// Undoes what of these is there.
    fn undo_part(&self, zone: &str, of: Vec<&mut Undo>, scope: &Scope) {
        let ours = |u: &&mut Undo| {
            let in_ours = |n: &&RecordSet| u.r.ours.iter().any(|o| o.same_content(n));
            u.now.iter().filter(in_ours).cloned().collect::<Vec<_>>()
        };
        let there: Vec<RecordSet> = of.iter().flat_map(ours).collect();
        let anothers = self.shared.anothers(&there.iter().collect::<Vec<_>>(), scope);
        let (mut sent, mut pieces) = (Vec::new(), Vec::new());
        for u in of {
            let of_this = anothers.iter().filter(|(set, _)| u.now.contains(set));
            u.anothers = of_this.map(|(_, why)| why.clone()).collect();
            u.now.retain(|n| !anothers.iter().any(|(set, _)| set == n));
            let changes = undo_of(&u.now, &u.r.ours, &u.before);
            if changes.is_empty() {
                match u.late {
                    0 => u.is_over(),
                    _ => u.late -= 1,
                }
                continue;
            }
            u.late = 0;
            u.tries += 1;
            self.note_changes(zone, &changes);
            pieces.push(changes);
            sent.push(u);
        }
        // Not longer than what was looked at can count.
        let ends = self.shared.zones.submit(&self.shared.aws, zone, pieces, &scope.within(DECIDED));
        for (u, end) in sent.into_iter().zip(ends) {
            match end {
                Ok(()) => u.is_undone(),
                Err(e) if matches!(e.class(), Class::Conflict | Class::Ambiguous) => {
                    log::info!("{}: looking again: {e}", u.what());
                    u.look = true;
                    if u.tries >= TRIES {
                        u.fails(&"it changes again and again");
                    }
                }
                Err(e) if e.halt().is_some() && scope.check().is_ok() => {
                    // It was not refused.
                    u.tries -= 1;
                    u.look = true;
                }
                Err(e) => u.fails(&Failure::api("put it back", &e)),
            }
        }
    }
}

/// An undo that is to begin: an unconfirmed write is looked at first, and for a while: it may be carried out after it was
/// given up.
fn undo_hold(r: RecordHold, before: Vec<RecordSet>, lost: Vec<RecordSet>) -> Undo {
    Undo {
        look: r.written != Done::Yes,
        late: if r.written == Done::Maybe { LATE_LOOKS } else { 0 },
        r,
        before,
        lost,
        earlier_run: false,
        released: false,
        tries: 0,
        now: Vec::new(),
        anothers: Vec::new(),
        end: None,
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

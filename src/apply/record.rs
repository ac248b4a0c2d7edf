//! The `update-route53` directives of a domain: read ahead, write when the volumes stand.
//!
//! A write says what it replaces: an exact DELETE of what was read and a CREATE, in one batch. So nothing that somebody has
//! written since is written over unseen, however long the call was throttled or waited its turn: Route 53 refuses it, and
//! it is looked at and planned anew. Only its own set of a fleet's name, which nobody else writes, is an UPSERT.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::hold::{Done, Hold, RecordHold};
use super::record_read::{Read, STALE};
use super::{DomainRun, Failure};
use crate::aws::route53::RecordSet;
use crate::aws::{ApiError, Class};
use crate::config::{RecordDirective, RecordPolicy};
use crate::model::Facts;
use crate::parallel;
use crate::plan::members;
use crate::plan::records::{self, Now, Plan, Refusal, compare};
use crate::scope::{Halt, Scope};

/// How often a write that is refused is planned anew, because others come between.
const TRIES: usize = 4;
/// How long to wait before that, about, and the most where nobody knows what came of it.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// How long an address that was not there may be asked for again: there may well be none.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// How often it is asked for where it is waited for.
const LOOK: Duration = Duration::from_secs(1);

/// A directive whose record is to be written, with what is there.
struct Open<'d> {
    /// Its place among the results.
    index: usize,
    d: &'d RecordDirective,
    read: Result<Read, Failure>,
    /// What became of the write before this one.
    last: Option<(Plan, ApiError)>,
}

impl DomainRun {
    /// Writes the records of `wanted` (directives with what was read of them). One result per directive, in order.
    pub(super) fn write_records(
        &self,
        wanted: Vec<(&RecordDirective, Result<Read, Failure>)>,
        scope: &Scope,
    ) -> Vec<Result<(), Failure>> {
        if let Err(f) = self.shared.addresses_have_come(scope) {
            return wanted.iter().map(|_| Err(f.clone())).collect();
        }
        let facts = self.public_addresses(&wanted, scope);
        let wanted = self.refreshed(wanted, scope);
        let mut results: Vec<Option<Result<(), Failure>>> = wanted.iter().map(|_| None).collect();
        let open = |(index, (d, read))| Open { index, d, read, last: None };
        let mut all: Vec<Open<'_>> = wanted.into_iter().enumerate().map(open).collect();
        // The same record asked for twice is written once, and what comes of it counts for both.
        let mut twins: Vec<(usize, usize, &RecordDirective, Plan)> = Vec::new();
        // Directives of which a try has no answer: it may be carried out late.
        let mut unsure: BTreeSet<usize> = BTreeSet::new();
        let mut pause = PAUSE;
        for round in 0.. {
            let mut plans: Vec<(usize, &RecordDirective, Plan)> = Vec::new();
            for Open { index, d, read, last } in std::mem::take(&mut all) {
                let plan = match self.plan_again(d, read, last.as_ref(), &facts, scope) {
                    Ok(plan) if plan.changes.is_empty() => {
                        results[index] = Some(Ok(()));
                        continue;
                    }
                    Ok(plan) => plan,
                    Err(f) => {
                        results[index] = Some(Err(f));
                        continue;
                    }
                };
                let same = |(_, o, p): &&(usize, &RecordDirective, Plan)| {
                    o.hosted_zone == d.hosted_zone && p.changes == plan.changes
                };
                match plans.iter().find(same).map(|(first, ..)| *first) {
                    Some(first) => {
                        log::info!("{}: {} is asked for twice", d.path, plan.name);
                        twins.push((index, first, d, plan));
                    }
                    None => plans.push((index, d, plan)),
                }
            }
            for (index, d, plan, end) in self.send(plans, scope) {
                let Err(e) = end else {
                    results[index] = Some(Ok(()));
                    continue;
                };
                // What one try may have done, no later one takes back.
                if e.unsure || e.class() == Class::Ambiguous {
                    unsure.insert(index);
                }
                let e = ApiError { unsure: unsure.contains(&index), ..e };
                let again = match e.class() {
                    Class::Ambiguous => true,
                    Class::Conflict => round < TRIES,
                    _ => false,
                };
                if again {
                    log::info!("{}: looking again: {e}", d.path);
                    let read = Err(Failure::new("it was not read"));
                    all.push(Open { index, d, read, last: Some((plan, e)) });
                } else {
                    results[index] = Some(Err(self.not_written(d, &plan, &e)));
                }
            }
            if all.is_empty() {
                break;
            }
            // Others of a fleet do the same.
            let jitter = pause.mul_f64(0.5 + crate::random::fraction());
            if let Err(halt) = scope.sleep(jitter) {
                for Open { index, d, last, .. } in all {
                    let Some((plan, e)) = last else { continue };
                    results[index] = Some(Err(self.not_in_time(d, &plan, &e, halt)));
                }
                break;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            let directives: Vec<&RecordDirective> = all.iter().map(|o| o.d).collect();
            for (o, read) in all.iter_mut().zip(self.read_records(&directives, scope)) {
                o.read = read;
            }
        }
        for (twin, first, d, plan) in twins {
            results[twin] = results[first].clone();
            if let Some(Ok(())) = &results[twin] {
                self.stands(d, &plan);
            }
        }
        results.into_iter().map(|r| r.unwrap_or_else(|| Err(Failure::new("the record was not written")))).collect()
    }

    /// Sends the plans, one submission a zone, beside each other. What became of each.
    fn send<'d>(
        &self,
        plans: Vec<(usize, &'d RecordDirective, Plan)>,
        scope: &Scope,
    ) -> Vec<(usize, &'d RecordDirective, Plan, Result<(), ApiError>)> {
        plans.iter().for_each(|(_, d, plan)| self.intend(d, plan));
        let mut zones: Vec<&str> = plans.iter().map(|(_, d, _)| d.hosted_zone.as_str()).collect();
        zones.sort_unstable();
        zones.dedup();
        let outcomes = parallel::map(zones.len(), |z| {
            let of: Vec<_> = plans.iter().filter(|(_, d, _)| d.hosted_zone == zones[z]).collect();
            let pieces = of.iter().map(|(_, _, p)| p.changes.clone()).collect();
            let ends = self.shared.zones.submit(&self.shared.aws, zones[z], pieces, scope);
            // At once: another zone may take its time.
            let written = of.iter().zip(&ends).filter(|(_, end)| end.is_ok());
            written.for_each(|((_, d, plan), _)| self.has_written(d, plan));
            of.iter().map(|(i, ..)| *i).zip(ends).collect::<Vec<_>>()
        })
        .concat();
        let mut sent = Vec::new();
        for (index, d, plan) in plans {
            let Some((_, end)) = outcomes.iter().find(|(i, _)| *i == index) else { continue };
            sent.push((index, d, plan, end.clone()));
        }
        sent
    }

    /// Notes what is about to be written: in the log of calls and in the journal.
    fn intend(&self, d: &RecordDirective, plan: &Plan) {
        self.note_changes(&d.hosted_zone, &plan.changes);
        let hold = self.hold_of(d, plan);
        self.shared.names.intend(&self.config.name, &hold);
        // In place of that of an earlier try. What is inherited of the record counts until it is written over.
        self.ledger(|l| {
            l.held.retain(|h| h.key() != d.path);
            l.held.push(Hold::Record(hold));
        });
    }

    /// What undoes a plan that is about to be carried out, or is now.
    fn hold_of(&self, d: &RecordDirective, plan: &Plan) -> RecordHold {
        RecordHold {
            key: d.path.clone(),
            zone: d.hosted_zone.clone(),
            name: plan.name.clone(),
            ours: plan.ours.clone(),
            before: plan.before.clone(),
            earlier: plan.earlier.clone(),
            follows: false,
            written: Done::Maybe,
            at: Some(self.shared.clock.now()),
        }
    }

    /// Notes a call that changes records.
    pub(super) fn note_changes(&self, zone: &str, changes: &[crate::aws::route53::Change]) {
        let changes: Vec<_> = changes.iter().map(|c| c.to_json()).collect();
        let param = json!({ "HostedZoneId": zone, "ChangeBatch": { "Changes": changes } });
        self.note_call("change_resource_record_sets", param);
    }

    fn has_written(&self, d: &RecordDirective, plan: &Plan) {
        let hold = RecordHold { written: Done::Yes, ..self.hold_of(d, plan) };
        self.with_record(&d.path, |h| (h.written, h.at) = (Done::Yes, hold.at));
        self.shared.names.intend(&self.config.name, &hold);
        self.forget_inherited_record(&d.hosted_zone, &plan.name);
        self.stands(d, plan);
        log::info!("{}: {}", d.path, plan.summary());
    }

    /// The end of a write that failed; where nobody knows what came of it, the roll-back looks.
    fn not_written(&self, d: &RecordDirective, plan: &Plan, e: &ApiError) -> Failure {
        if was_not_written(plan, e) {
            self.drop_record(d, plan);
        }
        Failure::api(&format!("write {} in hosted zone {}", plan.name, d.hosted_zone), e)
    }

    /// The same, where the time is over before another try.
    fn not_in_time(&self, d: &RecordDirective, plan: &Plan, e: &ApiError, halt: Halt) -> Failure {
        self.not_written(d, plan, e);
        let what = format!("cannot write {} in hosted zone {}: {halt}; last answer: {e}", plan.name, d.hosted_zone);
        Failure { text: what, halt: Some(halt) }
    }

    fn drop_record(&self, d: &RecordDirective, plan: &Plan) {
        self.shared.names.forget(&d.hosted_zone, &plan.name, &d.path);
        self.drop_hold(&d.path);
    }

    /// What is to be written now; with what became of the `last` try, if there was one.
    fn plan_again(
        &self,
        d: &RecordDirective,
        read: Result<Read, Failure>,
        last: Option<&(Plan, ApiError)>,
        facts: &Facts,
        scope: &Scope,
    ) -> Result<Plan, Failure> {
        let Some((old, e)) = last else { return self.plan_record(d, read?, facts, scope) };
        let read = match read {
            Ok(read) => read,
            Err(f) => {
                // What the write came to tells more.
                return Err(match f.halt {
                    Some(halt) => self.not_in_time(d, old, e, halt),
                    None => self.not_written(d, old, e),
                });
            }
        };
        if compare(&read.sets, &old.ours, &[old.before.as_slice(), &old.earlier].concat()) == Now::Ours {
            self.has_written(d, old);
            return Ok(Plan { changes: Vec::new(), ..old.clone() });
        }
        let refused = e.class() == Class::Conflict && !e.unsure;
        if refused {
            self.drop_record(d, old);
        }
        let plan = self.plan_record(d, read, facts, scope)?;
        // Nobody came between: it is refused for what it is.
        let for_itself = refused && plan.changes == old.changes && d.policy == RecordPolicy::Simple;
        if for_itself { Err(self.not_written(d, old, e)) } else { Ok(plan) }
    }

    /// What is to be written at `name`, where `sets` are there.
    pub(super) fn plan_sets(
        &self,
        d: &RecordDirective,
        sets: &[RecordSet],
        name: &str,
        ttl: i64,
        facts: &Facts,
    ) -> Result<Plan, Refusal> {
        let (ipv4, ipv6, id) = (&facts.primary_ipv4, &facts.primary_ipv6, &self.shared.facts().instance_id);
        match d.policy {
            RecordPolicy::Simple => records::plan(sets, name, ttl, ipv4, ipv6),
            RecordPolicy::Multivalue => members::plan(sets, name, ttl, ipv4, ipv6, id),
        }
    }

    fn plan_record(&self, d: &RecordDirective, mut read: Read, facts: &Facts, scope: &Scope) -> Result<Plan, Failure> {
        let mut planned = self.plan_sets(d, &read.sets, &read.name, d.ttl, facts);
        // A dead member in place of this one: the sweep cannot wait.
        if matches!(planned, Err(Refusal::Full { .. })) && self.sweep_now(d, &read.name, &read.sets, scope) {
            read = self.read_record(d, scope)?;
            planned = self.plan_sets(d, &read.sets, &read.name, d.ttl, facts);
        }
        let mut plan = planned.map_err(|e| Failure::new(e.to_string()))?;
        self.shares(d, &read.name, &read.sets);
        for warning in &plan.warnings {
            log::warn!("{}: {warning}", d.path);
        }
        if facts.primary_ipv4.is_empty() && facts.primary_ipv6.is_empty() {
            let later = if d.follow && self.shared.follows { "; it is written when there is one" } else { "" };
            log::warn!("{}: this instance has no public address: nothing to do for {}{later}", d.path, read.name);
            self.has_no_address(d);
            return Ok(plan);
        }
        if let Some(name) = self.no_name(d) {
            return Err(Failure::new(format!(
                "cannot make the name of the record: {{{name}}} is empty, for this instance has none"
            )));
        }
        // What another directive of this process, or an earlier run, has written there.
        let written = self.shared.names.written(&d.hosted_zone, &read.name, &read.sets);
        let known = written.or_else(|| self.inherited_record(&d.hosted_zone, &read.name, &read.sets));
        let known = known.map(|r| r.seen_at(self.shared.clock.now()));
        // An address that this instance had and has no more is not put back.
        let gone = self.was_following(&d.hosted_zone, &read.name);
        let (gone, before) = plan.before.into_iter().partition(|b| gone.iter().any(|g| g.same_content(b)));
        plan = Plan { before, earlier: gone, ..plan };
        if let Some(r) = &known {
            plan = plan.after(&r.ours, &r.before, &r.earlier);
        }
        if plan.changes.is_empty() {
            log::info!("{}: {} is as it should be", d.path, read.name);
            let held = known.map(|r| RecordHold { key: d.path.clone(), written: Done::Yes, ..r });
            self.shared.names.forget(&d.hosted_zone, &read.name, &d.path);
            held.iter().for_each(|h| self.shared.names.intend(&self.config.name, h));
            self.take_up_record(d, &read.name, held);
            self.stands(d, &plan);
        }
        Ok(plan)
    }

    /// The facts; an address that was not there at first (an elastic one is associated late) is asked for again, as long as
    /// a directive waits for one.
    fn public_addresses(&self, wanted: &[(&RecordDirective, Result<Read, Failure>)], scope: &Scope) -> Arc<Facts> {
        // Held while it is asked for: the other records and domains want the same answer.
        let mut asked = super::lock(&self.shared.asked_again);
        let facts = self.shared.facts();
        let now = self.shared.clock.now();
        if !facts.primary_ipv4.is_empty() {
            return facts;
        }
        if asked.is_none_or(|at| now.since(at) >= STALE) {
            *asked = Some(now);
            self.ask_for_addresses(scope);
        }
        drop(asked);
        let Some((d, wait)) = wanted.iter().filter_map(|(d, _)| Some((d, d.wait?))).max_by_key(|(_, wait)| *wait)
        else {
            return self.shared.facts();
        };
        let waiting = scope.within(wait);
        let mut said = false;
        while self.shared.facts().primary_ipv4.is_empty() {
            if !std::mem::replace(&mut said, true) {
                let most = waiting.remaining().as_secs();
                log::info!("{}: this instance has no public address yet; waiting for up to {most} s", d.path);
            }
            if waiting.sleep(LOOK).is_err() {
                break;
            }
            self.ask_for_addresses(&waiting);
        }
        self.shared.facts()
    }

    fn ask_for_addresses(&self, scope: &Scope) {
        let mut fresh = (*self.shared.facts()).clone();
        if let Err(e) = self.shared.imds.refresh_public_addresses(&scope.within(ASK_AGAIN), &mut fresh) {
            log::warn!("cannot ask again for a public address: {e}");
            return;
        }
        let mut known = self.shared.facts.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        // What a directive has associated meanwhile, the metadata service need not know yet.
        if known.primary_ipv4.is_empty() {
            self.shared.may_move(&fresh.all_ipv4);
            *known = Arc::new(fresh);
        }
    }
}

/// Whether a write that failed with `e` was not made for sure, and will not be.
pub(super) fn was_not_written(plan: &Plan, e: &ApiError) -> bool {
    // What may not be repeated was not sent where the time was over between two tries.
    let once = !plan.changes.iter().all(crate::aws::route53::Change::is_upsert);
    !e.may_have_worked() || (once && !e.unsure && matches!(e.class(), Class::Halted(_)))
}

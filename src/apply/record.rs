//! The `update-route53` directives of a domain: read ahead, write when the volumes stand.

use serde_json::json;

use super::hold::{Done, Hold, RecordHold};
use super::{DomainRun, Failure};
use crate::aws::route53::{RecordSet, normalise};
use crate::aws::{ApiError, Class};
use crate::clock::Tick;
use crate::config::{RecordDirective, RecordPolicy};
use crate::model::Facts;
use crate::parallel;
use crate::plan::members;
use crate::plan::records::{self, Now, Plan, Refusal, compare};
use crate::scope::Scope;

/// What was read of a record, and when.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    name: String,
    sets: Vec<RecordSet>,
    at: Tick,
}

/// A picture older than this is taken again before it is relied on for a roll-back.
const STALE: std::time::Duration = std::time::Duration::from_secs(5);

/// How often a write is planned anew when others come between.
const TRIES: usize = 4;
/// How long to wait before that, about.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

/// How long an address that was not there may be asked for again: there may well be none.
const ASK_AGAIN: std::time::Duration = std::time::Duration::from_secs(10);

impl DomainRun {
    /// The records that this domain wants: zone and name.
    pub(crate) fn record_names(&self) -> Vec<(String, String)> {
        let values = self.values_for_names();
        self.config.records.iter().map(|d| (d.hosted_zone.clone(), normalise(&d.name.expand(&values)))).collect()
    }

    /// Reads the record sets at the directive's name.
    pub(crate) fn read_record(&self, d: &RecordDirective, scope: &Scope) -> Result<Read, Failure> {
        let name = normalise(&d.name.expand(&self.values_for_names()));
        let sets =
            self.shared.aws.list_record_sets(scope, &d.hosted_zone, &name).map_err(|e| {
                Failure::api(&format!("list the records at {name} in hosted zone {}", d.hosted_zone), &e)
            })?;
        Ok(Read { name, sets, at: self.shared.clock.now() })
    }

    /// Writes the records of `wanted` (directives with what was read of them). One result per directive, in order.
    pub(crate) fn write_records(
        &self,
        wanted: Vec<(&RecordDirective, Result<Read, Failure>)>,
        scope: &Scope,
    ) -> Vec<Result<(), Failure>> {
        let mut results: Vec<Option<Result<(), Failure>>> = wanted.iter().map(|_| None).collect();
        let mut plans: Vec<(usize, &RecordDirective, Plan)> = Vec::new();
        // The same record asked for twice is written once, and what comes of it counts for both.
        let mut twins: Vec<(usize, usize, &RecordDirective)> = Vec::new();
        for (i, (d, read)) in wanted.into_iter().enumerate() {
            let plan = match self.plan_record(d, read, scope) {
                Ok(plan) => plan,
                Err(f) => {
                    results[i] = Some(Err(f));
                    continue;
                }
            };
            let same = |(_, o, p): &&(usize, &RecordDirective, Plan)| {
                o.hosted_zone == d.hosted_zone && p.changes == plan.changes
            };
            if plan.changes.is_empty() {
                self.stands(d, &plan);
                results[i] = Some(Ok(()));
            } else if let Some((first, ..)) = plans.iter().find(same) {
                log::info!("{}: {} is asked for twice", d.path, plan.name);
                twins.push((i, *first, d));
            } else {
                plans.push((i, d, plan));
            }
        }
        plans.iter().for_each(|(_, d, plan)| self.intend(d, plan));
        let mut zones: Vec<&str> = plans.iter().map(|(_, d, _)| d.hosted_zone.as_str()).collect();
        zones.sort_unstable();
        zones.dedup();
        // One submission a zone, beside each other.
        let outcomes = parallel::map(zones.len(), |z| {
            let of: Vec<_> = plans.iter().filter(|(_, d, _)| d.hosted_zone == zones[z]).collect();
            let pieces = of.iter().map(|(_, _, p)| p.changes.clone()).collect();
            let ends = self.shared.zones.submit(&self.shared.aws, zones[z], pieces, scope);
            of.iter().map(|(i, ..)| *i).zip(ends).collect::<Vec<_>>()
        });
        for (i, outcome) in outcomes.into_iter().flatten() {
            let Some((_, d, plan)) = plans.iter().find(|(j, ..)| *j == i) else { continue };
            results[i] = Some(match outcome {
                Ok(()) => {
                    self.has_written(d, plan);
                    Ok(())
                }
                Err(e) => self.write_again(d, plan.clone(), e, scope),
            });
        }
        for (twin, first, d) in twins {
            results[twin] = results[first].clone();
            let plan = plans.iter().find(|(i, ..)| *i == first).map(|(.., plan)| plan);
            if let (Some(Ok(())), Some(plan)) = (&results[twin], plan) {
                self.stands(d, plan);
            }
        }
        results.into_iter().map(|r| r.unwrap_or_else(|| Err(Failure::new("the record was not written")))).collect()
    }

    /// Notes what is about to be written: in the log of calls and in the journal.
    fn intend(&self, d: &RecordDirective, plan: &Plan) {
        self.note_call(
            "change_resource_record_sets",
            json!({
                "HostedZoneId": d.hosted_zone,
                "ChangeBatch": { "Changes": plan.changes.iter().map(|c| c.to_json()).collect::<Vec<_>>() },
            }),
        );
        let hold = RecordHold {
            key: d.path.clone(),
            zone: d.hosted_zone.clone(),
            name: plan.name.clone(),
            ours: plan.ours.clone(),
            before: plan.before.clone(),
            written: Done::Maybe,
        };
        // What is inherited of the record counts until it is written over.
        self.push(Hold::Record(hold));
    }

    fn has_written(&self, d: &RecordDirective, plan: &Plan) {
        self.with_record(&d.path, |h| h.written = Done::Yes);
        self.take_up_record(&d.hosted_zone, &plan.name, None);
        self.stands(d, plan);
        log::info!("{}: {}", d.path, plan.summary());
    }

    /// After an attempt that failed: at a shared name, where others may have come between or nobody knows what came of it,
    /// a look and another plan; else that is the end, and the roll-back looks.
    fn write_again(&self, d: &RecordDirective, mut plan: Plan, mut e: ApiError, scope: &Scope) -> Result<(), Failure> {
        let shared_name = d.policy == RecordPolicy::Multivalue;
        for _ in 0..TRIES {
            if !(shared_name && matches!(e.class(), Class::Ambiguous | Class::Conflict)) {
                break;
            }
            log::info!("{}: looking again: {e}", d.path);
            // Others of the fleet do the same.
            let pause = PAUSE.mul_f64(0.5 + crate::random::fraction());
            scope.sleep(pause).map_err(|h| Failure::halted(format!("{} was not written: {e}", plan.name), h))?;
            let read = self.read_record(d, scope)?;
            if compare(&read.sets, &plan.ours, &plan.before) == Now::Ours {
                self.has_written(d, &plan);
                return Ok(());
            }
            self.drop_hold(&d.path);
            plan = self.plan_record(d, Ok(read), scope)?;
            if plan.changes.is_empty() {
                self.stands(d, &plan);
                return Ok(());
            }
            self.intend(d, &plan);
            let piece = vec![plan.changes.clone()];
            match self.shared.zones.submit(&self.shared.aws, &d.hosted_zone, piece, scope).pop() {
                Some(Ok(())) => {
                    self.has_written(d, &plan);
                    return Ok(());
                }
                Some(Err(next)) => e = next,
                None => break,
            }
        }
        if !e.may_have_worked() {
            self.drop_hold(&d.path);
        }
        Err(Failure::api(&format!("write {} in hosted zone {}", plan.name, d.hosted_zone), &e))
    }

    /// What is to be written, with what was read.
    fn plan_for(&self, d: &RecordDirective, read: &Read, facts: &Facts) -> Result<Plan, Refusal> {
        let (ipv4, ipv6) = (&facts.primary_ipv4, &facts.primary_ipv6);
        match d.policy {
            RecordPolicy::Simple => records::plan(&read.sets, &read.name, d.ttl, ipv4, ipv6),
            RecordPolicy::Multivalue => members::plan(&read.sets, &read.name, d.ttl, ipv4, ipv6, &facts.instance_id),
        }
    }

    fn plan_record(&self, d: &RecordDirective, read: Result<Read, Failure>, scope: &Scope) -> Result<Plan, Failure> {
        let mut read = read?;
        if self.shared.clock.now().since(read.at) > STALE {
            read = self.read_record(d, scope)?;
        }
        self.shared.addresses_have_come(scope)?;
        let facts = self.public_addresses(scope);
        let mut planned = self.plan_for(d, &read, &facts);
        // A dead member in place of this one: the sweep cannot wait.
        if matches!(planned, Err(Refusal::Full { .. })) && self.sweep_now(d, &read.name, &read.sets, scope) {
            read = self.read_record(d, scope)?;
            planned = self.plan_for(d, &read, &facts);
        }
        let mut plan = planned.map_err(|e| Failure::new(e.to_string()))?;
        self.shares(d, &read.name, &read.sets);
        for warning in &plan.warnings {
            log::warn!("{}: {warning}", d.path);
        }
        if facts.primary_ipv4.is_empty() && facts.primary_ipv6.is_empty() {
            log::info!("{}: this instance has no public address: nothing to do for {}", d.path, read.name);
        } else if plan.changes.is_empty() {
            log::info!("{}: {} is as it should be", d.path, read.name);
            let held = self.inherited_record(&d.hosted_zone, &read.name, &read.sets);
            let held = held.map(|r| RecordHold { key: d.path.clone(), written: Done::Yes, ..r });
            self.take_up_record(&d.hosted_zone, &read.name, held);
        } else if let Some(r) = self.inherited_record(&d.hosted_zone, &read.name, &read.sets) {
            plan = plan.after(&r.ours, &r.before);
        }
        Ok(plan)
    }

    /// The facts; an address that was not there at first (an elastic one is associated late) is asked for again.
    fn public_addresses(&self, scope: &Scope) -> std::sync::Arc<Facts> {
        // Held while it is asked for: the other records and domains want the same answer.
        let mut asked = super::lock(&self.shared.asked_again);
        let facts = self.shared.facts();
        let now = self.shared.clock.now();
        if !facts.primary_ipv4.is_empty() || asked.is_some_and(|at| now.since(at) < STALE) {
            return facts;
        }
        *asked = Some(now);
        let mut fresh = (*facts).clone();
        match self.shared.imds.refresh_public_addresses(&scope.within(ASK_AGAIN), &mut fresh) {
            Ok(_) => {
                let mut known = self.shared.facts.write().unwrap_or_else(std::sync::PoisonError::into_inner);
                // What a directive has associated meanwhile, the metadata service need not know yet.
                if known.primary_ipv4.is_empty() {
                    *known = std::sync::Arc::new(fresh);
                }
                known.clone()
            }
            Err(e) => {
                log::warn!("cannot ask again for a public address: {e}");
                facts
            }
        }
    }
}

//! The sweep of dead members: multivalue records of instances that are gone, which nobody else takes away.
//!
//! After `started`, beside everything else, and before it only where the name is full. EC2 is asked about the instances
//! that have a record at the name; those that it says are over lose it, by an exact DELETE. Of one that EC2 does not know
//! nothing is sure (it forgets an instance after about an hour, but never knew one of another account or region): it
//! loses its record only where the config says so, after a second look.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::restore::DECIDED;
use super::{DomainRun, Failure, Shared, lock};
use crate::aws::Class;
use crate::aws::ec2::InstanceState;
use crate::aws::route53::{Change, RecordSet};
use crate::config::{RecordDirective, RecordPolicy, Sweep};
use crate::log::in_domain;
use crate::plan::members;
use crate::random;
use crate::scope::Scope;

/// Those that come up at the same time find the same dead: one of them is first.
const SPREAD: Duration = Duration::from_secs(5);
/// How often a DELETE with an unclear end is looked at.
const TRIES: usize = 4;
/// After this an instance that EC2 does not know is looked for again: reads lag behind.
const SECOND_LOOK: Duration = Duration::from_secs(30);

/// The records of other instances at a name that a directive shares with them.
#[derive(Debug, Clone)]
pub(crate) struct Crowd {
    /// The directive.
    key: String,
    zone: String,
    name: String,
    /// Those that EC2 does not know are gone too.
    missing: bool,
    others: Vec<RecordSet>,
}

/// Instances that are gone, and what EC2 says of them; nothing where it does not know them.
type Gone = BTreeMap<String, Option<InstanceState>>;

/// Deletes the records of dead members at the names of these domains. What cannot be done is a warning: nobody waits.
pub(crate) fn sweep(shared: &Shared, runs: &[&DomainRun], scope: &Scope) {
    let crowds: Vec<Vec<Crowd>> = runs.iter().map(|run| std::mem::take(&mut *lock(&run.crowds))).collect();
    let all: Vec<&Crowd> = crowds.iter().flatten().collect();
    let gone = gone(shared, &all, scope);
    if gone.is_empty() {
        return;
    }
    let _ = scope.sleep(SPREAD.mul_f64(random::fraction()));
    for (run, crowds) in runs.iter().zip(&crowds) {
        in_domain(&run.config.name, || crowds.iter().for_each(|c| run.sweep_name(c, &gone, scope)));
    }
}

/// Which of these members are gone.
fn gone(shared: &Shared, crowds: &[&Crowd], scope: &Scope) -> Gone {
    let id = |set: &RecordSet| set.set_identifier.clone();
    let ids: BTreeSet<String> = crowds.iter().flat_map(|c| c.others.iter().filter_map(id)).collect();
    if ids.is_empty() {
        return Gone::new();
    }
    let states = match states(shared, &ids, scope) {
        Ok(Some(states)) => states,
        Ok(None) => return Gone::new(),
        Err(f) => {
            log::warn!("the records of instances that are gone are not swept: {f}");
            return Gone::new();
        }
    };
    let over = |state: &InstanceState| matches!(state, InstanceState::Terminated | InstanceState::ShuttingDown);
    let mut gone: Gone =
        states.iter().filter(|(_, state)| over(state)).map(|(id, state)| (id.clone(), Some(*state))).collect();
    let sought = crowds.iter().filter(|c| c.missing).flat_map(|c| c.others.iter().filter_map(id));
    let missing: BTreeSet<String> = sought.filter(|id| !states.contains_key(id)).collect();
    if !missing.is_empty()
        && scope.sleep(SECOND_LOOK).is_ok()
        && let Ok(Some(states)) = self::states(shared, &missing, scope)
    {
        gone.extend(missing.into_iter().filter(|id| !states.contains_key(id)).map(|id| (id, None)));
    }
    gone
}

/// The states of these instances, of those that EC2 knows. `None`: it does not even know this one, so that its not
/// knowing another one says nothing.
fn states(
    shared: &Shared,
    ids: &BTreeSet<String>,
    scope: &Scope,
) -> Result<Option<BTreeMap<String, InstanceState>>, Failure> {
    let facts = shared.facts();
    let ask: Vec<&str> = ids.iter().map(String::as_str).chain([facts.instance_id.as_str()]).collect();
    let states = shared.aws.describe_instances(scope, &ask);
    let states = states.map_err(|e| Failure::api("ask EC2 whether they live", &e))?;
    let states: BTreeMap<String, InstanceState> = states.into_iter().collect();
    Ok(states.contains_key(&facts.instance_id).then_some(states))
}

impl DomainRun {
    /// Notes who else has a record at the name of a directive.
    pub(super) fn shares(&self, d: &RecordDirective, name: &str, sets: &[RecordSet]) {
        if d.policy != RecordPolicy::Multivalue || d.sweep == Sweep::Never {
            return;
        }
        let crowd = Crowd {
            key: d.path.clone(),
            zone: d.hosted_zone.clone(),
            name: name.to_owned(),
            missing: d.sweep == Sweep::Missing,
            others: members::others(sets, &self.shared.facts().instance_id),
        };
        let mut crowds = lock(&self.crowds);
        crowds.retain(|c| c.key != d.path);
        if !crowd.others.is_empty() {
            crowds.push(crowd);
        }
    }

    /// Whether there is anybody to look for.
    pub(crate) fn shares_names(&self) -> bool {
        !lock(&self.crowds).is_empty()
    }

    /// The name is full: sweeps it at once. Whether there was anybody to look for.
    pub(super) fn sweep_now(&self, d: &RecordDirective, name: &str, sets: &[RecordSet], scope: &Scope) -> bool {
        self.shares(d, name, sets);
        let crowd = lock(&self.crowds).iter().find(|c| c.key == d.path).cloned();
        let Some(crowd) = crowd else { return false };
        log::info!("{}: {name} is full: looking for instances that are gone", d.path);
        let gone = gone(&self.shared, &[&crowd], scope);
        self.sweep_name(&crowd, &gone, scope);
        true
    }

    fn sweep_name(&self, c: &Crowd, gone: &Gone, scope: &Scope) {
        let mut pause = Duration::from_millis(500);
        for _ in 0..TRIES {
            if self.sweep_once(c, gone, scope) || scope.sleep(pause).is_err() {
                break;
            }
            pause *= 2;
        }
    }

    /// `false`: nobody knows what came of it.
    fn sweep_once(&self, c: &Crowd, gone: &Gone, scope: &Scope) -> bool {
        let why = |set: &RecordSet| gone.get(set.set_identifier.as_ref()?).filter(|state| c.missing || state.is_some());
        if !c.others.iter().any(|set| why(set).is_some()) {
            return true;
        }
        // Another one may have been first.
        let now = match self.shared.aws.records_at(scope, &c.zone, &c.name) {
            Ok(now) => now,
            Err(e) => {
                log::warn!("{}: the records of instances that are gone are not swept: {e}", c.key);
                return true;
            }
        };
        let still = |set: &&RecordSet| why(set).is_some() && c.others.iter().any(|o| o.same_content(set));
        let dead: Vec<&RecordSet> = now.iter().filter(still).collect();
        if dead.is_empty() {
            return true;
        }
        let pieces: Vec<_> = dead.iter().map(|set| vec![Change::delete((*set).clone())]).collect();
        self.note_changes(&c.zone, &pieces.concat());
        // Not longer than what was looked at can count.
        let ends = self.shared.zones.submit(&self.shared.aws, &c.zone, pieces, &scope.within(DECIDED));
        let mut clear = true;
        for (set, end) in dead.into_iter().zip(ends) {
            let what = format!("{} {} {}", c.name, set.kind, set.values.join(" "));
            let id = set.set_identifier.as_deref().unwrap_or_default();
            match end {
                Ok(()) => {
                    let state = why(set).copied().flatten().map_or("not known to EC2", InstanceState::name);
                    log::info!("{}: {what} is deleted: {id} is {state}", c.key);
                }
                Err(e) if e.class() == Class::Ambiguous || (e.halt().is_some() && scope.check().is_ok()) => {
                    log::debug!("{}: {what} of {id}: looking again: {e}", c.key);
                    clear = false;
                }
                Err(e) if e.class() == Class::Conflict => log::debug!("{}: {what} of {id} is gone already: {e}", c.key),
                Err(e) => {
                    log::warn!("{}: {}", c.key, Failure::api(&format!("delete {what} of {id}, which is gone"), &e))
                }
            }
        }
        clear
    }
}

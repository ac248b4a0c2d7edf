//! The tags of committed volumes, brought up to date off the path to `started`.

use super::hold::Committed;
use super::{DomainRun, Shared, lock};
use crate::plan::tags;
use crate::scope::Scope;

/// Writes when the volumes were used and takes the transaction's tags off; then puts back what earlier runs left and
/// nobody wants. A tag that cannot be written is a warning: tags are hints.
pub(crate) fn tidy(shared: &Shared, runs: &[&DomainRun], scope: &Scope) {
    let mut volumes: Vec<Committed> = Vec::new();
    for run in runs {
        for (_, t) in std::mem::take(&mut *lock(&run.tagging)) {
            let _ = t.join();
        }
        run.left_to_others();
        volumes.append(&mut run.to_be_tidied(scope));
    }
    let now = shared.time_tag();
    let me = shared.facts().instance_id.clone();
    let warn =
        |what: &str, ids: &[&str], e: &dyn std::fmt::Display| log::warn!("cannot {what} of {}: {e}", ids.join(", "));

    // One call for all that get the same tags.
    let mut kinds: Vec<(bool, Option<&str>)> = volumes.iter().map(|v| (v.created, v.member.as_deref())).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for (created, member) in kinds {
        let is_it = |v: &&Committed| v.created == created && v.member.as_deref() == member;
        let ids: Vec<&str> = volumes.iter().filter(is_it).map(|v| v.volume_id.as_str()).collect();
        // The owner too: a run that was cut off may not have come to it.
        let mut pairs = vec![(tags::TS_USED, now.as_str()), (tags::OWNER, me.as_str())];
        if created {
            pairs.push((tags::TS_CREATED, now.as_str()));
        }
        pairs.extend(member.map(|m| (tags::MEMBER, m)));
        if let Err(e) = shared.aws.create_tags(scope, &ids, &pairs) {
            warn("write the time of use", &ids, &e);
        }
    }
    // By value: what another transaction wrote meanwhile stays. What carries the same value shares a call.
    let mut values: Vec<&str> = volumes.iter().map(|v| v.transc_id.as_str()).collect();
    values.sort_unstable();
    values.dedup();
    for value in values {
        let ids: Vec<&str> = volumes.iter().filter(|v| v.transc_id == value).map(|v| v.volume_id.as_str()).collect();
        if let Err(e) = shared.aws.delete_tags(scope, &ids, &[(tags::TRANSC_ID, Some(value))]) {
            warn("take off the transaction tag", &ids, &e);
        }
    }
    for run in runs {
        // Before the ledger forgets what was moved.
        let unfinished = run.finish_moves(scope);
        run.tidied(unfinished);
        run.settle_marks(scope);
        run.settle_by_tags(scope);
        // What nobody has taken up by now is wanted by nobody. That it could not be put back was said.
        run.settle_rest(scope);
    }
}

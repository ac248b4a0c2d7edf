//! The tags of committed volumes, brought up to date off the path to `started`.

use time::format_description::well_known::Rfc3339;

use super::hold::Committed;
use super::{DomainRun, Shared, lock};
use crate::plan::tags;
use crate::scope::Scope;

/// Writes when the volumes were used and takes the transaction's tags off. A tag that cannot be written is a warning:
/// tags are hints.
pub(crate) fn tidy(shared: &Shared, runs: &[&DomainRun], scope: &Scope) {
    let mut volumes: Vec<Committed> = Vec::new();
    for run in runs {
        for t in std::mem::take(&mut *lock(&run.tagging)) {
            let _ = t.join();
        }
        volumes.append(&mut lock(&run.committed));
    }
    let now = shared.clock.corrected().replace_nanosecond(0).ok().and_then(|t| t.format(&Rfc3339).ok());
    let now = now.unwrap_or_default();
    let warn =
        |what: &str, ids: &[&str], e: &dyn std::fmt::Display| log::warn!("cannot {what} of {}: {e}", ids.join(", "));

    // One call for all of them: the same tags on each.
    for created in [false, true] {
        let ids: Vec<&str> = volumes.iter().filter(|v| v.created == created).map(|v| v.volume_id.as_str()).collect();
        if ids.is_empty() {
            continue;
        }
        let mut pairs = vec![(tags::TS_USED, now.as_str())];
        if created {
            pairs.push((tags::TS_CREATED, now.as_str()));
        }
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
}

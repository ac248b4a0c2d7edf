//! Looks at volumes that an earlier run had, until what they show is not an old picture.

use std::time::Duration;

use super::hold::VolumeHold;
use super::{DomainRun, Failure};
use crate::aws::ec2::Volume;
use crate::plan::volumes::{IN_TRANSIT_GRACE, Standing, standing};
use crate::scope::Scope;
use crate::waits::waiting;

/// How long a volume may take to be made or detached.
const AT_REST: Duration = Duration::from_secs(60);
/// How reads may lag behind writes: it is looked again after so long.
const LAGS: [Duration; 2] = [Duration::from_millis(500), Duration::from_millis(2500)];
/// And of a volume that was made a moment before its run was cut off, after so long again.
const NEW: [Duration; 3] = [Duration::from_secs(4), Duration::from_secs(8), Duration::from_secs(12)];

impl DomainRun {
    /// The volume, once it is neither being made nor being detached from here.
    pub(super) fn until_at_rest(&self, id: &str, scope: &Scope) -> Result<Option<Volume>, Failure> {
        let mut pause = Duration::from_millis(250);
        let scope = scope.within(AT_REST);
        let _wait = waiting(&scope, format!("{id} to be free, or here"));
        loop {
            let now = self.describe(&scope, id)?;
            let facts = self.shared.facts();
            match now.as_ref().map(|v| standing(v, &facts.instance_id, &facts.zone)) {
                Some(Standing::Changing(what)) => {
                    scope.sleep(pause).map_err(|h| Failure::halted(format!("{id} is still {what}"), h))?;
                    pause = (pause * 2).min(Duration::from_secs(4));
                }
                _ => return Ok(now),
            }
        }
    }

    /// The same; of several empty answers the last one counts. `seen`: it was found before, and is not new.
    pub(super) fn until_found(&self, id: &str, seen: bool, scope: &Scope) -> Result<Option<Volume>, Failure> {
        let new: &[Duration] = if seen { &[] } else { &NEW };
        for pause in LAGS.iter().chain(new).copied() {
            let now = self.until_at_rest(id, scope)?;
            if now.is_some() || scope.sleep(pause).is_err() {
                return Ok(now);
            }
        }
        self.until_at_rest(id, scope)
    }

    /// The volume that an earlier run attached. One answer may be older than that.
    pub(super) fn until_seen_attached(
        &self,
        v: &VolumeHold,
        id: &str,
        scope: &Scope,
    ) -> Result<Option<Volume>, Failure> {
        for pause in LAGS {
            let now = self.describe(scope, id)?;
            let held = now.as_ref().is_some_and(|now| !now.attachments.is_empty() || self.was_committed(v, now));
            if held || scope.sleep(pause).is_err() {
                return Ok(now);
            }
        }
        self.describe(scope, id)
    }

    /// Whether others leave it to its maker still.
    pub(super) fn is_young(&self, v: &Volume) -> bool {
        v.create_time.is_none_or(|t| self.shared.clock.corrected() - t < IN_TRANSIT_GRACE)
    }
}

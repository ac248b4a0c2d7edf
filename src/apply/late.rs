//! A claim that was given up without knowing its end, and whose AttachVolume EC2 may carry out later than all looks.
//!
//! Its hold stays in the journal for [`LATE`]: whatever run comes next looks again. A run that went on without the volume
//! looks by itself meanwhile, and detaches it if it came after all: nobody uses it, and the pool misses it.

use std::time::Duration;

use super::hold::{Done, Hold, VolumeHold};
use super::{DomainRun, lock};
use crate::plan::volumes::{Standing, standing};
use crate::scope::Scope;

/// How long after the call it may still be carried out.
const LATE: Duration = Duration::from_secs(600);
/// How often it is looked whether it was.
const EVERY: Duration = Duration::from_secs(15);

/// Whether what was sent then, which a journal says, may still be carried out.
fn is_recent(sent: i64, now: i64) -> bool {
    now.abs_diff(sent) < LATE.as_secs()
}

impl DomainRun {
    /// Now, as the hold has it when an AttachVolume had no plain answer.
    pub(super) fn attach_time(&self) -> i64 {
        self.shared.clock.corrected().unix_timestamp()
    }

    /// The volume looks free, and the call that claims it may not have come yet: the hold stays in the journal.
    pub(super) fn may_come_late(&self, v: &VolumeHold, id: &str) {
        if !self.is_outstanding(v) {
            return;
        }
        let hold = Hold::Volume(VolumeHold { volume_id: Some(id.to_owned()), ..v.clone() });
        self.ledger(|l| {
            if !l.left.contains(&hold) {
                l.left.push(hold);
            }
        });
    }

    fn is_outstanding(&self, v: &VolumeHold) -> bool {
        let sent = v.sent.filter(|_| v.attached == Done::Maybe);
        sent.is_some_and(|sent| is_recent(sent, self.attach_time()))
    }

    fn outstanding(&self) -> Vec<VolumeHold> {
        let l = lock(&self.ledger);
        let of = |h: &Hold| match h {
            Hold::Volume(v) if v.attached == Done::Maybe && v.sent.is_some() => Some(v.clone()),
            _ => None,
        };
        l.left.iter().filter_map(of).collect()
    }

    /// Whether there is anything for [`DomainRun::settle_late`].
    pub(crate) fn has_late(&self) -> bool {
        !self.outstanding().is_empty()
    }

    /// Looks for the claims that may come late until none can come any more, or the scope ends. What comes is detached.
    pub(crate) fn settle_late(&self, scope: &Scope) {
        loop {
            let waiting = self.outstanding();
            if waiting.is_empty() || scope.sleep(EVERY).is_err() {
                return;
            }
            for v in waiting {
                if self.is_settled(&v, scope) {
                    self.ledger(|l| l.left.retain(|h| !matches!(h, Hold::Volume(o) if *o == v)));
                }
            }
        }
    }

    fn is_settled(&self, v: &VolumeHold, scope: &Scope) -> bool {
        let Some(id) = v.volume_id.as_deref() else { return true };
        if lock(&self.shared.taken).contains(id) {
            return true;
        }
        let facts = self.shared.facts();
        let now = match self.describe(scope, id) {
            Ok(now) => now,
            Err(f) => {
                log::debug!("{f}");
                return false;
            }
        };
        match now.map(|now| standing(&now, &facts.instance_id, &facts.zone)) {
            Some(Standing::Here(at)) if v.is_at(&at) => {
                // Another daemon of this instance may have come to use it.
                let _taking = match self.take(id, &v.key, scope) {
                    Ok(Ok(taking)) => taking,
                    Ok(Err(other)) => {
                        log::info!("{id} was attached as {at} after its claim had been given up, and stays: {other}");
                        return true;
                    }
                    Err(why) => {
                        log::debug!("{why}");
                        return false;
                    }
                };
                log::warn!("{id} was attached as {at} after its claim had been given up: detaching it");
                let vacated = self.let_go(v, id, scope);
                match vacated.and_then(|vacated| self.detach(v, id, vacated, scope)) {
                    Ok(_) => true,
                    Err(why) => {
                        log::warn!("{why}");
                        false
                    }
                }
            }
            // Under another name it is somebody else's; and EC2 refuses what comes late for a volume that is taken.
            Some(Standing::Here(_) | Standing::Absent(_)) => true,
            _ => !self.is_outstanding(v),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_recent;

    #[test]
    fn whatever_time_a_journal_says() {
        let now = 1_790_000_000;
        assert!(is_recent(now, now) && is_recent(now - 599, now) && is_recent(now + 599, now));
        for sent in [i64::MIN, -1, 0, now - 600, now + 600, i64::MAX] {
            assert!(!is_recent(sent, now), "{sent}");
        }
    }
}

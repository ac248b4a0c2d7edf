//! Keeps the marks of moves fresh.
//!
//! A mark counts for an hour ([`moves::STALE`]). The snapshot, a claim that loops over taken names and the commands on
//! the copy may take longer, so it is renewed from the beginning of init to the commit, whatever is being done.

use std::time::Duration;

use super::hold::{Hold, MoveHold};
use super::{DomainRun, lock};
use crate::aws::ec2::Filter;
use crate::aws::{Class, Lapsed, Still};
use crate::config::Source;
use crate::plan::moves::{self, Mark};
use crate::plan::tags;
use crate::scope::{Scope, Stop};

/// How often a mark is renewed: several times in the hour that it counts.
const RENEW_EVERY: Duration = Duration::from_secs(600);
/// How long one renewal may take; the next one comes soon.
const RENEWAL: Duration = Duration::from_secs(60);

impl DomainRun {
    /// Whether there may be marks to be kept.
    pub(super) fn may_move(&self) -> bool {
        self.config.volumes.iter().any(|d| d.sources.contains(&Source::Move))
    }

    /// Renews the marks of what this domain moves, until it is asked to stop.
    pub(super) fn keep_marks(&self, over: &Stop) {
        let scope = Scope::new(&self.shared.clock, Duration::from_secs(365 * 86_400), Some(over));
        while scope.sleep(RENEW_EVERY).is_ok() {
            let moving = || lock(&self.ledger).held.iter().filter_map(as_move).cloned().collect::<Vec<_>>();
            for m in moving() {
                // Rolled back meanwhile, it has none to be kept.
                if over.get().is_none() && moving().contains(&m) {
                    self.renew(&m, &scope.within(RENEWAL));
                }
            }
        }
    }

    /// Writes the mark with the time of now, as long as it is there. What is lost is seen by who moves, before the commit.
    fn renew(&self, m: &MoveHold, scope: &Scope) {
        let id = m.volume_id.as_str();
        let ask = |scope: &Scope| {
            let now = self.shared.aws.describe_volumes(scope, &[Filter::exact("volume-id", &[id])]);
            let now = now.map_err(Lapsed::Unknown)?;
            let lost = moves::lost(now.iter().find(|v| v.id == id), &m.token, m.used.as_deref());
            lost.map_or(Ok(()), |why| {
                Err(Lapsed::Changed(format!("{id} is not moved by this instance any more: {why}")))
            })
        };
        let owner = self.shared.facts().instance_id.clone();
        let mark = Mark { owner, time: self.shared.clock.corrected(), token: m.token.clone() }.text();
        match self.tag(id, &[(tags::MOVING, &mark)], &Still::while_(&ask), scope) {
            Ok(()) => log::debug!("{}: the mark of {id} is renewed", m.key),
            Err(e) if e.class() == Class::Lapsed => log::warn!("{}: {e}", m.key),
            Err(e) => log::warn!("{}: cannot renew the mark of {id}, which counts for an hour: {e}", m.key),
        }
    }
}

fn as_move(hold: &Hold) -> Option<&MoveHold> {
    match hold {
        Hold::Move(m) => Some(m),
        _ => None,
    }
}

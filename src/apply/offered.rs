//! Whether a volume of a pool still is offered when it is claimed.
//!
//! AttachVolume is a lock among instances of one zone, but no answer to a volume that is being moved away: whoever moves
//! it does not attach it. A mover marks it and waits for [`SETTLE`], so a claim that was decided on less than that ago is
//! one that it sees. After a throttle, a lost answer or a pause the volume is looked at again, before each try; and where
//! the answer came late, after it.

use std::sync::Mutex;

use super::hold::Hold;
use super::moving::SETTLE;
use super::{DomainRun, Failure, lock};
use crate::aws::Lapsed;
use crate::aws::ec2::{Filter, Volume};
use crate::clock::Tick;
use crate::config::VolumeDirective;
use crate::plan::moves;
use crate::plan::tags;
use crate::scope::Scope;

/// A volume that was offered when it was read, and when that was last so.
pub(super) struct Offer<'a> {
    run: &'a DomainRun,
    read: &'a Volume,
    at: Mutex<Tick>,
}

impl<'a> Offer<'a> {
    /// Of `read`, as EC2 gave it at the moment `at`.
    pub(super) fn new(run: &'a DomainRun, read: &'a Volume, at: Tick) -> Offer<'a> {
        Offer { run, read, at: Mutex::new(at) }
    }

    fn is_fresh(&self) -> bool {
        self.run.shared.clock.now().since(*lock(&self.at)) < SETTLE
    }

    /// Why the volume, as it is `now`, is not offered any more.
    fn why_not(&self, now: &Volume) -> Option<String> {
        let (me, time) = (&self.run.shared.facts().instance_id, self.run.shared.clock.corrected());
        moves::withdrawn(now, me, self.read, time)
    }

    /// Before a try of AttachVolume.
    pub(super) fn ask(&self, scope: &Scope) -> Result<(), Lapsed> {
        if self.is_fresh() {
            return Ok(());
        }
        let (id, begun) = (self.read.id.as_str(), self.run.shared.clock.now());
        let now = self.run.shared.aws.describe_volumes(scope, &[Filter::exact("volume-id", &[id])]);
        let now = now.map_err(Lapsed::Unknown)?;
        *lock(&self.at) = begun;
        // Of one that is gone EC2 tells.
        let why = now.iter().find(|v| v.id == id).and_then(|v| self.why_not(v));
        why.map_or(Ok(()), |why| Err(Lapsed::Changed(why)))
    }

    /// After AttachVolume: why it has come too late. The volume is attached here, so that no move of it begins any more;
    /// one whose last look was before that comes to its end within moments.
    fn why_too_late(&self, scope: &Scope) -> Result<Option<String>, Failure> {
        let id = self.read.id.as_str();
        if self.is_fresh() {
            return Ok(None);
        }
        for last in [false, true] {
            let Some(now) = self.run.describe(scope, id)? else { return Ok(None) };
            if now.tag(tags::SUPERSEDED_BY).is_none() && self.why_not(&now).is_none() {
                return Ok(None);
            }
            let copies = self.run.copies_of(moves::lineage(&now), scope)?;
            let by = now.tag(tags::SUPERSEDED_BY).or(moves::successor(&now, &copies).map(|v| v.id.as_str()));
            if let Some(by) = by {
                return Ok(Some(format!("it has become {by} meanwhile")));
            }
            if !last {
                scope.sleep(SETTLE).map_err(|h| Failure::halted(format!("cannot tell whether {id} was moved"), h))?;
            }
        }
        Ok(None)
    }
}

impl DomainRun {
    /// The directive has attached the volume of `offer`. If that was too late, it is let go again; the reason.
    pub(super) fn let_go_if_late(
        &self,
        d: &VolumeDirective,
        offer: &Offer<'_>,
        scope: &Scope,
    ) -> Result<Option<String>, Failure> {
        let why = offer.why_too_late(scope)?;
        if why.is_some() {
            let mut holds = Vec::new();
            let is_it = |h: &Hold| matches!(h, Hold::Volume(v) if v.key == d.path);
            self.ledger(|l| {
                holds = l.held.extract_if(.., |h| is_it(h)).collect();
                l.inherited.extend(holds.iter().cloned());
            });
            for hold in holds {
                self.put_back(hold, scope).map_err(Failure::new)?;
            }
        }
        Ok(why)
    }
}

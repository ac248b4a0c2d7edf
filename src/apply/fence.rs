//! `fence: "terminated"`: a volume that an instance keeps which EC2 reports as terminated or stopped is detached from it.
//!
//! Right before the call both are looked at again, some seconds after the first look where the holder is stopped. The call names the holder: if the volume is another's by then, EC2
//! refuses. Never by force. Until the claim nothing of this is ours: a run that is killed here leaves nothing behind.

use std::time::Duration;

use super::{DomainRun, Failure};
use crate::aws::ec2::{Filter, InstanceState};
use crate::aws::{ApiError, Class, Lapsed, Still};
use crate::config::VolumeDirective;
use crate::plan::waiting::{self, Held};
use crate::scope::{Halt, Scope};

/// How long a holder must have been stopped by what EC2 says: reads lag behind a start.
const CERTAIN: Duration = Duration::from_secs(10);

/// What a fence came to.
pub(super) enum Fenced {
    /// The volume is on its way, or may be.
    Yes,
    /// It is held by somebody else by now, or its holder runs again.
    NoMore,
    /// EC2 would not do it now; why.
    Refused(String),
}

impl DomainRun {
    /// Detaches `h` from its holder if that is still over. `stopped`: it may be started again at any time.
    pub(super) fn fence(&self, d: &VolumeDirective, h: &Held, stopped: bool, scope: &Scope) -> Result<Fenced, Failure> {
        let (id, holder) = (h.volume_id.as_str(), h.holder.as_str());
        let what = format!("detach {id} from {holder} (fence)");
        if stopped {
            scope.sleep(CERTAIN).map_err(|halt| Failure::halted(format!("cannot {what}"), halt))?;
        }
        let looked = self.shared.clock.now();
        let Some(state) = self.is_over(h, scope).map_err(|e| Failure::api(&what, &e))? else {
            return Ok(Fenced::NoMore);
        };
        // The process was held up: its holder may run by now. The same for the tries of the call itself.
        if self.shared.clock.now().since(looked) > CERTAIN {
            return Ok(Fenced::NoMore);
        }
        let brief = scope.within(CERTAIN);
        log::warn!("{}: {id} is held by {holder}, which is {}: detaching it (fence)", d.path, state.name());
        // A throttle may last longer than it takes to start a stopped instance.
        let ask = |scope: &Scope| match self.is_over(h, scope) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Lapsed::Changed(format!("{id} is now held by another instance, or {holder} runs again"))),
            Err(e) => Err(Lapsed::Unknown(e)),
        };
        match self.detach_from(id, holder, &Still::again(&ask), &brief) {
            Ok(()) => Ok(Fenced::Yes),
            Err(e) if e.class() == Class::Lapsed && e.unsure => Ok(Fenced::Yes),
            Err(e) if e.class() == Class::Lapsed => Ok(Fenced::NoMore),
            // Somebody else did it, or EC2 itself.
            Err(e) if e.class() == Class::Gone => Ok(Fenced::Yes),
            Err(e) if e.may_have_worked() && scope.check().is_ok() => {
                log::warn!("{}: nobody knows whether {id} is being detached from {holder}: {e}", d.path);
                Ok(Fenced::Yes)
            }
            Err(e) if matches!(e.class(), Class::TooEarly | Class::Conflict) || e.halt() == Some(Halt::Deadline) => {
                log::warn!("{}: cannot {what}: {e}", d.path);
                Ok(Fenced::Refused(format!("cannot {what}: {e}")))
            }
            Err(e) => Err(Failure::api(&what, &e)),
        }
    }

    /// The state of the holder, if it still has the volume and its life is over.
    fn is_over(&self, h: &Held, scope: &Scope) -> Result<Option<InstanceState>, ApiError> {
        let facts = self.shared.facts();
        let (id, holder) = (h.volume_id.as_str(), h.holder.as_str());
        let now = self.shared.aws.describe_volumes(scope, &[Filter::exact("volume-id", &[id])])?;
        let still = waiting::held(now.iter().filter(|v| v.id == id), &facts.instance_id, &facts.zone);
        if still.first() != Some(h) {
            return Ok(None);
        }
        let states = self.shared.aws.describe_instances(scope, &[holder])?;
        Ok(states.into_iter().find(|(i, state)| i == holder && state.is_over()).map(|(_, state)| state))
    }
}

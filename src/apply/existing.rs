//! Source `x`: this very volume.

use std::time::Duration;

use super::hold::Origin;
use super::volume::{Acquired, SourceEnd, same};
use super::wait::{Turn, Wait};
use super::{DomainRun, Failure};
use crate::aws::ec2::Volume;
use crate::config::{Source, VolumeDirective};
use crate::plan::volumes::{self, Found, Standing};
use crate::plan::{tags, waiting};
use crate::scope::Scope;
use crate::waits::waiting;

impl DomainRun {
    /// Source `x`.
    pub(super) fn source_existing(
        &self,
        d: &VolumeDirective,
        read: &[Volume],
        waited: bool,
        scope: &Scope,
    ) -> Result<Acquired, SourceEnd> {
        let Some(id) = d.volume_id.clone() else {
            return Err(Failure::new("source x without volume-id").into());
        };
        let mut seen = read.iter().find(|v| v.id == id).cloned();
        let mut wait = Wait::new(self, d, false, waited);
        let _wait = waiting(scope, format!("{id} to be free"));
        let (mut said, mut warned) = (false, false);
        let mut pause = Duration::from_millis(500);
        let mut looked = false;
        loop {
            let Some(v) = seen else {
                let why = format!("{id} does not exist");
                // One that is waited for was looked for some times.
                return Err(if looked { SourceEnd::Absent(why) } else { SourceEnd::Missing(why) });
            };
            if let Some(by) = v.tag(tags::SUPERSEDED_BY).filter(|_| !std::mem::replace(&mut warned, true)) {
                log::warn!("{}: {id} was moved: it has become {by}, and its own data is that of before", d.path);
            }
            self.may_be_mounted(d, &format!("cannot use {id}"), v.multi_attach)?;
            let facts = self.shared.facts();
            match volumes::standing(&v, &facts.instance_id, &facts.zone) {
                Standing::Absent(why) => {
                    let held = waiting::held(std::iter::once(&v), &facts.instance_id, &facts.zone);
                    let Some(h) = held.first().filter(|_| wait.is_on()) else {
                        return Err(SourceEnd::Absent(format!("{id}: {why}")));
                    };
                    if let Turn::Over(text) =
                        wait.held(&held, &|states| format!("{id} is {}", h.text(states)), scope)?
                    {
                        return Err(SourceEnd::Absent(text));
                    }
                }
                Standing::Broken(why) => return Err(Failure::new(volumes::cannot_use(&id, &why)).into()),
                Standing::Changing(what) if wait.is_on() => wait.changing(&format!("{id} is {what}"), scope)?,
                Standing::Changing(what) => {
                    if !std::mem::replace(&mut said, true) {
                        log::info!("{}: waiting for {id}: {what}", d.path);
                    }
                    let waiting = |h| Failure::halted(format!("cannot use {id}: it is still {what}"), h);
                    scope.sleep(pause).map_err(waiting)?;
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
                // It came here between the two looks: somebody else on this instance did that.
                Standing::Here(device) if d.device.as_ref().is_some_and(|w| !same(w, &device)) => {
                    let why = format!("{id} was attached to this instance as {device} by somebody else");
                    return Err(Failure::new(why).into());
                }
                Standing::Here(device) => {
                    let found = Found { volume_id: id.clone(), device, source: Source::Existing };
                    return Ok(self.use_found(d, &found, std::slice::from_ref(&v), scope)?);
                }
                Standing::Free => match self.claim(d, &v, Origin::Claimed, None, scope)? {
                    Ok(device) => return Ok(self.finish_claim(d, &v, Source::Existing, &device, scope)?),
                    Err(lost) => {
                        log::info!("{}: {id}: {lost}", d.path);
                        // What the list says may be an old picture: not again at once.
                        let waiting = |h| Failure::halted(format!("cannot use {id}: {lost}"), h);
                        scope.sleep(pause).map_err(waiting)?;
                        pause = (pause * 2).min(Duration::from_secs(5));
                        wait.lost();
                    }
                },
            }
            looked = wait.is_on();
            seen = if looked { wait.look_at(&id, scope)? } else { self.describe(scope, &id)? };
        }
    }
}

//! `lifecycle-hook`: an Auto Scaling group that waits for this instance is told that the work goes on, and how it ended.
//!
//! <https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks.html>

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Daemon, MESSAGES};
use crate::apply::{Failure, Shared};
use crate::aws::{ApiError, Class};
use crate::config::{Hook, Transition};
use crate::parallel;
use crate::scope::{Scope, Stop, StopReason};

/// How often a heartbeat goes out: the time-out of a hook is 30 s at least.
const EVERY: Duration = Duration::from_secs(15);
/// How long one may take.
const BEAT: Duration = Duration::from_secs(10);
/// A machine that boots fast is up before its group waits for it: so long after the start the group is given time.
const EARLY: Duration = Duration::from_secs(60);
/// How long is waited before it is looked whether the group waits now.
const LOOK: Duration = Duration::from_secs(5);

/// Where the name of the group is, if the instance's tags are in its metadata.
const GROUP: &str = "tags/instance/aws:autoscaling:groupName";

/// The hooks of a transition, with a heart that beats until this is completed or dropped.
#[derive(Debug)]
pub(super) struct Hooks {
    shared: Arc<Shared>,
    hooks: Arc<Vec<Hook>>,
    /// So long a group that does not wait may still come to it.
    early: Scope,
    over: Stop,
    heart: Option<JoinHandle<()>>,
}

impl Daemon {
    /// The group is told from here on that the work goes on.
    pub(super) fn hooks(&self, on: Transition) -> Hooks {
        let hooks: Vec<Hook> = self.config.hooks.iter().filter(|h| h.on == on).cloned().collect();
        let (shared, hooks, over) = (self.context.shared.clone(), Arc::new(hooks), Stop::new());
        let heart = (!hooks.is_empty()).then(|| {
            let (shared, hooks, over) = (shared.clone(), hooks.clone(), over.clone());
            parallel::background("heartbeat", Box::new(move || beat(&shared, &hooks, &over)))
        });
        let early = if on == Transition::Launching { EARLY } else { Duration::ZERO };
        // Who asks to stop does not wait for a group that may never come.
        Hooks { early: Scope::new(&shared.clock, early, Some(&self.stop)), shared, hooks, over, heart: heart.flatten() }
    }
}

impl Hooks {
    /// The work is done, `well` or not. Nothing that goes wrong here changes that: it is said.
    pub(super) fn complete(mut self, well: bool) {
        self.still();
        parallel::map(self.hooks.len(), |i| self.complete_one(&self.hooks[i], well));
    }

    /// The same beside everything else.
    pub(super) fn complete_beside(self, well: bool) -> Option<JoinHandle<()>> {
        if self.hooks.is_empty() {
            return None;
        }
        parallel::background("hook", Box::new(move || self.complete(well)))
    }

    fn complete_one(&self, hook: &Hook, well: bool) {
        let (shared, result) = (&self.shared, if well { "CONTINUE" } else { "ABANDON" });
        let scope = Scope::new(&shared.clock, MESSAGES + EARLY, None);
        let end = group(shared, hook, &scope.within(BEAT)).and_then(|group| {
            let what = format!("complete the lifecycle action of {} in {group} with {result}", hook.name);
            let id = shared.facts().instance_id.clone();
            let done = || format!("{group} goes on with {result} of {}", hook.name);
            loop {
                match shared.aws.complete_lifecycle_action(&scope, &group, &hook.name, &id, well) {
                    Ok(()) => return Ok(done()),
                    // An answer was lost, and there is nothing left to complete.
                    Err(e) if e.class() == Class::Gone && e.may_have_worked() => return Ok(done()),
                    Err(e) if e.class() == Class::Gone => {
                        if self.early.sleep(LOOK).is_err() {
                            return Ok(format!("{group} does not wait for {}", hook.name));
                        }
                    }
                    Err(e) => return Err(Failure::api(&what, &e)),
                }
            }
        });
        match end {
            Ok(text) => log::info!("{text}"),
            Err(f) => log::error!("{f}; the group goes on when the time-out of the hook is over"),
        }
    }

    /// Ends the heartbeats, so that none comes after the end.
    fn still(&mut self) {
        self.over.request(StopReason::Terminate);
        if let Some(heart) = self.heart.take() {
            let _ = heart.join();
        }
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.over.request(StopReason::Terminate);
    }
}

/// Heartbeats of all hooks until it is `over`.
fn beat(shared: &Shared, hooks: &[Hook], over: &Stop) {
    let mut failing = false;
    loop {
        let ends = parallel::map(hooks.len(), |i| {
            let scope = Scope::new(&shared.clock, BEAT, Some(over));
            let group = group(shared, &hooks[i], &scope)?;
            let id = shared.facts().instance_id.clone();
            match shared.aws.record_heartbeat(&scope, &group, &hooks[i].name, &id) {
                // It may not wait yet, or not any more: who completes it says so.
                Err(e) if e.class() != Class::Gone => Err(beaten(&hooks[i], &e)),
                _ => Ok(()),
            }
        });
        if over.get().is_some() {
            return;
        }
        let failed = ends.into_iter().find_map(Result::err);
        if let (Some(f), false) = (&failed, failing) {
            log::warn!("{f}");
        }
        failing = failed.is_some();
        if Scope::new(&shared.clock, EVERY, Some(over)).sleep(EVERY).is_err() && over.get().is_some() {
            return;
        }
    }
}

fn beaten(hook: &Hook, e: &ApiError) -> Failure {
    Failure::api(&format!("tell Auto Scaling that the work for {} goes on", hook.name), e)
}

/// The group of a hook.
fn group(shared: &Shared, hook: &Hook, scope: &Scope) -> Result<String, Failure> {
    if let Some(group) = &hook.group {
        return Ok(group.clone());
    }
    let cannot = |why: &str| Failure::new(format!("cannot tell the group of the lifecycle hook {}: {why}", hook.name));
    match shared.imds.get(scope, GROUP) {
        Ok(Some(name)) if !name.is_empty() => Ok(name),
        Ok(_) => Err(cannot(
            "the instance's metadata does not have its tags; write group, or allow tags in instance metadata",
        )),
        Err(e) => Err(cannot(&e.to_string())),
    }
}

//! Life after the way out: an instance that hibernates takes this process along, and wakes it up again; one in a warm
//! pool may serve (again) later.
//!
//! When it is back, it may have other addresses and its credentials may be over: so everything is read anew, and init
//! runs again by itself, as a second run of the program would do it. An instance that is stopped boots anew: that needs
//! a service manager that starts us, and nothing here.

use std::time::Duration;

use super::{Daemon, Outcome};
use crate::apply::lock;
use crate::config::Transition;
use crate::model::Event;
use crate::poll::{Clocks, Noticed, Return, Service, away};
use crate::scope::{Scope, StopReason};

/// More than it takes to see that the instance is back, or to read the metadata again.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often the target state is asked for in a warm pool, and how long one answer may take.
const POOL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));

impl Daemon {
    /// Whether what was acted on leaves this process alive.
    pub(super) fn lives_on(&self) -> bool {
        let notice = lock(&self.context.notice);
        notice.as_ref().is_some_and(|n| n.action == "hibernate" || Service::of(&n.action) == Service::Pool)
    }

    /// Waits for the instance to be back, and makes everything new for another turn. `Some`: there is none. `so_far` is
    /// what the run comes to if nothing fails: another way out that is taken meanwhile changes it.
    pub(super) fn wait_for_return(&mut self, before: &Clocks, so_far: &mut Outcome) -> Option<Outcome> {
        // A signal that came during the way out counts now.
        self.stop.withdraw();
        let mut notice = lock(&self.context.notice).clone()?;
        if notice.action != "hibernate" {
            return self.renewed();
        }
        self.say("hibernating: init runs again when the instance is back");
        let shared = self.context.shared.clone();
        // Whoever waits for us to be ready goes on waiting; that clock stands still while the instance sleeps.
        self.notifier.extend_timeout(shared.clock.real(PATIENCE));
        let every = self.config.poll_interval;
        match away(&shared.imds, &shared.clock, every, &self.stop, &mut notice, before) {
            Return::Back(how) => self.say(&format!("the instance is back: {how}")),
            Return::Other(other) => {
                log::warn!("EC2 is going to {} this instance at {} instead", other.action, other.time_text);
                *lock(&self.context.notice) = Some(other);
                self.stop.request(StopReason::Interrupted);
                *so_far = self.way_out(StopReason::Interrupted, "released", Vec::new(), Vec::new()).outcome;
                return Some(Outcome::Done);
            }
            Return::Stopped => return self.stopped(),
        }
        self.acted_on = Some(notice);
        self.renewed()
    }

    /// As long as Auto Scaling keeps the instance in a warm pool nothing is started, nor on one that it ends. `Some`: it
    /// is over.
    pub(super) fn wait_in_warm_pool(&mut self) -> Option<Outcome> {
        if !self.args.poll || !self.names(Event::Terminating) {
            return None;
        }
        let shared = self.context.shared.clone();
        let mut waited = false;
        loop {
            let state = shared.imds.target_state(&Scope::new(&shared.clock, POOL.1, Some(&self.stop)));
            if self.stop.get() == Some(StopReason::Terminate) {
                return self.stopped();
            }
            match state.as_ref().map(|s| Service::of(s.as_deref().unwrap_or_default())) {
                Ok(Service::In) => break,
                Ok(Service::Over) => {
                    self.say("Auto Scaling ends this instance: nothing is started");
                    self.hooks(Transition::Terminating).complete(true);
                    return Some(Outcome::Done);
                }
                Ok(Service::Pool) if !waited => {
                    self.say("in a warm pool: init runs when the instance is in service");
                    // Into the pool and out of it are two launches.
                    self.hooks(Transition::Launching).complete_beside(true);
                    waited = true;
                }
                Ok(Service::Pool) => {}
                Err(e) => {
                    log::warn!("{e}");
                    if !waited {
                        break;
                    }
                }
            }
            self.notifier.extend_timeout(shared.clock.real(PATIENCE));
            let _ = Scope::new(&shared.clock, POOL.0, Some(&self.stop)).sleep(POOL.0);
        }
        if waited { self.renewed() } else { None }
    }

    fn stopped(&self) -> Option<Outcome> {
        self.say("stopped: nothing is left to be done");
        Some(Outcome::Done)
    }

    /// Makes everything new for another turn. `Some`: that cannot be done.
    fn renewed(&mut self) -> Option<Outcome> {
        self.notifier.extend_timeout(self.context.shared.clock.real(PATIENCE));
        let (outcome, text) = self.renew(&Noticed::default()).err()?;
        if self.stop.get() == Some(StopReason::Terminate) {
            return self.stopped();
        }
        text.lines().for_each(|line| log::error!("{line}"));
        Some(outcome)
    }
}

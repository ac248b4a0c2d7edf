//! Life after the way out: an instance that hibernates takes this process along, and wakes it up again.
//!
//! When it is back, it may have other addresses and its credentials may be over: so everything is read anew, and init
//! runs again by itself, as a second run of the program would do it. An instance that is stopped boots anew: that needs
//! a service manager that starts us, and nothing here.

use std::time::Duration;

use super::{Daemon, Outcome};
use crate::apply::lock;
use crate::poll::{Clocks, Noticed, Return, away};
use crate::scope::StopReason;

/// More than it takes to see that the instance is back, or to read the metadata again.
const PATIENCE: Duration = Duration::from_secs(600);

impl Daemon {
    /// Whether the interruption that was acted on leaves this process alive.
    pub(super) fn lives_on(&self) -> bool {
        lock(&self.context.notice).as_ref().is_some_and(|n| n.action == "hibernate")
    }

    /// Waits for the instance to be back, and makes everything new for another turn. `Some`: there is none.
    pub(super) fn wait_for_return(&mut self, before: &Clocks) -> Option<Outcome> {
        let mut notice = lock(&self.context.notice).clone()?;
        // A signal that came during the way out counts now.
        self.stop.withdraw();
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
                self.leave(StopReason::Interrupted);
                return Some(Outcome::Done);
            }
            Return::Stopped => {
                self.say("stopped: the way out was taken before");
                return Some(Outcome::Done);
            }
        }
        self.acted_on = Some(notice);
        self.notifier.extend_timeout(shared.clock.real(PATIENCE));
        let (outcome, text) = self.renew(&Noticed::default()).err()?;
        if self.stop.get() == Some(StopReason::Terminate) {
            self.say("stopped: the way out was taken before");
            return Some(Outcome::Done);
        }
        text.lines().for_each(|line| log::error!("{line}"));
        Some(outcome)
    }
}

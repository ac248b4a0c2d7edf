//! Watching the metadata service for the notice that EC2 takes the capacity back, and for what follows from it.

mod away;
mod others;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use time::OffsetDateTime;

use crate::clock::Clock;
use crate::imds::Imds;
use crate::model::Notice;
use crate::scope::{Scope, Stop, StopReason};

pub(crate) use away::{Clocks, Return, away};
pub(crate) use others::{Happening, Others, Service, Watch};

/// How far in the past a notice may be and still be acted on; an older one is left over from a failed termination.
const MAX_AGE: time::Duration = time::Duration::minutes(5);

/// How long one poll may take, with all its retries.
const PATIENCE: Duration = Duration::from_secs(30);

/// The notice that was acted on, once there is one.
pub(crate) type Noticed = Arc<Mutex<Option<Notice>>>;

/// Whether a notice is to be acted on at `now` (by AWS's clock), on a machine that booted at `booted`.
pub(crate) fn valid(n: &Notice, now: OffsetDateTime, booted: OffsetDateTime) -> bool {
    match n.action.as_str() {
        // What it announced has happened: the instance was stopped, and this is its next life.
        "stop" if n.time < booted => false,
        "terminate" | "stop" | "hibernate" => now - n.time <= MAX_AGE,
        _ => false,
    }
}

/// Who polls, in a thread of its own.
#[derive(Debug)]
pub(crate) struct Poller<'a> {
    pub(crate) imds: &'a Imds,
    pub(crate) clock: &'a Arc<Clock>,
    /// So often the notice is asked for.
    pub(crate) every: Duration,
    /// Asked to stop with a notice; a request of somebody else ends it.
    pub(crate) stop: &'a Stop,
    /// Where the notice goes.
    pub(crate) noticed: &'a Noticed,
    /// A notice that was acted on before.
    pub(crate) acted_on: Option<Notice>,
    /// What is asked for in between.
    pub(crate) others: Others,
    /// While the way out for Auto Scaling is taken: asked with an interruption that comes before its end. A request of
    /// somebody else ends the watch for one.
    pub(crate) hurry: &'a Stop,
    /// Set when a notice has been asked for, and there is none to act on.
    pub(crate) looked: &'a AtomicBool,
}

impl Poller<'_> {
    /// Polls until there is something to stop for, or somebody else asks to stop.
    pub(crate) fn poll(mut self) {
        let Poller { imds, clock, stop, .. } = self;
        let mut ignored = self.acted_on.take();
        let mut failing = false;
        loop {
            let asked = clock.now();
            match imds.notice(&Scope::new(clock, PATIENCE, Some(stop))) {
                Ok(None) => failing = recovered(failing),
                Ok(Some(n)) if ignored.as_ref() != Some(&n) && valid(&n, clock.corrected(), clock.booted()) => {
                    log::info!("EC2 is going to {} this instance at {}", n.action, n.time_text);
                    self.stop_for(n, stop, StopReason::Interrupted);
                    return;
                }
                Ok(Some(n)) => {
                    failing = recovered(failing);
                    if ignored.as_ref() != Some(&n) {
                        log::warn!("ignoring a notice that is not valid: action '{}', time {}", n.action, n.time_text);
                        ignored = Some(n);
                    }
                }
                Err(e) => {
                    if stop.get().is_none() && !std::mem::replace(&mut failing, true) {
                        log::error!("cannot poll for interruption notices, and goes on trying: {e}");
                    }
                }
            }
            if !self.looked.swap(true, Ordering::Relaxed) {
                stop.look();
            }
            if stop.get().is_none()
                && let Some(end) = self.others.ask(imds, clock, stop)
            {
                let time = end.time;
                self.stop_for(end, stop, StopReason::Terminating);
                if let Some(sooner) = self.sooner(time, ignored.as_ref()) {
                    self.stop_for(sooner, self.hurry, StopReason::Interrupted);
                }
                return;
            }
            let left = self.every.saturating_sub(clock.now().since(asked));
            let _ = Scope::new(clock, left, Some(stop)).sleep(left);
            if stop.get().is_some() {
                return;
            }
        }
    }

    fn stop_for(&self, notice: Notice, stop: &Stop, reason: StopReason) {
        *self.noticed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(notice);
        stop.request(reason);
    }

    /// A valid notice, and not the one to be `ignored`, of something that comes before `end`, unless the watch for it is
    /// over first.
    fn sooner(&self, end: OffsetDateTime, ignored: Option<&Notice>) -> Option<Notice> {
        let Poller { imds, clock, hurry, every, .. } = self;
        while hurry.get().is_none() {
            if let Ok(Some(n)) = imds.notice(&Scope::new(clock, PATIENCE, Some(hurry)))
                && n.time < end
                && ignored != Some(&n)
                && valid(&n, clock.corrected(), clock.booted())
            {
                log::info!("EC2 is going to {} this instance at {}, before Auto Scaling does", n.action, n.time_text);
                return Some(n);
            }
            let _ = Scope::new(clock, *every, Some(hurry)).sleep(*every);
        }
        None
    }
}

fn recovered(failing: bool) -> bool {
    if failing {
        log::info!("polling for interruption notices again");
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn which_notices_count() {
        let n = |action: &str| Notice {
            action: action.into(),
            time: datetime!(2026-01-01 12:00 UTC),
            time_text: String::new(),
        };
        let now = datetime!(2026-01-01 11:58 UTC);
        let booted = datetime!(2026-01-01 11:00 UTC);
        for action in ["terminate", "stop", "hibernate"] {
            assert!(valid(&n(action), now, booted));
        }
        assert!(!valid(&n("noop"), now, booted));
        assert!(valid(&n("stop"), datetime!(2026-01-01 12:05 UTC), booted));
        assert!(!valid(&n("stop"), datetime!(2026-01-01 12:05:01 UTC), booted));
        // The instance was stopped and started again within the five minutes.
        let (booted, now) = (datetime!(2026-01-01 12:02 UTC), datetime!(2026-01-01 12:03 UTC));
        assert!(!valid(&n("stop"), now, booted) && valid(&n("terminate"), now, booted));
    }
}

//! Watching the metadata service for the notice that EC2 takes the capacity back, and for what follows from it.

mod away;
mod others;

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

/// Polls until there is a valid notice or somebody else asks to stop. A notice is stored and then asked to stop with.
/// `acted_on` is one that was acted on before; `others` are asked for in between.
pub(crate) fn poll(
    imds: &Imds,
    clock: &Arc<Clock>,
    every: Duration,
    stop: &Stop,
    noticed: &Noticed,
    acted_on: Option<Notice>,
    others: &mut Others,
) {
    let mut ignored: Option<Notice> = acted_on;
    let mut failing = false;
    loop {
        let asked = clock.now();
        match imds.notice(&Scope::new(clock, PATIENCE, Some(stop))) {
            Ok(None) => failing = recovered(failing),
            Ok(Some(n)) if ignored.as_ref() != Some(&n) && valid(&n, clock.corrected(), clock.booted()) => {
                log::info!("EC2 is going to {} this instance at {}", n.action, n.time_text);
                *noticed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(n);
                stop.request(StopReason::Interrupted);
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
        if stop.get().is_none()
            && let Some(end) = others.ask(imds, clock, stop)
        {
            *noticed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(end);
            stop.request(StopReason::Terminating);
            return;
        }
        let left = every.saturating_sub(clock.now().since(asked));
        let _ = Scope::new(clock, left, Some(stop)).sleep(left);
        if stop.get().is_some() {
            return;
        }
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

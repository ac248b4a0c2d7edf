//! Watching the metadata service for the notice that EC2 takes the capacity back.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use time::OffsetDateTime;

use crate::clock::Clock;
use crate::imds::Imds;
use crate::model::Notice;
use crate::scope::{Scope, Stop, StopReason};

/// How far in the past a notice may be and still be acted on; an older one is left over from a failed termination.
const MAX_AGE: time::Duration = time::Duration::minutes(5);

/// How long one poll may take, with all its retries.
const PATIENCE: Duration = Duration::from_secs(30);

/// The notice that was acted on, once there is one.
pub(crate) type Noticed = Arc<Mutex<Option<Notice>>>;

/// Whether a notice is to be acted on at `now` (by AWS's clock).
pub(crate) fn valid(n: &Notice, now: OffsetDateTime) -> bool {
    matches!(n.action.as_str(), "terminate" | "stop" | "hibernate") && now - n.time <= MAX_AGE
}

/// Polls until there is a valid notice or somebody else asks to stop. A notice is stored and then asked to stop with.
pub(crate) fn poll(imds: &Imds, clock: &Arc<Clock>, every: Duration, stop: &Stop, noticed: &Noticed) {
    let mut ignored: Option<Notice> = None;
    let mut failing = false;
    loop {
        let asked = clock.now();
        match imds.notice(&Scope::new(clock, PATIENCE, Some(stop))) {
            Ok(None) => failing = recovered(failing),
            Ok(Some(n)) if valid(&n, clock.corrected()) => {
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
        for action in ["terminate", "stop", "hibernate"] {
            assert!(valid(&n(action), now));
        }
        assert!(!valid(&n("noop"), now));
        assert!(valid(&n("stop"), datetime!(2026-01-01 12:05 UTC)));
        assert!(!valid(&n("stop"), datetime!(2026-01-01 12:05:01 UTC)));
    }
}

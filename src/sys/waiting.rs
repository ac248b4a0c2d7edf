//! Waits that are told of: whatever waits for this machine longer than a moment says for what, since when and until when.

use std::time::Duration;

use time::OffsetDateTime;

use crate::clock::Tick;
use crate::scope::Scope;

/// A wait is not worth a word for so long.
const SILENT: Duration = Duration::from_secs(5);
/// After that it is told of so often.
const AGAIN: Duration = Duration::from_secs(30);
/// What changes all the time is told of this often at most.
const CHANGED: Duration = Duration::from_secs(5);

/// A wait, and what was said of it.
#[derive(Debug)]
pub(crate) struct Waiting {
    since: Tick,
    said: Option<(Tick, String)>,
}

impl Waiting {
    /// Begins now.
    pub(crate) fn begin(scope: &Scope) -> Waiting {
        Waiting { since: scope.clock.now(), said: None }
    }

    /// Says what is waited for, if it is time to.
    pub(crate) fn tell(&mut self, what: &str, scope: &Scope) {
        let now = scope.clock.now();
        if now.since(self.since) >= SILENT && self.is_due(what, now) {
            let since = scope.clock.corrected() - now.since(self.since);
            log::warn!("still waiting for {what}, since {}, until {}", time_of_day(since), until(scope));
        }
    }

    /// Whether `state` is to be said now: it is new, or was said long ago.
    pub(crate) fn is_due(&mut self, state: &str, now: Tick) -> bool {
        let due = self.said.as_ref().is_none_or(|(at, said)| {
            let pause = if said == state { AGAIN } else { CHANGED };
            now.since(*at) >= pause
        });
        if due {
            self.said = Some((now, state.to_owned()));
        }
        due
    }

    /// How long it is until there may be something to say.
    pub(crate) fn silent_for(&self, now: Tick) -> Duration {
        let next = self.said.as_ref().map_or(self.since.after(SILENT), |(at, _)| at.after(CHANGED));
        next.since(now)
    }
}

/// When the scope is over: `11:34:05 UTC`.
pub(crate) fn until(scope: &Scope) -> String {
    time_of_day(scope.clock.corrected() + scope.remaining())
}

fn time_of_day(t: OffsetDateTime) -> String {
    format!("{:02}:{:02}:{:02} UTC", t.hour(), t.minute(), t.second())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;

    #[test]
    fn what_is_new_is_said_and_what_stays_again_and_again() {
        let scope = Scope::new(&Arc::new(Clock::new(None).unwrap()), Duration::from_secs(60), None);
        let (begin, mut waiting) = (scope.clock.now(), Waiting::begin(&scope));
        let mut due = |state: &str, seconds: u64| waiting.is_due(state, begin.after(Duration::from_secs(seconds)));
        assert!(due("a", 0) && !due("a", 29) && due("a", 30));
        // One that changes all the time.
        assert!(!due("b", 34) && due("b", 35) && !due("c", 39) && due("d", 40) && !due("d", 69) && due("d", 70));
    }

    #[test]
    fn times_are_those_of_aws_clock() {
        let noon = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(12 * 3600 + 5 * 60 + 9);
        assert_eq!(time_of_day(noon), "12:05:09 UTC");
        let scope = Scope::new(&Arc::new(Clock::new(None).unwrap()), Duration::from_secs(60), None);
        assert!(Waiting::begin(&scope).silent_for(scope.clock.now()) > Duration::from_secs(4));
    }
}

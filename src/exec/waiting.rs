//! What is said of a command that runs long: a log that stands still looks like a program that hangs.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, Tick};
use crate::log::current_domain;
use crate::sys::notify::Notifier;

/// A command that takes longer than this is told of,
const FIRST: Duration = Duration::from_secs(5);
/// and again after this.
const AGAIN: Duration = Duration::from_secs(45);

/// A command that runs, from its start to its end (when this is dropped).
pub(super) struct Waiting<'a> {
    notifier: &'a Notifier,
    clock: Arc<Clock>,
    /// The command and where it is in the config.
    command: String,
    since: Tick,
    next: Tick,
    told: bool,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(notifier: &'a Notifier, name: &str, path: &str, clock: &Arc<Clock>) -> Waiting<'a> {
        let now = clock.now();
        let command = if path.is_empty() { name.to_owned() } else { format!("{name} ({path})") };
        Waiting { notifier, clock: clock.clone(), command, since: now, next: now.after(FIRST), told: false }
    }

    /// How long until there is something to say again.
    pub(super) fn until_next(&self) -> Duration {
        self.next.since(self.clock.now())
    }

    /// Says that it still runs, and until when it may, if that is due.
    pub(super) fn look(&mut self, until: Tick) {
        let now = self.clock.now();
        if self.next > now {
            return;
        }
        self.next = now.after(AGAIN);
        self.told = true;
        let (runs, left) = (now.since(self.since), until.since(now));
        let since = clock_time(&self.clock, -seconds(runs));
        // A watch has no end.
        let most = if left > Duration::from_secs(366 * 24 * 3600) {
            "for as long as it takes".to_owned()
        } else {
            format!("until {} at most (in {:.0} s)", clock_time(&self.clock, seconds(left)), left.as_secs_f64())
        };
        let text = format!("{} has been running for {:.0} s, since {since}, {most}", self.command, runs.as_secs_f64());
        log::info!("{text}");
        let domain = current_domain();
        self.notifier.aside(&if domain.is_empty() { text } else { format!("{domain}: {text}") });
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.told {
            self.notifier.status_again();
        }
    }
}

fn seconds(d: Duration) -> time::Duration {
    d.try_into().unwrap_or(time::Duration::MAX)
}

/// The time of day `after` now, in UTC.
fn clock_time(clock: &Clock, after: time::Duration) -> String {
    let Some(at) = clock.corrected().checked_add(after) else { return "never".to_owned() };
    format!("{:02}:{:02}:{:02}Z", at.hour(), at.minute(), at.second())
}

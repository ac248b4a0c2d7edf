//! The events beside the interruption notice, between two looks for that one.
//!
//! Only what the config names is asked for, and less often than the notice: there is more time to act on it. What comes
//! is handed to the story, which goes on polling meanwhile; but the end by Auto Scaling is an end.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::clock::{Clock, Tick};
use crate::config::Config;
use crate::imds::{Imds, ImdsError, Scheduled};
use crate::model::{Event, Facts, Notice};
use crate::scope::{Scope, Stop};

/// How often a recommendation and the target state are asked for.
const OFTEN: Duration = Duration::from_secs(5);
/// How often scheduled events are asked for: they are announced days ahead.
const SELDOM: Duration = Duration::from_secs(60);
/// How often the public addresses are asked for, where records follow them.
const ADDRESSES: Duration = Duration::from_secs(30);
/// How long one question may take: the next look for the notice waits for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// An event that the daemon goes on after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Happening {
    /// `rebalance` or `maintenance`.
    pub(crate) event: Event,
    /// What is announced, and for when.
    pub(crate) notice: Notice,
}

/// What the poll thread hands to the story; it outlasts a turn.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    inbox: Mutex<VecDeque<Happening>>,
    /// The public addresses, as they were asked for last; nobody has looked at them yet.
    addresses: Mutex<Option<Facts>>,
    /// What was handed over once is not again.
    handled: Mutex<BTreeSet<(Event, String)>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Whether something has come.
    pub(crate) fn has_something(&self) -> bool {
        !lock(&self.inbox).is_empty() || lock(&self.addresses).is_some()
    }

    /// The public addresses that have come last.
    pub(crate) fn take_addresses(&self) -> Option<Facts> {
        lock(&self.addresses).take()
    }

    /// What has come first.
    pub(crate) fn take(&self) -> Option<Happening> {
        lock(&self.inbox).pop_front()
    }

    /// Hands over, unless `key` was before.
    fn bring(&self, event: Event, notice: Notice, key: &str, stop: &Stop) {
        if lock(&self.handled).insert((event, key.to_owned())) {
            lock(&self.inbox).push_back(Happening { event, notice });
            stop.look();
        }
    }

    /// What was handed over is no more: the next one is another one.
    fn forget(&self, event: Event, key: &str) {
        lock(&self.handled).remove(&(event, key.to_owned()));
    }
}

/// One thing that is asked for now and then.
#[derive(Debug)]
struct Question {
    wanted: bool,
    every: Duration,
    next: Option<Tick>,
    /// How often in a row it has failed, and from how often on that is said.
    failures: u32,
    said_from: u32,
}

impl Question {
    fn new(wanted: bool, every: Duration) -> Question {
        Question { wanted, every, next: None, failures: 0, said_from: 1 }
    }

    /// The answer, if it is time for one; trouble is said once, and so is its end.
    fn ask<T>(
        &mut self,
        clock: &Arc<Clock>,
        stop: &Stop,
        what: &str,
        ask: impl FnOnce(&Scope) -> Result<T, ImdsError>,
    ) -> Option<T> {
        let now = clock.now();
        if !self.wanted || self.next.is_some_and(|next| now < next) || stop.get().is_some() {
            return None;
        }
        self.next = Some(now.after(self.every));
        let answer = ask(&Scope::new(clock, PATIENCE, Some(stop)));
        let failures = if answer.is_err() { self.failures.saturating_add(1) } else { 0 };
        let was_failing = std::mem::replace(&mut self.failures, failures) >= self.said_from;
        match &answer {
            Err(e) if failures == self.said_from && stop.get().is_none() => {
                log::error!("cannot look for '{what}', and goes on trying: {e}");
            }
            Ok(_) if was_failing => log::info!("looking for '{what}' again"),
            _ => {}
        }
        answer.ok()
    }
}

/// What is asked for, by the poll thread.
#[derive(Debug)]
pub(crate) struct Others {
    watch: Arc<Watch>,
    rebalance: Question,
    maintenance: Question,
    target: Question,
    addresses: Question,
    lead: Duration,
    timeout: Duration,
    /// The events that were there at the last look.
    scheduled: Vec<Scheduled>,
}

impl Others {
    /// What the config `names`. `now`: the public addresses are asked for too, if records follow them.
    pub(crate) fn of(config: &Config, names: &dyn Fn(Event) -> bool, watch: &Arc<Watch>, now: Option<Tick>) -> Others {
        let follow = now.map(|now| now.after(ADDRESSES));
        // Those of an earlier turn are old.
        watch.take_addresses();
        Others {
            watch: watch.clone(),
            rebalance: Question::new(names(Event::Rebalance), OFTEN),
            maintenance: Question::new(names(Event::Maintenance), SELDOM),
            target: Question::new(names(Event::Terminating), OFTEN),
            // Those of the start are known.
            // They come in several requests: one that fails now and then is no trouble.
            addresses: Question { next: follow, said_from: 3, ..Question::new(follow.is_some(), ADDRESSES) },
            lead: config.maintenance_lead,
            timeout: config.terminating_timeout,
            scheduled: Vec::new(),
        }
    }

    /// Asks for what is due, and hands over what has come. `Some`: Auto Scaling takes the instance out of service.
    pub(super) fn ask(&mut self, imds: &Imds, clock: &Arc<Clock>, stop: &Stop) -> Option<Notice> {
        if let Some(Some(state)) = self.target.ask(clock, stop, Event::Terminating.name(), |s| imds.target_state(s))
            && Service::of(&state) != Service::In
        {
            log::info!("Auto Scaling takes this instance out of service: its target state is {state}");
            return Some(self.end(&state, clock));
        }
        match self.rebalance.ask(clock, stop, Event::Rebalance.name(), |s| imds.rebalance(s)) {
            // As long as it is there, it is the same one.
            Some(Some(n)) if n.time >= clock.booted() => self.watch.bring(Event::Rebalance, n, "", stop),
            // One from before the boot is about an earlier life of the instance.
            Some(_) => self.watch.forget(Event::Rebalance, ""),
            None => {}
        }
        if let Some(scheduled) = self.maintenance.ask(clock, stop, Event::Maintenance.name(), |s| imds.scheduled(s)) {
            self.compare(scheduled);
        }
        let ask = |s: &Scope| {
            let mut facts = Facts::default();
            imds.refresh_public_addresses(s, &mut facts).map(|_| facts)
        };
        if let Some(facts) = self.addresses.ask(clock, stop, "public addresses", ask) {
            *lock(&self.watch.addresses) = Some(facts);
            stop.look();
        }
        for e in self.scheduled.iter().filter(|e| is_due(e, self.lead, clock.corrected(), clock.booted())) {
            self.watch.bring(Event::Maintenance, e.notice.clone(), &key(e), stop);
        }
        None
    }

    /// Says what is new, and what is no more.
    fn compare(&mut self, now: Vec<Scheduled>) {
        let before = std::mem::replace(&mut self.scheduled, now);
        for e in self.scheduled.iter().filter(|e| !before.contains(e)) {
            log::info!("scheduled for this instance: {} at {} ({})", e.notice.action, e.notice.time_text, e.id);
        }
        for e in before.iter().filter(|e| !self.scheduled.contains(e)) {
            log::info!("no longer scheduled: {} at {} ({})", e.notice.action, e.notice.time_text, e.id);
        }
    }

    fn end(&self, state: &str, clock: &Clock) -> Notice {
        let time = clock.corrected() + self.timeout;
        let shown = time.replace_nanosecond(0).unwrap_or(time);
        let action = if state == "Terminated" { "terminating" } else { state };
        Notice { action: action.to_owned(), time, time_text: shown.format(&Rfc3339).unwrap_or_default() }
    }
}

/// An event that is moved is another one.
fn key(e: &Scheduled) -> String {
    format!("{} {}", e.id, e.notice.time_text)
}

/// Whether it is time for a scheduled event.
fn is_due(e: &Scheduled, lead: Duration, now: OffsetDateTime, booted: OffsetDateTime) -> bool {
    let begins = e.notice.time;
    // A boot since then was its reboot or stop.
    let over = begins < booted || e.end.is_some_and(|end| end <= now);
    !over && now - begins >= -time::Duration::try_from(lead).unwrap_or(time::Duration::ZERO)
}

/// What Auto Scaling wants of this instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// To serve, or nothing that concerns us.
    In,
    /// To wait in a warm pool; it may serve later.
    Pool,
    /// To end.
    Over,
}

impl Service {
    /// What a target state means.
    pub(crate) fn of(state: &str) -> Service {
        match state {
            "Terminated" | "Warmed:Terminated" => Service::Over,
            _ if state.starts_with("Warmed:") => Service::Pool,
            _ => Service::In,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn when_maintenance_is_due() {
        let begins = datetime!(2026-01-01 12:00 UTC);
        let notice = Notice { action: "system-reboot".into(), time: begins, time_text: "noon".into() };
        let end = Some(datetime!(2026-01-01 14:00 UTC));
        let e = Scheduled { id: "instance-event-1".into(), notice, end };
        let lead = Duration::from_secs(600);
        let due = |e: &Scheduled, now, booted| is_due(e, lead, now, booted);
        let booted = datetime!(2025-12-01 0:00 UTC);
        assert!(!due(&e, datetime!(2026-01-01 11:49:59 UTC), booted));
        assert!(due(&e, datetime!(2026-01-01 11:50 UTC), booted));
        assert!(due(&e, datetime!(2026-01-01 13:59 UTC), booted));
        assert!(!due(&e, datetime!(2026-01-01 14:00 UTC), booted));
        // Without an end (a retirement) it stays due; after the reboot it is over.
        assert!(due(&Scheduled { end: None, ..e.clone() }, datetime!(2026-01-05 0:00 UTC), booted));
        assert!(!due(&e, datetime!(2026-01-01 12:05 UTC), datetime!(2026-01-01 12:04 UTC)));
    }

    #[test]
    fn what_a_target_state_means() {
        for (state, means) in [
            ("InService", Service::In),
            ("Standby", Service::In),
            ("Detached", Service::In),
            ("", Service::In),
            ("Warmed:Running", Service::Pool),
            ("Warmed:Stopped", Service::Pool),
            ("Warmed:Hibernated", Service::Pool),
            ("Warmed:Terminated", Service::Over),
            ("Terminated", Service::Over),
        ] {
            assert_eq!(Service::of(state), means, "{state}");
        }
    }

    #[test]
    fn the_same_is_handed_over_once() {
        let (watch, stop) = (Watch::default(), Stop::new());
        let notice = Notice { action: "x".into(), time: OffsetDateTime::UNIX_EPOCH, time_text: "t".into() };
        for (event, key) in [(Event::Rebalance, "1"), (Event::Rebalance, "1"), (Event::Maintenance, "1")] {
            watch.bring(event, notice.clone(), key, &stop);
        }
        assert!(watch.has_something());
        let all = || std::iter::from_fn(|| watch.take()).map(|h| h.event).collect::<Vec<Event>>();
        assert_eq!(all(), [Event::Rebalance, Event::Maintenance]);
        watch.forget(Event::Rebalance, "1");
        watch.bring(Event::Maintenance, notice.clone(), "1", &stop);
        watch.bring(Event::Rebalance, notice, "1", &stop);
        assert_eq!(all(), [Event::Rebalance]);
    }
}

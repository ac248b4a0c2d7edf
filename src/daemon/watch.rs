//! The watch: the thread that polls, and what happens while the daemon waits: events after which it goes on.
//!
//! Their commands give way to an end: when an interruption is announced or somebody asks to stop, they are ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use super::domain::{Domain, Time, each};
use super::{Daemon, End, MESSAGES, Outcome, UNHURRIED, incomplete, names_of};
use crate::apply::lock;
use crate::config::Transition;
use crate::log::in_domain;
use crate::model::{Event, Facts};
use crate::parallel;
use crate::plan::way_out;
use crate::poll::{Happening, Others, Poller};
use crate::scope::{Scope, StopReason};

/// How long a start waits for the first look at the notice.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// How long it may take to change records as the addresses have.
const FOLLOW: Duration = Duration::from_secs(60);

impl Daemon {
    /// Starts the thread that looks for notices and events.
    pub(super) fn poll(&self) -> Option<JoinHandle<()>> {
        if !self.args.poll {
            return None;
        }
        let (context, every, stop) = (self.context.clone(), self.config.poll_interval, self.stop.clone());
        let (acted_on, hurry, looked) = (self.acted_on.clone(), self.hurry.clone(), self.looked.clone());
        let now = self.records_follow().then(|| context.shared.clock.now());
        let others = Others::of(&self.config, &|event| self.names(event), &self.watch, now);
        let work = move || {
            crate::waits::untold();
            let (shared, noticed) = (&context.shared, &context.notice);
            let (imds, clock, stop, hurry) = (&shared.imds, &shared.clock, &stop, &hurry);
            Poller { imds, clock, every, stop, noticed, acted_on, others, hurry, looked: &looked }.poll();
        };
        parallel::background("poll", Box::new(work))
    }

    /// A run that starts under a valid notice begins nothing, or it would take back what its predecessor has just
    /// released: it puts back what that left in flight.
    pub(super) fn is_over_already(&self) -> Option<End> {
        if !self.args.poll || self.acted_on.is_some() {
            return None;
        }
        let clock = &self.context.shared.clock;
        let looked = || self.looked.load(Ordering::Relaxed);
        let reason = self.stop.wait_or(clock.real(FIRST_LOOK), &looked);
        let reason = reason.filter(|why| *why == StopReason::Interrupted)?;
        let all: Vec<&Arc<Domain>> = self.domains.iter().collect();
        let mut outcome = Outcome::Done;
        if self.args.init {
            self.settle(&all, &Scope::new(clock, Duration::ZERO, Some(&self.stop)));
            let left = self.roll_back(&all);
            if !left.is_empty() {
                outcome = incomplete("rolled back", &left);
            }
        }
        self.say("an interruption notice is in force: nothing is started");
        Some(End { outcome, left: Some(reason) })
    }

    /// Whether there are records that follow the addresses of the instance.
    fn records_follow(&self) -> bool {
        self.args.init && self.domains.iter().any(|d| d.config.records.iter().any(|r| r.follow))
    }

    /// Changes the records of these domains that follow the addresses of the instance, beside everything else: an
    /// interruption does not wait for it.
    fn follow(&self, now: Facts) -> Option<JoinHandle<()>> {
        let follows = |d: &&Arc<Domain>| !d.has_failed() && d.run.is_to_follow(&now);
        let domains: Vec<Arc<Domain>> = self.domains.iter().filter(follows).map(Arc::clone).collect();
        if domains.is_empty() {
            return None;
        }
        let (all, shared, stop) = (self.domains.clone(), self.context.shared.clone(), self.stop.clone());
        let work = move || {
            let scope = Scope::new(&shared.clock, FOLLOW, Some(&stop));
            if all.iter().any(|d| in_domain(d.name(), || d.run.keeps_address(&now, &scope))) {
                return;
            }
            shared.has_addresses(&now);
            for d in domains {
                in_domain(d.name(), || d.run.follow(&now, &scope));
            }
        };
        parallel::background("follow", Box::new(work))
    }

    /// Whether anything is to be done at `event`, of those that must be named.
    pub(super) fn names(&self, event: Event) -> bool {
        let hook = event == Event::Terminating && self.config.has_hook(Transition::Terminating);
        hook || self.domains.iter().any(|d| d.config.names(event))
    }

    /// Waits for a request to stop, and acts on what happens until then. It is over, too, when an event has released
    /// something (or should have): then nobody has asked, and `true` is returned.
    pub(super) fn watch(&self, background: &mut Vec<JoinHandle<()>>) -> bool {
        loop {
            let something = || self.watch.has_something();
            if self.stop.wait_or(Duration::from_secs(24 * 3600), &something).is_some() {
                return false;
            }
            background.retain(|t| !t.is_finished());
            if let Some(addresses) = self.watch.take_addresses() {
                background.extend(self.follow(addresses));
            }
            let Some(happening) = self.watch.take() else { continue };
            if self.happens(happening, background) && self.stop.get().is_none() {
                return true;
            }
        }
    }

    /// Commands, messages and releases of an event. `true`: it released something (or should have).
    fn happens(&self, Happening { event, notice }: Happening, background: &mut Vec<JoinHandle<()>>) -> bool {
        let all: Vec<&Arc<Domain>> = self.domains.iter().collect();
        let clock = &self.context.shared.clock;
        self.say(&match event {
            Event::Rebalance => format!("rebalance: EC2 recommends another instance since {}", notice.time_text),
            _ => format!("{}: {} at {}", event.name(), notice.action, notice.time_text),
        });
        let left = Duration::try_from(notice.time - clock.corrected()).unwrap_or_default();
        let time = match event {
            // There is no end to be ready for.
            Event::Rebalance => UNHURRIED,
            _ => Time::Announced(way_out::budget(left, self.config.interrupt_margin)),
        };
        *lock(&self.context.happening) = Some(notice);
        let messages = Scope::new(clock, MESSAGES, None);
        let first: Vec<_> = all.iter().flat_map(|d| d.send_messages(event, &messages)).collect();
        self.context.shared.nested.leaving(&names_of(&all));
        let ends = each(&all, |d| d.leave(event, time, Some(&self.stop)));
        if self.stop.get().is_some() {
            background.extend(first);
            return false;
        }
        background.extend(self.tell_of_failures(&all, &ends, event, MESSAGES, &first));
        background.extend(first);
        *lock(&self.context.happening) = None;
        let over = all.iter().any(|d| d.run.tasks(event).releases());
        if !over {
            self.say("watching for interruptions");
        }
        over
    }
}

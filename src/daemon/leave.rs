//! Every way out: `failed`, `stopping`, `interrupted`, `terminating`.
//!
//! Messages go out at once, beside the rest. Each domain runs its commands and then releases the volumes and records that
//! its config wants released, never at the same time; the domains do so beside each other. How the time is shared out is
//! in `plan::way_out`.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::domain::{Domain, Time, each};
use super::{Daemon, End, MESSAGES, Outcome, UNHURRIED, incomplete, join, names, names_of};
use crate::apply::lock;
use crate::config::Transition;
use crate::log::in_domain;
use crate::model::Event;
use crate::parallel;
use crate::plan::way_out;
use crate::scope::{Scope, StopReason};

/// How long the messages that tell of a failure wait for those that told of the event.
const FIRST_MESSAGES: Duration = Duration::from_secs(3);

impl Daemon {
    /// `failed` for all: the end of the run.
    pub(super) fn fail(&self, all: &[&Arc<Domain>], left: &[String]) -> Outcome {
        let (failed, standing): (Vec<&Arc<Domain>>, Vec<&Arc<Domain>>) = all.iter().partition(|d| d.has_failed());
        let mut text = format!("failed: {}", names(&failed));
        if !standing.is_empty() {
            text.push_str(&format!("; not failed, but not started because of it: {}", names(&standing)));
        }
        self.say(&text);
        // Those that stand are told why they do not start.
        standing.iter().for_each(|d| d.note(text.clone()));
        self.announce(all, left.is_empty());
        let mut background = self.tidy();
        background.extend(self.fail_alone(all));
        join(background);
        let kept = kept(all);
        match (left.is_empty(), kept.is_empty()) {
            (true, true) => Outcome::Failed,
            (true, false) => incomplete("released", &kept),
            _ => incomplete("rolled back", &[left, &kept].concat()),
        }
    }

    /// `failed` commands, releases and messages of these domains, beside whatever comes next; not again for one that had
    /// them.
    pub(super) fn fail_alone(&self, domains: &[&Arc<Domain>]) -> Vec<JoinHandle<()>> {
        let domains: Vec<&Arc<Domain>> = domains.iter().copied().filter(|d| d.is_to_be_told()).collect();
        let domains = domains.as_slice();
        if domains.is_empty() {
            return Vec::new();
        }
        let clock = &self.context.shared.clock;
        let messages = Scope::new(clock, MESSAGES, None);
        let news = domains.iter().filter(|d| self.is_news(d));
        let mut background: Vec<_> = news.flat_map(|d| d.send_messages(Event::Failed, &messages)).collect();
        self.take_time(domains, Event::Failed);
        self.context.shared.nested.leaving(&names_of(domains));
        for d in domains.iter().map(|d| Arc::clone(d)) {
            let work = move || {
                in_domain(d.name(), || d.leave(Event::Failed, UNHURRIED, None));
            };
            background.extend(parallel::background("failed", Box::new(work)));
        }
        background
    }

    /// Where nothing is announced, the service manager waits as long as the longest chain may take.
    fn take_time(&self, domains: &[&Arc<Domain>], event: Event) {
        let chains = domains.iter().map(|d| d.phases(event, UNHURRIED).records);
        let clock = &self.context.shared.clock;
        self.notifier.extend_timeout(clock.real(chains.max().unwrap_or_default() + MESSAGES));
    }

    /// The way out for `reason`. `left`: what could not be `done` before it; `background`: what goes on beside it. Its last
    /// line says what was not done, and where that is anything, somebody must look.
    pub(super) fn way_out(
        &self,
        reason: StopReason,
        done: &str,
        mut left: Vec<String>,
        background: Vec<JoinHandle<()>>,
    ) -> End {
        self.leave(reason, left.is_empty());
        left.extend(kept(&self.domains.iter().collect::<Vec<_>>()));
        join(background);
        let (whole, begin, then) = match reason {
            StopReason::Terminate => ("stopped", "stopped", ""),
            StopReason::Interrupted => {
                ("interrupted: done; the instance is left running", "interrupted", "; the instance is left running")
            }
            StopReason::Terminating => {
                ("terminating: done; Auto Scaling may go on", "terminating", "; Auto Scaling may go on")
            }
        };
        End { outcome: self.over(done, &left, [whole, begin, then]), left: Some(reason) }
    }

    /// The end after an event that released something, with nobody having asked for an end.
    pub(super) fn released(&self) -> Outcome {
        let left = kept(&self.domains.iter().collect::<Vec<_>>());
        self.over("released", &left, ["released: the daemon ends here", "released", "; the daemon ends here"])
    }

    /// Says how a shutdown ended; `left` is what could not be `done`.
    fn over(&self, done: &str, left: &[String], [whole, begin, then]: [&str; 3]) -> Outcome {
        if !left.is_empty() {
            incomplete(done, left);
        }
        let undone = self.undone(left);
        // A snapshot that was not made leaves nothing behind that somebody must look at.
        let all = [undone.as_slice(), &self.unmade()].concat();
        self.say(&way_out::last_line(whole, begin, then, &all));
        if undone.is_empty() { Outcome::Done } else { Outcome::Incomplete }
    }

    /// What is `left`, and the commands that did not do their work, in few words.
    fn undone(&self, left: &[String]) -> Vec<String> {
        let of = |d: &Arc<Domain>, text: &str| self.of(d, text);
        let in_short = |text: &String| {
            let whose = self.domains.iter().find_map(|d| Some((d, text.strip_prefix(d.name())?.strip_prefix(": ")?)));
            whose.map_or_else(|| way_out::in_short(text), |(d, text)| of(d, &way_out::in_short(text)))
        };
        let commands = |d: &Arc<Domain>| lock(&d.undone).iter().map(|text| of(d, text)).collect::<Vec<_>>();
        left.iter().map(in_short).chain(self.domains.iter().flat_map(commands)).collect()
    }

    /// The snapshots that were not made, in few words.
    fn unmade(&self) -> Vec<String> {
        let of =
            |d: &Arc<Domain>| lock(&d.unmade).iter().map(|t| self.of(d, &way_out::in_short(t))).collect::<Vec<_>>();
        self.domains.iter().flat_map(of).collect()
    }

    /// What is said of a domain; where there is only one, it is not named.
    fn of(&self, d: &Domain, text: &str) -> String {
        if self.domains.len() == 1 { text.to_owned() } else { format!("{}: {text}", d.name()) }
    }

    /// `stopping`, `interrupted` or `terminating`. `clean`: nothing is left of a roll-back before it.
    fn leave(&self, reason: StopReason, clean: bool) {
        let all: Vec<&Arc<Domain>> = self.domains.iter().collect();
        match reason {
            StopReason::Terminate => {
                self.notifier.stopping();
                self.say("stopping");
                let messages = Scope::new(&self.context.shared.clock, MESSAGES, None);
                let background = all.iter().flat_map(|d| d.send_messages(Event::Stopping, &messages)).collect();
                self.take_time(&all, Event::Stopping);
                self.context.shared.nested.leaving(&names_of(&all));
                each(&all, |d| d.leave(Event::Stopping, UNHURRIED, None));
                join(background);
            }
            StopReason::Interrupted => {
                self.announced(&all, Event::Interrupted);
            }
            StopReason::Terminating => {
                let hooks = self.hooks(Transition::Terminating);
                let mut well = self.announced(&all, Event::Terminating);
                if !self.hurry.request(StopReason::Terminating) {
                    well = self.announced(&all, Event::Interrupted);
                }
                hooks.complete(well && clean);
            }
        }
    }

    /// What is left until the announced time, if one was announced.
    fn left(&self) -> Option<Duration> {
        let notice = lock(&self.context.notice);
        notice.as_ref().map(|n| (n.time - self.context.shared.clock.corrected()).try_into().unwrap_or_default())
    }

    /// How long a roll-back may take.
    pub(super) fn roll_back_budget(&self) -> Duration {
        way_out::roll_back(self.left())
    }

    /// The way out before an announced end. `false`: something of it failed.
    fn announced(&self, all: &[&Arc<Domain>], event: Event) -> bool {
        let clock = &self.context.shared.clock;
        let left = self.left().unwrap_or_default();
        let budget = way_out::budget(left, self.config.interrupt_margin);
        self.say(&format!("{}: {} s for the way out", event.name(), budget.as_secs()));
        self.notifier.extend_timeout(clock.real(budget + MESSAGES));
        let scope = Scope::new(clock, budget, None);
        let mut background: Vec<_> = all.iter().flat_map(|d| d.send_messages(event, &scope)).collect();
        let hurry = (event == Event::Terminating).then_some(&self.hurry);
        self.context.shared.nested.leaving(&names_of(all));
        let ends = each(all, |d| d.leave(event, Time::Announced(budget), hurry));
        let hurried = hurry.is_some_and(|h| h.get().is_some());
        if !hurried {
            background.extend(self.tell_of_failures(all, &ends, event, way_out::LEAST, &background));
        }
        join(background);
        ends.iter().all(|well| *well)
    }
}

impl Daemon {
    /// A second message of `event` for each domain in which something failed: after its `first` ones, if these do not
    /// take long.
    pub(super) fn tell_of_failures(
        &self,
        all: &[&Arc<Domain>],
        ends: &[bool],
        event: Event,
        budget: Duration,
        first: &[JoinHandle<()>],
    ) -> Vec<JoinHandle<()>> {
        let clock = &self.context.shared.clock;
        let failed = || all.iter().zip(ends).filter(|(_, well)| !**well);
        let patience = Scope::new(clock, FIRST_MESSAGES, None);
        while failed().count() > 0
            && first.iter().any(|t| !t.is_finished())
            && patience.sleep(Duration::from_millis(10)).is_ok()
        {}
        failed().flat_map(|(d, _)| d.send_messages(event, &Scope::new(clock, budget, None))).collect()
    }
}

/// What these domains could not release.
fn kept(domains: &[&Arc<Domain>]) -> Vec<String> {
    domains
        .iter()
        .flat_map(|d| lock(&d.kept).iter().map(|(_, k)| format!("{}: {k}", d.name())).collect::<Vec<_>>())
        .collect()
}

//! The story of a run: load, `starting`, init, `started`, poll, and the way out.
//!
//! ```text
//! load ──> starting ──> init ──> started ──> wait ──> interrupted | terminating | stopping ──> exit 0 or 3
//!   ^          │          │         │                      │
//!   │          └──────────┴─────────┴──> failed ──> retry, or exit 1 or 3
//!   └──────────────────── (hibernated, in a warm pool) the instance is back
//! ```
//!
//! A turn of the story is from `load` to the way out; most runs have one. `setup` reads metadata and config and makes
//! what all share, `domain` is one application during the run, `leave` is every way out, `resume` the life after it,
//! `on_failure` what follows a failure, `rescue` what follows a panic. Here is only the order of things; how they are
//! done is in `apply`, `exec`, `notify` and `poll`.

mod domain;
mod hook;
mod leave;
mod on_failure;
pub(crate) mod rescue;
mod resume;
mod setup;
mod strays;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::apply::{sweep, tidy};
use crate::cli::Args;
use crate::log::in_domain;
use crate::macros::Values;
use crate::model::{Event, Notice};
use crate::parallel;
use crate::plan::way_out::ROLL_BACK;
use crate::poll::{Clocks, Watch};
use crate::scope::{Halt, Scope, Stop, StopReason};
use crate::sys::{freeze, hostname, notify::Notifier};
use domain::{Context, Domain, Time, each};

/// What a run comes to: the exit codes of the README.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done, interrupted or stopped, or nothing to do.
    Done,
    /// Failed; what was in flight is rolled back.
    Failed,
    /// The command line or the config is wrong; nothing was touched.
    Usage,
    /// Something could not be rolled back or released, or a command of a shutdown failed.
    Incomplete,
}

/// How long a command may take at `stopping` and `failed`.
const WAY_OUT_COMMAND: Duration = Duration::from_secs(60);
/// The time of a way out before no announced end.
const UNHURRIED: Time = Time::Unhurried(WAY_OUT_COMMAND);
/// How long messages may take, but at `interrupted`.
const MESSAGES: Duration = Duration::from_secs(60);
/// How long the tags of committed volumes may take.
const TIDY: Duration = Duration::from_secs(120);

/// Everything that a run has.
struct Daemon {
    args: Args,
    config: crate::config::Config,
    context: Arc<Context>,
    domains: Vec<Arc<Domain>>,
    notifier: Arc<Notifier>,
    stop: Stop,
    /// The notice that an earlier turn acted on.
    acted_on: Option<Notice>,
    /// What the poll thread brings.
    watch: Arc<Watch>,
    /// The poll thread has asked for a notice.
    looked: Arc<AtomicBool>,
    /// Asks the way out for Auto Scaling to make room for an interruption; any request ends the watch for one.
    hurry: Stop,
    failing: on_failure::Failing,
    strays: strays::Strays,
}

/// How a turn of the story ended.
struct End {
    outcome: Outcome,
    /// Why the way out was taken; `None`: the turn failed, or nobody asked.
    left: Option<StopReason>,
}

impl From<Outcome> for End {
    fn from(outcome: Outcome) -> End {
        End { outcome, left: None }
    }
}

/// Runs the daemon to its end.
pub(crate) fn run(args: Args) -> Outcome {
    let stop = Stop::new();
    match setup::setup(args, &stop) {
        Ok(setup::Ready::Daemon(mut daemon)) => {
            let _locks = match setup::lock_domains(&daemon) {
                Ok(locks) => locks,
                Err(e) if stop.get() == Some(StopReason::Terminate) => {
                    log::info!("stopped: {e}");
                    return Outcome::Done;
                }
                Err(e) => {
                    log::error!("{e}");
                    return Outcome::Failed;
                }
            };
            rescue::arm();
            let outcome = match rescue::reason() {
                None => daemon.story(),
                Some(why) => daemon.rescue(&why),
            };
            let outcome = daemon.with_strays(outcome);
            daemon.context.shared.runner.hand_over(&daemon.context.shared.clock);
            outcome
        }
        Ok(setup::Ready::Nothing) => Outcome::Done,
        // There was nothing to undo and nobody to tell yet.
        Err((Outcome::Failed, text)) if stop.get() == Some(StopReason::Terminate) => {
            log::info!("stopped: {text}");
            Outcome::Done
        }
        Err((outcome, text)) => {
            for line in text.lines() {
                log::error!("{line}");
            }
            outcome
        }
    }
}

/// `--check`: loads the config and says what is to be said about it.
pub(crate) fn check(args: &Args) -> Outcome {
    let Some(input) = &args.userdata else {
        log::error!("--check needs --userdata=FILE");
        return Outcome::Usage;
    };
    match setup::read_input(input, None) {
        Ok(config) => {
            for w in config.iter().flat_map(|c| &c.warnings) {
                log::warn!("{w}");
            }
            config.iter().flat_map(crate::config::advice).for_each(|a| log::info!("{a}"));
            let domains = config.map_or(0, |c| c.domains.len());
            log::info!("the config is good: {domains} domain(s)");
            Outcome::Done
        }
        Err((outcome, text)) => {
            text.lines().for_each(|l| log::error!("{l}"));
            outcome
        }
    }
}

impl Daemon {
    /// Turns, until one of them is the last.
    fn story(&mut self) -> Outcome {
        loop {
            if let Some(outcome) = self.wait_in_warm_pool() {
                return outcome;
            }
            let before = Clocks::now();
            let mut end = self.turn();
            // Who asked to stop is not kept waiting by a notice that came at the same moment.
            if end.left.is_none_or(|why| why == StopReason::Terminate) || !self.lives_on() {
                return end.outcome;
            }
            if let Some(outcome) = self.wait_for_return(&before, &mut end.outcome) {
                return if outcome == Outcome::Done { end.outcome } else { outcome };
            }
        }
    }

    fn turn(&mut self) -> End {
        self.hurry = Stop::new();
        let poller = self.poll();
        if let Some(end) = self.is_over_already() {
            return end;
        }
        let end = match self.attempts() {
            Ok(background) => {
                let mut background = background;
                let mut released = false;
                if self.args.poll {
                    self.say("watching for interruptions");
                    released = self.watch(&mut background);
                }
                match self.stop.get() {
                    Some(reason) => self.way_out(reason, "released", Vec::new(), background),
                    None => {
                        join(background);
                        if released { self.released() } else { Outcome::Done }.into()
                    }
                }
            }
            Err(end) => end,
        };
        // It ends with the request that ended us; where nobody asked (a failed init) it ends with the process.
        drop(poller);
        end
    }

    /// After a panic: what was in flight is put back, and all domains have failed.
    fn rescue(&mut self, why: &str) -> Outcome {
        // It may have been long after `started`: no reason to end an instance.
        self.config.on_failure.clear();
        self.say("putting back what was in flight when this program broke off");
        let all: Vec<&Arc<Domain>> = self.domains.iter().collect();
        // The programs of its commands are still our children.
        let scope = Scope::new(&self.context.shared.clock, WAY_OUT_COMMAND, None);
        self.context.shared.runner.end_inherited(&scope);
        // So is the guard of what was frozen: what it had no time to thaw would stay so.
        freeze::thaw_left(&self.context.shared.root, &scope);
        let text = format!("this program broke off because of a fault of its own, please report it: {why}");
        for d in &all {
            in_domain(d.name(), || d.run.open_journal(true));
            d.fail(text.clone());
        }
        let left = self.roll_back(&all);
        self.fail(&all, &left)
    }

    /// One line for people and for `systemctl status`.
    fn say(&self, text: &str) {
        log::info!("{text}");
        self.notifier.status(text);
    }

    /// `starting`, init, host name, `started`, readiness. `Err`: it failed, and all that follows from it is done.
    fn until_started(&self, scope: &Scope) -> Result<Vec<JoinHandle<()>>, End> {
        let all: Vec<&Arc<Domain>> = self.domains.iter().collect();
        if self.args.init {
            self.settle(&all, scope);
        }
        self.say(&format!("starting {} domain(s)", all.len()));
        self.commands(&all, Event::Starting, scope, None);
        if let Some(reason) = self.stop.get() {
            let left = self.roll_back(&all);
            return Err(self.way_out(reason, "rolled back", left, Vec::new()));
        }
        if all.iter().any(|d| d.has_failed() && d.config.critical) {
            let left = self.roll_back(&all);
            return Err(self.fail(&all, &left).into());
        }

        let failed: Vec<&Arc<Domain>> = all.iter().copied().filter(|d| d.has_failed()).collect();
        let mut left = self.roll_back(&failed);
        if self.args.init {
            let standing: Vec<&Arc<Domain>> = all.iter().copied().filter(|d| !d.has_failed()).collect();
            left.extend(self.init(&standing, scope));
            if let Some(reason) = self.stop.get() {
                let tidying = self.tidy();
                return Err(self.way_out(reason, "rolled back", left, tidying));
            }
            if all.iter().any(|d| d.has_failed() && d.config.critical) {
                return Err(self.fail(&all, &left).into());
            }
            self.set_hostname();
        }

        // A domain that is not critical fails alone; the others go on.
        let (failed, standing): (Vec<&Arc<Domain>>, Vec<&Arc<Domain>>) = all.iter().partition(|d| d.has_failed());
        let mut background = self.fail_alone(&failed);
        self.commands(&standing, Event::Started, scope, None);
        if let Some(reason) = self.stop.get() {
            background.extend(self.tidy());
            return Err(self.way_out(reason, "rolled back", left, background));
        }
        let (started, late): (Vec<&Arc<Domain>>, Vec<&Arc<Domain>>) =
            standing.iter().copied().partition(|d| !d.has_failed());
        if late.iter().any(|d| d.config.critical) {
            let kept = names(&standing);
            log::error!("the volumes and records of {kept} are kept: their applications may have started");
            let outcome = self.fail(&all, &left);
            join(background);
            return Err(outcome.into());
        }
        background.extend(self.fail_alone(&late));

        for d in &started {
            in_domain(d.name(), || log::info!("started"));
        }
        self.notifier.ready();
        let text = if started.is_empty() { "ready".to_owned() } else { format!("ready: {} started", names(&started)) };
        self.say(&text);
        let messages = Scope::new(&scope.clock, MESSAGES, None);
        background.extend(started.iter().flat_map(|d| d.send_messages(Event::Started, &messages)));
        background.extend(self.tidy());
        if self.args.poll {
            started.iter().for_each(|d| d.keep_snapshots(&self.stop));
        }
        background.extend(self.sweep(&started));
        if self.args.poll {
            background.extend(self.settle_late());
        }
        Ok(background)
    }

    /// Runs the commands of `event`; a domain whose commands fail has failed. Says of each domain whether they went well.
    fn commands(&self, domains: &[&Arc<Domain>], event: Event, scope: &Scope, default: Option<Duration>) -> Vec<bool> {
        each(domains, |d| d.run_commands(event, scope, default, false).is_empty())
    }

    /// Init of all domains at once; those that failed are rolled back. What could not be is returned.
    fn init(&self, domains: &[&Arc<Domain>], scope: &Scope) -> Vec<String> {
        let undo = || Scope::new(&scope.clock, self.roll_back_budget(), None);
        let addresses = domains.iter().filter(|d| d.config.address.is_some()).count();
        self.context.shared.addresses_to_come.store(addresses, Ordering::Relaxed);
        self.context.shared.nested.only(&names_of(domains));
        let ends = each(domains, |d| d.run.init(scope, &undo));
        let mut left = Vec::new();
        let mut lost = Vec::new();
        for (d, p) in domains.iter().zip(ends) {
            p.passed_over.into_iter().for_each(|e| d.note(e));
            for l in &p.left {
                d.note(format!("not rolled back: {l}"));
            }
            left.extend(p.left.iter().map(|l| format!("{}: {l}", d.name())));
            if let Some((path, f)) = p.critical {
                in_domain(d.name(), || match f.halt {
                    Some(Halt::Stopped(_)) => log::warn!("{path}: {f}"),
                    _ => log::error!("{path}: {f}"),
                });
                d.fail(format!("{path}: {f}"));
                lost.push(*d);
            }
        }
        left.extend(self.roll_back(&lost));
        left
    }

    /// Opens the journals, and settles what runs that were cut off left.
    fn settle(&self, all: &[&Arc<Domain>], scope: &Scope) {
        all.iter().for_each(|d| in_domain(d.name(), || d.run.open_journal(false)));
        self.settle_strays(all);
        let cut_off: Vec<&Arc<Domain>> = all.iter().copied().filter(|d| d.run.holds_anything()).collect();
        if !cut_off.is_empty() {
            self.say(&format!("settling what an earlier run of {} left", names(&cut_off)));
            each(&cut_off, |d| d.run.settle(scope));
        }
    }

    /// Rolls back what these domains hold, if they hold anything. What could not be is returned.
    fn roll_back(&self, lost: &[&Arc<Domain>]) -> Vec<String> {
        // Before any of them is put back: what they have together is nobody's then.
        lost.iter().for_each(|d| d.run.renounce(None));
        let lost: Vec<&Arc<Domain>> = lost.iter().copied().filter(|d| d.run.holds_anything()).collect();
        if lost.is_empty() {
            return Vec::new();
        }
        self.say(&format!("rolling back {}", names(&lost)));
        let clock = &self.context.shared.clock;
        self.notifier.extend_timeout(clock.real(ROLL_BACK + WAY_OUT_COMMAND));
        let scope = Scope::new(clock, self.roll_back_budget(), None);
        self.context.shared.nested.leaving(&names_of(&lost));
        let mut left = Vec::new();
        for (d, kept) in lost.iter().zip(each(&lost, |d| d.run.roll_back(None, &scope))) {
            for l in kept {
                d.note(format!("not rolled back: {l}"));
                left.push(format!("{}: {l}", d.name()));
            }
        }
        left
    }

    /// Never critical.
    fn set_hostname(&self) {
        let Some(template) = &self.config.hostname else { return };
        let values = match self.domains.first() {
            Some(d) => Values { domain: String::new(), ..d.values(Event::Starting) },
            None => Values { facts: self.context.shared.facts(), ..Values::default() },
        };
        let name = template.expand(&values);
        match hostname::set(&self.context.shared.root, &name) {
            Ok(()) => log::info!("the host name is {name}"),
            Err(e) => log::warn!("cannot set the host name to '{name}': {e}"),
        }
    }

    /// Brings the tags of committed volumes up to date, off the path: nothing waits for it but the end.
    fn tidy(&self) -> Vec<JoinHandle<()>> {
        let (shared, domains) = (self.context.shared.clone(), self.domains.clone());
        let work = move || {
            let runs: Vec<_> = domains.iter().map(|d| &d.run).collect();
            tidy::tidy(&shared, &runs, &Scope::new(&shared.clock, TIDY, None));
        };
        parallel::background("tidy", Box::new(work)).into_iter().collect()
    }
}

impl Daemon {
    /// Looks for claims that were given up and come late, beside everything else; a stop ends it.
    fn settle_late(&self) -> Vec<JoinHandle<()>> {
        let scope = Scope::new(&self.context.shared.clock, Duration::MAX, Some(&self.stop));
        let late = self.domains.iter().filter(|d| d.run.has_late());
        let look = |d: &Arc<Domain>| {
            let (d, scope) = (d.clone(), scope.clone());
            parallel::background("late", Box::new(move || d.run.settle_late(&scope)))
        };
        late.filter_map(look).collect()
    }

    /// Takes away the records of dead members of the fleet, beside everything else; a stop ends it.
    fn sweep(&self, domains: &[&Arc<Domain>]) -> Option<JoinHandle<()>> {
        let domains: Vec<Arc<Domain>> =
            domains.iter().filter(|d| d.run.shares_names()).map(|d| Arc::clone(d)).collect();
        if domains.is_empty() {
            return None;
        }
        let shared = self.context.shared.clone();
        let scope = Scope::new(&shared.clock, TIDY, Some(&self.stop));
        let work = move || {
            let runs: Vec<_> = domains.iter().map(|d| &d.run).collect();
            sweep::sweep(&shared, &runs, &scope);
        };
        parallel::background("sweep", Box::new(work))
    }
}

fn incomplete(done: &str, left: &[String]) -> Outcome {
    log::error!("something could not be {done} and needs a look:");
    for l in left {
        log::error!("  {l}");
    }
    Outcome::Incomplete
}

fn names_of<'a>(domains: &[&'a Arc<Domain>]) -> Vec<&'a str> {
    domains.iter().map(|d| d.name()).collect()
}

fn names(domains: &[&Arc<Domain>]) -> String {
    let names = names_of(domains);
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for t in threads {
        let _ = t.join();
    }
}

//! `on-failure`: what follows a run that failed, once all is rolled back and told.
//!
//! A retry is init and `started` once more in this process: the unit goes on starting, so that what is ordered after it
//! still comes (a unit that a manager restarts does not start those again). What ends the instance comes last: it is the
//! only thing that this program does which nothing puts back, so it is done only as the config says, and never twice as
//! fast as the config says.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::domain::Domain;
use super::hook::Hooks;
use super::{Daemon, End, MESSAGES, Outcome, ROLL_BACK, WAY_OUT_COMMAND};
use crate::apply::{Failure, lock};
use crate::aws::Class;
use crate::clock::is_plausible;
use crate::config::{Action, ExecLine, ExitCodes, OnFailure, Transition};
use crate::plan::on_failure::{Reboots, pause};
use crate::random;
use crate::scope::{Halt, Scope};
use crate::sys::beside;
use crate::sys::journal::JournalFile;
use crate::sys::power::{self, Power};

/// How long the call or the command may take that ends the instance.
const ACT: Duration = Duration::from_secs(120);

/// How long the program for it is looked for: on a disk that does not answer it is not found.
const FIND: Duration = Duration::from_secs(10);

/// Where a run that fails stands.
#[derive(Debug)]
pub(super) struct Failing {
    /// Attempts so far, this one included.
    attempt: u32,
    /// The step of `on-failure` that comes next.
    step: usize,
    /// The roll-back of this attempt left something: it is not for a retry.
    unclean: AtomicBool,
    /// Domains whose people know that it failed.
    told: Mutex<BTreeSet<String>>,
}

impl Failing {
    pub(super) fn new() -> Failing {
        Failing { attempt: 1, step: 0, unclean: AtomicBool::new(false), told: Mutex::default() }
    }
}

impl Daemon {
    /// Init and `started`, as often as `on-failure` says; and what it says after that. `Err`: all is over.
    pub(super) fn attempts(&mut self) -> Result<Vec<JoinHandle<()>>, End> {
        let clock = self.context.shared.clock.clone();
        self.failing = Failing::new();
        let mut launch = Some(self.hooks(Transition::Launching));
        loop {
            let scope = Scope::new(&clock, self.config.timeout, Some(&self.stop));
            self.notifier.extend_timeout(clock.real(self.config.timeout + ROLL_BACK + WAY_OUT_COMMAND));
            let end = match self.until_started(&scope) {
                Ok(mut background) => {
                    self.forget_reboots();
                    background.extend(launch.and_then(|l| l.complete_beside(true)));
                    return Ok(background);
                }
                Err(end) => end,
            };
            // Who asks to stop, and EC2 that takes the capacity, go before all this.
            if end.left.is_some() || self.stop.get().is_some() {
                return Err(end);
            }
            self.failing.unclean.store(end.outcome != Outcome::Failed, Ordering::Relaxed);
            self.after(end.outcome, &mut launch)?;
            while let Err(text) = self.begin_again() {
                if let Some(reason) = self.stop.get() {
                    return Err(self.way_out(reason, "released", Vec::new(), Vec::new()));
                }
                log::error!("{text}");
                self.after(Outcome::Failed, &mut launch)?;
            }
        }
    }

    /// What comes after a failure: `Ok` is another attempt.
    fn after(&mut self, outcome: Outcome, launch: &mut Option<Hooks>) -> Result<(), End> {
        // A group that waits for a launch need not wait for what comes now.
        let abandon = |launch: &mut Option<Hooks>| launch.take().into_iter().for_each(|l| l.complete(false));
        let mut tried = false;
        while let Some(at) = self.next_step() {
            let step = self.config.on_failure[at].clone();
            self.failing.step = at;
            if step.action == Action::Retry {
                return self.wait_for_retry(&step);
            }
            abandon(launch);
            if self.stop.get().is_some() {
                return Err(outcome.into());
            }
            tried = true;
            self.strays_are_settled();
            match self.act(&step) {
                Ok(text) => {
                    self.say(&format!("on-failure: {text}"));
                    return Err(outcome.into());
                }
                Err(f) if matches!(f.halt, Some(Halt::Stopped(_))) => {
                    log::warn!("on-failure: {f}");
                    return Err(outcome.into());
                }
                Err(f) => log::error!("on-failure: {f}"),
            }
            self.failing.step = at + 1;
        }
        abandon(launch);
        if tried {
            log::error!("on-failure: nothing else is to be done; this instance stays as it is");
        } else if self.failing.attempt > 1 {
            log::error!("on-failure: given up after attempt {}", self.failing.attempt);
        }
        Err(outcome.into())
    }

    /// The step that comes next, if there is one.
    fn next_step(&self) -> Option<usize> {
        let retries =
            |s: &OnFailure| !self.failing.unclean.load(Ordering::Relaxed) && self.failing.attempt < s.attempts;
        let steps = self.config.on_failure.iter().enumerate().skip(self.failing.step);
        steps.filter(|(_, s)| s.action != Action::Retry || retries(s)).map(|(i, _)| i).next()
    }

    /// Whether another attempt comes if this one fails.
    fn is_retried(&self) -> bool {
        self.next_step().is_some_and(|at| self.config.on_failure[at].action == Action::Retry)
    }

    /// Says in messages and commands what is coming.
    pub(super) fn announce(&self, domains: &[&Arc<Domain>], clean: bool) {
        self.failing.unclean.store(!clean, Ordering::Relaxed);
        let Some(step) = self.next_step().map(|at| &self.config.on_failure[at]) else { return };
        let text = match step.action {
            Action::Retry => format!("on-failure: retry, attempt {} of {}", self.failing.attempt + 1, step.attempts),
            other => format!("on-failure: {}", other.name()),
        };
        domains.iter().for_each(|d| d.note(text.clone()));
    }

    /// Whether the messages for `failed` of this domain are to be sent: those of the first failure and of the last.
    pub(super) fn is_news(&self, d: &Domain) -> bool {
        let first = lock(&self.failing.told).insert(d.name().to_owned());
        first || !self.is_retried()
    }

    /// The pause before another attempt. A stop during it is a stop during init.
    fn wait_for_retry(&self, step: &OnFailure) -> Result<(), End> {
        let clock = self.context.shared.clock.clone();
        let wait = pause(step.backoff, self.failing.attempt, random::fraction());
        let next = self.failing.attempt + 1;
        self.say(&format!("on-failure: attempt {next} of {} in {:.0} s", step.attempts, wait.as_secs_f64()));
        self.notifier.extend_timeout(clock.real(wait + MESSAGES));
        let halt = Scope::new(&clock, wait + MESSAGES, Some(&self.stop)).sleep(wait);
        match halt {
            Err(Halt::Stopped(reason)) => Err(self.way_out(reason, "released", Vec::new(), Vec::new())),
            _ => Ok(()),
        }
    }

    /// Everything but the config is read and made anew; only who watches for a notice goes on.
    fn begin_again(&mut self) -> Result<(), String> {
        self.failing.attempt += 1;
        self.failing.unclean.store(false, Ordering::Relaxed);
        log::info!("on-failure: attempt {}", self.failing.attempt);
        let notice = self.context.notice.clone();
        self.renew(&notice).map_err(|(_, text)| text)
    }

    /// Does what ends this boot, or this instance; says what was done.
    fn act(&self, step: &OnFailure) -> Result<String, Failure> {
        let shared = &self.context.shared;
        self.wait_for_uptime(step)?;
        let name = step.action.name();
        self.say(&format!("on-failure: {name}"));
        self.notifier.extend_timeout(shared.clock.real(ACT));
        let instance = shared.facts().instance_id.clone();
        let scope = Scope::new(&shared.clock, ACT, Some(&self.stop));
        match step.action {
            Action::Terminate => {
                let done = shared.aws.terminate_instance(&scope, &instance);
                done.map_err(|e| Failure::api("terminate this instance", &e))?;
                Ok("EC2 terminates this instance".to_owned())
            }
            Action::SetUnhealthy => {
                let done = shared.aws.set_unhealthy(&scope, &instance);
                done.map_err(|e| match e.class() {
                    Class::Gone => Failure::new(format!("no Auto Scaling group has this instance: {e}")),
                    _ => Failure::api("tell the Auto Scaling group that this instance is unhealthy", &e),
                })?;
                Ok("the Auto Scaling group knows that this instance is unhealthy".to_owned())
            }
            Action::PowerOff => self.power(Power::Off, name),
            Action::Reboot => {
                let count = self.remember_reboot(step.limit).map_err(|e| Failure::new(format!("no reboot: {e}")))?;
                let done = self.power(Power::Reboot, name)?;
                Ok(format!("{done} ({count} of {} within an hour)", step.limit))
            }
            Action::Retry => Ok(String::new()),
        }
    }

    /// Instances that are replaced as fast as they fail cost more than one that waits.
    fn wait_for_uptime(&self, step: &OnFailure) -> Result<(), Failure> {
        let clock = &self.context.shared.clock;
        let left = step.min_uptime.saturating_sub(clock.now().since_boot());
        if left.is_zero() {
            return Ok(());
        }
        let (name, least) = (step.action.name(), step.min_uptime.as_secs());
        self.say(&format!("on-failure: {name} in {:.0} s: min-uptime is {least} s", left.as_secs_f64()));
        self.notifier.extend_timeout(clock.real(left + ACT));
        let scope = Scope::new(clock, left + ACT, Some(&self.stop));
        scope.sleep(left).map_err(|halt| Failure::halted(format!("no {name}"), halt))
    }

    fn power(&self, power: Power, name: &str) -> Result<String, Failure> {
        let shared = &self.context.shared;
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Whoever takes the system down may end us before the command has ended.
        let scope = Scope::new(&shared.clock, ACT, None);
        let root = shared.root.clone();
        let find = move || Ok(power::command(&root, &path, power));
        let Ok(Some(argv)) = beside(&scope.within(FIND), Box::new(find)) else {
            log::info!("on-failure: {name} by the kernel");
            let end = power::by_kernel(&shared.root, power, &scope);
            return end.map(|()| name.to_owned()).map_err(|e| Failure::new(format!("cannot {name}: {e}")));
        };
        let line =
            ExecLine { path: "on-failure".to_owned(), argv: Vec::new(), ec: ExitCodes::Of(vec![0..=0]), timeout: None };
        let end = shared.runner.run("on-failure", &line, argv, &scope);
        end.map_err(|e| Failure::new(format!("cannot {name}: {e}")))?;
        Ok(format!("{name} is under way"))
    }

    /// Writes down that a reboot comes, unless there were too many; says how many there are then.
    fn remember_reboot(&self, limit: u32) -> Result<usize, String> {
        let shared = &self.context.shared;
        let (file, instance) = (JournalFile::lasting(&shared.root, "reboots"), shared.facts().instance_id.clone());
        let path = file.path().display();
        if shared.root.is_real() && power::is_in_memory(file.path()) {
            return Err(format!("{path} would not outlive it, and nothing would end a loop of reboots"));
        }
        let read = file.read().map_err(|e| format!("cannot read {path}: {e}"))?;
        let before = match read {
            None => Reboots::default(),
            Some(bytes) => Reboots::parse(&String::from_utf8_lossy(&bytes), &instance)
                .ok_or_else(|| format!("{path} makes no sense, so that nobody knows how many there were"))?,
        };
        let now = Some(shared.clock.corrected().unix_timestamp()).filter(|t| is_plausible(*t));
        let recent = before.recent(now);
        if recent.count() >= usize::try_from(limit).unwrap_or(usize::MAX) {
            return Err(format!("there were {} within an hour, and the limit is {limit}", recent.count()));
        }
        let all = recent.with(now);
        file.write(all.text(&instance).as_bytes())
            .map_err(|e| format!("cannot write {path}, and without it nothing would end a loop of reboots: {e}"))?;
        Ok(all.count())
    }

    /// It came to `started`: reboots before that were worth it.
    fn forget_reboots(&self) {
        if self.config.on_failure.iter().any(|s| s.action == Action::Reboot) {
            let file = JournalFile::lasting(&self.context.shared.root, "reboots");
            if let Err(e) = file.remove() {
                log::debug!("cannot remove {}: {e}", file.path().display());
            }
        }
    }
}

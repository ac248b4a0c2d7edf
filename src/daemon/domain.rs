//! A domain as the story sees it: its transaction, what went wrong with it, its commands and its messages.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::apply::{DomainRun, Shared, lock};
use crate::config;
use crate::exec::{Failed, Work};
use crate::log::in_domain;
use crate::macros::Values;
use crate::model::{Event, Notice};
use crate::parallel;
use crate::plan::way_out::{self, Phases, Tasks};
use crate::scope::{Scope, Stop};

/// What the messages and commands of all domains share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) shared: Arc<Shared>,
    pub(crate) exec: bool,
    pub(crate) notify: bool,
    /// The interruption notice, once there is one.
    pub(crate) notice: crate::poll::Noticed,
    /// The event that is being acted on and that the daemon goes on after.
    pub(crate) happening: Mutex<Option<Notice>>,
}

/// How much time a way out has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Time {
    /// So much until an announced end.
    Announced(Duration),
    /// As much as is asked for; so much for a command that asks for nothing.
    Unhurried(Duration),
}

/// One domain during the run.
#[derive(Debug)]
pub(crate) struct Domain {
    pub(crate) context: Arc<Context>,
    pub(crate) config: Arc<config::Domain>,
    pub(crate) run: DomainRun,
    /// What went wrong, for `{error}`.
    errors: Mutex<Vec<String>>,
    failed: AtomicBool,
    /// Its `failed` commands and messages are under way or done.
    told: AtomicBool,
    /// What could not be released, and at which event.
    pub(crate) kept: Mutex<Vec<(Event, String)>>,
    /// The commands of the shutdown that failed or were skipped.
    pub(crate) undone: Mutex<Vec<String>>,
    /// The snapshots of the shutdown that were not made.
    pub(crate) unmade: Mutex<Vec<String>>,
    /// Messages so far, so that a second one of an event is another message to a FIFO queue.
    messages: AtomicU32,
}

impl Domain {
    pub(crate) fn new(context: &Arc<Context>, config: Arc<config::Domain>) -> Domain {
        Domain {
            context: context.clone(),
            run: DomainRun::new(&context.shared, &config),
            config,
            errors: Mutex::new(Vec::new()),
            failed: AtomicBool::new(false),
            told: AtomicBool::new(false),
            kept: Mutex::new(Vec::new()),
            undone: Mutex::new(Vec::new()),
            unmade: Mutex::new(Vec::new()),
            messages: AtomicU32::new(0),
        }
    }

    /// The same domain in a run of its own, after this one.
    pub(crate) fn again(&self, context: &Arc<Context>) -> Domain {
        Domain {
            messages: AtomicU32::new(self.messages.load(Ordering::Relaxed)),
            ..Domain::new(context, self.config.clone())
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// Notes what went wrong.
    pub(crate) fn note(&self, error: String) {
        lock(&self.errors).push(error);
    }

    /// The domain has failed.
    pub(crate) fn fail(&self, error: String) {
        self.note(error);
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Whether it has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Whether it is to be told now that it failed: that happens once.
    pub(crate) fn is_to_be_told(&self) -> bool {
        !self.told.swap(true, Ordering::Relaxed)
    }

    /// The macro values for `event`.
    pub(crate) fn values(&self, event: Event) -> Values {
        let passing = matches!(event, Event::Rebalance | Event::Maintenance);
        let place = if passing { &self.context.happening } else { &*self.context.notice };
        let notice: Option<Notice> = lock(place).clone();
        Values {
            daemon_state: Some(event),
            error: lock(&self.errors).clone(),
            interrupt_time: notice.as_ref().map(|n| n.time_text.clone()),
            interrupt_action: notice.map(|n| n.action),
            ..self.run.values()
        }
    }

    /// Runs the commands for `event`; `default_timeout` is that of those without one, and `in_shares` means that each
    /// block has its share of `scope`. Those that failed are returned, and the domain has failed with them.
    pub(crate) fn run_commands(
        &self,
        event: Event,
        scope: &Scope,
        default_timeout: Option<Duration>,
        in_shares: bool,
    ) -> Vec<Failed> {
        if !self.context.exec {
            return Vec::new();
        }
        let is_mounted = |point: &Path, source: Option<&Path>| self.run.has_mounted(point, source);
        let work = Work {
            owner: &self.config.name,
            event: Some(event),
            values: &self.values(event),
            scope,
            default_timeout,
            in_shares,
            is_mounted: &is_mounted,
        };
        let failed = self.context.shared.runner.run_blocks(&self.config.exec, &work);
        for f in &failed {
            let text = format!("'{}' commands: {f}", event.name());
            log::error!("{text}");
            match event {
                // Its application goes on.
                Event::Rebalance | Event::Maintenance => self.note(text),
                _ => self.fail(text),
            }
        }
        failed
    }

    /// Notes which commands of a shutdown did not do their work.
    fn note_undone(&self, event: Event, failed: &[Failed]) {
        let ends = match event {
            Event::Failed => false,
            Event::Maintenance => self.tasks(event).releases(),
            _ => event.is_shutdown(),
        };
        let commands = failed.iter().filter(|_| ends).flat_map(|f| {
            let skipped = f.skipped.iter().map(|command| format!("{command} was skipped"));
            std::iter::once(format!("{} failed", f.command)).chain(skipped)
        });
        *lock(&self.undone) = commands.collect();
        // A shutdown that gave way to this one released what it could, and this one tries the rest.
        lock(&self.kept).retain(|(at, _)| *at == Event::Failed);
    }

    /// What is to be done at `event` after its commands.
    fn tasks(&self, event: Event) -> Tasks {
        let tasks = self.run.tasks(event);
        // A stopped or hibernated instance keeps its volumes, and finds them when it resumes. But nobody answers at its
        // address meanwhile, and it may come back with another one.
        Tasks { volumes: tasks.volumes && !self.stays(event), ..tasks }
    }

    /// Whether the instance is only stopped or hibernated at `event`.
    fn stays(&self, event: Event) -> bool {
        event == Event::Interrupted && lock(&self.context.notice).as_ref().is_some_and(|n| n.action != "terminate")
    }

    /// How the time for `event` is shared out.
    pub(crate) fn phases(&self, event: Event, time: Time) -> Phases {
        match time {
            Time::Announced(all) => way_out::announced(all, self.tasks(event)),
            Time::Unhurried(each) => {
                let lines = self.config.exec.iter().filter(|b| b.runs_on(event)).flat_map(|b| &b.lines);
                let commands = lines.map(|l| l.timeout.unwrap_or(each) + way_out::GRACE).sum();
                way_out::unhurried(commands, self.tasks(event))
            }
        }
    }

    /// The way out on `event`: its commands, then snapshots, then the releases. A request to `stop` ends the commands,
    /// and then nothing is released; at maintenance, which may be long ahead, also a release that does not come to its
    /// end. `false`: something of it failed.
    pub(crate) fn leave(&self, event: Event, time: Time, stop: Option<&Stop>) -> bool {
        let _leaving = self.run.leaves();
        let phases = self.phases(event, time);
        let clock = &self.context.shared.clock;
        let until = |d| Scope::new(clock, d, None);
        let (snapshots, records) = (until(phases.snapshots), until(phases.records));
        let yields = stop.filter(|_| event == Event::Maintenance);
        let (unmount, detach) = (Scope::new(clock, phases.unmount, yields), Scope::new(clock, phases.detach, yields));
        let commands = Scope::new(clock, phases.commands, stop).with_grace(phases.grace);
        let default = match time {
            Time::Announced(_) => None,
            Time::Unhurried(each) => Some(each),
        };
        // Beside them, since what follows them is short.
        let announces = self.tasks(event).volumes && self.config.exec.iter().any(|b| b.runs_on(event));
        let in_shares = matches!(time, Time::Announced(_));
        let failed = parallel::map(1 + usize::from(announces), |i| match i {
            0 => self.run_commands(event, &commands, default, in_shares),
            _ => {
                self.run.announce_release(event, &unmount);
                Vec::new()
            }
        });
        let failed: Vec<Failed> = failed.into_iter().flatten().collect();
        self.note_undone(event, &failed);
        let well = failed.is_empty();
        if stop.is_some_and(|s| s.get().is_some()) {
            // Another way out begins, with commands and releases of its own.
            return well;
        }
        let tasks = self.tasks(event);
        // Never what a way out fails of.
        let unmade = self.run.snapshot_on(event, &snapshots);
        unmade.iter().for_each(|text| self.note(text.clone()));
        *lock(&self.unmade) = unmade;
        let mut kept = if tasks.volumes { self.run.release(event, &unmount, &detach) } else { Vec::new() };
        // An instance that resumes keeps its elastic address.
        let address = !self.stays(event) && self.run.releases_address(event);
        let for_records = if address { records.within(records.remaining() * 2 / 3) } else { records.clone() };
        kept.extend(self.run.release_records(event, &for_records));
        if address {
            kept.extend(self.run.release_address(&records));
        }
        for k in &kept {
            self.note(format!("not released: {k}"));
        }
        let released = kept.is_empty();
        if yields.is_none_or(|s| s.get().is_none()) {
            lock(&self.kept).extend(kept.into_iter().map(|k| (event, k)));
        }
        well && released
    }

    /// Makes snapshots at intervals, from a thread of its own, until `stop`. Nobody waits for it: whatever must be at its
    /// end when a volume is released, [`DomainRun::snapshot_on`] waits for.
    pub(crate) fn keep_snapshots(self: &Arc<Domain>, stop: &Stop) {
        if self.run.wants_snapshots() {
            let (me, scope) = (self.clone(), Scope::new(&self.context.shared.clock, Duration::MAX, Some(stop)));
            let work = move || in_domain(me.name(), || me.run.keep_snapshots(&scope));
            parallel::background("snapshots", Box::new(work));
        }
    }

    /// Sends the messages for `event` from threads of their own, which end with `scope`.
    pub(crate) fn send_messages(&self, event: Event, scope: &Scope) -> Vec<JoinHandle<()>> {
        if !self.context.notify {
            return Vec::new();
        }
        let sequence = self.messages.fetch_add(1, Ordering::Relaxed);
        let values = Arc::new(self.values(event));
        let wanted = (0..self.config.notify.len()).filter(|i| self.config.notify[*i].events.contains(&event));
        wanted
            .filter_map(|i| {
                let (context, config, values, scope) =
                    (self.context.clone(), self.config.clone(), values.clone(), scope.clone());
                let work = move || {
                    in_domain(&config.name, || {
                        let n = &config.notify[i];
                        crate::notify::send(&context.shared.aws, n, event, sequence, &values, &scope);
                    });
                };
                parallel::background("notify", Box::new(work))
            })
            .collect()
    }
}

/// Does `work` for each domain at the same time, with its name in the log.
pub(crate) fn each<T: Send>(domains: &[&Arc<Domain>], work: impl Fn(&Domain) -> T + Sync) -> Vec<T> {
    parallel::map(domains.len(), |i| in_domain(domains[i].name(), || work(domains[i])))
}

//! Init of one domain: reads ahead, volumes with their execs in order of appearance, then DNS, then commit.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::mount::Mounted;
use super::record_read::Read;
use super::volume::Acquired;
use super::{DomainRun, Failure};
use crate::aws::ec2::Volume;
use crate::config::{AddressDirective, RecordDirective, VolumeDirective};
use crate::exec::Work;
use crate::parallel;
use crate::scope::{Halt, Scope, Stop, StopReason};

/// What is wrong with a domain after init.
#[derive(Debug, Clone, Default)]
pub(crate) struct Problems {
    /// The failure of a critical directive, with its path: the domain has failed.
    pub(crate) critical: Option<(String, Failure)>,
    /// Non-critical directives that failed and were rolled back by themselves.
    pub(crate) passed_over: Vec<String>,
    /// What could not be rolled back.
    pub(crate) left: Vec<String>,
}

/// What the two sides of an init come to.
enum Half {
    Volumes(Problems, Vec<Volume>),
    Records(Vec<Result<Read, Failure>>),
    Address(Problems),
}

/// What is done side by side.
enum Job<'a> {
    Volumes,
    Records,
    Address(&'a AddressDirective),
}

impl DomainRun {
    /// Brings the domain up. Afterwards it is committed, or (where `critical` is set) still has its holds.
    /// `undo` makes the scope of a non-critical directive's own roll-back.
    pub(crate) fn init(&self, scope: &Scope, undo: &(dyn Fn() -> Scope + Sync)) -> Problems {
        let over = Stop::new();
        let ends = parallel::map(1 + usize::from(self.may_move()), |i| {
            if i > 0 {
                self.keep_marks(&over);
                return None;
            }
            let problems = self.bring_up(scope, undo);
            over.request(StopReason::Terminate);
            Some(problems)
        });
        ends.into_iter().flatten().next().unwrap_or_default()
    }

    fn bring_up(&self, scope: &Scope, undo: &(dyn Fn() -> Scope + Sync)) -> Problems {
        // To a directive it is the same as a deadline when its domain is lost.
        let scope = &scope.unless(&self.abandoned);
        let scope = &if self.config.critical { scope.clone() } else { scope.early() };
        let records = (!self.config.records.is_empty()).then_some(Job::Records);
        let address = self.config.address.as_ref().map(Job::Address);
        let jobs: Vec<Job<'_>> = [Some(Job::Volumes), records, address].into_iter().flatten().collect();
        let halves = parallel::map(jobs.len(), |i| match jobs[i] {
            Job::Volumes => {
                let mut problems = Problems::default();
                let read = self.volumes(scope, undo, &mut problems);
                if problems.critical.is_some() {
                    self.abandon();
                }
                Half::Volumes(problems, read)
            }
            Job::Records => {
                let all: Vec<&RecordDirective> = self.config.records.iter().collect();
                Half::Records(self.read_records(&all, scope))
            }
            Job::Address(d) => Half::Address(self.bring_address(d, scope, undo)),
        });
        let (mut problems, mut read, mut records) = (Problems::default(), Vec::new(), None);
        let mut of_address = Problems::default();
        for half in halves {
            match half {
                Half::Volumes(of_volumes, volumes) => (problems, read) = (of_volumes, volumes),
                Half::Records(reads) => records = Some(reads),
                Half::Address(p) => of_address = p,
            }
        }
        // Where one of the two has made the other one give up, it is the one that tells why.
        let told = |c: &Option<(String, Failure)>| c.as_ref().is_some_and(|(_, f)| f.halt.is_none());
        let address_tells = told(&of_address.critical) && !told(&problems.critical);
        let (first, second) = match address_tells {
            true => (of_address.critical, problems.critical),
            false => (problems.critical, of_address.critical),
        };
        problems.critical = first.or(second);
        problems.passed_over.extend(of_address.passed_over);
        problems.left.extend(of_address.left);
        if let Some(reads) = records.filter(|_| problems.critical.is_none()) {
            self.records(reads, scope, undo, &mut problems);
        }
        if problems.critical.is_none() {
            problems.critical = self.may_commit(scope).err();
        }
        // Last of all: others take it for data from then on, so nothing may fail after it.
        if problems.critical.is_none() {
            self.judge_marks(self.mark_committed(scope), undo, &mut problems);
        }
        match problems.critical.take() {
            Some((path, f)) => problems.critical = Some((path, self.fails_its_group(f))),
            None => {
                self.commit();
                self.leftovers(&read);
            }
        }
        problems
    }

    fn bring_address(&self, d: &AddressDirective, scope: &Scope, undo: &(dyn Fn() -> Scope + Sync)) -> Problems {
        let mut problems = Problems::default();
        let end = self.associate(d, &if d.critical { scope.clone() } else { scope.early() });
        if let Err(f) = end {
            if d.critical || matches!(f.halt, Some(Halt::Stopped(_))) {
                problems.critical = Some((d.path.clone(), f));
                self.abandon();
            } else {
                self.pass_over(&d.path, &f, undo, &mut problems);
            }
        }
        self.shared.addresses_to_come.fetch_sub(1, Ordering::Relaxed);
        problems
    }

    /// The volume directives, their commands in order of appearance.
    /// Gives what was read of them.
    fn volumes(&self, scope: &Scope, undo: &(dyn Fn() -> Scope + Sync), problems: &mut Problems) -> Vec<Volume> {
        let directives = &self.config.volumes;
        let Some(first) = directives.first() else { return Vec::new() };
        let read = match self.read_volumes(scope) {
            Ok(read) => read,
            // No directive can do anything: the first critical one tells; without one they are all passed over.
            Err(f) => {
                match directives.iter().find(|d| d.critical) {
                    Some(d) => problems.critical = Some((d.path.clone(), f)),
                    None => self.pass_over(&first.path, &f, undo, problems),
                }
                return Vec::new();
            }
        };
        // What is passed over when it fails must leave time for the rest.
        let scope_of = |d: &VolumeDirective| if d.critical { scope.clone() } else { scope.early() };
        let acquire = |i: usize| self.acquire(&directives[i], &read, &scope_of(&directives[i]));
        // In order of appearance: each volume's commands run when those before it have ended.
        parallel::in_order(directives.len(), acquire, |i, end| {
            if problems.critical.is_some() {
                return;
            }
            let d = &directives[i];
            if let Err(f) = self.finish(d, &end, &scope_of(d)) {
                self.judge(d, f, undo, problems);
                if problems.critical.is_some() {
                    self.abandon();
                }
            }
        });
        Arc::unwrap_or_clone(read.volumes)
    }

    /// Mounts a volume whose disk is usable, and runs its commands.
    fn finish(&self, d: &VolumeDirective, end: &Result<Acquired, Failure>, scope: &Scope) -> Result<(), Failure> {
        let a = end.as_ref().map_err(Clone::clone)?;
        scope.check().map_err(|h| Failure::halted(format!("commands for {} were not run", a.volume_id), h))?;
        self.until_parent_stands(d, scope)
            .map_err(|f| Failure { text: format!("cannot mount {}: {f}", a.volume_id), ..f })?;
        // Commands of those before it may have taken long.
        let disk = self.disk_of(&a.volume_id, scope)?;
        let disk = disk.ok_or_else(|| Failure::new(format!("the disk of {} is not here any more", a.volume_id)))?;
        if disk != a.disk {
            log::info!("{}: the disk of {} is {} by now", d.path, a.volume_id, disk.display());
            self.with_volume(&d.path, |h| h.disk = Some(disk.clone()));
        }
        let a = &Acquired { disk, ..a.clone() };
        self.uses(d, a);
        let mounted = d.mount.as_ref().map(|m| self.mount(d, m, a, scope)).transpose()?;
        if self.shared.exec_enabled {
            self.volume_commands(d, a, mounted, scope)?;
        }
        // What stands on its mount may come now.
        self.mount_is_up(d);
        Ok(())
    }

    fn volume_commands(
        &self,
        d: &VolumeDirective,
        a: &Acquired,
        mounted: Option<Mounted>,
        scope: &Scope,
    ) -> Result<(), Failure> {
        let mut values = self.values();
        if let Some(mounted) = mounted {
            (values.mount_path, values.fstype) = (Some(mounted.path), Some(mounted.fstype));
        }
        values.attach_source = Some(a.source.letter());
        values.attach_op = Some(a.op);
        values.volume_id = Some(a.volume_id.clone());
        values.volume_pool.clone_from(&d.pool_name);
        values.attached_device = Some(a.disk.display().to_string());
        values.daemon_state = Some(crate::model::Event::Starting);
        let is_mounted =
            |point: &Path, source: Option<&Path>| self.shared.has_mounted(vec![a.disk.clone()], point, source);
        let work = Work {
            owner: &d.path,
            event: None,
            values: &values,
            scope,
            default_timeout: None,
            in_shares: false,
            is_mounted: &is_mounted,
        };
        let failed = self.shared.runner.run_blocks(&d.exec, &work);
        if failed.is_empty() {
            return Ok(());
        }
        let texts: Vec<String> = failed.iter().map(ToString::to_string).collect();
        let halt = failed.iter().find_map(|f| f.error.halt());
        Err(Failure { halt, text: format!("{}: {}", a.volume_id, texts.join("; ")) })
    }

    /// A critical failure is noted as such; another one is rolled back by itself and passed over.
    fn judge(&self, d: &VolumeDirective, f: Failure, undo: &(dyn Fn() -> Scope + Sync), problems: &mut Problems) {
        let f = self.by_its_cause(f);
        if d.critical || matches!(f.halt, Some(Halt::Stopped(_))) {
            problems.critical = Some((d.path.clone(), f));
        } else {
            self.pass_over(&d.path, &f, undo, problems);
        }
    }

    fn judge_marks(&self, ends: Vec<(String, Failure)>, undo: &(dyn Fn() -> Scope + Sync), problems: &mut Problems) {
        for (path, f) in ends {
            let d = self.config.volumes.iter().find(|d| d.path == path);
            if let Some(d) = d.filter(|_| problems.critical.is_none()) {
                self.judge(d, f, undo, problems);
            }
        }
    }

    fn pass_over(&self, path: &str, f: &Failure, undo: &(dyn Fn() -> Scope + Sync), problems: &mut Problems) {
        log::warn!("{path} failed and is passed over (it is not critical): {f}");
        problems.passed_over.push(format!("{path} (not critical): {f}"));
        problems.left.extend(self.roll_back(Some(path), &undo()));
        self.mount_is_down(path);
    }

    fn records(
        &self,
        reads: Vec<Result<Read, Failure>>,
        scope: &Scope,
        undo: &(dyn Fn() -> Scope + Sync),
        problems: &mut Problems,
    ) {
        let wanted = self.config.records.iter().zip(reads).collect::<Vec<(&RecordDirective, _)>>();
        let written = self.write_records(wanted, scope);
        for (d, end) in self.config.records.iter().zip(written) {
            let Err(f) = end else { continue };
            if d.critical || matches!(f.halt, Some(Halt::Stopped(_))) {
                problems.critical.get_or_insert((d.path.clone(), f));
            } else {
                self.pass_over(&d.path, &f, undo, problems);
            }
        }
    }
}

//! Init of one domain: reads ahead, volumes with their execs in order of appearance, then DNS, then commit.

use std::sync::Mutex;

use super::record::Read;
use super::volume::Acquired;
use super::{DomainRun, Failure, lock};
use crate::config::{RecordDirective, VolumeDirective};
use crate::log::in_domain;
use crate::scope::Scope;

/// How many records of a domain are read at the same time.
const READERS: usize = 4;

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

impl DomainRun {
    /// Brings the domain up. Afterwards it is committed, or (where `critical` is set) still has its holds.
    /// `undo` makes the scope of a non-critical directive's own roll-back.
    pub(crate) fn init(&self, scope: &Scope, undo: &(dyn Fn() -> Scope + Sync)) -> Problems {
        let mut problems = Problems::default();
        // To a directive it is the same as a deadline when its domain is lost.
        let scope = &scope.unless(&self.abandoned);
        std::thread::scope(|s| {
            let records = (!self.config.records.is_empty())
                .then(|| s.spawn(|| in_domain(&self.config.name, || self.read_records(scope))));
            if let Err((d, f)) = self.volumes(scope, undo, &mut problems) {
                problems.critical = Some((d, f));
                self.abandon();
                return;
            }
            let Some(reads) = records.map(|t| t.join()) else { return };
            let Ok(reads) = reads else {
                problems.critical = Some((self.config.records[0].path.clone(), Failure::new("a thread panicked")));
                return;
            };
            self.records(reads, scope, undo, &mut problems);
        });
        if problems.critical.is_none() {
            self.commit();
        }
        problems
    }

    fn read_records(&self, scope: &Scope) -> Vec<Result<Read, Failure>> {
        let records = &self.config.records;
        if let [one] = records.as_slice() {
            return vec![self.read_record(one, scope)];
        }
        let next = Mutex::new(0..records.len());
        let results = Mutex::new(records.iter().map(|_| None).collect::<Vec<_>>());
        let work = || {
            while let Some(i) = { lock(&next).next() } {
                let read = self.read_record(&records[i], scope);
                lock(&results)[i] = Some(read);
            }
        };
        std::thread::scope(|s| {
            for _ in 1..READERS.min(records.len()) {
                s.spawn(|| in_domain(&self.config.name, work));
            }
            work();
        });
        let missing = || Err(Failure::new("cannot read a record: a thread panicked"));
        lock(&results).drain(..).map(|r| r.unwrap_or_else(missing)).collect()
    }

    fn volumes(
        &self,
        scope: &Scope,
        undo: &(dyn Fn() -> Scope + Sync),
        problems: &mut Problems,
    ) -> Result<(), (String, Failure)> {
        let directives = &self.config.volumes;
        let Some(first) = directives.first() else { return Ok(()) };
        let read = match self.read_volumes(scope) {
            Ok(read) => read,
            // No directive can do anything: the first critical one tells; without one they are all passed over.
            Err(f) => {
                return match directives.iter().find(|d| d.critical) {
                    Some(d) => Err((d.path.clone(), f)),
                    None => {
                        self.pass_over(&first.path, &f, undo, problems);
                        Ok(())
                    }
                };
            }
        };
        let mut critical = None;
        std::thread::scope(|s| {
            let read = &read;
            let others: Vec<_> = directives[1..]
                .iter()
                .map(|d| s.spawn(move || in_domain(&self.config.name, || self.acquire(d, read, scope))))
                .collect();
            let end = self.acquire(first, read, scope);
            if let Err(f) = self.finish(first, &end, scope) {
                critical = self.judge(first, f, undo, problems);
            }
            // In order of appearance: each volume's commands run when those before it have ended.
            for (d, t) in directives[1..].iter().zip(others) {
                if critical.is_some() {
                    self.abandon();
                }
                let end = t.join().unwrap_or_else(|_| Err(Failure::new("a thread panicked")));
                if critical.is_none()
                    && let Err(f) = self.finish(d, &end, scope)
                {
                    critical = self.judge(d, f, undo, problems);
                }
            }
        });
        critical.map_or(Ok(()), Err)
    }

    /// Runs the commands of a volume whose disk is usable.
    fn finish(&self, d: &VolumeDirective, end: &Result<Acquired, Failure>, scope: &Scope) -> Result<(), Failure> {
        let a = end.as_ref().map_err(Clone::clone)?;
        scope.check().map_err(|h| Failure::halted(format!("commands for {} were not run", a.volume_id), h))?;
        if !self.shared.exec_enabled {
            return Ok(());
        }
        let mut values = self.values();
        values.attach_source = Some(a.source.letter());
        values.attach_op = Some(a.op);
        values.volume_id = Some(a.volume_id.clone());
        values.volume_pool.clone_from(&d.pool_name);
        values.attached_device = Some(a.disk.display().to_string());
        values.daemon_state = Some(crate::model::Event::Starting);
        self.shared
            .runner
            .run_blocks(&d.path, &d.exec, None, &values, scope, None)
            .map_err(|e| Failure { halt: e.halt(), text: format!("{}: {e}", a.volume_id) })
    }

    /// A critical failure is returned; another one is rolled back by itself and passed over.
    fn judge(
        &self,
        d: &VolumeDirective,
        f: Failure,
        undo: &(dyn Fn() -> Scope + Sync),
        problems: &mut Problems,
    ) -> Option<(String, Failure)> {
        if d.critical || matches!(f.halt, Some(crate::scope::Halt::Stopped(_))) {
            return Some((d.path.clone(), f));
        }
        self.pass_over(&d.path, &f, undo, problems);
        None
    }

    fn pass_over(&self, path: &str, f: &Failure, undo: &(dyn Fn() -> Scope + Sync), problems: &mut Problems) {
        log::warn!("{path} failed and is passed over (it is not critical): {f}");
        problems.passed_over.push(format!("{path} (not critical): {f}"));
        problems.left.extend(self.roll_back(Some(path), &undo()));
    }

    fn records(
        &self,
        reads: Vec<Result<Read, Failure>>,
        scope: &Scope,
        undo: &(dyn Fn() -> Scope + Sync),
        problems: &mut Problems,
    ) {
        let wanted: Vec<(&RecordDirective, _)> = self.config.records.iter().zip(reads).collect();
        for (d, end) in self.config.records.iter().zip(self.write_records(wanted, scope)) {
            let Err(f) = end else { continue };
            if d.critical || matches!(f.halt, Some(crate::scope::Halt::Stopped(_))) {
                problems.critical.get_or_insert((d.path.clone(), f));
            } else {
                self.pass_over(&d.path, &f, undo, problems);
            }
        }
    }
}

//! Journals of domains that the config does not have: renamed, removed, or another daemon's that was killed.
//!
//! Nobody else would ever read them. What one of our domains names by its id is handed over to that domain, as if it had
//! had that name before; the rest is put back as for a domain whose directives are all gone. The domain's lock is held
//! meanwhile: whose process lives is left alone.

use std::sync::Arc;
use std::time::Duration;

use super::hold::{Hold, Ledger};
use super::journal::peek;
use super::settle::left_behind;
use super::{DomainRun, Failure, Shared, lock, tidy};
use crate::aws::ec2::{Filter, Volume};
use crate::config::{Domain, Source};
use crate::log::in_domain;
use crate::plan::{create, tags};
use crate::scope::Scope;
use crate::sys::journal::JournalFile;
use crate::sys::lock::{DomainLock, LockError};

/// A daemon that has this domain may be about to start: it goes first.
const GRACE: Duration = Duration::from_secs(2);

/// How often it is looked whether it is decided who has what is to be put back.
const LOOK: Duration = Duration::from_millis(500);

/// One journal.
#[derive(Debug)]
pub(crate) struct Stray {
    file: JournalFile,
    /// The domain; where nobody knows its name, the file's.
    name: String,
    /// The volumes that it names.
    volumes: Vec<String>,
}

/// All journals that are none of `runs`'s. What these name is theirs from here on.
pub(crate) fn find(shared: &Arc<Shared>, runs: &[&DomainRun]) -> Vec<Stray> {
    let mut strays = Vec::new();
    let instance = shared.facts().instance_id.clone();
    for file in JournalFile::all(&shared.root) {
        if runs.iter().any(|r| file == JournalFile::of(&shared.root, &r.config.name)) {
            continue;
        }
        let (name, holds) = peek(&file, &instance);
        let name = name.unwrap_or_else(|| file.path().file_stem().unwrap_or_default().to_string_lossy().into_owned());
        let stray = Stray { file, name, volumes: holds.iter().filter_map(volume).collect() };
        let of_ours = |r: &&DomainRun| stray.file.is_of(&r.config.name) || holds.iter().any(|h| stray.is_for(r, h));
        if runs.iter().any(of_ours) {
            in_domain(&stray.name, || stray.hand_over(shared, runs));
        }
        if stray.file.path().exists() {
            lock(&shared.owed).extend(stray.volumes.iter().cloned());
            strays.push(stray);
        }
    }
    strays
}

fn volume(hold: &Hold) -> Option<String> {
    match hold {
        Hold::Volume(v) => v.volume_id.clone(),
        Hold::Record(_) | Hold::Move(_) | Hold::Address(_) => None,
    }
}

impl Stray {
    /// Whether `run` names what is held, or is the domain itself, with its journal elsewhere.
    fn is_for(&self, run: &DomainRun, hold: &Hold) -> bool {
        self.file.is_of(&run.config.name)
            || match hold {
                Hold::Volume(v) => run.config.volumes.iter().any(|d| {
                    d.sources.contains(&Source::Existing) && d.volume_id.is_some() && d.volume_id == v.volume_id
                }),
                Hold::Record(r) => run.record_names().contains(&(r.zone.clone(), r.name.clone())),
                Hold::Address(a) => run.names_address(&a.allocation_id),
                Hold::Move(_) => false,
            }
    }

    /// The lock, and the transaction as a domain without directives has it. `None`: another process has the domain.
    fn open(
        &self,
        shared: &Arc<Shared>,
        runs: &[&DomainRun],
    ) -> Result<Option<(Option<DomainLock>, DomainRun)>, String> {
        // Of a domain of ours we have it.
        let ours = runs.iter().any(|r| self.file.is_of(&r.config.name));
        let locked = (!ours).then(|| DomainLock::settle(&shared.root, &self.file)).transpose();
        let locked = match locked {
            Ok(locked) => locked,
            Err(LockError::Held { .. }) => return Ok(None),
            Err(e) => return Err(format!("{} cannot be settled: {}", self.file.path().display(), e.full())),
        };
        let config = Domain { name: self.name.clone(), ..Domain::default() };
        let run = DomainRun::new(shared, &Arc::new(config));
        let ledger = Ledger::open_file(self.file.clone(), &self.name, &shared.facts().instance_id, false);
        *lock(&run.ledger) = ledger;
        Ok(Some((locked, run)))
    }

    fn hand_over(&self, shared: &Arc<Shared>, runs: &[&DomainRun]) {
        // What cannot be opened is told when it is to be settled.
        let Ok(Some((_locked, run))) = self.open(shared, runs) else { return };
        let inherited = lock(&run.ledger).inherited.clone();
        for hold in inherited {
            let Some(heir) = runs.iter().find(|r| self.is_for(r, &hold)) else { continue };
            log::info!("{} was domain '{}'s, and is domain '{}'s now", hold.what(), self.name, heir.config.name);
            // A run that is killed in between leaves it in both.
            heir.ledger(|l| {
                if !l.inherited.contains(&hold) {
                    l.inherited.push(hold.clone());
                }
            });
            run.ledger(|l| l.inherited.retain(|h| *h != hold));
        }
        if let Some(heir) = runs.iter().find(|r| self.file.is_of(&r.config.name)) {
            let to_tidy = run.ledger(|l| std::mem::take(&mut l.to_tidy));
            heir.ledger(|l| l.to_tidy.extend(to_tidy));
        }
    }

    /// Puts back what it names and writes the last tags of what was committed. What could not be is returned, in words.
    pub(crate) fn settle(&self, shared: &Arc<Shared>, scope: &Scope) -> Vec<String> {
        let left = in_domain(&self.name, || self.settle_in(shared, scope));
        let mut owed = lock(&shared.owed);
        owed.retain(|id| !self.volumes.contains(id));
        left.into_iter().map(|l| format!("{}: {l}", self.name)).collect()
    }

    fn settle_in(&self, shared: &Arc<Shared>, scope: &Scope) -> Vec<String> {
        let (_locked, run) = match self.open(shared, &[]) {
            Ok(Some(opened)) => opened,
            Ok(None) => return Vec::new(),
            Err(what) => {
                log::error!("{what}");
                return vec![what];
            }
        };
        if run.holds_anything() {
            log::warn!("domain '{}' is not in this config: putting back what an earlier run of it left", self.name);
        }
        let mut left = run.settle_rest(scope);
        // One of our domains may be about to use what it names: that decides.
        while run.holds_anything() && scope.sleep(LOOK).is_ok() {
            left.extend(run.settle_rest(scope));
        }
        // What the time did not suffice for.
        let open = lock(&run.ledger).inherited.clone();
        left.extend(open.iter().map(|h| format!("{} is not put back yet", h.what())));
        left.extend(run.settle_by_tags(scope));
        left.extend(run.settle_rest(scope));
        if !lock(&run.ledger).unknown.is_empty() {
            left.push(format!("{} names what this version does not know", self.file.path().display()));
        }
        tidy::tidy(shared, &[&run], scope);
        left
    }
}

impl DomainRun {
    /// Where a journal could not be read: what tags tell of transactions of this instance that did not end. Volumes that it
    /// made and that are free are inherited from here on; those that are attached are returned, in words: nobody knows
    /// whether their application has started.
    pub(super) fn settle_by_tags(&self, scope: &Scope) -> Vec<String> {
        if !lock(&self.ledger).was_lost() {
            return Vec::new();
        }
        let me = self.shared.facts().instance_id.clone();
        let filters =
            [Filter::exact(format!("tag:{}", tags::OWNER), &[&me]), Filter::exact("tag-key", &[tags::TRANSC_ID])];
        let all = match self.shared.aws.describe_volumes(scope, &filters) {
            Ok(all) => all,
            Err(e) => return vec![Failure::api("look by their tags for volumes that a journal named", &e).text],
        };
        let configs = self.shared.configs.get().map(Vec::as_slice).unwrap_or_default();
        let named = |id: &String| configs.iter().flat_map(|d| &d.volumes).any(|d| d.volume_id.as_ref() == Some(id));
        let of = |v: &&Volume| match v.tag(tags::DOMAIN) {
            Some(domain) => domain == self.config.name,
            None => !named(&v.id),
        };
        let mut left = Vec::new();
        for v in all.iter().filter(of) {
            // Somebody's after all.
            let Ok(Ok(_taking)) = self.take(&v.id, "", scope) else { continue };
            let transaction = v.tag(tags::TRANSC_ID).unwrap_or_default();
            if let Some(a) = v.attachments.iter().find(|a| a.instance_id == me) {
                let what = format!(
                    "{} is attached as {}, by a run that did not end (its transaction is {transaction}) and whose journal \
                     cannot be read: detach it if nothing uses it",
                    v.id, a.device
                );
                log::error!("{what}");
                left.push(what);
            } else if v.attachments.is_empty() && !v.state.is_ending() && create::is_token(transaction) {
                let hold = left_behind(v);
                self.ledger(|l| l.inherited.push(Hold::Volume(hold)));
            }
        }
        left
    }
}

/// Settles all of them, some beside each other, after a moment in which their own daemons may come.
pub(crate) fn settle(shared: &Arc<Shared>, strays: &[Stray], scope: &Scope) -> Vec<String> {
    const WORKERS: usize = 4;
    let _ = scope.sleep(GRACE);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let take = || strays.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let ends = crate::parallel::map(WORKERS.min(strays.len()), |_| {
        std::iter::from_fn(take).flat_map(|s| s.settle(shared, scope)).collect::<Vec<_>>()
    });
    ends.concat()
}

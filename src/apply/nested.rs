//! Mounts that stand on each other, within a domain and across domains: who waits for whom.
//!
//! A mount comes after the one that it stands on, and is gone before it. Domains whose mounts are so are one group: their
//! transactions are committed together or not at all. Only a domain that is not critical, and that nobody else's mounts
//! stand on, may fail without the others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::hold::Hold;
use super::{DomainRun, Failure, lock};
use crate::config::{self, VolumeDirective};
use crate::plan::nesting::{self, Place};
use crate::scope::{Halt, Scope};
use crate::sys::{Root, block, mounting};
use crate::waits::waiting;

/// How often somebody who waits looks.
const LOOK: Duration = Duration::from_millis(20);

/// How long it may take to see where paths lead to: one of them may be on a disk that does not answer.
const RESOLVE: Duration = Duration::from_secs(5);

/// How a mount stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// It is still to be mounted.
    Coming,
    Up,
    /// It is gone, or it never comes.
    Down,
}

/// How a domain's part in its group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Open,
    /// All of it stands.
    Ready,
    Failed,
}

/// A mount of the config.
#[derive(Debug)]
struct Mount {
    domain: usize,
    /// The directive's path in the config.
    key: String,
    /// Where it is mounted.
    point: PathBuf,
    /// What it stands on.
    parent: Option<usize>,
}

#[derive(Debug)]
struct Member {
    name: String,
    group: usize,
    /// It may fail without the others.
    alone: bool,
    abandoned: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    stands: Vec<Stand>,
    /// Mounts that were to be taken away and are still there, or not to be taken away.
    tried: BTreeSet<usize>,
    /// Domains that are taking their mounts away.
    leaving: BTreeSet<usize>,
    parts: Vec<Part>,
    /// Who of a group failed first, and made the others give up.
    causes: BTreeMap<usize, usize>,
    /// Groups that are committed.
    committed: BTreeSet<usize>,
}

/// The mounts of all domains.
#[derive(Debug, Default)]
pub(crate) struct Nested {
    mounts: Vec<Mount>,
    members: Vec<Member>,
    state: Mutex<State>,
}

/// The mounts of these domains, with where their paths lead to now. A path that does not answer leads to itself.
fn places(domains: &[&config::Domain], root: &Root, scope: &Scope) -> Vec<Place> {
    let mut all: Vec<Place> = Vec::new();
    for (domain, config) in domains.iter().enumerate() {
        for (directive, d) in config.volumes.iter().enumerate() {
            if let Some(m) = &d.mount {
                let path = root.path(&m.path);
                all.push(Place { domain, directive, real: path.clone(), path });
            }
        }
    }
    if all.len() > 1 {
        let (paths, scope) = (all.iter().map(|p| p.path.clone()).collect(), &scope.within(RESOLVE));
        for (place, real) in all.iter_mut().zip(mounting::resolve(paths, scope)) {
            place.real = real;
        }
    }
    all
}

/// Brings the directives into an order in which no mount comes before what it stands on. An error: one of them would
/// stay when that is released.
pub(crate) fn arrange(domains: &mut [config::Domain], root: &Root, scope: &Scope) -> Result<(), String> {
    let refs: Vec<&config::Domain> = domains.iter().collect();
    let places = places(&refs, root, scope);
    let parents = nesting::parents(&places);
    let directive = |p: &Place| &refs[p.domain].volumes[p.directive];
    for (place, parent) in places.iter().zip(&parents) {
        let Some(parent) = parent else { continue };
        let (own, below) = (directive(place), directive(&places[*parent]));
        if let Some(text) = config::unreleased(own, below) {
            return Err(format!("{}: {text}", own.path));
        }
    }
    let counts: Vec<usize> = refs.iter().map(|d| d.volumes.len()).collect();
    let order = nesting::order(&counts, &places, &parents);
    for (domain, order) in domains.iter_mut().zip(order) {
        let mut volumes: Vec<Option<VolumeDirective>> = domain.volumes.drain(..).map(Some).collect();
        domain.volumes = order.into_iter().filter_map(|n| volumes[n].take()).collect();
    }
    Ok(())
}

impl Nested {
    /// The mounts of these domains, none of which is mounted by this run yet.
    pub(crate) fn of(domains: &[&config::Domain], root: &Root, scope: &Scope) -> Nested {
        let places = places(domains, root, scope);
        let parents = nesting::parents(&places);
        let groups = nesting::groups(domains.len(), &places, &parents);
        let is_stood_on = |domain: usize| {
            let stands = |(p, parent): (&Place, &Option<usize>)| {
                parent.is_some_and(|parent| places[parent].domain == domain && p.domain != domain)
            };
            places.iter().zip(&parents).any(stands)
        };
        let shared: Vec<Arc<AtomicBool>> = groups.iter().map(|_| Arc::default()).collect();
        let member = |(n, d): (usize, &&config::Domain)| {
            let alone = !d.critical && !is_stood_on(n);
            let abandoned = if alone { Arc::default() } else { shared[groups[n]].clone() };
            Member { name: d.name.clone(), group: groups[n], alone, abandoned }
        };
        let members: Vec<Member> = domains.iter().enumerate().map(member).collect();
        let mount = |(place, parent): (&Place, &Option<usize>)| Mount {
            domain: place.domain,
            key: domains[place.domain].volumes[place.directive].path.clone(),
            point: place.real.clone(),
            parent: *parent,
        };
        let mounts: Vec<Mount> = places.iter().zip(&parents).map(mount).collect();
        let state = State {
            stands: vec![Stand::Coming; mounts.len()],
            parts: vec![Part::Open; members.len()],
            ..State::default()
        };
        Nested { mounts, members, state: Mutex::new(state) }
    }

    fn member(&self, domain: &str) -> Option<usize> {
        self.members.iter().position(|m| m.name == domain)
    }

    fn mount(&self, key: &str) -> Option<usize> {
        self.mounts.iter().position(|m| m.key == key)
    }

    /// What is set when the work of a domain is lost: its own, or that of its group.
    pub(super) fn abandoned(&self, domain: &str) -> Arc<AtomicBool> {
        self.member(domain).map_or_else(Arc::default, |n| self.members[n].abandoned.clone())
    }

    /// Only these domains are brought up: the others have failed.
    pub(crate) fn only(&self, domains: &[&str]) {
        let others = self.members.iter().filter(|m| !domains.contains(&m.name.as_str()));
        others.for_each(|m| self.lost(&m.name));
    }

    /// These domains take away what they have mounted, as far as they have to.
    pub(crate) fn leaving(&self, domains: &[&str]) {
        let mut state = lock(&self.state);
        let all: Vec<usize> = domains.iter().filter_map(|name| self.member(name)).collect();
        state.tried.retain(|m| !all.contains(&self.mounts[*m].domain));
        state.leaving.extend(all);
    }

    /// It takes nothing more away.
    fn has_left(&self, domain: &str) {
        if let Some(n) = self.member(domain) {
            lock(&self.state).leaving.remove(&n);
        }
    }

    /// The domain has failed: what of its mounts is not there never comes.
    pub(super) fn lost(&self, domain: &str) {
        let Some(n) = self.member(domain) else { return };
        let mut state = lock(&self.state);
        for (m, stand) in self.mounts.iter().zip(&mut state.stands) {
            if m.domain == n && *stand == Stand::Coming {
                *stand = Stand::Down;
            }
        }
        self.fails(n, &mut state);
    }

    fn fails(&self, n: usize, state: &mut State) {
        state.parts[n] = Part::Failed;
        let member = &self.members[n];
        if !member.alone && !state.committed.contains(&member.group) {
            state.causes.entry(member.group).or_insert(n);
            member.abandoned.store(true, Ordering::Relaxed);
        }
    }

    /// Who of the group of `n` has failed first, so that it cannot be committed.
    fn failed_in_group(&self, n: usize, state: &State) -> Option<&str> {
        state.causes.get(&self.members[n].group).map(|cause| self.members[*cause].name.as_str())
    }

    /// All of the domain stands. Waits until all of its group does: then it may be committed.
    fn ready(&self, domain: &str, scope: &Scope) -> Result<(), Failure> {
        let Some(n) = self.member(domain) else { return Ok(()) };
        let group = self.members[n].group;
        lock(&self.state).parts[n] = Part::Ready;
        loop {
            {
                let mut state = lock(&self.state);
                if state.committed.contains(&group) {
                    return Ok(());
                }
                if let Some(other) = self.failed_in_group(n, &state) {
                    return Err(Failure::new(failed_with(other)));
                }
                let open = |(m, part): (&Member, &Part)| m.group == group && *part == Part::Open;
                if !self.members.iter().zip(&state.parts).any(open) {
                    state.committed.insert(group);
                    return Ok(());
                }
                if let Err(halt) = scope.check() {
                    self.fails(n, &mut state);
                    return Err(Failure::halted("waiting for the domains whose mounts and ours are nested", halt));
                }
            }
            let _ = scope.sleep(LOOK);
        }
    }

    /// Waits until what the mount of the directive at `key` stands on is mounted.
    fn until_parent_stands(&self, key: &str, scope: &Scope) -> Result<(), Failure> {
        let Some(parent) = self.mount(key).and_then(|n| self.mounts[n].parent) else { return Ok(()) };
        let point = self.mounts[parent].point.display();
        let mut said = false;
        loop {
            match lock(&self.state).stands[parent] {
                Stand::Up => return Ok(()),
                Stand::Down => {
                    let of = &self.mounts[parent].key;
                    return Err(Failure::new(format!("it stands on {point} ({of}), which is not mounted")));
                }
                Stand::Coming => {}
            }
            if !std::mem::replace(&mut said, true) {
                log::info!("{key}: waiting for {point}, on which it stands");
            }
            scope.sleep(LOOK).map_err(|h| Failure::halted(format!("waiting for {point}, on which it stands"), h))?;
        }
    }

    /// Waits until nothing that is being taken away stands on the mount of the directive at `key` any more.
    fn until_nothing_stands_on(&self, key: &str, scope: &Scope) {
        let Some(own) = self.mount(key) else { return };
        let stands = || {
            let state = lock(&self.state);
            let on = |(n, m): (usize, &Mount)| {
                let goes = state.leaving.contains(&m.domain) && !state.tried.contains(&n);
                m.parent == Some(own) && m.domain != self.mounts[own].domain && goes
            };
            self.mounts.iter().enumerate().any(on)
        };
        // What is left then is for finding out who holds it.
        let scope = scope.within(scope.remaining() * 3 / 4);
        let _wait = waiting(&scope, format!("what stands on the mount of {key} to be unmounted"));
        while stands() && scope.sleep(LOOK).is_ok() {}
    }

    fn set(&self, key: &str, stand: Stand) {
        if let Some(n) = self.mount(key) {
            lock(&self.state).stands[n] = stand;
        }
    }
}

fn failed_with(other: &str) -> String {
    format!("domain '{other}' failed, and its mounts and ours are nested")
}

/// While this lives, the domain may take mounts away.
#[derive(Debug)]
pub(crate) struct Leaving<'a>(&'a DomainRun);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.shared.nested.has_left(&self.0.config.name);
    }
}

impl DomainRun {
    /// The way out of this domain, until what is returned is dropped.
    pub(crate) fn leaves(&self) -> Leaving<'_> {
        Leaving(self)
    }

    pub(super) fn until_parent_stands(&self, d: &VolumeDirective, scope: &Scope) -> Result<(), Failure> {
        self.shared.nested.until_parent_stands(&d.path, scope)
    }

    /// What the directive mounts is there, and its commands went well.
    pub(super) fn mount_is_up(&self, d: &VolumeDirective) {
        self.shared.nested.set(&d.path, Stand::Up);
    }

    pub(super) fn until_nothing_stands_on(&self, key: &str, scope: &Scope) {
        self.shared.nested.until_nothing_stands_on(key, scope);
    }

    /// It is unmounted.
    pub(super) fn mount_is_down(&self, key: &str) {
        self.shared.nested.set(key, Stand::Down);
        self.unmount_was_tried(key);
    }

    /// It was tried to take it away: that is all that happens now.
    pub(super) fn unmount_was_tried(&self, key: &str) {
        let nested = &self.shared.nested;
        if let Some(n) = nested.mount(key) {
            lock(&nested.state).tried.insert(n);
        }
    }

    /// What has these keys is going to be unmounted; the rest of this domain's mounts stays, or never came.
    pub(super) fn will_unmount(&self, keys: &[&str]) {
        let nested = &self.shared.nested;
        let Some(own) = nested.member(&self.config.name) else { return };
        let mut state = lock(&nested.state);
        for (n, m) in nested.mounts.iter().enumerate().filter(|(_, m)| m.domain == own) {
            if !keys.contains(&m.key.as_str()) {
                state.tried.insert(n);
            }
        }
    }

    /// The domain stands, as far as it alone is concerned: whether it may be committed.
    pub(super) fn may_commit(&self, scope: &Scope) -> Result<(), (String, Failure)> {
        let nested = &self.shared.nested;
        nested.ready(&self.config.name, scope).map_err(|f| (self.first_mount(), f))
    }

    /// The domain has failed. What is to be said of it.
    pub(super) fn fails_its_group(&self, f: Failure) -> Failure {
        let f = self.by_its_cause(f);
        self.shared.nested.lost(&self.config.name);
        f
    }

    /// To who works, the end of another domain that takes this one along is a deadline. It is said by its cause.
    pub(super) fn by_its_cause(&self, f: Failure) -> Failure {
        let nested = &self.shared.nested;
        let other = nested.member(&self.config.name).filter(|n| !nested.members[*n].alone).and_then(|n| {
            let state = lock(&nested.state);
            nested.failed_in_group(n, &state).filter(|other| *other != self.config.name).map(failed_with)
        });
        match other {
            Some(text) if f.halt == Some(Halt::Deadline) => Failure::new(text),
            _ => f,
        }
    }

    fn first_mount(&self) -> String {
        let first = self.config.volumes.iter().find(|d| d.mount.is_some());
        first.map_or_else(|| self.config.name.clone(), |d| d.path.clone())
    }

    /// What runs that were cut off left, in the order in which it is put back: last in, first out, and a volume before the
    /// one on whose mount its own stands.
    pub(super) fn last_in_first_out(&self, mut holds: Vec<Hold>) -> Vec<Hold> {
        let root = &self.shared.root;
        let order = mounting::order(root);
        // Mounts are listed after what they stand on.
        let place = |h: &Hold| {
            let Hold::Volume(v) = h else { return None };
            let disk = block::find_by_serial(root, v.volume_id.as_deref()?).or_else(|| v.disk.clone())?;
            order.iter().position(|m| mounting::is_of(root, m, &disk))
        };
        holds.reverse();
        let places: Vec<usize> = (0..holds.len()).filter(|n| place(&holds[*n]).is_some()).collect();
        let mut mounted: Vec<Hold> = places.iter().map(|n| holds[*n].clone()).collect();
        mounted.sort_by_cached_key(|h| std::cmp::Reverse(place(h)));
        for (n, hold) in places.into_iter().zip(mounted) {
            holds[n] = hold;
        }
        holds
    }

    /// What must not be hidden by a mount of the directive: the disk of a volume, or whatever is mounted where a
    /// directive mounts one. Of other things it is only said. `real` is where its path leads to.
    pub(super) fn would_hide(&self, d: &VolumeDirective, m: &config::Mount, real: &Path) -> Option<String> {
        let (root, nested) = (&self.shared.root, &self.shared.nested);
        for there in mounting::below(root, real) {
            let text = format!("what is mounted at {} ({}, {})", there.point.display(), there.source, there.kind);
            if nested.mounts.iter().any(|m| m.point == there.point) || block::is_volume(root, &there) {
                return Some(text);
            }
            log::warn!("{}: {} hides {text}", d.path, m.path);
        }
        None
    }
}

//! Source `p`: one of the free volumes of a pool, in the order that the directive prefers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::hold::Origin;
use super::volume::{Acquired, Reading, SourceEnd, same};
use super::wait::{self, Turn, Wait};
use super::{DomainRun, Failure, lock};
use crate::aws::ec2::Volume;
use crate::config::{PoolPref, Source, VolumeDirective};
use crate::macros::Values;
use crate::plan::create;
use crate::plan::volumes::{self, Chooser};
use crate::plan::waiting::{self, Held, States};
use crate::scope::Scope;
use crate::waits::waiting;

/// How long our own detachment of a pool's volume is waited for.
const DETACHING: Duration = Duration::from_secs(30);
/// How many claims may be lost in a row before the pool is read again.
const LOSSES_BEFORE_REREAD: usize = 3;
/// A tag's value has at most 256 characters.
const LONGEST_MEMBER: usize = 250;

impl DomainRun {
    /// Source `p`. `waited`: it was waited for before, and this is a second look.
    pub(super) fn source_pool(
        &self,
        d: &VolumeDirective,
        read: &Reading,
        waited: bool,
        scope: &Scope,
    ) -> Result<Acquired, SourceEnd> {
        let Some(pool) = d.pool_name.as_deref() else {
            return Err(Failure::new("source p without pool-name").into());
        };
        let (mut reading, mut again) = (read.clone(), false);
        let (mut gone, mut asked) = (BTreeSet::new(), None);
        let mut wait = Wait::new(self, d, true, waited);
        let _wait = waiting(scope, format!("a volume of pool '{pool}'"));
        let mut said = false;
        let mut looked_for_orphans = false;
        let mut losses_ever = 0u32;
        let mut detaching = Duration::ZERO;
        loop {
            // What was read before the process was held up is not so any more.
            if self.is_stale(&reading) {
                (reading, again) = (self.read_pool(scope)?, true);
            }
            let volumes = reading.volumes.as_slice();
            // A claim of ours whose answer was lost shows up here, after a reading.
            if again
                && let Some(found) = volumes::first_look(
                    d,
                    &self.config.volumes,
                    &self.config.name,
                    volumes,
                    &self.shared.facts().instance_id,
                )
                .map_err(|e| Failure::new(e.to_string()))?
            {
                return Ok(self.use_found(d, &found, volumes, scope)?);
            }
            // An earlier run of ours was cut off while it rolled back: it is the one that this run would have got, and
            // nothing else can come under its name before it is gone.
            if detaching < DETACHING && self.is_detaching(d, pool, volumes) {
                detaching += Duration::from_secs(1);
                scope
                    .sleep(Duration::from_secs(1))
                    .map_err(|h| Failure::halted("a volume is still being detached", h))?;
                (reading, again) = (self.read_pool(scope)?, true);
                continue;
            }
            // No place is left for what may come free later.
            self.room(d, pool, volumes, &lock(&self.shared.taken))?;
            let mut c = self.pool_candidates(d, pool, volumes, &gone);
            if c.ids.is_empty() && c.in_transit > 0 && !std::mem::replace(&mut looked_for_orphans, true) {
                c.ids = self.orphans(d, volumes, scope)?;
            }
            let mut losses = 0;
            for id in &c.ids {
                if self.is_stale(&reading) {
                    break;
                }
                let Some(v) = volumes.iter().find(|v| v.id == *id) else { continue };
                if !self.reserve(d, pool, volumes, id)? {
                    continue;
                }
                if self.was_moved(v, scope)? {
                    lock(&self.shared.taken).remove(id);
                    continue;
                }
                match self.claim(d, v, Origin::Claimed, Some(reading.at), scope) {
                    Ok(Ok(device)) => return Ok(self.finish_claim(d, v, Source::Pool, &device, scope)?),
                    Ok(Err(lost)) => {
                        lock(&self.shared.taken).remove(id);
                        log::info!("{}: {id}: {lost}; trying the next one", d.path);
                        wait.lost();
                        losses += 1;
                        losses_ever += 1;
                        if losses == LOSSES_BEFORE_REREAD {
                            break;
                        }
                    }
                    Err(f) => {
                        lock(&self.shared.taken).remove(id);
                        return Err(f.into());
                    }
                }
            }
            if self.is_stale(&reading) {
                continue;
            }
            let facts = self.shared.facts();
            if losses == 0 && c.changing == 0 {
                // It may be free as soon as its mover is known to be dead.
                let now = self.shared.clock.now();
                if !c.movers.is_empty() && asked.is_none_or(|at| now.since(at) >= wait::ASK_EVERY) {
                    asked = Some(now);
                    let dead = self.terminated(d, &c.movers, scope)?;
                    if !dead.is_empty() {
                        gone.extend(dead);
                        continue;
                    }
                }
                let held = if wait.is_on() { self.held_of_pool(d, pool, volumes) } else { Vec::new() };
                let why = match (c.pool_size, c.in_transit) {
                    (0, _) => format!("pool '{pool}' has no volume in {}", facts.zone),
                    (n, 0) => format!("all {n} volumes of pool '{pool}' in {} are taken", facts.zone),
                    (n, t) => format!(
                        "the {n} volumes of pool '{pool}' in {} are taken, or ({t}) still being made by another instance",
                        facts.zone
                    ),
                };
                // What is broken may have the data: that is no reason for another volume.
                let end = |why: String| match (c.broken.first(), c.pool_size) {
                    (Some(broken), _) => Failure::new(format!("{broken}; {why}")).into(),
                    (None, 0) if !wait::is_long(d) => SourceEnd::Missing(why),
                    (None, _) => SourceEnd::Absent(why),
                };
                if !wait.is_on() {
                    return Err(end(why));
                }
                let text = |states: &States| match waiting::named(&held, states) {
                    held if held.is_empty() => why.clone(),
                    held => format!("{why} ({held})"),
                };
                if let Turn::Over(text) = wait.held(&held, &text, scope)? {
                    return Err(end(text));
                }
                (reading, again) = (self.reading(wait.look_around(scope)?), true);
                continue;
            }
            if losses == 0 && wait.is_on() {
                wait.changing(&format!("pool '{pool}': {} volumes are being made or freed", c.changing), scope)?;
                (reading, again) = (self.reading(wait.look_around(scope)?), true);
                continue;
            }
            if losses == 0 && !std::mem::replace(&mut said, true) {
                log::info!(
                    "{}: pool '{pool}': waiting for {} volumes that are being made or freed",
                    d.path,
                    c.changing
                );
            }
            // Jitter by the instance: a crowd must not read the list in step.
            let spread = volumes::spread(&facts.instance_id, &losses_ever.to_string()) % 1000;
            let pause = if losses > 0 { Duration::from_millis(spread) } else { Duration::from_millis(1000 + spread) };
            let waiting = |h| Failure::halted(format!("no volume of pool '{pool}' became free"), h);
            scope.sleep(pause).map_err(waiting)?;
            (reading, again) = (self.read_pool(scope)?, true);
        }
    }

    fn read_pool(&self, scope: &Scope) -> Result<Reading, Failure> {
        Ok(self.reading(Arc::new(self.describe_domain(scope)?)))
    }

    /// Who this instance is in its fleet, to a directive that sticks to a volume.
    pub(super) fn member(&self, d: &VolumeDirective) -> Option<String> {
        let pool = d.pool_name.as_ref().filter(|_| d.pool_pref == PoolPref::Sticky)?;
        let values = Values { domain: String::new(), ..self.values() };
        let name = d.member.as_ref().map(|t| t.expand(&values)).filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| format!("launch-index-{}", values.facts.launch_index));
        let of_pool = self.config.volumes.iter().filter(|o| o.pool_name.as_ref() == Some(pool));
        // Each of several has its own.
        let place = if of_pool.clone().count() > 1 { of_pool.take_while(|o| o.index != d.index).count() } else { 0 };
        let suffix = if place > 0 { format!("/{place}") } else { String::new() };
        Some(format!("{}{suffix}", name.chars().take(LONGEST_MEMBER).collect::<String>()))
    }

    /// What others have of the pool and this directive could have.
    fn held_of_pool(&self, d: &VolumeDirective, pool: &str, volumes: &[Volume]) -> Vec<Held> {
        let facts = self.shared.facts();
        let of = |v: &&Volume| volumes::in_pool(v, &self.config.name, Some(pool)) && !self.is_named(d, &v.id);
        waiting::held(volumes.iter().filter(of), &facts.instance_id, &facts.zone)
    }

    /// Whether another directive names the volume by its id: then it is that one's, however late it comes to claim it.
    fn is_named(&self, d: &VolumeDirective, id: &str) -> bool {
        self.config.volumes.iter().any(|o| o.index != d.index && o.volume_id.as_deref() == Some(id))
    }

    /// Keeps the volume for this directive. `false`: another directive has it.
    fn reserve(&self, d: &VolumeDirective, pool: &str, volumes: &[Volume], id: &str) -> Result<bool, Failure> {
        // Directives of a pool run beside each other: counted and taken in one step.
        let mut taken = lock(&self.shared.taken);
        if taken.contains(id) {
            return Ok(false);
        }
        self.room(d, pool, volumes, &taken)?;
        Ok(taken.insert(id.to_owned()))
    }

    /// Whether this instance may have one more volume of the pool.
    fn room(&self, d: &VolumeDirective, pool: &str, all: &[Volume], taken: &BTreeSet<String>) -> Result<(), Failure> {
        let facts = self.shared.facts();
        let here =
            |v: &Volume| matches!(volumes::standing(v, &facts.instance_id, &facts.zone), volumes::Standing::Here(_));
        let of = |v: &&Volume| volumes::in_pool(v, &self.config.name, Some(pool)) && !self.is_named(d, &v.id);
        let had: Vec<&str> =
            all.iter().filter(of).filter(|v| here(v) || taken.contains(&v.id)).map(|v| v.id.as_str()).collect();
        let users = || self.config.volumes.iter().filter(|o| o.pool_name.as_deref() == Some(pool));
        let most = users().find_map(|o| o.claiming.most).unwrap_or_else(|| users().count());
        if had.len() < most {
            return Ok(());
        }
        Err(Failure::new(format!(
            "cannot take a volume of pool '{pool}': this instance has {} of its volumes already ({}), and \
             max-per-instance is {most}",
            had.len(),
            had.join(", ")
        )))
    }

    /// Whether a volume of the pool is on its way from here, and has the name that the directive wants.
    fn is_detaching(&self, d: &VolumeDirective, pool: &str, volumes: &[Volume]) -> bool {
        let me = &self.shared.facts().instance_id;
        let of = |v: &&Volume| volumes::in_pool(v, &self.config.name, Some(pool));
        let mut here = volumes.iter().filter(of).flat_map(|v| &v.attachments).filter(|a| a.instance_id == *me);
        here.any(|a| a.state.is_ending() && d.device.as_ref().is_some_and(|w| same(w, &a.device)))
    }

    fn pool_candidates(
        &self,
        d: &VolumeDirective,
        pool: &str,
        all: &[Volume],
        gone: &BTreeSet<String>,
    ) -> volumes::Candidates {
        let facts = self.shared.facts();
        let token = create::client_token(&facts.instance_id, &self.config.name, d, None, 0);
        let member = self.member(d).unwrap_or_default();
        let by = Chooser {
            me: &facts.instance_id,
            zone: &facts.zone,
            launch_index: facts.launch_index,
            now: self.shared.clock.corrected(),
            token: d.create.is_some().then_some(token.as_str()),
            seed: self.shared.seed,
            member: &member,
            gone,
        };
        let mut c = volumes::candidates(all, &self.config.name, pool, d.pool_pref, by);
        c.ids.retain(|id| !self.is_named(d, id));
        c
    }
}

//! `wait`: a volume that another instance has is waited for, and taken the moment it is free.
//!
//! Waiting is looking: rarely while the volume is quietly in use, often as soon as it changes, and with one call for all
//! directives of a domain that wait. The claim stays AttachVolume itself. Who holds the volume is asked even more rarely;
//! that is for people, and for `fence`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use super::fence::Fenced;
use super::{DomainRun, Failure, lock};
use crate::aws::Class;
use crate::aws::ec2::{InstanceState, Volume};
use crate::clock::Tick;
use crate::config::VolumeDirective;
use crate::plan::waiting::{self, Held, States};
use crate::random;
use crate::scope::Scope;

/// How often the states of the holders are asked for.
pub(super) const ASK_EVERY: Duration = Duration::from_secs(30);
/// The same when the holders are others.
const ASK_OTHERS: Duration = Duration::from_secs(5);
/// How long that may take: it only adds to what is known, but for a fence.
const ASK_FOR: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(10)];
/// How often it is said that the wait goes on.
const REMIND: Duration = Duration::from_secs(60);
/// How often it is said what else changed in a pool.
const POOL_NEWS: Duration = Duration::from_secs(10);
/// How long reads may still show what a fence has ended; then it is tried again.
const FENCING: Duration = Duration::from_secs(20);
/// A look that is older decides nothing.
const OLD: Duration = Duration::from_secs(15);
/// How many looks in a row must miss a volume that was there.
const MISSED: u32 = 3;
/// In so long there are several looks.
const LONG: Duration = Duration::from_secs(10);
/// How often a directive fences.
const FENCES: u32 = 3;

/// The last looks of a domain, shared by the directives that wait.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    /// Volumes by id, and those of the domain.
    seen: [Mutex<Seen>; 2],
    /// The ids that are waited for.
    ids: Mutex<Vec<String>>,
    /// EC2 does not tell us the states of instances, and that was said.
    denied: AtomicBool,
}

#[derive(Debug, Default)]
struct Seen {
    begun: Option<Tick>,
    ids: Vec<String>,
    volumes: Arc<Vec<Volume>>,
}

/// What a look came to.
pub(super) enum Turn {
    /// Look again.
    Again,
    /// The time is over; the text says who has what.
    Over(String),
}

/// The wait of one directive for one of its sources.
pub(super) struct Wait<'a> {
    run: &'a DomainRun,
    d: &'a VolumeDirective,
    /// It is for a pool.
    pool: bool,
    /// When it began.
    since: Option<Tick>,
    /// Looks since something changed.
    looks: u32,
    /// A look of others that began after this is as good as one of our own.
    fresh_after: Tick,
    /// How long the last look took.
    took: Duration,
    /// When it ended.
    looked: Tick,
    /// What is changing, since when.
    changing: (String, Tick),
    said: (String, Tick),
    asked: Option<(Vec<String>, Tick)>,
    states: States,
    /// What others had at the last look, and when one of them announced that it lets go.
    seen: Vec<Held>,
    announced: Option<Tick>,
    /// What was fenced, and when.
    fenced: Option<(Held, Tick)>,
    fences: u32,
    /// What kept a fence from freeing a volume.
    trouble: Option<(Held, String)>,
    /// Why a fence does not know what it needs to.
    unknown: Option<String>,
    /// It was waited for before: what is to be looked at again is not waited for again.
    waited: bool,
    /// The holders' states were asked for when the time was over.
    asked_last: bool,
}

impl<'a> Wait<'a> {
    /// `waited`: the directive has waited for this source before.
    pub(super) fn new(run: &'a DomainRun, d: &'a VolumeDirective, pool: bool, waited: bool) -> Wait<'a> {
        let now = run.shared.clock.now();
        Wait {
            run,
            d,
            pool,
            since: None,
            looks: 0,
            fresh_after: now,
            took: Duration::ZERO,
            looked: now,
            changing: (String::new(), now),
            said: (String::new(), now),
            asked: None,
            states: States::new(),
            seen: Vec::new(),
            announced: None,
            fenced: None,
            fences: 0,
            trouble: None,
            unknown: None,
            waited,
            asked_last: false,
        }
    }

    /// How long others may have it before the source is given up.
    fn patience(&self) -> Duration {
        if self.waited { Duration::ZERO } else { self.d.claiming.wait.unwrap_or_default() }
    }

    /// Whether the config wants anything of this.
    pub(super) fn is_on(&self) -> bool {
        self.d.claiming.wait.is_some() || self.d.claiming.fence
    }

    fn now(&self) -> Tick {
        self.run.shared.clock.now()
    }

    /// Others have all of it (`held`; nothing in an empty pool): `text` says so.
    pub(super) fn held(
        &mut self,
        held: &[Held],
        text: &dyn Fn(&States) -> String,
        scope: &Scope,
    ) -> Result<Turn, Failure> {
        let since = *self.since.get_or_insert(self.now());
        if let Some((h, _)) = self.fenced.clone().filter(|(h, at)| held.contains(h) && self.now().since(*at) < FENCING)
        {
            self.changing(&format!("{} is being detached from {}", h.volume_id, h.holder), scope)?;
            return Ok(Turn::Again);
        }
        // A holder may have died since it was asked about: before the source is given up, once more.
        let over = self.now().since(since) >= self.patience();
        if over && self.d.claiming.fence && !std::mem::replace(&mut self.asked_last, true) {
            self.asked = None;
        }
        self.ask(held, scope)?;
        let me = self.run.shared.facts().instance_id.clone();
        if self.d.claiming.fence
            && self.fences < FENCES
            && let Some(h) = waiting::to_fence(held, &self.states, &me)
        {
            self.fences += 1;
            let stopped = self.states.get(&h.holder) == Some(&InstanceState::Stopped);
            let end = self.run.fence(self.d, h, stopped, scope)?;
            self.asked = None;
            match end {
                Fenced::Yes => {
                    let why = format!("{} stays attached to {}, from which it was detached", h.volume_id, h.holder);
                    self.trouble = Some((h.clone(), why));
                    self.fenced = Some((h.clone(), self.now()));
                    return Ok(Turn::Again);
                }
                Fenced::Refused(why) => self.trouble = Some((h.clone(), why)),
                Fenced::NoMore => drop(self.states.remove(&h.holder)),
            }
        }
        let text = text(&self.states);
        let (waited, wait) = (self.now().since(since), self.patience());
        if waited >= wait {
            // The process was held up since it looked: what it saw may be so no more.
            if self.now().since(self.looked) > OLD {
                return Ok(Turn::Again);
            }
            // A dead holder may have it still, and the data with it: not a reason for another volume.
            let stuck = self.trouble.take().filter(|(h, _)| held.contains(h)).map(|(_, why)| why);
            if let Some(why) = stuck.or(self.unknown.take()) {
                return Err(Failure::new(format!("{text}; {why}")));
            }
            return Ok(Turn::Over(if wait.is_zero() {
                text
            } else {
                format!("{text}; waited {} s", wait.as_secs_f64())
            }));
        }
        let limit = format!("{} s", wait.as_secs_f64());
        self.report(&text, &format!("waiting up to {limit}"), &format!("waited {} s of {limit}", waited.as_secs()));
        if let Some(h) = waiting::used_anew(&self.seen, held) {
            log::debug!("{}: {} wrote a new time of use on {}: it may let go", self.d.path, h.holder, h.volume_id);
            self.announced = Some(self.now());
        }
        self.seen = held.to_vec();
        let soon = self.announced.and_then(|at| waiting::soon_pause(self.now().since(at), random::fraction()));
        let quiet = waiting::quiet_pause(&me, self.looks);
        let pause = soon.map_or(quiet, |soon| soon.max(self.took).min(quiet)).min(wait - waited);
        self.looks += 1;
        self.pause(pause, &text, scope)?;
        Ok(Turn::Again)
    }

    /// It is being made or freed, as `text` says.
    pub(super) fn changing(&mut self, text: &str, scope: &Scope) -> Result<(), Failure> {
        if self.changing.0 != text {
            self.changing = (text.to_owned(), self.now());
        }
        self.looks = 0;
        self.report(text, "waiting", "still waiting");
        let pause = waiting::quick_pause(self.now().since(self.changing.1), random::fraction());
        // Where EC2 answers slowly, or throttles, more calls would not help.
        self.pause(pause.max(self.took), text, scope)
    }

    fn pause(&mut self, pause: Duration, text: &str, scope: &Scope) -> Result<(), Failure> {
        self.fresh_after = self.now().after(pause / 2);
        scope.sleep(pause).map_err(|h| Failure::halted(text, h))
    }

    /// Says what is new; and now and then that nothing is.
    fn report(&mut self, text: &str, first: &str, again: &str) {
        let age = self.now().since(self.said.1);
        let is_new = self.said.0 != text && (!self.pool || self.said.0.is_empty() || age >= POOL_NEWS);
        if !is_new && age < REMIND {
            return;
        }
        let rest = if is_new { first } else { again };
        self.said = (text.to_owned(), self.now());
        self.run.shared.progress(&format!("{}: {text}; {rest}", self.d.path));
    }

    /// The states of the holders, if it is time to ask for them.
    fn ask(&mut self, held: &[Held], scope: &Scope) -> Result<(), Failure> {
        let fence = self.d.claiming.fence;
        let most = if fence { usize::MAX } else { waiting::NAMED };
        let mut ids: Vec<String> = held.iter().map(|h| h.holder.clone()).filter(|i| !i.is_empty()).take(most).collect();
        ids.sort();
        ids.dedup();
        let due = self
            .asked
            .as_ref()
            .is_none_or(|(of, at)| self.now().since(*at) >= if *of == ids { ASK_EVERY } else { ASK_OTHERS });
        let looks = &self.run.looks;
        if ids.is_empty() || !due || (!fence && looks.denied.load(Ordering::Relaxed)) {
            return Ok(());
        }
        let refs: Vec<&str> = ids.iter().map(String::as_str).collect();
        let answer = self.run.shared.aws.describe_instances(&scope.within(ASK_FOR[usize::from(fence)]), &refs);
        self.asked = Some((ids, self.now()));
        let failed = |e| Failure::api("tell in what state the instance is that holds the volume", e);
        match answer {
            Ok(states) => (self.states, self.unknown) = (states.into_iter().collect(), None),
            Err(e) if e.class() == Class::Denied && fence => return Err(failed(&e)),
            Err(e) if e.class() == Class::Denied => {
                if !looks.denied.swap(true, Ordering::Relaxed) {
                    log::warn!("{}: {}; waiting without knowing it", self.d.path, failed(&e));
                }
            }
            // The next one comes in time.
            Err(e) => {
                scope.check().map_err(|h| Failure::halted(failed(&e), h))?;
                let why = failed(&e).text;
                log::info!("{}: {why}", self.d.path);
                self.unknown = Some(why).filter(|_| fence);
            }
        }
        Ok(())
    }

    /// A claim was lost: nothing that was read before counts.
    pub(super) fn lost(&mut self) {
        self.fresh_after = self.now();
    }

    /// Looks at the volume `id`, which was there before: one look that does not find it proves nothing.
    pub(super) fn look_at(&mut self, id: &str, scope: &Scope) -> Result<Option<Volume>, Failure> {
        for _ in 0..MISSED {
            if let Some(v) = self.look(Some(id), scope)?.iter().find(|v| v.id == id) {
                return Ok(Some(v.clone()));
            }
            self.pause(Duration::from_secs(1), &format!("cannot find {id} any more"), scope)?;
        }
        Ok(None)
    }

    /// Looks at the volumes of the domain.
    pub(super) fn look_around(&mut self, scope: &Scope) -> Result<Arc<Vec<Volume>>, Failure> {
        self.look(None, scope)
    }

    fn look(&mut self, id: Option<&str>, scope: &Scope) -> Result<Arc<Vec<Volume>>, Failure> {
        let looks = &self.run.looks;
        let began = self.now();
        let mut seen = hold(&looks.seen[usize::from(id.is_none())], scope)?;
        let covers = id.is_none_or(|id| seen.ids.iter().any(|i| i == id));
        if !covers || seen.begun.is_none_or(|at| at <= self.fresh_after || began.since(at) > OLD) {
            let mut ids = lock(&looks.ids).clone();
            if let Some(id) = id.filter(|id| !ids.iter().any(|i| i == id)) {
                ids.push(id.to_owned());
                lock(&looks.ids).clone_from(&ids);
            }
            let begun = self.now();
            let volumes = match id {
                Some(_) => self.run.describe_ids(scope, &ids)?,
                None => self.run.describe_domain(scope)?,
            };
            *seen = Seen { begun: Some(begun), ids, volumes: Arc::new(volumes) };
        }
        self.looked = self.now();
        self.took = self.looked.since(began);
        Ok(seen.volumes.clone())
    }
}

impl DomainRun {
    /// Which of these instances EC2 reports as terminated. Without the permission to ask none is known to be, and that is
    /// said once.
    pub(super) fn terminated(
        &self,
        d: &VolumeDirective,
        ids: &[String],
        scope: &Scope,
    ) -> Result<Vec<String>, Failure> {
        let denied = &self.looks.denied;
        if denied.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let refs: Vec<&str> = ids.iter().map(String::as_str).collect();
        let failed = |e| Failure::api(&format!("tell whether {} still moves a volume", ids.join(", ")), e);
        match self.shared.aws.describe_instances(scope, &refs) {
            Ok(states) => {
                let over = states.into_iter().filter(|(_, state)| *state == InstanceState::Terminated);
                Ok(over.map(|(id, _)| id).collect())
            }
            Err(e) if e.class() == Class::Denied => {
                if !denied.swap(true, Ordering::Relaxed) {
                    log::warn!("{}: {}; a mark counts for an hour", d.path, failed(&e));
                }
                Ok(Vec::new())
            }
            Err(e) => Err(failed(&e)),
        }
    }
}

/// Whether a directive waits so long that what it misses was looked for several times.
pub(super) fn is_long(d: &VolumeDirective) -> bool {
    d.claiming.wait.is_some_and(|wait| wait >= LONG)
}

/// Locks what is locked while somebody looks: as long as the scope goes on.
fn hold<'m>(m: &'m Mutex<Seen>, scope: &Scope) -> Result<MutexGuard<'m, Seen>, Failure> {
    loop {
        match m.try_lock() {
            Ok(guard) => return Ok(guard),
            Err(TryLockError::Poisoned(p)) => return Ok(p.into_inner()),
            Err(TryLockError::WouldBlock) => {
                scope.sleep(Duration::from_millis(10)).map_err(|h| Failure::halted("cannot look at the volumes", h))?;
            }
        }
    }
}

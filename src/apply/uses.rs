//! Who uses what, in one place: the directives of all domains of this process, and (by locks) other daemons of this
//! instance.
//!
//! A directive says that it is about to use a volume before it does anything with it ([`Uses::enter`]), and that it does
//! not when it has failed or released it. Whoever wants to take the volume away asks ([`Uses::take`]): it goes with the
//! last one that has it, and nobody begins to use it meanwhile.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::hold::{Hold, Origin, VolumeHold};
use super::{DomainRun, Failure, lock};
use crate::aws::ec2::Volume;
use crate::plan::tags;
use crate::plan::unfinished::is_unfinished;
use crate::scope::{Halt, Scope};
use crate::sys::mounts;
use crate::sys::use_lock::UseLock;
use crate::sys::{Root, run_dir};
use crate::waits::waiting;

/// How often it is looked whether a thing is taken away by now.
const LOOK: Duration = Duration::from_millis(50);

/// The registry. Things are volume ids.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    things: Mutex<BTreeMap<String, Thing>>,
    /// It was said that other daemons cannot be told.
    said: AtomicBool,
}

#[derive(Debug, Default)]
struct Thing {
    /// Directives (by their paths) that use it or are about to.
    users: BTreeMap<String, User>,
    /// Somebody takes it away.
    going: bool,
    /// Tells the other daemons.
    lock: Option<UseLock>,
}

#[derive(Debug)]
struct User {
    domain: String,
    /// Its domain stands.
    stands: bool,
}

/// Who uses a thing that is not to be taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Other {
    /// A directive of a domain that stands.
    Stands(String),
    /// One that may yet fail.
    Begins(String),
    /// Another daemon.
    Daemon,
}

impl std::fmt::Display for Other {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Other::Stands(domain) => write!(f, "domain {domain} has it too"),
            Other::Begins(domain) => write!(f, "domain {domain} is about to use it"),
            Other::Daemon => f.write_str("another ec2fleetd of this instance uses it"),
        }
    }
}

/// The right to take a thing away; nobody begins to use it before this is dropped.
#[derive(Debug)]
pub(crate) struct Taking<'a> {
    uses: &'a Uses,
    thing: String,
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        lock(&self.uses.things).remove(&self.thing);
    }
}

impl Uses {
    /// The directive `path` of `domain` is about to use `thing`. `true`: it had to wait until somebody had taken it away,
    /// and what was known of it is old.
    fn enter(&self, root: &Root, thing: &str, domain: &str, path: &str, scope: &Scope) -> Result<bool, Halt> {
        let mut waited = false;
        let _wait = waiting(scope, format!("{thing}, which is being put back"));
        while !self.try_enter(root, thing, domain, path) {
            waited = true;
            scope.sleep(LOOK)?;
        }
        Ok(waited)
    }

    fn try_enter(&self, root: &Root, thing: &str, domain: &str, path: &str) -> bool {
        let mut things = lock(&self.things);
        let known = things.entry(thing.to_owned()).or_default();
        if known.going {
            return false;
        }
        if known.lock.is_none() {
            match UseLock::share(root, thing) {
                Ok(Some(lock)) => known.lock = Some(lock),
                Ok(None) => {
                    things.remove(thing);
                    return false;
                }
                Err(e) => self.say(&e),
            }
        }
        known.users.entry(path.to_owned()).or_insert_with(|| User { domain: domain.to_owned(), stands: false });
        true
    }

    fn say(&self, e: &std::io::Error) {
        if !self.said.swap(true, Ordering::Relaxed) {
            log::warn!(
                "cannot write to /run/ec2fleetd which volumes are used (going on without it; other ec2fleetd of this \
                 instance do not know that we use them): {e}{}",
                run_dir::advice(e)
            );
        }
    }

    /// The directive `path` uses `thing` no more.
    fn leave(&self, thing: &str, path: &str) {
        let mut things = lock(&self.things);
        if let Some(known) = things.get_mut(thing) {
            known.users.remove(path);
            if known.users.is_empty() && !known.going {
                things.remove(thing);
            }
        }
    }

    /// The right to take `thing` away, which the directive `path` uses no more; or who else has it.
    fn take(&self, root: &Root, thing: &str, path: &str, scope: &Scope) -> Result<Result<Taking<'_>, Other>, Halt> {
        let _wait = waiting(scope, format!("{thing}, which somebody else is putting back"));
        loop {
            let mut things = lock(&self.things);
            let known = things.entry(thing.to_owned()).or_default();
            known.users.remove(path);
            if known.going {
                drop(things);
                scope.sleep(LOOK)?;
                continue;
            }
            if let Some(user) = known.users.values().find(|u| u.stands).or(known.users.values().next()) {
                let domain = user.domain.clone();
                return Ok(Err(if user.stands { Other::Stands(domain) } else { Other::Begins(domain) }));
            }
            let own = known.lock.take().map_or_else(|| UseLock::of(root, thing), Ok);
            let alone = own.and_then(|own| Ok(own.alone()?.then_some(own)));
            match alone {
                Ok(None) => {
                    things.remove(thing);
                    return Ok(Err(Other::Daemon));
                }
                Ok(own) => known.lock = own,
                Err(e) => self.say(&e),
            }
            known.going = true;
            return Ok(Ok(Taking { uses: self, thing: thing.to_owned() }));
        }
    }

    /// Another turn begins: nobody uses anything. What is being taken away goes on being so.
    pub(crate) fn forget(&self) {
        lock(&self.things).retain(|_, known| {
            known.users.clear();
            known.going
        });
    }
}

impl DomainRun {
    /// The directive `path` is about to use the volume. `true`: it was taken away meanwhile, and what is known of it is old.
    pub(super) fn enter(&self, volume: &str, path: &str, scope: &Scope) -> Result<bool, Failure> {
        let entered = self.shared.uses.enter(&self.shared.root, volume, &self.config.name, path, scope);
        let entered = entered.map_err(|h| Failure::halted(format!("{volume} is still being put back"), h))?;
        Ok(entered)
    }

    /// The directive `path` has nothing of the volume.
    pub(super) fn leave(&self, volume: &str, path: &str) {
        self.shared.uses.leave(volume, path);
    }

    /// The directive with this path, or all of this domain, have nothing that is theirs to use any more.
    pub(crate) fn renounce(&self, path: Option<&str>) {
        let mine = |p: &str| path.map_or_else(|| self.config.volumes.iter().any(|d| d.path == p), |path| path == p);
        let mut things = lock(&self.shared.uses.things);
        things.retain(|_, known| {
            known.users.retain(|p, _| !mine(p));
            known.going || !known.users.is_empty()
        });
    }

    /// The domain stands: its directives that have a volume keep it from everybody else; the others keep nothing.
    pub(super) fn stand(&self) {
        let has: Vec<(String, String)> = lock(&self.in_use)
            .iter()
            .filter_map(|u| {
                let d = self.config.volumes.iter().find(|d| d.index == u.index)?;
                Some((u.volume.volume_id.clone(), d.path.clone()))
            })
            .collect();
        let mut things = lock(&self.shared.uses.things);
        things.retain(|thing, known| {
            known.users.retain(|path, user| {
                let has = has.iter().any(|(v, p)| v == thing && p == path);
                user.stands |= has;
                has || !self.config.volumes.iter().any(|d| d.path == *path)
            });
            known.going || !known.users.is_empty()
        });
    }

    /// The right to take the volume away; or who else has it.
    pub(super) fn take(&self, volume: &str, path: &str, scope: &Scope) -> Result<Result<Taking<'_>, Other>, String> {
        let taken = self.shared.uses.take(&self.shared.root, volume, path, scope);
        taken.map_err(|h| format!("{volume} is still being put back by somebody else: {h}"))
    }

    /// The volume stays, since another one has it: what the directive itself did with it goes.
    pub(super) fn let_go_of_own(&self, v: &VolumeHold, id: &str, scope: &Scope) {
        self.shared.runner.end_group(&v.key, scope);
        let mount = self.config.volumes.iter().find(|d| d.path == v.key).and_then(|d| d.mount.as_ref());
        if let (Some(m), Some(disk)) = (mount, self.disk_now(v, id, scope).ok().flatten()) {
            let root = &self.shared.root;
            mounts::unmount_at(root, &disk, &root.path(&m.path), &self.shared.mounts_before, scope);
        }
    }

    /// The volume of a hold that is to be put back stays, since `other` has it. `Ok(true)`: what was to be done for it is
    /// done or will be. `Ok(false)`: nobody knows yet, and the hold is still needed.
    pub(super) fn is_left_to(&self, v: &VolumeHold, id: &str, other: &Other, scope: &Scope) -> Result<bool, String> {
        match other {
            Other::Stands(_) => {
                log::info!("{id} stays: {other}");
                // The last tags are still ours to write.
                let committed = self.committed(VolumeHold { volume_id: Some(id.to_owned()), ..v.clone() }, None);
                self.ledger(|l| l.committed.extend(committed));
                Ok(true)
            }
            Other::Begins(_) => {
                log::info!("{id} stays for now: {other}");
                Ok(false)
            }
            Other::Daemon => {
                let now = self.describe(scope, id).map_err(|f| format!("{id}, which {other}: {f}"))?;
                let ours = self.committed(VolumeHold { volume_id: Some(id.to_owned()), ..v.clone() }, None);
                let transaction = now.as_ref().and_then(|now| now.tag(tags::TRANSC_ID));
                if transaction != ours.as_ref().map(|c| c.transc_id.as_str()) {
                    log::info!("{id} stays: {other}, and has committed it");
                    return Ok(true);
                }
                Err(format!("{id} stays attached as {}: {other} (run again when that has ended)", v.device))
            }
        }
    }

    /// Whether a hold of an earlier run is of a volume (as it is `now`) that was committed since: its transaction's tag, which
    /// had come with ours as the owner's, is gone. The journal could not be written then, or was put back from elsewhere.
    pub(super) fn was_committed(&self, v: &VolumeHold, now: &Volume) -> bool {
        // The mark of the commit is its last step.
        let committed = v.token.is_some() && now.tag(tags::TS_CREATED).is_some() && !is_unfinished(now);
        if committed && now.tag(tags::OWNER) == Some(&self.shared.facts().instance_id) {
            return true;
        }
        let tag_of = |key: &str| v.tags_before.iter().find(|(k, ..)| k == key);
        let (Some((_, me, owner)), Some((_, transaction, _))) = (tag_of(tags::OWNER), tag_of(tags::TRANSC_ID)) else {
            return false;
        };
        v.origin == Origin::Claimed
            && owner.as_ref() != Some(me)
            && now.tag(tags::OWNER) == Some(me)
            && now.tag(tags::TRANSC_ID) != Some(transaction)
    }

    /// Holds of volumes which domains that stand have: there is nothing to put back, only tags to write.
    pub(super) fn left_to_others(&self) {
        let inherited = lock(&self.ledger).inherited.clone();
        for hold in inherited {
            let Hold::Volume(v) = &hold else { continue };
            let stands = |id: &String| {
                let things = lock(&self.shared.uses.things);
                things.get(id).is_some_and(|known| known.users.values().any(|u| u.stands))
            };
            if v.volume_id.as_ref().is_some_and(stands) {
                let committed = self.committed(v.clone(), None);
                self.ledger(|l| {
                    l.inherited.retain(|h| *h != hold);
                    l.committed.extend(committed);
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;
    use crate::sys::testing::TestDir;

    #[test]
    fn a_thing_goes_with_its_last_user() {
        let t = TestDir::new();
        let root = t.root();
        let scope = Scope::new(&Arc::new(Clock::new(None).unwrap()), Duration::from_millis(120), None);
        let (here, other) = (Uses::default(), Uses::default());
        for path in ["d1", "d2"] {
            assert_eq!(here.enter(&root, "vol-1", "d", path, &scope), Ok(false));
        }
        assert_eq!(here.take(&root, "vol-1", "d1", &scope).unwrap().unwrap_err(), Other::Begins("d".to_owned()));
        lock(&here.things).get_mut("vol-1").unwrap().users.get_mut("d2").unwrap().stands = true;
        assert_eq!(here.take(&root, "vol-1", "d1", &scope).unwrap().unwrap_err(), Other::Stands("d".to_owned()));
        assert_eq!(other.take(&root, "vol-1", "", &scope).unwrap().unwrap_err(), Other::Daemon);
        let taking = here.take(&root, "vol-1", "d2", &scope).unwrap().unwrap();
        for uses in [&here, &other] {
            assert_eq!(uses.enter(&root, "vol-1", "e", "e1", &scope), Err(Halt::Deadline));
        }
        assert!(here.take(&root, "vol-1", "", &scope).is_err());
        drop(taking);
        let scope = Scope::new(&scope.clock, Duration::from_secs(60), None);
        assert_eq!(other.enter(&root, "vol-1", "e", "e1", &scope), Ok(false));
        other.leave("vol-1", "e1");
        assert!(lock(&other.things).is_empty() && here.take(&root, "vol-1", "", &scope).unwrap().is_ok());
    }

    #[test]
    fn without_a_place_for_locks_a_process_still_knows_its_own() {
        let t = TestDir::new();
        t.file("run", "not a directory");
        let scope = Scope::new(&Arc::new(Clock::new(None).unwrap()), Duration::from_secs(60), None);
        let uses = Uses::default();
        assert_eq!(uses.enter(&t.root(), "vol-1", "d", "d1", &scope), Ok(false));
        assert_eq!(uses.take(&t.root(), "vol-1", "", &scope).unwrap().unwrap_err(), Other::Begins("d".to_owned()));
        assert!(uses.take(&t.root(), "vol-1", "d1", &scope).unwrap().is_ok());
    }
}

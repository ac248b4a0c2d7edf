//! Sources `c` and `s`: CreateVolume with a client token that this instance derives again, and the wait until it is available.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateVolume.html>

use std::time::Duration;

use serde_json::Value;

use super::hold::{Hold, Origin, VolumeHold};
use super::settle::never_attached;
use super::volume::{Acquired, SourceEnd, same};
use super::{DomainRun, Failure, lock};
use crate::aws::Class;
use crate::aws::ec2::{Filter, Volume, VolumeState};
use crate::config::{Source, VolumeDirective};
use crate::plan::create::{self, Base};
use crate::plan::tags;
use crate::plan::unfinished::Own;
use crate::plan::volumes::{Found, Standing, standing};
use crate::scope::Scope;
use crate::waits::waiting;

/// How many volumes of earlier generations are looked through for one that is not finished.
pub(super) const MAX_GENERATIONS: u32 = 50;
/// How long a new volume may be unknown to DescribeVolumes before it counts as gone.
const UNSEEN: Duration = Duration::from_secs(20);
/// The same for one that is not new.
const GONE: Duration = Duration::from_secs(3);
/// A new volume mostly takes less than this; it is not spoken of until then.
const QUIET: Duration = Duration::from_secs(10);
/// A volume that is older than this when CreateVolume returns it was made by an earlier run.
const FRESH: time::Duration = time::Duration::minutes(2);
/// How many volumes that nobody ever saw count as made by earlier runs; more of them die of something else.
const MAX_UNSEEN: u32 = 5;

/// What became of the volume that a token stands for.
enum Made {
    /// Available (or attached here), in transit: ours to finish.
    Ready(Volume),
    /// Dead or pool data by now: the token is burnt.
    Burnt(String),
    /// The same, but the volume may also be a new one that died at once.
    Unseen(Failure),
    /// Nothing was made: the snapshot does not exist any more.
    NoBase(Failure),
}

impl DomainRun {
    /// Source `c`: creates the directive's volume and claims it. The other sources that make one: a copy of `base`.
    pub(crate) fn source_create(
        &self,
        d: &VolumeDirective,
        source: Source,
        base: Option<&Base>,
        read: &[Volume],
        scope: &Scope,
    ) -> Result<Acquired, SourceEnd> {
        let mut unseen = 0;
        for generation in 0..MAX_GENERATIONS {
            let facts = self.shared.facts();
            let snapshot = base.map(|b| b.snapshot.as_str());
            let token = create::client_token(&facts.instance_id, &self.config.name, d, snapshot, generation);
            match self.made(d, base, &token, read, scope)? {
                Made::Unseen(f) => {
                    unseen += 1;
                    if unseen == MAX_UNSEEN {
                        return Err(f.into());
                    }
                    log::info!("{}: {f}; creating another one", d.path);
                    self.drop_hold(&d.path);
                }
                Made::NoBase(f) => return Err(SourceEnd::NoBase(f)),
                Made::Burnt(why) => {
                    log::info!("{}: {why}; creating another one", d.path);
                    self.drop_hold(&d.path);
                }
                Made::Ready(v) => {
                    lock(&self.shared.taken).insert(v.id.clone());
                    if let Standing::Here(device) = standing(&v, &facts.instance_id, &facts.zone) {
                        self.drop_hold(&d.path);
                        let found = Found { volume_id: v.id.clone(), device, source };
                        return Ok(self.use_found(d, &found, std::slice::from_ref(&v), scope)?);
                    }
                    if source == Source::Move
                        && let Some(why) = self.is_move_lost(d, scope)?
                    {
                        if never_attached(&v, Some(&token)) {
                            self.delete_made(&v.id, &token, scope)?;
                        }
                        lock(&self.shared.taken).remove(&v.id);
                        self.drop_hold(&d.path);
                        return Err(SourceEnd::Absent(why));
                    }
                    let mut origin = Origin::Created;
                    self.with_volume(&d.path, |h| origin = h.origin);
                    return match self.claim(d, &v, origin, None, scope)? {
                        Ok(device) => Ok(self.finish_claim(d, &v, source, &device, scope)?),
                        // Another instance took what we made: it is not ours to delete.
                        Err(lost) => {
                            self.drop_hold(&d.path);
                            Err(Failure::new(format!("the created volume {} was taken: {lost}", v.id)).into())
                        }
                    };
                }
            }
        }
        Err(Failure::new(format!("cannot create a volume: {MAX_GENERATIONS} client tokens are used up")).into())
    }

    /// Makes sure that the token's volume exists, and waits until it is available.
    fn made(
        &self,
        d: &VolumeDirective,
        base: Option<&Base>,
        token: &str,
        read: &[Volume],
        scope: &Scope,
    ) -> Result<Made, Failure> {
        if self.is_being_deleted(token) {
            return Ok(Made::Burnt(format!("what was made with the client token {token} is being deleted")));
        }
        let params = create::request(d, &self.config.name, &self.shared.facts(), base, token);
        let what = base.map_or("create a volume".to_owned(), |b| format!("create a volume from {}", b.snapshot));
        self.push(Hold::Volume(VolumeHold {
            token: Some(token.to_owned()),
            snapshot: base.map(|b| b.snapshot.clone()),
            ..self.new_hold(d, Origin::Created, d.device.as_deref().unwrap_or_default())
        }));
        // Where the journal says that the volume is of this transaction and was never attached, it may be deleted.
        let left = self.take_up_made(token);
        let ours = !left.is_empty();
        self.note_call("create_volume", Value::Object(params.clone()));
        let volume = match self.shared.aws.create_volume(scope, &params) {
            Ok(v) => v,
            // The limit is also reported for a first try whose answer was lost, and a mismatch means that the volume
            // was made with other parameters: in both cases ours may be there.
            Err(e) if e.class() == Class::TokenUsed || e.code() == "VolumeLimitExceeded" => {
                match self.find_by_token(token, scope)? {
                    Some(v) => v,
                    None if e.class() == Class::TokenUsed => {
                        return Ok(Made::Burnt(format!("the client token {token} was used for another volume")));
                    }
                    None => {
                        if !e.may_have_worked() {
                            self.give_back(d, left);
                        }
                        return Err(Failure::api(&what, &e));
                    }
                }
            }
            Err(e) => {
                // Only an answer that says no proves that nothing was made.
                if !e.may_have_worked() {
                    self.give_back(d, left);
                }
                let failure = Failure::api(&what, &e);
                return if e.class() == Class::Gone { Ok(Made::NoBase(failure)) } else { Err(failure) };
            }
        };
        // Not by its age: clocks differ, and a run may follow at once on one that failed.
        let old = read.iter().any(|v| v.id == volume.id);
        self.with_volume(&d.path, |h| {
            h.volume_id = Some(volume.id.clone());
            h.origin = if old { Origin::Adopted } else { Origin::Created };
        });
        let from = base.map_or(String::new(), |b| format!(" from {}", b.snapshot));
        log::info!("{}: {} {}{from}", d.path, if old { "finishing" } else { "created" }, volume.id);
        let made = self.until_available(d, volume, token, old, scope)?;
        if let Made::Ready(v) = &made {
            // It may have been another's meanwhile, and used.
            let used = v.tag(tags::TS_USED).is_some();
            self.with_volume(&d.path, |h| match h.origin {
                Origin::Created if used => h.origin = Origin::Adopted,
                Origin::Adopted if ours && !used && v.tag(tags::IN_TRANSIT) == Some(token) => {
                    h.origin = Origin::Created
                }
                _ => {}
            });
        }
        Ok(made)
    }

    /// Waits for a new volume. KMS keys are checked after the call: it can go to `error` or vanish. `old`: it was there
    /// before the call. What is not in transit with `token` any more was committed once: it is data, maybe another
    /// instance's, and not ours to start anew or to delete.
    fn until_available(
        &self,
        d: &VolumeDirective,
        made: Volume,
        token: &str,
        old: bool,
        scope: &Scope,
    ) -> Result<Made, Failure> {
        let id = made.id.clone();
        let facts = self.shared.facts();
        // The answer of an earlier call, for a volume that is not new. Somebody may have deleted it since.
        let aged = made.state != VolumeState::Creating
            || made.create_time.is_some_and(|t| self.shared.clock.corrected() - t > FRESH);
        let unseen_until = self.shared.clock.now().after(if aged { GONE } else { UNSEEN });
        // As far as this run's own looks tell; the answer of CreateVolume may be that of an earlier call.
        let (mut looked, mut seen) = (false, false);
        let mut now = Some(made);
        let mut pause = Duration::from_millis(250);
        let quiet_until = self.shared.clock.now().after(QUIET);
        let _wait = waiting(scope, format!("the new volume {id}"));
        let mut progress = self.shared.measure(&d.path);
        let dead = |what: &str| {
            Failure::new(format!(
                "the new volume {id} {what}: if it is encrypted, may this instance's role use the KMS key \
                 (kms:CreateGrant, kms:GenerateDataKeyWithoutPlaintext, kms:Decrypt)?"
            ))
        };
        let burnt = |what: &str| Ok(Made::Burnt(format!("{id}, made by an earlier run, {what}")));
        loop {
            match &now {
                None if seen && !old => return Err(dead("does not exist any more")),
                None if seen || self.shared.clock.now() >= unseen_until => {
                    let what = "does not exist any more";
                    return if old || aged { burnt(what) } else { Ok(Made::Unseen(dead(what))) };
                }
                None => {}
                Some(_) if aged && !looked => {}
                Some(v) => match standing(v, &facts.instance_id, &facts.zone) {
                    Standing::Absent(why) if v.state.is_ending() && seen && !old => return Err(dead(&why)),
                    Standing::Absent(why) if v.state.is_ending() => return burnt(&why),
                    Standing::Changing(_) => {}
                    // Tags can be read a little later than the rest.
                    _ if v.tag(tags::DOMAIN).is_none() && self.shared.clock.now() < unseen_until => {}
                    // A run of this instance was killed while it rolled back (or could not delete it). It was attached
                    // then, and may have been written.
                    Standing::Free if v.tag(tags::IN_TRANSIT).is_none() && unfinished(v, token, &facts.instance_id) => {
                        self.with_volume(&d.path, |h| h.origin = Origin::Adopted);
                        return Ok(Made::Ready(v.clone()));
                    }
                    // It was finished long ago, and the first look did not see it.
                    Standing::Here(at) if self.is_of(d, &id, &at) => return Ok(Made::Ready(v.clone())),
                    _ if v.tag(tags::IN_TRANSIT) != Some(token) => return burnt("has been in use since"),
                    Standing::Free | Standing::Here(_) => return Ok(Made::Ready(v.clone())),
                    // It was still in transit, but another instance has taken it.
                    Standing::Absent(why) => return burnt(&why),
                    Standing::Broken(why) if old && v.state == VolumeState::Error => {
                        // It never was more than a name.
                        self.delete_made(&id, token, scope)?;
                        return burnt(&why);
                    }
                    Standing::Broken(why) => return Err(dead(&format!("cannot be used: {why}"))),
                },
            }
            if self.shared.clock.now() >= quiet_until {
                let state = now.as_ref().map_or("unknown", |v| v.state.name());
                progress.tell(&format!("waiting for the new volume {id}, which is {state}"), None);
            }
            let waiting = |h| Failure::halted(format!("the new volume {id} is not available yet"), h);
            scope.sleep(pause).map_err(waiting)?;
            pause = (pause * 3 / 2).min(Duration::from_secs(4));
            let next = self.describe(scope, &id)?;
            looked = true;
            if let Some(v) = &next {
                self.with_volume(&d.path, |h| h.seen = true);
                seen |= !v.state.is_ending();
            }
            now = next;
            log::debug!("{}: {id}: {}", d.path, now.as_ref().map_or("unknown", |v| v.state.name()));
        }
    }

    /// Whether an earlier run has sent DeleteVolume for what it made with `token`: it may be carried out at any time.
    fn is_being_deleted(&self, token: &str) -> bool {
        let l = lock(&self.ledger);
        let is_it =
            |h: &Hold| matches!(h, Hold::Volume(v) if v.deleting.is_some() && v.token.as_deref() == Some(token));
        l.inherited.iter().chain(&l.left).any(is_it)
    }

    /// Deletes what this instance made with `token` and never attached.
    fn delete_made(&self, id: &str, token: &str, scope: &Scope) -> Result<(), Failure> {
        let own = Own::Unfinished { owner: &self.shared.facts().instance_id, token, used: None };
        self.delete(id, false, own, false, scope).map_err(Failure::new)
    }

    /// Whether the directive's own volume that is attached here as `at` is where the directive wants it.
    fn is_of(&self, d: &VolumeDirective, id: &str, at: &str) -> bool {
        d.device.as_ref().is_none_or(|wanted| same(wanted, at)) && !lock(&self.shared.taken).contains(id)
    }

    /// The volume of this instance that is in transit with `token`.
    pub(crate) fn find_by_token(&self, token: &str, scope: &Scope) -> Result<Option<Volume>, Failure> {
        let me = self.shared.facts().instance_id.clone();
        let filters = [
            Filter::exact(format!("tag:{}", tags::OWNER), &[&me]),
            Filter::exact(format!("tag:{}", tags::IN_TRANSIT), &[token]),
        ];
        let found = self
            .shared
            .aws
            .describe_volumes(scope, &filters)
            .map_err(|e| Failure::api("look for a volume that this instance created", &e))?;
        Ok(found.into_iter().next())
    }
}

/// No run of this instance, which made it with `token`, has committed it (or not yet said so), and nobody else has it.
fn unfinished(v: &Volume, token: &str, me: &str) -> bool {
    v.tag(tags::TRANSC_ID) == Some(token) && v.tag(tags::OWNER) == Some(me)
}

//! The claim of a volume: AttachVolume itself.
//!
//! Exactly one instance wins AttachVolume for a volume. Its answer may be lost, may say "in use" because *we* won
//! before, and the reads that tell lag behind; so after every answer that is not plain the program looks, and moves on
//! to another volume only when it is certain that this one is not ours.
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AttachVolume.html>

use std::time::Duration;

use serde_json::json;

use super::hold::{Done, Hold, Origin, VolumeHold};
use super::offered::Offer;
use super::{DomainRun, Failure, lock};
use crate::aws::ec2::{Filter, Volume};
use crate::aws::{Class, Still};
use crate::clock::Tick;
use crate::config::VolumeDirective;
use crate::plan::devices;
use crate::plan::volumes::{Standing, standing};
use crate::scope::{Halt, Scope};
use crate::sys::block::{NameSnapshot, names_in_use};
use crate::sys::device_names::DeviceNames;
use crate::sys::lock::DeviceNameLock;
use crate::waits::waiting;

/// How many answers in a row without a volume are not believed, where a claim of it may have worked.
const MISSED: u32 = 3;

/// How long another daemon may take to choose a device name.
const NAME_LOCK: Duration = Duration::from_secs(15);

/// The name under which a claim won, and the disks that had names before it.
pub(crate) type Won = (String, NameSnapshot);

/// A claim ends with the device name, with the reason why the volume is another's, or with a failure.
pub(crate) type Claim = Result<Result<Won, String>, Failure>;

/// A volume that is attached here.
struct Here {
    device: String,
    volume_id: String,
    /// It is being detached.
    ending: bool,
}

/// How one AttachVolume under one device name ended.
enum Attempt {
    Ours,
    Lost(String),
    /// The name is taken; by which volume, if that is known.
    NameTaken(Option<String>),
}

impl DomainRun {
    /// Claims `v` for the directive. The hold is pushed before the call, and dropped if the claim is lost.
    /// `read`: when a pool's volume was read, so that a claim of it lapses where it is not offered any more.
    pub(crate) fn claim(
        &self,
        d: &VolumeDirective,
        v: &Volume,
        origin: Origin,
        read: Option<Tick>,
        scope: &Scope,
    ) -> Claim {
        let offer = read.map(|at| Offer::new(self, v, at));
        let ask = |scope: &Scope| offer.as_ref().map_or(Ok(()), |o| o.ask(scope));
        let claim = self.try_claim(d, v, origin, &Still::while_(&ask), scope);
        if let (Ok(Ok(_)), Some(offer)) = (&claim, &offer)
            && let Some(why) = self.let_go_if_late(d, offer, scope)?
        {
            self.leave(&v.id, &d.path);
            return Ok(Err(why));
        }
        claim
    }

    fn try_claim(&self, d: &VolumeDirective, v: &Volume, origin: Origin, still: &Still<'_>, scope: &Scope) -> Claim {
        // Somebody may be taking it away; if it is free then, or not, AttachVolume tells.
        self.enter(&v.id, &d.path, scope)?;
        // What `create` pushed already is only completed.
        let inherited = self.forget_inherited(&v.id);
        if origin == Origin::Claimed {
            let device = d.device.clone().unwrap_or_default();
            self.push(Hold::Volume(VolumeHold {
                volume_id: Some(v.id.clone()),
                attached: Done::No,
                ..self.new_hold(d, origin, &device)
            }));
        }
        let claim = match &d.device {
            Some(device) => self.claim_as(d, v, device, still, scope),
            None => self.claim_somewhere(d, v, still, scope),
        };
        match claim {
            Ok(Ok(_)) => drop(lock(&self.shared.taken).insert(v.id.clone())),
            Ok(Err(_)) if origin == Origin::Claimed => {
                self.leave(&v.id, &d.path);
                self.give_back(d, inherited);
            }
            Err(_) if origin == Origin::Claimed && !self.may_have_claimed(d) => self.give_back(d, inherited),
            _ => {}
        }
        claim
    }

    /// Under the name that the config asks for: if it is still cooling down from a detachment, that is waited for.
    fn claim_as(&self, d: &VolumeDirective, v: &Volume, device: &str, still: &Still<'_>, scope: &Scope) -> Claim {
        let mut pause = Duration::from_millis(500);
        let mut said = false;
        let _wait = waiting(scope, format!("the device name {device}"));
        loop {
            let before = NameSnapshot::take(&self.shared.root);
            match self.attempt(d, v, device, still, scope)? {
                Attempt::Ours => return Ok(Ok((device.to_owned(), before))),
                Attempt::Lost(why) => return Ok(Err(why)),
                // What another domain's journal names is being put back.
                Attempt::NameTaken(Some(by)) if !lock(&self.shared.owed).contains(&by) => {
                    let text = format!(
                        "cannot attach {} as {device}: the name is held by {by}, which is not this directive's: \
                         choose another device, or detach {by}",
                        v.id
                    );
                    return Err(Failure::new(text));
                }
                Attempt::NameTaken(_) => {
                    if !std::mem::replace(&mut said, true) {
                        log::info!("{}: waiting for the device name {device}: it was in use a moment ago", d.path);
                    }
                    let waiting =
                        |h| Failure::halted(format!("cannot attach {} as {device}: it stays in use", v.id), h);
                    scope.sleep(pause).map_err(waiting)?;
                    pause = (pause * 2).min(Duration::from_secs(4));
                }
            }
        }
    }

    /// Under a name of our choice: the first free one that EC2 takes. The lock keeps a second daemon of this instance
    /// from choosing the same.
    fn claim_somewhere(&self, d: &VolumeDirective, v: &Volume, still: &Still<'_>, scope: &Scope) -> Claim {
        let root = &self.shared.root;
        let _lock = match DeviceNameLock::acquire(root, &scope.within(NAME_LOCK)) {
            Ok(lock) => Some(lock),
            // EC2 decides between two that choose the same name.
            Err(_) if scope.check().is_ok() => {
                log::info!("{}: another daemon chooses a device name for long: going on beside it", d.path);
                None
            }
            Err(e) => return Err(Failure::new(format!("cannot choose a device name: {e}"))),
        };
        let mut names = DeviceNames::read(root);
        let mut used: Vec<String> = names_in_use(root).iter().map(|n| format!("/dev/{n}")).collect();
        for a in self.names_here(scope)? {
            // When it is free again, it was in use in this boot; one that is being freed is busy a little longer.
            names.in_use(&a.device);
            used.extend(Some(a.device).filter(|_| !a.ending));
        }
        let asked = self.shared.configs.get().into_iter().flatten().flat_map(|domain| &domain.volumes);
        used.extend(asked.filter_map(|o| o.device.clone()));
        let mut won = None;
        for device in devices::free_names(&used, names.list()) {
            let before = NameSnapshot::take(root);
            self.with_volume(&d.path, |h| h.device.clone_from(&device));
            let attempt = self.attempt(d, v, &device, still, scope);
            if let Ok(Attempt::Ours | Attempt::NameTaken(_)) = attempt {
                names.mark(&device, !matches!(attempt, Ok(Attempt::Ours)));
            }
            match attempt {
                Ok(Attempt::Ours) => won = Some(Ok(Ok((device, before)))),
                Ok(Attempt::Lost(why)) => won = Some(Ok(Err(why))),
                Ok(Attempt::NameTaken(_)) => log::info!("{}: {device} is in use; trying the next name", d.path),
                Err(f) => won = Some(Err(f)),
            }
            if won.is_some() {
                break;
            }
        }
        names.keep(root);
        let none = || Err(Failure::new(format!("cannot attach {}: no device name is free on this instance", v.id)));
        won.unwrap_or_else(none)
    }

    /// The disk of a claim did not come in time: a name of our choice is not chosen again soon.
    pub(super) fn name_is_bad(&self, d: &VolumeDirective, device: &str, f: &Failure, scope: &Scope) {
        let late = f.halt == Some(Halt::Deadline) && scope.remaining().is_zero();
        if d.device.is_some() || !late {
            return;
        }
        // It is only worth a moment.
        if let Ok(_lock) = DeviceNameLock::acquire(&self.shared.root, scope) {
            let mut names = DeviceNames::read(&self.shared.root);
            names.mark(device, true);
            names.keep(&self.shared.root);
        }
    }

    /// Device names of this instance, as the API knows them.
    fn names_here(&self, scope: &Scope) -> Result<Vec<Here>, Failure> {
        let me = self.shared.facts().instance_id.clone();
        let volumes = self
            .shared
            .aws
            .describe_volumes(scope, &[Filter::exact("attachment.instance-id", &[&me])])
            .map_err(|e| Failure::api("list the volumes of this instance", &e))?;
        let of = |v: &Volume| {
            let a = v.attachments.iter().find(|a| a.instance_id == me)?;
            Some(Here { device: a.device.clone(), volume_id: v.id.clone(), ending: a.state.is_ending() })
        };
        Ok(volumes.iter().filter_map(of).collect())
    }

    /// Device names and volumes of this instance. A name that is being freed is held by nobody; it only cools down.
    fn attached_here(&self, scope: &Scope) -> Result<Vec<(String, String)>, Failure> {
        let here = self.names_here(scope)?.into_iter().filter(|h| !h.ending);
        Ok(here.map(|h| (h.device, h.volume_id)).collect())
    }

    fn attempt(
        &self,
        d: &VolumeDirective,
        v: &Volume,
        device: &str,
        still: &Still<'_>,
        scope: &Scope,
    ) -> Result<Attempt, Failure> {
        let facts = self.shared.facts();
        let me = facts.instance_id.as_str();
        let what = format!("attach {} to {me} as {device}", v.id);
        self.note_call("attach_volume", json!({ "VolumeId": v.id, "InstanceId": me, "Device": device }));
        let _wait = waiting(scope, format!("the claim of {} as {device}", v.id));
        // Some earlier call may have worked: only a look can say that this volume is not ours.
        let mut unsure = false;
        let mut said = false;
        let mut pause = Duration::from_millis(250);
        loop {
            scope.check().map_err(|h| Failure::halted(format!("cannot {what}"), h))?;
            self.with_volume(&d.path, |h| h.attached = Done::Maybe);
            let error = match self.shared.aws.attach_volume(scope, &v.id, me, device, still) {
                Ok(()) => {
                    self.with_volume(&d.path, |h| h.attached = Done::Yes);
                    return Ok(Attempt::Ours);
                }
                Err(e) => e,
            };
            if error.may_have_worked() {
                let sent = self.attach_time();
                self.with_volume(&d.path, |h| h.sent = Some(sent));
            }
            match error.class() {
                Class::TooEarly => {
                    if !std::mem::replace(&mut said, true) {
                        log::info!("{}: waiting: {error}", d.path);
                    }
                    self.refused(d, unsure);
                }
                Class::NameTaken => {
                    match self.attached_here(scope)?.into_iter().find(|(n, _)| devices::same_device(n, device)) {
                        Some((_, id)) if id == v.id => {
                            self.with_volume(&d.path, |h| h.attached = Done::Yes);
                            return Ok(Attempt::Ours);
                        }
                        // Ours may be the one that holds the name, and the list not know it yet.
                        None if unsure => {}
                        by => {
                            self.refused(d, unsure);
                            return Ok(Attempt::NameTaken(by.map(|(_, id)| id)));
                        }
                    }
                }
                Class::Gone | Class::OtherZone if !self.made_it(d) => {
                    self.refused(d, unsure);
                    return Ok(Attempt::Lost(format!("it is not to be had here: {error}")));
                }
                Class::Lapsed => {
                    unsure |= error.may_have_worked();
                    if unsure && let Some(end) = self.look(d, v, device, true, scope)? {
                        return Ok(end);
                    }
                    self.lost(d, &v.id);
                    return Ok(Attempt::Lost(error.to_string()));
                }
                // What we made a moment ago may not be known everywhere yet.
                Class::Gone | Class::Conflict | Class::Ambiguous => {
                    unsure |= error.class() == Class::Ambiguous;
                    let looked = self.look(d, v, device, unsure, scope);
                    if let Some(end) =
                        looked.map_err(|f| Failure { text: format!("cannot {what}: {error}; then {f}"), ..f })?
                    {
                        return Ok(end);
                    }
                    log::debug!("{}: {} looks free after {error}: again", d.path, v.id);
                }
                _ => {
                    self.refused(d, unsure);
                    return Err(Failure::api(&what, &error));
                }
            }
            scope.sleep(pause).map_err(|h| Failure::halted(format!("cannot {what}: {error}"), h))?;
            pause = (pause * 2).min(Duration::from_secs(4));
        }
    }

    /// EC2 refused the call: nothing of it is to be undone, unless an earlier one may have worked.
    fn refused(&self, d: &VolumeDirective, unsure: bool) {
        if !unsure {
            self.with_volume(&d.path, |h| h.attached = Done::No);
        }
    }

    /// The volume is another's, or nobody's; what was asked for may still be carried out when it is free again.
    fn lost(&self, d: &VolumeDirective, id: &str) {
        let mut hold = None;
        self.with_volume(&d.path, |h| hold = Some(h.clone()));
        hold.iter().for_each(|h| self.may_come_late(h, id));
        self.refused(d, false);
    }

    /// Whether an AttachVolume of this directive may have worked.
    fn may_have_claimed(&self, d: &VolumeDirective) -> bool {
        let mut may = false;
        self.with_volume(&d.path, |h| may = h.attached != Done::No);
        may
    }

    /// Whether this instance made the directive's volume. Then nobody else is after it: it is not given up easily.
    fn made_it(&self, d: &VolumeDirective) -> bool {
        let mut made = false;
        self.with_volume(&d.path, |h| made = h.origin != Origin::Claimed);
        made
    }

    /// Whose the volume is, after an answer that was not plain. `None`: it looks free, which may be an old picture.
    fn look(
        &self,
        d: &VolumeDirective,
        v: &Volume,
        device: &str,
        unsure: bool,
        scope: &Scope,
    ) -> Result<Option<Attempt>, Failure> {
        let facts = self.shared.facts();
        let made_it = self.made_it(d);
        let mut pause = Duration::from_millis(500);
        let mut missed = 0;
        loop {
            let Some(now) = self.describe(scope, &v.id)? else {
                // One answer proves nothing, and another volume beside this one would be one too many.
                if unsure && missed < MISSED {
                    missed += 1;
                    let waiting = |h| Failure::halted(format!("cannot attach {}: it is not found", v.id), h);
                    scope.sleep(pause).map_err(waiting)?;
                    pause = (pause * 2).min(Duration::from_secs(4));
                    continue;
                }
                if made_it {
                    let why = "does not exist any more (if it is encrypted: may this instance's role use its KMS key?)";
                    return Err(Failure::new(format!("{} {why}", v.id)));
                }
                self.refused(d, false);
                return Ok(Some(Attempt::Lost("it does not exist any more".to_owned())));
            };
            match standing(&now, &facts.instance_id, &facts.zone) {
                Standing::Here(at) if devices::same_device(&at, device) => {
                    self.with_volume(&d.path, |h| h.attached = Done::Yes);
                    return Ok(Some(Attempt::Ours));
                }
                Standing::Here(at) => {
                    self.refused(d, false);
                    return Ok(Some(Attempt::Lost(format!("it was attached here as {at} by somebody else"))));
                }
                Standing::Absent(why) => {
                    self.lost(d, &v.id);
                    return Ok(Some(Attempt::Lost(why)));
                }
                Standing::Free => return Ok(None),
                Standing::Broken(why) => return Err(Failure::new(format!("cannot attach {}: {why}", v.id))),
                // A rival of ours has it, most likely; and it is his as long as we cannot have been it.
                Standing::Changing(why) if !unsure && !made_it => {
                    self.refused(d, false);
                    return Ok(Some(Attempt::Lost(why)));
                }
                Standing::Changing(why) => {
                    let waiting = |h| Failure::halted(format!("cannot attach {}: {why}", v.id), h);
                    scope.sleep(pause).map_err(waiting)?;
                    pause = (pause * 2).min(Duration::from_secs(4));
                }
            }
        }
    }
}

//! Which volume: what is attached here already, what a described volume means for us, and the order of a pool.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::devices::same_device;
use super::moves::{self, Lines};
use super::order::order;
use super::tags;
use super::unfinished::is_left_to_its_maker;
use crate::aws::ec2::{AttachmentState, Volume, VolumeState};
use crate::config::{PoolPref, Source, VolumeDirective};

/// How long a created volume that nobody finished is left to its owner, since we do not ask whether the owner lives.
pub(crate) const IN_TRANSIT_GRACE: Duration = Duration::from_secs(3600);

/// Whether the volume has the tags of this domain and of exactly this pool (or of none).
pub(crate) fn in_pool(v: &Volume, domain: &str, pool: Option<&str>) -> bool {
    v.tag(tags::DOMAIN) == Some(domain) && v.tag(tags::POOL_NAME) == pool
}

/// What a described volume is to this instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Attached (or attaching) here, under this device name.
    Here(String),
    /// Free to be attached.
    Free,
    /// Being made or freed: worth waiting for. The text says what it is doing.
    Changing(String),
    /// Not to be had: in another zone, held by another instance, deleted.
    Absent(String),
    /// In a state that waiting does not mend and that does not prove absence.
    Broken(String),
}

/// What `v` is to the instance `me` in `zone`.
pub(crate) fn standing(v: &Volume, me: &str, zone: &str) -> Standing {
    if let Some(a) = v.attachments.iter().find(|a| a.instance_id == me) {
        // Busy is a detachment that waits for this machine to let go: then the disk is gone under whoever uses it.
        return if a.state.is_ending() || a.state == AttachmentState::Busy {
            Standing::Changing(format!("being detached from {}", a.device))
        } else {
            Standing::Here(a.device.clone())
        };
    }
    if v.zone != zone {
        return Standing::Absent(format!("it is in {}, this instance is in {zone}", v.zone));
    }
    if let Some(a) = v.attachments.first() {
        return if a.state.is_ending() {
            Standing::Changing(format!("being detached from {}", a.instance_id))
        } else {
            Standing::Absent(format!("it is held by {}", a.instance_id))
        };
    }
    match v.state {
        VolumeState::Available => Standing::Free,
        VolumeState::Creating => Standing::Changing("being created".to_owned()),
        VolumeState::InUse => Standing::Changing("being freed".to_owned()),
        VolumeState::Deleting | VolumeState::Deleted => Standing::Absent("it is being deleted".to_owned()),
        VolumeState::Error | VolumeState::Other => Standing::Broken(format!("its state is {}", v.state.name())),
    }
}

/// A volume that this directive finds attached here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// `vol-…`.
    pub(crate) volume_id: String,
    /// The device name that the API knows.
    pub(crate) device: String,
    /// The source that it counts as.
    pub(crate) source: Source,
}

/// Why what is attached here does not fit the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// `x` is attached here under another name.
    OtherDevice { volume_id: String, device: String, wanted: String },
    /// A pool volume of this domain is attached here under a name that no directive requests.
    Unrequested { volume_id: String, device: String },
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misfit::OtherDevice { volume_id, device, wanted } => write!(
                f,
                "{volume_id} is attached to this instance as {device}, but the config wants {wanted}: \
                 change the config's device, or detach the volume"
            ),
            Misfit::Unrequested { volume_id, device } => write!(
                f,
                "{volume_id} of this pool is attached to this instance as {device}, which no directive requests: \
                 name that device in the config, or detach the volume"
            ),
        }
    }
}

/// The first look, whatever the source: a volume attached here that belongs to `directive`, one of `all` the directives
/// of `domain`.
pub(crate) fn first_look(
    directive: &VolumeDirective,
    all: &[VolumeDirective],
    domain: &str,
    volumes: &[Volume],
    me: &str,
) -> Result<Option<Found>, Misfit> {
    let here = |v: &Volume| match standing(v, me, &v.zone) {
        Standing::Here(device) => Some(device),
        _ => None,
    };
    if let Some(id) = directive.volume_id.as_ref().filter(|_| directive.sources.contains(&Source::Existing))
        && let Some(device) = volumes.iter().find(|v| v.id == **id).and_then(here)
    {
        return match &directive.device {
            Some(wanted) if !same_device(wanted, &device) => {
                Err(Misfit::OtherDevice { volume_id: id.clone(), device, wanted: wanted.clone() })
            }
            _ => Ok(Some(Found { volume_id: id.clone(), device, source: Source::Existing })),
        };
    }
    let source = match directive.sources.iter().find(|s| **s != Source::Existing) {
        Some(s) if directive.sources.contains(&Source::Pool) || *s == Source::Pool => Source::Pool,
        Some(s) => *s,
        None => return Ok(None),
    };
    let pool = directive.pool_name.as_deref();
    let mut unrequested = None;
    // Whoever attached what has gone over into another volume wants to look at it.
    for v in by_id(volumes.iter().filter(|v| in_pool(v, domain, pool) && v.tag(tags::SUPERSEDED_BY).is_none())) {
        let Some(device) = here(v) else { continue };
        // Another directive names this very volume.
        if all.iter().any(|d| d.index != directive.index && d.volume_id.as_ref() == Some(&v.id)) {
            continue;
        }
        let requested_by = all.iter().find(|d| d.device.as_ref().is_some_and(|w| same_device(w, &device)));
        match (&directive.device, requested_by) {
            (_, Some(d)) if d.index == directive.index => {
                return Ok(Some(Found { volume_id: v.id.clone(), device, source: made(v, directive, source) }));
            }
            (_, Some(_)) => {}
            (None, None) => {
                return Ok(Some(Found { volume_id: v.id.clone(), device, source: made(v, directive, source) }));
            }
            // The name was chosen for the one directive of this pool that leaves it out.
            (Some(_), None) if all.iter().any(|d| d.device.is_none() && d.pool_name.as_deref() == pool) => {}
            (Some(_), None) => unrequested = Some(Misfit::Unrequested { volume_id: v.id.clone(), device }),
        }
    }
    unrequested.map_or(Ok(None), Err)
}

/// A volume still in transit was made, not found, whatever the directive prefers.
fn made(v: &Volume, directive: &VolumeDirective, source: Source) -> Source {
    let copied = v.snapshot_id.is_some();
    match v.tag(tags::IN_TRANSIT) {
        Some(_) if v.tag(tags::LINEAGE).is_some() => Source::Move,
        Some(_) if copied && directive.sources.contains(&Source::Snapshot) => Source::Snapshot,
        Some(_) => Source::Create,
        None => source,
    }
}

/// The free volumes of a pool in the order in which they are to be claimed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Candidates {
    /// Volume ids, best first.
    pub(crate) ids: Vec<String>,
    /// How many volumes the pool has in this zone.
    pub(crate) pool_size: usize,
    /// How many of them are changing their state and may be free soon.
    pub(crate) changing: usize,
    /// How many are left to the instance that is making them.
    pub(crate) in_transit: usize,
    /// Those that are there and cannot be used, in words: they do not prove that the pool has nothing.
    pub(crate) broken: Vec<String>,
    /// The other instances whose marks say that they move volumes of it. Whether they live is another question.
    pub(crate) movers: Vec<String>,
}

/// What the order of a pool depends on, beside the volumes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chooser<'a> {
    /// This instance.
    pub(crate) me: &'a str,
    /// Its zone.
    pub(crate) zone: &'a str,
    /// Its launch index.
    pub(crate) launch_index: u64,
    /// The corrected time, to judge the age of what is in transit.
    pub(crate) now: OffsetDateTime,
    /// The client tokens of the directive: a volume in transit with one of them is its own.
    pub(crate) token: Option<&'a str>,
    /// For `random`.
    pub(crate) seed: u64,
    /// Who this instance is in its fleet, for `sticky`; empty if nobody.
    pub(crate) member: &'a str,
    /// Instances that EC2 reports as terminated: their marks do not count.
    pub(crate) gone: &'a BTreeSet<String>,
}

/// Orders the free volumes of the pool `pool` of `domain` for this instance.
pub(crate) fn candidates(volumes: &[Volume], domain: &str, pool: &str, pref: PoolPref, by: Chooser<'_>) -> Candidates {
    let lines = Lines::of(volumes);
    // Multi-attach volumes give no lock, and managed ones refuse our calls. What has gone over into another volume is
    // not the data any more.
    let all = by_id(
        volumes
            .iter()
            .filter(|v| in_pool(v, domain, Some(pool)) && v.zone == by.zone && !v.multi_attach && !v.operator_managed)
            .filter(|v| !lines.has_passed(v)),
    );
    let mut out = Candidates { pool_size: all.len(), ..Candidates::default() };
    let mut free: Vec<&Volume> = Vec::new();
    for v in &all {
        match standing(v, by.me, by.zone) {
            // Also while it is being created: whoever makes it will not leave it to us.
            Standing::Free | Standing::Changing(_) if left_to_its_maker(v, &by) => {
                out.in_transit += 1;
                out.movers.extend(moves::mover(v, by.me, by.now, by.gone));
            }
            Standing::Free => free.push(v),
            Standing::Changing(_) => out.changing += 1,
            // It never was more than a name.
            Standing::Broken(_) if v.state == VolumeState::Error && never_used(v) => out.in_transit += 1,
            Standing::Broken(why) => out.broken.push(cannot_use(&v.id, &why)),
            Standing::Here(_) | Standing::Absent(_) => {}
        }
    }
    out.movers.sort();
    out.movers.dedup();
    out.ids = order(free, &all, pref, &by);
    out
}

fn by_id<'v>(volumes: impl Iterator<Item = &'v Volume>) -> Vec<&'v Volume> {
    let mut all: Vec<&Volume> = volumes.collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all
}

/// Whether it was made, and nobody ever had it.
fn never_used(v: &Volume) -> bool {
    v.tag(tags::IN_TRANSIT).is_some() && v.tag(tags::TS_USED).is_none()
}

/// What is said of a volume that is there and proves nothing.
pub(crate) fn cannot_use(id: &str, why: &str) -> String {
    format!("cannot use {id}: {why}")
}

/// A volume that somebody moves away is not offered meanwhile, and what is not committed is its maker's, unless that is
/// this directive.
fn left_to_its_maker(v: &Volume, by: &Chooser<'_>) -> bool {
    let is_its_own = by.token.is_some() && v.tag(tags::IN_TRANSIT) == by.token;
    moves::mover(v, "", by.now, by.gone).is_some() || !is_its_own && is_left_to_its_maker(v, by.me, by.now)
}

/// A number that spreads many instances evenly over the volumes of a pool.
pub(crate) fn spread(instance: &str, volume: &str) -> u64 {
    let mut h = Sha256::new();
    h.update(instance.as_bytes());
    h.update([0]);
    h.update(volume.as_bytes());
    let d = h.finalize();
    d.iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b))
}

#[cfg(test)]
mod properties;
#[cfg(test)]
pub(crate) mod tests;

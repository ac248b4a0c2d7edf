//! A volume that moves to another zone: its marks, what they mean, and which volume is free to be moved.
//!
//! The volume that moves is *marked*: by whom, when, and with the token of the snapshot. Its copy has the same lineage
//! (the id of the first volume) and the next generation. When the copy is committed, the old volume is *superseded*.
//! Whatever the marks say, of one lineage only the highest generation that is committed is ever offered.

use std::collections::{BTreeMap, BTreeSet};

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::create::digest;
use super::tags;
use super::unfinished::{is_left_to_its_maker, is_unfinished};
use super::volumes::{cannot_use, in_pool};
use crate::aws::ec2::{Volume, VolumeState};

/// A mark that was not renewed for so long is of a mover that is gone.
pub(crate) const STALE: Duration = Duration::hours(1);

/// `user:ec2fd.moving`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The instance that moves the volume.
    pub(crate) owner: String,
    pub(crate) time: OffsetDateTime,
    /// The tag of its snapshot.
    pub(crate) token: String,
}

impl Mark {
    /// Reads one; `None` if it is none of ours.
    pub(crate) fn parse(text: &str) -> Option<Mark> {
        let mut parts = text.split(' ');
        let mark = Mark {
            owner: parts.next()?.to_owned(),
            time: OffsetDateTime::parse(parts.next()?, &Rfc3339).ok()?,
            token: parts.next()?.to_owned(),
        };
        parts.next().is_none().then_some(mark)
    }

    /// The mark of a volume.
    pub(crate) fn of(v: &Volume) -> Option<Mark> {
        v.tag(tags::MOVING).and_then(Mark::parse)
    }

    /// As it is written.
    pub(crate) fn text(&self) -> String {
        let time = self.time.replace_nanosecond(0).unwrap_or(self.time);
        format!("{} {} {}", self.owner, time.format(&Rfc3339).unwrap_or_default(), self.token)
    }

    /// Whether its mover must be gone. One from the future is of a wrong clock, and believed for as long.
    pub(crate) fn is_stale(&self, now: OffsetDateTime) -> bool {
        (now - self.time).abs() >= STALE
    }
}

/// The token of one try to move a volume.
pub(crate) fn token(me: &str, domain: &str, volume: &str, time: OffsetDateTime) -> String {
    format!("move-{}", digest(&[me, domain, volume, &time.unix_timestamp_nanos().to_string()]))
}

/// Whether the value of a snapshot's tag is the token of a move. A backup that was given the tags of its volume has the
/// whole mark.
pub(crate) fn is_token(value: &str) -> bool {
    value.strip_prefix("move-").is_some_and(|d| d.len() == 40 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The first volume of the line that `v` is of.
pub(crate) fn lineage(v: &Volume) -> &str {
    v.tag(tags::LINEAGE).unwrap_or(&v.id)
}

/// How often it was moved.
pub(crate) fn generation(v: &Volume) -> u64 {
    // No line is so long, and the next one must be a number, too.
    v.tag(tags::GENERATION).and_then(|g| g.parse::<u32>().ok()).map_or(0, u64::from)
}

/// A copy that stands for its line: one that is not committed may be given up, and a superseded one was.
pub(crate) fn stands(copy: &Volume) -> bool {
    copy.tag(tags::LINEAGE).is_some()
        && !is_unfinished(copy)
        && copy.tag(tags::SUPERSEDED_BY).is_none()
        && !copy.state.is_ending()
}

/// The highest generation of each line among some volumes.
#[derive(Debug, Default)]
pub(crate) struct Lines<'v>(BTreeMap<&'v str, u64>);

impl<'v> Lines<'v> {
    /// Of `all`.
    pub(crate) fn of(all: &'v [Volume]) -> Lines<'v> {
        let mut lines = BTreeMap::new();
        for v in all.iter().filter(|v| stands(v)) {
            let highest = lines.entry(lineage(v)).or_insert(0);
            *highest = generation(v).max(*highest);
        }
        Lines(lines)
    }

    /// Whether `v` has gone over into another volume: it says so, or a later one of its line is there.
    pub(crate) fn has_passed(&self, v: &Volume) -> bool {
        v.tag(tags::SUPERSEDED_BY).is_some() || self.0.get(lineage(v)).is_some_and(|g| *g > generation(v))
    }
}

/// The volume in `all` that `v` has gone over into.
pub(crate) fn successor<'v>(v: &Volume, all: &'v [Volume]) -> Option<&'v Volume> {
    passed_into(lineage(v), generation(v), all)
}

/// The committed volume in `all` that has taken the place of that generation of a line.
pub(crate) fn passed_into<'v>(line: &str, before: u64, all: &'v [Volume]) -> Option<&'v Volume> {
    let later = |o: &&Volume| stands(o) && lineage(o) == line && generation(o) > before;
    all.iter().filter(later).max_by_key(|o| (generation(o), o.id.clone()))
}

/// Why the unfinished `copy`, which the instance `me` made, must not be gone on with: what it is a copy of, as it is now,
/// is another's, or was used since. `begun` are the token and the time of use of the move, where a journal tells them.
pub(crate) fn outdated_copy(
    copy: &Volume,
    originals: &[Volume],
    me: &str,
    begun: Option<(&str, Option<&str>)>,
) -> Option<String> {
    let last = originals.iter().max_by_key(|v| (generation(v), v.id.clone()))?;
    if last.tag(tags::SUPERSEDED_BY) == Some(&copy.id) {
        return None;
    }
    if let Some((token, used)) = begun {
        return lost(Some(last), token, used);
    }
    let Some(mark) = Mark::of(last).filter(|m| m.owner == me) else {
        return Some(format!("{} is not marked by this instance any more", last.id));
    };
    // Without a journal: since the copy was made.
    let used = last.tag(tags::TS_USED).and_then(|t| OffsetDateTime::parse(t, &Rfc3339).ok());
    match (used, copy.create_time) {
        (Some(used), Some(made)) if used > made => Some(format!("{} was used meanwhile", last.id)),
        _ => lost(Some(last), &mark.token, last.tag(tags::TS_USED)),
    }
}

/// The other instance that moves `v`, as far as its mark says, if it is not known to be `gone`.
pub(crate) fn mover(v: &Volume, me: &str, now: OffsetDateTime, gone: &BTreeSet<String>) -> Option<String> {
    let mark = Mark::of(v).filter(|m| m.owner != me && !m.is_stale(now) && !gone.contains(&m.owner));
    mark.map(|m| m.owner)
}

/// Why `v`, which was offered to the instance `me` as it had `read` it, is not offered any more.
pub(crate) fn withdrawn(v: &Volume, me: &str, read: &Volume, now: OffsetDateTime) -> Option<String> {
    if let Some(by) = v.tag(tags::SUPERSEDED_BY) {
        return Some(format!("it has become {by} meanwhile"));
    }
    if v.tag(tags::MOVING) != read.tag(tags::MOVING)
        && let Some(mover) = mover(v, me, now, &BTreeSet::new())
    {
        return Some(format!("{mover} moves it"));
    }
    // A copy whose original is gone is offered though nobody has finished it.
    let is_new = !is_left_to_its_maker(read, me, now);
    (is_new && is_left_to_its_maker(v, me, now)).then(|| "another instance is still making it".to_owned())
}

/// Who else has the volume, or moves it: then the instance `me` must not mark it. `seen` is the mark that it decided on.
pub(crate) fn rival(v: &Volume, me: &str, seen: Option<&str>, now: OffsetDateTime) -> Option<String> {
    if let Some(a) = v.attachments.first() {
        return Some(format!("{} has it", a.instance_id));
    }
    let mark = Mark::of(v).filter(|m| m.owner != me && !m.is_stale(now));
    mark.filter(|_| v.tag(tags::MOVING) != seen).map(|m| format!("{} moves it", m.owner))
}

/// Volumes that can be moved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Movable<'v> {
    /// Free ones in other zones, by id.
    pub(crate) free: Vec<&'v Volume>,
    /// Those of the pool in other zones that are not superseded.
    pub(crate) elsewhere: usize,
    /// How many are being made or freed.
    pub(crate) changing: usize,
    /// How many another instance moves.
    pub(crate) moving: usize,
    /// Those that are there and cannot be used, in words.
    pub(crate) broken: Vec<String>,
    /// The other instances whose marks say that they move some of them.
    pub(crate) movers: Vec<String>,
}

/// Which volumes of the pool, of which `all` are described, the instance `me` in `zone` may move.
pub(crate) fn movable<'v>(
    all: &'v [Volume],
    domain: &str,
    pool: &str,
    (me, zone): (&str, &str),
    now: OffsetDateTime,
    gone: &BTreeSet<String>,
) -> Movable<'v> {
    let mut out = Movable::default();
    let lines = Lines::of(all);
    for v in all.iter().filter(|v| in_pool(v, domain, Some(pool)) && v.zone != zone) {
        let dead = v.multi_attach || v.operator_managed || v.state.is_ending();
        // A copy that is not committed is its maker's, for as long as there is what it is a copy of.
        let unfinished = v.tag(tags::IN_TRANSIT).is_some() || is_left_to_its_maker(v, me, now);
        if dead || unfinished || lines.has_passed(v) {
            continue;
        }
        out.elsewhere += 1;
        let another = mover(v, me, now, gone);
        let ending = v.attachments.iter().all(|a| a.state.is_ending());
        match v.state {
            _ if another.is_some() => {
                out.moving += 1;
                out.movers.extend(another);
            }
            VolumeState::Available if v.attachments.is_empty() => out.free.push(v),
            VolumeState::Creating => out.changing += 1,
            VolumeState::InUse | VolumeState::Available if ending => out.changing += 1,
            VolumeState::Error | VolumeState::Other if v.attachments.is_empty() => {
                out.broken.push(cannot_use(&v.id, &format!("its state is {}", v.state.name())));
            }
            _ => {}
        }
    }
    out.free.sort_by(|a, b| a.id.cmp(&b.id));
    out.broken.sort();
    out.movers.sort();
    out.movers.dedup();
    out
}

/// Whether the volume that a committed copy is of can be superseded by it; `used` is its time of use when it was marked.
/// Else why not, and what a person must do.
pub(crate) fn outdated(old: &Volume, used: Option<&str>) -> Result<(), String> {
    let what_counts = format!("give the volume that does not count the tag {}", tags::SUPERSEDED_BY);
    if let Some(a) = old.attachments.first() {
        return Err(format!(
            "{} has attached {}, and both are in use: stop one, and {what_counts}",
            a.instance_id, old.id
        ));
    }
    if old.tag(tags::SUPERSEDED_BY).is_none() && old.tag(tags::TS_USED) != used {
        return Err(format!("{} was used meanwhile, and both have data of their own: {what_counts}", old.id));
    }
    Ok(())
}

/// Why a volume that was marked is not ours to move any more; `used` is its time of use when it was marked.
pub(crate) fn lost(now: Option<&Volume>, token: &str, used: Option<&str>) -> Option<String> {
    let Some(v) = now.filter(|v| !v.state.is_ending()) else { return Some("it does not exist any more".to_owned()) };
    if let Some(a) = v.attachments.first() {
        return Some(format!("{} took it meanwhile", a.instance_id));
    }
    if v.state != VolumeState::Available {
        return Some(format!("its state is {} by now", v.state.name()));
    }
    if v.tag(tags::TS_USED) != used {
        return Some("it was used meanwhile".to_owned());
    }
    if let Some(by) = v.tag(tags::SUPERSEDED_BY) {
        return Some(format!("it has become {by} meanwhile"));
    }
    match Mark::of(v) {
        Some(m) if m.token == token => None,
        Some(m) => Some(format!("{} moves it", m.owner)),
        None => Some("its mark was taken off".to_owned()),
    }
}

#[cfg(test)]
mod tests;

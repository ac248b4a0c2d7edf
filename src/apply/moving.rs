//! Source `m`: a free volume of the pool in another zone is moved here, by way of a snapshot.
//!
//! A volume of another zone cannot be attached from here, so there is no lock. Instead it is *marked* with a tag that
//! all instances of the pool respect, and looked at again and again: after a pause (somebody may have claimed or marked
//! it at the same moment; the last mark counts), while and after the snapshot is made, and right before the copy is
//! claimed. Whoever does not find its own mark, or finds the volume used, gives up and cleans up. The old volume is
//! never deleted; when the copy is committed, `moved` marks it as superseded.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateSnapshot.html>

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::hold::{Done, Hold, MoveHold};
use super::volume::{Acquired, SourceEnd};
use super::{DomainRun, Failure, lock};
use crate::aws::ec2::{Filter, Snapshot, SnapshotState, Volume};
use crate::aws::{Class, Lapsed, Still};
use crate::config::{Source, VolumeDirective};
use crate::plan::create::{self, Base};
use crate::plan::moves::{self, Mark};
use crate::plan::tags;
use crate::plan::volumes::spread;
use crate::scope::Scope;
use crate::waits::waiting;

/// How long a rival that read the volume before it was marked may take to claim or to mark it, and a read to know.
pub(super) const SETTLE: Duration = Duration::from_secs(3);
/// How often, and after how long, the volume is looked at again where its mark is not to be seen.
const LATE_READS: u32 = 5;
const LATE_READ: Duration = Duration::from_secs(2);
/// How often a snapshot is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How often the volume itself is looked at meanwhile.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// How long a new snapshot may be unknown.
const UNSEEN: Duration = Duration::from_secs(60);
/// EC2 takes one snapshot of a volume in 15 s, and counts those that it refuses.
const TOO_EARLY: Duration = Duration::from_secs(16);
/// How many moves are lost to others before the directive fails.
const LOSSES: u32 = 5;

impl DomainRun {
    /// Source `m`: moves a volume of the pool into this zone, and claims its copy. `certain`: no source before it has one.
    pub(super) fn source_move(
        &self,
        d: &VolumeDirective,
        read: &[Volume],
        certain: bool,
        scope: &Scope,
    ) -> Result<Acquired, SourceEnd> {
        let Some(pool) = d.pool_name.as_deref() else {
            return Err(Failure::new("source m without pool-name").into());
        };
        let facts = self.shared.facts();
        let (mut losses, mut said) = (0, false);
        let _wait = waiting(scope, format!("a volume of pool '{pool}' in another zone"));
        let (mut gone, mut asked) = (BTreeSet::new(), false);
        loop {
            let all = self.describe_pool(pool, scope)?;
            let (here, now) = ((facts.instance_id.as_str(), facts.zone.as_str()), self.shared.clock.corrected());
            let mut m = moves::movable(&all, &self.config.name, pool, here, now, &gone);
            if m.free.is_empty() && !m.movers.is_empty() && !std::mem::replace(&mut asked, true) {
                gone.extend(self.terminated(d, &m.movers, scope)?);
                m = moves::movable(&all, &self.config.name, pool, here, now, &gone);
            }
            if !certain && m.free.len() + m.changing > 0 {
                return Err(SourceEnd::Held);
            }
            // What an earlier run has begun goes first. Several instances that move begin with different volumes.
            m.free.sort_by_cached_key(|v| {
                (Mark::of(v).is_none_or(|m| m.owner != facts.instance_id), spread(&facts.instance_id, &v.id))
            });
            let free = m.free.iter().find(|v| lock(&self.shared.taken).insert(v.id.clone()));
            let Some(v) = free else {
                if m.changing == 0 {
                    if let Some(broken) = m.broken.first() {
                        return Err(Failure::new(broken).into());
                    }
                    return Err(match (m.elsewhere, m.moving) {
                        (0, _) => SourceEnd::Missing(format!("pool '{pool}' has no volume in another zone")),
                        (n, 0) => {
                            SourceEnd::Absent(format!("all {n} volumes of pool '{pool}' in other zones are taken"))
                        }
                        (n, k) => SourceEnd::Absent(format!(
                            "the {n} volumes of pool '{pool}' in other zones are taken, or ({k}) moved"
                        )),
                    });
                }
                if !std::mem::replace(&mut said, true) {
                    log::info!("{}: pool '{pool}': waiting for a volume in another zone that is being freed", d.path);
                }
                let waiting = |h| Failure::halted(format!("no volume of pool '{pool}' became free"), h);
                let jitter = spread(&facts.instance_id, pool) % 1000;
                scope.sleep(Duration::from_millis(2000 + jitter)).map_err(waiting)?;
                continue;
            };
            let end = self.move_here(d, v, (&all, &gone), read, scope);
            if !matches!(end, Ok(Ok(_))) {
                lock(&self.shared.taken).remove(&v.id);
            }
            match end? {
                Ok(acquired) => return Ok(acquired),
                Err(lost) => {
                    log::info!("{}: {} is not moved: {lost}", d.path, v.id);
                    losses += 1;
                    if losses == LOSSES {
                        return Err(Failure::new(format!("cannot move {}: {lost}", v.id)).into());
                    }
                }
            }
        }
    }

    /// The volumes of a pool in all zones.
    pub(super) fn describe_pool(&self, pool: &str, scope: &Scope) -> Result<Vec<Volume>, Failure> {
        let filters = [
            Filter::exact(format!("tag:{}", tags::DOMAIN), &[&self.config.name]),
            Filter::exact(format!("tag:{}", tags::POOL_NAME), &[pool]),
        ];
        let what = format!("list the volumes of pool '{pool}' in all zones");
        self.shared.aws.describe_volumes(scope, &filters).map_err(|e| Failure::api(&what, &e))
    }

    /// Moves `v`, one of `all`; or says who has it. `gone`: movers that are terminated.
    fn move_here(
        &self,
        d: &VolumeDirective,
        v: &Volume,
        (all, gone): (&[Volume], &BTreeSet<String>),
        read: &[Volume],
        scope: &Scope,
    ) -> Result<Result<Acquired, String>, Failure> {
        self.begin_move(d, v, scope)?;
        let waiting = |h| Failure::halted(format!("cannot move {}", v.id), h);
        scope.sleep(SETTLE).map_err(waiting)?;
        // What was listed has our tags only, and is old by now.
        let mut copy_tags = match self.still_to_move(d, None, scope)? {
            Ok(now) => now.map(|v| v.tags).unwrap_or_default(),
            Err(why) => return self.give_move_up(d, why, scope),
        };
        self.clean_up_after_others(v, all, gone, scope);
        let snapshot = match self.snapshot_to_move(d, scope)? {
            Ok(snapshot) => snapshot,
            Err(why) => return self.give_move_up(d, why, scope),
        };
        copy_tags.retain(|(k, _)| !k.starts_with("user:ec2fd.") && !k.starts_with("aws:"));
        // The same request again after a kill, in whatever order they are read; and room for ours.
        copy_tags.sort();
        let own = create::own_tags(d);
        copy_tags.retain(|(k, _)| !own.contains(k));
        let room = create::room_for_tags(d);
        if copy_tags.len() > room {
            let more = copy_tags.split_off(room);
            let keys: Vec<&str> = more.iter().map(|(k, _)| k.as_str()).collect();
            log::warn!("{}: a volume has 50 tags at most: not copied from {}: {}", d.path, v.id, keys.join(", "));
        }
        copy_tags.push((tags::LINEAGE.to_owned(), moves::lineage(v).to_owned()));
        copy_tags.push((tags::GENERATION.to_owned(), (moves::generation(v) + 1).to_string()));
        let base = Base { snapshot: snapshot.id, size: snapshot.size, tags: copy_tags };
        if let Some(size) = create::too_small(d, &base) {
            log::info!("{}: Size {size} is less than the {} GiB of {}: as large as that", d.path, base.size, v.id);
        }
        match self.source_create(d, Source::Move, Some(&base), read, scope) {
            Ok(acquired) => Ok(Ok(acquired)),
            Err(SourceEnd::Absent(why) | SourceEnd::Missing(why)) => self.give_move_up(d, why, scope),
            Err(SourceEnd::Failed(f) | SourceEnd::NoBase(f)) => Err(f),
            Err(SourceEnd::Held) => Err(Failure::new("nothing was made")),
        }
    }

    /// Marks the volume as ours to move; or goes on where an earlier run of this instance was.
    fn begin_move(&self, d: &VolumeDirective, v: &Volume, scope: &Scope) -> Result<(), Failure> {
        let me = self.shared.facts().instance_id.clone();
        let used = v.tag(tags::TS_USED).map(str::to_owned);
        let marked = Mark::of(v).filter(|m| m.owner == me).map(|m| m.token);
        let of = |h: &mut Hold| matches!(h, Hold::Move(m) if m.volume_id == v.id);
        let inherited: Vec<Hold> = self.ledger(|l| l.inherited.extract_if(.., of).collect());
        let mut begun = None;
        for hold in inherited {
            let Hold::Move(m) = &hold else { continue };
            if begun.is_none() && marked.as_ref() == Some(&m.token) && m.used == used {
                log::info!("{}: going on with the move of {}", d.path, v.id);
                begun = Some(m.clone());
            } else {
                self.ledger(|l| l.inherited.push(hold.clone()));
                self.put_back(hold, scope).map_err(Failure::new)?;
            }
        }
        let begun = begun.unwrap_or_else(|| {
            let time = self.shared.clock.corrected();
            MoveHold {
                key: String::new(),
                volume_id: v.id.clone(),
                lineage: moves::lineage(v).to_owned(),
                generation: moves::generation(v),
                token: moves::token(&me, &self.config.name, &v.id, time),
                used,
                snapshot: Done::No,
            }
        });
        let token = begun.token.clone();
        self.push(Hold::Move(MoveHold { key: d.path.clone(), ..begun }));
        log::info!("{}: moving {} from {} to {}", d.path, v.id, v.zone, self.shared.facts().zone);
        self.mark(&v.id, v.tag(tags::MOVING), token, scope)
    }

    fn mark(&self, id: &str, seen: Option<&str>, token: String, scope: &Scope) -> Result<(), Failure> {
        let mark =
            Mark { owner: self.shared.facts().instance_id.clone(), time: self.shared.clock.corrected(), token }.text();
        // Late, it would be written over another's.
        let scope = scope.within(SETTLE * 10);
        let ask = |scope: &Scope| {
            let facts = self.shared.facts();
            let now = self.shared.aws.describe_volumes(scope, &[Filter::exact("volume-id", &[id])]);
            let now = now.map_err(Lapsed::Unknown)?;
            let time = self.shared.clock.corrected();
            let rival = now.iter().find(|v| v.id == id).and_then(|v| moves::rival(v, &facts.instance_id, seen, time));
            rival.map_or(Ok(()), |why| Err(Lapsed::Changed(format!("{id} is not to be moved any more: {why}"))))
        };
        self.tag(id, &[(tags::MOVING, &mark)], &Still::again(&ask), &scope)
            .map_err(|e| Failure::api(&format!("mark {id} as being moved"), &e))
    }

    /// The move of a directive.
    pub(super) fn move_of(&self, d: &VolumeDirective) -> Option<MoveHold> {
        lock(&self.ledger).held.iter().find_map(|h| match h {
            Hold::Move(m) if m.key == d.path => Some(m.clone()),
            _ => None,
        })
    }

    fn set_move_snapshot(&self, d: &VolumeDirective, done: Done) {
        self.ledger(|l| {
            for hold in &mut l.held {
                if let Hold::Move(m) = hold
                    && m.key == d.path
                {
                    m.snapshot = done;
                }
            }
        });
    }

    /// Why the volume that the directive moves is another's by now.
    pub(super) fn is_move_lost(&self, d: &VolumeDirective, scope: &Scope) -> Result<Option<String>, Failure> {
        self.is_move_lost_to_another(d, None, scope)
    }

    /// The same when the directive has its copy `own`: a run that was cut off may have committed that already.
    pub(super) fn is_move_lost_to_another(
        &self,
        d: &VolumeDirective,
        own: Option<&str>,
        scope: &Scope,
    ) -> Result<Option<String>, Failure> {
        Ok(self.still_to_move(d, own, scope)?.err())
    }

    /// The volume that the directive moves, as it is now; or why it is another's.
    fn still_to_move(
        &self,
        d: &VolumeDirective,
        own: Option<&str>,
        scope: &Scope,
    ) -> Result<Result<Option<Volume>, String>, Failure> {
        let Some(m) = self.move_of(d) else { return Ok(Ok(None)) };
        let mut now = self.describe(scope, &m.volume_id)?;
        for _ in 0..LATE_READS {
            // A read can be older than the mark.
            if now.as_ref().is_none_or(|v| v.tag(tags::MOVING).is_some() || !v.attachments.is_empty()) {
                break;
            }
            scope.sleep(LATE_READ).map_err(|h| Failure::halted(format!("cannot move {}", m.volume_id), h))?;
            now = self.describe(scope, &m.volume_id)?;
        }
        let lost = moves::lost(now.as_ref(), &m.token, m.used.as_deref());
        if let Some(why) = lost.as_ref().filter(|_| own.is_none()) {
            return Ok(Err(why.clone()));
        }
        let line = self.copies_of(&m.lineage, scope)?;
        let other = now.as_ref().and_then(|v| moves::successor(v, &line));
        if other.is_some_and(|o| Some(o.id.as_str()) == own) {
            return Ok(Ok(now));
        }
        let lost = lost.or_else(|| other.map(|o| format!("it has become {} meanwhile", o.id)));
        Ok(lost.map_or(Ok(now), Err))
    }

    /// The copies of a line in all zones.
    pub(super) fn copies_of(&self, lineage: &str, scope: &Scope) -> Result<Vec<Volume>, Failure> {
        let filter = Filter::exact(format!("tag:{}", tags::LINEAGE), &[lineage]);
        let what = format!("look for copies of {lineage}");
        self.shared.aws.describe_volumes(scope, &[filter]).map_err(|e| Failure::api(&what, &e))
    }

    fn give_move_up<T>(&self, d: &VolumeDirective, why: String, scope: &Scope) -> Result<Result<T, String>, Failure> {
        if let Some(m) = self.move_of(d) {
            let hold = Hold::Move(m);
            self.ledger(|l| {
                l.held.retain(|h| *h != hold);
                l.inherited.push(hold.clone());
            });
            self.put_back(hold, scope).map_err(Failure::new)?;
        }
        Ok(Err(why))
    }

    /// The snapshot of the volume that moves, completed; or why the move is lost.
    fn snapshot_to_move(&self, d: &VolumeDirective, scope: &Scope) -> Result<Result<Snapshot, String>, Failure> {
        let Some(m) = self.move_of(d) else { return Err(Failure::new("nothing is being moved")) };
        let mut s = self.make_move_snapshot(d, &m, scope)?;
        let id = s.id.clone();
        let _wait = waiting(scope, format!("the snapshot {id} of {}", m.volume_id));
        let clock = &self.shared.clock;
        let (mut seen, mut checked) = (clock.now(), clock.now());
        let mut measure = self.shared.measure(&d.path);
        loop {
            match s.state {
                SnapshotState::Pending => {}
                SnapshotState::Completed => break,
                _ => return Err(Failure::new(format!("cannot move {}: its snapshot {id} failed", m.volume_id))),
            }
            let text = format!("waiting for the snapshot {id} of {}", m.volume_id);
            measure.tell(&text, Some(s.progress));
            scope.sleep(LOOK_EVERY).map_err(|h| Failure::halted(text, h))?;
            if clock.now().since(checked) >= CHECK_EVERY {
                if let Some(why) = self.is_move_lost(d, scope)? {
                    return Ok(Err(why));
                }
                checked = clock.now();
            }
            match self.snapshots_by("snapshot-id", &id, scope)?.into_iter().next() {
                Some(now) => (s, seen) = (now, clock.now()),
                None if clock.now().since(seen) < UNSEEN => {}
                None => {
                    return Err(Failure::new(format!(
                        "cannot move {}: its snapshot {id} does not exist any more",
                        m.volume_id
                    )));
                }
            }
        }
        log::info!("{}: {id} is completed", d.path);
        Ok(match self.is_move_lost(d, scope)? {
            Some(why) => Err(why),
            None => Ok(s),
        })
    }

    /// Snapshots of this account by the exact value of a filter.
    pub(super) fn snapshots_by(&self, filter: &str, value: &str, scope: &Scope) -> Result<Vec<Snapshot>, Failure> {
        let what = format!("look for the snapshot with {filter} {value}");
        let filter = [Filter::exact(filter, &[value])];
        self.shared.aws.describe_snapshots(scope, &filter).map_err(|e| Failure::api(&what, &e))
    }

    /// The snapshots of a move. Reads lag behind writes: if there may be one, an empty answer is believed only after
    /// some of them.
    pub(super) fn find_move_snapshots(&self, m: &MoveHold, scope: &Scope) -> Result<Vec<Snapshot>, Failure> {
        let mut pause = Duration::from_millis(500);
        let rounds = if m.snapshot == Done::No { 0 } else { 7 };
        for _ in 0..rounds {
            let found = self.snapshots_by(&format!("tag:{}", tags::MOVING), &m.token, scope)?;
            if !found.is_empty() {
                return Ok(found);
            }
            if scope.sleep(pause).is_err() {
                break;
            }
            pause = (pause * 2).min(Duration::from_secs(8));
        }
        Ok(Vec::new())
    }

    /// CreateSnapshot has no client token: where one may have been made, it is looked for first, by its tag.
    fn make_move_snapshot(&self, d: &VolumeDirective, m: &MoveHold, scope: &Scope) -> Result<Snapshot, Failure> {
        let facts = self.shared.facts();
        let mut m = m.clone();
        let description = format!("{} moves to {} for {}", m.volume_id, facts.zone, facts.instance_id);
        let of = [
            (tags::DOMAIN, self.config.name.as_str()),
            (tags::OWNER, facts.instance_id.as_str()),
            (tags::MOVING, m.token.as_str()),
        ];
        let tag = |(k, v): &(&str, &str)| json!({ "Key": k, "Value": v });
        let noted = json!([{ "ResourceType": "snapshot", "Tags": of.iter().map(tag).collect::<Vec<_>>() }]);
        let of = of.map(|(k, v)| (k, v.to_owned()));
        let of: Vec<(&str, &str)> = of.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let what = format!("make a snapshot of {}", m.volume_id);
        loop {
            if let Some(found) = self.find_move_snapshots(&m, scope)?.into_iter().next() {
                return Ok(found);
            }
            let before = m.snapshot;
            self.set_move_snapshot(d, Done::Maybe);
            self.note_call(
                "create_snapshot",
                json!({ "VolumeId": m.volume_id, "Description": description, "TagSpecifications": noted }),
            );
            let error = match self.shared.aws.create_snapshot(scope, &m.volume_id, &description, &of) {
                Ok(s) => {
                    self.set_move_snapshot(d, Done::Yes);
                    log::info!("{}: {} of {} begun", d.path, s.id, m.volume_id);
                    return Ok(s);
                }
                Err(e) => e,
            };
            if error.may_have_worked() {
                m.snapshot = Done::Maybe;
            } else {
                self.set_move_snapshot(d, before);
            }
            match error.class() {
                Class::Ambiguous => log::debug!("{}: {error}: looking", d.path),
                Class::TooEarly => {
                    log::info!("{}: waiting: {error}", d.path);
                    scope.sleep(TOO_EARLY).map_err(|h| Failure::halted(format!("cannot {what}: {error}"), h))?;
                }
                _ => return Err(Failure::api(&what, &error)),
            }
        }
    }
}

//! What is true when all is over and each instance that is left has lived a last life without trouble.

use super::draw::{After, Life};
use super::ledger::{Event, What, begins};
use super::life::Lived;
use super::rules::{Broken, Seen};
use crate::fakeaws::volumes::Volume;
use crate::lab::Lab;

/// All that holds at the end.
pub(crate) fn all(lab: &Lab, seen: &Seen, survivors: &[String]) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut say = |rule, texts: Vec<String>| broken.extend(texts.into_iter().map(|text| Broken { rule, text }));
    say("not offered", what_was_committed_is_offered(seen, survivors));
    say("twice", no_history_is_offered_twice(seen, survivors));
    say("left volume", no_volume_is_left_unfinished(seen, survivors));
    say("left attached", nothing_stays_attached(seen));
    say("left snapshot", no_snapshot_of_a_move_stays(lab));
    say("left record", no_record_stays(lab));
    say("left address", no_address_stays(lab));
    say("left journal", no_journal_stays(lab, survivors));
    crate::disks::harmless(&lab.server.calls());
    broken
}

/// A last life starts its application and ends well.
pub(crate) fn of_last_life(lived: &Lived, life: &Life) -> Vec<Broken> {
    let mut broken = Vec::new();
    if lived.code != 0 || !lived.started {
        let why: Vec<&str> = lived.log.lines().filter(|l| l.contains("ERROR") || l.contains("error")).collect();
        broken.push(Broken {
            rule: "last life",
            text: format!("{} on {}: exit code {}: {}", life.name, lived.instance, lived.code, why.join("; ")),
        });
    }
    broken
}

/// A tag of ours.
fn tag<'v>(v: &'v Volume, name: &str) -> Option<&'v String> {
    v.tags.get(&format!("user:ec2fd.{name}"))
}

/// Of the domain that some lives had, and that no last life has: what it (as far as can be told) committed stays as it
/// is. Where the instance booted since, or is gone, nothing tells of the rest either.
fn is_renamed(seen: &Seen, v: &Volume) -> bool {
    let booted = |life: &str| {
        seen.plan.seats.iter().any(|s| {
            s.iter().position(|l| l.name == life).is_some_and(|n| s[n..].iter().any(|l| l.after != After::Same))
        })
    };
    let stood = |e: &Event| e.volume == v.id && (matches!(e.what, What::Whole | What::Start { .. }) || booted(&e.life));
    let made_by = |life: &&String| tag(v, "owner") == seen.who.get(*life) && booted(life);
    tag(v, "domain").is_some_and(|d| d == "z")
        && (seen.ledger.0.iter().any(stood) || seen.who.keys().any(|life| made_by(&life)))
}

/// What made it has not committed it: it is in transit, or in the transaction of its creation.
fn is_unfinished(v: &Volume) -> bool {
    let created = tag(v, "transc-id").is_some_and(|t| t.starts_with("ec2fd-")) && tag(v, "ts-created").is_none();
    tag(v, "in-transit").is_some() || created
}

fn is_of_gone(v: &Volume, survivors: &[String]) -> bool {
    tag(v, "owner").is_none_or(|o| !survivors.contains(o))
}

/// A copy that an instance which is gone did not commit: it may carry data, so it is kept, and no pool offers it as long
/// as its original is there. It is one of the volumes that a person may delete.
fn is_kept_copy(v: &Volume, survivors: &[String]) -> bool {
    is_of_gone(v, survivors) && tag(v, "lineage").is_some() && is_unfinished(v)
}

/// Whether a pool offers this volume (or, by its id, anybody may have it). What an instance that is gone made, and what is
/// no copy, is the pool's after an hour.
fn is_offered(v: &Volume, survivors: &[String]) -> bool {
    let left = is_unfinished(v) && (tag(v, "lineage").is_some() || !is_of_gone(v, survivors));
    v.state == "available" && tag(v, "superseded-by").is_none() && !left
}

/// What was committed is on a volume that is offered.
fn what_was_committed_is_offered(seen: &Seen, survivors: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for (id, h) in seen.ledger.by_volume() {
        let on = |v: &&Volume| is_offered(v, survivors) && begins(seen.history(&v.id), h);
        if !seen.live().any(|v| on(&v) || (v.id == id && is_renamed(seen, v))) {
            found.push(format!("{h:?}, written to {id}, is on no volume that is offered"));
        }
    }
    found
}

/// Of one history only the volume with the newest of it is offered, unless another began as a copy of a snapshot.
fn no_history_is_offered_twice(seen: &Seen, survivors: &[String]) -> Vec<String> {
    if seen.plan.kind.forks() {
        return Vec::new();
    }
    let offered: Vec<&Volume> =
        seen.live().filter(|v| is_offered(v, survivors) && !seen.history(&v.id).is_empty()).collect();
    let mut found = Vec::new();
    for (i, a) in offered.iter().enumerate() {
        for b in &offered[i + 1..] {
            if seen.history(&a.id)[0] == seen.history(&b.id)[0] {
                found.push(format!(
                    "{} and {} are both offered: {:?} {:?}",
                    a.id,
                    b.id,
                    seen.history(&a.id),
                    seen.history(&b.id)
                ));
            }
        }
    }
    found
}

/// A volume is offered, or another has taken its place: none is marked, in transit or unfinished. (The transaction of a
/// volume that was claimed, or that is committed, is a hint: it may stay where its instance lost the right to take it off.)
fn no_volume_is_left_unfinished(seen: &Seen, survivors: &[String]) -> Vec<String> {
    let left = |v: &&Volume| {
        let marked = tag(v, "moving").is_some() || (is_unfinished(v) && !is_of_gone(v, survivors));
        let pointed = tag(v, "superseded-by").is_none_or(|by| seen.live().any(|u| u.id == *by));
        (marked || !pointed) && !is_renamed(seen, v) && !is_kept_copy(v, survivors)
    };
    seen.live().filter(left).map(|v| format!("{} {}: {:?}", v.id, v.state, v.tags)).collect()
}

/// Nothing stays attached.
fn nothing_stays_attached(seen: &Seen) -> Vec<String> {
    let at =
        |v: &Volume| v.attachments.first().map(|a| format!("{} to {} as {} ({})", v.id, a.instance, a.device, a.state));
    seen.live().filter(|v| !is_renamed(seen, v)).filter_map(at).collect()
}

/// A snapshot that a move made is deleted with the move, by its mover or by whoever has the domain after that.
fn no_snapshot_of_a_move_stays(lab: &Lab) -> Vec<String> {
    let w = lab.server.world();
    let is_renamed = |domain: &String| domain == "z";
    let of_move = w.snapshots.values().filter(|s| {
        s.tags.contains_key("user:ec2fd.moving") && !s.tags.get("user:ec2fd.domain").is_some_and(is_renamed)
    });
    of_move.map(|s| format!("{} of {}: {:?}", s.id, s.volume, s.tags)).collect()
}

/// No record stays.
fn no_record_stays(lab: &Lab) -> Vec<String> {
    crate::kit::zone(lab, "Z1").into_iter().filter(|r| !r.contains(" NS ") && !r.contains(" SOA ")).collect()
}

/// No address stays associated.
fn no_address_stays(lab: &Lab) -> Vec<String> {
    let w = lab.server.world();
    w.addresses
        .values()
        .filter_map(|a| Some(format!("{} is with {}", a.id, a.association.as_ref()?.instance)))
        .collect()
}

/// No journal of an instance that is left has anything to settle.
fn no_journal_stays(lab: &Lab, survivors: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for instance in survivors {
        let dir = lab.root(instance).join("run/ec2fleetd");
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains(".journal") {
                found
                    .push(format!("{instance}: {name}: {}", std::fs::read_to_string(entry.path()).unwrap_or_default()));
            }
        }
    }
    found
}

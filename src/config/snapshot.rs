//! What an `attach-volume` directive says of the snapshots that its volume is made from.

use super::Source;
use super::json5::{Node, Value};
use super::reader::{Object, Reader};

/// The keys of sources that copy.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// `snapshot.tags`.
    pub(super) tags: Vec<(String, String)>,
    /// `initialization-rate`.
    pub(super) rate: Option<i64>,
}

/// Reads them, and says what does not fit the directive's sources.
/// `made`: `snapshot` says what snapshots are made, and so what tags they have.
pub(super) fn keys(r: &mut Reader, o: &Object<'_>, sources: &[Source], made: bool) -> Copies {
    let (copies, moves) = (sources.contains(&Source::Snapshot), sources.contains(&Source::Move));
    let place = |s: Source| sources.iter().position(|o| *o == s);
    if moves && place(Source::Pool).is_none_or(|p| Some(p) > place(Source::Move)) {
        let at = o.get("source").map_or(o.at, |n| n.at);
        r.problem(&o.path_of("source"), at, "m without p before it: only what is not in this zone is moved here");
    }
    let tags = if made { Vec::new() } else { tags(r, o) };
    if copies && tags.is_empty() && o.get("pool-name").is_none() && (made || o.get("snapshot").is_none()) {
        let text = "is missing: source has s, and snapshot.tags are not there either";
        r.problem(&o.path_of("pool-name"), o.at, text);
    }
    if let (false, Some(node), false) = (copies || made, o.get("snapshot"), sources.is_empty()) {
        r.warn(&o.path_of("snapshot"), node.at, "has no effect: source has no s, and it makes none (on, every)");
    }
    let rate = rate(r, o);
    if let (false, Some(node), false) = (copies || moves, o.get("initialization-rate"), sources.is_empty()) {
        r.warn(&o.path_of("initialization-rate"), node.at, "has no effect: source has no s and no m");
    }
    if let (true, Some(Node { value: Value::Object(props), .. })) = (copies || moves, o.get("create")) {
        let create = o.path_of("create");
        for p in props {
            let path = super::problem::key_path(&create, &p.key);
            match p.key.as_str() {
                "SnapshotId" => r.problem(&path, p.at, "sources s and m choose the snapshot: leave it out"),
                "VolumeInitializationRate" if rate.is_some() => {
                    r.problem(&path, p.at, "initialization-rate is there too, and both are the same: leave one out");
                }
                _ => {}
            }
        }
    }
    Copies { tags, rate }
}

fn tags(r: &mut Reader, o: &Object<'_>) -> Vec<(String, String)> {
    let Some(node) = o.get("snapshot") else { return Vec::new() };
    let path = o.path_of("snapshot");
    let Some(s) = r.object(node, &path, &super::snapshots::KEYS) else { return Vec::new() };
    let Some(node) = r.required(&s, "tags") else { return Vec::new() };
    let path = s.path_of("tags");
    let Some(map) = r.map(node, &path) else { return Vec::new() };
    let mut tags = Vec::new();
    for p in map.names() {
        let path = map.path_of(&p.key);
        // An empty value is one too.
        if let Some(value) = r.text(&p.value, &path) {
            tags.push((p.key.clone(), value.to_owned()));
        }
    }
    if map.names().next().is_none() {
        r.problem(&path, node.at, "is empty: without tags every snapshot of the account would fit");
    }
    tags
}

fn rate(r: &mut Reader, o: &Object<'_>) -> Option<i64> {
    o.get("initialization-rate")?;
    r.required_integer(o, "initialization-rate")
}

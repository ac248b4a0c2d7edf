//! `snapshot` of an `attach-volume` directive: what snapshots are made.

use std::time::Duration;

use super::exec;
use super::json5::{Node, Value};
use super::problem::quoted;
use super::reader::{Object, Reader};
use crate::model::Event;

/// With those for source `s`, which may stand there alone.
pub(super) const KEYS: [&str; 4] = ["on", "every", "keep", "tags"];

/// EC2 takes one of a volume every 15 s; more often than this helps nobody and costs each write a wait.
const SHORTEST: Duration = Duration::from_secs(60);
/// EC2's limits of a key, of a value, and of tags in all, less those that are ours.
const KEY: usize = 127;
const VALUE: usize = 256;
const TAGS: usize = 40;

/// When snapshots are made of a volume, and how many of them stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// On these events, after their commands and before the volume is released.
    pub(crate) on: Vec<Event>,
    /// And so long after the last one.
    pub(crate) every: Option<Duration>,
    /// So many completed ones of the volume stay; `None`: all.
    pub(crate) keep: Option<usize>,
    /// Tags beside ours.
    pub(crate) tags: Vec<(String, String)>,
}

/// Reads `o.snapshot`. `None` where it is only about those that source `s` copies.
pub(super) fn snapshot(r: &mut Reader, o: &Object<'_>, copies: bool) -> Option<Snapshot> {
    let node = o.get("snapshot")?;
    let Value::Object(props) = &node.value else { return None };
    let tags_alone = copies || props.iter().any(|p| p.key == "tags");
    if tags_alone && !props.iter().any(|p| KEYS[..3].contains(&p.key.as_str())) {
        return None;
    }
    let s = r.object(node, &o.path_of("snapshot"), &KEYS)?;
    let on = events(r, &s);
    let every = r.seconds(&s, "every");
    if let (Some(_), Some(node)) = (every.filter(|e| *e < SHORTEST), s.get("every")) {
        r.problem(&s.path_of("every"), node.at, format!("{} s at least are wanted", SHORTEST.as_secs()));
    }
    let none = s.get("on").is_none_or(|n| matches!(&n.value, Value::Array(list) if list.is_empty()));
    if none && s.get("every").is_none() {
        r.problem(&s.path, s.at, "makes none: on (events) or every (seconds) is wanted");
    }
    Some(Snapshot { on, every, keep: keep(r, &s), tags: tags(r, &s) })
}

fn events(r: &mut Reader, s: &Object<'_>) -> Vec<Event> {
    let mut on = Vec::new();
    for (path, node) in r.array(s, "on") {
        let Some(event) = r.text(node, &path).and_then(|word| exec::event(r, word, &path, node.at)) else { continue };
        if matches!(event, Event::Starting | Event::Started) {
            let text =
                format!("no snapshot is made on {}: events such as interrupted are wanted, or every", event.name());
            r.problem(&path, node.at, text);
        } else if !on.contains(&event) {
            on.push(event);
        }
    }
    on
}

fn keep(r: &mut Reader, s: &Object<'_>) -> Option<usize> {
    let node = s.get("keep")?;
    let number = match node.value {
        Value::Integer(i) => usize::try_from(i).ok().filter(|n| *n > 0),
        _ => {
            r.wrong_type(&s.path_of("keep"), node, "a whole number");
            return None;
        }
    };
    if number.is_none() {
        r.problem(&s.path_of("keep"), node.at, "1 or more is wanted; left out, all are kept");
    }
    number
}

/// Checked here, as far as it can be: on the way out it is too late to hear of a mistake.
fn tags(r: &mut Reader, s: &Object<'_>) -> Vec<(String, String)> {
    let Some(node) = s.get("tags") else { return Vec::new() };
    let path = s.path_of("tags");
    let Some(map) = r.map(node, &path) else { return Vec::new() };
    let mut tags = Vec::new();
    for p in map.names() {
        let path = map.path_of(&p.key);
        let Some(value) = value(r, &p.value, &path) else { continue };
        let key = p.key.to_ascii_lowercase();
        if key.starts_with("aws:") || key.starts_with("user:ec2fd.") {
            let whose = if key.starts_with("aws:") { "AWS's" } else { "ec2fleetd's" };
            r.problem(&path, p.at, format!("tags that begin so are {whose} own"));
        } else if key.is_empty() || key.chars().count() > KEY {
            r.problem(&path, p.at, format!("the key of a tag has 1 to {KEY} characters"));
        }
        tags.push((p.key.clone(), value));
    }
    if tags.len() > TAGS {
        r.problem(&path, node.at, format!("{TAGS} tags at most are wanted"));
    }
    tags
}

fn value(r: &mut Reader, node: &Node, path: &str) -> Option<String> {
    let text = r.text(node, path)?;
    if text.chars().count() > VALUE {
        let begin: String = text.chars().take(20).collect();
        r.problem(path, node.at, format!("{}… is too long: {VALUE} characters at most", quoted(&begin)));
    }
    Some(text.to_owned())
}

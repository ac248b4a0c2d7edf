//! `associate-address`.

use std::time::Duration;

use super::json5::Value;
use super::problem::key_path;
use super::reader::{Object, Reader};
use super::{claim, mount};
use crate::model::Event;

const KEYS: [&str; 6] = ["allocation-id", "pool-name", "pool", "wait", "critical", "release"];

/// Which elastic address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AddressChoice {
    /// `allocation-id`.
    Id(String),
    /// `pool-name`: one of those that carry the tags of this domain and pool.
    Pool(String),
    /// `pool.tags`: one of those that carry all of these.
    Tags(Vec<(String, String)>),
}

/// The entry of `associate-address`.
#[derive(Debug, Clone)]
pub(crate) struct AddressDirective {
    /// Where it stands in the config: `domains."a".associate-address[0]`.
    pub(crate) path: String,
    /// `critical`; default true.
    pub(crate) critical: bool,
    /// Which one.
    pub(crate) choice: AddressChoice,
    /// `wait`: how long one that others have is waited for.
    pub(crate) wait: Option<Duration>,
    /// `release`: the events on which it is given up, after everything else.
    pub(crate) release: Vec<Event>,
}

/// The entry of a domain. `first`: where one was found so far; `init`: how long the whole init may take.
pub(super) fn directive(
    r: &mut Reader,
    domain: &Object<'_>,
    first: &mut Option<String>,
    init: Duration,
) -> Option<AddressDirective> {
    let mut found = None;
    for (path, node) in r.array(domain, "associate-address") {
        let Some(o) = r.object(node, &path, &KEYS) else { continue };
        match first {
            // More of them would want the same place.
            Some(first) => {
                let text =
                    format!("is one too many: the address of the first network interface is what {first} asks for");
                r.problem(&path, o.at, text);
            }
            None => *first = Some(path.clone()),
        }
        let critical = r.bool(&o, "critical", true);
        let wait = claim::wait(r, &o, init);
        let release = mount::release(r, &o, &["on"]).map(|r| r.on).unwrap_or_default();
        let Some(choice) = choice(r, &o) else { continue };
        found = Some(AddressDirective { path, critical, choice, wait, release });
    }
    found
}

fn choice(r: &mut Reader, o: &Object<'_>) -> Option<AddressChoice> {
    const WANTED: &str = "one of allocation-id, pool-name, pool is wanted";
    let there: Vec<&str> =
        ["allocation-id", "pool-name", "pool"].into_iter().filter(|key| o.get(key).is_some()).collect();
    match there.as_slice() {
        ["allocation-id"] => r.string(o, "allocation-id").map(|id| AddressChoice::Id(id.to_owned())),
        ["pool-name"] => r.string(o, "pool-name").map(|name| AddressChoice::Pool(name.to_owned())),
        ["pool"] => tags(r, o).map(AddressChoice::Tags),
        [] => {
            r.problem(&o.path, o.at, WANTED);
            None
        }
        _ => {
            r.problem(&o.path, o.at, format!("{WANTED}, found {}", there.join(", ")));
            None
        }
    }
}

/// `pool: { tags: { key: "value" } }`.
fn tags(r: &mut Reader, o: &Object<'_>) -> Option<Vec<(String, String)>> {
    let path = o.path_of("pool");
    let pool = r.object(o.get("pool")?, &path, &["tags"])?;
    let path = pool.path_of("tags");
    let node = r.required(&pool, "tags")?;
    let map = r.map(node, &path)?;
    let mut tags = Vec::new();
    for p in map.names() {
        match &p.value.value {
            Value::String(value) => tags.push((p.key.clone(), value.clone())),
            _ => r.wrong_type(&key_path(&path, &p.key), &p.value, "a string"),
        }
    }
    if map.names().count() == 0 {
        // It would be any address of the account.
        r.problem(&path, node.at, "is empty: at least one tag is wanted");
    }
    Some(tags).filter(|t| !t.is_empty())
}

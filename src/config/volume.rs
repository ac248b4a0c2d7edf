//! `attach-volume`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use super::check::to_json;
use super::json5::{Node, Value};
use super::problem::quoted;
use super::reader::{Object, Reader};
use super::shared::Shared;
use super::{PoolPref, Source, VolumeDirective, claim, exec, mount, snapshot, snapshots};

const KEYS: [&str; 15] = [
    "source",
    "device",
    "volume-id",
    "pool-name",
    "pool-pref",
    "create",
    "critical",
    "exec",
    "mount",
    "release",
    "wait",
    "fence",
    "max-per-instance",
    "snapshot",
    "initialization-rate",
];

const POOL_PREFS: [(&str, PoolPref); 5] = [
    ("index", PoolPref::Index),
    ("random", PoolPref::Random),
    ("least-recently-used", PoolPref::LeastRecentlyUsed),
    ("most-recently-used", PoolPref::MostRecentlyUsed),
    ("sticky", PoolPref::Sticky),
];
/// The original's spelling.
const POOL_PREFS_TOO: [(&str, PoolPref); 2] =
    [("least-recent-used", PoolPref::LeastRecentlyUsed), ("most-recent-used", PoolPref::MostRecentlyUsed)];

/// Parameters of CreateVolume that are always ours.
const OURS: [&str; 3] = ["AvailabilityZone", "AvailabilityZoneId", "ClientToken"];

/// What the directives of all domains share: who asks for which device name, and the time.
#[derive(Debug, Default)]
pub(super) struct Devices {
    asked: HashMap<String, String>,
    /// Mount point to the key that names it.
    points: HashMap<String, String>,
    /// The directives with a mount, and where it stands in the text.
    mounted: Vec<(usize, VolumeDirective)>,
    /// How long init may take.
    pub(super) init: Duration,
    /// What they have together.
    pub(super) shared: Shared,
}

impl Devices {
    /// A mount that stands on another one has to go on every event on which that one does.
    pub(super) fn nested(&self, r: &mut Reader) {
        let path = |d: &VolumeDirective| d.mount.as_ref().map(|m| PathBuf::from(&m.path)).unwrap_or_default();
        for (at, own) in &self.mounted {
            let below = self.mounted.iter().map(|(_, d)| d).filter(|d| path(d) != path(own));
            let nearest = below.filter(|d| path(own).starts_with(path(d))).max_by_key(|d| path(d).components().count());
            if let Some(text) = nearest.and_then(|below| mount::unreleased(own, below)) {
                r.problem(&format!("{}.release", own.path), *at, text);
            }
        }
    }
}

/// All of a domain.
pub(super) fn directives(r: &mut Reader, domain: &Object<'_>, devices: &mut Devices) -> Vec<VolumeDirective> {
    let mut directives = Vec::new();
    // Pool (or none) to the directive that leaves the device out.
    let mut free: HashMap<Option<String>, String> = HashMap::new();
    let mut agreed = claim::Agreed::default();
    for (index, (path, node)) in r.array(domain, "attach-volume").into_iter().enumerate() {
        let Some(o) = r.object_too(node, &path, &KEYS, &["timeout"]) else { continue };
        device_is_free(r, &o, devices);
        let Some(directive) = directive(r, &o, index, devices.init) else { continue };
        agreed.check(r, &o, &directive);
        devices.shared.volume(r, &directive, o.get("volume-id").map_or(o.at, |node| node.at));
        if let (Some(m), Some(node)) = (&directive.mount, o.get("mount")) {
            if let Some(first) = devices.points.get(&m.path) {
                r.problem(&m.key, node.at, format!("{} is where {first} is mounted too", quoted(&m.path)));
            } else {
                devices.points.insert(m.path.clone(), m.key.clone());
                devices.mounted.push((node.at, directive.clone()));
            }
        }
        // A volume that is found by its id alone is known without a device.
        let from_pool = directive.sources.iter().any(|s| *s != Source::Existing);
        if directive.device.is_none() && from_pool && o.get("device").is_none() {
            if let Some(first) = free.get(&directive.pool_name) {
                let pool = directive
                    .pool_name
                    .as_deref()
                    .map_or("without a pool".into(), |p| format!("of pool {}", quoted(p)));
                r.problem(
                    &o.path_of("device"),
                    o.at,
                    format!("is missing, as in {first}: only one directive {pool} in a domain may leave it out"),
                );
            } else {
                free.insert(directive.pool_name.clone(), o.path.clone());
            }
        }
        directives.push(directive);
    }
    agreed.finish(r, &directives);
    directives
}

fn directive(r: &mut Reader, o: &Object<'_>, index: usize, init: Duration) -> Option<VolumeDirective> {
    let sources = sources(r, o);
    let has = |s| sources.as_ref().is_some_and(|l| l.contains(&s));
    let critical = r.bool(o, "critical", true);
    let pool_pref = r.word(o, "pool-pref", &POOL_PREFS, &POOL_PREFS_TOO).unwrap_or(PoolPref::Index);
    let device = r.string(o, "device").map(str::to_owned);
    let volume_id = r.string(o, "volume-id").map(str::to_owned);
    let pool_name = r.string(o, "pool-name").map(str::to_owned);
    let create = o.get("create").and_then(|node| create(r, o, node));
    for (source, key) in [(Source::Existing, "volume-id"), (Source::Pool, "pool-name"), (Source::Create, "create")] {
        match o.get(key) {
            None if has(source) => {
                r.problem(&o.path_of(key), o.at, format!("is missing: source has {}", source.letter()));
            }
            // What is made carries the pool's name, and is made as `create` says.
            Some(node)
                if sources
                    .as_ref()
                    .is_some_and(|l| !l.contains(&source) && !l.iter().any(|s| s.makes() && key != "volume-id")) =>
            {
                r.warn(&o.path_of(key), node.at, format!("has no effect: source has no {}", source.letter()));
            }
            _ => {}
        }
    }
    if let Some(node) = o.get("timeout") {
        r.warn(&o.path_of("timeout"), node.at, "has no effect: the timeout of the top level bounds the whole init");
    }
    let made = snapshots::snapshot(r, o, has(Source::Snapshot));
    let copies = snapshot::keys(r, o, sources.as_deref().unwrap_or_default(), made.is_some());
    let exec = exec::blocks(r, o, exec::Place::Volume);
    let claiming = claim::claiming(r, o, sources.as_deref().unwrap_or_default(), init);
    Some(VolumeDirective {
        path: o.path.clone(),
        index,
        critical,
        sources: sources?,
        device,
        volume_id,
        pool_name,
        pool_pref,
        member: None,
        claiming,
        create,
        snapshot_tags: copies.tags,
        initialization_rate: copies.rate,
        mount: mount::mount(r, o),
        release: mount::release(r, o, &["on", "lazy"]),
        snapshot: made,
        exec,
    })
}

fn sources(r: &mut Reader, o: &Object<'_>) -> Option<Vec<Source>> {
    const WANTED: &str = "one or more of x (volume-id), p (pool-name), m (move), s (snapshot), c (create) are wanted";
    let node = r.required(o, "source")?;
    let path = o.path_of("source");
    let text = r.text(node, &path)?;
    let mut sources = Vec::new();
    if text.is_empty() {
        r.problem(&path, node.at, format!("is empty: {WANTED}"));
        return None;
    }
    for c in text.chars() {
        let source = match c {
            'x' => Source::Existing,
            'p' => Source::Pool,
            'm' => Source::Move,
            's' => Source::Snapshot,
            'c' => Source::Create,
            _ => {
                r.problem(
                    &path,
                    node.at,
                    format!("{} in {} is no source: {WANTED}", quoted(&c.to_string()), quoted(text)),
                );
                return None;
            }
        };
        if sources.contains(&source) {
            r.problem(&path, node.at, format!("{c} is there twice"));
            return None;
        }
        sources.push(source);
    }
    Some(sources)
}

fn create(r: &mut Reader, o: &Object<'_>, node: &Node) -> Option<serde_json::Map<String, serde_json::Value>> {
    let path = o.path_of("create");
    let Value::Object(props) = &node.value else {
        r.wrong_type(&path, node, "an object of CreateVolume's parameters");
        return None;
    };
    for p in props.iter().filter(|p| OURS.contains(&p.key.as_str())) {
        let text = if p.key == "ClientToken" { "is overridden by our own" } else { "is overridden by the instance's" };
        r.warn(&super::problem::key_path(&path, &p.key), p.at, text);
    }
    match to_json(r, node, &path) {
        serde_json::Value::Object(mut map) => {
            map.retain(|k, _| !OURS.contains(&k.as_str()));
            Some(map)
        }
        _ => None,
    }
}

/// Checks the form of `device`, and that nobody else asks for it.
fn device_is_free(r: &mut Reader, o: &Object<'_>, devices: &mut Devices) {
    let Some(node) = o.get("device") else { return };
    let Value::String(device) = &node.value else { return };
    let path = o.path_of("device");
    let Some(name) = device.strip_prefix("/dev/").filter(|n| {
        !n.is_empty()
            && n.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_-".contains(&b))
            && n.split('/').all(|part| !part.is_empty())
    }) else {
        if !device.is_empty() {
            r.problem(&path, node.at, format!("{} is not the path of a device, such as /dev/xvdf", quoted(device)));
        }
        return;
    };
    // Either name is the same slot: Xen's kernels call /dev/sdf /dev/xvdf.
    let slot = name.strip_prefix("sd").or_else(|| name.strip_prefix("xvd")).map_or(name.into(), |s| format!("sd{s}"));
    if let Some(first) = devices.asked.get(&slot) {
        r.problem(&path, node.at, format!("{} is what {first} asks for too", quoted(device)));
    } else {
        devices.asked.insert(slot, path);
    }
}

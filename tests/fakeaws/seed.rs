//! The world that a JSON file describes:
//!
//! ```json
//! { "knobs": { "attaching_ms": 500, "page_cap": 2, "empty_pages": true },
//!   "instances": [ { "id": "i-…", "zone": "eu-west-1a", "root": "instance-a", "hypervisor": "nitro", "launch_index": 0,
//!                    "role": "fleet", "user_data": "…", "user_data_file": "…", "public_ipv4": "203.0.113.7",
//!                    "interfaces": 2, "guest": true } ],
//!   "volumes": [ { "id": "vol-…", "zone": "eu-west-1a", "size": 10, "tags": { "k": "v" }, "pool": ["domain", "pool"],
//!                  "attached": ["i-…", "/dev/xvdf"], "backing": "/dev/loop0" } ],
//!   "zones": [ { "id": "Z1", "name": "example.com" } ],
//!   "records": [ { "zone": "Z1", "name": "a.example.com", "type": "A", "ttl": 60, "values": ["203.0.113.1"] } ],
//!   "snapshots": { "snap-…": 8, "snap-…": { "size": 8, "volume": "vol-…", "state": "completed", "pool": ["domain", "pool"],
//!                  "age": 60, "tags": { "k": "v" }, "owner": "111122223333", "public": false, "images": ["ami-…"],
//!                  "tier": "standard", "region": "eu-west-1", "file": "…" } },
//!   "addresses": [ { "id": "eipalloc-…", "ip": "198.51.100.1", "tags": { "k": "v" } } ],
//!   "topics": ["arn:…"], "queues": ["https://…"], "deny": ["EC2:DeleteVolume"],
//!   "groups": [ { "name": "web", "members": ["i-…"],
//!                 "hooks": { "down": { "transition": "terminating", "heartbeat_ms": 30000 } } } ] }
//! ```
//!
//! Without `instances` there is one, whose root is `DIR/root`. A relative `root` is under `DIR`.

use std::path::Path;

use serde_json::Value;

use super::fakeaws::{InstanceSpec, RecordSet, Server, SnapshotSpec, VolumeSpec};

fn text(v: &Value, key: &str) -> Option<String> {
    v.get(key).and_then(Value::as_str).map(String::from)
}

fn list<'a>(v: &'a Value, key: &str) -> &'a [Value] {
    v.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or(&[])
}

/// A snapshot: its size, or an object.
pub(crate) fn snapshot(v: &Value) -> SnapshotSpec {
    if let Some(size) = v.as_u64() {
        return SnapshotSpec::new(size);
    }
    let mut spec = SnapshotSpec::default();
    if let [d, p] = list(v, "pool") {
        spec = SnapshotSpec::pool(d.as_str().unwrap_or(""), p.as_str().unwrap_or(""));
    }
    for (key, field) in [
        ("volume", &mut spec.volume),
        ("state", &mut spec.state),
        ("owner", &mut spec.owner),
        ("tier", &mut spec.tier),
        ("region", &mut spec.region),
    ] {
        if let Some(t) = text(v, key) {
            *field = t;
        }
    }
    spec.size = v.get("size").and_then(Value::as_u64).unwrap_or(spec.size);
    spec.age_s = v.get("age").and_then(Value::as_i64).unwrap_or(0);
    spec.public = v.get("public").and_then(Value::as_bool).unwrap_or(false);
    spec.images = list(v, "images").iter().filter_map(Value::as_str).map(String::from).collect();
    spec.data = text(v, "file").map(Into::into);
    if let Some(tags) = v.get("tags").and_then(Value::as_object) {
        spec.tags.extend(tags.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap_or("").to_string())));
    }
    spec
}

/// Puts it there.
pub(crate) fn plant(server: &Server, dir: &Path, json: &str) -> Result<(), String> {
    let seed: Value = serde_json::from_str(json).map_err(|e| format!("the seed is not JSON: {e}"))?;
    let known = [
        "knobs",
        "instances",
        "volumes",
        "zones",
        "records",
        "snapshots",
        "topics",
        "queues",
        "deny",
        "allow_only",
        "addresses",
        "groups",
    ];
    if let Some(k) = seed.as_object().and_then(|o| o.keys().find(|k| !known.contains(&k.as_str()))) {
        return Err(format!("unknown key '{k}' in the seed"));
    }
    let mut world = server.world();
    if let Some(knobs) = seed.get("knobs").and_then(Value::as_object) {
        for (k, v) in knobs {
            world.knobs.set(k, v)?;
        }
    }
    let default = serde_json::json!([{ "root": "root" }]);
    let given = seed.get("instances").unwrap_or(&default);
    for v in given.as_array().ok_or("instances: not a list")? {
        let base = InstanceSpec::default();
        let user_data = match text(v, "user_data_file") {
            Some(f) => Some(std::fs::read(&f).map_err(|e| format!("{f}: {e}"))?),
            None => text(v, "user_data").map(String::into_bytes),
        };
        let root = text(v, "root").map(|r| dir.join(r));
        if let Some(r) = &root {
            std::fs::create_dir_all(r.join("dev")).map_err(|e| e.to_string())?;
        }
        let number = |k: &str| v.get(k).and_then(Value::as_u64);
        let id = world.add_instance(InstanceSpec {
            id: text(v, "id"),
            zone: text(v, "zone").unwrap_or(base.zone),
            instance_type: text(v, "instance_type").unwrap_or(base.instance_type),
            launch_index: number("launch_index").unwrap_or(0) as u32,
            hypervisor: text(v, "hypervisor").unwrap_or(base.hypervisor),
            root,
            user_data,
            role: if v.get("role").is_some_and(Value::is_null) { None } else { text(v, "role").or(base.role) },
            root_volume: v.get("root_volume").and_then(Value::as_bool).unwrap_or(true),
            multipath: v.get("multipath").and_then(Value::as_bool).unwrap_or(false),
            pending_ms: number("pending_ms").unwrap_or(0),
            guest: v.get("guest").and_then(Value::as_bool).unwrap_or(false),
            ..InstanceSpec::default()
        });
        if let (Some(ip), Some(i)) = (text(v, "public_ipv4"), world.instances.get_mut(&id)) {
            i.nics[0].public_ipv4s = vec![ip];
        }
        if let Some(i) = world.instances.get_mut(&id) {
            // Further ones differ from the first in what tells interfaces apart.
            for n in 1..number("interfaces").unwrap_or(1) {
                let mut nic = i.nics[0].clone();
                nic.mac = format!("06:00:00:00:00:{n:02x}");
                (nic.device_number, nic.interface_id) = (n as u32, format!("{}{n}", nic.interface_id));
                (nic.local_ipv4s, nic.public_ipv4s, nic.ipv6s) =
                    (Vec::new(), vec![format!("198.51.100.{n}")], Vec::new());
                i.nics.push(nic);
            }
        }
    }
    for v in list(&seed, "addresses") {
        let tags = v.get("tags").and_then(Value::as_object).cloned().unwrap_or_default();
        let tags: Vec<(&str, &str)> = tags.iter().map(|(k, v)| (k.as_str(), v.as_str().unwrap_or(""))).collect();
        let made = world.add_address(&text(v, "ip").ok_or("an address without ip")?, &tags);
        if let (Some(id), Some(mut address)) = (text(v, "id"), world.addresses.remove(&made)) {
            address.id.clone_from(&id);
            world.addresses.insert(id, address);
        }
    }
    for v in list(&seed, "volumes") {
        let mut spec = VolumeSpec::default();
        if let [d, p] = list(v, "pool") {
            spec = VolumeSpec::pool(d.as_str().unwrap_or(""), p.as_str().unwrap_or(""));
        }
        spec.id = text(v, "id");
        spec.zone = text(v, "zone").unwrap_or(spec.zone);
        spec.kind = text(v, "type").unwrap_or(spec.kind);
        spec.size = v.get("size").and_then(Value::as_u64).unwrap_or(spec.size);
        spec.backing = text(v, "backing").map(Into::into);
        spec.encrypted = v.get("encrypted").and_then(Value::as_bool).unwrap_or(false);
        spec.multi_attach = v.get("multi_attach").and_then(Value::as_bool).unwrap_or(false);
        if let Some(tags) = v.get("tags").and_then(Value::as_object) {
            spec.tags.extend(tags.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap_or("").to_string())));
        }
        if let [i, d] = list(v, "attached") {
            spec = spec.attached(i.as_str().unwrap_or(""), d.as_str().unwrap_or(""));
        }
        world.add_volume(spec);
    }
    for v in list(&seed, "zones") {
        world.add_zone(&text(v, "id").ok_or("zones: no id")?, &text(v, "name").ok_or("zones: no name")?);
    }
    for v in list(&seed, "records") {
        let values: Vec<&str> = list(v, "values").iter().filter_map(Value::as_str).collect();
        let (name, kind) = (text(v, "name").unwrap_or_default(), text(v, "type").unwrap_or_default());
        let ttl = v.get("ttl").and_then(Value::as_u64).unwrap_or(300) as u32;
        world.add_record(&text(v, "zone").unwrap_or_default(), RecordSet::new(&name, &kind, ttl, &values));
    }
    if let Some(map) = seed.get("snapshots").and_then(Value::as_object) {
        for (id, v) in map {
            world.add_snapshot(snapshot(v).id(id));
        }
    }
    for v in list(&seed, "topics").iter().filter_map(Value::as_str) {
        world.add_topic(v);
    }
    for v in list(&seed, "queues").iter().filter_map(Value::as_str) {
        world.add_queue(v);
    }
    for v in list(&seed, "groups") {
        let name = text(v, "name").ok_or("groups: no name")?;
        let members: Vec<&str> = list(v, "members").iter().filter_map(Value::as_str).collect();
        world.add_group(&name, &members);
        for (hook, h) in v.get("hooks").and_then(Value::as_object).into_iter().flatten() {
            let ms = h.get("heartbeat_ms").and_then(Value::as_u64).unwrap_or(3_600_000);
            world.add_hook(&name, hook, &text(h, "transition").ok_or("hooks: no transition")?, ms);
        }
    }
    for v in list(&seed, "deny").iter().filter_map(Value::as_str) {
        world.deny(v);
    }
    if seed.get("allow_only").is_some() {
        world.allow_only(list(&seed, "allow_only").iter().filter_map(Value::as_str));
    }
    Ok(())
}

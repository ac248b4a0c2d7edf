//! The control of a running stand-in, over HTTP on a port of its own:
//!
//! - `GET /state`: volumes, snapshots, records, messages; `GET /calls`: API calls and IMDS requests.
//! - `POST /notice {"instance", "action", "seconds"}`: an interruption notice (`action` null takes it back).
//! - `POST /fault {"action", "nth" or "first", "kind", "ms", "status", "code", "message"}`; `POST /clear-faults`.
//! - `POST /transition {"group", "instance", "transition"}`: a member is `launching` or `terminating`.
//! - `POST /protect {"instance"}`: it may not be terminated by the API (`DisableApiTermination`).
//! - `POST /terminate {"instance"}`: the instance is no more; what was attached to it comes free.
//! - `POST /instance {"instance", "state"}`: its state, as DescribeInstances tells it; nothing else changes.
//! - `GET /orders?after=N`: disks to plug into real guests or to take out, from order N+1 on (see `guests.rs`); waits up to
//!   five seconds for one. `POST /obeyed {"order"}`: it was done.
//! - `POST /imds {"instance", …}`: trouble of a metadata service, see [`trouble`].
//! - `POST /snapshot {…}`: a snapshot as a seed has it; `POST /complete {"snapshot"}`: one is `completed`.
//! - `POST /knobs {name: value}`, `POST /deny {"action"}`, `POST /permit {"action"}`, `POST /reset-calls`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Value, json};

use super::fakeaws::http::{Connection, Request, Response, Stream};
use super::fakeaws::text::iso;
use super::fakeaws::{Fault, FaultKind, Nic, Nth, Server, Shared, World, listen};

/// Starts it; gives its URL.
pub(crate) fn start(server: &Server) -> String {
    let shared = server.shared.clone();
    let port = listen(&server.shared, move |socket, _| {
        let mut connection = Connection::new(Stream::Plain(socket));
        let never = AtomicBool::new(false);
        while let Ok(Some(request)) = connection.next(&never, Duration::from_secs(60)) {
            let (status, body) = match answer(&shared, &request) {
                Ok(v) => (200, v),
                Err(e) => (400, json!({ "error": e })),
            };
            let text = serde_json::to_string_pretty(&body).unwrap_or_default();
            let answer = Response::new(status, "application/json", text);
            if answer.send(&mut connection.stream, "", false).is_err() {
                return;
            }
        }
    });
    format!("http://127.0.0.1:{port}")
}

fn answer(shared: &Arc<Shared>, request: &Request) -> Result<Value, String> {
    let body: Value = if request.body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&request.body).map_err(|e| format!("not JSON: {e}"))?
    };
    let text = |k: &str| body.get(k).and_then(Value::as_str).map(String::from);
    let need = |k: &str| text(k).ok_or(format!("'{k}' is missing"));
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/state") => Ok(state(shared)),
        ("GET", "/calls") => Ok(calls(shared)),
        ("GET", "/orders") => {
            let after = request.query.strip_prefix("after=").and_then(|n| n.parse().ok()).unwrap_or(0);
            Ok(orders(shared, after))
        }
        ("POST", "/obeyed") => {
            let number = body.get("order").and_then(Value::as_u64).ok_or("'order' is missing")?;
            if shared.world().obeyed(number) { Ok(json!({})) } else { Err(format!("no order {number}")) }
        }
        ("POST", "/terminate") => {
            let id = need("instance")?;
            if !shared.world().instances.contains_key(&id) {
                return Err(format!("no instance '{id}'"));
            }
            shared.world().terminate(&id);
            Ok(json!({}))
        }
        ("POST", "/transition") => {
            shared.world().transition(&need("group")?, &need("instance")?, &need("transition")?);
            Ok(json!({}))
        }
        ("POST", "/protect") => {
            shared.world().scaling.protected.insert(need("instance")?);
            Ok(json!({}))
        }
        ("POST", "/instance") => {
            let id = need("instance")?;
            if !shared.world().instances.contains_key(&id) {
                return Err(format!("no instance '{id}'"));
            }
            shared.world().set_instance_state(&id, &need("state")?);
            Ok(json!({}))
        }
        ("POST", "/notice") => {
            let mut world = shared.world();
            let id = text("instance").or_else(|| world.instances.keys().next().cloned()).ok_or("no instance")?;
            if !world.instances.contains_key(&id) {
                return Err(format!("no instance '{id}'"));
            }
            match text("action") {
                Some(a) => world.notice(&id, &a, body.get("seconds").and_then(Value::as_i64).unwrap_or(120)),
                None => world.imds(&id).notice = None,
            }
            Ok(json!({}))
        }
        ("POST", "/imds") => {
            let mut world = shared.world();
            let id = text("instance").or_else(|| world.instances.keys().next().cloned()).ok_or("no instance")?;
            trouble(&mut world, &id, body.as_object().ok_or("not an object")?)?;
            Ok(json!({}))
        }
        ("POST", "/fault") => {
            shared.world().fault(fault(&body)?);
            Ok(json!({}))
        }
        ("POST", "/clear-faults") => {
            shared.world().faults.clear();
            Ok(json!({}))
        }
        ("POST", "/knobs") => {
            let mut world = shared.world();
            for (k, v) in body.as_object().ok_or("not an object")? {
                world.knobs.set(k, v)?;
            }
            Ok(json!({}))
        }
        ("POST", "/deny") => {
            shared.world().deny(&need("action")?);
            Ok(json!({}))
        }
        ("POST", "/permit") => {
            shared.world().permit(&need("action")?);
            Ok(json!({}))
        }
        ("POST", "/snapshot") => {
            let id = shared.world().add_snapshot(super::seed::snapshot(&body));
            Ok(json!({ "id": id }))
        }
        ("POST", "/complete") => {
            shared.world().complete_snapshot(&need("snapshot")?);
            Ok(json!({}))
        }
        ("POST", "/hold") => {
            shared.world().hold(&need("volume")?);
            Ok(json!({}))
        }
        ("POST", "/release") => {
            shared.world().release(&need("volume")?);
            Ok(json!({}))
        }
        ("POST", "/reset-calls") => {
            shared.reset_calls();
            Ok(json!({}))
        }
        _ => Err("no such thing".into()),
    }
}

/// Sets what an instance's metadata service suffers from: `down_ms` (connections are refused for so long), `lose_tokens`,
/// `refuse_gets`, `refuse_gets_ms` (401), `unavailable` (503), `hang` ([requests, ms]), `latency_ms`, `reset_connections`,
/// `close`; `expire` ends the role's credentials, `rotate` gives it new ones, `path` has the content `content` (null: its own again).
fn trouble(world: &mut World, id: &str, what: &serde_json::Map<String, Value>) -> Result<(), String> {
    if !world.instances.contains_key(id) {
        return Err(format!("no instance '{id}'"));
    }
    let now = world.now_ms();
    for (key, v) in what {
        let number = || v.as_u64().ok_or(format!("{key}: not a number"));
        let state = world.imds(id);
        match key.as_str() {
            "instance" | "content" => {}
            "down_ms" => state.down_until_ms = now + number()?,
            "lose_tokens" => state.lose_tokens(),
            "refuse_gets" => state.refuse_gets = number()? as u32,
            "refuse_gets_ms" => state.refuse_gets_until_ms = now + number()?,
            "unavailable" => state.unavailable = number()? as u32,
            "latency_ms" => state.latency_ms = number()?,
            "reset_connections" => state.reset_connections = number()? as u32,
            "close" => state.close = v.as_bool().unwrap_or(false),
            "hang" => {
                let of = |n: usize| v.get(n).and_then(Value::as_u64).ok_or("hang: not [requests, ms]");
                state.hang = (of(0)? as u32, of(1)?);
            }
            "expire" => world.expire_credentials(id),
            "rotate" => world.rotate_credentials(id),
            "path" => {
                let path = v.as_str().ok_or("path: not a text")?.to_owned();
                match what.get("content").and_then(Value::as_str) {
                    Some(content) => state.overrides.insert(path, content.to_owned()),
                    None => state.overrides.remove(&path),
                };
            }
            other => return Err(format!("no trouble '{other}'")),
        }
    }
    Ok(())
}

fn fault(body: &Value) -> Result<Fault, String> {
    let text = |k: &str| body.get(k).and_then(Value::as_str).unwrap_or("").to_string();
    let number = |k: &str| body.get(k).and_then(Value::as_u64);
    let ms = number("ms").unwrap_or(1000);
    let kind = match text("kind").as_str() {
        "Status500" => FaultKind::Status500,
        "Status503" => FaultKind::Status503,
        "Throttle" => FaultKind::Throttle,
        "ResetBefore" => FaultKind::ResetBefore,
        "ResetAfter" => FaultKind::ResetAfter,
        "ErrorAfter500" => FaultKind::ErrorAfter500,
        "Hang" => FaultKind::Hang(ms),
        "HangAfter" => FaultKind::HangAfter(ms),
        "Slow" => FaultKind::Slow(ms),
        "Garbage" => FaultKind::Garbage,
        "Truncated" => FaultKind::Truncated,
        "Denied" => FaultKind::Denied,
        "Empty" => FaultKind::Empty,
        "Without" => FaultKind::Without(text("id")),
        "ThenDeleted" => FaultKind::ThenDeleted(text("id")),
        "Late" => FaultKind::Late(ms),
        "Custom" => FaultKind::Custom {
            status: number("status").unwrap_or(400) as u16,
            code: text("code"),
            message: text("message"),
        },
        other => return Err(format!("no fault '{other}'")),
    };
    let nth = match (number("nth"), number("first"), number("from")) {
        (Some(n), ..) => Nth::Only(n as u32),
        (_, Some(n), _) => Nth::First(n as u32),
        (.., Some(n)) => Nth::From(n as u32),
        _ => Nth::Every,
    };
    Ok(Fault::new(&text("action"), nth, kind))
}

/// The orders from one on, as soon as there are any.
fn orders(shared: &Shared, after: u64) -> Value {
    for _ in 0..1000 {
        let world = shared.world();
        let list: Vec<Value> = world
            .orders
            .iter()
            .filter(|o| o.number > after)
            .map(|o| {
                json!({ "number": o.number, "plug": o.plug, "instance": o.instance, "volume": o.volume,
                        "device": o.device, "file": o.file })
            })
            .collect();
        drop(world);
        if !list.is_empty() {
            return json!({ "orders": list });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    json!({ "orders": [] })
}

fn state(shared: &Shared) -> Value {
    let mut world = shared.world();
    let volumes: Vec<Value> = world
        .volumes
        .values()
        .map(|v| {
            let attached: Vec<Value> = v
                .attachments
                .iter()
                .map(|a| json!({ "instance": a.instance, "device": a.device, "state": a.state, "node": a.node }))
                .collect();
            json!({ "id": v.id, "zone": v.zone, "size": v.size, "type": v.kind, "state": v.state, "tags": v.tags,
                    "attachments": attached, "by_api": v.by_api })
        })
        .collect();
    let snapshots: Vec<Value> = world
        .snapshots
        .values()
        .map(|s| {
            json!({ "id": s.id, "volume": s.volume, "size": s.size, "state": s.state, "tags": s.tags,
                    "started": iso(s.started), "by_api": s.by_api })
        })
        .collect();
    let mut records = Vec::new();
    for id in world.zones.keys() {
        for r in world.records(id) {
            records.push(json!({ "zone": id, "name": r.name, "type": r.kind, "ttl": r.ttl, "values": r.values,
                                 "set_id": r.set_id, "alias": r.alias.as_ref().map(|a| a.name.clone()) }));
        }
    }
    let messages: Vec<Value> = world
        .sent
        .iter()
        .map(|m| {
            json!({ "target": m.target, "subject": m.subject, "body": m.body, "group": m.group, "dedup": m.dedup,
                    "instance": m.instance, "at_ms": m.at_ms })
        })
        .collect();
    let interfaces: std::collections::BTreeMap<&String, Vec<Value>> = world
        .instances
        .iter()
        .map(|(id, i)| {
            let of =
                |n: &Nic| json!({ "id": n.interface_id, "private": n.local_ipv4s.first(), "public": n.public_ipv4s });
            (id, i.nics.iter().map(of).collect())
        })
        .collect();
    let interfaces = json!(interfaces);
    let moments: Vec<Value> = world
        .moments
        .iter()
        .map(|m| json!({ "at_ms": m.at_ms, "volume": m.volume, "instance": m.instance, "what": m.what }))
        .collect();
    json!({ "interfaces": interfaces, "now_ms": world.now_ms(), "wall": iso(world.wall()), "volumes": volumes, "snapshots": snapshots,
            "records": records, "messages": messages, "moments": moments, "groups": world.groups_state() })
}

fn calls(shared: &Shared) -> Value {
    let api: Vec<Value> = shared
        .calls()
        .iter()
        .map(|c| {
            json!({ "service": c.service, "action": c.action, "instance": c.instance, "params": c.params,
                    "status": c.status, "code": c.code, "at_ms": c.at_ms, "ms": c.ms, "fault": c.fault,
                    "connection": c.connection, "tls": c.tls })
        })
        .collect();
    let world = shared.world();
    let mut imds = serde_json::Map::new();
    for (id, s) in &world.imds {
        let list: Vec<Value> = s
            .calls
            .iter()
            .map(|c| json!({ "method": c.method, "path": c.path, "status": c.status, "at_ms": c.at_ms }))
            .collect();
        imds.insert(id.clone(), json!({ "calls": list, "connections": s.connections }));
    }
    json!({ "api": api, "imds": imds })
}

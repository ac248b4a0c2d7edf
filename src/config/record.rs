//! `update-route53`.

use std::time::Duration;

use super::json5::Node;
use super::reader::Reader;
use super::{RecordDirective, RecordPolicy, Sweep, claim, mount};

const KEYS: [&str; 9] = ["hostedzone", "name", "ttl", "critical", "policy", "sweep", "wait", "follow", "release"];

const POLICIES: [(&str, RecordPolicy); 2] =
    [("simple", RecordPolicy::Simple), ("multivalue", RecordPolicy::Multivalue)];

const SWEEPS: [(&str, Sweep); 3] =
    [("terminated", Sweep::Terminated), ("missing", Sweep::Missing), ("never", Sweep::Never)];

/// One entry. `init`: how long the whole init may take.
pub(super) fn directive(r: &mut Reader, node: &Node, path: String, init: Duration) -> Option<RecordDirective> {
    let o = r.object(node, &path, &KEYS)?;
    let critical = r.bool(&o, "critical", true);
    let zone = r.required_string(&o, "hostedzone").map(|z| {
        let z = z.trim_start_matches('/');
        z.strip_prefix("hostedzone/").unwrap_or(z).to_owned()
    });
    if zone.as_deref() == Some("") {
        r.problem(&o.path_of("hostedzone"), o.at, "names no zone");
    }
    let name = r.required_string(&o, "name");
    let name = name.and_then(|n| r.template(n, &o.path_of("name"), o.get("name").map_or(o.at, |n| n.at)));
    let ttl = r.required_integer(&o, "ttl");
    let policy = r.word(&o, "policy", &POLICIES, &[]).unwrap_or(RecordPolicy::Simple);
    let sweep = r.word(&o, "sweep", &SWEEPS, &[]).unwrap_or(Sweep::Terminated);
    if let (RecordPolicy::Simple, Some(node)) = (policy, o.get("sweep")) {
        r.warn(&o.path_of("sweep"), node.at, "has no effect: policy is not multivalue");
    }
    let wait = claim::wait(r, &o, init);
    let follow = r.bool(&o, "follow", true);
    let release = mount::release(r, &o, &["on"]).map(|r| r.on).unwrap_or_default();
    let (hosted_zone, name, ttl) = (zone?, name?, ttl?);
    Some(RecordDirective { path, critical, hosted_zone, name, ttl, policy, sweep, wait, follow, release })
}

//! `update-route53`.

use super::json5::Node;
use super::reader::Reader;
use super::{RecordDirective, mount};

const KEYS: [&str; 5] = ["hostedzone", "name", "ttl", "critical", "release"];

/// One entry.
pub(super) fn directive(r: &mut Reader, node: &Node, path: String) -> Option<RecordDirective> {
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
    let release = mount::release(r, &o, &["on"]).map(|r| r.on).unwrap_or_default();
    Some(RecordDirective { path, critical, hosted_zone: zone?, name: name?, ttl: ttl?, release })
}

//! Hosted zones and record sets, names as Route 53 keeps them, and how tests add them.

use std::collections::BTreeMap;

use super::text::xml;
use super::world::World;

/// A name as Route 53 gives it back: lower case, final dot, everything but `a-z 0-9 - _ .` as `\ooo`.
pub(crate) fn normalise(name: &str) -> String {
    let bytes = name.as_bytes();
    let mut out = String::new();
    let mut i = 0;
    while i < bytes.len() {
        let octal =
            bytes[i] == b'\\' && i + 3 < bytes.len() && bytes[i + 1..i + 4].iter().all(|b| (b'0'..=b'7').contains(b));
        let (b, escaped) = if octal {
            let n = bytes[i + 1..i + 4].iter().fold(0u32, |n, b| n * 8 + u32::from(b - b'0'));
            i += 3;
            (n as u8, true)
        } else {
            (bytes[i], false)
        };
        i += 1;
        match b.to_ascii_lowercase() {
            b'.' if escaped => out.push_str("\\056"),
            c @ (b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.') => out.push(c as char),
            c => out.push_str(&format!("\\{c:03o}")),
        }
    }
    if !out.ends_with('.') {
        out.push('.');
    }
    out
}

/// Labels reversed, as listings are sorted: `com.example.www.`.
pub(crate) fn reversed(name: &str) -> String {
    let mut labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
    labels.reverse();
    labels.join(".") + "."
}

/// Where a set stands in a listing: labels reversed, type, set identifier.
pub(crate) type Key = (String, String, String);

/// An alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alias {
    pub(crate) zone: String,
    pub(crate) name: String,
    pub(crate) evaluate: String,
}

/// A record set.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecordSet {
    /// Normalised.
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) set_id: Option<String>,
    pub(crate) ttl: Option<u32>,
    pub(crate) values: Vec<String>,
    pub(crate) alias: Option<Alias>,
    /// `Weight`, `Region`, `GeoLocation`, `HealthCheckId`, …: element name to its inner XML.
    pub(crate) routing: BTreeMap<String, String>,
}

/// The elements that say how a set is routed; exactly one of them comes with a set identifier.
pub(crate) const POLICIES: [&str; 7] =
    ["Weight", "Region", "GeoLocation", "Failover", "MultiValueAnswer", "CidrRoutingConfig", "GeoProximityLocation"];

impl RecordSet {
    /// A simple set.
    pub(crate) fn new(name: &str, kind: &str, ttl: u32, values: &[&str]) -> RecordSet {
        RecordSet {
            name: normalise(name),
            kind: kind.into(),
            ttl: Some(ttl),
            values: values.iter().map(|v| v.to_string()).collect(),
            ..RecordSet::default()
        }
    }

    /// An alias.
    pub(crate) fn alias(name: &str, kind: &str, zone: &str, target: &str) -> RecordSet {
        let alias = Alias { zone: zone.into(), name: normalise(target), evaluate: "false".into() };
        RecordSet { name: normalise(name), kind: kind.into(), alias: Some(alias), ..RecordSet::default() }
    }

    /// Makes it one of several routed sets, as `("Weight", "10")`.
    pub(crate) fn routed(mut self, set_id: &str, policy: &str, inner_xml: &str) -> RecordSet {
        self.set_id = Some(set_id.into());
        self.routing.insert(policy.into(), inner_xml.into());
        self
    }

    pub(crate) fn key(&self) -> Key {
        (reversed(&self.name), self.kind.clone(), self.set_id.clone().unwrap_or_default())
    }

    /// The routing policy in use.
    pub(crate) fn policy(&self) -> Option<&'static str> {
        POLICIES.into_iter().find(|p| self.routing.contains_key(*p))
    }

    /// Whether a DELETE that says `self` is about `stored`. The order of values does not matter.
    pub(crate) fn same_as(&self, stored: &RecordSet) -> bool {
        let sorted = |v: &[String]| {
            let mut v = v.to_vec();
            v.sort();
            v
        };
        let mut routing = stored.routing.clone();
        if !self.routing.contains_key("MultiValueAnswer") {
            routing.remove("MultiValueAnswer");
        }
        self.ttl == stored.ttl
            && sorted(&self.values) == sorted(&stored.values)
            && self.alias == stored.alias
            && self.routing == routing
    }

    /// As ListResourceRecordSets gives it.
    pub(crate) fn to_xml(&self) -> String {
        let mut out = format!("<ResourceRecordSet><Name>{}</Name><Type>{}</Type>", xml(&self.name), self.kind);
        if let Some(id) = &self.set_id {
            out += &format!("<SetIdentifier>{}</SetIdentifier>", xml(id));
        }
        let extra = |out: &mut String, names: &[&str]| {
            for n in names {
                if let Some(inner) = self.routing.get(*n) {
                    out.push_str(&format!("<{n}>{inner}</{n}>"));
                }
            }
        };
        extra(&mut out, &["Weight", "Region", "GeoLocation", "Failover", "MultiValueAnswer"]);
        if let Some(t) = self.ttl {
            out += &format!("<TTL>{t}</TTL>");
        }
        if !self.values.is_empty() {
            out += "<ResourceRecords>";
            for v in &self.values {
                out += &format!("<ResourceRecord><Value>{}</Value></ResourceRecord>", xml(v));
            }
            out += "</ResourceRecords>";
        }
        if let Some(a) = &self.alias {
            out += &format!(
                "<AliasTarget><HostedZoneId>{}</HostedZoneId><DNSName>{}</DNSName><EvaluateTargetHealth>{}</EvaluateTargetHealth></AliasTarget>",
                xml(&a.zone),
                xml(&a.name),
                a.evaluate
            );
        }
        extra(&mut out, &["HealthCheckId", "TrafficPolicyInstanceId", "CidrRoutingConfig", "GeoProximityLocation"]);
        out + "</ResourceRecordSet>"
    }
}

/// A hosted zone.
#[derive(Debug, Clone)]
pub(crate) struct Zone {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) records: BTreeMap<Key, RecordSet>,
    /// Changes that are under way.
    pub(crate) in_progress: u32,
    pub(crate) busy_until_ms: u64,
    /// Names that are protected: every batch that touches one is refused.
    pub(crate) protected: Vec<String>,
}

impl Zone {
    /// Whether a normalised name lies in this zone.
    pub(crate) fn holds(&self, name: &str) -> bool {
        name == self.name || name.ends_with(&format!(".{}", self.name))
    }
}

impl World {
    /// Adds a hosted zone with its NS and SOA records.
    pub(crate) fn add_zone(&mut self, id: &str, name: &str) {
        let name = normalise(name);
        let zone = Zone {
            id: id.into(),
            name: name.clone(),
            records: BTreeMap::new(),
            in_progress: 0,
            busy_until_ms: 0,
            protected: Vec::new(),
        };
        self.zones.insert(id.into(), zone);
        self.add_record(id, RecordSet::new(&name, "NS", 172_800, &["ns-1.example.org.", "ns-2.example.net."]));
        let soa = "ns-1.example.org. hostmaster.example.org. 1 7200 900 1209600 86400";
        self.add_record(id, RecordSet::new(&name, "SOA", 900, &[soa]));
    }

    /// Adds or replaces a record set, without any check.
    pub(crate) fn add_record(&mut self, zone: &str, set: RecordSet) {
        if let Some(z) = self.zones.get_mut(zone) {
            z.records.insert(set.key(), set);
        }
    }

    /// The values of a simple set, sorted; empty if there is none.
    pub(crate) fn record_values(&self, zone: &str, name: &str, kind: &str) -> Vec<String> {
        let key = (reversed(&normalise(name)), kind.to_string(), String::new());
        let mut v =
            self.zones.get(zone).and_then(|z| z.records.get(&key)).map(|r| r.values.clone()).unwrap_or_default();
        v.sort();
        v
    }

    /// All sets of a zone but the NS and SOA at its top, in the order of a listing.
    pub(crate) fn records(&self, zone: &str) -> Vec<RecordSet> {
        let Some(z) = self.zones.get(zone) else { return Vec::new() };
        let top = |r: &&RecordSet| r.name == z.name && (r.kind == "NS" || r.kind == "SOA");
        z.records.values().filter(|r| !top(r)).cloned().collect()
    }
}

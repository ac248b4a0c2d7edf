//! Route 53, REST-XML 2013-04-01: ListResourceRecordSets and ChangeResourceRecordSets.
//!
//! <https://docs.aws.amazon.com/Route53/latest/APIReference/API_ListResourceRecordSets.html>
//! <https://docs.aws.amazon.com/Route53/latest/APIReference/API_ChangeResourceRecordSets.html>

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::{Call, Repeat};
use super::endpoint::Service;
use super::{ApiError, Aws, Class, query, xml};
use crate::scope::Scope;

const LIST: &str = "ListResourceRecordSets";
const NAMESPACE: &str = "https://route53.amazonaws.com/doc/2013-04-01/";
/// More sets than a name can have; 100 routed ones for each type.
const MAX_PAGES: usize = 50;
/// Deeper elements than the schema has: three.
const MAX_DEPTH: usize = 16;

/// The element of the routing policy that answers with several values.
const MULTIVALUE: &str = "MultiValueAnswer";

/// The elements of a ResourceRecordSet in the order of the schema: another order is refused.
const SCHEMA: [&str; 15] = [
    "Name",
    "Type",
    "SetIdentifier",
    "Weight",
    "Region",
    "GeoLocation",
    "Failover",
    "MultiValueAnswer",
    "TTL",
    "ResourceRecords",
    "AliasTarget",
    "HealthCheckId",
    "TrafficPolicyInstanceId",
    "CidrRoutingConfig",
    "GeoProximityLocation",
];

/// A record set, with everything that an exact DELETE or a restoring CREATE needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordSet {
    /// As Route 53 writes names: lower case, with the final dot, odd characters as `\ooo`.
    pub(crate) name: String,
    /// `A`, `AAAA`, `CNAME`, ...
    pub(crate) kind: String,
    /// Seconds; none for an alias.
    pub(crate) ttl: Option<i64>,
    /// Values, in the order of Route 53; none for an alias.
    pub(crate) values: Vec<String>,
    /// What tells it from others of the same name and type, where they have a routing policy.
    pub(crate) set_identifier: Option<String>,
    /// All other elements (alias, weight, health check, ...), kept as they came.
    other: Vec<Element>,
}

/// An element that is only kept to be written again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Element {
    name: String,
    text: String,
    children: Vec<Element>,
}

impl RecordSet {
    /// A set without a routing policy.
    pub(crate) fn simple(name: &str, kind: &str, ttl: i64, values: &[String]) -> RecordSet {
        RecordSet {
            name: normalise(name),
            kind: kind.to_owned(),
            ttl: Some(ttl),
            values: values.to_vec(),
            ..RecordSet::default()
        }
    }

    /// The set of one member (`id`) of a fleet, for answers that name several.
    pub(crate) fn member(name: &str, kind: &str, ttl: i64, address: &str, id: &str) -> RecordSet {
        let multivalue = Element { name: MULTIVALUE.to_owned(), text: "true".to_owned(), children: Vec::new() };
        RecordSet {
            set_identifier: Some(id.to_owned()),
            other: vec![multivalue],
            ..RecordSet::simple(name, kind, ttl, &[address.to_owned()])
        }
    }

    /// Whether it has the routing policy of [`RecordSet::member`].
    pub(crate) fn is_multivalue(&self) -> bool {
        self.set_identifier.is_some() && self.other.iter().any(|e| e.name == MULTIVALUE && e.text.trim() == "true")
    }

    /// Whether name, type, TTL and values are all there is to it.
    pub(crate) fn is_plain(&self) -> bool {
        self.set_identifier.is_none() && self.other.is_empty() && self.ttl.is_some()
    }

    /// What Route 53 knows it by: name, type, set identifier.
    pub(crate) fn slot(&self) -> (String, String, Option<String>) {
        (self.name.clone(), self.kind.clone(), self.set_identifier.clone())
    }

    /// Whether both say the same. The order of values has no meaning.
    pub(crate) fn same_content(&self, other: &RecordSet) -> bool {
        let sorted = |s: &RecordSet| {
            let mut v: Vec<String> = s.values.iter().map(|v| address(v)).collect();
            v.sort();
            v
        };
        self.name == other.name
            && self.kind == other.kind
            && self.ttl == other.ttl
            && self.set_identifier == other.set_identifier
            && self.other == other.other
            && sorted(self) == sorted(other)
    }

    fn elements(&self) -> Vec<Element> {
        let leaf = |name: &str, text: &str| Element { name: name.into(), text: text.into(), children: Vec::new() };
        let mut all = vec![leaf("Name", &plain(&self.name)), leaf("Type", &self.kind)];
        all.extend(self.set_identifier.iter().map(|s| leaf("SetIdentifier", s)));
        all.extend(self.ttl.iter().map(|t| leaf("TTL", &t.to_string())));
        if !self.values.is_empty() {
            let record = |v: &String| Element {
                name: "ResourceRecord".into(),
                children: vec![leaf("Value", v)],
                ..Element::default()
            };
            let children = self.values.iter().map(record).collect();
            all.push(Element { name: "ResourceRecords".into(), children, ..Element::default() });
        }
        all.extend(self.other.iter().cloned());
        // What the schema of today does not know comes last, as it came.
        all.sort_by_key(|e| SCHEMA.iter().position(|s| *s == e.name).unwrap_or(SCHEMA.len()));
        all
    }
}

/// An address in its one spelling: Route 53 and the metadata service need not write IPv6 alike.
pub(crate) fn address(value: &str) -> String {
    value.parse::<std::net::IpAddr>().map_or_else(|_| value.to_owned(), |a| a.to_string())
}

/// What a change does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Create,
    Delete,
    Upsert,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Action::Create => "CREATE",
            Action::Delete => "DELETE",
            Action::Upsert => "UPSERT",
        }
    }
}

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    action: Action,
    /// The set that it is about.
    pub(crate) set: RecordSet,
}

impl Change {
    /// Writes the set, whatever of its name and type was there.
    pub(crate) fn upsert(set: RecordSet) -> Change {
        Change { action: Action::Upsert, set }
    }

    /// Writes the set if nothing of its name and type is there.
    pub(crate) fn create(set: RecordSet) -> Change {
        Change { action: Action::Create, set }
    }

    /// Deletes the set if it is there exactly so.
    pub(crate) fn delete(set: RecordSet) -> Change {
        Change { action: Action::Delete, set }
    }

    /// Whether it is an UPSERT, which counts twice in Route 53's limits.
    pub(crate) fn is_upsert(&self) -> bool {
        self.action == Action::Upsert
    }

    /// In AWS's names, for the transaction log.
    pub(crate) fn to_json(&self) -> Value {
        let s = &self.set;
        let mut set = json!({ "Name": s.name, "Type": s.kind });
        if let Some(ttl) = s.ttl {
            set["TTL"] = json!(ttl);
            set["ResourceRecords"] = s.values.iter().map(|v| json!({ "Value": v })).collect();
        }
        if let Some(id) = &s.set_identifier {
            set["SetIdentifier"] = json!(id);
        }
        json!({ "Action": self.action.name(), "ResourceRecordSet": set })
    }
}

/// A name as Route 53 writes it: lower case, with the final dot, and what is not `a-z 0-9 - _ .` as `\ooo`.
pub(crate) fn normalise(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 1);
    let mut rest = name.as_bytes();
    while let [first, tail @ ..] = rest {
        let (byte, escaped) = match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                rest = after;
                (((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'), true)
            }
            _ => {
                rest = tail;
                (*first, false)
            }
        };
        let byte = byte.to_ascii_lowercase();
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => out.push(char::from(byte)),
            // A dot that is escaped is part of its label.
            b'.' if !escaped => out.push('.'),
            _ => out.push_str(&format!("\\{byte:03o}")),
        }
    }
    if !out.ends_with('.') {
        out.push('.');
    }
    out
}

/// The form for requests: the same, with `*` as people write it. Route 53 takes both.
fn plain(name: &str) -> String {
    name.replace("\\052", "*")
}

/// The root, if it is the answer that was asked for.
fn root<'a, 'i>(doc: &'a roxmltree::Document<'i>, name: &str) -> Result<roxmltree::Node<'a, 'i>, String> {
    match doc.root_element() {
        r if r.tag_name().name() == name => Ok(r),
        r => Err(format!("the answer is <{}>, not <{name}>", r.tag_name().name())),
    }
}

/// Where a page begins: name, type and set identifier.
type Start = (String, String, String);

fn list(zone: &str, start: &Start) -> Call<'static> {
    let (name, kind, identifier) = start;
    // In the order in which SigV4 sorts them.
    let mut q = Vec::new();
    if !identifier.is_empty() {
        q.push(format!("identifier={}", query::encode(identifier)));
    }
    q.push(format!("name={}", query::encode(&plain(name))));
    if !kind.is_empty() {
        q.push(format!("type={}", query::encode(kind)));
    }
    Call {
        service: Service::Route53,
        action: LIST,
        region: None,
        endpoint: None,
        method: "GET",
        path: format!("/2013-04-01/hostedzone/{}/rrset?{}", query::encode(zone), q.join("&")),
        headers: Vec::new(),
        body: String::new(),
        most: None,
        repeat: Repeat::Safe,
    }
}

fn parse_list(body: &[u8]) -> Result<(Vec<RecordSet>, Option<Start>), String> {
    let doc = xml::parse(body)?;
    let root = root(&doc, "ListResourceRecordSetsResponse")?;
    let sets = xml::child(root, "ResourceRecordSets").ok_or("the answer has no ResourceRecordSets")?;
    let sets = xml::children(sets, "ResourceRecordSet").map(record_set).collect::<Result<_, _>>()?;
    let next = (xml::text(root, "IsTruncated") == Some("true")).then(|| {
        let of = |name| xml::child(root, name).map(xml::whole_text).unwrap_or_default();
        (of("NextRecordName"), of("NextRecordType"), of("NextRecordIdentifier"))
    });
    Ok((sets, next))
}

fn record_set(node: roxmltree::Node<'_, '_>) -> Result<RecordSet, String> {
    let mut set = RecordSet::default();
    for e in node.children().filter(roxmltree::Node::is_element) {
        let text = xml::whole_text(e);
        match e.tag_name().name() {
            "Name" => set.name = normalise(text.trim()),
            "Type" => set.kind = text.trim().to_owned(),
            "SetIdentifier" => set.set_identifier = Some(text),
            "TTL" => set.ttl = Some(text.trim().parse().map_err(|_| "a TTL is no number".to_owned())?),
            "ResourceRecords" => {
                let value = |r| xml::child(r, "Value").map(xml::whole_text).unwrap_or_default();
                set.values = xml::children(e, "ResourceRecord").map(value).collect();
            }
            _ => set.other.push(element(e, 1)?),
        }
    }
    if set.name.is_empty() || set.kind.is_empty() {
        return Err("a record set has no name or type".to_owned());
    }
    Ok(set)
}

fn element(node: roxmltree::Node<'_, '_>, depth: usize) -> Result<Element, String> {
    // Each level is a call here, and again when it is written and dropped.
    if depth > MAX_DEPTH {
        return Err(format!("a record set is nested more than {MAX_DEPTH} deep"));
    }
    let children = node.children().filter(roxmltree::Node::is_element);
    let children: Vec<Element> = children.map(|c| element(c, depth + 1)).collect::<Result<_, _>>()?;
    let text = if children.is_empty() { xml::whole_text(node) } else { String::new() };
    Ok(Element { name: node.tag_name().name().to_owned(), text, children })
}

fn change(zone: &str, changes: &[Change]) -> Call<'static> {
    let mut body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ChangeResourceRecordSetsRequest xmlns=\"{NAMESPACE}\"><ChangeBatch><Comment>ec2fleetd</Comment><Changes>"
    );
    for c in changes {
        body.push_str("<Change><Action>");
        body.push_str(c.action.name());
        body.push_str("</Action><ResourceRecordSet>");
        for e in c.set.elements() {
            write(&e, &mut body);
        }
        body.push_str("</ResourceRecordSet></Change>");
    }
    body.push_str("</Changes></ChangeBatch></ChangeResourceRecordSetsRequest>");
    // UPSERTs may be repeated; a DELETE that worked and is repeated is refused.
    let repeat = if changes.iter().all(Change::is_upsert) { Repeat::Safe } else { Repeat::Once };
    Call {
        service: Service::Route53,
        action: "ChangeResourceRecordSets",
        region: None,
        endpoint: None,
        method: "POST",
        // The final slash belongs to the path that is signed.
        path: format!("/2013-04-01/hostedzone/{}/rrset/", query::encode(zone)),
        headers: vec![("content-type".to_owned(), "application/xml".to_owned())],
        body,
        most: None,
        repeat,
    }
}

fn write(e: &Element, out: &mut String) {
    out.push_str(&format!("<{}>", e.name));
    out.push_str(&xml::escape(&e.text));
    for c in &e.children {
        write(c, out);
    }
    out.push_str(&format!("</{}>", e.name));
}

impl Aws {
    /// All record sets of exactly this name, of all types.
    pub(crate) fn list_record_sets(&self, scope: &Scope, zone: &str, name: &str) -> Result<Vec<RecordSet>, ApiError> {
        let name = normalise(name);
        let mut start: Start = (name.clone(), String::new(), String::new());
        let mut all = Vec::new();
        for _ in 0..MAX_PAGES {
            let (page, next) = self.client.call(scope, &list(zone, &start), parse_list)?;
            // The list begins at the name or after it, and goes on to the end of the zone.
            let beyond = page.iter().any(|s| s.name != name);
            all.extend(page.into_iter().filter(|s| s.name == name));
            match next {
                Some(n) if !beyond && normalise(&n.0) == name => start = n,
                _ => return Ok(all),
            }
        }
        Err(ApiError::ours(LIST, Class::Fatal, format!("its pages do not end after {MAX_PAGES}")))
    }

    /// Carries out all changes, or none.
    pub(crate) fn change_record_sets(&self, scope: &Scope, zone: &str, changes: &[Change]) -> Result<(), ApiError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.client.call(scope, &change(zone, changes), |body| {
            root(&xml::parse(body)?, "ChangeResourceRecordSetsResponse").map(drop)
        })
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

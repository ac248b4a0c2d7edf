//! Reading the body of ChangeResourceRecordSets as strictly as Route 53 does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use roxmltree::{Document, Node};

use super::errors::{R53_NS, Refusal, refuse};
use super::records::{Alias, POLICIES, RecordSet, normalise};
use super::text::xml;

/// One change of a batch.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) action: String,
    pub(crate) set: RecordSet,
}

/// The children of a record set, in the order of the schema.
const ORDER: [&str; 15] = [
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

const TYPES: [&str; 16] = [
    "SOA", "A", "TXT", "NS", "CNAME", "MX", "NAPTR", "PTR", "SRV", "SPF", "AAAA", "CAA", "DS", "TLSA", "SSHFP", "SVCB",
];

fn schema(detail: impl std::fmt::Display) -> Refusal {
    refuse(
        "InvalidInput",
        format!(
            "Invalid XML ; javax.xml.stream.XMLStreamException: org.xml.sax.SAXParseException; lineNumber: 1; columnNumber: 1; {detail}"
        ),
    )
}

fn constraint(value: &str, path: &str, rule: &str) -> Refusal {
    refuse(
        "InvalidInput",
        format!("1 validation error detected: Value '{value}' at '{path}' failed to satisfy constraint: {rule}"),
    )
}

/// The element children; anything in another namespace, text between them or an attribute is refused.
fn children<'a, 'd>(node: Node<'a, 'd>) -> Result<Vec<Node<'a, 'd>>, Refusal> {
    let mut list = Vec::new();
    for n in node.children() {
        if n.is_element() {
            if n.tag_name().namespace() != Some(R53_NS) {
                return Err(schema(format!(
                    "cvc-complex-type.2.4.a: Invalid content was found starting with element '{}'.",
                    n.tag_name().name()
                )));
            }
            list.push(n);
        } else if n.text().is_some_and(|t| !t.trim().is_empty()) && n.is_text() {
            return Err(schema("cvc-complex-type.2.3: Element cannot have character [children]."));
        }
    }
    Ok(list)
}

/// Checks that children come in the order of `order`, each at most once.
fn in_order<'a, 'd>(node: Node<'a, 'd>, order: &[&str]) -> Result<BTreeMap<String, Node<'a, 'd>>, Refusal> {
    let mut at = 0;
    let mut map = BTreeMap::new();
    for c in children(node)? {
        let name = c.tag_name().name();
        match order[at..].iter().position(|o| *o == name) {
            Some(n) => at += n + 1,
            None => {
                return Err(schema(format!(
                    "cvc-complex-type.2.4.a: Invalid content was found starting with element '{name}'."
                )));
            }
        }
        map.insert(name.to_string(), c);
    }
    Ok(map)
}

fn text(node: &Node<'_, '_>) -> String {
    node.text().unwrap_or("").to_string()
}

/// What is inside an element, written anew.
fn inner(node: Node<'_, '_>) -> String {
    if node.children().any(|c| c.is_element()) {
        node.children()
            .filter(Node::is_element)
            .map(|c| format!("<{0}>{1}</{0}>", c.tag_name().name(), inner(c)))
            .collect()
    } else {
        xml(node.text().unwrap_or(""))
    }
}

/// Reads a batch.
pub(crate) fn parse(body: &[u8]) -> Result<Vec<Change>, Refusal> {
    let malformed = |what: String| refuse("MalformedInput", what);
    let body = std::str::from_utf8(body).map_err(|_| malformed("Invalid UTF-8".into()))?;
    let doc = Document::parse(body).map_err(|e| malformed(format!("Unexpected content: {e}")))?;
    let root = doc.root_element();
    if root.tag_name().name() != "ChangeResourceRecordSetsRequest" || root.tag_name().namespace() != Some(R53_NS) {
        return Err(schema(format!(
            "cvc-elt.1.a: Cannot find the declaration of element '{}'.",
            root.tag_name().name()
        )));
    }
    let top = in_order(root, &["ChangeBatch"])?;
    let Some(batch) = top.get("ChangeBatch") else {
        return Err(schema(
            "cvc-complex-type.2.4.b: The content of element 'ChangeResourceRecordSetsRequest' is not complete.",
        ));
    };
    let batch = in_order(*batch, &["Comment", "Changes"])?;
    if batch.get("Comment").is_some_and(|c| text(c).chars().count() > 256) {
        return Err(constraint("…", "changeBatch.comment", "Member must have length less than or equal to 256"));
    }
    let list = batch.get("Changes").map(|c| children(*c)).transpose()?.unwrap_or_default();
    if list.is_empty() {
        return Err(schema(
            "cvc-complex-type.2.4.b: The content of element 'Changes' is not complete. One of '{\"https://route53.amazonaws.com/doc/2013-04-01/\":Change}' is expected.",
        ));
    }
    let mut changes = Vec::new();
    for (i, node) in list.into_iter().enumerate() {
        if node.tag_name().name() != "Change" {
            return Err(schema("cvc-complex-type.2.4.a: Invalid content in 'Changes'."));
        }
        let path = format!("changeBatch.changes.{}.member", i + 1);
        let parts = in_order(node, &["Action", "ResourceRecordSet"])?;
        let action = parts.get("Action").map(text).unwrap_or_default();
        if !["CREATE", "DELETE", "UPSERT"].contains(&action.as_str()) {
            let rule = "Member must satisfy enum value set: [CREATE, DELETE, UPSERT]";
            return Err(constraint(&action, &format!("{path}.action"), rule));
        }
        let Some(set) = parts.get("ResourceRecordSet") else {
            return Err(schema("cvc-complex-type.2.4.b: The content of element 'Change' is not complete."));
        };
        changes.push(Change { set: record_set(*set, &action, &path)?, action });
    }
    limits(&changes)?;
    Ok(changes)
}

fn record_set(node: Node<'_, '_>, action: &str, path: &str) -> Result<RecordSet, Refusal> {
    let parts = in_order(node, &ORDER)?;
    let name = parts.get("Name").map(text).unwrap_or_default();
    let kind = parts.get("Type").map(text).unwrap_or_default();
    let path = format!("{path}.resourceRecordSet");
    if name.is_empty() || name.len() > 1024 {
        return Err(constraint(&name, &format!("{path}.name"), "Member must not be null"));
    }
    if !TYPES.contains(&kind.as_str()) {
        let rule = format!("Member must satisfy enum value set: [{}]", TYPES.join(", "));
        return Err(constraint(&kind, &format!("{path}.type"), &rule));
    }
    let mut set = RecordSet { name: normalise(&name), kind, ..RecordSet::default() };
    let labels = set.name.trim_end_matches('.').split('.');
    if labels.clone().any(|l| l.replace("\\052", "*").len() > 63 || l.is_empty()) || set.name.len() > 256 {
        let text = format!("FATAL problem: DomainLabelTooLong (Domain label is too long) encountered with '{name}'");
        return Err(refuse("InvalidChangeBatch", format!("[{text}]")));
    }
    set.set_id = parts.get("SetIdentifier").map(text);
    if set.set_id.as_ref().is_some_and(|s| s.is_empty() || s.chars().count() > 128) {
        let rule = "Member must have length between 1 and 128";
        return Err(constraint("", &format!("{path}.setIdentifier"), rule));
    }
    if let Some(ttl) = parts.get("TTL").map(text) {
        let at = format!("{path}.tTL");
        let number: i64 =
            ttl.trim().parse().map_err(|_| schema("cvc-datatype-valid.1.2.1: not a valid value for 'integer'."))?;
        if number < 0 {
            return Err(constraint(&ttl, &at, "Member must have value greater than or equal to 0"));
        }
        if number > i64::from(i32::MAX) {
            return Err(constraint(&ttl, &at, "Member must have value less than or equal to 2147483647"));
        }
        set.ttl = Some(number as u32);
    }
    if let Some(records) = parts.get("ResourceRecords") {
        let list = children(*records)?;
        if list.is_empty() {
            return Err(schema(
                "cvc-complex-type.2.4.b: The content of element 'ResourceRecords' is not complete. One of '{\"https://route53.amazonaws.com/doc/2013-04-01/\":ResourceRecord}' is expected.",
            ));
        }
        for r in list {
            let value = in_order(r, &["Value"])?.get("Value").map(text).unwrap_or_default();
            if r.tag_name().name() != "ResourceRecord" || value.chars().count() > 4000 {
                return Err(schema("cvc-complex-type.2.4.a: Invalid content in 'ResourceRecords'."));
            }
            set.values.push(value);
        }
    }
    if let Some(alias) = parts.get("AliasTarget") {
        let p = in_order(*alias, &["HostedZoneId", "DNSName", "EvaluateTargetHealth"])?;
        let get = |n: &str| p.get(n).map(text).unwrap_or_default();
        let evaluate = get("EvaluateTargetHealth");
        if p.len() != 3 || !["true", "false"].contains(&evaluate.as_str()) {
            return Err(schema("cvc-complex-type.2.4.b: The content of element 'AliasTarget' is not complete."));
        }
        set.alias = Some(Alias { zone: get("HostedZoneId"), name: normalise(&get("DNSName")), evaluate });
    }
    for name in POLICIES.iter().chain(&["HealthCheckId", "TrafficPolicyInstanceId"]) {
        if let Some(n) = parts.get(*name) {
            set.routing.insert((*name).into(), inner(*n));
        }
    }
    consistent(&set, action)?;
    Ok(set)
}

/// What must come together, and what must not.
fn consistent(set: &RecordSet, action: &str) -> Result<(), Refusal> {
    let what = format!(
        "Change with [Action={action}, Name={}, Type={}, SetIdentifier={}]",
        set.name,
        set.kind,
        set.set_id.as_deref().unwrap_or("null")
    );
    let invalid = |text: String| refuse("InvalidInput", format!("Invalid request: {text}"));
    let one_of = "Expected exactly one of [AliasTarget, all of [TTL, and ResourceRecords], or TrafficPolicyInstanceId]";
    match (&set.alias, set.ttl, set.values.is_empty()) {
        (Some(_), None, true) | (None, Some(_), false) => {}
        (Some(_), _, _) => return Err(invalid(format!("{one_of}, but found more than one in {what}"))),
        (None, None, true) if set.routing.contains_key("TrafficPolicyInstanceId") => {}
        (None, None, true) => return Err(invalid(format!("{one_of}, but found none in {what}"))),
        (None, Some(_), true) => return Err(invalid(format!("Missing field 'ResourceRecords' in {what}"))),
        (None, None, false) => return Err(invalid(format!("Missing field 'TTL' in {what}"))),
    }
    let policies = POLICIES.iter().filter(|p| set.routing.contains_key(**p)).count();
    let names = POLICIES.join(", ");
    match (set.set_id.is_some(), policies) {
        (false, 0) | (true, 1) => Ok(()),
        (true, 0) if action == "DELETE" => Ok(()),
        (true, 0) => Err(invalid(format!("Missing field '{names}' in {what}"))),
        (true, _) => Err(invalid(format!("Expected exactly one of [{names}], but found more than one in {what}"))),
        (false, _) => Err(invalid(format!("Missing field 'SetIdentifier' in {what}"))),
    }
}

/// The limits of one request; an UPSERT counts twice.
fn limits(changes: &[Change]) -> Result<(), Refusal> {
    let (mut records, mut chars) = (0, 0);
    for c in changes {
        let times = if c.action == "UPSERT" { 2 } else { 1 };
        records += times * c.set.values.len().max(1);
        chars += times * c.set.values.iter().map(|v| v.chars().count()).sum::<usize>();
        if c.set.values.len() > 400 {
            return Err(refuse("InvalidChangeBatch", "[Number of records in a resource record set exceeds 400]"));
        }
    }
    if records > 1000 {
        let text = format!("Number of records limit of 1000 exceeded: {records}.");
        return Err(refuse("InvalidChangeBatch", format!("[{text}]")));
    }
    if chars > 32_000 {
        let text = format!("RDATA character limit of 32000 exceeded: {chars}.");
        return Err(refuse("InvalidChangeBatch", format!("[{text}]")));
    }
    Ok(())
}

/// What is wrong with the values of a set.
pub(crate) fn value_problems(set: &RecordSet) -> Vec<String> {
    let mut out = Vec::new();
    let mut seen = BTreeSet::new();
    let fatal = |code: &str, text: &str, v: &str| {
        format!("Invalid Resource Record: 'FATAL problem: {code} ({text}) encountered with '{v}''")
    };
    for v in &set.values {
        if !seen.insert(v) {
            out.push(format!("Duplicate Resource Record: '{v}'"));
        }
        match set.kind.as_str() {
            "A" if v.parse::<Ipv4Addr>().is_err() => {
                out.push(fatal("ARRDATAIllegalIPv4Address", "Value is not a valid IPv4 address", v));
            }
            "AAAA" if v.parse::<Ipv6Addr>().is_err() => {
                out.push(fatal("AAAARRDATAIllegalIPv6Address", "Value is not a valid IPv6 address", v));
            }
            "TXT" | "SPF" if !good_txt(v) => {
                let text = "Value should be enclosed in quotation marks";
                out.push(fatal("InvalidCharacterString", text, v));
            }
            "CNAME" | "NS" | "PTR" if v.is_empty() || v.contains(' ') => {
                out.push(fatal("UnparseableDomainName", "Value is not a valid domain name", v));
            }
            _ => {}
        }
    }
    if set.policy() == Some("MultiValueAnswer") {
        // The guide has one value for each record; what more of them do is written nowhere.
        if set.values.len() > 1 {
            out.push(format!("Multivalue answer RRSet with DNS name {} may have only one record", set.name));
        }
        if set.alias.is_some() || matches!(set.kind.as_str(), "NS" | "CNAME" | "SOA") {
            out.push(format!("Multivalue answer is not possible for {} of type {}", set.name, set.kind));
        }
    }
    if set.kind == "CNAME" && set.values.len() > 1 {
        out.push(format!("RRSet of type CNAME with DNS name {} may have only one record", set.name));
    }
    out
}

/// One or more quoted strings of at most 255 characters each.
fn good_txt(value: &str) -> bool {
    let mut rest = value.trim();
    while let Some(tail) = rest.strip_prefix('"') {
        let mut length = 0;
        let mut chars = tail.char_indices();
        let end = loop {
            match chars.next() {
                None => return false,
                Some((_, '\\')) => {
                    chars.next();
                    length += 1;
                }
                Some((i, '"')) => break i,
                Some(_) => length += 1,
            }
        };
        if length > 255 {
            return false;
        }
        rest = tail[end + 1..].trim_start();
        if rest.is_empty() {
            return true;
        }
    }
    false
}

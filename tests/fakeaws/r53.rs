//! Route 53: ListResourceRecordSets, GetChange, and ChangeResourceRecordSets as one transaction on a working copy.

use std::collections::{BTreeMap, BTreeSet};

use super::errors::{R53_NS, Refusal, refuse, refuse_with};
use super::r53_parse::{Change, value_problems};
use super::records::{Key, RecordSet, Zone, normalise, reversed};
use super::text::{element, iso, xml};
use super::world::World;

/// What a request asks for, by its method and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    List(String),
    Change(String),
    GetChange(String),
}

impl Target {
    pub(crate) fn find(method: &str, path: &str) -> Option<Target> {
        let rest = path.strip_prefix("/2013-04-01/")?;
        let parts: Vec<&str> = rest.trim_end_matches('/').split('/').collect();
        match (method, parts.as_slice()) {
            ("GET", ["hostedzone", id, "rrset"]) => Some(Target::List((*id).into())),
            ("POST", ["hostedzone", id, "rrset"]) => Some(Target::Change((*id).into())),
            ("GET", ["change", id]) => Some(Target::GetChange((*id).into())),
            _ => None,
        }
    }

    pub(crate) fn action(&self) -> &'static str {
        match self {
            Target::List(_) => "ListResourceRecordSets",
            Target::Change(_) => "ChangeResourceRecordSets",
            Target::GetChange(_) => "GetChange",
        }
    }

    pub(crate) fn id(&self) -> &str {
        match self {
            Target::List(id) | Target::Change(id) | Target::GetChange(id) => id,
        }
    }
}

fn no_zone(id: &str) -> Refusal {
    refuse_with(404, "NoSuchHostedZone", format!("No hosted zone found with ID: {id}"))
}

fn answer(name: &str, inner: &str) -> String {
    format!("<?xml version=\"1.0\"?>\n<{name} xmlns=\"{R53_NS}\">{inner}</{name}>")
}

fn info(id: &str, status: &str, at: String) -> String {
    format!("<ChangeInfo><Id>/change/{id}</Id><Status>{status}</Status>{}</ChangeInfo>", element("SubmittedAt", at))
}

impl World {
    pub(crate) fn list_records(&self, zone: &str, query: &BTreeMap<String, String>) -> Result<String, Refusal> {
        let zone = self.zones.get(zone).ok_or_else(|| no_zone(zone))?;
        if let Some(k) = query.keys().find(|k| !["name", "type", "identifier", "maxitems"].contains(&k.as_str())) {
            return Err(refuse("InvalidInput", format!("Unknown parameter '{k}'")));
        }
        let (name, kind) = (query.get("name"), query.get("type"));
        if kind.is_some() && name.is_none() {
            return Err(refuse("InvalidInput", "The input is not valid: a record type needs a record name"));
        }
        if query.contains_key("identifier") && kind.is_none() {
            return Err(refuse("InvalidInput", "The input is not valid: a record identifier needs a name and a type"));
        }
        let asked: usize = match query.get("maxitems") {
            Some(n) => n.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
                refuse("InvalidInput", format!("Value '{n}' at 'maxItems' failed to satisfy constraint"))
            })?,
            None => 300,
        };
        let max = asked.min(300).min(self.knobs.record_page_cap.max(1));
        let start: Key = (
            name.map(|n| reversed(&normalise(n))).unwrap_or_default(),
            kind.cloned().unwrap_or_default(),
            query.get("identifier").cloned().unwrap_or_default(),
        );
        let mut rest = zone.records.range(start..).map(|(_, r)| r);
        let page: Vec<&RecordSet> = rest.by_ref().take(max).collect();
        let mut inner = String::from("<ResourceRecordSets>");
        page.iter().for_each(|r| inner += &r.to_xml());
        inner += "</ResourceRecordSets>";
        match rest.next() {
            Some(next) => {
                inner += "<IsTruncated>true</IsTruncated>";
                inner += &element("NextRecordName", &next.name);
                inner += &element("NextRecordType", &next.kind);
                if let Some(id) = &next.set_id {
                    inner += &element("NextRecordIdentifier", id);
                }
            }
            None => inner += "<IsTruncated>false</IsTruncated>",
        }
        inner += &element("MaxItems", asked.min(300));
        Ok(answer("ListResourceRecordSetsResponse", &inner))
    }

    pub(crate) fn get_change(&self, id: &str) -> Result<String, Refusal> {
        let at = self.changes.get(id);
        let at =
            *at.ok_or_else(|| refuse_with(404, "NoSuchChange", format!("Could not find resource with ID: {id}")))?;
        let status = if at <= self.now_ms() { "INSYNC" } else { "PENDING" };
        let when = iso(self.wall_at(at.saturating_sub(self.knobs.insync_ms)));
        Ok(answer("GetChangeResponse", &info(id, status, when)))
    }

    /// Marks a change of a zone as under way, or refuses it because another one is.
    pub(crate) fn begin_change(&mut self, zone: &str) -> Result<(), Refusal> {
        let now = self.now_ms();
        let zone = self.zones.get_mut(zone).ok_or_else(|| no_zone(zone))?;
        if zone.in_progress > 0 || zone.busy_until_ms > now {
            let text = "The request was rejected because Route 53 was still processing a prior request.";
            return Err(refuse("PriorRequestNotComplete", text));
        }
        zone.in_progress += 1;
        Ok(())
    }

    /// Ends what [`World::begin_change`] began.
    pub(crate) fn end_change(&mut self, zone: &str) {
        let until = self.now_ms() + self.knobs.change_busy_ms;
        if let Some(z) = self.zones.get_mut(zone) {
            z.in_progress = z.in_progress.saturating_sub(1);
            z.busy_until_ms = until;
        }
    }

    pub(crate) fn change_records(&mut self, zone_id: &str, changes: &[Change]) -> Result<String, Refusal> {
        let zone = self.zones.get(zone_id).ok_or_else(|| no_zone(zone_id))?;
        let records = apply(zone, changes)
            .map_err(|problems| refuse("InvalidChangeBatch", format!("[{}]", problems.join(", "))))?;
        if let Some(z) = self.zones.get_mut(zone_id) {
            z.records = records;
        }
        let id = format!("C{}", self.random.hex(20).to_uppercase());
        let now = self.now_ms();
        self.changes.insert(id.clone(), now + self.knobs.insync_ms);
        let status = if self.knobs.insync_ms == 0 { "INSYNC" } else { "PENDING" };
        Ok(answer("ChangeResourceRecordSetsResponse", &info(&id, status, iso(self.wall()))))
    }
}

/// `name='a.e.com.', type='A'`, with the set identifier if there is one.
fn describe(set: &RecordSet) -> String {
    let id = set.set_id.as_ref().map(|s| format!(", set identifier='{}'", xml(s))).unwrap_or_default();
    format!("[name='{}', type='{}'{id}]", set.name, set.kind)
}

/// Applies a batch in order to a copy of the zone; all problems, or the new records.
fn apply(zone: &Zone, changes: &[Change]) -> Result<BTreeMap<Key, RecordSet>, Vec<String>> {
    let mut work = zone.records.clone();
    let mut problems = Vec::new();
    // What this batch did to a set so far.
    let mut touched: BTreeMap<Key, &str> = BTreeMap::new();
    for Change { action, set } in changes {
        let key = set.key();
        let name = &set.name;
        if !zone.holds(name) {
            problems.push(format!("RRSet with DNS name {name} is not permitted in zone {}", zone.name));
            continue;
        }
        if zone.protected.contains(name) {
            problems.push(format!("The record {name} of type {} is protected: changes are not permitted", set.kind));
            continue;
        }
        let earlier = touched.insert(key.clone(), action);
        let fine = matches!((earlier, action.as_str()), (None, _) | (Some("DELETE"), "CREATE" | "UPSERT"));
        if !fine {
            problems.push(format!(
                "The request contains an invalid set of changes for a resource record set '{} {name}'",
                set.kind
            ));
            continue;
        }
        match action.as_str() {
            "DELETE" => match work.get(&key) {
                None => {
                    problems.push(format!("Tried to delete resource record set {} but it was not found", describe(set)))
                }
                Some(_) if *name == zone.name && matches!(set.kind.as_str(), "SOA" | "NS") => {
                    problems.push(format!(
                        "A HostedZone must contain at least one {} record for the zone itself.",
                        set.kind
                    ));
                }
                Some(stored) if !set.same_as(stored) => problems.push(format!(
                    "Tried to delete resource record set {} but the values provided do not match the current values",
                    describe(set)
                )),
                Some(_) => {
                    work.remove(&key);
                }
            },
            _ => {
                problems.extend(value_problems(set));
                if action == "CREATE" && work.contains_key(&key) {
                    problems
                        .push(format!("Tried to create resource record set {} but it already exists", describe(set)));
                    continue;
                }
                let conflict = conflicts(zone, &work, set, &touched);
                if conflict.is_empty() {
                    work.insert(key, set.clone());
                }
                problems.extend(conflict);
            }
        }
    }
    // Each text once, as the service says it.
    let mut seen = BTreeSet::new();
    problems.retain(|p| seen.insert(p.clone()));
    if problems.is_empty() { Ok(work) } else { Err(problems) }
}

/// What stands against this set being there.
fn conflicts(
    zone: &Zone,
    work: &BTreeMap<Key, RecordSet>,
    set: &RecordSet,
    touched: &BTreeMap<Key, &str>,
) -> Vec<String> {
    let (name, kind) = (&set.name, &set.kind);
    let mut out = Vec::new();
    if kind == "CNAME" && *name == zone.name {
        out.push(format!("RRSet of type CNAME with DNS name {name} is not permitted at apex in zone {}", zone.name));
    }
    let same_name = work.values().filter(|r| r.name == *name);
    if let Some(other) = same_name.clone().find(|r| r.kind != *kind && (r.kind == "CNAME" || kind == "CNAME")) {
        out.push(if touched.get(&other.key()).is_some_and(|a| *a != "DELETE") {
            format!("The request contains an invalid set of changes for a resource record set '{kind} {name}'")
        } else {
            format!(
                "RRSet of type {kind} with DNS name {name} is not permitted as it conflicts with other records with the same DNS name in zone {}",
                zone.name
            )
        });
    }
    let siblings: Vec<&RecordSet> = same_name.filter(|r| r.kind == *kind && r.set_id != set.set_id).collect();
    if let Some(other) = siblings.first() {
        match &set.set_id {
            None => out.push(format!(
                "RRSet with DNS name {name}, type {kind} cannot be created as other RRSets exist with the same name and type."
            )),
            Some(id) if other.set_id.is_none() => out.push(format!(
                "RRSet with DNS name {name}, type {kind}, SetIdentifier {id} cannot be created as a non-routed RRSet exists with the same name and type."
            )),
            Some(id) if other.policy() != set.policy() => out.push(format!(
                "RRSet with DNS name {name}, type {kind}, SetIdentifier {id} cannot be created as RRSets of another routing policy exist with the same name and type."
            )),
            Some(_) if siblings.len() >= 100 => out.push(format!("More than 100 RRSets of {name}, type {kind}")),
            Some(_) => {}
        }
    }
    if let Some(a) = set.alias.as_ref().filter(|a| a.zone == zone.id) {
        let there = work.values().any(|r| r.name == a.name && r.kind == *kind);
        if !zone.holds(&a.name) {
            out.push(format!(
                "Tried to create an alias that targets {}, type {kind} in zone {}, but the alias target name does not lie within the target zone",
                a.name, a.zone
            ));
        } else if !there {
            out.push(format!(
                "Tried to create an alias that targets {}, type {kind} in zone {}, but that target was not found",
                a.name, a.zone
            ));
        }
    }
    out
}

//! DescribeVolumes and DescribeInstances: filters, pages, order.

use super::ec2::{Ask, attachment_xml, check_id, tag_set, volume_xml};
use super::errors::{Refusal, refuse};
use super::knobs::Endless;
use super::text::{element, iso};
use super::volumes::{PageToken, Volume};
use super::world::{Hidden, World};

/// Matches with `*`, `?` and `\` as EC2 does; case counts.
pub(crate) fn wildcard(pattern: &str, text: &str) -> bool {
    fn step(p: &[char], t: &[char]) -> bool {
        match p.split_first() {
            None => t.is_empty(),
            Some(('*', rest)) => (0..=t.len()).any(|n| step(rest, &t[n..])),
            Some(('?', rest)) => !t.is_empty() && step(rest, &t[1..]),
            Some(('\\', rest)) if !rest.is_empty() => t.first() == rest.first() && step(&rest[1..], &t[1..]),
            Some((c, rest)) => t.first() == Some(c) && step(rest, &t[1..]),
        }
    }
    step(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>())
}

const VOLUME_FILTERS: [&str; 19] = [
    "attachment.attach-time",
    "attachment.delete-on-termination",
    "attachment.device",
    "attachment.instance-id",
    "attachment.status",
    "availability-zone",
    "availability-zone-id",
    "create-time",
    "encrypted",
    "fast-restored",
    "multi-attach-enabled",
    "operator.managed",
    "operator.principal",
    "size",
    "snapshot-id",
    "status",
    "tag-key",
    "volume-id",
    "volume-type",
];

/// The values that a volume has for a filter. Those of attachments count for the volume, not one attachment.
fn volume_values(world: &World, v: &Volume, filter: &str) -> Vec<String> {
    let zone_id = || world.availability_zones.get(&v.zone).map(|z| z.1.clone()).unwrap_or_default();
    let each = |f: fn(&super::volumes::Attachment) -> String| v.attachments.iter().map(f).collect();
    match filter {
        "attachment.attach-time" => each(|a| iso(a.time)),
        "attachment.delete-on-termination" => each(|a| a.delete_on_termination.to_string()),
        "attachment.device" => each(|a| a.device.clone()),
        "attachment.instance-id" => each(|a| a.instance.clone()),
        "attachment.status" => each(|a| a.state.clone()),
        "availability-zone" => vec![v.zone.clone()],
        "availability-zone-id" => vec![zone_id()],
        "create-time" => vec![iso(v.created)],
        "encrypted" => vec![v.encrypted.to_string()],
        "fast-restored" => vec!["false".into()],
        "multi-attach-enabled" => vec![v.multi_attach.to_string()],
        "operator.managed" => vec![v.operator.is_some().to_string()],
        "operator.principal" => v.operator.iter().cloned().collect(),
        "size" => vec![v.size.to_string()],
        "snapshot-id" => v.snapshot.iter().cloned().collect(),
        "status" => vec![v.state.clone()],
        "tag-key" => v.tags.keys().cloned().collect(),
        "volume-id" => vec![v.id.clone()],
        "volume-type" => vec![v.kind.clone()],
        _ => filter.strip_prefix("tag:").and_then(|k| v.tags.get(k)).cloned().into_iter().collect(),
    }
}

/// The filters of a call.
pub(crate) fn filters(ask: &Ask<'_>) -> Result<Vec<(String, Vec<String>)>, Refusal> {
    let mut list = Vec::new();
    for n in 1.. {
        let Some(name) = ask.get(&format!("Filter.{n}.Name")) else { break };
        list.push((name.to_string(), ask.list(&format!("Filter.{n}.Value"))));
    }
    let values: usize = list.iter().map(|(_, v)| v.len()).sum();
    if values > 200 || list.len() > 50 {
        let text = "The maximum number of filter values specified on a single call is 200";
        return Err(refuse("FilterLimitExceeded", text));
    }
    for (name, values) in &list {
        if values.is_empty() {
            let text = format!("The filter '{name}' must have at least one value");
            return Err(refuse("InvalidParameterValue", text));
        }
        if values.iter().any(|v| v.chars().count() > 255) {
            return Err(refuse("FilterLimitExceeded", "The maximum length of a filter value is 255 characters"));
        }
    }
    Ok(list)
}

/// Whether something passes all filters; `values` tells what it has for one.
pub(crate) fn passes(filters: &[(String, Vec<String>)], values: impl Fn(&str) -> Vec<String>) -> bool {
    filters.iter().all(|(name, patterns)| values(name).iter().any(|v| patterns.iter().any(|p| wildcard(p, v))))
}

pub(crate) fn bad_filter(name: &str) -> Refusal {
    refuse("InvalidParameterValue", format!("The filter '{name}' is invalid"))
}

impl World {
    pub(crate) fn describe_volumes(&mut self, ask: &Ask<'_>) -> Result<String, Refusal> {
        let ids = ask.list("VolumeId");
        for id in &ids {
            check_id(id, "vol")?;
        }
        let filters = filters(ask)?;
        if ids.len() > 1000 {
            return Err(refuse("InvalidParameterValue", "At most 1000 volume ids may be given"));
        }
        for (name, _) in &filters {
            if !VOLUME_FILTERS.contains(&name.as_str()) && !name.starts_with("tag:") {
                return Err(bad_filter(name));
            }
        }
        let list = self.matching(ask, &ids, &filters)?;
        let (shown, next) = self.page(ask, "volumeIds", !ids.is_empty(), format!("volumes {filters:?}"), list)?;
        let volumes = self.volumes_as_read();
        let items: String = shown
            .iter()
            .filter_map(|id| volumes.get(id))
            .map(|v| format!("<item>{}</item>", volume_xml(self, v)))
            .collect();
        Ok(format!("<volumeSet>{items}</volumeSet>{next}"))
    }

    fn matching(
        &mut self,
        ask: &Ask<'_>,
        ids: &[String],
        filters: &[(String, Vec<String>)],
    ) -> Result<Vec<String>, Refusal> {
        let now = self.now_ms();
        let here = |v: &Volume| v.visible_at_ms <= now && self.region_of(&v.zone) == ask.region;
        let volumes = self.volumes_as_read();
        let missing: Vec<&str> =
            ids.iter().filter(|id| !volumes.get(*id).is_some_and(here)).map(String::as_str).collect();
        if !missing.is_empty() {
            let text = match missing.as_slice() {
                [one] => format!("The volume '{one}' does not exist."),
                many => format!("The volumes '{}' do not exist.", many.join(", ")),
            };
            return Err(refuse("InvalidVolume.NotFound", text));
        }
        let list = volumes
            .values()
            .filter(|v| here(v) && (ids.is_empty() || ids.contains(&v.id)))
            .filter(|v| passes(filters, |name| volume_values(self, v, name)))
            .map(|v| v.id.clone())
            .collect();
        Ok(list)
    }

    /// The page of a listing that is asked for, in no order, and the element with the token of the next one. `list` is what
    /// a listing that begins now gives; `by_id`: ids were asked for, by the parameter `ids`.
    pub(crate) fn page(
        &mut self,
        ask: &Ask<'_>,
        ids: &str,
        by_id: bool,
        fingerprint: String,
        mut list: Vec<String>,
    ) -> Result<(Vec<String>, String), Refusal> {
        let max = ask.number("MaxResults")?;
        if by_id && (max.is_some() || ask.get("NextToken").is_some()) {
            let text = format!("The parameter {ids} cannot be used with the parameter maxResults");
            return Err(refuse("InvalidParameterCombination", text));
        }
        if let Some(n) = max.filter(|n| !(5..=1000).contains(n)) {
            let text =
                format!("Value ( {n} ) for parameter maxResults is invalid. Expecting a value between 5 and 1000.");
            return Err(refuse("InvalidParameterValue", text));
        }
        if self.hidden == Hidden::All {
            return Ok((Vec::new(), "<nextToken/>".into()));
        }
        let endless = self.knobs.endless_pages.filter(|_| !by_id);
        let all = if endless == Some(Endless::Again) { list.clone() } else { Vec::new() };
        let mut left = match ask.get("NextToken").filter(|t| !t.is_empty()) {
            Some(token) => match self.pages.get(token) {
                Some(p) if p.fingerprint == fingerprint => p.clone(),
                Some(_) => {
                    let text = "The token is of a request with other parameters";
                    return Err(refuse("InvalidParameterValue", text));
                }
                None => return Err(refuse("InvalidParameterValue", "Unable to parse pagination token")),
            },
            None => {
                self.random.shuffle(&mut list);
                PageToken { fingerprint, ids: list, empty: self.knobs.empty_pages && !by_id }
            }
        };
        let mut page = usize::try_from(max.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        if !by_id {
            page = page.min(self.knobs.page_cap.unwrap_or(1000)).max(1);
        }
        let shown: Vec<String> =
            if left.empty { Vec::new() } else { left.ids.drain(..page.min(left.ids.len())).collect() };
        let was_empty = left.empty;
        if endless == Some(Endless::Same) {
            left.ids.extend(shown.iter().cloned());
            left.ids.rotate_right(shown.len());
            self.pages.insert("the-same==".into(), left);
            return Ok((shown, element("nextToken", "the-same==")));
        }
        let shown: Vec<String> = shown.into_iter().filter(|id| !self.hidden.hides(id)).collect();
        left.empty = self.knobs.empty_pages && !was_empty;
        // An empty page leads on even when nothing is left: the only sign of the end is the empty token.
        let more = !left.ids.is_empty() || was_empty;
        if !more && endless.is_some() {
            left.ids = all;
        } else if !more {
            return Ok((shown, "<nextToken/>".into()));
        }
        let token = format!("{}==", self.random.hex(60));
        let next = element("nextToken", &token);
        self.pages.insert(token, left);
        Ok((shown, next))
    }

    pub(crate) fn describe_instances(&mut self, ask: &Ask<'_>) -> Result<String, Refusal> {
        let ids = ask.list("InstanceId");
        for id in &ids {
            check_id(id, "i")?;
            if self.instances.get(id).is_none_or(|i| i.unknown || i.region != ask.region) {
                let text = format!("The instance ID '{id}' does not exist");
                return Err(refuse("InvalidInstanceID.NotFound", text));
            }
        }
        let max = ask.number("MaxResults")?;
        if !ids.is_empty() && max.is_some() {
            let text = "The parameter instancesSet cannot be used with the parameter maxResults";
            return Err(refuse("InvalidParameterCombination", text));
        }
        if let Some(n) = max.filter(|n| !(5..=1000).contains(n)) {
            let text =
                format!("Value ( {n} ) for parameter maxResults is invalid. Expecting a value between 5 and 1000.");
            return Err(refuse("InvalidParameterValue", text));
        }
        let filters = filters(ask)?;
        for (name, _) in &filters {
            let known = ["instance-id", "instance-state-name", "availability-zone"].contains(&name.as_str());
            if !known && !name.starts_with("tag:") {
                return Err(bad_filter(name));
            }
        }
        let fingerprint = format!("instances {filters:?}");
        let after = match ask.get("NextToken").filter(|t| !t.is_empty()).map(|t| self.pages.get(t)) {
            Some(Some(p)) if p.fingerprint == fingerprint => p.ids.first().cloned().unwrap_or_default(),
            Some(_) => return Err(refuse("InvalidParameterValue", "Unable to parse pagination token")),
            None => String::new(),
        };
        let page = usize::try_from(max.unwrap_or(1000)).unwrap_or(1000).min(self.knobs.page_cap.unwrap_or(1000)).max(1);
        let (mut items, mut shown, mut next) = (String::new(), Vec::new(), "<nextToken/>".to_string());
        for i in self.instances.values().filter(|i| !i.unknown && i.region == ask.region) {
            let passes = filters.iter().all(|(name, patterns)| {
                let value = match name.as_str() {
                    "instance-id" => Some(i.id.as_str()),
                    "instance-state-name" => Some(i.state.as_str()),
                    "availability-zone" => Some(i.spec.zone.as_str()),
                    tag => i.spec.tags.iter().find(|(k, _)| tag.strip_prefix("tag:") == Some(k)).map(|t| t.1.as_str()),
                };
                value.is_some_and(|v| patterns.iter().any(|p| wildcard(p, v)))
            });
            if !passes || self.hidden.hides(&i.id) || !(ids.is_empty() || ids.contains(&i.id)) || i.id <= after {
                continue;
            }
            if shown.len() == page {
                let token = format!("{}==", self.random.hex(60));
                next = element("nextToken", &token);
                let last = shown.pop().into_iter().collect();
                self.pages.insert(token, PageToken { fingerprint, ids: last, empty: false });
                break;
            }
            shown.push(i.id.clone());
            let code = match i.state.as_str() {
                "pending" => 0,
                "running" => 16,
                "shutting-down" => 32,
                "terminated" => 48,
                "stopping" => 64,
                _ => 80,
            };
            let disks: String = self
                .volumes
                .values()
                .flat_map(|v| v.attachments.iter().map(move |a| (v, a)))
                .filter(|(_, a)| a.instance == i.id)
                .map(|(v, a)| {
                    let ebs = attachment_xml(&v.id, a);
                    format!("<item>{}<ebs>{ebs}</ebs></item>", element("deviceName", &a.device))
                })
                .collect();
            items += &format!(
                "<item>{}<instancesSet><item>{}{}<instanceState><code>{code}</code><name>{}</name></instanceState><placement>{}</placement><blockDeviceMapping>{disks}</blockDeviceMapping>{}{}</item></instancesSet></item>",
                element("reservationId", format!("r-{}", &i.id[2..])),
                element("instanceId", &i.id),
                element("instanceType", &i.spec.instance_type),
                i.state,
                element("availabilityZone", &i.spec.zone),
                element("rootDeviceName", &i.root_device),
                tag_set(&i.spec.tags.iter().cloned().collect()),
            );
        }
        Ok(format!("<reservationSet>{items}</reservationSet>{next}"))
    }
}

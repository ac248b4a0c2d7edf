//! The CreateVolume request of a directive.
//!
//! Everything in it, the tags too, is a function of instance, domain, directive, generation and `create`, so that the
//! same instance derives the same request (and the same client token) again after a crash, and gets the same volume.
//! What differs from run to run is tagged later.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::tags;
use crate::config::VolumeDirective;
use crate::model::Facts;

/// Keys of `create` that are ours to set.
pub(crate) const OVERRIDDEN: [&str; 3] = ["AvailabilityZone", "AvailabilityZoneId", "ClientToken"];

/// How many tags a volume is made with at most, if it is for us to say.
const MOST_TAGS: usize = 45;
/// Domain, pool, owner, the two of the transaction, lineage and generation.
const OUR_TAGS: usize = 7;

/// What a volume is a copy of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    /// `snap-…`.
    pub(crate) snapshot: String,
    /// Its size in GiB.
    pub(crate) size: u64,
    /// Tags of the copy.
    pub(crate) tags: Vec<(String, String)>,
}

/// The client token of a directive's volume, made from `snapshot` or from nothing. A dead volume burns its token: the
/// next try has the next `generation`. Of another snapshot it is another volume.
pub(crate) fn client_token(
    instance_id: &str,
    domain: &str,
    directive: &VolumeDirective,
    snapshot: Option<&str>,
    generation: u32,
) -> String {
    let create = directive.create.as_ref().map(|m| Value::Object(m.clone()).to_string()).unwrap_or_default();
    let pool = directive.pool_name.as_deref().unwrap_or_default();
    let (index, generation) = (directive.index.to_string(), generation.to_string());
    let rate = directive.initialization_rate.map(|r| r.to_string()).unwrap_or_default();
    let mut parts = vec![instance_id, domain, pool, &index, &generation, &create];
    if let Some(snapshot) = snapshot {
        parts.extend([snapshot, &rate]);
    }
    format!("ec2fd-{}", digest(&parts))
}

/// 40 hexadecimal digits that stand for these texts.
pub(crate) fn digest(parts: &[&str]) -> String {
    let mut h = Sha256::new();
    for part in parts {
        h.update(part.len().to_le_bytes());
        h.update(part.as_bytes());
    }
    h.finalize().iter().take(20).map(|b| format!("{b:02x}")).collect()
}

/// The `Size` of `create`, if `base` needs more: the volume has grown since it was made. EC2 would refuse it.
pub(crate) fn too_small(directive: &VolumeDirective, base: &Base) -> Option<u64> {
    let size = directive.create.as_ref()?.get("Size")?.as_u64()?;
    (size < base.size).then_some(size)
}

/// Whether `create` asks for a volume that several instances can have at the same time.
pub(crate) fn is_multi_attach(directive: &VolumeDirective) -> bool {
    let asked = directive.create.as_ref().and_then(|c| c.get("MultiAttachEnabled"));
    asked.is_some_and(|v| v.as_bool().unwrap_or_else(|| v.as_str().is_some_and(|s| s.eq_ignore_ascii_case("true"))))
}

/// How many tags may be copied to a volume that is made with the tags of `create` and ours. A volume has 50 at most, and
/// what a commit or a move writes later is to fit, too.
pub(crate) fn room_for_tags(directive: &VolumeDirective) -> usize {
    MOST_TAGS.saturating_sub(OUR_TAGS + own_tags(directive).len())
}

/// The keys of the tags that `create` gives a volume, without those that are ours to set.
pub(crate) fn own_tags(directive: &VolumeDirective) -> BTreeSet<String> {
    let specs = directive.create.as_ref().and_then(|c| c.get("TagSpecifications")).and_then(Value::as_array);
    let of = |spec: &Value| spec.get("Tags").and_then(Value::as_array).cloned().unwrap_or_default();
    let keys = specs.into_iter().flatten().flat_map(of).filter_map(|t| t.get("Key")?.as_str().map(str::to_owned));
    keys.filter(|k| !k.starts_with("user:ec2fd.")).collect()
}

/// Whether `text` is a client token of ours: the transaction tag of what an instance creates.
pub(crate) fn is_token(text: &str) -> bool {
    text.strip_prefix("ec2fd-").is_some_and(|t| t.len() == 40)
}

/// The parameters of CreateVolume, in AWS's names, for a copy of `base` or for a blank volume.
pub(crate) fn request(
    directive: &VolumeDirective,
    domain: &str,
    facts: &Facts,
    base: Option<&Base>,
    token: &str,
) -> Map<String, Value> {
    let mut p: Map<String, Value> = directive.create.clone().unwrap_or_default();
    p.retain(|k, _| !OVERRIDDEN.contains(&k.as_str()));
    if let Some(base) = base {
        p.insert("SnapshotId".to_owned(), json!(base.snapshot));
        if too_small(directive, base).is_some() {
            p.insert("Size".to_owned(), json!(base.size));
        }
        if let Some(rate) = directive.initialization_rate {
            p.insert("VolumeInitializationRate".to_owned(), json!(rate));
        }
    }
    p.insert("AvailabilityZone".to_owned(), json!(facts.zone));
    p.insert("ClientToken".to_owned(), json!(token));
    // EC2's own default is still gp2.
    p.entry("VolumeType").or_insert(json!("gp3"));
    let ours = [
        (tags::DOMAIN, Some(domain)),
        (tags::POOL_NAME, directive.pool_name.as_deref()),
        (tags::OWNER, Some(facts.instance_id.as_str())),
        (tags::IN_TRANSIT, Some(token)),
        (tags::TRANSC_ID, Some(token)),
    ];
    let specs = p.entry("TagSpecifications").or_insert(json!([]));
    if !specs.is_array() {
        // Not a list: AWS will refuse it and say so.
        return p;
    }
    let is_volume = |s: &Value| s.get("ResourceType").and_then(Value::as_str) == Some("volume");
    if let Some(specs) = specs.as_array_mut() {
        if !specs.iter().any(is_volume) {
            specs.push(json!({ "ResourceType": "volume", "Tags": [] }));
        }
        if let Some(list) = specs
            .iter_mut()
            .find(|s| is_volume(s))
            .and_then(Value::as_object_mut)
            .and_then(|s| s.entry("Tags").or_insert(json!([])).as_array_mut())
        {
            for (key, value) in base.map_or(&[][..], |b| &b.tags) {
                if !list.iter().any(|t| t.get("Key").and_then(Value::as_str) == Some(key)) {
                    list.push(json!({ "Key": key, "Value": value }));
                }
            }
            // Ours win: a pool volume without them would be lost to the pool.
            list.retain(|t| !ours.iter().any(|(k, _)| t.get("Key").and_then(Value::as_str) == Some(*k)));
            list.extend(ours.iter().filter_map(|(k, v)| v.map(|v| json!({ "Key": k, "Value": v }))));
        }
    }
    p
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::volumes::tests::directive;

    fn facts() -> Facts {
        Facts { instance_id: "i-1".into(), zone: "eu-west-1a".into(), ..Facts::default() }
    }

    #[test]
    fn the_request_is_the_same_again_and_ours_win() {
        let mut d = directive("pc", Some("/dev/xvdf"));
        d.create = serde_json::from_str(
            r#"{"Size": 8, "AvailabilityZone": "us-east-1a", "ClientToken": "mine", "TagSpecifications": [
                {"ResourceType": "volume", "Tags": [{"Key": "Name", "Value": "n"}, {"Key": "user:ec2fd.domain", "Value": "evil"}]}]}"#,
        )
        .unwrap();
        let token = client_token("i-1", "d", &d, None, 0);
        assert_eq!(token, client_token("i-1", "d", &d, None, 0));
        assert_ne!(token, client_token("i-1", "d", &d, None, 1));
        assert_ne!(token, client_token("i-2", "d", &d, None, 0));
        assert!(token.len() <= 64 && is_token(&token) && !is_token("boot-7"));
        let p = request(&d, "d", &facts(), None, &token);
        assert_eq!(p["AvailabilityZone"], "eu-west-1a");
        assert_eq!(p["ClientToken"], token);
        assert_eq!(p["VolumeType"], "gp3");
        let tags = p["TagSpecifications"][0]["Tags"].as_array().unwrap();
        let of =
            |k: &str| tags.iter().filter(|t| t["Key"] == k).map(|t| t["Value"].as_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(of("Name"), ["n"]);
        assert_eq!(of(tags::DOMAIN), ["d"]);
        assert_eq!(of(tags::POOL_NAME), ["pool"]);
        assert_eq!(of(tags::OWNER), ["i-1"]);
        assert_eq!(of(tags::IN_TRANSIT), [token.as_str()]);
    }

    #[test]
    fn no_pool_name_no_pool_tag() {
        let mut d = directive("c", Some("/dev/xvdf"));
        d.pool_name = None;
        let p = request(&d, "d", &facts(), None, "t");
        assert!(!Value::Object(p).to_string().contains(tags::POOL_NAME));
    }

    #[test]
    fn a_copy_is_of_its_snapshot_and_not_smaller() {
        let mut d = directive("sc", Some("/dev/xvdf"));
        let of = |d: &VolumeDirective, size| {
            let base = Base { snapshot: "snap-1".into(), size, tags: Vec::new() };
            let p = request(d, "d", &facts(), Some(&base), "t");
            (p.get("SnapshotId").cloned(), p.get("Size").cloned(), p.get("VolumeInitializationRate").cloned())
        };
        assert_eq!(of(&d, 10), (Some(json!("snap-1")), None, None));
        d.create = serde_json::from_str(r#"{"Size": 8}"#).unwrap();
        d.initialization_rate = Some(200);
        assert_eq!(of(&d, 10), (Some(json!("snap-1")), Some(json!(10)), Some(json!(200))));
        assert_eq!(of(&d, 4).1, Some(json!(8)));
        // For the same directive without a snapshot nothing of that counts.
        let p = request(&d, "d", &facts(), None, "t");
        assert!(!p.contains_key("SnapshotId") && !p.contains_key("VolumeInitializationRate"));
        let token = |snapshot, rate| {
            client_token("i-1", "d", &VolumeDirective { initialization_rate: rate, ..d.clone() }, snapshot, 0)
        };
        assert_eq!(token(None, None), token(None, Some(200)));
        let all = [token(None, None), token(Some("snap-1"), None), token(Some("snap-2"), None)];
        let all: std::collections::BTreeSet<_> = all.into_iter().chain([token(Some("snap-1"), Some(200))]).collect();
        assert_eq!(all.len(), 4);
    }
}

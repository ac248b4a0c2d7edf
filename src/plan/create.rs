//! The CreateVolume request of a directive.
//!
//! Everything in it, the tags too, is a function of instance, domain, directive, generation and `create`, so that the
//! same instance derives the same request (and the same client token) again after a crash, and gets the same volume.
//! What differs from run to run is tagged later.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::tags;
use crate::config::VolumeDirective;
use crate::model::Facts;

/// Keys of `create` that are ours to set.
pub(crate) const OVERRIDDEN: [&str; 3] = ["AvailabilityZone", "AvailabilityZoneId", "ClientToken"];

/// The client token of a directive's volume. A dead volume burns its token: the next try has the next `generation`.
pub(crate) fn client_token(instance_id: &str, domain: &str, directive: &VolumeDirective, generation: u32) -> String {
    let mut h = Sha256::new();
    let create = directive.create.as_ref().map(|m| Value::Object(m.clone()).to_string()).unwrap_or_default();
    let pool = directive.pool_name.as_deref().unwrap_or_default();
    for part in [instance_id, domain, pool, &directive.index.to_string(), &generation.to_string(), &create] {
        h.update(part.len().to_le_bytes());
        h.update(part.as_bytes());
    }
    let hex: String = h.finalize().iter().take(20).map(|b| format!("{b:02x}")).collect();
    format!("ec2fd-{hex}")
}

/// Whether `text` is a client token of ours: the transaction tag of what an instance creates.
pub(crate) fn is_token(text: &str) -> bool {
    text.strip_prefix("ec2fd-").is_some_and(|t| t.len() == 40)
}

/// The parameters of CreateVolume, in AWS's names.
pub(crate) fn request(directive: &VolumeDirective, domain: &str, facts: &Facts, token: &str) -> Map<String, Value> {
    let mut p: Map<String, Value> = directive.create.clone().unwrap_or_default();
    p.retain(|k, _| !OVERRIDDEN.contains(&k.as_str()));
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
        let token = client_token("i-1", "d", &d, 0);
        assert_eq!(token, client_token("i-1", "d", &d, 0));
        assert_ne!(token, client_token("i-1", "d", &d, 1));
        assert_ne!(token, client_token("i-2", "d", &d, 0));
        assert!(token.len() <= 64 && is_token(&token) && !is_token("boot-7"));
        let p = request(&d, "d", &facts(), &token);
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
        let p = request(&d, "d", &facts(), "t");
        assert!(!Value::Object(p).to_string().contains(tags::POOL_NAME));
    }
}

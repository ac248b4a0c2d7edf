//! CreateTags and DeleteTags, with their traps.

use std::collections::{BTreeMap, BTreeSet};

use super::ec2::{Ask, check_id};
use super::errors::{Refusal, refuse};
use super::world::{ACCOUNT, World};

/// Checks keys and values of tags that are to be written.
pub(crate) fn check_tags(tags: &[(String, String)]) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    for (key, value) in tags {
        if key.is_empty() || key.chars().count() > 127 {
            let text = format!("Tag key '{key}' must have 1 to 127 characters");
            return Err(refuse("InvalidParameterValue", text));
        }
        if value.chars().count() > 256 {
            let text = "Tag value exceeds the maximum length of 256 characters";
            return Err(refuse("InvalidParameterValue", text));
        }
        if key.to_ascii_lowercase().starts_with("aws:") {
            let text = "Tag keys starting with 'aws:' are reserved for internal use";
            return Err(refuse("InvalidParameterValue", text));
        }
        if !seen.insert(key) {
            return Err(refuse("InvalidParameterValue", format!("Duplicate tag key '{key}' specified.")));
        }
    }
    Ok(())
}

impl World {
    /// The tags of a resource that the caller can see.
    fn tags_of(&mut self, id: &str, region: &str) -> Option<&mut BTreeMap<String, String>> {
        let now = self.now_ms();
        let zone_region = self.volumes.get(id).map(|v| self.region_of(&v.zone));
        if let Some(s) = self.snapshots.get_mut(id) {
            let ours = s.owner == ACCOUNT && s.region == region && s.visible_at_ms <= now;
            return ours.then_some(&mut s.tags);
        }
        let v = self.volumes.get_mut(id)?;
        (v.visible_at_ms <= now && zone_region.as_deref() == Some(region)).then_some(&mut v.tags)
    }

    fn resources_of(&self, ask: &Ask<'_>) -> Result<Vec<String>, Refusal> {
        let ids = ask.list("ResourceId");
        if ids.is_empty() {
            return Err(refuse("MissingParameter", "The request must contain the parameter resourceIdSet"));
        }
        if ids.len() > 1000 {
            return Err(refuse("InvalidParameterValue", "At most 1000 resources may be tagged at once"));
        }
        for id in &ids {
            match id.split('-').next() {
                Some(kind @ ("vol" | "snap")) => check_id(id, kind)?,
                _ => return Err(refuse("InvalidID", format!("The ID '{id}' is not valid"))),
            }
        }
        Ok(ids)
    }

    pub(crate) fn create_tags(&mut self, ask: &Ask<'_>) -> Result<String, Refusal> {
        let ids = self.resources_of(ask)?;
        let mut tags = Vec::new();
        for n in 1.. {
            let Some(key) = ask.get(&format!("Tag.{n}.Key")) else { break };
            tags.push((key.to_string(), ask.get(&format!("Tag.{n}.Value")).unwrap_or("").to_string()));
        }
        if tags.is_empty() {
            return Err(refuse("MissingParameter", "The request must contain the parameter tagSet"));
        }
        check_tags(&tags)?;
        // All or nothing: everything is checked before anything is written.
        for id in &ids {
            let Some(have) = self.tags_of(id, &ask.region) else {
                let (code, kind) = if id.starts_with("snap-") {
                    ("InvalidSnapshot.NotFound", "snapshot")
                } else {
                    ("InvalidVolume.NotFound", "volume")
                };
                return Err(refuse(code, format!("The {kind} '{id}' does not exist.")));
            };
            let more = tags.iter().filter(|(k, _)| !have.contains_key(k)).count();
            let own = have.keys().filter(|k| !k.starts_with("aws:")).count();
            if own + more > 50 {
                return Err(refuse("TagLimitExceeded", format!("The maximum number of Tags for '{id}' is 50")));
            }
        }
        self.remember();
        for id in &ids {
            if let Some(have) = self.tags_of(id, &ask.region) {
                have.extend(tags.iter().cloned());
            }
        }
        Ok("<return>true</return>".into())
    }

    pub(crate) fn delete_tags(&mut self, ask: &Ask<'_>) -> Result<String, Refusal> {
        let ids = self.resources_of(ask)?;
        let mut tags = Vec::new();
        for n in 1.. {
            let key = ask.get(&format!("Tag.{n}.Key")).map(String::from);
            let value = ask.get(&format!("Tag.{n}.Value")).map(String::from);
            match key {
                Some(k) => tags.push((k, value)),
                None if value.is_some() => {
                    return Err(refuse("MissingParameter", "The request must contain the parameter Key"));
                }
                None => break,
            }
        }
        for (key, _) in &tags {
            if key.to_ascii_lowercase().starts_with("aws:") {
                let text = "Tag keys starting with 'aws:' are reserved for internal use";
                return Err(refuse("InvalidParameterValue", text));
            }
        }
        for id in &ids {
            if self.tags_of(id, &ask.region).is_none() {
                return Err(refuse("InvalidID", format!("The ID '{id}' is not valid")));
            }
        }
        self.remember();
        for id in &ids {
            let Some(have) = self.tags_of(id, &ask.region) else { continue };
            if tags.is_empty() {
                // The trap: no list of tags means all that the user may delete.
                have.retain(|k, _| k.starts_with("aws:"));
            }
            for (key, value) in &tags {
                // Without a value any value goes; with one (also an empty one) only that.
                if value.as_ref().is_none_or(|v| have.get(key) == Some(v)) {
                    have.remove(key);
                }
            }
        }
        Ok("<return>true</return>".into())
    }
}

//! CreateVolume and DeleteVolume.

use std::collections::BTreeMap;

use super::ec2::{Ask, check_id, volume_xml};
use super::ec2_tags::check_tags;
use super::errors::{Refusal, refuse};
use super::snapshots::Snapshot;
use super::volumes::{Doom, Volume, default_key};
use super::world::World;

/// Sizes in GiB of each type.
fn sizes(kind: &str) -> Option<(u64, u64)> {
    Some(match kind {
        "gp2" => (1, 16384),
        "gp3" => (1, 65536),
        "io1" => (4, 16384),
        "io2" => (4, 65536),
        "st1" | "sc1" => (125, 16384),
        "standard" => (1, 1024),
        _ => return None,
    })
}

fn range(name: &str, value: u64, low: u64, high: u64) -> Result<u64, Refusal> {
    if (low..=high).contains(&value) {
        return Ok(value);
    }
    let text = if value < low {
        format!("Volume {name} of {value} is too low; minimum is {low}.")
    } else {
        format!("Volume {name} of {value} is too high; maximum is {high}.")
    };
    Err(refuse("InvalidParameterValue", text))
}

impl World {
    pub(crate) fn create_volume(&mut self, ask: &Ask<'_>) -> Result<String, Refusal> {
        let token = ask.get("ClientToken").unwrap_or("").to_string();
        if token.len() > 64 || !token.is_ascii() {
            return Err(refuse("InvalidParameterValue", "ClientToken must be at most 64 ASCII characters"));
        }
        let fingerprint = format!("{} {:?}", ask.region, ask.params);
        let key = format!("{} {token}", ask.region);
        if !token.is_empty()
            && let Some((before, id)) = self.tokens.get(&key)
        {
            if *before != fingerprint {
                let text = "The client token you have provided is associated with a resource whose parameters do not match those of this request";
                return Err(refuse("IdempotentParameterMismatch", text));
            }
            // Also a volume that is gone: the token is burned.
            let Some(mut v) = self.volume(id).cloned() else { return Err(refuse("InternalError", "lost")) };
            if self.knobs.replay_first_answer && self.graves.contains_key(&v.id) {
                v.state = "creating".into();
            }
            return Ok(self.created_xml(v));
        }
        let zone = self.wanted_zone(ask)?;
        let kind = ask.get("VolumeType").unwrap_or("gp2").to_string();
        let Some((low, high)) = sizes(&kind) else {
            return Err(refuse("UnknownVolumeType", format!("Unsupported volume type '{kind}' for volume creation.")));
        };
        let snapshot = ask.get("SnapshotId").map(String::from);
        let mut size = ask.number("Size")?;
        let mut copied_key = false;
        if let Some(s) = &snapshot {
            check_id(s, "snap")?;
            let now = self.now_ms();
            let usable = |s: &&Snapshot| s.region == ask.region && s.visible_at_ms <= now && s.is_usable();
            let Some(found) = self.snapshots.get(s).filter(usable) else {
                return Err(refuse("InvalidSnapshot.NotFound", format!("The snapshot '{s}' does not exist.")));
            };
            if found.state != "completed" {
                let text = format!("Snapshot is in invalid state - {}", found.state);
                return Err(refuse("IncorrectState", text));
            }
            if found.tier != "standard" {
                return Err(refuse("IncorrectState", format!("The snapshot '{s}' is archived")));
            }
            let least = found.size;
            if size.is_some_and(|n| n < least) {
                let text = format!("The size of the volume must be at least that of the snapshot, {least} GiB");
                return Err(refuse("InvalidParameterValue", text));
            }
            size = size.or(Some(least));
            copied_key = found.encrypted;
        }
        let Some(size) = size else {
            return Err(refuse("MissingParameter", "The request must contain the parameter size/snapshot"));
        };
        range("size", size, low, high)?;
        let iops = self.wanted_iops(ask, &kind, size)?;
        let throughput = match ask.number("Throughput")? {
            Some(n) if kind == "gp3" => {
                range("throughput", n, 125, 2000)?;
                if n * 4 > iops.unwrap_or(3000) {
                    let text = "Throughput (MiBps) to iops ratio is too high; maximum is 0.250000 MiBps per iops";
                    return Err(refuse("InvalidParameterValue", text));
                }
                Some(n)
            }
            Some(_) => {
                let text = format!("The parameter throughput is not supported for {kind} volumes.");
                return Err(refuse("InvalidParameterCombination", text));
            }
            None => (kind == "gp3").then_some(125),
        };
        // What is made of an encrypted snapshot is encrypted; and everything, where the account wants it so.
        let encrypted = ask.flag("Encrypted")? || copied_key || self.knobs.encrypt_by_default;
        let kms_key = ask.get("KmsKeyId").map(String::from);
        if kms_key.is_some() && !encrypted {
            let text = "The parameter KmsKeyId requires the parameter Encrypted to be set.";
            return Err(refuse("InvalidParameterDependency", text));
        }
        let multi_attach = ask.flag("MultiAttachEnabled")?;
        if multi_attach && !kind.starts_with("io") {
            let text = "The parameter MultiAttachEnabled is supported for io1 and io2 volumes only";
            return Err(refuse("InvalidParameterCombination", text));
        }
        if let Some(n) = ask.number("VolumeInitializationRate")? {
            range("initialization rate", n, 100, 300)?;
            if snapshot.is_none() {
                let text = "The parameter VolumeInitializationRate requires the parameter SnapshotId";
                return Err(refuse("InvalidParameterCombination", text));
            }
        }
        let tags = specified_tags(ask, "volume")?;
        if self.volumes.len() >= self.knobs.volume_limit {
            let text = "You have exceeded your maximum volume limit of the account";
            return Err(refuse("VolumeLimitExceeded", text));
        }
        // KMS keys are looked at after the answer: "bad" ends in `error`, "vanish" lets the volume disappear.
        let doom = kms_key.as_deref().and_then(|k| match k {
            k if k.contains("vanish") => Some(Doom::Vanish),
            k if k.contains("bad") => Some(Doom::Error),
            _ => None,
        });
        self.remember();
        let now = self.now_ms();
        let mut volume = Volume {
            id: self.make_id("vol"),
            zone,
            size,
            kind,
            iops,
            throughput,
            encrypted,
            kms_key: kms_key.or_else(|| encrypted.then(default_key)),
            multi_attach,
            snapshot,
            source: None,
            state: "creating".into(),
            created: self.wall(),
            tags,
            attachments: Vec::new(),
            operator: None,
            backing: None,
            due: Some(now + self.knobs.creating_ms),
            visible_at_ms: now + self.knobs.created_invisible_ms,
            doom,
            detached_at_ms: None,
            by_api: true,
        };
        if !token.is_empty() {
            self.tokens.insert(key, (fingerprint, volume.id.clone()));
        }
        self.restore_content(&mut volume);
        let answer = self.created_xml(volume.clone());
        self.volumes.insert(volume.id.clone(), volume);
        Ok(answer)
    }

    fn created_xml(&self, mut v: Volume) -> String {
        if self.knobs.created_untagged {
            v.tags.clear();
        }
        volume_xml(self, &v)
    }

    fn wanted_zone(&self, ask: &Ask<'_>) -> Result<String, Refusal> {
        let bad = |v: &str| refuse("InvalidZone.NotFound", format!("The zone '{v}' does not exist."));
        match (ask.get("AvailabilityZone"), ask.get("AvailabilityZoneId")) {
            (Some(z), None) if self.region_of(z) == ask.region => Ok(z.into()),
            (Some(z), None) => Err(bad(z)),
            (None, Some(id)) => {
                let zone = self.availability_zones.iter().find(|(_, (r, i))| i == id && *r == ask.region);
                zone.map(|(name, _)| name.clone()).ok_or_else(|| bad(id))
            }
            (None, None) => Err(refuse("MissingParameter", "The request must contain the parameter AvailabilityZone")),
            _ => {
                let text = "Only one of AvailabilityZone and AvailabilityZoneId may be given";
                Err(refuse("InvalidParameterCombination", text))
            }
        }
    }

    fn wanted_iops(&self, ask: &Ask<'_>, kind: &str, size: u64) -> Result<Option<u64>, Refusal> {
        match (kind, ask.number("Iops")?) {
            ("gp3", Some(n)) => {
                if n > 3000 && n > size * 500 {
                    let text = format!("Iops to volume size ratio is too high; maximum is 500 per GiB, size is {size}");
                    return Err(refuse("InvalidParameterValue", text));
                }
                range("iops", n, 3000, 80000).map(Some)
            }
            ("gp3", None) => Ok(Some(3000)),
            ("io1", Some(n)) => range("iops", n, 100, 64000).map(Some),
            ("io2", Some(n)) => range("iops", n, 100, 256000).map(Some),
            ("io1" | "io2", None) => {
                let text = format!("The parameter iops must be specified for {kind} volumes.");
                Err(refuse("MissingParameter", text))
            }
            (_, Some(_)) => {
                let text = format!("The parameter iops is not supported for {kind} volumes.");
                Err(refuse("InvalidParameterCombination", text))
            }
            ("gp2", None) => Ok(Some((size * 3).clamp(100, 16000))),
            _ => Ok(None),
        }
    }

    pub(crate) fn delete_volume(&mut self, ask: &Ask<'_>) -> Result<String, Refusal> {
        let id = ask.need("VolumeId")?;
        check_id(id, "vol")?;
        let now = self.now_ms();
        let hold = self.knobs.delete_in_use_ms;
        let volume = self.volumes.get(id).filter(|v| self.region_of(&v.zone) == ask.region);
        let Some(volume) = volume.filter(|v| v.visible_at_ms <= now) else {
            return Err(refuse("InvalidVolume.NotFound", format!("The volume '{id}' does not exist.")));
        };
        if let Some(a) = volume.attachments.first() {
            let text = format!("Volume {id} is currently attached to {}", a.instance);
            return Err(refuse("VolumeInUse", text));
        }
        if volume.detached_at_ms.is_some_and(|t| t + hold > now) {
            return Err(refuse("VolumeInUse", format!("Volume {id} is currently in use")));
        }
        match volume.state.as_str() {
            "available" | "error" => {}
            "deleting" => return Err(refuse("InvalidVolume.NotFound", format!("The volume '{id}' does not exist."))),
            _ => return Err(refuse("IncorrectState", format!("{id} is not 'available'."))),
        }
        self.remember();
        let due = now + self.knobs.deleting_ms;
        if let Some(v) = self.volumes.get_mut(id) {
            v.state = "deleting".into();
            v.due = Some(due);
        }
        self.advance();
        Ok("<return>true</return>".into())
    }
}

/// The tags of `TagSpecification`, which must be of this kind of resource.
pub(crate) fn specified_tags(ask: &Ask<'_>, of: &str) -> Result<BTreeMap<String, String>, Refusal> {
    let mut all = Vec::new();
    let mut seen = false;
    for n in 1.. {
        let base = format!("TagSpecification.{n}");
        if !ask.params.keys().any(|k| k.starts_with(&format!("{base}."))) {
            break;
        }
        let kind = ask.get(&format!("{base}.ResourceType")).unwrap_or("");
        if kind != of {
            let text = format!("'{kind}' is not a valid taggable resource type for this operation.");
            return Err(refuse("InvalidParameterValue", text));
        }
        if seen {
            let text = "Tag specification resource type must be unique";
            return Err(refuse("InvalidParameterValue", text));
        }
        seen = true;
        for t in 1.. {
            let Some(key) = ask.get(&format!("{base}.Tag.{t}.Key")) else { break };
            all.push((key.to_string(), ask.get(&format!("{base}.Tag.{t}.Value")).unwrap_or("").to_string()));
        }
    }
    check_tags(&all)?;
    if all.len() > 50 {
        return Err(refuse("TagLimitExceeded", "Tag limit exceeded: at most 50 tags"));
    }
    Ok(all.into_iter().collect())
}

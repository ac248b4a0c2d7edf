//! CreateSnapshot, DescribeSnapshots and DeleteSnapshot.

use super::ec2::{Ask, check_id, tag_set};
use super::ec2_create::specified_tags;
use super::ec2_describe::{bad_filter, filters, passes};
use super::errors::{Refusal, refuse, refuse_with};
use super::snapshots::Snapshot;
use super::text::{element, iso};
use super::world::{ACCOUNT, World};

const FILTERS: [&str; 13] = [
    "description",
    "encrypted",
    "owner-alias",
    "owner-id",
    "progress",
    "snapshot-id",
    "start-time",
    "status",
    "storage-tier",
    "tag-key",
    "transfer-type",
    "volume-id",
    "volume-size",
];

impl Snapshot {
    /// Tags are seen by who owns the snapshot.
    fn is_ours(&self) -> bool {
        self.owner == ACCOUNT
    }

    fn progress(&self, now: u64) -> String {
        let percent = match (self.state.as_str(), self.pending) {
            ("completed", _) => 100,
            (_, Some((begin, due))) => {
                ((now.saturating_sub(begin)) * 100 / due.saturating_sub(begin).max(1)).clamp(0, 99)
            }
            _ => 0,
        };
        format!("{percent}%")
    }

    fn values(&self, filter: &str, now: u64) -> Vec<String> {
        match filter {
            "description" => vec![self.description.clone()],
            "encrypted" => vec![self.encrypted.to_string()],
            "owner-id" => vec![self.owner.clone()],
            "progress" => vec![self.progress(now)],
            "snapshot-id" => vec![self.id.clone()],
            "start-time" => vec![iso(self.started)],
            "status" => vec![self.state.clone()],
            "storage-tier" => vec![self.tier.clone()],
            "transfer-type" => vec!["standard".into()],
            "volume-id" => vec![self.volume.clone()],
            "volume-size" => vec![self.size.to_string()],
            _ if !self.is_ours() => Vec::new(),
            "tag-key" => self.tags.keys().cloned().collect(),
            _ => filter.strip_prefix("tag:").and_then(|k| self.tags.get(k)).cloned().into_iter().collect(),
        }
    }

    fn xml(&self, now: u64) -> String {
        let tags = if self.is_ours() { tag_set(&self.tags) } else { String::new() };
        element("snapshotId", &self.id)
            + &element("volumeId", &self.volume)
            + &element("status", &self.state)
            + &element("startTime", iso(self.started))
            + &element("progress", self.progress(now))
            + &element("ownerId", &self.owner)
            + &element("volumeSize", self.size)
            + &element("description", &self.description)
            + &element("encrypted", self.encrypted)
            + &element("storageTier", &self.tier)
            + &tags
    }
}

fn missing(id: &str) -> Refusal {
    refuse("InvalidSnapshot.NotFound", format!("The snapshot '{id}' does not exist."))
}

impl World {
    pub(crate) fn create_snapshot(&mut self, ask: &Ask<'_>) -> Result<String, Refusal> {
        let id = ask.need("VolumeId")?.to_owned();
        check_id(&id, "vol")?;
        let description = ask.get("Description").unwrap_or("").to_owned();
        if description.chars().count() > 255 {
            return Err(refuse("InvalidParameterValue", "The description must have at most 255 characters"));
        }
        let tags = specified_tags(ask, "snapshot")?;
        let now = self.now_ms();
        let volume = self.volumes.get(&id).filter(|v| v.visible_at_ms <= now && self.region_of(&v.zone) == ask.region);
        let Some(volume) = volume.cloned() else {
            return Err(refuse("InvalidVolume.NotFound", format!("The volume '{id}' does not exist.")));
        };
        if !["available", "in-use"].contains(&volume.state.as_str()) {
            return Err(refuse("IncorrectState", format!("The volume '{id}' is '{}'", volume.state)));
        }
        // A request too early counts too: who knocks all the time never gets in.
        let last = self.snapshot_asked.insert(id.clone(), now);
        if last.is_some_and(|t| now < t + self.knobs.snapshot_gap_ms) {
            let text = format!("The maximum per volume CreateSnapshot request rate has been exceeded for '{id}'.");
            return Err(refuse("SnapshotCreationPerVolumeRateExceeded", text));
        }
        let pending = self.snapshots.values().filter(|s| s.volume == id && s.state == "pending").count();
        let most = if matches!(volume.kind.as_str(), "st1" | "sc1") { 1 } else { self.knobs.pending_snapshots };
        if pending >= most {
            let text = "Maximum allowed in-progress snapshots for a single volume exceeded.";
            return Err(refuse("ConcurrentSnapshotLimitExceeded", text));
        }
        let snapshot_id = self.make_id("snap");
        let snapshot = Snapshot {
            volume: id,
            region: ask.region.clone(),
            owner: ACCOUNT.into(),
            public: false,
            size: volume.size,
            state: "pending".into(),
            started: self.wall(),
            pending: Some((now, now + self.knobs.snapshot_ms)),
            visible_at_ms: now + self.knobs.snapshot_invisible_ms,
            description,
            tags,
            encrypted: volume.encrypted,
            tier: "standard".into(),
            images: Default::default(),
            data: self.keep_content(&volume, &snapshot_id),
            by_api: true,
            id: snapshot_id.clone(),
        };
        let answer = snapshot.xml(now);
        self.snapshots.insert(snapshot_id, snapshot);
        Ok(answer)
    }

    pub(crate) fn describe_snapshots(&mut self, ask: &Ask<'_>) -> Result<String, Refusal> {
        let (ids, owners) = (ask.list("SnapshotId"), ask.list("Owner"));
        for id in &ids {
            check_id(id, "snap")?;
        }
        let number = |o: &String| o.len() == 12 && o.bytes().all(|b| b.is_ascii_digit());
        if let Some(o) =
            owners.iter().find(|o| !["self", "amazon", "aws-marketplace"].contains(&o.as_str()) && !number(o))
        {
            return Err(refuse("InvalidUserID.Malformed", format!("Invalid user id: \"{o}\"")));
        }
        let filters = filters(ask)?;
        for (name, _) in &filters {
            if !FILTERS.contains(&name.as_str()) && !name.starts_with("tag:") {
                return Err(bad_filter(name));
            }
        }
        let now = self.now_ms();
        let here = |s: &Snapshot| s.region == ask.region && s.visible_at_ms <= now && (s.is_ours() || s.public);
        if let Some(id) = ids.iter().find(|id| !self.snapshots.get(*id).is_some_and(here)) {
            return Err(missing(id));
        }
        let owned =
            |s: &Snapshot| owners.is_empty() || owners.iter().any(|o| *o == s.owner || (o == "self" && s.is_ours()));
        let list: Vec<String> = self
            .snapshots
            .values()
            .filter(|s| here(s) && owned(s) && (ids.is_empty() || ids.contains(&s.id)))
            .filter(|s| passes(&filters, |name| s.values(name, now)))
            .map(|s| s.id.clone())
            .collect();
        let fingerprint = format!("snapshots {owners:?} {filters:?}");
        let (shown, next) = self.page(ask, "snapshotIds", !ids.is_empty(), fingerprint, list)?;
        let items: String = shown
            .iter()
            .filter_map(|id| self.snapshots.get(id))
            .map(|s| format!("<item>{}</item>", s.xml(now)))
            .collect();
        Ok(format!("<snapshotSet>{items}</snapshotSet>{next}"))
    }

    pub(crate) fn delete_snapshot(&mut self, ask: &Ask<'_>) -> Result<String, Refusal> {
        let id = ask.need("SnapshotId")?;
        check_id(id, "snap")?;
        let now = self.now_ms();
        let found = self.snapshots.get(id).filter(|s| s.region == ask.region && s.visible_at_ms <= now);
        let Some(s) = found.filter(|s| s.is_ours() || s.public) else { return Err(missing(id)) };
        if !s.is_ours() {
            let text = format!("You are not authorized to perform this operation on {id}.");
            return Err(refuse_with(403, "UnauthorizedOperation", text));
        }
        if let Some(image) = s.images.first() {
            let text = format!("The snapshot {id} is currently in use by {image}");
            return Err(refuse("InvalidSnapshot.InUse", text));
        }
        if let Some(data) = &s.data {
            let _ = std::fs::remove_file(data);
        }
        self.snapshots.remove(id);
        Ok("<return>true</return>".into())
    }
}

//! Volumes, and the states that they and their attachments go through by themselves as time passes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use time::OffsetDateTime;

use super::disks::{self, noise};
use super::world::World;

/// One attachment of a volume.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    pub(crate) instance: String,
    pub(crate) device: String,
    /// `attaching`, `attached`, `detaching`, `busy`.
    pub(crate) state: String,
    pub(crate) time: OffsetDateTime,
    /// When the state ends by itself.
    pub(crate) due: Option<u64>,
    /// When the disk shows in the guest.
    pub(crate) device_due: Option<u64>,
    /// The block device in the guest ("nvme1n1"), once it shows.
    pub(crate) node: Option<String>,
    pub(crate) delete_on_termination: bool,
    pub(crate) force: bool,
}

/// How a volume ends that EC2 accepted and then could not make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doom {
    Error,
    Vanish,
}

/// A volume.
#[derive(Debug, Clone)]
pub(crate) struct Volume {
    pub(crate) id: String,
    pub(crate) zone: String,
    pub(crate) size: u64,
    pub(crate) kind: String,
    pub(crate) iops: Option<u64>,
    pub(crate) throughput: Option<u64>,
    pub(crate) encrypted: bool,
    pub(crate) kms_key: Option<String>,
    pub(crate) multi_attach: bool,
    pub(crate) snapshot: Option<String>,
    /// What CopyVolumes made it from.
    pub(crate) source: Option<String>,
    /// `creating`, `available`, `in-use`, `deleting`, `error`.
    pub(crate) state: String,
    pub(crate) created: OffsetDateTime,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) attachments: Vec<Attachment>,
    /// The principal of a managed volume.
    pub(crate) operator: Option<String>,
    /// What stands for the disk, in place of a file of ours (`/dev/loop0`).
    pub(crate) backing: Option<PathBuf>,
    pub(crate) due: Option<u64>,
    pub(crate) visible_at_ms: u64,
    pub(crate) doom: Option<Doom>,
    pub(crate) detached_at_ms: Option<u64>,
    /// Made by CreateVolume, not by the test.
    pub(crate) by_api: bool,
}

/// What a test says of a volume.
#[derive(Debug, Clone)]
pub(crate) struct VolumeSpec {
    pub(crate) id: Option<String>,
    pub(crate) zone: String,
    pub(crate) size: u64,
    pub(crate) kind: String,
    pub(crate) tags: Vec<(String, String)>,
    /// Instance and device it is attached to from the start (the disk shows at once).
    pub(crate) attached: Option<(String, String)>,
    pub(crate) delete_on_termination: bool,
    pub(crate) multi_attach: bool,
    pub(crate) operator: Option<String>,
    /// Where nothing was written, it reads as noise; a disk of the test's that is all zero becomes that.
    pub(crate) encrypted: bool,
    pub(crate) backing: Option<PathBuf>,
    /// `available` if not said and not attached.
    pub(crate) state: Option<String>,
}

impl Default for VolumeSpec {
    fn default() -> VolumeSpec {
        VolumeSpec {
            id: None,
            zone: "eu-west-1a".into(),
            size: 10,
            kind: "gp3".into(),
            tags: Vec::new(),
            attached: None,
            delete_on_termination: false,
            multi_attach: false,
            operator: None,
            encrypted: false,
            backing: None,
            state: None,
        }
    }
}

impl VolumeSpec {
    /// A volume of a pool, with the tags that the product looks for.
    pub(crate) fn pool(domain: &str, pool: &str) -> VolumeSpec {
        VolumeSpec::default().tag("user:ec2fd.domain", domain).tag("user:ec2fd.pool-name", pool)
    }
    pub(crate) fn tag(mut self, key: &str, value: &str) -> VolumeSpec {
        self.tags.push((key.into(), value.into()));
        self
    }
    pub(crate) fn id(mut self, id: &str) -> VolumeSpec {
        self.id = Some(id.into());
        self
    }
    pub(crate) fn zone(mut self, zone: &str) -> VolumeSpec {
        self.zone = zone.into();
        self
    }
    pub(crate) fn attached(mut self, instance: &str, device: &str) -> VolumeSpec {
        self.attached = Some((instance.into(), device.into()));
        self
    }
}

/// The key of what is encrypted with none of the account's own.
pub(crate) fn default_key() -> String {
    "arn:aws:kms:eu-west-1:123456789012:key/0e0b5a0f-aws-ebs".into()
}

/// Where a listing goes on.
#[derive(Debug, Clone)]
pub(crate) struct PageToken {
    pub(crate) fingerprint: String,
    pub(crate) ids: Vec<String>,
    /// The page that this token leads to is empty.
    pub(crate) empty: bool,
}

impl World {
    /// Adds a volume; gives its id.
    pub(crate) fn add_volume(&mut self, spec: VolumeSpec) -> String {
        let id = spec.id.clone().unwrap_or_else(|| self.make_id("vol"));
        let created = self.wall();
        let mut volume = Volume {
            id: id.clone(),
            zone: spec.zone,
            size: spec.size,
            iops: matches!(spec.kind.as_str(), "gp3" | "io1" | "io2").then_some(3000),
            throughput: (spec.kind == "gp3").then_some(125),
            kind: spec.kind,
            encrypted: spec.encrypted,
            kms_key: spec.encrypted.then(default_key),
            multi_attach: spec.multi_attach,
            snapshot: None,
            source: None,
            state: spec.state.unwrap_or_else(|| "available".into()),
            created,
            tags: spec.tags.into_iter().collect(),
            attachments: Vec::new(),
            operator: spec.operator,
            backing: spec.backing,
            due: None,
            visible_at_ms: 0,
            doom: None,
            detached_at_ms: None,
            by_api: false,
        };
        if let (true, Some(disk)) = (volume.encrypted, &volume.backing) {
            let _ = noise::cover(disk, &id);
        }
        let now = self.now_ms();
        if let Some((instance, device)) = spec.attached {
            volume.state = "in-use".into();
            volume.attachments.push(Attachment {
                instance,
                device,
                state: "attached".into(),
                time: created,
                due: None,
                device_due: Some(now),
                node: None,
                delete_on_termination: spec.delete_on_termination,
                force: false,
            });
        }
        self.volumes.insert(id.clone(), volume);
        self.advance();
        id
    }

    /// A volume, to look at; also one that is gone.
    pub(crate) fn volume(&self, id: &str) -> Option<&Volume> {
        self.volumes.get(id).or_else(|| self.graves.get(id))
    }

    /// The volumes attached to an instance in any state, by device: `(device, volume, state)`. Without the root.
    pub(crate) fn attached_to(&self, instance: &str) -> Vec<(String, String, String)> {
        let root = self.instances.get(instance).map(|i| i.root_device.clone()).unwrap_or_default();
        let mut list: Vec<_> = self
            .volumes
            .values()
            .flat_map(|v| v.attachments.iter().map(move |a| (v, a)))
            .filter(|(_, a)| a.instance == instance && a.device != root)
            .map(|(v, a)| (a.device.clone(), v.id.clone(), a.state.clone()))
            .collect();
        list.sort();
        list
    }

    /// Something in the guest holds this volume: a detach stays `busy` until [`World::release`].
    pub(crate) fn hold(&mut self, volume: &str) {
        self.held.insert(volume.into());
    }

    /// Lets go of it.
    pub(crate) fn release(&mut self, volume: &str) {
        self.held.remove(volume);
        let due = self.now_ms() + self.knobs.detaching_ms;
        if let Some(v) = self.volumes.get_mut(volume) {
            for a in v.attachments.iter_mut().filter(|a| a.state == "busy") {
                a.state = "detaching".into();
                a.due = Some(due);
            }
        }
    }

    /// Carries out all that is due. Called by a ticking thread and before each API call.
    pub(crate) fn advance(&mut self) {
        let now = self.now_ms();
        self.advance_addresses(now);
        for i in self.instances.values_mut() {
            if i.running_at_ms.is_some_and(|t| t <= now) {
                i.running_at_ms = None;
                i.state = "running".into();
            }
            if i.known_at_ms.is_some_and(|t| t <= now) {
                i.known_at_ms = None;
                i.unknown = false;
            }
            i.cooling.retain(|(_, until)| *until > now);
        }
        self.advance_snapshots(now);
        self.carry_out_late(now);
        let due: Vec<String> = self
            .volumes
            .values()
            .filter(|v| {
                let late = |t: Option<u64>| t.is_some_and(|t| t <= now);
                late(v.due) || v.attachments.iter().any(|a| late(a.due) || late(a.device_due))
            })
            .map(|v| v.id.clone())
            .collect();
        for id in due {
            self.advance_volume(&id, now);
        }
    }

    /// The volume is gone. What is remembered is what it was before it was deleted.
    fn bury(&mut self, id: &str) {
        self.remember();
        if let Some(mut v) = self.volumes.remove(id) {
            if v.state == "deleting" {
                v.state = "available".into();
            }
            self.graves.insert(id.into(), v);
        }
    }

    /// Somebody deletes a volume or a snapshot, at once.
    pub(crate) fn somebody_deletes(&mut self, id: &str) {
        self.snapshots.remove(id);
        self.bury(id);
    }

    fn advance_volume(&mut self, id: &str, now: u64) {
        let Some(before) = self.volumes.get(id).cloned() else { return };
        let mut v = before.clone();
        if v.due.is_some_and(|t| t <= now) {
            v.due = None;
            match (v.state.as_str(), v.doom) {
                ("creating", Some(Doom::Error)) => v.state = "error".into(),
                ("creating", Some(Doom::Vanish)) | ("deleting", _) => {
                    self.bury(id);
                    return;
                }
                ("creating", None) => v.state = "available".into(),
                _ => {}
            }
        }
        let mut kept = Vec::new();
        let mut delete = false;
        for mut a in std::mem::take(&mut v.attachments) {
            if a.device_due.is_some_and(|t| t <= now) {
                a.device_due = None;
                if self.guest_disk(&a) {
                    self.order(true, &v, &a);
                } else {
                    a.node = disks::plug(self, &v, &a);
                    self.moment(id, &a.instance, "disk");
                }
            }
            if a.due.is_some_and(|t| t <= now) && self.guest_lags(&v, &a) {
                a.due = Some(now + 5);
            }
            if a.due.is_some_and(|t| t <= now) {
                a.due = None;
                if a.state == "attaching" {
                    a.state = "attached".into();
                    self.moment(id, &a.instance, "attached");
                } else if !a.force && (self.held.contains(id) || disks::mounted(&v)) {
                    a.state = "busy".into();
                    a.due = (!self.held.contains(id)).then_some(now + 50);
                } else {
                    disks::unplug(self, &a);
                    self.moment(id, &a.instance, "detached");
                    let cool = now + self.knobs.cooldown_ms;
                    if let Some(i) = self.instances.get_mut(&a.instance) {
                        i.cooling.push((a.device.clone(), cool));
                        delete |= i.state == "terminated" && a.delete_on_termination;
                    }
                    v.detached_at_ms = Some(now);
                    continue;
                }
            }
            kept.push(a);
        }
        v.attachments = kept;
        if v.state == "in-use" && v.attachments.is_empty() {
            v.state = "available".into();
            if delete {
                v.state = "deleting".into();
                v.due = Some(now + self.knobs.deleting_ms);
            }
        }
        self.remember();
        self.volumes.insert(id.into(), v);
    }
}

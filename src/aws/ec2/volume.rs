//! A volume, as far as this program looks at one. Small: a pool may have thousands.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Volume.html>

use roxmltree::Node;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::aws::xml;

/// `status` of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VolumeState {
    Creating,
    Available,
    InUse,
    Deleting,
    Deleted,
    Error,
    /// One that is newer than this program.
    Other,
}

/// `status` of an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttachmentState {
    Attaching,
    Attached,
    Detaching,
    Detached,
    Busy,
    /// One that is newer than this program.
    Other,
}

impl VolumeState {
    /// Whether the volume is going or gone.
    pub(crate) fn is_ending(self) -> bool {
        matches!(self, VolumeState::Deleting | VolumeState::Deleted)
    }

    /// As EC2 writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            VolumeState::Creating => "creating",
            VolumeState::Available => "available",
            VolumeState::InUse => "in-use",
            VolumeState::Deleting => "deleting",
            VolumeState::Deleted => "deleted",
            VolumeState::Error => "error",
            VolumeState::Other => "unknown",
        }
    }
}

impl AttachmentState {
    /// Whether it is on its way out.
    pub(crate) fn is_ending(self) -> bool {
        matches!(self, AttachmentState::Detaching | AttachmentState::Detached)
    }
}

/// An attachment of a volume to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attachment {
    /// Empty if it is not an instance's.
    pub(crate) instance_id: String,
    /// The requested name, `/dev/xvdf`.
    pub(crate) device: String,
    pub(crate) state: AttachmentState,
    pub(crate) delete_on_termination: bool,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    /// `vol-…`.
    pub(crate) id: String,
    pub(crate) state: VolumeState,
    /// Such as `eu-west-1a`.
    pub(crate) zone: String,
    /// GiB.
    pub(crate) size: u64,
    /// `multiAttachEnabled`.
    pub(crate) multi_attach: bool,
    /// Another service manages it: attach and detach of ours would be refused.
    pub(crate) operator_managed: bool,
    pub(crate) create_time: Option<OffsetDateTime>,
    pub(crate) snapshot_id: Option<String>,
    /// The volume that CopyVolumes made it from.
    pub(crate) source_volume_id: Option<String>,
    /// Where nothing was written, it reads as noise.
    pub(crate) encrypted: bool,
    pub(crate) attachments: Vec<Attachment>,
    pub(crate) tags: Vec<(String, String)>,
}

impl Volume {
    /// The value of a tag.
    pub(crate) fn tag(&self, key: &str) -> Option<&str> {
        self.tags.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The snapshot or the volume that it is a copy of.
    pub(crate) fn copy_of(&self) -> Option<&str> {
        self.snapshot_id.as_deref().or(self.source_volume_id.as_deref())
    }
}

/// Whether a tag is one of this program's. Of the others a listing keeps nothing.
pub(super) fn is_ours(key: &str) -> bool {
    key.starts_with("user:ec2fd.")
}

/// Reads the volume in an element, with the tags whose keys `keep` names; `None` if it has no id.
pub(super) fn read(node: Node<'_, '_>, keep: fn(&str) -> bool) -> Option<Volume> {
    let own = |name: &str| xml::text(node, name).map(str::to_owned);
    let is = |node: Node<'_, '_>, name: &str| xml::text(node, name) == Some("true");
    let mut managed = xml::child(node, "operator").is_some_and(|o| is(o, "managed"));
    let mut attachments = Vec::new();
    for item in xml::items(node, "attachmentSet") {
        managed |= ["associatedResource", "instanceOwningService"].iter().any(|n| xml::text(item, n).is_some());
        attachments.push(Attachment {
            instance_id: xml::text(item, "instanceId").unwrap_or_default().to_owned(),
            device: xml::text(item, "device").unwrap_or_default().to_owned(),
            state: attachment_state(xml::text(item, "status").unwrap_or_default()),
            delete_on_termination: is(item, "deleteOnTermination"),
        });
    }
    Some(Volume {
        id: own("volumeId")?,
        state: volume_state(xml::text(node, "status").unwrap_or_default()),
        zone: own("availabilityZone").unwrap_or_default(),
        size: xml::text(node, "size").and_then(|s| s.parse().ok()).unwrap_or(0),
        multi_attach: is(node, "multiAttachEnabled"),
        operator_managed: managed,
        create_time: xml::text(node, "createTime").and_then(|t| OffsetDateTime::parse(t, &Rfc3339).ok()),
        snapshot_id: own("snapshotId"),
        source_volume_id: own("sourceVolumeId"),
        encrypted: is(node, "encrypted"),
        attachments,
        tags: tags(node, keep),
    })
}

/// Reads those tags in an element whose keys `keep` names.
pub(super) fn tags(node: Node<'_, '_>, keep: fn(&str) -> bool) -> Vec<(String, String)> {
    let read = |t| {
        let key = Some(xml::whole_text(xml::child(t, "key")?)).filter(|key| keep(key))?;
        Some((key, xml::child(t, "value").map(xml::whole_text).unwrap_or_default()))
    };
    xml::items(node, "tagSet").filter_map(read).collect()
}

fn volume_state(text: &str) -> VolumeState {
    match text {
        "creating" => VolumeState::Creating,
        "available" => VolumeState::Available,
        "in-use" => VolumeState::InUse,
        "deleting" => VolumeState::Deleting,
        "deleted" => VolumeState::Deleted,
        "error" => VolumeState::Error,
        _ => VolumeState::Other,
    }
}

fn attachment_state(text: &str) -> AttachmentState {
    match text {
        "attaching" => AttachmentState::Attaching,
        "attached" => AttachmentState::Attached,
        "detaching" => AttachmentState::Detaching,
        "detached" => AttachmentState::Detached,
        "busy" => AttachmentState::Busy,
        _ => AttachmentState::Other,
    }
}

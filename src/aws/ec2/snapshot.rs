//! A snapshot, as far as this program looks at one.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Snapshot.html>

use roxmltree::Node;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::volume::{is_ours, tags};
use crate::aws::xml;

/// `status` of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SnapshotState {
    Pending,
    Completed,
    Error,
    /// In the recycle bin or on its way out of it, or newer than this program: nothing can be made of it.
    Other,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// `snap-…`.
    pub(crate) id: String,
    /// The volume it is of; it may be gone.
    pub(crate) volume_id: String,
    pub(crate) state: SnapshotState,
    /// Percent.
    pub(crate) progress: u8,
    pub(crate) start_time: Option<OffsetDateTime>,
    /// Of the volume, in GiB.
    pub(crate) size: u64,
    /// In the archive tier: hours away.
    pub(crate) archived: bool,
    /// Those that are ours.
    pub(crate) tags: Vec<(String, String)>,
}

impl Snapshot {
    /// The value of a tag.
    pub(crate) fn tag(&self, key: &str) -> Option<&str> {
        self.tags.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

/// Reads the snapshot in an element; `None` if it has no id.
pub(super) fn read(node: Node<'_, '_>) -> Option<Snapshot> {
    let own = |name: &str| xml::text(node, name);
    Some(Snapshot {
        id: own("snapshotId")?.to_owned(),
        volume_id: own("volumeId").unwrap_or_default().to_owned(),
        state: match own("status") {
            Some("pending") => SnapshotState::Pending,
            Some("completed") => SnapshotState::Completed,
            Some("error") => SnapshotState::Error,
            _ => SnapshotState::Other,
        },
        progress: own("progress").and_then(|p| p.trim_end_matches('%').parse().ok()).unwrap_or(0),
        start_time: own("startTime").and_then(|t| OffsetDateTime::parse(t, &Rfc3339).ok()),
        size: own("volumeSize").and_then(|s| s.parse().ok()).unwrap_or(0),
        archived: own("storageTier") == Some("archive"),
        tags: tags(node, is_ours),
    })
}

//! Holds: AWS resources that a directive changed and that can be committed or rolled back; and the ledger of them.
//!
//! A hold is in one of four lists. A run that is killed leaves all of them in its journal, and what was `held` or `left`
//! is `inherited` by the next run:
//!
//! ```text
//! (intent) ──> held ──> committed ──> (tags tidied)
//!   inherited ──┘└─> (rolled back) | left
//! ```
//!
//! Every change of the ledger is on the journal's disk before the call that it announces is made.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::journal::Journal;
use super::{DomainRun, lock};
use crate::aws::route53::RecordSet;
use crate::clock::Tick;
use crate::plan::devices::same_device;

/// Which directive a hold belongs to: its path in the config.
pub(crate) type Key = String;

/// One of the resources of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Hold {
    /// A volume that was claimed, created or both.
    Volume(VolumeHold),
    /// Record sets that were written.
    Record(RecordHold),
    /// A volume of another zone that is moved here.
    Move(MoveHold),
    /// An elastic address that was associated.
    Address(AddressHold),
}

impl Hold {
    /// The directive it belongs to.
    pub(crate) fn key(&self) -> &str {
        match self {
            Hold::Volume(v) => &v.key,
            Hold::Record(r) => &r.key,
            Hold::Move(m) => &m.key,
            Hold::Address(a) => &a.key,
        }
    }
}

/// Where a held volume came from: what roll-back makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Origin {
    /// It was there: it is detached.
    Claimed,
    /// This run made it: it is detached and deleted.
    Created,
    /// An earlier run of this instance made it and did not finish: it is left in transit, as it was found.
    Adopted,
}

/// How much is known of a call's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Done {
    /// The call was not made.
    No,
    /// It was made and its answer is not known: look before undoing.
    Maybe,
    /// It worked.
    Yes,
}

/// A volume in a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeHold {
    /// The directive.
    pub(crate) key: Key,
    /// Unknown only while its CreateVolume is unanswered.
    pub(crate) volume_id: Option<String>,
    /// The client token (and in-transit tag) of a volume that this instance made.
    pub(crate) token: Option<String>,
    /// The snapshot that this instance made it from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot: Option<String>,
    /// Its transaction tag, where that is an earlier run's.
    pub(crate) transc_id: Option<String>,
    /// Where it came from.
    pub(crate) origin: Origin,
    /// A new volume was seen by DescribeVolumes: if it is not found later, it is gone.
    pub(crate) seen: bool,
    /// Whether it is attached.
    pub(crate) attached: Done,
    /// When an AttachVolume had no plain answer last, in seconds since 1970: it may still be carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sent: Option<i64>,
    /// The requested device name.
    pub(crate) device: String,
    /// The node, once it was seen.
    pub(crate) disk: Option<std::path::PathBuf>,
    /// The tags that were written over a claimed volume's, as they were before (key, ours, before).
    pub(crate) tags_before: Vec<(String, String, Option<String>)>,
    /// `user:ec2fd.in-transit` was taken off.
    pub(crate) transit_removed: bool,
    /// It may say `user:ec2fd.ts-created`: to others it is committed then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) marked: bool,
    /// DeleteVolume was sent, and may be carried out late: nobody goes on with it. With the time of use that its roll-back
    /// wrote, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) deleting: Option<Option<String>>,
    /// `mkfs` was begun on it, on a disk that was proven blank, and has not ended well.
    #[serde(default)]
    pub(crate) formatting: bool,
    /// When it was claimed nothing told of any use of it: if it reads as noise, that is what EC2 shows of an encrypted
    /// volume that nobody wrote to. With what this machine had [written](crate::sys::written) to the disk by then; empty
    /// before the disk was seen. `None` from when it is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unused: Option<String>,
    /// A run of this transaction that was killed had it before: what is mounted from it was mounted since its claim.
    #[serde(skip)]
    pub(crate) inherited: bool,
}

impl VolumeHold {
    /// Whether an attachment as `device` can be the one of this hold: under another name it is somebody else's.
    pub(super) fn is_at(&self, device: &str) -> bool {
        self.device.is_empty() || same_device(&self.device, device)
    }
}

/// A volume of another zone that is moved here. Its copy is a hold of its own, for the same directive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MoveHold {
    /// The directive.
    pub(crate) key: Key,
    /// The volume that is copied. It is marked, and its mark has the token.
    pub(crate) volume_id: String,
    /// The line it is of, and its generation.
    pub(crate) lineage: String,
    pub(crate) generation: u64,
    /// The tag of the snapshot.
    pub(crate) token: String,
    /// When the volume was used last, as its tag said.
    pub(crate) used: Option<String>,
    /// Whether the snapshot was made.
    pub(crate) snapshot: Done,
}

/// Record sets in a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordHold {
    /// The directive.
    pub(crate) key: Key,
    /// The hosted zone's id.
    pub(crate) zone: String,
    /// The record's name, normalised.
    pub(crate) name: String,
    /// What we wrote.
    pub(crate) ours: Vec<RecordSet>,
    /// What those sets were before.
    pub(crate) before: Vec<RecordSet>,
    /// What was there before an earlier run wrote over it: it may be right no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) earlier: Vec<RecordSet>,
    /// The record was committed, and its value is being changed as the instance's address has: nothing of it is undone.
    #[serde(default)]
    pub(crate) follows: bool,
    /// Whether it was written.
    pub(crate) written: Done,
    /// When what was there before was there for sure; unknown after a panic, in whose moment it is rolled back.
    #[serde(skip)]
    pub(crate) at: Option<Tick>,
}

/// What was there before a write is thought to be as it was for so long.
const STILL_RIGHT: Duration = Duration::from_secs(10);

impl RecordHold {
    /// The same as seen from `now`: who had the name when it was written may be gone since, as after an earlier run.
    pub(super) fn seen_at(&self, now: Tick) -> RecordHold {
        let mut r = self.clone();
        if r.at.is_some_and(|at| now.since(at) >= STILL_RIGHT) {
            r.earlier.append(&mut r.before);
        }
        r
    }

    /// All that was there before.
    pub(crate) fn all_before(&self) -> Vec<RecordSet> {
        self.before.iter().chain(&self.earlier).cloned().collect()
    }
}

/// An elastic address in a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AddressHold {
    /// The directive.
    pub(crate) key: Key,
    /// `eipalloc-…`.
    pub(crate) allocation_id: String,
    /// The address itself.
    pub(crate) public_ip: String,
    /// The network interface.
    pub(crate) interface: String,
    /// The private address that it stands for there.
    pub(crate) private_ip: String,
    /// `eipassoc-…`, once it is known.
    pub(crate) association_id: Option<String>,
    /// Whether it is associated.
    pub(crate) associated: Done,
}

/// A volume whose transaction is over: its tags are brought up to date after `started`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Committed {
    /// `vol-…`.
    pub(crate) volume_id: String,
    /// This instance made it.
    pub(crate) created: bool,
    /// Its times were written at the commit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) marked: bool,
    /// What its `user:ec2fd.transc-id` is.
    pub(crate) transc_id: String,
    /// What it is the copy of, until that is superseded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) moved: Option<MoveHold>,
    /// What its `user:ec2fd.member` is to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) member: Option<String>,
}

/// All holds of a domain, in memory and on disk.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// What the transaction holds.
    pub(super) held: Vec<Hold>,
    /// What a run that was cut off held, and no directive of this run has taken up yet.
    pub(super) inherited: Vec<Hold>,
    /// What could not be rolled back.
    pub(super) left: Vec<Hold>,
    /// Holds of a kind that this version does not know: they are left alone, and in the journal.
    pub(super) unknown: Vec<serde_json::Value>,
    /// What stands, with tags that are to be brought up to date.
    pub(super) committed: Vec<Committed>,
    /// The same of a run that was cut off.
    pub(super) to_tidy: Vec<Committed>,
    /// Volumes whose consent to be formatted was taken off, and that are not formatted yet.
    pub(super) consents: Vec<String>,
    pub(super) journal: Journal,
}

impl DomainRun {
    /// Reads or changes the ledger; what changed is in the journal when this returns.
    pub(super) fn ledger<T>(&self, f: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut ledger = lock(&self.ledger);
        let result = f(&mut ledger);
        ledger.write(&self.shared.transaction_id);
        result
    }

    /// Adds a hold: before the call that makes it.
    pub(crate) fn push(&self, hold: Hold) {
        self.ledger(|l| l.held.push(hold));
    }

    /// Changes the volume hold of a directive.
    pub(crate) fn with_volume(&self, key: &str, f: impl FnOnce(&mut VolumeHold)) {
        self.ledger(|l| {
            if let Some(v) = l.held.iter_mut().find_map(|h| match h {
                Hold::Volume(v) if v.key == key => Some(v),
                _ => None,
            }) {
                f(v);
            }
        });
    }

    /// Changes the record hold of a directive.
    pub(crate) fn with_record(&self, key: &str, f: impl FnOnce(&mut RecordHold)) {
        self.ledger(|l| {
            if let Some(r) = l.held.iter_mut().find_map(|h| match h {
                Hold::Record(r) if r.key == key => Some(r),
                _ => None,
            }) {
                f(r);
            }
        });
    }

    /// Takes back the hold of a directive that turned out to hold nothing. A move goes on.
    pub(crate) fn drop_hold(&self, key: &str) {
        self.ledger(|l| l.held.retain(|h| h.key() != key || matches!(h, Hold::Move(_))));
    }

    /// The holds of one directive, or all, in the order in which they are rolled back: last in, first out. Volumes
    /// are claimed beside each other; what counts is the order of the directives, in which their commands ran: what the
    /// last one mounted may stand on what the first one did.
    pub(crate) fn to_roll_back(&self, key: Option<&str>) -> Vec<Hold> {
        let volumes = &self.config.volumes;
        let mut holds: Vec<Hold> =
            lock(&self.ledger).held.iter().filter(|h| key.is_none_or(|k| h.key() == k)).cloned().collect();
        holds.sort_by_key(|h| match h {
            // A copy goes before what it is a copy of.
            Hold::Volume(v) => (true, volumes.iter().position(|d| d.path == v.key).map(|i| (i, 1))),
            Hold::Move(m) => (true, volumes.iter().position(|d| d.path == m.key).map(|i| (i, 0))),
            Hold::Record(_) => (true, Some((volumes.len(), 0))),
            // Without it there may be no way to EC2 any more.
            Hold::Address(_) => (false, None),
        });
        holds.reverse();
        holds
    }
}

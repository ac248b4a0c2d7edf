//! Snapshots: what they hold, and the time that they take.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use time::{Duration, OffsetDateTime};

use super::disks::{self, noise};
use super::volumes::Volume;
use super::world::{ACCOUNT, World};

/// A snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) id: String,
    /// The volume it is of; it may be gone.
    pub(crate) volume: String,
    pub(crate) region: String,
    pub(crate) owner: String,
    /// Everybody may see it and make volumes from it. Its tags are its owner's alone.
    pub(crate) public: bool,
    /// Of the volume, in GiB.
    pub(crate) size: u64,
    /// `pending`, `completed`, `error`, `recoverable`, `recovering`.
    pub(crate) state: String,
    pub(crate) started: OffsetDateTime,
    /// When it began and when it will be `completed`, while it is `pending`.
    pub(crate) pending: Option<(u64, u64)>,
    pub(crate) visible_at_ms: u64,
    pub(crate) description: String,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) encrypted: bool,
    /// `standard` or `archive`.
    pub(crate) tier: String,
    /// The images that are made of it: while there are any, it cannot be deleted.
    pub(crate) images: BTreeSet<String>,
    /// What the volume had on it at the time.
    pub(crate) data: Option<PathBuf>,
    /// Made by CreateSnapshot, not by the test.
    pub(crate) by_api: bool,
}

/// What a test says of a snapshot. It is completed, of a volume that nobody knows, and made this very second, if nothing
/// else is said.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotSpec {
    pub(crate) id: Option<String>,
    pub(crate) volume: String,
    pub(crate) size: u64,
    pub(crate) state: String,
    pub(crate) owner: String,
    pub(crate) public: bool,
    pub(crate) region: String,
    pub(crate) tier: String,
    /// It was begun so many seconds ago.
    pub(crate) age_s: i64,
    pub(crate) tags: Vec<(String, String)>,
    pub(crate) images: Vec<String>,
    pub(crate) encrypted: bool,
    /// A file whose content it has.
    pub(crate) data: Option<PathBuf>,
}

impl Default for SnapshotSpec {
    fn default() -> SnapshotSpec {
        SnapshotSpec {
            id: None,
            volume: "vol-0ffffffffffffffff".into(),
            size: 10,
            state: "completed".into(),
            owner: ACCOUNT.into(),
            public: false,
            region: "eu-west-1".into(),
            tier: "standard".into(),
            age_s: 0,
            tags: Vec::new(),
            images: Vec::new(),
            encrypted: false,
            data: None,
        }
    }
}

impl SnapshotSpec {
    /// A snapshot of a volume of so many GiB.
    pub(crate) fn new(size: u64) -> SnapshotSpec {
        SnapshotSpec { size, ..SnapshotSpec::default() }
    }
    /// A snapshot of a pool, with the tags that the product looks for.
    pub(crate) fn pool(domain: &str, pool: &str) -> SnapshotSpec {
        SnapshotSpec::default().tag("user:ec2fd.domain", domain).tag("user:ec2fd.pool-name", pool)
    }
    pub(crate) fn id(mut self, id: &str) -> SnapshotSpec {
        self.id = Some(id.into());
        self
    }
    pub(crate) fn of(mut self, volume: &str) -> SnapshotSpec {
        self.volume = volume.into();
        self
    }
    pub(crate) fn tag(mut self, key: &str, value: &str) -> SnapshotSpec {
        self.tags.push((key.into(), value.into()));
        self
    }
    pub(crate) fn age(mut self, seconds: i64) -> SnapshotSpec {
        self.age_s = seconds;
        self
    }
    pub(crate) fn state(mut self, state: &str) -> SnapshotSpec {
        self.state = state.into();
        self
    }
}

impl Snapshot {
    /// Whether this account may make volumes from it.
    pub(crate) fn is_usable(&self) -> bool {
        self.owner == ACCOUNT || self.public
    }
}

impl World {
    /// Adds a snapshot; gives its id. One that is `pending` stays so until [`World::complete_snapshot`].
    pub(crate) fn add_snapshot(&mut self, spec: SnapshotSpec) -> String {
        let id = spec.id.unwrap_or_else(|| self.make_id("snap"));
        let now = self.now_ms();
        let data = spec.data.and_then(|from| copy(&from, &self.snapshot_file(&id), 0));
        let snapshot = Snapshot {
            id: id.clone(),
            volume: spec.volume,
            region: spec.region,
            owner: spec.owner,
            public: spec.public,
            size: spec.size,
            pending: (spec.state == "pending").then_some((now, u64::MAX)),
            state: spec.state,
            started: self.wall() - Duration::seconds(spec.age_s),
            visible_at_ms: 0,
            description: String::new(),
            tags: spec.tags.into_iter().collect(),
            encrypted: spec.encrypted,
            tier: spec.tier,
            images: spec.images.into_iter().collect(),
            data,
            by_api: false,
        };
        self.snapshots.insert(id.clone(), snapshot);
        id
    }

    /// Ends the waiting for one that is `pending`.
    pub(crate) fn complete_snapshot(&mut self, id: &str) {
        if let Some(s) = self.snapshots.get_mut(id) {
            (s.state, s.pending) = ("completed".into(), None);
        }
    }

    /// Carries out what is due.
    pub(crate) fn advance_snapshots(&mut self, now: u64) {
        let end = if self.knobs.snapshot_fails { "error" } else { "completed" };
        for s in self.snapshots.values_mut().filter(|s| s.pending.is_some_and(|(_, due)| due <= now)) {
            (s.state, s.pending) = (end.into(), None);
        }
    }

    /// What a new snapshot of a volume holds: a copy of what is on the disk now.
    pub(crate) fn keep_content(&self, v: &Volume, snapshot: &str) -> Option<PathBuf> {
        copy(&behind(&disks::backing(self, v)), &self.snapshot_file(snapshot), 0)
    }

    /// Gives a volume that is made from a snapshot what the snapshot holds. A volume gets a disk of the test's, if it has
    /// put one there.
    pub(crate) fn restore_content(&mut self, v: &mut Volume) {
        v.backing = self.spare_disks.pop();
        let data = v.snapshot.as_ref().and_then(|s| self.snapshots.get(s)).and_then(|s| s.data.clone());
        if let Some(data) = &data {
            copy(data, &disks::backing(self, v), self.knobs.disk_bytes);
        }
        if v.encrypted && (data.is_some() || v.backing.is_some()) {
            // Also where the snapshot is of a volume on which nothing was written.
            let _ = noise::cover(&disks::backing(self, v), &v.id);
        }
    }

    fn snapshot_file(&self, id: &str) -> PathBuf {
        let dir = self.dir.join("snapshots");
        let _ = fs::create_dir_all(&dir);
        dir.join(format!("{id}.img"))
    }
}

/// The file behind a loop device: there it is as the device has written it, whatever the kernel has cached of the device.
fn behind(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file"));
    file.map_or_else(|_| path.to_owned(), |f| PathBuf::from(f.trim_end()))
}

/// Copies a disk's content, leaving holes where it is zero; a new file gets at least so many bytes.
fn copy(from: &Path, to: &Path, least: u64) -> Option<PathBuf> {
    let mut input = File::open(from).ok()?;
    let is_file = !to.exists() || fs::metadata(to).is_ok_and(|m| m.is_file());
    let mut output = File::options().write(true).create(is_file).truncate(is_file).open(to).ok()?;
    let (mut block, zero) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    loop {
        let n = input.read(&mut block).ok()?;
        if n == 0 {
            break;
        }
        if !is_file || block[..n] != zero[..n] {
            output.seek(SeekFrom::Start(at)).ok()?;
            output.write_all(&block[..n]).ok()?;
        }
        at += n as u64;
    }
    if is_file {
        output.set_len(at.max(least)).ok()?;
    } else {
        output.sync_all().ok()?;
    }
    Some(to.to_owned())
}

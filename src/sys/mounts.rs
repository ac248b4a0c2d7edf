//! What is mounted from a disk, and how it is taken away before a detach.
//!
//! A roll-back unmounts only what was mounted during this run ([`MountSet`]): what was there before belongs to someone
//! else, and the disk is then left attached. Never a forced unmount, and a lazy one only where the config says so: after
//! that the file system lives on without anybody seeing it, and a detach cuts it off while it writes.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::disk_tree::{DiskTree, Number, parse_number};
use super::holders::{self, Alone, Holder};
use super::{Root, beside_told, mounting};
use crate::scope::Scope;
use crate::waits::{self, News};

/// One line of a mountinfo, see proc_pid_mountinfo(5).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mount {
    /// Its number; used again after an unmount.
    pub(crate) id: u64,
    /// The number of the mount that it stands on.
    pub(crate) parent: u64,
    /// Device number of its files; for btrfs and the like one of no device.
    pub(crate) number: Number,
    /// Where it is mounted.
    pub(crate) point: PathBuf,
    /// Kind of file system.
    pub(crate) kind: String,
    /// What is mounted: a device, or just a word.
    pub(crate) source: String,
}

impl Mount {
    fn is_root(&self) -> bool {
        self.point == Path::new("/")
    }

    fn parse(line: &[u8]) -> Option<Mount> {
        let mut fields = line.split(|b| *b == b' ');
        let mut text = || fields.next().map(unescape);
        let number_of = |b: Vec<u8>| String::from_utf8(b).ok()?.parse::<u64>().ok();
        let id = number_of(text()?)?;
        let parent = number_of(text()?)?;
        let number = parse_number(&String::from_utf8(text()?).ok()?)?;
        let _within = text()?;
        let point = PathBuf::from(OsString::from_vec(text()?));
        // Options, then any number of optional fields, then a dash.
        while text()? != b"-" {}
        let kind = String::from_utf8_lossy(&text()?).into_owned();
        let source = String::from_utf8_lossy(&text()?).into_owned();
        Some(Mount { id, parent, number, point, kind, source })
    }

    /// Whether it is mounted from a device of `tree`.
    pub(crate) fn is_on(&self, root: &Root, tree: &DiskTree) -> bool {
        tree.numbers.contains(&self.number) || tree.is_source(root, &self.source)
    }
}

/// `\040` for a space and so on.
pub(super) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|d| first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        let code = octal.map(|d| d.iter().fold(0u32, |n, b| n * 8 + u32::from(b - b'0')));
        match code.and_then(|c| u8::try_from(c).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

/// The mounts in a mountinfo, in its order; none if there is no such file.
pub(super) fn read(root: &Root, path: &Path) -> Vec<Mount> {
    let text = std::fs::read(root.path(path)).unwrap_or_default();
    text.split(|b| *b == b'\n').filter_map(Mount::parse).collect()
}

/// All mounts that this process sees, in the order of mounting.
pub(super) fn own(root: &Root) -> Vec<Mount> {
    read(root, Path::new("/proc/self/mountinfo"))
}

/// What is mounted from the disk at `node`, a partition of it or something built on it, in the order of mounting.
pub(crate) fn mounts_of(root: &Root, node: &Path) -> Vec<Mount> {
    let tree = DiskTree::of(root, node);
    own(root).into_iter().filter(|m| m.is_on(root, &tree)).collect()
}

/// Whether `/` is on a device of `tree`.
pub(super) fn holds_root(root: &Root, tree: &DiskTree) -> bool {
    own(root).iter().any(|m| m.is_root() && m.is_on(root, tree))
}

/// What is mounted at `/`.
pub(super) fn root_sources(root: &Root) -> Vec<String> {
    own(root).into_iter().filter(Mount::is_root).map(|m| m.source).collect()
}

/// What was mounted when the run began.
#[derive(Debug, Clone, Default)]
pub(crate) struct MountSet(BTreeSet<Mount>);

impl MountSet {
    /// What is mounted now.
    pub(crate) fn take(root: &Root) -> MountSet {
        MountSet(own(root).into_iter().collect())
    }
}

/// A disk that must stay attached, and who holds it.
#[derive(Debug)]
pub(crate) struct StillHeld {
    /// Its path.
    pub(crate) device: PathBuf,
    /// Why it could not be unmounted, where that failed with something else than "busy".
    pub(crate) cause: Option<String>,
    /// Who holds it; may be empty if `cause` says it.
    pub(crate) holders: Vec<Holder>,
}

impl fmt::Display for StillHeld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMED: usize = 6;
        write!(f, "{} is still in use", self.device.display())?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        for (n, holder) in self.holders.iter().take(NAMED).enumerate() {
            write!(f, "{} {holder}", if n == 0 { ", held by" } else { ";" })?;
        }
        match self.holders.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for StillHeld {}

/// Pauses between two tries: the first, and the longest. Each try looks through all processes.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));

/// Unmounts what this run mounted from the disk at `node` (`before`: what was mounted when it began), last first, each
/// written out before. Somebody who holds it is waited for until `scope` ends; `what` is the volume, for the log, which
/// says who that is. `Ok`: nothing holds the disk any more, and we do: nobody mounts it again.
pub(crate) fn unmount_all(
    root: &Root,
    node: &Path,
    before: &MountSet,
    what: &str,
    scope: &Scope,
) -> Result<Alone, StillHeld> {
    let mut points = Vec::new();
    let (mut news, begun) = (News::default(), scope.clock.now());
    let mut pause = PAUSES.0;
    let mut held = StillHeld { device: node.to_path_buf(), cause: None, holders: Vec::new() };
    loop {
        let mounted = mounts_of(root, node);
        // What stands on one of them names it by its path, also when it is gone.
        points.extend(mounted.iter().map(|m| m.point.clone()).filter(|p| !points.contains(p)).collect::<Vec<_>>());
        // With a mount that is not ours the disk stays, so nothing of it is taken away. That of `/` is nobody's to take:
        // the kernel would make it read-only.
        let stays = mounted.iter().any(|m| before.0.contains(m) || m.is_root());
        held.cause = None;
        for mount in mounted.iter().rev().filter(|_| !stays) {
            match unmount(mount, scope) {
                Ok(()) => {
                    log::info!("unmounted {}", mount.point.display());
                    pause = PAUSES.0;
                }
                // Busy, or a mount of ours below it is still to go: the next turn tells.
                Err(Failed::Busy) => {}
                Err(Failed::Other(text)) => {
                    let cause = format!("cannot unmount {}: {text}", mount.point.display());
                    held.cause.get_or_insert(cause);
                }
            }
        }
        // At once: an automount, or a unit that binds itself to its mount, would be as quick as they can.
        let alone = Alone::take(node, scope).unwrap_or_else(|e| {
            held.cause.get_or_insert(format!("it cannot be opened: {e}"));
            None
        });
        match (holders::look(root, node, alone.as_ref(), &points, scope), alone) {
            (Ok(holders), Some(alone)) if holders.is_empty() => return Ok(alone),
            (look, alone) => {
                if let Some(alone) = alone {
                    alone.let_go(scope);
                }
                match look {
                    Ok(holders) => held.holders = holders,
                    Err(e) => drop(held.cause.get_or_insert(format!("who holds it cannot be told: {e}"))),
                }
            }
        }
        // Nobody is going to take away what is not ours.
        if stays || scope.sleep(pause).is_err() {
            return Err(held);
        }
        // Who has it for a moment only (udev looks at it, a process is ending) is not worth a word; a mount that was busy a
        // moment ago and is held by nobody any more neither.
        let by_others = held.holders.iter().any(|h| !points.iter().any(|p| h.is_mount(p))) || held.cause.is_some();
        let now = scope.clock.now();
        let quick = pause == PAUSES.0 || !(by_others || now.since(begun) >= waits::QUIET);
        if !quick && news.is_due(&held.to_string(), now) {
            log::warn!("{what}: {held}; trying until {}", waits::until(scope));
        }
        pause = pause.mul_f64(1.25).min(PAUSES.1);
    }
}

/// Unmounts what is mounted at `point`, if it is of the disk at `node` and was mounted during this run; written out before.
pub(crate) fn unmount_at(root: &Root, node: &Path, point: &Path, before: &MountSet, scope: &Scope) {
    let point = match mounting::real_path(point, scope) {
        Ok(Some(point)) => point,
        Ok(None) => return,
        Err(e) => return log::warn!("cannot unmount {}: {e}", point.display()),
    };
    let ours = |m: &Mount| m.point == point && !before.0.contains(m) && !m.is_root();
    for mount in mounts_of(root, node).into_iter().rev().filter(ours) {
        let why = match unmount(&mount, scope) {
            Ok(()) => {
                log::info!("unmounted {}", mount.point.display());
                continue;
            }
            Err(Failed::Busy) => "it is in use".to_owned(),
            Err(Failed::Other(text)) => text,
        };
        log::warn!("cannot unmount {}: {why}", mount.point.display());
    }
}

/// Takes the mounts of the disk at `node` out of the tree, written out before if the disk takes it. They live on, unseen,
/// until the last process that uses them ends: what it writes after a detachment is lost. Only where somebody asked for it.
pub(crate) fn unmount_lazily(root: &Root, node: &Path, scope: &Scope) -> io::Result<()> {
    let mounted = mounts_of(root, node);
    if mounted.iter().any(Mount::is_root) {
        return Err(io::Error::other("it holds the root file system"));
    }
    for (n, mount) in mounted.iter().enumerate().rev() {
        // The later ones have some time too, and so has what follows.
        let part = scope.within(scope.remaining() * 2 / 3 / u32::try_from(n + 1).unwrap_or(u32::MAX));
        let path = mount.point.clone();
        let work = move || Ok(rustix::fs::syncfs(std::fs::File::open(path)?)?);
        if let Err(e) = beside_told(&part, &to_be_written(&mount.point), Box::new(work)) {
            log::warn!("{}: its data is not written out: {e}", mount.point.display());
        }
        let path = mount.point.clone();
        let work = move || Ok(rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?);
        match beside_told(scope, &format!("{} to be unmounted", mount.point.display()), Box::new(work)) {
            Ok(()) => log::warn!("unmounted {} lazily", mount.point.display()),
            // Somebody else was quicker.
            Err(_) if !mounts_of(root, node).iter().any(|m| m.id == mount.id) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn to_be_written(point: &Path) -> String {
    format!("the data of {} to be written out", point.display())
}

enum Failed {
    Busy,
    Other(String),
}

fn unmount(mount: &Mount, scope: &Scope) -> Result<(), Failed> {
    let (point, id) = (mount.point.clone(), mount.id);
    let work = move || sync_and_unmount(&point, id).map_err(io::Error::from);
    beside_told(scope, &to_be_written(&mount.point), Box::new(work)).map_err(|e| match e.kind() {
        io::ErrorKind::ResourceBusy => Failed::Busy,
        io::ErrorKind::TimedOut => Failed::Other("its data is still being written".to_owned()),
        _ => Failed::Other(e.to_string()),
    })
}

fn sync_and_unmount(point: &Path, id: u64) -> rustix::io::Result<()> {
    rustix::fs::syncfs(open_mount(point, id)?)?;
    // That may have taken minutes, and nobody waits any more.
    drop(open_mount(point, id)?);
    rustix::mount::unmount(point, UnmountFlags::NOFOLLOW)
}

/// The mount point, if the mount `id` is what is there: something else may be mounted over it by now, and then the path is
/// not ours.
fn open_mount(point: &Path, id: u64) -> rustix::io::Result<OwnedFd> {
    let how = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let dir = rustix::fs::open(point, how, Mode::empty())?;
    let stat = rustix::fs::statx(&dir, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    let known = stat.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    if known && stat.stx_mnt_id != id { Err(Errno::BUSY) } else { Ok(dir) }
}

#[cfg(test)]
mod tests;

//! Which disk of this machine is the volume.
//!
//! On Nitro only the serial number of the NVMe disk counts: names are handed out in the order in which disks turn up.
//! Where there are no serials (Xen, a file that stands for a disk) the requested name counts, and the caller has to
//! know that the name is the volume's: by a [`NameSnapshot`] taken before AttachVolume, or because the API says that
//! the volume was attached there before.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::announced::Announced;
use super::disk_tree::DiskTree;
use super::mounts::Mount;
use super::{Root, beside_told, mounts, names_in, read_trimmed};
use crate::clock::Tick;
use crate::scope::{Halt, Scope};

const INSTANCE_STORE_MODEL: &str = "Amazon EC2 NVMe Instance Storage";

/// The disk with the serial of `volume_id`, such as `/dev/nvme1n1`; the node itself may still be missing. One that died
/// keeps its serial while anybody uses it: of several, one that lives, and the one that came last.
pub(crate) fn find_by_serial(root: &Root, volume_id: &str) -> Option<PathBuf> {
    // The serial is the id without its dash.
    let wanted = volume_id.replacen('-', "", 1);
    if !wanted.starts_with("vol") {
        return None;
    }
    let mut all: Vec<NvmeDisk> = nvme_disks(root).filter(|d| d.is_ebs() && d.serial == wanted).collect();
    if all.len() > 1 {
        all.sort_by_cached_key(|d| d.rank(root));
    }
    Some(root.path("/dev").join(all.pop()?.name))
}

/// Whether what is mounted is on the disk of a volume, and not on that of `/`.
pub(crate) fn is_volume(root: &Root, mount: &Mount) -> bool {
    let of_volume = |d: &NvmeDisk| d.is_ebs() && d.serial.starts_with("vol");
    nvme_disks(root).filter(of_volume).any(|d| {
        let tree = DiskTree::of(root, &root.path("/dev").join(&d.name));
        mount.is_on(root, &tree) && !mounts::holds_root(root, &tree)
    })
}

/// Whether the EBS volumes of this machine have serials: it has an NVMe disk that is one (on Nitro, the boot disk).
pub(crate) fn has_ebs_serials(root: &Root) -> bool {
    nvme_disks(root).any(|d| d.is_ebs() && d.serial.starts_with("vol"))
}

struct NvmeDisk {
    name: String,
    serial: String,
    model: Option<String>,
}

impl NvmeDisk {
    /// Only an instance store is ruled out by its model. The serial decides: with other hypervisors the model of a volume
    /// is not EC2's.
    fn is_ebs(&self) -> bool {
        self.model.as_deref() != Some(INSTANCE_STORE_MODEL)
    }

    /// Whether it lives, and when it came: its number among all disks since boot, and the time of its node.
    fn rank(&self, root: &Root) -> (bool, Option<u64>, Option<(i64, u32)>) {
        let dir = root.path("/sys/block").join(&self.name);
        let ended = read_trimmed(&dir.join("device/state")).is_some_and(|s| s == "dead" || s.starts_with("deleting"));
        // The kernel takes the size away from a disk that is gone.
        let empty = read_trimmed(&dir.join("size")).is_some_and(|s| s == "0");
        let sequence = read_trimmed(&dir.join("diskseq")).and_then(|s| s.parse().ok());
        (!ended && !empty, sequence, ident(root, &self.name).map(|i| i.born))
    }
}

fn nvme_disks(root: &Root) -> impl Iterator<Item = NvmeDisk> {
    let dir = root.path("/sys/block");
    names_in(&dir).into_iter().filter(|n| is_nvme_disk(n)).filter_map(move |name| {
        let at = dir.join(&name);
        // The single paths of a multipath disk are hidden: they have no node.
        if read_trimmed(&at.join("hidden")).as_deref() == Some("1") {
            return None;
        }
        let serial = read_trimmed(&at.join("device/serial"))?;
        Some(NvmeDisk { name, serial, model: read_trimmed(&at.join("device/model")) })
    })
}

/// `nvme1n1`; not `nvme0c0n1`, a single path of a multipath disk.
fn is_nvme_disk(name: &str) -> bool {
    let number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    name.strip_prefix("nvme").and_then(|n| n.split_once('n')).is_some_and(|(c, n)| number(c) && number(n))
}

/// What tells a disk from another one that had the same name before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ident {
    number: (u32, u32),
    inode: u64,
    born: (i64, u32),
    /// Counts all disks since boot (Linux 5.15).
    sequence: Option<String>,
}

/// A disk found by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// The node, with the root before it.
    pub(crate) path: PathBuf,
    /// Which disk it is.
    pub(crate) ident: Ident,
}

/// The disk at the requested device name (`/dev/sdf` and `/dev/xvdf` are the same); never the one that holds `/`, nor
/// an instance store.
pub(crate) fn find_by_name(root: &Root, requested: &str) -> Option<Named> {
    let letters = device_letters(requested)?;
    let mut names = vec![format!("xvd{letters}"), format!("sd{letters}")];
    if (requested.contains("/sd") || requested.starts_with("sd"))
        && let Some(shifted) = shifted(root, letters)
    {
        // On such a kernel the plain name is another disk's.
        names = vec![shifted];
    }
    names.into_iter().find_map(|name| {
        let path = root.path("/dev").join(&name);
        let ident = ident(root, &name)?;
        (!is_root_or_instance_store(root, &path)).then_some(Named { path, ident })
    })
}

/// `f` of `/dev/sdf` or `xvdf`, `bb` of `/dev/xvdbb`, `f1` of `/dev/sdf1`.
fn device_letters(requested: &str) -> Option<&str> {
    let name = requested.strip_prefix("/dev/").unwrap_or(requested);
    let letters = name.strip_prefix("xvd").or_else(|| name.strip_prefix("sd"))?;
    let stem = letters.trim_end_matches(|c: char| c.is_ascii_digit());
    let ok = matches!(stem.len(), 1 | 2) && stem.bytes().all(|b| b.is_ascii_lowercase()) && letters.len() <= 4;
    ok.then_some(letters)
}

/// Some kernels for Xen show `sda` as `xvde` and so on. They can be known by where `/` is.
fn shifted(root: &Root, letters: &str) -> Option<String> {
    let on_xvde = mounts::root_sources(root).iter().any(|s| s.starts_with("/dev/xvde"));
    let has_xvda = names_in(&root.path("/sys/block")).iter().any(|n| n.starts_with("xvda"));
    let first = letters.bytes().next().filter(|b| on_xvde && !has_xvda && *b <= b'v')?;
    Some(format!("xvd{}{}", char::from(first + 4), letters.get(1..)?))
}

/// Which disk stands at `node` now.
pub(crate) fn ident_of(root: &Root, node: &Path) -> Option<Ident> {
    ident(root, node.file_name()?.to_str()?)
}

fn ident(root: &Root, name: &str) -> Option<Ident> {
    let path = root.path("/dev").join(name);
    let kind = std::fs::metadata(&path).ok()?.file_type();
    // A plain file can stand for a disk, but not in the real /dev.
    if !(kind.is_block_device() || (kind.is_file() && !root.is_real())) {
        return None;
    }
    let of = StatxFlags::INO | StatxFlags::BTIME;
    let stat = rustix::fs::statx(CWD, &path, AtFlags::SYMLINK_NOFOLLOW, of).ok()?;
    Some(Ident {
        number: (stat.stx_rdev_major, stat.stx_rdev_minor),
        inode: stat.stx_ino,
        born: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
        sequence: read_trimmed(&root.path("/sys/block").join(name).join("diskseq")),
    })
}

/// Whether the disk at `node` holds `/` (itself, by a partition or by a mapping), or is an instance store.
pub(crate) fn is_root_or_instance_store(root: &Root, node: &Path) -> bool {
    let tree = DiskTree::of(root, node);
    let instance_store = tree.names.first().is_some_and(|name| {
        let model = read_trimmed(&root.path("/sys/block").join(name).join("device/model"));
        is_nvme_disk(name) && model.is_some_and(|m| m == INSTANCE_STORE_MODEL)
    });
    instance_store || mounts::holds_root(root, &tree)
}

/// The names `sdX` and `xvdX` that this machine has a disk for, without `/dev/`, sorted: none of them is free.
pub(crate) fn names_in_use(root: &Root) -> Vec<String> {
    let mut names: Vec<String> = ["/sys/block", "/dev"]
        .iter()
        .flat_map(|dir| names_in(&root.path(dir)))
        .filter(|n| device_letters(n).is_some())
        .map(|n| n.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The disks that had a name before AttachVolume was called.
#[derive(Debug, Clone, Default)]
pub(crate) struct NameSnapshot(BTreeMap<PathBuf, Ident>);

impl NameSnapshot {
    /// The disks that there are now.
    pub(crate) fn take(root: &Root) -> NameSnapshot {
        let named = |name: String| Some((root.path("/dev").join(&name), ident(root, &name)?));
        let all = names_in(&root.path("/dev")).into_iter().filter(|n| device_letters(n).is_some());
        NameSnapshot(all.filter_map(named).collect())
    }

    /// The disk at the requested name, if it was not there when the snapshot was taken.
    pub(crate) fn appeared(&self, root: &Root, requested: &str) -> Option<Named> {
        find_by_name(root, requested).filter(|n| self.0.get(&n.path) != Some(&n.ident))
    }
}

/// Whether the disk at `node` can be opened and read. Of a plain file in place of a disk nothing is read: it may be
/// empty. A disk that does not answer until `scope` ends cannot.
pub(crate) fn node_ready(node: &Path, scope: &Scope) -> io::Result<()> {
    let what = format!("{} to be read", node.display());
    let node = node.to_path_buf();
    let read = move || {
        let mut file = File::open(node)?;
        let mut sector = Vec::new();
        if file.metadata()?.file_type().is_block_device() {
            sector.resize(512, 0);
            file.read_exact(&mut sector)?;
        }
        Ok(sector)
    };
    beside_told(scope, &what, Box::new(read)).map(drop)
}

/// The pace at which disks are looked for. It costs a scan of sysfs each time.
///
/// The kernel's announcement of a device calls for a look at once, and for a quarter of a second one every 5 ms, since
/// the node may be made by another program; without one, every 100 ms will do. Where nothing is announced, it is every
/// 5 ms in the first second, then every 25 ms, after five seconds every 100 ms.
#[derive(Debug)]
pub(crate) struct Pace {
    announced: Announced,
    /// The start, or the last announcement.
    since: Tick,
}

impl Pace {
    /// Begins now: what is announced from here on is not missed.
    pub(crate) fn start(root: &Root, scope: &Scope) -> Pace {
        // Files that stand for disks are announced by nobody.
        let announced = if root.is_real() { Announced::devices() } else { Announced::nothing() };
        Pace { announced, since: scope.clock.now() }
    }

    /// Waits until the next look.
    pub(crate) fn wait(&mut self, scope: &Scope) -> Result<(), Halt> {
        let step = Pace::step(self.announced.is_heard(), scope.clock.now().since(self.since));
        if self.announced.wait(scope, step)? {
            self.since = scope.clock.now();
        }
        Ok(())
    }

    fn step(heard: bool, passed: Duration) -> Duration {
        Duration::from_millis(match passed.as_millis() {
            250.. if heard => 100,
            0..1000 => 5,
            1000..5000 => 25,
            _ => 100,
        })
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod properties;

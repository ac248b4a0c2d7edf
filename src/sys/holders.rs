//! Who keeps a disk from being detached: processes with something of it open, mounts in other namespaces, swap,
//! mappings and loop devices, and at last whatever else the kernel says has claimed it.
//!
//! Processes are judged by the text of their links in `/proc`, never by a `stat` of what is behind them: that could
//! hang on a dead network file system.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::disk_tree::DiskTree;
use super::mounts::{self, Mount};
use super::{Root, names_in, read_trimmed, start};
use crate::scope::Scope;

/// Someone who holds a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    /// The process, if it is one.
    pub(crate) pid: Option<u32>,
    /// Its name.
    pub(crate) comm: String,
    /// What it holds.
    pub(crate) what: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid} ({}): {}", self.comm, self.what),
            None => write!(f, "{}: {}", self.comm, self.what),
        }
    }
}

fn kernel(comm: impl Into<String>, what: impl Into<String>) -> Holder {
    Holder { pid: None, comm: comm.into(), what: what.into() }
}

/// A disk that nobody else holds: as long as this lives, nobody can mount it or a part of it. What is no block device
/// cannot be held.
#[derive(Debug)]
pub(crate) struct Alone(Option<File>);

impl Alone {
    /// Holds the disk at `node`. `None`: somebody has mounted or claimed it.
    pub(crate) fn take(node: &Path) -> Option<Alone> {
        if !is_disk(node) {
            return Some(Alone(None));
        }
        match open_exclusively(node) {
            Ok(disk) => Some(Alone(Some(File::from(disk)))),
            Err(Errno::BUSY) => None,
            // It is gone, or never answers: nobody will mount it.
            Err(_) => Some(Alone(None)),
        }
    }

    /// Lets go of it, so that no program that we are starting has it either.
    pub(crate) fn let_go(self, scope: &Scope) {
        if let Some(disk) = self.0 {
            start::let_go(disk, scope);
        }
    }
}

/// All who hold the disk at `node` now, our own mounts included.
pub(crate) fn holders(root: &Root, node: &Path) -> Vec<Holder> {
    others(root, node, None)
}

/// All who hold the disk at `node` beside us; `alone` is what we hold it by.
pub(super) fn others(root: &Root, node: &Path, alone: Option<&Alone>) -> Vec<Holder> {
    let held = alone.is_some_and(|a| a.0.is_some());
    let tree = DiskTree::of(root, node);
    let all = mounts::read(root, Path::new("/proc/self/mountinfo"));
    let ours: Vec<&Mount> = all.iter().filter(|m| m.is_on(root, &tree)).collect();
    let within = |text: &Path| ours.iter().any(|m| text.starts_with(&m.point));
    let is_node = |text: &str| tree.is_source(root, text) || Path::new(text) == node;
    let mut found: Vec<Holder> = ours.iter().map(|m| kernel("mount", m.point.display().to_string())).collect();

    let nested = |m: &&Mount| !m.is_on(root, &tree) && ours.iter().any(|o| o.id == m.parent);
    found.extend(all.iter().filter(nested).map(|m| {
        let (kind, point) = (&m.kind, m.point.display());
        kernel("mount", format!("{kind} at {point}, on top of it"))
    }));
    found.extend(tree.stacked.iter().map(|name| kernel(DiskTree::describe(root, name), "is built on it")));
    let swaps = std::fs::read_to_string(root.path("/proc/swaps")).unwrap_or_default();
    let areas = swaps.lines().skip(1).filter_map(|l| l.split_whitespace().next());
    found.extend(areas.filter(|a| is_node(a) || within(Path::new(a))).map(|a| kernel("swap", a)));
    for name in names_in(&root.path("/sys/block")).iter().filter(|n| n.starts_with("loop")) {
        let file = read_trimmed(&root.path("/sys/block").join(name).join("loop/backing_file"));
        found.extend(file.filter(|f| within(Path::new(f))).map(|f| kernel(name, f)));
    }

    let own_namespace = std::fs::read_link(root.path("/proc/self/ns/mnt")).ok();
    let mut namespaces: BTreeSet<PathBuf> = own_namespace.into_iter().collect();
    for name in names_in(&root.path("/proc")) {
        let Ok(pid) = name.parse::<u32>() else { continue };
        if held && pid == std::process::id() {
            continue;
        }
        let dir = root.path("/proc").join(&name);
        let process =
            |what: String| Holder { pid: Some(pid), comm: read_trimmed(&dir.join("comm")).unwrap_or_default(), what };
        if let Some(what) = held_by_process(&dir, &|text| is_node(&text.to_string_lossy()) || within(text)) {
            found.push(process(what));
        }
        if std::fs::read_link(dir.join("ns/mnt")).is_ok_and(|ns| namespaces.insert(ns)) {
            let theirs = mounts::read(root, &Path::new("/proc").join(&name).join("mountinfo"));
            if let Some(m) = theirs.iter().find(|m| m.is_on(root, &tree)) {
                found.push(process(format!("mounted at {} in its own namespace", m.point.display())));
            }
        }
    }
    if found.is_empty() && !held && claimed(node) {
        found.push(kernel("the kernel", "it is claimed (by an array, a pool, a file system that is still closing)"));
    }
    found
}

fn held_by_process(dir: &Path, held: &dyn Fn(&Path) -> bool) -> Option<String> {
    let link = |path: PathBuf| std::fs::read_link(path).ok().filter(|text| held(text));
    for (name, what) in [("cwd", "works in"), ("root", "has its root in"), ("exe", "runs")] {
        if let Some(text) = link(dir.join(name)) {
            return Some(format!("{what} {}", text.display()));
        }
    }
    let open = names_in(&dir.join("fd")).into_iter().find_map(|fd| link(dir.join("fd").join(fd)))?;
    Some(format!("has {} open", open.display()))
}

/// Whether the kernel has given the disk or a part of it to someone: it then refuses an exclusive open.
fn claimed(node: &Path) -> bool {
    is_disk(node) && matches!(open_exclusively(node), Err(Errno::BUSY))
}

fn is_disk(node: &Path) -> bool {
    std::fs::metadata(node).is_ok_and(|m| m.file_type().is_block_device())
}

fn open_exclusively(node: &Path) -> Result<OwnedFd, Errno> {
    let exclusive = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(node, exclusive, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::TestDir;

    #[test]
    fn everyone_who_holds_it_is_named() {
        let t = TestDir::new();
        t.file("sys/block/nvme1n1/dev", "259:4\n");
        t.file("sys/block/nvme1n1/holders/dm-0/x", "");
        t.file("sys/block/dm-0/dev", "253:0\n");
        t.file("sys/block/dm-0/dm/name", "secret\n");
        t.file("sys/block/loop3/loop/backing_file", "/data/disk.img\n");
        let node = t.file("dev/nvme1n1", "");
        let own = "40 1 253:0 / /data rw - ext4 /dev/mapper/secret rw\n41 40 0:50 / /data/tmp rw - tmpfs tmpfs rw\n";
        t.file("proc/self/mountinfo", own);
        t.link("proc/self/ns/mnt", "mnt:[1]");
        t.file("proc/swaps", "Filename Type Size Used Priority\n/data/swap file 8 0 -2\n/dev/sdz partition 8 0 -2\n");
        t.file("proc/7/comm", "game server\n");
        t.link("proc/7/fd/0", "/dev/null");
        t.link("proc/7/fd/3", "/data/world");
        t.link("proc/7/ns/mnt", "mnt:[1]");
        t.file("proc/8/comm", "sh\n");
        t.link("proc/8/cwd", "/database");
        t.link("proc/9/fd/1", "/dev/nvme1n1");
        t.file("proc/10/comm", "container\n");
        t.link("proc/10/ns/mnt", "mnt:[2]");
        t.file("proc/10/mountinfo", "90 1 259:4 / /mnt rw - ext4 /dev/nvme1n1 rw\n");
        let all: Vec<String> = holders(&t.root(), &node).iter().map(Holder::to_string).collect();
        let expected = [
            "mount: /data",
            "mount: tmpfs at /data/tmp, on top of it",
            "dm-0 (secret): is built on it",
            "swap: /data/swap",
            "loop3: /data/disk.img",
            "process 10 (container): mounted at /mnt in its own namespace",
            "process 7 (game server): has /data/world open",
            "process 9 (): has /dev/nvme1n1 open",
        ];
        assert_eq!(all, expected);
    }
}

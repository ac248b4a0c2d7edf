//! Who keeps a disk from being detached: processes with something of it open, mounts in other namespaces, swap,
//! mappings and loop devices, and at last whatever else the kernel says has claimed it.
//!
//! Processes are judged by the text of their links in `/proc`, never by a `stat` of what is behind them: that could
//! hang on a dead file system. What else could hang (the disk's own node, the memory map of a process that waits for a
//! disk) is looked at beside the caller.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::disk_tree::DiskTree;
use super::mounts::{self, Mount};
use super::{Root, beside_told, layers, names_in, read_trimmed, start};
use crate::parallel;
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

impl Holder {
    /// Whether it is just what is mounted from the disk at `point`.
    pub(super) fn is_mount(&self, point: &Path) -> bool {
        self.pid.is_none() && self.comm == MOUNT && Path::new(&self.what) == point
    }
}

const MOUNT: &str = "mount";

fn kernel(comm: impl Into<String>, what: impl Into<String>) -> Holder {
    Holder { pid: None, comm: comm.into(), what: what.into() }
}

/// A disk that nobody else holds: as long as this lives, nobody can mount it or a part of it. What is no block device
/// cannot be held.
#[derive(Debug)]
pub(crate) struct Alone(Option<File>);

impl Alone {
    /// Holds the disk at `node`. `None`: somebody has mounted or claimed it. An error: it does not answer.
    pub(crate) fn take(node: &Path, scope: &Scope) -> io::Result<Option<Alone>> {
        let path = node.to_owned();
        let open = move || {
            if !is_disk(&path) {
                return Ok(Some(Alone(None)));
            }
            Ok(match open_exclusively(&path) {
                Ok(disk) => Some(Alone(Some(File::from(disk)))),
                Err(Errno::BUSY) => None,
                // It is gone: nobody will mount it.
                Err(_) => Some(Alone(None)),
            })
        };
        beside_told(scope, &format!("{} to be opened", node.display()), Box::new(open))
    }

    /// Lets go of it, so that no program that we are starting has it either.
    pub(crate) fn let_go(mut self, scope: &Scope) {
        if let Some(disk) = self.0.take() {
            let_go(disk, scope);
        }
    }
}

/// Closes a disk that we held, so that no program that we are starting has it either. The last one that closes it writes
/// out what is left in its cache, which may take long.
pub(crate) fn let_go(disk: File, scope: &Scope) {
    let until = scope.clone();
    let work = move || {
        start::let_go(disk, &until);
        Ok(())
    };
    if let Err(e) = beside_told(scope, "a disk to be closed", Box::new(work)) {
        log::warn!("a disk is not closed yet: {e}");
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if let Some(disk) = self.0.take() {
            parallel::background("close", Box::new(move || drop(disk)));
        }
    }
}

/// All who hold the disk at `node` now, our own mounts included. An error: that cannot be told within `scope`.
pub(crate) fn holders(root: &Root, node: &Path, scope: &Scope) -> io::Result<Vec<Holder>> {
    look(root, node, None, &[], scope)
}

/// All who hold the disk at `node` beside us; `alone` is what we hold it by, and `points` is where it was mounted.
pub(super) fn look(
    root: &Root,
    node: &Path,
    alone: Option<&Alone>,
    points: &[PathBuf],
    scope: &Scope,
) -> io::Result<Vec<Holder>> {
    let held = alone.is_some_and(|a| a.0.is_some());
    let what = format!("an answer to who holds {}", node.display());
    let (root, node, points) = (root.clone(), node.to_owned(), points.to_vec());
    beside_told(scope, &what, Box::new(move || Ok(others(&root, &node, held, &points))))
}

/// `held`: we hold the disk, so that nothing is mounted from it.
fn others(root: &Root, node: &Path, held: bool, points: &[PathBuf]) -> Vec<Holder> {
    let tree = DiskTree::of(root, node);
    let own = Path::new("/proc/self/mountinfo");
    let all = mounts::read(root, own);
    let ours: Vec<&Mount> = all.iter().filter(|m| m.is_on(root, &tree)).collect();
    let within = |text: &Path| ours.iter().any(|m| text.starts_with(&m.point));
    let is_node = |text: &str| tree.is_source(root, text) || Path::new(text) == node;
    let mut found: Vec<Holder> = ours.iter().map(|m| kernel(MOUNT, m.point.display().to_string())).collect();

    let nested = |m: &&Mount| !m.is_on(root, &tree) && ours.iter().any(|o| o.id == m.parent);
    found.extend(all.iter().filter(nested).map(|m| {
        let (kind, point) = (&m.kind, m.point.display());
        kernel(MOUNT, format!("{kind} at {point}, on top of it"))
    }));
    found.extend(tree.stacked.iter().map(|name| kernel(DiskTree::describe(root, name), "is built on it")));
    let swaps = std::fs::read_to_string(root.path("/proc/swaps")).unwrap_or_default();
    let areas = swaps.lines().skip(1).filter_map(|l| l.split_whitespace().next());
    found.extend(areas.filter(|a| is_node(a) || within(Path::new(a))).map(|a| kernel("swap", a)));
    for name in names_in(&root.path("/sys/block")).iter().filter(|n| n.starts_with("loop")) {
        let file = read_trimmed(&root.path("/sys/block").join(name).join("loop/backing_file"));
        found.extend(file.filter(|f| within(Path::new(f))).map(|f| kernel(name, f)));
    }

    // Where it is or was mounted. What stands on that by a path lives on without the mount, but not on a disk that we hold.
    let below = |text: &Path| within(text) || points.iter().any(|p| text.starts_with(p));
    let layered = |mountinfo: &Path, is_ours: &dyn Fn(&Path) -> bool| {
        let all = if held { Vec::new() } else { layers::layered(root, mountinfo) };
        all.into_iter()
            .filter_map(|l| Some((l.layers.iter().find(|dir| is_ours(dir))?.clone(), l)))
            .map(|(dir, l)| format!("{} at {}, with layers on it ({})", l.kind, l.point.display(), dir.display()))
            .collect::<Vec<String>>()
    };
    let here = layered(own, &below);
    found.extend(here.iter().map(|text| kernel(MOUNT, text.as_str())));

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
        // A thread of ours that still writes a mount out is nobody to look for.
        let writes_out = |text: &Path| pid == std::process::id() && ours.iter().any(|m| m.point == text);
        let is_held = |text: &Path| is_node(&text.to_string_lossy()) || (within(text) && !writes_out(text));
        if let Some(what) = held_by_process(&dir, &is_held) {
            found.push(process(what));
        }
        if std::fs::read_link(dir.join("ns/mnt")).is_ok_and(|ns| namespaces.insert(ns)) {
            let table = Path::new("/proc").join(&name).join("mountinfo");
            let theirs = mounts::read(root, &table);
            if let Some(m) = theirs.iter().find(|m| m.is_on(root, &tree)) {
                found.push(process(format!("mounted at {} in its own namespace", m.point.display())));
            }
            let there = layered(&table, &below).into_iter().find(|text| !here.contains(text));
            found.extend(there.map(|text| process(format!("{text}, mounted in its own namespace"))));
        }
    }
    if found.is_empty() && !held && claimed(node) {
        found.extend(unseen(root, &tree, &below));
    }
    if found.is_empty() && !held && claimed(node) {
        found.push(kernel("the kernel", "it is claimed (by an array, a pool, a file system that is still closing)"));
    }
    found
}

/// Who holds it without anything open: programs with a part of a file in their memory, and the kernel's file server.
fn unseen(root: &Root, tree: &DiskTree, below: &dyn Fn(&Path) -> bool) -> Vec<Holder> {
    let mut found = Vec::new();
    for name in names_in(&root.path("/proc")) {
        let Ok(pid) = name.parse::<u32>() else { continue };
        let dir = root.path("/proc").join(&name);
        let maps = std::fs::read(dir.join("maps")).unwrap_or_default();
        let maps = String::from_utf8_lossy(&maps);
        // Addresses, permissions, offset, device, inode, path: proc_pid_maps(5).
        let is_ours = |line: &&str| {
            let mut fields = line.split_ascii_whitespace().skip(3);
            let number = fields.next().and_then(|n| n.split_once(':'));
            let number =
                number.and_then(|(a, b)| Some((u32::from_str_radix(a, 16).ok()?, u32::from_str_radix(b, 16).ok()?)));
            number.is_some_and(|n| tree.numbers.contains(&n)) || fields.nth(1).is_some_and(|p| below(Path::new(p)))
        };
        if let Some(line) = maps.lines().find(is_ours) {
            let file = line.split_ascii_whitespace().skip(5).collect::<Vec<_>>().join(" ");
            let comm = read_trimmed(&dir.join("comm")).unwrap_or_default();
            found.push(Holder { pid: Some(pid), comm, what: format!("has {file} in its memory") });
        }
    }
    let exports = std::fs::read_to_string(root.path("/proc/fs/nfsd/exports")).unwrap_or_default();
    let exported = exports.lines().filter_map(|l| l.split_whitespace().next());
    found.extend(exported.filter(|p| below(Path::new(p))).map(|p| kernel("the NFS server", format!("exports {p}"))));
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
        let all: Vec<String> = others(&t.root(), &node, false, &[]).iter().map(Holder::to_string).collect();
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

    #[test]
    fn what_stands_on_a_directory_of_it_is_named_also_when_that_is_unmounted() {
        let t = TestDir::new();
        let node = t.file("dev/nvme1n1", "");
        let layered = |id: u32, point: &str, dir: &str| {
            format!("{id} 1 0:{id} / {point} rw - overlay overlay rw,lowerdir=/lower,upperdir={dir},workdir=/w\n")
        };
        t.file("proc/self/mountinfo", &(layered(40, "/merged", "/data/up") + &layered(41, "/x", "/database")));
        t.link("proc/self/ns/mnt", "mnt:[1]");
        t.file("proc/10/comm", "podman\n");
        t.link("proc/10/ns/mnt", "mnt:[2]");
        let theirs = layered(40, "/merged", "/data/up") + &layered(50, "/", "/data/root/up");
        t.file("proc/10/mountinfo", &theirs);
        let who = |held: bool, points: &[&str]| {
            let points: Vec<PathBuf> = points.iter().map(PathBuf::from).collect();
            others(&t.root(), &node, held, &points).iter().map(Holder::to_string).collect::<Vec<_>>()
        };
        let expected = [
            "mount: overlay at /merged, with layers on it (/data/up)",
            "process 10 (podman): overlay at /, with layers on it (/data/root/up), mounted in its own namespace",
        ];
        assert_eq!(who(false, &["/data"]), expected);
        // It is not mounted there, or nobody can have it.
        assert!(who(false, &["/da"]).is_empty() && who(false, &[]).is_empty() && who(true, &["/data"]).is_empty());
    }

    #[test]
    fn who_has_nothing_open_is_named_too() {
        let t = TestDir::new();
        t.file("sys/block/nvme1n1/dev", "259:4\n");
        let tree = DiskTree::of(&t.root(), &t.file("dev/nvme1n1", ""));
        t.file("proc/7/comm", "db\n");
        t.file("proc/7/maps", "7f00-7f01 r--s 00000000 103:04 12    /data/a file\n");
        t.file("proc/8/comm", "sh\n");
        t.file("proc/8/maps", "7f00-7f01 r--p 00000000 08:01 12    /bin/sh\n7f02-7f03 rw-p 00000000 00:00 0 \n");
        t.file("proc/fs/nfsd/exports", "# Version 1.1\n/data/share\t10.0.0.0/8(rw)\n/other *(rw)\n");
        let all = unseen(&t.root(), &tree, &|p| p.starts_with("/data"));
        let all: Vec<String> = all.iter().map(Holder::to_string).collect();
        assert_eq!(all, ["process 7 (db): has /data/a file in its memory", "the NFS server: exports /data/share"]);
    }
}

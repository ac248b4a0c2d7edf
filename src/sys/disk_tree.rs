//! A disk with everything on it that the kernel knows as a device of its own: its partitions, and the mappings and
//! arrays (dm, md) that stand on one of them, however deep.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Root, names_in, read_trimmed};

/// Major and minor number.
pub(crate) type Number = (u32, u32);

/// A disk, its partitions and what stands on them.
#[derive(Debug, Clone, Default)]
pub(crate) struct DiskTree {
    /// Names as in `/sys/block`: the disk's first.
    pub(crate) names: Vec<String>,
    /// Their device numbers.
    pub(crate) numbers: BTreeSet<Number>,
    /// Those of `names` that are mappings or arrays.
    pub(crate) stacked: Vec<String>,
    /// Those that are partitions.
    pub(crate) partitions: Vec<String>,
}

impl DiskTree {
    /// The tree of the disk at `node`, a path such as `/dev/nvme1n1` (with the root before it).
    pub(crate) fn of(root: &Root, node: &Path) -> DiskTree {
        let mut tree = DiskTree::default();
        let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
        let known = |name: &String| root.path("/sys/block").join(name).is_dir();
        // A link that udev made (`/dev/sdf`) has no directory in sysfs; what it points to has one.
        let linked = || node.canonicalize().ok().as_deref().and_then(name);
        if let Some(name) = name(node).filter(known).or_else(|| linked().filter(known)).or_else(|| name(node)) {
            tree.add(root, root.path("/sys/block").join(&name), name);
        }
        tree.numbers.extend(number_of_node(node));
        tree
    }

    fn add(&mut self, root: &Root, dir: PathBuf, name: String) {
        if self.names.contains(&name) {
            return;
        }
        self.numbers.extend(read_trimmed(&dir.join("dev")).as_deref().and_then(parse_number));
        for holder in names_in(&dir.join("holders")) {
            let holder_dir = root.path("/sys/block").join(&holder);
            self.stacked.push(holder.clone());
            self.add(root, holder_dir, holder);
        }
        let partitions: Vec<String> = names_in(&dir).into_iter().filter(|n| n.starts_with(&name)).collect();
        self.names.push(name);
        for partition in partitions.into_iter().filter(|p| dir.join(p).join("dev").exists()) {
            self.partitions.push(partition.clone());
            self.add(root, dir.join(&partition), partition);
        }
    }

    /// Whether `source`, the device column of a table of the kernel, is one of these.
    pub(crate) fn is_source(&self, root: &Root, source: &str) -> bool {
        let Some(name) = source.strip_prefix("/dev/") else { return false };
        self.names.iter().any(|n| n == name)
            // The tables of the kernel know no root of ours: a disk in a test may be a link to a real one.
            || [root.path(source), PathBuf::from(source)]
                .iter()
                .any(|path| number_of_node(path).is_some_and(|n| self.numbers.contains(&n)))
    }

    /// How the kernel and people name a stacked device: `dm-0 (vg-data)`.
    pub(crate) fn describe(root: &Root, name: &str) -> String {
        match read_trimmed(&root.path("/sys/block").join(name).join("dm/name")) {
            Some(mapped) => format!("{name} ({mapped})"),
            None => name.to_owned(),
        }
    }
}

/// The number of the block device at `node`; `None` for anything else.
pub(crate) fn number_of_node(node: &Path) -> Option<Number> {
    let meta = std::fs::metadata(node).ok().filter(|m| m.file_type().is_block_device())?;
    Some((rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev())))
}

/// Reads `259:1`.
pub(crate) fn parse_number(text: &str) -> Option<Number> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::TestDir;

    #[test]
    fn partitions_and_what_stands_on_them_belong_to_the_disk() {
        let t = TestDir::new();
        t.file("sys/block/nvme1n1/dev", "259:4\n");
        t.file("sys/block/nvme1n1/size", "8\n");
        t.file("sys/block/nvme1n1/nvme1n1p1/dev", "259:5\n");
        t.file("sys/block/nvme1n1/nvme1n1p1/holders/dm-0/x", "");
        t.file("sys/block/dm-0/dev", "253:0\n");
        t.file("sys/block/dm-0/dm/name", "vg-data\n");
        t.file("sys/block/dm-0/holders/dm-1/x", "");
        t.file("sys/block/dm-1/dev", "253:1\n");
        // A loop can only be a damaged tree; it must end all the same.
        t.file("sys/block/dm-1/holders/nvme1n1p1/x", "");
        let tree = DiskTree::of(&t.root(), &t.file("dev/nvme1n1", ""));
        assert_eq!(tree.numbers, BTreeSet::from([(259, 4), (259, 5), (253, 0), (253, 1)]));
        assert_eq!(tree.names[0], "nvme1n1");
        assert_eq!(tree.partitions, ["nvme1n1p1"]);
        assert!(tree.is_source(&t.root(), "/dev/nvme1n1p1") && !tree.is_source(&t.root(), "nvme1n1p1"));
        assert_eq!(DiskTree::describe(&t.root(), "dm-0"), "dm-0 (vg-data)");
    }

    #[test]
    fn a_link_leads_to_the_disk() {
        let t = TestDir::new();
        t.file("sys/block/xvdf/dev", "202:80\n");
        t.file("dev/xvdf", "");
        t.link("dev/sdf", "xvdf");
        assert_eq!(DiskTree::of(&t.root(), &t.0.join("dev/sdf")).numbers, BTreeSet::from([(202, 80)]));
    }
}

//! What becomes of a disk that is to be mounted, from what was seen on it and what is known of its volume.

use crate::sys::probe::{Content, Found};

/// What is known of the volume that the disk is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct History {
    /// This instance made it.
    pub(crate) made: bool,
    /// It was made of a snapshot: what is on it is somebody's data.
    pub(crate) copied: bool,
    /// The journal says that an earlier run began `mkfs` on it, when it was proven blank, and did not see the end.
    pub(crate) half: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It holds this file system.
    Mount(Found),
    /// It may be formatted; with `consent`, only once that was found on the volume and taken off.
    Format { consent: bool },
    /// Neither, and why.
    Refuse(String),
}

/// Judges what was seen; `allowed` is the config's `format`. What could not be seen is not judged at all.
pub(crate) fn judge(content: &Content, allowed: bool, history: History) -> Verdict {
    let blank = match content {
        Content::FileSystem(found) => return Verdict::Mount(*found),
        Content::Blank => true,
        // Half a file system of our own is as good as blank. Anything that is known to be something is not ours to judge:
        // mkfs may have ended before the kill, and somebody may have used the disk since.
        Content::Other(found) => history.half && found.is_empty(),
    };
    if !blank {
        return Verdict::Refuse(format!("it holds {content}, no file system that can be mounted: look at it by hand"));
    }
    if !allowed {
        let why = "it is blank, and mount.format is never: set it to if-blank if it may be formatted";
        return Verdict::Refuse(why.to_owned());
    }
    Verdict::Format { consent: !history.half && (!history.made || history.copied) }
}

/// Whether the config's name of a file system fits what was found. The kernel mounts all of ext as ext4.
pub(crate) fn agree(wanted: &str, found: &str) -> bool {
    let ext = |s: &str| matches!(s, "ext2" | "ext3" | "ext4");
    let ntfs = |s: &str| matches!(s, "ntfs" | "ntfs3" | "ntfs-3g");
    wanted == found || (ext(wanted) && ext(found)) || (ntfs(wanted) && ntfs(found))
}

/// The words of `mkfs.FSTYPE` before the disk.
pub(crate) fn mkfs_arguments(fstype: &str, label: Option<&str>) -> Vec<String> {
    let (quiet, name) = match fstype {
        "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" => (Some("-q"), "-L"),
        "f2fs" => (Some("-q"), "-l"),
        "vfat" => (None, "-n"),
        _ => (None, "-L"),
    };
    let label = label.map(|l| [name.to_owned(), l.to_owned()]);
    quiet.map(str::to_owned).into_iter().chain(label.into_iter().flatten()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::probe::Use;

    const EXT4: Found = Found { kind: "ext4", role: Use::FileSystem, bytes: None };
    const LUKS: Found = Found { kind: "LUKS", role: Use::Member, bytes: None };

    #[test]
    fn only_what_is_blank_is_formatted() {
        for n in 0..16 {
            let [made, copied, half, allowed] = [1, 2, 4, 8].map(|bit| n & bit != 0);
            let history = History { made, copied, half };
            let of = |content| judge(&content, allowed, history);
            assert_eq!(of(Content::FileSystem(EXT4)), Verdict::Mount(EXT4));
            assert!(matches!(of(Content::Other(vec![LUKS])), Verdict::Refuse(why) if why.contains("it holds LUKS")));
            let consent = !half && (!made || copied);
            let formatted = |v| v == Verdict::Format { consent };
            assert_eq!(formatted(of(Content::Blank)), allowed, "{history:?}");
            assert_eq!(formatted(of(Content::Other(Vec::new()))), allowed && half, "{history:?}");
        }
    }

    #[test]
    fn names_that_mean_the_same() {
        assert!(agree("ext4", "ext2") && agree("xfs", "xfs") && agree("ntfs3", "ntfs"));
        assert!(!agree("xfs", "ext4") && !agree("ext4", "btrfs"));
    }

    #[test]
    fn each_mkfs_has_its_words() {
        let of = |fstype, label| mkfs_arguments(fstype, label).join(" ");
        assert_eq!(of("ext4", Some("world")), "-q -L world");
        assert_eq!(of("f2fs", Some("world")), "-q -l world");
        assert_eq!(of("xfs", None), "-q");
        assert_eq!(of("vfat", Some("w")), "-n w");
        assert_eq!(of("odd", None), "");
    }
}

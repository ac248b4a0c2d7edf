//! What becomes of a disk that is to be mounted, from what was seen on it and what is known of its volume.

use super::{create, tags};
use crate::aws::ec2::Volume;
use crate::sys::probe::{Content, Found, Use};

/// What is known of the volume that the disk is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct History {
    /// This instance made it.
    pub(crate) made: bool,
    /// It was made of a snapshot, or is a copy of a volume: what is on it is somebody's data.
    pub(crate) copied: bool,
    /// Why noise on it is not what EC2 shows of a volume that nobody wrote to; `None`: it is.
    pub(crate) used: Option<String>,
    /// Whether an earlier run began `mkfs` on it, when it was proven blank, and did not see the end.
    pub(crate) half: Half,
}

/// What the journal and the kernel say of a `mkfs` that was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    /// There was none.
    No,
    /// There was one, and somebody else may have written to the disk since.
    Unsure,
    /// Nobody has: whatever is on the disk is of that `mkfs`.
    Ours,
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
pub(crate) fn judge(content: &Content, allowed: bool, history: &History) -> Verdict {
    let blank = match content {
        Content::FileSystem(found) => return Verdict::Mount(*found),
        Content::Blank => true,
        Content::Noise => {
            if let Some(why) = &history.used {
                return Verdict::Refuse(format!(
                    "it holds noise. A new encrypted volume reads so, and so does what somebody has ciphered: {why}. If \
                     nothing on it is needed, delete it or format it by hand"
                ));
            }
            true
        }
        // Half a file system of our own is as good as blank. Anything that is known to be something is not ours to judge:
        // mkfs may have ended before the kill, and somebody may have used the disk since.
        Content::Other(found) if found.is_empty() && history.half == Half::Unsure => {
            return Verdict::Refuse(
                "an earlier run was cut off while it formatted it, and what it holds now is of that, or somebody has \
                 written it since: look at it by hand, and format it by hand if nothing on it is needed"
                    .to_owned(),
            );
        }
        Content::Other(found) => found.is_empty() && history.half == Half::Ours,
    };
    if !blank {
        return Verdict::Refuse(not_mounted(content));
    }
    if !allowed {
        let what = if *content == Content::Noise { "nothing was ever written to it" } else { "it is blank" };
        return Verdict::Refuse(format!(
            "{what}, and mount.format is never: set it to if-blank if it may be formatted"
        ));
    }
    Verdict::Format { consent: history.half == Half::No && (!history.made || history.copied) }
}

/// Why what was seen is not mounted.
fn not_mounted(content: &Content) -> String {
    let has = |role| matches!(content, Content::Other(found) if found.iter().any(|f| f.role == role));
    if has(Use::FileSystem) && has(Use::Table) {
        return format!(
            "it holds {content}: a file system of the whole disk beside a partition table. Who partitions a disk leaves \
             the old file system's mark there, and mounting that would destroy what is in the partitions: look at it by \
             hand, and take off with wipefs what is not used"
        );
    }
    format!("it holds {content}, no file system that can be mounted: look at it by hand")
}

/// Why noise on the volume is not what EC2 shows of one that nobody wrote to, as EC2 described it at the claim, or when it
/// was found here. `me` is this instance, whose own name on a volume that it made and never used tells of no use.
pub(crate) fn use_of(v: &Volume, me: &str) -> Option<String> {
    if !v.encrypted {
        return Some("EC2 does not say that it is encrypted".to_owned());
    }
    if let Some(of) = v.copy_of() {
        return Some(format!("it was made from {of}"));
    }
    // Off before the first byte is written by anybody.
    let unfinished = v.tag(tags::IN_TRANSIT).is_some_and(|t| create::is_token(t) && v.tag(tags::TRANSC_ID) == Some(t));
    let made = unfinished && v.tag(tags::OWNER) == Some(me);
    let tells = |key: &&str| v.tag(key).is_some() && !(made && *key == tags::OWNER);
    let key = [tags::TS_USED, tags::OWNER, tags::LINEAGE].into_iter().find(tells)?;
    Some(format!("its tag {key} tells of a use"))
}

/// How the check of a file system is called that is run before a mount, where there is one: the others repair what a crash
/// left when they are mounted.
pub(crate) fn fsck_argument(kind: &str) -> Option<&'static str> {
    match kind {
        "ext2" | "ext3" | "ext4" => Some("-p"),
        "vfat" | "f2fs" => Some("-a"),
        _ => None,
    }
}

/// Whether a check ended with `code` because it is older than the file system: it says so, in the locale C. That is no
/// statement about the disk.
pub(crate) fn is_too_old(code: u32, output: &[String]) -> bool {
    const LEFT_OR_FAILED: u32 = 4 | 8;
    let names = |line: &String| {
        let line = line.to_ascii_lowercase();
        line.contains("unsupported feature") || line.contains("unknown feature")
    };
    code & LEFT_OR_FAILED != 0 && code & !(LEFT_OR_FAILED | 3) == 0 && output.iter().any(names)
}

/// Whether the config's name of a file system fits what was found. The kernel mounts all of ext as ext4.
pub(crate) fn agree(wanted: &str, found: &str) -> bool {
    let ext = |s: &str| matches!(s, "ext2" | "ext3" | "ext4");
    let ntfs = |s: &str| matches!(s, "ntfs" | "ntfs3" | "ntfs-3g");
    wanted == found || (ext(wanted) && ext(found)) || (ntfs(wanted) && ntfs(found))
}

/// The words of `mkfs.FSTYPE` before the disk. With `noise`, it is not to stop at what chance has put there.
pub(crate) fn mkfs_arguments(fstype: &str, label: Option<&str>, noise: bool) -> Vec<String> {
    let (quiet, name) = match fstype {
        "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" => (Some("-q"), "-L"),
        "f2fs" => (Some("-q"), "-l"),
        "vfat" => (None, "-n"),
        // Not for its silence: without it, it asks.
        "jfs" => (Some("-q"), "-L"),
        _ => (None, "-L"),
    };
    let force = (noise && matches!(fstype, "xfs" | "btrfs" | "f2fs")).then_some("-f");
    let label = label.map(|l| [name.to_owned(), l.to_owned()]);
    quiet.into_iter().chain(force).map(str::to_owned).chain(label.into_iter().flatten()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::volumes::tests::volume;

    const EXT4: Found = Found { kind: "ext4", role: Use::FileSystem, bytes: None };
    const LUKS: Found = Found { kind: "LUKS", role: Use::Member, bytes: None };
    const GPT: Found = Found { kind: "GPT", role: Use::Table, bytes: None };

    #[test]
    fn only_what_is_blank_is_formatted() {
        for n in 0..48 {
            let [made, copied, used, allowed] = [1, 2, 4, 8].map(|bit| n & bit != 0);
            let half = [Half::No, Half::Unsure, Half::Ours][n / 16];
            let history = History { made, copied, half, used: used.then(|| "it was used".to_owned()) };
            let of = |content| judge(&content, allowed, &history);
            assert_eq!(of(Content::FileSystem(EXT4)), Verdict::Mount(EXT4));
            assert!(matches!(of(Content::Other(vec![LUKS])), Verdict::Refuse(why) if why.contains("it holds LUKS")));
            assert!(matches!(of(Content::Other(vec![EXT4, GPT])), Verdict::Refuse(why) if why.contains("wipefs")));
            let consent = half == Half::No && (!made || copied);
            let formatted = |v| v == Verdict::Format { consent };
            assert_eq!(formatted(of(Content::Blank)), allowed, "{history:?}");
            assert_eq!(formatted(of(Content::Noise)), allowed && !used, "{history:?}");
            let other = of(Content::Other(Vec::new()));
            assert_eq!(formatted(other.clone()), allowed && half == Half::Ours, "{history:?}");
            let told = matches!(other, Verdict::Refuse(why) if why.contains("somebody has written"));
            assert_eq!(told, half == Half::Unsure);
        }
    }

    #[test]
    fn what_tells_of_a_use() {
        let token = format!("ec2fd-{}", "0".repeat(40));
        let of = |encrypted, snapshot: Option<&str>, tags: &[(&str, &str)]| {
            let tags = tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let v = Volume { encrypted, snapshot_id: snapshot.map(str::to_owned), tags, ..volume("a", "available") };
            use_of(&v, "i-me").unwrap_or_default()
        };
        assert_eq!(of(false, None, &[]), "EC2 does not say that it is encrypted");
        assert_eq!(of(true, Some("snap-1"), &[]), "it was made from snap-1");
        let copy = Volume { encrypted: true, source_volume_id: Some("vol-1".to_owned()), ..volume("a", "available") };
        assert_eq!(use_of(&copy, "i-me").as_deref(), Some("it was made from vol-1"));
        assert_eq!(of(true, None, &[(tags::DOMAIN, "d"), (tags::FORMAT, "if-blank")]), "");
        let mine = [(tags::OWNER, "i-me"), (tags::TRANSC_ID, &token), (tags::IN_TRANSIT, &token)];
        assert_eq!(of(true, None, &mine), "");
        for key in [tags::TS_USED, tags::OWNER, tags::LINEAGE] {
            assert_eq!(of(true, None, &[(key, "x")]), format!("its tag {key} tells of a use"));
        }
        let told = |more: &[(&str, &str)], without: &str| {
            let all: Vec<_> = mine.iter().filter(|(k, _)| *k != without).chain(more).copied().collect();
            of(true, None, &all)
        };
        assert!(told(&[(tags::TS_USED, "2026")], "").contains(tags::TS_USED));
        assert!(told(&[(tags::LINEAGE, "vol-1")], "").contains(tags::LINEAGE));
        // It is finished, or it is somebody else's.
        assert!(told(&[], tags::IN_TRANSIT).contains(tags::OWNER) && told(&[], tags::TRANSC_ID).contains(tags::OWNER));
        assert!(told(&[(tags::OWNER, "i-2")], tags::OWNER).contains(tags::OWNER));
    }

    #[test]
    fn a_check_that_is_too_old_says_so() {
        let of = |code, line: &str| is_too_old(code, &["x".to_owned(), line.to_owned()]);
        let e2fsck = "/dev/nvme1n1 has unsupported feature(s): FEATURE_C12";
        assert!(of(12, e2fsck) && of(8, e2fsck) && of(4, e2fsck) && of(5, "Unknown feature 0x10"));
        assert!(!of(4, "UNEXPECTED INCONSISTENCY") && !of(8, "e2fsck: Bad magic number in super-block"));
        assert!(!of(0, e2fsck) && !of(3, e2fsck) && !of(24, e2fsck) && !of(40, e2fsck) && !of(137, e2fsck));
    }

    #[test]
    fn names_that_mean_the_same() {
        assert!(agree("ext4", "ext2") && agree("xfs", "xfs") && agree("ntfs3", "ntfs"));
        assert!(!agree("xfs", "ext4") && !agree("ext4", "btrfs"));
    }

    #[test]
    fn each_mkfs_has_its_words() {
        let of = |fstype, label| mkfs_arguments(fstype, label, false).join(" ");
        assert_eq!(of("ext4", Some("world")), "-q -L world");
        assert_eq!(of("f2fs", Some("world")), "-q -l world");
        assert_eq!(of("xfs", None), "-q");
        assert_eq!(of("vfat", Some("w")), "-n w");
        assert_eq!(of("odd", None), "");
        let on_noise = |fstype| mkfs_arguments(fstype, None, true).join(" ");
        assert_eq!(["xfs", "ext4", "vfat"].map(on_noise), ["-q -f", "-q", ""]);
    }
}

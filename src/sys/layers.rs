//! File systems that stand on directories of other ones: overlays and their like. They keep the disk below them in use,
//! also when nothing is mounted from it any more; only the text of their options tells.
//!
//! <https://docs.kernel.org/filesystems/overlayfs.html>

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::Root;
use super::mounts::unescape;

/// A file system with layers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layered {
    pub(super) kind: String,
    /// Where it is mounted.
    pub(super) point: PathBuf,
    /// The directories that it stands on, as whoever mounted it wrote them.
    pub(super) layers: Vec<PathBuf>,
}

/// Options that name directories; those of `lowerdir`, `br` and `dirs` are lists.
const LAYERS: [&str; 7] = ["lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir", "br", "dirs"];

/// Those in a mountinfo.
pub(super) fn layered(root: &Root, mountinfo: &Path) -> Vec<Layered> {
    let text = std::fs::read(root.path(mountinfo)).unwrap_or_default();
    text.split(|b| *b == b'\n').filter_map(parse).collect()
}

fn parse(line: &[u8]) -> Option<Layered> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let dash = fields.iter().skip(6).position(|f| *f == b"-")? + 6;
    let kind = String::from_utf8_lossy(fields.get(dash + 1)?).into_owned();
    let layers: Vec<PathBuf> = match kind.as_str() {
        // What it shows in another way is its source.
        "ecryptfs" => vec![path(unescape(fields.get(dash + 2)?))],
        "overlay" | "aufs" | "unionfs" | "fuse-overlayfs" | "fuse.fuse-overlayfs" => {
            let options = fields.get(dash + 3)?.split(|b| *b == b',');
            options.filter_map(layers_of).flatten().collect()
        }
        _ => return None,
    };
    let point = path(unescape(fields.get(4)?));
    Some(Layered { kind, point, layers: layers.into_iter().filter(|l| l.is_absolute()).collect() })
}

/// `upperdir=/a` or `lowerdir=/a:/b`.
fn layers_of(option: &[u8]) -> Option<Vec<PathBuf>> {
    let at = option.iter().position(|b| *b == b'=')?;
    let (name, value) = (std::str::from_utf8(option.get(..at)?).ok()?, unescape(option.get(at + 1..)?));
    if !LAYERS.contains(&name) {
        return None;
    }
    let is_list = ["lowerdir", "br", "dirs"].contains(&name);
    // A backslash takes its meaning from the colon (or comma) after it.
    let mut all = vec![Vec::new()];
    let mut bytes = value.into_iter();
    while let Some(b) = bytes.next() {
        match b {
            b'\\' => all.last_mut()?.extend(bytes.next()),
            b':' if is_list => all.push(Vec::new()),
            _ => all.last_mut()?.push(b),
        }
    }
    // Branches of aufs have their mode behind them.
    let mode = |b: &u8| *b == b'=' && name != "lowerdir";
    Some(
        all.into_iter()
            .map(|l| path(if is_list { l.split(mode).next().unwrap_or_default().to_vec() } else { l }))
            .collect(),
    )
}

fn path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::TestDir;

    #[test]
    fn the_directories_that_an_overlay_stands_on() {
        let t = TestDir::new();
        let line = |kind: &str, source: &str, options: &str| {
            format!("60 22 0:50 / /m\\040x rw,relatime shared:1 - {kind} {source} {options}\n")
        };
        let of = |text: &str| {
            t.file("proc/self/mountinfo", text);
            let all = layered(&t.root(), Path::new("/proc/self/mountinfo"));
            all.into_iter().flat_map(|l| l.layers).map(|p| p.display().to_string()).collect::<Vec<_>>()
        };
        let cases = [
            (
                r"rw,lowerdir=/a:/b\134:c:l/REL,upperdir=/up\040dir,workdir=/w,index=off",
                vec!["/a", "/b:c", "/up dir", "/w"],
            ),
            (r"rw,lowerdir+=/a:b,datadir+=/d\054e,redirect_dir=on", vec!["/a:b", "/d,e"]),
            ("rw", vec![]),
        ];
        for (options, expected) in cases {
            assert_eq!(of(&line("overlay", "overlay", options)), expected, "{options}");
        }
        assert_eq!(of(&line("ecryptfs", "/data/private", "rw,ecryptfs_sig=1")), ["/data/private"]);
        assert_eq!(of(&line("aufs", "none", "rw,br=/rw=rw:/ro=ro")), ["/rw", "/ro"]);
        // A subvolume of btrfs has a path that is of its own file system.
        assert!(of(&line("btrfs", "/dev/x", "rw,subvol=/data,upperdir=/a")).is_empty());
        t.file("proc/self/mountinfo", &line("overlay", "none", "rw,upperdir=/u"));
        assert_eq!(layered(&t.root(), Path::new("/proc/self/mountinfo"))[0].point, Path::new("/m x"));
    }
}

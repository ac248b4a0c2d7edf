//! `mount` and `release` of an `attach-volume` directive.

use super::json5::{Node, Value};
use super::problem::quoted;
use super::reader::{Object, Reader};
use super::{Release, exec};
use crate::model::Event;

const KEYS: [&str; 10] = ["path", "fstype", "options", "format", "label", "owner", "group", "mode", "fsck", "grow"];

/// Where the disk is mounted, and how it is made ready for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Its path in the config.
    pub(crate) key: String,
    /// The mount point, absolute.
    pub(crate) path: String,
    /// As the kernel names it; `None`: what the superblock says.
    pub(crate) fstype: Option<String>,
    /// As in fstab, separated by commas.
    pub(crate) options: String,
    /// A disk that is proven to be blank may be formatted.
    pub(crate) format: bool,
    /// The label of a file system that is made.
    pub(crate) label: Option<String>,
    /// Name or number that the root of the file system belongs to.
    pub(crate) owner: Option<String>,
    /// The same for the group.
    pub(crate) group: Option<String>,
    /// The permissions of the root of the file system.
    pub(crate) mode: Option<u32>,
    /// The file system is checked before it is mounted.
    pub(crate) fsck: bool,
    /// It is made as large as its disk.
    pub(crate) grow: bool,
}

impl Mount {
    /// The file system that is made on a blank disk.
    pub(crate) fn new_fstype(&self) -> &str {
        self.fstype.as_deref().unwrap_or(DEFAULT_FSTYPE)
    }

    /// Whether it is mounted so that nothing can be written.
    pub(crate) fn is_read_only(&self) -> bool {
        self.options.split(',').any(|o| o.trim() == "ro")
    }

    /// Why `mkfs` will not take the label; `None` if it will, or if nobody knows.
    pub(crate) fn bad_label(&self) -> Option<String> {
        match label_problem(self.new_fstype(), self.label.as_deref()?)? {
            LabelProblem::Refused(why) => Some(why),
            LabelProblem::Cut(_) => None,
        }
    }
}

/// What `mkfs` makes of a label that does not fit.
enum LabelProblem {
    /// It writes nothing.
    Refused(String),
    /// It writes the beginning of it.
    Cut(String),
}

/// The limits of labels, as the makers of file systems have them: mke2fs(8), mkfs.xfs(8), mkfs.fat(8), mkfs.btrfs(8),
/// mkfs.f2fs(8), mkfs.exfat(8), mkntfs(8), jfs_mkfs(8), mkfs.nilfs2(8), bcachefs(8), mkreiserfs(8), mkfs.ocfs2(8).
fn label_problem(fstype: &str, label: &str) -> Option<LabelProblem> {
    let bytes = label.len();
    let (long, most, what) = match fstype {
        "ext2" | "ext3" | "ext4" | "jfs" => (bytes, 16, "bytes"),
        "xfs" => (bytes, 12, "bytes"),
        "vfat" | "msdos" | "fat" => (bytes, 11, "characters"),
        "btrfs" => (bytes, 255, "bytes"),
        "f2fs" => (bytes, 512, "bytes"),
        "nilfs2" => (bytes, 80, "bytes"),
        "bcachefs" => (bytes, 32, "bytes"),
        "reiserfs" => (bytes, 16, "bytes"),
        "ocfs2" => (bytes, 64, "bytes"),
        // In UTF-16.
        "exfat" => (label.encode_utf16().count(), 11, "characters"),
        "ntfs" => (label.encode_utf16().count(), 128, "characters"),
        _ => return None,
    };
    // Its code page is not known here.
    let odd = |c: char| !matches!(c, ' '..='~') || "*?.,;:/\\|+=<>[]\"".contains(c);
    if matches!(fstype, "vfat" | "msdos" | "fat")
        && let Some(c) = label.chars().find(|c| odd(*c))
    {
        return Some(LabelProblem::Refused(format!("{c:?} cannot be in a label of {fstype}")));
    }
    let text = || format!("{} has {long} {what}, and a label of {fstype} has {most} at most", quoted(label));
    match fstype {
        _ if long <= most => None,
        "ext2" | "ext3" | "ext4" | "jfs" => Some(LabelProblem::Cut(format!("{}: it is cut", text()))),
        _ => Some(LabelProblem::Refused(text())),
    }
}

/// The file system that is made where the config names none.
const DEFAULT_FSTYPE: &str = "ext4";

/// Reads `o.mount`.
pub(super) fn mount(r: &mut Reader, o: &Object<'_>) -> Option<Mount> {
    let key = o.path_of("mount");
    let m = r.object(o.get("mount")?, &key, &KEYS)?;
    let path = point(r, &m);
    let fstype = r.string(&m, "fstype").map(str::to_owned);
    if let (Some(name), Some(node)) = (&fstype, m.get("fstype"))
        && !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    {
        // It becomes part of a command's name.
        r.problem(&m.path_of("fstype"), node.at, format!("{} is no file system, such as ext4", quoted(name)));
    }
    let format = r.word(&m, "format", &[("never", false), ("if-blank", true)], &[]).unwrap_or(false);
    let label = r.string(&m, "label").map(str::to_owned);
    if let (Some(_), false, Some(node)) = (&label, format, m.get("label")) {
        r.warn(&m.path_of("label"), node.at, "has no effect: nothing is formatted");
    } else if let (Some(label), Some(node)) = (&label, m.get("label")) {
        match label_problem(fstype.as_deref().unwrap_or(DEFAULT_FSTYPE), label) {
            // A disk that has a file system is mounted all the same.
            Some(LabelProblem::Refused(why)) => {
                r.warn(&m.path_of("label"), node.at, format!("{why}: nothing will be formatted"));
            }
            Some(LabelProblem::Cut(why)) => r.warn(&m.path_of("label"), node.at, why),
            None => {}
        }
    }
    Some(Mount {
        options: r.string(&m, "options").unwrap_or_default().to_owned(),
        owner: name_or_number(r, &m, "owner"),
        group: name_or_number(r, &m, "group"),
        mode: mode(r, &m),
        fsck: r.word(&m, "fsck", &[("auto", true), ("skip", false)], &[]).unwrap_or(true),
        grow: r.bool(&m, "grow", true),
        path: path?,
        key,
        fstype,
        format,
        label,
    })
}

/// Reads `o.release`: `["interrupted"]`, or `{ on: ["interrupted"], lazy: true }`, where it may have these keys.
pub(super) fn release(r: &mut Reader, o: &Object<'_>, keys: &[&str]) -> Option<Release> {
    let node = o.get("release")?;
    let path = o.path_of("release");
    let (nodes, lazy) = match &node.value {
        Value::Array(_) => (r.array(o, "release"), false),
        Value::Object(_) => {
            let inner = r.object(node, &path, keys)?;
            r.required(&inner, "on")?;
            (r.array(&inner, "on"), r.bool(&inner, "lazy", false))
        }
        _ => {
            r.wrong_type(&path, node, "an array of events, such as [\"interrupted\"],");
            return None;
        }
    };
    let mut on = Vec::new();
    for (path, node) in nodes {
        let Some(event) = r.text(node, &path).and_then(|word| exec::event(r, word, &path, node.at)) else { continue };
        if matches!(event, Event::Starting | Event::Started | Event::Rebalance) {
            let text = format!(
                "nothing is released on {}: interrupted, stopping, failed, maintenance and terminating are possible",
                event.name()
            );
            r.problem(&path, node.at, text);
        } else if !on.contains(&event) {
            on.push(event);
        }
    }
    Some(Release { on, lazy })
}

/// An absolute path that says where it leads: no `.`, no `..`, no final slash.
fn point(r: &mut Reader, m: &Object<'_>) -> Option<String> {
    let text = r.required_string(m, "path")?;
    let node = m.get("path")?;
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    if text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(plain)) {
        return Some(text.to_owned());
    }
    r.problem(&m.path_of("path"), node.at, format!("{} is not an absolute path, such as /data", quoted(text)));
    None
}

fn name_or_number(r: &mut Reader, m: &Object<'_>, key: &str) -> Option<String> {
    let node = m.get(key)?;
    match &node.value {
        Value::Integer(i) if u32::try_from(*i).is_ok_and(|i| i != u32::MAX) => Some(i.to_string()),
        Value::Integer(_) => {
            r.problem(&m.path_of(key), node.at, "is out of range");
            None
        }
        _ => r.string(m, key).map(str::to_owned),
    }
}

/// Octal digits in a text: JSON has no octal numbers, and a decimal one would be taken for what it is not.
fn mode(r: &mut Reader, m: &Object<'_>) -> Option<u32> {
    let node: &Node = m.get("mode")?;
    let path = m.path_of("mode");
    let Value::String(text) = &node.value else {
        r.wrong_type(&path, node, "a string of octal digits, such as \"0750\",");
        return None;
    };
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777 && !text.starts_with('+'));
    if mode.is_none() {
        r.problem(&path, node.at, format!("{} is no mode, such as \"0750\"", quoted(text)));
    }
    mode
}

//! A `mount` that finds its disk mounted already.
//!
//! Commands run again in a second run, and `mount` ends with [`FAILED`] then. That is success where what it names is
//! mounted at the place that it names, and only there: it is also the code for everything else that goes wrong.

use std::path::Path;

/// "mount failure" of mount(8).
pub(super) const FAILED: u32 = 32;

/// Options of mount(8) whose value is the next argument.
const WITH_VALUE: [&str; 13] =
    ["-o", "--options", "-t", "--types", "-O", "--test-opts", "-L", "--label", "-U", "--uuid", "-T", "--fstab", "-N"];

/// What a `mount` was to mount, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub(super) point: &'a Path,
    /// The device, if it is named by its path.
    pub(super) source: Option<&'a Path>,
}

/// Whether a command is `mount`.
pub(super) fn is_mount(argv0: &str) -> bool {
    Path::new(argv0).file_name().is_some_and(|name| name == "mount")
}

/// The target of a `mount`; `None`: it is none, or of a form that is not understood.
pub(super) fn target(argv: &[String]) -> Option<Target<'_>> {
    let (argv0, arguments) = argv.split_first()?;
    if !is_mount(argv0) {
        return None;
    }
    let mut words = Vec::new();
    let mut point = None;
    let mut arguments = arguments.iter().map(String::as_str);
    while let Some(word) = arguments.next() {
        match word {
            "--target" => point = arguments.next(),
            "--source" => words.extend(arguments.next()),
            _ if WITH_VALUE.contains(&word) => drop(arguments.next()),
            _ if word.starts_with("--target=") => point = word.strip_prefix("--target="),
            _ if word.starts_with('-') => {}
            _ => words.push(word),
        }
    }
    let (source, point) = match (words.as_slice(), point) {
        ([source], Some(point)) => (Some(*source), point),
        ([], Some(point)) => (None, point),
        ([point], None) => (None, *point),
        ([source, point], None) => (Some(*source), *point),
        _ => return None,
    };
    let source = source.map(Path::new).filter(|s| s.is_absolute());
    Some(Target { point: Path::new(point), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_where() {
        let cases: [(&str, Option<(&str, Option<&str>)>); 12] = [
            ("/bin/mount /mnt/mc", Some(("/mnt/mc", None))),
            ("mount /dev/xvdf /mnt", Some(("/mnt", Some("/dev/xvdf")))),
            ("mount -t ext4 -o ro,noatime /dev/xvdf /mnt", Some(("/mnt", Some("/dev/xvdf")))),
            ("mount /dev/xvdf /mnt -o ro", Some(("/mnt", Some("/dev/xvdf")))),
            ("mount -v LABEL=world /mnt", Some(("/mnt", None))),
            ("mount -L world /mnt", Some(("/mnt", None))),
            ("mount --source /dev/xvdf --target /mnt", Some(("/mnt", Some("/dev/xvdf")))),
            ("mount --target=/mnt", Some(("/mnt", None))),
            ("mount -a", None),
            ("mount a b c", None),
            ("mount", None),
            ("umount /mnt", None),
        ];
        for (line, wanted) in cases {
            let argv: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let wanted = wanted.map(|(p, s)| Target { point: Path::new(p), source: s.map(Path::new) });
            assert_eq!(target(&argv), wanted, "{line}");
        }
        assert_eq!(target(&[]), None);
    }
}

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
        // (command, mount point, device); empty: none
        let cases = [
            ("/bin/mount /mnt/mc", "/mnt/mc", ""),
            ("mount /dev/xvdf /mnt", "/mnt", "/dev/xvdf"),
            ("mount -t ext4 -o ro,noatime /dev/xvdf /mnt", "/mnt", "/dev/xvdf"),
            ("mount /dev/xvdf /mnt -o ro", "/mnt", "/dev/xvdf"),
            ("mount -v LABEL=world /mnt", "/mnt", ""),
            ("mount -L world /mnt", "/mnt", ""),
            ("mount --source /dev/xvdf --target /mnt", "/mnt", "/dev/xvdf"),
            ("mount --target=/mnt", "/mnt", ""),
            ("mount -a", "", ""),
            ("mount a b c", "", ""),
            ("mount", "", ""),
            ("umount /mnt", "", ""),
        ];
        for (line, point, source) in cases {
            let argv: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let path = |text: &'static str| Some(Path::new(text)).filter(|_| !text.is_empty());
            assert_eq!(target(&argv), path(point).map(|point| Target { point, source: path(source) }), "{line}");
        }
        assert_eq!(target(&[]), None);
    }
}

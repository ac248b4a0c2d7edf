//! Which file systems the kernel can mount, and with which options, as far as it tells before there is one.

use std::fs::File;
use std::io::{self, Read};

use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsconfig_set_flag, fsconfig_set_string, fsopen};

use super::{Root, beside, mounting, read_trimmed};
use crate::scope::Scope;

const UNKNOWN: &str = "this kernel does not know the file system";

/// Why the kernel will not mount an `fstype` with these options of fstab. `None`: it will, or nobody can tell yet.
pub(crate) fn refusal(root: &Root, fstype: &str, options: &str, scope: &Scope) -> Option<String> {
    if !may_be_known(root, fstype) {
        return Some(format!("{UNKNOWN}, and has no module for it"));
    }
    let (_, words) = mounting::options(options);
    let fstype = fstype.to_owned();
    // It may load the module. What does not answer is left to the mount.
    beside(scope, Box::new(move || asked(&fstype, &words))).unwrap_or(None)
}

/// Whether the kernel lists the file system, or may have a module for it.
fn may_be_known(root: &Root, fstype: &str) -> bool {
    let Ok(listed) = std::fs::read_to_string(root.path("/proc/filesystems")) else { return true };
    if listed.lines().any(|line| line.split('\t').next_back() == Some(fstype)) {
        return true;
    }
    // A kernel that loads no modules lists all that it has.
    root.path("/proc/modules").exists() && may_be_module(root, fstype)
}

/// Whether there is a module of that name, or one that says that it is for that file system. Where the lists of modules
/// cannot be read, there may be.
fn may_be_module(root: &Root, fstype: &str) -> bool {
    let Some(release) = read_trimmed(&root.path("/proc/sys/kernel/osrelease")) else { return true };
    let lists = |list: &str| {
        let dirs = ["/lib/modules", "/usr/lib/modules"].map(|dir| root.path(dir).join(&release).join(list));
        dirs.iter().find_map(|path| std::fs::read_to_string(path).ok())
    };
    let Some(modules) = lists("modules.dep") else { return true };
    let modules = modules + &lists("modules.builtin").unwrap_or_default();
    let plain = |name: &str| name.replace('-', "_");
    let is_it = |line: &str| {
        let path = line.split(':').next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        name.split_once(".ko").is_some_and(|(name, _)| plain(name) == plain(fstype))
    };
    // `alias fs-iso9660 isofs`
    let alias = plain(&format!("fs-{fstype}"));
    let names_it = |line: &str| line.split_ascii_whitespace().nth(1).is_some_and(|name| plain(name) == alias);
    modules.lines().any(is_it) || lists("modules.alias").is_some_and(|text| text.lines().any(names_it))
}

/// Asks the kernel itself, where it takes the options of a mount one by one (since Linux 5.2). Nothing is mounted.
fn asked(fstype: &str, words: &str) -> io::Result<Option<String>> {
    let context = match fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(context) => context,
        Err(Errno::NODEV) => return Ok(Some(UNKNOWN.to_owned())),
        Err(e) => return Err(e.into()),
    };
    // A security module takes its own ones with commas in quotation marks.
    for word in words.split(',').filter(|w| !w.is_empty() && !words.contains('"')) {
        let end = match word.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&context, key, value),
            None => fsconfig_set_flag(&context, word),
        };
        if end == Err(Errno::INVAL) {
            let mut said = [0; 256];
            let length = File::from(context).read(&mut said).unwrap_or(0);
            let said = String::from_utf8_lossy(said.get(..length).unwrap_or_default()).into_owned();
            // A letter for how bad it is comes first.
            let said = said.trim().split_once(' ').map(|(_, text)| format!(": {text}")).unwrap_or_default();
            return Ok(Some(format!("the kernel does not take the option {word} for it{said}")));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::TestDir;

    #[test]
    fn what_the_kernel_knows_or_may_load() {
        let t = TestDir::new();
        let known = |name: &str| may_be_known(&t.root(), name);
        assert!(known("jfs"), "nothing can be told");
        t.file("proc/filesystems", "nodev\tsysfs\n\text4\n");
        assert!(known("ext4") && !known("jfs"), "it loads no modules");
        t.file("proc/modules", "");
        assert!(known("jfs"));
        t.file("proc/sys/kernel/osrelease", "6.1.0-9\n");
        assert!(known("jfs"));
        let dir = "usr/lib/modules/6.1.0-9";
        t.file(&format!("{dir}/modules.dep"), "kernel/fs/jfs/jfs.ko.xz: kernel/lib/crc.ko.xz\nkernel/fs/odd-fs.ko:\n");
        assert!(known("jfs") && known("odd_fs") && !known("crc") && !known("jf") && !known("xfs"));
        t.file(&format!("{dir}/modules.builtin"), "kernel/fs/xfs/xfs.ko\n");
        t.file(&format!("{dir}/modules.alias"), "# x\nalias fs-iso9660 isofs\n");
        assert!(known("xfs") && known("iso9660") && !known("isofs2"));
    }
}

//! Reboot and power-off: who is to be asked for it here, and reboot(2) where there is nobody.
//!
//! A running system is taken down by its service manager, which stops what runs and unmounts. In an initramfs there is
//! nothing to stop and perhaps nobody to ask: there it is the kernel.
//!
//! **No test and no rehearsal may ever take a machine down.** With a root that is not the machine's own, programs are
//! looked for below it only. And a debug build does nothing at all to a real machine.

use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::{Root, beside};
use crate::scope::Scope;

/// Where such programs are, whatever `PATH` says.
const PLACES: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// How long it may take to write everything out: a disk that does not answer keeps no machine up.
const WRITE_OUT: Duration = Duration::from_secs(30);

/// File systems that a reboot empties: tmpfs, ramfs.
const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// Whether this build may act on a real machine.
const MAY: bool = !cfg!(any(test, debug_assertions));

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Power {
    /// The machine boots anew.
    Reboot,
    /// The machine is switched off.
    Off,
}

impl Power {
    /// The word of systemctl, and the name of the program elsewhere.
    fn word(self) -> &'static str {
        match self {
            Power::Reboot => "reboot",
            Power::Off => "poweroff",
        }
    }
}

/// How it is done here: by this command, or (`None`) by [`by_kernel`]. `path` is `PATH`.
pub(crate) fn command(root: &Root, path: &OsStr, power: Power) -> Option<Vec<String>> {
    let of = |program: PathBuf, words: &[&str]| {
        let words = words.iter().map(|w| (*w).to_owned());
        Some(std::iter::once(program.to_str()?.to_owned()).chain(words).collect())
    };
    // As sd_booted(3) tells.
    if root.path("/run/systemd/system").is_dir()
        && let Some(program) = find(root, path, "systemctl")
    {
        return of(program, &["--no-block", power.word()]);
    }
    if is_initramfs(root) {
        // There `poweroff` signals an init that is a script.
        return None;
    }
    of(find(root, path, power.word())?, &[])
}

/// Writes everything out and asks the kernel. Comes back only with an error.
pub(crate) fn by_kernel(root: &Root, power: Power, scope: &Scope) -> io::Result<()> {
    if !MAY || !root.is_real() {
        return Err(io::Error::other("reboot(2) is not for tests"));
    }
    let written = beside(
        &scope.within(WRITE_OUT),
        Box::new(|| {
            rustix::fs::sync();
            Ok(())
        }),
    );
    if written.is_err() {
        log::warn!("not everything could be written out within {} s", WRITE_OUT.as_secs());
    }
    Ok(rustix::system::reboot(match power {
        Power::Reboot => rustix::system::RebootCommand::Restart,
        Power::Off => rustix::system::RebootCommand::PowerOff,
    })?)
}

/// Whether what is written to `path` (or to what it will be made in) is gone after a reboot.
pub(crate) fn is_in_memory(path: &Path) -> bool {
    let there = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    kind(there).is_some_and(|k| IN_MEMORY.contains(&k))
}

fn kind(path: &Path) -> Option<u32> {
    // Its width and sign differ between processors.
    rustix::fs::statfs(path).ok().map(|s| s.f_type as u32)
}

fn is_initramfs(root: &Root) -> bool {
    root.path("/etc/initrd-release").exists() || (root.is_real() && is_in_memory(Path::new("/")))
}

fn find(root: &Root, path: &OsStr, name: &str) -> Option<PathBuf> {
    if !MAY && root.is_real() {
        return None;
    }
    // `..` could lead out of the root.
    let plain = |d: &PathBuf| d.is_absolute() && !d.components().any(|c| c == Component::ParentDir);
    let dirs = std::env::split_paths(path).chain(std::env::split_paths(PLACES));
    dirs.filter(plain).map(|d| root.path(d).join(name)).find(|file| {
        let inside = root.is_real()
            || file.canonicalize().is_ok_and(|f| root.path("/").canonicalize().is_ok_and(|r| f.starts_with(r)));
        inside && file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::clock::Clock;
    use crate::sys::testing::TestDir;

    fn scope() -> Scope {
        Scope::new(&std::sync::Arc::new(Clock::new(None).unwrap()), WRITE_OUT, None)
    }

    fn program(t: &TestDir, path: &str) -> String {
        let file = t.file(path, "#!/bin/sh\n");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        file.to_str().unwrap().to_owned()
    }

    #[test]
    fn the_manager_is_asked_then_a_program_and_in_an_initramfs_the_kernel() {
        let t = TestDir::new();
        let ask = |power| command(&t.root(), OsStr::new("/opt/bin:relative:/usr/../opt"), power);
        assert_eq!(ask(Power::Off), None);
        let off = program(&t, "/sbin/poweroff");
        assert_eq!((ask(Power::Off), ask(Power::Reboot)), (Some(vec![off.clone()]), None));
        let systemctl = program(&t, "/opt/bin/systemctl");
        assert_eq!(ask(Power::Off), Some(vec![off]));
        t.file("/etc/initrd-release", "");
        assert_eq!(ask(Power::Off), None);
        std::fs::create_dir_all(t.0.join("run/systemd/system")).unwrap();
        let by_systemd = |word: &str| Some(vec![systemctl.clone(), "--no-block".to_owned(), word.to_owned()]);
        assert_eq!((ask(Power::Off), ask(Power::Reboot)), (by_systemd("poweroff"), by_systemd("reboot")));
    }

    #[test]
    fn nothing_outside_of_a_tests_root_is_ever_found() {
        let scope = scope();
        let t = TestDir::new();
        std::fs::create_dir_all(t.0.join("run/systemd/system")).unwrap();
        std::fs::create_dir_all(t.0.join("bin")).unwrap();
        // There is a real one of each on most machines, and a link leads to it.
        t.link("/usr/bin/systemctl", "/bin/sh");
        t.link("/sbin/reboot", "/bin/sh");
        let real = std::env::var_os("PATH").unwrap_or_default();
        for power in [Power::Reboot, Power::Off] {
            assert_eq!(command(&t.root(), &real, power), None);
            assert_eq!(by_kernel(&t.root(), power, &scope).unwrap_err().to_string(), "reboot(2) is not for tests");
        }
    }

    #[test]
    fn a_debug_build_leaves_the_real_machine_alone() {
        let scope = scope();
        let real = Root::at(Path::new("/"));
        for power in [Power::Reboot, Power::Off] {
            assert_eq!(command(&real, OsStr::new("/usr/bin:/bin:/sbin:/usr/sbin"), power), None);
            assert!(by_kernel(&real, power, &scope).is_err());
        }
    }

    #[test]
    fn what_memory_holds() {
        assert!(!is_in_memory(Path::new("/proc/self/no-such-file")));
        // Not everywhere is it a tmpfs.
        let kind = kind(Path::new("/dev/shm"));
        assert_eq!(is_in_memory(Path::new("/dev/shm/none/there")), kind == Some(IN_MEMORY[0]));
    }
}

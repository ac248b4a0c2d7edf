//! The machine below us: block devices, mounts, locks, journals, signals, the host name, its power, systemd's readiness protocol.
//!
//! Everything that is a path under `/dev`, `/sys`, `/proc` or `/run` goes through [`Root`], so that a test can put a
//! tree of plain files in its place. Nothing here knows AWS or the config.
//!
//! # A disk may never answer
//!
//! A volume whose connection is lost lets whoever touches it wait, in the kernel and beyond any signal. So all that may
//! come to such a disk is done [`beside`] the caller, in a thread that is left behind when the time is over, and a wait of
//! some seconds is told of ([`crate::waits`]):
//!
//! | what | where | bounded by |
//! |---|---|---|
//! | first read of a disk | `block::node_ready` | a minute, then the disk is looked for anew, until the directive's end |
//! | superblocks, noise, sync before a format | `apply::format` | the directive's end |
//! | exclusive open | `mounting::hold`, `holders::Alone` | the directive's end; the share of the unmount |
//! | close of what was held | `holders::{Alone, let_go}` | not waited for; or the directive's end, the share of the unmount |
//! | size, for growing | `mounting::size_of` | the directive's end |
//! | where a mount path leads to | `mounting::{real_path, resolve}` | the directive's end; 5 s for all paths of the config |
//! | what a path shows, after a command `mount` | `mounted_from` | the command's end |
//! | `mkdir`, list, seal of a mount point; owner and mode | `mounting::{make_point, set_owner}` | the directive's end |
//! | mount(2), and taking back a wrong one | `mounting::{mount, unmount}` | the directive's end |
//! | `syncfs` and umount(2) | `mounts::unmount_all`, `mounts::unmount_at` | the share of the unmount |
//! | `syncfs` before a lazy umount, and that | `mounts::unmount_lazily` | a quarter of that share, kept for it |
//! | looking for who holds a disk | `holders::{holders, look}` | the share of the unmount, or of the detachment |
//! | `syncfs` before a freeze | `freeze::sync` | half of the snapshot's time |
//! | stat of what is to be frozen, the freeze | `freeze::freeze`, its guard | 5 s; the guard ends it after 8 s |
//! | thawing | `freeze::thaw_left`, the guard's end | 10 s, then it goes on unattended |
//! | looking for a tool, where `PATH` may lead to such a disk | `mounting::tool` | 2 s for each directory |
//! | `fsck`, `mkfs`, `resize2fs` and the like | `exec::Runner::run_tool` | the directive's end |
//! | the config, a file of anybody's | `daemon::setup` | the time for metadata and config |
//!
//! What is done without it touches only the kernel's memory: `/proc` (links are read, never followed), `/sys`, nodes in
//! `/dev` (which are looked at, not opened), and files in `/run`. A process with such a thread ends only when the kernel
//! lets go of that: its work is done by then.

pub(crate) mod announced;
pub(crate) mod block;
pub(crate) mod device_names;
pub(crate) mod disk_tree;
pub(crate) mod file_systems;
pub(crate) mod freeze;
pub(crate) mod holders;
pub(crate) mod hostname;
pub(crate) mod journal;
mod layers;
pub(crate) mod lock;
pub(crate) mod mkfs;
mod mounted_at;
pub(crate) mod mounted_from;
pub(crate) mod mounting;
pub(crate) mod mounts;
pub(crate) mod notify;
pub(crate) mod power;
pub(crate) mod probe;
pub(crate) mod run_dir;
pub(crate) mod signals;
pub(crate) mod start;
pub(crate) mod use_lock;
pub(crate) mod written;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use crate::parallel;
use crate::scope::{Halt, Scope};
use crate::waits::waiting;

/// What stands before `/dev`, `/sys`, `/proc` and `/run`: nothing, or the directory in `EC2FLEETD_ROOT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root(Option<PathBuf>);

impl Root {
    /// The root that the environment names.
    pub(crate) fn from_env() -> Root {
        match std::env::var_os("EC2FLEETD_ROOT") {
            Some(dir) => Root::at(Path::new(&dir)),
            None => Root(None),
        }
    }

    /// The root at `dir`; an empty one and `/` are the real one.
    pub(crate) fn at(dir: &Path) -> Root {
        if dir.as_os_str().is_empty() || dir == Path::new("/") {
            return Root(None);
        }
        // Commands get paths below it and may run elsewhere.
        Root(Some(std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf())))
    }

    /// Where `path` (absolute) is really. Commands get this path too; on a real system it is `path` itself.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        match &self.0 {
            None => path.to_path_buf(),
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
        }
    }

    /// Whether this is the machine's own root.
    pub(crate) fn is_real(&self) -> bool {
        self.0.is_none()
    }
}

/// How soon [`beside`] sees that it need not go on.
const LOOK: Duration = Duration::from_millis(250);
/// What is as good as done when the time is over is not taken for a disk that does not answer.
const LAST: Duration = Duration::from_millis(100);

/// Does what may take very long, and on a dead disk for ever. It has a thread of its own, so that `scope` still ends:
/// that is `TimedOut`, and the thread is left behind.
pub(crate) fn beside<T: Send + 'static>(
    scope: &Scope,
    work: Box<dyn FnOnce() -> io::Result<T> + Send>,
) -> io::Result<T> {
    let (done, wait) = mpsc::channel();
    parallel::background("beside", Box::new(move || drop(done.send(work()))));
    loop {
        match wait.recv_timeout(scope.clock.nap(scope.remaining()).min(LOOK)) {
            Ok(end) => return end,
            Err(mpsc::RecvTimeoutError::Timeout) if scope.check().is_ok() => {}
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// The same, and says that it waits for `what` when it takes long.
pub(crate) fn beside_told<T: Send + 'static>(
    scope: &Scope,
    what: &str,
    work: Box<dyn FnOnce() -> io::Result<T> + Send>,
) -> io::Result<T> {
    let (done, wait) = mpsc::channel();
    parallel::background("beside", Box::new(move || drop(done.send(work()))));
    let _wait = waiting(scope, what);
    loop {
        let nap = scope.clock.nap(scope.remaining());
        let halt = match wait.recv_timeout(nap.clamp(Duration::from_millis(1), LOOK)) {
            Ok(end) => return end,
            Err(mpsc::RecvTimeoutError::Timeout) => scope.check().err(),
            Err(mpsc::RecvTimeoutError::Disconnected) => Some(Halt::Deadline),
        };
        let Some(halt) = halt else { continue };
        return wait.recv_timeout(LAST).unwrap_or_else(|_| {
            let text = match halt {
                Halt::Deadline => "it does not answer".to_owned(),
                stopped => stopped.to_string(),
            };
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        });
    }
}

/// The text of a small file of the kernel, trimmed; `None` if it cannot be read.
fn read_trimmed(path: &Path) -> Option<String> {
    let text = std::fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&text).trim_matches([' ', '\n', '\0']).to_owned())
}

/// The names in a directory, sorted; none if it cannot be read.
fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// A directory of a test that is removed at its end.
#[cfg(test)]
pub(crate) mod testing {
    use super::Root;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Debug)]
    pub(crate) struct TestDir(pub(crate) PathBuf);

    impl TestDir {
        pub(crate) fn new() -> TestDir {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let name = format!("ec2fleetd-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let dir = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&dir).unwrap();
            TestDir(dir)
        }

        pub(crate) fn root(&self) -> Root {
            Root::at(&self.0)
        }

        /// Writes a file below it, with its directories.
        pub(crate) fn file(&self, path: &str, text: &str) -> PathBuf {
            let path = self.0.join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        }

        /// Makes a symbolic link below it.
        pub(crate) fn link(&self, path: &str, target: impl AsRef<Path>) {
            let path = self.0.join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(target, path).unwrap();
        }
    }

    /// Runs the test `name` in a process of its own: the programs that other tests start have, from their fork to their
    /// exec, whatever we have open. `true`: this is that process.
    pub(crate) fn is_alone(name: &str) -> bool {
        if std::env::var_os("EC2FLEETD_TEST_CHILD").is_some() {
            return true;
        }
        let mut me = std::process::Command::new(std::env::current_exe().unwrap());
        let out = me.args(["--exact", name]).env("EC2FLEETD_TEST_CHILD", "1").output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success() && text.contains("1 passed"), "{text}");
        false
    }

    impl Drop for TestDir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_goes_before_the_path_and_the_real_one_does_not() {
        assert_eq!(Root::at(Path::new("/t")).path("/dev/xvdf"), Path::new("/t/dev/xvdf"));
        for real in ["", "/"] {
            let root = Root::at(Path::new(real));
            assert!(root.is_real());
            assert_eq!(root.path("/dev/xvdf"), Path::new("/dev/xvdf"));
        }
    }
}

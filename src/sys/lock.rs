//! Locks between the daemons of one instance: one per domain for the whole life of a daemon, and a short one around
//! the choice of a device name.
//!
//! They are flock(2) locks on files in `/run/ec2fleetd`: the kernel frees them with the process, however it ends. The
//! files are never removed; a file that is taken away under a waiting process would be two locks.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use super::journal::JournalFile;
use super::{Root, run_dir};
use crate::scope::{Halt, Scope};

/// What stands behind the process id of who has a domain's lock only to settle it.
const SETTLES: &str = "settles";

/// Why a lock could not be had.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Another process has it.
    Held {
        /// What is locked, in words.
        what: String,
        /// Its process, as far as it wrote it down.
        pid: Option<u32>,
        /// It only settles what an earlier run of the domain left, and gives it back soon.
        settles: bool,
    },
    /// It was not free in time.
    Halted {
        /// What is locked, in words.
        what: String,
        /// Why the wait ended.
        halt: Halt,
    },
    /// The file could not be made or locked.
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Held { what, pid: Some(pid), .. } => write!(f, "{what} is being run by process {pid}"),
            LockError::Held { what, pid: None, .. } => write!(f, "{what} is being run by another process"),
            LockError::Halted { what, .. } => write!(f, "another ec2fleetd keeps {what} locked"),
            LockError::Io { path, .. } => {
                write!(f, "cannot make the lock {} (without it two daemons could run one domain)", path.display())
            }
        }
    }
}

impl std::error::Error for LockError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LockError::Held { .. } => None,
            LockError::Halted { halt, .. } => Some(halt),
            LockError::Io { cause, .. } => Some(cause),
        }
    }
}

impl LockError {
    /// Its text and that of all that led to it.
    pub(crate) fn full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(c) = cause {
            text.push_str(&format!(": {c}"));
            cause = c.source();
        }
        if let LockError::Io { cause, .. } = self {
            text.push_str(run_dir::advice(cause));
        }
        text
    }
}

/// The right to run a domain; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct DomainLock {
    _file: File,
}

impl DomainLock {
    /// Takes it, or says at once who has it.
    pub(crate) fn acquire(root: &Root, domain: &str) -> Result<DomainLock, LockError> {
        let path = run_dir::shared(root).join(run_dir::file_name(domain, "lock"));
        DomainLock::take(root, path, &format!("domain '{domain}'"), "")
    }

    /// Takes the lock of the domain whose journal this is, only to settle that: whoever wants to run the domain waits.
    pub(crate) fn settle(root: &Root, journal: &JournalFile) -> Result<DomainLock, LockError> {
        let name = journal.path().with_extension("lock");
        let path = run_dir::shared(root).join(name.file_name().unwrap_or_default());
        DomainLock::take(root, path, &format!("the domain of {}", journal.path().display()), SETTLES)
    }

    fn take(root: &Root, path: PathBuf, what: &str, how: &str) -> Result<DomainLock, LockError> {
        let failed = |cause| LockError::Io { path: path.clone(), cause };
        let mut file = open(root, &path).map_err(failed)?;
        if try_lock(&file).map_err(failed)? {
            note_pid(&mut file, how);
            return Ok(DomainLock { _file: file });
        }
        let mut text = String::new();
        let _ = file.take(40).read_to_string(&mut text);
        let (pid, how) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        Err(LockError::Held { what: what.to_owned(), pid: pid.parse().ok(), settles: how == SETTLES })
    }
}

/// The right to choose a free device name and request it; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct DeviceNameLock {
    _file: Option<File>,
}

impl DeviceNameLock {
    /// Waits for it as long as `scope` goes on. Where it cannot be made, EC2 decides between two that choose the same
    /// name: that costs the second one a call.
    pub(crate) fn acquire(root: &Root, scope: &Scope) -> Result<DeviceNameLock, LockError> {
        let path = run_dir::shared(root).join("device-names.lock");
        let locked = open(root, &path).and_then(|file| Ok((try_lock(&file)?, file)));
        let (mut free, mut file) = match locked {
            Ok(locked) => locked,
            Err(e) => {
                let (path, advice) = (path.display(), run_dir::advice(&e));
                log::warn!("cannot lock the choice of device names by {path} (going on without it): {e}{advice}");
                return Ok(DeviceNameLock { _file: None });
            }
        };
        while !free {
            let halted = |halt| LockError::Halted { what: "the choice of device names".to_owned(), halt };
            scope.sleep(Duration::from_millis(20)).map_err(halted)?;
            free = try_lock(&file).map_err(|cause| LockError::Io { path: path.clone(), cause })?;
        }
        note_pid(&mut file, "");
        Ok(DeviceNameLock { _file: Some(file) })
    }
}

pub(super) fn open(root: &Root, path: &PathBuf) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits()).unwrap_or(0);
    let made = run_dir::make(&run_dir::shared(root)).and_then(|()| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)
    });
    // One that is there can be locked also where nothing can be written.
    made.or_else(|e| OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|_| e))
}

fn try_lock(file: &File) -> io::Result<bool> {
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// For whoever asks who has it; where `/run` is full it has nothing to say.
fn note_pid(file: &mut File, how: &str) {
    let noted = file.set_len(0).and_then(|()| writeln!(file, "{} {how}", std::process::id()));
    if let Err(e) = noted {
        log::debug!("the process id cannot be written into a lock: {e}");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;
    use crate::sys::testing::{TestDir, is_alone};

    #[test]
    fn a_domain_has_one_daemon() {
        if !is_alone("sys::lock::tests::a_domain_has_one_daemon") {
            return;
        }
        let t = TestDir::new();
        let first = DomainLock::acquire(&t.root(), "a").unwrap();
        let refused = DomainLock::acquire(&t.root(), "a").unwrap_err();
        let text = format!("domain 'a' is being run by process {}", std::process::id());
        assert_eq!(refused.to_string(), text);
        DomainLock::acquire(&t.root(), "b").unwrap();
        drop(first);
        DomainLock::acquire(&t.root(), "a").unwrap();
        let mode = |path: &str| t.0.join(path).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("run/ec2fleetd"), mode("run/ec2fleetd/domain.a.lock")), (0o700, 0o600));
    }

    /// Does something only when the test below runs it in a process of its own.
    #[test]
    fn process_that_locks() {
        if std::env::var_os("EC2FLEETD_TEST_CHILD").is_none() {
            return;
        }
        let root = Root::from_env();
        let _lock = DomainLock::acquire(&root, "a").unwrap();
        std::fs::write(root.path("/locked"), "").unwrap();
        std::thread::sleep(Duration::from_secs(60));
    }

    #[test]
    fn a_killed_process_keeps_no_lock() {
        let t = TestDir::new();
        let mut other = Command::new(std::env::current_exe().unwrap());
        other
            .args(["--exact", "sys::lock::tests::process_that_locks"])
            .env("EC2FLEETD_TEST_CHILD", "1")
            .env("EC2FLEETD_ROOT", &t.0);
        let mut other = other.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while !t.0.join("locked").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let refused = DomainLock::acquire(&t.root(), "a").unwrap_err().to_string();
        assert_eq!(refused, format!("domain 'a' is being run by process {}", other.id()));
        other.kill().unwrap();
        other.wait().unwrap();
        DomainLock::acquire(&t.root(), "a").unwrap();
    }

    #[test]
    fn the_choice_of_device_names_is_waited_for() {
        let t = TestDir::new();
        let clock = Arc::new(Clock::new(None).unwrap());
        let scope = |ms| Scope::new(&clock, Duration::from_millis(ms), None);
        let first = DeviceNameLock::acquire(&t.root(), &scope(0)).unwrap();
        let refused = DeviceNameLock::acquire(&t.root(), &scope(30)).unwrap_err();
        assert_eq!(refused.to_string(), "another ec2fleetd keeps the choice of device names locked");
        std::thread::scope(|s| {
            let waits = s.spawn(|| DeviceNameLock::acquire(&t.root(), &scope(60_000)).is_ok());
            std::thread::sleep(Duration::from_millis(30));
            drop(first);
            assert!(waits.join().unwrap());
        });
    }

    #[test]
    fn text_of_a_failure() {
        let t = TestDir::new();
        t.file("run", "not a directory");
        let path = t.0.join("run/ec2fleetd/domain.a.lock");
        let e = DomainLock::acquire(&t.root(), "a").unwrap_err();
        let why = "(without it two daemons could run one domain)";
        assert_eq!(e.to_string(), format!("cannot make the lock {} {why}", path.display()));
        let unknown = LockError::Held { what: "domain 'a'".to_owned(), pid: None, settles: false };
        assert_eq!(unknown.to_string(), "domain 'a' is being run by another process");
    }
}

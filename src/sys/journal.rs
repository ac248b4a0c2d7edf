//! The file of a journal: replaced as a whole at each write, so that whoever reads it finds the old or the new one.
//!
//! Each write goes to a file beside it, is synced, and takes its place by rename(2). What reads it trusts nothing: the
//! file must be ours, plain and small; what it says is for others to judge.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::{Root, names_in, run_dir};

/// More than the holds of any config that is accepted.
const MAX_SIZE: u64 = 4 * 1024 * 1024;

/// The journal of one domain. Only who has the domain's lock may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JournalFile(PathBuf);

impl JournalFile {
    /// The file for `domain`; nothing is read or made yet.
    pub(crate) fn of(root: &Root, domain: &str) -> JournalFile {
        JournalFile(run_dir::own(root).join(run_dir::file_name(domain, "journal")))
    }

    /// All journals that there are for this daemon and at the place that all daemons share, in the order of their names.
    pub(crate) fn all(root: &Root) -> Vec<JournalFile> {
        let mut dirs = vec![run_dir::own(root), run_dir::shared(root)];
        dirs.dedup();
        let is_one = |name: &String| name.starts_with("domain") && name.ends_with(".journal");
        let files = dirs.iter().flat_map(|dir| names_in(dir).into_iter().filter(is_one).map(|name| dir.join(name)));
        files.map(JournalFile).collect()
    }

    /// Whether it is one of `domain`, wherever it is.
    pub(crate) fn is_of(&self, domain: &str) -> bool {
        self.0.file_name().is_some_and(|name| name == run_dir::file_name(domain, "journal").as_str())
    }

    /// The domain, where the file's name has it.
    pub(crate) fn domain(&self) -> Option<&str> {
        let name = self.0.file_name()?.to_str()?.strip_prefix("domain.")?.strip_suffix(".journal")?;
        Some(name).filter(|name| self.is_of(name))
    }

    /// A file that all daemons of this instance share.
    pub(super) fn shared(root: &Root, name: &str) -> JournalFile {
        JournalFile(run_dir::shared(root).join(name))
    }

    /// A file that outlives this boot.
    pub(crate) fn lasting(root: &Root, name: &str) -> JournalFile {
        JournalFile(root.path("/var/lib/ec2fleetd").join(name))
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// What it says; `None` if there is none. An error where there is something that cannot be a journal of ours.
    pub(crate) fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let file = match open(&self.0, OpenOptions::new().read(true)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let meta = file.metadata()?;
        // It says which volumes to detach: nobody else may have written it.
        if !meta.is_file() || meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
            return Err(io::Error::other("it is not a plain file that only we can write"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_SIZE {
            return Err(io::Error::other("it is too large"));
        }
        Ok(Some(bytes))
    }

    /// Replaces it. When this returns, the new one is on the disk.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let dir = self.0.parent().unwrap_or(Path::new("/"));
        run_dir::make(dir)?;
        let draft = self.0.with_extension("journal.new");
        // What a killed writer left there may be anything.
        match std::fs::remove_file(&draft) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let end = write_synced(&draft, bytes).and_then(|()| std::fs::rename(&draft, &self.0));
        if end.is_err() {
            // A full disk has no room for half of it.
            let _ = std::fs::remove_file(&draft);
        }
        end?;
        sync(dir)?;
        may_die_here();
        Ok(())
    }

    /// Removes it: there is nothing left to settle.
    pub(crate) fn remove(&self) -> io::Result<()> {
        // A writer that was killed leaves this.
        let _ = std::fs::remove_file(self.0.with_extension("journal.new"));
        match std::fs::remove_file(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            end => end?,
        }
        sync(self.0.parent().unwrap_or(Path::new("/")))?;
        may_die_here();
        Ok(())
    }

    /// Puts what cannot be used out of the way, for a person to look at; says where it is.
    pub(crate) fn set_aside(&self) -> io::Result<PathBuf> {
        let aside = self.0.with_extension("journal.bad");
        std::fs::rename(&self.0, &aside)?;
        Ok(aside)
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = open(path, OpenOptions::new().write(true).create_new(true).mode(0o600))?;
    let (first, second) = bytes.split_at(bytes.len() / 2);
    file.write_all(first)?;
    may_die_here();
    file.write_all(second)?;
    file.sync_all()
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // Neither a link to follow nor a pipe to wait at.
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK).bits()).unwrap_or(0);
    options.custom_flags(flags).open(path)
}

fn sync(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        // Some file systems cannot sync a directory, and need not.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
        end => end,
    }
}

/// Tests of crashes: `EC2FLEETD_DIE=N` ends the process by SIGKILL at its Nth step, `EC2FLEETD_DIE=panic:N` by a panic. Not
/// in what people install.
#[cfg(debug_assertions)]
fn may_die_here() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static STEPS: AtomicU32 = AtomicU32::new(0);
    let step = STEPS.fetch_add(1, Ordering::Relaxed) + 1;
    let Ok(wanted) = std::env::var("EC2FLEETD_DIE") else { return };
    match wanted.strip_prefix("panic:") {
        Some(n) => assert_ne!(n.parse(), Ok(step), "on purpose"),
        None if wanted.parse() == Ok(step) => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        None => {}
    }
}

#[cfg(not(debug_assertions))]
fn may_die_here() {}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::sys::testing::TestDir;

    #[test]
    fn what_was_written_is_read_until_it_is_removed() {
        let t = TestDir::new();
        let j = JournalFile::of(&t.root(), "a");
        assert_eq!(j.read().unwrap(), None);
        for text in ["first, and longer", "second"] {
            j.write(text.as_bytes()).unwrap();
            assert_eq!(j.read().unwrap().unwrap(), text.as_bytes());
        }
        let mode = |p: &Path| p.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(j.path()), mode(j.path().parent().unwrap())), (0o600, 0o700));
        // A draft that a killed writer left, and one that somebody else made of it.
        std::fs::write(j.path().with_extension("journal.new"), "torn").unwrap();
        j.write(b"third").unwrap();
        std::os::unix::fs::symlink("/dev/null", j.path().with_extension("journal.new")).unwrap();
        j.write(b"fourth").unwrap();
        assert_eq!(j.read().unwrap().unwrap(), b"fourth");
        j.remove().unwrap();
        j.remove().unwrap();
        assert_eq!((j.read().unwrap(), std::fs::read_dir(j.path().parent().unwrap()).unwrap().count()), (None, 0));
    }

    #[test]
    fn all_of_them_are_found_with_their_domains() {
        let t = TestDir::new();
        assert!(JournalFile::all(&t.root()).is_empty());
        for domain in ["a", "b.c", "d e"] {
            JournalFile::of(&t.root(), domain).write(b"{}").unwrap();
        }
        for other in ["domain.x.lock", "domain.x.journal.bad", "domain.x.journal.new", "reboots", "x.journal"] {
            t.file(&format!("run/ec2fleetd/{other}"), "");
        }
        let all = JournalFile::all(&t.root());
        let domains: Vec<_> = all.iter().map(JournalFile::domain).collect();
        assert_eq!(domains, [None, Some("a"), Some("b.c")]);
        assert!(all[0].is_of("d e") && !all[0].is_of("a") && all[1] == JournalFile::of(&t.root(), "a"));
    }

    #[test]
    fn what_is_not_ours_is_not_read() {
        let t = TestDir::new();
        let j = JournalFile::of(&t.root(), "a");
        let refused = |why: &str| {
            let e = j.read().unwrap_err().to_string();
            assert!(e.contains(why), "{e}");
        };
        j.write(b"{}").unwrap();
        std::fs::set_permissions(j.path(), std::fs::Permissions::from_mode(0o620)).unwrap();
        refused("only we can write");
        assert!(j.set_aside().unwrap().exists() && j.read().unwrap().is_none());
        std::fs::create_dir(j.path()).unwrap();
        refused("only we can write");
        std::fs::remove_dir(j.path()).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", j.path()).unwrap();
        refused("symbolic link");
        std::fs::remove_file(j.path()).unwrap();
        j.write(&vec![b' '; usize::try_from(MAX_SIZE).unwrap() + 1]).unwrap();
        refused("too large");
    }
}

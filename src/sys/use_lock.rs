//! What the daemons of one instance use together: a shared lock per thing, and an exclusive one for who takes it away.
//!
//! As with the other locks: flock(2) on files in `/run/ec2fleetd`, which the kernel frees with the process.

use std::fs::File;
use std::io;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::lock::open;
use super::{Root, run_dir};

/// One thing (`vol-…`) that this process uses. Given back when it is dropped.
#[derive(Debug)]
pub(crate) struct UseLock {
    file: File,
}

impl UseLock {
    /// Says that this process uses `thing`. `None`: another one takes it away right now.
    pub(crate) fn share(root: &Root, thing: &str) -> io::Result<Option<UseLock>> {
        let lock = UseLock::of(root, thing)?;
        Ok(ask(&lock.file, FlockOperation::NonBlockingLockShared)?.then_some(lock))
    }

    /// The lock, held in no way yet.
    pub(crate) fn of(root: &Root, thing: &str) -> io::Result<UseLock> {
        let path = run_dir::shared(root).join(run_dir::file_name(thing, "use"));
        Ok(UseLock { file: open(root, &path)? })
    }

    /// Whether this process is the only one that uses it: then no other one begins to, until this is dropped. If not, this
    /// process uses it no more.
    pub(crate) fn alone(&self) -> io::Result<bool> {
        // A change of kind lets go first. Of two that change at once, the later one is alone.
        ask(&self.file, FlockOperation::NonBlockingLockExclusive)
    }
}

impl Drop for UseLock {
    fn drop(&mut self) {
        // Not only closed: a program that is being started has the file too, until its exec.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

fn ask(file: &File, how: FlockOperation) -> io::Result<bool> {
    loop {
        match flock(file, how) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::TestDir;

    #[test]
    fn many_use_a_thing_and_one_takes_it_away() {
        let t = TestDir::new();
        let share = || UseLock::share(&t.root(), "vol-1").unwrap();
        let (first, second) = (share().unwrap(), share().unwrap());
        assert!(!first.alone().unwrap());
        // The first one has it no more, so the second one may.
        assert!(second.alone().unwrap());
        assert!(share().is_none() && !first.alone().unwrap());
        assert!(UseLock::share(&t.root(), "vol-2").unwrap().is_some());
        drop(second);
        assert!(share().is_some());
    }
}

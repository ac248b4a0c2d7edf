//! Starting programs, and letting go of what they must not have.
//!
//! From its fork until its exec a child has copies of all our descriptors, also of a disk that we hold for ourselves
//! alone. What is closed here is still held there, and a mount or an `mkfs` at that moment finds the disk busy. So whoever
//! lets go of such a one waits until no child is in between.

use std::fs::File;
use std::io;
use std::process::{Child, Command};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use crate::scope::Scope;

/// Shared by those who start programs, alone for those who let go.
static STARTING: RwLock<()> = RwLock::new(());

/// A program on a disk that does not answer may never start: that is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Starts a program. When this returns, it has none of our descriptors but those that `command` gives it.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    let _starting = STARTING.read().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// Closes `file` so that nobody has it open by us any more.
pub(crate) fn let_go(file: File, scope: &Scope) {
    let patience = scope.within(PATIENCE);
    loop {
        if let Ok(_nobody_starts) = STARTING.try_write() {
            drop(file);
            return;
        }
        if patience.sleep(Duration::from_millis(2)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::{FlockOperation, flock};

    use super::*;
    use crate::clock::Clock;
    use crate::sys::testing::{TestDir, is_alone};

    #[test]
    fn what_was_let_go_is_held_by_no_child() {
        if !is_alone("sys::start::tests::what_was_let_go_is_held_by_no_child") {
            return;
        }
        let t = TestDir::new();
        let path = t.file("/disk", "");
        let clock = Arc::new(Clock::new(None).unwrap());
        let scope = Scope::new(&clock, Duration::from_secs(600), None);
        let over = AtomicBool::new(false);
        std::thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let mut command = Command::new("true");
                        spawn(command.stdin(Stdio::null())).unwrap().wait().unwrap();
                    }
                });
            }
            // A lock belongs to what is open: it is there as long as anybody has it.
            for round in 0..2000 {
                let file = File::open(&path).unwrap();
                let free = flock(&file, FlockOperation::NonBlockingLockExclusive);
                if free.is_err() {
                    over.store(true, Ordering::Relaxed);
                }
                assert_eq!(free, Ok(()), "round {round}");
                let_go(file, &scope);
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}

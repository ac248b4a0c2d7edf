//! Starting programs, and letting go of what they must not have.
//!
//! The kernel reads a program before it runs, and whoever starts one waits for that: on a disk that does not answer, or
//! under a scanner that does not decide, for ever. So a start has a thread of its own, and is over with its scope. One that
//! is given up is killed, and does not run later either.
//!
//! From its fork until its exec a child has copies of all our descriptors, also of a disk that we hold for ourselves
//! alone. What is closed here is still held there, and a mount or an `mkfs` at that moment finds the disk busy. So whoever
//! lets go of such a one waits until no child is in between.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::parallel;
use crate::scope::{Halt, Scope};

/// How many children are between fork and exec, but for those that were given up.
static STARTING: Mutex<usize> = Mutex::new(0);

/// How soon a start sees that it is to be given up.
const LOOK: Duration = Duration::from_millis(250);

/// A child that does not come to its exec is not waited for longer.
const PATIENCE: Duration = Duration::from_secs(5);

fn starting() -> MutexGuard<'static, usize> {
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a program does not run.
#[derive(Debug)]
pub(crate) enum NotStarted {
    /// The kernel refused it, or it could not be found.
    Failed(io::Error),
    /// It was given up.
    Halted(Halt),
}

impl From<NotStarted> for io::Error {
    fn from(e: NotStarted) -> io::Error {
        match e {
            NotStarted::Failed(e) => e,
            NotStarted::Halted(halt) => io::Error::new(io::ErrorKind::TimedOut, format!("it was not loaded: {halt}")),
        }
    }
}

/// Where a start is.
#[derive(Debug)]
enum Stage {
    /// The program is looked up.
    Before,
    /// The kernel loads it.
    Loading,
    /// It runs, or cannot.
    Over(io::Result<Child>),
    /// Nobody wants it any more.
    GivenUp,
}

#[derive(Debug)]
struct Start {
    stage: Mutex<Stage>,
    changed: Condvar,
    /// The thread, as a directory of `/proc`.
    thread: Mutex<PathBuf>,
}

/// Starts the program that `make` names, which may look for it. When this returns it has none of our descriptors but those
/// that the command gives it.
pub(crate) fn spawn(make: Box<dyn FnOnce() -> io::Result<Command> + Send>, scope: &Scope) -> Result<Child, NotStarted> {
    let start = Start { stage: Mutex::new(Stage::Before), changed: Condvar::new(), thread: Mutex::default() };
    let start = Arc::new(start);
    let own = start.clone();
    if parallel::background("start", Box::new(move || own.run(make))).is_none() {
        return Err(NotStarted::Failed(io::Error::other("there is no thread to be had")));
    }
    loop {
        let stage = start.stage();
        let nap = scope.clock.nap(scope.remaining()).min(LOOK);
        let waited = start.changed.wait_timeout_while(stage, nap, |s| !matches!(s, Stage::Over(_)));
        let (mut stage, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let halt = scope.check().err();
        if matches!(*stage, Stage::Over(_)) || halt.is_some() {
            match (std::mem::replace(&mut *stage, Stage::GivenUp), halt) {
                (Stage::Over(end), _) => return end.map_err(NotStarted::Failed),
                (before, Some(halt)) => {
                    if matches!(before, Stage::Loading) {
                        start.give_up();
                    }
                    return Err(NotStarted::Halted(halt));
                }
                (before, None) => *stage = before,
            }
        }
    }
}

impl Start {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, make: Box<dyn FnOnce() -> io::Result<Command> + Send>) {
        if let Ok(own) = std::fs::read_link("/proc/thread-self") {
            *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = PathBuf::from("/proc").join(own);
        }
        let end = make().and_then(|mut command| {
            let mut stage = self.stage();
            if matches!(*stage, Stage::GivenUp) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            *starting() += 1;
            *stage = Stage::Loading;
            drop(stage);
            let child = command.spawn();
            // Our ends of its pipes are closed before anybody reads from the others.
            drop(command);
            child
        });
        let mut stage = self.stage();
        match std::mem::replace(&mut *stage, Stage::GivenUp) {
            Stage::GivenUp => {
                drop(stage);
                if let Ok(mut child) = end {
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
            before => {
                if matches!(before, Stage::Loading) {
                    *starting() -= 1;
                }
                *stage = Stage::Over(end);
                self.changed.notify_all();
            }
        }
    }

    /// Kills the child that is being loaded: it would run as soon as that is possible, and nobody would wait for it.
    fn give_up(&self) {
        *starting() -= 1;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        // The thread has started nothing else. Where the kernel does not list its children, it kills this one itself, as
        // soon as it runs.
        let children = std::fs::read_to_string(thread.join("children")).unwrap_or_default();
        for pid in children.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

/// Closes `file` so that nobody has it open by us any more.
pub(crate) fn let_go(file: File, scope: &Scope) {
    let patience = scope.within(PATIENCE);
    loop {
        let nobody_starts = starting();
        if *nobody_starts == 0 {
            drop(file);
            return;
        }
        drop(nobody_starts);
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
                        let make = || {
                            let mut command = Command::new("true");
                            command.stdin(Stdio::null());
                            Ok(command)
                        };
                        spawn(Box::new(make), &scope).unwrap().wait().unwrap();
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

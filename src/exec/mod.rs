//! Commands: the `exec` of a domain and of a volume.
//!
//! A command runs without a shell, in a process group of its own, with our environment less [`NOT_FOR_CHILDREN`], and with
//! nothing on its standard input. Its output goes to the log line by line, the last lines into the error of a command
//! that fails. The caller's thread waits for output, exit, deadline and stop at once ([`child`]); only the start, which
//! a disk that does not answer can hold up, has a thread of its own (`sys::start`). A command that runs long is told of
//! ([`crate::waits`]). Which commands of an event run is in [`blocks`].
//! Programs that a command leaves behind keep their output ([`drain`]) and can be ended for a roll-back
//! ([`Runner::end_group`]).

mod blocks;
mod child;
mod drain;
mod error;
mod group;
mod mounted;
mod output;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

pub(crate) use blocks::{Failed, Work};
pub(crate) use drain::{READER, read_on};
pub(crate) use error::ExecError;

use crate::clock::Clock;
use crate::config::{ExecLine, ExitCodes};
use crate::scope::{Halt, Scope};
use crate::sys::beside;
use crate::sys::start::{self, NotStarted};
use crate::waits::waiting;
use drain::Drain;
use group::Groups;
use output::Lines;

/// Who commands belong to that another program of this process had started.
const INHERITED: &str = "";

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables of our environment that children do not get.
pub(crate) const NOT_FOR_CHILDREN: [&str; 2] = ["NOTIFY_SOCKET", PANIC];

/// The variable that tells a process that it took the place of one that panicked, and why.
pub(crate) const PANIC: &str = "EC2FLEETD_PANIC";

/// How long a command has after SIGTERM before SIGKILL, unless its scope says otherwise.
const GRACE: Duration = Duration::from_secs(10);

/// Runs commands. One per process, shared by all threads.
#[derive(Debug)]
pub(crate) struct Runner {
    path: OsString,
    groups: Groups,
    drain: Drain,
    /// Processes that did not end even by SIGKILL (a dead disk): they are looked after when there is time.
    unreaped: Mutex<Vec<Child>>,
}

/// A command, before it is started.
struct Start<'a> {
    owner: &'a str,
    /// Where it comes from: a path in the config.
    path: &'a str,
    name: String,
    good: &'a ExitCodes,
    /// Looks its program up; that may take long too.
    command: Box<dyn FnOnce() -> io::Result<Command> + Send>,
}

impl Runner {
    /// Takes `PATH` from the environment.
    pub(crate) fn new() -> Runner {
        let path = std::env::var_os("PATH").filter(|p| !p.is_empty()).unwrap_or_else(|| DEFAULT_PATH.into());
        Runner { path, groups: Groups::default(), drain: Drain::default(), unreaped: Mutex::default() }
    }

    /// Runs one command to its end; `argv` is that of `line` with its macros replaced. The timeout of `line` counts
    /// where it is shorter than `limit`.
    pub(crate) fn run(&self, owner: &str, line: &ExecLine, argv: Vec<String>, limit: &Scope) -> Result<(), ExecError> {
        let limit = line.timeout.map_or_else(|| limit.clone(), |t| limit.within(t));
        let name = argv.first().cloned().unwrap_or_default();
        let path = self.path.clone();
        let command = Box::new(move || command(&path, &argv));
        self.run_command(Start { owner, path: &line.path, name, good: &line.ec, command }, &limit)
    }

    /// Runs a program of the system, called `name`, whose exit codes up to `most` are good.
    pub(crate) fn run_tool(
        &self,
        owner: &str,
        name: &str,
        command: Command,
        most: u32,
        limit: &Scope,
    ) -> Result<(), ExecError> {
        let good = ExitCodes::Of(vec![0..=most]);
        let command = Box::new(|| Ok(command));
        self.run_command(Start { owner, path: owner, name: name.to_owned(), good: &good, command }, limit)
    }

    /// Whether the program that a command names can be started, as far as that can be told within `scope`.
    pub(crate) fn find(&self, argv0: &str, scope: &Scope) -> io::Result<()> {
        let (path, argv0) = (self.path.clone(), argv0.to_owned());
        let look = move || {
            if !argv0.contains('/') {
                return find_in(&path, &argv0).map(drop);
            }
            let is_file = std::fs::metadata(&argv0)?.is_file();
            let may = rustix::fs::access(&argv0, rustix::fs::Access::EXEC_OK);
            Ok(may.and(is_file.then_some(()).ok_or(Errno::ACCESS))?)
        };
        beside(scope, Box::new(look))
    }

    fn run_command(&self, start: Start<'_>, limit: &Scope) -> Result<(), ExecError> {
        let Start { owner, path, name, good, command } = start;
        self.reap();
        limit.check().map_err(|halt| ExecError::NotStarted { name: name.clone(), halt })?;
        let started = limit.clock.now();
        log::info!("running {name}");
        let place = if path.is_empty() { String::new() } else { format!(" ({path})") };
        let _wait = waiting(limit, format!("{name}{place} to end"));

        let cannot = |cause| ExecError::CannotStart { name: name.clone(), cause };
        let (reader, writer) = io::pipe().map_err(cannot)?;
        rustix::io::ioctl_fionbio(&reader, true).map_err(|e| cannot(e.into()))?;
        let make = move || {
            let mut command = command()?;
            command.stdin(Stdio::null()).process_group(0);
            for name in NOT_FOR_CHILDREN {
                command.env_remove(name);
            }
            command.stdout(writer.try_clone()?).stderr(writer);
            Ok(command)
        };
        let child = start::spawn(Box::new(make), limit).map_err(|e| match e {
            NotStarted::Failed(cause) => cannot(cause),
            NotStarted::Halted(Halt::Deadline) => {
                ExecError::NotLoaded { name: name.clone(), after: limit.clock.now().since(started) }
            }
            NotStarted::Halted(Halt::Stopped(reason)) => ExecError::Stopped { name: name.clone(), reason },
        })?;
        let group = self.groups.add(owner, child.id());

        let mut running = child::Running::new(child, reader, Lines::new(&name), group);
        let end = running.wait(limit, limit.grace.unwrap_or(GRACE));
        let tail = running.lines.tail();
        let (rest, unreaped) = running.finish();
        if let Some((pipe, lines)) = rest {
            self.drain.take(pipe, lines);
        }
        if let Some(child) = unreaped {
            log::error!("process {} ({name}) does not end even by SIGKILL", child.id());
            self.unreaped().push(child);
        }
        let after = limit.clock.now().since(started);
        log::debug!("{name} ended after {} ms: {end:?}", after.as_millis());
        match end {
            child::End::Exit(code) if good.contains(code) => Ok(()),
            child::End::Exit(code) => Err(ExecError::ExitCode { name, code, wanted: good.clone(), tail }),
            child::End::TimedOut => Err(ExecError::TimedOut { name, after, tail }),
            child::End::Stopped(reason) => Err(ExecError::Stopped { name, reason }),
        }
    }

    /// Ends what is left of the commands of `owner`: SIGTERM to their process groups, SIGKILL after 10 s or when
    /// `scope` ends. `false`: something is still there.
    pub(crate) fn end_group(&self, owner: &str, scope: &Scope) -> bool {
        self.reap();
        self.groups.end(owner, scope, GRACE)
    }

    /// Ends the commands that the program whose place this one took had started.
    pub(crate) fn end_inherited(&self, scope: &Scope) -> bool {
        self.groups.adopt(INHERITED);
        self.end_group(INHERITED, scope)
    }

    /// The process ends: programs that commands left behind keep somebody who reads their output.
    pub(crate) fn hand_over(&self, clock: &Arc<Clock>) {
        self.drain.hand_over(clock);
    }

    fn unreaped(&self) -> MutexGuard<'_, Vec<Child>> {
        self.unreaped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reap(&self) {
        self.unreaped().retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}

fn command(path: &OsStr, argv: &[String]) -> io::Result<Command> {
    let invalid = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
    let (name, arguments) = argv.split_first().ok_or_else(|| invalid("argv is empty"))?;
    if name.is_empty() {
        return Err(invalid("argv[0] is empty"));
    }
    let program = if name.contains('/') { PathBuf::from(name) } else { find_in(path, name)? };
    let mut command = Command::new(program);
    command.arg0(name).args(arguments);
    Ok(command)
}

fn find_in(path: &OsStr, name: &str) -> io::Result<PathBuf> {
    let mut denied = None;
    for dir in std::env::split_paths(path) {
        let file = dir.join(name);
        if !file.is_file() {
            continue;
        }
        if rustix::fs::access(&file, rustix::fs::Access::EXEC_OK).is_ok() {
            // A relative directory in PATH must not turn into another search.
            return Ok(if file.is_absolute() { file } else { Path::new(".").join(file) });
        }
        denied = denied.or(Some(file));
    }
    Err(match denied {
        Some(file) => io::Error::new(io::ErrorKind::PermissionDenied, format!("{} is not executable", file.display())),
        None => io::Error::new(io::ErrorKind::NotFound, format!("not found in PATH ({})", path.display())),
    })
}

#[cfg(test)]
mod tests;

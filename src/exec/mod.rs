//! Commands: the `exec` of a domain and of a volume.
//!
//! A command runs without a shell, in a process group of its own, with our environment less [`NOT_FOR_CHILDREN`], and with
//! nothing on its standard input. Its output goes to the log line by line, the last lines into the error of a command
//! that fails. No thread is made for it: the caller's waits for output, exit, deadline and stop at once ([`child`]).
//! Programs that a command leaves behind keep their output ([`drain`]) and can be ended for a roll-back
//! ([`Runner::end_group`]).

mod child;
mod drain;
mod error;
mod group;
mod output;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

pub(crate) use drain::{READER, read_on};
pub(crate) use error::ExecError;

use crate::config::{ExecBlock, ExecLine, ExitCodes};
use crate::macros::Values;
use crate::model::Event;
use crate::scope::Scope;
use crate::sys::start;
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

impl Runner {
    /// Takes `PATH` from the environment.
    pub(crate) fn new() -> Runner {
        let path = std::env::var_os("PATH").filter(|p| !p.is_empty()).unwrap_or_else(|| DEFAULT_PATH.into());
        Runner { path, groups: Groups::default(), drain: Drain::default(), unreaped: Mutex::default() }
    }

    /// Runs the blocks for `event` (`None`: all, as for a volume) in order. The first failure ends it.
    ///
    /// `owner` is who the commands belong to, for [`Runner::end_group`]. A line without a timeout of its own has
    /// `default_timeout`; none has more than is left of `scope`.
    pub(crate) fn run_blocks(
        &self,
        owner: &str,
        blocks: &[ExecBlock],
        event: Option<Event>,
        values: &Values,
        scope: &Scope,
        default_timeout: Option<Duration>,
    ) -> Result<(), ExecError> {
        let wanted = blocks.iter().filter(|b| event.is_none_or(|e| b.runs_on(e)));
        for line in wanted.flat_map(|b| &b.lines) {
            let argv = line.argv.iter().map(|t| t.expand(values)).collect();
            let limit = match (line.timeout, default_timeout) {
                (None, Some(limit)) => scope.within(limit),
                _ => scope.clone(),
            };
            self.run(owner, line, argv, &limit)?;
        }
        Ok(())
    }

    /// Runs one command to its end; `argv` is that of `line` with its macros replaced. The timeout of `line` counts
    /// where it is shorter than `limit`.
    pub(crate) fn run(&self, owner: &str, line: &ExecLine, argv: Vec<String>, limit: &Scope) -> Result<(), ExecError> {
        let limit = line.timeout.map_or_else(|| limit.clone(), |t| limit.within(t));
        let name = argv.first().cloned().unwrap_or_default();
        self.run_command(owner, &line.ec, name, self.command(&argv), &limit)
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
        self.run_command(owner, &ExitCodes::Of(vec![0..=most]), name.to_owned(), Ok(command), limit)
    }

    /// Whether the program that a command names can be started, as far as that can be told.
    pub(crate) fn find(&self, argv0: &str) -> io::Result<()> {
        if !argv0.contains('/') {
            return find_in(&self.path, argv0).map(drop);
        }
        let is_file = std::fs::metadata(argv0)?.is_file();
        Ok(rustix::fs::access(argv0, rustix::fs::Access::EXEC_OK).and(is_file.then_some(()).ok_or(Errno::ACCESS))?)
    }

    fn run_command(
        &self,
        owner: &str,
        good: &ExitCodes,
        name: String,
        command: io::Result<Command>,
        limit: &Scope,
    ) -> Result<(), ExecError> {
        self.reap();
        limit.check().map_err(|halt| ExecError::NotStarted { name: name.clone(), halt })?;
        let started = limit.clock.now();
        log::info!("running {name}");

        let cannot = |cause| ExecError::CannotStart { name: name.clone(), cause };
        let (reader, writer) = io::pipe().map_err(cannot)?;
        rustix::io::ioctl_fionbio(&reader, true).map_err(|e| cannot(e.into()))?;
        let mut command = command.map_err(cannot)?;
        command.stdin(Stdio::null()).process_group(0);
        for name in NOT_FOR_CHILDREN {
            command.env_remove(name);
        }
        command.stdout(writer.try_clone().map_err(cannot)?).stderr(writer);
        let child = start::spawn(&mut command).map_err(cannot)?;
        // It holds our copies of the pipe's other end.
        drop(command);
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
    pub(crate) fn hand_over(&self) {
        self.drain.hand_over();
    }

    fn unreaped(&self) -> MutexGuard<'_, Vec<Child>> {
        self.unreaped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reap(&self) {
        self.unreaped().retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }

    fn command(&self, argv: &[String]) -> io::Result<Command> {
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
        let (name, arguments) = argv.split_first().ok_or_else(|| invalid("argv is empty"))?;
        if name.is_empty() {
            return Err(invalid("argv[0] is empty"));
        }
        let program = if name.contains('/') { PathBuf::from(name) } else { find_in(&self.path, name)? };
        let mut command = Command::new(program);
        command.arg0(name).args(arguments);
        Ok(command)
    }
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

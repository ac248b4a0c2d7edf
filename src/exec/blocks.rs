//! The blocks of an event: which command comes next, also after one that failed, and how much of the time it has.
//!
//! A block is one script: a command that fails ends it. Before and at `started`, and for a volume, it ends the others of
//! the event with it. In a shutdown the next block runs: a warning that cannot be given must not keep a server from being
//! stopped. `on-error` says otherwise for a block.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::{ExecError, GRACE, Runner, mounted};
use crate::config::{ExecBlock, ExecLine, OnError};
use crate::macros::Values;
use crate::model::Event;
use crate::scope::Scope;

/// How many skipped commands an error names.
const NAMED: usize = 8;

/// What blocks are run for, and within what.
pub(crate) struct Work<'a> {
    /// Who the commands belong to, for [`Runner::end_group`].
    pub(crate) owner: &'a str,
    /// The blocks for this event run; `None`: all, as for a volume.
    pub(crate) event: Option<Event>,
    /// For the macros.
    pub(crate) values: &'a Values,
    /// None has more than is left of it.
    pub(crate) scope: &'a Scope,
    /// The timeout of a line that has none of its own.
    pub(crate) default_timeout: Option<Duration>,
    /// The time is short: each block has at most its equal share of what is left.
    pub(crate) in_shares: bool,
    /// Whether a volume that this is about is mounted at a directory, and from the device that the command named, if it
    /// named one.
    pub(crate) is_mounted: &'a dyn Fn(&Path, Option<&Path>) -> bool,
}

/// A command that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    /// Where it is in the config, and its `argv[0]`.
    pub(crate) command: String,
    /// Why.
    pub(crate) error: ExecError,
    /// The commands that do not run because of it, as `command` names them.
    pub(crate) skipped: Vec<String>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)?;
        if self.skipped.is_empty() {
            return Ok(());
        }
        let named: Vec<&str> = self.skipped.iter().take(NAMED).map(String::as_str).collect();
        write!(f, "; skipped: {}", named.join(", "))?;
        match self.skipped.len() - named.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// What comes after a command that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The next line of the block.
    Line,
    /// The next block.
    Block,
    /// Nothing.
    Nothing,
}

fn after_failure(on_error: Option<OnError>, event: Option<Event>) -> Next {
    match on_error {
        Some(OnError::Continue) => Next::Line,
        Some(OnError::Stop) => Next::Nothing,
        None if event.is_some_and(Event::is_shutdown) => Next::Block,
        None => Next::Nothing,
    }
}

/// Of what is `left`, how long the first of `still` blocks or lines may run, and how long it may take to end after that:
/// both within its equal share. For the last one the time to end is not part of what is left.
fn share(left: Duration, grace: Duration, still: usize) -> (Duration, Duration) {
    if still <= 1 {
        return (left, grace);
    }
    let share = left / u32::try_from(still).unwrap_or(u32::MAX);
    let grace = grace.min(share / 3);
    (share - grace, grace)
}

impl Work<'_> {
    /// The part of `scope` for the first of `still`.
    fn part(&self, scope: &Scope, still: usize) -> Scope {
        if !self.in_shares {
            return scope.clone();
        }
        let (time, grace) = share(scope.remaining(), scope.grace.unwrap_or(GRACE), still);
        scope.within(time).with_grace(grace)
    }
}

impl Runner {
    /// Runs the blocks in order. What failed is returned, and with it what is skipped because of it.
    pub(crate) fn run_blocks(&self, blocks: &[ExecBlock], work: &Work<'_>) -> Vec<Failed> {
        let wanted = |b: &&ExecBlock| !b.lines.is_empty() && work.event.is_none_or(|e| b.runs_on(e));
        let blocks: Vec<&ExecBlock> = blocks.iter().filter(wanted).collect();
        let named = |line: &ExecLine| {
            let name = line.argv.first().map(|t| t.expand(work.values)).unwrap_or_default();
            format!("{} ({name})", line.path)
        };
        let mut failed = Vec::new();
        for (b, block) in blocks.iter().enumerate() {
            let for_block = work.part(work.scope, blocks.len() - b);
            let after = after_failure(block.on_error, work.event);
            for (l, line) in block.lines.iter().enumerate() {
                let for_line = match after {
                    Next::Line => work.part(&for_block, block.lines.len() - l),
                    _ => for_block.clone(),
                };
                let Err(error) = self.run_line(line, work, &for_line) else { continue };
                // With the time of all, or after a stop, nothing comes next.
                let after = if work.scope.check().is_ok() { after } else { Next::Nothing };
                let rest_of_block = block.lines.iter().skip(l + 1).filter(|_| after != Next::Line);
                let others = blocks.iter().skip(b + 1).filter(|_| after == Next::Nothing).flat_map(|b| &b.lines);
                let skipped = rest_of_block.chain(others).map(named).collect();
                failed.push(Failed { command: named(line), error, skipped });
                match after {
                    Next::Line => {}
                    Next::Block => break,
                    Next::Nothing => return failed,
                }
            }
        }
        failed
    }

    fn run_line(&self, line: &ExecLine, work: &Work<'_>, scope: &Scope) -> Result<(), ExecError> {
        let argv: Vec<String> = line.argv.iter().map(|t| t.expand(work.values)).collect();
        let limit = match (line.timeout, work.default_timeout) {
            (None, Some(limit)) => scope.within(limit),
            _ => scope.clone(),
        };
        let end = self.run(work.owner, line, argv.clone(), &limit);
        match end {
            Err(ExecError::ExitCode { code: mounted::FAILED, .. })
                if mounted::target(&argv).is_some_and(|t| (work.is_mounted)(t.point, t.source)) =>
            {
                log::info!("{}: it is mounted already: exit code {} counts as success", line.path, mounted::FAILED);
                Ok(())
            }
            end => end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn what_comes_after_a_failure() {
        use Event::{Failed, Interrupted, Maintenance, Rebalance, Started, Starting, Stopping, Terminating};
        for event in [Failed, Stopping, Interrupted, Maintenance, Terminating] {
            assert_eq!(after_failure(None, Some(event)), Next::Block, "{event:?}");
        }
        for event in [Some(Starting), Some(Started), Some(Rebalance), None] {
            assert_eq!(after_failure(None, event), Next::Nothing, "{event:?}");
        }
        for event in Event::ALL.map(Some).into_iter().chain([None]) {
            assert_eq!(after_failure(Some(OnError::Continue), event), Next::Line);
            assert_eq!(after_failure(Some(OnError::Stop), event), Next::Nothing);
        }
    }

    #[test]
    fn equal_shares_of_what_is_left() {
        assert_eq!(share(seconds(60), seconds(10), 1), (seconds(60), seconds(10)));
        assert_eq!(share(seconds(60), seconds(10), 2), (seconds(20), seconds(10)));
        assert_eq!(share(seconds(60), seconds(10), 0), (seconds(60), seconds(10)));
        // Little time: a third of it is for the end.
        assert_eq!(share(seconds(18), seconds(10), 2), (seconds(6), seconds(3)));
        assert_eq!(share(Duration::ZERO, seconds(10), 5), (Duration::ZERO, Duration::ZERO));
        // Whatever each takes of its own, the last one has an equal part.
        let mut left = seconds(60);
        for still in (2..=6).rev() {
            let (time, grace) = share(left, seconds(10), still);
            left -= time + grace;
        }
        assert_eq!(left, seconds(10));
    }
}

//! Why a command failed.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::config::ExitCodes;
use crate::scope::{Halt, StopReason};

/// Why a command failed. Arguments are never shown: they may hold secrets.
#[derive(Debug)]
pub(crate) enum ExecError {
    /// It could not be started.
    CannotStart {
        /// Its `argv[0]`.
        name: String,
        /// Why.
        cause: io::Error,
    },
    /// The kernel did not load it in time.
    NotLoaded {
        /// Its `argv[0]`.
        name: String,
        /// How long that was waited for.
        after: Duration,
    },
    /// Its time was over (or a stop was requested) before its turn came.
    NotStarted {
        /// Its `argv[0]`.
        name: String,
        /// Why.
        halt: Halt,
    },
    /// It ended with an exit code that does not count as success.
    ExitCode {
        /// Its `argv[0]`.
        name: String,
        /// The code; 128 + N for a process killed by signal N.
        code: u32,
        /// The codes that count as success.
        wanted: ExitCodes,
        /// The last lines of its output.
        tail: Vec<String>,
    },
    /// It ran out of time and was ended.
    TimedOut {
        /// Its `argv[0]`.
        name: String,
        /// How long it ran.
        after: Duration,
        /// The last lines of its output.
        tail: Vec<String>,
    },
    /// It was ended because the daemon was asked to stop.
    Stopped {
        /// Its `argv[0]`.
        name: String,
        /// Who asked.
        reason: StopReason,
    },
}

impl ExecError {
    /// Whether a wait ended rather than the command failed.
    pub(crate) fn halt(&self) -> Option<Halt> {
        match self {
            ExecError::NotStarted { halt, .. } => Some(*halt),
            ExecError::Stopped { reason, .. } => Some(Halt::Stopped(*reason)),
            _ => None,
        }
    }
}

impl fmt::Display for ExecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExecError::CannotStart { name, cause } => {
                write!(f, "cannot start {name}: {cause}")?;
                f.write_str(match cause.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                    Some(rustix::io::Errno::NOENT) => ": is the path right, and the interpreter in its first line?",
                    Some(rustix::io::Errno::ACCESS) => ": is it executable?",
                    Some(rustix::io::Errno::NOEXEC) => ": a script needs a first line such as #!/bin/sh",
                    _ => "",
                })
            }
            ExecError::NotLoaded { name, after } => write!(
                f,
                "cannot start {name}: it was not loaded within {:.0} s: does its disk answer, or does a scanner hold \
                 it up?",
                after.as_secs_f64()
            ),
            ExecError::NotStarted { name, halt } => write!(f, "did not start {name}: {halt}"),
            ExecError::ExitCode { name, code, wanted, tail } => {
                write!(f, "{name} ended with exit code {code}")?;
                // From 128 on it is a signal by convention, whoever turned it into a code.
                if let Some(signal) = code.checked_sub(128).and_then(|n| i32::try_from(n).ok())
                    && let Some(signal) = signal_hook::low_level::signal_name(signal)
                {
                    write!(f, " ({signal})")?;
                }
                write!(f, ", success is {}", codes(wanted))?;
                last_lines(f, tail)
            }
            ExecError::TimedOut { name, after, tail } => {
                write!(f, "{name} was ended after {:.0} s: its time was over", after.as_secs_f64())?;
                last_lines(f, tail)
            }
            ExecError::Stopped { name, reason } => write!(f, "{name} was ended: {}", Halt::Stopped(*reason)),
        }
    }
}

/// The cause is in the text already, with a hint that belongs to it: so there is no `source`.
impl std::error::Error for ExecError {}

fn codes(wanted: &ExitCodes) -> String {
    match wanted {
        ExitCodes::Any => "any".to_owned(),
        ExitCodes::Of(ranges) => {
            let one = |r: &std::ops::RangeInclusive<u32>| match (r.start(), r.end()) {
                (a, b) if a == b => a.to_string(),
                (a, b) => format!("{a}-{b}"),
            };
            ranges.iter().map(one).collect::<Vec<_>>().join(",")
        }
    }
}

fn last_lines(f: &mut fmt::Formatter<'_>, tail: &[String]) -> fmt::Result {
    if tail.is_empty() { Ok(()) } else { write!(f, "; its last lines: {}", tail.join(" | ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let name = || "mkfs.ext4".to_owned();
        let tail = || vec!["one".to_owned(), "two".to_owned()];
        let start = |cause| ExecError::CannotStart { name: name(), cause };
        let cases = [
            (
                start(io::Error::from_raw_os_error(2)),
                "cannot start mkfs.ext4: No such file or directory (os error 2): is the path right, and the \
                 interpreter in its first line?",
            ),
            (
                start(io::Error::from_raw_os_error(13)),
                "cannot start mkfs.ext4: Permission denied (os error 13): is it executable?",
            ),
            (
                start(io::Error::from_raw_os_error(8)),
                "cannot start mkfs.ext4: Exec format error (os error 8): a script needs a first line such as #!/bin/sh",
            ),
            (
                ExecError::NotLoaded { name: name(), after: Duration::from_millis(20_010) },
                "cannot start mkfs.ext4: it was not loaded within 20 s: does its disk answer, or does a scanner hold \
                 it up?",
            ),
            (
                ExecError::NotStarted { name: name(), halt: Halt::Deadline },
                "did not start mkfs.ext4: the time for it is over",
            ),
            (
                ExecError::ExitCode { name: name(), code: 3, wanted: ExitCodes::Of(vec![0..=0]), tail: vec![] },
                "mkfs.ext4 ended with exit code 3, success is 0",
            ),
            (
                ExecError::ExitCode {
                    name: name(),
                    code: 137,
                    wanted: ExitCodes::Of(vec![0..=1, 142..=142]),
                    tail: tail(),
                },
                "mkfs.ext4 ended with exit code 137 (SIGKILL), success is 0-1,142; its last lines: one | two",
            ),
            (
                ExecError::TimedOut { name: name(), after: Duration::from_millis(2010), tail: tail() },
                "mkfs.ext4 was ended after 2 s: its time was over; its last lines: one | two",
            ),
            (
                ExecError::Stopped { name: name(), reason: StopReason::Terminate },
                "mkfs.ext4 was ended: stopped by a signal",
            ),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
        }
    }
}

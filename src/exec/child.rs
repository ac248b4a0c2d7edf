//! A running command, watched by one poll(2): its output, its exit, the deadline and the request to stop.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::group::Group;
use super::output::Lines;
use crate::clock::Tick;
use crate::scope::{Halt, Scope, StopReason};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// By itself or by a signal that was not ours (128 + its number).
    Exit(u32),
    /// By us: its time was over.
    TimedOut,
    /// By us: the daemon was asked to stop.
    Stopped(StopReason),
}

/// How often the exit is looked for on a kernel without pidfds (before 5.3), and what is left of a process group.
const TICK: Duration = Duration::from_millis(20);
/// How long the end is waited for after SIGKILL: it is up to the kernel only, and to a disk that does not answer.
const KILLED: Duration = Duration::from_secs(2);
/// What a pipe can hold: more cannot have been written before the exit.
const MAX_PIPE: usize = 1 << 20;

/// A started command.
pub(super) struct Running {
    child: Child,
    pidfd: Option<OwnedFd>,
    pipe: Option<PipeReader>,
    /// Its output so far.
    pub(super) lines: Lines,
    group: Group,
    status: Option<ExitStatus>,
}

/// On its way out by our will.
struct Ending {
    why: End,
    /// When it is killed, and after that: when it is given up.
    next: Tick,
    killed: bool,
}

impl Running {
    pub(super) fn new(child: Child, pipe: PipeReader, lines: Lines, group: Group) -> Running {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pidfd = pid.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        Running { child, pidfd, pipe: Some(pipe), lines, group, status: None }
    }

    /// Waits for the end, and sees to it when `limit` is over: SIGTERM to the group, SIGKILL `grace` later.
    pub(super) fn wait(&mut self, limit: &Scope, grace: Duration) -> End {
        let end = self.watch(limit, grace);
        // What it wrote last.
        self.read(MAX_PIPE);
        end
    }

    fn watch(&mut self, limit: &Scope, grace: Duration) -> End {
        let mut ending: Option<Ending> = None;
        loop {
            if self.status.is_none() {
                // An error cannot be but "no such child": then nobody will ever know the code.
                self.status = self.child.try_wait().unwrap_or(Some(ExitStatus::from_raw(255 << 8)));
            }
            let now = limit.clock.now();
            match (&mut ending, self.status) {
                (None, Some(status)) => return End::Exit(code(status)),
                // The others of the group get the same grace as their leader.
                (Some(e), Some(_)) if !self.group.has_members() => return e.why,
                (None, None) => {
                    if let Err(halt) = limit.check() {
                        let why = match halt {
                            Halt::Deadline => End::TimedOut,
                            Halt::Stopped(reason) => End::Stopped(reason),
                        };
                        log::info!("{}: SIGTERM: {halt}; SIGKILL in {:.0} s", self.lines.of().1, grace.as_secs_f64());
                        self.signal(Signal::TERM);
                        ending = Some(Ending { why, next: now.after(grace), killed: false });
                    }
                }
                (Some(e), _) if e.next <= now => {
                    if e.killed {
                        return e.why;
                    }
                    self.signal(Signal::KILL);
                    *e = Ending { why: e.why, next: now.after(grace.min(KILLED)), killed: true };
                }
                (Some(_), _) => {}
            }
            let until = ending.as_ref().map_or(limit.deadline, |e| e.next);
            let mut real = limit.clock.nap(until.since(limit.clock.now()));
            if self.status.is_some() || self.pidfd.is_none() {
                real = real.min(TICK);
            }
            self.poll(limit, ending.is_none(), real);
        }
    }

    /// While the leader is not reaped its number is not given to another process, and neither is the group's.
    fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            self.group.signal_unchecked(signal);
        } else {
            self.group.signal(signal);
        }
    }

    /// Waits `real` time at most, and reads what output there is.
    fn poll(&mut self, limit: &Scope, with_stop: bool, real: Duration) {
        let stop = limit.stop.as_ref().filter(|_| with_stop).and_then(|s| s.fd());
        // Without a descriptor for the stop it is looked at between short sleeps.
        let real = if with_stop && limit.stop.is_some() && stop.is_none() { real.min(TICK) } else { real };
        let exit = self.pidfd.as_ref().filter(|_| self.status.is_none()).map(AsFd::as_fd);
        let pipe = self.pipe.as_ref().map(AsFd::as_fd);
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(3);
        fds.extend([pipe, exit, stop].into_iter().flatten().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        // Rounded up, or the last part of a millisecond would be a busy loop.
        let millis = real.as_micros().div_ceil(1000);
        let timeout = Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX));
        let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        // Interrupted or failed: the caller looks at everything again anyway.
        let ready = rustix::event::poll(&mut fds, Some(&timeout)).unwrap_or(0);
        if ready > 0 && pipe.is_some() && fds.first().is_some_and(|fd| !fd.revents().is_empty()) {
            self.read(64 << 10);
        }
    }

    /// Reads what there is, at most about `max` bytes: who writes without end must not keep us from the deadline.
    fn read(&mut self, max: usize) {
        if let Some(pipe) = &mut self.pipe
            && !read_some(pipe, &mut self.lines, max)
        {
            self.pipe = None;
        }
        if self.pipe.is_none() {
            self.lines.end_line();
        }
    }

    /// What goes on after the command: its pipe if someone else still has it, the process if it cannot be ended.
    pub(super) fn finish(self) -> (Option<(PipeReader, Lines)>, Option<Child>) {
        let rest = self.pipe.map(|pipe| (pipe, self.lines));
        (rest, self.status.is_none().then_some(self.child))
    }
}

/// Reads from a pipe that does not block; `false`: it has come to its end.
pub(super) fn read_some(pipe: &mut PipeReader, lines: &mut Lines, max: usize) -> bool {
    let mut buffer = [0; 8 << 10];
    let mut total = 0;
    while total < max {
        match pipe.read(&mut buffer) {
            Ok(0) => return false,
            Ok(n) => {
                lines.push(buffer.get(..n).unwrap_or_default());
                total += n;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
        }
    }
    true
}

fn code(status: ExitStatus) -> u32 {
    let signal = status.signal().map(|n| n.saturating_add(128));
    status.code().or(signal).and_then(|n| u32::try_from(n).ok()).unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;
    use crate::exec::group::Groups;

    #[test]
    fn a_kernel_without_pidfds_does_too() {
        let scope = Scope::new(&Arc::new(Clock::new(None).unwrap()), Duration::from_secs(60), None);
        let (reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "exec >&-; sleep 0.05; exit 7"]).process_group(0).stdout(writer);
        let child = command.spawn().unwrap();
        drop(command);
        let group = Groups::default().add("o", child.id());
        let mut running = Running::new(child, reader, Lines::new("sh"), group);
        running.pidfd = None;
        assert_eq!(running.wait(&scope, Duration::from_secs(1)), End::Exit(7));
        let (rest, unreaped) = running.finish();
        assert!(rest.is_none() && unreaped.is_none());
    }
}

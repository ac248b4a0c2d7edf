//! Process groups of commands: what a command left running, and how it is ended.
//!
//! A group's number is free for others once its last member is gone. So a group is signalled later only if `/proc`
//! shows a member of it in our own session: only our commands and what they started are there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::scope::Scope;

/// One process group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group(Option<Pid>);

impl Group {
    /// Whether a process of it is still alive.
    pub(super) fn has_members(self) -> bool {
        let Some(group) = self.0 else { return false };
        if rustix::process::test_kill_process_group(group) == Err(rustix::io::Errno::SRCH) {
            return false;
        }
        let Some(session) = std::fs::read("/proc/self/stat").ok().and_then(|s| Stat::parse(&s)).map(|s| s.session)
        else {
            return false;
        };
        processes().any(|s| s.alive && s.group == group.as_raw_nonzero().get() && s.session == session)
    }

    /// Signals it, if it is still there.
    pub(super) fn signal(self, signal: Signal) {
        if self.has_members() {
            self.signal_unchecked(signal);
        }
    }

    /// Signals it without a look: only while its leader is not reaped.
    pub(super) fn signal_unchecked(self, signal: Signal) {
        if let Some(group) = self.0 {
            // Gone in the meantime is what was wanted.
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }
}

/// All processes that `/proc` shows.
fn processes() -> impl Iterator<Item = Stat> {
    let stat = |p: std::fs::DirEntry| {
        let name = p.file_name().into_string().ok().filter(|n| n.bytes().all(|b| b.is_ascii_digit()))?;
        Stat::parse(&std::fs::read(format!("/proc/{name}/stat")).ok()?)
    };
    std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(stat)
}

/// What is needed of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// No zombie.
    alive: bool,
    parent: i32,
    group: i32,
    /// 0 where the session was begun outside of our PID namespace, and for an initramfs' PID 1: `getsid(2)` says the
    /// same, but rustix's takes it for impossible.
    session: i32,
}

impl Stat {
    /// Reads `pid (name) state parent group session …`; the name may hold anything.
    fn parse(stat: &[u8]) -> Option<Stat> {
        let end = stat.iter().rposition(|b| *b == b')')?;
        let rest = String::from_utf8_lossy(&stat[end + 1..]);
        let mut fields = rest.split_ascii_whitespace();
        let alive = !matches!(fields.next()?, "Z" | "X");
        let mut number = || fields.next().and_then(|f| f.parse::<i32>().ok());
        let (parent, group, session) = (number()?, number()?, number()?);
        Some(Stat { alive, parent, group, session })
    }
}

/// The groups that may still have members, and who they belong to.
#[derive(Debug, Default)]
pub(super) struct Groups(Mutex<Vec<(Arc<str>, Group)>>);

impl Groups {
    fn lock(&self) -> MutexGuard<'_, Vec<(Arc<str>, Group)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the group that process `pid` leads; forgets those that are gone.
    pub(super) fn add(&self, owner: &str, pid: u32) -> Group {
        let group = Group(i32::try_from(pid).ok().and_then(Pid::from_raw));
        let gone =
            |g: &Group| g.0.is_none_or(|g| rustix::process::test_kill_process_group(g) == Err(rustix::io::Errno::SRCH));
        let mut all = self.lock();
        // The same number again: the old group is no more.
        all.retain(|(_, g)| *g != group && !gone(g));
        all.push((owner.into(), group));
        group
    }

    /// Remembers the groups of all children of this process as those of `owner`.
    pub(super) fn adopt(&self, owner: &str) {
        let me = rustix::process::getpid().as_raw_nonzero().get();
        let own = rustix::process::getpgrp().as_raw_nonzero().get();
        for child in processes().filter(|s| s.parent == me && s.group != own) {
            if let Ok(group) = u32::try_from(child.group) {
                self.add(owner, group);
            }
        }
    }

    /// Ends the groups of `owner`; `false`: something is still there.
    pub(super) fn end(&self, owner: &str, scope: &Scope, grace: Duration) -> bool {
        let alive = || {
            let groups: Vec<Group> = self.lock().iter().filter(|(o, _)| **o == *owner).map(|(_, g)| *g).collect();
            groups.into_iter().filter(|g| g.has_members()).collect::<Vec<_>>()
        };
        // The wait after SIGKILL is short, and goes on even if the scope is over: it is for the kernel only.
        for (signal, budget) in [(Signal::TERM, grace), (Signal::KILL, Duration::from_secs(2))] {
            let groups = alive();
            for group in &groups {
                let id = group.0.map_or(0, |g| g.as_raw_nonzero().get());
                let name = if signal == Signal::TERM { "SIGTERM" } else { "SIGKILL" };
                log::info!("ending what is left of a command (process group {id}) with {name}");
                group.signal(signal);
            }
            let wait = match signal {
                Signal::TERM => scope.within(budget),
                _ => Scope::new(&scope.clock, budget, None),
            };
            while !alive().is_empty() && wait.sleep(Duration::from_millis(20)).is_ok() {}
        }
        let left = alive();
        self.lock().retain(|(o, g)| **o != *owner || left.contains(g));
        left.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat() {
        let stat = |line: &str| Stat::parse(line.as_bytes());
        assert_eq!(stat("9 (a) b) (c) S 1 7 3 0"), Some(Stat { alive: true, parent: 1, group: 7, session: 3 }));
        assert_eq!(stat("9 (x) Z 1 7 3 0").map(|s| s.alive), Some(false));
        assert_eq!(stat("1 (init) S 0 0 0 0"), Some(Stat { alive: true, parent: 0, group: 0, session: 0 }));
        for line in ["9 (x) S 7", "", "9 (x)", "9 (x) S 1 7"] {
            assert_eq!(stat(line), None, "{line}");
        }
    }
}

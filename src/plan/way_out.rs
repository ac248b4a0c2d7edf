//! The time of a way out, shared out: when each phase of a domain's chain is over at the latest.
//!
//! The chain is commands, then snapshots are begun, then what commands left running is ended and the disks are written
//! out and unmounted, then they are detached, then records are deleted and an elastic address is given up. A phase that
//! ends early leaves its time to the next ones. One that takes too long takes it from them, but not what they need at
//! the least: so commands are ended in time for the unmounting, and the unmounting may take nearly all that is left for
//! the detachment, which is nothing without it. How the blocks of commands share theirs is in `exec::blocks`.

mod undone;

use std::time::Duration;

pub(crate) use undone::{in_short, last_line};

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// What the way out has at least, however late the notice came.
pub(crate) const LEAST: Duration = seconds(10);
/// How long a command may take to end after SIGTERM.
pub(crate) const GRACE: Duration = seconds(10);
/// How long a roll-back may take.
pub(crate) const ROLL_BACK: Duration = seconds(180);
/// What is kept for beginning snapshots.
const SNAPSHOTS: Duration = seconds(15);
/// What is kept for ending programs, writing out and unmounting, for the detachment, and for the records.
const UNMOUNT: Duration = seconds(20);
const DETACH: Duration = seconds(10);
const RECORDS: Duration = seconds(5);
/// The same where there is no hurry.
const UNHURRIED: [Duration; 4] = [seconds(30), seconds(90), seconds(30), seconds(60)];

/// What a domain has to do after its commands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tasks {
    /// Snapshots are begun.
    pub(crate) snapshots: bool,
    /// Volumes are released.
    pub(crate) volumes: bool,
    /// Records are deleted, or an elastic address is given up after them.
    pub(crate) records: bool,
}

impl Tasks {
    /// Whether anything is released.
    pub(crate) fn releases(self) -> bool {
        self.volumes || self.records
    }

    /// Of the times for snapshots, unmounting, detachment and records those that are needed.
    fn each(self, [snapshots, unmount, detach, records]: [Duration; 4]) -> [Duration; 4] {
        let if_so = |wanted, d| if wanted { d } else { Duration::ZERO };
        [
            if_so(self.snapshots, snapshots),
            if_so(self.volumes, unmount),
            if_so(self.volumes, detach),
            if_so(self.records, records),
        ]
    }
}

/// When each phase is over at the latest, from the beginning of the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Phases {
    /// Commands get SIGTERM then.
    pub(crate) commands: Duration,
    /// They get SIGKILL so long after that.
    pub(crate) grace: Duration,
    /// Snapshots are begun.
    pub(crate) snapshots: Duration,
    /// Disks are unmounted.
    pub(crate) unmount: Duration,
    /// Volumes are detached.
    pub(crate) detach: Duration,
    /// Records are deleted.
    pub(crate) records: Duration,
}

/// The time for everything before an announced end in `left`, of which `margin` is kept free.
pub(crate) fn budget(left: Duration, margin: Duration) -> Duration {
    left.saturating_sub(margin).max(LEAST)
}

/// The phases of a chain that has `all` the time.
pub(crate) fn announced(all: Duration, tasks: Tasks) -> Phases {
    if tasks == Tasks::default() {
        // Nothing comes after the commands: the margin is for ending and telling of them.
        return Phases { commands: all, grace: GRACE, snapshots: all, unmount: all, detach: all, records: all };
    }
    let [snapshots, unmount, detach, records] = tasks.each([SNAPSHOTS, UNMOUNT, DETACH, RECORDS]);
    // The commands have a third at the least.
    let most = all * 2 / 3;
    let full = GRACE + snapshots + unmount + detach + records;
    let part = (most.as_secs_f64() / full.as_secs_f64()).min(1.0);
    let [grace, snapshots, unmount, detach, records] =
        [GRACE, snapshots, unmount, detach, records].map(|d| d.mul_f64(part));
    let last = all.saturating_sub(records);
    let begun = last.saturating_sub(detach + unmount);
    Phases {
        commands: begun.saturating_sub(snapshots + grace),
        grace,
        snapshots: begun,
        // What is kept of the detachment is enough to ask for it.
        unmount: last.saturating_sub(detach / 5),
        detach: last,
        records: all,
    }
}

/// The phases of a chain whose commands may take `commands` in all, where no end is announced.
pub(crate) fn unhurried(commands: Duration, tasks: Tasks) -> Phases {
    let [snapshots, unmount, detach, records] = tasks.each(UNHURRIED);
    let snapshots = commands + snapshots;
    let unmount = snapshots + unmount;
    let detach = unmount + detach;
    Phases { commands, grace: GRACE, snapshots, unmount, detach, records: detach + records }
}

/// The part of `left` for one of so many that are `still` to be done, itself included.
pub(crate) fn share(left: Duration, still: usize) -> Duration {
    left / u32::try_from(still).unwrap_or(u32::MAX).max(1)
}

/// How long a roll-back may take: before an announced end half of the time that is left, the rest is for the way out.
pub(crate) fn roll_back(left: Option<Duration>) -> Duration {
    left.map_or(ROLL_BACK, |left| ROLL_BACK.min(left / 2).max(LEAST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Tasks = Tasks { snapshots: false, volumes: false, records: false };
    const VOLUMES: Tasks = Tasks { volumes: true, ..NONE };
    const BOTH: Tasks = Tasks { records: true, ..VOLUMES };
    const ALL: Tasks = Tasks { snapshots: true, ..BOTH };

    fn millis(p: Phases) -> [u128; 6] {
        [p.commands, p.grace, p.snapshots, p.unmount, p.detach, p.records].map(|d| d.as_millis())
    }

    #[test]
    fn what_two_minutes_are_for() {
        let all = budget(seconds(120), seconds(15));
        assert_eq!(all, seconds(105));
        assert_eq!(millis(announced(all, NONE)), [105_000, 10_000, 105_000, 105_000, 105_000, 105_000]);
        assert_eq!(millis(announced(all, VOLUMES)), [65_000, 10_000, 75_000, 103_000, 105_000, 105_000]);
        assert_eq!(millis(announced(all, BOTH)), [60_000, 10_000, 70_000, 98_000, 100_000, 105_000]);
        assert_eq!(millis(announced(all, ALL)), [45_000, 10_000, 70_000, 98_000, 100_000, 105_000]);
        let records = Tasks { records: true, ..NONE };
        assert_eq!(millis(announced(all, records)), [90_000, 10_000, 100_000, 100_000, 100_000, 105_000]);
        let snapshots = Tasks { snapshots: true, ..NONE };
        assert_eq!(millis(announced(all, snapshots)), [80_000, 10_000, 105_000, 105_000, 105_000, 105_000]);
        assert!(ALL.releases() && BOTH.releases() && !snapshots.releases());
    }

    #[test]
    fn a_late_notice_is_shared_out_in_the_same_way() {
        for left in [0, 10, 25] {
            assert_eq!(budget(seconds(left), seconds(15)), LEAST);
        }
        assert_eq!(millis(announced(seconds(30), VOLUMES)), [10_000, 5_000, 15_000, 29_000, 30_000, 30_000]);
        assert_eq!(millis(announced(LEAST, VOLUMES)), [3_333, 1_666, 5_000, 9_666, 10_000, 10_000]);
    }

    #[test]
    fn where_there_is_no_hurry_commands_have_what_they_ask_for() {
        assert_eq!(millis(unhurried(seconds(70), NONE)), [70_000, 10_000, 70_000, 70_000, 70_000, 70_000]);
        assert_eq!(millis(unhurried(seconds(70), BOTH)), [70_000, 10_000, 70_000, 160_000, 190_000, 250_000]);
        assert_eq!(
            (share(seconds(60), 3), share(seconds(60), 1), share(seconds(60), 0)),
            (seconds(20), seconds(60), seconds(60))
        );
        let roll_backs = [None, Some(120), Some(3), Some(4000)].map(|left| roll_back(left.map(seconds)).as_secs());
        assert_eq!(roll_backs, [180, 60, 10, 180]);
    }
}

#[cfg(test)]
mod properties;

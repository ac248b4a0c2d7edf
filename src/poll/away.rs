//! After the way out for a hibernation: the process lives on, and sees when the instance is back.
//!
//! The instance is back when the kernel has counted a suspension, when the wall clock has jumped (where the kernel could
//! not count it), when the notice is gone, or when its time has long passed. It may also come otherwise: the notice may
//! be replaced by one that means the end.

use std::sync::Arc;
use std::time::Duration;

use super::{MAX_AGE, PATIENCE, valid};
use crate::clock::Clock;
use crate::imds::Imds;
use crate::model::Notice;
use crate::scope::{Scope, Stop};

/// A suspension that is shorter is none.
const SUSPENDED: Duration = Duration::from_secs(2);
/// What a time daemon does is not taken for a suspension.
const JUMPED: time::Duration = time::Duration::minutes(1);
/// So many answers in a row that there is no notice: one may be a mistake, and the instance about to be frozen.
const GONE: u32 = 3;

/// What a suspension changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    suspended: Duration,
    wall_ahead: time::Duration,
}

impl Clocks {
    /// As they are now.
    pub(crate) fn now() -> Clocks {
        Clocks { suspended: Clock::suspended(), wall_ahead: Clock::wall_ahead() }
    }
}

/// What the wait came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Return {
    /// The instance is back; the text says how that was seen.
    Back(String),
    /// EC2 will stop or terminate it instead.
    Other(Notice),
    /// Somebody asked to stop.
    Stopped,
}

/// Waits for the instance to be back from the hibernation that `notice` announces (and that another notice may put off);
/// `before` is from before that notice.
pub(crate) fn away(
    imds: &Imds,
    clock: &Arc<Clock>,
    every: Duration,
    stop: &Stop,
    notice: &mut Notice,
    before: &Clocks,
) -> Return {
    // By the clock that does not step, whatever is learnt of the other one meanwhile.
    let long_past = |n: &Notice| clock.now().after(after(n.time - clock.corrected() + MAX_AGE));
    let mut past = long_past(notice);
    let mut gone = 0;
    loop {
        if stop.get().is_some() {
            return Return::Stopped;
        }
        let asked = clock.now();
        let seen = imds.notice(&Scope::new(clock, PATIENCE, Some(stop)));
        gone = if matches!(seen, Ok(None)) { gone + 1 } else { 0 };
        let other = |n: &Notice| n != notice && n.action != "hibernate";
        if let Ok(Some(n)) = &seen
            && other(n)
            && valid(n, clock.corrected(), clock.booted())
        {
            return Return::Other(n.clone());
        }
        if let Some(how) = back(before, &Clocks::now(), gone, past <= asked) {
            return Return::Back(how);
        }
        if let Ok(Some(n)) = seen
            && n.action == "hibernate"
            && n != *notice
        {
            log::info!("EC2 is going to {} this instance at {} instead", n.action, n.time_text);
            past = long_past(&n);
            *notice = n;
        }
        let left = every.saturating_sub(clock.now().since(asked));
        let _ = Scope::new(clock, left, Some(stop)).sleep(left);
    }
}

/// How one look shows that the instance is back: `gone` answers in a row said that there is no notice; or the notice is
/// `long_past`.
fn back(before: &Clocks, now: &Clocks, gone: u32, long_past: bool) -> Option<String> {
    let slept = now.suspended.saturating_sub(before.suspended);
    let jumped = now.wall_ahead - before.wall_ahead;
    if slept >= SUSPENDED {
        Some(format!("it was suspended for {} s", slept.as_secs()))
    } else if jumped >= JUMPED {
        Some(format!("the clock jumped by {} s", jumped.whole_seconds()))
    } else if gone >= GONE {
        Some("the notice is gone".to_owned())
    } else {
        long_past.then(|| "the time of the notice is long past".to_owned())
    }
}

/// None for what is past.
fn after(d: time::Duration) -> Duration {
    Duration::try_from(d).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_return_is_seen() {
        const BEFORE: Clocks = Clocks { suspended: Duration::from_secs(50), wall_ahead: time::Duration::hours(9) };
        let look = |now: Clocks, gone, long_past| back(&BEFORE, &now, gone, long_past);
        assert_eq!(look(BEFORE, 0, false), None);
        // The kernel counted it; or could not, and the time was set afterwards.
        let slept = |s| Clocks { suspended: BEFORE.suspended + Duration::from_secs(s), ..BEFORE };
        assert_eq!(look(slept(1), 0, false), None);
        assert_eq!(look(slept(3600), 0, false).as_deref(), Some("it was suspended for 3600 s"));
        let jumped = |s| Clocks { wall_ahead: BEFORE.wall_ahead + time::Duration::seconds(s), ..BEFORE };
        assert_eq!((look(jumped(59), 0, false), look(jumped(-600), 0, false)), (None, None));
        assert_eq!(look(jumped(60), 0, false).as_deref(), Some("the clock jumped by 60 s"));
        // Gone for good, or left behind.
        assert!(look(BEFORE, 2, false).is_none() && look(BEFORE, 3, false).is_some());
        assert!(look(BEFORE, 0, true).is_some());
        assert_eq!((after(time::Duration::seconds(-1)), after(time::Duration::SECOND).as_secs()), (Duration::ZERO, 1));
    }

    #[test]
    fn the_clocks_of_this_machine_stay_where_they_are() {
        let before = Clocks::now();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(back(&before, &Clocks::now(), 0, false), None);
    }
}

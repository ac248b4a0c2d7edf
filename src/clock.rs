//! Time, and the one place that reads it.
//!
//! Waits, deadlines and ages are measured in [`Tick`]s of `CLOCK_BOOTTIME`: it never steps and it goes on while the
//! machine sleeps, so that a deadline is over after a hibernation. Wall time is for people, signatures and notices; it
//! is corrected by what AWS's answers say (`Date`), never by setting the system clock.
//!
//! For tests and rehearsals `EC2FLEETD_CLOCK=rate=N,offset=SECONDS` makes time run N times faster and the wall clock
//! wrong by so many seconds.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use time::OffsetDateTime;

/// The kernel's waits stand still while the machine is suspended. So none lasts longer than this: then [`Tick`]s, which
/// went on, tell whether it is over.
const NAP: Duration = Duration::from_secs(5);

/// A moment on the monotonic clock, as time since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tick(Duration);

impl Tick {
    /// A moment far away: about 30 years after boot.
    pub(crate) const NEVER: Tick = Tick(Duration::from_secs(1 << 30));

    /// The moment `d` later (or [`Tick::NEVER`]).
    pub(crate) fn after(self, d: Duration) -> Tick {
        self.0.checked_add(d).map_or(Tick::NEVER, |t| Tick(t).min(Tick::NEVER))
    }

    /// The time from `earlier` to this moment, zero if it is not later.
    pub(crate) fn since(self, earlier: Tick) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The clocks of the machine, with the correction of the wall clock.
#[derive(Debug)]
pub(crate) struct Clock {
    rate: f64,
    start: Duration,
    wall_at_start: OffsetDateTime,
    /// By how much the wall clock is wrong on purpose.
    offset: time::Duration,
    /// How far AWS's clock is ahead of the wall clock at the start (and what has passed since), or [`UNKNOWN`]. Not of
    /// the wall clock as it is: a time daemon may set that right at any moment, and then the correction must go.
    ahead_ms: AtomicI64,
}

/// Nothing is known against the wall clock.
const UNKNOWN: i64 = i64::MIN;

impl Clock {
    /// The clock of this process; `spec` is the value of `EC2FLEETD_CLOCK`.
    pub(crate) fn new(spec: Option<&str>) -> Result<Clock, String> {
        let mut rate = 1.0;
        let mut offset = 0.0;
        for part in spec.unwrap_or("").split(',').filter(|p| !p.is_empty()) {
            let number = |v: &str| v.parse::<f64>().ok().filter(|n| n.is_finite() && n.abs() < 1e10);
            match part.split_once('=').map(|(k, v)| (k, number(v))) {
                Some(("rate", Some(n))) if n > 0.0 => rate = n,
                Some(("offset", Some(n))) => offset = n,
                _ => return Err(format!("EC2FLEETD_CLOCK: cannot read '{part}': write rate=N,offset=SECONDS")),
            }
        }
        let offset = time::Duration::seconds_f64(offset);
        let wall_at_start = OffsetDateTime::now_utc()
            .checked_add(offset)
            .ok_or("EC2FLEETD_CLOCK: the offset leads beyond the years 0 to 9999")?;
        Ok(Clock { rate, start: boottime(), wall_at_start, offset, ahead_ms: AtomicI64::new(UNKNOWN) })
    }

    fn elapsed(&self) -> Duration {
        boottime().saturating_sub(self.start).mul_f64(self.rate)
    }

    /// This moment.
    pub(crate) fn now(&self) -> Tick {
        Tick(self.start + self.elapsed())
    }

    /// How long to sleep really, for a wait of `d` on this clock.
    pub(crate) fn real(&self, d: Duration) -> Duration {
        if self.rate == 1.0 { d } else { d.div_f64(self.rate) }
    }

    /// How long to sleep really and at once, for a wait of `d` on this clock: afterwards it is to be read again.
    pub(crate) fn nap(&self, d: Duration) -> Duration {
        self.real(d).min(NAP)
    }

    /// What the machine believes the time is.
    pub(crate) fn system(&self) -> OffsetDateTime {
        self.wall_at_start + self.elapsed() + self.stepped()
    }

    /// How far the wall clock was set forward since the start (by NTP). Further than a day it is not followed.
    fn stepped(&self) -> time::Duration {
        if self.rate != 1.0 {
            return time::Duration::ZERO;
        }
        let step = OffsetDateTime::now_utc() - (self.wall_at_start - self.offset) - self.elapsed();
        if step.abs() < time::Duration::days(1) { step } else { time::Duration::ZERO }
    }

    /// The time by AWS's clock, as far as it is known: for signatures and notices.
    pub(crate) fn corrected(&self) -> OffsetDateTime {
        self.system() + time::Duration::milliseconds(self.skew_ms())
    }

    /// How far AWS's clock is ahead of the system's, in milliseconds; 0 if that is not known.
    pub(crate) fn skew_ms(&self) -> i64 {
        match self.ahead_ms.load(Ordering::Relaxed) {
            UNKNOWN => 0,
            ahead => ahead - self.stepped_ms(),
        }
    }

    /// Records how far AWS's clock is ahead of the system's; 0: nothing is known any more.
    pub(crate) fn set_skew_ms(&self, ms: i64) {
        self.ahead_ms.store(if ms == 0 { UNKNOWN } else { ms + self.stepped_ms() }, Ordering::Relaxed);
    }

    fn stepped_ms(&self) -> i64 {
        // Less than a day.
        i64::try_from(self.stepped().whole_milliseconds()).unwrap_or(0)
    }
}

fn boottime() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_offset() {
        let c = Clock::new(Some("rate=1000,offset=-86400")).unwrap();
        let t = c.now();
        std::thread::sleep(Duration::from_millis(2));
        assert!(c.now().since(t) >= Duration::from_secs(2));
        assert_eq!(c.real(Duration::from_secs(10)), Duration::from_millis(10));
        assert_eq!((c.nap(Duration::from_secs(10)), c.nap(Duration::MAX)), (Duration::from_millis(10), NAP));
        assert!(OffsetDateTime::now_utc() - c.system() > time::Duration::hours(22));
        for (spec, hours) in [("offset=7200", 2), ("offset=-7200", -2), ("offset=-864000", -240)] {
            let wrong = Clock::new(Some(spec)).unwrap().system() - OffsetDateTime::now_utc();
            assert!((wrong - time::Duration::hours(hours)).abs() < time::Duration::minutes(1), "{spec}: {wrong}");
        }
        assert!(Clock::new(Some("rate=0")).is_err() && Clock::new(Some("x")).is_err());
    }

    #[test]
    fn a_step_of_the_wall_clock_does_not_spoil_the_correction() {
        let mut c = Clock::new(Some("offset=-7200")).unwrap();
        c.set_skew_ms(7_200_000);
        // What a time daemon does that sets a clock right which was two hours behind.
        c.offset += time::Duration::hours(2);
        let wrong = |c: &Clock, t: OffsetDateTime| {
            assert!((t - OffsetDateTime::now_utc()).abs() < time::Duration::minutes(1), "{t}, skew {}", c.skew_ms());
        };
        wrong(&c, c.system());
        wrong(&c, c.corrected());
        c.set_skew_ms(0);
        wrong(&c, c.corrected());
    }

    #[test]
    fn correction() {
        let c = Clock::new(None).unwrap();
        c.set_skew_ms(3_600_000);
        assert!(c.corrected() - c.system() > time::Duration::minutes(59));
        assert_eq!(Tick::NEVER.after(Duration::from_secs(u64::MAX)), Tick::NEVER);
    }
}

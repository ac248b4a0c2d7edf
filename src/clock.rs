//! Time, and the one place that reads it.
//!
//! Waits, deadlines and ages are measured in [`Tick`]s of `CLOCK_BOOTTIME`: it never steps and it goes on while the
//! machine sleeps, so that a deadline is over after a hibernation. Wall time is for people, signatures and notices; it
//! is corrected by what AWS's answers say (`Date`) and, where it is plainly wrong, by Amazon's time service; the system
//! clock is set only on request.
//!
//! For tests and rehearsals `EC2FLEETD_CLOCK=rate=N,offset=SECONDS,sntp=ADDRESS:PORT` makes time run N times faster and
//! the wall clock wrong by so many seconds; the time service is then at that address or nowhere, and the system clock is
//! never set.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use time::{OffsetDateTime, UtcOffset};

/// The kernel's waits stand still while the machine is suspended. So none lasts longer than this: then [`Tick`]s, which
/// went on, tell whether it is over.
const NAP: Duration = Duration::from_secs(5);

static LOCAL_OFFSET: OnceLock<UtcOffset> = OnceLock::new();

/// Asks for the machine's offset from UTC: it can only be told while there is one thread.
pub(crate) fn note_local_offset() {
    let _ = LOCAL_OFFSET.set(UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC));
}

/// The machine's offset from UTC, as it was at the start.
pub(crate) fn local_offset() -> UtcOffset {
    LOCAL_OFFSET.get().copied().unwrap_or(UtcOffset::UTC)
}

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

    /// The time since the machine booted.
    pub(crate) fn since_boot(self) -> Duration {
        self.0
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
    /// It is not the machine's: where the time service is then.
    test: Option<Option<SocketAddr>>,
}

/// When this was built, at the earliest: `SOURCE_DATE_EPOCH` of the build, else the day on which the oldest compiler
/// that can build it came out.
const BUILT: i64 = match option_env!("SOURCE_DATE_EPOCH") {
    Some(text) => match i64::from_str_radix(text, 10) {
        Ok(seconds) if seconds > COMPILER => seconds,
        _ => COMPILER,
    },
    None => COMPILER,
};
/// Rust 1.94.1, 26 March 2026.
const COMPILER: i64 = 1_774_483_200;
const DAY: i64 = 86_400;

/// Nothing is known against the wall clock.
const UNKNOWN: i64 = i64::MIN;

impl Clock {
    /// The clock of this process; `spec` is the value of `EC2FLEETD_CLOCK`.
    pub(crate) fn new(spec: Option<&str>) -> Result<Clock, String> {
        let mut rate = 1.0;
        let mut offset = 0.0;
        let mut sntp = None;
        for part in spec.unwrap_or("").split(',').filter(|p| !p.is_empty()) {
            let number = |v: &str| v.parse::<f64>().ok().filter(|n| n.is_finite() && n.abs() < 1e10);
            match part.split_once('=').map(|(k, v)| (k, number(v), v.parse())) {
                Some(("rate", Some(n), _)) if n > 0.0 => rate = n,
                Some(("offset", Some(n), _)) => offset = n,
                Some(("sntp", _, Ok(address))) => sntp = Some(address),
                _ => {
                    let form = "rate=N,offset=SECONDS,sntp=ADDRESS:PORT";
                    return Err(format!("EC2FLEETD_CLOCK: cannot read '{part}': write {form}"));
                }
            }
        }
        let offset = time::Duration::seconds_f64(offset);
        let wall_at_start = OffsetDateTime::now_utc()
            .checked_add(offset)
            .ok_or("EC2FLEETD_CLOCK: the offset leads beyond the years 0 to 9999")?;
        Ok(Clock {
            rate,
            start: boottime(),
            wall_at_start,
            offset,
            ahead_ms: AtomicI64::new(UNKNOWN),
            test: spec.map(|_| sntp),
        })
    }

    /// Whether the machine's clock cannot be right.
    pub(crate) fn is_plainly_wrong(&self) -> bool {
        !is_plausible(self.system().unix_timestamp())
    }

    /// Whom to ask for the time, if `real` is the answer outside of tests.
    pub(crate) fn time_servers(&self, real: &[SocketAddr]) -> Vec<SocketAddr> {
        self.test.map_or_else(|| real.to_vec(), |own| own.into_iter().collect())
    }

    /// Sets the system clock to the corrected time.
    pub(crate) fn set_system(&self) -> std::io::Result<()> {
        if self.test.is_some() {
            return Ok(());
        }
        let now = self.corrected();
        let now = rustix::time::Timespec { tv_sec: now.unix_timestamp(), tv_nsec: now.nanosecond().into() };
        Ok(rustix::time::clock_settime(rustix::time::ClockId::Realtime, now)?)
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

    /// How long the machine has been suspended since its boot, if the kernel could tell.
    pub(crate) fn suspended() -> Duration {
        boottime().saturating_sub(of(rustix::time::ClockId::Monotonic))
    }

    /// How far the wall clock is ahead of the time since boot: it grows by a suspension that the kernel did not see.
    pub(crate) fn wall_ahead() -> time::Duration {
        OffsetDateTime::now_utc() - OffsetDateTime::UNIX_EPOCH - boottime()
    }

    /// When the machine booted, by AWS's clock.
    pub(crate) fn booted(&self) -> OffsetDateTime {
        self.corrected() - self.now().0
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

/// Whether it may be so many seconds since 1970: not before the program was built (but for the clock of the builder,
/// which need not be quite right), nor when nobody uses it any more.
pub(crate) fn is_plausible(seconds: i64) -> bool {
    (BUILT - DAY..BUILT + 50 * 365 * DAY).contains(&seconds)
}

fn boottime() -> Duration {
    of(rustix::time::ClockId::Boottime)
}

fn of(clock: rustix::time::ClockId) -> Duration {
    let t = rustix::time::clock_gettime(clock);
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
    fn a_clock_is_plainly_wrong_before_the_build() {
        assert!(BUILT >= COMPILER && OffsetDateTime::now_utc().unix_timestamp() > BUILT);
        assert!(!Clock::new(None).unwrap().is_plainly_wrong());
        for (offset, wrong) in [("-3600", false), ("-1000000000", true), ("3600", false), ("1000000000", false)] {
            assert_eq!(Clock::new(Some(&format!("offset={offset}"))).unwrap().is_plainly_wrong(), wrong, "{offset}");
        }
        assert!(!is_plausible(0) && !is_plausible(BUILT - DAY - 1) && is_plausible(BUILT - DAY));
    }

    #[test]
    fn a_test_has_a_time_service_of_its_own_or_none() {
        let (real, own): (SocketAddr, SocketAddr) = ("192.0.2.1:123".parse().unwrap(), "127.0.0.1:1".parse().unwrap());
        let servers = |spec| Clock::new(spec).unwrap().time_servers(&[real]);
        assert_eq!(servers(None), [real]);
        assert_eq!(servers(Some("rate=2")), []);
        assert_eq!(servers(Some("rate=2,sntp=127.0.0.1:1")), [own]);
        assert!(Clock::new(Some("sntp=localhost")).is_err());
    }

    #[test]
    fn correction() {
        let c = Clock::new(None).unwrap();
        c.set_skew_ms(3_600_000);
        assert!(c.corrected() - c.system() > time::Duration::minutes(59));
        assert_eq!(Tick::NEVER.after(Duration::from_secs(u64::MAX)), Tick::NEVER);
    }
}

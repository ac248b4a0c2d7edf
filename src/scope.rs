//! How long something may go on: one deadline, and a request to stop.
//!
//! A [`Scope`] is made once for a phase (init, a roll-back, the way out) and handed down. Whatever waits, waits through
//! it. A roll-back's scope has no [`Stop`]: it is never interrupted, only bounded.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Tick};

/// Why the daemon was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// SIGTERM or SIGINT.
    Terminate,
    /// EC2 takes the capacity back.
    Interrupted,
    /// Auto Scaling takes the instance out of service.
    Terminating,
}

/// Why a wait ended before what was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Halt {
    /// The time that the scope allows is over.
    Deadline,
    /// Somebody asked to stop.
    Stopped(StopReason),
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Halt::Deadline => "the time for it is over",
            Halt::Stopped(StopReason::Terminate) => "stopped by a signal",
            Halt::Stopped(StopReason::Interrupted) => "stopped by an interruption notice",
            Halt::Stopped(StopReason::Terminating) => "stopped because Auto Scaling takes the instance out of service",
        })
    }
}

impl std::error::Error for Halt {}

/// A request to stop, shared by all threads. The first request counts.
#[derive(Clone)]
pub(crate) struct Stop(Arc<Inner>);

#[derive(Default)]
struct Asked {
    reason: Option<StopReason>,
    /// A signal came after another request: it counts if that one is withdrawn.
    signal_too: bool,
}

struct Inner {
    asked: Mutex<Asked>,
    changed: Condvar,
    event: Option<OwnedFd>,
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stop({:?})", self.get())
    }
}

impl Default for Stop {
    fn default() -> Self {
        Stop::new()
    }
}

impl Stop {
    /// Nobody has asked yet.
    pub(crate) fn new() -> Stop {
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        Stop(Arc::new(Inner {
            asked: Mutex::default(),
            changed: Condvar::new(),
            event: rustix::event::eventfd(0, flags).ok(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks to stop; `false` if somebody had asked before.
    pub(crate) fn request(&self, reason: StopReason) -> bool {
        let mut asked = self.lock();
        if asked.reason.is_some() {
            asked.signal_too |= reason == StopReason::Terminate;
            return false;
        }
        asked.reason = Some(reason);
        self.0.changed.notify_all();
        if let Some(fd) = &self.0.event {
            let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
        }
        true
    }

    /// The reason, once there is one.
    pub(crate) fn get(&self) -> Option<StopReason> {
        self.lock().reason
    }

    /// The request is done with, and the daemon goes on: as if nobody had asked, unless a signal came meanwhile.
    pub(crate) fn withdraw(&self) {
        let mut asked = self.lock();
        asked.reason = std::mem::take(&mut asked.signal_too).then_some(StopReason::Terminate);
        if let (None, Some(fd)) = (asked.reason, &self.0.event) {
            let _ = rustix::io::read(fd, &mut [0; 8]);
        }
    }

    /// Waits `real` time at most for a request.
    pub(crate) fn wait(&self, real: Duration) -> Option<StopReason> {
        self.wait_or(real, &|| false)
    }

    /// The same, but also ends when `something` is there; who brings that calls [`Stop::look`].
    pub(crate) fn wait_or(&self, real: Duration, something: &dyn Fn() -> bool) -> Option<StopReason> {
        let go_on = |a: &mut Asked| a.reason.is_none() && !something();
        let waited = self.0.changed.wait_timeout_while(self.lock(), real, go_on);
        let (guard, _) = waited.unwrap_or_else(PoisonError::into_inner);
        guard.reason
    }

    /// Lets those who wait look whether what they wait for is there.
    pub(crate) fn look(&self) {
        let _asked = self.lock();
        self.0.changed.notify_all();
    }

    /// A descriptor that is readable from the request on, for `poll(2)`.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.event.as_ref().map(AsFd::as_fd)
    }
}

/// A deadline and, where the phase can be interrupted, the request to stop.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    /// The clock that the deadline is on.
    pub(crate) clock: Arc<Clock>,
    /// When the phase must be over.
    pub(crate) deadline: Tick,
    /// Who may end it earlier.
    pub(crate) stop: Option<Stop>,
    /// Set when what the work is for is lost: to who works it is a deadline.
    lost: Option<Arc<AtomicBool>>,
    /// Made by [`Scope::early`].
    early: bool,
    /// How long a command has after SIGTERM, where that is not the usual time.
    pub(crate) grace: Option<Duration>,
}

/// By how much [`Scope::early`] is early, at most.
const RESERVE: Duration = Duration::from_secs(60);

/// How long it may take until a wait sees that its work is lost.
const SEE_LOST: Duration = Duration::from_millis(250);

impl Scope {
    /// A scope of `budget` from now on.
    pub(crate) fn new(clock: &Arc<Clock>, budget: Duration, stop: Option<&Stop>) -> Scope {
        Scope {
            clock: clock.clone(),
            deadline: clock.now().after(budget),
            stop: stop.cloned(),
            lost: None,
            early: false,
            grace: None,
        }
    }

    /// The same, but over as soon as `lost` is set.
    pub(crate) fn unless(&self, lost: &Arc<AtomicBool>) -> Scope {
        Scope { lost: Some(lost.clone()), ..self.clone() }
    }

    /// The same, with another time for commands between SIGTERM and SIGKILL.
    pub(crate) fn with_grace(self, grace: Duration) -> Scope {
        Scope { grace: Some(grace), ..self }
    }

    /// The same, but over after `budget` if that is earlier.
    pub(crate) fn within(&self, budget: Duration) -> Scope {
        Scope { deadline: self.clock.now().after(budget).min(self.deadline), ..self.clone() }
    }

    /// The same for what others need not wait for: over a little earlier, so that they still have time. Already early,
    /// it stays as it is.
    pub(crate) fn early(&self) -> Scope {
        if self.early {
            return self.clone();
        }
        let left = self.remaining();
        Scope { early: true, ..self.within(left.saturating_sub(RESERVE.min(left / 4))) }
    }

    /// What is left of it.
    pub(crate) fn remaining(&self) -> Duration {
        self.deadline.since(self.clock.now())
    }

    /// Whether it still goes on.
    pub(crate) fn check(&self) -> Result<(), Halt> {
        if let Some(r) = self.stop.as_ref().and_then(Stop::get) {
            return Err(Halt::Stopped(r));
        }
        let lost = self.lost.as_ref().is_some_and(|l| l.load(Ordering::Relaxed));
        if lost || self.remaining().is_zero() { Err(Halt::Deadline) } else { Ok(()) }
    }

    /// Waits `d`, or until the scope ends.
    pub(crate) fn sleep(&self, d: Duration) -> Result<(), Halt> {
        let end = self.clock.now().after(d);
        loop {
            self.check()?;
            let left = end.since(self.clock.now());
            if left.is_zero() {
                return Ok(());
            }
            let most = if self.lost.is_some() { SEE_LOST } else { Duration::MAX };
            let real = self.clock.nap(left.min(self.remaining()).min(most));
            match &self.stop {
                Some(s) => {
                    s.wait(real);
                }
                None => std::thread::sleep(real),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_a_wait_and_the_first_counts() {
        let clock = Arc::new(Clock::new(None).unwrap());
        let stop = Stop::new();
        let scope = Scope::new(&clock, Duration::from_secs(60), Some(&stop));
        assert_eq!(scope.check(), Ok(()));
        std::thread::scope(|s| {
            let waiting = s.spawn(|| scope.sleep(Duration::from_secs(50)));
            assert!(stop.request(StopReason::Interrupted));
            assert!(!stop.request(StopReason::Terminate));
            assert_eq!(waiting.join().unwrap(), Err(Halt::Stopped(StopReason::Interrupted)));
        });
    }

    #[test]
    fn a_request_that_is_withdrawn_leaves_a_later_signal() {
        let readable = |stop: &Stop| {
            let mut fds = [rustix::event::PollFd::from_borrowed_fd(stop.fd().unwrap(), rustix::event::PollFlags::IN)];
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            rustix::event::poll(&mut fds, Some(&now)).unwrap() == 1
        };
        let stop = Stop::new();
        assert!(stop.request(StopReason::Interrupted) && readable(&stop));
        stop.withdraw();
        assert!(stop.get().is_none() && !readable(&stop));
        assert!(stop.request(StopReason::Interrupted) && !stop.request(StopReason::Terminate));
        stop.withdraw();
        assert!(stop.get() == Some(StopReason::Terminate) && readable(&stop));
    }

    #[test]
    fn work_that_is_lost_ends_a_wait() {
        let clock = Arc::new(Clock::new(None).unwrap());
        let lost = Arc::new(AtomicBool::new(false));
        let scope = Scope::new(&clock, Duration::from_secs(60), None).unless(&lost);
        assert_eq!(scope.sleep(Duration::from_millis(1)), Ok(()));
        std::thread::scope(|s| {
            let waiting = s.spawn(|| scope.sleep(Duration::from_secs(50)));
            lost.store(true, Ordering::Relaxed);
            assert_eq!(waiting.join().unwrap(), Err(Halt::Deadline));
        });
    }

    #[test]
    fn what_others_need_not_wait_for_ends_early_once() {
        let clock = Arc::new(Clock::new(None).unwrap());
        for (all, least) in [(600, 539), (8, 5)] {
            let scope = Scope::new(&clock, Duration::from_secs(all), None).early();
            assert_eq!(scope.early().deadline, scope.deadline);
            assert!((least..=least + 1).contains(&scope.remaining().as_secs()), "{:?}", scope.remaining());
        }
    }

    #[test]
    fn a_deadline_ends_a_wait() {
        let clock = Arc::new(Clock::new(Some("rate=100")).unwrap());
        let scope = Scope::new(&clock, Duration::from_secs(60), None).within(Duration::from_secs(1));
        assert_eq!(scope.sleep(Duration::from_secs(30)), Err(Halt::Deadline));
    }
}

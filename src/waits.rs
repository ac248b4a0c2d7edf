//! What is being waited for. Nothing waits long in silence: whoever may wait says for what ([`waiting`]), and what goes on
//! for over [`QUIET`] is told, and told again every [`AGAIN`], by one thread for all ([`watch`]).
//!
//! A thread's waits stand in each other: the tries of a call in the wait for an attachment, that in the directive. Of each
//! thread the innermost one that is old enough is told.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;

use crate::clock::{Clock, Tick};
use crate::log::{current_domain, in_domain};
use crate::scope::Scope;

/// How long something may be waited for without a word.
pub(crate) const QUIET: Duration = Duration::from_secs(5);
/// How often it is told of after that.
const AGAIN: Duration = Duration::from_secs(30);
/// How often it is looked whether there is something to tell; less often than this really, however fast a test's time is.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_REALLY: Duration = Duration::from_millis(20);

/// One wait of a thread.
#[derive(Debug)]
struct Entry {
    id: u64,
    domain: String,
    what: String,
    since: Tick,
    until: Tick,
}

/// The waits of one thread, the outermost first, and what was last told of them.
#[derive(Debug, Default)]
struct Thread {
    waits: Vec<Entry>,
    told: Option<(u64, Tick)>,
}

static ALL: Mutex<BTreeMap<u64, Thread>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static THREAD: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    static UNTOLD: Cell<bool> = const { Cell::new(false) };
}

/// What this thread waits for is not told of from here on: it looks again and again for as long as the daemon lives, nobody
/// waits for it, and it says itself when it is in trouble.
pub(crate) fn untold() {
    UNTOLD.with(|u| u.set(true));
}

fn lock() -> MutexGuard<'static, BTreeMap<u64, Thread>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A wait, as long as this is there. It stays in its thread.
#[derive(Debug)]
pub(crate) struct Waiting {
    thread: u64,
    id: u64,
    here: PhantomData<*const ()>,
}

/// From here on this thread may wait for `what`, until the end of `scope` at the latest. In words that follow "waiting for".
pub(crate) fn waiting(scope: &Scope, what: impl Into<String>) -> Waiting {
    let (thread, id) = (THREAD.with(|t| *t), NEXT.fetch_add(1, Ordering::Relaxed));
    let (since, until) = (scope.clock.now(), scope.deadline);
    if !UNTOLD.with(Cell::get) {
        let entry = Entry { id, domain: current_domain(), what: what.into(), since, until };
        lock().entry(thread).or_default().waits.push(entry);
    }
    Waiting { thread, id, here: PhantomData }
}

impl Waiting {
    /// There is more to say of what is waited for.
    pub(crate) fn say(&self, what: impl Into<String>) {
        if let Some(e) = lock().get_mut(&self.thread).and_then(|t| t.waits.iter_mut().find(|e| e.id == self.id)) {
            e.what = what.into();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut all = lock();
        let Some(t) = all.get_mut(&self.thread) else { return };
        t.waits.retain(|e| e.id != self.id);
        if t.waits.is_empty() {
            all.remove(&self.thread);
        }
    }
}

/// A line for people: the domain that waits, and the words.
type Line = (String, String);

impl Entry {
    /// `wall`: the time of day at the moment `now`.
    fn line(&self, now: Tick, wall: OffsetDateTime) -> Line {
        let most = match self.until {
            Tick::NEVER => "until it comes".to_owned(),
            until => format!("until {}", time_of_day(wall + until.since(now))),
        };
        let since = time_of_day(wall - now.since(self.since));
        (self.domain.clone(), format!("still waiting for {}, since {since}, {most}", self.what))
    }
}

impl Thread {
    /// What is to be told of this thread now.
    fn news(&mut self, now: Tick, wall: OffsetDateTime) -> Option<Line> {
        let old = self.waits.iter().rev().find(|e| now.since(e.since) >= QUIET);
        let Some(e) = old else {
            self.told = None;
            return None;
        };
        if self.told.is_some_and(|(id, at)| id == e.id && now.since(at) < AGAIN) {
            return None;
        }
        self.told = Some((e.id, now));
        Some(e.line(now, wall))
    }
}

/// What each thread waits for at this moment, also where that is not long.
pub(crate) fn list(clock: &Clock) -> Vec<Line> {
    let (now, wall) = (clock.now(), clock.corrected());
    lock().values().filter_map(|t| Some(t.waits.last()?.line(now, wall))).collect()
}

/// When the scope is over: `11:34:05 UTC`.
pub(crate) fn until(scope: &Scope) -> String {
    time_of_day(scope.clock.corrected() + scope.remaining())
}

fn time_of_day(t: OffsetDateTime) -> String {
    format!("{:02}:{:02}:{:02} UTC", t.hour(), t.minute(), t.second())
}

/// What changes while it is waited for is told of when it is new, and again now and then.
#[derive(Debug, Default)]
pub(crate) struct News {
    said: Option<(Tick, String)>,
}

impl News {
    /// Whether `state` is to be said now: it is new, or was said long ago.
    pub(crate) fn is_due(&mut self, state: &str, now: Tick) -> bool {
        let due = self.said.as_ref().is_none_or(|(at, said)| {
            // What changes all the time is not told of each time.
            now.since(*at) >= if said == state { AGAIN } else { QUIET }
        });
        if due {
            self.said = Some((now, state.to_owned()));
        }
        due
    }
}

/// Tells of long waits from now on, in the log and to `status`; `None` when there is none any more.
pub(crate) fn watch(clock: Arc<Clock>, status: impl Fn(Option<&str>) + Send + 'static) {
    let work = move || {
        let mut told = false;
        loop {
            std::thread::sleep(clock.nap(LOOK).max(LOOK_REALLY));
            let (now, wall) = (clock.now(), clock.corrected());
            let (news, still): (Vec<Line>, bool) = {
                let mut all = lock();
                let news = all.values_mut().filter_map(|t| t.news(now, wall)).collect();
                (news, all.values().any(|t| t.told.is_some()))
            };
            for (domain, text) in &news {
                in_domain(domain, || log::info!("{text}"));
            }
            if let Some((domain, text)) = news.last() {
                let of = if domain.is_empty() { String::new() } else { format!("{domain}: ") };
                status(Some(&format!("{of}{text}")));
            } else if told && !still {
                status(None);
            }
            told = still;
        }
    };
    let thread = std::thread::Builder::new().name("waits".to_owned()).stack_size(64 << 10).spawn(work);
    if let Err(e) = thread {
        log::warn!("no thread to tell of long waits: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> Arc<Clock> {
        Arc::new(Clock::new(None).unwrap())
    }

    fn entry(id: u64, what: &str, since: Tick, until: Tick) -> Entry {
        Entry { id, domain: "d".to_owned(), what: what.to_owned(), since, until }
    }

    #[test]
    fn the_innermost_that_is_old_enough_is_told_and_told_again() {
        let start = clock().now();
        let at = |s| start.after(Duration::from_secs(s));
        let mut t = Thread::default();
        t.waits.push(entry(1, "the directive", at(0), at(600)));
        t.waits.push(entry(2, "vol-1 to be attached", at(2), at(60)));
        t.waits.push(entry(3, "DescribeVolumes", at(6), Tick::NEVER));
        let noon = OffsetDateTime::UNIX_EPOCH + time::Duration::hours(12);
        let wall = |s: u64| noon + Duration::from_secs(s);
        let mut news = |s: u64| t.news(at(s), wall(s)).map(|(_, text)| text);
        assert_eq!(news(4), None);
        assert_eq!(news(5).unwrap(), "still waiting for the directive, since 12:00:00 UTC, until 12:10:00 UTC");
        assert_eq!(news(7).unwrap(), "still waiting for vol-1 to be attached, since 12:00:02 UTC, until 12:01:00 UTC");
        assert_eq!(news(8), None);
        assert_eq!(news(12).unwrap(), "still waiting for DescribeVolumes, since 12:00:06 UTC, until it comes");
        assert_eq!((news(41), news(42).is_some()), (None, true));
        t.waits.truncate(0);
        assert_eq!((t.news(at(80), wall(80)), t.told), (None, None));
    }

    #[test]
    fn what_is_new_is_said_and_what_stays_again_and_again() {
        let (begin, mut news) = (clock().now(), News::default());
        let mut due = |state: &str, seconds: u64| news.is_due(state, begin.after(Duration::from_secs(seconds)));
        assert!(due("a", 0) && !due("a", 29) && due("a", 30));
        // One that changes all the time.
        assert!(!due("b", 34) && due("b", 35) && !due("c", 39) && due("d", 40) && !due("d", 69) && due("d", 70));
    }

    #[test]
    fn a_wait_is_on_the_list_as_long_as_it_is_there() {
        let scope = Scope::new(&clock(), Duration::from_secs(60), None);
        let mine = |what: &str| list(&scope.clock).iter().any(|(d, text)| d == "waits-test" && text.contains(what));
        in_domain("waits-test", || {
            let outer = waiting(&scope, "the outer");
            {
                let inner = waiting(&scope, "the inner");
                assert!(mine("for the inner") && !mine("for the outer"));
                inner.say("another word");
                assert!(mine("for another word"));
            }
            assert!(mine("for the outer"));
            drop(outer);
            assert!(!mine(""));
        });
    }
}

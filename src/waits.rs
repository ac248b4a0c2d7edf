//! What is being waited for. Nothing waits long in silence: whoever may wait says for what ([`waiting`]), and what goes on
//! for over [`QUIET`] is told, and told again every [`AGAIN`], by one thread for all ([`watch`]).
//!
//! A thread's waits stand in each other: the tries of a call in the wait for an attachment, that in the directive. Of each
//! thread the innermost one that is old enough is told.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Tick};
use crate::log::{current_domain, in_domain};
use crate::scope::Scope;

/// How long something may be waited for without a word.
const QUIET: Duration = Duration::from_secs(5);
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
    let entry = Entry { id, domain: current_domain(), what: what.into(), since, until };
    lock().entry(thread).or_default().waits.push(entry);
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
    fn line(&self, now: Tick) -> Line {
        let seconds = |d: Duration| format!("{} s", d.as_secs());
        let most = match self.until {
            Tick::NEVER => "until it comes".to_owned(),
            until => format!("{} more at most", seconds(until.since(now))),
        };
        let text = format!("waiting for {}: {} so far, {most}", self.what, seconds(now.since(self.since)));
        (self.domain.clone(), text)
    }
}

impl Thread {
    /// What is to be told of this thread now.
    fn news(&mut self, now: Tick) -> Option<Line> {
        let old = self.waits.iter().rev().find(|e| now.since(e.since) >= QUIET);
        let Some(e) = old else {
            self.told = None;
            return None;
        };
        if self.told.is_some_and(|(id, at)| id == e.id && now.since(at) < AGAIN) {
            return None;
        }
        self.told = Some((e.id, now));
        Some(e.line(now))
    }
}

/// What each thread waits for at this moment, also where that is not long.
pub(crate) fn list(now: Tick) -> Vec<Line> {
    lock().values().filter_map(|t| Some(t.waits.last()?.line(now))).collect()
}

/// Tells of long waits from now on, in the log and to `status`; `None` when there is none any more.
pub(crate) fn watch(clock: Arc<Clock>, status: impl Fn(Option<&str>) + Send + 'static) {
    let work = move || {
        let mut told = false;
        loop {
            std::thread::sleep(clock.nap(LOOK).max(LOOK_REALLY));
            let now = clock.now();
            let (news, still): (Vec<Line>, bool) = {
                let mut all = lock();
                let news = all.values_mut().filter_map(|t| t.news(now)).collect();
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
        let mut news = |s: u64| t.news(at(s)).map(|(_, text)| text);
        assert_eq!(news(4), None);
        assert_eq!(news(5).unwrap(), "waiting for the directive: 5 s so far, 595 s more at most");
        assert_eq!(news(7).unwrap(), "waiting for vol-1 to be attached: 5 s so far, 53 s more at most");
        assert_eq!(news(8), None);
        assert_eq!(news(12).unwrap(), "waiting for DescribeVolumes: 6 s so far, until it comes");
        assert_eq!((news(41), news(42).is_some()), (None, true));
        t.waits.truncate(0);
        assert_eq!((t.news(at(80)), t.told), (None, None));
    }

    #[test]
    fn a_wait_is_on_the_list_as_long_as_it_is_there() {
        let scope = Scope::new(&clock(), Duration::from_secs(60), None);
        let mine = |what: &str| list(scope.clock.now()).iter().any(|(d, text)| d == "waits-test" && text.contains(what));
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

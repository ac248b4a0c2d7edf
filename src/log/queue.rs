//! What is to be written, and the thread that writes it: whoever logs never waits for whoever reads.
//!
//! A pipe that nobody reads, a terminal that was stopped and a slow serial console take lines late or never. So a line
//! goes into a queue of bounded size; what finds no room is counted, and the count is said in its place.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::Level;

/// How many bytes wait at most.
const ROOM: usize = 256 << 10;
/// Above this many, only warnings and errors are taken.
const CROWDED: usize = 192 << 10;
/// What a waiting line needs beside its text.
const EACH: usize = 64;

/// One thing to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// A line, as it is written.
    Line(String),
    /// What stands at the foot of the terminal.
    Bar(String),
}

impl Item {
    fn size(&self) -> usize {
        let (Item::Line(text) | Item::Bar(text)) = self;
        text.len() + EACH
    }
}

/// Makes the line that says how many were not taken.
pub(super) type Missing = fn(u64) -> String;

/// The queue; its clones are the same one.
#[derive(Clone)]
pub(super) struct Queue(Arc<(Mutex<Waiting>, Condvar)>);

struct Waiting {
    items: VecDeque<Item>,
    bytes: usize,
    /// Lines that found no room since the last one that did.
    missing: u64,
    say: Missing,
    /// The thread has taken an item and writes it.
    writing: bool,
}

impl Queue {
    /// An empty one. `say` makes the line that says how many lines were not taken.
    pub(super) fn new(say: Missing) -> Queue {
        let waiting = Waiting { items: VecDeque::new(), bytes: 0, missing: 0, say, writing: false };
        Queue(Arc::new((Mutex::new(waiting), Condvar::new())))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `write` have all that is put, from a thread of its own. `false`: there is no thread to be had.
    pub(super) fn serve(&self, mut write: impl FnMut(Item) + Send + 'static) -> bool {
        let queue = self.clone();
        let work = move || {
            loop {
                write(queue.take());
                queue.lock().writing = false;
                queue.0.1.notify_all();
            }
        };
        std::thread::Builder::new().name("log".to_owned()).stack_size(64 << 10).spawn(work).is_ok()
    }

    /// Puts a line, if there is room for one of its level.
    pub(super) fn put(&self, level: Level, line: String) {
        let room = if level <= Level::Warn { ROOM } else { CROWDED };
        let mut w = self.lock();
        let item = Item::Line(line);
        if w.bytes + item.size() > room {
            w.missing += 1;
            return;
        }
        w.say_missing();
        w.push(item);
        self.0.1.notify_all();
    }

    /// Puts what stands at the foot of the terminal from now on. Of several that wait for each other the last one counts.
    pub(super) fn bar(&self, text: String) {
        let mut w = self.lock();
        if let Some(Item::Bar(_)) = w.items.back() {
            let before = w.items.pop_back();
            w.bytes -= before.map_or(0, |i| i.size());
        }
        if w.bytes < CROWDED {
            w.push(Item::Bar(text));
        }
        self.0.1.notify_all();
    }

    /// Waits until all is written, for so long at most.
    pub(super) fn flush(&self, most: Duration) {
        let is_busy = |w: &mut Waiting| w.writing || !w.items.is_empty() || w.missing > 0;
        drop(self.0.1.wait_timeout_while(self.lock(), most, is_busy));
    }

    fn take(&self) -> Item {
        let mut w = self.lock();
        loop {
            if w.items.is_empty() {
                w.say_missing();
            }
            if let Some(item) = w.items.pop_front() {
                w.bytes -= item.size();
                w.writing = true;
                return item;
            }
            w = self.0.1.wait(w).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Waiting {
    fn push(&mut self, item: Item) {
        self.bytes += item.size();
        self.items.push_back(item);
    }

    /// The line that stands for those that were not taken.
    fn say_missing(&mut self) {
        if self.missing > 0 {
            let line = (self.say)(std::mem::take(&mut self.missing));
            self.push(Item::Line(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn missing(n: u64) -> String {
        format!("{n} missing")
    }

    /// A queue whose reader takes nothing until it is told to; what it took.
    fn with_reader() -> (Queue, mpsc::Sender<()>, mpsc::Receiver<Item>) {
        let queue = Queue::new(missing);
        let (go, wait) = mpsc::channel::<()>();
        let (to, written) = mpsc::channel();
        assert!(queue.serve(move |item| {
            // Told once, it reads for good.
            let _ = wait.recv();
            let _ = to.send(item);
        }));
        (queue, go, written)
    }

    #[test]
    fn who_logs_never_waits_and_what_is_missing_is_counted_in_its_place() {
        let (queue, go, written) = with_reader();
        let line = |n: usize| format!("{n:>936}");
        for n in 0..1000 {
            queue.put(Level::Info, line(n));
        }
        // What is worse still has room.
        queue.put(Level::Error, "an error".to_owned());
        queue.put(Level::Info, line(1000));
        queue.flush(Duration::from_millis(1));
        assert!(queue.lock().bytes <= ROOM);
        drop(go);
        queue.flush(Duration::from_secs(60));
        let all: Vec<Item> = written.try_iter().collect();
        let taken = all.iter().take_while(|i| matches!(i, Item::Line(l) if l.len() == 936)).count();
        // One is with the reader.
        assert!((190..=200).contains(&taken), "{taken}");
        let text = |i: usize| match &all[i] {
            Item::Line(l) => l.as_str(),
            Item::Bar(b) => b,
        };
        assert_eq!((text(taken), text(taken + 1)), (missing(1000 - taken as u64).as_str(), "an error"));
        assert_eq!((text(taken + 2), all.len()), ("1 missing", taken + 3));
        // And then as ever.
        queue.put(Level::Info, "more".to_owned());
        queue.flush(Duration::from_secs(60));
        assert_eq!(written.try_iter().collect::<Vec<_>>(), [Item::Line("more".to_owned())]);
    }

    #[test]
    fn errors_have_a_bound_too() {
        let (queue, go, written) = with_reader();
        for _ in 0..10_000 {
            queue.put(Level::Error, "x".repeat(500));
        }
        assert!(queue.lock().bytes <= ROOM);
        drop(go);
        queue.flush(Duration::from_secs(60));
        let last = written.try_iter().last();
        assert!(matches!(&last, Some(Item::Line(l)) if l.ends_with(" missing")), "{last:?}");
    }

    #[test]
    fn of_bars_that_wait_the_last_one_counts() {
        let (queue, go, written) = with_reader();
        queue.put(Level::Info, "a".to_owned());
        for n in 0..100_000 {
            queue.bar(format!("{n} %"));
        }
        drop(go);
        queue.flush(Duration::from_secs(60));
        let all: Vec<Item> = written.try_iter().collect();
        assert_eq!((all.len(), all.last()), (2, Some(&Item::Bar("99999 %".to_owned()))), "{}", all.len());
    }
}

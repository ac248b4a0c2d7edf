//! Work side by side, on plain threads.
//!
//! One place for it: the domain of the caller goes along into the log, and the machinery of threads is compiled once
//! instead of once for each closure (it is most of what a small closure costs).

use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use crate::log::{current_domain, in_domain};

/// Runs `work(0)`, `work(1)`, ... at the same time, the first in this thread, and hands the results over in order, as
/// soon as each and those before it are there.
pub(crate) fn in_order<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync, mut take: impl FnMut(usize, T)) {
    let slots: Vec<Mutex<Option<T>>> = (0..count).map(|_| Mutex::new(None)).collect();
    let slot = |i: usize| slots[i].lock().unwrap_or_else(PoisonError::into_inner);
    let fill = |i: usize| {
        let result = work(i);
        *slot(i) = Some(result);
    };
    run(count, &fill, &mut |i| {
        let result = slot(i).take();
        if let Some(result) = result {
            take(i, result);
        }
    });
}

/// The results of `work(0)`, `work(1)`, ..., done at the same time.
pub(crate) fn map<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let mut all = Vec::with_capacity(count);
    in_order(count, work, |_, result| all.push(result));
    all
}

fn run(count: usize, work: &(dyn Fn(usize) + Sync), done: &mut dyn FnMut(usize)) {
    let domain = current_domain();
    let domain = domain.as_str();
    std::thread::scope(|s| {
        let others: Vec<_> =
            (1..count).map(|i| Builder::new().spawn_scoped(s, move || in_domain(domain, || work(i)))).collect();
        if count > 0 {
            work(0);
            done(0);
        }
        for (i, thread) in (1..).zip(others) {
            match thread {
                Ok(t) => drop(t.join()),
                // No thread to be had: then one after the other.
                Err(_) => work(i),
            }
            done(i);
        }
    });
}

/// Goes on beside everything else. `None`: there is no thread to be had; it is left undone, and that is said.
pub(crate) fn background(name: &'static str, work: Box<dyn FnOnce() + Send>) -> Option<JoinHandle<()>> {
    let domain = current_domain();
    let thread = Builder::new().name(name.to_owned()).spawn(move || in_domain(&domain, work));
    thread.map_err(|e| log::error!("no thread for '{name}': {e}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        assert_eq!(map(5, |i| i * 10), [0, 10, 20, 30, 40]);
        assert!(map(0, |i| i).is_empty());
    }

    #[test]
    fn the_domain_goes_along() {
        let all = in_domain("d", || map(3, |_| current_domain()));
        assert_eq!(all, vec!["d".to_owned(); 3]);
        let (send, receive) = std::sync::mpsc::channel();
        let work = Box::new(move || send.send(current_domain()).unwrap());
        in_domain("e", || background("t", work)).unwrap().join().unwrap();
        assert_eq!(receive.recv().unwrap(), "e");
    }
}

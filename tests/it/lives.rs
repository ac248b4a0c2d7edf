//! A crowd of lives: three instances live random lives on one pool, and what is on the disks is checked.
//!
//! A **world** is one [`Lab`](crate::lab::Lab) with a pool and three seats. In each seat an instance lives one life after
//! another, beside the others: a **life** is one run of the daemon, from its start to its end, whatever that is (SIGTERM,
//! an interruption, kill -9, an instance that is terminated). All that happens is drawn from the world's seed before
//! anything runs (`draw`), so that a seed always gives the same decisions. The commands of the domains are an
//! application (`app.sh`) that keeps its history on the disk; it notes in a ledger what it found and what it wrote.
//! The rules (`rules`, `rules_end`) compare ledger, disks and world after each life and when all is over.
//!
//! - `LIVES=20000 cargo test --test it lives::` has so many lives, in as many worlds as that takes.
//! - `SEED=17 cargo test --test it lives::` has the one world of that seed, and keeps its directory. With `LIVES` it is
//!   the first seed of several.

mod app;
mod draw;
mod ledger;
mod life;
mod rules;
mod rules_end;
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use draw::Plan;
use rules::Broken;

/// How many lives `make test` has.
const LIVES: usize = 500;
/// The first seed of `make test`.
const FIRST_SEED: u64 = 1;
/// Worlds that run beside each other: most of their time they wait. Of `make test`, beside other tests.
const WORKERS: usize = 8;
/// The same of a long form, for itself and optimized.
const MANY_WORKERS: usize = 20;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|t| !t.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn no_life_of_a_crowd_loses_or_leaves_anything() {
    let (seed, lives) = (number("SEED"), number("LIVES"));
    let wanted = lives.map_or(if seed.is_some() { 1 } else { LIVES }, |n| n as usize);
    let first = seed.unwrap_or(FIRST_SEED);
    let (next, lived) = (AtomicU64::new(first), AtomicUsize::new(0));
    let all: Mutex<BTreeMap<u64, Vec<Broken>>> = Mutex::default();
    let tally: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let began = Instant::now();
    // One world that is asked for is alone.
    let workers = match wanted {
        1 => 1,
        n if n <= 2 * LIVES => WORKERS,
        _ => MANY_WORKERS,
    };
    std::thread::scope(|s| {
        for _ in 0..workers {
            s.spawn(|| {
                while lived.load(Ordering::Relaxed) < wanted {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let plan = Plan::draw(seed);
                    lived.fetch_add(plan.lives(), Ordering::Relaxed);
                    let end = world::live(&plan);
                    for (what, n) in end.tally {
                        *tally.lock().unwrap().entry(what).or_default() += n;
                    }
                    if !end.broken.is_empty() {
                        println!("{}", end.text);
                        all.lock().unwrap().insert(seed, end.broken);
                    }
                }
            });
        }
    });
    let (all, lived) = (all.into_inner().unwrap(), lived.into_inner());
    let seconds = began.elapsed().as_secs_f64();
    let last = next.into_inner() - 1;
    println!(
        "crowd, lives: {lived} in {} worlds (seeds {first} to {last}), {seconds:.0} s, {:.1} s for 100 lives; {:?}",
        last + 1 - first,
        seconds * 100.0 / lived as f64,
        tally.into_inner().unwrap()
    );
    let mut text = String::new();
    for (seed, broken) in &all {
        for b in broken {
            text += &format!("SEED={seed}: {}: {}\n", b.rule, b.text);
        }
    }
    assert!(all.is_empty(), "{} of {} worlds broke a rule:\n{text}", all.len(), last + 1 - first);
}

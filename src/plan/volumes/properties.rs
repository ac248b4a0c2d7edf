//! How a crowd is spread over a pool: whatever the ids, nobody is left out, and few want the same volume.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::tests::{by, volume};
use super::*;
use crate::properties::settings;

/// An id as EC2 makes them: 17 hex digits.
fn ids(prefix: &'static str, n: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<String>> {
    let id = any::<u64>().prop_map(move |n| format!("{prefix}-0{n:016x}"));
    prop::collection::btree_set(id, n).prop_map(|all| all.into_iter().collect())
}

fn order(pool: &[Volume], pref: PoolPref, me: &str, launch_index: u64, seed: u64) -> Vec<String> {
    candidates(pool, "d", "pool", pref, Chooser { me, launch_index, seed, ..by() }).ids
}

fn pool(ids: &[String]) -> Vec<Volume> {
    ids.iter().map(|id| volume(id, "available")).collect()
}

/// How far the choices of many are from an even spread: chi-square, whose mean is the number of volumes less one.
fn unevenness(choices: impl Iterator<Item = String>, volumes: usize) -> f64 {
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    choices.for_each(|c| *counts.entry(c).or_default() += 1.0);
    let expected = counts.values().sum::<f64>() / volumes as f64;
    let never = (volumes - counts.len()) as f64 * expected;
    counts.values().map(|n| (n - expected).powi(2) / expected).sum::<f64>() + never
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn every_free_volume_has_its_place_once(
        ids in ids("vol", 0..20),
        taken in any::<u32>(),
        pref in prop::sample::select(vec![
            PoolPref::Index, PoolPref::Random, PoolPref::Sticky, PoolPref::LeastRecentlyUsed, PoolPref::MostRecentlyUsed,
        ]),
        index in any::<u64>(),
        seed in any::<u64>(),
    ) {
        let mut pool = pool(&ids);
        let is_taken = |i: usize| taken >> i & 1 == 1;
        for (i, v) in pool.iter_mut().enumerate().filter(|(i, _)| is_taken(*i)) {
            *v = super::tests::attached(&ids[i], "i-other", "/dev/sdf", "attached");
        }
        let free: BTreeSet<&String> = ids.iter().enumerate().filter(|(i, _)| !is_taken(*i)).map(|(_, id)| id).collect();
        let got = order(&pool, pref, "i-me", index, seed);
        prop_assert_eq!(got.len(), free.len());
        prop_assert_eq!(got.iter().collect::<BTreeSet<_>>(), free);
    }

    #[test]
    fn instances_of_one_launch_do_not_meet(
        volumes in ids("vol", 1..40),
        instances in ids("i", 40),
        shift in 0..1_000_000u64,
    ) {
        let pool = pool(&volumes);
        let first = |(n, me): (usize, &String)| order(&pool, PoolPref::Index, me, shift + n as u64, 0)[0].clone();
        let firsts: BTreeSet<String> = instances.iter().take(volumes.len()).enumerate().map(first).collect();
        prop_assert_eq!(firsts.len(), volumes.len());
    }
}

/// Ids that look as random as EC2's, the same in every run of the test.
fn some_ids(prefix: &str, crowd: &str, n: usize) -> Vec<String> {
    (0..n).map(|i| format!("{prefix}-0{:016x}", spread(&format!("{crowd} {prefix}"), &i.to_string()))).collect()
}

/// The launch index names a volume that is taken: the hash of the instance's id alone decides.
#[test]
fn a_crowd_with_one_index_is_spread_evenly() {
    for crowd in ["one", "two", "three"] {
        let mut pool = pool(&some_ids("vol", crowd, 60));
        pool.push(super::tests::attached("vol-00000000000000000", "i-other", "/dev/sdf", "attached"));
        let orders: Vec<Vec<String>> =
            some_ids("i", crowd, 1000).iter().map(|me| order(&pool, PoolPref::Index, me, 0, 0)).collect();
        // Also among those who lost the same one: their next ones differ.
        for place in [0, 1, 30] {
            // 59 with a deviation of 11, by the laws of chance.
            let chi = unevenness(orders.iter().map(|o| o[place].clone()), 60);
            assert!((20.0..110.0).contains(&chi), "{crowd}, place {place}: {chi}");
        }
        // A hundred for sixty: 49 different first choices by the same laws, with a deviation of 3.
        let firsts: BTreeSet<&String> = orders.iter().take(100).map(|o| &o[0]).collect();
        assert!((40..=58).contains(&firsts.len()), "{crowd}: {}", firsts.len());
    }
}

#[test]
fn at_random_the_same_instance_is_spread_too() {
    let pool = pool(&some_ids("vol", "random", 60));
    let first = |seed| order(&pool, PoolPref::Random, "i-me", 0, seed)[0].clone();
    let chi = unevenness((0..1000).map(first), 60);
    assert!((20.0..110.0).contains(&chi), "{chi}");
}

//! `pool-pref`: in which order an instance tries the free volumes of a pool.

use std::cmp::Reverse;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::tags;
use super::volumes::{Chooser, spread};
use crate::aws::ec2::Volume;
use crate::config::PoolPref;

/// At most so many of the best are a handful.
const HANDFUL: usize = 8;
/// At most this part of all that are free: in a small pool the best is the best.
const PART: usize = 4;

/// The ids of the `free` volumes, best first. `all` are those of the pool, both in the order of their ids.
pub(super) fn order(mut free: Vec<&Volume>, all: &[&Volume], pref: PoolPref, by: &Chooser<'_>) -> Vec<String> {
    match pref {
        PoolPref::Index => by_index(&mut free, all, by),
        PoolPref::Random => {
            let seed = by.seed.to_string();
            free.sort_by_cached_key(|v| spread(&seed, &v.id));
        }
        PoolPref::LeastRecentlyUsed => {
            free.sort_by_cached_key(|v| match used(v) {
                Used::Never => (0, 0),
                Used::At(at) => (1, at),
                Used::Unreadable => (2, 0),
            });
            free = in_handfuls(free, by.me);
        }
        PoolPref::MostRecentlyUsed => {
            free.sort_by_cached_key(|v| match used(v) {
                Used::At(at) => (0, Reverse(at)),
                Used::Never => (1, Reverse(0)),
                Used::Unreadable => (2, Reverse(0)),
            });
            free = in_handfuls(free, by.me);
        }
        PoolPref::Sticky => {
            by_index(&mut free, all, by);
            free.sort_by_key(|v| {
                let mine = v.tag(tags::OWNER) == Some(by.me);
                let member = !by.member.is_empty() && v.tag(tags::MEMBER) == Some(by.member);
                (!mine, !member)
            });
        }
    }
    free.into_iter().map(|v| v.id.clone()).collect()
}

/// Instances of one launch have different indexes and do not meet; the others are spread by hash.
fn by_index(free: &mut [&Volume], all: &[&Volume], by: &Chooser<'_>) {
    free.sort_by_cached_key(|v| spread(by.me, &v.id));
    let first = usize::try_from(by.launch_index).unwrap_or(0).checked_rem(all.len()).map(|i| &all[i].id);
    if let Some(i) = free.iter().position(|v| Some(&v.id) == first) {
        free[..=i].rotate_right(1);
    }
}

/// When a volume was used last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Used {
    Never,
    At(i128),
    /// Its tag says nothing that can be read. It is nobody's first choice.
    Unreadable,
}

fn used(v: &Volume) -> Used {
    match v.tag(tags::TS_USED).map(|text| OffsetDateTime::parse(text, &Rfc3339)) {
        None => Used::Never,
        Some(Ok(at)) => Used::At(at.unix_timestamp_nanos()),
        Some(Err(_)) => Used::Unreadable,
    }
}

/// Begins with one of the best few, which is another one for each instance; then one of twice as many, and so on: who
/// loses a claim is not alone. A few volumes stay in their order.
fn in_handfuls<'v>(sorted: Vec<&'v Volume>, me: &str) -> Vec<&'v Volume> {
    let mut handful = (sorted.len() / PART).min(HANDFUL);
    if handful < 2 {
        return sorted;
    }
    let mut left: Vec<(u64, &Volume)> = sorted.into_iter().map(|v| (spread(me, &v.id), v)).collect();
    let mut out = Vec::with_capacity(left.len());
    while handful < left.len() {
        let Some(at) = (0..handful).min_by_key(|i| left[*i].0) else { break };
        out.push(left.remove(at).1);
        handful *= 2;
    }
    left.sort_by_key(|(hash, _)| *hash);
    out.extend(left.into_iter().map(|(_, v)| v));
    out
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::super::volumes::candidates;
    use super::super::volumes::tests::{by, volume};
    use super::*;

    fn with(id: &str, tag: &str, value: &str) -> Volume {
        let mut v = volume(id, "available");
        v.tags.push((tag.into(), value.into()));
        v
    }

    /// Volumes `v00`, `v01`, … of which each was used an hour after the one before.
    fn pool(n: usize) -> Vec<Volume> {
        (0..n)
            .map(|i| {
                with(&format!("v{i:02}"), tags::TS_USED, &format!("2026-01-{:02}T{:02}:00:00Z", 1 + i / 24, i % 24))
            })
            .collect()
    }

    fn ids(pool: &[Volume], pref: PoolPref, by: Chooser<'_>) -> Vec<String> {
        candidates(pool, "d", "pool", pref, by).ids
    }

    #[test]
    fn times_are_compared_as_times_and_bad_ones_come_last() {
        let pool = [
            with("a-noon", tags::TS_USED, "2026-01-01T12:00:00Z"),
            with("b-eleven", tags::TS_USED, "2026-01-01T13:00:00.5+02:00"),
            with("c-word", tags::TS_USED, "yesterday"),
            with("d-empty", tags::TS_USED, ""),
            volume("e-never", "available"),
        ];
        let of = |pref| ids(&pool, pref, by());
        let (oldest, newest) = (PoolPref::LeastRecentlyUsed, PoolPref::MostRecentlyUsed);
        assert_eq!(of(oldest), ["e-never", "b-eleven", "a-noon", "c-word", "d-empty"]);
        assert_eq!(of(newest), ["a-noon", "b-eleven", "e-never", "c-word", "d-empty"]);
    }

    #[test]
    fn a_small_pool_keeps_its_order_whoever_asks() {
        let pool = pool(7);
        for me in ["i-1", "i-2", "i-3"] {
            let oldest = ids(&pool, PoolPref::LeastRecentlyUsed, Chooser { me, ..by() });
            assert_eq!(oldest, ["v00", "v01", "v02", "v03", "v04", "v05", "v06"]);
        }
    }

    #[test]
    fn a_crowd_wants_a_handful_of_the_best_and_not_one() {
        for (pref, best) in [(PoolPref::LeastRecentlyUsed, 0..8), (PoolPref::MostRecentlyUsed, 52..60)] {
            let pool = pool(60);
            let handful: BTreeSet<String> = best.map(|i| format!("v{i:02}")).collect();
            let mut firsts: BTreeMap<String, u32> = BTreeMap::new();
            for n in 0..200 {
                let me = format!("i-{n}");
                let order = ids(&pool, pref, Chooser { me: &me, ..by() });
                *firsts.entry(order[0].clone()).or_default() += 1;
                assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 60);
                // The second is among twice as many, and so on.
                let far = |i: usize| if pref == PoolPref::LeastRecentlyUsed { i } else { 59 - i };
                for (try_, most) in [(1, 17), (2, 34)] {
                    let at: usize = order[try_][1..].parse().unwrap();
                    assert!(far(at) < most, "{try_} {order:?}");
                }
            }
            assert_eq!(firsts.keys().cloned().collect::<BTreeSet<_>>(), handful);
            assert!(firsts.values().all(|n| (10..=45).contains(n)), "{firsts:?}");
        }
    }

    #[test]
    fn sticky_is_own_first_then_the_members_then_by_index() {
        let both = |id: &str, owner: &str, member: &str| {
            let mut v = with(id, tags::OWNER, owner);
            v.tags.push((tags::MEMBER.into(), member.into()));
            v
        };
        let pool = [
            volume("a", "available"),
            with("b", tags::MEMBER, "node-1"),
            both("c", "i-other", "node-2"),
            with("d", tags::OWNER, "i-me"),
            both("e", "i-me", "node-1"),
        ];
        let of = |member| ids(&pool, PoolPref::Sticky, Chooser { member, launch_index: 2, ..by() });
        assert_eq!(of("node-1")[..4], ["e", "d", "b", "c"]);
        // Without a name of its own it has no member's volume.
        assert_eq!(of("")[2..3], ["c"]);
        assert_eq!(of("node-2")[2..3], ["c"]);
        // With nothing to stick to it is `index`.
        let plain = [volume("a", "available"), volume("b", "available"), volume("c", "available")];
        let by = |i| Chooser { launch_index: i, member: "node-1", ..by() };
        for i in 0..4 {
            assert_eq!(ids(&plain, PoolPref::Sticky, by(i)), ids(&plain, PoolPref::Index, by(i)));
        }
    }
}

//! When the next snapshot of a volume is due, and which ones are too many.

use std::time::Duration;

use time::OffsetDateTime;

use super::tags;
use super::volumes::Standing;
use crate::aws::ec2::{Snapshot, SnapshotState};

/// The snapshots among `all` that a directive made of a volume: of this domain and pool, and with the tag of every
/// snapshot of ours. Whatever else somebody made or tagged is not ours to count.
pub(crate) fn ours<'a>(all: &'a [Snapshot], domain: &str, pool: Option<&str>, volume: &str) -> Vec<&'a Snapshot> {
    let is = |s: &&Snapshot| {
        s.volume_id == volume
            && s.tag(tags::SNAPSHOT).is_some()
            && s.tag(tags::DOMAIN) == Some(domain)
            && s.tag(tags::POOL_NAME) == pool
    };
    all.iter().filter(is).collect()
}

/// Why a volume that this instance had is not its own any more: then its snapshots are another's to make and to delete.
/// `now`: what EC2 says of it; `None`: nothing. `disk`: whether its disk is here; `None`: disks have no serials.
pub(crate) fn not_held(now: Option<&Standing>, disk: Option<bool>) -> Option<String> {
    match (now, disk) {
        (_, Some(false)) => Some("its disk is not here any more".to_owned()),
        (Some(Standing::Here(_)), _) => None,
        (Some(Standing::Absent(why)), _) => Some(why.clone()),
        // EC2's answer may be older than the attachment; the disk is here.
        (_, Some(true)) => None,
        (Some(_), None) => Some("it is not attached here any more".to_owned()),
        (None, None) => Some("it does not exist any more".to_owned()),
    }
}

/// What is deleted of them so that `keep` stay, the oldest first. Only completed ones count and only they go; the newest
/// one is never among them.
pub(crate) fn too_many<'a>(ours: &[&'a Snapshot], keep: usize) -> Vec<&'a Snapshot> {
    let usable = |s: &&&Snapshot| s.state == SnapshotState::Completed && s.start_time.is_some();
    let mut all: Vec<&Snapshot> = ours.iter().filter(usable).copied().collect();
    all.sort_by(|a, b| (b.start_time, &b.id).cmp(&(a.start_time, &a.id)));
    let mut old = all.split_off(keep.max(1).min(all.len()));
    old.reverse();
    old
}

/// The newest of them, in whatever state but a failed one.
pub(crate) fn newest<'a>(ours: &[&'a Snapshot]) -> Option<&'a Snapshot> {
    ours.iter().copied().filter(|s| s.state != SnapshotState::Error).max_by_key(|s| s.start_time)
}

/// How long it is until the next one. Without any it is due at once: whoever lives shorter than `every` would never have
/// one.
pub(crate) fn due_in(newest: Option<&Snapshot>, every: Duration, now: OffsetDateTime) -> Duration {
    let Some(begun) = newest.and_then(|s| s.start_time) else { return Duration::ZERO };
    // One from the future is one of now: the clocks differ.
    let age = Duration::try_from(now - begun).unwrap_or_default();
    every.saturating_sub(age)
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn snapshot(id: &str, state: SnapshotState, seconds: i64) -> Snapshot {
        let tags = [(tags::DOMAIN, "d"), (tags::POOL_NAME, "p"), (tags::SNAPSHOT, "u")];
        Snapshot {
            id: id.to_owned(),
            volume_id: "vol-1".to_owned(),
            state,
            progress: 0,
            start_time: (seconds > 0).then(|| OffsetDateTime::from_unix_timestamp(seconds).unwrap()),
            size: 1,
            archived: false,
            tags: tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    fn ids(all: &[&Snapshot]) -> Vec<String> {
        all.iter().map(|s| s.id.clone()).collect()
    }

    #[test]
    fn only_what_has_all_of_our_tags_is_ours() {
        let done = SnapshotState::Completed;
        let mut all: Vec<Snapshot> = (1..=5).map(|n| snapshot(&format!("s{n}"), done, n)).collect();
        all[0].tags.pop();
        all[1].tags[0].1 = "e".to_owned();
        all[2].tags[1].1 = "q".to_owned();
        all[3].volume_id = "vol-2".to_owned();
        assert_eq!(ids(&ours(&all, "d", Some("p"), "vol-1")), ["s5"]);
        // Without a pool only those without one.
        assert!(ours(&all, "d", None, "vol-1").is_empty());
        all[4].tags.remove(1);
        assert_eq!(ids(&ours(&all, "d", None, "vol-1")), ["s5"]);
    }

    #[test]
    fn only_completed_ones_count_and_go_and_the_oldest_go_first() {
        use SnapshotState::{Completed, Error, Other, Pending};
        let states = [Completed, Error, Completed, Other, Completed, Pending, Completed];
        let all: Vec<Snapshot> = (1..).zip(states).map(|(n, s)| snapshot(&format!("s{n}"), s, n)).collect();
        let all: Vec<&Snapshot> = all.iter().rev().collect();
        assert_eq!(ids(&too_many(&all, 2)), ["s1", "s3"]);
        assert_eq!(ids(&too_many(&all, 1)), ["s1", "s3", "s5"]);
        // Whatever is asked for, the newest stays.
        assert_eq!(ids(&too_many(&all, 0)), ["s1", "s3", "s5"]);
        assert!(too_many(&all, 4).is_empty() && too_many(&all, 99).is_empty() && too_many(&[], 1).is_empty());
        // Of unknown age it is never too old.
        let unknown = snapshot("s0", Completed, 0);
        assert_eq!(ids(&too_many(&[&unknown, all[0]], 1)), Vec::<String>::new());
    }

    #[test]
    fn what_another_instance_has_is_not_held() {
        let here = Standing::Here("/dev/xvdf".to_owned());
        let other = Standing::Absent("it is held by i-2".to_owned());
        for disk in [None, Some(true)] {
            assert_eq!(not_held(Some(&here), disk), None);
            assert_eq!(not_held(Some(&other), disk).as_deref(), Some("it is held by i-2"));
        }
        for now in [None, Some(&here), Some(&other), Some(&Standing::Free)] {
            assert!(not_held(now, Some(false)).is_some(), "{now:?}");
        }
        // An old answer does not count beside the disk itself, but does where nothing else tells.
        for now in [None, Some(&Standing::Free), Some(&Standing::Changing("being freed".to_owned()))] {
            assert_eq!(not_held(now, Some(true)), None);
            assert!(not_held(now, None).is_some());
        }
    }

    #[test]
    fn the_next_one_is_due_so_long_after_the_newest() {
        let now = OffsetDateTime::from_unix_timestamp(10_000).unwrap();
        let every = Duration::from_secs(3600);
        let old = snapshot("a", SnapshotState::Completed, 9_000);
        let new = snapshot("b", SnapshotState::Pending, 9_400);
        let bad = snapshot("c", SnapshotState::Error, 9_900);
        assert_eq!(newest(&[&old, &new, &bad]).unwrap().id, "b");
        assert_eq!(due_in(Some(&new), every, now), Duration::from_secs(3000));
        assert_eq!(due_in(Some(&snapshot("d", SnapshotState::Completed, 20_000)), every, now), every);
        assert_eq!(due_in(Some(&snapshot("e", SnapshotState::Completed, 1)), every, now), Duration::ZERO);
        assert_eq!(due_in(None, every, now), Duration::ZERO);
    }
}

//! Which snapshot a volume is made from.

use crate::aws::ec2::{Filter, Snapshot, SnapshotState};
use crate::config::VolumeDirective;
use crate::plan::tags;

/// What the snapshots of a pool come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Newest<'s> {
    /// The newest one that a volume can be made from.
    pub(crate) completed: Option<&'s Snapshot>,
    /// The newest one that is being made, if it is newer than that.
    pub(crate) pending: Option<&'s Snapshot>,
    /// The newest one that has data, or may have, and that nothing can be made from now: it is archived, or in a state
    /// that we do not know.
    pub(crate) unusable: Option<&'s Snapshot>,
}

/// The newest by the time when they were begun, then by their ids. EC2's order means nothing.
pub(crate) fn newest(all: &[Snapshot]) -> Newest<'_> {
    // One that was made to move a volume goes with the move.
    let all = || all.iter().filter(|s| s.tag(tags::MOVING).is_none());
    let order = |s: &&Snapshot| (s.start_time, s.id.clone());
    let of = |fits: &dyn Fn(&Snapshot) -> bool| all().filter(|s| fits(s)).max_by_key(order);
    let completed = of(&|s| s.state == SnapshotState::Completed && !s.archived);
    Newest {
        completed,
        pending: of(&|s| s.state == SnapshotState::Pending).filter(|p| completed.is_none_or(|c| order(p) > order(&c))),
        unusable: of(&|s| s.state == SnapshotState::Other || (s.archived && s.state == SnapshotState::Completed)),
    }
}

/// What the snapshots of a directive are known by, and that in words.
pub(crate) fn filters(d: &VolumeDirective, domain: &str) -> (Vec<Filter>, String) {
    let tags: Vec<(&str, &str)> = if d.snapshot_tags.is_empty() {
        [(tags::DOMAIN, Some(domain)), (tags::POOL_NAME, d.pool_name.as_deref())]
            .into_iter()
            .filter_map(|(k, v)| v.map(|v| (k, v)))
            .collect()
    } else {
        d.snapshot_tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect()
    };
    let what = match &d.pool_name {
        Some(pool) if d.snapshot_tags.is_empty() => format!("pool '{pool}'"),
        _ => tags.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", "),
    };
    (tags.iter().map(|(k, v)| Filter::exact(format!("tag:{k}"), &[v])).collect(), what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::volumes::tests::directive;
    use time::macros::datetime;

    fn snapshot(id: &str, state: SnapshotState, hour: u8) -> Snapshot {
        Snapshot {
            id: id.into(),
            volume_id: "vol-1".into(),
            state,
            progress: 0,
            start_time: datetime!(2026-01-01 00:00 UTC).replace_hour(hour).ok(),
            size: 8,
            archived: false,
            tags: Vec::new(),
        }
    }

    fn ids<'s>(n: &Newest<'s>) -> [&'s str; 3] {
        [n.completed, n.pending, n.unusable].map(|s| s.map_or("", |s| s.id.as_str()))
    }

    #[test]
    fn the_newest_completed_one_counts() {
        use SnapshotState::{Completed, Error, Other, Pending};
        let of = |all: &[Snapshot]| newest(all).completed.map(|s| s.id.clone()).unwrap_or_default();
        let old = snapshot("c-old", Completed, 3);
        let new = snapshot("c-new", Completed, 5);
        assert_eq!(of(&[new.clone(), old.clone()]), "c-new");
        assert_eq!(of(&[old.clone(), new.clone()]), "c-new");
        // Ties by id; one without a time is the last.
        assert_eq!(of(&[snapshot("b", Completed, 5), snapshot("a", Completed, 5)]), "b");
        assert_eq!(of(&[Snapshot { start_time: None, ..snapshot("z", Completed, 5) }, old.clone()]), "c-old");

        let archived = Snapshot { archived: true, ..snapshot("arch", Completed, 9) };
        let rest = [snapshot("err", Error, 9), snapshot("oth", Other, 8), archived, old.clone()];
        assert_eq!(ids(&newest(&rest)), ["c-old", "", "arch"]);
        assert_eq!(ids(&newest(&rest[..2])), ["", "", "oth"]);
        assert_eq!(ids(&newest(&rest[..1])), ["", "", ""]);
        // A pending one counts if it is newer than what is to be had.
        assert_eq!(ids(&newest(&[old.clone(), snapshot("p", Pending, 4)])), ["c-old", "p", ""]);
        assert_eq!(ids(&newest(&[new, snapshot("p", Pending, 4)])), ["c-new", "", ""]);
        assert_eq!(ids(&newest(&[snapshot("p", Pending, 4), snapshot("q", Pending, 6)])), ["", "q", ""]);
    }

    #[test]
    fn they_are_known_by_domain_and_pool_or_by_tags_of_ones_own() {
        let mut d = directive("ps", None);
        let names = |d: &VolumeDirective| {
            let (filters, what) = filters(d, "dom*");
            (filters.iter().map(|f| format!("{}={}", f.name, f.values[0])).collect::<Vec<_>>().join(" "), what)
        };
        let ours = "tag:user:ec2fd.domain=dom\\* tag:user:ec2fd.pool-name=pool".to_owned();
        assert_eq!(names(&d), (ours, "pool 'pool'".to_owned()));
        d.snapshot_tags = vec![("k".into(), "v".into()), ("l".into(), String::new())];
        assert_eq!(names(&d), ("tag:k=v tag:l=".to_owned(), "k=v, l=".to_owned()));
    }
}

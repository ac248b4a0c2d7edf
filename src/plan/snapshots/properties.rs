//! Whatever snapshots there are: what is deleted is ours, completed and old, and enough stays.

use proptest::prelude::*;

use super::tests::snapshot;
use super::*;
use crate::properties::settings;

fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    use SnapshotState::{Completed, Error, Other, Pending};
    let state = prop::sample::select(vec![Completed, Completed, Completed, Pending, Error, Other]);
    (any::<u16>(), state, 0..50_i64, 0..12_u8).prop_map(|(id, state, time, odd)| {
        let mut s = snapshot(&format!("snap-{id:017x}"), state, time);
        match odd {
            0 => s.volume_id.push('x'),
            1 => s.tags[0].1.push('x'),
            2 => s.tags[1].1.push('x'),
            3 => drop(s.tags.pop()),
            _ => {}
        }
        s
    })
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn enough_stays_and_nothing_else_goes(all in prop::collection::vec(any_snapshot(), 0..40), keep in 0..12_usize) {
        let ours = ours(&all, "d", Some("p"), "vol-1");
        let gone = too_many(&ours, keep);
        let completed: Vec<&&Snapshot> = ours.iter().filter(|s| s.state == SnapshotState::Completed).collect();
        for s in &gone {
            prop_assert!(s.volume_id == "vol-1" && s.state == SnapshotState::Completed && s.tags.len() == 3);
            // So many of ours that can be used are as new or newer, and stay.
            let newer = |o: &&&&Snapshot| o.start_time >= s.start_time && !gone.iter().any(|g| std::ptr::eq(*g, ***o));
            prop_assert!(completed.iter().filter(newer).count() >= keep.max(1));
        }
        // As many go as may go.
        let dated = completed.iter().filter(|s| s.start_time.is_some()).count();
        prop_assert_eq!(gone.len(), dated.saturating_sub(keep.max(1)));
        prop_assert!(gone.windows(2).all(|w| w[0].start_time <= w[1].start_time));
    }
}

//! Any notice, any margin.

use proptest::prelude::*;

use super::*;
use crate::properties::settings;

fn tasks() -> impl Strategy<Value = Tasks> {
    any::<[bool; 3]>().prop_map(|[snapshots, volumes, records]| Tasks { snapshots, volumes, records })
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn phases_follow_each_other_and_end_in_time(left in 0..4_000_000u64, margin in 0..4_000_000u64, r in tasks()) {
        let (left, margin) = (Duration::from_millis(left), Duration::from_millis(margin));
        let all = budget(left, margin);
        prop_assert!(all == LEAST || all + margin == left);
        let p = announced(all, r);
        prop_assert!(p.snapshots <= p.unmount && p.unmount <= p.detach && p.detach <= p.records && p.records == all, "{:?}", p);
        // Commands have a third, and what comes after them its part, even if they must be killed.
        let slack = Duration::from_millis(1);
        prop_assert!(p.commands + slack >= all / 3, "{:?}", p);
        if r == Tasks::default() {
            prop_assert_eq!(p.commands, all);
            return Ok(());
        }
        let scale = (all.as_secs_f64() * 2.0 / 3.0 / 60.0).min(1.0);
        let mut after = p.commands + p.grace;
        prop_assert!(after <= p.snapshots + slack, "{:?}", p);
        let [snapshots, unmount, detach, records] = r.each([SNAPSHOTS, UNMOUNT, DETACH, RECORDS]);
        for (kept, end) in [(snapshots, p.snapshots), (unmount, p.unmount), (detach, p.detach), (records, p.records)] {
            after += kept.mul_f64(scale);
            prop_assert!(end + slack >= after, "{:?}", p);
        }
    }

    #[test]
    fn more_time_shortens_no_phase(all in 10_000..4_000_000u64, more in 0..1_000_000u64, r in tasks()) {
        let (a, b) = (announced(Duration::from_millis(all), r), announced(Duration::from_millis(all + more), r));
        let of = |p: Phases| [p.commands, p.grace, p.unmount - p.commands, p.detach - p.commands, p.records];
        let slack = Duration::from_millis(1);
        prop_assert!(of(a).into_iter().zip(of(b)).all(|(a, b)| a <= b + slack), "{:?} {:?}", a, b);
    }
}

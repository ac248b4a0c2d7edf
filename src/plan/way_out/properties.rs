//! Any notice, any margin.

use proptest::prelude::*;

use super::*;
use crate::properties::settings;

fn releases() -> impl Strategy<Value = Releases> {
    (any::<bool>(), any::<bool>()).prop_map(|(volumes, records)| Releases { volumes, records })
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn phases_follow_each_other_and_end_in_time(left in 0..4_000_000u64, margin in 0..4_000_000u64, r in releases()) {
        let (left, margin) = (Duration::from_millis(left), Duration::from_millis(margin));
        let all = budget(left, margin);
        prop_assert!(all == LEAST || all + margin == left);
        let p = announced(all, r);
        prop_assert!(p.unmount <= p.detach && p.detach <= p.records && p.records == all, "{:?}", p);
        // Commands have a third, and what comes after them its part, even if they must be killed.
        let slack = Duration::from_millis(1);
        prop_assert!(p.commands + slack >= all / 3, "{:?}", p);
        if r.volumes {
            let killed = p.commands + p.grace;
            let scale = (all.as_secs_f64() * 2.0 / 3.0 / 45.0).min(1.0);
            prop_assert!(p.unmount + slack >= killed + UNMOUNT.mul_f64(scale), "{:?}", p);
            prop_assert!(p.detach + slack >= killed + (UNMOUNT + DETACH).mul_f64(scale), "{:?}", p);
        } else if r.records {
            prop_assert!(p.commands + p.grace <= p.detach + slack, "{:?}", p);
        } else {
            prop_assert_eq!(p.commands, all);
        }
    }

    #[test]
    fn more_time_shortens_no_phase(all in 10_000..4_000_000u64, more in 0..1_000_000u64, r in releases()) {
        let (a, b) = (announced(Duration::from_millis(all), r), announced(Duration::from_millis(all + more), r));
        let of = |p: Phases| [p.commands, p.grace, p.unmount - p.commands, p.detach - p.commands, p.records];
        let slack = Duration::from_millis(1);
        prop_assert!(of(a).into_iter().zip(of(b)).all(|(a, b)| a <= b + slack), "{:?} {:?}", a, b);
    }
}

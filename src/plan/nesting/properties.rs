//! Domains with mounts of any paths.

use proptest::prelude::*;

use super::{Place, groups, order, parents};
use crate::properties::settings;

proptest! {
    #![proptest_config(settings())]

    /// Whatever stands on whatever: each directive is done once, after what it stands on, and no domain waits for ever.
    #[test]
    fn everything_comes_about(all in prop::collection::vec((0..4usize, "(/[ab]){1,4}"), 0..16)) {
        let mut counts = vec![0; 4];
        let mut places: Vec<Place> = Vec::new();
        for (domain, path) in all {
            if places.iter().any(|p| p.path.to_str() == Some(&path)) {
                continue;
            }
            let directive = counts[domain];
            counts[domain] += 1;
            places.push(Place { domain, directive, real: path.clone().into(), path: path.into() });
        }
        let parents = parents(&places);
        let groups = groups(4, &places, &parents);
        let mut left = order(&counts, &places, &parents);
        let number = |domain, directive| places.iter().position(|p| (p.domain, p.directive) == (domain, directive));
        let mut mounted = vec![false; places.len()];
        while left.iter().any(|l| !l.is_empty()) {
            let ready = (0..4).find(|d| {
                let first = left[*d].first().and_then(|n| number(*d, *n));
                first.is_some_and(|n| parents[n].is_none_or(|p| mounted[p]))
            });
            prop_assert!(ready.is_some(), "{places:?} {left:?}");
            let domain = ready.unwrap();
            let n = number(domain, left[domain].remove(0)).unwrap();
            prop_assert!(!mounted[n]);
            mounted[n] = true;
        }
        prop_assert!(mounted.iter().all(|m| *m));
        for (place, parent) in places.iter().zip(&parents) {
            if let Some(parent) = parent {
                prop_assert!(place.path.starts_with(&places[*parent].path));
                prop_assert_eq!(groups[place.domain], groups[places[*parent].domain]);
            }
        }
    }

    #[test]
    fn links_that_make_no_sense_still_give_each_directive_once(
        all in prop::collection::vec(("(/[ab]){1,3}", "(/[ab]){1,3}"), 0..10),
    ) {
        let place = |(n, (path, real)): (usize, (String, String))| {
            Place { domain: n % 2, directive: n / 2, path: path.into(), real: real.into() }
        };
        let places: Vec<Place> = all.into_iter().enumerate().map(place).collect();
        let counts = [places.len().div_ceil(2), places.len() / 2];
        for (mut order, count) in order(&counts, &places, &parents(&places)).into_iter().zip(counts) {
            order.sort_unstable();
            prop_assert_eq!(order, (0..count).collect::<Vec<_>>());
        }
    }
}

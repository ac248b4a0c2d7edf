//! Mounts that stand on each other: `/srv/a/b` on `/srv/a`, in whatever order and in whatever domains the config has them.
//!
//! A mount stands on the nearest one that its path leads through. It is mounted after that one and unmounted before it.

use std::path::PathBuf;

/// A mount of the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its domain, by number.
    pub(crate) domain: usize,
    /// Its directive, by its place among those of the domain.
    pub(crate) directive: usize,
    /// As the config has it.
    pub(crate) path: PathBuf,
    /// What that leads to, by the links that there are now.
    pub(crate) real: PathBuf,
}

/// For each place the one that it stands on, by their numbers. Where what the paths lead to says something, it counts;
/// else the paths themselves do, since a link may only be there when the disk is.
pub(crate) fn parents(places: &[Place]) -> Vec<Option<usize>> {
    let within = |a: &PathBuf, b: &PathBuf| a != b && a.starts_with(b);
    let stands_on = |a: &Place, b: &Place| {
        within(&a.real, &b.real) || !within(&b.real, &a.real) && a.real != b.real && within(&a.path, &b.path)
    };
    let of = |a: &Place| {
        let below = places.iter().enumerate().filter(|(_, b)| stands_on(a, b));
        below.max_by_key(|(_, b)| (within(&a.real, &b.real), b.real.components().count())).map(|(n, _)| n)
    };
    places.iter().map(of).collect()
}

/// The order of the directives of each domain (of which there are so many): as in the config, but none before what its
/// mount stands on. All domains keep to one order of all directives, so that none waits for one that waits for it.
pub(crate) fn order(counts: &[usize], places: &[Place], parents: &[Option<usize>]) -> Vec<Vec<usize>> {
    let all: Vec<(usize, usize)> =
        counts.iter().enumerate().flat_map(|(domain, count)| (0..*count).map(move |d| (domain, d))).collect();
    let of = |n: usize| (places[n].domain, places[n].directive);
    let parent = |item: &(usize, usize)| {
        let own = (0..places.len()).find(|n| of(*n) == *item)?;
        parents[own].map(of)
    };
    let mut order = vec![Vec::new(); counts.len()];
    let mut left = all;
    while !left.is_empty() {
        let ready = |item: &(usize, usize)| parent(item).is_none_or(|p| !left.contains(&p));
        // There is always one, unless the paths make no sense; then the config's order is as good as any.
        let next = left.iter().position(ready).unwrap_or(0);
        let (domain, directive) = left.remove(next);
        order[domain].push(directive);
    }
    order
}

/// The group of each domain: the lowest number of those that it is bound to by mounts, however far.
pub(crate) fn groups(domains: usize, places: &[Place], parents: &[Option<usize>]) -> Vec<usize> {
    let mut group: Vec<usize> = (0..domains).collect();
    let pairs = places.iter().zip(parents).filter_map(|(p, parent)| Some((p.domain, places[(*parent)?].domain)));
    for (a, b) in pairs {
        let (low, high) = (group[a].min(group[b]), group[a].max(group[b]));
        group.iter_mut().filter(|g| **g == high).for_each(|g| *g = low);
    }
    group
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(all: &[(usize, usize, &str, &str)]) -> Vec<Place> {
        let place = |(domain, directive, path, real): &(usize, usize, &str, &str)| Place {
            domain: *domain,
            directive: *directive,
            path: path.into(),
            real: real.into(),
        };
        all.iter().map(place).collect()
    }

    /// Places whose paths lead where they say.
    fn plain(all: &[(usize, usize, &str)]) -> Vec<Place> {
        places(&all.iter().map(|(d, n, path)| (*d, *n, *path, *path)).collect::<Vec<_>>())
    }

    #[test]
    fn a_mount_stands_on_the_nearest_that_its_path_leads_through() {
        let all = plain(&[(0, 0, "/a/b/c"), (0, 1, "/a"), (1, 0, "/a/b"), (1, 1, "/ab"), (1, 2, "/b")]);
        assert_eq!(parents(&all), [Some(2), None, Some(1), None, None]);
        assert!(parents(&[]).is_empty());
    }

    #[test]
    fn links_count_and_paths_where_these_say_nothing() {
        // /srv leads to /data/srv.
        let all = places(&[(0, 0, "/srv/x", "/data/srv/x"), (0, 1, "/data", "/data")]);
        assert_eq!(parents(&all), [Some(1), None]);
        // The disk at /a has a link b, which leads out of it.
        let all = places(&[(0, 0, "/a/b", "/elsewhere"), (0, 1, "/a", "/a")]);
        assert_eq!(parents(&all), [Some(1), None]);
        // What is really below is not above, whatever its path looks like; and the same place is neither.
        let all = places(&[(0, 0, "/x/y", "/q"), (0, 1, "/x", "/q/x")]);
        assert_eq!(parents(&all), [None, Some(0)]);
        assert_eq!(parents(&places(&[(0, 0, "/x/y", "/q"), (0, 1, "/x", "/q")])), [None, None]);
    }

    #[test]
    fn the_order_is_the_configs_but_for_what_stands_on_something() {
        let order_of = |counts: &[usize], all: &[Place]| order(counts, all, &parents(all));
        assert_eq!(order_of(&[3], &plain(&[(0, 0, "/a"), (0, 1, "/a/b"), (0, 2, "/c")])), [[0, 1, 2]]);
        assert_eq!(order_of(&[3], &plain(&[(0, 0, "/a/b"), (0, 1, "/c"), (0, 2, "/a")])), [[1, 2, 0]]);
        // The first directive has no mount.
        assert_eq!(order_of(&[3], &plain(&[(0, 1, "/a/b/c"), (0, 2, "/a/b")])), [[0, 2, 1]]);
        // Each waits for the other's second one: none may begin with its first.
        let crossed = plain(&[(0, 0, "/x/1"), (0, 1, "/y"), (1, 0, "/y/1"), (1, 1, "/x")]);
        assert_eq!(order_of(&[2, 2], &crossed), [[1, 0], [0, 1]]);
    }

    #[test]
    fn domains_are_bound_by_mounts_however_far() {
        let all = plain(&[(3, 0, "/a"), (1, 0, "/a/b"), (2, 0, "/c"), (2, 1, "/a/b/d"), (0, 0, "/z"), (4, 0, "/z/z")]);
        assert_eq!(groups(5, &all, &parents(&all)), [0, 1, 1, 1, 0]);
        assert_eq!(groups(2, &[], &[]), [0, 1]);
    }
}

#[cfg(test)]
mod properties;

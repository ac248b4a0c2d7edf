//! `pool-pref`: which of the free volumes is tried first.

use std::collections::BTreeSet;

use crate::disks::{config, id, volume};
use crate::fakeaws::{InstanceSpec, VolumeSpec};
use crate::lab::{Lab, once};

fn p(pref: &str) -> String {
    config(&volume("p", "/dev/xvdf", &format!(r#""pool-name": "p", "pool-pref": "{pref}""#)))
}

/// The volume that an instance with this launch index gets from a pool of five.
fn got(launch_index: u32, prepare: impl FnOnce(&Lab)) -> String {
    let lab = Lab::with(InstanceSpec { launch_index, ..InstanceSpec::default() });
    lab.pool_of(5);
    prepare(&lab);
    let run = lab.run(&p("index"), once());
    run.ends(0, &[]);
    assert_eq!(lab.count("AttachVolume"), 1, "{run}");
    lab.attached(&lab.me)[0].0.clone()
}

#[test]
fn by_index_the_launch_index_counts_modulo_the_size_of_the_pool() {
    assert_eq!(got(0, |_| {}), id(1));
    assert_eq!(got(3, |_| {}), id(4));
    assert_eq!(got(5, |_| {}), id(1));
    assert_eq!(got(13, |_| {}), id(4));
}

#[test]
fn by_index_taken_volumes_count_too() {
    // Volume 1 is another's: index 3 is volume 4 still.
    let taken = |lab: &Lab| {
        let other = lab.neighbour();
        lab.take(&id(1), &other, "/dev/xvdf");
    };
    assert_eq!(got(3, taken), id(4));
    // Those of other zones do not.
    let elsewhere = |lab: &Lab| {
        lab.volume(VolumeSpec::pool("d", "p").id(&id(0)).zone("eu-west-1b"));
    };
    assert_eq!(got(3, elsewhere), id(4));
}

#[test]
fn by_index_a_taken_place_sends_instances_to_different_volumes() {
    let lab = Lab::new();
    lab.pool_of(40);
    let other = lab.neighbour();
    lab.take(&id(1), &other, "/dev/xvdf");
    let mut got = BTreeSet::new();
    for _ in 0..4 {
        // All of them have index 0, and each sees the pool as the first saw it.
        let me = lab.neighbour();
        let run = lab.run(&p("index"), once().on(&me));
        run.ends(0, &[]);
        let vol = lab.attached(&me)[0].0.clone();
        let mut w = lab.server.world();
        let v = w.volumes.get_mut(&vol).unwrap();
        v.attachments.clear();
        v.state = "available".into();
        got.insert(vol);
    }
    assert!(got.len() > 1, "all of them went to {got:?}");
}

#[test]
fn by_the_time_of_last_use() {
    for (pref, wanted) in
        [("least-recently-used", 4), ("least-recent-used", 4), ("most-recently-used", 3), ("most-recent-used", 3)]
    {
        let lab = Lab::new();
        for (n, used) in [
            (1, Some("2026-05-01T10:00:00Z")),
            (2, Some("2026-04-01T10:00:00Z")),
            (3, Some("2026-11-01T10:00:00Z")),
            (4, None),
        ] {
            let spec = VolumeSpec::pool("d", "p").id(&id(n));
            lab.volume(used.map_or(spec.clone(), |t| spec.tag("user:ec2fd.ts-used", t)));
        }
        let run = lab.run(&p(pref), once());
        run.ends(0, &[]);
        // What was never used is the least recently used.
        lab.has(&[(&id(wanted), "/dev/xvdf")], &run);
        assert!(lab.tag(&id(wanted), "ts-used").as_str() > "2026-11-02", "{run}");
    }
}

#[test]
fn at_random_not_always_the_same() {
    let lab = Lab::new();
    lab.pool_of(50);
    let mut got = BTreeSet::new();
    for _ in 0..6 {
        let me = lab.neighbour();
        let run = lab.run(&p("random"), once().on(&me));
        run.ends(0, &[]);
        got.insert(lab.attached(&me)[0].0.clone());
    }
    // Each is another's by now, so that they differ; but not in the order of their ids.
    let first: BTreeSet<String> = (1..=6).map(id).collect();
    assert!(got.len() == 6 && got != first, "{got:?}");
}

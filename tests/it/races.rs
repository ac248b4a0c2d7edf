//! Many instances at once for few volumes: AttachVolume alone decides.

use std::collections::BTreeMap;

use crate::disks::{config, volume};
use crate::fakeaws::{InstanceSpec, Knobs};
use crate::lab::{How, Lab, once};

/// Runs 30 daemons for 20 volumes; `index` gives their launch indexes.
fn race(index: impl Fn(u32) -> u32, pref: &str, knobs: impl FnOnce(&mut Knobs), how: How) {
    let lab = Lab::new();
    let pool = lab.pool_of(20);
    let instances: Vec<String> =
        (0..30).map(|n| lab.add_instance(InstanceSpec { launch_index: index(n), ..InstanceSpec::default() })).collect();
    lab.knobs(knobs);
    let text = config(&volume("p", "/dev/xvdf", &format!(r#""pool-name": "p", "pool-pref": "{pref}""#)));
    let runs: Vec<_> = instances.iter().map(|i| lab.start(&text, how.clone().on(i))).collect();
    let mut codes = BTreeMap::new();
    for (run, instance) in runs.into_iter().zip(&instances) {
        let run = run.wait(&lab);
        *codes.entry(run.code).or_insert(0) += 1;
        match run.code {
            0 => assert_eq!(lab.attached(instance).len(), 1, "{}", run.log),
            _ => {
                assert!(run.log.contains("all 20 volumes of pool 'p' in eu-west-1a are taken"), "{}", run.log);
                assert!(lab.attached(instance).is_empty(), "{}", run.log);
            }
        }
    }
    assert_eq!(codes, BTreeMap::from([(0, 20), (1, 10)]));
    let w = lab.server.world();
    for v in &pool {
        let v = w.volume(v).unwrap();
        assert_eq!(v.attachments.len(), 1, "{v:?}");
        assert_eq!(v.tags["user:ec2fd.owner"], v.attachments[0].instance);
        assert!(!v.tags.contains_key("user:ec2fd.transc-id"), "{v:?}");
    }
    drop(w);
    let won = lab.server.calls_of("AttachVolume").iter().filter(|c| c.status == 200).count();
    assert_eq!(won, 20);
    let tried = lab.count("AttachVolume");
    assert!(tried <= 300, "{tried} AttachVolume calls");
}

#[test]
fn thirty_instances_of_one_launch_for_twenty_volumes() {
    race(|n| n, "index", |_| {}, once());
}

#[test]
fn thirty_instances_with_one_index_on_small_pages_for_twenty_volumes() {
    race(
        |_| 0,
        "index",
        |k| {
            k.page_cap = Some(7);
            k.empty_pages = true;
        },
        once(),
    );
}

#[test]
fn thirty_instances_at_random_with_stale_reads_for_twenty_volumes() {
    race(
        |_| 0,
        "random",
        |k| {
            k.stale_ms = 300;
            k.latency_ms = 20;
        },
        once(),
    );
}

//! A fleet that boots at once, with an API that throttles: who wins is clear, and the calls stay few.

use std::collections::BTreeMap;

use crate::disks::{config, volume};
use crate::fakeaws::InstanceSpec;
use crate::lab::{Lab, once};

#[test]
fn a_hundred_instances_for_sixty_volumes_with_few_calls_each() {
    let lab = Lab::new();
    lab.pool_of(60);
    // As a fleet is launched: many reservations of one, so that the launch index tells nothing.
    let instances: Vec<String> = (0..100).map(|_| lab.add_instance(InstanceSpec::default())).collect();
    {
        let mut w = lab.server.world();
        w.knobs.latency_ms = 30;
        for (action, capacity, per_second) in [
            ("EC2:DescribeVolumes", 100, 20.0),
            ("EC2:AttachVolume", 100, 20.0),
            ("EC2:CreateTags", 100, 20.0),
            ("EC2:DeleteTags", 100, 20.0),
        ] {
            w.throttle(action, capacity, per_second);
        }
    }
    let text = config(&volume("p", "/dev/xvdf", r#""pool-name": "p""#));
    let runs: Vec<_> = instances.iter().map(|i| lab.start(&text, once().on(i))).collect();
    let mut codes = BTreeMap::new();
    for (run, instance) in runs.into_iter().zip(&instances) {
        let run = run.wait(&lab);
        *codes.entry(run.code).or_insert(0) += 1;
        assert_eq!(lab.attached(instance).len(), usize::from(run.code == 0), "{}", run.log);
        if run.code != 0 {
            assert!(run.log.contains("all 60 volumes of pool 'p' in eu-west-1a are taken"), "{}", run.log);
        }
    }
    assert_eq!(codes, BTreeMap::from([(0, 60), (1, 40)]));
    let calls = lab.server.calls();
    let mut each: BTreeMap<String, usize> = BTreeMap::new();
    let mut by_action: BTreeMap<String, usize> = BTreeMap::new();
    for c in &calls {
        *each.entry(c.instance.clone().unwrap()).or_default() += 1;
        *by_action.entry(format!("{} {}", c.action, c.status)).or_default() += 1;
    }
    let mut counts: Vec<usize> = each.into_values().collect();
    counts.sort_unstable();
    let (median, most) = (counts[counts.len() / 2], counts[counts.len() - 1]);
    let attach = lab.count("AttachVolume");
    let last = calls.iter().filter(|c| c.action == "AttachVolume" && c.status == 200).map(|c| c.at_ms).max().unwrap();
    println!(
        "crowd: 60 winners of 100; calls: median {median}, most {most}; AttachVolume {attach}; last win at {last} ms; {by_action:?}"
    );
    assert!(median <= 8 && most <= 30 && attach <= 240, "median {median}, most {most}, AttachVolume {attach}");
}

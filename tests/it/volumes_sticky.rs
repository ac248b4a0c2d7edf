//! `pool-pref: sticky`, and the order by use for a crowd.

use std::collections::BTreeSet;

use crate::disks::{config, id, volume};
use crate::fakeaws::{Fault, FaultKind, InstanceSpec, VolumeSpec};
use crate::lab::{How, Lab, once};
use crate::matrix_kills::kill_at;

/// A config with one directive of pool `p`, and keys of the top level.
fn p(pref: &str, top: &str) -> String {
    let d = volume("p", "/dev/xvdf", &format!(r#""pool-name": "p", "pool-pref": "{pref}""#));
    format!("{{ {top} {}", config(&d).trim_start().trim_start_matches('{'))
}

/// Lets go of a volume, as a terminated instance does.
fn free(lab: &Lab, volume: &str) {
    lab.set_attachment(volume, "detaching", 0);
    lab.until("it is free", || lab.state(volume) == "available");
}

fn node(lab: &Lab, launch_index: u32) -> String {
    lab.add_instance(InstanceSpec { launch_index, ..InstanceSpec::default() })
}

/// Runs an instance; the volume that it gets.
fn gets(lab: &Lab, text: &str, me: &str, how: How) -> String {
    let run = lab.run(text, how.on(me));
    run.ends(0, &[]);
    lab.attached(me)[0].0.clone()
}

#[test]
fn an_instance_gets_the_volume_back_that_it_had() {
    let lab = Lab::new();
    lab.pool_of(5);
    let text = p("sticky", "");
    lab.server.world().volumes.get_mut(&id(4)).unwrap().tags.insert("user:ec2fd.owner".into(), lab.me.clone());
    assert_eq!(gets(&lab, &text, &lab.me, once()), id(4));
    assert_eq!(lab.count("AttachVolume"), 1);
    free(&lab, &id(4));
    // Also where another one is first by index, and others have come.
    lab.volume(VolumeSpec::pool("d", "p").id(&id(0)));
    assert_eq!(gets(&lab, &text, &lab.me, once()), id(4));
}

#[test]
fn a_successor_gets_the_volume_of_the_one_that_had_its_name() {
    let lab = Lab::new();
    lab.pool_of(6);
    let text = p("sticky", r#"hostname: "node-{instance_index}.{placement_zone}","#);
    // Their indexes lead them to other volumes than those that they come to have.
    let [a, b] = [2, 3].map(|i| node(&lab, i));
    let had = [&a, &b].map(|i| gets(&lab, &text, i, once()));
    assert_eq!(had.clone().map(|v| lab.tag(&v, "member")), ["node-2.eu-west-1a", "node-3.eu-west-1a"]);
    // The pool grows in front: by index they would get others now.
    lab.volume(VolumeSpec::pool("d", "p").id(&id(0)));
    had.iter().for_each(|v| free(&lab, v));
    let [c, d] = [3, 2].map(|i| node(&lab, i));
    assert_eq!(gets(&lab, &text, &c, once()), had[1]);
    assert_eq!(gets(&lab, &text, &d, once()), had[0]);
    assert_eq!(lab.tag(&had[0], "owner"), d);
}

#[test]
fn without_a_host_name_the_launch_index_tells() {
    let lab = Lab::new();
    lab.pool_of(3);
    let text = p("sticky", "");
    let a = node(&lab, 1);
    let had = gets(&lab, &text, &a, once());
    assert_eq!(lab.tag(&had, "member"), "launch-index-1");
    lab.volume(VolumeSpec::pool("d", "p").id(&id(0)));
    free(&lab, &had);
    assert_eq!(gets(&lab, &text, &node(&lab, 1), once()), had);
}

#[test]
fn directives_of_one_pool_each_get_their_own_back() {
    let lab = Lab::new();
    lab.pool_of(6);
    let of = |device: &str| volume("p", device, r#""pool-name": "p", "pool-pref": "sticky""#);
    let text = config(&format!("{}, {}, {}", of("/dev/xvdf"), of("/dev/xvdg"), of("/dev/xvdh")));
    let [a, b] = [1, 1].map(|i| node(&lab, i));
    lab.run(&text, once().on(&a)).ends(0, &[]);
    let had = lab.attached(&a);
    let members: BTreeSet<String> = had.iter().map(|(v, _)| lab.tag(v, "member")).collect();
    let wanted = ["launch-index-1", "launch-index-1/1", "launch-index-1/2"].map(str::to_owned);
    assert_eq!(members, wanted.into());
    had.iter().for_each(|(v, _)| free(&lab, v));
    lab.run(&text, once().on(&b)).ends(0, &[]);
    assert_eq!(lab.attached(&b), had);
}

#[test]
fn a_volume_that_is_anothers_by_now_is_not_waited_for() {
    let lab = Lab::new();
    lab.pool_of(3);
    let text = p("sticky", "");
    let a = node(&lab, 1);
    let had = gets(&lab, &text, &a, once());
    // Another one of that index, while the first lives.
    let got = gets(&lab, &text, &node(&lab, 1), once());
    assert_ne!(got, had);
    assert_eq!(lab.tag(&had, "owner"), a);
}

#[test]
fn only_sticky_writes_the_member() {
    for pref in ["index", "random", "least-recently-used", "most-recently-used"] {
        let lab = Lab::new();
        lab.pool_of(1);
        lab.run(&p(pref, r#"hostname: "a","#), once()).ends(0, &[]);
        assert_eq!(lab.tag_keys(&id(1)), ["domain", "owner", "pool-name", "ts-used"], "{pref}");
    }
    // In the call that writes the other last tags.
    let lab = Lab::new();
    lab.pool_of(1);
    let run = lab.run(&p("sticky", ""), once());
    run.ends(0, &[]);
    assert_eq!(lab.tag_keys(&id(1)), ["domain", "member", "owner", "pool-name", "ts-used"], "{run}");
    assert_eq!(lab.count("CreateTags"), 2, "{run}");
}

#[test]
fn a_member_that_cannot_be_written_is_a_warning() {
    let lab = Lab::new();
    lab.pool_of(1);
    lab.server.world().deny("EC2:CreateTags");
    let run = lab.run(&p("sticky", ""), once());
    run.ends(0, &["cannot write the time of use", "UnauthorizedOperation"]);
}

#[test]
fn killed_before_the_last_tags_the_next_run_writes_the_member() {
    for after in [false, true] {
        let lab = Lab::new();
        lab.pool_of(2);
        let text = p("sticky", "");
        assert!(kill_at(&lab, &text, "CreateTags", 2, after));
        lab.run(&text, once()).ends(0, &[]);
        let vol = lab.attached(&lab.me)[0].0.clone();
        assert_eq!(lab.tag(&vol, "member"), "launch-index-0", "{after}");
        assert_eq!(lab.tag_keys(&vol), ["domain", "member", "owner", "pool-name", "ts-used"], "{after}");
    }
}

#[test]
fn a_rolled_back_run_leaves_no_member() {
    let lab = Lab::new();
    lab.pool_of(1);
    let d = crate::disks::directive("p", "/dev/xvdf", r#""pool-name": "p", "pool-pref": "sticky""#, "exit 1");
    lab.run(&config(&d), once()).ends(1, &[]);
    assert_eq!(lab.tag(&id(1), "member"), "");
}

/// 20 instances, all of index 0, for a pool of 100 of which each was used an hour after the one before.
fn crowd(pref: &str, place: impl Fn(usize) -> usize) {
    let lab = Lab::new();
    let pool: Vec<String> = (0..100)
        .map(|n| {
            let used = format!("2026-04-{:02}T{:02}:00:00Z", 1 + n / 24, n % 24);
            lab.volume(VolumeSpec::pool("d", "p").id(&id(100 - n)).tag("user:ec2fd.ts-used", &used))
        })
        .collect();
    let instances: Vec<String> = (0..20).map(|_| lab.neighbour()).collect();
    // They all read the list before anybody has claimed.
    lab.fault(Fault::first("DescribeVolumes", 20, FaultKind::Slow(400)));
    let text = p(pref, "");
    let runs: Vec<_> = instances.iter().map(|i| lab.start(&text, once().on(i))).collect();
    for run in runs {
        run.wait(&lab).ends(0, &[]);
    }
    let used: Vec<usize> = (0..100).filter(|n| lab.state(&pool[*n]) == "in-use").map(&place).collect();
    let calls = lab.server.calls_of("AttachVolume");
    let most = pool.iter().map(|v| calls.iter().filter(|c| c.params["VolumeId"] == *v).count()).max();
    println!("{pref}: {} AttachVolume calls, {most:?} for one volume, places {used:?}", calls.len());
    assert_eq!(used.len(), 20);
    assert!(used.iter().all(|n| *n < 40), "{used:?}");
    assert!(used.iter().filter(|n| **n < 8).count() >= 6, "{used:?}");
    assert!(calls.len() <= 60 && most <= Some(8), "{} {most:?}", calls.len());
}

#[test]
fn a_crowd_takes_the_oldest_and_does_not_meet_at_one() {
    crowd("least-recently-used", |n| n);
}

#[test]
fn a_crowd_takes_the_newest_and_does_not_meet_at_one() {
    crowd("most-recently-used", |n| 99 - n);
}

#[test]
fn times_that_cannot_be_read_break_nothing() {
    for pref in ["least-recently-used", "most-recently-used"] {
        let lab = Lab::new();
        for (n, used) in (1..).zip(["yesterday", "", "2026-13-40T99:00:00Z", "9999999999", "2026-05-01T10:00:00Z"]) {
            lab.volume(VolumeSpec::pool("d", "p").id(&id(n)).tag("user:ec2fd.ts-used", used));
        }
        let run = lab.run(&p(pref, ""), once());
        run.ends(0, &[]);
        lab.has(&[(&id(5), "/dev/xvdf")], &run);
    }
}

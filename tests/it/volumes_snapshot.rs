//! Source `s`: which snapshot, when there is none, what is asked for, and that a kill leaves nothing behind.

use std::collections::BTreeMap;

use crate::disks::{config, directive, id, volume};
use crate::fakeaws::{Fault, FaultKind, InstanceSpec, SnapshotSpec, VolumeSpec};
use crate::lab::{Lab, Run, once};
use crate::matrix::{Clean, Likeness, Picture, fast, keyed, same};
use crate::matrix_kills::kill_at;

fn ps(sources: &str, more: &str) -> String {
    volume(sources, "/dev/xvdf", &format!(r#""pool-name": "p"{more}"#))
}

fn snap(n: u32) -> String {
    format!("snap-{n:017x}")
}

impl Lab {
    /// Adds completed snapshot `n` of pool `p` of domain `d`, of so many seconds ago.
    fn snapshot(&self, n: u32, age: i64) -> String {
        self.server.world().add_snapshot(SnapshotSpec::pool("d", "p").id(&snap(n)).age(age))
    }
}

/// The parameters of the only call of CreateVolume.
fn asked(lab: &Lab, run: &Run) -> BTreeMap<String, String> {
    let calls = lab.server.calls_of("CreateVolume");
    assert_eq!(calls.len(), 1, "{run}");
    calls[0].params.clone()
}

#[test]
fn the_newest_completed_snapshot_of_the_pool_becomes_a_volume_of_the_pool() {
    let lab = Lab::new();
    lab.snapshot(9, 7200);
    lab.snapshot(1, 3600);
    lab.snapshot(5, 90_000);
    let other = |spec: SnapshotSpec, n: u32| lab.server.world().add_snapshot(spec.id(&snap(n)));
    other(SnapshotSpec::pool("d", "p").state("error"), 20);
    other(SnapshotSpec { tier: "archive".into(), ..SnapshotSpec::pool("d", "p") }, 21);
    other(SnapshotSpec::pool("d", "q"), 22);
    other(SnapshotSpec::pool("e", "p"), 23);
    // Tags of another account's snapshots are not to be seen; its owner filter must not let it through either.
    let foreign = SnapshotSpec { owner: "999988887777".into(), public: true, ..SnapshotSpec::pool("d", "p") };
    other(foreign, 24);
    let run = lab.run(&config(&ps("ps", "")), once());
    run.ends(0, &["source p: pool 'p' has no volume", "from snap-00000000000000001"]);
    let made = lab.created();
    lab.has(&[(&made[0], "/dev/xvdf")], &run);
    assert_eq!(lab.seen(), [format!("{} true s p", made[0])]);
    assert_eq!(lab.tag_keys(&made[0]), ["domain", "owner", "pool-name", "ts-created", "ts-used"], "{run}");
    let p = asked(&lab, &run);
    assert_eq!((p["SnapshotId"].as_str(), p["VolumeType"].as_str()), (snap(1).as_str(), "gp3"));
    assert!(!p.contains_key("Size") && !p.contains_key("VolumeInitializationRate"), "{run}");
    let calls = lab.server.calls_of("DescribeSnapshots");
    // Once before and once after the second look at the pool.
    assert_eq!((calls.len(), calls[0].params["Owner.1"].as_str()), (2, "self"), "{run}");
    // What is attached is used, whatever snapshots there are by now.
    lab.snapshot(2, 1);
    lab.server.reset_calls();
    let run = lab.run(&config(&ps("ps", "")), once());
    run.ends(0, &["is attached already"]);
    assert!(lab.server.writes().is_empty() && lab.count("DescribeSnapshots") == 0, "{run}");
}

#[test]
fn a_volume_of_the_pool_goes_before_and_a_config_without_s_asks_for_no_snapshots() {
    let lab = Lab::new();
    lab.snapshot(1, 60);
    lab.pool_of(1);
    let run = lab.run(&config(&ps("ps", "")), once());
    run.ends(0, &[]);
    lab.has(&[(&id(1), "/dev/xvdf")], &run);
    assert_eq!((lab.count("DescribeSnapshots"), lab.count("CreateVolume")), (0, 0), "{run}");
}

#[test]
fn it_is_found_on_whatever_page_it_is() {
    let lab = Lab::new();
    lab.knobs(|k| (k.page_cap, k.empty_pages) = (Some(2), true));
    for n in 1..=7 {
        lab.snapshot(n, 100 * i64::from((n * 3) % 7) + 5);
    }
    let run = lab.run(&config(&ps("s", "")), once());
    run.ends(0, &["from snap-00000000000000007"]);
    assert!(lab.count("DescribeSnapshots") >= 4, "{run}");
}

#[test]
fn tags_of_ones_own_name_the_snapshots() {
    let lab = Lab::new();
    lab.snapshot(1, 1);
    let backup = SnapshotSpec::new(7).tag("Backup", "world*").tag("Site", "");
    lab.server.world().add_snapshot(backup.id(&snap(2)).age(500));
    lab.server.world().add_snapshot(SnapshotSpec::new(7).tag("Backup", "worlds").tag("Site", "").id(&snap(3)));
    let run = lab.run(&config(&ps("s", r#", snapshot: { tags: { Backup: "world*", Site: "" } }"#)), once());
    run.ends(0, &["from snap-00000000000000002"]);
    // In the pool all the same.
    assert_eq!(lab.tag(&lab.created()[0], "pool-name"), "p", "{run}");
}

#[test]
fn only_where_there_is_none_at_all_the_next_source_is_tried() {
    let lab = Lab::new();
    lab.server.world().add_snapshot(SnapshotSpec::pool("d", "p").state("error"));
    lab.run(&config(&ps("ps", "")), once()).ends(1, &["no volume to be had (p: ", "s: pool 'p' has no snapshot)"]);
    let run = lab.run(&config(&ps("psc", ", create: { Size: 3 }")), once());
    run.ends(0, &["source s: pool 'p' has no snapshot"]);
    assert_eq!(lab.seen(), [format!("{} true c p", lab.created()[0])]);
    assert!(!asked(&lab, &run).contains_key("SnapshotId"), "{run}");
}

#[test]
fn data_that_cannot_be_had_now_is_not_replaced_by_a_blank_volume() {
    let archived = SnapshotSpec { tier: "archive".into(), ..SnapshotSpec::pool("d", "p") };
    for (spec, text) in [
        (SnapshotSpec::pool("d", "p").state("pending"), "is not completed yet"),
        (archived, "is archived: restore it to the standard tier"),
        (SnapshotSpec::pool("d", "p").state("recovering"), "cannot be used now"),
    ] {
        let lab = Lab::new();
        lab.server.world().add_snapshot(spec.id(&snap(1)));
        let run = lab.run(&config(&ps("psc", ", create: { Size: 3 }")), once());
        run.ends(1, &["the only snapshot of pool 'p', snap-00000000000000001, ", text]);
        lab.nothing_left(&run);
        assert_eq!(lab.count("CreateVolume"), 0, "{run}");
    }
    // An older one that is completed is what there is; that it is not the newest is said.
    let lab = Lab::new();
    lab.snapshot(1, 500);
    lab.server.world().add_snapshot(SnapshotSpec::pool("d", "p").state("pending").id(&snap(2)));
    let run = lab.run(&config(&ps("psc", ", create: { Size: 3 }")), once());
    run.ends(0, &["snap-00000000000000002 is newer than snap-00000000000000001, and not completed yet"]);
    assert_eq!(asked(&lab, &run)["SnapshotId"], snap(1));
}

#[test]
fn with_wait_the_newest_is_waited_for_and_how_far_it_is_is_told() {
    let more = r#", wait: 300, create: { Size: 3 }"#;
    let lab = Lab::new();
    lab.snapshot(1, 500);
    {
        let mut w = lab.server.world();
        let late = w.add_snapshot(SnapshotSpec::pool("d", "p").state("pending").id(&snap(2)));
        let now = w.now_ms();
        w.snapshots.get_mut(&late).unwrap().pending = Some((now, now + 1500));
    }
    // Ten percent are 9 s of its time.
    let run = lab.run(&config(&ps("sc", more)), once().rate(60));
    let text = "waiting up to 300 s for snap-00000000000000002 to be completed: ";
    run.ends(0, &[text, "from snap-00000000000000002"]);
    let lines = run.log.lines().filter(|l| l.contains(text)).count();
    assert!((2..=11).contains(&lines), "{run}");
    assert!(lab.manager.told().contains(&format!("STATUS=domains.\"d\".attach-volume[0]: {text}")), "{run}");

    // When the time is over, an older one must do, and none is a failure.
    for (older, code, text) in [
        (true, 0, "snap-00000000000000002 is newer than snap-00000000000000001, and not completed yet (0 %)"),
        (false, 1, "the only snapshot of pool 'p', snap-00000000000000002, is not completed yet (0 %); waited 300 s"),
    ] {
        let lab = Lab::new();
        if older {
            lab.snapshot(1, 500);
        }
        lab.server.world().add_snapshot(SnapshotSpec::pool("d", "p").state("pending").id(&snap(2)));
        let run = lab.run(&config(&ps("sc", more)), once().rate(600));
        run.ends(code, &[text]);
        assert_eq!(lab.count("CreateVolume"), usize::from(older), "{run}");
    }
}

#[test]
fn what_is_denied_or_throttled_for_ever_fails_the_directive() {
    let lab = Lab::new();
    lab.snapshot(1, 60);
    let text = config(&ps("psc", ", create: { Size: 30 }"));
    lab.server.world().deny("EC2:DescribeSnapshots");
    let run = lab.run(&text, once());
    run.ends(1, &["cannot list the snapshots of pool 'p': ", "allow ec2:DescribeSnapshots for this instance's role"]);
    assert_eq!(lab.count("CreateVolume"), 0, "{run}");
    lab.server.world().permit("EC2:DescribeSnapshots");
    lab.server.world().deny("EC2:CreateVolume");
    let run = lab.run(&text, once());
    run.ends(1, &["cannot create a volume from snap-00000000000000001: ", "allow ec2:CreateVolume"]);
    lab.nothing_left(&run);
    lab.server.world().permit("EC2:CreateVolume");
    lab.fault(Fault::every("DescribeSnapshots", FaultKind::Throttle));
    let run = lab.run(&text.replacen('{', "{ timeout: 20, ", 1), once().rate(20));
    run.ends(1, &["cannot list the snapshots of pool 'p': "]);
    lab.nothing_left(&run);
}

#[test]
fn passing_faults_and_lost_answers_lead_to_one_volume() {
    for action in ["DescribeSnapshots", "CreateVolume"] {
        for kind in [
            FaultKind::ResetAfter,
            FaultKind::ErrorAfter500,
            FaultKind::HangAfter(30),
            FaultKind::Truncated,
            FaultKind::Status503,
            FaultKind::Throttle,
        ] {
            let lab = Lab::new();
            lab.snapshot(1, 60);
            lab.fault(Fault::first(action, 2, kind.clone()));
            let run = lab.run(&config(&ps("psc", ", create: { Size: 30 }")), once().rate(5));
            run.ends(0, &[]);
            assert_eq!((lab.created().len(), lab.attached(&lab.me).len()), (1, 1), "{action} {kind:?}\n{run}");
            // The list is read once more after the second look at the pool.
            let more = usize::from(action == "DescribeSnapshots");
            assert_eq!(lab.count(action), 3 + more, "{action} {kind:?}\n{run}");
        }
    }
}

#[test]
fn create_says_the_rest_and_a_size_that_is_too_small_is_the_snapshots() {
    let lab = Lab::with(InstanceSpec { zone: "eu-west-1b".into(), ..InstanceSpec::default() });
    lab.snapshot(1, 60);
    let more = r#", "initialization-rate": 300,
        create: { Size: 4, VolumeType: "io2", Iops: 500, Encrypted: true, AvailabilityZone: "us-east-1a" }"#;
    let run = lab.run(&config(&ps("ps", more)), once());
    run.ends(0, &["Size 4 is less than the 10 GiB of snap-00000000000000001"]);
    let p = asked(&lab, &run);
    let of = |k: &str| p[k].as_str();
    assert_eq!((of("AvailabilityZone"), of("VolumeType"), of("Iops")), ("eu-west-1b", "io2", "500"));
    assert_eq!((of("Size"), of("Encrypted"), of("VolumeInitializationRate")), ("10", "true", "300"));

    let lab = Lab::new();
    lab.snapshot(1, 60);
    let run = lab.run(&config(&ps("psc", r#", create: { Size: 12 }, "initialization-rate": 301"#)), once());
    run.ends(1, &["cannot create a volume from snap-00000000000000001: InvalidParameterValue: "]);
    lab.nothing_left(&run);
    let run = lab.run(&config(&ps("psc", r#", create: { Size: 12 }"#)), once());
    run.ends(0, &[]);
    let made = lab.created();
    assert_eq!(lab.server.world().volume(&made[0]).unwrap().size, 12);
}

#[test]
fn after_a_command_that_failed_the_volume_is_gone_and_the_snapshot_stays() {
    let lab = Lab::new();
    lab.snapshot(1, 60);
    let bad = config(&directive("ps", "/dev/xvdf", r#""pool-name": "p""#, "exit 7"));
    for _ in 0..2 {
        let run = lab.run(&bad, once().rate(10));
        run.ends(1, &["exit code 7"]);
        lab.nothing_left(&run);
    }
    assert!(lab.server.world().snapshots.contains_key(&snap(1)) && lab.count("DeleteSnapshot") == 0);
    let run = lab.run(&config(&ps("ps", "")), once().rate(10));
    run.ends(0, &["from snap-00000000000000001"]);
    assert_eq!(lab.created().len(), 1, "{run}");
}

#[test]
fn of_a_newer_snapshot_it_is_another_volume_and_the_first_one_is_settled() {
    for lost in [false, true] {
        let lab = Lab::new();
        lab.snapshot(1, 60);
        let text = config(&ps("ps", ""));
        assert!(kill_at(&lab, &text, "CreateVolume", 1, true));
        let first = lab.created().remove(0);
        if lost {
            lab.lose_journal();
        }
        lab.snapshot(2, 5);
        let run = lab.run(&text, fast());
        run.ends(0, &["from snap-00000000000000002"]);
        lab.until("the end of the first", || lab.created().len() == 1);
        let made = lab.created().remove(0);
        assert_ne!(made, first, "{run}");
        lab.has(&[(&made, "/dev/xvdf")], &run);
        lab.server.reset_calls();
        let run = lab.run(&text, fast());
        run.ends(0, &[]);
        assert!(lab.server.writes().is_empty(), "{run}");
    }
}

#[test]
fn a_fleet_over_zones_finds_its_data_in_each() {
    let lab = Lab::new();
    lab.snapshot(1, 60);
    let zones = ["eu-west-1b", "eu-west-1c", "eu-west-1b"];
    let all = zones.map(|zone| lab.add_instance(InstanceSpec { zone: zone.into(), ..InstanceSpec::default() }));
    lab.volume(VolumeSpec::pool("d", "p"));
    let runs = [0, 1, 2].map(|i| lab.start(&config(&ps("ps", "")), once().on(&all[i])));
    for run in runs {
        run.wait(&lab).ends(0, &["from snap-00000000000000001"]);
    }
    assert!(all.iter().all(|i| lab.attached(i).len() == 1));
    assert_eq!(lab.created().len(), 3);
}

fn world() -> Lab {
    let lab = Lab::new();
    lab.snapshot(1, 60);
    lab
}

#[test]
fn a_run_killed_at_any_call_or_write_of_the_journal_is_settled_by_the_next() {
    let good = config(&ps("psc", ", create: { Size: 30 }"));
    let bad = config(&directive("psc", "/dev/xvdf", r#""pool-name": "p", create: { Size: 30 }"#, "exit 7"));
    let clean = {
        let lab = world();
        let before = Picture::of(&lab);
        lab.run(&good, once()).ends(0, &[]);
        Clean { before, after: Picture::of(&lab), seen: lab.seen(), calls: keyed(&lab.server.calls()) }
    };
    let doomed = {
        let lab = world();
        lab.run(&bad, fast()).ends(1, &[]);
        keyed(&lab.server.calls())
    };
    let ends = |lab: &Lab, what: &str, lost: bool| {
        if lost {
            lab.lose_journal();
        }
        let run = lab.run(&good, fast());
        run.ends(0, &["ready: d started"]);
        same(&Picture::of(lab), &clean.after, Likeness::Strict, what, &run);
        lab.server.reset_calls();
        let run = lab.run(&good, fast());
        run.ends(0, &[]);
        let wrote = lab.server.writes().iter().any(|c| c.action != "DescribeSnapshots");
        assert!(!wrote, "{what}: and then a run that writes {run}");
    };
    let mut kills = Vec::new();
    for (text, calls) in [(&good, &clean.calls), (&bad, &doomed)] {
        for call in calls {
            kills.extend([(false, false), (true, false), (false, true), (true, true)].map(|k| (text, call, k)));
        }
    }
    let came = crate::matrix::all(&kills, |(text, call, (after, lost))| {
        let lab = world();
        let came = crate::matrix_kills::kill_how(&lab, text, fast(), &call.action, call.nth, *after);
        ends(&lab, &format!("{call:?} {after} {lost}"), *lost);
        came
    });
    // Looks that wait for something differ in number from run to run.
    let hit = came.iter().filter(|c| **c).count();
    assert!(hit * 10 >= came.len() * 8, "{hit} of {}", came.len());
    let steps = [(&good, 0), (&bad, 1)].map(|(text, code)| {
        crate::matrix::each_step(|step| {
            let lab = world();
            let run = lab.run(text, fast().env("EC2FLEETD_DIE", &step.to_string()));
            if run.code == code {
                return false;
            }
            assert_eq!(run.code, 137, "{step} {run}");
            std::thread::sleep(std::time::Duration::from_millis(20));
            ends(&lab, &format!("step {step}"), step % 2 == 0);
            true
        })
    });
    assert!(steps.iter().all(|s| *s >= 6), "{steps:?}");
    println!("{} kills at calls, {steps:?} at writes of the journal", came.len());
}

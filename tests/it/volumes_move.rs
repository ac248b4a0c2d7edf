//! Source `m`: a volume of another zone is moved here, once, and whatever happens there are no two live copies.

use crate::disks::{config, directive, id, volume};
use crate::fakeaws::{Fault, FaultKind, InstanceSpec, VolumeSpec};
use crate::lab::{How, Lab, Run, once};

const ELSEWHERE: &str = "eu-west-1b";

fn pm(sources: &str, more: &str) -> String {
    volume(sources, "/dev/xvdf", &format!(r#""pool-name": "p"{more}"#))
}

pub(crate) fn good() -> String {
    config(&pm("pm", ""))
}

/// A lab with free volume 1 of the pool in another zone.
pub(crate) fn lab() -> Lab {
    let lab = Lab::new();
    lab.knobs(|k| k.snapshot_gap_ms = 0);
    elsewhere(&lab, 1);
    lab
}

pub(crate) fn elsewhere(lab: &Lab, n: u32) -> String {
    lab.volume(VolumeSpec::pool("d", "p").id(&id(n)).zone(ELSEWHERE).tag("Name", "world"))
}

pub(crate) fn fast() -> How {
    once().rate(20)
}

fn snapshots(lab: &Lab) -> usize {
    lab.server.world().snapshots.len()
}

/// The volumes of the pool that may be claimed: neither superseded, nor marked, nor in transit, nor going.
fn offered(lab: &Lab) -> Vec<String> {
    let w = lab.server.world();
    let hidden = ["user:ec2fd.superseded-by", "user:ec2fd.moving", "user:ec2fd.in-transit"];
    let live = |v: &&crate::fakeaws::volumes::Volume| {
        ["available", "in-use"].contains(&v.state.as_str()) && !hidden.iter().any(|t| v.tags.contains_key(*t))
    };
    w.volumes.values().filter(live).filter(|v| v.tags.contains_key("user:ec2fd.domain")).map(|v| v.id.clone()).collect()
}

/// Volume 1 was moved here: exactly one copy is live, attached here, and nothing else is left.
#[track_caller]
pub(crate) fn is_moved(lab: &Lab, run: &Run) -> String {
    lab.until("the end of what is deleted", || lab.server.world().volumes.values().all(|v| v.state != "deleting"));
    let made = lab.created();
    assert_eq!(made.len(), 1, "{run}");
    lab.has(&[(&made[0], "/dev/xvdf")], run);
    assert_eq!(lab.tag(&id(1), "superseded-by"), made[0], "{run}");
    assert_eq!(lab.tag(&id(1), "moving"), "", "{run}");
    assert_eq!((lab.tag(&made[0], "lineage"), lab.tag(&made[0], "generation")), (id(1), "1".to_owned()), "{run}");
    assert_eq!((offered(lab), snapshots(lab)), (made.clone(), 0), "{run}");
    assert_eq!(
        lab.tag_keys(&made[0]),
        ["domain", "generation", "lineage", "owner", "pool-name", "ts-created", "ts-used"],
        "{run}"
    );
    made[0].clone()
}

/// Everything is as it was: volume 1 is free and offered.
#[track_caller]
fn is_as_before(lab: &Lab, run: &Run) {
    lab.until("the end of what is deleted", || lab.server.world().volumes.values().all(|v| v.state != "deleting"));
    lab.nothing_left(run);
    assert_eq!(lab.tag_keys(&id(1)), ["domain", "pool-name"], "{run}");
    assert_eq!(snapshots(lab), 0, "{run}");
}

#[test]
fn a_free_volume_of_another_zone_is_moved_here() {
    let lab = lab();
    {
        let mut w = lab.server.world();
        w.knobs.snapshot_ms = 600;
        w.volumes.get_mut(&id(1)).unwrap().tags.insert("user:ec2fd.format".into(), "if-blank".into());
    }
    let run = lab.run(&good(), fast());
    run.ends(0, &["source p: pool 'p' has no volume in eu-west-1a", "moving vol-", "from eu-west-1b to eu-west-1a"]);
    run.ends(0, &["waiting for the snapshot snap-", " is superseded by "]);
    let made = is_moved(&lab, &run);
    assert_eq!(lab.seen(), [format!("{made} true m p")]);
    let w = lab.server.world();
    let v = w.volume(&made).unwrap();
    assert_eq!((v.zone.as_str(), v.size, v.kind.as_str()), ("eu-west-1a", 10, "gp3"));
    // Its own tags go along; the consent to format does not.
    assert_eq!(v.tags["Name"], "world");
    assert!(!v.tags.contains_key("user:ec2fd.format") && w.volume(&id(1)).unwrap().state == "available");
    drop(w);
    // Again, nothing changes; and nobody in the old zone gets the old one.
    lab.server.reset_calls();
    let run = lab.run(&good(), fast());
    run.ends(0, &[]);
    assert!(lab.server.writes().is_empty(), "{run}");
    let other = lab.add_instance(InstanceSpec { zone: ELSEWHERE.into(), ..InstanceSpec::default() });
    lab.run(&good(), fast().on(&other)).ends(1, &["p: pool 'p' has no volume in eu-west-1b; m: all 1 volumes of pool"]);
    assert!(lab.attached(&other).is_empty());
    // By its id it is to be had, and that is said.
    let x = config(&volume("x", "/dev/xvdf", &format!(r#""volume-id": "{}""#, id(1))));
    lab.run(&x, fast().on(&other)).ends(0, &[&format!("it has become {made}, and its own data is that of before")]);
}

#[test]
fn it_moves_back_and_only_the_last_generation_counts() {
    let lab = lab();
    let run = lab.run(&good(), fast());
    let second = is_moved(&lab, &run);
    // The first instance ends; its successor is in the old zone.
    {
        let mut w = lab.server.world();
        let v = w.volumes.get_mut(&second).unwrap();
        v.attachments.clear();
        v.state = "available".into();
    }
    let other = lab.add_instance(InstanceSpec { zone: ELSEWHERE.into(), ..InstanceSpec::default() });
    let run = lab.run(&good(), fast().on(&other));
    run.ends(0, &["moving vol-"]);
    let third = lab.attached(&other)[0].0.clone();
    assert!(third != second && third != id(1), "{run}");
    assert_eq!((lab.tag(&third, "lineage"), lab.tag(&third, "generation")), (id(1), "2".to_owned()));
    assert_eq!(lab.tag(&second, "superseded-by"), third);
    assert_eq!((offered(&lab), snapshots(&lab)), (vec![third], 0), "{run}");
}

#[test]
fn without_one_to_move_the_next_source_is_tried() {
    let lab = Lab::new();
    let run = lab.run(&config(&pm("pmc", ", create: { Size: 3 }")), fast());
    run.ends(0, &["source m: pool 'p' has no volume in another zone"]);
    assert_eq!(lab.seen(), [format!("{} true c p", lab.created()[0])]);
    // All in use elsewhere; or moved by another; or superseded.
    let lab = Lab::new();
    let other = lab.add_instance(InstanceSpec { zone: ELSEWHERE.into(), ..InstanceSpec::default() });
    let used = elsewhere(&lab, 1);
    lab.take(&used, &other, "/dev/xvdf");
    let run = lab.run(&good(), fast());
    run.ends(1, &["m: all 1 volumes of pool 'p' in other zones are taken"]);
    let moving = elsewhere(&lab, 2);
    let now = lab.server.world().wall();
    let text = now.format(&time::format_description::well_known::Rfc3339).unwrap();
    lab.server
        .world()
        .volumes
        .get_mut(&moving)
        .unwrap()
        .tags
        .insert("user:ec2fd.moving".into(), format!("i-0other {text} move-x"));
    lab.run(&good(), fast()).ends(1, &["m: the 2 volumes of pool 'p' in other zones are taken, or (1) moved"]);
    assert_eq!((lab.count("CreateSnapshot"), lab.count("CreateTags")), (0, 0));
    // Nor does p of its own zone take it, unless the mark is old.
    let there = lab.add_instance(InstanceSpec { zone: ELSEWHERE.into(), ..InstanceSpec::default() });
    let p = config(&pm("p", ""));
    lab.run(&p, fast().on(&there)).ends(1, &["still being made by another instance"]);
    let old = format!("i-0other {} move-x", text.replacen("20", "19", 1));
    lab.server.world().volumes.get_mut(&moving).unwrap().tags.insert("user:ec2fd.moving".into(), old);
    lab.run(&p, fast().on(&there)).ends(0, &[]);
    assert_eq!(lab.attached(&there)[0].0, moving);
}

#[test]
fn an_old_mark_of_a_move_that_was_finished_is_not_believed() {
    let lab = lab();
    let copy = VolumeSpec::pool("d", "p").tag("user:ec2fd.lineage", &id(1)).tag("user:ec2fd.generation", "1");
    let copy = lab.volume(copy.zone("eu-west-1c"));
    let mark = "i-0dead 2026-01-01T00:00:00Z move-x";
    lab.server.world().volumes.get_mut(&id(1)).unwrap().tags.insert("user:ec2fd.moving".into(), mark.into());
    let there = lab.add_instance(InstanceSpec { zone: ELSEWHERE.into(), ..InstanceSpec::default() });
    let run = lab.run(&config(&pm("p", "")), fast().on(&there));
    run.ends(1, &["has become"]);
    assert_eq!(lab.tag(&id(1), "superseded-by"), copy);
    assert!(lab.attached(&there).is_empty() && lab.count("AttachVolume") == 0, "{run}");
}

#[test]
fn after_a_command_that_failed_all_is_as_before() {
    let lab = lab();
    let bad = config(&directive("pm", "/dev/xvdf", r#""pool-name": "p""#, "exit 7"));
    for _ in 0..2 {
        let run = lab.run(&bad, fast());
        run.ends(1, &["exit code 7", "is not moved"]);
        is_as_before(&lab, &run);
    }
    let run = lab.run(&good(), fast());
    run.ends(0, &[]);
    is_moved(&lab, &run);
}

#[test]
fn what_is_denied_is_named_and_rolled_back() {
    for (action, text) in [
        ("CreateSnapshot", "cannot make a snapshot of vol-00000000000000001: "),
        ("DescribeSnapshots", "cannot look for the snapshot with snapshot-id"),
        ("CreateVolume", "cannot create a volume from snap-"),
        ("CreateTags", "cannot mark vol-00000000000000001 as being moved: "),
    ] {
        let lab = lab();
        lab.knobs(|k| k.snapshot_ms = 500);
        lab.server.world().deny(&format!("EC2:{action}"));
        let run = lab.run(&config(&pm("pmc", ", create: { Size: 30 }")), fast());
        let code = if action == "DescribeSnapshots" { 3 } else { 1 };
        run.ends(code, &[text, &format!("allow ec2:{action} for this instance's role")]);
        assert!(lab.created().is_empty(), "{run}");
        lab.server.world().permit(&format!("EC2:{action}"));
        let run = lab.run(&good(), fast());
        run.ends(0, &[]);
        is_moved(&lab, &run);
    }
    // What cannot be deleted is told, and deleted by the next run that may.
    let lab = lab();
    lab.server.world().deny("EC2:DeleteSnapshot");
    let run = lab.run(&good(), fast());
    run.ends(0, &["could not be finished: cannot delete snap-", "allow ec2:DeleteSnapshot"]);
    assert_eq!((offered(&lab).len(), snapshots(&lab)), (1, 1), "{run}");
    lab.server.world().permit("EC2:DeleteSnapshot");
    let run = lab.run(&good(), fast());
    run.ends(0, &[]);
    is_moved(&lab, &run);
}

#[test]
fn passing_faults_and_lost_answers_lead_to_one_snapshot_and_one_copy() {
    for action in ["CreateTags", "CreateSnapshot", "DescribeSnapshots", "CreateVolume", "DeleteSnapshot"] {
        for kind in [FaultKind::ResetAfter, FaultKind::ErrorAfter500, FaultKind::Truncated, FaultKind::Throttle] {
            let lab = lab();
            lab.knobs(|k| k.snapshot_ms = 300);
            lab.fault(Fault::first(action, 1, kind.clone()));
            let run = lab.run(&good(), fast());
            run.ends(0, &[]);
            is_moved(&lab, &run);
            let calls = lab.server.calls_of("CreateSnapshot");
            let made = calls.iter().filter(|c| c.fault.is_none() || kind != FaultKind::Throttle).count();
            assert_eq!(made, 1, "{action} {kind:?} {run}");
        }
    }
}

#[test]
fn a_snapshot_that_fails_or_takes_too_long_is_deleted() {
    let lab = lab();
    lab.knobs(|k| k.snapshot_fails = true);
    let run = lab.run(&good(), fast());
    run.ends(1, &["its snapshot snap-", "failed"]);
    is_as_before(&lab, &run);
    lab.knobs(|k| (k.snapshot_fails, k.snapshot_ms) = (false, 1 << 40));
    let run = lab.run(&good().replacen('{', "{ timeout: 60, ", 1), fast());
    run.ends(1, &["waiting for the snapshot snap-", "the time for it is over"]);
    is_as_before(&lab, &run);
}

#[test]
fn a_volume_that_is_taken_during_the_move_stays_the_only_one() {
    // While the mark settles, while the snapshot is made, and after that.
    for moment in ["CreateTags", "CreateSnapshot", "CreateVolume"] {
        let lab = lab();
        lab.knobs(|k| (k.snapshot_ms, k.creating_ms) = (300, 300));
        let other = lab.add_instance(InstanceSpec { zone: ELSEWHERE.into(), ..InstanceSpec::default() });
        let run = lab.start(&good(), fast());
        lab.until(moment, || lab.server.calls_of(moment).iter().any(|c| c.status == 200));
        lab.take(&id(1), &other, "/dev/xvdf");
        let run = run.wait(&lab);
        run.ends(1, &[&format!("is not moved: {other} took it meanwhile"), "m: all 1 volumes of pool 'p'"]);
        lab.until("the end of what is deleted", || lab.server.world().volumes.values().all(|v| v.state != "deleting"));
        lab.nothing_left(&run);
        assert_eq!((lab.tag_keys(&id(1)), snapshots(&lab)), (vec!["domain".to_owned(), "pool-name".to_owned()], 0));
    }
}

#[test]
fn taken_while_the_commands_work_on_the_copy_it_is_not_superseded() {
    let lab = lab();
    let other = lab.add_instance(InstanceSpec { zone: ELSEWHERE.into(), ..InstanceSpec::default() });
    let text = config(&directive("pm", "/dev/xvdf", r#""pool-name": "p""#, crate::disks::HOLD));
    let run = lab.start(&text, fast());
    lab.until_file("first");
    lab.take(&id(1), &other, "/dev/xvdf");
    std::fs::write(lab.dir.join("go"), "").unwrap();
    let run = run.wait(&lab);
    run.ends(1, &[&format!("cannot take the place of what it is a copy of: {other} took it meanwhile")]);
    lab.until("the end of what is deleted", || lab.server.world().volumes.values().all(|v| v.state != "deleting"));
    assert_eq!((lab.created(), snapshots(&lab)), (Vec::<String>::new(), 0), "{run}");
    assert_eq!(lab.tag_keys(&id(1)), ["domain", "pool-name"], "{run}");
}

#[test]
fn taken_after_the_commit_both_are_named_and_the_old_one_is_not_offered() {
    let lab = lab();
    let other = lab.add_instance(InstanceSpec { zone: ELSEWHERE.into(), ..InstanceSpec::default() });
    let exec = crate::kit::on(&["started"], &[crate::kit::sh(crate::disks::HOLD)]);
    let text = config(&pm("pm", "")).replace("d: {", &format!("d: {{ exec: [{exec}], "));
    let run = lab.start(&text, fast());
    lab.until_file("first");
    lab.take(&id(1), &other, "/dev/xvdf");
    std::fs::write(lab.dir.join("go"), "").unwrap();
    let run = run.wait(&lab);
    run.ends(
        0,
        &["could not be finished", &format!("{other} has attached vol-00000000000000001, and both are in use")],
    );
    // The other one ends: its volume is not offered, and the next run of ours finishes the move.
    lab.free(&id(1));
    lab.run(&config(&pm("p", "")), fast().on(&other)).ends(1, &[]);
    assert!(lab.attached(&other).is_empty());
    let run = lab.run(&text, fast());
    run.ends(0, &["is superseded by"]);
    is_moved(&lab, &run);
}

#[test]
fn of_several_movers_one_wins() {
    for at_once in [false, true] {
        let lab = lab();
        lab.knobs(|k| (k.latency_ms, k.snapshot_ms) = (if at_once { 20 } else { 5 }, 200));
        let zones = ["eu-west-1a", "eu-west-1c", "eu-west-1a", "eu-west-1c"];
        let all = zones.map(|zone| lab.add_instance(InstanceSpec { zone: zone.into(), ..InstanceSpec::default() }));
        let mut runs = Vec::new();
        for (i, me) in all.iter().enumerate() {
            runs.push(lab.start(&good(), fast().on(me)));
            if !at_once {
                std::thread::sleep(std::time::Duration::from_millis(60 * i as u64));
            }
        }
        let ends: Vec<Run> = runs.into_iter().map(|r| r.wait(&lab)).collect();
        let won = ends.iter().filter(|r| r.code == 0).count();
        let text: Vec<String> = ends.iter().map(|r| r.log.clone()).collect();
        assert_eq!(won, 1, "{}", text.join("\n"));
        lab.until("the end of what is deleted", || lab.server.world().volumes.values().all(|v| v.state != "deleting"));
        let made = lab.created();
        assert_eq!((made.len(), snapshots(&lab)), (1, 0), "{}", text.join("\n"));
        assert_eq!((offered(&lab), lab.tag(&id(1), "superseded-by")), (made.clone(), made[0].clone()));
    }
}

#[test]
fn what_a_dead_mover_left_is_cleaned_up_by_the_next() {
    let lab = lab();
    let other = lab.add_instance(InstanceSpec { zone: "eu-west-1c".into(), ..InstanceSpec::default() });
    let mark = format!("{other} 2026-01-01T00:00:00Z move-dead");
    {
        let mut w = lab.server.world();
        w.volumes.get_mut(&id(1)).unwrap().tags.insert("user:ec2fd.moving".into(), mark);
        let spec = crate::fakeaws::SnapshotSpec::new(10).of(&id(1)).tag("user:ec2fd.moving", "move-dead");
        w.add_snapshot(spec.tag("user:ec2fd.domain", "d"));
        let copy = VolumeSpec::pool("d", "p").tag("user:ec2fd.lineage", &id(1)).tag("user:ec2fd.generation", "1");
        let copy = copy.tag("user:ec2fd.in-transit", "t").tag("user:ec2fd.owner", &other).zone("eu-west-1c").id(&id(7));
        w.add_volume(copy);
        w.volumes.get_mut(&id(7)).unwrap().created -= time::Duration::hours(2);
    }
    // What is in transit is nobody's, however old, while what it is a copy of is there.
    lab.run(&config(&pm("p", "")), fast().on(&other)).ends(1, &[]);
    let run = lab.run(&good(), fast());
    run.ends(0, &[]);
    is_moved(&lab, &run);
    assert_eq!(lab.state(&id(7)), "gone", "{run}");
}

#[test]
fn movers_of_a_pool_get_a_volume_each() {
    let lab = lab();
    elsewhere(&lab, 2);
    elsewhere(&lab, 3);
    lab.knobs(|k| (k.latency_ms, k.snapshot_ms) = (10, 200));
    let all = [(); 3].map(|()| lab.add_instance(InstanceSpec { zone: "eu-west-1c".into(), ..InstanceSpec::default() }));
    let runs = all.each_ref().map(|me| lab.start(&good(), fast().on(me)));
    let ends = runs.map(|r| r.wait(&lab));
    for end in &ends {
        end.ends(0, &[]);
    }
    lab.until("the end of what is deleted", || lab.server.world().volumes.values().all(|v| v.state != "deleting"));
    assert_eq!((lab.created().len(), offered(&lab).len(), snapshots(&lab)), (3, 3, 0));
    let by: std::collections::BTreeSet<String> = (1..=3).map(|n| lab.tag(&id(n), "superseded-by")).collect();
    assert_eq!(by, lab.created().into_iter().collect());
}

#[test]
fn reads_that_lag_behind_do_not_end_a_move() {
    let lab = lab();
    lab.knobs(|k| (k.stale_ms, k.snapshot_invisible_ms, k.snapshot_ms) = (300, 300, 400));
    let run = lab.run(&good(), fast());
    run.ends(0, &[]);
    lab.knobs(|k| k.stale_ms = 0);
    is_moved(&lab, &run);
    assert_eq!(lab.count("CreateSnapshot"), 1, "{run}");
}

#[test]
fn the_permissions_of_the_readme_suffice() {
    let lab = lab();
    let ec2 = ["DescribeVolumes", "AttachVolume", "DetachVolume", "CreateTags", "DeleteTags", "CreateVolume"];
    let more = ["DescribeSnapshots", "CreateSnapshot", "DeleteSnapshot"];
    let all: Vec<String> = ec2.iter().chain(&more).map(|a| format!("EC2:{a}")).collect();
    lab.server.world().allow_only(all.iter().map(String::as_str));
    let run = lab.run(&good(), fast());
    run.ends(0, &[]);
    is_moved(&lab, &run);
    assert!(!run.log.contains("allow ec2:"), "{run}");
}

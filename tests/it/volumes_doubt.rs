//! What does not prove that a source has nothing: a volume that is broken, one answer that is empty, a mover that is dead.
//! In its place nothing blank and nothing older is made.

use crate::disks::{config, id, pool, volume};
use crate::fakeaws::{Fault, FaultKind, InstanceSpec, Nth, SnapshotSpec, VolumeSpec};
use crate::lab::{How, Lab, Run, once};

fn fast() -> How {
    once().rate(20)
}

/// A directive of pool `p` with these sources that can do all of them.
fn all(source: &str) -> String {
    config(&volume(
        source,
        "/dev/xvdf",
        &format!(r#""volume-id": "{}", "pool-name": "p", create: {{ Size: 10 }}"#, id(1)),
    ))
}

#[track_caller]
fn nothing_made(lab: &Lab, run: &Run) {
    assert_eq!(lab.count("CreateVolume"), 0, "{run}");
    lab.nothing_left(run);
    assert!(lab.seen().is_empty(), "{run}");
}

fn broken(state: &str) -> VolumeSpec {
    VolumeSpec { state: Some(state.into()), ..VolumeSpec::pool("d", "p").id(&id(1)) }
}

#[test]
fn a_broken_volume_of_the_pool_fails_the_directive_as_one_by_id_does() {
    for (state, name) in [("error", "error"), ("optimizing", "unknown")] {
        for source in ["x", "xc", "p", "pc", "pxc", "ps", "psc", "pmc"] {
            let lab = Lab::new();
            lab.volume(broken(state));
            lab.server.world().add_snapshot(SnapshotSpec::pool("d", "p").of(&id(1)));
            let run = lab.run(&all(source), fast());
            run.ends(1, &[&format!("cannot use {}: its state is {name}", id(1))]);
            nothing_made(&lab, &run);
        }
        // Others of the pool are as good as ever.
        let lab = Lab::new();
        lab.volume(broken(state));
        let free = lab.volume(VolumeSpec::pool("d", "p"));
        let run = lab.run(&all("pc"), fast());
        run.ends(0, &[]);
        lab.has(&[(&free, "/dev/xvdf")], &run);
    }
}

#[test]
fn a_broken_volume_in_another_zone_is_no_reason_for_a_blank_one() {
    for (state, name) in [("error", "error"), ("optimizing", "unknown")] {
        let lab = Lab::new();
        lab.volume(broken(state).zone("eu-west-1b"));
        let run = lab.run(&all("pmc"), fast());
        run.ends(1, &[&format!("cannot use {}: its state is {name}", id(1))]);
        nothing_made(&lab, &run);
    }
}

#[test]
fn a_broken_volume_that_never_was_finished_is_no_data() {
    let lab = Lab::new();
    let vol = lab.volume(broken("error").tag("user:ec2fd.in-transit", "t"));
    let run = lab.run(&config(&pool("pc", "/dev/xvdf")), fast());
    run.ends(0, &[]);
    assert_eq!(lab.seen(), [format!("{} true c p", lab.created()[0])], "{run}");
    assert_eq!(lab.state(&vol), "error");
}

/// Each source has something, and the first answer about it is empty.
#[test]
fn one_empty_answer_does_not_lead_to_the_next_source() {
    for (source, list, got) in [
        ("xc", "DescribeVolumes", "x"),
        ("xs", "DescribeVolumes", "x"),
        ("pc", "DescribeVolumes", "p"),
        ("ps", "DescribeVolumes", "p"),
        ("psc", "DescribeVolumes", "p"),
        ("pmc", "DescribeVolumes", "p"),
        ("sc", "DescribeSnapshots", "s"),
        ("scp", "DescribeSnapshots", "s"),
    ] {
        let lab = Lab::new();
        lab.volume(VolumeSpec::pool("d", "p").id(&id(1)));
        let snapshot = lab.server.world().add_snapshot(SnapshotSpec::pool("d", "p").of(&id(1)));
        lab.fault(Fault::first(list, if source == "xc" || source == "xs" { 2 } else { 1 }, FaultKind::Empty));
        let run = lab.run(&all(source), fast());
        run.ends(0, &["looking again in 3 s"]);
        let made = lab.created();
        assert_eq!(made.len(), usize::from(got == "s"), "{source}\n{run}");
        let vol = made.first().cloned().unwrap_or(id(1));
        lab.has(&[(&vol, "/dev/xvdf")], &run);
        assert_eq!(lab.seen()[0].split(' ').nth(2), Some(got), "{run}");
        if got == "s" {
            assert_eq!(lab.server.world().volume(&vol).unwrap().snapshot.as_ref(), Some(&snapshot), "{run}");
        }
    }
}

/// The pool has nothing here; in another zone it has something, and the list of that is empty once.
#[test]
fn one_empty_answer_about_other_zones_does_not_lead_to_a_blank_volume() {
    for source in ["pmc", "psmc"] {
        let lab = Lab::new();
        lab.knobs(|k| k.snapshot_gap_ms = 0);
        lab.volume(VolumeSpec::pool("d", "p").id(&id(1)).zone("eu-west-1b"));
        // After the first look of the pool here: the first one of the pool elsewhere.
        lab.fault(Fault::new("DescribeVolumes", Nth::Only(2), FaultKind::Empty));
        let run = lab.run(&config(&pool(source, "/dev/xvdf")), fast());
        run.ends(0, &["looking again in 3 s", "is superseded by"]);
        assert_eq!(lab.seen()[0].split(' ').nth(2), Some("m"), "{source}\n{run}");
    }
}

/// What is seen twice to be absent is: then nothing is asked a third time.
#[test]
fn two_empty_answers_some_seconds_apart_are_believed() {
    for (source, lists) in [("pc", ["DescribeVolumes"].as_slice()), ("psc", &["DescribeVolumes", "DescribeSnapshots"])]
    {
        let lab = Lab::new();
        let run = lab.run(&config(&pool(source, "/dev/xvdf")), fast());
        run.ends(0, &["looking again in 3 s"]);
        assert_eq!(run.log.matches("looking again in 3 s").count(), 1, "{run}");
        assert_eq!(lab.seen(), [format!("{} true c p", lab.created()[0])], "{run}");
        let calls = lab.server.calls();
        let made = calls.iter().position(|c| c.action == "CreateVolume").unwrap();
        for list in lists {
            assert_eq!(calls[..made].iter().filter(|c| c.action == *list).count(), 2, "{run}");
        }
    }
}

#[test]
fn what_is_found_or_taken_by_others_costs_no_second_look() {
    // Found.
    let lab = Lab::new();
    lab.volume(VolumeSpec::pool("d", "p").id(&id(1)));
    let run = lab.run(&all("pc"), fast());
    run.ends(0, &[]);
    let calls = lab.server.calls();
    let claim = calls.iter().position(|c| c.action == "AttachVolume").unwrap();
    assert_eq!(calls[..claim].iter().filter(|c| c.action == "DescribeVolumes").count(), 1, "{run}");
    assert!(!run.log.contains("looking again"), "{run}");
    // Seen, and another's.
    let lab = Lab::new();
    let other = lab.neighbour();
    lab.volume(VolumeSpec::pool("d", "p").id(&id(1)).attached(&other, "/dev/xvdf"));
    let run = lab.run(&config(&pool("pc", "/dev/xvdf")), fast());
    run.ends(0, &["all 1 volumes of pool 'p' in eu-west-1a are taken"]);
    assert!(!run.log.contains("looking again"), "{run}");
    // Nothing would be made, or nothing was asked before.
    for source in ["p", "c"] {
        let lab = Lab::new();
        let run = lab.run(&config(&pool(source, "/dev/xvdf")), fast());
        run.ends(i32::from(source == "p"), &[]);
        assert!(!run.log.contains("looking again"), "{run}");
    }
}

/// The first look of a second run is empty: what it has is found by the client token.
#[test]
fn one_empty_answer_does_not_give_a_second_volume_to_who_has_one() {
    for device in ["/dev/xvdf", ""] {
        let lab = Lab::new();
        let text = config(&pool("c", device));
        lab.run(&text, fast()).ends(0, &[]);
        let made = lab.created();
        lab.fault(Fault::nth("DescribeVolumes", 1, FaultKind::Empty));
        let run = lab.run(&text, fast());
        run.ends(0, &[]);
        assert_eq!(lab.created(), made, "{run}");
        assert_eq!(lab.seen(), [format!("{} true c p", made[0]), format!("{} false c p", made[0])], "{run}");
    }
}

/// Volume 1 is in another zone (or in this one), marked by a mover; the mover's id.
fn marked(zone: &str, state: &str) -> (Lab, String) {
    let lab = Lab::new();
    lab.knobs(|k| k.snapshot_gap_ms = 0);
    let mover = lab.add_instance(InstanceSpec { zone: "eu-west-1c".into(), ..InstanceSpec::default() });
    {
        let mut w = lab.server.world();
        w.instances.get_mut(&mover).unwrap().state = state.into();
        let now = crate::fakeaws::text::iso(w.wall() - time::Duration::minutes(5));
        let mark = format!("{mover} {now} move-0123");
        w.add_volume(VolumeSpec::pool("d", "p").id(&id(1)).zone(zone).tag("user:ec2fd.moving", &mark));
    }
    (lab, mover)
}

#[test]
fn a_mover_that_is_terminated_counts_no_more() {
    let (lab, _) = marked("eu-west-1b", "terminated");
    let run = lab.run(&config(&pool("pmc", "/dev/xvdf")), fast());
    run.ends(0, &[]);
    assert_eq!(lab.seen()[0].split(' ').nth(2), Some("m"), "{run}");
    assert_eq!(lab.tag(&id(1), "superseded-by"), lab.created()[0], "{run}");
    assert_eq!(lab.created().len(), 1, "{run}");

    let (lab, _) = marked("eu-west-1a", "terminated");
    let run = lab.run(&config(&pool("pmc", "/dev/xvdf")), fast());
    run.ends(0, &[]);
    lab.has(&[(&id(1), "/dev/xvdf")], &run);
    assert_eq!(lab.count("CreateVolume"), 0, "{run}");
}

#[test]
fn a_mover_that_lives_or_of_which_nothing_is_known_keeps_what_it_moves() {
    for zone in ["eu-west-1a", "eu-west-1b"] {
        for state in ["running", "stopped", "shutting-down"] {
            let (lab, _) = marked(zone, state);
            let run = lab.run(&config(&pool("pmc", "/dev/xvdf")), fast());
            run.ends(0, &[]);
            assert_eq!(lab.seen()[0].split(' ').nth(2), Some("c"), "{state}\n{run}");
            assert!(lab.tag(&id(1), "moving").ends_with("move-0123"), "{run}");
        }
        let (lab, _) = marked(zone, "terminated");
        lab.server.world().deny("EC2:DescribeInstances");
        let run = lab.run(&config(&pool("pmc", "/dev/xvdf")), fast());
        run.ends(0, &["ec2:DescribeInstances"]);
        assert_eq!(lab.seen()[0].split(' ').nth(2), Some("c"), "{run}");
        assert_eq!(lab.count("DescribeInstances"), 1, "{run}");
    }
}

/// Whether the mover lives is not known, and it might not: nothing blank comes in place of the data.
#[test]
fn a_mover_that_cannot_be_asked_about_fails_the_directive() {
    let (lab, _) = marked("eu-west-1b", "terminated");
    lab.fault(Fault::every("DescribeInstances", FaultKind::Throttle));
    let text = config(&pool("pmc", "/dev/xvdf")).replacen('{', "{ timeout: 60,", 1);
    let run = lab.run(&text, once().rate(60));
    run.ends(1, &["RequestLimitExceeded"]);
    nothing_made(&lab, &run);
}

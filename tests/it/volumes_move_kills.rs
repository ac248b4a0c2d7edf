//! Source `m` and SIGKILL: at each call and in and after each write of the journal, with the journal kept and lost. The
//! next run moves the volume to its end, and nothing is left.

use crate::disks::{config, directive, volume};
use crate::fakeaws::{InstanceSpec, VolumeSpec};
use crate::lab::Lab;
use crate::matrix::{all, each_step, keyed};
use crate::matrix_kills::kill_how;
use crate::volumes_move::{elsewhere, fast, good, is_moved, lab};

/// A transaction tag of what was made and not committed.
const TOKEN: &str = "ec2fd-0123456789012345678901234567890123456789";

fn bad() -> String {
    config(&directive("pm", "/dev/xvdf", r#""pool-name": "p""#, "exit 7"))
}

fn settled(lab: &Lab, lost: bool, what: &str) {
    if lost {
        lab.lose_journal();
    }
    let run = lab.run(&good(), fast());
    assert_eq!(run.code, 0, "{what} {run}");

    is_moved(lab, &run);
    lab.server.reset_calls();
    let run = lab.run(&good(), fast());
    run.ends(0, &[]);
    assert!(lab.server.writes().is_empty(), "{what}: and then a run that writes {run}");
}

#[test]
fn a_move_that_was_killed_at_any_call_is_finished_by_the_next_run() {
    let mut kills = Vec::new();
    for (text, code) in [(good(), 0), (bad(), 1)] {
        let lab = lab();
        lab.run(&text, fast()).ends(code, &[]);
        for call in keyed(&lab.server.calls()) {
            kills.extend([(false, false), (true, false), (false, true), (true, true)].map(|k| (code, call.clone(), k)));
        }
    }
    let came = all(&kills, |(code, call, (after, lost))| {
        let lab = lab();
        let text = if *code == 0 { good() } else { bad() };
        let came = kill_how(&lab, &text, fast(), &call.action, call.nth, *after);
        settled(&lab, *lost, &format!("{code} {call:?} after={after} lost={lost}"));
        came
    });
    let hit = came.iter().filter(|c| **c).count();
    println!("{hit} of {} kills came", came.len());
    assert!(hit * 10 >= came.len() * 8, "{hit} of {}", came.len());
}

#[test]
fn a_move_that_was_killed_at_any_write_of_the_journal_is_finished_by_the_next_run() {
    let cases = [(good(), 0, false), (good(), 0, true), (bad(), 1, false), (bad(), 1, true)];
    let steps = cases.map(|(text, code, lost)| {
        each_step(|step| {
            let lab = lab();
            let run = lab.run(&text, fast().env("EC2FLEETD_DIE", &step.to_string()));
            if run.code == code {
                return false;
            }
            assert_eq!(run.code, 137, "{step} {run}");
            std::thread::sleep(std::time::Duration::from_millis(20));
            settled(&lab, lost, &format!("step {step} {code} {lost}"));
            true
        })
    });
    println!("{steps:?} kills at writes of the journal");
    assert!(steps.iter().all(|s| *s >= 10), "{steps:?}");
}

#[test]
fn what_was_begun_is_put_back_where_it_is_not_wanted_any_more() {
    for action in ["CreateTags", "CreateSnapshot", "CreateVolume", "AttachVolume"] {
        let lab = lab();
        assert!(kill_how(&lab, &good(), fast(), action, 1, true), "{action}");
        // The config has no `m` now; and the pool has a volume here.
        let here = lab.pool_volume("d", "p");
        let device = if action == "AttachVolume" { "/dev/xvdg" } else { "/dev/xvdf" };
        let run = lab.run(&config(&volume("p", device, r#""pool-name": "p""#)), fast());
        run.ends(0, &[]);
        lab.until("the end of what is deleted", || lab.created().is_empty() || action == "AttachVolume");
        let old = crate::disks::id(1);
        assert_eq!(lab.tag_keys(&old), ["domain", "pool-name"], "{action} {run}");
        assert!(lab.server.world().snapshots.is_empty(), "{action} {run}");
        assert!(lab.attached(&lab.me).iter().any(|(v, _)| *v == here), "{action} {run}");
    }
    let lab = lab();
    elsewhere(&lab, 2);
    assert!(kill_how(&lab, &good(), fast(), "CreateSnapshot", 1, true));
    lab.pool_volume("d", "p");
    let run = lab.run(&good(), fast());
    run.ends(0, &["is not moved"]);
    assert!(lab.server.world().snapshots.is_empty() && lab.created().is_empty(), "{run}");
}

#[test]
fn the_snapshot_of_a_volume_that_was_deleted_meanwhile_is_the_last_copy_and_stays() {
    let old = crate::disks::id(1);
    let or_new = volume("pmc", "/dev/xvdf", r#""pool-name": "p", create: { Size: 30 }"#);
    // Somebody deletes the volume while it moves.
    for moment in ["CreateSnapshot", "CreateVolume"] {
        let lab = lab();
        lab.knobs(|k| (k.snapshot_ms, k.creating_ms) = (500, 500));
        let run = lab.start(&config(&or_new), fast());
        lab.until(moment, || lab.count(moment) > 0);
        lab.server.world().volumes.remove(&old);
        let run = run.wait(&lab);
        run.ends(1, &["has the last copy of its data: it is kept"]);
        assert_eq!(lab.server.world().snapshots.len(), 1, "{moment} {run}");
        assert!(lab.attached(&lab.me).is_empty(), "{moment}: a blank volume in place of the data {run}");
    }
    // Or while nothing runs here.
    for lost in [false, true] {
        let lab = lab();
        assert!(kill_how(&lab, &good(), fast(), "CreateSnapshot", 1, true));
        if lost {
            lab.lose_journal();
        }
        lab.server.world().volumes.remove(&old);
        lab.pool_volume("d", "p");
        let run = lab.run(&good(), fast());
        run.ends(0, &["has the last copy of its data: it is kept"]);
        assert_eq!(lab.server.world().snapshots.len(), 1, "{lost} {run}");
    }
}

#[test]
fn a_copy_that_its_maker_has_not_committed_supersedes_nothing() {
    let lab = lab();
    let (old, there) = (crate::disks::id(1), "eu-west-1b");
    let copy = VolumeSpec::pool("d", "p").tag("user:ec2fd.lineage", &old).tag("user:ec2fd.generation", "1");
    let copy = copy.tag("user:ec2fd.owner", "i-0other").tag("user:ec2fd.transc-id", TOKEN).zone("eu-west-1c");
    let copy = lab.volume(copy);
    let mark = |text: &str| {
        let mut w = lab.server.world();
        w.volumes.get_mut(&old).unwrap().tags.insert("user:ec2fd.moving".into(), text.into());
    };
    mark("i-0other 2026-01-01T00:00:00Z move-x");
    let other = lab.add_instance(InstanceSpec { zone: there.into(), ..InstanceSpec::default() });
    let p = config(&volume("p", "/dev/xvdf", r#""pool-name": "p""#));
    let run = lab.run(&p, fast().on(&other));
    // What it is a copy of is the data, and its mover is gone.
    run.ends(0, &[&format!("{copy}, a copy that no run finished, is kept and not used")]);
    assert_eq!(
        (lab.tag(&old, "superseded-by"), lab.attached(&other)[0].0.clone()),
        (String::new(), old.clone()),
        "{run}"
    );
    lab.free(&old);
    // Nor does one of two movers that lost, when it settles what it began.
    let here = lab.pool_volume("d", "p");
    mark(&format!("{} 2026-01-01T00:00:00Z move-y", lab.me));
    let run = lab.run(&good(), fast());
    run.ends(0, &[]);
    lab.has(&[(&here, "/dev/xvdf")], &run);
    assert_eq!(lab.tag(&old, "superseded-by"), "", "{run}");
    // Its maker puts it back: the old one is the data, and is offered again.
    lab.server.world().volumes.remove(&copy);
    mark("i-0other 2026-01-01T00:00:00Z move-x");
    lab.run(&p, fast().on(&other)).ends(0, &[]);
    assert_eq!(lab.attached(&other)[0].0, old);
}

#[test]
fn a_copy_that_cannot_be_given_up_stays_in_transit() {
    let lab = lab();
    assert!(kill_how(&lab, &good(), fast(), "AttachVolume", 1, true));
    let copy = lab.created()[0].clone();
    let here = lab.pool_volume("d", "p");
    lab.server.world().deny("EC2:CreateTags");
    let p = config(&volume("p", "/dev/xvdg", r#""pool-name": "p""#));
    let run = lab.run(&p, fast());
    run.ends(0, &["it stays in transit"]);
    assert!(!lab.tag(&copy, "in-transit").is_empty(), "{run}");
    lab.has(&[(&here, "/dev/xvdg")], &run);
    lab.server.world().permit("EC2:CreateTags");
    let run = lab.run(&p, fast());
    assert_eq!(lab.tag(&copy, "superseded-by"), crate::disks::id(1), "{run}");
}

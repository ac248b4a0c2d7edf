//! The same of copies: of a volume that moves, the copy counts from its commit on, and until then what it is a copy of.

use crate::disks::{HOLD, config, directive, id, volume};
use crate::fakeaws::{Fault, FaultKind, InstanceSpec};
use crate::kit::{on, sh};
use crate::lab::Lab;
use crate::volumes_move::{fast, good, lab};

const ELSEWHERE: &str = "eu-west-1b";
const P: &str = r#""pool-name": "p""#;

fn there(lab: &Lab) -> String {
    lab.add_instance(InstanceSpec { zone: ELSEWHERE.into(), ..InstanceSpec::default() })
}

fn an_hour_later(lab: &Lab) {
    let mut w = lab.server.world();
    w.volumes.values_mut().for_each(|v| v.created -= time::Duration::hours(1));
    for v in w.volumes.values_mut() {
        if let Some(mark) = v.tags.get_mut("user:ec2fd.moving") {
            let parts: Vec<&str> = mark.split(' ').collect();
            *mark = format!("{} 2026-01-01T00:00:00Z {}", parts[0], parts[2]);
        }
    }
}

/// D2: the copy's command fails; an instance in the same zone waits for the pool.
#[test]
fn a_copy_whose_command_failed_is_taken_by_nobody_and_supersedes_nothing() {
    let lab = lab();
    let other = lab.neighbour();
    lab.fault(Fault::first("DeleteVolume", 4, FaultKind::Throttle));
    let waits = config(&volume("p", "/dev/xvdf", &format!("{P}, wait: 100")));
    let waiting = lab.start(&waits, fast().on(&other));
    lab.until("its first look", || lab.count("DescribeVolumes") > 0);
    let run = lab.run(&config(&directive("pm", "/dev/xvdf", P, "exit 7")), fast());
    run.ends(1, &["exit code 7", "is not moved"]);
    let waited = waiting.wait(&lab);
    waited.ends(1, &[]);
    assert!(lab.attached(&other).is_empty(), "{waited}");
    lab.until("the end of what is deleted", || lab.server.world().volumes.values().all(|v| v.state != "deleting"));
    assert_eq!((lab.created(), lab.tag_keys(&id(1))), (Vec::new(), vec!["domain".into(), "pool-name".into()]), "{run}");
}

/// D3: its maker dies over it. In its zone nobody starts on it; in the zone of the original that is the data.
#[test]
fn a_copy_whose_maker_died_over_it_is_never_started_on() {
    let lab = lab();
    let (near, far) = (lab.neighbour(), there(&lab));
    let run = lab.start(&config(&directive("pm", "/dev/xvdf", P, HOLD)), fast());
    lab.until_file("first");
    let copy = lab.created().remove(0);
    run.signal("KILL");
    run.wait(&lab);
    lab.free(&copy);
    let p = config(&volume("p", "/dev/xvdf", P));
    for later in [false, true] {
        if later {
            an_hour_later(&lab);
        }
        let run = lab.run(&p, fast().on(&near));
        run.ends(1, &["still being made by another instance"]);
        assert!(lab.attached(&near).is_empty(), "{run}");
    }
    // Its mark is old, so that its mover is gone.
    let run = lab.run(&p, fast().on(&far));
    run.ends(0, &[&format!("{copy}, a copy that no run finished, is kept and not used")]);
    assert_eq!(lab.attached(&far)[0].0, id(1), "{run}");
    assert_eq!(lab.tag(&id(1), "superseded-by"), "", "{run}");
    assert_eq!(lab.tag(&copy, "superseded-by"), id(1), "{run}");
}

/// Where somebody has deleted the original, the copy is all that is left of its data.
#[test]
fn a_copy_whose_original_is_gone_is_used_after_an_hour() {
    let lab = lab();
    let near = lab.neighbour();
    let run = lab.start(&config(&directive("pm", "/dev/xvdf", P, HOLD)), fast());
    lab.until_file("first");
    let copy = lab.created().remove(0);
    run.signal("KILL");
    run.wait(&lab);
    lab.free(&copy);
    lab.server.world().volumes.remove(&id(1));
    let p = config(&volume("p", "/dev/xvdf", P));
    lab.run(&p, fast().on(&near)).ends(1, &["still being made by another instance"]);
    an_hour_later(&lab);
    let run = lab.run(&p, fast().on(&near));
    run.ends(0, &["of a volume that does not exist any more"]);
    assert_eq!(lab.attached(&near)[0].0, copy, "{run}");
}

/// Committed, and its maker is gone a moment later: the copy is the data, and the old volume is not.
#[test]
fn a_committed_copy_counts_though_its_maker_did_not_come_to_say_so() {
    let lab = lab();
    let (near, far) = (lab.neighbour(), there(&lab));
    let exec = on(&["started"], &[sh(HOLD)]);
    let run = lab.start(&good().replace("d: {", &format!("d: {{ exec: [{exec}], ")), fast());
    lab.until_file("first");
    let copy = lab.created().remove(0);
    run.signal("KILL");
    run.wait(&lab);
    lab.free(&copy);
    an_hour_later(&lab);
    let p = config(&volume("p", "/dev/xvdf", P));
    let run = lab.run(&p, fast().on(&far));
    run.ends(1, &[&format!("{} has become {copy}", id(1))]);
    assert!(lab.attached(&far).is_empty(), "{run}");
    let run = lab.run(&good(), fast().on(&near));
    run.ends(0, &[]);
    assert_eq!(lab.attached(&near)[0].0, copy, "{run}");
    // Whoever moves volumes of this pool finishes what the mover did not.
    assert_eq!(lab.tag(&id(1), "superseded-by"), copy, "{run}");
    assert_eq!((lab.tag(&id(1), "moving"), lab.server.world().snapshots.len()), (String::new(), 0), "{run}");
}

/// The same seen by an instance that only takes from the pool, and by one that has a volume of its own there.
#[test]
fn what_a_mover_left_is_finished_by_whoever_meets_it() {
    let lab = lab();
    let far = there(&lab);
    let exec = on(&["started"], &[sh(HOLD)]);
    let run = lab.start(&good().replace("d: {", &format!("d: {{ exec: [{exec}], ")), fast());
    lab.until_file("first");
    let copy = lab.created().remove(0);
    run.signal("KILL");
    run.wait(&lab);
    let own = crate::volumes_move::elsewhere(&lab, 2);
    an_hour_later(&lab);
    let run = lab.run(&config(&volume("p", "/dev/xvdf", P)), fast().on(&far));
    run.ends(0, &[]);
    assert_eq!(lab.attached(&far)[0].0, own, "{run}");
    if run.log.contains("has become") {
        assert_eq!(lab.tag(&id(1), "superseded-by"), copy, "{run}");
        assert_eq!((lab.tag(&id(1), "moving"), lab.server.world().snapshots.len()), (String::new(), 0), "{run}");
    }
}

/// A mover that is gone for an hour leaves a snapshot that is paid for.
#[test]
fn the_snapshot_of_a_mover_that_is_gone_is_deleted() {
    let lab = lab();
    let near = lab.neighbour();
    assert!(crate::matrix_kills::kill_how(&lab, &good(), fast(), "CreateSnapshot", 1, true));
    an_hour_later(&lab);
    // It has no use for the volume that was to be moved.
    lab.pool_volume("d", "p");
    let run = lab.run(&good(), fast().on(&near));
    run.ends(0, &[]);
    assert_eq!((lab.tag(&id(1), "moving"), lab.server.world().snapshots.len()), (String::new(), 0), "{run}");
}

/// The mark is written over nobody else's, however long a throttle lasts.
#[test]
fn a_mark_that_comes_late_is_not_written() {
    let lab = lab();
    let far = there(&lab);
    lab.fault(Fault::new("CreateTags", crate::fakeaws::Nth::First(2), FaultKind::Throttle));
    let run = lab.start(&good(), fast());
    lab.until("the throttle", || lab.count("CreateTags") > 0);
    lab.take(&id(1), &far, "/dev/xvdf");
    let run = run.wait(&lab);
    run.ends(1, &[&format!("is not to be moved any more: {far} has it")]);
    assert_eq!(lab.tag(&id(1), "moving"), "", "{run}");
}

/// Its commands take hours: the mark is renewed, so that nobody begins the move anew, and so that it ends with the commit.
#[test]
fn a_mark_is_renewed_while_the_commands_work_on_the_copy() {
    const RATE: u32 = 600;
    let lab = lab();
    lab.knobs(|k| (k.clock_rate, k.signature_window_s) = (RATE, 1 << 30));
    let volume = directive("pm", "/dev/xvdf", P, HOLD);
    let text = crate::disks::timed(86400, &volume);
    let run = lab.start(&text, fast().rate(RATE));
    lab.until_file("first");
    let first = lab.tag(&id(1), "moving");
    assert!(first.starts_with(&lab.me), "{first}");
    let mut seen = vec![first];
    lab.until("two renewals", || {
        let now = lab.tag(&id(1), "moving");
        if seen.last() != Some(&now) {
            seen.push(now);
        }
        seen.len() == 3
    });
    // By who moves, and with the same token.
    let parts = |mark: &str| mark.split(' ').map(str::to_owned).collect::<Vec<_>>();
    assert!(seen.iter().all(|m| (&parts(m)[0], &parts(m)[2]) == (&lab.me, &parts(&seen[0])[2])), "{seen:?}");
    let go = lab.file("go", "");
    assert!(go.exists());
    let run = run.wait(&lab);
    run.ends(0, &[]);
    assert_eq!((lab.tag(&id(1), "moving"), lab.server.world().snapshots.len()), (String::new(), 0), "{run}");
}

/// The mover was killed when its copy was just attached; the original was used by another instance since.
#[test]
fn a_copy_that_is_found_attached_is_not_gone_on_with_where_its_original_was_used() {
    for lost in [false, true] {
        let lab = lab();
        let far = there(&lab);
        assert!(crate::matrix_kills::kill_how(&lab, &good(), fast(), "AttachVolume", 1, true));
        let copy = lab.created().remove(0);
        if lost {
            lab.lose_journal();
        }
        an_hour_later(&lab);
        let run = lab.run(&config(&volume("p", "/dev/xvdf", P)), fast().on(&far));
        run.ends(0, &[]);
        assert_eq!(lab.attached(&far)[0].0, id(1), "{lost} {run}");
        let seen = lab.seen().len();
        let p = config(&volume("p", "/dev/xvdf", P));
        for _ in 0..2 {
            let run = lab.run(&p, fast());
            run.ends(1, &[]);
            assert_eq!((lab.seen().len(), lab.attached(&lab.me).len()), (seen, 0), "{lost}: it was used {run}");
        }
        // It is free again, and moves with what was written meanwhile.
        lab.free(&id(1));
        let run = lab.run(&good(), fast());
        run.ends(0, &["moving vol-"]);
        let here = lab.attached(&lab.me)[0].0.clone();
        assert!(here != copy && lab.tag(&id(1), "superseded-by") == here, "{lost} {run}");
        assert_eq!((lab.tag(&id(1), "moving"), lab.server.world().snapshots.len()), (String::new(), 0), "{lost} {run}");
    }
}

/// A mover is gone, and an instance that moves nothing takes the volume in its own zone.
#[test]
fn whoever_takes_a_volume_that_was_to_be_moved_ends_the_move() {
    for (action, copies) in [("CreateSnapshot", 0), ("CreateVolume", 0), ("AttachVolume", 1)] {
        let lab = lab();
        let far = there(&lab);
        assert!(crate::matrix_kills::kill_how(&lab, &good(), fast(), action, 1, true));
        an_hour_later(&lab);
        if copies > 0 {
            let copy = lab.created().remove(0);
            lab.free(&copy);
            let mut w = lab.server.world();
            w.volumes.get_mut(&copy).unwrap().tags.insert("user:ec2fd.ts-used".into(), "2026-01-01T00:00:00Z".into());
        }
        let run = lab.run(&config(&volume("p", "/dev/xvdf", P)), fast().on(&far));
        run.ends(0, &[]);
        assert_eq!(lab.attached(&far)[0].0, id(1), "{action} {run}");
        lab.until("the end of what is deleted", || lab.server.world().volumes.values().all(|v| v.state != "deleting"));
        assert_eq!(
            (lab.tag(&id(1), "moving"), lab.server.world().snapshots.len()),
            (String::new(), 0),
            "{action} {run}"
        );
        assert_eq!(lab.created().len(), copies, "{action} {run}");
        for copy in lab.created() {
            assert_eq!(lab.tag(&copy, "superseded-by"), id(1), "{action} {run}");
        }
    }
}

/// `{transaction_log}`: every call that changes something is in it, also those after `started`.
#[test]
fn the_log_of_the_transaction_has_every_call_that_changes_something() {
    let lab = lab();
    let stopping = crate::kit::to_topic(
        r#"envelope: { body: "{transaction_log}" }, matrix: { stopping: { enabled: true }, started: { enabled: false } }"#,
    );
    let text = good().replace("d: {", &format!("d: {{ notify: [{stopping}], "));
    let run = lab.start(&text, crate::lab::How::default().rate(20));
    run.says(&lab, "ready: d started");
    lab.until("the end of the move", || {
        lab.tag(&id(1), "moving").is_empty() && !lab.tag(&id(1), "superseded-by").is_empty()
    });
    lab.until("the snapshot's end", || lab.server.world().snapshots.is_empty());
    std::thread::sleep(std::time::Duration::from_millis(100));
    let made: Vec<String> = lab
        .server
        .writes()
        .into_iter()
        .filter(|c| c.service == "EC2")
        .map(|c| {
            c.action
                .replace("Volume", "_volume")
                .replace("Tags", "_tags")
                .replace("Snapshot", "_snapshot")
                .to_lowercase()
        })
        .collect();
    run.signal("TERM");
    let run = run.wait(&lab);
    run.ends(0, &[]);
    let body = crate::kit::bodies(&lab).pop().unwrap();
    let log: serde_json::Value = serde_json::from_str(&body).unwrap();
    let mut noted: Vec<String> =
        log.as_array().unwrap().iter().map(|c| c["method"].as_str().unwrap().to_owned()).collect();
    let mut made = made;
    made.sort();
    noted.sort();
    assert_eq!(noted, made, "{run}");
    assert!(made.iter().any(|m| m == "delete_snapshot") && body.contains("superseded-by") && body.contains("ts-used"));
}

//! SIGTERM and interruption notices during init: everything goes back, then the commands of the way out, exit 0.

use crate::disks::{EVENTS, HOLD, directive, id};
use crate::fakeaws::{Fault, FaultKind};
use crate::lab::{How, Lab, Running};

/// The points of init at which it is stopped.
const POINTS: [&str; 6] = ["list", "claim", "disk", "command", "creating", "record"];

/// A daemon in the middle of init, at `point`.
fn at(point: &str) -> (Lab, Running) {
    let lab = Lab::new();
    lab.pool_of(1);
    let first = directive("p", "/dev/xvdf", r#""pool-name": "p""#, if point == "command" { HOLD } else { "true" });
    let second = directive("c", "/dev/xvdg", "create: { Size: 1 }", "true");
    match point {
        "list" => lab.fault(Fault::every("DescribeVolumes", FaultKind::Throttle)),
        // It is done in the middle of the time that its lost answer takes.
        "claim" => {
            lab.fault(Fault::every("AttachVolume", FaultKind::ErrorAfter500));
            lab.knobs(|k| k.action_latency_ms.extend([("EC2:AttachVolume".into(), 2000)]));
        }
        "disk" => lab.knobs(|k| k.device_never = true),
        "creating" => lab.knobs(|k| k.creating_ms = 2500),
        "record" => lab.fault(Fault::every("ChangeResourceRecordSets", FaultKind::Throttle)),
        _ => {}
    }
    let text = format!(
        r#"{{ domains: {{ d: {{ "attach-volume": [{first}, {second}],
            "update-route53": [{{ hostedzone: "Z1", name: "a.example.com", ttl: 60 }}], {EVENTS} }} }} }}"#
    );
    // The notice is polled every second of its clock.
    let run = lab.start(&text, How::default().rate(4));
    match point {
        "list" => lab.until("a list", || lab.count("DescribeVolumes") > 0),
        "command" => drop(lab.until_file("first")),
        "creating" => lab.until("a volume", || lab.count("CreateVolume") > 0),
        "record" => lab.until("a record", || lab.count("ChangeResourceRecordSets") > 0),
        _ => lab.until("an attachment", || !lab.attached(&lab.me).is_empty()),
    }
    (lab, run)
}

#[track_caller]
fn went_back(point: &str, lab: &Lab, run: Running, event: &str) {
    let run = run.wait(lab);
    assert_eq!(run.code, 0, "{point}\n{run}");
    assert_eq!(lab.events(), ["starting", event], "{point}\n{run}");
    lab.nothing_left(&run);
    assert_eq!(lab.tag_keys(&id(1)), ["domain", "pool-name"], "{point}\n{run}");
    assert!(lab.server.world().record_values("Z1", "a.example.com", "A").is_empty(), "{point}\n{run}");
}

#[test]
fn a_signal_during_init_rolls_back_and_stops() {
    for (point, signal) in POINTS.into_iter().zip(["TERM", "INT"].into_iter().cycle()) {
        let (lab, run) = at(point);
        run.signal(signal);
        went_back(point, &lab, run, "stopping");
    }
}

#[test]
fn a_notice_during_init_rolls_back_and_is_acted_on() {
    for point in POINTS {
        let (lab, run) = at(point);
        lab.server.world().notice(&lab.me, "terminate", 120);
        went_back(point, &lab, run, "interrupted");
    }
}

#[test]
fn a_new_volume_that_cannot_be_seen_yet_is_deleted_too() {
    let lab = Lab::new();
    lab.knobs(|k| (k.created_invisible_ms, k.creating_ms) = (1200, 1300));
    let text = format!(
        r#"{{ domains: {{ d: {{ "attach-volume": [{}], {EVENTS} }} }} }}"#,
        directive("c", "/dev/xvdg", "create: { Size: 1 }", "true")
    );
    let run = lab.start(&text, How::default());
    run.says(&lab, "created vol-");
    run.signal("TERM");
    let run = run.wait(&lab);
    run.ends(0, &[]);
    assert_eq!(lab.events(), ["starting", "stopping"], "{run}");
    assert_eq!(lab.count("CreateVolume"), 1, "{run}");
    lab.nothing_left(&run);
}

#[test]
fn a_signal_in_the_middle_of_a_lost_creation_leaves_nothing() {
    let lab = Lab::new();
    lab.fault(Fault::every("CreateVolume", FaultKind::ErrorAfter500));
    let text = format!(
        r#"{{ domains: {{ d: {{ "attach-volume": [{}], {EVENTS} }} }} }}"#,
        directive("c", "/dev/xvdg", "create: { Size: 1 }", "true")
    );
    let run = lab.start(&text, How::default());
    lab.until("a volume", || !lab.created().is_empty());
    run.signal("TERM");
    let run = run.wait(&lab);
    run.ends(0, &[]);
    lab.nothing_left(&run);
}

#[test]
fn a_roll_back_after_a_signal_that_is_not_complete_ends_with_exit_3() {
    let (lab, run) = at("command");
    lab.server.world().deny("EC2:DetachVolume");
    run.signal("TERM");
    let run = run.wait(&lab);
    run.ends(3, &["allow ec2:DetachVolume"]);
    assert_eq!(lab.events(), ["starting", "stopping"], "{run}");
    assert!(lab.attached(&lab.me).iter().any(|a| a.0 == id(1)), "{run}");
}

#[test]
fn a_signal_after_started_takes_nothing_away() {
    let lab = Lab::new();
    let all = lab.pool_of(1);
    let text = format!(
        r#"{{ domains: {{ d: {{ "attach-volume": [{}], {EVENTS} }} }} }}"#,
        directive("p", "/dev/xvdf", r#""pool-name": "p""#, "true")
    );
    let run = lab.start(&text, How::default());
    run.says(&lab, "watching for interruptions");
    run.signal("TERM");
    let run = run.wait(&lab);
    run.ends(0, &[]);
    lab.has(&[(&all[0], "/dev/xvdf")], &run);
    assert_eq!(lab.events(), ["starting", "started", "stopping"], "{run}");
    assert_eq!(lab.count("DetachVolume"), 0, "{run}");
}

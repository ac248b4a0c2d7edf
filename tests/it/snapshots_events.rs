//! `snapshot` beside other features: events that go on, releases without an end, other zones, permissions, kills.

use crate::disks::{directive, id};
use crate::fakeaws::imds_events::Scheduled;
use crate::fakeaws::{Fault, FaultKind, InstanceSpec, VolumeSpec};
use crate::lab::{How, Lab, once};
use crate::snapshots::{made, started, text, x};

fn lab() -> Lab {
    let lab = Lab::new();
    lab.volume(VolumeSpec::pool("d", "p").id(&id(1)));
    lab.knobs(|k| k.snapshot_gap_ms = 0);
    lab
}

#[test]
fn an_event_after_which_it_goes_on_makes_one_and_needs_nothing_else_to_be_asked_for() {
    let lab = lab();
    let volume = x(1, r#"snapshot: { on: ["rebalance"] }, release: ["stopping"]"#);
    let running = started(&lab, &text(&volume), How::default());
    lab.server.world().rebalance(&lab.me, true);
    running.says(&lab, "is begun (rebalance)");
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["is released"]);
    assert_eq!(made(&lab).len(), 1, "{run}");
}

#[test]
fn a_release_that_ends_the_daemon_ends_the_intervals_too() {
    let lab = lab();
    let volume = x(1, r#"snapshot: { every: 3600, on: ["maintenance"] }, release: ["maintenance"]"#);
    lab.server.world().schedule(&lab.me, &[Scheduled::new("instance-event-1", "instance-retirement", 500)]);
    // One of them hangs, and nobody has asked to stop.
    lab.fault(Fault::first("EC2:CreateSnapshot", 1, FaultKind::Hang(60_000)));
    let run = lab.start(&text(&volume), How::default().rate(4)).wait(&lab);
    run.ends(0, &["is begun (maintenance)", "is released", "the daemon ends here"]);
    lab.nothing_left(&run);
}

#[test]
fn what_one_instance_leaves_in_its_zone_another_finds_in_its_own() {
    let lab = lab();
    lab.knobs(|k| k.snapshot_ms = 300);
    let snapshot = r#"snapshot: { on: ["interrupted"], tags: { Name: "world" } }, release: ["interrupted"]"#;
    let running = started(&lab, &text(&x(1, snapshot)), How::default());
    lab.server.world().notice(&lab.me, "terminate", 120);
    running.wait(&lab).ends(0, &["is begun (interrupted)", "is released"]);
    // In another zone, while it is still pending: the tags of what is made are no filter.
    let other = lab.add_instance(InstanceSpec { zone: "eu-west-1b".into(), ..InstanceSpec::default() });
    let volume = format!(r#""pool-name": "p", wait: 60, {snapshot}"#);
    let volume = directive("s", "/dev/xvdf", &volume, "head -c 4 $LAB/root1/dev/nvme1n1 > $LAB/found");
    let run = lab.run(&text(&volume), once().on(&other).rate(10));
    run.ends(0, &["started"]);
    assert_eq!(std::fs::read_to_string(lab.dir.join("found")).unwrap(), "last", "{run}");
}

#[test]
fn no_more_permissions_than_the_manual_says_are_needed() {
    let lab = lab();
    lab.knobs(|k| (k.clock_rate, k.signature_window_s, k.snapshot_ms) = (1000, 1 << 30, 1));
    let actions = ["AttachVolume", "DetachVolume", "DescribeVolumes", "CreateTags", "DeleteTags"];
    let own = ["CreateSnapshot", "DescribeSnapshots", "DeleteSnapshot"];
    let mut all: Vec<String> = actions.iter().chain(&own).map(|a| format!("EC2:{a}")).collect();
    all.push("SNS:Publish".into());
    lab.server.world().allow_only(all.iter().map(String::as_str));
    let volume = x(1, r#"snapshot: { every: 600, keep: 1, on: ["stopping"] }, release: ["stopping"]"#);
    let config = text(&volume).replace("interval: 0.02", "interval: 60");
    let running = started(&lab, &config, How::default().rate(1000));
    lab.until("some come and go", || lab.count("DeleteSnapshot") > 1);
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["is released"]);
    assert!(!run.log.contains("UnauthorizedOperation"), "{run}");
}

#[test]
fn a_kill_between_the_snapshot_and_the_release_is_no_reason_for_another() {
    let lab = lab();
    let volume = x(1, r#"snapshot: { every: 86400, on: ["interrupted"] }, release: ["interrupted"]"#);
    let config = text(&volume);
    let running = started(&lab, &config, How::default());
    running.says(&lab, "is begun (at its time)");
    lab.fault(Fault::every("EC2:DetachVolume", FaultKind::Hang(60_000)));
    lab.server.world().notice(&lab.me, "terminate", 120);
    lab.until("it is being released", || lab.count("DetachVolume") == 1);
    running.signal("KILL");
    drop(running);
    lab.server.world().faults.clear();
    lab.server.world().imds(&lab.me).notice = None;
    assert_eq!(made(&lab).len(), 2);
    lab.server.reset_calls();
    let running = started(&lab, &config, How::default());
    lab.until("it looks", || lab.count("DescribeSnapshots") > 0);
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &[]);
    assert_eq!((made(&lab).len(), lab.attached(&lab.me).len()), (2, 1), "{run}");
}

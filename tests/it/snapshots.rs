//! `snapshot`: what is made when, with which tags, what stays, and that nothing of it costs a run anything.

use std::path::PathBuf;

use crate::disks::{directive, id};
use crate::fakeaws::snapshots::Snapshot;
use crate::fakeaws::{Fault, FaultKind, SnapshotSpec, VolumeSpec};
use crate::kit::{SHORT, on, sh, to_topic};
use crate::lab::{How, Lab, Run, Running};

/// A domain `d` with these volumes that polls often; `interrupted` writes a word to the first disk.
pub(crate) fn text(volumes: &str) -> String {
    // Where time runs very fast, a minute is over before a shell has begun.
    let write = sh("printf last | dd conv=notrunc of=$LAB/root0/dev/nvme1n1").replace("] }", "], timeout: 36000 }");
    let last = on(&["interrupted", "stopping"], &[write]);
    format!(
        r#"{{ "interrupt-detection": {{ detect: "poll", options: {{ interval: 0.02 }} }}, domains: {{ d: {{
            "attach-volume": [{volumes}], exec: [{last}], notify: [{}] }} }} }}"#,
        to_topic(SHORT)
    )
}

/// A directive of volume `n`, by its id, in pool `p`.
pub(crate) fn x(n: u32, rest: &str) -> String {
    let device = format!("/dev/xvd{}", char::from(b'e' + u8::try_from(n).unwrap()));
    directive("xp", &device, &format!(r#""volume-id": "{}", "pool-name": "p", {rest}"#, id(n)), "true")
}

/// The same for a clock that runs fast: it need not poll often.
fn patient(volumes: &str) -> String {
    text(volumes).replace("interval: 0.02", "interval: 60")
}

fn plain() -> Lab {
    let lab = Lab::new();
    for n in [1, 2] {
        lab.volume(VolumeSpec::pool("d", "p").id(&id(n)));
    }
    lab.knobs(|k| k.snapshot_gap_ms = 0);
    lab
}

pub(crate) fn started(lab: &Lab, text: &str, how: How) -> Running {
    let running = lab.start(text, how);
    running.says(lab, "watching for interruptions");
    running
}

/// Runs it to an interruption that terminates.
fn interrupted(lab: &Lab, volumes: &str, how: How) -> Run {
    let running = started(lab, &text(volumes), how);
    lab.server.world().notice(&lab.me, "terminate", 120);
    running.wait(lab)
}

/// The snapshots that the daemon made, oldest first.
pub(crate) fn made(lab: &Lab) -> Vec<Snapshot> {
    let mut all: Vec<Snapshot> = lab.server.world().snapshots.values().filter(|s| s.by_api).cloned().collect();
    all.sort_by_key(|s| s.started);
    all
}

fn content(file: Option<&PathBuf>) -> Vec<u8> {
    std::fs::read(file.unwrap()).unwrap()[..4].to_vec()
}

/// A snapshot as a directive of ours makes it.
fn ours(volume: u32) -> SnapshotSpec {
    SnapshotSpec::pool("d", "p").of(&id(volume)).tag("user:ec2fd.snapshot", "u")
}

const ON: &str = r#"snapshot: { on: ["interrupted"], tags: { Name: "world", "x-y": "" } }, release: ["interrupted"]"#;

#[test]
fn one_of_each_volume_after_the_commands_and_before_the_release() {
    let lab = plain();
    // Detached long before it is done.
    lab.knobs(|k| k.snapshot_ms = 600_000);
    let run = interrupted(&lab, &format!("{}, {}", x(1, ON), x(2, ON)), How::default());
    run.ends(0, &["is begun (interrupted)", &format!("{} is released", id(1)), &format!("{} is released", id(2))]);
    let all = made(&lab);
    let mut volumes: Vec<&str> = all.iter().map(|s| s.volume.as_str()).collect();
    volumes.sort_unstable();
    assert_eq!(volumes, [id(1), id(2)], "{run}");
    for s in &all {
        let tag = |k: &str| s.tags.get(k).map(String::as_str);
        let own = [tag("user:ec2fd.domain"), tag("user:ec2fd.pool-name"), tag("user:ec2fd.owner")];
        assert_eq!(own, [Some("d"), Some("p"), Some(lab.me.as_str())], "{run}");
        assert_eq!((tag("Name"), tag("x-y"), s.tags.len()), (Some("world"), Some(""), 6), "{run}");
        assert_eq!(s.state, "pending", "{run}");
    }
    assert_ne!(all[0].tags["user:ec2fd.snapshot"], all[1].tags["user:ec2fd.snapshot"]);
    // What the commands wrote last is in it.
    // (Whichever volume the disk of that name is.)
    assert_eq!(all.iter().filter(|s| content(s.data.as_ref()) == b"last").count(), 1, "{run}");
    let calls = lab.server.calls();
    let at = |a: &str, v: &str| {
        calls.iter().position(|c| c.action == a && c.params.get("VolumeId").map(String::as_str) == Some(v)).unwrap()
    };
    for v in volumes {
        assert!(at("CreateSnapshot", v) < at("DetachVolume", v), "{run}");
    }
    lab.nothing_left(&run);
}

#[test]
fn another_event_makes_none_and_one_that_stops_the_instance_does() {
    let lab = plain();
    let running = started(&lab, &text(&x(1, ON)), How::default());
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &[]);
    assert!(made(&lab).is_empty(), "{run}");
    // A stopped instance keeps its volume. The snapshot is wanted all the same.
    let running = started(&lab, &text(&x(1, ON)), How::default());
    lab.server.world().notice(&lab.me, "stop", 120);
    let run = running.wait(&lab);
    run.ends(0, &[]);
    assert_eq!((made(&lab).len(), lab.attached(&lab.me).len()), (1, 1), "{run}");
}

#[test]
fn a_config_without_it_makes_none_and_asks_nothing() {
    let lab = plain();
    let run = interrupted(&lab, &x(1, r#"release: ["interrupted"]"#), How::default());
    run.ends(0, &["is released"]);
    assert!(lab.count("DescribeSnapshots") + lab.count("CreateSnapshot") == 0, "{run}");
}

#[test]
fn a_lost_answer_makes_no_second_one() {
    for (kind, calls) in [(FaultKind::ResetAfter, 1), (FaultKind::ErrorAfter500, 1), (FaultKind::ResetBefore, 2)] {
        let lab = plain();
        // It is not seen at once.
        lab.knobs(|k| k.snapshot_invisible_ms = 100);
        lab.fault(Fault::first("EC2:CreateSnapshot", 1, kind.clone()));
        let run = interrupted(&lab, &x(1, ON), How::default().rate(5));
        run.ends(0, &["is begun (interrupted)", "is released"]);
        assert_eq!((made(&lab).len(), lab.count("CreateSnapshot")), (1, calls), "{kind:?} {run}");
    }
}

#[test]
fn one_that_is_denied_or_throttled_or_never_answered_costs_the_release_nothing() {
    let denied: &[&str] = &["EC2:CreateSnapshot"];
    let tags: &[&str] = &["EC2:CreateTags"];
    for (deny, fault, said) in [
        (denied, None, "(allow ec2:CreateSnapshot for this instance's role); its tags need ec2:CreateTags too"),
        (tags, None, "ec2:CreateTags"),
        (&[], Some(FaultKind::Throttle), "RequestLimitExceeded"),
        (&[], Some(FaultKind::Hang(60_000)), "cannot make a snapshot of"),
        (&[], Some(FaultKind::Status500), "InternalError"),
    ] {
        let lab = plain();
        let running = started(&lab, &text(&x(1, ON)), How::default().rate(8));
        lab.until("the last tags", || lab.count("CreateTags") > 0 && lab.count("DeleteTags") > 0);
        deny.iter().for_each(|d| lab.server.world().deny(d));
        if let Some(kind) = fault {
            lab.fault(Fault::every("EC2:CreateSnapshot", kind));
        }
        lab.server.world().notice(&lab.me, "terminate", 120);
        let run = running.wait(&lab);
        run.ends(0, &[said, "is released"]);
        assert!(made(&lab).is_empty(), "{run}");
        lab.nothing_left(&run);
    }
}

#[test]
fn one_that_comes_too_soon_after_another_is_made_a_little_later() {
    let lab = plain();
    let refusal = FaultKind::Custom {
        status: 400,
        code: "SnapshotCreationPerVolumeRateExceeded".into(),
        message: "The maximum per volume CreateSnapshot request rate has been exceeded.".into(),
    };
    lab.fault(Fault::first("EC2:CreateSnapshot", 1, refusal));
    let run = interrupted(&lab, &x(1, ON), How::default().rate(20));
    run.ends(0, &["once more in 15 s", "is begun (interrupted)", "is released"]);
    assert_eq!(made(&lab).len(), 1, "{run}");
}

/// A lab whose services' clock runs with the daemon's.
fn fast(rate: u32) -> (Lab, How) {
    let lab = plain();
    lab.knobs(|k| (k.clock_rate, k.signature_window_s, k.snapshot_ms) = (rate, 1 << 30, 10));
    (lab, How::default().rate(rate))
}

#[test]
fn at_intervals_from_the_last_one_on_whoever_made_it() {
    let (lab, how) = fast(1000);
    lab.server.world().add_snapshot(ours(1).id("snap-00000000000000001").tag("user:ec2fd.owner", "i-before").age(2500));
    // Not ours, or not of this volume, or no good.
    lab.server.world().add_snapshot(SnapshotSpec::pool("d", "p").of(&id(1)).age(60));
    lab.server.world().add_snapshot(ours(2).age(60));
    lab.server.world().add_snapshot(ours(1).state("error").age(60));
    let last = lab.server.world().snapshots["snap-00000000000000001"].started;
    let config = patient(&x(1, "snapshot: { every: 3600 }"));
    let running = started(&lab, &config, how.clone());
    lab.until("two snapshots", || made(&lab).len() >= 2);
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["is begun (at its time)"]);
    let all = made(&lab);
    assert!(all[0].started - last >= time::Duration::seconds(3590), "{run}");
    assert!(all[1].started - all[0].started >= time::Duration::seconds(3590), "{run}");
    // No event wanted one, and a new run does not begin anew.
    let before = all.len();
    let running = started(&lab, &config, how);
    lab.until("one more", || made(&lab).len() > before);
    drop(running);
    let all = made(&lab);
    assert!(all[before].started - all[before - 1].started >= time::Duration::seconds(3590));
    assert_eq!(lab.count("DeleteSnapshot"), 0);
}

#[test]
fn a_volume_without_any_gets_its_first_at_once_and_an_event_counts_too() {
    let (lab, how) = fast(100);
    let running = started(&lab, &patient(&x(1, r#"snapshot: { every: 86400, on: ["stopping"] }"#)), how.clone());
    running.says(&lab, "is begun (at its time)");
    running.signal("TERM");
    running.wait(&lab).ends(0, &["is begun (stopping)"]);
    assert_eq!(made(&lab).len(), 2);
    lab.server.reset_calls();
    let running = started(&lab, &patient(&x(1, "snapshot: { every: 86400 }")), how);
    lab.until("it looks", || lab.count("DescribeSnapshots") > 0);
    running.signal("TERM");
    let run = running.wait(&lab);
    assert_eq!(lab.count("CreateSnapshot"), 0, "{run}");
}

#[test]
fn none_while_the_last_one_is_pending() {
    let (lab, how) = fast(1000);
    lab.server.world().add_snapshot(ours(1).state("pending").id("snap-00000000000000001").age(4000));
    let running = started(&lab, &patient(&x(1, "snapshot: { every: 3600 }")), how);
    running.says(&lab, "no new snapshot of vol-00000000000000001: snap-00000000000000001 is still pending (");
    assert_eq!(lab.count("CreateSnapshot"), 0);
    lab.server.world().complete_snapshot("snap-00000000000000001");
    running.says(&lab, "is begun (at its time)");
}

#[test]
fn the_newest_stay_and_only_our_own_go() {
    let lab = plain();
    let n = |i: u32| format!("snap-{i:017x}");
    {
        let mut w = lab.server.world();
        for i in 1..=5 {
            // Number 1 is the oldest.
            w.add_snapshot(ours(1).id(&n(i)).age(1000 - i64::from(i)));
        }
        w.snapshots.get_mut(&n(2)).unwrap().images.insert("ami-1".into());
        w.add_snapshot(ours(1).id(&n(10)).state("pending").age(1));
        w.add_snapshot(ours(1).id(&n(11)).state("error").age(5000));
        w.add_snapshot(SnapshotSpec::pool("d", "p").of(&id(1)).id(&n(12)).age(5000));
        w.add_snapshot(ours(2).id(&n(13)).age(5000));
        let other = SnapshotSpec::pool("d", "q").of(&id(1)).tag("user:ec2fd.snapshot", "u");
        w.add_snapshot(other.id(&n(14)).age(5000));
        let other = SnapshotSpec::pool("e", "p").of(&id(1)).tag("user:ec2fd.snapshot", "u");
        w.add_snapshot(other.id(&n(15)).age(5000));
    }
    // Gone by the time it is its turn: somebody else was faster.
    let gone = FaultKind::Custom { status: 400, code: "InvalidSnapshot.NotFound".into(), message: "gone".into() };
    lab.fault(Fault::first("EC2:DeleteSnapshot", 1, gone));
    let running = started(&lab, &text(&x(1, r#"snapshot: { on: ["failed"], keep: 2 }"#)), How::default());
    running.says(&lab, &format!("{} is kept: InvalidSnapshot.InUse", n(2)));
    running.says(&lab, &format!("deleted {}", n(3)));
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &[]);
    let asked: Vec<String> =
        lab.server.calls_of("DeleteSnapshot").iter().map(|c| c.params["SnapshotId"].clone()).collect();
    assert_eq!(asked, [n(1), n(2), n(3)], "{run}");
    assert!(lab.server.world().snapshots.len() == 10, "{run}");
}

#[test]
fn an_interval_keeps_no_more_than_it_should() {
    let (lab, how) = fast(1000);
    let running = started(&lab, &patient(&x(1, "snapshot: { every: 600, keep: 2 }")), how);
    lab.until("some are gone", || lab.count("DeleteSnapshot") >= 3);
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["enough newer ones are there"]);
    // Two, and one or two that were not completed, or not counted yet, when it ended.
    assert!((2..=4).contains(&made(&lab).len()), "{} {run}", made(&lab).len());
}

#[test]
fn what_is_not_allowed_is_said_once_with_its_permission() {
    for (deny, said) in [
        ("EC2:DescribeSnapshots", "allow ec2:DescribeSnapshots"),
        ("EC2:CreateSnapshot", "allow ec2:CreateSnapshot"),
        ("EC2:DeleteSnapshot", "allow ec2:DeleteSnapshot"),
    ] {
        let (lab, how) = fast(1000);
        for age in [10_000, 20_000] {
            lab.server.world().add_snapshot(ours(1).age(age));
        }
        lab.server.world().deny(deny);
        let running = started(&lab, &patient(&x(1, "snapshot: { every: 600, keep: 1 }")), how);
        lab.until("it is tried often", || lab.count(&deny[4..]) >= 3);
        // A list that is denied keeps none from being made.
        if deny.contains("Describe") {
            lab.until("one is made", || !made(&lab).is_empty());
        }
        running.signal("TERM");
        let run = running.wait(&lab);
        run.ends(0, &[]);
        assert_eq!(run.log.matches(said).count(), 1, "{run}");
        lab.server.world().permit(deny);
    }
}

#[test]
fn a_run_that_was_killed_while_it_asked_leaves_one_that_counts() {
    let (lab, how) = fast(100);
    let config = patient(&x(1, "snapshot: { every: 86400 }"));
    lab.fault(Fault::first("EC2:CreateSnapshot", 1, FaultKind::HangAfter(60_000)));
    let running = started(&lab, &config, how.clone());
    lab.until("it is made", || made(&lab).len() == 1);
    running.signal("KILL");
    drop(running);
    lab.server.reset_calls();
    let running = started(&lab, &config, how);
    lab.until("it looks", || lab.count("DescribeSnapshots") > 0);
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &[]);
    assert_eq!((made(&lab).len(), lab.count("CreateSnapshot")), (1, 0), "{run}");
}

#[test]
fn without_polling_none_is_made_at_intervals() {
    let lab = plain();
    let run = lab.run(&text(&x(1, "snapshot: { every: 600 }")), How::default().once());
    run.ends(0, &["started"]);
    assert_eq!(lab.count("DescribeSnapshots"), 0, "{run}");
}

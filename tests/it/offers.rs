//! What counts when: a copy or a new volume is data from its commit on, not a moment before it; a volume that was offered
//! when it was read may not be so any more when it is claimed.

use crate::disks::{HOLD, NOTE, config, directive, id, volume};
use crate::fakeaws::{Fault, FaultKind, Nth, VolumeSpec};
use crate::kit::{on, sh};
use crate::lab::{How, Lab, once};
use crate::volumes_move::{elsewhere, lab as moving_lab};

const P: &str = r#""pool-name": "p""#;
const CREATE: &str = r#""pool-name": "p", create: { Size: 1 }"#;

fn fast() -> How {
    once().rate(20)
}

fn set(lab: &Lab, volume: &str, tag: &str, value: &str) {
    let mut w = lab.server.world();
    w.volumes.get_mut(volume).unwrap().tags.insert(format!("user:ec2fd.{tag}"), value.to_owned());
}

fn wrote_commit_mark(lab: &Lab) -> bool {
    lab.server.writes().iter().any(|c| c.params.values().any(|v| v == "user:ec2fd.ts-created"))
}

/// A record of the domain fails: the roll-back takes the volume back, so it must not have been data for a moment.
#[test]
fn nothing_is_marked_as_data_before_all_else_stands() {
    let record = r#""update-route53": [{ hostedzone: "Z9", name: "a.example.com", ttl: 60 }], "#;
    for (lab, source) in [(Lab::new(), "c"), (moving_lab(), "pm")] {
        let text = config(&directive(source, "/dev/xvdf", CREATE, NOTE)).replace("d: {", &format!("d: {{ {record}"));
        let run = lab.run(&text, fast());
        run.ends(1, &["NoSuchHostedZone"]);
        assert_eq!(lab.seen().len(), 1, "its command had run {run}");
        assert!(!wrote_commit_mark(&lab), "{run}");
        assert_eq!(lab.created(), Vec::<String>::new(), "{run}");
    }
}

/// Two volumes of one domain become data together, or neither does.
#[test]
fn volumes_that_were_made_together_are_marked_together() {
    let lab = Lab::new();
    let both = [directive("c", "/dev/xvdf", CREATE, NOTE), directive("c", "/dev/xvdg", CREATE, NOTE)].join(", ");
    let run = lab.run(&config(&both), fast());
    run.ends(0, &[]);
    let marks = lab.server.writes().iter().filter(|c| c.params.values().any(|v| v == "user:ec2fd.ts-created")).count();
    assert_eq!((marks, lab.created().len()), (1, 2), "{run}");
    for v in lab.created() {
        assert_ne!(lab.tag(&v, "ts-created"), "", "{run}");
    }
}

/// Whoever meets a volume that was moved finishes the move; where the copy is put back at that very moment, it does not.
#[test]
fn what_is_put_back_meanwhile_supersedes_nothing() {
    let lab = Lab::new();
    let old = lab.volume(VolumeSpec::pool("d", "p").id(&id(1)));
    let copy = elsewhere(&lab, 2);
    for (tag, value) in [("lineage", old.as_str()), ("generation", "1"), ("ts-created", "2026-01-01T00:00:00Z")] {
        set(&lab, &copy, tag, value);
    }
    set(&lab, &old, "moving", "i-0dead 2026-01-01T00:00:00Z move-x");
    let of_it = Fault::new("CreateTags", Nth::Only(1), FaultKind::Slow(500)).with_value("user:ec2fd.superseded-by");
    lab.fault(of_it);
    let running = lab.start(&config(&volume("pc", "/dev/xvdf", CREATE)), fast());
    let is_it = |c: &crate::fakeaws::Call| c.params.values().any(|v| v == "user:ec2fd.superseded-by");
    lab.until("the mark", || lab.server.calls().iter().any(is_it));
    {
        let mut w = lab.server.world();
        let tags = &mut w.volumes.get_mut(&copy).unwrap().tags;
        tags.remove("user:ec2fd.ts-created");
        tags.insert("user:ec2fd.in-transit".into(), "ec2fd-0123456789012345678901234567890123456789".into());
    }
    let run = running.wait(&lab);
    run.ends(0, &["is not committed any more"]);
    assert_eq!(lab.tag(&old, "superseded-by"), "", "{run}");
}

/// The commit's mark came through, its answer did not, and then it is refused: others have seen it and gone over into it.
#[test]
fn what_others_have_gone_over_into_is_not_deleted() {
    let lab = moving_lab();
    let mark = |kind| Fault::new("CreateTags", Nth::Only(1), kind).with_value("user:ec2fd.ts-created");
    lab.fault(mark(FaultKind::ErrorAfter500));
    lab.fault(Fault::new("CreateTags", Nth::First(9), FaultKind::Denied).with_value("user:ec2fd.ts-created"));
    lab.fault(Fault::first("DeleteVolume", 2, FaultKind::Throttle));
    let running = lab.start(&config(&directive("pm", "/dev/xvdf", CREATE, NOTE)), once().rate(10));
    lab.until("its deletion", || lab.count("DeleteVolume") > 0);
    let copy = lab.created().remove(0);
    set(&lab, &id(1), "superseded-by", &copy);
    let run = running.wait(&lab);
    run.ends(1, &[&format!("not deleting {copy}, which this run created: {} has become {copy}", id(1))]);
    assert_eq!(lab.created(), [copy], "{run}");
}

/// AttachVolume is throttled for a minute, and the volume moves to another zone meanwhile.
#[test]
fn a_claim_lapses_with_the_offer() {
    let now = time::OffsetDateTime::now_utc() + time::Duration::minutes(10);
    let mark = format!(
        "i-0other {} move-x",
        now.replace_nanosecond(0).unwrap().format(&time::format_description::well_known::Rfc3339).unwrap()
    );
    for (tag, value, why) in [
        ("superseded-by", "vol-0new", "it has become vol-0new meanwhile"),
        ("moving", mark.as_str(), "i-0other moves it"),
    ] {
        let lab = Lab::new();
        lab.volume(VolumeSpec::pool("d", "p").id(&id(1)));
        lab.fault(Fault::first("AttachVolume", 6, FaultKind::Throttle));
        let running = lab.start(&config(&volume("p", "/dev/xvdf", P)), fast());
        lab.until("a try", || lab.count("AttachVolume") > 0);
        set(&lab, &id(1), tag, value);
        let run = running.wait(&lab);
        run.ends(1, &[why]);
        assert_eq!(lab.attached(&lab.me), [], "{run}");
    }
}

/// The answer of AttachVolume comes late, and the volume has moved to another zone before it.
#[test]
fn a_claim_that_came_too_late_is_let_go() {
    let lab = Lab::new();
    lab.volume(VolumeSpec::pool("d", "p").id(&id(1)));
    lab.fault(Fault::first("AttachVolume", 1, FaultKind::Slow(1500)));
    let running = lab.start(&config(&directive("p", "/dev/xvdf", P, NOTE)), once().rate(10));
    lab.until("the claim", || lab.count("AttachVolume") > 0);
    set(&lab, &id(1), "superseded-by", "vol-0new");
    let run = running.wait(&lab);
    run.ends(1, &["it has become vol-0new meanwhile"]);
    assert_eq!((lab.attached(&lab.me), lab.seen().len()), (Vec::new(), 0), "{run}");
    assert_eq!(lab.state(&id(1)), "available", "{run}");
}

/// A run is killed over what it made, and the next one of this instance takes another volume.
#[test]
fn what_was_left_half_made_does_not_become_the_pools() {
    let lab = Lab::new();
    let other = lab.neighbour();
    let text = config(&directive("pc", "/dev/xvdf", CREATE, HOLD));
    let run = lab.start(&text, fast());
    lab.until_file("first");
    let made = lab.created().remove(0);
    run.signal("KILL");
    run.wait(&lab);
    lab.free(&made);
    lab.volume(VolumeSpec::pool("d", "p").id(&id(1)));
    let p = config(&volume("p", "/dev/xvdf", P));
    // It is put in transit, as by a roll-back that was cut off, so that this instance does not take it up again.
    set(&lab, &made, "in-transit", &lab.tag(&made, "transc-id"));
    let run = lab.run(&p, fast());
    run.ends(0, &["is left as it is: others leave it alone, too"]);
    assert_eq!(lab.attached(&lab.me)[0].0, id(1), "{run}");
    let run = lab.run(&p, fast().on(&other));
    run.ends(1, &["still being made by another instance"]);
    // After an hour it is finished.
    lab.server.world().volumes.values_mut().for_each(|v| v.created -= time::Duration::hours(1));
    let run = lab.run(&p, fast());
    run.ends(0, &["belongs to pool 'p' now"]);
    assert_eq!(lab.tag(&made, "in-transit"), "", "{run}");
}

/// A run comes back to the volume of one that was killed, and is interrupted while its command works on it.
#[test]
fn what_has_not_come_up_is_no_snapshot() {
    let lab = Lab::new();
    lab.volume(VolumeSpec::pool("d", "p").id(&id(1)));
    let rest = format!(r#"{P}, snapshot: {{ on: ["interrupted"] }}, release: ["interrupted"]"#);
    let exec = format!("exec: [{}], ", on(&["started"], &[sh("touch $LAB/up")]));
    let text =
        |script: &str| config(&directive("p", "/dev/xvdf", &rest, script)).replace("d: {", &format!("d: {{ {exec}"));
    let run = lab.start(&text("true"), How::default());
    lab.until_file("up");
    run.signal("KILL");
    run.wait(&lab);
    let run = lab.start(&text(HOLD), How::default());
    lab.until_file("first");
    lab.server.world().notice(&lab.me, "terminate", 100);
    let run = run.wait(&lab);
    run.ends(0, &["is released"]);
    assert_eq!(lab.server.world().snapshots.len(), 0, "{run}");
}

/// A mover died over its copy, and another moved the volume: the copy of the first is nothing any more, also when the
/// volume itself is deleted, as the log advises.
#[test]
fn the_copy_of_a_dead_mover_is_never_started_on() {
    let lab = moving_lab();
    let (second, third) = (lab.neighbour(), lab.neighbour());
    let run = lab.start(&config(&directive("pm", "/dev/xvdf", P, HOLD)), fast());
    lab.until_file("first");
    let stale = lab.created().remove(0);
    run.signal("KILL");
    run.wait(&lab);
    lab.server.world().terminate(&lab.me);
    let pm = config(&volume("pm", "/dev/xvdf", P));
    let run = lab.run(&pm, fast().on(&second));
    run.ends(0, &[&format!("{stale}, a copy that no run finished, is kept and not used")]);
    let good = lab.attached(&second)[0].0.clone();
    assert_eq!(lab.tag(&stale, "superseded-by"), good, "{run}");
    for marked in [true, false] {
        if !marked {
            // As an older version left it.
            let mut w = lab.server.world();
            w.volumes.remove(&id(1));
            w.volumes.get_mut(&stale).unwrap().tags.remove("user:ec2fd.superseded-by");
        }
        lab.server.world().volumes.values_mut().for_each(|v| v.created -= time::Duration::hours(2));
        let run = lab.run(&config(&volume("p", "/dev/xvdf", P)), fast().on(&third));
        run.ends(1, &[]);
        assert_eq!(lab.attached(&third), [], "{run}");
    }
}

/// The roll-back's DeleteVolume has no answer, and the run is killed: the volume may go at any moment, so the next run
/// makes another one.
#[test]
fn what_is_being_deleted_is_not_taken_up_again() {
    let lab = Lab::new();
    lab.fault(Fault::first("DeleteVolume", 1, FaultKind::Late(1500)));
    lab.fault(Fault::new("DeleteVolume", Nth::From(2), FaultKind::Throttle));
    let run = lab.start(&config(&directive("c", "/dev/xvdf", CREATE, "exit 7")), fast());
    lab.until("its deletion", || lab.count("DeleteVolume") > 0);
    let old = lab.created().remove(0);
    run.signal("KILL");
    run.wait(&lab);
    lab.server.world().faults.retain(|f| f.kind != FaultKind::Throttle);
    let run = lab.run(&config(&directive("c", "/dev/xvdf", CREATE, NOTE)), fast());
    run.ends(0, &["started"]);
    let here = lab.attached(&lab.me)[0].0.clone();
    assert_ne!(here, old, "{run}");
    lab.until("the late deletion", || !lab.created().contains(&old));
    assert_eq!(lab.created(), [here], "{run}");
}

/// A backup that was given the tags of its volume while that moved: no move made it, so none deletes it.
#[test]
fn a_backup_with_the_tags_of_a_volume_that_moves_is_kept() {
    let lab = Lab::new();
    let of = lab.volume(VolumeSpec::pool("d", "p").id(&id(1)));
    let mark = format!("{} 2026-01-01T00:00:00Z move-{}", lab.me, "0".repeat(40));
    let spec = crate::fakeaws::SnapshotSpec::pool("d", "p").age(9000).tag("user:ec2fd.moving", &mark);
    let backup = lab.server.world().add_snapshot(spec.tag("user:ec2fd.owner", &lab.me).of(&of));
    let run = lab.run(&good_pm(), fast());
    run.ends(0, &["started"]);
    assert!(lab.server.world().snapshots.contains_key(&backup), "{run}");
}

fn good_pm() -> String {
    config(&volume("pm", "/dev/xvdf", P))
}

/// One empty answer about the original is no reason to start on a copy that no run has finished.
#[test]
fn one_empty_answer_about_an_original_does_not_make_its_copy_the_data() {
    let lab = moving_lab();
    let copy = lab.volume(VolumeSpec::pool("d", "p").id(&id(7)));
    let token = "ec2fd-0123456789012345678901234567890123456789";
    for (tag, value) in [
        ("lineage", id(1).as_str()),
        ("generation", "1"),
        ("in-transit", token),
        ("transc-id", token),
        ("owner", "i-0dead"),
    ] {
        set(&lab, &copy, tag, value);
    }
    lab.server.world().volumes.values_mut().for_each(|v| v.created -= time::Duration::hours(2));
    lab.fault(Fault::new("DescribeVolumes", Nth::Only(1), FaultKind::Empty).with_value(&id(1)));
    let run = lab.run(&config(&volume("p", "/dev/xvdf", P)), fast());
    run.ends(1, &[]);
    assert_eq!(lab.attached(&lab.me), [], "{run}");
}

/// The mark of the commit came through before the kill: it is committed, whatever becomes of the next run.
#[test]
fn what_was_marked_before_a_kill_stays_committed() {
    let lab = moving_lab();
    let text = config(&directive("pm", "/dev/xvdf", P, NOTE));
    let mark =
        Fault::new("CreateTags", Nth::Only(1), FaultKind::HangAfter(1 << 30)).with_value("user:ec2fd.ts-created");
    lab.fault(mark);
    let run = lab.start(&text, fast());
    lab.until("the mark", || lab.created().first().is_some_and(|v| !lab.tag(v, "ts-created").is_empty()));
    run.signal("KILL");
    run.wait(&lab);
    lab.server.world().faults.clear();
    let copy = lab.created().remove(0);
    let run = lab.run(&config(&directive("pm", "/dev/xvdf", P, "exit 7")), fast());
    run.ends(1, &["exit code 7"]);
    assert_eq!(
        (lab.tag(&copy, "in-transit"), lab.tag(&copy, "ts-created").is_empty()),
        (String::new(), false),
        "{run}"
    );
}

/// EC2 gave no answer to DetachVolume and did not carry it out; a read that lags, or is empty, says that it is detached.
#[test]
fn a_detachment_without_an_answer_is_asked_for_until_there_is_one() {
    for lag in [FaultKind::Empty, FaultKind::Slow(0)] {
        let lab = Lab::new();
        lab.volume(VolumeSpec::pool("d", "p").id(&id(1)));
        lab.fault(Fault::first("DetachVolume", 1, FaultKind::Status503));
        lab.fault(Fault::first("DetachVolume", 1, FaultKind::Hang(200)));
        lab.fault(Fault::new("DescribeVolumes", Nth::Only(2), lag));
        let run = lab.run(&config(&directive("p", "/dev/xvdf", P, "exit 7")), once().rate(10));
        run.ends(1, &["exit code 7"]);
        assert_eq!(lab.attached(&lab.me), [], "{run}");
    }
}

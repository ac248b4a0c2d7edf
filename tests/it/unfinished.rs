//! What a run made and has not committed: no other instance takes it, and its maker deletes nothing that another has.

use crate::disks::{HOLD, NOTE, config, directive, id, volume};
use crate::fakeaws::{Fault, FaultKind, Nth};
use crate::kit::{on, sh};
use crate::lab::{How, Lab, once};
use crate::matrix_kills::kill_how;

const CREATE: &str = r#""pool-name": "p", create: { Size: 1 }"#;

fn fast() -> How {
    once().rate(20)
}

fn hour_later(lab: &Lab) {
    let mut w = lab.server.world();
    w.volumes.values_mut().for_each(|v| v.created -= time::Duration::hours(1));
}

/// D1: DeleteVolume is throttled for long, and another instance waits for the pool meanwhile.
#[test]
fn what_is_rolled_back_is_taken_by_nobody() {
    let lab = Lab::new();
    let other = lab.neighbour();
    lab.fault(Fault::first("DeleteVolume", 4, FaultKind::Throttle));
    let waits = config(&volume("p", "/dev/xvdf", r#""pool-name": "p", wait: 100"#));
    let waiting = lab.start(&waits, fast().on(&other));
    lab.until("its first look", || lab.count("DescribeVolumes") > 0);
    let run = lab.run(&config(&directive("c", "/dev/xvdf", CREATE, "exit 1")), fast());
    run.ends(1, &["deleted: this run created it"]);
    let waited = waiting.wait(&lab);
    waited.ends(1, &[]);
    assert_eq!(lab.server.calls_of("AttachVolume").len(), 1, "{waited}");
    lab.nothing_left(&run);
}

/// D1: somebody who does not respect the marks (a person, an older version) takes it, uses it and lets it go.
#[test]
fn what_another_instance_has_used_is_not_deleted() {
    for gone in [false, true] {
        let lab = Lab::new();
        let other = lab.neighbour();
        lab.fault(Fault::first("DeleteVolume", 4, FaultKind::Throttle));
        let run = lab.start(&config(&directive("c", "/dev/xvdf", CREATE, "exit 1")), once());
        lab.until("a deletion", || lab.count("DeleteVolume") > 0);
        let made = lab.created().remove(0);
        lab.take(&made, &other, "/dev/xvdf");
        if gone {
            let mut w = lab.server.world();
            w.volumes.get_mut(&made).unwrap().tags.insert("user:ec2fd.owner".into(), other.clone());
            drop(w);
            lab.free(&made);
        }
        let run = run.wait(&lab);
        let why = if gone { "now belongs to" } else { "is now attached to" };
        run.ends(1, &[&format!("not deleting {made}, which this run created: {made} {why} {other}")]);
        assert_eq!(lab.created(), [made], "{run}");
    }
}

/// D1: as long as the roll-back goes on it has the marks of what is not finished, whatever was reached before.
#[test]
fn it_is_marked_again_before_it_is_detached() {
    let lab = Lab::new();
    // The command has ended well, and the records fail: the volume was marked as data beside them.
    let records = r#"{ hostedzone: "Z1", name: "a.example.com", ttl: 60 }"#;
    let text = config(&directive("c", "/dev/xvdf", CREATE, NOTE))
        .replace("d: {", &format!(r#"d: {{ "update-route53": [{records}], "#));
    lab.server.world().deny("Route53:ChangeResourceRecordSets");
    lab.fault(Fault::first("DetachVolume", 1, FaultKind::Hang(600)));
    let run = lab.start(&text, once());
    lab.until("the detachment", || lab.count("DetachVolume") > 0);
    let made = lab.created().remove(0);
    let keys = lab.tag_keys(&made);
    assert!(keys.contains(&"in-transit".to_owned()) && keys.contains(&"ts-used".to_owned()), "{keys:?}");
    let run = run.wait(&lab);
    run.ends(1, &[]);
    lab.nothing_left(&run);
}

/// What cannot be marked as unfinished again stays attached: nobody may take it for data.
#[test]
fn without_the_mark_it_is_not_detached() {
    let lab = Lab::new();
    // The answer to the commit's mark is lost; after that nothing is allowed any more.
    let mark = Fault::new("CreateTags", Nth::Only(1), FaultKind::ErrorAfter500).with_value("user:ec2fd.ts-created");
    lab.fault(mark);
    let run = lab.start(&config(&directive("c", "/dev/xvdf", CREATE, NOTE)), fast());
    lab.until("the mark", || lab.created().first().is_some_and(|v| lab.tag_keys(v).contains(&"ts-created".to_owned())));
    lab.fault(Fault::every("CreateTags", FaultKind::Denied));
    lab.fault(Fault::every("DeleteTags", FaultKind::Denied));
    let run = run.wait(&lab);
    run.ends(3, &["so that nobody takes it for data", "allow ec2:CreateTags"]);
    let made = lab.created().remove(0);
    lab.has(&[(&made, "/dev/xvdf")], &run);
}

/// D3: its maker is killed while a command works on it.
#[test]
fn what_its_maker_was_killed_over_is_left_alone_for_an_hour() {
    let lab = Lab::new();
    let other = lab.neighbour();
    let run = lab.start(&config(&directive("c", "/dev/xvdf", CREATE, HOLD)), fast());
    lab.until_file("first");
    let made = lab.created().remove(0);
    run.signal("KILL");
    run.wait(&lab);
    // The instance ends.
    lab.free(&made);
    let p = config(&volume("p", "/dev/xvdf", r#""pool-name": "p""#));
    let run = lab.run(&p, fast().on(&other));
    run.ends(1, &["still being made by another instance"]);
    assert!(lab.attached(&other).is_empty(), "{run}");
    hour_later(&lab);
    let run = lab.run(&p, fast().on(&other));
    run.ends(0, &[]);
    assert_eq!(lab.attached(&other)[0].0, made, "{run}");
    assert_eq!(lab.tag(&made, "transc-id"), "", "{run}");
}

/// What was committed is data from that moment on, whatever becomes of its maker.
#[test]
fn what_was_committed_is_offered_at_once() {
    for records in ["", r#""update-route53": [{ hostedzone: "Z1", name: "a.example.com", ttl: 60 }], "#] {
        let lab = Lab::new();
        let other = lab.neighbour();
        let exec = format!("exec: [{}], {records}", on(&["started"], &[sh(HOLD)]));
        let text = config(&directive("c", "/dev/xvdf", CREATE, NOTE)).replace("d: {", &format!("d: {{ {exec}"));
        let run = lab.start(&text, fast());
        lab.until_file("first");
        let made = lab.created().remove(0);
        run.signal("KILL");
        run.wait(&lab);
        lab.free(&made);
        let run = lab.run(&config(&volume("p", "/dev/xvdf", r#""pool-name": "p""#)), fast().on(&other));
        run.ends(0, &[]);
        assert_eq!(lab.attached(&other)[0].0, made, "{run}");
    }
}

/// What cannot be marked as data is not committed.
#[test]
fn a_volume_that_cannot_be_marked_is_rolled_back() {
    let lab = Lab::new();
    lab.fault(Fault::every("CreateTags", FaultKind::Denied));
    let text = config(&directive("c", "/dev/xvdf", CREATE, NOTE));
    let run = lab.run(&text, fast());
    run.ends(1, &["mark vol-", "as data that other instances may use", "allow ec2:CreateTags"]);
    lab.nothing_left(&run);
    lab.server.world().faults.clear();
    let run = lab.run(&text, fast());
    run.ends(0, &[]);
    assert_eq!(lab.created().len(), 1, "{run}");
}

/// Late tags: the tags of the commit are written after ten minutes, on a volume that is another's by then.
#[test]
fn the_tags_of_a_commit_are_not_written_on_what_is_anothers() {
    let lab = Lab::new();
    lab.pool_of(1);
    let other = lab.neighbour();
    // The claim's tags come through, those of the commit wait for a throttle.
    lab.fault(Fault::new("CreateTags", crate::fakeaws::Nth::From(2), FaultKind::Throttle));
    let text = config(&volume("p", "/dev/xvdf", r#""pool-name": "p""#));
    let run = lab.start(&text, How::default().rate(20));
    run.says(&lab, "ready: d started");
    lab.until("the throttle", || lab.count("CreateTags") > 1);
    lab.free(&id(1));
    lab.take(&id(1), &other, "/dev/xvdf");
    {
        let mut w = lab.server.world();
        w.faults.clear();
        let tags = &mut w.volumes.get_mut(&id(1)).unwrap().tags;
        tags.insert("user:ec2fd.owner".into(), other.clone());
        tags.insert("user:ec2fd.ts-used".into(), "2026-01-01T00:00:00Z".into());
    }
    run.says(&lab, "leaving the time of use alone");
    run.signal("TERM");
    let run = run.wait(&lab);
    assert_eq!(lab.tag(&id(1), "owner"), other, "{run}");
    assert_eq!(lab.tag(&id(1), "ts-used"), "2026-01-01T00:00:00Z", "{run}");
}

/// The same in a roll-back that is throttled: the volume is another's when the throttle ends.
#[test]
fn a_roll_back_does_not_overwrite_the_tags_of_who_has_it_by_then() {
    let lab = Lab::new();
    lab.pool_of(1);
    let other = lab.neighbour();
    lab.server.world().volumes.get_mut(&id(1)).unwrap().tags.insert("user:ec2fd.owner".into(), "i-0before".into());
    lab.fault(Fault::new("CreateTags", crate::fakeaws::Nth::From(2), FaultKind::Throttle));
    let text = config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, "exit 1"));
    let run = lab.start(&text, fast());
    lab.until("the throttle", || lab.count("CreateTags") > 1);
    lab.free(&id(1));
    lab.take(&id(1), &other, "/dev/xvdf");
    {
        let mut w = lab.server.world();
        w.faults.clear();
        w.volumes.get_mut(&id(1)).unwrap().tags.insert("user:ec2fd.owner".into(), other.clone());
    }
    let run = run.wait(&lab);
    run.ends(1, &["is now attached to"]);
    assert_eq!((lab.tag(&id(1), "owner"), lab.attached(&other).len()), (other.clone(), 1), "{run}");
}

/// A run that is killed between the deletion's look and the deletion, or anywhere in a roll-back, leaves what the next one
/// settles; nobody else has it meanwhile.
#[test]
fn a_roll_back_that_is_killed_leaves_nothing_for_others() {
    for (action, after) in [("DetachVolume", true), ("DeleteVolume", false), ("CreateTags", true), ("DeleteTags", true)]
    {
        let lab = Lab::new();
        let other = lab.neighbour();
        let bad = config(&directive("c", "/dev/xvdf", CREATE, "exit 1"));
        assert!(kill_how(&lab, &bad, fast(), action, 1, after), "{action}");
        let made = lab.created().remove(0);
        lab.until("the detachment", || lab.attached(&lab.me).is_empty() || action.ends_with("Tags"));
        if action.ends_with("Tags") {
            lab.free(&made);
        }
        let run = lab.run(&config(&volume("p", "/dev/xvdf", r#""pool-name": "p""#)), fast().on(&other));
        run.ends(1, &["still being made by another instance"]);
        assert!(lab.attached(&other).is_empty(), "{action} {run}");
    }
}

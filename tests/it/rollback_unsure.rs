//! Roll-back of what is not known for sure: lost answers, old reads, volumes of earlier runs.

use crate::disks::{HOLD, NOTE, config, directive, id, timed};
use crate::fakeaws::{Fault, FaultKind};
use crate::kit::{one, record, zone};
use crate::lab::{How, Lab, once};

fn p(script: &str) -> String {
    directive("p", "/dev/xvdf", r#""pool-name": "p""#, script)
}

#[test]
fn a_claim_that_worked_unseen_is_found_in_spite_of_old_reads() {
    let lab = Lab::new();
    lab.pool_of(1);
    lab.knobs(|k| k.stale_ms = 1500);
    lab.fault(Fault::every("AttachVolume", FaultKind::ErrorAfter500));
    let run = lab.start(&config(&p(NOTE)), How::default());
    lab.until("an attachment", || !lab.attached(&lab.me).is_empty());
    run.signal("TERM");
    let run = run.wait(&lab);
    run.ends(0, &["detached"]);
    lab.nothing_left(&run);
}

#[test]
fn a_roll_back_with_old_reads_leaves_nothing() {
    let lab = Lab::new();
    lab.pool_of(1);
    lab.knobs(|k| k.stale_ms = 400);
    let c = directive("c", "/dev/xvdg", r#""pool-name": "q", create: { Size: 1 }"#, "exit 1");
    let run = lab.run(&config(&format!("{}, {c}", p(NOTE))), once());
    run.ends(1, &["exit code 1"]);
    lab.nothing_left(&run);
    assert_eq!(lab.tag_keys(&id(1)), ["domain", "pool-name"], "{run}");
}

#[test]
fn a_volume_that_an_earlier_run_made_is_left_in_transit_and_finished_later() {
    let lab = Lab::new();
    lab.knobs(|k| k.creating_ms = 1 << 40);
    let c = |script: &str| config(&directive("c", "/dev/xvdf", "create: { Size: 1 }", script));
    let run = lab.start(&c(NOTE), once());
    lab.until("a volume", || lab.created().len() == 1);
    run.signal("KILL");
    run.wait(&lab);
    lab.lose_journal();
    let made = lab.created().remove(0);
    lab.server.world().volumes.get_mut(&made).unwrap().due = Some(0);
    let run = lab.run(&c("exit 4"), once());
    run.ends(1, &["exit code 4", "is left in transit"]);
    assert!(lab.attached(&lab.me).is_empty(), "{run}");
    assert_ne!(lab.tag(&made, "in-transit"), "", "{run}");
    assert_eq!(lab.count("DeleteVolume"), 0, "{run}");
    let run = lab.run(&c(NOTE), once());
    run.ends(0, &[]);
    lab.has(&[(&made, "/dev/xvdf")], &run);
    assert_eq!(lab.created(), [made], "{run}");
}

#[test]
fn tags_that_cannot_be_taken_off_are_a_warning() {
    let lab = Lab::new();
    let all = lab.pool_of(1);
    lab.server.world().deny("EC2:DeleteTags");
    let run = lab.run(&config(&p("exit 1")), once());
    run.ends(1, &[&format!("cannot put the tags of {} back", all[0])]);
    lab.nothing_left(&run);
}

#[test]
fn a_volume_that_somebody_else_detached_meanwhile_is_no_problem() {
    let lab = Lab::new();
    let all = lab.pool_of(1);
    let run = lab.start(&config(&p(&format!("{HOLD}; exit 1"))), once());
    lab.until_file("first");
    let other = lab.neighbour();
    {
        let mut w = lab.server.world();
        let v = w.volumes.get_mut(&all[0]).unwrap();
        v.attachments.clear();
        v.state = "available".into();
    }
    // By now it is another's: neither it nor its tags are ours to touch.
    lab.take(&all[0], &other, "/dev/xvdf");
    lab.server.world().volumes.get_mut(&all[0]).unwrap().tags.insert("user:ec2fd.owner".into(), other.clone());
    std::fs::write(lab.dir.join("go"), "").unwrap();
    let run = run.wait(&lab);
    run.ends(1, &["exit code 1"]);
    assert_eq!(lab.attached(&other), [(all[0].clone(), "/dev/xvdf".to_owned())], "{run}");
    assert_eq!(lab.tag(&all[0], "owner"), other, "{run}");
}

#[test]
fn a_created_volume_that_another_instance_took_meanwhile_is_not_deleted() {
    let lab = Lab::new();
    let c = directive("c", "/dev/xvdf", r#""pool-name": "p", create: { Size: 1 }"#, &format!("{HOLD}; exit 1"));
    let run = lab.start(&config(&c), once().rate(8));
    lab.until_file("first");
    let (made, other) = (lab.created().remove(0), lab.neighbour());
    {
        let mut w = lab.server.world();
        let v = w.volumes.get_mut(&made).unwrap();
        v.attachments.clear();
        v.state = "available".into();
    }
    lab.take(&made, &other, "/dev/xvdf");
    std::fs::write(lab.dir.join("go"), "").unwrap();
    let run = run.wait(&lab);
    assert_eq!(lab.count("DeleteVolume"), 0, "{run}");
    run.ends(1, &["exit code 1"]);
}

#[test]
fn a_list_that_is_denied_during_the_roll_back_ends_with_exit_3() {
    let lab = Lab::new();
    let all = lab.pool_of(1);
    let run = lab.start(&config(&p(&format!("{HOLD}; exit 1"))), once());
    lab.until_file("first");
    lab.server.world().deny("EC2:DescribeVolumes");
    std::fs::write(lab.dir.join("go"), "").unwrap();
    let run = run.wait(&lab);
    run.ends(3, &[&all[0], "allow ec2:DescribeVolumes"]);
    // The detachment was asked for all the same.
    lab.until("the detachment", || lab.attached(&lab.me).is_empty());
}

#[test]
fn a_roll_back_has_its_own_time() {
    let lab = Lab::new();
    lab.pool_of(1);
    lab.knobs(|k| k.detaching_ms = 1500);
    let run = lab.run(&timed(15, &p("sleep 600")), once().rate(20));
    run.ends(1, &["detached"]);
    lab.nothing_left(&run);
}

#[test]
fn a_created_volume_that_another_instance_takes_before_the_deletion_is_not_waited_for() {
    let lab = Lab::new();
    lab.knobs(|k| k.delete_in_use_ms = 1000);
    let c = directive("c", "/dev/xvdf", r#""pool-name": "p", create: { Size: 1 }"#, "exit 1");
    let run = lab.start(&config(&c), once());
    lab.until("a deletion", || lab.count("DeleteVolume") > 0);
    let (made, other) = (lab.created().remove(0), lab.neighbour());
    lab.take(&made, &other, "/dev/xvdf");
    let run = run.wait(&lab);
    run.ends(1, &[&format!("not deleting {made}, which this run created: {made} is now attached to {other}")]);
    assert_eq!(lab.attached(&other).len(), 1, "{run}");
}

#[test]
fn writes_whose_answers_cannot_be_read_are_rolled_back_too() {
    let create = r#""pool-name": "q", create: { Size: 1 }"#;
    let volume = config(&directive("c", "/dev/xvdf", create, NOTE));
    // They are carried out, and a proxy cuts all their answers short.
    let lab = Lab::new();
    lab.fault(Fault::first("CreateVolume", 5, FaultKind::Truncated));
    let run = lab.run(&volume, once());
    run.ends(1, &["the answer is not XML"]);
    lab.nothing_left(&run);
    // Of a record a look tells.
    let lab = Lab::new();
    lab.fault(Fault::every("ChangeResourceRecordSets", FaultKind::Truncated));
    let run = lab.run(&one(&format!("\"update-route53\": [{}]", record("a.example.com", ""))), once().rate(4));
    run.ends(0, &["looking again: the answer is not XML", "a.example.com. is now A"]);
    assert_eq!(lab.server.calls_of("ChangeResourceRecordSets").len(), 1, "{run}");
    // Unless it cannot be looked at either: then the roll-back, which can, puts it back.
    let lab = Lab::new();
    lab.fault(Fault::every("ChangeResourceRecordSets", FaultKind::Truncated));
    lab.fault(Fault::nth("ListResourceRecordSets", 2, FaultKind::Denied));
    let run = lab.run(&one(&format!("\"update-route53\": [{}]", record("a.example.com", ""))), once().rate(4));
    run.ends(1, &["the answer is not XML"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
}

#[test]
fn what_may_have_worked_is_put_back_although_the_next_try_was_refused() {
    // The first call is carried out and its answer lost; the second one is refused for good.
    let lost_then_denied = |lab: &Lab, action: &str| {
        lab.fault(Fault::nth(action, 1, FaultKind::ResetAfter));
        lab.fault(Fault::nth(action, 2, FaultKind::Denied));
    };
    let lab = Lab::new();
    lost_then_denied(&lab, "CreateVolume");
    let c = directive("c", "/dev/xvdg", r#""pool-name": "q", create: { Size: 1 }"#, NOTE);
    let run = lab.run(&config(&c), once());
    run.ends(1, &["cannot create a volume: UnauthorizedOperation", "deleted: this run created it"]);
    lab.nothing_left(&run);

    // A write of records is looked at before it is tried again.
    let lab = Lab::new();
    lost_then_denied(&lab, "ChangeResourceRecordSets");
    let run = lab.run(&one(&format!(r#""update-route53": [{}]"#, record("a.example.com", ""))), once());
    run.ends(0, &["a.example.com. is now A"]);
    let lab = Lab::new();
    lab.fault(Fault::nth("ChangeResourceRecordSets", 1, FaultKind::ResetBefore));
    lab.fault(Fault::nth("ChangeResourceRecordSets", 2, FaultKind::Denied));
    let run = lab.run(&one(&format!(r#""update-route53": [{}]"#, record("a.example.com", ""))), once());
    run.ends(1, &["AccessDenied", "failed: d"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
}

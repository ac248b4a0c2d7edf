//! What the run after one that was cut off must never do: delete what was used, take away what somebody uses, forget
//! what it was left.

use crate::disks::{HOLD, NOTE, config, directive, id, timed, volume};
use crate::fakeaws::{Fault, FaultKind, VolumeSpec};
use crate::journal::{journal, killed_at, killed_in_command, with_record};
use crate::kit::{add, zone};
use crate::lab::{Lab, once};

const NEVER: u64 = 1 << 30;
const CREATE: &str = r#""pool-name": "p", create: { Size: 4 }"#;

fn detached_by_hand(lab: &Lab, volume: &str) {
    let mut w = lab.server.world();
    let v = w.volumes.get_mut(volume).unwrap();
    v.attachments.clear();
    v.state = "available".into();
}

/// A config without volumes and records.
fn nothing() -> String {
    config("")
}

fn pool(script: &str) -> String {
    config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, script))
}

#[test]
fn a_volume_that_was_used_is_not_deleted_where_the_answer_that_names_it_is_lost() {
    let lab = Lab::new();
    let c = |script: &str| directive("c", "/dev/xvdf", CREATE, script);
    killed_in_command(&lab, &config(&c(HOLD)));
    // Commands ran on it, and it is left in transit for the next run to finish.
    lab.run(&config(&c("exit 1")), once().rate(4)).ends(1, &["going on with"]);
    let made = lab.created().remove(0);
    assert_eq!((lab.tag(&made, "in-transit").is_empty(), lab.tag(&made, "ts-used").is_empty()), (false, false));
    lab.fault(Fault::every("CreateVolume", FaultKind::HangAfter(NEVER)));
    let run = lab.run(&timed(5, &c(NOTE)), once().rate(5));
    run.ends(1, &[]);
    assert_eq!((lab.count("DeleteVolume"), lab.state(&made)), (0, "available".to_owned()), "{run}");
}

#[test]
fn a_volume_that_another_instance_used_meanwhile_is_not_deleted() {
    let lab = Lab::new();
    let c = |script: &str| config(&directive("c", "/dev/xvdf", CREATE, script));
    killed_at(&lab, &c(NOTE), "CreateVolume", 1);
    let made = lab.created().remove(0);
    // An hour later it was another's, whose commands failed: that instance put the tags back as they were.
    lab.server.world().volumes.get_mut(&made).unwrap().tags.insert("user:ec2fd.ts-used".into(), "2026-01-01".into());
    let run = lab.run(&c("exit 1"), once().rate(4));
    run.ends(1, &[]);
    assert_eq!((lab.count("DeleteVolume"), lab.state(&made)), (0, "available".to_owned()), "{run}");
}

#[test]
fn what_an_earlier_run_made_and_this_one_names_stays_where_it_is() {
    let lab = Lab::new();
    killed_in_command(&lab, &config(&directive("c", "/dev/xvdf", CREATE, HOLD)));
    let made = lab.created().remove(0);
    detached_by_hand(&lab, &made);
    lab.lose_journal();
    let run = lab.run(&config(&volume("x", "/dev/xvdf", &format!(r#""volume-id": "{made}""#))), once().rate(4));
    run.ends(0, &["ready: d started"]);
    lab.has(&[(&made, "/dev/xvdf")], &run);
    assert_eq!(lab.count("DetachVolume"), 0, "{run}");
}

#[test]
fn what_somebody_attached_under_another_name_is_not_detached() {
    let lab = Lab::new();
    lab.pool_of(1);
    lab.fault(Fault::every("AttachVolume", FaultKind::Hang(NEVER)));
    let run = lab.start(&pool(NOTE), once().rate(4));
    lab.until("the call", || lab.count("AttachVolume") > 0);
    lab.take(&id(1), &lab.me, "/dev/xvdg");
    run.signal("TERM");
    let run = run.wait(&lab);
    lab.has(&[(&id(1), "/dev/xvdg")], &run);
    assert_eq!(lab.count("DetachVolume"), 0, "{run}");

    // The same where the next run finds it.
    for text in [nothing(), pool("exit 1")] {
        let lab = Lab::new();
        lab.pool_of(1);
        lab.fault(Fault::every("AttachVolume", FaultKind::Hang(NEVER)));
        let run = lab.start(&pool(NOTE), once());
        lab.until("the call", || lab.count("AttachVolume") > 0);
        run.signal("KILL");
        run.wait(&lab);
        lab.server.world().faults.clear();
        lab.take(&id(1), &lab.me, "/dev/xvdg");
        let run = lab.run(&text, once().rate(4));
        lab.has(&[(&id(1), "/dev/xvdg")], &run);
        assert_eq!(lab.count("DetachVolume"), 0, "{run}");
    }
}

#[test]
fn what_was_made_is_put_back_where_this_run_may_not_go_on_with_it() {
    for (source, denied) in [("c", "EC2:CreateVolume"), ("c", "EC2:AttachVolume"), ("pc", "EC2:AttachVolume")] {
        let lab = Lab::new();
        let text = config(&volume(source, "/dev/xvdf", CREATE));
        killed_at(&lab, &text, "CreateVolume", 1);
        lab.server.world().deny(denied);
        let run = lab.run(&text, once().rate(10));
        run.ends(1, &[]);
        assert!(lab.created().is_empty(), "{source} {denied} {run}");
        assert!(!journal(&lab).exists(), "{source} {denied} {run}");
    }
}

#[test]
fn a_record_is_put_back_though_what_this_run_wants_there_is_refused() {
    let lab = Lab::new();
    add(&lab, "old.example.com", "A", 300, &["192.0.2.1"]);
    let text = with_record("");
    killed_at(&lab, &text, "ChangeResourceRecordSets", 1);
    let run = lab.run(&text.replace("ttl: 60", "ttl: 99999999999"), once().rate(4));
    run.ends(1, &["old.example.com. in hosted zone Z1 removed"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
    assert!(!journal(&lab).exists(), "{run}");
}

#[test]
fn a_record_is_put_back_after_two_kills_of_which_the_second_wrote_nothing() {
    for wanted in [false, true] {
        let lab = Lab::new();
        add(&lab, "old.example.com", "A", 300, &["192.0.2.1"]);
        let text = with_record("");
        killed_at(&lab, &text, "ChangeResourceRecordSets", 1);
        lab.server.reset_calls();
        lab.fault(Fault::nth("ChangeResourceRecordSets", 1, FaultKind::Hang(NEVER)));
        let run = lab.start(&text.replace("ttl: 60", "ttl: 90"), once());
        lab.until("the call", || lab.server.calls().iter().any(|c| c.fault.is_some()));
        run.signal("KILL");
        assert_eq!(run.wait(&lab).code, 137);
        lab.server.world().faults.clear();
        let (text, code) = match wanted {
            true => (text.replace("ttl: 60", "ttl: 99999999999"), 1),
            false => (nothing(), 0),
        };
        let run = lab.run(&text, once().rate(4));
        run.ends(code, &[]);
        assert!(zone(&lab, "Z1").is_empty(), "{wanted} {run}");
        assert!(!journal(&lab).exists(), "{run}");
    }
}

#[test]
fn a_signal_while_it_is_put_back_does_not_leave_it() {
    let lab = Lab::new();
    lab.pool_of(1);
    killed_in_command(&lab, &pool(HOLD));
    lab.fault(Fault::nth("DetachVolume", 1, FaultKind::Hang(NEVER)));
    let run = lab.start(&nothing(), once().rate(4));
    lab.until("the call", || lab.count("DetachVolume") > 0);
    run.signal("TERM");
    let run = run.wait(&lab);
    run.ends(0, &[]);
    lab.nothing_left(&run);
    assert!(!journal(&lab).exists(), "{run}");
}

#[test]
fn what_does_not_let_itself_be_put_back_leaves_time_for_the_run() {
    let lab = Lab::new();
    lab.pool_of(1);
    lab.volume(VolumeSpec::default().id(&id(9)));
    killed_in_command(&lab, &pool(HOLD));
    lab.knobs(|k| k.detaching_ms = 1 << 40);
    let text = config(&volume("x", "/dev/xvdg", &format!(r#""volume-id": "{}""#, id(9))));
    let run = lab.run(&text, once().rate(60));
    run.ends(0, &["cannot be put back", "ready: d started"]);
    assert!(journal(&lab).exists(), "{run}");
}

#[test]
fn a_volume_that_two_domains_name_is_not_taken_from_the_one_that_stands() {
    let of = |device: &str, script: &str| directive("x", device, &format!(r#""volume-id": "{}""#, id(1)), script);
    let d = of("/dev/xvdf", "touch $LAB/claimed; until [ -e $LAB/used ]; do sleep 0.02; done; exit 1");
    let e = of("", "until [ -e $LAB/claimed ]; do sleep 0.02; done; touch $LAB/used");
    let text = format!(
        r#"{{ domains: {{ d: {{ "attach-volume": [{d}] }}, e: {{ critical: false, "attach-volume": [{e}] }} }} }}"#
    );
    let lab = Lab::new();
    lab.volume(VolumeSpec::default().id(&id(1)));
    // Whoever chooses a name asks for those that are taken first: the other one claims meanwhile.
    lab.fault(Fault::first("DescribeVolumes", 1, FaultKind::Slow(700)).with_value("attachment.instance-id"));
    let run = lab.run(&text, once().rate(4));
    run.ends(1, &["failed: d"]);
    lab.has(&[(&id(1), "/dev/xvdf")], &run);
}

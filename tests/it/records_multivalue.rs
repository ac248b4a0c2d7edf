//! `policy: "multivalue"`: a name that a fleet shares, each instance with a record of its own; and the sweep of the dead.

use crate::fakeaws::{Fault, FaultKind, InstanceSpec, RecordSet};
use crate::kit::{add, nic, on, one, record, sh, with_nics, zone};
use crate::lab::{How, Lab, once};

const NAME: &str = "fleet.example.com";

fn text(more: &str) -> String {
    one(&format!(r#""update-route53": [{}]"#, record(NAME, &format!(r#"policy: "multivalue", {more}"#))))
}

/// With a record that cannot be written: the domain is rolled back.
fn doomed() -> String {
    let records = [record(NAME, r#"policy: "multivalue""#), record("outside.example.org", "")];
    one(&format!(r#""update-route53": [{}]"#, records.join(", ")))
}

fn member(id: &str, ip: &str) -> RecordSet {
    RecordSet::new(NAME, "A", 60, &[ip]).routed(id, "MultiValueAnswer", "true")
}

fn put(lab: &Lab, set: RecordSet) {
    lab.server.world().add_record("Z1", set);
}

/// Set identifier and value of all A sets at the name.
fn members(lab: &Lab) -> Vec<(String, String)> {
    let records = lab.server.world().records("Z1");
    let at = records.into_iter().filter(|r| r.name == format!("{NAME}.") && r.kind == "A");
    at.map(|r| (r.set_id.unwrap_or_default(), r.values.join(","))).collect()
}

fn has(lab: &Lab, id: &str) -> bool {
    members(lab).iter().any(|(set, _)| set == id)
}

/// A lab whose one instance has one address.
fn lab() -> Lab {
    with_nics(vec![nic(0, &["203.0.113.1"], &[])])
}

/// Another instance in this state, with a record at the name.
fn other(lab: &Lab, state: &str, ip: &str) -> String {
    let id = lab.add_instance(InstanceSpec::default());
    lab.server.world().set_instance_state(&id, state);
    put(lab, member(&id, ip));
    id
}

#[test]
fn each_instance_has_a_record_of_its_own() {
    let lab = Lab::new();
    let second = lab.add_instance(InstanceSpec::default());
    lab.run(&text(""), once()).ends(0, &["fleet.example.com. is now A 203.0.113.10 (ttl 60)"]);
    lab.run(&text(""), once().on(&second)).ends(0, &["fleet.example.com. is now A 203.0.113.11 (ttl 60)"]);
    let zone = zone(&lab, "Z1");
    assert_eq!(zone.len(), 4, "{zone:?}");
    assert!(zone.iter().all(|r| r.ends_with("MultiValueAnswer=true")), "{zone:?}");
    assert!(has(&lab, &lab.me) && has(&lab, &second));
    // Nothing changes where nothing has changed, and nobody is asked about but those who are there.
    lab.server.reset_calls();
    let run = lab.run(&text(""), once());
    run.ends(0, &["fleet.example.com. is as it should be"]);
    assert!(lab.server.writes().is_empty(), "{run}");
    assert_eq!(lab.server.calls_of("DescribeInstances").len(), 1, "{run}");
}

#[test]
fn an_instance_with_several_addresses_is_one_answer() {
    let lab = with_nics(vec![nic(0, &["203.0.113.1", "203.0.113.2"], &["2001:db8::1", "2001:db8::2"])]);
    lab.run(&text(""), once()).ends(0, &[]);
    let zone: Vec<String> = zone(&lab, "Z1");
    let want = ["fleet.example.com. A 60 203.0.113.1", "fleet.example.com. AAAA 60 2001:db8::1"];
    assert!(zone.len() == 2 && zone.iter().zip(want).all(|(r, want)| r.starts_with(want)), "{zone:?}");
}

#[test]
fn its_own_simple_record_becomes_one_of_several_in_one_batch() {
    for kind in [None, Some(FaultKind::ResetAfter), Some(FaultKind::ResetBefore), Some(FaultKind::ErrorAfter500)] {
        let lab = lab();
        add(&lab, NAME, "A", 300, &["203.0.113.1"]);
        if let Some(kind) = &kind {
            lab.server.world().fault(Fault::nth("ChangeResourceRecordSets", 1, kind.clone()));
        }
        let run = lab.run(&text(""), once().rate(20));
        run.ends(0, &["ready: d started"]);
        assert_eq!(members(&lab), [(lab.me.clone(), "203.0.113.1".into())], "{kind:?} {run}");
        let calls = lab.server.calls_of("ChangeResourceRecordSets");
        assert_eq!(calls[0].params["Change.1.Action"], "DELETE", "{run}");
        assert_eq!(calls[0].params["Change.2.Action"], "CREATE", "{run}");
    }
}

#[test]
fn somebody_elses_simple_record_is_left_and_named() {
    for values in [&["203.0.113.77"][..], &["203.0.113.1", "203.0.113.77"]] {
        let lab = lab();
        add(&lab, NAME, "A", 300, values);
        let run = lab.run(&text(""), once());
        run.ends(1, &["cannot write fleet.example.com.: a simple A record stands there (", "delete it (once,"]);
        assert!(lab.server.writes().is_empty(), "{run}");
    }
}

#[test]
fn a_simple_directive_does_not_touch_a_fleets_records() {
    let lab = lab();
    put(&lab, member("i-0123456789abcdef0", "203.0.113.7"));
    let run = lab.run(&one(&format!(r#""update-route53": [{}]"#, record(NAME, ""))), once());
    run.ends(1, &["its A records have a routing policy (set identifiers i-0123456789abcdef0)"]);
    assert!(lab.server.writes().is_empty(), "{run}");
}

#[test]
fn what_comes_between_is_planned_anew() {
    let lab = lab();
    let changed = FaultKind::Custom { status: 400, code: "InvalidChangeBatch".into(), message: "[changed]".into() };
    lab.server.world().fault(Fault::first("ChangeResourceRecordSets", 2, changed.clone()));
    let run = lab.run(&text(""), once().rate(20));
    run.ends(0, &["looking again: InvalidChangeBatch", "ready: d started"]);
    assert!(has(&lab, &lab.me), "{run}");
    // But not without an end.
    let lab = self::lab();
    lab.server.world().fault(Fault::every("ChangeResourceRecordSets", changed));
    let run = lab.run(&text(""), once().rate(20));
    run.ends(1, &["cannot write fleet.example.com. in hosted zone Z1: InvalidChangeBatch"]);
    assert_eq!(lab.server.calls_of("ChangeResourceRecordSets").len(), 5, "{run}");
}

#[test]
fn a_roll_back_puts_only_its_own_record_back() {
    for before in [None, Some("203.0.113.66")] {
        let lab = lab();
        put(&lab, member("i-0123456789abcdef0", "203.0.113.7"));
        if let Some(ip) = before {
            put(&lab, member(&lab.me, ip));
        }
        let zone_before = zone(&lab, "Z1");
        let run = lab.run(&doomed(), once());
        run.ends(1, &["is now A 203.0.113.1", "put back", "failed: d"]);
        assert_eq!(zone(&lab, "Z1"), zone_before, "{run}");
    }
}

#[test]
fn a_roll_back_makes_it_simple_again_unless_others_have_joined() {
    for joined in [false, true] {
        let lab = lab();
        add(&lab, NAME, "A", 300, &["203.0.113.1"]);
        // The bad one takes its time.
        let slow = Fault::every("ChangeResourceRecordSets", FaultKind::Slow(1500)).with_value("outside.example.org.");
        lab.server.world().fault(slow);
        let running = lab.start(&doomed(), once());
        lab.until("the record", || has(&lab, &lab.me));
        if joined {
            put(&lab, member("i-0123456789abcdef0", "203.0.113.7"));
        }
        let run = running.wait(&lab);
        run.ends(1, &["put back"]);
        match joined {
            true => assert_eq!(members(&lab), [("i-0123456789abcdef0".into(), "203.0.113.7".into())], "{run}"),
            false => assert_eq!(zone(&lab, "Z1"), ["fleet.example.com. A 300 203.0.113.1"], "{run}"),
        }
    }
}

#[test]
fn a_release_deletes_only_its_own_record() {
    let lab = lab();
    let other = other(&lab, "running", "203.0.113.7");
    let running = lab.start(&text(r#"release: ["stopping"]"#), How::default());
    running.says(&lab, "watching for interruptions");
    running.signal("TERM");
    running.wait(&lab).ends(0, &["fleet.example.com. A 203.0.113.1 is deleted"]);
    assert_eq!(members(&lab), [(other, "203.0.113.7".into())]);
}

#[test]
fn a_killed_runs_record_is_taken_back_when_nobody_wants_it() {
    let lab = lab();
    put(&lab, member("i-0123456789abcdef0", "203.0.113.7"));
    lab.server.world().fault(Fault::nth("ChangeResourceRecordSets", 1, FaultKind::HangAfter(20_000)));
    let mut running = lab.start(&text(""), once());
    lab.until("the record", || has(&lab, &lab.me));
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    lab.run(&one(""), once()).ends(0, &["fleet.example.com. in hosted zone Z1 put back"]);
    assert_eq!(members(&lab), [("i-0123456789abcdef0".into(), "203.0.113.7".into())]);
}

#[test]
fn the_records_of_instances_that_are_over_are_swept() {
    let lab = lab();
    let states = ["running", "stopped", "terminated", "shutting-down", "pending"];
    let ids: Vec<String> = states.iter().map(|s| other(&lab, s, "203.0.113.7")).collect();
    put(&lab, member("i-0123456789abcdef0", "203.0.113.8"));
    put(&lab, member("blue", "203.0.113.9"));
    let dead =
        RecordSet::new("else.example.com", "A", 60, &["203.0.113.7"]).routed(&ids[2], "MultiValueAnswer", "true");
    put(&lab, dead);
    let run = lab.run(&text(""), once().rate(20));
    run.ends(
        0,
        &[
            &format!("fleet.example.com. A 203.0.113.7 is deleted: {} is terminated", ids[2]),
            &format!("fleet.example.com. A 203.0.113.7 is deleted: {} is shutting-down", ids[3]),
        ],
    );
    let left: Vec<bool> = ids.iter().map(|id| has(&lab, id)).collect();
    assert_eq!(left, [true, true, false, false, true], "{run}");
    // Of one that EC2 does not know nothing is known; another name is nobody's business.
    assert!(has(&lab, "i-0123456789abcdef0") && has(&lab, "blue") && has(&lab, &lab.me), "{run}");
    assert!(zone(&lab, "Z1").iter().any(|r| r.starts_with("else.")), "{run}");
    assert_eq!(lab.server.calls_of("ChangeResourceRecordSets").len(), 2, "one for both\n{run}");
}

#[test]
fn what_ec2_does_not_know_is_swept_only_if_the_config_says_so() {
    for (sweep, stays, asked) in [("terminated", true, 1), ("missing", false, 2), ("never", true, 0)] {
        let lab = lab();
        put(&lab, member("i-0123456789abcdef0", "203.0.113.8"));
        let run = lab.run(&text(&format!(r#"sweep: "{sweep}""#)), once().rate(50));
        run.ends(0, &["ready: d started"]);
        assert_eq!(has(&lab, "i-0123456789abcdef0"), stays, "{sweep} {run}");
        assert_eq!(lab.server.calls_of("DescribeInstances").len(), asked, "{sweep} {run}");
    }
}

#[test]
fn an_answer_that_lacks_this_instance_proves_nothing() {
    let lab = lab();
    put(&lab, member("i-0123456789abcdef0", "203.0.113.8"));
    lab.server.world().forget_instance(&lab.me, 600_000);
    let run = lab.run(&text(r#"sweep: "missing""#), once().rate(50));
    run.ends(0, &["ready: d started"]);
    assert!(has(&lab, "i-0123456789abcdef0"), "{run}");
    assert_eq!(lab.server.calls_of("DescribeInstances").len(), 1, "{run}");
}

#[test]
fn a_sweep_that_is_not_allowed_is_a_warning() {
    let lab = lab();
    let dead = other(&lab, "terminated", "203.0.113.7");
    lab.server.world().deny("EC2:DescribeInstances");
    let run = lab.run(&text(""), once());
    run.ends(0, &["the records of instances that are gone are not swept:", "allow ec2:DescribeInstances"]);
    assert!(has(&lab, &dead), "{run}");
    assert_eq!(lab.server.calls_of("DescribeInstances").len(), 1, "{run}");
}

#[test]
fn throttles_and_lost_answers_of_a_sweep_are_ridden_out() {
    for (action, kind) in [
        ("DescribeInstances", FaultKind::Throttle),
        ("DescribeInstances", FaultKind::ResetAfter),
        ("DescribeInstances", FaultKind::Garbage),
        ("ChangeResourceRecordSets", FaultKind::Throttle),
        ("ChangeResourceRecordSets", FaultKind::ResetAfter),
    ] {
        let lab = lab();
        let dead = other(&lab, "terminated", "203.0.113.7");
        let n = if action == "DescribeInstances" { 1 } else { 2 };
        lab.server.world().fault(Fault::nth(action, n, kind.clone()));
        let run = lab.run(&text(""), once().rate(20));
        run.ends(0, &["ready: d started"]);
        assert!(!has(&lab, &dead) && has(&lab, &lab.me), "{action} {kind:?} {run}");
    }
}

#[test]
fn a_member_that_has_come_back_is_not_swept() {
    let lab = lab();
    let dead = other(&lab, "terminated", "203.0.113.7");
    let wait = on(&["started"], &[sh("until test -e $LAB/go; do sleep 0.01; done")]);
    let content = format!(r#""update-route53": [{}], exec: [{wait}]"#, record(NAME, r#"policy: "multivalue""#));
    let running = lab.start(&one(&content), once().rate(20));
    lab.until("its own record", || has(&lab, &lab.me));
    // Somebody has written there since it was read.
    put(&lab, member(&dead, "203.0.113.8"));
    lab.file("go", "");
    let run = running.wait(&lab);
    run.ends(0, &[]);
    assert!(has(&lab, &dead), "{run}");
}

#[test]
fn a_stop_ends_a_sweep() {
    let lab = lab();
    put(&lab, member("i-0123456789abcdef0", "203.0.113.8"));
    let running = lab.start(&text(r#"sweep: "missing""#), How::default());
    lab.until("the first look", || lab.server.calls_of("DescribeInstances").len() == 1);
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["stopped"]);
    assert!(has(&lab, "i-0123456789abcdef0"), "{run}");
}

#[test]
fn a_full_name_is_swept_before_it_is_given_up() {
    let lab = lab();
    for n in 0..99 {
        put(&lab, member(&format!("i-{n:08x}"), "203.0.113.7"));
    }
    let last = other(&lab, "terminated", "203.0.113.7");
    let run = lab.run(&text(""), once().rate(20));
    run.ends(0, &["is full: looking for instances that are gone", "is terminated", "ready: d started"]);
    assert!(!has(&lab, &last) && has(&lab, &lab.me) && members(&lab).len() == 100, "{run}");

    let lab = self::lab();
    for n in 0..100 {
        put(&lab, member(&format!("i-{n:08x}"), "203.0.113.7"));
    }
    let run = lab.run(&text(""), once().rate(20));
    run.ends(1, &["it has 100 A records, as many as Route 53 takes", "ec2:DescribeInstances"]);
    assert!(lab.server.writes().is_empty(), "{run}");
}

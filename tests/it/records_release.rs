//! `release` of records: deleted on the way out, after the volumes, and only where they are still as we wrote them.

use crate::disks::{directive, id};
use crate::fakeaws::{Fault, FaultKind, VolumeSpec};
use crate::kit::{add, on, one, record, sh, zone};
use crate::lab::{How, Lab, Run, Running};

/// Domains that poll often.
fn domains(list: &[&str]) -> String {
    let poll = r#""interrupt-detection": { detect: "poll", options: { interval: 0.02 } }"#;
    format!("{{ {poll}, domains: {{ {} }} }}", list.join(", "))
}

/// One domain with these records.
fn text(records: &[String]) -> String {
    domains(&[&format!(r#"d: {{ "update-route53": [{}] }}"#, records.join(", "))])
}

fn released(name: &str, events: &str) -> String {
    record(name, &format!("release: {events}"))
}

fn started(lab: &Lab, text: &str, how: How) -> Running {
    let running = lab.start(text, how);
    running.says(lab, "watching for interruptions");
    running
}

/// Runs until it is ended by SIGTERM.
fn until_stopped(lab: &Lab, text: &str, how: How) -> Run {
    let running = started(lab, text, how);
    running.signal("TERM");
    running.wait(lab)
}

/// The batches of changes: the actions of each.
fn batches(lab: &Lab) -> Vec<Vec<String>> {
    let actions = |p: &std::collections::BTreeMap<String, String>| {
        let at = |n: usize| p.get(&format!("Change.{n}.Action")).cloned();
        (1..).map_while(at).collect()
    };
    lab.server.calls_of("ChangeResourceRecordSets").iter().map(|c| actions(&c.params)).collect()
}

#[test]
fn the_records_of_an_event_go_in_one_batch_after_commands_and_volumes() {
    for event in ["interrupted", "stopping"] {
        let lab = Lab::new();
        lab.volume(VolumeSpec::default().id(&id(1)));
        let volume = directive("x", "/dev/xvdf", &format!(r#""volume-id": "{}", release: ["{event}"]"#, id(1)), "true");
        let records = [
            released("a.example.com", &format!("[\"{event}\"]")),
            released("b.example.com", &format!("{{ on: [\"{event}\"] }}")),
        ];
        let exec = on(&[event], &[sh("echo {daemon_state} >> $LAB/seen; sleep 0.2")]);
        let content = format!(
            r#"d: {{ "attach-volume": [{volume}], "update-route53": [{}], exec: [{exec}] }}"#,
            records.join(", ")
        );
        let running = started(&lab, &domains(&[&content]), How::default());
        assert_eq!(zone(&lab, "Z1").len(), 4);
        match event {
            "stopping" => running.signal("TERM"),
            _ => lab.server.world().notice(&lab.me, "terminate", 120),
        }
        let run = running.wait(&lab);
        run.ends(0, &["a.example.com. A 203.0.113.10 is deleted", "b.example.com. AAAA 2001:db8::a is deleted"]);
        assert!(zone(&lab, "Z1").is_empty(), "{run}");
        assert_eq!(batches(&lab)[1..], [["DELETE"; 4].map(str::to_owned).to_vec()], "{run}");
        // Not before the volume is free.
        let calls = lab.server.calls();
        let last = |action: &str| calls.iter().rposition(|c| c.action == action);
        assert!(last("DetachVolume") < last("ChangeResourceRecordSets"), "{run}");
        assert!(last("DescribeVolumes") < last("ChangeResourceRecordSets"), "{run}");
        assert_eq!(lab.lines("seen").len(), 1, "{run}");
        // Nothing is looked at where the DELETE itself tells.
        assert_eq!(lab.server.calls_of("ListResourceRecordSets").len(), 2, "{run}");
    }
}

#[test]
fn the_critical_ones_of_a_zone_go_before_the_others() {
    let lab = Lab::new();
    let of = |name: &str, critical: bool| record(name, &format!("critical: {critical}, release: ['stopping']"));
    let names = ["a.example.com", "b.example.com", "c.example.com", "a.example.com"];
    let records: Vec<String> = names.iter().zip([false, true, false, true]).map(|(n, c)| of(n, c)).collect();
    let run = until_stopped(&lab, &text(&records), How::default());
    run.ends(0, &[]);
    let deleted = |c: &crate::fakeaws::Call| -> Vec<String> {
        let of = |n: usize| (c.params.get(&format!("Change.{n}.Action"))? == "DELETE").then_some(n);
        let name = |n: usize| c.params[&format!("Change.{n}.Name")].trim_end_matches('.').to_owned();
        let mut names: Vec<String> = (1..).map_while(of).map(name).collect();
        names.sort();
        names.dedup();
        names
    };
    let all: Vec<_> = lab.server.calls_of("ChangeResourceRecordSets").iter().map(deleted).collect();
    let batches: Vec<_> = all.into_iter().filter(|b| !b.is_empty()).collect();
    assert_eq!(batches, [vec!["a.example.com", "b.example.com"], vec!["c.example.com"]], "{run}");
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
}

#[test]
fn other_events_delete_nothing() {
    let lab = Lab::new();
    let run = until_stopped(&lab, &text(&[released("a.example.com", r#"["interrupted", "failed"]"#)]), How::default());
    run.ends(0, &[]);
    assert_eq!((zone(&lab, "Z1").len(), batches(&lab).len()), (2, 1), "{run}");
}

#[test]
fn an_instance_that_will_resume_keeps_its_volumes_but_not_its_name() {
    for action in ["stop", "hibernate"] {
        let lab = Lab::new();
        lab.volume(VolumeSpec::default().id(&id(1)));
        let volume =
            directive("x", "/dev/xvdf", &format!(r#""volume-id": "{}", release: ["interrupted"]"#, id(1)), "true");
        let record = released("a.example.com", r#"["interrupted"]"#);
        let content = format!(r#"d: {{ "attach-volume": [{volume}], "update-route53": [{record}] }}"#);
        let running = started(&lab, &domains(&[&content]), How::default());
        lab.server.world().notice(&lab.me, action, 120);
        if action == "hibernate" {
            running.says(&lab, "init runs again when the instance is back");
            assert_eq!((lab.attached(&lab.me).len(), zone(&lab, "Z1").len()), (1, 0), "{}", running.log());
            lab.server.world().imds(&lab.me).notice = None;
            lab.until("the name again", || zone(&lab, "Z1").len() == 2);
            running.says(&lab, "is attached already");
            continue;
        }
        let run = running.wait(&lab);
        run.ends(0, &["a.example.com. A 203.0.113.10 is deleted"]);
        assert_eq!((lab.attached(&lab.me).len(), zone(&lab, "Z1").len()), (1, 0), "{run}");
    }
}

#[test]
fn what_somebody_else_has_written_meanwhile_is_left_alone() {
    let lab = Lab::new();
    let running = started(&lab, &text(&[released("a.example.com", r#"["stopping"]"#)]), How::default());
    // A successor has the name by now.
    add(&lab, "a.example.com", "A", 60, &["198.51.100.7"]);
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(
        0,
        &[
            "a.example.com. A 203.0.113.10 is somebody else's by now and left alone",
            "a.example.com. AAAA 2001:db8::a is deleted",
        ],
    );
    assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 60 198.51.100.7"], "{run}");
}

#[test]
fn another_ttl_is_somebody_elses_and_what_is_gone_is_said() {
    let lab = Lab::new();
    let running = started(&lab, &text(&[released("a.example.com", r#"["stopping"]"#)]), How::default());
    add(&lab, "a.example.com", "A", 61, &["203.0.113.10"]);
    lab.server.world().zones.get_mut("Z1").unwrap().records.retain(|(_, kind, _), _| kind != "AAAA");
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["A 203.0.113.10 is somebody else's by now", "AAAA 2001:db8::a is gone already"]);
    assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 61 203.0.113.10"], "{run}");
}

#[test]
fn a_record_that_was_there_already_is_ours_too() {
    let lab = Lab::new();
    let text = text(&[released("a.example.com", r#"["stopping"]"#)]);
    // The first run is killed, and leaves it.
    let mut first = started(&lab, &text, How::default());
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let run = until_stopped(&lab, &text, How::default());
    run.ends(0, &["a.example.com. is as it should be", "a.example.com. A 203.0.113.10 is deleted"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
}

#[test]
fn a_record_that_another_domain_needs_stays() {
    let with = |name: &str, release: &str| {
        format!(r#"{name}: {{ "update-route53": [{}] }}"#, record("a.example.com", release))
    };
    // The other one does not release it at all.
    let lab = Lab::new();
    let run = until_stopped(&lab, &domains(&[&with("d", r#"release: ["stopping"]"#), &with("e", "")]), How::default());
    run.ends(0, &["a.example.com. stays: domain e has it too"]);
    assert_eq!(zone(&lab, "Z1").len(), 2, "{run}");
    // Both release it: it is deleted once, by the last one.
    let lab = Lab::new();
    let both = [with("d", r#"release: ["stopping"]"#), with("e", r#"release: ["stopping"]"#)];
    let run = until_stopped(&lab, &domains(&[&both[0], &both[1]]), How::default());
    run.ends(0, &["has it too", "a.example.com. A 203.0.113.10 is deleted"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
    assert_eq!(batches(&lab).iter().filter(|b| b[0] == "DELETE").count(), 1, "{run}");
    // One fails and is alone in it: the other one goes on with the record.
    let lab = Lab::new();
    let fails = format!(
        r#"d: {{ critical: false, "update-route53": [{}], exec: [{}] }}"#,
        released("a.example.com", r#"["failed"]"#),
        on(&["started"], &[sh("exit 3")])
    );
    let run = until_stopped(&lab, &domains(&[&fails, &with("e", r#"release: ["failed"]"#)]), How::default());
    run.ends(0, &["a.example.com. stays: domain e has it too"]);
    assert_eq!(zone(&lab, "Z1").len(), 2, "{run}");
}

#[test]
fn a_record_that_another_directive_keeps_stays() {
    let lab = Lab::new();
    let twins = [released("a.example.com", r#"["stopping"]"#), record("A.example.com.", "")];
    let run = until_stopped(&lab, &text(&twins), How::default());
    run.ends(0, &[r#"a.example.com. stays: domains."d".update-route53[1] has it too"#]);
    assert_eq!(zone(&lab, "Z1").len(), 2, "{run}");
    let lab = Lab::new();
    let twins = [released("a.example.com", r#"["stopping"]"#), released("A.example.com.", r#"["stopping"]"#)];
    let run = until_stopped(&lab, &text(&twins), How::default());
    run.ends(0, &["is deleted"]);
    assert_eq!(batches(&lab)[1..], [["DELETE"; 2].map(str::to_owned).to_vec()], "{run}");
}

#[test]
fn a_started_command_that_fails_releases_on_failed() {
    let lab = Lab::new();
    let content = format!(
        r#""update-route53": [{}], exec: [{}]"#,
        released("a.example.com", r#"["failed"]"#),
        on(&["started"], &[sh("exit 3")])
    );
    lab.run(&one(&content), How::default()).ends(1, &["a.example.com. A 203.0.113.10 is deleted"]);
    assert!(zone(&lab, "Z1").is_empty());
}

#[test]
fn what_was_rolled_back_is_not_deleted_after_it() {
    let list = [released("a.example.com", r#"["failed"]"#), record("outside.example.org", "")];
    let lab = Lab::new();
    add(&lab, "a.example.com", "A", 60, &["198.51.100.9"]);
    let run = lab.run(&text(&list), How::default());
    run.ends(1, &["a.example.com. in hosted zone Z1 put back"]);
    assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 60 198.51.100.9"], "{run}");
    assert_eq!(batches(&lab).last().unwrap().len(), 3, "no DELETE after the roll-back's\n{run}");
    // What this run found as it wants it (an earlier one wrote it) is not put back, but released.
    let lab = Lab::new();
    add(&lab, "a.example.com", "A", 60, &["203.0.113.10"]);
    let run = lab.run(&text(&list), How::default());
    run.ends(1, &["a.example.com. in hosted zone Z1 put back", "a.example.com. A 203.0.113.10 is deleted"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
}

#[test]
fn a_refused_deletion_is_exit_code_3_and_names_the_permission() {
    let lab = Lab::new();
    let denied = Fault::new("ChangeResourceRecordSets", crate::fakeaws::Nth::From(2), FaultKind::Denied);
    lab.server.world().fault(denied);
    let run = until_stopped(&lab, &text(&[released("a.example.com", r#"["stopping"]"#)]), How::default());
    run.ends(
        3,
        &[
            "not released: a.example.com. A 203.0.113.10 in hosted zone Z1 stays: cannot delete it: AccessDenied",
            "allow route53:ChangeResourceRecordSets",
            "something could not be released and needs a look:",
        ],
    );
    assert_eq!(zone(&lab, "Z1").len(), 2, "{run}");
}

#[test]
fn throttles_and_lost_answers_are_ridden_out() {
    let kinds = [
        FaultKind::Throttle,
        FaultKind::ResetBefore,
        FaultKind::ResetAfter,
        FaultKind::ErrorAfter500,
        FaultKind::HangAfter(3000),
        FaultKind::Truncated,
        FaultKind::Garbage,
        FaultKind::Status503,
    ];
    for kind in kinds {
        let lab = Lab::new();
        lab.server.world().fault(Fault::nth("ChangeResourceRecordSets", 2, kind.clone()));
        let run = until_stopped(&lab, &text(&[released("a.example.com", r#"["stopping"]"#)]), How::default().rate(20));
        run.ends(0, &["a.example.com. A 203.0.113.10 is "]);
        assert!(zone(&lab, "Z1").is_empty(), "{kind:?} {run}");
    }
}

#[test]
fn a_kill_during_the_release_leaves_nothing_that_the_next_run_cannot_mend() {
    for kind in [FaultKind::Hang(20_000), FaultKind::HangAfter(20_000)] {
        let lab = Lab::new();
        lab.server.world().fault(Fault::nth("ChangeResourceRecordSets", 2, kind.clone()));
        let text = text(&[released("a.example.com", r#"["stopping"]"#)]);
        let mut running = started(&lab, &text, How::default());
        running.signal("TERM");
        lab.until("the deletion", || batches(&lab).len() == 2);
        running.child.kill().unwrap();
        running.child.wait().unwrap();
        let again = started(&lab, &text, How::default());
        assert_eq!(zone(&lab, "Z1").len(), 2, "{kind:?}\n{}", again.log());
        again.signal("TERM");
        let run = again.wait(&lab);
        run.ends(0, &["is deleted"]);
        assert!(zone(&lab, "Z1").is_empty(), "{kind:?} {run}");
    }
}

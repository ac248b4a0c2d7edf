//! `follow` and `wait`: addresses that come late or change while the daemon watches.

use std::collections::BTreeMap;

use crate::fakeaws::{Call, Fault, FaultKind, RecordSet};
use crate::kit::{add, config, nic, note_events, one, record, seen, with_nics, zone};
use crate::lab::{How, Lab, Running, once};

const NAME: &str = "a.example.com";
const A: &str = "a.example.com. A 60 203.0.113.1";

fn text(more: &str) -> String {
    one(&format!(r#""update-route53": [{}]"#, record(NAME, more)))
}

/// An instance that has these addresses.
fn lab(ipv4: &[&str], ipv6: &[&str]) -> Lab {
    with_nics(vec![nic(0, ipv4, ipv6)])
}

/// Time runs fast: it asks for addresses every 30 s.
fn watching(lab: &Lab, text: &str) -> Running {
    let running = lab.start(text, How::default().rate(60));
    running.says(lab, "watching for interruptions");
    running
}

fn has(lab: &Lab, ipv4: &[&str], ipv6: &[&str]) {
    lab.server.world().set_public(&lab.me, ipv4, ipv6);
}

fn asked(lab: &Lab) -> usize {
    lab.server.imds_calls(&lab.me).iter().filter(|c| c.path.ends_with("public-ipv4s")).count()
}

/// Waits until the addresses were asked for so often more.
fn looks(lab: &Lab, more: usize) {
    let before = asked(lab);
    lab.until("looks", || asked(lab) >= before + more);
}

fn changes(lab: &Lab) -> Vec<Call> {
    lab.server.calls_of("ChangeResourceRecordSets")
}

/// `DELETE A 203.0.113.1` and so on.
fn shown(params: &BTreeMap<String, String>) -> Vec<String> {
    let at = |n: usize, key: &str| params.get(&format!("Change.{n}.{key}")).cloned();
    let of = |n| Some(format!("{} {} {}", at(n, "Action")?, at(n, "Type")?, at(n, "Values")?));
    (1..).map_while(of).collect()
}

fn stopped(lab: &Lab, running: Running) -> crate::lab::Run {
    running.signal("TERM");
    running.wait(lab)
}

#[test]
fn an_address_that_comes_after_the_start_is_written() {
    let lab = lab(&[], &[]);
    add(&lab, NAME, "A", 300, &["192.0.2.9"]);
    let running = watching(&lab, &text(r#"release: ["stopping"]"#));
    running.says(&lab, "no public address: nothing to do for a.example.com.; it is written when there is one");
    assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 300 192.0.2.9"]);
    has(&lab, &["203.0.113.1"], &[]);
    running.says(&lab, "the addresses of this instance have changed: a.example.com. is now A 203.0.113.1 (ttl 60)");
    assert_eq!(zone(&lab, "Z1"), [A]);
    let run = stopped(&lab, running);
    run.ends(0, &["a.example.com. A 203.0.113.1 is deleted"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
}

#[test]
fn a_record_follows_in_one_exact_batch_and_is_released_as_it_is() {
    let lab = lab(&["203.0.113.1"], &["2001:db8::1"]);
    let running = watching(&lab, &text(r#"release: ["stopping"]"#));
    has(&lab, &["203.0.113.2"], &["2001:db8::1"]);
    running.says(&lab, "have changed: a.example.com. is now A 203.0.113.2 (ttl 60)");
    let want = ["DELETE A 203.0.113.1", "CREATE A 203.0.113.2"];
    assert_eq!(shown(&changes(&lab)[1].params), want, "{}", running.log());
    assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 60 203.0.113.2", "a.example.com. AAAA 60 2001:db8::1"]);
    let run = stopped(&lab, running);
    run.ends(0, &["a.example.com. A 203.0.113.2 is deleted", "a.example.com. AAAA 2001:db8::1 is deleted"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
}

#[test]
fn it_never_comes_to_nothing() {
    let lab = lab(&["203.0.113.1"], &["2001:db8::1"]);
    let running = watching(&lab, &text(""));
    has(&lab, &[], &[]);
    looks(&lab, 4);
    assert_eq!((zone(&lab, "Z1").len(), changes(&lab).len()), (2, 1), "{}", running.log());
    // Of one kind the other one is changed alone.
    has(&lab, &[], &["2001:db8::2"]);
    running.says(&lab, "have changed");
    assert_eq!(zone(&lab, "Z1"), [A, "a.example.com. AAAA 60 2001:db8::2"]);
    stopped(&lab, running).ends(0, &[]);
}

#[test]
fn a_kind_that_comes_late_is_written_beside_the_other() {
    let lab = lab(&["203.0.113.1"], &[]);
    let running = watching(&lab, &text(""));
    has(&lab, &["203.0.113.1"], &["2001:db8::1"]);
    running.says(&lab, "AAAA 2001:db8::1 (ttl 60)");
    assert_eq!(zone(&lab, "Z1"), [A, "a.example.com. AAAA 60 2001:db8::1"]);
    stopped(&lab, running).ends(0, &[]);
}

#[test]
fn what_is_somebody_elses_is_left_alone_for_good() {
    let lab = lab(&["203.0.113.1"], &[]);
    let running = watching(&lab, &text(r#"release: ["stopping"]"#));
    add(&lab, NAME, "A", 60, &["192.0.2.7"]);
    has(&lab, &["203.0.113.2"], &[]);
    running.says(&lab, "a.example.com. is not what this instance wrote any more: it is left alone from now on");
    // Also when it is again as it was.
    add(&lab, NAME, "A", 60, &["203.0.113.1"]);
    looks(&lab, 5);
    assert_eq!((zone(&lab, "Z1"), changes(&lab).len()), (vec![A.to_owned()], 1), "{}", running.log());
    assert_eq!(running.log().matches("left alone from now on").count(), 1);
    stopped(&lab, running).ends(0, &[]);
}

#[test]
fn a_record_that_somebody_has_deleted_is_not_made_again() {
    let lab = lab(&["203.0.113.1"], &[]);
    let running = watching(&lab, &text(""));
    lab.server.world().zones.get_mut("Z1").unwrap().records.retain(|(_, kind, _), _| kind != "A");
    has(&lab, &["203.0.113.2"], &[]);
    running.says(&lab, "left alone from now on");
    assert!(zone(&lab, "Z1").is_empty());
    stopped(&lab, running).ends(0, &[]);
}

#[test]
fn it_changes_once_a_minute_at_most() {
    let lab = lab(&["203.0.113.1"], &[]);
    let running = watching(&lab, &text(""));
    for ip in ["203.0.113.2", "203.0.113.3", "203.0.113.4"] {
        has(&lab, &[ip], &[]);
        running.says(&lab, &format!("is now A {ip}"));
    }

    let written: Vec<u64> = changes(&lab).iter().skip(1).map(|c| c.at_ms).collect();
    // By its own clock, less what is between its decision and the call. It asks twice as often.
    assert!(written.windows(2).all(|pair| (pair[1] - pair[0]) * 60 > 42_000), "{written:?}");
    stopped(&lab, running).ends(0, &[]);
}

#[test]
fn it_may_be_switched_off_and_then_nothing_is_asked() {
    for (text, how) in
        [(text("follow: false"), How::default()), (one(&format!("exec: [{}]", note_events())), How::default())]
    {
        let lab = lab(&["203.0.113.1"], &[]);
        let running = lab.start(&text, how.rate(100));
        running.says(&lab, "watching for interruptions");
        let polls = || lab.server.imds_calls(&lab.me).iter().filter(|c| c.path.contains("instance-action")).count();
        has(&lab, &["203.0.113.2"], &[]);
        let before = polls();
        lab.until("polls", || polls() > before + 100);
        assert_eq!(asked(&lab), 1, "{}", running.log());
        assert!(zone(&lab, "Z1").iter().all(|r| r == A), "{}", running.log());
        stopped(&lab, running).ends(0, &[]);
    }
}

#[test]
fn a_member_of_a_fleet_follows_and_the_others_stay() {
    let lab = lab(&["203.0.113.1"], &[]);
    let other =
        RecordSet::new(NAME, "A", 60, &["203.0.113.9"]).routed("i-0123456789abcdef0", "MultiValueAnswer", "true");
    lab.server.world().add_record("Z1", other);
    let running = watching(&lab, &text(r#"policy: "multivalue", sweep: "never""#));
    has(&lab, &["203.0.113.2", "203.0.113.3"], &[]);
    running.says(&lab, "have changed");
    assert_eq!(shown(&changes(&lab)[1].params), ["DELETE A 203.0.113.1", "CREATE A 203.0.113.2"]);
    let zone = zone(&lab, "Z1");
    assert!(zone.len() == 2 && zone.iter().any(|r| r.contains("203.0.113.9")), "{zone:?}");
    // The order of the others does not matter to it.
    has(&lab, &["203.0.113.2", "203.0.113.4"], &[]);
    looks(&lab, 4);
    assert_eq!(changes(&lab).len(), 2, "{}", running.log());
    stopped(&lab, running).ends(0, &[]);
}

#[test]
fn two_domains_with_one_name_follow_together() {
    for ttl in [60, 61] {
        let lab = lab(&["203.0.113.1"], &[]);
        let with = |name: &str, ttl: u32| {
            format!(
                r#"{name}: {{ "update-route53": [{{ hostedzone: "Z1", name: "{NAME}", ttl: {ttl}, release: ["stopping"] }}] }}"#
            )
        };
        let running = watching(&lab, &config(&[&with("d", 60), &with("e", ttl)]));
        let before = (zone(&lab, "Z1"), changes(&lab).len());
        has(&lab, &["203.0.113.2"], &[]);
        running.says(&lab, "have changed");
        looks(&lab, 4);
        let want: Vec<String> = before.0.iter().map(|r| r.replace("203.0.113.1", "203.0.113.2")).collect();
        assert_eq!((zone(&lab, "Z1"), changes(&lab).len()), (want, before.1 + 1), "{}", running.log());
        let run = stopped(&lab, running);
        run.ends(0, &["A 203.0.113.2 is deleted"]);
        assert!(zone(&lab, "Z1").is_empty(), "{run}");
    }
}

#[test]
fn faults_are_ridden_out() {
    let kinds = [
        FaultKind::Throttle,
        FaultKind::ResetBefore,
        FaultKind::ResetAfter,
        FaultKind::ErrorAfter500,
        FaultKind::HangAfter(3000),
        FaultKind::Garbage,
        FaultKind::Status503,
        FaultKind::Denied,
    ];
    for kind in kinds {
        let lab = lab(&["203.0.113.1"], &[]);
        let running = watching(&lab, &text(r#"release: ["stopping"]"#));
        lab.server.world().fault(Fault::nth("ChangeResourceRecordSets", 1, kind.clone()));
        has(&lab, &["203.0.113.2"], &[]);
        running.says(&lab, "is now A 203.0.113.2");
        if kind == FaultKind::Denied {
            running.says(&lab, "does not follow the addresses of this instance yet: cannot write a.example.com.");
        }
        assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 60 203.0.113.2"], "{kind:?} {}", running.log());
        let run = stopped(&lab, running);
        run.ends(0, &[]);
        assert!(zone(&lab, "Z1").is_empty(), "{kind:?} {run}");
    }
}

#[test]
fn a_shutdown_while_it_changes_releases_whichever_stands() {
    for kind in [FaultKind::Hang(20_000), FaultKind::HangAfter(20_000)] {
        let lab = lab(&["203.0.113.1"], &[]);
        let running = watching(&lab, &text(r#"release: ["stopping"]"#));
        lab.server.world().fault(Fault::nth("ChangeResourceRecordSets", 1, kind.clone()));
        has(&lab, &["203.0.113.2"], &[]);
        lab.until("the change", || changes(&lab).len() == 2);
        let run = stopped(&lab, running);
        run.ends(0, &["is deleted"]);
        assert!(zone(&lab, "Z1").is_empty(), "{kind:?} {run}");
    }
}

#[test]
fn nothing_follows_in_a_shutdown() {
    let lab = lab(&["203.0.113.1"], &[]);
    let line = crate::kit::sh("until test -e $LAB/go; do sleep 0.01; done").replacen('{', "{ timeout: 600,", 1);
    let wait = crate::kit::on(&["stopping"], &[line]);
    let content = format!(r#""update-route53": [{}], exec: [{wait}]"#, record(NAME, ""));
    let running = watching(&lab, &one(&content));
    running.signal("TERM");
    running.says(&lab, "stopping");
    has(&lab, &["203.0.113.2"], &[]);
    // More than it takes to ask twice.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    lab.file("go", "");
    let run = running.wait(&lab);
    run.ends(0, &[]);
    assert_eq!((zone(&lab, "Z1"), changes(&lab).len()), (vec![A.to_owned()], 1), "{run}");
}

#[test]
fn a_kill_while_it_changes_leaves_a_record_that_is_still_committed() {
    for kind in [FaultKind::Hang(20_000), FaultKind::HangAfter(20_000)] {
        for next in ["same", "fails", "none"] {
            let lab = lab(&["203.0.113.1"], &[]);
            let running = watching(&lab, &text(""));
            lab.server.world().fault(Fault::nth("ChangeResourceRecordSets", 1, kind.clone()));
            has(&lab, &["203.0.113.2"], &[]);
            lab.until("the change", || changes(&lab).len() == 2);
            let done = matches!(kind, FaultKind::HangAfter(_));
            lab.until("its end", || !done || zone(&lab, "Z1") != [A]);
            running.signal("KILL");
            running.wait(&lab);
            let at_kill = zone(&lab, "Z1");
            let bad = record("outside.example.org", "");
            let text = match next {
                "same" => text(""),
                "fails" => one(&format!(r#""update-route53": [{}, {bad}]"#, record(NAME, ""))),
                _ => one(""),
            };
            let run = lab.run(&text, once().rate(10));
            run.ends(i32::from(next == "fails"), &[]);
            let new = vec!["a.example.com. A 60 203.0.113.2".to_owned()];
            let want = match (next, done) {
                ("same", _) | ("fails", true) => new,
                // Not back to an address that is gone.
                ("fails", false) => Vec::new(),
                _ => at_kill,
            };
            assert_eq!(zone(&lab, "Z1"), want, "{kind:?} {next} {run}");
            assert!(!lab.root(&lab.me).join("run/ec2fleetd/domain.d.journal").exists(), "{kind:?} {next} {run}");
        }
    }
}

#[test]
fn it_follows_again_after_a_hibernation() {
    let lab = lab(&["203.0.113.1"], &[]);
    let content = format!(r#""update-route53": [{}], exec: [{}]"#, record(NAME, ""), note_events());
    let running = watching(&lab, &one(&content));
    looks(&lab, 2);
    lab.server.world().notice(&lab.me, "hibernate", 120);
    running.says(&lab, "hibernating: init runs again when the instance is back");
    has(&lab, &["203.0.113.2"], &[]);
    lab.server.world().imds(&lab.me).notice = None;
    lab.until("started again", || seen(&lab).len() == 5);
    lab.until("the new address", || zone(&lab, "Z1") == ["a.example.com. A 60 203.0.113.2"]);
    has(&lab, &["203.0.113.3"], &[]);
    running.says(&lab, "have changed: a.example.com. is now A 203.0.113.3");
    assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 60 203.0.113.3"]);
    stopped(&lab, running).ends(0, &[]);
}

#[test]
fn an_elastic_address_of_its_own_counts_before_the_metadata_service_tells_of_it() {
    let lab = lab(&["203.0.113.1"], &[]);
    lab.server.world().knobs.imds_address_ms = 600_000;
    let id = lab.server.world().add_address("198.51.100.1", &[]);
    let content =
        format!(r#""associate-address": [{{ "allocation-id": "{id}" }}], "update-route53": [{}]"#, record(NAME, ""));
    let running = watching(&lab, &one(&content));
    looks(&lab, 4);
    assert_eq!((zone(&lab, "Z1"), changes(&lab).len()), (vec!["a.example.com. A 60 198.51.100.1".to_owned()], 1));
    stopped(&lab, running).ends(0, &[]);
}

#[test]
fn an_address_is_waited_for() {
    let lab = lab(&[], &["2001:db8::1"]);
    let running = lab.start(&text("wait: 300"), once().rate(20));
    running.says(&lab, "this instance has no public address yet; waiting for up to ");
    looks(&lab, 3);
    has(&lab, &["203.0.113.1"], &["2001:db8::1"]);
    running.wait(&lab).ends(0, &["a.example.com. is now A 203.0.113.1"]);
    assert_eq!(zone(&lab, "Z1"), [A, "a.example.com. AAAA 60 2001:db8::1"]);
    // And not for ever.
    let lab = self::lab(&[], &[]);
    lab.run(&text("wait: 20"), once().rate(50)).ends(0, &["no public address: nothing to do for a.example.com."]);
    // A stop ends it.
    let running = lab.start(&text("wait: 300"), once());
    running.says(&lab, "waiting for up to ");
    running.signal("TERM");
    running.wait(&lab).ends(0, &["stopped"]);
    assert!(lab.server.writes().is_empty());
}

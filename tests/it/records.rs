//! `update-route53`: what is written, and what is not.

use crate::fakeaws::{Fault, FaultKind, RecordSet};
use crate::kit::{add, config, nic, one, record, with_nics, zone};
use crate::lab::{Lab, once};

fn records(list: &[String]) -> String {
    one(&format!("\"update-route53\": [{}]", list.join(", ")))
}

#[test]
fn a_name_may_have_any_case_and_the_final_dot_or_not() {
    for name in ["GAME.Example.Com", "game.example.com.", "game.EXAMPLE.com"] {
        let lab = Lab::new();
        add(&lab, "game.example.com", "A", 60, &["198.51.100.9"]);
        lab.run(&records(&[record(name, "")]), once()).ends(0, &["game.example.com. is now A 203.0.113.10 (ttl 60)"]);
        let want = ["game.example.com. A 60 203.0.113.10", "game.example.com. AAAA 60 2001:db8::a"];
        assert_eq!(zone(&lab, "Z1"), want, "{name}");
    }
}

#[test]
fn a_wildcard_and_its_octal_form_are_the_same_name() {
    for name in ["*.example.com", r"\052.example.com"] {
        let lab = Lab::new();
        lab.run(&records(&[record(name, "")]), once()).ends(0, &[]);
        assert_eq!(zone(&lab, "Z1")[0], r"\052.example.com. A 60 203.0.113.10", "{name}");
        // And it is found again.
        lab.server.reset_calls();
        let run = lab.run(&records(&[record(name, "")]), once());
        run.ends(0, &["is as it should be"]);
        assert!(lab.server.writes().is_empty(), "{run}");
    }
}

#[test]
fn macros_make_the_name() {
    let lab = Lab::new();
    lab.run(&records(&[record("node-{ami-i}.{domain}.example.com", "")]), once()).ends(0, &[]);
    assert_eq!(lab.server.world().record_values("Z1", "node-0.d.example.com", "A"), ["203.0.113.10"]);
}

#[test]
fn all_addresses_of_interface_0_are_written_and_none_of_the_others() {
    let lab = with_nics(vec![
        nic(1, &["203.0.113.99"], &["2001:db8::99"]),
        nic(0, &["203.0.113.1", "203.0.113.2", "203.0.113.3"], &["2001:db8::1", "2001:db8::2"]),
    ]);
    lab.run(&records(&[record("a.example.com", "")]), once()).ends(0, &[]);
    let w = lab.server.world();
    assert_eq!(w.record_values("Z1", "a.example.com", "A"), ["203.0.113.1", "203.0.113.2", "203.0.113.3"]);
    assert_eq!(w.record_values("Z1", "a.example.com", "AAAA"), ["2001:db8::1", "2001:db8::2"]);
}

#[test]
fn a_record_that_matches_is_not_written() {
    let lab = with_nics(vec![nic(0, &["203.0.113.1", "203.0.113.2"], &["2001:db8:0:0::1"])]);
    // Another order of values and another spelling of the address.
    add(&lab, "a.example.com", "A", 60, &["203.0.113.2", "203.0.113.1"]);
    add(&lab, "a.example.com", "AAAA", 60, &["2001:db8::1"]);
    let run = lab.run(&records(&[record("a.example.com", "")]), once());
    run.ends(0, &["a.example.com. is as it should be"]);
    assert!(lab.server.writes().is_empty(), "{run}");
}

#[test]
fn another_ttl_is_written_and_only_the_type_that_differs() {
    let lab = Lab::new();
    add(&lab, "a.example.com", "A", 61, &["203.0.113.10"]);
    add(&lab, "a.example.com", "AAAA", 60, &["2001:db8::a"]);
    let run = lab.run(&records(&[record("a.example.com", "")]), once());
    run.ends(0, &[]);
    let calls = lab.server.calls_of("ChangeResourceRecordSets");
    assert_eq!(calls.len(), 1, "{run}");
    let change = |n: u32| calls[0].params.get(&format!("Change.{n}.Type")).map(String::as_str);
    assert_eq!(
        [change(1), change(2), change(3)],
        [Some("A"), Some("A"), None],
        "what was there and what is now\n{run}"
    );
}

#[test]
fn without_a_public_address_there_is_nothing_to_do_and_that_is_said() {
    let lab = with_nics(vec![nic(0, &[], &[])]);
    add(&lab, "a.example.com", "A", 300, &["198.51.100.9"]);
    let run = lab.run(&records(&[record("a.example.com", "")]), once());
    run.ends(0, &["no public address: nothing to do for a.example.com.", "ready: d started"]);
    assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 300 198.51.100.9"]);
}

#[test]
fn a_predecessors_aaaa_is_left_and_warned_about() {
    let lab = with_nics(vec![nic(0, &["203.0.113.1"], &[])]);
    add(&lab, "a.example.com", "AAAA", 300, &["2001:db8::dead"]);
    let run = lab.run(&records(&[record("a.example.com", "")]), once());
    run.ends(0, &["a.example.com. keeps its AAAA record (2001:db8::dead)"]);
    assert_eq!(zone(&lab, "Z1").len(), 2);
}

#[test]
fn an_address_that_comes_during_init_is_written() {
    let lab = with_nics(vec![nic(0, &[], &[])]);
    lab.pool_volume("d", "p");
    lab.server.world().knobs.device_ms = 400;
    let text = one(&format!(
        r#""attach-volume": [{{ device: "/dev/xvdf", source: "p", "pool-name": "p" }}], "update-route53": [{}]"#,
        record("a.example.com", "")
    ));
    let running = lab.start(&text, once());
    lab.until("the attachment", || !lab.server.calls_of("AttachVolume").is_empty());
    let me = lab.me.clone();
    lab.server.world().instances.get_mut(&me).unwrap().nics[0].public_ipv4s = vec!["203.0.113.77".into()];
    running.wait(&lab).ends(0, &["a.example.com. is now A 203.0.113.77"]);
    assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 60 203.0.113.77"]);
}

#[test]
fn a_cname_fails_the_directive_by_name() {
    let lab = Lab::new();
    add(&lab, "a.example.com", "CNAME", 300, &["b.example.org."]);
    let run = lab.run(&records(&[record("a.example.com", "")]), once());
    let text = r#"domains."d".update-route53[0]: cannot write a.example.com.: it is a CNAME (to b.example.org.)"#;
    run.ends(1, &[text, "failed: d"]);
    assert!(lab.server.writes().is_empty(), "{run}");
}

#[test]
fn routed_records_fail_the_directive_by_name() {
    let lab = Lab::new();
    let set = RecordSet::new("a.example.com", "A", 60, &["198.51.100.9"]).routed("blue", "Weight", "10");
    lab.server.world().add_record("Z1", set);
    let run = lab.run(&records(&[record("a.example.com", "")]), once());
    run.ends(1, &["cannot write a.example.com.: its A records have a routing policy (set identifiers blue)"]);
    assert!(lab.server.writes().is_empty(), "{run}");
}

#[test]
fn a_crowded_name_is_read_over_many_pages() {
    let lab = Lab::new();
    lab.server.world().knobs.record_page_cap = 1;
    for kind in ["MX", "TXT"] {
        add(&lab, "a.example.com", kind, 300, &[if kind == "MX" { "10 mail.example.com." } else { "\"x\"" }]);
    }
    for set in 0..3 {
        let value = format!("2001:db8::{set}");
        let set = RecordSet::new("a.example.com", "AAAA", 60, &[&value]).routed(&format!("s{set}"), "Weight", "1");
        lab.server.world().add_record("Z1", set);
    }
    let run = lab.run(&records(&[record("a.example.com", "")]), once());
    run.ends(1, &["its AAAA records have a routing policy (set identifiers s0, s1, s2)"]);
}

#[test]
fn a_zone_that_is_busy_is_waited_for() {
    let lab = Lab::new();
    let now = lab.server.world().now_ms();
    lab.server.world().zones.get_mut("Z1").unwrap().busy_until_ms = now + 700;
    let run = lab.run(&records(&[record("a.example.com", "")]), once().rate(20));
    run.ends(0, &[]);
    let calls = lab.server.calls_of("ChangeResourceRecordSets");
    assert_eq!(calls[0].code.as_deref(), Some("PriorRequestNotComplete"), "{run}");
    assert_eq!(zone(&lab, "Z1").len(), 2, "{run}");
}

#[test]
fn throttles_are_waited_for() {
    let lab = Lab::new();
    for action in ["ListResourceRecordSets", "ChangeResourceRecordSets"] {
        lab.server.world().fault(Fault::first(action, 3, FaultKind::Throttle));
    }
    let run = lab.run(&records(&[record("a.example.com", "")]), once().rate(20));
    run.ends(0, &[]);
    assert_eq!(lab.server.calls_of("ListResourceRecordSets").len(), 4, "{run}");
    assert_eq!(lab.server.calls_of("ChangeResourceRecordSets").len(), 4, "{run}");
}

#[test]
fn a_lost_answer_to_a_write_leads_to_the_same_records() {
    let kinds = [
        FaultKind::ResetAfter,
        FaultKind::ResetBefore,
        FaultKind::HangAfter(3000),
        FaultKind::ErrorAfter500,
        FaultKind::Truncated,
        FaultKind::Garbage,
        FaultKind::Status503,
    ];
    for kind in kinds {
        let lab = Lab::new();
        add(&lab, "a.example.com", "A", 300, &["198.51.100.9"]);
        lab.server.world().fault(Fault::nth("ChangeResourceRecordSets", 1, kind.clone()));
        let run = lab.run(&records(&[record("a.example.com", "")]), once().rate(20));
        run.ends(0, &["ready: d started"]);
        assert_eq!(zone(&lab, "Z1")[0], "a.example.com. A 60 203.0.113.10", "{kind:?} {run}");
    }
}

#[test]
fn eight_domains_of_one_zone_share_their_batches() {
    let lab = Lab::new();
    lab.server.world().knobs.latency_ms = 150;
    let domains: Vec<String> = (0..8)
        .map(|n| format!("d{n}: {{ \"update-route53\": [{}] }}", record(&format!("n{n}.example.com"), "")))
        .collect();
    let domains: Vec<&str> = domains.iter().map(String::as_str).collect();
    let run = lab.run(&config(&domains), once());
    run.ends(0, &[]);
    assert_eq!(zone(&lab, "Z1").len(), 16, "{run}");
    let calls = lab.server.calls_of("ChangeResourceRecordSets").len();
    assert!(calls <= 3, "{calls} changes\n{run}");
}

#[test]
fn one_bad_name_fails_only_its_own_directive() {
    let lab = Lab::new();
    lab.server.world().knobs.bare_batch_errors = true;
    let list =
        [record("a.example.com", ""), record("outside.example.org", "critical: false"), record("b.example.com", "")];
    let run = lab.run(&records(&list), once());
    run.ends(
        0,
        &[
            "update-route53[1] failed and is passed over (it is not critical): cannot write outside.example.org.",
            "is not permitted in zone example.com.",
            "ready: d started",
        ],
    );
    assert_eq!(zone(&lab, "Z1").len(), 4, "{run}");
}

#[test]
fn a_record_asked_for_twice_is_written_once() {
    let lab = Lab::new();
    let list = [record("a.example.com", ""), record("A.example.com.", "")];
    let run = lab.run(&records(&list), once());
    run.ends(0, &["a.example.com. is asked for twice"]);
    let calls = lab.server.calls_of("ChangeResourceRecordSets");
    assert_eq!((calls.len(), calls[0].params.contains_key("Change.3.Type")), (1, false), "{run}");
}

#[test]
fn a_critical_twin_of_a_record_that_fails_fails_too() {
    let lab = Lab::new();
    let list = [record("outside.example.org", "critical: false"), record("outside.example.org", "")];
    lab.run(&records(&list), once()).ends(1, &["update-route53[1]: cannot write outside.example.org.", "failed: d"]);
}

#[test]
fn a_zone_that_is_not_there_is_named() {
    let lab = Lab::new();
    let text = r#"{ domains: { d: { "update-route53": [{ hostedzone: "ZNOPE", name: "a.example.com", ttl: 1 }] } } }"#;
    lab.run(text, once())
        .ends(1, &["cannot list the records at a.example.com. in hosted zone ZNOPE: NoSuchHostedZone"]);
}

#[test]
fn a_zone_id_may_have_its_prefix() {
    let lab = Lab::new();
    let text = r#"{ domains: { d: { "update-route53": [{ hostedzone: "/hostedzone/Z1", name: "a.example.com", ttl: 1 }] } } }"#;
    lab.run(text, once()).ends(0, &[]);
    assert_eq!(zone(&lab, "Z1").len(), 2);
}

#[test]
fn what_only_aws_can_judge_fails_at_run_time() {
    let lab = Lab::new();
    let text = r#"{ domains: { d: { "update-route53": [{ hostedzone: "Z1", name: "a.example.com", ttl: -1 }] } } }"#;
    let run = lab.run(text, once());
    run.ends(1, &["cannot write a.example.com. in hosted zone Z1: InvalidInput"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
}

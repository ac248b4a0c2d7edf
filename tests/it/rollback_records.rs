//! Records when their domain fails: everything is put back exactly, and what is somebody else's is left alone.

use crate::fakeaws::{Fault, FaultKind, RecordSet};
use crate::kit::{add, config, note_events, one, record, seen, zone};
use crate::lab::{Lab, once};

/// One good record and one that fails: the domain is rolled back.
fn good_and_bad() -> String {
    let list = [record("a.example.com", ""), record("outside.example.org", "")];
    one(&format!("\"update-route53\": [{}]", list.join(", ")))
}

#[test]
fn simple_records_are_put_back_exactly_and_neighbours_are_not_touched() {
    let lab = Lab::new();
    add(&lab, "a.example.com", "A", 300, &["198.51.100.9", "198.51.100.8"]);
    add(&lab, "a.example.com", "TXT", 300, &["\"v=1\""]);
    add(&lab, "a.example.com", "MX", 300, &["10 mail.example.com."]);
    add(&lab, "b.example.com", "A", 300, &["198.51.100.7"]);
    let before = zone(&lab, "Z1");
    let run = lab.run(&good_and_bad(), once());
    run.ends(1, &["a.example.com. is now A", "a.example.com. in hosted zone Z1 put back", "failed: d"]);
    // With the AAAA gone again that was added.
    assert_eq!(zone(&lab, "Z1"), before, "{run}");
    for c in lab.server.calls_of("ChangeResourceRecordSets") {
        let touched = |(k, v): (&String, &String)| k.ends_with(".Type") && v != "A" && v != "AAAA";
        assert!(!c.params.iter().any(touched), "{run}");
    }
}

#[test]
fn over_small_pages_too() {
    let lab = Lab::new();
    lab.server.world().knobs.record_page_cap = 1;
    add(&lab, "a.example.com", "A", 300, &["198.51.100.9"]);
    add(&lab, "a.example.com", "AAAA", 301, &["2001:db8::dead"]);
    add(&lab, "a.example.com", "TXT", 300, &["\"x\""]);
    let before = zone(&lab, "Z1");
    let run = lab.run(&good_and_bad(), once());
    run.ends(1, &["put back"]);
    assert_eq!(zone(&lab, "Z1"), before, "{run}");
}

#[test]
fn an_alias_is_put_back() {
    let lab = Lab::new();
    lab.server
        .world()
        .add_record("Z1", RecordSet::alias("a.example.com", "A", "Z35SXDOTRQ7X7K", "lb.elb.amazonaws.com"));
    add(&lab, "a.example.com", "AAAA", 300, &["2001:db8::dead"]);
    let before = zone(&lab, "Z1");
    let run = lab.run(&good_and_bad(), once());
    run.ends(1, &["a.example.com. is now A 203.0.113.10", "put back"]);
    assert_eq!(zone(&lab, "Z1"), before, "{run}");
}

#[test]
fn a_health_check_is_put_back() {
    let lab = Lab::new();
    let mut set = RecordSet::new("a.example.com", "A", 300, &["198.51.100.9"]);
    set.routing.insert("HealthCheckId".into(), "0f2a1c5e-1111-2222-3333-444455556666".into());
    lab.server.world().add_record("Z1", set);
    let before = zone(&lab, "Z1");
    let run = lab.run(&good_and_bad(), once());
    run.ends(1, &["put back"]);
    assert_eq!(zone(&lab, "Z1"), before, "{run}");
}

#[test]
fn an_undo_whose_answer_is_lost_is_looked_at() {
    // The batch, its two pieces, the undo.
    for kind in [FaultKind::ResetAfter, FaultKind::ErrorAfter500, FaultKind::Truncated, FaultKind::ResetBefore] {
        let lab = Lab::new();
        add(&lab, "a.example.com", "A", 300, &["198.51.100.9"]);
        let before = zone(&lab, "Z1");
        lab.server.world().fault(Fault::nth("ChangeResourceRecordSets", 4, kind.clone()));
        let run = lab.run(&good_and_bad(), once().rate(20));
        run.ends(1, &["failed: d"]);
        assert_eq!(zone(&lab, "Z1"), before, "{kind:?} {run}");
    }
}

#[test]
fn an_undo_that_is_refused_exits_3_and_names_the_record() {
    let lab = Lab::new();
    add(&lab, "a.example.com", "A", 300, &["198.51.100.9"]);
    let denied = Fault::new("ChangeResourceRecordSets", crate::fakeaws::Nth::From(4), FaultKind::Denied);
    lab.server.world().fault(denied);
    lab.run(&good_and_bad(), once()).ends(
        3,
        &[
            "something could not be rolled back and needs a look",
            "a.example.com. in hosted zone Z1: ",
            "(it should be A 198.51.100.9 (ttl 300) again)",
        ],
    );
}

#[test]
fn a_record_that_somebody_else_wrote_meanwhile_is_left_alone() {
    let lab = Lab::new();
    lab.server.world().add_zone("Z2", "example.net");
    add(&lab, "a.example.com", "A", 300, &["198.51.100.9"]);
    let busy = Fault::every("ChangeResourceRecordSets", FaultKind::Throttle).with_value("Z2");
    lab.server.world().fault(busy);
    let other = r#"{ hostedzone: "Z2", name: "a.example.net", ttl: 60 }"#;
    let text = one(&format!("\"update-route53\": [{}, {other}]", record("a.example.com", "")));
    let running = lab.start(&text, once().rate(20));
    lab.until("our record", || lab.server.world().record_values("Z1", "a.example.com", "A") == ["203.0.113.10"]);
    add(&lab, "a.example.com", "A", 60, &["192.0.2.123"]);
    let mut w = lab.server.world();
    w.faults.clear();
    w.deny("Route53:ChangeResourceRecordSets/Z2");
    drop(w);
    let run = running.wait(&lab);
    run.ends(1, &["a.example.com. in hosted zone Z1 is somebody else's by now and left alone", "failed: d"]);
    assert_eq!(lab.server.world().record_values("Z1", "a.example.com", "A"), ["192.0.2.123"], "{run}");
}

#[test]
fn a_record_that_is_gone_meanwhile_is_not_made_again_by_half() {
    let lab = Lab::new();
    lab.server.world().add_zone("Z2", "example.net");
    let busy = Fault::every("ChangeResourceRecordSets", FaultKind::Throttle).with_value("Z2");
    lab.server.world().fault(busy);
    let other = r#"{ hostedzone: "Z2", name: "a.example.net", ttl: 60 }"#;
    let text = one(&format!("\"update-route53\": [{}, {other}]", record("a.example.com", "")));
    let running = lab.start(&text, once().rate(20));
    lab.until("our record", || zone(&lab, "Z1").len() == 2);
    let mut w = lab.server.world();
    w.zones.get_mut("Z1").unwrap().records.retain(|_, r| r.kind == "NS" || r.kind == "SOA");
    w.faults.clear();
    w.deny("Route53:ChangeResourceRecordSets/Z2");
    drop(w);
    let run = running.wait(&lab);
    // Nothing was there before and nothing is there now: as it was.
    run.ends(1, &["a.example.com. in hosted zone Z1 is as it was"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
}

#[test]
fn another_domain_keeps_its_records() {
    let lab = Lab::new();
    let good = format!("good: {{ \"update-route53\": [{}], exec: [{}] }}", record("g.example.com", ""), note_events());
    let bad = format!(
        "bad: {{ \"update-route53\": [{}, {}], exec: [{}] }}",
        record("a.example.com", ""),
        record("outside.example.org", ""),
        note_events()
    );
    let run = lab.run(&config(&[&good, &bad]), once());
    run.ends(1, &["failed: bad; not failed, but not started because of it: good"]);
    let want = ["g.example.com. A 60 203.0.113.10", "g.example.com. AAAA 60 2001:db8::a"];
    assert_eq!(zone(&lab, "Z1"), want, "{run}");
    let mut seen = seen(&lab);
    seen.sort();
    assert_eq!(seen, ["bad failed", "bad starting", "good failed", "good starting"], "{run}");
}

#[test]
fn the_originals_suite_for_records() {
    // An update, twice.
    let lab = Lab::new();
    let first = format!("one: {{ \"update-route53\": [{}] }}", record("one.example.com", ""));
    lab.run(&config(&[&first]), once()).ends(0, &["one.example.com. is now"]);
    lab.server.reset_calls();
    let run = lab.run(&config(&[&first]), once());
    run.ends(0, &["one.example.com. is as it should be"]);
    assert!(lab.server.writes().is_empty(), "{run}");
    let kept = zone(&lab, "Z1");
    // A second domain, whose non-critical record fails and whose critical one fails too.
    let second = format!(
        "two: {{ \"update-route53\": [{}, {}, {}] }}",
        record("two.example.com", ""),
        record("outside.example.org", "critical: false"),
        record("outside.example.net", "")
    );
    let run = lab.run(&config(&[&first, &second]), once());
    run.ends(
        1,
        &[
            "update-route53[1] failed and is passed over (it is not critical)",
            r#"domains."two".update-route53[2]: cannot write outside.example.net."#,
            "failed: two; not failed, but not started because of it: one",
        ],
    );
    assert_eq!(zone(&lab, "Z1"), kept, "{run}");
}

#[test]
fn a_record_that_two_domains_share_stays_while_one_of_them_stands() {
    let lab = Lab::new();
    add(&lab, "a.example.com", "A", 300, &["198.51.100.9"]);
    let good = format!("good: {{ \"update-route53\": [{}] }}", record("a.example.com", ""));
    let bad = format!(
        "bad: {{ \"update-route53\": [{}, {}] }}",
        record("a.example.com", ""),
        record("outside.example.org", "")
    );
    let run = lab.run(&config(&[&good, &bad]), once());
    run.ends(1, &["failed: bad"]);
    assert_eq!(lab.server.world().record_values("Z1", "a.example.com", "A"), ["203.0.113.10"], "{run}");
}

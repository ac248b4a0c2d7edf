//! Records of which somebody else may have made something meanwhile: what is written, put back and deleted is still its own.

use crate::disks::{HOLD, directive, id};
use crate::fakeaws::{Fault, FaultKind, InstanceSpec, RecordSet, VolumeSpec};
use crate::kit::{add, config, nic, on, one, record, sh, with_nics, zone};
use crate::lab::{How, Lab, Running, once};

const IP: &str = "198.51.100.1";
const NAME: &str = "a.example.com";

fn records(list: &[String]) -> String {
    one(&format!(r#""update-route53": [{}]"#, list.join(", ")))
}

/// A record that is deleted at `stopping`.
fn released(name: &str) -> String {
    record(name, r#"release: ["stopping"]"#)
}

fn watching(lab: &Lab, text: &str) -> Running {
    let running = lab.start(text, How::default());
    running.says(lab, "watching for interruptions");
    running
}

/// An instance with an elastic address that somebody gave it, and another one without an address.
fn with_elastic() -> (Lab, String, String) {
    let lab = with_nics(vec![nic(0, &[], &[])]);
    lab.server.world().knobs.imds_address_ms = 0;
    let id = lab.server.world().add_address(IP, &[]);
    lab.server.world().move_address(&id, &lab.me);
    let mut other = nic(0, &[], &[]);
    other.interface_id = "eni-other".into();
    other.local_ipv4s = vec!["10.0.9.9".into()];
    let other = lab.add_instance(InstanceSpec { nics: Some(vec![other]), ..InstanceSpec::default() });
    (lab, id, other)
}

#[test]
fn a_release_leaves_the_same_record_of_whoever_has_the_address_now() {
    for denied in [false, true] {
        let (lab, id, other) = with_elastic();
        let running = watching(&lab, &records(&[released(NAME)]));
        lab.server.world().move_address(&id, &other);
        lab.run(&records(&[record(NAME, "")]), once().on(&other)).ends(0, &["a.example.com. is as it should be"]);
        if denied {
            lab.server.world().deny("EC2:DescribeAddresses");
        }
        running.signal("TERM");
        let run = running.wait(&lab);
        let who = format!("198.51.100.1 is the address of {other} by now");
        let text = if denied { "who has it cannot be told: UnauthorizedOperation" } else { who.as_str() };
        run.ends(0, &[&format!("a record is left alone: {}", text.split("who has").next().unwrap_or(text)), text]);
        assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 60 198.51.100.1"], "{run}");
    }
}

#[test]
fn a_release_asks_ec2_where_the_metadata_service_says_nothing_or_what_was() {
    for silent in [false, true] {
        let lab = with_nics(vec![nic(0, &["203.0.113.1"], &[])]);
        lab.server.world().knobs.imds_address_ms = 0;
        let id = lab.server.world().add_address(IP, &[]);
        let mut nic = nic(0, &["203.0.113.2"], &[]);
        nic.interface_id = "eni-other".into();
        nic.local_ipv4s = vec!["10.0.9.9".into()];
        let other = lab.add_instance(InstanceSpec { nics: Some(vec![nic]), ..InstanceSpec::default() });
        let address = format!(r#""associate-address": [{{ "allocation-id": "{id}" }}]"#);
        let text = |more: &str| one(&format!(r#"{address}, "update-route53": [{}]"#, record(NAME, more)));
        let running = lab.start(&text(r#"release: ["stopping"]"#), How::default().rate(8));
        running.says(&lab, "watching for interruptions");
        assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 60 198.51.100.1"]);
        // It goes to another one by force, and the metadata service tells of that late or not at all.
        lab.server.world().knobs.imds_address_ms = 600_000;
        lab.server.world().move_address(&id, &other);
        lab.run(&text(""), once().on(&other)).ends(0, &["is here already", "a.example.com. is as it should be"]);
        if silent {
            lab.server.world().imds(&lab.me).unavailable = u32::MAX;
        }
        let asked = lab.server.calls_of("DescribeAddresses").len();
        running.signal("TERM");
        let run = running.wait(&lab);
        run.ends(0, &[&format!("a record is left alone: {IP} is the address of {other} by now")]);
        assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 60 198.51.100.1"], "{run}");
        assert_eq!(lab.server.calls_of("DescribeAddresses").len(), asked + 1, "once\n{run}");
    }
}

#[test]
fn a_release_of_an_address_that_nobody_has_deletes_the_record() {
    let (lab, id, _) = with_elastic();
    let running = watching(&lab, &records(&[released(NAME)]));
    lab.server.world().addresses.get_mut(&id).unwrap().association = None;
    lab.server.world().set_public(&lab.me, &[], &[]);
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["a.example.com. A 198.51.100.1 is deleted"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
}

#[test]
fn a_release_that_is_throttled_looks_again_whose_it_is() {
    let (lab, id, other) = with_elastic();
    let running = lab.start(&records(&[released(NAME)]), How::default().rate(4));
    running.says(&lab, "watching for interruptions");
    lab.server.world().fault(Fault::every("ChangeResourceRecordSets", FaultKind::Throttle));
    running.signal("TERM");
    lab.until("a try", || lab.server.calls_of("ChangeResourceRecordSets").len() > 1);
    // Between two tries the address moves on, and its next owner has the very same record.
    lab.server.world().move_address(&id, &other);
    running.says(&lab, "a record is left alone");
    lab.server.world().faults.clear();
    let run = running.wait(&lab);
    run.ends(0, &[]);
    assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 60 198.51.100.1"], "{run}");
}

#[test]
fn a_roll_back_leaves_the_same_record_of_whoever_has_the_address_now() {
    let (lab, id, other) = with_elastic();
    lab.server.world().add_zone("Z2", "example.net");
    add(&lab, NAME, "A", 300, &["192.0.2.9"]);
    lab.server.world().fault(Fault::every("ChangeResourceRecordSets", FaultKind::Throttle).with_value("Z2"));
    let bad = r#"{ hostedzone: "Z2", name: "a.example.net", ttl: 60 }"#.to_owned();
    let running = lab.start(&records(&[record(NAME, ""), bad]), once().rate(20));
    lab.until("our record", || zone(&lab, "Z1") == ["a.example.com. A 60 198.51.100.1"]);
    let mut w = lab.server.world();
    w.move_address(&id, &other);
    w.faults.clear();
    w.deny("Route53:ChangeResourceRecordSets/Z2");
    drop(w);
    let run = running.wait(&lab);
    run.ends(1, &["a.example.com. in hosted zone Z1 is left alone: 198.51.100.1 is the address of"]);
    assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 60 198.51.100.1"], "{run}");
}

#[test]
fn what_is_written_while_a_write_waits_is_seen_and_put_back() {
    let lab = Lab::new();
    lab.server.world().add_zone("Z2", "example.net");
    add(&lab, NAME, "A", 300, &["192.0.2.9"]);
    lab.server.world().fault(Fault::every("ChangeResourceRecordSets", FaultKind::Throttle));
    let bad = r#"{ hostedzone: "Z2", name: "a.example.net", ttl: 60 }"#.to_owned();
    let running = lab.start(&records(&[record(NAME, ""), bad]), once().rate(20));
    lab.until("a try", || !lab.server.calls_of("ChangeResourceRecordSets").is_empty());
    // Another instance is first.
    add(&lab, NAME, "A", 60, &["192.0.2.7"]);
    let mut w = lab.server.world();
    w.faults.clear();
    w.deny("Route53:ChangeResourceRecordSets/Z2");
    drop(w);
    let run = running.wait(&lab);
    run.ends(1, &["looking again: InvalidChangeBatch", "a.example.com. is now A 203.0.113.10", "put back"]);
    assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 60 192.0.2.7"], "not the dead one before it\n{run}");
}

#[test]
fn what_was_there_before_a_killed_run_comes_back_only_if_it_can_still_be_right() {
    let alias = |lab: &Lab| {
        let set = RecordSet::alias(NAME, "A", "Z35SXDOTRQ7X7K", "lb.elb.amazonaws.com");
        lab.server.world().add_record("Z1", set);
    };
    // What was there, and whether it comes back: a predecessor's address, a service, this instance's own.
    type Seed<'s> = &'s dyn Fn(&Lab);
    let cases: [(Seed<'_>, bool); 3] = [
        (&|lab| add(lab, NAME, "A", 300, &["192.0.2.1"]), false),
        (&alias, true),
        (&|lab| add(lab, NAME, "A", 300, &["203.0.113.10"]), true),
    ];
    for (i, (seed, back)) in cases.into_iter().enumerate() {
        let lab = Lab::new();
        seed(&lab);
        let before = zone(&lab, "Z1");
        lab.server.world().fault(Fault::nth("ChangeResourceRecordSets", 1, FaultKind::HangAfter(60_000)));
        let running = lab.start(&records(&[record(NAME, "")]), once());
        lab.until("our record", || zone(&lab, "Z1").len() == 2);
        running.signal("KILL");
        running.wait(&lab);
        let run = lab.run(&one(""), once());
        let text = "removed; what was there before an earlier run wrote it is not put back, for it may be dead by now: A 192.0.2.1";
        run.ends(0, &[if back { "a.example.com. in hosted zone Z1 put back" } else { text }]);
        assert_eq!(zone(&lab, "Z1"), if back { before } else { Vec::new() }, "{i} {run}");
    }
}

#[test]
fn a_write_that_is_carried_out_after_it_was_given_up_is_undone() {
    let lab = Lab::new();
    lab.server.world().fault(Fault::every("ChangeResourceRecordSets", FaultKind::ResetBefore));
    let text = format!("{{ timeout: 20, domains: {{ d: {{ \"update-route53\": [{}] }} }} }}", record(NAME, ""));
    let running = lab.start(&text, once().rate(4));
    running.says(&lab, "rolling back d");
    let looks = lab.server.calls_of("ListResourceRecordSets").len();
    lab.until("a look", || lab.server.calls_of("ListResourceRecordSets").len() > looks);
    lab.server.world().faults.clear();
    // Now it comes.
    add(&lab, NAME, "A", 60, &["203.0.113.10"]);
    add(&lab, NAME, "AAAA", 60, &["2001:db8::a"]);
    let run = running.wait(&lab);
    run.ends(1, &["a.example.com. in hosted zone Z1 put back"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
}

#[test]
fn two_domains_with_two_ttls_share_one_record() {
    let with = |name: &str, ttl: u32, more: &str| {
        format!(r#"{name}: {{ "update-route53": [{{ hostedzone: "Z1", name: "{NAME}", ttl: {ttl}, {more} }}] }}"#)
    };
    let release = r#"release: ["stopping"]"#;
    // The last one deletes it, whosever TTL it has.
    let lab = Lab::new();
    add(&lab, NAME, "A", 300, &["192.0.2.9"]);
    let text = config(&[&with("d", 60, release), &with("e", 120, release)]);
    let running = watching(&lab, &text);
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["has it too"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
    // Both fail: what was there before both comes back.
    let lab = Lab::new();
    add(&lab, NAME, "A", 300, &["192.0.2.9"]);
    let bad = record("outside.example.org", "");
    let doomed = |text: String| text.replace("}] }", &format!("}}, {bad}] }}"));
    let run = lab.run(&config(&[&doomed(with("d", 60, "")), &doomed(with("e", 120, ""))]), once().rate(4));
    run.ends(1, &["failed: d, e"]);
    assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 300 192.0.2.9"], "{run}");
    // One fails: the other one has it still.
    let lab = Lab::new();
    add(&lab, NAME, "A", 300, &["192.0.2.9"]);
    let run = lab.run(&config(&[&doomed(with("d", 60, "")), &with("e", 120, "")]), once().rate(4));
    run.ends(1, &["failed: d;", "stays: domain e has it too"]);
    assert!(zone(&lab, "Z1")[0].ends_with(" 203.0.113.10"), "{run}");
}

#[test]
fn a_directive_that_failed_keeps_nothing_for_others() {
    let lab = Lab::new();
    let fails =
        format!(r#"e: {{ "update-route53": [{{ hostedzone: "Z1", name: "{NAME}", ttl: -1, critical: false }}] }}"#);
    let text = config(&[&format!(r#"d: {{ "update-route53": [{}] }}"#, released(NAME)), &fails]);
    let running = watching(&lab, &text);
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["passed over", "a.example.com. A 203.0.113.10 is deleted"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
}

#[test]
fn many_records_cost_few_looks_however_old_they_are() {
    let lab = Lab::new();
    lab.volume(VolumeSpec::default().id(&id(1)));
    add(&lab, "n7.example.com", "A", 300, &["192.0.2.7"]);
    let volume = directive("x", "/dev/xvdf", &format!(r#""volume-id": "{}""#, id(1)), HOLD);
    let names: Vec<String> = (0..20).map(|n| record(&format!("n{n}.example.com"), "")).collect();
    let text = one(&format!(r#""attach-volume": [{volume}], "update-route53": [{}]"#, names.join(", ")));
    let running = lab.start(&text, once().rate(50));
    lab.until("all are read", || lab.server.calls_of("ListResourceRecordSets").len() == 4);
    lab.until_file("first");
    // Longer than a picture counts.
    std::thread::sleep(std::time::Duration::from_millis(300));
    lab.file("go", "");
    let run = running.wait(&lab);
    run.ends(0, &["n7.example.com. is now A 203.0.113.10", "n19.example.com. is now A"]);
    assert_eq!(lab.server.calls_of("ListResourceRecordSets").len(), 8, "four, and again four\n{run}");
    assert_eq!((zone(&lab, "Z1").len(), lab.server.calls_of("ChangeResourceRecordSets").len()), (40, 1), "{run}");
}

#[test]
fn a_record_of_an_address_that_another_domain_has_given_up_is_its_next_owners() {
    let lab = with_nics(vec![nic(0, &["203.0.113.1"], &[])]);
    // The metadata service goes on telling of it.
    lab.server.world().knobs.imds_address_ms = 0;
    let id = lab.server.world().add_address(IP, &[]);
    let mut nic = nic(0, &["203.0.113.2"], &[]);
    nic.interface_id = "eni-other".into();
    nic.local_ipv4s = vec!["10.0.9.9".into()];
    let other = lab.add_instance(InstanceSpec { nics: Some(vec![nic]), ..InstanceSpec::default() });
    let wait = on(&["stopping"], &[sh("until test -e $LAB/go; do sleep 0.01; done")]);
    let address = format!(r#""associate-address": [{{ "allocation-id": "{id}", release: ["stopping"] }}]"#);
    let d = format!(r#"d: {{ "update-route53": [{}], exec: [{wait}] }}"#, released(NAME));
    let running = watching(&lab, &config(&[&d, &format!("e: {{ {address} }}")]));
    assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 60 198.51.100.1"]);
    lab.server.world().knobs.imds_address_ms = 600_000;
    running.signal("TERM");
    running.says(&lab, "is disassociated");
    let text = one(&format!(r#"{address}, "update-route53": [{}]"#, record(NAME, "")));
    lab.run(&text, once().on(&other)).ends(0, &["is associated with eni-other", "a.example.com. is as it should be"]);
    lab.file("go", "");
    let run = running.wait(&lab);
    run.ends(0, &[&format!("a record is left alone: {IP} is the address of {other} by now")]);
    assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 60 198.51.100.1"], "{run}");
}

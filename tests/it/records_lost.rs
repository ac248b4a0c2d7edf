//! Records that may be carried out late, that lead to what is gone, or that are named by an address that comes.

use crate::disks::{directive, id};
use crate::fakeaws::{Fault, FaultKind, Nth, VolumeSpec};
use crate::kit::{add, config, nic, one, record, with_nics, zone};
use crate::lab::{How, Lab, once};

const IP: &str = "198.51.100.1";
const NAME: &str = "a.example.com";

fn timed(seconds: u32, records: &[String]) -> String {
    format!(r#"{{ timeout: {seconds}, domains: {{ d: {{ "update-route53": [{}] }} }} }}"#, records.join(", "))
}

/// Waits until it is looked what is there.
fn a_look(lab: &Lab) {
    let looks = lab.server.calls_of("ListResourceRecordSets").len();
    lab.until("a look", || lab.server.calls_of("ListResourceRecordSets").len() > looks);
}

#[test]
fn a_lost_write_is_looked_for_although_the_next_tries_were_refused() {
    let prior = FaultKind::Custom { status: 400, code: "PriorRequestNotComplete".into(), message: "later".into() };
    for refused in [prior, FaultKind::Throttle] {
        for before in [false, true] {
            let lab = Lab::new();
            if before {
                add(&lab, NAME, "A", 60, &["192.0.2.77"]);
            }
            lab.server.world().fault(Fault::nth("ChangeResourceRecordSets", 1, FaultKind::ResetBefore));
            lab.server.world().fault(Fault::new("ChangeResourceRecordSets", Nth::From(2), refused.clone()));
            let running = lab.start(&timed(6, &[record(NAME, "")]), once().rate(3));
            running.says(&lab, "rolling back d");
            lab.server.world().faults.clear();
            a_look(&lab);
            // Now it comes.
            add(&lab, NAME, "A", 60, &["203.0.113.10"]);
            add(&lab, NAME, "AAAA", 60, &["2001:db8::a"]);
            let run = running.wait(&lab);
            run.ends(1, &["a.example.com. in hosted zone Z1"]);
            assert!(!zone(&lab, "Z1").iter().any(|r| r.contains("203.0.113.10") || r.contains("AAAA")), "{run}");
        }
    }
}

#[test]
fn what_is_looked_for_takes_no_time_from_what_is_certain() {
    let lab = Lab::new();
    lab.server.world().add_zone("Z2", "example.net");
    lab.server.world().fault(Fault::every("ChangeResourceRecordSets", FaultKind::ResetBefore).with_value("Z2"));
    let mut records = vec![record(NAME, "")];
    records.extend((0..6).map(|n| format!(r#"{{ hostedzone: "Z2", name: "m{n}.example.net", ttl: 60 }}"#)));
    let running = lab.start(&timed(4, &records), once().rate(4));
    running.says(&lab, "rolling back d");
    running.says(&lab, "a.example.com. in hosted zone Z1 put back");
    assert!(!running.log().contains("is as it was"), "{}", running.log());
    let run = running.wait(&lab);
    run.ends(1, &["m5.example.net. in hosted zone Z2 is as it was"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
    // One listing a round for all six.
    let is_z2 = |c: &&crate::fakeaws::Call| c.params.values().any(|v| v == "Z2");
    let lists = lab.server.calls_of("ListResourceRecordSets").iter().filter(is_z2).count();
    assert!((1..30).contains(&lists), "{lists}\n{run}");
}

#[test]
fn a_predecessor_of_some_time_ago_is_not_put_back() {
    let lab = Lab::new();
    lab.server.world().add_zone("Z2", "example.net");
    add(&lab, NAME, "A", 60, &["192.0.2.9"]);
    lab.server.world().fault(Fault::every("ChangeResourceRecordSets", FaultKind::Throttle).with_value("Z2"));
    let other = r#"{ hostedzone: "Z2", name: "a.example.net", ttl: 60 }"#.to_owned();
    let run = lab.run(&timed(30, &[record(NAME, ""), other]), once().rate(8));
    let text =
        "removed; what was there before this run wrote it is not put back, for it may be dead by now: A 192.0.2.9";
    run.ends(1, &[text]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
}

#[test]
fn the_first_write_of_a_record_that_follows_is_looked_for_by_a_release() {
    let lab = with_nics(vec![nic(0, &[], &[])]);
    let running = lab.start(
        &one(&format!(r#""update-route53": [{}]"#, record(NAME, r#"release: ["stopping"]"#))),
        How::default().rate(10),
    );
    running.says(&lab, "watching for interruptions");
    lab.server.world().fault(Fault::nth("ChangeResourceRecordSets", 1, FaultKind::ResetBefore));
    lab.server.world().set_public(&lab.me, &["203.0.113.1"], &[]);
    running.says(&lab, "does not follow the addresses of this instance yet");
    running.signal("TERM");
    a_look(&lab);
    add(&lab, NAME, "A", 60, &["203.0.113.1"]);
    let run = running.wait(&lab);
    run.ends(0, &["a.example.com. in hosted zone Z1 is deleted"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
}

#[test]
fn a_record_that_leads_to_the_address_of_a_domain_that_fails_is_deleted() {
    let lab = with_nics(vec![nic(0, &["203.0.113.1"], &[])]);
    lab.server.world().knobs.imds_address_ms = 0;
    let address = lab.server.world().add_address(IP, &[]);
    lab.volume(VolumeSpec::default().id(&id(1)));
    let wait = "until test -e $LAB/go; do sleep 0.01; done; exit 1";
    let volume = directive("x", "/dev/xvdf", &format!(r#""volume-id": "{}""#, id(1)), wait);
    let a = format!(r#"a: {{ "update-route53": [{}] }}"#, record(NAME, ""));
    let b = format!(
        r#"b: {{ critical: false, "associate-address": [{{ "allocation-id": "{address}" }}], "attach-volume": [{volume}] }}"#
    );
    let text = config(&[&a, &b]);
    let running = lab.start(&text, How::default().rate(20));
    running.says(&lab, "a.example.com. is now A 198.51.100.1");
    lab.file("go", "");
    running.says(&lab, "leads to 198.51.100.1, which b gives back, for it has failed: the record is deleted");
    running.says(&lab, "is disassociated");
    assert!(zone(&lab, "Z1").is_empty(), "{}", running.log());
    running.says(&lab, "watching for interruptions");
    // With another address it is there again. The metadata service comes to tell of none first.
    lab.until("no address", || lab.server.world().instances[&lab.me].nics[0].public_ipv4s.is_empty());
    lab.server.world().set_public(&lab.me, &["203.0.113.7"], &[]);
    running.says(&lab, "a.example.com. is now A 203.0.113.7");
    assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 60 203.0.113.7"]);
    running.signal("TERM");
    running.wait(&lab).ends(0, &[]);
    let run = lab.run(&text, once().arg("--check"));
    run.ends(0, &["the records of domain a lead to this address"]);
}

#[test]
fn a_name_is_made_with_the_address_that_has_come() {
    let lab = with_nics(vec![nic(0, &["203.0.113.1"], &[])]);
    lab.server.world().knobs.imds_address_ms = 600_000;
    let address = lab.server.world().add_address(IP, &[]);
    let records = format!(r#""update-route53": [{}]"#, record("h-{primary_public_ipv4}.example.com", ""));
    let text = one(&format!(r#""associate-address": [{{ "allocation-id": "{address}" }}], {records}"#));
    let run = lab.run(&text, once());
    run.ends(0, &[]);
    assert_eq!(zone(&lab, "Z1"), ["h-198.51.100.1.example.com. A 60 198.51.100.1"], "{run}");
    // Without a value there is no name.
    let lab = with_nics(vec![nic(0, &[], &["2001:db8::1"])]);
    let run = lab.run(&one(&records), once());
    run.ends(1, &["cannot make the name of the record: {primary_public_ipv4} is empty"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
}

#[test]
fn only_addresses_that_lead_here_are_written_and_each_once() {
    let lab = with_nics(vec![nic(
        0,
        &["203.0.113.1", "0.0.0.0", "127.0.0.1", "203.0.113.1", "224.0.0.1", "255.255.255.255", "169.254.1.1"],
        &["::1", "2001:db8::1", "fe80::1", "ff02::1", "2001:DB8:0::1", "::"],
    )]);
    let run = lab.run(&one(&format!(r#""update-route53": [{}]"#, record(NAME, ""))), once());
    run.ends(0, &[]);
    let want = ["a.example.com. A 60 203.0.113.1", "a.example.com. AAAA 60 2001:db8::1"];
    assert_eq!(zone(&lab, "Z1"), want, "{run}");
}

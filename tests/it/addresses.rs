//! `associate-address`: an elastic address claimed for the instance, used by DNS, put back and released.

use crate::disks::{directive, id};
use crate::fakeaws::{Fault, FaultKind, InstanceSpec, Nth, VolumeSpec};
use crate::kit::{config, nic, on, one, record, sh, with_nics, zone};
use crate::lab::{How, Lab, Run, Running, once};

const IP: &str = "198.51.100.1";

/// A lab whose instance has one automatic address, and one address in the account, which has this id.
fn lab() -> (Lab, String) {
    let lab = with_nics(vec![nic(0, &["203.0.113.1"], &[])]);
    let id = lab.server.world().add_address(IP, &[]);
    (lab, id)
}

/// The entry for an allocation id.
fn of(id: &str, more: &str) -> String {
    format!(r#"{{ "allocation-id": "{id}", {more} }}"#)
}

/// A domain's content with this entry.
fn with(entry: &str, more: &str) -> String {
    format!(r#""associate-address": [{entry}], {more}"#)
}

fn pool(lab: &Lab, ip: &str) -> String {
    lab.server.world().add_address(ip, &[("user:ec2fd.domain", "d"), ("user:ec2fd.pool-name", "p")])
}

fn records(name: &str) -> String {
    format!(r#""update-route53": [{}]"#, record(name, ""))
}

/// Makes the domain fail after the address stands.
fn doomed() -> String {
    records("outside.example.org")
}

fn holder(lab: &Lab, id: &str) -> Option<String> {
    lab.server.world().address_of(id).map(|(instance, _)| instance)
}

fn mine(lab: &Lab, id: &str) -> bool {
    holder(lab, id).as_deref() == Some(&lab.me)
}

fn count(lab: &Lab, action: &str) -> usize {
    lab.server.calls_of(action).len()
}

fn started(lab: &Lab, text: &str) -> Running {
    let poll = r#""interrupt-detection": { detect: "poll", options: { interval: 0.02 } }"#;
    let running = lab.start(&text.replacen('{', &format!("{{ {poll},"), 1), How::default());
    running.says(lab, "watching for interruptions");
    running
}

#[test]
fn an_address_is_associated_and_dns_has_it_before_the_metadata_service_has() {
    let (lab, id) = lab();
    lab.server.world().knobs.imds_address_ms = 600_000;
    let exec = on(&["started"], &[sh("echo {primary_public_ipv4} >> $LAB/seen")]);
    let run = lab.run(&one(&with(&of(&id, ""), &format!("{}, exec: [{exec}]", records("a.example.com")))), once());
    run.ends(0, &[&format!("{IP} ({id}) is associated with eni-00"), "a.example.com. is now A 198.51.100.1 (ttl 60)"]);
    assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 60 198.51.100.1"], "{run}");
    assert_eq!(lab.lines("seen"), [IP], "{run}");
    assert_eq!(lab.server.world().address_of(&id), Some((lab.me.clone(), "10.0.0.1".into())), "{run}");
    let calls = lab.server.calls_of("AssociateAddress");
    assert_eq!(calls.len(), 1, "{run}");
    let p = &calls[0].params;
    assert_eq!(
        (p["NetworkInterfaceId"].as_str(), p["PrivateIpAddress"].as_str(), p["AllowReassociation"].as_str()),
        ("eni-00", "10.0.0.1", "false"),
        "{run}"
    );
    assert_eq!(count(&lab, "DescribeAddresses"), 2, "one look before, one after\n{run}");
}

#[test]
fn the_other_addresses_of_the_interface_stay() {
    let mut first = nic(0, &["203.0.113.1", "203.0.113.2"], &["2001:db8::1"]);
    first.local_ipv4s = vec!["10.0.0.1".into(), "10.0.0.2".into()];
    let lab = with_nics(vec![nic(1, &["203.0.113.9"], &[]), first]);
    lab.server.world().knobs.imds_address_ms = 600_000;
    let id = lab.server.world().add_address(IP, &[]);
    lab.run(&one(&with(&of(&id, ""), &records("a.example.com"))), once()).ends(0, &[]);
    let want = ["a.example.com. A 60 198.51.100.1,203.0.113.2", "a.example.com. AAAA 60 2001:db8::1"];
    assert_eq!(zone(&lab, "Z1"), want);
}

#[test]
fn one_of_a_pool_is_taken_and_no_other() {
    for entry in [r#"{ "pool-name": "p" }"#, r#"{ pool: { tags: { "user:ec2fd.pool-name": "p", role: "game" } } }"#] {
        let (lab, other) = lab();
        let second = lab.add_instance(InstanceSpec::default());
        let held = pool(&lab, "198.51.100.2");
        let managed = pool(&lab, "198.51.100.3");
        let free = pool(&lab, "198.51.100.4");
        lab.server.world().move_address(&held, &second);
        let mut w = lab.server.world();
        w.addresses.get_mut(&managed).unwrap().managed = true;
        w.addresses.values_mut().for_each(|a| drop(a.tags.insert("role".into(), "game".into())));
        w.add_address("198.51.100.5", &[("user:ec2fd.domain", "e"), ("user:ec2fd.pool-name", "p")]);
        drop(w);
        if entry.contains("tags") {
            lab.server.world().addresses.get_mut(&free).unwrap().tags.remove("user:ec2fd.domain");
            lab.server.world().addresses.values_mut().for_each(|a| {
                if a.tags.get("user:ec2fd.domain").is_some_and(|d| d == "e") {
                    a.tags.remove("role");
                }
            });
        }
        let run = lab.run(&one(&with(entry, "")), once());
        run.ends(0, &["198.51.100.4 ("]);
        assert!(mine(&lab, &free) && holder(&lab, &other).is_none(), "{entry} {run}");
        assert_eq!(holder(&lab, &held), Some(second), "{entry} {run}");
    }
}

#[test]
fn instances_that_want_the_same_get_different_ones() {
    let (lab, _) = lab();
    let second = lab.add_instance(InstanceSpec::default());
    let ids = [pool(&lab, "198.51.100.2"), pool(&lab, "198.51.100.3")];
    lab.server.world().knobs.latency_ms = 60;
    let text = one(&with(r#"{ "pool-name": "p" }"#, ""));
    let runs = [lab.start(&text, once()), lab.start(&text, once().on(&second))];
    let ended: Vec<Run> = runs.into_iter().map(|r| r.wait(&lab)).collect();
    ended.iter().for_each(|r| r.ends(0, &[]));
    let mut holders: Vec<_> = ids.iter().filter_map(|id| holder(&lab, id)).collect();
    holders.sort();
    let mut want = vec![lab.me.clone(), second];
    want.sort();
    assert_eq!(holders, want, "{}", ended[0]);
}

#[test]
fn a_lost_race_goes_on_with_the_next_one() {
    let (lab, _) = lab();
    let second = lab.add_instance(InstanceSpec::default());
    let ids = [pool(&lab, "198.51.100.2"), pool(&lab, "198.51.100.3")];
    // Both are free when it looks; the first one that it asks for is another's by then.
    lab.server.world().knobs.action_latency_ms.insert("EC2:AssociateAddress".into(), 1000);
    let running = lab.start(&one(&with(r#"{ "pool-name": "p" }"#, "")), once());
    lab.until("the claim", || count(&lab, "AssociateAddress") == 1);
    let wanted = lab.server.calls_of("AssociateAddress")[0].params["AllocationId"].clone();
    lab.server.world().move_address(&wanted, &second);
    let run = running.wait(&lab);
    run.ends(0, &[&format!("({wanted}) is associated with {second}"), "is associated with eni-00"]);
    assert_eq!(holder(&lab, &wanted), Some(second), "{run}");
    assert_eq!(ids.iter().filter(|id| mine(&lab, id)).count(), 1, "{run}");
    assert_eq!(lab.server.calls_of("AssociateAddress")[0].code.as_deref(), Some("Resource.AlreadyAssociated"), "{run}");
}

#[test]
fn what_is_taken_is_named() {
    let (lab, id) = lab();
    let second = lab.add_instance(InstanceSpec::default());
    lab.server.world().move_address(&id, &second);
    let run = lab.run(&one(&with(&of(&id, ""), "")), once());
    run.ends(
        1,
        &[&format!(r#"domains."d".associate-address[0]: elastic address {IP} ({id}) is associated with {second}"#)],
    );
    assert_eq!(holder(&lab, &id), Some(second), "{run}");
    lab.run(&one(&with(&of("eipalloc-0dead", ""), "")), once())
        .ends(1, &["there is no elastic address eipalloc-0dead in this account and region"]);
    lab.run(&one(&with(r#"{ "pool-name": "p" }"#, "")), once())
        .ends(1, &["pool 'p' has no elastic address in this account and region"]);
    assert!(lab.server.writes().is_empty(), "{run}");
}

#[test]
fn another_address_in_its_place_is_not_taken_away() {
    let (lab, id) = lab();
    let other = lab.server.world().add_address("198.51.100.9", &[]);
    lab.server.world().move_address(&other, &lab.me);
    let run = lab.run(&one(&with(&of(&id, ""), "")), once());
    run.ends(1, &["it has 198.51.100.9 (", "which is none of those that", "disassociate it first"]);
    assert!(mine(&lab, &other) && holder(&lab, &id).is_none(), "{run}");
}

#[test]
fn a_second_run_changes_nothing() {
    let (lab, id) = lab();
    let text = one(&with(&of(&id, ""), &records("a.example.com")));
    lab.run(&text, once()).ends(0, &[]);
    lab.server.reset_calls();
    let run = lab.run(&text, once());
    run.ends(0, &[&format!("{IP} ({id}) is here already"), "a.example.com. is as it should be"]);
    assert!(lab.server.writes().is_empty(), "{run}");
    // Nor does one that fails take away what it found, unless it is to be released.
    let run = lab.run(&one(&with(&of(&id, ""), &doomed())), once());
    run.ends(1, &[]);
    assert!(mine(&lab, &id), "{run}");
    let run = lab.run(&one(&with(&of(&id, r#"release: ["failed"]"#), &doomed())), once());
    run.ends(1, &["is disassociated"]);
    assert!(holder(&lab, &id).is_none(), "{run}");
}

#[test]
fn a_lost_answer_leads_to_the_same_address() {
    for kind in [
        FaultKind::Throttle,
        FaultKind::Status503,
        FaultKind::ResetBefore,
        FaultKind::ResetAfter,
        FaultKind::ErrorAfter500,
        FaultKind::HangAfter(3000),
        FaultKind::Truncated,
        FaultKind::Garbage,
    ] {
        let (lab, _) = lab();
        let ids = [pool(&lab, "198.51.100.2"), pool(&lab, "198.51.100.3")];
        lab.server.world().fault(Fault::nth("AssociateAddress", 1, kind.clone()));
        let run = lab.run(&one(&with(r#"{ "pool-name": "p" }"#, "")), once().rate(20));
        run.ends(0, &["ready: d started"]);
        assert_eq!(ids.iter().filter(|id| mine(&lab, id)).count(), 1, "{kind:?} {run}");
    }
}

#[test]
fn reads_that_lag_do_not_mislead_it() {
    let (lab, id) = lab();
    lab.server.world().knobs.address_seen_ms = 400;
    let run = lab.run(&one(&with(&of(&id, ""), "")), once());
    run.ends(0, &[&format!("{IP} ({id}) is associated with eni-00")]);
    assert!(mine(&lab, &id) && count(&lab, "DescribeAddresses") > 2, "{run}");
}

#[test]
fn one_that_is_taken_from_it_at_once_is_not_its_own() {
    let (lab, id) = lab();
    let second = lab.add_instance(InstanceSpec::default());
    lab.server.world().knobs.action_latency_ms.insert("EC2:DescribeAddresses".into(), 1000);
    let running = lab.start(&one(&with(&of(&id, ""), "")), once());
    lab.until("the association", || mine(&lab, &id));
    lab.server.world().move_address(&id, &second);
    let run = running.wait(&lab);
    run.ends(1, &[&format!("({id}) is associated with {second}")]);
    assert_eq!((holder(&lab, &id), count(&lab, "DisassociateAddress")), (Some(second), 0), "{run}");
}

#[test]
fn an_instance_that_is_not_running_yet_waits() {
    let (lab, id) = lab();
    lab.server.world().set_instance_state(&lab.me, "pending");
    let running = lab.start(&one(&with(&of(&id, ""), "")), once().rate(4));
    lab.until("two tries", || count(&lab, "AssociateAddress") > 1);
    lab.server.world().set_instance_state(&lab.me, "running");
    let run = running.wait(&lab);
    run.ends(0, &[]);
    assert!(mine(&lab, &id), "{run}");
}

#[test]
fn a_roll_back_gives_it_up_last() {
    let (lab, address) = lab();
    lab.volume(VolumeSpec::default().id(&id(1)));
    let volume = directive("x", "/dev/xvdf", &format!(r#""volume-id": "{}""#, id(1)), "true");
    let more = format!(r#""attach-volume": [{volume}], {}"#, doomed());
    let run = lab.run(&one(&with(&of(&address, ""), &more)), once());
    run.ends(1, &[&format!("{IP} ({address}) is disassociated"), "failed: d"]);
    assert!(holder(&lab, &address).is_none(), "{run}");
    let calls = lab.server.calls();
    let last = calls.iter().rposition(|c| c.service == "EC2").map(|i| calls[i].action.clone());
    assert_eq!(last.as_deref(), Some("DisassociateAddress"), "{run}");
}

#[test]
fn a_roll_back_leaves_what_is_anothers_by_now() {
    let (lab, id) = lab();
    let second = lab.add_instance(InstanceSpec::default());
    lab.server.world().knobs.action_latency_ms.insert("Route53:ListResourceRecordSets".into(), 1500);
    let running = lab.start(&one(&with(&of(&id, ""), &doomed())), once());
    running.says(&lab, "is associated with");
    lab.server.world().move_address(&id, &second);
    let run = running.wait(&lab);
    run.ends(1, &["is not associated here any more: left alone"]);
    assert_eq!(holder(&lab, &id), Some(second), "{run}");
}

#[test]
fn one_that_is_not_critical_is_passed_over() {
    let (lab, id) = lab();
    lab.server.world().deny("EC2:AssociateAddress");
    let run = lab.run(&one(&with(&of(&id, "critical: false"), &records("a.example.com"))), once());
    run.ends(0, &["associate-address[0] failed and is passed over", "allow ec2:AssociateAddress", "ready: d started"]);
    assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 60 203.0.113.1"], "{run}");
}

#[test]
fn missing_permissions_are_named() {
    for action in ["DescribeAddresses", "AssociateAddress"] {
        let (lab, id) = lab();
        lab.server.world().deny(&format!("EC2:{action}"));
        let run = lab.run(&one(&with(&of(&id, ""), "")), once());
        run.ends(1, &["UnauthorizedOperation", &format!("allow ec2:{action}"), "failed: d"]);
        assert!(holder(&lab, &id).is_none(), "{run}");
    }
    let (lab, id) = lab();
    lab.server.world().deny("EC2:DisassociateAddress");
    let run = lab.run(&one(&with(&of(&id, ""), &doomed())), once());
    run.ends(3, &[&format!("{IP} ({id}) stays associated with eni-00:"), "allow ec2:DisassociateAddress"]);
    // The next run of another config still knows of it.
    lab.server.world().permit("EC2:DisassociateAddress");
    lab.run(&one(""), once()).ends(0, &["is disassociated"]);
    assert!(holder(&lab, &id).is_none());
}

#[test]
fn no_more_permissions_are_needed() {
    let (lab, id) = lab();
    lab.server.world().allow_only(["EC2:DescribeAddresses", "EC2:AssociateAddress", "EC2:DisassociateAddress"]);
    let running = started(&lab, &one(&with(&of(&id, r#"release: ["stopping"]"#), "")));
    running.signal("TERM");
    running.wait(&lab).ends(0, &["is disassociated"]);
}

#[test]
fn it_is_released_after_everything_else() {
    for event in ["interrupted", "stopping"] {
        let (lab, address) = lab();
        lab.volume(VolumeSpec::default().id(&id(1)));
        let release = format!(r#"release: ["{event}"]"#);
        let volume = directive("x", "/dev/xvdf", &format!(r#""volume-id": "{}", {release}"#, id(1)), "true");
        let more = format!(r#""attach-volume": [{volume}], "update-route53": [{}]"#, record("a.example.com", &release));
        let running = started(&lab, &one(&with(&of(&address, &release), &more)));
        match event {
            "stopping" => running.signal("TERM"),
            _ => lab.server.world().notice(&lab.me, "terminate", 120),
        }
        let run = running.wait(&lab);
        run.ends(0, &["a.example.com. A 198.51.100.1 is deleted", &format!("{IP} ({address}) is disassociated")]);
        assert!(holder(&lab, &address).is_none() && zone(&lab, "Z1").is_empty(), "{run}");
        assert_eq!(lab.server.calls().last().unwrap().action, "DisassociateAddress", "{run}");
    }
}

#[test]
fn other_events_and_a_stop_of_the_instance_leave_it() {
    let (lab, id) = lab();
    let running = started(&lab, &one(&with(&of(&id, r#"release: ["interrupted"]"#), "")));
    lab.server.world().notice(&lab.me, "stop", 120);
    running.wait(&lab).ends(0, &[]);
    assert!(mine(&lab, &id));
    let (lab, id) = self::lab();
    let running = started(&lab, &one(&with(&of(&id, r#"release: ["interrupted"]"#), "")));
    running.signal("TERM");
    running.wait(&lab).ends(0, &[]);
    assert!(mine(&lab, &id));
}

#[test]
fn a_release_whose_answer_is_lost_is_found_done() {
    for kind in [FaultKind::ResetAfter, FaultKind::ResetBefore, FaultKind::ErrorAfter500, FaultKind::Throttle] {
        let (lab, id) = lab();
        lab.server.world().fault(Fault::nth("DisassociateAddress", 1, kind.clone()));
        let running = started(&lab, &one(&with(&of(&id, r#"release: ["stopping"]"#), "")));
        running.signal("TERM");
        let run = running.wait(&lab);
        run.ends(0, &[&format!("{IP} ({id}) is ")]);
        assert!(holder(&lab, &id).is_none(), "{kind:?} {run}");
    }
}

#[test]
fn one_that_others_have_is_waited_for() {
    let (lab, id) = lab();
    let second = lab.add_instance(InstanceSpec::default());
    lab.server.world().move_address(&id, &second);
    let running = lab.start(&one(&with(&of(&id, "wait: 300"), "")), once().rate(50));
    running.says(&lab, "; waiting for up to ");
    lab.until("some looks", || count(&lab, "DescribeAddresses") > 2);
    lab.server.world().terminate(&second);
    let run = running.wait(&lab);
    run.ends(0, &[&format!("{IP} ({id}) is associated with eni-00")]);
    // And not for ever.
    lab.server.world().move_address(&id, &second);
    let run = lab.run(&one(&with(&of(&id, "wait: 20"), "")), once().rate(50));
    run.ends(1, &["it was waited for: the time for it is over", "failed: d"]);
    assert_eq!((count(&lab, "AssociateAddress"), holder(&lab, &id)), (1, Some(second)), "{run}");
}

#[test]
fn a_killed_run_is_gone_on_with() {
    for kind in [FaultKind::Hang(20_000), FaultKind::HangAfter(20_000)] {
        for next in ["same", "fails", "none"] {
            let (lab, id) = lab();
            lab.server.world().fault(Fault::nth("AssociateAddress", 1, kind.clone()));
            let mut running = lab.start(&one(&with(&of(&id, ""), "")), once());
            lab.until("the call", || count(&lab, "AssociateAddress") == 1);
            lab.until("its end", || kind == FaultKind::Hang(20_000) || mine(&lab, &id));
            running.child.kill().unwrap();
            running.child.wait().unwrap();
            let text = match next {
                "same" => one(&with(&of(&id, ""), "")),
                "fails" => one(&with(&of(&id, ""), &doomed())),
                _ => one(""),
            };
            let run = lab.run(&text, once().rate(10));
            run.ends(i32::from(next == "fails"), &[]);
            assert_eq!(mine(&lab, &id), next == "same", "{kind:?} {next} {run}");
        }
    }
}

#[test]
fn records_of_another_domain_wait_for_it() {
    let (lab, id) = lab();
    lab.server.world().knobs.action_latency_ms.insert("EC2:AssociateAddress".into(), 500);
    let a = format!("d: {{ {} }}", with(&of(&id, ""), ""));
    let b = format!("e: {{ {} }}", records("a.example.com"));
    let run = lab.run(&config(&[&a, &b]), once());
    run.ends(0, &[]);
    assert_eq!(zone(&lab, "Z1"), ["a.example.com. A 60 198.51.100.1"], "{run}");
}

#[test]
fn a_stop_while_it_waits_ends_the_run() {
    let (lab, id) = lab();
    let second = lab.add_instance(InstanceSpec::default());
    lab.server.world().move_address(&id, &second);
    let running = lab.start(&one(&with(&of(&id, "wait: 300"), &records("a.example.com"))), once());
    running.says(&lab, "; waiting for up to ");
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["stopped"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
}

#[test]
fn faults_that_last_end_it_in_time() {
    let (lab, id) = lab();
    lab.server.world().fault(Fault::new("DescribeAddresses", Nth::Every, FaultKind::Status503));
    let text = format!("{{ timeout: 60, domains: {{ d: {{ {} }} }} }}", with(&of(&id, ""), ""));
    let run = lab.run(&text, once().rate(50));
    run.ends(1, &["cannot look for elastic addresses", "failed: d"]);
    assert!(holder(&lab, &id).is_none(), "{run}");
}

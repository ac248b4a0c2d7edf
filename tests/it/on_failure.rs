//! `on-failure: retry`: the whole of init again, in the same process.

use crate::disks::{EVENTS, directive, id};
use crate::fakeaws::{Fault, FaultKind, VolumeSpec};
use crate::kit::{SHORT, bodies, config, note_events, on, seen, sh, to_topic};
use crate::lab::{How, Lab, Run, Running, once};

/// A config with `on-failure` and these domains.
fn with(on_failure: &str, domains: &[&str]) -> String {
    config(domains).replacen('{', &format!("{{ 'on-failure': {on_failure}, "), 1)
}

/// A domain that has volume 1, notes its events and tells a topic.
fn domain(more: &str) -> String {
    let volume = directive("x", "/dev/xvdf", &format!(r#""volume-id": "{}""#, id(1)), "echo $2 >> $LAB/ops");
    format!(
        r#"d: {{ "attach-volume": [{volume}], notify: [{}], exec: [{more} {}] }}"#,
        to_topic(SHORT),
        &EVENTS["exec: [".len()..EVENTS.len() - 1]
    )
}

fn lab() -> Lab {
    let lab = Lab::new();
    lab.volume(VolumeSpec::default().id(&id(1)));
    lab
}

/// What fails a directive for good.
fn refused() -> FaultKind {
    let (code, message) = ("InvalidParameterCombination".to_owned(), "not today".to_owned());
    FaultKind::Custom { status: 400, code, message }
}

const RETRY: &str = "{ action: 'retry', attempts: 3, backoff: 1 }";

fn fast() -> How {
    once().rate(20)
}

/// A run that waits for its next attempt for long.
fn waiting(lab: &Lab, on_failure: &str) -> Running {
    lab.server.world().deny("EC2:AttachVolume");
    let text = with(on_failure, &[&domain("")]);
    let text = text.replacen('{', r#"{ "interrupt-detection": { options: { interval: 0.02 } }, "#, 1);
    let running = lab.start(&text, How::default());
    running.says(lab, "on-failure: attempt 2 of");
    running
}

#[test]
fn a_failure_that_passes_is_over_with_the_next_attempt() {
    let lab = lab();
    lab.fault(Fault::first("EC2:AttachVolume", 2, refused()));
    let run = lab.run(&with(RETRY, &[&domain("")]), fast());
    run.ends(0, &["not today", "on-failure: attempt 2 of 3", "on-failure: attempt 3 of 3", "[d] started"]);
    lab.has(&[(&id(1), "/dev/xvdf")], &run);
    assert_eq!(lab.tag_keys(&id(1)), ["owner", "ts-used"], "{run}");
    let events = ["starting", "failed", "starting", "failed", "starting", "started"];
    assert_eq!(lab.events(), events, "{run}");
    // People hear of the first failure and of the end of it.
    let told = bodies(&lab);
    assert!(told.len() == 2 && told[0].contains("on-failure: retry, attempt 2 of 3"), "{told:?}");
    assert_eq!(told[1], "d started", "{told:?}");
}

#[test]
fn after_the_last_attempt_it_has_failed() {
    let lab = lab();
    lab.server.world().deny("EC2:AttachVolume");
    let run = lab.run(&with(RETRY, &[&domain("")]), fast());
    run.ends(1, &["allow ec2:AttachVolume", "on-failure: given up after attempt 3"]);
    lab.nothing_left(&run);
    assert_eq!(lab.count("AttachVolume"), 3, "{run}");
    assert_eq!(lab.events().iter().filter(|e| *e == "failed").count(), 3, "{run}");
    let told = bodies(&lab);
    assert!(told.len() == 2 && told.iter().all(|t| t.starts_with("d failed")), "{told:?}");
    assert!(told[0].contains("on-failure: retry") && !told[1].contains("on-failure"), "{told:?}");
}

#[test]
fn without_the_key_a_failure_is_one_failure() {
    for on_failure in ["'exit'", "{ action: 'exit' }", ""] {
        let lab = lab();
        lab.server.world().deny("EC2:AttachVolume");
        let text = if on_failure.is_empty() { config(&[&domain("")]) } else { with(on_failure, &[&domain("")]) };
        let run = lab.run(&text, fast());
        run.ends(1, &[]);
        assert!(!run.log.contains("on-failure") && lab.count("AttachVolume") == 1, "{run}");
        assert!(!bodies(&lab)[0].contains("on-failure") && bodies(&lab).len() == 1, "{run}");
        assert!(!lab.root(&lab.me).join("var").exists(), "{run}");
    }
}

#[test]
fn what_stands_after_a_failed_command_is_found_by_the_next_attempt() {
    let lab = lab();
    let late =
        on(&["started"], &[sh("[ -e $LAB/once ] || { touch $LAB/once; exit 1; }")]).replace("{ touch", "{{ touch");
    let late = late.replace("exit 1; }", "exit 1; }}");
    let run = lab.run(&with(RETRY, &[&domain(&format!("{late},"))]), fast());
    run.ends(0, &["are kept", "on-failure: attempt 2 of 3", "[d] started"]);
    assert_eq!((lab.count("AttachVolume"), lab.count("DetachVolume")), (1, 0), "{run}");
    assert_eq!(lab.lines("ops"), ["true", "false"], "{run}");
}

#[test]
fn an_address_that_came_meanwhile_is_used() {
    let lab = lab();
    let script = sh("echo {primary_public_ipv4} >> $LAB/ip; until [ -e $LAB/go ]; do sleep 0.01; done; exit 1");
    let text = with(RETRY, &[&format!("d: {{ exec: [{}] }}", on(&["starting"], &[script]))]);
    let running = lab.start(&text, fast());
    lab.until_file("ip");
    lab.server.world().set_public(&lab.me, &["198.51.100.9"], &[]);
    lab.file("go", "");
    running.wait(&lab).ends(1, &[]);
    assert_eq!(lab.lines("ip")[1..], ["198.51.100.9", "198.51.100.9"]);
    assert_ne!(lab.lines("ip")[0], "198.51.100.9");
}

#[test]
fn a_stop_ends_the_pause_as_it_ends_init() {
    for how in ["TERM", "notice"] {
        let lab = lab();
        let running = waiting(&lab, "{ action: 'retry', backoff: 3000, then: 'terminate' }");
        if how == "TERM" {
            running.signal("TERM");
        } else {
            lab.server.world().notice(&lab.me, "terminate", 120);
        }
        let run = running.wait(&lab);
        let event = if how == "TERM" { "stopping" } else { "interrupted" };
        run.ends(0, &[event]);
        assert_eq!(lab.events(), ["starting", "failed", event], "{run}");
        assert_eq!((lab.count("AttachVolume"), lab.count("TerminateInstances")), (1, 0), "{run}");
        lab.nothing_left(&run);
    }
}

#[test]
fn a_stop_during_another_attempt_ends_it() {
    let lab = lab();
    lab.fault(Fault::nth("EC2:AttachVolume", 1, refused()));
    lab.fault(Fault::nth("EC2:AttachVolume", 2, FaultKind::Hang(60_000)));
    let running = lab.start(&with(RETRY, &[&domain("")]), fast());
    lab.until("a second attach", || lab.count("AttachVolume") == 2);
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["stopping"]);
    lab.nothing_left(&run);
}

#[test]
fn a_kill_in_the_pause_leaves_nothing() {
    let lab = lab();
    let mut running = waiting(&lab, "{ action: 'retry', backoff: 3000 }");
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    lab.server.world().permit("EC2:AttachVolume");
    let run = lab.run(&with(RETRY, &[&domain("")]), fast());
    run.ends(0, &["[d] started"]);
    assert!(!run.log.contains("settling"), "{run}");
    lab.has(&[(&id(1), "/dev/xvdf")], &run);
}

#[test]
fn a_roll_back_that_is_not_complete_is_for_a_person_and_not_for_a_retry() {
    let lab = lab();
    let volume = directive("x", "/dev/xvdf", &format!(r#""volume-id": "{}""#, id(1)), "exit 1");
    lab.server.world().deny("EC2:DetachVolume");
    let text = with(RETRY, &[&format!(r#"d: {{ "attach-volume": [{volume}], notify: [{}] }}"#, to_topic(SHORT))]);
    let run = lab.run(&text, fast());
    run.ends(3, &["something could not be rolled back and needs a look:"]);
    assert_eq!(lab.count("AttachVolume"), 1, "{run}");
    assert!(!run.log.contains("attempt 2"), "{run}");
    let told = bodies(&lab);
    assert!(told.len() == 1 && !told[0].contains("on-failure"), "{told:?}");
}

#[test]
fn a_domain_that_is_not_critical_fails_alone_as_ever() {
    let lab = Lab::new();
    let failing = format!("a: {{ critical: false, exec: [{}] }}", on(&["starting"], &[sh("exit 1")]));
    let good = format!("b: {{ exec: [{}] }}", note_events());
    let run = lab.run(&with(RETRY, &[&failing, &good]), fast());
    run.ends(0, &["[b] started"]);
    assert!(!run.log.contains("on-failure") && seen(&lab) == ["b starting", "b started"], "{run}");
}

#[test]
fn people_hear_once_that_a_domain_fails_however_often_it_does() {
    let lab = lab();
    lab.fault(Fault::first("EC2:AttachVolume", 2, refused()));
    let side = format!(
        "side: {{ critical: false, notify: [{}], exec: [{}] }}",
        to_topic(SHORT),
        on(&["starting"], &[sh("exit 1")])
    );
    let run = lab.run(&with("{ action: 'retry', attempts: 5, backoff: 1 }", &[&domain(""), &side]), fast());
    run.ends(0, &["[d] started"]);
    let of = |name: &str| bodies(&lab).iter().filter(|b| b.starts_with(&format!("{name} failed"))).count();
    assert_eq!((of("d"), of("side")), (1, 1), "{:?}", bodies(&lab));
}

#[test]
fn a_second_daemon_of_a_domain_does_not_retry_and_ends_nothing() {
    let lab = lab();
    let text = with("{ action: 'retry', then: { action: 'terminate', 'min-uptime': 0 } }", &[&domain("")]);
    let first = lab.start(&text, How::default());
    first.says(&lab, "watching");
    let run = lab.run(&text, fast());
    run.ends(1, &["is being run by process"]);
    first.signal("TERM");
    first.wait(&lab).ends(0, &[]);
    assert_eq!(lab.count("TerminateInstances"), 0, "{run}");
}

#[test]
fn a_fifo_topic_gets_the_second_failure_too() {
    let lab = lab();
    let topic = "arn:aws:sns:eu-west-1:123456789012:fleet.fifo";
    lab.server.world().add_topic(topic);
    lab.server.world().deny("EC2:AttachVolume");
    let text = with(RETRY, &[&domain("").replace(crate::lab::TOPIC, topic)]);
    let run: Run = lab.run(&text, fast());
    run.ends(1, &[]);
    assert_eq!(bodies(&lab).len(), 2, "{run}");
}

#[test]
fn another_attempt_does_all_of_it_again_and_keeps_what_other_domains_need_too() {
    let lab = lab();
    lab.pool_volume("b", "p");
    lab.fault(Fault::nth("ChangeResourceRecordSets", 1, refused()));
    let names = crate::kit::record("d.example.com", "");
    let first = domain("").replacen("d: {", &format!(r#"d: {{ "update-route53": [{names}],"#), 1);
    let pool = crate::disks::volume("p", "/dev/xvdg", r#""pool-name": "p""#);
    let run = lab.run(&with(RETRY, &[&first, &format!(r#"b: {{ "attach-volume": [{pool}] }}"#)]), fast());
    run.ends(0, &["not today", "on-failure: attempt 2 of 3", "ready: "]);
    assert_eq!(lab.attached(&lab.me).len(), 2, "{run}");
    assert_eq!(crate::kit::zone(&lab, "Z1").len(), 2, "{run}");
    // The one was put back, the other stood.
    let done = |action: &str| lab.server.calls_of(action).iter().filter(|c| c.status == 200).count();
    assert_eq!((done("AttachVolume"), done("DetachVolume")), (3, 1), "{run}");
}

#[test]
fn metadata_that_cannot_be_read_again_is_a_failed_attempt() {
    let lab = lab();
    lab.server.world().deny("EC2:AttachVolume");
    let text = with(
        "{ action: 'retry', attempts: 2, backoff: 1, then: { action: 'poweroff', 'min-uptime': 0 } }",
        &[&domain("")],
    );
    let running = lab.start(&text, fast());
    lab.until_file("events");
    lab.server.world().imds(&lab.me).disabled = true;
    let run = running.wait(&lab);
    run.ends(1, &["cannot read the instance's metadata again: ", "refused with 403", "reboot(2) is not for tests"]);
}

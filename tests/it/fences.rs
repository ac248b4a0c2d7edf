//! `fence: "terminated"`: a volume that a dead instance keeps is detached from it; that of any other never is.

use crate::disks::{config, id, volume};
use crate::fakeaws::{Fault, FaultKind, VolumeSpec};
use crate::lab::{Lab, Run, once};
use crate::matrix_kills::kill_at;

fn x(rest: &str) -> String {
    config(&volume("xc", "/dev/xvdf", &format!(r#""volume-id": "{}", create: {{ Size: 4 }}, {rest}"#, id(1))))
}

fn p(rest: &str) -> String {
    config(&volume("p", "/dev/xvdf", &format!(r#""pool-name": "p", {rest}"#)))
}

const FENCE: &str = r#"fence: "terminated""#;

/// A lab where volume 1 of pool `p` is kept by a neighbour in this state.
fn kept(state: &str) -> (Lab, String) {
    let lab = Lab::new();
    let other = lab.neighbour();
    lab.volume(VolumeSpec::pool("d", "p").id(&id(1)).attached(&other, "/dev/xvdf"));
    lab.server.world().set_instance_state(&other, state);
    (lab, other)
}

/// One detachment, from the holder, and then the claim.
fn fenced(lab: &Lab, other: &str, run: &Run) {
    let text = format!("{} is held by {other}, which is ", id(1));
    run.ends(0, &[&text, ": detaching it (fence)", &format!("{} attached as /dev/xvdf", id(1))]);
    for c in lab.server.calls_of("DetachVolume") {
        assert_eq!((c.params["VolumeId"].as_str(), c.params["InstanceId"].as_str()), (id(1).as_str(), other), "{run}");
    }
    lab.has(&[(&id(1), "/dev/xvdf")], run);
    assert_eq!(lab.count("CreateVolume"), 0, "{run}");
}

#[test]
fn only_a_terminated_or_stopped_holder_is_detached_from() {
    for state in ["terminated", "stopped"] {
        for text in [x(FENCE), p(FENCE)] {
            let (lab, other) = kept(state);
            let run = lab.run(&text, once().rate(10));
            fenced(&lab, &other, &run);
            assert_eq!(lab.count("DetachVolume"), 1, "{run}");
        }
    }
    for state in ["pending", "running", "shutting-down", "stopping"] {
        let (lab, other) = kept(state);
        let run = lab.run(&p(FENCE), once().rate(10));
        run.ends(1, &[&format!("({} held by {other}, which is {state})", id(1))]);
        assert_eq!(lab.count("DetachVolume"), 0, "{run}");
    }
}

#[test]
fn a_stopped_holder_that_is_started_meanwhile_keeps_its_volume() {
    let (lab, other) = kept("stopped");
    let run = lab.start(&p(FENCE), once().rate(10));
    lab.until("a look at the holder", || lab.count("DescribeInstances") > 0);
    lab.server.world().set_instance_state(&other, "pending");
    let run = run.wait(&lab);
    run.ends(1, &[]);
    assert_eq!(lab.count("DetachVolume"), 0, "{run}");
}

#[test]
fn an_instance_that_ec2_does_not_know_is_not_detached_from() {
    let (lab, other) = kept("terminated");
    lab.server.world().forget_instance(&other, 1 << 30);
    let run = lab.run(&p(FENCE), once().rate(10));
    run.ends(1, &[&format!("({} held by {other})", id(1))]);
    assert_eq!(lab.count("DetachVolume"), 0, "{run}");
}

/// It is asked about rarely; before anything is given up, or made in its place, once more.
#[test]
fn a_holder_that_died_since_it_was_asked_about_is_fenced_before_the_source_is_given_up() {
    let (lab, other) = kept("running");
    let volume = volume("pc", "/dev/xvdf", r#""pool-name": "p", wait: 20, fence: "terminated", create: { Size: 1 }"#);
    let running = lab.start(&config(&volume), once().rate(20));
    running.says(&lab, "which is running");
    lab.server.world().set_instance_state(&other, "terminated");
    let run = running.wait(&lab);
    run.ends(0, &["started"]);
    assert_eq!((lab.created(), lab.attached(&lab.me)[0].0.clone()), (Vec::new(), id(1)), "{run}");
}

#[test]
fn nothing_is_fenced_unless_the_config_says_so() {
    for rest in ["wait: 10", r#"wait: 10, fence: "never""#] {
        let (lab, _) = kept("terminated");
        let run = lab.run(&p(rest), once().rate(10));
        run.ends(1, &["which is terminated); waited 10 s"]);
        assert_eq!(lab.count("DetachVolume"), 0, "{run}");
    }
    // Nor is anything asked for.
    let (lab, _) = kept("terminated");
    lab.run(&p(r#"fence: "never""#), once()).ends(1, &["are taken"]);
    assert_eq!(lab.count("DescribeInstances"), 0);
}

#[test]
fn a_free_volume_is_taken_before_anybody_is_fenced() {
    let (lab, _) = kept("terminated");
    lab.volume(VolumeSpec::pool("d", "p").id(&id(2)));
    let run = lab.run(&p(FENCE), once());
    run.ends(0, &[]);
    lab.has(&[(&id(2), "/dev/xvdf")], &run);
    assert_eq!((lab.count("DetachVolume"), lab.count("DescribeInstances")), (0, 0), "{run}");
}

#[test]
fn it_is_fenced_once_its_holder_is_terminated() {
    let (lab, other) = kept("running");
    let run = lab.start(&x(&format!("wait: 300, {FENCE}")), once().rate(20));
    run.says(&lab, "which is running");
    lab.server.world().set_instance_state(&other, "shutting-down");
    run.says(&lab, "which is shutting-down");
    assert_eq!(lab.count("DetachVolume"), 0);
    lab.server.world().set_instance_state(&other, "terminated");
    let run = run.wait(&lab);
    fenced(&lab, &other, &run);
}

#[test]
fn a_holder_that_was_started_again_keeps_its_volume() {
    let (lab, other) = kept("stopped");
    // The first answer comes late; by the second look it runs again.
    lab.fault(Fault::nth("DescribeInstances", 1, FaultKind::Slow(300)));
    let run = lab.start(&x(&format!("wait: 20, {FENCE}")), once().rate(10));
    lab.until("the first question", || lab.count("DescribeInstances") == 1);
    std::thread::sleep(std::time::Duration::from_millis(50));
    lab.server.world().set_instance_state(&other, "running");
    let run = run.wait(&lab);
    run.ends(0, &["which is running; waited 20 s"]);
    assert_eq!(lab.count("DetachVolume"), 0, "{run}");
}

#[test]
fn without_the_permission_to_ask_it_fails_and_says_so() {
    let (lab, other) = kept("terminated");
    lab.server.world().deny("EC2:DescribeInstances");
    let run = lab.run(&x(&format!("wait: 300, {FENCE}")), once());
    run.ends(1, &["cannot tell in what state the instance is that holds the volume", "allow ec2:DescribeInstances"]);
    assert!(lab.server.writes().is_empty(), "{other} {run}");
}

#[test]
fn without_the_permission_to_detach_it_fails_and_says_so() {
    let (lab, other) = kept("terminated");
    lab.server.world().deny(&format!("EC2:DetachVolume/{other}"));
    let run = lab.run(&x(FENCE), once());
    run.ends(1, &[&format!("cannot detach {} from {other} (fence)", id(1)), "allow ec2:DetachVolume"]);
    assert_eq!(lab.count("CreateVolume"), 0, "{run}");
}

#[test]
fn a_lost_answer_of_the_detachment_is_ridden_out() {
    for kind in [
        FaultKind::ResetAfter,
        FaultKind::ResetBefore,
        FaultKind::ErrorAfter500,
        FaultKind::Status503,
        FaultKind::Garbage,
        FaultKind::Truncated,
        FaultKind::Throttle,
    ] {
        let (lab, other) = kept("terminated");
        lab.fault(Fault::nth("DetachVolume", 1, kind.clone()));
        let run = lab.run(&x(FENCE), once().rate(20));
        fenced(&lab, &other, &run);
    }
}

#[test]
fn one_that_does_not_let_go_is_fenced_a_few_times_and_then_it_fails() {
    let (lab, other) = kept("terminated");
    let kind = FaultKind::Custom {
        status: 400,
        code: "IncorrectInstanceState".into(),
        message: "The instance is in a state that does not fit".into(),
    };
    lab.fault(Fault::every("DetachVolume", kind));
    let run = lab.run(&x(&format!("wait: 200, {FENCE}")), once().rate(100));
    let why = format!("which is terminated; cannot detach {} from {other} (fence): IncorrectInstanceState", id(1));
    run.ends(1, &[&why]);
    // Its data is there still: no new one.
    assert_eq!((lab.count("DetachVolume"), lab.count("CreateVolume")), (3, 0), "{run}");

    // The same where EC2 says yes and nothing comes of it.
    let (lab, other) = kept("terminated");
    lab.server.world().hold(&id(1));
    lab.fault(Fault::every("DetachVolume", FaultKind::ErrorAfter500));
    let run = lab.start(&x(&format!("wait: 100, {FENCE}")), once().rate(50));
    run.says(&lab, "nobody knows whether");
    lab.until("busy", || lab.server.world().volume(&id(1)).unwrap().attachments[0].state == "busy");
    let run = run.wait(&lab);
    run.ends(1, &[&format!("{} stays attached to {other}, from which it was detached", id(1))]);
    assert_eq!((lab.count("DetachVolume"), lab.count("CreateVolume")), (3, 0), "{run}");
}

#[test]
fn what_is_not_known_is_no_reason_for_another_volume() {
    for rest in [FENCE.to_owned(), format!("wait: 20, {FENCE}")] {
        let (lab, _) = kept("terminated");
        lab.fault(Fault::every("DescribeInstances", FaultKind::Throttle));
        let run = lab.run(&x(&rest), once().rate(20));
        run.ends(1, &["cannot tell in what state the instance is that holds the volume"]);
        assert!(lab.server.writes().is_empty(), "{run}");
        // As soon as it is known again, it goes on.
        let (lab, other) = kept("terminated");
        lab.fault(Fault::first("DescribeInstances", 2, FaultKind::Throttle));
        let run = lab.run(&x(&rest), once().rate(20));
        fenced(&lab, &other, &run);
    }
}

#[test]
fn old_pictures_after_the_detachment_do_not_end_it() {
    let (lab, other) = kept("terminated");
    lab.knobs(|k| k.stale_ms = 300);
    let run = lab.run(&x(FENCE), once().rate(4));
    fenced(&lab, &other, &run);
}

#[test]
fn several_successors_of_a_dead_fleet_get_one_volume_each() {
    let lab = Lab::new();
    let dead: Vec<String> = (0..4).map(|_| lab.neighbour()).collect();
    for (n, i) in (1..).zip(&dead) {
        lab.volume(VolumeSpec::pool("d", "p").id(&id(n)).attached(i, "/dev/xvdf"));
        lab.server.world().set_instance_state(i, "terminated");
    }
    let heirs: Vec<String> = (0..4).map(|_| lab.neighbour()).collect();
    let text = p(&format!("wait: 300, {FENCE}"));
    let runs: Vec<_> = heirs.iter().map(|i| lab.start(&text, once().rate(10).on(i))).collect();
    for (run, heir) in runs.into_iter().zip(&heirs) {
        let run = run.wait(&lab);
        run.ends(0, &[]);
        assert_eq!(lab.attached(heir).len(), 1, "{run}");
    }
}

#[test]
fn killed_at_any_call_of_a_fence_the_next_run_ends_it() {
    for (action, n) in [("DescribeInstances", 1), ("DescribeInstances", 2), ("DetachVolume", 1), ("AttachVolume", 1)] {
        for after in [false, true] {
            let (lab, _) = kept("terminated");
            let text = x(FENCE);
            assert!(kill_at(&lab, &text, action, n, after), "{action} {n} {after}");
            let run = lab.run(&text, once().rate(10));
            run.ends(0, &[]);
            lab.has(&[(&id(1), "/dev/xvdf")], &run);
            assert_eq!(lab.count("CreateVolume"), 0, "{run}");
            assert_eq!(lab.tag_keys(&id(1)), ["domain", "owner", "pool-name", "ts-used"], "{action} {n} {after} {run}");
        }
    }
}

#[test]
fn the_detachment_is_in_the_transaction_log() {
    let (lab, other) = kept("terminated");
    let notify = crate::kit::to_topic(r#"envelope: { body: "{transaction_log}" }"#);
    let directive = volume("x", "/dev/xvdf", &format!(r#""volume-id": "{}", {FENCE}"#, id(1)));
    let text = crate::kit::one(&format!(r#""attach-volume": [{directive}], notify: [{notify}]"#));
    lab.run(&text, once().rate(10)).ends(0, &[]);
    let body = crate::kit::bodies(&lab).pop().unwrap();
    let calls: serde_json::Value = serde_json::from_str(&body).unwrap();
    let detach = calls.as_array().unwrap().iter().find(|c| c["method"] == "detach_volume").unwrap();
    assert_eq!(detach["param"], serde_json::json!({ "VolumeId": id(1), "InstanceId": other }));
}

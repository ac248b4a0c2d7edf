//! A domain is a transaction: all of its volumes stand, or all go back, last in, first out.

use crate::disks::{EVENTS, HOLD, NOTE, config, directive, id, timed, volume};
use crate::fakeaws::{Fault, FaultKind, VolumeSpec};
use crate::lab::{Lab, TOPIC, once};

fn p(device: &str, script: &str) -> String {
    directive("p", device, r#""pool-name": "p""#, script)
}

/// Two domains, `a` and `b`, each with directives and the events noted with the domain's name.
fn two_domains(a: &str, b: &str, more_of_b: &str) -> String {
    let domain = |name: &str, directives: &str, more: &str| {
        format!(
            r#"{name}: {{ {more} "attach-volume": [{directives}], exec: [{{ lines: [{{ argv: ["/bin/sh", "-c",
                "echo $1 $2 >> $LAB/events", "sh", "{{domain}}", "{{daemon_state}}"] }}] }}] }}"#
        )
    };
    format!("{{ domains: {{ {}, {} }} }}", domain("a", a, ""), domain("b", b, more_of_b))
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[test]
fn the_second_volumes_command_fails_and_both_go_back_last_first() {
    let lab = Lab::new();
    let of = |n, owner: &str| {
        let spec = VolumeSpec::default().id(&id(n)).tag("Name", "x").tag("user:ec2fd.ts-used", "2026-01-01T00:00:00Z");
        lab.volume(if owner.is_empty() { spec } else { spec.tag("user:ec2fd.owner", owner) })
    };
    let (first, second) = (of(1, "i-0aaaaaaaaaaaaaaaa"), of(2, ""));
    let before = [&first, &second].map(|v| lab.server.world().volume(v).unwrap().tags.clone());
    let x = |n, device: &str, script: &str| directive("x", device, &format!(r#""volume-id": "{}""#, id(n)), script);
    let run = lab.run(&config(&format!("{}, {}", x(1, "/dev/xvdf", NOTE), x(2, "/dev/xvdg", "exit 9"))), once());
    run.ends(1, &["attach-volume[1]: ", "exit code 9", "rolling back d"]);
    lab.nothing_left(&run);
    assert_eq!(lab.volumes_of("DetachVolume"), [second.as_str(), first.as_str()], "{run}");
    let after = [&first, &second].map(|v| lab.server.world().volume(v).unwrap().tags.clone());
    assert_eq!(after, before, "{run}");
}

#[test]
fn last_in_is_the_last_directive_however_late_the_first_got_its_volume() {
    let lab = Lab::new();
    let other = lab.neighbour();
    // The first one's volume comes late, so that the second one's is claimed before it.
    let late = lab.volume(VolumeSpec::default().id(&id(1)).attached(&other, "/dev/xvdf"));
    lab.set_attachment(&late, "detaching", 400);
    let soon = lab.volume(VolumeSpec::default().id(&id(2)));
    let x = |n, device: &str, script: &str| directive("x", device, &format!(r#""volume-id": "{}""#, id(n)), script);
    let text = config(&format!("{}, {}", x(1, "/dev/xvdf", NOTE), x(2, "/dev/xvdg", "exit 9")));
    let run = lab.run(&text, once());
    run.ends(1, &["exit code 9"]);
    assert_eq!(lab.volumes_of("AttachVolume"), [soon.as_str(), late.as_str()], "{run}");
    assert_eq!(lab.volumes_of("DetachVolume"), [soon.as_str(), late.as_str()], "{run}");
}

#[test]
fn tags_are_afterwards_as_they_were() {
    for owner in ["me", "i-0aaaaaaaaaaaaaaaa", ""] {
        for transc in ["", "f00"] {
            let lab = Lab::new();
            let mut spec = VolumeSpec::pool("d", "p").id(&id(1)).tag("Name", "x");
            if !owner.is_empty() {
                spec = spec.tag("user:ec2fd.owner", if owner == "me" { &lab.me } else { owner });
            }
            if !transc.is_empty() {
                spec = spec.tag("user:ec2fd.transc-id", transc);
            }
            let vol = lab.volume(spec);
            let before = lab.server.world().volume(&vol).unwrap().tags.clone();
            let run = lab.run(&config(&p("/dev/xvdf", "exit 9")), once());
            run.ends(1, &[]);
            let after = lab.server.world().volume(&vol).unwrap().tags.clone();
            assert_eq!(after, before, "owner '{owner}', transaction '{transc}'\n{run}");
        }
    }
}

#[test]
fn created_volumes_are_deleted_and_those_of_the_pool_are_not() {
    let lab = Lab::new();
    let all = lab.pool_of(1);
    lab.knobs(|k| k.delete_in_use_ms = 300);
    let c = directive("c", "/dev/xvdg", r#""pool-name": "q", create: { Size: 1 }"#, "exit 1");
    let run = lab.run(&config(&format!("{}, {c}", p("/dev/xvdf", NOTE))), once());
    run.ends(1, &["deleted: this run created it"]);
    lab.nothing_left(&run);
    assert_eq!(lab.state(&all[0]), "available");
    let made = lab.volumes_of("DeleteVolume");
    assert!(!made.is_empty() && !made.contains(&all[0]), "{run}");
}

#[test]
fn a_volume_that_is_not_critical_goes_back_alone() {
    let lab = Lab::new();
    let all = lab.pool_of(2);
    let bad = directive("p", "/dev/xvdg", r#""pool-name": "p", critical: false"#, "echo $1 > $LAB/bad; exit 1");
    let run = lab.run(&config(&format!("{bad}, {}", p("/dev/xvdf", NOTE))), once());
    run.ends(0, &["attach-volume[0] failed and is passed over (it is not critical)", "[d] started"]);
    let gone = lab.lines("bad").remove(0);
    let kept = all.iter().find(|v| **v != gone).unwrap();
    lab.has(&[(kept, "/dev/xvdf")], &run);
    assert_eq!(lab.tag_keys(&gone), ["domain", "pool-name"], "{run}");
    assert_eq!(lab.volumes_of("DetachVolume"), [gone.as_str()], "{run}");
}

#[test]
fn a_denied_detach_ends_with_exit_3_and_names_the_volume() {
    let lab = Lab::new();
    let all = lab.pool_of(2);
    lab.server.world().deny(&format!("EC2:DetachVolume/{}", all[1]));
    let x =
        |n: u32, device: &str, script: &str| directive("x", device, &format!(r#""volume-id": "{}""#, id(n)), script);
    let text = config(&format!("{}, {}", x(1, "/dev/xvdf", NOTE), x(2, "/dev/xvdg", "exit 1")));
    let run = lab.run(&text, once());
    let text = format!("{} stays attached as /dev/xvdg", all[1]);
    run.ends(3, &[&text, "allow ec2:DetachVolume", "something could not be rolled back and needs a look"]);
    // The first one goes back all the same.
    lab.has(&[(&all[1], "/dev/xvdg")], &run);
}

#[test]
fn a_volume_that_ec2_calls_busy_ends_with_exit_3() {
    let lab = Lab::new();
    let all = lab.pool_of(1);
    lab.server.world().hold(&all[0]);
    let run = lab.run(&config(&p("/dev/xvdf", "exit 1")), once().rate(20));
    run.ends(3, &[&format!("{} stays attached as /dev/xvdf: EC2 says busy", all[0])]);
    assert_eq!(lab.count("DetachVolume"), 1, "{run}");
}

#[test]
fn a_denied_delete_ends_with_exit_3_and_names_the_volume() {
    let lab = Lab::new();
    lab.server.world().deny("EC2:DeleteVolume");
    let run = lab.run(&config(&directive("c", "/dev/xvdf", "create: { Size: 1 }", "exit 1")), once());
    let made = lab.created();
    run.ends(3, &[&format!("{}, which this run created, exists still", made[0]), "allow ec2:DeleteVolume"]);
    assert!(lab.attached(&lab.me).is_empty(), "{run}");
}

#[test]
fn a_roll_back_goes_on_after_lost_answers_and_throttling() {
    for kind in [
        FaultKind::ResetAfter,
        FaultKind::ErrorAfter500,
        FaultKind::Throttle,
        FaultKind::ResetBefore,
        FaultKind::Garbage,
    ] {
        let lab = Lab::new();
        lab.pool_of(1);
        for action in ["DetachVolume", "DeleteVolume", "DeleteTags"] {
            lab.fault(Fault::first(action, 2, kind.clone()));
        }
        let c = directive("c", "/dev/xvdg", r#""pool-name": "q", create: { Size: 1 }"#, "exit 1");
        let run = lab.run(&config(&format!("{}, {c}", p("/dev/xvdf", NOTE))), once().rate(4));
        run.ends(1, &[]);
        lab.nothing_left(&run);
        assert_eq!(lab.tag_keys(&id(1)), ["domain", "pool-name"], "{kind:?}\n{run}");
    }
}

#[test]
fn a_detach_that_comes_too_early_is_tried_again() {
    let lab = Lab::new();
    lab.pool_of(1);
    let early = FaultKind::Custom { status: 400, code: "IncorrectInstanceState".into(), message: "no".into() };
    lab.fault(Fault::first("DetachVolume", 2, early));
    let run = lab.run(&config(&p("/dev/xvdf", "exit 1")), once().rate(4));
    run.ends(1, &[]);
    lab.nothing_left(&run);
}

#[test]
fn a_record_that_fails_after_the_volumes_takes_them_back() {
    let lab = Lab::new();
    lab.pool_of(1);
    let text = format!(
        r#"{{ domains: {{ d: {{ "attach-volume": [{}, {}],
            "update-route53": [{{ hostedzone: "Z404", name: "a.example.com", ttl: 60 }}], {EVENTS},
            notify: [{{ backend: "aws-sns", options: {{ topic: "{TOPIC}" }} }}] }} }} }}"#,
        p("/dev/xvdf", NOTE),
        directive("c", "/dev/xvdg", "create: { Size: 1 }", NOTE)
    );
    let run = lab.run(&text, once());
    run.ends(1, &["update-route53[0]", "Z404"]);
    lab.nothing_left(&run);
    assert_eq!(lab.events(), ["starting", "failed"]);
    let messages = lab.server.world().messages();
    assert!(messages.len() == 1 && messages[0].body.contains("Z404"), "{messages:?}\n{run}");
}

#[test]
fn a_domain_that_fails_takes_nothing_from_the_others_but_they_get_failed() {
    let lab = Lab::new();
    let [a, b] = [1, 2].map(|n| lab.volume(VolumeSpec::default().id(&id(n))));
    let x =
        |n: u32, device: &str, script: &str| directive("x", device, &format!(r#""volume-id": "{}""#, id(n)), script);
    let run = lab.run(&two_domains(&x(1, "/dev/xvdf", NOTE), &x(2, "/dev/xvdg", "exit 1"), ""), once());
    run.ends(1, &["failed: b; not failed, but not started because of it: a"]);
    lab.has(&[(&a, "/dev/xvdf")], &run);
    assert_eq!(lab.tag_keys(&a), ["owner", "ts-used"], "{run}");
    assert!(lab.tag_keys(&b).is_empty(), "{run}");
    assert_eq!(sorted(lab.events()), ["a failed", "a starting", "b failed", "b starting"]);
}

#[test]
fn a_domain_that_is_not_critical_fails_alone() {
    let lab = Lab::new();
    let a = lab.volume(VolumeSpec::default().id(&id(1)));
    lab.volume(VolumeSpec::default().id(&id(2)));
    let x =
        |n: u32, device: &str, script: &str| directive("x", device, &format!(r#""volume-id": "{}""#, id(n)), script);
    let text = two_domains(&x(1, "/dev/xvdf", NOTE), &x(2, "/dev/xvdg", "exit 1"), "critical: false,");
    let run = lab.run(&text, once());
    run.ends(0, &["ready: a started"]);
    lab.has(&[(&a, "/dev/xvdf")], &run);
    assert_eq!(sorted(lab.events()), ["a started", "a starting", "b failed", "b starting"]);
}

#[test]
fn a_command_that_outlives_the_timeout_is_ended_and_its_volume_goes_back() {
    let lab = Lab::new();
    lab.pool_of(1);
    let text = timed(40, &p("/dev/xvdf", "echo $$ > $LAB/pid; trap '' TERM; while :; do sleep 0.05; done"));
    let run = lab.run(&text, once().rate(20));
    run.ends(1, &["/bin/sh"]);
    lab.nothing_left(&run);
    let pid = lab.lines("pid").remove(0);
    assert!(!std::path::Path::new("/proc").join(&pid).join("cwd").exists(), "process {pid} lives\n{run}");
}

#[test]
fn what_a_command_left_running_is_ended_before_the_detach() {
    let lab = Lab::new();
    lab.pool_of(1);
    let run = lab.run(&config(&p("/dev/xvdf", "sleep 600 & echo $! > $LAB/pid; exit 1")), once().rate(4));
    run.ends(1, &["exit code 1"]);
    lab.nothing_left(&run);
    let pid = lab.lines("pid").remove(0);
    assert!(!std::path::Path::new("/proc").join(&pid).join("cwd").exists(), "process {pid} lives\n{run}");
}

#[test]
fn a_starting_command_that_fails_touches_no_volume() {
    let lab = Lab::new();
    lab.pool_of(1);
    let text = config(&volume("p", "/dev/xvdf", r#""pool-name": "p""#)).replace(
        r#""attach-volume""#,
        r#"exec: [{ on: ["starting"], lines: [{ argv: ["/bin/false"] }] }], "attach-volume""#,
    );
    let run = lab.run(&text, once());
    run.ends(1, &["'starting' commands"]);
    assert_eq!(lab.count("AttachVolume"), 0, "{run}");
}

#[test]
fn a_started_command_that_fails_keeps_the_volumes() {
    let lab = Lab::new();
    let all = lab.pool_of(1);
    let text = config(&volume("p", "/dev/xvdf", r#""pool-name": "p""#)).replace(
        r#""attach-volume""#,
        r#"exec: [{ on: ["started"], lines: [{ argv: ["/bin/false"] }] }], "attach-volume""#,
    );
    let run = lab.run(&text, once());
    run.ends(1, &["'started' commands", "are kept"]);
    lab.has(&[(&all[0], "/dev/xvdf")], &run);
    assert_eq!(lab.tag_keys(&all[0]), ["domain", "owner", "pool-name", "ts-used"], "{run}");
}

#[test]
fn commands_of_a_critical_volume_that_failed_do_not_let_later_ones_run() {
    let lab = Lab::new();
    lab.pool_of(2);
    let run = lab.run(&config(&format!("{}, {}", p("/dev/xvdf", "exit 1"), p("/dev/xvdg", HOLD))), once());
    run.ends(1, &[]);
    assert!(!lab.dir.join("first").exists(), "{run}");
    lab.nothing_left(&run);
}

#[test]
fn a_failed_domain_does_not_wait_for_what_its_other_directives_wait_for() {
    for action in ["CreateVolume", "ListResourceRecordSets"] {
        let lab = Lab::new();
        lab.pool_of(1);
        lab.fault(Fault::every(action, FaultKind::Throttle));
        let text = format!(
            r#"{{ timeout: 3000, domains: {{ d: {{ "attach-volume": [{}, {}],
                "update-route53": [{{ hostedzone: "Z1", name: "a.example.com", ttl: 60 }}] }} }} }}"#,
            p("/dev/xvdf", "sleep 0.2; exit 1"),
            directive("c", "/dev/xvdg", "create: { Size: 1 }", NOTE)
        );
        let begin = std::time::Instant::now();
        let run = lab.run(&text, once().rate(20));
        run.ends(1, &["exit code 1"]);
        assert!(begin.elapsed().as_secs() < 12, "{action} {:?}\n{run}", begin.elapsed());
        lab.nothing_left(&run);
    }
}

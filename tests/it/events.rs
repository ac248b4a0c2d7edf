//! `starting → started | failed`, domains that may fail alone, and what can be switched off.

use crate::fakeaws::FaultKind;
use crate::kit::{SHORT, bodies, config, note_events, on, one, record, seen, sh, to_topic, zone};
use crate::lab::{How, Lab, once};

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[test]
fn a_failed_starting_command_ends_the_run_before_any_write() {
    let lab = Lab::new();
    lab.pool_volume("bad", "p");
    let bad = format!(
        r#"bad: {{ "attach-volume": [{{ device: "/dev/xvdf", source: "p", "pool-name": "p" }}],
            "update-route53": [{}], exec: [{}, {}], notify: [{}] }}"#,
        record("a.example.com", ""),
        note_events(),
        on(&["starting"], &[sh("exit 9")]),
        to_topic(SHORT)
    );
    let good = format!("good: {{ exec: [{}], notify: [{}] }}", note_events(), to_topic(SHORT));
    let run = lab.run(&config(&[&bad, &good]), once());
    run.ends(1, &["'starting' commands: /bin/sh ended with exit code 9", "failed: bad; not failed"]);
    let writes: Vec<_> = lab.server.writes().into_iter().filter(|c| c.action != "Publish").collect();
    assert!(writes.is_empty(), "{run}");
    assert_eq!(sorted(seen(&lab)), ["bad failed", "bad starting", "good failed", "good starting"], "{run}");
    // The one that did not fail is told why it does not start.
    let told = bodies(&lab);
    assert_eq!(told.len(), 2, "{run}");
    let both = "good failed failed: bad; not failed, but not started because of it: good";
    assert!(told.contains(&both.to_owned()), "{told:?}");
    assert!(!run.log.contains("ready"), "{run}");
}

#[test]
fn a_failed_started_command_keeps_the_holds_and_exits_1() {
    let lab = Lab::new();
    let vol = lab.pool_volume("d", "p");
    let text = one(&format!(
        r#""attach-volume": [{{ device: "/dev/xvdf", source: "p", "pool-name": "p" }}],
            "update-route53": [{}], exec: [{}, {}], notify: [{}]"#,
        record("a.example.com", ""),
        note_events(),
        on(&["started"], &[sh("exit 9")]),
        to_topic(SHORT)
    ));
    let run = lab.run(&text, once());
    run.ends(1, &["'started' commands: /bin/sh ended with exit code 9", "the volumes and records of d are kept"]);
    assert_eq!(lab.attached(&lab.me), [(vol.clone(), "/dev/xvdf".to_owned())], "{run}");
    assert_eq!(zone(&lab, "Z1").len(), 2, "{run}");
    assert_eq!(lab.tag_keys(&vol), ["domain", "owner", "pool-name", "ts-used"], "{run}");
    assert_eq!(seen(&lab), ["d starting", "d started", "d failed"], "{run}");
    assert_eq!(bodies(&lab), ["d failed 'started' commands: /bin/sh ended with exit code 9, success is 0"]);
}

#[test]
fn a_domain_that_is_not_critical_fails_alone() {
    for event in ["starting", "started"] {
        let lab = Lab::new();
        let bad = format!(
            "bad: {{ critical: false, exec: [{}, {}], notify: [{}] }}",
            note_events(),
            on(&[event], &[sh("exit 9")]),
            to_topic(SHORT)
        );
        let good = format!("good: {{ exec: [{}], notify: [{}] }}", note_events(), to_topic(SHORT));
        let run = lab.run(&config(&[&bad, &good]), once());
        run.ends(0, &["ready: good started"]);
        let mut want = vec!["bad failed", "bad starting", "good started", "good starting"];
        if event == "started" {
            want.insert(1, "bad started");
        }
        assert_eq!(sorted(seen(&lab)), want, "{event} {run}");
        let error = format!("bad failed '{event}' commands: /bin/sh ended with exit code 9, success is 0");
        assert_eq!(sorted(bodies(&lab)), [error.as_str(), "good started"], "{event} {run}");
    }
}

#[test]
fn a_domain_that_is_not_critical_is_rolled_back_alone() {
    let lab = Lab::new();
    let bad = format!(
        "bad: {{ critical: false, \"update-route53\": [{}, {}], exec: [{}] }}",
        record("bad.example.com", ""),
        record("outside.example.org", ""),
        note_events()
    );
    let good = format!("good: {{ \"update-route53\": [{}], exec: [{}] }}", record("g.example.com", ""), note_events());
    let run = lab.run(&config(&[&bad, &good]), once());
    run.ends(0, &["rolling back bad", "ready: good started"]);
    let want = ["g.example.com. A 60 203.0.113.10", "g.example.com. AAAA 60 2001:db8::a"];
    assert_eq!(zone(&lab, "Z1"), want, "{run}");
    assert_eq!(sorted(seen(&lab)), ["bad failed", "bad starting", "good started", "good starting"], "{run}");
}

#[test]
fn a_domain_is_told_only_once_that_it_failed() {
    let lab = Lab::new();
    let alone = format!(
        "alone: {{ critical: false, exec: [{}, {}], notify: [{}] }}",
        note_events(),
        on(&["starting"], &[sh("exit 9")]),
        to_topic(SHORT)
    );
    let all = format!("all: {{ exec: [{}, {}] }}", note_events(), on(&["started"], &[sh("exit 9")]));
    let run = lab.run(&config(&[&alone, &all]), once());
    run.ends(1, &["failed: "]);
    let want = ["all failed", "all started", "all starting", "alone failed", "alone starting"];
    assert_eq!(sorted(seen(&lab)), want, "{run}");
    assert_eq!(bodies(&lab).len(), 1, "{run}");
}

#[test]
fn domains_start_side_by_side() {
    // Each waits for the other's file.
    let lab = Lab::new();
    let wait = |mine: &str, other: &str| {
        sh(&format!(
            "touch $LAB/{mine}; i=0; while [ ! -e $LAB/{other} ]; do i=$((i+1)); [ $i -lt 500 ] || exit 1; sleep 0.01; done"
        ))
    };
    let domain = |me: &str, other: &str| format!("{me}: {{ exec: [{}] }}", on(&["starting"], &[wait(me, other)]));
    lab.run(&config(&[&domain("a", "b"), &domain("b", "a")]), once()).ends(0, &["ready: a, b started"]);
}

#[test]
fn without_init_nothing_of_aws_or_the_host_name_changes() {
    let lab = Lab::new();
    lab.pool_volume("d", "p");
    let text = format!(
        r#"{{ hostname: "x", domains: {{ d: {{ "attach-volume": [{{ device: "/dev/xvdf", source: "p", "pool-name": "p" }}],
            "update-route53": [{}], exec: [{}], notify: [{}] }} }} }}"#,
        record("a.example.com", ""),
        note_events(),
        to_topic(SHORT)
    );
    let run = lab.run(&text, once().arg("--enable-init=0"));
    run.ends(0, &["ready: d started"]);
    let actions: Vec<_> = lab.server.calls().into_iter().map(|c| c.action).collect();
    assert_eq!(actions, ["Publish"], "{run}");
    assert_eq!(seen(&lab), ["d starting", "d started"]);
    assert!(!lab.root(&lab.me).join("proc/sys/kernel/hostname").exists(), "{run}");
}

#[test]
fn without_polling_the_run_ends_after_started_which_runs_once() {
    let lab = Lab::new();
    let run = lab.run(&one(&format!("exec: [{}]", note_events())), How::default().arg("--enable-poll").arg("FALSE"));
    run.ends(0, &[]);
    assert_eq!(seen(&lab), ["d starting", "d started"], "{run}");
    assert!(!lab.server.imds_calls(&lab.me).iter().any(|c| c.path.contains("spot")), "{run}");
}

#[test]
fn disable_all_counts_from_its_place_on() {
    let text = one(&format!("exec: [{}], notify: [{}]", note_events(), to_topic(SHORT)));
    // (arguments, commands ran, message sent)
    let cases: [(&[&str], bool, bool); 4] = [
        (&["--disable-all"], false, false),
        (&["--disable-all", "--enable-exec=true"], true, false),
        (&["--enable-exec=true", "--disable-all"], false, false),
        (&["--disable-all", "--enable-notify=1"], false, true),
    ];
    for (args, ran, sent) in cases {
        let lab = Lab::new();
        let how = args.iter().fold(How::default(), |h, a| h.arg(a));
        let run = lab.run(&text, how);
        run.ends(0, &["ready: d started"]);
        assert_eq!((!seen(&lab).is_empty(), !bodies(&lab).is_empty()), (ran, sent), "{args:?} {run}");
    }
}

#[test]
fn a_config_without_domains_has_nothing_to_start() {
    let lab = Lab::new();
    let run = lab.run(r#"{ hostname: "only-{ami-i}{domain}" }"#, once());
    run.ends(0, &["the host name is only-0", "ready"]);
    assert!(lab.server.calls().is_empty(), "{run}");
    let name = std::fs::read_to_string(lab.root(&lab.me).join("proc/sys/kernel/hostname")).unwrap();
    assert_eq!(name.trim(), "only-0");
}

#[test]
fn the_host_name_is_never_critical() {
    let lab = Lab::new();
    std::fs::create_dir(lab.root(&lab.me).join("proc/sys/kernel/hostname")).unwrap();
    let run = lab.run(r#"{ "set-hostname": "x", domains: { d: {} } }"#, once());
    run.ends(0, &["cannot set the host name to 'x'", "ready: d started"]);
}

#[test]
fn init_has_a_deadline_and_what_it_did_is_rolled_back() {
    let lab = Lab::new();
    lab.server.world().add_zone("Z2", "example.net");
    let hang = crate::fakeaws::Fault::every("ChangeResourceRecordSets", FaultKind::Hang(60_000)).with_value("Z2");
    lab.server.world().fault(hang);
    let other = r#"{ hostedzone: "Z2", name: "a.example.net", ttl: 60 }"#;
    let text = format!(
        "{{ timeout: 20, domains: {{ d: {{ \"update-route53\": [{}, {other}] }} }} }}",
        record("a.example.com", "")
    );
    let run = lab.run(&text, once().rate(20));
    run.ends(1, &["cannot write a.example.net. in hosted zone Z2: the time for it is over", "put back"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
}

#[test]
fn dns_never_points_at_an_instance_whose_volume_failed() {
    let lab = Lab::new();
    lab.pool_volume("d", "p");
    let text = one(&format!(
        r#""attach-volume": [{{ device: "/dev/xvdf", source: "p", "pool-name": "p",
            exec: [{{ lines: [{}] }}] }}], "update-route53": [{}]"#,
        sh("exit 32"),
        record("a.example.com", "")
    ));
    let run = lab.run(&text, once());
    run.ends(1, &["ended with exit code 32", "failed: d"]);
    assert!(lab.server.calls_of("ChangeResourceRecordSets").is_empty(), "{run}");
    assert!(lab.attached(&lab.me).is_empty(), "{run}");
}

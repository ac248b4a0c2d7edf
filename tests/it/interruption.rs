//! Interruption notices: which count, and what follows from one.

use crate::fakeaws::imds::Notice;
use crate::fakeaws::{Fault, FaultKind};
use crate::kit::{SHORT, bodies, config, note_events, on, record, seen, sh, to_topic, zone};
use crate::lab::{How, Lab};

/// A config that polls often.
fn polling(domain: &str) -> String {
    format!(
        r#"{{ "interrupt-detection": {{ detect: "poll", options: {{ interval: 0.02 }} }}, domains: {{ d: {{ {domain} }} }} }}"#
    )
}

fn set_notice(lab: &Lab, action: &str, time: &str) {
    lab.server.world().imds(&lab.me).notice = Some(Notice { action: action.into(), time: time.into() });
}

#[test]
fn each_kind_of_notice_is_acted_on_once() {
    for action in ["terminate", "stop", "hibernate"] {
        let lab = Lab::new();
        let text = polling(&format!("exec: [{}], notify: [{}]", note_events(), to_topic(SHORT)));
        let running = lab.start(&text, How::default());
        running.says(&lab, "watching for interruptions");
        lab.server.world().notice(&lab.me, action, 120);
        // A hibernation is survived: `resume` has tests for it.
        let survived = action == "hibernate";
        if survived {
            running.says(&lab, "init runs again when the instance is back");
            running.signal("TERM");
        }
        let run = running.wait(&lab);
        run.ends(0, &[&format!("EC2 is going to {action} this instance at "), "the instance is left running"]);
        assert_eq!(seen(&lab), ["d starting", "d started", "d interrupted"], "{run}");
        assert_eq!(bodies(&lab), ["d started", "d interrupted"], "{run}");
        let asked = lab.server.imds_calls(&lab.me);
        let seen = asked.iter().filter(|c| c.path.ends_with("spot/instance-action") && c.status == 200).count();
        assert!(seen == 1 || survived && seen > 1, "{seen} {run}");
    }
}

#[test]
fn the_macros_tell_when_and_what() {
    let lab = Lab::new();
    let line = sh("echo {interrupt_action} {interrupt_time} {daemon_state} >> $LAB/seen");
    let running = lab.start(&polling(&format!("exec: [{}]", on(&["started", "interrupted"], &[line]))), How::default());
    running.says(&lab, "watching");
    lab.server.world().notice(&lab.me, "stop", 120);
    let time = lab.server.world().imds(&lab.me).notice.clone().unwrap().time;
    running.wait(&lab).ends(0, &[]);
    assert_eq!(seen(&lab), ["started".to_owned(), format!("stop {time} interrupted")]);
}

#[test]
fn what_is_no_notice_is_ignored_and_said_once() {
    // (action, time, what is said)
    let old = (time::OffsetDateTime::now_utc() - time::Duration::minutes(6)).replace_nanosecond(0).unwrap();
    let old = old.format(&time::format_description::well_known::Rfc3339).unwrap();
    let cases = [
        ("noop", "2036-01-01T00:00:00Z", "is no interruption notice"),
        ("terminate", "soon", "is no interruption notice"),
        ("terminate", old.as_str(), "ignoring a notice that is not valid"),
    ];
    for (action, time, said) in cases {
        let lab = Lab::new();
        let running = lab.start(&polling(&format!("exec: [{}]", note_events())), How::default());
        running.says(&lab, "watching");
        set_notice(&lab, action, time);
        running.says(&lab, said);
        let asked = lab.server.imds_calls(&lab.me).len();
        lab.until("five more polls", || lab.server.imds_calls(&lab.me).len() > asked + 5);
        lab.server.world().notice(&lab.me, "terminate", 120);
        let run = running.wait(&lab);
        run.ends(0, &["EC2 is going to terminate"]);
        assert_eq!(run.log.matches(said).count(), 1, "{run}");
        assert_eq!(seen(&lab), ["d starting", "d started", "d interrupted"], "{run}");
    }
}

#[test]
fn polling_survives_trouble_of_the_metadata_service() {
    type Trouble = fn(&mut crate::fakeaws::imds::ImdsState);
    let troubles: [(&str, Trouble); 5] = [
        ("401s", |i| i.refuse_gets = 8),
        ("503s", |i| i.unavailable = 8),
        ("hangs", |i| i.hang = (2, 10_000)),
        ("lost tokens", |i| i.lose_tokens()),
        ("closed connections", |i| i.close = true),
    ];
    for (name, trouble) in troubles {
        let lab = Lab::new();
        let running = lab.start(&polling(""), How::default().rate(10));
        running.says(&lab, "watching");
        trouble(lab.server.world().imds(&lab.me));
        let asked = lab.server.imds_calls(&lab.me).len();
        lab.until(name, || lab.server.imds_calls(&lab.me).len() > asked + 2);
        lab.server.world().notice(&lab.me, "terminate", 3600);
        let run = running.wait(&lab);
        run.ends(0, &["EC2 is going to terminate"]);
        // A token or a connection that has ended is no trouble.
        let most = if matches!(name, "lost tokens" | "closed connections") { 0 } else { 2 };
        assert!(run.log.matches("does not give").count() <= most, "{name}: {run}");
    }
}

#[test]
fn an_outage_is_said_once_and_so_is_its_end() {
    let lab = Lab::new();
    let running = lab.start(&polling(""), How::default().rate(50));
    running.says(&lab, "watching");
    lab.server.world().imds(&lab.me).disabled = true;
    running.says(&lab, "cannot poll for interruption notices, and goes on trying");
    let asked = lab.server.imds_calls(&lab.me).len();
    lab.until("more polls", || lab.server.imds_calls(&lab.me).len() > asked + 20);
    lab.server.world().imds(&lab.me).disabled = false;
    running.says(&lab, "polling for interruption notices again");
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &[]);
    assert_eq!(run.log.matches("cannot poll for").count(), 1, "{run}");
}

#[test]
fn a_command_is_ended_before_the_announced_time() {
    let lab = Lab::new();
    let text = polling(&format!("exec: [{}]", on(&["interrupted"], &[sh("sleep 600")])));
    let running = lab.start(&text, How::default().rate(20));
    running.says(&lab, "watching");
    lab.server.world().notice(&lab.me, "terminate", 60);
    let run = running.wait(&lab);
    run.ends(
        3,
        &["'interrupted' commands: /bin/sh was ended after", "interrupted, but exec[0].lines[0] (/bin/sh) failed"],
    );
    let line = run.log.lines().find(|l| l.contains("s for the way out")).unwrap();
    let budget: u64 = line.split_whitespace().find_map(|w| w.parse().ok()).unwrap();
    assert!((10..=55).contains(&budget), "{line}");
}

#[test]
fn messages_do_not_wait_for_commands() {
    let lab = Lab::new();
    let wait = sh("i=0; while [ ! -e $LAB/go ]; do i=$((i+1)); [ $i -lt 2000 ] || exit 1; sleep 0.01; done");
    let text = polling(&format!("exec: [{}], notify: [{}]", on(&["interrupted"], &[wait]), to_topic(SHORT)));
    let running = lab.start(&text, How::default());
    running.says(&lab, "watching");
    lab.server.world().notice(&lab.me, "terminate", 120);
    lab.until("the message", || bodies(&lab).contains(&"d interrupted".to_owned()));
    lab.file("go", "");
    let run = running.wait(&lab);
    run.ends(0, &[]);
    assert_eq!(bodies(&lab).len(), 2, "{run}");
}

#[test]
fn a_second_message_tells_of_a_failed_command() {
    let lab = Lab::new();
    let text =
        polling(&format!("exec: [{}], notify: [{}]", on(&["interrupted"], &[sh("echo no; exit 5")]), to_topic(SHORT)));
    let running = lab.start(&text, How::default());
    running.says(&lab, "watching");
    lab.server.world().notice(&lab.me, "terminate", 120);
    running.wait(&lab).ends(3, &[]);
    let error =
        "d interrupted 'interrupted' commands: /bin/sh ended with exit code 5, success is 0; its last lines: no";
    let sent = bodies(&lab);
    assert_eq!(sent.len(), 3, "{sent:?}");
    assert!(sent.contains(&"d interrupted".to_owned()) && sent.contains(&error.to_owned()), "{sent:?}");
}

#[test]
fn a_notice_during_init_rolls_back_first() {
    let lab = Lab::new();
    lab.server.world().add_zone("Z2", "example.net");
    let busy = Fault::every("ChangeResourceRecordSets", FaultKind::Throttle).with_value("Z2");
    lab.server.world().fault(busy);
    let other = r#"{ hostedzone: "Z2", name: "a.example.net", ttl: 60 }"#;
    let text = polling(&format!(
        "\"update-route53\": [{}, {other}], exec: [{}], notify: [{}]",
        record("a.example.com", ""),
        note_events(),
        to_topic(SHORT)
    ));
    let running = lab.start(&text, How::default());
    lab.until("our record", || zone(&lab, "Z1").len() == 2);
    lab.server.world().notice(&lab.me, "terminate", 120);
    let run = running.wait(&lab);
    run.ends(0, &["rolling back d", "a.example.com. in hosted zone Z1 put back", "interrupted: done"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
    assert_eq!(seen(&lab), ["d starting", "d interrupted"], "{run}");
    let undo = lab.server.calls_of("ChangeResourceRecordSets").iter().map(|c| c.at_ms).max().unwrap();
    let told = lab.server.world().messages();
    assert!(told.len() == 1 && told[0].at_ms >= undo, "{told:?} {run}");
}

#[test]
fn a_notice_ends_a_starting_command() {
    let lab = Lab::new();
    let domain = format!("exec: [{}, {}]", note_events(), on(&["starting"], &[sh("sleep 600")]));
    let running = lab.start(&polling(&domain), How::default());
    lab.until("the command", || running.log().matches("running /bin/sh").count() == 2);
    lab.server.world().notice(&lab.me, "terminate", 120);
    running.wait(&lab).ends(0, &["was ended: stopped by an interruption notice"]);
    assert_eq!(seen(&lab), ["d starting", "d interrupted"]);
}

#[test]
fn all_domains_go_at_the_same_time() {
    let lab = Lab::new();
    let wait = |me: &str, other: &str| {
        let script = format!(
            "touch $LAB/{me}; i=0; while [ ! -e $LAB/{other} ]; do i=$((i+1)); [ $i -lt 500 ] || exit 1; sleep 0.01; done"
        );
        format!("{me}: {{ exec: [{}] }}", on(&["interrupted"], &[sh(&script)]))
    };
    let running = lab.start(&config(&[&wait("a", "b"), &wait("b", "a")]), How::default());
    running.says(&lab, "watching");
    lab.server.world().notice(&lab.me, "terminate", 120);
    let run = running.wait(&lab);
    run.ends(0, &["interrupted: done"]);
    assert!(!run.log.contains("error"), "{run}");
}

#[test]
fn what_is_still_to_be_said_and_tagged_does_not_hold_up_the_way_out() {
    let lab = Lab::new();
    lab.pool_volume("d", "p");
    for action in ["DeleteTags", "Publish"] {
        lab.server.world().fault(Fault::every(action, FaultKind::Hang(60_000)));
    }
    let text = polling(&format!(
        r#""attach-volume": [{{ device: "/dev/xvdf", source: "p", "pool-name": "p" }}], exec: [{}], notify: [{}]"#,
        on(&["interrupted"], &[sh("echo on the way out")]),
        to_topic(SHORT)
    ));
    let running = lab.start(&text, How::default().rate(40));
    running.says(&lab, "ready: d started");
    lab.server.world().notice(&lab.me, "terminate", 120);
    let run = running.wait(&lab);
    run.ends(0, &["interrupted: done"]);
    let place = |text: &str| run.log.find(text).unwrap_or_else(|| panic!("'{text}' is missing\n{run}"));
    let way_out = place("sh: on the way out");
    assert!(way_out < place("cannot take off the transaction tag"), "{run}");
    assert!(way_out < place("cannot tell arn:aws:sns:eu-west-1:123456789012:fleet 'started'"), "{run}");
}

#[test]
fn a_domain_that_failed_before_is_told_of_its_interrupted_commands_too() {
    let lab = Lab::new();
    let exec = [on(&["started"], &[sh("exit 7")]), on(&["interrupted"], &[sh("exit 8")])].join(", ");
    let notify = to_topic(&format!("{SHORT}, matrix: {{ failed: {{ enabled: false }} }}"));
    let running = lab.start(&polling(&format!("critical: false, exec: [{exec}], notify: [{notify}]")), How::default());
    running.says(&lab, "watching for interruptions");
    lab.server.world().notice(&lab.me, "terminate", 120);
    let run = running.wait(&lab);
    run.ends(3, &["exit code 8"]);
    let told = bodies(&lab);
    assert_eq!(told.len(), 2, "{told:?} {run}");
    assert!(!told[0].contains("exit code 8") && told[1].contains("exit code 8"), "{told:?}");
}

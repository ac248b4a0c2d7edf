//! Events beside the interruption notice: `rebalance`, `maintenance`, `terminating`.

use crate::fakeaws::imds_events::Scheduled;
use crate::fakeaws::{Fault, FaultKind};
use crate::kit::{SHORT, bodies, nic, note_events, on, one, record, seen, sh, to_topic, with_nics, zone};
use crate::lab::{How, Lab, Running};

/// A config that polls often, with more keys at the top.
fn polling(top: &str, domain: &str) -> String {
    format!(
        r#"{{ "interrupt-detection": {{ detect: "poll", options: {{ interval: 0.05 }} }}, {top}
            domains: {{ d: {{ {domain} }} }} }}"#
    )
}

/// A block that notes what it is told of these events.
fn note(events: &[&str]) -> String {
    on(events, &[sh("echo {daemon_state} {interrupt_action} at {interrupt_time} >> $LAB/seen")])
}

/// A message for these events and `interrupted`, and no others.
fn message(events: &str) -> String {
    let off = "starting: {}, started: {}, failed: {}, stopping: {}";
    to_topic(&format!("{SHORT}, matrix: {{ {off}, {events}: {{ enabled: true }} }}"))
}

fn watching(lab: &Lab, text: &str, how: How) -> Running {
    let running = lab.start(text, how);
    running.says(lab, "watching for interruptions");
    running
}

fn asked(lab: &Lab, path: &str) -> usize {
    lab.server.imds_calls(&lab.me).iter().filter(|c| c.path.contains(path)).count()
}

fn volume(release: &str) -> String {
    format!(r#""attach-volume": [{{ device: "/dev/xvdf", source: "p", "pool-name": "p", release: ["{release}"] }}]"#)
}

const PATHS: [&str; 3] = ["events/recommendations", "events/maintenance", "autoscaling/"];

#[test]
fn what_the_config_does_not_name_is_not_asked_for() {
    // (event, its path)
    let events = [("", ""), ("rebalance", PATHS[0]), ("maintenance", PATHS[1]), ("terminating", PATHS[2])];
    for (event, path) in events {
        let lab = Lab::new();
        let block = if event.is_empty() { note_events() } else { on(&[event], &[sh("true")]) };
        let running = watching(&lab, &polling("", &format!("exec: [{block}]")), How::default());
        lab.until("some polls", || asked(&lab, "spot/instance-action") > 5);
        for p in PATHS {
            assert_eq!(asked(&lab, p) > 0, p == path, "{event} {p} {}", running.log());
        }
        running.signal("TERM");
        running.wait(&lab).ends(0, &[]);
    }
}

#[test]
fn others_are_asked_for_less_often_than_the_notice_and_on_its_connection() {
    let lab = Lab::new();
    let blocks = on(&["rebalance", "maintenance", "terminating"], &[sh("true")]);
    let text = polling("", &format!("exec: [{blocks}]")).replace("0.05", "1");
    let running = watching(&lab, &text, How::default().rate(25));
    lab.server.reset_calls();
    lab.until("100 polls", || asked(&lab, "spot/instance-action") >= 100);
    let counts: Vec<usize> = PATHS.iter().map(|p| asked(&lab, p)).collect();
    let notices = asked(&lab, "spot/instance-action");
    assert!(counts[0] <= notices / 2 && counts[0] >= 5, "{counts:?} of {notices}");
    assert!(counts[2] <= notices / 2 && counts[2] >= 5, "{counts:?} of {notices}");
    assert!(counts[1] <= notices / 10 && counts[1] >= 1, "{counts:?} of {notices}");
    assert_eq!(lab.server.imds_connections(&lab.me), 0, "no new connection");
    running.signal("TERM");
    running.wait(&lab).ends(0, &[]);
}

#[test]
fn a_recommendation_is_acted_on_once_and_the_daemon_goes_on() {
    let lab = Lab::new();
    let exec = [note(&["rebalance"]), note_events()].join(", ");
    let text = polling("", &format!("exec: [{exec}], notify: [{}]", message("rebalance")));
    let running = watching(&lab, &text, How::default().rate(50));
    let time = lab.server.world().rebalance(&lab.me, true);
    lab.until("the commands", || seen(&lab).len() == 3);
    let polls = asked(&lab, PATHS[0]);
    lab.until("more looks", || asked(&lab, PATHS[0]) > polls + 3);
    // It is taken back, and comes again.
    lab.server.world().rebalance(&lab.me, false);
    let polls = asked(&lab, PATHS[0]);
    lab.until("more looks", || asked(&lab, PATHS[0]) > polls + 2);
    let again = lab.server.world().rebalance(&lab.me, true);
    lab.until("the commands again", || seen(&lab).len() == 4);
    lab.server.world().notice(&lab.me, "terminate", 3600);
    let run = running.wait(&lab);
    run.ends(0, &["rebalance: EC2 recommends another instance since ", "interrupted: done"]);
    let line = |time: &str| format!("rebalance rebalance at {time}");
    // Blocks without `on` are not for it.
    assert_eq!(seen(&lab), ["d starting", "d started", &line(&time), &line(&again), "d interrupted"], "{run}");
    assert_eq!(bodies(&lab), ["d rebalance", "d rebalance", "d interrupted"], "{run}");
}

#[test]
fn a_command_of_a_recommendation_gives_way_to_an_interruption() {
    let lab = Lab::new();
    let exec = [on(&["rebalance"], &[sh("echo waits; sleep 600")]), note_events()].join(", ");
    let text = polling("", &format!("exec: [{exec}], notify: [{}]", message("rebalance")));
    let running = watching(&lab, &text, How::default());
    lab.server.world().rebalance(&lab.me, true);
    running.says(&lab, "sh: waits");
    lab.server.world().notice(&lab.me, "terminate", 120);
    let run = running.wait(&lab);
    run.ends(0, &["was ended: stopped by an interruption notice", "interrupted: done"]);
    assert_eq!(seen(&lab), ["d starting", "d started", "d interrupted"], "{run}");
    assert_eq!(bodies(&lab).iter().filter(|b| b.starts_with("d rebalance")).count(), 1, "{run}");
}

#[test]
fn a_failure_at_a_recommendation_is_told_and_changes_nothing_else() {
    let lab = Lab::new();
    let exec = [on(&["rebalance"], &[sh("exit 4")]), note_events()].join(", ");
    let text = polling("", &format!("exec: [{exec}], notify: [{}]", message("rebalance")));
    let running = watching(&lab, &text, How::default());
    lab.server.world().rebalance(&lab.me, true);
    lab.until("two messages", || bodies(&lab).len() == 2);
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["exit code 4", "stopped"]);
    let told = bodies(&lab);
    assert!(told[0] == "d rebalance" && told[1].contains("exit code 4"), "{told:?}");
    assert_eq!(seen(&lab), ["d starting", "d started", "d stopping"], "{run}");
}

#[test]
fn maintenance_is_acted_on_at_its_time_less_the_lead_and_once() {
    let lab = Lab::new();
    let late = on(&["maintenance"], &[sh("echo {ts} >> $LAB/when")]);
    let exec = [late, note(&["maintenance"]), note_events()].join(", ");
    let text = polling("\"maintenance-lead\": 300,", &format!("exec: [{exec}], notify: [{}]", message("maintenance")));
    let far = Scheduled::new("instance-event-1", "instance-stop", 86_400);
    let near = Scheduled::new("instance-event-2", "system-reboot", 400);
    let gone = Scheduled { state: "canceled".into(), ..Scheduled::new("instance-event-3", "system-reboot", 100) };
    // Both clocks run equally fast.
    lab.server.world().knobs.clock_rate = 60;
    let begins = lab.server.world().wall() + time::Duration::seconds(400);
    let times = lab.server.world().schedule(&lab.me, &[far, near, gone]);
    let running = watching(&lab, &text, How::default().rate(60));
    running.says(&lab, "scheduled for this instance: system-reboot at ");
    lab.until("the commands", || seen(&lab).len() == 3);
    let polls = asked(&lab, PATHS[1]);
    lab.until("more looks", || asked(&lab, PATHS[1]) > polls + 1);
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["maintenance: system-reboot at ", "stopped"]);
    let when = std::fs::read_to_string(lab.dir.join("when")).unwrap();
    let when = time::OffsetDateTime::parse(when.trim(), &time::format_description::well_known::Rfc3339).unwrap();
    assert!(begins - when <= time::Duration::seconds(310), "{when}, it begins at {begins} {run}");
    let line = format!("maintenance system-reboot at {}", times[1]);
    assert_eq!(seen(&lab), ["d starting", "d started", &line, "d stopping"], "{run}");
    assert_eq!(bodies(&lab)[0], "d maintenance", "{run}");
}

#[test]
fn maintenance_that_is_cancelled_or_moved_is_not_acted_on_before() {
    let lab = Lab::new();
    let text = polling("", &format!("exec: [{}]", note(&["maintenance"])));
    let event = |seconds| Scheduled::new("instance-event-1", "system-reboot", seconds);
    lab.server.world().schedule(&lab.me, &[event(7200), Scheduled::new("instance-event-2", "instance-stop", 7200)]);
    let running = watching(&lab, &text, How::default().rate(60));
    running.says(&lab, "(instance-event-2)");
    // One goes, the other comes sooner.
    let times = lab.server.world().schedule(&lab.me, &[event(610)]);
    running.says(&lab, "no longer scheduled: instance-stop at ");
    lab.until("the commands", || seen(&lab).len() == 1);
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["no longer scheduled: system-reboot at "]);
    assert_eq!(seen(&lab), [format!("maintenance system-reboot at {}", times[0])], "{run}");
}

#[test]
fn maintenance_that_releases_ends_the_daemon() {
    for denied in [false, true] {
        let lab = Lab::new();
        lab.pool_volume("d", "p");
        if denied {
            lab.server.world().deny("EC2:DetachVolume");
        }
        let text = polling("", &format!("{}, exec: [{}]", volume("maintenance"), note(&["maintenance"])));
        let running = watching(&lab, &text, How::default());
        lab.server.world().schedule(&lab.me, &[Scheduled::new("instance-event-1", "instance-retirement", 500)]);
        // It is asked for once a minute: a new run looks at once.
        running.signal("KILL");
        drop(running);
        let run = lab.start(&text, How::default()).wait(&lab);
        if denied {
            run.ends(3, &["not released: ", "something could not be released and needs a look:"]);
        } else {
            run.ends(0, &["is released", "the daemon ends here"]);
        }
        assert_eq!(lab.attached(&lab.me).len(), usize::from(denied), "{run}");
        assert_eq!(seen(&lab).len(), 1, "{run}");
    }
}

#[test]
fn a_release_that_hangs_gives_way_to_an_interruption() {
    let lab = Lab::new();
    lab.pool_volume("d", "p");
    lab.knobs(|k| k.detaching_ms = 3_600_000);
    lab.server.world().schedule(&lab.me, &[Scheduled::new("instance-event-1", "instance-retirement", 500)]);
    let exec = note(&["maintenance", "interrupted"]);
    let text = polling("", &format!("{}, exec: [{exec}]", volume("maintenance")));
    let running = lab.start(&text, How::default());
    lab.until("it detaches", || lab.count("DetachVolume") == 1);
    lab.server.world().notice(&lab.me, "terminate", 120);
    let run = running.wait(&lab);
    run.ends(0, &["stopped by an interruption notice", "interrupted: done"]);
    assert_eq!(seen(&lab).len(), 2, "{run}");
}

#[test]
fn scale_in_is_a_way_out() {
    let lab = Lab::new();
    lab.pool_volume("d", "p");
    let exec = [note(&["terminating"]), note_events()].join(", ");
    let text = polling(
        "\"terminating-timeout\": 90, \"interrupt-margin\": 20,",
        &format!("{}, exec: [{exec}], notify: [{}]", volume("terminating"), message("terminating")),
    );
    lab.server.world().target_state(&lab.me, Some("InService"));
    let running = watching(&lab, &text, How::default().rate(20));
    lab.server.world().target_state(&lab.me, Some("Terminated"));
    let run = running.wait(&lab);
    run.ends(0, &["its target state is Terminated", "is released", "terminating: done"]);
    let line = run.log.lines().find(|l| l.contains("s for the way out")).unwrap();
    let budget: u64 = line.split_whitespace().find_map(|w| w.parse().ok()).unwrap();
    assert!((45..=70).contains(&budget), "{line}");
    assert!(lab.attached(&lab.me).is_empty(), "{run}");
    let told = seen(&lab);
    assert!(told.len() == 3 && told[2].starts_with("terminating terminating at 20"), "{told:?}");
    assert_eq!(bodies(&lab), ["d terminating"], "{run}");
}

#[test]
fn an_address_alone_is_given_up_at_a_scale_in() {
    let lab = with_nics(vec![nic(0, &["203.0.113.1"], &[])]);
    let id = lab.server.world().add_address("198.51.100.1", &[]);
    let entry = format!(r#"{{ "allocation-id": "{id}", release: ["terminating"] }}"#);
    lab.server.world().target_state(&lab.me, Some("InService"));
    let running = watching(&lab, &polling("", &format!(r#""associate-address": [{entry}]"#)), How::default().rate(20));
    lab.server.world().target_state(&lab.me, Some("Terminated"));
    running.wait(&lab).ends(0, &["198.51.100.1", "is disassociated", "terminating: done"]);
    assert!(lab.server.world().address_of(&id).is_none());
}

#[test]
fn scale_in_makes_room_for_an_interruption_that_comes_sooner() {
    for seconds in [120, 7200] {
        let lab = Lab::new();
        lab.pool_volume("d", "p");
        let wait =
            "echo waits; i=0; while [ ! -e $LAB/go ]; do i=$((i+1)); [ $i -lt 2000 ] || exit 1; sleep 0.01; done";
        let exec = [on(&["terminating"], &[sh(wait)]), note(&["terminating", "interrupted"])].join(", ");
        let text = polling(
            "\"terminating-timeout\": 3600,",
            &format!("{}, exec: [{exec}]", volume(r#"terminating", "interrupted"#)),
        );
        let running = watching(&lab, &text, How::default().rate(10));
        lab.server.world().target_state(&lab.me, Some("Terminated"));
        running.says(&lab, "sh: waits");
        let polls = asked(&lab, "spot/instance-action");
        lab.server.world().notice(&lab.me, "terminate", seconds);
        if seconds > 3600 {
            // What comes later changes nothing.
            lab.until("looks at the notice", || asked(&lab, "spot/instance-action") > polls + 2);
            lab.file("go", "");
        }
        let run = running.wait(&lab);
        run.ends(0, &["is released", "terminating: done"]);
        let told = seen(&lab);
        let (first, said) = match seconds {
            120 => ("interrupted terminate at ", true),
            _ => ("terminating terminating at ", false),
        };
        assert!(told.len() == 1 && told[0].starts_with(first), "{told:?} {run}");
        assert_eq!(run.log.contains("was ended: stopped by an interruption notice"), said, "{run}");
        assert!(lab.attached(&lab.me).is_empty(), "{run}");
    }
}

#[test]
fn scale_in_during_init_rolls_back_first() {
    let lab = Lab::new();
    lab.pool_volume("d", "p");
    lab.server.world().fault(Fault::every("ChangeResourceRecordSets", FaultKind::Throttle));
    let domain = format!(
        r#"{}, "update-route53": [{}], exec: [{}]"#,
        volume("terminating"),
        record("a.example.com", ""),
        on(&["starting", "started", "terminating"], &[sh("echo {daemon_state} >> $LAB/seen")])
    );
    let running = lab.start(&polling("", &domain), How::default().rate(10));
    lab.until("a write of the record", || !lab.server.calls_of("ChangeResourceRecordSets").is_empty());
    lab.server.world().target_state(&lab.me, Some("Terminated"));
    let run = running.wait(&lab);
    run.ends(0, &["rolling back d", "terminating: done"]);
    assert!(lab.attached(&lab.me).is_empty() && zone(&lab, "Z1").is_empty(), "{run}");
    assert_eq!(seen(&lab), ["starting", "terminating"], "{run}");
    // Another run of the program on an instance that ends starts nothing.
    let run = lab.run(&polling("", &domain), How::default());
    run.ends(0, &["Auto Scaling ends this instance: nothing is started"]);
    assert_eq!(seen(&lab).len(), 2, "{run}");
}

#[test]
fn in_a_warm_pool_nothing_is_held() {
    let lab = Lab::new();
    lab.pool_volume("d", "p");
    let domain = format!(
        "{}, exec: [{}]",
        volume("terminating"),
        on(
            &["starting", "started", "stopping", "terminating"],
            &[sh("echo {daemon_state} {interrupt_action} >> $LAB/seen")]
        )
    );
    let text = polling("", &domain);
    // It is made for the pool, serves, goes back, and serves again.
    lab.server.world().target_state(&lab.me, Some("Warmed:Running"));
    let running = lab.start(&text, How::default().rate(50));
    running.says(&lab, "in a warm pool: init runs when the instance is in service");
    // systemd goes on waiting for it.
    let extended = || lab.manager.told().matches("EXTEND_TIMEOUT_USEC").count();
    let before = extended();
    lab.until("more time", || extended() > before + 2);
    assert!(seen(&lab).is_empty() && lab.server.calls().is_empty(), "{}", running.log());
    lab.server.world().target_state(&lab.me, Some("InService"));
    running.says(&lab, "watching for interruptions");
    assert_eq!(lab.attached(&lab.me).len(), 1, "{}", running.log());
    lab.server.world().target_state(&lab.me, Some("Warmed:Hibernated"));
    lab.until("released", || lab.attached(&lab.me).is_empty());
    lab.until("waits again", || running.log().matches("in a warm pool: init").count() == 2);
    lab.server.world().target_state(&lab.me, Some("InService"));
    lab.until("serves again", || running.log().matches("watching for interruptions").count() == 2);
    assert_eq!(lab.attached(&lab.me).len(), 1, "{}", running.log());
    lab.server.world().target_state(&lab.me, Some("Warmed:Stopped"));
    lab.until("waits again", || running.log().matches("in a warm pool: init").count() == 3);
    // EC2 stops it.
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["stopped: nothing is left to be done"]);
    let want = [
        "starting ",
        "started ",
        "terminating Warmed:Hibernated",
        "starting ",
        "started ",
        "terminating Warmed:Stopped",
    ];
    assert_eq!(seen(&lab), want.map(str::trim_end), "{run}");
    assert!(lab.attached(&lab.me).is_empty(), "{run}");
}

#[test]
fn trouble_with_an_event_does_not_hide_the_notice() {
    for trouble in ["hangs", "is nonsense"] {
        let lab = Lab::new();
        let text = polling("", &format!("exec: [{}]", on(&["rebalance"], &[sh("true")])));
        let running = watching(&lab, &text, How::default().rate(10));
        {
            let mut w = lab.server.world();
            let imds = w.imds(&lab.me);
            match trouble {
                "hangs" => imds.hanging.push(PATHS[0].into()),
                _ => drop(imds.overrides.insert(format!("meta-data/{}/rebalance", PATHS[0]), "soon".into())),
            }
        }
        running.says(&lab, "cannot look for 'rebalance', and goes on trying");
        let polls = asked(&lab, PATHS[0]);
        lab.until("more looks", || asked(&lab, PATHS[0]) > polls + 2);
        lab.server.world().notice(&lab.me, "terminate", 3600);
        let run = running.wait(&lab);
        run.ends(0, &["EC2 is going to terminate"]);
        assert_eq!(run.log.matches("cannot look for").count(), 1, "{run}");
    }
}

#[test]
fn mistakes_in_the_config_are_named() {
    let lab = Lab::new();
    let cases = [
        (one("exec: [{ on: ['rebalanced'], lines: [] }]"), "did you mean rebalance?"),
        (one(&volume("rebalance")), "nothing is released on rebalance"),
        (
            one("notify: [{ backend: 'aws-sns', options: { topic: 'x' }, matrix: { maintainance: {} } }]"),
            "maintenance?",
        ),
        (r#"{ "interrupt-margin": 0 }"#.to_owned(), "interrupt-margin: "),
        (r#"{ "maintenance-leads": 9 }"#.to_owned(), "did you mean maintenance-lead?"),
        (r#"{ "terminating-timeout": "2 min" }"#.to_owned(), "terminating-timeout: "),
    ];
    for (text, said) in cases {
        lab.run(&text, How::default()).ends(2, &[said]);
    }
    let text = r#"{ "maintenance-lead": 60, "terminating-timeout": 60, domains: { d: {} } }"#;
    let nothing = "has no effect: no command, message or release is for";
    let run = lab.run(text, crate::lab::once());
    run.ends(0, &[&format!("{nothing} maintenance"), &format!("{nothing} terminating")]);
}

//! Each step of a shutdown and each way in which one of its commands can fail: the rest is done all the same, and the
//! last line says what was not.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::disks::{HOLD, directive, id};
use crate::fakeaws::VolumeSpec;
use crate::fakeaws::imds_events::Scheduled;
use crate::kit::{SHORT, bodies, on, quoted, record, seen, sh, to_topic, zone};
use crate::lab::{How, Lab, Run, Running};
use crate::stalled;

const RATE: u32 = 12;
/// Does not end when it is asked to.
const STUBBORN: &str = "trap '' TERM; while :; do sleep 0.05; done";

/// A config with one domain that polls often.
fn text(domain: &str) -> String {
    let poll = r#""interrupt-detection": { detect: "poll", options: { interval: 0.2 } }"#;
    format!("{{ {poll}, domains: {{ d: {{ {domain} }} }} }}")
}

/// A volume and a record that these events release, and what is done at them before that.
fn domain(events: &str, blocks: &[String]) -> String {
    let rest = format!(r#""volume-id": "{}", release: [{events}]"#, id(1));
    let record = record("d.example.com", &format!("release: [{events}]"));
    let volume = directive("x", "/dev/xvdf", &rest, "true");
    let exec = blocks.join(", ");
    text(&format!(
        r#""attach-volume": [{volume}], "update-route53": [{record}], exec: [{exec}], notify: [{}]"#,
        to_topic(SHORT)
    ))
}

fn lab(rate: u32) -> Lab {
    let lab = Lab::new();
    lab.server.world().knobs.clock_rate = rate;
    lab.server.world().target_state(&lab.me, Some("InService"));
    lab.volume(VolumeSpec::default().id(&id(1)));
    lab
}

fn watching(lab: &Lab, text: &str, rate: u32) -> Running {
    let running = lab.start(text, How::default().rate(rate));
    running.says(lab, "watching for interruptions");
    running
}

fn happen(lab: &Lab, running: &Running, event: &str) {
    match event {
        "stopping" => running.signal("TERM"),
        "interrupted" => lab.server.world().notice(&lab.me, "terminate", 120),
        _ => lab.server.world().target_state(&lab.me, Some("Terminated")),
    }
}

/// The last line of the log that is about the whole.
fn last_line(run: &Run) -> String {
    run.log.lines().last().unwrap_or_default().to_owned()
}

/// A way to fail, as a line of a block, with how fast time runs.
struct Way {
    name: &'static str,
    line: String,
    rate: u32,
}

fn ways() -> Vec<Way> {
    let way = |name, line: String, rate| Way { name, line, rate };
    let argv = |argv0: &str, more: &str| format!("{{ argv: [{}], {more} }}", quoted(argv0));
    vec![
        // As in the first example of the README.
        way("missing", argv("/usr/local/bin/warn-players", "ec: null, timeout: 20"), 1),
        way("not executable", argv("/etc/passwd", ""), 1),
        way("exit code", sh("exit 5"), 1),
        way("killed", sh("kill -9 $$"), 1),
        way("its timeout", r#"{ argv: ["/bin/sleep", "6000"], ec: null, timeout: 10 }"#.to_owned(), RATE),
        way("no timeout", sh("sleep 6000"), RATE),
        way("ignores SIGTERM", sh(STUBBORN), RATE),
    ]
}

fn a_failure_takes_nothing_along(event: &str) {
    for Way { name, line, rate } in ways() {
        let lab = lab(rate);
        let stop = sh("echo stop >> $LAB/seen");
        let blocks = [
            on(&[event], &[line, sh("echo rest of the block >> $LAB/seen")]),
            on(&[event], std::slice::from_ref(&stop)),
            on(&[event], &[stop]),
        ];
        let running = watching(&lab, &domain(&quoted(event), &blocks), rate);
        happen(&lab, &running, event);
        let run = running.wait(&lab);
        run.ends(3, &[&format!("{} is released", id(1)), "; skipped: exec[0].lines[1] (/bin/sh)"]);
        assert_eq!(seen(&lab), ["stop", "stop"], "{event}: {name}: {run}");
        assert!(lab.attached(&lab.me).is_empty() && zone(&lab, "Z1").is_empty(), "{event}: {name}: {run}");
        let last = last_line(&run);
        let wanted = match event {
            "stopping" => "stopped, but exec[0].lines[0] (",
            _ => &format!("{event}, but exec[0].lines[0] ("),
        };
        assert!(last.contains(wanted), "{event}: {name}: {last}");
        assert!(last.contains(") failed and exec[0].lines[1] (/bin/sh) was skipped"), "{event}: {name}: {last}");
    }
}

#[test]
fn a_failure_at_an_interruption_takes_nothing_along() {
    a_failure_takes_nothing_along("interrupted");
}

#[test]
fn a_failure_at_a_stop_takes_nothing_along() {
    a_failure_takes_nothing_along("stopping");
}

#[test]
fn a_failure_at_a_scale_in_takes_nothing_along() {
    a_failure_takes_nothing_along("terminating");
}

#[test]
fn a_program_that_cannot_be_loaded_takes_nothing_along() {
    for event in ["interrupted", "stopping"] {
        let lab = lab(RATE);
        let warns = lab.file("warn-players", "#!/bin/sh\necho warned >> $LAB/seen\n");
        fs::set_permissions(&warns, fs::Permissions::from_mode(0o755)).unwrap();
        let Some(stalled) = stalled::program(&warns) else { return };
        let line = format!("{{ argv: [{}], timeout: 20 }}", quoted(warns.to_str().unwrap()));
        let blocks = [on(&[event], &[line]), on(&[event], &[sh("echo stop >> $LAB/seen")])];
        let running = watching(&lab, &domain(&quoted(event), &blocks), RATE);
        happen(&lab, &running, event);
        let run = running.wait(&lab);
        let said = "warn-players: it was not loaded within 2";
        run.ends(3, &[said, "still waiting for ", &format!("{} is released", id(1))]);
        drop(stalled);
        // What was given up does not run later either.
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(seen(&lab), ["stop"], "{run}");
        assert!(
            last_line(&run).contains("(exec[0].lines[0]") || last_line(&run).contains("exec[0].lines[0] ("),
            "{run}"
        );
    }
}

#[test]
fn on_error_says_what_a_failure_ends() {
    for (on_error, wanted) in [("continue", &["rest", "next"][..]), ("stop", &[])] {
        let lab = lab(1);
        let lines = [sh("exit 4"), sh("echo rest >> $LAB/seen")].join(", ");
        let block = format!(r#"{{ on: ["interrupted"], "on-error": "{on_error}", lines: [{lines}] }}"#);
        let blocks = [block, on(&["interrupted"], &[sh("echo next >> $LAB/seen")])];
        let running = watching(&lab, &domain(r#""interrupted""#, &blocks), 1);
        happen(&lab, &running, "interrupted");
        let run = running.wait(&lab);
        run.ends(3, &["exit code 4", "is released"]);
        assert_eq!(seen(&lab), wanted, "{run}");
        let skipped = run.log.contains("; skipped: exec[0].lines[1] (/bin/sh), exec[1].lines[0] (/bin/sh)");
        assert_eq!(skipped, on_error == "stop", "{run}");
        assert!(bodies(&lab).iter().any(|b| b.contains("exit code 4")), "{:?}", bodies(&lab));
    }
}

#[test]
fn where_all_goes_well_the_last_line_says_so() {
    for (event, last) in [
        ("interrupted", "interrupted: done; the instance is left running"),
        ("stopping", "stopped"),
        ("terminating", "terminating: done; Auto Scaling may go on"),
    ] {
        let lab = lab(1);
        let blocks = [on(&[event], &[sh("exit 7").replace(" }", ", ec: null }")])];
        let running = watching(&lab, &domain(&quoted(event), &blocks), 1);
        happen(&lab, &running, event);
        let run = running.wait(&lab);
        run.ends(0, &[]);
        assert!(last_line(&run).ends_with(last), "{run}");
    }
}

#[test]
fn what_could_not_be_released_is_in_the_last_line() {
    for event in ["interrupted", "stopping", "terminating"] {
        let lab = lab(1);
        lab.server.world().deny("EC2:DetachVolume");
        let blocks = [on(&[event], &[sh("true")])];
        let running = watching(&lab, &domain(&quoted(event), &blocks), 1);
        happen(&lab, &running, event);
        let run = running.wait(&lab);
        run.ends(3, &["not released: ", "allow ec2:DetachVolume"]);
        let word = if event == "stopping" { "stopped" } else { event };
        let said = format!("{word}, but {} is still attached", id(1));
        assert!(last_line(&run).contains(&said), "{run}");
        assert!(lab.manager.told().contains(&format!("STATUS={said}")), "{}", lab.manager.told());
        assert!(zone(&lab, "Z1").is_empty(), "{run}");
    }
}

/// Each step after the commands: what it could not do is named, and the next ones are done.
#[test]
fn a_step_that_fails_is_in_the_last_line_and_the_next_ones_are_done() {
    let (volume, name) = (id(1), "d.example.com.");
    // (what is refused, what is said, exit code, what is left)
    let steps = [
        ("EC2:CreateSnapshot", format!("no snapshot of {volume} was made"), 0, (0, 0)),
        ("EC2:DetachVolume", format!("{volume} is still attached"), 3, (1, 0)),
        (
            "Route53:ChangeResourceRecordSets",
            format!("{name} A 203.0.113.10 in hosted zone Z1 is still there"),
            3,
            (0, 2),
        ),
    ];
    for event in ["interrupted", "stopping", "terminating"] {
        for (denied, said, code, left) in &steps {
            let lab = lab(1);
            let blocks = [on(&[event], &[sh("echo stop >> $LAB/seen")])];
            let text = domain(&quoted(event), &blocks);
            let snapshot = format!(r#""volume-id": "{volume}", snapshot: {{ on: ["{event}"] }}"#);
            let text = text.replace(&format!(r#""volume-id": "{volume}""#), &snapshot);
            let running = watching(&lab, &text, 1);
            lab.server.world().deny(denied);
            happen(&lab, &running, event);
            let run = running.wait(&lab);
            run.ends(*code, &[]);
            let word = if event == "stopping" { "stopped" } else { event };
            assert!(last_line(&run).contains(&format!("{word}, but {said}")), "{event} {denied}: {run}");
            assert_eq!((lab.attached(&lab.me).len(), zone(&lab, "Z1").len()), *left, "{event} {denied}: {run}");
            assert_eq!(seen(&lab), ["stop"], "{event} {denied}: {run}");
        }
    }
}

#[test]
fn of_several_domains_each_is_named() {
    let lab = lab(1);
    let domain = |name: &str, code: u32| {
        format!(r#"{name}: {{ exec: [{}] }}"#, on(&["stopping"], &[sh(&format!("exit {code}"))]))
    };
    let running = lab.start(&crate::kit::config(&[&domain("a", 0), &domain("b", 9)]), How::default());
    running.says(&lab, "watching for interruptions");
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(3, &["[b] '"]);
    assert!(last_line(&run).ends_with("stopped, but b: exec[0].lines[0] (/bin/sh) failed"), "{run}");
}

#[test]
fn maintenance_that_releases_ends_in_the_same_way() {
    let lab = lab(1);
    let blocks = [on(&["maintenance"], &[sh("exit 2")]), on(&["maintenance"], &[sh("echo stop >> $LAB/seen")])];
    lab.server.world().schedule(&lab.me, &[Scheduled::new("instance-event-1", "instance-retirement", 500)]);
    let run = lab.run(&domain(r#""maintenance""#, &blocks), How::default());
    run.ends(3, &["is released"]);
    assert_eq!(seen(&lab), ["stop"], "{run}");
    let last = "released, but exec[0].lines[0] (/bin/sh) failed; the daemon ends here";
    assert!(last_line(&run).ends_with(last), "{run}");
}

#[test]
fn a_run_that_starts_under_a_valid_notice_begins_nothing() {
    let lab = lab(1);
    let block = on(&[], &[sh("echo {daemon_state} >> $LAB/seen")]);
    lab.server.world().notice(&lab.me, "terminate", 120);
    let run = lab.run(&domain(r#""interrupted""#, &[block]), How::default());
    run.ends(0, &["EC2 is going to terminate this instance at"]);
    assert!(last_line(&run).ends_with("an interruption notice is in force: nothing is started"), "{run}");
    assert!(seen(&lab).is_empty() && bodies(&lab).is_empty(), "{run}");
    for action in ["AttachVolume", "CreateTags", "ChangeResourceRecordSets"] {
        assert_eq!(lab.count(action), 0, "{run}");
    }
}

#[test]
fn what_an_earlier_run_left_in_flight_is_put_back_under_a_notice() {
    let lab = lab(1);
    let volume = directive("x", "/dev/xvdf", &format!(r#""volume-id": "{}""#, id(1)), HOLD);
    let text = text(&format!(r#""attach-volume": [{volume}]"#));
    let running = lab.start(&text, How::default());
    lab.until("the command", || lab.dir.join("first").exists());
    running.signal("KILL");
    running.wait(&lab).ends(137, &[]);
    lab.file("go", "");
    lab.server.world().notice(&lab.me, "terminate", 120);
    let run = lab.run(&text, How::default());
    run.ends(0, &["rolling back d", "nothing is started"]);
    assert!(lab.attached(&lab.me).is_empty(), "{run}");
}

//! A panic, wherever it comes: the process takes its own place, puts back what was in flight, and says that it failed.

use std::io::Write;
use std::process::Stdio;

use crate::disks::{HOLD, config, directive, id};
use crate::fakeaws::{Fault, FaultKind, VolumeSpec};
use crate::journal::{journal, killed_in_command};
use crate::kit::{SHORT, bodies, note_events, on, sh, to_topic, zone};
use crate::lab::{How, Lab, once};
use crate::matrix::{LONG, Likeness, Picture, SCENARIOS, Scenario, all, fast, same};

#[test]
fn at_any_write_of_the_journal_everything_is_put_back_or_stands() {
    let cases: Vec<(&Scenario, bool)> = SCENARIOS.iter().flat_map(|s| [(s, false), (s, true)]).collect();
    let counts = all(&cases, |(s, doomed)| {
        let clean = s.clean();
        let text = if *doomed { s.doomed(LONG) } else { s.config(LONG) };
        let mut back = 0;
        for step in 1..200 {
            let what = format!("{} doomed {doomed} step {step}", s.name);
            let lab = s.lab();
            let run = lab.run(&text, fast().env("EC2FLEETD_DIE", &format!("panic:{step}")));
            if !run.log.contains("on purpose") {
                assert_eq!(run.code, i32::from(*doomed), "{what} {run}");
                return (step - 1, back);
            }
            run.ends(1, &["a fault in this program", "failed: d"]);
            assert!(!journal(&lab).exists(), "{what} {run}");
            let now = Picture::of(&lab);
            let stands = now.loose == clean.after.loose;
            if !stands {
                same(&now, &clean.before, Likeness::Strict, &what, &run);
                back += 1;
            }
            lab.run(&s.config(LONG), fast()).ends(0, &["ready: d started"]);
            same(&Picture::of(&lab), &clean.after, Likeness::Strict, &what, &run);
        }
        panic!("{} doomed {doomed}: it writes and writes", s.name);
    });
    let (all, back) = counts.iter().fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    println!(
        "{all} panics at writes of the journal, {back} of them put everything back, the others came after the commit"
    );
    assert!(counts.iter().all(|(all, back)| *all >= 6 && *back >= 4), "{counts:?}");
}

#[test]
fn commands_of_that_moment_are_ended_and_failure_is_told() {
    let lab = Lab::new();
    lab.pool_of(2);
    crate::kit::add(&lab, "old.example.com", "A", 300, &["192.0.2.1"]);
    // The second volume's claim is written down while the first one's command runs.
    let volumes = [
        directive("p", "/dev/xvdf", r#""pool-name": "p""#, &format!("echo $$ > $LAB/pid; {HOLD}")),
        directive("x", "/dev/xvdg", &format!(r#""volume-id": "{}""#, id(9)), "true"),
    ];
    lab.volume(VolumeSpec::default().id(&id(9)));
    lab.fault(Fault::every("AttachVolume", FaultKind::Slow(300)).with_value(&id(9)));
    let text = format!(
        r#"{{ domains: {{ d: {{ "attach-volume": [{}], exec: [{}], notify: [{}] }} }} }}"#,
        volumes.join(", "),
        note_events(),
        to_topic(SHORT)
    );
    let mut done = false;
    for step in 1..60 {
        let _ = std::fs::remove_file(lab.dir.join("pid"));
        let run = lab.start(&text, once().rate(5).env("EC2FLEETD_DIE", &format!("panic:{step}")));
        let claimed = "attach-volume[1]: vol-00000000000000009 attached as";
        let is_there = || lab.dir.join("pid").exists() && run.log().contains(claimed);
        lab.until("both volumes or the end", || run.log().contains("on purpose") || is_there());
        if !run.log().contains("on purpose") {
            std::fs::write(lab.dir.join("go"), "").unwrap();
        }
        let run = run.wait(&lab);
        if !run.log.contains("on purpose") {
            break;
        }
        run.ends(1, &["a fault in this program"]);
        let ended = run.log.contains("ending what is left of a command");
        if let Ok(pid) = std::fs::read_to_string(lab.dir.join("pid")) {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            assert!(stat.is_empty() || stat.contains(") Z"), "{stat} {run}");
        }
        assert_eq!(crate::kit::seen(&lab).last().map(String::as_str), Some("d failed"), "{run}");
        assert!(bodies(&lab).last().is_some_and(|b| b.contains("failed")), "{run}");
        done |= ended;
        // What is committed stays.
        if lab.state(&id(1)) == "in-use" {
            assert!(!run.log.contains("rolling back"), "{run}");
            break;
        }
        lab.nothing_left(&run);
        let _ = std::fs::remove_file(lab.dir.join("go"));
        lab.server.reset_calls();
    }
    assert!(done, "no command was ended");
}

#[test]
fn a_second_panic_is_the_end_and_the_next_run_settles() {
    let lab = Lab::new();
    lab.pool_of(1);
    lab.volume(VolumeSpec::default().id(&id(9)));
    let text = config(&format!(
        "{}, {}",
        directive("p", "/dev/xvdf", r#""pool-name": "p""#, HOLD),
        directive("x", "/dev/xvdg", &format!(r#""volume-id": "{}""#, id(9)), "true")
    ));
    // As if the first one had been: the next one ends it.
    let how = || once().rate(10).env("EC2FLEETD_PANIC", "on purpose before");
    let run = lab.run(&text, how());
    run.ends(1, &["putting back what was in flight", "failed: d"]);
    assert_eq!(lab.server.writes().len(), 0, "{run}");

    killed_in_command(&lab, &text);
    std::fs::write(lab.dir.join("go"), "").unwrap();
    let run = lab.run(&text, how().rate(4).env("EC2FLEETD_DIE", "panic:1"));
    run.ends(3, &["a fault in this program"]);
    assert!(!run.log.contains("failed: d") && journal(&lab).exists(), "{run}");
    lab.run(&text, once()).ends(0, &[]);
    lab.has(&[(&id(1), "/dev/xvdf"), (&id(9), "/dev/xvdg")], &run);
}

#[test]
fn a_config_from_standard_input_is_there_again() {
    let lab = Lab::new();
    lab.pool_of(1);
    let text = config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, "true"));
    let log = lab.dir.join("log-stdin");
    let how = How { user_data: true, ..once().rate(10).env("EC2FLEETD_DIE", "panic:4") };
    let mut command = lab.command("", &how, &log);
    let mut child = command.arg("--userdata=-").stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let code = child.wait().unwrap().code();
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("a fault in this program") && log.contains("failed: d"), "{log}");
    assert_eq!(code, Some(1), "{log}");
    assert_eq!(lab.state(&id(1)), "available", "{log}");
}

#[test]
fn children_are_not_told() {
    let lab = Lab::new();
    let block = on(&["failed"], &[sh("env | grep -c EC2FLEETD_PANIC > $LAB/told")]);
    let text = format!(r#"{{ domains: {{ d: {{ exec: [{block}] }} }} }}"#);
    lab.run(&text, once().env("EC2FLEETD_PANIC", "before")).ends(1, &[]);
    assert_eq!(std::fs::read_to_string(lab.dir.join("told")).unwrap().trim(), "0");
    assert!(zone(&lab, "Z1").is_empty());
}

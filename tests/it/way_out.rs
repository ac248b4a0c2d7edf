//! The time until the announced end, shared out: what takes too long does not take what comes after it along.
//!
//! Daemon and stand-in have clocks that run equally fast; what is compared is the time by the stand-in's.

use std::fs;
use std::process::Command;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::disks::{directive, id};
use crate::fakeaws::{Fault, FaultKind, VolumeSpec};
use crate::kit::{SHORT, bodies, on, record, sh, to_topic, zone};
use crate::lab::{How, Lab, Run, Running};
use crate::loops;

const RATE: u32 = 12;
/// Does not end when it is asked to.
const STUBBORN: &str = "trap '' TERM; echo stubborn; while :; do sleep 0.05; done";

/// Domains that poll often, with more keys at the top.
fn text(top: &str, domains: &[String]) -> String {
    let poll = r#""interrupt-detection": { detect: "poll", options: { interval: 0.2 } }"#;
    format!("{{ {poll}, {top} domains: {{ {} }} }}", domains.join(", "))
}

/// Domain `name` with volume `n` and a record, both released; `exec` at the interruption.
fn domain(name: &str, n: u32, script: &str, more: &str) -> String {
    let device = format!("/dev/xvd{}", char::from(b'e' + u8::try_from(n).unwrap()));
    let rest = format!(r#""volume-id": "{}", release: ["interrupted"] {more}"#, id(n));
    let record = record(&format!("{name}.example.com"), r#"release: ["interrupted"]"#);
    format!(
        r#"{name}: {{ "attach-volume": [{}], "update-route53": [{record}], exec: [{}], notify: [{}] }}"#,
        directive("x", &device, &rest, "true"),
        on(&["interrupted"], &[sh(script)]),
        to_topic(&format!("{SHORT}, matrix: {{ started: {{}} }}"))
    )
}

fn prepare(lab: &Lab) {
    lab.server.world().knobs.clock_rate = RATE;
}

fn plain_lab(volumes: u32) -> Lab {
    let lab = Lab::new();
    prepare(&lab);
    for n in 1..=volumes {
        lab.volume(VolumeSpec::default().id(&id(n)));
    }
    lab
}

fn watching(lab: &Lab, text: &str) -> Running {
    let running = lab.start(text, How::default().rate(RATE));
    running.says(lab, "watching for interruptions");
    running
}

/// Announces the end in so many seconds. Gives its time.
fn announce(lab: &Lab, seconds: i64) -> OffsetDateTime {
    let mut w = lab.server.world();
    w.notice(&lab.me, "terminate", seconds);
    let time = w.imds(&lab.me).notice.clone().unwrap().time;
    OffsetDateTime::parse(&time, &Rfc3339).unwrap()
}

/// The last call of an action was answered before the announced time.
#[track_caller]
fn in_time(lab: &Lab, action: &str, end: OffsetDateTime, run: &Run) {
    let call = lab.server.calls_of(action).pop().unwrap_or_else(|| panic!("no {action}\n{run}"));
    let at = lab.server.world().wall_at(call.at_ms + call.ms);
    assert!(at < end, "{action} at {at}, the end was {end}\n{run}");
}

#[track_caller]
fn place(run: &Run, text: &str) -> usize {
    run.log.find(text).unwrap_or_else(|| panic!("'{text}' is missing\n{run}"))
}

#[test]
fn a_command_that_does_not_end_leaves_time_for_the_release() {
    // (seconds to the announced time): as it should be, and very late
    for seconds in [120, 10] {
        let lab = plain_lab(1);
        let running = watching(&lab, &text("", &[domain("d", 1, STUBBORN, "")]));
        let end = announce(&lab, seconds);
        let run = running.wait(&lab);
        run.ends(3, &["sh: stubborn", "was ended after", &format!("{} is released", id(1)), "is deleted"]);
        if seconds > 20 {
            in_time(&lab, "DetachVolume", end, &run);
            in_time(&lab, "ChangeResourceRecordSets", end, &run);
        }
        // One after the other.
        assert!(place(&run, "was ended after") < place(&run, ": releasing "), "{run}");
        assert!(place(&run, "is released") < place(&run, "is deleted"), "{run}");
        // The message does not wait; another one tells of the command.
        let told = bodies(&lab);
        let failed = told.iter().filter(|b| b.contains("was ended after")).count();
        assert_eq!((told.len(), failed), (2, 1), "{told:?} {run}");
        assert!(lab.attached(&lab.me).is_empty() && zone(&lab, "Z1").is_empty(), "{run}");
    }
}

#[test]
fn a_domain_does_not_hold_up_another() {
    let lab = plain_lab(2);
    let both = [domain("slow", 1, STUBBORN, ""), domain("quick", 2, "true", "")];
    let running = watching(&lab, &text("", &both));
    let end = announce(&lab, 120);
    let run = running.wait(&lab);
    run.ends(3, &[]);
    let released = |n: u32| place(&run, &format!("{} is released", id(n)));
    assert!(released(2) < place(&run, "was ended after") && place(&run, "was ended after") < released(1), "{run}");
    in_time(&lab, "DetachVolume", end, &run);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
}

#[test]
fn a_disk_that_is_held_does_not_hold_up_the_rest() {
    let Some((lab, _loops)) = loops::lab(1) else { return };
    prepare(&lab);
    let domain = domain("d", 1, STUBBORN, r#", mount: { path: "/data" }"#);
    let running = watching(&lab, &text("", &[domain]));
    let file = fs::File::create(lab.root(&lab.me).join("data/file")).unwrap();
    let end = announce(&lab, 120);
    let run = running.wait(&lab);
    run.ends(3, &["not released: ", "stays attached", &format!("process {} (", std::process::id()), "is deleted"]);
    in_time(&lab, "ChangeResourceRecordSets", end, &run);
    assert!(lab.attached(&lab.me).len() == 1 && lab.count("DetachVolume") == 0, "{run}");
    assert!(bodies(&lab).iter().any(|b| b.contains("not released")), "{:?} {run}", bodies(&lab));
    drop(file);
    for point in loops::mounts(&lab.dir) {
        let _ = Command::new("umount").arg(point).status();
    }
    let _ = Command::new("chattr").arg("-i").arg(lab.root(&lab.me).join("data")).status();
}

#[test]
fn a_volume_that_is_not_let_go_leaves_time_for_the_next_one_and_the_records() {
    let lab = plain_lab(2);
    lab.server.world().fault(Fault::every("DetachVolume", FaultKind::Hang(60_000)).with_value(&id(2)));
    let volume = |n: u32, device: &str| {
        let rest = format!(r#""volume-id": "{}", release: ["interrupted"]"#, id(n));
        directive("x", device, &rest, "true")
    };
    let domain = format!(
        r#"d: {{ "attach-volume": [{}, {}], "update-route53": [{}] }}"#,
        volume(1, "/dev/xvdf"),
        volume(2, "/dev/xvdg"),
        record("d.example.com", r#"release: ["interrupted"]"#)
    );
    let running = watching(&lab, &text("\"interrupt-margin\": 40,", &[domain]));
    let end = announce(&lab, 100);
    let run = running.wait(&lab);
    run.ends(3, &[&format!("not released: {} stays attached", id(2)), &format!("{} is released", id(1)), "is deleted"]);
    in_time(&lab, "ChangeResourceRecordSets", end, &run);
    assert_eq!(lab.attached(&lab.me), [(id(2), "/dev/xvdg".to_owned())], "{run}");
}

#[test]
fn the_margin_is_as_configured() {
    for (margin, budget) in
        [("", 95..=105), ("\"interrupt-margin\": 60,", 50..=60), ("\"interrupt-margin\": 500,", 10..=10)]
    {
        let lab = Lab::new();
        let running = lab.start(&text(margin, &["d: {}".to_owned()]), How::default());
        running.says(&lab, "watching for interruptions");
        lab.server.world().notice(&lab.me, "terminate", 120);
        let run = running.wait(&lab);
        run.ends(0, &[]);
        let line = run.log.lines().find(|l| l.contains("s for the way out")).unwrap();
        let seconds: u64 = line.split_whitespace().find_map(|w| w.parse().ok()).unwrap();
        assert!(budget.contains(&seconds), "{line}");
    }
}

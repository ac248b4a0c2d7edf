//! A handover: who waits for a volume learns that it will soon be free, and gets it in the end.

use crate::disks::{directive, id};
use crate::fakeaws::{Call, Fault, FaultKind, VolumeSpec};
use crate::kit::{on, sh};
use crate::lab::{How, Lab, Running, once};

/// A domain that releases volume 1 and has a command on the way out.
fn text(command: &str) -> String {
    let rest = format!(r#""volume-id": "{}", wait: 300, release: ["interrupted"]"#, id(1));
    let volume = directive("x", "/dev/xvdf", &rest, "echo used >> $LAB/seen");
    let out = on(&["interrupted"], &[sh(command)]);
    format!(
        r#"{{ "interrupt-detection": {{ detect: "poll", options: {{ interval: 0.02 }} }},
            domains: {{ d: {{ "attach-volume": [{volume}], exec: [{out}] }} }} }}"#
    )
}

const SLOW: &str = "touch $LAB/first; until [ -e $LAB/go ] || [ ! -d $LAB ]; do sleep 0.02; done";

fn started(text: &str, how: How) -> (Lab, Running) {
    let lab = Lab::new();
    lab.volume(VolumeSpec::default().id(&id(1)));
    let running = lab.start(text, how);
    running.says(&lab, "watching for interruptions");
    lab.until("the last tags", || lab.tag_keys(&id(1)) == ["owner", "ts-used"]);
    // It was used for longer than this test takes.
    let old = ("user:ec2fd.ts-used".to_owned(), "2026-01-01T00:00:00Z".to_owned());
    lab.server.world().volumes.get_mut(&id(1)).unwrap().tags.extend([old]);
    lab.server.reset_calls();
    (lab, running)
}

/// The calls that write nothing but the time of use.
fn times_of_use(lab: &Lab) -> Vec<Call> {
    let calls = lab.server.calls().into_iter();
    calls
        .filter(|c| c.action == "CreateTags" && c.params["Tag.1.Key"] == "user:ec2fd.ts-used" && c.status == 200)
        .collect()
}

#[test]
fn that_a_volume_goes_is_written_while_the_commands_run_and_seen_by_who_waits() {
    let (lab, first) = started(&text(SLOW), How::default());
    let other = lab.neighbour();
    let second = lab.start(&text("true"), once().on(&other).rate(4));
    second.says(&lab, "; waiting up to 300 s");
    lab.server.world().notice(&lab.me, "terminate", 120);
    lab.until_file("first");
    lab.until("the time of use", || times_of_use(&lab).len() == 1);
    second.says(&lab, &format!("{} wrote a new time of use on {}: it may let go", lab.me, id(1)));
    assert_eq!((lab.count("DetachVolume"), lab.attached(&lab.me).len()), (0, 1));
    lab.file("go", "");
    let run = first.wait(&lab);
    run.ends(0, &["is released"]);
    // Once is enough.
    assert_eq!(times_of_use(&lab).iter().filter(|c| c.instance.as_deref() == Some(&lab.me)).count(), 1, "{run}");
    let run = second.wait(&lab);
    run.ends(0, &[&format!("{} attached as /dev/xvdf", id(1))]);
    assert_eq!((lab.lines("seen").len(), lab.attached(&other).len()), (2, 1), "{run}");
}

#[test]
fn without_commands_it_is_written_after_the_unmount() {
    let (lab, running) =
        started(&text("true").replace(r#"on: ["interrupted"], lines"#, r#"on: ["failed"], lines"#), How::default());
    lab.server.world().notice(&lab.me, "terminate", 120);
    let run = running.wait(&lab);
    run.ends(0, &["is released"]);
    assert_eq!((times_of_use(&lab).len(), lab.count("CreateTags")), (1, 1), "{run}");
}

#[test]
fn where_it_cannot_be_written_the_volume_goes_all_the_same() {
    let (lab, running) = started(&text("true"), How::default());
    lab.server.world().deny("EC2:CreateTags");
    lab.server.world().notice(&lab.me, "terminate", 120);
    let run = running.wait(&lab);
    run.ends(0, &["cannot write the time of use of", "is released"]);
    lab.nothing_left(&run);
    // An answer that never comes holds nobody up for long: the commands and the rest go on.
    let (lab, running) = started(&text("true"), How::default().rate(20));
    lab.fault(Fault::every("EC2:CreateTags", FaultKind::HangAfter(1 << 30)));
    lab.server.world().notice(&lab.me, "terminate", 120);
    let run = running.wait(&lab);
    run.ends(0, &["is released"]);
    lab.nothing_left(&run);
}

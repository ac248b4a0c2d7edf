//! After `hibernate` the process lives on and runs init again; after `stop` a new one does.

use crate::fakeaws::imds::Notice;
use crate::fakeaws::{Fault, FaultKind, VolumeSpec};
use crate::kit::{SHORT, bodies, note_events, record, seen, to_queue, to_topic, zone};
use crate::lab::{How, Lab, Running};

/// A domain with a volume (released at an interruption), a record, commands and messages.
fn text(more: &str) -> String {
    format!(
        r#"{{ "interrupt-detection": {{ detect: "poll", options: {{ interval: 0.02 }} }}, domains: {{ d: {{
            "attach-volume": [{{ device: "/dev/xvdf", source: "p", "pool-name": "p", release: ["interrupted"] }}],
            "update-route53": [{}], exec: [{}], notify: [{}] {more} }} }} }}"#,
        record("a.example.com", ""),
        note_events(),
        to_topic(SHORT)
    )
}

const AWAY: &str = "hibernating: init runs again when the instance is back";

/// Started, and then hibernating.
fn hibernating(lab: &Lab, how: How) -> Running {
    let running = started(lab, how);
    lab.server.world().notice(&lab.me, "hibernate", 120);
    running.says(lab, AWAY);
    running
}

fn started(lab: &Lab, how: How) -> Running {
    lab.pool_volume("d", "p");
    let running = lab.start(&text(""), how);
    running.says(lab, "watching for interruptions");
    running
}

/// The instance is back: another address, no notice, keys that are worth nothing.
fn wake(lab: &Lab) {
    lab.server.reset_calls();
    let mut w = lab.server.world();
    w.set_public(&lab.me, &["198.51.100.7"], &["2001:db8::a"]);
    w.expire_credentials(&lab.me);
    w.rotate_credentials(&lab.me);
    w.imds(&lab.me).notice = None;
}

fn asked(lab: &Lab, path: &str) -> usize {
    lab.server.imds_calls(&lab.me).iter().filter(|c| c.status == 200 && c.path.contains(path)).count()
}

#[test]
fn init_runs_again_after_a_hibernation() {
    let lab = Lab::new();
    let running = hibernating(&lab, How::default());
    assert_eq!(lab.attached(&lab.me).len(), 1);
    wake(&lab);
    lab.until("started again", || bodies(&lab).len() == 3);
    assert_eq!(zone(&lab, "Z1")[0], "a.example.com. A 60 198.51.100.7");
    let count = |action| lab.server.calls_of(action).len();
    assert_eq!((count("AttachVolume"), count("DetachVolume")), (0, 0), "{}", running.log());
    assert!(asked(&lab, "api/token") == 1 && asked(&lab, "security-credentials/fleet") == 1, "{}", running.log());
    assert_eq!(lab.manager.told().matches("READY=1").count(), 1);
    // It watches as before: a second interruption is another one.
    lab.server.world().notice(&lab.me, "terminate", 120);
    let run = running.wait(&lab);
    run.ends(0, &["the instance is back: the notice is gone", "is attached already", "is released"]);
    let turn = ["d starting", "d started", "d interrupted"];
    assert_eq!(seen(&lab), [turn, turn].concat(), "{run}");
    assert_eq!(bodies(&lab), ["d started", "d interrupted", "d started", "d interrupted"], "{run}");
    assert!(lab.attached(&lab.me).is_empty(), "{run}");
}

#[test]
fn each_turn_is_a_transaction_of_its_own() {
    let lab = Lab::new();
    let body = r#"envelope: { body: "{transaction_id} {interrupt_action}|{error}" }"#;
    let text = format!(
        r#"{{ "interrupt-detection": {{ detect: "poll", options: {{ interval: 0.02 }} }}, domains: {{ d: {{
            notify: [{}] }} }} }}"#,
        to_queue(body)
    );
    let running = lab.start(&text, How::default());
    running.says(&lab, "watching for interruptions");
    lab.until("the first message", || bodies(&lab).len() == 1);
    lab.server.world().notice(&lab.me, "hibernate", 120);
    running.says(&lab, AWAY);
    wake(&lab);
    lab.until("started again", || bodies(&lab).len() == 3);
    running.signal("TERM");
    running.wait(&lab).ends(0, &[]);
    let told = bodies(&lab);
    let id = |n: usize| told[n].split(' ').next().unwrap().to_owned();
    assert!(id(0) == id(1) && id(1) != id(2) && id(2) == id(3), "{told:?}");
    // Of the interruption nothing is left.
    assert!(told[1].ends_with(" hibernate|") && told[2].ends_with(" |") && told[3].ends_with(" |"), "{told:?}");
}

#[test]
fn a_signal_ends_the_wait_without_another_way_out() {
    let lab = Lab::new();
    let running = hibernating(&lab, How::default());
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["stopped: nothing is left to be done"]);
    assert_eq!(seen(&lab), ["d starting", "d started", "d interrupted"], "{run}");
    assert_eq!(lab.attached(&lab.me).len(), 1, "{run}");
}

#[test]
fn a_signal_during_the_way_out_counts_after_it() {
    let lab = Lab::new();
    lab.pool_volume("d", "p");
    let wait =
        crate::kit::sh("i=0; while [ ! -e $LAB/go ]; do i=$((i+1)); [ $i -lt 2000 ] || exit 1; sleep 0.01; done");
    let text = text("").replace("exec: [", &format!("exec: [{}, ", crate::kit::on(&["interrupted"], &[wait])));
    let running = lab.start(&text, How::default());
    running.says(&lab, "watching for interruptions");
    lab.server.world().notice(&lab.me, "hibernate", 120);
    running.says(&lab, "for the way out");
    running.signal("TERM");
    running.says(&lab, "SIGTERM: stopping");
    lab.file("go", "");
    let run = running.wait(&lab);
    run.ends(0, &["stopped: nothing is left to be done"]);
    assert_eq!(seen(&lab), ["d starting", "d started", "d interrupted"], "{run}");
}

#[test]
fn a_hibernation_that_becomes_an_end_releases() {
    let lab = Lab::new();
    let running = hibernating(&lab, How::default());
    // The same at another time is the same.
    lab.server.world().notice(&lab.me, "hibernate", 180);
    running.says(&lab, "EC2 is going to hibernate this instance at");
    lab.server.world().notice(&lab.me, "terminate", 120);
    let run = running.wait(&lab);
    run.ends(0, &["EC2 is going to terminate this instance at", "is released", "the instance is left running"]);
    assert_eq!(seen(&lab), ["d starting", "d started", "d interrupted", "d interrupted"], "{run}");
    assert!(lab.attached(&lab.me).is_empty(), "{run}");
}

#[test]
fn a_notice_that_was_not_kept_is_over_after_minutes() {
    let lab = Lab::new();
    let running = started(&lab, How::default().rate(150));
    lab.server.world().notice(&lab.me, "hibernate", 60);
    lab.until("started again", || seen(&lab).len() == 5);
    // The notice is still there, and nothing more follows from it.
    let polls = asked(&lab, "spot/instance-action");
    lab.until("more polls", || asked(&lab, "spot/instance-action") > polls + 5);
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["the time of the notice is long past", "stopped"]);
    let turns = ["d starting", "d started", "d interrupted", "d starting", "d started", "d stopping"];
    assert_eq!(seen(&lab), turns, "{run}");
}

#[test]
fn a_hibernation_during_init_starts_afterwards() {
    let lab = Lab::new();
    lab.pool_volume("d", "p");
    lab.server.world().fault(Fault::every("ChangeResourceRecordSets", FaultKind::Throttle));
    let running = lab.start(&text(""), How::default());
    lab.until("a write of the record", || !lab.server.calls_of("ChangeResourceRecordSets").is_empty());
    lab.server.world().notice(&lab.me, "hibernate", 120);
    running.says(&lab, AWAY);
    assert!(lab.attached(&lab.me).is_empty(), "{}", running.log());
    assert_eq!(lab.manager.told().matches("READY=1").count(), 0);
    lab.server.world().faults.clear();
    wake(&lab);
    running.says(&lab, "ready: d started");
    assert_eq!((lab.attached(&lab.me).len(), zone(&lab, "Z1").len()), (1, 2), "{}", running.log());
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["rolling back d"]);
    assert_eq!(seen(&lab), ["d starting", "d interrupted", "d starting", "d started", "d stopping"], "{run}");
    assert_eq!(lab.manager.told().matches("READY=1").count(), 1);
}

#[test]
fn metadata_that_cannot_be_read_again_end_the_run() {
    let lab = Lab::new();
    let running = hibernating(&lab, How::default());
    lab.server.world().imds(&lab.me).missing =
        vec!["dynamic/instance-identity/document".into(), "meta-data/instance-id".into()];
    wake(&lab);
    let run = running.wait(&lab);
    run.ends(1, &["cannot read the instance's metadata again: cannot read /latest/meta-data/instance-id"]);
}

#[test]
fn an_init_that_is_killed_after_the_hibernation_is_settled_by_the_next_run() {
    let lab = Lab::new();
    let running = hibernating(&lab, How::default());
    lab.server.world().fault(Fault::every("ChangeResourceRecordSets", FaultKind::HangAfter(60_000)));
    wake(&lab);
    lab.until("the new address", || zone(&lab, "Z1")[0].contains("198.51.100.7"));
    running.signal("KILL");
    running.wait(&lab).ends(137, &[]);
    lab.server.world().faults.clear();
    let run = lab.run(&text(""), crate::lab::once());
    run.ends(0, &["settling what an earlier run of d left", "ready: d started"]);
    assert_eq!(zone(&lab, "Z1")[0], "a.example.com. A 60 198.51.100.7", "{run}");
    assert_eq!(lab.attached(&lab.me).len(), 1, "{run}");
}

#[test]
fn after_a_stop_the_next_life_starts_with_what_is_attached() {
    let lab = Lab::new();
    lab.server.world().add_volume(VolumeSpec::pool("d", "p"));
    let running = started(&lab, How::default());
    lab.server.world().notice(&lab.me, "stop", 120);
    running.wait(&lab).ends(0, &["EC2 is going to stop", "the instance is left running"]);
    let attached = lab.attached(&lab.me);
    assert_eq!(attached.len(), 1);
    wake(&lab);
    // The service may go on telling of what is past.
    let old = (time::OffsetDateTime::now_utc() - time::Duration::minutes(6)).replace_nanosecond(0).unwrap();
    let time = old.format(&time::format_description::well_known::Rfc3339).unwrap();
    lab.server.world().imds(&lab.me).notice = Some(Notice { action: "stop".into(), time });
    let running = lab.start(&text(""), How::default());
    running.says(&lab, "ready: d started");
    running.says(&lab, "ignoring a notice that is not valid: action 'stop'");
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["is attached already"]);
    assert_eq!((lab.attached(&lab.me), lab.server.calls_of("AttachVolume").len()), (attached, 0), "{run}");
    assert_eq!(zone(&lab, "Z1")[0], "a.example.com. A 60 198.51.100.7", "{run}");
}

//! Budgets: init, the roll-back, messages and the way out end in time whatever hangs, and say what they leave.

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::fakeaws::{Fault, FaultKind, Nth};
use crate::kit::{SHORT, bodies, on, one, record, sh, to_topic, zone};
use crate::lab::{How, Lab, Run, once};

const FOR_EVER: u64 = 1 << 40;
const POOL: &str = r#"device: "/dev/xvdf", source: "p", "pool-name": "p""#;

/// No call is answered from now on.
fn hang(lab: &Lab, actions: &[&str]) {
    for action in actions {
        lab.fault(Fault::new(action, Nth::Every, FaultKind::Hang(FOR_EVER)));
    }
}

/// A lab whose clocks run `rate` times as fast, as those of a daemon with [`How::rate`].
fn fast(rate: u32) -> Lab {
    let lab = Lab::new();
    lab.knobs(|k| (k.clock_rate, k.signature_window_s) = (rate, 7200));
    lab
}

/// A line that notes the time by the daemon's clock.
fn note_time() -> String {
    sh("echo {daemon_state} {ts} >> $LAB/times")
}

fn times(lab: &Lab) -> Vec<(String, OffsetDateTime)> {
    let of = |l: &String| {
        let (what, ts) = l.split_once(' ').unwrap();
        (what.to_owned(), OffsetDateTime::parse(ts, &Rfc3339).unwrap())
    };
    lab.lines("times").iter().map(of).collect()
}

/// The time from `starting` to the next event that was noted. A machine that stalls is forgiven some of it.
#[track_caller]
fn took(lab: &Lab, run: &Run) -> Duration {
    match times(lab).as_slice() {
        [(first, a), (_, b)] if first == "starting" => *b - *a,
        other => panic!("{other:?} {run}"),
    }
}

#[test]
fn when_no_call_is_ever_answered_init_ends_with_its_default_budget() {
    let lab = fast(200);
    lab.pool_volume("d", "p");
    hang(&lab, &["*"]);
    let text = one(&format!(
        r#""attach-volume": [{{ {POOL} }}], "update-route53": [{}], exec: [{}], notify: [{}]"#,
        record("a.example.com", ""),
        on(&["starting", "failed"], &[note_time()]),
        to_topic(SHORT)
    ));
    let run = lab.run(&text, once().rate(200));
    run.ends(
        1,
        &[
            "cannot list the volumes of domain 'd': the time for it is over; last answer: http",
            "no answer in time",
            "failed: d",
            "cannot tell arn:aws:sns:eu-west-1:123456789012:fleet 'failed': the time for it is over",
        ],
    );
    let took = took(&lab, &run);
    assert!(took >= Duration::seconds(590) && took < Duration::seconds(2 * 600), "{took} {run}");
}

#[test]
fn when_nothing_is_answered_from_the_claim_on_the_roll_back_ends_with_its_budget_and_names_what_is_left() {
    let lab = fast(100);
    let volume = lab.pool_volume("d", "p");
    let holds = sh("touch $LAB/holds; until [ -e $LAB/go ] || [ ! -d $LAB ]; do sleep 0.02; done");
    let text = one(&format!(
        r#""attach-volume": [{{ {POOL}, exec: [{{ lines: [{holds}] }}] }}], "update-route53": [{}], exec: [{}]"#,
        record("a.example.com", ""),
        on(&["starting", "failed"], &[note_time()])
    ));
    // The record is written, but nobody knows.
    lab.fault(Fault::new("ChangeResourceRecordSets", Nth::Every, FaultKind::HangAfter(FOR_EVER)));
    let running = lab.start(&text, once().rate(100));
    lab.until_file("holds");
    hang(&lab, &["EC2:*"]);
    lab.file("go", "");
    lab.until("a write", || lab.count("ChangeResourceRecordSets") > 0);
    hang(&lab, &["ListResourceRecordSets"]);
    let run = running.wait(&lab);
    run.ends(
        3,
        &[
            "the time for it is over",
            "something could not be rolled back and needs a look:",
            "d: a.example.com. in hosted zone Z1: cannot look at it: cannot list the records at a.example.com.",
            &format!("d: {volume} stays attached as /dev/xvdf: cannot "),
        ],
    );
    let took = took(&lab, &run);
    assert!(took >= Duration::seconds(600) && took < Duration::seconds(2 * (600 + 180)), "{took} {run}");
}

#[test]
fn a_record_that_hangs_leaves_the_roll_back_time_for_the_volumes() {
    let lab = fast(40);
    let volume = lab.pool_volume("d", "p");
    lab.fault(Fault::new("ChangeResourceRecordSets", Nth::Every, FaultKind::HangAfter(FOR_EVER)));
    let records = ["a", "b", "c"].map(|n| record(&format!("{n}.example.com"), "")).join(", ");
    let text = one(&format!(r#""attach-volume": [{{ {POOL} }}], "update-route53": [{records}]"#));
    let running = lab.start(&text.replacen('{', "{ timeout: 60,", 1), once().rate(40));
    lab.until("a write", || lab.count("ChangeResourceRecordSets") > 0);
    hang(&lab, &["ListResourceRecordSets"]);
    let run = running.wait(&lab);
    run.ends(3, &["d: a.example.com. in hosted zone Z1: cannot look at it: cannot list the records at a.example.com."]);
    assert!(lab.attached(&lab.me).is_empty(), "{run}");
    assert_eq!(lab.state(&volume), "available", "{run}");
}

#[test]
fn tags_that_hang_leave_the_roll_back_time_to_detach() {
    for kind in [FaultKind::Hang(FOR_EVER), FaultKind::Throttle] {
        let lab = fast(60);
        let volume = lab.pool_volume("d", "p");
        lab.fault(Fault::new("DeleteTags", Nth::Every, kind));
        let text = one(&format!(r#""attach-volume": [{{ {POOL}, exec: [{{ lines: [{}] }}] }}]"#, sh("exit 1")));
        let run = lab.run(&text, once().rate(60));
        run.ends(1, &[&format!("cannot put the tags of {volume} back"), &format!("{volume} detached")]);
        assert!(lab.attached(&lab.me).is_empty(), "{run}");
    }
}

/// The time that an interruption announces is kept, whatever hangs during init: the commands run and end before it.
#[test]
fn a_notice_while_every_call_hangs_leaves_time_for_the_commands() {
    let lab = fast(20);
    lab.pool_volume("d", "p");
    let holds = sh("touch $LAB/holds; until [ -e $LAB/go ] || [ ! -d $LAB ]; do sleep 0.02; done");
    let text = one(&format!(
        r#""attach-volume": [{{ {POOL}, exec: [{{ lines: [{holds}] }}] }}], exec: [{}]"#,
        on(&["interrupted"], &[note_time(), sh("sleep 600")])
    ));
    let running = lab.start(&text, How::default().rate(20));
    lab.until_file("holds");
    hang(&lab, &["*"]);
    lab.server.world().notice(&lab.me, "terminate", 120);
    let announced = lab.server.world().imds(&lab.me).notice.clone().unwrap().time;
    let announced = OffsetDateTime::parse(&announced, &Rfc3339).unwrap();
    let run = running.wait(&lab);
    run.ends(3, &["stays attached as /dev/xvdf", "'interrupted' commands: /bin/sh was ended after"]);
    let times = times(&lab);
    assert!(times.len() == 1 && times[0].0 == "interrupted", "{times:?} {run}");
    assert!(times[0].1 < announced, "{announced} {times:?} {run}");
}

/// There is time to kill a command, and to say so.
#[test]
fn a_command_that_ignores_sigterm_is_over_and_told_of_before_the_announced_time() {
    let lab = fast(5);
    let stubborn = sh("trap '' TERM; i=0; while [ $i -lt 3000 ]; do i=$((i+1)); sleep 0.1; done");
    let text = one(&format!(
        r#"exec: [{}], notify: [{}]"#,
        on(&["interrupted"], &[stubborn]),
        to_topic(r#"envelope: { body: "{daemon_state} {ts} {error}" }"#)
    ));
    let running = lab.start(&text, How::default().rate(5));
    running.says(&lab, "told arn");
    lab.server.world().notice(&lab.me, "terminate", 40);
    let announced = lab.server.world().imds(&lab.me).notice.clone().unwrap().time;
    let announced = OffsetDateTime::parse(&announced, &Rfc3339).unwrap();
    let run = running.wait(&lab);
    run.ends(3, &["'interrupted' commands: /bin/sh was ended after", "interrupted, but exec[0].lines[0]"]);
    let last = bodies(&lab).pop().unwrap();
    let ts = OffsetDateTime::parse(last.split(' ').nth(1).unwrap(), &Rfc3339).unwrap();
    assert!(last.contains("was ended after") && ts < announced, "{last} {announced} {run}");
}

#[test]
fn messages_that_hang_end_with_their_budget_and_are_named() {
    let lab = fast(60);
    let running = lab.start(&one(&format!("notify: [{}]", to_topic(SHORT))), How::default().rate(60));
    running.says(&lab, "told arn");
    hang(&lab, &["Publish"]);
    running.signal("TERM");
    let text =
        "cannot tell arn:aws:sns:eu-west-1:123456789012:fleet 'stopping': the time for it is over; last answer: ";
    running.wait(&lab).ends(0, &[text, "stopped"]);
}

#[test]
fn credentials_that_hang_end_with_init_and_are_named() {
    let lab = Lab::new();
    lab.server.world().imds(&lab.me).hanging.push("security-credentials".into());
    let text = one(&format!("\"update-route53\": [{}]", record("a.example.com", "")));
    let run = lab.run(&text.replacen('{', "{ timeout: 60,", 1), once().rate(60));
    run.ends(
        1,
        &["cannot list the records at a.example.com. in hosted zone Z1: cannot get credentials of the instance role: \
             cannot read /latest/meta-data/iam/security-credentials/ from the instance metadata service: the time for \
             it is over; last: "],
    );
    assert!(zone(&lab, "Z1").is_empty());
}

#[test]
fn commands_of_each_phase_of_init_end_with_it() {
    for event in ["starting", "started"] {
        let lab = Lab::new();
        let text = one(&format!("exec: [{}]", on(&[event], &[sh("sleep 600")])));
        let run = lab.run(&text.replacen('{', "{ timeout: 30,", 1), once().rate(60));
        run.ends(1, &[&format!("'{event}' commands: /bin/sh was ended after "), "failed: d"]);
    }
}

#[test]
fn a_lock_of_another_daemon_that_is_never_given_back_holds_up_nobody() {
    use rustix::fs::{FlockOperation, flock};
    let lab = Lab::new();
    lab.pool_volume("d", "p");
    let dir = lab.root(&lab.me).join("run/ec2fleetd");
    std::fs::create_dir_all(&dir).unwrap();
    let file = std::fs::File::create(dir.join("device-names.lock")).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    let text = one(r#""attach-volume": [{ source: "p", "pool-name": "p" }]"#);
    let run = lab.run(&text.replacen('{', "{ timeout: 300,", 1), once().rate(20));
    run.ends(0, &["another daemon chooses a device name for long: going on beside it"]);
    assert_eq!(lab.attached(&lab.me).len(), 1, "{run}");
}

/// A config that nobody ever writes.
#[test]
fn a_config_that_never_comes_is_named_and_a_signal_ends_the_wait() {
    let lab = Lab::new();
    let pipe = lab.dir.join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let how = || How { user_data: true, ..once().arg(&format!("--userdata={}", pipe.display())) };
    let text = format!("cannot read the config from {}: timed out", pipe.display());
    lab.run("", how().rate(100)).ends(1, &[&text]);
    lab.server.reset_calls();
    let running = lab.start("", how());
    lab.until("the metadata", || lab.server.imds_calls(&lab.me).len() > 3);
    running.signal("TERM");
    running.wait(&lab).ends(0, &["stopped: cannot read the config from "]);
}

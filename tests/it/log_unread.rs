//! The log holds nothing up, whoever reads it or does not; what is waited for is told of.

use std::io::Read;
use std::process::Stdio;

use crate::disks::{config, directive, id, volume};
use crate::fakeaws::{Fault, FaultKind, VolumeSpec};
use crate::kit::{on, sh};
use crate::lab::{How, Lab, once};

const P: &str = r#""pool-name": "p""#;

/// Standard error is a pipe that nobody reads, and is full: notice and release go their way all the same.
#[test]
fn a_log_that_nobody_reads_holds_nothing_up() {
    let lab = Lab::new();
    lab.volume(VolumeSpec::pool("d", "p").id(&id(1)));
    let floods =
        sh("i=0; while [ $i -lt 9000 ]; do echo a line of a flood that is as long as lines are, $i; i=$((i+1)); done");
    let exec =
        format!("exec: [{}, {}], ", on(&["started"], &[floods]), on(&["interrupted"], &[sh("touch $LAB/interrupted")]));
    let volume = volume("p", "/dev/xvdf", &format!(r#"{P}, release: ["interrupted"]"#));
    let text = config(&volume).replace("d: {", &format!("d: {{ {exec}"));
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = lab.command(&text, &How::default().arg("-v"), &lab.dir.join("unused"));
    let mut child = command.stderr(Stdio::from(writer)).spawn().unwrap();
    drop(command);
    lab.until("the claim", || !lab.attached(&lab.me).is_empty());
    lab.server.world().notice(&lab.me, "terminate", 120);
    lab.until("the command", || lab.dir.join("interrupted").exists());
    lab.until("the release", || lab.attached(&lab.me).is_empty());
    lab.until("the end", || child.try_wait().unwrap().is_some());
    // What there was room for is there, and how much is missing.
    let mut log = String::new();
    reader.read_to_string(&mut log).unwrap();
    assert!(log.contains("starting 1 domain(s)"), "{log}");
}

/// And where it is read late: all that is missing is counted.
#[test]
fn a_log_that_is_read_late_says_how_much_is_missing() {
    let lab = Lab::new();
    let floods = sh(
        "i=0; while [ $i -lt 9000 ]; do echo a line of a flood that is as long as lines are, $i; i=$((i+1)); done; touch $LAB/over",
    );
    let text = config("").replace("d: {", &format!("d: {{ exec: [{}], ", on(&["started"], &[floods])));
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = lab.command(&text, &once(), &lab.dir.join("unused"));
    let mut child = command.stderr(Stdio::from(writer)).spawn().unwrap();
    drop(command);
    lab.until("the end of the flood", || lab.dir.join("over").exists());
    let mut log = String::new();
    reader.read_to_string(&mut log).unwrap();
    assert!(child.wait().unwrap().success());
    let missing: usize = log
        .lines()
        .filter_map(|l| l.split_once(" lines of this log were dropped")?.0.rsplit(' ').next()?.parse::<usize>().ok())
        .sum();
    let said = log.lines().filter(|l| l.contains("a line of a flood")).count();
    assert!(missing > 0 && (9000..9100).contains(&(missing + said)), "{missing} {said}");
}

/// A FIFO without a reader in place of the ready file.
#[test]
fn a_ready_file_that_nobody_reads_holds_nothing_up() {
    let lab = Lab::new();
    let fifo = lab.dir.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let running = lab.start(&config(""), How::default().env("EC2FLEETD_READY_FILE", fifo.to_str().unwrap()));
    running.says(&lab, "cannot write EC2FLEETD_READY_FILE=");
    running.says(&lab, "watching for interruptions");
    running.signal("TERM");
    running.wait(&lab).ends(0, &["nobody reads this FIFO"]);
}

/// Whatever it waits for, it says so after five seconds, and again.
#[test]
fn what_hangs_is_told_of() {
    for (action, fault, says) in [
        ("DescribeVolumes", FaultKind::Hang(60_000), "still waiting for DescribeVolumes of ec2"),
        (
            "AttachVolume",
            FaultKind::Throttle,
            "still waiting for AttachVolume of ec2 (last answer: RequestLimitExceeded",
        ),
        ("AttachVolume", FaultKind::Hang(60_000), "still waiting for AttachVolume of ec2"),
        ("CreateTags", FaultKind::Hang(60_000), "still waiting for CreateTags of ec2"),
        ("ChangeResourceRecordSets", FaultKind::Hang(60_000), "still waiting for ChangeResourceRecordSets of route53"),
    ] {
        let lab = Lab::new();
        lab.volume(VolumeSpec::pool("d", "p").id(&id(1)));
        lab.fault(Fault::every(action, fault));
        let record = r#""update-route53": [{ hostedzone: "Z1", name: "a.example.com", ttl: 60 }], "#;
        let text = config(&directive("p", "/dev/xvdf", P, "true")).replace("d: {", &format!("d: {{ {record}"));
        let running = lab.start(&text, once().rate(20));
        running.says(&lab, says);
        running.signal("KILL");
        running.wait(&lab);
    }
}

/// The state is logged when it is asked for; what means nothing is said to, and ends nothing.
#[test]
fn signals_that_do_not_stop_it() {
    let lab = Lab::new();
    lab.volume(VolumeSpec::pool("d", "p").id(&id(1)));
    lab.fault(Fault::every("AttachVolume", FaultKind::Hang(60_000)));
    let running = lab.start(&config(&volume("p", "/dev/xvdf", P)), How::default());
    lab.until("the claim", || lab.count("AttachVolume") > 0);
    running.signal("HUP");
    running.says(&lab, "SIGHUP: the config is not read again");
    running.signal("USR2");
    running.says(&lab, "SIGUSR2: has no meaning here");
    running.signal("USR1");
    running.says(&lab, "still waiting for AttachVolume of ec2, since ");
    running.signal("QUIT");
    running.says(&lab, "SIGQUIT: stopping");
    running.signal("KILL");
    running.wait(&lab);
}

/// Under nohup, SIGHUP stays ignored.
#[test]
fn under_nohup_a_hang_up_is_nothing() {
    let lab = Lab::new();
    let running = lab.start_wrapped(&config(""), How::default(), &["/bin/sh", "-c", r#"trap "" HUP; exec "$@""#, "sh"]);
    running.says(&lab, "watching for interruptions");
    running.signal("HUP");
    running.signal("USR1");
    running.says(&lab, "watching for interruptions");
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["stopped"]);
    assert!(!run.log.contains("SIGHUP"), "{run}");
}

//! Names for directives that leave their device out: what was in use or proved bad in this boot comes last.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::disks::{NOTE, config, directive, id, timed, volume};
use crate::fakeaws::VolumeSpec;
use crate::lab::{Lab, once};

fn p() -> String {
    volume("p", "", r#""pool-name": "p""#)
}

fn file(lab: &Lab) -> PathBuf {
    lab.root(&lab.me).join("run/ec2fleetd/device-names")
}

fn remembered(lab: &Lab) -> Vec<String> {
    fs::read_to_string(file(lab)).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn remember(lab: &Lab, text: impl AsRef<[u8]>) {
    fs::create_dir_all(file(lab).parent().unwrap()).unwrap();
    fs::write(file(lab), text).unwrap();
}

/// A name is refused as "already in use" from now on, or no more.
fn refused(lab: &Lab, name: &str, is: bool) {
    let mut w = lab.server.world();
    let far = w.now_ms() + 1_000_000;
    let cooling = &mut w.instances.get_mut(&lab.me).unwrap().cooling;
    cooling.clear();
    cooling.extend(is.then(|| (name.to_owned(), far)));
}

/// Takes everything away from the instance.
fn strip(lab: &Lab) {
    for (v, _) in lab.attached(&lab.me) {
        lab.set_attachment(&v, "detaching", 0);
        lab.until("it is free", || lab.state(&v) == "available");
    }
}

/// Runs once more; the device of the one volume, and the calls that it took.
fn device(lab: &Lab) -> (String, usize) {
    lab.server.reset_calls();
    let run = lab.run(&config(&p()), once());
    run.ends(0, &[]);
    (lab.attached(&lab.me)[0].1.clone(), lab.count("AttachVolume"))
}

#[test]
fn a_name_that_was_in_use_a_moment_ago_is_not_chosen_again() {
    let lab = Lab::new();
    lab.pool_of(1);
    // EC2 keeps it busy for a while after the roll-back.
    lab.knobs(|k| k.cooldown_ms = 1 << 30);
    let run = lab.run(&config(&directive("p", "", r#""pool-name": "p""#, "exit 1")), once());
    run.ends(1, &["exit code 1"]);
    lab.nothing_left(&run);
    assert_eq!(device(&lab), ("/dev/xvdbb".into(), 1));
    let kept = remembered(&lab);
    assert!(kept.contains(&"used /dev/xvdba".into()) && kept.contains(&"used /dev/xvdbb".into()), "{kept:?}");
}

#[test]
fn a_name_that_is_being_freed_is_not_chosen() {
    let lab = Lab::new();
    let all = lab.pool_of(1);
    let going = lab.volume(VolumeSpec::default().attached(&lab.me, "/dev/sdba"));
    lab.set_attachment(&going, "detaching", 1 << 30);
    let run = lab.run(&config(&p()), once());
    run.ends(0, &[]);
    assert_eq!(lab.count("AttachVolume"), 1, "{run}");
    let mine = lab.attached(&lab.me).into_iter().find(|a| a.0 == all[0]).unwrap();
    assert_eq!(mine.1, "/dev/xvdbb", "{run}");
}

#[test]
fn a_name_that_was_refused_is_marked_and_not_tried_again() {
    let lab = Lab::new();
    lab.pool_of(1);
    refused(&lab, "/dev/xvdba", true);
    assert_eq!(device(&lab), ("/dev/xvdbb".into(), 2));
    assert!(remembered(&lab).contains(&"bad /dev/xvdba".into()), "{:?}", remembered(&lab));
    strip(&lab);
    // Neither the bad one, though it would be taken by now, nor the one that was in use.
    refused(&lab, "", false);
    assert_eq!(device(&lab), ("/dev/xvdbc".into(), 1));
    strip(&lab);
    // Until the next boot.
    fs::remove_dir_all(file(&lab).parent().unwrap()).unwrap();
    refused(&lab, "", false);
    assert_eq!(device(&lab), ("/dev/xvdba".into(), 1));
}

#[test]
fn what_one_daemon_learns_another_knows() {
    let lab = Lab::new();
    lab.pool_of(1);
    lab.volume(VolumeSpec::pool("e", "p").id(&id(9)));
    refused(&lab, "/dev/xvdba", true);
    device(&lab);
    let other = config(&p()).replace("d: {", "e: {");
    let run = lab.run(&other, once());
    run.ends(0, &[]);
    lab.has(&[(&id(1), "/dev/xvdbb"), (&id(9), "/dev/xvdbc")], &run);
    assert_eq!(lab.count("AttachVolume"), 3, "{run}");
}

#[test]
fn an_attachment_that_got_stuck_marks_its_name() {
    let lab = Lab::new();
    lab.pool_of(1);
    lab.knobs(|k| k.attaching_stuck = true);
    let run = lab.run(&timed(20, &p()), once().rate(20));
    run.ends(1, &["is attached as /dev/xvdba, but"]);
    lab.nothing_left(&run);
    assert!(remembered(&lab).contains(&"bad /dev/xvdba".into()), "{:?} {run}", remembered(&lab));
    lab.knobs(|k| k.attaching_stuck = false);
    assert_eq!(device(&lab), ("/dev/xvdbb".into(), 1));

    // A name that the config asks for is its own choice; and a run that was stopped tells nothing.
    let lab = Lab::new();
    lab.pool_of(1);
    lab.knobs(|k| k.attaching_stuck = true);
    let named = volume("p", "/dev/xvdf", r#""pool-name": "p""#);
    lab.run(&timed(10, &named), once().rate(20)).ends(1, &[]);
    let run = lab.start(&config(&p()), once().rate(20));
    lab.until("the claim", || lab.server.calls_of("AttachVolume").iter().filter(|c| c.status == 200).count() == 2);
    run.signal("TERM");
    run.wait(&lab).ends(0, &[]);
    assert!(!remembered(&lab).iter().any(|l| l.starts_with("bad")), "{:?}", remembered(&lab));
}

#[test]
fn worn_names_come_last_rather_than_never() {
    let lab = Lab::new();
    lab.pool_of(1);
    let two = ('b'..='c').flat_map(|a| ('a'..='z').map(move |b| format!("/dev/xvd{a}{b}")));
    let all: Vec<String> = two.chain(('f'..='p').map(|a| format!("/dev/sd{a}"))).collect();
    let line = |n: &String| format!("{} {n}\n", if n == "/dev/xvdcx" || n == "/dev/sdg" { "used" } else { "bad" });
    remember(&lab, all.iter().map(line).collect::<String>());
    assert_eq!(device(&lab), ("/dev/xvdcx".into(), 1));
    strip(&lab);
    refused(&lab, "/dev/xvdcx", true);
    assert_eq!(device(&lab), ("/dev/sdg".into(), 1));
    strip(&lab);
    // All of them are bad: the one that was so longest ago.
    remember(&lab, all.iter().rev().map(|n| format!("bad {n}\n")).collect::<String>());
    refused(&lab, "", false);
    assert_eq!(device(&lab), ("/dev/sdp".into(), 1));
}

#[test]
fn foreign_content_is_harmless() {
    let big = "used /dev/xvdba\n".repeat(1 << 20);
    let texts: [&[u8]; 5] = [b"\0\xff\xfe", b"bad ../../../etc/passwd\nused /dev/\n", b"{}", b"", big.as_bytes()];
    for text in texts {
        let lab = Lab::new();
        lab.pool_of(1);
        remember(&lab, text);
        assert_eq!(device(&lab), ("/dev/xvdba".into(), 1));
        assert_eq!(remembered(&lab).last().map(String::as_str), Some("used /dev/xvdba"));
    }
    // One that others may write is not ours.
    let lab = Lab::new();
    lab.pool_of(1);
    remember(&lab, "bad /dev/xvdba\n");
    fs::set_permissions(file(&lab), fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(device(&lab).0, "/dev/xvdba");
    // Nor is a directory, and nothing fails of it.
    let lab = Lab::new();
    lab.pool_of(1);
    fs::create_dir_all(file(&lab).join("x")).unwrap();
    assert_eq!(device(&lab).0, "/dev/xvdba");
}

#[test]
fn directives_with_a_device_remember_nothing() {
    let lab = Lab::new();
    lab.pool_of(1);
    let run = lab.run(&config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, NOTE)), once());
    run.ends(0, &[]);
    assert!(!file(&lab).exists());
}

#[test]
fn killed_around_the_claim_the_next_run_converges() {
    for after in [false, true] {
        let lab = Lab::new();
        lab.pool_of(1);
        assert!(crate::matrix_kills::kill_at(&lab, &config(&p()), "AttachVolume", 1, after));
        assert_eq!(device(&lab).0, "/dev/xvdba", "{after}");
    }
}

//! `snapshot` on real file systems: they stand still for the call, and never for longer, whoever dies.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::disks::id;
use crate::fakeaws::{Fault, FaultKind, VolumeSpec};
use crate::lab::{How, Lab, Running};
use crate::loops::{Loop, lab, mounts, real_lab, run};
use crate::snapshots::{made, started, text, x};

pub(crate) const MOUNT: &str = r#"mount: { path: "/data" }"#;

pub(crate) fn data(lab: &Lab) -> PathBuf {
    lab.root(&lab.me).join("data")
}

/// Gives the mount point back to the test, which must be able to remove it.
pub(crate) fn clean_up(lab: &Lab) {
    for point in mounts(&lab.dir).iter().rev() {
        let _ = Command::new("umount").arg(point).status();
    }
    let _ = Command::new("chattr").arg("-fi").arg(data(lab)).status();
}

/// A lab with volume 1 on a disk, and a daemon that has mounted it.
pub(crate) fn running(snapshot: &str, how: How) -> Option<(Lab, Vec<Loop>, Running)> {
    let (lab, loops) = lab(1)?;
    let running = running_in(&lab, snapshot, how);
    Some((lab, loops, running))
}

/// The daemon alone.
pub(crate) fn running_in(lab: &Lab, snapshot: &str, how: How) -> Running {
    lab.knobs(|k| k.snapshot_gap_ms = 0);
    let config = text(&x(1, &format!("{MOUNT}, {snapshot}"))).replace("printf last |", "true ||");
    started(lab, &config, how)
}

/// A process that writes into a file of what is mounted there, once.
pub(crate) fn writer(point: &Path) -> Child {
    let script = "echo written > \"$1\"";
    let file = point.join("writer");
    Command::new("sh").args(["-c", script, "sh"]).arg(file).stdin(Stdio::null()).spawn().unwrap()
}

/// Whether a process waits for something in the kernel that no signal ends.
pub(crate) fn stands_still(child: &Child) -> bool {
    let text = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    text.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('D'))
}

#[track_caller]
pub(crate) fn until_it_has_written(lab: &Lab, mut child: Child) {
    lab.until("the write goes on", || child.try_wait().unwrap().is_some_and(|s| s.success()));
}

/// The guard of a daemon's freeze.
pub(crate) fn guard_of(daemon: u32) -> Option<u32> {
    let all = fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children")).unwrap_or_default();
    let mut all: Vec<u32> = all.split_whitespace().filter_map(|p| p.parse().ok()).collect();
    // A thread other than the first has made it.
    for task in fs::read_dir(format!("/proc/{daemon}/task")).ok()?.flatten() {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(text.split_whitespace().filter_map(|p| p.parse::<u32>().ok()));
    }
    let name = |p: &u32| fs::read(format!("/proc/{p}/cmdline")).unwrap_or_default();
    all.into_iter().find(|p| name(p).starts_with(b"ec2fleetd-freeze"))
}

const ON: &str = r#"snapshot: { on: ["interrupted"] }, release: ["interrupted"]"#;

#[test]
fn writes_wait_for_the_answer_and_what_was_written_is_in_it() {
    let Some((lab, _loops, running)) = running(ON, How::default()) else { return };
    fs::write(data(&lab).join("file"), "last words").unwrap();
    let held = fs::File::create(data(&lab).join("held")).unwrap();
    lab.knobs(|k| k.action_latency_ms = [("EC2:CreateSnapshot".to_owned(), 1500)].into());
    lab.server.world().notice(&lab.me, "terminate", 120);
    lab.until("it is asked for", || lab.count("CreateSnapshot") == 1);
    let child = writer(&data(&lab));
    lab.until("the write waits", || stands_still(&child));
    assert!(made(&lab).is_empty() || made(&lab).len() == 1);
    until_it_has_written(&lab, child);
    // Thawed only when the answer was there.
    assert_eq!(lab.server.calls_of("CreateSnapshot")[0].status, 200);
    drop(held);
    let end = running.wait(&lab);
    end.ends(0, &["is begun (interrupted)", "unmounted ", "is released"]);
    assert!(!end.log.contains("not frozen"), "{end}");
    let image = made(&lab)[0].data.clone().unwrap();
    let image = image.to_str().unwrap();
    assert_eq!(run("debugfs", &["-R", "cat /file", image]).unwrap(), "last words", "{end}");
    assert_eq!(run("debugfs", &["-R", "cat /writer", image]).unwrap(), "", "{end}");
    // As after an unmount: there is nothing to recover.
    assert!(!run("dumpe2fs", &["-h", image]).unwrap().contains("needs_recovery"), "{end}");
    clean_up(&lab);
}

#[test]
fn whatever_somebody_mounted_stands_still_too_and_what_is_mounted_twice_only_once() {
    for (make, size) in [(&["mkfs.ext4", "-q", "-F"][..], 4), (&["mkfs.xfs", "-q"], 320), (&["mkfs.btrfs", "-q"], 120)]
    {
        let lab = real_lab();
        let Some(disk) = Loop::blank(&lab, "disk1", size) else { return };
        let device = disk.device.to_str().unwrap();
        if run(make[0], &[&make[1..], &[device]].concat()).is_none() {
            println!("skipped: no {}", make[0]);
            continue;
        }
        lab.volume(VolumeSpec { backing: Some(disk.device.clone()), ..VolumeSpec::default().id(&id(1)) });
        let running = started(&lab, &text(&x(1, ON)).replace("printf last |", "true ||"), How::default());
        let (point, second) = (lab.dir.join("mnt"), lab.dir.join("again"));
        fs::create_dir(&second).unwrap();
        assert!(Command::new("mount").arg(device).arg(&point).status().unwrap().success());
        assert!(Command::new("mount").arg("--bind").arg(&point).arg(&second).status().unwrap().success());
        lab.knobs(|k| k.action_latency_ms = [("EC2:CreateSnapshot".to_owned(), 1500)].into());
        lab.server.world().notice(&lab.me, "terminate", 120);
        lab.until("it is asked for", || lab.count("CreateSnapshot") == 1);
        let child = writer(&point);
        lab.until("the write waits", || stands_still(&child));
        until_it_has_written(&lab, child);
        let end = running.wait(&lab);
        end.ends(0, &["is begun (interrupted)", "is released"]);
        assert!(!end.log.contains("not frozen") && mounts(&lab.dir).is_empty(), "{end}");
    }
}

#[test]
fn if_we_are_killed_meanwhile_it_is_thawed() {
    let Some((lab, _loops, running)) = running(ON, How::default()) else { return };
    lab.fault(Fault::every("EC2:CreateSnapshot", FaultKind::Hang(60_000)));
    lab.server.world().notice(&lab.me, "terminate", 120);
    lab.until("it is asked for", || lab.count("CreateSnapshot") == 1);
    let child = writer(&data(&lab));
    lab.until("the write waits", || stands_still(&child));
    running.signal("KILL");
    until_it_has_written(&lab, child);
    drop(running);
    clean_up(&lab);
}

#[test]
fn if_its_guard_is_killed_meanwhile_it_is_thawed() {
    let Some((lab, _loops, running)) = running(ON, How::default()) else { return };
    lab.knobs(|k| k.action_latency_ms = [("EC2:CreateSnapshot".to_owned(), 1500)].into());
    lab.server.world().notice(&lab.me, "terminate", 120);
    lab.until("it is asked for", || lab.count("CreateSnapshot") == 1);
    let child = writer(&data(&lab));
    lab.until("the write waits", || stands_still(&child));
    let guard = guard_of(running.child.id()).expect("a guard");
    assert!(Command::new("kill").args(["-KILL", &guard.to_string()]).status().unwrap().success());
    until_it_has_written(&lab, child);
    running.wait(&lab).ends(0, &["we have thawed them ourselves", "is begun (interrupted)", "is released"]);
    clean_up(&lab);
}

#[test]
fn if_both_are_killed_the_next_run_thaws() {
    both_are_killed("run");
}

#[test]
fn a_process_that_takes_its_own_place_thaws_what_its_guard_did_not() {
    both_are_killed("rescue");
}

#[test]
fn if_both_are_killed_the_unit_thaws() {
    both_are_killed("unit");
}

#[test]
fn what_is_mounted_elsewhere_by_then_is_thawed_there() {
    both_are_killed("unit, moved");
}

fn both_are_killed(by: &str) {
    let Some((lab, _loops, running)) = running(ON, How::default()) else { return };
    lab.fault(Fault::first("EC2:CreateSnapshot", 1, FaultKind::Hang(60_000)));
    lab.server.world().notice(&lab.me, "terminate", 120);
    lab.until("it is asked for", || lab.count("CreateSnapshot") == 1);
    let child = writer(&data(&lab));
    lab.until("the write waits", || stands_still(&child));
    let guard = guard_of(running.child.id()).expect("a guard");
    let both = ["-KILL".to_owned(), guard.to_string(), running.child.id().to_string()];
    assert!(Command::new("kill").args(both).status().unwrap().success());
    drop(running);
    assert!(stands_still(&child));
    if by.contains("moved") {
        let (point, elsewhere) = (data(&lab), lab.dir.join("mnt"));
        assert!(Command::new("mount").arg("--bind").arg(&point).arg(&elsewhere).status().unwrap().success());
        assert!(Command::new("umount").arg("--lazy").arg(&point).status().unwrap().success());
        assert!(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&point).status().unwrap().success());
    }
    if by.contains("unit") {
        // As the units do it.
        let line = "exec -a ec2fleetd-thaw \"$1\"";
        let root = lab.root(&lab.me);
        let mut unit = Command::new("bash");
        unit.args(["-c", line, "bash", env!("CARGO_BIN_EXE_ec2fleetd")]).env("EC2FLEETD_ROOT", root);
        let end = unit.output().unwrap();
        assert!(end.status.success() && String::from_utf8_lossy(&end.stderr).contains("had it frozen"), "{end:?}");
        until_it_has_written(&lab, child);
        return clean_up(&lab);
    }
    let config = text(&x(1, &format!("{MOUNT}, {ON}"))).replace("printf last |", "true ||");
    if by == "rescue" {
        let end = lab.run(&config, How::default().once().env("EC2FLEETD_PANIC", "on purpose"));
        until_it_has_written(&lab, child);
        end.ends(1, &["a run that was killed had it frozen", "failed: d"]);
        return clean_up(&lab);
    }
    let end = lab.run(&config, How::default().once());
    until_it_has_written(&lab, child);
    end.ends(0, &["a run that was killed had it frozen", "started"]);
    // Once is enough.
    let end = lab.run(&config, How::default().once());
    assert!(!end.log.contains("had it frozen"), "{end}");
    clean_up(&lab);
}

#[test]
fn an_answer_that_never_comes_keeps_it_frozen_for_a_moment_only() {
    let Some((lab, _loops, running)) = running(ON, How::default().rate(4)) else { return };
    lab.fault(Fault::every("EC2:CreateSnapshot", FaultKind::Hang(60_000)));
    lab.server.world().notice(&lab.me, "terminate", 120);
    lab.until("it is asked for", || lab.count("CreateSnapshot") == 1);
    let child = writer(&data(&lab));
    lab.until("the write waits", || stands_still(&child));
    until_it_has_written(&lab, child);
    running.wait(&lab).ends(0, &["cannot make a snapshot of", "unmounted ", "is released"]);
    assert!(mounts(&lab.dir).is_empty());
    clean_up(&lab);
}

#[test]
fn one_at_its_time_that_is_under_way_is_ended_before_the_unmount() {
    let every = r#"snapshot: { every: 3600 }, release: ["interrupted"]"#;
    let Some((lab, _loops)) = lab(1) else { return };
    lab.fault(Fault::every("EC2:CreateSnapshot", FaultKind::Hang(60_000)));
    let config = text(&x(1, &format!("{MOUNT}, {every}"))).replace("printf last |", "true ||");
    let running = started(&lab, &config, How::default().rate(2));
    lab.until("it is asked for", || lab.count("CreateSnapshot") == 1);
    lab.server.world().notice(&lab.me, "terminate", 120);
    let end = running.wait(&lab);
    end.ends(0, &["unmounted ", "is released"]);
    // Asked to stop, it does not ask again.
    assert_eq!(lab.count("CreateSnapshot"), 1, "{end}");
    clean_up(&lab);
}

#[test]
fn what_somebody_else_has_frozen_stays_so() {
    let only = r#"snapshot: { on: ["stopping"] }"#;
    let Some((lab, _loops, running)) = running(only, How::default()) else { return };
    let point = data(&lab);
    let point = point.to_str().unwrap();
    assert!(run("fsfreeze", &["--freeze", point]).is_some());
    running.signal("TERM");
    let end = running.wait(&lab);
    let child = writer(&data(&lab));
    lab.until("the write waits", || stands_still(&child));
    assert!(run("fsfreeze", &["--unfreeze", point]).is_some(), "{end}");
    until_it_has_written(&lab, child);
    end.ends(0, &["is not frozen while a snapshot is made", "Device or resource busy", "is begun (stopping)"]);
    clean_up(&lab);
}

#[test]
fn a_freeze_that_cannot_be_is_said_and_the_snapshot_made() {
    let Some((lab, _loops)) = lab(1) else { return };
    let bin = lab.dir.join("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join("fsfreeze"), "#!/bin/sh\necho no such thing >&2; exit 1\n").unwrap();
    assert!(Command::new("chmod").arg("755").arg(bin.join("fsfreeze")).status().unwrap().success());
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let config = text(&x(1, &format!("{MOUNT}, {ON}"))).replace("printf last |", "true ||");
    let running = started(&lab, &config, How::default().env("PATH", &path));
    fs::write(data(&lab).join("file"), "last words").unwrap();
    lab.server.world().notice(&lab.me, "terminate", 120);
    let end = running.wait(&lab);
    end.ends(0, &["is not frozen while a snapshot is made", "no such thing", "is begun (interrupted)", "is released"]);
    clean_up(&lab);
}

#[test]
fn what_we_write_to_ourselves_is_not_frozen() {
    let lab = real_lab();
    let Some(disk) = Loop::ext4(&lab, "disk1", 4) else { return };
    lab.volume(VolumeSpec { backing: Some(disk.device.clone()), ..VolumeSpec::default().id(&id(1)) });
    let point = lab.dir.join("mnt");
    assert!(Command::new("mount").arg(&disk.device).arg(&point).status().unwrap().success());
    let log = point.join("log");
    let config = text(&x(1, r#"snapshot: { on: ["stopping"] }"#)).replace("printf last |", "true ||");
    let mut child = lab.command(&config, &How::default(), &log).spawn().unwrap();
    let said = |words: &str| fs::read_to_string(&log).unwrap_or_default().contains(words);
    lab.until("it stands", || said("watching for interruptions"));
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    lab.until("it ends", || child.try_wait().unwrap().is_some());
    assert!(said("ec2fleetd's own files or log are on it"), "{}", fs::read_to_string(&log).unwrap());
    assert!(said("is begun (stopping)"));
    let _ = std::io::stdout().flush();
    assert!(Path::new(&log).exists());
}

//! What is on a copy: the data, on real disks; and how a person sees how far it is.

use std::fs;
use std::process::Command;

use crate::disks::{NOTE, config, directive, id};
use crate::fakeaws::{SnapshotSpec, VolumeSpec};
use crate::lab::{Lab, once};
use crate::loops::{Loop, real_lab};
use crate::mounts::{data, unmount};
use crate::volumes_move::{good, lab};

fn mounted(source: &str, more: &str) -> String {
    let rest =
        format!(r#""pool-name": "p", mount: {{ path: "/data", format: "if-blank" }}, create: {{ Size: 10 }}{more}"#);
    config(&directive(source, "/dev/xvdf", &rest, NOTE))
}

#[test]
fn what_was_on_the_volume_is_on_its_copy() {
    let lab = real_lab();
    let (Some(old), Some(new)) = (Loop::ext4(&lab, "old", 16), Loop::blank(&lab, "new", 16)) else { return };
    let point = lab.dir.join("mnt");
    let mount = |what: &std::path::Path| {
        assert!(Command::new("mount").arg(what).arg(&point).status().unwrap().success());
    };
    mount(&old.device);
    fs::write(point.join("world"), "last write").unwrap();
    assert!(Command::new("umount").arg(&point).status().unwrap().success());
    let spec = VolumeSpec::pool("d", "p").id(&id(1)).zone("eu-west-1b");
    lab.volume(VolumeSpec { backing: Some(old.device.clone()), ..spec });
    lab.server.world().spare_disks.push(new.device.clone());
    let run = lab.run(&mounted("pmc", ""), once().rate(20));
    run.ends(0, &["is mounted at /data (ext4)", "is superseded by"]);
    assert_eq!(fs::read_to_string(data(&lab).join("world")).unwrap(), "last write", "{run}");
    unmount(&lab);
}

#[test]
fn a_copy_that_is_blank_is_not_formatted_without_consent() {
    for source in ["ps", "pm"] {
        let lab = real_lab();
        let Some(disk) = Loop::blank(&lab, "disk", 16) else { return };
        lab.server.world().add_snapshot(SnapshotSpec::pool("d", "p"));
        // The consent of a volume is not that of its copy.
        let spec = VolumeSpec::pool("d", "p").id(&id(1)).zone("eu-west-1b").tag("user:ec2fd.format", "if-blank");
        lab.volume(spec);
        lab.server.world().spare_disks.push(disk.device.clone());
        let run = lab.run(&mounted(source, ""), once().rate(20));
        run.ends(1, &["cannot format vol-", "give it the tag user:ec2fd.format = if-blank"]);
        assert!(disk.is_blank(), "{run}");
        lab.until("the end of what is deleted", || lab.created().is_empty());
        assert_eq!(lab.tag_keys(&id(1)), ["domain", "format", "pool-name"], "{run}");
    }
}

/// Runs the daemon with a terminal as its standard error; gives what is on it.
fn on_a_terminal(lab: &Lab, text: &str) -> String {
    let command = lab.command(text, &once().rate(20), &lab.dir.join("log"));
    let quoted = |s: &std::ffi::OsStr| format!("'{}'", s.display());
    let line = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect::<Vec<_>>();
    let seen = lab.dir.join("terminal");
    let mut script = Command::new("script");
    script.args(["-qfec", &line.join(" ")]).arg(&seen).current_dir(&lab.dir).env_clear();
    script.envs(command.get_envs().filter_map(|(k, v)| Some((k, v?)))).env("TERM", "xterm").env("SHELL", "/bin/sh");
    let out = script.stdin(std::process::Stdio::null()).output().unwrap();
    let text = fs::read_to_string(seen).unwrap();
    assert!(out.status.success(), "{text}");
    text
}

#[test]
fn on_a_terminal_one_line_is_written_anew() {
    let lab = lab();
    lab.knobs(|k| k.snapshot_ms = 900);
    let text = on_a_terminal(&lab, &good());
    let bars: Vec<&str> =
        text.split("\r\x1b[K").filter(|t| t.starts_with('[') && t.contains(" % waiting for")).collect();
    assert!(bars.len() >= 3, "{text:?}");
    // The line is begun anew, not ended, and what is logged stands above it.
    assert!(bars.iter().all(|b| b.chars().count() <= 79 && !b.contains('\n')), "{bars:?}");
    assert!(!text.contains("info  [d] domains.\"d\".attach-volume[0]: waiting for the snapshot"), "{text:?}");
    assert!(text.contains("is completed") && text.contains("ready: d started"), "{text:?}");
    // Where it is no terminal there are plain lines only.
    let lab = crate::volumes_move::lab();
    let run = lab.run(&good(), once().rate(20));
    run.ends(0, &["info  [d] domains.\"d\".attach-volume[0]: waiting for the snapshot"]);
    assert!(!run.log.contains('\r'), "{run}");
}

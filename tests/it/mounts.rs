//! `mount`: real file systems on loop devices, and what is never formatted.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use crate::disks::{config, directive, id, timed};
use crate::fakeaws::{SnapshotSpec, VolumeSpec};
use crate::lab::{How, Lab, once};
use crate::loops::{Loop, lab, mounts, real_lab, run};

/// `open(2)`: of a block device, alone.
const O_EXCL: i32 = 0o200;

/// Formats what is blank.
pub(crate) const FORMAT: &str = r#"format: "if-blank""#;
pub(crate) const NOTE: &str =
    "echo $1 $2 >> $LAB/seen; ls $LAB/root0/data >> $LAB/files; echo saved > $LAB/root0/data/file";

/// A directive of volume 1 that is mounted at `/data`.
pub(crate) fn x(mount: &str) -> String {
    directive("x", "/dev/xvdf", &format!(r#""volume-id": "{}", mount: {{ path: "/data", {mount} }}"#, id(1)), NOTE)
}

/// Volume 1 on a disk, with a tag of consent or not.
pub(crate) fn with_disk(disk: impl FnOnce(&Lab) -> Option<Loop>, consent: bool) -> Option<(Lab, Loop)> {
    let lab = real_lab();
    let disk = disk(&lab)?;
    let mut spec = VolumeSpec { backing: Some(disk.device.clone()), ..VolumeSpec::default().id(&id(1)) };
    if consent {
        spec = spec.tag("user:ec2fd.format", "if-blank");
    }
    lab.volume(spec);
    Some((lab, disk))
}

/// A disk of 32 MiB.
pub(crate) fn blank(lab: &Lab) -> Option<Loop> {
    Loop::blank(lab, "disk", 32)
}

/// The mount point.
pub(crate) fn data(lab: &Lab) -> PathBuf {
    lab.root(&lab.me).join("data")
}

/// Unmounts and gives the mount point back to the test, which must be able to remove it.
pub(crate) fn unmount(lab: &Lab) {
    for point in mounts(&lab.dir).iter().rev() {
        assert!(Command::new("umount").arg(point).status().unwrap().success());
    }
    if data(lab).exists() {
        let _ = Command::new("chattr").arg("-i").arg(data(lab)).status();
    }
}

/// A tool of this name that is found before the real one.
pub(crate) fn tool(lab: &Lab, name: &str, script: &str) -> How {
    let bin = lab.dir.join("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    once().env("PATH", &format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()))
}

/// Ends what a [`tool`] of the test has begun and turned into, whose number it has left.
pub(crate) fn end_tool(lab: &Lab) {
    let pid = fs::read_to_string(lab.dir.join("tool-pid")).unwrap();
    let _ = Command::new("kill").args(["-KILL", pid.trim()]).status();
    lab.until("the end of the tool", || !PathBuf::from(format!("/proc/{}/fd", pid.trim())).join("0").exists());
}

#[test]
fn a_file_system_is_mounted_before_the_commands_and_left_alone_by_the_next_run() {
    let Some((lab, _loops)) = lab(1) else { return };
    let mount = r#"options: "noatime,commit=7", owner: "1234", group: 4321, mode: "0750""#;
    let saw = "echo {mount_path} {fstype}";
    let script = format!("{NOTE}; {} >> $LAB/macros", saw.replace("{mount_path}", "M").replace("{fstype}", "T"));
    let text = config(&x(mount).replace(NOTE, &script)).replace("echo M T", "echo {mount_path} {fstype}");
    let run = lab.run(&text, once());
    run.ends(0, &["is mounted at /data (ext4)"]);
    assert_eq!(lab.lines("macros"), [format!("{} ext4", data(&lab).display())], "{run}");
    let meta = data(&lab).metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1234, 4321, 0o750), "{run}");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|l| l.contains(data(&lab).to_str().unwrap())).unwrap();
    assert!(line.contains("noatime") && line.contains("commit=7"), "{line}");
    let run = lab.run(&text, once());
    run.ends(0, &["is mounted at /data already"]);
    assert_eq!(mounts(&lab.dir).len(), 1, "{run}");
    assert!(lab.lines("files").contains(&"file".to_owned()), "{run}");
    unmount(&lab);
}

#[test]
fn a_blank_disk_is_formatted_only_with_consent_and_only_once() {
    let Some((lab, disk)) = with_disk(blank, false) else { return };
    for (mount, why) in [("", "mount.format is never"), (FORMAT, "give it the tag user:ec2fd.format = if-blank")] {
        let run = lab.run(&config(&x(mount)), once());
        run.ends(1, &["it is blank", why].map(|w| if w == "it is blank" && mount == FORMAT { why } else { w }));
        assert!(disk.is_blank() && mounts(&lab.dir).is_empty(), "{run}");
        lab.nothing_left(&run);
    }
    let consent = ("user:ec2fd.format".to_owned(), "if-blank".to_owned());
    lab.server.world().volumes.get_mut(&id(1)).unwrap().tags.extend([consent]);
    let text = config(&x(&format!(r#"{FORMAT}, label: "world""#)));
    // The tag is off before the first byte is written: as the tool itself sees it.
    lab.run(&text, once()).ends(0, &["is blank: making a file system (ext4) on it", "is mounted at /data"]);
    assert_eq!(lab.tag(&id(1), "format"), "");
    let label = run("e2label", &[disk.device.to_str().unwrap()]);
    assert_eq!(label.as_deref(), Some("world"));
    unmount(&lab);
    lab.server.reset_calls();
    // A second run finds it attached and mounts it; nothing is formatted again.
    let run = lab.run(&text, once());
    run.ends(0, &["is mounted at /data"]);
    assert!(!run.log.contains("making a file system"), "{run}");
    assert_eq!(lab.lines("files"), ["lost+found", "file", "lost+found"], "{run}");
    unmount(&lab);
}

#[test]
fn a_tag_that_cannot_be_taken_off_is_no_consent() {
    let Some((lab, disk)) = with_disk(blank, true) else { return };
    lab.server.world().deny("EC2:DeleteTags");
    let run = lab.run(&config(&x(FORMAT)), once());
    run.ends(1, &["remove user:ec2fd.format"]);
    assert!(disk.is_blank(), "{run}");
}

#[test]
fn what_holds_anything_is_never_formatted() {
    let cases: [(&str, usize, &[u8]); 3] = [
        ("it holds GPT", 512, b"EFI PART"),
        ("it holds data of an unknown kind", (32 << 20) - 1, &[1]),
        ("it holds LUKS", 0, b"LUKS\xba\xbe"),
    ];
    for (why, at, there) in cases {
        let Some((lab, disk)) = with_disk(blank, true) else { return };
        let mut bytes = vec![0; 32 << 20];
        bytes[at..at + there.len()].copy_from_slice(there);
        fs::write(&disk.device, &bytes).unwrap();
        let run = lab.run(&config(&x(FORMAT)), once());
        run.ends(1, &[why]);
        assert!(fs::read(&disk.device).unwrap() == bytes, "{run}");
        assert_eq!(lab.tag(&id(1), "format"), "if-blank", "{run}");
    }
}

#[test]
fn a_created_volume_needs_only_the_config() {
    let lab = real_lab();
    let Some(disk) = blank(&lab) else { return };
    lab.knobs(|k| k.creating_ms = 1 << 40);
    let c = format!(r#"create: {{ Size: 1 }}, mount: {{ path: "/data", {FORMAT} }}"#);
    let run = lab.start(&config(&directive("c", "/dev/xvdf", &c, NOTE)), once());
    lab.until("a volume", || lab.created().len() == 1);
    {
        let mut w = lab.server.world();
        let v = w.volumes.values_mut().find(|v| v.by_api).unwrap();
        (v.backing, v.due) = (Some(disk.device.clone()), Some(0));
    }
    run.wait(&lab).ends(0, &["making a file system"]);
    unmount(&lab);
    // Of a snapshot it is somebody's data, and blank is odd.
    let lab = real_lab();
    let Some(disk) = blank(&lab) else { return };
    lab.knobs(|k| k.creating_ms = 1 << 40);
    let c = c.replace("Size: 1", r#"SnapshotId: "snap-0123456789abcdef0""#);
    lab.server.world().add_snapshot(SnapshotSpec::new(1).id("snap-0123456789abcdef0"));
    let run = lab.start(&config(&directive("c", "/dev/xvdf", &c, NOTE)), once());
    lab.until("a volume", || lab.created().len() == 1);
    {
        let mut w = lab.server.world();
        let v = w.volumes.values_mut().find(|v| v.by_api).unwrap();
        (v.backing, v.due) = (Some(disk.device.clone()), Some(0));
    }
    run.wait(&lab).ends(1, &["give it the tag"]);
    assert!(disk.is_blank());
}

#[test]
fn a_place_that_is_taken_and_a_disk_that_is_held_are_errors() {
    let Some((lab, _loops)) = lab(2) else { return };
    let run = lab.run(&config(&x("")), once());
    run.ends(0, &[]);
    let two = directive("x", "/dev/xvdg", &format!(r#""volume-id": "{}", mount: {{ path: "/data" }}"#, id(2)), "true");
    lab.run(&config(&two), once()).ends(1, &[&format!("cannot mount {} at /data", id(2)), "is mounted there"]);
    unmount(&lab);
    // Mounted by somebody else, elsewhere: the kernel lets nobody have it.
    let point = lab.dir.join("mnt");
    let device = lab.server.world().volumes[&id(2)].backing.clone().unwrap();
    assert!(Command::new("mount").arg(&device).arg(&point).status().unwrap().success());
    let run = lab.run(&config(&two), once());
    run.ends(3, &[&format!("is mounted at {} (ext4): unmount it there", point.display()), "stays attached"]);
    assert!(!run.log.contains("waiting 10 s"), "{run}");
    unmount(&lab);
    // Nobody has mounted it, and it is somebody's all the same.
    let held = File::options().read(true).custom_flags(O_EXCL).open(&device).unwrap();
    let run = lab.run(&config(&two), once().rate(10));
    run.ends(3, &["waiting 10 s for it", "somebody else has it (", &format!("process {} (", std::process::id())]);
    drop(held);
}

#[test]
fn a_volume_that_is_mounted_elsewhere_is_told_at_once() {
    let Some((lab, _loops)) = lab(1) else { return };
    lab.run(&config(&x("")), once()).ends(0, &["is mounted at /data"]);
    let moved = config(&x("").replace("/data\"", "/moved\""));
    let run = lab.run(&moved, once());
    run.ends(
        1,
        &["cannot mount vol-00000000000000001 at /moved: ", &format!("is mounted at {}", data(&lab).display())],
    );
    assert!(!run.log.contains("waiting 10 s") && mounts(&lab.dir) == [data(&lab)], "{run}");
    lab.has(&[(&id(1), "/dev/xvdf")], &run);
    unmount(&lab);
}

#[test]
fn a_mount_that_is_there_is_what_the_config_says() {
    let Some((lab, _loops)) = lab(1) else { return };
    let with = |options: &str| config(&x(&format!(r#"options: "{options}""#)));
    lab.run(&with("commit=7"), once()).ends(0, &["is mounted at /data"]);
    for (options, told) in [
        ("commit=7", ""),
        ("ro,noatime,commit=7", "with other options than the config has (it lacks ro, it lacks noatime)"),
        ("commit=9", "with other options than the config has (it has commit=7)"),
    ] {
        let run = lab.run(&with(options), once());
        run.ends(0, &["is mounted at /data already", told]);
        assert_eq!(run.log.contains("other options"), !told.is_empty(), "{run}");
    }
    // The kernel mounts all of ext as ext4.
    lab.run(&config(&x(r#"fstype: "ext3""#)), once()).ends(0, &["is mounted at /data already"]);
    let run = lab.run(&config(&x(r#"fstype: "xfs""#)), once());
    run.ends(1, &["cannot mount", "it is mounted there as ext4, and the config wants xfs"]);
    assert_eq!(mounts(&lab.dir), [data(&lab)], "{run}");
    unmount(&lab);
}

#[test]
fn a_failed_command_unmounts_and_detaches() {
    let Some((lab, _loops)) = lab(1) else { return };
    let run = lab.run(&config(&x("").replace(NOTE, "exit 5")), once());
    run.ends(1, &["exit code 5", "unmounted "]);
    assert!(mounts(&lab.dir).is_empty(), "{run}");
    lab.nothing_left(&run);
    unmount(&lab);
}

#[test]
fn a_file_system_grows_with_its_disk() {
    let Some((lab, _loops)) = lab(1) else { return };
    let how = tool(&lab, "resize2fs", "touch $LAB/grown");
    lab.run(&config(&x("")), how).ends(0, &["is mounted at /data"]);
    assert!(!lab.dir.join("grown").exists());
    unmount(&lab);
    for grow in [true, false] {
        let Some((lab, disk)) = with_disk(|lab| Loop::ext4(lab, "disk", 32), false) else { return };
        fs::File::options().write(true).open(&disk.file).unwrap().set_len(96 << 20).unwrap();
        assert!(run("losetup", &["--set-capacity", disk.device.to_str().unwrap()]).is_some());
        // The real one wants a capability that a container lacks; that it cannot be had is no failure.
        let how = tool(&lab, "resize2fs", "echo $1 >> $LAB/grown; exit 1");
        let run = lab.run(&config(&x(&format!("grow: {grow}"))), how);
        run.ends(0, &["is mounted at /data"]);
        assert_eq!(run.log.contains("cannot grow it (it is mounted as it was)"), grow, "{run}");
        let node = lab.root(&lab.me).join("dev/nvme1n1").display().to_string();
        assert_eq!(lab.lines("grown"), if grow { vec![node] } else { vec![] }, "{run}");
        unmount(&lab);
    }
}

#[test]
fn growing_that_hangs_takes_a_share_of_the_time_only() {
    let Some((lab, disk)) = with_disk(|lab| Loop::ext4(lab, "disk", 32), false) else { return };
    fs::File::options().write(true).open(&disk.file).unwrap().set_len(96 << 20).unwrap();
    assert!(run("losetup", &["--set-capacity", disk.device.to_str().unwrap()]).is_some());
    let how = tool(&lab, "resize2fs", "exec sleep 600").rate(10);
    let run = lab.run(&timed(120, &x("")), how);
    run.ends(0, &["cannot grow it (it is mounted as it was)", "ready: d started"]);
    assert_eq!((mounts(&lab.dir), lab.lines("files").len()), (vec![data(&lab)], 1), "{run}");
    unmount(&lab);
}

#[test]
fn what_it_holds_must_be_what_the_config_says() {
    let Some((lab, _loops)) = lab(1) else { return };
    lab.run(&config(&x(r#"fstype: "xfs""#)), once()).ends(1, &["it holds ext4, and the config wants xfs"]);
    lab.run(&config(&x(r#"options: "no-such-option""#)), once()).ends(1, &["cannot mount", "options"]);
    unmount(&lab);
}

#[test]
fn mistakes_in_the_config_are_named() {
    let lab = Lab::new();
    let mount = r#"path: "data", mode: 750, format: "always", fstype: "../sh", owner: -1, nope: 1"#;
    let text = config(&directive("x", "", &format!(r#""volume-id": "{}", mount: {{ {mount} }}"#, id(1)), "true"));
    let wanted = [
        "].mount.path: line 1, column 106: \"data\" is not an absolute path",
        "a string of octal digits, such as \"0750\", is wanted, found a whole number",
        "unknown word \"always\": valid are never, if-blank",
        "\"../sh\" is no file system",
        "is out of range",
        "unknown key: valid are path",
    ];
    lab.run(&text, once()).ends(2, &wanted);
    let both = config(&format!(
        "{}, {}",
        directive("x", "/dev/xvdf", &format!(r#""volume-id": "{}", mount: {{ path: "/data" }}"#, id(1)), "true"),
        directive("x", "/dev/xvdg", &format!(r#""volume-id": "{}", mount: {{ path: "/data" }}"#, id(2)), "true"),
    ));
    lab.run(&both, once()).ends(2, &["is where", "is mounted too"]);
}
